"""What people do to a workload with the real kubectl, and what we make of it, over TLS."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clusters import Json, workload
from conftest import need
from keyturn.access import Access
from keyturn.consumers.workload import Restarted, WorkloadShape
from keyturn.errors import Misconfigured
from keyturn.kubernetes.api import Kubernetes
from keyturn.kubernetes.marks import mark_of
from keyturn.kubernetes.rollout import Stage, Workload, rollout
from keyturn.model import Credential, RotationId, Sensitive, Surroundings, Version
from keyturn.ports import Pickup, Sight
from keyturn.testing.contracts import MADE_AT
from kubectl import KUBECTL, Kubectl, running
from rollouts import TABLE

SECRET = "prod/orders/db"
KINDS = {
    Workload.DEPLOYMENT: "Deployment",
    Workload.STATEFUL_SET: "StatefulSet",
    Workload.DAEMON_SET: "DaemonSet",
}
ROLLING = {"type": "RollingUpdate", "rollingUpdate": {}}
DOCS = Path(__file__).parents[2] / "docs" / "kubernetes.md"


class Site:
    """A workload on a cluster, settled, that kubectl has made and we look at."""

    def __init__(self, kubectl: Kubectl, kind: Workload) -> None:
        self.kubectl = kubectl
        self.kind = kind
        self.cluster = kubectl.cluster
        self.manifest = workload(KINDS[kind])
        field = "strategy" if kind is Workload.DEPLOYMENT else "updateStrategy"
        self.manifest["spec"][field] = ROLLING
        self.serve("first")
        self.runs("apply", "--validate=false", "-f", "-", stdin=self.manifest)
        self.cluster.settle()
        token = Sensitive(self.cluster.token())
        access = Access(
            self.cluster.server,
            kubectl.authority.file.read_text(),
            lambda is_refused: token,  # noqa: ARG005  # never is
        )
        api = Kubernetes("fake", lambda: access, Surroundings(lambda: 60.0))
        shape = WorkloadShape(namespace="shop", name="web")
        self.consumer = Restarted(api, kind, shape, SECRET)

    @property
    def resource(self) -> str:
        return f"{KINDS[self.kind].lower()}/web"

    def serve(self, password: str) -> None:
        self.cluster.put(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "db", "namespace": "shop"},
                "stringData": {"password": f"Canary7-{password}"},
            }
        )

    def runs(self, *words: str, stdin: Json | None = None) -> str:
        code, said = self.kubectl.run("-n", "shop", *words, stdin=stdin)
        assert code == 0, said
        return said

    def sees(self, name: str = "v1") -> Sight:
        return self.consumer.verify(version(name))

    def tell(self, name: str = "v1") -> None:
        self.consumer.trigger(RotationId(name), self.sees(name))

    def found(self) -> Json:
        found = self.cluster.get(f"{KINDS[self.kind].lower()}s", "shop", "web")
        assert found is not None
        return found


def version(name: str) -> Version:
    return Version(RotationId(name), Credential("app", Sensitive("Canary7-unused")), MADE_AT)


@pytest.fixture
def kubectl() -> Iterator[Kubectl]:
    need(present=KUBECTL is not None, what="kubectl", install="apt install kubernetes-client")
    with running("shop") as made:
        yield made


@pytest.fixture(params=Workload)
def site(request: pytest.FixtureRequest, kubectl: Kubectl) -> Site:
    kind: Workload = request.param
    return Site(kubectl, kind)


@pytest.fixture
def deployment(kubectl: Kubectl) -> Site:
    return Site(kubectl, Workload.DEPLOYMENT)


def test_kubectl_and_we_agree_at_every_step_of_a_rollout(site: Site) -> None:
    site.serve("second")
    site.tell()
    stages = []
    for _ in range(25):
        _, said = site.kubectl.run(
            *("-n", "shop", "rollout", "status", site.resource, "--watch=false")
        )
        is_complete = re.search("successfully|complete", said) is not None
        stages.append(rollout(site.kind, site.found()).stage)
        assert (stages[-1] is Stage.COMPLETE) is is_complete, said
        if is_complete:
            break
        site.cluster.step()

    assert stages[-1] is Stage.COMPLETE
    assert len(stages) > 4
    assert site.sees().pickup is Pickup.FOLLOWED
    runs = site.cluster.runs_with("shop", "web")
    assert [run.variables["db"]["password"] for run in runs] == ["Canary7-second"] * 3


def test_a_restart_by_hand_is_waited_for_and_takes_nothing_back(site: Site) -> None:
    site.tell()
    site.cluster.settle()

    site.runs("rollout", "restart", site.resource)

    assert site.sees().pickup is Pickup.WAITING
    site.cluster.settle()
    assert site.sees().pickup is Pickup.FOLLOWED


def test_to_apply_the_manifest_again_takes_nothing_back(site: Site) -> None:
    """It has no such annotations, and kubectl removes only what it has set."""
    site.tell()
    site.cluster.settle()

    site.runs("apply", "--validate=false", "-f", "-", stdin=site.manifest)

    assert site.sees().pickup is Pickup.FOLLOWED


def test_what_is_replaced_is_told_again(site: Site) -> None:
    site.tell()
    site.cluster.settle()

    site.runs("replace", "--validate=false", "-f", "-", stdin=site.manifest)

    assert site.sees().pickup is Pickup.UNTOLD


def test_what_a_rollback_of_a_deployment_takes_back_is_told_again(deployment: Site) -> None:
    """It puts the annotations of the older ReplicaSet on the object: both are gone."""
    deployment.tell()
    deployment.cluster.settle()

    deployment.runs("rollout", "undo", deployment.resource)

    assert deployment.sees().pickup is Pickup.UNTOLD


def test_a_template_that_is_put_back_is_told_again_when_somebody_says_so(site: Site) -> None:
    """By the command in the docs."""
    site.tell()
    site.cluster.settle()
    path = f"/spec/template/metadata/annotations/{mark_of(SECRET).replace('/', '~1')}"
    site.runs("patch", site.resource, "--type=json", "-p", f'[{{"op":"remove","path":"{path}"}}]')
    site.cluster.settle()
    put_back = site.sees()

    site.runs("annotate", site.resource, f"{mark_of(SECRET)}-")
    untold = site.sees()
    site.tell()
    site.cluster.settle()

    assert put_back.pickup is Pickup.FAILED
    assert untold.pickup is Pickup.UNTOLD
    assert site.sees().pickup is Pickup.FOLLOWED


def test_a_pause_is_refused_until_it_is_resumed(deployment: Site) -> None:
    deployment.runs("rollout", "pause", deployment.resource)
    with pytest.raises(Misconfigured) as caught:
        deployment.consumer.preflight()

    deployment.runs("rollout", "resume", deployment.resource)

    assert "kubectl rollout resume" in caught.value.remedy
    deployment.consumer.preflight()


def test_the_docs_show_the_annotation_of_their_example_and_the_size_of_the_table() -> None:
    shown: list[Any] = re.findall(r"version\.keyturn\.dev/[a-z0-9-]*[a-z0-9]", DOCS.read_text())

    assert {*shown} == {mark_of(SECRET)}
    assert f"in a table of {len(TABLE)} states" in DOCS.read_text()
