"""The Lambda, in process, between the local AWS's Secrets Manager and its API Gateway."""

from __future__ import annotations

import itertools
import json
import os
from typing import Any

import boto3
import pytest

from aws.rotate import handler
from clouds import LambdaContext, begin_rotation, event
from keyturn import wiring
from keyturn.errors import Unsupported
from keyturn.local.aws import LocalAws
from keyturn.model import Sensitive, Strategy
from keyturn.targets import api_gateway_key

_numbers = itertools.count(1)


class Room:
    """A secret with the value of a key that is in a usage plan."""

    def __init__(self, aws: LocalAws) -> None:
        self.api: Any = boto3.client("apigateway", **aws.settings())
        self.manager: Any = boto3.client("secretsmanager", **aws.settings())
        self.name = f"partner-{os.getpid()}-{next(_numbers)}"
        self.first = Sensitive(f"Canary7-first-of-{self.name}")
        self.plan = self.api.create_usage_plan(name=self.name)["id"]
        value = self.first.reveal()
        made = self.api.create_api_key(name=self.name, value=value, enabled=True)["id"]
        self.api.create_usage_plan_key(usagePlanId=self.plan, keyId=made, keyType="API_KEY")
        self.document = {
            "engine": "api-gateway-key",
            "name": self.name,
            "api_key": value,
            "note": "kept",
        }
        self.ref = self.manager.create_secret(
            Name=f"api-keys/{self.name}", SecretString=json.dumps(self.document)
        )["ARN"]

    def serves(self) -> dict[str, str]:
        got = self.manager.get_secret_value(SecretId=self.ref, VersionStage="AWSCURRENT")
        value: dict[str, str] = json.loads(got["SecretString"])
        return value

    def rotate(self, token: str) -> list[dict[str, str]]:
        begin_rotation(self.ref, token)
        context: Any = LambdaContext()
        return [
            handler(event(step, self.ref, token), context)
            for step in ("create", "set", "test", "finish")
        ]

    def in_plan(self) -> list[Sensitive]:
        keys = self.api.get_usage_plan_keys(usagePlanId=self.plan)["items"]
        return [Sensitive(key["value"]) for key in keys]


@pytest.fixture
def room(aws: LocalAws, monkeypatch: pytest.MonkeyPatch) -> Room:
    for name, value in aws.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("KEYTURN_SECRETS", "api-keys/*")
    monkeypatch.setattr(api_gateway_key, "SETTLED_S", 0.0)
    return Room(aws)


def test_four_events_make_a_key_in_the_same_plans_and_serve_it(room: Room) -> None:
    answers = room.rotate("a" * 32)

    value = room.serves()
    assert [answer["outcome"] for answer in answers] == ["done"] * 4
    assert room.in_plan() == [room.first, Sensitive(value["api_key"])]
    assert list(value) == list(room.document)
    assert (value["name"], value["note"]) == (room.name, "kept")
    assert not any(value["api_key"] in str(answer) for answer in answers)


def test_what_is_made_is_letters_and_digits_without_a_plan(room: Room) -> None:
    """The default policy has symbols, which the service may not take."""
    room.rotate("a" * 32)

    made = room.serves()["api_key"]
    assert made.isalnum()
    assert made.isascii()
    assert len(made) == 40


def test_to_explain_makes_no_key(room: Room) -> None:
    environment = {k: v for k, v in os.environ.items() if k.startswith("KEYTURN_")}

    found = wiring.explain(room.ref, plan_file=None, environment=environment)

    assert found.refusals == {Strategy.DUAL_PASSWORD: None}
    assert found.user == room.name
    assert room.in_plan() == [room.first]


def test_another_strategy_is_refused(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYTURN_STRATEGY", "single-user")

    with pytest.raises(Unsupported, match="dual-password"):
        room.rotate("a" * 32)
