"""`keyturn demo --cloud gcp`: the same demo on a local Google Cloud, as a user runs it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from conftest import need
from keyturn.local.database import Engine
from keyturn.local.demo_aftermath import Aftermath, broken, died_at
from keyturn.local.demo_google import Stage
from keyturn.local.demo_page import page
from keyturn.local.demo_recording import Recording, Verdict, count, failures, is_good
from keyturn.local.demo_terminal import aftermath_timeline, legend, timeline
from keyturn.local.redis import find
from keyturn.model import Strategy

ROOT = Path(__file__).parents[2]
KEYTURN = Path(sys.executable).parent / "keyturn"


@dataclass(frozen=True)
class Seen:
    """What one demo in this process saw, and what must not be seen."""

    alternating: Recording
    single: Recording
    aftermath: Aftermath
    passwords: frozenset[str] = field(repr=False)


@pytest.fixture(scope="module")
def seen() -> Seen:
    def report(run: str, text: str, done: int) -> None:
        del run, text, done

    with Stage(report) as stage:
        single = stage.record(Engine.POSTGRES, Strategy.SINGLE_USER, rotations=2)
        alternating = stage.record(Engine.POSTGRES, Strategy.ALTERNATING_USERS, rotations=2)
        aftermath = stage.record_follow_up()
        vault = stage.google.secret_manager.vault
        stored = [
            data.decode()
            for ref in stage.secrets
            for name in (ref, f"{ref}-pending")
            for data in vault.look(name).payloads.values()
        ]
    # A value that pended has a line of ours before it.
    found = re.findall(r'"password": *("(?:[^"\\]|\\.)*")', "\n".join(stored))
    passwords = frozenset(json.loads(each) for each in found)
    return Seen(alternating, single, aftermath, passwords)


def test_with_two_users_every_rotation_finishes_and_no_login_is_refused(seen: Seen) -> None:
    run = seen.alternating

    assert failures(run) == []
    assert [each.finished for each in run.rotations] == [True, True]
    assert len(run.logins) > 20
    assert count(run, Verdict.IN) == len(run.logins)
    assert [each.user for each in run.versions] == ["orders", "orders_clone", "orders"]


def test_each_rotation_takes_its_four_steps(seen: Seen) -> None:
    steps = [each.step.value for each in seen.alternating.steps]

    assert steps == ["create", "set", "test", "finish"] * 2
    assert all(each.elapsed_ms >= 0 and not each.error for each in seen.alternating.steps)


def test_the_calls_counted_are_those_of_the_function_that_rotates(seen: Seen) -> None:
    """The first finds no record yet. What the application and the prober read is not in it."""
    assert [each.store_calls for each in seen.single.rotations] == [34, 30]


def test_with_one_user_it_goes_on_after_fresh_reads(seen: Seen) -> None:
    assert is_good(seen.single), failures(seen.single)


def test_the_application_is_told_and_the_old_login_dies_after_its_grace(seen: Seen) -> None:
    assert broken(seen.aftermath) == []
    assert 60 <= (died_at(seen.aftermath) or 0) <= 80


def test_it_is_shown_as_on_the_other_cloud_in_the_words_of_this_one(seen: Seen) -> None:
    shown = _shown(seen)

    assert "latest" in shown
    assert "Pub/Sub" in shown
    assert "AWS" not in shown
    assert "SNS" not in shown


def test_no_password_is_shown(seen: Seen) -> None:
    shown = _shown(seen) + repr(seen.alternating) + repr(seen.single) + repr(seen.aftermath)

    # Compared first: a failure shows what is compared.
    are_there, are_shown = len(seen.passwords) >= 7, any(p in shown for p in seen.passwords)
    assert are_there
    assert not are_shown


def _shown(seen: Seen) -> str:
    runs = [seen.single, seen.alternating]
    console = Console(file=StringIO(), width=80)
    for each in runs:
        console.print(timeline(each, 80))
    console.print(legend(seen.single.cloud))
    console.print(aftermath_timeline(seen.aftermath, 80))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue() + page(runs, datetime.now(UTC), seen.aftermath)


# ---------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    """A temporary folder of its own, so that left-overs are seen. Open: nobody must reach it."""
    folder = Path(tempfile.mkdtemp(prefix="ktg-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def _start(scratch: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [KEYTURN, "demo", "--cloud", "gcp", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT / "functions"),
            "TMPDIR": str(scratch),
            "HOME": str(scratch),
        },
    )


def test_the_command_shows_it_all_and_leaves_nothing(scratch: Path) -> None:
    file = scratch / "page.html"
    with _start(scratch, "--rotations", "1", "--out", str(file)) as process:
        output, _ = process.communicate(timeout=90)

    lines = output.splitlines()
    assert process.returncode == 0, output
    (finished,) = [each.split()[2:] for each in lines if "Rotations finished" in each]
    assert " ".join(finished) == "1 of 1 1 of 1"
    assert [each.split()[0] for each in lines if each.startswith("v1 ")] == ["v1", "v1"]
    assert lines.index("follow-up of orders-followed") > 0
    # Neither what the functions log, nor what a server says about its connections.
    assert not [each for each in lines if each.startswith(("{", "127.0.0.1", "I0", "I1"))]
    assert max(len(each) for each in lines if not each.startswith("The same as")) <= 80
    assert "Google Cloud simulated" in file.read_text()
    assert list(scratch.glob("keyturn*")) == []


def test_another_engine(scratch: Path) -> None:
    need(present=find() is not None, what="Redis", install="apt install redis-server")
    options = ("--engine", "redis", "--strategy", "dual-password", "--rotations", "2")
    with _start(scratch, *options, "--out", str(scratch / "redis.html")) as process:
        output, _ = process.communicate(timeout=90)

    assert process.returncode == 0, output
    assert re.search(r"Rotations finished +2 of 2", output)
    assert re.search(r"Failed logins +0", output)


def test_ctrl_c_stops_everything(scratch: Path) -> None:
    with _start(scratch, "--rotations", "9", "--out", str(scratch / "no.html")) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "Rotation 1" in line:
                break
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=30)

    assert process.returncode == 130
    assert rest.splitlines()[-1] == "Stopped. Nothing is left."
    assert "Traceback" not in rest
    assert list(scratch.glob("keyturn*")) == []
    assert not (scratch / "no.html").exists()
