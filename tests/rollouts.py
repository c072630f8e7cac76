"""Rollouts as the API shows them: what kubectl says of each, and what we do.

Where the two differ, the row says why. Each object has had one change after it was created, so that
its generation is 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from keyturn.kubernetes.rollout import Stage, Workload

Json = dict[str, Any]

DEPLOYMENT, STATEFUL_SET, DAEMON_SET = Workload
COMPLETE, UNDER_WAY, STUCK = Stage

_KINDS = {DEPLOYMENT: "Deployment", STATEFUL_SET: "StatefulSet", DAEMON_SET: "DaemonSet"}
_ROLLING: dict[Workload, Json] = {
    DEPLOYMENT: {"strategy": {"type": "RollingUpdate"}},
    STATEFUL_SET: {"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}},
    DAEMON_SET: {
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}}
    },
}
"""As a server fills them in."""


@dataclass(frozen=True, slots=True)
class Row:
    """A state of a rollout.

    Attributes:
        kubectl: What `kubectl rollout status` makes of it. An error is *stuck*.
        ours: What we make of it.
        waits_for: A part of what we say is missing.
        stricter: Why we differ; "" where we agree.
    """

    name: str
    kind: Workload
    spec: Json
    status: Json
    kubectl: Stage
    ours: Stage
    waits_for: str = ""
    stricter: str = ""

    def made(self) -> Json:
        """Return the object as it is created: without a status."""
        return {
            "apiVersion": "apps/v1",
            "kind": _KINDS[self.kind],
            "metadata": {"name": self.name, "namespace": "default"},
            "spec": {
                **_ROLLING[self.kind],
                **self.spec,
                "selector": {"matchLabels": {"app": self.name}},
                "template": {
                    "metadata": {"labels": {"app": self.name}},
                    "spec": {"containers": [{"name": "main", "image": "example.com/main"}]},
                },
            },
        }

    def shown(self) -> Json:
        """Return the object as the API shows it."""
        made = self.made()
        return {**made, "metadata": {**made["metadata"], "generation": 2}, "status": self.status}


def _deployment(
    name: str,
    counts: tuple[int, int, int],
    kubectl: Stage,
    ours: Stage | None = None,
    waits_for: str = "",
    **fields: Any,
) -> Row:
    """*counts* are of those that run, are new, and are new and available."""
    spec = {"replicas": fields.pop("wanted", 3), "paused": fields.pop("paused", None)}
    stricter = fields.pop("stricter", "")
    replicas, updated, available = counts
    status = {
        "observedGeneration": 2,
        "replicas": replicas,
        "updatedReplicas": updated,
        "availableReplicas": available,
        **fields,
    }
    return Row(
        *(f"deployment-{name}", DEPLOYMENT, _said(spec), _said(status)),
        *(kubectl, ours or kubectl, waits_for, stricter),
    )


def _stateful_set(
    name: str,
    counts: tuple[int, int, int],
    kubectl: Stage,
    ours: Stage | None = None,
    waits_for: str = "",
    **fields: Any,
) -> Row:
    """*counts* are of those that run, are new, and are ready."""
    spec = {"replicas": fields.pop("wanted", 3), "updateStrategy": fields.pop("strategy", None)}
    stricter = fields.pop("stricter", "")
    replicas, updated, ready = counts
    status = {
        "observedGeneration": 2,
        "replicas": replicas,
        "updatedReplicas": updated,
        "readyReplicas": ready,
        "currentRevision": "new",
        "updateRevision": "new",
        **fields,
    }
    return Row(
        *(f"stateful-set-{name}", STATEFUL_SET, _said(spec), _said(status)),
        *(kubectl, ours or kubectl, waits_for, stricter),
    )


def _daemon_set(
    name: str,
    counts: tuple[int, int, int, int],
    kubectl: Stage,
    ours: Stage | None = None,
    waits_for: str = "",
    **fields: Any,
) -> Row:
    """*counts* are of nodes that should have a pod, have one, a new one, an available one."""
    spec = {"updateStrategy": fields.pop("strategy", None)}
    stricter = fields.pop("stricter", "")
    desired, current, updated, available = counts
    status = {
        "observedGeneration": 2,
        "desiredNumberScheduled": desired,
        "currentNumberScheduled": current,
        "updatedNumberScheduled": updated,
        "numberAvailable": available,
        "numberMisscheduled": 0,
        "numberReady": available,
        **fields,
    }
    return Row(
        *(f"daemon-set-{name}", DAEMON_SET, _said(spec), _said(status)),
        *(kubectl, ours or kubectl, waits_for, stricter),
    )


def _said(fields: Json) -> Json:
    return {key: value for key, value in fields.items() if value is not None}


def _condition(kind: str, status: str, reason: str) -> list[Json]:
    return [{"type": kind, "status": status, "reason": reason}]


_LATE = _condition("Progressing", "False", "ProgressDeadlineExceeded")
_ON_DELETE = {"type": "OnDelete"}
_BARE = {"type": "RollingUpdate"}
_NONE_SAID = "the number that is wanted is not said: servers fill in 1"
_PAUSED = "a paused one waits for a person"
_OLD_ONES = "nothing tells that the old ones are gone"


def _parted(partition: int) -> Json:
    return {"type": "RollingUpdate", "rollingUpdate": {"partition": partition}}


TABLE: tuple[Row, ...] = (
    _deployment("complete", (3, 3, 3), COMPLETE),
    _deployment("none-new", (3, 0, 0), UNDER_WAY, None, "3 of 3 pods are old (updatedReplicas)"),
    _deployment("one-new", (3, 1, 3), UNDER_WAY, None, "2 of 3 pods are old (updatedReplicas)"),
    _deployment("surging", (4, 1, 3), UNDER_WAY, None, "3 of 4 pods are old"),
    _deployment("surge-left", (4, 3, 4), UNDER_WAY, None, "1 of 4 pods are old"),
    _deployment("missing", (1, 1, 1), UNDER_WAY, None, "2 of 3 pods are missing"),
    _deployment("unavailable", (3, 3, 2), UNDER_WAY, None, "2 of 3 new pods are available"),
    _deployment("unobserved", (3, 3, 3), UNDER_WAY, None, "observedGen", observedGeneration=1),
    _deployment("never-observed", (3, 3, 3), UNDER_WAY, observedGeneration=None),
    _deployment("none-wanted", (0, 0, 0), COMPLETE, wanted=0),
    _deployment("none-wanted-one-left", (1, 0, 0), UNDER_WAY, None, "1 of 1 pod is old", wanted=0),
    _deployment("more-than-wanted", (3, 3, 3), COMPLETE, wanted=2),
    _deployment("one", (1, 1, 1), COMPLETE, wanted=None),
    _deployment("late", (3, 1, 1), STUCK, None, "deadline is exceeded", conditions=_LATE),
    _deployment("late-and-complete", (3, 3, 3), STUCK, conditions=_LATE),
    _deployment("late-before", (3, 3, 3), UNDER_WAY, conditions=_LATE, observedGeneration=1),
    _deployment(
        "in-time",
        (3, 3, 3),
        COMPLETE,
        conditions=_condition("Progressing", "True", "NewReplicaSetAvailable"),
    ),
    _deployment(
        "refused",
        (1, 1, 1),
        UNDER_WAY,
        None,
        "2 of 3 pods are missing (updatedReplicas, ReplicaFailure)",
        conditions=_condition("ReplicaFailure", "True", "FailedCreate"),
    ),
    _deployment("paused", (3, 1, 3), UNDER_WAY, STUCK, "paused", paused=True, stricter=_PAUSED),
    _deployment("paused-and-complete", (3, 3, 3), COMPLETE, paused=True),
    _deployment(
        *("ending", (3, 3, 3), COMPLETE, UNDER_WAY, "2 pods are still ending"),
        terminatingReplicas=2,
        stricter="who ends may still log in",
    ),
    _deployment("ended", (3, 3, 3), COMPLETE, terminatingReplicas=0),
    _stateful_set("complete", (3, 3, 3), COMPLETE),
    _stateful_set("bare-complete", (3, 3, 3), COMPLETE, strategy=_BARE),
    _stateful_set("one-new", (3, 1, 3), UNDER_WAY, None, "2 of 3 pods are old"),
    _stateful_set("none-ready", (3, 3, 0), UNDER_WAY, None, "0 of 3 new pods are ready"),
    _stateful_set("one-unready", (3, 3, 2), UNDER_WAY, None, "2 of 3 new pods are ready"),
    _stateful_set("missing", (2, 2, 2), UNDER_WAY, None, "1 of 3 pods are missing"),
    _stateful_set(
        *("bare-two-revisions", (3, 3, 3), UNDER_WAY, None, "(currentRevision, updateRevision)"),
        strategy=_BARE,
        currentRevision="old",
    ),
    _stateful_set(
        *("two-revisions", (3, 3, 3), COMPLETE, UNDER_WAY, "(currentRevision, updateRevision)"),
        currentRevision="old",
        stricter="kubectl compares revisions only where servers have filled nothing in",
    ),
    _stateful_set("unobserved", (3, 3, 3), UNDER_WAY, observedGeneration=1),
    _stateful_set("never-observed", (3, 3, 3), UNDER_WAY, observedGeneration=None),
    _stateful_set("none-wanted", (0, 0, 0), COMPLETE, wanted=0),
    _stateful_set(
        *("none-wanted-one-left", (1, 0, 1), COMPLETE, UNDER_WAY, "1 of 1 pod is old"),
        wanted=0,
        stricter=_OLD_ONES,
    ),
    _stateful_set("one", (1, 1, 1), COMPLETE, wanted=None),
    _stateful_set("more-than-wanted", (3, 3, 3), COMPLETE, wanted=2),
    _stateful_set(
        *("parted", (3, 1, 3), COMPLETE, STUCK, "below the ordinal 2"),
        strategy=_parted(2),
        currentRevision="old",
        stricter="two pods are old, and stay so",
    ),
    _stateful_set(
        *("parted-under-way", (3, 0, 3), UNDER_WAY, STUCK, "below the ordinal 2"),
        strategy=_parted(2),
        stricter="it will not come to its end",
    ),
    _stateful_set("on-delete", (3, 3, 3), STUCK, None, "RollingUpdate", strategy=_ON_DELETE),
    _daemon_set("complete", (3, 3, 3, 3), COMPLETE),
    _daemon_set("one-new", (3, 3, 1, 3), UNDER_WAY, None, "2 of 3 pods are old"),
    _daemon_set("missing", (3, 2, 2, 2), UNDER_WAY, None, "1 of 3 pods are missing"),
    _daemon_set("unavailable", (3, 3, 3, 1), UNDER_WAY, None, "1 of 3 new pods are available"),
    _daemon_set("unobserved", (3, 3, 3, 3), UNDER_WAY, observedGeneration=1),
    _daemon_set("never-observed", (3, 3, 3, 3), UNDER_WAY, observedGeneration=None),
    _daemon_set("no-nodes", (0, 0, 0, 0), COMPLETE),
    _daemon_set(
        *("strays", (3, 3, 3, 3), COMPLETE, UNDER_WAY, "1 pod is on nodes that should have none"),
        numberMisscheduled=1,
        stricter="nothing counts of which template those are",
    ),
    _daemon_set("on-delete", (3, 3, 3, 3), STUCK, None, "RollingUpdate", strategy=_ON_DELETE),
)
