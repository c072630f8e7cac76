"""Any name and any password, through the engine and a real server: 100 % log in, nothing injected.

A few dozen with every run; 10,000 with `make proof` (--hypothesis-profile=proof).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg import sql

from databases import credential, plenty_of_time
from keyturn.errors import Misconfigured
from keyturn.local.postgres import Postgres as Server
from keyturn.model import Sensitive
from keyturn.targets.postgres import NAME_MAX_BYTES, Postgres

CHARACTERS = st.characters(codec="utf-8", exclude_characters="\0")
NAMES = st.text(CHARACTERS, min_size=1, max_size=24).map(lambda name: f"p_{name}")
PASSWORDS = st.text(CHARACTERS, max_size=40).map(lambda text: f"{text}Canary7")
"""With the marker, because the canary cannot tell a password like 000000000000 from the log."""
PREFIX = "p_"


@pytest.fixture(scope="module")
def superuser(postgres: Server) -> Iterator[psycopg.Connection]:
    with psycopg.connect(**postgres.superuser(), autocommit=True) as connection:
        connection.execute("CREATE ROLE p_bystander LOGIN CONNECTION LIMIT 3")
        yield connection


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@example(name="p_'; DROP ROLE p_bystander; --", password="'); DROP ROLE p_bystander; --")
@example(name='p_" SUPERUSER', password="{}%s%%$1\\")
@example(name="p_%(x)s{0}", password="ﬀ\u00a0Ⅷ é")
@given(name=NAMES, password=PASSWORDS)
def test_any_name_logs_in_with_any_password(
    postgres: Server, superuser: psycopg.Connection, name: str, password: str
) -> None:
    login = credential(postgres, name, "first")
    engine = Postgres(plenty_of_time())
    try:
        engine.endpoint(login)
    except Misconfigured:
        # Refused before anything was done: too long, blanks at an end, unprintable.
        assert len(name.encode()) > NAME_MAX_BYTES or name != name.strip() or not name.isprintable()
        return
    _make(superuser, name)
    before = _others(superuser, name)

    with engine.login(login) as session:
        assert session is not None
        session.set_password(name, Sensitive(password))

    with engine.login(credential(postgres, name, password)) as session:
        assert session is not None
        assert session.acts_for(name)
    with engine.login(login) as session:
        assert (session is None) is (password != "first")
    assert _others(superuser, name) == before


def _make(superuser: psycopg.Connection, name: str) -> None:
    role = sql.Identifier(name)
    with suppress(psycopg.errors.DuplicateObject):
        superuser.execute(sql.SQL("CREATE ROLE {}").format(role))
    verifier = superuser.pgconn.encrypt_password(b"first", name.encode(), b"scram-sha-256")
    superuser.execute(sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(role, verifier.decode()))


def _others(superuser: psycopg.Connection, name: str) -> object:
    query = (
        "SELECT count(*), count(*) FILTER (WHERE rolsuper), bool_or(rolname = 'p_bystander')"
        " FROM pg_roles WHERE rolname <> %s"
    )
    return superuser.execute(query, [name]).fetchone()
