"""PostgreSQL, through psycopg 3: RDS, Aurora, Cloud SQL, and any other.

What it never does: send a password in clear. Logins use SCRAM over verified TLS; new passwords
travel as SCRAM verifiers that libpq computes here, so neither the server's log nor its statement
views can hold them. No error quotes the server's text: it is classified by SQLSTATE alone.

A credential's document: `host`, `username`, `password`; `port` (5432), `dbname` (postgres) and
`ssl` (true) may be left out.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import re
import select
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keyturn import remaining, tls
from keyturn.errors import (
    Busy,
    Denied,
    Drifted,
    KeyturnError,
    Misconfigured,
    Unreachable,
    Unsupported,
)
from keyturn.model import Credential, Sensitive, Strategy, Surroundings
from keyturn.targets import members, wire

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql
    from psycopg.pq.abc import PGconn

TITLE = "PostgreSQL: RDS, Aurora, Cloud SQL, your own"
STRATEGIES = (Strategy.SINGLE_USER, Strategy.ALTERNATING_USERS)
ENGINES = ("postgres", "postgresql", "aurora-postgresql")
PERMISSIONS: tuple[str, ...] = ()
"""A login over the network needs no cloud permission."""

PORT = 5432
NAME_MAX_BYTES = 63
"""NAMEDATALEN - 1. The server cuts longer names silently, so that two of them may meet."""

CONNECT_TIMEOUT_S = 5.0
STATEMENT_TIMEOUT_S = 10.0
LOCK_TIMEOUT_S = 3.0
"""Short, because a worker that dies while it waits for a lock must not change anything later."""
ACT_WITHIN_S = 5.0
"""A change reaches the server so soon after the login, by the server's clock, or is refused there.

A worker may stall, or a packet, and arrive when another rotation has come and gone. From inside
the function that cannot be prevented; the server can.
"""
TRIES = 5
"""How often a change is tried when another session changes the same role at that moment."""


def engine(surroundings: Surroundings) -> Postgres:
    """Build the engine; see `keyturn.targets`."""
    return Postgres(surroundings)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a credential logs in, checked."""

    host: str
    port: int
    dbname: str
    tls: bool


