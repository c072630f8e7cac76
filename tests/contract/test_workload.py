"""Workloads that are made to read anew, over the real wire.

The contract runs with the fake cluster's controllers; where a test needs one state of a rollout, it
plays the controller itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import pytest
from msgspec import convert

from keyturn.access import Access
from keyturn.consumers.workload import FIXES, PERMISSIONS, SHAPES, Restarted, WorkloadShape, make
from keyturn.errors import Busy, KeyturnError, Misconfigured, Unreachable
from keyturn.followers import Given
from keyturn.kubernetes.api import Kubernetes
from keyturn.kubernetes.cluster import ClusterShape
from keyturn.kubernetes.marks import mark_of
from keyturn.kubernetes.rollout import Workload as Kind
from keyturn.local.kubernetes import FakeKubernetes
from keyturn.local.kubernetes_api import Request
from keyturn.model import Credential, RotationId, Sensitive, Surroundings, Version
from keyturn.ports import Pickup, Sight
from keyturn.shapes import keys
from keyturn.testing.contracts import MADE_AT, ConsumerContract, Workload
from keyturn.testing.faults import Moment, Proxy, Verdict

Json = dict[str, Any]

SECRET, OTHER = "prod/orders/db", "prod/orders/queue"
NAMESPACE, NAME = "orders", "api"
PLURALS = {
    Kind.DEPLOYMENT: "deployments",
    Kind.STATEFUL_SET: "statefulsets",
    Kind.DAEMON_SET: "daemonsets",
}
KINDS = {
    Kind.DEPLOYMENT: "Deployment",
    Kind.STATEFUL_SET: "StatefulSet",
    Kind.DAEMON_SET: "DaemonSet",
}
CONTAINER = {
    "name": "main",
    "image": "example.com/api",
    "envFrom": [{"secretRef": {"name": "db"}}],
}
V0, V1, V2 = (RotationId(f"v{number}") for number in range(3))


def version(name: str) -> Version:
    return Version(RotationId(name), Credential("app", Sensitive("Canary7-unused")), MADE_AT)


def shape(name: str = NAME, **more: Any) -> WorkloadShape:
    return WorkloadShape(namespace=NAMESPACE, name=name, **more)


class Site:
    """A cluster with one workload, that three pods run of, and a way to it that can be cut off."""

    def __init__(self, kind: Kind, cluster: FakeKubernetes, stack: ExitStack) -> None:
        self.kind = kind
        self.cluster = cluster
        self.proxy = stack.enter_context(Proxy(urlsplit(cluster.server).port or 0))
        self.marks = {mark_of(SECRET): V0}
        strategy = {"type": "RollingUpdate", "rollingUpdate": {}}
        self.put(
            {
                "apiVersion": "apps/v1",
                "kind": KINDS[kind],
                "metadata": {"name": NAME, "namespace": NAMESPACE, "annotations": {**self.marks}},
                "spec": {
                    ("strategy" if kind is Kind.DEPLOYMENT else "updateStrategy"): strategy,
                    **({} if kind is Kind.DAEMON_SET else {"replicas": 3}),
                    "selector": {"matchLabels": {"app": NAME}},
                    "template": {
                        "metadata": {"labels": {"app": NAME}, "annotations": {**self.marks}},
                        "spec": {"containers": [CONTAINER]},
                    },
                },
            }
        )
        self.serve("first")
        cluster.settle()
        self.first_generation = self.generation

    def api(self) -> Kubernetes:
        """Make a client, as another worker would have it."""
        address = f"http://127.0.0.1:{self.proxy.port}"
        token = Sensitive(self.cluster.token())
        return Kubernetes(
            "eks:prod",
            lambda: Access(address, None, lambda is_refused: token),  # noqa: ARG005  # never is
            Surroundings(lambda: 60.0),
        )

    def consumer(self, *, secret: str = SECRET, name: str = NAME) -> Restarted:
        return Restarted(self.api(), self.kind, shape(name), secret)

    def serve(self, password: str) -> None:
        """Let pods that are started from now on read this one."""
        self.put(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "db", "namespace": NAMESPACE},
                "stringData": {"password": f"Canary7-{password}"},
            }
        )

    def put(self, made: Mapping[str, Any]) -> None:
        self.cluster.put(made)

    def found(self) -> Json:
        found = self.cluster.get(PLURALS[self.kind], NAMESPACE, NAME)
        assert found is not None
        return found

    @property
    def generation(self) -> int:
        return int(self.found()["metadata"]["generation"])

    def restarts(self) -> int:
        """Count the changes of what is wanted: each is a rollout here."""
        return self.generation - self.first_generation

    def marked(self) -> tuple[str | None, str | None]:
        """Return what it was told, on the object and on the template."""
        found = self.found()
        template = found["spec"]["template"]["metadata"]
        mark = mark_of(SECRET)
        return found["metadata"]["annotations"].get(mark), template["annotations"].get(mark)

    def report(self, new: int = 3, **fields: object) -> None:
        """Let the controller report so many new pods of three, all of them ready."""
        status = {
            "observedGeneration": self.generation,
            "replicas": 3,
            "updatedReplicas": new,
            "readyReplicas": 3,
            "availableReplicas": new,
            "currentRevision": "new" if new == 3 else "old",
            "updateRevision": "new",
            "desiredNumberScheduled": 3,
            "currentNumberScheduled": 3,
            "updatedNumberScheduled": new,
            "numberAvailable": 3,
            **fields,
        }
        self.put({**self.found(), "status": status})

    def change(self, **spec: Any) -> None:
        """Let somebody change what is wanted."""
        found = self.found()
        self.put({**found, "spec": {**found["spec"], **spec}})

    def put_back(self) -> None:
        """Let a deployment put its own template back, and its controller see to it."""
        template = self.found()["spec"]["template"]
        metadata = {**template["metadata"], "annotations": {mark_of(SECRET): V0}}
        self.change(template={**template, "metadata": metadata})
        self.cluster.settle()

    def patches(self) -> int:
        return sum(request.verb == "patch" for request in self.cluster.requests)

    def workload(self) -> Workload:
        return Workload(
            self.consumer(),
            lambda version: self.serve(version.rotation_id),
            self.cluster.settle,
            self.put_back,
            self.report,
            self.restarts,
            self.proxy.outage,
        )


@pytest.fixture
def new_site() -> Iterator[Callable[[Kind], Site]]:
    with ExitStack() as stack:
        cluster = stack.enter_context(FakeKubernetes([NAMESPACE], nodes=3))
        yield lambda kind: Site(kind, cluster, stack)


class TestDeployment(ConsumerContract):
    @pytest.fixture
    def workload(self, new_site: Callable[[Kind], Site]) -> Workload:
        return new_site(Kind.DEPLOYMENT).workload()


class TestStatefulSet(ConsumerContract):
    @pytest.fixture
    def workload(self, new_site: Callable[[Kind], Site]) -> Workload:
        return new_site(Kind.STATEFUL_SET).workload()


class TestDaemonSet(ConsumerContract):
    @pytest.fixture
    def workload(self, new_site: Callable[[Kind], Site]) -> Workload:
        return new_site(Kind.DAEMON_SET).workload()


@pytest.fixture(params=Kind)
def site(request: pytest.FixtureRequest, new_site: Callable[[Kind], Site]) -> Site:
    """Each of the three."""
    kind: Kind = request.param
    return new_site(kind)


def tell(consumer: Restarted, current: RotationId) -> None:
    consumer.trigger(current, consumer.verify(version(current)))


# ---------------------------------------------------------------------------- what is written


def test_one_patch_marks_the_object_and_its_template(site: Site) -> None:
    """And nothing else: no time, and not the marks of others."""
    consumer = site.consumer()
    before = site.found()

    tell(consumer, V1)

    after = site.found()
    assert site.marked() == (V1, V1)
    assert site.patches() == 1
    for each in (before, after):
        each["metadata"] = {"annotations": set(each["metadata"]["annotations"])}
        annotations = each["spec"]["template"]["metadata"]["annotations"]
        each["spec"]["template"]["metadata"]["annotations"] = set(annotations)
    assert after == before


def test_who_was_told_is_not_written_to_again(site: Site) -> None:
    """Neither while it is under way, nor later, nor when it was put back."""
    consumer = site.consumer()
    tell(consumer, V1)
    for new in (1, 3):
        site.report(new)
        tell(consumer, V1)
    site.put_back()

    tell(consumer, V1)

    assert site.patches() == 1
    assert site.marked() == (V1, V0)


def test_two_secrets_do_not_undo_each_others_marks(site: Site) -> None:
    """Each has an annotation of its own; what restarts for one is still the other's."""
    first, second = site.consumer(), site.consumer(secret=OTHER)
    tell(first, V1)
    site.report()

    tell(second, V2)

    assert first.verify(version(V1)).pickup is Pickup.WAITING
    assert second.verify(version(V2)).pickup is Pickup.WAITING
    site.report()
    assert first.verify(version(V1)).pickup is Pickup.FOLLOWED
    assert second.verify(version(V2)).pickup is Pickup.FOLLOWED
    assert second.verify(version(V1)).pickup is Pickup.UNTOLD
    assert site.restarts() == 2


