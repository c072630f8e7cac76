"""An RDS of our own, as far as passwords of master users go. Real SDKs talk to it.

    with StrictRds(set_password) as rds:
        arn = rds.add(Resource("orders", "postgres", master="admin", host="127.0.0.1", port=5432))
        client = boto3.client("rds", **rds.settings())

    ModifyDB..  ->  a pending password  ->  *resetting-master-credentials*  ->  available

A change goes on with every description of its resource, or with `settle`; `set_password` carries
it out, on a real server, so that the real engine tells who may log in. What AWS leaves open is
`Undocumented`, to be tested both ways. It enforces no IAM and no quotas, and its maintenance window
never comes. Only tests use it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from keyturn.model import Sensitive
from keyturn.testing.query_wire import QueryWire
from keyturn.testing.wire import NoReply, Refusal, Request, served

ACCOUNT, REGION = "123456789012", "eu-west-1"

SHORTEST, LONGEST_OF_CLUSTERS = 8, 41
LONGEST = {"postgres": 128, "mysql": 41, "mariadb": 41}
"""Characters of a password (API_ModifyDBInstance, API_ModifyDBCluster: MasterUserPassword)."""

AVAILABLE, RESETTING = "available", "resetting-master-credentials"

SetPassword = Callable[[str, Sensitive], None]
"""Gives a user of the real server a password."""


@dataclass(frozen=True, slots=True)
class Undocumented:
    """What AWS does not say.

    Attributes:
        pending_for: How many descriptions show a pending password, and nothing else.
        resetting_for: How many show the status before the password is in force.
        keeps_pending: Whether the pending password is shown beside the status.
        hidden_for: How many show nothing of a change at first.
    """

    pending_for: int = 1
    resetting_for: int = 1
    keeps_pending: bool = False
    hidden_for: int = 0


@dataclass(slots=True)
class Resource:
    """An instance or a cluster.

    Attributes:
        name: Its identifier.
        engine: `postgres`, `aurora-postgresql`.
        master: The master user.
        host: Where the real server listens.
        port: The same.
        is_cluster: A cluster, not an instance.
        shown: Members of its description besides.
        status: What it is doing, if no password is changed.
    """

    name: str
    engine: str
    master: str
    host: str
    port: int
    is_cluster: bool = False
    shown: dict[str, Any] = field(default_factory=dict)
    status: str = AVAILABLE

    @property
    def arn(self) -> str:
        """Its ARN."""
        kind = "cluster" if self.is_cluster else "db"
        return f"arn:aws:rds:{REGION}:{ACCOUNT}:{kind}:{self.name}"


@dataclass(frozen=True, slots=True)
class Call:
    """One request that was answered; *refused* is the error's code, or ""."""

    action: str
    refused: str


@dataclass(frozen=True, slots=True)
class _Look:
    """What one description shows of a change."""

    status: str = AVAILABLE
    is_pending: bool = False


@dataclass(slots=True)
class _Change:
    secret: Sensitive
    is_deferred: bool
    looks: list[_Look]
    """What the next descriptions show. The one after them shows nothing: it is in force then."""


