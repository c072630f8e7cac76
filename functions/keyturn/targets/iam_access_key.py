"""IAM access keys: minted by IAM, shown once, two at most per user.

The authority is the function's role: no key that the secret holds is needed to make the next one.
A key is proven by its use: STS says whose it is. IAM is eventually consistent: for some seconds a
new key is refused, by some hosts longer than by others, and lists may be old.

What it never does: touch a user that the deployment does not name (KEYTURN_IAM_USERS), or its own;
make a key twice for one request, as an SDK would that repeats a call without an answer.

A credential's document: `username`, the user's name; `access_key_id`, `secret_access_key`. Members
that it may have, and that are then written with each new key: `credentials_file`, the text of an
AWS credentials file; `smtp_password_eu-west-1` and so on, the password of SES's SMTP interface in
that region, whose user name is the access key's id.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, Protocol

from keyturn.boundary import ask_aws
from keyturn.document import Members
from keyturn.errors import Busy, Denied, Drifted, Misconfigured
from keyturn.model import (
    Attempt,
    Credential,
    IssuedKey,
    Sensitive,
    Strategy,
    Surroundings,
    Trace,
)

TITLE = "IAM access keys, SES SMTP passwords"
STRATEGIES: tuple[Strategy, ...] = ()
"""None of those for passwords: keys are minted."""
ENGINES = ("iam-access-key",)
MEMBERS = Members("access_key_id", "secret_access_key")
PERMISSIONS = (
    "iam:CreateAccessKey",
    "iam:DeleteAccessKey",
    "iam:GetAccessKeyLastUsed",
    "iam:ListAccessKeys",
    "iam:UpdateAccessKey",
)
"""On the users that KEYTURN_IAM_USERS names. STS tells everybody who they are."""

LIMIT = 2
"""Keys of a user, inactive ones included (IAM quotas; it cannot be raised)."""

CONNECT_TIMEOUT_S, READ_TIMEOUT_S, TRIES = 2, 5, 2
"""Per call. CreateAccessKey is tried once: a second try would be a second key."""


def issuer(surroundings: Surroundings) -> IamUsers:
    """Build the issuer; see `keyturn.targets`."""
    return IamUsers(surroundings)


USAGE_LAG = timedelta(hours=4)
"""How late GetAccessKeyLastUsed is taken to be at the most. Its reference has no figure; what else
IAM says of last accesses usually appears within four hours (IAM, "last accessed information")."""


class IamUsers:
    """A `KeyIssuer`."""

    limit = LIMIT
    trace = Trace.TIME
    usage_lag = USAGE_LAG

    def __init__(self, surroundings: Surroundings) -> None:
        self._surroundings = surroundings
        self._clients: dict[str, _Iam] = {}

    def holder(self, credential: Credential) -> str:
        """See `KeyIssuer.holder`. It is the user's ARN, path included, as the deployment has it."""
        name = credential.fields.get("username")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise _malformed("username", "the name of an IAM user")
        if not _KEY_ID.fullmatch(credential.principal):
            raise _malformed("access_key_id", "the id of an access key")
        arns = set(_arns(name, self._surroundings.key_holders))
        if len(arns) > 1:
            raise Misconfigured(
                f"KEYTURN_IAM_USERS names the user {name} in more than one place",
                remedy="Name each user once: names are unique in an account, whatever their path.",
            )
        for arn in arns:
            return arn
        raise Denied(
            f"the IAM user {name} is not one that KEYTURN_IAM_USERS names",
            remedy="List the user's ARN in KEYTURN_IAM_USERS, if it is the right one.",
        )

    def check(self, current: Credential) -> None:
        """See `KeyIssuer.check`.

        Only a key tells its user's path. Where current is refused, as before the first rotation,
        the deployment must name the user without a wildcard.
        """
        holder = self.holder(current)
        own = ask_aws("GetCallerIdentity", holder, _sts().get_caller_identity)
        if own["Arn"] == holder:
            raise Denied(
                f"{holder} is the user that this function itself works as",
                remedy="Give the function a role.",
            )
        if own["Account"] != holder.split(":")[4]:
            raise Misconfigured(
                f"{holder} is in another account than this function",
                remedy="Deploy the function in the user's own account.",
            )
        if not self.verify(current) and holder not in self._surroundings.key_holders:
            raise Denied(
                f"{holder}: the current key is refused, so nothing shows that this is the user",
                remedy="Name the user's whole ARN in KEYTURN_IAM_USERS, without a wildcard.",
            )

    def keys(self, current: Credential) -> Sequence[IssuedKey]:
        """See `KeyIssuer.keys`."""
        return list(self._listed(current, self.holder(current)))

    def mint(self, current: Credential, attempt: Attempt) -> Credential:
        """See `KeyIssuer.mint`."""
        del attempt  # Access keys have no names.
        holder = self.holder(current)
        ask = partial(self._iam(tries=1).create_access_key, UserName=_name(current))
        answer = ask_aws("CreateAccessKey", holder, ask, _ANSWERS)
        if answer is _FULL:
            raise Busy(
                f"{holder} has {LIMIT} access keys, as many as it may",
                remedy="Nothing: it is tried again with a fresh list of them.",
            )
        key = _there(answer, holder)["AccessKey"]
        secret = Sensitive(key["SecretAccessKey"])
        made = replace(current, principal=key["AccessKeyId"], secret=secret)
        return replace(made, derived=_derived(made))

    def verify(self, credential: Credential) -> bool:
        """See `KeyIssuer.verify`. On a new connection, which may lead to another host."""
        holder = self.holder(credential)
        # A lone surrogate or the like cannot be signed with; no key that IAM has made has one.
        if not credential.secret.reveal().isascii():
            return False
        own = _sts(credential)
        said = ask_aws("GetCallerIdentity", holder, own.get_caller_identity, _REFUSALS)
        if said is _REFUSED:
            return False
        if said["Arn"] != holder:
            raise Drifted(
                f"the access key {credential.principal} is {said['Arn']}'s, not {holder}'s",
                remedy="Put a key of that user into the secret, or correct KEYTURN_IAM_USERS.",
            )
        return True

    def last_used(self, current: Credential, key_id: str) -> datetime | None:
        """See `KeyIssuer.last_used`. IAM is minutes to hours behind (API_AccessKeyLastUsed)."""
        del current
        ask = partial(self._iam().get_access_key_last_used, AccessKeyId=key_id)
        said = ask_aws("GetAccessKeyLastUsed", key_id, ask, _ANSWERS)
        used: datetime | None = said.get("AccessKeyLastUsed", {}).get("LastUsedDate")
        return used

    def deactivate(self, current: Credential, key_id: str) -> None:
        """See `KeyIssuer.deactivate`."""
        holder, user = self.holder(current), {"UserName": _name(current), "AccessKeyId": key_id}
        ask = partial(self._iam().update_access_key, **user, Status="Inactive")
        ask_aws("UpdateAccessKey", holder, ask, _ANSWERS)

    def delete(self, current: Credential, key_id: str) -> None:
        """See `KeyIssuer.delete`."""
        holder, user = self.holder(current), {"UserName": _name(current), "AccessKeyId": key_id}
        ask = partial(self._iam().delete_access_key, **user)
        ask_aws("DeleteAccessKey", holder, ask, _ANSWERS)

    def _listed(self, current: Credential, holder: str) -> Iterator[IssuedKey]:
        position: dict[str, str] = {}
        while True:
            ask = partial(self._iam().list_access_keys, UserName=_name(current), **position)
            page = _there(ask_aws("ListAccessKeys", holder, ask, _ANSWERS), holder)
            for each in page["AccessKeyMetadata"]:
                is_active = each["Status"] == "Active"
                yield IssuedKey(each["AccessKeyId"], each["CreateDate"], is_active)
            if not page.get("IsTruncated"):
                return
            position = {"Marker": page["Marker"]}

    def _iam(self, *, tries: int = TRIES) -> _Iam:
        # A client costs tens of milliseconds to make; how often it tries is fixed then.
        name = f"iam {tries}"
        if name not in self._clients:
            self._clients[name] = _client("iam", tries)
        return self._clients[name]


