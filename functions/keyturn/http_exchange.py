"""One HTTP request and its answer: what adapters send, and how little they trust the answer.

Used by `targets.http_api_key` and `consumers.webhook`.

No redirect is followed, no proxy is taken from the environment, no host is asked that is not
listed. TLS is verified. Every exchange has a time-out as a whole, however slowly an answer drips,
and no answer may be larger than `LARGEST_BYTES`. Nothing that was sent or received is ever in an
error: a place, a status and a pointer is all that one says.
"""

from __future__ import annotations

import hmac
import http.client
import io
import ipaddress
import json
import re
import socket
import ssl
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import NoReturn
from urllib.parse import quote, urlencode, urljoin, urlsplit

from keyturn import remaining, tls
from keyturn.errors import Busy, Denied, KeyturnError, Misconfigured, Unreachable
from keyturn.http_api import Request
from keyturn.model import Credential, Sensitive, Surroundings

TIMEOUT_S = 10.0
"""For one exchange, from the connection to the last byte, in seconds."""

LARGEST_BYTES = 1_048_576
"""Of an answer. A page of a hundred keys has some 50 kB."""


Values = Mapping[str, str | Sensitive]
"""What stands in a placeholder's place."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. Its body may hold a secret."""

    place: str
    status: int
    link: str = field(repr=False)
    body: bytes = field(repr=False)


class Exchange:
    """Sends requests to the hosts that a plan lists."""

    def __init__(self, hosts: Collection[str], surroundings: Surroundings) -> None:
        self._hosts = hosts
        self._surroundings = surroundings
        self._context: ssl.SSLContext | None = None

    def send(self, request: Request, values: Values) -> Answer:
        """Send *request* with its placeholders filled, once.

        Raises:
            Unreachable: No answer, or none that is whole.
            Misconfigured: TLS, or a value that cannot be sent.
            Denied: The host is not listed, or is not where its name leads.
        """
        if request.host not in self._hosts:
            raise _another_host(request.host)
        connection = self._connection(request)
        try:
            return _answer(connection, request, values)
        except ssl.SSLCertVerificationError as error:
            failure = tls.certificate_refused(request.host, error)
        except (OSError, http.client.HTTPException, ValueError) as error:
            failure = _unreachable(str(request), f"no answer ({type(error).__name__})")
        finally:
            connection.close()
        # Raised out here: what was caught may quote the request.
        raise failure

    def _connection(self, request: Request) -> http.client.HTTPConnection:
        name = urlsplit(f"//{request.host}").hostname or ""
        timeout_s = remaining.allowance(TIMEOUT_S, request.host, self._surroundings)
        if request.scheme == "https":
            self._context = self._context or ssl.create_default_context(
                cadata=tls.authorities(name, self._surroundings)
            )
            return http.client.HTTPSConnection(
                request.host, timeout=timeout_s, context=self._context
            )
        if not tls.allows_plaintext(name, self._surroundings):
            raise Misconfigured(
                f"{request.host} is not a host for plain text",
                remedy="Write https, or list the host in KEYTURN_PLAINTEXT_HOSTS.",
            )
        return http.client.HTTPConnection(request.host, timeout=timeout_s)


def _answer(connection: http.client.HTTPConnection, request: Request, values: Values) -> Answer:
    target = _filled(request.target, values, lambda value: quote(value, safe=""))
    headers, sent = _headers(request, values), body(request, values)
    deadline = _Deadline(connection.timeout or TIMEOUT_S)
    connection.set_debuglevel(0)  # It would print the headers, whoever switched it on.
    # A name may have several addresses, and each is given the time-out.
    addresses = socket.getaddrinfo(connection.host, connection.port, type=socket.SOCK_STREAM)
    connection.timeout = deadline.left_s() / len(addresses)
    connection.connect()
    with closing(connection.sock) as line:
        _require_no_metadata(line, request.host)
        connection.sock = _Clocked(line, deadline)
        connection.request(request.method, target, sent, headers)
        response = connection.getresponse()
        content = response.read(LARGEST_BYTES + 1)
        if len(content) > LARGEST_BYTES:
            raise _unreachable(str(request), f"its answer has over {LARGEST_BYTES} bytes")
        if response.length:
            raise _unreachable(str(request), "its answer is cut off")
        link = ", ".join(response.headers.get_all("Link") or ())
        return Answer(str(request), response.status, link, content)


# ---------------------------------------------------------------------------- what is sent

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


