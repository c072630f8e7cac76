"""Rotates a real secret of a real database again and again, while somebody keeps logging in.

    LocalCloud  database, AWS, the template that is deployed for real, the function's own code
                (for an access key: AWS alone, where STS says whose it is)
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
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from keyturn.local.aws import LocalAws
from keyturn.local.calls import function_key_id
from keyturn.local.cloud import LocalCloud
from keyturn.local.database import Engine
from keyturn.local.demo_logins import Notebook, application, probe
from keyturn.local.demo_recording import Recording, Rotated, StepRun, Verdict
from keyturn.local.deploy import deploy
from keyturn.model import Step, Strategy

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

CURRENT, PENDING = "AWSCURRENT", "AWSPENDING"

APPLICATION_KEY_ID = "DEMOAPPLICATION"
PROBER_KEY_ID = "DEMOPROBER"
OPERATOR_KEY_ID = "DEMOOPERATOR"
"""Access key ids, so that none of these calls is taken for the function's."""

REST_S = 0.4
"""Seconds before, between and after rotations, in which nothing should change."""

ROTATION_LIMIT_S = 30.0
"""Seconds for one rotation, which takes about 0.15, and some 4 while a key proves itself; this is
for a machine that hangs."""

IAM_USER, IAM_SECRETS = "mailer", "prod/generated/*"
"""Whose access key is rotated, and the folder of the secret that holds it."""

Report = Callable[[str, int], None]
"""Told what happens next, in words, and how many rotations are done."""


def record(
    engine: Engine, strategy: Strategy, *, template: Path, rotations: int, report: Report
) -> Recording:
    """Start a local cloud, rotate a password, and return what was seen.

    Raises:
        KeyturnError: The local cloud cannot be started.
    """
    with LocalCloud(
        template,
        engine=engine,
        parameters={"Strategy": strategy.value},
        progress=lambda text: report(text, 0),
    ) as cloud:
        stage = _Stage(
            cloud.aws,
            cloud.secret_arn,
            cloud.stack.outputs["FunctionName"],
            cloud.database.lets_in,
        )
        return _recorded(stage, cloud.database.NAME, strategy, rotations, report)


def record_key(*, template: Path, report: Report) -> Recording:
    """Start a local AWS, rotate the access key of an IAM user, and return what was seen.

    Once: the old key rests for an hour before another rotation may delete it.

    Raises:
        KeyturnError: The local AWS cannot be started.
    """
    report("Starting AWS", 0)
    with LocalAws() as aws:
        report(f"Deploying {template}", 0)
        user = boto3.client("iam", **aws.settings(OPERATOR_KEY_ID)).create_user(UserName=IAM_USER)
        stack = deploy(
            aws,
            template,
            parameters={"GeneratedSecrets": IAM_SECRETS, "IamUsers": user["User"]["Arn"]},
        )
        function = stack.outputs["RotateGeneratedFunctionArn"]
        secret = _first_key(aws, function)
        stage = _Stage(aws, secret, function.rpartition(":")[2], Sts(aws).lets_in)
        return _recorded(stage, "IAM", None, 1, report)


def _first_key(aws: LocalAws, function: str) -> str:
    """Store a key that the user has, as somebody does who starts to rotate it. Return the ARN."""
    made = boto3.client("iam", **aws.settings(OPERATOR_KEY_ID)).create_access_key(UserName=IAM_USER)
    document = {
        "engine": "iam-access-key",
        "username": IAM_USER,
        "access_key_id": made["AccessKey"]["AccessKeyId"],
        "secret_access_key": made["AccessKey"]["SecretAccessKey"],
    }
    store = boto3.client("secretsmanager", **aws.settings(OPERATOR_KEY_ID))
    name = IAM_SECRETS.replace("*", IAM_USER)
    secret = store.create_secret(Name=name, SecretString=json.dumps(document))["ARN"]
    # The rotation that is recorded then finds a warm function, as the database's do.
    store.rotate_secret(SecretId=secret, RotationLambdaARN=function, RotateImmediately=False)
    aws.settle()
    return secret


class Sts:
    """Says whose a key is. There is a client for each key, as an application has one."""

    def __init__(self, aws: LocalAws) -> None:
        self._aws = aws
        self._lock = threading.Lock()
        self._clients: dict[str, Any] = {}

    def lets_in(self, value: Mapping[str, str]) -> bool:
        """Ask with the key that *value* holds, as any client of AWS may."""
        try:
            self._client(value).get_caller_identity()
        except (ClientError, BotoCoreError):
            return False
        return True

    def _client(self, value: Mapping[str, str]) -> Any:
        key_id, secret = value["access_key_id"], value["secret_access_key"]
        with self._lock:
            if key_id not in self._clients:
                settings: Any = {**self._aws.settings(key_id), "aws_secret_access_key": secret}
                self._clients[key_id] = boto3.client("sts", **settings)
            return self._clients[key_id]


