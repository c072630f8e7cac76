"""The wire of the fake Kubernetes API: HTTP on loopback, watches, and what goes wrong between.

Sources: Kubernetes API Concepts ("Efficient detection of changes"); API Conventions ("Response
Status Kind").
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

from keyturn.local.kubernetes_api import Answer, Api, Request, Watch, read, shown
from keyturn.local.kubernetes_objects import Event
from keyturn.local.kubernetes_rules import Refusal

Json = dict[str, Any]

POLL_S = 0.02
"""How long a server may take to see that it is stopped, in seconds; tests start many."""

MAX_BODY_BYTES = 3 * 1024 * 1024
"""The longest body that the API reads."""

_REASONS = {
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


@dataclass(slots=True)
class Fault:
    """What becomes of the next requests that it is meant for.

    Attributes:
        left: How many more.
        only: Which ones.
        status: The answer, without an effect; 0 is none.
        retry_after_s: In the answer's header.
        says: The answer's message.
        hang_s: How long the request waits before the connection ends, without an effect.
        has_effect: The request is done, and its answer lost.
    """

    left: int
    only: Callable[[Request], bool]
    status: int = 0
    retry_after_s: int | None = None
    says: str = ""
    hang_s: float = 0
    has_effect: bool = False


class Listener(Protocol):
    """What the wire asks of the cluster."""

    api: Api
    watch_round: int

    def fault(self, request: Request) -> Fault | None:
        """Take a request to the log, and return what becomes of it."""
        ...


@contextlib.contextmanager
def served(listener: Listener, tls: ssl.SSLContext | None) -> Iterator[int]:
    """Serve on a free port of 127.0.0.1, and yield the port."""
    server = _Server(listener, tls)
    thread = threading.Thread(target=server.serve_forever, args=[POLL_S], daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.stop()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, listener: Listener, tls: ssl.SSLContext | None) -> None:
        self.listener = listener
        self.is_stopping = threading.Event()
        self._tls = tls
        self._lines: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        line, address = super().get_request()
        if self._tls is not None:
            # The handshake is the connection's own thread's: a slow client stops nobody else.
            line = self._tls.wrap_socket(line, server_side=True, do_handshake_on_connect=False)
        self._lines.add(line)
        return line, address

    def shutdown_request(self, request: Any) -> None:
        self._lines.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that are gone, or that do not trust us."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

    def stop(self) -> None:
        """Stop, and end the connections and watches that are open."""
        self.is_stopping.set()
        objects = self.listener.api.objects
        with objects.changed:
            objects.changed.notify_all()
        self.shutdown()
        for line in list(self._lines):
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"  # connections are kept alive
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Answer one request, or do to it what a test has said."""
        body = self.rfile.read(
            min(int(self.headers.get("Content-Length") or 0), MAX_BODY_BYTES + 1)
        )
        where = urlsplit(self.path)
        query = dict(parse_qsl(where.query, keep_blank_values=True))
        accept = self.headers.get("Accept", "")
        request = read(self.command, unquote(where.path), query, accept)
        fault = self.server.listener.fault(request)
        if fault is not None and fault.hang_s:
            self.server.is_stopping.wait(fault.hang_s)
        if fault is not None and fault.status:
            self._say(_injected(fault))
            return
        if fault is not None and not fault.has_effect:
            self.close_connection = True
            return
        answer = self._answer(request, body)
        if fault is not None:
            self.close_connection = True
        elif isinstance(answer.body, Watch):
            self._send_watch(answer.body)
        else:
            self._say(answer)

    do_DELETE = do_PATCH = do_POST = do_PUT = do_GET  # noqa: N815  # the names are http.server's

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name is http.server's
        """Say nothing."""

    def _answer(self, request: Request, body: bytes) -> Answer:
        if len(body) > MAX_BODY_BYTES:
            says = f"Request entity too large: limit is {MAX_BODY_BYTES}"
            return Answer(413, _status(Refusal(413, "RequestEntityTooLarge", says)))
        try:
            headers = {name.lower(): value for name, value in self.headers.items()}
            return self.server.listener.api.answer(request, body, headers)
        except Refusal as refusal:
            return Answer(refusal.code, _status(refusal) if refusal.reason else str(refusal))

    def _say(self, answer: Answer) -> None:
        is_text = isinstance(answer.body, str)
        body = answer.body.encode() if isinstance(answer.body, str) else _json(answer.body)
        self.send_response(answer.status)
        self.send_header("Content-Type", "text/plain" if is_text else "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    # ------------------------------------------------------------------ watches

    def _send_watch(self, watch: Watch) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        try:
            for what, one in self._watched(watch):
                self._send_event(what, one)
        except Refusal as refusal:
            self._send_event("ERROR", _status(refusal))
        self.wfile.write(b"0\r\n\r\n")

    def _send_event(self, what: str, one: Json) -> None:
        line = _json({"type": what, "object": one}) + b"\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        self.wfile.flush()

    def _watched(self, watch: Watch) -> Iterator[tuple[str, Json]]:
        objects = self.server.listener.api.objects
        deadline = time.monotonic() + watch.timeout_s
        now_round = self.server.listener.watch_round
        with objects.lock:
            seen = objects.version if watch.since is None else watch.since
            first = objects.every(watch.kind, watch.namespace) if watch.since is None else []
        chosen = [each for _, each in first if watch.meets(each)]
        yield from (("ADDED", shown(watch.kind, watch.version, each)) for each in chosen)
        while (left_s := deadline - time.monotonic()) > 0 and self._goes_on(now_round):
            events = self._news(seen, left_s, now_round)
            seen = max([seen, *(event.version for event in events)])
            yield from _as_watched(watch, events)

    def _news(self, seen: int, wait_s: float, now_round: int) -> list[Event]:
        objects = self.server.listener.api.objects
        with objects.changed:
            objects.changed.wait_for(
                lambda: objects.version > seen or not self._goes_on(now_round), wait_s
            )
            return objects.since(seen)

    def _goes_on(self, now_round: int) -> bool:
        is_stopping = self.server.is_stopping.is_set()
        return self.server.listener.watch_round == now_round and not is_stopping


def _as_watched(watch: Watch, events: list[Event]) -> Iterator[tuple[str, Json]]:
    for event in events:
        kind = watch.kind
        if event.key[:2] != (kind.group, kind.plural):
            continue
        if watch.namespace not in {"", event.key.namespace}:
            continue
        was = event.before is not None and watch.meets(event.before)
        is_now = event.kind != "DELETED" and watch.meets(event.now)
        if was or is_now:
            what = "DELETED" if not is_now else "MODIFIED" if was else "ADDED"
            yield what, shown(kind, watch.version, event.now)


def _injected(fault: Fault) -> Answer:
    reason = _REASONS.get(fault.status, "InternalError")
    answer = _status(Refusal(fault.status, reason, fault.says))
    headers = {} if fault.retry_after_s is None else {"Retry-After": str(fault.retry_after_s)}
    return Answer(fault.status, answer, headers)


def _status(refusal: Refusal) -> Json:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": str(refusal),
        "reason": refusal.reason,
        **({"details": refusal.details} if refusal.details else {}),
        "code": refusal.code,
    }


def _json(body: Any) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()
