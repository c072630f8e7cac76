"""The whole deployment on one machine, with the project's own template and function."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import boto3
import psycopg
import pytest

from keyturn.errors import Misconfigured
from keyturn.local.aws import LocalAws
from keyturn.local.cloud import LocalCloud
from keyturn.local.database import PostgresDatabase

TEMPLATE = Path(__file__).parents[2] / "infra" / "template.yaml"


@pytest.fixture(scope="module")
def cloud(request: pytest.FixtureRequest) -> Iterator[LocalCloud]:
    """Start one; the session's local AWS makes room, because there is one per process."""
    shared: LocalAws = request.getfixturevalue("aws")
    shared.stop()
    with LocalCloud(TEMPLATE) as started:
        yield started
    shared.start()


def stored(cloud: LocalCloud, resource: str = "Secret") -> dict[str, str]:
    store = boto3.client("secretsmanager", **cloud.aws.settings())
    return dict(
        json.loads(
            store.get_secret_value(
                SecretId=cloud.stack.resources[resource], VersionStage="AWSCURRENT"
            )["SecretString"]
        )
    )


def user_of(login: dict[str, str]) -> str:
    with psycopg.connect(
        host=login["host"],
        port=login["port"],
        user=login["username"],
        password=login["password"],
        dbname=login["dbname"],
    ) as connection:
        row = connection.execute("SELECT current_user").fetchone()
        return str(row and row[0])


def test_what_the_secret_holds_logs_in(cloud: LocalCloud) -> None:
    assert user_of(stored(cloud)) == "orders"


def test_the_admin_may_manage_roles_and_is_no_superuser(cloud: LocalCloud) -> None:
    login = stored(cloud, "AdminSecret")
    assert user_of(login) == login["username"]

    assert isinstance(cloud.database, PostgresDatabase)
    with psycopg.connect(**cloud.database.server.superuser()) as connection:
        row = connection.execute(
            "SELECT rolcreaterole, rolsuper FROM pg_roles WHERE rolname = %s", [login["username"]]
        ).fetchone()

    assert row == (True, False)


def test_a_rotation_changes_the_password_and_the_new_one_logs_in(cloud: LocalCloud) -> None:
    store = boto3.client("secretsmanager", **cloud.aws.settings())
    before = stored(cloud)

    version = store.rotate_secret(SecretId=cloud.secret_arn)["VersionId"]
    assert cloud.aws.settle()

    after = stored(cloud)
    assert (
        "AWSCURRENT"
        in store.describe_secret(SecretId=cloud.secret_arn)["VersionIdsToStages"][version]
    )
    assert after["password"] != before["password"]
    assert user_of(after) == "orders"
    assert user_of(before) == "orders"  # alternating users: the old one is not cut off


def test_no_password_is_in_the_databases_log(cloud: LocalCloud) -> None:
    passwords = [stored(cloud, resource)["password"] for resource in ("Secret", "AdminSecret")]

    log = cloud.database.server.log_text()

    assert not any(password in log for password in passwords)


def test_one_that_is_not_started_says_so() -> None:
    with pytest.raises(Misconfigured):
        _ = LocalCloud(TEMPLATE).stack
