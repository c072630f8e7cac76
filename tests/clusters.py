"""A plain client of the fake Kubernetes API, and objects to put there: what its tests share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Self
from urllib.parse import urlsplit

import urllib3

from keyturn.local.kubernetes import FakeKubernetes

Json = dict[str, Any]

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"

SECRETS = "/api/v1/namespaces/shop/secrets"
DEPLOYMENTS = "/apis/apps/v1/namespaces/shop/deployments"
EXTERNAL = "/apis/external-secrets.io/v1/namespaces/shop/externalsecrets"


class Client:
    """A plain HTTP client with a token: nothing of ours between the test and the wire."""

    def __init__(self, cluster: FakeKubernetes, token: str | None) -> None:
        where = urlsplit(cluster.server)
        self._pool = urllib3.HTTPConnectionPool(
            str(where.hostname), where.port, retries=False, timeout=5
        )
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.close()

    def raw(
        self, method: str, path: str, body: Any = None, media_type: str = "application/json"
    ) -> urllib3.BaseHTTPResponse:
        """Ask, and return the answer as it is. A body of bytes is sent as it is."""
        sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = {**self._headers, "Content-Type": media_type}
        return self._pool.request(method, path, body=sent, headers=headers)

    def ask(
        self, method: str, path: str, body: Any = None, media_type: str = "application/json"
    ) -> tuple[int, Json]:
        """Ask, and return the status and the object."""
        answer = self.raw(method, path, body, media_type)
        found: Json = json.loads(answer.data)
        return answer.status, found

    def get(self, path: str) -> Json:
        """Return what is there."""
        status, found = self.ask("GET", path)
        assert status == 200, found
        return found

    def watch(self, path: str) -> Iterator[Json]:
        """Yield the events of a watch until the server ends it."""
        answer = self._pool.request("GET", path, headers=self._headers, preload_content=False)
        rest = b""
        try:
            for part in answer.stream(65_536):
                *lines, rest = (rest + part).split(b"\n")
                yield from (json.loads(line) for line in lines)
        finally:
            answer.close()


def secret(name: str = "db", text: str = "Canary7-first", **more: Any) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": "shop"},
        "stringData": {"password": text},
        **more,
    }


def workload(kind: str, name: str = "web", *, replicas: int = 3, **pod: Any) -> Json:
    """Return a workload whose pods have the Secret `db` in their environment."""
    container = {"name": "app", "image": "app:1", "envFrom": [{"secretRef": {"name": "db"}}]}
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {
            **({} if kind == "DaemonSet" else {"replicas": replicas}),
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [container], **pod},
            },
        },
    }


def external(**spec: Any) -> Json:
    """Return an ExternalSecret of the remote key `prod/db`."""
    return {
        "apiVersion": "external-secrets.io/v1",
        "kind": "ExternalSecret",
        "metadata": {"name": "db", "namespace": "shop"},
        "spec": {
            "refreshInterval": "1h",
            "secretStoreRef": {"name": "aws", "kind": "SecretStore"},
            "data": [
                {"secretKey": "password", "remoteRef": {"key": "prod/db", "property": "password"}}
            ],
            **spec,
        },
    }


def marked(mark: str) -> Json:
    """Return a patch that writes a mark into the metadata."""
    return {"metadata": {"annotations": {"mark": mark}}}


def restarted(mark: str) -> Json:
    """Return a patch that replaces a workload's pods."""
    return {"spec": {"template": {"metadata": {"annotations": {"mark": mark}}}}}
