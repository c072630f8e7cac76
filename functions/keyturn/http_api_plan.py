"""How a plan writes an `HttpApi`: the key `http` of a secret, read strictly into frozen values.

Everything is refused here that can be: hosts that are not listed, unknown placeholders, pointers
and headers that are none, and a list that proves nothing. What is left for the day of the rotation
is what the API answers.

The `...Shape` classes are the file format; the plan calls `read`. Imports msgspec.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import msgspec

from keyturn.http_api import Change, Create, HttpApi, Listing, Request, Verify
from keyturn.shapes import Place, Shape, mapping, refusal, require_keys, shaped

OK = (200, 201, 202, 204)
"""What a request that did what it was asked to is answered with, unless the plan says otherwise."""

LIMIT_MIN, LIMIT_MAX = 2, 1_000_000
"""The next key is made while current's is there."""

LIFETIME_MAX_DAYS = 3_650

DEEPEST = 20
"""How far lists and mappings of a body may be nested."""

_Template = Annotated[
    str, msgspec.Meta(description="May have placeholders, such as `{id}`; see the page.")
]
_Pointer = Annotated[
    str,
    msgspec.Meta(
        description="A JSON pointer (RFC 6901), such as `/result/id`.",
        extra_json_schema={"pattern": "^(/.*)?$"},
    ),
]
_Statuses = Annotated[tuple[int, ...], msgspec.Meta(description="HTTP statuses.")]
_Headers = Annotated[dict[str, str], msgspec.Meta(description="Headers, by name: templates.")]
_Limit = Annotated[
    int,
    msgspec.Meta(
        description="How many keys there may be.",
        extra_json_schema={"minimum": LIMIT_MIN, "maximum": LIMIT_MAX},
    ),
]


class RequestShape(Shape, frozen=True, kw_only=True):
    """One request."""

    request: Annotated[
        str,
        msgspec.Meta(
            description="Method and URL, such as `GET https://api.example.com/v1/keys`. Path and"
            " query may have placeholders, the host may not."
        ),
    ]
    headers: _Headers | msgspec.UnsetType = msgspec.UNSET
    json: (
        Annotated[Any, msgspec.Meta(description="The body, sent as JSON; its texts are templates.")]
        | msgspec.UnsetType
    ) = msgspec.UNSET
    form: (
        Annotated[dict[str, str], msgspec.Meta(description="The body, sent as a form: templates.")]
        | msgspec.UnsetType
    ) = msgspec.UNSET


class CreateShape(RequestShape, frozen=True, kw_only=True):
    """Makes a key."""

    id: _Pointer
    secret: _Pointer
    full: _Statuses = ()
    repeatable: Annotated[
        bool,
        msgspec.Meta(
            description="The API promises one key only for all requests with the same `{rotation}`."
        ),
    ] = False
    lifetime_days: (
        Annotated[
            int,
            msgspec.Meta(
                description="How many days from its making `{expires_on}` is.",
                extra_json_schema={"minimum": 1, "maximum": LIFETIME_MAX_DAYS},
            ),
        ]
        | msgspec.UnsetType
    ) = msgspec.UNSET


class ListShape(RequestShape, frozen=True, kw_only=True):
    """Lists the keys. Left out where the API cannot."""

    items: _Pointer
    id: _Pointer
    name: _Pointer | msgspec.UnsetType = msgspec.UNSET
    created: _Pointer | msgspec.UnsetType = msgspec.UNSET
    last_used: _Pointer | msgspec.UnsetType = msgspec.UNSET
    active: _Pointer | msgspec.UnsetType = msgspec.UNSET
    next: (
        Annotated[
            str,
            msgspec.Meta(
                description="Where the URL of the next page is: `link` for the header of that"
                " name, or a JSON pointer.",
                extra_json_schema={"pattern": "^(link|/.*)$"},
            ),
        ]
        | msgspec.UnsetType
    ) = msgspec.UNSET


class VerifyShape(RequestShape, frozen=True, kw_only=True):
    """Uses a key: the least that shows whether it works."""

    accepted: _Statuses = (200,)
    refused: _Statuses = (401,)
    id: _Pointer | msgspec.UnsetType = msgspec.UNSET


class ChangeShape(RequestShape, frozen=True, kw_only=True):
    """Deactivates or deletes a key."""

    gone: _Statuses = (404, 410)


