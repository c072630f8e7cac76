"""The follow-up, broken at its every call; and who is cut off, by policy.

All of it is `make proof`; here a sample, the same every time.
"""

from __future__ import annotations

from typing import Any

import pytest

from keyturn.follow_up import FollowUp, Line, Report
from keyturn.model import Sighting, Version
from keyturn.ports import Standing
from keyturn.testing import followed, pickup
from keyturn.testing.followed import Fault, Meanwhile, Scenario, play, sample, sweep


def test_no_promise_is_broken_at_any_call() -> None:
    tally = sweep(sample(250, "a sample"))

    assert tally.examples == {}
    assert set(tally.faults) == set(Fault)


def test_no_promise_is_broken_in_a_cluster() -> None:
    """The real adapters, over the wire: at most one restart for each version, whatever breaks."""
    chosen = sample(36, "in a cluster", followed.scenarios_in_cluster)
    told = [
        each
        for each in followed.scenarios_in_cluster()
        if each.name == "kubernetes.patch" and each.meanwhile is Meanwhile.OTHER
    ]
    tally = followed.Tally()

    for scenario in (*chosen, *told):
        tally.add(scenario, followed.play_in_cluster(scenario))

    assert tally.examples == {}
    assert set(tally.faults) == set(Fault)


def test_in_a_cluster_a_mistake_is_found_too() -> None:
    chosen = [
        each
        for each in followed.scenarios_in_cluster()
        if each.fault is Fault.NONE and each.name in {"kubernetes.get", "store.read"}
    ]

    found = [followed.play_in_cluster(each, Quick).violations for each in chosen[:4]]

    assert {"no evidence"} in found


def test_two_sweeps_are_one() -> None:
    assert sweep(sample(20, "seed")) == sweep(sample(20, "seed"))


class Forgetful(FollowUp):
    """Writes what it read at the beginning of the look."""

    def _require_current(self, version: Version) -> None:
        del version


class Quick(FollowUp):
    """Retires at the first look."""

    def _is_second(self, sighting: Sighting | None, standing: Standing) -> bool:
        del sighting, standing
        return True


class Careless(FollowUp):
    """Asks nobody whether a consumer has followed."""

    def _doubts(self, current: object, report: Report) -> list[str]:  # type: ignore[override]
        del current, report
        return []


class Blind(FollowUp):
    """Looks at nobody's sessions."""

    def _let_die(self, current: Any, report: Report) -> Line:
        database: Any = self._targets(current.version().credential)
        database = database._engine  # noqa: SLF001  # no other way to blind it
        opened, database.opened = database.opened, None
        try:
            return super()._let_die(current, report)
        finally:
            database.opened = opened


class Hasty(FollowUp):
    """Tells those who read a copy before the copy has followed."""

    def _refresh_all(self, current: Any, report: Report, is_told: Any) -> None:
        for refresh in self._course.refreshes:
            self._refresh(refresh, current, report, is_told)


@pytest.mark.parametrize(
    "mistake,promise",
    [
        (Forgetful, "back"),
        (Quick, "no evidence"),
        (Careless, "no evidence"),
        (Blind, "in use"),
        (Hasty, "stuck"),
    ],
)
def test_a_mistake_is_found(mistake: type[FollowUp], promise: str) -> None:
    """The sweep has teeth."""
    stalls = [each for each in followed.scenarios() if each.fault is Fault.NONE]

    # Where there is a guest, nothing dies early: that hides other mistakes.
    chosen = [each for each in stalls if each.has_guest is (promise == "in use")]
    assert sweep(chosen, mistake).violations[promise]


def test_what_arrives_after_another_rotation_is_counted_and_mended() -> None:
    """Databases fence it off; the one in memory does not."""
    call = followed.calls_of(relapses=False).index("database.set") + 1
    late = Scenario(
        relapses=False, call=call, name="database.set", fault=Fault.LATE, meanwhile=Meanwhile.NEWER
    )

    scene = play(late)

    assert scene.was_overtaken
    assert scene.violations == set()


def test_evidence_cuts_nobody_off() -> None:
    """50 rotations; 1,000 in the proof."""
    tally = pickup.simulate(pickup.Policy.EVIDENCE, 50)

    assert (tally.failed, tally.wrong, tally.kept) == (0, 0, 0)
    assert len(tally.lives) == 10


@pytest.mark.parametrize(
    "policy", [each for each in pickup.Policy if each is not pickup.Policy.EVIDENCE]
)
def test_any_other_policy_does(policy: pickup.Policy) -> None:
    """One look too few is enough."""
    assert pickup.simulate(policy, 50).failed


def test_the_table_has_a_line_per_policy() -> None:
    lines = pickup.table([pickup.simulate(each, 5) for each in pickup.Policy]).splitlines()

    assert [line.split("  ")[0] for line in lines[1:]] == list(pickup.Policy)
