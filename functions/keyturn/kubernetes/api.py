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
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from keyturn.access import Access
from keyturn.errors import Busy, Denied, KeyturnError, Misconfigured, Unreachable, Unsupported
from keyturn.model import Surroundings

if TYPE_CHECKING:
    from keyturn.line import Answer, Line

PAGE = 250
"""Objects that one answer of a list has at most."""

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


class Kubernetes:
    """The API of one cluster. Thread-safe; connects on first use.

    Args:
        name: Names the cluster in one printable line, for messages: `eks:prod`.
        access: Finds out where it is and how it lets us in; called on first use, and again only if
            that has failed.
        surroundings: What the deployment allows.
    """

    def __init__(self, name: str, access: Callable[[], Access], surroundings: Surroundings) -> None:
        self.name = name
        self._access = access
        self._surroundings = surroundings
        self._lock = threading.Lock()
        self._line: Line | None = None

    def get(self, resource: Resource, namespace: str, name: str) -> Object | None:
        """Return an object; None if there is none of that name.

        Raises:
            Unsupported: The server does not serve such a resource in that version.
            Denied: We may not `get` it.
            Unreachable: No answer, or too many requests.
        """
        return self._one(_Asked("get", resource, namespace, name))

    def metadata(self, resource: Resource, namespace: str, name: str) -> Object | None:
        """Return an object's metadata and nothing else of it; None if there is none of that name.

        It takes the same right as `get` (API Concepts, "Metadata-only fetches").

        Raises:
            Unsupported, Denied, Unreachable: See `get`.
        """
        found = self._one(_Asked("get", resource, namespace, name, accept=_METADATA))
        return None if found is None else found.get("metadata") or {}

    def ask_service(self, namespace: str, service: str, path: str) -> str | None:
        """Return the text that a service answers by the API server's proxy; None: no such service.

        Args:
            namespace: The service's.
            service: `http:NAME:PORT`; the port by its name or number, or nothing.
            path: Begins with a slash.

        Raises:
            Denied: We may not `get services/proxy`.
            Misconfigured: The service knows no such path, or answers no text.
            Unreachable: No answer, or nothing there that could answer.
        """
        asked = _Asked("get", _PROXIED, namespace, service, accept="*/*", behind=path)
        answer = self._answer(asked)
        status = _object(answer.body) or {}
        if answer.status == _NOT_FOUND:
            if _details(status).get("name"):
                return None
            raise Misconfigured(
                f"{self.name}: {asked} answered 404: it knows no {path}",
                remedy="Look whether it is the service that is meant.",
            )
        if answer.status not in _OK:
            raise self._failed(asked, answer.status, status)
        try:
            return answer.body.decode()
        except UnicodeDecodeError:
            fact = f"{self.name}: {asked} answered no text"
        raise Misconfigured(fact, remedy="Look whether it is the service that is meant.")

    def list(self, resource: Resource, namespace: str, *, labels: str = "") -> tuple[Object, ...]:
        """Return all objects of a namespace, page by page; those that a label selector meets.

        Raises:
            Unsupported: See `get`.
            Denied: We may not `list` them.
            Unreachable: No answer, too many requests, or it changed too much between two pages.
        """
        asked = _Asked("list", resource, namespace)
        # Begun anew once, if the server has forgotten what the first page was of
        # (API Concepts, "Retrieving large results sets in chunks").
        for _ in range(2):
            found, is_whole = self._pages(asked, labels)
            if is_whole:
                return tuple(found)
        raise self._failed(asked, _GONE, {})

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
        return self._one(_Asked("patch", resource, namespace, name, change, kind.value))

    def create(self, resource: Resource, namespace: str, made: Object) -> Object:
        """Create an object and return it.

        Raises:
            Busy: There is one of that name: perhaps our own, of an earlier try.
            Misconfigured: The server found it invalid, or there is no such namespace.
            Denied: We may not `create` it.
            Unreachable: No answer. It may have been created.
        """
        asked = _Asked("create", resource, namespace, body=made)
        answer = self._answer(asked)
        status = _object(answer.body) or {}
        if answer.status == _NOT_FOUND and _details(status).get("name"):
            raise Misconfigured(
                f"{self.name}: there is no namespace {namespace}",
                remedy="Create it, or correct the plan.",
            )
        return self._document(asked, answer)

    def _one(self, asked: _Asked) -> Object | None:
        answer = self._answer(asked)
        status = _object(answer.body) or {}
        # Of an object that is not there the server says the name. A path that it does not serve has
        # none: such a Status has no details, or the answer is no Status at all.
        if answer.status == _NOT_FOUND and _details(status).get("name") == asked.name:
            return None
        return self._document(asked, answer)

    def _pages(self, asked: _Asked, labels: str) -> tuple[Sequence[Object], bool]:
        """Return the objects of a list's pages, and whether they are all of them."""
        found: Sequence[Object] = ()
        query = {"limit": str(PAGE), **({"labelSelector": labels} if labels else {})}
        while True:
            answer = self._answer(asked, query)
            if answer.status == _GONE:
                return found, False
            page = self._document(asked, answer)
            found = (*found, *(page.get("items") or ()))
            token = (page.get("metadata") or {}).get("continue")
            if not token:
                return found, True
            query["continue"] = token

    def _answer(self, asked: _Asked, query: Mapping[str, str] | None = None) -> Answer:
        from keyturn.line import Request

        path = asked.path(self.name) + (f"?{urlencode(query)}" if query else "")
        body = None if asked.body is None else json.dumps(asked.body).encode()
        return self._reached().ask(
            Request(str(asked), asked.method, path, asked.media, body, asked.accept)
        )

    def _reached(self) -> Line:
        # Imported here: whoever reads a plan imports this module, and does not pay for urllib3.
        from keyturn.line import Line

        with self._lock:
            if self._line is None:
                self._line = Line(self.name, self._access(), self._surroundings)
            return self._line

    def _document(self, asked: _Asked, answer: Answer) -> Object:
        """Return the object of an answer that is a success."""
        found = _object(answer.body)
        if answer.status not in _OK:
            raise self._failed(asked, answer.status, found or {})
        if found is None:
            raise Unreachable(
                f"{self.name}: {asked}: the answer is no JSON object", remedy=_NO_API_SERVER
            )
        return found

    def _failed(self, asked: _Asked, code: int, status: Object) -> KeyturnError:
        kind, remedy = _VERDICTS.get(code, _verdict(code))
        if code == _FORBIDDEN and asked.verb in _ADMITTED:
            remedy += _OR_POLICY
        place = {"rule": asked.rule(), "namespace": asked.namespace, "served": asked.served()}
        return kind(
            f"{self.name}: {asked} answered {code}{_reason(status)}", remedy=remedy.format(**place)
        )


