"""The fake Kubernetes API, over the wire: each rule that a client of ours relies on."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import urllib3

from clusters import (
    DEPLOYMENTS,
    EXTERNAL,
    JSON_PATCH,
    MERGE,
    SECRETS,
    STRATEGIC,
    Client,
    Json,
    external,
    marked,
    restarted,
    secret,
    workload,
)
from keyturn.local.kubernetes import FakeKubernetes
from keyturn.testing.certificates import Authority

SHOP_DB = {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["db"]}


@pytest.fixture
def cluster() -> Iterator[FakeKubernetes]:
    with FakeKubernetes(["shop"]) as running:
        yield running


@pytest.fixture
def admin(cluster: FakeKubernetes) -> Iterator[Client]:
    with Client(cluster, cluster.token()) as client:
        yield client


@pytest.fixture
def keyturn(cluster: FakeKubernetes) -> Iterator[Client]:
    """A user without any right."""
    with Client(cluster, cluster.token("keyturn")) as client:
        yield client


# ---------------------------------------------------------------------- objects


def test_a_secret_is_created_read_patched_and_deleted(admin: Client) -> None:
    status, made = admin.ask("POST", SECRETS, secret())
    _, patched = admin.ask("PATCH", f"{SECRETS}/db", marked("a"), MERGE)
    read = admin.get(f"{SECRETS}/db")
    gone, answer = admin.ask("DELETE", f"{SECRETS}/db")

    assert (status, gone) == (201, 200)
    assert read == patched
    assert read["metadata"]["annotations"] == {"mark": "a"}
    assert answer["details"]["uid"] == made["metadata"]["uid"]
    assert admin.ask("GET", f"{SECRETS}/db")[0] == 404


def test_string_data_is_taken_into_data(admin: Client) -> None:
    """Secret v1 core: stringData is write-only, and wins."""
    _, made = admin.ask("POST", SECRETS, secret(data={"password": "b2xk", "user": "YXBw"}))

    assert "stringData" not in made
    assert {k: base64.b64decode(v) for k, v in made["data"].items()} == {
        "password": b"Canary7-first",
        "user": b"app",
    }
    assert made["type"] == "Opaque"


def test_each_object_gets_its_metadata(admin: Client) -> None:
    """API Conventions, "Metadata"."""
    _, made = admin.ask("POST", DEPLOYMENTS, workload("Deployment"))

    metadata = made["metadata"]
    assert metadata["generation"] == 1
    assert len(metadata["uid"]) == 36
    assert metadata["creationTimestamp"].endswith("Z")
    assert int(metadata["resourceVersion"]) > 0


def test_a_second_object_of_the_name_is_a_conflict(admin: Client) -> None:
    admin.ask("POST", SECRETS, secret())

    status, answer = admin.ask("POST", SECRETS, secret())

    assert (status, answer["reason"]) == (409, "AlreadyExists")
    assert answer["message"] == 'secrets "db" already exists'


@pytest.mark.parametrize(
    "path, message",
    [
        (f"{SECRETS}/db", 'secrets "db" not found'),
        (f"{EXTERNAL}/db", 'externalsecrets.external-secrets.io "db" not found'),
    ],
)
def test_a_missing_object_is_a_status(admin: Client, path: str, message: str) -> None:
    """API Conventions, "Response Status Kind"."""
    status, answer = admin.ask("GET", path)

    assert status == 404
    assert (answer["kind"], answer["status"], answer["code"]) == ("Status", "Failure", 404)
    assert (answer["reason"], answer["message"]) == ("NotFound", message)
    assert answer["details"]["name"] == "db"


def test_a_missing_resource_is_no_status(cluster: FakeKubernetes, admin: Client) -> None:
    """The server has no handler for the path: net/http says so, in plain text."""
    cluster.serve("external-secrets.io", "v1beta1")

    answer = admin.raw("GET", f"{EXTERNAL}/db")

    assert (answer.status, answer.data) == (404, b"404 page not found\n")
    assert admin.ask("GET", f"{EXTERNAL.replace('/v1/', '/v1beta1/')}/db")[1]["kind"] == "Status"


def test_nothing_is_created_in_a_namespace_that_is_not_there(admin: Client) -> None:
    one = secret()
    one["metadata"].pop("namespace")

    status, answer = admin.ask("POST", "/api/v1/namespaces/nowhere/secrets", one)

    assert (status, answer["message"]) == (404, 'namespaces "nowhere" not found')


def test_a_namespace_may_be_made_on_the_way() -> None:
    with FakeKubernetes(creates_namespaces=True) as lenient, Client(lenient, lenient.token()) as it:
        assert it.ask("POST", SECRETS, secret())[0] == 201


def test_the_namespace_of_an_object_is_that_of_its_path(admin: Client) -> None:
    assert admin.ask("POST", SECRETS.replace("shop", "default"), secret())[0] == 400


def test_another_kind_is_not_taken(admin: Client) -> None:
    status, answer = admin.ask("POST", SECRETS, {**workload("Deployment"), "apiVersion": "v1"})

    assert (status, answer["reason"]) == (400, "BadRequest")
    assert "cannot be handled as a Secret" in answer["message"]


# ---------------------------------------------------------------------- versions


def test_a_put_with_an_old_version_is_a_conflict(admin: Client) -> None:
    """API Conventions, "Concurrency Control and Consistency"."""
    _, made = admin.ask("POST", SECRETS, secret())
    admin.ask("PATCH", f"{SECRETS}/db", marked("a"), MERGE)

    status, answer = admin.ask("PUT", f"{SECRETS}/db", made)

    assert (status, answer["reason"]) == (409, "Conflict")
    assert answer["message"] == (
        'Operation cannot be fulfilled on secrets "db": the object has been modified; please'
        " apply your changes to the latest version and try again"
    )


@pytest.mark.parametrize("media_type", [MERGE, STRATEGIC])
def test_a_patch_with_an_old_version_is_a_conflict(admin: Client, media_type: str) -> None:
    _, made = admin.ask("POST", SECRETS, secret())
    admin.ask("PATCH", f"{SECRETS}/db", marked("a"), MERGE)
    version = made["metadata"]["resourceVersion"]
    change = {"metadata": {"resourceVersion": version, "annotations": {"mark": "b"}}}

    assert admin.ask("PATCH", f"{SECRETS}/db", change, media_type)[0] == 409
    assert admin.get(f"{SECRETS}/db")["metadata"]["annotations"] == {"mark": "a"}


def test_a_patch_without_a_version_is_unconditional(admin: Client) -> None:
    admin.ask("POST", SECRETS, secret())
    admin.ask("PATCH", f"{SECRETS}/db", marked("a"), MERGE)

    assert admin.ask("PATCH", f"{SECRETS}/db", marked("b"), MERGE)[0] == 200


def test_a_write_that_changes_nothing_keeps_the_version(admin: Client) -> None:
    admin.ask("POST", SECRETS, secret())

    _, once = admin.ask("PATCH", f"{SECRETS}/db", marked("a"), MERGE)
    _, twice = admin.ask("PATCH", f"{SECRETS}/db", marked("a"), MERGE)

    assert once == twice


def test_the_version_of_a_custom_resource_must_be_said_in_a_put(admin: Client) -> None:
    """Custom resources allow no unconditional update."""
    _, made = admin.ask("POST", EXTERNAL, external())
    made["metadata"].pop("resourceVersion")

    status, answer = admin.ask("PUT", f"{EXTERNAL}/db", made)

    assert (status, answer["reason"]) == (422, "Invalid")
    assert "metadata.resourceVersion" in answer["message"]


def test_the_generation_counts_wishes_only(cluster: FakeKubernetes, admin: Client) -> None:
    """API Conventions, "Metadata": generation is of the desired state."""
    admin.ask("POST", DEPLOYMENTS, workload("Deployment"))
    path = f"{DEPLOYMENTS}/web"

    _, annotated = admin.ask("PATCH", path, marked("a"), MERGE)
    cluster.step()
    _, restart = admin.ask("PATCH", path, restarted("a"), STRATEGIC)

    assert annotated["metadata"]["generation"] == 1
    assert restart["metadata"]["generation"] == 2
    assert restart["status"]["observedGeneration"] == 1


def test_a_secret_has_no_generation(admin: Client) -> None:
    assert "generation" not in admin.ask("POST", SECRETS, secret())[1]["metadata"]


def test_the_status_is_written_by_its_path_only(admin: Client) -> None:
    """API Conventions, "Spec and Status"."""
    admin.ask("POST", EXTERNAL, {**external(), "status": {"a": 1}})
    path, change = f"{EXTERNAL}/db", {"status": {"a": 2}, "spec": {"refreshInterval": "2h"}}

    _, by_itself = admin.ask("PATCH", path, change, MERGE)
    _, by_status = admin.ask("PATCH", f"{path}/status", {**change, "spec": {}}, MERGE)

    assert "status" not in by_itself
    assert by_status["status"] == {"a": 2}
    assert by_status["spec"]["refreshInterval"] == "2h"
    assert by_status["metadata"]["generation"] == by_itself["metadata"]["generation"] == 2


def test_a_client_does_not_change_what_is_fixed(admin: Client) -> None:
    _, made = admin.ask("POST", EXTERNAL, external())
    change = {"metadata": {"creationTimestamp": None, "generation": 9}}

    _, patched = admin.ask("PATCH", f"{EXTERNAL}/db", change, MERGE)

    assert patched["metadata"] == made["metadata"]


# ---------------------------------------------------------------------- patches


def test_a_merge_patch_removes_by_null_and_replaces_lists(admin: Client) -> None:
    """RFC 7396."""
    admin.ask("POST", EXTERNAL, external())
    change: Json = {"spec": {"refreshInterval": None, "data": []}}

    _, patched = admin.ask("PATCH", f"{EXTERNAL}/db", change, MERGE)

    assert "refreshInterval" not in patched["spec"]
    assert patched["spec"]["data"] == []
    assert patched["spec"]["secretStoreRef"]["name"] == "aws"


def test_a_strategic_patch_merges_containers_by_name(admin: Client) -> None:
    """Notes on the strategic merge patch: patchMergeKey."""
    admin.ask("POST", DEPLOYMENTS, workload("Deployment"))
    containers = [{"name": "app", "image": "app:2"}, {"name": "proxy", "image": "proxy:1"}]
    change = {"spec": {"template": {"spec": {"containers": containers}}}}

    _, patched = admin.ask("PATCH", f"{DEPLOYMENTS}/web", change, STRATEGIC)

    app, proxy = patched["spec"]["template"]["spec"]["containers"]
    assert (app["image"], app["envFrom"]) == ("app:2", [{"secretRef": {"name": "db"}}])
    assert proxy == {"name": "proxy", "image": "proxy:1"}


def test_a_merge_patch_replaces_containers(admin: Client) -> None:
    admin.ask("POST", DEPLOYMENTS, workload("Deployment"))
    change = {"spec": {"template": {"spec": {"containers": [{"name": "app", "image": "app:2"}]}}}}

    _, patched = admin.ask("PATCH", f"{DEPLOYMENTS}/web", change, MERGE)

    assert patched["spec"]["template"]["spec"]["containers"] == [{"name": "app", "image": "app:2"}]


def test_a_strategic_patch_deletes_by_its_key(admin: Client) -> None:
    admin.ask("POST", DEPLOYMENTS, workload("Deployment", volumes=[{"name": "a"}, {"name": "b"}]))
    volumes = [{"name": "a", "$patch": "delete"}]
    change = {"spec": {"template": {"spec": {"$setElementOrder/volumes": [], "volumes": volumes}}}}

    _, patched = admin.ask("PATCH", f"{DEPLOYMENTS}/web", change, STRATEGIC)

    assert patched["spec"]["template"]["spec"]["volumes"] == [{"name": "b"}]
    assert "$setElementOrder/volumes" not in patched["spec"]["template"]["spec"]


def test_a_custom_resource_takes_no_strategic_patch(admin: Client) -> None:
    """Custom Resources, "Advanced features": strategic-merge-patch is not supported."""
    admin.ask("POST", EXTERNAL, external())

    status, answer = admin.ask("PATCH", f"{EXTERNAL}/db", marked("a"), STRATEGIC)

    assert (status, answer["reason"]) == (415, "UnsupportedMediaType")


def test_a_patch_says_of_which_kind_it_is(admin: Client) -> None:
    admin.ask("POST", SECRETS, secret())

    assert admin.ask("PATCH", f"{SECRETS}/db", marked("a"), "application/json")[0] == 415


def test_a_json_patch_is_all_or_nothing(admin: Client) -> None:
    """RFC 6902."""
    admin.ask("POST", EXTERNAL, external())
    good = [
        {"op": "test", "path": "/spec/refreshInterval", "value": "1h"},
        {"op": "replace", "path": "/spec/refreshInterval", "value": "2h"},
        {"op": "add", "path": "/metadata/annotations", "value": {"a/b": "c"}},
        {"op": "remove", "path": "/metadata/annotations/a~1b"},
    ]
    bad = [*good, {"op": "test", "path": "/spec/refreshInterval", "value": "1h"}]

    refused, _ = admin.ask("PATCH", f"{EXTERNAL}/db", bad, JSON_PATCH)
    unchanged = admin.get(f"{EXTERNAL}/db")
    done, patched = admin.ask("PATCH", f"{EXTERNAL}/db", good, JSON_PATCH)

    assert (refused, unchanged["spec"]["refreshInterval"]) == (422, "1h")
    assert (done, patched["spec"]["refreshInterval"]) == (200, "2h")
    assert "annotations" not in patched["metadata"]  # none are shown where there are none


# ---------------------------------------------------------------------- what is valid


def test_an_immutable_secret_keeps_its_values(admin: Client) -> None:
    """Secrets, "Immutable Secrets"."""
    admin.ask("POST", SECRETS, secret(immutable=True))

    status, answer = admin.ask("PATCH", f"{SECRETS}/db", {"data": {"password": "bmV3"}}, MERGE)
    back, _ = admin.ask("PATCH", f"{SECRETS}/db", {"immutable": False}, MERGE)
    annotated, _ = admin.ask("PATCH", f"{SECRETS}/db", marked("a"), MERGE)

    assert (status, back, annotated) == (422, 422, 200)
    assert answer["message"] == (
        'Secret "db" is invalid: data: Forbidden: field is immutable when `immutable` is set'
    )


def test_the_type_of_a_secret_stays(admin: Client) -> None:
    admin.ask("POST", SECRETS, secret())

    status, answer = admin.ask("PATCH", f"{SECRETS}/db", {"type": "other"}, MERGE)

    assert status == 422
    assert answer["message"].endswith("field is immutable")


@pytest.mark.parametrize("size, expected", [(1_048_576, 201), (1_048_577, 422)])
def test_a_secret_has_at_most_one_mebibyte(admin: Client, size: int, expected: int) -> None:
    """Secrets: "limited to 1MiB in size", of the decoded values."""
    half = base64.b64encode(b"x" * (size // 2)).decode()
    rest = base64.b64encode(b"x" * (size - size // 2)).decode()
    one = secret(data={"a": half, "b": rest})
    one.pop("stringData")

    assert admin.ask("POST", SECRETS, one)[0] == expected


@pytest.mark.parametrize(
    "change",
    [
        {"data": {"password": "not base64!"}},
        {"data": {"pass word": "bmV3"}},
        {"metadata": {"annotations": {"a b": "c"}}},
        {"metadata": {"annotations": {f"example.org/{'a' * 64}": "c"}}},
        {"metadata": {"annotations": {"-example.org/a": "c"}}},
        {"metadata": {"annotations": {"a": 7}}},
        {"metadata": {"annotations": "a"}},
        {"data": "a"},
        {"metadata": {"annotations": {"a": "x" * 262_144}}},
        {"metadata": {"labels": {"a": "x" * 64}}},
    ],
    ids=[
        *("base64", "key", "space", "long name", "prefix", "number", "text", "data", "too much"),
        "long label",
    ],
)
def test_what_is_invalid_is_refused(admin: Client, change: Json) -> None:
    """Secrets; Annotations, "Syntax and character set"; Labels."""
    admin.ask("POST", SECRETS, secret())

    status, answer = admin.ask("PATCH", f"{SECRETS}/db", change, MERGE)

    assert status in {400, 422}
    assert answer["reason"] in {"BadRequest", "Invalid"}


def test_the_longest_annotation_is_taken(admin: Client) -> None:
    admin.ask("POST", SECRETS, secret())
    change = {"metadata": {"annotations": {f"example.org/{'A' * 63}": "x" * 262_069}}}

    assert admin.ask("PATCH", f"{SECRETS}/db", change, MERGE)[0] == 200


@pytest.mark.parametrize("name", ["Db", "db_1", "-db", "a" * 254])
def test_a_name_is_a_subdomain(admin: Client, name: str) -> None:
    """Kubernetes Object Names and IDs: RFC 1123."""
    assert admin.ask("POST", SECRETS, secret(name))[0] == 422


@pytest.mark.parametrize(
    "kind, data, expected",
    [
        ("kubernetes.io/tls", {"tls.crt": "YQ=="}, 422),
        ("kubernetes.io/tls", {"tls.crt": "YQ==", "tls.key": "YQ=="}, 201),
        ("kubernetes.io/basic-auth", {"user": "YQ=="}, 422),
        ("kubernetes.io/basic-auth", {"password": "YQ=="}, 201),
        ("kubernetes.io/dockerconfigjson", {".dockerconfigjson": "YQ=="}, 422),
        ("kubernetes.io/dockerconfigjson", {".dockerconfigjson": "e30="}, 201),
    ],
)
def test_a_type_of_secret_has_its_keys(admin: Client, kind: str, data: Json, expected: int) -> None:
    """Secrets, "Types of Secret"."""
    one = secret(type=kind, data=data)
    one.pop("stringData")

    assert admin.ask("POST", SECRETS, one)[0] == expected


def test_no_refusal_says_a_value(admin: Client) -> None:
    admin.ask("POST", SECRETS, secret(immutable=True))

    for change in ({"stringData": {"password": "Canary7-other"}}, {"data": {"a": "Canary7-!"}}):
        _, answer = admin.ask("PATCH", f"{SECRETS}/db", change, MERGE)
        assert "Canary7-" not in json.dumps(answer)


def test_the_labels_of_a_workload_are_those_it_selects(admin: Client) -> None:
    one = workload("Deployment")
    one["spec"]["selector"]["matchLabels"]["app"] = "other"

    assert admin.ask("POST", DEPLOYMENTS, one)[0] == 422


# ---------------------------------------------------------------------- lists


def test_a_list_comes_in_pages(cluster: FakeKubernetes, admin: Client) -> None:
    """Kubernetes API Concepts, "Retrieving large results sets in chunks"."""
    for number in range(5):
        cluster.put(secret(f"s{number}"))

    pages: list[Json] = [admin.get(f"{SECRETS}?limit=2")]
    while token := pages[-1]["metadata"].get("continue"):
        pages.append(admin.get(f"{SECRETS}?limit=2&continue={token}"))

    names = [[each["metadata"]["name"] for each in page["items"]] for page in pages]
    assert names == [["s0", "s1"], ["s2", "s3"], ["s4"]]
    assert len({page["metadata"]["resourceVersion"] for page in pages}) == 1


def test_the_rest_of_an_old_list_is_gone(cluster: FakeKubernetes, admin: Client) -> None:
    for number in range(3):
        cluster.put(secret(f"s{number}"))
    token = admin.get(f"{SECRETS}?limit=2")["metadata"]["continue"]
    cluster.forget_changes()

    status, answer = admin.ask("GET", f"{SECRETS}?limit=2&continue={token}")

    assert (status, answer["reason"]) == (410, "Expired")


@pytest.mark.parametrize(
    "query, names",
    [
        ("labelSelector=app=web", ["a", "b"]),
        ("labelSelector=app==web,tier!=front", ["b"]),
        ("labelSelector=app in (web,api)", ["a", "b", "c"]),
        ("labelSelector=app notin (web)", ["c", "d"]),
        ("labelSelector=tier", ["a"]),
        ("labelSelector=!app", ["d"]),
        ("fieldSelector=metadata.name=c", ["c"]),
        ("fieldSelector=metadata.name=c&labelSelector=app=web", []),
        ("fieldSelector=type=Opaque,metadata.namespace=shop", ["a", "b", "c", "d"]),
    ],
)
def test_a_list_can_be_narrowed(
    cluster: FakeKubernetes, admin: Client, query: str, names: list[str]
) -> None:
    """Labels and Selectors; Field Selectors."""
    labels: dict[str, Any] = {
        "a": {"app": "web", "tier": "front"},
        "b": {"app": "web"},
        "c": {"app": "api"},
        "d": None,
    }
    for name, each in labels.items():
        cluster.put({**secret(), "metadata": {"name": name, "namespace": "shop", "labels": each}})

    found = admin.get(f"{SECRETS}?{query.replace(' ', '%20')}")

    assert [each["metadata"]["name"] for each in found["items"]] == names


@pytest.mark.parametrize("query", ["limit=a", "watch=1&timeoutSeconds=0.5", "continue=a"])
def test_a_parameter_is_what_it_should_be(admin: Client, query: str) -> None:
    assert admin.ask("GET", f"{SECRETS}?{query}")[0] == 400


def test_not_every_field_can_be_selected(admin: Client) -> None:
    assert admin.ask("GET", f"{SECRETS}?fieldSelector=data.password=a")[0] == 400


# ---------------------------------------------------------------------- watches


def test_a_watch_goes_on_from_a_version(cluster: FakeKubernetes, admin: Client) -> None:
    """Kubernetes API Concepts, "Efficient detection of changes"."""
    cluster.put(secret())
    version = admin.get(SECRETS)["metadata"]["resourceVersion"]
    admin.ask("PATCH", f"{SECRETS}/db", marked("a"), MERGE)
    cluster.put(secret("other"))
    cluster.delete("secrets", "shop", "db")

    events = list(islice(admin.watch(f"{SECRETS}?watch=1&resourceVersion={version}"), 3))

    seen = [(event["type"], event["object"]["metadata"]["name"]) for event in events]
    assert seen == [("MODIFIED", "db"), ("ADDED", "other"), ("DELETED", "db")]


def test_a_watch_sees_what_happens_meanwhile(cluster: FakeKubernetes, admin: Client) -> None:
    cluster.put(secret())
    where = f"{SECRETS}?watch=1&fieldSelector=metadata.name=db&timeoutSeconds=5"
    events = admin.watch(where)
    first = next(events)
    timer = threading.Timer(0.05, lambda: cluster.put(secret(text="Canary7-second")))
    timer.start()

    started = time.monotonic()
    second = next(events)

    assert (first["type"], second["type"]) == ("ADDED", "MODIFIED")
    assert time.monotonic() - started < 2


def test_an_object_leaves_a_watch_with_its_label(cluster: FakeKubernetes, admin: Client) -> None:
    one = {**secret(), "metadata": {"name": "db", "namespace": "shop", "labels": {"app": "web"}}}
    version = cluster.put(one)["metadata"]["resourceVersion"]
    cluster.put(secret())

    where = f"{SECRETS}?watch=1&labelSelector=app=web&resourceVersion={version}"

    assert next(admin.watch(where))["type"] == "DELETED"


def test_a_watch_ends_after_its_time(admin: Client) -> None:
    started = time.monotonic()

    events = list(admin.watch(f"{SECRETS}?watch=1&timeoutSeconds=1"))

    assert events == []
    assert 0.9 < time.monotonic() - started < 3


def test_the_server_may_end_a_watch(cluster: FakeKubernetes, admin: Client) -> None:
    cluster.put(secret())
    events = admin.watch(f"{SECRETS}?watch=1")
    next(events)

    cluster.end_watches()

    assert list(events) == []


def test_a_watch_from_too_long_ago_is_told_so(cluster: FakeKubernetes, admin: Client) -> None:
    """Kubernetes API Concepts, "410 Gone responses"."""
    version = admin.get(SECRETS)["metadata"]["resourceVersion"]
    cluster.forget_changes()

    [event] = admin.watch(f"{SECRETS}?watch=1&resourceVersion={version}&timeoutSeconds=5")

    assert (event["type"], event["object"]["code"]) == ("ERROR", 410)
    assert event["object"]["reason"] == "Expired"


# ---------------------------------------------------------------------- who may


def test_an_unknown_token_is_nobody(cluster: FakeKubernetes) -> None:
    token = cluster.token("keyturn")
    cluster.revoke(token)

    with Client(cluster, token) as client:
        status, answer = client.ask("GET", f"{SECRETS}/db")

    assert (status, answer["reason"], answer["message"]) == (401, "Unauthorized", "Unauthorized")


def test_without_a_token_one_is_anonymous(cluster: FakeKubernetes) -> None:
    with Client(cluster, None) as client:
        status, answer = client.ask("GET", f"{SECRETS}/db")

    assert status == 403
    assert 'User "system:anonymous" cannot get' in answer["message"]


@pytest.mark.parametrize(
    "method, path, message",
    [
        (
            "GET",
            f"{SECRETS}/db",
            (
                'secrets "db" is forbidden: User "keyturn" cannot get resource "secrets"'
                ' in API group "" in the namespace "shop"'
            ),
        ),
        (
            "GET",
            "/api/v1/secrets",
            (
                'secrets is forbidden: User "keyturn" cannot list resource "secrets"'
                ' in API group "" at the cluster scope'
            ),
        ),
        (
            "PATCH",
            f"{EXTERNAL}/db/status",
            (
                'externalsecrets.external-secrets.io "db" is forbidden: User "keyturn" cannot patch'
                ' resource "externalsecrets/status" in API group "external-secrets.io"'
                ' in the namespace "shop"'
            ),
        ),
    ],
)
def test_what_is_not_allowed_is_forbidden(
    keyturn: Client, method: str, path: str, message: str
) -> None:
    """Using RBAC Authorization; the text is the real server's."""
    status, answer = keyturn.ask(method, path)

    assert (status, answer["reason"]) == (403, "Forbidden")
    assert answer["message"] == message


