"""The follow-up: what a look does, in which order, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

import pytest

from keyturn.errors import Busy, Denied, KeyturnError, Misconfigured, Unreachable
from keyturn.follow_up import (
    LOOKS_APART,
    REPEAT_EVERY,
    SIGHTING_LASTS,
    STUCK_AFTER,
    SWEEP_EVERY,
    TOLD_WITHIN,
    AtDeadline,
    Course,
    Delivery,
    FollowUp,
    Line,
    Part,
    Refresh,
    Report,
    Retirement,
    State,
    When,
)
from keyturn.model import (
    Alert,
    Credential,
    Happening,
    RotationId,
    Sensitive,
    Severity,
    Sighting,
    Version,
)
from keyturn.ports import Pending, Target
from keyturn.rotation import Rotation
from keyturn.strategies import DualPassword, SingleUser
from keyturn.testing.fakes import (
    REF,
    Account,
    Copy,
    Interruption,
    LabelledStore,
    MemoryConsumer,
    MemoryDatabase,
    MemoryDestination,
    MemoryNotifier,
    Mood,
    Opened,
    World,
)

GRACE = timedelta(hours=1)
VERIFIED = Retirement(When.VERIFIED, GRACE)
V0, V1, V2 = map(RotationId, ("v0", "v1", "v2"))


class Shelf(MemoryDestination):
    """One that holds the first version."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self.write(Copy(V0, Sensitive("first")))

    @property
    def version_id(self) -> RotationId | None:
        return self.history[-1].version_id


class Secret:
    """One secret with two passwords, rotated once, and what follows it."""

    def __init__(self, retirement: Retirement = VERIFIED, *, shelves: int = 1) -> None:
        self.world = World()
        self.store = LabelledStore(self.world, Credential("app", Sensitive("first")))
        self.database = MemoryDatabase(self.world, {"app": Account("first")})
        self.target: Target = DualPassword(self.database, self._fresh)
        self.shelves = [Shelf(self.world, f"shelf {n}") for n in range(1, shelves + 1)]
        self.consumer = MemoryConsumer(self.world, "api", self._served)
        self.refreshes: Sequence[Refresh] = [Refresh(self.consumer)]
        self.notifier = MemoryNotifier(self.world)
        self.retirement = retirement
        self.rotate(V1)

    def rotate(self, rotation_id: RotationId) -> None:
        self.store.begin(rotation_id)
        Rotation(
            REF,
            rotation_id,
            store=self.store,
            targets=lambda _: self.target,
            clock=self.world.clock,
        ).run()
        self.world.calls.clear()

    def follow_up(self) -> FollowUp:
        course = Course(
            [Delivery(s, _rendered) for s in self.shelves], self.refreshes, self.retirement
        )
        return FollowUp(
            REF,
            course,
            store=self.store,
            targets=lambda _: self.target,
            notifiers=[self.notifier],
            clock=self.world.clock,
        )

    def look(self, sighting: Sighting | None = None, only: Sequence[str] = ()) -> Report:
        return self.follow_up().look(sighting, only)

    def pass_time(self, by: timedelta) -> None:
        self.world.clock.advance(by)

    def wait_for_grace(self) -> Sighting:
        """Let the consumer follow and the grace pass; return what the first look has seen."""
        self.look()
        self.pass_time(GRACE)
        sighting = self.look().sighting
        assert sighting is not None
        return sighting

    def told(self, happening: Happening) -> list[Alert]:
        return [alert for alert in self.notifier.alerts if alert.happening is happening]

    @property
    def is_old_alive(self) -> bool:
        return self.database.accounts["app"].second is not None

    def _served(self) -> RotationId:
        return self.store.serves().rotation_id

    def _fresh(self) -> Sensitive:
        return Sensitive(f"made-{len(self.store.versions)}")


def _rendered(version: Version) -> Sensitive:
    return version.credential.secret


def _line(report: Report, part: Part) -> Line:
    [line] = report.about(part)
    return line


@pytest.fixture
def secret() -> Secret:
    return Secret()


