"""Who calls: what STS of the local AWS answers to keys. moto's answers everybody, whatever the key.

    active, of a user of IAM or a role         moto says who it is
    a caller of the local AWS's own            moto has an answer for those
    deleted, inactive, or never made           InvalidClientTokenId
    of a user, signed with another secret      SignatureDoesNotMatch

A rotated key is proven by what STS says of it, and a client counts on that: one that is refused on
AWS must be refused here. Other services take any key, as before: IAM is not enforced here.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from moto.iam.models import AccessKey, iam_backends

from keyturn.local.calls import peeked, signer
from keyturn.testing.wire import Request

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

OURS = "LOCAL"
"""How the ids of keys begin that the local AWS gives to clients and functions."""

_UNKNOWN = ("InvalidClientTokenId", "The security token included in the request is invalid.")
_OTHER_SECRET = (
    "SignatureDoesNotMatch",
    "The request signature we calculated does not match the signature you provided.",
)


def serving(application: WSGIApplication) -> WSGIApplication:
    """Return *application* with refusals in front of it."""

    def serve(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        key_id, service = signer(environ)
        refusal = _refusal(key_id, environ) if service == "sts" else None
        if refusal is None:
            return application(environ, start_response)
        body = _written(*refusal)
        start_response(
            "403 Forbidden", [("Content-Type", "text/xml"), ("Content-Length", str(len(body)))]
        )
        return [body]

    return serve


def _refusal(key_id: str, environ: WSGIEnvironment) -> tuple[str, str] | None:
    """Return the code and the text with which STS refuses, or None."""
    if key_id.startswith(OURS):
        return None
    key = _key(key_id)
    if key is None or key.status != "Active":
        return _UNKNOWN
    # Of a role's key moto tells the caller another secret than it keeps.
    if key.user_name is None or _request(environ).is_signed_with(key.secret_access_key):
        return None
    return _OTHER_SECRET


def _key(key_id: str) -> AccessKey | None:
    for partitions in iam_backends.values():
        for account in partitions.values():
            if key_id in account.access_keys:
                return account.access_keys[key_id]
    return None


def _request(environ: WSGIEnvironment) -> Request:
    headers = {
        name.removeprefix("HTTP_").replace("_", "-").lower(): str(value)
        for name, value in environ.items()
        if name.startswith(("HTTP_", "CONTENT_"))
    }
    body = peeked(environ)
    action = parse_qs(body.decode("utf-8", "replace")).get("Action", [""])[0]
    return Request(action, "", {}, headers, body)


def _written(code: str, text: str) -> bytes:
    said = f"<Type>Sender</Type><Code>{code}</Code><Message>{escape(text)}</Message>"
    return f"<ErrorResponse><Error>{said}</Error></ErrorResponse>".encode()
