"""The client of the Kubernetes API: what it sends, what it believes, and when it gives up."""

from __future__ import annotations

import http.client
import json
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from api_servers import PLENTY, TOKEN, answer, client, scripted, status
from clusters import marked, secret, workload
from keyturn import line
from keyturn.access import Access
from keyturn.errors import Busy, Denied, KeyturnError, Misconfigured, Unreachable, Unsupported
from keyturn.kubernetes import api
from keyturn.kubernetes.api import Kubernetes, Patch, Resource
from keyturn.local.kubernetes import FakeKubernetes
from keyturn.model import Sensitive, Surroundings
from keyturn.testing.certificates import DAY, NOW, Authority

SECRETS = Resource("", "v1", "secrets")
DEPLOYMENTS = Resource("apps", "v1", "deployments")
EXTERNAL = Resource("external-secrets.io", "v1", "externalsecrets")
PODS = Resource("", "v1", "pods")
OBJECT = {"kind": "Deployment", "metadata": {"name": "web"}}


@pytest.fixture
def cluster() -> Iterator[FakeKubernetes]:
    with FakeKubernetes(namespaces=["shop"]) as cluster:
        cluster.put(workload("Deployment"))
        cluster.put(secret())
        yield cluster


def of(cluster: FakeKubernetes, user: str = "admin") -> Kubernetes:
    token = Sensitive(cluster.token(user))
    return client(cluster.server, token=lambda _: token)


def within(seconds: float) -> Surroundings:
    ends_at = time.monotonic() + seconds
    return Surroundings(lambda: ends_at - time.monotonic())


# ---------------------------------------------------------------------------- what it does


def test_an_object_is_returned_as_it_is(cluster: FakeKubernetes) -> None:
    found = of(cluster).get(DEPLOYMENTS, "shop", "web")

    assert found == cluster.get("deployments", "shop", "web")


def test_no_object_of_that_name_is_an_answer(cluster: FakeKubernetes) -> None:
    kubernetes = of(cluster)

    assert kubernetes.get(DEPLOYMENTS, "shop", "none") is None
    assert kubernetes.patch(DEPLOYMENTS, "shop", "none", marked("a"), Patch.MERGE) is None
    assert kubernetes.get(DEPLOYMENTS, "nowhere", "web") is None


def test_a_patch_changes_what_it_names_and_nothing_else(cluster: FakeKubernetes) -> None:
    before = cluster.get("deployments", "shop", "web")

    after = of(cluster).patch(DEPLOYMENTS, "shop", "web", marked("new"), Patch.STRATEGIC)

    assert before is not None
    assert after is not None
    assert after["metadata"]["annotations"] == {"mark": "new"}
    assert after["spec"] == before["spec"]


def test_a_patch_of_another_version_is_busy(cluster: FakeKubernetes) -> None:
    stale = {"metadata": {"resourceVersion": "1", "annotations": {"mark": "new"}}}

    with pytest.raises(Busy, match="answered 409 Conflict"):
        of(cluster).patch(SECRETS, "shop", "db", stale, Patch.MERGE)


def test_an_object_is_created_once(cluster: FakeKubernetes) -> None:
    kubernetes, made = of(cluster), secret("new")

    assert kubernetes.create(SECRETS, "shop", made)["metadata"]["name"] == "new"
    with pytest.raises(Busy, match="answered 409 AlreadyExists"):
        kubernetes.create(SECRETS, "shop", made)


def test_nothing_is_created_where_there_is_no_namespace(cluster: FakeKubernetes) -> None:
    lost = secret("new")
    lost["metadata"]["namespace"] = "nowhere"

    with pytest.raises(Misconfigured, match="no namespace nowhere"):
        of(cluster).create(SECRETS, "nowhere", lost)


def test_a_resource_that_is_not_served_is_no_missing_object(cluster: FakeKubernetes) -> None:
    """External Secrets of an old version: the next version is to be tried, not given up."""
    cluster.serve("external-secrets.io", "v1beta1")

    with pytest.raises(Unsupported, match="answered 404") as refused:
        of(cluster).get(EXTERNAL, "shop", "db")
    with pytest.raises(Unsupported):
        of(cluster).list(EXTERNAL, "shop")

    assert "externalsecrets.external-secrets.io in version v1" in refused.value.remedy


