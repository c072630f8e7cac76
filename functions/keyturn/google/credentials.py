"""Bearer tokens of Google's default credentials: a service account, or identity federation.

Google's library finds them and makes the tokens; it is imported on first use. Its errors, which may
quote an answer, are left behind.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import NoReturn

from keyturn.errors import Denied, KeyturnError, Misconfigured, Unreachable
from keyturn.model import Sensitive

SCOPES = (
    "https://www.googleapis.com/auth/cloud-platform",
    "https://www.googleapis.com/auth/userinfo.email",
)
"""The second makes the e-mail address known, by which RBAC calls a service account."""

TIMEOUT_S = 10.0
"""For one request to Google's token service, in seconds."""


def default_token(name: str) -> Callable[[bool], Sensitive]:
    """Return what makes tokens of Google's default credentials: they know how old theirs is."""
    try:
        import google.auth
        from google.auth.exceptions import GoogleAuthError
        from google.auth.transport.urllib3 import Request as Transport
    except ImportError:
        _no_library(name)
    import urllib3

    # Google's own time-out is longer than a function may run.
    ask = partial(Transport(urllib3.PoolManager()), timeout=TIMEOUT_S)
    lock = threading.Lock()
    failure: KeyturnError
    try:
        credentials, _ = google.auth.default(scopes=SCOPES, request=ask)
    except GoogleAuthError as error:
        failure = _refused(name, error)
    else:

        def token(is_new: bool) -> Sensitive:  # noqa: FBT001  # see `Access.token`
            with lock:
                try:
                    if is_new or not credentials.valid:
                        credentials.refresh(ask)
                    return Sensitive(str(credentials.token))
                except GoogleAuthError as error:
                    refused = _refused(name, error)
            raise refused

        return token
    raise failure


def _no_library(name: str) -> NoReturn:
    raise Misconfigured(
        f"{name}: this function was packed without google-auth",
        remedy="Add google-auth to the function's requirements.",
    ) from None


def _refused(name: str, error: Exception) -> KeyturnError:
    """Translate by class. The text may quote an answer of the token service."""
    kind = type(error).__name__
    if kind == "TransportError" or getattr(error, "retryable", False):
        return Unreachable(
            f"{name}: Google's token service gave no answer ({kind})",
            remedy="Wait: it is tried again. If it stays so, look at the way to Google.",
        )
    return Denied(
        f"{name}: Google's default credentials gave no token ({kind})",
        remedy="Set up a service account or workload identity federation for the function.",
    )