@pytest.mark.parametrize(
    "method, path, may",
    [
        ("GET", f"{SECRETS}/db", True),
        ("GET", f"{SECRETS}?fieldSelector=metadata.name=db", True),
        ("GET", f"{SECRETS}?watch=1&fieldSelector=metadata.name=db&timeoutSeconds=1", True),
        ("GET", f"{SECRETS}/other", False),
        ("GET", SECRETS, False),
        ("GET", f"{SECRETS}?watch=1", False),
        ("PATCH", f"{SECRETS}/db", False),
        ("POST", SECRETS, False),
        ("GET", f"{SECRETS.replace('shop', 'default')}/db", False),
        ("GET", "/api/v1/namespaces/shop/configmaps/db", False),
    ],
)
def test_a_rule_holds_for_its_names_only(
    cluster: FakeKubernetes, keyturn: Client, method: str, path: str, *, may: bool
) -> None:
    """Using RBAC Authorization, "Referring to resources": list and watch by metadata.name."""
    cluster.put(secret())
    cluster.allow("keyturn", "shop", [{**SHOP_DB, "verbs": ["get", "list", "watch", "create"]}])

    answer = keyturn.raw(method, path)

    assert (answer.status != 403) is may


def test_the_roles_are_those_of_the_store(
    cluster: FakeKubernetes, admin: Client, keyturn: Client
) -> None:
    """A ClusterRole that is bound in a namespace holds there."""
    cluster.put(secret())
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    reader = {"metadata": {"name": "reader"}, "rules": [{**SHOP_DB, "verbs": ["get"]}]}
    reference = {"kind": "ClusterRole", "name": "reader", "apiGroup": "rbac.authorization.k8s.io"}
    subject = {"kind": "Group", "name": "rotators", "apiGroup": "rbac.authorization.k8s.io"}
    binding = {"metadata": {"name": "b"}, "roleRef": reference, "subjects": [subject]}
    admin.ask("POST", f"{rbac}/clusterroles", reader)
    admin.ask("POST", f"{rbac}/namespaces/shop/rolebindings", binding)

    with Client(cluster, cluster.token("somebody", ["rotators"])) as member:
        assert member.raw("GET", f"{SECRETS}/db").status == 200
        assert member.raw("GET", f"{SECRETS.replace('shop', 'default')}/db").status == 403
    assert keyturn.raw("GET", f"{SECRETS}/db").status == 403


