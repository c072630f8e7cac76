"""The whole of it, deployed: rotate; the copies follow; it is told; the old password dies."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.secretsmanager.models import secretsmanager_backends
from typer.testing import CliRunner

from keyturn.cli import app
from keyturn.destinations.s3_blob import VERSION
from keyturn.local.aws import LocalAws
from keyturn.local.deploy import Stack, deploy
from keyturn.local.redis import Redis
from redises import ROTATION, connect, make_user, unused_name

INFRA = Path(__file__).parents[2] / "infra" / "template.yaml"
PLAN = """\
version: 1
secrets:
  deployed/followed/{it}:
    strategy: dual-password
    deliver:
      - s3: {{bucket: copies-{it}, key: followed, kms_key: alias/copies-{it}}}
      - ssm: {{name: /{it}/password, kms_key: alias/copies-{it}, form: value, member: password}}
    retire: {{when: verified, grace: 1m, deadline: 5m, at_deadline: force}}
"""
_numbers = count(1)


@dataclass
class Deployed:
    """A stack with a follow-up, and a queue that hears its alerts."""

    aws: LocalAws
    it: str
    stack: Stack
    plan: Path
    queue: str
    user: str
    server: Redis

    @property
    def name(self) -> str:
        return f"deployed/followed/{self.it}"

    @property
    def bucket(self) -> str:
        return f"copies-{self.it}"

    def client(self, service: str) -> Any:
        make: Any = boto3.client
        return make(service, **self.aws.settings())

    def rotate(self) -> None:
        self.client("secretsmanager").rotate_secret(SecretId=self.name)
        assert self.aws.settle()

    def look(self) -> dict[str, Any]:
        answer = self.client("lambda").invoke(
            FunctionName=self.stack.outputs["FollowUpFunctionName"],
            Payload=json.dumps({"sweep": True}),
        )
        said: dict[str, Any] = json.loads(answer["Payload"].read())
        return said

    def labels(self) -> dict[str, str]:
        described = self.client("secretsmanager").describe_secret(SecretId=self.name)
        found = described["VersionIdsToStages"].items()
        return {label: version for version, labels in found for label in labels}

    def copied(self) -> str | None:
        """Return which version the object in S3 is."""
        if self.client("s3").list_objects_v2(Bucket=self.bucket)["KeyCount"] == 0:
            return None
        found = self.client("s3").head_object(Bucket=self.bucket, Key="followed")
        return str(found["Metadata"][VERSION])

    def alerts(self) -> list[dict[str, str]]:
        return _heard(self.aws, self.queue)

    def age(self, seconds: float) -> None:
        """Let the promotion be so long ago, for the store."""
        backend = secretsmanager_backends[DEFAULT_ACCOUNT_ID][self.aws.region]
        backend.secrets[self.name].last_changed_date -= seconds

    def forget_the_try_out(self) -> None:
        """Take back what the service has tried while the user was not there."""
        pending = self.labels().get("AWSPENDING")
        if pending is not None:
            self.client("secretsmanager").update_secret_version_stage(
                SecretId=self.name, VersionStage="AWSPENDING", RemoveFromVersionId=pending
            )

    def password(self) -> str:
        value = self.client("secretsmanager").get_secret_value(
            SecretId=self.name, VersionStage="AWSCURRENT"
        )
        return str(json.loads(value["SecretString"])["password"])

    def passwords(self) -> int:
        with connect(self.server) as superuser:
            return len(superuser.acl_getuser(self.user)["passwords"])


@pytest.fixture(scope="module", autouse=True)
def _process_to_itself(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let the session's local AWS make room: there is one per process."""
    shared: LocalAws = request.getfixturevalue("aws")
    shared.stop()
    yield
    shared.start()


@pytest.fixture
def local() -> Iterator[LocalAws]:
    with LocalAws() as started:
        yield started


