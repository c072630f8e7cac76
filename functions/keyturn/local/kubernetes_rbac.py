"""Who may do what: the RBAC of the fake Kubernetes API, read from the Role objects of its store.

A request is allowed if any rule of any role that is bound to its user allows it; nothing forbids.
Members of `system:masters` may do everything, whatever the roles say.

Not here: the roles that a real cluster brings along (view, edit ...), aggregated roles, and the
check that nobody grants what he does not have himself.

Sources: Using RBAC Authorization; Authorization Overview ("Determine the request verb").
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from keyturn.local.kubernetes_objects import Key, Objects

Json = dict[str, Any]

RBAC = "rbac.authorization.k8s.io"
MASTERS = "system:masters"


@dataclass(frozen=True, slots=True)
class User:
    """Who asks."""

    name: str
    groups: tuple[str, ...] = ()


ANONYMOUS = User("system:anonymous", ("system:unauthenticated",))


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked for.

    Attributes:
        resource: The plural, with the part if there is one: `deployments/status`.
        namespace: "" is the whole cluster.
        name: "" is all, or not known yet.
    """

    verb: str
    group: str
    resource: str
    namespace: str = ""
    name: str = ""


def is_allowed(objects: Objects, user: User, question: Question) -> bool:
    """Tell whether a user may do what is asked for."""
    return any(_allows(rule, question) for rule in rules_of(objects, user, question.namespace))


def rules_of(objects: Objects, user: User, namespace: str) -> Iterator[Json]:
    """Return the rules that hold for a user in a namespace, or with "" in the whole cluster."""
    if MASTERS in user.groups:
        yield {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}
    for resource, place in (("clusterrolebindings", ""), ("rolebindings", namespace)):
        if resource == "rolebindings" and not namespace:
            return
        for _, binding in objects.every(objects.kind_named(resource), place):
            if any(_is_meant(subject, user) for subject in binding.get("subjects") or ()):
                yield from _rules(objects, binding["roleRef"], namespace)


def _is_meant(subject: Json, user: User) -> bool:
    match subject["kind"]:
        case "User":
            return bool(subject["name"] == user.name)
        case "Group":
            return subject["name"] in user.groups
        case _:
            account = f"system:serviceaccount:{subject.get('namespace')}:{subject['name']}"
            return account == user.name


def _rules(objects: Objects, reference: Json, namespace: str) -> Iterable[Json]:
    is_cluster_wide = reference["kind"] == "ClusterRole"
    place = ("clusterroles", "") if is_cluster_wide else ("roles", namespace)
    role = objects.find(Key(RBAC, *place, reference["name"]))
    return (role or {}).get("rules") or ()


def _allows(rule: Json, question: Question) -> bool:
    names = rule.get("resourceNames") or ()
    _, _, part = question.resource.partition("/")
    resources = {question.resource, "*", f"*/{part}" if part else "*"}
    return (
        bool({question.verb, "*"} & set(rule.get("verbs") or ()))
        and bool({question.group, "*"} & set(rule.get("apiGroups") or ()))
        and bool(resources & set(rule.get("resources") or ()))
        and (not names or question.name in names)
    )


def refusal_text(user: User, question: Question) -> str:
    """Return what the API says to who may not."""
    plural = question.resource.partition("/")[0]
    subject = f"{plural}.{question.group}" if question.group else plural
    name = f' "{question.name}"' if question.name else ""
    where = (
        f'in the namespace "{question.namespace}"' if question.namespace else "at the cluster scope"
    )
    return (
        f'{subject}{name} is forbidden: User "{user.name}" cannot {question.verb} resource'
        f' "{question.resource}" in API group "{question.group}" {where}'
    )
