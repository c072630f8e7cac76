"""What stands before a function on Google: Cloud Run's door, and the tokens that open it.

The door lets in whose OIDC token is signed, not expired, for this address, and of an account that
may call; all others get 401 or 403. To the function it hands the token with a word in the place of
its signature, as Cloud Run does. Tokens are signed with a key of this process alone.
"""

from __future__ import annotations

import base64
import hmac
import http.client
import json
import secrets
import threading
import time
from collections.abc import Collection, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from keyturn.google.callers import CHECKED

LASTS_S = 3_600
"""A token, in seconds."""

_KEY = secrets.token_bytes(32)


def token(account: str, audience: str, lasts_s: float = LASTS_S) -> str:
    """Make the OIDC token of a service account, as a push sends it."""
    claims = {
        "iss": "https://accounts.google.com",
        "aud": audience,
        "email": account,
        "email_verified": True,
        "exp": time.time() + lasts_s,
    }
    head = f"{_part({'alg': 'HS256'})}.{_part(claims)}"
    return f"{head}.{_signature(head)}"


def _part(members: Mapping[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(members).encode()).decode().rstrip("=")


def _signature(head: str) -> str:
    digest = hmac.digest(_KEY, head.encode(), "sha256")
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


class Front:
    """The door of one function. Enter it to open it.

    Args:
        port: Where the function listens, on loopback.
        callers: The accounts that may call.
        adds: The account in whose name it lets in who sends no token: what the Pub/Sub emulator
            cannot do is done for it here.

    Attributes:
        turned_away: The statuses of those who were not let in.
    """

    def __init__(self, port: int, callers: Collection[str], adds: str = "") -> None:
        self.function_port = port
        self.callers = frozenset(callers)
        self.adds = adds
        self.turned_away: list[int] = []
        self._server: ThreadingHTTPServer | None = None

    @property
    def address(self) -> str:
        """Return `http://127.0.0.1:40123`."""
        assert self._server is not None  # noqa: S101  # it is open
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _door(self))
        threading.Thread(target=self._server.serve_forever, args=[0.02], daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def checked(self, shown: str, host: str) -> str | int:
        """Return what the function is handed as `Authorization`, or the status of a refusal."""
        if not shown and self.adds:
            shown = f"Bearer {token(self.adds, f'http://{host}')}"
        head, _, signature = shown.removeprefix("Bearer ").rpartition(".")
        if not hmac.compare_digest(_signature(head).encode(), signature.encode()):
            return HTTPStatus.UNAUTHORIZED
        part = head.partition(".")[2]
        claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        if claims["exp"] < time.time() or urlsplit(claims["aud"]).netloc != host:
            return HTTPStatus.UNAUTHORIZED
        if claims["email"] not in self.callers:
            return HTTPStatus.FORBIDDEN
        return f"Bearer {head}.{CHECKED}"


def _door(front: Front) -> type[BaseHTTPRequestHandler]:
    class Door(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            host = self.headers.get("Host", "")
            found = front.checked(self.headers.get("Authorization", ""), host)
            if isinstance(found, int):
                front.turned_away.append(int(found))
                self._say(int(found), b"")
                return
            passed = ("Content-Type", "X-Cloud-Trace-Context", "ce-id", "ce-source", "ce-type")
            sent = {name: self.headers[name] for name in passed if name in self.headers}
            line = http.client.HTTPConnection("127.0.0.1", front.function_port, timeout=60)
            try:
                line.request(
                    "POST", self.path, body, {**sent, "Host": host, "Authorization": found}
                )
                answer = line.getresponse()
                self._say(answer.status, answer.read())
            except (OSError, http.client.HTTPException):
                self._say(HTTPStatus.SERVICE_UNAVAILABLE, b"")
            finally:
                line.close()

        def _say(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name is given
            """Say nothing."""

    return Door
