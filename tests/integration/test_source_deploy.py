"""`functions/` by the rules of a source deploy: main.py, requirements.txt, a clean environment.

The buildpack takes what `.gcloudignore` leaves, installs requirements.txt with its hashes, and
starts functions-framework for an entry point of main.py (Cloud Run functions: Python).
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from google_functions import TOPIC, Room, bearer, environment
from keyturn.local.daemon import free_port
from keyturn.local.postgres import Postgres
from keyturn.local.secret_manager import LocalSecretManager

FUNCTIONS = Path(__file__).parents[2] / "functions"
UV = Path(sys.executable).with_name("uv")
START_S = 30.0


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that a deploy makes: the sources, and beside them the environment."""
    folder = tmp_path_factory.mktemp("deployed")
    source, venv = folder / "source", folder / "venv"
    shutil.copytree(FUNCTIONS, source, ignore=shutil.ignore_patterns(*_ignored()))
    _run(UV, "venv", "--quiet", "--python", sys.executable, venv)
    requirements = source / "requirements.txt"
    python = venv / "bin" / "python"
    _run(
        UV, "pip", "install", "--quiet", "--require-hashes", "--python", python, "-r", requirements
    )
    return folder


def _ignored() -> list[str]:
    lines = (FUNCTIONS / ".gcloudignore").read_text().splitlines()
    names = [line.rstrip("/") for line in lines if line and not line.startswith("#")]
    return [name.rpartition("/")[2] for name in names]


def _run(*command: object) -> None:
    ran = subprocess.run(
        list(map(str, command)), env=_clean(), capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


def _clean() -> dict[str, str]:
    """Return the environment, without what leads to the sources and packages of these tests."""
    hidden = {"PYTHONPATH", "VIRTUAL_ENV"}
    return {name: value for name, value in os.environ.items() if name not in hidden}


@contextmanager
def served(deployed: Path, target: str, settings: dict[str, str]) -> Iterator[int]:
    """Run one function as the platform does, and yield its port."""
    port = free_port()
    command = [deployed / "venv" / "bin" / "functions-framework", "--target", target]
    with subprocess.Popen(
        [*map(str, command), "--host", "127.0.0.1", "--port", str(port)],
        cwd=deployed / "source",
        env={**_clean(), **settings},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            _wait_for(port)
            yield port
        finally:
            process.terminate()


def _wait_for(port: int) -> None:
    ends_at = time.monotonic() + START_S
    while time.monotonic() < ends_at:
        with socket.socket() as line:
            if line.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail("the function did not start")


def post(port: int, path: str, body: object, **headers: str) -> tuple[int, bytes]:
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    sent = {"Content-Type": "application/json", **headers}
    line.request("POST", path, json.dumps(body), sent)
    answer = line.getresponse()
    found = answer.status, answer.read()
    line.close()
    return found


@pytest.fixture
def google() -> Iterator[LocalSecretManager]:
    with LocalSecretManager() as running:
        running.vault.quota = 1_000
        yield running


def test_a_deployed_function_rotates(
    deployed: Path, google: LocalSecretManager, postgres: Postgres
) -> None:
    room = Room(google, postgres)

    with served(deployed, "rotate", environment(google)) as port:
        authorization = bearer(host=f"127.0.0.1:{port}")
        status, _ = post(port, f"/{TOPIC}", room.tick(), Authorization=authorization)
        forged, _ = post(port, f"/{TOPIC}", room.tick("1002"))

    assert (status, forged) == (200, 403)
    assert room.versions == 2
    assert room.works()


def test_what_is_deployed_is_what_runs_on_google(deployed: Path) -> None:
    source = deployed / "source"

    assert {path.name for path in source.iterdir()} == {
        *("main.py", "requirements.txt", "gcp", "keyturn")
    }
    assert not {"testing", "local", "cli"} & {path.name for path in (source / "keyturn").iterdir()}


@pytest.mark.parametrize("name", ["rotate", "follow_up", "generate"])
def test_every_entry_point_is_there(deployed: Path, name: str) -> None:
    code = f"import main; assert callable(main.{name})"
    python = deployed / "venv" / "bin" / "python"

    ran = subprocess.run(
        [str(python), "-W", "error", "-c", code],
        cwd=deployed / "source",
        env=_clean(),
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr
