"""Redis and Valkey, through redis-py: any server of one's own whose users are managed by `ACL`.

    exchange    what it asks
    login       AUTH, CLIENT SETNAME
    look        INFO, CONFIG GET aclfile, ACL WHOAMI, ACL LIST, CLIENT LIST    (writes nothing)
    prove       ACL SAVE or CONFIG REWRITE: what cannot be kept is not begun
    act         CLIENT KILL, ACL SETUSER, ACL SAVE or CONFIG REWRITE           (sent together)

What it never does: send a new password in clear. It travels as the SHA-256 that `ACL SETUSER`
takes; only logins carry passwords, over verified TLS. The exception are servers that have no users
(before 6.0), whose one password `CONFIG SET requirepass` takes in clear. No error quotes the
server's text: it is classified by its first word.

A credential's document: `host`, `username`, `password`; `port` (6379) and `ssl` (true) may be left
out. A `host` that begins with a slash is the path of a Unix socket.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, TypedDict
from urllib.parse import quote

from keyturn.document import kind_of
from keyturn.errors import (
    Denied,
    Drifted,
    KeyturnError,
    Misconfigured,
    Unreachable,
    Unsupported,
)
from keyturn.model import Credential, Sensitive, Surroundings
from keyturn.targets import tls

if TYPE_CHECKING:
    from redis import Connection, RedisError, UnixDomainSocketConnection

ENGINES = ("redis", "valkey")
PERMISSIONS: tuple[str, ...] = ()
"""A login over the network needs no cloud permission."""

NAME_MAX_BYTES = 255
"""Ours: the server has no limit of its own, and names go into its lists and logs."""

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 5.0
MARGIN_S = 1.0
"""Left of the function's time for reporting a failure."""

DEFAULT_USER = "default"


def engine(surroundings: Surroundings) -> Redis:
    """Build the engine; see `keyturn.targets`."""
    return Redis(surroundings)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a credential logs in, checked."""

    host: str
    port: int
    tls: bool


class Redis:
    """A `PasswordEngine`."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._surroundings = surroundings

    def endpoint(self, credential: Credential) -> str:
        """See `PasswordEngine.endpoint`."""
        place = self._place(credential)
        return f"{place.host}:{place.port}"

    @contextmanager
    def login(self, credential: Credential) -> Iterator[_Session | None]:
        """See `PasswordEngine.login`."""
        place = self._place(credential)
        line = _Line(place, self._surroundings)
        try:
            line.open()
            yield _Session(line, credential.principal) if _is_let_in(line, credential) else None
        finally:
            line.close()

    def _place(self, credential: Credential) -> _Place:
        fields = credential.fields
        host = _host(fields.get("host"))
        _check_name("username", credential.principal)
        wants_tls = tls.wants_tls(fields.get("ssl"), host, self._surroundings)
        is_socket = host.startswith("/")
        return _Place(host, _port(fields.get("port")), wants_tls and not is_socket)


def _is_let_in(line: _Line, credential: Credential) -> bool:
    """Log in, and name the connection so that `_Session` can tell ours from an application's."""
    name = credential.principal
    secret = credential.secret.reveal().encode("utf-8", "surrogatepass")
    said, *_ = line.ask(
        ["AUTH", name, secret], ["CLIENT", "SETNAME", f"{_stem(name)}-{line.nonce}"]
    )
    if _is(said, _Word.ARITY):
        # Before 6.0 there is one password, of nobody in particular.
        if name != DEFAULT_USER:
            raise Unsupported(
                f"{line.host}: the server is older than 6.0 and has no users, such as {name!r}",
                remedy=f"Set `username` to {DEFAULT_USER!r}, or use a newer server.",
            )
        (said,) = line.ask(["AUTH", secret])
    if _is(said, *_REFUSALS):
        return False
    line.require(said)
    return True


