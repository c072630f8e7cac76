"""What a laboratory tells is how it is, not what is about to be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pymysql
import pytest
from pymysql.constants import CLIENT

from conftest import need
from keyturn.model import Sensitive
from keyturn.targets import mysql_hashes
from keyturn.targets.mysql_sql import Sql, sql
from keyturn.testing.bench_aws import AwsVault
from keyturn.testing.faults import Moment, Proxy, Verdict
from keyturn.testing.laboratories.mysql import MariaDbSingleUser

NEW = "Canary7-new"
CHANGE = sql("DO 1; DO SLEEP(0.5); SET PASSWORD = '{}'", Sql(mysql_hashes.native(Sensitive(NEW))))


@pytest.fixture(scope="module")
def opened() -> Iterator[MariaDbSingleUser]:
    """MySQL's is the same code."""
    laboratory = MariaDbSingleUser
    need(present=laboratory.is_available(), what=laboratory.SERVER, install=laboratory.INSTALL)
    with laboratory() as opened:
        yield opened


def test_it_waits_for_the_rest_of_a_packet(opened: MariaDbSingleUser) -> None:
    """A server that has answered a packet's first statement is busy with the others.

    A look is many logins. If the change came between two, every password would seem to be refused.
    """
    accepted: list[bool] = []

    with Proxy(opened.server_port) as proxy:
        document = json.loads(opened.furnish(AwsVault(), proxy.port).document)
        new = json.dumps({**document, "password": NEW})

        def look(number: int, moment: Moment) -> Verdict:
            del number
            if moment is Moment.AFTER:
                accepted.append(opened.accepts(new))
            return Verdict.PASS

        with pymysql.connect(
            host=proxy.host,
            port=proxy.port,
            user=document["username"],
            password=document["password"],
            ssl_disabled=True,
            client_flag=CLIENT.MULTI_STATEMENTS,
        ) as line:
            proxy.reset(look)
            line.query(CHANGE)
            while line.next_result():
                pass

    assert accepted == [True]


def test_it_is_looked_at_from_many_threads(opened: MariaDbSingleUser) -> None:
    """The proxy's look while the test does, and one connection serves one at a time."""
    document = opened.furnish(AwsVault(), opened.server_port).document

    with ThreadPoolExecutor(4) as pool:
        accepted = list(pool.map(opened.accepts, [document] * 400))

    assert accepted == [True] * 400
