"""`keyturn plan`: look at a plan before it is deployed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Check a plan (keyturn.yaml).", no_args_is_help=True)


@app.command()
def check(file: Annotated[Path, typer.Argument(help="The plan.")] = Path("keyturn.yaml")) -> None:
    """Read a plan as the functions do, and say what is wrong with it."""
    from keyturn.plan import load

    load(file)
    typer.echo(f"{file} is a valid plan.")


@app.command()
def schema() -> None:
    """Print the plan's JSON Schema, for editors."""
    from keyturn.plan import schema as plan_schema

    typer.echo(json.dumps(plan_schema(), indent=2))
