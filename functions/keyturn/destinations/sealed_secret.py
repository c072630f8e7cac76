"""A copy as a SealedSecret, which a controller in the cluster opens into a Secret of that name.

The value is sealed here, key by key (`keyturn.destinations.sealed_value`), for the controller's
certificate: one in the plan, or else the one that the controller serves. Nothing leaves this
function that anybody else could open.

That the object holds a version says not yet that the Secret does: the controller has to open it,
and may be unable to. The annotation goes into the template, too, so the Secret says of itself which
version it is.

Rules: sealed-secrets, bitnami.com/v1alpha1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec

from keyturn.destinations import sealed_value, secret_data
from keyturn.destinations.marked_object import MarkedObject, replaced, without_nulls
from keyturn.destinations.sealed_value import Certificate, Scope
from keyturn.errors import Misconfigured
from keyturn.followers import CopyShape, Given, Name, Namespace, NonEmpty, given
from keyturn.kubernetes.api import Kubernetes, Object, Resource
from keyturn.kubernetes.cluster import ClusterShape
from keyturn.kubernetes.marks import mark_of
from keyturn.model import RotationId, Sensitive, Version
from keyturn.ports import Held

DEFAULT_CONTROLLER = "kube-system/sealed-secrets-controller"
"""Where kubeseal looks for it, too."""

_PART = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"


@dataclass(frozen=True, slots=True)
class Whose:
    """What a SealedSecret is made for.

    Attributes:
        secret: The secret's name in its store.
    """

    namespace: str
    name: str
    scope: Scope
    secret: str
    version_id: RotationId


class SealedSecretShape(CopyShape, frozen=True, kw_only=True):
    """A SealedSecret, which its controller opens into a Secret."""

    namespace: Annotated[Namespace, msgspec.Meta(description="The namespace that it is in.")]
    name: Annotated[Name, msgspec.Meta(description="The object's name, and the Secret's.")]
    scope: Annotated[
        Literal["strict", "namespace-wide", "cluster-wide"],
        msgspec.Meta(description="Where its values may be opened."),
    ] = "strict"
    certificate: (
        Annotated[
            NonEmpty,
            msgspec.Meta(
                description="The controller's, as PEM text; without it, the one that it serves."
            ),
        ]
        | msgspec.UnsetType
    ) = msgspec.UNSET
    controller: Annotated[
        str,
        msgspec.Meta(
            description="Without `certificate`: NAMESPACE/SERVICE of the controller that serves"
            " it, with :PORT if that has not the name `http`.",
            pattern=rf"^{_PART}/{_PART}(:([0-9]{{1,5}}|[a-z0-9-]{{1,15}}))?$",
        ),
    ] = DEFAULT_CONTROLLER
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
    cluster: (
        Annotated[ClusterShape, msgspec.Meta(description="Its cluster, if not the plan's.")]
        | msgspec.UnsetType
    ) = msgspec.UNSET

    def place(self) -> tuple[str, ...]:
        """See `CopyShape.place`."""
        return repr(self.cluster), self.namespace, self.name

    def whose(self, secret: str, version_id: RotationId) -> Whose:
        """Say what the object is made for."""
        return Whose(self.namespace, self.name, Scope(self.scope), secret, version_id)


SHAPES = {"sealed-secret": SealedSecretShape}
FIXES = {
    "sealed-secret": "Write a mapping with `namespace` and `name`.",
    "namespace": "Write the namespace that it is in.",
    "name": "Write the object's name, in small letters, digits, `-` and `.`.",
    "scope": "Write `strict`, `namespace-wide` or `cluster-wide`.",
    "certificate": "Write the PEM text that `kubeseal --fetch-cert` shows, or remove it.",
    "controller": f"Write NAMESPACE/SERVICE, such as `controller: {DEFAULT_CONTROLLER}`.",
    "key": "Write a key of letters, digits, `-`, `_` and `.`, such as `key: url`.",
    "type": "Write the Secret's type, such as `type: kubernetes.io/basic-auth`, or remove it.",
}

PERMISSIONS = (
    "create sealedsecrets.bitnami.com",
    "get sealedsecrets.bitnami.com",
    "patch sealedsecrets.bitnami.com",
    "get services/proxy",
)
"""RBAC's verbs: the first three in the namespace, `get` and `patch` on that name alone; the last in
the controller's, on `http:SERVICE:PORT` alone, and only without `certificate`. No right to Secrets.
"""

SEALED_SECRETS = Resource("bitnami.com", "v1alpha1", "sealedsecrets")
KIND: Mapping[str, str] = {"apiVersion": "bitnami.com/v1alpha1", "kind": "SealedSecret"}


def make(kind: str, settings: SealedSecretShape, given: Given) -> SealedSecret:
    """Make the destination that a plan names.

    Raises:
        Misconfigured: The form has no members, and there is no `key` for it.
    """
    del kind
    return SealedSecret(settings, given)


class SealedSecret:
    """A `Destination`."""

    def __init__(self, settings: SealedSecretShape, around: Given) -> None:
        self._settings = settings
        own = given(settings.cluster)
        self._kubernetes: Kubernetes = around.cluster(own)
        where = f" in {self._kubernetes.name}" if own else ""
        self._name = f"sealed-secret {settings.namespace}/{settings.name}{where}"
        if given(settings.key) is None:
            secret_data.require_members(settings.form, self._name)
        self._secret = around.secret
        self._object = MarkedObject(
            self._kubernetes,
            SEALED_SECRETS,
            KIND,
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
        """See `Destination.deliver`. What was sealed before for other keys goes.

        Raises:
            Misconfigured: The certificate cannot be used, or the Secret's template says that it is
                immutable, or of another type, which cannot be changed.
        """
        where = f"{self._name}: version {version.rotation_id}"

        def change(old: Object) -> dict[str, Any]:
            spec: Mapping[str, Any] = old.get("spec") or {}
            template: Mapping[str, Any] = spec.get("template") or {}
            type_ = given(self._settings.type) or template.get("type") or secret_data.OPAQUE
            if old:
                secret_data.require_changeable(template, type_, self._name)
            found = secret_data.data(text, given(self._settings.key), type_, where)
            whose = self._settings.whose(self._secret, version.rotation_id)
            made = body(whose, self._certificate(), found, type_)
            spec_now = made["spec"]
            spec_now["encryptedData"] = replaced(
                spec.get("encryptedData"), spec_now["encryptedData"]
            )
            return made

        self._object.write(version.rotation_id, seen, change)

    def _certificate(self) -> Certificate:
        pem: str | None = given(self._settings.certificate)
        if pem is None:
            pem = self._served()
        return sealed_value.certificate(pem, datetime.now(UTC), self._name)

    def _served(self) -> str:
        """Ask the controller, the way kubeseal does: by the API server's proxy."""
        namespace, _, service = self._settings.controller.partition("/")
        name, _, port = service.partition(":")
        # The service of sealed-secrets calls its port `http` (its manifests and its chart).
        address = f"http:{name}:{port or 'http'}"
        pem = self._kubernetes.ask_service(namespace, address, "/v1/cert.pem")
        if pem is None:
            raise Misconfigured(
                f"{self._name}: there is no service {name} in {namespace}",
                remedy="Write under `controller` where the Sealed Secrets controller is, or give"
                " its `certificate`.",
            )
        return pem