class TestDelivery:
    def test_a_destination_gets_what_is_current(self, secret: Secret) -> None:
        report = secret.look()

        assert secret.shelves[0].version_id == V1
        assert secret.shelves[0].history[-1].text == secret.store.serves().credential.secret
        assert _line(report, Part.DESTINATION).state is State.DONE

    def test_what_holds_it_already_is_not_written(self, secret: Secret) -> None:
        secret.look()
        secret.look()

        assert len(secret.shelves[0].history) == 2

    def test_the_store_is_asked_again_right_before_each_write(self, secret: Secret) -> None:
        """Between the first read and the write another rotation may have finished."""
        secret.look()

        written = secret.world.calls.index("destination.write")
        looked = ["destination.look", "store.read", "store.read"]  # its value; and again
        assert secret.world.calls[written - 3 : written] == looked

    def test_what_is_no_longer_current_is_not_delivered(self, secret: Secret) -> None:
        def overtake(_: int, name: str) -> None:
            if name == "destination.look":
                secret.world.before = lambda *_: None
                secret.rotate(V2)

        secret.world.before = overtake

        report = secret.look()

        assert secret.shelves[0].version_id == V0
        assert isinstance(report.errors[0], Busy)

    def test_one_that_fails_does_not_keep_the_others_from_it(self) -> None:
        secret = Secret(shelves=2)
        secret.world.before = _failing("destination.write", times=1)

        report = secret.look()

        assert [shelf.version_id for shelf in secret.shelves] == [V0, V1]
        assert [line.state for line in report.about(Part.DESTINATION)] == [State.FAILED, State.DONE]
        assert isinstance(report.errors[0], Unreachable)

    def test_nobody_is_told_before_every_copy_is_there(self) -> None:
        """It would read the old value, and is told once only."""
        secret = Secret(shelves=2)
        secret.world.before = _failing("destination.write", times=1)

        report = secret.look()

        assert secret.consumer.told is None
        assert _line(report, Part.CONSUMER).waits_for
        assert report.look_again_in == SWEEP_EVERY


class TestRefresh:
    def test_who_reads_a_copy_is_told_when_the_copy_has_followed(self, secret: Secret) -> None:
        """It would read the old value there, and not be told again."""
        copy = MemoryConsumer(secret.world, "copy", secret._served)  # noqa: SLF001
        secret.consumer.reads = lambda: copy.runs
        secret.refreshes = [Refresh(secret.consumer), Refresh(copy, is_copy=True)]

        secret.look()
        told_at_first = secret.consumer.told
        secret.pass_time(copy.lag)
        secret.look()
        secret.pass_time(secret.consumer.lag)
        secret.look()

        assert (copy.told, told_at_first, secret.consumer.told) == (V1, None, V1)
        assert secret.consumer.runs == V1

    def test_a_copy_that_cannot_be_verified_keeps_nobody_waiting(self, secret: Secret) -> None:
        copy = MemoryConsumer(secret.world, "copy", secret._served, mood=Mood.LIES)  # noqa: SLF001
        secret.refreshes = [
            Refresh(copy, is_verified=False, is_copy=True),
            Refresh(secret.consumer),
        ]

        secret.look()

        assert secret.consumer.told == V1

    def test_one_that_cannot_be_verified_is_done_when_it_is_told(self, secret: Secret) -> None:
        """Nobody is alerted that it has not followed; and it is no proof that it has."""
        secret.consumer.mood = Mood.NEVER
        secret.refreshes = [Refresh(secret.consumer, is_verified=False)]

        [before] = secret.follow_up().status().about(Part.CONSUMER)
        [told] = secret.look().about(Part.CONSUMER)
        [later] = secret.look().about(Part.CONSUMER)

        assert (before.state, told.state, later.state) == (State.WAITING, State.DONE, State.DONE)
        assert not any(line.is_proof for line in (before, told, later))

    def test_a_consumer_is_told_once(self, secret: Secret) -> None:
        for _ in range(3):
            secret.look()

        assert secret.world.calls.count("consumer.trigger") == 1

    def test_one_that_follows_by_itself_is_not_told(self, secret: Secret) -> None:
        secret.consumer.runs = V1

        secret.look()

        assert secret.consumer.told is None

    def test_one_that_refuses_is_not_told(self, secret: Secret) -> None:
        secret.consumer.refuses = Misconfigured("it is paused", remedy="Resume it.")

        report = secret.look()

        assert secret.consumer.told is None
        assert _line(report, Part.CONSUMER).remedy == "Resume it."
        assert report.errors == [secret.consumer.refuses]

    def test_the_store_is_asked_again_right_before_it_is_told(self, secret: Secret) -> None:
        secret.look()

        told = secret.world.calls.index("consumer.trigger")
        assert secret.world.calls[told - 1] == "store.read"

    def test_one_that_goes_back_is_not_told_again(self, secret: Secret) -> None:
        """Who puts it back would do so again: a person must see to it."""
        secret.look()
        secret.pass_time(timedelta(minutes=5))
        secret.consumer.relapse(V0)

        report = secret.look()

        assert secret.consumer.restarts[V1] == 1
        assert _line(report, Part.CONSUMER).state is State.WAITING


