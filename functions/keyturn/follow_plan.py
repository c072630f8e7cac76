"""What follows a rotation, as a plan writes it: `deliver`, `refresh` and `retire`, read strictly.

Which kinds of destinations and consumers there are, and their settings, their modules declare
(`keyturn.followers`). They come in as `Kinds`; `wiring` finds them.

The `...Shape` classes are the file format; the plan calls `copies`, `consumers` and `retirement`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from keyturn.errors import Misconfigured
from keyturn.follow_up import AtDeadline, Retirement, When
from keyturn.followers import ConsumerShape, CopyShape, given
from keyturn.http_api import HttpApi
from keyturn.kubernetes.cluster import FIXES as CLUSTER_FIXES
from keyturn.kubernetes.cluster import ClusterShape, checked
from keyturn.rendering import Form
from keyturn.shapes import (
    Place,
    Shape,
    mapping,
    refusal,
    refuse_unknown,
    require_keys,
    shaped,
)

S = TypeVar("S", bound=Shape)


@dataclass(frozen=True, slots=True)
class Kinds:
    """The kinds that a plan may name.

    Attributes:
        fixes: A remedy for each of their keys, by kind and key.
    """

    destinations: Mapping[str, type[CopyShape]] = field(default_factory=dict)
    consumers: Mapping[str, type[ConsumerShape]] = field(default_factory=dict)
    fixes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Copy:
    """A destination that a plan names."""

    kind: str
    settings: CopyShape


@dataclass(frozen=True, slots=True)
class Reader:
    """A consumer that a plan names."""

    kind: str
    settings: ConsumerShape


# ---------------------------------------------------------------------------- the file format

_Duration = Annotated[
    str,
    msgspec.Meta(
        description="A whole number of minutes, hours or days, such as 30m, 1h, 7d.",
        extra_json_schema={"pattern": "^[1-9][0-9]{0,4}[mhd]$"},
    ),
]


class RetireShape(Shape, frozen=True, kw_only=True):
    """When the old credential dies: on evidence, and after a while."""

    when: Annotated[
        Literal["verified", "never"],
        msgspec.Meta(description="When it is verified that nobody needs it, or never."),
    ]
    grace: _Duration = "1h"
    deadline: _Duration = "7d"
    at_deadline: Annotated[
        Literal["hold", "force"],
        msgspec.Meta(description="Without evidence by then: tell and keep it, or end it."),
    ] = "hold"


class RefreshShape(Shape, frozen=True, kw_only=True):
    """Who must pick up each new version."""

    cluster: (
        Annotated[
            ClusterShape,
            msgspec.Meta(description="The Kubernetes cluster that is meant, unless one is named."),
        ]
        | msgspec.UnsetType
    ) = msgspec.UNSET
    consumers: Annotated[
        tuple[dict[str, Any], ...], msgspec.Meta(description="Who runs with the value.")
    ]


Deliver = Annotated[
    tuple[dict[str, Any], ...],
    msgspec.Meta(description="Where copies go after each rotation."),
]
Refresh = Annotated[RefreshShape, msgspec.Meta(description="Who must pick up each new version.")]
Retire = Annotated[RetireShape, msgspec.Meta(description="When the old credential dies.")]

FIXES: Mapping[str, str] = {
    "deliver": "List destinations, such as `- s3: {bucket: .., key: .., kms_key: ..}`.",
    "refresh": "Write a mapping, such as `refresh: {consumers: [..]}`.",
    "consumers": "List consumers, such as `- deployment: {namespace: .., name: ..}`.",
    "cluster": "Write `eks: NAME`, `gke: projects/..`, or `server`, `ca` and `token_secret`.",
    "form": f"Use one of {', '.join(Form)}.",
    "member": "With `form: value`, and only there, name the member that is the copy.",
    "prefix": "Write the prefix with `form: dotenv`, or remove it.",
    "verify": "Write `full` or `none`.",
    "retire": "Write a mapping, such as `retire: {when: verified, grace: 1h}`.",
    "when": "Write `verified` or `never`.",
    "grace": "Write a whole number and a unit, such as `grace: 1h`.",
    "deadline": "Write a whole number and a unit, such as `deadline: 7d`, longer than `grace`.",
    "at_deadline": "Write `hold` or `force`.",
    **CLUSTER_FIXES,
}


def schema_of(kinds: Kinds) -> tuple[Mapping[str, object], Mapping[str, object]]:
    """Return the JSON Schemas of one destination and one consumer, and what they refer to."""
    every: Mapping[str, type[Shape]] = {**kinds.destinations, **kinds.consumers}
    references, components = msgspec.json.schema_components(
        tuple(every.values()), ref_template="#/$defs/{name}"
    )
    by_kind = dict(zip(every, references, strict=True))
    named = {
        "Destination": _one_of(kinds.destinations, by_kind, "One place that gets a copy."),
        "Consumer": _one_of(kinds.consumers, by_kind, "One who runs with the value."),
    }
    return named, components


def _one_of(
    shapes: Mapping[str, type[Shape]], by_kind: Mapping[str, Mapping[str, Any]], title: str
) -> Mapping[str, object]:
    properties = {kind: _described(shapes[kind], by_kind[kind]) for kind in shapes}
    return {
        "description": title,
        "type": "object",
        "properties": properties,
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": False,
    }


def _described(shape: type[Shape], reference: Mapping[str, Any]) -> Mapping[str, object]:
    return {**reference, "description": (shape.__doc__ or "").partition("\n")[0]}


# ---------------------------------------------------------------------------- reading it


def copies(entry: Mapping[str, object], place: Place, kinds: Kinds) -> tuple[Copy, ...]:
    """Read `deliver` of a secret."""
    at = place.at("deliver")
    found = tuple(
        Copy(kind, settings)
        for kind, settings in _each(entry.get("deliver", []), at, kinds.destinations, kinds)
    )
    for number, copy in enumerate(found):
        _require_form(copy.settings, _numbered(at, number).at(copy.kind))
    _refuse_twice([(copy.kind, *copy.settings.place()) for copy in found], at)
    return found


def consumers(
    entry: Mapping[str, object], place: Place, kinds: Kinds
) -> tuple[tuple[Reader, ...], ClusterShape | None]:
    """Read `refresh` of a secret: the consumers, and the cluster that is meant."""
    if "refresh" not in entry:
        return (), None
    at = place.at("refresh")
    members = mapping(entry["refresh"], at, FIXES["refresh"])
    require_keys(members, RefreshShape, at, FIXES)
    listed = at.at("consumers")
    found = tuple(
        Reader(kind, settings)
        for kind, settings in _each(members["consumers"], listed, kinds.consumers, kinds)
    )
    _refuse_twice([(reader.kind, *reader.settings.place()) for reader in found], listed)
    return found, cluster_in(members, at)


def cluster_in(entry: Mapping[str, object], place: Place) -> ClusterShape | None:
    """Read `cluster` of a mapping; None if it has none."""
    if "cluster" not in entry:
        return None
    at = place.at("cluster")
    members = mapping(entry["cluster"], at, FIXES["cluster"])
    require_keys(members, ClusterShape, at, FIXES)
    return checked(shaped(members, ClusterShape, at, FIXES), at)


def _each(
    tree: object, place: Place, shapes: Mapping[str, type[S]], kinds: Kinds
) -> list[tuple[str, S]]:
    if not isinstance(tree, list):
        raise refusal(place, "is not a list", FIXES[place.path.rpartition(".")[2]])
    return [_one(each, _numbered(place, number), shapes, kinds) for number, each in enumerate(tree)]


def _numbered(place: Place, number: int) -> Place:
    return Place(place.source, f"{place.path}[{number}]")


def _one(tree: object, place: Place, shapes: Mapping[str, type[S]], kinds: Kinds) -> tuple[str, S]:
    what = "deliver" if shapes is kinds.destinations else "consumers"
    entry = mapping(tree, place, FIXES[what])
    refuse_unknown(entry, tuple(shapes), place)
    if len(entry) != 1:
        name = "destination" if shapes is kinds.destinations else "consumer"
        raise refusal(place, f"is not exactly one {name}", FIXES[what])
    [(kind, tree)] = entry.items()
    at, fixes = place.at(kind), {**FIXES, **kinds.fixes[kind]}
    members = mapping(tree, at, fixes.get(kind, FIXES[what]))
    require_keys(members, shapes[kind], at, fixes)
    read = shaped(members, shapes[kind], at, fixes)
    named = given(getattr(read, "cluster", None))
    if isinstance(named, ClusterShape):  # A cluster of ECS has a name, and no more.
        checked(named, at.at("cluster"))
    return kind, read


def _refuse_twice(places: Collection[tuple[str, ...]], at: Place) -> None:
    if len(set(places)) < len(places):
        raise refusal(at, "names one place twice", "Keep one of the two.")


def _require_form(settings: CopyShape, place: Place) -> None:
    rendering = settings.rendering()
    if bool(rendering.member) is not (rendering.form is Form.VALUE):
        fact = "goes with `form: value` only" if rendering.member else "is missing"
        raise refusal(place.at("member"), fact, FIXES["member"])
    if rendering.prefix and rendering.form is not Form.DOTENV:
        raise refusal(place.at("prefix"), "goes with `form: dotenv` only", FIXES["prefix"])


def retirement(entry: Mapping[str, object], place: Place, api: HttpApi | None) -> Retirement:
    """Read `retire` of a secret whose keys *api* makes, if one does."""
    if "retire" not in entry:
        return Retirement()
    at = place.at("retire")
    members = mapping(entry["retire"], at, FIXES["retire"])
    require_keys(members, RetireShape, at, FIXES)
    read = shaped(members, RetireShape, at, FIXES)
    grace = _duration(read.grace, at.at("grace"), "grace")
    deadline = _duration(read.deadline, at.at("deadline"), "deadline")
    if deadline <= grace:
        raise refusal(at.at("deadline"), "is not longer than `grace`", FIXES["deadline"])
    found = Retirement(When(read.when), grace, deadline, AtDeadline(read.at_deadline))
    if found.when is not When.NEVER and api is not None and api.deactivate is None:
        raise _no_end(at)
    return found


def _no_end(place: Place) -> Misconfigured:
    """Refuse to retire where an old key cannot be made to be refused before it is deleted."""
    return refusal(
        place,
        "is for keys that can only be deleted",
        "Write `deactivate` under `http`, or remove `retire`: the next rotation deletes them.",
    )


_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def _duration(text: str, place: Place, key: str) -> timedelta:
    if not re.fullmatch(r"[1-9][0-9]{0,4}[mhd]", text):
        raise refusal(place, "is no such duration", FIXES[key])
    return timedelta(**{_UNITS[text[-1]]: int(text[:-1])})
