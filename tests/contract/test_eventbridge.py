"""Alerts by EventBridge: moto's over the real wire, a rule and a queue behind the bus."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config

from keyturn.errors import Unreachable
from keyturn.local.aws import LocalAws
from keyturn.notifiers.eventbridge import DETAIL_TYPE, SOURCE, EventBus
from keyturn.testing.contracts import Listener, NotifierContract, alert
from keyturn.testing.faults import Proxy

_numbers = count(1)


class Bus:
    """A bus with a rule that matches our events, and a queue that gets them."""

    def __init__(self, aws: LocalAws, proxy: Proxy) -> None:
        self._proxy = proxy
        name = f"bus-{os.getpid()}-{next(_numbers)}"
        direct: Any = boto3.client("events", **aws.settings())
        self._sqs: Any = boto3.client("sqs", **aws.settings())
        direct.create_event_bus(Name=name)
        self._queue = self._sqs.create_queue(QueueName=name)["QueueUrl"]
        queue_arn = self._sqs.get_queue_attributes(
            QueueUrl=self._queue, AttributeNames=["QueueArn"]
        )["Attributes"]["QueueArn"]
        pattern = {"source": [SOURCE], "detail-type": [DETAIL_TYPE]}
        direct.put_rule(Name=name, EventBusName=name, EventPattern=json.dumps(pattern))
        direct.put_targets(
            Rule=name, EventBusName=name, Targets=[{"Id": "queue", "Arn": queue_arn}]
        )
        through: Any = {**aws.settings(), "endpoint_url": f"http://127.0.0.1:{proxy.port}"}
        config = Config(retries={"total_max_attempts": 1}, read_timeout=5)
        client: Any = boto3.client("events", **through, config=config)
        self.notifier = EventBus(client, name)

    def events(self) -> list[dict[str, Any]]:
        found = self._sqs.receive_message(QueueUrl=self._queue, MaxNumberOfMessages=10)
        return [json.loads(each["Body"]) for each in found.get("Messages", [])]


@pytest.fixture
def bus(aws: LocalAws) -> Iterator[Bus]:
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy(urlsplit(aws.endpoint_url).port or 0))
        yield Bus(aws, proxy)


class TestEventBus(NotifierContract):
    @pytest.fixture
    def listener(self, bus: Bus) -> Listener:
        return Listener(
            bus.notifier,
            lambda: [each["detail"] for each in bus.events()],
            outage=bus._proxy.outage,  # noqa: SLF001  # the fixture's own
        )


def test_the_event_names_the_secret_as_its_resource(bus: Bus) -> None:
    bus.notifier.send(alert())

    [event] = bus.events()
    assert event["resources"] == [alert().ref]


def test_an_event_that_is_refused_is_not_taken_for_sent() -> None:
    """The call succeeds all the same."""

    class Full:
        def put_events(self, **_: object) -> dict[str, object]:
            return {"FailedEntryCount": 1, "Entries": [{"ErrorCode": "ThrottlingException"}]}

    with pytest.raises(Unreachable, match="ThrottlingException"):
        EventBus(Full(), "default").send(alert())
