"""An ExternalSecret: External Secrets copies the value from the store into a Kubernetes Secret.

    tell     a merge patch of two annotations, conditional on the `resourceVersion` that was seen:
             `force-sync`, of which every change makes it look, and the secret's own mark
    look     the Secret that it writes, compared with the version, key by key

Its status is no proof: `Ready` may speak of an earlier look, and a function that died after its
patch finds its own mark beside the old value. Status is quoted as a reason to wait, never believed.

With `verify: none` it is told, and its Secret is not read. Its word counts for nothing then.

What the Secret is to hold follows from the spec, as far as it only says which member goes where.
A template, a rewritten key or a decoded value makes something of it that we do not compute: then
the plan says under `content` what the Secret holds, or this refuses. A spec that can never follow
(a policy against it, a pinned version) is refused before it is told.

Rules: external-secrets 2.9, its CRD and externalsecret_controller*.go, providers' AWS part.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from keyturn.consumers import contents
from keyturn.consumers.contents import SECRETS, Content
from keyturn.errors import Busy, Misconfigured, Unsupported
from keyturn.followers import ConsumerShape, Given, Name, Namespace, given
from keyturn.kubernetes.api import Kubernetes, Object, Patch, Resource
from keyturn.kubernetes.cluster import ClusterShape
from keyturn.kubernetes.marks import annotations_of, mark_of
from keyturn.model import RotationId, Sensitive, Version
from keyturn.ports import Consumer, Pickup, Sight

PERMISSIONS = (
    "get externalsecrets.external-secrets.io",
    "patch externalsecrets.external-secrets.io",
    "get secrets",
)
"""RBAC's verbs on the two objects, by their names."""

FORCE_SYNC = "force-sync"
"""What its FAQ calls the annotation to change; any would do."""

_GROUP, _PLURAL = "external-secrets.io", "externalsecrets"
_SERVED = tuple(Resource(_GROUP, version, _PLURAL) for version in ("v1", "v1beta1"))
"""Newest first. 2.9 serves v1 only; before 0.16 there was none."""

_FOLLOWING = frozenset({"", "AWSCURRENT", "latest"})
"""What `remoteRef.version` may say of a reference that is to follow."""

_PLAIN = re.compile(r"[A-Za-z0-9_.-]+")
"""A `property` without what gjson takes for a path or a query. A dot is a part of the name, where a
member has that name."""


class ExternalSecretShape(ConsumerShape, frozen=True, kw_only=True):
    """An ExternalSecret: External Secrets copies the value into a Kubernetes Secret."""

    IS_COPY = True

    namespace: Annotated[Namespace, msgspec.Meta(description="Its namespace.")]
    name: Annotated[Name, msgspec.Meta(description="The ExternalSecret's name.")]
    cluster: (
        Annotated[ClusterShape, msgspec.Meta(description="Its cluster, if not the plan's.")]
        | msgspec.UnsetType
    ) = msgspec.UNSET
    content: (
        Annotated[
            Content,
            msgspec.Meta(
                min_length=1,
                description="What its Secret holds, where its spec has a template: key -> form.",
            ),
        ]
        | msgspec.UnsetType
    ) = msgspec.UNSET

    def place(self) -> tuple[str, ...]:
        """See `ConsumerShape.place`."""
        return (repr(self.cluster), self.namespace, self.name)


SHAPES: Mapping[str, type[ConsumerShape]] = {"external-secret": ExternalSecretShape}

FIXES: Mapping[str, str] = {
    "namespace": "Write the namespace that it is in.",
    "name": "Write the name of the object.",
    **contents.FIXES,
}


def make(kind: str, settings: ConsumerShape, given: Given) -> Consumer:
    """See `keyturn.followers`."""
    del kind
    assert isinstance(settings, ExternalSecretShape)  # noqa: S101  # by its kind
    return ExternalSecret(settings, given)


