"""RDS keeps the promises of every authority, over the real wire and before a real PostgreSQL."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from databases import credential, make_login, plenty_of_time, set_password, unused_name
from keyturn.authorities import rds
from keyturn.authorities.rds import (
    LONGEST_PAUSE_S,
    MARGIN_S,
    PERMISSIONS,
    SHORTEST,
    UNUSABLE,
    Rds,
)
from keyturn.errors import (
    Drifted,
    KeyturnError,
    Misconfigured,
    NotYetAccepted,
    Unreachable,
    Unsupported,
)
from keyturn.local.postgres import Postgres as Server
from keyturn.model import Credential, Sensitive
from keyturn.strategies import PlatformUser
from keyturn.targets.postgres import Postgres
from keyturn.testing.contracts import (
    CANARY,
    AuthorityContract,
    Office,
    PlatformContract,
    Subject,
    version,
)
from keyturn.testing.faults import Proxy
from keyturn.testing.strict_rds import Resource, StrictRds, Undocumented

PAGE = (Path(__file__).parents[2] / "docs" / "rds.md").read_text(encoding="utf-8")
INSTANCE, CLUSTER = "instance", "cluster"
NOBODY_LISTENS = 1  # tcpmux: refused on loopback
ONE_TRY = Config(retries={"mode": "standard", "total_max_attempts": 1})
_numbers = itertools.count(1)


class Time:
    """A function's time, which only sleeping uses up."""

    def __init__(self, remaining_s: float = 120.0) -> None:
        self.left_s = remaining_s
        self.slept_s: list[float] = []

    def remaining_s(self) -> float:
        return self.left_s

    def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.left_s -= seconds


class Room:
    """A login of a real PostgreSQL that RDS has for a master user."""

    def __init__(
        self, server: Server, stack: ExitStack, ways: Undocumented, kind: str = INSTANCE
    ) -> None:
        name = unused_name("master")
        make_login(server, name, f"{CANARY}first")
        self.proxy = stack.enter_context(Proxy(server.port))
        self.current = credential(server, name, f"{CANARY}first", port=self.proxy.port)
        self.rds = stack.enter_context(
            StrictRds(lambda user, secret: set_password(server, user, secret), ways)
        )
        self.client: Any = boto3.client("rds", **self.rds.settings(), config=ONE_TRY)
        self.resource = Resource(
            f"orders-{next(_numbers)}",
            "aurora-postgresql" if kind == CLUSTER else "postgres",
            name,
            server.host,
            self.proxy.port,
            is_cluster=kind == CLUSTER,
        )
        self.rds.add(self.resource)
        self.engine = Postgres(plenty_of_time())

    @property
    def place(self) -> str:
        return f"{self.resource.host}:{self.resource.port}"

    def authority(self, time: Time | None = None) -> Rds:
        time = time or Time()
        return Rds(self.client, self.resource.arn, time.remaining_s, time.sleep)

    def target(self, time: Time | None = None) -> PlatformUser:
        return PlatformUser(
            self.engine,
            lambda: Sensitive(f"{CANARY}made-{next(_numbers)}"),
            lambda: self.authority(time),
        )

    def set(self, secret: str, time: Time | None = None) -> None:
        """Perform the strategy's set with *secret* pending."""
        pending = version(self.following(secret), "r1")
        self.target(time).set(lambda: pending, version(self.current, "v0"), [])

    def following(self, secret: str = f"{CANARY}next") -> Credential:
        return replace(self.current, secret=Sensitive(secret))

    def accepts(self, secret: str) -> bool:
        return self.target().accepts(self.following(secret))

    def refusals(self) -> list[str]:
        return [call.refused for call in self.rds.calls if call.refused]


NewRoom = Callable[..., Room]


@pytest.fixture
def new_room(postgres: Server) -> Iterator[NewRoom]:
    with ExitStack() as stack:

        def make(ways: Undocumented | None = None, kind: str = INSTANCE) -> Room:
            return Room(postgres, stack, ways or Undocumented(), kind)

        yield make


@pytest.fixture(params=[INSTANCE, CLUSTER])
def room(request: pytest.FixtureRequest, new_room: NewRoom) -> Room:
    return new_room(kind=request.param)


