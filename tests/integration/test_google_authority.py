"""A user of Cloud SQL whom the service sets, from the message to the login."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from databases import set_password
from google_functions import Deployed, Room, environment, lines
from keyturn import line
from keyturn.local.postgres import Postgres
from keyturn.local.secret_manager import LocalSecretManager
from keyturn.model import Sensitive
from keyturn.testing.strict_cloud_sql import Instance, StrictCloudSql, Undocumented

CLUSTER = "arn:aws:rds:eu-west-1:123456789012:cluster:orders"


class Office(Room):
    """A room whose login Cloud SQL has, and a plan that says so."""

    def __init__(
        self, google: LocalSecretManager, server: Postgres, service: StrictCloudSql, plan: Path
    ) -> None:
        super().__init__(google, server)
        self.service, self._plan = service, plan
        self.instance = Instance("orders", server.host, {self.login: ""})
        self.say(service.add(self.instance))

    def say(self, authority: str) -> None:
        """Write the plan."""
        secret = {"strategy": "single-user", "authority": authority}
        self._plan.write_text(json.dumps({"version": 1, "secrets": {self.id: secret}}))


@pytest.fixture
def service(postgres: Postgres) -> Iterator[StrictCloudSql]:
    def apply(user: str, secret: Sensitive) -> None:
        set_password(postgres, user, secret)

    at_once = Undocumented(pending_for=0, running_for=0)
    with StrictCloudSql(apply, at_once) as running:
        yield running


@pytest.fixture
def office(
    postgres: Postgres,
    service: StrictCloudSql,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[Office]:
    monkeypatch.setattr(line, "PAUSE_S", 0.0)
    with LocalSecretManager() as google:
        google.vault.quota = 1_000  # else most of a test is waiting
        plan = tmp_path / "keyturn.yaml"
        settings = environment(
            google,
            KEYTURN_PLAN=str(plan),
            KEYTURN_GOOGLE_ENDPOINT=service.endpoint,
            KEYTURN_TIMEOUT_S="120",
        )
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        yield Office(google, postgres, service, plan)


@pytest.fixture
def rotate() -> Deployed:
    return Deployed("rotate")


def test_a_tick_lets_cloud_sql_set_the_password(office: Office, rotate: Deployed) -> None:
    assert rotate.push(office.tick()) == 200

    assert office.versions == 2
    assert office.works()
    assert office.service.asked() == 1


def test_nobody_is_locked_out_when_the_password_is_lost(
    office: Office, rotate: Deployed, postgres: Postgres
) -> None:
    """Somebody has set another one by hand: IAM permits the change, not the old password."""
    set_password(postgres, office.login, Sensitive("Canary7-by-hand"))
    assert not office.works()

    assert rotate.push(office.tick()) == 200

    assert office.works()


def test_another_change_of_the_instance_brings_the_message_again(
    office: Office, rotate: Deployed
) -> None:
    office.service.begin("orders", "BACKUP_VOLUME", looks=9)
    tick = office.tick()
    assert rotate.push(tick) == 503
    assert office.works()

    office.service.settle()

    assert rotate.push(tick) == 200
    assert office.works()
    assert office.versions == 2


REFUSED = {
    CLUSTER: "Misconfigured: .* in different clouds",
    "projects/shop-42/instances/..": "Misconfigured: .* is no such instance",
    "projects/shop-42/instances/1st": "Unsupported: there is no authority for",
    "projects/shop-42/instances/nothing": r"Misconfigured: .*instances\.get answered NOT_FOUND",
}


@pytest.mark.parametrize("authority", REFUSED)
def test_what_cannot_be_is_refused_before_anything_is_staged(
    office: Office, rotate: Deployed, capsys: pytest.CaptureFixture[str], authority: str
) -> None:
    office.say(authority)

    assert rotate.push(office.tick()) == 200

    [told] = [each for each in lines(capsys) if each["severity"] == "ERROR"]
    assert re.match(REFUSED[authority], f"{told['error']}: {told['reason']}")
    assert office.versions == 1
    assert office.works()
    assert office.service.asked() == 0
