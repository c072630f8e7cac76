"""The Roles in infra/kubernetes: enough for what each is for, and nothing in them too much."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec import convert

from api_servers import client
from kept_secrets import NAME, data_of, document_of, given, secret, version
from keyturn.consumers import csi, external_secret, workload
from keyturn.consumers import secret as kept_secret
from keyturn.destinations import kubernetes_secret, sealed_secret
from keyturn.errors import Denied
from keyturn.kubernetes.api import Kubernetes, Patch, Resource
from keyturn.local.kubernetes import FakeKubernetes
from keyturn.model import Sensitive
from keyturn.ports import Consumer, Destination
from unsealing import Controller

Json = dict[str, Any]

FOLDER = Path(__file__).parents[2] / "infra" / "kubernetes"
V0, V1 = version("v0"), version("v1")
SECRETS = Resource("", "v1", "secrets")
SEALING_SERVICE = "kube-system/http:sealed-secrets-controller:http"


# ---------------------------------------------------------------------------- what each is for


def follow(consumer: Consumer) -> None:
    """Do all that a follow-up does with a consumer."""
    consumer.preflight()
    seen = consumer.verify(V1)
    consumer.trigger(V1.rotation_id, seen)
    consumer.verify(V1)


def consumer(
    module: Any, kind: str, kubernetes: Kubernetes, name: str = "db", **settings: Any
) -> Consumer:
    members = {"namespace": "orders", **({"name": name} if kind != "csi" else {}), **settings}
    made: Consumer = module.make(kind, convert(members, module.SHAPES[kind]), given(kubernetes))
    return made


def external_secrets(kubernetes: Kubernetes) -> None:
    follow(consumer(external_secret, "external-secret", kubernetes))


def workloads(kubernetes: Kubernetes) -> None:
    for kind, name in (("deployment", "api"), ("stateful-set", "queue"), ("daemon-set", "agent")):
        follow(consumer(workload, kind, kubernetes, name))


def mounts(kubernetes: Kubernetes) -> None:
    follow(consumer(csi, "csi", kubernetes, **{"class": "db"}))


def kept_secrets(kubernetes: Kubernetes) -> None:
    follow(consumer(kept_secret, "secret", kubernetes))


def deliver(module: Any, kind: str, kubernetes: Kubernetes) -> None:
    """Do all that a follow-up does with a destination, twice: make the copy, and replace it."""
    settings = convert({"namespace": "orders", "name": "db"}, module.SHAPES[kind])
    copy_: Destination = module.make(kind, settings, given(kubernetes))
    for each in (V0, V1):
        copy_.deliver(each, document_of(each), copy_.holds())


def secrets(kubernetes: Kubernetes) -> None:
    deliver(kubernetes_secret, "kubernetes-secret", kubernetes)


def sealed_secrets(kubernetes: Kubernetes) -> None:
    deliver(sealed_secret, "sealed-secret", kubernetes)


USES: Mapping[str, Callable[[Kubernetes], None]] = {
    "external-secret": external_secrets,
    "workload": workloads,
    "csi": mounts,
    "secret": kept_secrets,
    "kubernetes-secret": secrets,
    "sealed-secret": sealed_secrets,
}

ADAPTERS: Mapping[str, Any] = {
    "external-secret": external_secret,
    "workload": workload,
    "csi": csi,
    "secret": kept_secret,
    "kubernetes-secret": kubernetes_secret,
    "sealed-secret": sealed_secret,
}
"""Whose PERMISSIONS say the same in another way."""


# ---------------------------------------------------------------------------- the cluster


def _workload(kind: str, name: str) -> Json:
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "orders"},
        "spec": {
            **({} if kind == "DaemonSet" else {"replicas": 1}),
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "main", "image": "example.com/main"}]},
            },
        },
    }


def _external_secret() -> Json:
    remote = {"key": NAME, "property": "password"}
    return {
        "apiVersion": "external-secrets.io/v1",
        "kind": "ExternalSecret",
        "metadata": {"name": "db", "namespace": "orders"},
        "spec": {
            "secretStoreRef": {"name": "aws"},
            "refreshInterval": "1h0m0s",
            "data": [{"secretKey": "password", "remoteRef": remote}],
        },
    }


@pytest.fixture
def cluster(use: str) -> Iterator[FakeKubernetes]:
    """A cluster with what the plan names, but for what keyturn makes by itself."""
    with FakeKubernetes(["orders", "other"]) as cluster:
        for kind, name in (("Deployment", "api"), ("StatefulSet", "queue"), ("DaemonSet", "agent")):
            cluster.put(_workload(kind, name))
        if use == "external-secret":
            cluster.provider = lambda _: document_of(V0).reveal()
            cluster.put(_external_secret())
        if use == "secret":
            cluster.put(secret(V0))
        if use == "sealed-secret":
            files = {"/v1/cert.pem": Controller().certificate}
            cluster.api.services[SEALING_SERVICE] = files.__getitem__
        cluster.put(secret(V0, name="not-ours"))
        cluster.settle()
        yield cluster


def documents(use: str) -> list[Json]:
    """Return the objects in a file."""
    return list(yaml.safe_load_all((FOLDER / f"{use}.yaml").read_text()))


def rules(objects: Sequence[Json]) -> list[tuple[str, Json]]:
    """Return the rules of the Roles among them, and where each is for."""
    return [
        (each["metadata"]["namespace"], rule)
        for each in objects
        if each["kind"] == "Role"
        for rule in each["rules"]
    ]


def let_in(cluster: FakeKubernetes, objects: Sequence[Json]) -> Kubernetes:
    """Apply what is in a file, and be who the README says that the function is."""
    for each in objects:
        cluster.put(each)
    token = Sensitive(cluster.token("a-function", ["keyturn"]))
    return client(cluster.server, token=lambda _: token)


# ---------------------------------------------------------------------------- the rules


def _rights() -> Sequence[tuple[str, int, str]]:
    return [
        (use, number, verb)
        for use in USES
        for number, (_, rule) in enumerate(rules(documents(use)))
        for verb in rule["verbs"]
    ]


def written(rule: Json, verb: str) -> str:
    """Write a rule as the client does, with one verb."""
    group, resource = rule["apiGroups"][0] or '""', rule["resources"][0]
    names = f", resourceNames: [{rule['resourceNames'][0]}]" if "resourceNames" in rule else ""
    return f"{{apiGroups: [{group}], resources: [{resource}]{names}, verbs: [{verb}]}}"


@pytest.mark.parametrize("use", USES)
def test_the_least_role_is_enough(cluster: FakeKubernetes, use: str) -> None:
    kubernetes = let_in(cluster, documents(use))

    USES[use](kubernetes)

    assert any(request.verb in {"patch", "list"} for request in cluster.requests)


@pytest.mark.parametrize("use, number, verb", _rights())
def test_each_of_its_rules_is_needed(
    cluster: FakeKubernetes, use: str, number: int, verb: str
) -> None:
    """Without one verb of one rule it ends in *denied*, and the rule that is missing is named."""
    lacking = documents(use)
    rules(lacking)[number][1]["verbs"].remove(verb)
    kubernetes = let_in(cluster, lacking)

    with pytest.raises(Denied, match="answered 403 Forbidden") as refused:
        USES[use](kubernetes)

    namespace, rule = rules(documents(use))[number]
    assert f"namespace {namespace} the rule {written(rule, verb)}" in refused.value.remedy


@pytest.mark.parametrize("use", USES)
def test_no_role_shows_any_other_secret(cluster: FakeKubernetes, use: str) -> None:
    kubernetes = let_in(cluster, documents(use))

    for namespace, name in (("orders", "not-ours"), ("other", "db")):
        with pytest.raises(Denied):
            kubernetes.get(SECRETS, namespace, name)
        with pytest.raises(Denied):
            kubernetes.patch(SECRETS, namespace, name, {}, Patch.MERGE)
    with pytest.raises(Denied):
        kubernetes.list(SECRETS, "orders")


@pytest.mark.parametrize("use", USES)
def test_a_role_is_for_the_function_alone(cluster: FakeKubernetes, use: str) -> None:
    let_in(cluster, documents(use))
    stranger = Sensitive(cluster.token("somebody-else"))

    with pytest.raises(Denied):
        USES[use](client(cluster.server, token=lambda _: stranger))


@pytest.mark.parametrize("use", ADAPTERS)
def test_a_role_is_what_its_adapter_declares(use: str) -> None:
    declared = {
        f"{verb} {'.'.join(filter(None, (resource, group)))}"
        for _, rule in rules(documents(use))
        for verb in rule["verbs"]
        for resource in rule["resources"]
        for group in rule["apiGroups"]
    }

    assert declared == set(ADAPTERS[use].PERMISSIONS)


def test_every_file_is_tested_and_told_of() -> None:
    files = {path.stem for path in FOLDER.glob("*.yaml")}
    readme = (FOLDER / "README.md").read_text()

    assert files - {"admission"} == set(USES)
    assert [file for file in files if f"[`{file}.yaml`]({file}.yaml)" not in readme] == []


FIELDS = {
    *("replicas", "selector", "template", "minReadySeconds", "revisionHistoryLimit"),
    *("strategy", "paused", "progressDeadlineSeconds"),
    *("serviceName", "podManagementPolicy", "updateStrategy", "volumeClaimTemplates"),
    *("persistentVolumeClaimRetentionPolicy", "ordinals"),
}
"""Of the specs of Deployments, StatefulSets and DaemonSets (API reference, apps/v1)."""


def test_the_admission_policy_leaves_no_field_of_a_workload_out() -> None:
    """It was never evaluated: there is no admission in the fake cluster."""
    text = (FOLDER / "admission.yaml").read_text()
    policies = {
        each["metadata"]["name"]: each["spec"]
        for each in yaml.safe_load_all(text)
        if each["kind"] == "ValidatingAdmissionPolicy"
    }

    checks = " ".join(each["expression"] for each in policies["keyturn-workloads"]["validations"])
    found = re.findall(
        r"(?<!oldO)(?<!\w)object\.spec\.\??(\w+)\S* == oldObject\.spec\.\??(\w+)", checks
    )
    assert {new for new, _ in found} == FIELDS
    assert [pair for pair in found if pair[0] != pair[1]] == []
    assert {spec["failurePolicy"] for spec in policies.values()} == {"Fail"}
    assert "NEVER RUN" in text


def test_the_value_that_was_written_is_the_one_that_was_meant() -> None:
    """The scene itself: what a Secret of a version holds is that version's."""
    assert secret(V0)["data"] == data_of(V0) != data_of(V1)
