"""A service of Cloud Run: it is pinned to the number of a version, and its revisions are looked at.

Wherever its template names the secret, in a variable or in a volume, it gets the number of the new
version: in place of `latest` too, since nothing could tell which value that was resolved to. That
and the note of what it was told, an annotation, are one UpdateService, which holds only for the
etag that was seen. Cloud Run makes a new revision of it, and gives it the traffic once it is ready.

It follows when every revision that gets traffic, or has a tag, reads that number and no other. They
are asked one by one, since a revision never changes: a service is ready, too, when its traffic
stays with an old one, or when somebody has put the template back.

A number only grows. Who would pin to a lower one than is there comes late, and gives way.

What it never does: change the traffic or anything else of the service, or read a value.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import msgspec

from keyturn import followers
from keyturn.errors import Busy, Misconfigured
from keyturn.followers import ConsumerShape, Given, NonEmpty
from keyturn.kubernetes.marks import mark_of
from keyturn.model import RotationId, Version
from keyturn.ports import Consumer, Pickup, Sight

if TYPE_CHECKING:
    from keyturn.google.api import GoogleApi

PERMISSIONS = (
    "iam.serviceAccounts.actAs",
    "run.revisions.get",
    "run.services.get",
    "run.services.update",
)
"""On the service; `actAs` on the service account that it runs as, without which nobody may make a
revision of it. `run.services.update` may change all of a service: IAM cannot limit it."""

SERVICE = "run.googleapis.com"

LATEST = "latest"
"""What a reference without a version means (k8s.min.proto, SecretVolumeSource.items)."""

PREVIOUS = "previous"
"""The alias for what verifiers go on accepting: a reference to it is left as it is."""

_WHOLE = 100
"""Percent of the traffic."""


class CloudRunShape(ConsumerShape, frozen=True, kw_only=True):
    """A `cloud-run` of a plan."""

    service: Annotated[NonEmpty, msgspec.Meta(description="The service's name.")]
    location: Annotated[
        NonEmpty, msgspec.Meta(description="The region it is in, such as europe-west1.")
    ]
    project: (
        Annotated[
            NonEmpty,
            msgspec.Meta(description="The project it is in; else the secret's own."),
        ]
        | msgspec.UnsetType
    ) = msgspec.UNSET

    def place(self) -> tuple[str, ...]:
        """See `ConsumerShape.place`."""
        return (followers.given(self.project) or "", self.location, self.service)


SHAPES: Mapping[str, type[ConsumerShape]] = {"cloud-run": CloudRunShape}
FIXES = {
    "cloud-run": "Write a mapping: `cloud-run: {service: api, location: europe-west1}`.",
    "service": "Write the service's name, as text.",
    "location": "Write a region, such as europe-west1.",
    "project": "Write the project's number or id, or leave it out.",
    "verify": "Write `full` or `none`.",
}


def make(kind: str, settings: ConsumerShape, given: Given) -> Consumer:
    """See `ConsumerModule.make`.

    Raises:
        Misconfigured: The secret is none that Cloud Run can read.
    """
    del kind
    assert isinstance(settings, CloudRunShape)  # noqa: S101  # by SHAPES
    return CloudRun(
        given.clients(SERVICE, None) if _SECRET.fullmatch(given.ref) else None,
        service=settings.service,
        location=settings.location,
        project=followers.given(settings.project),
        ref=given.ref,
        number=given.number,
    )


_SECRET = re.compile(r"projects/(?P<project>[0-9]+)/secrets/(?P<id>[A-Za-z0-9_-]+)")
"""The full name of a secret. Cloud Run names none with a location (k8s.min.proto)."""

_LOST: Mapping[str, Any] = {}
_UPDATE_ANSWERS = {"ABORTED": _LOST, "FAILED_PRECONDITION": _LOST}
"""How a service says that an etag is another one (AIP-154, AIP-193). Cloud Run's own word for it is
not documented; whether it was the etag, the next look shows."""

_GONE: Mapping[str, Any] = {}
_REASON = re.compile(r"[A-Z_]{1,80}")


@dataclass(frozen=True, slots=True)
class _Seen:
    """The service, as it is described.

    Attributes:
        template: A copy of our own, in which every volume has items.
        told: What the annotation says.
    """

    service: Mapping[str, Any]
    template: dict[str, Any]
    told: str

    @property
    def mark(self) -> str:
        return str(self.service["etag"])

    @property
    def created(self) -> str:
        return _short(self.service.get("latestCreatedRevision", ""))

    @property
    def ready(self) -> str:
        return _short(self.service.get("latestReadyRevision", ""))


@dataclass(frozen=True, slots=True)
class _Reference:
    """Where a template or a revision names a secret; *place* is what has the `version`."""

    secret: str
    place: dict[str, Any]

    @property
    def version(self) -> str:
        return str(self.place.get("version") or LATEST)


class CloudRun:
    """A `Consumer`.

    Args:
        api: Of Cloud Run; None where the secret is none that it can read.
        service: The service's name.
        location: Its region.
        project: Its project's number or id; None for the secret's own.
        ref: The secret's full name.
        number: Returns the number of a version.

    Raises:
        Misconfigured: The secret is in another store, or a regional one.
    """

    def __init__(  # noqa: PLR0913  # all are named
        self,
        api: GoogleApi | None,
        *,
        service: str,
        location: str,
        project: str | None,
        ref: str,
        number: Callable[[RotationId], int],
    ) -> None:
        found = _SECRET.fullmatch(ref)
        if found is None or api is None:
            raise Misconfigured(
                f"cloud-run:{location}/{service} cannot be pinned to a version of {ref[:200]!a}",
                remedy="Cloud Run reads global secrets of Secret Manager; name one of those.",
            )
        self._api = api
        self._name = f"cloud-run:{location}/{service}"
        self._secret = found
        # A name without a project is of the service's own (k8s.min.proto, SecretKeySelector).
        self._is_at_home = project in {None, found["project"]}
        parts = ("projects", project or found["project"], "locations", location, "services")
        self._path = "/v2/" + "/".join(quote(each, safe="") for each in (*parts, service))
        self._number = number
        self._key = mark_of(ref)

    def name(self) -> str:
        """See `Consumer.name`."""
        return self._name

    def preflight(self) -> None:
        """See `Consumer.preflight`."""
        now = self._look()
        if doubt := self._doubt(now.template):
            raise Misconfigured(
                f"{self._name}: {doubt}",
                remedy="Write the project's number there, or only the id of a secret of its own"
                " project.",
            )
        if not self._versions(now.template):
            raise Misconfigured(
                f"{self._name} does not read {self._secret[0]}, in no variable and no volume",
                remedy="Correct the plan, or let the service read it. Leave `project` out if it is"
                " the secret's own.",
            )
        if old := _held_back(now.service):
            raise Misconfigured(
                f"{self._name}: {old}, and no new one gets that",
                remedy="Send the traffic to the latest revision: `gcloud run services"
                " update-traffic --to-latest`.",
            )

    def verify(self, version: Version) -> Sight:
        """See `Consumer.verify`."""
        now = self._look()
        if now.told != version.rotation_id:
            return Sight(Pickup.UNTOLD, now.mark)
        pickup, waits_for = self._progress(now, str(self._number(version.rotation_id)))
        return Sight(pickup, now.mark, waits_for)

    def trigger(self, version_id: RotationId, seen: Sight) -> None:
        """See `Consumer.trigger`. One conditional call; so it may be made again."""
        number = self._number(version_id)
        now = self._look()
        if now.told == version_id:
            return
        if now.mark != seen.mark:
            raise self._overtaken()
        pinned = [int(each) for each in self._versions(now.template) if each.isdecimal()]
        if (newest := max(pinned, default=0)) > number:
            raise Busy(
                f"{self._name} reads version {newest} already, and {number} is older",
                remedy="Nothing: it is looked at again. If it stays so, somebody has pinned it.",
            )
        if not self._update(version_id, str(number), now):
            again = self._look()
            if again.told == version_id:  # By an earlier try.
                return
            if again.mark != now.mark:
                raise self._overtaken()
            raise Misconfigured(
                f"{self._name} takes no update as it is",
                remedy="Deploy it by hand, and see what Cloud Run says.",
            )

    def _update(self, version_id: RotationId, number: str, now: _Seen) -> bool:
        """Pin it, and note that; False if that was refused."""
        for reference in self._ours(now.template):
            reference.place["version"] = number
        # The name of a revision is given once: with it, the new one would be refused.
        now.template.pop("revision", None)
        body = {
            "name": now.service["name"],
            "etag": now.mark,
            "annotations": {**now.service.get("annotations", {}), self._key: version_id},
            "template": now.template,
        }
        path = f"{self._path}?updateMask=annotations,template"
        said = self._api.ask(
            "UpdateService", self._name, "PATCH", path, body, answers=_UPDATE_ANSWERS
        )
        return said is not _LOST

    # ------------------------------------------------------------------------ look

    def _look(self) -> _Seen:
        service = self._api.ask(
            "GetService", self._name, "GET", self._path, answers={"NOT_FOUND": _GONE}
        )
        if service is _GONE or service.get("deleteTime"):
            raise Misconfigured(
                f"{self._name} is not there, or is being deleted",
                remedy="Correct the plan, or make the service.",
            )
        told = service.get("annotations", {}).get(self._key, "")
        return _Seen(service, _with_items(service["template"]), told)

    def _progress(self, now: _Seen, number: str) -> tuple[Pickup, str]:
        """Say how far it is, and what it waits for."""
        if failure := self._failure(now, number):
            return Pickup.FAILED, failure
        if not _is_steady(now):
            return Pickup.WAITING, f"revision {now.created} is not ready"
        statuses = now.service.get("trafficStatuses", [])
        if sum(each.get("percent", 0) for each in statuses) != _WHOLE:
            return Pickup.WAITING, "its traffic is not settled"
        served = {
            _short(each.get("revision", "")) or now.ready
            for each in statuses
            if each.get("percent", 0) or each.get("tag")
        }
        for revision in sorted({now.ready, *served}):
            if failure := self._old(revision, number, is_newest=revision == now.ready):
                return Pickup.FAILED, failure
        return Pickup.FOLLOWED, ""

    def _failure(self, now: _Seen, number: str) -> str:
        """Say why it will not follow by itself; "" if it may."""
        versions = self._versions(now.template)
        if versions != {number}:
            read = " and ".join(sorted(versions)) or "none"
            return f"its template was changed: it reads version {read}, not {number}"
        condition = now.service.get("terminalCondition", {})
        is_over = not now.service.get("reconciling", False)
        if is_over and condition.get("state") == "CONDITION_FAILED":
            reason = condition.get("revisionReason") or condition.get("reason") or ""
            told = f": {reason}" if _REASON.fullmatch(reason) else ""
            return f"revision {now.created} has failed{told}"
        return self._doubt(now.template)

    def _old(self, revision: str, number: str, *, is_newest: bool) -> str:
        """Say what a revision that is served reads instead; "" if it reads the right number."""
        path = f"{self._path}/revisions/{quote(revision, safe='')}"
        found = self._api.ask("GetRevision", self._name, "GET", path, answers={"NOT_FOUND": _GONE})
        if found is _GONE:
            return f"revision {revision} is served, and is not there"
        spec = _with_items(found)
        versions = self._versions(spec)
        # An older one that does not know the secret cannot be cut off.
        if versions == {number} or (not versions and not is_newest):
            return self._doubt(spec)
        read = " and ".join(sorted(versions)) or "none"
        return f"revision {revision} is served, and reads version {read}"

    # ------------------------------------------------------------------------ references

    def _versions(self, spec: Mapping[str, Any]) -> set[str]:
        return {reference.version for reference in self._ours(spec)}

    def _ours(self, spec: Mapping[str, Any]) -> Iterator[_Reference]:
        names = {self._secret[0], *([self._secret["id"]] if self._is_at_home else [])}
        found = (each for each in _references(spec) if each.secret in names)
        return (each for each in found if each.version != PREVIOUS)

    def _doubt(self, spec: Mapping[str, Any]) -> str:
        """Say which reference may be to our secret, and may not: no number tells."""
        for each in _references(spec):
            project, _, secret_id = each.secret.removeprefix("projects/").partition("/secrets/")
            if secret_id == self._secret["id"] and not project.isdecimal():
                return f"it names {each.secret} by the id of a project"
        return ""

    def _overtaken(self) -> Busy:
        return Busy(
            f"{self._name}: somebody else has told or deployed it since we looked",
            remedy="Nothing: it is looked at again.",
        )


def _references(spec: Mapping[str, Any]) -> Iterator[_Reference]:
    """Yield every reference to a secret in a template, or in a revision (both have the two)."""
    for container in spec.get("containers", []):
        for variable in container.get("env", []):
            if named := variable.get("valueSource", {}).get("secretKeyRef"):
                yield _Reference(named["secret"], named)
    for volume in spec.get("volumes", []):
        if named := volume.get("secret"):
            yield from (_Reference(named["secret"], item) for item in named["items"])


def _with_items(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy in which a volume without items says what that means: one file, the latest."""
    made: dict[str, Any] = copy.deepcopy(dict(spec))
    for volume in made.get("volumes", []):
        if (named := volume.get("secret")) and not named.get("items"):
            named["items"] = [{"path": _short(named["secret"]), "version": LATEST}]
    return made


def _is_steady(now: _Seen) -> bool:
    """Tell whether it was reconciled: only then what it says of its revisions is true."""
    service = now.service
    return (
        not service.get("reconciling", False)
        and service.get("terminalCondition", {}).get("state") == "CONDITION_SUCCEEDED"
        and service.get("generation") == service.get("observedGeneration")
        and now.created == now.ready != ""
    )


def _held_back(service: Mapping[str, Any]) -> str:
    """Say which revision keeps its traffic whatever is deployed; "" if none does."""
    for each in service.get("traffic", []):
        if each.get("percent", 0) and each.get("revision"):
            return f"{each['percent']} % of its traffic stays with revision {each['revision']}"
    return ""


def _short(name: str) -> str:
    """Return the last part of a name: revisions are named by it, or in full."""
    return name.rpartition("/")[2]