class Postgres:
    """A `PasswordEngine`."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._surroundings = surroundings

    def endpoint(self, credential: Credential) -> str:
        """See `PasswordEngine.endpoint`."""
        place = self._place(credential)
        return f"{place.host}:{place.port}/{place.dbname}"

    @contextmanager
    def login(self, credential: Credential) -> Iterator[_Session | None]:
        """See `PasswordEngine.login`."""
        place = self._place(credential)
        timeout_s = self._allowance(CONNECT_TIMEOUT_S, place)
        pgconn = _connect(place, credential, timeout_s, self._surroundings)
        if pgconn is None:
            yield None
            return
        import psycopg

        connection = psycopg.Connection(pgconn)
        try:
            connection.autocommit = True
            session = _Session(connection, lambda: self._allowance(STATEMENT_TIMEOUT_S, place))
            session.greet()
            yield session
        finally:
            connection.close()

    def _allowance(self, most_s: float, place: _Place) -> float:
        return remaining.allowance(most_s, place.host, self._surroundings)

    def _place(self, credential: Credential) -> _Place:
        fields = credential.fields
        host = members.host(fields)
        members.check_name("username", credential.principal, NAME_MAX_BYTES)
        return _Place(
            host,
            members.port(fields.get("port"), PORT),
            members.text(fields, "dbname", "postgres", NAME_MAX_BYTES),
            tls.wants_tls(fields.get("ssl"), host, self._surroundings),
        )


class _Session:
    """A `TwinSession` and a `SeenSession`.

    Args:
        connection: Open, in autocommit mode.
        allowance_s: How long the next statement may take; raises when no time is left.
    """

    def __init__(
        self, connection: psycopg.Connection[tuple[object, ...]], allowance_s: Callable[[], float]
    ) -> None:
        self._connection = connection
        self._allowance_s = allowance_s
        self._act_before = ""
        self._acts_as = ""

    def greet(self) -> None:
        """Do the least that a consumer must be able to do; learn who we are, and the time there."""
        # Seconds since 1970, as text: a login may have another DateStyle than drivers can read.
        query = "SELECT current_user, (extract(epoch FROM clock_timestamp()) + %s::numeric)::text"
        ((acts_as, act_before),) = self._rows(query, str(ACT_WITHIN_S))
        self._acts_as, self._act_before = str(acts_as), str(act_before)

    def acts_for(self, owner: str) -> bool:
        """See `TwinSession.acts_for`."""
        return self._acts_as == owner

    def set_password(self, principal: str, secret: Sensitive) -> None:
        """See `Session.set_password`. One exchange, one transaction."""
        from psycopg import sql

        # A login that acts as another role by default is itself again with NONE.
        self._change(sql.SQL("SET LOCAL ROLE NONE"), self._alter_password(principal, secret))

    def check_twin(self, twin: str, *, like: str, owner: str, is_ours: Callable[[], bool]) -> None:
        """See `TwinSession.check_twin`. Memberships tell whose login it is."""
        del is_ours
        for name in (twin, like, owner):
            members.check_name("user", name, NAME_MAX_BYTES)
        facts = self._pair_facts(twin, like, owner)
        _refuse_foreign_pair(facts, twin, like, owner)
        if not facts.may_manage:
            raise Denied(
                f"the admin may not manage {twin!r} and {owner!r}",
                remedy=(
                    "Give the admin CREATEROLE and, from PostgreSQL 16 on, both roles"
                    " WITH ADMIN OPTION."
                ),
            )

    def set_twin(self, twin: str, secret: Sensitive, *, like: str, owner: str) -> None:
        """See `TwinSession.set_twin`. One transaction, so grants and password come together."""
        from psycopg import sql

        name = sql.Identifier(twin)
        steps: list[sql.Composable] = []
        if not self._pair_facts(twin, like, owner).twin_exists:
            steps.append(sql.SQL("CREATE ROLE {}").format(name))
        if twin != owner:
            steps += self._same_as(twin, like, owner)
        # Password last: it is what makes accepts true.
        self._change(*steps, self._alter_password(twin, secret, login=True))

    def sessions_of(self, principal: str) -> int | None:
        """See `SeenSession.sessions_of`. Everybody sees the names, unless somebody revoked that.

        A query's parallel workers are counted, too: what tells them apart is shown to few.
        """
        found = self._asked(_SESSIONS, principal)
        if not isinstance(found, _Failure):
            return len(found)
        if found.code == _NOT_PRIVILEGED:
            return None
        raise found.ours

    def _same_as(self, twin: str, like: str, owner: str) -> list[sql.Composable]:
        """Return what makes *twin* act as *owner*, with the limits and settings of *like*."""
        from psycopg import sql

        name = sql.Identifier(twin)
        limit = self._rows("SELECT rolconnlimit FROM pg_catalog.pg_roles WHERE rolname = %s", like)
        present, wanted = self._settings(twin), self._settings(like)
        # Left alone when they are equal: some may be set by a superuser only.
        settings = [] if wanted == present else _exchange_settings(name, present, wanted)
        return [
            sql.SQL("GRANT {} TO {}").format(sql.Identifier(owner), name),
            *(sql.SQL("ALTER ROLE {} CONNECTION LIMIT {}").format(name, n) for (n,) in limit),
            *settings,
            sql.SQL("ALTER ROLE {} SET role TO {}").format(name, sql.Literal(owner)),
        ]

    def _settings(self, name: str) -> list[_Setting]:
        """Return the defaults of a login, except as whom it acts."""
        found = [_Setting(*map(str, row)) for row in self._rows(_SETTINGS, name)]
        return sorted(setting for setting in found if setting.key != "role")

    def _alter_password(
        self, principal: str, secret: Sensitive, *, login: bool = False
    ) -> sql.Composable:
        from psycopg import sql

        verifier = self._connection.pgconn.encrypt_password(
            secret.reveal().encode(), principal.encode(), b"scram-sha-256"
        )
        options = sql.SQL("LOGIN PASSWORD") if login else sql.SQL("PASSWORD")
        return sql.SQL("ALTER ROLE {} {} {}").format(
            sql.Identifier(principal), options, sql.Literal(verifier.decode())
        )

    def _pair_facts(self, twin: str, like: str, owner: str) -> _PairFacts:
        row = self._rows(_PAIR_FACTS, *[twin, like, owner])[0]
        return _PairFacts(*map(bool, row))

    def _change(self, *statements: sql.Composable) -> None:
        """Run *statements* in one transaction and one exchange."""
        from psycopg import sql

        guards: list[sql.Composable] = [
            sql.SQL("SET LOCAL {} TO {}").format(sql.Identifier(name), value)
            for name, value in self._guards().items()
        ]
        guards.append(sql.SQL(_NOT_TOO_LATE).format(self._act_before))
        # The settings that are copied pass through this transaction: guard again after them.
        script = sql.SQL("; ").join([*guards, *statements[:-1], *guards, *statements[-1:]])
        for attempt in range(1, TRIES + 1):
            failure = self._try(lambda: self._connection.execute(script, prepare=False))
            if failure is None:
                return
            if failure.code not in _CONFLICTS or attempt == TRIES:
                raise failure.ours
            time.sleep(0.02 * attempt)

    def _guards(self) -> dict[str, str]:
        allowance_ms = int(self._allowance_s() * 1000)
        guards = {
            "statement_timeout": f"{allowance_ms}ms",
            "lock_timeout": f"{min(allowance_ms, int(LOCK_TIMEOUT_S * 1000))}ms",
        }
        # The server notices a dead client while it waits for a lock, and gives up the change.
        if self._connection.info.server_version >= _VERSION_14:
            guards["client_connection_check_interval"] = "100ms"
        return guards

    def _rows(self, query: str, *values: str) -> list[tuple[object, ...]]:
        found = self._asked(query, *values)
        if isinstance(found, _Failure):
            raise found.ours
        return found

    def _asked(self, query: str, *values: str) -> list[tuple[object, ...]] | _Failure:
        found: list[tuple[object, ...]] = []
        failure = self._try(
            lambda: found.extend(self._connection.execute(query.encode(), values).fetchall())
        )
        return failure or found

    def _try(self, call: Callable[[], object]) -> _Failure | None:
        """Make one exchange; cut the line when the server does not answer in time."""
        import psycopg

        limit_s = self._allowance_s() + remaining.MARGIN_S / 2
        try:
            with wire.cut_after(limit_s, self._connection.pgconn.socket):
                call()
        except psycopg.Error as error:
            return _Failure.of(error.sqlstate, self._connection.info.host)
        return None


# PostgreSQL, the statistics system: who may not read all statistics sees the users of all
# sessions, and of those of other users neither kind nor age nor address.
_SESSIONS = """
SELECT pid FROM pg_catalog.pg_stat_activity
 WHERE usename = %s::text AND pid <> pg_catalog.pg_backend_pid()
