"""The fault sweep of the Google-shaped store: break a rotation at every external call.

    scenario  =  strategy x lateness of reads x call x fault x what happens meanwhile

The real rotation and the real store run against the local Secret Manager over real gRPC, and
`google_subjects`: an in-memory database, an issuer of keys, or nothing. An event is delivered until
it is acknowledged: by success, or because the store says that its rotation is over. A clean
rotation comes first; then one is broken, at one call; then the same event comes again, or twice at
once, or newer rotations come and go. After every call:

    untested    a reader of `latest`, of any number or of an alias gets a value that never logged in
    refused     what `latest` or the alias says is refused; with one slot, while nobody rotates;
                or a value has nothing of the one before, which its verifiers need
    unreadable  there is nothing to be read there
    unended     an event is not acknowledged after many deliveries
    unhealed    after one more rotation: something pends, or `latest` is not current, or is refused
    repeated    an event that comes once more changes something
    orphaned    a key is left that no version has, and nobody was told

One excuse, as in `keyturn.testing.scene`: a change of the database, or the addition of a version,
that was under way while a newer rotation came and went. Neither can be fenced off here. Readers may
be refused then, until the next rotation or the next look of a follow-up. It is counted: overtaken.

Readers are looked at as of now; those that are late get the version before, which two slots accept.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

from keyturn.errors import KeyturnError, Unreachable, Untraceable
from keyturn.local.secret_manager import LocalSecretManager, let_pass
from keyturn.local.secret_manager_rules import RefusedError
from keyturn.minted import Place
from keyturn.model import RotationId, SecretRef
from keyturn.rotation import STALE_AFTER, Rotation
from keyturn.stores.secret_manager import SecretManager
from keyturn.testing.fakes import Crash, FakeClock, Postponed, World
from keyturn.testing.faults import Moment, Verdict
from keyturn.testing.google_subjects import SUBJECTS, unanswered
from keyturn.testing.scene import ACTS, KEYS

PROMISES = ("untested", "refused", "unreadable", "unended", "unhealed", "repeated", "orphaned")
PARENT = "projects/123456789"
STRATEGY_NAMES = tuple(SUBJECTS)
LAGS = (0, 3)
DELIVERIES = 60
"""After so many, an event does not end."""
BETWEEN, LONGEST_BETWEEN = timedelta(seconds=30), timedelta(minutes=10)
"""Between two deliveries: each pause is twice the one before, as a push subscription's are."""
ADD = "add_secret_version"
WRITES = {ADD, "update_secret", "destroy_secret_version", *ACTS, *KEYS}
"""Calls with an effect."""


ACTED_ON = ("database.", "authority.", "issuer.")
"""What the names of calls to a subject begin with."""


class Fault(StrEnum):
    """What happens at the call."""

    STALLS = "stalls before"
    ERROR = "no answer, no effect"
    GONE = "no answer from here on"
    CRASH_BEFORE = "crash before"
    LOST_REPLY = "reply lost"
    LOST_THEN_GONE = "reply lost, then no answer"
    CRASH_AFTER = "crash after"
    LATE = "no answer from here on; the effect lands last"


class Meanwhile(StrEnum):
    """What happens then, before the event comes again; where the worker stalls, before it goes on.

    A newer rotation comes when the broken one is stale, and takes the slot.
    """

    NOTHING = "nothing"
    DUPLICATE = "the same event, to another worker"
    NEWER = "a newer rotation"
    TWO_NEWER = "two newer rotations"


