"""One connection to a Redis, for the targets that log in to one: checked, verified, bounded.

    endpoint    where a credential logs in, without a call
    login       AUTH and CLIENT SETNAME in one exchange
    Line        further exchanges; it does not reconnect, and repeats nothing

The driver is redis-py's connection alone: its client would try a refused login again, for seconds.
No error quotes the server's text: it is classified by its first word.
"""

from __future__ import annotations

import secrets
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict
from urllib.parse import quote

from keyturn import remaining, tls
from keyturn.errors import (
    Denied,
    Drifted,
    KeyturnError,
    Misconfigured,
    Unreachable,
    Unsupported,
)
from keyturn.model import Credential, Surroundings
from keyturn.targets import members, wire

if TYPE_CHECKING:
    from redis import Connection, RedisError, UnixDomainSocketConnection

NAME_MAX_BYTES = 255
"""Ours: the server has no limit of its own, and names go into its lists and logs."""

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 5.0
DEFAULT_USER = "default"


def endpoint(credential: Credential, surroundings: Surroundings) -> str:
    """See `PasswordEngine.endpoint`."""
    place = _place(credential, surroundings)
    return f"{place.host}:{place.port}"


@contextmanager
def login(credential: Credential, surroundings: Surroundings) -> Iterator[Line | None]:
    """See `PasswordEngine.login`. The connection is named after its user; see `stem`."""
    line = Line(_place(credential, surroundings), surroundings)
    try:
        line.open()
        yield line if _is_let_in(line, credential) else None
    finally:
        line.close()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a credential logs in, checked."""

    host: str
    port: int
    tls: bool


def _place(credential: Credential, surroundings: Surroundings) -> Place:
    fields = credential.fields
    host = members.host(fields)
    check_name("username", credential.principal)
    wants_tls = tls.wants_tls(fields.get("ssl"), host, surroundings)
    port = members.port(fields.get("port"), PORT)
    return Place(host, port, wants_tls and not host.startswith("/"))


def _is_let_in(line: Line, credential: Credential) -> bool:
    name = credential.principal
    secret = credential.secret.reveal().encode("utf-8", "surrogatepass")
    said, *_ = line.ask(["AUTH", name, secret], ["CLIENT", "SETNAME", f"{stem(name)}-{line.nonce}"])
    if is_no(said, Word.ARITY):
        # Before 6.0 there is one password, of nobody in particular.
        if name != DEFAULT_USER:
            raise Unsupported(
                f"{line.host}: the server is older than 6.0 and has no users, such as {name!r}",
                remedy=f"Set `username` to {DEFAULT_USER!r}, or use a newer server.",
            )
        (said,) = line.ask(["AUTH", secret])
    if is_no(said, *_REFUSALS):
        return False
    line.require(said)
    return True


def stem(principal: str) -> str:
    """Return how a connection that is for *principal* is named, without what makes it unique.

    Names of connections are ASCII without blanks.
    """
    return f"keyturn-{quote(principal, safe='')}"


# ---------------------------------------------------------------------------- talking


class Word:
    """The first word of an error, as the server says it, or ours where it says ERR alone."""

    WRONG = "WRONGPASS"
    OLD_WRONG = "ERR invalid password"
    ARITY = "ERR wrong number of arguments"
    UNKNOWN = "ERR unknown"
    FULL = "ERR max number of clients"
    OPEN = "ERR no password is set"
    OTHER = "ERR"


_REFUSALS = (Word.WRONG, Word.OLD_WRONG)

_PHRASES = {
    "invalid password": Word.OLD_WRONG,
    "wrong number of arguments": Word.ARITY,
    "unknown command": Word.UNKNOWN,
    "unknown subcommand": Word.UNKNOWN,
    "max number of clients": Word.FULL,
    "auth <password> called without": Word.OPEN,
    "client sent auth, but no password": Word.OPEN,
}
"""How an error goes on after ERR, which alone says nothing (networking.c, server.c, acl.c)."""

_LINE = "Check that the server runs, and the network path from the function to it."
_TLS_LINE = "Check that the server runs and speaks TLS at this port, and the network path to it."
_LATER = "The server is starting, stopping or busy: it is tried again."

_WORDS: dict[str, tuple[type[KeyturnError], str]] = {
    "BUSY": (Unreachable, _LATER),
    "CLUSTERDOWN": (Unreachable, _LATER),
    "DENIED": (Misconfigured, "Give the server a password: it is in protected mode."),
    "LOADING": (Unreachable, _LATER),
    "MASTERDOWN": (Unreachable, _LATER),
    "MISCONF": (Unreachable, "The server cannot write to its disk: see its log."),
    "NOAUTH": (Unreachable, "The login ended during the step: it is tried again."),
    "NOPERM": (Denied, "Grant what is missing: see docs/redis.md, Permissions."),
    "OOM": (Unreachable, "The server has no memory left: see `maxmemory`."),
    "READONLY": (Misconfigured, "Name the primary's endpoint: this server is a replica."),
    Word.ARITY: (Unsupported, "Use a newer server."),
    Word.FULL: (Unreachable, "Wait, or raise the server's `maxclients`."),
    Word.OPEN: (Drifted, "Set the secret's password at the server, which asks for none."),
    Word.UNKNOWN: (Unsupported, "Use a server whose ACL and CONFIG commands are not disabled."),
}
"""First word (Redis: RESP errors) -> what to do."""

_UNKNOWN_WORD = (Unsupported, "Look into the server's log, and report what it says.")


@dataclass(frozen=True, slots=True)
class No:
    """The server's answer is an error; its text is left behind."""

    word: str


