"""An ExternalSecret, and External Secrets as the fake cluster plays it, over the wire."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st

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
from keyturn.consumers.external_secret import FORCE_SYNC, PERMISSIONS, SHAPES, make
from keyturn.errors import Busy, Denied, KeyturnError, Misconfigured, Unreachable, Unsupported
from keyturn.kubernetes.marks import mark_of
from keyturn.local.kubernetes_operators import metadata_version
from keyturn.model import Version
from keyturn.ports import Consumer, Pickup
from keyturn.rendering import Form, Rendering
from keyturn.testing.contracts import ConsumerContract, Workload

V0, V1, V2 = version("v0"), version("v1"), version("v2")
ESO, ARN = "external-secrets.io", "arn:aws:secretsmanager:eu-west-1:111122223333:secret:"
RULES = rules_of("ExternalSecret")
Settings = Mapping[str, object]
NONE: Settings = {}
DATA = [
    {"secretKey": "PASSWORD", "remoteRef": {"key": NAME, "property": "password"}},
    {"secretKey": "HOST", "remoteRef": {"key": NAME, "property": "host"}},
    {"secretKey": "OTHER", "remoteRef": {"key": "prod/other"}},
]
SPEC: Json = {"secretStoreRef": {"name": "aws"}, "refreshInterval": "1h0m0s", "data": DATA}


class Synced:
    """An ExternalSecret that was synced with a first version, and the store that it reads."""

    def __init__(
        self,
        cluster: Cluster,
        spec: Json = SPEC,
        settings: Settings = NONE,
        first: Version = V0,
        api: str = "v1",
    ) -> None:
        self.cluster = cluster
        self.source = first
        self.name = (spec.get("target") or {}).get("name", "db")
        cluster.provider = self.read
        cluster.put(
            {
                "apiVersion": f"{ESO}/{api}",
                "kind": "ExternalSecret",
                "metadata": {"name": "db", "namespace": "orders"},
                "spec": spec,
            }
        )
        cluster.settle()
        self.held_first = self.secret()["data"]
        self.since = cluster.objects.version
        self.consumer = consumer(cluster, settings)

    def read(self, key: str) -> str:
        """Be the store."""
        return {
            NAME: document_of(self.source).reveal(),
            f"{ARN}{NAME}-AbC12d": document_of(self.source).reveal(),
            "prod/other": "nothing of ours",
        }[key]

    def serve(self, version_: Version) -> None:
        self.source = version_

    def tell(self, version_: Version) -> None:
        self.serve(version_)
        self.consumer.trigger(version_.rotation_id, self.consumer.verify(version_))

    def put_back(self) -> None:
        """Let somebody write the first version into the Secret."""
        self.cluster.put({**self.secret(), "data": self.held_first})

    def annotate(self, **annotations: str) -> None:
        found = self.found()
        known = found["metadata"].get("annotations") or {}
        found["metadata"]["annotations"] = {**known, **annotations}
        self.cluster.put(found)

    def claim(self) -> None:
        """Say what it would say if it had synced just now; its Secret says so, too."""
        found = self.found()
        ready = {"type": "Ready", "status": "True", "reason": "SecretSynced"}
        status = {
            **found["status"],
            "conditions": [ready],
            "refreshTime": "2099-01-01T00:00:00Z",
            "syncedResourceVersion": metadata_version(found),
        }
        self.cluster.put({**found, "status": status})
        held = self.secret()
        held["metadata"]["annotations"] = {FORCE_SYNC: self.source.rotation_id}
        self.cluster.put(held)

    def respec(self, **changed: object) -> None:
        found = self.found()
        self.cluster.put({**found, "spec": {**found["spec"], **changed}})

    def found(self) -> Json:
        found = self.cluster.get("externalsecrets", "orders", "db")
        assert found is not None
        return found

    def secret(self) -> Json:
        found = self.cluster.get("secrets", "orders", self.name)
        assert found is not None
        return {"data": {}, **found, "apiVersion": "v1", "kind": "Secret"}

    def told(self) -> int:
        return times_told(self.cluster, "externalsecrets", self.since)


def consumer(
    cluster: Cluster, settings: Settings = NONE, rules: Sequence[Json] = RULES
) -> Consumer:
    written = {"namespace": "orders", "name": "db", **settings}
    shape = msgspec.convert(written, SHAPES["external-secret"])
    return make("external-secret", shape, given(client(cluster, rules)))


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as running:
        yield running


@pytest.fixture
def synced(cluster: Cluster) -> Synced:
    return Synced(cluster)


def workload_of(synced: Synced) -> Workload:
    return Workload(
        synced.consumer,
        synced.serve,
        synced.cluster.settle,
        synced.put_back,
        synced.claim,
        synced.told,
        synced.cluster.outage,
    )


class TestExternalSecret(ConsumerContract):
    """Its spec says which key holds which member."""

    @pytest.fixture
    def workload(self, cluster: Cluster) -> Workload:
        return workload_of(Synced(cluster, first=self.FIRST))


class TestExternalSecretThatExtracts(ConsumerContract):
    """Every member is a key, and one of them comes from elsewhere."""

    @pytest.fixture
    def workload(self, cluster: Cluster) -> Workload:
        other = {"secretKey": "host", "remoteRef": {"key": "prod/other"}}
        spec = {"dataFrom": [{"extract": {"key": NAME}}], "data": [other]}
        return workload_of(Synced(cluster, spec, first=self.FIRST))


class TestExternalSecretOfABetaVersion(ConsumerContract):
    """An older installation, that serves v1beta1 only."""

    @pytest.fixture
    def workload(self, cluster: Cluster) -> Workload:
        cluster.serve(ESO, "v1beta1")
        return workload_of(Synced(cluster, first=self.FIRST, api="v1beta1"))


TEMPLATE = {"template": {"data": {"DSN": "postgresql://app:{{ .PASSWORD }}@db.example.com:5432"}}}


class TestExternalSecretWithATemplate(ConsumerContract):
    """The plan says what it makes of the value."""

    @pytest.fixture
    def workload(self, cluster: Cluster) -> Workload:
        spec = {**SPEC, "target": TEMPLATE}
        settings = {"content": {"DSN": {"form": "url"}}}
        synced = Synced(cluster, spec, settings, first=self.FIRST)
        assert synced.secret()["data"] == {
            "DSN": encoded(rendered(self.FIRST, Rendering(Form.URL))),
        }
        return workload_of(synced)


# ---------------------------------------------------------------------------- looks


def test_it_needs_what_it_declares(synced: Synced) -> None:
    assert list(PERMISSIONS) == granted(RULES)
    synced.tell(V1)


def test_the_whole_way(synced: Synced) -> None:
    """Both annotations, the copy, and nobody told again."""
    synced.tell(V1)
    assert synced.found()["metadata"]["annotations"] == {FORCE_SYNC: "v1", mark_of(NAME): "v1"}

    waits = synced.consumer.verify(V1)
    synced.cluster.settle()
    follows = synced.consumer.verify(V1)

    assert (waits.pickup, follows.pickup) == (Pickup.WAITING, Pickup.FOLLOWED)
    assert waits.waits_for == (
        "the Secret orders/db holds something else in PASSWORD; its status says SecretSynced"
    )
    assert follows.waits_for == ""
    assert CANARY not in repr(waits)


def test_what_it_had_synced_by_itself_has_followed(synced: Synced) -> None:
    """Its interval was over before anybody told it: the values prove it."""
    synced.serve(V1)
    synced.cluster.advance(3601)
    synced.cluster.settle()

    assert synced.consumer.verify(V1).pickup is Pickup.FOLLOWED
    assert patches(synced.cluster) == 0


def test_a_status_that_lies_is_not_believed(synced: Synced) -> None:
    """Of a worker that died after its patch: the mark is there, `Ready` is, the value is old."""
    synced.tell(V1)
    synced.claim()

    again = consumer(synced.cluster)
    sight = again.verify(V1)

    assert sight.pickup is Pickup.WAITING
    again.trigger(V1.rotation_id, sight)
    assert again.verify(V1).pickup is Pickup.WAITING
    assert synced.told() == 1


def test_a_new_user_with_an_old_password_has_not_followed(synced: Synced) -> None:
    """One key that is right does not stand for the rest."""
    synced.tell(V1)
    synced.cluster.settle()
    held = synced.secret()
    held["data"]["PASSWORD"] = encoded(V0.credential.secret)
    synced.cluster.put(held)

    sight = synced.consumer.verify(V1)

    assert (sight.pickup, "PASSWORD" in sight.waits_for) == (Pickup.WAITING, True)


def test_its_own_failure_is_waited_for_with_its_reason(synced: Synced) -> None:
    """It tries again by itself, for ever. Its message may quote a value, and is not shown."""

    def denied(key: str) -> str:
        raise LookupError(key)

    synced.tell(V1)
    synced.cluster.provider = denied
    synced.cluster.settle()
    found = synced.found()
    found["status"]["conditions"][0]["message"] = f"quotes {CANARY}v1"
    synced.cluster.put(found)

    sight = synced.consumer.verify(V1)

    assert sight.pickup is Pickup.WAITING
    assert sight.waits_for.endswith("; its status says SecretSyncedError")

    synced.cluster.provider = synced.read
    synced.cluster.settle()
    assert synced.consumer.verify(V1).pickup is Pickup.FOLLOWED


def test_a_reason_that_is_no_word_is_not_shown(synced: Synced) -> None:
    synced.tell(V1)
    found = synced.found()
    found["status"]["conditions"][0]["reason"] = "no word\nof ours"
    synced.cluster.put(found)

    assert "status" not in synced.consumer.verify(V1).waits_for


def test_its_secret_may_have_another_name(cluster: Cluster) -> None:
    rules = [RULES[0], {**RULES[1], "resourceNames": ["login"]}]
    synced = Synced(cluster, {**SPEC, "target": {"name": "login"}})
    seeing = consumer(cluster, rules=rules)

    seeing.preflight()

    assert seeing.verify(V0).pickup is Pickup.FOLLOWED
    assert seeing.verify(V1).waits_for.startswith("the Secret orders/login holds something else")
    assert synced.told() == 0


def test_a_secret_that_is_gone_is_waited_for(synced: Synced) -> None:
    synced.tell(V1)
    synced.cluster.delete("secrets", "orders", "db")

    sight = synced.consumer.verify(V1)

    assert sight.pickup is Pickup.WAITING
    assert sight.waits_for.startswith("the Secret orders/db is not there")


def test_an_object_that_is_gone_is_named(synced: Synced) -> None:
    seen = synced.consumer.verify(V1)
    synced.cluster.delete("externalsecrets", "orders", "db")

    for ask in (
        synced.consumer.preflight,
        lambda: synced.consumer.verify(V1),
        lambda: synced.consumer.trigger(V1.rotation_id, seen),
    ):
        with pytest.raises(Misconfigured, match="external-secret orders/db: there is no such"):
            ask()


# ---------------------------------------------------------------------------- told


def test_who_changed_it_meanwhile_goes_first(synced: Synced) -> None:
    """Nothing is told on what was seen before."""
    seen = synced.consumer.verify(V1)
    synced.annotate(owner="git")

    with pytest.raises(Busy):
        synced.consumer.trigger(V1.rotation_id, seen)

    assert mark(synced.found()) is None


def test_another_secrets_mark_is_left_alone(synced: Synced) -> None:
    """Two secrets feed one ExternalSecret: each tells it once, and neither of the other's."""
    synced.annotate(**{mark_of("prod/other"): "v7", FORCE_SYNC: "v7"})
    synced.cluster.settle()

    synced.tell(V1)

    assert synced.found()["metadata"]["annotations"] == {
        mark_of("prod/other"): "v7",
        mark_of(NAME): "v1",
        FORCE_SYNC: "v1",
    }


