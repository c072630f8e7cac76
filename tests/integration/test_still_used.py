"""Who is logged in, by what each server says of it; and what it says to whom."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

import databases
import redises
from conftest import UNPACKED_MYSQL, need
from databases import execute, plenty_of_time, unused_name
from keyturn.errors import Busy
from keyturn.local.mariadb import MariaDb, find_mysql
from keyturn.local.postgres import Postgres, find_system
from keyturn.local.redis import Redis as RedisServer
from keyturn.model import Credential, Sensitive, Version
from keyturn.ports import DatedSession, PasswordEngine, SeenSession
from keyturn.strategies import AlternatingUsers, DualPassword, Pair
from keyturn.targets.postgres import Postgres as PostgresEngine
from keyturn.targets.redis import SKEW, _clients_of
from keyturn.targets.redis import Redis as RedisEngine
from keyturn.testing.certificates import Authority
from keyturn.testing.contracts import MADE_LONG_AGO, version
from keyturn.testing.faults import Proxy
from mysql_accounts import Site

FIRST, SECOND, ADMIN, DROPPED = (f"Canary7-{each}" for each in ("1st", "2nd", "admin", "dropped"))


Works = Callable[[], object]


@dataclass(frozen=True, slots=True)
class House:
    """A server, and how one makes logins there, and stays logged in.

    Attributes:
        make: Makes a login that may do nothing of ours.
        make_viewer: Makes one that may see the sessions of others, and no more.
        make_admin: Makes one that may retire a login of a pair.
        opened: Logs in and stays; yields what asks the least.
    """

    engine: PasswordEngine
    make: Callable[[str], Credential]
    make_viewer: Callable[[str], Credential]
    make_admin: Callable[[str, str], Credential]
    opened: Callable[[Credential], AbstractContextManager[Works]]

    def seen(self, viewer: Credential, principal: str) -> int | None:
        with self.engine.login(viewer) as session:
            assert isinstance(session, SeenSession)
            return session.sessions_of(principal)


def _postgres(server: Postgres) -> House:
    def make(name: str) -> Credential:
        databases.make_login(server, name, FIRST)
        return databases.credential(server, name, FIRST)

    def make_admin(name: str, app: str) -> Credential:
        databases.make_admin(server, name, ADMIN, app)
        return databases.credential(server, name, ADMIN)

    @contextmanager
    def opened(login: Credential) -> Iterator[Callable[[], object]]:
        with _line(server, login) as connection:
            yield lambda: connection.execute("SELECT 1")

    return House(PostgresEngine(plenty_of_time()), make, make, make_admin, opened)


def _line(server: Postgres, login: Credential) -> psycopg.Connection:
    return psycopg.connect(
        host=server.host,
        port=server.port,
        dbname=str(login.fields["dbname"]),
        user=login.principal,
        password=login.secret.reveal(),
        autocommit=True,
    )


def _mysql(site: Site) -> House:
    def make(name: str) -> Credential:
        site.make(name, FIRST)
        return site.credential(name, FIRST)

    def make_viewer(name: str) -> Credential:
        made = make(name)
        site.execute(f"GRANT PROCESS ON *.* TO `{name}`@`%`")
        return made

    def make_admin(name: str, app: str) -> Credential:
        del app
        site.make_admin(name, ADMIN)
        return site.credential(name, ADMIN)

    return House(site.engine(), make, make_viewer, make_admin, site.opened)


def _redis(server: RedisServer) -> House:
    def make(name: str) -> Credential:
        redises.make_user(server, name, FIRST, *redises.APPLICATION)
        return redises.credential(server, name, FIRST)

    def make_viewer(name: str) -> Credential:
        redises.make_user(server, name, FIRST, "+client|list", "+client|setname")
        return redises.credential(server, name, FIRST)

    def make_admin(name: str, app: str) -> Credential:
        del app
        redises.make_user(server, name, ADMIN, *redises.ROTATION)
        return redises.credential(server, name, ADMIN)

    return House(
        RedisEngine(plenty_of_time()),
        make,
        make_viewer,
        make_admin,
        lambda login: redises.logged_in(server, login),
    )


@pytest.fixture(params=["wheel", "debian", "mariadb", "mysql", "redis"])
def house(request: pytest.FixtureRequest) -> House:
    """PostgreSQL twice: of versions before and after 16."""
    if request.param in {"mariadb", "mysql"}:
        return _mysql(request.getfixturevalue(request.param))
    if request.param == "redis":
        return _redis(request.getfixturevalue("redis"))
    if request.param == "debian":
        need(present=find_system() is not None, what="PostgreSQL", install="apt install postgresql")
    name = "postgres" if request.param == "wheel" else "system_postgres"
    return _postgres(request.getfixturevalue(name))


# ---------------------------------------------------------------------------- what all of them say


def test_sessions_are_counted_by_the_name_that_logged_in(house: House) -> None:
    """Not those of a name that is like it; and not the one that asks."""
    name = unused_name("app")
    app, viewer = house.make(name), house.make_viewer(unused_name("viewer"))
    others = [house.make(each) for each in (f"{name}_clone", name.upper(), f"x{name}", f"{name}0")]
    with ExitStack() as stack:
        for login in [app, app, *others]:
            stack.enter_context(house.opened(login))

        assert house.seen(viewer, name) == 2
        assert house.seen(viewer, others[0].principal) == 1
        assert house.seen(viewer, unused_name("nobody")) == 0
        assert house.seen(viewer, viewer.principal) == 0


def test_a_session_that_comes_after_the_look_stays_and_is_refused_later(house: House) -> None:
    """Nothing closes that gap: it is as wide as one call."""
    app, twin, _, target = _pair(house)
    current = version(twin, "v1")
    with ExitStack() as stack:
        came: list[Works] = []
        looks = iter(["before", "after"])

        def slot() -> Version:
            if next(looks) == "after":
                came.append(stack.enter_context(house.opened(app)))
            return current

        target.retire(slot)

        (works,) = came
        works()
        assert not target.accepts(app)
    assert target.accepts(twin)


def test_a_retirement_that_waits_fails_no_login_and_costs_two(house: House) -> None:
    """It is tried at each second look, for as long as somebody is logged in."""
    app, twin, admin, _ = _pair(house)
    with Proxy(int(str(app.fields["port"]))) as proxy, house.opened(app):
        through = {"port": proxy.port}
        target = _alternating(house, app, replace(admin, fields={**admin.fields, **through}))
        current = version(replace(twin, fields={**twin.fields, **through}), "v1")
        proxy.reset()
        with pytest.raises(Busy, match="1 open session of"):
            target.retire(lambda: current)

        assert proxy.connections == 2


def _pair(house: House) -> tuple[Credential, Credential, Credential, AlternatingUsers]:
    """Let one login have its turn: the first one, the one whose turn it is, and the admin."""
    app = house.make(unused_name("app"))
    admin = house.make_admin(unused_name("admin"), app.principal)
    target = _alternating(house, app, admin)
    following = target.create(app, [])
    target.set(lambda: version(following, "v1"), version(app, "v0"), [])
    return app, following, admin, target


def _alternating(house: House, app: Credential, admin: Credential) -> AlternatingUsers:
    pair = Pair((app.principal, f"{app.principal}_b"), app.principal, is_declared=True)
    fresh = iter([SECOND, DROPPED])
    return AlternatingUsers(
        house.engine, lambda: Sensitive(next(fresh)), lambda _: pair, lambda: admin
    )


# ---------------------------------------------------------------------------- PostgreSQL


@pytest.fixture(params=["wheel", "debian"])
def server(request: pytest.FixtureRequest) -> Postgres:
    """Versions before and after 16."""
    if request.param == "debian":
        need(present=find_system() is not None, what="PostgreSQL", install="apt install postgresql")
    made: Postgres = request.getfixturevalue(
        "postgres" if request.param == "wheel" else "system_postgres"
    )
    return made


RIGHTS_TO_SEE = (
    "SELECT ON pg_catalog.pg_stat_activity",
    "EXECUTE ON FUNCTION pg_catalog.pg_stat_get_activity(integer)",
)


def test_postgres_tells_of_one_who_acts_as_another_and_hides_what_they_do(server: Postgres) -> None:
    """As both logins of a pair do, and with `track_activities` off."""
    house, owner, name = _postgres(server), unused_name("owner"), unused_name("app")
    app, viewer = house.make(name), house.make(unused_name("viewer"))
    execute(server, "CREATE ROLE {} NOLOGIN", owner)
    execute(server, "GRANT {} TO {}", owner, name)
    execute(server, "ALTER ROLE {} SET role TO {}", name, owner)
    execute(server, "ALTER ROLE {} SET track_activities TO off", name)

    with house.opened(app):
        assert house.seen(viewer, name) == 1
        assert house.seen(viewer, owner) == 0
        assert house.seen(app, name) == 1


@pytest.mark.parametrize("right", RIGHTS_TO_SEE)
def test_postgres_where_the_view_was_taken_away_cannot_tell(server: Postgres, right: str) -> None:
    """The right is revoked by database: each has its own catalogue."""
    house, dbname = _postgres(server), unused_name("db")
    app, viewer = house.make(unused_name("app")), house.make(unused_name("viewer"))
    execute(server, "CREATE DATABASE {}", dbname)
    execute(server, f"REVOKE {right} FROM PUBLIC", dbname=dbname)

    with house.opened(app):
        blind = replace(viewer, fields={**viewer.fields, "dbname": dbname})
        assert house.seen(viewer, app.principal) == 1
        assert house.seen(blind, app.principal) is None


# ---------------------------------------------------------------------------- MySQL and MariaDB


def test_without_process_mysql_cannot_tell(site: Site) -> None:
    """It would show our own session, and nothing that says that there are others."""
    house, role = _mysql(site), unused_name("role")
    app, viewer = house.make(unused_name("app")), house.make(unused_name("viewer"))
    site.execute(f"CREATE ROLE `{role}`", f"GRANT PROCESS ON *.* TO `{role}`")

    with house.opened(app):
        assert house.seen(viewer, app.principal) is None
        site.execute(f"GRANT `{role}` TO `{viewer.principal}`@`%`")
        assert house.seen(viewer, app.principal) is None
        to = "FOR" if site.is_mariadb else "TO"
        site.execute(f"SET DEFAULT ROLE `{role}` {to} `{viewer.principal}`@`%`")
        assert house.seen(viewer, app.principal) == 1


def test_without_process_a_retirement_goes_by_the_other_evidence(site: Site) -> None:
    house = _mysql(site)
    app, twin, admin, target = _pair(house)
    site.execute(f"REVOKE PROCESS ON *.* FROM `{admin.principal}`@`%`")

    with house.opened(app):
        target.retire(lambda: version(twin, "v1"))

    assert not target.accepts(app)


def test_sessions_from_every_host_are_counted(site: Site) -> None:
    """Each host is an account of its own; the login is the same."""
    house, name = _mysql(site), unused_name("app")
    app, viewer = house.make(name), house.make_viewer(unused_name("viewer"))
    site.make(name, SECOND, "localhost")

    with house.opened(replace(app, secret=Sensitive(SECOND))), house.engine.login(app) as session:
        assert session is not None
        assert house.seen(viewer, name) == 2


def test_mysql_without_performance_schema_tells_all_the_same() -> None:
    """Its newer list is empty then; not even we are in it."""
    found = find_mysql(UNPACKED_MYSQL) or find_mysql()
    need(present=found is not None, what="MySQL", install=f".ci/unpack-mysql {UNPACKED_MYSQL.name}")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # for the server's user
        authority = Authority(Path(folder), "ours")
        issued = authority.issue("127.0.0.1")
        files = {"ssl-cert": str(issued.certificate), "ssl-key": str(issued.key)}
        with MariaDb(found, settings={"performance-schema": "OFF", **files}) as running:
            site = Site(running, authority.file)
            viewer = _mysql(site).make_viewer("viewer")

            with site.superuser():
                assert site.rows("SELECT * FROM performance_schema.processlist") == []
                assert _mysql(site).seen(viewer, "root") == 1


def test_mysql_does_not_tell_how_old_a_session_is(site: Site) -> None:
    """So of two passwords the old one dies while a session that it opened goes on."""
    house = _mysql(site)
    app = house.make(unused_name("app"))
    admin = house.make_admin(unused_name("admin"), app.principal)
    target = DualPassword(house.engine, lambda: Sensitive(SECOND), lambda: admin)
    following = target.create(app, [])
    with site.engine().login(app) as session:
        assert session is not None
        assert not isinstance(session, DatedSession)
        target.set(lambda: version(following, "v1"), version(app, "v0"), [])
        target.retire(lambda: version(following, "v1"))

        session.set_password(app.principal, Sensitive(SECOND))
    assert not target.accepts(app)


# ---------------------------------------------------------------------------- Redis


def test_redis_tells_how_old_a_session_is_but_for_a_minute(redis: RedisServer) -> None:
    """So much the clocks may differ: a session that is in doubt is not counted."""
    house = _redis(redis)
    app = house.make(unused_name("app"))
    admin = house.make_admin(unused_name("admin"), app.principal)
    with house.opened(app), house.engine.login(admin) as session:
        assert isinstance(session, DatedSession)

        def before(**ahead: float) -> int | None:
            return session.sessions_before(app.principal, datetime.now(UTC) + timedelta(**ahead))

        assert before(minutes=2) == 1
        assert before(seconds=50) == 0
        assert session.sessions_before(app.principal, MADE_LONG_AGO) == 0
        assert session.sessions_before("nobody", datetime.now(UTC) + timedelta(minutes=2)) == 0


def test_redis_tells_how_old_a_session_is_while_it_works(redis: RedisServer) -> None:
    """Not how long it has said nothing."""
    house = _redis(redis)
    app = house.make(unused_name("app"))
    admin = house.make_admin(unused_name("admin"), app.principal)
    with house.opened(app) as works, house.engine.login(admin) as session:
        assert isinstance(session, DatedSession)
        time.sleep(2.2)
        works()

        a_second_ago = datetime.now(UTC) - timedelta(seconds=1)
        assert session.sessions_before(app.principal, a_second_ago + SKEW) == 1


def test_without_client_list_redis_cannot_tell(redis: RedisServer) -> None:
    house = _redis(redis)
    app, viewer = house.make(unused_name("app")), unused_name("viewer")
    redises.make_user(redis, viewer, FIRST, "+info")
    with (
        house.opened(app),
        house.engine.login(redises.credential(redis, viewer, FIRST)) as session,
    ):
        assert isinstance(session, SeenSession)
        assert isinstance(session, DatedSession)
        assert session.sessions_of(app.principal) is None
        assert session.sessions_before(app.principal, datetime.now(UTC)) is None


def test_our_own_connections_to_redis_are_no_use(redis: RedisServer) -> None:
    """They are ours by their name; another worker's, too."""
    house = _redis(redis)
    app, viewer = house.make(unused_name("app")), house.make_viewer(unused_name("viewer"))

    with house.engine.login(app) as session:
        assert session is not None
        assert house.seen(viewer, app.principal) == 0


@pytest.mark.parametrize("said", ["", "id=3 addr=127.0.0.1:1 name= age=1 idle=0 cmd=ping\n"])
def test_a_list_without_users_tells_nothing(said: str) -> None:
    """As servers before 6.0 give it."""
    assert _clients_of("app", said) is None