# ---------------------------------------------------------------------------- what is asked

_METHODS: Mapping[str, str] = {"get": "GET", "list": "GET", "patch": "PATCH", "create": "POST"}

_METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
"""The media type of an answer that has no other part of the object."""

_PROXIED = Resource("", "v1", "services/proxy")

_ADMITTED = ("patch", "create")
"""Verbs that an admission policy may forbid."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """One request, in RBAC's words. Its body may hold secrets."""

    verb: str
    resource: Resource
    namespace: str
    name: str = ""
    body: Object | None = field(default=None, repr=False)
    media: str = "application/json"
    accept: str = "application/json"
    behind: str = ""

    def __str__(self) -> str:
        place = f"{self.namespace}/{self.name}" if self.name else f"in {self.namespace}"
        return f"{self.verb} {self.resource} {place}"

    @property
    def method(self) -> str:
        return _METHODS[self.verb]

    def path(self, cluster: str) -> str:
        """Return the URL's path (API Concepts, "Resource URIs")."""
        plural, slash, part = self.resource.plural.partition("/")
        parts = [self.namespace, plural]
        parts += [self.name] if self.verb in {"get", "patch"} else []
        if not all(part.strip(".") for part in parts):
            # Of nothing, or of dots, the path of something else would become: of a list, say.
            raise Misconfigured(
                f"{cluster}: {self}: a name is missing", remedy="Correct the names in the plan."
            )
        group = f"apis/{self.resource.group}" if self.resource.group else "api"
        place = "/".join(quote(part, safe="") for part in parts)
        end = f"{slash}{part}{quote(self.behind)}"
        return f"/{group}/{self.resource.version}/namespaces/{place}{end}"

    def rule(self) -> str:
        """Return the rule of a Role that permits it. Told by what we ask, never by the server."""
        names = f", resourceNames: [{self.name}]" if self.name else ""
        group = self.resource.group or '""'
        return (
            f"{{apiGroups: [{group}], resources: [{self.resource.plural}]{names},"
            f" verbs: [{self.verb}]}}"
        )

    def served(self) -> str:
        """Name what the server would have to serve."""
        return f"{self.resource} in version {self.resource.version}"


# ---------------------------------------------------------------------------- what came back

_OK = range(200, 300)
_FORBIDDEN, _NOT_FOUND, _GONE, _REFUSED, _SERVER_ERROR = 403, 404, 410, 400, 500

_WAIT = "Wait: it is tried again. If it stays so, look at the API server."
_NO_API_SERVER = "Look whether it is an API server that the plan's cluster names."
_OR_POLICY = " If it is there, look for an admission policy that forbids the change."
_INVALID = (Misconfigured, "Look at the API server's audit log: it found the request invalid.")
_ABSENT = (Unsupported, "Install what serves {served}, or correct the plan's cluster.")

_VERDICTS: Mapping[int, tuple[type[KeyturnError], str]] = {
    401: (Denied, "Let the cluster know us: `Let it in` in docs/kubernetes.md says how."),
    403: (Denied, "Add to our Role in the namespace {namespace} the rule {rule}."),
    404: _ABSENT,  # without the name of an object: it is the resource that is not there
    405: _ABSENT,
    408: (Unreachable, _WAIT),
    409: (Busy, "Nothing: it is looked at again."),
    410: (Unreachable, _WAIT),
    429: (Unreachable, _WAIT),
}
"""By HTTP status (API Conventions, "HTTP Status codes"); `_verdict` has the others."""


def _verdict(code: int) -> tuple[type[KeyturnError], str]:
    if code >= _SERVER_ERROR:
        return Unreachable, _WAIT
    return _INVALID if code >= _REFUSED else (Misconfigured, _NO_API_SERVER)


def _object(body: bytes) -> Object | None:
    """Read a body: a JSON object, or None."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _details(status: Object) -> Object:
    """Return what a refusal is about (API Conventions, "Response Status Kind")."""
    found = status.get("details")
    return found if isinstance(found, dict) else {}


def _reason(status: Object) -> str:
    """Return the server's one word for it, such as `Forbidden`. Its message may quote values."""
    found = status.get("reason")
    return f" {found}" if isinstance(found, str) and _WORD.fullmatch(found) else ""


_WORD = re.compile(r"[A-Za-z]{1,40}")
