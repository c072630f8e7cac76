"""A stand-in for the users of ElastiCache and MemoryDB, over their real wire, before a real Redis.

    ElastiCache    Query, by `query_wire`                               DescribeUsers, ModifyUser
    MemoryDB       RPC v2 CBOR, or JSON 1.1, as the SDK's age has it    DescribeUsers, UpdateUser

As the service it is strict and late: a call that changes a user answers at once, the user is
*modifying* for `delay_s`, refuses any other change meanwhile, and logs in with what was set only
afterwards. What it knows is what the API references and the SDK's models say; nothing here was
ever compared with the real services.
"""

from __future__ import annotations

import contextlib
import json
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedReader, BytesIO
from types import TracebackType
from typing import Any, Self

from botocore.parsers import RpcV2CBORParser

from keyturn.testing.query_wire import QueryWire
from keyturn.testing.wire import POLL_S, Refusal, Request, served

REGION, ACCOUNT = "eu-west-1", "123456789012"
SHORTEST, LONGEST, MOST = 16, 128, 2


@dataclass(slots=True)
class User:
    """One user of either service."""

    user_id: str
    name: str
    arn: str
    status: str = "active"
    authentication: str = "password"
    count: int = 1


@dataclass(slots=True)
class StrictElastiCache:
    """Both services. A context manager; `urls` is where they listen, by the SDK's variables.

    Attributes:
        apply: Gives a user of the real server exactly these passwords.
        delay_s: How long a change takes.
        calls: The actions that were asked for, in order.
    """

    apply: Callable[[str, list[str]], None]
    delay_s: float = 0.05
    calls: list[str] = field(default_factory=list)
    users: dict[tuple[str, str], User] = field(default_factory=dict)
    urls: dict[str, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _timers: list[threading.Timer] = field(default_factory=list)
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __enter__(self) -> Self:
        query = self._stack.enter_context(served(QueryWire("elasticache"), self._elasticache))
        handler = type("Handler", (_Handler,), {"service": self})
        server = self._stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), handler))
        server.daemon_threads = True
        self._stack.callback(server.shutdown)
        threading.Thread(target=server.serve_forever, args=[POLL_S], daemon=True).start()
        ports = {"ELASTICACHE": query, "MEMORYDB": server.server_address[1]}
        self.urls = {
            f"AWS_ENDPOINT_URL_{name}": f"http://127.0.0.1:{port}" for name, port in ports.items()
        }
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for timer in self._timers:
            timer.cancel()
        self._stack.close()

    def add(self, service: str, user_id: str, name: str) -> User:
        """Make a user, whose first password the real server has already."""
        joint = ":" if service == "elasticache" else "/"
        arn = f"arn:aws:{service}:{REGION}:{ACCOUNT}:user{joint}{user_id}"
        user = self.users[service, user_id] = User(user_id, name, arn)
        return user

    def answer(self, service: str, action: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Answer one call."""
        with self._lock:
            self.calls.append(action)
            user = self.users.get((service, str(asked.get(_KEYS[service]))))
            if user is None:
                raise Refusal("UserNotFound", "refused", HTTPStatus.NOT_FOUND)
            if action in {"ModifyUser", "UpdateUser"}:
                mode = asked if action == "ModifyUser" else asked["AuthenticationMode"]
                self._change(user, mode["Passwords"])
            return _shown(service, user, is_list=action == "DescribeUsers")

    def _elasticache(self, request: Request) -> dict[str, Any]:
        return self.answer("elasticache", request.action, request.parameters)

    def _change(self, user: User, passwords: list[str]) -> None:
        if user.status != "active":
            raise Refusal("InvalidUserState", "refused")
        if not 1 <= len(passwords) <= MOST or not all(map(_is_allowed, passwords)):
            raise Refusal("InvalidParameterValue", "refused")
        user.status = "modifying"
        timer = threading.Timer(self.delay_s, self._settle, [user, passwords])
        timer.daemon = True
        self._timers.append(timer)
        timer.start()

    def _settle(self, user: User, passwords: list[str]) -> None:
        with self._lock:
            self.apply(user.name, passwords)
            user.count, user.status = len(passwords), "active"


_KEYS = {"elasticache": "UserId", "memorydb": "UserName"}


def _is_allowed(password: str) -> bool:
    return SHORTEST <= len(password) <= LONGEST and password.isascii() and password.isprintable()


def _shown(service: str, user: User, *, is_list: bool) -> dict[str, Any]:
    shown = {
        "Status": user.status,
        "ARN": user.arn,
        "Authentication": {"Type": user.authentication, "PasswordCount": user.count},
    }
    if service == "memorydb":
        one = {"Name": user.name, **shown}
        return {"Users": [one]} if is_list else {"User": one}
    one = {"UserId": user.user_id, "UserName": user.name, **shown}
    return {"Users": [one]} if is_list else one


# ---------------------------------------------------------------------------- MemoryDB's wire


class _Handler(BaseHTTPRequestHandler):
    service: StrictElastiCache
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        """Answer one call, in the protocol that it came in."""
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Smithy-Protocol") == "rpc-v2-cbor":
            action = self.path.rpartition("/")[2]
            asked = RpcV2CBORParser().parse_data_item(BufferedReader(BytesIO(sent)))
            self._say(action, asked, _as_cbor)
        else:
            action = self.headers["X-Amz-Target"].rpartition(".")[2]
            self._say(action, json.loads(sent), _as_json)

    def _say(
        self,
        action: str,
        asked: Mapping[str, Any],
        encode: Callable[[dict[str, Any]], tuple[str, bytes]],
    ) -> None:
        status: int = HTTPStatus.OK
        try:
            answer = self.service.answer("memorydb", action, asked)
        except Refusal as refusal:
            answer, status = _refused(refusal), refusal.status
        kind, body = encode(answer)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if encode is _as_cbor:
            self.send_header("Smithy-Protocol", "rpc-v2-cbor")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # http.server's name
        """Say nothing."""


def _refused(refusal: Refusal) -> dict[str, Any]:
    """Return what MemoryDB says; its errors have the names of their shapes."""
    ending = "Exception" if refusal.code.startswith("InvalidParameter") else "Fault"
    return {"__type": f"{refusal.code}{ending}", "message": str(refusal)}


def _as_json(answer: dict[str, Any]) -> tuple[str, bytes]:
    return "application/x-amz-json-1.1", json.dumps(answer).encode()


def _as_cbor(answer: dict[str, Any]) -> tuple[str, bytes]:
    return "application/cbor", _cbor(answer)


def _cbor(value: object) -> bytes:
    """Encode what answers consist of (RFC 8949, section 3.1)."""
    match value:
        case int():
            return _head(0, value)
        case str():
            raw = value.encode()
            return _head(3, len(raw)) + raw
        case list():
            return _head(4, len(value)) + b"".join(map(_cbor, value))
        case dict():
            pairs = (_cbor(part) for pair in value.items() for part in pair)
            return _head(5, len(value)) + b"".join(pairs)
        case _:
            raise TypeError(type(value))


def _head(major: int, number: int) -> bytes:
    return struct.pack(">BI", major << 5 | 26, number)
