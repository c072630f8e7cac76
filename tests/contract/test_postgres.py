"""PostgreSQL keeps the promises of every target, in both strategies, on a real server."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import psycopg
import pytest

from databases import credential, execute, make_admin, make_login, plenty_of_time, unused_name
from keyturn.errors import Drifted
from keyturn.local.postgres import Postgres as Server
from keyturn.model import Credential, Sensitive
from keyturn.ports import Generate
from keyturn.strategies import AlternatingUsers, SingleUser, pair_by_suffix
from keyturn.targets.postgres import Postgres
from keyturn.testing.contracts import (
    CANARY,
    OneSlotContract,
    Opened,
    Subject,
    TwoSlotContract,
    UsedContract,
)
from keyturn.testing.faults import Proxy

NOBODY_LISTENS = 1  # tcpmux: refused on loopback


def _numbered() -> Generate:
    numbers = itertools.count(1)
    return lambda: Sensitive(f"{CANARY}made-{next(numbers)}")


@pytest.fixture
def proxy(postgres: Server) -> Iterator[Proxy]:
    with Proxy(postgres.port) as proxy:
        yield proxy


class TestSingleUser(OneSlotContract):
    """One account changes its own password."""

    @pytest.fixture
    def subject(self, postgres: Server, proxy: Proxy) -> Subject:
        name = unused_name("app")
        make_login(postgres, name, f"{CANARY}first")
        current = credential(postgres, name, f"{CANARY}first", port=proxy.port)
        return Subject(
            SingleUser(Postgres(plenty_of_time()), _numbered()),
            current,
            replace(current, fields={**current.fields, "port": NOBODY_LISTENS}),
            proxy.outage,
        )


class TestAlternatingUsers(TwoSlotContract, UsedContract):
    """Two accounts take turns."""

    @pytest.fixture
    def opened(self, postgres: Server) -> Opened:
        @contextmanager
        def log_in(login: Credential) -> Iterator[None]:
            with psycopg.connect(
                host=postgres.host,
                port=postgres.port,
                dbname="postgres",
                user=login.principal,
                password=login.secret.reveal(),
            ):
                yield

        return log_in

    @pytest.fixture
    def admin(self) -> str:
        return unused_name("admin")

    @pytest.fixture
    def subject(self, postgres: Server, proxy: Proxy, admin: str) -> Subject:
        name = unused_name("app")
        make_login(postgres, name, f"{CANARY}first")
        make_admin(postgres, admin, f"{CANARY}admin", name)
        current = credential(postgres, name, f"{CANARY}first", port=proxy.port)
        authority = credential(postgres, admin, f"{CANARY}admin", port=proxy.port)
        return Subject(
            AlternatingUsers(
                Postgres(plenty_of_time()), _numbered(), pair_by_suffix, lambda: authority
            ),
            current,
            replace(current, fields={**current.fields, "port": NOBODY_LISTENS}),
            proxy.outage,
        )

    def test_a_membership_that_is_missing_refuses_the_other_login(
        self, postgres: Server, subject: Subject, admin: str
    ) -> None:
        """`app_clone` of somebody else is not taken over because of its name."""
        make_login(postgres, f"{subject.current.principal}_clone", f"{CANARY}stranger")
        stranger = replace(
            subject.current,
            principal=f"{subject.current.principal}_clone",
            secret=Sensitive(f"{CANARY}stranger"),
        )

        with pytest.raises(Drifted, match="not known to belong"):
            subject.target.create(subject.current, [])
        with pytest.raises(Drifted, match="not known to belong"):
            subject.target.create(stranger, [])

        execute(postgres, "GRANT {} TO {} WITH ADMIN OPTION", stranger.principal, admin)
        execute(postgres, "GRANT {} TO {}", subject.current.principal, stranger.principal)
        assert subject.target.create(subject.current, []).principal == stranger.principal
