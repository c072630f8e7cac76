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
import re
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from keyturn.access import Access
from keyturn.boundary import ask_aws
from keyturn.errors import Denied, KeyturnError, Misconfigured, Unreachable
from keyturn.google.credentials import default_token
from keyturn.kubernetes.api import Kubernetes
from keyturn.model import Sensitive, Surroundings
from keyturn.ports import Clients
from keyturn.shapes import Place, Shape, refusal

if TYPE_CHECKING:
    from keyturn.line import Answer

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


KINDS: Mapping[str, tuple[str, ...]] = {
    "eks": ("region",),
    "gke": (),
    "server": ("ca", "token_secret"),
}
"""The ways to name a cluster, and what goes with each."""

_NAMES: Mapping[str, re.Pattern[str]] = {
    "eks": re.compile(r"[0-9A-Za-z][\w-]{0,99}", re.ASCII),  # EKS: API_CreateCluster, `name`
    "region": re.compile(r"[a-z]{2,}(-[a-z]+)+-[0-9]+"),
    "gke": re.compile(r"projects/\w[\w.:-]*/locations/\w[\w-]*/clusters/\w[\w-]*", re.ASCII),
    "server": re.compile(r"[\w.:/\[\]-]+", re.ASCII),  # no user and password before the host
}


def checked(shape: ClusterShape, place: Place) -> ClusterShape:
    """Return *shape*, which names one cluster, with what goes with that and nothing else.

    Raises:
        Misconfigured: It does not.
    """
    members = {each: _said(getattr(shape, each)) for each in shape.__struct_fields__}
    found = {key: value for key, value in members.items() if value is not None}
    kinds = [kind for kind in KINDS if kind in found]
    if len(kinds) != 1:
        raise refusal(place, "is not exactly one of eks, gke and server", _ONE_OF)
    [kind] = kinds
    for key, value in found.items():
        if key not in (kind, *KINDS[kind]):
            raise refusal(place.at(key), f"does not go with `{kind}`", "Remove one of the two.")
        if key in _NAMES and not _NAMES[key].fullmatch(value):
            raise refusal(place.at(key), "is no such name", FIXES[key])
    if kind == "server" and "token_secret" not in found:
        raise refusal(place, "has no `token_secret`", FIXES["token_secret"])
    return shape


_ONE_OF = "Write `eks: NAME`, `gke: projects/..`, or `server`, `ca` and `token_secret`."

PERMISSIONS = ("eks:DescribeCluster",)
"""On the EKS cluster. The token needs none: it is signed here, and the cluster shows it to STS.
On Google it is `container.clusters.get`, and for a DNS endpoint `container.clusters.connect`."""


def kubernetes(
    shape: ClusterShape,
    clients: Clients,
    signing_secret: Callable[[str], Sensitive],
    surroundings: Surroundings,
    *,
    google: str = "https://container.googleapis.com",
) -> Kubernetes:
    """Make the client of a cluster. No I/O.

    Args:
        shape: As `checked` lets it pass.
        clients: Makes a client of an AWS service, by its name and a region or None.
        signing_secret: Reads the text of a secret.
        surroundings: What the deployment allows.
        google: The address of Google's Container API.
    """
    eks, gke, server = map(_said, (shape.eks, shape.gke, shape.server))
    if eks is not None:
        region = _said(shape.region)
        name = f"eks:{region}/{eks}" if region else f"eks:{eks}"
        return Kubernetes(name, lambda: _eks(name, eks, region, clients), surroundings)
    if gke is not None:
        name = f"gke:{gke}"
        return Kubernetes(name, lambda: _gke(name, gke, google, surroundings), surroundings)
    address, ca, secret = server or "", _said(shape.ca), _said(shape.token_secret) or ""
    token = _Token(lambda: _bearer(secret, signing_secret(secret)), REREAD_AFTER_S)
    return Kubernetes(address, lambda: Access(address, ca, token), surroundings)


def _said(value: str | msgspec.UnsetType) -> str | None:
    return None if isinstance(value, msgspec.UnsetType) else value


class _Token:
    """A token that is made anew when it is old, or was refused.

    Its age is by the clock that servers go by: another one may stand still with a frozen function.
    """

    def __init__(self, make: Callable[[], Sensitive], lasts_s: float) -> None:
        self._make = make
        self._lasts_s = lasts_s
        self._lock = threading.Lock()
        self._made: tuple[float, Sensitive] | None = None

    def __call__(self, is_new: bool) -> Sensitive:  # noqa: FBT001  # see `Access.token`
        with self._lock:
            now = time.time()
            is_young = self._made is not None and 0 <= now - self._made[0] < self._lasts_s
            if self._made is None or is_new or not is_young:
                self._made = now, self._make()
            return self._made[1]


# ---------------------------------------------------------------------------- EKS

EKS_TOKEN_LASTS_S = 14 * 60
"""The API server takes a token for 15 minutes from its date, whatever expiry it names
(aws-iam-authenticator, token verifier)."""

EKS_TOKEN_EXPIRES_S = 60
"""What the token itself says; at most 900 are allowed, and STS does not care."""