@dataclass(frozen=True, slots=True)
class Scenario:
    """One combination."""

    strategy: str
    lag: int
    call: int
    name: str
    fault: Fault
    meanwhile: Meanwhile

    def __str__(self) -> str:
        """Say it in a line."""
        return (
            f"{self.strategy}, lag {self.lag}, call {self.call} ({self.name}):"
            f" {self.fault}; {self.meanwhile}"
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one scenario.

    Attributes:
        violations: The promises that were broken.
        was_overtaken: See the excuse.
        calls: How many external calls there were.
    """

    violations: frozenset[str]
    was_overtaken: bool
    calls: int


class Scene:
    """One secret, its companion, its database, and whoever reads it.

    Attributes:
        violations: The promises that were broken.
        was_overtaken: See the excuse.
        calls: The external calls, in order.
        finished: The rotations whose events were acknowledged.
        told: What a person was told to look for, in words.
    """

    def __init__(
        self,
        google: LocalSecretManager,
        strategy: str,
        number: int,
        clock: FakeClock,
        *,
        make: type[SecretManager] = SecretManager,
    ) -> None:
        self.violations: set[str] = set()
        self.was_overtaken = False
        self.calls: list[str] = []
        self.finished: list[RotationId] = []
        self.told = ""
        self.before: Callable[[int, str], None] = _carry_on
        self.after: Callable[[int, str], None] = _carry_on
        self.under_way = ""
        self._google = google
        self._clock = clock
        self._make = make
        self._client = google.client()
        self._numbers = itertools.count(1)
        self._acted = False
        self._latest: list[str] = []
        self.world = World(clock)
        self.world.before = lambda _, name: self.begin(name)
        self.world.after = lambda _, name: self.end(name)
        self._subject = SUBJECTS[strategy](self.world)
        self.ref = SecretRef(f"{PARENT}/secrets/s{number}")
        for name in (f"s{number}", f"s{number}-pending"):
            replicated: dict[str, Any] = {"replication": {"automatic": {}}}
            self._client.create_secret(parent=PARENT, secret_id=name, secret=replicated)
        first = self._subject.first.encode()
        self._client.add_secret_version(parent=self.ref, payload={"data": first})

    # ------------------------------------------------------------------------ events

    def deliver(self, rotation_id: RotationId) -> bool:
        """Deliver an event once, to a worker that knows nothing; tell whether it acknowledges."""
        store = self._store(_Client(self._client, self))
        target = self._subject.target(Place(store, self.ref, rotation_id), next(self._numbers))
        try:
            if not store.is_over(self.ref, rotation_id):
                Rotation(
                    self.ref,
                    rotation_id,
                    store=store,
                    targets=lambda _: target,
                    clock=self._clock,
                ).run()
        except Untraceable as error:
            self.told += f"{error}\n"
            with suppress(KeyturnError, Crash):
                error.when_told()
            return False
        except (KeyturnError, Crash):
            return False
        self._acted = False
        return True

    def finish(self, rotation_id: RotationId) -> None:
        """Deliver an event until it is acknowledged."""
        pause = BETWEEN
        for _ in range(DELIVERIES):
            if self.deliver(rotation_id):
                self.finished.append(rotation_id)
                return
            self._clock.advance(pause)
            pause = min(2 * pause, LONGEST_BETWEEN)
        self.violations.add("unended")

    def be_newer(self, rotation_id: RotationId) -> None:
        """Let a rotation come and go, long after the one that is under way."""
        with self.undisturbed():
            self._clock.advance(STALE_AFTER + BETWEEN)
            self.finish(rotation_id)
        self.was_overtaken |= self.under_way in {*ACTS, ADD}

    def undisturbed(self) -> _Undisturbed:
        """Break nothing while it is entered. What has happened is looked at all the same."""
        return _Undisturbed(self)

    def look_again(self) -> None:
        """Do as the sweep of a follow-up does: see what stands. Then `latest` is current."""
        store = self._store(self._client)
        for _ in range(DELIVERIES):
            with suppress(KeyturnError):
                store.standing(self.ref)
                store.current(self.ref)
                return

    def _store(self, client: Any) -> SecretManager:
        return self._make(
            client,
            clock=self._clock,
            pause=self._pause,
            members_of=self._subject.members_of,
            has_aliases=True,
        )

    # ------------------------------------------------------------------------ calls

    def begin(self, name: str) -> None:
        """Be told of a call that is about to be made."""
        self.calls.append(name)
        self.before(len(self.calls), name)
        unanswered(self._subject, name)

    def end(self, name: str) -> None:
        """Be told of a call that has been answered."""
        self._acted = self._acted or name in ACTS
        self.look_after(name)
        self.after(len(self.calls), name)

    # ------------------------------------------------------------------------ promises

    def look_after(self, name: str) -> None:
        """Be every reader there is, unless the call cannot have changed anything."""
        if name in WRITES:
            self.look()

    def look(self) -> None:
        """Be every reader there is."""
        values = {payload.decode() for payload in self._held().payloads.values()}
        if not all(map(self._subject.is_tested, values)):
            self.violations.add("untested")
        for which in ("latest", "current"):
            self._look_at(which)

    def check_end(self, rotation_id: RotationId) -> None:
        """Look whether it is the end that it should be."""
        record = dict(self._google.vault.look(f"{self.ref}-pending").secret.annotations)
        number, _, name = record["keyturn-current"].partition(":")
        current = self._google.read(f"{self.ref}/versions/{number}")
        if name != rotation_id or "keyturn-pending" in record:
            self.violations.add("unhealed")
        self.check_latest()
        if not self._subject.accepts(current):
            self.violations.add("unhealed")
        beside = self._google.vault.look(f"{self.ref}-pending").payloads.values()
        held = {data.decode() for data in self._held().payloads.values()}
        # What is staged begins with a line of the store's.
        held |= {data.decode().partition("\n")[2] for data in beside}
        left = self._subject.leftovers(held)
        if not all(re.search(rf"\b{each}\b", self.told) for each in left):
            self.violations.add("orphaned")

    def check_latest(self) -> None:
        """Look whether readers of `latest` get what is current."""
        record = self._google.vault.look(f"{self.ref}-pending").secret.annotations
        number = record["keyturn-current"].partition(":")[0]
        texts = {self._google.read(f"{self.ref}/versions/{each}") for each in (number, "latest")}
        if len(texts) > 1:
            self.violations.add("unhealed")

    def outcome(self) -> Outcome:
        """Return what came of it so far."""
        return Outcome(frozenset(self.violations), self.was_overtaken, len(self.calls))

    def state(self) -> object:
        """Return all that a repeated event must not change."""
        companion = self._google.vault.look(f"{self.ref}-pending")
        return len(self._held().versions), len(companion.versions), self._subject.state()

    def _look_at(self, which: str) -> None:
        try:
            text = self._google.read(f"{self.ref}/versions/{which}")
        except RefusedError:
            if which == "latest" or self._held().secret.version_aliases:
                self.violations.add("unreadable")
            return
        is_served = self._subject.accepts(text)
        if which == "latest" and [text] != self._latest[-1:]:
            is_served = is_served and self._subject.follows(text, [text, *self._latest][-1])
            self._latest.append(text)
        is_allowed = self._subject.slots == 1 and self._acted
        if not is_allowed and not self.was_overtaken and not is_served:
            self.violations.add("refused")

    def _held(self) -> Any:
        return self._google.vault.look(self.ref)

    def _pause(self, wait_s: float) -> bool:
        self._clock.advance(timedelta(seconds=wait_s))
        return True

    def be_gone(self) -> None:
        """Answer nothing any more, until `mend`."""
        self._google.interrupt = lambda *_: Verdict.CUT
        self._subject.is_gone = True

    def break_next(self, verdict: Verdict, moment: Moment, *, is_last: bool) -> None:
        """Break the next call to Google at the wire, and all after it if *is_last*."""

        def interrupt(number: int, method: str, now: Moment) -> Verdict:
            del number, method
            if now is not moment:
                return Verdict.PASS
            self._google.interrupt = let_pass
            if is_last:
                self.be_gone()
            return verdict

        self._google.interrupt = interrupt

    def mend(self) -> None:
        """Answer again."""
        self._google.interrupt = let_pass
        self._subject.is_gone = False

    def land(self) -> None:
        """Let come what was held; a change of the database is part of a rotation under way."""
        self._acted = self._acted or bool(self.world.in_flight)
        self._google.release()
        self.world.land()


class _Undisturbed:
    """No faults, for whoever is not the broken worker."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._hooks = scene.before, scene.after

    def __enter__(self) -> None:
        self._scene.before = self._scene.after = _carry_on

    def __exit__(self, *_: object) -> None:
        self._scene.before, self._scene.after = self._hooks


class _Client:
    """The official client, which tells the scene of each call. It may crash its worker."""

    def __init__(self, client: Any, scene: Scene) -> None:
        self._client = client
        self._scene = scene

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)

        def call(*args: Any, **how: Any) -> Any:
            self._scene.begin(name)
            try:
                answer = method(*args, **how)
            except Exception:
                self._scene.look_after(name)  # It may have had its effect.
                raise
            self._scene.end(name)
            return answer

        return call


