"""Deployments, StatefulSets and DaemonSets: whose pods are replaced to make them read anew.

Told is who carries the version's id in an annotation of the secret's own: on the pod template,
which is what replaces the pods, and on the object itself, where it stays when somebody puts the
template back.

    on the object    on the template    rollout      a look says
    another, none    (any)              (any)        untold
    the version      another, none      (any)        failed: it was put back
    the version      the version        stuck        failed
    the version      the version        under way    waiting
    the version      the version        complete     followed

Every pod of a template with the id was started after the version had become current. So what
counts is that all pods are of this template: see `keyturn.kubernetes.rollout`. With no replicas,
nothing runs with an older value, and what is started later is of this template.

A patch is conditional on the `resourceVersion` that was seen. Each report of a pod changes that,
too; so if nothing that is wanted has changed (the `generation` is the same, and so is what it was
told), it is tried again with the present one. What it never does: write a time, such as kubectl's
`restartedAt`. Two workers would write two times and restart it twice, and two secrets in the same
second one time and restart it once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec

from keyturn.errors import Busy, Misconfigured
from keyturn.followers import ConsumerShape, Given, Name, Namespace
from keyturn.kubernetes.api import Kubernetes, Object, Patch, Resource
from keyturn.kubernetes.cluster import ClusterShape
from keyturn.kubernetes.marks import annotations_of, mark_of
from keyturn.kubernetes.rollout import Stage, Workload, obstacle, rollout
from keyturn.model import RotationId, Version
from keyturn.ports import Pickup, Sight
from keyturn.shapes import shown

PERMISSIONS = (
    "get daemonsets.apps",
    "get deployments.apps",
    "get statefulsets.apps",
    "patch daemonsets.apps",
    "patch deployments.apps",
    "patch statefulsets.apps",
)
"""RBAC's verbs on the workloads of the plan, by their names. `patch` is power over the whole pod
template: whoever has it runs what he likes, with that workload's rights."""

_TRIES = 4
"""How often a patch is made, if only the status changes between the look and the patch."""


class WorkloadShape(ConsumerShape, frozen=True, kw_only=True):
    """A workload whose pods are replaced."""

    namespace: Annotated[Namespace, msgspec.Meta(description="Its namespace.")]
    name: Annotated[Name, msgspec.Meta(description="Its name.")]
    cluster: (
        Annotated[
            ClusterShape, msgspec.Meta(description="Its cluster, if not the plan's `cluster`.")
        ]
        | msgspec.UnsetType
    ) = msgspec.UNSET

    def place(self) -> tuple[str, ...]:
        """See `ConsumerShape.place`."""
        return (repr(self.cluster), self.namespace, self.name)


class DeploymentShape(WorkloadShape, frozen=True, kw_only=True):
    """A Deployment: its pods are replaced, so that the new ones read the new value."""


class StatefulSetShape(WorkloadShape, frozen=True, kw_only=True):
    """A StatefulSet: its pods are replaced, one after the other."""


class DaemonSetShape(WorkloadShape, frozen=True, kw_only=True):
    """A DaemonSet: its pods are replaced, node by node."""


SHAPES: Mapping[str, type[ConsumerShape]] = {
    Workload.DEPLOYMENT.value: DeploymentShape,
    Workload.STATEFUL_SET.value: StatefulSetShape,
    Workload.DAEMON_SET.value: DaemonSetShape,
}

FIXES: Mapping[str, str] = {
    "namespace": "Write the namespace, as `kubectl get namespaces` shows it.",
    "name": "Write the workload's name, as `kubectl get` shows it.",
    "cluster": "Name the cluster, such as `cluster: {eks: prod}`, or remove it.",
}

_RESOURCES = {
    Workload.DEPLOYMENT: Resource("apps", "v1", "deployments"),
    Workload.STATEFUL_SET: Resource("apps", "v1", "statefulsets"),
    Workload.DAEMON_SET: Resource("apps", "v1", "daemonsets"),
}