class HttpApiShape(Shape, frozen=True, kw_only=True):
    """An HTTP API that makes keys, and how it is asked."""

    hosts: Annotated[
        tuple[str, ...],
        msgspec.Meta(
            description="The only hosts that are asked, as in the URLs; with the port, if any.",
            extra_json_schema={"minItems": 1},
        ),
    ]
    headers: _Headers | msgspec.UnsetType = msgspec.UNSET
    limit: _Limit = LIMIT_MAX
    create: Annotated[CreateShape, msgspec.Meta(description="Makes a key.")]
    verify: Annotated[
        VerifyShape,
        msgspec.Meta(description="Uses a key: the least that shows whether it works."),
    ]
    delete: Annotated[ChangeShape, msgspec.Meta(description="Deletes a key.")]
    deactivate: (
        Annotated[ChangeShape, msgspec.Meta(description="Lets a key be refused.")]
        | msgspec.UnsetType
    ) = msgspec.UNSET
    list: (
        Annotated[ListShape, msgspec.Meta(description="Lists the keys, where the API can.")]
        | msgspec.UnsetType
    ) = msgspec.UNSET


ADMIN = frozenset({"admin_id", "admin_secret", "admin_basic"})
MADE = frozenset({"name", "rotation"})
TIMED = frozenset({"expires_on"})
KEY = frozenset({"id"})
USED = frozenset({"id", "secret", "basic"})
PLACEHOLDERS = ADMIN | MADE | TIMED | KEY | USED
"""All there are."""

_FIXES: Mapping[str, str] = {
    "hosts": "List the hosts of the URLs, such as `hosts: [api.example.com]`.",
    "headers": 'Write a mapping, such as `headers: {Authorization: "Bearer {admin_secret}"}`.',
    "limit": f"Write a whole number from {LIMIT_MIN} to {LIMIT_MAX}, or leave `limit` out.",
    "create": "Write the request that makes a key: `request`, `id` and `secret`; see the page.",
    "verify": "Write a request that only a key which works gets an answer to.",
    "delete": "Write the request that deletes a key, with `{id}` in it.",
    "deactivate": "Write the request that deactivates a key, with `{id}` in it, or leave it out.",
    "list": "Write the request that lists keys: `request`, `items`, `id`; see the page.",
    "request": "Write a method and a URL, such as `request: GET https://api.example.com/v1/keys`.",
    "json": "Write the body as it is sent, or leave `json` out.",
    "form": "Write a mapping from the names of the form to texts.",
    "id": "Point to the key's id, such as `id: /id`.",
    "secret": "Point to what is shown once, such as `secret: /token`.",
    "items": 'Point to the list, such as `items: /keys`; `items: ""` if it is the whole answer.',
    "name": "Point to the key's name, from its entry, such as `name: /name`.",
    "created": "Point to the time when the key was made, such as `created: /created_at`.",
    "last_used": "Point to the time of the last use, such as `last_used: /last_used_at`.",
    "active": "Point to what is true while the key works, such as `active: /enabled`.",
    "next": "Write `next: link`, or point to the URL of the next page.",
    "full": "List HTTP statuses, such as `full: [409]`.",
    "gone": "List HTTP statuses, such as `gone: [404]`.",
    "accepted": "List HTTP statuses, such as `accepted: [200]`.",
    "refused": "List HTTP statuses, such as `refused: [401]`.",
    "repeatable": "Write true or false.",
    "lifetime_days": "Write a whole number of days, such as `lifetime_days: 90`.",
}


def read(tree: object, place: Place) -> HttpApi:
    """Read what a plan says under `http`.

    Raises:
        Misconfigured: Names the place and the fix, and quotes no value.
    """
    entry = mapping(tree, place, _FIXES["create"])
    require_keys(entry, HttpApiShape, place, _FIXES)
    for key, shape in PARTS.items():
        if key in entry:
            at = place.at(key)
            require_keys(mapping(entry[key], at, _FIXES[key]), shape, at, _FIXES)
    api = _Reader(shaped(entry, HttpApiShape, place, _FIXES), place).api()
    _require_proof(api, place)
    return api


