"""MariaDB and MySQL in the crash sweep: a server for each laboratory.

MariaDB is the distribution's, without TLS; MySQL takes no password in clear, so there is TLS.

The application's account exists for two hosts and has grants of every kind, so that alternating
users have something to lose.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, LiteralString, Self

import pymysql
from pymysql.err import MySQLError

from keyturn.local.mariadb import Install, MariaDb, find_mariadb, find_mysql
from keyturn.model import Sensitive
from keyturn.targets import mysql_hashes
from keyturn.targets.mysql_accounts import Account, Rights
from keyturn.targets.mysql_sql import Sql, account, literal, sql
from keyturn.testing.bench import Laboratory, Subject, Vault
from keyturn.testing.certificates import Authority

FIRST, ADMIN, BY_HAND = "Canary7-first", "Canary7-admin", "Canary7-by-hand"
HOSTS = ("%", "127.0.0.1")
"""The application's. A login here is matched by the second."""


BUSY_S, LOOK_S = 5.0, 0.002
"""How long a server is waited for that still runs statements, and how often one looks."""

UNPACKED = ".mysql"
"""Where `.ci/unpack-mysql` puts a MySQL, in the checkout."""

_LOGS = {
    "general-log": "ON",
    "slow-query-log": "ON",
    "long-query-time": "0",
    "log-bin": "bin",
    "server-id": "1",
}
_RUNNING = Sql(
    "SELECT ID FROM information_schema.PROCESSLIST"
    " WHERE COMMAND = 'Query' AND ID <> CONNECTION_ID()"
)
_GRANTS = {
    "mysql.db": "User, Host, Db, Select_priv, Insert_priv, Update_priv, Execute_priv, Grant_priv",
    "mysql.tables_priv": "User, Host, Db, Table_name, Table_priv, Column_priv",
    "mysql.columns_priv": "User, Host, Db, Table_name, Column_name, Column_priv",
}
"""Tables that both servers have; their columns, that of the user first."""


def _mysql() -> Install | None:
    return find_mysql(Path(UNPACKED)) or find_mysql()


