"""What MySQL and MariaDB themselves see and keep, and how they refuse."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pymysql
import pytest

from databases import unused_name
from keyturn.errors import (
    Busy,
    Denied,
    Drifted,
    KeyturnError,
    Misconfigured,
    Unreachable,
    Unsupported,
)
from keyturn.model import Credential, Sensitive, Surroundings
from keyturn.targets import mysql as targets_mysql
from keyturn.targets.mysql import MySql
from keyturn.testing.faults import Moment, Proxy, Verdict
from mysql_accounts import Site

CANARY = "Canary7-" + "mysql"
FIRST, ADMIN = "Canary7-first", "Canary7-admin"


@contextmanager
def _session(site: Site, name: str, password: str = FIRST) -> Iterator[targets_mysql._Session]:
    with site.engine().login(site.credential(name, password)) as session:
        assert session is not None
        yield session


def _why(site: Site, login: Credential) -> str:
    try:
        with site.engine().login(login) as session:
            return "accepted" if session else "refused"
    except KeyturnError as error:
        return f"{type(error).__name__}: {error}"


# ---------------------------------------------------------------------------- leaks


def test_no_password_reaches_a_log_or_a_view(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """P6, in general, slow, binary and error log, and in the views; failing statements included."""
    caplog.set_level(logging.DEBUG)
    name, admin, twin = unused_name("app"), unused_name("admin"), unused_name("twin")
    site.make(name, FIRST)
    site.make_admin(admin, ADMIN)
    with _session(site, name) as session:
        session.set_password(name, Sensitive(f"{CANARY}-1'\\"))
        with pytest.raises(Denied):
            session.set_password(admin, Sensitive(f"{CANARY}-2"))
    with _session(site, admin, ADMIN) as session:
        session.set_dual(name, Sensitive(f"{CANARY}-3"), keep=Sensitive(f"{CANARY}-1'\\"))
        session.set_twin(twin, Sensitive(f"{CANARY}-4"), like=name, owner=name)
        with pytest.raises(Drifted):
            session.set_password("nobody_of_that_name", Sensitive(f"{CANARY}-5"))
    # What the search would find, had it been shown: in each place.
    site.execute("DO 'this is shown'")

    logs = site.logs()

    assert site.accepts(name, f"{CANARY}-1'\\")
    assert logs.count("ALTER USER") > 4
    assert "this is shown" in logs
    assert CANARY not in logs
    assert CANARY not in caplog.text


def test_a_mysql_user_that_changes_its_own_password_shows_it_to_the_server_alone(
    mysql: Site,
) -> None:
    """It takes no hash from those without CREATE USER. What it logs, it rewrites."""
    name = unused_name("app")
    mysql.make(name, FIRST)

    with _session(mysql, name) as session:
        session.set_password(name, Sensitive(f"{CANARY}-own"))

    logs = mysql.logs()
    assert mysql.accepts(name, f"{CANARY}-own")
    assert f"ALTER USER '{name}'@'%' IDENTIFIED BY <secret>" in logs
    assert CANARY not in logs


def test_such_a_password_does_not_leave_over_plain_text(mysql: Site) -> None:
    """There the change is denied; an admin can make it by hash."""
    name = unused_name("app")
    mysql.make(name, FIRST)
    assert mysql.accepts(name, FIRST)  # the server has cached it: no full authentication is due
    login = mysql.credential(name, FIRST)
    plain = replace(login, fields={**login.fields, "ssl": False})

    with mysql.engine().login(plain) as session:
        assert session is not None
        with pytest.raises(Denied, match="1227"):
            session.set_password(name, Sensitive(f"{CANARY}-own"))

    assert mysql.accepts(name, FIRST)


# ---------------------------------------------------------------------------- refusals


def test_what_went_wrong_is_told_apart(site: Site) -> None:
    """Each has its own class and remedy; no text of the server is in it."""
    name, full, locked = (unused_name(stem) for stem in ("app", "full", "locked"))
    site.make(name, FIRST)
    made = site.make(full, FIRST, options="WITH MAX_CONNECTIONS_PER_HOUR 1")
    assert site.accepts(full, FIRST)
    site.make(locked, FIRST, options="ACCOUNT LOCK")
    site.execute("CREATE DATABASE IF NOT EXISTS closed")
    login = site.credential(name, FIRST)

    def changed(**fields: object) -> Credential:
        return replace(login, fields={**login.fields, **fields})

    said = {
        "right": _why(site, login),
        "wrong password": _why(site, replace(login, secret=Sensitive("wrong"))),
        "unknown user": _why(site, replace(login, principal="nobody_of_that_name")),
        "down": _why(site, changed(port=1)),
        "unknown host": _why(site, changed(host="no-such-host.invalid")),
        "no privilege": _why(site, changed(dbname="closed")),
        "full": _why(site, replace(login, principal=full)),
        "locked": _why(site, replace(login, principal=locked)),
    }

    assert made in str(site.rows(f"SHOW CREATE USER {made}"))
    assert said.pop("right") == "accepted"
    assert said.pop("wrong password") == said.pop("unknown user") == "refused"
    assert said.pop("down").startswith("Unreachable: 127.0.0.1: the server refuses connections")
    assert said.pop("unknown host") == (
        "Unreachable: no-such-host.invalid: the host name has no address"
    )
    assert said.pop("no privilege").startswith("Denied: 127.0.0.1: the server answered 1044")
    assert said.pop("full").startswith("Unreachable: 127.0.0.1: the server answered 1226")
    assert said.pop("locked").startswith("Denied: 127.0.0.1: the server answered ")


def test_a_database_that_does_not_exist_is_named(site: Site) -> None:
    """To who may use any; others are told that they may not use it."""
    admin = unused_name("admin")
    site.make_admin(admin, ADMIN)
    login = site.credential(admin, ADMIN)

    said = _why(site, replace(login, fields={**login.fields, "dbname": "none"}))

    assert said == "Misconfigured: 127.0.0.1: the server answered 1049 (no such database)"


def test_an_expired_password_is_named(site: Site) -> None:
    name = unused_name("app")
    site.make(name, FIRST, options="PASSWORD EXPIRE")

    said = _why(site, site.credential(name, FIRST))

    assert said.startswith("Denied")
    assert "the password has expired" in said


def test_a_missing_privilege_changes_nothing(site: Site) -> None:
    weak, name = unused_name("weak"), unused_name("app")
    site.make(weak, FIRST)
    site.make(name, FIRST)
    second = Sensitive("Canary7-second")
    acts: list[Callable[[targets_mysql._Session], object]] = [
        lambda session: session.set_password(name, second),
        lambda session: session.check_dual(weak),
        lambda session: session.set_dual(weak, second, keep=Sensitive(FIRST)),
        lambda session: session.check_twin("x", like=name, owner=name, is_ours=lambda: True),
        lambda session: session.set_twin("x", second, like=name, owner=name),
    ]

    with _session(site, weak) as session:
        for act in acts:
            with pytest.raises(Denied):
                act(session)

    assert site.accepts(weak, FIRST)
    assert site.accepts(name, FIRST)
    assert site.rows("SELECT 1 FROM mysql.user WHERE User = 'x'") == []


def test_an_admin_that_may_not_look_is_denied_before_it_changes_anything(site: Site) -> None:
    """CREATE USER alone: whose accounts there are, it cannot see."""
    blind, name = unused_name("blind"), unused_name("app")
    made = site.make(blind, ADMIN)
    site.execute(f"GRANT CREATE USER ON *.* TO {made}")
    site.make(name, FIRST)

    with _session(site, blind, ADMIN) as session:
        for act in _acts_on(name):
            with pytest.raises(Denied, match="1142") as caught:
                act(session)
            assert "Privileges" in caught.value.remedy

    assert site.accepts(name, FIRST)
    assert site.rows("SELECT 1 FROM mysql.user WHERE User = 'x'") == []


def test_a_user_that_does_not_exist_is_named(site: Site) -> None:
    """And not made by the way."""
    admin, name = unused_name("admin"), unused_name("nobody")
    site.make_admin(admin, ADMIN)

    with _session(site, admin, ADMIN) as session:
        for act in _acts_on(name):
            with pytest.raises(Drifted, match=f"there is no user '{name}'") as caught:
                act(session)
            assert "Create" in caught.value.remedy

    users = site.rows("SELECT User FROM mysql.user")
    assert not {("x",), (name,)} & set(users)


def _acts_on(name: str) -> list[Callable[[targets_mysql._Session], object]]:
    second, first = Sensitive("Canary7-second"), Sensitive(FIRST)
    return [
        lambda session: session.set_password(name, second),
        lambda session: session.check_dual(name),
        lambda session: session.set_dual(name, second, keep=first),
        lambda session: session.check_twin("x", like=name, owner=name, is_ours=lambda: True),
        lambda session: session.set_twin("x", second, like=name, owner=name),
    ]


def test_a_replica_is_refused_before_anything_is_tried(site: Site) -> None:
    """An admin of it may write all the same: to a server that then differs from its writer."""
    name, admin = unused_name("app"), unused_name("admin")
    site.make(name, FIRST)
    made = site.make_admin(admin, ADMIN)
    right = "READ_ONLY ADMIN" if site.is_mariadb else "CONNECTION_ADMIN"
    site.execute(f"GRANT {right} ON *.* TO {made}", "SET GLOBAL read_only = ON")
    try:
        with _session(site, admin, ADMIN) as session:
            acts: list[Callable[[], None]] = [
                lambda: session.set_password(name, Sensitive("Canary7-second")),
                lambda: session.check_dual(name),
                lambda: session.check_twin("x", like=name, owner=name, is_ours=lambda: True),
            ]
            for act in acts:
                with pytest.raises(Misconfigured, match="read-only replica") as caught:
                    act()
                assert "writer" in caught.value.remedy
    finally:
        site.execute("SET GLOBAL read_only = OFF")

    assert site.accepts(name, FIRST)


def test_a_policy_that_refuses_the_value_asks_for_a_new_one(mysql: Site) -> None:
    """MySQL checks what a user without CREATE USER sends it. A hash it cannot check."""
    name = unused_name("app")
    mysql.execute("INSTALL COMPONENT 'file://component_validate_password'")
    try:
        mysql.make(name, FIRST)
        with _session(mysql, name) as session:
            with pytest.raises(Misconfigured, match="1819") as caught:
                session.set_password(name, Sensitive("weak"))
            assert "start a new one" in caught.value.remedy
            session.set_password(name, Sensitive("Canary7-Strong-1"))
    finally:
        mysql.execute("UNINSTALL COMPONENT 'file://component_validate_password'")

    assert mysql.accepts(name, "Canary7-Strong-1")


def test_a_policy_that_refuses_either_of_two_values_changes_nothing(mysql: Site) -> None:
    """The user shows both. An admin's hashes it does not check."""
    name, admin = unused_name("app"), unused_name("admin")
    made = mysql.make(name, FIRST)
    mysql.make_admin(admin, ADMIN)
    mysql.execute(f"GRANT APPLICATION_PASSWORD_ADMIN ON *.* TO {made}")
    weak, strong = Sensitive("canary7weak"), Sensitive("Canary7-Strong-1")
    mysql.execute("INSTALL COMPONENT 'file://component_validate_password'")
    try:
        for secret, keep in ((weak, strong), (strong, weak)):
            with _session(mysql, name) as session, pytest.raises(Misconfigured, match="1819"):
                session.set_dual(name, secret, keep=keep)
        assert mysql.accepts(name, FIRST)
        assert not mysql.accepts(name, "Canary7-Strong-1")
        with _session(mysql, admin, ADMIN) as session:
            session.set_dual(name, weak, keep=Sensitive(FIRST))
    finally:
        mysql.execute("UNINSTALL COMPONENT 'file://component_validate_password'")

    assert mysql.accepts(name, FIRST)
    assert mysql.accepts(name, "canary7weak")


