"""Rotates a real secret of a real database again and again, while somebody keeps logging in.

    LocalCloud  database, AWS, the template that is deployed for real, the function's own code
      |  application, prober     log in all the time (`demo_logins`)
      |  rotate_secret           as anybody calls it, some times in a row
      v
    Recording   what was seen (`demo_recording`); shown by `demo_terminal` and `demo_page`

`keyturn demo` calls it. It shows nothing itself, and what it returns holds no password.
"""

from __future__ import annotations

import contextlib
import gc
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import boto3

from keyturn.local.calls import function_key_id
from keyturn.local.cloud import LocalCloud
from keyturn.local.database import Engine
from keyturn.local.demo_logins import CURRENT, Notebook, application, probe
from keyturn.local.demo_recording import Recording, Rotated, StepRun, Verdict
from keyturn.model import Step, Strategy

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

APPLICATION_KEY_ID = "DEMOAPPLICATION"
PROBER_KEY_ID = "DEMOPROBER"
OPERATOR_KEY_ID = "DEMOOPERATOR"
"""Access key ids, so that none of these calls is taken for the function's."""

REST_S = 0.4
"""Seconds before, between and after rotations, in which nothing should change."""

ROTATION_LIMIT_S = 30.0
"""Seconds for one rotation, which takes about 0.15; this is for a machine that hangs."""

Report = Callable[[str, int], None]
"""Told what happens next, in words, and how many rotations are done."""


def record(
    engine: Engine, strategy: Strategy, *, template: Path, rotations: int, report: Report
) -> Recording:
    """Start a local cloud, rotate, and return what was seen.

    Raises:
        KeyturnError: The local cloud cannot be started.
    """
    with LocalCloud(
        template,
        engine=engine,
        parameters={"Strategy": strategy.value},
        progress=lambda text: report(text, 0),
    ) as cloud:
        loops = [
            partial(application, store=_store(cloud, APPLICATION_KEY_ID)),
            partial(probe, store=_store(cloud, PROBER_KEY_ID)),
        ]
        with _few_pauses():
            began = time.time()  # the clock of the function's log lines, too
            notebook = Notebook(
                cloud.secret_arn, cloud.database.lets_in, lambda: time.time() - began
            )
            with _going_on(*(partial(loop, notebook) for loop in loops)):
                rotated = _rotate_often(cloud, notebook, rotations, report)
            length_s = notebook.clock()
        return Recording(
            cloud.database.NAME,
            strategy,
            rotations,
            length_s,
            notebook.versions,
            rotated,
            _steps(cloud, {rotation.version_id for rotation in rotated}, began),
            tuple(notebook.looks),
            tuple(notebook.tries),
            tuple(notebook.logins),
        )


@contextlib.contextmanager
def _few_pauses() -> Iterator[None]:
    """Keep the collector off what is there already: going through moto's objects takes 150 ms.

    In that time nobody here would log in or answer, and it would look as if nothing worked.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextlib.contextmanager
def _going_on(*loops: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run *loops* beside the block, and end them with it. What one raises, is raised."""
    stopped = threading.Event()
    with ThreadPoolExecutor(len(loops)) as threads:
        running = [threads.submit(loop, stopped) for loop in loops]
        try:
            yield
        finally:
            stopped.set()
    for loop in running:
        loop.result()


def _rotate_often(
    cloud: LocalCloud, notebook: Notebook, rotations: int, report: Report
) -> tuple[Rotated, ...]:
    store = _store(cloud, OPERATOR_KEY_ID)
    done: list[Rotated] = []
    time.sleep(REST_S)
    for number in range(1, rotations + 1):
        report(f"Rotation {number} of {rotations}, {_so_far(notebook)}", number - 1)
        done.append(_rotate(cloud, store, notebook.clock))
        time.sleep(REST_S)
        # The store takes no further rotation while one hangs.
        if not done[-1].finished:
            break
    report(f"Done, {_so_far(notebook)}", len(done))
    return tuple(done)


def _rotate(cloud: LocalCloud, store: SecretsManagerClient, clock: Callable[[], float]) -> Rotated:
    calls_before = _store_calls(cloud)
    began_s = clock()
    version_id = store.rotate_secret(SecretId=cloud.secret_arn)["VersionId"]
    cloud.aws.settle(ROTATION_LIMIT_S)
    ended_s = clock()
    labels = store.describe_secret(SecretId=cloud.secret_arn)["VersionIdsToStages"]
    return Rotated(
        version_id,
        began_s,
        ended_s,
        CURRENT in labels.get(version_id, []),
        _store_calls(cloud) - calls_before,
    )


def _store_calls(cloud: LocalCloud) -> int:
    caller = function_key_id(cloud.stack.outputs["FunctionName"])
    return len(cloud.aws.log.calls(service="secretsmanager", caller=caller))


def _so_far(notebook: Notebook) -> str:
    refused = sum(login.verdict is not Verdict.IN for login in notebook.logins)
    return f"{len(notebook.logins)} logins, {refused} refused"


def _store(cloud: LocalCloud, caller: str) -> SecretsManagerClient:
    return boto3.client("secretsmanager", **cloud.aws.settings(caller))


def _steps(cloud: LocalCloud, rotation_ids: set[str], began: float) -> tuple[StepRun, ...]:
    """Read what the function wrote about these rotations."""
    logs = boto3.client("logs", **cloud.aws.settings(OPERATOR_KEY_ID))
    pages = logs.get_paginator("filter_log_events").paginate(
        logGroupName=cloud.stack.outputs["LogGroupName"]
    )
    lines = [event["message"] for page in pages for event in page["events"]]
    runs = [_step_run(line, began) for line in lines if '"elapsed_ms"' in line]
    return tuple(run for run in runs if run.rotation_id in rotation_ids)


def _step_run(line: str, began: float) -> StepRun:
    told = json.loads(line)
    ended = datetime.strptime(told["timestamp"], "%Y-%m-%d %H:%M:%S,%f%z")
    error = f"{told['error']}: {told['reason']}" if "error" in told else ""
    return StepRun(
        told["rotation_id"],
        Step(told["step"]),
        ended.timestamp() - began,
        told["elapsed_ms"],
        error,
    )
