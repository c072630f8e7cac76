"""AUTH tokens of replication groups keep the promises, before a real Redis with real logins.

The service's API is our own stand-in, over its real wire: `strict_replication_group`.
"""

from __future__ import annotations

import itertools
import json
import logging
import re
import string
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import pytest

from conftest import need
from keyturn import generate
from keyturn.boundary import quiet_sdk_loggers
from keyturn.errors import (
    Busy,
    Drifted,
    KeyturnError,
    Misconfigured,
    NotYetAccepted,
    Unreachable,
    Unsupported,
)
from keyturn.local.redis import Redis as Server
from keyturn.local.redis import find
from keyturn.model import Credential, RotationId, Sensitive, Surroundings, Version
from keyturn.plan import parse
from keyturn.ports import Generate
from keyturn.targets.elasticache_auth_token import (
    LONGEST_PAUSE_S,
    MARGIN_S,
    PERMISSIONS,
    SYMBOLS,
    AuthToken,
    target,
)
from keyturn.testing.certificates import Authority
from keyturn.testing.contracts import CANARY, DualContract, Subject
from keyturn.testing.faults import Proxy
from keyturn.testing.strict_replication_group import (
    Again,
    Group,
    StrictReplicationGroups,
    Undocumented,
)
from keyturn.wiring import plan_kinds
from redises import connect, credential, logs_in, set_passwords

PAGE = (Path(__file__).parents[2] / "docs" / "elasticache.md").read_text(encoding="utf-8")
NOBODY_LISTENS = 1  # tcpmux: refused on loopback
DEFAULT = "default"
EVERYBODY = f"{DEFAULT} on nopass ~* &* +@all"
STRICT = Undocumented(is_set_lax=False)
_numbers = itertools.count(1)
_LOOKED, _CHANGED = ("DescribeReplicationGroups", ""), ("ModifyReplicationGroup", "")
"""Calls that were not refused."""


class Killed(BaseException):
    """The platform ends the function; nothing catches this."""


class Time:
    """A function's time, which only sleeping uses up."""

    def __init__(self, remaining_s: float = 120.0) -> None:
        self.left_s = remaining_s
        self.is_over = False

    def remaining_s(self) -> float:
        if self.is_over:
            raise Killed
        return self.left_s

    def sleep(self, seconds: float) -> None:
        self.left_s -= seconds


def _token(name: str) -> Sensitive:
    return Sensitive(f"{CANARY}{name}-{'x' * 16}")


def _numbered() -> Generate:
    return lambda: _token(f"made-{next(_numbers)}")


class Room:
    """A replication group, with a real Redis behind it, and what the store holds of its secret."""

    def __init__(self, stack: ExitStack, server: Server, ways: Undocumented) -> None:
        self.server = server
        self.proxy = stack.enter_context(Proxy(server.port))
        self.service = stack.enter_context(StrictReplicationGroups(self._set_tokens, ways))
        self.group = Group("orders", server.host, self.proxy.port, [_token("current")])
        self.service.add(self.group)
        now = datetime.now(UTC)
        self.current = self._stored("current", now - timedelta(days=30))
        self.abandoned = self._stored("abandoned", now - timedelta(days=1))
        self.pending = self._stored("pending", now)
        self.kept = [self.pending, self.current]

    def _set_tokens(self, tokens: list[Sensitive]) -> None:
        set_passwords(self.server, DEFAULT, [token.reveal() for token in tokens])

    def _stored(self, name: str, stored_at: datetime) -> Version:
        login = credential(self.server, DEFAULT, _token(name).reveal(), port=self.proxy.port)
        fields = {
            **login.fields,
            "engine": "elasticache-auth-token",
            "replication_group_arn": self.group.arn,
        }
        return Version(RotationId(name), replace(login, fields=fields), stored_at)

    def target(self, time: Time | None = None, fresh: Generate | None = None) -> AuthToken:
        time = time or Time()
        return AuthToken(Surroundings(time.remaining_s), fresh or _numbered(), time.sleep)

    def set(self, time: Time | None = None) -> None:
        self.target(time).set(lambda: self.pending, self.current, self.kept)

    def have(self, *names: str, last: str | None = None) -> None:
        """Begin anew, with a group that accepts these, the oldest first."""
        self.service.after = lambda _: None
        self.service.asked.clear()
        self.group.changed_at = None
        self.group.tokens = [_token(name) for name in names]
        self.group.last = _token(last) if last else None
        self._set_tokens(self.group.tokens)

    def accepts(self, name: str) -> bool:
        return logs_in(self.server, DEFAULT, _token(name).reveal())

    def accepted(self) -> frozenset[str]:
        names = ("old", "current", "abandoned", "by-hand", "pending")
        return frozenset(name for name in names if self.accepts(name))

    def asked(self) -> list[str]:
        """Return the changes that the service took: ``SET current``."""
        names = {name: _token(name) for name in ("current", "abandoned", "pending")}
        return [
            f"{way} {name}"
            for way, token in self.service.asked
            for name, known in names.items()
            if token == known
        ]


