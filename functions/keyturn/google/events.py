"""What comes in on Google: Pub/Sub messages, as CloudEvents, and what they ask for.

    eventType               from                            asks for
    SECRET_ROTATE           Secret Manager, by its clock    a rotation
    SECRET_VERSION_ADD      Secret Manager                  a look at what follows that secret
    KEYTURN_SWEEP           Cloud Scheduler                 a look at all of the plan
    KEYTURN_LOOK_AGAIN      the follow-up itself            the second look, not before its time
    KEYTURN_LOOK            a person                        a look at one secret
    anything else           Secret Manager, of our own      nothing: Secret Manager tells all topics
                            writes among others             of a secret of every change

A message may come twice, late, in any order, and from whoever may publish. So nothing is taken from
it but which secret, and when: the store says the rest. What it says in two places must agree.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NoReturn

from keyturn import boundary
from keyturn.boundary import FollowUpEvent
from keyturn.document import kind_of
from keyturn.errors import Misconfigured, Retryable
from keyturn.model import RotationId, SecretRef, Sighting

PUBLISHED = "google.cloud.pubsub.topic.v1.messagePublished"
"""The type of a CloudEvent that is a Pub/Sub message."""

ROTATE, VERSION_ADD = "SECRET_ROTATE", "SECRET_VERSION_ADD"
SWEEP, LOOK_AGAIN, LOOK = "KEYTURN_SWEEP", "KEYTURN_LOOK_AGAIN", "KEYTURN_LOOK"
FOLLOWED = frozenset({VERSION_ADD, SWEEP, LOOK_AGAIN, LOOK})

NOT_BEFORE = "notBefore"
"""The attribute that says when a second look is due."""

CLOCKS_DIFFER = timedelta(minutes=5)
"""So far in the future a message may be."""

_SOURCE = re.compile(r"//pubsub\.googleapis\.com/(projects/[^/]+/topics/[^/]+)")
_REF = re.compile(r"projects/([^/]+)/((?:locations/[a-z0-9-]+/)?secrets/[A-Za-z0-9_-]{1,255})")
_ID = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_REMEDY = "Send what Secret Manager sends: see events/google and docs/google.md."


class TooEarly(Retryable):
    """It is not time yet: let it come again."""


@dataclass(frozen=True, slots=True)
class Message:
    """One Pub/Sub message.

    Attributes:
        id: The same whenever it is delivered.
        topic: projects/../topics/..; "" if the push's address does not say.
        kind: Its `eventType`; "" if it has none.
        at: When it was published, by its own word if it has one.
        content: Its data, as JSON; None if it has none.
    """

    id: str
    topic: str
    kind: str
    at: datetime
    attributes: Mapping[str, str] = field(repr=False)
    content: Mapping[str, Any] | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class RotationNotice:
    """That a secret is to be rotated.

    Attributes:
        rotation_id: By the message's id: the same at each delivery.
        at: When it was asked for. Whatever has become current since has answered it.
    """

    ref: SecretRef
    rotation_id: RotationId
    topic: str
    at: datetime


def message(event: Any) -> Message:
    """Read a CloudEvent: an Eventarc trigger's, or what the framework makes of a push.

    Raises:
        Misconfigured: Names what is wrong with it.
    """
    if event["type"] != PUBLISHED:
        _refuse(f"is of the type {str(event['type'])[:60]!a}, not a Pub/Sub message")
    body = event.data.get("message") if isinstance(event.data, Mapping) else None
    if not isinstance(body, Mapping):
        _refuse("has no message")
    found = body.get("messageId", event["id"])
    if not isinstance(found, str) or not _ID.fullmatch(found):
        _refuse("has a messageId that is none")
    attributes = _attributes(body.get("attributes") or {})
    source = _SOURCE.fullmatch(str(event["source"]))
    told = attributes.get("timestamp", body.get("publishTime"))
    return Message(
        found,
        source[1] if source else "",
        attributes.get("eventType", ""),
        _time(told),
        attributes,
        _content(body.get("data")),
    )


def rotation_notice(asked: Message, now: datetime) -> RotationNotice:
    """Read what asks for a rotation.

    Raises:
        Misconfigured: Names what is wrong with it.
    """
    if asked.at > now + CLOCKS_DIFFER:
        _refuse("is from the future")
    return RotationNotice(_ref(asked), rotation_id_of(asked.id), asked.topic, asked.at)


def tick(ref: SecretRef, at: datetime) -> dict[str, object]:
    """Return what asks for a rotation now, as Pub/Sub's `publish` takes it."""
    attributes = {"eventType": ROTATE, "secretId": ref, "timestamp": at.isoformat()}
    data = base64.b64encode(json.dumps({"name": ref}).encode()).decode()
    return {"data": data, "attributes": attributes}


