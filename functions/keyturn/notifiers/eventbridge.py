"""Alerts to an EventBridge bus, as events that rules can match: see docs/follow-up.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol

from keyturn.boundary import ask_aws
from keyturn.errors import Unreachable
from keyturn.model import Alert
from keyturn.notifiers import wording
from keyturn.ports import Clients, Notifier

PERMISSIONS = ("events:PutEvents",)
"""On the bus."""

SCHEME = "eventbridge"
"""How its addresses begin; the bus's name or ARN follows."""

SOURCE, DETAIL_TYPE = "keyturn", "Secret Alert"


class Events(Protocol):
    """What is used of a boto3 client, with time-outs."""

    def put_events(self, **parameters: object) -> Mapping[str, Any]:
        """PutEvents."""
        ...


def notifier(address: str, clients: Clients) -> Notifier:
    """Make one, for what follows the scheme in an address."""
    return EventBus(clients("events", _region(address)), address)


class EventBus:
    """A `Notifier`.

    Args:
        events: A client for the bus's region, with time-outs.
        bus: The bus's name or ARN.
    """

    def __init__(self, events: Events, bus: str) -> None:
        self._events = events
        self._bus = bus

    def send(self, alert: Alert) -> None:
        """See `Notifier.send`."""
        entry = {
            "Source": SOURCE,
            "DetailType": DETAIL_TYPE,
            "Detail": json.dumps(wording.fields(alert)),
            "Resources": [alert.ref] if alert.ref.startswith("arn:") else [],
            "Time": alert.at,
            "EventBusName": self._bus,
        }
        put = partial(self._events.put_events, Entries=[entry])
        answer = ask_aws("PutEvents", self._bus, put)
        # The call succeeds although the event does not (API_PutEvents, FailedEntryCount).
        if answer["FailedEntryCount"]:
            code = answer["Entries"][0].get("ErrorCode", "unknown")
            raise Unreachable(
                f"{self._bus}: PutEvents refused the event with {code}",
                remedy="Nothing: it is sent again. If it stays so, look at the bus's policy.",
            )


def _region(bus: str) -> str | None:
    return bus.split(":")[3] if bus.startswith("arn:") else None
