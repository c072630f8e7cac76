"""The floor: the external calls of one rotation, bare. What nobody can go below.

The same ten API calls as keyturn makes for a single user, in the same order with the same
arguments, and the same three logins, each with its one query, and one change: no check, no
time-out, no log. It is what one would write for a demonstration, and it must not be deployed: an
interrupted rotation is lost.

It asks the database for less than it might (autocommit, so no BEGIN and COMMIT; no guards around
the change), so that a ratio to it never flatters.
`run.py` compares the two lists of calls, and stops if they differ.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

CURRENT, PENDING = "AWSCURRENT", "AWSPENDING"


def perform(event: Mapping[str, str], client: SecretsManagerClient) -> None:
    """Perform the step that *event* names."""
    _STEPS[event["Step"]](client, event["SecretId"], event["ClientRequestToken"])


def _create(client: SecretsManagerClient, ref: str, token: str) -> None:
    value = _current(client, ref)
    client.describe_secret(SecretId=ref)
    value["password"] = secrets.token_urlsafe(30)
    client.put_secret_value(
        SecretId=ref,
        ClientRequestToken=token,
        SecretString=json.dumps(value),
        VersionStages=[PENDING],
    )
    client.describe_secret(SecretId=ref)


def _set(client: SecretsManagerClient, ref: str, token: str) -> None:
    with _login(_current(client, ref)) as connection:
        pending = _pending(client, ref, token)
        user = pending["username"]
        verifier = connection.pgconn.encrypt_password(
            pending["password"].encode(), user.encode(), b"scram-sha-256"
        )
        connection.execute(
            sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(user), verifier.decode())
        )


def _test(client: SecretsManagerClient, ref: str, token: str) -> None:
    with _login(_pending(client, ref, token)):
        pass


def _finish(client: SecretsManagerClient, ref: str, token: str) -> None:
    with _login(_pending(client, ref, token)):
        pass
    labels = client.describe_secret(SecretId=ref)["VersionIdsToStages"]
    client.update_secret_version_stage(
        SecretId=ref,
        VersionStage=CURRENT,
        MoveToVersionId=token,
        RemoveFromVersionId=next(v for v, held in labels.items() if CURRENT in held),
    )


_STEPS = {
    "createSecret": _create,
    "setSecret": _set,
    "testSecret": _test,
    "finishSecret": _finish,
}


def _current(client: SecretsManagerClient, ref: str) -> dict[str, Any]:
    got = client.get_secret_value(SecretId=ref, VersionStage=CURRENT)
    value: dict[str, Any] = json.loads(got["SecretString"])
    return value


def _pending(client: SecretsManagerClient, ref: str, token: str) -> dict[str, Any]:
    got = client.get_secret_value(SecretId=ref, VersionId=token, VersionStage=PENDING)
    value: dict[str, Any] = json.loads(got["SecretString"])
    return value


def _login(value: Mapping[str, Any]) -> psycopg.Connection[tuple[Any, ...]]:
    tls: dict[str, Any] = {"sslmode": "disable"}
    if value["ssl"]:
        tls = {"sslmode": "verify-full", "sslrootcert": os.environ["BENCH_BUNDLE"]}
    connection = psycopg.connect(
        host=value["host"],
        hostaddr="127.0.0.1",
        port=value["port"],
        dbname=value["dbname"],
        user=value["username"],
        password=value["password"],
        gssencmode="disable",
        autocommit=True,
        **tls,
    )
    connection.execute("SELECT current_user, clock_timestamp()")
    return connection
