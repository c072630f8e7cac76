"""The stored value: one JSON object, read strictly and rewritten without touching the rest.

Stores read and write it, generators make members of it; nothing else does. AWS documents the
members for databases (`engine`, `host`, `port`, `username`, `password`, `dbname`, `masterarn`), and
people add their own. Only the text of the values that a rotation replaces is exchanged; order,
spacing, numbers and unknown members stay as they were, to the byte.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NoReturn

from keyturn.errors import Misconfigured
from keyturn.model import Credential, Sensitive


@dataclass(frozen=True, slots=True)
class Members:
    """What the document calls the principal and its secret."""

    principal: str = "username"
    secret: str = "password"  # noqa: S105  # a member's name


MembersOf = Callable[[object], Members]
"""What the documents of an `engine` call them."""


def usual(engine: object) -> Members:
    """Return what AWS's documented format for databases calls them."""
    del engine
    return Members()


@dataclass(frozen=True, slots=True)
class Whole:
    """In the place of `Members`: the text, JSON or not, is the secret, and nobody's login."""


@dataclass(frozen=True, slots=True)
class _Member:
    key: str
    value: object
    start: int
    end: int


def members_in(text: str, where: str, members_of: MembersOf) -> Members:
    """Return which members hold principal and secret: it depends on the member `engine`."""
    engines = [member.value for member in _members(text, where) if member.key == "engine"]
    return members_of(engines[0] if engines else None)


def parse(text: str, where: str, members: Members | Whole) -> Credential:
    """Read a credential.

    Args:
        text: What the store holds.
        where: The secret and version, for messages.
        members: Which members to read.

    Raises:
        Misconfigured: Names the member and what is wrong with it, never a value.
    """
    if isinstance(members, Whole):
        return Credential("", Sensitive(text))
    found = {member.key: member.value for member in _members(text, where)}
    principal = _text(found, members.principal, where)
    secret = _text(found, members.secret, where)
    rest = {k: v for k, v in found.items() if k not in {members.principal, members.secret}}
    return Credential(principal, Sensitive(secret), rest, Sensitive(text))


def render(text: str, where: str, fresh: Mapping[str, str]) -> str:
    """Return *text* with what *fresh* has for its members exchanged, and nothing else changed."""
    known = {member.key for member in _members(text, where)}
    return exchanged(text, where, {key: fresh[key] for key in fresh if key in known})


def members(text: str, where: str, remedy: str) -> dict[str, object]:
    """Return the top-level members of an object. *remedy* is for whoever stored something else."""
    return {member.key: member.value for member in _members(text, where, remedy)}


def texts(text: str, where: str, remedy: str) -> dict[str, str]:
    """Return the top-level members of an object, each as the text that stands there."""
    return {each.key: text[each.start : each.end] for each in _members(text, where, remedy)}


def exchanged(text: str, where: str, fresh: Mapping[str, object], remedy: str | None = None) -> str:
    """Return *text* with the members of *fresh* exchanged or added, and nothing else changed."""
    pieces, cut, found = [], 0, _members(text, where, remedy)
    for member in found:
        if member.key in fresh:
            pieces += [text[cut : member.start], json.dumps(fresh[member.key])]
            cut = member.end
    known = {member.key for member in found}
    added = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in fresh.items() if k not in known]
    end = found[-1].end if found else text.index("{") + 1
    if added:
        pieces += [text[cut:end], ", " if found else "", ", ".join(added)]
        cut = end
    return "".join([*pieces, text[cut:]])


def _members(text: str, where: str, remedy: str | None = None) -> list[_Member]:
    # Refused outside the handler: the decoder's own error carries the whole document, and a
    # suppressed context is still a context.
    members, problem = _read(text)
    if problem:
        _refuse(where, problem, remedy)
    seen: set[str] = set()
    for member in members:
        if member.key in seen:
            _refuse(where, f"has the member {_shown(member.key)} more than once", remedy)
        seen.add(member.key)
    return members


def _read(text: str) -> tuple[list[_Member], str]:
    try:
        return list(_scan(text)), ""
    except RecursionError:
        return [], "is nested too deeply"
    except (ValueError, IndexError):
        return [], f"is {_kind(text)}, not a JSON object"


def _scan(text: str) -> Iterator[_Member]:
    """Yield the top-level members with where their values stand. ValueError if it is no object."""
    at = _skip(text, 0)
    if text[at] != "{":
        raise ValueError
    at = _skip(text, at + 1)
    if text[at] == "}":
        at += 1
    else:
        while text[at - 1] != "}":
            key, at = _key(text, at)
            start = _skip(text, at)
            value, at = _DECODER.raw_decode(text, start)
            yield _Member(key, value, start, at)
            at = _skip(text, at)
            if text[at] not in ",}":
                raise ValueError
            at = _skip(text, at + 1) if text[at] == "," else at + 1
    if _skip(text, at) != len(text):
        raise ValueError


def _key(text: str, at: int) -> tuple[str, int]:
    key, at = _DECODER.raw_decode(text, at)
    at = _skip(text, at)
    if not isinstance(key, str) or text[at] != ":":
        raise ValueError
    return key, at + 1


def _skip(text: str, at: int) -> int:
    while text[at : at + 1] in {" ", "\t", "\n", "\r"}:
        at += 1
    return at


def _unknown_constant(name: str) -> NoReturn:
    raise ValueError(name)


# Numbers stay as text in the document; here they only need to be told from other types. Python
# refuses to convert an integer of more than 4,300 digits, so long ones are read as floats.
_LONGEST_INTEGER = 19
_DECODER = json.JSONDecoder(
    parse_constant=_unknown_constant,
    parse_int=lambda digits: int(digits) if len(digits) <= _LONGEST_INTEGER else float(digits),
)


def _text(found: dict[str, object], key: str, where: str) -> str:
    if key not in found:
        _refuse(where, f"has no member {_shown(key)}")
    value = found[key]
    if not isinstance(value, str):
        _refuse(where, f"has {kind_of(value)} as {_shown(key)}, not a string")
    if not value:
        _refuse(where, f"has an empty string as {_shown(key)}")
    if any(_is_forbidden(character) for character in value):
        _refuse(where, f"has a control character or half a surrogate pair in {_shown(key)}")
    return value


def _is_forbidden(character: str) -> bool:
    """C0, C1, line and paragraph separators, lone surrogates: a driver may cut a value there."""
    code = ord(character)
    return (
        code < ord(" ")
        or 0x7F <= code <= 0x9F  # noqa: PLR2004  # DEL and C1
        or code in {0x2028, 0x2029}
        or 0xD800 <= code <= 0xDFFF  # noqa: PLR2004  # surrogates
    )


def kind_of(value: object) -> str:
    """Name the JSON type of *value*, for messages that must not show it."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "a list"
        case _:
            return "an object"


def _kind(text: str) -> str:
    if text.startswith("\ufeff"):
        return "text with a byte order mark"
    try:
        return kind_of(_DECODER.decode(text))
    except (ValueError, RecursionError):
        return "not well-formed JSON" if text.strip() else "empty"


def _shown(key: str) -> str:
    return ascii(key[:40])


def _refuse(where: str, problem: str, remedy: str | None = None) -> NoReturn:
    raise Misconfigured(f"{where}: the value {problem}", remedy=remedy or _DOCUMENTED)


_DOCUMENTED = (
    "Store a JSON object in the documented format,"
    ' such as {"engine": .., "host": .., "username": .., "password": ..}.'
)