def _carry_on(number: int, name: str) -> None:
    del number, name


# ---------------------------------------------------------------------------- scenarios


@dataclass
class Tally:
    """What was played, and what was found."""

    played: int = 0
    calls: int = 0
    overtaken: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    violations: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, scenario: Scenario, outcome: Outcome) -> None:
        """Count one scenario."""
        self.played += 1
        self.overtaken += outcome.was_overtaken
        self.calls += outcome.calls
        self.faults[scenario.fault] += 1
        for violation in outcome.violations:
            self.violations[violation] += 1
            self.examples.setdefault(violation, str(scenario))


class Sweep:
    """The local Secret Manager, in which each scenario has a secret of its own. Enter it.

    Args:
        make: The store. Anything but the real one is a mistake planted by a test.
    """

    def __init__(self, make: type[SecretManager] = SecretManager) -> None:
        self._make = make
        self._stack = ExitStack()
        self._numbers = itertools.count(1)
        self._clock = FakeClock()
        self._google = LocalSecretManager(now=self._clock.now)

    def __enter__(self) -> Self:
        self._stack.enter_context(self._google)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def scene(self, strategy: str) -> Scene:
        """Make a secret that has been rotated once."""
        self._google.vault.be_late(0)
        number = next(self._numbers)
        scene = Scene(self._google, strategy, number, self._clock, make=self._make)
        scene.finish(RotationId("e0"))
        self._clock.advance(STALE_AFTER + BETWEEN)
        return scene

    def calls_of(self, strategy: str) -> list[str]:
        """Return the external calls of a clean rotation, in order."""
        scene = self.scene(strategy)
        before = len(scene.calls)
        scene.finish(RotationId("e1"))
        assert not scene.violations, scene.violations
        return scene.calls[before:]

    def scenarios(self) -> Iterator[Scenario]:
        """Yield every combination that makes sense."""
        for strategy, lag in itertools.product(STRATEGY_NAMES, LAGS):
            for call, name in enumerate(self.calls_of(strategy), 1):
                for fault, meanwhile in itertools.product(Fault, Meanwhile):
                    if fault is not Fault.LATE or name in WRITES:
                        yield Scenario(strategy, lag, call, name, fault, meanwhile)

    def sample(self, of_each: int, seed: str) -> list[Scenario]:
        """Return so many scenarios of each fault: the same ones for the same seed."""

        def drawn(scenario: Scenario) -> bytes:
            return hashlib.sha256(f"{seed}{scenario}".encode()).digest()

        every = sorted(self.scenarios(), key=drawn)
        # By turns through the strategies and the reads' lateness, so that none is left out.
        turns = itertools.cycle(itertools.product(STRATEGY_NAMES, LAGS))
        return [
            next(s for s in every if s.fault is fault and (s.strategy, s.lag) == turn)
            for fault in Fault
            for turn in itertools.islice(turns, of_each)
        ]

    def play(self, scenario: Scenario) -> Scene:
        """Play one scenario."""
        scene = self.scene(scenario.strategy)
        self._google.vault.be_late(scenario.lag, str(scenario))
        broken = _Break(scene, scenario)
        for _ in range(DELIVERIES):  # A read that is late may end the first of them too early.
            if scene.deliver(RotationId("e1")) or broken.is_played:
                break
        broken.stop()
        if scenario.fault is not Fault.STALLS:
            scene.under_way = scenario.name if scenario.fault is Fault.LATE else ""
            _meanwhile(scene, scenario.meanwhile)
            scene.under_way = ""
        scene.land()
        scene.finish(RotationId("e1"))
        scene.look_again()
        scene.check_latest()
        scene.look()
        self._converge(scene)
        return scene

    def _converge(self, scene: Scene) -> None:
        scene.be_newer(RotationId("z"))
        scene.check_end(RotationId("z"))
        before = scene.state()
        for rotation_id in list(scene.finished):
            scene.finish(rotation_id)
        if scene.state() != before:
            scene.violations.add("repeated")
        self._google.vault.be_late(0)

    def sweep(self, chosen: Iterable[Scenario]) -> Tally:
        """Play them all."""
        tally = Tally()
        for scenario in chosen:
            tally.add(scenario, self.play(scenario).outcome())
        return tally


