"""The controllers of the fake cluster: what a consumer sees while they work, and when they rest."""

from __future__ import annotations

import base64
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusters import Json, external, restarted, secret, workload
from keyturn.local.kubernetes import FakeKubernetes
from keyturn.local.kubernetes_kubelet import is_ready
from keyturn.local.kubernetes_patches import strategically_merged

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
FIRST, SECOND = "Canary7-first", "Canary7-second"


@pytest.fixture
def cluster() -> Iterator[FakeKubernetes]:
    """One whose time passes only when a test says so."""
    with FakeKubernetes(["shop"], clock=lambda: START) as running:
        running.put(secret())
        yield running


def change(cluster: FakeKubernetes, resource: str, patch: Mapping[str, Any], name: str) -> Json:
    found = cluster.get(resource, "shop", name)
    return cluster.put(strategically_merged(found, patch))


def status(cluster: FakeKubernetes, resource: str, name: str = "web") -> Json:
    found = cluster.get(resource, "shop", name)
    assert found is not None
    read: Json = found.get("status", {})
    return read


def condition(read: Json, kind: str) -> Json:
    [found] = [each for each in read["conditions"] if each["type"] == kind]
    return {"status": found["status"], "reason": found.get("reason")}


def value(cluster: FakeKubernetes, name: str = "db") -> str | None:
    found = cluster.get("secrets", "shop", name)
    return None if found is None else base64.b64decode(found["data"]["password"]).decode()


# ---------------------------------------------------------------------- Deployments


def test_a_rollout_goes_through_its_states(cluster: FakeKubernetes) -> None:
    """Deployments, "Rolling Update Deployment": 25 % more, 25 % unavailable at most."""
    cluster.put(workload("Deployment"))
    cluster.settle()
    change(cluster, "deployments", restarted("a"), "web")
    assert status(cluster, "deployments")["observedGeneration"] == 1

    seen = []
    while cluster.step():
        read = status(cluster, "deployments")
        seen.append((read["replicas"], read.get("updatedReplicas"), read["availableReplicas"]))

    assert seen[0] == (3, None, 3)  # a count of zero is left out
    assert seen[-1] == (3, 3, 3)
    assert all(replicas <= 4 and available >= 3 for replicas, _, available in seen)
    assert len(set(seen)) > 4


def test_a_rollout_is_over_when_kubectl_says_so(cluster: FakeKubernetes) -> None:
    cluster.put(workload("Deployment"))
    cluster.settle()

    read = status(cluster, "deployments")

    assert read["observedGeneration"] == 1
    assert condition(read, "Available")["status"] == "True"
    assert condition(read, "Progressing") == {"status": "True", "reason": "NewReplicaSetAvailable"}


def test_a_restart_gives_the_new_value_to_every_pod(cluster: FakeKubernetes) -> None:
    cluster.put(workload("Deployment"))
    cluster.settle()
    cluster.put(secret(text=SECOND))
    cluster.settle()
    before = cluster.runs_with("shop", "web")

    change(cluster, "deployments", restarted("a"), "web")
    cluster.settle()
    after = cluster.runs_with("shop", "web")

    assert [run.variables["db"]["password"] for run in before] == [FIRST] * 3
    assert [run.variables["db"]["password"] for run in after] == [SECOND] * 3
    assert {run.pod for run in before} & {run.pod for run in after} == set()


def test_the_pods_carry_the_annotations_of_the_template(cluster: FakeKubernetes) -> None:
    cluster.put(workload("Deployment"))
    change(cluster, "deployments", restarted("a"), "web")

    cluster.settle()

    pods = cluster.list("pods", "shop")
    assert [pod["metadata"]["annotations"] for pod in pods] == [{"mark": "a"}] * 3


def test_a_paused_deployment_rolls_nothing_out(cluster: FakeKubernetes) -> None:
    """Deployments, "Pausing and Resuming a rollout"."""
    cluster.put(workload("Deployment"))
    cluster.settle()
    before = cluster.runs_with("shop", "web")
    change(cluster, "deployments", {"spec": {"paused": True}}, "web")

    change(cluster, "deployments", restarted("a"), "web")
    cluster.settle()
    read = status(cluster, "deployments")

    assert cluster.runs_with("shop", "web") == before
    assert (read["observedGeneration"], read.get("updatedReplicas")) == (3, None)
    assert condition(read, "Progressing")["reason"] == "DeploymentPaused"


