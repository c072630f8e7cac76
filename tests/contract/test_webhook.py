"""Webhooks: told and asked over real HTTP, by the receiver that the documentation shows."""

from __future__ import annotations

import base64
import hmac
import json
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from keyturn import http_exchange
from keyturn.consumers.webhook import FIXES, SHAPES, TOLD_FOR, Webhook, make
from keyturn.errors import Busy, Denied, KeyturnError, Misconfigured, Unreachable
from keyturn.followers import Given
from keyturn.kubernetes.api import Kubernetes
from keyturn.kubernetes.cluster import ClusterShape
from keyturn.model import Credential, RotationId, Sensitive, Surroundings, Version
from keyturn.ports import Pickup, Sight
from keyturn.testing.certificates import Authority
from keyturn.testing.contracts import ConsumerContract, Workload

CANARY = "Canary7-"
SECRET = "prod/orders/db"
PAGE = (Path(__file__).parents[2] / "docs" / "follow-up.md").read_text(encoding="utf-8")
KEY = "whsec_" + base64.b64encode(f"{CANARY}signing-key-of-32-byte".encode()).decode()
OTHER_KEY = "whsec_" + base64.b64encode(f"{CANARY}another-key-of-32-byte".encode()).decode()
STORED_AT = datetime(2030, 1, 1, tzinfo=UTC)
FAST_S = 0.3

Answer = tuple[int, dict[str, Any]]


def version(name: str) -> Version:
    return Version(RotationId(name), Credential("app", Sensitive(f"{CANARY}value")), STORED_AT)


