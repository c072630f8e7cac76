"""A password that a platform sets: asked for once, waited for, and by nobody's login."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from keyturn.errors import Busy, Drifted, KeyturnError, Misconfigured, NotYetAccepted, Unreachable
from keyturn.model import Credential, RotationId, Sensitive, Step, Version
from keyturn.ports import Pending
from keyturn.rotation import STALE_AFTER, Rotation
from keyturn.strategies import PlatformUser
from keyturn.testing.contracts import version
from keyturn.testing.fakes import REF, Account, Crash, LabelledStore, MemoryDatabase, World

APP = Credential("app", Sensitive("Canary7-live"))


class Room:
    """A database, the platform that runs it, a store, and what was called."""

    def __init__(self, password: str = "Canary7-live") -> None:
        self.world = World()
        self.database = MemoryDatabase(self.world, {"app": Account(password)})
        self.platform = self.database.platform()
        self.store = LabelledStore(self.world, APP)
        self._numbers = itertools.count(1)
        self.target = PlatformUser(
            self.database,
            lambda: Sensitive(f"Canary7-made-{next(self._numbers)}"),
            lambda: self.platform,
        )

    def set(self, pending: Pending) -> None:
        self.target.set(pending, version(APP, "v0"), [])

    def rotation(self, name: str) -> Rotation:
        self.store.begin(RotationId(name))
        return Rotation(
            REF,
            RotationId(name),
            store=self.store,
            targets=lambda _: self.target,
            clock=self.world.clock,
        )

    def die_while_waiting(self, act: Callable[[], object]) -> None:
        """Let *act*'s worker die when it looks whether what it asked for is in force."""

        def die(_: int, call: str) -> None:
            if call == "authority.look" and "authority.ask" in self.world.calls:
                raise Crash

        self.world.before = die
        with pytest.raises(Crash):
            act()
        self.world.before = World().before

    def count(self, call: str) -> int:
        return self.world.calls.count(call)

    @property
    def password(self) -> str | None:
        return self.database.accounts["app"].password


@pytest.fixture
def room() -> Room:
    return Room()


def held(secret: str) -> Pending:
    """Be a slot that this rotation holds."""
    return lambda: app("r1", secret)


def app(name: str, secret: str) -> Version:
    return version(replace(APP, secret=Sensitive(secret)), name)


# ---------------------------------------------------------------------------- the happy path


def test_a_rotation_asks_once_and_no_login_fails(room: Room) -> None:
    room.rotation("a").run()

    assert room.password == "Canary7-made-1"
    assert room.store.serves().credential.secret == Sensitive("Canary7-made-1")
    assert room.count("authority.ask") == 1
    assert room.database.failed_logins == 0


def test_a_rotation_makes_ten_store_calls(room: Room) -> None:
    """ADR 1 holds for this strategy, too."""
    room.rotation("a").run()

    assert len([call for call in room.world.calls if call.startswith("store.")]) == 10


def test_the_slot_is_read_after_every_check_and_right_before_the_act(room: Room) -> None:
    """Minutes may pass while another change is waited for: only then is the slot looked at."""
    room.die_while_waiting(lambda: room.set(held("Canary7-dead")))
    looked_after: list[str] = []

    def slot() -> Version:
        looked_after[:] = room.world.calls
        return app("r1", "Canary7-next")

    room.set(slot)

    assert looked_after[-1] == "database.login"
    assert room.world.calls[len(looked_after)] == "authority.ask"


# ---------------------------------------------------------------------------- refusals


def test_what_the_platform_refuses_is_never_staged(room: Room) -> None:
    target = PlatformUser(room.database, lambda: Sensitive("Canary7 blank"), room.database.platform)

    with pytest.raises(Misconfigured):
        target.create(APP, [])
    with pytest.raises(Drifted):
        room.target.create(replace(APP, fields={"host": "elsewhere"}), [])
    with pytest.raises(Drifted):
        room.target.create(Credential("somebody", APP.secret), [])

    assert room.count("store.put") == room.count("authority.ask") == 0


