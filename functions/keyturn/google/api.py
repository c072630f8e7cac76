"""One of Google's REST APIs: a call, its answer, and its refusal as our error.

A refusal says a canonical code (google.rpc.Code) in its body. Older APIs, Cloud Storage and Cloud
SQL, have none there: then the HTTP status says it. No text of an answer is ever in an error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from keyturn.access import Access
from keyturn.boundary import google_refusal
from keyturn.errors import Misconfigured, Unreachable
from keyturn.google.credentials import default_token
from keyturn.model import Sensitive, Surroundings

if TYPE_CHECKING:
    from keyturn.line import Answer, Line, Request

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})

CODES: Mapping[int, str] = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    412: "FAILED_PRECONDITION",
    429: "RESOURCE_EXHAUSTED",
}
"""What an HTTP status means where the body has no code. 409 is a conflict with something that is
under way; where it means that something is there already, the body says ALREADY_EXISTS."""

_REDIRECTION = 300


def connect(service: str, surroundings: Surroundings) -> GoogleApi:
    """Make a client of an API. No I/O.

    Args:
        service: Its host: `iam.googleapis.com`.
        surroundings: What the deployment allows, and where a stand-in listens.

    Raises:
        Misconfigured: The stand-in is not on loopback.
    """
    endpoint = surroundings.google_endpoint
    if endpoint is None:
        return GoogleApi(service, lambda: _google(service), "", surroundings)
    if urlsplit(endpoint).scheme != "http" or urlsplit(endpoint).hostname not in LOOPBACK:
        raise Misconfigured(
            "the stand-in for Google's APIs is not on loopback",
            remedy="Write http://127.0.0.1:PORT, or leave it out: Google's own are reached by TLS.",
        )
    local = Access(endpoint, None, lambda _: Sensitive("local"))
    return GoogleApi(service, lambda: local, f"/{service}", surroundings)


def _google(service: str) -> Access:
    return Access(f"https://{service}", None, default_token(service))


class GoogleApi:
    """Calls of one API. Thread-safe; connects on first use.

    Args:
        name: Names it in messages.
        access: Finds out how it is reached; called on first use.
        prefix: Before each path.
        surroundings: What the deployment allows.
    """

    def __init__(
        self, name: str, access: Callable[[], Access], prefix: str, surroundings: Surroundings
    ) -> None:
        self._name = name
        self._access = access
        self._prefix = prefix
        self._surroundings = surroundings
        self._line: Line | None = None

    def ask(  # noqa: PLR0913  # a call, and how it is made
        self,
        what: str,
        ref: str,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        answers: Mapping[str, Any] | None = None,
        is_repeatable: bool = True,
    ) -> Any:
        """Make one call with a JSON body, and return the JSON of its answer; `{}` if it has none.

        Args:
            what: The method, for messages.
            ref: The resource, for messages.
            method: Of HTTP.
            path: With its query, encoded.
            body: What is sent, if anything is.
            answers: Canonical codes that are answers here, and what they mean.
            is_repeatable: Whether it is made again where there is no answer.

        Raises:
            KeyturnError: By the canonical code; see `boundary.google_refusal`.
            Unreachable: No answer, or none that is JSON.
        """
        from keyturn.line import Request

        sent = json.dumps(body).encode() if body is not None else None
        request = Request(what, method, self._prefix + path, body=sent, is_repeatable=is_repeatable)
        answer = self._answered(what, ref, request, answers)
        return answer if not _is_answer(answer) else _json(what, ref, answer.body)

    def send(  # noqa: PLR0913  # a call, and how it is made
        self,
        what: str,
        ref: str,
        method: str,
        path: str,
        content: bytes | None = None,
        *,
        media_type: str = "application/octet-stream",
        answers: Mapping[str, Any] | None = None,
        has_token: bool = True,
    ) -> Any:
        """Make one call whose body, if any, and answer are bytes. See `ask`. Repeatable.

        Without our token, if *has_token* says so: the content tells who asks.
        """
        from keyturn.line import Request

        path = self._prefix + path
        request = Request(what, method, path, media_type, content, "*/*", has_token=has_token)
        answer = self._answered(what, ref, request, answers)
        return answer if not _is_answer(answer) else answer.body

    def signed(self, what: str, path: str, headers: Mapping[str, str]) -> Answer:
        """Read with an authorization of the caller's own, and return whatever is answered.

        Raises:
            Unreachable: No answer.
        """
        from keyturn.line import Request

        request = Request(what, "GET", self._prefix + path, accept="*/*", headers=headers)
        return self._connected().ask(request)

    def _answered(
        self, what: str, ref: str, request: Request, answers: Mapping[str, Any] | None
    ) -> Any:
        answer = self._connected().ask(request)
        if answer.status < _REDIRECTION:
            return answer
        code = _code(answer)
        if answers is not None and code in answers:
            return answers[code]
        raise google_refusal(what, ref, code)

    def _connected(self) -> Line:
        from keyturn.line import Line

        if self._line is None:
            self._line = Line(self._name, self._access(), self._surroundings)
        return self._line


def _is_answer(found: Any) -> bool:
    from keyturn.line import Answer

    return isinstance(found, Answer)


def _json(what: str, ref: str, body: bytes) -> Any:
    try:
        return json.loads(body or b"{}")
    except (ValueError, RecursionError):
        pass
    raise Unreachable(
        f"{ref}: {what} answered with something that is no JSON",
        remedy="Look at the service's status: it is tried again.",
    )


def _code(answer: Answer) -> str:
    """Return the canonical code of a refusal (AIP-193); by the HTTP status if it tells none."""
    try:
        told = json.loads(answer.body)["error"]["status"]
    except (ValueError, RecursionError, LookupError, TypeError):
        told = None
    return told if isinstance(told, str) else CODES.get(answer.status, "UNAVAILABLE")
