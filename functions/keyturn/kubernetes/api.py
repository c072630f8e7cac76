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

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from keyturn.model import Sensitive, Surroundings

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

    def get(self, resource: Resource, namespace: str, name: str) -> Object | None:
        """Return an object; None if there is none of that name.

        Raises:
            Unsupported: The server does not serve such a resource in that version.
            Denied: We may not `get` it.
            Unreachable: No answer, or too many requests.
        """
        raise NotImplementedError

    def list(self, resource: Resource, namespace: str, *, labels: str = "") -> tuple[Object, ...]:
        """Return all objects of a namespace, page by page; those that a label selector meets.

        Raises:
            Unsupported: See `get`.
            Denied: We may not `list` them.
            Unreachable: No answer, or too many requests.
        """
        raise NotImplementedError

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
        raise NotImplementedError

    def create(self, resource: Resource, namespace: str, made: Object) -> Object:
        """Create an object and return it.

        Raises:
            Busy: There is one of that name: perhaps our own, of an earlier try.
            Misconfigured: The server found it invalid, or there is no such namespace.
            Denied: We may not `create` it.
            Unreachable: No answer. It may have been created.
        """
        raise NotImplementedError
