"""Cloud SQL keeps the promises of every authority, over real HTTP and before real databases."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from databases import credential, make_login, plenty_of_time, set_password, unused_name
from keyturn import line
from keyturn.authorities import cloud_sql
from keyturn.authorities.cloud_sql import (
    LONGEST_PAUSE_S,
    MARGIN_S,
    NAMES,
    PERMISSIONS,
    SERVICE,
    CloudSql,
)
from keyturn.errors import (
    Busy,
    Drifted,
    KeyturnError,
    Misconfigured,
    NotYetAccepted,
    Unreachable,
    Unsupported,
)
from keyturn.google.api import connect
from keyturn.local.postgres import Postgres as Server
from keyturn.model import Credential, Sensitive, Surroundings
from keyturn.ports import PasswordEngine
from keyturn.strategies import PlatformUser
from keyturn.targets.mysql_sql import Sql, account, sql
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
from keyturn.testing.strict_cloud_sql import Instance, StrictCloudSql, Undocumented
from mysql_accounts import Site

PAGE = (Path(__file__).parents[2] / "docs" / "cloud-sql.md").read_text(encoding="utf-8")
NOBODY_LISTENS = 1  # tcpmux: refused on loopback
POLICY = {"enablePasswordPolicy": True, "minLength": 12, "complexity": "COMPLEXITY_DEFAULT"}
_numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "PAUSE_S", 0.0)


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
    """A login of a real database that Cloud SQL has for one of its users.

    Args:
        port: Of the real server.
        hosts: From where the login may be used, as Cloud SQL lists it.
        current: The login, given the port of the proxy.
    """

    def __init__(  # noqa: PLR0913  # a database, a login of it, and what is before them
        self,
        stack: ExitStack,
        *,
        engine: PasswordEngine,
        port: int,
        hosts: str,
        current: Callable[[int], Credential],
        apply: Callable[[str, Sensitive], None],
        ways: Undocumented,
    ) -> None:
        self.proxy = stack.enter_context(Proxy(port))
        self.current = current(self.proxy.port)
        self.engine = engine
        self.sql = stack.enter_context(StrictCloudSql(apply, ways))
        users = {self.current.principal: hosts}
        self.instance = Instance(f"orders-{next(_numbers)}", "127.0.0.1", users)
        self.sql.add(self.instance)
        surroundings = Surroundings(lambda: 60.0, google_endpoint=self.sql.endpoint)
        self.api = connect(SERVICE, surroundings)

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.proxy.port}"

    @property
    def user(self) -> str:
        return self.current.principal

    def show(self, **members: object) -> None:
        """Let the instance's description have these members."""
        self.instance.shown |= members

    def tell(self, **members: object) -> None:
        """Let the user's entry have these members."""
        self.instance.told[self.user] = members

    def authority(self, time: Time | None = None) -> CloudSql:
        time = time or Time()
        return CloudSql(self.api, self.instance.full_name, time.remaining_s, time.sleep)

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

    def instance_looks(self) -> int:
        """Count the looks at an operation."""
        return sum("/operations/" in call.path for call in self.sql.calls)

    def refusals(self) -> list[int]:
        return [call.refused for call in self.sql.calls if call.refused]


NewRoom = Callable[..., Room]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def new_room(postgres: Server, stack: ExitStack) -> NewRoom:
    def make(ways: Undocumented | None = None) -> Room:
        name = unused_name("cloud")
        make_login(postgres, name, f"{CANARY}first")
        return Room(
            stack,
            engine=Postgres(plenty_of_time()),
            port=postgres.port,
            hosts="",
            current=lambda port: credential(postgres, name, f"{CANARY}first", port=port),
            apply=lambda user, secret: set_password(postgres, user, secret),
            ways=ways or Undocumented(),
        )

    return make


@pytest.fixture
def room(new_room: NewRoom) -> Room:
    return new_room()


