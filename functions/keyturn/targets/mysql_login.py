"""Logs in to MySQL and MariaDB, makes exchanges, and says what a failure means.

Never shows the password to anybody but a server that has proven who it is: TLS is verified or,
where the deployment allows plain text, only a scrambled answer is given. No error quotes the
server's text, which holds the statement: errors are classified by number alone.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from keyturn import tls
from keyturn.errors import (
    Busy,
    Denied,
    Drifted,
    KeyturnError,
    Misconfigured,
    Unreachable,
    Unsupported,
)
from keyturn.model import Credential, Sensitive, Surroundings
from keyturn.targets import mysql_hashes, wire
from keyturn.targets.mysql_sql import Sql

if TYPE_CHECKING:
    from pymysql.connections import Connection
    from pymysql.cursors import Cursor
    from pymysql.protocol import MysqlPacket

CONNECT_TIMEOUT_S = 5.0

Rows = list[tuple[str | None, ...]]
"""What one statement answered, as text."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a credential logs in, checked."""

    host: str
    port: int
    dbname: str
    tls: bool

    @property
    def is_private(self) -> bool:
        """Tell whether nobody else can listen: a verified server, or a socket of this machine."""
        return self.tls or self.host.startswith("/")


class Line:
    """An open connection. One exchange at a time, each with a limit."""

    def __init__(self, place: Place, connection: Connection[Cursor], descriptor: int) -> None:
        self.place = place
        self._connection = connection
        self._descriptor = descriptor

    def ask(self, statements: Sql, timeout_s: float) -> list[Rows] | Trouble:
        """Send *statements* in one packet; return the answer of each, or why there is none.

        Those after one that is refused are not run.
        """
        started = time.monotonic()
        try:
            with wire.cut_after(timeout_s, self._descriptor):
                return self._ask(statements)
        except _troubles() as error:
            return _trouble(self.place, error, is_late=time.monotonic() - started >= timeout_s)

    def _ask(self, statements: Sql) -> list[Rows]:
        with self._connection.cursor() as cursor:
            cursor.execute(statements)
            found = [list(cursor.fetchall())]
            while cursor.nextset():
                found.append(list(cursor.fetchall()))
            return found

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


def log_in(
    place: Place, credential: Credential, timeout_s: float, surroundings: Surroundings
) -> Line | None:
    """Log in; None if the server refused the credential."""
    connection = _connection(place, credential, surroundings)
    line = _dial(place, timeout_s)
    descriptor = line.fileno()
    trouble, started = None, time.monotonic()
    try:
        with wire.cut_after(timeout_s, descriptor):
            connection.connect(line)
    except _troubles() as error:
        trouble = _trouble(place, error, is_late=time.monotonic() - started >= timeout_s)
    if trouble is None:
        return Line(place, connection, descriptor)
    line.close()
    if trouble.number == REFUSED:
        return None
    raise trouble.ours


def _connection(
    place: Place, credential: Credential, surroundings: Surroundings
) -> Connection[Cursor]:
    """Prepare a connection. PyMySQL's defaults would try TLS without verifying anything."""
    from pymysql.connections import Connection
    from pymysql.constants import CLIENT

    context = None
    if place.tls:
        context = ssl.create_default_context(cadata=tls.authorities(place.host, surroundings))
    connection = Connection(
        host=place.host,
        user=credential.principal,
        password=credential.secret.reveal().encode(),  # of a str, PyMySQL takes Latin-1
        database=place.dbname or None,
        charset="utf8mb4",
        conv={},
        client_flag=CLIENT.MULTI_STATEMENTS,
        program_name="keyturn",
        ssl=context,
        ssl_disabled=not place.tls,
        auth_plugin_map=_answers(place, credential.secret),
        autocommit=None,
        defer_connect=True,
    )
    if place.is_private and not place.tls:
        # PyMySQL knows a socket for one only if it opens it itself. Else it answers a MySQL that
        # wants to see the password there with something else, and the right one is refused.
        connection._secure = True  # type: ignore[attr-defined]  # noqa: SLF001
    return connection


def _dial(place: Place, timeout_s: float) -> socket.socket:
    problem = "refuses connections, or is not reachable"
    is_named = wire.addresses(place.host, place.port)
    try:
        return _line_to(place, timeout_s) if is_named else _line_to_socket(place.host, timeout_s)
    except TimeoutError:
        problem = "did not answer in time"
    except OSError:
        pass
    raise Unreachable(f"{place.host}: the server {problem}", remedy=_LINE)


def _line_to(place: Place, timeout_s: float) -> socket.socket:
    line = socket.create_connection((place.host, place.port), timeout_s)
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return line


def _line_to_socket(path: str, timeout_s: float) -> socket.socket:
    line = socket.socket(socket.AF_UNIX)
    try:
        line.settimeout(timeout_s)
        line.connect(path)
    except OSError:
        line.close()
        raise
    return line


# ---------------------------------------------------------------------------- asked for a password


class _WantsPassword(Exception):
    """The server asks in a way that would show the password to whoever listens."""


