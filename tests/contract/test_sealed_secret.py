"""A SealedSecret in the fake cluster, over the wire, opened by a decryptor that shares nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from cluster_copies import (
    CANARY,
    MARK,
    NAME,
    NAMESPACE,
    Cluster,
    Json,
    given,
    granted,
    is_write,
    roles,
    sensitive,
    texts,
    version,
)
from keyturn.destinations.sealed_secret import PERMISSIONS, SHAPES, make
from keyturn.destinations.secret_data import MAX_BYTES
from keyturn.errors import Busy, Denied, Drifted, KeyturnError, Misconfigured, Unreachable
from keyturn.kubernetes.marks import mark_of
from keyturn.model import RotationId, Sensitive
from keyturn.ports import Destination, Held
from keyturn.testing.contracts import Depot, DestinationContract
from unsealing import CLUSTER_WIDE, NAMESPACE_WIDE, Controller, RefusedError

Settings = Mapping[str, object]
NONE: Settings = {}
DOCUMENT = json.dumps({"username": "app", "password": f"{CANARY}one", "port": 5432, "gone": None})
ROLES = roles("SealedSecret")
SERVICE = "kube-system/http:sealed-secrets-controller:http"


@pytest.fixture(scope="session")
def controller() -> Controller:
    return Controller()


@pytest.fixture
def cluster(controller: Controller) -> Iterator[Cluster]:
    """With a controller that opens by hand, and serves its certificate."""
    with Cluster() as running:
        for role in ROLES:
            running.allow("keyturn", role["metadata"]["namespace"], role["rules"])
        running.api.services[SERVICE] = {"/v1/cert.pem": controller.certificate}.__getitem__
        running.unseal = lambda one: {
            key: value.decode() for key, value in controller.unseal(one).items()
        }
        yield running


def destination(
    cluster: Cluster, settings: Settings = NONE, user: str = "keyturn", secret: str = NAME
) -> Destination:
    shape = SHAPES["sealed-secret"]
    read = msgspec.convert({"namespace": NAMESPACE, "name": "db", **settings}, shape)
    return make("sealed-secret", read, given(cluster.client(user), secret))


def deliver(
    cluster: Cluster,
    text: str = DOCUMENT,
    name: str = "v1",
    settings: Settings = NONE,
    seen: Held | None = None,
) -> None:
    place = destination(cluster, settings)
    place.deliver(version(name), Sensitive(text), seen or place.holds())


def found(cluster: Cluster) -> Json:
    return cluster.found("sealedsecrets")


def secret_of(cluster: Cluster) -> dict[str, Sensitive]:
    """Let the controller do what it does, and return what the Secret holds then."""
    cluster.settle()
    return texts(cluster.found("secrets")["data"])


def refusal(act: Callable[[], object]) -> KeyturnError:
    with pytest.raises(KeyturnError) as caught:
        act()
    return caught.value


def put(cluster: Cluster, metadata: Json, **spec: Any) -> None:
    cluster.put(
        {
            "apiVersion": "bitnami.com/v1alpha1",
            "kind": "SealedSecret",
            "metadata": {"name": "db", "namespace": NAMESPACE, **metadata},
            "spec": {"encryptedData": {"old": "AAAA"}, **spec},
        }
    )


@pytest.mark.parametrize("scope", ["strict", "namespace-wide", "cluster-wide"])
class TestSealedSecret(DestinationContract):
    """In each scope, read by whoever has the controller's key."""

    @pytest.fixture
    def depot(self, cluster: Cluster, controller: Controller, scope: str) -> Depot:
        def reads() -> Sensitive | None:
            one = cluster.get("sealedsecrets", NAMESPACE, "db")
            return Sensitive(controller.unseal(one)["copy"].decode()) if one else None

        return Depot(
            destination(cluster, {"key": "copy", "scope": scope}),
            reads,
            lambda: put(cluster, {"annotations": {MARK: ""}}),
            Sensitive(CANARY.ljust(MAX_BYTES + 1, "x")),
            f"{MAX_BYTES:,}",
            cluster.values_read,
            cluster.outage,
            cluster.lose_write,
        )


# ---------------------------------------------------------------------------- what it is


def test_the_controller_makes_a_secret_of_it_that_says_which_version_it_is(
    cluster: Cluster,
) -> None:
    deliver(cluster)

    assert secret_of(cluster) == sensitive(username="app", password=f"{CANARY}one", port="5432")
    made = cluster.found("secrets")
    assert made["type"] == "Opaque"
    assert made["metadata"]["annotations"][MARK] == "v1"
    status = found(cluster)["status"]
    assert status["observedGeneration"] == found(cluster)["metadata"]["generation"]
    assert status["conditions"][0]["status"] == "True"