class _Session:
    """A `Session`.

    A worker may stall with its connection open, and its change arrive when another rotation has
    come and gone. The server cannot refuse it by the clock, so each change first ends the other
    connections of ours that are for the same user; see `_stem`.

    Args:
        line: Logged in, as *user*.
    """

    def __init__(self, line: _Line, user: str) -> None:
        self._line = line
        self._user = user

    def acts_for(self, owner: str) -> bool:
        """See `Session.acts_for`. Keys have no owner here."""
        del owner
        return True

    def set_password(self, principal: str, secret: Sensitive) -> None:
        """See `Session.set_password`."""
        server = self._look(principal)
        if not server.has_users:
            self._set_the_only_password(server, principal, secret)
            return
        self._require_user(server, principal)
        self._act(server, principal, ["resetpass", _verifier(secret)])

    def check_twin(self, twin: str, *, like: str, owner: str, is_ours: Callable[[], bool]) -> None:
        """See `Session.check_twin`."""
        del owner
        for name in (twin, like):
            _check_name("user", name)
        server = self._look(twin)
        self._require_users(server)
        self._rules_of(server, like)
        exists = twin in self._users(server)
        if twin == self._user or (exists and not is_ours()):
            raise Drifted(
                f"the user {twin!r} exists and is not known to be ours",
                remedy=f"If it takes turns with {like!r}, name both in the plan's `users`.",
            )
        self._probe(twin)

    def set_twin(self, twin: str, secret: Sensitive, *, like: str, owner: str) -> None:
        """See `Session.set_twin`. One command: rules and password come together."""
        del owner
        server = self._look(twin)
        self._require_users(server)
        rules = self._rules_of(server, like)
        self._act(server, twin, ["reset", *rules, "on", _verifier(secret)])

    def check_dual(self, principal: str) -> None:
        """See `Session.check_dual`."""
        server = self._look(principal)
        self._require_users(server)
        self._require_user(server, principal)
        self._probe(principal)

    def set_dual(self, principal: str, secret: Sensitive, *, keep: Sensitive) -> None:
        """See `Session.set_dual`."""
        server = self._look(principal)
        self._require_users(server)
        self._require_user(server, principal)
        self._act(server, principal, ["resetpass", _verifier(keep), _verifier(secret)])

    # ------------------------------------------------------------------------ looking

    def _look(self, principal: str) -> _Server:
        """Learn what a change of *principal* depends on; refuse a server where it would not hold.

        The connection takes the name of the user that it is about to change.
        """
        name = ["CLIENT", "SETNAME", f"{_stem(principal)}-{self._line.nonce}"]
        _, facts, aclfile, me, users, clients = self._line.ask(name, *_LOOK)
        server = _Server(
            facts=_facts(self._line.require(facts)),
            aclfile=_second(self._line.require(aclfile)),
            has_users=not _is(me, _Word.UNKNOWN),
            users=users,
            clients="" if isinstance(clients, _No) else str(clients),
        )
        _refuse_replication(self._line.host, server)
        return server

    def _require_users(self, server: _Server) -> None:
        if not server.has_users:
            raise Unsupported(
                f"{self._line.host}: the server has one password and no users",
                remedy="Use a server from 6.0 on, with ACL, or the strategy `single-user`.",
            )

    def _require_user(self, server: _Server, principal: str) -> None:
        """Refuse to change who does not exist: the server would create them."""
        if principal != self._user and principal not in self._users(server):
            raise _no_user(self._line.host, principal)

    def _rules_of(self, server: _Server, name: str) -> list[str]:
        """Return what *name* may do, as ACL SETUSER takes it."""
        rules = self._users(server).get(name)
        if rules is None:
            raise _no_user(self._line.host, name)
        return [rule for rule in rules if rule not in _LOGIN_RULES and not rule.startswith("#")]

    def _users(self, server: _Server) -> dict[str, list[str]]:
        lines = self._line.require(server.users)
        assert isinstance(lines, list)  # noqa: S101  # ACL LIST
        split = [str(line).split(" ") for line in lines]
        return {name: rules for _, name, *rules in split}

    def _probe(self, principal: str) -> None:
        """Refuse if this session may not change *principal*. Writes nothing.

        The server looks at permissions first, and at the whole of a command before it acts.
        """
        (said,) = self._line.ask(["ACL", "SETUSER", principal, "keyturn-probe"])
        if not _is(said, _Word.OTHER):
            self._line.require(said)

    # ------------------------------------------------------------------------ acting

    def _act(self, server: _Server, principal: str, rules: Sequence[str]) -> None:
        """Give *principal* these rules, and have the server keep them."""
        keeping = self._keeping(server)
        if keeping:
            self._require_kept(self._line.ask(keeping)[0], keeping)
        kills = [["CLIENT", "KILL", "ID", each] for each in self._others(server, principal)]
        change = ["ACL", "SETUSER", principal, *rules]
        # In one piece, so that a worker that dies here has done both or neither.
        said = self._line.ask(*kills, change, *([keeping] if keeping else []))
        self._line.require(said[len(kills)])
        if keeping:
            self._require_kept(said[-1], keeping)

    def _keeping(self, server: _Server) -> list[str]:
        """Return the command that makes the change outlive a restart; none if nothing does."""
        if server.aclfile:
            return ["ACL", "SAVE"]
        if not server.facts.get("config_file"):
            return []
        if server.has_users:
            self._refuse_quotes(server)
        return ["CONFIG", "REWRITE"]

    def _refuse_quotes(self, server: _Server) -> None:
        """Refuse to have the configuration file written in a way that the server cannot read.

        It writes users without quoting them: one with a quotation mark in its name, or in the
        name of a key that it may use, and the server does not start again (seen on 7.0).
        """
        for name, rules in self._users(server).items():
            if set("\"'") & set("".join([name, *rules])):
                raise Unsupported(
                    f"{self._line.host}: the server's configuration file cannot hold the user"
                    f" {name!r}: there is a quotation mark in its name or rules",
                    remedy="Configure an `aclfile`, which can.",
                )

    def _require_kept(self, said: object, keeping: Sequence[str]) -> None:
        if _is(said, _Word.OTHER):
            raise Misconfigured(
                f"{self._line.host}: {' '.join(keeping)} failed, so the server would forget the"
                " password when it restarts",
                remedy="Let the server write its aclfile or configuration file; see its log.",
            )
        self._line.require(said)

    def _others(self, server: _Server, principal: str) -> list[str]:
        """Return the ids of the other connections of ours that may be about to do the same."""
        ours = f"{_stem(principal)}-{self._line.nonce}"
        found = []
        for each in server.clients.splitlines():
            client = dict(pair.partition("=")[::2] for pair in each.split(" "))
            name = client.get("name", "")
            if name != ours and name.rpartition("-")[0] == _stem(principal):
                found.append(client.get("id", ""))
        return found

    def _set_the_only_password(self, server: _Server, principal: str, secret: Sensitive) -> None:
        """Change the password of a server that has no users. It takes it in clear only."""
        if principal != DEFAULT_USER:
            raise _no_user(self._line.host, principal)
        keeping = self._keeping(server)
        if keeping:
            self._require_kept(self._line.ask(keeping)[0], keeping)
        clear = secret.reveal().encode("utf-8", "surrogatepass")
        change: _Command = ["CONFIG", "SET", "requirepass", clear]
        said = self._line.ask(change, *([keeping] if keeping else []))
        self._line.require(said[0])
        if keeping:
            self._require_kept(said[-1], keeping)


