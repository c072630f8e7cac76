"""The process is killed before and after every external call; one more run ends it well.

The whole sweep, with every kind of fault, is `make proof`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import pytest

from keyturn.local.aws import LocalAws
from keyturn.local.postgres import Postgres
from keyturn.testing.laboratories import LABORATORIES, PostgresSingleUser
from keyturn.testing.sweep import NEW_ID_ONLY, Bench, Fault, Recovery, Run, Scenario, scenarios

KILLED = [Fault.KILL_BEFORE, Fault.KILL_AFTER]


@pytest.fixture(params=LABORATORIES, ids=lambda laboratory: laboratory.NAME)
def bench(request: pytest.FixtureRequest, aws: LocalAws, postgres: Postgres) -> Iterator[Bench]:
    with Bench(aws, request.param(postgres)) as bench:
        yield bench


@pytest.mark.parametrize("recovery", [Recovery.RETRY, Recovery.ABANDON])
@pytest.mark.parametrize("fault", KILLED)
def test_death_at_any_call_is_mended_by_one_more_run(
    bench: Bench, fault: Fault, recovery: Recovery
) -> None:
    """P1, P2, P3, P5: no lock-out, nothing stuck, no foreign damage, current works.

    Every other point with either recovery; `make proof` takes them all.
    """
    every = scenarios(bench, earlier=[1], faults=[fault], recoveries=[recovery])
    chosen = islice(every, [Recovery.RETRY, Recovery.ABANDON].index(recovery), None, 2)

    found = {str(scenario): Run(bench).play(scenario) for scenario in chosen}

    assert len(found) >= 13
    assert {scenario: findings for scenario, findings in found.items() if findings} == {}


@pytest.mark.parametrize("fault", [f for f in Fault if f not in KILLED])
def test_other_faults_are_mended_too(bench: Bench, fault: Fault) -> None:
    """A bounded part: every eighth point, in the very first rotation."""
    recovery = Recovery.ABANDON if fault in NEW_ID_ONLY else Recovery.ABANDON_TWICE
    points = Run(bench).clean(0)

    for point in range(2, points + 1, 8):
        scenario = Scenario(0, point, fault, recovery)
        assert not Run(bench).play(scenario), str(scenario)


def test_the_sweep_sees_a_lock_out(aws: LocalAws, postgres: Postgres) -> None:
    """A check that cannot fail proves nothing: here somebody changes the password meanwhile."""
    laboratory = PostgresSingleUser(postgres)
    with Bench(aws, laboratory) as bench:
        run = Run(bench)
        laboratory.change_by_hand(run.subject)

        findings = run.play(Scenario(0, 5, Fault.KILL_BEFORE, Recovery.RETRY))

    assert findings.lock_outs
    assert any("LockedOut" in said for said in findings.stuck)
