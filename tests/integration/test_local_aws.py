"""The local AWS behaves as the real one where a rotation would notice. All over the real wire."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import ClientError

from keyturn.errors import Misconfigured, Unsupported
from keyturn.local.aws import LocalAws
from keyturn.local.calls import CLIENT_KEY_ID, function_key_id
from keyturn.local.demo import Sts
from keyturn.local.deploy import deploy, package
from keyturn.local.functions import Functions
from keyturn.local.patches import Patch, applied, moto_patches
from keyturn.local.secrets_manager import RotationSettings

if TYPE_CHECKING:
    from mypy_boto3_events.type_defs import InputTransformerTypeDef
    from mypy_boto3_secretsmanager import SecretsManagerClient

TOKEN = "a" * 32
OTHER_TOKEN = "b" * 32

NOTHING = "def handler(event, context):\n    return event\n"

FAILS = "def handler(event, context):\n    raise ValueError('no')\n"

PRINTS = "def handler(event, context):\n    print('EVENT', event)\n"

PROMOTES = """
import boto3
def handler(event, context):
    store = boto3.client("secretsmanager")
    secret, token = event["SecretId"], event["ClientRequestToken"]
    if event["Step"] == "createSecret":
        store.put_secret_value(SecretId=secret, ClientRequestToken=token,
                               SecretString="new " + token, VersionStages=["AWSPENDING"])
    if event["Step"] == "finishSecret":
        stages = store.describe_secret(SecretId=secret)["VersionIdsToStages"]
        current = next(version for version, held in stages.items() if "AWSCURRENT" in held)
        store.update_secret_version_stage(SecretId=secret, VersionStage="AWSCURRENT",
                                          MoveToVersionId=token, RemoveFromVersionId=current)
"""

FAILS_ONCE = """
from pathlib import Path
def handler(event, context):
    print("STEP", event["Step"], event["ClientRequestToken"])
    if event["Step"] == "setSecret" and not Path("tried").exists():
        Path("tried").touch()
        raise ValueError("no")
"""

WAITS = """
import time
from pathlib import Path
def handler(event, context):
    Path(event.get("Started") or "FOLDER", "started").touch()
    while not Path("FOLDER", "go").exists():
        time.sleep(0.01)
"""


@pytest.fixture(scope="module", autouse=True)
def _process_to_itself(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let the session's local AWS make room: there is one per process, and these start theirs."""
    shared: LocalAws = request.getfixturevalue("aws")
    shared.stop()
    yield
    shared.start()


@pytest.fixture
def local() -> Iterator[LocalAws]:
    with LocalAws() as started:
        yield started


@pytest.fixture
def store(local: LocalAws) -> SecretsManagerClient:
    return boto3.client("secretsmanager", **local.settings())


@pytest.fixture
def secret(store: SecretsManagerClient) -> str:
    return store.create_secret(Name="some/secret", SecretString="old")["ARN"]


def zipped(code: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("app.py", code)
    return packed.getvalue()


def function(local: LocalAws, code: str, *, name: str = "rotate", timeout_s: int = 10) -> str:
    """Deploy *code*, and let Secrets Manager call it."""
    functions = boto3.client("lambda", **local.settings())
    roles = boto3.client("iam", **local.settings())
    role = roles.create_role(RoleName=name, AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    arn = functions.create_function(
        FunctionName=name,
        Runtime="python3.13",
        Role=role,
        Handler="app.handler",
        Code={"ZipFile": zipped(code)},
        Timeout=timeout_s,
    )["FunctionArn"]
    functions.add_permission(
        FunctionName=name,
        StatementId="secrets-manager",
        Action="lambda:InvokeFunction",
        Principal="secretsmanager.amazonaws.com",
        SourceAccount="123456789012",
    )
    return arn


def invoke(local: LocalAws, name: str, event: object) -> tuple[object, bool]:
    functions = boto3.client("lambda", **local.settings())
    answer = functions.invoke(FunctionName=name, Payload=json.dumps(event))
    return json.loads(answer["Payload"].read()), "FunctionError" in answer


def rotate(local: LocalAws, secret: str, function_arn: str, **more: Any) -> str:
    """Rotate, and wait for the end."""
    store = boto3.client("secretsmanager", **local.settings())
    version = store.rotate_secret(SecretId=secret, RotationLambdaARN=function_arn, **more)
    assert local.settle()
    return version["VersionId"]


def stages(store: SecretsManagerClient, secret: str) -> dict[str, set[str]]:
    found = store.describe_secret(SecretId=secret)["VersionIdsToStages"]
    return {version: set(held) for version, held in found.items()}


def current(store: SecretsManagerClient, secret: str) -> str:
    return store.get_secret_value(SecretId=secret, VersionStage="AWSCURRENT")["VersionId"]


def code_of(call: Callable[[], object]) -> str:
    """Return the error code that *call* is refused with."""
    with pytest.raises(ClientError) as refused:
        call()
    return str(refused.value.response["Error"]["Code"])


def logged(local: LocalAws, name: str = "rotate") -> str:
    logs = boto3.client("logs", **local.settings())
    group = f"/aws/lambda/{name}"
    events = logs.filter_log_events(logGroupName=group)["events"]
    return "\n".join(event["message"] for event in events)


def listener(local: LocalAws, pattern: dict[str, Any]) -> Callable[[], list[dict[str, Any]]]:
    """Have a queue receive the events that match. Returns how to read them."""
    queues = boto3.client("sqs", **local.settings())
    events = boto3.client("events", **local.settings())
    queue = queues.create_queue(QueueName="events")["QueueUrl"]
    arn = queues.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])
    events.put_rule(Name="listener", EventPattern=json.dumps(pattern))
    target = {"Id": "queue", "Arn": arn["Attributes"]["QueueArn"]}
    events.put_targets(Rule="listener", Targets=[{"Id": target["Id"], "Arn": target["Arn"]}])

    def read() -> list[dict[str, Any]]:
        found = queues.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)
        return [json.loads(message["Body"]) for message in found.get("Messages", [])]

    return read


ROTATION_EVENTS = {"detail-type": ["AWS Service Event via CloudTrail"]}


def names(events: list[dict[str, Any]]) -> list[str]:
    return sorted(event["detail"]["eventName"] for event in events)


# ---------------------------------------------------------------------- the server


def test_it_listens_on_loopback_and_forgets_everything_when_it_stops() -> None:
    with LocalAws() as first:
        assert first.endpoint_url.startswith("http://127.0.0.1:")
        boto3.client("secretsmanager", **first.settings()).create_secret(Name="s", SecretString="v")

    with LocalAws() as second:
        listed = boto3.client("secretsmanager", **second.settings()).list_secrets()

    assert listed["SecretList"] == []


def test_a_second_one_in_the_same_process_is_refused(local: LocalAws) -> None:
    with pytest.raises(Misconfigured):
        LocalAws().start()

    assert local.settings()["endpoint_url"] == local.endpoint_url  # the first goes on


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(Misconfigured) as refused:
            LocalAws(port=port).start()

    assert str(port) in str(refused.value)


