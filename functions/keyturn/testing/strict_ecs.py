"""An Elastic Container Service of our own, as far as services and what they run go.

    with StrictEcs(world.clock.now) as ecs:
        shop = ecs.make_service("prod", "api", desired=2)
        boto3.client("ecs", **ecs.settings())
        ecs.step(shop)

Real SDKs talk to it. A deployment goes on when it is stepped: tasks of its own are started, then
those of older ones are stopped, then it has completed. A task reads its secrets when it is started,
so each has what was served then; the test says what is served. As the service it is strict about
tags and parameters, and as the service it compares nothing: whoever updates starts a deployment.

What a circuit breaker does is not documented to the end. Here it fails the newest deployment, stops
its tasks, and makes the last one that had completed primary again: the same one, or, if it is told
so, one of another id that takes its tasks over. It enforces no policy. Only tests use it.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from keyturn.testing.json_wire import JsonWire
from keyturn.testing.wire import NoReply, Refusal, Request, served

REGION = "eu-west-1"
ACCOUNT = "123456789012"
MOST_TAGS = 50
"""Of a resource (API_Tag)."""

_TAG = re.compile(r"[\w \u00a0.:/=+@-]*")
_TAG_KEY_MAX, _TAG_VALUE_MAX = 128, 256
_PER_CALL = 100


@dataclass(slots=True)
class Task:
    """A task that is meant to run."""

    arn: str
    deployment: str
    runs: str
    created_at: datetime


@dataclass(slots=True)
class Deployment:
    """A deployment of a service."""

    id: str
    created_at: datetime
    task_definition: str
    status: str = "PRIMARY"
    state: str = "IN_PROGRESS"
    was_completed: bool = False


@dataclass(slots=True)
class Service:
    """A service, its newest deployment first.

    Attributes:
        tells_state: Whether its deployments have a `rolloutState`.
        forced: How often a deployment was forced by UpdateService.
    """

    cluster: str
    name: str
    arn: str
    desired: int
    task_definition: str
    controller: str = "ECS"
    status: str = "ACTIVE"
    tells_state: bool = True
    tags: dict[str, str] = field(default_factory=dict)
    deployments: list[Deployment] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)
    forced: int = 0

    @property
    def primary(self) -> Deployment:
        """Return the deployment that is primary."""
        return next(each for each in self.deployments if each.status == "PRIMARY")

    def runs(self) -> set[str]:
        """Return which versions its tasks run with."""
        return {task.runs for task in self.tasks}


@dataclass(slots=True)
class StrictEcs:
    """The service. A context manager.

    Attributes:
        now: The time. No two calls of it return the same.
        serves: The version that a task gets which is started now.
        per_page: How many tasks ListTasks returns at once.
        calls: The action of every request that was not refused, in order.
        task_definitions: The references to secrets of each, by its ARN.
    """

    now: Callable[[], datetime]
    serves: str = "v0"
    per_page: int = _PER_CALL
    calls: list[str] = field(default_factory=list)
    services: dict[tuple[str, str], Service] = field(default_factory=dict)
    task_definitions: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
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

    # ------------------------------------------------------------------------ what happens there

    def make_service(self, cluster: str, name: str, *, desired: int = 2) -> Service:
        """Make one that is steady."""
        task_definition = self.register()
        arn = _arn(f"service/{cluster}/{name}")
        service = Service(cluster, name, arn, desired, task_definition)
        self.services[cluster, name] = service
        self.deploy(service)
        self.settle(service)
        return service

    def register(self, *references: str, family: str = "api") -> str:
        """Register a task definition whose container has these references to secrets."""
        arn = _arn(f"task-definition/{family}:{len(self.task_definitions) + 1}")
        self.task_definitions[arn] = references
        return arn

    def deploy(self, service: Service, task_definition: str = "") -> Deployment:
        """Start a deployment, as whoever updates the service does."""
        for each in service.deployments:
            each.status = "ACTIVE"
        service.task_definition = task_definition or service.task_definition
        started = Deployment(self._deployment_id(), self.now(), service.task_definition)
        service.deployments.insert(0, started)
        return started

    def step(self, service: Service) -> None:
        """Let a deployment go on: start tasks; then stop the older ones; then complete."""
        primary = service.primary
        own = [task for task in service.tasks if task.deployment == primary.id]
        if len(own) < service.desired:
            missing = service.desired - len(own)
            service.tasks += [self._task(service, primary) for _ in range(missing)]
            return
        service.tasks = own[: service.desired]
        if service.deployments != [primary]:
            service.deployments = [primary]
            return
        primary.state, primary.was_completed = "COMPLETED", True

    def settle(self, service: Service) -> None:
        """Let a deployment come to its end."""
        for _ in range(3):
            self.step(service)

    def fail(self, service: Service, *, takes_over: bool = False) -> None:
        """Let the circuit breaker stop the newest deployment, and go back to the one before."""
        failed = service.primary
        failed.state, failed.status = "FAILED", "ACTIVE"
        service.tasks = [task for task in service.tasks if task.deployment != failed.id]
        before = next(each for each in service.deployments if each.was_completed)
        if takes_over:
            self._take_over(service, before)
        before.status = "INACTIVE" if takes_over else "PRIMARY"

    def forget_failed(self, service: Service) -> None:
        """Let what has failed, or was replaced, disappear from the service."""
        service.deployments = [service.primary]

    def _take_over(self, service: Service, before: Deployment) -> None:
        again = Deployment(
            self._deployment_id(),
            self.now(),
            before.task_definition,
            state="COMPLETED",
            was_completed=True,
        )
        for task in service.tasks:
            task.deployment = again.id
        service.deployments.insert(0, again)

    def _deployment_id(self) -> str:
        return f"ecs-svc/{next(self._numbers):019}"

    def _task(self, service: Service, deployment: Deployment) -> Task:
        arn = _arn(f"task/{service.cluster}/{next(self._numbers):032x}")
        pinned = [
            reference.split(":")[9]
            for reference in self.task_definitions[deployment.task_definition]
            if reference.count(":") == _COLONS_OF_A_PIN
        ]
        return Task(arn, deployment.id, "".join(pinned) or self.serves, self.now())

    # ------------------------------------------------------------------------ the API

    def _answer(self, request: Request) -> dict[str, Any]:
        actions: dict[str, tuple[set[str], Callable[[dict[str, Any]], dict[str, Any]]]] = {
            "DescribeServices": ({"cluster", "services", "include"}, self._described),
            "DescribeTaskDefinition": ({"taskDefinition"}, self._defined),
            "DescribeTasks": ({"cluster", "tasks"}, self._tasks_described),
            "ListTasks": ({"cluster", "serviceName", "maxResults", "nextToken"}, self._listed),
            "TagResource": ({"resourceArn", "tags"}, self._tagged),
            "UpdateService": ({"cluster", "service", "forceNewDeployment"}, self._updated),
        }
        with self._lock:
            if self._is_down:
                raise NoReply
            if request.action not in actions:
                raise Refusal("UnknownOperationException", "the strict ECS has no such action")
            known, act = actions[request.action]
            if not set(request.parameters) <= known:
                raise Refusal("InvalidParameterException", "the strict ECS does not know that")
            answer = act(request.parameters)
            self.calls.append(request.action)
            if self._lost == request.action:
                self._lost = ""
                raise NoReply
            return answer

    def _described(self, asked: dict[str, Any]) -> dict[str, Any]:
        self._require_cluster(asked)
        found, failures = [], []
        for name in asked["services"]:
            service = self.services.get((asked["cluster"], name))
            if service is None:
                missing = _arn(f"service/{asked['cluster']}/{name}")
                failures.append({"arn": missing, "reason": "MISSING"})
            else:
                found.append(_shown(service, has_tags="TAGS" in asked.get("include", [])))
        return {"services": found, "failures": failures}

    def _defined(self, asked: dict[str, Any]) -> dict[str, Any]:
        references = self.task_definitions.get(asked["taskDefinition"])
        if references is None:
            raise Refusal("ClientException", "Unable to describe task definition.")
        family, _, revision = asked["taskDefinition"].rpartition("/")[2].partition(":")
        named = [{"name": f"S{n}", "valueFrom": each} for n, each in enumerate(references)]
        container = {"name": "web", "image": "web:1", "secrets": named}
        definition = {
            "taskDefinitionArn": asked["taskDefinition"],
            "family": family,
            "revision": int(revision),
            "containerDefinitions": [container],
        }
        return {"taskDefinition": definition}

    def _listed(self, asked: dict[str, Any]) -> dict[str, Any]:
        tasks = [task.arn for task in self._service(asked, "serviceName").tasks]
        at, many = int(asked.get("nextToken", 0)), min(asked["maxResults"], self.per_page)
        more = {"nextToken": str(at + many)} if at + many < len(tasks) else {}
        return {"taskArns": tasks[at : at + many], **more}

    def _tasks_described(self, asked: dict[str, Any]) -> dict[str, Any]:
        if not 1 <= len(asked["tasks"]) <= _PER_CALL:
            raise Refusal("InvalidParameterException", "That is no task, or too many.")
        all_of_them = [task for service in self.services.values() for task in service.tasks]
        shown = [
            {
                "taskArn": task.arn,
                "startedBy": task.deployment,
                "createdAt": task.created_at.timestamp(),
                "desiredStatus": "RUNNING",
                "lastStatus": "RUNNING",
            }
            for task in all_of_them
            if task.arn in asked["tasks"]
        ]
        return {"tasks": shown, "failures": []}

    def _tagged(self, asked: dict[str, Any]) -> dict[str, Any]:
        service = next(
            (each for each in self.services.values() if each.arn == asked["resourceArn"]), None
        )
        if service is None or service.arn.count("/") < 2:  # noqa: PLR2004  # the new format
            raise Refusal("InvalidParameterException", "The ARN is none that can be tagged.")
        tags = {each["key"]: each.get("value", "") for each in asked["tags"]}
        for key, value in tags.items():
            is_taken = 1 <= len(key) <= _TAG_KEY_MAX and len(value) <= _TAG_VALUE_MAX
            if not is_taken or not _TAG.fullmatch(key) or not _TAG.fullmatch(value):
                raise Refusal("InvalidParameterException", "That is no tag.")
            if key.lower().startswith("aws:"):
                raise Refusal("InvalidParameterException", "That prefix is reserved.")
        if len({**service.tags, **tags}) > MOST_TAGS:
            raise Refusal("LimitExceededException", f"A resource has {MOST_TAGS} tags.")
        service.tags |= tags
        return {}

    def _updated(self, asked: dict[str, Any]) -> dict[str, Any]:
        service = self._service(asked, "service")
        if service.status != "ACTIVE":
            raise Refusal("ServiceNotActiveException", "The service is not active.")
        if service.controller != "ECS":
            raise Refusal("InvalidParameterException", "Not with this deployment controller.")
        if asked.get("forceNewDeployment", False):
            service.forced += 1
            self.deploy(service)
        return {"service": _shown(service, has_tags=False)}

    def _service(self, asked: dict[str, Any], key: str) -> Service:
        self._require_cluster(asked)
        service = self.services.get((asked["cluster"], asked[key]))
        if service is None:
            raise Refusal("ServiceNotFoundException", "Service not found.")
        return service

    def _require_cluster(self, asked: dict[str, Any]) -> None:
        if asked["cluster"] not in {cluster for cluster, _ in self.services}:
            raise Refusal("ClusterNotFoundException", "Cluster not found.")


_COLONS_OF_A_PIN = 9


def _arn(rest: str) -> str:
    return f"arn:aws:ecs:{REGION}:{ACCOUNT}:{rest}"


def _shown(service: Service, *, has_tags: bool) -> dict[str, Any]:
    tags = [{"key": key, "value": value} for key, value in service.tags.items()]
    is_ours = service.controller == "ECS"
    return {
        "serviceArn": service.arn,
        "serviceName": service.name,
        "clusterArn": _arn(f"cluster/{service.cluster}"),
        "status": service.status,
        "desiredCount": service.desired,
        "runningCount": len(service.tasks),
        "pendingCount": 0,
        "taskDefinition": service.task_definition,
        "deploymentController": {"type": service.controller},
        "deployments": [_of(service, each) for each in service.deployments] if is_ours else [],
        **({"tags": tags} if has_tags else {}),
    }


def _of(service: Service, deployment: Deployment) -> dict[str, Any]:
    running = sum(1 for task in service.tasks if task.deployment == deployment.id)
    return {
        "id": deployment.id,
        "status": deployment.status,
        "taskDefinition": deployment.task_definition,
        "desiredCount": service.desired,
        "runningCount": running,
        "pendingCount": 0,
        "failedTasks": 0,
        "createdAt": deployment.created_at.timestamp(),
        **({"rolloutState": deployment.state} if service.tells_state else {}),
    }
