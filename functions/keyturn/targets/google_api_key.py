"""API keys of Google Cloud: made under an id of ours, like the key that is current.

Google makes the value, and shows it whenever it is asked: so a key is never lost. It has the id
that its try has chosen, and a call that is made again finds it there. A try whose worker dies
before it has stored the key leaves one that is ours by its id; the next rotation deletes it.

    create    a key with the restrictions, display name and annotations of current's
    accepts   the key is there, has that value, and the value leads to it; three times in a row
    delete    a person can undo it for 30 days: there is no other way to disable a key

What it never does: touch a project that the deployment does not name (KEYTURN_KEY_HOLDERS); delete
a key that keyturn has neither made nor followed, even if the secret names it; use the key. Whether
an API takes it by now, nobody is asked: the API Keys service is.

A credential's document: `name`, projects/NUMBER/locations/global/keys/ID, and `api_key`, its value.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from keyturn.boundary import google_refusal
from keyturn.document import Members
from keyturn.errors import Busy, Denied, Drifted, Misconfigured, NotYetAccepted
from keyturn.google.api import connect
from keyturn.model import (
    Attempt,
    Credential,
    IssuedKey,
    Sensitive,
    Strategy,
    Surroundings,
    Trace,
)

TITLE = "API keys of Google Cloud"
STRATEGIES: tuple[Strategy, ...] = ()
"""None of those for passwords: keys are minted."""
ENGINES = ("google-api-key",)
MEMBERS = Members("name", "api_key")
SERVICE = "apikeys.googleapis.com"
PERMISSIONS = (
    "apikeys.keys.create",
    "apikeys.keys.delete",
    "apikeys.keys.get",
    "apikeys.keys.getKeyString",
    "apikeys.keys.list",
    "apikeys.keys.lookup",
    "serviceusage.operations.get",
)
"""On the projects that KEYTURN_KEY_HOLDERS names; the last is for operations."""

LIMIT = 300
"""Keys of a project (API keys, "Quotas"; more by request)."""

PAGE = 300
"""Keys in an answer."""

FIRST_PAUSE_S, LONGEST_PAUSE_S, GROWTH = 0.5, 4.0, 2.0
"""Between two looks at an operation. It takes a second or two, as far as people report."""
MARGIN_S = 10.0
"""Left of the function's time when a wait ends."""

REPLACES = "keyturn-replaces"
"""The annotation with the id of the last key that a person had made, and ours came after."""


def issuer(surroundings: Surroundings) -> GoogleApiKeys:
    """Build the issuer; see `keyturn.targets`."""
    return GoogleApiKeys(surroundings)


