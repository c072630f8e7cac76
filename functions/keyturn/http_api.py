"""How keys of an HTTP API are made, listed, tried and deleted: what a plan declares. Values only.

`http_api_plan` reads it out of a plan, and has checked all of it; `targets.http_api_key` does what
it says. Texts are templates: `{name}` and the like stand for what differs from request to request.
Pointers are those of RFC 6901.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from keyturn.model import Trace


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    Attributes:
        method: In capitals.
        scheme: `https`, or `http`, which the deployment must allow besides.
        host: As in the URL: a name or an address, with a port if it is not the usual one.
        target: Path and query, a template.
        headers: Templates, by name.
        json: What is sent as JSON, templates in it; None to send none.
        form: The same as a form.
    """

    method: str
    scheme: str
    host: str
    target: str
    headers: Mapping[str, str] = field(default_factory=dict)
    json: object = None
    form: Mapping[str, str] | None = None

    def __str__(self) -> str:
        return f"{self.method} {self.scheme}://{self.host}{self.target.partition('?')[0]}"


@dataclass(frozen=True, slots=True)
class Create:
    """Makes a key.

    Attributes:
        id: Points to the key's id in the answer, and
        secret: to what is shown once.
        full: Statuses that mean: as many keys as there may be.
        is_repeatable: For one rotation the API makes one key, however often it is asked.
        is_named: The key gets the name that it is asked for with.
        lifetime_days: When it is to expire, where the API wants to be told.
    """

    request: Request
    id: str
    secret: str
    full: frozenset[int] = frozenset()
    is_repeatable: bool = False
    is_named: bool = False
    lifetime_days: int | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """Lists keys.

    Attributes:
        items: Points to the list in the answer; the other pointers begin at an entry of it.
        next: Points to the URL of the next page; `link` if that is in the header of that name.
    """

    request: Request
    items: str
    id: str
    name: str | None = None
    created: str | None = None
    last_used: str | None = None
    active: str | None = None
    next: str | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """Deactivates or deletes a key.

    Attributes:
        gone: Statuses that mean: there is no such key.
    """

    request: Request
    gone: frozenset[int]


@dataclass(frozen=True, slots=True)
class Verify:
    """Uses a key.

    Attributes:
        accepted: Statuses that mean that it works.
        refused: Statuses that mean that it does not. Any other says nothing.
        id: Points to the id of the key that was used; None if the answer does not tell.
    """

    request: Request
    accepted: frozenset[int]
    refused: frozenset[int]
    id: str | None = None


@dataclass(frozen=True, slots=True)
class HttpApi:
    """All that is declared of one API.

    Attributes:
        hosts: The only ones that are ever asked, as they stand in URLs.
        limit: How many keys there may be.
    """

    hosts: frozenset[str]
    limit: int
    create: Create
    verify: Verify
    delete: Change
    list: Listing | None = None
    deactivate: Change | None = None

    @property
    def trace(self) -> Trace:
        """By what a key is found again whose secret nobody has received."""
        if self.list is None:
            return Trace.RETRY if self.create.is_repeatable else Trace.NONE
        is_named = self.create.is_named and self.list.name is not None
        return Trace.NAME if is_named else Trace.TIME