NewRoom = Callable[..., Room]


@pytest.fixture
def new_room(monkeypatch: pytest.MonkeyPatch) -> Iterator[NewRoom]:
    need(present=find() is not None, what="Redis", install="apt install redis-server")
    with ExitStack() as stack:
        # One of its own: a server has one default user.
        server = stack.enter_context(Server(users=(EVERYBODY,)))

        def make(ways: Undocumented | None = None) -> Room:
            room = Room(stack, server, ways or Undocumented())
            monkeypatch.setenv("AWS_ENDPOINT_URL_ELASTICACHE", room.service.url)
            return room

        yield make


@pytest.fixture
def room(new_room: NewRoom) -> Room:
    return new_room()


class TestAuthToken(DualContract):
    """One group, two tokens, set by the API."""

    UNUSABLE = "".join(each for each in string.punctuation if each not in SYMBOLS)

    @pytest.fixture(params=[Undocumented(), STRICT], ids=["lax", "strict"])
    def subject(self, new_room: NewRoom, request: pytest.FixtureRequest) -> Subject:
        room = new_room(request.param)
        login = room.current.credential
        elsewhere = replace(login, fields={**login.fields, "port": NOBODY_LISTENS})
        return Subject(room.target(), login, elsewhere, room.proxy.outage)


# ---------------------------------------------------------------------------- the order

TOKENS: list[tuple[tuple[str, ...], str | None]] = [
    (("current",), None),
    (("current",), "current"),
    (("old", "current"), "current"),
    (("current", "abandoned"), "abandoned"),
    (("current", "by-hand"), "by-hand"),
    (("abandoned", "current"), "current"),
]
"""What a group may accept when a rotation begins, and what was rotated last."""

WAYS = [
    *(Undocumented(is_status_late=is_late) for is_late in (False, True)),
    *(
        Undocumented(is_set_lax=False, again=again, is_status_late=is_late)
        for again in Again
        for is_late in (False, True)
    ),
]


def _watch(room: Room, *, name: str = "current") -> list[bool]:
    """Have a reader log in after every call of the API."""
    seen: list[bool] = []
    room.service.after = lambda _: seen.append(room.accepts(name))
    return seen


@pytest.mark.parametrize("ways", WAYS, ids=str)
def test_current_is_accepted_after_every_call_whatever_the_service_does(
    new_room: NewRoom, ways: Undocumented
) -> None:
    """It may end in a refusal, if the service takes nothing that we can ask; in no lock-out."""
    room = new_room(ways)
    room.kept = [room.pending, room.abandoned, room.current]
    for tokens, last in TOKENS:
        room.have(*tokens, last=last)
        seen = _watch(room)

        try:
            room.set()
        except Unsupported:
            assert "SET current" not in room.asked(), tokens
            assert room.accepted() == set(tokens)
        else:
            assert room.accepted() == {"current", "pending"}, tokens

        assert all(seen), tokens
        assert len(seen) > 1


