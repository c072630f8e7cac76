"""The controllers of Deployments, ReplicaSets, StatefulSets and DaemonSets, one step at a time.

Coarse, but the states that a rollout goes through are there: old pods beside new ones, new ones
that are not ready yet, a wish that no controller has seen yet (`observedGeneration`), a rollout
that hangs and exceeds its deadline when the cluster's time has passed (`advance`).

As with the real ones, a count of zero is left out of a status.

Sources: Deployments ("Rolling Update Deployment", "Deployment status"); StatefulSets ("Update
strategies", "Partitioned rolling updates"); DaemonSet ("Performing a Rolling Update").
"""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from keyturn.local import kubernetes_kubelet as kubelet
from keyturn.local.kubernetes_kubelet import is_ready, owner_reference
from keyturn.local.kubernetes_objects import Key, timestamp

Json = dict[str, Any]
Pods = list[tuple[Key, Json]]

HASH = "pod-template-hash"
REVISION_HASH = "controller-revision-hash"
REVISION = "deployment.kubernetes.io/revision"


class Site(kubelet.Site, Protocol):
    """What the controllers need of the cluster. See `FakeKubernetes`."""

    nodes: int


def step(site: Site) -> None:
    """Let each controller do the next thing it has to do."""
    for resource, control in (
        ("replicasets", _replica_set),
        ("statefulsets", _stateful_set),
        ("daemonsets", _daemon_set),
        ("deployments", _deployment),
    ):
        for key, one in site.objects.every(site.objects.kind_named(resource)):
            control(site, key, one)


def _digest(template: Json) -> str:
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:10]


def _make_pod(site: Site, owner: Json, name: str, template: Json, labels: Json) -> None:
    metadata: Json = template.get("metadata") or {}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {**(metadata.get("labels") or {}), **labels},
            "annotations": metadata.get("annotations") or {},
            "ownerReferences": [owner_reference(owner, "apps/v1", owner["kind"])],
        },
        "spec": {"nodeName": "node-0", **template["spec"]},
    }
    site.objects.create(site.objects.kind_named("pods"), owner["metadata"]["namespace"], pod)


def _delete_pods(site: Site, pods: Iterable[tuple[Key, Json]]) -> None:
    for key, _ in pods:
        site.objects.delete(site.objects.kind_named("pods"), key)


def _count_ready(pods: Pods) -> int:
    return sum(is_ready(pod) for _, pod in pods)


def _write_status(site: Site, key: Key, status: Json) -> None:
    kind = site.objects.kinds[key.group, key.plural]
    site.objects.update(kind, key, {"status": status}, "status")


def _without_zeros(status: Json) -> Json:
    return {key: value for key, value in status.items() if value not in (0, "", [])}


# ---------------------------------------------------------------------- ReplicaSets


def _replica_set(site: Site, key: Key, one: Json) -> None:
    pods = sorted(site.objects.owned("pods", one), key=lambda each: is_ready(each[1]))
    wanted = one["spec"]["replicas"]
    for _ in range(wanted - len(pods)):
        name = f"{key.name}-{uuid.uuid4().hex[:5]}"
        _make_pod(site, one, name, one["spec"]["template"], {})
    _delete_pods(site, pods[: max(0, len(pods) - wanted)])
    pods = site.objects.owned("pods", one)
    ready = _count_ready(pods)
    status = {"fullyLabeledReplicas": len(pods), "readyReplicas": ready, "availableReplicas": ready}
    seen = {"observedGeneration": one["metadata"]["generation"]}
    _write_status(site, key, {"replicas": len(pods), **_without_zeros(status), **seen})


# ---------------------------------------------------------------------- Deployments


def _deployment(site: Site, key: Key, one: Json) -> None:
    sets = [each for _, each in site.objects.owned("replicasets", one)]
    digest = _digest(one["spec"]["template"])
    current = next((s for s in sets if s["metadata"]["labels"][HASH] == digest), None)
    is_paused = one["spec"].get("paused", False)
    has_begun = current is None and not is_paused
    if current is None and not is_paused:
        current = _make_replica_set(site, one, digest)
        sets.append(current)
    if current is not None and not is_paused:
        _count_revision(site, key, current, sets)
        _scale(site, one, current, sets)
    _write_status(site, key, _deployment_status(site, one, current, sets, has_begun=has_begun))


