"""What becomes of a change that is cut off, slowed down or made as somebody else."""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from databases import credential, execute, make_admin, make_login, plenty_of_time, unused_name
from keyturn.errors import KeyturnError, Unreachable
from keyturn.local.postgres import Postgres as Server
from keyturn.model import Credential, Sensitive, Surroundings
from keyturn.targets.postgres import Postgres
from keyturn.testing.faults import Moment, Proxy, Verdict


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """It logs every statement: what a transaction was told is in no view."""
    with Server(settings={"log_statement": "all"}) as made:
        yield made


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(server.port) as proxy:
        yield proxy


def _accepts(server: Server, name: str, password: str) -> bool:
    with Postgres(plenty_of_time()).login(credential(server, name, password)) as session:
        return session is not None


def test_a_twin_that_was_cut_off_midway_cannot_log_in_without_its_owner(
    server: Server, proxy: Proxy
) -> None:
    """What makes a change look finished comes last, or all at once; after every exchange."""
    user, admin = unused_name("app"), unused_name("admin")
    make_login(server, user, "first")
    make_admin(server, admin, "admin", user)
    authority = credential(server, admin, "admin", port=proxy.port)
    for last in itertools.count(1):
        twin = unused_name("twin")
        was_cut = _set_twin_cut_after(last, proxy, authority, twin, like=user)
        with Postgres(plenty_of_time()).login(credential(server, twin, "second")) as session:
            assert session is None or session.acts_for(user), f"after {last} exchanges"
        if not was_cut:
            break

    assert last > 2


def _set_twin_cut_after(
    last: int, proxy: Proxy, authority: Credential, twin: str, *, like: str
) -> bool:
    """Cut the line when the server has answered so many times; tell whether it came to that."""
    was_cut = False

    def cut(number: int, moment: Moment) -> Verdict:
        nonlocal was_cut
        if number < last or moment is Moment.BEFORE:
            return Verdict.PASS
        was_cut = True
        return Verdict.CUT

    with suppress(KeyturnError), Postgres(plenty_of_time()).login(authority) as session:
        assert session is not None
        proxy.reset(cut)
        session.set_twin(twin, Sensitive("second"), like=like, owner=like)
    proxy.reset()
    return was_cut


def test_every_change_carries_its_limits(server: Server) -> None:
    """The server gives up before the function's time is over, and a lock sooner than that."""
    name = unused_name("app")
    make_login(server, name, "first")

    with Postgres(Surroundings(lambda: 8.0)).login(credential(server, name, "first")) as session:
        assert session is not None
        session.set_password(name, Sensitive("second"))

    log = server.log_text()
    sent = log[: log.rindex(f'ALTER ROLE "{name}" PASSWORD \'SCRAM')].rpartition("statement: ")[2]
    assert _limit(sent, "statement_timeout") == 7000
    assert _limit(sent, "lock_timeout") == 3000


def _limit(sent: str, name: str) -> int:
    found = re.findall(rf"SET LOCAL \"{name}\" TO '(\d+)ms'", sent)
    return int(found[-1]) if found else 0


def test_copied_settings_do_not_replace_the_limits(server: Server) -> None:
    """A login's own time-outs pass through the transaction that copies them."""
    user, twin, admin = unused_name("app"), unused_name("twin"), unused_name("admin")
    make_login(server, user, "first")
    make_admin(server, admin, "admin", user)
    execute(server, "ALTER ROLE {} SET lock_timeout TO '0'", user)

    with Postgres(plenty_of_time()).login(credential(server, admin, "admin")) as session:
        assert session is not None
        session.set_twin(twin, Sensitive("second"), like=user, owner=user)

    log = server.log_text()
    sent = log[: log.rindex(f'ALTER ROLE "{twin}" LOGIN PASSWORD')].rpartition("statement: ")[2]
    assert _limit(sent.rpartition("set_config")[2], "lock_timeout") == 3000


def test_a_server_that_stalls_after_the_login_is_given_up_in_time(
    server: Server, proxy: Proxy
) -> None:
    """Its own time-outs do not help when the answer never comes."""
    name = unused_name("app")
    make_login(server, name, "first")
    go_on = threading.Event()

    def stall(number: int, moment: Moment) -> Verdict:
        del number, moment
        go_on.wait(3)
        return Verdict.PASS

    login = credential(server, name, "first", port=proxy.port)
    with Postgres(Surroundings(lambda: 1.5)).login(login) as session:
        assert session is not None
        proxy.reset(stall)
        started = time.monotonic()
        with pytest.raises(Unreachable):
            session.set_password(name, Sensitive("second"))
        took_s = time.monotonic() - started
        go_on.set()

    assert took_s < 2


def test_a_login_that_acts_as_another_role_changes_its_own_password(server: Server) -> None:
    name, owner = unused_name("app"), unused_name("owner")
    make_login(server, name, "first")
    execute(server, "CREATE ROLE {} NOLOGIN", owner)
    execute(server, "GRANT {} TO {}", owner, name)
    execute(server, "ALTER ROLE {} SET role TO {}", name, owner)

    with Postgres(plenty_of_time()).login(credential(server, name, "first")) as session:
        assert session is not None
        assert session.acts_for(owner)
        session.set_password(name, Sensitive("second"))

    assert _accepts(server, name, "second")
