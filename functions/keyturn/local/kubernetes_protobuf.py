"""Reads what kubectl sends as protobuf: a few kinds, into the objects that JSON would have been.

kubectl speaks it for `create secret`, `create namespace`, `create role`, `auth can-i` and the like,
and understands answers in JSON. An empty text is one that was not given.

Sources: Kubernetes API Concepts ("Kubernetes Protobuf encoding"); generated.proto of the API's
packages (field numbers); Protocol Buffers, "Encoding".
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"

_MAGIC = b"k8s\x00"


@dataclass(frozen=True, slots=True)
class _Field:
    """A field: its name, and how its bytes are read.

    Attributes:
        form: "text", "bytes" (base64 in JSON) or "boolean"; or the fields of a message.
        is_list: It may be there more than once.
        is_map: It is a list of keys and values.
    """

    name: str
    form: str | dict[int, _Field] = "text"
    is_list: bool = False
    is_map: bool = False


def _texts(*names: str) -> dict[int, _Field]:
    return {number: _Field(name) for number, name in enumerate(names, 1)}


def _list(name: str) -> _Field:
    return _Field(name, is_list=True)


_METADATA = _Field(
    "metadata",
    {
        1: _Field("name"),
        2: _Field("generateName"),
        3: _Field("namespace"),
        6: _Field("resourceVersion"),
        11: _Field("labels", is_map=True),
        12: _Field("annotations", is_map=True),
    },
)
_RULES = _Field(
    "rules",
    {
        1: _list("verbs"),
        2: _list("apiGroups"),
        3: _list("resources"),
        4: _list("resourceNames"),
        5: _list("nonResourceURLs"),
    },
    is_list=True,
)
_BINDING = {
    1: _METADATA,
    2: _Field("subjects", _texts("kind", "apiGroup", "name", "namespace"), is_list=True),
    3: _Field("roleRef", _texts("apiGroup", "kind", "name")),
}
_ASKED = _texts("namespace", "verb", "group", "version", "resource", "subresource", "name")

_KINDS: dict[str, dict[int, _Field]] = {
    "ClusterRole": {1: _METADATA, 2: _RULES},
    "ClusterRoleBinding": _BINDING,
    "Namespace": {1: _METADATA},
    "Role": {1: _METADATA, 2: _RULES},
    "RoleBinding": _BINDING,
    "Secret": {
        1: _METADATA,
        2: _Field("data", "bytes", is_map=True),
        3: _Field("type"),
        4: _Field("stringData", is_map=True),
        5: _Field("immutable", "boolean"),
    },
    "SelfSubjectAccessReview": {2: _Field("spec", {1: _Field("resourceAttributes", _ASKED)})},
    "SelfSubjectReview": {},
    "SelfSubjectRulesReview": {2: _Field("spec", _texts("namespace"))},
}

_ENVELOPE = {1: _Field("type", _texts("apiVersion", "kind")), 2: _Field("raw", "bytes")}


def decoded(body: bytes) -> Json | None:
    """Return the object, or None if it is of a kind that is not known here.

    Raises:
        ValueError: It is no such message.
    """
    if not body.startswith(_MAGIC):
        raise ValueError("no Kubernetes protobuf")
    envelope = _message(body.removeprefix(_MAGIC), _ENVELOPE)
    fields = _KINDS.get(envelope["type"]["kind"])
    if fields is None:
        return None
    return {**_message(base64.b64decode(envelope.get("raw", "")), fields), **envelope["type"]}


def _message(body: bytes, fields: dict[int, _Field]) -> Json:
    read: Json = {}
    for number, content in _contents(body):
        field = fields.get(number)
        if field is None:
            continue
        if field.is_map:
            entry = _message(content, {1: _Field("key"), 2: _Field("value", field.form)})
            read.setdefault(field.name, {})[entry.get("key", "")] = entry.get("value", "")
        elif field.is_list:
            read.setdefault(field.name, []).append(_value(content, field))
        elif content or isinstance(field.form, dict):
            read[field.name] = _value(content, field)
    return read


def _value(content: bytes, field: _Field) -> Any:
    match field.form:
        case "text":
            return content.decode()
        case "bytes":
            return base64.b64encode(content).decode()
        case "boolean":
            return content != b"\x00"
        case fields:
            return _message(content, fields) if isinstance(fields, dict) else None


def _contents(body: bytes) -> Iterator[tuple[int, bytes]]:
    """Return each field's number and content; a number is its one byte."""
    at = 0
    while at < len(body):
        tag, at = _number(body, at)
        match tag & 7:
            case 0:
                value, at = _number(body, at)
                yield tag >> 3, bytes([value & 0xFF])
            case 2:
                size, at = _number(body, at)
                if at + size > len(body):
                    raise ValueError("a field is cut off")
                yield tag >> 3, body[at : at + size]
                at += size
            case _:
                raise ValueError("a field of another kind")


def _number(body: bytes, at: int) -> tuple[int, int]:
    """Return the number that begins there, and where it ends."""
    value, shift = 0, 0
    while at < len(body):
        value |= (body[at] & 0x7F) << shift
        shift += 7
        at += 1
        if not body[at - 1] & 0x80:
            return value, at
    raise ValueError("a number is cut off")
