"""Alerts by SNS: moto's over the real wire, a queue behind the topic."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import count
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config

from keyturn.local.aws import LocalAws
from keyturn.model import Happening, SecretRef
from keyturn.notifiers import wording
from keyturn.notifiers.sns import FILTERED_BY, SnsTopic
from keyturn.testing.contracts import Listener, NotifierContract, alert
from keyturn.testing.faults import Proxy

_numbers = count(1)


class Topic:
    """A topic, and a queue that hears everything. We reach it through a proxy."""

    def __init__(self, aws: LocalAws, proxy: Proxy, *, is_fifo: bool = False) -> None:
        self._proxy = proxy
        suffix, attributes = (".fifo", {"FifoTopic": "true"}) if is_fifo else ("", {})
        fifo_queue: Any = {"FifoQueue": "true"} if is_fifo else {}
        name = f"alerts-{os.getpid()}-{next(_numbers)}{suffix}"
        sns: Any = boto3.client("sns", **aws.settings())
        self._sqs: Any = boto3.client("sqs", **aws.settings())
        self.arn = sns.create_topic(Name=name, Attributes=attributes)["TopicArn"]
        self._queue = self._sqs.create_queue(QueueName=name, Attributes=fifo_queue)["QueueUrl"]
        queue_arn = self._sqs.get_queue_attributes(
            QueueUrl=self._queue, AttributeNames=["QueueArn"]
        )["Attributes"]["QueueArn"]
        sns.subscribe(TopicArn=self.arn, Protocol="sqs", Endpoint=queue_arn)
        through: Any = {**aws.settings(), "endpoint_url": f"http://127.0.0.1:{proxy.port}"}
        config = Config(retries={"total_max_attempts": 1}, read_timeout=5)
        self.client: Any = boto3.client("sns", **through, config=config)
        self.notifier = SnsTopic(self.client, self.arn)

    def messages(self) -> list[dict[str, Any]]:
        found = self._sqs.receive_message(QueueUrl=self._queue, MaxNumberOfMessages=10)
        return [json.loads(each["Body"]) for each in found.get("Messages", [])]

    def listener(self) -> Listener:
        return Listener(
            self.notifier,
            lambda: [json.loads(each["Message"]) for each in self.messages()],
            SnsTopic(self.client, f"{self.arn}-other"),
            self._proxy.outage,
        )


@pytest.fixture
def topic(aws: LocalAws) -> Iterator[Callable[..., Topic]]:
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy(urlsplit(aws.endpoint_url).port or 0))
        yield lambda **named: Topic(aws, proxy, **named)


class TestSnsTopic(NotifierContract):
    @pytest.fixture
    def listener(self, topic: Callable[..., Topic]) -> Listener:
        return topic().listener()


def test_a_subscription_can_be_filtered(topic: Callable[..., Topic]) -> None:
    """By what it is about and how bad it is."""
    one = topic()

    one.notifier.send(alert())

    [message] = one.messages()
    assert {name: each["Value"] for name, each in message["MessageAttributes"].items()} == {
        name: wording.fields(alert())[name] for name in FILTERED_BY
    }
    assert message["Subject"] == "keyturn: stuck: prod/orders/db-Ab12Cd"


def test_a_fifo_topic_drops_what_comes_twice(topic: Callable[..., Topic]) -> None:
    one = topic(is_fifo=True)

    for _ in range(2):
        one.notifier.send(alert())

    assert len(one.messages()) == 1


@pytest.mark.parametrize("name", ["x" * 500, "b\u00fcro", "two\nlines"])
def test_a_subject_is_what_mail_takes(topic: Callable[..., Topic], name: str) -> None:
    """SNS refuses longer ones, line breaks and what is not ASCII."""
    one = topic()

    one.notifier.send(replace(alert(), ref=SecretRef(name)))

    [message] = one.messages()
    assert message["Subject"].startswith("keyturn: stuck: ")
    assert len(message["Subject"]) <= 100


def test_a_person_reads_what_to_do() -> None:
    first, remedy, last = wording.text(alert()).splitlines()

    assert first.startswith(f"{alert().ref} (version {alert().version_id}): deployment orders/api")
    assert first.endswith("has not followed: 2 of 3 pods are old.")
    assert (remedy, last) == ("See what keeps it.", f"Alert {alert().id}")
    plain = replace(alert(), happening=Happening.FAILED, version_id=None, subject="", remedy="")
    assert len(wording.text(plain).splitlines()) == 2
