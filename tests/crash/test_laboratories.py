"""What a laboratory tells is how it is, not what is about to be."""

from __future__ import annotations

import json

import pymysql
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


def test_it_waits_for_the_rest_of_a_packet() -> None:
    """A server that has answered a packet's first statement is busy with the others.

    A look is many logins. If the change came between two, every password would seem to be refused.
    """
    laboratory = MariaDbSingleUser
    need(present=laboratory.is_available(), what=laboratory.SERVER, install=laboratory.INSTALL)
    accepted: list[bool] = []

    with laboratory() as opened, Proxy(opened.server_port) as proxy:
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
