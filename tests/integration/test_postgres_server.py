"""What PostgreSQL itself sees and keeps: logs, views, ownership, limits, and how it refuses."""

from __future__ import annotations

import logging
import multiprocessing
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest
from psycopg import sql

from conftest import need
from databases import (
    credential,
    execute,
    make_admin,
    make_login,
    plenty_of_time,
    rows,
    set_in_another_process,
    unused_name,
)
from keyturn.errors import Busy, Denied, Drifted, KeyturnError, Misconfigured, Unreachable
from keyturn.local.postgres import Postgres as Server
from keyturn.local.postgres import find_system
from keyturn.model import Credential, Sensitive, Surroundings
from keyturn.targets import postgres as targets_postgres
from keyturn.targets.postgres import Postgres

CANARY = "Canary7-" + "postgres"


def _engine() -> Postgres:
    return Postgres(plenty_of_time())


def _login(login: Credential, query: str) -> list[tuple[object, ...]]:
    """Do something as an application would."""
    with psycopg.connect(
        host="127.0.0.1",
        port=int(str(login.fields["port"])),
        dbname=str(login.fields["dbname"]),
        user=login.principal,
        password=login.secret.reveal(),
        autocommit=True,
    ) as connection:
        done = connection.execute(query.encode())
        return done.fetchall() if done.description else []


# ---------------------------------------------------------------------------- leaks


