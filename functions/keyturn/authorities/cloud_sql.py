"""Cloud SQL: the password of one user, as the service itself sets it. PostgreSQL and MySQL.

    projects/PROJECT/instances/NAME         users.update

The request is answered with an operation, which is carried out later: it is asked after until it
has ended. No other change of the instance is taken meanwhile. IAM permits it, not the old password,
which may be lost; and no way to the database is needed, only to the API.

What it never does: change anything else, a user of IAM's, or one that has two passwords. Nothing at
Cloud SQL stops a request that was stalled on its way and arrives late.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from keyturn.errors import Drifted, Misconfigured, NotYetAccepted, Unreachable, Unsupported
from keyturn.google.api import GoogleApi
from keyturn.model import Credential, Sensitive, Surroundings

SERVICE = "sqladmin.googleapis.com"
NAMES = re.compile(
    r"projects/((?:[a-z0-9.-]+:)?[a-z0-9][a-z0-9-]{0,62})/instances/([a-z][a-z0-9-]{0,97})"
)
"""What a plan's `authority` is called: the project by its id, as Cloud SQL itself names it."""
PERMISSIONS = (
    "cloudsql.instances.get",
    "cloudsql.users.list",
    "cloudsql.users.update",
)
"""What the function's service account needs. The first is also for operations."""

FIRST_PAUSE_S, LONGEST_PAUSE_S, GROWTH = 1.0, 10.0, 1.5
"""Between two looks. A change takes some seconds, as far as people report."""
MARGIN_S = 30.0
"""Left of the function's time for one more call, with all its tries (`line.CALL_S`), and for
reporting."""

OPERATIONS = 100
"""The newest of an instance's operations, among which those that go on are looked for."""


def authority(client: GoogleApi, name: str, surroundings: Surroundings) -> CloudSql:
    """Build the authority; see `keyturn.authorities`.

    Raises:
        Misconfigured: *name* is of something else.
    """
    return CloudSql(client, name, surroundings.remaining_s)