"""
_NOT_PRIVILEGED = "42501"
_VERSION_14 = 140000
_TOO_LATE = "KT001"
_NOT_TOO_LATE = (
    "DO $do$ BEGIN IF extract(epoch FROM pg_catalog.clock_timestamp()) > {}::numeric THEN"
    f" RAISE EXCEPTION USING ERRCODE = '{_TOO_LATE}', MESSAGE = 'keyturn: too late';"
    " END IF; END $do$"
)
_CONFLICTS = {"XX000", "40001", "40P01", "42710"}
"""Another session changed the same role: XX000 "tuple concurrently updated", or it was made."""


# ---------------------------------------------------------------------------- pairs

_PAIR_FACTS = """
WITH r AS (SELECT %s::text AS twin, %s::text AS alike, %s::text AS owner),
     m AS (SELECT g.rolname AS granted, u.rolname AS member, a.admin_option
             FROM pg_catalog.pg_auth_members a
             JOIN pg_catalog.pg_roles g ON g.oid = a.roleid
             JOIN pg_catalog.pg_roles u ON u.oid = a.member),
     me AS (SELECT rolsuper, rolcreaterole, rolname,
                   current_setting('server_version_num')::int >= 160000 AS strict
              FROM pg_catalog.pg_roles WHERE rolname = current_user)