class TestRetirement:
    def test_two_looks_retire(self, secret: Secret) -> None:
        sighting = secret.wait_for_grace()
        secret.pass_time(LOOKS_APART)

        report = secret.look(sighting)

        assert not secret.is_old_alive
        assert "previous" not in secret.store.labels
        assert report.look_again_in is None
        assert secret.look().look_again_in is None

    def test_one_look_does_not(self, secret: Secret) -> None:
        sighting = secret.wait_for_grace()

        report = secret.look(sighting)

        assert secret.is_old_alive
        assert report.look_again_in == LOOKS_APART

    def test_two_looks_without_word_of_the_first_do_not(self, secret: Secret) -> None:
        secret.wait_for_grace()
        secret.pass_time(LOOKS_APART)
        secret.look()

        assert secret.is_old_alive

    @pytest.mark.parametrize(
        "version_id,age",
        [
            (V0, LOOKS_APART),
            (V1, LOOKS_APART - timedelta(seconds=1)),
            (V1, SIGHTING_LASTS + timedelta(seconds=1)),
            (V1, -LOOKS_APART),
            (V1, GRACE + SIGHTING_LASTS),
        ],
    )
    def test_a_sighting_of_something_else_is_none(
        self, secret: Secret, version_id: RotationId, age: timedelta
    ) -> None:
        """Another version's, too young, too old, from the future, from before the promotion."""
        secret.wait_for_grace()

        secret.look(Sighting(version_id, secret.world.clock.now() - age))

        assert secret.is_old_alive

    def test_what_went_back_between_the_looks_keeps_it(self, secret: Secret) -> None:
        sighting = secret.wait_for_grace()
        secret.pass_time(LOOKS_APART)
        secret.consumer.relapse(V0)

        report = secret.look(sighting)

        assert secret.is_old_alive
        assert "api" in _line(report, Part.OLD_CREDENTIAL).waits_for

    def test_the_grace_keeps_it(self, secret: Secret) -> None:
        secret.look()
        secret.pass_time(GRACE - LOOKS_APART - timedelta(seconds=1))
        now = secret.world.clock.now()
        secret.pass_time(LOOKS_APART)

        report = secret.look(Sighting(V1, now))

        assert secret.is_old_alive
        assert "grace" in _line(report, Part.OLD_CREDENTIAL).waits_for
        assert report.sighting is None

    def test_a_newer_rotation_keeps_it(self, secret: Secret) -> None:
        sighting = secret.wait_for_grace()
        secret.pass_time(LOOKS_APART)
        secret.store.begin(V2)

        report = secret.look(sighting)

        assert secret.is_old_alive
        assert "v2" in _line(report, Part.OLD_CREDENTIAL).waits_for

    def test_a_rotation_that_begins_during_the_look_keeps_it(self, secret: Secret) -> None:
        sighting = secret.wait_for_grace()
        secret.pass_time(LOOKS_APART)
        secret.world.before = _at("database.login", lambda: secret.store.begin(V2))

        report = secret.look(sighting)

        assert secret.is_old_alive
        assert _line(report, Part.OLD_CREDENTIAL).state is State.WAITING
        assert report.errors == []

    def test_a_destination_that_lacks_it_keeps_it(self, secret: Secret) -> None:
        sighting = secret.wait_for_grace()
        secret.pass_time(LOOKS_APART)
        secret.shelves[0].write(Copy(None, Sensitive("somebody else's")))
        secret.world.before = _failing("destination.write")

        secret.look(sighting)

        assert secret.is_old_alive

    def test_a_consumer_that_cannot_be_verified_keeps_it_for_good(self, secret: Secret) -> None:
        secret.refreshes = [Refresh(secret.consumer, is_verified=False)]
        secret.look()
        secret.pass_time(timedelta(days=30))

        report = secret.look()

        assert secret.is_old_alive
        assert report.sighting is None
        assert "cannot be verified" in _line(report, Part.OLD_CREDENTIAL).waits_for

    def test_no_consumer_is_no_evidence(self, secret: Secret) -> None:
        secret.refreshes = []
        secret.pass_time(GRACE)

        report = secret.look()

        assert report.sighting is None
        assert "no consumer" in _line(report, Part.OLD_CREDENTIAL).waits_for

    def test_a_target_that_can_tell_is(self, secret: Secret) -> None:
        secret.refreshes = []
        secret.target = Asking()
        secret.pass_time(GRACE + timedelta(hours=4))
        sighting = secret.look().sighting
        secret.pass_time(LOOKS_APART)

        secret.look(sighting)

        assert "previous" not in secret.store.labels

    def test_a_target_that_hears_late_is_given_the_time(self, secret: Secret) -> None:
        """What was used until the end of the grace may not be known yet."""
        secret.refreshes = []
        secret.target = Asking()
        secret.pass_time(GRACE + timedelta(hours=4) - timedelta(seconds=1))

        report = secret.look()

        assert report.sighting is None
        assert "heard of every use" in _line(report, Part.OLD_CREDENTIAL).waits_for

    def test_a_target_that_could_tell_and_does_not_is_no_evidence(self, secret: Secret) -> None:
        secret.refreshes = []
        secret.target = Asking(lag=None)
        secret.pass_time(timedelta(days=1))

        assert secret.look().sighting is None

    def test_what_is_still_used_is_no_failure(self, secret: Secret) -> None:
        secret.target = Asking(Busy("K0 is still used", remedy=""))
        sighting = secret.wait_for_grace()
        secret.pass_time(LOOKS_APART)

        report = secret.look(sighting)

        assert secret.store.labels["previous"] == V0
        assert _line(report, Part.OLD_CREDENTIAL).waits_for == "K0 is still used"
        assert report.errors == []

    def test_the_plan_may_keep_it(self) -> None:
        secret = Secret(Retirement(When.NEVER))
        secret.look()
        secret.pass_time(timedelta(days=30))

        report = secret.look()

        assert secret.is_old_alive
        assert report.look_again_in is None

    def test_a_deadline_may_force_it(self) -> None:
        deadline = timedelta(days=7)
        secret = Secret(Retirement(When.VERIFIED, GRACE, deadline, AtDeadline.FORCE))
        secret.consumer.mood = Mood.NEVER
        secret.look()
        secret.pass_time(deadline - timedelta(seconds=1))
        secret.look()
        was_alive = secret.is_old_alive
        secret.pass_time(timedelta(seconds=1))

        secret.look()

        assert was_alive
        assert not secret.is_old_alive

    def test_an_open_session_keeps_it(self, secret: Secret) -> None:
        """Somebody works with it whom no consumer of the plan stands for."""
        secret.database.opened = [Opened("app", secret.world.clock.now() - timedelta(days=2))]
        sighting = secret.wait_for_grace()
        secret.pass_time(LOOKS_APART)

        kept = secret.look(sighting)
        was_alive = secret.is_old_alive
        secret.database.opened = []
        secret.look(sighting)

        assert "1 open session of 'app'" in _line(kept, Part.OLD_CREDENTIAL).waits_for
        assert kept.errors == []
        assert was_alive
        assert not secret.is_old_alive

    def test_no_deadline_forces_it_while_it_is_in_use(self) -> None:
        deadline = timedelta(days=7)
        secret = Secret(Retirement(When.VERIFIED, GRACE, deadline, AtDeadline.FORCE))
        secret.database.opened = [Opened("app", secret.world.clock.now() - timedelta(days=2))]
        secret.pass_time(deadline)

        report = secret.look()

        assert secret.is_old_alive
        assert "1 open session of 'app'" in _line(report, Part.OLD_CREDENTIAL).waits_for
        assert [alert.happening for alert in secret.notifier.alerts][-1] is Happening.HELD

    def test_no_deadline_forces_it_while_a_newer_rotation_is_on(self) -> None:
        deadline = timedelta(days=7)
        secret = Secret(Retirement(When.VERIFIED, GRACE, deadline, AtDeadline.FORCE))
        secret.store.begin(V2)
        secret.pass_time(deadline)

        secret.look()

        assert secret.is_old_alive

    def test_a_strategy_that_retires_nothing_says_so(self, secret: Secret) -> None:
        secret.target = SingleUser(secret.database, lambda: Sensitive(""))
        secret.look()
        secret.pass_time(GRACE)

        report = secret.look()

        assert "retires nothing" in _line(report, Part.OLD_CREDENTIAL).waits_for