@pytest.mark.parametrize(
    "option, right, expected",
    [
        ("PASSWORD REQUIRE CURRENT", "", "3892"),
        ("PASSWORD HISTORY 5", "APPLICATION_PASSWORD_ADMIN", "3638"),
    ],
)
def test_a_policy_for_those_who_show_their_password_is_named(
    mysql: Site, option: str, right: str, expected: str
) -> None:
    """Nothing has changed then. An admin, by hash, is not held to either."""
    name, admin = unused_name("app"), unused_name("admin")
    made = mysql.make(name, FIRST, options=option)
    mysql.make_admin(admin, ADMIN)
    second = Sensitive("Canary7-second")
    if right:
        mysql.execute(f"GRANT {right} ON *.* TO {made}")
    with _session(mysql, admin, ADMIN) as session:
        session.set_password(name, Sensitive(FIRST))

    with _session(mysql, name) as session, pytest.raises(KeyturnError, match=expected) as caught:
        session.set_password(name, second) if not right else _dual_twice(session, name)
    assert "admin" in caught.value.remedy
    assert mysql.accepts(name, FIRST)

    with _session(mysql, admin, ADMIN) as session:
        session.set_dual(name, second, keep=Sensitive(FIRST))
    assert mysql.accepts(name, FIRST)
    assert mysql.accepts(name, "Canary7-second")