def test_whoever_asks_is_told_what_he_may(cluster: FakeKubernetes, keyturn: Client) -> None:
    """Authorization Overview, "Checking API access"."""
    cluster.allow("keyturn", "shop", [{**SHOP_DB, "verbs": ["get"]}])
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"

    def may(verb: str) -> Any:
        asked = {"verb": verb, "resource": "secrets", "name": "db", "namespace": "shop"}
        _, answer = keyturn.ask("POST", path, {"spec": {"resourceAttributes": asked}})
        return answer["status"]["allowed"]

    assert [may("get"), may("patch")] == [True, False]


# ---------------------------------------------------------------------- what goes wrong


def test_a_fault_meets_those_it_is_meant_for(cluster: FakeKubernetes, admin: Client) -> None:
    cluster.put(secret())
    cluster.fail(429, times=2, retry_after_s=1, only=lambda request: request.verb == "patch")

    answers = [admin.raw("PATCH", f"{SECRETS}/db", marked("a"), MERGE) for _ in range(3)]

    assert admin.raw("GET", f"{SECRETS}/db").status == 200
    assert [answer.status for answer in answers] == [429, 429, 200]
    assert [answer.headers.get("Retry-After") for answer in answers] == ["1", "1", None]
    assert json.loads(answers[0].data)["reason"] == "TooManyRequests"