_LOOK = (
    ["INFO"],
    ["CONFIG", "GET", "aclfile"],
    ["ACL", "WHOAMI"],
    ["ACL", "LIST"],
    ["CLIENT", "LIST"],
)

_LOGIN_RULES = {"on", "off", "nopass"}
"""Rules that say how a user logs in, besides its passwords; the others say what it may do."""


@dataclass(frozen=True, slots=True)
class _Server:
    """What a change depends on.

    Attributes:
        facts: The answer to INFO.
        aclfile: Where it keeps its users; "" if not there.
        has_users: Whether it knows ACL at all.
        users: The answer to ACL LIST, or the refusal: not every change needs it.
        clients: The answer to CLIENT LIST; "" if we may not see it.
    """

    facts: Mapping[str, str]
    aclfile: str
    has_users: bool
    users: object
    clients: str


def _facts(info: object) -> dict[str, str]:
    return dict(line.partition(":")[::2] for line in str(info).splitlines() if ":" in line)


def _second(pair: object) -> str:
    """Return the value of CONFIG GET's name and value."""
    return str(pair[1]) if isinstance(pair, list) and len(pair) > 1 else ""


def _refuse_replication(host: str, server: _Server) -> None:
    """Refuse where one server is not all: a user's password is not copied to the others."""
    facts = server.facts
    if facts.get("role") == "slave":
        raise Misconfigured(
            f"{host}: the server is a replica", remedy="Name the primary's endpoint in the secret."
        )
    if facts.get("cluster_enabled") == "1":
        raise Unsupported(
            f"{host}: the server is a node of a cluster, and each node has users of its own",
            remedy="Rotate by hand on every node, or use a service that manages users.",
        )
    if (replicas := facts.get("connected_slaves", "0")) != "0":
        raise Unsupported(
            f"{host}: the server has replicas ({replicas}), and each has users of its own",
            remedy="Rotate by hand on every server, or use a service that manages users.",
        )


