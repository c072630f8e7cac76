"""Logins on a test server: names nobody else uses, and credentials for them."""

from __future__ import annotations

import itertools
import json
import os

import psycopg
from psycopg import sql

from keyturn.local.postgres import Postgres
from keyturn.model import Credential, Sensitive, Surroundings
from keyturn.targets.postgres import Postgres as Target

_numbers = itertools.count(1)


def unused_name(stem: str) -> str:
    """Return a role name that no other test of this run takes."""
    return f"{stem}_{os.getpid()}_{next(_numbers)}"


def plenty_of_time() -> Surroundings:
    return Surroundings(remaining_s=lambda: 60.0)


def execute(server: Postgres, statement: str, *names: str, dbname: str = "postgres") -> None:
    """Run one statement as the superuser, with identifiers filled in."""
    with psycopg.connect(**server.superuser(dbname), autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


def rows(
    server: Postgres, query: str, *values: str, dbname: str = "postgres"
) -> list[tuple[object, ...]]:
    """Ask as the superuser."""
    with psycopg.connect(**server.superuser(dbname)) as connection:
        return connection.execute(query.encode(), values).fetchall()


def make_login(server: Postgres, name: str, password: str) -> None:
    """Create a login."""
    execute(server, "CREATE ROLE {} LOGIN", name)
    set_password(server, name, Sensitive(password))


def set_password(server: Postgres, name: str, secret: Sensitive) -> None:
    """Set it as the superuser, by verifier: the server's own log is searched for passwords."""
    with psycopg.connect(**server.superuser(), autocommit=True) as connection:
        verifier = connection.pgconn.encrypt_password(
            secret.reveal().encode(), name.encode(), b"scram-sha-256"
        )
        connection.execute(
            sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(name), verifier.decode())
        )


def make_admin(server: Postgres, name: str, password: str, *owned: str) -> None:
    """Create an admin as managed databases have them: CREATEROLE, no superuser."""
    make_login(server, name, password)
    execute(server, "ALTER ROLE {} CREATEROLE", name)
    for role in owned:
        execute(server, "GRANT {} TO {} WITH ADMIN OPTION", role, name)


def credential(
    server: Postgres, name: str, password: str, *, port: int | None = None
) -> Credential:
    fields: dict[str, object] = {
        "engine": "postgres",
        "host": server.host,
        "port": port or server.port,
        "dbname": "postgres",
        "ssl": False,
    }
    text = json.dumps({**fields, "username": name, "password": password})
    return Credential(name, Sensitive(password), fields, Sensitive(text))


def set_in_another_process(document: str, password: str) -> None:
    """Set a login's own password; to be run, and killed, as a process."""
    value = json.loads(document)
    login = Credential(value["username"], Sensitive(value["password"]), value)
    with Target(plenty_of_time()).login(login) as session:
        assert session is not None
        session.set_password(login.principal, Sensitive(password))
