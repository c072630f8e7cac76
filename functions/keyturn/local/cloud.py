"""A whole deployment on one machine: PostgreSQL, AWS, the stack, and a first login that works.

`keyturn local up` and the demo start it. The template is the one that is deployed for real; what
an operator does once after the first deployment (give the generated passwords to the database's
roles) is done here as well, from the secrets themselves.

Nobody but this module and the rotation functions knows the passwords; none is written anywhere.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, LiteralString, Self

import boto3

from keyturn.errors import Misconfigured
from keyturn.local.aws import LocalAws
from keyturn.local.deploy import Stack, deploy, parameters_of
from keyturn.local.postgres import Postgres

if TYPE_CHECKING:
    import psycopg

DATABASE = "orders"
APP_USER = "orders"
ADMIN_USER = "keyturn_admin"

OPERATOR_KEY_ID = "LOCALOPERATOR"
"""The access key id under which the first passwords are read."""


class LocalCloud:
    """A deployment of one template. Use it as a context manager, or call `start` and `stop`.

    Args:
        template: The SAM template. Its resources `Secret` and, if it has one, `AdminSecret` are
            the logins that the database gets.
        aws: The local AWS to start, if it is to be a special one.
        parameters: For the template, over those that point it to the local database.
        plan: A keyturn.yaml to deploy with the functions.
        progress: Called with what happens next, in words.

    Attributes:
        aws: The local AWS.
        postgres: The database server.
    """

    def __init__(
        self,
        template: Path,
        *,
        aws: LocalAws | None = None,
        parameters: Mapping[str, str] | None = None,
        plan: Path | None = None,
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.aws = aws or LocalAws()
        self.postgres = Postgres()
        self._template = template
        self._parameters = dict(parameters or {})
        self._plan = plan
        self._progress = progress
        self._undo = contextlib.ExitStack()
        self._stack: Stack | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def stack(self) -> Stack:
        """What was deployed. Only while started."""
        if self._stack is None:
            raise Misconfigured("the local cloud is not running", remedy="Call start() first.")
        return self._stack

    @property
    def secret_arn(self) -> str:
        """The secret that the application reads, and that is rotated."""
        return self.stack.resources["Secret"]

    def start(self) -> None:
        """Start everything.

        Raises:
            KeyturnError: Something of it cannot be started; nothing is left running.
        """
        with contextlib.ExitStack() as undo:
            self._progress("Starting PostgreSQL")
            undo.enter_context(self.postgres)
            self._progress("Starting AWS")
            undo.enter_context(self.aws)
            self._progress(f"Deploying {self._template}")
            self._stack = deploy(
                self.aws, self._template, parameters=self._all_parameters(), plan=self._plan
            )
            # A schedule tries the function out at once, and until then no rotation is accepted.
            self.aws.settle()
            self._progress("Giving the database its first passwords")
            self._bootstrap()
            self._undo = undo.pop_all()

    def stop(self) -> None:
        """Stop everything. Repeatable."""
        self._stack = None
        self._undo.close()

    def _all_parameters(self) -> dict[str, str]:
        ours = {
            "DatabaseHost": self.postgres.host,
            "DatabasePort": str(self.postgres.port),
            "DatabaseName": DATABASE,
            "DatabaseUser": APP_USER,
            "AdminUser": ADMIN_USER,
            "DatabaseSsl": "false",  # the wheel's server has none; it is on loopback
            "PlaintextHosts": self.postgres.host,
        }
        known = parameters_of(self._template)
        return {k: v for k, v in ours.items() if k in known} | self._parameters

    def _bootstrap(self) -> None:
        import psycopg

        if "Secret" not in self.stack.resources:
            raise Misconfigured(
                f"{self._template} has no resource named Secret",
                remedy="Call the application's secret Secret.",
            )
        app = self._stored("Secret")
        with psycopg.connect(**self.postgres.superuser(), autocommit=True) as connection:
            _create_login(connection, app)
            _execute(connection, "CREATE DATABASE {} OWNER {}", app["dbname"], app["username"])
            if "AdminSecret" in self.stack.resources:
                admin = self._stored("AdminSecret")
                _create_login(connection, admin)
                _execute(connection, "ALTER ROLE {} CREATEROLE", admin["username"])
                # From PostgreSQL 16 on, CREATEROLE alone covers only roles that one has made.
                names = (app["username"], admin["username"])
                _execute(connection, "GRANT {} TO {} WITH ADMIN OPTION", *names)

    def _stored(self, resource: str) -> dict[str, str]:
        manager = boto3.client("secretsmanager", **self.aws.settings(OPERATOR_KEY_ID))
        answer = manager.get_secret_value(
            SecretId=self.stack.resources[resource], VersionStage="AWSCURRENT"
        )
        stored: dict[str, str] = json.loads(answer["SecretString"])
        return stored


def _create_login(connection: psycopg.Connection, login: Mapping[str, str]) -> None:
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