def _until_it_ends(act: Callable[[], None], retryable: type[KeyturnError]) -> int:
    """Repeat what is to be repeated; return how often it was."""
    for tries in range(50):
        try:
            act()
        except retryable:
            continue
        return tries
    pytest.fail("it never ends")


def test_where_the_service_is_lax_a_rotation_asks_for_two_changes(room: Room) -> None:
    for tokens, last in TOKENS:
        room.have(*tokens, last=last)

        room.set()

        assert room.asked() == ["SET current", "ROTATE pending"], tokens


def test_where_the_guide_holds_an_abandoned_rotation_costs_one_change_more(
    new_room: NewRoom,
) -> None:
    """Only what was rotated last can be SET: current is rotated again, which makes it that."""
    room = new_room(STRICT)
    room.have("current", "abandoned", last="abandoned")

    room.set()

    assert room.asked() == ["ROTATE current", "SET current", "ROTATE pending"]
    assert room.accepted() == {"current", "pending"}


def test_pending_that_is_accepted_already_is_not_asked_for(room: Room) -> None:
    room.have("current", "pending", last="pending")

    room.set()

    assert room.asked() == []


def test_a_current_that_works_no_more_is_not_set(room: Room) -> None:
    """SET would drop whatever works: pending comes beside it."""
    room.have("by-hand")

    room.set()

    assert room.asked() == ["ROTATE pending"]
    assert room.accepted() == {"by-hand", "pending"}


def test_a_rotation_costs_two_failing_logins(room: Room) -> None:
    """One in create, one in set, both with the new token; as the page says."""
    made = room.target().create(room.current.credential, [])
    room.pending = replace(room.pending, credential=made)

    room.set()

    assert room.target().accepts(made)
    with connect(room.server) as superuser:
        refused = [int(each["count"]) for each in superuser.acl_log() if each["reason"] == "auth"]
    assert sum(refused) == 2


def test_over_tls_the_server_is_verified_first(tmp_path: Path) -> None:
    """As AUTH has to be: no token goes to a server whose authority is not trusted."""
    need(present=find() is not None, what="Redis", install="apt install redis-server")
    authority = Authority(tmp_path, "ours")
    issued = authority.issue("127.0.0.1")
    settings = {"tls-cert-file": str(issued.certificate), "tls-key-file": str(issued.key)}
    arn = Group("orders", "", 0, []).arn
    with Server(settings=settings, users=(EVERYBODY,)) as server:
        set_passwords(server, DEFAULT, [_token("current").reveal()])
        login = credential(server, DEFAULT, _token("current").reveal())
        fields = {**login.fields, "ssl": True, "replication_group_arn": arn}
        login = replace(login, fields=fields)
        trusting = Surroundings(lambda: 60.0, ca_file=str(authority.file))

        assert target(trusting, _numbered()).accepts(login)
        with pytest.raises(Misconfigured, match=r"self-signed|not trusted"):
            target(Surroundings(lambda: 60.0), _numbered()).accepts(login)


# ---------------------------------------------------------------------------- killed, resumed

ABANDONED = [
    (Undocumented(), ["SET current", "ROTATE pending"]),
    (STRICT, ["ROTATE current", "SET current", "ROTATE pending"]),
]


def _abandoned(new_room: NewRoom, ways: Undocumented) -> Room:
    room = new_room(ways)
    room.have("current", "abandoned", last="abandoned")
    room.kept = [room.pending, room.abandoned, room.current]
    return room


@pytest.mark.parametrize("is_settled", [False, True], ids=["meanwhile going on", "meanwhile over"])
@pytest.mark.parametrize("ways, changes", ABANDONED, ids=["lax", "strict"])
def test_killed_after_any_call_it_goes_on_and_asks_nothing_twice(
    new_room: NewRoom, ways: Undocumented, changes: list[str], *, is_settled: bool
) -> None:
    """Killed after the first call, the second, and so on, until one run is not killed any more."""
    for call in itertools.count(1):
        room, time = _abandoned(new_room, ways), Time()
        seen: list[bool] = []

        def end(_: str, room: Room = room, time: Time = time, call: int = call) -> None:
            seen.append(room.accepts("current"))  # noqa: B023  # used up before the next one
            time.is_over = time.is_over or len(room.service.calls) == call

        room.service.after = end
        try:
            room.set(time)
        except Killed:
            if is_settled:
                room.service.settle()
            room.set()
        assert all(seen)
        assert room.asked() == changes, call
        assert room.accepted() == {"current", "pending"}
        if not time.is_over:
            break
    assert call > 6


