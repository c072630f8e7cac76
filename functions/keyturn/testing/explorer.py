"""Two workers, every interleaving, and one after the other with two faults: the schedule explorer.

    python -m keyturn.testing.explorer [--all]

The real rotation code runs in two threads of which one runs at a time; the baton passes only at
external calls. A schedule is where it deviates from "the first worker to its end, then the
second": *switches* (before which calls the running worker is preempted; calls are counted over
both workers, from 1) and *faults*, wherever they hit: the second worker, too, is a recovery that
may fail. Every schedule is run from the start; the points that a run passes are where its
extensions deviate once more. So all are found, each once, those with the fewest deviations first,
and in the same order every time.

    crash before    the worker dies, the call was never made
    crash after     the worker dies, the call had its effect
    unreachable     the call was never made, the worker is told so, the delivery is repeated
    lost reply      the call had its effect, the worker hears nothing, the delivery is repeated
    lands late      the worker dies, the effect comes after *later* more calls of the other one

Preempting the caller and killing it as it wakes is one more way to land late; it is explored, too.
What is looked at after every call is in `keyturn.testing.scene`. `Ran.script` replays one.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from types import TracebackType
from typing import NamedTuple, Self

from keyturn.errors import KeyturnError, Unreachable
from keyturn.minted import LANDING
from keyturn.model import RotationId
from keyturn.rotation import STALE_AFTER, Rotation
from keyturn.testing.fakes import Crash
from keyturn.testing.minted_scene import MintedScene
from keyturn.testing.scene import (
    BEGIN,
    INVARIANTS,
    STRATEGIES,
    WRITES,
    Configuration,
    Scene,
    Strategy,
    Violation,
)

TRIES = 2
"""How often a delivery that fails is made: the platform repeats it."""


class Kind(Enum):
    """What goes wrong at a call."""

    CRASH_BEFORE = "crash before"
    CRASH_AFTER = "crash after"
    UNREACHABLE = "unreachable"
    LOST_REPLY = "lost reply"
    LATE = "lands late"


_WITH_EFFECT = (Kind.CRASH_AFTER, Kind.LOST_REPLY)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault, at the call with number *at*; *later* is for `Kind.LATE`."""

    at: int
    kind: Kind
    later: int = 0

    def __str__(self) -> str:
        """Return it as an item of `replay`'s *faults*."""
        return f'({self.at}, "{self.kind.value}"{f", {self.later}" if self.later else ""})'


@dataclass(frozen=True, slots=True)
class Schedule:
    """Where a run deviates from one worker after the other."""

    switches: tuple[int, ...] = ()
    faults: tuple[Fault, ...] = ()

    @property
    def deviations(self) -> int:
        """Return how many there are."""
        return len(self.switches) + len(self.faults)

    def __str__(self) -> str:
        """Return it as the last arguments of `replay`."""
        faults = f", faults=[{', '.join(map(str, self.faults))}]" if self.faults else ""
        return f"switches={list(self.switches)}{faults}"


class Point(NamedTuple):
    """A call that a run came to: where its extensions may deviate."""

    number: int
    call: str
    is_free: bool
    """Whether the other worker could have run instead."""
    is_in_flight: bool
    """Whether a call of the other worker, who is dead, was under way."""


class Row(NamedTuple):
    """One line of a run's table."""

    number: str
    worker: str
    call: str
    serves: str
    refused: str
    note: str


@dataclass(frozen=True, slots=True)
class Ran:
    """What one schedule came to. Printed, it is a table of what happened, call by call."""

    configuration: Configuration
    schedule: Schedule
    violations: tuple[Violation, ...]
    was_overtaken: bool
    points: tuple[Point, ...]
    rows: tuple[Row, ...]
    has_landed: bool

    @property
    def script(self) -> str:
        """Return Python that replays this."""
        return (
            "from keyturn.testing.explorer import replay\n\n"
            f"print(replay({self.configuration}, {self.schedule}))\n"
        )

    def __str__(self) -> str:
        """Draw the table."""
        head = Row("", "worker", "call", "current", "", "")
        broken = [f"BROKEN {each.invariant}: {each.fact}" for each in self.violations]
        return "\n".join([*columns([head, *self.rows]), *broken])