def _of_mysql(site: Site, stack: ExitStack) -> Room:
    name = unused_name("cloud")
    site.make(name, f"{CANARY}first")

    def apply(user: str, secret: Sensitive) -> None:
        hashed = site.identified(secret.reveal())
        site.execute(sql("ALTER USER {} {}", account(user, "%"), Sql(hashed)))

    return Room(
        stack,
        engine=site.engine(),
        port=site.server.port,
        hosts="%",
        current=lambda port: site.credential(name, f"{CANARY}first", port=port),
        apply=apply,
        ways=Undocumented(tells_type=True),
    )


@pytest.fixture(params=["postgres", "mariadb", "mysql"])
def any_room(request: pytest.FixtureRequest, stack: ExitStack) -> Room:
    if request.param == "postgres":
        made: Room = request.getfixturevalue("room")
        return made
    return _of_mysql(request.getfixturevalue(request.param), stack)


class TestCloudSql(AuthorityContract):
    """A user of PostgreSQL, and one of MySQL, whose name has a host."""

    @pytest.fixture
    def office(self, any_room: Room) -> Office:
        any_room.show(settings={"passwordValidationPolicy": POLICY})
        return Office(
            any_room.authority(),
            any_room.authority(Time(MARGIN_S)),
            any_room.place,
            any_room.current,
            Sensitive(f"{CANARY}a"),
            any_room.target().accepts,
            any_room.sql.asked,
            any_room.sql.outage,
        )


class TestPlatformUser(PlatformContract):
    """A user whom the service gives its passwords."""

    @pytest.fixture
    def subject(self, room: Room) -> Subject:
        unreachable = {**room.current.fields, "port": NOBODY_LISTENS}
        return Subject(
            room.target(),
            room.current,
            replace(room.current, fields=unreachable),
            room.proxy.outage,
        )


# ---------------------------------------------------------------------------- waiting

WAYS = [
    Undocumented(pending_for=0, running_for=3),
    Undocumented(pending_for=3, running_for=0),
    Undocumented(pending_for=0, running_for=0),
    Undocumented(tells_type=True),
]


@pytest.mark.parametrize("ways", WAYS, ids=str)
def test_however_long_it_takes_it_is_waited_for(new_room: NewRoom, ways: Undocumented) -> None:
    room = new_room(ways)

    room.set(f"{CANARY}next")

    assert room.accepts(f"{CANARY}next")
    assert room.sql.asked() == 1


def test_a_change_that_is_not_listed_at_first_costs_a_try_and_no_lock_out(
    new_room: NewRoom,
) -> None:
    """The next set does not see it, finds current accepted, asks, and is refused: one at a time."""
    room = new_room(Undocumented(hidden_for=1))
    with pytest.raises(NotYetAccepted):
        room.set(f"{CANARY}next", Time(MARGIN_S))

    with pytest.raises(Busy):
        room.set(f"{CANARY}next")
    room.set(f"{CANARY}next")

    assert room.accepts(f"{CANARY}next")
    assert room.sql.asked() == 1


def test_a_rotation_makes_as_few_calls_as_the_page_says(room: Room) -> None:
    room.target().create(room.current, [])
    room.set(f"{CANARY}next")

    looks = room.instance_looks()
    assert len(room.sql.calls) - looks == 7
    assert looks == 3
    assert "seven times" in PAGE


def test_pauses_grow_to_ten_seconds(new_room: NewRoom) -> None:
    room, time = new_room(Undocumented(running_for=8)), Time()

    room.set(f"{CANARY}next", time)

    assert time.slept_s[0] == 1
    assert time.slept_s == sorted(time.slept_s)
    assert time.slept_s[-1] == LONGEST_PAUSE_S
    assert len(time.slept_s) == 10


def test_it_stops_in_time_to_report_and_the_next_call_goes_on(new_room: NewRoom) -> None:
    """Killed by the platform, a function reports nothing."""
    room, time = new_room(Undocumented(running_for=100)), Time(60)
    with pytest.raises(NotYetAccepted, match="not in force yet"):
        room.set(f"{CANARY}next", time)
    with pytest.raises(NotYetAccepted, match="not in force yet"):
        room.set(f"{CANARY}next", Time(60))

    room.sql.settle()
    room.set(f"{CANARY}next")

    assert MARGIN_S <= time.left_s <= MARGIN_S + LONGEST_PAUSE_S
    assert room.accepts(f"{CANARY}next")
    assert room.sql.asked() == 1


