"""Alerts by Pub/Sub: the local one over the real wire, and a subscription that is pulled."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from keyturn import line
from keyturn.errors import Misconfigured
from keyturn.google import api
from keyturn.local.pubsub import PubSub
from keyturn.model import Surroundings
from keyturn.notifiers import wording
from keyturn.notifiers.pubsub import FILTERED_BY, PubSubTopic, notifier
from keyturn.testing import google_rest
from keyturn.testing.contracts import Listener, NotifierContract, alert
from keyturn.testing.google_rest import Asked
from keyturn.testing.wire import NoReply

TOPIC, READER = "projects/p/topics/alerts", "projects/p/subscriptions/alerts"


class Topic:
    """A topic, and a subscription that hears everything."""

    def __init__(self) -> None:
        self._pubsub = PubSub()
        self._is_down = False
        self._ask("PUT", TOPIC, {})
        self._ask("PUT", READER, {"topic": TOPIC})

    def answer(self, asked: Asked) -> Mapping[str, Any]:
        if self._is_down:
            raise NoReply
        return self._pubsub.answer(asked)

    def messages(self) -> list[Mapping[str, Any]]:
        found = self._ask("POST", f"{READER}:pull", {}).get("receivedMessages", [])
        return [each["message"] for each in found]

    def heard(self) -> list[dict[str, Any]]:
        return [json.loads(base64.b64decode(each["data"])) for each in self.messages()]

    @contextmanager
    def outage(self) -> Iterator[None]:
        self._is_down = True
        yield
        self._is_down = False

    def _ask(self, method: str, name: str, told: Mapping[str, Any]) -> Mapping[str, Any]:
        service, body = "pubsub.googleapis.com", json.dumps(told).encode()
        return self._pubsub.answer(Asked(service, method, f"/v1/{name}", {}, body, {}))


@pytest.fixture
def topic() -> Topic:
    return Topic()


@pytest.fixture
def pubsub(topic: Topic, monkeypatch: pytest.MonkeyPatch) -> Iterator[api.GoogleApi]:
    monkeypatch.setattr(line, "PAUSE_S", 0.0)
    with google_rest.served(topic.answer) as endpoint:
        around = Surroundings(lambda: 60.0, google_endpoint=endpoint)
        yield api.connect("pubsub.googleapis.com", around)


class TestPubSubTopic(NotifierContract):
    @pytest.fixture
    def listener(self, topic: Topic, pubsub: api.GoogleApi) -> Listener:
        nobody = PubSubTopic(pubsub, f"{TOPIC}-other")
        return Listener(PubSubTopic(pubsub, TOPIC), topic.heard, nobody, topic.outage)


def test_a_subscription_can_be_filtered(topic: Topic, pubsub: api.GoogleApi) -> None:
    notifier(TOPIC, lambda *_: pubsub).send(alert())

    [message] = topic.messages()
    assert message["attributes"] == {name: wording.fields(alert())[name] for name in FILTERED_BY}


@pytest.mark.parametrize("address", ["alerts", "projects/p/topics/", "projects/p/subscriptions/a"])
def test_an_address_is_the_full_name_of_a_topic(pubsub: api.GoogleApi, address: str) -> None:
    with pytest.raises(Misconfigured, match="full name of a topic"):
        notifier(address, lambda *_: pubsub)
