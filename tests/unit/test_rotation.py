"""The core, on stores of both shapes and an in-memory database."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import timedelta

import pytest

from keyturn.errors import Busy, Drifted, KeyturnError, LockedOut, NotYetAccepted, Unreachable
from keyturn.model import Credential, Outcome, RotationId, Sensitive, Step, Version
from keyturn.ports import Generate, SecretStore, Target
from keyturn.rotation import STALE_AFTER, Rotation
from keyturn.strategies import AlternatingUsers, DualPassword, SingleUser, pair_by_suffix
from keyturn.testing.fakes import (
    REF,
    Account,
    Crash,
    LabelledStore,
    MemoryDatabase,
    StagedStore,
    World,
)

R1, R2, R3 = RotationId("r1"), RotationId("r2"), RotationId("r3")
STORES = ["labelled", "staged"]
STRATEGIES = ["single", "alternating"]


def _numbered() -> Generate:
    numbers = itertools.count(1)
    return lambda: Sensitive(f"made-{next(numbers)}")


class Lab:
    """One secret in one store, for one database, under one strategy."""

    def __init__(self, store: str, strategy: str) -> None:
        self.world = World()
        first = Credential("app", Sensitive("made-0"))
        self.database = MemoryDatabase(
            self.world, {"app": Account("made-0"), "admin": Account("admin")}
        )
        self.labelled = LabelledStore(self.world, first)
        self.staged = StagedStore(self.world, first)
        self.is_labelled = store == "labelled"
        self.strategy = strategy
        self.target = self._target()

    @property
    def store(self) -> SecretStore:
        return self.labelled if self.is_labelled else self.staged

    def serves(self) -> Credential:
        return self.version_served().credential

    def version_served(self) -> Version:
        return (self.labelled if self.is_labelled else self.staged).serves()

    def begin(self, rotation_id: RotationId) -> Rotation:
        self.labelled.begin(rotation_id)
        return self.resume(rotation_id)

    def resume(self, rotation_id: RotationId) -> Rotation:
        return Rotation(
            REF,
            rotation_id,
            store=self.store,
            targets=lambda _: self.target,
            clock=self.world.clock,
        )

    def _target(self) -> Target:
        if self.strategy == "single":
            return SingleUser(self.database, _numbered())
        return AlternatingUsers(
            self.database,
            _numbered(),
            pair_by_suffix,
            lambda: Credential("admin", Sensitive("admin")),
        )


@pytest.fixture(params=itertools.product(STORES, STRATEGIES), ids="-".join)
def lab(request: pytest.FixtureRequest) -> Lab:
    return Lab(*request.param)


def test_a_rotation_ends_with_a_new_value_that_the_target_accepts(lab: Lab) -> None:
    before = lab.serves()

    lab.begin(R1).run()

    assert lab.serves().secret != before.secret
    assert lab.database.would_accept(lab.serves())
    assert lab.database.failed_logins == 0


def test_rotations_follow_each_other(lab: Lab) -> None:
    for rotation_id in (R1, R2, R3):
        lab.begin(rotation_id).run()

        assert lab.database.would_accept(lab.serves())
    assert lab.database.failed_logins == 0


def test_every_step_may_be_repeated(lab: Lab) -> None:
    rotation = lab.begin(R1)

    outcomes = [rotation.perform(step) for step in Step for _ in range(2)]
    held = lab.serves()
    again = [rotation.perform(step) for step in Step]

    assert Outcome.DONE in outcomes
    assert lab.serves().secret == held.secret
    assert again[0] is again[1] is again[3] is Outcome.ALREADY_DONE


def test_current_is_never_what_the_target_has_not_accepted(lab: Lab) -> None:
    """P4: finish straight after create is refused, and the labels stay."""
    rotation = lab.begin(R1)
    rotation.perform(Step.CREATE)
    held = lab.serves()

    with pytest.raises(NotYetAccepted):
        rotation.perform(Step.FINISH)

    assert lab.serves().secret == held.secret


@pytest.mark.parametrize("step", [Step.SET, Step.FINISH])
def test_a_rotation_without_a_value_is_refused(lab: Lab, step: Step) -> None:
    rotation = lab.begin(R1)

    with pytest.raises(Busy, match="no value yet"):
        rotation.perform(step)


def test_a_test_with_nothing_staged_tests_what_is_current(lab: Lab) -> None:
    """RotateImmediately=false sends only the test step; it must pass and change nothing."""
    outcome = lab.begin(R1).perform(Step.TEST)

    assert outcome is Outcome.DONE
    assert "store.put" not in lab.world.calls


def test_any_order_of_steps_ends_in_a_valid_state() -> None:
    """All 256 sequences of four steps: current always is a value the target accepts."""
    for store, strategy in itertools.product(STORES, STRATEGIES):
        for order in itertools.product(Step, repeat=4):
            lab = Lab(store, strategy)
            rotation = lab.begin(R1)
            for step in order:
                try:
                    rotation.perform(step)
                except KeyturnError:
                    continue
            rotation.run()
            assert lab.database.would_accept(lab.serves())


def test_a_fresh_foreign_rotation_is_not_overtaken() -> None:
    lab = Lab("staged", "single")
    lab.resume(R1).perform(Step.CREATE)

    with pytest.raises(Busy, match="in flight"):
        lab.resume(R2).perform(Step.CREATE)


@pytest.mark.parametrize("was_set", [True, False])
def test_a_stale_foreign_rotation_is_adopted_if_the_target_knows_it(*, was_set: bool) -> None:
    lab = Lab("staged", "single")
    dead = lab.resume(R1)
    dead.perform(Step.CREATE)
    if was_set:
        dead.perform(Step.SET)
    stray = lab.staged.staged(REF, R1)
    lab.world.clock.advance(STALE_AFTER + timedelta(seconds=1))

    lab.resume(R2).run()

    assert stray is not None
    assert (lab.serves().secret == stray.credential.secret) is was_set
    assert lab.database.would_accept(lab.serves())


def test_a_superseded_rotation_changes_nothing(lab: Lab) -> None:
    old = lab.begin(R1)
    lab.begin(R1).run()
    lab.begin(R2).run()
    held = lab.serves()
    calls = len(lab.world.calls)

    for step in Step:
        with pytest.raises(Busy):
            old.perform(step)

    assert lab.serves().secret == held.secret
    assert not {"store.put", "database.set", "store.promote"} & set(lab.world.calls[calls:])


def test_a_worker_overtaken_inside_set_does_not_act() -> None:
    """The slot is read again right before the act."""
    lab = Lab("labelled", "single")
    stalled = lab.begin(R1)
    stalled.perform(Step.CREATE)

    def overtake(number: int, name: str) -> None:
        del number
        if name == "database.login":
            lab.world.before = lambda *_: None
            lab.begin(R2).run()

    lab.world.before = overtake
    with pytest.raises(Busy):
        stalled.perform(Step.SET)

    assert lab.database.would_accept(lab.serves())


def test_a_worker_overtaken_inside_create_gives_the_slot_back(lab: Lab) -> None:
    """Staging takes the slot unconditionally: the late value must not be promoted over a newer."""
    stalled = lab.begin(R1)

    def overtake(number: int, name: str) -> None:
        del number
        if name == "store.put":
            lab.world.before = lambda *_: None
            lab.begin(R2).run()

    lab.world.before = overtake
    with pytest.raises(Busy):
        stalled.perform(Step.CREATE)

    assert lab.version_served().rotation_id == R2
    with pytest.raises(KeyturnError):
        stalled.perform(Step.FINISH)
    lab.begin(R3).run()


def test_an_abandoned_rotation_is_found_among_the_versions_kept() -> None:
    """The official single-user template is locked out here for good."""
    lab = Lab("labelled", "single")
    dead = lab.begin(R1)
    dead.perform(Step.CREATE)
    dead.perform(Step.SET)
    lab.labelled.abandon()

    lab.begin(R2).run()

    assert lab.database.would_accept(lab.serves())


def test_a_lock_out_names_versions_and_tries_each_secret_once() -> None:
    lab = Lab("labelled", "single")
    lab.begin(R1).run()
    lab.database.accounts["app"].password = "changed by hand"
    rotation = lab.begin(R2)
    rotation.perform(Step.CREATE)

    with pytest.raises(LockedOut, match="r1, r2, v0") as caught:
        rotation.perform(Step.SET)

    assert "made-" not in str(caught.value)
    assert lab.database.failed_logins == 3


def test_a_pending_value_for_another_host_is_refused_before_any_change(lab: Lab) -> None:
    rotation = lab.begin(R1)
    elsewhere = Credential("app_clone", Sensitive("made-1"), {"host": "evil"})
    if lab.strategy == "single":
        elsewhere = replace(elsewhere, principal="app")
    lab.store.stage(REF, R1, elsewhere, lab.store.snapshot(REF, R1))

    with pytest.raises(Drifted):
        rotation.perform(Step.SET)

    assert "database.set" not in lab.world.calls


def test_a_pending_value_for_the_user_that_is_current_is_refused() -> None:
    """A late finish of another rotation made pending's user the live one."""
    lab = Lab("labelled", "alternating")
    rotation = lab.begin(R1)
    seen = lab.labelled.snapshot(REF, R1)
    lab.labelled.stage(REF, R1, Credential("app", Sensitive("made-1")), seen)

    with pytest.raises(Drifted):
        rotation.perform(Step.SET)

    assert lab.database.would_accept(lab.serves())