def test_a_dropped_request_has_no_effect(cluster: FakeKubernetes, admin: Client) -> None:
    cluster.drop()

    with pytest.raises(urllib3.exceptions.ProtocolError):
        admin.raw("POST", SECRETS, secret())

    assert cluster.get("secrets", "shop", "db") is None


def test_a_lost_reply_has_its_effect(cluster: FakeKubernetes, admin: Client) -> None:
    cluster.lose_reply()

    with pytest.raises(urllib3.exceptions.ProtocolError):
        admin.raw("POST", SECRETS, secret())

    assert cluster.get("secrets", "shop", "db") is not None


def test_a_hanging_request_ends_with_the_cluster() -> None:
    started = time.monotonic()

    with FakeKubernetes() as cluster:
        cluster.hang(seconds=60)
        with Client(cluster, cluster.token()) as client:
            asking = threading.Thread(target=lambda: _ask_in_vain(client))
            asking.start()
            while not cluster.requests:
                time.sleep(0.01)
    asking.join(5)

    assert not asking.is_alive()
    assert time.monotonic() - started < 4


def _ask_in_vain(client: Client) -> None:
    with pytest.raises(urllib3.exceptions.HTTPError):
        client.raw("GET", SECRETS)


def test_the_log_has_who_asked_for_what_and_no_body(cluster: FakeKubernetes, admin: Client) -> None:
    admin.ask("POST", SECRETS, secret())
    admin.ask("GET", f"{SECRETS}/db")

    assert [str(request) for request in cluster.requests] == [
        "create secrets shop",
        "get secrets shop/db",
    ]
    assert "Canary7-" not in repr(cluster.requests)


