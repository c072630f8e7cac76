"""Service account keys of our own: IAM's REST API and the token endpoint, on loopback.

    with StrictServiceAccountKeys(world.clock.now) as service:
        first = service.make_key()
        connect("iam.googleapis.com", Surroundings(.., google_endpoint=service.endpoint))

A token is given for an assertion that an enabled key of the account has signed, by its id, once
the key has been there for `lag_s`. Lists are as late. It enforces no IAM. Only tests use it.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from keyturn.model import Sensitive
from keyturn.testing.google_rest import Asked, refusal, served
from keyturn.testing.wire import NoReply, Refusal

ACCOUNT = "orders@shop-42.iam.gserviceaccount.com"
ROOT = f"/v1/projects/-/serviceAccounts/{ACCOUNT}/keys"
MOST = 10
NO_EXPIRY = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""When a key ends that Google has made (IAM: keys without an expiry)."""


@dataclass(slots=True)
class AccountKey:
    """One key.

    Attributes:
        at: When it came.
        since, until: From when to when its certificate is valid: what lists tell.
    """

    id: str
    public: rsa.RSAPublicKey
    at: datetime
    since: datetime
    until: datetime
    is_disabled: bool = False
    deleted_at: datetime | None = None


@dataclass(slots=True)
class StrictServiceAccountKeys:
    """The service. A context manager.

    Attributes:
        now: The time.
        lag_s: How long it takes until a change is known everywhere.
        may_upload: Whether the organisation lets anybody.
        is_picky: Whether to disable a key that is disabled is refused.
        refuses_to_disable: Whether that is refused of any.
        asked: Each call, in order.
        bodies: What was sent to IAM.
    """

    now: Callable[[], datetime]
    quota: int = MOST
    lag_s: float = 0.0
    may_upload: bool = True
    is_picky: bool = False
    refuses_to_disable: bool = False
    asked: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    keys: dict[str, AccountKey] = field(default_factory=dict)
    endpoint: str = ""
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _lost: str = ""
    _is_down: bool = False

    def __enter__(self) -> Self:
        self.endpoint = self._stack.enter_context(served(self.answer))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def make_key(self, age: timedelta = timedelta(days=30)) -> tuple[str, Sensitive]:
        """Make a key by hand; return its id and the private half."""
        key = rsa.generate_private_key(65_537, 2048)
        since = self.now() - age
        made = self._add(key.public_key(), since, since, NO_EXPIRY)
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return made.id, Sensitive(private.decode())

    def alive(self) -> set[str]:
        """Return the ids of the keys that are not deleted."""
        return {key.id for key in self.keys.values() if key.deleted_at is None}

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        """Answer nothing, and do nothing, until the block ends."""
        self._is_down = True
        try:
            yield
        finally:
            self._is_down = False

    @contextlib.contextmanager
    def lose(self, name: str) -> Iterator[None]:
        """Do every call of that name, and say nothing."""
        self._lost = name
        try:
            yield
        finally:
            self._lost = ""

    def answer(self, asked: Asked) -> dict[str, Any]:
        """Answer one call; see `google_rest.served`."""
        with self._lock:
            if self._is_down:
                raise NoReply
            name, act = self._route(asked)
            self.asked.append(name)
            try:
                return act()
            finally:
                if name == self._lost:
                    raise NoReply

    def _route(self, asked: Asked) -> tuple[str, Callable[[], dict[str, Any]]]:
        if (asked.service, asked.method, asked.path) == ("oauth2.googleapis.com", "POST", "/token"):
            return "token", lambda: self._token(asked)
        if asked.service != "iam.googleapis.com" or not asked.path.startswith(ROOT):
            raise refusal("PERMISSION_DENIED", "another service, or another account")
        self.bodies.append(asked.body)
        path = asked.path.removeprefix(ROOT)
        if (asked.method, path) == ("GET", ""):
            return "list", lambda: self._list(asked)
        if (asked.method, path) == ("POST", ":upload"):
            return "upload", lambda: self._upload(asked)
        found = re.fullmatch(r"/([0-9a-f]+)(:disable|:enable)?", path)
        if found is None:
            raise refusal("NOT_FOUND", "no such call")
        match asked.method, found[2]:
            case "POST", ":disable":
                return "disable", lambda: self._switch(found[1], is_disabled=True)
            case "DELETE", None:
                return "delete", lambda: self._delete(found[1])
        raise refusal("NOT_FOUND", "no such call")

    # ------------------------------------------------------------------ calls

    def _list(self, asked: Asked) -> dict[str, Any]:
        if asked.query != {"keyTypes": "USER_MANAGED"}:
            raise refusal("INVALID_ARGUMENT", "other keys")
        then = self.now() - timedelta(seconds=self.lag_s)
        shown = [
            key
            for key in self.keys.values()
            if key.at <= then and (key.deleted_at is None or key.deleted_at > then)
        ]
        return {"keys": [self._described(key) for key in shown]} if shown else {}

    def _upload(self, asked: Asked) -> dict[str, Any]:
        if asked.members.keys() != {"publicKeyData"}:
            raise refusal("INVALID_ARGUMENT", "what cannot be set")
        if not self.may_upload:
            raise refusal("FAILED_PRECONDITION", "Key upload is not allowed.")
        if len(self.alive()) >= self.quota:
            raise refusal("FAILED_PRECONDITION", "too many keys")
        pem = base64.b64decode(asked.members["publicKeyData"], validate=True)
        certificate = x509.load_pem_x509_certificate(pem)
        public = certificate.public_key()
        if not isinstance(public, rsa.RSAPublicKey) or public.key_size < 2048:  # noqa: PLR2004  # bits
            raise refusal("INVALID_ARGUMENT", "no RSA key of 2048 bits")
        if certificate.not_valid_after_utc <= self.now():
            raise refusal("INVALID_ARGUMENT", "expired")
        since, until = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        return self._described(self._add(public, self.now(), since, until))

    def _switch(self, key_id: str, *, is_disabled: bool) -> dict[str, Any]:
        key = self._get(key_id)
        if self.refuses_to_disable or (key.is_disabled is is_disabled and self.is_picky):
            raise refusal("FAILED_PRECONDITION", "not now")
        key.is_disabled = is_disabled
        return {}

    def _delete(self, key_id: str) -> dict[str, Any]:
        self._get(key_id).deleted_at = self.now()
        return {}

    def _token(self, asked: Asked) -> dict[str, Any]:
        if "authorization" in asked.headers:  # The assertion alone says who asks.
            raise Refusal("", "invalid_client", 401)
        form = dict(parse_qsl(asked.body.decode()))
        if form.keys() != {"grant_type", "assertion"}:
            raise _no_grant()
        header, claims, signature = form["assertion"].split(".")
        head, told = _decoded(header), _decoded(claims)
        key = self.keys.get(head["kid"])
        settled = self.now() - timedelta(seconds=self.lag_s)
        is_live = key is not None and key.at <= settled and not key.is_disabled
        if key is None or not is_live or key.deleted_at is not None:
            raise _no_grant()
        now = self.now().timestamp()
        if not told["iat"] <= now < told["exp"] <= told["iat"] + 3600:
            raise _no_grant()
        if told["iss"] != ACCOUNT or told["aud"] != "https://oauth2.googleapis.com/token":
            raise _no_grant()
        try:
            signed, sent = f"{header}.{claims}".encode(), _bytes(signature)
            key.public.verify(sent, signed, padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            raise _no_grant() from None
        return {"access_token": "Canary7-token", "expires_in": 3599, "token_type": "Bearer"}

    # ------------------------------------------------------------------ how

    def _add(
        self, public: rsa.RSAPublicKey, at: datetime, since: datetime, until: datetime
    ) -> AccountKey:
        key = AccountKey(f"{next(self._numbers):040x}", public, at, since, until)
        self.keys[key.id] = key
        return key

    def _get(self, key_id: str) -> AccountKey:
        key = self.keys.get(key_id)
        if key is None or key.deleted_at is not None:
            raise refusal("NOT_FOUND", "no such key")
        return key

    def _described(self, key: AccountKey) -> dict[str, Any]:
        told = {
            "name": f"projects/shop-42/serviceAccounts/{ACCOUNT}/keys/{key.id}",
            "validAfterTime": f"{key.since:%Y-%m-%dT%H:%M:%SZ}",
            "validBeforeTime": f"{key.until:%Y-%m-%dT%H:%M:%SZ}",
            "keyOrigin": "USER_PROVIDED",
            "keyType": "USER_MANAGED",
        }
        return told | ({"disabled": True} if key.is_disabled else {})


def _no_grant() -> Refusal:
    """Refuse as the token endpoint does: by 400, without a canonical code."""
    return Refusal("", "invalid_grant", 400)


def _decoded(part: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_bytes(part))
    return found


def _bytes(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
