"""An ElastiCache of our own, as far as AUTH tokens of replication groups go. Real SDKs talk to it.

    with StrictReplicationGroups(set_tokens) as service:
        arn = service.add(Group("orders", "127.0.0.1", 6379, [token]))
        monkeypatch.setenv("AWS_ENDPOINT_URL_ELASTICACHE", service.url)

    ROTATE   beside the present token; of three, the oldest goes          (User Guide, AUTH)
    SET      this one alone; it has to be the one that was rotated last   (the same)

A change is answered at once, and goes on with every description of its group, or with `settle`;
`set_tokens` carries it out, on a real server, so that the real server tells who may log in. While
it goes on, the group is *modifying* and refuses any other. What AWS leaves open, and where its
guide and what people see differ, is `Undocumented`, to be tested every way; nothing here was ever
compared with the real service. It enforces no IAM, and its maintenance window never comes.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

from keyturn.model import Sensitive
from keyturn.testing.query_wire import QueryWire
from keyturn.testing.wire import NoReply, Refusal, Request, served

ACCOUNT, REGION = "123456789012", "eu-west-1"
AVAILABLE, MODIFYING = "available", "modifying"
MOST = 2
"""Tokens of a group."""

_TOKEN = re.compile(r"[A-Za-z0-9!&#$^<>-]{16,128}")
"""The narrower of two lists (API_CreateReplicationGroup; API_ModifyReplicationGroup has more)."""

SetTokens = Callable[[list[Sensitive]], None]
"""Lets the real server accept exactly these."""

Asked = tuple[str, Sensitive]
"""A strategy and its token."""


class Again(Enum):
    """What ROTATE does with a token that the group has."""

    NEWEST = "it becomes the newest"
    NOTHING = "nothing, and it stays as old as it was"
    REFUSED = "it is refused"


@dataclass(frozen=True, slots=True)
class Undocumented:
    """What AWS does not say, or does not keep to.

    Attributes:
        is_set_lax: SET takes any token. The guide says: only what was rotated last. Terraform's
            acceptance tests SET on a group that has never rotated.
        again: See `Again`.
        looks: How many descriptions show a change before it is in force.
        is_status_late: The first description after a change shows nothing of it.
    """

    is_set_lax: bool = True
    again: Again = Again.NEWEST
    looks: int = 2
    is_status_late: bool = False


@dataclass(slots=True)
class Group:
    """A replication group.

    Attributes:
        name: Its identifier.
        host: Where the real server listens.
        port: The same.
        tokens: What it accepts, oldest first.
        last: What was rotated last, if anything was.
        changed_at: When its tokens were changed.
        status: What it is doing, if no token is changed.
        shown: Members of its description besides.
    """

    name: str
    host: str
    port: int
    tokens: list[Sensitive]
    last: Sensitive | None = None
    changed_at: datetime | None = None
    status: str = AVAILABLE
    shown: dict[str, Any] = field(default_factory=dict)

    @property
    def arn(self) -> str:
        """Its ARN."""
        return f"arn:aws:elasticache:{REGION}:{ACCOUNT}:replicationgroup:{self.name}"


@dataclass(slots=True)
class _Change:
    way: str
    tokens: list[Sensitive]
    last: Sensitive | None
    looks: int
    is_deferred: bool


class StrictReplicationGroups:
    """The service, on a free port of loopback. Use it as a context manager.

    Args:
        set_tokens: Carries a change out.
        undocumented: What AWS leaves open.

    Attributes:
        url: Where it listens.
        calls: Every action, and the code with which it was refused, or "".
        asked: The changes that were accepted, in order.
        after: Called with each action when it is done or refused, before it is answered.
    """

    def __init__(self, set_tokens: SetTokens, undocumented: Undocumented | None = None) -> None:
        self.url = ""
        self.calls: list[tuple[str, str]] = []
        self.asked: list[Asked] = []
        self.after: Callable[[str], None] = lambda _: None
        self._set_tokens = set_tokens
        self._undocumented = undocumented or Undocumented()
        self._groups: dict[str, Group] = {}
        self._changes: dict[str, _Change] = {}
        self._lock = threading.RLock()
        self._stack = contextlib.ExitStack()
        self._lost = 0

    def __enter__(self) -> Self:
        port = self._stack.enter_context(served(QueryWire("elasticache"), self._answer))
        self.url = f"http://127.0.0.1:{port}"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def add(self, group: Group) -> str:
        """Add *group*, give the real server its tokens, and return its ARN."""
        self._groups[group.name] = group
        self._set_tokens(group.tokens)
        return group.arn

    def settle(self) -> None:
        """Let so much time pass that every change is in force which waits for no window."""
        with self._lock:
            for name, change in list(self._changes.items()):
                if not change.is_deferred:
                    self._bring_into_force(name)

    def lose_replies(self, changes: int) -> None:
        """Let the next so many changes that succeed take effect, and never answer them."""
        self._lost = changes

    # ------------------------------------------------------------------ answers

    def _answer(self, request: Request) -> dict[str, Any]:
        with self._lock:
            answer = self._recorded(request)
            if self._lost and request.action.startswith("Modify"):
                self._lost -= 1
                raise NoReply
            return answer

    def _recorded(self, request: Request) -> dict[str, Any]:
        refused = ""
        try:
            return self._perform(request.action, request.parameters)
        except Refusal as refusal:
            refused = refusal.code
            raise
        finally:
            self.calls.append((request.action, refused))
            self.after(request.action)

    def _perform(self, action: str, parameters: dict[str, Any]) -> dict[str, Any]:
        group = self._groups.get(parameters.get("ReplicationGroupId", ""))
        if group is None:
            code = "ReplicationGroupNotFoundFault"
            raise Refusal(code, "There is no such group.", HTTPStatus.NOT_FOUND)
        if action == "DescribeReplicationGroups":
            self._go_on(group.name)
            return {"ReplicationGroups": [self._described(group)]}
        if action == "ModifyReplicationGroup":
            self._modify(group, parameters)
            return {"ReplicationGroup": self._described(group)}
        raise Refusal("InvalidAction", f"the strict ElastiCache has no {action}")

    def _go_on(self, name: str) -> None:
        change = self._changes.get(name)
        if change is None or change.is_deferred:
            return
        if not change.looks:
            self._bring_into_force(name)
            return
        change.looks -= 1

    def _bring_into_force(self, name: str) -> None:
        change, group = self._changes.pop(name), self._groups[name]
        self._set_tokens(change.tokens)
        group.tokens, group.last = change.tokens, change.last

    def _modify(self, group: Group, parameters: dict[str, Any]) -> None:
        others = parameters.keys() - {
            *("ReplicationGroupId", "AuthToken", "AuthTokenUpdateStrategy", "ApplyImmediately")
        }
        if others:
            raise _not_taken(f"the strict ElastiCache does not change {min(others)}")
        if group.status != AVAILABLE or group.name in self._changes:
            raise Refusal("InvalidReplicationGroupState", f"{group.name} is not available.")
        if group.shown.get("UserGroupIds") or not group.shown.get("TransitEncryptionEnabled", True):
            raise Refusal("InvalidParameterCombination", f"{group.name} takes no AUTH token.")
        token = Sensitive(parameters["AuthToken"])
        if not _TOKEN.fullmatch(token.reveal()):
            raise _not_taken("Invalid AuthToken provided.")
        way = parameters.get("AuthTokenUpdateStrategy", "ROTATE")
        tokens, last = self._following(group, way, token)
        is_deferred = not parameters.get("ApplyImmediately", False)
        looks = self._undocumented.looks
        self._changes[group.name] = _Change(way, tokens, last, looks, is_deferred)
        group.changed_at = datetime.now(UTC)
        self.asked.append((way, token))

    def _following(
        self, group: Group, way: str, token: Sensitive
    ) -> tuple[list[Sensitive], Sensitive | None]:
        """Return what the group will accept, and what was rotated last then."""
        ways = self._undocumented
        if way == "SET":
            if not ways.is_set_lax and token != group.last:
                raise _not_taken("The token is not the one that was rotated last.")
            return [token], group.last
        if token in group.tokens and ways.again is Again.REFUSED:
            raise _not_taken("The group has that token.")
        if token in group.tokens and ways.again is Again.NOTHING:
            return group.tokens, group.last
        others = [each for each in group.tokens if each != token]
        return [*others, token][-MOST:], token

    def _described(self, group: Group) -> dict[str, Any]:
        change = self._shown_change(group.name)
        is_busy = change is not None and not change.is_deferred
        endpoint = {"Address": group.host, "Port": group.port}
        described: dict[str, Any] = {
            "ReplicationGroupId": group.name,
            "ARN": group.arn,
            "Status": MODIFYING if is_busy else group.status,
            "PendingModifiedValues": {"AuthTokenStatus": _DOING[change.way]} if change else {},
            "NodeGroups": [{"NodeGroupId": "0001", "PrimaryEndpoint": endpoint}],
            "AuthTokenEnabled": True,
            "TransitEncryptionEnabled": True,
        }
        if group.changed_at is not None:
            described["AuthTokenLastModifiedDate"] = group.changed_at
        return described | group.shown

    def _shown_change(self, name: str) -> _Change | None:
        change, ways = self._changes.get(name), self._undocumented
        is_hidden = change is not None and ways.is_status_late and change.looks == ways.looks - 1
        return None if is_hidden else change


_DOING = {"ROTATE": "ROTATING", "SET": "SETTING"}


def _not_taken(message: str) -> Refusal:
    return Refusal("InvalidParameterValue", message)
