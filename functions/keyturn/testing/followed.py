"""The fault sweep of the follow-up: break it at every external call, and see that it ends well.

    scenario  =  configuration x call x fault x what happens meanwhile x when a late effect lands

One secret with two passwords, in memory, rotated by the real code; two destinations; three
consumers that take their time, one of which reads what another one holds. In some scenes one of
them goes back; in some a guest is logged in, of whom the plan knows nothing. A clean follow-up
takes a handful of looks. Any one of its external calls is broken; before the next look another
worker looks, or a newer rotation begins, or comes and goes. After every call:

    never current   a destination holds what was never current
    back            a destination went back to what was current earlier
    told twice      a consumer was made to read anew twice for one version
    no evidence     the old credential died although a consumer had not been seen, twice, to follow;
                    or within the grace, or while a newer rotation was on
    refused         a consumer logs in with what is accepted no longer
    in use          it died while the guest was still logged in with it
    untold          it died, and nobody was told
    stuck           the looks do not come to an end, or to another one than they should

The same with the copy and its reader in a cluster: the real ExternalSecret and Deployment adapters
over the wire, `followed_cluster`.

One excuse, as in `keyturn.testing.scene`: a change of the database that was under way while another
rotation finished. Databases fence such changes off; this one does not. It is counted as overtaken.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from keyturn.errors import KeyturnError, Unreachable
from keyturn.follow_up import (
    LOOKS_APART,
    SWEEP_EVERY,
    Course,
    Delivery,
    FollowUp,
    Refresh,
    Retirement,
    When,
)
from keyturn.local.kubernetes import FakeKubernetes
from keyturn.model import Credential, Happening, RotationId, Sensitive, Sighting, Step, Version
from keyturn.rotation import Rotation
from keyturn.strategies import DualPassword
from keyturn.testing.fakes import (
    REF,
    Account,
    Copy,
    Crash,
    LabelledStore,
    MemoryConsumer,
    MemoryDatabase,
    MemoryDestination,
    MemoryNotifier,
    Opened,
    Postponed,
    World,
)
from keyturn.testing.followed_cluster import Watched, in_cluster

GRACE = timedelta(minutes=10)
PROMISES = (
    *("never current", "back", "told twice", "no evidence"),
    *("refused", "in use", "untold", "stuck"),
)
LOOKS = 60
"""After so many, a follow-up is stuck."""
GUEST_STAYS = timedelta(minutes=45)
"""Longer than a clean follow-up takes."""
FOLLOW_UP = type[FollowUp]


class Scene:
    """One secret and all that follows it. The follow-up's calls are numbered from `start` on.

    Attributes:
        violations: The promises that were broken.
        was_overtaken: A change of the database was under way while another rotation made its own.
        under_way: The call before which a worker stands still.
    """

    def __init__(
        self,
        *,
        relapses: bool = False,
        has_guest: bool = False,
        follow_up: FOLLOW_UP = FollowUp,
        cluster: FakeKubernetes | None = None,
    ) -> None:
        self.world = World()
        self.violations: set[str] = set()
        self.was_overtaken = False
        self.under_way = ""
        self._make = follow_up
        self._numbers = itertools.count(1)
        first = Credential("app", Sensitive("first"))
        self.store = LabelledStore(self.world, first)
        self.database = MemoryDatabase(self.world, {"app": Account("first")})
        self.target = DualPassword(self.database, self._fresh)
        self.shelves = [MemoryDestination(self.world, f"shelf {n}") for n in (1, 2)]
        for shelf in self.shelves:
            shelf.write(Copy(RotationId("v0"), first.secret))
        shelved = MemoryConsumer(
            self.world, "from a shelf", self._shelved, lag=timedelta(minutes=4)
        )
        self.consumers: list[Watched] = [
            MemoryConsumer(
                self.world, "a copy of the store", self._served, lag=timedelta(minutes=6)
            ),
            shelved,
            MemoryConsumer(self.world, "from the copy", self._copied, lag=timedelta(minutes=2)),
        ]
        if cluster is not None:
            self.consumers = in_cluster(cluster, self.world, self.store, shelved)
        self._shelved_consumer = shelved
        self.notifier = MemoryNotifier(self.world)
        self.messages: list[tuple[datetime, Sighting]] = []
        self.currents = [RotationId("v0")]
        self._accepted = self._accepts()
        self._is_rotating = self._is_landing = False
        self._pending: RotationId | None = None
        started = self.world.clock.now()
        self._relapse_at = started + GRACE + timedelta(minutes=2) if relapses else None
        self._mend_at = started + timedelta(minutes=40)
        self._guest_leaves_at = started + GUEST_STAYS if has_guest else started
        if has_guest:
            self.database.opened = [Opened("app", started)]
            self.world.clock.advance(timedelta(seconds=1))

    def follow_up(self) -> FollowUp:
        """Make a worker. It knows nothing."""
        course = Course(
            [Delivery(shelf, _rendered) for shelf in self.shelves],
            [
                Refresh(consumer, is_copy=consumer is self.consumers[0])
                for consumer in self.consumers
            ],
            Retirement(When.VERIFIED, GRACE),
        )
        return self._make(
            REF,
            course,
            store=self.store,
            targets=lambda _: self.target,
            notifiers=[self.notifier],
            clock=self.world.clock,
        )

    def look(self, sighting: Sighting | None = None) -> bool:
        """Look once; tell whether nothing is left to do."""
        report = self.follow_up().look(sighting)
        if report.sighting is not None:
            self.messages.append((self.world.clock.now() + LOOKS_APART, report.sighting))
        return report.look_again_in is None

    def rotate(self) -> None:
        """Let a rotation come and go, or finish the one that is on."""
        with self._undisturbed():
            rotation_id = self._pending or self._begin()
            rotation = Rotation(
                REF,
                rotation_id,
                store=self.store,
                targets=lambda _: self.target,
                clock=self.world.clock,
            )
            rotation.run()
            self._pending = None
            self.currents.append(rotation_id)
        self._note_overtaking()

    def begin_to_rotate(self) -> None:
        """Let a rotation come as far as set."""
        with self._undisturbed():
            self._pending = self._begin()
            rotation = Rotation(
                REF,
                self._pending,
                store=self.store,
                targets=lambda _: self.target,
                clock=self.world.clock,
            )
            rotation.perform(Step.CREATE)
            rotation.perform(Step.SET)
        self._note_overtaking()

    def land(self) -> None:
        """Let come what is under way. What speaks for it was seen when it was sent."""
        self._is_landing = True
        self.world.land()
        self.check()
        self._is_landing = False

    def converge(self, tick: int = 0) -> None:
        """Sweep until nothing is left to do, or for too long."""
        for number in range(tick, LOOKS):
            if number == tick + 4 and self._pending:
                self.rotate()
            if self.tick():
                break
        else:
            self.violations.add("stuck")
        self.check_end()

    def tick(self) -> bool:
        """Do what is due now, then let time pass; tell whether nothing is left to do."""
        now = self.world.clock.now()
        due = [each for each in self.messages if each[0] <= now]
        self.messages = [each for each in self.messages if each[0] > now]
        is_over = False
        for sighting in [*(sighting for _, sighting in due), None]:
            try:
                is_over = self.look(sighting)
            except (KeyturnError, Crash):
                is_over = False
        self.world.clock.advance(SWEEP_EVERY)
        self._pass_time()
        self.check()
        return is_over and not self._pending

    def _pass_time(self) -> None:
        now = self.world.clock.now()
        for consumer in self.consumers:
            consumer.pass_time()
        if self._relapse_at is not None and now >= self._relapse_at:
            self._shelved_consumer.relapse(RotationId("v0"))
            self._relapse_at = None
        if now >= self._guest_leaves_at:
            self.database.opened = []
        if now >= self._mend_at and self._shelved_consumer.runs == RotationId("v0"):
            self._shelved_consumer.mend()

    def check(self) -> None:
        """Look at everything, as nobody can."""
        for shelf in self.shelves:
            self._check_shelf(shelf)
        for consumer in self.consumers:
            if any(count > 1 for count in consumer.restarts.values()):
                self.violations.add("told twice")
        gone, self._accepted = self._accepted - self._accepts(), self._accepts()
        if gone and not self._is_rotating and not self.was_overtaken:
            self._check_retirement(gone)

    def check_end(self) -> None:
        """Look whether it is the end that it should be."""
        current = self.store.serves().rotation_id
        if any(shelf.history[-1].version_id != current for shelf in self.shelves):
            self.violations.add("stuck")
        if any(consumer.runs != current for consumer in self.consumers):
            self.violations.add("stuck")
        if "previous" in self.store.labels:
            self.violations.add("stuck")
        if not self.was_overtaken and len(self._accepts()) != 1:
            self.violations.add("stuck")
        told = [a.version_id for a in self.notifier.alerts if a.happening is Happening.RETIRED]
        if self.currents[-2] not in told:
            self.violations.add("untold")

    def _check_shelf(self, shelf: MemoryDestination) -> None:
        held = [copy.version_id for copy in shelf.history]
        if not set(held) <= {*self.currents}:
            self.violations.add("never current")
        elif held != sorted(held, key=self._order):
            self.violations.add("back")

    def _order(self, version_id: RotationId | None) -> int:
        return self.currents.index(version_id) if version_id else -1

    def _check_retirement(self, gone: frozenset[str]) -> None:
        if any(self._secret_of(consumer.runs) in gone for consumer in self.consumers):
            self.violations.add("refused")
        if self.world.clock.now() < self._guest_leaves_at:
            self.violations.add("in use")
        current, now = self.store.serves().rotation_id, self.world.clock.now()
        is_early = now - self.store.promoted_at < GRACE
        if is_early or self._pending or not all(self._was_seen(c, current) for c in self.consumers):
            self.violations.add("no evidence")

    def _was_seen(self, consumer: Watched, current: RotationId) -> bool:
        """Tell whether it was seen to follow, twice, the second time now, and never not between."""
        now = self.world.clock.now()
        since = [at for at, version_id, followed in consumer.sights if not followed]
        seen = [
            at
            for at, version_id, followed in consumer.sights
            if followed and version_id == current and at >= max(since, default=at)
        ]
        age = SWEEP_EVERY if self._is_landing else timedelta()
        return bool(seen) and now - seen[-1] <= age and seen[-1] - seen[0] >= LOOKS_APART

    def _note_overtaking(self) -> None:
        names = {self.under_way, *(name for name, _ in self.world.in_flight)}
        self.was_overtaken = self.was_overtaken or "database.set" in names

    def _begin(self) -> RotationId:
        rotation_id = RotationId(f"v{len(self.store.versions)}")
        self.store.begin(rotation_id)
        return rotation_id

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        before, after = self.world.before, self.world.after
        self.world.before = self.world.after = _carry_on
        self._is_rotating = True
        try:
            yield
        finally:
            self.world.before, self.world.after = before, after
            self._accepted = self._accepts()
            self._is_rotating = False

    def _fresh(self) -> Sensitive:
        return Sensitive(f"made-{next(self._numbers)}")

    def _served(self) -> RotationId:
        return self.store.serves().rotation_id

    def _shelved(self) -> RotationId:
        return self.shelves[0].history[-1].version_id or RotationId("")

    def _copied(self) -> RotationId:
        return self.consumers[0].runs

    def _accepts(self) -> frozenset[str]:
        account = self.database.accounts["app"]
        return frozenset(filter(None, (account.password, account.second)))

    def _secret_of(self, version_id: RotationId) -> str:
        version = self.store.versions[version_id]
        return version.credential.secret.reveal() if version else ""


def _rendered(version: Version) -> Sensitive:
    return version.credential.secret


def _carry_on(number: int, name: str) -> None:
    del number, name


# ---------------------------------------------------------------------------- scenarios


class Fault(StrEnum):
    """What happens at the call."""

    NONE = "stalls before"
    ERROR_BEFORE = "no answer, no effect"
    CRASH_BEFORE = "crash before"
    LOST_REPLY = "reply lost"
    CRASH_AFTER = "crash after"
    LATE = "effect lands later"


class Meanwhile(StrEnum):
    """What happens then, before the next look; where the worker stalls, before it goes on."""

    NOTHING = "nothing"
    OTHER = "another worker looks"
    BEGUN = "a newer rotation begins"
    NEWER = "a newer rotation comes and goes"
    NEWER_SEEN = "a newer rotation, and another worker looks"


class Landing(StrEnum):
    """When a late effect comes."""

    SOON = "before the next look"
    LATER = "after the next look"


WRITES = {
    *("destination.write", "consumer.trigger", "database.set", "store.clear", "notifier.send"),
    "kubernetes.patch",
}


@dataclass(frozen=True, slots=True)
class Scenario:
    """One combination."""

    relapses: bool
    call: int
    name: str
    fault: Fault
    meanwhile: Meanwhile
    landing: Landing = Landing.SOON
    has_guest: bool = False

    def __str__(self) -> str:
        """Say it in a line."""
        who = "one goes back: " if self.relapses else "with a guest: " if self.has_guest else ""
        return (
            f"{who}call {self.call} ({self.name}): {self.fault}, {self.meanwhile}, {self.landing}"
        )


@dataclass
class Tally:
    """What was played, and what was found."""

    played: int = 0
    calls: int = 0
    overtaken: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    violations: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, scenario: Scenario, scene: Scene) -> None:
        """Count one scenario."""
        self.played += 1
        self.overtaken += scene.was_overtaken
        self.calls += len(scene.world.calls)
        self.faults[scenario.fault] += 1
        for violation in scene.violations:
            self.violations[violation] += 1
            self.examples.setdefault(violation, str(scenario))


def calls_of(
    *, relapses: bool = False, has_guest: bool = False, cluster: FakeKubernetes | None = None
) -> list[str]:
    """Return the external calls of a clean follow-up, in order."""
    scene = Scene(relapses=relapses, has_guest=has_guest, cluster=cluster)
    scene.rotate()
    before = len(scene.world.calls)
    scene.world.after = lambda *_: scene.check()
    scene.converge()
    assert not scene.violations, scene.violations
    return scene.world.calls[before:]


def scenarios() -> Iterator[Scenario]:
    """Yield every combination that makes sense."""
    for relapses, has_guest in ((False, False), (True, False), (False, True)):
        calls = calls_of(relapses=relapses, has_guest=has_guest)
        yield from scenarios_of(calls, relapses=relapses, has_guest=has_guest)


def scenarios_of(
    calls: Sequence[str], *, relapses: bool = False, has_guest: bool = False
) -> Iterator[Scenario]:
    """Yield those for the calls of one clean follow-up."""
    for call, name in enumerate(calls, 1):
        for fault, meanwhile in itertools.product(Fault, Meanwhile):
            scenario = Scenario(relapses, call, name, fault, meanwhile, has_guest=has_guest)
            if fault is not Fault.LATE:
                yield scenario
            elif name in WRITES:
                yield from (replace(scenario, landing=landing) for landing in Landing)


def scenarios_in_cluster() -> list[Scenario]:
    """Return those for a follow-up whose copy and reader are in a cluster."""
    with FakeKubernetes() as cluster:
        calls = calls_of(cluster=cluster)
    return list(scenarios_of(calls))


def play_in_cluster(scenario: Scenario, follow_up: FOLLOW_UP = FollowUp) -> Scene:
    """Play one of these, in a cluster of its own, over the real wire."""
    with FakeKubernetes() as cluster:
        return play(scenario, follow_up, cluster)


def sample(
    size: int, seed: str, among: Callable[[], Iterable[Scenario]] = scenarios
) -> list[Scenario]:
    """Return *size* of the scenarios: the same ones for the same seed."""

    def drawn(scenario: Scenario) -> bytes:
        return hashlib.sha256(f"{seed}{scenario}".encode()).digest()

    return sorted(among(), key=drawn)[:size]


class _Break:
    """What interrupts a scene at the call of a scenario, once."""

    def __init__(self, scene: Scene, scenario: Scenario) -> None:
        self._scene = scene
        self._scenario = scenario
        self._at = len(scene.world.calls) + scenario.call
        self.is_played = False
        scene.world.before, scene.world.after = self._before, self._after

    def _before(self, number: int, name: str) -> None:
        if number != self._at or self.is_played:
            return
        self.is_played = True
        match self._scenario.fault:
            case Fault.NONE:
                self._scene.under_way = name
                _meanwhile(self._scene, self._scenario.meanwhile)
                self._scene.under_way = ""
            case Fault.ERROR_BEFORE:
                raise Unreachable("no answer", remedy="")
            case Fault.CRASH_BEFORE:
                raise Crash
            case Fault.LATE:
                raise Postponed

    def _after(self, number: int, name: str) -> None:
        del name
        self._scene.check()
        if number != self._at:
            return
        if self._scenario.fault is Fault.LOST_REPLY:
            raise Unreachable("no answer", remedy="")
        if self._scenario.fault is Fault.CRASH_AFTER:
            raise Crash


def play(
    scenario: Scenario, follow_up: FOLLOW_UP = FollowUp, cluster: FakeKubernetes | None = None
) -> Scene:
    """Play one scenario; with a cluster, against its API, over the real wire."""
    scene = Scene(
        relapses=scenario.relapses,
        has_guest=scenario.has_guest,
        follow_up=follow_up,
        cluster=cluster,
    )
    scene.rotate()
    broken = _Break(scene, scenario)
    for _ in range(LOOKS):
        if broken.is_played:
            break
        scene.tick()
    if scenario.fault is not Fault.NONE:
        _meanwhile(scene, scenario.meanwhile)
    if scenario.landing is Landing.LATER:
        scene.tick()
    scene.land()
    if scene.was_overtaken:
        scene.rotate()  # which mends what came after another rotation
    scene.converge()
    return scene


def _meanwhile(scene: Scene, meanwhile: Meanwhile) -> None:
    if meanwhile is Meanwhile.BEGUN:
        scene.begin_to_rotate()
    if meanwhile in {Meanwhile.NEWER, Meanwhile.NEWER_SEEN}:
        scene.rotate()
    if meanwhile in {Meanwhile.OTHER, Meanwhile.NEWER_SEEN}:
        scene.look()


def sweep(chosen: Iterable[Scenario], follow_up: FOLLOW_UP = FollowUp) -> Tally:
    """Play them all."""
    tally = Tally()
    for scenario in chosen:
        tally.add(scenario, play(scenario, follow_up))
    return tally


def table(tally: Tally) -> str:
    """Draw what `make proof` prints."""
    lines = [f"{tally.played} scenarios, {tally.calls} external calls"]
    lines += [f"  {count:6}  {fault}" for fault, count in sorted(tally.faults.items())]
    lines += ["broken promises:"]
    lines += [f"  {tally.violations[name]:6}  {name}" for name in PROMISES]
    lines += [
        f"  {tally.overtaken:6}  overtaken: a change was under way, and the next one mended it"
    ]
    lines += [f"  {name}: {example}" for name, example in tally.examples.items()]
    return "\n".join(lines)
