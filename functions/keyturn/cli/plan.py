"""`keyturn plan`: look at a plan before it is deployed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from keyturn.model import Strategy

app = typer.Typer(help="Check and explain a plan (keyturn.yaml).", no_args_is_help=True)


@app.command()
def check(file: Annotated[Path, typer.Argument(help="The plan.")] = Path("keyturn.yaml")) -> None:
    """Read a plan as the functions do, and say what is wrong with it."""
    from keyturn.wiring import read_plan

    read_plan(file)
    typer.echo(f"{file} is a valid plan.")


@app.command()
def schema() -> None:
    """Print the plan's JSON Schema, for editors."""
    from keyturn.plan import schema as plan_schema
    from keyturn.wiring import plan_kinds

    typer.echo(json.dumps(plan_schema(plan_kinds()), indent=2))


@app.command()
def explain(
    secret: Annotated[str, typer.Argument(help="The secret's name or ARN.")],
    file: Annotated[
        Path | None, typer.Option("--plan", help="The plan.", show_default="keyturn.yaml, if there")
    ] = None,
) -> None:
    """Ask the target how a secret would be rotated, and why not otherwise. Writes nothing.

    Uses your own AWS credentials, and connects to the target from here.
    """
    from rich.console import Console
    from rich.table import Table

    from keyturn.wiring import explain as explained

    usual = Path("keyturn.yaml")
    plan_file = file or (usual if usual.is_file() else None)
    ours = {key: value for key, value in os.environ.items() if key.startswith("KEYTURN_")}
    found = explained(secret, plan_file=plan_file, environment=ours)
    login = f"{found.user} at {found.place}" if found.user else "no login"
    table = Table(title=f"{secret}: {login}", title_justify="left")
    for column in ("strategy", "", "why"):
        table.add_column(column, overflow="fold")
    for strategy, refusal in found.refusals.items():
        chosen = "chosen" if strategy is found.strategy else ""
        why = f"{refusal}. {refusal.remedy}" if refusal else _offer(found.strategy)
        table.add_row(strategy.value, chosen, why)
    console = Console(highlight=False, markup=False, emoji=False)
    console.print(table)
    by = f", by {found.authority}" if found.authority else ""
    console.print(f"asked for: {found.asked.value}{by}", soft_wrap=True)
    if found.refusals[found.strategy] is not None:
        raise typer.Exit(1)


def _offer(strategy: Strategy) -> str:
    is_generated = strategy is Strategy.GENERATE
    return "the value can be made" if is_generated else "the target offers it"