class TestAlerts:
    def test_a_promotion_is_told_while_it_is_young(self, secret: Secret) -> None:
        secret.look()
        secret.pass_time(TOLD_WITHIN)
        secret.look()

        [alert] = secret.told(Happening.SUCCEEDED)
        assert (alert.ref, alert.version_id, alert.severity) == (REF, V1, Severity.INFO)

    def test_a_duplicate_has_the_same_id(self, secret: Secret) -> None:
        secret.look()
        secret.pass_time(timedelta(seconds=1))
        secret.look()

        first, second = secret.told(Happening.SUCCEEDED)
        assert first.id == second.id

    def test_a_consumer_that_does_not_follow_is_told_now_and_then(self, secret: Secret) -> None:
        """After half an hour, one, two, four .. hours, then once a day; not at each look."""
        secret.consumer.mood = Mood.NEVER
        for _ in range(3 * 24 * 12):
            secret.look()
            secret.pass_time(SWEEP_EVERY)

        alerts = secret.told(Happening.STUCK)

        assert len({alert.id for alert in alerts}) == 8
        assert len(alerts) == 16
        times = sorted({alert.window: alert.at for alert in reversed(alerts)}.values())
        since = [at - secret.store.promoted_at for at in times]
        assert since[:3] == [STUCK_AFTER, 2 * STUCK_AFTER, 4 * STUCK_AFTER]
        assert since[-1] - since[-2] == REPEAT_EVERY
        assert {(a.subject, a.severity) for a in alerts} == {("api", Severity.WARNING)}

    def test_one_that_does_not_follow_never_costs_the_old_credential(self, secret: Secret) -> None:
        secret.consumer.mood = Mood.NEVER
        secret.look()
        secret.pass_time(timedelta(days=7))

        secret.look()

        assert secret.is_old_alive
        [held] = secret.told(Happening.HELD)
        assert "api" in held.fact
        assert held.remedy

    def test_a_retirement_is_told_before_the_slot_is_empty(self, secret: Secret) -> None:
        """The empty slot is what makes it look finished: a crash in between repeats the alert."""
        sighting = secret.wait_for_grace()
        secret.pass_time(LOOKS_APART)

        secret.look(sighting)

        assert secret.world.calls[-3:] == ["database.set", "notifier.send", "store.clear"]
        [alert] = secret.told(Happening.RETIRED)
        assert alert.version_id == V0

    def test_a_retirement_that_nobody_heard_of_is_told_again(self, secret: Secret) -> None:
        sighting = secret.wait_for_grace()
        secret.pass_time(LOOKS_APART)
        secret.world.before = _failing("notifier.send", times=1)

        report = secret.look(sighting)

        assert secret.store.labels["previous"] == V0
        assert isinstance(report.errors[0], Unreachable)
        secret.look(sighting)
        assert len(secret.told(Happening.RETIRED)) == 1

    def test_a_notifier_that_fails_keeps_nothing_from_being_done(self, secret: Secret) -> None:
        secret.world.before = _failing("notifier.send")

        report = secret.look()

        assert secret.consumer.told == V1
        assert isinstance(report.errors[0], Unreachable)


