"""What goes through the handler and must come out nowhere: tokens, passwords, files."""

from __future__ import annotations

import itertools
import json
import logging
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

from aws.rotate import handler
from clouds import LambdaContext, begin_rotation, event
from databases import credential, make_login, unused_name
from keyturn.local.aws import LocalAws
from keyturn.local.postgres import Postgres

STEPS = ("create", "set", "test", "finish")
TOKEN = "Canary7-token".ljust(40, "-")
FIRST = "Canary7-leaks"
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Room:
    """One secret, and what the SDK has sent while it was rotated."""

    ref: str
    sent: list[tuple[str, dict[str, Any]]]

    def rotate(self, **more: str) -> list[dict[str, str]]:
        token = f"leaks-{next(_numbers):0>30}"
        begin_rotation(self.ref, token)
        context: Any = LambdaContext()
        return [handler({**event(step, self.ref, token), **more}, context) for step in STEPS]

    def made(self) -> str:
        """Return the password that was generated."""
        put = next(body for action, body in self.sent if action == "PutSecretValue")
        return str(json.loads(put["SecretString"])["password"])


@pytest.fixture
def room(aws: LocalAws, postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> Room:
    for name, value in aws.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("KEYTURN_SECRETS", "leaks/*")
    user = unused_name("app")
    make_login(postgres, user, FIRST)
    session = boto3.Session()
    made = session.client("secretsmanager", **aws.settings()).create_secret(
        Name=f"leaks/{os.getpid()}/{next(_numbers)}",
        SecretString=credential(postgres, user, FIRST).document.reveal(),
    )
    room = Room(made["ARN"], [])

    def remember(params: Any, model: Any, **_: object) -> None:
        room.sent.append((model.name, json.loads(params["body"])))

    session.events.register("before-call.secrets-manager", remember)
    # The function makes its clients from the default session; a fresh one, with an ear.
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", session)
    return room


@pytest.fixture
def _at_debug(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Our own logger too, as an operator sets it who is looking for a fault."""
    monkeypatch.setenv("POWERTOOLS_LOG_LEVEL", "DEBUG")
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="keyturn")


@pytest.mark.usefixtures("_at_debug")
def test_the_rotation_token_reaches_the_call_that_takes_it_and_nothing_else(
    room: Room, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Across accounts PutSecretValue is refused without it; whoever has it can write."""
    answers = room.rotate(RotationToken=TOKEN)

    taken = [action for action, body in room.sent if body.get("RotationToken") == TOKEN]
    assert taken == ["PutSecretValue"]
    shown = caplog.text + "".join(capsys.readouterr()) + str(answers)
    assert "step succeeded" in shown
    assert TOKEN not in shown


@pytest.mark.usefixtures("_at_debug")
def test_no_password_is_logged_with_our_own_logger_at_debug(
    room: Room, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = room.rotate()

    shown = caplog.text + "".join(capsys.readouterr()) + str(answers)
    assert "step succeeded" in shown
    assert FIRST not in shown
    made_is_shown = room.made() in shown
    assert not made_is_shown


def test_a_rotation_leaves_no_file(
    room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A warm function keeps its folder for temporary files from one call to the next."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    room.rotate()

    assert list(tmp_path.iterdir()) == []
