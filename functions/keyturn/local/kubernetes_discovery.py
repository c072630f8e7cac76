"""What the fake Kubernetes API tells about itself: its version, groups and resources.

Enough for kubectl to find out which path a word means. There is no OpenAPI document.

Source: Kubernetes API Concepts ("Resource types", "API Discovery", unaggregated).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from keyturn.local.kubernetes_kinds import ALL_VERBS, Kind

Json = dict[str, Any]

REVIEWS = (
    ("authorization.k8s.io", "selfsubjectaccessreviews", "SelfSubjectAccessReview"),
    ("authorization.k8s.io", "selfsubjectrulesreviews", "SelfSubjectRulesReview"),
    ("authentication.k8s.io", "selfsubjectreviews", "SelfSubjectReview"),
)
"""What is answered and never kept."""

VERSION: Json = {
    "major": "1",
    "minor": "32",
    "gitVersion": "v1.32.0+keyturn-fake",
    "platform": "fake/fake",
}


def document(  # noqa: PLR0911  # one per path
    path: str, kinds: Iterable[Kind]
) -> Json | str | None:
    """Return what is at a path, or None if it is no path of discovery."""
    match path.strip("/").split("/"):
        case ["version"]:
            return VERSION
        case ["healthz" | "readyz" | "livez"]:
            return "ok"
        case ["api"]:
            return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
        case ["apis"]:
            groups = [_group(name, kinds) for name in _groups(kinds)]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
        case ["apis", group] if group in _groups(kinds):
            return {"kind": "APIGroup", "apiVersion": "v1", **_group(group, kinds)}
        case ["api", "v1"]:
            return _resources("", "v1", kinds)
        case ["apis", group, version] if version in _groups(kinds).get(group, ()):
            return _resources(group, version, kinds)
    return None


def _groups(kinds: Iterable[Kind]) -> dict[str, list[str]]:
    """Return the versions of each named group, the preferred one first."""
    found: dict[str, list[str]] = {group: ["v1"] for group, _, _ in REVIEWS}
    for kind in kinds:
        versions = found.setdefault(kind.group, [])
        versions += [version for version in kind.versions if version not in versions]
    return {group: versions for group, versions in found.items() if group and versions}


def _group(name: str, kinds: Iterable[Kind]) -> Json:
    versions = [
        {"groupVersion": f"{name}/{version}", "version": version}
        for version in _groups(kinds)[name]
    ]
    return {"name": name, "versions": versions, "preferredVersion": versions[0]}


def _resources(group: str, version: str, kinds: Iterable[Kind]) -> Json:
    served = [kind for kind in kinds if kind.group == group and version in kind.versions]
    found = [_resource(kind, "") for kind in served]
    found += [_resource(kind, "/status") for kind in served if kind.has_status]
    found += [
        {"name": plural, "singularName": "", "kind": kind, "namespaced": False, "verbs": ["create"]}
        for review_group, plural, kind in REVIEWS
        if review_group == group
    ]
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{group}/{version}" if group else version,
        "resources": found,
    }


def _resource(kind: Kind, part: str) -> Json:
    described: Json = {
        "name": f"{kind.plural}{part}",
        "singularName": "" if part else kind.kind.lower(),
        "kind": kind.kind,
        "namespaced": kind.is_namespaced,
        "verbs": ["get", "patch", "update"] if part else list(ALL_VERBS),
    }
    if kind.short and not part:
        described["shortNames"] = list(kind.short)
    return described
