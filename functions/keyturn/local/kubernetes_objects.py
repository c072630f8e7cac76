"""The objects of the fake Kubernetes API: versions, conflicts, generations, and what changed.

Every write gets the next `resourceVersion` of the whole cluster; one that changes nothing gets
none. A write that carries a `resourceVersion` is conditional on it. `generation` counts the changes
of the wish, which is all but `metadata` and `status`. The status is written by its own path only.

Sources: API Conventions ("Concurrency Control and Consistency", "Spec and Status", "Metadata");
Kubernetes API Concepts ("Resource versions", "Efficient detection of changes").
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from operator import itemgetter
from typing import Any, NamedTuple, TypeVar

from keyturn.local.kubernetes_kinds import KINDS, Kind
from keyturn.local.kubernetes_patches import (
    PatchError,
    json_patched,
    merged,
    strategically_merged,
)
from keyturn.local.kubernetes_rules import Refusal, Unfit, check, complete, invalid

Json = dict[str, Any]

_T = TypeVar("_T")

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"

_FIXED = ("uid", "creationTimestamp", "name", "namespace", "generation", "deletionTimestamp")
"""Of an object's metadata: what a client's write does not change."""


class Key(NamedTuple):
    """Which object. The namespace is "" for what is in none."""

    group: str
    plural: str
    namespace: str
    name: str


class Event(NamedTuple):
    """A change, as a watch shows it. *before* is None for what was added."""

    version: int
    kind: str
    key: Key
    now: Json
    before: Json | None


def copied(value: _T) -> _T:
    """Return a copy of what JSON can say, down to its leaves: `deepcopy` was 9/10 of a step."""
    return _copied(value)  # type: ignore[no-any-return]  # the same shape comes back


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_copied(each) for each in value]
    return value


def timestamp(moment: datetime) -> str:
    """Return a moment as objects hold it: whole seconds, UTC."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def not_found(kind: Kind, name: str) -> Refusal:
    """Return the refusal for an object that is not there (404)."""
    return Refusal(404, "NotFound", f'{kind.resource} "{name}" not found', _details(kind, name))


def _details(kind: Kind, name: str) -> Json:
    details = {"name": name, "group": kind.group, "kind": kind.plural}
    return {key: value for key, value in details.items() if value}


