"""HMAC keys of Cloud Storage: with them a service account speaks S3's dialect.

    create    Cloud Storage makes access id and secret, and shows the secret once
    accepts   the key is active, and a request that it signs is let in: three times in a row
    retire    the key is made inactive, which a person can undo; the next rotation deletes it

A lost answer leaves a key of whose secret nobody knows. Nothing of ours is on it, and nothing tells
when a key was used: so it is reported, by its time and our intent, and left (`keyturn.minted`).

What it never does: touch an account that the deployment does not name (KEYTURN_KEY_HOLDERS), read
an object, or take *may not* for *unknown*: whoever signs rightly and may list no buckets has a key
that works.

A credential's document: `access_id` and `secret`; `service_account`, whose it is.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from keyturn.document import Members
from keyturn.errors import Busy, Denied, Misconfigured, Unreachable
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

TITLE = "HMAC keys of Cloud Storage"
STRATEGIES: tuple[Strategy, ...] = ()
"""None of those for passwords: keys are minted."""
ENGINES = ("gcs-hmac-key",)
MEMBERS = Members("access_id", "secret")
STORAGE = "storage.googleapis.com"
PERMISSIONS = (
    "storage.hmacKeys.create",
    "storage.hmacKeys.delete",
    "storage.hmacKeys.get",
    "storage.hmacKeys.list",
    "storage.hmacKeys.update",
)
"""On the project: roles/storage.hmacKeyAdmin."""

LIMIT = 10
"""Keys of an account, those that were deleted not counted (Cloud Storage: quotas)."""

REGION = "auto"
"""In the scope of a signature; it is not looked at (Cloud Storage: V4 signing)."""


def issuer(surroundings: Surroundings) -> HmacKeys:
    """Build the issuer; see `keyturn.targets`."""
    return HmacKeys(surroundings)


def _now() -> datetime:
    return datetime.now(UTC)


class HmacKeys:
    """A `KeyIssuer`. The holder is a service account, by its e-mail address.

    Args:
        surroundings: What the deployment allows.
        limit: How many keys an account may have.
        now: Returns the time.
    """

    trace = Trace.TIME_ONLY
    usage_lag: timedelta | None = None

    def __init__(
        self,
        surroundings: Surroundings,
        limit: int = LIMIT,
        now: Callable[[], datetime] = _now,
    ) -> None:
        self.limit = limit
        self._surroundings = surroundings
        self._now = now
        self._api = connect(STORAGE, surroundings)

    def holder(self, credential: Credential) -> str:
        """See `KeyIssuer.holder`."""
        account = str(credential.fields.get("service_account", ""))
        if not _ACCOUNT.fullmatch(account):
            raise Misconfigured(
                "the secret's 'service_account' is not NAME@PROJECT.iam.gserviceaccount.com",
                remedy="Write the address of the account whose key it is.",
            )
        if account not in self._surroundings.key_holders:
            raise Denied(
                f"{account} is not an account that KEYTURN_KEY_HOLDERS names",
                remedy=f"List {account} in KEYTURN_KEY_HOLDERS, if it is the right one.",
            )
        return account

    def check(self, current: Credential) -> None:
        """See `KeyIssuer.check`. A key that was deleted, since it leaked, can be followed."""
        self.keys(current)

    def keys(self, current: Credential) -> Sequence[IssuedKey]:
        """See `KeyIssuer.keys`."""
        return [_issued(each) for each in self._listed(self.holder(current))]

    def mint(self, current: Credential, attempt: Attempt) -> Credential:
        """See `KeyIssuer.mint`."""
        del attempt
        account = self.holder(current)
        said = self._api.ask(
            "hmacKeys.create",
            account,
            "POST",
            f"{_path(account)}?{urlencode({'serviceAccountEmail': account})}",
            answers=_REFUSED,
            is_repeatable=False,
        )
        if said is _REFUSAL:
            raise Busy(
                f"{account} takes no further key now",
                remedy=f"Nothing, if it has {self.limit} keys: it is tried again. Else look whether"
                " the account is there, and at the organisation's policies.",
            )
        metadata = said["metadata"]
        return replace(current, principal=metadata["accessId"], secret=Sensitive(said["secret"]))

    def verify(self, credential: Credential) -> bool:
        """See `KeyIssuer.verify`."""
        account = self.holder(credential)
        if not _ACCESS_ID.fullmatch(credential.principal):
            return False
        key = self._get(account, credential.principal)
        if key is None or key.get("state") != _ACTIVE:
            return False
        answer = self._api.signed("list buckets", "/", _signed(credential, account, self._now()))
        if answer.status == _OK or b"<Code>AccessDenied</Code>" in answer.body:
            return True
        if any(code in answer.body for code in _UNKNOWN):
            return False
        raise Unreachable(
            f"{account}: Cloud Storage answered {answer.status}, which says nothing of the key",
            remedy="Nothing: it is asked again.",
        )

    def last_used(self, current: Credential, key_id: str) -> datetime | None:
        """See `KeyIssuer.last_used`. Never known: the service does not tell."""
        del current, key_id
        return None

    def deactivate(self, current: Credential, key_id: str) -> None:
        """See `KeyIssuer.deactivate`. A person can make it active again."""
        account = self.holder(current)
        key = self._get(account, key_id)
        if key is None or key.get("state") != _ACTIVE:
            return
        # With the etag that was seen: what a person has done since is not undone.
        body = {"state": "INACTIVE", "etag": key["etag"]}
        self._api.ask("hmacKeys.update", account, "PUT", f"{_path(account)}/{key_id}", body)

    def delete(self, current: Credential, key_id: str) -> None:
        """See `KeyIssuer.delete`. For good. A key has to be inactive first."""
        self.deactivate(current, key_id)
        account = self.holder(current)
        if self._get(account, key_id) is None:
            return
        path = f"{_path(account)}/{_checked(key_id)}"
        self._api.ask("hmacKeys.delete", account, "DELETE", path, answers={"NOT_FOUND": {}})

    def _get(self, account: str, key_id: str) -> Mapping[str, Any] | None:
        path = f"{_path(account)}/{_checked(key_id)}"
        found: Mapping[str, Any] | None = self._api.ask(
            "hmacKeys.get", account, "GET", path, answers={"NOT_FOUND": None}
        )
        # A deleted key is told of for a while.
        is_there = found is not None and found.get("state") != "DELETED"
        return found if is_there and found and found["serviceAccountEmail"] == account else None

    def _listed(self, account: str) -> Iterator[Mapping[str, Any]]:
        query = {"serviceAccountEmail": account, "showDeletedKeys": "false"}
        while True:
            path = f"{_path(account)}?{urlencode(query)}"
            said = self._api.ask("hmacKeys.list", account, "GET", path)
            yield from said.get("items", [])
            if not said.get("nextPageToken"):
                return
            query["pageToken"] = said["nextPageToken"]


# ---------------------------------------------------------------------------- a signed request


def _signed(credential: Credential, account: str, now: datetime) -> Mapping[str, str]:
    """Sign a request for the list of buckets, as S3's clients do, whom these keys are for.

    AWS Signature Version 4; Cloud Storage takes it. S3 has no projects: not every account has a
    default one, so the request names one (both: Cloud Storage, simple migration from S3).
    """
    stamp, day = f"{now:%Y%m%dT%H%M%SZ}", f"{now:%Y%m%d}"
    empty = hashlib.sha256(b"").hexdigest()
    headers = {
        "host": STORAGE,
        "x-amz-content-sha256": empty,
        "x-amz-date": stamp,
        "x-amz-project-id": _project(account),
    }
    names = ";".join(headers)
    listed = "".join(f"{name}:{value}\n" for name, value in headers.items())
    request = f"GET\n/\n\n{listed}\n{names}\n{empty}"
    scope = f"{day}/{REGION}/s3/aws4_request"
    digest = hashlib.sha256(request.encode()).hexdigest()
    key = f"AWS4{credential.secret.reveal()}".encode("utf-8", "surrogatepass")
    for part in (*scope.split("/"), f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    authorization = (
        f"AWS4-HMAC-SHA256 Credential={credential.principal}/{scope},"
        f" SignedHeaders={names}, Signature={key.hex()}"
    )
    sent = {name: value for name, value in headers.items() if name != "host"}
    return {**sent, "Authorization": authorization}


# ---------------------------------------------------------------------------- what is said

_ACCOUNT = re.compile(
    r"[a-z0-9-]{1,63}@(?P<project>[a-z][a-z0-9-]{4,28}[a-z0-9])\.iam\.gserviceaccount\.com"
)
_ACCESS_ID = re.compile(r"[A-Z0-9]{1,100}")
_ACTIVE, _OK = "ACTIVE", 200

_UNKNOWN = tuple(
    f"<Code>{code}</Code>".encode()
    for code in ("InvalidAccessKeyId", "InvalidSecurity", "SignatureDoesNotMatch")
)
"""Codes of the XML API for a key that is unknown, and for a wrong secret."""

_REFUSAL: Mapping[str, Any] = {}
_REFUSED = {"INVALID_ARGUMENT": _REFUSAL, "FAILED_PRECONDITION": _REFUSAL}
"""400 and 412: what is said of a full account, among others."""


def _path(account: str) -> str:
    return f"/storage/v1/projects/{_project(account)}/hmacKeys"


def _project(account: str) -> str:
    found = _ACCOUNT.fullmatch(account)
    return found["project"] if found is not None else ""


def _checked(key_id: str) -> str:
    if not _ACCESS_ID.fullmatch(key_id):
        raise Misconfigured(
            "the id of a key is not one", remedy="Correct `access_id` in the secret's value."
        )
    return key_id


def _issued(key: Mapping[str, Any]) -> IssuedKey:
    made_at = datetime.fromisoformat(key["timeCreated"])
    return IssuedKey(key["accessId"], made_at, is_active=key.get("state") == _ACTIVE, name="")
