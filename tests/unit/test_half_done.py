"""What a step finds half done, taken over or refused, it does not take for done."""

from __future__ import annotations

import itertools
from datetime import timedelta

import pytest

from keyturn.errors import Busy, NotYetAccepted
from keyturn.model import Credential, RotationId, Sensitive, Snapshot, Step
from keyturn.rotation import STALE_AFTER, Rotation
from keyturn.strategies import SingleUser
from keyturn.testing.fakes import (
    REF,
    Account,
    Crash,
    LabelledStore,
    MemoryDatabase,
    StagedStore,
    World,
)

R1, R2 = RotationId("r1"), RotationId("r2")


class Scene:
    """A store, without labels if nothing else is said, and one account."""

    def __init__(self, store: type[StagedStore | LabelledStore] = StagedStore) -> None:
        self.world = World()
        self.database = MemoryDatabase(self.world, {"app": Account("made-0")})
        self.store = store(self.world, Credential("app", Sensitive("made-0")))
        numbers = itertools.count(1)
        self._target = SingleUser(self.database, lambda: Sensitive(f"made-{next(numbers)}"))

    def begin(self, rotation_id: RotationId) -> Rotation:
        if isinstance(self.store, LabelledStore):
            self.store.begin(rotation_id)
        return self.rotation(rotation_id)

    def rotation(self, rotation_id: RotationId) -> Rotation:
        return Rotation(
            REF,
            rotation_id,
            store=self.store,
            targets=lambda _: self._target,
            clock=self.world.clock,
        )

    def interrupt(self, name: str, act: object) -> None:
        """Call *act*, or raise it, before the first call of that name."""

        def before(number: int, called: str) -> None:
            del number
            if called == name:
                self.world.before = lambda *_: None
                if isinstance(act, BaseException):
                    raise act
                assert callable(act)
                act()

        self.world.before = before


def test_a_promotion_that_died_halfway_is_completed_by_the_same_rotation() -> None:
    """Readers have the new value already; the record of what pends is still to be cleared."""
    scene = Scene()
    rotation = scene.rotation(R1)
    scene.interrupt("store.clear", Crash())
    with pytest.raises(Crash):
        rotation.run()
    assert scene.store.serves().rotation_id == R1

    rotation.perform(Step.FINISH)

    assert [version.rotation_id for version in scene.store.kept(REF)] == ["r1", "v0"]


def test_the_test_step_fails_while_the_target_refuses_pending() -> None:
    """That current is accepted proves nothing about what will be promoted."""
    rotation = Scene().rotation(R1)
    rotation.perform(Step.CREATE)

    with pytest.raises(NotYetAccepted, match="r1"):
        rotation.perform(Step.TEST)


def test_a_worker_whose_slot_was_taken_does_not_act() -> None:
    """In a store without labels, too: what was staged first is no longer what pends."""
    scene = Scene()
    stalled = scene.rotation(R1)
    stalled.perform(Step.CREATE)

    def take_over() -> None:
        scene.world.clock.advance(STALE_AFTER + timedelta(seconds=1))
        scene.rotation(R2).perform(Step.CREATE)

    scene.interrupt("database.login", take_over)
    with pytest.raises(Busy):
        stalled.perform(Step.SET)

    assert "database.set" not in scene.world.calls
    assert scene.database.would_accept(scene.store.serves().credential)


def test_a_create_that_was_overtaken_leaves_nothing_pending() -> None:
    """Labels are taken unconditionally; set would find the late value, and stop for a person."""
    scene = Scene(LabelledStore)
    stalled = scene.begin(R1)
    scene.interrupt("store.put", lambda: scene.begin(R2).run())

    with pytest.raises(Busy, match="another rotation finished"):
        stalled.perform(Step.CREATE)

    assert scene.store.snapshot(REF, R2) == Snapshot(R2, None)


def test_nothing_is_staged_that_was_made_from_what_is_no_longer_current() -> None:
    """With two users it would name the one that has just become the live one."""
    scene = Scene()
    stalled = scene.rotation(R1)
    scene.interrupt("store.record", lambda: scene.rotation(R2).run())

    with pytest.raises(Busy, match="another rotation finished"):
        stalled.perform(Step.CREATE)

    assert scene.world.calls.count("store.put") == 1