class MariaDbSingleUser:
    """One account of a MariaDB that changes its own password."""

    NAME: ClassVar[str] = "MariaDB, single user"
    SLOTS: ClassVar[int] = 1
    SERVER: ClassVar[str] = "MariaDB"
    INSTALL: ClassVar[str] = "apt install mariadb-server"
    environment: Mapping[str, str] = {}

    _RECORD: ClassVar[LiteralString] = "SELECT Host, Priv FROM mysql.global_priv WHERE User = {}"
    _login: Mapping[str, Any] = {"ssl_disabled": True}
    _DOCUMENT: ClassVar[Mapping[str, object]] = {"engine": "mariadb", "ssl": False}
    _OTHERS: ClassVar[Mapping[str, str]] = {
        "mysql.global_priv": "User, Host, Priv",
        **_GRANTS,
        "mysql.roles_mapping": "User, Host, Role, Admin_option",
    }

    def __init__(self) -> None:
        self._server = self._made_server()
        self._numbers = itertools.count(1)
        self._asking = threading.Lock()
        self._seen: dict[tuple[str, str], bool] = {}

    @classmethod
    def is_available(cls) -> bool:
        """See `Laboratory.is_available`."""
        return find_mariadb() is not None

    def __enter__(self) -> Self:
        self._server.start()
        self._superuser = pymysql.connect(**self._server.superuser(), autocommit=True)
        # `others` puts a digest of everybody into one value; MySQL would cut it off at 1,024 bytes.
        self._execute(Sql("SET SESSION group_concat_max_len = 1000000000"))
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

    def _made_server(self) -> MariaDb:
        return MariaDb(settings=_LOGS)

    def furnish(self, vault: Vault, proxy_port: int) -> Subject:
        """See `Laboratory.furnish`."""
        del vault
        user = self._application()
        return Subject(json.dumps(self._document(user, FIRST, proxy_port)), frozenset({user}))

    def accepts(self, document: str) -> bool:
        """See `Laboratory.accepts`. Logs in again whenever the server's record has changed."""
        self._await_rest()
        user = literal(json.loads(document)["username"])
        key = document, str(self._rows(sql(self._RECORD, user)))
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
                **self._login,
            ).close()
        except MySQLError:
            return False
        return True

    def _await_rest(self) -> None:
        """Wait until no statement runs: an answer is a packet's first, and may not be its last."""
        deadline = time.monotonic() + BUSY_S
        while self._rows(_RUNNING) and time.monotonic() < deadline:
            time.sleep(LOOK_S)

    def change_by_hand(self, subject: Subject) -> None:
        """See `Laboratory.change_by_hand`."""
        for user, host in self._accounts():
            if user in subject.logins:
                self._execute(
                    sql("ALTER USER {} {}", account(user, host), self._identified(BY_HAND))
                )

    def log_text(self) -> str:
        """See `Laboratory.log_text`."""
        return self._server.log_text() + self._server.data_text("*.log", "bin.0*")

    def others(self, subject: Subject) -> object:
        """See `Laboratory.others`. Includes hashes and grants of every kind, as a digest."""
        names = Sql(", ".join(literal(name) for name in sorted(subject.logins)))
        return [
            self._rows(
                sql(
                    "SELECT {}, SHA2(GROUP_CONCAT(SHA2(CONCAT_WS(0x00, {}), 224) ORDER BY 1), 224)"
                    " FROM {} WHERE {} NOT IN ({})",
                    literal(table),
                    Sql(columns),
                    Sql(table),
                    Sql(columns.partition(",")[0]),
                    names,
                )
            )
            for table, columns in self._OTHERS.items()
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

    def _identified(self, password: str) -> Sql:
        # By hash: the server's logs are searched for passwords.
        return sql(
            "IDENTIFIED VIA mysql_native_password USING '{}'",
            Sql(mysql_hashes.native(Sensitive(password))),
        )

    def _application(self) -> str:
        user = self._unused_name("app")
        for host in HOSTS:
            name = account(user, host)
            self._execute(
                sql(
                    "CREATE USER {} {} WITH MAX_USER_CONNECTIONS 50", name, self._identified(FIRST)
                ),
                sql("GRANT SELECT (a), INSERT ON shop.t TO {} WITH GRANT OPTION", name),
                sql("GRANT UPDATE, EXECUTE ON shop.* TO {}", name),
                sql("GRANT clerk TO {}", name),
            )
        return user

    def _unused_name(self, stem: str) -> str:
        return f"proof_{stem}_{os.getpid()}_{next(self._numbers)}"

    def _document(self, user: str, password: str, port: int) -> dict[str, object]:
        return {
            "host": "127.0.0.1",
            "port": port,
            "username": user,
            "password": password,
            **self._DOCUMENT,
        }

    def _accounts(self) -> list[tuple[str, str]]:
        found = self._rows(Sql("SELECT User, Host FROM mysql.user"))
        return [(str(user), str(host)) for user, host in found]

    def _execute(self, *statements: Sql) -> None:
        with self._asking, self._superuser.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def _rows(self, query: Sql) -> list[tuple[object, ...]]:
        with self._asking, self._superuser.cursor() as cursor:
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
            sql("CREATE USER {} {}", name, self._identified(ADMIN)),
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
    environment: Mapping[str, str] = {"KEYTURN_STRATEGY": "dual-password"}


class _OnMySql:
    """What is another on MySQL. Accounts want TLS there, or a login would show the password."""

    SERVER: ClassVar[str] = "MySQL"
    INSTALL: ClassVar[str] = f".ci/unpack-mysql {UNPACKED}"
    environment: Mapping[str, str]

    _login: Mapping[str, Any]
    _RECORD: ClassVar[LiteralString] = (
        "SELECT Host, HEX(authentication_string), User_attributes, account_locked FROM mysql.user"
        " WHERE User = {}"
    )
    _DOCUMENT: ClassVar[Mapping[str, object]] = {"engine": "mysql"}
    _OTHERS: ClassVar[Mapping[str, str]] = {
        "mysql.user": "User, Host, plugin, HEX(authentication_string), User_attributes,"
        " account_locked, max_user_connections, Select_priv, Create_user_priv",
        **_GRANTS,
        "mysql.role_edges": "TO_USER, TO_HOST, FROM_USER, FROM_HOST, WITH_ADMIN_OPTION",
    }

    @classmethod
    def is_available(cls) -> bool:
        """See `Laboratory.is_available`."""
        return _mysql() is not None

    def _made_server(self) -> MariaDb:
        folder = Path(tempfile.mkdtemp(prefix="keyturn-my-ca-"))
        folder.chmod(0o755)  # for the server's user
        weakref.finalize(self, shutil.rmtree, folder)
        authority = Authority(folder, "ours")
        issued = authority.issue("127.0.0.1")
        self.environment = {**self.environment, "KEYTURN_CA_FILE": str(authority.file)}
        self._login = {"ssl": {"ca": str(authority.file)}}
        tls = {"ssl-cert": str(issued.certificate), "ssl-key": str(issued.key)}
        return MariaDb(_mysql(), settings={**_LOGS, **tls})

    def _identified(self, password: str) -> Sql:
        made = Sql(mysql_hashes.caching_sha2(Sensitive(password)))
        return sql("IDENTIFIED WITH caching_sha2_password AS '{}'", made)


class MySqlSingleUser(_OnMySql, MariaDbSingleUser):
    """One account of a MySQL that changes its own password."""

    NAME: ClassVar[str] = "MySQL, single user"


class MySqlAlternatingUsers(_OnMySql, MariaDbAlternatingUsers):
    """Two users of a MySQL that take turns, with two accounts each."""

    NAME: ClassVar[str] = "MySQL, alternating users"


class MySqlDualPassword(_OnMySql, MariaDbDualPassword):
    """One user of a MySQL with two passwords, which an admin sets."""

    NAME: ClassVar[str] = "MySQL, dual password"


LABORATORIES: tuple[type[Laboratory], ...] = (
    MariaDbSingleUser,
    MariaDbAlternatingUsers,
    MariaDbDualPassword,
    MySqlSingleUser,
    MySqlAlternatingUsers,
    MySqlDualPassword,
)
