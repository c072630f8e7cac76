"""MySQL and MariaDB, through PyMySQL: RDS, Aurora, Cloud SQL, and any other.

What it never does: put a password into a statement where the server takes a hash. One server does
not: a MySQL user that changes its own password without CREATE USER; `_Session._in_clear` says
what then sees it. `mysql_login` logs in, `mysql_accounts` compares accounts.

    set_password   of oneself: the account as matched; of others: every account of that name
    set_twin       accounts and rights first, until they are equal; the password last
    set_dual       two passwords of one account: MariaDB from 10.4, MySQL from 8.0.14

A change is one packet of statements. The first refuses the packet if it comes too late, by the
server's own clock; the server runs none after one that it refuses. Between two of a packet, it runs
those of others: so what belongs together, as two passwords do, is one statement (`_altered`).

A credential's document: `host` (or the path of a socket), `username`, `password`; `port` (3306),
`dbname` (none) and `ssl` (true) may be left out.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import LiteralString

from keyturn import remaining, tls
from keyturn.errors import Denied, Drifted, Misconfigured, Unsupported
from keyturn.model import Credential, Sensitive, Strategy, Surroundings
from keyturn.targets import members, mysql_hashes
from keyturn.targets.mysql_accounts import Account, Rights, exchange, same_options
from keyturn.targets.mysql_login import (
    CONNECT_TIMEOUT_S,
    NOT_PRIVILEGED,
    TWICE_IN_HISTORY,
    Line,
    Place,
    Rows,
    Trouble,
    log_in,
)
from keyturn.targets.mysql_sql import Sql, account, joined, literal, number, sql

TITLE = "MySQL and MariaDB: RDS, Aurora, Cloud SQL, your own"
STRATEGIES = (Strategy.SINGLE_USER, Strategy.DUAL_PASSWORD, Strategy.ALTERNATING_USERS)
ENGINES = ("mysql", "mariadb", "aurora-mysql")
PERMISSIONS: tuple[str, ...] = ()
"""A login over the network needs no cloud permission."""

PORT = 3306
NAME_MAX_BYTES = 128
"""MariaDB's limit, in characters of up to four bytes; a name this long in bytes is safe there."""
MYSQL_NAME_MAX_CHARACTERS = 32
DATABASE_MAX_BYTES = 64

STATEMENT_TIMEOUT_S = 10.0
LOCK_TIMEOUT_S = 3
"""Short, because a worker that dies while it waits for a lock must not change anything later."""
ACT_WITHIN_S = 5.0
"""A change reaches the server so soon after the login, by the server's clock, or is refused there.

A worker may stall, or a packet, and arrive when another rotation has come and gone. From inside
the function that cannot be prevented; the server can.
"""
ROUNDS = 4
"""How often the rights of a pair are compared and made equal. Servers widen some revocations."""


def engine(surroundings: Surroundings) -> MySql:
    """Build the engine; see `keyturn.targets`."""
    return MySql(surroundings)


class MySql:
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

        def allowance(most_s: float) -> float:
            return remaining.allowance(most_s, place.host, self._surroundings)

        line = log_in(place, credential, allowance(CONNECT_TIMEOUT_S), self._surroundings)
        if line is None:
            yield None
            return
        try:
            yield _greet(line, credential.principal, lambda: allowance(STATEMENT_TIMEOUT_S))
        finally:
            line.close()

    def _place(self, credential: Credential) -> Place:
        fields = credential.fields
        host = members.host(fields)
        if not credential.principal:
            members.refuse("username", "is empty")
        members.check_name("username", credential.principal, NAME_MAX_BYTES)
        dbname = fields.get("dbname")
        return Place(
            host,
            members.port(fields.get("port"), PORT),
            members.text(fields, "dbname", None, DATABASE_MAX_BYTES) if dbname is not None else "",
            tls.wants_tls(fields.get("ssl"), host, self._surroundings),
        )


@dataclass(frozen=True, slots=True)
class _Server:
    """What the server says of itself and of us."""

    user: str
    host: str
    is_mariadb: bool
    version: tuple[int, ...]
    act_before: Sql
    is_read_only: bool

    @property
    def takes_two_passwords(self) -> bool:
        """MariaDB 10.4: authentication alternatives. MySQL 8.0.14: dual passwords."""
        return self.version >= ((10, 4) if self.is_mariadb else (8, 0, 14))


