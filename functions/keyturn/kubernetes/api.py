"""A light client of the Kubernetes API: one object at a time, by name.

Three verbs are enough for all that keyturn does: `get`, `list` and `patch`, and `create` for what
it owns. Each is repeatable: a patch carries the version's id, and where it must not undo somebody
else's change the object's `resourceVersion`. So no answer, 429 and 5xx are tried again here, a few
times, within the call's time; what is left of them is `Unreachable`.

Nothing that is sent or received is ever in an error: an object's values may be secret. What an
error names is the verb, the object and the server's reason; `Denied` names the rule that is
missing. TLS is verified; there is no fallback.

Rules: the API's conventions on error answers, `resourceVersion` and patch types (Kubernetes API
Concepts; API Conventions).
"""

from __future__ import annotations

import json
import secrets
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from keyturn import tls
from keyturn.errors import Busy, Denied, KeyturnError, Misconfigured, Unreachable, Unsupported
from keyturn.model import Sensitive, Surroundings

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, PoolManager

TRIES = 4
"""Of one request, while it is worth trying again."""

CONNECT_S, READ_S = 3.0, 8.0
"""Time-outs of one try, in seconds."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0
"""Between two tries: the first, and the longest that the server may ask for (Retry-After)."""

MARGIN_S = 5.0
"""What is left of the function's time when no further try is made, in seconds."""

PAGE = 250
"""Objects that one answer of a list has at most."""

LARGEST_BYTES = 16_000_000
"""Of an answer. A page of `PAGE` objects of typical size has some 2 MB."""

_AGAIN = frozenset({429, 500, 502, 503, 504})

Object = Mapping[str, Any]
"""An object as the API shows it. It may hold secrets: never in a message."""


