"""Every sample of events/google goes through the real function."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from google_functions import OWN_TOPIC, TOPIC, Deployed, Room, environment, lines
from keyturn.local.postgres import Postgres
from keyturn.local.secret_manager import LocalSecretManager

FOLDER = Path(__file__).parents[2] / "events" / "google"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
OF_ROTATE = {"rotate", "rotate-eventarc"}
OF_SECRET_MANAGER = {*OF_ROTATE, "version-added"}


@pytest.fixture
def site(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[tuple[Room, Path]]:
    with LocalSecretManager() as google:
        google.vault.quota = 1_000
        made = Room(google, postgres)
        plan = tmp_path / "keyturn.yaml"
        plan.write_text(
            f"version: 1\nsecrets:\n  {made.id}:\n"
            "    strategy: dual-password\n    retire: {when: verified}\n"
        )
        for name, value in environment(google).items():
            monkeypatch.setenv(name, value)
        yield made, plan


def sample(name: str, room: Room) -> dict[str, Any]:
    """Return it, about the room's secret, and of now."""
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    told: dict[str, Any] = _of_now(found, room.id)
    return told


def _of_now(tree: Any, secret: str) -> Any:
    if isinstance(tree, dict):
        return {key: _of_now(_told(key, value, secret), secret) for key, value in tree.items()}
    return tree.replace("orders-db", secret) if isinstance(tree, str) else tree


def _told(key: str, value: Any, secret: str) -> Any:
    if key == "data" and isinstance(value, str):
        return base64.b64encode(
            base64.b64decode(value).replace(b"orders-db", secret.encode())
        ).decode()
    if key in {"timestamp", "publishTime", "time"}:
        return datetime.now(UTC).isoformat()
    if key == "notBefore":
        return (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    return value


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_is_understood(
    site: tuple[Room, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    room, plan = site
    if name not in OF_ROTATE:
        monkeypatch.setenv("KEYTURN_PLAN", str(plan))
    function = Deployed("rotate" if name in OF_ROTATE else "follow_up")
    topic = TOPIC if name in OF_SECRET_MANAGER else OWN_TOPIC
    is_structured = name.endswith("-eventarc")
    headers = {"Content-Type": "application/cloudevents+json"} if is_structured else {}

    status = function.push(
        sample(name, room), topic="" if is_structured else topic, headers=headers
    )

    told = lines(capsys)
    assert status == 200
    assert told
    assert [each["reason"] for each in told if "reason" in each] == []
    assert room.versions == (2 if name in OF_ROTATE else 1)


def test_there_is_a_sample_of_every_kind_of_message() -> None:
    from keyturn.google import events

    kinds = set()
    for name in NAMES:
        found = json.loads((FOLDER / f"{name}.json").read_text())
        body = found.get("message") or found["data"]["message"]
        kinds.add(body["attributes"]["eventType"])

    assert kinds == {events.ROTATE, *events.FOLLOWED}
