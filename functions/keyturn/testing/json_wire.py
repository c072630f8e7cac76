"""AWS JSON 1.1, for fakes: a `wire.Dialect`. Parameters are handed on as sent, unchecked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from keyturn.testing.wire import Refusal


class JsonWire:
    """The action is in a header, everything else is JSON."""

    content_type = "application/x-amz-json-1.1"

    def asked(self, headers: Mapping[str, str], body: bytes) -> tuple[str, dict[str, Any]]:
        """See `Dialect.asked`."""
        action = headers.get("x-amz-target", "").rpartition(".")[2]
        return action, json.loads(body or b"{}")

    def answered(self, action: str, members: dict[str, Any], request_id: str) -> bytes:
        """See `Dialect.answered`."""
        del action, request_id  # The id is in a header.
        return json.dumps(members).encode()

    def refused(self, refusal: Refusal, request_id: str) -> bytes:
        """See `Dialect.refused`."""
        del request_id
        return json.dumps({"__type": refusal.code, "Message": str(refusal)}).encode()