def test_a_dry_run_keeps_nothing(cluster: FakeKubernetes, admin: Client) -> None:
    """Kubernetes API Concepts, "Dry-run"."""
    status, _ = admin.ask("POST", f"{SECRETS}?dryRun=All", secret())

    assert status == 201
    assert cluster.get("secrets", "shop", "db") is None


def test_an_object_with_a_finalizer_waits_for_it(cluster: FakeKubernetes, admin: Client) -> None:
    """Finalizers."""
    metadata = {"name": "db", "namespace": "shop", "finalizers": ["example.org/wait"]}
    cluster.put({**secret(), "metadata": metadata})

    _, waiting = admin.ask("DELETE", f"{SECRETS}/db")
    admin.ask("PATCH", f"{SECRETS}/db", {"metadata": {"finalizers": None}}, MERGE)

    assert waiting["metadata"]["deletionTimestamp"]
    assert cluster.get("secrets", "shop", "db") is None


def test_a_custom_resource_is_served_when_it_is_defined(admin: Client) -> None:
    """Extend the Kubernetes API with CustomResourceDefinitions."""
    admin.ask(
        "POST",
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
        {
            "metadata": {"name": "rollouts.argoproj.io"},
            "spec": {
                "group": "argoproj.io",
                "scope": "Namespaced",
                "names": {"plural": "rollouts", "kind": "Rollout"},
                "versions": [{"name": "v1alpha1", "served": True}],
            },
        },
    )
    path = "/apis/argoproj.io/v1alpha1/namespaces/shop/rollouts"

    status, made = admin.ask("POST", path, {"metadata": {"name": "web"}, "spec": {}})

    assert (status, made["apiVersion"]) == (201, "argoproj.io/v1alpha1")


