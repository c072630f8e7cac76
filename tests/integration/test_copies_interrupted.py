"""A delivery to a cluster that ends at any of its requests, in any way, and the one after it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import pytest

from cluster_copies import CANARY, MARK, NAMESPACE, Cluster, Json, given, texts, version
from keyturn.destinations import kubernetes_secret, sealed_secret
from keyturn.destinations.kubernetes_secret import KubernetesSecretShape
from keyturn.destinations.sealed_secret import SealedSecretShape
from keyturn.errors import KeyturnError, Retryable
from keyturn.line import TRIES
from keyturn.local.kubernetes_api import Request
from keyturn.model import RotationId, Sensitive
from keyturn.ports import Destination
from unsealing import Controller

FAULTS: dict[str, Callable[[Cluster, Callable[[Request], bool]], None]] = {
    "no answer, once": lambda cluster, only: cluster.drop(only=only),
    "no answer at all": lambda cluster, only: cluster.drop(TRIES, only=only),
    "a lost reply": lambda cluster, only: cluster.lose_reply(only=only),
    "lost replies": lambda cluster, only: cluster.lose_reply(TRIES, only=only),
    "a conflict": lambda cluster, only: cluster.fail(409, only=only),
    "503, once": lambda cluster, only: cluster.fail(503, only=only),
    "503": lambda cluster, only: cluster.fail(503, TRIES, only=only),
    "429": lambda cluster, only: cluster.fail(429, retry_after_s=0, only=only),
}
"""The API does not answer a look with a conflict; whoever stands before it may."""

LASTING = {"no answer at all", "503", "lost replies"}
"""What the client's own tries do not mend: every request of a delivery has to fail once of it."""

MOST_REQUESTS = 6
"""A delivery has three, and a sealed one a fourth."""


@dataclass
class Scene:
    """A destination in a cluster, and how its object is read."""

    cluster: Cluster
    place: Destination
    resource: str
    reads: Callable[[Json], dict[str, Sensitive]]

    def found(self) -> Json | None:
        return self.cluster.get(self.resource, NAMESPACE, "db")

    def deliver(self, name: str) -> None:
        document = json.dumps({name: f"{CANARY}{name}"})
        self.place.deliver(version(name), Sensitive(document), self.place.holds())

    def holds(self, *names: str) -> bool:
        """Tell whether it holds one of these versions: all of it, and as it says."""
        one = self.found()
        if one is None:
            return "" in names
        says = one["metadata"]["annotations"][MARK]
        return says in names and self.reads(one) == {says: Sensitive(f"{CANARY}{says}")}


@pytest.fixture(scope="module")
def controller() -> Controller:
    return Controller()


@pytest.fixture(params=["kubernetes-secret", "sealed-secret"])
def scene(request: pytest.FixtureRequest, controller: Controller) -> Iterator[Scene]:
    with Cluster() as cluster:
        around = given(cluster.client("admin"))
        if request.param == "kubernetes-secret":
            shape = KubernetesSecretShape(namespace=NAMESPACE, name="db")
            place = kubernetes_secret.make(request.param, shape, around)
            yield Scene(cluster, place, "secrets", lambda one: texts(one["data"]))
            return
        service = "kube-system/http:sealed-secrets-controller:http"
        cluster.api.services[service] = {"/v1/cert.pem": controller.certificate}.__getitem__

        def reads(one: Json) -> dict[str, Sensitive]:
            return {key: Sensitive(value.decode()) for key, value in controller.unseal(one).items()}

        sealed = SealedSecretShape(namespace=NAMESPACE, name="db")
        yield Scene(
            cluster, sealed_secret.make(request.param, sealed, around), "sealedsecrets", reads
        )


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's own, which are tested where it is."""
    monkeypatch.setattr("keyturn.line.PAUSE_S", 0.0)


@pytest.mark.parametrize("before", ["", "v1"], ids=["the first", "a later one"])
@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_request_fails_the_next_look_mends_it(
    scene: Scene, fault: str, before: str
) -> None:
    """At every moment it is one version, whole; a failure says to try again; once is enough."""
    if before:
        scene.deliver(before)
    failures = []
    for number in range(MOST_REQUESTS):
        name = f"v{number + 2}"
        picked = From(number)
        FAULTS[fault](scene.cluster, picked)
        failure = failure_of(partial(scene.deliver, name))
        picked.is_over = True

        if failure:
            failures.append(failure)
            assert scene.holds(before, name)
            scene.deliver(name)
        assert scene.holds(name)
        assert scene.place.holds().version_id == RotationId(name)
        if before:
            before = name
        else:
            scene.cluster.delete(scene.resource, NAMESPACE, "db")

    assert all(isinstance(each, Retryable) for each in failures), failures
    assert len(failures) >= 3 or fault not in LASTING


class From:
    """Picks the requests from that number on, until it is over."""

    def __init__(self, number: int) -> None:
        self.is_over = False
        self._left = number

    def __call__(self, request: Request) -> bool:
        del request
        self._left -= 1
        return self._left < 0 and not self.is_over


def failure_of(act: Callable[[], None]) -> KeyturnError | None:
    try:
        act()
    except KeyturnError as error:
        return error
    return None
