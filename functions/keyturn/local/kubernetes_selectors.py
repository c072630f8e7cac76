"""Which objects a list or a watch is about: label selectors, field selectors, pages.

Sources: Labels and Selectors ("API"); Field Selectors; Kubernetes API Concepts ("Retrieving large
results sets in chunks").
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from typing import Any

from keyturn.local.kubernetes_kinds import Kind
from keyturn.local.kubernetes_objects import Key, Objects
from keyturn.local.kubernetes_rules import Refusal

Json = dict[str, Any]
Meets = Callable[[Json], bool]

_FIELDS = {
    "pods": ("spec.nodeName", "status.phase"),
    "secrets": ("type",),
    "events": ("involvedObject.name", "involvedObject.kind", "involvedObject.uid"),
}
"""What can be selected besides `metadata.name` and `metadata.namespace`."""

_TERM = re.compile(
    r"\s*(?:(?P<key>[\w./-]+)\s+(?P<in>in|notin)\s*\((?P<values>[^)]*)\)"
    r"|(?P<absent>!)?(?P<name>[\w./-]+)\s*(?:(?P<op>==|=|!=)\s*(?P<value>[\w.-]*))?)\s*(?:,|$)"
)


def by_labels(selector: str) -> Meets:
    """Return what a label selector means.

    Raises:
        Refusal: It cannot be read (400).
    """
    terms, at = [], 0
    while at < len(selector):
        term = _TERM.match(selector, at)
        if term is None:
            raise Refusal(400, "BadRequest", "unable to parse requirement")
        terms.append(term)
        at = term.end()
    return lambda one: all(_meets(term, one["metadata"].get("labels") or {}) for term in terms)


def _meets(term: re.Match[str], labels: Json) -> bool:
    if term["in"]:
        is_among = labels.get(term["key"]) in [each.strip() for each in term["values"].split(",")]
        return is_among is (term["in"] == "in")
    match term["op"]:
        case None:
            return (term["name"] in labels) is (term["absent"] is None)
        case "!=":
            return bool(labels.get(term["name"]) != term["value"])
        case _:
            return bool(labels.get(term["name"]) == term["value"])


def wanted_fields(selector: str, kind: Kind) -> dict[str, str]:
    """Return the fields that a field selector wants, each with its value.

    Raises:
        Refusal: Such a field cannot be selected (400).
    """
    wanted = {}
    for term in filter(None, selector.split(",")):
        field, _, value = term.replace("==", "=").partition("=")
        if field not in {"metadata.name", "metadata.namespace", *_FIELDS.get(kind.plural, ())}:
            says = f"field label not supported: {field}"
            raise Refusal(400, "BadRequest", says)
        wanted[field] = value
    return wanted


def by_fields(wanted: dict[str, str]) -> Meets:
    """Return what a field selector means."""
    return lambda one: all(_field(one, path) == value for path, value in wanted.items())


def _field(one: Json, path: str) -> str:
    value: Any = one
    for step in path.split("."):
        value = value.get(step, {}) if isinstance(value, dict) else {}
    return value if isinstance(value, str) else ""


def page(
    found: list[tuple[Key, Json]], objects: Objects, limit: int, after: str
) -> tuple[list[Json], Json]:
    """Return one page of what was found, and the list's metadata.

    Raises:
        Refusal: The token of the page before is too old (410), or is none (400).
    """
    version = objects.version
    if after:
        version, last = _read(after)
        if version < objects.oldest:
            says = "The provided continue parameter is too old to display a consistent list result."
            raise Refusal(410, "Expired", says)
        found = [(key, each) for key, each in found if list(key) > last]
    metadata: Json = {"resourceVersion": str(version)}
    if limit and len(found) > limit:
        metadata["remainingItemCount"] = len(found) - limit
        found = found[:limit]
        token = json.dumps([version, list(found[-1][0])]).encode()
        metadata["continue"] = base64.urlsafe_b64encode(token).decode()
    return [each for _, each in found], metadata


def _read(token: str) -> tuple[int, list[str]]:
    try:
        version, last = json.loads(base64.urlsafe_b64decode(token))
        return int(version), [str(part) for part in last]
    except ValueError:
        raise Refusal(400, "BadRequest", "continue key is not valid") from None
