"""HMAC keys of Cloud Storage of our own, on loopback: the JSON API, and requests that they sign.

    with StrictHmacKeys(world.clock.now) as service:
        access_id, secret = service.make_key()
        connect("storage.googleapis.com", Surroundings(.., google_endpoint=service.endpoint))

A request is let in by an active key that has signed it as boto does, once the key has been there
for `lag_s`, if it names the project: the account has no default one. Lists are as late. It enforces
no IAM. Only tests use it.
"""

from __future__ import annotations

import contextlib
import hmac
import itertools
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

import time_machine
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from keyturn.model import Sensitive
from keyturn.testing.google_rest import Asked, served
from keyturn.testing.wire import NoReply, Refusal

PROJECT = "shop-42"
ACCOUNT = f"backup@{PROJECT}.iam.gserviceaccount.com"
ROOT = f"/storage/v1/projects/{PROJECT}/hmacKeys"
PAGE = 250
SKEW = timedelta(minutes=15)


@dataclass(slots=True)
class HmacKey:
    """One key."""

    id: str
    secret: Sensitive
    made_at: datetime
    account: str = ACCOUNT
    state: str = "ACTIVE"
    etag: int = 1
    changed_at: datetime | None = None


def authorization(key: HmacKey, at: datetime, region: str, project: str) -> str:
    """Return what boto's own S3 client would send, at that time: a second opinion."""
    named = {"x-amz-project-id": project}
    request = AWSRequest(method="GET", url="https://storage.googleapis.com/", headers=named)
    credentials = Credentials(key.id, key.secret.reveal())
    with time_machine.travel(at, tick=False):
        S3SigV4Auth(credentials, "s3", region).add_auth(request)
    return str(request.headers["Authorization"])