def test_a_history_that_does_not_hold_the_password_to_keep_refuses_both(mysql: Site) -> None:
    """MySQL cannot note two in one statement; the next rotation would be refused anyway."""
    name = unused_name("app")
    made = mysql.make(name, FIRST)
    mysql.execute(
        f"GRANT APPLICATION_PASSWORD_ADMIN ON *.* TO {made}",
        f"ALTER USER {made} PASSWORD HISTORY 5",
    )

    with _session(mysql, name) as session, pytest.raises(Misconfigured, match="1062") as caught:
        session.set_dual(name, Sensitive("Canary7-second"), keep=Sensitive(FIRST))

    assert "admin" in caught.value.remedy
    assert mysql.accepts(name, FIRST)
    assert not mysql.accepts(name, "Canary7-second")


def _dual_twice(session: targets_mysql._Session, name: str) -> None:
    for _ in range(2):
        session.set_dual(name, Sensitive("Canary7-second"), keep=Sensitive(FIRST))


def test_a_server_that_checks_passwords_refuses_hashes_and_is_named(mariadb: Site) -> None:
    name, admin = unused_name("app"), unused_name("admin")
    mariadb.make(name, FIRST)
    mariadb.make_admin(admin, ADMIN)
    mariadb.execute("INSTALL SONAME 'simple_password_check'")
    try:
        for who, password in ((name, FIRST), (admin, ADMIN)):
            with (
                _session(mariadb, who, password) as session,
                pytest.raises(Misconfigured, match=r"1290|1396") as caught,
            ):
                session.set_password(name, Sensitive("Canary7-second"))
            assert "strict_password_validation=OFF" in caught.value.remedy
        with _session(mariadb, admin, ADMIN) as session:
            second, first = Sensitive("Canary7-second"), Sensitive(FIRST)
            with pytest.raises(Misconfigured, match=r"1290|1396"):
                session.set_dual(name, second, keep=first)
            with pytest.raises(Misconfigured, match=r"1290|1396"):
                session.set_twin("x", second, like=name, owner=name)
        assert mariadb.accepts(name, FIRST)
        assert mariadb.rows("SELECT 1 FROM mysql.user WHERE User = 'x'") == []
        mariadb.execute("SET GLOBAL strict_password_validation = OFF")
        with _session(mariadb, name) as session:
            session.set_password(name, Sensitive("Canary7-second"))
    finally:
        mariadb.execute(
            "SET GLOBAL strict_password_validation = ON", "UNINSTALL SONAME 'simple_password_check'"
        )

    assert mariadb.accepts(name, "Canary7-second")