class TestRds(AuthorityContract):
    """Instances and clusters."""

    @pytest.fixture
    def office(self, room: Room) -> Office:
        return Office(
            room.authority(),
            room.authority(Time(MARGIN_S)),
            room.place,
            room.current,
            Sensitive(f"{CANARY}with a blank"),
            room.target().accepts,
            room.rds.asked,
            room.rds.outage,
        )


class TestPlatformUser(PlatformContract):
    """The master user, whom the service gives its passwords."""

    UNUSABLE = UNUSABLE

    @pytest.fixture
    def subject(self, new_room: NewRoom) -> Subject:
        room = new_room()
        unreachable = {**room.current.fields, "port": NOBODY_LISTENS}
        return Subject(
            room.target(),
            room.current,
            replace(room.current, fields=unreachable),
            room.proxy.outage,
        )


# ---------------------------------------------------------------------------- waiting


WAYS = [
    Undocumented(pending_for=0, resetting_for=3),
    Undocumented(pending_for=3, resetting_for=0),
    Undocumented(keeps_pending=True),
]


@pytest.mark.parametrize("ways", WAYS, ids=str)
@pytest.mark.parametrize("kind", [INSTANCE, CLUSTER])
def test_however_it_shows_a_change_is_waited_for(
    new_room: NewRoom, ways: Undocumented, kind: str
) -> None:
    """A pending password, a status, or both: the reference names the first, people see both."""
    room = new_room(ways, kind)

    room.set(f"{CANARY}next")

    assert room.accepts(f"{CANARY}next")
    assert room.rds.asked() == 1


def test_a_change_that_does_not_show_at_first_costs_a_test_and_no_lock_out(
    new_room: NewRoom,
) -> None:
    """Set returns too early; test refuses to go on; the next set waits, and asks for nothing."""
    room = new_room(Undocumented(hidden_for=1))
    room.set(f"{CANARY}next")
    assert not room.accepts(f"{CANARY}next")

    room.set(f"{CANARY}next")

    assert room.accepts(f"{CANARY}next")
    assert room.rds.asked() == 1


def test_pauses_grow_to_ten_seconds(new_room: NewRoom) -> None:
    room, time = new_room(Undocumented(resetting_for=8)), Time()

    room.set(f"{CANARY}next", time)

    assert time.slept_s[0] == 1
    assert time.slept_s == sorted(time.slept_s)
    assert time.slept_s[-1] == LONGEST_PAUSE_S
    assert len(time.slept_s) == 10


def test_it_stops_in_time_to_report_and_the_next_call_goes_on(new_room: NewRoom) -> None:
    """Killed by the platform, a function reports nothing."""
    room, time = new_room(Undocumented(resetting_for=100)), Time(60)
    with pytest.raises(NotYetAccepted, match="not in force yet"):
        room.set(f"{CANARY}next", time)
    with pytest.raises(NotYetAccepted, match="not in force yet"):
        room.set(f"{CANARY}next", Time(60))

    room.rds.settle()
    room.set(f"{CANARY}next")

    assert MARGIN_S <= time.left_s <= MARGIN_S + LONGEST_PAUSE_S
    assert room.accepts(f"{CANARY}next")
    assert room.rds.asked() == 1


def test_with_no_time_left_nothing_is_asked_for(room: Room) -> None:
    with pytest.raises(NotYetAccepted, match="no time is left"):
        room.set(f"{CANARY}next", Time(MARGIN_S - 1))

    assert room.rds.asked() == 0
    assert room.accepts(f"{CANARY}first")


def test_what_a_dead_worker_asked_for_is_waited_for_and_then_replaced(room: Room) -> None:
    with pytest.raises(NotYetAccepted):
        room.set(f"{CANARY}dead", Time(MARGIN_S))

    room.set(f"{CANARY}next")

    assert room.accepts(f"{CANARY}next")
    assert room.refusals() == []


def test_a_lost_reply_is_not_asked_for_again(room: Room) -> None:
    authority = room.authority()
    authority.settle(room.place, room.current.principal)
    room.rds.lose_replies(1)
    with pytest.raises(Unreachable, match="got no answer"):
        authority.set_password(room.current.principal, room.following().secret)

    room.set(f"{CANARY}next")

    assert room.accepts(f"{CANARY}next")
    assert room.rds.asked() == 1