def receiver() -> dict[str, Any]:
    """Take the receiver's side out of the documentation, and run it."""
    section = PAGE[PAGE.index("## Webhook") :]
    found = re.search(r"^```python\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    assert found is not None
    names: dict[str, Any] = {}
    exec(found[1], names)  # noqa: S102  # our own page
    return names


@dataclass
class App:
    """An app with the receiver of the documentation. It reads what is served when it reloads.

    Attributes:
        reloads: The versions that it was made to reload for.
        got: Every request: method, path, headers and body.
        answers: What is answered instead: status and body.
    """

    names: dict[str, Any]
    served: str = "v0"
    reloads: list[str] = field(default_factory=list)
    got: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    answers: Callable[[str], tuple[int, bytes]] | None = None
    pause_s: float = 0.0
    is_down: bool = False
    location: str = ""
    host: str = ""

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Any:
        query = path.partition("?")[2].encode()
        return self.names["answer"](method, query, headers, body, self.reloads.append)

    def wait(self) -> None:
        self.names["state"]["runs"] = self.served

    def posts(self) -> list[tuple[dict[str, str], Any]]:
        return [(head, json.loads(body)) for method, _, head, body in self.got if method == "POST"]

    @contextmanager
    def outage(self) -> Iterator[None]:
        self.is_down = True
        yield
        self.is_down = False


class Handler(BaseHTTPRequestHandler):
    app: App

    def do_GET(self) -> None:
        app = self.app
        if app.is_down:
            self.close_connection = True
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", 0)))
        app.got.append((self.command, self.path, headers, body))
        if app.answers is not None:
            status, content = app.answers(self.command)
        else:
            status, tree = app.answer(self.command, self.path, headers, body)
            content = json.dumps(tree).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        if app.location:
            self.send_header("Location", app.location)
        self.end_headers()
        for at in range(0, len(content), 1 if app.pause_s else len(content) or 1):
            self.wfile.write(content[at : at + (1 if app.pause_s else len(content))])
            time.sleep(app.pause_s)

    do_POST = do_GET  # noqa: N815  # the name is http.server's

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # http.server's
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that have hung up."""


@contextmanager
def serving(app: App, context: ssl.SSLContext | None = None) -> Iterator[App]:
    server = Server(("127.0.0.1", 0), type("Its", (Handler,), {"app": app}))
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    app.host = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=[0.02], daemon=True)
    thread.start()
    try:
        yield app
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    monkeypatch.setenv("WEBHOOK_KEY", KEY)
    app = App(receiver())
    app.names["state"].update(told="v0", runs="v0")
    with serving(app):
        yield app


def no_cluster(shape: ClusterShape | None) -> Kubernetes:
    raise AssertionError(shape)


def no_clients(service: str, region: str | None) -> Any:
    raise AssertionError((service, region))


def given(key: str = KEY, surroundings: Surroundings | None = None) -> Given:
    def signing_secret(name: str) -> Sensitive:
        assert name == "prod/keyturn/webhook-key"
        return Sensitive(key)

    return Given(
        SECRET,
        no_clients,
        no_cluster,
        lambda version, rendering: Sensitive(f"{CANARY}{version} {rendering}"),
        lambda version: {"": version.credential.secret},
        signing_secret,
        surroundings or Surroundings(lambda: 60.0),
    )


def webhook(  # noqa: PLR0913  # each of them matters to one test
    app: App,
    path: str = "/keyturn",
    *,
    key: str = KEY,
    scheme: str = "http",
    is_asked: bool = True,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    surroundings: Surroundings | None = None,
    promoted_at: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Webhook:
    return Webhook(
        f"{scheme}://{app.host}{path}",
        replace(given(key, surroundings), promoted_at=promoted_at),
        signing_secret="prod/keyturn/webhook-key",
        is_asked=is_asked,
        now=now,
    )


def tell(consumer: Webhook, name: str) -> Sight:
    sight = consumer.verify(version(name))
    consumer.trigger(RotationId(name), sight)
    return sight


class TestWebhook(ConsumerContract):
    @pytest.fixture
    def workload(self, app: App) -> Workload:
        def serve(served: Version) -> None:
            app.served = served.rotation_id

        def put_back() -> None:
            app.names["state"]["runs"] = "v0"

        def claim() -> None:
            """Be up to date, with whatever it has."""
            said = json.dumps({"version": "v0", "state": "followed", "told": "v1"}).encode()
            app.answers = lambda _: (200, said)

        return Workload(
            webhook(app), serve, app.wait, put_back, claim, lambda: len(app.reloads), app.outage
        )


def refusal(act: Callable[[], object]) -> KeyturnError:
    with pytest.raises(KeyturnError) as caught:
        act()
    assert CANARY not in f"{caught.value!r} {caught.value.remedy} {caught.value.__context__!r}"
    return caught.value


# ---------------------------------------------------------------------------- what is sent


def test_a_post_names_the_secret_and_the_version_and_nothing_else(app: App) -> None:
    tell(webhook(app), "v1")

    [(headers, event)] = app.posts()
    assert event == {
        "type": "secret.current",
        "data": {"secret": SECRET, "version": "v1", "after": "v0"},
    }
    assert headers["content-type"] == "application/json"


def test_the_id_is_of_the_secret_and_the_version(app: App) -> None:
    """So that what is told twice can be dropped. A question has another one each time."""
    for name in ("v1", "v1", "v2"):
        tell(webhook(app), name)

    first, again, next_ = (headers["webhook-id"] for headers, _ in app.posts())
    assert first == again != next_
    asked = [headers["webhook-id"] for method, _, headers, _ in app.got if method == "GET"]
    assert len({*asked, first, next_}) == len(asked) + 2


def test_a_signature_is_that_of_the_standard() -> None:
    """Worked out with the standard's own Python library, version 1.1.0."""
    content = b'msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{"test": 2432232314}'

    made = http_exchange.signature(Sensitive("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), content)

    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_url_keeps_its_query_and_what_is_signed_is_all_of_it(app: App) -> None:
    sight = webhook(app, "/hook?team=a%20b").verify(version("v1"))

    [(_, path, headers, _)] = app.got
    assert path == "/hook?team=a%20b&secret=prod%2Forders%2Fdb&version=v1"
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.{path[6:]}".encode()
    key = base64.b64decode(KEY.removeprefix("whsec_"))
    expected = base64.b64encode(hmac.digest(key, content, "sha256")).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert sight.pickup is Pickup.UNTOLD


def test_it_is_named_without_its_query(app: App) -> None:
    assert webhook(app, "/hook?team=a").name() == f"webhook:http://{app.host}/hook"


@pytest.mark.parametrize(
    "key", ["", "whsec_", f"{CANARY}no base64", "whsec_AAAA", "A" * 88, "whsec_-_" + "A" * 42]
)
def test_a_key_that_is_none_is_refused_and_not_shown(app: App, key: str) -> None:
    error = refusal(lambda: webhook(app, key=key).verify(version("v1")))

    assert isinstance(error, Misconfigured)
    assert "24 to 64 bytes in Base64" in str(error)
    assert app.got == []


# ---------------------------------------------------------------------------- what is refused there


def send_again(app: App, headers: dict[str, str], body: bytes, path: str = "/keyturn") -> int:
    """Send what somebody has listened to."""
    line = HTTPConnection(app.host, timeout=5)
    line.request("POST" if body else "GET", path, body or None, headers)
    status = line.getresponse().status
    line.close()
    return status


def test_a_replay_does_nothing(app: App) -> None:
    """It is dropped by its version at once, and by its time later."""
    tell(webhook(app), "v1")
    method, _, headers, body = app.got[-1]
    assert method == "POST"

    assert send_again(app, headers, body) == 200
    app.names["time"] = Later(301)
    assert send_again(app, headers, body) == 401
    assert app.reloads == ["v1"]


class Later:
    """The module `time`, some seconds later."""

    def __init__(self, seconds: int) -> None:
        self._seconds = seconds

    def time(self) -> float:
        return time.time() + self._seconds


def test_nothing_of_what_is_signed_can_be_changed(app: App) -> None:
    tell(webhook(app), "v1")
    (_, asked, ask_headers, _), (_, _, headers, body) = app.got

    assert send_again(app, ask_headers, b"", asked) == 200
    assert send_again(app, ask_headers, b"", asked.replace("v1", "v2")) == 401
    assert send_again(app, headers, body.replace(b"v1", b"v2")) == 401
    assert send_again(app, {**headers, "webhook-id": "msg_other"}, body) == 401
    assert app.reloads == ["v1"]


def test_another_key_is_denied(app: App) -> None:
    error = refusal(lambda: webhook(app, key=OTHER_KEY).verify(version("v1")))

    assert isinstance(error, Denied)
    assert str(error) == f"GET http://{app.host}/keyturn answered 401"
    assert error.remedy == "Give the receiver the key that signs, and compare its clock."
    assert app.reloads == []


def test_an_old_time_is_denied(app: App) -> None:
    late = webhook(app, now=lambda: datetime.now(UTC) - timedelta(seconds=301))

    assert isinstance(refusal(lambda: late.verify(version("v1"))), Denied)


def test_a_receiver_that_was_told_of_something_else_turns_a_late_worker_away(app: App) -> None:
    consumer = webhook(app)
    seen = consumer.verify(version("v1"))
    tell(consumer, "v2")

    assert isinstance(refusal(lambda: consumer.trigger(RotationId("v1"), seen)), Busy)
    assert app.reloads == ["v2"]


# ---------------------------------------------------------------------------- what is believed


def says(app: App, tree: object) -> None:
    content = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
    app.answers = lambda _: (200, content)


def test_what_it_says_of_another_version_says_nothing(app: App) -> None:
    for state in Pickup:
        says(app, {"version": "v0", "state": state})
        assert webhook(app).verify(version("v1")).pickup is Pickup.UNTOLD


@pytest.mark.parametrize("state", list(Pickup))
def test_what_it_says_of_the_version_counts(app: App, state: Pickup) -> None:
    says(app, {"version": "v1", "state": state, "told": "v9", "more": [1]})

    sight = webhook(app).verify(version("v1"))

    assert (sight.pickup, sight.mark) == (state, "v9")
    assert bool(sight.waits_for) is (state is not Pickup.FOLLOWED)


@pytest.mark.parametrize(
    "tree",
    [
        [],
        {},
        {"state": "followed"},
        {"version": "v1"},
        {"version": 1, "state": "followed"},
        {"version": "v1", "state": f"{CANARY}value"},
        {"version": "v1", "state": "followed", "told": 1},
        {"version": "v1", "state": "waiting", "told": "x" * 257},
        {"version": "v1", "state": "waiting", "waits_for": [f"{CANARY}value"]},
    ],
)
def test_an_answer_of_another_shape_is_refused_and_not_shown(app: App, tree: object) -> None:
    says(app, tree)

    error = refusal(lambda: webhook(app).verify(version("v1")))

    assert isinstance(error, Misconfigured)
    assert "is none that is known here" in str(error)


@pytest.mark.parametrize(
    "content", [b"", b"followed", b"\xff", b'{"version": "v1", "state": "waiting"', b"NaN"]
)
def test_what_is_no_json_is_no_answer(app: App, content: bytes) -> None:
    says(app, content)

    assert isinstance(refusal(lambda: webhook(app).verify(version("v1"))), Unreachable)


@pytest.mark.parametrize(
    "text, shown",
    [
        ("3 of 5 workers", "3 of 5 workers"),
        (f"a login with {CANARY}value", "it says that it is waiting"),
        ("two\nlines", "it says that it is waiting"),
        ("", "it says that it is waiting"),
        ("x" * 300, "x" * 200),
        ("password=hunter2 refused", "password=*** refused"),
    ],
)
def test_what_it_waits_for_is_shown_with_care(app: App, text: str, shown: str) -> None:
    """It holds the value itself, and may quote it."""
    says(app, {"version": "v1", "state": "waiting", "waits_for": text})

    assert webhook(app).verify(version("v1")).waits_for == shown


@pytest.mark.parametrize(
    "status, kind",
    [
        *((status, Misconfigured) for status in (301, 302, 307, 308, 400, 404, 405, 410)),
        *((status, Unreachable) for status in (408, 429, 500, 502, 503)),
        (403, Denied),
        (409, Busy),
    ],
)
def test_a_status_is_what_it_says(app: App, status: int, kind: type[KeyturnError]) -> None:
    """Whatever is in the body; and nobody is followed elsewhere."""
    said = json.dumps({"version": "v1", "state": "followed"}).encode()
    app.answers = lambda _: (status, said)
    app.location = f"http://{app.host}/elsewhere"
    consumer = webhook(app)

    assert type(refusal(lambda: consumer.verify(version("v1")))) is kind
    assert (
        type(refusal(lambda: consumer.trigger(RotationId("v1"), Sight(Pickup.UNTOLD, "")))) is kind
    )
    assert [path.partition("?")[0] for _, path, _, _ in app.got] == ["/keyturn", "/keyturn"]


def test_an_answer_that_drips_is_none(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_exchange, "TIMEOUT_S", FAST_S)
    app.pause_s = FAST_S / 10
    started = time.monotonic()

    error = refusal(lambda: webhook(app).verify(version("v1")))

    assert isinstance(error, Unreachable)
    assert time.monotonic() - started < 3 * FAST_S


def test_an_answer_without_end_is_none(app: App) -> None:
    says(app, b" " * (http_exchange.LARGEST_BYTES + 1))

    assert isinstance(refusal(lambda: webhook(app).verify(version("v1"))), Unreachable)


# ---------------------------------------------------------------------------- where it goes


@pytest.mark.parametrize("is_trusted", [True, False])
def test_tls_is_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_trusted: bool
) -> None:
    monkeypatch.setenv("WEBHOOK_KEY", KEY)
    authority, stranger = Authority(tmp_path, "ours"), Authority(tmp_path, "stranger")
    issued = authority.issue("127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.certificate, issued.key)
    trusted = authority if is_trusted else stranger
    surroundings = Surroundings(lambda: 60.0, ca_file=str(trusted.file))

    with serving(App(receiver()), context) as secure:
        consumer = webhook(secure, scheme="https", surroundings=surroundings)
        if is_trusted:
            tell(consumer, "v1")
        else:
            assert isinstance(refusal(consumer.preflight), Misconfigured)

        assert secure.reloads == (["v1"] if is_trusted else [])


def test_plain_text_is_for_hosts_that_the_deployment_lists(app: App) -> None:
    app.host = "receiver.example.com"

    error = refusal(lambda: webhook(app).verify(version("v1")))

    assert str(error) == "receiver.example.com is not a host for plain text"


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "[fe80::1]", "[fd00:ec2::254]", "[::ffff:169.254.169.254]:80"]
)
def test_an_address_of_the_cloud_itself_is_refused(app: App, host: str) -> None:
    app.host = host

    assert "an address of the cloud itself" in str(refusal(lambda: webhook(app, scheme="https")))


@pytest.mark.parametrize("host", ["[x", "a:b", "a:0", "a:99999", ":80", "a/\n"])
def test_what_is_no_host_is_refused(app: App, host: str) -> None:
    app.host = host

    assert isinstance(refusal(lambda: webhook(app)), Misconfigured)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://a/",
        "https://",
        "https://user:password@a/",
        "https://a/#b",
        "https://a/{b}",
        "https://a/b c",
        "https://a?b",
        "https://ä/",
    ],
)
def test_a_plans_url_is_one(url: str) -> None:
    shape = SHAPES["webhook"]

    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"url": url, "signing_secret": "a"}, shape)