def test_an_anonymous_user_that_is_taken_for_another_is_named(site: Site) -> None:
    """''@'127.0.0.1' comes before app@'%', and has the same password here."""
    name = unused_name("app")
    site.make(name, FIRST)
    shadow = site.make("", FIRST, "127.0.0.1")
    try:
        said = _why(site, site.credential(name, FIRST))
    finally:
        site.execute(f"DROP USER {shadow}")

    assert said.startswith("Drifted")
    assert f"takes '{name}' for '@127.0.0.1'" in said


def test_a_login_without_a_password_is_left_alone(mariadb: Site) -> None:
    """Who comes through a socket without one has nothing to rotate; dropping that is not ours."""
    name, admin = unused_name("app"), unused_name("admin")
    mariadb.execute(f"CREATE USER `{name}`@`%` {mariadb.identified(FIRST)} OR unix_socket")
    mariadb.make_admin(admin, ADMIN)

    with _session(mariadb, admin, ADMIN) as session:
        with pytest.raises(Unsupported, match="unix_socket"):
            session.check_dual(name)
        with pytest.raises(Unsupported, match="unix_socket"):
            session.set_password(name, Sensitive("x"))

    assert mariadb.accepts(name, FIRST)


@pytest.mark.parametrize("host", ["%", "127.0.0.1", "127.0.0.0/255.255.255.0"])
def test_the_account_that_matched_is_changed(site: Site, host: str) -> None:
    """A user may have others, for other hosts."""
    name = unused_name("app")
    site.make(name, FIRST, host)
    other = site.make(name, FIRST, "10.0.0.1")
    before = site.rows(f"SHOW CREATE USER {other}") if site.is_mariadb else []

    with _session(site, name) as session:
        session.set_password(name, Sensitive("Canary7-second"))

    assert site.accepts(name, "Canary7-second")
    assert not site.accepts(name, FIRST)
    if site.is_mariadb:
        assert site.rows(f"SHOW CREATE USER {other}") == before


