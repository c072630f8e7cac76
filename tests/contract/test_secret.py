"""A Secret that somebody else keeps, in the fake cluster, over the wire."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import pytest

from kept_secrets import (
    CANARY,
    NAME,
    Cluster,
    Json,
    client,
    document_of,
    encoded,
    given,
    granted,
    is_patch,
    mark,
    patches,
    rendered,
    rules_of,
    secret,
    times_told,
    version,
)
from keyturn.consumers.secret import PERMISSIONS, SHAPES, make
from keyturn.errors import Busy, Denied, Misconfigured, Unreachable
from keyturn.kubernetes.marks import mark_of
from keyturn.model import Version
from keyturn.ports import Consumer, Pickup
from keyturn.rendering import Form, Rendering
from keyturn.testing.contracts import ConsumerContract, Workload

V0, V1, V2 = version("v0"), version("v1"), version("v2")
Settings = Mapping[str, object]
NONE: Settings = {}
RIGHTS = rules_of("A Secret that somebody else keeps")


class Kept:
    """A Secret, and who keeps it: somebody who writes values and leaves annotations alone."""

    def __init__(self, cluster: Cluster, settings: Settings = NONE) -> None:
        self.cluster = cluster
        self.source = ConsumerContract.FIRST
        cluster.put(secret(self.source))
        self.since = cluster.objects.version
        self.consumer = consumer(cluster, settings)

    def serve(self, version_: Version) -> None:
        self.source = version_

    def sync(self) -> None:
        self.write(**secret(self.source))

    def write(self, **parts: Any) -> None:
        self.cluster.put({**self.found(), "data": parts["data"]})

    def annotate(self, **annotations: str) -> None:
        found = self.found()
        found["metadata"]["annotations"] = annotations
        self.cluster.put(found)

    def found(self) -> Json:
        found = self.cluster.get("secrets", "orders", "db")
        assert found is not None
        return found

    def told(self) -> int:
        return times_told(self.cluster, "secrets", self.since)


def consumer(
    cluster: Cluster, settings: Settings = NONE, rules: Sequence[Json] = RIGHTS
) -> Consumer:
    shape = msgspec.convert({"namespace": "orders", "name": "db", **settings}, SHAPES["secret"])
    return make("secret", shape, given(client(cluster, rules)))


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as running:
        yield running


@pytest.fixture
def kept(cluster: Cluster) -> Kept:
    made = Kept(cluster)
    made.cluster.put(secret(V0))
    return made


class TestSecret(ConsumerContract):
    """Every member is a key."""

    @pytest.fixture
    def workload(self, cluster: Cluster) -> Workload:
        kept = Kept(cluster)
        return Workload(
            kept.consumer,
            kept.serve,
            kept.sync,
            lambda: kept.write(**secret(self.FIRST)),
            lambda: kept.annotate(**{mark_of(NAME): "v1", "force-sync": "v1"}),
            kept.told,
            cluster.outage,
        )


class TestSecretOfOtherForms(ConsumerContract):
    """The plan says what it holds."""

    @pytest.fixture
    def workload(self, cluster: Cluster) -> Workload:
        kept = Kept(cluster, {"content": {"DSN": {"form": "url"}, "ALL": {"form": "json"}}})

        def holding(version_: Version) -> Json:
            dsn = rendered(version_, Rendering(Form.URL))
            return {"data": {"DSN": encoded(dsn), "ALL": encoded(document_of(version_))}}

        kept.write(**holding(self.FIRST))
        return Workload(
            kept.consumer,
            kept.serve,
            lambda: kept.write(**holding(kept.source)),
            lambda: kept.write(**holding(self.FIRST)),
            lambda: kept.annotate(**{mark_of(NAME): "v1"}),
            kept.told,
            cluster.outage,
        )


def test_it_needs_what_it_declares(kept: Kept) -> None:
    assert list(PERMISSIONS) == granted(RIGHTS)
    kept.consumer.preflight()


def test_a_lack_names_keys_and_no_value(kept: Kept) -> None:
    sight = kept.consumer.verify(V1)

    assert sight.pickup is Pickup.UNTOLD
    assert sight.waits_for == "the Secret orders/db holds something else in password"
    assert CANARY not in repr(sight)


def test_what_was_synced_before_anybody_told_it_has_followed(kept: Kept) -> None:
    """Values prove, marks do not; and who keeps it may take the mark off."""
    kept.write(**secret(V1))

    assert kept.consumer.verify(V1).pickup is Pickup.FOLLOWED


def test_to_tell_it_leaves_its_values_and_marks_alone(kept: Kept) -> None:
    """Another secret's mark, and whoever keeps it."""
    kept.annotate(**{mark_of("prod/other"): "v7", "owner": "git"})
    before = kept.found()

    kept.consumer.trigger(V1.rotation_id, kept.consumer.verify(V1))

    assert kept.found()["data"] == before["data"]
    assert kept.found()["metadata"]["annotations"] == {
        **before["metadata"]["annotations"],
        mark_of(NAME): "v1",
    }


