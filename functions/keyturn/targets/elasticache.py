"""ElastiCache and MemoryDB: users of Redis or Valkey whose passwords the service's API sets.

The authority is the function's role, so no login is needed to set; testing is a real login to the
cluster, over verified TLS. A user has two passwords at most: *set* gives it exactly current's and
pending's, so current is always accepted. The API answers before the clusters know: *set* waits
until the user is active again, and a step whose time is up before is simply repeated.

What it never does: change a user's rights, or touch a user that the secret's ARN does not name.

A credential's document, as AWS documents it: `username`, `password`, `user_arn`; besides, `host`
(the cluster's endpoint), and `port` (6379), which may be left out.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from keyturn.boundary import ask_aws
from keyturn.errors import Busy, Drifted, KeyturnError, Misconfigured, NotYetAccepted, Unsupported
from keyturn.model import Credential, Sensitive, Strategy, Surroundings, Version
from keyturn.ports import Generate, Pending
from keyturn.targets import redis_line

TITLE = "ElastiCache and MemoryDB users"
STRATEGIES = (Strategy.DUAL_PASSWORD,)
ENGINES = ("elasticache", "memorydb")
PERMISSIONS = (
    "elasticache:DescribeUsers",
    "elasticache:ModifyUser",
    "memorydb:DescribeUsers",
    "memorydb:UpdateUser",
)
"""On the users that secrets name, of the service that is used."""

SHORTEST, LONGEST = 16, 128
"""Characters of a password (User Guide, Role-Based Access Control); printable ones."""

CONNECT_TIMEOUT_S, READ_TIMEOUT_S, TRIES = 2, 5, 3
"""Per call to the API."""

MARGIN_S = 2.0
"""Left of the function's time for one more look, and for reporting a failure."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 4.0
"""Between two looks at a user that is being modified; each pause is twice the one before."""


def target(surroundings: Surroundings, generate: Generate) -> ManagedUser:
    """Build the target; it is its own strategy."""
    return ManagedUser(surroundings, generate)


@dataclass(frozen=True, slots=True)
class _Place:
    """What pending must have in common with current."""

    endpoint: str
    principal: str
    arn: str


