"""`keyturn demo` as a user runs it: what it prints, writes, returns, and never shows."""

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
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from conftest import need
from keyturn.local.mariadb import find_mariadb
from keyturn.local.redis import find

ROOT = Path(__file__).parents[2]

START = """
import json, os

import boto3

# The SDK shows every answer it gets to whoever registers: the function apart, nobody in this
# deployment learns a password in another way. The demo reads every version, and the first
# passwords are read for the database.
boto3.setup_default_session()
served = open(os.environ["SERVED"], "a", encoding="utf-8")

def keep(parsed, **_):
    if "SecretString" in parsed:
        print(parsed["SecretString"], file=served, flush=True)

boto3.DEFAULT_SESSION.events.register("after-call.secretsmanager.GetSecretValue", keep)

from keyturn.cli import main

main()
"""


@dataclass(frozen=True)
class Run:
    """One run of the demo, and what it left."""

    status: int
    output: str
    page: Path
    passwords: frozenset[str] = field(repr=False)
    left: list[str]

    def figure(self, name: str) -> list[str]:
        """Return a line of the summary, split into its columns."""
        (line,) = [line for line in self.output.splitlines() if line.strip().startswith(name)]
        return re.split(r" {2,}", line.strip())[1:]


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    """A temporary folder of its own, so that left-overs are seen. Open: nobody must reach it."""
    folder = Path(tempfile.mkdtemp(prefix="kt-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def run(scratch: Path) -> Run:
    return demo(scratch, "--rotations", "1", "--out", str(scratch / "new" / "page.html"))


FIND = {"mariadb": find_mariadb, "redis": find}


@pytest.mark.parametrize("engine", FIND)
def test_two_passwords_lose_no_login_in_any_engine(scratch: Path, engine: str) -> None:
    need(present=FIND[engine]() is not None, what=engine, install=f"apt install {engine}-server")
    page = scratch / f"{engine}.html"

    shown = demo(
        scratch,
        *("--engine", engine, "--strategy", "dual-password"),
        *("--rotations", "2", "--out", str(page)),
    )

    assert shown.status == 0, shown.output
    assert shown.figure("Rotations finished") == ["2 of 2"]
    assert shown.figure("Failed logins") == ["0"]
    assert shown.figure("Current refused") == ["never"]
    assert not [each for each in shown.passwords if each in shown.output + page.read_text()]
    assert shown.left == []


def demo(scratch: Path, *arguments: str) -> Run:
    served = fresh_file(scratch)
    with start(scratch, served, *arguments) as process:
        output, _ = process.communicate(timeout=90)
    return Run(
        process.returncode,
        output,
        scratch / "new" / "page.html",
        passwords_in(served),
        sorted(path.name for path in scratch.glob("keyturn*")),
    )


def fresh_file(folder: Path) -> Path:
    descriptor, name = tempfile.mkstemp(dir=folder)
    os.close(descriptor)
    return Path(name)


def start(scratch: Path, served: Path, *arguments: str) -> subprocess.Popen[str]:
    # A process of its own: there can be one local AWS in each, and this one has its own.
    return subprocess.Popen(
        [sys.executable, "-c", START, "demo", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT / "functions"),
            "PYTHONWARNINGS": "ignore",
            "TMPDIR": str(scratch),
            "HOME": str(scratch),
            "SERVED": str(served),
        },
    )


def passwords_in(served: Path) -> frozenset[str]:
    values = [json.loads(line) for line in served.read_text().splitlines()]
    secret = ("password", "secret_access_key")
    return frozenset(value[name] for value in values for name in secret if name in value)


def test_it_succeeds_and_every_rotation_finishes(run: Run) -> None:
    assert run.status == 0, run.output
    assert run.figure("Rotations finished") == ["1 of 1", "1 of 1", "1 of 1"]


def test_with_alternating_users_no_login_is_refused(run: Run) -> None:
    assert run.figure("Logins")[1] != "0"
    assert run.figure("Failed logins")[1] == "0"
    assert run.figure("In after a fresh read")[1] == "0"
    assert run.figure("Current refused")[1] == "never"


def test_while_an_access_key_is_rotated_none_is_refused(run: Run) -> None:
    assert int(run.figure("Logins")[2]) > 100
    assert run.figure("Failed logins")[2] == "0"
    assert run.figure("In after a fresh read")[2] == "0"
    assert run.figure("Current refused")[2] == "never"


def test_the_function_makes_no_more_store_calls_than_it_may(run: Run) -> None:
    single, alternating, _ = run.figure("Store calls per rotation")

    assert single == "10"
    # The admin secret, once for create and once for set; and a look before the first login.
    assert int(alternating) <= 13


def test_every_version_has_its_line(run: Run) -> None:
    rows = re.findall(r"^v\d \w+", run.output, re.MULTILINE)

    assert rows == [
        *("v1 orders", "v2 orders", "v1 orders", "v2 orders_clone"),
        *("v1 mailer", "v2 mailer"),
    ]


def test_without_a_terminal_it_is_plain_text_of_80_columns(run: Run) -> None:
    lines = [line for line in run.output.splitlines() if not line.startswith("The same as")]

    assert "\x1b" not in run.output
    assert max(map(len, lines)) <= 80
    assert "single-user: Rotation 1 of 1, " in run.output


def test_the_page_is_written_and_shows_every_run(run: Run) -> None:
    page = run.page.read_text(encoding="utf-8").removeprefix("<!DOCTYPE html>\n")

    headings = ["".join(h.itertext()) for h in ET.fromstring(page).iter("h2")]  # noqa: S314

    assert headings[0].startswith("single-user ")
    assert headings[1].startswith("alternating-users 0 of ")
    assert headings[2].startswith("IAM key 0 of ")


def test_the_last_act_follows_a_rotation_to_the_end_of_the_old_login(run: Run) -> None:
    """Copied, picked up, proved, retired, told: after the hour's grace, and no login is refused."""
    lines = run.output.splitlines()
    first = lines.index("follow-up of prod/orders/db")
    rows = {line[:17].strip(): line[17:] for line in lines[first + 1 : first + 9]}

    assert list(rows)[:7] == [
        *("S3 copy", "K8s Secret db", "pod 1", "pod 2", "pod 3"),
        *("the old login", "SNS"),
    ]
    assert all(rows[name].strip().endswith("█") for name in list(rows)[:5])
    assert rows["pod 1"].startswith("▒")
    assert rows["the old login"].startswith("▒" * 50)
    assert rows["the old login"].endswith("·")
    assert rows["SNS"].split() == ["succeeded", "retired"]
    assert "None of 45 logins was refused." in " ".join(lines[first:])


def test_no_password_is_shown_or_written(run: Run) -> None:
    # Two versions for each strategy, the admin, two keys; and for the last act two and an admin.
    seen = len(run.passwords)
    assert seen == 10

    page = run.page.read_text(encoding="utf-8")

    assert not any(password in run.output + page for password in run.passwords)


def test_nothing_is_left(run: Run) -> None:
    assert run.left == []


def test_a_rotation_that_does_not_finish_is_a_failure(scratch: Path, tmp_path: Path) -> None:
    template = tmp_path / "template.yaml"
    text = (ROOT / "infra" / "template.yaml").read_text()
    template.write_text(
        text.replace("../functions/", str(ROOT / "functions")).replace(
            "POWERTOOLS_SERVICE_NAME", "KEYTURN_TYPO"
        )
    )

    failed = demo(
        scratch,
        *("--template", str(template), "--strategy", "alternating-users"),
        *("--out", str(tmp_path)),
    )

    assert failed.status == 1, failed.output
    assert failed.figure("Rotations finished") == ["0 of 3"]
    assert "unknown environment variable KEYTURN_TYPO" in " ".join(failed.output.split())
    assert (tmp_path / "index.html").exists()


def test_ctrl_c_stops_everything(scratch: Path, tmp_path: Path) -> None:
    served = fresh_file(scratch)
    with start(scratch, served, "--out", str(tmp_path / "page.html")) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "Rotation 1" in line:
                break
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=30)

    assert process.returncode == 130
    assert rest.splitlines()[-1] == "Stopped. Nothing is left."
    assert "Traceback" not in rest
    assert passwords_in(served)
    assert not any(password in rest for password in passwords_in(served))
    assert list(scratch.glob("keyturn*")) == []
    assert not (tmp_path / "page.html").exists()


def test_a_page_that_cannot_be_written_is_refused_before_anything_starts(scratch: Path) -> None:
    refused = demo(scratch, "--out", "/dev/null/page.html")

    assert refused.status == 1
    assert refused.output.splitlines() == [
        "Error: /dev/null/page.html: File exists",
        "Name another file with --out.",
    ]
