"""Servers and clouds for the tests. Each is started here, on loopback, and stopped here."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from hypothesis import settings

from keyturn.local.aws import LocalAws
from keyturn.local.mariadb import Install, MariaDb, find_mariadb, find_mysql
from keyturn.local.postgres import Postgres, find_system, system
from keyturn.local.redis import Redis, find
from keyturn.testing.certificates import Authority
from mysql_accounts import Site

pytest_plugins = ["canary", "pytester"]

settings.register_profile("proof", max_examples=10_000)

REQUIRE_SERVERS = os.environ.get("KEYTURN_REQUIRE_SERVERS") == "1"


def need(*, present: bool, what: str, install: str) -> None:
    """Skip with a line that says what to install; where servers are required, fail."""
    if present:
        return
    message = f"needs {what}: {install}"
    if REQUIRE_SERVERS:
        pytest.fail(message)
    pytest.skip(message)


def _search(text: str) -> None:
    """Let the canary read what a server wrote about us."""
    from canary import check  # pytest wants to load its plugin itself, first

    check(text, "the database server's log")


@pytest.fixture(autouse=True)
def _environment_of_a_stranger(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the cloud, the database or the settings of whoever runs it."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "GOOGLE_", "KEYTURN_", "PG")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it keeps the first credentials it saw


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL from the wheel: no TLS."""
    with Postgres() as server:
        yield server
        _search(server.log_text())


@pytest.fixture(scope="session")
def system_postgres() -> Iterator[Postgres]:
    """Debian's PostgreSQL: with TLS and extensions, and a log of every statement."""
    need(present=find_system() is not None, what="PostgreSQL", install="apt install postgresql")
    with Postgres(
        binaries=system(),
        settings={
            "log_statement": "all",
            "shared_preload_libraries": "pg_stat_statements",
            "pg_stat_statements.track_utility": "on",
        },
    ) as server:
        yield server
        _search(server.log_text())


UNPACKED_MYSQL = Path(__file__).parents[1] / ".mysql"
"""Where `.ci/unpack-mysql` puts a MySQL: the distribution that we test on has none."""


@pytest.fixture(scope="session")
def mariadb() -> Iterator[Site]:
    """Debian's MariaDB, with TLS and every log there is."""
    need(present=find_mariadb() is not None, what="MariaDB", install="apt install mariadb-server")
    yield from _site(find_mariadb())


@pytest.fixture(scope="session")
def mysql() -> Iterator[Site]:
    """Oracle's MySQL, the same."""
    found = find_mysql(UNPACKED_MYSQL) or find_mysql()
    need(present=found is not None, what="MySQL", install=f".ci/unpack-mysql {UNPACKED_MYSQL.name}")
    yield from _site(found)


@pytest.fixture(params=["mariadb", "mysql"])
def site(request: pytest.FixtureRequest) -> Site:
    """Each of the two."""
    made: Site = request.getfixturevalue(request.param)
    return made


def _site(install: Install | None) -> Iterator[Site]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # for the server's user, unlike pytest's own
        authority = Authority(folder, "ours")
        issued = authority.issue("127.0.0.1")
        settings = {
            "ssl-cert": str(issued.certificate),
            "ssl-key": str(issued.key),
            "general-log": "ON",
            "slow-query-log": "ON",
            "long-query-time": "0",
            "log-bin": "bin",
            "server-id": "1",
            "performance-schema": "ON",
            "performance-schema-consumer-events-statements-history-long": "ON",
        }
        with MariaDb(install, settings=settings) as server:
            made = Site(server, authority.file)
            yield made
            _search(made.logs())


@pytest.fixture(scope="session")
def redis() -> Iterator[Redis]:
    """The system's Redis, which keeps its users in an aclfile."""
    need(present=find() is not None, what="Redis", install="apt install redis-server")
    with Redis(settings={"slowlog-log-slower-than": "0", "loglevel": "debug"}) as server:
        yield server
        _search(server.log_text())


@pytest.fixture(scope="session")
def aws() -> Iterator[LocalAws]:
    """A faithful AWS on moto."""
    with LocalAws(region="eu-west-1") as running:
        yield running
