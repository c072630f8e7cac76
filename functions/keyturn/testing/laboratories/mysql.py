"""MariaDB in the crash sweep: the distribution's server, one for each laboratory.

The application's account exists for two hosts and has grants of every kind, so that alternating
users have something to lose.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping
from types import TracebackType
from typing import ClassVar, Self

import pymysql
from pymysql.err import MySQLError

from keyturn.local.mariadb import MariaDb, find_mariadb
from keyturn.model import Sensitive
from keyturn.targets import mysql_hashes
from keyturn.targets.mysql_accounts import Account, Rights
from keyturn.targets.mysql_sql import Sql, account, literal, sql
from keyturn.testing.bench import Laboratory, Subject, Vault

FIRST, ADMIN, BY_HAND = "Canary7-first", "Canary7-admin", "Canary7-by-hand"
HOSTS = ("%", "127.0.0.1")
"""The application's. A login here is matched by the second."""


class MariaDbSingleUser:
    """One account of a MariaDB that changes its own password."""

    NAME: ClassVar[str] = "MariaDB, single user"
    SLOTS: ClassVar[int] = 1
    SERVER: ClassVar[str] = "MariaDB"
    INSTALL: ClassVar[str] = "apt install mariadb-server"
    ENVIRONMENT: ClassVar[Mapping[str, str]] = {}

    def __init__(self) -> None:
        logs = {"general-log": "ON", "slow-query-log": "ON", "long-query-time": "0"}
        self._server = MariaDb(settings={**logs, "log-bin": "bin", "server-id": "1"})
        self._numbers = itertools.count(1)
        self._seen: dict[tuple[str, str], bool] = {}

    @classmethod
    def is_available(cls) -> bool:
        """See `Laboratory.is_available`."""
        return find_mariadb() is not None

    def __enter__(self) -> Self:
        self._server.start()
        self._superuser = pymysql.connect(**self._server.superuser(), autocommit=True)
        self._execute(Sql("CREATE DATABASE shop"), Sql("CREATE TABLE shop.t (a INT, b INT)"))
        self._execute(Sql("CREATE ROLE clerk"), Sql("GRANT DELETE ON shop.* TO clerk"))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._superuser.close()
        self._server.stop()

    @property
    def server_port(self) -> int:
        """See `Laboratory.server_port`."""
        return self._server.port

    def furnish(self, vault: Vault, proxy_port: int) -> Subject:
        """See `Laboratory.furnish`."""
        del vault
        user = self._application()
        return Subject(json.dumps(self._document(user, FIRST, proxy_port)), frozenset({user}))

    def accepts(self, document: str) -> bool:
        """See `Laboratory.accepts`. Logs in again whenever the server's record has changed."""
        user = literal(json.loads(document)["username"])
        query = sql("SELECT Host, Priv FROM mysql.global_priv WHERE User = {}", user)
        key = document, str(self._rows(query))
        if key not in self._seen:
            self._seen[key] = self.logs_in(document)
        return self._seen[key]

    def logs_in(self, document: str) -> bool:
        """See `Laboratory.logs_in`."""
        value = json.loads(document)
        try:
            pymysql.connect(
                host=self._server.host,
                port=self._server.port,
                user=value["username"],
                password=value["password"],
                ssl_disabled=True,
            ).close()
        except MySQLError:
            return False
        return True

    def change_by_hand(self, subject: Subject) -> None:
        """See `Laboratory.change_by_hand`."""
        for user, host in self._accounts():
            if user in subject.logins:
                self._execute(sql("ALTER USER {} {}", account(user, host), _identified(BY_HAND)))

    def log_text(self) -> str:
        """See `Laboratory.log_text`."""
        return self._server.log_text() + self._server.data_text("*.log", "bin.0*")

    def others(self, subject: Subject) -> object:
        """See `Laboratory.others`. Includes hashes and grants of every kind, as a digest."""
        names = Sql(", ".join(literal(name) for name in sorted(subject.logins)))
        return [
            self._rows(
                sql(
                    "SELECT {}, MD5(GROUP_CONCAT(MD5(CONCAT_WS(0x00, {})) ORDER BY 1)) FROM {}"
                    " WHERE User NOT IN ({})",
                    literal(table),
                    Sql(columns),
                    Sql(table),
                    names,
                )
            )
            for table, columns in _OTHERS.items()
        ]

    def rights(self, document: str) -> object:
        """See `Laboratory.rights`. For each host: options, limits and grants."""
        user = json.loads(document)["username"]
        found = []
        for _, host in sorted(each for each in self._accounts() if each[0] == user):
            name = account(user, host)
            made = Account.of(str(self._rows(sql("SHOW CREATE USER {}", name))[0][0]))
            granted = self._rows(sql("SHOW GRANTS FOR {}", name))
            rights = Rights.of(str(line) for (line,) in granted)
            options = (made.require, sorted(made.limits), sorted(made.life), made.is_locked)
            found.append((host, options, sorted(rights.rights), rights.default_role))
        return found

    def _application(self) -> str:
        user = self._unused_name("app")
        for host in HOSTS:
            name = account(user, host)
            self._execute(
                sql("CREATE USER {} {} WITH MAX_USER_CONNECTIONS 50", name, _identified(FIRST)),
                sql("GRANT SELECT (a), INSERT ON shop.t TO {} WITH GRANT OPTION", name),
                sql("GRANT UPDATE, EXECUTE ON shop.* TO {}", name),
                sql("GRANT clerk TO {}", name),
            )
        return user

    def _unused_name(self, stem: str) -> str:
        return f"proof_{stem}_{os.getpid()}_{next(self._numbers)}"

    def _document(self, user: str, password: str, port: int) -> dict[str, object]:
        return {
            "engine": "mariadb",
            "host": "127.0.0.1",
            "port": port,
            "username": user,
            "password": password,
            "ssl": False,
        }

    def _accounts(self) -> list[tuple[str, str]]:
        found = self._rows(Sql("SELECT User, Host FROM mysql.user"))
        return [(str(user), str(host)) for user, host in found]

    def _execute(self, *statements: Sql) -> None:
        with self._superuser.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def _rows(self, query: Sql) -> list[tuple[object, ...]]:
        with self._superuser.cursor() as cursor:
            cursor.execute(query)
            return list(cursor.fetchall())