@pytest.mark.parametrize("is_settled", [False, True], ids=["meanwhile going on", "meanwhile over"])
@pytest.mark.parametrize("ways, changes", ABANDONED, ids=["lax", "strict"])
def test_a_change_that_outlives_the_function_is_not_asked_for_twice(
    new_room: NewRoom, ways: Undocumented, changes: list[str], *, is_settled: bool
) -> None:
    """Else each call would begin anew, and none would ever end."""
    room = _abandoned(new_room, replace(ways, looks=30))
    seen = _watch(room)

    def hurried() -> None:
        if is_settled:
            room.service.settle()
        room.set(Time(MARGIN_S + 1))

    tries = _until_it_ends(hurried, NotYetAccepted)

    assert tries >= len(changes)
    assert all(seen)
    assert room.asked() == changes
    assert room.accepted() == {"current", "pending"}


@pytest.mark.parametrize("change", [1, 2])
def test_a_lost_reply_is_not_asked_for_again(room: Room, change: int) -> None:
    """The SDK tries again, and hears that the group is being modified."""
    room.have("old", "current", last="current")

    def lose(_: str) -> None:
        if room.service.calls[-1] == _CHANGED and len(room.asked()) == change:
            room.service.lose_replies(1)

    room.service.after = lose

    tries = _until_it_ends(room.set, Busy)

    assert tries == 1
    assert room.asked() == ["SET current", "ROTATE pending"]


def test_it_stops_in_time_to_report(new_room: NewRoom) -> None:
    room, time = new_room(Undocumented(looks=100)), Time(60)

    with pytest.raises(NotYetAccepted, match="is not in force yet"):
        room.set(time)

    assert MARGIN_S <= time.left_s <= MARGIN_S + LONGEST_PAUSE_S


def test_with_no_time_left_nothing_is_asked_for(room: Room) -> None:
    with pytest.raises(NotYetAccepted, match="no time is left"):
        room.set(Time(MARGIN_S - 1))

    assert room.asked() == []


def test_a_change_that_awaits_its_window_is_waited_for(room: Room) -> None:
    """Somebody's own: it may hold a token that is to replace ours."""
    by_hand: Any = boto3.client("elasticache")
    by_hand.modify_replication_group(
        ReplicationGroupId=room.group.name,
        AuthToken=_token("by-hand").reveal(),
        AuthTokenUpdateStrategy="ROTATE",
    )

    with pytest.raises(NotYetAccepted) as caught:
        room.set()

    assert "maintenance window" in caught.value.remedy
    assert len(room.service.asked) == 1


def test_a_token_of_another_rotation_that_came_meanwhile_is_dropped_first(room: Room) -> None:
    """The tokens were changed since pending was staged, and not by this rotation alone."""
    room.have("current", "abandoned", last="abandoned")
    room.kept = [room.pending, room.abandoned, room.current]
    room.group.changed_at = datetime.now(UTC) + timedelta(seconds=1)

    room.set()

    assert room.asked() == ["SET current", "ROTATE pending"]


# ---------------------------------------------------------------------------- superseded


@pytest.mark.parametrize("ways, changes", ABANDONED, ids=["lax", "strict"])
def test_a_superseded_worker_does_nothing_from_then_on(
    new_room: NewRoom, ways: Undocumented, changes: list[str]
) -> None:
    """The slot is read right before each act: overtaken before the nth, n - 1 are asked for."""
    for count, _ in enumerate(changes):
        room = _abandoned(new_room, ways)

        def overtaken(room: Room = room, count: int = count) -> Version:
            # As late as can be: everything that comes before the act has been done.
            if len(room.asked()) == count and room.service.calls[-1:] == [_LOOKED]:
                raise Busy("superseded", remedy="")
            return room.pending

        with pytest.raises(Busy, match="superseded"):
            room.target().set(overtaken, room.current, room.kept)

        assert room.asked() == changes[:count]
        assert room.accepts("current")


