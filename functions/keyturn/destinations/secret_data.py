"""What a Kubernetes Secret's `data` becomes of a copy: a key for each member, or one for all of it.

Destinations that end in a Kubernetes Secret call this, and `keyturn seal`. What no Secret can hold
is refused here, before anything is sent: by the name of the member, never with a value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from keyturn import document, rendering
from keyturn.errors import Misconfigured
from keyturn.model import Sensitive

MAX_BYTES = 1_048_576
"""Of all values of a Secret together, decoded (Kubernetes: Secrets, "Size limit")."""

KEY = r"^(?!\.\.)(?!\.$)[-._a-zA-Z0-9]{1,253}$"
"""A key of a Secret (IsConfigMapKey): `.`, and what begins with `..`, would be other files."""

OPAQUE = "Opaque"
"""The type of a Secret that names none."""

_REQUIRED: Mapping[str, tuple[str, ...]] = {
    "kubernetes.io/basic-auth": ("username", "password"),
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
}
"""Type -> the keys that it is made of (Kubernetes: "Types of Secret"). The API itself is content
with one of basic-auth's two, which would be half a login."""

_REMEDY = "Give the destination a `key` in the plan, which then holds the whole value."


def data(text: Sensitive, key: str | None, type_: str, where: str) -> Mapping[str, Sensitive]:
    """Return the text of each key.

    Args:
        text: The copy; a JSON object, if there is no *key*. A member that is null is left out, and
            of one that is no string its JSON is the text.
        key: The one key that holds all of it.
        type_: The Secret's type.
        where: The destination and the version, for messages.

    Raises:
        Misconfigured: No Secret of that type can hold it.
    """
    found = _members(text, where) if key is None else {key: text}
    size = sum(len(plain(each, where)) for each in found.values())
    if size > MAX_BYTES:
        raise Misconfigured(
            f"{where} has {size:,} bytes, a Secret takes up to {MAX_BYTES:,}",
            remedy="Deliver one member, or deliver to S3.",
        )
    for name in _REQUIRED.get(type_, ()):
        if name not in found:
            raise Misconfigured(
                f"{where} has no {name!a}, which a Secret of type {type_} needs",
                remedy="Correct the secret's value, or the `type` in the plan.",
            )
    _require_json(found.get(".dockerconfigjson"), type_, where)
    return found


def require_members(form: str, where: str) -> None:
    """Refuse a form that has no members, for want of a key that holds all of it."""
    if form != rendering.Form.JSON:
        _refuse(where, f"`form: {form}` goes with a `key` only")


def require_changeable(old: Mapping[str, Any], type_: str, where: str) -> None:
    """Refuse what the API refuses of a Secret, or of a template of one, that is there already."""
    if old.get("immutable"):
        raise Misconfigured(
            f"{where} is immutable", remedy="Delete it; it is made anew, and can be changed then."
        )
    found = old.get("type") or OPAQUE
    if found != type_:
        raise Misconfigured(
            f"{where} has the type {found}, which cannot be changed to {type_}",
            remedy="Delete it, or write its type in the plan.",
        )


def plain(text: Sensitive, where: str) -> bytes:
    """Return the bytes of a text. Those that were no text have each a lone surrogate for a byte.

    Raises:
        Misconfigured: It is neither.
    """
    # Not left to the encoder: its error has the whole text.
    if _HALF.search(text.reveal()):
        raise Misconfigured(
            f"{where} has half a surrogate pair", remedy="Store text that is Unicode."
        )
    return text.reveal().encode("utf-8", "surrogateescape")


_HALF = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""Surrogates, but for those that stand for a byte."""


def _members(text: Sensitive, where: str) -> Mapping[str, Sensitive]:
    for name in document.texts(text.reveal(), where, _REMEDY):
        if not re.fullmatch(KEY, name):
            _refuse(where, f"the member {name[:40]!a} can be no key of a Secret")
    found = {name: value for name, value in rendering.members(text, where).items() if name}
    if not found:
        _refuse(where, "there is no member that could be a key")
    return found


def _refuse(where: str, fact: str) -> NoReturn:
    raise Misconfigured(f"{where}: {fact}", remedy=_REMEDY)


def _require_json(text: Sensitive | None, type_: str, where: str) -> None:
    if text is None or type_ != "kubernetes.io/dockerconfigjson":
        return
    try:
        json.loads(text.reveal())
    except ValueError:
        is_json = False
    else:
        is_json = True
    if not is_json:
        raise Misconfigured(
            f"{where}: '.dockerconfigjson' is no JSON",
            remedy="Correct the secret's value, or the `type` in the plan.",
        )
