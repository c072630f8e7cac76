"""A strict HTTP API that makes keys, in the shape of a provider, which breaks when a test says.

    Toy             no provider's: two keys at most, which can be deactivated, times and last use
    Bare            no list; makes one key for one idempotency key
    SendGrid, Twilio, GitLab, Elasticsearch
                    as their public documentation has it; the recipes in `docs/recipes` are for them

Whatever the documentation does not have is refused: unknown paths, parameters and members, another
content type, a wrong credential. A request may be lost, its answer may be, and there is more that
goes wrong between two machines: `Fault`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from email.utils import format_datetime
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import ClassVar, Self
from urllib.parse import parse_qsl, urlsplit

from keyturn.model import Sensitive

MARKER = "Canary7-"
ADMIN_ID, ADMIN_SECRET = "admin", f"{MARKER}administers-keys"
HUGE_BYTES = 1_100_000
GITLAB_LONGEST = timedelta(days=365)


class Fault(Enum):
    """What becomes of one request."""

    NONE = "none"
    LOST_REQUEST = "lost request"
    TOO_MANY = "429"
    DOWN = "503"
    ELSEWHERE = "redirect"
    LOST_REPLY = "lost reply"
    FAILED = "500 after the effect"
    SLOW = "time-out"
    CUT = "truncated body"
    GARBLED = "invalid JSON"
    HUGE = "huge body"


BEFORE = {Fault.LOST_REQUEST, Fault.TOO_MANY, Fault.DOWN, Fault.ELSEWHERE}
"""Faults without an effect."""

_STATUS = {Fault.TOO_MANY: 429, Fault.DOWN: 503, Fault.ELSEWHERE: 302, Fault.FAILED: 500}


@dataclass
class ApiKey:
    """A key, and what the API knows of it."""

    key_id: str
    secret: Sensitive
    name: str
    created_at: datetime
    used_at: datetime | None = None
    is_active: bool = True
    is_gone: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    def json(self) -> dict[str, object]:
        """Return the body, which must be a JSON object, and said to be JSON."""
        if self.headers.get("content-type") != "application/json":
            raise Refused(415)
        found = json.loads(self.body)
        if not isinstance(found, dict):
            raise Refused(400)
        return found

    def form(self) -> dict[str, str]:
        """Return the body as a form."""
        if self.headers.get("content-type") != "application/x-www-form-urlencoded":
            raise Refused(415)
        return dict(parse_qsl(self.body.decode(), strict_parsing=True))


@dataclass(frozen=True, slots=True)
class Reply:
    """What is answered."""

    status: int
    body: object = None
    headers: Mapping[str, str] = field(default_factory=dict)


class Refused(Exception):
    """The request is not one that the API has."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Shape:
    """One provider's API. What all have in common."""

    most: ClassVar[int] = 100

    def answer(self, api: StrictApi, asked: Asked) -> Reply:
        """Do what is asked."""
        raise NotImplementedError

    def key_id(self, number: int, tail: str) -> str:
        """Return the id of a new key."""
        return f"key-{number}-{tail[:8]}"

    def stored(self, key: ApiKey) -> str:
        """Return what the secret holds of a key."""
        return key.secret.reveal()