# ---------------------------------------------------------------------- the server


def test_it_speaks_tls_with_a_certificate_of_the_given_authority(tmp_path: Path) -> None:
    ours, other = Authority(tmp_path, "ours"), Authority(tmp_path, "other")

    with FakeKubernetes(authority=ours) as cluster:
        assert cluster.server.startswith("https://")
        with urllib3.PoolManager(ca_certs=str(ours.file), retries=False) as trusting:
            assert trusting.request("GET", f"{cluster.server}/version").status == 200
        with (
            urllib3.PoolManager(ca_certs=str(other.file), retries=False) as doubting,
            pytest.raises(urllib3.exceptions.SSLError),
        ):
            doubting.request("GET", f"{cluster.server}/version")


def test_it_starts_and_stops_quickly() -> None:
    """With an answer in between. The best of three: other tests may keep the machine busy."""
    took_s = []
    for _ in range(3):
        started = time.monotonic()
        with FakeKubernetes(["shop"]) as cluster, Client(cluster, cluster.token()) as client:
            client.get(SECRETS)
        took_s.append(time.monotonic() - started)

    assert min(took_s) < 0.3


def test_it_answers_many_at_once(cluster: FakeKubernetes) -> None:
    """Eight writers, each of which marks the same object under its own name."""
    cluster.put(secret())
    token = cluster.token()

    def mark(number: int) -> None:
        with Client(cluster, token) as client:
            for _ in range(5):
                change = {"metadata": {"annotations": {f"mark-{number}": "a"}}}
                client.ask("PATCH", f"{SECRETS}/db", change, MERGE)

    threads = [threading.Thread(target=mark, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    found = cluster.get("secrets", "shop", "db")
    assert found is not None
    assert len(found["metadata"]["annotations"]) == 8


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet"])
def test_a_workload_says_how_it_is_updated(cluster: FakeKubernetes, kind: str) -> None:
    """API reference, apps/v1: RollingUpdate, if it does not say."""
    made = cluster.put(workload(kind))

    field = "strategy" if kind == "Deployment" else "updateStrategy"
    assert made["spec"][field]["type"] == "RollingUpdate"