@pytest.mark.parametrize(
    "refusal",
    [
        answer(404, b"404 page not found\n"),
        status(404, "NotFound", details={}),
        status(404, "NotFound", message="the server could not find the requested resource"),
        status(404, "NotFound", details={"name": "another"}),
    ],
    ids=["plain text", "no details", "no name", "another name"],
)
def test_only_its_own_name_says_that_an_object_is_missing(refusal: bytes) -> None:
    """It is decided by a field of the answer. Texts differ from version to version."""
    with scripted(refusal) as script, pytest.raises(Unsupported):
        client(script.server).get(DEPLOYMENTS, "shop", "web")


def test_what_its_text_says_does_not_matter() -> None:
    text = "the server could not find the requested resource"
    with scripted(status(404, "NotFound", details={"name": "web"}, message=text)) as script:
        assert client(script.server).get(DEPLOYMENTS, "shop", "web") is None


def test_names_cannot_lead_elsewhere() -> None:
    hostile = "a/../../b?c#d e%2f"
    with scripted(answer(200, OBJECT)) as script:
        client(script.server).get(SECRETS, hostile, hostile)

    encoded = "a%2F..%2F..%2Fb%3Fc%23d%20e%252f"
    assert script.paths == [f"/api/v1/namespaces/{encoded}/secrets/{encoded}"]


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_an_empty_name_is_not_all_of_them(name: str) -> None:
    """The path of a Secret without its name is that of the list: all Secrets of the namespace."""
    with scripted(answer(200, OBJECT)) as script:
        for namespace, each in (("shop", name), (name, "db")):
            with pytest.raises(Misconfigured, match="a name is missing"):
                client(script.server).get(SECRETS, namespace, each)

    assert script.got == []


# ---------------------------------------------------------------------------- lists


def pods(cluster: FakeKubernetes, count: int) -> None:
    for number in range(count):
        cluster.put(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": f"pod-{number:03}",
                    "namespace": "shop",
                    "labels": {"app": "web" if number % 2 else "other"},
                },
                "spec": {"containers": [{"name": "app", "image": "app:1"}]},
            }
        )


def test_a_list_is_read_page_by_page(
    cluster: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "PAGE", 3)
    pods(cluster, 10)

    found = of(cluster).list(PODS, "shop")

    assert [each["metadata"]["name"] for each in found] == [f"pod-{each:03}" for each in range(10)]
    assert [each.query.get("limit") for each in cluster.requests] == ["3"] * 4


def test_a_list_is_of_those_that_the_labels_meet(
    cluster: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "PAGE", 2)
    pods(cluster, 8)

    found = of(cluster).list(PODS, "shop", labels="app in (web),app!=other")

    assert [each["metadata"]["name"] for each in found] == [
        f"pod-00{each}" for each in (1, 3, 5, 7)
    ]


def test_an_empty_list_is_empty(cluster: FakeKubernetes) -> None:
    assert of(cluster).list(PODS, "shop") == ()


def page(names: str, token: str = "") -> bytes:
    items = [{"metadata": {"name": name}} for name in names]
    return answer(200, {"metadata": {"continue": token}, "items": items})


def test_a_list_that_has_expired_is_begun_anew() -> None:
    """What was read before is not mixed with what is read after."""
    with scripted(page("ab", "on&on"), status(410, "Expired"), page("bc")) as script:
        found = client(script.server).list(PODS, "shop")

    assert [each["metadata"]["name"] for each in found] == ["b", "c"]
    assert ["continue=on%26on" in path for path in script.paths] == [False, True, False]


def test_a_list_that_expires_again_is_given_up() -> None:
    """A 410 must not become a loop: a prototype has sent 247 requests in 0.6 s."""
    expired = status(410, "Expired")
    with (
        scripted(page("ab", "on"), expired, page("ab", "on"), expired, page("x")) as script,
        pytest.raises(Unreachable, match="answered 410"),
    ):
        client(script.server).list(PODS, "shop")

    assert len(script.got) == 4


# ---------------------------------------------------------------------------- trying again


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
def test_what_passes_is_tried_again(cluster: FakeKubernetes, code: int) -> None:
    cluster.fail(code, times=2)

    assert of(cluster).get(DEPLOYMENTS, "shop", "web") is not None
    assert len(cluster.requests) == 3