def test_a_lost_reply_is_no_rival(synced: Synced) -> None:
    """The client asks again, and finds its own first patch in the way."""
    synced.serve(V1)
    seen = synced.consumer.verify(V1)
    synced.cluster.lose_reply(only=is_patch)

    synced.consumer.trigger(V1.rotation_id, seen)

    assert synced.told() == 1
    synced.cluster.settle()
    assert synced.consumer.verify(V1).pickup is Pickup.FOLLOWED


def test_no_answer_to_a_patch_is_no_answer(synced: Synced) -> None:
    seen = synced.consumer.verify(V1)

    with synced.cluster.outage(), pytest.raises(Unreachable):
        synced.consumer.trigger(V1.rotation_id, seen)


def test_a_worker_that_only_tells_finds_the_served_version_itself(
    cluster: Cluster,
) -> None:
    """An object of ours remembers it for itself alone."""
    cluster.serve(ESO, "v1beta1")
    synced = Synced(cluster, api="v1beta1")
    synced.serve(V1)
    seen = synced.consumer.verify(V1)

    consumer(cluster).trigger(V1.rotation_id, seen)

    assert synced.told() == 1


def test_the_served_version_is_found_out_once(cluster: Cluster) -> None:
    cluster.serve(ESO, "v1beta1")
    synced = Synced(cluster, api="v1beta1")

    synced.tell(V1)
    synced.consumer.verify(V1)

    assert [each.path for each in cluster.requests if f"{ESO}/v1/" in each.path] == [
        f"/apis/{ESO}/v1/namespaces/orders/externalsecrets/db"
    ]