class StrictRds:
    """The service, on a free port of loopback. Use it as a context manager.

    Args:
        set_password: Carries a change out.
        undocumented: What AWS leaves open.

    Attributes:
        calls: Every request that reached an action, in order.
    """

    def __init__(self, set_password: SetPassword, undocumented: Undocumented | None = None) -> None:
        self.calls: list[Call] = []
        self._set_password = set_password
        self._undocumented = undocumented or Undocumented()
        self._resources: dict[str, Resource] = {}
        self._changes: dict[str, _Change] = {}
        self._lock = threading.RLock()
        self._stack = contextlib.ExitStack()
        self._port = 0
        self._lost = 0
        self._is_down = False

    def __enter__(self) -> Self:
        self._port = self._stack.enter_context(served(QueryWire("rds"), self._answer))
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

    def add(self, resource: Resource) -> str:
        """Add *resource*, and return its ARN."""
        self._resources[resource.arn] = resource
        return resource.arn

    def asked(self) -> int:
        """Return how many changes were accepted."""
        changes = {"ModifyDBInstance", "ModifyDBCluster"}
        return sum(call.action in changes and not call.refused for call in self.calls)

    def settle(self) -> None:
        """Let so much time pass that every change is in force which waits for no window."""
        with self._lock:
            for arn, change in list(self._changes.items()):
                if not change.is_deferred:
                    self._bring_into_force(arn)

    def lose_replies(self, calls: int) -> None:
        """Let the next *calls* that succeed take effect, and never answer them."""
        self._lost = calls

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
            if self._lost:
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
            self.calls.append(Call(request.action, refused))

    def _perform(self, action: str, parameters: dict[str, Any]) -> dict[str, Any]:
        kind = "DBCluster" if action.removesuffix("s").endswith("DBCluster") else "DBInstance"
        if action not in {f"Describe{kind}s", f"Modify{kind}"}:
            raise Refusal("InvalidAction", f"the strict RDS has no {action}")
        resource = self._found(kind, parameters.get(f"{kind}Identifier", ""))
        if action.startswith("Describe"):
            return {f"{kind}s": [self._described(resource, self._next_look(resource.arn))]}
        self._modify(resource, parameters)
        return {kind: self._described(resource, _Look(is_pending=True))}

    def _found(self, kind: str, name: str) -> Resource:
        for resource in self._resources.values():
            if resource.name == name and resource.is_cluster == (kind == "DBCluster"):
                return resource
        code = "DBClusterNotFoundFault" if kind == "DBCluster" else "DBInstanceNotFound"
        raise Refusal(code, f"{kind} {name} not found.", 404)

    def _next_look(self, arn: str) -> _Look:
        """Return what is shown now of a change, and let it go on."""
        change = self._changes.get(arn)
        if change is None:
            return _Look()
        if change.is_deferred:
            return _Look(is_pending=True)
        if change.looks:
            return change.looks.pop(0)
        self._bring_into_force(arn)
        return _Look()

    def _bring_into_force(self, arn: str) -> None:
        secret = self._changes.pop(arn).secret
        self._set_password(self._resources[arn].master, secret)

    def _modify(self, resource: Resource, parameters: dict[str, Any]) -> None:
        others = parameters.keys() - {
            *("DBInstanceIdentifier", "DBClusterIdentifier"),
            *("MasterUserPassword", "ApplyImmediately"),
        }
        if others:
            raise Refusal("InvalidParameterValue", f"the strict RDS does not change {min(others)}")
        secret = Sensitive(parameters["MasterUserPassword"])
        _require_own_password(resource)
        _require_usable(secret, resource)
        change = self._changes.get(resource.arn)
        # Asked for and not begun, it may be replaced; while it is carried out, nothing may.
        is_resetting = change is not None and RESETTING in {
            look.status for look in change.looks[:1]
        }
        if resource.status != AVAILABLE or is_resetting:
            kind = "InvalidDBClusterStateFault" if resource.is_cluster else "InvalidDBInstanceState"
            raise Refusal(kind, f"{resource.name} is not available.")
        # A cluster's password waits for the window unless it is to be applied immediately (found
        # by users of Terraform: issue 3220 of its AWS provider); an instance's never waits
        # (API_ModifyDBInstance).
        is_deferred = resource.is_cluster and not parameters.get("ApplyImmediately", False)
        self._changes[resource.arn] = _Change(secret, is_deferred, self._looks())

    def _is_resetting(self, arn: str) -> bool:
        change = self._changes.get(arn)
        return change is not None and any(look.status == RESETTING for look in change.looks[:1])

    def _looks(self) -> list[_Look]:
        ways = self._undocumented
        return [
            *[_Look()] * ways.hidden_for,
            *[_Look(is_pending=True)] * ways.pending_for,
            *[_Look(RESETTING, ways.keeps_pending)] * ways.resetting_for,
        ]

    def _described(self, resource: Resource, look: _Look) -> dict[str, Any]:
        pending = {"MasterUserPassword": "****"} if look.is_pending else {}
        status = look.status if look.status != AVAILABLE else resource.status
        kind = "DBCluster" if resource.is_cluster else "DBInstance"
        described: dict[str, Any] = {
            f"{kind}Identifier": resource.name,
            f"{kind}Arn": resource.arn,
            "Engine": resource.engine,
            "MasterUsername": resource.master,
            "PendingModifiedValues": pending,
        }
        if resource.is_cluster:
            described |= {"Status": status, "Endpoint": resource.host, "Port": resource.port}
        else:
            endpoint = {"Address": resource.host, "Port": resource.port}
            described |= {"DBInstanceStatus": status, "Endpoint": endpoint}
        return described | resource.shown


def _require_own_password(resource: Resource) -> None:
    for member in ("DBClusterIdentifier", "MasterUserSecret", *_SOURCES):
        if member in resource.shown and not (resource.is_cluster and member.startswith("DBC")):
            raise Refusal(
                "InvalidParameterCombination", f"{member}: the password is not {resource.name}'s."
            )


_SOURCES = ("ReadReplicaSourceDBInstanceIdentifier", "ReplicationSourceIdentifier")


def _require_usable(secret: Sensitive, resource: Resource) -> None:
    text = secret.reveal()
    longest = LONGEST_OF_CLUSTERS if resource.is_cluster else LONGEST.get(resource.engine, 41)
    # Only printable ASCII besides '/', '@', '"', ' ': as the service itself says when it refuses
    # (issue 100 of terraform-aws-modules/terraform-aws-rds-aurora).
    if not SHORTEST <= len(text) <= longest or not all("!" <= c <= "~" for c in text):
        raise Refusal("InvalidParameterValue", "MasterUserPassword is not a valid password.")
    if set(text) & set('/@"'):
        raise Refusal("InvalidParameterValue", "MasterUserPassword is not a valid password.")
