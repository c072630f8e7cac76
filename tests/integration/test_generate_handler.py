"""The Lambda that generates, in process, against a faithful AWS: what it stores and says."""

from __future__ import annotations

import itertools
import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from aws.generate import handler
from clouds import ROOT, LambdaContext, begin_rotation
from keyturn.boundary import UnexpectedError
from keyturn.errors import Denied, KeyturnError, Misconfigured
from keyturn.generators import kinds
from keyturn.generators.fingerprint import fingerprint
from keyturn.generators.policy import NOTHING
from keyturn.local.aws import LocalAws
from keyturn.model import Sensitive
from keyturn.shapes import Place

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

CANARY = "Canary7-generate"
MAILER = "arn:aws:iam::123456789012:user/mailer"
SAMPLES = sorted((ROOT / "events" / "generate").glob("*.json"))
_numbers = itertools.count(1)


class Room:
    """The function, and the store that it writes to."""

    def __init__(self, aws: LocalAws) -> None:
        self.aws = aws
        self.manager: SecretsManagerClient = boto3.client("secretsmanager", **aws.settings())

    def name(self) -> str:
        return f"generate/{os.getpid()}/{next(_numbers)}"

    def ask(self, kind: str, name: str, **more: Any) -> dict[str, str]:
        context: Any = LambdaContext(aws_request_id=f"request-{next(_numbers)}")
        return handler({"generate": kind, "secret": name, **more}, context)

    def value(self, name: str) -> str:
        got = self.manager.get_secret_value(SecretId=name, VersionStage="AWSCURRENT")
        return got["SecretString"]

    def labels(self, name: str) -> dict[str, list[str]]:
        return dict(self.manager.describe_secret(SecretId=name)["VersionIdsToStages"])

    def writes(self) -> list[str]:
        calls = self.aws.log.calls(caller="function")
        return [each.action for each in calls if each.action in {"CreateSecret", "PutSecretValue"}]


@pytest.fixture
def room(aws: LocalAws, monkeypatch: pytest.MonkeyPatch) -> Room:
    for name, value in aws.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "function")
    monkeypatch.setenv("KEYTURN_SECRETS", "generate/*")
    aws.log.clear()
    return Room(aws)


def refusal(room: Room, kind: str, name: str, **more: Any) -> KeyturnError:
    with pytest.raises(KeyturnError) as caught:
        room.ask(kind, name, **more)
    assert caught.value.__context__ is None
    return caught.value


# ---------------------------------------------------------------------------- it makes and stores