SELECT EXISTS (SELECT FROM pg_catalog.pg_roles, r WHERE rolname = twin),
       EXISTS (SELECT FROM pg_catalog.pg_roles, r WHERE rolname = alike),
       EXISTS (SELECT FROM pg_catalog.pg_roles, r WHERE rolname = owner),
       EXISTS (SELECT FROM m, r WHERE granted = owner AND member = twin),
       EXISTS (SELECT FROM m, r WHERE granted = owner AND member = alike),
       EXISTS (SELECT FROM pg_catalog.pg_roles, r WHERE rolname = twin AND rolsuper),
       (SELECT rolsuper OR (rolcreaterole AND (NOT strict OR NOT EXISTS (
                  SELECT FROM pg_catalog.pg_roles p, r
                   WHERE p.rolname IN (twin, owner)
                     AND NOT pg_catalog.pg_has_role(
                               me.rolname, p.oid, 'MEMBER WITH ADMIN OPTION'))))
          FROM me)
"""

_SETTINGS = """
SELECT coalesce(d.datname, ''), split_part(entry, '=', 1), substr(entry, strpos(entry, '=') + 1)
  FROM pg_catalog.pg_db_role_setting s
  JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
  LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase,
       unnest(s.setconfig) AS entry
 WHERE r.rolname = %s
"""


@dataclass(frozen=True, slots=True, order=True)
class _Setting:
    """The columns of `_SETTINGS`. The database is "" where it holds in all."""

    database: str
    key: str
    value: str


def _exchange_settings(
    name: sql.Identifier, present: list[_Setting], wanted: list[_Setting]
) -> list[sql.Composable]:
    """Return what takes *name*'s present settings away and gives it the wanted ones."""
    from psycopg import sql

    places = {"": sql.SQL("")} | {
        each.database: sql.SQL(" IN DATABASE {}").format(sql.Identifier(each.database))
        for each in (*present, *wanted)
        if each.database
    }
    steps: list[sql.Composable] = [
        sql.SQL("ALTER ROLE {}{} RESET ALL").format(name, place) for place in places.values()
    ]
    for each in wanted:
        # FROM CURRENT, because a list (search_path) is stored in a form no literal can express.
        steps += [
            sql.SQL("SELECT pg_catalog.set_config({}, {}, true)").format(each.key, each.value),
            sql.SQL("ALTER ROLE {}{} SET {} FROM CURRENT").format(
                name, places[each.database], sql.Identifier(*each.key.split("."))
            ),
        ]
    return steps


@dataclass(frozen=True, slots=True)
class _PairFacts:
    """The columns of `_PAIR_FACTS`."""

    twin_exists: bool
    like_exists: bool
    owner_exists: bool
    twin_is_member: bool
    like_is_member: bool
    twin_is_superuser: bool
    may_manage: bool


def _refuse_foreign_pair(facts: _PairFacts, twin: str, like: str, owner: str) -> None:
    """Raise Drifted unless *twin* is free, or demonstrably of the same pair as *like*.

    Names prove nothing: `app_clone` may belong to another application than `app`. Membership in
    the owner does, because a person or keyturn granted it.
    """
    if not facts.owner_exists:
        raise Drifted(
            f"there is no role {owner!r} to own what {twin!r} and {like!r} make",
            remedy=f"Create the role {owner!r} and grant it to {like!r}.",
        )
    like_is_known = like == owner or facts.like_is_member or not facts.like_exists
    twin_is_ours = not facts.twin_exists or facts.twin_is_member
    if twin == owner:
        like_is_known = twin_is_ours = facts.like_is_member
    if facts.twin_is_superuser or not (like_is_known and twin_is_ours):
        stranger = like if not like_is_known else twin
        raise Drifted(
            f"the role {stranger!r} exists and is not known to belong to {owner!r}",
            remedy=(
                f"If {twin!r} and {like!r} are one pair, grant {owner!r} to {stranger!r};"
                " else name other users in the plan."
            ),
        )


