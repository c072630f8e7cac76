"""What follows a rotation, as a plan declares it: the settings of destinations and consumers.

Each module of `destinations/` and `consumers/` declares

    SHAPES    its kinds, as the plan spells them, and the settings of each: a `CopyShape` or a
              `ConsumerShape`, whose every key has a description for the schema
    FIXES     a remedy for each key of these settings
    make      make(kind, settings, given) -> Destination, or Consumer. No I/O.
    PERMISSIONS  what it needs to be allowed

and that is all: wiring finds the modules by their place, the plan reads `SHAPES`, nothing else is
to be edited. A module is imported wherever a plan is read, so it imports no SDK at its top.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, Protocol

import msgspec

from keyturn.errors import Misconfigured
from keyturn.kubernetes.api import Kubernetes
from keyturn.kubernetes.cluster import ClusterShape
from keyturn.model import RotationId, Sensitive, Surroundings, Version
from keyturn.ports import Clients, Consumer, Destination
from keyturn.rendering import Form, Rendering
from keyturn.shapes import Shape


def _unknown() -> datetime:
    raise NotImplementedError


def _no_number(version_id: RotationId) -> int:
    raise Misconfigured(
        f"version {version_id} has no number: its store numbers none",
        remedy="Use this for secrets in Secret Manager only.",
    )


@dataclass(frozen=True, slots=True)
class Given:
    """What a destination or a consumer is given besides its settings.

    Attributes:
        secret: The secret's name in its store.
        clients: Makes a client of an AWS service, by its name and a region or None.
        cluster: Makes the client of a cluster; of the plan's own if the settings name none.
        rendered: Returns the value of a version in a form. Raises `Misconfigured`.
        members: Returns the members of a version's value as text, by name; the whole value under
            the empty name, whether it has members or not.
        signing_secret: Reads the text of another secret of the store, which the deployment must
            allow as it allows an admin's. Raises `Denied`, `Misconfigured`.
        promoted_at: Returns when current was promoted; then or earlier. Asks the store.
        ref: The secret's name in full, as its store has it; "" if there is none.
        number: Returns the number that a version has in the store, where that numbers them. Asks
            the store. Raises `Busy` if it knows no such version, else `Misconfigured`.
    """

    secret: str
    clients: Clients
    cluster: Callable[[ClusterShape | None], Kubernetes]
    rendered: Callable[[Version, Rendering], Sensitive]
    members: Callable[[Version], Mapping[str, Sensitive]]
    signing_secret: Callable[[str], Sensitive]
    surroundings: Surroundings
    promoted_at: Callable[[], datetime] = _unknown
    ref: str = ""
    number: Callable[[RotationId], int] = _no_number


NonEmpty = Annotated[str, msgspec.Meta(min_length=1)]
Name = Annotated[
    str,
    msgspec.Meta(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?(?!\n)$"),
]
"""Of a Kubernetes object (RFC 1123 subdomain). Python's `$` alone lets a last newline pass."""

Namespace = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(?!\n)$")]
"""Of Kubernetes (RFC 1123 label)."""


class CopyShape(Shape, frozen=True, kw_only=True):
    """A destination's settings, and in which form it gets the value."""

    form: Annotated[
        Literal["json", "dotenv", "url", "pgpass", "value"],
        msgspec.Meta(description="What the copy looks like."),
    ] = "json"
    member: (
        Annotated[NonEmpty, msgspec.Meta(description="With `form: value`: which member it is.")]
        | msgspec.UnsetType
    ) = msgspec.UNSET
    prefix: (
        Annotated[NonEmpty, msgspec.Meta(description="With `form: dotenv`: before each name.")]
        | msgspec.UnsetType
    ) = msgspec.UNSET

    def place(self) -> tuple[str, ...]:
        """Return what makes it another place than those of the same kind."""
        raise NotImplementedError

    def rendering(self) -> Rendering:
        """Return the form."""
        return Rendering(Form(self.form), given(self.member) or "", given(self.prefix) or "")


class ConsumerShape(Shape, frozen=True, kw_only=True):
    """A consumer's settings.

    Attributes:
        IS_COPY: It holds the value for others, which read it there. Who runs with the value is told
            when every copy has followed.
    """

    IS_COPY = False

    verify: Annotated[
        Literal["full", "none"],
        msgspec.Meta(
            description="`none`: it is told and not looked at; nothing is retired by evidence then."
        ),
    ] = "full"

    def place(self) -> tuple[str, ...]:
        """Return what makes it another consumer than those of the same kind."""
        raise NotImplementedError


def given(value: Any) -> Any:
    """Return what a plan says, or None if it does not."""
    return None if value is msgspec.UNSET else value


class DestinationModule(Protocol):
    """A module of `destinations/`."""

    SHAPES: Mapping[str, type[CopyShape]]
    FIXES: Mapping[str, str]

    def make(self, kind: str, settings: CopyShape, given: Given) -> Destination:
        """Make a destination of that kind."""
        ...


class ConsumerModule(Protocol):
    """A module of `consumers/`."""

    SHAPES: Mapping[str, type[ConsumerShape]]
    FIXES: Mapping[str, str]

    def make(self, kind: str, settings: ConsumerShape, given: Given) -> Consumer:
        """Make a consumer of that kind."""
        ...
