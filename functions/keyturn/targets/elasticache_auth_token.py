"""ElastiCache: the AUTH token of a replication group, which the service's API sets.

    ROTATE   accept this one too; a group has two at most, and the oldest goes
    SET      accept this one alone

Right after an abandoned rotation the oldest is current, and ROTATE alone would drop it. So *set*
leaves current alone first, and then adds pending: SET current, wait, ROTATE pending, wait. The
guide says of SET that the token must be what was rotated last. Where the service keeps to that,
current is rotated once more before. It is among the two at every moment.

Nobody tells which tokens a group has, and a change can take longer than a function may run. So
a step that is repeated learns from logins, and from the time of the last change, how far it had
come; it waits for a change under way, and does not ask for it again.

The authority is the function's role. What it never does: enable AUTH, touch a group that the
secret's ARN does not name, or use a token without TLS.

A credential's document: `replication_group_arn`, `host` (one of its endpoints), `username`
(`default`: whoever logs in with a token alone) and `password`, the token; `port` (6379) may be
left out.
"""

from __future__ import annotations

import re
import string
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from functools import partial
from itertools import takewhile
from typing import Any, Protocol

from keyturn.boundary import ask_aws
from keyturn.errors import Busy, Drifted, Misconfigured, NotYetAccepted, Unsupported
from keyturn.model import Credential, Sensitive, Strategy, Surroundings, Version
from keyturn.ports import Generate, Pending
from keyturn.targets import redis_line

TITLE = "ElastiCache AUTH tokens"
STRATEGIES = (Strategy.DUAL_PASSWORD,)
ENGINES = ("elasticache-auth-token",)
PERMISSIONS = (
    "elasticache:DescribeReplicationGroups",
    "elasticache:ModifyReplicationGroup",
)
"""On the replication groups that secrets name."""

SHORTEST, LONGEST = 16, 128
SYMBOLS = "!&#$^<>-"
"""Of a token, besides ASCII letters and digits (API_CreateReplicationGroup, AuthToken).

API_ModifyReplicationGroup forbids a few and allows the others: the narrower of the two is right.
"""

CONNECT_TIMEOUT_S, READ_TIMEOUT_S, TRIES = 2, 5, 2
"""Per call to the API."""

