"""An API Gateway of our own, as far as keys and usage plans go.

    with StrictApiGateway(world.clock.now) as service:
        boto3.client("apigateway", endpoint_url=service.url, ..)

Real SDKs talk to it. As the service it is strict: a value has 20 to 128 characters and is some
key's only once, names may be shared, a key is in a plan only once, and a query by name finds it
anywhere within names. `opens` is the gateway: it hears of a change after *delay_s*. Only tests use
it.
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
from keyturn.testing.rest_wire import RestWire
from keyturn.testing.wire import NoReply, Refusal, Request, served

_VALUE = re.compile(r"[A-Za-z0-9-]*", re.ASCII)
SHORTEST, LONGEST = 20, 128
MUTE = "mute"
"""A name of keys; whoever asks for it gets no answer."""


@dataclass(slots=True)
class ApiKey:
    """One key.

    Attributes:
        opened: What the gateway goes by until it hears of the last change.
    """

    id: str
    name: str
    value: Sensitive
    is_enabled: bool
    changed_at: datetime
    opened: bool = False
    description: str = ""


@dataclass(slots=True)
class StrictApiGateway:
    """The service. A context manager.

    Attributes:
        now: The time.
        delay_s: How long the gateway takes to hear of a change.
        quota: The most keys there may be.
        page_size: The most things that an answer has.
        asked: Every action that was performed, in order.
        after: Called after each of them.
    """

    now: Callable[[], datetime]
    delay_s: float = 0.0
    quota: int = 10_000
    page_size: int = 500
    asked: list[str] = field(default_factory=list)
    after: Callable[[str], None] = lambda _: None
    url: str = ""
    keys: dict[str, ApiKey] = field(default_factory=dict)
    plans: dict[str, set[str]] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _lost: int | None = None
    _is_down: bool = False

    def __enter__(self) -> Self:
        port = self._stack.enter_context(served(RestWire("apigateway"), self._answer))
        self.url = f"http://127.0.0.1:{port}"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def make_key(self, name: str, value: Sensitive, *plans: str) -> ApiKey:
        """Make a key by hand, long ago."""
        key = self._make(name, value, is_enabled=True, at=self.now() - timedelta(days=30))
        for plan in plans:
            self.plans.setdefault(plan, set()).add(key.id)
        return key

    def of(self, value: Sensitive) -> ApiKey | None:
        """Return the key that has this value."""
        return next((key for key in self.keys.values() if key.value == value), None)

    def opens(self, value: Sensitive, plan: str) -> bool:
        """Tell whether the gateway lets a client in with this value, to what the plan is for."""
        key = self.of(value)
        if key is None or key.id not in self.plans[plan]:
            return False
        has_heard = self.now() - key.changed_at >= timedelta(seconds=self.delay_s)
        return key.is_enabled if has_heard else key.opened

    @contextlib.contextmanager
    def lose_reply(self, number: int) -> Iterator[None]:
        """Let the call of that number, counted from 0 on, take effect, and never answer it."""
        self._lost = number
        try:
            yield
        finally:
            self._lost = None

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
            asked = request.parameters
            if self._is_down or asked.get("nameQuery") == MUTE:
                raise NoReply
            if request.action not in self._actions():
                raise Refusal("NotFoundException", f"there is no {request.action} here", 404)
            answer = self._actions()[request.action](asked)
            self.asked.append(request.action)
            self.after(request.action)
            if self._lost is not None:
                self._lost -= 1
                if self._lost < 0:
                    self._lost = None
                    raise NoReply
            return answer

    def _actions(self) -> dict[str, Callable[[dict[str, Any]], dict[str, Any]]]:
        return {
            "CreateApiKey": self._created,
            "CreateUsagePlanKey": self._joined,
            "DeleteApiKey": self._deleted,
            "GetApiKeys": self._listed,
            "GetUsagePlans": self._plans_of,
            "UpdateApiKey": self._updated,
        }

    def _created(self, asked: dict[str, Any]) -> dict[str, Any]:
        value = Sensitive(asked["value"])
        if not SHORTEST <= len(asked["value"]) <= LONGEST or not _VALUE.fullmatch(asked["value"]):
            raise Refusal("BadRequestException", "API Key value is not of the right form")
        if self.of(value) is not None:
            raise Refusal("ConflictException", "API Key already exists", 409)
        if len(self.keys) >= self.quota:
            raise Refusal("LimitExceededException", "Maximum number of API keys reached", 429)
        made = self._make(asked["name"], value, is_enabled=asked["enabled"], at=self.now())
        made.description = asked.get("description", "")
        return {**_shown(made), "value": value.reveal()}

    def _make(self, name: str, value: Sensitive, *, is_enabled: bool, at: datetime) -> ApiKey:
        key = ApiKey(f"key{next(self._numbers):07}", name, value, is_enabled, at)
        self.keys[key.id] = key
        return key

    def _listed(self, asked: dict[str, Any]) -> dict[str, Any]:
        query = asked.get("nameQuery", "").lower()
        found = [key for key in self.keys.values() if query in key.name.lower()]
        values = asked.get("includeValues")
        shown = [_shown(k) | ({"value": k.value.reveal()} if values else {}) for k in found]
        return self._page(shown, asked)

    def _plans_of(self, asked: dict[str, Any]) -> dict[str, Any]:
        found = [plan for plan, keys in self.plans.items() if asked["keyId"] in keys]
        return self._page([{"id": plan, "name": plan} for plan in found], asked)

    def _page(self, things: list[dict[str, Any]], asked: dict[str, Any]) -> dict[str, Any]:
        size = min(self.page_size, asked.get("limit", 25))
        start = int(asked.get("position", "0"))
        more = {"position": str(start + size)} if start + size < len(things) else {}
        return {"item": things[start : start + size], **more}

    def _joined(self, asked: dict[str, Any]) -> dict[str, Any]:
        plan, key = self.plans.get(asked["usagePlanId"]), self._found(asked["keyId"])
        if plan is None or asked["keyType"] != "API_KEY":
            raise Refusal("NotFoundException", "Invalid Usage Plan ID specified", 404)
        if key.id in plan:
            raise Refusal("ConflictException", "Usage Plan already has this key", 409)
        plan.add(key.id)
        return {"id": key.id, "type": "API_KEY", "name": key.name}

    def _updated(self, asked: dict[str, Any]) -> dict[str, Any]:
        key = self._found(asked["apiKey"])
        for change in asked["patchOperations"]:
            if change["path"] != "/enabled" or change["op"] != "replace":
                raise Refusal("BadRequestException", "Invalid patch path")
            self._switch(key, is_enabled=change["value"] == "true")
        return _shown(key)

    def _switch(self, key: ApiKey, *, is_enabled: bool) -> None:
        key.opened, key.is_enabled, key.changed_at = key.is_enabled, is_enabled, self.now()

    def _deleted(self, asked: dict[str, Any]) -> dict[str, Any]:
        key = self._found(asked["apiKey"])
        del self.keys[key.id]
        for plan in self.plans.values():
            plan.discard(key.id)
        return {}

    def _found(self, key_id: str) -> ApiKey:
        if key_id not in self.keys:
            raise Refusal("NotFoundException", "Invalid API Key identifier specified", 404)
        return self.keys[key_id]


def _shown(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "description": key.description,
        "enabled": key.is_enabled,
        "createdDate": key.changed_at,
        "lastUpdatedDate": key.changed_at,
    }
