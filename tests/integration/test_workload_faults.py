"""At most one restart per workload and version: two workers, faults at the wire, a newer version.

A worker's look is broken at each of its calls to the cluster, before or after the effect; at that
moment another worker, with a way of its own, looks too, or a newer version becomes current, or the
controllers report. The follow-up is the real one, its store is in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import product
from urllib.parse import urlsplit

import pytest

from clusters import workload
from keyturn.access import Access
from keyturn.consumers.workload import Restarted, WorkloadShape
from keyturn.follow_up import Course, FollowUp, Refresh
from keyturn.kubernetes.api import Kubernetes
from keyturn.kubernetes.marks import annotations_of, mark_of
from keyturn.kubernetes.rollout import Workload
from keyturn.local.kubernetes import FakeKubernetes
from keyturn.model import Credential, RotationId, Sensitive, Surroundings
from keyturn.ports import Pickup
from keyturn.rotation import Rotation
from keyturn.strategies import DualPassword
from keyturn.testing.fakes import REF, Account, LabelledStore, MemoryDatabase, World
from keyturn.testing.faults import Moment, Proxy, Verdict

FIRST = "Canary7-first"


class Scene:
    """A Deployment that runs with `v0`, and a store whose current version is `v1`.

    Attributes:
        told: The marks on the template, one after the other.
    """

    def __init__(self, cluster: FakeKubernetes, stack: ExitStack) -> None:
        self.cluster = cluster
        self.world = World()
        self.store = LabelledStore(self.world, Credential("app", Sensitive(FIRST)))
        self.database = MemoryDatabase(self.world, {"app": Account(FIRST)})
        self.target = DualPassword(self.database, self._fresh)
        self.proxy = stack.enter_context(Proxy(urlsplit(cluster.server).port or 0))
        self.versions = 0
        self.told: list[str | None] = []
        made = workload("Deployment")
        made["spec"]["strategy"] = {"type": "RollingUpdate", "rollingUpdate": {}}
        cluster.put({"apiVersion": "v1", "kind": "Secret",
                     "metadata": {"name": "db", "namespace": "shop"}})  # fmt: skip
        cluster.put(made)
        cluster.settle()
        self._note()
        self.rotate()

    def worker(self, port: int) -> FollowUp:
        token = Sensitive(self.cluster.token())
        access = Access(f"http://127.0.0.1:{port}", None, lambda is_refused: token)  # noqa: ARG005
        api = Kubernetes("fake", lambda: access, Surroundings(lambda: 60.0))
        shape = WorkloadShape(namespace="shop", name="web")
        consumer = Restarted(api, Workload.DEPLOYMENT, shape, REF)
        return FollowUp(
            REF,
            Course((), [Refresh(consumer)]),
            store=self.store,
            targets=lambda _: self.target,
            notifiers=[],
            clock=self.world.clock,
        )

    def look(self) -> None:
        """Let the worker look that can be cut off."""
        self.worker(self.proxy.port).look()
        self._note()

    def other_looks(self) -> None:
        """Let another worker look, over a way of its own."""
        self._note()
        self.worker(urlsplit(self.cluster.server).port or 0).look()
        self._note()

    def rotate(self) -> None:
        """Let the next version become current."""
        self.versions += 1
        rotation_id = RotationId(f"v{self.versions}")
        self.store.begin(rotation_id)
        Rotation(
            REF,
            rotation_id,
            store=self.store,
            targets=lambda _: self.target,
            clock=self.world.clock,
        ).run()

    def rotate_and_tell(self) -> None:
        self.rotate()
        self.other_looks()

    def report(self) -> None:
        """Let pods report: the object changes, and not what is wanted of it."""
        found = self.cluster.get("deployments", "shop", "web")
        assert found is not None
        self.cluster.put({**found, "status": {**found["status"], "readyReplicas": 2}})

    def _note(self) -> None:
        found = self.cluster.get("deployments", "shop", "web")
        assert found is not None
        now = annotations_of(found["spec"]["template"]["metadata"]).get(mark_of(REF))
        if not self.told or self.told[-1] != now:
            self.told.append(now)

    def generation(self) -> int:
        found = self.cluster.get("deployments", "shop", "web")
        assert found is not None
        return int(found["metadata"]["generation"])

    def _fresh(self) -> Sensitive:
        return Sensitive(f"Canary7-{self.versions}")


HAPPENINGS: dict[str, Callable[[Scene], None]] = {
    "nothing": lambda scene: None,  # noqa: ARG005
    "another worker looks": Scene.other_looks,
    "a newer version": Scene.rotate,
    "a newer version is told": Scene.rotate_and_tell,
    "pods report": Scene.report,
}


@pytest.fixture
def scene() -> Iterator[Scene]:
    with ExitStack() as stack:
        cluster = stack.enter_context(FakeKubernetes(["shop"]))
        yield Scene(cluster, stack)


@pytest.mark.parametrize(
    "number, moment, verdict, happens",
    [*product((1, 2, 3), Moment, (Verdict.PASS, Verdict.CUT), HAPPENINGS)],
    ids=lambda each: getattr(each, "value", None),
)
def test_no_fault_restarts_it_twice_for_one_version(
    scene: Scene, number: int, moment: Moment, verdict: Verdict, happens: str
) -> None:
    """Calls 1 and 2 are the look and the preflight, 3 is the patch."""
    before = scene.generation()
    reached: list[int] = []

    def interrupt(at: int, when: Moment) -> Verdict:
        if (at, when) != (number, moment) or reached:
            return Verdict.PASS
        HAPPENINGS[happens](scene)
        reached.append(at)
        return verdict

    scene.proxy.reset(interrupt)
    scene.look()
    scene.proxy.reset()
    for _ in range(3):
        scene.cluster.settle()
        scene.look()

    assert reached
    assert scene.told[-1] == f"v{scene.versions}"
    assert scene.told == sorted(set(scene.told), key=str)
    assert scene.generation() - before == len(scene.told) - 1 <= scene.versions
    assert _sight(scene) is Pickup.FOLLOWED


def _sight(scene: Scene) -> Pickup:
    report = scene.worker(urlsplit(scene.cluster.server).port or 0).status()
    [line] = [each for each in report.lines if each.part.value == "consumer"]
    return Pickup.FOLLOWED if line.state.value == "done" else Pickup.WAITING
