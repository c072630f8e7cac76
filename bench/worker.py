"""The process that is measured. It loads what a rotation function loads, and nothing else.

    python -m bench.worker turns      perform the rotations that standard input lists
    python -m bench.worker imports    import the modules that standard input lists

The servers run elsewhere (`scene`), so that neither their work nor their hold on the interpreter
counts here. Standard input is JSON; so is the last line of standard output, where the function
under test writes its log too.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

EVENTS = Path(__file__).parents[1] / "events" / "secrets-manager"
STEPS = ("create", "set", "test", "finish")

Perform = Callable[[dict[str, str]], object]


class Turn(TypedDict):
    """One rotation to perform, from its first step to its last."""

    who: str
    ref: str
    token: str


class Cost(TypedDict):
    """What a turn took."""

    who: str
    wall_ms: float
    cpu_ms: float


class Performance(TypedDict):
    """What a list of turns took, and which modules of ours they needed."""

    costs: list[Cost]
    peak_rss_bytes: int
    modules: list[str]


class ImportCost(TypedDict):
    """CPU time of imports, in ms: first what others wrote, then our own code."""

    sdk_and_driver: float
    powertools: float
    own: float


def main() -> None:
    """Do what the command line says."""
    given = json.load(sys.stdin)
    done = _turns(given) if sys.argv[1] == "turns" else _imports(given)
    print(json.dumps(done))


def _turns(turns: list[Turn]) -> Performance:
    if "BENCH_HOST" in os.environ:
        _find_here(os.environ["BENCH_HOST"])
    performers = {who: _PERFORMERS[who]() for who in {turn["who"] for turn in turns}}
    return {
        "costs": [_cost(turn, performers[turn["who"]]) for turn in turns],
        "peak_rss_bytes": _peak_rss_bytes(),
        "modules": [name for name in sys.modules if name.partition(".")[0] in {"aws", "keyturn"}],
    }


def _find_here(name: str) -> None:
    """Let *name* mean this machine, as a line in /etc/hosts would."""
    ask = socket.getaddrinfo

    def find(host: Any, *arguments: Any, **options: Any) -> Any:
        return ask("127.0.0.1" if host == name else host, *arguments, **options)

    socket.getaddrinfo = find


def _cost(turn: Turn, perform: Perform) -> Cost:
    events = [
        {**sample, "SecretId": turn["ref"], "ClientRequestToken": turn["token"]}
        for sample in (json.loads((EVENTS / f"{step}.json").read_text()) for step in STEPS)
    ]
    gc.collect()  # Clients are garbage in cycles: nobody shall sweep up after another's turn.
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    for event in events:
        perform(event)
    return {
        "who": turn["who"],
        "cpu_ms": (time.process_time() - cpu_s) * 1000,
        "wall_ms": (time.perf_counter() - wall_s) * 1000,
    }


def _keyturn() -> Perform:
    from aws_lambda_powertools.utilities.typing import LambdaContext

    from aws.rotate import handler

    class Context(LambdaContext):
        invoked_function_arn = "arn:aws:lambda:eu-west-1:123456789012:function:rotate"
        aws_request_id = "9c1f3a52-0000-4000-8000-000000000000"

        @staticmethod
        def get_remaining_time_in_millis() -> int:
            return 60_000

    context = Context()
    return lambda event: handler(event, context)


def _floor() -> Perform:
    import boto3
    from bench import floor

    return lambda event: floor.perform(event, boto3.client("secretsmanager"))


def _floor_with_kept_client() -> Perform:
    import boto3
    from bench import floor

    client = boto3.client("secretsmanager")
    return lambda event: floor.perform(event, client)


_PERFORMERS: dict[str, Callable[[], Perform]] = {
    "keyturn": _keyturn,
    "floor": _floor,
    "floor with a kept client": _floor_with_kept_client,
}


def _peak_rss_bytes() -> int:
    """Return the most memory that this process ever held."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not ru_maxrss: on Linux it starts with what the parent held (setmax_mm_hiwater_rss in
        # exec_mmap), and ours holds two servers.
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _imports(modules: list[str]) -> ImportCost:
    start = time.process_time()
    _load("boto3", "botocore.config", "botocore.exceptions", "psycopg", "psycopg.conninfo")
    _client()
    sdk_and_driver = time.process_time()
    _load("aws_lambda_powertools", "aws_lambda_powertools.metrics")
    powertools = time.process_time()
    _load(*modules)
    own = time.process_time()
    return {
        "sdk_and_driver": (sdk_and_driver - start) * 1000,
        "powertools": (powertools - sdk_and_driver) * 1000,
        "own": (own - powertools) * 1000,
    }


def _load(*modules: str) -> None:
    for module in modules:
        importlib.import_module(module)


def _client() -> Any:
    import boto3

    return boto3.client("secretsmanager")


if __name__ == "__main__":
    main()
