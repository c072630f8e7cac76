"""The kinds of objects that the fake Kubernetes API serves from its start, and how each is."""

from __future__ import annotations

from dataclasses import dataclass

ALL_VERBS = ("create", "delete", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of objects.

    Attributes:
        group: "" is the core group.
        versions: Those that are served, the preferred one first.
        plural: As in the URL.
        kind: As in an object.
        short: Other names that kubectl accepts.
        is_namespaced: Its objects are in a namespace.
        has_status: Its status is written by a path of its own, and by that only.
        has_generation: Its objects count the changes of their wish in `metadata.generation`.
        is_custom: Of a CustomResourceDefinition: no strategic patches, no unconditional PUT.
    """

    group: str
    versions: tuple[str, ...]
    plural: str
    kind: str
    short: tuple[str, ...] = ()
    is_namespaced: bool = True
    has_status: bool = False
    has_generation: bool = False
    is_custom: bool = False

    @property
    def resource(self) -> str:
        """Its name in messages: `externalsecrets.external-secrets.io`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def api_version(self, version: str) -> str:
        """Return what an object of this kind has as its `apiVersion`."""
        return f"{self.group}/{version}" if self.group else version


def _core(
    plural: str, kind: str, *short: str, namespaced: bool = True, status: bool = False
) -> Kind:
    return Kind("", ("v1",), plural, kind, short, namespaced, status)


def _workload(plural: str, kind: str, *short: str) -> Kind:
    return Kind("apps", ("v1",), plural, kind, short, has_status=True, has_generation=True)


def _rbac(plural: str, kind: str, *, namespaced: bool) -> Kind:
    return Kind("rbac.authorization.k8s.io", ("v1",), plural, kind, is_namespaced=namespaced)


def _custom(
    group: str, version: str, plural: str, kind: str, *short: str, namespaced: bool = True
) -> Kind:
    return Kind(
        *(group, (version,), plural, kind, short),
        is_namespaced=namespaced,
        has_status=True,
        has_generation=True,
        is_custom=True,
    )


_ESO = "external-secrets.io"
_CSI = "secrets-store.csi.x-k8s.io"

KINDS: tuple[Kind, ...] = (
    _core("namespaces", "Namespace", "ns", namespaced=False, status=True),
    _core("secrets", "Secret"),
    _core("configmaps", "ConfigMap", "cm"),
    _core("pods", "Pod", "po", status=True),
    _core("events", "Event", "ev"),
    _core("serviceaccounts", "ServiceAccount", "sa"),
    _core("services", "Service", "svc", status=True),
    _workload("deployments", "Deployment", "deploy"),
    _workload("statefulsets", "StatefulSet", "sts"),
    _workload("daemonsets", "DaemonSet", "ds"),
    _workload("replicasets", "ReplicaSet", "rs"),
    Kind("apps", ("v1",), "controllerrevisions", "ControllerRevision"),
    Kind("batch", ("v1",), "jobs", "Job", has_status=True, has_generation=True),
    Kind("batch", ("v1",), "cronjobs", "CronJob", ("cj",), has_status=True, has_generation=True),
    _rbac("roles", "Role", namespaced=True),
    _rbac("rolebindings", "RoleBinding", namespaced=True),
    _rbac("clusterroles", "ClusterRole", namespaced=False),
    _rbac("clusterrolebindings", "ClusterRoleBinding", namespaced=False),
    Kind(
        *("apiextensions.k8s.io", ("v1",), "customresourcedefinitions", "CustomResourceDefinition"),
        ("crd", "crds"),
        is_namespaced=False,
        has_status=True,
        has_generation=True,
    ),
    # ESO 2.9 has v1beta1 in its definitions and does not serve it.
    _custom(_ESO, "v1", "externalsecrets", "ExternalSecret", "es"),
    _custom(_ESO, "v1", "secretstores", "SecretStore", "ss"),
    _custom(_ESO, "v1", "clustersecretstores", "ClusterSecretStore", "css", namespaced=False),
    _custom("bitnami.com", "v1alpha1", "sealedsecrets", "SealedSecret"),
    Kind(_CSI, ("v1",), "secretproviderclasses", "SecretProviderClass", is_custom=True,
         has_generation=True),
    # Its status is no path of its own.
    Kind(_CSI, ("v1",), "secretproviderclasspodstatuses", "SecretProviderClassPodStatus",
         is_custom=True, has_generation=True),
)  # fmt: skip