MARGIN_S = 15.0
"""Left of the function's time for one more call, with all its time-outs, and for reporting."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0
"""Between two looks at a change, which can take minutes; each pause is twice the one before."""


def target(surroundings: Surroundings, generate: Generate) -> AuthToken:
    """Build the target; it is its own strategy."""
    return AuthToken(surroundings, generate)


class _Way(StrEnum):
    """AuthTokenUpdateStrategy."""

    ROTATE = "ROTATE"
    SET = "SET"


@dataclass(frozen=True, slots=True)
class _Place:
    """What pending must have in common with current."""

    endpoint: str
    arn: str


class AuthToken:
    """A `Target` and `Retiring`: one replication group with two tokens.

    Args:
        surroundings: What the deployment allows.
        generate: Makes tokens.
        sleep: Waits so many seconds.
    """

    def __init__(
        self,
        surroundings: Surroundings,
        generate: Generate,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._surroundings = surroundings
        self._generate = generate
        self._sleep = sleep
        self._groups: dict[str, _Group] = {}

    def create(self, current: Credential, kept: Iterable[Version]) -> Credential:
        """See `Target.create`. One failing login, which shows that logins can fail."""
        del kept  # The group is the secret's own.
        place = self._place(current)
        self._look(place)
        following = replace(current, secret=self._generate())
        if not _is_allowed(following.secret):
            raise Misconfigured(
                f"AUTH tokens have {SHORTEST} to {LONGEST} characters: ASCII letters, digits, and"
                f" {SYMBOLS}",
                remedy="Mend `password` in the plan: see docs/elasticache.md, Tokens.",
            )
        if self.accepts(following):
            # As where AUTH was enabled by ROTATE: no token is one of the two then (User Guide).
            raise Drifted(
                f"{place.arn} accepts a token that was never set",
                remedy="SET the current token by hand, when all clients use it.",
            )
        return following

    def set(self, pending: Pending, current: Version, kept: Iterable[Version]) -> None:
        """See `Target.set`. One failing login on the happy path, to learn how far it had come."""
        place = self._place(current.credential)
        self._checked(pending(), place)
        # A change under way is an earlier try's, or another worker's: none begins before it ends.
        changed_at = self._wait(place)
        following = self._checked(pending(), place)
        if self.accepts(following.credential):
            return
        # A current that is refused is nobody's: SET would put it in place of what works.
        if self.accepts(current.credential):
            history = _History(following, current, kept, changed_at)
            if not self._is_alone(history, place):
                self._leave_alone(current.credential, lambda: self._checked(pending(), place))
        following = self._checked(pending(), place)
        if not self._ask(place, _Way.ROTATE, following.credential):
            raise Misconfigured(
                f"{place.arn} took no ROTATE to what is pending",
                remedy="Start a new rotation; compare `password` in the plan with what it takes.",
            )

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
                remedy="Rotate the secret; the old token is dropped when current works.",
            )
        self._wait(place)

        def require_current() -> None:
            if current().rotation_id != version.rotation_id:
                raise Busy(
                    f"version {version.rotation_id} is current no more",
                    remedy="Nothing: it is looked at again.",
                )

        self._leave_alone(version.credential, require_current)

    # ------------------------------------------------------------------------ the tokens

    def _is_alone(self, history: _History, place: _Place) -> bool:
        """Tell whether this rotation has left current alone already.

        It has if the tokens were changed since pending was staged, unless that was what another
        rotation did, late: its token is among those kept, and would be accepted.
        """
        changed_at, pending = history.changed_at, history.pending
        if changed_at is None or changed_at <= pending.stored_at:
            return False
        return not any(
            self._is_of(each.credential, place) and self.accepts(each.credential)
            for each in history.newer()
        )

    def _leave_alone(self, current: Credential, require_ours: Callable[[], object]) -> None:
        """Let the group accept *current*, which it does, and no other.

        Args:
            current: What is current.
            require_ours: Raises, unless it is still for us to do. Called right before each act.
        """
        place = self._place(current)
        require_ours()
        if self._ask(place, _Way.SET, current):
            return
        # Guide, "Setting the AUTH token": it must be the one that was rotated last.
        require_ours()
        if self._ask(place, _Way.ROTATE, current):
            require_ours()
            if self._ask(place, _Way.SET, current):
                return
        raise Unsupported(
            f"{place.arn} does not let the current token be its only one",
            remedy="SET the current token by hand, or give the group users instead.",
        )

    def _ask(self, place: _Place, way: _Way, credential: Credential) -> bool:
        """Ask for a change, and return when it is in force; False if the service does not take it.

        Raises:
            NotYetAccepted: It was asked for, and the time is up; or no time was left to ask.
        """
        if self._surroundings.remaining_s() < MARGIN_S:
            raise self._out_of_time(place, "no time is left to change its AUTH token")
        if not self._group(place).change(way, credential.secret):
            return False
        self._rest(place, FIRST_PAUSE_S)
        self._look(place)  # It may be older than the change, and is not counted.
        self._wait(place, credential)
        return True

    def _wait(self, place: _Place, credential: Credential | None = None) -> datetime | None:
        """Return when no change is under way, and *credential* logs in.

        Returns:
            When the tokens were changed last.

        Raises:
            NotYetAccepted: The time is up. The same call later goes on waiting.
        """
        pauses_s = _pauses()
        while True:
            seen = self._look(place)
            if not seen.is_changing and (credential is None or self.accepts(credential)):
                return seen.changed_at
            self._rest(place, next(pauses_s))

    def _rest(self, place: _Place, pause_s: float) -> None:
        if self._surroundings.remaining_s() - pause_s < MARGIN_S:
            raise self._out_of_time(place, "a change of it is not in force yet")
        self._sleep(pause_s)

    def _out_of_time(self, place: _Place, fact: str) -> NotYetAccepted:
        return NotYetAccepted(
            f"{place.arn}: {fact}",
            remedy="Run this step again: it goes on. If it stays so, see the group's events, and"
            " whether a change awaits its maintenance window.",
        )

    def _look(self, place: _Place) -> _Seen:
        seen = self._group(place).seen()
        _refuse_unfit(seen, place)
        return seen

    def _group(self, place: _Place) -> _Group:
        # A client costs 0.1 s of CPU to make.
        if place.arn not in self._groups:
            self._groups[place.arn] = _group_of(place.arn)
        return self._groups[place.arn]

    # ------------------------------------------------------------------------ checking

    def _place(self, credential: Credential) -> _Place:
        arn = credential.fields.get("replication_group_arn")
        if not isinstance(arn, str) or not _ARN.fullmatch(arn):
            raise Misconfigured(
                "the secret's 'replication_group_arn' is not the ARN of a replication group",
                remedy="Add the group's full ARN as `replication_group_arn` to the secret's value.",
            )
        if credential.principal != redis_line.DEFAULT_USER:
            raise Misconfigured(
                f"the secret's 'username' is {credential.principal!a}, and who logs in with an AUTH"
                f" token is the user {redis_line.DEFAULT_USER!r}",
                remedy=f"Set `username` to {redis_line.DEFAULT_USER!r}.",
            )
        return _Place(redis_line.endpoint(credential, self._surroundings), arn)

    def _is_of(self, credential: Credential, place: _Place) -> bool:
        """Tell whether a version that the store keeps is for the same group."""
        try:
            return self._place(credential) == place
        except Misconfigured:
            return False

    def _checked(self, pending: Version, place: _Place) -> Version:
        if self._place(pending.credential) != place:
            raise Drifted(
                f"version {pending.rotation_id} is for another host or group than current allows",
                remedy="Cancel this rotation and start a new one; change hosts only in between.",
            )
        return pending


_ARN = re.compile(
    r"arn:[a-z-]+:elasticache:(?P<region>[a-z0-9-]+):\d{12}:replicationgroup:"
    r"(?P<id>[a-zA-Z][a-zA-Z0-9-]{0,39})"
)
"""Service Authorization Reference, Amazon ElastiCache."""


@dataclass(frozen=True, slots=True)
class _History:
    """What is known of the past when a step begins."""

    pending: Version
    current: Version
    kept: Iterable[Version]
    changed_at: datetime | None

    def newer(self) -> Iterator[Version]:
        """Yield what was staged after current, besides pending."""
        for each in takewhile(lambda it: it.rotation_id != self.current.rotation_id, self.kept):
            if each.rotation_id != self.pending.rotation_id:
                yield each


def _is_allowed(secret: Sensitive) -> bool:
    text = secret.reveal()
    usable = {*string.ascii_letters, *string.digits, *SYMBOLS}
    return SHORTEST <= len(text) <= LONGEST and set(text) <= usable


def _pauses() -> Iterator[float]:
    pause_s = FIRST_PAUSE_S
    while True:
        yield pause_s
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


# ---------------------------------------------------------------------------- the service


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a description says.

    Attributes:
        endpoints: Hosts and ports, in lower case.
        is_changing: A change was asked for, and is not in force yet.
        changed_at: When the token was changed last; None if it never was.
    """

    arn: str
    status: str
    has_token: bool
    has_users: bool
    has_tls: bool
    endpoints: frozenset[str]
    is_changing: bool
    changed_at: datetime | None