def test_a_broken_image_exceeds_the_deadline(cluster: FakeKubernetes) -> None:
    """Deployments, "Failed Deployment": progressDeadlineSeconds, 600 s if not said."""
    cluster.put(workload("Deployment"))
    cluster.settle()
    containers = [{"name": "app", "image": "broken:1"}]
    change(
        cluster, "deployments", {"spec": {"template": {"spec": {"containers": containers}}}}, "web"
    )

    cluster.settle()
    hanging = status(cluster, "deployments")
    cluster.advance(599)
    cluster.settle()
    in_time = status(cluster, "deployments")
    cluster.advance(2)
    cluster.settle()
    late = status(cluster, "deployments")

    assert (hanging["updatedReplicas"], hanging["availableReplicas"]) == (1, 3)
    assert condition(in_time, "Progressing")["status"] == "True"
    expected = {"status": "False", "reason": "ProgressDeadlineExceeded"}
    assert condition(late, "Progressing") == expected
    assert len(cluster.runs_with("shop", "web")) == 3


def test_a_pod_waits_for_its_secret(cluster: FakeKubernetes) -> None:
    cluster.delete("secrets", "shop", "db")
    cluster.put(workload("Deployment"))
    cluster.settle()
    waiting = status(cluster, "deployments")

    cluster.put(secret())
    cluster.settle()

    assert "availableReplicas" not in waiting
    assert status(cluster, "deployments")["availableReplicas"] == 3


def test_a_pod_can_do_without_an_optional_secret(cluster: FakeKubernetes) -> None:
    cluster.delete("secrets", "shop", "db")
    source = {"secretRef": {"name": "db", "optional": True}}
    containers = [{"name": "app", "image": "app:1", "envFrom": [source]}]
    cluster.put(workload("Deployment", replicas=1, containers=containers))

    cluster.settle()

    [run] = cluster.runs_with("shop", "web")
    assert run.variables == {}


@settings(deadline=None)  # a rollout takes as long as the machine is busy
@given(
    replicas=st.integers(0, 6),
    surge=st.sampled_from([0, 1, 3, "25%", "100%"]),
    unavailable=st.sampled_from([0, 1, 2, "25%", "50%"]),
    interruptions=st.lists(st.integers(0, 6), max_size=3),
)
def test_a_rollout_keeps_to_its_strategy_and_ends(
    replicas: int, surge: int | str, unavailable: int | str, interruptions: list[int]
) -> None:
    """Deployments, "Max Unavailable", "Max Surge"; also when the next one begins meanwhile."""
    cluster = FakeKubernetes(["shop"], clock=lambda: START)  # without its server
    cluster.put(secret())
    one = workload("Deployment", replicas=replicas)
    rolling = {"maxSurge": surge, "maxUnavailable": unavailable}
    one["spec"]["strategy"] = {"type": "RollingUpdate", "rollingUpdate": rolling}
    cluster.put(one)
    cluster.settle()
    most = replicas + _count(surge, replicas, math.ceil)
    fewest = replicas - (_count(unavailable, replicas, math.floor) or int(most == replicas))

    for number, steps in enumerate([*interruptions, 1_000]):
        change(cluster, "deployments", restarted(str(number)), "web")
        for _ in range(steps):
            if not cluster.step():
                break
            pods = cluster.list("pods", "shop")
            assert len(pods) <= most
            assert sum(is_ready(pod) for pod in pods) >= fewest

    read = status(cluster, "deployments")
    assert condition(read, "Progressing")["reason"] == "NewReplicaSetAvailable"
    marks = {pod["metadata"]["annotations"]["mark"] for pod in cluster.list("pods", "shop")}
    assert marks == ({str(len(interruptions))} if replicas else set())


def _count(value: int | str, of: int, rounded: Callable[[float], int]) -> int:
    return value if isinstance(value, int) else rounded(of * int(value.rstrip("%")) / 100)


def test_recreate_stops_all_before_it_starts_any(cluster: FakeKubernetes) -> None:
    one = workload("Deployment")
    one["spec"]["strategy"] = {"type": "Recreate"}
    cluster.put(one)
    cluster.settle()
    change(cluster, "deployments", restarted("a"), "web")

    fewest = 3
    while cluster.step():
        fewest = min(fewest, status(cluster, "deployments").get("replicas", 0))

    assert fewest == 0
    assert status(cluster, "deployments")["updatedReplicas"] == 3


