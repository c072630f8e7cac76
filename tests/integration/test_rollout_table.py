"""The real kubectl and we judge the same rollouts: in each row of the table the same.

Where we are stricter on purpose, the row says so, and both verdicts are asserted.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from conftest import need
from keyturn.kubernetes.rollout import Stage, Workload, rollout
from kubectl import KUBECTL, Kubectl, running
from rollouts import DAEMON_SET, DEPLOYMENT, STATEFUL_SET, TABLE, Json, Row

PLURALS = {
    DEPLOYMENT: "deployments",
    STATEFUL_SET: "statefulsets",
    DAEMON_SET: "daemonsets",
}
DONE = ("successfully rolled out", "roll out complete", "rolling update complete")


def shows(kubectl: Kubectl, row: Row) -> Json:
    """Put the object there: created, changed once, and reported on."""
    made = row.made()
    kubectl.cluster.put(made)
    made["spec"]["template"]["metadata"]["annotations"] = {"changed": "once"}
    kubectl.cluster.put({**made, "status": row.status})
    found = kubectl.cluster.get(PLURALS[row.kind], "default", row.name)
    assert found is not None
    return found


def rollout_status(kubectl: Kubectl, kind: Workload, *names: str) -> str:
    asked = [f"{PLURALS[kind]}/{name}" for name in names]
    _, said = kubectl.run("rollout", "status", *asked, "--watch=false")
    return said


def verdict(said: str) -> Stage:
    [line] = said.strip().splitlines()
    if line.startswith("error:"):
        assert "progress deadline" in line or "strategy type" in line, line
        return Stage.STUCK
    if any(end in line for end in DONE):
        return Stage.COMPLETE
    assert line.lower().startswith("waiting for"), line
    return Stage.UNDER_WAY


@pytest.fixture(scope="module")
def kubectl() -> Iterator[Kubectl]:
    need(present=KUBECTL is not None, what="kubectl", install="apt install kubernetes-client")
    with running() as made:
        yield made


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_kubectl_and_we_agree(kubectl: Kubectl, row: Row) -> None:
    found = shows(kubectl, row)

    theirs = verdict(rollout_status(kubectl, row.kind, row.name))
    ours = rollout(row.kind, found).stage

    assert (theirs, ours) == (row.kubectl, row.ours)
    assert (theirs is ours) is (not row.stricter)


def _deployments() -> Iterator[tuple[Json, Json]]:
    for wanted, replicas, updated, available, observed in itertools.product(
        (0, 1, 3), range(5), range(4), range(4), (1, 2)
    ):
        yield (
            {"replicas": wanted},
            {
                "observedGeneration": observed,
                "replicas": replicas,
                "updatedReplicas": updated,
                "availableReplicas": available,
            },
        )


def _stateful_sets() -> Iterator[tuple[Json, Json]]:
    for wanted, replicas, updated, ready, current in itertools.product(
        (0, 1, 3), range(4), range(4), range(4), ("old", "new")
    ):
        yield (
            {"replicas": wanted},
            {
                "observedGeneration": 2,
                "replicas": replicas,
                "updatedReplicas": updated,
                "readyReplicas": ready,
                "currentRevision": current,
                "updateRevision": "new",
            },
        )


def _daemon_sets() -> Iterator[tuple[Json, Json]]:
    for desired, current, updated, available, observed in itertools.product(
        range(4), range(4), range(4), range(4), (1, 2)
    ):
        yield (
            {},
            {
                "observedGeneration": observed,
                "desiredNumberScheduled": desired,
                "currentNumberScheduled": current,
                "updatedNumberScheduled": updated,
                "numberAvailable": available,
            },
        )


@pytest.mark.parametrize(
    "kind, states, step",
    [
        (DEPLOYMENT, _deployments, 17),
        (STATEFUL_SET, _stateful_sets, 13),
        (DAEMON_SET, _daemon_sets, 17),
    ],
    ids=lambda each: each if isinstance(each, Workload) else "",
)
def test_nothing_is_complete_for_us_that_is_not_for_kubectl(
    kubectl: Kubectl, kind: Workload, states: Callable[[], Iterator[tuple[Json, Json]]], step: int
) -> None:
    """Two dozen states of each kind out of all with small numbers, possible or not."""
    stages = (Stage.COMPLETE, Stage.COMPLETE)
    rows = [
        Row(f"state-{number:03}", kind, spec, status, *stages)
        for number, (spec, status) in enumerate(itertools.islice(states(), 0, None, step))
    ]
    found = [shows(kubectl, row) for row in rows]

    said = rollout_status(kubectl, kind, *(row.name for row in rows)).splitlines()
    theirs = [verdict(line) for line in said]
    ours = [rollout(kind, each).stage for each in found]

    assert len(theirs) == len(ours) >= 24
    assert Stage.COMPLETE in theirs
    for row, their, our in zip(rows, theirs, ours, strict=True):
        assert our is their or (their, our) == (Stage.COMPLETE, Stage.UNDER_WAY), row
