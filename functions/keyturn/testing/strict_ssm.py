"""A Parameter Store of our own, as far as single parameters go.

    with StrictSsm(world.clock.now) as ssm:
        boto3.client("ssm", **ssm.settings())

Real SDKs talk to it. As the service it is strict: sizes by tier, and no way back from an advanced
parameter; references in values are refused; types stay; a hundred versions, of which a labelled
one is not given up. A list's first page may be empty. It compares nothing, as the service does
not: whoever writes last has written. It enforces no policy. Only tests use it.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from keyturn.model import Sensitive
from keyturn.testing.json_wire import JsonWire
from keyturn.testing.wire import NoReply, Refusal, Request, served

REGION = "eu-west-1"
MAX_BYTES = {"Standard": 4_096, "Advanced": 8_192}
MOST_VERSIONS = 100
DESCRIPTION_MAX = 1_024
"""Parameter Store quotas, API_PutParameter."""

_NAME = re.compile(r"/?[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+){0,15}")
_REFERENCE = re.compile(r"\{\{")


@dataclass(slots=True)
class Written:
    """One version of a parameter."""

    number: int
    value: Sensitive
    description: str
    kind: str
    key: str
    tier: str
    at: datetime
    labels: tuple[str, ...] = ()


@dataclass(slots=True)
class StrictSsm:
    """The service. A context manager.

    Attributes:
        now: The time.
        keys: The KMS keys there are.
        calls: The action of every request that was not refused, in order.
        history: The versions of each parameter, the present one last.
    """

    now: Callable[[], datetime]
    keys: tuple[str, ...] = ("alias/secrets",)
    calls: list[str] = field(default_factory=list)
    history: dict[str, list[Written]] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _port: int = 0
    _is_down: bool = False
    _lost: str = ""

    def __enter__(self) -> Self:
        self._port = self._stack.enter_context(served(JsonWire(), self._answer))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def settings(self) -> dict[str, Any]:
        """Return what `boto3.client` needs to reach this."""
        return {
            "endpoint_url": f"http://127.0.0.1:{self._port}",
            "region_name": REGION,
            "aws_access_key_id": "STRICTCLIENT",
            "aws_secret_access_key": "unchecked",
        }

    def value_of(self, name: str) -> Sensitive | None:
        """Return what somebody reads who may; None if there is no such parameter."""
        versions = self.history.get(name)
        return versions[-1].value if versions else None

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

    def _answer(self, request: Request) -> dict[str, Any]:
        actions: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "DescribeParameters": self._described,
            "PutParameter": self._put,
        }
        with self._lock:
            if self._is_down:
                raise NoReply
            if request.action not in actions:
                raise Refusal("UnknownOperationException", "the strict SSM has no such action")
            answer = actions[request.action](request.parameters)
            self.calls.append(request.action)
            if self._lost == request.action:
                self._lost = ""
                raise NoReply
            return answer

    def _described(self, asked: dict[str, Any]) -> dict[str, Any]:
        match asked.get("ParameterFilters"):
            case [{"Key": "Name", "Values": [str(name)], **rest}] if rest in (
                {},
                {"Option": "Equals"},
            ):
                pass
            case _:
                raise Refusal("InvalidFilterKey", "the strict SSM finds one parameter by name")
        if "NextToken" not in asked:
            return {"Parameters": [], "NextToken": "more"}
        return {"Parameters": [_shown(name, each[-1]) for each in [self.history.get(name)] if each]}

    def _put(self, asked: dict[str, Any]) -> dict[str, Any]:
        name, versions = asked["Name"], self.history.get(asked["Name"], [])
        if versions and not asked.get("Overwrite", False):
            raise Refusal("ParameterAlreadyExists", "There is a parameter of that name.")
        self._require_valid(asked)
        self._require_fit(asked, versions)
        if len(versions) >= MOST_VERSIONS:
            if versions[0].labels:
                raise Refusal("ParameterMaxVersionLimitExceeded", "The oldest has a label.")
            versions = versions[1:]
        number = versions[-1].number + 1 if versions else 1
        written = Written(
            number,
            Sensitive(asked["Value"]),
            asked.get("Description", versions[-1].description if versions else ""),
            asked["Type"],
            asked.get("KeyId", "alias/aws/ssm"),
            asked.get("Tier", "Standard"),
            self.now(),
        )
        self.history[name] = [*versions, written]
        return {"Version": number, "Tier": written.tier}

    def _require_valid(self, asked: dict[str, Any]) -> None:
        if not _NAME.fullmatch(asked["Name"]):
            raise Refusal("ValidationException", "That is no name of a parameter.")
        if asked.get("KeyId", self.keys[0]) not in self.keys:
            raise Refusal("InvalidKeyId", "There is no such key.")
        if len(asked.get("Description", "")) > DESCRIPTION_MAX:
            raise Refusal("ValidationException", "The description is too long.")
        if _REFERENCE.search(asked["Value"]):
            raise Refusal("ValidationException", "Parameter value can't nest another parameter.")

    def _require_fit(self, asked: dict[str, Any], versions: list[Written]) -> None:
        tier = asked.get("Tier", "Standard")
        if not 1 <= len(asked["Value"].encode()) <= MAX_BYTES[tier]:
            raise Refusal("ValidationException", f"A {tier} parameter has {MAX_BYTES[tier]} bytes.")
        if versions and versions[-1].kind != asked["Type"]:
            raise Refusal("HierarchyTypeMismatchException", "The type of a parameter stays.")
        if versions and versions[-1].tier == "Advanced" and tier == "Standard":
            raise Refusal("ValidationException", "An advanced parameter stays one.")


def _shown(name: str, written: Written) -> dict[str, Any]:
    shown = {
        "Name": name,
        "Type": written.kind,
        "KeyId": written.key,
        "LastModifiedDate": written.at.timestamp(),
        "Version": written.number,
        "Tier": written.tier,
    }
    return {**shown, "Description": written.description} if written.description else shown
