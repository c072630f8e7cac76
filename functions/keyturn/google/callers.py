"""Who calls a function: the OIDC token of a push, or of an Eventarc trigger, checked once more.

Cloud Run lets nobody in whom IAM does not, and checks the token's signature and audience; then it
writes SIGNATURE_REMOVED_BY_GOOGLE in the signature's place (Cloud Run: Authenticating
service-to-service). What that leaves to be checked is whose token it is: the push account's, and
not that of anybody else who may call the function. A token whose signature is still there has
passed no such gate, and is checked here against Google's own keys.

On a function that everybody may call nothing of this holds: never make one.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

from keyturn.errors import Denied, KeyturnError, Unreachable
from keyturn.model import Sensitive

CHECKED = "SIGNATURE_REMOVED_BY_GOOGLE"
"""What stands in place of a signature that Cloud Run has checked."""

ISSUERS = frozenset({"https://accounts.google.com", "accounts.google.com"})
KEYS = "https://www.googleapis.com/oauth2/v1/certs"
"""Where Google publishes what its tokens are checked with (OpenID Connect discovery)."""

TIMEOUT_S = 5.0
"""For asking for them, in seconds."""


class UnknownCaller(Denied):
    """Whoever calls is not who may: there is nothing to do, and nobody to be alerted."""


def require(headers: Mapping[str, str], host: str, known: Collection[str], keys: str = KEYS) -> str:
    """Return the e-mail address of the caller, if it is one of *known*.

    Args:
        headers: Of the request.
        host: That the request was sent to; the token must be for it.
        known: E-mail addresses of service accounts.
        keys: Where Google's keys are.

    Raises:
        UnknownCaller: There is no token; or it is another's, or for another place, or forged.
        Unreachable: Google's keys could not be read.
    """
    kind, _, token = headers.get("Authorization", "").partition(" ")
    parts = token.split(".")
    if kind.lower() != "bearer" or len(parts) != 3:  # noqa: PLR2004  # header, claims, signature
        raise _unknown("has no OIDC token")
    claims = _claims(parts[1])
    if urlsplit(str(claims.get("aud"))).netloc != host:
        raise _unknown("has a token for another place")
    email = claims.get("email")
    is_googles = claims.get("iss") in ISSUERS and claims.get("email_verified") is True
    if not is_googles or not isinstance(email, str) or email not in known:
        raise _unknown("has the token of an account that is not in KEYTURN_CALLERS")
    # Last: whoever is not known makes us ask nobody.
    if parts[2] != CHECKED:
        _require_signed(Sensitive(token), keys)
    return email


def _claims(part: str) -> Mapping[str, Any]:
    try:
        found = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise _unknown("has a token that is none")
    return found


def _require_signed(token: Sensitive, keys: str) -> None:
    """Check signature and expiry against Google's keys."""
    import urllib3
    from google.auth.exceptions import GoogleAuthError, TransportError
    from google.auth.transport.urllib3 import Request
    from google.oauth2 import id_token

    pool = urllib3.PoolManager(timeout=TIMEOUT_S, retries=False)
    failure: KeyturnError
    try:
        id_token.verify_token(token.reveal(), Request(pool), certs_url=keys)
    except TransportError:
        failure = Unreachable(
            "the keys of Google's tokens could not be read",
            remedy="Require authentication on the function, so that Cloud Run checks them.",
        )
    except (GoogleAuthError, ValueError):
        failure = _unknown("has a token that Google has not signed, or that has expired")
    else:
        return
    raise failure


def _unknown(fact: str) -> UnknownCaller:
    return UnknownCaller(
        f"the caller {fact}",
        remedy="Let the push subscription send the OIDC token of the account in KEYTURN_CALLERS.",
    )