_NEWER = {
    Meanwhile.NOTHING: (),
    Meanwhile.DUPLICATE: (),
    Meanwhile.NEWER: ("n1",),
    Meanwhile.TWO_NEWER: ("n1", "n2"),
}


def _meanwhile(scene: Scene, meanwhile: Meanwhile) -> None:
    if meanwhile is Meanwhile.DUPLICATE:
        with scene.undisturbed():
            scene.deliver(RotationId("e1"))
    for name in _NEWER[meanwhile]:
        scene.be_newer(RotationId(name))


class _Break:
    """What interrupts a scene at the call of a scenario, once."""

    def __init__(self, scene: Scene, scenario: Scenario) -> None:
        self._scene = scene
        self._scenario = scenario
        self._at = len(scene.calls) + scenario.call
        self.is_played = False
        scene.before, scene.after = self._before, self._after

    def stop(self) -> None:
        """Break nothing any more."""
        self._scene.before = self._scene.after = _carry_on
        self._scene.mend()

    def _before(self, number: int, name: str) -> None:
        if number != self._at or self.is_played:
            return
        self.is_played = True
        match self._scenario.fault:
            case Fault.STALLS:
                self._scene.under_way = name
                _meanwhile(self._scene, self._scenario.meanwhile)
                self._scene.under_way = ""
            case Fault.CRASH_BEFORE:
                raise Crash
            case fault if name.startswith(ACTED_ON):
                self._before_subject(fault, name)
            case fault:
                self._before_google(fault)

    def _before_subject(self, fault: Fault, name: str) -> None:
        if fault in {Fault.GONE, Fault.LATE}:
            self._scene.be_gone()
        if fault is Fault.LATE and self._scenario.strategy == "single" and name in WRITES:
            raise Postponed  # The in-memory database can do that to the plain change only.
        if fault in {Fault.GONE, Fault.ERROR, Fault.LATE}:
            raise Unreachable("no answer", remedy="")

    def _before_google(self, fault: Fault) -> None:
        broken = {
            Fault.ERROR: (Verdict.CUT, Moment.BEFORE, False),
            Fault.GONE: (Verdict.CUT, Moment.BEFORE, True),
            Fault.LATE: (Verdict.HOLD, Moment.BEFORE, True),
            Fault.LOST_REPLY: (Verdict.CUT, Moment.AFTER, False),
            Fault.LOST_THEN_GONE: (Verdict.CUT, Moment.AFTER, True),
        }
        if fault in broken:
            verdict, moment, is_last = broken[fault]
            self._scene.break_next(verdict, moment, is_last=is_last)

    def _after(self, number: int, name: str) -> None:
        if number != self._at:
            return
        fault, is_subject = self._scenario.fault, name.startswith(ACTED_ON)
        if fault is Fault.CRASH_AFTER:
            raise Crash
        if is_subject and fault in {Fault.LOST_REPLY, Fault.LOST_THEN_GONE}:
            if fault is Fault.LOST_THEN_GONE:
                self._scene.be_gone()
            raise Unreachable("no answer", remedy="")


def table(tally: Tally) -> str:
    """Draw what a proof prints."""
    lines = [f"{tally.played} scenarios, {tally.calls} external calls"]
    lines += [f"  {count:6}  {fault}" for fault, count in sorted(tally.faults.items())]
    lines += ["broken promises:"]
    lines += [f"  {tally.violations[name]:6}  {name}" for name in PROMISES]
    lines += [f"  {tally.overtaken:6}  overtaken: something was under way while a newer one ended"]
    lines += [f"  {name}: {example}" for name, example in tally.examples.items()]
    return "\n".join(lines)