# ---------------------------------------------------------------------------- connecting


def _connect(
    place: _Place, credential: Credential, timeout_s: float, surroundings: Surroundings
) -> PGconn | None:
    """Log in; None if the server refused the credential."""
    from psycopg.conninfo import make_conninfo

    addresses = wire.addresses(place.host, place.port)
    options = {
        "host": ",".join([place.host] * max(1, len(addresses))),
        "hostaddr": ",".join(addresses),
        "port": str(place.port),
        "dbname": place.dbname,
        "user": credential.principal,
        "application_name": "keyturn",
        "client_encoding": "UTF8",
        "gssencmode": "disable",
        # Never a password in clear, and never a server that does not ask: it proves nothing.
        "require_auth": "scram-sha-256,md5" if place.tls else "scram-sha-256",
    }
    with tls.authorities_file(place.host, surroundings) if place.tls else _nothing() as roots:
        options |= {"sslmode": "verify-full", "sslrootcert": roots} if roots else _PLAIN
        outcome = _dial(
            make_conninfo(**options, password=credential.secret.reveal()), place, timeout_s
        )
    if not isinstance(outcome, _Failure):
        return outcome
    if outcome.is_refusal:
        return None
    if outcome.stage == _Stage.TLS:
        raise _explain_tls(place, addresses, timeout_s, surroundings) or outcome.ours
    raise outcome.ours


_PLAIN = {"sslmode": "disable"}


@contextmanager
def _nothing() -> Iterator[str]:
    yield ""


class _Stage:
    """How far a login got, as libpq's ConnStatusType (libpq-fe.h) names it."""

    NETWORK = "STARTED"
    TLS = "SSL_STARTUP"


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why an exchange failed: the server's SQLSTATE, or how far a login got without one."""

    code: str
    stage: str
    ours: KeyturnError

    @classmethod
    def of(cls, code: str | None, host: str, stage: str = "") -> _Failure:
        """Classify by code, never by text: texts are translated, and quote."""
        kind, remedy = _verdict(code) if code else (Unreachable, _LINE)
        fact = f"answered {code} ({_condition(code)})" if code else _SILENCE.get(stage, "hung up")
        return cls(code or "", stage, kind(f"{host}: the server {fact}", remedy=remedy))

    @property
    def is_refusal(self) -> bool:
        """Tell whether the server refused the credential. That is an answer, not an error."""
        return self.code.startswith("28")


_LINE = "Check that the server runs, and the network path from the function to it."
_SILENCE = {
    _Stage.NETWORK: "refuses connections, or is not reachable",
    _Stage.TLS: "broke off the TLS handshake",
    "timeout": "did not answer in time",
    "AWAITING_RESPONSE": "hung up, or asked for the password in a way that would expose it",
}

_SQLSTATES: dict[str, tuple[type[KeyturnError], str]] = {
    "08": (Unreachable, _LINE),
    "22023": (
        Misconfigured,
        "The server's password policy refuses hashed passwords: relax it for this user.",
    ),
    "25006": (Misconfigured, "Use the writer's host: this server is a read-only replica."),
    "3D000": (Misconfigured, "Correct `dbname` in the secret."),
    "42501": (Denied, "Grant what is missing: see docs/postgres.md, Privileges."),
    "42704": (Drifted, "Create the user, or correct `username` in the secret."),
    "53": (Unreachable, "Wait, or raise the server's connection limits."),
    "55P03": (Unreachable, "Another session holds a lock on this role: it is tried again."),
    _TOO_LATE: (Busy, "Nothing: this worker stalled. It is tried again, or a newer one follows."),
    "57": (Unreachable, "The server is starting, stopping or busy: it is tried again."),
}
"""SQLSTATE or its class (PostgreSQL, appendix A) -> what to do. The longest match wins."""


