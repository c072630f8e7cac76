"""A copy in another secret of Google Secret Manager: in another project, region or form.

A version is added, is `latest` at once, and carries no id. So an annotation of the secret says what
the copy is, and each change of it holds only for the etag that was seen:

    <secret> <version> after <number> <turn>    about to be added; that number was the newest
    <secret> <version> at <number>              added, with that number

    look -> about to -> AddSecretVersion -> added

It holds the version if the annotation says so, that number is enabled, and there is no next number.
Numbers are certain where `latest` and the annotation may be old, so an old annotation shows: a next
number is there. Whoever dies on the way leaves an *about to*, which holds nothing: the value is
added once more. That does no harm, and nobody needs a right to read what is there.

What somebody else adds is not undone, it is followed by the copy: the plan names the place. Of two
workers one writes *about to*; one that sleeps after that through a whole newer delivery may still
add its old value. Nothing can prevent that; the next look finds it, and the copy is added again.

What it never does: read a value, or write into another secret's copy, or one that is rotated.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from keyturn.boundary import ask_google
from keyturn.crc32c import crc32c
from keyturn.errors import Busy, Drifted, Misconfigured, Unreachable
from keyturn.followers import CopyShape, Given
from keyturn.model import RotationId, Sensitive, Surroundings, Version
from keyturn.ports import Held, Pause
from keyturn.remaining import allowance

if TYPE_CHECKING:
    from collections.abc import Sequence

SERVICE = "secretmanager.googleapis.com"

_NAME = (
    r"^(?:(?:projects/[0-9]{1,20}/)?locations/[a-z0-9-]+/secrets/|projects/[0-9]{1,20}/secrets/)?"
    r"[A-Za-z0-9_-]{1,255}(?!\n)$"
)


class SecretManagerShape(CopyShape, frozen=True, kw_only=True):
    """Another secret in Secret Manager."""

    secret: Annotated[
        str,
        msgspec.Meta(
            pattern=_NAME,
            description="The other secret: its id, or its full name with the project's number.",
        ),
    ]

    def place(self) -> tuple[str, ...]:
        """See `CopyShape.place`."""
        return (self.secret,)


SHAPES = {"secret-manager": SecretManagerShape}
FIXES = {
    "secret-manager": "Write a mapping with `secret`.",
    "secret": "Write its id, or projects/NUMBER/secrets/ID, or"
    " projects/NUMBER/locations/PLACE/secrets/ID.",
}

PERMISSIONS = (
    "secretmanager.secrets.get",
    "secretmanager.secrets.update",
    "secretmanager.versions.add",
    "secretmanager.versions.get",
)
"""On the other secret: a custom role. Of the predefined ones only roles/secretmanager.admin and
editor have secrets.update. None of them reads a value."""

ANNOTATION = "keyturn-copy"
"""What the record is called. Keys have no slash (resources.proto, Secret.annotations)."""

PAYLOAD_BYTES = 65_536
"""Longest payload (resources.proto, SecretPayload.data)."""

CALL_TIMEOUT_S = 10.0
"""For one call, in seconds; they take some 50 ms."""

MOST_AHEAD = 200
"""So many versions that nobody has told of are stepped over."""

_COMPANIONS = "-pending"
_RECORDS = "keyturn-current"
"""How a companion is called, and the annotation that makes a secret one (docs/google.md)."""

_TOO_MANY: Mapping[str, Sequence[float]] = {"RESOURCE_EXHAUSTED": (0.5, 1.0, 2.0, 4.0)}
_PAUSES_S: Mapping[str, Sequence[float]] = {**_TOO_MANY, "UNAVAILABLE": (0.2, 1.0)}
"""How long to wait, in seconds, before each time that a call is made again: two writes a second to
one secret are allowed, softly (docs: quotas), and a delivery makes three."""

_REF = re.compile(
    r"projects/(?P<project>[0-9]+)/(?:locations/(?P<location>[a-z0-9-]+)/)?secrets/[A-Za-z0-9_-]+"
)


def make(kind: str, settings: SecretManagerShape, given: Given) -> SecretManagerCopy:
    """Make the destination that a plan names.

    Raises:
        Misconfigured: It is no name of a secret, or the secret itself, or its companion.
    """
    del kind
    named = full_name(settings.secret, given.ref)
    found = _REF.fullmatch(named)
    if found is None:
        raise Misconfigured(
            f"secret-manager:{settings.secret} is no full name of a secret",
            remedy="Write projects/NUMBER/secrets/ID, with the project's number.",
        )
    return SecretManagerCopy(
        lambda: given.clients(SERVICE, found["location"]),
        copy=named,
        secret=given.ref or given.secret,
        pause=_pause_within(given.surroundings),
    )


def full_name(named: str, ref: str) -> str:
    """Return the full name of a secret that may be named shortly, as one of the project of *ref*.

    Only Secret Manager has such names: from another store, it must be named in full.
    """
    if named.startswith("projects/"):
        return named
    project = ref.split("/")[1] if _REF.fullmatch(ref) else ""
    path = named if "/" in named else f"secrets/{named}"
    return f"projects/{project}/{path}"


@dataclass(frozen=True, slots=True)
class _Record:
    """What the annotation says.

    Attributes:
        number: Of the copy; or of the newest version before it, if it is only about to be added.
    """

    secret: str
    version_id: RotationId
    number: int
    is_added: bool


_NOTHING = _Record("", RotationId(""), 0, is_added=False)


@dataclass(frozen=True, slots=True)
class _Seen:
    """The secret, and its versions.

    Attributes:
        text: The annotation, as it is.
        newest: The newest number. Certain.
        is_open: Whether that version is enabled.
    """

    etag: str
    annotations: Mapping[str, str]
    record: _Record
    newest: int
    is_open: bool

    @property
    def text(self) -> str:
        return self.annotations.get(ANNOTATION, "")

    @property
    def held(self) -> Held:
        record = self.record
        is_there = record.is_added and record.number == self.newest and self.is_open
        mark = f"{self.etag} {self.newest}"
        return Held(record.version_id if is_there else None, mark)


class _Again:
    """An answer that is none yet."""

    def __init__(self, code: str) -> None:
        self.code = code


class SecretManagerCopy:
    """A `Destination`.

    Args:
        connect: Makes a `SecretManagerServiceClient` for the place of the copy.
        copy: The full name of the other secret, with the project's number.
        secret: The secret's own full name.
        pause: Waits between calls that are made again.
        turn: Draws what nobody else draws.

    Raises:
        Misconfigured: The copy is to be in the secret itself, or in its companion.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        *,
        copy: str,
        secret: str,
        pause: Pause,
        turn: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        if copy in {secret, f"{secret}{_COMPANIONS}"}:
            raise Misconfigured(
                f"secret-manager:{copy} is the secret itself, or the one that its pending values"
                " are in",
                remedy="Name another secret for the copy.",
            )
        self._connect = connect
        self._copy = copy
        self._secret = secret
        self._pause = pause
        self._turn = turn
        self._client: Any = None

    def name(self) -> str:
        """See `Destination.name`."""
        return f"secret-manager:{self._copy}"

    def holds(self) -> Held:
        """See `Destination.holds`."""
        return self._look().held

    def deliver(self, version: Version, text: Sensitive, seen: Held) -> None:
        """See `Destination.deliver`. It is looked at once more, right before *about to*."""
        data = self._fitting(version, text)
        now = self._look()
        if now.held.version_id == version.rotation_id:
            return
        # By an earlier try, which got as far as that.
        is_ours = not now.record.is_added and now.record.version_id == version.rotation_id
        if now.held.mark != seen.mark and not is_ours:
            raise self._overtaken()
        self._require_not_rotated()
        label = f"{self._secret} {version.rotation_id}"
        now = self._noted(now, f"{label} after {now.newest} {self._turn()}")
        number = self._add(data)
        # Last: it is what makes it look delivered.
        self._noted(now, f"{label} at {number}")

    def _noted(self, now: _Seen, text: str) -> _Seen:
        """Write the annotation, if nobody has changed the secret since; return what is there."""
        request = {
            "secret": {
                "name": self._copy,
                "etag": now.etag,
                "annotations": {**now.annotations, ANNOTATION: text},
            },
            "update_mask": {"paths": ["annotations"]},
        }
        # docs: etags. A mismatch is FAILED_PRECONDITION; so is our own second try.
        lost = {"FAILED_PRECONDITION": None}
        made = self._ask("UpdateSecret", "update_secret", request, lost)
        if made is not None:
            return self._seen(made, now.newest, is_open=now.is_open)
        again = self._look()
        if again.text != text:
            raise self._overtaken()
        return again

    def _add(self, data: bytes) -> int:
        """Add a version, once: it may be there where there is no answer. Return its number."""
        payload = {"data": data, "data_crc32c": crc32c(data)}
        request = {"parent": self._copy, "payload": payload}
        made = self._ask("AddSecretVersion", "add_secret_version", request, pauses=_TOO_MANY)
        return _number_of(made)

    def _fitting(self, version: Version, text: Sensitive) -> bytes:
        value = text.reveal()
        where = f"{self.name()}: version {version.rotation_id}"
        # Not left to the encoder: its error has the whole text.
        if _UNWRITABLE.search(value):
            raise Misconfigured(
                f"{where} has half a surrogate pair", remedy="Store text that is Unicode."
            )
        data = value.encode()
        if not 1 <= len(data) <= PAYLOAD_BYTES:
            raise Misconfigured(
                f"{where} has {len(data):,} bytes, a secret takes 1 to {PAYLOAD_BYTES:,}",
                remedy="Deliver one member, or deliver to Cloud Storage.",
            )
        return data

    # ------------------------------------------------------------------------ look

    def _look(self) -> _Seen:
        request = {"name": self._copy}
        secret = self._ask("GetSecret", "get_secret", request, {"NOT_FOUND": None})
        if secret is None:
            raise Misconfigured(
                f"{self.name()} is not there",
                remedy="Correct the plan, or make the secret, without a value.",
            )
        self._require_a_place(secret)
        known = self._version("latest")
        told = _record(secret.annotations.get(ANNOTATION, "")).number
        if known is None or _number_of(known) < told:  # `latest` may be old.
            known = self._version(str(told)) if told else None
        newest = self._newest(known)
        number = _number_of(newest) if newest is not None else 0
        is_open = newest is not None and newest.state.name == "ENABLED"
        return self._seen(secret, number, is_open=is_open)

    def _seen(self, secret: Any, newest: int, *, is_open: bool) -> _Seen:
        annotations = dict(secret.annotations)
        record = _record(annotations.get(ANNOTATION, ""))
        if record.secret not in {"", self._secret}:
            raise Drifted(
                f"{self.name()} holds a copy of {record.secret}, not of {self._secret}",
                remedy="Give each secret a place of its own in the plan, or remove the annotation"
                f" {ANNOTATION} if the other is no longer delivered there.",
            )
        return _Seen(secret.etag, annotations, record, newest, is_open)

    def _require_a_place(self, secret: Any) -> None:
        """Refuse what is another's: a companion, or a secret that is rotated itself."""
        if _RECORDS in secret.annotations:
            raise Drifted(
                f"{self.name()} is where the pending values of another secret are",
                remedy="Name another secret for the copy.",
            )
        if "rotation" in secret or secret.secret_type.name == "CLOUD_SQL_DB_CREDENTIALS":
            raise self._rotated()

    def _require_not_rotated(self) -> None:
        """Refuse a secret that has a companion: the copy would become its current value.

        Who may not see the companion of that place does not keep one there, or not with this role.
        """
        request = {"name": f"{self._copy}{_COMPANIONS}"}
        unseen = {"NOT_FOUND": None, "PERMISSION_DENIED": None}
        beside = self._ask("GetSecret", "get_secret", request, unseen)
        if beside is not None and _RECORDS in beside.annotations:
            raise self._rotated()

    def _rotated(self) -> Drifted:
        return Drifted(
            f"{self.name()} is rotated itself",
            remedy="Name another secret for the copy, or remove its rotation.",
        )

    def _newest(self, known: Any) -> Any:
        """Return the newest version, from one that is known on; None if there is none."""
        found = known
        for later in self._after(_number_of(known) if known is not None else 0):
            found = later
        return found

    def _after(self, number: int) -> Iterator[Any]:
        """Yield the versions that follow. By number: so one that is there is seen."""
        for each in range(number + 1, number + 1 + MOST_AHEAD):
            later = self._version(str(each))
            if later is None:
                return
            yield later

    def _version(self, which: str) -> Any:
        """Return a version without its payload; None if there is none."""
        request = {"name": f"{self._copy}/versions/{which}"}
        return self._ask("GetSecretVersion", "get_secret_version", request, {"NOT_FOUND": None})

    # ------------------------------------------------------------------------ calls

    def _ask(
        self,
        what: str,
        method: str,
        request: Mapping[str, object],
        answers: Mapping[str, Any] | None = None,
        pauses: Mapping[str, Sequence[float]] = _PAUSES_S,
    ) -> Any:
        """Make one call, as patiently as its code deserves; the library is told to repeat none."""
        if self._client is None:
            self._client = self._connect()
        left = {code: iter(waits) for code, waits in pauses.items()}
        again = {code: _Again(code) for code in left}

        def call() -> Any:
            call_once = getattr(self._client, method)
            return call_once(request=request, retry=None, timeout=CALL_TIMEOUT_S)

        while True:
            answer = ask_google(what, self.name(), call, {**again, **(answers or {})})
            if not isinstance(answer, _Again):
                return answer
            wait_s = next(left[answer.code], None)
            if wait_s is None or not self._pause(wait_s):
                raise Unreachable(
                    f"{self.name()}: {what} answered {answer.code}, again and again",
                    remedy="Look at the quotas of Secret Manager, and at the service's status.",
                )

    def _overtaken(self) -> Busy:
        return Busy(
            f"{self.name()}: something else has been written there since we looked, or what we saw"
            " was old",
            remedy="Nothing: it is looked at again.",
        )


_UNWRITABLE = re.compile("[\ud800-\udfff]")

_NOTED = re.compile(
    r"(?P<secret>\S+) (?P<version>\S+) (?:at (?P<at>[0-9]+)|after (?P<after>[0-9]+) [0-9a-f]+)"
)


def _record(text: str) -> _Record:
    """Read an annotation. One that is none of ours says nothing."""
    found = _NOTED.fullmatch(text)
    if found is None:
        return _NOTHING
    number = int(found["at"] or found["after"])
    return _Record(
        found["secret"], RotationId(found["version"]), number, is_added=found["at"] is not None
    )


def _number_of(version: Any) -> int:
    return int(version.name.rpartition("/")[2])


def _pause_within(surroundings: Surroundings) -> Pause:
    """Return what waits while the function has time for it."""

    def pause(seconds: float) -> bool:
        if allowance(seconds, SERVICE, surroundings) < seconds:
            return False
        time.sleep(seconds)
        return True

    return pause