PARTS: Mapping[str, type[RequestShape]] = {
    "create": CreateShape,
    "verify": VerifyShape,
    "delete": ChangeShape,
    "deactivate": ChangeShape,
    "list": ListShape,
}


class _Reader:
    """Turns shapes into values, and refuses on the way."""

    def __init__(self, shape: HttpApiShape, place: Place) -> None:
        self._shape = shape
        self._place = place
        self._common = _given(shape.headers) or {}

    def api(self) -> HttpApi:
        shape, place = self._shape, self._place
        for host in shape.hosts:
            _require(_HOST.fullmatch(host), place, "hosts", "has an entry that is no host")
        _require(shape.hosts, place, "hosts", "is empty")
        _require(LIMIT_MIN <= shape.limit <= LIMIT_MAX, place, "limit", "is too small or too large")
        return HttpApi(
            frozenset(shape.hosts),
            shape.limit,
            self._create(shape.create, place.at("create")),
            self._verify(shape.verify, place.at("verify")),
            self._change(shape.delete, place.at("delete")),
            self._listing(_given(shape.list), place.at("list")),
            self._deactivate(_given(shape.deactivate), place.at("deactivate")),
        )

    def _create(self, shape: CreateShape, place: Place) -> Create:
        request = self._request(shape, place, MADE | TIMED | ADMIN)
        used = _placeholders(request)
        if shape.repeatable is not ("rotation" in used):
            raise refusal(
                place.at("repeatable"),
                "goes together with the placeholder {rotation}",
                "Send {rotation} where the API takes an idempotency key, or leave both out.",
            )
        if used >= MADE:
            raise refusal(
                place,
                "has both {name} and {rotation}",
                "Leave one out: a name is another one in each try, a repeated request the same.",
            )
        days = _given(shape.lifetime_days)
        if (days is not None) is not ("expires_on" in used):
            raise refusal(
                place.at("lifetime_days"),
                "goes together with the placeholder {expires_on}",
                "Send {expires_on} where the API wants a date, or leave both out.",
            )
        fits = days is None or 1 <= days <= LIFETIME_MAX_DAYS
        _require(fits, place, "lifetime_days", "is too small or too large")
        return Create(
            request,
            _pointer(shape.id, place, "id"),
            _pointer(shape.secret, place, "secret"),
            _statuses(shape.full, place, "full"),
            is_repeatable=shape.repeatable,
            is_named="name" in used,
            lifetime_days=days,
        )

    def _verify(self, shape: VerifyShape, place: Place) -> Verify:
        request = self._request(shape, place, USED, {})
        _require(_placeholders(request) & {"secret", "basic"}, place, "request", "sends no secret")
        accepted = _statuses(shape.accepted, place, "accepted")
        refused = _statuses(shape.refused, place, "refused")
        _require(accepted, place, "accepted", "is empty")
        _require(refused, place, "refused", "is empty")
        _require(not accepted & refused, place, "refused", "has a status that `accepted` has")
        return Verify(request, accepted, refused, _optional(shape.id, place, "id"))

    def _change(self, shape: ChangeShape, place: Place) -> Change:
        request = self._request(shape, place, KEY | ADMIN)
        _require("id" in _placeholders(request), place, "request", "does not say which: no {id}")
        return Change(request, _statuses(shape.gone, place, "gone"))

    def _deactivate(self, shape: ChangeShape | None, place: Place) -> Change | None:
        return None if shape is None else self._change(shape, place)

    def _listing(self, shape: ListShape | None, place: Place) -> Listing | None:
        if shape is None:
            return None
        following = _given(shape.next)
        if following is not None and following != "link":
            _pointer(following, place, "next")
        return Listing(
            self._request(shape, place, ADMIN),
            _pointer(shape.items, place, "items"),
            _pointer(shape.id, place, "id"),
            _optional(shape.name, place, "name"),
            _optional(shape.created, place, "created"),
            _optional(shape.last_used, place, "last_used"),
            _optional(shape.active, place, "active"),
            following,
        )

    def _request(
        self,
        shape: RequestShape,
        place: Place,
        allowed: frozenset[str],
        common: Mapping[str, str] | None = None,
    ) -> Request:
        found = _REQUEST.fullmatch(shape.request)
        if found is None:
            raise refusal(place.at("request"), "is no method and URL", _FIXES["request"])
        _require(found["host"] in self._shape.hosts, place, "request", "is for a host not listed")
        headers = {**(self._common if common is None else common), **(_given(shape.headers) or {})}
        request = Request(
            found["method"],
            found["scheme"],
            found["host"],
            found["target"],
            headers,
            _given(shape.json),
            _given(shape.form),
        )
        if request.json is not None and request.form is not None:
            raise refusal(place.at("form"), "stands beside `json`", "Leave one of them out.")
        _require(_is_flat(request.json, DEEPEST), place, "json", "is nested too deeply")
        _check_headers(headers, place)
        _check_placeholders(request, allowed, place)
        return request


_HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
_REQUEST = re.compile(
    r"(?P<method>GET|POST|PUT|PATCH|DELETE) (?P<scheme>https?)://"
    rf"(?P<host>{_HOST.pattern})(?P<target>/[!\"$-~]*)"  # printable, and no fragment
)
_POINTER = re.compile(r"(?:/(?:[^~/\x00-\x1f]|~[01])*)*")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, token
_OURS = {"host", "content-length", "transfer-encoding", "connection", "accept-encoding", "te"}
"""Headers that say where a request ends, or what its answer is like."""
PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


def _given(value: Any) -> Any:
    return None if value is msgspec.UNSET else value


def _require(condition: object, place: Place, key: str, fact: str) -> None:
    if not condition:
        raise refusal(place.at(key), fact, _FIXES[key])


def _pointer(text: str, place: Place, key: str) -> str:
    _require(_POINTER.fullmatch(text), place, key, "is no JSON pointer")
    return text


def _optional(text: str | msgspec.UnsetType, place: Place, key: str) -> str | None:
    return _pointer(text, place, key) if isinstance(text, str) else None


def _statuses(listed: tuple[int, ...], place: Place, key: str) -> frozenset[int]:
    fits = all(200 <= status <= 599 and not 300 <= status <= 399 for status in listed)  # noqa: PLR2004  # no redirect is an answer
    _require(fits, place, key, "has a number that is no status of an answer")
    return frozenset(listed)


def _check_headers(headers: Mapping[str, str], place: Place) -> None:
    at = place.at("headers")
    for name, template in headers.items():
        if not _HEADER.fullmatch(name) or name.lower() in _OURS:
            raise refusal(at, "has a name that a header cannot have here", "Remove that header.")
        if not (template.isascii() and template.isprintable()):
            raise refusal(at, "has a text that is not printable ASCII", _FIXES["headers"])


def _check_placeholders(request: Request, allowed: frozenset[str], place: Place) -> None:
    if unknown := _placeholders(request) - allowed:
        # Shown, if at all, as a name: somebody may have pasted a secret in braces.
        shown = min(unknown) if min(unknown) in PLACEHOLDERS else "..."
        known = ", ".join(f"{{{each}}}" for each in sorted(allowed))
        raise refusal(place, f"has the placeholder {{{shown}}}", f"Use {known} only.")


def _placeholders(request: Request) -> frozenset[str]:
    parts = (request.target, request.headers, request.json, request.form)
    return frozenset(name for text in _texts(parts) for name in PLACEHOLDER.findall(text))


def _is_flat(tree: object, levels: int) -> bool:
    """Tell whether *tree* ends. An alias may stand for what it is a part of."""
    match tree:
        case Mapping():
            return levels > 0 and all(_is_flat(each, levels - 1) for each in tree.values())
        case list() | tuple():
            return levels > 0 and all(_is_flat(each, levels - 1) for each in tree)
        case _:
            return True


def _texts(tree: object) -> Iterator[str]:
    match tree:
        case str():
            yield tree
        case Mapping():
            yield from (text for each in tree.values() for text in _texts(each))
        case list() | tuple():
            yield from (text for each in tree for text in _texts(each))


def _require_proof(api: HttpApi, place: Place) -> None:
    """Refuse a list by which nobody can tell our keys from other people's."""
    listing = api.list
    if listing is None or (listing.name is not None and api.create.is_named):
        return
    if listing.created is None or listing.last_used is None:
        raise refusal(
            place.at("list"),
            "does not show which keys are ours",
            "Send {name} in `create` and point to it by `name`; where keys have no names, point to"
            " `created` and `last_used`; where they have neither, leave `list` out.",
        )