def test_going_back_takes_the_old_replica_set_again(cluster: FakeKubernetes) -> None:
    cluster.put(workload("Deployment"))
    cluster.settle()
    change(cluster, "deployments", restarted("a"), "web")
    cluster.settle()

    cluster.put(workload("Deployment"))
    cluster.settle()

    sets = cluster.list("replicasets", "shop")
    assert sorted(each["spec"]["replicas"] for each in sets) == [0, 3]
    assert status(cluster, "deployments")["updatedReplicas"] == 3


def test_what_a_deployment_owns_goes_with_it(cluster: FakeKubernetes) -> None:
    """Garbage Collection, "Cascading deletion"."""
    cluster.put(workload("Deployment"))
    cluster.settle()

    cluster.delete("deployments", "shop", "web")
    cluster.settle()

    assert cluster.list("pods", "shop") == cluster.list("replicasets", "shop") == []


def test_what_is_in_a_namespace_goes_with_it(cluster: FakeKubernetes) -> None:
    cluster.delete("namespaces", "", "shop")
    cluster.settle()

    assert cluster.list("secrets") == []


# ---------------------------------------------------------------------- StatefulSets, DaemonSets


def test_a_stateful_set_replaces_one_pod_at_a_time_from_the_last(cluster: FakeKubernetes) -> None:
    """StatefulSets, "Rolling Updates": in the same order as Pod termination."""
    cluster.put(workload("StatefulSet"))
    cluster.settle()
    cluster.put(secret(text=SECOND))
    change(cluster, "statefulsets", restarted("a"), "web")

    seen: list[list[str]] = []
    while cluster.step():
        runs = cluster.runs_with("shop", "web")
        new = [run.pod for run in runs if run.variables["db"]["password"] == SECOND]
        if new not in seen:
            seen.append(new)
        assert len(runs) >= 2

    assert [each for each in seen if each] == [
        ["web-2"],
        ["web-1", "web-2"],
        ["web-0", "web-1", "web-2"],
    ]
    read = status(cluster, "statefulsets")
    assert read["currentRevision"] == read["updateRevision"]
    assert (read["readyReplicas"], read["updatedReplicas"]) == (3, 3)


def test_a_stateful_set_keeps_the_pods_before_its_partition(cluster: FakeKubernetes) -> None:
    """StatefulSets, "Partitioned rolling updates"."""
    one = workload("StatefulSet")
    one["spec"]["updateStrategy"] = {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}
    cluster.put(one)
    cluster.settle()
    cluster.put(secret(text=SECOND))

    change(cluster, "statefulsets", restarted("a"), "web")
    cluster.settle()
    read = status(cluster, "statefulsets")

    values = [run.variables["db"]["password"] for run in cluster.runs_with("shop", "web")]
    assert values == [FIRST, FIRST, SECOND]
    assert read["currentRevision"] != read["updateRevision"]
    assert (read["updatedReplicas"], read["currentReplicas"]) == (1, 2)


@pytest.mark.parametrize(
    "kind, resource", [("StatefulSet", "statefulsets"), ("DaemonSet", "daemonsets")]
)
def test_on_delete_waits_for_somebody_to_delete(
    cluster: FakeKubernetes, kind: str, resource: str
) -> None:
    one = workload(kind)
    one["spec"]["updateStrategy"] = {"type": "OnDelete"}
    cluster.put(one)
    cluster.settle()
    before = cluster.runs_with("shop", "web")

    change(cluster, resource, restarted("a"), "web")
    cluster.settle()
    kept = cluster.runs_with("shop", "web")
    cluster.put(secret(text=SECOND))
    cluster.delete("pods", "shop", before[0].pod)
    cluster.settle()

    assert kept == before
    values = [run.variables["db"]["password"] for run in cluster.runs_with("shop", "web")]
    assert sorted(values) == sorted([FIRST] * (len(before) - 1) + [SECOND])


def test_a_daemon_set_has_a_pod_on_each_node(cluster: FakeKubernetes) -> None:
    """DaemonSet, "Performing a Rolling Update": one unavailable at a time."""
    cluster.put(workload("DaemonSet"))
    cluster.settle()
    assert {pod["spec"]["nodeName"] for pod in cluster.list("pods")} == {"node-0", "node-1"}
    cluster.put(secret(text=SECOND))
    change(cluster, "daemonsets", restarted("a"), "web")

    ready = []
    while cluster.step():
        ready.append(status(cluster, "daemonsets")["numberReady"])
    read = status(cluster, "daemonsets")

    assert min(ready) == 1
    assert read["updatedNumberScheduled"] == read["numberAvailable"] == 2
    values = [run.variables["db"]["password"] for run in cluster.runs_with("shop", "web")]
    assert values == [SECOND] * 2


