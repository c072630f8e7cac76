"""A copy as a Kubernetes Secret, as plain as those are: whoever may read it there has the value.

    without `key`   each member of the JSON document is a key of `data`
    with `key`      one key, which holds the copy in whatever form

`data` becomes exactly that: keys that are no longer members go. An annotation says which version it
is, written in the same act; see `keyturn.destinations.marked_object` for whose a Secret is.
"""

from __future__ import annotations

import base64
from typing import Annotated, Any

import msgspec

from keyturn.destinations import secret_data
from keyturn.destinations.marked_object import MarkedObject, replaced
from keyturn.followers import CopyShape, Given, Name, Namespace, NonEmpty, given
from keyturn.kubernetes.api import Object, Resource
from keyturn.kubernetes.cluster import ClusterShape
from keyturn.model import Sensitive, Version
from keyturn.ports import Held


class KubernetesSecretShape(CopyShape, frozen=True, kw_only=True):
    """A Secret in a Kubernetes cluster."""

    namespace: Annotated[Namespace, msgspec.Meta(description="The namespace that it is in.")]
    name: Annotated[Name, msgspec.Meta(description="The object's name.")]
    key: (
        Annotated[
            str,
            msgspec.Meta(
                description="The one key that holds the copy; without it, a key for each member.",
                pattern=secret_data.KEY,
            ),
        ]
        | msgspec.UnsetType
    ) = msgspec.UNSET
    type: (
        Annotated[
            NonEmpty,
            msgspec.Meta(description="The Secret's type, such as `kubernetes.io/tls`; Opaque."),
        ]
        | msgspec.UnsetType
    ) = msgspec.UNSET
    labels: Annotated[
        dict[str, str], msgspec.Meta(description="Labels that the object gets, besides its own.")
    ] = msgspec.field(default_factory=dict)
    cluster: (
        Annotated[ClusterShape, msgspec.Meta(description="Its cluster, if not the plan's.")]
        | msgspec.UnsetType
    ) = msgspec.UNSET

    def place(self) -> tuple[str, ...]:
        """See `CopyShape.place`."""
        return repr(self.cluster), self.namespace, self.name


SHAPES = {"kubernetes-secret": KubernetesSecretShape}
FIXES = {
    "kubernetes-secret": "Write a mapping with `namespace` and `name`.",
    "namespace": "Write the namespace that it is in.",
    "name": "Write the object's name, in small letters, digits, `-` and `.`.",
    "key": "Write a key of letters, digits, `-`, `_` and `.`, such as `key: url`.",
    "type": "Write the Secret's type, such as `type: kubernetes.io/basic-auth`, or remove it.",
    "labels": "Write a mapping of texts, such as `labels: {app: orders}`.",
}

PERMISSIONS = ("create secrets", "get secrets", "patch secrets")
"""RBAC's verbs, in the namespace: `get` and `patch` on that name alone. `create` cannot be limited
to a name (RBAC: "Referring to resources"); without it, somebody makes the Secret and hands it over.
"""

SECRETS = Resource("", "v1", "secrets")


def make(kind: str, settings: KubernetesSecretShape, given: Given) -> KubernetesSecret:
    """Make the destination that a plan names.

    Raises:
        Misconfigured: The form has no members, and there is no `key` for it.
    """
    del kind
    return KubernetesSecret(settings, given)


class KubernetesSecret:
    """A `Destination`."""

    def __init__(self, settings: KubernetesSecretShape, around: Given) -> None:
        self._settings = settings
        self._key: str | None = given(settings.key)
        own = given(settings.cluster)
        kubernetes = around.cluster(own)
        where = f" in {kubernetes.name}" if own else ""
        self._name = f"kubernetes-secret {settings.namespace}/{settings.name}{where}"
        if self._key is None:
            secret_data.require_members(settings.form, self._name)
        self._object = MarkedObject(
            kubernetes,
            SECRETS,
            {"apiVersion": "v1", "kind": "Secret"},
            *(settings.namespace, settings.name),
            around.secret,
            self._name,
        )

    def name(self) -> str:
        """See `Destination.name`."""
        return self._name

    def holds(self) -> Held:
        """See `Destination.holds`."""
        return self._object.holds()

    def deliver(self, version: Version, text: Sensitive, seen: Held) -> None:
        """See `Destination.deliver`.

        Raises:
            Misconfigured: The Secret is immutable, or has another type, which cannot be changed.
        """
        where = f"{self._name}: version {version.rotation_id}"

        def change(old: Object) -> dict[str, Any]:
            type_ = given(self._settings.type) or old.get("type") or secret_data.OPAQUE
            if old:
                secret_data.require_changeable(old, type_, self._name)
            found = secret_data.data(text, self._key, type_, where)
            encoded = {
                key: base64.b64encode(secret_data.plain(value, where)).decode()
                for key, value in found.items()
            }
            return {
                "metadata": {"labels": dict(self._settings.labels)},
                "type": type_,
                "data": replaced(old.get("data"), encoded),
            }

        self._object.write(version.rotation_id, seen, change)
