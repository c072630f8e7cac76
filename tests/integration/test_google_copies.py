"""The follow-up on Google with all of docs/google-copies.md: the real function, strict APIs."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from google_functions import PARENT, REPLICATED, Deployed, Room, environment, lines, pushed
from keyturn.local.postgres import Postgres
from keyturn.local.secret_manager import LocalSecretManager
from keyturn.testing import google_rest, strict_cloud_kms, strict_cloud_run, strict_gcs
from keyturn.testing.google_rest import Asked
from keyturn.testing.strict_cloud_kms import StrictCloudKms
from keyturn.testing.strict_cloud_run import Service, StrictCloudRun
from keyturn.testing.strict_gcs import StrictGcs

KEY = "projects/shop-42/locations/europe-west1/keyRings/secrets/cryptoKeys/copies"
ELSEWHERE = "projects/987654321"


class Site:
    """A secret, and all that follows it on Google Cloud."""

    def __init__(self, google: LocalSecretManager, server: Postgres) -> None:
        self.room = Room(google, server)
        self.kms, self.gcs, self.run = StrictCloudKms(), StrictGcs(), StrictCloudRun()
        self.kms.add(KEY)
        self.gcs.buckets.add("copies")
        reference = {"secret": self.room.id, "version": "latest"}
        self.service: Service = self.run.make_service(
            "api",
            {
                "containers": [
                    {
                        "image": "api",
                        "env": [{"name": "DB", "valueSource": {"secretKeyRef": reference}}],
                    }
                ]
            },
        )
        self.room.client.create_secret(parent=ELSEWHERE, secret_id="copy", secret=REPLICATED)

    def answer(self, asked: Asked) -> dict[str, Any] | bytes:
        services: dict[str, Any] = {
            strict_cloud_kms.SERVICE: self.kms.answer,
            strict_gcs.SERVICE: self.gcs.answer,
            strict_cloud_run.SERVICE: self.run.answer,
        }
        answer: dict[str, Any] | bytes = services[asked.service](asked)
        return answer

    def plan(self) -> str:
        return f"""
version: 1
secrets:
  {self.room.id}:
    strategy: single-user
    deliver:
      - gcs: {{bucket: copies, object: db, kms_key: {KEY}}}
      - secret-manager: {{secret: {ELSEWHERE}/secrets/copy, form: value, member: password}}
    refresh:
      consumers:
        - cloud-run: {{service: api, location: {strict_cloud_run.LOCATION}}}
"""


@pytest.fixture
def site(postgres: Postgres, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Site]:
    with LocalSecretManager() as google:
        google.vault.quota = 1_000
        made = Site(google, postgres)
        plan = tmp_path / "keyturn.yaml"
        plan.write_text(made.plan())
        with google_rest.served(made.answer) as endpoint:
            more = {"KEYTURN_GOOGLE_ENDPOINT": endpoint, "KEYTURN_PLAN": str(plan)}
            for name, value in environment(google, **more).items():
                monkeypatch.setenv(name, value)
            yield made


@pytest.fixture
def time_passes() -> Iterator[Callable[[timedelta], None]]:
    """Let time pass, for all of this process."""
    import time_machine

    with time_machine.travel(datetime.now(UTC), tick=True) as traveller:
        yield traveller.shift


def test_a_rotation_reaches_every_copy_and_the_service(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both copies hold the new value, the service is pinned to its number; then it has followed."""
    room, follow_up = site.room, Deployed("follow_up")
    assert Deployed("rotate").push(room.tick()) == 200
    told = room.told[-1]

    for number in range(3):
        added = pushed(told.attributes, json.loads(told.data), f"300{number}")
        assert follow_up.push(added) == 200
        site.run.settle(site.service)

    value = room.google.read(f"{room.ref}/versions/2")
    password = json.loads(value)["password"]
    assert room.google.read(f"{ELSEWHERE}/secrets/copy/versions/latest") == password
    held = site.gcs.objects["copies", "db"]
    assert held.metadata["keyturn-secret"] == room.ref
    assert value.encode() not in held.body
    assert base64.b64encode(password.encode()) not in held.body
    assert site.service.runs() == {"2"}
    assert len(site.service.revisions) == 2
    logged = lines(capsys)
    assert not [each for each in logged if each.get("severity") in {"ERROR", "WARNING"}]
    assert "succeeded" in [each.get("happening") for each in logged]


def test_a_revision_that_never_gets_ready_is_told(
    site: Site,
    capsys: pytest.CaptureFixture[str],
    time_passes: Callable[[timedelta], None],
) -> None:
    """Half an hour later; the service goes on with what it ran with."""
    room, follow_up = site.room, Deployed("follow_up")
    Deployed("rotate").push(room.tick())
    told = room.told[-1]

    for number in range(2):
        added = pushed(told.attributes, json.loads(told.data), f"300{number}")
        assert follow_up.push(added) == 200
        site.run.fail(site.service)
        time_passes(timedelta(minutes=31))

    assert site.service.runs() == {"latest"}
    [alert] = [each for each in lines(capsys) if each.get("happening") == "stuck"]
    assert "has failed: HEALTH_CHECK_CONTAINER_ERROR" in alert["fact"]
    assert len(site.service.revisions) == 2


def test_a_secret_of_the_plan_may_be_named_in_full(
    site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A copy is bound to the full name either way: to name it otherwise moves nothing."""
    room, follow_up = site.room, Deployed("follow_up")
    Deployed("rotate").push(room.tick())
    told = room.told[-1]
    follow_up.push(pushed(told.attributes, json.loads(told.data), "3001"))
    before = site.gcs.objects["copies", "db"].generation
    other = tmp_path / "other.yaml"
    other.write_text(site.plan().replace(f"  {room.id}:", f"  {PARENT}/secrets/{room.id}:"))
    monkeypatch.setenv("KEYTURN_PLAN", str(other))
    capsys.readouterr()

    assert follow_up.push(pushed(told.attributes, json.loads(told.data), "3002")) == 200

    assert site.gcs.objects["copies", "db"].generation == before
    assert not [each for each in lines(capsys) if each.get("severity") == "ERROR"]