def is_no(said: object, *words: str) -> bool:
    """Tell whether an answer is an error that begins with one of *words*."""
    return isinstance(said, No) and said.word in words


Command = Sequence[str | bytes]


class Line:
    """One connection, used once: it does not reconnect, and repeats nothing.

    Attributes:
        host: For messages.
        nonce: Tells its name from that of any other.
    """

    def __init__(self, place: Place, surroundings: Surroundings) -> None:
        self.host = place.host
        self.nonce = secrets.token_hex(4)
        self._where = place
        self._surroundings = surroundings
        self._connection: Connection | UnixDomainSocketConnection | None = None

    def open(self) -> None:
        """Connect, without a login."""
        connection = self._made(self._allowance_s(CONNECT_TIMEOUT_S))
        failure = self._try(connection.connect, "refuses connections, or is not reachable")
        if failure is not None:
            raise failure
        self._connection = connection

    def ask(self, *commands: Command) -> list[object]:
        """Send *commands* in one piece; return the answers, errors of the server among them."""
        connection, answers = self._connection, list[object]()
        if connection is None or not connection.is_connected:
            # It would connect again by itself, without a login.
            raise self._silent("hung up")
        deadline = time.monotonic() + self._allowance_s(ANSWER_TIMEOUT_S)

        def exchange() -> None:
            packed = connection.pack_commands(commands)  # type: ignore[no-untyped-call]
            connection.send_packed_command(packed)  # type: ignore[no-untyped-call]
            answers.extend(_answer(connection, deadline) for _ in commands)

        failure = self._try(exchange, "hung up")
        if failure is not None:
            self.close()  # else a late answer would be taken for the next one's
            raise failure
        return answers

    def require(self, said: object) -> object:
        """Return the answer, unless it is an error."""
        if not isinstance(said, No):
            return said
        kind, remedy = _WORDS.get(said.word, _UNKNOWN_WORD)
        raise kind(f"{self.host}: the server answered {said.word[:40]!a}", remedy=remedy)

    def close(self) -> None:
        """Hang up. Repeatable."""
        if self._connection is not None:
            self._connection.disconnect()  # type: ignore[no-untyped-call]

    def _made(self, timeout_s: float) -> Connection | UnixDomainSocketConnection:
        from redis import Connection, SSLConnection, UnixDomainSocketConnection

        host, port = self._where.host, self._where.port
        if host.startswith("/"):
            # The driver's own types hold it for abstract.
            return UnixDomainSocketConnection(  # type: ignore[abstract, no-untyped-call]
                path=host, **_options(timeout_s)
            )
        # Each of the host's addresses is tried for so long.
        options = _options(timeout_s / len(wire.addresses(host, port)))
        if not self._where.tls:
            return Connection(host=host, port=port, **options)  # type: ignore[no-untyped-call]
        # It verifies by default, the host name included.
        roots = tls.authorities(host, self._surroundings)
        return SSLConnection(ssl_ca_data=roots, host=host, port=port, **options)

    def _allowance_s(self, most_s: float) -> float:
        return remaining.allowance(most_s, self.host, self._surroundings)

    def _try(self, call: Callable[[], None], otherwise: str) -> KeyturnError | None:
        from redis import RedisError

        try:
            call()
        except (RedisError, OSError) as error:
            # Returned, to be raised outside the handler: the driver's error quotes the server.
            return self._translated(error, otherwise)
        return None

    def _translated(self, error: BaseException, otherwise: str) -> KeyturnError:
        from redis import InvalidResponse
        from redis import TimeoutError as LateError

        causes = list(_causes(error))
        for each in causes:
            if isinstance(each, ssl.SSLCertVerificationError):
                return tls.certificate_refused(self.host, each)
        if any(isinstance(each, LateError | TimeoutError) for each in causes):
            return self._silent("did not answer in time")
        if any(isinstance(each, ssl.SSLError) for each in causes):
            return Misconfigured(
                f"{self.host}: the TLS handshake failed; no password was sent",
                remedy="Check that the server speaks TLS at this port, without a client's"
                " certificate.",
            )
        if isinstance(error, InvalidResponse):
            return Misconfigured(
                f"{self.host}: what answers does not speak as Redis does",
                remedy="Correct `host`, `port` or `ssl` in the secret.",
            )
        return self._silent(otherwise)

    def _silent(self, fact: str) -> Unreachable:
        # A server without TLS waits for more of what it takes for a command.
        is_handshake = self._where.tls and self._connection is None
        remedy = _TLS_LINE if is_handshake else _LINE
        return Unreachable(f"{self.host}: the server {fact}", remedy=remedy)