def rotation_id_of(message_id: str) -> RotationId:
    """Return the id of the rotation that a message asks for."""
    # A version that somebody has stored is named by its number alone: no message's id is one.
    return RotationId(f"m{message_id}")


def follow_up_event(asked: Message, now: datetime) -> FollowUpEvent:
    """Read what asks for a look.

    Raises:
        Misconfigured: Names what is wrong with it.
        TooEarly: It is a second look, before its time.
    """
    match asked.kind:
        case "SECRET_VERSION_ADD":
            return FollowUpEvent(_ref(asked))
        case "KEYTURN_SWEEP":
            return FollowUpEvent(None)
        case "KEYTURN_LOOK":
            return boundary.look_event(asked.content or {}, {"secret", "only"})
    due = _time(asked.attributes.get(NOT_BEFORE))
    if due - now > MOST_LATER:
        _refuse(f"has a {NOT_BEFORE} that is too far away")
    if now < due:
        raise TooEarly("a second look came before its time", remedy="Nothing: it comes again.")
    return boundary.look_event(asked.content or {}, {"secret", "seen"})


MOST_LATER = timedelta(hours=1)
"""A second look is due after less than that."""


def second_look(name: str, sighting: Sighting, due: datetime) -> dict[str, object]:
    """Return the message that asks for it, as Pub/Sub's `publish` takes it."""
    data = boundary.look_again(name, sighting).encode()
    attributes = {"eventType": LOOK_AGAIN, NOT_BEFORE: due.isoformat()}
    return {"data": base64.b64encode(data).decode(), "attributes": attributes}


def _ref(asked: Message) -> SecretRef:
    """Return which secret is meant. The attribute and the data must mean the same one."""
    ref = asked.attributes.get("secretId", "")
    if not _REF.fullmatch(ref):
        _refuse("has a secretId that is not the full name of a secret")
    if asked.content is not None:
        named = str(asked.content.get("name", "")).partition("/versions/")[0]
        # One of them may say the project's id, the other its number.
        if named.split("/")[2:] != ref.split("/")[2:]:
            _refuse("has the data of another secret")
    return SecretRef(ref)


def _attributes(found: object) -> Mapping[str, str]:
    if not isinstance(found, Mapping) or not all(isinstance(v, str) for v in found.values()):
        _refuse("has attributes that are not text by name")
    return {str(name): value for name, value in found.items()}


def _content(data: object) -> Mapping[str, Any] | None:
    if data in {None, ""}:
        return None
    try:
        found = json.loads(base64.b64decode(str(data), validate=True))
    except (ValueError, binascii.Error, RecursionError):
        found = None
    if not isinstance(found, dict):
        _refuse(f"has data that is {kind_of(found)}, not a JSON object in Base64")
    return found


def _time(told: object) -> datetime:
    try:
        found = datetime.fromisoformat(str(told))
    except ValueError:
        found = None
    if found is None or found.utcoffset() is None:
        _refuse("has a time that is none, or in no zone")
    return found


def _refuse(problem: str) -> NoReturn:
    raise Misconfigured(f"the event {problem}", remedy=_REMEDY)
