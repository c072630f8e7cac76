"""The record of a secret in Google Secret Manager: what its companion's annotations say.

Google has no staging labels. So the companion `<secret>-pending` says which version of the secret
is current, which was before, and which of its own versions is pending:

    keyturn-current      5:m2070443601311540          version 5, made by that rotation
    keyturn-previous     4:m2070443601298776
    keyturn-pending      7:m2070443601324461          version 7 of the companion
    keyturn-publishing   7                           it was tested, and is being added to the secret
    keyturn-since        2030-01-01T00:00:00+00:00   current was promoted then
    keyturn-staged       7                           no version of the companion after this is ours
    keyturn-known        3:3 4:m2070443601298776 ..   which rotation made which version
    keyturn-over         m2070443601298111 ..         rotations that were withdrawn
    keyturn-write        31:9f86d081                 counts the writes, and names the last
    keyturn-intent-..    ..                          what may have been minted

Values only, no I/O. Whoever cancels a rotation by hand removes `keyturn-pending`; other annotations
are left alone. Names and ids only, never a value.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from keyturn.errors import Misconfigured
from keyturn.model import Intent, RotationId, Snapshot

PREFIX = "keyturn-"
INTENT = "keyturn-intent-"

MOST_BYTES = 16_383
"""Longest keys and values of all annotations together (resources.proto, Secret.annotations)."""

REMEMBERED = 20
"""So many versions keep the name of their rotation, and so many withdrawn rotations theirs."""

_ID = re.compile(r"[!-~]{1,128}")


@dataclass(frozen=True, slots=True)
class Numbered:
    """A version: its number, and the rotation that made it; by hand, the number once more."""

    number: int
    id: RotationId

    @property
    def is_foreign(self) -> bool:
        """Tell whether it was stored by hand."""
        return self.id == str(self.number)

    def __str__(self) -> str:
        """Return it as it stands in an annotation."""
        return f"{self.number}:{self.id}"


@dataclass(frozen=True, slots=True)
class Record:
    """What the annotations say. All of it is written in one guarded write."""

    current: Numbered | None = None
    previous: Numbered | None = None
    pending: Numbered | None = None
    publishing: int = 0
    since: datetime | None = None
    staged: int = 0
    known: tuple[Numbered, ...] = ()
    over: tuple[RotationId, ...] = ()
    writes: int = 0
    mark: str = ""
    intents: Mapping[str, Intent] = field(default_factory=dict)

    @property
    def slots(self) -> Snapshot:
        """Return what the core sees."""
        return Snapshot(_id(self.current), _id(self.pending))

    @property
    def is_publishing(self) -> bool:
        """Tell whether what is pending may have been added to the secret already."""
        return self.pending is not None and self.publishing == self.pending.number

    def holds(self, rotation_id: RotationId) -> bool:
        """Tell whether *rotation_id* is pending."""
        return _id(self.pending) == rotation_id

    def is_current(self, rotation_id: RotationId) -> bool:
        """Tell whether *rotation_id* is current."""
        return _id(self.current) == rotation_id

    def is_over(self, rotation_id: RotationId) -> bool:
        """Tell whether *rotation_id* has come and gone."""
        if self.is_current(rotation_id) or self.holds(rotation_id):
            return False
        return rotation_id in {*self.over, *(each.id for each in self.known)}

    def name_of(self, number: int) -> RotationId:
        """Return which rotation made a version of the secret."""
        names = {each.number: each.id for each in (*self.known, *filter(None, [self.current]))}
        return names.get(number, RotationId(str(number)))


def with_known(known: Iterable[Numbered], *more: Numbered | None) -> tuple[Numbered, ...]:
    """Return what is known with *more*, each once, and no more than is remembered."""
    named = {each.number: each for each in (*known, *filter(None, more))}
    return tuple(named[number] for number in sorted(named)[-REMEMBERED:])


def with_over(over: Iterable[RotationId], one: RotationId) -> tuple[RotationId, ...]:
    """Return the rotations that are over, with *one* more."""
    return (*(each for each in over if each != one), one)[-REMEMBERED:]


def require_id(rotation_id: RotationId) -> None:
    """Refuse an id that would not survive in an annotation."""
    if not _ID.fullmatch(rotation_id):
        raise Misconfigured(
            "a rotation id is not 1 to 128 printable characters without blanks",
            remedy="Use the message's id as it is.",
        )


def read(annotations: Mapping[str, str], ref: str) -> Record:
    """Read a record; an empty one if there is none yet.

    Raises:
        Misconfigured: An annotation of ours is not as we have written it; named.
    """
    found = {key: annotations.get(PREFIX + key, "") for key in _TEXTS}
    for key, pattern in _TEXTS.items():
        if not pattern.fullmatch(found[key]):
            raise _malformed(ref, PREFIX + key)
    writes, _, mark = found["write"].partition(":")
    return Record(
        current=_numbered(found["current"]),
        previous=_numbered(found["previous"]),
        pending=_numbered(found["pending"]),
        publishing=int(found["publishing"] or 0),
        since=time_of(found["since"], ref, f"{PREFIX}since") if found["since"] else None,
        staged=int(found["staged"] or 0),
        known=tuple(filter(None, map(_numbered, found["known"].split()))),
        over=tuple(map(RotationId, found["over"].split())),
        writes=int(writes or 0),
        mark=mark,
        intents=_intents(annotations, ref),
    )


def written(record: Record, annotations: Mapping[str, str], ref: str) -> dict[str, str]:
    """Return the annotations with *record* in the place of what was there, and all others.

    Raises:
        Misconfigured: They would be larger than a secret's annotations may be.
    """
    ours = {
        "current": str(record.current or ""),
        "previous": str(record.previous or ""),
        "pending": str(record.pending or ""),
        "publishing": str(record.publishing or ""),
        "since": record.since.isoformat() if record.since else "",
        "staged": str(record.staged or ""),
        "known": " ".join(map(str, record.known)),
        "over": " ".join(record.over),
        "write": f"{record.writes}:{record.mark}",
    }
    intents = {_key(intent.name): _text_of(intent) for intent in record.intents.values()}
    others = {key: text for key, text in annotations.items() if not key.startswith(PREFIX)}
    made = {PREFIX + key: text for key, text in ours.items() if text} | intents | others
    if sum(len(key.encode()) + len(text.encode()) for key, text in made.items()) > MOST_BYTES:
        raise Misconfigured(
            f"{ref}: the annotations of its companion would have more than {MOST_BYTES} bytes",
            remedy="Remove some that are not keyturn's, or keys that no version has.",
        )
    return made


_NUMBERED = r"[0-9]+:[!-~]+"
_TEXTS = {
    "current": re.compile(rf"(?:{_NUMBERED})?"),
    "previous": re.compile(rf"(?:{_NUMBERED})?"),
    "pending": re.compile(rf"(?:{_NUMBERED})?"),
    "publishing": re.compile(r"[0-9]*"),
    "since": re.compile(r"(?:[0-9:T.+-]+)?"),
    "staged": re.compile(r"[0-9]*"),
    "known": re.compile(rf"(?:{_NUMBERED}(?: {_NUMBERED})*)?"),
    "over": re.compile(r"(?:[!-~]+(?: [!-~]+)*)?"),
    "write": re.compile(r"(?:[0-9]+:[0-9a-f]*)?"),
}
"""The annotations of ours, and what may stand in each."""


def _id(one: Numbered | None) -> RotationId | None:
    return one.id if one else None


def _numbered(text: str) -> Numbered | None:
    number, _, name = text.partition(":")
    return Numbered(int(number), RotationId(name)) if text else None


def time_of(text: str, where: str, what: str = "time") -> datetime:
    """Read a time as we have written it."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        pass
    raise _malformed(where, what)


def _intents(annotations: Mapping[str, str], ref: str) -> dict[str, Intent]:
    found = [
        _intent_of(text, key, ref) for key, text in annotations.items() if key.startswith(INTENT)
    ]
    return {intent.name: intent for intent in found}


def _key(name: str) -> str:
    """Return the annotation's key: it has 63 characters at most, of few kinds; names are free."""
    return INTENT + hashlib.sha256(name.encode()).hexdigest()[:32]


def _text_of(intent: Intent) -> str:
    times = (intent.since.isoformat(), intent.until.isoformat())
    return " ".join([intent.name, *times, *sorted(intent.foreign)])


def _intent_of(text: str, key: str, ref: str) -> Intent:
    try:
        name, since, until, *foreign = text.split(" ")
        return Intent(
            name,
            datetime.fromisoformat(since).astimezone(UTC),
            datetime.fromisoformat(until).astimezone(UTC),
            frozenset(foreign),
        )
    except ValueError:
        pass
    raise _malformed(ref, key)


def _malformed(ref: str, key: str) -> Misconfigured:
    return Misconfigured(
        f"{ref}: the annotation {key} of its companion is not as we have written it",
        remedy="Put it back, or remove it: what it said is looked up anew.",
    )
