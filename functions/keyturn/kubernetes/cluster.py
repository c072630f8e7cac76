"""Which cluster, and how to be let in: EKS, GKE, or any API server with a token.

    eks     the address by DescribeCluster, a token that is a presigned request to STS
    gke     the address by the Container API, the token of Google's default credentials
    server  an address, an authority, and a token that is a secret of the store

What a plan says is a `ClusterShape`. A token is made anew when it is about to expire, and never
written anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec

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