def test_a_port_can_be_chosen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    with LocalAws(port=port) as local:
        assert local.endpoint_url == f"http://127.0.0.1:{port}"


def test_one_that_is_not_started_says_so() -> None:
    with pytest.raises(Misconfigured):
        LocalAws().settings()


def test_the_log_tells_functions_from_clients(
    local: LocalAws, store: SecretsManagerClient, secret: str
) -> None:
    arn = function(local, PROMOTES)
    local.log.clear()
    before = datetime.now(UTC)

    rotate(local, secret, arn)
    store.describe_secret(SecretId=secret)

    ours = local.log.calls(service="secretsmanager", caller=CLIENT_KEY_ID)
    its = local.log.calls(caller=function_key_id("rotate"))
    assert [call.action for call in ours] == ["RotateSecret", "DescribeSecret"]
    assert [call.action for call in its] == [
        "PutSecretValue",
        "DescribeSecret",
        "UpdateSecretVersionStage",
    ]
    assert {call.function for call in its} == {"rotate"}
    assert {call.function for call in ours} == {None}
    assert all(before <= call.time <= datetime.now(UTC) for call in (*ours, *its))
    assert {call.status for call in (*ours, *its)} == {200}


def test_the_log_names_the_actions_of_every_protocol(local: LocalAws) -> None:
    s3 = boto3.client("s3", **local.settings())
    s3.create_bucket(Bucket="some-bucket")
    s3.put_object(Bucket="some-bucket", Key="a/b", Body=b"1")
    s3.copy_object(Bucket="some-bucket", Key="c", CopySource="some-bucket/a/b")
    s3.get_object(Bucket="some-bucket", Key="a/b")
    s3.list_objects_v2(Bucket="some-bucket")
    boto3.client("sns", **local.settings()).create_topic(Name="topic")
    boto3.client("kms", **local.settings()).create_key()
    function(local, NOTHING)
    invoke(local, "rotate", {})

    assert [call.action for call in local.log.calls()] == [
        "CreateBucket",
        "PutObject",
        "CopyObject",
        "GetObject",
        "ListObjectsV2",
        "CreateTopic",
        "CreateKey",
        "CreateRole",
        "CreateFunction",
        "AddPermission",
        "Invoke",
    ]


def test_the_log_shows_what_was_refused(local: LocalAws, store: SecretsManagerClient) -> None:
    code_of(lambda: store.get_secret_value(SecretId="nowhere"))

    assert [(c.action, c.status) for c in local.log.calls()] == [("GetSecretValue", 400)]


def test_the_log_can_be_read_while_it_is_written(local: LocalAws) -> None:
    store = boto3.client("secretsmanager", **local.settings())

    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(lambda _: (store.list_secrets(), local.log.calls()), range(20)):
            pass

    assert len(local.log.calls()) == 20


def test_the_aws_command_line_needs_nothing_but_the_environment(
    local: LocalAws, store: SecretsManagerClient, secret: str
) -> None:
    program = shutil.which("aws")
    if program is None:
        pytest.skip("needs the AWS CLI: pip install awscli")

    done = subprocess.run(
        [program, "secretsmanager", "describe-secret", "--secret-id", secret],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **local.environment()},
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ARN"] == secret
    assert store.describe_secret(SecretId=secret)["ARN"] == secret


# ---------------------------------------------------------------------- values and versions


def test_without_a_stage_a_read_gives_the_current_value(
    store: SecretsManagerClient, secret: str
) -> None:
    store.put_secret_value(
        SecretId=secret, ClientRequestToken=TOKEN, SecretString="new", VersionStages=["AWSPENDING"]
    )
    assert store.get_secret_value(SecretId=secret)["SecretString"] == "old"

    store.update_secret_version_stage(
        SecretId=secret,
        VersionStage="AWSCURRENT",
        MoveToVersionId=TOKEN,
        RemoveFromVersionId=current(store, secret),
    )

    assert store.get_secret_value(SecretId=secret)["SecretString"] == "new"


def test_the_same_token_with_the_same_value_changes_nothing(
    store: SecretsManagerClient, secret: str
) -> None:
    put = {"SecretId": secret, "ClientRequestToken": TOKEN, "SecretString": "new"}
    store.put_secret_value(**put, VersionStages=["AWSPENDING"])
    before = stages(store, secret)

    again = store.put_secret_value(**put, VersionStages=["AWSPENDING"])

    assert again["VersionId"] == TOKEN
    assert stages(store, secret) == before


def test_the_same_token_with_another_value_is_refused(
    store: SecretsManagerClient, secret: str
) -> None:
    put = {"SecretId": secret, "ClientRequestToken": TOKEN}
    store.put_secret_value(**put, SecretString="new", VersionStages=["AWSPENDING"])

    code = code_of(
        lambda: store.put_secret_value(**put, SecretString="newer", VersionStages=["AWSPENDING"])
    )

    assert code == "ResourceExistsException"
    assert store.get_secret_value(SecretId=secret, VersionId=TOKEN)["SecretString"] == "new"


def test_a_value_of_65536_bytes_is_stored(store: SecretsManagerClient, secret: str) -> None:
    store.put_secret_value(SecretId=secret, SecretString="x" * 65_536)
    store.create_secret(Name="another", SecretString="x" * 65_536)


@pytest.mark.parametrize("value", ["x" * 65_537, "é" * 32_769], ids=["ascii", "two bytes each"])
def test_a_longer_value_is_refused(store: SecretsManagerClient, secret: str, value: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: store.put_secret_value(SecretId=secret, SecretBinary=value.encode()),
        lambda: store.put_secret_value(SecretId=secret, SecretString=value),
        lambda: store.update_secret(SecretId=secret, SecretString=value),
        lambda: store.create_secret(Name="another", SecretString=value),
    ]

    assert {code_of(call) for call in calls} == {"ValidationException"}
    assert store.get_secret_value(SecretId=secret)["SecretString"] == "old"


def test_a_token_has_at_most_64_characters(store: SecretsManagerClient, secret: str) -> None:
    code = code_of(
        lambda: store.put_secret_value(
            SecretId=secret, ClientRequestToken="t" * 65, SecretString="new"
        )
    )

    assert code == "InvalidParameterException"


def test_without_stages_a_value_becomes_current(store: SecretsManagerClient, secret: str) -> None:
    old = current(store, secret)

    store.put_secret_value(SecretId=secret, ClientRequestToken=TOKEN, SecretString="new")

    assert stages(store, secret) == {TOKEN: {"AWSCURRENT"}, old: {"AWSPREVIOUS"}}


def test_an_update_with_a_value_is_a_new_version(store: SecretsManagerClient, secret: str) -> None:
    store.update_secret(
        SecretId=secret, ClientRequestToken=TOKEN, SecretString="new", Description="mine"
    )

    assert current(store, secret) == TOKEN
    assert store.describe_secret(SecretId=secret)["Description"] == "mine"


def test_binary_values_survive(store: SecretsManagerClient, secret: str) -> None:
    store.put_secret_value(SecretId=secret, SecretBinary=b"\x00\xff")

    assert store.get_secret_value(SecretId=secret)["SecretBinary"] == b"\x00\xff"


