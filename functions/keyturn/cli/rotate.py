"""`keyturn rotate`: have a secret rotated now, and wait until it is."""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Annotated

import typer

from keyturn.errors import NotYetAccepted
from keyturn.model import RotationId

PAUSE_S = 1.0
"""Between two looks. DescribeSecret has quotas, and a step takes a second or so."""


def rotate(
    secret: Annotated[str, typer.Argument(help="The secret's name, or its full one.")],
    timeout: Annotated[
        int, typer.Option(min=1, help="How long to wait, in seconds.", metavar="SECONDS")
    ] = 300,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Answer in JSON.")] = False,
) -> None:
    """Have a secret rotated, and wait until the new version is current.

    Uses your own credentials for the cloud; the secret's rotation function does the work. A secret
    is on Google Cloud if it is called `projects/..`, or KEYTURN_PROJECT is set: then what Secret
    Manager would say is published on the secret's own topic.
    """
    from keyturn import boundary

    boundary.quiet_sdk_loggers()
    started = time.monotonic()
    with _progress(secret, as_json=as_json) as report:
        rotation_id, is_current = _asked(secret)
        while not is_current():
            elapsed_s = time.monotonic() - started
            if elapsed_s > timeout:
                raise NotYetAccepted(
                    f"{secret}: version {rotation_id} is not current after {timeout} s",
                    remedy="Read `reason` and `remedy` in the log of its rotation function.",
                )
            report(f"{secret}: version {rotation_id} is pending, {elapsed_s:.0f} s")
            time.sleep(PAUSE_S)
    facts = {
        "secret": secret,
        "version_id": rotation_id,
        "seconds": round(time.monotonic() - started, 1),
        "outcome": "done",
    }
    said = f"{secret}: version {rotation_id} is current, after {facts['seconds']} s"
    typer.echo(json.dumps(facts) if as_json else said)


def _asked(secret: str) -> tuple[RotationId, Callable[[], bool]]:
    """Ask, and return the rotation's id, and what tells whether it is done."""
    from keyturn import wiring, wiring_google

    ours = {key: value for key, value in os.environ.items() if key.startswith("KEYTURN_")}
    if wiring_google.is_of_google(secret, ours):
        return wiring_google.ask_to_rotate(secret, ours)
    rotation_id = RotationId(str(uuid.uuid4()))
    return rotation_id, wiring.ask_to_rotate(secret, rotation_id)


@contextlib.contextmanager
def _progress(secret: str, *, as_json: bool) -> Iterator[Callable[[str], None]]:
    """Show what happens: moving in a terminal, and nothing but the result elsewhere."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    if as_json or not console.is_terminal:
        yield lambda _: None
        return
    with console.status(f"{secret}: asking for a rotation") as status:
        yield status.update