class ManagedUser:
    """A `Target` and `Retiring`: one user with two passwords."""

    def __init__(self, surroundings: Surroundings, generate: Generate) -> None:
        self._surroundings = surroundings
        self._generate = generate
        self._services: dict[str, _Service] = {}

    def create(self, current: Credential, kept: Iterable[Version]) -> Credential:
        """See `Target.create`. Asks the service, so that a refusal comes before any write."""
        del kept  # The user is the secret's own.
        user = self._user(self._place(current))
        _refuse_unfit(user, current.principal)
        secret = self._generate()
        if not _is_allowed(secret):
            raise Misconfigured(
                f"passwords of {user.arn} have {SHORTEST} to {LONGEST} printable characters",
                remedy="Mend `password` in the plan.",
            )
        return replace(current, secret=secret)

    def set(self, pending: Pending, current: Version, kept: Iterable[Version]) -> None:
        """See `Target.set`. One failing login on the happy path, in place of asking the API.

        The API does not say which passwords a user has. With two at most, a user that accepts
        pending and current has no other.
        """
        del kept  # The role can always set again: no old password is needed.
        place = self._place(current.credential)
        self._checked(pending(), place)
        # A change under way is an earlier try's, or another worker's: none begins before it ends.
        self._wait(place)
        following = self._checked(pending(), place)
        if not (self.accepts(following) and self.accepts(current.credential)):
            following = self._checked(pending(), place)
            both = [current.credential.secret, following.secret]
            # What the service never takes, it cannot have: current may be somebody's mistake.
            self._modify(place, [each for each in both if _is_allowed(each)])

    def accepts(self, credential: Credential) -> bool:
        """See `Target.accepts`."""
        self._place(credential)
        with redis_line.login(credential, self._surroundings) as opened:
            return opened is not None

    def retire(self, current: Pending) -> None:
        """See `Retiring.retire`."""
        version = current()
        place = self._place(version.credential)
        if not self.accepts(version.credential):
            raise NotYetAccepted(
                f"{place.arn} refuses the current version {version.rotation_id}",
                remedy="Rotate the secret; the old password is dropped when current works.",
            )
        self._wait(place)
        if current().rotation_id != version.rotation_id:
            raise Busy(
                f"version {version.rotation_id} is current no more",
                remedy="Nothing: it is looked at again.",
            )
        self._modify(place, [version.credential.secret])

    # ------------------------------------------------------------------------ the API

    def _modify(self, place: _Place, secrets: list[Sensitive]) -> None:
        """Give the user exactly *secrets*, and wait until it has them. Repeatable."""
        self._service(place).modify(secrets)
        self._wait(place)

    def _wait(self, place: _Place) -> None:
        """Return when the user is active.

        Raises:
            NotYetAccepted: It was not, before the function's time was up.
        """
        pause_s = FIRST_PAUSE_S
        while (status := self._user(place).status) != "active":
            if status != "modifying":
                raise Drifted(
                    f"the user {place.arn} is {status!a}",
                    remedy="Look at the user in the service's console.",
                )
            if self._surroundings.remaining_s() - pause_s < MARGIN_S:
                raise NotYetAccepted(
                    f"the user {place.arn} is still being modified",
                    remedy="Nothing: the step is repeated. If it stays so, see the user's events.",
                )
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _user(self, place: _Place) -> _User:
        user = self._service(place).describe()
        if user is None or user.arn != place.arn:
            raise Drifted(
                f"there is no user {place.arn} where this function runs",
                remedy="Correct `user_arn`, or deploy the function in the user's own account.",
            )
        return user

    def _service(self, place: _Place) -> _Service:
        # A client costs 0.1 s of CPU to make.
        if place.arn not in self._services:
            self._services[place.arn] = _service_of(place.arn)
        return self._services[place.arn]

    # ------------------------------------------------------------------------ checking

    def _place(self, credential: Credential) -> _Place:
        arn = credential.fields.get("user_arn")
        if not isinstance(arn, str) or not _ARN.fullmatch(arn):
            raise Misconfigured(
                "the secret's 'user_arn' is not the ARN of an ElastiCache or MemoryDB user",
                remedy="Add the user's full ARN as `user_arn` to the secret's value.",
            )
        if "host" not in credential.fields:
            raise Misconfigured(
                "the secret's 'host' is missing: without it no password could be tested",
                remedy="Add the cluster's endpoint as `host` to the secret's value.",
            )
        endpoint = redis_line.endpoint(credential, self._surroundings)
        return _Place(endpoint, credential.principal, arn)

    def _checked(self, pending: Version, place: _Place) -> Credential:
        if self._place(pending.credential) != place:
            raise Drifted(
                f"version {pending.rotation_id} is for another host or user than current allows",
                remedy="Cancel this rotation and start a new one; change hosts only in between.",
            )
        return pending.credential


_ARN = re.compile(
    r"arn:[a-z-]+:(?P<service>elasticache|memorydb):(?P<region>[a-z0-9-]+):\d{12}:user[:/]"
    r"(?P<id>[a-zA-Z][a-zA-Z0-9-]*)"
)
"""ElastiCache writes user:ID, MemoryDB user/NAME (Service Authorization Reference)."""


def _is_allowed(secret: Sensitive) -> bool:
    text = secret.reveal()
    return SHORTEST <= len(text) <= LONGEST and text.isascii() and text.isprintable()


def _refuse_unfit(user: _User, principal: str) -> None:
    if user.name != principal:
        raise Misconfigured(
            f"the user {user.arn} logs in as {user.name!a}, the secret says {principal!a}",
            remedy="Correct `username` or `user_arn` in the secret's value.",
        )
    if user.authentication != "password":
        raise Unsupported(
            f"the user {user.arn} has no password, but {user.authentication!a}",
            remedy="Give the user a password first, or do not rotate it.",
        )


# ---------------------------------------------------------------------------- the two services


