"""A service of Amazon ECS: it is made to start its tasks anew, and its tasks are looked at.

A deployment has no field of ours, so what the service was told stands in a tag of it, one for each
secret. It is written twice:

    <version> after <time> <turn>    about to be told; no deployment was started after that time
    <version> by <id> <time>         told: that deployment was started for it, at that time

    look -> tag: about to -> look again -> UpdateService -> look again -> tag: told

Who dies before UpdateService is known by a service without a newer deployment: the next one tells
it. Who dies after it left a newer one, which is noted, and not started once more. Had somebody else
started it in between, it would do as well: its tasks were started when every copy had followed.

It follows when everything that runs was started later than the deployment that is noted: the tasks
are asked, one by one. A deployment's word, or the service's, is none: a circuit breaker that has
rolled back makes a service as steady as one that has followed, and `services_stable` succeeds.

ECS compares nothing: neither a tag nor UpdateService is conditional. The *turn* is drawn anew by
whoever is about to, and read again before the act, so of two who look at the same time all but the
last to write it give way. Who writes and reads while another one is between that and UpdateService
is not noticed: then it is deployed twice for one version, one after the other. That is harmless.

What it never does: change the service's settings, roll it back, or read a value.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Protocol

import msgspec

from keyturn import followers
from keyturn.boundary import ask_aws
from keyturn.errors import Busy, Misconfigured, Unreachable
from keyturn.followers import ConsumerShape, Given, NonEmpty
from keyturn.kubernetes.marks import mark_of
from keyturn.model import RotationId, Version
from keyturn.ports import Consumer, Pickup, Sight

PERMISSIONS = (
    "ecs:DescribeServices",
    "ecs:DescribeTaskDefinition",
    "ecs:DescribeTasks",
    "ecs:ListTasks",
    "ecs:TagResource",
    "ecs:UpdateService",
)
"""On the service, and on the tasks of its cluster. DescribeTaskDefinition cannot be limited to some
task definitions; ListTasks can be to a cluster, by the condition `ecs:cluster`. UpdateService may
change all of a service: IAM cannot limit it to new deployments."""

TASKS_PER_CALL = 100
"""Of DescribeTasks (API_DescribeTasks, tasks), and per page of ListTasks."""


class EcsShape(ConsumerShape, frozen=True, kw_only=True):
    """An `ecs-service` of a plan."""

    cluster: Annotated[NonEmpty, msgspec.Meta(description="The cluster's name or ARN.")]
    service: Annotated[NonEmpty, msgspec.Meta(description="The service's name.")]
    region: (
        Annotated[NonEmpty, msgspec.Meta(description="Where it is; else where the function runs.")]
        | msgspec.UnsetType
    ) = msgspec.UNSET

    def place(self) -> tuple[str, ...]:
        """See `ConsumerShape.place`."""
        return (followers.given(self.region) or "", self.cluster, self.service)


SHAPES: Mapping[str, type[ConsumerShape]] = {"ecs-service": EcsShape}
FIXES = {
    "ecs-service": "Write a mapping, such as `ecs-service: {cluster: prod, service: api}`.",
    "cluster": "Write the cluster's name, as text.",
    "service": "Write the service's name, as text.",
    "region": "Write a region, such as eu-west-1, or leave it out.",
    "verify": "Write `full` or `none`.",
}


def make(kind: str, settings: ConsumerShape, given: Given) -> Consumer:
    """See `ConsumerModule.make`."""
    del kind
    assert isinstance(settings, EcsShape)  # noqa: S101  # by SHAPES
    return EcsService(
        given.clients("ecs", followers.given(settings.region)),
        cluster=settings.cluster,
        service=settings.service,
        secret=given.secret,
    )


class Ecs(Protocol):
    """What is used of a boto3 client, with time-outs."""

    meta: Any
    """Its events: see `_require_first_try`."""

    def describe_services(self, **parameters: object) -> Mapping[str, Any]:
        """DescribeServices."""
        ...

    def describe_task_definition(self, **parameters: object) -> Mapping[str, Any]:
        """DescribeTaskDefinition."""
        ...

    def describe_tasks(self, **parameters: object) -> Mapping[str, Any]:
        """DescribeTasks."""
        ...

    def list_tasks(self, **parameters: object) -> Mapping[str, Any]:
        """ListTasks."""
        ...

    def tag_resource(self, **parameters: object) -> Mapping[str, Any]:
        """TagResource."""
        ...

    def update_service(self, **parameters: object) -> Mapping[str, Any]:
        """UpdateService."""
        ...


@dataclass(frozen=True, slots=True)
class _Deployment:
    id: str
    status: str
    state: str
    created_at: datetime


_NO_DEPLOYMENT = _Deployment("", "", "", datetime.min.replace(tzinfo=UTC))
"""Of a service that others deploy (API_Deployment); preflight says so."""


@dataclass(frozen=True, slots=True)
class _Note:
    """What the tag says.

    Attributes:
        deployment: Started for the version; "" if it was only about to be.
        since: When that was started; else when the newest was that was there before.
    """

    version_id: RotationId
    deployment: str
    since: datetime


@dataclass(frozen=True, slots=True)
class _Seen:
    """The service, as described."""

    service: Mapping[str, Any]
    tag: str
    note: _Note | None
    deployments: Sequence[_Deployment]

    @property
    def newest(self) -> _Deployment:
        return max(self.deployments, key=_created_at, default=_NO_DEPLOYMENT)

    @property
    def primary(self) -> _Deployment:
        return _primary(self.deployments)

    @property
    def is_steady(self) -> bool:
        # Not told of a service behind a Classic Load Balancer (API_Deployment, rolloutState).
        return self.primary.state in {"COMPLETED", ""} and self.deployments == [self.primary]

    @property
    def mark(self) -> str:
        return f"{self.tag} | {self.newest.id}"

    def started_after(self, note: _Note) -> _Deployment | None:
        """Return the first deployment that was started after *note* was written, if there is one.

        Not the first with another id: one that is rolled back makes an older one primary again.
        """
        later = [each for each in self.deployments if each.created_at > note.since]
        return min(later, key=_created_at, default=None)


_LIMIT: Mapping[str, Any] = {}
_TAG_ANSWERS = {"LimitExceededException": _LIMIT}


def _turn() -> str:
    return secrets.token_hex(8)


class EcsService:
    """A `Consumer`.

    Args:
        client: A boto3 client for the service's region.
        cluster: The cluster's name or ARN.
        service: The service's name.
        secret: The secret's name.
        turn: Draws what nobody else draws.
    """

    def __init__(
        self,
        client: Ecs,
        *,
        cluster: str,
        service: str,
        secret: str,
        turn: Callable[[], str] = _turn,
    ) -> None:
        self._client = client
        self._cluster = cluster
        self._service = service
        self._secret = secret
        self._turn = turn
        self._key = mark_of(secret)
        client.meta.events.register("before-send.ecs.UpdateService", _require_first_try)

    def name(self) -> str:
        """See `Consumer.name`."""
        return f"ecs-service:{self._cluster.rpartition('/')[2]}/{self._service}"

    def preflight(self) -> None:
        """See `Consumer.preflight`."""
        service = self._look().service
        controller = service.get("deploymentController", {}).get("type", "ECS")
        if controller != "ECS":
            raise Misconfigured(
                f"{self.name()} is deployed by {controller}, not by ECS itself",
                remedy="Use a webhook that starts a deployment there, or the controller ECS.",
            )
        # The old format, service/name, cannot be tagged (Developer Guide, ARNs and IDs).
        if service["serviceArn"].count("/") < _SLASHES_OF_AN_ARN:
            raise Misconfigured(
                f"{self.name()} has an ARN of the old format, which has no tags",
                remedy="Migrate the service to the new ARN format.",
            )
        if pin := self._pin(service["taskDefinition"]):
            raise Misconfigured(f"{self.name()}: {pin}", remedy=_UNPIN)

    def verify(self, version: Version) -> Sight:
        """See `Consumer.verify`."""
        now = self._look()
        note = now.note
        if note is None or note.version_id != version.rotation_id:
            return Sight(Pickup.UNTOLD, now.mark)
        if not note.deployment:
            return Sight(Pickup.UNTOLD, now.mark, "somebody was about to tell it")
        pickup, waits_for = self._progress(now, note)
        return Sight(pickup, now.mark, waits_for)

    def trigger(self, version_id: RotationId, seen: Sight) -> None:
        """See `Consumer.trigger`. It is looked at once more, right before each write."""
        now = self._look()
        if now.note and now.note.version_id == version_id and now.note.deployment:
            return
        if now.mark != seen.mark:
            raise self._overtaken()
        started = None
        if now.note and now.note.version_id == version_id:
            started = now.started_after(now.note)
        if started is None:
            now, started = self._deploy(version_id, now)
        # Last: it is what makes it look told.
        self._write(now, _told(version_id, started))

    def _deploy(self, version_id: RotationId, now: _Seen) -> tuple[_Seen, _Deployment]:
        """Start a deployment; return what was seen since, and the deployment."""
        intent = f"{version_id} after {now.newest.created_at.isoformat()} {self._turn()}"
        self._write(now, intent)
        again = self._look()
        # A look may be late (Developer Guide, eventual consistency), and show what was there.
        if again.tag not in {intent, now.tag} or again.newest.id != now.newest.id:
            raise self._overtaken()
        update = partial(
            self._client.update_service,
            cluster=self._cluster,
            service=self._service,
            forceNewDeployment=True,
        )
        started = _primary(_deployments(self._once(update)["service"]))
        after = self._look()
        if after.tag not in {intent, now.tag}:  # A newer version was told meanwhile: it counts.
            raise self._overtaken()
        return after, started

    def _once(self, update: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        try:
            return ask_aws("UpdateService", self.name(), update)
        except _SecondTry:
            failure = Unreachable(
                f"{self.name()}: UpdateService got no answer",
                remedy="Nothing: the next look finds out whether it was done.",
            )
        raise failure

    def _write(self, now: _Seen, text: str) -> None:
        tag = partial(
            self._client.tag_resource,
            resourceArn=now.service["serviceArn"],
            tags=[{"key": self._key, "value": text}],
        )
        if ask_aws("TagResource", self.name(), tag, _TAG_ANSWERS) is _LIMIT:
            raise Misconfigured(
                f"{self.name()} has as many tags as a service may have",
                remedy="Remove one: each secret that it follows needs a tag.",
            )

    # ------------------------------------------------------------------------ look

    def _look(self) -> _Seen:
        ask = partial(
            self._client.describe_services,
            cluster=self._cluster,
            services=[self._service],
            include=["TAGS"],
        )
        found = ask_aws("DescribeServices", self.name(), ask)["services"]
        if not found or found[0]["status"] != "ACTIVE":
            raise Misconfigured(
                f"{self.name()} is not there, or is being deleted",
                remedy="Correct the plan, or make the service.",
            )
        tags = {each["key"]: each.get("value", "") for each in found[0].get("tags", [])}
        tag = tags.get(self._key, "")
        return _Seen(found[0], tag, _note(tag), _deployments(found[0]))

    def _progress(self, now: _Seen, note: _Note) -> tuple[Pickup, str]:
        """Say how far it is, and what it waits for."""
        if failure := self._failure(now, note):
            return Pickup.FAILED, failure
        desired, running = now.service["desiredCount"], now.service["runningCount"]
        if not now.is_steady or running < desired:
            waits_for = f"deployment {now.primary.id}: {running} of {desired} tasks run"
            return Pickup.WAITING, waits_for
        started = list(self._started())
        if old := sum(1 for at in started if at < note.since):
            return Pickup.FAILED, f"{old} of its tasks are older than deployment {note.deployment}"
        if len(started) < desired:
            return Pickup.WAITING, f"{len(started)} of {desired} tasks are there"
        return Pickup.FOLLOWED, ""

    def _failure(self, now: _Seen, note: _Note) -> str:
        """Say why it will not follow by itself; "" if it may."""
        for each in now.deployments:
            if each.state == "FAILED" and each.id in {note.deployment, now.primary.id}:
                return f"deployment {each.id} has failed"
        if now.primary.created_at < note.since:
            return f"it was put back to deployment {now.primary.id}"
        return self._pin(now.service["taskDefinition"])

    def _started(self) -> Iterator[datetime]:
        """Yield when each task that is meant to run was made: it reads its secrets after that."""
        page: dict[str, str] = {}
        while True:
            tasks = partial(
                self._client.list_tasks,
                cluster=self._cluster,
                serviceName=self._service,
                maxResults=TASKS_PER_CALL,
                **page,
            )
            said = ask_aws("ListTasks", self.name(), tasks)
            if said["taskArns"]:
                ask = partial(
                    self._client.describe_tasks, cluster=self._cluster, tasks=said["taskArns"]
                )
                for task in ask_aws("DescribeTasks", self.name(), ask)["tasks"]:
                    yield task["createdAt"]
            if not said.get("nextToken"):
                return
            page = {"nextToken": said["nextToken"]}

    def _pin(self, task_definition: str) -> str:
        """Say which version of the secret a task definition pins; "" if it reads current."""
        ask = partial(self._client.describe_task_definition, taskDefinition=task_definition)
        found = ask_aws("DescribeTaskDefinition", self.name(), ask)["taskDefinition"]
        for container in found["containerDefinitions"]:
            options = container.get("logConfiguration", {}).get("secretOptions", [])
            for each in (*container.get("secrets", []), *options):
                if pinned := _pinned(str(each["valueFrom"]), self._secret):
                    where = f"{found['family']}:{found['revision']}, {container['name']}"
                    return f"its task definition {where}, reads {pinned} and no other"
        return ""

    def _overtaken(self) -> Busy:
        return Busy(
            f"{self.name()}: somebody else has told or deployed it since we looked",
            remedy="Nothing: it is looked at again.",
        )


_SLASHES_OF_AN_ARN = 2
"""arn:aws:ecs:region:account:service/cluster/name."""

_UNPIN = "Leave stage and version out of `valueFrom`, then deploy the task definition."

_NAME, _STAGE, _VERSION = 6, 8, 9


def _pinned(value_from: str, secret: str) -> str:
    """Return what a reference to *secret* pins; "" if nothing, or if it is to something else.

    arn:aws:secretsmanager:region:account:secret:name:json-key:version-stage:version-id, whose last
    three may be empty (Developer Guide, "Pass Secrets Manager secrets through environment
    variables"). The name has a hyphen and six characters more.
    """
    parts = value_from.split(":") + [""] * (_VERSION + 1)
    named = re.fullmatch(rf"{re.escape(secret)}(-[A-Za-z0-9]{{6}})?", parts[_NAME])
    if parts[2] != "secretsmanager" or named is None:
        return ""
    if parts[_VERSION]:
        return f"version {parts[_VERSION]}"
    return f"stage {parts[_STAGE]}" if parts[_STAGE] not in {"", "AWSCURRENT"} else ""


_NOTED = re.compile(
    r"(?P<version>\S+) (?:after (?P<before>\S+) [0-9a-f]+|by (?P<deployment>\S+) (?P<at>\S+))"
)


def _told(version_id: RotationId, started: _Deployment) -> str:
    return f"{version_id} by {started.id} {started.created_at.isoformat()}"


def _note(tag: str) -> _Note | None:
    """Read a tag. One that is none of ours says nothing."""
    found = _NOTED.fullmatch(tag)
    if found is None:
        return None
    try:
        since = datetime.fromisoformat(found["before"] or found["at"])
    except ValueError:
        return None
    if since.utcoffset() is None:
        return None
    return _Note(RotationId(found["version"]), found["deployment"] or "", since)


def _deployments(service: Mapping[str, Any]) -> list[_Deployment]:
    """Return those that still have tasks, or will have some."""
    return [
        _Deployment(
            each["id"],
            each["status"],
            each.get("rolloutState", ""),
            each["createdAt"].astimezone(UTC),
        )
        for each in service.get("deployments", [])
        if each["status"] != "INACTIVE"
    ]


def _primary(deployments: Sequence[_Deployment]) -> _Deployment:
    found = (each for each in deployments if each.status == "PRIMARY")
    return next(found, _NO_DEPLOYMENT)


def _created_at(deployment: _Deployment) -> datetime:
    return deployment.created_at


class _SecondTry(Exception):
    """The SDK would repeat a call."""


def _require_first_try(request: Any, **_: object) -> None:
    """Let UpdateService leave once: an SDK repeats it after a lost reply, and deploys twice."""
    header = request.headers.get("amz-sdk-request", b"")
    text = header.decode() if isinstance(header, bytes) else str(header)
    if "attempt=" in text and "attempt=1;" not in f"{text};":
        raise _SecondTry