def _greet(line: Line, principal: str, allowance_s: Callable[[], float]) -> _Session:
    """Do the least that a consumer must be able to do; learn who we are, and the time there."""
    within = number(int(ACT_WITHIN_S * 1_000_000))
    found = line.ask(sql(_GREETING, within), allowance_s())
    if isinstance(found, Trouble):
        raise found.ours
    (((whole, version, act_before, *read_only),),) = found
    user, _, host = str(whole).rpartition("@")
    if user != principal:
        raise Drifted(
            f"{line.place.host}: the server takes {principal!r} for {whole!r}",
            remedy="Drop the anonymous or proxy account that shadows the user.",
        )
    numbers = re.match(r"(\d+)\.(\d+)\.(\d+)", str(version))
    server = _Server(
        user,
        host,
        "MariaDB" in str(version),
        tuple(map(int, numbers.groups())) if numbers else (),
        literal(str(act_before)),
        "1" in read_only,
    )
    return _Session(line, server, allowance_s)


_GREETING: LiteralString = (
    "SELECT CURRENT_USER(), VERSION(), UTC_TIMESTAMP(6) + INTERVAL {} MICROSECOND,"
    " @@GLOBAL.read_only, @@GLOBAL.innodb_read_only"
)


class _Session:
    """A `TwinSession`, a `DualSession` and a `SeenSession`.

    No `DatedSession`: how long ago a session logged in, neither server tells.

    Args:
        line: Logged in.
        server: What it said.
        allowance_s: How long the next exchange may take; raises when no time is left.
    """

    def __init__(self, line: Line, server: _Server, allowance_s: Callable[[], float]) -> None:
        self._line = line
        self._server = server
        self._allowance_s = allowance_s

    def acts_for(self, owner: str) -> bool:
        """See `Session.acts_for`. There are no owners: what is in a database belongs to it."""
        del owner
        return True

    def set_password(self, principal: str, secret: Sensitive) -> None:
        """See `Session.set_password`. One packet, after a look at the account."""
        accounts = self._accounts(principal)
        if self._is_oneself(principal):
            self._set_own(accounts, secret)
        else:
            self._change(_altered(*self._identify(accounts, secret), *self._drop_second(accounts)))

    def check_dual(self, principal: str) -> None:
        """See `Session.check_dual`."""
        self._dual_accounts(principal)
        powers = self._own_powers()
        enough = {"CREATE USER", "ALL PRIVILEGES"}
        if not self._server.is_mariadb and self._is_oneself(principal):
            enough.add("APPLICATION_PASSWORD_ADMIN")
        if not powers & enough:
            raise Denied(
                f"{self._server.user!r} may not give {principal!r} a second password",
                remedy=f"Grant it one of {', '.join(sorted(enough - {'ALL PRIVILEGES'}))}.",
            )

    def set_dual(self, principal: str, secret: Sensitive, *, keep: Sensitive) -> None:
        """See `Session.set_dual`. One packet, after a look at the account."""
        accounts = self._dual_accounts(principal)
        if self._server.is_mariadb:
            # Keep first: a client must be able to try again to get in with the second.
            self._change(_altered(*self._identify(accounts, keep, secret)))
            return
        # First keep becomes the only primary one, and whatever is second stays: were keep that,
        # it still is. Then keep is retained. RETAIN alone, twice, would lose it.
        keeping = self._identify(accounts, keep)
        adding = self._identify(accounts, secret, retain=True)
        trouble = self._try_both(principal, keeping, adding)
        if trouble is not None and self._must_show(principal, trouble):
            # With a history of passwords, not at all: keep is in it, and so is refused.
            keeping, adding = self._in_clear(keep), self._in_clear(secret, retain=True)
            trouble = self._try(_altered(*keeping, *adding))
        if trouble is not None:
            raise trouble.ours

    def _try_both(self, principal: str, keeping: list[Sql], adding: list[Sql]) -> Trouble | None:
        """Make both changes; no other worker's comes between.

        MySQL notes a password in the account's history under its statement's time, and so cannot
        note two. There it takes two statements, and those of other workers wait for a lock.
        """
        trouble = self._try(_altered(*keeping, *adding))
        if trouble is None or trouble.number != TWICE_IN_HISTORY:
            return trouble
        lock = literal(f"keyturn {principal}")
        return self._try(
            sql("DO GET_LOCK({}, {})", lock, self._lock_s()),
            sql(_OURS, lock),
            self._not_too_late(),  # again: it may have waited
            _altered(*keeping),
            _altered(*adding),
            sql("DO RELEASE_LOCK({})", lock),
        )

    # ------------------------------------------------------------------------ one account

    def _is_oneself(self, principal: str) -> bool:
        return principal == self._server.user

    def _own_name(self) -> Sql:
        return account(self._server.user, self._server.host)

    def _accounts(self, principal: str) -> dict[Sql, Account]:
        """Return the accounts of *principal* by name: its own as matched, or all of another's."""
        self._require_writer()
        ours = [(principal, self._server.host)]
        found = ours if self._is_oneself(principal) else self._hosts(principal)
        names = [account(*each) for each in found]
        if not names:
            raise Drifted(
                f"there is no user {principal!r}",
                remedy="Create the user, or correct `username` in the secret.",
            )
        shown = self._ask(*(sql("SHOW CREATE USER {}", name) for name in names))
        accounts = {name: Account.of(_only(rows)) for name, rows in zip(names, shown, strict=True)}
        for each in accounts.values():
            self._require_password_plugin(principal, each)
        return accounts

    def _require_password_plugin(self, principal: str, found: Account) -> None:
        others = [each for each in found.plugins if each not in mysql_hashes.HASHES]
        if others or (not self._server.is_mariadb and len(found.plugins) > 1):
            raise Unsupported(
                f"{principal!r} logs in by {' and '.join(found.plugins)}",
                remedy=f"Give the user one of {', '.join(mysql_hashes.HASHES)}, and no other.",
            )

    def _set_own(self, accounts: dict[Sql, Account], secret: Sensitive) -> None:
        (found,) = accounts.values()
        if self._server.is_mariadb and len(found.plugins) == 1:
            # Everybody may do this for themselves; ALTER USER wants CREATE USER.
            self._change(sql("SET PASSWORD = {}", _quoted_hash(found.plugins[0], secret)))
            return
        # In this order: the secret may be the second one now, as when two become one.
        second = self._drop_second(accounts)
        trouble = self._try(_altered(*self._identify(accounts, secret), *second))
        if trouble is not None and self._must_show(self._server.user, trouble):
            shown = self._in_clear(secret)
            trouble = self._try(_altered(*shown, *second))
            if second and trouble is not None and trouble.number == NOT_PRIVILEGED:
                # A second password takes a privilege to set, and to drop.
                trouble = self._try(_altered(*shown))
        if trouble is not None:
            raise trouble.ours

    def _drop_second(self, accounts: dict[Sql, Account]) -> list[Sql]:
        if self._server.is_mariadb or not self._server.takes_two_passwords:
            return []
        return [sql("{} DISCARD OLD PASSWORD", name) for name in accounts]

    def _identify(
        self,
        accounts: dict[Sql, Account],
        secret: Sensitive,
        second: Sensitive | None = None,
        *,
        retain: bool = False,
    ) -> list[Sql]:
        """Return what makes *secret*, and *second*, the password of each account."""
        end = Sql(" RETAIN CURRENT PASSWORD" if retain else "")
        return [
            sql("{} {}{}", name, self._identified(each.plugins[0], secret, second), end)
            for name, each in accounts.items()
        ]

    def _identified(self, plugin: str, secret: Sensitive, second: Sensitive | None = None) -> Sql:
        if not self._server.is_mariadb:
            return sql("IDENTIFIED WITH {} AS {}", Sql(plugin), _quoted_hash(plugin, secret))
        by = [
            sql("{} USING {}", Sql(plugin), _quoted_hash(plugin, each))
            for each in (secret, second)
            if each is not None
        ]
        return sql("IDENTIFIED VIA {}", joined(by, " OR "))

    def _must_show(self, principal: str, trouble: Trouble) -> bool:
        """Tell whether MySQL refuses a hash from somebody who may change their own password."""
        return (
            trouble.number == NOT_PRIVILEGED
            and not self._server.is_mariadb
            and self._is_oneself(principal)
            and self._line.place.is_private
        )

    def _in_clear(self, secret: Sensitive, *, retain: bool = False) -> list[Sql]:
        """Return what changes our own password, and shows it to the server.

        Only over verified TLS or a socket. MySQL itself rewrites the statement before it gets to
        a log (not with log_raw); the tests look at each.
        """
        end = Sql(" RETAIN CURRENT PASSWORD" if retain else "")
        text = secret.reveal()
        # Quoted for an empty sql_mode, which `_ask` sets: backslashes are special there.
        quoted = Sql("'" + text.replace("\\", "\\\\").replace("'", "''") + "'")
        return [sql("{} IDENTIFIED BY {}{}", self._own_name(), quoted, end)]

    def _dual_accounts(self, principal: str) -> dict[Sql, Account]:
        if not self._server.takes_two_passwords:
            raise Unsupported(
                f"{self._line.place.host}: this server takes one password per user",
                remedy="Use MySQL 8.0.14, MariaDB 10.4 or newer, or another strategy.",
            )
        accounts = self._accounts(principal)
        plugins = {each.plugins[0] for each in accounts.values()}
        if self._server.is_mariadb and plugins != {_NATIVE}:
            # For any other the server asks again twice; PyMySQL and others answer once.
            raise Unsupported(
                f"{principal!r} logs in by {' and '.join(sorted(plugins))}",
                remedy=f"Give the user {_NATIVE}, or use another strategy.",
            )
        return accounts

    # ------------------------------------------------------------------------ two accounts

    def check_twin(self, twin: str, *, like: str, owner: str, is_ours: Callable[[], bool]) -> None:
        """See `Session.check_twin`."""
        del owner
        for each in (twin, like):
            self._check_name(each)
        self._require_writer()
        self._require_may_manage(twin, like)
        pair = self._pair(twin, like)
        pair.refuse_what_cannot_be_copied()
        if pair.twins and not is_ours():
            raise Drifted(
                f"the user {twin!r} exists and is not known to belong to {like!r}",
                remedy=f"If it does, name both in the plan's `users`; else drop {twin!r}.",
            )

    def set_twin(self, twin: str, secret: Sensitive, *, like: str, owner: str) -> None:
        """See `Session.set_twin`. Cut anywhere, it has widened nothing, and is made good again."""
        del owner
        self._require_writer()
        pair = self._pair(twin, like)
        pair.refuse_what_cannot_be_copied()
        for _ in range(ROUNDS):
            steps = self._steps(pair)
            if not steps:
                break
            self._change(*steps)
            pair = self._pair(twin, like)
        else:
            raise Unsupported(
                f"the rights of {twin!r} cannot be made those of {like!r}",
                remedy="Compare SHOW GRANTS of both, and make them equal by hand.",
            )
        # Password last: it is what makes accepts true.
        self._change(*self._finish(pair, secret))

    def _steps(self, pair: _Pair) -> list[Sql]:
        """Return what makes the twin's accounts, locked, and its rights like the other's."""
        steps: list[Sql] = []
        for host, (found, rights) in pair.likes.items():
            name, twin = account(pair.twin, host), pair.twins.get(host)
            if twin is None:
                unknown = Sensitive(secrets.token_urlsafe())
                identified = self._identified(found.plugins[0], unknown)
                steps.append(sql("CREATE USER IF NOT EXISTS {} {} ACCOUNT LOCK", name, identified))
            present = twin[1] if twin else Rights.of([])
            steps += exchange(name, present, rights)
            if found.default_role != (twin[0].default_role if twin else Sql("NONE")):
                steps.append(sql("ALTER USER {} DEFAULT ROLE {}", name, found.default_role))
        return steps

    def _finish(self, pair: _Pair, secret: Sensitive) -> list[Sql]:
        steps: list[Sql] = []
        for host, (found, _) in pair.likes.items():
            name, twin = account(pair.twin, host), pair.twins[host][0]
            identified = self._identified(found.plugins[0], secret)
            options = same_options(found, twin)
            altered = _altered(*self._drop_second({name: found}), sql("{} {}", name, identified))
            steps.append(sql("{} {} ACCOUNT UNLOCK", altered, options))
        return steps

    def _pair(self, twin: str, like: str) -> _Pair:
        hosts = self._hosts(twin, like, "")
        named = [(user, host) for user, host in hosts if user]
        shown = self._ask(
            *(
                sql("SHOW {} {}", Sql(what), account(user, host))
                for user, host in named
                for what in ("CREATE USER", "GRANTS FOR")
            )
        )
        pair = _Pair(twin, like, {}, {}, {host for user, host in hosts if not user})
        for (user, host), made, granted in zip(named, shown[::2], shown[1::2], strict=True):
            found = Account.of(_only(made)), Rights.of(str(row[0]) for row in granted)
            (pair.twins if user == twin else pair.likes)[host] = found
        for each, _ in pair.likes.values():
            self._require_password_plugin(like, each)
        return pair

    def _hosts(self, *users: str) -> list[tuple[str, str]]:
        """Return the accounts of *users*: name and host."""
        names = joined([literal(user) for user in users], ", ")
        (rows,) = self._ask(sql("SELECT User, Host FROM mysql.user WHERE User IN ({})", names))
        found = [(str(user), str(host)) for user, host in rows]
        # To the server, trailing blanks make no difference.
        return sorted((user, host) for user, host in found if user in users)

    def _check_name(self, name: str) -> None:
        members.check_name("user", name, NAME_MAX_BYTES)
        if not self._server.is_mariadb and len(name) > MYSQL_NAME_MAX_CHARACTERS:
            members.refuse("user", f"is longer than {MYSQL_NAME_MAX_CHARACTERS} characters")

    def _require_may_manage(self, *names: str) -> None:
        if not self._own_powers() & {"CREATE USER", "ALL PRIVILEGES"}:
            raise Denied(
                f"the admin may not manage {' and '.join(map(repr, names))}",
                remedy="Grant the admin CREATE USER: see docs/mysql.md, Privileges.",
            )
        if self._server.user in names:
            raise Drifted(
                f"{self._server.user!r} is the admin",
                remedy="Name other users in the plan: the admin is none of the pair.",
            )

    def sessions_of(self, principal: str) -> int | None:
        """See `SeenSession.sessions_of`. Who lacks PROCESS is shown its own only, and not told."""
        if not self._own_powers() & {"PROCESS", "ALL PRIVILEGES"}:
            return None
        (rows,) = self._ask(sql(_SESSIONS, self._session_list(), literal(principal)))
        # To the server, case and trailing blanks make no difference.
        return sum(user == principal for (user,) in rows)

    def _session_list(self) -> Sql:
        """Return what lists sessions. One list is outdated, the other one may be switched off."""
        has_new = not self._server.is_mariadb and self._server.version >= (8, 0, 22)
        if has_new:
            (((is_on,),),) = self._ask(Sql("SELECT @@GLOBAL.performance_schema"))
            has_new = is_on == "1"
        return Sql("performance_schema" if has_new else "information_schema")

    # ------------------------------------------------------------------------ exchanges

    def _own_powers(self) -> set[str]:
        (rows,) = self._ask(Sql("SHOW GRANTS"))
        return Rights.of(str(row[0]) for row in rows).powers()

    def _require_writer(self) -> None:
        if self._server.is_read_only:
            raise Misconfigured(
                f"{self._line.place.host}: this server is a read-only replica",
                remedy="Use the writer's endpoint as host.",
            )

    def _ask(self, *statements: Sql) -> list[Rows]:
        """Look something up: one packet, one answer each."""
        guards = self._guards()
        found = self._line.ask(joined([guards, *statements]), self._limit_s())
        if isinstance(found, Trouble):
            raise found.ours
        return found[1:]

    def _change(self, *statements: Sql) -> None:
        """Run *statements* in one packet."""
        trouble = self._try(*statements)
        if trouble is not None:
            raise trouble.ours

    def _try(self, *statements: Sql) -> Trouble | None:
        packet = joined([self._guards(), self._not_too_late(), *statements])
        found = self._line.ask(packet, self._limit_s())
        return found if isinstance(found, Trouble) else None

    def _not_too_late(self) -> Sql:
        return sql(_NOT_TOO_LATE, self._server.act_before)

    def _limit_s(self) -> float:
        return self._allowance_s() + remaining.MARGIN_S / 2

    def _guards(self) -> Sql:
        """Return what holds whatever the server's and the user's own settings are."""
        lock_s = self._lock_s()
        if self._server.is_mariadb:
            # Not every wait there is a wait for a lock: FLUSH TABLES WITH READ LOCK.
            return sql(_GUARDS_MARIADB, lock_s, lock_s, lock_s)
        as_hex = Sql(", SESSION print_identified_with_as_hex = 1" if self._prints_hex() else "")
        return sql(_GUARDS_MYSQL, lock_s, lock_s, as_hex)

    def _lock_s(self) -> Sql:
        return number(max(1, min(int(self._allowance_s()), LOCK_TIMEOUT_S)))

    def _prints_hex(self) -> bool:
        return self._server.version >= (8, 0, 17)