def test_four_tries_are_all(cluster: FakeKubernetes) -> None:
    cluster.fail(503, times=9)

    with pytest.raises(Unreachable, match="answered 503"):
        of(cluster).get(DEPLOYMENTS, "shop", "web")

    assert len(cluster.requests) == line.TRIES == 4


@pytest.mark.parametrize("code", [400, 403, 409, 413, 415, 422, 501])
def test_what_does_not_pass_is_not_tried_again(cluster: FakeKubernetes, code: int) -> None:
    cluster.fail(code, times=9)

    with pytest.raises(KeyturnError):
        of(cluster).patch(DEPLOYMENTS, "shop", "web", marked("a"), Patch.MERGE)

    assert len(cluster.requests) == 1


def test_a_dropped_connection_is_tried_again(cluster: FakeKubernetes) -> None:
    cluster.drop(times=2)

    assert of(cluster).get(DEPLOYMENTS, "shop", "web") is not None
    assert len(cluster.requests) == 3


def test_no_answer_at_all_is_unreachable(cluster: FakeKubernetes) -> None:
    cluster.drop(times=9)

    with pytest.raises(Unreachable, match=r"get deployments.apps shop/web: no answer"):
        of(cluster).get(DEPLOYMENTS, "shop", "web")

    assert len(cluster.requests) == 4


def test_a_lost_reply_of_a_patch_is_mended_by_the_next_try(cluster: FakeKubernetes) -> None:
    cluster.lose_reply()

    after = of(cluster).patch(DEPLOYMENTS, "shop", "web", marked("new"), Patch.MERGE)

    assert after is not None
    assert after["metadata"]["annotations"] == {"mark": "new"}
    assert after["metadata"]["generation"] == 1


def test_a_lost_reply_of_a_create_is_busy(cluster: FakeKubernetes) -> None:
    """Somebody has made it, and that may have been us: whoever asked looks."""
    cluster.lose_reply()

    with pytest.raises(Busy, match="AlreadyExists"):
        of(cluster).create(SECRETS, "shop", secret("new"))

    assert cluster.get("secrets", "shop", "new") is not None


def test_a_server_that_hangs_is_tried_again(
    cluster: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "TRY_S", 0.3)
    cluster.hang(seconds=1)

    assert of(cluster).get(DEPLOYMENTS, "shop", "web") is not None


def test_a_server_that_hangs_is_given_up_in_time(cluster: FakeKubernetes) -> None:
    """The function's own time is the bound, whatever a try may take."""
    cluster.hang(times=9, seconds=3)
    token = Sensitive(cluster.token())
    hurried = client(
        cluster.server, token=lambda _: token, surroundings=within(line.MARGIN_S + 0.5)
    )

    started = time.monotonic()
    with pytest.raises(Unreachable, match="ReadTimeoutError"):
        hurried.get(DEPLOYMENTS, "shop", "web")

    assert time.monotonic() - started < 1.5


def test_all_tries_of_a_call_have_an_end_together(
    cluster: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "TRY_S", 0.4)
    monkeypatch.setattr(line, "CALL_S", 0.6)
    cluster.hang(times=9, seconds=2)

    started = time.monotonic()
    with pytest.raises(Unreachable):
        of(cluster).get(DEPLOYMENTS, "shop", "web")

    assert time.monotonic() - started < 1.2


def test_nothing_is_sent_when_no_time_is_left(cluster: FakeKubernetes) -> None:
    late = client(cluster.server, surroundings=Surroundings(lambda: line.MARGIN_S))

    with pytest.raises(Unreachable, match="no time is left"):
        late.get(DEPLOYMENTS, "shop", "web")

    assert cluster.requests == []


def test_retry_after_is_obeyed(cluster: FakeKubernetes) -> None:
    cluster.fail(429, retry_after_s=1)

    started = time.monotonic()
    assert of(cluster).get(DEPLOYMENTS, "shop", "web") is not None

    assert time.monotonic() - started >= 1


def test_a_retry_after_beyond_the_time_left_ends_at_once(cluster: FakeKubernetes) -> None:
    cluster.fail(429, times=9, retry_after_s=60)

    started = time.monotonic()
    with pytest.raises(Unreachable, match="answered 429"):
        of(cluster).get(DEPLOYMENTS, "shop", "web")

    assert time.monotonic() - started < 1
    assert len(cluster.requests) == 1