def _make_replica_set(site: Site, owner: Json, digest: str) -> Json:
    template: Json = owner["spec"]["template"]
    metadata: Json = template["metadata"]
    labels = {**metadata["labels"], HASH: digest}
    chosen = {**owner["spec"]["selector"]["matchLabels"], HASH: digest}
    return site.objects.create(
        site.objects.kind_named("replicasets"),
        owner["metadata"]["namespace"],
        {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "name": f"{owner['metadata']['name']}-{digest}",
                "labels": labels,
                "ownerReferences": [owner_reference(owner, "apps/v1", "Deployment")],
            },
            "spec": {
                "replicas": 0,
                "selector": {"matchLabels": chosen},
                "template": {**template, "metadata": {**metadata, "labels": labels}},
            },
        },
    )  # fmt: skip


def _count_revision(site: Site, key: Key, current: Json, sets: list[Json]) -> None:
    """Give the current ReplicaSet the highest revision, and show it on the Deployment."""
    newest = max(_revision(each) for each in sets)
    is_newest_alone = [_revision(each) for each in sets].count(newest) == 1
    revision = newest if _revision(current) == newest and is_newest_alone and newest else newest + 1
    name = current["metadata"]["name"]
    for resource, target in (("replicasets", key._replace(plural="replicasets", name=name)),
                             ("deployments", key)):  # fmt: skip
        kind = site.objects.kind_named(resource)
        found = site.objects.get(kind, target)
        found["metadata"].setdefault("annotations", {})[REVISION] = str(revision)
        site.objects.update(kind, target, found)


def _revision(replica_set: Json) -> int:
    return int((replica_set["metadata"].get("annotations") or {}).get(REVISION, 0))


def _scale(site: Site, one: Json, current: Json, sets: list[Json]) -> None:
    """Make more new pods and fewer old ones, as far as the strategy lets us."""
    wanted = one["spec"]["replicas"]
    strategy: Json = one["spec"].get("strategy") or {}
    old = [each for each in sets if each is not current]
    if strategy.get("type") == "Recreate":
        _resize(site, old, sum(each["spec"]["replicas"] for each in old))
        if not any(_counted(each, "replicas") for each in old):
            _set_size(site, current, wanted)
        return
    surge, unavailable = _leeway(strategy.get("rollingUpdate") or {}, wanted)
    total = sum(each["spec"]["replicas"] for each in sets)
    more = min(wanted, current["spec"]["replicas"] + max(0, wanted + surge - total))
    not_available = current["spec"]["replicas"] - _counted(current, "availableReplicas")
    spare = total - (wanted - unavailable) - not_available
    available = sum(_counted(each, "availableReplicas") for each in sets)
    unhealthy = sum(each["spec"]["replicas"] - _counted(each, "availableReplicas") for each in old)
    fewer = min(spare, max(min(unhealthy, spare), available - (wanted - unavailable)))
    _set_size(site, current, more)
    _resize(site, old, fewer)


def _leeway(settings: Json, wanted: int) -> tuple[int, int]:
    surge = _share(settings.get("maxSurge", "25%"), wanted, math.ceil)
    unavailable = _share(settings.get("maxUnavailable", "25%"), wanted, math.floor)
    return (surge, unavailable) if surge or unavailable else (0, 1)


def _share(value: int | str, of: int, rounded: Any) -> int:
    if isinstance(value, int):
        return value
    return int(rounded(of * int(value.rstrip("%")) / 100))


def _counted(one: Json, field: str) -> int:
    return int((one.get("status") or {}).get(field, 0))


def _resize(site: Site, sets: list[Json], fewer: int) -> None:
    """Take that many pods from the sets, from those that are not available first."""
    for each in sorted(sets, key=lambda one: _counted(one, "availableReplicas")):
        taken = min(max(0, fewer), each["spec"]["replicas"])
        _set_size(site, each, each["spec"]["replicas"] - taken)
        fewer -= taken


def _set_size(site: Site, replica_set: Json, size: int) -> None:
    metadata = replica_set["metadata"]
    kind = site.objects.kind_named("replicasets")
    key = Key(kind.group, kind.plural, metadata["namespace"], metadata["name"])
    found = site.objects.get(kind, key)
    found["spec"]["replicas"] = size
    site.objects.update(kind, key, found)