class ExternalSecret:
    """A `Consumer`: the copy that External Secrets keeps."""

    def __init__(self, settings: ExternalSecretShape, given_: Given) -> None:
        own = given(settings.cluster)
        self._kubernetes: Kubernetes = given_.cluster(own)
        self._given = given_
        self._at = (settings.namespace, settings.name)
        self._content: Content | None = given(settings.content)
        self._is_looked_at = settings.verify == "full"
        where = f" in {self._kubernetes.name}" if own else ""
        self._name = f"external-secret {settings.namespace}/{settings.name}{where}"
        self._resources = _SERVED

    def name(self) -> str:
        """See `Consumer.name`."""
        return self._name

    def preflight(self) -> None:
        """See `Consumer.preflight`."""
        found = self._get()
        for reason in obstacles(found["spec"], self._given.secret):
            raise Misconfigured(
                f"{self._name} cannot follow: {reason}",
                remedy="Correct its spec, or remove it from the plan.",
            )
        if not self._is_looked_at:
            return
        if self._content is None:
            wanted(found["spec"], self._given.secret, self._name)
        self._kubernetes.get(SECRETS, self._at[0], target_of(found))  # May we?

    def verify(self, version: Version) -> Sight:
        """See `Consumer.verify`. Not looked at, it has done its part once it was told."""
        found = self._get()
        mark, is_told = (
            found["metadata"]["resourceVersion"],
            self._is_told(found, version.rotation_id),
        )
        if not self._is_looked_at:
            return Sight(Pickup.FOLLOWED if is_told else Pickup.UNTOLD, mark)
        expected = self._expected(found["spec"], version)
        target = target_of(found)
        held = self._kubernetes.get(SECRETS, self._at[0], target)
        lacks = contents.lack(held, f"{self._at[0]}/{target}", expected)
        if not lacks:
            return Sight(Pickup.FOLLOWED, mark)
        if not is_told:
            return Sight(Pickup.UNTOLD, mark, lacks)
        for reason in obstacles(found["spec"], self._given.secret):
            return Sight(Pickup.FAILED, mark, f"{lacks}: {reason}")
        return Sight(Pickup.WAITING, mark, f"{lacks}{_says(found)}")

    def trigger(self, version_id: RotationId, seen: Sight) -> None:
        """See `Consumer.trigger`."""
        if len(self._resources) > 1:
            self._get()  # finds out in which version it is served
        annotations = {FORCE_SYNC: version_id, mark_of(self._given.secret): version_id}
        change = {"metadata": {"resourceVersion": seen.mark, "annotations": annotations}}
        try:
            told = self._kubernetes.patch(self._resources[0], *self._at, change, Patch.MERGE)
        except Busy:
            # The client tries again by itself: what was there first may be our own.
            if not self._is_told(self._get(), version_id):
                raise
            return
        if told is None:
            raise self._absent()

    def _is_told(self, found: Object, version_id: RotationId) -> bool:
        return annotations_of(found["metadata"]).get(mark_of(self._given.secret)) == version_id

    def _expected(self, spec: Object, version: Version) -> Mapping[str, Sensitive]:
        if self._content is not None:
            return contents.of_renderings(self._content, version, self._given, self._name)
        found = wanted(spec, self._given.secret, self._name)
        keys = dict(found.keys)
        if found.is_every_member:
            every = contents.of_every_member(version, self._given, self._name)
            keys = {**{k: v for k, v in every.items() if k not in found.foreign}, **keys}
        return contents.of_members(keys, version, self._given, self._name)

    def _get(self) -> Object:
        for resource in self._resources:
            try:
                found = self._kubernetes.get(resource, *self._at)
            except Unsupported:
                if resource is self._resources[-1]:
                    raise
                continue
            self._resources = (resource,)
            if found is not None:
                return found
        raise self._absent()

    def _absent(self) -> Misconfigured:
        return Misconfigured(
            f"{self._name}: there is no such ExternalSecret",
            remedy="Correct the namespace and the name in the plan.",
        )


# ---------------------------------------------------------------------------- what a spec says


def target_of(found: Object) -> str:
    """Return the name of the Secret that it writes."""
    bound = ((found.get("status") or {}).get("binding") or {}).get("name")
    declared = (found["spec"].get("target") or {}).get("name")
    return str(bound or declared or found["metadata"]["name"])


def _says(found: Object) -> str:
    """Quote its status, as a reason: a fixed word, never its message, which may quote a value."""
    for condition in (found.get("status") or {}).get("conditions") or ():
        reason = condition.get("reason") or ""
        if condition.get("type") == "Ready" and re.fullmatch("[A-Za-z]{1,60}", reason):
            return f"; its status says {reason}"
    return ""