_CHANGING = {"modifying", "snapshotting"}
"""Statuses in which a group takes no change, and that end."""


def _refuse_unfit(seen: _Seen, place: _Place) -> None:
    if seen.arn != place.arn:
        raise _no_group(place.arn)
    if not seen.has_tls:
        fact, remedy = "is without encryption in transit", "Enable it: AUTH needs it."
    elif seen.has_users:
        fact, remedy = "has users, and no AUTH token", "Rotate its users: engine `elasticache`."
    elif not seen.has_token:
        fact, remedy = "has no AUTH token", "SET one by hand first, and store it as the secret."
    else:
        _refuse_other(seen, place)
        return
    raise Unsupported(f"{place.arn} {fact}", remedy=remedy)


def _refuse_other(seen: _Seen, place: _Place) -> None:
    """Refuse a group that is going away, and one that is not where the secret says."""
    if seen.status not in _CHANGING | {"available"}:
        raise Drifted(
            f"{place.arn} is {seen.status!a}", remedy="Look at the group in the service's console."
        )
    if place.endpoint.lower() not in seen.endpoints:
        raise Drifted(
            f"{place.endpoint} is none of the endpoints of {place.arn}",
            remedy="Correct `host` and `port`, or `replication_group_arn`, in the secret's value.",
        )