# ---------------------------------------------------------------------- files


def test_the_files_of_a_volume_follow_later(cluster: FakeKubernetes) -> None:
    """Secrets, "Mounted Secrets are updated automatically"; subPath is not."""
    volumes = [{"name": name, "secret": {"secretName": name}} for name in ("db", "fixed")]
    containers = [
        {
            "name": "app",
            "image": "app:1",
            "volumeMounts": [
                {"name": "db", "mountPath": "/db"},
                {"name": "fixed", "mountPath": "/f", "subPath": "password"},
            ],
        }
    ]
    cluster.put(secret("fixed"))
    cluster.put(workload("Deployment", replicas=1, volumes=volumes, containers=containers))
    cluster.settle()
    for name in ("db", "fixed"):
        cluster.put(secret(name, SECOND))

    cluster.settle()
    [at_once] = cluster.runs_with("shop", "web")
    cluster.advance(90)
    cluster.settle()
    [later] = cluster.runs_with("shop", "web")

    assert at_once.files["db"]["password"] == FIRST
    assert later.files["db"]["password"] == SECOND
    assert later.files["fixed"]["password"] == FIRST
    assert later.versions == at_once.versions


OBJECTS = '- objectName: "prod/db"\n  objectType: "secretsmanager"\n'


@pytest.fixture
def mounting(cluster: FakeKubernetes) -> dict[str, str]:
    """A workload that mounts `prod/db` by CSI, and which version of it is current."""
    current = {"prod/db": "v1"}
    cluster.mounts = current.__getitem__
    cluster.put(
        {
            "apiVersion": "secrets-store.csi.x-k8s.io/v1",
            "kind": "SecretProviderClass",
            "metadata": {"name": "db", "namespace": "shop"},
            "spec": {"provider": "aws", "parameters": {"objects": OBJECTS}},
        }
    )
    csi = {
        "driver": "secrets-store.csi.k8s.io",
        "volumeAttributes": {"secretProviderClass": "db"},
    }
    cluster.put(workload("Deployment", replicas=2, volumes=[{"name": "db", "csi": csi}]))
    cluster.settle()
    return current


def versions(cluster: FakeKubernetes) -> list[Json]:
    listed = cluster.list("secretproviderclasspodstatuses", "shop")
    return [each["status"]["objects"][0] for each in listed]


def test_each_pod_that_mounts_a_class_says_which_version(
    cluster: FakeKubernetes, mounting: dict[str, str]
) -> None:
    """SecretProviderClassPodStatus, named <pod>-<namespace>-<class>."""
    listed = cluster.list("secretproviderclasspodstatuses", "shop")

    assert mounting == {"prod/db": "v1"}
    assert versions(cluster) == [{"id": "prod/db", "version": "v1"}] * 2
    pods = [pod["metadata"]["name"] for pod in cluster.list("pods", "shop")]
    assert [each["metadata"]["name"] for each in listed] == [f"{pod}-shop-db" for pod in pods]
    assert [each["status"]["podName"] for each in listed] == pods
    assert {each["status"]["secretProviderClassName"] for each in listed} == {"db"}


@pytest.mark.parametrize("rotates, expected", [(True, "v2"), (False, "v1")])
def test_the_driver_reads_again_if_it_rotates(
    cluster: FakeKubernetes, mounting: dict[str, str], expected: str, *, rotates: bool
) -> None:
    """Secrets Store CSI Driver, "Auto rotation": off by default, every 2 minutes."""
    cluster.has_csi_rotation = rotates
    mounting["prod/db"] = "v2"

    cluster.settle()
    at_once = versions(cluster)
    cluster.advance(120)
    cluster.settle()

    assert [each["version"] for each in at_once] == ["v1"] * 2
    assert [each["version"] for each in versions(cluster)] == [expected] * 2


def test_a_restart_mounts_the_new_version(
    cluster: FakeKubernetes, mounting: dict[str, str]
) -> None:
    mounting["prod/db"] = "v2"

    change(cluster, "deployments", restarted("a"), "web")
    cluster.settle()

    assert [each["version"] for each in versions(cluster)] == ["v2"] * 2
    assert [run.mounts for run in cluster.runs_with("shop", "web")] == [{"prod/db": "v2"}] * 2


