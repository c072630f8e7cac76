"""Strict reading of what people write: unknown keys, types, what is missing. Refuses in our words.

A shape is a `msgspec` struct that forbids unknown keys. Every refusal is a `Misconfigured` that
names the source, the place and the fix. A value is never quoted: people paste secrets where they
do not belong. The plan, the on-demand event and the command line read through this module.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import TypeVar

import msgspec

from keyturn.errors import Misconfigured


class Shape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A mapping that somebody writes."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where in which source, for messages."""

    source: str
    path: str = ""

    def at(self, key: str) -> Place:
        """Return the place of *key* in the mapping that is here."""
        return replace(self, path=f"{self.path}.{shown(key)}" if self.path else shown(key))

    def __str__(self) -> str:
        return f"{self.source}: {self.path}" if self.path else self.source


def refusal(place: Place, fact: str, remedy: str) -> Misconfigured:
    """Make the error that says what is wrong where."""
    return Misconfigured(f"{place}: {fact}", remedy=remedy)


SHOWN = 120
"""Characters of a key that a message shows."""


def shown(key: str) -> str:
    """Return *key* as a message may show it."""
    short = key[:SHOWN]
    return short if short.isprintable() else ascii(short)


def require_keys(
    entry: Mapping[str, object], shape: type[Shape], place: Place, fixes: Mapping[str, str]
) -> None:
    """Refuse keys that *shape* does not have, and the lack of those that it needs."""
    refuse_unknown(entry, keys(shape), place)
    for key in _required(shape):
        if key not in entry:
            raise refusal(place, f"has no `{key}`", fixes[key])


def refuse_unknown(entry: Mapping[str, object], known: Collection[str], place: Place) -> None:
    """Refuse keys that are not *known*, with what was probably meant."""
    for key in entry:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            raise refusal(
                place.at(key),
                "is not a key",
                f"Write `{close[0]}`." if close else f"Remove it; the keys are {', '.join(known)}.",
            )


def keys(shape: type[Shape]) -> tuple[str, ...]:
    """Return the keys of *shape*, its tag first."""
    tag = shape.__struct_config__.tag_field
    return ((tag,) if tag else ()) + shape.__struct_encode_fields__


@cache  # msgspec inspects the annotations anew each time, which a long plan would feel
def _required(shape: type[Shape]) -> tuple[str, ...]:
    return tuple(field.encode_name for field in msgspec.structs.fields(shape) if field.required)


_AnyShape = TypeVar("_AnyShape", bound=Shape)


def shaped(
    entry: Mapping[str, object], shape: type[_AnyShape], place: Place, fixes: Mapping[str, str]
) -> _AnyShape:
    """Read *entry* as *shape*; *fixes* has a remedy for each key that may have the wrong type."""
    try:
        return msgspec.convert(entry, shape)
    except msgspec.ValidationError as error:
        problem = str(error)
    # Refused outside the handler, and in our words: msgspec's may quote the value.
    # Of a mapping's key that is not as it must be, it says: at `key` in `$.content`.
    fact, _, path = problem.rstrip("`").replace("`key` in ", "").partition(" - at `$.")
    key = re.findall(r"[a-z_]+", path)[-1:]
    raise refusal(place.at(path), _mismatch(fact), " ".join(fixes[name] for name in key))


_KINDS: Mapping[str, str] = {
    "array": "a list",
    "bool": "true or false",
    "float": "a fraction",
    "int": "a whole number",
    "null": "empty",
    "object": "a mapping",
    "str": "text",
}


def _mismatch(fact: str) -> str:
    """Say in a user's words what msgspec found; its texts are pinned by tests."""
    if kinds := re.fullmatch(r"Expected `(\w+)`, got `(\w+)`?", fact):
        expected, got = (_KINDS[kind] for kind in kinds.groups())
        return f"is {got}, not {expected}"
    if "`array`" in fact:
        return "has not exactly two entries"
    if "of length >= 1" in fact:
        return "is empty"
    if "matching regex" in fact:
        return "is not written as it must be"
    return "is none of the values known here"


def mapping(tree: object, place: Place, remedy: str) -> Mapping[str, object]:
    """Return *tree*, which must be a mapping."""
    if tree is None:
        raise refusal(place, "is empty", remedy)
    if not isinstance(tree, dict):
        raise refusal(place, "is not a mapping", remedy)
    return tree
