"""An object in a cluster that holds a copy, and says by an annotation of which version.

Whose it is shows by that annotation alone (`keyturn.kubernetes.marks`): value and version are
written together, in one request that holds only for the `resourceVersion` that was seen. An object
without it is somebody else's, whatever is in it, and is never written: a person hands it over by
the annotation without a value.

What is looked at is the metadata: a look fetches no value.

The destinations `kubernetes-secret` and `sealed-secret` are made of this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from keyturn.errors import Busy, Drifted
from keyturn.kubernetes.api import Kubernetes, Object, Patch, Resource
from keyturn.kubernetes.marks import PREFIX, annotations_of, mark_of
from keyturn.model import RotationId
from keyturn.ports import Held


@dataclass(frozen=True, slots=True)
class MarkedObject:
    """The object that a plan names.

    Attributes:
        kind: The object's, and its `apiVersion`: what a new one begins with.
        name: The object's own.
        secret: The secret whose copy it holds.
        where: Names it in messages.
    """

    kubernetes: Kubernetes
    resource: Resource
    kind: Mapping[str, str]
    namespace: str
    name: str
    secret: str
    where: str

    def holds(self) -> Held:
        """See `Destination.holds`. The mark is the `resourceVersion`; "" if there is no object.

        Raises:
            Drifted: It is not ours.
            Busy: It is being deleted.
        """
        return self._held(self.kubernetes.metadata(self.resource, self.namespace, self.name))

    def write(
        self, version_id: RotationId, seen: Held, make: Callable[[Object], dict[str, Any]]
    ) -> None:
        """Create or change it, if nobody has since it was *seen*. Repeatable.

        Args:
            version_id: What it says from then on.
            seen: By `holds`.
            make: Returns what is to be merged into the object that is given; empty if there is
                none. In it, None removes.

        Raises:
            Busy: Somebody has. Nothing was written.
            Drifted: It is not ours (any more).
            KeyturnError: What *make* and the API raise.
        """
        now = self.kubernetes.get(self.resource, self.namespace, self.name)
        held = self._held(None if now is None else now["metadata"])
        if held.mark == seen.mark:
            change = make(now or {})
            marked = {mark_of(self.secret): version_id}
            merged(change, {"metadata": {"annotations": marked}})
            if self._is_written(change, seen):
                return
            held = self.holds()
        if held.version_id != version_id:
            raise Busy(
                f"{self.where}: something else has been written there since we looked",
                remedy="Nothing: it is looked at again.",
            )

    def _is_written(self, change: dict[str, Any], seen: Held) -> bool:
        try:
            if not seen.mark:
                merged(change, {**self.kind, "metadata": {"name": self.name}})
                self.kubernetes.create(self.resource, self.namespace, without_nulls(change))
                return True
            merged(change, {"metadata": {"resourceVersion": seen.mark}})
            patched = self.kubernetes.patch(
                self.resource, self.namespace, self.name, change, Patch.MERGE
            )
        except Busy:
            # The client tries again by itself: what was there first may be our own.
            return False
        return patched is not None

    def _held(self, metadata: Mapping[str, Any] | None) -> Held:
        if metadata is None:
            return Held(None, "")
        annotations, mine = annotations_of(metadata), mark_of(self.secret)
        self._require_no_owner(metadata)
        others = sorted(each for each in annotations if each.startswith(PREFIX) and each != mine)
        if others:
            raise Drifted(
                f"{self.where} is of another secret: it has the annotation {others[0]}",
                remedy="Give each secret an object of its own in the plan, or remove that"
                " annotation if the other is no longer delivered there.",
            )
        if mine not in annotations:
            raise Drifted(
                f"{self.where} is there, and was not written by keyturn",
                remedy="Name another in the plan; or hand it over, with all that it holds, by the"
                f" annotation {mine} with an empty value.",
            )
        if metadata.get("deletionTimestamp"):
            raise Busy(f"{self.where} is being deleted", remedy="Wait until it is gone.")
        return Held(
            RotationId(annotations[mine]) if annotations[mine] else None,
            str(metadata["resourceVersion"]),
        )

    def _require_no_owner(self, metadata: Mapping[str, Any]) -> None:
        """Refuse what a controller writes: it would undo ours, or had copied our annotation."""
        for each in metadata.get("ownerReferences") or ():
            if each.get("controller"):
                raise Drifted(
                    f"{self.where} is kept by {each.get('kind')} {each.get('name')}",
                    remedy="Name another in the plan, or remove what keeps it.",
                )


def replaced(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> dict[str, Any]:
    """Return what makes *new* of *old* by a merge: what *new* does not have, goes."""
    return {**dict.fromkeys(old or {}), **new}


def merged(into: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Merge *more*, mapping by mapping, into *into*."""
    for key, value in more.items():
        if isinstance(value, Mapping):
            merged(into.setdefault(key, {}), value)
        else:
            into[key] = value


def without_nulls(tree: dict[str, Any]) -> dict[str, Any]:
    """Return what is left when all has been removed that is to be removed."""
    return {
        key: without_nulls(value) if isinstance(value, dict) else value
        for key, value in tree.items()
        if value is not None
    }