# ---------------------------------------------------------------------------- what is seen


def test_it_is_waited_for_until_the_last_old_pod_is_gone(site: Site) -> None:
    consumer = site.consumer()
    tell(consumer, V1)
    unseen = consumer.verify(version(V1))
    site.report(1)
    some = consumer.verify(version(V1))
    site.report(3)

    assert (unseen.pickup, some.pickup) == (Pickup.WAITING, Pickup.WAITING)
    assert "observedGeneration" in unseen.waits_for
    assert some.waits_for.startswith("2 of 3 pods are old")
    assert consumer.verify(version(V1)) == Sight(Pickup.FOLLOWED, mark_now(site))


def test_at_every_step_who_has_followed_runs_with_the_new_value(site: Site) -> None:
    """The pods say so, not the status."""
    consumer = site.consumer()
    site.serve("second")
    tell(consumer, V1)
    news = []
    for _ in range(30):
        runs = site.cluster.runs_with(NAMESPACE, NAME)
        has = [run.variables["db"]["password"] == "Canary7-second" for run in runs]
        sight = consumer.verify(version(V1))
        assert sight.pickup in {Pickup.WAITING, Pickup.FOLLOWED}
        assert sight.pickup is Pickup.WAITING or (all(has) and len(has) == 3)
        news.append(sum(has))
        site.cluster.step()

    assert consumer.verify(version(V1)).pickup is Pickup.FOLLOWED
    assert len(set(news)) > 2
    assert site.restarts() == 1


