"""An IAM of our own, as far as access keys go, and the STS that says whose they are.

    with StrictIam(world.clock.now) as iam:
        iam.add("app", "/rotated/")
        boto3.client("iam", endpoint_url=iam.iam_url, ..)

Real SDKs talk to both. As the services it is strict and late: a user has two keys at most; each of
its hosts hears of a change on its own after some time, during which it refuses a new key and goes
on accepting an old one; lists are old. STS checks the signature. Time is whatever *now* says. It
enforces no policy: any caller but the function is denied. Only tests use it.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

from keyturn.model import Sensitive
from keyturn.testing.query_wire import QueryWire
from keyturn.testing.wire import NoReply, Refusal, Request, served

ACCOUNT, REGION = "123456789012", "eu-west-1"
FUNCTION, FUNCTION_SECRET = "ASIAFUNCTION00000001", "unchecked"
MOST = 2
"""Keys of a user, inactive ones included (IAM quotas)."""

HOSTS = 4
NEVER = {"ServiceName": "N/A", "Region": "N/A"}
"""What there is of the last use of a key that was never used (API_AccessKeyLastUsed)."""


@dataclass(slots=True)
class AccessKey:
    """One key.

    Attributes:
        known_at: When each host hears of it.
        gone_at: When it was deleted; lists and hosts hear of that later.
    """

    key_id: str
    user: str
    secret: Sensitive
    created_at: datetime
    known_at: list[datetime]
    is_active: bool = True
    used_at: datetime | None = None
    gone_at: datetime | None = None


@dataclass(slots=True)
class _User:
    name: str
    arn: str


@dataclass(frozen=True, slots=True)
class Call:
    """One request that was answered; *refused* is the error's code, or ""."""

    action: str
    refused: str


