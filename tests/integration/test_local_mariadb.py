"""The local MariaDB and MySQL: real logins, over the wire, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pymysql
import pytest

from conftest import need
from keyturn.errors import Misconfigured
from keyturn.local import mariadb as local_mariadb
from keyturn.local.mariadb import MariaDb, find_mariadb, find_mysql
from mysql_accounts import Site

AS_ROOT = os.geteuid() == 0


@pytest.fixture(autouse=True)
def _installed() -> None:
    need(present=find_mariadb() is not None, what="MariaDB", install="apt install mariadb-server")


def test_the_superuser_is_refused_over_tcp(site: Site) -> None:
    with pytest.raises(pymysql.OperationalError) as refused:
        pymysql.connect(host=site.server.host, port=site.server.port, user="root")

    assert refused.value.args[0] in {1045, 1130, 1698}


def test_the_superusers_socket_is_in_a_folder_that_only_its_owner_enters(site: Site) -> None:
    assert site.server.socket.parent.stat().st_mode & 0o777 == 0o700
    assert site.rows("SELECT CURRENT_USER()") == [("root@localhost",)]


@pytest.mark.skipif(not AS_ROOT, reason="is about root")
def test_root_starts_it_as_nobody(site: Site) -> None:
    assert (site.server.folder / "data").owner() == "nobody"


def test_a_start_is_quick_and_a_stop_leaves_nothing() -> None:
    server = MariaDb()
    server.start()
    folder = server.folder

    server.stop()

    assert not folder.exists()
    server.stop()  # repeatable


def test_a_restart_keeps_the_data_and_the_port() -> None:
    with MariaDb() as server:
        port = server.port
        with pymysql.connect(**server.superuser()) as connection, connection.cursor() as cursor:
            cursor.execute("CREATE DATABASE kept")

        server.restart()

        assert server.port == port
        with pymysql.connect(**server.superuser()) as connection, connection.cursor() as cursor:
            assert cursor.execute("SHOW DATABASES LIKE 'kept'") == 1


def test_a_setting_that_is_wrong_is_named() -> None:
    with pytest.raises(Misconfigured, match="did not start"):
        MariaDb(settings={"no-such-option": "1"}).start()


def test_a_server_that_is_not_started_says_so() -> None:
    with pytest.raises(Misconfigured, match="not running"):
        MariaDb().superuser()


def test_a_folder_without_a_mysql_is_none(tmp_path: Path) -> None:
    assert find_mysql(tmp_path) is None


def test_it_ends_with_a_starter_that_is_killed() -> None:
    sources = str(Path(local_mariadb.__file__).parents[2])
    program = (
        "import time\nfrom keyturn.local.mariadb import MariaDb\nserver = MariaDb()\n"
        "server.start()\nprint(server.folder, flush=True)\ntime.sleep(60)\n"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": sources},
    )
    assert starter.stdout is not None
    with starter.stdout:
        folder = Path(starter.stdout.readline().strip())
    assert folder.exists()

    starter.send_signal(signal.SIGKILL)
    starter.wait()

    deadline = time.monotonic() + 10
    while folder.exists():
        assert time.monotonic() < deadline, "it is still there"
        time.sleep(0.05)