def test_a_version_and_a_stage_that_do_not_belong_together_are_not_found(
    store: SecretsManagerClient, secret: str
) -> None:
    code = code_of(
        lambda: store.get_secret_value(
            SecretId=secret, VersionId=current(store, secret), VersionStage="AWSPENDING"
        )
    )

    assert code == "ResourceNotFoundException"


def test_a_version_that_does_not_exist_is_not_found(
    store: SecretsManagerClient, secret: str
) -> None:
    code = code_of(lambda: store.get_secret_value(SecretId=secret, VersionId=TOKEN))

    assert code == "ResourceNotFoundException"


def test_versions_without_labels_are_shown_only_on_request(
    store: SecretsManagerClient, secret: str
) -> None:
    first = current(store, secret)
    for token in (TOKEN, OTHER_TOKEN):
        store.put_secret_value(SecretId=secret, ClientRequestToken=token, SecretString=token)

    shown = store.list_secret_version_ids(SecretId=secret)["Versions"]
    every = store.list_secret_version_ids(SecretId=secret, IncludeDeprecated=True)["Versions"]

    assert {version["VersionId"] for version in shown} == {TOKEN, OTHER_TOKEN}
    assert {version["VersionId"] for version in every} == {TOKEN, OTHER_TOKEN, first}
    assert set(stages(store, secret)) == {TOKEN, OTHER_TOKEN}
    assert store.get_secret_value(SecretId=secret, VersionId=first)["SecretString"] == "old"


def test_versions_come_in_pages(store: SecretsManagerClient, secret: str) -> None:
    store.put_secret_value(SecretId=secret, SecretString="new")

    first = store.list_secret_version_ids(SecretId=secret, MaxResults=1)
    second = store.list_secret_version_ids(
        SecretId=secret, MaxResults=1, NextToken=first["NextToken"]
    )

    assert [len(page["Versions"]) for page in (first, second)] == [1, 1]
    assert first["Versions"] != second["Versions"]
    assert "NextToken" not in second


def test_a_deleted_secret_is_refused(store: SecretsManagerClient, secret: str) -> None:
    store.delete_secret(SecretId=secret)

    assert code_of(lambda: store.get_secret_value(SecretId=secret)) == "InvalidRequestException"
    assert (
        code_of(lambda: store.put_secret_value(SecretId=secret, SecretString="new"))
        == "InvalidRequestException"
    )


def test_a_secret_can_be_named_in_three_ways(store: SecretsManagerClient, secret: str) -> None:
    for name in ("some/secret", secret, secret.rpartition("-")[0]):
        assert store.describe_secret(SecretId=name)["ARN"] == secret


# ---------------------------------------------------------------------- labels


@pytest.fixture
def pending(store: SecretsManagerClient, secret: str) -> str:
    store.put_secret_value(
        SecretId=secret, ClientRequestToken=TOKEN, SecretString="new", VersionStages=["AWSPENDING"]
    )
    return TOKEN


@pytest.mark.parametrize("seen", [None, OTHER_TOKEN, TOKEN])
def test_current_moves_only_from_the_version_that_has_it(
    store: SecretsManagerClient, secret: str, pending: str, seen: str | None
) -> None:
    before = stages(store, secret)
    source = {"RemoveFromVersionId": seen} if seen else {}

    code = code_of(
        lambda: store.update_secret_version_stage(
            SecretId=secret,
            VersionStage="AWSCURRENT",
            MoveToVersionId=pending,
            **source,
        )
    )

    assert code == "InvalidParameterException"
    assert stages(store, secret) == before


def test_a_label_cannot_move_to_a_version_that_does_not_exist(
    store: SecretsManagerClient, secret: str
) -> None:
    before = stages(store, secret)

    code = code_of(
        lambda: store.update_secret_version_stage(
            SecretId=secret,
            VersionStage="AWSCURRENT",
            MoveToVersionId=OTHER_TOKEN,
            RemoveFromVersionId=current(store, secret),
        )
    )

    assert code == "ResourceNotFoundException"
    assert stages(store, secret) == before


def test_previous_follows_by_itself(store: SecretsManagerClient, secret: str, pending: str) -> None:
    old = current(store, secret)

    store.update_secret_version_stage(
        SecretId=secret, VersionStage="AWSCURRENT", MoveToVersionId=pending, RemoveFromVersionId=old
    )

    assert stages(store, secret) == {pending: {"AWSPENDING", "AWSCURRENT"}, old: {"AWSPREVIOUS"}}


def test_current_cannot_be_taken_away(store: SecretsManagerClient, secret: str) -> None:
    code = code_of(
        lambda: store.update_secret_version_stage(
            SecretId=secret,
            VersionStage="AWSCURRENT",
            RemoveFromVersionId=current(store, secret),
        )
    )

    assert code == "InvalidParameterException"


def test_pending_can_be_taken_away(store: SecretsManagerClient, secret: str, pending: str) -> None:
    store.update_secret_version_stage(
        SecretId=secret, VersionStage="AWSPENDING", RemoveFromVersionId=pending
    )

    assert stages(store, secret) == {current(store, secret): {"AWSCURRENT"}}


def test_pending_is_on_one_version_only(
    store: SecretsManagerClient, secret: str, pending: str
) -> None:
    store.put_secret_value(
        SecretId=secret,
        ClientRequestToken=OTHER_TOKEN,
        SecretString="newer",
        VersionStages=["AWSPENDING"],
    )

    assert stages(store, secret)[OTHER_TOKEN] == {"AWSPENDING"}
    assert pending not in stages(store, secret)


def test_of_many_at_once_exactly_one_moves_current(
    store: SecretsManagerClient, secret: str
) -> None:
    old = current(store, secret)
    tokens = [f"{i:032}" for i in range(8)]
    for token in tokens:
        store.put_secret_value(
            SecretId=secret, ClientRequestToken=token, SecretString=token, VersionStages=[token]
        )

    def move(token: str) -> bool:
        try:
            store.update_secret_version_stage(
                SecretId=secret,
                VersionStage="AWSCURRENT",
                MoveToVersionId=token,
                RemoveFromVersionId=old,
            )
        except ClientError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = [token for token, moved in zip(tokens, pool.map(move, tokens), strict=True) if moved]

    assert won == [current(store, secret)]


def test_a_move_of_current_is_told_as_the_service_tells_it(
    local: LocalAws, store: SecretsManagerClient, secret: str
) -> None:
    read = listener(local, {"detail-type": ["Secret Label Updated"]})

    store.put_secret_value(SecretId=secret, ClientRequestToken=TOKEN, SecretString="new")
    store.put_secret_value(
        SecretId=secret,
        ClientRequestToken=OTHER_TOKEN,
        SecretString="x",
        VersionStages=["AWSPENDING"],
    )

    (event,) = read()
    assert event["source"] == "aws.secretsmanager"
    assert event["resources"] == [secret]
    assert event["detail"] == {
        "name": "some/secret",
        "labelUpdated": "AWSCURRENT",
        "versionId": TOKEN,
    }


