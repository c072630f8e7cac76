"""The calls that the Google store makes: time-outs, patience, checksums, errors by canonical code.

    what                    no answer                       too many
    reads, guarded writes   asked again, twice              asked again, with growing pauses
    AddSecretVersion        never asked again: it may       the same: a refusal has no effect
                            have made a version

The library repeats only AccessSecretVersion by itself; it is told to repeat nothing.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

from keyturn.boundary import ask_google
from keyturn.crc32c import crc32c
from keyturn.errors import Misconfigured, Unreachable
from keyturn.ports import Pause

if TYPE_CHECKING:
    from collections.abc import Sequence

CALL_TIMEOUT_S = 10.0
"""For one call, in seconds; they take some 50 ms."""

PAUSES_S: Mapping[str, Sequence[float]] = {
    # 2 a second and 120 a minute for each secret (docs: quotas), softly enforced.
    "RESOURCE_EXHAUSTED": (0.5, 1.0, 2.0, 4.0, 8.0),
    "UNAVAILABLE": (0.2, 1.0),
}
"""How long to wait, in seconds, before each time that a call is made again."""

PAYLOAD_BYTES = 65_536
"""Longest payload (resources.proto, SecretPayload.data)."""

MOST_AHEAD = 50
"""So many versions that nobody knows of are looked through."""

PENDING_SUFFIX = "-pending"

_REF = re.compile(
    r"projects/[a-z0-9:.-]+(?:/locations/(?P<location>[a-z0-9-]+))?/secrets/(?P<id>[A-Za-z0-9_-]+)"
)
_ID_LONGEST = 255 - len(PENDING_SUFFIX)  # CreateSecretRequest.secret_id: 1 to 255 characters


class Missing(Enum):
    """Why a version has no text to be read."""

    ABSENT = "there is no such number"
    CLOSED = "it is disabled or destroyed"


@dataclass(frozen=True, slots=True)
class Listed:
    """An enabled version, without its payload."""

    number: int
    made_at: datetime


class _Again:
    """An answer that is none yet."""

    def __init__(self, code: str) -> None:
        self.code = code


class Wire:
    """The API's calls on one client.

    Args:
        client: A `SecretManagerServiceClient` over gRPC.
        pause: Waits between calls that are made again.
        timeout_s: For one call.
    """

    def __init__(self, client: Any, pause: Pause, timeout_s: float) -> None:
        self._client = client
        self._pause = pause
        self._timeout_s = timeout_s

    def secret(self, name: str) -> Any:
        """Return a secret as it is, or was some time ago."""
        return self._ask("GetSecret", name, self._client.get_secret, {"name": name})

    def found_secret(self, name: str) -> Any | None:
        """Return a secret, as `secret`; None if there is none."""
        request = {"name": name}
        return self._ask("GetSecret", name, self._client.get_secret, request, {"NOT_FOUND": None})

    def create(self, name: str, secret: Mapping[str, object]) -> bool:
        """Make a secret without a version; False if there is one of that name.

        Not made again where there is no answer: then it would be there already, and not ours.
        """
        parent, _, secret_id = name.rpartition("/secrets/")
        request = {"parent": parent, "secret_id": secret_id, "secret": secret}
        made = self._ask(
            "CreateSecret",
            name,
            self._client.create_secret,
            request,
            {"ALREADY_EXISTS": None},
            pauses={"RESOURCE_EXHAUSTED": PAUSES_S["RESOURCE_EXHAUSTED"]},
        )
        return made is not None

    def update(self, name: str, etag: str, fields: Mapping[str, object]) -> Any | None:
        """Change fields if the etag is still that one; None if it is not.

        Repeated where there is no answer: so None may also mean that the first try was heard.
        """
        request = {
            "secret": {"name": name, "etag": etag, **fields},
            "update_mask": {"paths": list(fields)},
        }
        # docs: etags. A mismatch is FAILED_PRECONDITION, not ABORTED.
        lost = {"FAILED_PRECONDITION": None}
        return self._ask("UpdateSecret", name, self._client.update_secret, request, lost)

    def add(self, name: str, text: str, after: int) -> int:
        """Add a version, and return its number. It is enabled, and `latest`, at once.

        If the answer is lost, the numbers following *after* are looked through for it.

        Raises:
            Unreachable: No answer, and it is not there. It may still come.
        """
        data = text.encode()
        payload = {"data": data, "data_crc32c": crc32c(data)}
        request = {"parent": name, "payload": payload}
        pauses = {"RESOURCE_EXHAUSTED": PAUSES_S["RESOURCE_EXHAUSTED"]}
        try:
            made = self._ask(
                "AddSecretVersion",
                name,
                self._client.add_secret_version,
                request,
                pauses=pauses,
            )
        except Unreachable as error:
            failure = error
        else:
            return number_of(made.name)
        found = self.found(name, text, after)
        if found is None:
            raise failure
        return found

    def found(self, name: str, text: str, after: int) -> int | None:
        """Return the newest version after *after* that holds *text*."""
        numbers = [number for number, held in self.following(name, after) if held == text]
        return numbers[-1] if numbers else None

    def following(self, name: str, after: int) -> Iterator[tuple[int, str | Missing]]:
        """Yield the versions after that number. By number: so one that is there is seen."""
        for number in range(after + 1, after + MOST_AHEAD):
            held = self.text(name, number)
            if held is Missing.ABSENT:
                return
            yield number, held

    def text(self, name: str, number: int) -> str | Missing:
        """Return what a version holds. Certain: it is read by its number.

        Raises:
            Misconfigured: It is no text, or of another secret.
            Unreachable: It was damaged on its way.
        """
        answer = self._ask(
            "AccessSecretVersion",
            name,
            self._client.access_secret_version,
            {"name": f"{name}/versions/{number}"},
            {"NOT_FOUND": Missing.ABSENT, "FAILED_PRECONDITION": Missing.CLOSED},
        )
        if isinstance(answer, Missing):
            return answer
        _require_of(name, answer.name)
        payload = answer.payload
        if payload.data_crc32c != crc32c(payload.data):
            raise Unreachable(
                f"{name} version {number}: the checksum is not that of the payload",
                remedy="Nothing: it is read again.",
            )
        return _decoded(payload.data, f"{name} version {number}")

    def newest(self, name: str) -> Listed | None:
        """Return the version that is `latest`, or was; None if there is none."""
        return self._version(name, "latest")

    def made_at(self, name: str, number: int) -> datetime | None:
        """Return when a version was made; None if there is none of that number."""
        found = self._version(name, str(number))
        return found.made_at if found else None

    def enabled(self, name: str) -> list[Listed]:
        """List the versions that can be read, newest first. Some may be missing yet."""
        request = {"parent": name, "filter": "state:ENABLED"}
        pages = self._ask(
            "ListSecretVersions",
            name,
            lambda request, **how: list(self._client.list_secret_versions(request, **how)),
            request,
        )
        return [_listed(version) for version in pages]

    def destroy(self, name: str, number: int) -> None:
        """Destroy a version. Repeatable."""
        self._ask(
            "DestroySecretVersion",
            name,
            self._client.destroy_secret_version,
            {"name": f"{name}/versions/{number}"},
            {"FAILED_PRECONDITION": None, "NOT_FOUND": None},
        )

    def _version(self, name: str, which: str) -> Listed | None:
        answer = self._ask(
            "GetSecretVersion",
            name,
            self._client.get_secret_version,
            {"name": f"{name}/versions/{which}"},
            {"NOT_FOUND": None},
        )
        return _listed(answer) if answer is not None else None

    def _ask(  # noqa: PLR0913  # a call, and how it is made
        self,
        what: str,
        name: str,
        method: Callable[..., Any],
        request: Mapping[str, object],
        answers: Mapping[str, Any] | None = None,
        *,
        pauses: Mapping[str, Sequence[float]] | None = None,
    ) -> Any:
        """Make one call, as patiently as its code deserves."""
        left = {code: iter(waits) for code, waits in (pauses or PAUSES_S).items()}

        def call() -> Any:
            return method(request=request, retry=None, timeout=self._timeout_s)

        again = {code: _Again(code) for code in left}
        while True:
            answer = ask_google(what, name, call, {**again, **(answers or {})})
            if not isinstance(answer, _Again):
                return answer
            wait_s = next(left[answer.code], None)
            if wait_s is None or not self._pause(_scattered(wait_s)):
                raise Unreachable(
                    f"{name}: {what} answered {answer.code}, again and again",
                    remedy="Look at the quotas of Secret Manager, and at the service's status.",
                )


def location_of(ref: str) -> str | None:
    """Return the location of a regional secret; None of a global one.

    Raises:
        Misconfigured: *ref* is not the full name of a secret.
    """
    found = _REF.fullmatch(ref)
    if found is None or len(found["id"]) > _ID_LONGEST:
        raise Misconfigured(
            f"{ref[:200]!a} is not the full name of a secret",
            remedy="Write projects/NUMBER/secrets/ID, or projects/NUMBER/locations/PLACE/secrets/ID"
            f"; the id has {_ID_LONGEST} characters at most.",
        )
    return found["location"]


def companion_of(ref: str) -> str:
    """Return the name of the secret beside it, which holds what is pending."""
    location_of(ref)
    return f"{ref}{PENDING_SUFFIX}"


def number_of(name: str) -> int:
    """Return the number at the end of a version's name."""
    return int(name.rpartition("/")[2])


def _listed(version: Any) -> Listed:
    return Listed(number_of(version.name), version.create_time)


def _require_of(name: str, answered: str) -> None:
    """Refuse another secret's answer; a project's id comes back as its number."""
    wanted, got = name.split("/")[2:], answered.split("/")[2:-2]
    if wanted != got:
        raise Misconfigured(
            f"{name}: the store answered for {answered}", remedy="Report this: nothing is to blame."
        )


def _decoded(data: bytes, where: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        pass
    raise Misconfigured(
        f"{where}: the value is binary", remedy="Store the value as UTF-8 text, a JSON object."
    )


def _scattered(wait_s: float) -> float:
    """Return up to half as much more: two workers are not to meet again."""
    return wait_s * (1 + secrets.randbelow(500) / 1_000)