@pytest.fixture
def deployed(local: LocalAws, redis: Redis, tmp_path: Path) -> Deployed:
    settings: Any = local.settings()
    it = f"followed-{os.getpid()}-{next(_numbers)}"
    user, plan = unused_name("followed"), tmp_path / "keyturn.yaml"
    plan.write_text(PLAN.format(it=it))
    kms = boto3.client("kms", **settings)
    key = kms.create_key()["KeyMetadata"]["KeyId"]
    kms.create_alias(AliasName=f"alias/copies-{it}", TargetKeyId=key)
    boto3.client("s3", **settings).create_bucket(Bucket=f"copies-{it}")
    stack = deploy(local, INFRA, stack_name=it, parameters=_parameters(it, user, redis), plan=plan)
    queue = _hear(local, it, stack.outputs["AlertsTopicArn"])
    assert local.settle()
    room = Deployed(local, it, stack, plan, queue, user, redis)
    make_user(redis, user, room.password(), *ROTATION)
    room.forget_the_try_out()
    return room


def _hear(local: LocalAws, it: str, topic: str) -> str:
    """Make a queue that hears a topic, and return its URL."""
    sqs: Any = boto3.client("sqs", **local.settings())
    sns: Any = boto3.client("sns", **local.settings())
    queue = sqs.create_queue(QueueName=f"heard-{it}")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn["Attributes"]["QueueArn"])
    return str(queue)


def _parameters(it: str, user: str, redis: Redis) -> dict[str, str]:
    return {
        "SecretName": f"deployed/followed/{it}",
        "Engine": "redis",
        "DatabaseHost": redis.host,
        "DatabasePort": str(redis.port),
        "DatabaseUser": user,
        "DatabaseSsl": "false",
        "Strategy": "single-user",
        "FollowUp": "true",
        "CopiesBucket": f"copies-{it}",
        "CopiesParameters": f"/{it}/*",
    }


