"""Redis and Valkey, through redis-py: any server of one's own whose users are managed by `ACL`.

    exchange    what it asks
    login       AUTH, CLIENT SETNAME
    look        INFO, CONFIG GET aclfile, ACL WHOAMI, ACL LIST, CLIENT LIST    (writes nothing)
    prove       ACL SAVE or CONFIG REWRITE: what cannot be kept is not begun
    act         CLIENT KILL, ACL SETUSER, ACL SAVE or CONFIG REWRITE           (sent together)
    count       CLIENT LIST, INFO: whose sessions are open, and how old        (writes nothing)

What it never does: send a new password in clear. It travels as the SHA-256 that `ACL SETUSER`
takes; only logins carry passwords, over verified TLS. The exception are servers that have no users
(before 6.0), whose one password `CONFIG SET requirepass` takes in clear. No error quotes the
server's text: it is classified by its first word.

A credential's document: `host`, `username`, `password`; `port` (6379) and `ssl` (true) may be left
out. A `host` that begins with a slash is the path of a Unix socket.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from keyturn.errors import (
    Drifted,
    Misconfigured,
    Unsupported,
)
from keyturn.model import Credential, Sensitive, Strategy, Surroundings
from keyturn.targets import redis_line as line

TITLE = "Redis and Valkey: your own"
STRATEGIES = (Strategy.SINGLE_USER, Strategy.DUAL_PASSWORD, Strategy.ALTERNATING_USERS)
ENGINES = ("redis", "valkey")
PERMISSIONS: tuple[str, ...] = ()
"""A login over the network needs no cloud permission."""


SKEW = timedelta(minutes=1)
"""How far the clocks of the server and of the store may differ: so much is given to a session."""


def engine(surroundings: Surroundings) -> Redis:
    """Build the engine; see `keyturn.targets`."""
    return Redis(surroundings)


class Redis:
    """A `PasswordEngine`."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._surroundings = surroundings

    def endpoint(self, credential: Credential) -> str:
        """See `PasswordEngine.endpoint`."""
        return line.endpoint(credential, self._surroundings)

    @contextmanager
    def login(self, credential: Credential) -> Iterator[_Session | None]:
        """See `PasswordEngine.login`."""
        with line.login(credential, self._surroundings) as opened:
            yield _Session(opened, credential.principal) if opened else None


class _Session:
    """A `TwinSession`, a `DualSession`, a `SeenSession` and a `DatedSession`.

    A worker may stall with its connection open, and its change arrive when another rotation has
    come and gone. The server cannot refuse it by the clock, so each change first ends the other
    connections of ours that are for the same user; see `redis_line.stem`.

    Args:
        opened: Logged in, as *user*.
    """

    def __init__(self, opened: line.Line, user: str) -> None:
        self._line = opened
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
        self._set_user(server, principal, ["resetpass", _verifier(secret)])

    def check_twin(self, twin: str, *, like: str, owner: str, is_ours: Callable[[], bool]) -> None:
        """See `Session.check_twin`."""
        del owner
        for name in (twin, like):
            line.check_name("user", name)
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
        self._set_user(server, twin, ["reset", *rules, "on", _verifier(secret)])

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
        self._set_user(server, principal, ["resetpass", _verifier(keep), _verifier(secret)])

    def sessions_of(self, principal: str) -> int | None:
        """See `SeenSession.sessions_of`. Ours are known by the names that we give them.

        What has not logged in yet counts for `default`: the server says no more of it.
        """
        (said,) = self._line.ask(["CLIENT", "LIST"])
        found = _clients_of(principal, said)
        return None if found is None else len(found)

    def sessions_before(self, principal: str, at: datetime) -> int | None:
        """See `DatedSession.sessions_before`. By the server's clock, less `SKEW`.

        One that logs in anew without connecting anew looks as old as it was before.
        """
        said, info = self._line.ask(["CLIENT", "LIST"], ["INFO", "server"])
        found = _clients_of(principal, said)
        now_us = _facts(self._line.require(info)).get("server_time_usec", "")
        if found is None or not now_us.isdigit():
            return None
        older_s = int(now_us) / 1_000_000 - (at - SKEW).timestamp()
        return sum(int(client.get("age", "0")) > older_s for client in found)

    # ------------------------------------------------------------------------ looking

    def _look(self, principal: str) -> _Server:
        """Learn what a change of *principal* depends on; refuse a server where it would not hold.

        The connection takes the name of the user that it is about to change.
        """
        name = ["CLIENT", "SETNAME", f"{line.stem(principal)}-{self._line.nonce}"]
        _, facts, aclfile, me, users, clients = self._line.ask(name, *_LOOK)
        server = _Server(
            facts=_facts(self._line.require(facts)),
            aclfile=_second(self._line.require(aclfile)),
            has_users=not line.is_no(me, line.Word.UNKNOWN),
            users=users,
            clients="" if isinstance(clients, line.No) else str(clients),
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
        if not line.is_no(said, line.Word.OTHER):
            self._line.require(said)

    # ------------------------------------------------------------------------ acting

    def _set_user(self, server: _Server, principal: str, rules: Sequence[str]) -> None:
        self._act(server, principal, ["ACL", "SETUSER", principal, *rules])

    def _set_the_only_password(self, server: _Server, principal: str, secret: Sensitive) -> None:
        """Change the password of a server that has no users. It takes it in clear only."""
        if principal != line.DEFAULT_USER:
            raise _no_user(self._line.host, principal)
        clear = secret.reveal().encode("utf-8", "surrogatepass")
        self._act(server, principal, ["CONFIG", "SET", "requirepass", clear])

    def _act(self, server: _Server, principal: str, change: line.Command) -> None:
        """Make a change of *principal*, and have the server keep it."""
        keeping = self._keeping(server)
        if keeping:
            self._require_kept(self._line.ask(keeping)[0], keeping)
        kills = [["CLIENT", "KILL", "ID", each] for each in self._others(server, principal)]
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
        if line.is_no(said, line.Word.OTHER):
            raise Misconfigured(
                f"{self._line.host}: {' '.join(keeping)} failed, so the server would forget the"
                " password when it restarts",
                remedy="Let the server write its aclfile or configuration file; see its log.",
            )
        self._line.require(said)

    def _others(self, server: _Server, principal: str) -> list[str]:
        """Return the ids of the other connections of ours that may be about to do the same."""
        ours = f"{line.stem(principal)}-{self._line.nonce}"
        return [
            client.get("id", "")
            for client in _clients(server.clients)
            if client.get("name") != ours and _is_for(principal, client)
        ]


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


def _clients(clients: str) -> list[dict[str, str]]:
    """Read what CLIENT LIST answers."""
    lines = clients.splitlines()
    return [dict(pair.partition("=")[::2] for pair in each.split(" ")) for each in lines]


def _is_for(principal: str, client: Mapping[str, str]) -> bool:
    """Tell whether a connection is one of ours, by its name, and for that user."""
    return client.get("name", "").rpartition("-")[0] == line.stem(principal)


def _clients_of(principal: str, said: object) -> list[dict[str, str]] | None:
    """Return the connections of a user, but for ours; None if we may not see any."""
    found = [] if isinstance(said, line.No) else _clients(str(said))
    if not all("user" in each for each in found) or not found:
        return None
    return [each for each in found if each["user"] == principal and not _is_for(principal, each)]


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


def _verifier(secret: Sensitive) -> str:
    """Return what ACL SETUSER takes in a password's place."""
    digest = hashlib.sha256(secret.reveal().encode("utf-8", "surrogatepass"))
    return f"#{digest.hexdigest()}"
