"""`keyturn targets`: what can be rotated, and how."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from keyturn.model import Strategy

if TYPE_CHECKING:
    from keyturn.wiring import TargetModule

STRATEGIES = (Strategy.SINGLE_USER, Strategy.DUAL_PASSWORD, Strategy.ALTERNATING_USERS)


def targets(*, markdown: Annotated[bool, typer.Option(help="As in the README.")] = False) -> None:
    """List what can be rotated, under which `engine`, with which strategies."""
    from rich.console import Console
    from rich.table import Table

    from keyturn.wiring import target_modules

    header = ["target", "`engine` in the secret", *STRATEGIES, "minted keys"]
    rows = sorted(map(_row, target_modules()))
    if markdown:
        typer.echo(_markdown([header, ["---"] * len(header), *rows]))
        return
    table = Table(*header)
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, markup=False, emoji=False).print(table)


def _row(module: TargetModule) -> list[str]:
    engines = ", ".join(f"`{engine}`" for engine in module.ENGINES)
    offered = ["yes" if strategy in module.STRATEGIES else "" for strategy in STRATEGIES]
    return [module.TITLE, engines, *offered, "yes" if hasattr(module, "issuer") else ""]


def _markdown(rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |".replace("  ", " ") for row in rows)