def test_nothing_that_was_sent_can_be_read(cluster: Cluster) -> None:
    """The plain value never leaves; neither do keys that the controller alone has."""
    deliver(cluster)

    sent = json.dumps(found(cluster))
    assert CANARY not in sent
    assert sorted(found(cluster)["spec"]["encryptedData"]) == ["password", "port", "username"]


SCOPES: Mapping[str, dict[str, str]] = {
    "strict": {},
    "namespace-wide": {NAMESPACE_WIDE: "true"},
    "cluster-wide": {CLUSTER_WIDE: "true"},
}


@pytest.mark.parametrize("scope", SCOPES)
def test_object_and_template_say_which_scope_it_is(cluster: Cluster, scope: str) -> None:
    deliver(cluster, settings={"scope": scope})

    one = found(cluster)
    expected = {MARK: "v1", **SCOPES[scope]}
    assert one["apiVersion"] == "bitnami.com/v1alpha1"
    assert one["metadata"]["annotations"] == expected
    assert one["spec"]["template"] == {
        "metadata": {"name": "db", "namespace": NAMESPACE, "annotations": expected},
        "type": "Opaque",
    }


@pytest.mark.parametrize("before", SCOPES)
@pytest.mark.parametrize("after", SCOPES)
def test_another_scope_takes_the_place_of_the_one_before(
    cluster: Cluster, before: str, after: str
) -> None:
    """Values and annotations change together: else nothing would open."""
    deliver(cluster, settings={"scope": before})
    assert len(secret_of(cluster)) == 3

    deliver(cluster, json.dumps({"password": f"{CANARY}two"}), "v2", {"scope": after})

    assert secret_of(cluster) == sensitive(password=f"{CANARY}two")
    assert found(cluster)["metadata"]["annotations"] == {MARK: "v2", **SCOPES[after]}


def test_moved_elsewhere_it_opens_as_far_as_its_scope_goes(
    cluster: Cluster, controller: Controller
) -> None:
    """As if somebody copied the object to another name, or another namespace."""
    opens = {}
    for scope in SCOPES:
        deliver(cluster, name=scope, settings={"scope": scope})
        one = found(cluster)
        moved = [{**one, "metadata": {**one["metadata"], **to}} for to in MOVED]
        opens[scope] = [opened(controller, each) for each in moved]

    assert opens == {
        "strict": [False, False],
        "namespace-wide": [True, False],
        "cluster-wide": [True, True],
    }


MOVED = ({"name": "other"}, {"namespace": "other"})


def opened(controller: Controller, one: Json) -> bool:
    try:
        controller.unseal(one)
    except RefusedError:
        return False
    return True


def test_what_others_wrote_into_the_template_stays(cluster: Cluster) -> None:
    deliver(cluster)
    one = found(cluster)
    one["spec"]["template"]["data"] = {"url": "x"}
    one["spec"]["template"]["metadata"]["labels"] = {"app": "orders"}
    one["metadata"]["annotations"]["note"] = "by hand"
    cluster.put(one)

    deliver(cluster, DOCUMENT, "v2")

    now = found(cluster)
    assert now["spec"]["template"]["data"] == {"url": "x"}
    assert now["spec"]["template"]["metadata"]["labels"] == {"app": "orders"}
    assert now["metadata"]["annotations"] == {MARK: "v2", "note": "by hand"}


def test_the_type_is_the_secrets(cluster: Cluster) -> None:
    deliver(cluster, settings={"type": "kubernetes.io/basic-auth"})

    secret_of(cluster)
    assert cluster.found("secrets")["type"] == "kubernetes.io/basic-auth"

    error = refusal(lambda: deliver(cluster, DOCUMENT, "v2", {"type": "Opaque"}))
    assert isinstance(error, Misconfigured)
    assert str(error).endswith("which cannot be changed to Opaque")


def test_an_immutable_secret_is_named(cluster: Cluster) -> None:
    put(cluster, {"annotations": {MARK: "v1"}}, template={"immutable": True})

    error = refusal(lambda: deliver(cluster, DOCUMENT, "v2"))

    assert isinstance(error, Misconfigured)
    assert str(error) == "sealed-secret orders/db is immutable"


def test_what_no_secret_can_hold_is_refused_before(cluster: Cluster) -> None:
    error = refusal(lambda: deliver(cluster, f'{{"a b": "{CANARY}x"}}'))
    form = refusal(lambda: destination(cluster, {"form": "url"}))

    assert isinstance(error, Misconfigured)
    assert str(error) == (
        "sealed-secret orders/db: version v1: the member 'a b' can be no key of a Secret"
    )
    assert str(form).endswith("`form: url` goes with a `key` only")
    assert cluster.writes() == 0


# ---------------------------------------------------------------------------- whose it is


