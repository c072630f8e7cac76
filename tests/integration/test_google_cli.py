"""`keyturn rotate` and `keyturn status` for secrets on Google Cloud, as a person runs them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from subprocess import PIPE, Popen

import pytest

from databases import make_login, unused_name
from google_functions import REPLICATED
from keyturn.local.google import PARENT, LocalGoogle
from keyturn.local.postgres import Postgres

KEYTURN = Path(sys.executable).parent / "keyturn"
MONTH = timedelta(days=30)


class Site:
    """A login that is rotated on a local Google Cloud, and a person with a terminal."""

    def __init__(self, server: Postgres, folder: Path) -> None:
        self.login = unused_name("cli")
        self.id = self.login.replace("_", "-")
        self.plan = folder / "keyturn.yaml"
        reader = {"cloud-run": {"service": "api", "location": "europe-west1"}}
        planned = {"strategy": "single-user", "refresh": {"consumers": [reader]}}
        self.plan.write_text(json.dumps({"version": 1, "secrets": {self.id: planned}}))
        self.google = LocalGoogle(plan_file=self.plan)
        self._server = server

    def start(self) -> None:
        make_login(self._server, self.login, "Canary7-first-Password1")
        value = {
            "engine": "postgres",
            "host": self._server.host,
            "port": self._server.port,
            "dbname": "postgres",
            "username": self.login,
            "password": "Canary7-first-Password1",
            "ssl": False,
        }
        self.ref = self.google.add_secret(self.id, value, MONTH)

    def run(self, *arguments: str) -> tuple[int, str]:
        """Run the command while the cloud goes on; return its exit code and what it says."""
        # The functions' variables are this process's, and its children's.
        with Popen([KEYTURN, *arguments], stdout=PIPE, stderr=PIPE, text=True) as process:
            try:
                self.google.wait_until(lambda: process.poll() is not None)
            finally:
                process.kill()
            told, wrong = process.communicate()
        return process.returncode, told or wrong


@pytest.fixture
def site(postgres: Postgres, tmp_path: Path) -> Iterator[Site]:
    made = Site(postgres, tmp_path)
    with made.google:
        made.start()
        yield made


@pytest.mark.parametrize("is_short", [True, False])
def test_rotate_waits_until_the_new_version_is_current(site: Site, *, is_short: bool) -> None:
    code, told = site.run("rotate", site.id if is_short else site.ref, "--json")

    said = json.loads(told)
    assert code == 0
    assert said["outcome"] == "done"
    record = site.google.secret_manager.vault.look(f"{site.ref}-pending").secret.annotations
    assert record["keyturn-current"] == f"2:{said['version_id']}"


def test_rotate_says_when_it_has_waited_long_enough(site: Site) -> None:
    """The function refuses: somebody has changed the password by hand."""
    site.google.secret_manager.operate(
        "AddSecretVersion", parent=site.ref, payload={"data": b'{"engine": "cobol"}'}
    )

    code, told = site.run("rotate", site.id, "--timeout", "1")

    assert code == 1
    assert "is not current after 1 s" in told


def test_a_secret_that_nobody_hears_of_is_not_waited_for(site: Site) -> None:
    site.google.secret_manager.operate(
        "CreateSecret", parent=PARENT, secret_id="alone", secret=REPLICATED
    )

    code, told = site.run("rotate", "alone")

    assert code == 1
    assert "has no topic" in told


def test_status_shows_what_follows(site: Site) -> None:
    site.run("rotate", site.id)

    code, told = site.run("status", site.id, "--plan", str(site.plan), "--json")

    said = json.loads(told)
    assert (code, said["secret"]) == (1, site.id)
    assert said["version_id"].startswith("m")
    [line] = [each for each in said["lines"] if each["name"] == "cloud-run:europe-west1/api"]
    assert line["state"] == "failed"
    assert "is not there" in line["waits_for"]


def test_a_secret_that_is_not_in_the_plan_is_named(site: Site) -> None:
    code, told = site.run("status", f"{PARENT}/secrets/other", "--plan", str(site.plan))

    assert code == 1
    assert "is no secret that something follows" in told