@dataclass(frozen=True, slots=True)
class _User:
    """What either service says of a user."""

    arn: str
    name: str
    status: str
    authentication: str

    @classmethod
    def of(cls, said: dict[str, object], name: str) -> _User:
        """Read a `User`; its name is in the member *name*."""
        authentication = said.get("Authentication")
        kind = authentication.get("Type") if isinstance(authentication, dict) else None
        return cls(str(said["ARN"]), str(said[name]), str(said["Status"]), str(kind))


class _Service(Protocol):
    """One user of one service."""

    def describe(self) -> _User | None:
        """Return what it is now, or None if there is none."""
        ...

    def modify(self, secrets: list[Sensitive]) -> None:
        """Begin to give it exactly *secrets*.

        Raises:
            Busy: It is being modified.
        """
        ...


class _Meta(Protocol):
    region_name: str


class _Client(Protocol):
    """What we use of boto3's clients for either service."""

    meta: _Meta

    def describe_users(self, **parameters: object) -> dict[str, object]: ...

    def modify_user(self, **parameters: object) -> dict[str, object]: ...

    def update_user(self, **parameters: object) -> dict[str, object]: ...


def _service_of(arn: str) -> _Service:
    found = _ARN.fullmatch(arn)
    assert found is not None  # noqa: S101  # places are checked
    client = _client(found["service"])
    if client.meta.region_name != found["region"]:
        raise Misconfigured(
            f"the user {arn} is in another region than this function",
            remedy="Deploy the function in the user's region.",
        )
    if found["service"] == "elasticache":
        return _ElastiCache(client, found["id"], arn)
    return _MemoryDb(client, found["id"], arn)


def _client(service: str) -> _Client:
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": TRIES},
    )
    make: Callable[..., _Client] = boto3.client
    return make(service, config=config)


@dataclass(frozen=True, slots=True)
class _ElastiCache:
    """A `_Service`."""

    client: _Client
    user_id: str
    arn: str

    def describe(self) -> _User | None:
        """See `_Service.describe`."""
        ask = partial(self.client.describe_users, UserId=self.user_id)
        return _only(ask_aws("DescribeUsers", self.arn, ask, _ANSWERS), "UserName")

    def modify(self, secrets: list[Sensitive]) -> None:
        """See `_Service.modify`."""
        ask = partial(self.client.modify_user, UserId=self.user_id, Passwords=_clear(secrets))
        _require_begun(ask_aws("ModifyUser", self.arn, ask, _ANSWERS), self.arn)


@dataclass(frozen=True, slots=True)
class _MemoryDb:
    """A `_Service`."""

    client: _Client
    name: str
    arn: str

    def describe(self) -> _User | None:
        """See `_Service.describe`."""
        ask = partial(self.client.describe_users, UserName=self.name)
        return _only(ask_aws("DescribeUsers", self.arn, ask, _ANSWERS), "Name")

    def modify(self, secrets: list[Sensitive]) -> None:
        """See `_Service.modify`."""
        mode = {"Type": "password", "Passwords": _clear(secrets)}
        ask = partial(self.client.update_user, UserName=self.name, AuthenticationMode=mode)
        _require_begun(ask_aws("UpdateUser", self.arn, ask, _ANSWERS), self.arn)


def _clear(secrets: list[Sensitive]) -> list[str]:
    return [each.reveal() for each in secrets]


_ABSENT: dict[str, object] = {}
_MODIFYING: dict[str, object] = {"Status": "modifying"}
_ANSWERS = {
    "UserNotFound": _ABSENT,
    "UserNotFoundFault": _ABSENT,
    "InvalidUserState": _MODIFYING,
    "InvalidUserStateFault": _MODIFYING,
}
"""Errors that are answers. ElastiCache's codes have no ending, MemoryDB's have."""


def _only(said: dict[str, object], name: str) -> _User | None:
    users = said.get("Users")
    return _User.of(users[0], name) if isinstance(users, list) and users else None


def _require_begun(said: dict[str, object], arn: str) -> None:
    problem: KeyturnError | None = None
    if said is _MODIFYING:
        problem = Busy(f"the user {arn} is being modified", remedy="Nothing: it is tried again.")
    elif said is _ABSENT:
        problem = Drifted(f"the user {arn} is gone", remedy="Create the user again.")
    if problem is not None:
        raise problem