@dataclass
class Counts:
    """What an exploration came to.

    Attributes:
        schedules: How many were run, each a different one.
        calls: How many external calls they made; the promises were checked after each.
        violations: In how many schedules each invariant was broken.
        healed: In how many current was refused because an act was under way when its rotation
            lost the slot, and the next run healed it.
        examples: The first schedule that broke each invariant; none has fewer deviations.
        last: The schedule run last.
        digest: Of all that happened, call by call: equal for equal explorations.
    """

    configuration: Configuration
    schedules: int = 0
    calls: int = 0
    violations: Counter[str] = field(default_factory=Counter)
    healed: int = 0
    examples: dict[str, Ran] = field(default_factory=dict)
    last: Ran | None = None
    digest: str = ""

    @property
    def is_clean(self) -> bool:
        """Tell whether nothing was broken."""
        return not self.examples


def _ignore(counts: Counts) -> None:
    del counts


def explore(  # noqa: PLR0913  # the bounds of one search
    configuration: Configuration,
    preemptions: int = 3,
    faults: int = 1,
    *,
    deviations: int | None = None,
    every: int = 1,
    limit: int | None = None,
    report: Callable[[Counts], None] = _ignore,
) -> Counts:
    """Run every schedule within the bounds.

    Args:
        configuration: What is explored.
        preemptions: How often a running worker may be preempted.
        faults: How many faults.
        deviations: How many of both together; as many as they allow if None.
        every: Of the schedules with so many deviations, play every so-manieth; 1 plays all.
        limit: Stop after so many schedules.
        report: Called after every schedule, with what was counted so far.
    """
    most = preemptions + faults if deviations is None else deviations
    counts = Counts(configuration)
    digest = hashlib.sha256()
    with _Stage() as stage:
        found = _search(configuration, (preemptions, faults, most), every, stage)
        for ran in itertools.islice(found, limit):
            _count(counts, ran)
            digest.update(f"{ran.schedule}{ran.violations}".encode())
            digest.update("".join(map("|".join, ran.rows)).encode())
            report(counts)
    counts.digest = digest.hexdigest()
    return counts


def replay(  # noqa: PLR0913  # the arguments are what a script names
    strategy: str | Strategy,
    store: str,
    *,
    ids: int = 1,
    earlier: int = 0,
    rotation: type[Rotation] = Rotation,
    has_rested: bool = True,
    has_lease: bool = False,
    switches: Sequence[int] = (),
    faults: Sequence[tuple[int, str] | tuple[int, str, int]] = (),
) -> Ran:
    """Run one schedule again. Print what it returns."""
    chosen = STRATEGIES[strategy] if isinstance(strategy, str) else strategy
    with _Stage() as stage:
        return stage.play(
            Configuration(chosen, store, ids, earlier, rotation, has_rested, has_lease),
            Schedule(tuple(switches), tuple(_fault(*each) for each in faults)),
        )


def _fault(at: int, kind: str, later: int = 0) -> Fault:
    return Fault(at, Kind(kind), later)


def _count(counts: Counts, ran: Ran) -> None:
    counts.schedules += 1
    counts.calls += len(ran.points)
    counts.violations.update({violation.invariant for violation in ran.violations})
    counts.healed += ran.was_overtaken and not ran.violations
    counts.last = ran
    for violation in ran.violations:
        counts.examples.setdefault(violation.invariant, ran)


# ---------------------------------------------------------------------------- the search


def _search(
    configuration: Configuration, bounds: tuple[int, int, int], every: int, stage: _Stage
) -> Iterator[Ran]:
    """Yield the run of every schedule, breadth first; of those on the last level, a part."""
    level = [Schedule()]
    while level:
        following: list[Schedule] = []
        is_last = level[0].deviations == bounds[-1]
        for schedule in level[::every] if is_last else level:
            for ran in _with_landings(configuration, schedule, stage):
                yield ran
                following += _extensions(ran, *bounds)
        level = following


def _with_landings(
    configuration: Configuration, schedule: Schedule, stage: _Stage
) -> Iterator[Ran]:
    """Yield the run; of a late effect, all of them, until it would land after everything."""
    ran = stage.play(configuration, schedule)
    yield ran
    while ran.has_landed and _may_land_later(schedule):
        later = (_later(fault) for fault in schedule.faults)
        schedule = replace(schedule, faults=tuple(later))
        ran = stage.play(configuration, schedule)
        yield ran


def _may_land_later(schedule: Schedule) -> bool:
    """Tell whether no fault comes after the landing: else another schedule has it land later."""
    lands_after = [f.at + f.later for f in schedule.faults if f.kind is Kind.LATE]
    return bool(lands_after) and schedule.faults[-1].at <= lands_after[0]


def _later(fault: Fault) -> Fault:
    return replace(fault, later=fault.later + 1) if fault.kind is Kind.LATE else fault


