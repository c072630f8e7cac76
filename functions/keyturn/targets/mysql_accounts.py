"""What an account of MySQL or MariaDB may do and is held to, read and made the same for another.

The servers describe accounts in statements (SHOW CREATE USER, SHOW GRANTS). They are taken apart
by token, never by pattern: names may hold quotes, blanks and keywords. What is copied is the
server's own text between the account's name and the end, so it needs no quoting of ours.

    Account     how it logs in, limits, what connection it requires
    Right       one privilege on one thing, or one role: what is granted and revoked
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from keyturn.errors import Unsupported
from keyturn.targets.mysql_sql import Sql, sql

_TOKEN = re.compile(r"\s*(`(?:[^`]|``)*`|'(?:[^'\\]|''|\\.)*'|[(),@]|[^\s`'(),@]+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Tokens:
    """A statement and where its tokens are."""

    text: str
    spans: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, text: str) -> _Tokens:
        spans, end = [], 0
        while end < len(text.rstrip()):
            found = _TOKEN.match(text, end)
            if found is None:
                raise _unreadable()
            spans.append(found.span(1))
            end = found.end()
        return cls(text, tuple(spans))

    def __getitem__(self, index: int) -> str:
        return self.text[slice(*self.spans[index])] if index < len(self.spans) else ""

    def __len__(self) -> int:
        return len(self.spans)

    def between(self, first: int, end: int) -> Sql:
        """Return the text of these tokens, as the server wrote it."""
        if first >= end:
            return Sql("")
        return Sql(self.text[self.spans[first][0] : self.spans[end - 1][1]])

    def find(self, words: Iterable[str], first: int = 0) -> int:
        """Return the index of the first of *words* that is not within parentheses, or the end."""
        wanted, depth = set(words), 0
        for index in range(first, len(self)):
            here = self[index]
            depth += (here == "(") - (here == ")")
            if depth == 0 and here in wanted:
                return index
        return len(self)


def _unreadable() -> Unsupported:
    return Unsupported(
        "the server describes an account in a way that cannot be read",
        remedy="Remove quotes and backslashes from the SUBJECT, ISSUER or CIPHER that it requires.",
    )


# ---------------------------------------------------------------------------- accounts


Clauses = tuple[tuple[str, Sql], ...]
"""What a clause is about, and the whole of it."""


@dataclass(frozen=True, slots=True)
class Account:
    """An account, as SHOW CREATE USER tells of it.

    Attributes:
        plugins: How it may log in. On MariaDB any of them will do, on MySQL all are needed.
        default_role: As ALTER USER wants it. MySQL only; MariaDB has it among the rights.
        require: What a connection must be: REQUIRE and what follows.
        limits: MAX_QUERIES_PER_HOUR and the like.
        life: Of its passwords, and after how many failures it is blocked.
        is_locked: Nobody may log in.
    """

    plugins: tuple[str, ...]
    default_role: Sql
    require: Sql
    limits: Clauses
    life: Clauses
    is_locked: bool

    @classmethod
    def of(cls, text: str) -> Account:
        """Read what SHOW CREATE USER answers."""
        tokens = _Tokens.of(text)
        plugins, index = _plugins(tokens, len(("CREATE", "USER", "name", "@", "host")))
        role = require = index
        if tokens[index] == "DEFAULT":
            role, require = index + 2, tokens.find(["REQUIRE"], index)
        limits = tokens.find(["WITH", *_LIFE], require)
        # Neither server always escapes what is within quotes: more of them would end it early.
        if not all(_REQUIRED.fullmatch(tokens[i]) for i in range(require, limits)):
            raise _unreadable()
        life = tokens.find(_LIFE, limits)
        clauses = tuple(_clauses(tokens, life))
        return cls(
            plugins,
            tokens.between(role, require) or Sql("NONE"),
            tokens.between(require, limits) or Sql("REQUIRE NONE"),
            tuple((tokens[i], tokens.between(i, i + 2)) for i in range(limits + 1, life, 2)),
            tuple((key, clause) for key, clause in clauses if key not in _NOT_COPIED),
            is_locked=any(clause == "ACCOUNT LOCK" for _, clause in clauses),
        )


def _plugins(tokens: _Tokens, index: int) -> tuple[tuple[str, ...], int]:
    """Return the plug-ins, and the index of what follows them."""
    if tokens[index] != "IDENTIFIED":
        return (_NATIVE,), index
    if tokens[index + 1] == "BY":
        return (_NATIVE,), index + len(("IDENTIFIED", "BY", "PASSWORD", "hash"))
    found = []
    # VIA plugin USING 'hash' OR plugin ..; or WITH 'plugin' AS 'hash' AND IDENTIFIED WITH ..
    while True:
        found.append(tokens[index + 2].strip("'"))
        index += 5 if tokens[index + 3] in {"USING", "AS"} else 3
        if tokens[index] not in {"OR", "AND"}:
            return tuple(found), index
        index += 1 if tokens[index] == "AND" else -1


def _clauses(tokens: _Tokens, first: int) -> Iterator[tuple[str, Sql]]:
    while first < len(tokens):
        end = tokens.find(_LIFE, first + 1)
        # The second word says more: PASSWORD EXPIRE, PASSWORD HISTORY, PASSWORD REUSE.
        key = f"PASSWORD {tokens[first + 1]}" if tokens[first] == "PASSWORD" else tokens[first]
        clause = tokens.between(first, end)
        if clause != "PASSWORD EXPIRE":  # by hand; a new password ends that
            yield key, clause
        first = end


_REQUIRED = re.compile(r"REQUIRE|NONE|SSL|X509|SUBJECT|ISSUER|CIPHER|AND|'[^'\\]*'")
_NATIVE = "mysql_native_password"
_NOT_COPIED = ("ACCOUNT", "ATTRIBUTE", "COMMENT")
_LIFE = ("PASSWORD", "FAILED_LOGIN_ATTEMPTS", "PASSWORD_LOCK_TIME", *_NOT_COPIED)
_RESETS: dict[str, Sql] = {
    "PASSWORD EXPIRE": Sql("PASSWORD EXPIRE DEFAULT"),
    "FAILED_LOGIN_ATTEMPTS": Sql("FAILED_LOGIN_ATTEMPTS 0"),
    "PASSWORD_LOCK_TIME": Sql("PASSWORD_LOCK_TIME 0"),
}


def same_options(like: Account, present: Account | None) -> Sql:
    """Return what ALTER USER needs to give *present*, or a new account, the options of *like*."""
    limits, life = dict(like.limits), dict(like.life)
    if present is not None:
        limits = {key: sql("{} 0", Sql(key)) for key, _ in present.limits} | limits
        life = {key: _RESETS[key] for key, _ in present.life if key in _RESETS} | life
    parts = [like.require, *([Sql("WITH"), *limits.values()] if limits else []), *life.values()]
    return Sql(" ".join(parts))


# ---------------------------------------------------------------------------- rights


@dataclass(frozen=True, slots=True, order=True)
class Right:
    """One privilege on one thing, or one role, as SHOW GRANTS tells of it.

    Attributes:
        verb: GRANT; or REVOKE, where MySQL keeps what is taken away from a wider grant.
        on: What it is for; "" for a role.
        grantable: It may be passed on.
        what: The privilege, with its one column if it is for one; or the role.
    """

    verb: str
    on: Sql
    grantable: bool
    what: Sql


@dataclass(frozen=True, slots=True)
class Rights:
    """All that an account may do. The default role is MariaDB's; MySQL's is in `Account`."""

    rights: frozenset[Right]
    default_role: Sql

    @classmethod
    def of(cls, lines: Iterable[str]) -> Rights:
        """Read what SHOW GRANTS answers."""
        found: set[Right] = set()
        role = Sql("NONE")
        for line in lines:
            tokens = _Tokens.of(line)
            if tokens[0] == "SET":  # DEFAULT ROLE `role` FOR `user`@`host`
                role = tokens.between(3, tokens.find(["FOR"]))
            else:
                found |= set(_rights(tokens))
        return cls(frozenset(found), role)

    def powers(self) -> set[str]:
        """Return the privileges that hold everywhere."""
        return {str(right.what) for right in self.rights if right.on == "*.*"}


def _rights(tokens: _Tokens) -> Iterator[Right]:
    verb = tokens[0]
    to = tokens.find(["TO", "FROM"], 1)
    on = min(tokens.find(["ON"], 1), to)
    end = tokens.find(["WITH"], to)
    # MariaDB lists limits after the same WITH.
    options = tokens.text[tokens.spans[end][0] :] if end < len(tokens) else ""
    grantable = "GRANT OPTION" in options or "ADMIN OPTION" in options
    first = 1
    while first < on:
        comma = min(tokens.find([","], first), on)
        for what in _by_column(tokens, first, comma):
            if what != "USAGE" or grantable:
                yield Right(verb, tokens.between(on + 1, to), grantable, what)
        first = comma + 1


def _by_column(tokens: _Tokens, first: int, end: int) -> Iterator[Sql]:
    """Yield a privilege as many times as it has columns: SELECT (`a`, `b`)."""
    if tokens[end - 1] != ")":
        yield tokens.between(first, end)
        return
    opening = next(index for index in range(first, end) if tokens[index] == "(")
    for index in range(opening + 1, end - 1, 2):
        yield sql("{} ({})", tokens.between(first, opening), tokens.between(index, index + 1))


def exchange(name: Sql, present: Rights, wanted: Rights) -> list[Sql]:
    """Return what takes from *name* what is not wanted, then gives it what it lacks.

    In this order, because taking ALL PRIVILEGES takes the single ones too. Run again with what is
    then present until nothing is left to do: servers widen some revocations.
    """
    extra = {right.on for right in present.rights - wanted.rights if right.grantable and right.on}
    kept = {right.on for right in wanted.rights if right.grantable}
    steps = [sql("REVOKE GRANT OPTION ON {} FROM {}", on, name) for on in sorted(extra - kept)]
    steps += [_undone(name, *group) for group in _grouped(present.rights - wanted.rights)]
    steps += [_done(name, *group) for group in _grouped(wanted.rights - present.rights)]
    if wanted.default_role != present.default_role:
        steps.append(sql("SET DEFAULT ROLE {} FOR {}", wanted.default_role, name))
    return steps


_Group = tuple[str, Sql, bool, Sql]


def _grouped(rights: Iterable[Right]) -> Iterator[_Group]:
    """Yield rights that one statement can name together."""
    ordered = sorted(rights)
    for key, group in groupby(ordered, lambda right: (right.verb, right.on, right.grantable)):
        yield (*key, Sql(", ".join(right.what for right in group)))


def _done(name: Sql, verb: str, on: Sql, grantable: bool, what: Sql) -> Sql:  # noqa: FBT001
    if verb == "REVOKE":
        return sql("REVOKE {} ON {} FROM {}", what, on, name)
    if not on:
        return sql("GRANT {} TO {}{}", what, name, Sql(" WITH ADMIN OPTION" if grantable else ""))
    option = Sql(" WITH GRANT OPTION" if grantable else "")
    return sql("GRANT {} ON {} TO {}{}", what, on, name, option)


def _undone(name: Sql, verb: str, on: Sql, grantable: bool, what: Sql) -> Sql:  # noqa: FBT001
    del grantable
    if verb == "REVOKE":
        return sql("GRANT {} ON {} TO {}", what, on, name)
    return (
        sql("REVOKE {} ON {} FROM {}", what, on, name)
        if on
        else sql("REVOKE {} FROM {}", what, name)
    )