_SESSIONS: LiteralString = (
    "SELECT USER FROM {}.processlist WHERE USER = {} AND ID <> CONNECTION_ID()"
)
_GUARDS: LiteralString = (
    "SET SESSION lock_wait_timeout = {}, SESSION innodb_lock_wait_timeout = {},"
    " SESSION sql_quote_show_create = 1"
)
# Without that mode, a GRANT to a user that was just dropped would make it anew, without password.
_GUARDS_MARIADB: LiteralString = (
    _GUARDS + ", SESSION sql_mode = 'NO_AUTO_CREATE_USER', SESSION max_statement_time = {}"
)
_GUARDS_MYSQL: LiteralString = _GUARDS + ", SESSION sql_mode = ''{}"
_NOT_TOO_LATE: LiteralString = (
    "SET SESSION autocommit = IF(UTC_TIMESTAMP(6) <= {}, 'ON', 'keyturn: this comes too late')"
)
_OURS: LiteralString = (
    "SET SESSION autocommit = IF(IS_USED_LOCK({}) = CONNECTION_ID(), 'ON', 'keyturn: busy')"
)
"""There are no such values: error 1231, which nothing else of ours can cause."""


def _altered(*changes: Sql) -> Sql:
    """Return one statement for all changes, also of one account.

    MySQL makes them in order, all or none, and nothing of anybody else's comes between.
    """
    return sql("ALTER USER {}", joined(list(changes), ", "))