@pytest.mark.parametrize("later", ["Wed, 21 Oct 2026 07:28:00 GMT", "-5", "1e9", "٣", "nan"])
def test_a_retry_after_that_is_no_number_is_not_read(later: str) -> None:
    busy = answer(503, {}, Retry_After=later) if later.isascii() else answer(503)
    with scripted(busy, answer(200, OBJECT)) as script:
        assert client(script.server).get(DEPLOYMENTS, "shop", "web") == OBJECT


# ---------------------------------------------------------------------------- being let in


class Tokens:
    """Returns tokens, and notes whether a new one was asked for."""

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)
        self.asked: list[bool] = []

    def __call__(self, is_new: bool) -> Sensitive:  # noqa: FBT001  # see `Access.token`
        self.asked.append(is_new)
        if is_new and len(self.texts) > 1:
            self.texts.pop(0)
        return Sensitive(self.texts[0])


def test_a_token_that_has_expired_is_replaced(cluster: FakeKubernetes) -> None:
    tokens = Tokens("Canary7-expired-long-ago", cluster.token())
    kubernetes = client(cluster.server, token=tokens)

    assert kubernetes.get(DEPLOYMENTS, "shop", "web") is not None
    assert kubernetes.get(DEPLOYMENTS, "shop", "web") is not None
    assert tokens.asked == [False, True, False]


def test_who_is_not_known_with_a_new_token_either_is_denied(cluster: FakeKubernetes) -> None:
    tokens = Tokens("Canary7-nobody-knows-me")

    with pytest.raises(Denied, match="answered 401 Unauthorized") as refused:
        client(cluster.server, token=tokens).get(DEPLOYMENTS, "shop", "web")

    assert tokens.asked == [False, True]
    assert "docs/kubernetes.md" in refused.value.remedy


def test_each_refusal_names_the_rule_that_is_missing(cluster: FakeKubernetes) -> None:
    kubernetes = of(cluster, "keyturn")

    def remedy(call: str, *more: object) -> str:
        with pytest.raises(Denied, match="answered 403 Forbidden") as refused:
            getattr(kubernetes, call)(*more)
        return refused.value.remedy

    start, end = "Add to our Role in the namespace shop the rule {", "}."
    policy = " If it is there, look for an admission policy that forbids the change."
    assert remedy("get", SECRETS, "shop", "db") == (
        f'{start}apiGroups: [""], resources: [secrets], resourceNames: [db], verbs: [get]{end}'
    )
    assert remedy("list", PODS, "shop") == (
        f'{start}apiGroups: [""], resources: [pods], verbs: [list]{end}'
    )
    assert remedy("patch", DEPLOYMENTS, "shop", "web", marked("a"), Patch.MERGE) == (
        f"{start}apiGroups: [apps], resources: [deployments], resourceNames: [web],"
        f" verbs: [patch]{end}{policy}"
    )
    assert remedy("create", SECRETS, "shop", secret("new")) == (
        f'{start}apiGroups: [""], resources: [secrets], verbs: [create]{end}{policy}'
    )


@pytest.mark.parametrize("token", ["", "two words", "Canary7\r\nX: y", "Canary7-ü"])
def test_a_token_that_is_none_is_not_sent(cluster: FakeKubernetes, token: str) -> None:
    """The HTTP library would refuse a line end too, and quote the token."""
    with pytest.raises(Misconfigured, match="not one word"):
        client(cluster.server, token=Tokens(token)).get(DEPLOYMENTS, "shop", "web")

    assert cluster.requests == []