class MariaDbAlternatingUsers(MariaDbSingleUser):
    """Two users of a MariaDB that take turns, with two accounts each."""

    NAME: ClassVar[str] = "MariaDB, alternating users"
    SLOTS: ClassVar[int] = 2

    def furnish(self, vault: Vault, proxy_port: int) -> Subject:
        """See `Laboratory.furnish`."""
        user, admin = self._application(), self._unused_name("admin")
        name = account(admin, "%")
        self._execute(
            sql("CREATE USER {} {}", name, _identified(ADMIN)),
            sql("GRANT CREATE USER ON *.* TO {}", name),
            sql("GRANT SELECT ON mysql.* TO {}", name),
            sql("GRANT ALL PRIVILEGES ON shop.* TO {} WITH GRANT OPTION", name),
            sql("GRANT clerk TO {} WITH ADMIN OPTION", name),
        )
        authority = vault.keep(json.dumps(self._document(admin, ADMIN, proxy_port)))
        document = {**self._document(user, FIRST, proxy_port), "masterarn": authority.ref}
        return Subject(json.dumps(document), frozenset({user, f"{user}_clone"}))


class MariaDbDualPassword(MariaDbAlternatingUsers):
    """One user of a MariaDB with two passwords, which an admin sets."""

    NAME: ClassVar[str] = "MariaDB, dual password"
    SLOTS: ClassVar[int] = 2
    ENVIRONMENT: ClassVar[Mapping[str, str]] = {"KEYTURN_STRATEGY": "dual-password"}


LABORATORIES: tuple[type[Laboratory], ...] = (
    MariaDbSingleUser,
    MariaDbAlternatingUsers,
    MariaDbDualPassword,
)

_OTHERS = {
    "mysql.global_priv": "User, Host, Priv",
    "mysql.db": "User, Host, Db, Select_priv, Insert_priv, Update_priv, Execute_priv, Grant_priv",
    "mysql.tables_priv": "User, Host, Db, Table_name, Table_priv, Column_priv",
    "mysql.columns_priv": "User, Host, Db, Table_name, Column_name, Column_priv",
    "mysql.roles_mapping": "User, Host, Role, Admin_option",
}


def _identified(password: str) -> Sql:
    # By hash: the server's logs are searched for passwords.
    return sql(
        "IDENTIFIED VIA mysql_native_password USING '{}'",
        Sql(mysql_hashes.native(Sensitive(password))),
    )