def _extensions(ran: Ran, preemptions: int, faults: int, most: int) -> Iterator[Schedule]:
    """Yield every schedule with one deviation more, behind those there are."""
    schedule = ran.schedule
    if schedule.deviations >= most:
        return
    switched = schedule.switches[-1] if schedule.switches else 0
    failed = schedule.faults[-1].at if schedule.faults else 0
    for point in ran.points:
        may_switch = point.is_free and len(schedule.switches) < preemptions
        if may_switch and point.number > max(switched, failed):
            yield replace(schedule, switches=(*schedule.switches, point.number))
        # A fault may hit the very call that the baton was passed for.
        may_fail = len(schedule.faults) < faults and point.number > failed
        if may_fail and point.number >= switched and _is_last_in_flight(point, schedule):
            for fault in _faults(point):
                yield replace(schedule, faults=(*schedule.faults, fault))


def _is_last_in_flight(point: Point, schedule: Schedule) -> bool:
    """Tell whether a fault here is no repetition: while a call is under way, it can land later."""
    return not point.is_in_flight or any(
        fault.kind is Kind.LATE and fault.at + fault.later == point.number
        for fault in schedule.faults
    )


def _faults(point: Point) -> Iterator[Fault]:
    if point.call == BEGIN:
        return
    yield Fault(point.number, Kind.CRASH_BEFORE)
    yield Fault(point.number, Kind.UNREACHABLE)
    if point.call in WRITES:
        yield from (Fault(point.number, kind) for kind in _WITH_EFFECT)
        if point.is_free:
            yield Fault(point.number, Kind.LATE, later=1)


# ---------------------------------------------------------------------------- one schedule


class _Stage:
    """Two threads, used for one schedule after another; one runs at a time."""

    def __init__(self) -> None:
        self._turns = [threading.Lock() for _ in range(3)]
        self._threads = [
            threading.Thread(target=self._work, args=[me], daemon=True) for me in (0, 1)
        ]
        self._run: _Run | None = None

    def __enter__(self) -> Self:
        for turn in self._turns:
            turn.acquire()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._run = None
        if kind is not None:  # A thread may stand in the middle of a schedule: leave it there.
            return
        for me in (0, 1):
            self._turns[me].release()
            self._threads[me].join()

    def play(self, configuration: Configuration, schedule: Schedule) -> Ran:
        """Run one schedule."""
        self._run = _Run(configuration, schedule, self.hand_over)
        self.hand_over(_NOBODY, 0)
        if self._run.surprise is not None:
            raise self._run.surprise
        return self._run.end()

    def hand_over(self, me: int, other: int) -> None:
        """Let *other* run; return when it is my turn again."""
        self._turns[other].release()
        self._turns[me].acquire()

    def _work(self, me: int) -> None:
        self._turns[me].acquire()
        while self._run is not None:
            self.hand_over(me, self._run.work(me))


_NOBODY = 2
"""The thread of whoever explores: it waits until both workers have ended."""