# ---------------------------------------------------------------------------- the object


def manifest(
    whose: Whose, certificate: Certificate, found: Mapping[str, Sensitive], type_: str
) -> dict[str, Any]:
    """Return the whole object, as a file in Git would have it. `keyturn seal` prints it."""
    place = {"name": whose.name, "namespace": whose.namespace}
    made = without_nulls(body(whose, certificate, found, type_))
    return {**KIND, **made, "metadata": {**place, **made["metadata"]}}


def body(
    whose: Whose, certificate: Certificate, found: Mapping[str, Sensitive], type_: str
) -> dict[str, Any]:
    """Seal *found*, the text of each key, and return what is to be merged; None removes.

    The scope stands on the object, where the controller reads it, and in the template, from which
    kubeseal would seal again.
    """
    label = whose.scope.label(whose.namespace, whose.name)
    where = f"{whose.namespace}/{whose.name}"
    annotations = {**whose.scope.annotations(), mark_of(whose.secret): whose.version_id}
    place = {"name": whose.name, "namespace": whose.namespace}
    sealed = {
        key: sealed_value.sealed(certificate, label, text, where) for key, text in found.items()
    }
    template = {"metadata": {**place, "annotations": annotations}, "type": type_}
    return {
        "metadata": {"annotations": dict(annotations)},
        "spec": {"encryptedData": sealed, "template": template},
    }
