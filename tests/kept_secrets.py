"""A database's secret, as consumers of a cluster are given it, and objects that hold it."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import yaml

from keyturn.access import Access
from keyturn.followers import Given
from keyturn.kubernetes.api import Kubernetes
from keyturn.kubernetes.cluster import ClusterShape
from keyturn.kubernetes.marks import annotations_of, mark_of
from keyturn.line import MARGIN_S
from keyturn.local.kubernetes import FakeKubernetes
from keyturn.local.kubernetes_api import Request
from keyturn.model import Credential, RotationId, Sensitive, Surroundings, Version
from keyturn.rendering import Rendering, members, render

Json = dict[str, Any]

NAME, NAMESPACE = "prod/orders/db", "orders"
CANARY = "Canary7-"
FIELDS: Mapping[str, object] = {"engine": "postgres", "host": "db.example.com", "port": 5432}


def version(name: str, **fields: object) -> Version:
    """Make a version of the secret, with a password of its own."""
    credential = Credential("app", Sensitive(f"{CANARY}{name}"), fields)
    return Version(RotationId(name), credential, datetime(2030, 1, 1, tzinfo=UTC))


def document_of(version_: Version) -> Sensitive:
    """Return the stored text."""
    kept = version_.credential
    login = {"username": kept.principal, "password": kept.secret.reveal()}
    return Sensitive(json.dumps({**FIELDS, **kept.fields, **login}))


def members_of(version_: Version) -> Mapping[str, Sensitive]:
    """Return the members as text, and the whole under the empty name."""
    return members(document_of(version_), NAME)


def rendered(version_: Version, how: Rendering) -> Sensitive:
    """Return the value in a form, by the real rules."""
    return render(document_of(version_), how, f"{NAME} version {version_.rotation_id}")


def given(kubernetes: Kubernetes | None = None, secret: str = NAME) -> Given:
    """Return what a consumer is given, with a cluster or none."""

    def cluster(shape: ClusterShape | None) -> Kubernetes:
        del shape
        assert kubernetes is not None
        return kubernetes

    return Given(
        secret, _nobody, cluster, rendered, members_of, _nobody, Surroundings(lambda: 60.0)
    )


def data_of(version_: Version, *keys: str) -> dict[str, str]:
    """Return a Secret's `data` with these members of a version, or with every one."""
    found = members_of(version_)
    return {key: encoded(found[key]) for key in keys or found if key}


def encoded(text: Sensitive) -> str:
    """Return what stands in `data`."""
    return base64.b64encode(text.reveal().encode()).decode()


def _nobody(*args: Any) -> NoReturn:
    raise AssertionError(args)


# ---------------------------------------------------------------------------- the cluster


def rules_of(section: str) -> list[Json]:
    """Return the rules of the Role in a section of docs/kubernetes.md."""
    page = (Path(__file__).parents[1] / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    text = page.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    found = [yaml.safe_load(each) for each in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    rules: list[Json] = [rule for each in found for rule in each.get("rules", ())]
    assert rules
    return rules


def granted(rules: Sequence[Json]) -> list[str]:
    """Return what rules allow, as an adapter's PERMISSIONS say it."""
    return [
        f"{verb} {'.'.join(filter(None, (resource, group)))}"
        for rule in rules
        for verb in rule["verbs"]
        for resource in rule["resources"]
        for group in rule["apiGroups"]
    ]


class Cluster(FakeKubernetes):
    """A fake cluster with the namespace, that can be cut off.

    Attributes:
        patience_s: How long a client goes on asking; `ONE_TRY_S` is too short for a second try.
    """

    ONE_TRY_S = 0.09

    def __init__(self) -> None:
        super().__init__([NAMESPACE])
        self.patience_s = 60.0
        self._is_out = False
        self.drop(10_000, only=lambda _: self._is_out)

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Let nobody get an answer."""
        self._is_out = True
        with self.hurry():
            yield
        self._is_out = False

    @contextmanager
    def hurry(self) -> Iterator[None]:
        """Let nobody ask twice."""
        self.patience_s = self.ONE_TRY_S
        yield
        self.patience_s = 60.0


def client(cluster: Cluster, rules: Sequence[Json]) -> Kubernetes:
    """Return a client that may do what *rules* say, in the namespace."""
    cluster.allow("keyturn", NAMESPACE, rules)
    token = Sensitive(cluster.token("keyturn"))
    reach = Access(cluster.server, None, lambda _: token)
    return Kubernetes("fake", lambda: reach, Surroundings(lambda: MARGIN_S + cluster.patience_s))


def secret(version_: Version, *keys: str, name: str = "db", **metadata: object) -> Json:
    """Return a Secret that holds members of a version."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": NAMESPACE, **metadata},
        "data": data_of(version_, *keys),
    }


def times_told(cluster: FakeKubernetes, resource: str, since: int) -> int:
    """Count how often an object got another mark of the secret, after a version of the cluster."""
    return sum(
        mark(event.now) != mark(event.before)
        for event in cluster.objects.since(since)
        if (event.key.plural, event.key.name) == (resource, "db") and event.before
    )


def mark(found: Json | None) -> str | None:
    """Return which version an object was told of."""
    assert found is not None
    return annotations_of(found["metadata"]).get(mark_of(NAME))


def patches(cluster: FakeKubernetes) -> int:
    """Count the patches that were asked for."""
    return sum(request.method == "PATCH" for request in cluster.requests)


def is_patch(request: Request) -> bool:
    """Tell whether a request is one."""
    return request.method == "PATCH"
