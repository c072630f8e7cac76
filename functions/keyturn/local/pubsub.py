"""Pub/Sub on one machine: topics, and subscriptions that push, by the service's rules.

    publish -> each subscription whose filter lets it pass -> POST to its address
    2xx        acknowledged
    else       again after the back-off, which doubles from its least to its most
               and after so many deliveries to the dead-letter topic

At least once and in no order: `repeat` delivers messages twice, `shuffle` turns their order around.
A push has the wrapped shape, and the OIDC token of the subscription's account, which `front` checks
as Cloud Run would. Time is the process's: what is due is delivered by `deliver`.

It speaks the REST protocol of the service, as far as it is needed here, behind
`testing.google_rest`. From the documentation: nothing here was compared with the service itself.
"""

from __future__ import annotations

import base64
import http.client
import itertools
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from keyturn.local.front import token
from keyturn.testing.google_rest import Asked, refusal

PUSH_TIMEOUT_S = 60.0
"""Longest that a push may take, in real seconds."""

DEFAULT_BACKOFF = (timedelta(seconds=10), timedelta(seconds=600))
"""Least and most (Pub/Sub: RetryPolicy)."""

_TERM = re.compile(r'attributes\.(?P<key>\w+)\s*=\s*"(?P<value>[^"]*)"')


@dataclass
class Message:
    """One message."""

    id: str
    data: bytes
    attributes: Mapping[str, str]
    published_at: datetime


@dataclass
class Delivery:
    """A message that a subscription has not got rid of yet.

    Attributes:
        attempts: How often it was pushed.
    """

    message: Message
    due_at: datetime
    attempts: int = 0


@dataclass
class Subscription:
    """What is told of a topic, and where.

    Attributes:
        endpoint: Where it pushes; "" for one that is pulled from.
        account: Whose token it sends.
        statuses: What each push was answered; 0 is no answer.
    """

    name: str
    topic: str
    endpoint: str = ""
    account: str = ""
    filter: str = ""
    backoff: tuple[timedelta, timedelta] = DEFAULT_BACKOFF
    dead_letter_topic: str = ""
    max_attempts: int = 5
    waiting: list[Delivery] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)

    def lets_pass(self, attributes: Mapping[str, str]) -> bool:
        """Tell whether the filter does: terms joined by OR."""
        terms = [each for each in re.split(r"\s+OR\s+", self.filter) if each]
        found = [_TERM.fullmatch(term.strip()) for term in terms]
        return not found or any(f and attributes.get(f["key"]) == f["value"] for f in found)


