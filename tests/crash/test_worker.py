"""The process that performs rotations outlives each fork of it, whenever that one is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyturn.testing.strict_secrets_manager import StrictSecretsManager

ORDER = 'step {"Step": "createSecret", "SecretId": "s", "ClientRequestToken": "t"}\n'
BEGIN = 'begin {"tries": 1, "read_timeout_s": 1, "remaining_s": 1}\n'


@pytest.fixture
def worker() -> Iterator[subprocess.Popen[str]]:
    with StrictSecretsManager() as store:
        endpoint = f"http://127.0.0.1:{store.port}"
        with subprocess.Popen(
            [sys.executable, "-m", "keyturn.testing.worker", "arn"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "AWS_ENDPOINT_URL": endpoint},
        ) as process:
            yield process
            process.kill()


@pytest.mark.parametrize("read", [1, 5, 20, len(ORDER) - 1])
def test_a_kill_in_the_middle_of_an_order_costs_only_that_fork(
    worker: subprocess.Popen[str], read: int
) -> None:
    """Its rest, even if it is a bare end of line, is neither an order nor the end."""
    assert _heard(worker) == "ready"
    pid = int(_told(worker, BEGIN))

    _tell(worker, ORDER[:read])
    _await_read(pid, read)
    os.kill(pid, signal.SIGKILL)
    assert _told(worker, ORDER[read:]) == "killed"

    assert int(_told(worker, BEGIN)) != pid
    assert _told(worker, "end\n") == "ended"


def _await_read(pid: int, size: int) -> None:
    """Wait until the fork, which reads byte by byte, has taken all that was written."""
    status = Path(f"/proc/{pid}/syscall")
    for _ in range(200):
        time.sleep(0.02)
        # 0 is read(2) of file 0: it waits for more.
        if status.exists() and status.read_text().startswith(("0 0x0 ", "63 0x0 ")):
            return
    pytest.fail(f"the fork did not read {size} bytes")


def _tell(worker: subprocess.Popen[str], text: str) -> None:
    assert worker.stdin is not None
    worker.stdin.write(text)
    worker.stdin.flush()


def _heard(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    return worker.stdout.readline().rstrip("\n")


def _told(worker: subprocess.Popen[str], text: str) -> str:
    _tell(worker, text)
    return _heard(worker)