class _Answer(Protocol):
    def authenticate(self, packet: MysqlPacket) -> object: ...


def _answers(place: Place, secret: Sensitive) -> dict[str, Callable[[Connection[Cursor]], _Answer]]:
    """Return who answers the server, by the name of its plug-in; PyMySQL itself does the rest."""
    answers: dict[str, Callable[[Connection[Cursor]], _Answer]] = {
        **dict.fromkeys(("mysql_clear_password", "mysql_old_password", "dialog"), _Refusal),
        "client_ed25519": lambda connection: _Ed25519(connection, secret),
    }
    if not place.is_private:
        answers |= {"caching_sha2_password": _CachedOnly, "sha256_password": _Refusal}
    return answers


class _Refusal:
    def __init__(self, connection: Connection[Cursor]) -> None:
        del connection

    def authenticate(self, packet: MysqlPacket) -> object:
        del packet
        raise _WantsPassword


class _CachedOnly:
    """Answers a challenge; not the demand for the password itself, or for it under a given key."""

    def __init__(self, connection: Connection[Cursor]) -> None:
        self._connection = connection

    def authenticate(self, packet: MysqlPacket) -> object:
        from pymysql._auth import caching_sha2_password_auth

        # Whoever answers could send a key of theirs; with this one, encrypting always fails.
        self._connection.server_public_key = b"none"
        try:
            return caching_sha2_password_auth(self._connection, packet)
        except (RuntimeError, ValueError, ImportError):
            raise _WantsPassword from None


class _Ed25519:
    def __init__(self, connection: Connection[Cursor], secret: Sensitive) -> None:
        self._connection = connection
        self._secret = secret

    def authenticate(self, packet: MysqlPacket) -> object:
        challenge: bytes = packet.read_all()  # type: ignore[no-untyped-call]
        self._connection.write_packet(mysql_hashes.ed25519_answer(self._secret, challenge))
        done: object = self._connection._read_packet()  # type: ignore[no-untyped-call]  # noqa: SLF001
        return done


# ---------------------------------------------------------------------------- failures


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why an exchange failed: the server's number for it, 0 if there was none, and our error."""

    number: int
    ours: KeyturnError


def _troubles() -> tuple[type[Exception], ...]:
    """Return all that PyMySQL raises: its own, and what comes of a server that is none."""
    from pymysql.err import MySQLError

    garbled = (LookupError, TypeError, ValueError, RuntimeError, AssertionError, struct.error)
    return (MySQLError, OSError, *garbled, AttributeError, _WantsPassword)


def _trouble(place: Place, error: Exception, *, is_late: bool) -> Trouble:
    """Classify by number, never by text."""
    cause = getattr(error, "original_exception", error)
    number = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    if isinstance(cause, ssl.SSLCertVerificationError):
        return Trouble(0, tls.certificate_refused(place.host, cause))
    if isinstance(cause, ssl.SSLError):
        number = _TLS_FAILED
    if isinstance(cause, _WantsPassword):
        number = _IN_CLEAR
    if is_late:
        number = 0
    if number in _ANSWERS:
        kind, fact, remedy = _ANSWERS[number]
    elif number >= _FIRST_OF_SERVER and number not in _OF_CLIENT:
        kind, fact, remedy = Unsupported, "unknown to us", _LOOK_IT_UP
    else:
        kind, fact, remedy = Unreachable, "did not answer in time" if is_late else "hung up", _LINE
        return Trouble(0, kind(f"{place.host}: the server {fact}", remedy=remedy))
    said = f"answered {number} ({fact})" if number > 0 else fact
    return Trouble(number, kind(f"{place.host}: the server {said}", remedy=remedy))


REFUSED = 1045
TWICE_IN_HISTORY = 1062
NOT_PRIVILEGED = 1227
TOO_LATE = 1231
_TLS_FAILED, _IN_CLEAR = -1, -2
_FIRST_OF_SERVER = 1000
_OF_CLIENT = range(2000, 3000)
_LINE = "Check that the server runs, and the network path from the function to it."
_LOOK_IT_UP = "Look the number up in the server's error reference, and report it."
_WAIT = "Wait: it is tried again."
_GRANT = "Grant what is missing: see docs/mysql.md, Privileges."
_HASHES = (
    "This server checks passwords, and refuses hashes: set strict_password_validation=OFF, or"
    " uninstall the validation plug-in."
)
_POLICY = (
    "Change the plan's password rules to what the server's policy wants, cancel this rotation and"
    " start a new one: the same value is refused for ever."
)
_HISTORY = "Let an admin rotate the user, or lift PASSWORD HISTORY and REUSE INTERVAL from it."
_WRITER = "Use the writer's endpoint as host: this server is a read-only replica."

