"""The Lambda, in process, between a strict Secrets Manager and the API of the page's example."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest

from aws.rotate import handler
from clouds import LambdaContext, event
from http_apis import BARE, TOY
from keyturn import wiring
from keyturn.errors import Denied, Misconfigured, Unreachable, Untraceable
from keyturn.model import Sensitive, Strategy
from keyturn.testing.strict_api import ADMIN_ID, ADMIN_SECRET, Bare, Fault, Shape, StrictApi, Toy
from keyturn.testing.strict_secrets_manager import StrictSecretsManager

STEPS = ("create", "set", "test", "finish")
SECRET, ADMIN = "prod/shop/api-key", "prod/shop/api-admin"


class Room:
    """A secret with a key, the API that made it, the plan, and the function that rotates it."""

    def __init__(self, stack: ExitStack, shape: Shape, plan: str, folder: Path) -> None:
        self.store = stack.enter_context(StrictSecretsManager())
        self.api = stack.enter_context(StrictApi(shape, lambda: datetime.now(UTC)))
        self.first = self.api.make_key("first")
        self.document = {
            "engine": "http-api-key",
            "note": "kept",
            "key_id": self.first.key_id,
            "api_key": self.first.secret.reveal(),
        }
        self.ref = self._made(SECRET, self.document)
        admin = {"username": ADMIN_ID, "password": ADMIN_SECRET}
        self._made(ADMIN, {"engine": "none", **admin})
        self.manager: Any = boto3.client("secretsmanager", **self.store.settings())
        self.plan_file = folder / "keyturn.yaml"
        local = plan.replace("https://api.example.com", f"http://{self.api.host}")
        self.plan_file.write_text(local.replace("[api.example.com]", f'["{self.api.host}"]'))
        self._number = 0

    def _made(self, name: str, document: dict[str, str]) -> str:
        text = json.dumps(document)
        made = self.store.operate(
            "CreateSecret", Name=name, SecretString=text, ClientRequestToken="0" * 32
        )
        return str(made["ARN"])

    def serves(self) -> dict[str, str]:
        got = self.manager.get_secret_value(SecretId=self.ref, VersionStage="AWSCURRENT")
        value: dict[str, str] = json.loads(got["SecretString"])
        return value

    def rotate(self, steps: tuple[str, ...] = STEPS) -> list[dict[str, str]]:
        self._number += 1
        token = f"{self._number:0>36}"
        self.store.operate(
            "RotateSecret",
            SecretId=self.ref,
            ClientRequestToken=token,
            RotationLambdaARN=LambdaContext.invoked_function_arn,
        )
        return [handler(event(step, self.ref, token), _context()) for step in steps]


def _context() -> Any:
    return LambdaContext()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def _room(
    stack: ExitStack, shape: Shape, plan: str, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> Room:
    room = Room(stack, shape, plan, folder)
    variables = {
        "AWS_ENDPOINT_URL_SECRETS_MANAGER": str(room.store.settings()["endpoint_url"]),
        "KEYTURN_SECRETS": "prod/*",
        "KEYTURN_ADMIN_SECRETS": ADMIN,
        "KEYTURN_PLAN": str(room.plan_file),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setattr("keyturn.minted.SPACING_S", 0.0)
    return room


@pytest.fixture
def room(stack: ExitStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Room:
    return _room(stack, Toy(), TOY, monkeypatch, tmp_path)


@pytest.fixture
def bare(stack: ExitStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Room:
    return _room(stack, Bare(), BARE, monkeypatch, tmp_path)


def test_the_pages_example_mints_a_key_proves_it_and_serves_it(room: Room) -> None:
    answers = room.rotate()

    value = room.serves()
    old, new = room.api.alive()
    assert old is room.first
    assert [answer["outcome"] for answer in answers] == ["done"] * 4
    assert value["key_id"] == new.key_id
    assert Sensitive(value["api_key"]) == new.secret
    assert list(value) == list(room.document)
    assert value["note"] == "kept"
    assert new.name.startswith("keyturn-")
    assert not any(value["api_key"] in str(answer) for answer in answers)


def test_no_tag_is_written_where_keys_have_names(room: Room) -> None:
    with room.api.break_all(Fault.LOST_REPLY, "POST"), pytest.raises(Unreachable):
        room.rotate(("create",))

    assert room.manager.describe_secret(SecretId=room.ref).get("Tags", []) == []


def test_to_explain_makes_no_key(room: Room) -> None:
    environment = {k: v for k, v in os.environ.items() if k.startswith("KEYTURN_")}

    found = wiring.explain(SECRET, plan_file=room.plan_file, environment=environment)

    assert found.strategy is Strategy.AUTO
    assert found.refusals == {Strategy.AUTO: None}
    assert room.api.alive() == [room.first]


def test_the_name_that_a_person_gives_means_the_same_keys(room: Room) -> None:
    """By name or by ARN: what our keys are called follows from the ARN."""
    with room.api.break_all(Fault.LOST_REPLY, "POST"), pytest.raises(Unreachable):
        room.rotate(("create",))
    environment = {k: v for k, v in os.environ.items() if k.startswith("KEYTURN_")}

    found = wiring.explain(SECRET, plan_file=room.plan_file, environment=environment)

    refusal = found.refusals[Strategy.AUTO]
    assert refusal is not None
    assert "another try may have minted" in str(refusal)


def test_the_admin_must_be_one_that_the_deployment_allows(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYTURN_ADMIN_SECRETS", "other/*")

    with pytest.raises(Denied, match="KEYTURN_ADMIN_SECRETS"):
        room.rotate(("create",))

    assert room.api.alive() == [room.first]


def test_without_a_plan_nothing_is_asked(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KEYTURN_PLAN")

    with pytest.raises(Misconfigured, match="no plan declares"):
        room.rotate(("create",))

    assert room.api.asked == []


def test_a_host_in_the_secret_leads_nowhere(room: Room) -> None:
    document = json.dumps({**room.document, "host": "metadata.example.com"})
    room.manager.put_secret_value(SecretId=room.ref, SecretString=document)

    with pytest.raises(Denied, match="'host' is not"):
        room.rotate(("create",))

    assert room.api.asked == []


def test_a_key_that_may_be_lost_is_an_alarm(bare: Room, capsys: pytest.CaptureFixture[str]) -> None:
    """Where nothing lists keys. The same rotation makes no second one."""
    with bare.api.break_all(Fault.LOST_REPLY, "POST"), pytest.raises(Untraceable):
        bare.rotate(("create",))
    token = f"{1:0>36}"
    with pytest.raises(Untraceable):
        handler(event("create", bare.ref, token), _context())

    told = capsys.readouterr().out
    assert told.count('"KeyPossiblyLost":[1.0]') == 2
    assert bare.api.asked.count("POST /keys") == 1