def test_a_cluster_without_external_secrets_is_named(cluster: Cluster) -> None:
    cluster.serve(ESO, "v1alpha1")

    with pytest.raises(Unsupported):
        consumer(cluster).preflight()


# ---------------------------------------------------------------------------- refused


def refusal(synced: Synced) -> KeyturnError:
    with pytest.raises(Misconfigured) as caught:
        synced.consumer.preflight()
    return caught.value


@pytest.mark.parametrize(
    "changed, why",
    [
        ({"refreshPolicy": "CreatedOnce"}, "its refreshPolicy is CreatedOnce"),
        ({"refreshInterval": "0s"}, "its refreshInterval is 0"),
        ({"refreshInterval": "0h0m", "refreshPolicy": "Periodic"}, "its refreshInterval is 0"),
        ({"target": {"creationPolicy": "None"}}, "its creationPolicy is None"),
    ],
)
def test_what_can_never_follow_is_refused_before_it_is_told(
    synced: Synced, changed: Json, why: str
) -> None:
    """And is a failure, not a wait, if it was told before."""
    synced.respec(**changed)
    assert why in str(refusal(synced))

    synced.tell(V1)
    synced.cluster.settle()
    sight = synced.consumer.verify(V1)

    assert sight.pickup is Pickup.FAILED
    assert why in sight.waits_for


