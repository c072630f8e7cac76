"""The Lambda, in process, between a faithful AWS and a real PostgreSQL."""

from __future__ import annotations

import itertools
import json
import logging
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from aws.rotate import handler
from clouds import ROOT, LambdaContext, begin_rotation, event
from databases import credential, execute, make_admin, make_login, rows, unused_name
from keyturn.boundary import UnexpectedError
from keyturn.errors import (
    Busy,
    Denied,
    Drifted,
    KeyturnError,
    Misconfigured,
    NotYetAccepted,
    Unreachable,
    Unsupported,
)
from keyturn.local.aws import LocalAws
from keyturn.local.postgres import Postgres
from keyturn.testing.faults import Proxy

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

CANARY = "Canary7-handler"
STEPS = ("create", "set", "test", "finish")
_numbers = itertools.count(1)


class Room:
    """A secret for a login, and the function that rotates it."""

    def __init__(self, aws: LocalAws, server: Postgres, proxy: Proxy) -> None:
        self.aws, self.server, self.proxy = aws, server, proxy
        self.manager: SecretsManagerClient = boto3.client("secretsmanager", **aws.settings())
        self.user = unused_name("app")
        make_login(server, self.user, CANARY)
        self.value = credential(server, self.user, CANARY, port=proxy.port).document.reveal()
        self.ref = self.store(self.value)

    def store(self, value: str) -> str:
        name = f"handler/{os.getpid()}/{next(_numbers)}"
        return self.manager.create_secret(Name=name, SecretString=value)["ARN"]

    def changed(self, **members: object) -> str:
        return self.store(json.dumps({**json.loads(self.value), **members}))

    def serves(self, ref: str | None = None) -> dict[str, Any]:
        got = self.manager.get_secret_value(SecretId=ref or self.ref, VersionStage="AWSCURRENT")
        value: dict[str, Any] = json.loads(got["SecretString"])
        return value

    def token(self, ref: str | None = None) -> str:
        made = f"{next(_numbers):0>36}"
        begin_rotation(ref or self.ref, made)
        return made

    def rotate(
        self, ref: str | None = None, steps: tuple[str, ...] = STEPS
    ) -> list[dict[str, str]]:
        token = self.token(ref)
        return [handler(event(step, ref or self.ref, token), _context()) for step in steps]

    def labels(self, ref: str) -> Mapping[str, list[str]]:
        return self.manager.describe_secret(SecretId=ref)["VersionIdsToStages"]

    def calls(self) -> list[str]:
        """Name what the function asked of the cloud since the last `forget`."""
        return [call.action for call in self.aws.log.calls(caller="function")]


def _context(function_arn: str = LambdaContext.invoked_function_arn) -> Any:
    return LambdaContext(function_arn)


@pytest.fixture
def room(aws: LocalAws, postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> Iterator[Room]:
    with Proxy(postgres.port) as proxy:
        for name, value in aws.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "function")
        monkeypatch.setenv("KEYTURN_SECRETS", "handler/*")
        made = Room(aws, postgres, proxy)
        aws.log.clear()
        yield made


# ---------------------------------------------------------------------------- it rotates


def test_four_events_rotate_a_secret(room: Room) -> None:
    answers = room.rotate()

    value = room.serves()
    assert value["password"] != CANARY
    assert value["username"] == room.user
    assert [answer["outcome"] for answer in answers] == ["done"] * 4
    assert not any(value["password"] in str(answer) for answer in answers)
    assert set(answers[0]) == {"request_id", "secret", "rotation_id", "step", "outcome"}


def test_it_costs_ten_store_calls_three_connections_and_no_failed_login(room: Room) -> None:
    """The official template: 14, 3 and 1. DESIGN section 12."""
    before = room.server.log_text().count("password authentication failed")
    room.rotate()

    assert len(room.calls()) == 10, room.calls()
    assert room.proxy.connections == 3
    assert room.server.log_text().count("password authentication failed") == before


def test_both_spellings_of_a_step_are_understood(room: Room) -> None:
    token = room.token()
    for step in STEPS:
        answer = handler({**event(step, room.ref, token), "Step": f"{step}_secret"}, _context())
        assert answer["step"] == step

    assert room.serves()["password"] != CANARY