# ---------------------------------------------------------------------------- one that is not asked


def test_one_that_is_not_asked_is_told_at_each_look_for_a_while(app: App) -> None:
    """Under one id, and nothing is claimed of it."""
    now = [datetime.now(UTC)]
    promoted = now[0]
    consumer = webhook(app, is_asked=False, now=lambda: now[0], promoted_at=lambda: promoted)
    # Stored long before it was promoted: a rotation may take its time.
    current = Version(RotationId("v1"), version("v1").credential, now[0] - timedelta(days=2))

    consumer.preflight()
    for _ in range(3):
        seen = consumer.verify(current)
        consumer.trigger(RotationId("v1"), seen)
        assert seen.pickup is Pickup.UNTOLD
    now[0] += TOLD_FOR
    after = consumer.verify(current)

    assert after.pickup is Pickup.WAITING
    assert [method for method, *_ in app.got] == ["POST"] * 3
    assert app.reloads == ["v1"]
    assert len({headers["webhook-id"] for headers, _ in app.posts()}) == 1
    assert all("after" not in event["data"] for _, event in app.posts())


def test_a_plan_makes_one(app: App) -> None:
    shape = SHAPES["webhook"]
    settings = {"url": f"http://{app.host}/keyturn", "signing_secret": "prod/keyturn/webhook-key"}
    asked, told = (
        make("webhook", msgspec.convert({**settings, **more}, shape), given())
        for more in ({}, {"verify": "none"})
    )

    assert asked.verify(version("v0")).pickup is Pickup.FOLLOWED
    assert told.name() == f"webhook:http://{app.host}/keyturn"
    assert len(app.got) == 1
    assert set(FIXES) == {"webhook"} | {each.name for each in msgspec.structs.fields(shape)}