def test_a_rule_with_a_schedule_alone_hears_of_no_event(
    local: LocalAws, store: SecretsManagerClient, secret: str
) -> None:
    """The local cloud has no time of its own: such a rule never fires here."""
    read = listener(local, {"detail-type": ["Secret Label Updated"]})
    events = boto3.client("events", **local.settings())
    (target,) = events.list_targets_by_rule(Rule="listener")["Targets"]
    events.put_rule(Name="sweep", ScheduleExpression="rate(5 minutes)")
    events.put_targets(Rule="sweep", Targets=[target])

    store.put_secret_value(SecretId=secret, ClientRequestToken=TOKEN, SecretString="new")

    assert len(read()) == 1


# ---------------------------------------------------------------------- rotation


def test_a_rotation_runs_the_deployed_code_and_promotes(
    local: LocalAws, store: SecretsManagerClient, secret: str
) -> None:
    version = rotate(local, secret, function(local, PROMOTES))

    assert current(store, secret) == version
    assert store.get_secret_value(SecretId=secret)["SecretString"] == f"new {version}"


def test_rotate_secret_does_not_wait_for_the_rotation(
    local: LocalAws, store: SecretsManagerClient, secret: str, tmp_path: Path
) -> None:
    arn = function(local, WAITS.replace("FOLDER", str(tmp_path)))

    version = store.rotate_secret(SecretId=secret, RotationLambdaARN=arn)["VersionId"]

    assert stages(store, secret)[version] == {"AWSPENDING"}
    code = code_of(
        lambda: store.get_secret_value(
            SecretId=secret, VersionId=version, VersionStage="AWSPENDING"
        )
    )
    assert code == "ResourceNotFoundException"  # it is there, and empty
    (tmp_path / "go").touch()


def test_the_event_holds_the_arn_and_the_token(local: LocalAws, secret: str) -> None:
    version = rotate(local, secret, function(local, PRINTS), ClientRequestToken=TOKEN)

    log = logged(local)
    assert version == TOKEN
    steps = ["createSecret", "setSecret", "testSecret", "finishSecret"]
    for step in steps:
        event = {"Step": step, "SecretId": secret, "ClientRequestToken": TOKEN}
        assert f"EVENT {event}" in log
    assert "RotationToken" not in log


def test_the_event_can_hold_a_rotation_token() -> None:
    with LocalAws(rotation=RotationSettings(rotation_token=True)) as local:
        store = boto3.client("secretsmanager", **local.settings())
        secret = store.create_secret(Name="s", SecretString="v")["ARN"]

        rotate(local, secret, function(local, PRINTS))

        assert "'RotationToken': '" in logged(local)


def test_a_pending_version_that_is_not_current_blocks_the_next_rotation(
    local: LocalAws, store: SecretsManagerClient, secret: str
) -> None:
    arn = function(local, NOTHING)
    version = rotate(local, secret, arn)

    code = code_of(lambda: store.rotate_secret(SecretId=secret))

    assert code == "InvalidRequestException"
    assert stages(store, secret)[version] == {"AWSPENDING"}


def test_a_pending_version_that_is_current_blocks_nothing(
    local: LocalAws, store: SecretsManagerClient, secret: str
) -> None:
    arn = function(local, PROMOTES)
    first = rotate(local, secret, arn)
    assert stages(store, secret)[first] == {"AWSCURRENT", "AWSPENDING"}

    second = rotate(local, secret, arn)

    assert stages(store, secret) == {
        second: {"AWSCURRENT", "AWSPENDING"},
        first: {"AWSPREVIOUS"},
    }


def test_the_service_can_take_the_pending_label_away_at_the_end() -> None:
    with LocalAws(rotation=RotationSettings(removes_pending=True)) as local:
        store = boto3.client("secretsmanager", **local.settings())
        secret = store.create_secret(Name="s", SecretString="v")["ARN"]

        version = rotate(local, secret, function(local, PROMOTES))

        assert stages(store, secret)[version] == {"AWSCURRENT"}


def test_a_failed_rotation_is_tried_again_from_its_first_step(local: LocalAws, secret: str) -> None:
    rotate(local, secret, function(local, FAILS_ONCE), ClientRequestToken=TOKEN)

    steps = [line.split()[1:] for line in logged(local).splitlines() if line.startswith("STEP")]
    assert sorted(steps) == sorted(
        [step, TOKEN]
        for step in (
            *("createSecret", "setSecret"),
            *("createSecret", "setSecret", "testSecret", "finishSecret"),
        )
    )


def test_how_often_it_is_tried_can_be_chosen() -> None:
    with LocalAws(rotation=RotationSettings(attempts=3)) as local:
        store = boto3.client("secretsmanager", **local.settings())
        secret = store.create_secret(Name="s", SecretString="v")["ARN"]

        rotate(local, secret, function(local, FAILS))

        assert logged(local).count("[ERROR] ValueError: no") == 3


def test_the_same_call_again_starts_no_second_rotation(
    local: LocalAws, store: SecretsManagerClient, secret: str
) -> None:
    arn = function(local, NOTHING)

    for _ in range(2):
        rotate(local, secret, arn, ClientRequestToken=TOKEN)

    assert stages(store, secret)[TOKEN] == {"AWSPENDING"}


def test_a_success_a_failure_and_a_start_are_told(local: LocalAws, secret: str) -> None:
    read = listener(local, ROTATION_EVENTS)

    rotate(local, secret, function(local, PROMOTES))
    told = read()
    rotate(local, secret, function(local, FAILS, name="fails"))

    assert names(told) == ["RotationStarted", "RotationSucceeded"]
    assert {event["detail"]["additionalEventData"]["SecretId"] for event in told} == {secret}
    assert names(read()) == ["RotationFailed", "RotationStarted"]


def test_a_value_put_by_hand_abandons_the_rotation(
    local: LocalAws, store: SecretsManagerClient, secret: str, tmp_path: Path
) -> None:
    read = listener(local, ROTATION_EVENTS)
    arn = function(local, WAITS.replace("FOLDER", str(tmp_path)))
    pending = store.rotate_secret(SecretId=secret, RotationLambdaARN=arn)["VersionId"]
    until((tmp_path / "started").exists)

    store.put_secret_value(SecretId=secret, ClientRequestToken=TOKEN, SecretString="by hand")

    assert pending not in stages(store, secret)
    assert current(store, secret) == TOKEN
    (tmp_path / "go").touch()
    assert local.settle()
    assert names(read()) == ["RotationAbandoned", "RotationStarted"]
    rotate(local, secret, arn)  # nothing stands in the way of the next one


def test_a_failed_rotations_pending_version_goes_when_a_value_is_put_by_hand(
    local: LocalAws, store: SecretsManagerClient, secret: str
) -> None:
    pending = rotate(local, secret, function(local, FAILS))
    assert stages(store, secret)[pending] == {"AWSPENDING"}

    store.put_secret_value(SecretId=secret, ClientRequestToken=TOKEN, SecretString="by hand")

    assert pending not in stages(store, secret)