def _no_user(host: str, name: str) -> Drifted:
    return Drifted(
        f"{host}: there is no user {name!r}",
        remedy="Create the user, or correct `username` in the secret.",
    )


def _stem(principal: str) -> str:
    """Return how a connection that is for *principal* is named, without what makes it unique.

    Names of connections are ASCII without blanks.
    """
    return f"keyturn-{quote(principal, safe='')}"


def _verifier(secret: Sensitive) -> str:
    """Return what ACL SETUSER takes in a password's place."""
    digest = hashlib.sha256(secret.reveal().encode("utf-8", "surrogatepass"))
    return f"#{digest.hexdigest()}"


# ---------------------------------------------------------------------------- talking


class _Word:
    """The first word of an error, as the server says it, or ours where it says ERR alone."""

    WRONG = "WRONGPASS"
    OLD_WRONG = "ERR invalid password"
    ARITY = "ERR wrong number of arguments"
    UNKNOWN = "ERR unknown"
    FULL = "ERR max number of clients"
    OPEN = "ERR no password is set"
    OTHER = "ERR"


_REFUSALS = (_Word.WRONG, _Word.OLD_WRONG)

_PHRASES = {
    "invalid password": _Word.OLD_WRONG,
    "wrong number of arguments": _Word.ARITY,
    "unknown command": _Word.UNKNOWN,
    "unknown subcommand": _Word.UNKNOWN,
    "max number of clients": _Word.FULL,
    "auth <password> called without": _Word.OPEN,
    "client sent auth, but no password": _Word.OPEN,
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
    _Word.ARITY: (Unsupported, "Use a newer server."),
    _Word.FULL: (Unreachable, "Wait, or raise the server's `maxclients`."),
    _Word.OPEN: (Drifted, "Set the secret's password at the server, which asks for none."),
    _Word.UNKNOWN: (Unsupported, "Use a server whose ACL and CONFIG commands are not disabled."),
}
"""First word (Redis: RESP errors) -> what to do."""

_UNKNOWN_WORD = (Unsupported, "Look into the server's log, and report what it says.")


@dataclass(frozen=True, slots=True)
class _No:
    """The server's answer is an error; its text is left behind."""

    word: str


def _is(said: object, *words: str) -> bool:
    return isinstance(said, _No) and said.word in words


_Command = Sequence[str | bytes]


