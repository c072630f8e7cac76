"""`keyturn plan explain` asks the target which strategy it offers, and changes nothing."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest
from typer.testing import CliRunner

from databases import make_admin, make_login, rows, unused_name
from keyturn.cli import app
from keyturn.local.aws import LocalAws
from keyturn.local.postgres import Postgres

CANARY = "Canary7-explain"


@dataclass
class Secrets:
    """An application's secret and its admin's, in a cloud that the command line is pointed at."""

    user: str
    application: str
    admin: str
    server: Postgres

    def verifiers(self) -> list[tuple[object, ...]]:
        return rows(
            self.server, "SELECT rolname, rolpassword FROM pg_authid WHERE rolname ~ %s", self.user
        )


@pytest.fixture
def secrets(aws: LocalAws, postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> Secrets:
    for name, value in aws.environment().items():
        monkeypatch.setenv(name, value)
    user, admin = unused_name("app"), unused_name("admin")
    make_login(postgres, user, CANARY)
    make_admin(postgres, admin, f"{CANARY}-admin", user)
    client = boto3.client("secretsmanager", **aws.settings())

    def stored(username: str, password: str) -> str:
        document = {
            "engine": "postgres",
            "host": postgres.host,
            "port": postgres.port,
            "username": username,
            "password": password,
            "ssl": False,
        }
        name = unused_name("explain")
        client.create_secret(Name=name, SecretString=json.dumps(document))
        return name

    return Secrets(user, stored(user, CANARY), stored(admin, f"{CANARY}-admin"), postgres)


def explained(secret: str, plan: Path | None = None) -> tuple[int, str]:
    arguments = ["plan", "explain", secret, *(["--plan", str(plan)] if plan else [])]
    ran = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exception
    return ran.exit_code, ran.output


def plan_file(folder: Path, secret: str, **keys: object) -> Path:
    file = folder / "keyturn.yaml"
    file.write_text(json.dumps({"version": 1, "secrets": {secret: keys}}))
    return file


def line(output: str, strategy: str) -> str:
    (found,) = [each for each in output.splitlines() if re.match(rf"\W+{strategy} ", each)]
    return found


def test_without_a_plan_one_user_is_chosen_and_the_others_are_explained(secrets: Secrets) -> None:
    code, output = explained(secrets.application)

    assert code == 0
    assert "chosen" in line(output, "single-user")
    assert "takes one password per user" in line(output, "dual-password")
    assert "Name `users` and `admin` in the plan" in line(output, "alternating-users")
    assert "asked for: single-user" in output
    assert f"{secrets.user} at {secrets.server.host}:{secrets.server.port}" in output


def test_auto_takes_the_best_that_is_offered_and_touches_nothing(
    secrets: Secrets, tmp_path: Path
) -> None:
    before = secrets.verifiers()
    pair = [secrets.user, f"{secrets.user}_clone"]
    plan = plan_file(
        tmp_path, secrets.application, strategy="auto", users=pair, admin=secrets.admin
    )

    code, output = explained(secrets.application, plan)

    assert code == 0, output
    assert "chosen" in line(output, "alternating-users")
    assert "asked for: auto" in output
    assert secrets.verifiers() == before


def test_a_choice_that_would_fail_is_an_exit_code(secrets: Secrets, tmp_path: Path) -> None:
    """For a pipeline, before it deploys the plan."""
    plan = plan_file(tmp_path, secrets.application, strategy="dual-password")

    code, output = explained(secrets.application, plan)

    assert code == 1
    assert "chosen" in line(output, "dual-password")
    assert "Use the strategy alternating-users" in line(output, "dual-password")


def test_no_secret_is_shown(secrets: Secrets) -> None:
    _, output = explained(secrets.application)

    assert CANARY not in output


def test_a_value_without_a_target_is_explained_without_one(
    secrets: Secrets, tmp_path: Path
) -> None:
    file = tmp_path / "keyturn.yaml"
    file.write_text(
        f"version: 1\nsecrets:\n  {secrets.application}:\n"
        "    strategy: generate\n    generate: {kind: base64url, member: password}\n"
    )

    code, output = explained(secrets.application, file)

    assert f"{secrets.application}: no login" in output
    assert "asked for: generate" in output
    assert (code, "the target refuses" in output) == (1, True)