@dataclass(slots=True)
class StrictIam:
    """Both services. A context manager.

    Attributes:
        now: The time.
        delay_s: How long one host takes to hear of a new key; called for each.
        list_lag_s: How old lists are.
        page_size: The most keys that a list shows at once.
        function_arn: Who the function is to STS.
        calls: Every request that reached an action, in order.
    """

    now: Callable[[], datetime]
    delay_s: Callable[[], float] = lambda: 0.0
    list_lag_s: float = 0.0
    page_size: int = 100
    function_arn: str = f"arn:aws:sts::{ACCOUNT}:assumed-role/keyturn/session"
    calls: list[Call] = field(default_factory=list)
    iam_url: str = ""
    sts_url: str = ""
    _users: dict[str, _User] = field(default_factory=dict)
    _keys: dict[str, AccessKey] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _turns: Iterator[int] = field(default_factory=lambda: itertools.cycle(range(HOSTS)))
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _lost: str = ""
    _is_down: bool = False

    def __enter__(self) -> Self:
        for service in ("iam", "sts"):
            port = self._stack.enter_context(served(QueryWire(service), self._answer))
            setattr(self, f"{service}_url", f"http://127.0.0.1:{port}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def environment(self) -> dict[str, str]:
        """Return the variables with which the SDK of a function reaches this."""
        return {
            "AWS_ENDPOINT_URL_IAM": self.iam_url,
            "AWS_ENDPOINT_URL_STS": self.sts_url,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": FUNCTION,
            "AWS_SECRET_ACCESS_KEY": FUNCTION_SECRET,
        }

    def add(self, name: str, path: str = "/") -> str:
        """Make a user without a key, and return its ARN."""
        self._users[name] = _User(name, f"arn:aws:iam::{ACCOUNT}:user{path}{name}")
        return self._users[name].arn

    def make_key(self, user: str, *, age: timedelta = timedelta(days=30)) -> AccessKey:
        """Make a key by hand, which every host knows already."""
        key = self._make(user, self.now() - age)
        key.known_at = [key.created_at] * HOSTS
        return key

    def alive(self, user: str) -> list[AccessKey]:
        """Return the keys there really are, whatever lists say."""
        return [key for key in self._keys.values() if key.user == user and key.gone_at is None]

    def accepts_everywhere(self, key_id: str, secret: Sensitive) -> bool:
        """Tell whether every host would accept this key now."""
        key = self._keys.get(key_id)
        if key is None or key.secret != secret:
            return False
        return all(self._knows(host, key) for host in range(HOSTS))

    def count(self, action: str) -> int:
        """Return how many calls of *action* were not refused."""
        return self.calls.count(Call(action, ""))

    @contextlib.contextmanager
    def lose_reply(self, action: str) -> Iterator[None]:
        """Let the next *action* take effect, and never answer it."""
        self._lost = action
        yield
        self._lost = ""

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        """Answer nothing, and do nothing, until the block ends."""
        self._is_down = True
        try:
            yield
        finally:
            self._is_down = False

    # ------------------------------------------------------------------ answers

    def _answer(self, request: Request) -> dict[str, Any]:
        with self._lock:
            if self._is_down:
                raise NoReply
            answer = self._recorded(request)
            if self._lost == request.action:
                self._lost = ""
                raise NoReply
            return answer

    def _recorded(self, request: Request) -> dict[str, Any]:
        refused = ""
        try:
            return self._perform(request)
        except Refusal as refusal:
            refused = refusal.code
            raise
        finally:
            self.calls.append(Call(request.action, refused))

    def _perform(self, request: Request) -> dict[str, Any]:
        asked = request.parameters
        if request.action == "GetCallerIdentity":
            return self._identity(request)
        if request.caller != FUNCTION:
            raise Refusal("AccessDenied", "Only the function may do that.", 403)
        if "UserName" in asked and asked["UserName"] not in self._users:
            raise Refusal("NoSuchEntity", "There is no such user.", 404)
        if request.action not in self._actions():
            raise Refusal("InvalidAction", f"the strict IAM has no {request.action}")
        return self._actions()[request.action](asked)

    def _actions(self) -> dict[str, Callable[[dict[str, Any]], dict[str, Any]]]:
        return {
            "CreateAccessKey": self._created,
            "DeleteAccessKey": self._deleted,
            "GetAccessKeyLastUsed": self._last_used,
            "ListAccessKeys": self._listed,
            "UpdateAccessKey": self._updated,
        }

    def _identity(self, request: Request) -> dict[str, Any]:
        if request.caller == FUNCTION:
            return {"UserId": "AROA", "Account": ACCOUNT, "Arn": self.function_arn}
        key, host = self._keys.get(request.caller), next(self._turns)
        if key is None or not self._knows(host, key):
            raise Refusal("InvalidClientTokenId", "The token in the request is invalid.", 403)
        if not request.is_signed_with(key.secret.reveal()):
            raise Refusal("SignatureDoesNotMatch", "The signature does not match.", 403)
        key.used_at = self.now()
        return {"UserId": "AIDA", "Account": ACCOUNT, "Arn": self._users[key.user].arn}

    def _knows(self, host: int, key: AccessKey) -> bool:
        is_gone = key.gone_at is not None and key.gone_at <= self.now()
        return key.is_active and not is_gone and key.known_at[host] <= self.now()

    def _listed(self, asked: dict[str, Any]) -> dict[str, Any]:
        user, start = asked["UserName"], int(asked.get("Marker", "0"))
        then = self.now() - timedelta(seconds=self.list_lag_s)
        shown = [
            key
            for key in self._keys.values()
            if key.user == user and key.created_at <= then and (key.gone_at or self._later) > then
        ]
        end = start + self.page_size
        members = [
            {
                "UserName": user,
                "AccessKeyId": key.key_id,
                "Status": "Active" if key.is_active else "Inactive",
                "CreateDate": key.created_at,
            }
            for key in shown[start:end]
        ]
        more = {"Marker": str(end)} if end < len(shown) else {}
        return {"AccessKeyMetadata": members, "IsTruncated": bool(more), **more}

    @property
    def _later(self) -> datetime:
        return self.now() + timedelta(days=1)

    def _created(self, asked: dict[str, Any]) -> dict[str, Any]:
        user = asked["UserName"]
        if len(self.alive(user)) >= MOST:
            raise Refusal(
                "LimitExceeded", f"Cannot exceed quota for AccessKeysPerUser: {MOST}", 409
            )
        key = self._make(user, self.now().replace(microsecond=0))
        key.known_at = [self.now() + timedelta(seconds=self.delay_s()) for _ in range(HOSTS)]
        return {
            "AccessKey": {
                "UserName": user,
                "AccessKeyId": key.key_id,
                "Status": "Active",
                "SecretAccessKey": key.secret.reveal(),
                "CreateDate": key.created_at,
            }
        }

    def _make(self, user: str, created_at: datetime) -> AccessKey:
        number = next(self._numbers)
        tail = hashlib.sha256(str(number).encode()).hexdigest()
        key = AccessKey(
            f"AKIA{tail[:16].upper()}", user, Sensitive(f"Canary7/+{tail[:31]}"), created_at, []
        )
        self._keys[key.key_id] = key
        return key

    def _found(self, asked: dict[str, Any]) -> AccessKey:
        key = self._keys.get(asked["AccessKeyId"])
        if key is None or key.user != asked["UserName"] or key.gone_at is not None:
            raise Refusal("NoSuchEntity", "The Access Key cannot be found.", 404)
        return key

    def _updated(self, asked: dict[str, Any]) -> dict[str, Any]:
        self._found(asked).is_active = asked["Status"] == "Active"
        return {}

    def _deleted(self, asked: dict[str, Any]) -> dict[str, Any]:
        self._found(asked).gone_at = self.now()
        return {}

    def _last_used(self, asked: dict[str, Any]) -> dict[str, Any]:
        key = self._keys.get(asked["AccessKeyId"])
        if key is None or key.gone_at is not None:
            raise Refusal("NoSuchEntity", "The Access Key cannot be found.", 404)
        used = {"LastUsedDate": key.used_at, "ServiceName": "sts", "Region": REGION}
        return {"UserName": key.user, "AccessKeyLastUsed": used if key.used_at else NEVER}
