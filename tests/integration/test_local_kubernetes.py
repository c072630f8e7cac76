"""The fake Kubernetes API, over the wire: each rule that a client of ours relies on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import pytest
import urllib3

from keyturn.local.kubernetes import FakeKubernetes

Json = dict[str, Any]

MERGE = "application/merge-patch+json"
SECRETS = "/api/v1/namespaces/shop/secrets"
DEPLOYMENTS = "/apis/apps/v1/namespaces/shop/deployments"


class Client:
    """A plain HTTP client with a token: nothing of ours between the test and the wire."""

    def __init__(self, cluster: FakeKubernetes, token: str | None) -> None:
        where = urlsplit(cluster.server)
        self._pool = urllib3.HTTPConnectionPool(
            str(where.hostname), where.port, retries=False, timeout=5
        )
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def ask(
        self, method: str, path: str, body: Any = None, media_type: str = "application/json"
    ) -> tuple[int, Json]:
        status, _, text = self.raw(method, path, body, media_type)
        found: Json = json.loads(text)
        return status, found

    def raw(
        self, method: str, path: str, body: Any = None, media_type: str = "application/json"
    ) -> tuple[int, Mapping[str, str], bytes]:
        sent = None if body is None else json.dumps(body).encode()
        headers = {**self._headers, "Content-Type": media_type}
        answer = self._pool.request(method, path, body=sent, headers=headers)
        return answer.status, answer.headers, answer.data

    def close(self) -> None:
        self._pool.close()


@pytest.fixture
def cluster() -> Iterator[FakeKubernetes]:
    with FakeKubernetes(["shop"]) as running:
        yield running


@pytest.fixture
def admin(cluster: FakeKubernetes) -> Iterator[Client]:
    made = Client(cluster, cluster.token())
    yield made
    made.close()


def secret(name: str = "db", **more: Any) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name},
        "stringData": {"password": "Canary7-first"},
        **more,
    }


def test_a_secret_is_created_read_patched_and_deleted(admin: Client) -> None:
    status, made = admin.ask("POST", SECRETS, secret())
    assert status == 201
    assert "stringData" not in made
    assert made["data"] == {"password": "Q2FuYXJ5Ny1maXJzdA=="}

    status, patched = admin.ask(
        "PATCH", f"{SECRETS}/db", {"metadata": {"annotations": {"a": "b"}}}, MERGE
    )
    assert status == 200
    assert patched["metadata"]["annotations"] == {"a": "b"}
    assert patched["metadata"]["resourceVersion"] != made["metadata"]["resourceVersion"]

    assert admin.ask("DELETE", f"{SECRETS}/db")[0] == 200
    assert admin.ask("GET", f"{SECRETS}/db")[0] == 404