def make(kind: str, settings: ConsumerShape, given: Given) -> Restarted:
    """Make the consumer. No I/O."""
    assert isinstance(settings, WorkloadShape)  # noqa: S101  # by its kind
    api = given.cluster(None if settings.cluster is msgspec.UNSET else settings.cluster)
    return Restarted(api, Workload(kind), settings, given.secret)


class Restarted:
    """A `Consumer`. Its marks are the `resourceVersion`, the `generation` and what it was told.

    Args:
        api: Its cluster's.
        kind: What it is.
        settings: Where it is.
        secret: The name of the secret that it reads.
    """

    def __init__(
        self, api: Kubernetes, kind: Workload, settings: WorkloadShape, secret: str
    ) -> None:
        self._api = api
        self._kind = kind
        self._place = (_RESOURCES[kind], settings.namespace, settings.name)
        self._mark = mark_of(secret)
        where = "" if settings.cluster is msgspec.UNSET else f" in {api.name}"
        self._name = f"{kind} {settings.namespace}/{settings.name}{where}"

    def name(self) -> str:
        """See `Consumer.name`."""
        return self._name

    def preflight(self) -> None:
        """See `Consumer.preflight`."""
        if blocked := obstacle(self._kind, self._found()):
            raise Misconfigured(f"{self._name} {blocked.fact}", remedy=blocked.remedy)

    def verify(self, version: Version) -> Sight:
        """See `Consumer.verify`.

        Raises:
            Misconfigured: There is no such workload.
        """
        found = self._found()
        mark = f"{found['metadata']['resourceVersion']} {self._state(found)}"
        if self._told(found) != version.rotation_id:
            blocked = obstacle(self._kind, found)
            return Sight(Pickup.UNTOLD, mark, f"it {blocked.fact}" if blocked else "")
        carried = annotations_of(found["spec"]["template"].get("metadata")).get(self._mark)
        if carried != version.rotation_id:
            says = f"version {shown(carried)}" if carried else "no version"
            return Sight(Pickup.FAILED, mark, f"its template was put back and says {says}")
        seen = rollout(self._kind, found)
        return Sight(_PICKUPS[seen.stage], mark, seen.waits_for)

    def trigger(self, version_id: RotationId, seen: Sight) -> None:
        """See `Consumer.trigger`.

        Raises:
            Busy: Its template, its replicas or its strategy have changed since.
            Misconfigured: It is gone.
        """
        if seen.pickup is not Pickup.UNTOLD:
            return
        resource_version, _, state = seen.mark.partition(" ")
        for _ in range(_TRIES):
            try:
                changed = self._api.patch(
                    *self._place, self._change(version_id, resource_version), Patch.STRATEGIC
                )
            except Busy:
                found = self._found()
            else:
                self._require(changed)
                return
            if self._told(found) == version_id:
                return  # Ours, with a lost reply, or another worker's.
            if self._state(found) != state:
                break
            resource_version = found["metadata"]["resourceVersion"]
        raise Busy(
            f"{self._name} has been changed since it was looked at",
            remedy="Nothing: it is looked at again.",
        )

    def _change(self, version_id: RotationId, resource_version: str) -> Object:
        marked = {"annotations": {self._mark: version_id}}
        return {
            "metadata": {"resourceVersion": resource_version, **marked},
            "spec": {"template": {"metadata": marked}},
        }

    def _state(self, found: Object) -> str:
        """Return what changes when somebody tells it, and not when a pod reports."""
        return f"{found['metadata'].get('generation', 0)} {self._told(found) or ''}"

    def _told(self, found: Object) -> str | None:
        return annotations_of(found["metadata"]).get(self._mark)

    def _found(self) -> Object:
        return self._require(self._api.get(*self._place))

    def _require(self, found: Object | None) -> Object:
        if found is None:
            raise Misconfigured(
                f"{self._name} is not there",
                remedy="Correct its namespace and name in the plan, or take it out.",
            )
        return found


_PICKUPS = {
    Stage.COMPLETE: Pickup.FOLLOWED,
    Stage.UNDER_WAY: Pickup.WAITING,
    Stage.STUCK: Pickup.FAILED,
}