class _Run:
    """One schedule being run. Its hooks are called by whichever worker's thread runs."""

    def __init__(
        self,
        configuration: Configuration,
        schedule: Schedule,
        hand_over: Callable[[int, int], None],
    ) -> None:
        self._configuration = configuration
        self._schedule = schedule
        self._hand_over = hand_over
        mints = configuration.strategy.keys is not None
        self._scene = MintedScene(configuration) if mints else Scene(configuration)
        self._scene.begin(_A)
        self._ids = (_A, _A) if configuration.ids == 1 else (_A, _B)
        self._scene.world.before, self._scene.world.after = self._before, self._after
        self._switches = set(schedule.switches)
        self._faults = {fault.at: fault for fault in schedule.faults}
        self._is_over = [False, False]
        self._in_flight: int | None = None
        self._left = 0
        self._me = 0
        self._number = 0
        self._ends_in: list[Kind | None] = [None, None]
        self._open = ""
        self._has_landed = False
        self._points: list[Point] = []
        self._rows: list[Row] = []
        self.surprise: BaseException | None = None

    def work(self, me: int) -> int:
        """Be one worker, from its first delivery on; return who runs next."""
        try:
            self._enter(me)
            self._deliver(me)
        except Crash:
            self._say("dies")
        except BaseException as error:  # noqa: BLE001  # raised again by the other thread
            error.add_note(f"{self._configuration}, {self._schedule}")
            self.surprise = error
        self._is_over[me] = True
        other = 1 - me
        return _NOBODY if self.surprise or self._is_over[other] else other

    def end(self) -> Ran:
        """Let the last, clean run follow; return what it all came to."""
        self._scene.world.before, self._scene.world.after = _carry_on, self._see_last
        self._scene.converge()
        return Ran(
            self._configuration,
            self._schedule,
            tuple(self._scene.violations),
            self._scene.was_overtaken,
            tuple(self._points),
            tuple(self._rows),
            self._has_landed,
        )

    def _deliver(self, me: int) -> None:
        rotation_id = self._ids[me]
        if rotation_id == _B:
            with self._scene.world.call(BEGIN):
                self._pass_time()
                self._scene.begin(rotation_id)
        elif self._configuration.has_lease:
            self._pass_time()
        for _ in range(TRIES):
            try:
                self._scene.rotation(rotation_id, _WORKERS[me]).run()
            except KeyturnError as error:
                self._refused(me)
                self._say(f"{type(error).__name__}: {error}")
                self._tell(me, error)
            else:
                return

    def _tell(self, me: int, error: KeyturnError) -> None:
        try:
            self._scene.tell(error)
        except KeyturnError:  # then it is told again
            self._refused(me)

    def _pass_time(self) -> None:
        # Nobody lives so long: time passes only where the first worker is gone.
        if self._is_over[0]:
            self._scene.pass_time(LANDING if self._configuration.has_lease else STALE_AFTER)

    def _before(self, _: int, call: str) -> None:
        me = self._me
        if self._in_flight == 1 - me and not self._left:
            self._has_landed = True
            self._yield_to_other(me)
        if self._number + 1 in self._switches and self._is_other_free(me):
            self._switches.remove(self._number + 1)
            self._yield_to_other(me)
        self._number += 1
        is_in_flight = self._in_flight is not None
        self._points.append(Point(self._number, call, self._is_other_free(me), is_in_flight))
        self._open = call
        if fault := self._faults.get(self._number):
            self._fail(me, fault, call)

    def _fail(self, me: int, fault: Fault, call: str) -> None:
        """Raise what happens before the call, or let its effect wait."""
        if fault.kind is Kind.CRASH_BEFORE:
            self._add(call, "dies before it")
            raise Crash
        if fault.kind is Kind.UNREACHABLE:
            self._add(call, "does not get through")
            raise Unreachable("no answer", remedy="")
        if fault.kind is Kind.LATE:
            self._add(call, "dies; the call is under way")
            self._in_flight, self._left = me, fault.later
            self._yield_to_other(me)
            self._in_flight, self._open = None, call
        self._ends_in[me] = fault.kind

    def _after(self, _: int, call: str) -> None:
        self._scene.look(call)
        kind, self._ends_in[self._me] = self._ends_in[self._me], None
        if kind is None:
            self._add(call)
            return
        self._add(call, "lands" if kind is Kind.LATE else kind.value)
        raise Unreachable("no answer", remedy="") if kind is Kind.LOST_REPLY else Crash

    def _refused(self, me: int) -> None:
        """Account for a call that ended in an error of its own, and so never came to `_after`."""
        if not self._open:
            return
        kind, self._ends_in[me] = self._ends_in[me], None
        self._add(self._open, _REFUSED.get(kind, "is refused") if kind else "is refused")
        if kind is not None and kind is not Kind.LOST_REPLY:
            raise Crash

    def _see_last(self, _: int, call: str) -> None:
        self._scene.look(call)
        self._add(call)

    def _is_other_free(self, me: int) -> bool:
        return not self._is_over[1 - me] and self._in_flight is None

    def _yield_to_other(self, me: int) -> None:
        self._hand_over(me, 1 - me)
        self._enter(me)

    def _enter(self, me: int) -> None:
        self._me = me
        self._scene.actor, self._scene.worker = self._ids[me], _WORKERS[me]

    def _add(self, call: str, note: str = "") -> None:
        self._open = ""
        self._left -= self._in_flight is not None
        is_counted = self._scene.actor in self._ids and not note.startswith("lands")
        number = str(self._number) if is_counted else ""
        served = self._scene.serves().rotation_id
        refused = "refused" if self._scene.is_refused else ""
        self._rows.append(Row(number, self._scene.worker, call, served, refused, note))

    def _say(self, note: str) -> None:
        self._rows.append(Row("", self._scene.worker, "", "", "", note))


_REFUSED = {Kind.LATE: "lands, and is refused", Kind.LOST_REPLY: "lost reply, and is refused"}

_A, _B = RotationId("a"), RotationId("b")
_WORKERS = ("1st", "2nd")


def _carry_on(number: int, name: str) -> None:
    del number, name


# ---------------------------------------------------------------------------- the full exploration

