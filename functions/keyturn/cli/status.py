"""`keyturn status`: what has followed the last rotation of a secret, and what waits for what."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from keyturn.follow_up import Line, Report, State


def status(
    secret: Annotated[str, typer.Argument(help="The secret's name, or its full one.")],
    file: Annotated[Path, typer.Option("--plan", help="The plan.")] = Path("keyturn.yaml"),
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Answer in JSON.")] = False,
) -> None:
    """Show each destination, each consumer and the old credential. Changes nothing.

    Uses your own credentials for the cloud, with which it reads the current version. A secret is
    on Google Cloud if it is called `projects/..`, or KEYTURN_PROJECT is set. Ends with 1 if
    something waits or has failed.
    """
    from keyturn import boundary, wiring, wiring_google

    boundary.quiet_sdk_loggers()
    ours = {key: value for key, value in os.environ.items() if key.startswith("KEYTURN_")}
    if wiring_google.is_of_google(secret, ours):
        report = wiring_google.status(secret, plan_file=file, environment=ours)
    else:
        report = wiring.status(secret, plan_file=file, environment=ours)
    if as_json:
        typer.echo(json.dumps(_members(secret, report)))
    else:
        _show(secret, report)
    if any(line.state in _OPEN for line in report.lines):
        raise typer.Exit(1)


_OPEN = (State.WAITING, State.FAILED)


def _members(secret: str, report: Report) -> dict[str, object]:
    since = report.since.isoformat(timespec="seconds")
    lines = [
        {
            "part": line.part.value,
            "name": line.name,
            "version_id": line.version_id,
            "state": line.state.value,
            "waits_since": since if line.state in _OPEN else None,
            "waits_for": line.waits_for,
            "remedy": line.remedy,
        }
        for line in report.lines
    ]
    return {"secret": secret, "version_id": report.version_id, "since": since, "lines": lines}


def _show(secret: str, report: Report) -> None:
    from rich.console import Console
    from rich.table import Table

    since = f"{report.since:%Y-%m-%d %H:%M} UTC"
    title = f"{secret}: version {report.version_id}, current since {since} at the latest"
    table = Table(title=title, title_justify="left")
    for column in ("what", "version", "state", "waits for"):
        table.add_column(column, overflow="fold")
    for line in report.lines:
        waits_for = f"{line.waits_for} {line.remedy}".strip()
        if line.state in _OPEN:
            waits_for = f"{waits_for} (since {since})"
        table.add_row(_what(line), line.version_id or "", line.state.value, waits_for)
    Console(highlight=False, markup=False, emoji=False).print(table)


def _what(line: Line) -> str:
    return f"{line.part.value} {line.name}".strip()