@pytest.mark.parametrize(
    "annotations",
    [{}, {mark_of("prod/other"): "v7"}, {mark_of("prod/other"): "v7", MARK: "v1"}],
    ids=["somebody's", "another secret's", "both"],
)
def test_what_is_not_ours_is_never_written(cluster: Cluster, annotations: Json) -> None:
    put(cluster, {"annotations": annotations})
    before = found(cluster)

    looked = refusal(destination(cluster).holds)
    unaware = refusal(lambda: deliver(cluster, seen=Held(None, "")))

    assert {type(looked), type(unaware)} == {Drifted}
    assert found(cluster) == before
    assert cluster.writes() == 0


def test_one_that_is_handed_over_becomes_ours(cluster: Cluster) -> None:
    put(cluster, {"annotations": {MARK: ""}})

    deliver(cluster)

    assert set(secret_of(cluster)) == {"username", "password", "port"}


# ---------------------------------------------------------------------------- certificates


def test_a_certificate_in_the_plan_is_taken(cluster: Cluster, controller: Controller) -> None:
    """And the controller is not asked."""
    cluster.api.services.clear()

    deliver(cluster, settings={"certificate": controller.certificate})

    assert len(secret_of(cluster)) == 3
    assert not [each for each in cluster.requests if each.behind]


def test_the_controller_is_asked_where_the_plan_says(
    cluster: Cluster, controller: Controller
) -> None:
    cluster.api.services["sealing/http:sealed-secrets:8080"] = cluster.api.services.pop(SERVICE)
    settings = {"controller": "sealing/sealed-secrets:8080"}

    place = destination(cluster, settings, user="admin")
    place.deliver(version("v1"), Sensitive(DOCUMENT), place.holds())

    assert len(controller.unseal(found(cluster))) == 3


def test_a_controller_that_is_not_there_is_named(cluster: Cluster) -> None:
    cluster.api.services.clear()

    error = refusal(lambda: deliver(cluster))

    assert isinstance(error, Misconfigured)
    assert str(error) == (
        "sealed-secret orders/db: there is no service sealed-secrets-controller in kube-system"
    )


def test_a_controller_that_gives_no_answer_is_no_reason_to_write(cluster: Cluster) -> None:
    cluster.fail(503, times=4, only=lambda request: bool(request.behind))

    assert isinstance(refusal(lambda: deliver(cluster)), Unreachable)
    assert cluster.writes() == 0


def test_an_expired_certificate_is_refused(cluster: Cluster) -> None:
    """Whoever serves it."""
    expired = Controller(lasts=timedelta(days=-1)).certificate
    cluster.api.services[SERVICE] = {"/v1/cert.pem": expired}.__getitem__

    errors = [
        refusal(lambda: deliver(cluster)),
        refusal(lambda: deliver(cluster, settings={"certificate": expired})),
    ]

    assert all(isinstance(error, Misconfigured) for error in errors)
    assert all("certificate expired on" in str(error) for error in errors)
    assert cluster.writes() == 0


def test_a_look_needs_no_certificate(cluster: Cluster) -> None:
    cluster.api.services.clear()

    assert destination(cluster).holds() == Held(None, "")


# ---------------------------------------------------------------------------- on the wire


def test_a_conflict_is_looked_at_again(cluster: Cluster) -> None:
    deliver(cluster)
    cluster.fail(409, only=is_write)

    assert isinstance(refusal(lambda: deliver(cluster, DOCUMENT, "v2")), Busy)

    deliver(cluster, DOCUMENT, "v2")
    assert destination(cluster).holds().version_id == RotationId("v2")


@pytest.mark.parametrize("fault", ["drop", "lose_reply"])
def test_a_write_without_an_answer_is_made_once(cluster: Cluster, fault: str) -> None:
    """Even if the controller writes its status meanwhile."""
    for name in ("v1", "v2"):
        getattr(cluster, fault)(only=is_write)
        deliver(cluster, DOCUMENT, name)
        cluster.settle()

        assert destination(cluster).holds().version_id == RotationId(name)


def test_of_two_workers_one_writes(cluster: Cluster) -> None:
    deliver(cluster)
    seen = destination(cluster).holds()

    deliver(cluster, json.dumps({"password": f"{CANARY}three"}), "v3", seen=seen)
    late = refusal(lambda: deliver(cluster, DOCUMENT, "v2", seen=seen))

    assert isinstance(late, Busy)
    assert secret_of(cluster) == sensitive(password=f"{CANARY}three")


def test_a_cluster_without_sealed_secrets_is_unsupported(cluster: Cluster) -> None:
    cluster.serve("bitnami.com")

    assert "sealedsecrets.bitnami.com" in refusal(destination(cluster).holds).remedy


# ---------------------------------------------------------------------------- rights


def test_the_roles_in_the_guide_are_what_it_needs(cluster: Cluster) -> None:
    """No right to any Secret; and another SealedSecret is out of reach."""
    assert granted(ROLES) == set(PERMISSIONS)
    error = refusal(destination(cluster, {"name": "b"}).holds)

    assert isinstance(error, Denied)
    assert not [each for each in cluster.requests if each.resource == "secrets"]