class StrictApi:
    """The server, and the keys that it has made."""

    def __init__(self, shape: Shape, now: Callable[[], datetime]) -> None:
        self.shape = shape
        self.now = now
        self.keys: dict[str, ApiKey] = {}
        self.asked: list[str] = []
        self.fault: Callable[[int, str], Fault] = lambda *_: Fault.NONE
        self.after: Callable[[str], None] = lambda _: None
        self.list_lag_s = 0.0
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()
        self._release = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.host = f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        poll_s = 0.001
        threading.Thread(target=self._server.serve_forever, args=[poll_s], daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._release.set()
        self._server.shutdown()
        self._server.server_close()

    def make_key(self, name: str = "", age: timedelta = timedelta(0)) -> ApiKey:
        """Make a key, as a person would."""
        with self._lock:
            number = next(self._numbers)
            tail = hashlib.sha256(str(number).encode()).hexdigest()
            key_id = self.shape.key_id(number, tail)
            key = ApiKey(key_id, Sensitive(f"{MARKER}{tail}"), name, self.now() - age)
            self.keys[key_id] = key
            return key

    def alive(self) -> list[ApiKey]:
        """Return what is not deleted."""
        return [key for key in self.keys.values() if not key.is_gone]

    def would_accept(self, key_id: str, stored: Sensitive) -> bool:
        """Tell whether a key works, without a request."""
        key = self.keys.get(key_id)
        is_alive = key is not None and key.is_active and not key.is_gone
        return key is not None and is_alive and Sensitive(self.shape.stored(key)) == stored

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Answer nothing, and do nothing, until the block ends."""
        with self.break_all(Fault.LOST_REQUEST):
            yield

    @contextmanager
    def break_all(self, fault: Fault, what: str = "") -> Iterator[None]:
        """Break every request whose name begins with *what*, until the block ends."""
        before = self.fault
        self.fault = lambda _, name: fault if name.startswith(what) else Fault.NONE
        try:
            yield
        finally:
            self.fault = before

    # ------------------------------------------------------------------ what the shapes need

    def require_admin(self, got: str, wanted: str) -> None:
        """Refuse whoever is not the admin."""
        if got != wanted:
            raise Refused(401)

    def listed(self) -> list[ApiKey]:
        """Return what lists show."""
        then = self.now() - timedelta(seconds=self.list_lag_s)
        return [key for key in self.alive() if key.created_at <= then]

    def found(self, key_id: str) -> ApiKey:
        """Return a key that is there."""
        key = self.keys.get(key_id)
        if key is None or key.is_gone:
            raise Refused(404)
        return key

    def used(self, matches: Callable[[ApiKey], bool]) -> ApiKey:
        """Return the key that was used, and note that it was."""
        for key in self.alive():
            if key.is_active and matches(key):
                key.used_at = self.now()
                return key
        raise Refused(401)

    def created(self, name: object) -> ApiKey:
        """Make a key that is asked for."""
        if not isinstance(name, str) or not 1 <= len(name) <= 64:  # noqa: PLR2004  # Twilio's
            raise Refused(400)
        if len(self.alive()) >= self.shape.most:
            raise Refused(409)
        return self.make_key(name)

    # ------------------------------------------------------------------ requests

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        api = self

        class Handler(BaseHTTPRequestHandler):
            wbufsize = -1  # one packet, not a wait for the acknowledgement of the first

            def _serve(self) -> None:
                api.serve(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815  # http.server's names

            def log_message(self, *_: object) -> None:
                """Keep quiet."""

        return Handler

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one request, or do what `fault` says."""
        url = urlsplit(handler.path)
        length = int(handler.headers.get("Content-Length") or 0)
        asked = Asked(
            handler.command,
            url.path,
            dict(parse_qsl(url.query, keep_blank_values=True)),
            {name.lower(): value for name, value in handler.headers.items()},
            handler.rfile.read(length),
        )
        with self._lock:
            name = f"{asked.method} {asked.path}"
            self.asked.append(name)
            fault = self.fault(len(self.asked), name)
            reply = Reply(0) if fault in BEFORE else self._reply(asked)
            self.after(name)
        handler.close_connection = True
        self._send(handler, fault, reply)

    def _reply(self, asked: Asked) -> Reply:
        try:
            return self.shape.answer(self, asked)
        except Refused as refused:
            return Reply(refused.status, {"error": "refused"})
        except ValueError:
            return Reply(400, {"error": "malformed"})

    def _send(self, handler: BaseHTTPRequestHandler, fault: Fault, reply: Reply) -> None:
        if fault in {Fault.LOST_REQUEST, Fault.LOST_REPLY}:
            return
        if fault is Fault.SLOW:
            self._release.wait(5)
            return
        content = b"" if reply.body is None else json.dumps(reply.body).encode()
        if fault is Fault.GARBLED:
            content = content[:-1] or b"{"
        if fault is Fault.HUGE:
            content = content + b" " * HUGE_BYTES
        handler.send_response(_STATUS.get(fault, reply.status or 500))
        for name, value in reply.headers.items():
            handler.send_header(name, value)
        if fault is Fault.ELSEWHERE:
            handler.send_header("Location", f"http://{self.host}/elsewhere")
        has_body = reply.status != 204 or fault is not Fault.NONE  # noqa: PLR2004  # No Content
        if has_body:
            handler.send_header("Content-Length", str(len(content) + (fault is Fault.CUT)))
        handler.end_headers()
        with suppress(OSError):  # who asked may have heard enough
            handler.wfile.write(content)


def basic(user: str, password: str) -> str:
    """Return a header's value (RFC 7617)."""
    return f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"


def _exactly(members: Mapping[str, object], *names: str) -> None:
    if set(members) != set(names):
        raise Refused(400)


# ---------------------------------------------------------------------------- no provider's


class Toy(Shape):
    """Bearer for the admin, Basic for the keys, which may sleep."""

    most = 2

    def answer(self, api: StrictApi, asked: Asked) -> Reply:
        """See `Shape.answer`."""
        if asked.path == "/whoami" and asked.method == "GET":
            got = asked.headers.get("authorization")
            key = api.used(lambda key: got == basic(key.key_id, key.secret.reveal()))
            return Reply(200, {"key": key.key_id})
        api.require_admin(asked.headers.get("authorization", ""), f"Bearer {ADMIN_SECRET}")
        match asked.method, asked.path.split("/")[1:]:
            case "POST", ["keys"]:
                _exactly(asked.json(), "label")
                key = api.created(asked.json()["label"])
                return Reply(201, {"key": {"id": key.key_id, "value": key.secret.reveal()}})
            case "GET", ["keys"]:
                return Reply(200, {"keys": [self._shown(key) for key in api.listed()]})
            case "PATCH", ["keys", key_id]:
                _exactly(asked.json(), "enabled")
                api.found(key_id).is_active = bool(asked.json()["enabled"])
                return Reply(200, {})
            case "DELETE", ["keys", key_id]:
                api.found(key_id).is_gone = True
                return Reply(204)
        raise Refused(404)

    def _shown(self, key: ApiKey) -> dict[str, object]:
        used = key.used_at.isoformat() if key.used_at is not None else None
        return {
            "id": key.key_id,
            "label": key.name,
            "created": key.created_at.timestamp(),
            "used": used,
            "enabled": key.is_active,
        }


class Bare(Shape):
    """Nothing lists its keys. Whoever sends the same idempotency key gets the same key."""

    def __init__(self) -> None:
        self._by_request: dict[str, ApiKey] = {}

    def answer(self, api: StrictApi, asked: Asked) -> Reply:
        """See `Shape.answer`."""
        if asked.path == "/whoami" and asked.method == "GET":
            got = asked.headers.get("authorization")
            api.used(lambda key: got == f"Bearer {key.secret.reveal()}")
            return Reply(200, {})
        api.require_admin(asked.headers.get("authorization", ""), f"Bearer {ADMIN_SECRET}")
        match asked.method, asked.path.split("/")[1:]:
            case "POST", ["keys"]:
                key = self._made(api, asked)
                return Reply(201, {"id": key.key_id, "value": key.secret.reveal()})
            case "DELETE", ["keys", key_id]:
                api.found(key_id).is_gone = True
                return Reply(204)
        raise Refused(404)

    def _made(self, api: StrictApi, asked: Asked) -> ApiKey:
        name = asked.headers.get("idempotency-key")
        if name is None:
            return api.created("nameless")
        if name not in self._by_request:
            self._by_request[name] = api.created("nameless")
        return self._by_request[name]


# ---------------------------------------------------------------------------- providers


class SendGrid(Shape):
    """See https://www.twilio.com/docs/sendgrid/api-reference/api-keys/create-api-keys ."""

    def answer(self, api: StrictApi, asked: Asked) -> Reply:
        """See `Shape.answer`."""
        got = asked.headers.get("authorization", "")
        if (asked.method, asked.path) == ("GET", "/v3/scopes"):
            api.used(lambda key: got == f"Bearer {key.secret.reveal()}")
            return Reply(200, {"scopes": ["mail.send"]})
        api.require_admin(got, f"Bearer {ADMIN_SECRET}")
        match asked.method, asked.path.split("/")[1:]:
            case "POST", ["v3", "api_keys"]:
                _exactly(asked.json(), "name", "scopes")
                key = api.created(asked.json()["name"])
                shown = {"api_key": key.secret.reveal(), "scopes": asked.json()["scopes"]}
                return Reply(201, {**self._shown(key), **shown})
            case "GET", ["v3", "api_keys"]:
                return Reply(200, {"result": [self._shown(key) for key in api.listed()]})
            case "DELETE", ["v3", "api_keys", key_id]:
                api.found(key_id).is_gone = True
                return Reply(204)
        raise Refused(404)

    def _shown(self, key: ApiKey) -> dict[str, object]:
        return {"api_key_id": key.key_id, "name": key.name}


class Twilio(Shape):
    """See https://www.twilio.com/docs/usage/api/keys ."""

    page_size = 2

    def answer(self, api: StrictApi, asked: Asked) -> Reply:
        """See `Shape.answer`."""
        got = asked.headers.get("authorization", "")
        match asked.method, asked.path.split("/")[1:]:
            case "GET", ["2010-04-01", "Accounts", "ACCOUNT_SID", "Messages.json"]:
                api.used(lambda key: got == basic(key.key_id, key.secret.reveal()))
                return Reply(200, {"messages": []})
            case method, ["2010-04-01", "Accounts", "ACCOUNT_SID", *rest]:
                api.require_admin(got, basic(ADMIN_ID, ADMIN_SECRET))
                return self._managed(api, asked, method, rest)
        raise Refused(404)

    def _managed(self, api: StrictApi, asked: Asked, method: str, rest: list[str]) -> Reply:
        match method, rest:
            case "POST", ["Keys.json"]:
                _exactly(asked.form(), "FriendlyName")
                key = api.created(asked.form()["FriendlyName"])
                return Reply(201, {**self._shown(key), "secret": key.secret.reveal()})
            case "GET", ["Keys.json"]:
                return self._page(api, asked)
            case "DELETE", ["Keys", name] if name.endswith(".json"):
                api.found(name.removesuffix(".json")).is_gone = True
                return Reply(204)
        raise Refused(404)

    def _page(self, api: StrictApi, asked: Asked) -> Reply:
        start = int(asked.query.get("Page", "0")) * self.page_size
        keys, end = api.listed(), start + self.page_size
        more = f"{asked.path}?PageSize=100&Page={end // self.page_size}&PageToken=PAx"
        return Reply(
            200,
            {
                "keys": [self._shown(key) for key in keys[start:end]],
                "next_page_uri": more if end < len(keys) else None,
            },
        )

    def _shown(self, key: ApiKey) -> dict[str, object]:
        created = format_datetime(key.created_at)
        return {"sid": key.key_id, "friendly_name": key.name, "date_created": created}

    def key_id(self, number: int, tail: str) -> str:
        """See `Shape.key_id`."""
        return f"SK{tail[:31]}{number % 10}"


class GitLab(Shape):
    """See https://docs.gitlab.com/api/project_access_tokens/ ."""

    page_size = 2

    def answer(self, api: StrictApi, asked: Asked) -> Reply:
        """See `Shape.answer`."""
        got = asked.headers.get("private-token", "")
        if (asked.method, asked.path) == ("GET", "/api/v4/personal_access_tokens/self"):
            return Reply(200, self._shown(api.used(lambda key: got == key.secret.reveal())))
        api.require_admin(got, ADMIN_SECRET)
        match asked.method, asked.path.split("/")[1:]:
            case "POST", ["api", "v4", "projects", "1234", "access_tokens"]:
                _exactly(asked.json(), "name", "scopes", "access_level", "expires_at")
                expires_on = date.fromisoformat(str(asked.json()["expires_at"]))
                if not timedelta(0) < expires_on - api.now().date() <= GITLAB_LONGEST:
                    raise Refused(400)
                key = api.created(asked.json()["name"])
                return Reply(201, {**self._shown(key), "token": key.secret.reveal()})
            case "GET", ["api", "v4", "projects", "1234", "access_tokens"]:
                return self.page(api, asked)
            case "DELETE", ["api", "v4", "projects", "1234", "access_tokens", key_id]:
                api.found(key_id).is_gone = True
                return Reply(204)
        raise Refused(404)

    def page(self, api: StrictApi, asked: Asked) -> Reply:
        """Answer one page of the list."""
        if asked.query.get("state") != "active":
            raise Refused(400)
        start = int(asked.query.get("page", "1")) - 1
        keys, end = api.listed(), (start + 1) * self.page_size
        url = f"http://{api.host}{asked.path}?state=active&per_page=100&page="
        links = [f'<{url}1>; rel="first"']
        if end < len(keys):
            links.insert(0, f'<{url}{start + 2}>; rel="next"')
        shown = [self._shown(key) for key in keys[start * self.page_size : end]]
        return Reply(200, shown, {"Link": ", ".join(links)})

    def _shown(self, key: ApiKey) -> dict[str, object]:
        return {
            "id": int(key.key_id),
            "name": key.name,
            "created_at": f"{key.created_at:%Y-%m-%dT%H:%M:%S}.000Z",
            "last_used_at": f"{key.used_at:%Y-%m-%dT%H:%M:%S}.000Z" if key.used_at else None,
            "active": True,
            "revoked": False,
        }

    def key_id(self, number: int, tail: str) -> str:
        """See `Shape.key_id`."""
        del tail
        return str(700 + number)


class Elasticsearch(Shape):
    """See the reference on elastic.co: create, get and invalidate API keys, authenticate."""

    def answer(self, api: StrictApi, asked: Asked) -> Reply:
        """See `Shape.answer`."""
        got = asked.headers.get("authorization", "")
        if (asked.method, asked.path) == ("GET", "/_security/_authenticate"):
            key = api.used(lambda key: got == f"ApiKey {self.stored(key)}")
            return Reply(200, {"username": "x", "api_key": {"id": key.key_id, "name": key.name}})
        api.require_admin(got, basic(ADMIN_ID, ADMIN_SECRET))
        if asked.path != "/_security/api_key":
            raise Refused(404)
        match asked.method:
            case "POST":
                return self._created(api, asked)
            case "GET":
                return self._listed(api, asked)
            case "DELETE":
                return self._invalidated(api, asked)
        raise Refused(405)

    def _created(self, api: StrictApi, asked: Asked) -> Reply:
        _exactly(asked.json(), "name", "role_descriptors")
        key = api.created(asked.json()["name"])
        shown = {"api_key": key.secret.reveal(), "encoded": self.stored(key)}
        return Reply(200, {"id": key.key_id, "name": key.name, **shown})

    def _listed(self, api: StrictApi, asked: Asked) -> Reply:
        _exactly(asked.query, "name", "active_only")
        prefix = asked.query["name"].removesuffix("*")
        shown = [
            {"id": key.key_id, "name": key.name, "creation": _milliseconds(key.created_at)}
            for key in api.listed()
            if key.name.startswith(prefix)
        ]
        return Reply(200, {"api_keys": shown})

    def _invalidated(self, api: StrictApi, asked: Asked) -> Reply:
        _exactly(asked.json(), "ids")
        ids = asked.json()["ids"]
        if not isinstance(ids, list) or len(ids) != 1:
            raise Refused(400)
        api.found(str(ids[0])).is_gone = True
        return Reply(200, {"invalidated_api_keys": ids, "error_count": 0})

    def stored(self, key: ApiKey) -> str:
        """See `Shape.stored`."""
        return b64encode(f"{key.key_id}:{key.secret.reveal()}".encode()).decode()


def _milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


PROVIDERS: Mapping[str, type[Shape]] = {
    "elasticsearch": Elasticsearch,
    "gitlab": GitLab,
    "sendgrid": SendGrid,
    "twilio": Twilio,
}
"""By the name of their recipe."""
