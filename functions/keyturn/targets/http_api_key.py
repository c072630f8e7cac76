"""Keys of any HTTP API: made, listed, tried and deleted by the requests that the plan declares.

The secret says which key, the plan says everything else: which hosts, which requests, where in an
answer the id and the secret are. A host in the secret's value leads nowhere; where it is another
one than the plan's, the secret is refused.

What it never does: follow a redirect or a page to another host; take no answer for a no; ask twice
for a key, unless the API promises one key only; show anything that it has sent or received.

A credential's document: `key_id` and `api_key`. Who may make and delete keys is either that key
itself, or the `admin` that the plan names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from keyturn.document import Members
from keyturn.errors import Busy, Denied, Drifted, Misconfigured, Unreachable
from keyturn.http_api import Change, HttpApi, Listing
from keyturn.http_exchange import (
    MISSING,
    Answer,
    Exchange,
    Values,
    at,
    basic,
    document,
    failed,
    next_page,
    require_ok,
)
from keyturn.model import (
    Attempt,
    Credential,
    IssuedKey,
    Sensitive,
    Strategy,
    Surroundings,
    Trace,
)

TITLE = "Keys of any HTTP API"
STRATEGIES: tuple[Strategy, ...] = ()
"""None of those for passwords: keys are minted."""
ENGINES = ("http-api-key",)
MEMBERS = Members("key_id", "api_key")
PERMISSIONS: tuple[str, ...] = ()
"""A request over the network needs no cloud permission."""

USAGE_LAG = timedelta(days=1)
"""How late a last use is taken to be at the most: many APIs note the day only."""

PAGES_MOST = 100
"""Of one list. More is a loop, or not a list of one holder's keys."""


def issuer(surroundings: Surroundings) -> HttpApiKeys:
    """Build the issuer; see `keyturn.targets`.

    Raises:
        Misconfigured: The plan does not declare the API.
    """
    if not isinstance(surroundings.declared, HttpApi):
        raise Misconfigured(
            "no plan declares the API that this key is for",
            remedy="Write it under `http` of this secret: see docs/http-api-keys.md.",
        )
    return HttpApiKeys(surroundings.declared, surroundings)


