"""A Kubernetes Secret that somebody else keeps: a reflector, a sync from Git, a controller.

    tell     the secret's mark, on the Secret's metadata: nobody acts on it, it shows since when a
             look has waited
    look     the Secret's values, compared with the version, key by key

It never writes a value: that is a destination's part. Who keeps it may take the mark off again;
then it is put there again, until the values are the version's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec

from keyturn.consumers import contents
from keyturn.consumers.contents import SECRETS, Content
from keyturn.errors import Busy, Misconfigured
from keyturn.followers import ConsumerShape, Given, Name, Namespace, given
from keyturn.kubernetes.api import Kubernetes, Object, Patch
from keyturn.kubernetes.cluster import ClusterShape
from keyturn.kubernetes.marks import annotations_of, mark_of
from keyturn.model import RotationId, Sensitive, Version
from keyturn.ports import Consumer, Pickup, Sight

PERMISSIONS = ("get secrets", "patch secrets")
"""RBAC's verbs on the one Secret, by its name. Whoever may patch it may also change its values."""


class SecretShape(ConsumerShape, frozen=True, kw_only=True):
    """A Kubernetes Secret that somebody else keeps: a reflector, a sync from Git."""

    IS_COPY = True

    namespace: Annotated[Namespace, msgspec.Meta(description="Its namespace.")]
    name: Annotated[Name, msgspec.Meta(description="The Secret's name.")]
    cluster: (
        Annotated[ClusterShape, msgspec.Meta(description="Its cluster, if not the plan's.")]
        | msgspec.UnsetType
    ) = msgspec.UNSET
    content: (
        Annotated[
            Content,
            msgspec.Meta(
                min_length=1,
                description="What it holds: key -> form. Without it, a key for every member.",
            ),
        ]
        | msgspec.UnsetType
    ) = msgspec.UNSET

    def place(self) -> tuple[str, ...]:
        """See `ConsumerShape.place`."""
        return (repr(self.cluster), self.namespace, self.name)


SHAPES: Mapping[str, type[ConsumerShape]] = {"secret": SecretShape}

FIXES: Mapping[str, str] = {
    "namespace": "Write the namespace that it is in.",
    "name": "Write the name of the object.",
    **contents.FIXES,
}


def make(kind: str, settings: ConsumerShape, given: Given) -> Consumer:
    """See `keyturn.followers`."""
    del kind
    assert isinstance(settings, SecretShape)  # noqa: S101  # by its kind
    return KeptSecret(settings, given)


class KeptSecret:
    """A `Consumer`: a Secret whose values we only compare."""

    def __init__(self, settings: SecretShape, given_: Given) -> None:
        own = given(settings.cluster)
        self._kubernetes: Kubernetes = given_.cluster(own)
        self._given = given_
        self._at = (settings.namespace, settings.name)
        self._content: Content | None = given(settings.content)
        self._is_looked_at = settings.verify == "full"
        where = f" in {self._kubernetes.name}" if own else ""
        self._name = f"secret {settings.namespace}/{settings.name}{where}"

    def name(self) -> str:
        """See `Consumer.name`."""
        return self._name

    def preflight(self) -> None:
        """See `Consumer.preflight`."""
        self._get()

    def verify(self, version: Version) -> Sight:
        """See `Consumer.verify`. Not looked at, it has done its part once it was told."""
        found = self._get()
        mark = found["metadata"]["resourceVersion"]
        is_told = self._is_told(found, version.rotation_id)
        if not self._is_looked_at:
            return Sight(Pickup.FOLLOWED if is_told else Pickup.UNTOLD, mark)
        lacks = contents.lack(found, "/".join(self._at), self._expected(version))
        if not lacks:
            return Sight(Pickup.FOLLOWED, mark)
        return Sight(Pickup.WAITING if is_told else Pickup.UNTOLD, mark, lacks)

    def trigger(self, version_id: RotationId, seen: Sight) -> None:
        """See `Consumer.trigger`."""
        annotations = {mark_of(self._given.secret): version_id}
        change = {"metadata": {"resourceVersion": seen.mark, "annotations": annotations}}
        try:
            told = self._kubernetes.patch(SECRETS, *self._at, change, Patch.MERGE)
        except Busy:
            # The client tries again by itself: what was there first may be our own.
            if not self._is_told(self._get(), version_id):
                raise
            return
        if told is None:
            raise self._absent()

    def _is_told(self, found: Object, version_id: RotationId) -> bool:
        return annotations_of(found["metadata"]).get(mark_of(self._given.secret)) == version_id

    def _expected(self, version: Version) -> Mapping[str, Sensitive]:
        if self._content is not None:
            return contents.of_renderings(self._content, version, self._given, self._name)
        keys = contents.of_every_member(version, self._given, self._name)
        return contents.of_members(keys, version, self._given, self._name)

    def _get(self) -> Object:
        found = self._kubernetes.get(SECRETS, *self._at)
        if found is None:
            raise self._absent()
        return found

    def _absent(self) -> Misconfigured:
        return Misconfigured(
            f"{self._name}: there is no such Secret",
            remedy="Correct the namespace and the name in the plan, or let it be made.",
        )