def test_the_plug_in_is_kept(mariadb: Site) -> None:
    """An account of ed25519 stays one; its hash and its proof are made here."""
    name, admin, twin = unused_name("app"), unused_name("admin"), unused_name("twin")
    mariadb.execute("INSTALL SONAME 'auth_ed25519'")
    mariadb.execute(f"CREATE USER `{name}`@`%` {mariadb.identified(FIRST, 'ed25519')}")
    mariadb.make_admin(admin, ADMIN)

    with _session(mariadb, name) as session:
        session.set_password(name, Sensitive("Canary7-second"))
    with _session(mariadb, admin, ADMIN) as session:
        session.set_twin(twin, Sensitive("Canary7-twin"), like=name, owner=name)
        with pytest.raises(Unsupported, match="ed25519"):
            session.check_dual(name)

    assert not mariadb.accepts(name, FIRST)
    assert mariadb.accepts(name, "Canary7-second")
    assert mariadb.accepts(twin, "Canary7-twin")
    assert "ed25519" in str(mariadb.described(twin))


def test_a_unix_socket_is_a_place(site: Site) -> None:
    """Also for a password that the server has not seen yet."""
    name = unused_name("app")
    site.make(name, FIRST)
    login = replace(
        site.credential(name, FIRST), fields={"host": str(site.server.socket), "ssl": False}
    )

    assert _why(site, login) == "accepted"
    assert _why(site, replace(login, secret=Sensitive("wrong"))) == "refused"
    missing = {"host": str(site.server.folder / "none"), "ssl": False}
    assert _why(site, replace(login, fields=missing)).startswith("Unreachable")


# ---------------------------------------------------------------------------- time


def test_a_server_that_does_not_answer_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = {"host": "127.0.0.1", "port": silent.getsockname()[1], "ssl": False}
        started = time.monotonic()
        with (
            pytest.raises(Unreachable, match="in time"),
            MySql(Surroundings(lambda: 1.3)).login(Credential("app", Sensitive("x"), place)),
        ):
            pass

    assert time.monotonic() - started < 2


def test_with_no_time_left_nothing_is_begun(site: Site) -> None:
    with (
        pytest.raises(Unreachable, match="no time is left"),
        site.engine(0.5).login(site.credential("app", "x")),
    ):
        pass


def test_a_server_that_stalls_after_the_login_is_given_up_in_time(site: Site) -> None:
    name = unused_name("app")
    site.make(name, FIRST)
    go_on = threading.Event()

    def stall(number: int, moment: Moment) -> Verdict:
        del number, moment
        go_on.wait(3)
        return Verdict.PASS

    with Proxy(site.server.port) as proxy:
        login = site.credential(name, FIRST, port=proxy.port)
        with site.engine(1.5).login(login) as session:
            assert session is not None
            proxy.reset(stall)
            started = time.monotonic()
            with pytest.raises(Unreachable, match="in time"):
                session.set_password(name, Sensitive("Canary7-second"))
            took_s = time.monotonic() - started
            go_on.set()

    assert took_s < 2


