"""The local PostgreSQL: real logins, over the wire."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from conftest import need
from keyturn.errors import Misconfigured
from keyturn.local import postgres as local_postgres
from keyturn.local.postgres import Postgres, find_system, system, wheel

AS_ROOT = os.geteuid() == 0
NOBODY = pwd.getpwnam("nobody")


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with Postgres() as started:
        yield started


@pytest.fixture
def user(server: Postgres) -> Iterator[str]:
    with psycopg.connect(**server.superuser(), autocommit=True) as connection:
        connection.execute("CREATE ROLE somebody LOGIN PASSWORD 'right'")
        yield "somebody"
        connection.execute("DROP ROLE somebody")


def log_in(server: Postgres, user: str, password: str) -> str:
    with psycopg.connect(
        host=server.host, port=server.port, user=user, password=password, dbname="postgres"
    ) as connection:
        row = connection.execute("SELECT current_user").fetchone()
        return str(row and row[0])


def test_a_password_logs_in_over_tcp(server: Postgres, user: str) -> None:
    assert log_in(server, user, "right") == user


def test_a_wrong_password_does_not_log_in(server: Postgres, user: str) -> None:
    with pytest.raises(psycopg.OperationalError) as refused:
        log_in(server, user, "wrong")

    assert "password authentication failed" in str(refused.value)


def test_passwords_are_kept_as_scram_verifiers(server: Postgres, user: str) -> None:
    with psycopg.connect(**server.superuser()) as connection:
        row = connection.execute(
            "SELECT rolpassword FROM pg_authid WHERE rolname = %s", [user]
        ).fetchone()

    assert str(row and row[0]).startswith("SCRAM-SHA-256$")


def test_the_superuser_is_refused_over_tcp(server: Postgres) -> None:
    with pytest.raises(psycopg.OperationalError) as refused:
        log_in(server, "postgres", "anything")

    assert "rejects connection" in str(refused.value)


def test_the_superusers_socket_is_in_a_folder_that_only_its_owner_enters(server: Postgres) -> None:
    assert server.folder.stat().st_mode & 0o777 == 0o700
    assert server.socket_folder.stat().st_mode & 0o777 == 0o700


def test_another_user_cannot_use_the_socket_without_a_password(server: Postgres, user: str) -> None:
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(
            host=str(server.socket_folder), port=server.port, user=user, dbname="postgres"
        )


def test_the_log_can_be_read(server: Postgres) -> None:
    with psycopg.connect(**server.superuser()) as connection, pytest.raises(psycopg.Error):
        connection.execute("SELECT no_such_column")

    assert "no_such_column" in server.log_text()


def test_a_start_takes_less_than_two_seconds_and_a_stop_leaves_nothing() -> None:
    begin = time.process_time()
    server = Postgres()
    server.start()
    folder, pid = server.folder, postmaster(server)

    server.stop()

    assert time.process_time() - begin < 2
    assert not folder.exists()
    assert not is_running(pid)
    server.stop()  # repeatable


def test_a_server_that_is_not_started_says_so() -> None:
    with pytest.raises(Misconfigured):
        Postgres().superuser()


def test_a_restart_keeps_the_data_and_the_port() -> None:
    with Postgres() as server:
        port = server.port
        with psycopg.connect(**server.superuser(), autocommit=True) as connection:
            connection.execute("CREATE TABLE kept ()")

        server.restart()

        assert server.port == port
        with psycopg.connect(**server.superuser()) as connection:
            connection.execute("SELECT FROM kept")


def test_settings_and_access_rules_are_taken_before_ours() -> None:
    with Postgres(
        settings={"log_statement": "all"}, hba=["host all open 127.0.0.1/32 trust"]
    ) as server:
        with psycopg.connect(**server.superuser(), autocommit=True) as connection:
            connection.execute("CREATE ROLE open LOGIN")

        log_in(server, "open", "")

        assert "CREATE ROLE open LOGIN" in server.log_text()


def test_a_wrong_setting_is_named() -> None:
    with pytest.raises(Misconfigured) as refused:
        Postgres(settings={"no_such_setting": "1"}).start()

    assert "no_such_setting" in str(refused.value) or "configuration" in str(refused.value)


def test_a_folder_without_postgres_is_refused(tmp_path: Path) -> None:
    server = Postgres(binaries=tmp_path)

    with pytest.raises(Misconfigured):
        server.start()

    with pytest.raises(Misconfigured):
        _ = server.folder


def test_the_systems_own_postgres_can_be_used() -> None:
    need(present=find_system() is not None, what="PostgreSQL", install="apt install postgresql")

    with (
        Postgres(binaries=system()) as server,
        psycopg.connect(**server.superuser()) as connection,
    ):
        assert connection.info.server_version // 10000 == int(system().parent.name)


@pytest.mark.skipif(not AS_ROOT, reason="needs root: only root runs the server as another user")
def test_binaries_that_the_servers_user_cannot_reach_are_copied(tmp_path: Path) -> None:
    """pytest's own temporary folder is closed to others, as /root is."""
    tmp_path.chmod(0o700)
    package = wheel().parents[1]
    skip = shutil.ignore_patterns("include", "*.a", "pginstall")
    for folder in (package, package.with_name(f"{package.name}.libs")):
        shutil.copytree(folder, tmp_path / folder.name, ignore=skip)

    with Postgres(binaries=tmp_path / package.name / "pginstall18" / "bin") as server:
        assert (server.folder / "install").is_dir()


@pytest.mark.skipif(not AS_ROOT, reason="needs root: everybody else does it in every test")
def test_an_ordinary_user_can_run_it() -> None:
    script = f"""
import os, encodings.idna, psycopg, shutil, tempfile
from keyturn.local.postgres import Postgres
os.setgroups([]); os.setgid({NOBODY.pw_gid}); os.setuid({NOBODY.pw_uid})
with Postgres() as server, psycopg.connect(**server.superuser()) as connection:
    assert connection.execute("SELECT 1").fetchone() == (1,)
"""

    done = run_python(script)

    assert done.returncode == 0, done.stderr


def test_it_dies_with_the_process_that_started_it() -> None:
    script = """
import os, signal
from keyturn.local.postgres import Postgres
server = Postgres()
server.start()
pid = (server.folder / "data/postmaster.pid").read_text().splitlines()[0]
print(pid, server.folder, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""

    done = run_python(script)

    pid, folder = done.stdout.split()
    assert done.returncode == -signal.SIGKILL
    until(lambda: not Path(folder).exists() and not is_running(int(pid)))


def run_python(script: str) -> subprocess.CompletedProcess[str]:
    sources = str(Path(local_postgres.__file__).parents[2])
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": sources},
    )


def postmaster(server: Postgres) -> int:
    return int((server.folder / "data" / "postmaster.pid").read_text().splitlines()[0])


def is_running(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits to be collected does not."""
    done = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)],  # noqa: S607  # wherever ps is
        capture_output=True,
        text=True,
        check=False,
    )
    return bool(done.stdout.strip()) and not done.stdout.startswith("Z")


def until(condition: object, limit_s: float = 20) -> None:
    assert callable(condition)
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
