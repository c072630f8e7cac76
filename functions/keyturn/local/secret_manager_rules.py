"""What Google Secret Manager refuses, and how it names things.

Every limit is from `google/cloud/secretmanager/v1/resources.proto`, in the comment on the field,
unless it says otherwise. The texts of refusals are invented where no trace of the real one is
known; nobody should read them.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any

SECRET_ID = re.compile(r"[A-Za-z0-9_-]{1,255}")  # CreateSecretRequest.secret_id
ALIAS = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")
RESERVED_ALIASES = frozenset({"latest", "NEW"})
ANNOTATION = re.compile(r"[a-z0-9A-Z]([a-z0-9A-Z_.-]{0,61}[a-z0-9A-Z])?")
LABEL = re.compile(r"[^\W\d_A-Z][^\WA-Z]{0,62}|[^\W\d_A-Z](?:[^\WA-Z]|-){0,62}")
TOPIC = re.compile(r"projects/[^/]+/topics/[^/]+")

ALIASES, LABELS, TOPICS = 50, 64, 10
"""How many there may be on a secret."""

ANNOTATIONS_BYTES = 16_384
"""Keys and values together must be smaller."""

PAYLOAD_BYTES = 65_536

SOONEST, LATEST = timedelta(seconds=300), timedelta(seconds=3_153_600_000)
"""How far ahead next_rotation_time may be."""

SHORTEST_PERIOD = timedelta(seconds=3_600)

MUTABLE = frozenset(
    {
        *("labels", "topics", "expire_time", "ttl", "rotation", "version_aliases"),
        *("annotations", "version_destroy_ttl", "customer_managed_encryption"),
    }
)
"""Paths of an update mask; replication and secret_type are immutable."""

SHORTEST_DESTROY_TTL = timedelta(days=1)  # docs: delay destruction of secret versions


class RefusedError(Exception):
    """The service answers with a canonical code, by its name, and a text."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


def invalid(text: str) -> RefusedError:
    """Make the refusal of a malformed request."""
    return RefusedError("INVALID_ARGUMENT", text)


def missing(what: str, name: str) -> RefusedError:
    """Make the refusal for what is not there."""
    return RefusedError("NOT_FOUND", f"{what} [{name}] not found or has no versions.")


def not_enabled(name: str, state: str) -> RefusedError:
    """Make the refusal of a disabled or destroyed version; its text was seen in issue trackers."""
    return RefusedError("FAILED_PRECONDITION", f"Secret Version [{name}] is in {state} state.")


def check_secret(secret: Any, versions: int, now: datetime) -> None:
    """Refuse a secret that could not be stored so; it has so many *versions*."""
    _check_aliases(secret.version_aliases, versions)
    _check_annotations(secret.annotations)
    _check_labels(secret.labels)
    if len(secret.topics) > TOPICS:
        raise invalid(f"at most {TOPICS} topics")
    if any(not TOPIC.fullmatch(topic.name) for topic in secret.topics):
        raise invalid("a topic is named projects/*/topics/*")
    ttl = secret.version_destroy_ttl
    if ttl and ttl < SHORTEST_DESTROY_TTL:
        raise invalid("version_destroy_ttl is at least 24 hours")
    del now


def check_rotation(secret: Any, now: datetime) -> None:
    """Refuse rotation settings; asked when they are written, not when time has passed."""
    due, period = secret.rotation.next_rotation_time, secret.rotation.rotation_period
    if not due and not period:
        return
    if not secret.topics:
        raise invalid("topics must be set to configure rotation")
    if not due:
        # Seen in kyma-project/test-infra#13626.
        raise invalid("Next rotation time must be set while the rotation period is set.")
    if not SOONEST <= due - now <= LATEST:
        raise invalid("next_rotation_time is 300 to 3153600000 seconds ahead")
    if period and not SHORTEST_PERIOD <= period <= LATEST:
        raise invalid("rotation_period is 3600 to 3153600000 seconds")


def check_mask(paths: list[str]) -> None:
    """Refuse an update mask."""
    if not paths:
        raise invalid("update_mask is required")
    for path in paths:
        if path.partition(".")[0] not in MUTABLE:
            raise invalid(f"field {path} cannot be updated")


def _check_aliases(aliases: Any, versions: int) -> None:
    if len(aliases) > ALIASES:
        raise invalid(f"at most {ALIASES} aliases")
    for alias, number in aliases.items():
        if alias in RESERVED_ALIASES or not ALIAS.fullmatch(alias):
            raise invalid(f"invalid alias {alias!r}")
        if not 1 <= number <= versions:  # not documented
            raise invalid(f"alias {alias!r} names no version")


def _check_annotations(annotations: Any) -> None:
    size = 0
    for key, value in annotations.items():
        if not ANNOTATION.fullmatch(key):
            raise invalid(f"invalid annotation key {key!r}")
        size += len(key.encode()) + len(value.encode())
    if size >= ANNOTATIONS_BYTES:
        raise invalid("annotations are smaller than 16 KiB in total")


def _check_labels(labels: Any) -> None:
    if len(labels) > LABELS:
        raise invalid(f"at most {LABELS} labels")
    if any(not LABEL.fullmatch(key) for key in labels):
        raise invalid("invalid label")