class PubSub:
    """The topics and subscriptions of a project.

    Attributes:
        repeat: How often each push is made; two are two deliveries of one message.
        shuffle: Whether what is due last is delivered first.
        lose_answers: How many of the next answers are lost, after the push took effect.
    """

    def __init__(self) -> None:
        self.topics: set[str] = set()
        self.subscriptions: dict[str, Subscription] = {}
        self.repeat = 1
        self.shuffle = False
        self.lose_answers = 0
        self._numbers = itertools.count(2_070_443_601_311_540)
        self._lock = threading.RLock()

    def answer(self, asked: Asked) -> Mapping[str, Any]:
        """Answer a call of the REST API: topics and subscriptions are made, messages published."""
        name, _, verb = asked.path.removeprefix("/v1/").partition(":")
        if (asked.method, verb) == ("POST", "publish"):
            sent = asked.members.get("messages", [])
            return {"messageIds": [self._sent(name, each) for each in sent]}
        if (asked.method, verb) == ("POST", "pull"):
            return {"receivedMessages": [_received(each) for each in self._taken(name)]}
        if (asked.method, verb) == ("POST", "acknowledge"):
            return {}
        if asked.method == "PUT" and "/topics/" in name:
            self.topics.add(name)
            return {"name": name}
        if asked.method == "PUT" and "/subscriptions/" in name:
            self.subscribe(_subscription(name, asked.members))
            return {"name": name}
        raise refusal("UNIMPLEMENTED", f"{asked.method} {asked.path[:80]!a}")

    def _sent(self, topic: str, message: Mapping[str, Any]) -> str:
        data = base64.b64decode(message.get("data", ""))
        return self.publish(topic, data, message.get("attributes", {}))

    def subscribe(self, subscription: Subscription) -> Subscription:
        """Make a subscription; what is published from now on is for it, too."""
        if subscription.topic not in self.topics:
            raise refusal("NOT_FOUND", "no such topic")
        for term in filter(None, re.split(r"\s+OR\s+", subscription.filter)):
            if not _TERM.fullmatch(term.strip()):
                raise refusal("INVALID_ARGUMENT", "a filter that this fake does not know")
        with self._lock:
            self.subscriptions[subscription.name] = subscription
        return subscription

    def publish(self, topic: str, data: bytes, attributes: Mapping[str, str]) -> str:
        """Publish a message, and return its id."""
        if topic not in self.topics:
            raise refusal("NOT_FOUND", "no such topic")
        now = datetime.now(UTC)
        message = Message(str(next(self._numbers)), data, dict(attributes), now)
        with self._lock:
            for each in self.subscriptions.values():
                if each.topic == topic and each.lets_pass(attributes):
                    each.waiting.append(Delivery(message, now))
        return message.id

    def next_due(self) -> datetime | None:
        """Return when something is to be pushed; None if nothing waits."""
        with self._lock:
            return min(
                (d.due_at for s in self.subscriptions.values() if s.endpoint for d in s.waiting),
                default=None,
            )

    def deliver(self) -> int:
        """Push what is due by now, and what that brings about; return how many pushes it took."""
        pushes = 0
        while (found := self._due()) is not None:
            pushes += self._push(*found)
        return pushes

    def _taken(self, name: str) -> list[Message]:
        """Take what waits in a subscription that pushes nowhere."""
        with self._lock:
            subscription = self.subscriptions[name]
            taken, subscription.waiting = subscription.waiting, []
        return [each.message for each in taken]

    def _due(self) -> tuple[Subscription, Delivery] | None:
        now = datetime.now(UTC)
        with self._lock:
            due = [
                (subscription, delivery)
                for subscription in self.subscriptions.values()
                if subscription.endpoint
                for delivery in subscription.waiting
                if delivery.due_at <= now
            ]
        due.sort(key=lambda each: each[1].message.id, reverse=self.shuffle)
        return due[0] if due else None

    def _push(self, to: Subscription, delivery: Delivery) -> int:
        delivery.attempts += 1
        statuses = [self._posted(to, delivery) for _ in range(self.repeat)]
        to.statuses += statuses
        with self._lock:
            if statuses[-1] // 100 == 2:  # noqa: PLR2004  # a success, as HTTP counts
                to.waiting.remove(delivery)
            elif to.dead_letter_topic and delivery.attempts >= to.max_attempts:
                to.waiting.remove(delivery)
                self._bury(to, delivery)
            else:
                least, most = to.backoff
                wait = min(least * 2 ** (delivery.attempts - 1), most)
                delivery.due_at = datetime.now(UTC) + wait
        return len(statuses)

    def _bury(self, subscription: Subscription, delivery: Delivery) -> None:
        """See Pub/Sub: dead-letter topics."""
        source = {
            "CloudPubSubDeadLetterSourceDeliveryCount": str(delivery.attempts),
            "CloudPubSubDeadLetterSourceSubscription": subscription.name.rpartition("/")[2],
        }
        message = delivery.message
        self.publish(subscription.dead_letter_topic, message.data, {**message.attributes, **source})

    def _posted(self, to: Subscription, delivery: Delivery) -> int:
        address = urlsplit(to.endpoint)
        headers = {"Content-Type": "application/json"}
        if to.account:
            headers["Authorization"] = f"Bearer {token(to.account, to.endpoint)}"
        line = http.client.HTTPConnection(address.netloc, timeout=PUSH_TIMEOUT_S)
        try:
            line.request("POST", address.path or "/", json.dumps(wrapped(to, delivery)), headers)
            status = line.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            line.close()
        if self.lose_answers:
            self.lose_answers -= 1
            return 0
        return status


def _received(message: Message) -> Mapping[str, Any]:
    data = base64.b64encode(message.data).decode()
    inner = {"messageId": message.id, "data": data, "attributes": dict(message.attributes)}
    return {"ackId": message.id, "message": inner}


def wrapped(subscription: Subscription, delivery: Delivery) -> Mapping[str, Any]:
    """Return the body of a push (Pub/Sub: receive push messages)."""
    message = delivery.message
    at = message.published_at.isoformat().replace("+00:00", "Z")
    data = base64.b64encode(message.data).decode()
    inner = {
        "attributes": dict(message.attributes),
        "data": data,
        "messageId": message.id,
        "message_id": message.id,
        "publishTime": at,
        "publish_time": at,
    }
    attempt = {"deliveryAttempt": delivery.attempts} if subscription.dead_letter_topic else {}
    return {"message": inner, "subscription": subscription.name, **attempt}


def _subscription(name: str, told: Mapping[str, Any]) -> Subscription:
    push = told.get("pushConfig", {})
    retry, dead = told.get("retryPolicy", {}), told.get("deadLetterPolicy", {})
    least, most = DEFAULT_BACKOFF
    return Subscription(
        name,
        told["topic"],
        push.get("pushEndpoint", ""),
        push.get("oidcToken", {}).get("serviceAccountEmail", ""),
        told.get("filter", ""),
        (
            _seconds(retry.get("minimumBackoff"), least),
            _seconds(retry.get("maximumBackoff"), most),
        ),
        dead.get("deadLetterTopic", ""),
        int(dead.get("maxDeliveryAttempts", 5)),
    )


def _seconds(told: str | None, usual: timedelta) -> timedelta:
    return usual if told is None else timedelta(seconds=float(told.removesuffix("s")))