def mark_now(site: Site) -> str:
    return f"{site.found()['metadata']['resourceVersion']} {site.generation} v1"


def test_what_was_put_back_says_what_it_says_now(site: Site) -> None:
    consumer = site.consumer()
    tell(consumer, V1)
    site.report()
    site.put_back()

    sight = consumer.verify(version(V1))

    assert sight.pickup is Pickup.FAILED
    assert sight.waits_for == "its template was put back and says version v0"


def test_a_template_without_annotations_was_put_back_too(site: Site) -> None:
    consumer = site.consumer()
    tell(consumer, V1)
    template = site.found()["spec"]["template"]
    site.change(template={**template, "metadata": {"labels": {"app": NAME}}})
    site.report()

    sight = consumer.verify(version(V1))

    assert sight.pickup is Pickup.FAILED
    assert sight.waits_for == "its template was put back and says no version"


def test_what_is_replaced_as_a_whole_is_told_again(site: Site) -> None:
    """Nothing shows that it was told; it is restarted once more."""
    consumer = site.consumer()
    tell(consumer, V1)
    found = site.found()
    found["metadata"]["annotations"] = {}
    found["spec"]["template"]["metadata"]["annotations"] = {}
    site.put(found)

    sight = consumer.verify(version(V1))
    consumer.trigger(V1, sight)

    assert sight.pickup is Pickup.UNTOLD
    assert site.marked() == (V1, V1)


def test_an_annotation_that_somebody_took_off_costs_no_restart(site: Site) -> None:
    """The template still has it: no pod is replaced for that."""
    consumer = site.consumer()
    tell(consumer, V1)
    site.report()
    found = site.found()
    found["metadata"]["annotations"] = {}
    site.put(found)

    tell(consumer, V1)

    assert consumer.verify(version(V1)).pickup is Pickup.FOLLOWED
    assert site.restarts() == 1


def test_with_no_replicas_nothing_runs_with_the_old_value(new_site: Callable[[Kind], Site]) -> None:
    """What is started later is of the template that carries the version."""
    site = new_site(Kind.DEPLOYMENT)
    consumer = site.consumer()
    site.change(replicas=0)
    none = {"replicas": 0, "availableReplicas": 0}
    site.report(0, **none)
    consumer.preflight()

    untold = consumer.verify(version(V1))
    consumer.trigger(V1, untold)
    unseen = consumer.verify(version(V1))
    site.report(0, **none)

    assert untold.pickup is Pickup.UNTOLD
    assert unseen.pickup is Pickup.WAITING
    assert consumer.verify(version(V1)).pickup is Pickup.FOLLOWED


