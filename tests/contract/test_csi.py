"""Pods that mount a secret by the CSI driver: their statuses, in the fake cluster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import msgspec
import pytest

from kept_secrets import NAME, Cluster, Json, client, given, granted, patches, rules_of, version
from keyturn.consumers.csi import PERMISSIONS, SHAPES, make
from keyturn.errors import Denied, Unsupported
from keyturn.kubernetes.marks import mark_of
from keyturn.local.kubernetes_kubelet import CSI_ROTATION_S
from keyturn.ports import Consumer, Pickup
from keyturn.testing.contracts import ConsumerContract, Workload

V0, V1 = version("v0"), version("v1")
NONE: Mapping[str, object] = {}
RIGHTS = rules_of("Secrets Store CSI")
CSI = "secrets-store.csi.x-k8s.io"


CLASS: Json = {
    "apiVersion": f"{CSI}/v1",
    "kind": "SecretProviderClass",
    "metadata": {"name": "db", "namespace": "orders"},
    "spec": {"provider": "aws", "parameters": {"objects": f"- objectName: {NAME}"}},
}
LABELS: Json = {"labels": {"app": "web"}}
VOLUME = {
    "name": "db",
    "csi": {
        "driver": "secrets-store.csi.k8s.io",
        "readOnly": True,
        "volumeAttributes": {"secretProviderClass": "db"},
    },
}
WEB: Json = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "web", "namespace": "orders"},
    "spec": {
        "replicas": 2,
        "selector": {"matchLabels": LABELS["labels"]},
        "template": {
            "metadata": LABELS,
            "spec": {"containers": [{"name": "web", "image": "web"}], "volumes": [VOLUME]},
        },
    },
}


def consumer(
    cluster: Cluster, settings: Mapping[str, object] = NONE, rules: Sequence[Json] = RIGHTS
) -> Consumer:
    shape = msgspec.convert({"namespace": "orders", "class": "db", **settings}, SHAPES["csi"])
    return make("csi", shape, given(client(cluster, rules)))


def status(pod: str, version_id: str, *, class_: str = "db", **more: object) -> Json:
    return {
        "apiVersion": f"{CSI}/v1",
        "kind": "SecretProviderClassPodStatus",
        "metadata": {"name": f"{pod}-orders-{class_}", "namespace": "orders"},
        "status": {
            "podName": pod,
            "secretProviderClassName": class_,
            "mounted": True,
            "objects": [{"id": NAME, "version": version_id}],
            **more,
        },
    }


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as running:
        running.put(status("web-1", "v0"))
        running.put(status("web-2", "v0"))
        yield running


class TestCsi(ConsumerContract):
    """Nobody can make it look. The driver as the fake cluster plays it, with its rotation on."""

    CAN_BE_TOLD = False

    @pytest.fixture
    def workload(self) -> Iterator[Workload]:
        with Cluster() as cluster:
            served = ["v0"]
            cluster.has_csi_rotation = True
            cluster.mounts = lambda _: served[-1]
            cluster.put(CLASS)
            cluster.put(WEB)
            cluster.settle()

            def wait() -> None:
                cluster.advance(CSI_ROTATION_S)
                cluster.settle()

            def put_back() -> None:
                served.append("v0")
                wait()

            def claim() -> None:
                for each in cluster.list("secretproviderclasspodstatuses", "orders"):
                    conditions = [{"type": "Ready", "status": "True", "message": served[-1]}]
                    each["status"] |= {"conditions": conditions}
                    each["metadata"]["annotations"] = {mark_of(NAME): served[-1]}
                    cluster.put(each)

            yield Workload(
                consumer(cluster, {"min_pods": 2}),
                lambda version_: served.append(version_.rotation_id),
                wait,
                put_back,
                claim,
                lambda: patches(cluster),
                cluster.outage,
            )


def test_where_the_driver_does_not_rotate_new_pods_follow(cluster: Cluster) -> None:
    """Its rotation is off by default: it takes a restart, of which another consumer takes care."""
    served = ["v0"]
    cluster.mounts = lambda _: served[-1]
    for each in cluster.list("secretproviderclasspodstatuses", "orders"):
        cluster.delete("secretproviderclasspodstatuses", "orders", each["metadata"]["name"])
    cluster.put(CLASS)
    cluster.put(WEB)
    cluster.settle()
    follows = consumer(cluster, {"min_pods": 2})
    served.append("v1")
    cluster.advance(CSI_ROTATION_S)
    cluster.settle()
    assert follows.verify(V1).pickup is Pickup.WAITING

    restarted = {"metadata": {"annotations": {"again": "1"}}}
    template = {**WEB["spec"]["template"], "metadata": {**LABELS, **restarted["metadata"]}}
    cluster.put({**WEB, "spec": {**WEB["spec"], "template": template}})
    cluster.settle()

    assert follows.verify(V1).pickup is Pickup.FOLLOWED


def test_it_needs_what_it_declares_and_reads_no_secret(cluster: Cluster) -> None:
    consumer(cluster).verify(V0)

    assert list(PERMISSIONS) == granted(RIGHTS)
    assert not [each for each in cluster.requests if each.resource == "secrets"]


GOOGLE = "projects/123456789/secrets/orders-db"


def on_google(cluster: Cluster, settings: Mapping[str, object] = NONE) -> Consumer:
    """Make one of a secret in Secret Manager, where `v1` has the number 7."""
    shape = msgspec.convert({"namespace": "orders", "class": "db", **settings}, SHAPES["csi"])
    numbers = {V0.rotation_id: 6, V1.rotation_id: 7}
    around = replace(given(client(cluster, RIGHTS)), ref=GOOGLE, number=numbers.__getitem__)
    return make("csi", shape, around)


@pytest.mark.parametrize("which", ["latest", "current"])
def test_googles_provider_tells_the_number_of_a_version(cluster: Cluster, which: str) -> None:
    """By the full name of the version; the object is what the class asks for."""
    asked = f"{GOOGLE}/versions/{which}"
    settings = {} if which == "latest" else {"object": asked}
    for pod, number in (("web-1", 7), ("web-2", 6)):
        objects = [{"id": asked, "version": f"{GOOGLE}/versions/{number}"}]
        cluster.put(status(pod, "", objects=objects))
    half = on_google(cluster, settings).verify(V1)

    objects = [{"id": asked, "version": f"{GOOGLE}/versions/7"}]
    cluster.put(status("web-2", "", objects=objects))

    assert half.waits_for == f"1 of 2 pods are old: web-2 ({GOOGLE}/versions/6)"
    assert on_google(cluster, settings).verify(V1).pickup is Pickup.FOLLOWED
    assert on_google(cluster, settings).verify(V0).pickup is Pickup.WAITING


def test_the_same_number_of_another_secret_is_not_it(cluster: Cluster) -> None:
    objects = [{"id": f"{GOOGLE}/versions/latest", "version": "projects/1/secrets/x/versions/7"}]
    for pod in ("web-1", "web-2"):
        cluster.put(status(pod, "", objects=objects))

    assert on_google(cluster).verify(V1).pickup is Pickup.WAITING


def test_half_of_the_pods_is_not_all(cluster: Cluster) -> None:
    cluster.put(status("web-1", "v1"))

    sight = consumer(cluster).verify(V1)

    assert (sight.pickup, sight.waits_for) == (Pickup.WAITING, "1 of 2 pods are old: web-2 (v0)")


def test_no_pods_are_waited_for(cluster: Cluster) -> None:
    sight = consumer(cluster, {"class": "nobodys"}).verify(V1)

    assert sight.pickup is Pickup.WAITING
    assert sight.waits_for == "0 pods of at least 1 have mounted it"


def test_other_classes_and_namespaces_are_not_looked_at(cluster: Cluster) -> None:
    for pod in ("web-1", "web-2"):
        cluster.put(status(pod, "v1"))
        cluster.put(status(pod, "v0", class_="other"))

    assert consumer(cluster).verify(V1).pickup is Pickup.FOLLOWED


def test_what_a_vanished_pod_had_mounted_counts_until_its_status_goes(
    cluster: Cluster,
) -> None:
    """Who still shows the old version may still read it."""
    cluster.put(status("web-1", "v1"))
    assert consumer(cluster).verify(V1).pickup is Pickup.WAITING

    cluster.delete("secretproviderclasspodstatuses", "orders", "web-2-orders-db")

    assert consumer(cluster).verify(V1).pickup is Pickup.FOLLOWED


def test_the_object_may_have_another_name(cluster: Cluster) -> None:
    """Its objectAlias, if it has one."""
    for pod in ("web-1", "web-2"):
        cluster.put(status(pod, "", objects=[{"id": "db-login", "version": "v1"}]))

    assert "no such object" in consumer(cluster).verify(V1).waits_for
    assert consumer(cluster, {"object": "db-login"}).verify(V1).pickup is Pickup.FOLLOWED


def test_a_missing_right_is_denied(cluster: Cluster) -> None:
    blind = consumer(cluster, rules=[])

    for ask in (blind.preflight, lambda: blind.verify(V1)):
        with pytest.raises(Denied):
            ask()


def test_a_cluster_without_the_driver_is_named(cluster: Cluster) -> None:
    cluster.serve(CSI, "v1alpha1")

    with pytest.raises(Unsupported):
        consumer(cluster).preflight()


def test_its_place_is_the_object_of_a_class() -> None:
    def place(**settings: object) -> tuple[str, ...]:
        read = msgspec.convert({"namespace": "a", "class": "b", **settings}, SHAPES["csi"])
        return read.place()

    assert place() == place(min_pods=2)
    different = [place(), place(object="c"), place(namespace="c"), place(cluster={"eks": "c"})]
    assert len(set(different)) == 4