class CloudSql:
    """An `Authority` over the users of one instance.

    Args:
        api: Of `SERVICE`.
        name: Of the instance; see `NAMES`.
        remaining_s: How long this call may still run.
        sleep: Waits so many seconds.
    """

    def __init__(
        self,
        api: GoogleApi,
        name: str,
        remaining_s: Callable[[], float],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        found = NAMES.fullmatch(name)
        if found is None:
            raise Misconfigured(
                f"{name[:200]!a} is no instance of Cloud SQL",
                remedy="Write `authority: projects/PROJECT/instances/NAME` in the plan.",
            )
        self._project, self._instance = quote(found[1], safe=""), found[2]
        self._api = api
        self._name = name
        self._remaining_s = remaining_s
        self._sleep = sleep

    def check(self, place: str, credential: Credential) -> None:
        """See `Authority.check`."""
        seen = self._look(place, credential.principal)
        _require_usable(credential, self._name, seen.policy)

    def settle(self, place: str, principal: str) -> None:
        """See `Authority.settle`. An operation does not tell whose password it sets."""
        self._look(place, principal)
        for pause_s in _pauses():
            if not self._is_changing():
                return
            self._rest(pause_s)

    def set_password(self, principal: str, secret: Sensitive) -> None:
        """See `Authority.set_password`."""
        # From where an account may log in is a part of its name, in MySQL.
        host = self._user(principal).host
        if self._remaining_s() < MARGIN_S:
            raise self._out_of_time("no time is left to ask for a new password")
        operation = self._ask(principal, host, secret)
        for pause_s in _pauses():
            self._rest(pause_s)
            if self._has_ended(operation):
                return

    # ------------------------------------------------------------------------ what is there

    def _look(self, place: str, principal: str) -> _Seen:
        found = self._get("instances.get", f"/instances/{self._instance}")
        seen = _seen(found)
        if seen.refusal is not None:
            fact, remedy = seen.refusal
            raise Unsupported(f"{self._name} {fact}", remedy=remedy)
        if not seen.is_serving:
            raise Unreachable(
                f"{self._name} is stopped, or not RUNNABLE",
                remedy="Wait until it is RUNNABLE, or start it: it is tried again.",
            )
        host = _host(place)
        if host not in seen.hosts:
            raise Drifted(
                f"the secret is for {host}, {self._name} is at"
                f" {', '.join(sorted(seen.hosts)) or 'no address'}",
                remedy="Make the secret's `host` one of the instance's, or correct `authority` in"
                " the plan.",
            )
        self._user(principal)
        return seen

    def _user(self, principal: str) -> _User:
        said = self._get("users.list", f"/instances/{self._instance}/users")
        users = [_User.of(each) for each in said.get("items", []) if each.get("name") == principal]
        if not users:
            raise Drifted(
                f"{self._name} has no user {principal!r}",
                remedy="Correct `username` in the secret, or `authority` in the plan.",
            )
        if len(users) > 1:
            raise Unsupported(
                f"{self._name} has {len(users)} accounts {principal!r}, for several hosts",
                remedy="Leave one of them, or remove `authority` from the plan.",
            )
        (user,) = users
        user.require_one_password(self._name, principal)
        return user

    def _is_changing(self) -> bool:
        query = urlencode({"instance": self._instance, "maxResults": OPERATIONS})
        said = self._get("operations.list", f"/operations?{query}")
        return any(
            each.get("operationType") in _OF_USERS and each.get("status") != _DONE
            for each in said.get("items", [])
        )

    def _get(self, what: str, path: str) -> Mapping[str, Any]:
        path = f"/v1/projects/{self._project}{path}"
        said: Mapping[str, Any] = self._api.ask(what, self._name, "GET", path)
        return said

    # ------------------------------------------------------------------------ what is done

    def _ask(self, principal: str, host: str, secret: Sensitive) -> str:
        """Ask for the password, once, and return the operation that will set it."""
        named = {"name": principal} | ({"host": host} if host else {})
        said = self._api.ask(
            "users.update",
            self._name,
            "PUT",
            f"/v1/projects/{self._project}/instances/{self._instance}/users?{urlencode(named)}",
            {"name": principal, "password": secret.reveal()},
            is_repeatable=False,
        )
        return str(said.get("name"))

    def _has_ended(self, operation: str) -> bool:
        said = self._get("operations.get", f"/operations/{quote(operation, safe='')}")
        if said.get("status") != _DONE:
            return False
        if said.get("error"):
            raise Unreachable(
                f"{self._name}: the new password was not set ({_codes(said['error'])})",
                remedy=f"Look at operation {operation} of the instance: it is tried again.",
            )
        return True

    def _rest(self, pause_s: float) -> None:
        if self._remaining_s() - pause_s < MARGIN_S:
            raise self._out_of_time("a new password is not in force yet")
        self._sleep(pause_s)

    def _out_of_time(self, fact: str) -> NotYetAccepted:
        return NotYetAccepted(
            f"{self._name}: {fact}", remedy="Run this step again: it goes on waiting."
        )


def _pauses() -> Iterator[float]:
    pause_s = FIRST_PAUSE_S
    while True:
        yield pause_s
        pause_s = min(pause_s * GROWTH, LONGEST_PAUSE_S)


# ---------------------------------------------------------------------------- descriptions

_DONE = "DONE"
_OF_USERS = frozenset({"CREATE_USER", "DELETE_USER", "INJECT_USER", "UPDATE_USER"})
_CODE = re.compile(r"[A-Za-z0-9_]{1,60}")

_OTHER_KINDS = {
    "READ_POOL_INSTANCE": "is a read pool: its users are those of its primary",
    "READ_REPLICA_INSTANCE": "is a replica: its users are those of its primary",
}


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a description of an instance says.

    Attributes:
        hosts: By which its clients may call it, in small letters.
        policy: Of its passwords; empty if it has none.
        refusal: Why no password is set there, and what to do; None if it can be.
    """

    hosts: frozenset[str]
    policy: Mapping[str, Any]
    is_serving: bool
    refusal: tuple[str, str] | None


def _seen(found: Mapping[str, Any]) -> _Seen:
    settings = found.get("settings", {})
    policy = settings.get("passwordValidationPolicy", {})
    kind = found.get("instanceType", _ORDINARY)
    refusal = None
    if kind != _ORDINARY:
        fact = _OTHER_KINDS.get(kind, "is no instance that Cloud SQL itself serves")
        refusal = (fact, "Name the primary instance in the plan's `authority`.")
    return _Seen(
        frozenset(_plain(each) for each in _hosts(found) if each),
        policy if policy.get("enablePasswordPolicy") else {},
        found.get("state") == "RUNNABLE" and settings.get("activationPolicy") != "NEVER",
        refusal,
    )


_ORDINARY = "CLOUD_SQL_INSTANCE"


def _hosts(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the addresses, the names, and the folder of the socket that Cloud Run mounts."""
    for each in found.get("ipAddresses", []):
        if each.get("type") != "OUTGOING":
            yield each.get("ipAddress", "")
    yield found.get("dnsName", "")
    yield from (each.get("name", "") for each in found.get("dnsNames", []))
    yield found.get("writeEndpoint", "")
    network = found.get("settings", {}).get("ipConfiguration", {})
    yield from network.get("customSubjectAlternativeNames", [])
    if found.get("connectionName"):
        yield f"/cloudsql/{found['connectionName']}"


def _host(place: str) -> str:
    """Return the host alone: Cloud SQL tells no port, and each engine has one."""
    return _plain(place.rpartition(":")[0])


def _plain(host: str) -> str:
    return host.lower().removesuffix(".")


@dataclass(frozen=True, slots=True)
class _User:
    """What a list of users says of one.

    Attributes:
        host: From where it may log in; empty where the engine knows no such thing.
        kind: `BUILT_IN`, or of IAM's.
        has_two: Whether an earlier password is kept beside its own.
    """

    host: str
    kind: str
    has_two: bool

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> _User:
        """Read an entry of the list; the type is left out where it is the usual one."""
        has_two = said.get("dualPasswordType") == "DUAL_PASSWORD"
        return cls(said.get("host", ""), said.get("type") or _BUILT_IN, has_two)

    def require_one_password(self, name: str, principal: str) -> None:
        """Refuse a user whose new password would be none, or one of two."""
        if self.kind != _BUILT_IN:
            raise Unsupported(
                f"{name}: {principal!r} has no password: it is a {self.kind[:40]!a}",
                remedy="Name a built-in user in the secret.",
            )
        if self.has_two:
            # MySQL: a new password without RETAIN leaves a secondary one as it is (ALTER USER).
            raise Unsupported(
                f"{name}: {principal!r} has two passwords, and would keep the older one",
                remedy="Let the strategy `dual-password` rotate it, or discard the old password.",
            )


_BUILT_IN = "BUILT_IN"


def _codes(error: Mapping[str, Any]) -> str:
    codes = [str(each.get("code")) for each in error.get("errors", [])]
    return ", ".join(code for code in codes if _CODE.fullmatch(code)) or "no code"


def _require_usable(credential: Credential, name: str, policy: Mapping[str, Any]) -> None:
    """Refuse what the instance's own policy for passwords would (PasswordValidationPolicy)."""
    text = credential.secret.reveal()
    shortest = policy.get("minLength", 0)
    if len(text) < shortest:
        raise Misconfigured(
            f"{name} takes passwords of {shortest} characters and more, not {len(text)}",
            remedy=f"Set `length` under the plan's `password` to {shortest} or more.",
        )
    if policy.get("complexity") == "COMPLEXITY_DEFAULT" and not _is_complex(text):
        raise Misconfigured(
            f"{name} takes passwords with a small and a capital letter, a digit and a symbol",
            remedy="Do not leave any of them out in the plan's `password`.",
        )
    if policy.get("disallowUsernameSubstring") and credential.principal.lower() in text.lower():
        raise Misconfigured(
            f"{name} takes no password with the user's name in it",
            remedy="Run this again: another password is made.",
        )


def _is_complex(text: str) -> bool:
    kinds = (str.islower, str.isupper, str.isdigit, lambda each: not each.isalnum())
    return all(any(is_one(each) for each in text) for is_one in kinds)