def test_a_rotation_whose_function_is_deleted_fails(
    local: LocalAws, store: SecretsManagerClient, secret: str, tmp_path: Path
) -> None:
    read = listener(local, ROTATION_EVENTS)
    arn = function(local, WAITS.replace("FOLDER", str(tmp_path)))
    store.rotate_secret(SecretId=secret, RotationLambdaARN=arn)
    until((tmp_path / "started").exists)

    boto3.client("lambda", **local.settings()).delete_function(FunctionName="rotate")
    (tmp_path / "go").touch()

    assert local.settle()
    assert names(read()) == ["RotationFailed", "RotationStarted"]


def test_a_rotation_that_was_cancelled_goes_no_further(
    local: LocalAws, store: SecretsManagerClient, secret: str, tmp_path: Path
) -> None:
    arn = function(local, WAITS.replace("FOLDER", str(tmp_path)) + "    print('STEP')\n")
    pending = store.rotate_secret(SecretId=secret, RotationLambdaARN=arn)["VersionId"]
    until((tmp_path / "started").exists)

    store.cancel_rotate_secret(SecretId=secret)
    (tmp_path / "go").touch()
    assert local.settle()

    assert logged(local).count("STEP") == 1
    assert stages(store, secret)[pending] == {"AWSPENDING"}  # the operator has to look
    assert store.describe_secret(SecretId=secret)["RotationEnabled"] is False


def test_without_rotating_at_once_only_the_test_step_runs(
    local: LocalAws, store: SecretsManagerClient, secret: str
) -> None:
    read = listener(local, ROTATION_EVENTS)
    before = stages(store, secret)
    code = """
import boto3
def handler(event, context):
    value = boto3.client("secretsmanager").get_secret_value(
        SecretId=event["SecretId"], VersionId=event["ClientRequestToken"],
        VersionStage="AWSPENDING")
    print("STEP", event["Step"], value["SecretString"])
"""

    version = rotate(local, secret, function(local, code), RotateImmediately=False)

    assert "STEP testSecret old" in logged(local)
    assert logged(local).count("STEP") == 1
    assert stages(store, secret) == before
    every = store.list_secret_version_ids(SecretId=secret, IncludeDeprecated=True)["Versions"]
    assert version not in {each["VersionId"] for each in every}
    assert names(read()) == ["TestRotationStarted", "TestRotationSucceeded"]


def test_the_schedule_is_kept_and_shown(
    local: LocalAws, store: SecretsManagerClient, secret: str
) -> None:
    rules = {"ScheduleExpression": "cron(0 8 1 * ? *)", "Duration": "2h"}

    rotate(local, secret, function(local, PROMOTES), RotationRules=rules)

    described = store.describe_secret(SecretId=secret)
    assert described["RotationRules"] == rules
    assert described["RotationEnabled"] is True
    assert described["RotationLambdaARN"].endswith(":function:rotate")
    assert described["LastRotatedDate"] > datetime(2020, 1, 1, tzinfo=UTC)


def test_two_kinds_of_schedule_at_once_are_refused(
    local: LocalAws, store: SecretsManagerClient, secret: str
) -> None:
    arn = function(local, NOTHING)

    code = code_of(
        lambda: store.rotate_secret(
            SecretId=secret,
            RotationLambdaARN=arn,
            RotationRules={"ScheduleExpression": "rate(1 day)", "AutomaticallyAfterDays": 1},
        )
    )

    assert code == "InvalidParameterException"


def test_a_secret_without_a_rotation_function_is_not_rotated(
    store: SecretsManagerClient, secret: str
) -> None:
    assert code_of(lambda: store.rotate_secret(SecretId=secret)) == "InvalidRequestException"


def test_a_function_that_does_not_exist_is_not_found(
    local: LocalAws, store: SecretsManagerClient, secret: str
) -> None:
    arn = function(local, NOTHING) + "-not"

    code = code_of(lambda: store.rotate_secret(SecretId=secret, RotationLambdaARN=arn))

    assert code == "ResourceNotFoundException"


@pytest.mark.parametrize(
    "statement",
    [
        None,
        {"Principal": "events.amazonaws.com"},
        {"Principal": "secretsmanager.amazonaws.com", "SourceAccount": "999999999999"},
        {
            "Principal": "secretsmanager.amazonaws.com",
            "SourceArn": "arn:aws:secretsmanager:us-east-1:123456789012:secret:another-*",
        },
    ],
)
def test_a_function_that_secrets_manager_may_not_call_is_refused(
    local: LocalAws, store: SecretsManagerClient, secret: str, statement: dict[str, str] | None
) -> None:
    arn = function(local, NOTHING)
    functions = boto3.client("lambda", **local.settings())
    functions.remove_permission(FunctionName="rotate", StatementId="secrets-manager")
    if statement:
        functions.add_permission(
            FunctionName="rotate",
            StatementId="other",
            Action="lambda:InvokeFunction",
            **statement,  # type: ignore[arg-type]  # the stubs want to know the keys
        )
    before = stages(store, secret)

    code = code_of(lambda: store.rotate_secret(SecretId=secret, RotationLambdaARN=arn))

    assert code == "AccessDeniedException"
    assert stages(store, secret) == before


# ---------------------------------------------------------------------- who calls


def identity(local: LocalAws, key_id: str, secret: str) -> str:
    """Return whose key it is, or with which code it is refused."""
    sts = boto3.client(
        "sts",
        endpoint_url=local.endpoint_url,
        region_name=local.region,
        aws_access_key_id=key_id,
        aws_secret_access_key=secret,
    )
    try:
        return str(sts.get_caller_identity()["Arn"])
    except ClientError as error:
        return str(error.response["Error"]["Code"])


@pytest.fixture
def key(local: LocalAws) -> dict[str, str]:
    iam = boto3.client("iam", **local.settings())
    iam.create_user(UserName="app", Path="/rotated/")
    made = iam.create_access_key(UserName="app")["AccessKey"]
    return {"key_id": made["AccessKeyId"], "secret": made["SecretAccessKey"]}


def test_sts_says_whose_a_key_is(local: LocalAws, key: dict[str, str]) -> None:
    assert identity(local, **key) == "arn:aws:iam::123456789012:user/rotated/app"


def test_sts_refuses_a_key_while_it_is_inactive(local: LocalAws, key: dict[str, str]) -> None:
    iam = boto3.client("iam", **local.settings())
    the_key = {"UserName": "app", "AccessKeyId": key["key_id"]}

    iam.update_access_key(**the_key, Status="Inactive")
    assert identity(local, **key) == "InvalidClientTokenId"
    iam.update_access_key(**the_key, Status="Active")
    assert identity(local, **key).endswith("/app")


def test_sts_refuses_a_key_that_was_deleted(local: LocalAws, key: dict[str, str]) -> None:
    boto3.client("iam", **local.settings()).delete_access_key(
        UserName="app", AccessKeyId=key["key_id"]
    )

    assert identity(local, **key) == "InvalidClientTokenId"


@pytest.mark.parametrize("key_id", ["none", "AKIA0000000000000000"])
def test_sts_refuses_a_key_that_nobody_has_made(local: LocalAws, key_id: str) -> None:
    assert identity(local, key_id, "none") == "InvalidClientTokenId"


def test_sts_refuses_another_secret(local: LocalAws, key: dict[str, str]) -> None:
    assert identity(local, key["key_id"], "none") == "SignatureDoesNotMatch"


