"""The kubelet: starts pods, and knows which Secrets each of them runs with.

A pod takes one step to be made and one to get ready. One that needs a Secret that is not there
waits for it; one whose image is broken never gets ready. Containers are not restarted, and nothing
runs in them.

    variables       as at the start, for the pod's life
    files           follow the Secret after `KUBELET_SYNC_S`; by `subPath` as at the start
    CSI volumes     as at the start; after `CSI_ROTATION_S` anew if the driver rotates

Sources: Secrets ("Using Secrets as files from a Pod", "Mounted Secrets are updated automatically",
"Using Secrets as environment variables"); Secrets Store CSI Driver ("Auto rotation of mounted
contents", SecretProviderClassPodStatus).
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

import yaml

from keyturn.local.kubernetes_objects import Key, Objects, timestamp

Json = dict[str, Any]
Values = Mapping[str, str]
Reference = tuple[str, bool]  # a Secret's name, and whether the pod can do without it

KUBELET_SYNC_S = 90
"""After which a volume's files show what the Secret holds, in seconds: the longest it takes."""

CSI_ROTATION_S = 120
"""The driver's `rotation-poll-interval`, in seconds: its default."""

CSI_GROUP = "secrets-store.csi.x-k8s.io"
CSI_DRIVER = "secrets-store.csi.k8s.io"


@dataclass(frozen=True, slots=True)
class Run:
    """What a pod runs with.

    Attributes:
        pod: Its name.
        variables: Secret -> its values by name, as the environment got them at the pod's start.
        files: The same, as the volumes show them now.
        versions: Secret -> its `resourceVersion` when the pod was started.
        mounts: Object of a SecretProviderClass -> the version that the CSI driver has mounted.
        synced_at: When the volumes were last looked at.
    """

    pod: str
    variables: Mapping[str, Values] = field(repr=False)
    files: Mapping[str, Values] = field(repr=False)
    versions: Mapping[str, str]
    mounts: Mapping[str, str]
    synced_at: datetime


class Site(Protocol):
    """What the kubelet needs of the cluster. See `FakeKubernetes`."""

    objects: Objects
    runs: dict[str, Run]
    mounts: Callable[[str], str]
    has_csi_rotation: bool
    is_broken: Callable[[str], bool]

    def now(self) -> datetime:
        """Return the cluster's time."""
        ...


class _NotThereError(Exception):
    """What a pod needs is not there. Says which, as the kubelet does."""


def step(site: Site) -> None:
    """Start the pods that wait, and look after the volumes of those that run."""
    objects = site.objects
    for key, pod in objects.every(objects.kind_named("pods")):
        if is_ready(pod):
            _sync(site, pod)
        else:
            _start(site, key, pod)
    _collect(site)


def is_ready(pod: Json) -> bool:
    """Tell whether a pod is ready."""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _start(site: Site, key: Key, pod: Json) -> None:
    waits_for = None
    images = [container.get("image", "") for container in _containers(pod)]
    try:
        run = _run(site, pod)
    except _NotThereError as missing:
        waits_for = str(missing)
    else:
        if any(site.is_broken(image) for image in images):
            waits_for = "ImagePullBackOff"
        else:
            site.runs[pod["metadata"]["uid"]] = run
            _write_pod_status(site, pod, run.mounts)
    since = _ready_since(site, pod, is_ready_now=waits_for is None)
    status: Json = {
        "phase": "Running" if waits_for is None else "Pending",
        "startTime": pod["metadata"]["creationTimestamp"],
        "conditions": [
            {"type": "PodScheduled", "status": "True"},
            {
                "type": "Ready",
                "status": "True" if waits_for is None else "False",
                "lastTransitionTime": since,
            },
        ],
        "containerStatuses": [
            {
                "name": container["name"],
                "image": container.get("image", ""),
                "ready": waits_for is None,
                "restartCount": 0,
                "state": _state(waits_for, since),
            }
            for container in _containers(pod)
        ],
    }
    site.objects.update(site.objects.kind_named("pods"), key, {"status": status}, "status")


def _ready_since(site: Site, pod: Json, *, is_ready_now: bool) -> str:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    before = [each for each in conditions if each["type"] == "Ready"]
    if before and not is_ready_now:
        since: str = before[0]["lastTransitionTime"]
        return since
    return timestamp(site.now())


