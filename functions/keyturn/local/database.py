"""The database of a local deployment, whichever it is: started, given its first users, asked.

    postgres   PostgreSQL, from a wheel
    mariadb    MariaDB, as the system has it
    redis      Redis or Valkey, the system's or from a wheel

`cloud` starts one, the demo's clients log in to it. What an operator does once after the first
deployment, giving the generated passwords to the server's users, is done here too.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, ClassVar, LiteralString, Protocol

from keyturn.local.mariadb import MariaDb
from keyturn.local.postgres import Postgres
from keyturn.local.redis import Redis
from keyturn.model import Sensitive, Strategy
from keyturn.targets import mysql_hashes
from keyturn.targets.mysql_sql import Sql, account, sql

if TYPE_CHECKING:
    import psycopg
    import redis

LOGIN_TIMEOUT_S = 5
"""Seconds after which a login counts as refused. PostgreSQL wants a whole number."""

Login = Mapping[str, str]
"""A secret's value. `port` may be a number."""


class Engine(Enum):
    """Which database."""

    POSTGRES = "postgres"
    MARIADB = "mariadb"
    REDIS = "redis"


class Server(Protocol):
    """What runs; see `keyturn.local.postgres`."""

    host: str

    @property
    def port(self) -> int:
        """The TCP port. Only while started."""
        ...

    def log_text(self) -> str:
        """Return what it has logged so far."""
        ...

    def start(self) -> None:
        """Start it."""
        ...

    def stop(self) -> None:
        """Stop it. Repeatable."""
        ...


class Database(Protocol):
    """A kind of database.

    Attributes:
        NAME: For people.
        STRATEGIES: What there is to see with it.
        NAMESPACE: The template's DatabaseName.
    """

    NAME: ClassVar[str]
    STRATEGIES: ClassVar[tuple[Strategy, ...]]
    NAMESPACE: ClassVar[str]

    @property
    def server(self) -> Server:
        """The server, which `LocalCloud` starts and stops."""
        ...

    def admit(self, app: Login, admin: Login | None) -> None:
        """Make the two users, with what they need; no password travels in clear."""
        ...

    def lets_in(self, login: Login) -> bool:
        """Log in, ask for something, log out. Any failure is a no: an application is out then."""
        ...


def database(engine: Engine) -> Database:
    """Return one that is not started."""
    return _KINDS[engine]()


class PostgresDatabase:
    """A `Database`."""

    NAME: ClassVar[str] = "PostgreSQL"
    STRATEGIES: ClassVar[tuple[Strategy, ...]] = (Strategy.SINGLE_USER, Strategy.ALTERNATING_USERS)
    NAMESPACE: ClassVar[str] = "orders"

    def __init__(self) -> None:
        self.server = Postgres()

    def admit(self, app: Login, admin: Login | None) -> None:
        """See `Database.admit`."""
        import psycopg

        with psycopg.connect(**self.server.superuser(), autocommit=True) as connection:
            _create_role(connection, app)
            _execute(connection, "CREATE DATABASE {} OWNER {}", self.NAMESPACE, app["username"])
            if admin is None:
                return
            _create_role(connection, admin)
            _execute(connection, "ALTER ROLE {} CREATEROLE", admin["username"])
            # From PostgreSQL 16 on, CREATEROLE alone covers only roles that one has made.
            names = (app["username"], admin["username"])
            _execute(connection, "GRANT {} TO {} WITH ADMIN OPTION", *names)

    def lets_in(self, login: Login) -> bool:
        """See `Database.lets_in`."""
        import psycopg

        with (
            contextlib.suppress(psycopg.Error),
            psycopg.connect(
                host=login["host"],
                port=login["port"],
                user=login["username"],
                password=login["password"],
                dbname=login["dbname"],
                autocommit=True,
                connect_timeout=LOGIN_TIMEOUT_S,
                sslmode="disable",  # on loopback
                gssencmode="disable",
            ) as connection,
        ):
            return connection.execute("SELECT 1").fetchone() == (1,)
        return False


def _create_role(connection: psycopg.Connection, login: Login) -> None:
    from psycopg import sql

    # A verifier, so that the password itself is in no statement and no log.
    verifier = connection.pgconn.encrypt_password(
        login["password"].encode(), login["username"].encode(), b"scram-sha-256"
    )
    connection.execute(
        sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(
            sql.Identifier(login["username"]), sql.Literal(verifier.decode())
        )
    )


def _execute(connection: psycopg.Connection, statement: LiteralString, *names: str) -> None:
    from psycopg import sql

    connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


