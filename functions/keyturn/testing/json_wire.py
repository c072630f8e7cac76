"""AWS JSON 1.1 over HTTP on loopback: hands every call to one function, and sends what it says.

It knows the protocol and no service: no action, no rule, no state. A fake of a service, such as
`strict_secrets_manager`, gives it a function; real SDKs talk to it. Signatures are not checked,
the access key's id in them is passed on as the caller's name.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

POLL_S = 0.02
"""How long a server may take to see that it is stopped, in seconds; tests start many."""

_CALLER = re.compile(r"Credential=([^/,]+)/")


@dataclass(frozen=True, slots=True)
class Request:
    """One call of an API.

    Attributes:
        action: `PutSecretValue`.
        caller: The access key's id, or "" if the request was not signed.
        parameters: As sent. Not checked against any model.
    """

    action: str
    caller: str
    parameters: dict[str, Any]


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, code: str, message: str, status: int = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class NoReply(Exception):
    """There is no answer: the connection ends."""


Answer = Callable[[Request], dict[str, Any]]
"""Returns the members of a good answer, or raises `Refusal` or `NoReply`.

It is called in a thread per connection.
"""


@contextlib.contextmanager
def served(answer: Answer) -> Iterator[int]:
    """Serve *answer* on a free port of 127.0.0.1, and yield the port."""
    server = _Server(answer)
    thread = threading.Thread(target=server.serve_forever, args=[POLL_S], daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        server.hang_up()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.numbers = itertools.count(1)
        self._lines: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        line, address = super().get_request()
        self._lines.add(line)
        return line, address

    def shutdown_request(self, request: Any) -> None:
        self._lines.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that are gone: they are killed, or cut off, on purpose."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def hang_up(self) -> None:
        """End the connections that clients keep alive, so that no thread waits for more."""
        for line in list(self._lines):
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"  # connections are kept alive
    # One packet per answer: small ones wait for each other's acknowledgement otherwise.
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        """Answer one call."""
        number = next(self.server.numbers)
        try:
            status, body = self._said(self._asked())
        except NoReply:
            self.close_connection = True
            return
        sent = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/x-amz-json-1.1")
        self.send_header("Content-Length", str(len(sent)))
        self.send_header("x-amzn-RequestId", f"{number:08}-0000-4000-8000-000000000000")
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name is http.server's
        """Say nothing."""

    def _asked(self) -> Request:
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        action = self.headers.get("X-Amz-Target", "").rpartition(".")[2]
        caller = _CALLER.search(self.headers.get("Authorization", ""))
        return Request(action, caller[1] if caller else "", json.loads(sent or b"{}"))

    def _said(self, request: Request) -> tuple[int, dict[str, Any]]:
        try:
            return HTTPStatus.OK, self.server.answer(request)
        except Refusal as refusal:
            return refusal.status, {"__type": refusal.code, "Message": str(refusal)}
