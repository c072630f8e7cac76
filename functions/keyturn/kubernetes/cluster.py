"""Which cluster, and how to be let in: EKS, GKE, or any API server with a token.

    eks     the address by DescribeCluster, a token that is a presigned request to STS
    gke     the address by the Container API, the token of Google's default credentials
    server  an address, an authority, and a token that is a secret of the store

What a plan says is a `ClusterShape`. A token is made anew when it is about to expire, and never
written anywhere.
"""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgspec

from keyturn.boundary import ask_aws
from keyturn.errors import Denied, KeyturnError, Misconfigured, Unreachable
from keyturn.kubernetes.api import Access, Kubernetes
from keyturn.model import Sensitive, Surroundings
from keyturn.ports import Clients
from keyturn.shapes import Shape

_Text = Annotated[str, msgspec.Meta(min_length=1)]


class ClusterShape(Shape, frozen=True, kw_only=True):
    """A cluster: exactly one of `eks`, `gke` and `server`."""

    eks: (
        Annotated[_Text, msgspec.Meta(description="The EKS cluster's name.")] | msgspec.UnsetType
    ) = msgspec.UNSET
    region: (
        Annotated[_Text, msgspec.Meta(description="With `eks`: its region, if not the function's.")]
        | msgspec.UnsetType
    ) = msgspec.UNSET
    gke: (
        Annotated[
            str,
            msgspec.Meta(
                description="projects/../locations/../clusters/..",
                pattern=r"^projects/[^/]+/locations/[^/]+/clusters/[^/]+$",
            ),
        ]
        | msgspec.UnsetType
    ) = msgspec.UNSET
    server: (
        Annotated[
            str,
            msgspec.Meta(description="The API server's address.", pattern=r"^https?://[^/?#]+$"),
        ]
        | msgspec.UnsetType
    ) = msgspec.UNSET
    ca: (
        Annotated[_Text, msgspec.Meta(description="With `server`: its authority, as PEM text.")]
        | msgspec.UnsetType
    ) = msgspec.UNSET
    token_secret: (
        Annotated[
            _Text,
            msgspec.Meta(description="With `server`: the secret that holds the bearer token."),
        ]
        | msgspec.UnsetType
    ) = msgspec.UNSET


FIXES: Mapping[str, str] = {
    "eks": "Write the cluster's name.",
    "region": "Write the region of the EKS cluster, or remove it.",
    "gke": "Write `projects/PROJECT/locations/LOCATION/clusters/NAME`.",
    "server": "Write the API server's address, such as `server: https://10.0.0.1:6443`.",
    "ca": "Write the PEM text of the authority that has signed the server's certificate.",
    "token_secret": "Name the secret in the store that holds the bearer token.",
}


PERMISSIONS = ("eks:DescribeCluster",)
"""On the EKS cluster. The token needs none: it is signed here, and the cluster shows it to STS."""

EKS_TOKEN_LASTS_S = 14 * 60
"""The API server takes a token for 15 minutes from its date, whatever expiry it names
(aws-iam-authenticator, token verifier)."""

EKS_TOKEN_EXPIRES_S = 60


def kubernetes(
    shape: ClusterShape,
    clients: Clients,
    signing_secret: Callable[[str], Sensitive],
    surroundings: Surroundings,
) -> Kubernetes:
    """Make the client of a cluster. No I/O.

    Args:
        shape: Checked: exactly one of `eks`, `gke` and `server`.
        clients: Makes a client of an AWS service, by its name and a region or None.
        signing_secret: Reads the text of a secret.
        surroundings: What the deployment allows.
    """
    eks, gke, server = map(_said, (shape.eks, shape.gke, shape.server))
    if eks is not None:
        region = _said(shape.region)
        return Kubernetes(f"eks:{eks}", lambda: _eks(eks, region, clients), surroundings)
    if gke is not None:
        return Kubernetes(f"gke:{gke}", lambda: _gke(gke, surroundings), surroundings)
    address = server or ""
    return Kubernetes(address, lambda: _generic(address, shape, signing_secret), surroundings)


def _said(value: str | msgspec.UnsetType) -> str | None:
    return None if isinstance(value, msgspec.UnsetType) else value


class _Token:
    """A token that is made anew when it has lasted, or was refused."""

    def __init__(self, make: Callable[[], Sensitive], lasts_s: float) -> None:
        self._make = make
        self._lasts_s = lasts_s
        self._made: tuple[float, Sensitive] | None = None

    def __call__(self, is_new: bool) -> Sensitive:  # noqa: FBT001  # see `Access.token`
        if self._made is None or is_new or time.monotonic() >= self._made[0]:
            self._made = time.monotonic() + self._lasts_s, self._make()
        return self._made[1]


# ---------------------------------------------------------------------------- EKS


def _eks(name: str, region: str | None, clients: Clients) -> Access:
    eks = clients("eks", region)
    found = ask_aws("DescribeCluster", f"eks:{name}", lambda: eks.describe_cluster(name=name))
    cluster: Mapping[str, Any] = found["cluster"]
    authority = _pem(f"eks:{name}", cluster.get("certificateAuthority", {}).get("data"))
    sts = clients("sts", eks.meta.region_name)
    return Access(
        str(cluster.get("endpoint") or ""),
        authority,
        _Token(lambda: eks_token(sts, name), EKS_TOKEN_LASTS_S),
    )


