"""HTTP on loopback for fakes of AWS services: hands every call to one function.

    json_wire    AWS JSON 1.1   Secrets Manager, KMS, Parameter Store
    query_wire   AWS Query      RDS, ElastiCache, IAM, STS
    rest_wire    AWS REST-JSON  API Gateway
    google_rest  REST           Google's APIs

It knows no service and no protocol: how a call is read and an answer written is a `Dialect`, one
per protocol. A fake of a service, such as `strict_secrets_manager`, gives it a function; real SDKs
talk to it. The access key's id in a signature is the caller's name; a fake that knows the caller's
secret may check the signature itself (`Request.is_signed_with`).
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import itertools
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

POLL_S = 0.02
"""How long a server may take to see that it is stopped, in seconds; tests start many."""

_CALLER = re.compile(r"Credential=([^/,]+)/")
_SIGNATURE = re.compile(
    r"Credential=[^/,]+/(?P<scope>[^,]+), *SignedHeaders=(?P<names>[^,]+),"
    r" *Signature=(?P<signature>[0-9a-f]+)"
)


@dataclass(frozen=True, slots=True)
class Request:
    """One call of an API.

    Attributes:
        action: `PutSecretValue`.
        caller: The access key's id, or "" if the request was not signed.
        parameters: As sent. What has been checked of them is the dialect's to say.
        headers: By their names in small letters.
        body: As sent.
    """

    action: str
    caller: str
    parameters: dict[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)

    def is_signed_with(self, secret: str) -> bool:
        """Check the signature (Signature Version 4) of a POST to `/`."""
        found = _SIGNATURE.search(self.headers.get("authorization", ""))
        if found is None:
            return False
        names = found["names"].split(";")
        lines = [f"{name}:{' '.join(self.headers.get(name, '').split())}" for name in names]
        body = hashlib.sha256(self.body).hexdigest()
        request = "\n".join(["POST", "/", "", *lines, "", found["names"], body])
        text = "\n".join(
            [
                *("AWS4-HMAC-SHA256", self.headers.get("x-amz-date", ""), found["scope"]),
                hashlib.sha256(request.encode()).hexdigest(),
            ]
        )
        key = f"AWS4{secret}".encode()
        for part in (*found["scope"].split("/"), text):
            key = hmac.digest(key, part.encode(), "sha256")
        return hmac.compare_digest(key.hex(), found["signature"])


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


class Dialect(Protocol):
    """How a protocol writes calls and answers."""

    content_type: str

    def asked(self, headers: Mapping[str, str], body: bytes) -> tuple[str, dict[str, Any]]:
        """Return the action and the parameters of a call; raise `Refusal` if it is malformed.

        Among the headers, whose names are in small letters, are `:method` and `:path`.
        """
        ...

    def answered(self, action: str, members: dict[str, Any], request_id: str) -> bytes:
        """Return the body of a good answer."""
        ...

    def refused(self, refusal: Refusal, request_id: str) -> bytes:
        """Return the body of an error."""
        ...


@contextlib.contextmanager
def served(dialect: Dialect, answer: Answer) -> Iterator[int]:
    """Serve *answer* on a free port of 127.0.0.1, and yield the port."""
    server = _Server(dialect, answer)
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

    def __init__(self, dialect: Dialect, answer: Answer) -> None:
        self.dialect = dialect
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
        request_id = f"{next(self.server.numbers):08}-0000-4000-8000-000000000000"
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            status, body = self._said(sent, request_id)
        except NoReply:
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("Content-Type", self.server.dialect.content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("x-amzn-RequestId", request_id)
        self.end_headers()
        self.wfile.write(body)

    do_DELETE = do_GET = do_PATCH = do_PUT = do_POST  # noqa: N815  # the names are http.server's

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name is http.server's
        """Say nothing."""

    def _said(self, sent: bytes, request_id: str) -> tuple[int, bytes]:
        dialect = self.server.dialect
        headers = {name.lower(): value for name, value in self.headers.items()}
        headers |= {":method": self.command, ":path": self.path}
        caller = _CALLER.search(headers.get("authorization", ""))
        try:
            action, parameters = dialect.asked(headers, sent)
            name = caller[1] if caller else ""
            request = Request(action, name, parameters, headers, sent)
            members = self.server.answer(request)
            return HTTPStatus.OK, dialect.answered(action, members, request_id)
        except Refusal as refusal:
            return refusal.status, dialect.refused(refusal, request_id)
