"""Google's API Keys of our own: the REST API, on loopback, and what an API says to a key.

    with StrictGoogleApiKeys(world.clock.now) as keys:
        first = keys.make_key("partner", Sensitive("..."))
        connect("apikeys.googleapis.com", Surroundings(.., google_endpoint=keys.endpoint))

An id is used once, also if its key was deleted; a deleted key is kept for 30 days. A change is an
operation, which takes its time; lists, and the index that leads from a value to its key, may be
late. Time is whatever *now* says. What Google leaves open is `Undocumented`, to be tested both
ways. It enforces no IAM. Only tests use it.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

from keyturn.model import Sensitive
from keyturn.testing.google_rest import Asked, refusal, served
from keyturn.testing.wire import NoReply

SERVICE = "apikeys.googleapis.com"
PROJECT = "projects/123456789"
PARENT = f"{PROJECT}/locations/global/keys"
MOST = 300

_ID = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SETTABLE = {"displayName", "restrictions", "annotations", "serviceAccountEmail"}
_CODES = {"FAILED_PRECONDITION": 9, "PERMISSION_DENIED": 7, "RESOURCE_EXHAUSTED": 8}


@dataclass(frozen=True, slots=True)
class Undocumented:
    """What Google does not say.

    Attributes:
        operation_s: How long a change takes.
        lookup_lag_s: How long until a value leads to its new key, and an API takes it.
        unknown: What a look-up of a value says that leads to no key.
        list_lag_s: How old lists are.
        shows_deleted: Whether a deleted key can be got.
        reads_deleted: Whether its value can be read.
        full: What says that there are too many: a refusal's code.
        fails_late: Whether that is the operation's error, not the call's.
    """

    operation_s: float = 0.0
    lookup_lag_s: float = 0.0
    unknown: str = "NOT_FOUND"
    list_lag_s: float = 0.0
    shows_deleted: bool = True
    reads_deleted: bool = True
    full: str = "FAILED_PRECONDITION"
    fails_late: bool = False


@dataclass(slots=True)
class ApiKey:
    """One key.

    Attributes:
        shown: What was set when it was made.
        made_at: When its operation is done.
        deleted_at: The same; None if it is not deleted.
    """

    name: str
    value: Sensitive
    shown: dict[str, Any]
    made_at: datetime
    deleted_at: datetime | None = None

    def described(self) -> dict[str, Any]:
        """Return the resource."""
        told = {"name": self.name, "createTime": _text(self.made_at), **self.shown}
        return told | ({"deleteTime": _text(self.deleted_at)} if self.deleted_at else {})


@dataclass(slots=True)
class _Operation:
    done_at: datetime
    error: str = ""


@dataclass(slots=True)
class StrictGoogleApiKeys:
    """The service. A context manager.

    Attributes:
        now: The time.
        undocumented: What Google leaves open.
        page_size: The most keys that a list shows at once.
        quota: How many keys there may be.
        after: Called with each call's name after it was done.
        asked: Each call's name, in order.
        keys: By name, the deleted ones among them.
        endpoint: Where it listens, for `Surroundings.google_endpoint`.
    """

    now: Callable[[], datetime]
    undocumented: Undocumented = field(default_factory=Undocumented)
    page_size: int = MOST
    quota: int = MOST
    after: Callable[[str], None] = lambda _: None
    asked: list[str] = field(default_factory=list)
    keys: dict[str, ApiKey] = field(default_factory=dict)
    endpoint: str = ""
    _operations: dict[str, _Operation] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _lost: Callable[[int, str], bool] = lambda _number, _name: False
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
        self, key_id: str, value: Sensitive | None = None, age: timedelta = timedelta(days=30)
    ) -> ApiKey:
        """Make a key by hand."""
        name = f"{PARENT}/{key_id}"
        self.keys[name] = ApiKey(name, value or self._value(), {}, self.now() - age)
        return self.keys[name]

    def alive(self) -> list[ApiKey]:
        """Return the keys that are not deleted, whatever lists say."""
        return [key for key in self.keys.values() if key.deleted_at is None]

    def undelete(self, name: str) -> None:
        """Undo a deletion, as a person does."""
        self.keys[name].deleted_at = None

    def opens(self, value: Sensitive) -> bool:
        """Tell whether an API takes a key of that value now."""
        lag = timedelta(seconds=self.undocumented.lookup_lag_s)
        return any(key.value == value and key.made_at + lag <= self.now() for key in self.alive())

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        """Answer nothing, and do nothing, until the block ends."""
        self._is_down = True
        try:
            yield
        finally:
            self._is_down = False

    @contextlib.contextmanager
    def lose(self, *, name: str = "", number: int = -1) -> Iterator[None]:
        """Do every call of that name, or the call of that number from now on, and say nothing."""
        first = len(self.asked)
        self._lost = lambda each, asked: asked == name or each - first == number
        try:
            yield
        finally:
            self._lost = lambda _number, _name: False

    def answer(self, asked: Asked) -> dict[str, Any]:
        """Answer one call; see `google_rest.served`."""
        with self._lock:
            if self._is_down:
                raise NoReply
            name, act = self._route(asked)
            number = len(self.asked)
            self.asked.append(name)
            try:
                return act()
            finally:
                self.after(name)
                if self._lost(number, name):
                    raise NoReply

    def _route(self, asked: Asked) -> tuple[str, Callable[[], dict[str, Any]]]:
        if asked.service != SERVICE:
            raise refusal("PERMISSION_DENIED", "another service")
        path = asked.path.removeprefix("/v2/")
        if asked.method == "GET" and path.startswith("operations/"):
            return "GetOperation", lambda: self._operation(path)
        if asked.method == "GET" and path == "keys:lookupKey":
            return "LookupKey", lambda: self._lookup(Sensitive(asked.query["keyString"]))
        if not path.startswith(PARENT):
            raise refusal("PERMISSION_DENIED", "another project, or none")
        return self._of_project(asked, path.removeprefix(PARENT).removeprefix("/"))

    def _of_project(self, asked: Asked, path: str) -> tuple[str, Callable[[], dict[str, Any]]]:
        key_id, _, part = path.partition("/")
        name = f"{PARENT}/{key_id}"
        match asked.method, bool(key_id), part:
            case "POST", False, "":
                return "CreateKey", lambda: self._create(asked)
            case "GET", False, "":
                return "ListKeys", lambda: self._list(asked)
            case "GET", True, "":
                return "GetKey", lambda: self._get(name).described()
            case "GET", True, "keyString":
                return "GetKeyString", lambda: self._string(name)
            case "DELETE", True, "":
                return "DeleteKey", lambda: self._delete(asked, name)
        raise refusal("NOT_FOUND", f"the strict API keys have no {asked.method} {part}")

    # ------------------------------------------------------------------ calls

    def _create(self, asked: Asked) -> dict[str, Any]:
        key_id, shown = asked.query.get("keyId", ""), asked.members
        if asked.query.keys() != {"keyId"} or shown.keys() - _SETTABLE:
            raise refusal("INVALID_ARGUMENT", "what cannot be set")
        if not _ID.fullmatch(key_id) or _UUID.fullmatch(key_id):
            raise refusal("INVALID_ARGUMENT", "no such id")
        if len(shown.get("displayName", "")) > 63:  # noqa: PLR2004  # as Key.displayName says
            raise refusal("INVALID_ARGUMENT", "a display name that is too long")
        name = f"{PARENT}/{key_id}"
        # Also of a key that was deleted (terraform-provider-google, issue 11726).
        if name in self.keys:
            raise refusal("ALREADY_EXISTS", "a key of that id")
        if len(self.alive()) >= self.quota:
            return self._refuse_late(self.undocumented.full)
        operation = self._begin()
        self.keys[name] = ApiKey(name, self._value(), shown, operation.done_at)
        return self._told(operation, self.keys[name].described())

    def _refuse_late(self, code: str) -> dict[str, Any]:
        if not self.undocumented.fails_late:
            raise refusal(code, "too many keys")
        operation = self._begin()
        operation.error = code
        return self._told(operation, {})

    def _get(self, name: str) -> ApiKey:
        key = self.keys.get(name)
        if key is None or key.made_at > self.now():
            raise refusal("NOT_FOUND", "no such key")
        if key.deleted_at is not None and not self.undocumented.shows_deleted:
            raise refusal("NOT_FOUND", "deleted")
        return key

    def _string(self, name: str) -> dict[str, Any]:
        key = self._get(name)
        if key.deleted_at is not None and not self.undocumented.reads_deleted:
            raise refusal("FAILED_PRECONDITION", "deleted")
        return {"keyString": key.value.reveal()}

    def _list(self, asked: Asked) -> dict[str, Any]:
        if asked.query.keys() - {"pageSize", "pageToken", "showDeleted"}:
            raise refusal("INVALID_ARGUMENT", "a list of something else")
        then = self.now() - timedelta(seconds=self.undocumented.list_lag_s)
        shows_deleted = asked.query.get("showDeleted") == "true"
        shown = [
            key
            for key in self.keys.values()
            if key.made_at <= then
            and (key.deleted_at is None or key.deleted_at > then or shows_deleted)
        ]
        first = int(asked.query.get("pageToken", "0"))
        size = min(self.page_size, int(asked.query.get("pageSize", "50")))
        told: dict[str, Any] = {}
        if page := shown[first : first + size]:
            told["keys"] = [key.described() for key in page]
        if first + size < len(shown):
            told["nextPageToken"] = str(first + size)
        return told

    def _delete(self, asked: Asked, name: str) -> dict[str, Any]:
        if asked.query:
            raise refusal("INVALID_ARGUMENT", "no condition is known here")
        key = self._get(name)
        if key.deleted_at is not None:
            raise refusal("FAILED_PRECONDITION", "deleted already")
        operation = self._begin()
        key.deleted_at = operation.done_at
        return self._told(operation, key.described())

    def _lookup(self, value: Sensitive) -> dict[str, Any]:
        lag = timedelta(seconds=self.undocumented.lookup_lag_s)
        for key in self.keys.values():
            # A deleted key is still found, until it is purged (LookupKeyResponse).
            if key.value == value and key.made_at + lag <= self.now():
                return {"parent": PROJECT, "name": key.name}
        raise refusal(self.undocumented.unknown, "a key of that value")

    # ------------------------------------------------------------------ operations

    def _begin(self) -> _Operation:
        operation = _Operation(self.now() + timedelta(seconds=self.undocumented.operation_s))
        self._operations[f"operations/akmf.p7-{next(self._numbers)}"] = operation
        return operation

    def _operation(self, name: str) -> dict[str, Any]:
        if name not in self._operations:
            raise refusal("NOT_FOUND", "no such operation")
        return self._told(self._operations[name], {})

    def _told(self, operation: _Operation, response: dict[str, Any]) -> dict[str, Any]:
        (name,) = [each for each, other in self._operations.items() if other is operation]
        if operation.done_at > self.now():
            return {"name": name}
        if operation.error:
            code = _CODES[operation.error]
            return {"name": name, "done": True, "error": {"code": code, "message": "no"}}
        return {"name": name, "done": True, "response": response}

    def _value(self) -> Sensitive:
        return Sensitive(f"Canary7-AIzaSy+{next(self._numbers):024}")


def _text(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")