class _Options(TypedDict):
    socket_connect_timeout: float
    socket_timeout: float
    protocol: int
    driver_info: None
    encoding_errors: str
    decode_responses: bool


def _options(timeout_s: float) -> _Options:
    """Return what keeps the driver from doing anything that we did not ask for."""
    return {
        "socket_connect_timeout": timeout_s,
        "socket_timeout": timeout_s,
        "protocol": 2,  # no HELLO
        "driver_info": None,  # no CLIENT SETINFO
        # Names are bytes to the server: whatever it says can be said back.
        "encoding_errors": "surrogateescape",
        "decode_responses": True,
    }


def _answer(connection: Connection | UnixDomainSocketConnection, deadline: float) -> object:
    """Read one answer. After an error that ends a login the driver repeats it for the rest."""
    from redis import RedisError

    left_s = max(0.001, deadline - time.monotonic())
    try:
        return connection.read_response(timeout=left_s, disconnect_on_error=False)
    except RedisError as error:
        word = _word(error)
        if not word:
            raise
        return No(word)


def _word(error: RedisError) -> str:
    """Return how the server's error begins; "" if it is not the server's."""
    from redis import ResponseError

    text, word = str(error), error.status_code or ""
    if not word and isinstance(error, ResponseError):
        word, _, text = (text or Word.OTHER).partition(" ")
    if word != Word.OTHER:
        return word
    found = (name for phrase, name in _PHRASES.items() if text.lower().startswith(phrase))
    return next(found, Word.OTHER)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


# ---------------------------------------------------------------------------- checking

PORT = 6379


def check_name(key: str, name: str) -> None:
    """Refuse a user's name that the server could not hold; *key* says whose it is."""
    if not name.isprintable() or " " in name or not 0 < len(name.encode()) <= NAME_MAX_BYTES:
        members.refuse(
            key,
            f"is empty, longer than {NAME_MAX_BYTES} bytes,"
            " or holds blanks or unprintable characters",
        )