CONFIGURATIONS = tuple(
    Configuration(strategy, store, ids, earlier)
    for strategy in STRATEGIES.values()
    for store in ("labelled", "staged")
    for ids, earlier in ((1, 0), (2, 1))
)
"""Every strategy, in either store: two deliveries of one rotation, and a rotation after another."""

SLOTS = {
    "none": ("first minted", 0, True),
    "one": ("minted", 0, True),
    "two, one spent": ("minted", 1, True),
    "two, one in its grace": ("minted", 1, False),
    "two, a person's": ("minted beside a person's", 0, True),
    "two, a person's, made since": ("minted beside a person's", 1, True),
    "one, told by time only": ("minted, time only", 0, True),
    "a person's only": ("first minted beside a person's", 0, True),
}
"""The keys that a holder has at first: the strategy, the earlier rotations, and their rest."""

FAULTS = 2
"""One worker after the other, as many faults; at the end comes a clean run."""

FAULTY = {
    Configuration(STRATEGIES[strategy], store, ids, earlier, Rotation, has_rested, has_lease): slots
    for has_lease in (False, True)
    for slots, (strategy, earlier, has_rested) in SLOTS.items()
    for store in ("labelled", "staged")
    for ids in (1, 2)
}
"""What is explored with two faults: all slots, in either store; retried, and abandoned."""

DEVIATIONS, DEVIATIONS_MINTED = 3, 2
"""Of preemptions and faults together, unless --all: three preemptions, or two and a fault.

A rotation that mints makes four times the calls; a third deviation would take hours.
"""


def deviations_of(configuration: Configuration) -> int:
    """Return how many are explored unless --all."""
    return DEVIATIONS if configuration.strategy.keys is None else DEVIATIONS_MINTED


def columns(lines: Sequence[Sequence[str]]) -> list[str]:
    """Align *lines* of equally many cells; the first cell of each to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            [
                line[0].rjust(widths[0]),
                *(c.ljust(w) for c, w in zip(line[1:], widths[1:], strict=True)),
            ]
        ).rstrip()
        for line in lines
    ]


def table(explored: Sequence[Counts]) -> str:
    """Draw what `make proof` prints: a line per configuration, and the sum."""
    head = ["schedules", "calls", *INVARIANTS, "healed", "strategy", "store", "ids", "earlier"]
    lines = [head]
    for counts in explored:
        of = counts.configuration
        lines.append([*_numbers(counts), of.strategy.name, of.store, str(of.ids), str(of.earlier)])
    total = [str(sum(int(line[n]) for line in lines[1:])) for n in range(len(INVARIANTS) + 3)]
    return "\n".join(columns([*lines, [*total, "total", "", "", ""]]))


def faulty_table(explored: Sequence[Counts]) -> str:
    """Draw what `make proof` prints of two faults; a line for either store and either lease."""
    head = ["schedules", "calls", *INVARIANTS, "slots", "then", "store", "lease"]
    lines = [head]
    for counts in explored:
        of = counts.configuration
        then = "retried" if of.ids == 1 else "abandoned"
        named = [FAULTY[of], then, of.store, "yes" if of.has_lease else "no"]
        lines.append([*_numbers(counts)[:-1], *named])
    total = [str(sum(int(line[n]) for line in lines[1:])) for n in range(len(INVARIANTS) + 2)]
    return "\n".join(columns([*lines, [*total, "total", "", "", ""]]))


def _numbers(counts: Counts) -> list[str]:
    broken = [counts.violations[name] for name in INVARIANTS]
    return list(map(str, [counts.schedules, counts.calls, *broken, counts.healed]))


def main() -> int:
    """Explore two workers, print the table; 1 if a promise was broken. Two faults: `make proof`."""
    parser = argparse.ArgumentParser(prog="python -m keyturn.testing.explorer")
    parser.add_argument(
        "--all", action="store_true", help="three preemptions and a fault: longer by far"
    )
    is_all = parser.parse_args().all
    explored = []
    for number, configuration in enumerate(CONFIGURATIONS, 1):
        started = time.perf_counter()
        deviations = None if is_all else deviations_of(configuration)
        explored.append(explore(configuration, deviations=deviations))
        took = f"{explored[-1].schedules} in {time.perf_counter() - started:.1f} s"
        sys.stderr.write(f"{number}/{len(CONFIGURATIONS)} {configuration}: {took}\n")
    sys.stdout.write(table(explored) + "\n")
    for found in (ran for counts in explored for ran in counts.examples.values()):
        sys.stdout.write(f"\n{found.script}\n{found}\n")
    return 0 if all(counts.is_clean for counts in explored) else 1


if __name__ == "__main__":
    sys.exit(main())
