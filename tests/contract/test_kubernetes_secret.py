"""A Secret in the fake cluster, over the wire; and read by the real kubectl."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
import pytest

from cluster_copies import (
    CANARY,
    MARK,
    NAMESPACE,
    PAGE,
    Cluster,
    Json,
    encoded,
    given,
    granted,
    is_write,
    kubectl,
    roles,
    sensitive,
    texts,
    version,
)
from keyturn.destinations.kubernetes_secret import PERMISSIONS, SHAPES, make
from keyturn.destinations.secret_data import MAX_BYTES
from keyturn.errors import Busy, Denied, Drifted, KeyturnError, Misconfigured, Unreachable
from keyturn.kubernetes.marks import mark_of
from keyturn.local.kubernetes_api import Request
from keyturn.model import RotationId, Sensitive, Version
from keyturn.ports import Destination, Held
from keyturn.testing.certificates import Authority
from keyturn.testing.contracts import Depot, DestinationContract

Run = Callable[..., str]
Settings = Mapping[str, object]
NONE: Settings = {}
DOCUMENT = json.dumps(
    {"username": "app", "password": f"{CANARY}one", "port": 5432, "tags": ["a"], "gone": None}
)
ROLES = roles("Kubernetes Secret")


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as running:
        for role in ROLES:
            running.allow("keyturn", NAMESPACE, role["rules"])
        yield running


def destination(cluster: Cluster, settings: Settings = NONE, user: str = "keyturn") -> Destination:
    shape = SHAPES["kubernetes-secret"]
    read = msgspec.convert({"namespace": NAMESPACE, "name": "db", **settings}, shape)
    return make("kubernetes-secret", read, given(cluster.client(user)))


def deliver(
    cluster: Cluster,
    text: str = DOCUMENT,
    name: str = "v1",
    settings: Settings = NONE,
    seen: Held | None = None,
) -> None:
    place = destination(cluster, settings)
    place.deliver(version(name), Sensitive(text), seen or place.holds())


def held(cluster: Cluster) -> dict[str, Sensitive]:
    return texts(cluster.found("secrets").get("data") or {})


def put(cluster: Cluster, data: Mapping[str, str], **more: Any) -> None:
    """Write past the wire; `annotations` and what else an object has."""
    metadata = {"name": "db", "namespace": NAMESPACE, **more.pop("metadata", {})}
    made = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, **more}
    cluster.put({**made, "data": {key: encoded(text) for key, text in data.items()}})


def put_ours(cluster: Cluster, data: Mapping[str, str], says: str = "", **more: Any) -> None:
    put(cluster, data, metadata={"annotations": {MARK: says}}, **more)


def refusal(act: Callable[[], object]) -> KeyturnError:
    with pytest.raises(KeyturnError) as caught:
        act()
    return caught.value


def just_before_the_write(act: Callable[[], None]) -> Callable[[Request], bool]:
    """Act when the first write has reached the server, and let it through."""
    left = [act]

    def is_meant(request: Request) -> bool:
        if is_write(request) and left:
            left.pop()()
        return False

    return is_meant


def depot(cluster: Cluster, place: Destination, key: str) -> Depot:
    def reads() -> Sensitive | None:
        return held(cluster)[key] if cluster.get("secrets", NAMESPACE, "db") else None

    return Depot(
        place,
        reads,
        lambda: put_ours(cluster, {"by-hand": f"{CANARY}hand"}),
        Sensitive(CANARY.ljust(MAX_BYTES + 1, "x")),
        f"{MAX_BYTES:,}",
        cluster.values_read,
        cluster.outage,
        cluster.lose_write,
    )


class TestKubernetesSecret(DestinationContract):
    """All of it under one key."""

    @pytest.fixture
    def depot(self, cluster: Cluster) -> Depot:
        return depot(cluster, destination(cluster, {"key": "copy"}), "copy")


class AsMember:
    """Delivers each text as the one member of a document."""

    def __init__(self, place: Destination) -> None:
        self._place = place
        self.name, self.holds = place.name, place.holds

    def deliver(self, version: Version, text: Sensitive, seen: Held) -> None:
        self._place.deliver(version, Sensitive(json.dumps({"copy": text.reveal()})), seen)


class TestKubernetesSecretOfMembers(DestinationContract):
    """Each member under its own."""

    @pytest.fixture
    def depot(self, cluster: Cluster) -> Depot:
        return depot(cluster, AsMember(destination(cluster)), "copy")


# ---------------------------------------------------------------------------- what it holds


def test_each_member_is_a_key(cluster: Cluster) -> None:
    """Texts as they are, what is no text as JSON; null is not there."""
    deliver(cluster)

    found = cluster.found("secrets")
    assert held(cluster) == sensitive(
        username="app", password=f"{CANARY}one", port="5432", tags='["a"]'
    )
    assert found["type"] == "Opaque"
    assert found["metadata"]["annotations"] == {MARK: "v1"}


def test_what_is_no_member_any_more_goes(cluster: Cluster) -> None:
    """An old password under an old name would stay for ever."""
    deliver(cluster)
    put_before = cluster.found("secrets")["metadata"]["uid"]

    deliver(cluster, json.dumps({"password": f"{CANARY}two", "host": "db"}), "v2")

    assert held(cluster) == sensitive(password=f"{CANARY}two", host="db")
    assert cluster.found("secrets")["metadata"]["uid"] == put_before


def test_one_key_holds_the_copy_to_the_byte(cluster: Cluster) -> None:
    deliver(cluster)

    deliver(cluster, DOCUMENT, "v2", {"key": "db.json"})

    assert held(cluster) == {"db.json": Sensitive(DOCUMENT)}


def test_labels_and_type_are_the_plans_and_what_others_added_stays(cluster: Cluster) -> None:
    settings = {"labels": {"app": "orders"}, "type": "kubernetes.io/basic-auth"}
    deliver(cluster, settings=settings)
    found = cluster.found("secrets")
    found["metadata"]["labels"]["team"] = "b"
    found["metadata"]["annotations"]["note"] = "by hand"
    cluster.put(found)

    deliver(cluster, DOCUMENT, "v2", {**settings, "labels": {"app": "new"}})

    metadata = cluster.found("secrets")["metadata"]
    assert metadata["labels"] == {"app": "new", "team": "b"}
    assert metadata["annotations"] == {MARK: "v2", "note": "by hand"}
    assert cluster.found("secrets")["type"] == "kubernetes.io/basic-auth"


def test_a_value_may_be_empty(cluster: Cluster) -> None:
    deliver(cluster, "", settings={"key": "copy"})

    assert held(cluster) == sensitive(copy="")


# ---------------------------------------------------------------------------- whose it is


FOREIGN: Mapping[str, Json] = {
    "somebody's": {},
    "an empty one of somebody's": {"data": {}},
    "another secret's": {"annotations": {mark_of("prod/other"): "v7"}},
    "both": {"annotations": {mark_of("prod/other"): "v7", MARK: "v1"}},
    "a controller's, which has copied our annotation": {
        "annotations": {MARK: "v1"},
        "ownerReferences": [
            {"kind": "ExternalSecret", "name": "db", "uid": "1", "controller": True}
        ],
    },
}


@pytest.mark.parametrize("metadata", FOREIGN.values(), ids=FOREIGN)
def test_what_is_not_ours_is_never_written(cluster: Cluster, metadata: Json) -> None:
    """Not by whoever looked, nor by whoever had looked before it was there."""
    more = dict(metadata)
    data = more.pop("data", {"password": f"{CANARY}foreign"})
    put(cluster, data, metadata=more)
    before = cluster.found("secrets")

    looked = refusal(lambda: destination(cluster).holds())
    unaware = refusal(lambda: deliver(cluster, seen=Held(None, "")))
    late = Held(RotationId("v0"), before["metadata"]["resourceVersion"])
    knowing = refusal(lambda: deliver(cluster, seen=late))

    assert {type(each) for each in (looked, unaware, knowing)} == {Drifted}
    assert cluster.found("secrets") == before
    assert cluster.writes() == 0


def test_a_refusal_says_whose_it_is_and_how_it_is_handed_over(cluster: Cluster) -> None:
    put(cluster, {})
    nobodys = refusal(destination(cluster).holds)
    put(cluster, {}, metadata=FOREIGN["another secret's"])
    others = refusal(destination(cluster).holds)
    put(cluster, {}, metadata=FOREIGN["a controller's, which has copied our annotation"])
    owned = refusal(destination(cluster).holds)

    assert str(nobodys) == ("kubernetes-secret orders/db is there, and was not written by keyturn")
    assert MARK in nobodys.remedy
    assert str(others).endswith(
        f"is of another secret: it has the annotation {mark_of('prod/other')}"
    )
    assert str(owned) == "kubernetes-secret orders/db is kept by ExternalSecret db"


def test_a_secret_that_is_handed_over_becomes_ours(cluster: Cluster) -> None:
    """By our annotation, empty. What it holds goes."""
    put_ours(cluster, {"old": f"{CANARY}foreign"})

    assert destination(cluster).holds().version_id is None
    deliver(cluster)

    assert set(held(cluster)) == {"username", "password", "port", "tags"}
    assert destination(cluster).holds().version_id == RotationId("v1")


def test_one_that_appears_between_look_and_write_is_not_touched(cluster: Cluster) -> None:
    """The API says that there is one already: whose, is looked at."""
    foreign = {"password": f"{CANARY}foreign"}
    cluster.fail(500, only=just_before_the_write(lambda: put(cluster, foreign)))

    assert isinstance(refusal(lambda: deliver(cluster)), Drifted)
    assert held(cluster) == sensitive(password=f"{CANARY}foreign")


def test_one_that_is_being_deleted_is_waited_for(cluster: Cluster) -> None:
    """What is written there goes with it."""
    put(
        cluster,
        {},
        metadata={"annotations": {MARK: "v1"}, "finalizers": ["example.com/wait"]},
    )
    cluster.delete("secrets", NAMESPACE, "db")

    assert isinstance(refusal(destination(cluster).holds), Busy)


# ---------------------------------------------------------------------------- what cannot be


def test_an_immutable_secret_is_named(cluster: Cluster) -> None:
    put_ours(cluster, {"password": f"{CANARY}old"}, immutable=True)

    error = refusal(lambda: deliver(cluster))

    assert isinstance(error, Misconfigured)
    assert str(error) == "kubernetes-secret orders/db is immutable"
    assert cluster.writes() == 0


def test_another_type_is_named(cluster: Cluster) -> None:
    """The API does not change it; without one in the plan, what is there stays."""
    put_ours(cluster, {"username": "app"}, type="kubernetes.io/basic-auth")

    error = refusal(lambda: deliver(cluster, settings={"type": "Opaque"}))
    deliver(cluster)

    assert isinstance(error, Misconfigured)
    assert str(error).endswith(
        "has the type kubernetes.io/basic-auth, which cannot be changed to Opaque"
    )
    assert cluster.found("secrets")["type"] == "kubernetes.io/basic-auth"


BAD: Mapping[str, tuple[str, Settings, str]] = {
    "a name that is no key": (
        f'{{"a b": "{CANARY}x"}}',
        {},
        "the member 'a b' can be no key of a Secret",
    ),
    "an empty name": (f'{{"": "{CANARY}x"}}', {}, "the member '' can be no key of a Secret"),
    "a folder's name": (f'{{"..": "{CANARY}x"}}', {}, "the member '..' can be no key of a Secret"),
    "no document": (f"{CANARY}x", {}, "not a JSON object"),
    "nothing in it": ('{"a": null}', {}, "there is no member that could be a key"),
    "a member twice": (
        f'{{"a": "{CANARY}x", "a": "{CANARY}y"}}',
        {},
        "has the member 'a' more than once",
    ),
    "half a pair": (f'{{"a": "{CANARY}\\ud800"}}', {}, "the member 'a' has half a surrogate pair"),
    "half a pair in all of it": (
        f"{CANARY}\ud800",
        {"key": "a"},
        "version v1 has half a surrogate pair",
    ),
    "half a login": (
        f'{{"password": "{CANARY}x"}}',
        {"type": "kubernetes.io/basic-auth"},
        "has no 'username', which a Secret of type kubernetes.io/basic-auth needs",
    ),
    "no certificate": (
        f'{{"tls.key": "{CANARY}x"}}',
        {"type": "kubernetes.io/tls"},
        "has no 'tls.crt', which a Secret of type kubernetes.io/tls needs",
    ),
    "no JSON for Docker": (
        f"{CANARY}x",
        {"type": "kubernetes.io/dockerconfigjson", "key": ".dockerconfigjson"},
        "'.dockerconfigjson' is no JSON",
    ),
    "too much in all": (
        json.dumps({"a": CANARY.ljust(MAX_BYTES // 2, "x"), "b": CANARY.ljust(MAX_BYTES // 2 + 1)}),
        {},
        "has 1,048,577 bytes, a Secret takes up to 1,048,576",
    ),
}


@pytest.mark.parametrize("text, settings, fact", BAD.values(), ids=BAD)
def test_what_no_secret_can_hold_is_refused_before(
    cluster: Cluster, text: str, settings: Settings, fact: str
) -> None:
    error = refusal(lambda: deliver(cluster, text, settings=settings))

    assert isinstance(error, Misconfigured)
    assert fact in str(error)
    assert cluster.writes() == 0


def test_a_megabyte_fits(cluster: Cluster) -> None:
    deliver(cluster, CANARY.ljust(MAX_BYTES, "x"), settings={"key": "copy"})

    assert destination(cluster).holds().version_id == RotationId("v1")


def test_a_form_without_members_needs_a_key(cluster: Cluster) -> None:
    error = refusal(lambda: destination(cluster, {"form": "url"}))

    assert isinstance(error, Misconfigured)
    assert str(error).endswith("`form: url` goes with a `key` only")
    assert destination(cluster, {"form": "url", "key": "url"}).name()


def test_a_namespace_that_is_not_there_is_named(cluster: Cluster) -> None:
    place = destination(cluster, {"namespace": "nowhere"}, user="admin")

    error = refusal(lambda: place.deliver(version("v1"), Sensitive(DOCUMENT), place.holds()))

    assert isinstance(error, Misconfigured)
    assert str(error) == "fake: there is no namespace nowhere"


# ---------------------------------------------------------------------------- on the wire


def test_a_conflict_is_looked_at_again(cluster: Cluster) -> None:
    deliver(cluster)
    cluster.fail(409, only=is_write)

    assert isinstance(refusal(lambda: deliver(cluster, DOCUMENT, "v2")), Busy)

    deliver(cluster, DOCUMENT, "v2")
    assert destination(cluster).holds().version_id == RotationId("v2")


@pytest.mark.parametrize("code", [429, 500, 503])
def test_what_passes_is_tried_again(cluster: Cluster, code: int) -> None:
    for name in ("v1", "v2"):
        cluster.fail(code, only=is_write)
        deliver(cluster, DOCUMENT, name)

        assert destination(cluster).holds().version_id == RotationId(name)


@pytest.mark.parametrize("fault", ["drop", "lose_reply"])
def test_a_write_without_an_answer_is_made_once(cluster: Cluster, fault: str) -> None:
    """The client's own second try is refused because of its first, which is no rival's."""
    for name in ("v1", "v2"):
        getattr(cluster, fault)(only=is_write)
        deliver(cluster, DOCUMENT, name)

        assert destination(cluster).holds().version_id == RotationId(name)


def test_the_last_try_of_a_write_is_no_failure(cluster: Cluster) -> None:
    """Four replies lost: nothing is known, and the next look knows."""
    cluster.lose_reply(4, only=is_write)

    assert isinstance(refusal(lambda: deliver(cluster)), Unreachable)
    assert destination(cluster).holds().version_id == RotationId("v1")


def test_of_two_workers_one_writes(cluster: Cluster) -> None:
    """Both have looked; the one with the older version comes late, and does not take it back."""
    deliver(cluster)
    seen = destination(cluster).holds()

    deliver(cluster, json.dumps({"password": f"{CANARY}three"}), "v3", seen=seen)
    late = refusal(
        lambda: deliver(cluster, json.dumps({"password": f"{CANARY}two"}), "v2", seen=seen)
    )

    assert isinstance(late, Busy)
    assert held(cluster) == sensitive(password=f"{CANARY}three")


def test_a_worker_that_overtakes_between_its_look_and_its_write_wins(cluster: Cluster) -> None:
    """The patch is conditional, too: what was read is not what is there any more."""
    deliver(cluster)
    seen = destination(cluster).holds()
    three = {"password": f"{CANARY}three"}
    cluster.fail(500, only=just_before_the_write(lambda: put_ours(cluster, three, "v3")))

    assert isinstance(refusal(lambda: deliver(cluster, DOCUMENT, "v2", seen=seen)), Busy)
    assert held(cluster) == sensitive(password=f"{CANARY}three")


def test_one_that_was_deleted_meanwhile_is_looked_at_again(cluster: Cluster) -> None:
    deliver(cluster)
    seen = destination(cluster).holds()
    cluster.delete("secrets", NAMESPACE, "db")

    assert isinstance(refusal(lambda: deliver(cluster, DOCUMENT, "v2", seen=seen)), Busy)

    deliver(cluster, DOCUMENT, "v2")
    assert destination(cluster).holds().version_id == RotationId("v2")


# ---------------------------------------------------------------------------- rights


def test_the_roles_in_the_guide_are_what_it_needs(cluster: Cluster) -> None:
    """And no more: another Secret is out of reach, a list too."""
    assert granted(ROLES) == set(PERMISSIONS)
    cluster.put(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "b", "namespace": NAMESPACE}}
    )

    assert isinstance(refusal(destination(cluster, {"name": "b"}).holds), Denied)


def test_without_the_right_to_create_a_handed_over_one_does(cluster: Cluster) -> None:
    rules = [
        {**rule, "verbs": [verb for verb in rule["verbs"] if verb != "create"]}
        for role in ROLES
        for rule in role["rules"]
    ]
    cluster.allow("keyturn", NAMESPACE, [rule for rule in rules if rule["verbs"]])

    assert isinstance(refusal(lambda: deliver(cluster)), Denied)
    put_ours(cluster, {})
    deliver(cluster)

    assert destination(cluster).holds().version_id == RotationId("v1")


# ---------------------------------------------------------------------------- kubectl


@pytest.fixture
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, Run]]:
    """A cluster with TLS, without which kubectl sends no token; and kubectl."""
    folder = tmp_path_factory.mktemp("kubectl")
    with Cluster(Authority(folder, "cluster")) as running:
        for role in ROLES:
            running.allow("keyturn", NAMESPACE, role["rules"])
        yield running, kubectl(running, folder)


def test_kubectl_reads_what_was_delivered(secured: tuple[Cluster, Run]) -> None:
    cluster, run = secured
    deliver(cluster)

    read = run("get", "secret", "db", "-o", "jsonpath={.data.password}")
    dotted = MARK.replace(".", "\\.")
    says = run("get", "secret", "db", "-o", f"jsonpath={{.metadata.annotations.{dotted}}}")

    assert texts({"password": read}) == sensitive(password=f"{CANARY}one")
    assert says == "v1"


def test_kubectl_hands_a_secret_over(secured: tuple[Cluster, Run]) -> None:
    """By the command in the guide, as it stands there."""
    cluster, run = secured
    put(cluster, {"old": f"{CANARY}foreign"})
    assert isinstance(refusal(destination(cluster).holds), Drifted)
    [line] = re.findall(r"^kubectl (annotate .*)$", PAGE.read_text(), re.MULTILINE)

    run(*line.split())
    deliver(cluster)

    assert "old" not in held(cluster)


def test_kubectl_makes_an_empty_one_for_who_may_not_create(secured: tuple[Cluster, Run]) -> None:
    cluster, run = secured
    made = {"metadata": {"name": "db", "annotations": {MARK: ""}}, "kind": "Secret"}
    run("create", "-f", "-", "--validate=false", text=json.dumps({"apiVersion": "v1", **made}))

    deliver(cluster)

    assert held(cluster)["username"] == Sensitive("app")