def test_a_fixed_version_is_refused_whatever_the_plan_declares(synced: Synced) -> None:
    fixed = {"secretKey": "P", "remoteRef": {"key": NAME, "version": "v0"}}
    synced.respec(data=[fixed])
    declared = consumer(synced.cluster, {"content": {"P": {"form": "json"}}})

    for each in (synced.consumer, declared):
        with pytest.raises(Misconfigured, match="it asks for one fixed version"):
            each.preflight()


def test_with_an_interval_of_0_it_follows_on_change(synced: Synced) -> None:
    """The policy that looks at every change does not care about the interval."""
    synced.respec(refreshPolicy="OnChange", refreshInterval="0s")
    synced.consumer.preflight()

    synced.tell(V1)
    synced.cluster.settle()

    assert synced.consumer.verify(V1).pickup is Pickup.FOLLOWED


@pytest.mark.parametrize("spec", [{"target": TEMPLATE}, {"data": DATA[2:]}], ids=["template", "no"])
def test_what_cannot_be_known_is_never_followed(synced: Synced, spec: Json) -> None:
    """It might hold anything: neither told nor looked at by status, until the plan says what."""
    synced.respec(**spec)
    assert "`content`" in refusal(synced).remedy

    with pytest.raises(Misconfigured, match="external-secret orders/db"):
        synced.consumer.verify(V1)


def test_a_member_that_is_not_there_is_named(synced: Synced) -> None:
    synced.respec(data=[{"secretKey": "P", "remoteRef": {"key": NAME, "property": "a.b"}}])

    with pytest.raises(Misconfigured, match=r"version v1 has no member 'a\.b'"):
        synced.consumer.verify(V1)


@pytest.mark.parametrize(
    "rules, fails",
    [([], "preflight verify"), ([RULES[0]], "preflight verify"), (RULES[1:], "preflight verify")],
    ids=["nothing", "no Secret", "no ExternalSecret"],
)
def test_a_missing_right_is_denied(synced: Synced, rules: Sequence[Json], fails: str) -> None:
    """Nobody is told who cannot be seen to follow."""
    blind = consumer(synced.cluster, rules=rules)
    asks: dict[str, Any] = {"preflight": blind.preflight, "verify": lambda: blind.verify(V1)}

    for name in fails.split():
        with pytest.raises(Denied):
            asks[name]()


