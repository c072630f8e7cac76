"""The follow-up's Lambda, in process: what starts it, what it asks for, what it says."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import boto3
import pytest

from aws.follow_up import handler
from aws.rotate import handler as rotate
from clouds import ROOT, LambdaContext, event
from keyturn.errors import Misconfigured, Unreachable
from keyturn.follow_up import LOOKS_APART
from keyturn.local.aws import LocalAws
from keyturn.testing.fakes import FakeClock
from keyturn.testing.strict_iam import ACCOUNT, StrictIam
from keyturn.testing.strict_secrets_manager import StrictSecretsManager

USER = f"arn:aws:iam::{ACCOUNT}:user/rotated/app"
NAME = "followed/app"
PLAN = f"""\
version: 1
secrets:
  {NAME}:
    strategy: auto
    deliver: [{{ssm: {{name: /followed/app, kms_key: alias/aws/ssm}}}}]
    retire: {{when: verified, grace: 1h}}
  followed/other: {{strategy: single-user}}
"""
STEPS = ("create", "set", "test", "finish")
_numbers = count(1)


class Past(FakeClock):
    """Six hours ago, for the store: the grace is over for us."""

    def now(self) -> datetime:
        return datetime.now(UTC) - timedelta(hours=6)


@dataclass
class Room:
    """A secret with an access key, between a strict store, a strict IAM and a faithful rest."""

    store: StrictSecretsManager
    iam: StrictIam
    aws: LocalAws
    queue: str
    ear: str
    ref: str

    def rotate(self) -> str:
        token = f"{next(_numbers):0>36}"
        self.store.operate(
            "RotateSecret",
            SecretId=self.ref,
            ClientRequestToken=token,
            RotationLambdaARN=LambdaContext.invoked_function_arn,
        )
        context: Any = LambdaContext()
        for step in STEPS:
            rotate(event(step, self.ref, token), context)
        return token

    def heard(self) -> list[dict[str, str]]:
        sqs: Any = boto3.client("sqs", **self.aws.settings())
        found = sqs.receive_message(QueueUrl=self.ear, MaxNumberOfMessages=10)
        bodies = [json.loads(each["Body"]) for each in found.get("Messages", [])]
        return [json.loads(body["Message"]) for body in bodies]

    def asked_for(self) -> int:
        """Return how many second looks were asked for, none of which is due yet."""
        name = "ApproximateNumberOfMessagesDelayed"
        sqs: Any = boto3.client("sqs", **self.aws.settings())
        said = sqs.get_queue_attributes(QueueUrl=self.queue, AttributeNames=[name])
        return int(said["Attributes"][name])

    def ask(self, event: object) -> dict[str, str]:
        context: Any = LambdaContext()
        return handler(event, context)


def sample(name: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((ROOT / "events" / "follow-up" / f"{name}.json").read_text())
    return read


@pytest.fixture
def room(aws: LocalAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Room]:
    plan = tmp_path / "keyturn.yaml"
    plan.write_text(PLAN)
    with ExitStack() as stack:
        store = stack.enter_context(StrictSecretsManager(clock=Past()))
        iam = stack.enter_context(StrictIam(lambda: datetime.now(UTC) - timedelta(hours=6)))
        iam.add("app", "/rotated/")
        first = iam.make_key("app")
        document = {
            "engine": "iam-access-key",
            "username": "app",
            "access_key_id": first.key_id,
            "secret_access_key": first.secret.reveal(),
        }
        made = store.operate(
            "CreateSecret",
            Name=NAME,
            SecretString=json.dumps(document),
            ClientRequestToken="0" * 32,
        )
        variables = {
            **aws.environment(),
            **iam.environment(),
            "AWS_ENDPOINT_URL": aws.endpoint_url,
            "AWS_ENDPOINT_URL_SECRETS_MANAGER": store.settings()["endpoint_url"],
            "AWS_DEFAULT_REGION": aws.region,
            "KEYTURN_SECRETS": "followed/*",
            "KEYTURN_IAM_USERS": USER,
            "KEYTURN_PLAN": str(plan),
        }
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        it = f"follow-{os.getpid()}-{next(_numbers)}"
        sqs: Any = boto3.client("sqs", **aws.settings())
        queues = [sqs.create_queue(QueueName=f"{it}-{n}")["QueueUrl"] for n in ("again", "heard")]
        sns: Any = boto3.client("sns", **aws.settings())
        topic = sns.create_topic(Name=it)["TopicArn"]
        heard = sqs.get_queue_attributes(QueueUrl=queues[1], AttributeNames=["QueueArn"])
        sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=heard["Attributes"]["QueueArn"])
        monkeypatch.setenv("KEYTURN_LOOK_AGAIN_QUEUE", queues[0])
        monkeypatch.setenv("KEYTURN_ALERTS", f"sns:{topic}")
        yield Room(store, iam, aws, queues[0], queues[1], str(made["ARN"]))


def seen(version: str, ago: timedelta) -> dict[str, Any]:
    """Return the message of an earlier look."""
    at = (datetime.now(UTC) - ago).isoformat()
    body = json.dumps({"secret": NAME, "seen": {"version": version, "at": at}})
    return {"Records": [{"body": body}]}


# ---------------------------------------------------------------------------- it follows


def test_an_old_key_is_retired_by_the_second_look(room: Room) -> None:
    """IAM says that it is not used: for want of consumers that is the evidence."""
    version = room.rotate()

    first = room.ask({"secret": NAME})

    assert NAME in first["waiting"]
    assert room.asked_for() == 1
    assert [key.is_active for key in room.iam.alive("app")] == [True, True]
    second = room.ask(seen(version, LOOKS_APART))

    assert second["waiting"] == ""
    assert [key.is_active for key in room.iam.alive("app")] == [False, True]
    assert "AWSPREVIOUS" not in room.store.labels(room.ref)
    [alert] = room.heard()
    assert (alert["happening"], alert["version"]) == ("retired", "0" * 32)


def test_a_sighting_of_another_version_retires_nothing(room: Room) -> None:
    room.rotate()

    room.ask(seen("0" * 32, LOOKS_APART))

    assert [key.is_active for key in room.iam.alive("app")] == [True, True]


def test_the_copy_holds_the_document(room: Room) -> None:
    room.rotate()

    room.ask({"secret": room.ref, "only": ["ssm:/followed/app"]})

    ssm: Any = boto3.client("ssm", **room.aws.settings())
    copy = ssm.get_parameter(Name="/followed/app", WithDecryption=True)["Parameter"]["Value"]
    manager: Any = boto3.client("secretsmanager", **room.store.settings())
    served = manager.get_secret_value(SecretId=room.ref, VersionStage="AWSCURRENT")
    assert (copy == served["SecretString"]) is True


# ---------------------------------------------------------------------------- what starts it


def test_the_event_of_a_promotion_starts_it(room: Room) -> None:
    label = {**sample("label-updated"), "resources": [room.ref]}

    answer = room.ask(label)

    assert (answer["secret"], answer["looked_at"]) == (room.ref, "1")


def test_another_secrets_event_is_none_of_its_business(room: Room) -> None:
    """A rule may be wider than the plan."""
    answer = room.ask(sample("label-updated"))

    assert (answer["looked_at"], answer["outcome"]) == ("0", "done")


def test_a_sweep_looks_at_all_that_is_followed(room: Room) -> None:
    assert room.ask(sample("sweep"))["looked_at"] == "1"


def test_a_message_about_a_secret_that_has_left_the_plan_is_dropped(room: Room) -> None:
    """Else it would come again until it is too old."""
    assert room.ask(sample("look-again"))["looked_at"] == "0"


def test_who_asks_for_a_secret_that_nothing_follows_hears_of_it(room: Room) -> None:
    with pytest.raises(Misconfigured, match="no secret that something follows"):
        room.ask({"secret": "followed/other"})


def test_who_asks_for_a_destination_that_is_not_there_hears_which_are(room: Room) -> None:
    with pytest.raises(Misconfigured) as refusal:
        room.ask({"secret": NAME, "only": ["s3://nowhere"]})

    assert "ssm:/followed/app" in refusal.value.remedy


def test_what_the_service_says_of_a_rotation_is_passed_on(room: Room) -> None:
    for _ in range(2):
        room.ask(sample("rotation-failed"))

    first, second = room.heard()
    assert first == second
    assert (first["happening"], first["severity"]) == ("failed", "critical")
    assert first["remedy"]


# ---------------------------------------------------------------------------- what it measures


def measured(capsys: pytest.CaptureFixture[str]) -> dict[str, float]:
    """Return the numbers that CloudWatch would find in the log, of the follow-up as a whole."""
    found: dict[str, float] = {}
    for line in capsys.readouterr().out.splitlines():
        read = json.loads(line)
        for metrics in read.get("_aws", {}).get("CloudWatchMetrics", []):
            if metrics["Dimensions"] == [["service"]]:
                assert (metrics["Namespace"], read["service"]) == ("keyturn", "orders-db")
                found |= {each["Name"]: read[each["Name"]][0] for each in metrics["Metrics"]}
    return found


@pytest.fixture(autouse=True)
def _stack_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", "orders-db")


def test_a_sweep_measures_the_whole(room: Room, capsys: pytest.CaptureFixture[str]) -> None:
    """Six hours after a promotion that it has not heard of: the copy follows, the key waits."""
    room.rotate()
    capsys.readouterr()

    room.ask({"sweep": True})

    numbers = measured(capsys)
    assert numbers.pop("OldCredentialHours") == pytest.approx(6, abs=0.1)
    assert numbers == {
        "LooksFailed": 0,
        "CredentialsRetired": 0,
        "SecretsFollowed": 1,
        "CopiesBehind": 0,
        "ConsumersBehind": 0,
        "SecondsBehind": 0,
        "CredentialsHeld": 0,
    }


def test_what_a_sweep_cannot_do_is_measured_and_has_a_line(
    room: Room, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    version = room.rotate()
    capsys.readouterr()
    monkeypatch.setenv("AWS_ENDPOINT_URL_SSM", "http://127.0.0.1:1")

    with pytest.raises(Unreachable):
        room.ask({"sweep": True})

    logged = capsys.readouterr().out
    behind = [json.loads(line) for line in logged.splitlines() if '"behind"' in line]
    assert [(each["secret"], each["version_id"]) for each in behind] == [(NAME, version)]
    assert (behind[0]["copies_behind"], behind[0]["consumers_behind"]) == (1, 0)
    assert behind[0]["seconds_behind"] == pytest.approx(6 * 3600, abs=60)
    [line] = [json.loads(each) for each in logged.splitlines() if "CopiesBehind" in each]
    assert (line["CopiesBehind"], line["LooksFailed"]) == ([1.0], [1.0])


def test_the_end_of_an_old_key_is_measured_once(
    room: Room, capsys: pytest.CaptureFixture[str]
) -> None:
    version = room.rotate()
    room.ask({"secret": NAME})
    capsys.readouterr()

    room.ask(seen(version, LOOKS_APART))
    first = measured(capsys)
    room.ask(seen(version, LOOKS_APART))

    assert first == {"LooksFailed": 0, "CredentialsRetired": 1, "AlertRetired": 1}
    assert measured(capsys) == {"LooksFailed": 0, "CredentialsRetired": 0}


def test_what_the_service_says_of_a_rotation_is_measured(
    room: Room, capsys: pytest.CaptureFixture[str]
) -> None:
    room.ask(sample("rotation-failed"))

    assert measured(capsys)["AlertFailed"] == 1


# ---------------------------------------------------------------------------- what goes wrong


def test_without_a_plan_nothing_follows(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KEYTURN_PLAN")

    with pytest.raises(Misconfigured, match="there is no plan"):
        room.ask({"sweep": True})


def test_an_address_of_no_kind_is_refused(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYTURN_ALERTS", "mail:me@example.com")

    with pytest.raises(Misconfigured) as refusal:
        room.ask({"sweep": True})

    assert "eventbridge, log, pubsub, sns" in refusal.value.remedy


def test_a_second_look_needs_a_queue(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    room.rotate()
    monkeypatch.delenv("KEYTURN_LOOK_AGAIN_QUEUE")

    with pytest.raises(Misconfigured, match="no queue for the second look"):
        room.ask({"sweep": True})


def test_a_store_that_is_down_fails_the_look(room: Room) -> None:
    with room.store.outage(), pytest.raises(Unreachable):
        room.ask({"secret": NAME})


def test_a_look_says_nothing_secret(room: Room, capsys: pytest.CaptureFixture[str]) -> None:
    version = room.rotate()
    said = [room.ask({"secret": NAME}), room.ask(seen(version, LOOKS_APART))]

    logged = capsys.readouterr().out
    keys = [key.secret.reveal() for key in room.iam.alive("app")]
    assert len(keys) == 2
    assert not [key for key in keys if key in logged + json.dumps(said)]
