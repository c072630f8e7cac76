"""A process that performs rotations, each in a fork of its own, so that it can be killed.

    python -m keyturn.testing.worker ARN        a Lambda function: performs a step
    python -m keyturn.testing.worker google     a Cloud Function: performs a whole rotation

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
import math
import os
import pkgutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from typing import Any, Protocol

from botocore.exceptions import ClientError

from keyturn import boundary, targets, wiring
from keyturn.errors import KeyturnError
from keyturn.model import Credential, RotationId, SecretRef, Sensitive, Step, Surroundings
from keyturn.ports import PasswordEngine

HASTE_S = 0.01
"""In place of a longer pause, where nobody else is waited for."""

_INPUT = io.FileIO(0, closefd=False)


class Function(Protocol):
    """What is deployed, without its telemetry."""

    def warm_up(self) -> None:
        """Import what a call needs. It is forked afterwards, so nothing may be connected."""
        ...

    def limit(self, limits: dict[str, Any]) -> None:
        """Be given no more than that."""
        ...

    def perform(self, event: dict[str, str]) -> None:
        """Do what an event asks for."""
        ...


class Lambda:
    """On AWS.

    Args:
        arn: The function's own.
    """

    def __init__(self, arn: str) -> None:
        self._arn = arn
        self._remaining_s = 0.0

    def warm_up(self) -> None:
        """See `Function.warm_up`. A client that was never used has no connection to share."""
        import boto3

        with suppress(ClientError):
            boto3.client("secretsmanager").describe_secret(SecretId="there is none")

    def limit(self, limits: dict[str, Any]) -> None:
        """See `Function.limit`."""
        wiring.TRIES, wiring.READ_TIMEOUT_S = limits["tries"], limits["read_timeout_s"]
        self._remaining_s = limits["remaining_s"]

    def perform(self, event: dict[str, str]) -> None:
        """See `Function.perform`: one step."""
        asked = boundary.rotation_event(event)
        rotation = wiring.rotation(
            asked,
            environment=_settings(),
            function_arn=self._arn,
            remaining_s=lambda: self._remaining_s,
        )
        rotation.perform(asked.step)


class CloudFunction:
    """On Google. Its store repeats calls by itself, as often as ever, but hardly waits before."""

    def __init__(self) -> None:
        self._timeout_s = 0

    def warm_up(self) -> None:
        """See `Function.warm_up`. gRPC must not be in use when it is forked."""
        import google.cloud.secretmanager_v1  # noqa: F401

        from keyturn import wiring_google  # noqa: F401

    def limit(self, limits: dict[str, Any]) -> None:
        """See `Function.limit`."""
        from keyturn.google.call import MARGIN_S
        from keyturn.stores import secret_manager, secret_manager_wire

        secret_manager_wire.CALL_TIMEOUT_S = limits["read_timeout_s"]
        pauses = secret_manager_wire.PAUSES_S.items()
        secret_manager_wire.PAUSES_S = {code: [HASTE_S] * len(waits) for code, waits in pauses}
        secret_manager.FENCE_PAUSE_S = HASTE_S
        self._timeout_s = math.ceil(limits["remaining_s"] + MARGIN_S)

    def perform(self, event: dict[str, str]) -> None:
        """See `Function.perform`: a whole rotation, if there is anything to do."""
        from keyturn.google.events import RotationNotice
        from keyturn.wiring_google import Function as Deployed

        deployed = Deployed({}, {**_settings(), "KEYTURN_TIMEOUT_S": str(self._timeout_s)})
        rotation_id = RotationId(f"m{event['message']}")
        at = datetime.fromisoformat(event["at"])
        rotation = deployed.rotation(
            RotationNotice(SecretRef(event["secret"]), rotation_id, "", at)
        )
        if rotation is not None:
            for step in Step:
                rotation.perform(step)


def _settings() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k.startswith("KEYTURN_")}


def main(name: str) -> None:
    """Serve until standard input ends."""
    function: Function = CloudFunction() if name == "google" else Lambda(name)
    _warm_up(function)
    _say("ready")
    # Any other line, or the rest of one, is for a fork that was killed.
    for limits in _orders("begin"):
        pid = os.fork()
        if pid == 0:
            _serve(function, limits)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        _say("ended" if os.WIFEXITED(status) else "killed")


def _serve(function: Function, limits: dict[str, Any]) -> None:
    """Perform one rotation's steps."""
    boundary.quiet_sdk_loggers()
    function.limit(limits)
    _say(str(os.getpid()))
    for event in _orders("step", until="end"):
        _say(_perform(function, event))


def _orders(wanted: str, until: str = "") -> Iterator[dict[str, Any]]:
    """Yield what follows each *wanted* word, until that other word or the end of the input."""
    # Without a buffer: what is read ahead by one process is lost to the other.
    for line in iter(_INPUT.readline, b""):
        word, _, told = line.decode().strip().partition(" ")
        if until and word == until:
            return
        if word == wanted:
            yield json.loads(told)


def _warm_up(function: Function) -> None:
    """Go once through what a step goes through, as a warm container has: forks inherit it."""
    function.warm_up()
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


def _perform(function: Function, event: dict[str, str]) -> str:
    try:
        function.perform(event)
    except KeyturnError as error:
        return f"{type(error).__name__}: {error}"
    return "ok"


def _say(text: str) -> None:
    sys.stdout.write(text.replace("\n", " ") + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
