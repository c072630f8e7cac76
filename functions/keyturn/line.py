"""The line to one server of an API: requests with a bearer token, tried again while there is time.

No redirect is followed, no proxy is taken from the environment, and an answer may have
`LARGEST_BYTES`. TLS is verified; a certificate that is refused is not tried again. Nothing that was
sent or received is ever in an error, and nothing is logged.

It knows HTTP, and no API: what a status means is the caller's affair (`kubernetes.api`,
`google.api`). It imports `urllib3`, so it is imported on first use.
"""

from __future__ import annotations

import secrets
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, SSLError

from keyturn import tls
from keyturn.errors import KeyturnError, Misconfigured, Unreachable, Unsupported
from keyturn.model import Sensitive, Surroundings

if TYPE_CHECKING:
    from urllib3.response import BaseHTTPResponse

    from keyturn.access import Access

TRIES = 4
"""Of one request, in all."""

TRY_AGAIN = frozenset({429, 500, 502, 503, 504})
"""Statuses that pass. What is repeatable is sent again then."""

CONNECT_S = 3.0
"""For a connection, in seconds, the TLS handshake included."""

TRY_S = 11.0
"""For one try, in seconds: one more than an admission webhook has by default (`timeoutSeconds`)."""

CALL_S = 25.0
"""For a request with all its tries, in seconds."""

MARGIN_S = 2.0
"""Left of the function's time, in seconds, to report what failed."""

PAUSE_S = 0.2
"""After the first try, in seconds; doubled each time, and up to half as much more or less."""

LARGEST_BYTES = 16 * 1_048_576
"""Of an answer. An object has 3 MB at most, a page of them hardly ever more than that."""

CONNECTIONS = 4
"""That are kept open."""

_CHUNK_BYTES = 65_536
_WAIT = "Wait: it is tried again. If it stays so, look at the cluster and at the way there."


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked.

    Attributes:
        what: Names it in a message.
        path: With its query, encoded.
        media_type: Of the body, if there is one.
        body: May hold secrets.
        accept: The media type of the answer.
        headers: Besides. An `Authorization` among them goes in the bearer token's place.
        has_token: Whether the bearer token goes along. If not, nobody is asked for one.
        is_repeatable: Whether it may be sent twice; if not, no answer is one try's.
    """

    what: str
    method: str
    path: str
    media_type: str = "application/json"
    body: bytes | None = field(default=None, repr=False)
    accept: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    has_token: bool = True
    is_repeatable: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. Its body may hold secrets.

    Attributes:
        retry_after: The header of that name, or "".
    """

    status: int
    retry_after: str
    body: bytes = field(repr=False)


class Line:
    """Sends requests to one server. Thread-safe; keeps connections open.

    Args:
        name: Names the server in messages.
        access: Where it is, and how it lets us in.
        surroundings: What the deployment allows.

    Raises:
        Misconfigured: The address or the authority cannot be used.
    """

    def __init__(self, name: str, access: Access, surroundings: Surroundings) -> None:
        self._name = name
        self._token = access.token
        self._surroundings = surroundings
        self._has_own_authority = access.ca is not None
        self._pool = _pool(name, access, surroundings)

    def ask(self, request: Request) -> Answer:
        """Send *request* until there is an answer that will not pass by itself.

        Raises:
            Unreachable: There was none in the time that there is.
            Misconfigured: The server's certificate is refused, or the token cannot be sent.
            Unsupported: The answer is too large.
        """
        ends_at = time.monotonic() + min(CALL_S, self._surroundings.remaining_s() - MARGIN_S)
        failure = self._unreachable(request, "no time is left for it")
        tries = TRIES if request.is_repeatable else 1
        for number in range(tries):
            if ends_at <= time.monotonic():
                break
            retry_after = ""
            try:
                answer = self._let_in(request, ends_at)
            except Unreachable as error:
                failure = error
            else:
                if answer.status not in TRY_AGAIN:
                    return answer
                failure = self._unreachable(request, f"answered {answer.status}")
                retry_after = answer.retry_after
            pause_s = _pause_s(number, retry_after)
            if number == tries - 1 or time.monotonic() + pause_s >= ends_at:
                break
            time.sleep(pause_s)
        raise failure

    def _let_in(self, request: Request, ends_at: float) -> Answer:
        """Send it; once more with a new token, if the server does not know the one we have."""
        if not request.has_token or "Authorization" in request.headers:
            return self._send(request, None, ends_at)
        answer = self._send(request, self._token(_THE_ONE_WE_HAVE), ends_at)
        if answer.status != _UNKNOWN:
            return answer
        return self._send(request, self._token(_A_NEW_ONE), ends_at)

    def _send(self, request: Request, token: Sensitive | None, ends_at: float) -> Answer:
        ends_at = min(ends_at, time.monotonic() + TRY_S)
        headers = self._headers(request, token)
        try:
            return self._exchange(request, headers, ends_at)
        except SSLError as error:
            failure = self._refused(request, error)
        except (HTTPError, OSError, ValueError) as error:
            failure = self._unreachable(request, f"no answer ({type(error).__name__})")
        # Raised out here: what was caught may quote the request.
        raise failure

    def _exchange(self, request: Request, headers: dict[str, str], ends_at: float) -> Answer:
        left_s = max(ends_at - time.monotonic(), _SHORTEST_S)
        response = self._pool.urlopen(
            request.method,
            request.path,
            body=request.body,
            headers=headers,
            retries=False,  # Ours know which answers pass, and that a certificate does not.
            redirect=False,
            timeout=urllib3.Timeout(connect=min(CONNECT_S, left_s), read=left_s),
            preload_content=False,
            decode_content=False,
        )
        try:
            body = self._body(request, response, ends_at)
        except BaseException:
            response.close()  # What is left of it must not be the next one's answer.
            raise
        response.release_conn()
        return Answer(response.status, response.headers.get("Retry-After", ""), body)

    def _body(self, request: Request, response: BaseHTTPResponse, ends_at: float) -> bytes:
        """Read it in what pieces it comes, so that it ends in time however it drips."""
        # urllib3 1.26, which some runtimes bring, has no `read1`: there it may wait for a chunk.
        read = getattr(response, "read1", response.read)
        body = bytearray()
        while chunk := read(_CHUNK_BYTES):
            body += chunk
            if len(body) > LARGEST_BYTES:
                raise Unsupported(
                    f"{self._name}: {request.what}: the answer has over {LARGEST_BYTES} bytes",
                    remedy="Report this with the kind of the object.",
                )
            if time.monotonic() > ends_at:
                raise TimeoutError
        if response.length_remaining:
            raise self._unreachable(request, "the answer is cut off")
        return bytes(body)

    def _headers(self, request: Request, token: Sensitive | None) -> dict[str, str]:
        headers = {"Accept": request.accept, "User-Agent": "keyturn", **request.headers}
        if request.body is not None:
            headers["Content-Type"] = request.media_type
        if token is None:
            return headers
        # Checked here: what refuses it later would quote it.
        if not _is_one_word(token.reveal()):
            raise Misconfigured(
                f"{self._name}: the bearer token is not one word of printable ASCII",
                remedy="Correct the secret that holds the token.",
            )
        return {**headers, "Authorization": f"Bearer {token.reveal()}"}

    def _refused(self, request: Request, error: SSLError) -> KeyturnError:
        cause = error.args[0] if error.args else None
        if not isinstance(cause, ssl.SSLCertVerificationError):
            return self._unreachable(request, "no answer (SSLError)")
        host = f"{self._name} ({self._pool.host})"
        remedy = (
            "Correct the server's address or certificate, or the authority given for it."
            if self._has_own_authority
            else "Give the cluster's authority as `ca`, or correct the server's certificate."
        )
        return Misconfigured(str(tls.certificate_refused(host, cause)), remedy=remedy)

    def _unreachable(self, request: Request, fact: str) -> Unreachable:
        return Unreachable(f"{self._name}: {request.what}: {fact}", remedy=_WAIT)