@dataclass(slots=True)
class StrictHmacKeys:
    """The service. A context manager.

    Attributes:
        now: The time.
        lag_s: How long it takes until a change is known everywhere.
        may_list: Whether the account may list buckets; if not, it is let in and denied.
        is_ill: Whether it answers to a signed request with something else.
        page_size: The most keys that a list shows at once.
        before: Called with each call's name before it is done.
        asked: Each call, in order.
    """

    now: Callable[[], datetime]
    quota: int = 10
    lag_s: float = 0.0
    may_list: bool = False
    is_ill: bool = False
    page_size: int = PAGE
    before: Callable[[str], None] = lambda _: None
    asked: list[str] = field(default_factory=list)
    keys: dict[str, HmacKey] = field(default_factory=dict)
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

    def make_key(
        self, age: timedelta = timedelta(days=30), account: str = ACCOUNT
    ) -> tuple[str, Sensitive]:
        """Make a key by hand; return its id and its secret."""
        key = self._add(self.now() - age, account)
        return key.id, key.secret

    def alive(self) -> set[str]:
        """Return the ids of the keys that are not deleted."""
        return {key.id for key in self.keys.values() if key.state != "DELETED"}

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

    def answer(self, asked: Asked) -> dict[str, Any] | bytes:
        """Answer one call; see `google_rest.served`."""
        with self._lock:
            if self._is_down:
                raise NoReply
            name, act = self._route(asked)
            self.asked.append(name)
            self.before(name)
            try:
                return act()
            finally:
                if name == self._lost:
                    raise NoReply

    def _route(self, asked: Asked) -> tuple[str, Callable[[], dict[str, Any] | bytes]]:
        if asked.service != "storage.googleapis.com":
            raise Refusal("", "another service", 403)
        if (asked.method, asked.path) == ("GET", "/"):
            return "buckets", lambda: self._buckets(asked)
        found = re.fullmatch(rf"{ROOT}(?:/([A-Z0-9]+))?", asked.path)
        if found is None:
            raise Refusal("", "another project, or no such call", 403)
        key_id = found[1] or ""
        calls: dict[tuple[str, bool], tuple[str, Callable[[], dict[str, Any] | bytes]]] = {
            ("POST", False): ("create", lambda: self._create(asked)),
            ("GET", False): ("list", lambda: self._list(asked)),
            ("GET", True): ("get", lambda: self._described(self._get(key_id))),
            ("PUT", True): ("update", lambda: self._update(asked, self._get(key_id))),
            ("DELETE", True): ("delete", lambda: self._delete(self._get(key_id))),
        }
        if (asked.method, bool(key_id)) not in calls:
            raise Refusal("", "no such call", 404)
        return calls[asked.method, bool(key_id)]

    # ------------------------------------------------------------------ calls

    def _create(self, asked: Asked) -> dict[str, Any]:
        if asked.query != {"serviceAccountEmail": ACCOUNT} or asked.body:
            raise Refusal("", "what cannot be asked", 403)
        if len(self.alive()) >= self.quota:
            raise Refusal("", "too many keys", 400)
        key = self._add(self.now(), ACCOUNT)
        return {"secret": key.secret.reveal(), "metadata": self._described(key)}

    def _list(self, asked: Asked) -> dict[str, Any]:
        then = self.now() - timedelta(seconds=self.lag_s)
        shown = [
            key
            for key in self.keys.values()
            if key.account == asked.query["serviceAccountEmail"]
            and key.made_at <= then
            and (key.state != "DELETED" or (key.changed_at or then) > then)
        ]
        first = int(asked.query.get("pageToken", "0"))
        page = shown[first : first + self.page_size]
        told: dict[str, Any] = {"items": [self._described(key) for key in page]} if page else {}
        if first + self.page_size < len(shown):
            told["nextPageToken"] = str(first + self.page_size)
        return told

    def _update(self, asked: Asked, key: HmacKey) -> dict[str, Any]:
        if asked.members.get("etag") != f"e{key.etag}":
            raise Refusal("", "another etag", 412)
        key.state, key.etag, key.changed_at = asked.members["state"], key.etag + 1, self.now()
        return self._described(key)

    def _delete(self, key: HmacKey) -> dict[str, Any]:
        if key.state != "INACTIVE":
            raise Refusal("", f"Cannot delete keys in '{key.state}' state.", 400)
        key.state, key.changed_at = "DELETED", self.now()
        return {}

    def _buckets(self, asked: Asked) -> bytes:
        if self.is_ill:
            raise Refusal("", "<Error><Code>SlowDown</Code></Error>", 418)
        code = self._refusal(asked)
        if not code and asked.headers.get("x-amz-project-id") != PROJECT:
            raise Refusal("", "<Error><Code>InvalidArgument</Code></Error>", 400)
        if not code and self.may_list:
            return b"<ListAllMyBucketsResult/>"
        raise Refusal("", f"<Error><Code>{code or 'AccessDenied'}</Code></Error>", 403)

    def _refusal(self, asked: Asked) -> str:
        """Say what is wrong with a signature, in a word of the XML API's; "" if nothing is."""
        found = re.fullmatch(
            r"AWS4-HMAC-SHA256 Credential=([A-Z0-9]+)/([0-9]{8})/(\w+)/s3/aws4_request,"
            r" SignedHeaders=[a-z0-9;-]+, Signature=[0-9a-f]{64}",
            asked.headers.get("authorization", ""),
        )
        if found is None:
            return "InvalidSecurity"
        settled = self.now() - timedelta(seconds=self.lag_s)
        key = self.keys.get(found[1])
        if key is None or key.state != "ACTIVE" or key.made_at > settled:
            return "InvalidAccessKeyId"
        at = datetime.strptime(asked.headers["x-amz-date"], "%Y%m%dT%H%M%S%z")
        if abs(at - self.now()) > SKEW:
            return "InvalidSecurity"
        signed = authorization(key, at, found[3], asked.headers.get("x-amz-project-id", ""))
        is_same = hmac.compare_digest(signed, asked.headers["authorization"])
        return "" if is_same else "SignatureDoesNotMatch"

    # ------------------------------------------------------------------ how

    def _add(self, made_at: datetime, account: str) -> HmacKey:
        number = next(self._numbers)
        secret = Sensitive(f"Canary7-hmac-{number:027}")
        key = HmacKey(f"GOOG1E{number:055}", secret, made_at, account)
        self.keys[key.id] = key
        return key

    def _get(self, key_id: str) -> HmacKey:
        if key_id not in self.keys:
            raise Refusal("", "no such key", 404)
        return self.keys[key_id]

    def _described(self, key: HmacKey) -> dict[str, Any]:
        return {
            "accessId": key.id,
            "serviceAccountEmail": key.account,
            "state": key.state,
            "timeCreated": key.made_at.isoformat().replace("+00:00", "Z"),
            "etag": f"e{key.etag}",
        }
