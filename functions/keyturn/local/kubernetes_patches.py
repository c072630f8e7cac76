"""The three kinds of patches of the Kubernetes API, on plain objects. Nothing here knows a store.

    merge      RFC 7396: maps are merged, null removes, lists are replaced
    strategic  the same, but lists of maps are merged by a key, and `$patch` says how
    json       RFC 6902: a list of operations, all or none

Rules: Kubernetes API Concepts, "Patches"; "Notes on the strategic merge patch".
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

Json = dict[str, Any]

_MERGE_KEYS = {
    "conditions": "type",
    "containers": "name",
    "env": "name",
    "ephemeralContainers": "name",
    "imagePullSecrets": "name",
    "initContainers": "name",
    "ownerReferences": "uid",
    "ports": "containerPort",
    "volumeMounts": "mountPath",
    "volumes": "name",
}
"""The lists of maps that a strategic patch merges, and by what. All others are replaced."""

_UNITED = {"finalizers"}
"""The lists of plain values that a strategic patch adds to."""

_ORDER = "$setElementOrder/"
_REMOVES = "$deleteFromPrimitiveList/"


class PatchError(Exception):
    """The patch does not fit the object."""


def merged(old: Any, patch: Any) -> Any:
    """Return *old* as a merge patch makes it."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(old) if isinstance(old, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


def strategically_merged(old: Any, patch: Any, name: str = "") -> Any:
    """Return *old*, the value of the field *name*, as a strategic merge patch makes it.

    Raises:
        PatchError: An element of a list has no merge key.
    """
    if isinstance(patch, dict):
        return _merged_map(old if isinstance(old, dict) else {}, patch)
    if isinstance(patch, list) and isinstance(old, list):
        return _merged_list(old, patch, name)
    if isinstance(patch, list):
        return [strategically_merged(None, each) for each in patch if not _is_deletion(each)]
    return copy.deepcopy(patch)


def _merged_map(old: Json, patch: Json) -> Json:
    if patch.get("$patch") == "replace":
        return {k: copy.deepcopy(v) for k, v in patch.items() if k != "$patch"}
    retained = patch.get("$retainKeys")
    result = {k: v for k, v in old.items() if retained is None or k in retained}
    for name, value in patch.items():
        if name.startswith(_REMOVES):
            field = name.removeprefix(_REMOVES)
            result[field] = [each for each in result.get(field) or [] if each not in value]
        elif name in {"$patch", "$retainKeys"} or name.startswith(_ORDER):
            continue
        elif value is None or (isinstance(value, dict) and value.get("$patch") == "delete"):
            result.pop(name, None)
        else:
            result[name] = strategically_merged(result.get(name), value, name)
    return result


def _merged_list(old: list[Any], patch: list[Any], name: str) -> list[Any]:
    if name in _UNITED:
        return [*old, *(each for each in patch if each not in old)]
    if name not in _MERGE_KEYS or {"$patch": "replace"} in patch:
        return [copy.deepcopy(each) for each in patch if each != {"$patch": "replace"}]
    key = _merge_key(name, [*old, *patch])
    result = list(old)
    for each in patch:
        if key not in each:
            raise PatchError(f"map: {name} does not contain declared merge key: {key}")
        at = next((i for i, one in enumerate(result) if one.get(key) == each[key]), len(result))
        found = result[at : at + 1]
        new = [] if _is_deletion(each) else [strategically_merged(found[0] if found else {}, each)]
        result[at : at + 1] = new
    return result


def _merge_key(name: str, elements: Sequence[Any]) -> str:
    if name == "ports" and not any("containerPort" in each for each in elements):
        return "port"  # a Service's
    return _MERGE_KEYS[name]


def _is_deletion(element: Any) -> bool:
    return isinstance(element, dict) and element.get("$patch") == "delete"


def json_patched(old: Json, operations: Any) -> Json:
    """Return *old* as a JSON patch makes it.

    Raises:
        PatchError: An operation is none, its place is not there, or a test has failed.
    """
    result: Json = {"": copy.deepcopy(old)}
    try:
        for each in operations:
            _operate(result, each)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise PatchError(f"{type(error).__name__} in a JSON patch") from None
    root: Json = result[""]
    return root


def _operate(root: Json, operation: Json) -> None:
    place, key = _place(root, operation["path"])
    match operation["op"]:
        case "test":
            if place[key] != operation["value"]:
                raise PatchError("testing value failed")
        case "remove":
            del place[key]
        case "replace":
            del place[key]
            _add(place, key, operation["value"])
        case "add":
            _add(place, key, operation["value"])
        case "copy" | "move" as kind:
            source, source_key = _place(root, operation["from"])
            value = copy.deepcopy(source[source_key])
            if kind == "move":
                del source[source_key]
            _add(place, key, value)
        case _:
            raise PatchError("Unexpected kind of operation")


def _add(place: Any, key: Any, value: Any) -> None:
    if isinstance(place, list):
        place.insert(key, value)
    else:
        place[key] = value


def _place(root: Json, path: str) -> tuple[Any, Any]:
    """Return the container that a pointer leads into, and the last step."""
    steps = [step.replace("~1", "/").replace("~0", "~") for step in path.split("/")]
    place: Any = root
    for step in steps[:-1]:
        place = place[int(step) if isinstance(place, list) else step]
    last: Any = steps[-1]
    if isinstance(place, list):
        last = len(place) if last == "-" else int(last)
    return place, last
