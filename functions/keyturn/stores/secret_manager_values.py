"""Google Secret Manager, for values that are made on demand: each request makes one version.

AddSecretVersion takes no token, and a version is its payload and no more. So the secret's own
annotations say which request made which version; every change of them is guarded by the etag:

    keyturn-making   4f1c..:6:2030-01-01T00:00:00+00:00   that request adds the version after 6
    keyturn-made     9d2e..:5 4f1c..:7                     what the newest requests have made

    put   guarded: making; add the version; guarded: made

Whoever comes again finds it: in `made`, or after the number in `making`. A request that finds
another one at work is told to wait, until that is older than a function can live.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from keyturn.errors import Busy, Misconfigured
from keyturn.model import RotationId, SecretRef, Sensitive
from keyturn.ports import Clock, Found, Pause
from keyturn.stores.secret_manager_wire import (
    CALL_TIMEOUT_S,
    PAYLOAD_BYTES,
    Missing,
    Wire,
    companion_of,
    location_of,
)

PERMISSIONS = (
    "secretmanager.secrets.create",
    "secretmanager.secrets.get",
    "secretmanager.secrets.update",
    "secretmanager.versions.access",
    "secretmanager.versions.add",
    "secretmanager.versions.get",
)
"""What a function that generates needs, on the secrets that it may write and their companions."""

MAKING, MADE = "keyturn-making", "keyturn-made"
REMEMBERED = 10
"""So many requests are known again."""

BUSY_FOR = timedelta(hours=1)
"""A request that has not ended by then never will: no function lives that long."""


@dataclass(frozen=True, slots=True)
class _Making:
    """A request that adds the version after a number."""

    id: RotationId
    after: int
    at: datetime

    def __str__(self) -> str:
        return f"{self.id}:{self.after}:{self.at.isoformat()}"


@dataclass(frozen=True, slots=True)
class _Record:
    """What the annotations say, and the etag by which they may be changed."""

    making: _Making | None
    made: Mapping[RotationId, int]
    etag: str
    annotations: Mapping[str, str]


class SecretManagerValues:
    """A `ValueStore`.

    Args:
        client: From `secret_manager.connect`, for the location of the secrets.
        clock: Tells when a request began.
        pause: Waits between calls that are made again.
        kms_key: What new secrets are encrypted with; None is Google's own.
    """

    def __init__(
        self, client: Any, *, clock: Clock, pause: Pause, kms_key: str | None = None
    ) -> None:
        self._wire = Wire(client, pause, CALL_TIMEOUT_S)
        self._clock = clock
        self._kms_key = kms_key

    def find(self, ref: SecretRef) -> Found | None:
        """See `ValueStore.find`."""
        secret = self._wire.found_secret(ref)
        if secret is None:
            return None
        record = _record(ref, secret)
        number = self._last(ref, record)
        names = {made: each for each, made in record.made.items()}
        current = names.get(number, RotationId(str(number))) if number else None
        known = {*record.made, *([record.making.id] if record.making else [])}
        is_scheduled = bool(secret.rotation.next_rotation_time or secret.rotation.rotation_period)
        is_rotated = is_scheduled or self._wire.found_secret(companion_of(ref)) is not None
        return Found(current, frozenset(known | ({current} if current else set())), is_rotated)

    def read(self, ref: SecretRef, version_id: RotationId) -> Sensitive | None:
        """See `ValueStore.read`."""
        record = self._record(ref)
        number = record.made.get(version_id)
        if number is None and record.making is not None and record.making.id == version_id:
            number = self._ended(ref, record)
        if number is None and version_id.isdecimal():
            number = int(version_id)
        text = Missing.ABSENT if number is None else self._wire.text(ref, number)
        return None if isinstance(text, Missing) else Sensitive(text)

    def create(self, ref: SecretRef, version_id: RotationId, value: Sensitive) -> bool:
        """See `ValueStore.create`."""
        text = _fitting(ref, value)
        making = _Making(version_id, 0, self._clock.now())
        secret = {"annotations": {MAKING: str(making)}, **_encrypted(ref, self._kms_key)}
        if not self._wire.create(ref, secret):
            return False
        self._add(ref, making, text)
        return True

    def put(self, ref: SecretRef, version_id: RotationId, value: Sensitive) -> bool:
        """See `ValueStore.put`.

        Raises:
            Busy: Another request is at work, or has been since it was looked.
        """
        text = _fitting(ref, value)
        record = self._record(ref)
        if version_id in record.made:
            return False
        if self._ended(ref, record) is not None:
            record = self._record(ref)
        elif record.making is not None and record.making.id != version_id:
            self._require_dead(ref, record.making)
        if version_id in record.made:
            return False
        making = _Making(version_id, self._last(ref, record), self._clock.now())
        if not self._write(ref, record, making, record.made):
            raise _others(ref)
        self._add(ref, making, text)
        return True

    def _add(self, ref: SecretRef, making: _Making, text: str) -> None:
        number = self._wire.add(ref, text, making.after)
        self._note(ref, making, number)

    def _note(self, ref: SecretRef, making: _Making, number: int) -> None:
        """Write down what a request has made. If it is lost, `making` says it as well."""
        record = self._record(ref)
        if record.making == making:
            self._write(ref, record, None, {**record.made, making.id: number})

    def _ended(self, ref: SecretRef, record: _Record) -> int | None:
        """Return the number that the request at work has made, and write it down; None if none."""
        making = record.making
        if making is None:
            return None
        ahead = list(self._wire.following(ref, making.after))
        if not ahead:
            return None
        number = ahead[0][0]
        self._note(ref, making, number)
        return number

    def _require_dead(self, ref: SecretRef, making: _Making) -> None:
        if self._clock.now() - making.at < BUSY_FOR:
            raise _others(ref)

    def _last(self, ref: SecretRef, record: _Record) -> int:
        """Return the last number, by number: `latest` may be late. 0 if there is none."""
        newest = self._wire.newest(ref)
        known = max([newest.number if newest else 0, *record.made.values()])
        return max([known, *(number for number, _ in self._wire.following(ref, known))])

    def _record(self, ref: SecretRef) -> _Record:
        return _record(ref, self._wire.secret(ref))

    def _write(
        self,
        ref: SecretRef,
        seen: _Record,
        making: _Making | None,
        made: Mapping[RotationId, int],
    ) -> bool:
        """Write the record if nothing has been written since it was *seen*."""
        kept = sorted(made.items(), key=lambda each: each[1])[-REMEMBERED:]
        annotations = {k: v for k, v in seen.annotations.items() if k not in {MAKING, MADE}}
        annotations[MADE] = " ".join(f"{each}:{number}" for each, number in kept)
        if making is not None:
            annotations[MAKING] = str(making)
        return self._wire.update(ref, seen.etag, {"annotations": annotations}) is not None


def _record(ref: SecretRef, secret: Any) -> _Record:
    annotations = dict(secret.annotations)
    try:
        pairs = [each.rpartition(":") for each in annotations.get(MADE, "").split()]
        made = {RotationId(each): int(number) for each, _, number in pairs}
        making = None
        if MAKING in annotations:
            name, after, at = annotations[MAKING].split(":", 2)
            making = _Making(RotationId(name), int(after), datetime.fromisoformat(at))
    except ValueError:
        pass
    else:
        return _Record(making, made, secret.etag, annotations)
    raise Misconfigured(
        f"{ref}: its annotations {MADE} and {MAKING} are not keyturn's",
        remedy=f"Remove the annotations {MADE} and {MAKING} from the secret.",
    )


def _fitting(ref: SecretRef, value: Sensitive) -> str:
    text = value.reveal()
    if len(text.encode()) > PAYLOAD_BYTES:
        raise Misconfigured(
            f"{ref}: the value has {len(text.encode())} bytes, the store takes {PAYLOAD_BYTES}",
            remedy="Generate less.",
        )
    return text


def _encrypted(ref: SecretRef, kms_key: str | None) -> Mapping[str, Any]:
    """Return where a new secret is kept, and what it is encrypted with."""
    key = {"customer_managed_encryption": {"kms_key_name": kms_key}} if kms_key else {}
    return key if location_of(ref) is not None else {"replication": {"automatic": key}}


def _others(ref: SecretRef) -> Busy:
    return Busy(
        f"{ref}: another request writes to it",
        remedy="Ask again with the same request id.",
    )
