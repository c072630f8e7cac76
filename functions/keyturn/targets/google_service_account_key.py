"""Keys of Google's service accounts: made here, of which Google gets the public half.

    create    an RSA key and its certificate; UploadServiceAccountKey, of the certificate alone
    accepts   a token is got with the key, three times in a row
    retire    the key is disabled, which a person can undo; the next rotation deletes it

So the private key is never on its way to us, and no answer holds one. What a dead worker has
uploaded opens nothing: the private half died with it. It takes one of ten places until the next
rotation deletes it. Lists tell from when until when a certificate is valid. It begins when it was
made, and its end, in the hundredth century, is the mark of the try (`keyturn.minted`): a
person's key, and another secret's, has another.

What it never does: touch an account that the deployment does not name (KEYTURN_KEY_HOLDERS), or
ask another address for a token than Google's own, whatever the secret says.

A credential's document is the JSON that Google's libraries read, with `engine` beside.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from keyturn.boundary import google_refusal
from keyturn.document import Members
from keyturn.errors import Busy, Denied, Misconfigured, Unsupported
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

TITLE = "Keys of Google's service accounts"
STRATEGIES: tuple[Strategy, ...] = ()
"""None of those for passwords: keys are minted."""
ENGINES = ("google-service-account-key",)
MEMBERS = Members("private_key_id", "private_key")
IAM, TOKENS = "iam.googleapis.com", "oauth2.googleapis.com"
PERMISSIONS = (
    "iam.serviceAccountKeys.create",
    "iam.serviceAccountKeys.delete",
    "iam.serviceAccountKeys.disable",
    "iam.serviceAccountKeys.list",
)
"""On each account that KEYTURN_KEY_HOLDERS names. `create` is for uploads, too."""

LIMIT = 10
"""Keys of an account (IAM: quotas)."""

RSA_BITS, RSA_EXPONENT = 2048, 65_537
"""Of an uploaded key (IAM: upload service account keys: RSA, 2048 bits, X.509 v3)."""

NO_EXPIRY = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""For a certificate without a well-defined end (RFC 5280, 4.1.2.5). A key that ends by itself
would end production if a rotation failed. Ours end so many seconds before as their mark says, 136
years at most."""

AUDIENCE = "https://oauth2.googleapis.com/token"
SCOPE = "https://www.googleapis.com/auth/cloud-platform.read-only"
TOKEN_TIME = timedelta(minutes=5)
"""How long an assertion is good for: an hour at most (OAuth 2.0 for service accounts)."""


def issuer(surroundings: Surroundings) -> ServiceAccountKeys:
    """Build the issuer; see `keyturn.targets`.

    Raises:
        Unsupported: `cryptography` is not installed, or was not packed.
    """
    if importlib.util.find_spec("cryptography") is None:
        raise Unsupported(
            "this installation cannot make keys of service accounts: it has no `cryptography`",
            remedy="Rotate them by the function on Google Cloud, which has it.",
        )
    return ServiceAccountKeys(surroundings)


def _now() -> datetime:
    return datetime.now(UTC)