@pytest.mark.parametrize("status", ["modifying", "stopped"])
def test_a_resource_that_is_not_available_is_tried_again(room: Room, status: str) -> None:
    room.resource.status = status

    with pytest.raises(Unreachable, match="answered InvalidDB"):
        room.set(f"{CANARY}next")

    assert room.rds.asked() == 0


# ---------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "kind, shown",
    [
        (INSTANCE, {"MasterUserSecret": {"SecretStatus": "active"}}),
        (CLUSTER, {"MasterUserSecret": {"SecretStatus": "active"}}),
        (INSTANCE, {"DBClusterIdentifier": "orders"}),
        (INSTANCE, {"ReadReplicaSourceDBInstanceIdentifier": "orders"}),
        (CLUSTER, {"ReplicationSourceIdentifier": "arn:aws:rds:eu-west-1:1:cluster:orders"}),
    ],
    ids=["managed", "managed cluster", "member", "replica", "replicated cluster"],
)
def test_a_password_that_is_not_its_own_is_not_set(
    new_room: NewRoom, kind: str, shown: dict[str, Any]
) -> None:
    """And RDS, asked all the same, would refuse it."""
    room = new_room(kind=kind)
    room.resource.shown = shown

    with pytest.raises(Unsupported):
        room.target().create(room.current, [])
    with pytest.raises(Unsupported):
        room.set(f"{CANARY}next")
    with pytest.raises(Misconfigured, match="InvalidParameterCombination"):
        room.authority().set_password(room.current.principal, room.following().secret)

    assert room.rds.asked() == 0


LENGTHS = [(INSTANCE, 8), (INSTANCE, 128), (CLUSTER, 8), (CLUSTER, 41)]
BAD_LENGTHS = [(INSTANCE, 7), (INSTANCE, 129), (CLUSTER, 7), (CLUSTER, 42)]


@pytest.mark.parametrize("kind, length", LENGTHS)
def test_a_password_within_the_limits_is_taken(new_room: NewRoom, kind: str, length: int) -> None:
    room = new_room(kind=kind)
    secret = CANARY.ljust(length, "x")

    room.authority().check(room.place, room.following(secret))
    room.set(secret)

    assert room.accepts(secret)


@pytest.mark.parametrize("kind, length", BAD_LENGTHS)
def test_a_password_beyond_the_limits_is_refused_by_us_before_and_by_rds_after(
    new_room: NewRoom, kind: str, length: int
) -> None:
    room = new_room(kind=kind)
    following = room.following(CANARY.ljust(length, "x")[:length])

    with pytest.raises(Misconfigured, match=f"to .* characters, not {length}") as caught:
        room.authority().check(room.place, following)
    with pytest.raises(Misconfigured, match="InvalidParameterValue"):
        room.authority().set_password(following.principal, following.secret)

    assert "`length` under the plan's `password`" in caught.value.remedy


@pytest.mark.parametrize("character", [*'/"@ ', "\n", "é"], ids=ascii)
def test_a_character_that_rds_does_not_take_is_refused(room: Room, character: str) -> None:
    following = room.following(f"{CANARY}{character}")

    with pytest.raises(Misconfigured, match="printable ASCII") as caught:
        room.authority().check(room.place, following)
    with pytest.raises(Misconfigured, match="InvalidParameterValue"):
        room.authority().set_password(following.principal, following.secret)

    assert "`exclude` under the plan's `password`" in caught.value.remedy


@pytest.mark.parametrize(
    "engine, longest",
    [
        ("mysql", 41),
        ("mariadb", 41),
        ("oracle-ee", 30),
        ("sqlserver-ex", 128),
        ("something", 41),
    ],
)
def test_the_longest_password_depends_on_the_engine(
    new_room: NewRoom, engine: str, longest: int
) -> None:
    room = new_room()
    room.resource.engine = engine

    room.authority().check(room.place, room.following(CANARY.ljust(longest, "x")))
    with pytest.raises(Misconfigured, match=f"8 to {longest} characters"):
        room.authority().check(room.place, room.following(CANARY.ljust(longest + 1, "x")))


