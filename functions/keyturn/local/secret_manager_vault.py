"""What the fake Secret Manager holds, and what each call of its API does to it.

What is certain right away, and what may be late (docs: Secret Manager consistency):

    strong   a version read by its number, once it has been added; every guarded write
    late     `latest`, aliases, a secret's own fields, lists: up to `lag` changes of that secret

Late answers are drawn from a seed, anew for each read: one may be older than the one before.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from google.cloud.secretmanager_v1 import types
from google.protobuf import empty_pb2, json_format

from keyturn.crc32c import crc32c
from keyturn.local import secret_manager_rules as rules
from keyturn.local.secret_manager_rules import RefusedError, invalid, missing, not_enabled

ENABLED = types.SecretVersion.State.ENABLED
DISABLED = types.SecretVersion.State.DISABLED
DESTROYED = types.SecretVersion.State.DESTROYED

PAGE = 25_000
"""How many a list answers at most (ListSecretVersionsRequest.page_size)."""

FIRST_NUMBER = 100_000_000_001
"""The number of a project that was given none."""


@dataclass(frozen=True, slots=True)
class Notification:
    """A message to a topic, as documented under Event notifications. It holds no payload.

    Attributes:
        topic: `projects/*/topics/*`.
        attributes: eventType, secretId, dataFormat, timestamp; versionId, of a version's.
        data: The secret or its version, as JSON.
    """

    topic: str
    attributes: Mapping[str, str]
    data: bytes


@dataclass
class Held:
    """A secret with its versions, and how it was after each change.

    Attributes:
        writes: When it was written to last; only as many as a quota looks at.
    """

    secret: Any
    versions: list[Any] = field(default_factory=list)
    payloads: dict[int, bytes] = field(default_factory=dict)
    past: list[tuple[Any, int]] = field(default_factory=list)
    writes: list[datetime] = field(default_factory=list)

    def remember(self) -> None:
        """Note a change. One whose reply is lost is a change as well."""
        self.past.append((_copy(self.secret), len(self.versions)))


class Vault:
    """The state, and one method for each call. Not safe for threads: its server locks.

    Args:
        now: Tells the time.
        numbers: The numbers of projects, by their ids. Others are given one when first named.

    Attributes:
        lag: By how many changes of a secret a late answer may be late; set by `be_late`.
        quota: Writes to one secret in a second, after which they are refused; None is no limit.
        is_damaging: Payloads lose their last byte on their way to whoever reads them.
        listeners: Called with each notification.
    """

    def __init__(self, now: Callable[[], datetime], numbers: Mapping[str, str]) -> None:
        self.lag = 0
        self._seed = ""
        self.quota: int | None = None
        self.is_damaging = False
        self.listeners: list[Callable[[Notification], None]] = []
        self._now = now
        self._numbers = dict(numbers)
        self._held: dict[str, Held] = {}
        self._etags = itertools.count(1)
        self._draws = itertools.count(1)
        self._next_number = itertools.count(FIRST_NUMBER)

    # ------------------------------------------------------------------------ secrets

    def create_secret(self, request: Any) -> Any:
        """Make a secret. It has no version yet."""
        if not rules.SECRET_ID.fullmatch(request.secret_id):
            raise invalid("secret_id has 1 to 255 letters, digits, hyphens and underscores")
        is_regional = "/locations/" in request.parent
        if not is_regional and not _has(request.secret, "replication"):
            raise invalid("replication is required")
        name = self.canonical(f"{request.parent}/secrets/{request.secret_id}")
        if name in self._held:
            raise RefusedError("ALREADY_EXISTS", f"Secret [{name}] already exists.")
        secret = _copy(request.secret)
        secret.name, secret.create_time, secret.etag = name, self._now(), self._etag()
        if secret.ttl:
            secret.expire_time = self._now() + secret.ttl
        rules.check_secret(secret, 0, self._now())
        rules.check_rotation(secret, self._now())
        self._held[name] = Held(secret)
        self._held[name].remember()
        self._notify("SECRET_CREATE", secret)
        if secret.topics:
            self._notify("TOPIC_CONFIGURED", secret)  # named from memory
        return secret

    def get_secret(self, request: Any) -> Any:
        """Return a secret as it is, or was."""
        return self._late(self._find(request.name))[0]

    def list_secrets(self, request: Any) -> Any:
        """Return a project's secrets, newest first."""
        prefix = self.canonical(request.parent) + "/secrets/"
        found = [self._late(h)[0] for name, h in self._held.items() if name.startswith(prefix)]
        found.sort(key=lambda secret: secret.create_time, reverse=True)
        return _page(found, request, types.ListSecretsResponse, "secrets")

    def update_secret(self, request: Any) -> Any:
        """Change what the mask names, if the etag is what it is now, or is not sent."""
        held = self._find(request.secret.name)
        self._charge(held)
        _check_etag(held.secret, request.secret.etag)
        paths = list(request.update_mask.paths)
        rules.check_mask(paths)
        fresh = _copy(held.secret)
        for path in paths:
            _assign(fresh, request.secret, path)
        rules.check_secret(fresh, len(held.versions), self._now())
        if any(path.startswith(("rotation", "topics")) for path in paths):
            rules.check_rotation(fresh, self._now())
        fresh.etag = self._etag()  # of an update that changes nothing, too
        added = {t.name for t in fresh.topics} - {t.name for t in held.secret.topics}
        held.secret = fresh
        held.remember()
        self._notify("SECRET_UPDATE", fresh)
        if added:
            self._notify("TOPIC_CONFIGURED", fresh)
        return fresh

    def delete_secret(self, request: Any) -> Any:
        """Delete a secret with all its versions, at once."""
        held = self._find(request.name)
        _check_etag(held.secret, request.etag)
        self._delete(held, "REQUESTED")
        return empty_pb2.Empty()

    # ------------------------------------------------------------------------ versions

    def add_secret_version(self, request: Any) -> Any:
        """Add a version: enabled, and what `latest` names. There is no etag and no token."""
        held = self._find(request.parent)
        self._charge(held)
        payload = request.payload
        if len(payload.data) > rules.PAYLOAD_BYTES:
            raise invalid("The payload is larger than 64KiB.")
        has_sum = "data_crc32c" in payload
        if has_sum and payload.data_crc32c != crc32c(payload.data):
            raise invalid("data_crc32c does not match the payload")
        number = len(held.versions) + 1
        version = types.SecretVersion(
            name=f"{held.secret.name}/versions/{number}",
            create_time=self._now(),
            state=ENABLED,
            etag=self._etag(),
            client_specified_payload_checksum=has_sum,
        )
        held.versions.append(version)
        held.payloads[number] = payload.data
        held.remember()
        self._notify("SECRET_VERSION_ADD", held.secret, version)
        return version

    def get_secret_version(self, request: Any) -> Any:
        """Return a version without its payload."""
        return self._version(request.name)[1]

    def list_secret_versions(self, request: Any) -> Any:
        """Return a secret's versions, newest first."""
        held = self._find(request.parent)
        known = held.versions[: self._late(held)[1]]
        return _page(known[::-1], request, types.ListSecretVersionsResponse, "versions")

    def access_secret_version(self, request: Any) -> Any:
        """Return a payload, of an enabled version only."""
        held, version = self._version(request.name)
        if version.state != ENABLED:
            raise not_enabled(version.name, version.state.name)
        payload = held.payloads[_number(version)]
        sent = payload[:-1] if self.is_damaging else payload
        return types.AccessSecretVersionResponse(
            name=version.name,
            payload=types.SecretPayload(data=sent, data_crc32c=crc32c(payload)),
        )

    def enable_secret_version(self, request: Any) -> Any:
        """Let a version be read; undoes a scheduled destruction."""
        return self._change(request, ENABLED, "SECRET_VERSION_ENABLE")

    def disable_secret_version(self, request: Any) -> Any:
        """Let a version not be read. `latest` goes on naming it."""
        return self._change(request, DISABLED, "SECRET_VERSION_DISABLE")

    def destroy_secret_version(self, request: Any) -> Any:
        """Destroy a payload, or, with version_destroy_ttl, disable it and do so later."""
        held, version = self._version(request.name)
        ttl = held.secret.version_destroy_ttl
        if not ttl or version.state == DESTROYED:
            return self._change(request, DESTROYED, "SECRET_VERSION_DESTROY")
        return self._change(request, DISABLED, "SECRET_VERSION_DESTROY_SCHEDULED", ttl)

    # ------------------------------------------------------------------------ beside the API

    def be_late(self, lag: int, seed: str = "") -> None:
        """Let answers be up to so many changes late from now on: the same for the same seed."""
        self.lag, self._seed, self._draws = lag, seed, itertools.count(1)

    def tick(self) -> None:
        """Do what is due by now: rotations are announced, versions destroyed, secrets expire."""
        for held in list(self._held.values()):
            self._announce(held)
            for version in held.versions:
                due = version.scheduled_destroy_time
                if due and due <= self._now():
                    self._destroy(held, version)
                    self._notify("SECRET_VERSION_DESTROY", held.secret, version)
            if held.secret.expire_time and held.secret.expire_time <= self._now():
                self._delete(held, "EXPIRED")

    def manage(self, name: str, *, is_active: bool) -> None:
        """Say that Google rotates a secret by itself, or no longer does."""
        states = types.Rotation.ManagedRotationStatus.State
        held = self._find(name)
        held.secret.rotation.managed_rotation_status.state = (
            states.ACTIVE if is_active else states.INACTIVE
        )
        held.secret.etag = self._etag()
        held.remember()

    def read(self, name: str) -> bytes:
        """Return the payload that a name of a version means right now, however late others are.

        Raises:
            RefusedError: There is none to be read.
        """
        lag, self.lag = self.lag, 0
        try:
            answer: Any = self.access_secret_version(types.AccessSecretVersionRequest(name=name))
        finally:
            self.lag = lag
        payload: bytes = answer.payload.data
        return payload

    def look(self, name: str) -> Held:
        """Return a secret as it is right now. Not a copy."""
        return self._find(name)

    def canonical(self, name: str) -> str:
        """Return a name with its project's number, as answers have it."""
        parts = name.split("/")
        if len(parts) < 2 or parts[0] != "projects":  # noqa: PLR2004  # projects/*
            raise invalid(f"Invalid resource field value in the request: {name}")
        if not parts[1].isdigit():
            if parts[1] not in self._numbers:
                self._numbers[parts[1]] = str(next(self._next_number))
            parts[1] = self._numbers[parts[1]]
        return "/".join(parts)

    # ------------------------------------------------------------------------ how

    def _find(self, name: str) -> Held:
        name = self.canonical(name)
        if name not in self._held:
            raise missing("Secret", name)
        return self._held[name]

    def _version(self, name: str) -> tuple[Held, Any]:
        """Find a version by its number, an alias, or as `latest`: the newest, whatever its state.

        Not the newest *enabled* one (service.proto, AccessSecretVersionRequest.name).
        """
        secret, _, which = name.rpartition("/versions/")
        held = self._find(secret)
        past, known = held.secret, len(held.versions)
        if not which.isdigit():
            past, known = self._late(held)
        number = known if which == "latest" else past.version_aliases.get(which, 0)
        if which.isdigit():
            number = int(which)
        if not 1 <= number <= len(held.versions):
            raise missing("Secret Version", self.canonical(name))
        return held, held.versions[number - 1]

    def _late(self, held: Held) -> tuple[Any, int]:
        if not self.lag:
            return held.secret, len(held.versions)
        drawn = hashlib.sha256(f"{self._seed} {next(self._draws)}".encode()).digest()
        behind = int.from_bytes(drawn[:4]) % (self.lag + 1)
        return held.past[max(0, len(held.past) - 1 - behind)]

    def _change(self, request: Any, state: Any, event: str, after: timedelta | None = None) -> Any:
        held, version = self._version(request.name)
        _check_etag(version, request.etag)
        if version.state == DESTROYED and state != DESTROYED:
            raise not_enabled(version.name, "DESTROYED")
        version.state = state
        version.scheduled_destroy_time = self._now() + after if after else None
        if state == DESTROYED:
            self._destroy(held, version)
        version.etag = self._etag()
        self._notify(event, held.secret, version)
        return version

    def _destroy(self, held: Held, version: Any) -> None:
        version.state, version.scheduled_destroy_time = DESTROYED, None
        version.destroy_time = self._now()
        held.payloads.pop(_number(version), None)

    def _delete(self, held: Held, why: str) -> None:
        del self._held[held.secret.name]
        self._notify("SECRET_DELETE", held.secret, deleted=why)

    def _announce(self, held: Held) -> None:
        rotation = held.secret.rotation
        if not rotation.next_rotation_time or rotation.next_rotation_time > self._now():
            return
        due, period = rotation.next_rotation_time, rotation.rotation_period
        while period and due <= self._now():
            due += period
        rotation.next_rotation_time = due if period else None
        held.secret.etag = self._etag()
        held.remember()
        self._notify("SECRET_ROTATE", held.secret)

    def _charge(self, held: Held) -> None:
        """Count a write. 2 a second to a global secret, in the documentation of quotas."""
        if self.quota is None:
            return
        now = self._now()
        held.writes = [at for at in held.writes if now - at < timedelta(seconds=1)]
        if len(held.writes) >= self.quota:
            raise RefusedError("RESOURCE_EXHAUSTED", "Quota exceeded for this secret.")
        held.writes.append(now)

    def _notify(
        self, event: str, secret: Any, version: Any = None, *, deleted: str | None = None
    ) -> None:
        attributes = {
            "eventType": event,
            "secretId": secret.name,
            "dataFormat": "JSON_API_V1",
            "timestamp": self._now().isoformat().replace("+00:00", "Z"),
        }
        if version is not None:
            attributes["versionId"] = version.name
        if deleted is not None:
            attributes["deleteType"] = deleted
        told = secret if version is None else version
        data = json_format.MessageToJson(type(told).pb(told), indent=None).encode()
        for topic in secret.topics:
            for listener in self.listeners:
                listener(Notification(topic.name, attributes, data))

    def _etag(self) -> str:
        """Return another one; they are quoted strings (docs: etags)."""
        return f'"{0x16214548BF9E10 + next(self._etags):x}"'


