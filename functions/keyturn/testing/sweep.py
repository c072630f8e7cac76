"""The crash sweep: break a rotation at every external call, and look whether one more run mends it.

    scenario  =  laboratory x earlier rotations x point x fault x recovery

The real code runs in a process of its own, one fork per rotation (`worker`), between two proxies
(`faults`): one before a faithful Secrets Manager, one before a real server; `bench` has them all.
A *point* is the number of an exchange through either, counted from the start of the rotation that
is broken. At every moment of every exchange a reader logs in with what the store serves.

    lock-out   no version the store keeps, and no admin, reaches the target
    stuck      one more run without faults does not end with its own version current and accepted
    reader     current was refused; with one slot, outside the time between set and finish
    untested   a reader could get a value that had never logged in, by any name of a version
    orphan     a login or a version is left that no slot accounts for
    foreign    something changed that the rotation did not make
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from keyturn.testing.bench import AS_DEPLOYED, HURRIED, ONE_TRY, Bench, Limits, Line, Perform
from keyturn.testing.faults import Interrupt, Moment, Verdict

STALL_S = 4.0
"""How long a worker stalls, at the most: less than its own time-outs."""
LOOK_S = 0.1
"""How often one looks whether a worker that has not stalled is at its end."""


class Fault(Enum):
    """What happens at the point."""

    KILL_BEFORE = "killed before"
    KILL_AFTER = "killed after"
    CUT_BEFORE = "request lost"
    CUT_AFTER = "reply lost"
    GONE_BEFORE = "nothing gets through from here"
    GONE_AFTER = "reply lost, then nothing"
    LATE = "effect lands late"
    VERY_LATE = "effect lands after the next rotation"
    STALL_BEFORE = "stalls before, wakes after another rotation"
    STALL_AFTER = "stalls after, wakes after another rotation"
    WRITTEN = "somebody writes a value"
    TIMED_OUT = "no answer until the client gives up"
    THROTTLED = "throttled"
    STALE = "reads are old until the step ends"


OVERTAKEN = {Fault.STALL_BEFORE, Fault.STALL_AFTER}
"""Faults after which another rotation has come and gone before the broken worker goes on.

