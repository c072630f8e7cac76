"""Amazon RDS and Aurora: the password of the master user, as the service itself sets it.

    arn:..:rds:REGION:ACCOUNT:db:NAME         ModifyDBInstance
    arn:..:rds:REGION:ACCOUNT:cluster:NAME    ModifyDBCluster: Aurora, Multi-AZ clusters

The request is answered at once and carried out later. Until it is in force, the description shows
a pending password, or the status *resetting-master-credentials*, or one after the other: that is
waited for, as long as there is time. IAM permits it, not the old password, which may be lost.

What it never does: change anything else, or take over a password that RDS keeps in a secret of its
own. Nothing at RDS stops a request that was stalled on its way and arrives late.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from keyturn.boundary import ask_aws
from keyturn.errors import Drifted, Misconfigured, NotYetAccepted, Unsupported
from keyturn.model import Credential, Sensitive, Surroundings

SERVICE = "rds"
PERMISSIONS = (
    "rds:DescribeDBClusters",
    "rds:DescribeDBInstances",
    "rds:ModifyDBCluster",
    "rds:ModifyDBInstance",
)
"""What the function's role needs: of an instance or a cluster, the half that is for it."""

FIRST_PAUSE_S, LONGEST_PAUSE_S, GROWTH = 1.0, 10.0, 1.5
"""Between two looks. A change takes some seconds to some minutes."""
MARGIN_S = 15.0
"""Left of the function's time for one more call, with all its time-outs, and for reporting."""

SHORTEST = 8
_LONGEST = {"mariadb": 41, "mysql": 41, "oracle": 30, "postgres": 128, "sqlserver": 128}
_LONGEST_OF_CLUSTERS = _LONGEST_OF_OTHERS = 41
"""Characters of a password (API_ModifyDBInstance, API_ModifyDBCluster: MasterUserPassword)."""
UNUSABLE = '/"@ '
"""What no password may have; the blank is in the service's error, not in its reference."""


class Client(Protocol):
    """What is used of a boto3 client, with time-outs."""

    def describe_db_instances(self, **parameters: object) -> Mapping[str, Any]:
        """DescribeDBInstances."""
        ...

    def describe_db_clusters(self, **parameters: object) -> Mapping[str, Any]:
        """DescribeDBClusters."""
        ...

    def modify_db_instance(self, **parameters: object) -> object:
        """ModifyDBInstance."""
        ...

    def modify_db_cluster(self, **parameters: object) -> object:
        """ModifyDBCluster."""
        ...


_RESOURCE = re.compile(r"arn:[a-z-]+:rds:[a-z0-9-]+:[0-9]{12}:(db|cluster):([a-z][a-z0-9-]{0,62})")


