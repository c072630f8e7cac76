"""What a rotation costs: exchanges, connections, and failing logins, of which there are few."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from databases import unused_name
from keyturn.model import Credential, Sensitive, Version
from keyturn.ports import Pending, Target
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
    ("MariaDB", "single"): (3, 20),
    ("MariaDB", "dual"): (4, 32),
    ("MariaDB", "alternating"): (4, 32),
    ("MySQL", "single"): (3, 23),
    ("MySQL", "dual"): (4, 35),
    ("MySQL", "alternating"): (4, 37),
}
"""Connections and exchanges of a whole rotation, at most. A farewell may come too late to count."""


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
        assert proxy.exchanges <= exchanges
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
