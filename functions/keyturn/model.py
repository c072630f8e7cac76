"""Values only: no I/O, no SDK, no clock."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, StrEnum
from types import MappingProxyType
from typing import NewType, NoReturn

SecretRef = NewType("SecretRef", str)
"""The store's own, full name for a secret. Opaque to the core."""

RotationId = NewType("RotationId", str)
"""Names one attempt to replace one secret, and the version it made.

Stable across redeliveries of the attempt's event. A version that no rotation made (the first
one, or one put by hand) is named by whatever the store calls it.
"""


class Step(Enum):
    """The rotation protocol, in order."""

    CREATE = "create"
    SET = "set"
    TEST = "test"
    FINISH = "finish"


class Outcome(Enum):
    """What a step did. Both are success."""

    DONE = "done"
    ALREADY_DONE = "already_done"


class Strategy(StrEnum):
    """Who gets the new password; see `keyturn.strategies`. Spelt as in the plan."""

    SINGLE_USER = "single-user"
    DUAL_PASSWORD = "dual-password"  # noqa: S105  # not a password
    ALTERNATING_USERS = "alternating-users"
    AUTO = "auto"
    GENERATE = "generate"


class Sensitive:
    """Text that must not be shown, copied or serialised. Its repr, str and format are ``***``."""

    __slots__ = ("_text",)
    __hash__ = None  # type: ignore[assignment]  # an unsalted digest would be a fingerprint

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text. Only stores, targets, authorities and destinations may call this."""
        return self._text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sensitive) and self._text == other._text

    def __repr__(self) -> str:
        return "Sensitive(***)"

    def __str__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return "***"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Refuse pickle and copy, which both come through here."""
        raise TypeError("a Sensitive is neither pickled nor copied")


@dataclass(frozen=True, slots=True)
class Credential:
    """One login, as the store holds it.

    Attributes:
        principal: Who logs in: a database user, an access key's id. Not secret.
        secret: The password, key or token.
        fields: The other top-level members of the stored document, as parsed. They may hold
            anything, so they are kept out of the repr.
        document: The stored text this was read from. A new principal and secret are written
            into it, so that whatever else it holds survives to the byte.
        derived: Members of the document that follow from the secret, and are written with it.
    """

    principal: str
    secret: Sensitive
    fields: Mapping[str, object] = field(default_factory=dict, repr=False)
    document: Sensitive = field(default_factory=lambda: Sensitive("{}"), repr=False, compare=False)
    derived: Mapping[str, Sensitive] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Version:
    """A credential with its place in the store's history."""

    rotation_id: RotationId
    credential: Credential
    stored_at: datetime


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Which version sat in which slot at one moment. Identifiers only.

    Pending is None when the slot is empty, and when what it names has been promoted already.
    """

    current: RotationId | None = None
    pending: RotationId | None = None


class Trace(Enum):
    """By what a key is found again whose secret nobody has received."""

    NAME = "name"
    """Lists show the name that each key was minted with."""
    MARK = "mark"
    """Lists show the mark that each key was minted with: an `Intent` has it, too."""
    TIME = "time"
    """Lists show when each was made, and its last use is known: an `Intent` says the rest."""
    TIME_ONLY = "time only"
    """Lists show when each was made, and nothing tells of its use: it may be a person's as well."""
    RETRY = "retry"
    """Nothing lists it. Whoever asks again for the same rotation gets it."""
    NONE = "none"
    """Nothing finds it."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try to have a key made.

    Attributes:
        name: Of this try alone. The key has it from then on, where keys have names.
        mark: Of this try alone, too, and short: eight hexadecimal digits.
        rotation: The same in every try of one rotation, and in no other's.
        at: When.
    """

    name: str
    mark: str
    rotation: str
    at: datetime


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """What an issuer tells of a key that it has made. Never its secret.

    Attributes:
        created_at: None if the issuer does not tell.
        name: What it was minted with; empty if keys have no names.
        mark: What it was minted with; empty if keys bear none.
    """

    id: str
    created_at: datetime | None
    is_active: bool
    name: str = ""
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Intent:
    """Written down before a key is minted: whose is it, if nobody ever hears of it again?

    Attributes:
        name: Of one attempt, and ends with its mark. No two have the same.
        since: What was minted for it was created no earlier,
        until: and no later.
        foreign: Keys that were there before and are not ours.
    """

    name: str
    since: datetime
    until: datetime
    foreign: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the deployment allows a target, as opposed to what a secret says.

    Attributes:
        remaining_s: How long this call may still run, in seconds.
        plaintext_hosts: Hosts that may be reached without TLS, besides loopback and sockets.
        ca_file: A PEM file with authorities to trust besides the system's.
        key_holders: Patterns of those whose keys may be minted and deleted.
        declared: What the plan says to this kind of target alone, which knows its type.
        admin: Reads the credential that the plan names as an admin's, if it names one.
        google_endpoint: Where a stand-in for Google's APIs listens, on loopback, if one does.
    """

    remaining_s: Callable[[], float]
    plaintext_hosts: frozenset[str] = frozenset()
    ca_file: str | None = None
    key_holders: tuple[str, ...] = ()
    declared: object = None
    admin: Callable[[], Credential] | None = None
    google_endpoint: str | None = None


class Happening(StrEnum):
    """What an alert is about."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ABANDONED = "abandoned"
    STUCK = "stuck"
    HELD = "held"
    RETIRED = "retired"
    OVERDUE = "overdue"
    FOREIGN = "foreign"


class Severity(StrEnum):
    """Who should look, and when: nobody, somebody this week, somebody now."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


SEVERITIES: Mapping[Happening, Severity] = MappingProxyType(
    {
        Happening.SUCCEEDED: Severity.INFO,
        Happening.FAILED: Severity.CRITICAL,
        Happening.ABANDONED: Severity.CRITICAL,
        Happening.STUCK: Severity.WARNING,
        Happening.HELD: Severity.WARNING,
        Happening.RETIRED: Severity.INFO,
        Happening.OVERDUE: Severity.CRITICAL,
        Happening.FOREIGN: Severity.WARNING,
    }
)


@dataclass(frozen=True, slots=True)
class Alert:
    """One fact that somebody should hear of. Names and ids only, never a value.

    Attributes:
        version_id: The version that it is about, if there is one.
        subject: The destination or consumer that it is about; "" for the secret itself.
        fact: One line, without advice.
        remedy: One imperative sentence; "" if nothing is to be done.
        at: When it was seen. Not part of the id.
        window: Which time this is that the same fact is told, from 0.
    """

    happening: Happening
    ref: SecretRef
    version_id: RotationId | None
    subject: str
    fact: str
    remedy: str
    at: datetime
    window: int = 0

    @property
    def severity(self) -> Severity:
        """Say who should look."""
        return SEVERITIES[self.happening]

    @property
    def id(self) -> str:
        """Name the fact: the same for the same fact, however often it is sent."""
        parts = (self.happening, self.ref, self.version_id or "", self.subject, str(self.window))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Sighting:
    """A look that found every consumer running with a version. Ids and a time only."""

    version_id: RotationId
    at: datetime