def _deployment_status(
    site: Site, one: Json, current: Json | None, sets: list[Json], *, has_begun: bool
) -> Json:
    wanted = one["spec"]["replicas"]
    ready = sum(_counted(each, "readyReplicas") for each in sets)
    counts = {
        "replicas": sum(_counted(each, "replicas") for each in sets),
        "updatedReplicas": _counted(current or {}, "replicas"),
        "readyReplicas": ready,
        "availableReplicas": ready,
        "unavailableReplicas": max(0, wanted - ready),
    }
    has_moved = has_begun or any(_counted(one, field) != counts[field] for field in counts)
    return {
        "observedGeneration": one["metadata"]["generation"],
        **_without_zeros(counts),
        "conditions": [
            _condition(site, one, "Available", _availability(one, ready)),
            _condition(
                *(site, one, "Progressing", _progress(site, one, counts, has_moved=has_moved)),
                has_moved=has_moved,
            ),
        ],
    }


def _availability(one: Json, ready: int) -> tuple[str, str]:
    wanted = one["spec"]["replicas"]
    _, unavailable = _leeway((one["spec"].get("strategy") or {}).get("rollingUpdate") or {}, wanted)
    if ready >= wanted - unavailable:
        return "True", "MinimumReplicasAvailable"
    return "False", "MinimumReplicasUnavailable"


def _progress(
    site: Site, one: Json, counts: Mapping[str, int], *, has_moved: bool
) -> tuple[str, str]:
    """Return the status and the reason of `Progressing`."""
    wanted = one["spec"]["replicas"]
    old = _found_condition(one, "Progressing")
    if one["spec"].get("paused"):
        return "Unknown", "DeploymentPaused"
    if {counts[f] for f in ("updatedReplicas", "replicas", "availableReplicas")} == {wanted}:
        return "True", "NewReplicaSetAvailable"
    if has_moved or not old:
        return "True", "ReplicaSetUpdated"
    waited = kubelet.age(old["lastUpdateTime"], site.now())
    if waited.total_seconds() > one["spec"]["progressDeadlineSeconds"]:
        return "False", "ProgressDeadlineExceeded"
    return old["status"], old["reason"]


def _found_condition(one: Json, kind: str) -> Json:
    conditions = (one.get("status") or {}).get("conditions") or ()
    return next((each for each in conditions if each["type"] == kind), {})


def _condition(
    site: Site, one: Json, kind: str, what: tuple[str, str], *, has_moved: bool = False
) -> Json:
    status, reason = what
    old = _found_condition(one, kind)
    now = timestamp(site.now())
    is_same = (old.get("status"), old.get("reason")) == what
    # A rollout's progress is what this time is for: its deadline counts from there.
    is_old_news = is_same and not (has_moved and reason == "ReplicaSetUpdated")
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": reason,
        "lastUpdateTime": old["lastUpdateTime"] if is_old_news else now,
        "lastTransitionTime": old["lastTransitionTime"] if old.get("status") == status else now,
    }


# ---------------------------------------------------------------------- StatefulSets


def _stateful_set(site: Site, key: Key, one: Json) -> None:
    spec, status = one["spec"], one.get("status") or {}
    strategy: Json = spec.get("updateStrategy") or {}
    is_rolling = strategy.get("type", "RollingUpdate") == "RollingUpdate"
    partition = (strategy.get("rollingUpdate") or {}).get("partition", 0)
    update = _keep_revision(site, one)
    current = status.get("currentRevision") or update
    pods = dict(sorted((_ordinal(pod), (at, pod)) for at, pod in site.objects.owned("pods", one)))
    missing = [each for each in range(spec["replicas"]) if each not in pods]
    surplus = [each for each in pods if each >= spec["replicas"]]
    is_all_ready = all(is_ready(pod) for _, pod in pods.values())
    if missing and is_all_ready:
        revision = current if is_rolling and missing[0] < partition else update
        name = f"{key.name}-{missing[0]}"
        _make_pod(site, one, name, _template(site, one, revision), {REVISION_HASH: revision})
    elif surplus:
        _delete_pods(site, [pods[max(surplus)]])
    elif not missing and is_rolling:
        _replace_highest(site, pods, update, partition)
    _write_status(site, key, _stateful_status(site, one, current, update, is_rolling=is_rolling))


def _ordinal(pod: Json) -> int:
    return int(pod["metadata"]["name"].rpartition("-")[2])