_UNKNOWN = 401
_THE_ONE_WE_HAVE, _A_NEW_ONE = False, True
_SHORTEST_S = 0.001
"""A time-out of nothing would not be one."""


def _pause_s(number: int, retry_after: str) -> float:
    """Return how long to wait after the try of that number, from 0, in seconds.

    A `Retry-After` in seconds is obeyed; as a date, which no API server sends, it is not read.
    """
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after) + PAUSE_S * secrets.randbelow(1_000) / 1_000
    return PAUSE_S * 2.0**number * (0.5 + secrets.randbelow(1_000) / 1_000)


def _is_one_word(text: str) -> bool:
    return bool(text) and text.isascii() and text.isprintable() and " " not in text


# ---------------------------------------------------------------------------- where it goes


class _Plain(HTTPConnection):
    debuglevel = 0  # Else `http.client` prints the headers, whoever has switched that on.


class _Secured(HTTPSConnection):
    debuglevel = 0


class _PlainPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Plain


class _SecuredPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _Secured


def _pool(name: str, access: Access, surroundings: Surroundings) -> _PlainPool | _SecuredPool:
    scheme, host, port = _address(name, access.server)
    if scheme == "https":
        context = _context(name, access.ca, surroundings)
        return _SecuredPool(
            *(host, port), maxsize=CONNECTIONS, ssl_context=context, cert_reqs="CERT_REQUIRED"
        )
    if not tls.allows_plaintext(host, surroundings):
        raise Misconfigured(
            f"{name}: {host} is not a host for plain text",
            remedy="Write https, or list the host in KEYTURN_PLAINTEXT_HOSTS.",
        )
    return _PlainPool(host, port, maxsize=CONNECTIONS)


def _address(name: str, server: str) -> tuple[str, str, int | None]:
    try:
        found = urlsplit(server)
        if found.scheme in {"http", "https"} and found.hostname and "@" not in found.netloc:
            return found.scheme, found.hostname, found.port
    except ValueError:
        pass
    raise Misconfigured(
        f"{name}: the API server's address is none",
        remedy="Write it as `https://HOST`, or `https://HOST:PORT`.",
    )


def _context(name: str, ca: str | None, surroundings: Surroundings) -> ssl.SSLContext:
    trusted = tls.public_authorities(surroundings) if ca is None else ca
    try:
        # Of an empty text Python makes: all authorities of the system.
        if trusted.isascii() and "-----BEGIN" in trusted:
            return ssl.create_default_context(cadata=trusted)
    except (ssl.SSLError, ValueError):
        pass
    raise Misconfigured(
        f"{name}: the authority is no certificate in PEM",
        remedy="Give the text from `-----BEGIN CERTIFICATE-----` on.",
    )