class GoogleApiKeys:
    """A `KeyIssuer`. The holder is a project.

    Args:
        surroundings: What the deployment allows.
        limit: How many keys a project may have.
        sleep: Waits so many seconds.
    """

    trace = Trace.NAME
    usage_lag: timedelta | None = None

    def __init__(
        self,
        surroundings: Surroundings,
        limit: int = LIMIT,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.limit = limit
        self._surroundings = surroundings
        self._api = connect(SERVICE, surroundings)
        self._sleep = sleep

    def holder(self, credential: Credential) -> str:
        """See `KeyIssuer.holder`."""
        found = _NAME.fullmatch(credential.principal)
        if found is None:
            raise Misconfigured(
                "the secret's 'name' is not projects/NUMBER/locations/global/keys/ID",
                remedy="Store name and value of an API key that there is.",
            )
        if found[1] not in self._surroundings.key_holders:
            raise Denied(
                f"{found[1]} is not a project that KEYTURN_KEY_HOLDERS names",
                remedy=f"List {found[1]} in KEYTURN_KEY_HOLDERS, if it is the right one.",
            )
        return found[1]

    def check(self, current: Credential) -> None:
        """See `KeyIssuer.check`.

        A current key that somebody has deleted can still be followed, as long as it can be read.
        """
        self.holder(current)
        key = self._there(current)
        if self._value(current.principal) != current.secret:
            raise Drifted(
                f"{current.principal} has another value than the secret",
                remedy="Store name and value of one key.",
            )
        if not _is_deleted(key):
            # Whether it may be asked at all. Later, a refusal tells that the key is new.
            self._owner_of(current, _GONE)

    def keys(self, current: Credential) -> Sequence[IssuedKey]:
        """See `KeyIssuer.keys`. Those that were deleted are not shown."""
        found = self._described(self.holder(current))
        return [_issued(each) for each in found if not _is_deleted(each)]

    def mint(self, current: Credential, attempt: Attempt) -> Credential:
        """See `KeyIssuer.mint`. Repeated under the same id, it is one key."""
        holder, key_id = self.holder(current), attempt.name.lower()
        body = _like(self._there(current))
        name = f"{holder}/locations/global/keys/{key_id}"
        self._make(holder, name, body)
        return replace(current, principal=name, secret=self._value_in_time(name))

    def verify(self, credential: Credential) -> bool:
        """See `KeyIssuer.verify`. Only a value that is the key's own is sent anywhere."""
        name = credential.principal
        if not _NAME.fullmatch(name):
            return False
        self.holder(credential)
        if self._is_gone(name) or self._value(name) != credential.secret:
            return False
        return self._owner_of(credential, _UNKNOWN) == name

    def last_used(self, current: Credential, key_id: str) -> datetime | None:
        """See `KeyIssuer.last_used`. Never known: the service does not tell."""
        del current, key_id
        return None

    def deactivate(self, current: Credential, key_id: str) -> None:
        """See `KeyIssuer.deactivate`. Deletes it, which a person can undo for 30 days."""
        holder = self.holder(current)
        if not self._is_ours(holder, current, key_id):
            return
        if self._is_gone(key_id):
            return
        said = self._api.ask("DeleteKey", key_id, "DELETE", f"/v2/{key_id}", answers=_DELETED)
        code = self._outcome(key_id, said) if said else ""
        if said is _REFUSED and not self._is_gone(key_id):
            code = _FAILED
        if code:
            raise google_refusal("DeleteKey", key_id, code)

    def delete(self, current: Credential, key_id: str) -> None:
        """See `KeyIssuer.delete`. There is nothing left to do: Google purges it in 30 days."""
        self.deactivate(current, key_id)

    # ------------------------------------------------------------------------ whose key it is

    def _is_ours(self, holder: str, current: Credential, key_id: str) -> bool:
        """Tell whether keyturn has made a key, or one in its place.

        That a version of the secret names it proves little: whoever may write the secret could
        have any key of the project deleted.
        """
        found = _NAME.fullmatch(key_id)
        if found is None or found[1] != holder:
            return False
        own = _OURS.fullmatch(_id_of(current.principal))
        if own is None:
            return self._has_followed(current, key_id)
        if _OURS.fullmatch(found[2]):
            return _is_for(own["secret"], found[2])
        # One that was deleted tells, too, for 30 days.
        everything = self._described(holder, showDeleted="true")
        return any(
            _replaced(each) == found[2] and _is_for(own["secret"], _id(each)) for each in everything
        )

    def _has_followed(self, current: Credential, key_id: str) -> bool:
        """Tell whether keyturn has made a key after current's, which a person has made.

        Such a current tells of no secret. Any other key waits until one of ours is current.
        """
        key = self._key(key_id)
        if key is None or not _OURS.fullmatch(_id(key)):
            return False
        return _replaced(key) == _id_of(current.principal)

    # ------------------------------------------------------------------------ the service

    def _is_gone(self, name: str) -> bool:
        key = self._key(name)
        return key is None or _is_deleted(key)

    def _there(self, current: Credential) -> Mapping[str, Any]:
        key = self._key(current.principal)
        if key is None:
            raise Drifted(
                f"there is no key {current.principal}, which the next one is to be like",
                remedy="Store name and value of an API key that there is.",
            )
        return key

    def _make(self, holder: str, name: str, body: Mapping[str, object]) -> None:
        path = f"/v2/{holder}/locations/global/keys?keyId={_id_of(name)}"
        said = self._api.ask("CreateKey", name, "POST", path, body, answers=_MADE)
        if said is _THERE:  # An earlier send has made it, whose answer was lost.
            return
        code = _FAILED if said is _FULL else self._outcome(name, said)
        if code == _FAILED:
            raise Busy(
                f"{holder} takes no further key: it has as many as it may, or a policy forbids it",
                remedy="Look at its keys and policies: it is tried again.",
            )
        if code:
            raise google_refusal("CreateKey", name, code)

    def _key(self, name: str) -> Mapping[str, Any] | None:
        found: Mapping[str, Any] | None = self._api.ask(
            "GetKey", name, "GET", f"/v2/{name}", answers=_GONE
        )
        return found

    def _value(self, name: str) -> Sensitive | None:
        said = self._api.ask("GetKeyString", name, "GET", f"/v2/{name}/keyString", answers=_HIDDEN)
        return Sensitive(said["keyString"]) if said and said.get("keyString") else None

    def _value_in_time(self, name: str) -> Sensitive:
        for pause_s in _pauses():
            value = self._value(name)
            if value is not None:
                return value
            self._rest(name, pause_s)
        raise AssertionError("pauses do not end")

    def _owner_of(self, credential: Credential, answers: Mapping[str, None]) -> str:
        """Ask whose the value is. It goes in the address, as it does when an API is called."""
        query = urlencode({"keyString": credential.secret.reveal()})
        said = self._api.ask(
            "LookupKey", credential.principal, "GET", f"/v2/keys:lookupKey?{query}", answers=answers
        )
        return said.get("name", "") if said is not None else ""

    def _described(self, holder: str, **query: str) -> Iterator[Mapping[str, Any]]:
        query["pageSize"] = str(PAGE)
        while True:
            path = f"/v2/{holder}/locations/global/keys?{urlencode(query)}"
            said = self._api.ask("ListKeys", holder, "GET", path)
            yield from said.get("keys", [])
            if not said.get("nextPageToken"):
                return
            query["pageToken"] = said["nextPageToken"]

    def _outcome(self, name: str, operation: Mapping[str, Any]) -> str:
        """Wait until *operation* is done; return the canonical code of its error, or ""."""
        for pause_s in _pauses():
            if operation.get("done"):
                break
            self._rest(name, pause_s)
            path = f"/v2/{_operation(name, operation)}"
            operation = self._api.ask("GetOperation", name, "GET", path)
        code = operation.get("error", {}).get("code", 0)
        return _CODES.get(code, "UNKNOWN") if code else ""

    def _rest(self, name: str, pause_s: float) -> None:
        if self._surroundings.remaining_s() - pause_s < MARGIN_S:
            raise NotYetAccepted(
                f"{name} is not ready, and the time is up",
                remedy="Run this step again; a key that nothing stores is deleted later.",
            )
        self._sleep(pause_s)


def _pauses() -> Iterator[float]:
    pause_s = FIRST_PAUSE_S
    while True:
        yield pause_s
        pause_s = min(pause_s * GROWTH, LONGEST_PAUSE_S)


# ---------------------------------------------------------------------------- what an answer says

_NAME = re.compile(
    r"(projects/[0-9]{1,20})/locations/global/keys/([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)"
)
_OURS = re.compile(
    r"keyturn-(?P<secret>[0-9a-f]{16})-(?P<day>[0-9]{8})t(?P<time>[0-9]{6})z-(?P<try>[0-9a-f]+)"
)
"""The id of a key that keyturn has made: an attempt's name, in small letters (CreateKeyRequest)."""
_OPERATION = re.compile(r"operations/[\w.~-]+", re.ASCII)

_FAILED = "FAILED_PRECONDITION"
_THERE: Mapping[str, Any] = {}
_FULL: Mapping[str, Any] = {}
_REFUSED: Mapping[str, Any] = {}
_MADE = {"ALREADY_EXISTS": _THERE, _FAILED: _FULL}
_DELETED = {"NOT_FOUND": None, _FAILED: _REFUSED}
_GONE = {"NOT_FOUND": None}
_UNKNOWN = {"NOT_FOUND": None, "INVALID_ARGUMENT": None, "PERMISSION_DENIED": None}
_HIDDEN = {"NOT_FOUND": None, _FAILED: None}
"""Codes that are answers. A key is deleted once; the value of one that is, may be hidden.

A look-up needs a right on the project that has the value: of one that is not known yet it may say
that there is none.
"""

_CODES = {
    3: "INVALID_ARGUMENT",
    5: "NOT_FOUND",
    7: "PERMISSION_DENIED",
    8: "RESOURCE_EXHAUSTED",
    9: "FAILED_PRECONDITION",
    10: "ABORTED",
    16: "UNAUTHENTICATED",
}
"""google.rpc.Code, as an operation's error has it."""

_COPIED = ("displayName", "restrictions", "serviceAccountEmail")


def _like(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return a new key that may do what *model* may."""
    body = {name: model[name] for name in _COPIED if name in model}
    annotations = dict(model.get("annotations", {}))
    if not _OURS.fullmatch(_id(model)):
        annotations[REPLACES] = _id(model)
    return {**body, "annotations": annotations} if annotations else body


def _replaced(key: Mapping[str, Any]) -> str:
    return str(key.get("annotations", {}).get(REPLACES, ""))


def _is_for(secret: str, key_id: str) -> bool:
    found = _OURS.fullmatch(key_id)
    return found is not None and found["secret"] == secret


def _is_deleted(key: Mapping[str, Any]) -> bool:
    return bool(key.get("deleteTime"))


def _issued(key: Mapping[str, Any]) -> IssuedKey:
    created_at = datetime.fromisoformat(key["createTime"]) if key.get("createTime") else None
    return IssuedKey(key["name"], created_at, is_active=True, name=_attempted(_id(key)))


def _attempted(key_id: str) -> str:
    """Return the name of the attempt that an id is of; empty if it is not ours."""
    found = _OURS.fullmatch(key_id)
    if found is None:
        return ""
    return f"keyturn-{found['secret']}-{found['day']}T{found['time']}Z-{found['try']}"


def _id(key: Mapping[str, Any]) -> str:
    return _id_of(key["name"])


def _id_of(name: str) -> str:
    return name.rpartition("/")[2]


def _operation(name: str, operation: Mapping[str, Any]) -> str:
    found = str(operation.get("name"))
    if not _OPERATION.fullmatch(found):
        raise google_refusal("GetOperation", name, "UNKNOWN")
    return found