def authority(client: Client, arn: str, surroundings: Surroundings) -> Rds:
    """Build the authority; see `keyturn.authorities`.

    Raises:
        Misconfigured: *arn* is of something else.
    """
    return Rds(client, arn, surroundings.remaining_s)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a description says.

    Attributes:
        place: Host and port where the master user logs in, as one text.
        refusal: Why its password cannot be set, and what to do; None if it can.
    """

    arn: str
    place: str
    master_user: str
    longest: int
    is_changing: bool
    refusal: tuple[str, str] | None


class Rds:
    """An `Authority` over the master user of one instance or cluster.

    Args:
        client: A boto3 client for the region of *arn*.
        arn: Of the instance or the cluster.
        remaining_s: How long this call may still run.
        sleep: Waits so many seconds.
    """

    def __init__(
        self,
        client: Client,
        arn: str,
        remaining_s: Callable[[], float],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        resource = _RESOURCE.fullmatch(arn)
        if resource is None:
            raise Misconfigured(
                f"{arn[:200]!a} is the ARN of neither an instance nor a cluster",
                remedy="Name it in the plan's `authority`, such as arn:..:rds:..:cluster:orders.",
            )
        kind, self._name = resource.groups()
        self._is_cluster = kind == "cluster"
        self._client = client
        self._arn = arn
        self._remaining_s = remaining_s
        self._sleep = sleep

    def check(self, place: str, credential: Credential) -> None:
        """See `Authority.check`."""
        seen = self._look(place, credential.principal)
        _require_usable(credential.secret, self._arn, seen.longest)

    def settle(self, place: str, principal: str) -> None:
        """See `Authority.settle`."""
        for pause_s in _pauses():
            if not self._look(place, principal).is_changing:
                return
            self._rest(pause_s)

    def set_password(self, principal: str, secret: Sensitive) -> None:
        """See `Authority.set_password`."""
        del principal  # There is one; `settle` and `check` have compared it.
        if self._remaining_s() < MARGIN_S:
            raise self._out_of_time("no time is left to ask for a new password")
        self._ask(secret)
        for pause_s in _pauses():
            self._rest(pause_s)
            if not self._seen().is_changing:
                return

    def _look(self, place: str, principal: str) -> _Seen:
        seen = self._seen()
        if seen.refusal is not None:
            fact, remedy = seen.refusal
            raise Unsupported(f"{self._arn} {fact}", remedy=remedy)
        if seen.place.lower() != place.lower():
            raise Drifted(
                f"the secret is for {place}, {self._arn} is at {seen.place}",
                remedy="Make the secret's `host` and `port` those of the writer, or correct"
                " `authority` in the plan.",
            )
        if seen.master_user != principal:
            raise Drifted(
                f"the secret is for {principal!r}, the master user of {self._arn}"
                f" is {seen.master_user!r}",
                remedy="Remove `authority` from the plan: only the master user is set by it.",
            )
        return seen

    def _seen(self) -> _Seen:
        seen = self._cluster() if self._is_cluster else self._instance()
        if seen.arn != self._arn:
            raise Misconfigured(
                f"{self._arn} is not there: the function sees {seen.arn}",
                remedy="Run the function in the account that the plan's `authority` names.",
            )
        return seen

    def _instance(self) -> _Seen:
        answer = ask_aws(
            "DescribeDBInstances",
            self._arn,
            lambda: self._client.describe_db_instances(DBInstanceIdentifier=self._name),
        )
        return _seen_instance(answer["DBInstances"][0])

    def _cluster(self) -> _Seen:
        answer = ask_aws(
            "DescribeDBClusters",
            self._arn,
            lambda: self._client.describe_db_clusters(DBClusterIdentifier=self._name),
        )
        return _seen_cluster(answer["DBClusters"][0])

    def _ask(self, secret: Sensitive) -> None:
        # Without ApplyImmediately, a cluster waits for its maintenance window.
        if self._is_cluster:
            ask_aws(
                "ModifyDBCluster",
                self._arn,
                lambda: self._client.modify_db_cluster(
                    DBClusterIdentifier=self._name,
                    MasterUserPassword=secret.reveal(),
                    ApplyImmediately=True,
                ),
            )
        else:
            ask_aws(
                "ModifyDBInstance",
                self._arn,
                lambda: self._client.modify_db_instance(
                    DBInstanceIdentifier=self._name,
                    MasterUserPassword=secret.reveal(),
                    ApplyImmediately=True,
                ),
            )

    def _rest(self, pause_s: float) -> None:
        if self._remaining_s() - pause_s < MARGIN_S:
            raise self._out_of_time("a new password is not in force yet")
        self._sleep(pause_s)

    def _out_of_time(self, fact: str) -> NotYetAccepted:
        return NotYetAccepted(
            f"{self._arn}: {fact}", remedy="Run this step again: it goes on waiting."
        )


def _pauses() -> Iterator[float]:
    pause_s = FIRST_PAUSE_S
    while True:
        yield pause_s
        pause_s = min(pause_s * GROWTH, LONGEST_PAUSE_S)


# ---------------------------------------------------------------------------- descriptions

_CHANGING = "resetting-master-credentials"

_MANAGED = (
    "keeps its master user's password in a secret that RDS rotates",
    "Let RDS rotate it, or switch that off (ManageMasterUserPassword).",
)
_MEMBER = (
    "is a member of a cluster, which has the master user",
    "Name the cluster in the plan's `authority`.",
)
_REPLICA = (
    "is a replica: its users are those of its source",
    "Name the source in the plan's `authority`.",
)


def _seen_instance(found: Mapping[str, Any]) -> _Seen:
    refusal = None
    if found.get("DBClusterIdentifier"):
        refusal = _MEMBER
    elif found.get("ReadReplicaSourceDBInstanceIdentifier"):
        refusal = _REPLICA
    elif found.get("MasterUserSecret"):
        refusal = _MANAGED
    endpoint = found.get("Endpoint", {})  # none while it is being made
    family = str(found.get("Engine", "")).partition("-")[0]
    return _Seen(
        str(found.get("DBInstanceArn")),
        f"{endpoint.get('Address')}:{endpoint.get('Port')}",
        str(found.get("MasterUsername")),
        _LONGEST.get(family, _LONGEST_OF_OTHERS),
        _is_changing(found, "DBInstanceStatus"),
        refusal,
    )


def _seen_cluster(found: Mapping[str, Any]) -> _Seen:
    refusal = None
    if found.get("ReplicationSourceIdentifier"):
        refusal = _REPLICA
    elif found.get("MasterUserSecret"):
        refusal = _MANAGED
    return _Seen(
        str(found.get("DBClusterArn")),
        f"{found.get('Endpoint')}:{found.get('Port')}",
        str(found.get("MasterUsername")),
        _LONGEST_OF_CLUSTERS,
        _is_changing(found, "Status"),
        refusal,
    )


def _is_changing(found: Mapping[str, Any], status: str) -> bool:
    # Either may show it without the other: asked for and not begun; begun.
    pending = found.get("PendingModifiedValues", {})
    return "MasterUserPassword" in pending or found.get(status) == _CHANGING


def _require_usable(secret: Sensitive, arn: str, longest: int) -> None:
    text = secret.reveal()
    if not SHORTEST <= len(text) <= longest:
        raise Misconfigured(
            f"{arn} takes passwords of {SHORTEST} to {longest} characters, not {len(text)}",
            remedy=f"Set `length` under the plan's `password` within {SHORTEST} to {longest}.",
        )
    if not (text.isascii() and text.isprintable()) or set(text) & set(UNUSABLE):
        raise Misconfigured(
            f'{arn} takes printable ASCII in passwords, without a blank and / " @',
            remedy="Put the characters into `exclude` under the plan's `password`.",
        )