# ---------------------------------------------------------------------- External Secrets


@pytest.fixture
def remote(cluster: FakeKubernetes) -> dict[str, str]:
    """What External Secrets reads."""
    cluster.delete("secrets", "shop", "db")
    held = {"prod/db": json.dumps({"user": "app", "password": FIRST})}
    cluster.provider = held.__getitem__
    return held


def test_a_secret_is_synced_from_its_source(
    cluster: FakeKubernetes, remote: dict[str, str]
) -> None:
    cluster.put(external())
    cluster.settle()

    read = status(cluster, "externalsecrets", "db")
    assert value(cluster) == FIRST
    assert condition(read, "Ready") == {"status": "True", "reason": "SecretSynced"}
    assert read["refreshTime"] == "2026-03-01T12:00:00Z"
    assert read["binding"] == {"name": "db"}
    assert read["syncedResourceVersion"].startswith("1-")
    assert remote


def test_the_whole_of_a_value_can_be_extracted(
    cluster: FakeKubernetes, remote: dict[str, str]
) -> None:
    """ExternalSecret, spec.dataFrom."""
    cluster.put(external(data=[], dataFrom=[{"extract": {"key": "prod/db"}}]))
    cluster.settle()

    found = cluster.get("secrets", "shop", "db")
    assert found is not None
    assert sorted(found["data"]) == ["password", "user"]
    assert remote


def annotate(cluster: FakeKubernetes, mark: str) -> None:
    change(cluster, "externalsecrets", {"metadata": {"annotations": {"force-sync": mark}}}, "db")


@pytest.mark.parametrize(
    "spec, follows",
    [
        ({}, True),
        ({"refreshPolicy": "Periodic", "refreshInterval": "24h"}, True),
        ({"refreshPolicy": "OnChange"}, True),
        ({"refreshPolicy": "OnChange", "refreshInterval": "0"}, True),
        ({"refreshInterval": "0"}, False),
        ({"refreshInterval": "0s"}, False),
        ({"refreshPolicy": "CreatedOnce"}, False),
    ],
)
def test_an_annotation_makes_it_sync_unless_its_policy_does_not(
    cluster: FakeKubernetes, remote: dict[str, str], spec: Json, *, follows: bool
) -> None:
    """external-secrets, shouldRefresh: Periodic with an interval of 0 never syncs again."""
    cluster.put(external(**spec))
    cluster.settle()
    before = status(cluster, "externalsecrets", "db")
    remote["prod/db"] = json.dumps({"password": SECOND})

    annotate(cluster, "a")
    cluster.settle()

    after = status(cluster, "externalsecrets", "db")
    assert value(cluster) == (SECOND if follows else FIRST)
    assert (after["syncedResourceVersion"] != before["syncedResourceVersion"]) is follows


@pytest.mark.parametrize("policy, expected", [("Periodic", SECOND), ("OnChange", FIRST)])
def test_time_alone_makes_a_periodic_one_sync(
    cluster: FakeKubernetes, remote: dict[str, str], policy: str, expected: str
) -> None:
    cluster.put(external(refreshPolicy=policy, refreshInterval="1h30m"))
    cluster.settle()
    remote["prod/db"] = json.dumps({"password": SECOND})

    cluster.advance(90 * 60 - 1)
    cluster.settle()
    in_between = value(cluster)
    cluster.advance(1)
    cluster.settle()

    assert (in_between, value(cluster)) == (FIRST, expected)


def test_the_annotations_are_copied_to_the_secret(
    cluster: FakeKubernetes, remote: dict[str, str]
) -> None:
    """external-secrets, setMetadata: only without a template."""
    cluster.put(external())
    cluster.put({**external(target={"name": "other", "template": {"metadata": {}, "type": "a"}})
                 , "metadata": {"name": "templated", "namespace": "shop"}})  # fmt: skip
    cluster.settle()
    annotate(cluster, "a")
    patch = {"metadata": {"annotations": {"force-sync": "a"}}}
    change(cluster, "externalsecrets", patch, "templated")
    cluster.settle()

    copied, templated = (cluster.get("secrets", "shop", name) for name in ("db", "other"))
    assert copied is not None
    assert templated is not None
    assert copied["metadata"]["annotations"]["force-sync"] == "a"
    assert "force-sync" not in templated["metadata"]["annotations"]
    assert remote