def test_who_is_paused_after_he_was_told_does_not_follow_by_himself(
    new_site: Callable[[Kind], Site],
) -> None:
    site = new_site(Kind.DEPLOYMENT)
    consumer = site.consumer()
    tell(consumer, V1)
    site.change(paused=True)
    site.report(1)

    sight = consumer.verify(version(V1))

    assert sight.pickup is Pickup.FAILED
    assert sight.waits_for == "it is paused; 2 of 3 pods are old (updatedReplicas)"


def test_a_rollout_past_its_deadline_has_failed(new_site: Callable[[Kind], Site]) -> None:
    site = new_site(Kind.DEPLOYMENT)
    consumer = site.consumer()
    tell(consumer, V1)
    late = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
    site.report(1, conditions=[late])

    sight = consumer.verify(version(V1))

    assert sight.pickup is Pickup.FAILED
    assert "ProgressDeadlineExceeded" in sight.waits_for


# ---------------------------------------------------------------------------- what is refused


def refusal(act: Callable[[], object]) -> KeyturnError:
    with pytest.raises(KeyturnError) as caught:
        act()
    return caught.value


def test_what_is_not_there_is_named(site: Site) -> None:
    absent = site.consumer(name="apo")

    for ask in (absent.preflight, lambda: absent.verify(version(V1))):
        error = refusal(ask)
        assert isinstance(error, Misconfigured)
        assert str(error) == f"{site.kind} orders/apo is not there"


def test_what_is_gone_when_it_is_told_is_named(site: Site) -> None:
    consumer = site.consumer()
    seen = consumer.verify(version(V1))
    site.cluster.delete(PLURALS[site.kind], NAMESPACE, NAME)

    error = refusal(lambda: consumer.trigger(V1, seen))

    assert isinstance(error, Misconfigured)