def test_sts_knows_a_role_and_the_local_clients(local: LocalAws) -> None:
    sts = boto3.client("sts", **local.settings())
    assumed = sts.assume_role(
        RoleArn="arn:aws:iam::123456789012:role/deploy", RoleSessionName="session"
    )["Credentials"]

    arn = identity(local, assumed["AccessKeyId"], assumed["SecretAccessKey"])

    assert arn.endswith("assumed-role/deploy/session")
    assert identity(local, function_key_id("rotate"), "local").startswith("arn:aws:sts::")


def test_the_client_of_the_demo_notices_that_its_key_was_taken_away(
    local: LocalAws, key: dict[str, str]
) -> None:
    value = {"access_key_id": key["key_id"], "secret_access_key": key["secret"]}
    client = Sts(local)

    assert client.lets_in(value)
    boto3.client("iam", **local.settings()).update_access_key(
        UserName="app", AccessKeyId=key["key_id"], Status="Inactive"
    )
    assert not client.lets_in(value)


# ---------------------------------------------------------------------- functions


def test_a_function_sees_the_lambda_environment(local: LocalAws) -> None:
    code = """
import os, sys
def handler(event, context):
    return [context.function_name, context.invoked_function_arn, len(context.aws_request_id),
            0 < context.get_remaining_time_in_millis() <= 10000,
            sorted(n for n in os.environ if not n.startswith("AWS_")),
            os.environ["AWS_ENDPOINT_URL"]]
"""
    arn = function(local, code)

    seen, failed = invoke(local, "rotate", {})

    plain = ["LAMBDA_TASK_ROOT", "LANG", "PATH", "TZ", "_HANDLER"]
    assert not failed
    assert isinstance(seen, list)
    assert seen[:4] == ["rotate", arn, 36, True]
    assert [name for name in seen[4] if name != "LC_CTYPE"] == plain
    assert seen[5] == local.endpoint_url


def test_a_process_is_kept_warm(local: LocalAws) -> None:
    function(local, "import os\ndef handler(event, context):\n    return os.getpid()\n")

    assert invoke(local, "rotate", {}) == invoke(local, "rotate", {})


def test_new_settings_get_a_new_process(local: LocalAws) -> None:
    function(local, "import os\ndef handler(event, context):\n    return os.environ.get('X')\n")
    invoke(local, "rotate", {})

    boto3.client("lambda", **local.settings()).update_function_configuration(
        FunctionName="rotate", Environment={"Variables": {"X": "1"}}
    )

    assert invoke(local, "rotate", {}) == ("1", False)


def test_a_function_is_killed_when_its_time_is_up(local: LocalAws) -> None:
    function(local, "import time\ndef handler(event, context):\n    time.sleep(30)\n", timeout_s=1)

    answer, failed = invoke(local, "rotate", {})

    assert failed
    assert answer == {
        "errorType": "Sandbox.Timedout",
        "errorMessage": "Task timed out after 1.00 seconds",
    }


def test_a_function_that_raises_answers_as_lambda_does(local: LocalAws) -> None:
    function(local, FAILS)

    answer, failed = invoke(local, "rotate", {})

    assert failed
    assert isinstance(answer, dict)
    assert (answer["errorType"], answer["errorMessage"]) == ("ValueError", "no")


def test_a_function_that_exits_does_not_hang(local: LocalAws) -> None:
    function(local, "import os\ndef handler(event, context):\n    os._exit(3)\n")

    answer, failed = invoke(local, "rotate", {})

    assert failed
    assert isinstance(answer, dict)
    assert answer["errorType"] == "Runtime.ExitError"


def test_a_function_that_cannot_be_imported_says_why(local: LocalAws) -> None:
    function(local, "import no_such_module\n")

    answer, failed = invoke(local, "rotate", {})

    assert failed
    assert isinstance(answer, dict)
    assert answer["errorType"] == "Runtime.ImportModuleError"
    assert "no_such_module" in answer["errorMessage"]


def test_what_a_function_writes_is_in_its_log_group(local: LocalAws) -> None:
    code = """
import logging, sys
def handler(event, context):
    print("printed")
    logging.warning("logged")
    print("to stderr", file=sys.stderr)
"""
    function(local, code)

    assert invoke(local, "rotate", {}) == (None, False)

    assert logged(local).splitlines() == ["printed", "[WARNING]\tlogged", "to stderr"]


def test_an_asynchronous_call_does_not_wait(local: LocalAws, tmp_path: Path) -> None:
    function(local, WAITS.replace("FOLDER", str(tmp_path)))
    functions = boto3.client("lambda", **local.settings())

    answer = functions.invoke(FunctionName="rotate", InvocationType="Event", Payload=b"{}")

    assert answer["StatusCode"] == 202
    (tmp_path / "go").touch()
    assert local.settle()
    assert (tmp_path / "started").exists()


def test_a_stop_ends_the_processes_of_functions(tmp_path: Path) -> None:
    code = "import os\ndef handler(event, context):\n    return os.getpid()\n"
    with LocalAws() as local:
        function(local, code)
        function(local, WAITS.replace("FOLDER", str(tmp_path)), name="busy")
        pid, _ = invoke(local, "rotate", {})
        boto3.client("lambda", **local.settings()).invoke(
            FunctionName="busy", InvocationType="Event", Payload=b"{}"
        )
        until((tmp_path / "started").exists)
        begin = time.monotonic()

    assert time.monotonic() - begin < 5
    assert not Path(f"/proc/{pid}").exists()


def test_processes_of_functions_die_with_the_process_that_started_them(tmp_path: Path) -> None:
    """Even in the middle of an event."""
    code = f"""
import os, time
from pathlib import Path
def handler(event, context):
    Path({str(tmp_path)!r}, "fresh").write_text(str(os.getpid()))
    Path({str(tmp_path)!r}, "fresh").rename({str(tmp_path / "pid")!r})
    time.sleep(600)
"""
    script = f"""
import os, signal, sys, threading
sys.path[:0] = {sys.path!r}
from test_local_aws import *
local = LocalAws()
local.start()
function(local, {code!r}, timeout_s=600)
threading.Thread(target=invoke, args=(local, "rotate", {{}}), daemon=True).start()
until(Path({str(tmp_path)!r}, "pid").exists)
os.kill(os.getpid(), signal.SIGKILL)
"""
    here = Path(__file__).parent

    subprocess.run([sys.executable, "-c", script], check=False, timeout=60, cwd=here)

    pid = (tmp_path / "pid").read_text()
    until(lambda: not is_running(int(pid)))


# ---------------------------------------------------------------------- events


def test_an_event_reaches_a_function(local: LocalAws) -> None:
    arn = function(local, PRINTS, name="notified")
    events = boto3.client("events", **local.settings())
    events.put_rule(Name="rule", EventPattern=json.dumps({"source": ["mine"]}))
    events.put_targets(Rule="rule", Targets=[{"Id": "1", "Arn": arn}])

    events.put_events(Entries=[{"Source": "mine", "DetailType": "kind", "Detail": '{"a": 1}'}])
    events.put_events(Entries=[{"Source": "other", "DetailType": "kind", "Detail": "{}"}])

    assert local.settle()
    log = logged(local, "notified")
    assert log.count("EVENT") == 1
    assert "'detail': {'a': 1}" in log
    assert "'account': '123456789012'" in log
    assert f"'time': '{datetime.now(UTC).year}-" in log


