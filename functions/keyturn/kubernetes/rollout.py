"""Whether every pod of a workload is of its present template: kubectl's rules, and more.

A look is one object, as the API shows it: its template, its strategy and its status are of one
moment, and the status counts pods of that template once `observedGeneration` has caught up. So
what is complete here says something about the template that was read with it.

kubectl asks whether the new pods are there. Here it is asked besides whether the old ones are gone:

                kubectl rollout status                    besides
    all three   observedGeneration >= generation          observedGeneration > 0
    Deployment  Progressing is not past its deadline
                updatedReplicas >= replicas wanted        one is wanted if nothing is said
                replicas <= updatedReplicas
                availableReplicas >= updatedReplicas      no terminatingReplicas, where served
    DaemonSet   RollingUpdate
                updatedNumberScheduled >= desired
                numberAvailable >= desired                no numberMisscheduled
    StatefulSet RollingUpdate
                readyReplicas >= replicas wanted          one is wanted if nothing is said
                updatedReplicas >= wanted - partition     no partition; replicas <= updatedReplicas
                currentRevision == updateRevision,        always: servers fill the strategy in
                if the strategy has no rollingUpdate

What it never does: say *complete* where kubectl does not. A DaemonSet's misscheduled pods are on
nodes that have come to repel them; nothing counts of which template they are. A Deployment's
terminating pods are served by default since Kubernetes 1.35; before that, nothing shows them.

Sources: kubectl's rollout_status.go (1.32); the API reference of `apps/v1`; Kubernetes,
Feature Gates: DeploymentReplicaSetTerminatingReplicas.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from keyturn.kubernetes.api import Object


class Workload(StrEnum):
    """The kinds of workloads, as a plan spells them."""

    DEPLOYMENT = "deployment"
    STATEFUL_SET = "stateful-set"
    DAEMON_SET = "daemon-set"


class Stage(StrEnum):
    """How far a rollout is."""

    COMPLETE = "complete"
    UNDER_WAY = "under way"
    STUCK = "stuck"


@dataclass(frozen=True, slots=True)
class Rollout:
    """How far it is, and what is missing, in a line; "" if nothing is.

    Stuck is what will not be complete by itself, as far as one look can tell.
    """

    stage: Stage
    waits_for: str = ""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What keeps a workload from ever replacing all of its pods.

    Attributes:
        fact: Goes on after the workload's name.
        remedy: One imperative sentence.
    """

    fact: str
    remedy: str


def obstacle(kind: Workload, found: Object) -> Obstacle | None:
    """Return what would keep a change of the template from reaching every pod; None if nothing."""
    return next(_obstacles(kind, found), None)


def _obstacles(kind: Workload, found: Object) -> Iterator[Obstacle]:
    spec: Mapping[str, Any] = found.get("spec") or {}
    if found["metadata"].get("deletionTimestamp"):
        yield Obstacle("is being deleted", "Wait until it is gone, or take it out of the plan.")
    if spec.get("paused"):
        yield Obstacle("is paused", "Resume it: `kubectl rollout resume`.")
    if kind is Workload.DEPLOYMENT:
        return
    strategy: Mapping[str, Any] = spec.get("updateStrategy") or {}
    if strategy.get("type") != "RollingUpdate":
        yield Obstacle(
            "replaces no pod by itself: its update strategy is not RollingUpdate",
            "Set its `updateStrategy.type` to RollingUpdate, or take it out of the plan.",
        )
    partition = (strategy.get("rollingUpdate") or {}).get("partition") or 0
    if partition > 0:
        yield Obstacle(
            f"keeps pods below the ordinal {partition} old: it has a partition",
            "Set its `updateStrategy.rollingUpdate.partition` to 0.",
        )


