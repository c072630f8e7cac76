"""The servers of a measurement, and secrets on them that wait to be rotated.

Both servers belong to this process and the rotations to others (`worker`): what is measured there
is free of the servers' work. Every rotation gets a login and a secret of its own, in the state in
which Secrets Manager calls a function, so that all start alike and need nobody in between.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from bench.worker import ImportCost, Performance, Turn

from clouds import begin_rotation
from databases import make_admin, make_login, unused_name
from keyturn.local.aws import LocalAws
from keyturn.local.postgres import Postgres
from keyturn.testing.faults import Proxy

ROOT = Path(__file__).parents[1]
FUNCTIONS = ROOT / "functions"
PASSWORD = "Canary7-bench"  # noqa: S105  # opens a login on a server that lives for seconds
WORKER_TIMEOUT_S = 300

_tokens = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Counts:
    """What one rotation asked of others."""

    calls: list[str]
    connections: int
    failing_logins: int


@dataclass(frozen=True, slots=True)
class Tls:
    """How a database shows who it is.

    Attributes:
        host: The name in its certificate. The workers find it on loopback.
        ca_file: Its authority.
        bundle: What a bare function trusts: Amazon RDS's authorities, and this one.
    """

    host: str
    ca_file: Path
    bundle: Path

    def variables(self) -> dict[str, str]:
        """Return what tells a worker."""
        return {
            "KEYTURN_CA_FILE": str(self.ca_file),
            "BENCH_BUNDLE": str(self.bundle),
            "BENCH_HOST": self.host,
        }


class Scene:
    """A store and a database.

    Args:
        aws: The store, started.
        server: The database, started.
        tls: How it shows who it is; None where it has no TLS.
    """

    def __init__(
        self,
        aws: LocalAws,
        server: Postgres,
        *,
        tls: Tls | None = None,
    ) -> None:
        self._aws = aws
        self._server = server
        self._tls = tls
        self._manager = boto3.client("secretsmanager", **aws.settings())

    def secret(self, *, port: int | None = None, **members: object) -> str:
        """Make a login and its secret; return the secret's ARN."""
        user = unused_name("app")
        make_login(self._server, user, PASSWORD)
        return self._store(user, port=port or self._server.port, **members)

    def admin_secret(self, port: int, *owned: str) -> str:
        """Make an admin of *owned* logins and its secret; return the secret's ARN."""
        user = unused_name("admin")
        make_admin(self._server, user, PASSWORD, *owned)
        return self._store(user, port=port)

    def user_of(self, ref: str) -> str:
        """Return the login that a secret holds now."""
        text = self._manager.get_secret_value(SecretId=ref)["SecretString"]
        return str(json.loads(text)["username"])

    def change(self, ref: str, **members: object) -> None:
        """Add members to what a secret holds."""
        value = json.loads(self._manager.get_secret_value(SecretId=ref)["SecretString"])
        self._manager.put_secret_value(SecretId=ref, SecretString=json.dumps(value | members))

    def turn(self, who: str, ref: str) -> Turn:
        """Begin a rotation, as the service does before it calls a function."""
        token = f"{next(_tokens):0>36}"
        begin_rotation(ref, token)
        return {"who": who, "ref": ref, "token": token}

    def perform(self, turns: Sequence[Turn], **variables: str) -> Performance:
        """Perform *turns* in one fresh process."""
        performed: Performance = ask_worker(
            "turns",
            list(turns),
            {
                **self._aws.environment(),
                "KEYTURN_SECRETS": "bench/*",
                **(self._tls.variables() if self._tls else {}),
                **variables,
            },
        )
        return performed

    def count(self, who: str, ref: str, proxy: Proxy, **variables: str) -> Counts:
        """Perform one rotation and count what passes on the wire."""
        turn = self.turn(who, ref)
        failing = self._failing_logins()
        self._aws.log.clear()
        proxy.reset()
        self.perform([turn], AWS_ACCESS_KEY_ID="BENCHED", **variables)
        return Counts(
            [call.action for call in self._aws.log.calls(caller="BENCHED")],
            proxy.connections,
            self._failing_logins() - failing,
        )

    def _failing_logins(self) -> int:
        return self._server.log_text().count("authentication failed")

    def _store(self, user: str, **members: object) -> str:
        value = {
            "engine": "postgres",
            "host": self._tls.host if self._tls else self._server.host,
            "dbname": "postgres",
            "ssl": self._tls is not None,
            "username": user,
            "password": PASSWORD,
            **members,
        }
        made = self._manager.create_secret(Name=f"bench/{user}", SecretString=json.dumps(value))
        return made["ARN"]


def import_cost(modules: Sequence[str], folder: Path = FUNCTIONS) -> ImportCost:
    """Import *modules* of ours from *folder* in a fresh process."""
    cost: ImportCost = ask_worker(
        "imports",
        list(modules),
        {
            "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
            # A folder of its own has no bytecode, and gets none.
            **({} if folder == FUNCTIONS else {"PYTHONDONTWRITEBYTECODE": "1"}),
            "AWS_DEFAULT_REGION": "eu-west-1",
        },
    )
    return cost


def ask_worker(what: str, given: object, variables: Mapping[str, str]) -> Any:
    """Run a worker and return its answer."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.worker", what],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**_environment(), **variables},
        timeout=WORKER_TIMEOUT_S,
    )
    if done.returncode:
        raise SystemExit(f"the measured process failed:\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def _environment() -> dict[str, str]:
    """Return our own variables without those that would steer an SDK, a driver or Python."""
    foreign = ("AWS_", "KEYTURN_", "PG", "POWERTOOLS_", "PYTHON")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    return {
        **kept,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "PYTHONPATH": f"{FUNCTIONS}{os.pathsep}{ROOT}",
    }