def test_an_event_reaches_a_topic_in_the_words_of_its_rule(local: LocalAws) -> None:
    topics = boto3.client("sns", **local.settings())
    queues = boto3.client("sqs", **local.settings())
    events = boto3.client("events", **local.settings())
    topic = topics.create_topic(Name="alerts")["TopicArn"]
    queue = queues.create_queue(QueueName="mails")["QueueUrl"]
    topics.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=queue_arn(queues, queue))
    events.put_rule(Name="rule", EventPattern=json.dumps({"source": ["mine"]}))
    paths, words = {"who": "$.detail.who"}, '"it was <who>"'
    transformer: InputTransformerTypeDef = {"InputPathsMap": paths, "InputTemplate": words}
    events.put_targets(
        Rule="rule", Targets=[{"Id": "1", "Arn": topic, "InputTransformer": transformer}]
    )

    events.put_events(Entries=[{"Source": "mine", "DetailType": "k", "Detail": '{"who": "me"}'}])

    assert local.settle()
    (message,) = queues.receive_message(QueueUrl=queue)["Messages"]
    assert json.loads(message["Body"])["Message"] == "it was me"


def queue_arn(queues: Any, queue: str) -> str:
    found = queues.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])
    return str(found["Attributes"]["QueueArn"])


# ---------------------------------------------------------------------- deployments

TEMPLATE = """
Transform: AWS::Serverless-2016-10-31
Parameters:
  Name: {Type: String}
  Email: {Type: String, Default: ""}
Conditions:
  HasEmail: !Not [!Equals [!Ref Email, ""]]
Resources:
  Rotate:
    Type: AWS::Serverless::Function
    Properties: {CodeUri: code/, Handler: app.handler, Runtime: python3.13}
  Permission:
    Type: AWS::Lambda::Permission
    Properties:
      FunctionName: !Ref Rotate
      Action: lambda:InvokeFunction
      Principal: secretsmanager.amazonaws.com
      SourceAccount: !Ref AWS::AccountId
  Secret:
    Type: AWS::SecretsManager::Secret
    Properties:
      Name: !Ref Name
      GenerateSecretString:
        SecretStringTemplate: '{"username": "app", "port": 1}'
        GenerateStringKey: password
        PasswordLength: 40
        ExcludeCharacters: "abc"
        ExcludePunctuation: true
  Schedule:
    Type: AWS::SecretsManager::RotationSchedule
    DependsOn: Permission
    Properties:
      SecretId: !Ref Secret
      RotationLambdaARN: !GetAtt Rotate.Arn
      RotateImmediatelyOnUpdate: false
      RotationRules: {ScheduleExpression: rate(30 days), Duration: 2h}
  Topic: {Type: AWS::SNS::Topic}
  TopicPolicy:
    Type: AWS::SNS::TopicPolicy
    Properties: {Topics: [!Ref Topic], PolicyDocument: {Statement: []}}
  Subscription:
    Type: AWS::SNS::Subscription
    Condition: HasEmail
    Properties: {TopicArn: !Ref Topic, Protocol: email, Endpoint: !Ref Email}
  Alarm:
    Type: AWS::CloudWatch::Alarm
    Properties:
      Namespace: AWS/Lambda
      MetricName: Errors
      Statistic: Sum
      Period: 300
      EvaluationPeriods: 1
      Threshold: 0
      ComparisonOperator: GreaterThanThreshold
  Sweep:
    Type: AWS::Scheduler::Schedule
    Properties:
      ScheduleExpression: rate(5 minutes)
      FlexibleTimeWindow: {Mode: "OFF"}
      Target: {Arn: !GetAtt Rotate.Arn, RoleArn: !GetAtt RotateRole.Arn}
Outputs:
  SecretArn: {Value: !Ref Secret}
  AlarmArn: {Value: !GetAtt Alarm.Arn}
"""


@pytest.fixture
def template(tmp_path: Path) -> Path:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "app.py").write_text(PROMOTES)
    path = tmp_path / "template.yaml"
    path.write_text(TEMPLATE)
    return path


def test_a_template_is_deployed_completely(local: LocalAws, template: Path) -> None:
    stack = deploy(local, template, parameters={"Name": "my/secret", "Email": "me@example.org"})

    store = boto3.client("secretsmanager", **local.settings())
    assert local.settle()
    described = store.describe_secret(SecretId="my/secret")
    value = json.loads(store.get_secret_value(SecretId="my/secret")["SecretString"])
    wanted = {"Rotate", "RotateRole", "Permission", "Secret", "Schedule", "Topic", "TopicPolicy"}
    assert wanted | {"Subscription", "Alarm", "Sweep"} == set(stack.resources)
    assert stack.outputs["SecretArn"] == stack.resources["Secret"] == described["ARN"]
    assert described["RotationRules"] == {"ScheduleExpression": "rate(30 days)", "Duration": "2h"}
    assert (value["username"], value["port"], len(value["password"])) == ("app", 1, 40)
    assert not set(value["password"]) & set("abc")
    assert ":alarm:" in stack.outputs["AlarmArn"]


def test_a_deployed_secret_rotates(local: LocalAws, template: Path) -> None:
    stack = deploy(local, template, parameters={"Name": "my/secret"})
    assert local.settle()
    store = boto3.client("secretsmanager", **local.settings())

    version = store.rotate_secret(SecretId=stack.resources["Secret"])["VersionId"]

    assert local.settle()
    assert current(store, "my/secret") == version


def test_what_a_condition_leaves_out_is_not_missed(local: LocalAws, template: Path) -> None:
    stack = deploy(local, template, parameters={"Name": "my/secret"})

    assert "Subscription" not in stack.resources


def test_the_projects_own_template_is_deployed_completely(local: LocalAws) -> None:
    template = Path(__file__).parents[2] / "infra" / "template.yaml"

    stack = deploy(local, template, parameters={"DatabaseHost": "127.0.0.1", "DatabaseName": "app"})

    assert {"Secret", "AdminSecret", "Key", "Rotate", "Schedule"} <= set(stack.resources)


def test_a_type_that_is_not_known_is_refused_by_name(local: LocalAws, template: Path) -> None:
    template.write_text(TEMPLATE.replace("AWS::SNS::TopicPolicy", "AWS::Nobody::Knows"))

    with pytest.raises(Unsupported) as refused:
        deploy(local, template, parameters={"Name": "my/secret"})

    assert "AWS::Nobody::Knows" in str(refused.value)


def test_a_resource_that_cannot_be_made_is_an_error(local: LocalAws, template: Path) -> None:
    template.write_text(
        TEMPLATE.replace("DependsOn: Permission", "").replace(
            "Principal: secretsmanager.amazonaws.com", "Principal: events.amazonaws.com"
        )
    )

    with pytest.raises(Misconfigured) as refused:
        deploy(local, template, parameters={"Name": "my/secret"})

    assert "cannot invoke" in str(refused.value)


