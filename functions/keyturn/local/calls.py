"""Who called what, and when: a log of every request that reaches the local AWS.

It holds names only, never a parameter or a value. The demo and the benchmarks count with it; the
access key's id tells a function's calls from a client's.
"""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from botocore.exceptions import UnknownServiceError
from botocore.model import OperationModel
from botocore.session import get_session

if TYPE_CHECKING:
    # The interface of web servers exists for type checkers only.
    from _typeshed import OptExcInfo
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

CLIENT_KEY_ID = "LOCALCLIENT"
"""The access key id that `LocalAws` gives to clients."""

CLOUDFORMATION_KEY_ID = "LOCALCLOUDFORMATION"
"""The access key id under which a stack's resources are made."""

_FUNCTION_KEY_PREFIX = "LOCALFUNCTION."


def function_key_id(function_name: str) -> str:
    """Return the access key id under which a function calls."""
    return _FUNCTION_KEY_PREFIX + function_name


@dataclass(frozen=True, slots=True)
class Call:
    """One API call.

    Attributes:
        time: When it arrived: aware, UTC.
        service: As in the signature: `secretsmanager`, `s3`, `lambda`.
        action: `PutSecretValue`; for an unknown one, the HTTP method.
        caller: The access key's id, or "" if the request was not signed.
        status: The HTTP status of the answer.
    """

    time: datetime
    service: str
    action: str
    caller: str
    status: int

    @property
    def function(self) -> str | None:
        """The name of the function that called, or None if it was no function."""
        if not self.caller.startswith(_FUNCTION_KEY_PREFIX):
            return None
        return self.caller.removeprefix(_FUNCTION_KEY_PREFIX)


class CallLog:
    """Every call since the last `clear`. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: list[Call] = []

    def calls(self, *, service: str | None = None, caller: str | None = None) -> list[Call]:
        """Return the calls so far, in the order in which they were answered."""
        with self._lock:
            return [
                call
                for call in self._calls
                if service in {None, call.service} and caller in {None, call.caller}
            ]

    def clear(self) -> None:
        """Forget them all."""
        with self._lock:
            self._calls.clear()

    def recording(self, application: WSGIApplication) -> WSGIApplication:
        """Return *application* with its requests written here."""

        def record(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            arrived = datetime.now(UTC)
            caller, service = signer(environ)
            action = _action(environ, service)
            status, start = _watched(start_response)
            body = application(environ, start)
            with self._lock:
                self._calls.append(Call(arrived, service, action, caller, status()))
            return body

        return record


_CREDENTIAL = re.compile(r"Credential=([^/,]+)/\d{8}/([^/,]+)/([^/,]+)/aws4_request")


def signer(environ: WSGIEnvironment) -> tuple[str, str]:
    """Return the access key's id and the service that a request is signed for, or "" and ""."""
    found = _CREDENTIAL.search(str(environ.get("HTTP_AUTHORIZATION", "")))
    return (found[1], found[3]) if found else ("", "")


def signed_region(environ: WSGIEnvironment) -> str:
    """Return the region that a request is signed for, or ""."""
    found = _CREDENTIAL.search(str(environ.get("HTTP_AUTHORIZATION", "")))
    return found[2] if found else ""


def _watched(start_response: StartResponse) -> tuple[Callable[[], int], StartResponse]:
    """Return how to learn the status that is given, and a *start_response* that notes it."""
    seen: list[str] = []

    def start(
        status: str, headers: list[tuple[str, str]], error: OptExcInfo | None = None, /
    ) -> Callable[[bytes], object]:
        seen.append(status)
        return start_response(status, headers, error)

    return lambda: int(seen[-1].split()[0]) if seen else 0, start


def _action(environ: WSGIEnvironment, service: str) -> str:
    target = str(environ.get("HTTP_X_AMZ_TARGET", ""))
    if target:  # the JSON protocols
        return target.rpartition(".")[2]
    method = str(environ.get("REQUEST_METHOD", ""))
    query = str(environ.get("QUERY_STRING", ""))
    if str(environ.get("CONTENT_TYPE", "")).startswith("application/x-www-form-urlencoded"):
        form = parse_qs(peeked(environ).decode("utf-8", "replace"))
        return form.get("Action", [method])[0]
    path = str(environ.get("PATH_INFO", ""))
    given = {*parse_qs(query, keep_blank_values=True), *environ}
    return next((r.action for r in _routes(service) if r.matches(method, path, given)), method)


def peeked(environ: WSGIEnvironment) -> bytes:
    """Return a request's body, and leave it to be read again."""
    body: bytes = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    environ["wsgi.input"] = io.BytesIO(body)
    return body


@dataclass(frozen=True, slots=True)
class _Route:
    """How a request for one action looks. *needs* names query parameters and WSGI's headers."""

    action: str
    method: str
    path: re.Pattern[str]
    needs: frozenset[str]

    def matches(self, method: str, path: str, given: set[str]) -> bool:
        return method == self.method and self.needs <= given and bool(self.path.fullmatch(path))


@lru_cache
def _routes(service: str) -> list[_Route]:
    """Return how a REST service's actions are told apart, the most specific first."""
    try:
        model = get_session().get_service_model(service)
    except UnknownServiceError:
        return []
    routes = [_route(model.operation_model(name)) for name in model.operation_names]
    return sorted(routes, key=lambda r: (-len(r.needs), -r.path.pattern.count("/"), r.action))


def _route(operation: OperationModel) -> _Route:
    path, _, query = str(operation.http["requestUri"]).partition("?")
    # {Key+} may hold slashes, {Bucket} may not.
    pattern = re.sub(r"\\{[^}]*?\\\+\\}", ".+", re.escape(path))
    pattern = re.sub(r"\\{[^}]*?\\}", "[^/]+", pattern).rstrip("/")
    needs = {part.partition("=")[0] for part in query.split("&") if part}
    # CopyObject is PutObject with one header more.
    shape = operation.input_shape
    places = [shape.members[m].serialization for m in shape.required_members] if shape else []
    headers = [place["name"] for place in places if place.get("location") == "header"]
    needs.update("HTTP_" + header.upper().replace("-", "_") for header in headers)
    method = str(operation.http["method"])
    return _Route(operation.name, method, re.compile(pattern + "/?"), frozenset(needs))