_ANSWERS: dict[int, tuple[type[KeyturnError], str, str]] = {
    _TLS_FAILED: (Misconfigured, "broke off the TLS handshake", "Check the server's TLS settings."),
    _IN_CLEAR: (
        Misconfigured,
        "asks for the password in a way that would expose it; it was not sent",
        "Log in over TLS: remove `ssl` from the secret; or give the user another plug-in.",
    ),
    1040: (Unreachable, "too many connections", "Wait, or raise max_connections."),
    1041: (Unreachable, "out of memory", _WAIT),
    1044: (Denied, "no access to this database", "Grant the user something in `dbname`."),
    # In an answer to a login it is no error. GRANT says it to who may not.
    REFUSED: (Denied, "a privilege is missing", _GRANT),
    1049: (Misconfigured, "no such database", "Correct `dbname` in the secret."),
    1053: (Unreachable, "shutting down", _WAIT),
    TWICE_IN_HISTORY: (Misconfigured, "its policy notes every password", _HISTORY),
    1129: (Denied, "host is blocked", "Find what fails, then run FLUSH HOSTS on the server."),
    1130: (Denied, "no account for this host", "Create the user for the function's address."),
    1133: (Drifted, "no such user", "Create the user, or correct `username` in the secret."),
    1141: (Drifted, "no such user", "Create the user, or correct `username` in the secret."),
    1142: (Denied, "a privilege on a table is missing", _GRANT),
    1143: (Denied, "a privilege on a column is missing", _GRANT),
    1152: (Unreachable, "connection aborted", _WAIT),
    1153: (Unreachable, "packet too big", _LINE),
    1158: (Unreachable, "cannot read", _WAIT),
    1159: (Unreachable, "timed out reading", _WAIT),
    1160: (Unreachable, "cannot write", _WAIT),
    1161: (Unreachable, "timed out writing", _WAIT),
    1203: (Unreachable, "the user has too many connections", "Wait, or raise its limit."),
    1205: (Unreachable, "another session holds a lock", _WAIT),
    1213: (Unreachable, "deadlock with another session", _WAIT),
    1226: (Unreachable, "the user's limit is used up", "Wait an hour, or raise its limit."),
    1227: (Denied, "a privilege is missing", _GRANT),
    1231: (
        Busy,
        "too late, or another worker is at it",
        "Nothing: this worker stalled, or a newer one is quicker. A retry follows.",
    ),
    1251: (Unsupported, "wants an outdated way to log in", "Give the user another plug-in."),
    1290: (
        Misconfigured,
        "a server option prevents it",
        f"{_HASHES} If it is a replica, use the writer's.",
    ),
    1317: (Unreachable, "interrupted", _WAIT),
    1370: (Denied, "a privilege on a routine is missing", _GRANT),
    1396: (
        Misconfigured,
        "the account was not changed",
        f"Check that the user exists. If it does: {_HASHES}",
    ),
    1410: (Denied, "may not create users", _GRANT),
    1449: (Drifted, "no such user", "Create the user, or correct `username` in the secret."),
    1524: (Unsupported, "the plug-in is not loaded", "Give the user another plug-in."),
    1698: (
        Misconfigured,
        "the user logs in without a password",
        "Give the user a plug-in with a password; a Unix socket's login has none to rotate.",
    ),
    1792: (Misconfigured, "read-only", _WRITER),
    1819: (Misconfigured, "its policy refuses the password", _POLICY),
    1820: (Denied, "the password has expired", "Set it once by hand, and into the secret."),
    1836: (Misconfigured, "read-only", _WRITER),
    1862: (Denied, "the password has expired", "Set it once by hand, and into the secret."),
    1872: (Unreachable, "busy", _WAIT),
    1969: (Unreachable, "took too long", _WAIT),
    2026: (
        Misconfigured,
        "does not offer TLS; no password was sent",
        "Switch TLS on at the server.",
    ),
    2059: (
        Unsupported,
        "wants another way to log in than a password",
        "Give the user mysql_native_password, ed25519 or caching_sha2_password.",
    ),
    3024: (Unreachable, "took too long", _WAIT),
    3118: (Denied, "the account is locked", "Unlock it: ALTER USER .. ACCOUNT UNLOCK."),
    3159: (Misconfigured, "wants TLS", "Remove `ssl` from the secret."),
    3572: (Unreachable, "another session holds a lock", _WAIT),
    3638: (
        Misconfigured,
        "its policy refuses a password used before",
        _HISTORY,
    ),
    3878: (Misconfigured, "the current password is empty", "Give the user a password first."),
    3892: (
        Unsupported,
        "wants the old password with the new one",
        "Alter the user with PASSWORD REQUIRE CURRENT OPTIONAL, or let an admin rotate it.",
    ),
    3955: (Denied, "the account is blocked", "Find what fails, then ALTER USER .. ACCOUNT UNLOCK."),
    4031: (Unreachable, "the connection was idle for too long", _WAIT),
    4150: (Denied, "the user is blocked", "Find what fails, then run FLUSH PRIVILEGES."),
    4151: (Denied, "the account is locked", "Unlock it: ALTER USER .. ACCOUNT UNLOCK."),
}
"""Number (MySQL: server error reference; MariaDB: error codes) -> class, fact, remedy."""