def test_the_way_in_is_found_once(cluster: FakeKubernetes) -> None:
    asked: list[str] = []
    token = Sensitive(cluster.token())

    def access() -> Access:
        asked.append("once")
        return Access(cluster.server, None, lambda _: token)

    kubernetes = Kubernetes("a cluster", access, PLENTY)
    assert asked == []
    threads = [
        threading.Thread(target=kubernetes.get, args=[DEPLOYMENTS, "shop", "web"]) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert asked == ["once"]
    assert len(cluster.requests) == 8


def test_a_way_in_that_was_not_found_is_looked_for_again(cluster: FakeKubernetes) -> None:
    token = Sensitive(cluster.token())
    outcomes = [None, Access(cluster.server, None, lambda _: token)]

    def access() -> Access:
        found = outcomes.pop(0)
        if found is None:
            raise Unreachable("eks: DescribeCluster got no answer", remedy="Wait.")
        return found

    kubernetes = Kubernetes("a cluster", access, PLENTY)
    with pytest.raises(Unreachable, match="DescribeCluster"):
        kubernetes.get(DEPLOYMENTS, "shop", "web")

    assert kubernetes.get(DEPLOYMENTS, "shop", "web") is not None


# ---------------------------------------------------------------------------- what it believes

REFUSALS: list[tuple[int, str, type[KeyturnError]]] = [
    (400, "BadRequest", Misconfigured),
    (401, "Unauthorized", Denied),
    (403, "Forbidden", Denied),
    (404, "NotFound", Unsupported),
    (405, "MethodNotAllowed", Unsupported),
    (406, "NotAcceptable", Misconfigured),
    (409, "Conflict", Busy),
    (410, "Gone", Unreachable),
    (413, "RequestEntityTooLarge", Misconfigured),
    (415, "UnsupportedMediaType", Misconfigured),
    (422, "Invalid", Misconfigured),
    (501, "Whatever", Unreachable),
]


@pytest.mark.parametrize("code, reason, kind", REFUSALS)
def test_each_refusal_has_its_class_and_never_its_text(
    code: int, reason: str, kind: type[KeyturnError]
) -> None:
    """A Status quotes what it refuses, and that may be a Secret's value."""
    with scripted(status(code, reason)) as script, pytest.raises(kind) as refused:
        client(script.server).patch(SECRETS, "shop", "db", {"data": {}}, Patch.MERGE)

    assert str(refused.value) == f"a cluster: patch secrets shop/db answered {code} {reason}"


@pytest.mark.parametrize("reason", ["two words", "x" * 41, "line\nend", "", 7, None, {"a": 1}])
def test_a_reason_that_is_not_one_word_is_not_shown(reason: object) -> None:
    with scripted(answer(422, {"reason": reason})) as script, pytest.raises(KeyturnError) as error:
        client(script.server).get(SECRETS, "shop", "db")

    assert str(error.value) == "a cluster: get secrets shop/db answered 422"


@pytest.mark.parametrize(
    "body",
    [b"<html>Sign in</html>", b"", b"[]", b'"text"', b"\xff\xfe", b"[" * 100_000, b"null"],
    ids=["page", "empty", "list", "text", "bytes", "deep", "null"],
)
def test_an_answer_that_is_no_object_is_no_answer(body: bytes) -> None:
    with scripted(answer(200, body)) as script:
        with pytest.raises(Unreachable, match="no JSON object"):
            client(script.server).get(DEPLOYMENTS, "shop", "web")
        with pytest.raises(Unreachable, match="no JSON object"):
            client(script.server).create(SECRETS, "shop", secret())


def test_a_refusal_that_is_no_object_is_one_all_the_same() -> None:
    with scripted(answer(403, b"<html>No</html>")) as script, pytest.raises(Denied):
        client(script.server).get(DEPLOYMENTS, "shop", "web")


def test_a_redirect_is_not_followed() -> None:
    """The token would go along, to wherever the answer says."""
    with scripted(answer(200, OBJECT)) as thief:
        moved = answer(307, {}, Location=f"{thief.server}/api")
        with scripted(moved) as script, pytest.raises(Misconfigured, match="answered 307"):
            client(script.server).get(DEPLOYMENTS, "shop", "web")

        assert thief.got == []


def test_no_proxy_is_taken_from_the_environment(
    cluster: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scripted(answer(200, OBJECT)) as proxy:
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, proxy.server)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)

        assert of(cluster).get(DEPLOYMENTS, "shop", "web") is not None
        assert proxy.got == []


def test_an_answer_may_not_be_larger_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "LARGEST_BYTES", 100_000)
    with (
        scripted(answer(200, b" " * 100_001)) as script,
        pytest.raises(Unsupported, match="over 100000 bytes"),
    ):
        client(script.server).get(DEPLOYMENTS, "shop", "web")

    assert len(script.got) == 1