class TestOnlySome:
    def test_nothing_else_is_touched(self) -> None:
        secret = Secret(shelves=2)

        report = secret.look(only=["shelf 2"])

        assert [shelf.version_id for shelf in secret.shelves] == [V0, V1]
        assert secret.consumer.told is None
        assert report.about(Part.OLD_CREDENTIAL) == []

    def test_nothing_is_retired(self, secret: Secret) -> None:
        sighting = secret.wait_for_grace()
        secret.pass_time(LOOKS_APART)

        secret.look(sighting, only=["api"])

        assert secret.is_old_alive

    def test_an_unknown_name_is_refused_before_anything_is_done(self, secret: Secret) -> None:
        with pytest.raises(Misconfigured, match="nothing of the name 'shelf 9'") as refusal:
            secret.look(only=["shelf 9"])

        assert "shelf 1, api" in refusal.value.remedy
        assert secret.world.calls == []


class TestStatus:
    def test_it_touches_nothing(self, secret: Secret) -> None:
        secret.pass_time(timedelta(days=7))

        report = secret.follow_up().status()

        touching = ("write", "trigger", "set", "clear", "send")
        assert [c for c in secret.world.calls if c.endswith(touching)] == []
        assert [(line.part, line.state) for line in report.lines] == [
            (Part.DESTINATION, State.WAITING),
            (Part.CONSUMER, State.WAITING),
            (Part.OLD_CREDENTIAL, State.WAITING),
        ]
        assert _line(report, Part.DESTINATION).waits_for == "it holds version v0"
        # What a consumer runs with, if it is not the current one, a look does not tell.
        assert [line.version_id for line in report.lines] == [V0, None, None]

    def test_all_is_done(self, secret: Secret) -> None:
        sighting = secret.wait_for_grace()
        secret.pass_time(LOOKS_APART)
        secret.look(sighting)

        report = secret.follow_up().status()

        assert {line.state for line in report.lines} == {State.DONE}
        assert report.version_id == V1
        assert [line.version_id for line in report.lines] == [V1, V1, None]


