"""How long a Cloud Function takes from the start of its process to its first answer.

    ready              it answers a message that asks for nothing
    first look         it answers one for which it has to ask Secret Manager: a tick that was done

The floor (`google_floor`) makes the client when it is imported, and asks once for either. Both are
functions-framework processes under gunicorn, as on Cloud Run, and take turns; Secret Manager is the
local one, in this process.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google_functions import REPLICATED, TOPIC, bearer, environment, pushed
from keyturn.local.daemon import free_port
from keyturn.local.secret_manager import LocalSecretManager

ROOT = Path(__file__).parents[1]
OURS, FLOOR = ROOT / "functions", ROOT / "bench" / "google_floor"
POLL_S, PATIENCE_S = 0.002, 60.0
OK = 200
PARENT = "projects/123456789"
SECRET = f"{PARENT}/secrets/bench"
MESSAGES = ("ready", "first look")


@dataclass(frozen=True, slots=True)
class Ready:
    """Seconds from the start of a process to its first 200, of so many processes each."""

    ours: dict[str, list[float]]
    floor: list[float]


def measure(processes: int) -> Ready:
    """Start so many processes of each kind, one after the other."""
    with LocalSecretManager() as google:
        _furnish(google)
        ours: dict[str, list[float]] = {message: [] for message in MESSAGES}
        floor = []
        for number in range(processes + 1):
            took = {message: first_answer(OURS, google, message) for message in MESSAGES}
            bare = first_answer(FLOOR, google, "first look")
            if number:  # The first of each writes the bytecode.
                floor.append(bare)
                for message in MESSAGES:
                    ours[message].append(took[message])
    return Ready(ours, floor)


def _furnish(google: LocalSecretManager) -> None:
    client = google.client()
    for name in ("bench", "bench-pending"):
        client.create_secret(parent=PARENT, secret_id=name, secret=REPLICATED)
    value = {"username": "app", "password": "Canary7-bench"}
    client.add_secret_version(parent=SECRET, payload={"data": json.dumps(value).encode()})
    done = {"keyturn-current": "1:m1001", "keyturn-known": "1:m1001", "keyturn-write": "1:00"}
    client.update_secret(
        secret={"name": f"{SECRET}-pending", "annotations": done},
        update_mask={"paths": ["annotations"]},
    )


def first_answer(source: Path, google: LocalSecretManager, message: str) -> float:
    """Start a function, and return the seconds until it has answered its first message."""
    port = free_port()
    command = [sys.executable, "-m", "functions_framework", "--target=rotate"]
    settings = environment(google, PYTHONPATH=str(OURS), PATH="/usr/bin:/bin")
    started = time.monotonic()
    with subprocess.Popen(
        [*command, "--signature-type=cloudevent", f"--port={port}", "--host=127.0.0.1"],
        cwd=source,
        env=settings,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            status = _status(port, _message(message), started)
        finally:
            took_s = time.monotonic() - started
            process.terminate()
    if status != OK:
        raise SystemExit(f"{source.name}: the first answer is {status}")
    return took_s


def _message(message: str) -> Mapping[str, Any]:
    kind = "SECRET_ROTATE" if message == "first look" else "SECRET_UPDATE"
    attributes = {
        "eventType": kind,
        "secretId": SECRET,
        "timestamp": "2030-01-01T00:00:00Z" if kind != "SECRET_ROTATE" else "2020-01-01T00:00:00Z",
    }
    return pushed(attributes, {"name": SECRET}, "1001")


def _status(port: int, message: Mapping[str, Any], started: float) -> int:
    headers = {
        "Content-Type": "application/json",
        "Authorization": bearer(host=f"127.0.0.1:{port}"),
    }
    while True:
        line = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        try:
            line.request("POST", f"/{TOPIC}", json.dumps(message), headers)
            return line.getresponse().status
        except ConnectionRefusedError:
            if time.monotonic() - started > PATIENCE_S:
                raise SystemExit("the function does not listen") from None
            time.sleep(POLL_S)
        finally:
            line.close()