def _filled(template: str, values: Values, encoded: Callable[[str], str] = str) -> str:
    """Fill a template. A value cannot break out of its place: it is encoded, and read once."""

    def fill(found: re.Match[str]) -> str:
        value = values.get(found[1], found[0])
        return encoded(value.reveal() if isinstance(value, Sensitive) else value)

    return _PLACEHOLDER.sub(fill, template)


def _headers(request: Request, values: Values) -> dict[str, str]:
    headers = {"Accept": "application/json", "Connection": "close", "User-Agent": "keyturn"}
    if request.json is not None:
        headers["Content-Type"] = "application/json"
    if request.form is not None:
        headers["Content-Type"] = "application/x-www-form-urlencoded"
    for name, template in request.headers.items():
        value = _filled(template, values)
        if not (value.isascii() and value.isprintable()):
            raise Misconfigured(
                f"{request}: what goes into the header {name} is not printable ASCII",
                remedy="Correct the secret's value, or the plan's `headers`.",
            )
        headers[name] = value
    return headers


def body(request: Request, values: Values) -> bytes | None:
    """Return what `Exchange.send` sends as the request's body; None if it sends none."""
    if request.json is not None:
        return json.dumps(_filled_tree(request.json, values)).encode()
    if request.form is not None:
        form = {name: _filled(template, values) for name, template in request.form.items()}
        return urlencode(form).encode()
    return None


def _filled_tree(tree: object, values: Values) -> object:
    match tree:
        case str():
            return _filled(tree, values)
        case Mapping():
            return {key: _filled_tree(each, values) for key, each in tree.items()}
        case list() | tuple():
            return [_filled_tree(each, values) for each in tree]
        case _:
            return tree


def basic(credential: Credential) -> Sensitive:
    """Return what follows `Basic` in a header (RFC 7617)."""
    pair = f"{credential.principal}:{credential.secret.reveal()}"
    return Sensitive(b64encode(pair.encode()).decode())


def signature(key: Sensitive, content: bytes) -> str:
    """Sign *content* as Standard Webhooks 1.0 does, symmetrically.

    Raises:
        Misconfigured: The key is not `whsec_` and the Base64 of `KEY_BYTES`.
    """
    try:
        found = b64decode(key.reveal().strip().removeprefix("whsec_"), validate=True)
    except ValueError:  # Which may quote the key: so nothing is raised in here.
        found = b""
    if len(found) not in KEY_BYTES:
        raise Misconfigured(
            "the signing key is not whsec_ and 24 to 64 bytes in Base64",
            remedy="Store one: whsec_ and what `openssl rand -base64 32` prints.",
        )
    return "v1," + b64encode(hmac.digest(found, content, "sha256")).decode()


KEY_BYTES = range(24, 65)
"""Of a signing key (Standard Webhooks 1.0, "Signature scheme")."""


# ---------------------------------------------------------------------------- where it goes


def next_page(request: Request, url: str) -> Request:
    """Return the request for the page at *url*, which must be on the same host.

    Raises:
        Denied: It is elsewhere: what goes along would be handed to somebody else.
    """
    try:
        found = urlsplit(urljoin(f"{request.scheme}://{request.host}{request.target}", url))
    except ValueError:
        found = urlsplit("")
    if (found.scheme, found.netloc) != (request.scheme, request.host):
        raise Denied(
            f"{request}: the next page is said to be on another host",
            remedy="Look at what the API answers; the plan's host is the only one that is asked.",
        )
    target = found.path + (f"?{found.query}" if found.query else "")
    if not _TARGET.fullmatch(target):
        raise Unreachable(f"{request}: the next page has no usable URL", remedy=_WAIT)
    # No placeholder of ours is in it: what it looks like is the API's own text.
    return Request(request.method, request.scheme, request.host, target, request.headers)


_TARGET = re.compile(r"/[!\"$-z|~]*")  # printable ASCII without blanks, braces and `#`


def _another_host(host: str) -> Denied:
    return Denied(
        f"{host} is not a host that the plan lists",
        remedy="List it under `hosts`, if it is the right one.",
    )


def _require_no_metadata(sock: socket.socket, host: str) -> None:
    """Refuse a name that leads to where clouds hand out credentials. A listed address may."""
    found = ipaddress.ip_address(str(sock.getpeername()[0]).partition("%")[0])
    if not _is(found, host) and _is_metadata(found):
        raise Denied(
            f"{host} leads to an address of the cloud itself",
            remedy="Correct the name's DNS records; list the address itself, if it is meant.",
        )