def test_who_changed_it_meanwhile_goes_first(kept: Kept) -> None:
    seen = kept.consumer.verify(V1)
    kept.annotate(owner="git")

    with pytest.raises(Busy):
        kept.consumer.trigger(V1.rotation_id, seen)

    assert mark(kept.found()) is None


def test_a_lost_reply_is_no_rival(kept: Kept) -> None:
    """The client asks again, and finds its own first patch in the way."""
    seen = kept.consumer.verify(V1)
    kept.cluster.lose_reply(only=is_patch)

    kept.consumer.trigger(V1.rotation_id, seen)

    assert kept.consumer.verify(V1).pickup is Pickup.WAITING
    assert kept.told() == 1


def test_a_secret_that_is_gone_is_named(kept: Kept) -> None:
    seen = kept.consumer.verify(V1)
    kept.cluster.delete("secrets", "orders", "db")

    for ask in (
        kept.consumer.preflight,
        lambda: kept.consumer.verify(V1),
        lambda: kept.consumer.trigger(V1.rotation_id, seen),
    ):
        with pytest.raises(Misconfigured, match="secret orders/db: there is no such Secret"):
            ask()


def test_a_missing_right_is_denied(cluster: Cluster, kept: Kept) -> None:
    seen = kept.consumer.verify(V1)
    blind = consumer(cluster, rules=[])
    for ask in (blind.preflight, lambda: blind.verify(V1)):
        with pytest.raises(Denied):
            ask()

    mute = consumer(cluster, rules=[{**RIGHTS[0], "verbs": ["get"]}])
    with pytest.raises(Denied):
        mute.trigger(V1.rotation_id, seen)


def test_no_answer_to_a_patch_is_no_answer(kept: Kept) -> None:
    seen = kept.consumer.verify(V1)

    with kept.cluster.outage(), pytest.raises(Unreachable):
        kept.consumer.trigger(V1.rotation_id, seen)


def test_a_look_writes_nothing(kept: Kept) -> None:
    kept.consumer.verify(V1)
    kept.consumer.preflight()

    assert patches(kept.cluster) == 0


def test_one_that_is_not_looked_at_is_marked_and_that_is_all(kept: Kept) -> None:
    marked = consumer(kept.cluster, {"verify": "none"})

    seen = marked.verify(V1)
    marked.trigger(V1.rotation_id, seen)

    assert seen.pickup is Pickup.UNTOLD
    assert marked.verify(V1).pickup is Pickup.FOLLOWED
    assert kept.consumer.verify(V1).pickup is Pickup.WAITING


def test_one_in_another_cluster_says_so(cluster: Cluster) -> None:
    """Two of one name are told apart in alerts, and by `only`."""
    assert consumer(cluster, {"cluster": {"eks": "prod"}}).name() == "secret orders/db in fake"
    assert consumer(cluster).name() == "secret orders/db"


def test_its_place_is_cluster_namespace_and_name() -> None:
    def place(**settings: object) -> tuple[str, ...]:
        read = msgspec.convert({"namespace": "a", "name": "b", **settings}, SHAPES["secret"])
        return read.place()

    assert place() == place(content={"A": {"form": "url"}})
    assert len({place(), place(name="c"), place(namespace="c"), place(cluster={"eks": "c"})}) == 4
