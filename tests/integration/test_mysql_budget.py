"""What a rotation costs: exchanges, connections, and failing logins, of which there are few."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import pytest

from databases import unused_name
from keyturn.errors import Busy, Denied, Misconfigured
from keyturn.model import Credential, Sensitive, Version
from keyturn.ports import Generate, Pending, Retiring, Target
from keyturn.strategies import AlternatingUsers, DualPassword, Pair, SingleUser
from keyturn.testing.contracts import version
from keyturn.testing.faults import Proxy
from mysql_accounts import Site

FIRST, ADMIN = "Canary7-first", "Canary7-admin"
MINUTES = 60


@contextmanager
def _account_that_locks(site: Site) -> Iterator[str]:
    """Make an account that is blocked after three failing logins in a row."""
    name = unused_name("app")
    if not site.is_mariadb:
        made = site.make(
            name, FIRST, options="FAILED_LOGIN_ATTEMPTS 3 PASSWORD_LOCK_TIME UNBOUNDED"
        )
        yield name
        site.execute(f"DROP USER {made}")
        return
    site.make(name, FIRST)
    site.execute("SET GLOBAL max_password_errors = 3")
    try:
        yield name
    finally:
        site.execute("SET GLOBAL max_password_errors = DEFAULT")


def _made(number: int) -> str:
    return f"Canary7-made-{number}"


def _never() -> Sensitive:
    raise AssertionError("nothing is made")


def _held(pending: Version) -> Pending:
    return lambda: pending


def test_a_rotation_that_fails_every_minute_blocks_nobody(site: Site) -> None:
    """The same one again for an hour: set is done, and something after it fails."""
    with _account_that_locks(site) as name:
        current = site.credential(name, FIRST)
        pending = version(replace(current, secret=Sensitive(_made(1))), "v1")
        target = SingleUser(site.engine(), _never)
        for _ in range(MINUTES):
            target.set(_held(pending), version(current, "v0"), [])

        assert target.accepts(pending.credential)


def test_a_new_rotation_every_minute_blocks_nobody(site: Site) -> None:
    """Each is abandoned after set. Current and pending fail; what is newest of the kept works."""
    with _account_that_locks(site) as name:
        current, target = site.credential(name, FIRST), SingleUser(site.engine(), _never)
        kept: list[Version] = [version(current, "v0")]
        for minute in range(MINUTES):
            following = version(replace(current, secret=Sensitive(_made(minute))), f"v{minute + 1}")
            kept.insert(0, following)
            target.set(_held(following), kept[-1], kept)

        assert target.accepts(kept[0].credential)


STRATEGIES = ["dual by an admin", "dual by itself", "alternating"]


@contextmanager
def _target_that_locks(
    site: Site, strategy: str, make: Generate
) -> Iterator[tuple[Target, Credential, Credential]]:
    """Yield a target with two slots, current, and the admin; all accounts lock after three."""
    admin = unused_name("admin")
    made = site.make_admin(admin, ADMIN)
    if not site.is_mariadb:
        site.execute(f"ALTER USER {made} FAILED_LOGIN_ATTEMPTS 3 PASSWORD_LOCK_TIME UNBOUNDED")
    with _account_that_locks(site) as name:
        current, authority = site.credential(name, FIRST), site.credential(admin, ADMIN)
        if strategy == "dual by itself":
            site.execute(f"GRANT CREATE USER ON *.* TO `{name}`@`%`")
            target: Target = DualPassword(site.engine(), make)
        elif strategy == "dual by an admin":
            target = DualPassword(site.engine(), make, lambda: authority)
        else:
            pair = Pair((name, f"{name}_b"), owner=name, is_declared=True)
            target = AlternatingUsers(site.engine(), make, lambda _: pair, lambda: authority)
        yield target, current, authority


def _generated() -> Generate:
    numbers = itertools.count()
    return lambda: Sensitive(_made(next(numbers)))


def test_three_failing_logins_block(site: Site) -> None:
    """Else the tests here would show nothing."""
    with _target_that_locks(site, "dual by an admin", _never) as (target, current, authority):
        for login in (current, authority):
            for _ in range(3):
                with suppress(Denied):  # MySQL says it with the third
                    assert not target.accepts(replace(login, secret=Sensitive("Canary7-wrong")))

            with pytest.raises(Denied, match="blocked"):
                target.accepts(login)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_with_two_slots_a_rotation_that_fails_every_minute_fails_no_login(
    site: Site, strategy: str
) -> None:
    """The same one again for an hour: set and test are done, and something after them fails."""
    with _target_that_locks(site, strategy, _generated()) as (target, current, authority):
        pending = version(target.create(current, []), "v1")
        refused = _refused(site)
        for _ in range(MINUTES):
            target.set(_held(pending), version(current, "v0"), [])
            assert target.accepts(pending.credential)

        assert _refused(site) == refused
        assert _all_log_in(site, current, pending.credential, authority)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_with_two_slots_a_new_rotation_every_minute_fails_no_login(
    site: Site, strategy: str
) -> None:
    """Each is abandoned after set."""
    with _target_that_locks(site, strategy, _generated()) as (target, current, authority):
        kept, refused = [version(current, "v0")], _refused(site)
        for minute in range(MINUTES):
            following = version(target.create(current, kept), f"v{minute + 1}")
            kept.insert(0, following)
            target.set(_held(following), kept[-1], kept)

        assert _refused(site) == refused
        assert _all_log_in(site, current, kept[0].credential, authority)


def test_a_retirement_that_waits_fails_no_login(site: Site) -> None:
    """Somebody stays logged in, and it is tried more often than a server forgives."""
    with _target_that_locks(site, "alternating", _generated()) as (target, current, authority):
        following = version(target.create(current, []), "v1")
        target.set(_held(following), version(current, "v0"), [])
        assert isinstance(target, Retiring)
        refused = _refused(site)
        with site.opened(current):
            for _ in range(5):
                with pytest.raises(Busy, match="1 open session"):
                    target.retire(_held(following))

        assert _refused(site) == refused
        assert _all_log_in(site, current, following.credential, authority)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_with_two_slots_a_change_that_is_refused_every_minute_fails_no_login(
    site: Site, strategy: str
) -> None:
    """The server is read-only for an hour: neither create nor set gets anywhere."""
    with _target_that_locks(site, strategy, _generated()) as (target, current, authority):
        pending = version(target.create(current, []), "v1")
        refused = _refused(site)
        with _read_only(site):
            for _ in range(MINUTES):
                with pytest.raises(Misconfigured, match="read-only"):
                    target.create(current, [])
                with pytest.raises(Misconfigured, match="read-only"):
                    target.set(_held(pending), version(current, "v0"), [])

        assert _refused(site) == refused
        assert _all_log_in(site, current, authority)


@contextmanager
def _read_only(site: Site) -> Iterator[None]:
    site.execute("SET GLOBAL read_only = ON")
    try:
        yield
    finally:
        site.execute("SET GLOBAL read_only = OFF")


def _all_log_in(site: Site, *logins: Credential) -> bool:
    return all(site.accepts(login.principal, login.secret.reveal()) for login in logins)


def test_with_two_passwords_a_login_that_was_lost_is_found_without_blocking_it(
    site: Site,
) -> None:
    """Current and pending fail, by hand; what was before works. After one rotation current does."""
    with _target_that_locks(site, "dual by itself", _generated()) as (target, current, _):
        before = version(replace(current, secret=Sensitive(_made(99))), "v9")
        with site.engine().login(current) as session:
            assert session is not None
            session.set_password(current.principal, before.credential.secret)
        # Not made by `create`: that would be a third failing login. docs/mysql.md says so.
        pending = version(replace(current, secret=Sensitive(_made(1))), "v1")
        for _ in range(MINUTES):
            target.set(_held(pending), version(current, "v0"), [before])

        assert _all_log_in(site, current, pending.credential)


def test_readers_with_either_of_two_passwords_block_nobody(site: Site) -> None:
    """To MariaDB, the second password is one that fails with the first."""
    admin = unused_name("admin")
    site.make_admin(admin, ADMIN)
    with _account_that_locks(site) as name:
        with site.engine().login(site.credential(admin, ADMIN)) as session:
            assert session is not None
            session.set_dual(name, Sensitive(_made(1)), keep=Sensitive(FIRST))
        for _ in range(10):
            assert site.accepts(name, _made(1))
        for _ in range(10):
            assert site.accepts(name, FIRST)


# ---------------------------------------------------------------------------- measured

COSTS = {
    ("MariaDB", "single"): (3, 18),
    ("MariaDB", "dual"): (4, 30),
    ("MariaDB", "alternating"): (4, 30),
    ("MySQL", "single"): (3, 21),
    ("MySQL", "dual"): (4, 33),
    ("MySQL", "alternating"): (4, 35),
}
"""Connections and exchanges of a whole rotation, as measured over TLS on an idle machine."""
SPLIT = 2
"""More exchanges that a connection may seem to have: its greeting or farewell comes in parts."""


@pytest.mark.parametrize("strategy", ["single", "dual", "alternating"])
def test_a_rotation_costs_no_more_than_it_did(site: Site, strategy: str) -> None:
    """Create, set, test and finish, the second one of a user; without a failing login."""
    name, admin = unused_name("app"), unused_name("admin")
    site.make(name, FIRST)
    site.make_admin(admin, ADMIN)
    refused = _refused(site)
    with Proxy(site.server.port) as proxy:
        authority = site.credential(admin, ADMIN, port=proxy.port)
        current = site.credential(name, FIRST, port=proxy.port)
        target = _target(site, strategy, current, authority)
        for number in range(2):
            proxy.reset()
            following = version(target.create(current, []), f"v{number}")
            target.set(_held(following), version(current, "v"), [])
            assert target.accepts(following.credential)
            assert target.accepts(following.credential)
            current = following.credential
        connections, exchanges = COSTS[site.server.flavour, strategy]

        assert proxy.connections == connections
        assert proxy.exchanges <= exchanges + SPLIT * connections
    assert _refused(site) == refused


def _target(site: Site, strategy: str, current: Credential, authority: Credential) -> Target:
    numbers = iter(range(9))

    def fresh() -> Sensitive:
        return Sensitive(_made(next(numbers)))

    if strategy == "single":
        return SingleUser(site.engine(), fresh)
    if strategy == "dual":
        return DualPassword(site.engine(), fresh, lambda: authority)
    users = current.principal, f"{current.principal}_b"
    pair = Pair(users, owner=users[0], is_declared=True)
    return AlternatingUsers(site.engine(), fresh, lambda _: pair, lambda: authority)


def _refused(site: Site) -> object:
    """Return how many logins the server has refused so far."""
    name = "Access_denied_errors" if site.is_mariadb else "Aborted_connects"
    return site.rows(f"SHOW GLOBAL STATUS LIKE '{name}'")
