"""Pods that mount a secret by the Secrets Store CSI driver.

    tell     nothing: since 1.6.0 no call makes the driver look; it does so by itself, every two
             minutes, where its rotation is on
    look     a SecretProviderClassPodStatus per pod says which version of the object it has mounted:
             the exact id, and no Secret is read

So a consumer of this kind is never untold: it waits from the promotion on. Each pod of the class
that has a status is counted, whatever became of the pod: its status goes with it. Fewer than
`min_pods` is not enough: a Deployment scaled to zero would prove anything. A pod that has completed
keeps its old mount and its status, and is waited for until it is deleted.

Rules: secrets-store-csi-driver 1.6 (secrets-store.csi.x-k8s.io/v1); the AWS provider, which sets an
object's `id` to its objectAlias, or else its objectName, and its `version` to the VersionId; that
of Google (server/server.go), which sets `id` to its resourceName, and `version` to the full name of
the version that this was resolved to, with its number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec

from keyturn.followers import ConsumerShape, Given, Name, Namespace, NonEmpty, given
from keyturn.kubernetes.api import Kubernetes, Resource
from keyturn.kubernetes.cluster import ClusterShape
from keyturn.model import RotationId, Version
from keyturn.ports import Consumer, Pickup, Sight

PERMISSIONS = ("list secretproviderclasspodstatuses.secrets-store.csi.x-k8s.io",)
"""RBAC's verb, in the namespace."""

_STATUSES = Resource("secrets-store.csi.x-k8s.io", "v1", "secretproviderclasspodstatuses")

Status = Mapping[str, Any]
"""Of a SecretProviderClassPodStatus: `secretProviderClassName`, `podName`, `mounted`, `objects`."""

_SHOWN = 3
"""How many pods a line names."""


class CsiShape(ConsumerShape, frozen=True, kw_only=True):
    """Pods that mount a SecretProviderClass of the Secrets Store CSI driver."""

    namespace: Annotated[Namespace, msgspec.Meta(description="Its namespace.")]
    class_: Annotated[Name, msgspec.Meta(description="The SecretProviderClass's name.")] = (
        msgspec.field(name="class")
    )
    object: (
        Annotated[
            NonEmpty,
            msgspec.Meta(
                description="The objectAlias, or else the objectName, in the class; the secret's"
                " name, if it is not said. On Google Cloud, the resourceName."
            ),
        ]
        | msgspec.UnsetType
    ) = msgspec.UNSET
    min_pods: Annotated[
        int, msgspec.Meta(ge=1, description="How many pods must have mounted it, at least.")
    ] = 1
    cluster: (
        Annotated[ClusterShape, msgspec.Meta(description="Its cluster, if not the plan's.")]
        | msgspec.UnsetType
    ) = msgspec.UNSET

    def place(self) -> tuple[str, ...]:
        """See `ConsumerShape.place`."""
        return (repr(self.cluster), self.namespace, self.class_, given(self.object) or "")


SHAPES: Mapping[str, type[ConsumerShape]] = {"csi": CsiShape}

FIXES: Mapping[str, str] = {
    "namespace": "Write the namespace that it is in.",
    "class": "Write the name of the SecretProviderClass.",
    "object": "Write the objectAlias, or else the objectName, that the class gives the secret; on"
    " Google Cloud, its resourceName.",
    "min_pods": "Write how many pods must have mounted it, 1 at least.",
}


def make(kind: str, settings: ConsumerShape, given: Given) -> Consumer:
    """See `keyturn.followers`."""
    del kind
    assert isinstance(settings, CsiShape)  # noqa: S101  # by its kind
    return Csi(settings, given)


class Csi:
    """A `Consumer`: the pods that mount one class."""

    def __init__(self, settings: CsiShape, given_: Given) -> None:
        own = given(settings.cluster)
        self._kubernetes: Kubernetes = given_.cluster(own)
        self._settings = settings
        self._given = given_
        self._is_google = given_.ref.startswith("projects/")
        usual = f"{given_.ref}/versions/latest" if self._is_google else given_.secret
        self._object: str = given(settings.object) or usual
        where = f" in {self._kubernetes.name}" if own else ""
        self._name = f"csi {settings.namespace}/{settings.class_}{where}"

    def name(self) -> str:
        """See `Consumer.name`."""
        return self._name

    def preflight(self) -> None:
        """See `Consumer.preflight`."""
        self._statuses()

    def verify(self, version: Version) -> Sight:
        """See `Consumer.verify`."""
        lacks = missing(
            self._statuses(), self._object, self._shown(version), self._settings.min_pods
        )
        return Sight(Pickup.WAITING if lacks else Pickup.FOLLOWED, "", lacks)

    def trigger(self, version_id: RotationId, seen: Sight) -> None:
        """Do nothing: it looks by itself, and is never untold."""

    def _shown(self, version: Version) -> str:
        """Return what a status says of the version, once it is mounted."""
        if not self._is_google:
            return version.rotation_id
        return f"{self._given.ref}/versions/{self._given.number(version.rotation_id)}"

    def _statuses(self) -> list[Status]:
        found = self._kubernetes.list(_STATUSES, self._settings.namespace)
        statuses: list[Status] = [each.get("status") or {} for each in found]
        return [s for s in statuses if s.get("secretProviderClassName") == self._settings.class_]


def missing(statuses: Sequence[Status], object_: str, shown: str, min_pods: int) -> str:
    """Say in a line what is missing until enough pods show that version; "" if nothing is."""
    others = [
        f"{status.get('podName')} ({held or 'it has no such object'})"
        for status in statuses
        if (held := _version_of(object_, status)) != shown
    ]
    if others:
        more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
        return f"{len(others)} of {len(statuses)} pods are old: {', '.join(others[:_SHOWN])}{more}"
    mounted = sum(status.get("mounted") is True for status in statuses)
    if mounted < min_pods:
        return f"{mounted} pods of at least {min_pods} have mounted it"
    return ""


def _version_of(object_: str, status: Status) -> str | None:
    """Return the version that a pod has of the object; None if it has no such object."""
    for each in status.get("objects") or ():
        if each.get("id") == object_:
            return str(each.get("version"))
    return None
