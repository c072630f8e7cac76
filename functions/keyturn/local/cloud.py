"""A whole deployment on one machine: database, AWS, the stack, and a first login that works.

`keyturn local up` and the demo start it. The template is the one that is deployed for real; what
an operator does once after the first deployment (give the generated passwords to the database's
users) is done here as well, from the secrets themselves.

Nobody but this module and the rotation functions knows the passwords; none is written anywhere.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import boto3

from keyturn.errors import Misconfigured
from keyturn.local.aws import LocalAws
from keyturn.local.database import Engine, database
from keyturn.local.deploy import Stack, deploy, parameters_of

APP_USER = "orders"
ADMIN_USER = "keyturn_admin"

OPERATOR_KEY_ID = "LOCALOPERATOR"
"""The access key id under which the first passwords are read."""


class LocalCloud:
    """A deployment of one template. Use it as a context manager, or call `start` and `stop`.

    Args:
        template: The SAM template. Its resources `Secret` and, if it has one, `AdminSecret` are
            the logins that the database gets.
        engine: Which database.
        aws: The local AWS to start, if it is to be a special one.
        parameters: For the template, over those that point it to the local database.
        plan: A keyturn.yaml to deploy with the functions.
        progress: Called with what happens next, in words.

    Attributes:
        aws: The local AWS.
        database: The database; `database.server` is what runs.
    """

    def __init__(  # noqa: PLR0913  # all but one have a default, and a name
        self,
        template: Path,
        *,
        engine: Engine = Engine.POSTGRES,
        aws: LocalAws | None = None,
        parameters: Mapping[str, str] | None = None,
        plan: Path | None = None,
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.aws = aws or LocalAws()
        self.database = database(engine)
        self._engine = engine
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
            self._progress(f"Starting {self.database.NAME}")
            undo.callback(self.database.server.stop)
            self.database.server.start()
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
        server = self.database.server
        ours = {
            "Engine": self._engine.value,
            "DatabaseHost": server.host,
            "DatabasePort": str(server.port),
            "DatabaseName": self.database.NAMESPACE,
            "DatabaseUser": APP_USER,
            "AdminUser": ADMIN_USER,
            "DatabaseSsl": "false",  # the wheel's server has none; it is on loopback
            "PlaintextHosts": server.host,
        }
        known = parameters_of(self._template)
        return {k: v for k, v in ours.items() if k in known} | self._parameters

    def _bootstrap(self) -> None:
        if "Secret" not in self.stack.resources:
            raise Misconfigured(
                f"{self._template} has no resource named Secret",
                remedy="Call the application's secret Secret.",
            )
        has_admin = "AdminSecret" in self.stack.resources
        admin = self._stored("AdminSecret") if has_admin else None
        self.database.admit(self._stored("Secret"), admin)

    def _stored(self, resource: str) -> dict[str, str]:
        manager = boto3.client("secretsmanager", **self.aws.settings(OPERATOR_KEY_ID))
        answer = manager.get_secret_value(
            SecretId=self.stack.resources[resource], VersionStage="AWSCURRENT"
        )
        stored: dict[str, str] = json.loads(answer["SecretString"])
        return stored
