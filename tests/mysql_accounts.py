"""Accounts on a test MariaDB or MySQL: names nobody else uses, and credentials for them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pymysql
from pymysql.constants import CLIENT
from pymysql.cursors import Cursor

from keyturn.local.mariadb import MariaDb
from keyturn.model import Credential, Sensitive, Surroundings
from keyturn.targets import mysql_hashes
from keyturn.targets.mysql import MySql
from keyturn.targets.mysql_sql import Sql, account, sql


@dataclass(frozen=True, slots=True)
class Site:
    """A server, and the authority that signed its certificate."""

    server: MariaDb
    ca_file: Path

    @property
    def is_mariadb(self) -> bool:
        return self.server.flavour == "MariaDB"

    @property
    def plugin(self) -> str:
        """What the server's own default is."""
        return "mysql_native_password" if self.is_mariadb else "caching_sha2_password"

    def engine(self, remaining_s: float = 60.0) -> MySql:
        return MySql(Surroundings(lambda: remaining_s, ca_file=str(self.ca_file)))

    @contextmanager
    def superuser(self) -> Iterator[Cursor]:
        with (
            pymysql.connect(
                **self.server.superuser(), autocommit=True, client_flag=CLIENT.MULTI_STATEMENTS
            ) as connection,
            connection.cursor() as cursor,
        ):
            yield cursor

    def execute(self, *statements: str) -> None:
        """Run statements as the superuser."""
        with self.superuser() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def rows(self, query: str) -> list[tuple[object, ...]]:
        """Ask as the superuser."""
        with self.superuser() as cursor:
            cursor.execute(query)
            return list(cursor.fetchall())

    def identified(self, password: str, plugin: str = "") -> Sql:
        """Return how an account is made without showing the password to the server's logs."""
        plugin = plugin or self.plugin
        kept = Sql(f"'{mysql_hashes.HASHES[plugin](Sensitive(password))}'")
        if self.is_mariadb:
            return sql("IDENTIFIED VIA {} USING {}", Sql(plugin), kept)
        return sql("IDENTIFIED WITH {} AS {}", Sql(plugin), kept)

    def make(self, name: str, password: str, host: str = "%", options: str = "") -> str:
        """Create an account, and return it quoted."""
        made = account(name, host)
        self.execute(sql("CREATE USER {} {} {}", made, self.identified(password), Sql(options)))
        return made

    def make_admin(self, name: str, password: str) -> str:
        """Create an admin as managed databases have them: much, but not everything."""
        made = self.make(name, password)
        self.execute(
            "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, PROCESS, CREATE USER, EXECUTE,"
            f" CREATE VIEW, TRIGGER ON *.* TO {made} WITH GRANT OPTION"
        )
        return made

    def credential(self, name: str, password: str, *, port: int | None = None) -> Credential:
        fields: dict[str, object] = {
            "engine": "mariadb" if self.is_mariadb else "mysql",
            "host": self.server.host,
            "port": port or self.server.port,
        }
        text = json.dumps({**fields, "username": name, "password": password})
        return Credential(name, Sensitive(password), fields, Sensitive(text))

    def accepts(self, name: str, password: str) -> bool:
        """Log in past everything."""
        with self.engine().login(self.credential(name, password)) as session:
            return session is not None

    @contextmanager
    def opened(self, login: Credential) -> Iterator[Callable[[], object]]:
        """Log in through the Unix socket, as a program would that stays."""
        with pymysql.connect(
            unix_socket=str(self.server.socket),
            user=login.principal,
            password=login.secret.reveal(),
            ssl_disabled=True,
        ) as connection:
            yield connection.ping

    def described(self, name: str, host: str = "%") -> list[str]:
        """Return what the server says of an account, without the name and the passwords."""
        made = account(name, host)
        lines = [*self.rows(f"SHOW CREATE USER {made}"), *self.rows(f"SHOW GRANTS FOR {made}")]
        return sorted(_anonymous(str(line), name) for (line,) in lines)

    def logs(self) -> str:
        """Return everything that the server has written or shows."""
        views = self._views()
        files = self.server.data_text("*.log", "*bin.0*", "*slow*")
        return "\n".join([self.server.log_text(), files, *views])

    def _views(self) -> list[str]:
        queries = [
            "SELECT * FROM performance_schema.events_statements_history_long",
            "SELECT * FROM performance_schema.events_statements_history",
            "SELECT * FROM performance_schema.events_statements_summary_by_digest",
            "SELECT * FROM information_schema.processlist",
        ]
        return [str(row) for query in queries for row in self.rows(query)]


def _anonymous(line: str, name: str) -> str:
    line = line.replace(f"`{name}`", "`?`")
    line = re.sub(r"BY PASSWORD '[^']*'", "", line)
    return re.sub(r"(IDENTIFIED (VIA|WITH) \S+ (USING|AS) )('[^']*'|0x\w+)", r"\1", line)