def test_an_answer_that_is_cut_off_is_tried_again() -> None:
    whole = answer(200, OBJECT)
    with scripted(whole[:-10], whole) as script:
        assert client(script.server).get(DEPLOYMENTS, "shop", "web") == OBJECT

    assert len(script.got) == 2


def test_a_chunked_answer_that_is_cut_off_is_tried_again() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = json.dumps(OBJECT).encode()
    chunk = b"%x\r\n%s\r\n" % (len(body), body)
    with scripted(head + chunk, head + chunk + b"0\r\n\r\n") as script:
        assert client(script.server).get(DEPLOYMENTS, "shop", "web") == OBJECT

    assert len(script.got) == 2


def test_an_answer_that_drips_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes in time, and all of them never."""
    monkeypatch.setattr(line, "TRIES", 1)
    monkeypatch.setattr(line, "TRY_S", 0.5)
    with scripted(answer(200, b" " * 1_000)) as script:
        script.pause_s = 0.01
        started = time.monotonic()
        with pytest.raises(Unreachable):
            client(script.server).get(DEPLOYMENTS, "shop", "web")

    assert time.monotonic() - started < 3


def test_compressed_answers_are_neither_asked_for_nor_unpacked() -> None:
    """A small answer cannot become a large one."""
    with (
        scripted(answer(200, b"\x1f\x8b" + b"x" * 40, Content_Encoding="gzip")) as script,
        pytest.raises(Unreachable, match="no JSON object"),
    ):
        client(script.server).get(DEPLOYMENTS, "shop", "web")

    assert b"accept-encoding: gzip" not in script.got[0].lower()


def test_one_connection_serves_many_calls(cluster: FakeKubernetes) -> None:
    kubernetes = of(cluster)
    threads = threading.active_count()

    for _ in range(5):
        kubernetes.get(DEPLOYMENTS, "shop", "web")

    # The server has a thread for each connection.
    assert threading.active_count() - threads <= 1


# ---------------------------------------------------------------------------- TLS


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "cluster")


def pem(authority: Authority) -> str:
    return authority.file.read_text()


def test_the_clusters_own_authority_vouches_for_it(authority: Authority) -> None:
    with scripted(answer(200, OBJECT), issued=authority.issue("127.0.0.1")) as script:
        found = client(script.server, ca=pem(authority)).get(DEPLOYMENTS, "shop", "web")

    assert found == OBJECT


def test_a_kept_connection_over_tls_serves_many_calls(authority: Authority) -> None:
    with FakeKubernetes(namespaces=["shop"], authority=authority) as cluster:
        token = Sensitive(cluster.token())
        kubernetes = client(cluster.server, ca=pem(authority), token=lambda _: token)

        cluster.put(secret())
        assert kubernetes.get(SECRETS, "shop", "db") is not None
        assert kubernetes.get(SECRETS, "shop", "none") is None


@pytest.mark.parametrize("is_own", [True, False], ids=["another authority", "the system's"])
def test_an_impostor_is_refused(authority: Authority, tmp_path: Path, is_own: bool) -> None:  # noqa: FBT001  # a case
    other = Authority(tmp_path, "other")
    with scripted(answer(200, OBJECT), issued=other.issue("127.0.0.1")) as script:
        started = time.monotonic()
        with pytest.raises(Misconfigured, match="an authority that is not trusted"):
            client(script.server, ca=pem(authority) if is_own else None).get(
                DEPLOYMENTS, "shop", "web"
            )

    # urllib3 tries certificates again by itself unless it is told not to: 3 s for nothing.
    assert time.monotonic() - started < 1
    assert script.connections == 1
    assert script.got == []


def test_a_certificate_for_another_host_is_refused(authority: Authority) -> None:
    with (
        scripted(answer(200, OBJECT), issued=authority.issue("api.example.com")) as script,
        pytest.raises(Misconfigured, match="is for another address"),
    ):
        client(script.server, ca=pem(authority)).get(DEPLOYMENTS, "shop", "web")

    assert (script.connections, script.got) == (1, [])


def test_a_certificate_that_has_expired_is_refused(authority: Authority) -> None:
    old = authority.issue("127.0.0.1", until=NOW - DAY)
    with (
        scripted(answer(200, OBJECT), issued=old) as script,
        pytest.raises(Misconfigured, match="has expired"),
    ):
        client(script.server, ca=pem(authority)).get(DEPLOYMENTS, "shop", "web")

    assert (script.connections, script.got) == (1, [])


def test_the_deployments_authority_is_trusted_where_the_cluster_has_none(
    authority: Authority,
) -> None:
    around = Surroundings(lambda: 600.0, ca_file=str(authority.file))
    with scripted(answer(200, OBJECT), issued=authority.issue("127.0.0.1")) as script:
        assert client(script.server, surroundings=around).get(DEPLOYMENTS, "shop", "web") == OBJECT


def test_a_clusters_authority_is_the_only_one(authority: Authority, tmp_path: Path) -> None:
    """Who can sign for the whole world may not sign for this cluster."""
    other = Authority(tmp_path, "other")
    around = Surroundings(lambda: 600.0, ca_file=str(other.file))
    with (
        scripted(answer(200, OBJECT), issued=other.issue("127.0.0.1")) as script,
        pytest.raises(Misconfigured, match="not trusted"),
    ):
        client(script.server, ca=pem(authority), surroundings=around).get(
            DEPLOYMENTS, "shop", "web"
        )


@pytest.mark.parametrize("ca", ["", "not PEM", "ünicode", "-----BEGIN CERTIFICATE-----\n!\n"])
def test_an_authority_that_is_none_is_refused(ca: str) -> None:
    with pytest.raises(Misconfigured, match="no certificate in PEM"):
        client("https://127.0.0.1:1", ca=ca).get(DEPLOYMENTS, "shop", "web")


def test_a_server_without_tls_gets_no_token() -> None:
    """It does not speak TLS, so the handshake fails, and nothing else is tried."""
    with scripted(answer(200, OBJECT)) as script, pytest.raises(Unreachable):
        client(script.server.replace("http:", "https:"), surroundings=within(3)).get(
            DEPLOYMENTS, "shop", "web"
        )

    assert not any(TOKEN.encode() in each for each in script.got)


def test_plain_text_is_for_loopback_and_listed_hosts() -> None:
    with pytest.raises(Misconfigured, match=r"api\.example\.com is not a host for plain text"):
        client("http://api.example.com").get(DEPLOYMENTS, "shop", "web")


@pytest.mark.parametrize(
    "server",
    ["", "api.example.com", "ftp://api.example.com", "https://", "https://a:b@api", "https://[::1",
     "https://api:port"],
)  # fmt: skip
def test_an_address_that_is_none_is_refused(server: str) -> None:
    with pytest.raises(Misconfigured, match="the API server's address is none"):
        client(server).get(DEPLOYMENTS, "shop", "web")


def test_the_address_may_be_one_of_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "TRIES", 1)
    with pytest.raises(Unreachable, match="no answer"):
        client("http://[::1]:1").get(DEPLOYMENTS, "shop", "web")


# ---------------------------------------------------------------------------- what gets out


def test_nothing_that_is_sent_is_logged(
    cluster: FakeKubernetes, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not even where somebody has told `http.client` to print what it sends."""
    http.client.HTTPConnection.debuglevel = 1
    try:
        with caplog.at_level(logging.DEBUG):
            kubernetes = of(cluster)
            kubernetes.patch(SECRETS, "shop", "db", secret(text="Canary7-second"), Patch.MERGE)
    finally:
        http.client.HTTPConnection.debuglevel = 0

    assert [each for each in caplog.records if each.name.startswith("urllib3")] == []
    assert capfd.readouterr().out == ""


def test_a_request_has_no_secret_in_its_repr() -> None:
    request = line.Request("patch secrets shop/db", "PATCH", "/", body=b"Canary7-body")

    assert "Canary7" not in repr(request)
    assert "Canary7" not in repr(line.Answer(200, "", b"Canary7-body"))


def test_a_failure_has_no_frame_with_the_library_in_it(cluster: FakeKubernetes) -> None:
    """What the library raises may quote the request; it is not even the context."""
    cluster.drop(times=9)

    with pytest.raises(Unreachable) as failed:
        of(cluster).patch(SECRETS, "shop", "db", secret(), Patch.MERGE)

    assert failed.value.__cause__ is None
    assert failed.value.__context__ is None