class _Line:
    """One connection, used once: it does not reconnect, and repeats nothing.

    Attributes:
        host: For messages.
        nonce: Tells its name from that of any other.
    """

    def __init__(self, place: _Place, surroundings: Surroundings) -> None:
        self.host = place.host
        self.nonce = secrets.token_hex(4)
        self._place = place
        self._surroundings = surroundings
        self._connection: Connection | UnixDomainSocketConnection | None = None

    def open(self) -> None:
        """Connect, without a login."""
        connection = self._made(self._allowance_s(CONNECT_TIMEOUT_S))
        failure = self._try(connection.connect, "refuses connections, or is not reachable")
        if failure is not None:
            raise failure
        self._connection = connection

    def ask(self, *commands: _Command) -> list[object]:
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
        if not isinstance(said, _No):
            return said
        kind, remedy = _WORDS.get(said.word, _UNKNOWN_WORD)
        raise kind(f"{self.host}: the server answered {said.word[:40]!a}", remedy=remedy)

    def close(self) -> None:
        """Hang up. Repeatable."""
        if self._connection is not None:
            self._connection.disconnect()  # type: ignore[no-untyped-call]

    def _made(self, timeout_s: float) -> Connection | UnixDomainSocketConnection:
        from redis import Connection, SSLConnection, UnixDomainSocketConnection

        host, port = self._place.host, self._place.port
        if host.startswith("/"):
            # The driver's own types hold it for abstract.
            return UnixDomainSocketConnection(  # type: ignore[abstract, no-untyped-call]
                path=host, **_options(timeout_s)
            )
        # Each of the host's addresses is tried for so long.
        options = _options(timeout_s / self._count_addresses())
        if not self._place.tls:
            return Connection(host=host, port=port, **options)  # type: ignore[no-untyped-call]
        # It verifies by default, the host name included.
        roots = tls.authorities(host, self._surroundings)
        return SSLConnection(ssl_ca_data=roots, host=host, port=port, **options)

    def _count_addresses(self) -> int:
        """Look the host up here, to tell a wrong name from a server that is down."""
        try:
            return len(
                socket.getaddrinfo(self._place.host, self._place.port, type=socket.SOCK_STREAM)
            )
        except (OSError, UnicodeError):
            problem = f"{self.host}: the host name has no address"
        raise Unreachable(problem, remedy="Check the secret's host and the function's DNS.")

    def _allowance_s(self, most_s: float) -> float:
        left_s = self._surroundings.remaining_s() - MARGIN_S
        if left_s <= 0:
            raise Unreachable(
                f"{self.host}: no time is left for another call",
                remedy="Give the function a longer time-out, or look at what was slow before.",
            )
        return min(most_s, left_s)

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
        is_handshake = self._place.tls and self._connection is None
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
        return _No(word)


def _word(error: RedisError) -> str:
    """Return how the server's error begins; "" if it is not the server's."""
    from redis import ResponseError

    text, word = str(error), error.status_code or ""
    if not word and isinstance(error, ResponseError):
        word, _, text = (text or _Word.OTHER).partition(" ")
    if word != _Word.OTHER:
        return word
    found = (name for phrase, name in _PHRASES.items() if text.lower().startswith(phrase))
    return next(found, _Word.OTHER)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


# ---------------------------------------------------------------------------- checking

_HOST_MAX_CHARACTERS = 255
_PORT_MAX = 65_535
_PORT_DEFAULT = 6379


def _host(value: object) -> str:
    if value is None:
        _refuse("host", "is missing")
    if not isinstance(value, str):
        _refuse("host", f"is {kind_of(value)}, not a string")
    if not 0 < len(value) <= _HOST_MAX_CHARACTERS or not value.isprintable():
        _refuse("host", "is empty, too long, or holds unprintable characters")
    if any(c in value for c in ", "):
        _refuse("host", "is not one host name, address or socket")
    return value


def _check_name(key: str, name: str) -> None:
    if not name.isprintable() or " " in name or not 0 < len(name.encode()) <= NAME_MAX_BYTES:
        _refuse(
            key,
            f"is empty, longer than {NAME_MAX_BYTES} bytes,"
            " or holds blanks or unprintable characters",
        )


def _port(value: object) -> int:
    if value is None:
        return _PORT_DEFAULT
    number = int(value) if isinstance(value, str) and re.fullmatch("[0-9]{1,5}", value) else value
    if isinstance(number, bool) or not isinstance(number, int) or not 0 < number <= _PORT_MAX:
        _refuse("port", f"is {kind_of(value)} that is no number from 1 to {_PORT_MAX}")
    return number


def _refuse(key: str, problem: str) -> NoReturn:
    raise Misconfigured(
        f"the secret's {key!r} {problem}", remedy=f"Correct {key!r} in the secret's value."
    )