def obstacles(spec: Object, secret: str) -> Iterator[str]:
    """Yield why it would not follow, however often it is told."""
    target = spec.get("target") or {}
    policy = spec.get("refreshPolicy") or "Periodic"
    if policy == "CreatedOnce":
        yield "its refreshPolicy is CreatedOnce"
    # Not even a changed annotation makes it look then (shouldRefreshPeriodic).
    if policy == "Periodic" and _is_no_time(str(spec.get("refreshInterval", "1h"))):
        yield "its refreshInterval is 0"
    if target.get("creationPolicy") == "None":
        yield "its creationPolicy is None: it writes no Secret"
    if target.get("manifest"):
        yield "its target is no Secret"
    if target.get("immutable"):
        yield "its Secret is immutable"
    for ref in _refs(spec):
        if _is_of(ref, secret) and (ref.get("version") or "") not in _FOLLOWING:
            yield "it asks for one fixed version"


def _is_no_time(duration: str) -> bool:
    """Tell whether a duration of Go's is zero or less: "0", "0s", "0h0m", "-1m"."""
    return duration.startswith("-") or not re.search("[1-9]", duration)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which keys of the Secret come from which members of our secret.

    Attributes:
        keys: The member by key; "" is the whole value.
        is_every_member: Each member is under its own name, too,
        foreign: except for these keys, which come from elsewhere.
    """

    keys: Mapping[str, str]
    is_every_member: bool = False
    foreign: frozenset[str] = frozenset()


def wanted(spec: Object, secret: str, where: str) -> Wanted:
    """Return what a spec says of the secret of that name.

    Raises:
        Misconfigured: It makes something of the value that cannot be told from here, or it does
            not name the secret.
    """
    for fact in _unknown(spec, secret):
        raise Misconfigured(
            f"{where}: {fact}, so what its Secret holds cannot be told from its spec",
            remedy="Declare under `content` what the keys of its Secret hold.",
        )
    keys: dict[str, str] = {}
    foreign: set[str] = set()
    for entry in spec.get("data") or ():  # In order, and after dataFrom: the last one wins.
        key, ref = entry["secretKey"], _ref_of(entry)
        if _is_of(ref, secret):
            keys[key] = ref.get("property") or ""
            foreign.discard(key)
        else:
            keys.pop(key, None)
            foreign.add(key)
    is_every_member = any(_is_of(ref, secret) for ref in _extracts(spec))
    if not keys and not is_every_member:
        raise Misconfigured(
            f"{where}: its spec does not name {secret}",
            remedy="Declare under `content` what the keys of its Secret hold.",
        )
    return Wanted(keys, is_every_member, frozenset(foreign))


def _unknown(spec: Object, secret: str) -> Iterator[str]:
    """Yield what makes something else of the value."""
    template = (spec.get("target") or {}).get("template") or {}
    # One with metadata or a type alone leaves the data as they are.
    if template.get("data") or template.get("templateFrom"):
        yield "it has a template"
    for source in spec.get("dataFrom") or ():
        extract = source.get("extract") or {}
        if _is_of(extract, secret) and (source.get("rewrite") or extract.get("property")):
            yield "it rewrites the keys, or extracts a part"
    for ref in _refs(spec):
        if _is_of(ref, secret):
            yield from _changes(ref)


def _changes(ref: Mapping[str, Any]) -> Iterator[str]:
    if (ref.get("decodingStrategy") or "None") != "None":
        yield "it decodes the value"
    if (ref.get("metadataPolicy") or "None") != "None":
        yield "it asks for the secret's metadata"
    if ref.get("property") and not _PLAIN.fullmatch(ref["property"]):
        yield f"the property {ref['property'][:40]!a} is a query"


def _refs(spec: Object) -> Iterator[Mapping[str, Any]]:
    yield from (_ref_of(entry) for entry in spec.get("data") or ())
    yield from _extracts(spec)


def _extracts(spec: Object) -> Iterator[Mapping[str, Any]]:
    yield from (source.get("extract") or {} for source in spec.get("dataFrom") or ())


def _ref_of(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    if (entry.get("sourceRef") or {}).get("generatorRef"):
        return {}
    return entry.get("remoteRef") or {}


def _is_of(ref: Mapping[str, Any], secret: str) -> bool:
    """Tell whether a reference names the secret: by its name, or by its ARN, whole or without end.

    Secrets Manager appends a hyphen and six characters to the name (Troubleshoot, Partial ARN).
    """
    key = str(ref.get("key") or "")
    if not key.startswith("arn:"):
        return key == secret
    name = re.escape(secret) + "(-[A-Za-z0-9]{6})?"
    return re.fullmatch(name, key.partition(":secret:")[2]) is not None
