"""From the tick to the death of the old credential, through Pub/Sub, doors and the framework.

On the simulator, and on Google's own emulator where the machine has it.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from databases import make_admin, make_login, unused_name
from google_functions import lines
from keyturn.local import google as local
from keyturn.local.front import token
from keyturn.local.google import ALERTS, DEAD, OWN, PARENT, SECRETS, LocalGoogle
from keyturn.local.postgres import Postgres
from keyturn.local.pubsub import PubSub
from keyturn.local.pubsub_emulator import Emulator, find
from keyturn.testing.google_rest import Asked

MONTH = timedelta(days=30)
HOUR = timedelta(hours=1)


class Site:
    """Two users who take turns, an app that follows, and a Google Cloud that rotates them."""

    def __init__(self, server: Postgres, folder: Path, pubsub: PubSub | Emulator) -> None:
        self.server = server
        self.first, self.second = unused_name("a"), unused_name("b")
        self.id = self.first.replace("_", "-")
        self.plan = folder / "keyturn.yaml"
        self.google = LocalGoogle(
            pubsub,
            self.plan,
            {"KEYTURN_ADMIN_SECRETS": "db-admin,signing"},
            {"app": self._app},
            attempts=5,
        )
        self.refused = 0

    def start(self) -> None:
        """Store the first values; the schedule begins."""
        admin = unused_name("admin")
        make_login(self.server, self.first, "Canary7-first-Password1")
        make_admin(self.server, admin, "Canary7-admin-Password3", self.first)
        endpoint = self._endpoint()
        self.plan.write_text(
            f"""
version: 1
secrets:
  {self.id}:
    strategy: alternating-users
    users: [{self.first}, {self.second}]
    admin: db-admin
    refresh: {{consumers: [webhook: {{url: "{endpoint}/app", signing_secret: signing}}]}}
    retire: {{when: verified, grace: 1h}}
"""
        )
        key = base64.b64encode(b"Canary7-signing-key-of-32-bytes!").decode()
        self.google.add_secret("signing", f"whsec_{key}")
        self.google.add_secret("db-admin", self._login(admin, "Canary7-admin-Password3"))
        login = self._login(self.first, "Canary7-first-Password1")
        self.ref = self.google.add_secret(self.id, login, MONTH)

    def _endpoint(self) -> str:
        return os.environ["KEYTURN_GOOGLE_ENDPOINT"]

    def _login(self, user: str, password: str) -> Mapping[str, Any]:
        return {
            "engine": "postgres",
            "host": self.server.host,
            "port": self.server.port,
            "dbname": "postgres",
            "username": user,
            "password": password,
            "ssl": False,
        }

    def _app(self, asked: Asked) -> Mapping[str, Any]:
        """Read `latest`, log in, and say so."""
        self.refused += not self.works("latest")
        version = asked.query.get("version", "")
        return {"version": version, "state": "followed", "waits_for": "", "told": version}

    def works(self, version: str) -> bool:
        """Log in with what a version of the secret says."""
        held = json.loads(self.google.secret_manager.read(f"{self.ref}/versions/{version}"))
        try:
            psycopg.connect(
                host=held["host"],
                port=held["port"],
                dbname=held["dbname"],
                user=held["username"],
                password=held["password"],
            ).close()
        except psycopg.OperationalError:
            return False
        return True

    @property
    def versions(self) -> int:
        """Count what was ever added to the secret."""
        return len(self.google.secret_manager.vault.look(self.ref).versions)

    def tick(self, **attributes: str) -> dict[str, str]:
        """Return what Secret Manager would say now."""
        return {
            "eventType": "SECRET_ROTATE",
            "secretId": self.ref,
            "dataFormat": "JSON_API_V1",
            "timestamp": datetime.now(UTC).isoformat(),
            **attributes,
        }

    @property
    def data(self) -> bytes:
        return json.dumps({"name": self.ref}).encode()


@pytest.fixture(params=["simulator", "emulator"])
def pubsub(request: pytest.FixtureRequest) -> Iterator[PubSub | Emulator]:
    if request.param == "simulator":
        yield PubSub()
        return
    jar = find()
    if jar is None:
        # No registry has it: it is skipped even where servers are required.
        pytest.skip("needs Google's Pub/Sub emulator: gcloud components install pubsub-emulator")
    with Emulator(jar) as running:
        yield running


@pytest.fixture
def site(postgres: Postgres, tmp_path: Path, pubsub: PubSub | Emulator) -> Iterator[Site]:
    made = Site(postgres, tmp_path, pubsub)
    with made.google:
        made.start()
        yield made


@pytest.fixture
def simulated(postgres: Postgres, tmp_path: Path) -> Iterator[Site]:
    made = Site(postgres, tmp_path, PubSub())
    with made.google:
        made.start()
        yield made


def test_from_the_tick_to_the_end_of_the_old_credential(site: Site) -> None:
    google = site.google
    google.skip(MONTH)
    google.wait_until(lambda: site.versions == 2)
    assert site.works("1")
    assert site.works("latest")

    told: list[str] = []

    def is_retired() -> bool:
        google.advance(timedelta(minutes=1))  # The emulator may have been late.
        told.extend(each["happening"] for each in google.heard(ALERTS))
        return "retired" in told

    google.advance(HOUR + timedelta(minutes=15))
    google.wait_until(is_retired)

    assert not site.works("1")
    assert site.works("latest")
    assert "succeeded" in told
    assert site.refused == 0
    assert google.heard(DEAD) == []
    assert site.versions == 2


def test_each_month_a_rotation(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    steps: list[str] = []

    def has_finished() -> bool:
        """Not before: time that passes meanwhile is the rotation's."""
        steps.extend(each["step"] for each in lines(capsys) if "step" in each)
        return "finish" in steps

    for _ in range(3):
        steps.clear()
        site.google.skip(MONTH)
        site.google.wait_until(has_finished)

    assert site.versions == 4
    assert site.works("latest")
    assert site.refused == 0