def test_a_secret_is_made_and_its_value_is_not_told(room: Room) -> None:
    name = room.name()

    answer = room.ask("hmac", name)

    value = room.value(name)
    told = [part for part in json.loads(value).values() if part in json.dumps(answer)]
    assert not told
    assert answer["secret"] == name
    assert room.labels(name) == {answer["version_id"]: ["AWSCURRENT"]}
    assert answer["entropy_bits"] == "256.0"
    assert answer["fingerprint"] == fingerprint(name, Sensitive(value))
    assert set(answer) == {
        *("request_id", "step", "secret", "kind", "version_id"),
        *("entropy_bits", "fingerprint", "outcome"),
    }


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_every_sample_event_works(
    room: Room, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = json.loads(sample.read_text())
    if event["generate"] == "htpasswd":
        pytest.importorskip("bcrypt", reason="needs bcrypt: pip install keyturn[generate]")
    monkeypatch.setenv("KEYTURN_SECRETS", "prod/generated/*")
    monkeypatch.setenv("KEYTURN_IAM_USERS", MAILER)
    context: Any = LambdaContext()

    answer = handler(event, context)

    assert answer["outcome"] in {"done", "already_done"}
    if event["generate"] in kinds.KINDS:
        asked = {"kind": event["generate"], **event.get("policy", {})}
        policy = kinds.read(asked, Place("the sample"))
        assert policy.is_whole(Sensitive(room.value(event["secret"])))


# ---------------------------------------------------------------------------- before a first key


@pytest.fixture
def mailer(room: Room, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("KEYTURN_IAM_USERS", MAILER)
    return room.name()


def test_a_secret_is_prepared_for_the_key_of_a_user_and_no_key_is_made(
    room: Room, mailer: str
) -> None:
    room.manager.create_secret(Name=mailer)

    fields = {"username": "mailer", "smtp_password_eu-west-1": "none"}
    answer = room.ask("iam-access-key", mailer, policy=fields)

    assert json.loads(room.value(mailer)) == {
        "engine": "iam-access-key",
        **fields,
        "access_key_id": "none",
        "secret_access_key": "none",
    }
    assert answer["entropy_bits"] == "0.0"
    assert {call.service for call in room.aws.log.calls(caller="function")} == {"secretsmanager"}


@pytest.mark.parametrize(
    "more,kind",
    [
        ({"policy": {"username": "somebody-else"}}, Denied),
        ({"policy": {}}, Misconfigured),
        ({"policy": {"username": "mailer", "access_key_id": "AKIA0"}}, Misconfigured),
        ({"policy": {"username": "mailer", "engine": "postgres"}}, Misconfigured),
        ({"policy": {"username": "mailer"}, "overwrite": True}, Misconfigured),
    ],
)
def test_what_would_not_rotate_or_lose_a_key_is_refused_before_anything_is_written(
    room: Room, mailer: str, more: dict[str, Any], kind: type[KeyturnError]
) -> None:
    assert type(refusal(room, "iam-access-key", mailer, **more)) is kind

    assert room.writes() == []


def test_a_value_may_be_no_json(room: Room) -> None:
    name = room.name()

    room.ask("passphrase", name, policy={"words": 8})

    words = room.value(name).split(".")
    assert len(words) == 8


def test_a_secret_without_a_value_gets_its_first(room: Room) -> None:
    """As Terraform makes it, which is not to see the value."""
    name = room.name()
    room.manager.create_secret(Name=name)

    room.ask("hex", name)

    assert len(room.value(name)) == 64


# ---------------------------------------------------------------------------- once


def test_the_same_request_returns_the_same_version(room: Room) -> None:
    name = room.name()

    first = room.ask("jwks", name, request_id="one")
    again = room.ask("jwks", name, request_id="one")

    assert (first["outcome"], again["outcome"]) == ("done", "already_done")
    for key in ("version_id", "fingerprint", "entropy_bits"):
        assert first[key] == again[key]
    assert room.writes() == ["CreateSecret"]


def test_the_same_request_is_known_after_others(room: Room) -> None:
    """Its version is in no slot any more; it must not become current again."""
    name = room.name()
    answers = [
        room.ask("hex", name, request_id=each, overwrite=True) for each in ("a", "b", "c", "a")
    ]

    assert answers[3]["version_id"] == answers[0]["version_id"]
    assert answers[3]["outcome"] == "already_done"
    assert room.labels(name)[answers[2]["version_id"]] == ["AWSCURRENT"]


def test_a_retry_by_the_platform_is_the_same_request(room: Room) -> None:
    """An asynchronous call that failed late is repeated under the same id."""
    context: Any = LambdaContext(aws_request_id="11111111-0000-4000-8000-000000000000")
    event = {"generate": "uuid", "secret": room.name()}

    assert handler(event, context)["outcome"] == "done"
    assert handler(event, context)["outcome"] == "already_done"


# ---------------------------------------------------------------------------- it does no damage


def test_a_value_is_not_overwritten_unless_told(room: Room) -> None:
    name = room.name()
    room.manager.create_secret(Name=name, SecretString=CANARY)

    error = refusal(room, "hex", name)

    assert isinstance(error, Misconfigured)
    assert str(error) == f"{name} has a value already"
    assert "overwrite" in error.remedy
    assert room.writes() == []
    assert room.value(name) == CANARY


def test_what_is_overwritten_leaves_what_verifiers_need_and_other_members(room: Room) -> None:
    name = room.name()
    room.manager.create_secret(
        Name=name, SecretString=json.dumps({"current": CANARY + "x" * 40, "url": "a"})
    )

    room.ask("hmac", name, overwrite=True)

    tree = json.loads(room.value(name))
    kept = tree["previous"] == CANARY + "x" * 40
    assert kept
    assert tree["url"] == "a"


def test_a_rotation_in_flight_is_not_disturbed(room: Room) -> None:
    """A foreign version would abandon it."""
    name = room.name()
    arn = room.manager.create_secret(Name=name, SecretString=CANARY)["ARN"]
    begin_rotation(arn, f"{next(_numbers):0>36}")

    error = refusal(room, "hex", name, overwrite=True)

    assert "rotat" in str(error)
    assert "keyturn rotate" in error.remedy
    assert room.writes() == []


@pytest.mark.parametrize("name", ["other/secret", "generate", "xgenerate/a"])
def test_a_name_outside_the_patterns_is_denied(room: Room, name: str) -> None:
    assert isinstance(refusal(room, "hex", name), Denied)
    assert room.writes() == []


def test_without_patterns_everything_is_denied(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KEYTURN_SECRETS")

    assert isinstance(refusal(room, "hex", room.name()), Denied)


def test_a_secret_that_is_being_deleted_is_left_alone(room: Room) -> None:
    name = room.name()
    room.manager.create_secret(Name=name, SecretString=CANARY)
    room.manager.delete_secret(SecretId=name, RecoveryWindowInDays=7)

    assert "being deleted" in str(refusal(room, "hex", name, overwrite=True))


BAD_EVENTS: list[tuple[object, str]] = [
    (None, "the event is null, not an object"),
    ([], "the event is a list, not an object"),
    ({}, "the event has no secret"),
    ({"secret": 1}, "the event has a number as secret, not a string"),
    ({"secret": ""}, "the event has a secret that is not a name of one"),
    (
        {"secret": "arn:aws:secretsmanager:eu-west-1:1:secret:a"},
        "the event has a secret that is not a name of one",
    ),
    ({"secret": "generate/a"}, "the event has no generate"),
    ({"secret": "generate/a", "generate": None}, "the event has null as generate, not a string"),
    (
        {"secret": "generate/a", "generate": "hex", "Policy": {}},
        "the event has the unknown key 'Policy'",
    ),
    (
        {"secret": "generate/a", "generate": "hex", "policy": []},
        "the event has a list as policy, not an object",
    ),
    (
        {"secret": "generate/a", "generate": "hex", "policy": {"kind": "uuid"}},
        "the event has a kind in its policy; the kind is under generate",
    ),
    (
        {"secret": "generate/a", "generate": "hex", "overwrite": "yes"},
        "the event has a string as overwrite, not a boolean",
    ),
    (
        {"secret": "generate/a", "generate": "hex", "request_id": "a\nb"},
        "the event has a request_id that is not 1 to 200 printable characters",
    ),
    ({"secret": "generate/a", "generate": "hexx"}, "the policy: kind: is no kind of value"),
    (
        {"secret": "generate/a", "generate": "hex", "policy": {"bytes": 4}},
        "the policy: 32 bits of entropy, fewer than 80",
    ),
    (
        {"secret": "generate/a", "generate": "hex", "policy": {"bytes": CANARY}},
        "the policy: bytes: is text, not a whole number",
    ),
]


@pytest.mark.parametrize("event,said", BAD_EVENTS, ids=lambda value: str(value)[:50])
def test_a_bad_event_is_refused_before_anything_is_written(
    room: Room, event: object, said: str
) -> None:
    context: Any = LambdaContext()

    with pytest.raises(Misconfigured) as caught:
        handler(event, context)

    assert str(caught.value) == said
    assert caught.value.remedy.endswith(".")
    assert room.writes() == []


# ---------------------------------------------------------------------------- nothing gets out


@pytest.mark.parametrize("kind", ["password", "hmac", "jwks", "key-pair", "totp"])
def test_no_value_is_logged_at_debug(
    room: Room,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("POWERTOOLS_LOG_LEVEL", "DEBUG")
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="keyturn")
    name = room.name()
    policy = {"issuer": "a", "account": "b"} if kind == "totp" else {}

    answer = room.ask(kind, name, policy=policy)

    shown = caplog.text + "".join(capsys.readouterr()) + str(answer)
    assert "step succeeded" in shown
    leaked = [text for text in texts_of(room.value(name)) if text in shown]
    assert not leaked


def texts_of(value: str) -> list[str]:
    """Return every long text in a document: each of them may be a secret."""
    if not value.startswith("{"):
        return [value]
    found: list[str] = []

    def search(tree: object) -> None:
        if isinstance(tree, dict):
            for each in tree.values():
                search(each)
        elif isinstance(tree, str) and len(tree) > 20:
            found.append(tree)

    search({key: each for key, each in json.loads(value).items() if key != "jwks"})
    return found


def test_a_bug_tells_its_place_and_not_its_text(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secrets.token_hex", lambda _: 1 / 0)

    error = refusal(room, "hex", room.name())

    assert isinstance(error, UnexpectedError)
    assert str(error).startswith("unexpected ZeroDivisionError at ")


def test_the_first_value_follows_nothing() -> None:
    """What `on_demand` starts from is what the kinds take for nothing."""
    from keyturn import on_demand

    assert on_demand.NOTHING == NOTHING