def test_a_store_that_cannot_be_read_ends_the_look(secret: Secret) -> None:
    secret.world.before = _failing("store.describe")

    with pytest.raises(Unreachable):
        secret.look()

    assert secret.shelves[0].version_id == V0


def test_a_promotion_between_the_two_reads_changes_nothing(secret: Secret) -> None:
    secret.world.before = _at("store.read", lambda: secret.rotate(V2))

    report = secret.look()

    assert {type(error) for error in report.errors} == {Busy}
    assert secret.shelves[0].version_id == V0
    assert secret.consumer.told is None


def test_where_all_is_done_no_value_is_read() -> None:
    """A sweep every five minutes would fill the trail of who reads which secret."""
    secret = Secret()
    secret.refreshes = []
    secret.look()
    secret.store.clear_previous(REF, V0)
    secret.world.calls.clear()

    secret.look()

    assert secret.world.calls == ["store.describe", "destination.look"]


def test_a_secret_without_a_value_is_refused(secret: Secret) -> None:
    del secret.store.labels["current"]

    with pytest.raises(Misconfigured, match="no value yet"):
        secret.look()


class Asking:
    """A `Retiring` target and a `Witness`."""

    def __init__(
        self, refusal: KeyturnError | None = None, lag: timedelta | None = timedelta(hours=4)
    ) -> None:
        self._refusal = refusal
        self.lag = lag

    def retire(self, current: Pending) -> None:
        current()
        if self._refusal is not None:
            raise self._refusal

    def usage_lag(self) -> timedelta | None:
        return self.lag

    def create(self, *_: object) -> Credential:
        raise Denied("not asked for", remedy="")

    def set(self, *_: object) -> None:
        raise Denied("not asked for", remedy="")

    def accepts(self, *_: object) -> bool:
        return True


def _failing(call: str, times: int = 10**6) -> Interruption:
    left = times

    def fail(_: int, name: str) -> None:
        nonlocal left
        if name == call and left:
            left -= 1
            raise Unreachable("no answer", remedy="")

    return fail


def _at(call: str, act: Callable[[], None]) -> Interruption:
    is_done = False

    def once(_: int, name: str) -> None:
        nonlocal is_done
        if name == call and not is_done:
            is_done = True
            act()

    return once