def test_with_no_time_left_nothing_is_asked_for(room: Room) -> None:
    with pytest.raises(NotYetAccepted, match="no time is left"):
        room.set(f"{CANARY}next", Time(MARGIN_S - 1))

    assert room.sql.asked() == 0
    assert room.accepts(f"{CANARY}first")


def test_what_a_dead_worker_asked_for_is_waited_for_and_then_replaced(room: Room) -> None:
    with pytest.raises(NotYetAccepted):
        room.set(f"{CANARY}dead", Time(MARGIN_S))

    room.set(f"{CANARY}next")

    assert room.accepts(f"{CANARY}next")
    assert room.refusals() == []


def test_a_lost_reply_is_not_asked_for_again(room: Room) -> None:
    """Neither by the line, which repeats what may be repeated, nor by the next set."""
    authority = room.authority()
    authority.settle(room.place, room.user)
    room.sql.lose_replies(1)
    with pytest.raises(Unreachable, match="no answer"):
        authority.set_password(room.user, room.following().secret)

    room.set(f"{CANARY}next")

    assert room.accepts(f"{CANARY}next")
    assert room.sql.asked() == 1
    assert room.refusals() == []


def test_another_change_of_the_instance_makes_it_busy(room: Room) -> None:
    """A backup of an hour is not waited for in a function, and no login is lost by it."""
    room.sql.begin(room.instance.name, "BACKUP_VOLUME", looks=9)

    with pytest.raises(Busy, match=r"users\.update answered ABORTED"):
        room.set(f"{CANARY}next")

    assert room.accepts(f"{CANARY}first")
    room.sql.settle()
    room.set(f"{CANARY}next")
    assert room.accepts(f"{CANARY}next")


def test_an_operation_that_fails_is_named_and_tried_again(new_room: NewRoom) -> None:
    """By its code: its text may quote the request."""
    room = new_room(Undocumented(code="ERROR_RDBMS"))

    with pytest.raises(Unreachable, match=r"was not set \(ERROR_RDBMS\)") as caught:
        room.set(f"{CANARY}next")

    assert CANARY not in str(caught.value)
    assert "operation 00000000-" in caught.value.remedy
    assert room.accepts(f"{CANARY}first")


def test_a_code_that_is_a_text_is_not_shown(new_room: NewRoom) -> None:
    room = new_room(Undocumented(code=f"the password {CANARY}next is bad"))

    with pytest.raises(Unreachable, match=r"was not set \(no code\)"):
        room.set(f"{CANARY}next")


# ---------------------------------------------------------------------------- refusals


def _why(room: Room) -> str:
    try:
        room.target().create(room.current, [])
    except KeyturnError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


@pytest.mark.parametrize(
    "kind",
    ["READ_REPLICA_INSTANCE", "READ_POOL_INSTANCE", "ON_PREMISES_INSTANCE", "GREEN_INSTANCE"],
)
def test_an_instance_whose_users_are_anothers_is_refused(room: Room, kind: str) -> None:
    """And Cloud SQL, asked all the same, would refuse it."""
    room.show(instanceType=kind)

    assert _why(room).startswith(f"Unsupported: {room.instance.full_name} is ")
    with pytest.raises(Unsupported):
        room.set(f"{CANARY}next")
    with pytest.raises(Misconfigured):
        room.authority().set_password(room.user, room.following().secret)

    assert room.sql.asked() == 0


@pytest.mark.parametrize(
    "shown",
    [
        *({"state": state} for state in ("SUSPENDED", "MAINTENANCE", "FAILED", "PENDING_CREATE")),
        {"settings": {"activationPolicy": "NEVER"}},
    ],
    ids=str,
)
def test_an_instance_that_is_not_running_is_tried_again(
    room: Room, shown: dict[str, object]
) -> None:
    room.show(**shown)

    assert _why(room).startswith("Unreachable: ")
    with pytest.raises(Unreachable, match="stopped, or not RUNNABLE"):
        room.set(f"{CANARY}next")

    assert room.sql.asked() == 0


