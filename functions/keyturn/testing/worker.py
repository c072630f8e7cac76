"""A process that performs rotations, each in a fork of its own, so that it can be killed.

    python -m keyturn.testing.worker FUNCTION_ARN

    input    begin, a rotation's `bench.Limits`; step, its event, for each; end
    output   ready; the fork's process id; per step `ok`, or the error; `ended`, or `killed`

One line each, what follows the word is JSON. The environment says where the cloud is, as for the
deployed function; what runs is what the deployed function runs, without its telemetry. The steps of
a rotation run in one process, as in a warm container; what follows a kill runs in a cold one.
"""

from __future__ import annotations

import gc
import importlib
import io
import json
import os
import pkgutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from botocore.exceptions import ClientError

from keyturn import boundary, targets, wiring
from keyturn.errors import KeyturnError
from keyturn.model import Credential, Sensitive, Surroundings
from keyturn.ports import PasswordEngine

_INPUT = io.FileIO(0, closefd=False)


def main() -> None:
    """Serve until standard input ends."""
    _warm_up()
    _say("ready")
    # Any other line, or the rest of one, is for a fork that was killed.
    for limits in _orders("begin"):
        pid = os.fork()
        if pid == 0:
            _serve(limits)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        _say("ended" if os.WIFEXITED(status) else "killed")


def _serve(limits: dict[str, Any]) -> None:
    """Perform one rotation's steps."""
    boundary.quiet_sdk_loggers()
    wiring.TRIES, wiring.READ_TIMEOUT_S = limits["tries"], limits["read_timeout_s"]
    _say(str(os.getpid()))
    for event in _orders("step", until="end"):
        _say(_perform(event, limits["remaining_s"]))


def _orders(wanted: str, until: str = "") -> Iterator[dict[str, Any]]:
    """Yield what follows each *wanted* word, until that other word or the end of the input."""
    # Without a buffer: what is read ahead by one process is lost to the other.
    for line in iter(_INPUT.readline, b""):
        word, _, told = line.decode().strip().partition(" ")
        if until and word == until:
            return
        if word == wanted:
            yield json.loads(told)


def _warm_up() -> None:
    """Go once through what a step goes through, as a warm container has: forks inherit it."""
    import boto3

    with suppress(ClientError):
        boto3.client("secretsmanager").describe_secret(SecretId="there is none")
    for found in pkgutil.iter_modules(targets.__path__):
        module = importlib.import_module(f"{targets.__name__}.{found.name}")
        if hasattr(module, "engine"):
            _log_in_nowhere(module.engine(Surroundings(lambda: 2.0)))
    gc.collect()
    gc.freeze()  # else each fork copies what its first collection touches


def _log_in_nowhere(engine: PasswordEngine) -> None:
    """Let an engine import its driver: some do it on first use."""
    nowhere: dict[str, object] = {"host": "127.0.0.1", "port": 1, "ssl": False}
    with suppress(KeyturnError), engine.login(Credential("warm", Sensitive("up"), nowhere)):
        pass


def _perform(event: dict[str, object], remaining_s: float) -> str:
    try:
        asked = boundary.rotation_event(event)
        wiring.rotation(
            asked,
            environment={k: v for k, v in os.environ.items() if k.startswith("KEYTURN_")},
            function_arn=sys.argv[1],
            remaining_s=lambda: remaining_s,
        ).perform(asked.step)
    except KeyturnError as error:
        return f"{type(error).__name__}: {error}"
    return "ok"


def _say(text: str) -> None:
    sys.stdout.write(text.replace("\n", " ") + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
