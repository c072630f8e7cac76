"""The command line: `keyturn demo`, `generate`, `local up`, `open`, `plan ...` and so on.

Every command is thin: it calls the library and shows what came back. What a command needs is
imported when it runs, so that `keyturn --help` needs no extra. Nothing secret is printed.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from keyturn import __version__
from keyturn.cli import demo, generate, local, plan, rotate, seal, targets
from keyturn.errors import KeyturnError

app = typer.Typer(
    name="keyturn",
    help="Rotate and generate secrets, and see each change through.",
    no_args_is_help=True,
    # Locals may hold what a secret was read into.
    pretty_exceptions_show_locals=False,
)
app.command()(demo.demo)
app.command()(generate.generate)
app.command("open")(seal.open_)
app.command()(rotate.rotate)
app.command()(seal.seal)
app.command()(targets.targets)
app.add_typer(local.app, name="local")
app.add_typer(plan.app, name="plan")


def _show_version(*, version: bool) -> None:
    if version:
        typer.echo(f"keyturn {__version__}")
        raise typer.Exit


@app.callback()
def options(
    *,
    version: Annotated[
        bool, typer.Option(callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Take what goes before the command."""
    del version  # its callback has done all


def main() -> None:
    """Run the command line. An error of ours is two lines, not a traceback."""
    try:
        app()
    except KeyturnError as error:
        typer.secho(f"Error: {error}", err=True, fg=typer.colors.RED)
        typer.secho(error.remedy, err=True)
        sys.exit(1)