def rollout(kind: Workload, found: Object) -> Rollout:
    """Judge one look at a workload. See the table above."""
    blocked = obstacle(kind, found)
    if blocked and kind is not Workload.DEPLOYMENT:
        return Rollout(Stage.STUCK, f"it {blocked.fact}")
    status: Mapping[str, Any] = found.get("status") or {}
    is_observed = _is_observed(found["metadata"], status)
    if is_observed and kind is Workload.DEPLOYMENT and _is_past_its_deadline(status):
        return Rollout(Stage.STUCK, "its progress deadline is exceeded (ProgressDeadlineExceeded)")
    missing = _RULES[kind](found.get("spec") or {}, status)
    unseen = "its controller has not seen the change yet (observedGeneration)"
    waits_for = next(missing, "") if is_observed else unseen
    if not waits_for:
        return Rollout(Stage.COMPLETE)
    if blocked:
        return Rollout(Stage.STUCK, f"it {blocked.fact}; {waits_for}")
    return Rollout(Stage.UNDER_WAY, waits_for)


def _is_observed(metadata: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
    observed = _count(status, "observedGeneration")
    return 0 < observed >= _count(metadata, "generation")


def _is_past_its_deadline(status: Mapping[str, Any]) -> bool:
    return any(
        (each.get("type"), each.get("reason")) == ("Progressing", "ProgressDeadlineExceeded")
        for each in status.get("conditions") or ()
    )


# ---------------------------------------------------------------------------- the rules


def _deployment(spec: Mapping[str, Any], status: Mapping[str, Any]) -> Iterator[str]:
    updated, available = _count(status, "updatedReplicas"), _count(status, "availableReplicas")
    yield from _unreplaced(
        _count(status, "replicas"), updated, _wanted(spec), f"updatedReplicas{_refused(status)}"
    )
    if available < updated:
        yield f"{available} of {updated} new pods are available (availableReplicas)"
    if terminating := _count(status, "terminatingReplicas"):
        yield f"{_pods(terminating)} still ending (terminatingReplicas)"


def _daemon_set(spec: Mapping[str, Any], status: Mapping[str, Any]) -> Iterator[str]:
    del spec
    desired, updated = (
        _count(status, name) for name in ("desiredNumberScheduled", "updatedNumberScheduled")
    )
    running = _count(status, "currentNumberScheduled")
    yield from _unreplaced(running, updated, desired, "updatedNumberScheduled")
    if (available := _count(status, "numberAvailable")) < desired:
        yield f"{available} of {desired} new pods are available (numberAvailable)"
    if strays := _count(status, "numberMisscheduled"):
        yield f"{_pods(strays)} on nodes that should have none, perhaps old (numberMisscheduled)"


def _stateful_set(spec: Mapping[str, Any], status: Mapping[str, Any]) -> Iterator[str]:
    wanted = _wanted(spec)
    running, updated = _count(status, "replicas"), _count(status, "updatedReplicas")
    yield from _unreplaced(running, updated, wanted, "updatedReplicas")
    if (ready := _count(status, "readyReplicas")) < wanted:
        yield f"{ready} of {wanted} new pods are ready (readyReplicas)"
    if status.get("currentRevision") != status.get("updateRevision"):
        yield "its controller has not finished the update (currentRevision, updateRevision)"


_RULES = {
    Workload.DEPLOYMENT: _deployment,
    Workload.DAEMON_SET: _daemon_set,
    Workload.STATEFUL_SET: _stateful_set,
}


def _unreplaced(running: int, updated: int, wanted: int, field: str) -> Iterator[str]:
    """Yield what is missing until all that run are new, and as many as are wanted."""
    if running > updated:
        yield f"{running - updated} of {_pods(running)} old ({field})"
    if updated < wanted:
        yield f"{wanted - updated} of {_pods(wanted)} missing ({field})"


def _pods(number: int) -> str:
    return f"{number} pod is" if number == 1 else f"{number} pods are"


def _wanted(spec: Mapping[str, Any]) -> int:
    """Return how many replicas are wanted; servers fill in 1."""
    replicas = spec.get("replicas")
    return 1 if replicas is None else int(replicas)


def _refused(status: Mapping[str, Any]) -> str:
    """Say so if no pod can be made: a quota, an admission policy. Its text is not ours to quote."""
    fails = any(
        (each.get("type"), each.get("status")) == ("ReplicaFailure", "True")
        for each in status.get("conditions") or ()
    )
    return ", ReplicaFailure" if fails else ""


def _count(fields: Mapping[str, Any], name: str) -> int:
    """Return a number; the API leaves out zeros."""
    return int(fields.get(name) or 0)
