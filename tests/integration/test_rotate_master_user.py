"""The Lambda rotates a master user: a faithful AWS, a strict RDS, and a real PostgreSQL."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from typer.testing import CliRunner

from aws.rotate import handler
from clouds import LambdaContext, begin_rotation, event
from databases import credential, make_login, set_password, unused_name
from keyturn import wiring
from keyturn.authorities import rds
from keyturn.cli import app
from keyturn.errors import Drifted, KeyturnError, Misconfigured, NotYetAccepted, Unsupported
from keyturn.local.aws import LocalAws
from keyturn.local.postgres import Postgres
from keyturn.model import Sensitive, Surroundings
from keyturn.targets.postgres import Postgres as Engine
from keyturn.testing.strict_rds import Resource, StrictRds, Undocumented

CANARY = "Canary7-master"
STEPS = ("create", "set", "test", "finish")
_numbers = itertools.count(1)


class Room:
    """A cluster, the secret of its master user, and a plan that names both."""

    def __init__(self, aws: LocalAws, server: Postgres, service: StrictRds, plan: Path) -> None:
        self.manager: Any = boto3.client("secretsmanager", **aws.settings())
        user = unused_name("master")
        make_login(server, user, CANARY)
        self.value = credential(server, user, CANARY)
        self.name = unused_name("secret")
        document = self.value.document.reveal()
        self.ref: str = self.manager.create_secret(Name=self.name, SecretString=document)["ARN"]
        self.service = service
        self.cluster = Resource(
            f"orders-{next(_numbers)}",
            "aurora-postgresql",
            user,
            server.host,
            server.port,
            is_cluster=True,
        )
        self.plan = plan
        self.say(authority=service.add(self.cluster))

    def say(self, **keys: object) -> None:
        """Write the plan."""
        secret = {"strategy": "single-user", **keys}
        self.plan.write_text(json.dumps({"version": 1, "secrets": {self.name: secret}}))

    def begin(self) -> str:
        token = f"{next(_numbers):0>36}"
        begin_rotation(self.ref, token)
        return token

    def perform(self, token: str, *steps: str, remaining_s: int = 60) -> list[str]:
        context: Any = LambdaContext(remaining_ms=remaining_s * 1000)
        answers = [handler(event(step, self.ref, token), context) for step in steps]
        return [answer["outcome"] for answer in answers]

    def serves(self) -> str:
        value = json.loads(self.manager.get_secret_value(SecretId=self.ref)["SecretString"])
        password: str = value["password"]
        return password

    def accepts(self, secret: str) -> bool:
        login = replace(self.value, secret=Sensitive(secret))
        with Engine(Surroundings(lambda: 60.0)).login(login) as session:
            return session is not None


@pytest.fixture
def room(
    aws: LocalAws, postgres: Postgres, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Room]:
    def apply(user: str, secret: Sensitive) -> None:
        set_password(postgres, user, secret)

    # In force at the first look: one pause of a second is all that a test waits.
    at_once = Undocumented(pending_for=0, resetting_for=0)
    with StrictRds(apply, at_once) as service:
        for name, value in aws.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ENDPOINT_URL_RDS", service.settings()["endpoint_url"])
        monkeypatch.setenv("KEYTURN_SECRETS", "*")
        monkeypatch.setenv("KEYTURN_PLAN", str(tmp_path / "keyturn.yaml"))
        yield Room(aws, postgres, service, tmp_path / "keyturn.yaml")


def test_four_events_rotate_a_master_user(room: Room, postgres: Postgres) -> None:
    failed = postgres.log_text().count("password authentication failed")

    outcomes = room.perform(room.begin(), *STEPS)

    assert outcomes == ["done"] * 4
    assert room.accepts(room.serves())
    assert room.service.asked() == 1
    assert postgres.log_text().count("password authentication failed") == failed
    assert not room.accepts(CANARY)


def test_a_function_whose_time_is_up_is_gone_on_with(room: Room) -> None:
    """It is asked for once, and in force when the platform calls again."""
    token = room.begin()
    room.perform(token, "create")
    with pytest.raises(NotYetAccepted):
        room.perform(token, "set", remaining_s=15)

    room.perform(token, *STEPS)

    assert room.accepts(room.serves())
    assert room.service.asked() == 1


def test_a_password_that_nobody_knows_is_rotated_back(room: Room, postgres: Postgres) -> None:
    """Somebody has changed it in the console: `single-user` alone would be locked out."""
    set_password(postgres, room.cluster.master, Sensitive(f"{CANARY}-by-hand"))

    room.perform(room.begin(), *STEPS)

    assert room.accepts(room.serves())


@pytest.mark.parametrize(
    "keys, kind, message",
    [
        ({"password": {"length": 64}}, Misconfigured, "takes passwords of 8 to 41 characters"),
        (
            {"authority": "arn:aws:rds:us-east-1:123456789012:cluster:orders"},
            Misconfigured,
            "different regions or accounts",
        ),
        (
            {"authority": "arn:aws:rds:eu-west-1:111122223333:cluster:orders"},
            Misconfigured,
            "different regions or accounts",
        ),
        (
            {"authority": "arn:aws:s3:eu-west-1:123456789012:cluster:orders"},
            Unsupported,
            "no authority for the service 's3'",
        ),
        ({"authority": "projects/shop-42/instances/orders"}, Misconfigured, "different clouds"),
    ],
    ids=["a long password", "another region", "another account", "another service", "of Google"],
)
def test_what_cannot_be_set_is_refused_before_anything_is_staged(
    room: Room, keys: dict[str, object], kind: type[KeyturnError], message: str
) -> None:
    room.say(**{"authority": room.cluster.arn, **keys})
    token = room.begin()

    with pytest.raises(kind, match=message):
        room.perform(token, "create")

    with pytest.raises(room.manager.exceptions.ResourceNotFoundException):
        room.manager.get_secret_value(SecretId=room.ref, VersionId=token)


def test_a_secret_that_points_elsewhere_is_refused(room: Room) -> None:
    """Whoever may edit the secret must not thereby choose whose password is set."""
    room.cluster.port += 1

    with pytest.raises(Drifted):
        room.perform(room.begin(), "create")


# ---------------------------------------------------------------------------- explained


def explained(room: Room, secret: str) -> tuple[int, str]:
    arguments = ["plan", "explain", secret, "--plan", str(room.plan)]
    ran = CliRunner().invoke(app, arguments, env={"COLUMNS": "250"})
    assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exception
    return ran.exit_code, ran.output


@pytest.mark.parametrize("by", ["name", "ref"])
def test_explain_names_the_authority_and_changes_nothing(room: Room, by: str) -> None:
    code, output = explained(room, getattr(room, by))

    assert code == 0, output
    assert f"asked for: single-user, by {room.cluster.arn}" in output
    assert room.service.asked() == 0
    assert CANARY not in output


def test_explain_says_what_the_authority_refuses(room: Room) -> None:
    room.cluster.shown = {"MasterUserSecret": {"SecretStatus": "active"}}

    code, output = explained(room, room.name)

    assert code == 1
    assert "keeps its master user's password in a secret that RDS rotates" in output


def test_a_call_with_all_its_time_outs_ends_within_the_margin() -> None:
    """Else a function could be killed between asking and reporting."""
    backoff_s = 1.0
    longest_s = wiring.AUTHORITY_TRIES * (wiring.CONNECT_TIMEOUT_S + wiring.READ_TIMEOUT_S)

    assert longest_s + backoff_s <= rds.MARGIN_S