OFF = {"updateStrategy": {"type": "OnDelete"}}
PARTED = {"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 1}}}


@pytest.mark.parametrize(
    "kind, spec, fact, remedy",
    [
        (Kind.DEPLOYMENT, {"paused": True}, "is paused", "Resume it"),
        (Kind.STATEFUL_SET, OFF, "replaces no pod by itself", "Set its `updateStrategy.type`"),
        (Kind.STATEFUL_SET, PARTED, "has a partition", "partition` to 0"),
        (Kind.DAEMON_SET, OFF, "replaces no pod by itself", "Set its `updateStrategy.type`"),
    ],
)
def test_what_could_never_follow_is_refused_before_it_is_told(
    new_site: Callable[[Kind], Site], kind: Kind, spec: Json, fact: str, remedy: str
) -> None:
    site = new_site(kind)
    site.change(**spec)

    error = refusal(site.consumer().preflight)

    assert isinstance(error, Misconfigured)
    assert fact in str(error)
    assert remedy in error.remedy
    assert site.patches() == 0
    assert fact in site.consumer().verify(version(V1)).waits_for


# ---------------------------------------------------------------------------- at most one restart


def test_two_workers_restart_it_once(site: Site) -> None:
    """Both have seen that it was not told."""
    one, two = site.consumer(), site.consumer()
    seen = [each.verify(version(V1)) for each in (one, two)]

    one.trigger(V1, seen[0])
    two.trigger(V1, seen[1])

    assert site.restarts() == 1
    assert site.marked() == (V1, V1)


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_a_lost_reply_restarts_it_once(site: Site, lost: int) -> None:
    """Whether the client finds its own patch, or the next look does."""
    consumer = site.consumer()
    seen = consumer.verify(version(V1))
    site.cluster.lose_reply(lost, only=_is_patch)

    try:
        consumer.trigger(V1, seen)
    except Unreachable:
        tell(consumer, V1)

    assert site.restarts() == 1
    assert site.marked() == (V1, V1)


def test_a_late_duplicate_restarts_nothing(site: Site) -> None:
    """A patch that was held somewhere arrives after a newer version was told."""
    consumer = site.consumer()
    seen = consumer.verify(version(V1))
    held = iter([Verdict.HOLD])
    site.proxy.reset(
        lambda _, moment: next(held, Verdict.PASS) if moment is Moment.BEFORE else Verdict.PASS
    )
    try:
        consumer.trigger(V1, seen)
    except Unreachable:
        tell(consumer, V1)
    tell(consumer, V2)

    site.proxy.release()

    assert site.marked() == (V2, V2)
    assert site.restarts() == 2


def _is_patch(request: Request) -> bool:
    return request.verb == "patch"


def test_a_newer_version_in_the_middle_stays(site: Site) -> None:
    """A worker stalls between its look and its patch; or its own reply is lost, besides."""
    slow, quick = site.consumer(), site.consumer()
    seen = slow.verify(version(V1))
    tell(quick, V2)

    error = refusal(lambda: slow.trigger(V1, seen))

    assert isinstance(error, Busy)
    assert site.marked() == (V2, V2)
    assert site.restarts() == 1


def test_a_newer_version_that_was_put_back_meanwhile_counts_too(site: Site) -> None:
    """What is there looks as it did, and is not the same."""
    slow, quick = site.consumer(), site.consumer()
    seen = slow.verify(version(V1))
    tell(quick, V2)
    found = site.found()
    found["metadata"]["annotations"] = {mark_of(SECRET): V0}
    site.put(found)
    site.put_back()

    error = refusal(lambda: slow.trigger(V1, seen))

    assert isinstance(error, Busy)
    assert site.marked() == (V0, V0)


def test_pods_that_report_meanwhile_do_not_keep_it_from_being_told(site: Site) -> None:
    """Each report changes the `resourceVersion`; another secret's rollout makes many."""
    consumer = site.consumer()
    seen = consumer.verify(version(V1))
    site.report(2)

    consumer.trigger(V1, seen)

    assert site.marked() == (V1, V1)
    assert site.patches() == 2
    assert site.restarts() == 1


def test_who_never_gets_a_word_in_is_looked_at_again(site: Site) -> None:
    consumer = site.consumer()
    seen = consumer.verify(version(V1))
    site.cluster.fail(409, times=100, only=_is_patch)

    error = refusal(lambda: consumer.trigger(V1, seen))

    assert isinstance(error, Busy)
    assert site.patches() <= 8
    assert site.marked() == (V0, V0)


# ---------------------------------------------------------------------------- the plan


def given(clusters: list[ClusterShape | None], api: Kubernetes) -> Given:
    def cluster(named: ClusterShape | None) -> Kubernetes:
        clusters.append(named)
        return api

    def never(*_: object) -> Any:
        raise AssertionError

    return Given(SECRET, never, cluster, never, never, never, Surroundings(lambda: 60.0))


@pytest.mark.parametrize("kind", SHAPES)
def test_it_is_made_from_the_plan(new_site: Callable[[Kind], Site], kind: str) -> None:
    """No I/O; the cluster is the plan's, or its own."""
    site = new_site(Kind(kind))
    asked: list[ClusterShape | None] = []
    own = ClusterShape(eks="test")

    settings = convert({"namespace": NAMESPACE, "name": NAME}, SHAPES[kind])
    made = make(kind, settings, given(asked, site.api()))
    elsewhere = make(kind, shape(cluster=own), given(asked, site.api()))

    assert asked == [None, own]
    assert made.name() == f"{kind} orders/api"
    assert elsewhere.name() == f"{kind} orders/api in eks:prod"
    assert site.cluster.requests == []
    tell(made, V1)
    assert site.marked() == (V1, V1)


def test_the_same_name_elsewhere_is_another_place() -> None:
    places = {
        shape().place(),
        shape(cluster=ClusterShape(eks="prod")).place(),
        shape(cluster=ClusterShape(eks="prod", region="eu-west-1")).place(),
        shape(cluster=ClusterShape(eks="test")).place(),
        shape("apo").place(),
        WorkloadShape(namespace="other", name=NAME).place(),
    }

    assert len(places) == 6


def test_every_key_has_a_remedy_and_every_right_is_declared() -> None:
    assert {*keys(WorkloadShape)} - {"verify"} <= {*FIXES}
    assert {*PERMISSIONS} == {
        f"{verb} {plural}.apps" for verb in ("get", "patch") for plural in PLURALS.values()
    }


def test_the_declared_rights_are_enough(site: Site) -> None:
    """By name, and for one kind: what the docs tell people to grant."""
    site.cluster.allow(
        "keyturn",
        NAMESPACE,
        [
            {
                "apiGroups": ["apps"],
                "resources": [PLURALS[site.kind]],
                "resourceNames": [NAME],
                "verbs": ["get", "patch"],
            }
        ],
    )
    token = Sensitive(site.cluster.token("keyturn"))
    access = Access(site.cluster.server, None, lambda is_refused: token)  # noqa: ARG005  # never
    api = Kubernetes("eks:prod", lambda: access, Surroundings(lambda: 60.0))
    consumer = Restarted(api, site.kind, shape(), SECRET)

    consumer.preflight()
    tell(consumer, V1)

    assert site.marked() == (V1, V1)