def _keep_revision(site: Site, one: Json) -> str:
    """Keep the template as a ControllerRevision, and return its name."""
    template = one["spec"]["template"]
    metadata = one["metadata"]
    name = f"{metadata['name']}-{_digest(template)}"
    kind = site.objects.kind_named("controllerrevisions")
    if site.objects.find(Key(kind.group, kind.plural, metadata["namespace"], name)) is None:
        revision = 1 + len(site.objects.owned("controllerrevisions", one))
        references = [owner_reference(one, "apps/v1", one["kind"])]
        made = {"metadata": {"name": name, "ownerReferences": references}, "revision": revision}
        made["data"] = {"spec": {"template": template}}
        site.objects.create(kind, metadata["namespace"], made)
    return name


def _template(site: Site, one: Json, revision: str) -> Json:
    kind = site.objects.kind_named("controllerrevisions")
    key = Key(kind.group, kind.plural, one["metadata"]["namespace"], revision)
    template: Json = site.objects.get(kind, key)["data"]["spec"]["template"]
    return template


def _replace_highest(
    site: Site, pods: Mapping[int, tuple[Key, Json]], update: str, partition: int
) -> None:
    """Delete the highest pod that is old, unless a newer one is not ready yet."""
    for ordinal in sorted(pods, reverse=True):
        if ordinal < partition:
            return
        _, pod = pods[ordinal]
        if pod["metadata"]["labels"][REVISION_HASH] != update:
            _delete_pods(site, [pods[ordinal]])
            return
        if not is_ready(pod):
            return


def _stateful_status(site: Site, one: Json, current: str, update: str, *, is_rolling: bool) -> Json:
    pods = site.objects.owned("pods", one)
    ready = _count_ready(pods)
    revisions = [pod["metadata"]["labels"][REVISION_HASH] for _, pod in pods]
    if is_rolling and revisions.count(update) == len(pods) == ready == one["spec"]["replicas"]:
        current = update
    optional = {
        "readyReplicas": ready,
        "currentReplicas": revisions.count(current),
        "updatedReplicas": revisions.count(update),
    }
    return {
        "observedGeneration": one["metadata"]["generation"],
        "replicas": len(pods),
        "availableReplicas": ready,
        **_without_zeros(optional),
        "currentRevision": current,
        "updateRevision": update,
    }


# ---------------------------------------------------------------------- DaemonSets


def _daemon_set(site: Site, key: Key, one: Json) -> None:
    template = one["spec"]["template"]
    digest = _digest(template)
    strategy: Json = one["spec"].get("updateStrategy") or {}
    pods = site.objects.owned("pods", one)
    used = {pod["spec"]["nodeName"] for _, pod in pods}
    for node in sorted({f"node-{number}" for number in range(site.nodes)} - used):
        placed = {**template, "spec": {**template["spec"], "nodeName": node}}
        name = f"{key.name}-{uuid.uuid4().hex[:5]}"
        _make_pod(site, one, name, placed, {REVISION_HASH: digest})
    if strategy.get("type", "RollingUpdate") == "RollingUpdate":
        most = (strategy.get("rollingUpdate") or {}).get("maxUnavailable", 1)
        may_go = max(0, _share(most, site.nodes, math.ceil) - (site.nodes - _count_ready(pods)))
        old = [each for each in pods if each[1]["metadata"]["labels"][REVISION_HASH] != digest]
        unready = [each for each in old if not is_ready(each[1])]
        ready = [each for each in old if is_ready(each[1])]
        _delete_pods(site, [*unready, *ready[:may_go]])
    _write_status(site, key, _daemon_status(site, one, digest))


def _daemon_status(site: Site, one: Json, digest: str) -> Json:
    pods = site.objects.owned("pods", one)
    ready = _count_ready(pods)
    updated = sum(pod["metadata"]["labels"][REVISION_HASH] == digest for _, pod in pods)
    optional = {
        "updatedNumberScheduled": updated,
        "numberAvailable": ready,
        "numberUnavailable": site.nodes - ready,
    }
    return {
        "observedGeneration": one["metadata"]["generation"],
        "desiredNumberScheduled": site.nodes,
        "currentNumberScheduled": len(pods),
        "numberMisscheduled": 0,
        "numberReady": ready,
        **_without_zeros(optional),
    }