def test_a_missing_right_to_tell_is_denied(synced: Synced) -> None:
    seen = synced.consumer.verify(V1)
    mute = consumer(synced.cluster, rules=[{**RULES[0], "verbs": ["get"]}, RULES[1]])

    with pytest.raises(Denied):
        mute.trigger(V1.rotation_id, seen)


def test_it_sees_and_touches_nothing_else(synced: Synced) -> None:
    """One object and one Secret, each by its name: no list, no other."""
    synced.cluster.put(secret(V2, name="other"))
    synced.tell(V1)
    synced.consumer.preflight()

    assert {(each.verb, each.resource, each.name) for each in synced.cluster.requests} == {
        ("get", "externalsecrets", "db"),
        ("get", "secrets", "db"),
        ("patch", "externalsecrets", "db"),
    }


def test_one_that_is_not_looked_at_is_told_and_reads_no_secret(cluster: Cluster) -> None:
    """With `verify: none` no right on Secrets is needed; what it makes of the value is its own."""
    synced = Synced(cluster, {**SPEC, "target": TEMPLATE}, {"verify": "none"})
    told = consumer(cluster, {"verify": "none"}, RULES[:1])
    synced.serve(V1)

    told.preflight()
    seen = told.verify(V1)
    told.trigger(V1.rotation_id, seen)

    assert seen.pickup is Pickup.UNTOLD
    assert told.verify(V1).pickup is Pickup.FOLLOWED
    assert not [each for each in cluster.requests if each.resource == "secrets"]


def test_one_that_is_not_looked_at_is_refused_if_it_can_never_follow(synced: Synced) -> None:
    synced.respec(refreshPolicy="CreatedOnce")

    with pytest.raises(Misconfigured, match="CreatedOnce"):
        consumer(synced.cluster, {"verify": "none"}).preflight()


def test_one_in_another_cluster_says_so(cluster: Cluster) -> None:
    assert consumer(cluster, {"cluster": {"eks": "prod"}}).name() == (
        "external-secret orders/db in fake"
    )
    assert consumer(cluster).name() == "external-secret orders/db"


# ---------------------------------------------------------------------------- a second opinion

MEMBERS = st.sampled_from(["password", "username", "host", "port", "engine"])
OURS = st.one_of(
    st.just({"key": NAME}),
    st.just({"key": f"{ARN}{NAME}-AbC12d"}),
    st.builds(lambda member: {"key": NAME, "property": member}, MEMBERS),
)
REFS = st.one_of(OURS, st.just({"key": "prod/other"}))
KEYS = st.sampled_from(["A", "B", "password", "host"])
SPECS = st.builds(
    lambda data, extracts: {
        "data": data,
        **({"dataFrom": [{"extract": {"key": NAME}}]} if extracts else {}),
    },
    st.lists(st.builds(lambda key, ref: {"secretKey": key, "remoteRef": ref}, KEYS, REFS)),
    st.booleans(),
)


@hypothesis.given(spec=SPECS, is_told=st.booleans())
@hypothesis.settings(deadline=None)
def test_it_agrees_with_who_writes_the_secret(spec: Json, *, is_told: bool) -> None:
    """Whatever the spec: it has followed when the fake has synced, and not before.

    Unless nothing of the Secret comes from what a rotation changes: then it is refused.
    """
    with Cluster() as cluster:
        synced = Synced(cluster, spec)
        synced.serve(V1)
        before = synced.secret()["data"]
        try:
            if is_told:
                synced.tell(V1)
            at_first = synced.consumer.verify(V1)
            synced.annotate(again="1")
            cluster.settle()
            then = synced.consumer.verify(V1)
        except Misconfigured:
            synced.annotate(again="1")
            cluster.settle()
            assert synced.secret()["data"] == before
            return

        assert synced.secret()["data"] != before
        assert at_first.pickup is (Pickup.WAITING if is_told else Pickup.UNTOLD)
        assert then.pickup is Pickup.FOLLOWED
