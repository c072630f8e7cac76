"""The process is killed before and after external calls; one more run ends it well.

A part of every kind of fault, in every laboratory, small enough for each `make test` (some two
minutes of it). The whole sweep, every call and every fault, is `make proof`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from canary import check
from conftest import need
from keyturn.testing.bench import Bench, Laboratory, Limits, Line
from keyturn.testing.bench_aws import AwsVault
from keyturn.testing.laboratories import LABORATORIES
from keyturn.testing.sweep import (
    NEW_ID_ONLY,
    STORE_ONLY,
    Fault,
    Recovery,
    Run,
    Scenario,
    points,
    scenarios,
)

KILLED = [Fault.KILL_BEFORE, Fault.KILL_AFTER]
KILLS = 8
"""Of either kind, in each laboratory, spread evenly over the points."""
EVERY, EVERY_OF_STORE = 24, 4
"""Of the other faults, each is tried at every so-manieth point, the kinds not at the same ones."""


@pytest.fixture(scope="module", params=LABORATORIES, ids=lambda laboratory: laboratory.NAME)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """One for many tests: each scenario has logins and a secret of its own."""
    laboratory: type[Laboratory] = request.param
    need(present=laboratory.is_available(), what=laboratory.SERVER, install=laboratory.INSTALL)
    with laboratory() as opened:
        with Bench(opened, AwsVault()) as bench:
            yield bench
        check(opened.log_text(), "the server's log")


@pytest.mark.parametrize("fault", KILLED)
def test_death_at_any_call_is_mended_by_one_more_run(bench: Bench, fault: Fault) -> None:
    """P1, P2, P3, P5: no lock-out, nothing stuck, no foreign damage, current works.

    Before odd points, and after even ones; by turns the same rotation again, and abandoned.
    """
    every = list(scenarios(points(bench, earlier=[1]), faults=[fault]))
    parity = fault is Fault.KILL_BEFORE
    recoveries = [Recovery.RETRY, Recovery.ABANDON]
    chosen = [
        each
        for each in every
        if each.point % 2 == parity and each.recovery is recoveries[each.point // 2 % 2]
    ]
    spread = [chosen[number * len(chosen) // KILLS] for number in range(KILLS)]

    found = {str(scenario): Run(bench).play(scenario) for scenario in spread}

    assert len(found) > 7
    assert {scenario: findings for scenario, findings in found.items() if findings} == {}


@pytest.mark.parametrize("fault", [f for f in Fault if f not in KILLED])
def test_other_faults_are_mended_too(bench: Bench, fault: Fault) -> None:
    """A bounded part, in the very first rotation; of faults of the store, at its points."""
    recovery = Recovery.ABANDON if fault in NEW_ID_ONLY else Recovery.ABANDON_TWICE
    every = list(scenarios(points(bench, earlier=[0]), faults=[fault], recoveries=[recovery]))
    step = EVERY_OF_STORE if fault in STORE_ONLY else EVERY

    for scenario in every[list(Fault).index(fault) % step :: step]:
        assert not Run(bench).play(scenario), str(scenario)


def test_a_worker_stalls_where_it_waits_for_an_answer(bench: Bench) -> None:
    """At a goodbye it goes on: then two rotations run at once, and either may be the one to stand.

    Each login of a rotation ends with one, if the protocol has any.
    """
    lines = points(bench, earlier=[0])
    goodbyes = {number for number, line in enumerate(lines[0], 1) if line is Line.GOODBYE}

    stalls = {each.point for each in scenarios(lines, faults=[Fault.STALL_BEFORE])}

    assert bool(goodbyes) is not bench.laboratory.NAME.startswith("Redis")
    assert stalls == {*range(1, len(lines[0]) + 1)} - goodbyes


# ---------------------------------------------------------------------------- seen to fail


@pytest.mark.parametrize(
    "fault, ending",
    [
        (Fault.KILL_BEFORE, "createSecret: killed"),
        (Fault.KILL_AFTER, "createSecret: killed"),
        (Fault.GONE_BEFORE, "createSecret: Unreachable"),
        (Fault.WRITTEN, "createSecret: Busy"),
        (Fault.TIMED_OUT, "createSecret: Unreachable"),
        (Fault.THROTTLED, "createSecret: Unreachable"),
        (Fault.STALE, "createSecret: Busy"),  # the rotation has not begun, as far as it sees
    ],
)
def test_a_rotation_feels_its_fault(bench: Bench, fault: Fault, ending: str) -> None:
    """What breaks nothing shows nothing."""
    run = Run(bench)

    run.play(Scenario(0, 1, fault, Recovery.ABANDON))

    assert run.said[0].startswith(ending)
    assert run.said[1] == "ok"


def test_a_hurried_rotation_gets_through_if_there_is_no_fault(bench: Bench) -> None:
    """Else a time-out would be found before its point. On a busy machine, at the third try."""
    nowhere = Scenario(0, 10_000, Fault.TIMED_OUT, Recovery.RETRY)

    assert any(_first_ending(bench, nowhere) == "ok" for _ in range(3))


def _first_ending(bench: Bench, scenario: Scenario) -> str:
    run = Run(bench)
    run.play(scenario)
    return run.said[0]


def test_a_step_that_ends_with_an_error_of_no_class_is_heard_of(bench: Bench) -> None:
    """A bug of ours must not look like a worker that hangs."""
    worker, event = bench.workers[0], {"Step": "createSecret"}
    run = Run(bench)
    event |= {"SecretId": run.secret.ref, "ClientRequestToken": bench.token()}

    with worker.rotation(Limits(tries=0)) as perform:  # the SDK takes no such number
        assert perform(event) == "ended"

    assert run.clean(0)
    assert run.said == ["ok"]


class Meddled(Run):
    """Instead of the fault, somebody does what the sweep must see."""

    meddle: Callable[[], object]

    def act(self, fault: Fault) -> None:
        """See `Run.act`."""
        del fault
        self.meddle()


@pytest.mark.parametrize("finding", ["stuck", "orphans"])
def test_the_sweep_sees_what_another_rotation_leaves(bench: Bench, finding: str) -> None:
    """A check that cannot fail proves nothing: the same id again, but another is pending."""
    run = Meddled(bench)
    run.meddle = lambda: run.secret.begin(bench.token())

    findings = run.play(MEDDLED)

    assert getattr(findings, finding)


def test_the_sweep_sees_a_change_of_what_is_not_ours(bench: Bench) -> None:
    stranger, run = Run(bench).subject, Meddled(bench)
    run.meddle = lambda: bench.laboratory.change_by_hand(stranger)

    assert run.play(MEDDLED).foreign


def test_the_sweep_sees_a_lock_out(bench: Bench) -> None:
    run = Meddled(bench)
    run.meddle = lambda: bench.laboratory.change_by_hand(run.subject)

    findings = run.play(MEDDLED)

    assert findings.lock_outs
    # With two slots an admin mends it. With one, the rotation is over: the same id is no retry.
    told = [said.partition(":")[2].strip().partition(":")[0] for said in run.said]
    assert told == ["LockedOut", "Busy"] or bench.laboratory.SLOTS > 1


def test_the_sweep_sees_a_reader_that_is_refused(bench: Bench) -> None:
    """Before any fault, and before set: then it may not happen with one slot either."""
    run = Run(bench)
    bench.laboratory.change_by_hand(run.subject)

    assert run.play(Scenario(1, 1, Fault.KILL_BEFORE, Recovery.RETRY)).reader_failures


MEDDLED = Scenario(0, 1, Fault.THROTTLED, Recovery.RETRY)
"""Of this fault the exchange itself sees nothing."""
