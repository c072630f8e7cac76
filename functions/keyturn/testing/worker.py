"""A process that performs rotation steps, each in a fork of its own, so that it can be killed.

    python -m keyturn.testing.worker TRIES

Standard input: one event per line, as JSON. Standard output, per event: the fork's process id, then
`ok`, the class of the error it ended with, or `killed`. The environment says where the cloud is,
as for the deployed function; what runs is what the deployed function runs, without its telemetry.
TRIES is how often the SDK makes a call: 1 shows every fault to the code, 3 is what is deployed.
"""

from __future__ import annotations

import gc
import json
import os
import sys

from keyturn import boundary, wiring
from keyturn.errors import KeyturnError

FUNCTION_ARN = "arn:aws:lambda:eu-west-1:123456789012:function:keyturn-proof"
TIME_S = 20.0
"""How long a step may run."""

_OK, _FAILED = 0, 1


def main() -> None:
    """Serve until standard input ends."""
    wiring.TRIES = int(sys.argv[1])
    _warm_up()
    for line in sys.stdin:
        event = json.loads(line)
        outcome, says = os.pipe()
        pid = os.fork()
        if pid == 0:
            os._exit(_perform(event, says))
        os.close(says)
        _say(str(pid))
        _, status = os.waitpid(pid, 0)
        with os.fdopen(outcome) as answer:
            _say(answer.read() if os.WIFEXITED(status) else "killed")


def _warm_up() -> None:
    """Import what a step needs before the first fork, as a warm container has it."""
    import boto3
    import psycopg

    boto3.client("secretsmanager").meta.events.emit("warm", client=psycopg)
    gc.freeze()  # else each fork copies what its first collection touches


def _perform(event: dict[str, object], says: int) -> int:
    boundary.quiet_sdk_loggers()
    try:
        asked = boundary.rotation_event(event)
        wiring.rotation(
            asked,
            environment={k: v for k, v in os.environ.items() if k.startswith("KEYTURN_")},
            function_arn=FUNCTION_ARN,
            remaining_s=lambda: TIME_S,
        ).perform(asked.step)
    except KeyturnError as error:
        os.write(says, f"{type(error).__name__}: {error}".encode())
        return _FAILED
    os.write(says, b"ok")
    return _OK


def _say(text: str) -> None:
    sys.stdout.write(text.replace("\n", " ") + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