@pytest.mark.parametrize("recovery", ["retry", "abandon", "abandon twice"])
def test_death_at_any_call_recovers(lab: Lab, recovery: str) -> None:
    """Kill before and after every external call of two rotations; one more run ends it well."""
    probe = Lab("labelled" if lab.is_labelled else "staged", lab.strategy)
    probe.begin(R1).run()
    probe.begin(R2).run()
    for point, moment in itertools.product(
        range(1, len(probe.world.calls) + 1), ("before", "after")
    ):
        _die_and_recover(
            Lab("labelled" if lab.is_labelled else "staged", lab.strategy), point, moment, recovery
        )


def _die_and_recover(lab: Lab, point: int, moment: str, recovery: str) -> None:
    def die(number: int, name: str) -> None:
        del name
        if number == point:
            raise Crash

    setattr(lab.world, moment, die)
    ids = (RotationId(f"n{number}") for number in itertools.count())
    for _ in range(2):
        rotation_id = next(ids)
        try:
            lab.begin(rotation_id).run()
        except Crash:
            if lab.strategy == "alternating":
                assert lab.database.would_accept(lab.serves())
            rounds = {"retry": 0, "abandon": 1, "abandon twice": 2}[recovery]
            for _ in range(rounds):
                lab.labelled.abandon()
                lab.world.clock.advance(STALE_AFTER + timedelta(seconds=1))
                rotation_id = next(ids)
            lab.begin(rotation_id).run()
        assert lab.database.would_accept(lab.serves())
        assert lab.version_served().rotation_id == rotation_id


