"""Alerts to a Pub/Sub topic: JSON for whoever subscribes, attributes to filter by.

A topic of its own: not one that Secret Manager or the follow-up speaks on.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

from keyturn.errors import Misconfigured
from keyturn.model import Alert
from keyturn.notifiers import wording
from keyturn.ports import Clients, Notifier

if TYPE_CHECKING:
    from keyturn.google.api import GoogleApi

PERMISSIONS = ("pubsub.topics.publish",)
"""On the topic: roles/pubsub.publisher."""

SCHEME = "pubsub"
"""How its addresses begin; `projects/P/topics/T` follows."""

FILTERED_BY = ("happening", "severity", "secret", "id")

_PARTS = 4


def notifier(address: str, clients: Clients) -> Notifier:
    """Make one, for what follows the scheme in an address.

    Raises:
        Misconfigured: It is not the full name of a topic.
    """
    parts = address.split("/")
    if len(parts) != _PARTS or parts[0::2] != ["projects", "topics"] or "" in parts:
        raise Misconfigured(
            f"{address[:200]!a} is not the full name of a topic",
            remedy="Write pubsub:projects/PROJECT/topics/TOPIC.",
        )
    return PubSubTopic(clients("pubsub.googleapis.com", None), address)


class PubSubTopic:
    """A `Notifier`.

    Args:
        pubsub: The Pub/Sub API.
        topic: The topic's full name.
    """

    def __init__(self, pubsub: GoogleApi, topic: str) -> None:
        self._pubsub = pubsub
        self._topic = topic

    def send(self, alert: Alert) -> None:
        """See `Notifier.send`. Whoever subscribes may drop what comes twice, by its id."""
        said = wording.fields(alert)
        message = {
            "data": base64.b64encode(json.dumps(said).encode()).decode(),
            "attributes": {name: said[name] for name in FILTERED_BY},
        }
        path = f"/v1/{self._topic}:publish"
        self._pubsub.ask("Publish", self._topic, "POST", path, {"messages": [message]})