def test_a_worker_that_is_overtaken_while_it_waits_asks_for_nothing(room: Room) -> None:
    """Its pending is neither set, nor current in its name."""
    reads = iter([room.pending, room.pending])

    def superseded() -> Version:
        for each in reads:
            return each
        raise Busy("superseded", remedy="")

    with pytest.raises(Busy):
        room.target().set(superseded, room.current, room.kept)

    assert room.asked() == []


# ---------------------------------------------------------------------------- retire


@pytest.mark.parametrize("ways", WAYS, ids=str)
def test_retire_never_costs_current_its_place(new_room: NewRoom, ways: Undocumented) -> None:
    room = new_room(ways)
    for tokens, last in TOKENS:
        room.have(*tokens, last=last)
        seen = _watch(room)

        try:
            room.target().retire(lambda: room.current)
        except Unsupported:
            assert "SET current" not in room.asked(), tokens
            assert room.accepted() == set(tokens)
        else:
            assert room.accepted() == {"current"}, tokens

        assert all(seen), tokens


# ---------------------------------------------------------------------------- refusals


def _why(room: Room, login: Credential, fresh: Generate | None = None) -> str:
    try:
        room.target(fresh=fresh).create(login, [])
    except KeyturnError as error:
        return f"{type(error).__name__}: {error}"
    return "made"


def test_what_is_wrong_with_the_secret_is_refused_before_anything_is_stored(room: Room) -> None:
    current, arn = room.current.credential, room.group.arn

    def changed(**fields: object) -> Credential:
        return replace(current, fields={**current.fields, **fields})

    without_host = {key: value for key, value in current.fields.items() if key != "host"}

    assert _why(room, current) == "made"
    assert "'host' is missing" in _why(room, replace(current, fields=without_host))
    assert "'replication_group_arn' is not" in _why(room, changed(replication_group_arn=None))
    assert "'replication_group_arn' is not" in _why(room, changed(replication_group_arn=f"{arn} "))
    assert _why(room, changed(replication_group_arn=f"{arn}x")).startswith("Drifted: there is no")
    other_account = arn.replace(":123456789012:", ":210987654321:")
    assert _why(room, changed(replication_group_arn=other_account)).startswith("Drifted: there is")
    other_region = arn.replace("eu-west-1", "us-east-1")
    assert "in another region" in _why(room, changed(replication_group_arn=other_region))
    assert "'username' is 'orders'" in _why(room, replace(current, principal="orders"))
    assert "is none of the endpoints" in _why(room, changed(port=NOBODY_LISTENS))
    assert room.service.asked == []


@pytest.mark.parametrize(
    "secret",
    ["short", "x" * 15, "x" * 129, "é" * 20, "tab\t" * 5, *(f"{'x' * 20}{c}" for c in '/"@%_.~ ')],
    ids=ascii,
)
def test_a_token_that_the_service_does_not_take_is_not_made(room: Room, secret: str) -> None:
    with pytest.raises(Misconfigured, match="16 to 128") as caught:
        room.target(fresh=partial(Sensitive, secret)).create(room.current.credential, [])

    assert "`password` in the plan" in caught.value.remedy
    room.pending = replace(
        room.pending, credential=replace(room.pending.credential, secret=Sensitive(secret))
    )
    with pytest.raises(Misconfigured, match="took no ROTATE"):
        room.set()
    assert room.asked() == ["SET current"]
    assert room.accepts("current")


@pytest.mark.parametrize("length", [16, 128])
def test_a_token_within_the_limits_is_taken(room: Room, length: int) -> None:
    secret = Sensitive(f"{CANARY}{SYMBOLS}".ljust(length, "x")[:length])
    made = room.target(fresh=lambda: secret).create(room.current.credential, [])
    room.pending = replace(room.pending, credential=made)

    room.set()

    assert room.target().accepts(made)