def is_metadata(name: str) -> bool:
    """Tell whether *name* is an address at which clouds hand out credentials."""
    try:
        return _is_metadata(ipaddress.ip_address(name.partition("%")[0]))
    except ValueError:  # a name: where it leads is looked at when it is asked
        return False


def _is_metadata(found: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    address = getattr(found, "ipv4_mapped", None) or found
    return bool(address.is_link_local) or str(address) in _METADATA


def _is(address: ipaddress.IPv4Address | ipaddress.IPv6Address, host: str) -> bool:
    try:
        return ipaddress.ip_address(urlsplit(f"//{host}").hostname or "") == address
    except ValueError:  # a name
        return False


_METADATA = {"fd00:ec2::254", "100.100.100.200", "168.63.129.16"}
"""Where AWS, Alibaba and Azure have it besides the link-local addresses."""


class _Deadline:
    """When an exchange must have ended."""

    def __init__(self, timeout_s: float) -> None:
        self._ends_at = time.monotonic() + timeout_s

    def left_s(self) -> float:
        """Return how much time is left. Raises TimeoutError if there is none."""
        left_s = self._ends_at - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        return left_s


class _Clocked(io.RawIOBase):
    """A socket whose every read and write ends by the deadline; as `http.client` uses one."""

    def __init__(self, sock: socket.socket, deadline: _Deadline) -> None:
        self._sock = sock
        self._deadline = deadline

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(self._deadline.left_s())
        self._sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        del mode
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        self._sock.settimeout(self._deadline.left_s())
        return self._sock.recv_into(buffer)  # type: ignore[arg-type]  # a buffer

    def close(self) -> None:
        """Leave it open: `http.client` closes it before it has read the body."""


# ---------------------------------------------------------------------------- what came back

_WAIT = "Wait: it is tried again. If it stays so, look at the API's own status."
_REMEDIES: dict[int, tuple[type[KeyturnError], str]] = {
    401: (Denied, "Renew the credential that the request is made with: `admin`, or current."),
    403: (Denied, "Let the credential that the request is made with do this."),
    408: (Unreachable, _WAIT),
    409: (Busy, "Nothing: it is tried again."),
    425: (Unreachable, _WAIT),
    429: (Unreachable, _WAIT),
    **dict.fromkeys(range(300, 400), (Misconfigured, "Write where it leads into the plan.")),
    **dict.fromkeys(range(500, 600), (Unreachable, _WAIT)),
}
"""HTTP status -> what to do. Any other refusal is a mistake in the plan."""

_COMPARE = "Compare the request in the plan with the API's documentation."
OK = range(200, 300)


def require_ok(answer: Answer) -> None:
    """Raise what the status says, unless it is a success."""
    if answer.status not in OK:
        raise failed(answer)


def failed(answer: Answer) -> KeyturnError:
    """Return the error for a status that is no answer to what was asked."""
    kind, remedy = _REMEDIES.get(answer.status, (Misconfigured, _COMPARE))
    return kind(f"{answer.place} answered {answer.status}", remedy=remedy)


def document(answer: Answer) -> object:
    """Read an answer's body: JSON, strictly.

    Raises:
        Unreachable: It is none. What was asked for may have been done.
    """
    try:
        return json.loads(
            answer.body.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant
        )
    except (ValueError, RecursionError):
        failure = _unreachable(answer.place, "its answer is not JSON")
    # Raised out here: the decoder's error carries the whole body.
    raise failure


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _unreachable(place: str, fact: str) -> Unreachable:
    return Unreachable(f"{place}: {fact}", remedy=_WAIT)


def quotes(text: str, secret: Sensitive) -> bool:
    """Tell whether somebody's *text* has a secret in it."""
    return bool(secret.reveal()) and secret.reveal() in text


MISSING = object()
"""What a pointer leads to where nothing is."""


def at(tree: object, pointer: str) -> object:
    """Return what *pointer* leads to (RFC 6901)."""
    for token in pointer.split("/")[1:]:
        key = token.replace("~1", "/").replace("~0", "~")
        match tree:
            case dict():
                tree = tree.get(key, MISSING)
            case list() if key.isascii() and key.isdigit() and int(key) < len(tree):
                tree = tree[int(key)]
            case _:
                return MISSING
    return tree