class HttpApiKeys:
    """A `KeyIssuer`."""

    def __init__(self, api: HttpApi, surroundings: Surroundings) -> None:
        self._api = api
        self._exchange = Exchange(api.hosts, surroundings)
        self._read_admin = surroundings.admin
        self._admin: Credential | None = None

    @property
    def limit(self) -> int:
        """See `KeyIssuer.limit`."""
        return self._api.limit

    @property
    def trace(self) -> Trace:
        """See `KeyIssuer.trace`."""
        return self._api.trace

    @property
    def usage_lag(self) -> timedelta | None:
        """See `KeyIssuer.usage_lag`. Many APIs note the day only."""
        is_told = self._api.list is not None and self._api.list.last_used is not None
        return USAGE_LAG if is_told else None

    def holder(self, credential: Credential) -> str:
        """See `KeyIssuer.holder`. It is where keys are made: the plan knows no other."""
        if not _ID.fullmatch(credential.principal) or not credential.principal.strip("."):
            raise _malformed("key_id", "the id of a key")
        secret = credential.secret.reveal()
        if not (secret.isascii() and secret.isprintable()):
            raise _malformed("api_key", "printable ASCII")
        made_at = self._api.create.request.host
        if credential.fields.get("host", made_at) != made_at:
            raise Denied(
                f"the secret's 'host' is not {made_at}, which the plan names",
                remedy="Correct `host` in the secret, or remove it: only the plan's is asked.",
            )
        return str(self._api.create.request)

    def check(self, current: Credential) -> None:
        """See `KeyIssuer.check`.

        Where neither the request nor its answer says which key was used, the list must have it.
        """
        self.holder(current)
        works = self.verify(current)
        if not works and self._read_admin is None:
            raise Denied(
                f"{self._api.create.request.host} refuses the current key, which makes the next",
                remedy="Name an `admin` in the plan, or put a key that works into the secret.",
            )
        if works and not self._is_told():
            self._require_listed(current)

    def keys(self, current: Credential) -> Sequence[IssuedKey]:
        """See `KeyIssuer.keys`."""
        self.holder(current)
        listing = self._api.list
        if listing is None:
            return []
        return [_issued(entry, listing) for entry in self._entries(current, listing)]

    def mint(self, current: Credential, attempt: Attempt) -> Credential:
        """See `KeyIssuer.mint`. Repeated, once, only where the API makes no second key."""
        self.holder(current)
        create = self._api.create
        expires_at = attempt.at + timedelta(days=create.lifetime_days or 0)
        values: Values = {
            **self._authority(current),
            "name": attempt.name,
            "rotation": attempt.rotation,
            "expires_on": f"{expires_at:%Y-%m-%d}",
        }
        try:
            answer = self._exchange.send(create.request, values)
        except Unreachable:
            if not create.is_repeatable:
                raise
            answer = self._exchange.send(create.request, values)
        if answer.status in create.full:
            raise Busy(
                f"{create.request} answered {answer.status}: no more keys may be made",
                remedy="Nothing: it is tried again with a fresh list of them.",
            )
        require_ok(answer)
        made = document(answer)
        principal, secret = _text(made, create.id), _text(made, create.secret)
        if principal is None or secret is None:
            raise Misconfigured(
                f"{create.request}: no text at {create.id if principal is None else create.secret}",
                remedy="Correct the pointers under `create`; a key was made that nobody has.",
            )
        minted = replace(current, principal=principal, secret=Sensitive(secret))
        self.holder(minted)  # What could never be used or deleted is not stored.
        return minted

    def verify(self, credential: Credential) -> bool:
        """See `KeyIssuer.verify`. On a new connection, which may lead to another host."""
        self.holder(credential)
        verify = self._api.verify
        values: Values = {
            "id": credential.principal,
            "secret": credential.secret,
            "basic": basic(credential),
        }
        answer = self._exchange.send(verify.request, values)
        if answer.status in verify.refused:
            return False
        if answer.status not in verify.accepted:
            raise failed(answer)
        if verify.id is not None and _text(document(answer), verify.id) != credential.principal:
            raise Drifted(
                f"{verify.request}: the key of {credential.principal} is another one's",
                remedy="Put id and secret of the same key into the secret.",
            )
        return True

    def last_used(self, current: Credential, key_id: str) -> datetime | None:
        """See `KeyIssuer.last_used`. None, too, where the API does not tell."""
        self.holder(current)
        listing = self._api.list
        if listing is None or listing.last_used is None:
            return None
        for entry in self._entries(current, listing):
            if _text(entry, listing.id) == key_id:
                return _time(entry, listing.last_used, listing)
        return None

    def deactivate(self, current: Credential, key_id: str) -> None:
        """See `KeyIssuer.deactivate`."""
        if self._api.deactivate is not None:
            self._change(self._api.deactivate, current, key_id)

    def delete(self, current: Credential, key_id: str) -> None:
        """See `KeyIssuer.delete`."""
        self._change(self._api.delete, current, key_id)

    def _require_listed(self, current: Credential) -> None:
        listing = self._api.list
        if listing is not None and current.principal not in {key.id for key in self.keys(current)}:
            raise Drifted(
                f"{listing.request}: no key has the id of the current one, which works",
                remedy="Correct `key_id` in the secret: it is another key's, or nobody's.",
            )

    def _change(self, change: Change, current: Credential, key_id: str) -> None:
        self.holder(replace(current, principal=key_id))
        answer = self._exchange.send(change.request, {**self._authority(current), "id": key_id})
        if answer.status not in change.gone:
            require_ok(answer)

    def _authority(self, current: Credential) -> Values:
        if self._read_admin is not None and self._admin is None:
            self._admin = self._read_admin()
        admin = self._admin or current
        return {
            "admin_id": admin.principal,
            "admin_secret": admin.secret,
            "admin_basic": basic(admin),
        }

    def _is_told(self) -> bool:
        """Tell whether a use of a key shows which one it was."""
        verify = self._api.verify
        texts = (verify.request.target, *verify.request.headers.values())
        return verify.id is not None or any("{id}" in t or "{basic}" in t for t in texts)

    def _entries(self, current: Credential, listing: Listing) -> Iterator[object]:
        request, seen = listing.request, set[str]()
        while True:
            answer = self._exchange.send(request, self._authority(current))
            require_ok(answer)
            page = document(answer)
            entries = at(page, listing.items)
            if not isinstance(entries, list):
                raise _no(listing, "list", listing.items)
            yield from entries
            url = _next_url(answer, page, listing.next)
            if url is None:
                return
            seen.add(request.target)
            request = next_page(request, url)
            if request.target in seen or len(seen) >= PAGES_MOST:
                raise Misconfigured(
                    f"{listing.request}: the list does not end",
                    remedy="Let the request ask for larger pages, or for one holder's keys only.",
                )


