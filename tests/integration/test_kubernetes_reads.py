"""What the client of a cluster reads that is no whole object: metadata, and a service's answer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from api_servers import answer, client, scripted
from cluster_copies import NAMESPACE, Cluster
from keyturn.errors import Denied, Misconfigured, Unreachable, Unsupported
from keyturn.kubernetes.api import Resource

SECRETS = Resource("", "v1", "secrets")
SERVICE = "http:sealed-secrets-controller:http"


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as running:
        running.put(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "db", "namespace": NAMESPACE, "annotations": {"a": "b"}},
                "stringData": {"password": "Canary7-one"},
            }
        )
        yield running


def test_of_an_object_only_the_metadata_is_fetched(cluster: Cluster) -> None:
    """The server leaves the rest out, and says so by the kind of its answer."""
    found = cluster.client("admin").metadata(SECRETS, NAMESPACE, "db")

    assert found is not None
    assert found["annotations"] == {"a": "b"}
    assert found["resourceVersion"]
    assert cluster.values_read() == 0


def test_the_answer_is_asked_for_as_the_api_names_it() -> None:
    """Nothing else is accepted: a server that knows no such answer has to refuse."""
    with scripted(answer(200, {"metadata": {"name": "db"}})) as script:
        client(script.server).metadata(SECRETS, NAMESPACE, "db")

    assert (
        b"\r\nAccept: application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1\r\n"
        in (script.got[0])
    )


def test_no_object_has_no_metadata(cluster: Cluster) -> None:
    assert cluster.client("admin").metadata(SECRETS, NAMESPACE, "other") is None
    with pytest.raises(Unsupported):
        cluster.client("admin").metadata(Resource("a.dev", "v1", "as"), NAMESPACE, "b")


def ask(cluster: Cluster, path: str = "/v1/cert.pem", user: str = "admin") -> str | None:
    return cluster.client(user).ask_service("kube-system", SERVICE, path)


def test_a_service_is_asked_through_the_api_server(cluster: Cluster) -> None:
    cluster.api.services[f"kube-system/{SERVICE}"] = {"/v1/cert.pem": "a text"}.__getitem__

    assert ask(cluster) == "a text"
    assert cluster.requests[-1].path == (
        f"/api/v1/namespaces/kube-system/services/{SERVICE}/proxy/v1/cert.pem"
    )


def test_no_service_is_an_answer_and_an_unknown_path_is_none(cluster: Cluster) -> None:
    assert ask(cluster) is None
    cluster.api.services[f"kube-system/{SERVICE}"] = {"/v1/cert.pem": "a text"}.__getitem__

    with pytest.raises(Misconfigured, match="it knows no /v2"):
        ask(cluster, "/v2")


def test_a_service_takes_a_right_of_its_own(cluster: Cluster) -> None:
    with pytest.raises(Denied) as caught:
        ask(cluster, user="keyturn")

    assert "resources: [services/proxy]" in caught.value.remedy
    assert f"resourceNames: [{SERVICE}]" in caught.value.remedy


def test_a_service_without_pods_is_unreachable(cluster: Cluster) -> None:
    """503, which the API server answers for it."""
    cluster.fail(503, times=4)

    with pytest.raises(Unreachable):
        ask(cluster)


def test_an_answer_that_is_no_text_is_refused() -> None:
    with (
        scripted(answer(200, b"\xff\xfe")) as script,
        pytest.raises(Misconfigured, match="answered no text"),
    ):
        client(script.server).ask_service("kube-system", SERVICE, "/v1/cert.pem")
