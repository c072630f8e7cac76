"""The follow-up over a cluster's copies: the old credential dies when they hold the new one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta

import msgspec
import pytest

from kept_secrets import CANARY, NAME, Cluster, client, document_of, given, rules_of, times_told
from keyturn.consumers import csi, external_secret
from keyturn.errors import KeyturnError
from keyturn.follow_up import Course, FollowUp, Line, Part, Refresh, Report, Retirement, State, When
from keyturn.model import Credential, RotationId, Sensitive, Sighting
from keyturn.ports import Consumer
from keyturn.rotation import Rotation
from keyturn.strategies import DualPassword
from keyturn.testing.fakes import (
    REF,
    Account,
    LabelledStore,
    MemoryDatabase,
    MemoryNotifier,
    World,
)

V1 = RotationId("v1")
EXTERNAL_SECRET = {
    "apiVersion": "external-secrets.io/v1",
    "kind": "ExternalSecret",
    "metadata": {"name": "db", "namespace": "orders"},
    "spec": {"refreshInterval": "24h", "dataFrom": [{"extract": {"key": NAME}}]},
}


class Scene:
    """A secret with two passwords, its copy in a cluster, and a pod that has mounted it."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.world = World()
        numbers = itertools.count(1)
        self.store = LabelledStore(self.world, Credential("app", Sensitive(f"{CANARY}first")))
        self.database = MemoryDatabase(self.world, {"app": Account(f"{CANARY}first")})
        self.target = DualPassword(
            self.database, lambda: Sensitive(f"{CANARY}made-{next(numbers)}")
        )
        cluster.provider = lambda _: document_of(self.store.serves()).reveal()
        cluster.put(EXTERNAL_SECRET)
        self.mount("v0")
        cluster.settle()

    def mount(self, version_id: str) -> None:
        self.cluster.put(
            {
                "apiVersion": "secrets-store.csi.x-k8s.io/v1",
                "kind": "SecretProviderClassPodStatus",
                "metadata": {"name": "web-1-orders-db", "namespace": "orders"},
                "status": {
                    "podName": "web-1",
                    "secretProviderClassName": "db",
                    "mounted": True,
                    "objects": [{"id": NAME, "version": version_id}],
                },
            }
        )

    def rotate(self) -> None:
        self.store.begin(V1)
        rotation = Rotation(
            REF, V1, store=self.store, targets=lambda _: self.target, clock=self.world.clock
        )
        rotation.run()

    def look(self, sighting: Sighting | None = None) -> Report:
        """Look once, with a worker that knows nothing."""
        rules = [*rules_of("ExternalSecret"), *rules_of("Secrets Store CSI")]
        around = given(client(self.cluster, rules))
        copy: Consumer = external_secret.make(
            "external-secret",
            msgspec.convert(
                {"namespace": "orders", "name": "db"}, external_secret.ExternalSecretShape
            ),
            around,
        )
        mounts: Consumer = csi.make(
            "csi", msgspec.convert({"namespace": "orders", "class": "db"}, csi.CsiShape), around
        )
        course = Course(
            (),
            [Refresh(copy, is_copy=True), Refresh(mounts)],
            Retirement(When.VERIFIED, timedelta(minutes=1)),
        )
        return FollowUp(
            REF,
            course,
            store=self.store,
            targets=lambda _: self.target,
            notifiers=[MemoryNotifier(self.world)],
            clock=self.world.clock,
        ).look(sighting)

    def passwords(self) -> int:
        account = self.database.accounts["app"]
        return len([each for each in (account.password, account.second) if each])


@pytest.fixture
def scene() -> Iterator[Scene]:
    with Cluster() as cluster:
        yield Scene(cluster)


def states(report: Report) -> list[State]:
    return [line.state for line in report.about(Part.CONSUMER)]


def line_of(report: Report, name: str) -> Line:
    (found,) = [line for line in report.lines if line.name.startswith(name)]
    return found


def test_the_old_password_dies_when_copy_and_mount_have_followed(scene: Scene) -> None:
    """And not when the copy alone has, nor on one look."""
    scene.rotate()

    told = scene.look()
    assert states(told) == [State.WAITING, State.WAITING]
    assert line_of(told, "csi").waits_for == "1 of 1 pods are old: web-1 (v0)"
    scene.cluster.settle()
    assert states(scene.look()) == [State.DONE, State.WAITING]

    scene.mount("v1")
    scene.world.clock.advance(timedelta(minutes=10))
    seen = scene.look()
    assert states(seen) == [State.DONE, State.DONE]
    assert scene.passwords() == 2

    scene.world.clock.advance(timedelta(minutes=6))
    scene.look(seen.sighting)
    assert scene.passwords() == 1


def test_a_copy_that_was_put_back_between_two_looks_keeps_it_alive(scene: Scene) -> None:
    scene.rotate()
    before = scene.cluster.get("secrets", "orders", "db")
    assert before is not None
    scene.look()
    scene.cluster.settle()
    scene.mount("v1")
    scene.world.clock.advance(timedelta(minutes=10))
    seen = scene.look()
    assert seen.sighting is not None

    scene.cluster.put({**before, "apiVersion": "v1", "kind": "Secret"})
    scene.world.clock.advance(timedelta(minutes=6))
    report = scene.look(seen.sighting)

    assert states(report) == [State.WAITING, State.DONE]
    assert scene.passwords() == 2


@pytest.mark.parametrize("call", range(6))
def test_a_worker_that_dies_at_any_request_costs_time_alone(scene: Scene, call: int) -> None:
    """Each request in turn has no answer, before or after its effect; then all is as it was."""
    scene.rotate()
    since = scene.cluster.objects.version
    for lose in (scene.cluster.drop, scene.cluster.lose_reply):
        asked = itertools.count()
        lose(only=lambda _: next(asked) == call)  # noqa: B023  # within this turn
        with scene.cluster.hurry(), suppress(KeyturnError):
            scene.look()

    for _ in range(2):
        scene.cluster.settle()
        scene.look()
    scene.mount("v1")
    scene.world.clock.advance(timedelta(minutes=10))
    report = scene.look()

    assert states(report) == [State.DONE, State.DONE]
    assert times_told(scene.cluster, "externalsecrets", since) == 1
