"""The controllers of Deployments, StatefulSets and DaemonSets, and a kubelet, one step at a time.

Coarse, but the states that a rollout goes through are there: old pods beside new ones, new ones
that are not ready yet, a wish that no controller has seen yet (`observedGeneration`), a rollout
that hangs. A pod takes one step to be made and one to get ready; one that is deleted is gone at
once.

A pod knows the Secrets that it was started with. Variables keep them until it is deleted; files of
a volume follow a Secret after `KUBELET_SYNC_S`, except those that are mounted by `subPath`.

Sources: Deployments ("Rolling Update Deployment", "Deployment status"); StatefulSets ("Rolling
Updates", "On Delete", "Partitioned rolling updates"); DaemonSet ("Performing a Rolling Update");
Secrets ("Mounted Secrets are updated automatically").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Run:
    """What a pod runs with.

    Attributes:
        pod: Its name.
        variables: Secret -> its values, by name, as the pod's environment got them at its start.
        files: The same, as its volumes show them now.
        versions: Secret -> the `resourceVersion` that it was started with.
    """

    pod: str
    variables: Mapping[str, Mapping[str, str]]
    files: Mapping[str, Mapping[str, str]]
    versions: Mapping[str, str]


def step(cluster: Any) -> None:
    """Let each controller do the next thing it has to do."""


def runs_of(cluster: Any, namespace: str, workload: str) -> Sequence[Run]:  # noqa: ARG001  # soon
    """Return what each pod of a workload runs with."""
    return ()
