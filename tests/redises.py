"""Users on a test Redis: names nobody else uses, and credentials for them."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError
from redis.retry import Retry

from keyturn.local.redis import Redis
from keyturn.model import Credential, Sensitive

_numbers = itertools.count(1)

APPLICATION = ("~*", "&*", "+@all", "-@admin", "-@dangerous", "+info")
"""What an application's user may do; nothing that a rotation needs."""

ROTATION = (
    *("+info", "+config|get", "+config|rewrite", "+client|list", "+client|kill"),
    *("+client|setname", "+acl|whoami", "+acl|list", "+acl|setuser", "+acl|save"),
)
"""What a rotation needs, as docs/redis.md lists it."""


def unused_name(stem: str) -> str:
    """Return a user name that no other test of this run takes."""
    return f"{stem}_{os.getpid()}_{next(_numbers)}"


def connect(server: Redis) -> redis.Redis:
    """Log in as the superuser."""
    return redis.Redis(**server.superuser(), decode_responses=True)


def make_user(
    server: Redis, name: str, password: str, *rules: str, more: Iterable[str] = ()
) -> None:
    """Create a user, by hash: the server's log is searched for passwords."""
    hashed = [f"#{hashlib.sha256(each.encode()).hexdigest()}" for each in (password, *more)]
    with connect(server) as superuser:
        superuser.execute_command("ACL", "SETUSER", name, "reset", "on", *hashed, *rules)


def set_passwords(server: Redis, name: str, passwords: list[str] | None) -> None:
    """Let a user log in with exactly these; with anything at all if there is no list."""
    hashed = [f"#{hashlib.sha256(each.encode()).hexdigest()}" for each in passwords or []]
    rules = ["nopass"] if passwords is None else ["resetpass", *hashed]
    with connect(server) as superuser:
        superuser.execute_command("ACL", "SETUSER", name, *rules)


def rules_of(server: Redis, name: str) -> list[str]:
    """Return a user's rules, passwords left out, in the server's order."""
    with connect(server) as superuser:
        lines = [line.split(" ") for line in superuser.acl_list()]
    (found,) = [rules for _, user, *rules in lines if user == name]
    return [rule for rule in found if not rule.startswith("#")]


def hashes_of(server: Redis, name: str) -> list[str]:
    """Return the hashes of a user's passwords."""
    with connect(server) as superuser:
        return sorted(superuser.acl_getuser(name)["passwords"])


def logs_in(server: Redis, name: str, password: str) -> bool:
    """Log in as an application would, through the Unix socket."""
    client = redis.Redis(
        unix_socket_path=str(server.socket),
        username=name,
        password=password,
        retry=Retry(NoBackoff(), 0),  # by default it tries a refused login for seconds
    )
    try:
        client.ping()
    except NoPermissionError:
        return True
    except redis.AuthenticationError:
        return False
    finally:
        client.close()
    return True


@contextmanager
def logged_in(server: Redis, login: Credential) -> Iterator[Callable[[], object]]:
    """Log in through the Unix socket, as a program would that stays."""
    password = login.secret.reveal()
    client = redis.Redis(
        unix_socket_path=str(server.socket), username=login.principal, password=password
    )
    with client:
        client.ping()
        yield client.ping


def credential(server: Redis, name: str, password: str, *, port: int | None = None) -> Credential:
    """Return the login of *name*, over TCP without TLS."""
    fields: dict[str, object] = {
        "engine": "redis",
        "host": server.host,
        "port": port or server.port,
        "ssl": False,
    }
    text = json.dumps({**fields, "username": name, "password": password})
    return Credential(name, Sensitive(password), fields, Sensitive(text))