class Objects:
    """All objects of a cluster. Safe to use from any thread; what goes in and out is copied.

    Args:
        now: The cluster's clock.
        creates_namespaces: An object may be created in a namespace that is not there yet.
    """

    def __init__(self, now: Callable[[], datetime], *, creates_namespaces: bool) -> None:
        self.now = now
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.version = 100
        self.oldest = 0
        self.kinds = {(kind.group, kind.plural): kind for kind in KINDS}
        self._creates_namespaces = creates_namespaces
        self._objects: dict[Key, Json] = {}  # each is replaced as a whole, never changed
        self._events: list[Event] = []
        self._is_dry = False

    # ------------------------------------------------------------------ kinds

    def kind_of(self, made: Mapping[str, Any]) -> Kind:
        """Return the kind of an object that names its apiVersion and kind."""
        group, _, version = str(made["apiVersion"]).rpartition("/")
        for kind in self.kinds.values():
            if (kind.group, kind.kind) == (group, made["kind"]) and version in kind.versions:
                return kind
        raise LookupError(f"no such kind: {made['apiVersion']} {made['kind']}")

    def kind_named(self, resource: str) -> Kind:
        """Return a kind by its plural, with or without its group: `deployments`."""
        for kind in self.kinds.values():
            if resource in {kind.plural, kind.resource}:
                return kind
        raise LookupError(f"no such resource: {resource}")

    def serve(self, group: str, versions: tuple[str, ...]) -> None:
        """Serve a group's kinds in these versions and no others."""
        with self.lock:
            for place, kind in list(self.kinds.items()):
                if kind.group == group:
                    self.kinds[place] = replace(kind, versions=versions)

    def _define(self, definition: Json) -> None:
        """Serve what a CustomResourceDefinition defines."""
        spec = definition["spec"]
        names = spec["names"]
        served = [version for version in spec["versions"] if version.get("served")]
        self.kinds[spec["group"], names["plural"]] = Kind(
            spec["group"],
            tuple(version["name"] for version in served),
            names["plural"],
            names["kind"],
            tuple(names.get("shortNames", ())),
            is_namespaced=spec["scope"] == "Namespaced",
            has_status=any("status" in version.get("subresources", {}) for version in served),
            has_generation=True,
            is_custom=True,
        )
        established = {"type": "Established", "status": "True", "reason": "InitialNamesAccepted"}
        definition["status"] = {"conditions": [established], "acceptedNames": names}

    # ------------------------------------------------------------------ reading

    def find(self, key: Key) -> Json | None:
        """Return an object, or None."""
        with self.lock:
            return copied(self._objects.get(key))

    def get(self, kind: Kind, key: Key) -> Json:
        """Return an object.

        Raises:
            Refusal: There is none (404).
        """
        found = self.find(key)
        if found is None:
            raise not_found(kind, key.name)
        return found

    def every(
        self, kind: Kind, namespace: str = "", meets: Callable[[Json], bool] = bool
    ) -> list[tuple[Key, Json]]:
        """Return all objects of a kind, of one namespace or of all, by namespace and name.

        *meets* picks among them, and changes none.
        """
        with self.lock:
            found = [
                (key, each)
                for key, each in self._objects.items()
                if key.plural == kind.plural
                and key.group == kind.group
                and namespace in {"", key.namespace}
                and meets(each)
            ]
            return [(key, copied(each)) for key, each in sorted(found, key=itemgetter(0))]

    def owned(self, resource: str, owner: Json) -> list[tuple[Key, Json]]:
        """Return the objects of a kind that *owner* owns."""
        metadata = owner["metadata"]

        def is_owned(one: Json) -> bool:
            references = one["metadata"].get("ownerReferences") or ()
            return any(reference["uid"] == metadata["uid"] for reference in references)

        return self.every(self.kind_named(resource), metadata.get("namespace", ""), is_owned)

    def since(self, version: int) -> list[Event]:
        """Return the changes after a version.

        Raises:
            Refusal: They are no longer known (410).
        """
        with self.lock:
            if version < self.oldest:
                says = f"too old resource version: {version} ({self.oldest})"
                raise Refusal(410, "Expired", says)
            return [event for event in self._events if event.version > version]

    def forget(self) -> None:
        """Forget which changes there were: who watches on from an older version is told 410."""
        with self.lock:
            self.version += 1
            self.oldest = self.version
            self._events.clear()

    def uids(self) -> set[str]:
        """Return the uids of all objects."""
        with self.lock:
            return {each["metadata"]["uid"] for each in self._objects.values()}

    def left_over(self) -> list[Key]:
        """Return what has lost all its owners, or the namespace that it was in."""
        alive = self.uids()
        with self.lock:
            spaces = {key.name for key in self._objects if key[:2] == ("", "namespaces")}
            return [
                key
                for key, each in self._objects.items()
                if (
                    (owners := each["metadata"].get("ownerReferences"))
                    and not alive & {owner["uid"] for owner in owners}
                )
                or key.namespace not in {"", *spaces}
            ]

    # ------------------------------------------------------------------ writing

    @contextmanager
    def trial(self, *, dry: bool) -> Iterator[None]:
        """Hold the cluster still; with *dry* nothing that is written inside is kept."""
        with self.lock:
            self._is_dry = dry
            try:
                yield
            finally:
                self._is_dry = False

    def create(self, kind: Kind, namespace: str, made: Json) -> Json:
        """Create an object and return it.

        Raises:
            Refusal: There is one of that name (409), no such namespace (404), it is invalid (422).
        """
        with self.lock:
            new = copied(made)
            metadata = new.setdefault("metadata", {})
            key = self._new_key(kind, namespace, metadata)
            if key in self._objects:
                says = f'{kind.resource} "{key.name}" already exists'
                raise Refusal(409, "AlreadyExists", says, _details(kind, key.name))
            for field in ("generation", "deletionTimestamp", "resourceVersion"):
                metadata.pop(field, None)
            metadata["uid"] = str(uuid.uuid4())
            metadata["creationTimestamp"] = timestamp(self.now())
            if kind.has_generation:
                metadata["generation"] = 1
            if kind.has_status:
                new.pop("status", None)
            complete(kind, new)
            check(kind, new, None)
            if kind.plural == "namespaces":
                new["status"] = {"phase": "Active"}
            if kind.plural == "customresourcedefinitions":
                self._define(new)
            return self._keep("ADDED", key, new)

    def _new_key(self, kind: Kind, namespace: str, metadata: Json) -> Key:
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = f"{metadata['generateName']}{uuid.uuid4().hex[:5]}"
        if not metadata.get("name"):
            says = "Required value: name or generateName is required"
            raise invalid(kind, "", [Unfit("FieldValueRequired", "metadata.name", says)])
        if not kind.is_namespaced:
            return Key(kind.group, kind.plural, "", metadata["name"])
        if metadata.setdefault("namespace", namespace) != namespace:
            raise Refusal(
                400,
                "BadRequest",
                "the namespace of the provided object does not match the namespace sent on the"
                " request",
            )
        self._need_namespace(namespace)
        return Key(kind.group, kind.plural, namespace, metadata["name"])

    def _need_namespace(self, name: str) -> None:
        kind = self.kinds["", "namespaces"]
        if Key("", "namespaces", "", name) in self._objects:
            return
        if not self._creates_namespaces:
            raise not_found(kind, name)
        self.create(kind, "", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})

    def update(self, kind: Kind, key: Key, made: Json, part: str = "") -> Json:
        """Put an object in the place of the one that is there; with *part* "status", its status.

        Raises:
            Refusal: There is none (404), it has changed since (409), or it is invalid (422).
        """
        with self.lock:
            old = self.get(kind, key)
            metadata = made.get("metadata") or {}
            _check_same(kind, key, old, metadata)
            if part == "status":
                new = {**copied(old), "status": copied(made.get("status", {}))}
            else:
                new = _with_old_status(kind, copied(made), old)
            _restore_fixed(new, old)
            complete(kind, new)
            check(kind, new, old)
            if new == old:
                return old
            if kind.has_generation and _wish(new) != _wish(old) and part != "status":
                new["metadata"]["generation"] = old["metadata"]["generation"] + 1
            if new["metadata"].get("deletionTimestamp") and not new["metadata"].get("finalizers"):
                return self._remove(key, new)
            return self._keep("MODIFIED", key, new)

    def patch(self, kind: Kind, key: Key, media_type: str, patch: Any, part: str = "") -> Json:
        """Change an object.

        Raises:
            Refusal: No such kind of patch for it (415), else as `update`.
        """
        with self.lock:
            old = self.get(kind, key)
            try:
                new = _patched(kind, old, media_type, patch)
            except PatchError as error:
                says = f"the server rejected our request due to an error in our request: {error}"
                raise Refusal(422, "Invalid", says, _details(kind, key.name)) from None
            if not isinstance(new, dict):
                raise Refusal(400, "BadRequest", "the patch is no object")
            return self.update(kind, key, new, part)

    def delete(self, kind: Kind, key: Key, preconditions: Json | None = None) -> Json:
        """Delete an object and return it; one with finalizers stays until they are gone.

        Raises:
            Refusal: There is none (404), or it is not the one that was meant (409).
        """
        with self.lock:
            old = self.get(kind, key)
            for field, value in (preconditions or {}).items():
                if value is not None and old["metadata"].get(field) != value:
                    raise _conflict(kind, key, f"the {field} in the precondition does not match")
            if not old["metadata"].get("finalizers"):
                return self._remove(key, old)
            old["metadata"].setdefault("deletionTimestamp", timestamp(self.now()))
            return self._keep("MODIFIED", key, old)

    def put(self, made: Json) -> Json:
        """Create an object or replace it, status and all, whatever its version is."""
        with self.lock:
            kind = self.kind_of(made)
            metadata = made["metadata"]
            namespace = metadata.get("namespace", "default") if kind.is_namespaced else ""
            key = Key(kind.group, kind.plural, namespace, metadata["name"])
            unversioned = copied(made)
            unversioned["metadata"].pop("resourceVersion", None)
            old = self.find(key)
            if old is None:
                new = self.create(kind, namespace, unversioned)
            else:
                version = old["metadata"]["resourceVersion"]
                unversioned["metadata"]["resourceVersion"] = version
                new = self.update(kind, key, unversioned)
            if kind.has_status and "status" in made:
                new = self.update(kind, key, {"status": made["status"]}, "status")
            return new

    def _remove(self, key: Key, old: Json) -> Json:
        return self._keep("DELETED", key, old)

    def _keep(self, what: str, key: Key, new: Json) -> Json:
        before = self._objects.get(key)
        if self._is_dry:
            return new
        self.version += 1
        new["metadata"]["resourceVersion"] = str(self.version)
        if what == "DELETED":
            del self._objects[key]
        else:
            self._objects[key] = new
        self._events.append(Event(self.version, what, key, new, before))
        self.changed.notify_all()
        return copied(new)