def _eks(name: str, cluster: str, region: str | None, clients: Clients) -> Access:
    eks = clients("eks", region)
    found = ask_aws(
        "DescribeCluster",
        name,
        lambda: eks.describe_cluster(name=cluster)["cluster"],
        {"ResourceNotFoundException": None},
    )
    if found is None:
        raise Misconfigured(
            f"{name}: there is no such cluster in {eks.meta.region_name}",
            remedy="Correct the cluster's name in the plan, or give its `region`.",
        )
    authority = _pem(name, (found.get("certificateAuthority") or {}).get("data"))
    sts = clients("sts", eks.meta.region_name)
    token = _Token(lambda: eks_token(sts, cluster), EKS_TOKEN_LASTS_S)
    return Access(_endpoint(name, found.get("endpoint")), authority, token)


def eks_token(sts: Any, cluster: str) -> Sensitive:
    """Return a token for an EKS cluster: a presigned GetCallerIdentity, which it shows to STS.

    Signed here, with the credentials of *sts*, a client of the cluster's region; nothing is sent.
    The header `x-k8s-aws-id` binds it to the cluster, and the prefix says what it is
    (aws-iam-authenticator: API Authorization from Outside a Cluster).
    """
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
        "url": f"https://{_sts_host(meta)}/?Action=GetCallerIdentity&Version=2011-06-15",
        "body": {},
        "headers": {"x-k8s-aws-id": cluster},
        "context": {},
    }
    sign = partial(
        signer.generate_presigned_url,
        *(request, ""),
        region_name=meta.region_name,
        expires_in=EKS_TOKEN_EXPIRES_S,
    )
    url = ask_aws("GetCallerIdentity", f"eks:{cluster}", sign)
    return Sensitive(f"k8s-aws-v1.{base64.urlsafe_b64encode(url.encode()).decode().rstrip('=')}")


def _sts_host(meta: Any) -> str:
    """Return the regional STS, which a cluster accepts, whatever endpoint is configured."""
    import botocore.session

    known = botocore.session.get_session().get_data("partitions")["partitions"]
    [suffix] = [each["outputs"]["dnsSuffix"] for each in known if each["id"] == meta.partition]
    return f"sts.{meta.region_name}.{suffix}"


def _endpoint(name: str, found: object) -> str:
    if isinstance(found, str) and found:
        return found
    raise Unreachable(f"{name}: it has no endpoint yet", remedy="Wait until the cluster is active.")


def _pem(name: str, data: object) -> str:
    """Decode the authority that a cloud names for a cluster: PEM in base64."""
    try:
        text = base64.b64decode(str(data or ""), validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        text = ""
    if "-----BEGIN CERTIFICATE-----" in text:
        return text
    raise Unreachable(
        f"{name}: it has no certificate authority yet", remedy="Wait until the cluster is active."
    )


# ---------------------------------------------------------------------------- GKE


def _gke(name: str, path: str, google: str, surroundings: Surroundings) -> Access:
    from keyturn.line import Line, Request

    token = default_token(name)
    line = Line(name, Access(google, None, token), surroundings)
    request = Request("ask the Container API for the cluster", "GET", f"/v1/{path}")
    found = _google_answer(name, line.ask(request))
    ends = found.get("controlPlaneEndpointsConfig") or {}
    dns = ends.get("dnsEndpointConfig") or {}
    # From outside of the cluster's network the name is the way in, if it is open at all
    # (Container API: DNSEndpointConfig.allowExternalTraffic). A public authority vouches for it.
    if dns.get("allowExternalTraffic") is True and dns.get("endpoint"):
        return Access(f"https://{_endpoint(name, dns['endpoint'])}", None, token)
    authority = _pem(name, (found.get("masterAuth") or {}).get("clusterCaCertificate"))
    return Access(f"https://{_endpoint(name, found.get('endpoint'))}", authority, token)


_GOOGLE_REFUSALS: Mapping[int, tuple[type[KeyturnError], str]] = {
    401: (Denied, "Give the function credentials that Google knows."),
    403: (Denied, "Give the function `container.clusters.get` on the cluster."),
    404: (Misconfigured, "Correct the cluster's name in the plan."),
}


def _google_answer(name: str, answer: Answer) -> Mapping[str, Any]:
    """Read the cluster (Container API, projects.locations.clusters.get)."""
    found = _object(answer.body.decode("utf-8", "replace"))
    if answer.status == _OK and found is not None:
        return found
    kind, remedy = _GOOGLE_REFUSALS.get(
        answer.status, (Unreachable, "Look at the Container API's status.")
    )
    raise kind(f"{name}: the Container API answered {answer.status}", remedy=remedy)


_OK = 200


def _object(text: str) -> Mapping[str, Any] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


# ---------------------------------------------------------------------------- any server

REREAD_AFTER_S = 5 * 60
"""A token may be replaced in the store at any time; a refused one is read again at once."""


def _bearer(name: str, text: Sensitive) -> Sensitive:
    """Return the token in a secret: its member `token`, or the whole of it."""
    found = _object(text.reveal())
    token = text.reveal() if found is None else found.get("token")
    stripped = token.strip() if isinstance(token, str) else ""
    if stripped and stripped.isascii() and stripped.isprintable() and " " not in stripped:
        return Sensitive(stripped)
    raise Misconfigured(
        f"the secret {name}, a cluster's `token_secret`, holds no token",
        remedy="Store the bearer token, or an object with the member `token`.",
    )