@dataclass(frozen=True, slots=True)
class _Stage:
    """What is rotated where, and who says whether a value is accepted.

    Attributes:
        function: The name of the secret's rotation function.
    """

    aws: LocalAws
    secret: str
    function: str
    lets_in: Callable[[Mapping[str, str]], bool]

    def store(self, caller: str) -> SecretsManagerClient:
        return boto3.client("secretsmanager", **self.aws.settings(caller))


def _recorded(
    stage: _Stage, system: str, strategy: Strategy | None, rotations: int, report: Report
) -> Recording:
    loops = [
        partial(application, store=_Reader(stage.store(APPLICATION_KEY_ID), stage.secret)),
        partial(probe, store=_Reader(stage.store(PROBER_KEY_ID), stage.secret)),
    ]
    with few_pauses():
        began = time.time()  # the clock of the function's log lines, too
        notebook = Notebook(stage.lets_in, lambda: time.time() - began)
        with going_on(*(partial(loop, notebook) for loop in loops)):
            rotated = _rotate_often(stage, notebook, rotations, report)
        length_s = notebook.clock()
    return Recording(
        system,
        strategy,
        rotations,
        length_s,
        notebook.versions,
        rotated,
        _steps(stage, {rotation.version_id for rotation in rotated}, began),
        tuple(notebook.looks),
        tuple(notebook.tries),
        tuple(notebook.logins),
    )


class _Reader:
    """A `Reader`, as the SDK reads."""

    def __init__(self, store: SecretsManagerClient, secret: str) -> None:
        self._store = store
        self._secret = secret

    def current(self) -> tuple[str, str]:
        return self._read(CURRENT)

    def pending(self) -> tuple[str, str] | None:
        try:
            return self._read(PENDING)
        except ClientError as error:
            if error.response["Error"]["Code"] != "ResourceNotFoundException":
                raise
        return None

    def _read(self, stage: str) -> tuple[str, str]:
        answer = self._store.get_secret_value(SecretId=self._secret, VersionStage=stage)
        return answer["VersionId"], answer["SecretString"]


@contextlib.contextmanager
def few_pauses() -> Iterator[None]:
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
def going_on(*loops: Callable[[threading.Event], None]) -> Iterator[None]:
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
    stage: _Stage, notebook: Notebook, rotations: int, report: Report
) -> tuple[Rotated, ...]:
    store = stage.store(OPERATOR_KEY_ID)
    done: list[Rotated] = []
    time.sleep(REST_S)
    for number in range(1, rotations + 1):
        report(f"Rotation {number} of {rotations}, {so_far(notebook)}", number - 1)
        done.append(_rotate(stage, store, notebook.clock))
        time.sleep(REST_S)
        # The store takes no further rotation while one hangs.
        if not done[-1].finished:
            break
    report(f"Done, {so_far(notebook)}", len(done))
    return tuple(done)


def _rotate(stage: _Stage, store: SecretsManagerClient, clock: Callable[[], float]) -> Rotated:
    calls_before = _store_calls(stage)
    began_s = clock()
    version_id = store.rotate_secret(SecretId=stage.secret)["VersionId"]
    stage.aws.settle(ROTATION_LIMIT_S)
    ended_s = clock()
    labels = store.describe_secret(SecretId=stage.secret)["VersionIdsToStages"]
    return Rotated(
        version_id,
        began_s,
        ended_s,
        CURRENT in labels.get(version_id, []),
        _store_calls(stage) - calls_before,
    )


def _store_calls(stage: _Stage) -> int:
    caller = function_key_id(stage.function)
    return len(stage.aws.log.calls(service="secretsmanager", caller=caller))


def so_far(notebook: Notebook) -> str:
    """Say how many could log in."""
    refused = sum(login.verdict is not Verdict.IN for login in notebook.logins)
    return f"{len(notebook.logins)} logins, {refused} refused"


def _steps(stage: _Stage, rotation_ids: set[str], began: float) -> tuple[StepRun, ...]:
    """Read what the function wrote about these rotations."""
    logs = boto3.client("logs", **stage.aws.settings(OPERATOR_KEY_ID))
    pages = logs.get_paginator("filter_log_events").paginate(
        logGroupName=f"/aws/lambda/{stage.function}"
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