def test_a_rotation_is_followed_to_its_end(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = deployed.labels()["AWSCURRENT"]

    deployed.rotate()

    # The event of the promotion has started it: nobody has called it.
    current = deployed.labels()["AWSCURRENT"]
    assert current != before
    assert deployed.copied() == current
    parameter = deployed.client("ssm").get_parameter(
        Name=f"/{deployed.it}/password", WithDecryption=True
    )["Parameter"]
    assert (parameter["Value"] == deployed.password()) is True
    assert {(a["happening"], a["version"]) for a in deployed.alerts()} == {("succeeded", current)}
    assert deployed.passwords() == 2

    for name, value in deployed.aws.environment().items():
        monkeypatch.setenv(name, value)
    asked = ["status", deployed.name, "--plan", str(deployed.plan)]
    shown = CliRunner().invoke(app, [*asked, "--json"])
    lines = json.loads(shown.stdout)["lines"]
    assert [(line["part"], line["state"]) for line in lines] == [
        ("destination", "done"),
        ("destination", "done"),
        ("old credential", "waiting"),
    ]
    assert "no consumer is named" in lines[2]["waits_for"]
    assert [line["version_id"] for line in lines] == [current, current, None]
    assert [line["waits_since"] is None for line in lines] == [True, True, False]
    assert shown.exit_code == 1

    deployed.age(600)
    said = deployed.look()

    assert said["outcome"] == "done"
    assert deployed.passwords() == 1
    assert "AWSPREVIOUS" not in deployed.labels()
    assert [(a["happening"], a["version"]) for a in deployed.alerts()] == [("retired", before)]
    deployed.age(600)
    assert deployed.look()["waiting"] == ""
    assert deployed.alerts() == []
    shown = CliRunner().invoke(app, asked)
    assert shown.exit_code == 0


def test_a_lost_event_costs_a_sweep_only(deployed: Deployed) -> None:
    """The rule leads nowhere while the rotation ends."""
    rule = deployed.stack.resources["FollowUpStarts"]
    deployed.client("events").remove_targets(Rule=rule, Ids=["follow-up"])
    deployed.rotate()
    was_there = deployed.copied() == deployed.labels()["AWSCURRENT"]

    deployed.look()

    assert not was_there
    assert deployed.copied() == deployed.labels()["AWSCURRENT"]


def test_what_cannot_be_delivered_fails_the_look_and_the_rest_is_done(deployed: Deployed) -> None:
    deployed.client("s3").delete_object(Bucket=deployed.bucket, Key="followed")
    deployed.client("s3").delete_bucket(Bucket=deployed.bucket)

    deployed.rotate()
    said = deployed.look()

    assert said["errorType"] == "Misconfigured"
    assert deployed.client("ssm").get_parameter(Name=f"/{deployed.it}/password")


# ---------------------------------------------------------------------------- without a database

GENERATED_PLAN = """\
version: 1
secrets:
  {it}/mail:
    strategy: generate
    generate: {{kind: base64url, member: api_token}}
    deliver:
      - ssm: {{name: /{it}/mail, kms_key: alias/aws/ssm, form: value, member: api_token}}
"""


@dataclass
class Generated:
    """A stack that generates and follows, and has no database."""

    aws: LocalAws
    it: str
    stack: Stack
    queue: str

    def client(self, service: str) -> Any:
        make: Any = boto3.client
        return make(service, **self.aws.settings())

    def make(self, name: str) -> None:
        event = {"generate": "base64url", "secret": name, "policy": {"member": "api_token"}}
        answer = self.client("lambda").invoke(
            FunctionName=self.stack.outputs["GenerateFunctionName"], Payload=json.dumps(event)
        )
        assert json.loads(answer["Payload"].read())["outcome"] == "done"

    def rotate(self, name: str) -> None:
        self.client("secretsmanager").rotate_secret(
            SecretId=name, RotationLambdaARN=self.stack.outputs["RotateGeneratedFunctionArn"]
        )
        assert self.aws.settle()

    def alerts(self) -> list[dict[str, str]]:
        return _heard(self.aws, self.queue)


@pytest.fixture
def generated(local: LocalAws, tmp_path: Path) -> Generated:
    it = f"generated-{os.getpid()}-{next(_numbers)}"
    plan = tmp_path / "keyturn.yaml"
    plan.write_text(GENERATED_PLAN.format(it=it))
    parameters = {
        "GeneratedSecrets": f"{it}/*",
        "FollowUp": "true",
        "CopiesParameters": f"/{it}/*",
    }
    stack = deploy(local, INFRA, stack_name=it, parameters=parameters, plan=plan)
    return Generated(local, it, stack, _hear(local, it, stack.outputs["AlertsTopicArn"]))


def test_what_is_generated_is_followed_without_a_database(generated: Generated) -> None:
    name = f"{generated.it}/mail"
    generated.make(name)

    generated.rotate(name)

    served = generated.client("secretsmanager").get_secret_value(
        SecretId=name, VersionStage="AWSCURRENT"
    )
    parameter = generated.client("ssm").get_parameter(
        Name=f"/{generated.it}/mail", WithDecryption=True
    )["Parameter"]
    assert (parameter["Value"] == json.loads(served["SecretString"])["api_token"]) is True
    told = {(each["happening"], each["version"]) for each in generated.alerts()}
    assert told == {("succeeded", served["VersionId"])}
    assert not {"Secret", "AdminSecret", "Rotate", "FollowUpStarts"} & set(
        generated.stack.resources
    )


def test_the_services_own_verdict_becomes_an_alert(generated: Generated) -> None:
    """The plan does not say how this one is rotated, so it fails; nobody calls the follow-up."""
    name = f"{generated.it}/nobodys"
    generated.make(name)

    generated.rotate(name)

    alerts = generated.alerts()
    assert {each["happening"] for each in alerts} == {"failed"}
    assert {each["severity"] for each in alerts} == {"critical"}
    assert {each["secret"].partition(":secret:")[2][: len(name)] for each in alerts} == {name}
    assert all("log of the rotation function" in each["remedy"] for each in alerts)
    assert len({each["id"] for each in alerts}) == len(alerts)


def test_what_tells_a_person_is_made(generated: Generated) -> None:
    """As far as moto looks at it: the alarms are taken, and the dashboard is JSON."""
    watch = generated.client("cloudwatch")
    dashboards = watch.list_dashboards()["DashboardEntries"]
    body = watch.get_dashboard(DashboardName=dashboards[0]["DashboardName"])["DashboardBody"]

    metrics = {each["MetricName"] for each in watch.describe_alarms()["MetricAlarms"]}

    assert metrics >= {"SecondsBehind", "CredentialsHeld", "SecretsFollowed"}
    text = json.dumps(json.loads(body))
    assert generated.stack.outputs["FollowUpFunctionName"] in text
    assert "${" not in text


def _heard(aws: LocalAws, queue: str) -> list[dict[str, str]]:
    sqs: Any = boto3.client("sqs", **aws.settings())
    found = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)
    bodies = [json.loads(each["Body"]) for each in found.get("Messages", [])]
    return [json.loads(each["Message"]) for each in bodies]