@pytest.mark.parametrize("password", ["Canary7-live", "Canary7-by-hand"])
def test_a_pending_value_for_another_user_is_refused_before_any_change(password: str) -> None:
    """Whoever can edit pending must not thereby choose who is sent which password."""
    room = Room(password)
    pending = version(Credential("admin", Sensitive("Canary7-next")), "r1")

    with pytest.raises(Drifted, match="r1"):
        room.set(lambda: pending)

    assert room.count("authority.ask") == 0


def test_a_superseded_worker_does_nothing(room: Room) -> None:
    def taken() -> Version:
        raise Busy("taken over", remedy="")

    with pytest.raises(Busy):
        room.set(taken)

    assert room.count("authority.ask") == 0
    assert room.password == "Canary7-live"


# ---------------------------------------------------------------------------- resumed


def test_a_worker_that_dies_while_it_waits_is_resumed_and_nothing_is_asked_twice(
    room: Room,
) -> None:
    room.die_while_waiting(lambda: room.set(held("Canary7-next")))
    assert room.password == "Canary7-live"

    room.set(held("Canary7-next"))

    assert room.password == "Canary7-next"
    assert room.count("authority.ask") == 1
    assert room.database.failed_logins == 1  # current's: after it, pending's is accepted


def test_when_the_time_is_up_the_next_delivery_goes_on_waiting(room: Room) -> None:
    rotation = room.rotation("a")
    room.platform.is_hurried = True
    with pytest.raises(NotYetAccepted):
        rotation.run()

    room.platform.is_hurried = False
    rotation.run()

    assert room.count("authority.ask") == 1
    assert room.store.serves().rotation_id == "a"


def test_a_lost_reply_is_not_asked_for_again(room: Room) -> None:
    """The platform is busy with the very change: the next delivery finds it done."""

    def lose(_: int, call: str) -> None:
        if call == "authority.ask":
            raise Unreachable("lost", remedy="")

    room.world.after = lose
    with pytest.raises(Unreachable):
        room.set(held("Canary7-next"))

    room.set(held("Canary7-next"))

    assert room.password == "Canary7-next"
    assert room.count("authority.ask") == 1


def test_what_a_dead_worker_asked_for_is_waited_for_and_then_replaced(room: Room) -> None:
    """Asked at once, ours might be refused, or be overtaken by the one before."""
    room.platform.delay = 9
    room.die_while_waiting(lambda: room.set(held("Canary7-dead")))

    room.set(held("Canary7-next"))

    assert room.password == "Canary7-next"
    assert room.count("authority.ask") == 2
    assert room.database.failed_logins == 2  # one per candidate, P8


def test_nobody_is_locked_out_when_no_version_known_is_accepted() -> None:
    """Somebody has changed the password by hand: what permits us is not the password."""
    room = Room("Canary7-by-hand")

    room.rotation("a").run()

    assert room.password == "Canary7-made-1"


# ---------------------------------------------------------------------------- died anywhere


def _calls() -> list[tuple[int, str]]:
    room = Room()
    room.rotation("a").run()
    return list(enumerate(room.world.calls, 1))


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("at, call", _calls(), ids=str)
def test_whatever_call_a_worker_dies_at_another_rotation_ends_it(
    room: Room, moment: str, at: int, call: str
) -> None:
    def die(number: int, name: str) -> None:
        if number == at:
            assert name == call
            raise Crash

    setattr(room.world, moment, die)
    with pytest.raises(Crash):
        room.rotation("a").run()
    setattr(room.world, moment, World().before)
    room.world.clock.advance(STALE_AFTER + timedelta(seconds=1))

    room.rotation("b").run()

    assert room.store.serves().rotation_id == "b"
    assert room.database.would_accept(room.store.serves().credential)


@pytest.mark.parametrize("step", [Step.CREATE, Step.SET])
def test_an_outage_of_the_platform_is_unreachable_and_changes_nothing(
    room: Room, step: Step
) -> None:
    rotation = room.rotation("a")
    if step is Step.SET:
        rotation.perform(Step.CREATE)
    room.database.is_down = True

    with pytest.raises(KeyturnError) as caught:
        rotation.perform(step)

    assert isinstance(caught.value, Unreachable)
    room.database.is_down = False
    assert room.password == "Canary7-live"