def _patched(kind: Kind, old: Json, media_type: str, patch: Any) -> Any:
    if media_type == JSON_PATCH:
        return json_patched(old, patch)
    if media_type == MERGE_PATCH and isinstance(patch, dict):
        return merged(old, patch)
    if media_type == STRATEGIC_PATCH and not kind.is_custom and isinstance(patch, dict):
        return strategically_merged(old, patch)
    if media_type == MERGE_PATCH:
        raise Refusal(400, "BadRequest", "error decoding patch: it is no object")
    accepted = [JSON_PATCH, MERGE_PATCH, *([] if kind.is_custom else [STRATEGIC_PATCH])]
    raise Refusal(
        415,
        "UnsupportedMediaType",
        "the body of the request was in an unknown format - accepted media types include: "
        + ", ".join(accepted),
    )


def _check_same(kind: Kind, key: Key, old: Json, metadata: Json) -> None:
    """Check that a write means the object that is there, as it is there."""
    if metadata.get("name", key.name) != key.name:
        says = f"the name of the object ({metadata['name']}) does not match the name on the URL"
        raise Refusal(400, "BadRequest", f"{says} ({key.name})")
    if metadata.get("uid", old["metadata"]["uid"]) != old["metadata"]["uid"]:
        raise _conflict(kind, key, "Precondition failed: UID in precondition does not match")
    version = metadata.get("resourceVersion") or old["metadata"]["resourceVersion"]
    if version != old["metadata"]["resourceVersion"]:
        raise _conflict(
            kind,
            key,
            "the object has been modified; please apply your changes to the latest version and"
            " try again",
        )


def _conflict(kind: Kind, key: Key, why: str) -> Refusal:
    says = f'Operation cannot be fulfilled on {kind.resource} "{key.name}": {why}'
    return Refusal(409, "Conflict", says, _details(kind, key.name))


def _with_old_status(kind: Kind, new: Json, old: Json) -> Json:
    if kind.has_status:
        new.pop("status", None)
        if "status" in old:
            new["status"] = old["status"]
    return new


def _restore_fixed(new: Json, old: Json) -> None:
    metadata = new.setdefault("metadata", {})
    for field in _FIXED:
        metadata.pop(field, None)
        if field in old["metadata"]:
            metadata[field] = old["metadata"][field]
    metadata["resourceVersion"] = old["metadata"]["resourceVersion"]
    for field in ("apiVersion", "kind"):
        new.setdefault(field, old.get(field))


def _wish(one: Json) -> Json:
    return {key: value for key, value in one.items() if key not in {"metadata", "status"}}