# ---------------------------------------------------------------------------- the login budget


@pytest.fixture(params=["single", "alternating", "dual", "dual by admin"])
def barred(request: pytest.FixtureRequest) -> Lab:
    """Whoever could authorise a rotation has another password, since it was set by hand."""
    lab = Lab("labelled", "alternating" if request.param == "alternating" else "single")
    admin = Credential("admin", Sensitive("admin"))
    if request.param.startswith("dual"):
        by = (lambda: admin) if request.param == "dual by admin" else None
        lab.target = DualPassword(lab.database, _numbered(), by)
    for name in ("app", "admin"):
        lab.database.accounts[name].password = "by hand"
    return lab


def test_a_rotation_that_is_locked_out_is_over(barred: Lab) -> None:
    """P8: tried every minute for an hour, it fails few logins, and those once."""
    rotation = barred.begin(R1)
    with pytest.raises(LockedOut):
        rotation.run()
    failed = barred.database.failed_logins

    for _ in range(60):
        with pytest.raises(Busy, match="r1"):
            barred.resume(R1).run()

    assert 1 <= failed <= 3
    assert barred.database.failed_logins == failed


def test_the_rotation_after_a_lock_out_starts_afresh(barred: Lab) -> None:
    """Somebody has mended the passwords by hand, as the remedy says, and rotates again."""
    with pytest.raises(LockedOut):
        barred.begin(R1).run()
    barred.database.accounts["app"].password = "made-0"
    barred.database.accounts["admin"].password = "admin"

    barred.begin(R2).run()

    assert barred.version_served().rotation_id == R2
    assert barred.database.would_accept(barred.serves())


def test_a_lock_out_is_told_even_if_the_rotation_cannot_be_ended(barred: Lab) -> None:
    barred.begin(R1)

    def fail(_: int, name: str) -> None:
        if name == "store.withdraw":
            raise Unreachable("no answer", remedy="")

    barred.world.before = fail

    with pytest.raises(LockedOut):
        barred.resume(R1).run()