# ---------------------------------------------------------------------------- whose key it is

_NAME = re.compile(r"[\w+=,.@-]{1,64}", re.ASCII)  # API_CreateUser
_KEY_ID = re.compile(r"\w{1,128}", re.ASCII)  # API_AccessKey; shorter: a first, made-up one
_PATTERN = re.compile(r"(arn:[a-z-]+:iam::\d{12}:user(?:/[\w+=,.@-]+)*/)([\w+=,.@*?-]+)", re.ASCII)
"""A user's ARN. Only the name may have wildcards: the path and the account are always exact."""


def _arns(name: str, patterns: Sequence[str]) -> Iterator[str]:
    """Yield the ARN that a user of this name has by each pattern."""
    for pattern in patterns:
        found = _PATTERN.fullmatch(pattern)
        if found is None:
            raise Misconfigured(
                f"KEYTURN_IAM_USERS has {pattern[:200]!a}, which is no ARN of IAM users",
                remedy="Write arn:aws:iam::ACCOUNT:user/PATH/NAME, with * in the name at most.",
            )
        if fnmatchcase(name, found[2]):
            yield found[1] + name


def _name(credential: Credential) -> str:
    return str(credential.fields["username"])


def _malformed(member: str, what: str) -> Misconfigured:
    return Misconfigured(
        f"the secret's {member!r} is missing, or is not {what}",
        remedy=f"Correct {member!r} in the secret's value.",
    )


