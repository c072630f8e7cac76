"""`keyturn demo`: see a rotation on this machine, and who could log in meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keyturn.errors import Misconfigured
from keyturn.local.database import Engine, database
from keyturn.local.demo_aftermath import FOLLOW_UP, TICKS, Aftermath, broken
from keyturn.local.demo_recording import ACCESS_KEY, Recording, is_good, method
from keyturn.model import Strategy

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

MOST_ROTATIONS = 9
"""With more, the prober is too slow for its many versions, and the page has too many rows."""

INTERRUPTED = 130
"""The exit code that shells give to Ctrl-C."""


class Cloud(Enum):
    """Whose store it is."""

    AWS = "aws"
    GCP = "gcp"


_Report = Callable[[str, str, int], None]
"""Told of which run it is, what happens next, and how many rotations are done."""


def demo(  # noqa: PLR0913, PLR0917  # the command line's options
    cloud: Annotated[Cloud, typer.Option(help="Whose store, and whose functions.")] = Cloud.AWS,
    engine: Annotated[Engine, typer.Option(help="Which database.")] = Engine.POSTGRES,
    strategy: Annotated[
        Strategy | None,
        typer.Option(
            help="Show only this one.",
            show_default="all that the database offers, and an IAM access key",
        ),
    ] = None,
    rotations: Annotated[
        int, typer.Option(min=1, max=MOST_ROTATIONS, help="How many in a row; of a key, one.")
    ] = 3,
    out: Annotated[Path, typer.Option(help="Where to write the page.")] = Path(
        "demo-out/index.html"
    ),
    template: Annotated[Path, typer.Option(help="The SAM template to deploy.")] = Path(
        "infra/template.yaml"
    ),
) -> None:
    """Rotate a database password while an application keeps logging in; show what happened.

    On AWS an access key of an IAM user, too. The last act follows one rotation of PostgreSQL to its
    end: a copy, a cluster that picks the new password up, the proof, the old login's death, an
    alert; on Google Cloud an application that is told. The database and the functions are real, the
    cloud and the cluster are simulated on this machine. Fails if
    a rotation does not finish, if anything but the strategy single-user refuses a single login, or
    if the old login does not die, or too early.
    """
    from rich.console import Console

    from keyturn.local import require

    require()
    console = Console(highlight=False, markup=False, emoji=False)
    file = _place(out)
    shown = _on_google if cloud is Cloud.GCP else partial(_on_aws, template)
    with _stopped_by_signals(console), _progress(console, rotations) as report:
        recordings, aftermath = shown(engine, strategy, rotations, report)
    _write_page(file, recordings, aftermath)
    _show(console, recordings, aftermath, file)
    if not all(map(is_good, recordings)) or (aftermath is not None and broken(aftermath)):
        raise typer.Exit(1)


_Shown = tuple[list[Recording], Aftermath | None]


def _on_aws(
    template: Path, engine: Engine, strategy: Strategy | None, rotations: int, report: _Report
) -> _Shown:
    recordings = [
        _record(engine, each, template, rotations, report)
        for each in ([strategy] if strategy else database(engine).STRATEGIES)
    ]
    if strategy is None:
        recordings.append(_record_key(template, report))
    has_last_act = strategy is None and engine is Engine.POSTGRES
    return recordings, _record_follow_up(template, report) if has_last_act else None


def _on_google(
    engine: Engine, strategy: Strategy | None, rotations: int, report: _Report
) -> _Shown:
    # Else gRPC tells on standard error of connections that end.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from keyturn.local.demo_google import Stage

    with Stage(report) as stage:
        recordings = [
            stage.record(engine, each, rotations)
            for each in ([strategy] if strategy else database(engine).STRATEGIES)
        ]
        has_last_act = strategy is None and engine is Engine.POSTGRES
        return recordings, stage.record_follow_up() if has_last_act else None


def _record(
    engine: Engine, strategy: Strategy, template: Path, rotations: int, report: _Report
) -> Recording:
    from keyturn.local.demo import record

    told = partial(report, strategy.value)
    return record(engine, strategy, template=template, rotations=rotations, report=told)


def _record_key(template: Path, report: _Report) -> Recording:
    from keyturn.local.demo import record_key

    return record_key(template=template, report=partial(report, ACCESS_KEY))


def _record_follow_up(template: Path, report: _Report) -> Aftermath:
    from keyturn.local.demo_follow_up import record_follow_up

    return record_follow_up(template=template, report=partial(report, FOLLOW_UP))


@contextlib.contextmanager
def _progress(console: Console, rotations: int) -> Iterator[_Report]:
    """Show what happens: moving in a terminal, line by line elsewhere."""
    if not console.is_terminal:
        yield lambda run, text, _: console.print(f"{run}: {text}")
        return
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    tasks: dict[str, TaskID] = {}
    with Progress(
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.fields[run]}", markup=False),
        BarColumn(bar_width=16),
        TextColumn("{task.description}", markup=False),
        console=console,
    ) as shown:

        def report(run: str, text: str, done: int) -> None:
            if run not in tasks:
                named = run.ljust(max(len(each.value) for each in Strategy))
                total = {ACCESS_KEY: 1, FOLLOW_UP: TICKS}.get(run, rotations)
                tasks[run] = shown.add_task(text, total=total, run=named)
            shown.update(tasks[run], description=text, completed=done)

        yield report


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def _stopped_by_signals(console: Console) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the block, wherever it is, and clean up behind it."""
    before = {number: signal.signal(number, _interrupt) for number in _SIGNALS}
    try:
        yield
    except KeyboardInterrupt:
        console.print("Stopped. Nothing is left.")
        raise typer.Exit(INTERRUPTED) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(*_: object) -> None:
    # A second Ctrl-C must not interrupt the cleaning up.
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _place(out: Path) -> Path:
    """Make room for the page now: nobody should learn at the end that it cannot be written."""
    file = out / "index.html" if out.is_dir() else out
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_writable(file, error) from None
    return file


def _write_page(file: Path, recordings: Sequence[Recording], aftermath: Aftermath | None) -> None:
    from keyturn.local.demo_page import page

    try:
        file.write_text(page(recordings, datetime.now(UTC), aftermath), encoding="utf-8")
    except OSError as error:
        raise _not_writable(file, error) from None


def _not_writable(file: Path, error: OSError) -> Misconfigured:
    return Misconfigured(f"{file}: {error.strerror}", remedy="Name another file with --out.")


def _show(
    console: Console, recordings: Sequence[Recording], aftermath: Aftermath | None, file: Path
) -> None:
    from keyturn.local.demo_terminal import aftermath_timeline, legend, summary, timeline

    console.print(summary(recordings))
    for recording in recordings:
        console.print(timeline(recording, console.width))
        console.print()
    console.print(legend(recordings[0].cloud))
    console.print()
    if aftermath is not None:
        console.print(aftermath_timeline(aftermath, console.width))
        console.print()
    console.print(method(recordings[0].cloud), style="dim")
    console.print()
    console.print(f"The same as a picture: {file}", soft_wrap=True)