def test_what_does_not_exist_is_named(room: Room) -> None:
    kind = "cluster" if room.resource.is_cluster else "db"
    arn = f"arn:aws:rds:eu-west-1:123456789012:{kind}:nothing"
    authority = Rds(room.client, arn, Time().remaining_s)

    with pytest.raises(Misconfigured, match=f"{arn}: DescribeDB.* answered DB.*NotFound"):
        authority.check(room.place, room.current)


def test_one_of_that_name_in_another_account_is_not_touched(room: Room) -> None:
    """A function that runs elsewhere sees its own account's."""
    arn = room.resource.arn.replace("123456789012", "111122223333")
    authority = Rds(room.client, arn, Time().remaining_s)

    with pytest.raises(Misconfigured, match="is not there: the function sees"):
        authority.settle(room.place, room.current.principal)


@pytest.mark.parametrize(
    "arn",
    [
        "orders",
        "arn:aws:rds:eu-west-1:123456789012:snapshot:orders",
        "arn:aws:rds:eu-west-1:123456789012:db:",
        "arn:aws:rds:eu-west-1:123456789012:db:orders/x",
        "arn:aws:elasticache:eu-west-1:123456789012:db:orders",
    ],
)
def test_an_arn_of_something_else_is_refused(new_room: NewRoom, arn: str) -> None:
    with pytest.raises(Misconfigured, match="neither an instance nor a cluster"):
        rds.authority(new_room().client, arn, plenty_of_time())


def test_places_are_compared_without_case(new_room: NewRoom) -> None:
    room = new_room()
    room.resource.host = "Orders.example"

    room.authority().check(f"orders.EXAMPLE:{room.proxy.port}", room.following())
    with pytest.raises(Drifted, match=r"the secret is for other\.example:1, arn"):
        room.authority().check("other.example:1", room.following())


# ---------------------------------------------------------------------------- the page


def test_the_statement_in_the_page_grants_what_is_declared_and_no_more() -> None:
    (text,) = re.findall(r"^```json\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
    statements = json.loads(text)["Statement"]

    assert sorted(action for each in statements for action in each["Action"]) == [*PERMISSIONS]
    for each in statements:
        kind = "Cluster" if ":cluster:" in each["Resource"] else "Instance"
        assert all(kind in action for action in each["Action"])
        assert re.fullmatch(
            r"arn:aws:rds:[a-z0-9-]+:[0-9]{12}:(db|cluster):[a-z]+", each["Resource"]
        )


def test_the_limits_in_the_page_are_ours() -> None:
    assert f"{SHORTEST} to 41 characters for clusters, MySQL and MariaDB" in PAGE
    assert f"{SHORTEST} to 128 for PostgreSQL instances" in PAGE
    assert f"none has a blank or\n  `{' '.join(UNUSABLE.strip())}`" in PAGE


# ---------------------------------------------------------------------------- the strict fake


def test_a_cluster_that_is_not_told_otherwise_waits_for_its_window(new_room: NewRoom) -> None:
    """The fake knows what users of Terraform found: so ApplyImmediately is tested."""
    room = new_room(kind=CLUSTER)
    name, secret = room.resource.name, f"{CANARY}next"

    answered = room.client.modify_db_cluster(DBClusterIdentifier=name, MasterUserPassword=secret)
    room.rds.settle()

    assert answered["DBCluster"]["PendingModifiedValues"] == {"MasterUserPassword": "****"}
    assert not room.accepts(secret)
    with pytest.raises(NotYetAccepted):
        room.authority(Time(60)).settle(room.place, room.current.principal)


def test_the_fake_refuses_while_it_resets(new_room: NewRoom) -> None:
    room = new_room(Undocumented(pending_for=0))
    authority = room.authority(Time(MARGIN_S))
    with pytest.raises(NotYetAccepted):
        authority.set_password(room.current.principal, room.following().secret)

    with pytest.raises(KeyturnError):
        authority.set_password(room.current.principal, room.following().secret)

    assert room.refusals() == ["InvalidDBInstanceState"]
