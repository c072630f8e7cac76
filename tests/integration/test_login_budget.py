"""No rotation locks an account, on servers that lock one after three failing logins (P8)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import timedelta

import pytest

from databases import unused_name
from keyturn.errors import Busy, KeyturnError, LockedOut
from keyturn.model import RotationId, Sensitive
from keyturn.ports import Generate, Target
from keyturn.rotation import Rotation
from keyturn.strategies import DualPassword, SingleUser
from keyturn.targets.mysql_sql import account, sql
from keyturn.testing.fakes import REF, LabelledStore, World
from mysql_accounts import Site

FIRST, BY_HAND = "Canary7-first", "Canary7-by-hand"
LOCKED_AFTER = 3
MINUTES = 60


@pytest.fixture
def name(site: Site) -> Iterator[str]:
    """A user that is locked after so many failing logins in a row, until somebody unlocks it."""
    made = unused_name("app")
    if site.is_mariadb:
        site.make(made, FIRST)
        site.execute(f"SET GLOBAL max_password_errors = {LOCKED_AFTER}")
        yield made
        site.execute("SET GLOBAL max_password_errors = DEFAULT")
        return
    options = f"FAILED_LOGIN_ATTEMPTS {LOCKED_AFTER} PASSWORD_LOCK_TIME UNBOUNDED"
    user = site.make(made, FIRST, options=options)
    yield made
    site.execute(f"DROP USER {user}")


@pytest.mark.parametrize("strategy", ["single-user", "dual-password"])
def test_a_rotation_that_is_locked_out_every_minute_locks_nobody_out(
    site: Site, name: str, strategy: str
) -> None:
    """The user was given another password by hand. Whoever knows that one goes on working."""
    fresh = _numbered()
    single = SingleUser(site.engine(), fresh, failed_logins=2)
    dual = DualPassword(site.engine(), fresh, failed_logins=2)
    world = World()
    store = LabelledStore(world, site.credential(name, FIRST))
    _rotate(world, store, single, "r0")  # the store keeps more versions than the server forgives
    user = account(name, "%")
    site.execute(sql("ALTER USER {} {}", user, site.identified(BY_HAND)))

    ended = []
    for _ in range(MINUTES):
        world.clock.advance(timedelta(minutes=1))
        try:
            _rotate(world, store, single if strategy == "single-user" else dual, "r1")
        except KeyturnError as error:
            ended.append(type(error))

    assert ended == [LockedOut] + [Busy] * (MINUTES - 1)
    assert site.accepts(name, BY_HAND)


def _numbered() -> Generate:
    numbers = itertools.count(1)
    return lambda: Sensitive(f"Canary7-made-{next(numbers)}")


def _rotate(world: World, store: LabelledStore, target: Target, rotation_id: str) -> None:
    if rotation_id not in store.versions:
        store.begin(RotationId(rotation_id))
    Rotation(
        REF, RotationId(rotation_id), store=store, targets=lambda _: target, clock=world.clock
    ).run()