def eks_token(sts: Any, cluster: str) -> Sensitive:
    """Return a token for an EKS cluster: a presigned GetCallerIdentity, which it shows to STS.

    Signed here, with the credentials of *sts*, a client of the cluster's region; nothing is sent.
    The header `x-k8s-aws-id` binds it to the cluster, and the prefix says what it is
    (aws-iam-authenticator: API Authorization from Outside a Cluster).
    """
    from botocore.exceptions import BotoCoreError
    from botocore.signers import RequestSigner

    meta = sts.meta
    signer = RequestSigner(
        meta.service_model.service_id,
        meta.region_name,
        "sts",
        "v4",
        sts._get_credentials(),  # noqa: SLF001  # a client has no public way to sign with a header
        meta.events,
    )
    request = {
        "method": "GET",
        "url": f"{_sts_url(meta)}/?Action=GetCallerIdentity&Version=2011-06-15",
        "body": {},
        "headers": {"x-k8s-aws-id": cluster},
        "context": {},
    }
    try:
        url = signer.generate_presigned_url(
            request, region_name=meta.region_name, expires_in=EKS_TOKEN_EXPIRES_S, operation_name=""
        )
    except BotoCoreError as error:
        failure = type(error).__name__
    else:
        encoded = base64.urlsafe_b64encode(url.encode()).decode().rstrip("=")
        return Sensitive(f"k8s-aws-v1.{encoded}")
    raise Denied(
        f"eks:{cluster}: no token could be signed ({failure})",
        remedy="Give the function a role; its credentials sign the token.",
    )


def _sts_url(meta: Any) -> str:
    """Return the regional STS, which an EKS cluster accepts, whatever endpoint is configured."""
    suffix = "amazonaws.com.cn" if meta.region_name.startswith("cn-") else "amazonaws.com"
    return f"https://sts.{meta.region_name}.{suffix}"


# ---------------------------------------------------------------------------- GKE

GKE_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
GKE_API = "https://container.googleapis.com/v1"


def _gke(name: str, surroundings: Surroundings) -> Access:
    try:
        import google.auth
        import google.auth.transport.urllib3 as transport
        from google.auth.exceptions import GoogleAuthError
    except ImportError:
        raise Misconfigured(
            f"gke:{name}: this function was packed without google-auth",
            remedy="Add google-auth to the function's requirements.",
        ) from None
    import urllib3

    del surroundings
    pool = urllib3.PoolManager(timeout=urllib3.Timeout(connect=3.0, read=8.0))
    reason = ""
    try:
        credentials, _ = google.auth.default(scopes=[GKE_SCOPE])
    except GoogleAuthError as error:
        reason = type(error).__name__
    if reason:
        raise _no_google(name, reason)

    def token() -> Sensitive:
        failure = ""
        try:
            credentials.refresh(transport.Request(pool))
        except GoogleAuthError as error:
            failure = type(error).__name__
        if failure:
            raise _no_google(name, failure)
        return Sensitive(str(credentials.token))

    issued = _Token(token, 30 * 60)
    found = _container(pool, name, issued(False))  # noqa: FBT003  # see `Access.token`
    master = found.get("masterAuth") or {}
    return Access(
        f"https://{found.get('endpoint')}",
        _pem(f"gke:{name}", master.get("clusterCaCertificate")),
        issued,
    )


def _container(pool: Any, name: str, token: Sensitive) -> Mapping[str, Any]:
    """Ask the Container API where the cluster is (projects.locations.clusters.get)."""
    import urllib3

    failure = ""
    try:
        response = pool.request(
            "GET",
            f"{GKE_API}/{name}",
            headers={"Authorization": f"Bearer {token.reveal()}"},
            retries=False,
            redirect=False,
        )
        if response.status == 200:  # noqa: PLR2004
            found: Mapping[str, Any] = json.loads(response.data)
            return found
        failure = f"answered {response.status}"
    except (urllib3.exceptions.HTTPError, ValueError) as error:
        failure = f"gave no answer ({type(error).__name__})"
    kinds: Mapping[str, type[KeyturnError]] = {
        "answered 401": Denied,
        "answered 403": Denied,
        "answered 404": Misconfigured,
    }
    raise kinds.get(failure, Unreachable)(
        f"gke:{name}: the Container API {failure}",
        remedy="Correct the cluster's name, and give the function container.clusters.get on it.",
    )


def _no_google(name: str, failure: str) -> Denied:
    return Denied(
        f"gke:{name}: Google gave no token ({failure})",
        remedy="Set up Google's default credentials: a service account, or workload federation.",
    )


# ---------------------------------------------------------------------------- any server


def _generic(
    address: str, shape: ClusterShape, signing_secret: Callable[[str], Sensitive]
) -> Access:
    name = _said(shape.token_secret)
    if name is None:
        raise Misconfigured(
            f"{address}: the plan names no `token_secret`",
            remedy="Name the secret that holds the bearer token.",
        )
    return Access(address, _said(shape.ca), _Token(lambda: _bearer(signing_secret(name)), 5 * 60))


def _bearer(text: Sensitive) -> Sensitive:
    """Return the token in a secret: its member `token`, or the whole of it."""
    try:
        found = json.loads(text.reveal())
    except ValueError:
        found = None
    token = found.get("token") if isinstance(found, dict) else text.reveal()
    stripped = str(token or "").strip()
    if stripped and stripped.isascii() and stripped.isprintable():
        return Sensitive(stripped)
    raise Misconfigured(
        "the cluster's `token_secret` holds no token",
        remedy="Store the bearer token, or an object with the member `token`.",
    )


def _pem(name: str, data: object) -> str:
    """Decode the authority that a cloud names for a cluster: PEM in base64."""
    try:
        text = base64.b64decode(str(data or ""), validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        text = ""
    if "-----BEGIN CERTIFICATE-----" in text:
        return text
    raise Unreachable(
        f"{name}: it has no certificate authority yet",
        remedy="Wait until the cluster is active.",
    )