class MariaDbDatabase:
    """A `Database`. The server is looked for here: not every system has one."""

    NAME: ClassVar[str] = "MariaDB"
    STRATEGIES: ClassVar[tuple[Strategy, ...]] = (
        Strategy.SINGLE_USER,
        Strategy.DUAL_PASSWORD,
        Strategy.ALTERNATING_USERS,
    )
    NAMESPACE: ClassVar[str] = "orders"

    def __init__(self) -> None:
        self.server = MariaDb()

    def admit(self, app: Login, admin: Login | None) -> None:
        """See `Database.admit`."""
        import pymysql

        statements = [*_mariadb_app(app), *(_mariadb_admin(admin) if admin else [])]
        with pymysql.connect(**self.server.superuser()) as superuser, superuser.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def lets_in(self, login: Login) -> bool:
        """See `Database.lets_in`."""
        import pymysql

        with (
            contextlib.suppress(pymysql.MySQLError),
            pymysql.connect(
                host=login["host"],
                port=int(login["port"]),
                user=login["username"],
                password=login["password"],
                database=login["dbname"],
                connect_timeout=LOGIN_TIMEOUT_S,
                read_timeout=LOGIN_TIMEOUT_S,
                ssl_disabled=True,  # on loopback
            ) as connection,
            connection.cursor() as cursor,
        ):
            return cursor.execute("SELECT 1") == 1
        return False


def _mariadb_app(login: Login) -> list[str]:
    return [
        "CREATE DATABASE orders",
        _create_user(login),
        sql("GRANT ALL PRIVILEGES ON orders.* TO {}", account(login["username"], "%")),
    ]


def _mariadb_admin(login: Login) -> list[str]:
    """Return what docs/mysql.md asks for."""
    admin = account(login["username"], "%")
    return [
        _create_user(login),
        sql("GRANT CREATE USER ON *.* TO {}", admin),
        sql("GRANT SELECT ON mysql.* TO {}", admin),
        sql("GRANT ALL PRIVILEGES ON orders.* TO {} WITH GRANT OPTION", admin),
    ]


def _create_user(login: Login) -> str:
    # A hash, so that the password itself is in no statement and no log.
    hashed = mysql_hashes.native(Sensitive(login["password"]))
    return sql(
        "CREATE USER {} IDENTIFIED VIA mysql_native_password USING '{}'",
        account(login["username"], "%"),
        Sql(hashed),  # an asterisk and hexadecimal digits
    )


class RedisDatabase:
    """A `Database`."""

    NAME: ClassVar[str] = "Redis"
    STRATEGIES: ClassVar[tuple[Strategy, ...]] = (Strategy.SINGLE_USER, Strategy.DUAL_PASSWORD)
    NAMESPACE: ClassVar[str] = ""

    def __init__(self) -> None:
        self.server = Redis()

    def admit(self, app: Login, admin: Login | None) -> None:
        """See `Database.admit`. Without an admin, the application's user changes itself."""
        import redis

        with redis.Redis(**self.server.superuser(), decode_responses=True) as superuser:
            own = () if admin else _REDIS_ROTATION
            _set_user(superuser, app, *_REDIS_APPLICATION, *own)
            if admin is not None:
                _set_user(superuser, admin, *_REDIS_ROTATION)
            superuser.acl_save()

    def lets_in(self, login: Login) -> bool:
        """See `Database.lets_in`."""
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        with (
            contextlib.suppress(redis.RedisError),
            redis.Redis(
                host=login["host"],
                port=int(login["port"]),
                username=login["username"],
                password=login["password"],
                socket_timeout=LOGIN_TIMEOUT_S,
                retry=Retry(NoBackoff(), 0),
            ) as client,
        ):
            return bool(client.ping())
        return False


_REDIS_APPLICATION = ("~*", "&*", "+@all", "-@admin", "-@dangerous")
_REDIS_ROTATION = (
    *("+info", "+config|get", "+client|list", "+client|kill", "+client|setname"),
    *("+acl|whoami", "+acl|list", "+acl|setuser", "+acl|save"),
)
"""What docs/redis.md asks for, with an aclfile."""


def _set_user(superuser: redis.Redis, login: Login, *rules: str) -> None:
    # A hash, so that the password itself is in no command and no log.
    verifier = "#" + hashlib.sha256(login["password"].encode()).hexdigest()
    command = ("ACL", "SETUSER", login["username"], "reset", "on", verifier, *rules)
    superuser.execute_command(*command)  # type: ignore[no-untyped-call]


_KINDS: Mapping[Engine, type[Database]] = {
    Engine.POSTGRES: PostgresDatabase,
    Engine.MARIADB: MariaDbDatabase,
    Engine.REDIS: RedisDatabase,
}
