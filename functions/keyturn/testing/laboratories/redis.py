"""Redis in the crash sweep: a server with an aclfile, one for each laboratory.

What logs in must be kept, too: a password that only the server's memory knows is lost with the
next restart, so here it does not count as accepted.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import ClassVar, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from keyturn.local.redis import Redis, find
from keyturn.testing.bench import Laboratory, Subject, Vault

FIRST, ADMIN, BY_HAND = "Canary7-first", "Canary7-admin", "Canary7-by-hand"

APPLICATION = ("~*", "&*", "+@all", "-@admin", "-@dangerous")
ROTATION = (
    *("+info", "+config|get", "+client|list", "+client|kill", "+client|setname"),
    *("+acl|whoami", "+acl|list", "+acl|setuser", "+acl|save"),
)


class RedisSingleUser:
    """One user of a Redis that changes its own password."""

    NAME: ClassVar[str] = "Redis, single user"
    SLOTS: ClassVar[int] = 1
    SERVER: ClassVar[str] = "Redis"
    INSTALL: ClassVar[str] = "apt install redis-server"
    environment: Mapping[str, str] = {}

    def __init__(self) -> None:
        self._server = Redis()
        self._numbers = itertools.count(1)
        self._made: set[str] = set()
        self._earlier: set[str] = set()

    @classmethod
    def is_available(cls) -> bool:
        """See `Laboratory.is_available`."""
        return find() is not None

    def __enter__(self) -> Self:
        self._server.start()
        self._superuser = redis.Redis(**self._server.superuser(), decode_responses=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._superuser.close()
        self._server.stop()

    @property
    def server_port(self) -> int:
        """See `Laboratory.server_port`."""
        return self._server.port

    def furnish(self, vault: Vault, proxy_port: int) -> Subject:
        """See `Laboratory.furnish`."""
        del vault
        self._forget()
        user = self._user("app", FIRST, *APPLICATION, *ROTATION)
        return self._subject(_document(user, FIRST, proxy_port), {user})

    def accepts(self, document: str) -> bool:
        """See `Laboratory.accepts`."""
        value = json.loads(document)
        line = _line_of(value["username"], self._server.users_file.read_text().splitlines())
        return self.logs_in(document) and _verifier(value["password"]) in line

    def logs_in(self, document: str) -> bool:
        """See `Laboratory.logs_in`."""
        value = json.loads(document)
        reader = redis.Redis(
            unix_socket_path=str(self._server.socket),
            username=value["username"],
            password=value["password"],
            retry=Retry(NoBackoff(), 0),
        )
        with reader:
            try:
                reader.ping()
            except redis.AuthenticationError:
                return False
        return True

    def change_by_hand(self, subject: Subject) -> None:
        """See `Laboratory.change_by_hand`."""
        for name in subject.logins & set(self._superuser.acl_users()):
            self._set_user(name, "resetpass", _verifier(BY_HAND))
        self._superuser.acl_save()

    def log_text(self) -> str:
        """See `Laboratory.log_text`. The aclfile too."""
        return self._server.log_text() + self._server.users_file.read_text()

    def others(self, subject: Subject) -> object:
        """See `Laboratory.others`. Passwords and rules, in memory and in the file."""
        kept = self._server.users_file.read_text().splitlines()
        return [
            sorted(line for line in lines if line.split(" ")[1] not in subject.logins)
            for lines in (self._users(), kept)
        ]

    def rights(self, document: str) -> object:
        """See `Laboratory.rights`."""
        found = _line_of(json.loads(document)["username"], self._users())
        return [rule for rule in found[2:] if not rule.startswith("#")]

    def _subject(self, document: Mapping[str, object], logins: set[str]) -> Subject:
        self._made |= logins
        return Subject(json.dumps(document), frozenset(logins))

    def _forget(self) -> None:
        """Delete the users of all subjects but the last: every rotation reads the list of all."""
        if self._earlier:
            self._superuser.acl_deluser(*self._earlier)
        self._earlier, self._made = self._made, set()

    def _user(self, stem: str, password: str, *rules: str) -> str:
        name = f"proof_{stem}_{os.getpid()}_{next(self._numbers)}"
        self._set_user(name, "reset", "on", _verifier(password), *rules)
        self._superuser.acl_save()
        return name

    def _set_user(self, name: str, *rules: str) -> None:
        command = ("ACL", "SETUSER", name, *rules)
        self._superuser.execute_command(*command)  # type: ignore[no-untyped-call]

    def _users(self) -> list[str]:
        return [str(line) for line in self._superuser.acl_list()]


class RedisDualPassword(RedisSingleUser):
    """One user of a Redis that holds two passwords, and changes them itself."""

    NAME: ClassVar[str] = "Redis, dual password"
    SLOTS: ClassVar[int] = 2
    environment: Mapping[str, str] = {"KEYTURN_STRATEGY": "dual-password"}


class RedisAlternatingUsers(RedisSingleUser):
    """Two users of a Redis that take turns; an admin sets them."""

    NAME: ClassVar[str] = "Redis, alternating users"
    SLOTS: ClassVar[int] = 2

    def furnish(self, vault: Vault, proxy_port: int) -> Subject:
        """See `Laboratory.furnish`."""
        self._forget()
        user = self._user("app", FIRST, *APPLICATION)
        admin = self._user("admin", ADMIN, *ROTATION)
        authority = vault.keep(json.dumps(_document(admin, ADMIN, proxy_port)))
        document = {**_document(user, FIRST, proxy_port), "masterarn": authority.ref}
        subject = self._subject(document, {user, f"{user}_clone"})
        self._made |= {admin}
        return subject


class RedisDualPasswordByAdmin(RedisAlternatingUsers):
    """One user of a Redis that holds two passwords; an admin sets them."""

    NAME: ClassVar[str] = "Redis, dual password by an admin"
    environment: Mapping[str, str] = {"KEYTURN_STRATEGY": "dual-password"}


LABORATORIES: tuple[type[Laboratory], ...] = (
    RedisSingleUser,
    RedisDualPassword,
    RedisDualPasswordByAdmin,
    RedisAlternatingUsers,
)


def _document(user: str, password: str, port: int) -> dict[str, object]:
    return {
        "engine": "redis",
        "host": "127.0.0.1",
        "port": port,
        "username": user,
        "password": password,
        "ssl": False,
    }


def _verifier(password: str) -> str:
    return "#" + hashlib.sha256(password.encode()).hexdigest()


def _line_of(name: str, lines: Iterable[str]) -> list[str]:
    found = [line.split(" ") for line in lines]
    return next((line for line in found if line[1] == name), [])