def test_masterarn_means_alternating_users(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """No plan: `app` and `app_clone` take turns, and what the old one read keeps working."""
    admin = unused_name("admin")
    make_admin(room.server, admin, CANARY, room.user)
    # As the service makes them for managed databases: no host of its own.
    admin_ref = room.store(json.dumps({"username": admin, "password": CANARY}))
    monkeypatch.setenv("KEYTURN_ADMIN_SECRETS", admin_ref)
    ref = room.changed(masterarn=admin_ref)

    seen = []
    for _ in range(3):
        room.rotate(ref)
        seen.append(room.serves(ref)["username"])

    clone = f"{room.user}_clone"
    assert seen == [clone, room.user, clone]


def test_a_plan_says_who_takes_turns(
    room: Room, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    owner, twin, admin = unused_name("owner"), unused_name("twin"), unused_name("admin")
    execute(room.server, "CREATE ROLE {} NOLOGIN", owner)
    execute(room.server, "GRANT {} TO {}", owner, room.user)
    make_admin(room.server, admin, CANARY, owner, room.user)
    admin_ref = room.store(
        credential(room.server, admin, CANARY)
        .document.reveal()
        .replace(str(room.server.port), str(room.proxy.port))
    )
    name = room.manager.describe_secret(SecretId=room.ref)["Name"]
    plan = tmp_path / "keyturn.yaml"
    plan.write_text(
        f"""
version: 1
secrets:
  {name}:
    strategy: alternating-users
    users: [{room.user}, {twin}]
    owner: {owner}
    admin: {admin_ref}
    password: {{length: 50, charset: uri}}
"""
    )
    monkeypatch.setenv("KEYTURN_PLAN", str(plan))
    monkeypatch.setenv("KEYTURN_ADMIN_SECRETS", admin_ref)

    room.rotate()

    assert room.serves()["username"] == twin
    assert len(room.serves()["password"]) == 50


def test_nothing_leaks_with_every_logger_at_debug(
    room: Room, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in list(logging.root.manager.loggerDict):
        caplog.set_level(logging.DEBUG, logger=name)
    caplog.set_level(logging.DEBUG)

    room.rotate()
    with pytest.raises(KeyturnError), room.proxy.outage():
        room.rotate()

    shown = caplog.text + "".join(capsys.readouterr())
    assert "step succeeded" in shown
    assert "step failed" in shown
    assert CANARY not in shown
    assert room.serves()["password"] not in shown


def test_a_step_reports_one_line_and_one_metric(
    room: Room, capsys: pytest.CaptureFixture[str]
) -> None:
    room.rotate(steps=("create",))

    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    log, metric = lines
    assert (log["message"], log["step"], log["outcome"]) == ("step succeeded", "create", "done")
    assert log["elapsed_ms"] >= 0
    assert metric["Step"] == "create"
    assert metric["StepSucceeded"] == [1.0]


# ---------------------------------------------------------------------------- it refuses


REF = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:handler/none-a1B2c3"
GOOD = event("create", REF, "0" * 36)
BAD_EVENTS: dict[str, tuple[Any, str]] = {
    "empty": ({}, "no Step"),
    "null": (None, "null"),
    "list": ([], "a list"),
    "text": ("x", "a string"),
    "no step": ({**GOOD, "Step": None}, "null as Step"),
    "unknown step": ({**GOOD, "Step": "dropSecret"}, "unknown Step"),
    "step is a list": ({**GOOD, "Step": ["createSecret"]}, "a list as Step"),
    "no secret": ({"Step": "createSecret"}, "no SecretId"),
    "secret is a number": ({**GOOD, "SecretId": 5}, "a number as SecretId"),
    "secret is a list": ({**GOOD, "SecretId": [REF]}, "a list as SecretId"),
    "secret is a name": ({**GOOD, "SecretId": "handler/none"}, "full ARN"),
    "secret is a partial ARN": ({**GOOD, "SecretId": REF[:-7]}, "full ARN"),
    "no token": ({k: GOOD[k] for k in ("Step", "SecretId")}, "no ClientRequestToken"),
    "token is a list": ({**GOOD, "ClientRequestToken": ["x"]}, "a list as ClientRequestToken"),
    "short token": ({**GOOD, "ClientRequestToken": "x"}, "32 to 64"),
    "long token": ({**GOOD, "ClientRequestToken": "x" * 65}, "32 to 64"),
    "odd token": ({**GOOD, "ClientRequestToken": "x" * 31 + "\n"}, "32 to 64"),
    "rotation token": ({**GOOD, "RotationToken": 5}, "RotationToken"),
}


@pytest.mark.parametrize("name", BAD_EVENTS)
def test_a_bad_event_is_refused_before_any_call(room: Room, name: str) -> None:
    bad, message = BAD_EVENTS[name]

    with pytest.raises(Misconfigured, match=message) as caught:
        handler(bad, _context())

    assert caught.value.remedy
    assert room.calls() == []


BAD_MEMBERS: dict[str, tuple[dict[str, object], str]] = {
    "port is text": ({"port": "abc"}, "port"),
    "port is zero": ({"port": 0}, "port"),
    "port is huge": ({"port": 10**30}, "port"),
    "user is a list": ({"username": ["app"]}, "username"),
    "user has a NUL": ({"username": "app\0x"}, "username"),
    "user has a newline": ({"username": "app\nx"}, "username"),
    "user is too long": ({"username": "x" * 64}, "username"),
    "user turns direction": ({"username": "app\u202e"}, "username"),
    "user has a blank": ({"username": "app "}, "username"),
    "user is empty": ({"username": ""}, "username"),
    "password is a number": ({"password": 5}, "password"),
    "password has a NUL": ({"password": CANARY + "\0rest"}, "password"),
    "password is empty": ({"password": ""}, "password"),
    "host is missing": ({"host": None}, "host"),
    "host is two hosts": ({"host": "a,b"}, "host"),
    "dbname is a list": ({"dbname": ["x"]}, "dbname"),
    "ssl is odd": ({"ssl": "yes"}, "ssl"),
    "plain text elsewhere": ({"ssl": False, "host": "db.example.com"}, "plain text"),
    "no engine": ({"engine": None}, "engine"),
    "engine is a number": ({"engine": 5}, "engine"),
    "unknown engine": ({"engine": "oracle"}, "oracle"),
    "masterarn is a number": ({"masterarn": 5}, "masterarn"),
    "masterarn not allowed": ({"masterarn": REF}, "KEYTURN_ADMIN_SECRETS"),
}


@pytest.mark.parametrize("name", BAD_MEMBERS)
def test_a_bad_value_is_refused_before_the_first_write(room: Room, name: str) -> None:
    members, message = BAD_MEMBERS[name]
    ref = room.changed(**members)
    token = room.token(ref)
    before = room.labels(ref)

    with pytest.raises(KeyturnError, match=message) as caught:
        handler(event("create", ref, token), _context())

    assert isinstance(caught.value, Misconfigured | Unsupported | Denied)
    assert caught.value.remedy
    assert CANARY not in f"{caught.value} {caught.value.remedy}"
    assert "PutSecretValue" not in room.calls()
    assert room.labels(ref) == before
    assert room.proxy.connections == 0


@pytest.mark.parametrize(
    "text", ["null", "5", '"x"', "[]", "{", "{}", '{"a": 1, "a": 2}', "[" * 10_000, "\ufeff{}"]
)
def test_a_value_that_is_no_document_is_refused_before_the_first_write(
    room: Room, text: str
) -> None:
    ref = room.store(text)
    token = room.token(ref)

    with pytest.raises(Misconfigured, match="the value"):
        handler(event("create", ref, token), _context())

    assert "PutSecretValue" not in room.calls()


def test_unknown_members_survive_to_the_byte(room: Room) -> None:
    extra = ', "z": [1, 2.50, 1e5], "big": 90071992547409930000, "é": "\\u00e9", "a": {"b": null}}'
    text = room.value[:-1] + extra
    ref = room.store(text)

    room.rotate(ref)

    got = room.manager.get_secret_value(SecretId=ref, VersionStage="AWSCURRENT")["SecretString"]
    assert got.replace(json.loads(got)["password"], CANARY) == text


def test_a_database_that_is_down_leaves_everything_as_it_was(room: Room) -> None:
    token = room.token()
    handler(event("create", room.ref, token), _context())

    with room.proxy.outage(), pytest.raises(Unreachable):
        handler(event("set", room.ref, token), _context())

    assert room.serves()["password"] == CANARY
    room.rotate()
    assert room.serves()["password"] != CANARY


def test_finish_does_not_promote_what_was_not_set(room: Room) -> None:
    token = room.token()
    handler(event("create", room.ref, token), _context())
    before = room.labels(room.ref)

    with pytest.raises(NotYetAccepted):
        handler(event("finish", room.ref, token), _context())

    assert room.labels(room.ref) == before


def test_the_previous_event_of_a_finished_rotation_changes_nothing(room: Room) -> None:
    old = room.token()
    for step in STEPS:
        handler(event(step, room.ref, old), _context())
    room.rotate()
    room.rotate()
    before = room.labels(room.ref)

    for step in STEPS:
        with pytest.raises(Busy):
            handler(event(step, room.ref, old), _context())

    assert room.labels(room.ref) == before


# ---------------------------------------------------------------------------- whose deputy


def test_a_secret_of_another_function_is_refused_after_one_question(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may invoke the function may not thereby rotate any secret."""
    monkeypatch.setenv("KEYTURN_SECRETS", "other/*, another")
    token = room.token()
    for step in STEPS:
        with pytest.raises(Denied, match="not rotated by this function"):
            handler(event(step, room.ref, token), _context())

    assert set(room.calls()) == {"DescribeSecret"}


@pytest.mark.parametrize("suffix", ["", ":live", ":7"])
def test_a_secret_that_names_the_function_is_rotated_without_a_list(
    room: Room, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    from moto.core.models import DEFAULT_ACCOUNT_ID
    from moto.secretsmanager.models import secretsmanager_backends

    monkeypatch.delenv("KEYTURN_SECRETS")
    secret = secretsmanager_backends[DEFAULT_ACCOUNT_ID]["eu-west-1"].secrets[room.ref]
    secret.rotation_lambda_arn = LambdaContext.invoked_function_arn
    secret.rotation_requested = True
    token = room.token()

    arn = LambdaContext.invoked_function_arn + suffix
    answer = handler(event("create", room.ref, token), _context(arn))

    assert answer["outcome"] == "done"


def test_an_admin_for_another_host_is_refused(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever can edit the application's secret must not send the admin's password elsewhere."""
    admin = unused_name("admin")
    make_admin(room.server, admin, CANARY, room.user)
    admin_ref = room.store(credential(room.server, admin, CANARY).document.reveal())
    monkeypatch.setenv("KEYTURN_ADMIN_SECRETS", admin_ref)
    ref = room.changed(masterarn=admin_ref, port=room.proxy.port)
    token = room.token(ref)

    with pytest.raises(Drifted, match="its admin secret for"):
        handler(event("create", ref, token), _context())

    assert room.proxy.connections == 0


def test_a_misspelt_variable_is_named(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYTURN_SECRET", "x")

    with pytest.raises(Misconfigured, match="KEYTURN_SECRET"):
        room.rotate()


def test_a_strategy_that_does_not_exist_is_named(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYTURN_STRATEGY", "double")

    with pytest.raises(Misconfigured, match="KEYTURN_STRATEGY is no strategy"):
        room.rotate()


@pytest.mark.parametrize(
    "strategy, why",
    [("dual-password", "one password per user"), ("alternating-users", "no two users are named")],
)
def test_a_strategy_that_the_target_does_not_offer_is_refused_with_nothing_staged(
    room: Room, monkeypatch: pytest.MonkeyPatch, strategy: str, why: str
) -> None:
    monkeypatch.setenv("KEYTURN_STRATEGY", strategy)
    token = room.token()

    with pytest.raises(Unsupported, match=why):
        handler(event("create", room.ref, token), _context())

    assert "PutSecretValue" not in room.calls()


def test_auto_rotates_with_what_there_is(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYTURN_STRATEGY", "auto")

    assert [answer["outcome"] for answer in room.rotate()] == ["done"] * 4


def test_an_unforeseen_error_keeps_its_text_to_itself(
    room: Room, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken(LambdaContext):
        def get_remaining_time_in_millis(self) -> int:
            raise RuntimeError(CANARY)

    token = room.token()
    handler(event("create", room.ref, token), _context())
    with pytest.raises(UnexpectedError, match="RuntimeError at") as caught:
        handler(event("set", room.ref, token), Broken())  # type: ignore[arg-type]

    assert CANARY not in str(caught.value)
    assert caught.value.__context__ is None
    assert CANARY not in "".join(capsys.readouterr())


# ---------------------------------------------------------------------------- the samples


@pytest.mark.parametrize("step", STEPS)
def test_the_samples_in_events_are_what_the_function_reads(step: str) -> None:
    from keyturn.boundary import rotation_event

    sample = json.loads((ROOT / "events" / "secrets-manager" / f"{step}.json").read_text())

    read = rotation_event(sample)

    assert read.step.value == step
    assert read.ref == sample["SecretId"]


def test_the_database_keeps_its_roles(room: Room) -> None:
    """P2: a rotation makes and changes nothing but the login it is for."""
    query = "SELECT rolname, rolpassword FROM pg_authid WHERE rolname <> %s ORDER BY 1"
    before = rows(room.server, query, room.user)

    room.rotate()

    assert rows(room.server, query, room.user) == before