class ServiceAccountKeys:
    """A `KeyIssuer`. The holder is a service account, by its e-mail address.

    Args:
        surroundings: What the deployment allows.
        limit: How many keys an account may have.
        now: Returns the time.
    """

    trace = Trace.MARK
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
        self._iam = connect(IAM, surroundings)
        self._tokens = connect(TOKENS, surroundings)

    def holder(self, credential: Credential) -> str:
        """See `KeyIssuer.holder`."""
        account = str(credential.fields.get("client_email", ""))
        if not _ACCOUNT.fullmatch(account):
            raise Misconfigured(
                "the secret's 'client_email' is not the address of a service account",
                remedy="Store a key of a service account as Google's console downloads it.",
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
        """See `KeyIssuer.keys`. Those that Google keeps for itself are not among them."""
        account = self.holder(current)
        path = f"{_path(account)}?keyTypes=USER_MANAGED"
        said = self._iam.ask("ListServiceAccountKeys", account, "GET", path)
        return [_issued(each) for each in said.get("keys", [])]

    def mint(self, current: Credential, attempt: Attempt) -> Credential:
        """See `KeyIssuer.mint`. Only a certificate leaves this function."""
        account = self.holder(current)
        private, certificate = _made(attempt, self._now())
        said = self._iam.ask(
            "UploadServiceAccountKey",
            account,
            "POST",
            f"{_path(account)}:upload",
            {"publicKeyData": base64.b64encode(certificate).decode()},
            answers=_REFUSED,
            is_repeatable=False,
        )
        if said is _REFUSAL:
            # What a list shows may be old, so it cannot tell one reason from the other.
            raise Busy(
                f"{account} takes no further key now",
                remedy=f"Nothing, if it has {self.limit} keys: it is tried again. Else look at the"
                " organisation's policy iam.disableServiceAccountKeyUpload.",
            )
        return replace(current, principal=_id(said), secret=private)

    def verify(self, credential: Credential) -> bool:
        """See `KeyIssuer.verify`. The token that is got is thrown away."""
        account = self.holder(credential)
        assertion = _assertion(credential, account, self._now())
        if assertion is None:
            return False
        grant = "urn:ietf:params:oauth:grant-type:jwt-bearer"
        content = urlencode({"grant_type": grant, "assertion": assertion}).encode()
        said = self._tokens.send(
            "token",
            account,
            "POST",
            "/token",
            content,
            media_type="application/x-www-form-urlencoded",
            answers={"INVALID_ARGUMENT": _NO, "UNAUTHENTICATED": _NO},
            has_token=False,
        )
        return said is not _NO

    def last_used(self, current: Credential, key_id: str) -> datetime | None:
        """See `KeyIssuer.last_used`. Never known: this API does not tell."""
        del current, key_id
        return None

    def deactivate(self, current: Credential, key_id: str) -> None:
        """See `KeyIssuer.deactivate`. A person can enable it again."""
        account = self.holder(current)
        path = f"{_path(account)}/{_checked(key_id)}:disable"
        answers: dict[str, Any] = {"NOT_FOUND": {}, **_REFUSED}
        said = self._iam.ask("DisableServiceAccountKey", account, "POST", path, {}, answers=answers)
        if said is _REFUSAL and self._is_on(current, key_id):
            raise google_refusal("DisableServiceAccountKey", account, "FAILED_PRECONDITION")

    def delete(self, current: Credential, key_id: str) -> None:
        """See `KeyIssuer.delete`. For good."""
        account = self.holder(current)
        path = f"{_path(account)}/{_checked(key_id)}"
        self._iam.ask("DeleteServiceAccountKey", account, "DELETE", path, answers={"NOT_FOUND": {}})

    def _is_on(self, current: Credential, key_id: str) -> bool:
        return any(key.id == key_id and key.is_active for key in self.keys(current))


# ---------------------------------------------------------------------------- what is made


def _made(attempt: Attempt, now: datetime) -> tuple[Sensitive, bytes]:
    """Make a private key, and the certificate of its public half. PEM, both."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(RSA_EXPONENT, RSA_BITS)
    name = attempt.name[:_NAME_LONGEST]
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(NO_EXPIRY - timedelta(seconds=int(attempt.mark, 16)))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return Sensitive(private.decode()), certificate.public_bytes(serialization.Encoding.PEM)


_NAME_LONGEST = 64
"""Characters of a common name (RFC 5280, ub-common-name)."""


def _assertion(credential: Credential, account: str, now: datetime) -> str | None:
    """Return what asks for a token; None if the secret is no key that could sign it."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    try:
        key = serialization.load_pem_private_key(credential.secret.reveal().encode(), None)
    except (TypeError, ValueError):
        return None
    if not isinstance(key, rsa.RSAPrivateKey):
        return None
    claims = {
        "iss": account,
        "scope": SCOPE,
        "aud": AUDIENCE,
        "iat": int(now.timestamp()),
        "exp": int((now + TOKEN_TIME).timestamp()),
    }
    header = {"alg": "RS256", "typ": "JWT", "kid": credential.principal}
    signed = f"{_part(header)}.{_part(claims)}"
    signature = key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    return f"{signed}.{_base64url(signature)}"


def _part(members: Mapping[str, object]) -> str:
    return _base64url(json.dumps(members).encode())


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


# ---------------------------------------------------------------------------- what is said

_ACCOUNT = re.compile(r"[a-z0-9-]{1,63}@[a-z0-9.-]{1,100}\.gserviceaccount\.com")
_KEY = re.compile(r"[A-Za-z0-9]{1,100}")

_NO = b"no"
_REFUSAL: Mapping[str, Any] = {}
_REFUSED = {"FAILED_PRECONDITION": _REFUSAL}
"""What is said of a full account, of a policy, and perhaps of a key that is disabled already."""


def _path(account: str) -> str:
    return f"/v1/projects/-/serviceAccounts/{account}/keys"


def _checked(key_id: str) -> str:
    if not _KEY.fullmatch(key_id):
        raise Misconfigured(
            "the id of a key is not one", remedy="Correct `private_key_id` in the secret's value."
        )
    return key_id


def _id(key: Mapping[str, Any]) -> str:
    return str(key["name"]).rpartition("/")[2]


def _issued(key: Mapping[str, Any]) -> IssuedKey:
    made_at, ends_at = _time(key, "validAfterTime"), _time(key, "validBeforeTime")
    mark = "" if ends_at is None else f"{int((NO_EXPIRY - ends_at).total_seconds()):08x}"
    return IssuedKey(_id(key), made_at, not key.get("disabled", False), mark=mark)


def _time(key: Mapping[str, Any], member: str) -> datetime | None:
    told = key.get(member)
    return datetime.fromisoformat(told) if told else None