def test_a_failure_moves_neither_the_time_nor_the_version(
    cluster: FakeKubernetes, remote: dict[str, str]
) -> None:
    cluster.put(external())
    cluster.settle()
    before = status(cluster, "externalsecrets", "db")
    lost = remote.pop("prod/db")
    cluster.advance(5)

    annotate(cluster, "a")
    cluster.settle()
    failed = status(cluster, "externalsecrets", "db")
    remote["prod/db"] = lost
    cluster.settle()
    again = status(cluster, "externalsecrets", "db")

    assert condition(failed, "Ready") == {"status": "False", "reason": "SecretSyncedError"}
    for field in ("refreshTime", "syncedResourceVersion"):
        assert failed[field] == before[field] != again[field]
    assert condition(again, "Ready")["status"] == "True"


@pytest.mark.parametrize("policy", ["Periodic", "CreatedOnce"])
def test_what_somebody_has_changed_is_put_back(
    cluster: FakeKubernetes, remote: dict[str, str], policy: str
) -> None:
    """external-secrets, isSecretValid."""
    cluster.put(external(refreshPolicy=policy))
    cluster.settle()

    cluster.put(secret(text=SECOND))
    cluster.settle()
    after_a_change = value(cluster)
    cluster.delete("secrets", "shop", "db")
    cluster.settle()

    assert (after_a_change, value(cluster)) == (FIRST, FIRST)
    assert remote


def test_a_secret_goes_with_the_external_secret_that_owns_it(
    cluster: FakeKubernetes, remote: dict[str, str]
) -> None:
    cluster.put(external())
    cluster.settle()

    cluster.delete("externalsecrets", "shop", "db")
    cluster.settle()

    assert value(cluster) is None
    assert remote


# ---------------------------------------------------------------------- Sealed Secrets


def sealed(text: str = "c2VhbGVk") -> Json:
    return {
        "apiVersion": "bitnami.com/v1alpha1",
        "kind": "SealedSecret",
        "metadata": {"name": "sealed", "namespace": "shop"},
        "spec": {
            "encryptedData": {"password": text},
            "template": {"metadata": {"name": "sealed", "annotations": {"a": "b"}}},
        },
    }


def test_a_sealed_secret_is_unsealed(cluster: FakeKubernetes) -> None:
    cluster.unseal = lambda one: {"password": f"Canary7-{one['spec']['encryptedData']['password']}"}

    cluster.put(sealed())
    cluster.settle()
    cluster.put(sealed("bmV3"))
    unseen = status(cluster, "sealedsecrets", "sealed")
    cluster.settle()

    read = status(cluster, "sealedsecrets", "sealed")
    assert value(cluster, "sealed") == "Canary7-bmV3"
    assert (unseen["observedGeneration"], read["observedGeneration"]) == (1, 2)
    assert condition(read, "Synced")["status"] == "True"
    found = cluster.get("secrets", "shop", "sealed")
    assert found is not None
    assert found["metadata"]["annotations"] == {"a": "b"}


def test_what_cannot_be_unsealed_says_so(cluster: FakeKubernetes) -> None:
    cluster.put(sealed())
    cluster.settle()

    read = status(cluster, "sealedsecrets", "sealed")
    assert read["observedGeneration"] == 1
    assert condition(read, "Synced")["status"] == "False"
    assert read["conditions"][0]["message"] == "no key could decrypt secret"
    assert cluster.get("secrets", "shop", "sealed") is None


def test_a_secret_that_is_not_theirs_is_not_overwritten(cluster: FakeKubernetes) -> None:
    cluster.unseal = lambda _: {"password": SECOND}
    cluster.put(secret("sealed"))

    cluster.put(sealed())
    cluster.settle()

    assert value(cluster, "sealed") == FIRST
    assert condition(status(cluster, "sealedsecrets", "sealed"), "Synced")["status"] == "False"


# ---------------------------------------------------------------------- steps


def test_nothing_moves_until_it_is_stepped(cluster: FakeKubernetes) -> None:
    cluster.put(workload("Deployment"))

    assert status(cluster, "deployments") == {}


def test_the_steps_may_go_on_by_themselves() -> None:
    with FakeKubernetes(["shop"], step_every_s=0.01) as cluster:
        cluster.put(secret())
        cluster.put(workload("Deployment"))
        deadline = time.monotonic() + 5
        while status(cluster, "deployments").get("availableReplicas") != 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