def _state(waits_for: str | None, since: str) -> Json:
    return {"waiting": {"reason": waits_for}} if waits_for else {"running": {"startedAt": since}}


def _run(site: Site, pod: Json) -> Run:
    variables = _secrets(site, pod, _variables_of(pod))
    files = _secrets(site, pod, _volumes_of(pod))
    found = {**variables, **files}
    return Run(
        pod["metadata"]["name"],
        {name: _values(variables[name]) for name in variables},
        {name: _values(files[name]) for name in files},
        {name: one["metadata"]["resourceVersion"] for name, one in found.items()},
        {
            each: version
            for name in sorted(set(_classes_of(pod)))
            for each, version in _mounted(site, pod, name).items()
        },
        site.now(),
    )


def _containers(pod: Json) -> list[Json]:
    spec: Json = pod.get("spec") or {}
    return [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]


def _variables_of(pod: Json) -> Iterator[Reference]:
    for container in _containers(pod):
        for each in container.get("envFrom") or ():
            if "secretRef" in each:
                yield _reference(each["secretRef"], "name")
        for each in container.get("env") or ():
            source = (each.get("valueFrom") or {}).get("secretKeyRef")
            if source:
                yield _reference(source, "name")


def _volumes_of(pod: Json) -> Iterator[Reference]:
    for volume in (pod.get("spec") or {}).get("volumes") or ():
        if "secret" in volume:
            yield _reference(volume["secret"], "secretName")
        for source in (volume.get("projected") or {}).get("sources") or ():
            if "secret" in source:
                yield _reference(source["secret"], "name")


def _reference(source: Json, field: str) -> Reference:
    return source[field], bool(source.get("optional"))


def _classes_of(pod: Json) -> Iterator[str]:
    for volume in (pod.get("spec") or {}).get("volumes") or ():
        csi = volume.get("csi") or {}
        if csi.get("driver") == CSI_DRIVER:
            yield csi["volumeAttributes"]["secretProviderClass"]


def _secrets(site: Site, pod: Json, references: Iterable[Reference]) -> dict[str, Json]:
    """Return the Secrets that a pod refers to.

    Raises:
        _NotThereError: One is missing that is not optional.
    """
    found = {}
    for name, is_optional in sorted(set(references)):
        secret = site.objects.find(Key("", "secrets", pod["metadata"]["namespace"], name))
        if secret is not None:
            found[name] = secret
        elif not is_optional:
            raise _NotThereError("CreateContainerConfigError")
    return found


def _values(secret: Json) -> Values:
    data: Json = secret.get("data") or {}
    return {key: base64.b64decode(each).decode("utf-8", "replace") for key, each in data.items()}


# ---------------------------------------------------------------------- volumes while a pod runs


def _sync(site: Site, pod: Json) -> None:
    uid = pod["metadata"]["uid"]
    run = site.runs.get(uid)
    if run is None:  # it was put there, ready, by a test
        with contextlib.suppress(_NotThereError):
            site.runs[uid] = _run(site, pod)
        return
    waits_s = (site.now() - run.synced_at).total_seconds()
    if waits_s < KUBELET_SYNC_S:
        return
    fixed = set(_sub_paths_of(pod))
    objects, place = site.objects, pod["metadata"]["namespace"]
    mounted = {name for name, _ in _volumes_of(pod)}
    now_there = {name: objects.find(Key("", "secrets", place, name)) for name in mounted}
    changed = {
        name: _values(secret)
        for name, secret in now_there.items()
        if secret is not None and name not in fixed
    }
    files = {**run.files, **changed}
    site.runs[uid] = replace(run, files=files, synced_at=site.now())
    if site.has_csi_rotation and run.mounts and waits_s >= CSI_ROTATION_S:
        classes = sorted(set(_classes_of(pod)))
        mounts = {k: v for name in classes for k, v in _mounted(site, pod, name).items()}
        site.runs[uid] = replace(site.runs[uid], mounts=mounts)
        _write_pod_status(site, pod, mounts)