def test_messages_that_come_twice_and_in_any_order_rotate_once(simulated: Site) -> None:
    """Two deliveries of each, the last one first; and the same tick published twice."""
    google = simulated.google
    assert isinstance(google.pubsub, PubSub)
    google.pubsub.repeat, google.pubsub.shuffle = 2, True
    tick = simulated.tick()
    for _ in range(3):
        google.publish(SECRETS, tick, simulated.data)

    google.advance(HOUR)

    assert simulated.versions == 2
    assert simulated.works("latest")


def test_an_answer_that_is_lost_costs_a_delivery_and_no_rotation(simulated: Site) -> None:
    google = simulated.google
    assert isinstance(google.pubsub, PubSub)
    google.advance(timedelta(seconds=1))  # What was added before has been looked at.
    google.pubsub.lose_answers = 3
    google.publish(SECRETS, simulated.tick(), simulated.data)

    google.advance(HOUR)

    statuses = google.pubsub.subscriptions[f"{PARENT}/subscriptions/rotate"].statuses
    assert statuses[0] == 0
    assert statuses[-1] == 200
    assert google.pubsub.lose_answers == 0
    assert simulated.versions == 2


def test_while_the_store_is_away_it_comes_again_and_in_the_end_to_the_dead_letters(
    simulated: Site,
) -> None:
    google = simulated.google
    google.advance(timedelta(seconds=1))  # What was added before has been looked at.
    google.publish(SECRETS, simulated.tick(), simulated.data)

    with google.secret_manager.outage():
        google.advance(timedelta(minutes=9))

    assert simulated.ref in [each.get("name") for each in google.heard(DEAD)]
    assert simulated.versions == 1
    assert simulated.works("latest")


def test_replayed_messages_rotate_nothing(site: Site) -> None:
    """Whoever may publish, and has kept all that was ever published."""
    google = site.google
    kept = [site.tick(), site.tick()]
    google.publish(SECRETS, site.tick(), site.data)
    google.wait_until(lambda: site.versions == 2)
    for each in kept:
        google.publish(SECRETS, each, site.data)
    google.publish(SECRETS, site.tick(timestamp="2020-01-01T00:00:00Z"), site.data)
    other = dict.fromkeys(["secretId"], f"{PARENT}/secrets/db-admin")
    google.publish(SECRETS, site.tick(**other), site.data)

    # Whatever comes after them is heard after them, or beside them.
    google.publish(SECRETS, site.tick(), site.data)
    google.wait_until(lambda: site.versions == 3)
    google.advance(timedelta(minutes=1))

    assert site.versions == 3
    assert site.works("latest")


FORGED = {
    "without a token": ("", 401),
    "with a token of its own making": ("Bearer a.b.c", 401),
    "with another account's": ("thief", 403),
    "with one for another place": ("elsewhere", 401),
    "with one that has expired": ("expired", 401),
    "as if the door had let it in": ("through", 403),
}


@pytest.mark.parametrize("how,status", FORGED.values(), ids=FORGED)
def test_a_forged_push_is_refused(simulated: Site, how: str, status: int) -> None:
    import http.client
    from urllib.parse import urlsplit

    front = simulated.google.fronts["rotate"]
    here = f"{front.address}/{SECRETS}"
    made = {
        "thief": token("thief@example.iam.gserviceaccount.com", here),
        "elsewhere": token(local.PUSHER, "https://elsewhere.run.app"),
        "expired": token(local.PUSHER, here, lasts_s=-60),
    }
    authorization = f"Bearer {made[how]}" if how in made else how
    port = urlsplit(front.address).port
    if how == "through":  # Past the door, straight to the function.
        port, authorization = front.function_port, ""
    message = {
        "attributes": simulated.tick(),
        "data": base64.b64encode(simulated.data).decode(),
        "messageId": "1",
    }
    line = http.client.HTTPConnection("127.0.0.1", port or 0, timeout=10)
    headers = {"Content-Type": "application/json", "Authorization": authorization}
    body = json.dumps({"message": message, "subscription": "s"})

    line.request("POST", f"/{SECRETS}", body, headers)

    assert line.getresponse().status == status
    assert simulated.versions == 1
    line.close()


def test_somebody_asks_for_a_look(simulated: Site, capsys: pytest.CaptureFixture[str]) -> None:
    simulated.google.advance(timedelta(seconds=1))
    capsys.readouterr()
    look = json.dumps({"secret": simulated.id}).encode()
    simulated.google.publish(OWN, {"eventType": "KEYTURN_LOOK"}, look)

    simulated.google.advance(timedelta(seconds=1))

    [done] = [each for each in lines(capsys) if each["message"] == "step succeeded"]
    assert done["looked_at"] == "1"


def test_variables_of_whoever_runs_it_are_not_the_functions(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function that knows a variable of ours not refuses to run at all."""
    monkeypatch.setenv("KEYTURN_OF_A_STRANGER", "1")
    site = Site(postgres, tmp_path, PubSub())

    with site.google:
        site.start()
        site.google.publish(SECRETS, site.tick(), site.data)
        site.google.wait_until(lambda: site.versions == 2)

    assert os.environ["KEYTURN_OF_A_STRANGER"] == "1"
