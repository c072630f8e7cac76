"""A Cloud Run of our own, as far as services and their revisions go: its REST API, on loopback.

    with StrictCloudRun() as run:
        service = run.make_service("api", template)
        connect("run.googleapis.com", Surroundings(.., google_endpoint=run.endpoint))

    PATCH  ->  a new revision, if the template is another  ->  ready, or failed  ->  traffic

A revision becomes ready with `step` or `settle`, and gets the traffic of `latest`; with `fail` it
never does, and the traffic stays where it was (service.proto, `reconciling`). What Google leaves
open is `Undocumented`, to be tested both ways. It knows no IAM. Only tests use it.
"""

from __future__ import annotations

import contextlib
import copy
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from keyturn.testing.google_rest import Asked, refusal, served
from keyturn.testing.wire import NoReply

SERVICE = "run.googleapis.com"
PROJECT, LOCATION = "123456789", "europe-west1"
ROOT = f"/v2/projects/{PROJECT}/locations/{LOCATION}/services"

TO_LATEST = {"type": "TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST", "percent": 100}

_UPDATABLE = {"annotations", "labels", "template", "traffic"}
_SENT = _UPDATABLE | {"name", "etag"}
_RESERVED = ("run.googleapis.com", "cloud.googleapis.com", "knative.dev")
_KEY = re.compile(r"[a-z0-9.-]+/[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_VERSION = re.compile(r"[1-9][0-9]*|[A-Za-z][A-Za-z0-9_-]*")
_SECRET = re.compile(r"(projects/[a-z0-9-]+/secrets/)?[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Undocumented:
    """What Google does not say.

    Attributes:
        etag_code: With which code another etag is refused.
        names_latest: Whether the status of the traffic of `latest` names its revision.
        full_names: Whether revisions are named in full there.
    """

    etag_code: str = "ABORTED"
    names_latest: bool = True
    full_names: bool = False


@dataclass(slots=True)
class Service:
    """A service, and its revisions by name, oldest first; a revision is its template.

    Attributes:
        failed: Why the newest revision never became ready; "" if it may.
        writes: How often it was changed.
    """

    name: str
    template: dict[str, Any]
    revisions: dict[str, dict[str, Any]] = field(default_factory=dict)
    traffic: list[dict[str, Any]] = field(default_factory=lambda: [dict(TO_LATEST)])
    annotations: dict[str, str] = field(default_factory=dict)
    ready: str = ""
    served: list[dict[str, Any]] = field(default_factory=list)
    generation: int = 0
    observed: int = 0
    failed: str = ""
    is_deleted: bool = False
    writes: int = 0

    @property
    def created(self) -> str:
        """The newest revision."""
        return list(self.revisions)[-1]

    @property
    def is_reconciling(self) -> bool:
        """Whether it is under way to what it should be."""
        return not self.failed and self.observed != self.generation

    def runs(self) -> set[str]:
        """Return what versions of secrets the revisions read that get traffic."""
        names = {each["revision"] for each in self.served if each.get("percent", 0)}
        return {version for name in names for version in versions_in(self.revisions[name])}


def versions_in(template: Mapping[str, Any]) -> Iterator[str]:
    """Yield each version that a template reads; `latest` where it names none."""
    for container in template["containers"]:
        for variable in container.get("env", []):
            if "valueSource" in variable:
                yield variable["valueSource"]["secretKeyRef"].get("version") or "latest"
    for volume in template.get("volumes", []):
        for item in volume["secret"].get("items") or [{}] if "secret" in volume else []:
            yield item.get("version") or "latest"


class StrictCloudRun:
    """The service. Use it as a context manager.

    Attributes:
        calls: Every request that was answered: its method, and the end of its path.
        endpoint: Where it listens, for `Surroundings.google_endpoint`.
    """

    def __init__(self, undocumented: Undocumented | None = None) -> None:
        self.calls: list[str] = []
        self.endpoint = ""
        self.services: dict[str, Service] = {}
        self._undocumented = undocumented or Undocumented()
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

    # ------------------------------------------------------------------ what happens there

    def make_service(self, name: str, template: Mapping[str, Any]) -> Service:
        """Make one that is ready."""
        made = Service(name, {})
        self.services[name] = made
        self.deploy(made, template)
        self.settle(made)
        return made

    def deploy(self, service: Service, template: Mapping[str, Any]) -> None:
        """Change the template, as whoever deploys does; what it was told stays."""
        self._change(service, {"template": copy.deepcopy(dict(template))})

    def change_traffic(self, service: Service, *targets: Mapping[str, Any]) -> None:
        """Change where its traffic goes."""
        self._change(service, {"traffic": [dict(each) for each in targets]})

    def step(self, service: Service) -> None:
        """Let it go on: first the newest revision is ready, then it gets its traffic."""
        if service.failed or service.observed == service.generation:
            return
        if service.ready != service.created:
            service.ready = service.created
            return
        service.served = [
            {**each, "revision": each.get("revision") or service.ready} for each in service.traffic
        ]
        service.observed = service.generation

    def settle(self, service: Service) -> None:
        """Let it come to its end."""
        for _ in range(2):
            self.step(service)

    def fail(self, service: Service, reason: str = "HEALTH_CHECK_CONTAINER_ERROR") -> None:
        """Let the newest revision never become ready."""
        service.failed = reason

    def _change(self, service: Service, fields: Mapping[str, Any]) -> None:
        service.writes += 1
        service.generation += 1
        template = fields.get("template", service.template)
        is_new = template != service.template
        for name, value in fields.items():
            setattr(service, name, value)
        if is_new:
            name = template.get("revision") or f"{service.name}-{service.generation:05}-abc"
            service.revisions[name] = copy.deepcopy(template)
            service.failed = ""
        elif set(fields) <= {"annotations", "labels"} and not service.is_reconciling:
            service.observed = service.generation

    # ------------------------------------------------------------------ the API

    def answer(self, asked: Asked) -> dict[str, Any]:
        """Answer one call; see `google_rest.served`."""
        with self._lock:
            if self._is_down:
                raise NoReply
            self.calls.append(f"{asked.method} {asked.path.removeprefix(ROOT)}")
            answer = self._perform(asked)
            if self._lost and asked.method == "PATCH":
                self._lost -= 1
                raise NoReply
            return answer

    def _perform(self, asked: Asked) -> dict[str, Any]:
        found = re.fullmatch(rf"{ROOT}/([a-z0-9-]+)(?:/revisions/([a-z0-9-]+))?", asked.path)
        if asked.service != SERVICE or found is None or found[1] not in self.services:
            raise refusal("NOT_FOUND", "Requested entity was not found.")
        service = self.services[found[1]]
        if found[2]:
            return self._revision(service, found[2])
        match asked.method:
            case "GET":
                return self._shown(service)
            case "PATCH":
                return self._updated(service, asked)
        raise refusal("INVALID_ARGUMENT", f"the strict Cloud Run has no {asked.method} there")

    def _revision(self, service: Service, name: str) -> dict[str, Any]:
        if name not in service.revisions:
            raise refusal("NOT_FOUND", "Requested entity was not found.")
        template = copy.deepcopy(service.revisions[name])
        shown: dict[str, Any] = {
            key: template[key] for key in ("containers", "volumes") if key in template
        }
        return {"name": self._full(service, name), "service": service.name, **shown}

    def _shown(self, service: Service) -> dict[str, Any]:
        state = "CONDITION_FAILED" if service.failed else "CONDITION_SUCCEEDED"
        condition: dict[str, Any] = {"type": "Ready", "state": state}
        if service.is_reconciling:
            condition["state"] = "CONDITION_RECONCILING"
        if service.failed:
            condition |= {"revisionReason": service.failed, "message": "Canary7-said-by-google"}
        shown: dict[str, Any] = {
            "name": f"{ROOT.removeprefix('/v2/')}/{service.name}",
            "annotations": dict(service.annotations),
            "template": copy.deepcopy(service.template),
            "traffic": service.traffic,
            "trafficStatuses": [self._status(service, each) for each in service.served],
            "generation": str(service.generation),
            "observedGeneration": str(service.observed),
            "latestCreatedRevision": self._full(service, service.created),
            "latestReadyRevision": self._full(service, service.ready),
            "terminalCondition": condition,
            "etag": _etag(service),
            "uri": f"https://{service.name}-0000000000-ew.a.run.app",
        }
        if service.is_reconciling:  # What is false is left out (proto3, JSON mapping).
            shown["reconciling"] = True
        if service.is_deleted:
            shown["deleteTime"] = "2030-01-01T00:00:00Z"
        return {key: value for key, value in shown.items() if value not in ({}, [])}

    def _status(self, service: Service, target: Mapping[str, Any]) -> dict[str, Any]:
        shown = dict(target)
        if target.get("type") == TO_LATEST["type"] and not self._undocumented.names_latest:
            del shown["revision"]
        elif self._undocumented.full_names:
            shown["revision"] = self._full(service, shown["revision"])
        return shown

    def _full(self, service: Service, revision: str) -> str:
        return f"{ROOT.removeprefix('/v2/')}/{service.name}/revisions/{revision}"

    def _updated(self, service: Service, asked: Asked) -> dict[str, Any]:
        if service.is_deleted:
            raise refusal("NOT_FOUND", "Requested entity was not found.")
        mask = set(asked.query.get("updateMask", "").split(","))
        if asked.query.keys() - {"updateMask"} or not mask <= _UPDATABLE:
            raise refusal("INVALID_ARGUMENT", "the strict Cloud Run changes no such fields")
        sent = asked.members
        if sent.keys() - _SENT or not mask <= sent.keys():
            raise refusal("INVALID_ARGUMENT", "Invalid JSON payload received. Unknown name.")
        if sent.get("etag", _etag(service)) != _etag(service):
            raise refusal(self._undocumented.etag_code, "The etag is another one.")
        fields = {name: sent[name] for name in mask}
        for key in fields.get("annotations", {}):
            if any(word in key for word in _RESERVED) or not _KEY.fullmatch(key):
                raise refusal("INVALID_ARGUMENT", "That annotation is not supported.")
        if "template" in fields:
            _require_template(service, fields["template"])
        self._change(service, fields)
        return {"name": f"projects/{PROJECT}/locations/{LOCATION}/operations/1", "done": False}


def _etag(service: Service) -> str:
    return f'"{service.writes:08x}{service.observed:08x}{service.ready}{service.failed}"'


def _require_template(service: Service, template: Mapping[str, Any]) -> None:
    named = template.get("revision")
    if named in service.revisions and service.revisions[named] != template:
        raise refusal("ALREADY_EXISTS", "Revision named that exists with different settings.")
    variables = (each for made in template["containers"] for each in made.get("env", []))
    for variable in variables:
        _require_variable(variable)
    for volume in template.get("volumes", []):
        if "secret" in volume:
            _require_volume(volume["secret"])


def _require_variable(variable: Mapping[str, Any]) -> None:
    if ("value" in variable) == ("valueSource" in variable):
        raise refusal("INVALID_ARGUMENT", "A variable has a value or a source of it.")
    if "valueSource" in variable:
        _require_reference(variable["valueSource"]["secretKeyRef"], {"secret", "version"})


def _require_volume(source: Mapping[str, Any]) -> None:
    _require_reference({"secret": source["secret"]}, {"secret"})
    for item in source.get("items", []):
        # When items are defined, they must specify a path and a version.
        if not item.get("path") or not _VERSION.fullmatch(item.get("version", "")):
            raise refusal("INVALID_ARGUMENT", "An item has a path and a version.")


def _require_reference(reference: Mapping[str, Any], known: set[str]) -> None:
    is_known = reference.keys() <= known and _SECRET.fullmatch(reference.get("secret", ""))
    if not is_known or not _VERSION.fullmatch(reference.get("version", "latest")):
        raise refusal("INVALID_ARGUMENT", "That is no reference to a secret.")