@pytest.mark.parametrize(
    "kind", ["CLOUD_IAM_USER", "CLOUD_IAM_SERVICE_ACCOUNT", "CLOUD_IAM_GROUP", "ENTRAID_USER"]
)
def test_a_user_of_iam_has_no_password_to_set(room: Room, kind: str) -> None:
    room.tell(type=kind)

    assert _why(room).startswith(f"Unsupported: {room.instance.full_name}: {room.user!r} has no")
    with pytest.raises(Unsupported, match=kind):
        room.authority().set_password(room.user, room.following().secret)

    assert room.sql.asked() == 0


def test_a_user_with_two_passwords_would_keep_the_old_one(room: Room) -> None:
    """MySQL leaves a secondary password alone when a new one is set: it is not rotated away."""
    room.tell(dualPasswordType="DUAL_PASSWORD")
    assert "has two passwords" in _why(room)

    room.tell(dualPasswordType="NO_DUAL_PASSWORD")
    assert _why(room) == "nothing"


def test_a_name_with_several_hosts_is_refused(room: Room) -> None:
    """MySQL: they are several accounts, and which one a client gets its address decides."""
    room.instance.users[room.user] = "%,10.0.0.%"

    assert f"has 2 accounts {room.user!r}" in _why(room)
    with pytest.raises(Unsupported):
        room.authority().set_password(room.user, room.following().secret)
    assert room.sql.asked() == 0


@pytest.mark.parametrize("host", ["%", "cloudsqlproxy~%", "10.0.0.0/255.0.0.0", ""])
def test_the_account_is_named_with_the_host_that_it_has(room: Room, host: str) -> None:
    room.instance.users[room.user] = host

    room.set(f"{CANARY}next")

    assert room.accepts(f"{CANARY}next")


@pytest.mark.parametrize("name", ["a b", "a&b=c", "ä", "a+b", "a%41", "a'b\"c"])
def test_a_name_is_sent_as_it_is(stack: ExitStack, name: str) -> None:
    said: list[str] = []
    service = stack.enter_context(StrictCloudSql(lambda user, _: said.append(user)))
    full = service.add(Instance("orders", "10.0.0.3", {name: "%", "a": "%"}))
    api = connect(SERVICE, Surroundings(lambda: 60.0, google_endpoint=service.endpoint))
    time = Time()

    CloudSql(api, full, time.remaining_s, time.sleep).set_password(name, Sensitive(CANARY))

    assert said == [name]


POLICIES: list[tuple[dict[str, object], str, str]] = [
    ({"minLength": 20}, f"{CANARY}{'x' * 11}", "takes passwords of 20 characters and more, not 19"),
    ({"complexity": "COMPLEXITY_DEFAULT"}, "canary7-alllower", "a small and a capital letter"),
    ({"complexity": "COMPLEXITY_DEFAULT"}, "CANARY7-ALLUPPER", "a small and a capital letter"),
    ({"complexity": "COMPLEXITY_DEFAULT"}, "Canary-nodigits", "a digit"),
    ({"complexity": "COMPLEXITY_DEFAULT"}, "Canary7nosymbols", "a symbol"),
]


@pytest.mark.parametrize("policy, secret, message", POLICIES, ids=lambda each: str(each)[:20])
def test_a_password_against_the_policy_is_refused_by_us_before_and_by_cloud_sql_after(
    room: Room, policy: dict[str, object], secret: str, message: str
) -> None:
    following = room.following(secret)
    room.show(settings={"passwordValidationPolicy": {"enablePasswordPolicy": True, **policy}})

    with pytest.raises(Misconfigured, match=message) as caught:
        room.authority().check(room.place, following)
    with pytest.raises(Misconfigured, match="INVALID_ARGUMENT"):
        room.authority().set_password(room.user, following.secret)

    assert "the plan's `password`" in caught.value.remedy
    room.show(settings={"passwordValidationPolicy": policy})
    room.authority().check(room.place, following)