# ---------------------------------------------------------------------------- the APIs


class _Iam(Protocol):
    """What we use of boto3's client."""

    def create_access_key(self, **parameters: str) -> dict[str, Any]: ...

    def delete_access_key(self, **parameters: str) -> dict[str, Any]: ...

    def get_access_key_last_used(self, **parameters: str) -> dict[str, Any]: ...

    def list_access_keys(self, **parameters: str) -> dict[str, Any]: ...

    def update_access_key(self, **parameters: str) -> dict[str, Any]: ...


class _Sts(Protocol):
    """The same."""

    def get_caller_identity(self) -> dict[str, Any]: ...


_FULL: dict[str, Any] = {"full": True}
_GONE: dict[str, Any] = {}
_REFUSED: dict[str, Any] = {"refused": True}
_ANSWERS = {"LimitExceeded": _FULL, "NoSuchEntity": _GONE}
_REFUSALS = dict.fromkeys(("InvalidClientTokenId", "SignatureDoesNotMatch"), _REFUSED)
"""Errors that are answers: no such key (yet), or an inactive one; and another secret."""


def _there(said: dict[str, Any], holder: str) -> dict[str, Any]:
    if said is _GONE:
        raise Drifted(
            f"there is no user {holder}",
            remedy="Correct `username` in the secret, or create the user.",
        )
    return said


def _client(service: str, tries: int, **explicit: str) -> Any:
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": tries},
    )
    make: Callable[..., Any] = boto3.client
    return make(service, config=config, **explicit)


def _sts(credential: Credential | None = None) -> _Sts:
    """Make a client with the function's own credentials, or with these and no session's."""
    explicit = {}
    if credential is not None:
        explicit = {
            "aws_access_key_id": credential.principal,
            "aws_secret_access_key": credential.secret.reveal(),
        }
    made: _Sts = _client("sts", TRIES, **explicit)
    return made


# ---------------------------------------------------------------------------- what follows

_SMTP = re.compile(r"smtp_password_([a-z]{2}(?:-[a-z]+)+-\d)")


def _derived(made: Credential) -> dict[str, Sensitive]:
    """Return what the document has besides, for the new key."""
    derived = {
        name: smtp_password(made.secret, found[1])
        for name in made.fields
        if (found := _SMTP.fullmatch(name))
    }
    if "credentials_file" in made.fields:
        derived["credentials_file"] = _credentials_file(made)
    return derived


def _credentials_file(made: Credential) -> Sensitive:
    return Sensitive(
        "[default]\n"
        f"aws_access_key_id = {made.principal}\n"
        f"aws_secret_access_key = {made.secret.reveal()}\n"
    )


def smtp_password(secret: Sensitive, region: str) -> Sensitive:
    """Return the password of SES's SMTP interface in *region* for a secret access key.

    SES Developer Guide, "Obtaining Amazon SES SMTP credentials": a signing key of Signature
    Version 4 for a day that never was, and one byte before it for the version.
    """
    signature = f"AWS4{secret.reveal()}".encode()
    for part in ("11111111", region, "ses", "aws4_request", "SendRawEmail"):
        signature = hmac.new(signature, part.encode(), hashlib.sha256).digest()
    return Sensitive(b64encode(b"\x04" + signature).decode())
