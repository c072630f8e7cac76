"""The targets and strategies that the crash sweep covers, each on a real server."""

from __future__ import annotations

import itertools
import json
import os
from typing import ClassVar

import psycopg
from psycopg import sql

from keyturn.local.aws import LocalAws
from keyturn.local.postgres import Postgres
from keyturn.testing.sweep import Secret, Subject

_numbers = itertools.count(1)
FIRST, ADMIN = "Canary7-first", "Canary7-admin"


class PostgresSingleUser:
    """One account of a PostgreSQL that changes its own password."""

    NAME: ClassVar[str] = "PostgreSQL, single user"
    SLOTS: ClassVar[int] = 1

    def __init__(self, server: Postgres) -> None:
        self._server = server
        self._superuser = psycopg.connect(**server.superuser(), autocommit=True)
        self._seen: dict[tuple[str, str], bool] = {}

    def close(self) -> None:
        """See `Laboratory.close`."""
        self._superuser.close()

    @property
    def server_port(self) -> int:
        """See `Laboratory.server_port`."""
        return self._server.port

    def furnish(self, aws: LocalAws, proxy_port: int) -> Subject:
        """See `Laboratory.furnish`."""
        del aws
        user = self._login("app", FIRST)
        return Subject(json.dumps(self._document(user, FIRST, proxy_port)), frozenset({user}))

    def accepts(self, document: str) -> bool:
        """See `Laboratory.accepts`. Logs in again whenever the server's record has changed."""
        user = json.loads(document)["username"]
        record = str(self._rows("SELECT * FROM pg_authid WHERE rolname = %s", user))
        key = document, record
        if key not in self._seen:
            self._seen[key] = self._logs_in(json.loads(document))
        return self._seen[key]

    def _logs_in(self, value: dict[str, str]) -> bool:
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
        """Give every login a password that no version holds."""
        for name in subject.logins:
            self._execute(sql.SQL("ALTER ROLE {} PASSWORD 'by hand'").format(sql.Identifier(name)))

    def others(self, subject: Subject) -> object:
        """See `Laboratory.others`. Includes verifiers, memberships and settings."""
        ours = sorted(subject.logins)
        return [
            self._rows("SELECT * FROM pg_authid WHERE rolname <> ALL(%s) ORDER BY oid", ours),
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
        name = f"proof_{stem}_{os.getpid()}_{next(_numbers)}"
        # By verifier: the server's log is searched for passwords.
        verifier = self._superuser.pgconn.encrypt_password(
            password.encode(), name.encode(), b"scram-sha-256"
        )
        self._execute(
            sql.SQL("CREATE ROLE {} LOGIN CONNECTION LIMIT 9 PASSWORD {}").format(
                sql.Identifier(name), verifier.decode()
            )
        )
        return name

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

    def furnish(self, aws: LocalAws, proxy_port: int) -> Subject:
        """See `Laboratory.furnish`."""
        user, admin = self._login("app", FIRST), self._login("admin", ADMIN)
        self._execute(sql.SQL("ALTER ROLE {} CREATEROLE").format(sql.Identifier(admin)))
        self._execute(
            sql.SQL("GRANT {} TO {} WITH ADMIN OPTION").format(
                sql.Identifier(user), sql.Identifier(admin)
            )
        )
        document = self._document(admin, ADMIN, proxy_port)
        secret = Secret.create(aws, json.dumps(document))
        document = {**self._document(user, FIRST, proxy_port), "masterarn": secret.ref}
        return Subject(json.dumps(document), frozenset({user, f"{user}_clone"}))


LABORATORIES = (PostgresSingleUser, PostgresAlternatingUsers)
"""All there are. A new target adds its own here, and is swept with the rest."""
