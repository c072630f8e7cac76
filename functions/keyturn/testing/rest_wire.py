"""AWS REST-JSON, for fakes: `botocore`'s model of a service says which method and path is what.

The protocol of API Gateway. Requests are checked against the model: an action or a parameter that
it does not have is refused. That an answer is right, the SDK that reads it proves. It knows no
service: name one, and give `wire.served` both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl, unquote

import botocore.session
from botocore.model import OperationModel, Shape

from keyturn.testing.wire import Refusal


class RestWire:
    """A `wire.Dialect` of one service.

    Args:
        service: As `boto3.client` calls it: `apigateway`.
    """

    content_type = "application/json"

    def __init__(self, service: str) -> None:
        model = botocore.session.get_session().get_service_model(service)
        self._operations = [model.operation_model(name) for name in model.operation_names]

    def asked(self, headers: Mapping[str, str], body: bytes) -> tuple[str, dict[str, Any]]:
        """See `Dialect.asked`. What is in the path and the query comes with the rest."""
        path, _, query = headers[":path"].partition("?")
        for operation in self._operations:
            found = _path_of(operation).fullmatch(path)
            if found is not None and operation.http["method"] == headers[":method"]:
                sent = {**found.groupdict(), **dict(parse_qsl(query)), **json.loads(body or b"{}")}
                return operation.name, dict(_parameters(operation, sent))
        raise Refusal("NotFoundException", f"{headers[':method']} {path[:80]!a} is nothing.", 404)

    def answered(self, action: str, members: dict[str, Any], request_id: str) -> bytes:
        """See `Dialect.answered`. Times are seconds since 1970."""
        del action, request_id  # The id is in a header.
        return json.dumps(members, default=_number).encode()

    def refused(self, refusal: Refusal, request_id: str) -> bytes:
        """See `Dialect.refused`."""
        del request_id
        return json.dumps({"__type": refusal.code, "message": str(refusal)}).encode()


def _path_of(operation: OperationModel) -> re.Pattern[str]:
    template = re.escape(str(operation.http["requestUri"]).partition("?")[0])
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", template))


def _parameters(operation: OperationModel, sent: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what was sent, under the names that the SDK has for it."""
    shape = operation.input_shape
    members = shape.members if shape is not None else {}
    named = {member.serialization.get("name", name): name for name, member in members.items()}
    for name, value in sent.items():
        if name not in named:
            raise Refusal("BadRequestException", f"{operation.name} has no {name[:40]!a}.")
        yield named[name], _value(members[named[name]], value)


def _value(shape: Shape, sent: Any) -> Any:
    if not isinstance(sent, str):
        return sent
    if shape.type_name == "boolean":
        return sent == "true"
    return int(sent) if shape.type_name == "integer" else unquote(sent)


def _number(value: object) -> float:
    assert isinstance(value, datetime)  # nothing else is no JSON
    return value.timestamp()