def _verdict(code: str) -> tuple[type[KeyturnError], str]:
    if code in _CONFLICTS:
        return Unreachable, "Other sessions keep changing this role: it is tried again."
    unknown = (Unsupported, "Look the code up in PostgreSQL's appendix A, and report it.")
    return _SQLSTATES.get(code) or _SQLSTATES.get(code[:2]) or unknown


def _condition(code: str) -> str:
    from psycopg import errors

    if code == _TOO_LATE:
        return "too late"
    try:
        return errors.lookup(code).__name__
    except KeyError:
        return "unknown condition"


_SQLSTATE_AT_END = re.compile(r"\s([0-9A-Z]{5})\s*$")


def _dial(conninfo: str, place: _Place, timeout_s: float) -> PGconn | _Failure:
    """Drive libpq's connection state machine, noting how far it gets."""
    from psycopg import pq

    pgconn = pq.PGconn.connect_start(conninfo.encode())
    _show_sqlstate_only(pgconn)
    deadline = time.monotonic() + timeout_s
    wanted, stage = pq.PollingStatus.WRITING, _Stage.NETWORK
    while wanted in {pq.PollingStatus.READING, pq.PollingStatus.WRITING}:
        if not _ready(pgconn.socket, deadline, writing=wanted == pq.PollingStatus.WRITING):
            pgconn.finish()
            return _Failure.of(None, place.host, "timeout")
        stage = pq.ConnStatus(pgconn.status).name
        wanted = pq.PollingStatus(pgconn.connect_poll())
    if wanted == pq.PollingStatus.OK:
        pgconn.nonblocking = 1
        return pgconn
    found = _SQLSTATE_AT_END.search(pgconn.get_error_message())
    pgconn.finish()
    return _Failure.of(found[1] if found else None, place.host, stage)


def _ready(descriptor: int, deadline: float, *, writing: bool) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT if writing else select.POLLIN)
    return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))


_PQERRORS_SQLSTATE = 3


def _show_sqlstate_only(pgconn: PGconn) -> None:
    """Make libpq report a failed login as its SQLSTATE.

    psycopg has none for a failed connection (its issue 1188), and the server's text is translated;
    libpq's own PQsetErrorVerbosity puts the code where the text would be.
    """
    module = sys.modules[type(pgconn).__module__].__file__ or ""
    path = module if not module.endswith(".py") else ctypes.util.find_library("pq")
    set_verbosity = ctypes.CDLL(path).PQsetErrorVerbosity
    set_verbosity.argtypes = [ctypes.c_void_p, ctypes.c_int]
    pointer = pgconn.pgconn_ptr  # type: ignore[attr-defined]  # in the class, not its protocol
    set_verbosity(pointer, _PQERRORS_SQLSTATE)


_SSL_REQUEST = bytes([0, 0, 0, 8, 4, 210, 22, 47])  # PostgreSQL protocol, SSLRequest


def _explain_tls(
    place: _Place, addresses: list[str], timeout_s: float, surroundings: Surroundings
) -> KeyturnError | None:
    """Repeat the handshake without a login, to say why it failed. None if it does not fail."""
    context = ssl.create_default_context(cadata=tls.authorities(place.host, surroundings))
    try:
        with socket.create_connection((addresses[0], place.port), timeout_s) as line:
            line.sendall(_SSL_REQUEST)
            if line.recv(1) != b"S":
                return Misconfigured(
                    f"{place.host}: the server does not offer TLS; no password was sent",
                    remedy="Switch TLS on at the server.",
                )
            with context.wrap_socket(line, server_hostname=place.host):
                return None
    except ssl.SSLCertVerificationError as error:
        return tls.certificate_refused(place.host, error)
    except OSError:
        return None