def test_a_password_with_the_users_name_in_it_is_refused(room: Room) -> None:
    room.show(
        settings={
            "passwordValidationPolicy": {
                "enablePasswordPolicy": True,
                "disallowUsernameSubstring": True,
            }
        }
    )

    with pytest.raises(Misconfigured, match="with the user's name in it") as caught:
        room.authority().check(room.place, room.following(f"{CANARY}{room.user.upper()}"))

    assert CANARY not in str(caught.value)


HOSTS: list[tuple[dict[str, Any], str]] = [
    ({"ipAddresses": [{"type": "PRIVATE", "ipAddress": "10.0.0.3"}]}, "10.0.0.3"),
    ({"dnsName": "0a1b.2c3d.europe-west1.sql.goog."}, "0a1b.2c3d.europe-west1.sql.goog"),
    ({"dnsNames": [{"name": "0a1b.europe-west1.sql-psa.goog."}]}, "0A1B.europe-west1.sql-psa.goog"),
    ({"writeEndpoint": "w.europe-west1.sql-psa.goog"}, "w.europe-west1.sql-psa.goog."),
    (
        {"settings": {"ipConfiguration": {"customSubjectAlternativeNames": ["db.example.com"]}}},
        "db.example.com",
    ),
    ({"connectionName": "shop-42:europe-west1:orders"}, "/cloudsql/shop-42:europe-west1:orders"),
    ({"connectionName": "example.com:shop:r:orders"}, "/cloudsql/example.com:shop:r:orders"),
]


@pytest.mark.parametrize("shown, host", HOSTS, ids=[host for _, host in HOSTS])
def test_every_way_to_call_the_instance_is_its_own(
    room: Room, shown: dict[str, Any], host: str
) -> None:
    room.show(**{"connectionName": "", **shown})

    room.authority().check(f"{host}:5432", room.following())
    with pytest.raises(Drifted, match=r"the secret is for db\.elsewhere, projects/"):
        room.authority().check("db.elsewhere:5432", room.following())


def test_an_address_for_the_instances_own_calls_is_not_its_own(room: Room) -> None:
    """OUTGOING: nothing listens there. And a host that is "" is none at all."""
    for host in ("203.0.113.9", ""):
        with pytest.raises(Drifted):
            room.authority().check(f"{host}:5432", room.following())


def test_what_does_not_exist_is_named(room: Room) -> None:
    for name in ("projects/shop-42/instances/nothing", "projects/other-42/instances/orders"):
        authority = CloudSql(room.api, name, Time().remaining_s)

        with pytest.raises(KeyturnError, match=rf"{name}: instances\.get answered"):
            authority.check(room.place, room.current)


@pytest.mark.parametrize(
    "name",
    [
        "orders",
        "projects/shop-42/instances/",
        "projects/shop-42/instances/orders/databases/app",
        "projects/shop-42/locations/europe-west1/clusters/orders",
        "projects/shop-42/instances/..",
        "projects/../instances/orders",
        "arn:aws:rds:eu-west-1:123456789012:db:orders",
    ],
)
def test_a_name_of_something_else_is_refused(room: Room, name: str) -> None:
    with pytest.raises(Misconfigured, match="is no instance of Cloud SQL"):
        cloud_sql.authority(room.api, name, plenty_of_time())


@pytest.mark.parametrize(
    "name", ["projects/shop-42/instances/orders", "projects/example.com:shop/instances/o"]
)
def test_projects_with_and_without_a_domain_are_named(name: str) -> None:
    assert NAMES.fullmatch(name)


# ---------------------------------------------------------------------------- the page


def test_the_role_in_the_page_has_what_is_declared_and_no_more() -> None:
    (text,) = re.findall(r"--permissions=(\S+)", PAGE)

    assert sorted(text.split(",")) == [*PERMISSIONS]