def test_no_generated_password_reaches_log_or_view(
    system_postgres: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """P6, with log_statement=all and pg_stat_statements, failing statements included."""
    server = system_postgres
    caplog.set_level(logging.DEBUG)
    name, admin = unused_name("app"), unused_name("admin")
    make_login(server, name, "first")
    make_admin(server, admin, "admin", name)
    execute(server, "CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
    with _engine().login(credential(server, name, "first")) as session:
        assert session is not None
        session.set_password(name, Sensitive(f"{CANARY}-1"))
        with pytest.raises(Denied):
            session.set_password(admin, Sensitive(f"{CANARY}-2"))
        with pytest.raises(Drifted):
            session.set_password("nobody_of_that_name", Sensitive(f"{CANARY}-3"))
    with _engine().login(credential(server, admin, "admin")) as session:
        assert session is not None
        session.set_twin(f"{name}_clone", Sensitive(f"{CANARY}-4"), like=name, owner=name)
        with pytest.raises(Drifted):
            session.set_twin("x", Sensitive(f"{CANARY}-5"), like=name, owner="nobody_of_that_name")

    log = server.log_text()
    views = "\n".join(
        str(row)
        for view in ("pg_stat_statements", "pg_stat_activity")
        for row in rows(server, f"SELECT query FROM {view}")  # noqa: S608  # two literals
    )
    assert f'ALTER ROLE "{name}"' in log
    assert "ALTER ROLE" in views
    assert CANARY not in log
    assert CANARY not in views
    assert CANARY not in caplog.text


# ---------------------------------------------------------------------------- pairs


@pytest.fixture(params=["wheel", "debian"])
def server(request: pytest.FixtureRequest) -> Server:
    """PostgreSQL before and after version 16, which changed what CREATEROLE may do."""
    if request.param == "debian":
        need(present=find_system() is not None, what="PostgreSQL", install="apt install postgresql")
    made: Server = request.getfixturevalue(
        "postgres" if request.param == "wheel" else "system_postgres"
    )
    return made


@pytest.fixture
def pair(server: Server) -> Iterator[tuple[Server, str, str, str, str]]:
    """An owner that cannot log in, one login of it, the name of its twin, and an admin."""
    owner, first = unused_name("owner"), unused_name("a")
    twin, admin = unused_name("b"), unused_name("admin")
    execute(server, "CREATE ROLE {} NOLOGIN", owner)
    execute(server, "GRANT CREATE ON SCHEMA public TO {}", owner)
    make_login(server, first, "first")
    execute(server, "GRANT {} TO {}", owner, first)
    execute(server, "ALTER ROLE {} SET role TO {}", first, owner)
    make_admin(server, admin, "admin", owner, first)
    yield server, owner, first, twin, admin
    execute(server, "DROP OWNED BY {}", owner)


def _turn(server: Server, admin: str, twin: str, like: str, owner: str) -> Credential:
    with _engine().login(credential(server, admin, "admin")) as session:
        assert session is not None
        session.check_twin(twin, like=like, owner=owner, is_ours=lambda: False)
        session.set_twin(twin, Sensitive("turned"), like=like, owner=owner)
    return credential(server, twin, "turned")


def test_what_either_login_makes_stays_usable_by_both(
    pair: tuple[Server, str, str, str, str],
) -> None:
    """The official template's clone owns what it makes, and its twin is refused."""
    server, owner, first, twin, admin = pair
    old = credential(server, first, "first")
    new = _turn(server, admin, twin, first, owner)
    table, other = unused_name("t"), unused_name("t")

    _login(old, f"CREATE TABLE {table} (n int)")
    _login(new, f"ALTER TABLE {table} ADD COLUMN m int")
    _login(new, f"CREATE TABLE {other} (n int)")
    back = _turn(server, admin, first, twin, owner)
    _login(back, f"DROP TABLE {other}")
    _login(new, f"DROP TABLE {table}")

    assert _login(new, "SELECT current_user") == _login(back, "SELECT current_user") == [(owner,)]


def test_limits_and_settings_follow_and_are_taken_away_again(
    pair: tuple[Server, str, str, str, str],
) -> None:
    server, owner, first, twin, admin = pair
    execute(server, "ALTER ROLE {} CONNECTION LIMIT 7", first)
    execute(server, "ALTER ROLE {} SET search_path TO \"$user\", 'odd, name', public", first)
    execute(server, "ALTER ROLE {} SET application_name TO 'it''s'", first)
    execute(server, "ALTER ROLE {} IN DATABASE postgres SET work_mem TO '7MB'", first)
    execute(server, "ALTER ROLE {} SET statement_timeout TO '1ms'", first)
    _turn(server, admin, twin, first, owner)

    assert _account(server, twin) == _account(server, first)

    execute(server, "ALTER ROLE {} RESET application_name", first)
    execute(server, "ALTER ROLE {} IN DATABASE postgres RESET ALL", first)
    _turn(server, admin, twin, first, owner)

    assert _account(server, twin) == _account(server, first)


def test_a_setting_that_only_a_superuser_may_copy_is_denied_until_both_have_it(
    pair: tuple[Server, str, str, str, str],
) -> None:
    server, owner, first, twin, admin = pair
    execute(server, "ALTER ROLE {} SET my.setting TO 'x'", first)

    with pytest.raises(Denied):
        _turn(server, admin, twin, first, owner)

    execute(server, "ALTER ROLE {} RESET my.setting", first)
    _turn(server, admin, twin, first, owner)
    for name in (first, twin):
        execute(server, "ALTER ROLE {} SET my.setting TO 'x'", name)
    _turn(server, admin, twin, first, owner)


def _account(server: Server, name: str) -> object:
    settings = rows(
        server,
        "SELECT setdatabase, unnest(setconfig) FROM pg_db_role_setting"
        " JOIN pg_roles r ON r.oid = setrole WHERE rolname = %s",
        name,
    )
    limits = rows(
        server,
        "SELECT rolconnlimit, rolcanlogin, rolsuper, rolcreaterole, rolcreatedb, rolinherit"
        " FROM pg_roles WHERE rolname = %s",
        name,
    )
    return sorted(map(str, settings)), limits


def test_a_twin_in_use_elsewhere_is_not_taken_over(pair: tuple[Server, str, str, str, str]) -> None:
    server, owner, first, twin, admin = pair
    make_login(server, twin, "theirs")

    with pytest.raises(Drifted, match=twin):
        _turn(server, admin, twin, first, owner)

    assert _login(credential(server, twin, "theirs"), "SELECT 1") == [(1,)]


def test_a_superuser_is_never_a_twin(pair: tuple[Server, str, str, str, str]) -> None:
    server, owner, first, twin, admin = pair
    execute(server, "CREATE ROLE {} SUPERUSER", twin)
    execute(server, "GRANT {} TO {}", owner, twin)

    with pytest.raises(Drifted, match=twin):
        _turn(server, admin, twin, first, owner)


def test_an_admin_without_the_privilege_is_denied_before_anything_changes(
    pair: tuple[Server, str, str, str, str],
) -> None:
    server, owner, first, twin, _ = pair
    weak = unused_name("weak")
    make_login(server, weak, "admin")

    with pytest.raises(Denied, match=owner):
        _turn(server, weak, twin, first, owner)

    assert rows(server, "SELECT 1 FROM pg_roles WHERE rolname = %s", twin) == []


# ---------------------------------------------------------------------------- refusals


def _why(login: Credential) -> KeyturnError | None:
    try:
        with _engine().login(login) as session:
            return None if session else KeyturnError("refused", remedy="")
    except KeyturnError as error:
        return error


def test_what_went_wrong_is_told_apart(postgres: Server) -> None:
    """Down, unknown name, full, no such database, no privilege, wrong password: six answers."""
    name, full = unused_name("app"), unused_name("full")
    make_login(postgres, name, "right")
    make_login(postgres, full, "right")
    execute(postgres, "ALTER ROLE {} CONNECTION LIMIT 0", full)
    closed = unused_name("closed")
    execute(postgres, "CREATE DATABASE {}", closed)
    execute(postgres, "REVOKE CONNECT ON DATABASE {} FROM PUBLIC", closed)
    login = credential(postgres, name, "right")

    def changed(**fields: object) -> Credential:
        return replace(login, fields={**login.fields, **fields})

    answers = {
        "right": _why(login),
        "wrong password": _why(replace(login, secret=Sensitive("wrong"))),
        "down": _why(changed(port=1)),
        "unknown host": _why(changed(host="no-such-host.invalid", ssl=None)),
        "no database": _why(changed(dbname="none")),
        "no injection": _why(changed(dbname="postgres sslmode=disable")),
        "no privilege": _why(changed(dbname=closed)),
        "full": _why(replace(login, principal=full)),
    }

    said = {key: f"{type(answer).__name__}: {answer}" for key, answer in answers.items()}
    assert said["right"] == "NoneType: None"
    assert said["wrong password"] == "KeyturnError: refused"
    assert said["down"].startswith("Unreachable: 127.0.0.1: the server refuses connections")
    assert said["unknown host"].startswith(
        "Unreachable: no-such-host.invalid: the host name has no"
    )
    assert (
        said["no database"]
        == "Misconfigured: 127.0.0.1: the server answered 3D000 (InvalidCatalogName)"
    )
    assert said["no injection"] == said["no database"]
    assert said["no privilege"].startswith("Denied: 127.0.0.1: the server answered 42501")
    assert said["full"].startswith("Unreachable: 127.0.0.1: the server answered 53300")


def test_a_server_that_does_not_answer_is_given_up_in_time() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        login = Credential(
            "app",
            Sensitive("x"),
            {"host": "127.0.0.1", "port": silent.getsockname()[1], "ssl": False},
        )
        started = time.monotonic()
        with (
            pytest.raises(Unreachable, match="in time"),
            Postgres(Surroundings(lambda: 1.3)).login(login),
        ):
            pass

    assert time.monotonic() - started < 2


def test_with_no_time_left_nothing_is_begun(postgres: Server) -> None:
    with (
        pytest.raises(Unreachable, match="no time is left"),
        Postgres(Surroundings(lambda: 0.5)).login(credential(postgres, "app", "x")),
    ):
        pass


def test_a_read_only_server_is_named(postgres: Server) -> None:
    name = unused_name("app")
    make_login(postgres, name, "first")
    execute(postgres, "ALTER ROLE {} SET default_transaction_read_only TO on", name)

    with _engine().login(credential(postgres, name, "first")) as session:
        assert session is not None
        with pytest.raises(Misconfigured, match="25006"):
            session.set_password(name, Sensitive("second"))


# ---------------------------------------------------------------------------- races


def test_concurrent_changes_of_one_role_all_succeed(postgres: Server) -> None:
    """XX000 "tuple concurrently updated" is tried again: 575 of 800 fail otherwise."""
    name = unused_name("app")
    make_login(postgres, name, "same")
    failures: list[KeyturnError] = []

    def change() -> None:
        try:
            for _ in range(10):
                with _engine().login(credential(postgres, name, "same")) as session:
                    assert session is not None
                    session.set_password(name, Sensitive("same"))
        except KeyturnError as error:
            failures.append(error)

    threads = [threading.Thread(target=change) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []


def test_a_lock_is_not_waited_for_longer_than_allowed(postgres: Server) -> None:
    name = unused_name("app")
    make_login(postgres, name, "first")
    with psycopg.connect(**postgres.superuser()) as holder:
        holder.execute(sql.SQL("ALTER ROLE {} CONNECTION LIMIT 9").format(sql.Identifier(name)))
        with Postgres(Surroundings(lambda: 1.5)).login(
            credential(postgres, name, "first")
        ) as session:
            assert session is not None
            with pytest.raises(Unreachable, match=r"55P03|57014"):
                session.set_password(name, Sensitive("second"))

    assert _why(credential(postgres, name, "first")) is None


def test_a_change_that_comes_too_late_is_refused_by_the_server(
    postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that stalled after its last look, until another rotation had come and gone."""
    monkeypatch.setattr(targets_postgres, "ACT_WITHIN_S", 0.05)
    name = unused_name("app")
    make_login(postgres, name, "first")

    with _engine().login(credential(postgres, name, "first")) as session:
        assert session is not None
        time.sleep(0.1)
        with pytest.raises(Busy, match="too late"):
            session.set_password(name, Sensitive("second"))

    assert _why(credential(postgres, name, "first")) is None


@pytest.mark.parametrize("style", ["German, DMY", "SQL, MDY", "Postgres, DMY"])
def test_a_login_with_another_style_of_dates_is_rotated(postgres: Server, style: str) -> None:
    """psycopg cannot read every DateStyle, and a login may have any."""
    name = unused_name("app")
    make_login(postgres, name, "first")
    execute(postgres, f"ALTER ROLE {{}} SET DateStyle TO '{style}'", name)
    execute(postgres, "ALTER ROLE {} SET lc_numeric TO 'C'", name)

    with _engine().login(credential(postgres, name, "first")) as session:
        assert session is not None
        session.set_password(name, Sensitive("second"))

    assert _why(credential(postgres, name, "second")) is None


@pytest.mark.parametrize("ends", ["commit", "rollback"])
def test_a_worker_killed_while_it_waits_for_a_lock_changes_nothing_later(
    server: Server, ends: str
) -> None:
    """The server would give a dead client's change effect when the lock is released."""
    name = unused_name("app")
    make_login(server, name, "first")
    login = credential(server, name, "first")
    with psycopg.connect(**server.superuser()) as holder:
        holder.execute(sql.SQL("ALTER ROLE {} CONNECTION LIMIT 9").format(sql.Identifier(name)))
        worker = multiprocessing.get_context("spawn").Process(
            target=set_in_another_process, args=[login.document.reveal(), "second"]
        )
        worker.start()
        _wait_for_a_lock(server, name)
        worker.kill()
        worker.join()
        time.sleep(0.5)
        holder.execute("COMMIT" if ends == "commit" else "ROLLBACK")

    time.sleep(0.2)
    assert _why(login) is None
    assert _why(replace(login, secret=Sensitive("second"))) is not None


def _wait_for_a_lock(server: Server, name: str) -> None:
    query = "SELECT 1 FROM pg_stat_activity WHERE usename = %s AND wait_event_type = 'Lock'"
    deadline = time.monotonic() + 20
    while not rows(server, query, name):
        assert time.monotonic() < deadline, "nobody waits"
        time.sleep(0.02)


@pytest.mark.parametrize(
    "name", ['quo"te', "sp ace", "semi;colon", "per%cent", "%s", "{x}", "ünïcode", "a'b", "$1", "A"]
)
def test_hostile_names_are_quoted(postgres: Server, name: str) -> None:
    name = unused_name(name)
    make_login(postgres, name, "first")

    with _engine().login(credential(postgres, name, "first")) as session:
        assert session is not None
        session.set_password(name, Sensitive("second"))

    assert _why(credential(postgres, name, "second")) is None


@pytest.mark.parametrize(
    "name, is_taken", [("x" * 63, True), ("x" * 64, False), ("ü" * 31, True), ("ü" * 32, False)]
)
def test_names_are_measured_in_bytes(name: str, is_taken: bool) -> None:  # noqa: FBT001
    login = Credential(name, Sensitive("x"), {"host": "localhost", "ssl": False})

    if is_taken:
        assert _engine().endpoint(login) == "localhost:5432/postgres"
    else:
        with pytest.raises(Misconfigured, match="63 bytes"):
            _engine().endpoint(login)


@pytest.mark.parametrize(
    "field, value",
    [
        ("host", None),
        ("host", 5),
        ("host", ""),
        ("host", "a,b"),
        ("host", "a b"),
        ("host", "@abstract"),
        ("host", "a\nb"),
        ("host", "h" * 256),
        ("port", "abc"),
        ("port", 0),
        ("port", 65536),
        ("port", True),
        ("port", 5.5),
        ("port", []),
        ("port", "5432 "),
        ("port", float("inf")),
        ("dbname", ["x"]),
        ("dbname", "x" * 64),
        ("dbname", "a\u0000b"),
    ],
)
def test_a_bad_member_is_named(field: str, value: object) -> None:
    fields: dict[str, object] = {"host": "localhost", "ssl": False, field: value}
    if value is None:
        del fields[field]

    with pytest.raises(Misconfigured, match=field):
        _engine().endpoint(Credential("app", Sensitive("x"), fields))
