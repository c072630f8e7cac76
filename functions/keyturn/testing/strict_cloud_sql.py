"""A Cloud SQL of our own, as far as passwords of users go: its REST API, on loopback.

    with StrictCloudSql(set_password) as sql:
        name = sql.add(Instance("orders", "127.0.0.1", {"app": ""}))
        connect("sqladmin.googleapis.com", Surroundings(.., google_endpoint=sql.endpoint))

    users.update  ->  PENDING  ->  RUNNING  ->  DONE

An operation goes on with every look at it, or with `settle`; `set_password` carries it out, on a
real server, so that the real engine tells who may log in. What Google leaves open is
`Undocumented`, to be tested both ways. It enforces no IAM and no quotas. Only tests use it.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from keyturn.model import Sensitive
from keyturn.testing.google_rest import Asked, served
from keyturn.testing.wire import NoReply, Refusal

SERVICE = "sqladmin.googleapis.com"
PROJECT, REGION = "shop-42", "europe-west1"
RUNNABLE = "RUNNABLE"

SetPassword = Callable[[str, Sensitive], None]
"""Gives a user of the real server a password."""


@dataclass(frozen=True, slots=True)
class Undocumented:
    """What Google does not say.

    Attributes:
        pending_for: How many looks show an operation that waits.
        running_for: How many show one that is carried out.
        hidden_for: How many lists do not show it at first.
        tells_type: Whether the usual type of a user is told, or left out.
        code: Of the error in an operation that fails; it succeeds if there is none.
    """

    pending_for: int = 1
    running_for: int = 1
    hidden_for: int = 0
    tells_type: bool = False
    code: str = ""


@dataclass(slots=True)
class Instance:
    """An instance.

    Attributes:
        address: Where clients reach it.
        users: From where each may log in, by name: "" in PostgreSQL, "%" or so in MySQL. Those
            of one name are separated by commas.
        shown: Members of its description, in place of the usual ones.
        told: Members of each user's entry, by name.
    """

    name: str
    address: str
    users: dict[str, str]
    version: str = "POSTGRES_17"
    shown: dict[str, Any] = field(default_factory=dict)
    told: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def full_name(self) -> str:
        """As a plan names it."""
        return f"projects/{PROJECT}/instances/{self.name}"

    @property
    def connection_name(self) -> str:
        """As connectors name it."""
        return f"{PROJECT}:{REGION}:{self.name}"


@dataclass(frozen=True, slots=True)
class Call:
    """One request that was answered; *refused* is the HTTP status, or 0."""

    method: str
    path: str
    refused: int


@dataclass(slots=True)
class _Operation:
    name: str
    instance: str
    kind: str
    looks: list[str]
    """What the next looks show. The one after them shows that it is done."""
    change: Callable[[], None]
    hidden_for: int = 0
    code: str = ""
    is_done: bool = False

    def look(self) -> dict[str, Any]:
        """Return what is shown now, and let it go on."""
        status = self.looks.pop(0) if self.looks else self.finish()
        shown: dict[str, Any] = {
            "kind": "sql#operation",
            "name": self.name,
            "operationType": self.kind,
            "status": status,
            "targetId": self.instance,
        }
        if self.is_done and self.code:
            shown["error"] = {"errors": [{"code": self.code, "message": "Canary7-said-by-google"}]}
        return shown

    def finish(self) -> str:
        """Carry it out, once."""
        if not self.is_done and not self.code:
            self.change()
        self.is_done, self.looks = True, []
        return "DONE"


class StrictCloudSql:
    """The service. Use it as a context manager.

    Args:
        set_password: Carries a change out.
        undocumented: What Google leaves open.

    Attributes:
        calls: Every request that was answered, in order.
        endpoint: Where it listens, for `Surroundings.google_endpoint`.
    """

    def __init__(self, set_password: SetPassword, undocumented: Undocumented | None = None) -> None:
        self.calls: list[Call] = []
        self.endpoint = ""
        self._set_password = set_password
        self._undocumented = undocumented or Undocumented()
        self._instances: dict[str, Instance] = {}
        self._operations: dict[str, _Operation] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()
        self._stack = contextlib.ExitStack()
        self._lost = 0
        self._is_down = False

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

    def add(self, instance: Instance) -> str:
        """Add *instance*, and return its name in full."""
        self._instances[instance.name] = instance
        return instance.full_name

    def asked(self) -> int:
        """Return how many changes were accepted."""
        return sum(call.method == "PUT" and not call.refused for call in self.calls)

    def begin(self, instance: str, kind: str, looks: int) -> None:
        """Let somebody else begin an operation, which shows for so many looks."""
        with self._lock:
            self._begin(instance, kind, ["RUNNING"] * looks, lambda: None)

    def settle(self) -> None:
        """Let so much time pass that every operation has ended."""
        with self._lock:
            for operation in self._operations.values():
                operation.finish()

    def lose_replies(self, calls: int) -> None:
        """Let the next *calls* that change something take effect, and never answer them."""
        self._lost = calls

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        """Answer nothing, and do nothing, until the block ends."""
        self._is_down = True
        try:
            yield
        finally:
            self._is_down = False

    def answer(self, asked: Asked) -> dict[str, Any]:
        """Answer one call; see `google_rest.served`."""
        with self._lock:
            if self._is_down:
                raise NoReply
            answer = self._recorded(asked)
            if self._lost and asked.method == "PUT":
                self._lost -= 1
                raise NoReply
            return answer

    def _recorded(self, asked: Asked) -> dict[str, Any]:
        refused = 0
        try:
            return self._perform(asked)
        except Refusal as refusal:
            refused = refusal.status
            raise
        finally:
            self.calls.append(Call(asked.method, asked.path, refused))

    def _perform(self, asked: Asked) -> dict[str, Any]:
        root = f"/v1/projects/{PROJECT}"
        if asked.service != SERVICE or not asked.path.startswith(f"{root}/"):
            raise _refused(403, "The client is not authorized to make this request.")
        path = asked.path.removeprefix(root)
        if asked.method == "GET" and path == "/operations":
            return self._listed(asked)
        if asked.method == "GET" and (found := re.fullmatch(r"/operations/([0-9a-f-]+)", path)):
            return self._operation(found[1])
        if found := re.fullmatch(r"/instances/([a-z0-9-]+)(/users)?", path):
            return self._of_instance(self._instance(found[1]), found[2], asked)
        raise _refused(404, f"the strict Cloud SQL has no {path}")

    def _instance(self, name: str) -> Instance:
        if name not in self._instances:
            raise _refused(404, "The Cloud SQL instance does not exist.")
        return self._instances[name]

    def _of_instance(self, instance: Instance, part: str | None, asked: Asked) -> dict[str, Any]:
        match asked.method, part:
            case "GET", None:
                return self._described(instance)
            case "GET", "/users":
                return {"kind": "sql#usersList", "items": self._users(instance)}
            case "PUT", "/users":
                return self._update(instance, asked)
        raise _refused(404, f"the strict Cloud SQL has no {asked.method} there")

    # ------------------------------------------------------------------ descriptions

    def _described(self, instance: Instance) -> dict[str, Any]:
        return {
            "kind": "sql#instance",
            "name": instance.name,
            "project": PROJECT,
            "connectionName": instance.connection_name,
            "databaseVersion": instance.version,
            "instanceType": "CLOUD_SQL_INSTANCE",
            "state": RUNNABLE,
            "ipAddresses": [
                {"type": "PRIMARY", "ipAddress": instance.address},
                {"type": "OUTGOING", "ipAddress": "203.0.113.9"},
            ],
            "settings": {"activationPolicy": "ALWAYS"},
        } | instance.shown

    def _users(self, instance: Instance) -> list[dict[str, Any]]:
        usual = {"type": "BUILT_IN"} if self._undocumented.tells_type else {}
        return [
            {"kind": "sql#user", "name": name, "instance": instance.name, **usual}
            | ({"host": host} if host else {})
            | instance.told.get(name, {})
            for name, hosts in instance.users.items()
            for host in hosts.split(",")
        ]

    # ------------------------------------------------------------------ operations

    def _listed(self, asked: Asked) -> dict[str, Any]:
        if asked.query.keys() - {"instance", "maxResults"}:
            raise _refused(400, "the strict Cloud SQL lists by instance alone")
        newest_first = list(self._operations.values())[::-1]
        shown = []
        for operation in newest_first[: int(asked.query["maxResults"])]:
            if operation.instance != asked.query["instance"]:
                continue
            if operation.hidden_for:
                operation.hidden_for -= 1
                continue
            shown.append(operation.look())
        return {"kind": "sql#operationsList"} | ({"items": shown} if shown else {})

    def _operation(self, name: str) -> dict[str, Any]:
        if name not in self._operations:
            raise _refused(404, "The Cloud SQL instance operation does not exist.")
        return self._operations[name].look()

    def _begin(
        self, instance: str, kind: str, looks: list[str], change: Callable[[], None]
    ) -> _Operation:
        name = f"00000000-0000-4000-8000-{next(self._numbers):012x}"
        made = _Operation(name, instance, kind, looks, change)
        self._operations[name] = made
        return made

    def _update(self, instance: Instance, asked: Asked) -> dict[str, Any]:
        if asked.query.keys() - {"name", "host"} or asked.members.keys() - {"name", "password"}:
            raise _refused(400, "the strict Cloud SQL changes nothing but a password")
        shown = self._described(instance)
        if shown["instanceType"] != "CLOUD_SQL_INSTANCE" or shown["state"] != RUNNABLE:
            raise _refused(400, "The incoming request contained invalid data.")
        if any(each.instance == instance.name and not each.is_done for each in self._all()):
            # "operationInProgress": an instance takes one change at a time.
            raise _refused(409, "Operation failed because another one was already in progress.")
        name, host = asked.query.get("name", ""), asked.query.get("host", "")
        if asked.members.get("name", name) != name:
            raise _refused(400, "The user in the body is another one than in the address.")
        entries = [
            u for u in self._users(instance) if (u["name"], u.get("host", "")) == (name, host)
        ]
        if not entries or not entries[0].get("type", "BUILT_IN") == "BUILT_IN":
            raise _refused(404, "The specified user does not exist, or is of IAM's.")
        secret = Sensitive(asked.members["password"])
        _require_allowed(secret, name, shown["settings"].get("passwordValidationPolicy", {}))
        ways = self._undocumented
        looks = ["PENDING"] * ways.pending_for + ["RUNNING"] * ways.running_for
        made = self._begin(
            instance.name, "UPDATE_USER", looks, lambda: self._set_password(name, secret)
        )
        made.hidden_for, made.code = ways.hidden_for, ways.code
        return {"kind": "sql#operation", "name": made.name, "status": "PENDING"}

    def _all(self) -> list[_Operation]:
        return list(self._operations.values())


def _require_allowed(secret: Sensitive, user: str, policy: dict[str, Any]) -> None:
    """Enforce PasswordValidationPolicy, as far as one password can break it."""
    if not policy.get("enablePasswordPolicy"):
        return
    text = secret.reveal()
    is_long = len(text) >= policy.get("minLength", 0)
    kinds = (r"[a-z]", r"[A-Z]", r"[0-9]", r"[^A-Za-z0-9]")
    is_complex = "complexity" not in policy or all(re.search(kind, text) for kind in kinds)
    names = policy.get("disallowUsernameSubstring") and user.lower() in text.lower()
    if not is_long or not is_complex or names:
        raise _refused(400, "Password does not meet the requirements of the policy.")


def _refused(status: int, message: str) -> Refusal:
    """Refuse as older APIs do: by the HTTP status, without a canonical code."""
    return Refusal("", message, status)
