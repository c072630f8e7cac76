"""The follow-up on Google: real framework, real Secret Manager protocol, real database."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from databases import make_admin, unused_name
from google_functions import (
    OWN_TOPIC,
    PARENT,
    REPLICATED,
    Deployed,
    Room,
    bearer,
    environment,
    lines,
    pushed,
)
from keyturn.local.postgres import Postgres
from keyturn.local.secret_manager import LocalSecretManager
from keyturn.testing import google_rest
from keyturn.testing.google_rest import Asked


class Site:
    """A secret of two users who take turns, its plan, and the topics that keyturn writes to."""

    def __init__(
        self, google: LocalSecretManager, server: Postgres, plan_file: Path, told: list[Asked]
    ) -> None:
        self.room = room = Room(google, server)
        self.told = told
        self.plan_file = plan_file
        self.second = unused_name("twin")
        self.admin = unused_name("admin")
        make_admin(server, self.admin, "Canary7-admin-Password3", room.login)
        admin = {"engine": "postgres", "host": server.host, "port": server.port, "ssl": False}
        login = {
            "username": self.admin,
            "password": "Canary7-admin-Password3",
            "dbname": "postgres",
        }
        room.client.create_secret(parent=PARENT, secret_id="db-admin", secret=REPLICATED)
        room.client.add_secret_version(
            parent=f"{PARENT}/secrets/db-admin",
            payload={"data": json.dumps({**admin, **login}).encode()},
        )
        key = "whsec_" + base64.b64encode(b"Canary7-signing-key-of-32-bytes!").decode()
        room.client.create_secret(parent=PARENT, secret_id="signing", secret=REPLICATED)
        room.client.add_secret_version(
            parent=f"{PARENT}/secrets/signing", payload={"data": key.encode()}
        )

    def plan(self, endpoint: str) -> None:
        """Write the plan: an app that is told, and then says that it runs with the new value."""
        self.plan_file.write_text(
            f"""
version: 1
secrets:
  {self.room.id}:
    strategy: alternating-users
    users: [{self.room.login}, {self.second}]
    admin: db-admin
    refresh:
      consumers:
        - webhook: {{url: "{endpoint}/app", signing_secret: signing}}
    retire: {{when: verified, grace: 1m, deadline: 1d}}
