"""Google's REST APIs, for fakes: one address on loopback, with the service before each path.

    http://127.0.0.1:40123/iam.googleapis.com/v1/projects/-/serviceAccounts/..

That is where `keyturn.google.api.connect` goes if it is told of a stand-in. It knows no service:
what is asked and answered is a function, as in `keyturn.testing.wire`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from keyturn.testing import wire
from keyturn.testing.wire import Refusal


@dataclass(frozen=True, slots=True)
class Asked:
    """One call.

    Attributes:
        service: `iam.googleapis.com`.
        path: Decoded, without the service and the query.
        query: By name; the last of those that come twice.
        body: As sent; may hold a secret.
        headers: By their names in small letters.
    """

    service: str
    method: str
    path: str
    query: Mapping[str, str]
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)

    @property
    def members(self) -> dict[str, Any]:
        """Return the body as a JSON object."""
        try:
            found = json.loads(self.body or b"{}")
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise Refusal("INVALID_ARGUMENT", "the body is no JSON object")
        return found


Answer = Callable[[Asked], Mapping[str, Any] | bytes]
"""Returns a JSON object or bytes; raises `wire.Refusal` with a canonical code, or `wire.NoReply`.

It is called in a thread per connection.
"""

STATUSES: Mapping[str, int] = {
    "ABORTED": 409,
    "ALREADY_EXISTS": 409,
    "FAILED_PRECONDITION": 400,
    "INTERNAL": 500,
    "INVALID_ARGUMENT": 400,
    "NOT_FOUND": 404,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "UNAUTHENTICATED": 401,
    "UNAVAILABLE": 503,
}
"""google.rpc.Code -> HTTP (googleapis: google/rpc/code.proto)."""


def refusal(code: str, message: str) -> Refusal:
    """Make a refusal with the HTTP status that belongs to its canonical code."""
    return Refusal(code, message, STATUSES[code])


@contextlib.contextmanager
def served(answer: Answer) -> Iterator[str]:
    """Serve *answer* on a free port of 127.0.0.1, and yield the address."""

    def said(request: wire.Request) -> dict[str, Any]:
        return {"said": answer(request.parameters["asked"])}

    with wire.served(_Dialect(), said) as port:
        yield f"http://127.0.0.1:{port}"


class _Dialect:
    """See `wire.Dialect`."""

    content_type = "application/json; charset=UTF-8"

    def asked(self, headers: Mapping[str, str], body: bytes) -> tuple[str, dict[str, Any]]:
        parts = urlsplit(headers[":path"])
        service, _, path = parts.path.removeprefix("/").partition("/")
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        method = headers[":method"]
        asked = Asked(service, method, f"/{unquote(path)}", query, body, headers)
        return f"{method} {service}", {"asked": asked}

    def answered(self, action: str, members: dict[str, Any], request_id: str) -> bytes:
        del action, request_id
        said = members["said"]
        return said if isinstance(said, bytes) else json.dumps(said).encode()

    def refused(self, refusal: Refusal, request_id: str) -> bytes:
        del request_id
        error = {"code": refusal.status, "message": str(refusal), "status": refusal.code}
        # Older APIs tell no canonical code: a fake of one gives none.
        return json.dumps({"error": {k: v for k, v in error.items() if v}}).encode()
