"""The local cloud's time: schedules tick, delayed messages come, functions see the time."""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest

from keyturn.errors import Misconfigured, Unsupported
from keyturn.local.aws import LocalAws

HANDLER = """\
import datetime, json

def handler(event, context):
    now = datetime.datetime.now(datetime.timezone.utc).isoformat()
    left = context.get_remaining_time_in_millis()
    if "Records" in event:
        event = {"message": event["Records"][0]["body"]}
    print("SEEN " + json.dumps({"event": event, "now": now, "left": left}))
    if event.get("message") == "bad":
        raise ValueError
    return now
"""


class Cloud:
    """A local AWS with one function that writes down what it sees."""

    def __init__(self, aws: LocalAws) -> None:
        self.aws = aws
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("seen.py", HANDLER)
        role = self.client("iam").create_role(RoleName="seen", AssumeRolePolicyDocument="{}")
        self.arn = self.client("lambda").create_function(
            FunctionName="seen",
            Runtime="python3.13",
            Role=role["Role"]["Arn"],
            Handler="seen.handler",
            Code={"ZipFile": packed.getvalue()},
            Timeout=10,
        )["FunctionArn"]

    def client(self, service: str) -> Any:
        make: Any = boto3.client
        return make(service, **self.aws.settings())

    def seen(self) -> list[dict[str, Any]]:
        logs = self.client("logs")
        if not logs.describe_log_groups()["logGroups"]:
            return []
        found = logs.filter_log_events(logGroupName="/aws/lambda/seen")["events"]
        lines = [line for event in found for line in event["message"].splitlines()]
        return [json.loads(line[5:]) for line in lines if line.startswith("SEEN ")]

    def schedule(self, expression: str, **state: str) -> None:
        events = self.client("events")
        events.put_rule(Name="tick", ScheduleExpression=expression, **state)
        target = {"Id": "seen", "Arn": self.arn, "Input": '{"tick": true}'}
        events.put_targets(Rule="tick", Targets=[target])

    def queue(self) -> str:
        made = self.client("sqs").create_queue(QueueName="later")["QueueUrl"]
        attributes = self.client("sqs").get_queue_attributes(
            QueueUrl=made, AttributeNames=["QueueArn"]
        )
        self.client("lambda").create_event_source_mapping(
            EventSourceArn=attributes["Attributes"]["QueueArn"], FunctionName="seen", BatchSize=1
        )
        return str(made)


@pytest.fixture(autouse=True)
def _process_to_itself(request: pytest.FixtureRequest) -> Iterator[None]:
    shared: LocalAws = request.getfixturevalue("aws")
    shared.stop()
    yield
    shared.start()


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with LocalAws() as aws:
        yield Cloud(aws)


def ahead(seen: dict[str, Any], of: datetime) -> float:
    """Return how many minutes later it was seen."""
    return (datetime.fromisoformat(seen["now"]) - of).total_seconds() / 60


def test_a_schedule_ticks_as_often_as_it_is_due(cloud: Cloud) -> None:
    cloud.schedule("rate(5 minutes)")
    began = datetime.now(UTC)

    cloud.aws.advance(timedelta(minutes=16))

    assert [round(ahead(each, began)) for each in cloud.seen()] == [5, 10, 15]
    assert [each["event"] for each in cloud.seen()] == [{"tick": True}] * 3


def test_what_is_left_of_a_period_is_not_lost(cloud: Cloud) -> None:
    cloud.schedule("rate(5 minutes)")

    for _ in range(4):
        cloud.aws.advance(timedelta(minutes=3))

    assert len(cloud.seen()) == 2


def test_a_delayed_message_comes_in_its_time_and_once(cloud: Cloud) -> None:
    queue, began = cloud.queue(), datetime.now(UTC)
    cloud.client("sqs").send_message(QueueUrl=queue, MessageBody="hello", DelaySeconds=300)

    cloud.aws.advance(timedelta(minutes=4))
    at_first = len(cloud.seen())
    cloud.aws.advance(timedelta(hours=1))

    assert at_first == 0
    assert [each["event"] for each in cloud.seen()] == [{"message": "hello"}]
    assert round(ahead(cloud.seen()[0], began)) == 5


def test_a_message_that_fails_comes_again(cloud: Cloud) -> None:
    """After the queue's visibility time-out, of half a minute."""
    queue = cloud.queue()
    cloud.client("sqs").send_message(QueueUrl=queue, MessageBody="bad", DelaySeconds=60)

    cloud.aws.advance(timedelta(seconds=100))

    assert len(cloud.seen()) == 2


def test_a_disabled_schedule_does_not_tick(cloud: Cloud) -> None:
    cloud.schedule("rate(1 minute)", State="DISABLED")

    cloud.aws.advance(timedelta(minutes=5))

    assert cloud.seen() == []


def test_a_schedule_of_another_kind_is_refused(cloud: Cloud) -> None:
    cloud.schedule("cron(0 12 * * ? *)")

    with pytest.raises(Unsupported):
        cloud.aws.advance(timedelta(minutes=5))


def test_a_function_has_its_whole_time(cloud: Cloud) -> None:
    """Only the wall clock is ahead."""
    cloud.aws.advance(timedelta(days=1))

    cloud.client("lambda").invoke(FunctionName="seen", Payload=b"{}")

    [seen] = cloud.seen()
    assert seen["left"] > 9_000
    assert abs(ahead(seen, datetime.now(UTC))) < 1


def test_it_is_given_back_at_the_end() -> None:
    before, counted = time.time(), time.monotonic()
    with LocalAws() as aws:
        aws.advance(timedelta(hours=2))
        during = time.time()

    assert during - before > 7_000
    assert time.time() - before < time.monotonic() - counted + 1


def test_it_needs_to_be_started() -> None:
    with pytest.raises(Misconfigured):
        LocalAws().advance(timedelta(minutes=1))