@pytest.mark.parametrize(
    "shown, fact",
    [
        ({"AuthTokenEnabled": False}, "has no AUTH token"),
        ({"AuthTokenEnabled": False, "UserGroupIds": ["orders"]}, "has users"),
        ({"TransitEncryptionEnabled": False}, "without encryption in transit"),
    ],
)
def test_a_group_without_auth_or_tls_is_refused(
    room: Room, shown: dict[str, object], fact: str
) -> None:
    room.group.shown = shown

    for act in (
        lambda: room.target().create(room.current.credential, []),
        room.set,
        lambda: room.target().retire(lambda: room.current),
    ):
        with pytest.raises(Unsupported, match=fact):
            act()
    assert room.service.asked == []


def test_a_group_that_lets_everybody_in_is_refused(room: Room) -> None:
    """AUTH was enabled by ROTATE: until SET, no token is as good as one, and any seems set."""
    room.group.tokens = []
    set_passwords(room.server, DEFAULT, None)

    with pytest.raises(Drifted, match="accepts a token that was never set"):
        room.target().create(room.current.credential, [])


def test_a_group_that_is_being_deleted_is_not_waited_for(room: Room) -> None:
    room.group.status = "deleting"

    with pytest.raises(Drifted, match="'deleting'"):
        room.set()


def test_a_group_that_takes_a_snapshot_is_waited_for(room: Room) -> None:
    room.group.status = "snapshotting"

    with pytest.raises(NotYetAccepted):
        room.set()

    room.group.status = "available"
    room.set()
    assert room.accepts("pending")


def test_a_service_that_does_not_answer_is_no_refusal(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_ELASTICACHE", f"http://127.0.0.1:{NOBODY_LISTENS}")

    with pytest.raises(Unreachable):
        room.set()


def test_no_call_of_the_api_leaks(new_room: NewRoom, caplog: pytest.LogCaptureFixture) -> None:
    """Refused, late, lost, gone: no message, cause or log record at DEBUG holds a token."""
    quiet_sdk_loggers()
    caplog.set_level(logging.DEBUG)
    room, said = new_room(replace(STRICT, again=Again.REFUSED, looks=50)), list[str]()
    room.have("current", "abandoned", last="abandoned")
    gone = replace(room.current.credential, fields={**room.current.credential.fields, "port": 1})

    for act in (
        room.set,  # refused twice
        lambda: room.have("by-hand"),
        lambda: room.set(Time(MARGIN_S + 1)),
        lambda: room.target(fresh=lambda: _token("é")).create(room.current.credential, []),
        lambda: room.target().create(gone, []),
        lambda: setattr(room.group, "name", "gone"),
        room.set,
    ):
        try:
            act()
        except KeyturnError as error:
            said += [str(error), error.remedy, repr(error), repr(error.__context__)]

    assert len(said) == 5 * 4
    assert CANARY not in caplog.text
    assert not [text for text in said if CANARY in text]


# ---------------------------------------------------------------------------- the page


def test_the_statement_in_the_page_grants_what_is_declared_and_no_more() -> None:
    statements = [
        json.loads(text)
        for text in re.findall(r"^```json\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
        if ":replicationgroup:" in text and '"Action"' in text
    ]

    (statement,) = statements
    assert statement["Action"] == [*PERMISSIONS]


def test_the_plan_in_the_page_makes_tokens_that_are_taken(room: Room) -> None:
    """The default alphabet has symbols that no token may have."""
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
    (planned,) = parse(text, plan_kinds(), source="docs/elasticache.md").secrets.values()

    assert set(planned.password.alphabet) <= {*string.ascii_letters, *string.digits, *SYMBOLS}
    assert _why(room, room.current.credential, lambda: generate.password(planned.password)) == (
        "made"
    )
    assert target(Surroundings(lambda: 60.0), _numbered()).accepts(room.current.credential)