@pytest.mark.parametrize("act", ["password", "dual", "twin"])
def test_a_change_that_comes_too_late_is_refused_by_the_server(
    site: Site, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    """A worker that stalled after its last look, until another rotation had come and gone."""
    name, admin = unused_name("app"), unused_name("admin")
    site.make(name, FIRST)
    site.make_admin(admin, ADMIN)
    second, first = Sensitive("Canary7-second"), Sensitive(FIRST)
    monkeypatch.setattr(targets_mysql, "ACT_WITHIN_S", 0.05)
    with _session(site, admin, ADMIN) as session:
        acts: dict[str, Callable[[], None]] = {
            "password": lambda: session.set_password(name, second),
            "dual": lambda: session.set_dual(name, second, keep=first),
            "twin": lambda: session.set_twin("late", second, like=name, owner=name),
        }
        time.sleep(0.1)
        with pytest.raises(Busy, match="too late"):
            acts[act]()

    assert site.accepts(name, FIRST)
    assert not site.accepts(name, "Canary7-second")
    assert site.rows("SELECT 1 FROM mysql.user WHERE User = 'late'") == []


def test_a_packet_that_is_held_up_on_the_way_changes_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker is gone; what it sent arrives later."""
    monkeypatch.setattr(targets_mysql, "ACT_WITHIN_S", 0.3)
    name = unused_name("app")
    site.make(name, FIRST)

    def hold(number: int, moment: Moment) -> Verdict:
        # The first looks, the second changes.
        return Verdict.HOLD if number == 2 and moment is Moment.BEFORE else Verdict.PASS

    with Proxy(site.server.port) as proxy:
        login = site.credential(name, FIRST, port=proxy.port)
        with site.engine().login(login) as session:
            assert session is not None
            proxy.reset(hold)
            with pytest.raises(Unreachable):
                session.set_password(name, Sensitive("Canary7-second"))
        time.sleep(0.4)
        assert proxy.release() == 1

    assert site.accepts(name, FIRST)


def test_a_lock_is_not_waited_for_longer_than_allowed(site: Site) -> None:
    """Whose owner dies meanwhile: a change must not come long after it."""
    name = unused_name("app")
    site.make(name, FIRST)
    holder = pymysql.connect(**site.server.superuser())
    with holder, holder.cursor() as cursor, _session(site, name) as session:
        cursor.execute("FLUSH TABLES WITH READ LOCK")
        started = time.monotonic()
        with pytest.raises(Unreachable, match=r"1205|1969"):
            session.set_password(name, Sensitive("Canary7-second"))
        took_s = time.monotonic() - started
        cursor.execute("UNLOCK TABLES")

    assert took_s < 5
    assert site.accepts(name, FIRST)


def test_concurrent_changes_of_one_user_all_succeed(site: Site) -> None:
    name, admin = unused_name("app"), unused_name("admin")
    site.make(name, FIRST)
    site.make_admin(admin, ADMIN)
    failures: list[KeyturnError] = []

    def change() -> None:
        try:
            for _ in range(5):
                with _session(site, admin, ADMIN) as session:
                    session.set_dual(name, Sensitive("Canary7-2"), keep=Sensitive(FIRST))
        except KeyturnError as error:
            failures.append(error)

    threads = [threading.Thread(target=change) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert site.accepts(name, FIRST)
    assert site.accepts(name, "Canary7-2")


# ---------------------------------------------------------------------------- members


UNSEEN = ["a\nb", "a\0b", "a\x1bb", "a\x7f", "a\u2028b", " a", "a "]


@pytest.mark.parametrize(
    "name, is_taken",
    [("x" * 128, True), ("x" * 129, False), ("ü" * 64, True), ("ü" * 65, False), ("", False)],
)
def test_names_are_measured_in_bytes(name: str, is_taken: bool) -> None:  # noqa: FBT001
    engine = MySql(Surroundings(lambda: 60.0))
    login = Credential(name, Sensitive("x"), {"host": "localhost", "ssl": False})

    if is_taken:
        assert engine.endpoint(login) == "localhost:3306/"
    else:
        with pytest.raises(Misconfigured, match="username"):
            engine.endpoint(login)


@pytest.mark.parametrize(
    "name", ["a\nb", "a\0b", "a\x1bb", "a\x7f", "a\u2028b", " a", "a "], ids=repr
)
def test_names_that_cannot_be_seen_are_refused(site: Site, name: str) -> None:
    """Before anything is sent, and before a user of that name is made."""
    admin = unused_name("admin")
    site.make_admin(admin, ADMIN)
    with pytest.raises(Misconfigured, match="username"):
        site.engine().endpoint(site.credential(name, FIRST))

    with _session(site, admin, ADMIN) as session, pytest.raises(Misconfigured, match="user"):
        session.check_twin(name, like=admin, owner="", is_ours=lambda: True)


def test_mysql_takes_shorter_names_for_new_users(mysql: Site) -> None:
    admin = unused_name("admin")
    mysql.make_admin(admin, ADMIN)

    with _session(mysql, admin, ADMIN) as session, pytest.raises(Misconfigured, match="32"):
        session.check_twin("x" * 33, like="x", owner="x", is_ours=lambda: True)


@pytest.mark.parametrize(
    "field, value",
    [
        ("host", None),
        ("host", 5),
        ("host", "a,b"),
        ("host", "a\nb"),
        ("port", "abc"),
        ("port", 0),
        ("port", 65536),
        ("port", True),
        ("dbname", ["x"]),
        ("dbname", "x" * 65),
        ("dbname", "a\u0000b"),
        ("ssl", "yes"),
    ],
)
def test_a_bad_member_is_named(field: str, value: object) -> None:
    fields: dict[str, object] = {"host": "localhost", "ssl": False, field: value}
    if value is None:
        del fields[field]

    with pytest.raises(Misconfigured, match=field):
        MySql(Surroundings(lambda: 60.0)).endpoint(Credential("app", Sensitive("x"), fields))
