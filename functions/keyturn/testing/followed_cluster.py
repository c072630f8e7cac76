"""The consumers of the fault sweep in a cluster: the real adapters, over the wire, to a fake API.

    the store  --External Secrets-->  Secret db  --read at a pod's start-->  Deployment api

What the adapters ask of the cluster's client are external calls of the `World`, which breaks them;
below it is HTTP, to `keyturn.local.kubernetes`, whose controllers have their turn when time passes.
What really runs is read past the wire, as nobody can.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

from keyturn.access import Access
from keyturn.consumers import external_secret, workload
from keyturn.followers import Given
from keyturn.kubernetes.api import Kubernetes, Object, Patch, Resource
from keyturn.local.kubernetes import FakeKubernetes
from keyturn.model import RotationId, Sensitive, Surroundings, Version
from keyturn.ports import Consumer, Pickup, Sight
from keyturn.testing.fakes import REF, LabelledStore, MemoryConsumer, World

REPLICAS = 2
NAMESPACE = "default"


class Watched(Consumer, Protocol):
    """A consumer of which the sweep knows what it really does.

    Attributes:
        sights: When it was looked at, for which version, and whether it followed.
    """

    sights: list[tuple[datetime, RotationId, bool]]

    @property
    def runs(self) -> RotationId:
        """Return the version that it runs with; the oldest, if with several."""
        ...

    @property
    def restarts(self) -> Mapping[RotationId, int]:
        """Return how often it was made to read anew, by version."""
        ...

    def pass_time(self) -> None:
        """Let happen what is due."""
        ...


def in_cluster(
    cluster: FakeKubernetes, world: World, store: LabelledStore, shelved: MemoryConsumer
) -> list[Watched]:
    """Fill an empty cluster, and return who is watched there; *shelved* stays as it is."""

    def provided(key: str) -> str:
        del key
        return json.dumps({"password": store.serves().credential.secret.reveal()})

    cluster.provider = provided
    cluster.put(_EXTERNAL_SECRET)
    cluster.settle()
    cluster.put(_DEPLOYMENT)
    cluster.settle()
    given = _given(_Interrupted(cluster, world))
    external = external_secret.ExternalSecretShape(namespace=NAMESPACE, name="db")
    deployment = workload.DeploymentShape(namespace=NAMESPACE, name="api")
    copy = external_secret.make("external-secret", external, given)
    reader = workload.make("deployment", deployment, given)
    return [
        _Copy(copy, cluster, world, store),
        shelved,
        _Reader(reader, cluster, world, store),
    ]


class _Interrupted(Kubernetes):
    """The real client, each call of which the world may break."""

    def __init__(self, cluster: FakeKubernetes, world: World) -> None:
        token = Sensitive(cluster.token())
        access = Access(cluster.server, None, lambda _: token)
        super().__init__("fake", lambda: access, Surroundings(lambda: 60.0))
        self._world = world

    def get(self, resource: Resource, namespace: str, name: str) -> Object | None:
        with self._world.call("kubernetes.get"):
            return super().get(resource, namespace, name)

    def patch(
        self, resource: Resource, namespace: str, name: str, change: Object, kind: Patch
    ) -> Object | None:
        real = super().patch
        return self._world.write(
            "kubernetes.patch", lambda: real(resource, namespace, name, change, kind)
        )


def _given(client: Kubernetes) -> Given:
    def members(version: Version) -> Mapping[str, Sensitive]:
        return {"password": version.credential.secret, "": version.credential.secret}

    def none(*_: object) -> Any:
        raise NotImplementedError

    return Given(REF, none, lambda _: client, none, members, none, Surroundings(lambda: 60.0))


class _InCluster:
    """What both have: the real adapter, and what is seen of it past the wire."""

    def __init__(
        self,
        consumer: Consumer,
        cluster: FakeKubernetes,
        world: World,
        store: LabelledStore,
    ) -> None:
        self._consumer = consumer
        self._cluster = cluster
        self._world = world
        self._store = store
        self.sights: list[tuple[datetime, RotationId, bool]] = []

    def name(self) -> str:
        return self._consumer.name()

    def preflight(self) -> None:
        self._consumer.preflight()

    def verify(self, version: Version) -> Sight:
        seen = self._consumer.verify(version)
        followed = seen.pickup is Pickup.FOLLOWED
        self.sights.append((self._world.clock.now(), version.rotation_id, followed))
        return seen

    def trigger(self, version_id: RotationId, seen: Sight) -> None:
        self._consumer.trigger(version_id, seen)

    def _version_of(self, password: str) -> RotationId:
        for version_id, version in self._store.versions.items():
            if version is not None and version.credential.secret.reveal() == password:
                return version_id
        return RotationId("")


class _Copy(_InCluster):
    """The Secret that External Secrets keeps. To be told twice does it no harm."""

    restarts: Mapping[RotationId, int] = {}

    @property
    def runs(self) -> RotationId:
        secret = self._cluster.get("secrets", NAMESPACE, "db") or {}
        return self._version_of(base64.b64decode(secret["data"]["password"]).decode())

    def pass_time(self) -> None:
        """Let the cluster's controllers have their turn."""
        self._cluster.settle()


class _Reader(_InCluster):
    """The Deployment. Each ReplicaSet is a restart; there may be one for each version."""

    @property
    def runs(self) -> RotationId:
        pods = self._cluster.runs_with(NAMESPACE, "api")
        versions = {self._version_of(each.variables["db"]["password"]) for each in pods}
        return min(versions, key=[*self._store.versions].index)

    @property
    def restarts(self) -> Mapping[RotationId, int]:
        counted: Counter[RotationId] = Counter()
        for found in self._cluster.list("replicasets", NAMESPACE):
            annotations = found["spec"]["template"]["metadata"].get("annotations") or {}
            counted.update(RotationId(each) for each in annotations.values())
        return counted

    def pass_time(self) -> None:
        """Nothing of its own: the copy lets the cluster's time pass."""


_EXTERNAL_SECRET: dict[str, Any] = {
    "apiVersion": "external-secrets.io/v1",
    "kind": "ExternalSecret",
    "metadata": {"name": "db", "namespace": NAMESPACE},
    "spec": {
        "refreshInterval": "87600h",  # by itself it never looks
        "secretStoreRef": {"name": "store", "kind": "SecretStore"},
        "target": {"name": "db"},
        "dataFrom": [{"extract": {"key": REF}}],
    },
}

_CONTAINER = {"name": "api", "image": "api", "envFrom": [{"secretRef": {"name": "db"}}]}
_DEPLOYMENT: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "api", "namespace": NAMESPACE},
    "spec": {
        "replicas": REPLICAS,
        "selector": {"matchLabels": {"app": "api"}},
        "template": {
            "metadata": {"labels": {"app": "api"}},
            "spec": {"containers": [_CONTAINER]},
        },
    },
}
