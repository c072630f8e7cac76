"""AWS Query, for fakes: forms in, XML out, as `botocore`'s model of a service describes both.

The protocol of RDS, ElastiCache, IAM, SNS and others. Requests are checked against the model: an
action or parameter that it does not have, or one of the wrong type, is refused. That an answer is
right, the SDK that reads it proves. It knows no service: name one, and give `wire.served` both.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl

import botocore.session
from botocore.model import ListShape, MapShape, Shape, StructureShape

from keyturn.testing.wire import Refusal


class QueryWire:
    """A `wire.Dialect` of one service.

    Args:
        service: As `boto3.client` calls it: `rds`.
    """

    content_type = "text/xml"

    def __init__(self, service: str) -> None:
        self._model = botocore.session.get_session().get_service_model(service)

    def asked(self, headers: Mapping[str, str], body: bytes) -> tuple[str, dict[str, Any]]:
        """See `Dialect.asked`. Numbers and booleans come as such, lists as lists."""
        del headers
        form = dict(parse_qsl(body.decode(), keep_blank_values=True))
        action, version = form.pop("Action", ""), form.pop("Version", "")
        if action not in self._model.operation_names or version != self._model.api_version:
            raise Refusal("InvalidAction", f"{action[:40]!a} {version[:20]!a} is not of this API.")
        wanted = self._model.operation_model(action).input_shape
        parameters = _structure(wanted, "", form) if wanted is not None else {}
        if form:  # what was read is taken out
            raise Refusal("ValidationError", f"{min(form)[:80]!a} is no parameter of {action}.")
        return action, parameters

    def answered(self, action: str, members: dict[str, Any], request_id: str) -> bytes:
        """See `Dialect.answered`. *members* are those of the action's output shape."""
        shape = self._model.operation_model(action).output_shape
        body = ""
        if shape is not None:
            wrapper = shape.serialization.get("resultWrapper", f"{action}Result")
            body = _element(wrapper, _content(shape, members))
        body += _element("ResponseMetadata", _element("RequestId", request_id))
        namespace = html.escape(str(self._model.metadata.get("xmlNamespace", "")))
        return f'<{action}Response xmlns="{namespace}">{body}</{action}Response>'.encode()

    def refused(self, refusal: Refusal, request_id: str) -> bytes:
        """See `Dialect.refused`."""
        said = _element("Code", html.escape(refusal.code)) + _element(
            "Message", html.escape(str(refusal))
        )
        error = _element("Error", _element("Type", "Sender") + said)
        return _element("ErrorResponse", error + _element("RequestId", request_id)).encode()


# ---------------------------------------------------------------------------- forms


def _structure(shape: StructureShape, prefix: str, form: dict[str, str]) -> dict[str, Any]:
    """Take what is *shape*'s out of *form*."""
    found: dict[str, Any] = {}
    for name, member in shape.members.items():
        key = prefix + member.serialization.get("name", name)
        if _is_there(key, form):
            found[name] = _value(member, key, form)
    missing = [name for name in shape.required_members if name not in found]
    if missing:
        raise Refusal("MissingParameter", f"{prefix}{missing[0]} is missing.")
    return found


def _is_there(key: str, form: Mapping[str, str]) -> bool:
    return key in form or any(each.startswith(f"{key}.") for each in form)


def _value(shape: Shape, key: str, form: dict[str, str]) -> Any:
    match shape:
        case StructureShape():
            return _structure(shape, f"{key}.", form)
        case ListShape():
            return list(_items(shape, key, form))
        case MapShape():
            raise Refusal("ValidationError", f"{key} is a mapping, which no fake has needed yet.")
    return _scalar(shape.type_name, key, form.pop(key))


def _items(shape: ListShape, key: str, form: dict[str, str]) -> Iterator[Any]:
    is_flat = shape.serialization.get("flattened")
    inner = key if is_flat else f"{key}.{shape.member.serialization.get('name', 'member')}"
    number = 1
    while _is_there(f"{inner}.{number}", form):
        yield _value(shape.member, f"{inner}.{number}", form)
        number += 1
    form.pop(key, None)  # an empty list is sent as its bare name


def _scalar(kind: str, key: str, text: str) -> str | int | bool:
    if kind == "boolean" and text in {"true", "false"}:
        return text == "true"
    if kind in {"integer", "long"} and re.fullmatch("-?[0-9]+", text):
        return int(text)
    if kind in {"boolean", "integer", "long"}:
        raise Refusal("InvalidParameterValue", f"{key} is no {kind}.")
    return text


# ---------------------------------------------------------------------------- XML


def _content(shape: Shape, value: Any) -> str:
    """Return what stands within the element of *value*."""
    match shape:
        case StructureShape():
            return "".join(_member(shape.members[name], name, each) for name, each in value.items())
        case ListShape():
            name = shape.member.serialization.get("name", "member")
            return "".join(_element(name, _content(shape.member, each)) for each in value)
    return html.escape(_text(value))


def _member(shape: Shape, name: str, value: Any) -> str:
    if isinstance(shape, ListShape) and shape.serialization.get("flattened"):
        name = shape.member.serialization.get("name", name)
        return "".join(_element(name, _content(shape.member, each)) for each in value)
    return _element(shape.serialization.get("name", name), _content(shape, value))


def _text(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case datetime():
            return value.isoformat()
    return str(value)


def _element(name: str, content: str) -> str:
    return f"<{name}>{content}</{name}>"
