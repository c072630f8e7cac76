"""A secret without a target: the four steps, from wherever the last worker died."""

from __future__ import annotations

import json
from datetime import timedelta
from itertools import count

import pytest

from keyturn.errors import Busy, Drifted, NotYetAccepted
from keyturn.generators.jwks import Jwks
from keyturn.generators.policy import NOTHING
from keyturn.generators.shared_keys import Hmac
from keyturn.generators.text import Base64Url
from keyturn.model import Credential, RotationId, Sensitive, Step, Version
from keyturn.ports import Kind
from keyturn.rotation import STALE_AFTER, Rotation
from keyturn.strategies import Generated
from keyturn.testing.fakes import REF, Crash, LabelledStore, StagedStore, World

KINDS = [Hmac(), Jwks(), Base64Url()]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)


def credential(value: Sensitive) -> Credential:
    return Credential("", value)


class Room:
    """A store with one secret, and rotations of it."""

    def __init__(self, kind: Kind) -> None:
        self.world = World()
        self.kind = kind
        self.store = LabelledStore(self.world, credential(kind.following(NOTHING)))

    def rotation(self, name: str) -> Rotation:
        self.store.begin(RotationId(name))
        return Rotation(
            REF,
            RotationId(name),
            store=self.store,
            targets=lambda _: Generated(self.kind),
            clock=self.world.clock,
        )

    def served(self) -> Sensitive:
        return self.store.serves().credential.secret


class StagedRoom:
    """The same, with a store that keeps what a crashed rotation left in the pending slot."""

    def __init__(self, kind: Kind) -> None:
        self.world = World()
        self.kind = kind
        self.store = StagedStore(self.world, credential(kind.following(NOTHING)))

    def rotation(self, name: str) -> Rotation:
        return Rotation(
            REF,
            RotationId(name),
            store=self.store,
            targets=lambda _: Generated(self.kind),
            clock=self.world.clock,
        )

    def served(self) -> Sensitive:
        return self.store.serves().credential.secret


@each_kind
def test_a_rotation_makes_the_next_value_current(kind: Kind) -> None:
    room = Room(kind)
    before = room.served()

    room.rotation("v1").run()

    assert room.store.serves().rotation_id == "v1"
    assert kind.is_whole(room.served())
    assert kind.follows(room.served(), before)


@each_kind
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_rotation_that_died_anywhere_is_finished_by_the_same_again(kind: Kind, when: str) -> None:
    for fatal in count(1):
        room = Room(kind)
        before = room.served()

        def die(number: int, name: str, fatal: int = fatal) -> None:
            del name
            if number == fatal:
                raise Crash

        rotation = room.rotation("v1")
        setattr(room.world, when, die)
        try:
            rotation.run()
        except Crash:
            rotation.run()
        else:
            break

        assert room.store.serves().rotation_id == "v1"
        assert kind.follows(room.served(), before)
    assert fatal > 5


@each_kind
def test_what_a_crashed_rotation_left_is_not_adopted(kind: Kind) -> None:
    """Nobody knows it; and if somebody wrote a value since, it would be dropped unseen."""
    room = StagedRoom(kind)
    room.rotation("v1").perform(Step.CREATE)
    left = room.store.staged(REF, RotationId("v1"))
    before = room.served()
    room.world.clock.advance(STALE_AFTER + timedelta(seconds=1))

    room.rotation("v2").run()

    assert left is not None
    assert room.served() != left.credential.secret
    assert kind.follows(room.served(), before)


def test_another_rotation_in_flight_is_left_alone() -> None:
    room = StagedRoom(Hmac())
    room.rotation("v1").perform(Step.CREATE)

    with pytest.raises(Busy):
        room.rotation("v2").perform(Step.CREATE)


def test_a_value_made_from_another_than_current_is_not_promoted() -> None:
    room = Room(Hmac())
    rotation = room.rotation("v1")
    rotation.perform(Step.CREATE)
    by_hand = RotationId("by hand")
    value = Hmac().following(NOTHING)
    room.store.versions[by_hand] = Version(by_hand, credential(value), room.world.clock.now())
    room.store.labels["current"] = by_hand

    with pytest.raises(Drifted, match="was not made from by hand"):
        rotation.perform(Step.SET)


def test_a_value_that_is_broken_is_not_promoted() -> None:
    room = Room(Hmac())
    rotation = room.rotation("v1")
    broken = credential(Sensitive(json.dumps({"current": "short"})))
    room.store.versions[RotationId("v1")] = Version(
        RotationId("v1"), broken, room.world.clock.now()
    )

    with pytest.raises(NotYetAccepted):
        rotation.perform(Step.FINISH)

    assert room.store.serves().rotation_id == "v0"