def _no_group(arn: str) -> Drifted:
    return Drifted(
        f"there is no replication group {arn} where this function runs",
        remedy="Correct `replication_group_arn`, or deploy the function in the group's account.",
    )


class _Meta(Protocol):
    region_name: str


class _Client(Protocol):
    """What we use of a boto3 client."""

    meta: _Meta

    def describe_replication_groups(self, **parameters: object) -> Mapping[str, Any]: ...

    def modify_replication_group(self, **parameters: object) -> Mapping[str, Any]: ...


def _group_of(arn: str) -> _Group:
    import boto3
    from botocore.config import Config

    found = _ARN.fullmatch(arn)
    assert found is not None  # noqa: S101  # places are checked
    config = Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": TRIES},
    )
    make: Callable[..., _Client] = boto3.client
    client = make("elasticache", config=config)
    if client.meta.region_name != found["region"]:
        raise Misconfigured(
            f"the replication group {arn} is in another region than this function",
            remedy="Deploy the function in the group's region.",
        )
    return _Group(client, found["id"], arn)


@dataclass(frozen=True, slots=True)
class _Group:
    """One replication group, as the API has it."""

    client: _Client
    name: str
    arn: str

    def seen(self) -> _Seen:
        """Return what it is now."""
        ask = partial(self.client.describe_replication_groups, ReplicationGroupId=self.name)
        said = ask_aws("DescribeReplicationGroups", self.arn, ask, _ANSWERS)
        if said is _ABSENT:
            raise _no_group(self.arn)
        return _seen(said["ReplicationGroups"][0])

    def change(self, way: _Way, token: Sensitive) -> bool:
        """Begin to change its tokens. False if the service takes no such change.

        Raises:
            Busy: Another one is under way.
        """
        ask = partial(
            self.client.modify_replication_group,
            ReplicationGroupId=self.name,
            AuthToken=token.reveal(),
            AuthTokenUpdateStrategy=way.value,
            ApplyImmediately=True,  # else it waits for the maintenance window
        )
        said = ask_aws("ModifyReplicationGroup", self.arn, ask, _ANSWERS)
        if said is _ABSENT:
            raise _no_group(self.arn)
        if said is _UNDER_WAY:
            raise Busy(f"{self.arn} is being modified", remedy="Nothing: it is tried again.")
        return said is not _NOT_TAKEN


_ABSENT: Mapping[str, Any] = {"": "absent"}
_UNDER_WAY: Mapping[str, Any] = {"": "under way"}
_NOT_TAKEN: Mapping[str, Any] = {"": "not taken"}
_ANSWERS = {
    "ReplicationGroupNotFoundFault": _ABSENT,
    "InvalidReplicationGroupState": _UNDER_WAY,
    "InvalidParameterCombination": _NOT_TAKEN,
    "InvalidParameterValue": _NOT_TAKEN,
}
"""Errors that are answers (API_ModifyReplicationGroup, API_DescribeReplicationGroups)."""


def _seen(said: Mapping[str, Any]) -> _Seen:
    status = str(said.get("Status"))
    # Either may show it without the other: asked for and not begun; begun.
    is_pending = "AuthTokenStatus" in said.get("PendingModifiedValues", {})
    changed_at = said.get("AuthTokenLastModifiedDate")
    return _Seen(
        arn=str(said.get("ARN")),
        status=status,
        has_token=said.get("AuthTokenEnabled") is True,
        has_users=bool(said.get("UserGroupIds")),
        has_tls=said.get("TransitEncryptionEnabled") is True,
        endpoints=frozenset(_endpoints(said)),
        is_changing=is_pending or status in _CHANGING,
        changed_at=changed_at if isinstance(changed_at, datetime) else None,
    )


def _endpoints(said: Mapping[str, Any]) -> Iterator[str]:
    named = [said.get("ConfigurationEndpoint")]
    for each in said.get("NodeGroups", []):
        named += [each.get("PrimaryEndpoint"), each.get("ReaderEndpoint")]
    for endpoint in named:
        if endpoint:
            yield f"{endpoint.get('Address')}:{endpoint.get('Port')}".lower()