Nobody waits at a goodbye: a worker does not stall there, but would run beside the other one.
"""
NEW_ID_ONLY = {*OVERTAKEN, Fault.WRITTEN, Fault.VERY_LATE}
"""Faults that another rotation follows by their nature."""
STORE_ONLY = {Fault.THROTTLED, Fault.STALE}
"""Faults that only a store has: a server does not answer for another, nor from the past."""


class Recovery(Enum):
    """What happens next."""

    RETRY = "same id again"
    ABANDON = "abandoned, new id"
    ABANDON_TWICE = "abandoned twice"


@dataclass(frozen=True, slots=True)
class Scenario:
    """One combination. `earlier` is how many clean rotations come first."""

    earlier: int
    point: int
    fault: Fault
    recovery: Recovery

    def __str__(self) -> str:
        """Say it in a line that a person can repeat."""
        return (
            f"after {self.earlier} rotations, point {self.point}: {self.fault.value},"
            f" then {self.recovery.value}"
        )


@dataclass(slots=True)
class Findings:
    """What went wrong in one scenario, in words. All empty is good."""

    lock_outs: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    reader_failures: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    untested: list[str] = field(default_factory=list)
    healed: list[str] = field(default_factory=list)
    """Not wrong: a late effect broke current, and the next run mended it."""

    def __bool__(self) -> bool:
        """Tell whether there are any."""
        wrong = [self.lock_outs, self.stuck, self.reader_failures, self.orphans, self.foreign]
        return any([*wrong, self.untested])


class Run:
    """One scenario, or the clean run that counts its points.

    Attributes:
        subject: Whose logins they are.
        secret: Where the credential is.
        findings: What went wrong.
        said: How each rotation ended: "ok", or the step and its error.
    """

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._laboratory = bench.laboratory
        self.subject, self.secret = bench.furnish()
        self.findings = Findings()
        self.said: list[str] = []
        self._worker, self._limits = bench.workers[0], AS_DEPLOYED
        self._step = ""
        self._when = ""
        self._has_faults = self._woke_early = False
        self._tested: set[str] = set()
        self._looking = threading.Lock()
        self._others = bench.laboratory.others(self.subject)
        self._rights = bench.laboratory.rights(self.secret.current())

    def clean(self, earlier: int) -> list[Line]:
        """Rotate *earlier* times, and once more; return where the exchanges of that one went."""
        for _ in range(earlier + 1):
            self._rotate(self._bench.token(), self._watch)
        return self._bench.points

    def play(self, scenario: Scenario) -> Findings:
        """Rotate, break, recover, and look."""
        for _ in range(scenario.earlier):
            self._rotate(self._bench.token(), self._watch)
        if scenario.fault in OVERTAKEN:
            return self._overtake(scenario)
        token = self._bench.token()
        self._when = "broken"
        self._break(token, scenario)
        rounds = {Recovery.RETRY: 0, Recovery.ABANDON: 1, Recovery.ABANDON_TWICE: 2}
        for left in reversed(range(rounds[scenario.recovery])):
            self.secret.abandon()
            token = self._bench.token()
            if left:
                self._break(token, scenario)
        self._when, self._limits = "recovering", ONE_TRY
        said = self._rotate(token, self._watch)
        if scenario.fault is Fault.VERY_LATE:
            self._land(scenario)
        else:
            self._look_at_the_end(token, said)
        return self.findings

    def act(self, fault: Fault) -> None:
        """Do what a fault does, besides what becomes of the exchange. A test may do worse."""
        match fault:
            case Fault.KILL_BEFORE | Fault.KILL_AFTER:
                self._worker.kill()
            case Fault.WRITTEN:
                self.secret.write(self.secret.current())
            case Fault.THROTTLED:
                self._bench.vault.throttle()
            case Fault.STALE:
                self._bench.vault.be_stale()

    def _land(self, scenario: Scenario) -> None:
        """Let what was held reach the servers, and see one more run mend what it did."""
        self._bench.arm(_let_pass)
        self._bench.release()
        self._look_for_damage(scenario)
        self._run_once_more()

    def _look_for_damage(self, scenario: Scenario) -> None:
        if not self._laboratory.accepts(self.secret.current()):
            self.findings.healed.append(str(scenario))

    def _overtake(self, scenario: Scenario) -> Findings:
        """Let one worker stall, another rotation come and go, the worker wake, and one more run."""
        stalled, wake = threading.Event(), threading.Event()
        moment = Moment.AFTER if scenario.fault is Fault.STALL_AFTER else Moment.BEFORE

        def interrupt(number: int, now: Moment) -> Verdict:
            if number == scenario.point and now is moment and not stalled.is_set():
                stalled.set()
                self._woke_early = not wake.wait(STALL_S)
            return Verdict.PASS

        first = self._bench.token()
        late = threading.Thread(target=self._rotate, args=[first, interrupt])
        late.start()
        while late.is_alive() and not stalled.wait(LOOK_S):
            pass
        self._worker, self._limits = self._bench.workers[1], ONE_TRY
        token = self._bench.token()
        said = self._rotate(token, self._bench.interrupt)
        wake.set()
        late.join()
        stood = said == "ok" and self.secret.is_current(token)
        if not stood and not self._woke_early:
            self.findings.stuck.append(f"the other rotation: {said}")
        self._look_for_damage(scenario)
        self._run_once_more()
        return self.findings

    def _run_once_more(self) -> None:
        self._has_faults, self._when = True, "once more"
        token = self._bench.token()
        self._look_at_the_end(token, self._rotate(token, _let_pass))

    def _break(self, token: str, scenario: Scenario) -> None:
        self._has_faults, self._limits = True, _LIMITS.get(scenario.fault, ONE_TRY)
        self._rotate(token, self._breaking(scenario))
        if scenario.fault is not Fault.VERY_LATE:
            self._bench.arm(_let_pass)
            self._bench.release()
        self._look("at rest")

    def _breaking(self, scenario: Scenario) -> Interrupt:
        moment = Moment.AFTER if scenario.fault in _AFTER else Moment.BEFORE
        is_gone = False

        def interrupt(number: int, now: Moment) -> Verdict:
            nonlocal is_gone
            self._look_after(number, now)
            if is_gone:
                return Verdict.CUT
            if number != scenario.point or now is not moment:
                return Verdict.PASS
            is_gone = scenario.fault in _GONE
            self.act(scenario.fault)
            return _VERDICTS.get(scenario.fault, Verdict.CUT)

        return interrupt

    def _watch(self, number: int, moment: Moment) -> Verdict:
        self._look_after(number, moment)
        return Verdict.PASS

    def _look_after(self, number: int, moment: Moment) -> None:
        # Between an answer and the next request nothing can change. A goodbye goes on beside it.
        if moment is Moment.AFTER:
            with self._looking:
                self._look(f"after {number}")

    def _rotate(self, token: str, interrupt: Interrupt) -> str:
        """Run the steps as the service does: from the first, up to one that fails."""
        self.secret.begin(token)
        self._bench.arm(interrupt)
        with self._worker.rotation(self._limits) as perform:
            ended = next(self._failures(token, perform), "ok")
        self.said.append(ended)
        return ended

    def _failures(self, token: str, perform: Perform) -> Iterator[str]:
        """Yield what a step failed with; the service performs no further one."""
        for step, event in self.secret.steps(token):
            self._step = step
            said = perform(event)
            self._bench.vault.mend()
            if said != "ok":
                yield f"{step}: {said}"

    def _look(self, moment: str) -> None:
        """Be a reader of current; where current is refused, look whether anything is accepted."""
        where = f"{self._when} {self._step} {moment}"
        kept, served = set(self.secret.kept()), set(self.secret.served())
        self._tested |= {each for each in kept - self._tested if self._laboratory.accepts(each)}
        if not served <= self._tested:
            self.findings.untested.append(where)
        if self._laboratory.accepts(self.secret.current()):
            return
        # With one slot, from the act in set to the end of the rotation's recovery.
        is_set = any(map(self._laboratory.accepts, kept - served))
        if not (self._laboratory.SLOTS == 1 and (self._has_faults or is_set)):
            self.findings.reader_failures.append(where)
        if not any(map(self._laboratory.accepts, kept)):
            self.findings.lock_outs.append(where)

    def _look_at_the_end(self, token: str, said: str) -> None:
        if said != "ok":
            self.findings.stuck.append(said)
        if not self.secret.is_current(token):
            self.findings.stuck.append("current is another version")
        if not self._laboratory.accepts(self.secret.current()):
            self.findings.stuck.append("current is refused")
        if self.secret.pending() not in {"", token}:
            self.findings.orphans.append("a pending version is left")
        if self._laboratory.others(self.subject) != self._others:
            self.findings.foreign.append("the server holds something else than before")
        if self._laboratory.rights(self.secret.current()) != self._rights:
            self.findings.foreign.append("the login may do something else than before")


_AFTER = {Fault.KILL_AFTER, Fault.CUT_AFTER, Fault.GONE_AFTER}
_GONE = {Fault.GONE_BEFORE, Fault.GONE_AFTER}
_LIMITS: dict[Fault, Limits] = {
    Fault.CUT_BEFORE: AS_DEPLOYED,
    Fault.CUT_AFTER: AS_DEPLOYED,
    Fault.TIMED_OUT: HURRIED,
}
"""What the broken rotation is given, if it is not one try."""
_VERDICTS = {
    Fault.LATE: Verdict.HOLD,
    Fault.VERY_LATE: Verdict.HOLD,
    Fault.TIMED_OUT: Verdict.SWALLOW,
    **dict.fromkeys((Fault.WRITTEN, Fault.THROTTLED, Fault.STALE), Verdict.PASS),
}
"""What becomes of the exchange, if it is not cut."""


def _let_pass(number: int, moment: Moment) -> Verdict:
    del number, moment
    return Verdict.PASS


def points(bench: Bench, *, earlier: Iterable[int] = (0, 1)) -> dict[int, list[Line]]:
    """Return where the exchanges of a clean rotation go, after so many others."""
    return {before: Run(bench).clean(before) for before in earlier}


def scenarios(
    points: Mapping[int, Sequence[Line]],
    *,
    faults: Iterable[Fault] = tuple(Fault),
    recoveries: Iterable[Recovery] = tuple(Recovery),
) -> Iterator[Scenario]:
    """Yield every combination that makes sense, at each of the points."""
    for earlier, lines in points.items():
        for (point, line), fault in itertools.product(enumerate(lines, 1), faults):
            if _makes_sense(fault, line):
                yield from (
                    Scenario(earlier, point, fault, recovery)
                    for recovery in recoveries
                    if recovery is Recovery.ABANDON or fault not in NEW_ID_ONLY
                )


def _makes_sense(fault: Fault, line: Line) -> bool:
    if fault in STORE_ONLY:
        return line is Line.STORE
    return line is not Line.GOODBYE or fault not in OVERTAKEN