_NATIVE = "mysql_native_password"


def _only(rows: Rows) -> str:
    """Return the one value that a statement answered."""
    ((value,),) = rows
    return str(value)


def _quoted_hash(plugin: str, secret: Sensitive) -> Sql:
    # Hashes are letters, digits and * $ . / +
    return Sql(f"'{mysql_hashes.HASHES[plugin](secret)}'")


_Described = dict[str, tuple[Account, Rights]]
"""By host."""


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two users that take turns, each with all its accounts.

    Attributes:
        anonymous: Hosts for which there is a user without a name.
    """

    twin: str
    like: str
    twins: _Described
    likes: _Described
    anonymous: set[str]

    def refuse_what_cannot_be_copied(self) -> None:
        """Raise Drifted, with what to do about it."""
        for wrong, fact, remedy in self._obstacles():
            if wrong:
                raise Drifted(fact, remedy=remedy)

    def _obstacles(self) -> Iterator[tuple[object, str, str]]:
        twin, like = self.twin, self.like
        yield not self.likes, f"there is no user {like!r}", "Create it, or correct the secret."
        yield (
            any(found.is_locked for found, _ in self.likes.values()),
            f"the user {like!r} is locked",
            f"Unlock {like!r}: its turn would unlock it anyway.",
        )
        yield (
            "" in {*self.twins, *self.likes},
            f"{twin!r} or {like!r} is a role",
            "Name other users in the plan.",
        )
        extra = ", ".join(sorted(self.twins.keys() - self.likes.keys()))
        yield extra, f"{twin!r} may come from {extra}, {like!r} not", f"Drop {twin!r} there."
        yield (
            (self._powers(self.twins) - self._powers(self.likes)) & _POWERS,
            f"the user {twin!r} may manage others, {like!r} may not",
            f"Revoke that from {twin!r}, or name other users in the plan.",
        )
        shadows = ", ".join(sorted(self.anonymous - self.likes.keys()))
        yield (
            shadows and any("%" in host or "_" in host for host in self.likes),
            f"an anonymous user at {shadows} shadows {like!r}",
            "Drop the anonymous user.",
        )

    def _powers(self, described: _Described) -> set[str]:
        return {power for _, rights in described.values() for power in rights.powers()}


_POWERS = {"ALL PRIVILEGES", "SUPER", "CREATE USER", "SYSTEM_USER", "ROLE_ADMIN"}
"""Who has one of these everywhere is no application's login."""