def _sub_paths_of(pod: Json) -> Iterator[str]:
    by_volume = {
        volume["name"]: volume["secret"]["secretName"]
        for volume in (pod.get("spec") or {}).get("volumes") or ()
        if "secret" in volume
    }
    for container in _containers(pod):
        for mount in container.get("volumeMounts") or ():
            if mount.get("subPath") and mount["name"] in by_volume:
                yield by_volume[mount["name"]]


# ---------------------------------------------------------------------- the CSI driver


def _mounted(site: Site, pod: Json, name: str) -> Values:
    """Return the objects of a SecretProviderClass, each with the version that is current now."""
    place = pod["metadata"]["namespace"]
    found = site.objects.find(Key(CSI_GROUP, "secretproviderclasses", place, name))
    if found is None:
        raise _NotThereError("ContainerCreating")
    try:
        return {_id(each): site.mounts(each["objectName"]) for each in _objects(found)}
    except LookupError:
        raise _NotThereError("ContainerCreating") from None


def _objects(provider_class: Json) -> Iterable[Json]:
    listed: Iterable[Json] = yaml.safe_load(provider_class["spec"]["parameters"]["objects"])
    return listed


def _id(listed: Json) -> str:
    return str(listed.get("objectAlias") or listed["objectName"])


def _write_pod_status(site: Site, pod: Json, mounts: Mapping[str, str]) -> None:
    """Write the SecretProviderClassPodStatus of each class that a pod has mounted."""
    metadata = pod["metadata"]
    for name in sorted(set(_classes_of(pod))):
        provider_class = site.objects.find(
            Key(CSI_GROUP, "secretproviderclasses", metadata["namespace"], name)
        )
        listed = _objects(provider_class) if provider_class else ()
        objects = [{"id": _id(each), "version": mounts[_id(each)]} for each in listed]
        site.objects.put(
            {
                "apiVersion": f"{CSI_GROUP}/v1",
                "kind": "SecretProviderClassPodStatus",
                "metadata": {
                    "name": f"{metadata['name']}-{metadata['namespace']}-{name}",
                    "namespace": metadata["namespace"],
                    "labels": {"internal.secrets-store.csi.k8s.io/node-name": _node(pod)},
                    "ownerReferences": [owner_reference(pod, "v1", "Pod")],
                },
                "status": {
                    "mounted": True,
                    "objects": objects,
                    "podName": metadata["name"],
                    "secretProviderClassName": name,
                    "targetPath": f"/var/lib/kubelet/pods/{metadata['uid']}/volumes",
                },
            }
        )


def _node(pod: Json) -> str:
    return str((pod.get("spec") or {}).get("nodeName", "node-0"))


def owner_reference(owner: Json, api_version: str, kind: str) -> Json:
    """Return the reference that makes *owner* the controller of an object."""
    metadata = owner["metadata"]
    return {
        "apiVersion": api_version,
        "kind": kind,
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


# ---------------------------------------------------------------------- the rest


def _collect(site: Site) -> None:
    """Delete what is owned only by objects that are gone, or was in a namespace that is gone."""
    for key in site.objects.left_over():
        site.objects.delete(site.objects.kinds[key.group, key.plural], key)
    for uid in set(site.runs) - site.objects.uids():
        del site.runs[uid]


def runs_of(site: Site, namespace: str, workload: str) -> Sequence[Run]:
    """Return what each ready pod of a workload runs with, by the pods' names."""
    objects = site.objects
    owners = {
        each["metadata"]["uid"]
        for resource in ("deployments", "statefulsets", "daemonsets", "pods")
        for key, each in objects.every(objects.kind_named(resource), namespace)
        if key.name == workload
    }
    for _, each in objects.every(objects.kind_named("replicasets"), namespace):
        if owners & _owners(each):
            owners.add(each["metadata"]["uid"])
    return [
        site.runs[pod["metadata"]["uid"]]
        for _, pod in objects.every(objects.kind_named("pods"), namespace)
        if is_ready(pod)
        and owners & (_owners(pod) | {pod["metadata"]["uid"]})
        and pod["metadata"]["uid"] in site.runs
    ]


def _owners(one: Json) -> set[str]:
    return {owner["uid"] for owner in one["metadata"].get("ownerReferences") or ()}


def age(since: str, now: datetime) -> timedelta:
    """Return how long ago a timestamp of an object is."""
    return now - datetime.fromisoformat(since)