# ---------------------------------------------------------------------------- what an answer says

_ID = re.compile(r"[!-~]{1,255}")
_LINK = re.compile(r"<([^<>]*)>((?:\s*;\s*[^,;\"]*(?:\"[^\"]*\")?)*)")
_PARAMETER = re.compile(r";\s*([\w*-]+)\s*=\s*(?:\"([^\"]*)\"|([^\s;,\"]*))")
_MILLISECONDS_FROM = 100_000_000_000
"""A number of at least this many is a time in milliseconds; in seconds, it is the year 5138."""


def _malformed(member: str, what: str) -> Misconfigured:
    return Misconfigured(
        f"the secret's {member!r} is not {what}",
        remedy=f"Correct {member!r} in the secret's value.",
    )


def _text(tree: object, pointer: str) -> str | None:
    """Return the text or whole number that is there; None if something else is."""
    found = at(tree, pointer)
    if isinstance(found, int) and not isinstance(found, bool):
        return str(found)
    return found if isinstance(found, str) and found else None


def _issued(entry: object, listing: Listing) -> IssuedKey:
    key_id = _text(entry, listing.id)
    if key_id is None:
        raise _no(listing, "text", listing.id)
    created_at = None if listing.created is None else _time(entry, listing.created, listing)
    name = _text(entry, listing.name) if listing.name is not None else None
    is_active = True if listing.active is None else at(entry, listing.active)
    if not isinstance(is_active, bool):
        raise _no(listing, "true or false", str(listing.active))
    return IssuedKey(key_id, created_at, is_active, name or "")


def _time(entry: object, pointer: str, listing: Listing) -> datetime | None:
    """Return a time; None for null. ISO 8601, RFC 2822, or a number since 1970."""
    found = at(entry, pointer)
    if found is None:
        return None
    made = _time_of(found)
    if made is None:
        # Not None: what is never told would look like a key that is never used.
        raise _no(listing, "time", pointer)
    return made if made.tzinfo is not None else made.replace(tzinfo=UTC)


def _time_of(found: object) -> datetime | None:
    try:
        match found:
            case bool():
                return None
            case int() | float():
                is_long = found >= _MILLISECONDS_FROM
                return datetime.fromtimestamp(found / 1000 if is_long else found, UTC)
            case str() if found[:1].isdigit():
                return datetime.fromisoformat(found)
            case str():
                return parsedate_to_datetime(found)
            case _:
                return None
    except (ValueError, OverflowError, OSError):
        return None


def _no(listing: Listing, what: str, pointer: str) -> Misconfigured:
    return Misconfigured(
        f"{listing.request}: no {what} at {pointer!r}",
        remedy="Correct the pointers under `list`: they begin at an entry, `items` at the answer.",
    )


def _next_url(answer: Answer, page: object, following: str | None) -> str | None:
    if following == "link":
        return next((each[1] for each in _LINK.finditer(answer.link) if _is_next(each[2])), None)
    url = at(page, following) if following is not None else None
    return url if isinstance(url, str) and url and url is not MISSING else None


def _is_next(parameters: str) -> bool:
    """Tell whether a link's relation, one of several maybe, is `next` (RFC 8288)."""
    found = _PARAMETER.findall(parameters)
    relations = [quoted or bare for name, quoted, bare in found if name.lower() == "rel"]
    return any("next" in relation.lower().split() for relation in relations)