"""
        )

    def messages(self, topic: str = OWN_TOPIC) -> list[dict[str, Any]]:
        """Return what was published to a topic, as it is pushed."""
        return [
            message
            for asked in self.told
            if asked.path == f"/v1/{topic}:publish"
            for message in asked.members["messages"]
        ]

    def can_log_in(self, login: str, version: str) -> bool:
        held = json.loads(self.room.google.read(f"{self.room.ref}/versions/{version}"))
        try:
            psycopg.connect(
                host=held["host"],
                port=held["port"],
                dbname=held["dbname"],
                user=login,
                password=held["password"],
            ).close()
        except psycopg.OperationalError:
            return False
        return True


@pytest.fixture
def google() -> Iterator[LocalSecretManager]:
    with LocalSecretManager() as running:
        running.vault.quota = 1_000
        yield running


@pytest.fixture
def site(
    google: LocalSecretManager,
    postgres: Postgres,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[Site]:
    told: list[Asked] = []

    def answer(asked: Asked) -> dict[str, Any]:
        if asked.service == "app":
            version = asked.query.get("version", "")
            return {"version": version, "state": "followed", "waits_for": "", "told": version}
        told.append(asked)
        return {"messageIds": ["1"]}

    with google_rest.served(answer) as endpoint:
        plan = tmp_path / "keyturn.yaml"
        more = {"KEYTURN_GOOGLE_ENDPOINT": endpoint, "KEYTURN_PLAN": str(plan)}
        more["KEYTURN_ADMIN_SECRETS"] = "db-admin,signing"
        for name, value in environment(google, **more).items():
            monkeypatch.setenv(name, value)
        made = Site(google, postgres, plan, told)
        made.plan(endpoint)
        yield made


@pytest.fixture
def rotate() -> Deployed:
    return Deployed("rotate")


@pytest.fixture
def follow_up() -> Deployed:
    return Deployed("follow_up")


def version_added(site: Site) -> dict[str, Any]:
    told = site.room.told[-1]
    return pushed(told.attributes, json.loads(told.data), "3001")


def own(kind: str, data: dict[str, Any] | None = None, **attributes: str) -> dict[str, Any]:
    return pushed({"eventType": kind, **attributes}, data, "4001")


def test_a_version_that_is_added_is_looked_at(
    site: Site, rotate: Deployed, follow_up: Deployed, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rotate.push(site.room.tick()) == 200
    capsys.readouterr()

    assert follow_up.push(version_added(site)) == 200

    told = lines(capsys)
    assert told[-1]["step"] == "follow-up"
    assert [each["happening"] for each in told if each["message"] == "alert"] == ["succeeded"]
    assert site.messages() == []  # The grace has not passed: a sweep sees to it.


def test_when_the_grace_is_over_a_second_look_is_asked_for_and_not_heard_too_early(
    site: Site,
    rotate: Deployed,
    follow_up: Deployed,
    capsys: pytest.CaptureFixture[str],
    time_passes: Callable[[timedelta], None],
) -> None:
    rotate.push(site.room.tick())
    time_passes(timedelta(minutes=2))
    follow_up.push(own("KEYTURN_SWEEP", {}), topic=OWN_TOPIC)
    [again] = site.messages()
    capsys.readouterr()

    assert follow_up.push(_pushed(again), topic=OWN_TOPIC) == 425

    assert again["attributes"]["eventType"] == "KEYTURN_LOOK_AGAIN"
    assert json.loads(base64.b64decode(again["data"]))["secret"] == site.room.id
    assert {each["severity"] for each in lines(capsys)} == {"INFO"}
    assert len(site.messages()) == 1
    assert site.can_log_in(site.room.login, "1")


def test_after_two_looks_and_the_grace_the_old_credential_dies(
    site: Site,
    rotate: Deployed,
    follow_up: Deployed,
    capsys: pytest.CaptureFixture[str],
    time_passes: Callable[[timedelta], None],
) -> None:
    rotate.push(site.room.tick())
    time_passes(timedelta(minutes=2))
    follow_up.push(own("KEYTURN_SWEEP", {}), topic=OWN_TOPIC)
    assert site.can_log_in(site.room.login, "1")
    time_passes(timedelta(minutes=6))

    assert follow_up.push(_pushed(site.messages()[-1]), topic=OWN_TOPIC) == 200

    assert not site.can_log_in(site.room.login, "1")
    assert site.can_log_in(site.second, "2")
    told = [each["happening"] for each in lines(capsys) if each["message"] == "alert"]
    assert "retired" in told


def test_a_sweep_looks_at_all_of_the_plan(
    site: Site, rotate: Deployed, follow_up: Deployed, capsys: pytest.CaptureFixture[str]
) -> None:
    rotate.push(site.room.tick())
    capsys.readouterr()

    assert follow_up.push(own("KEYTURN_SWEEP", {}), topic=OWN_TOPIC) == 200

    [measured] = [each for each in lines(capsys) if each["message"] == "measured"]
    assert measured["SecretsFollowed"] == 1


def test_a_person_may_ask_for_a_look(
    site: Site, rotate: Deployed, follow_up: Deployed, capsys: pytest.CaptureFixture[str]
) -> None:
    rotate.push(site.room.tick())
    capsys.readouterr()

    for name in (site.room.id, site.room.ref):
        assert follow_up.push(own("KEYTURN_LOOK", {"secret": name}), topic=OWN_TOPIC) == 200
        assert lines(capsys)[-1]["looked_at"] == "1"


@pytest.mark.usefixtures("site")
def test_a_secret_that_nothing_follows_is_named_to_whoever_asks(
    follow_up: Deployed, capsys: pytest.CaptureFixture[str]
) -> None:
    assert follow_up.push(own("KEYTURN_LOOK", {"secret": "other"}), topic=OWN_TOPIC) == 200

    assert "no secret that something follows" in lines(capsys)[-1]["reason"]


@pytest.mark.usefixtures("site")
def test_a_version_of_a_secret_that_is_not_in_the_plan_is_no_news(
    follow_up: Deployed, capsys: pytest.CaptureFixture[str]
) -> None:
    added = own("SECRET_VERSION_ADD", secretId=f"{PARENT}/secrets/db-admin")

    assert follow_up.push(added) == 200

    assert lines(capsys)[-1]["outcome"] == "done"


@pytest.mark.parametrize("kind", ["SECRET_ROTATE", "SECRET_UPDATE", "KEYTURN_DANCE", ""])
def test_what_it_does_not_know_is_not_heard(
    site: Site, follow_up: Deployed, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    calls = len(site.room.google.calls)

    assert follow_up.push(site.room.tick(eventType=kind)) == 200

    assert len(site.room.google.calls) == calls
    assert lines(capsys) == []


@pytest.mark.usefixtures("site")
def test_a_forged_look_is_refused(follow_up: Deployed) -> None:
    sweep = own("KEYTURN_SWEEP", {})

    assert follow_up.push(sweep, topic=OWN_TOPIC, authorization=bearer("thief@x")) == 403


def test_another_projects_secret_is_not_looked_at(
    site: Site, follow_up: Deployed, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = len(site.room.google.calls)
    look = own("KEYTURN_LOOK", {"secret": "projects/999/secrets/orders"})

    assert follow_up.push(look, topic=OWN_TOPIC) == 200

    assert "another project" in lines(capsys)[-1]["reason"]
    assert len(site.room.google.calls) == calls


@pytest.mark.parametrize(
    "look",
    [
        own("KEYTURN_LOOK"),
        own("KEYTURN_LOOK", {"secret": 5}),
        own("KEYTURN_LOOK", {"secret": "a", "when": "now"}),
        own("KEYTURN_LOOK_AGAIN", {"secret": "a"}),
        own("KEYTURN_LOOK_AGAIN", {"secret": "a"}, notBefore="soon"),
        own("KEYTURN_LOOK_AGAIN", {"secret": "a"}, notBefore="2100-01-01T00:00:00Z"),
        own("SECRET_VERSION_ADD"),
    ],
)
@pytest.mark.usefixtures("site")
def test_a_look_that_cannot_be_is_acknowledged_and_told(
    follow_up: Deployed, capsys: pytest.CaptureFixture[str], look: dict[str, Any]
) -> None:
    assert follow_up.push(look, topic=OWN_TOPIC) == 200

    told = lines(capsys)[-1]
    assert (told["severity"], told["error"]) == ("ERROR", "Misconfigured")


def test_while_the_store_is_away_the_look_comes_again(site: Site, follow_up: Deployed) -> None:
    with site.room.google.outage():
        assert follow_up.push(own("KEYTURN_SWEEP", {}), topic=OWN_TOPIC) == 503


def test_what_somebody_stores_by_hand_is_told(
    site: Site, rotate: Deployed, follow_up: Deployed, capsys: pytest.CaptureFixture[str]
) -> None:
    """A `latest` that keyturn did not write."""
    rotate.push(site.room.tick())
    site.room.put("Canary7-by-hand-Password5")
    capsys.readouterr()

    follow_up.push(own("KEYTURN_SWEEP", {}), topic=OWN_TOPIC)

    told = [each["happening"] for each in lines(capsys) if each["message"] == "alert"]
    assert "foreign" in told


@pytest.mark.usefixtures("site")
def test_a_first_value_is_stored_by_hand_and_no_news(
    follow_up: Deployed, capsys: pytest.CaptureFixture[str]
) -> None:
    follow_up.push(own("KEYTURN_SWEEP", {}), topic=OWN_TOPIC)

    assert [each for each in lines(capsys) if each["message"] == "alert"] == []


def test_a_rotation_that_never_came_is_told(
    site: Site,
    rotate: Deployed,
    follow_up: Deployed,
    capsys: pytest.CaptureFixture[str],
    time_passes: Callable[[timedelta], None],
) -> None:
    """The tick is sent; nobody hears it."""
    rotate.push(site.room.tick())
    schedule = {
        "next_rotation_time": datetime.now(UTC) + timedelta(hours=1),
        "rotation_period": timedelta(days=30),
    }
    site.room.client.update_secret(
        secret={"name": site.room.ref, "rotation": schedule}, update_mask={"paths": ["rotation"]}
    )
    time_passes(timedelta(hours=1, minutes=1))
    site.room.google.tick()
    follow_up.push(own("KEYTURN_SWEEP", {}), topic=OWN_TOPIC)
    assert "overdue" not in [each.get("happening") for each in lines(capsys)]

    time_passes(timedelta(hours=1))
    follow_up.push(own("KEYTURN_SWEEP", {}), topic=OWN_TOPIC)

    [told] = [each for each in lines(capsys) if each.get("happening") == "overdue"]
    assert told["secret"] == site.room.ref
    assert "due" in told["fact"]


@pytest.fixture
def time_passes() -> Iterator[Callable[[timedelta], None]]:
    """Let time pass, for all of this process."""
    import time_machine

    with time_machine.travel(datetime.now(UTC), tick=True) as traveller:
        yield traveller.shift


def _pushed(message: dict[str, Any]) -> dict[str, Any]:
    """Return what a topic was told, as it is pushed."""
    body = pushed(message["attributes"], None, "5001")
    body["message"]["data"] = message["data"]
    return body


def test_a_plan_with_a_name_of_aws_costs_that_secret_alone(
    site: Site, follow_up: Deployed, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = site.plan_file.read_text()
    more = "  prod/orders/db:\n    strategy: dual-password\n    retire: {when: verified}\n"
    site.plan_file.write_text(plan + more)

    assert follow_up.push(own("KEYTURN_SWEEP", {}), topic=OWN_TOPIC) == 200

    told = lines(capsys)
    [measured] = [each for each in told if each["message"] == "measured"]
    assert (measured["SecretsFollowed"], measured["LooksFailed"]) == (1, 1)
    assert "prod/orders/db" in told[-1]["reason"]
