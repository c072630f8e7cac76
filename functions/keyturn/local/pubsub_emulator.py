"""Google's own Pub/Sub emulator, where the machine has it: started and stopped here.

It is what `pubsub` imitates, with three gaps: it keeps filters and does not apply them, sends no
OIDC tokens (`front` adds one in its name), and has a clock of its own.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from keyturn.errors import Unsupported
from keyturn.local.daemon import free_port
from keyturn.testing.google_rest import Asked, refusal

START_S = 30.0
"""Longest that it may take to start, in seconds; it takes 2."""

WHERE = "platform/pubsub-emulator/lib"
"""Within the folder of the Google Cloud CLI."""


def find() -> Path | None:
    """Return the emulator's jar, if it is here and can be run.

    It is looked for where KEYTURN_PUBSUB_EMULATOR says, and beside `gcloud`.
    """
    if shutil.which("java") is None:
        return None
    if named := os.environ.get("KEYTURN_PUBSUB_EMULATOR"):
        return Path(named) if Path(named).is_file() else None
    gcloud = shutil.which("gcloud")
    folders = [Path("/usr/lib/google-cloud-sdk")]
    if gcloud is not None:
        folders.insert(0, Path(gcloud).resolve().parents[1])
    jars = [jar for folder in folders for jar in sorted((folder / WHERE).glob("*-all.jar"))]
    return jars[-1] if jars else None


class Emulator:
    """The emulator. Enter it to start it; see `pubsub.PubSub` for what it answers.

    Args:
        jar: From `find`.
    """

    def __init__(self, jar: Path) -> None:
        self._jar = jar
        self._undo = contextlib.ExitStack()
        self._port = 0

    def __enter__(self) -> Self:
        self._port = free_port()
        folder = self._undo.enter_context(tempfile.TemporaryDirectory())
        command = ["java", "-jar", str(self._jar), "--host=127.0.0.1", f"--port={self._port}"]
        process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._undo.callback(process.wait)
        self._undo.callback(process.kill)
        self._wait()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._undo.close()

    def answer(self, asked: Asked) -> Mapping[str, Any]:
        """Hand a call of the REST API on."""
        line = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        with contextlib.closing(line):
            headers = {"Content-Type": "application/json"}
            line.request(asked.method, asked.path, asked.body, headers)
            answer = line.getresponse()
            found: Mapping[str, Any] = json.loads(answer.read() or b"{}")
        if answer.status != http.client.OK:
            raise refusal(str(found.get("error", {}).get("status", "INTERNAL")), "refused")
        return found

    def deliver(self) -> int:
        """Do nothing: it pushes by itself."""
        return 0

    def next_due(self) -> None:
        """Return nothing: its clock is its own."""

    def _wait(self) -> None:
        ends_at = time.monotonic() + START_S
        while time.monotonic() < ends_at:
            with socket.socket() as line:
                if line.connect_ex(("127.0.0.1", self._port)) == 0:
                    return
            time.sleep(0.05)
        self._undo.close()
        raise Unsupported("the Pub/Sub emulator does not start", remedy="Look at its own output.")
