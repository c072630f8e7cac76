"""`make proof` says what it lacks, and leaves nothing behind, however it ends."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import pytest

from conftest import need
from keyturn.testing.explorer import FAULTY, faulty_table
from keyturn.testing.laboratories import LABORATORIES
from keyturn.testing.laboratories.postgres import PostgresSingleUser
from keyturn.testing.proof import explored, faulty, missing

PATIENCE_S = 30.0


class Elsewhere(PostgresSingleUser):
    """Its server is not installed here."""

    SERVER: ClassVar[str] = "Elsewhere"
    INSTALL: ClassVar[str] = "apt install elsewhere"

    @classmethod
    def is_available(cls) -> bool:
        """See `Laboratory.is_available`."""
        return False


def test_what_is_missing_is_named_once() -> None:
    assert missing([Elsewhere, Elsewhere]) == ["needs Elsewhere: apt install elsewhere"]


def test_what_another_process_has_explored_is_the_same() -> None:
    """Its script replays it here, too."""
    configuration = next(each for each, slots in FAULTY.items() if slots == "two, a person's")

    [found] = explored(1, faulty, [configuration], lambda: None)

    assert found.digest == faulty(configuration).digest
    assert found.last is not None
    assert 'replay("minted beside a person\'s", "labelled", ids=1' in found.last.script
    assert faulty_table([found]).splitlines()[1].endswith("two, a person's  retried  labelled  no")


def test_a_laboratory_that_nobody_has_is_a_failure() -> None:
    """A sweep of nothing would be clean."""
    done = subprocess.run(
        [sys.executable, "-m", "keyturn.testing.proof", "--only=sweep", "--laboratory=nobody's"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert "no laboratory has that name" in done.stdout


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
def test_a_proof_that_is_killed_leaves_no_process_behind() -> None:
    """Not even the servers and workers of its processes."""
    laboratory = LABORATORIES[0]
    need(present=laboratory.is_available(), what=laboratory.SERVER, install=laboratory.INSTALL)

    with _sweep(laboratory.NAME) as sweep:
        # It counts the points itself before it shares them out, and each share starts a server.
        _wait_until(lambda: any(map(_works, _sharers(sweep.pid))))
        started = _below(sweep.pid)
        sweep.kill()
        sweep.wait()

        _wait_until(lambda: not any(map(_runs, started)))


@contextmanager
def _sweep(laboratory: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "keyturn.testing.proof", "--only=sweep", "--jobs=1"]
    with subprocess.Popen(
        [*command, f"--laboratory={laboratory}"], stdout=subprocess.DEVNULL
    ) as process:
        yield process
        process.kill()


def _wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _below(pid: int) -> list[int]:
    """Return the processes that one has started, and theirs."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except FileNotFoundError:
        return []
    return [found for child in map(int, children.split()) for found in (child, *_below(child))]


def _sharers(pid: int) -> list[int]:
    return [each for each in _below(pid) if b"spawn_main" in _command(each)]


def _works(pid: int) -> bool:
    return any(b"keyturn.testing.worker" in _command(each) for each in _below(pid))


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""


def _runs(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