class Patch(StrEnum):
    """How a patch is to be understood: its media type."""

    MERGE = "application/merge-patch+json"
    STRATEGIC = "application/strategic-merge-patch+json"


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of objects in a namespace.

    Attributes:
        group: "" is the core group.
        plural: As in the URL and in RBAC's rules.
    """

    group: str
    version: str
    plural: str

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


@dataclass(frozen=True, slots=True)
class Access:
    """Where a cluster is and how it lets us in.

    Attributes:
        server: The API server's address, `https://host:port`.
        ca: PEM of the authorities that may sign its certificate; None for the system's.
        token: Makes a bearer token, or returns the one that it has; a new one if it is told so by
            True, because the last one was refused.
    """

    server: str
    ca: str | None
    token: Callable[[bool], Sensitive]


class Kubernetes:
    """The API of one cluster. Thread-safe; connects on first use.

    Args:
        name: Names the cluster in one printable line, for messages: `eks:prod`.
        access: Finds out where it is and how it lets us in; called once, on first use.
        surroundings: What the deployment allows.
    """

    def __init__(self, name: str, access: Callable[[], Access], surroundings: Surroundings) -> None:
        self.name = name
        self._access = access
        self._surroundings = surroundings
        self._line: _Line | None = None

    def get(self, resource: Resource, namespace: str, name: str) -> Object | None:
        """Return an object; None if there is none of that name.

        Raises:
            Unsupported: The server does not serve such a resource in that version.
            Denied: We may not `get` it.
            Unreachable: No answer, or too many requests.
        """
        return self._ask(_Request("get", resource, namespace, name))

    def list(self, resource: Resource, namespace: str, *, labels: str = "") -> tuple[Object, ...]:
        """Return all objects of a namespace, page by page; those that a label selector meets.

        Raises:
            Unsupported: See `get`.
            Denied: We may not `list` them.
            Unreachable: No answer, too many requests, or it changed too much between two pages.
        """
        found: list[Object] = []
        query = {"limit": str(PAGE), **({"labelSelector": labels} if labels else {})}
        while True:
            request = _Request("list", resource, namespace, query=query)
            page = self._ask(request)
            if page is None:
                return ()
            found += page.get("items") or ()
            token = (page.get("metadata") or {}).get("continue")
            if not token:
                return tuple(found)
            query = {**query, "continue": token}

    def patch(
        self, resource: Resource, namespace: str, name: str, change: Object, kind: Patch
    ) -> Object | None:
        """Change an object and return it as it is then; None if there is none of that name.

        Repeatable. A change that has `metadata.resourceVersion` is conditional on it.

        Raises:
            Busy: It has been changed since (409).
            Misconfigured: The server found the change invalid (400, 422).
            Denied: We may not `patch` it, or an admission policy forbids the change.
            Unreachable: No answer. It may have been changed.
        """
        return self._ask(_Request("patch", resource, namespace, name, change, kind.value))

    def create(self, resource: Resource, namespace: str, made: Object) -> Object:
        """Create an object and return it.

        Raises:
            Busy: There is one of that name: perhaps our own, of an earlier try.
            Misconfigured: The server found it invalid, or there is no such namespace.
            Denied: We may not `create` it.
            Unreachable: No answer. It may have been created.
        """
        request = _Request("create", resource, namespace, body=made, media="application/json")
        created = self._ask(request)
        if created is None:
            raise Misconfigured(
                f"{self.name}: there is no namespace {namespace}",
                remedy="Create it, or correct the plan.",
            )
        return created

    def _ask(self, request: _Request) -> Object | None:
        """Send *request*, again if it is worth it; None if there is no such object."""
        line = self._line = self._line or _Line(self.name, self._access(), self._surroundings)
        answer = line.sent(request)
        if answer.status == _UNAUTHORIZED:
            answer = line.sent(request, is_new_token=True)
        return _understood(self.name, request, answer)


@dataclass(frozen=True, slots=True)
class _Request:
    """One request. Its body may hold a secret."""

    verb: str
    resource: Resource
    namespace: str
    name: str = ""
    body: Object | None = None
    media: str = ""
    query: Mapping[str, str] | None = None

    @property
    def method(self) -> str:
        return {"patch": "PATCH", "create": "POST"}.get(self.verb, "GET")

    @property
    def path(self) -> str:
        group = f"apis/{self.resource.group}" if self.resource.group else "api"
        parts = [group, self.resource.version, "namespaces", quote(self.namespace, safe="")]
        parts += [self.resource.plural, *([quote(self.name, safe="")] if self.name else [])]
        query = f"?{urlencode(self.query)}" if self.query else ""
        return f"/{'/'.join(parts)}{query}"

    def __str__(self) -> str:
        what = f"{self.namespace}/{self.name}" if self.name else f"in {self.namespace}"
        return f"{self.verb} {self.resource} {what}"

    def rule(self) -> str:
        """Return the rule of a Role that permits it (RBAC: rules of `apiGroups`, ...)."""
        names = f", resourceNames: [{self.name}]" if self.name else ""
        return (
            f"apiGroups: ['{self.resource.group}'], resources: [{self.resource.plural}]{names},"
            f" verbs: [{self.verb}]"
        )


@dataclass(frozen=True, slots=True)
class _Answer:
    """What came back. Its body may hold a secret."""

    status: int
    body: bytes
    retry_after_s: float


class _Line:
    """The connection to one API server."""

    def __init__(self, name: str, access: Access, surroundings: Surroundings) -> None:
        self._name = name
        self._access = access
        self._surroundings = surroundings
        self._pool = _pool(name, access, surroundings)

    def sent(self, request: _Request, *, is_new_token: bool = False) -> _Answer:
        """Send *request*, again if it is worth it, and return the answer that counts.

        Raises:
            Unreachable: There was none, or only such as ask to come again.
        """
        token = self._access.token(is_new_token)
        pause_s, said = 0.0, "no time was left to ask"
        for number in range(TRIES):
            left_s = self._surroundings.remaining_s() - MARGIN_S - pause_s
            if left_s <= 0:
                break
            time.sleep(pause_s)
            answer, said = self._once(request, token, left_s)
            if answer is not None and answer.status not in _AGAIN:
                return answer
            pause_s = _pause_s(number, answer)
        raise Unreachable(
            f"{self._name}: {request} got no answer: {said}",
            remedy="Look at the API server, and whether the function's network leads there.",
        )

    def _once(
        self, request: _Request, token: Sensitive, left_s: float
    ) -> tuple[_Answer | None, str]:
        """Send *request* once; return the answer, and in a word what came."""
        import urllib3

        timeout = urllib3.Timeout(
            connect=min(CONNECT_S, left_s), read=min(READ_S, left_s), total=left_s
        )
        headers = {
            "Accept": "application/json",
            "Authorization": f"Bearer {token.reveal()}",
            "User-Agent": "keyturn",
            **({"Content-Type": request.media} if request.media else {}),
        }
        body = None if request.body is None else json.dumps(request.body).encode()
        try:
            with self._pool.request(
                request.method,
                f"{self._access.server.rstrip('/')}{request.path}",
                body=body,
                headers=headers,
                timeout=timeout,
                retries=False,
                redirect=False,
                preload_content=False,
            ) as response:
                return _read(response), f"HTTP {response.status}"
        except urllib3.exceptions.SSLError as error:
            refused = _certificate_refused(self._access.server, error)
        except urllib3.exceptions.HTTPError as error:
            return None, type(error).__name__
        # Raised out here: what was caught may quote the request.
        raise refused


def _pool(name: str, access: Access, surroundings: Surroundings) -> PoolManager:
    import urllib3

    parts = urlsplit(access.server)
    host = parts.hostname or ""
    if parts.scheme == "https":
        authorities = access.ca or tls.authorities(host, surroundings)
        return urllib3.PoolManager(ssl_context=ssl.create_default_context(cadata=authorities))
    if not tls.allows_plaintext(host, surroundings):
        raise Misconfigured(
            f"{name}: {host} is not a host for plain text",
            remedy="Write https, or list the host in KEYTURN_PLAINTEXT_HOSTS.",
        )
    return urllib3.PoolManager()


def _read(response: BaseHTTPResponse) -> _Answer:
    """Read the whole of an answer, up to `LARGEST_BYTES`."""
    from urllib3.exceptions import HTTPError

    body = response.read(LARGEST_BYTES + 1)
    if len(body) > LARGEST_BYTES:
        raise HTTPError
    # In seconds; dates, which HTTP allows as well, no API server sends (API Conventions, 429).
    later = response.headers.get("Retry-After", "")
    return _Answer(response.status, body, float(later) if later.isdecimal() else 0.0)


def _pause_s(number: int, answer: _Answer | None) -> float:
    """Return how long to wait after the try of that number: longer each time, never the same."""
    asked_s = answer.retry_after_s if answer is not None else 0.0
    backoff_s: float = FIRST_PAUSE_S * 2**number * (1 + secrets.randbelow(1_000) / 1_000)
    return max(asked_s, min(backoff_s, LONGEST_PAUSE_S))


def _certificate_refused(server: str, error: Exception) -> KeyturnError:
    """Say why the certificate is refused. Not tried again: it would be the same one."""
    host = urlsplit(server).hostname or ""
    cause: object = error
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        held = [each for each in getattr(cause, "args", ()) if isinstance(each, Exception)]
        cause = held[0] if held else None
    if cause is not None:
        return tls.certificate_refused(host, cause)
    return Unreachable(
        f"{host}: the TLS handshake failed",
        remedy="Look whether an API server is what listens there.",
    )


# ---------------------------------------------------------------------------- answers


def _understood(name: str, request: _Request, answer: _Answer) -> Object | None:
    """Return the object of an answer; None if there is no such object.

    Raises:
        KeyturnError: By the status alone, and by the fields of the `Status` that is its body.
    """
    found = _parsed(answer.body)
    if answer.status < _REDIRECT and found is not None:
        return found
    if answer.status == _NOT_FOUND and _names_an_object(found):
        return None
    raise _refused(name, request, answer.status, found or {})


def _parsed(body: bytes) -> Object | None:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _names_an_object(status: Object | None) -> bool:
    """Tell whether it is the object that is not there, or the resource: that has no details.

    API Conventions, Response Status Kind: `details` has the `name` of what was asked for.
    """
    details = (status or {}).get("details")
    return isinstance(details, dict) and bool(details.get("name"))


def _refused(name: str, request: _Request, status: int, said: Object) -> KeyturnError:
    reason = str(said.get("reason") or "")
    # One word of the API's own list; anything else may be somebody's text.
    shown = f" {reason}" if reason.isascii() and reason.isalpha() and len(reason) <= _WORD else ""
    kind, remedy = _VERDICTS.get(status, _NO_API_SERVER)
    return kind(
        f"{name}: {request} answered {status}{shown}", remedy=remedy.format(rule=request.rule())
    )


_INVALID = (Misconfigured, "Look at the API server's log: it found the request invalid.")
_NO_API_SERVER = (Unreachable, "Look whether it is an API server that the plan's cluster names.")
_VERDICTS: Mapping[int, tuple[type[KeyturnError], str]] = {
    **dict.fromkeys((400, 405, 406, 413, 415, 422), _INVALID),
    401: (Denied, "Map the function's identity to a user of the cluster, or renew its token."),
    403: (Denied, "Add to the function's Role: {{{rule}}}."),
    # Without the name of an object: the server knows no such resource.
    404: (Unsupported, "Install what serves it, or the version of it that is asked for."),
    409: (Busy, "Nothing: it is looked at again."),
    410: (Unreachable, "Nothing: it is asked for anew."),
}
"""By HTTP status (API Conventions, HTTP Status codes)."""

_REDIRECT, _UNAUTHORIZED, _NOT_FOUND = 300, 401, 404
_WORD = 40
