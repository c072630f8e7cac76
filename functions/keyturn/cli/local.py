"""`keyturn local`: the whole loop on this machine."""

from __future__ import annotations

import contextlib
import shlex
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keyturn.local.database import Engine

if TYPE_CHECKING:
    from keyturn.local.cloud import LocalCloud

app = typer.Typer(help="Run it all on this machine: no account, no Docker.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Keep `up` a command of its own while it is the only one."""


@app.command()
def up(
    template: Annotated[Path, typer.Option(help="The SAM template to deploy.")] = Path(
        "infra/template.yaml"
    ),
    engine: Annotated[Engine, typer.Option(help="Which database.")] = Engine.POSTGRES,
    port: Annotated[int, typer.Option(help="The local AWS's port; 0 takes a free one.")] = 0,
    plan: Annotated[Path | None, typer.Option(help="A keyturn.yaml to deploy with it.")] = None,
) -> None:
    """Start a database and AWS, deploy the template, and wait for Ctrl-C."""
    from rich.console import Console

    from keyturn.local import require

    require()
    from keyturn.local.aws import LocalAws
    from keyturn.local.cloud import LocalCloud

    # Without emoji: an ARN has a part that is called :secret:, and rich knows a picture for it.
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    with _stopped_by_signals(), contextlib.ExitStack() as undo:
        with console.status("Starting") as status:
            cloud = LocalCloud(
                template,
                engine=engine,
                aws=LocalAws(port=port),
                plan=plan,
                progress=status.update,
            )
            undo.callback(cloud.stop)
            # A second Ctrl-C must not interrupt the cleaning up.
            undo.callback(_ignore_signals)
            cloud.start()
        console.print(_welcome(cloud))
        threading.Event().wait()
    console.print("Stopped. Nothing is left.")


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the block, wherever it is, and be no error."""
    before = {number: signal.signal(number, _interrupt) for number in _SIGNALS}
    try:
        yield
    except KeyboardInterrupt:
        return
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _ignore_signals() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _welcome(cloud: LocalCloud) -> str:
    """Say what runs, and what to try."""
    secret = shlex.quote(cloud.secret_arn)
    group = cloud.stack.outputs.get("LogGroupName", "/aws/lambda/...")
    return f"""\
AWS          {cloud.aws.endpoint_url}
{cloud.database.NAME:<12} {cloud.database.server.host}:{cloud.database.server.port}
Secret       {cloud.secret_arn}

In another terminal:

{_exports(cloud.aws.environment())}

# rotate it, and see which version is current
aws secretsmanager rotate-secret --secret-id {secret}
aws secretsmanager describe-secret --secret-id {secret}

# what the application reads: this shows a password
aws secretsmanager get-secret-value --secret-id {secret} --version-stage AWSCURRENT

# what the function wrote
aws logs filter-log-events --log-group-name {shlex.quote(group)} --query 'events[].message'

Ready. Press Ctrl-C to stop.
"""


def _exports(environment: Mapping[str, str]) -> str:
    return "\n".join(f"export {k}={shlex.quote(v)}" for k, v in environment.items())
