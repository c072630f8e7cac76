"""The Lambda, in process, between a strict Secrets Manager and a strict IAM."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest

from aws.rotate import handler
from clouds import LambdaContext, event
from keyturn import wiring
from keyturn.errors import Busy, Denied, Drifted, Misconfigured, Unreachable, Unsupported
from keyturn.minted import LANDING
from keyturn.model import Credential, SecretRef, Sensitive, Strategy, Surroundings
from keyturn.stores import secrets_manager
from keyturn.targets import iam_access_key
from keyturn.testing.strict_iam import ACCOUNT, AccessKey, StrictIam
from keyturn.testing.strict_secrets_manager import StrictSecretsManager

USER = f"arn:aws:iam::{ACCOUNT}:user/rotated/app"
STEPS = ("create", "set", "test", "finish")


class Room:
    """A secret with the key of an IAM user, and the function that rotates it."""

    def __init__(self, stack: ExitStack) -> None:
        self.store = stack.enter_context(StrictSecretsManager())
        self.iam = stack.enter_context(StrictIam(lambda: datetime.now(UTC)))
        self.iam.add("app", "/rotated/")
        self.first = self.iam.make_key("app")
        self.document = json.dumps(
            {
                "engine": "iam-access-key",
                "username": "app",
                "access_key_id": self.first.key_id,
                "secret_access_key": self.first.secret.reveal(),
                "smtp_password_eu-west-1": "",
                "note": "kept",
            },
            indent=1,
        )
        made = self.store.operate(
            "CreateSecret",
            Name="minted/app",
            SecretString=self.document,
            ClientRequestToken="0" * 32,
        )
        self.ref = str(made["ARN"])
        self.manager: Any = boto3.client("secretsmanager", **self.store.settings())
        self._number = 0

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

    def cancel(self) -> None:
        self.store.operate("CancelRotateSecret", SecretId=self.ref)
        self.store.operate(
            "UpdateSecretVersionStage",
            SecretId=self.ref,
            VersionStage="AWSPENDING",
            RemoveFromVersionId=f"{self._number:0>36}",
        )

    def lose_a_key(self, age: timedelta) -> AccessKey:
        """Have a rotation die that made a key so long ago, and cancel it."""
        with self.iam.lose_reply("CreateAccessKey"), pytest.raises(Unreachable):
            self.rotate(("create",))
        self.cancel()
        store = secrets_manager.SecretsManager(self.manager)
        [intent] = store.intents(SecretRef(self.ref))
        then = replace(intent, since=intent.since - age, until=intent.until - age)
        store.declare(SecretRef(self.ref), then)
        lost = self.alive()[1]
        lost.created_at -= age
        return lost

    def alive(self) -> list[AccessKey]:
        return self.iam.alive("app")

    def tags(self) -> list[str]:
        tags = self.manager.describe_secret(SecretId=self.ref).get("Tags", [])
        return [tag["Key"] for tag in tags]


def _context() -> Any:
    return LambdaContext()


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Iterator[Room]:
    with ExitStack() as stack:
        room = Room(stack)
        endpoint = room.store.settings()["endpoint_url"]
        variables = {
            **room.iam.environment(),
            "AWS_ENDPOINT_URL_SECRETS_MANAGER": endpoint,
            "KEYTURN_SECRETS": "minted/*",
            "KEYTURN_IAM_USERS": USER,
        }
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
        monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
        monkeypatch.setattr(iam_access_key, "TRIES", 1)
        yield room


def test_four_events_mint_a_key_prove_it_and_serve_it(room: Room) -> None:
    answers = room.rotate()

    value = room.serves()
    [old, new] = room.alive()
    assert old is room.first
    assert [answer["outcome"] for answer in answers] == ["done"] * 4
    assert value["access_key_id"] == new.key_id
    assert Sensitive(value["secret_access_key"]) == new.secret
    smtp = iam_access_key.smtp_password(new.secret, "eu-west-1")
    assert Sensitive(value["smtp_password_eu-west-1"]) == smtp
    assert (value["note"], value["username"]) == ("kept", "app")
    assert list(value) == list(json.loads(room.document))
    assert room.tags() == []
    assert not any(value["secret_access_key"] in str(answer) for answer in answers)


def test_a_lost_reply_is_declared_and_waited_for(room: Room) -> None:
    """The tag says since when a key may be ours; the next rotation waits for its worker to die."""
    with room.iam.lose_reply("CreateAccessKey"), pytest.raises(Unreachable):
        room.rotate(("create",))
    assert [tag.startswith(secrets_manager.INTENT) for tag in room.tags()] == [True]
    orphan = room.alive()[1]
    room.cancel()

    with pytest.raises(Busy, match=orphan.key_id):
        room.rotate(("create",))

    assert len(room.alive()) == 2
    assert room.serves() == json.loads(room.document)


def test_where_one_worker_lives_at_a_time_minutes_are_enough(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deployment says so; by default others may live, for up to an hour."""
    lost = room.lose_a_key(LANDING + timedelta(minutes=1))
    with pytest.raises(Busy, match=lost.key_id):
        room.rotate(("create",))
    room.cancel()
    monkeypatch.setenv("KEYTURN_ONE_WORKER", "true")

    room.rotate()

    assert {key.key_id for key in room.alive()} == {
        room.first.key_id,
        room.serves()["access_key_id"],
    }
    assert room.tags() != []  # until nothing of that intent can appear any more


@pytest.mark.parametrize("value", ["1", "false", "TRUE", " "])
def test_one_worker_is_said_in_one_way(
    room: Room, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("KEYTURN_ONE_WORKER", value)

    with pytest.raises(Misconfigured) as caught:
        room.rotate(("create",))

    assert "`true`" in caught.value.remedy


def test_a_persons_key_is_named(room: Room) -> None:
    theirs = room.iam.make_key("app")

    with pytest.raises(Drifted, match=theirs.key_id):
        room.rotate(("create",))

    assert room.alive() == [room.first, theirs]


def test_a_user_that_the_deployment_does_not_name_is_denied(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYTURN_IAM_USERS", "")

    with pytest.raises(Denied, match="KEYTURN_IAM_USERS"):
        room.rotate(("create",))

    assert room.alive() == [room.first]


def test_a_strategy_for_passwords_is_refused(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYTURN_STRATEGY", "single-user")

    with pytest.raises(Unsupported) as caught:
        room.rotate(("create",))

    assert "strategy: auto" in caught.value.remedy


def test_to_explain_makes_no_key(room: Room) -> None:
    environment = {k: v for k, v in os.environ.items() if k.startswith("KEYTURN_")}

    found = wiring.explain(room.ref, plan_file=None, environment=environment)

    assert found.strategy is Strategy.AUTO
    assert found.refusals == {Strategy.AUTO: None}
    assert found.user == room.first.key_id
    assert room.alive() == [room.first]


def test_what_is_asked_of_iam_is_what_is_declared(room: Room) -> None:
    """Least privilege: every call has its permission, every permission its call."""
    room.rotate()
    issuer = iam_access_key.issuer(Surroundings(lambda: 60.0, key_holders=(USER,)))
    serves = room.serves()
    current = Credential(
        serves["access_key_id"], Sensitive(serves["secret_access_key"]), {"username": "app"}
    )
    issuer.last_used(current, room.first.key_id)
    issuer.deactivate(current, room.first.key_id)
    issuer.delete(current, room.first.key_id)

    asked = {f"iam:{call.action}" for call in room.iam.calls if call.action != "GetCallerIdentity"}

    assert asked == set(iam_access_key.PERMISSIONS)