@pytest.mark.parametrize(
    "text, word",
    [("{", "template.yaml"), ("a: b", "Resources"), ("Resources: {A: {Type: X::Y::Z}}", "X::Y::Z")],
)
def test_a_template_that_is_wrong_is_named(
    local: LocalAws, tmp_path: Path, text: str, word: str
) -> None:
    template = tmp_path / "template.yaml"
    template.write_text(text)

    with pytest.raises((Misconfigured, Unsupported)) as refused:
        deploy(local, template)

    assert word in str(refused.value)


def test_a_parameter_that_the_template_lacks_is_named(local: LocalAws, template: Path) -> None:
    with pytest.raises(Misconfigured) as refused:
        deploy(local, template, parameters={"Name": "my/secret", "Nmae": "x"})

    assert "Nmae" in str(refused.value)


def test_a_package_holds_what_the_function_needs_and_is_always_the_same(tmp_path: Path) -> None:
    kept = ["aws/rotate.py", "keyturn/model.py", "keyturn/stores/a.py", "main.py"]
    left = ["keyturn/local/aws.py", "keyturn/cli/__init__.py", "keyturn/testing/x.py", "Makefile"]
    left += ["requirements/x.txt", "gcp/rotate.py", "keyturn/__pycache__/model.pyc"]
    for name in kept + left:
        (tmp_path / "functions" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "functions" / name).write_text(name)
    plan = tmp_path / "my-plan.yaml"
    plan.write_text("version: 1")

    packed = package(tmp_path / "functions", plan)

    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        assert sorted(archive.namelist()) == sorted([*kept, "keyturn.yaml"])
    assert packed == package(tmp_path / "functions", plan)


# ---------------------------------------------------------------------- moto's private names

PATCHED = [
    f"{patch.owner.__name__}.{patch.name}"
    for patch in moto_patches(Functions(Path("/nonexistent"), ""), "http://127.0.0.1:1")
]


def find_patch(name: str) -> Patch:
    every = moto_patches(Functions(Path("/nonexistent"), ""), "http://127.0.0.1:1")
    return next(patch for patch in every if name == f"{patch.owner.__name__}.{patch.name}")


@pytest.mark.parametrize("name", PATCHED)
def test_canary_moto_still_has_the_name_as_we_know_it(name: str) -> None:
    find_patch(name).check()


@pytest.mark.parametrize("name", PATCHED)
def test_canary_a_patch_is_undone(name: str) -> None:
    patch = find_patch(name)
    original = getattr(patch.owner, patch.name)

    with LocalAws():
        assert getattr(patch.owner, patch.name) is not original

    assert getattr(patch.owner, patch.name) is original


def test_canary_a_moto_that_has_changed_is_refused() -> None:
    class Changed:
        def renamed(self, added: str) -> None: ...

    before = Changed.renamed
    wrong = Patch(Changed, "renamed", ("self",), lambda original: original)

    with pytest.raises(Unsupported), applied([wrong]):
        pass

    assert Changed.renamed is before


def test_canary_motos_records_have_what_is_read_from_them(
    store: SecretsManagerClient, secret: str
) -> None:
    from moto.secretsmanager.models import secretsmanager_backends

    record = secretsmanager_backends["123456789012"]["us-east-1"].secrets.get(secret)
    (version,) = record.versions.values()
    assert {"version_id", "version_stages", "createdate", "secret_string"} <= set(version)
    assert record.default_version_id in record.versions
    assert hasattr(record, "rotation_lambda_arn")
    assert store.describe_secret(SecretId=secret)["ARN"] == record.arn


def until(condition: Callable[[], bool], limit_s: float = 20) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


INFRA = Path(__file__).parents[2] / "infra" / "template.yaml"


def test_the_template_deploys_what_mints_access_keys_without_a_database(local: LocalAws) -> None:
    """Prepared by the one function, minted by the other, and what is served works."""
    boto3.client("iam", **local.settings()).create_user(UserName="mailer", Path="/rotated/")
    stack = deploy(
        local,
        INFRA,
        stack_name="keys",
        parameters={
            "GeneratedSecrets": "deployed/keys/*",
            "IamUsers": "arn:aws:iam::123456789012:user/rotated/mailer",
        },
    )
    assert not {"Secret", "AdminSecret", "Rotate", "Schedule", "Dlq"} & set(stack.resources)
    event = {
        "generate": "iam-access-key",
        "secret": "deployed/keys/mailer",
        "policy": {"username": "mailer"},
    }
    invoked = boto3.client("lambda", **local.settings()).invoke(
        FunctionName=stack.outputs["GenerateFunctionName"], Payload=json.dumps(event)
    )
    assert json.loads(invoked["Payload"].read())["outcome"] == "done"
    manager = boto3.client("secretsmanager", **local.settings())
    served: list[dict[str, str]] = []
    arn = stack.outputs["RotateGeneratedFunctionArn"]

    for _ in range(2):
        manager.rotate_secret(SecretId="deployed/keys/mailer", RotationLambdaARN=arn)
        assert local.settle()
        value = manager.get_secret_value(SecretId="deployed/keys/mailer")["SecretString"]
        served.append(json.loads(value))

    assert served[0]["access_key_id"] != served[1]["access_key_id"]
    found = [identity(local, v["access_key_id"], v["secret_access_key"]) for v in served]
    assert found == ["arn:aws:iam::123456789012:user/rotated/mailer"] * 2


def test_the_template_deploys_both_functions_and_they_work(local: LocalAws, tmp_path: Path) -> None:
    """On demand by the one, and rotated by the other, each under its own role."""
    plan = tmp_path / "keyturn.yaml"
    plan.write_text(
        "version: 1\nsecrets:\n  deployed/generated/signing:\n"
        "    strategy: generate\n    generate: {kind: jwks}\n"
    )
    stack = deploy(
        local,
        INFRA,
        stack_name="generated",
        parameters={
            "DatabaseHost": "db.example.com",
            "SecretName": "deployed/db",
            "GeneratedSecrets": "deployed/generated/*",
        },
        plan=plan,
    )
    event = {"generate": "jwks", "secret": "deployed/generated/signing"}
    invoked = boto3.client("lambda", **local.settings()).invoke(
        FunctionName=stack.outputs["GenerateFunctionName"], Payload=json.dumps(event)
    )
    assert json.loads(invoked["Payload"].read())["outcome"] == "done"
    manager = boto3.client("secretsmanager", **local.settings())
    before = json.loads(manager.get_secret_value(SecretId=event["secret"])["SecretString"])

    manager.rotate_secret(
        SecretId=event["secret"], RotationLambdaARN=stack.outputs["RotateGeneratedFunctionArn"]
    )

    assert local.settle()
    after = json.loads(manager.get_secret_value(SecretId=event["secret"])["SecretString"])
    assert after["signing_key"]["kid"] == before["next_key"]["kid"]
    assert after["jwks"]["keys"][2]["kid"] == before["signing_key"]["kid"]
    key = manager.describe_secret(SecretId=event["secret"])["KmsKeyId"]
    assert key == stack.outputs["KeyArn"]