def _copy(message: Any) -> Any:
    return type(message)(message)


def _has(secret: Any, group: str) -> bool:
    return type(secret.replication).pb(secret.replication).WhichOneof(group) is not None


def _number(version: Any) -> int:
    return int(version.name.rpartition("/")[2])


def _check_etag(resource: Any, etag: str) -> None:
    """Refuse another etag; none is no condition (docs: etags)."""
    if etag and etag != resource.etag:
        raise RefusedError("FAILED_PRECONDITION", "The etag does not match the current one.")


def _assign(fresh: Any, sent: Any, path: str) -> None:
    if path.startswith("rotation."):
        name = path.partition(".")[2]
        setattr(fresh.rotation, name, getattr(sent.rotation, name))
    elif "." in path:
        raise invalid(f"field {path} cannot be updated by itself")
    else:
        setattr(fresh, path, getattr(sent, path))


def _page(found: list[Any], request: Any, kind: Any, items: str) -> Any:
    found = [each for each in found if all(_matches(each, t) for t in _terms(request.filter))]
    start, size = int(request.page_token or 0), min(request.page_size or PAGE, PAGE)
    answer = kind(**{items: found[start : start + size], "total_size": len(found)})
    if start + size < len(found):
        answer.next_page_token = str(start + size)
    return answer


def _terms(text: str) -> Iterator[str]:
    return (term.strip() for term in text.split(" AND ") if term.strip())


def _matches(each: Any, term: str) -> bool:
    """Apply a part of a filter: `state:ENABLED`, `name:text`. The fake knows no others."""
    member, colon, wanted = term.partition(":")
    if not colon or member not in {"state", "name"}:
        raise invalid(f"the fake cannot filter by {term}")
    value = getattr(each, member)
    return wanted.lower() in str(getattr(value, "name", value)).lower()
