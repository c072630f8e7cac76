"""`keyturn ...` as a user runs it: a process, its output, its exit code, and what it leaves."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
import psycopg
import pytest

from keyturn import cli

ROOT = Path(__file__).parents[2]
START = [sys.executable, "-c", "from keyturn.cli import main; main()"]


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A temporary folder of its own, so that left-overs are seen. Open: nobody must reach it."""
    folder = Path(tempfile.mkdtemp(prefix="kt-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@dataclass
class Up:
    """A running `keyturn local up`."""

    process: subprocess.Popen[str]
    output: str

    def exported(self) -> dict[str, str]:
        lines = [line for line in self.output.splitlines() if line.startswith("export ")]
        return dict(line.removeprefix("export ").split("=", 1) for line in lines)


@contextlib.contextmanager
def up(scratch: Path, *arguments: str) -> Iterator[Up]:
    process = subprocess.Popen(
        [*START, "local", "up", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=environment(scratch),
    )
    assert process.stdout is not None
    try:
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("Ready."):
                break
        yield Up(process, "".join(lines))
    finally:
        process.kill()
        process.communicate()


def environment(scratch: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT / "functions"),
        "TMPDIR": str(scratch),
        "HOME": str(scratch),
        "PYTHONWARNINGS": "ignore",
    }


def run(
    *arguments: str, prelude: str = "", scratch: Path | None = None
) -> subprocess.CompletedProcess[str]:
    code = f"{prelude}\nfrom keyturn.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=ROOT,
        env={**environment(scratch or Path(tempfile.gettempdir())), "NO_COLOR": "1"},
    )


def test_it_starts_rotates_and_leaves_nothing_after_ctrl_c(scratch: Path) -> None:
    with up(scratch) as running:
        exported = running.exported()
        store = boto3.client(
            "secretsmanager",
            endpoint_url=exported["AWS_ENDPOINT_URL"],
            region_name=exported["AWS_DEFAULT_REGION"],
            aws_access_key_id=exported["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=exported["AWS_SECRET_ACCESS_KEY"],
        )
        first = store.get_secret_value(SecretId="prod/app/db")["SecretString"]
        version = store.rotate_secret(SecretId="prod/app/db")["VersionId"]
        until(lambda: store.get_secret_value(SecretId="prod/app/db")["VersionId"] == version)
        second = store.get_secret_value(SecretId="prod/app/db")["SecretString"]
        login = json.loads(second)
        with psycopg.connect(
            host=login["host"],
            port=login["port"],
            user=login["username"],
            password=login["password"],
            dbname=login["dbname"],
        ) as connection:
            connection.execute("SELECT 1")
        started = descendants(running.process.pid)

        running.process.send_signal(signal.SIGINT)
        rest, _ = running.process.communicate(timeout=30)

    assert running.process.returncode == 0
    assert "Stopped. Nothing is left." in rest
    assert len(started) >= 3  # the server, its watchdog, a function
    assert not started & running_processes()
    assert left_in(scratch) == []
    for value in (first, second):
        assert json.loads(value)["password"] not in running.output + rest


def test_a_termination_is_as_clean_as_ctrl_c(scratch: Path) -> None:
    with up(scratch) as running:
        started = descendants(running.process.pid)
        running.process.send_signal(signal.SIGTERM)
        running.process.communicate(timeout=30)

    assert running.process.returncode == 0
    assert started
    assert not started & running_processes()
    assert left_in(scratch) == []


def test_ctrl_c_during_the_start_leaves_nothing(scratch: Path) -> None:
    process = subprocess.Popen(
        [*START, "local", "up"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env=environment(scratch),
    )
    until(lambda: any(scratch.glob("keyturn-pg-*")))

    process.send_signal(signal.SIGINT)

    assert process.wait(30) == 0
    until(lambda: left_in(scratch) == [])


def test_a_kill_leaves_nothing_either(scratch: Path) -> None:
    with up(scratch) as running:
        started = descendants(running.process.pid)
        running.process.kill()

    until(lambda: left_in(scratch) == [])
    until(lambda: not started & running_processes())


def test_the_printed_commands_work_with_the_aws_command_line(scratch: Path) -> None:
    if shutil.which("aws") is None:
        pytest.skip("needs the AWS CLI: pip install awscli")
    with up(scratch) as running:
        commands = [line for line in running.output.splitlines() if line.startswith("aws ")]
        assert len(commands) == 4

        done = [
            subprocess.run(
                ["/bin/sh", "-c", command],
                capture_output=True,
                check=False,
                env={**environment(scratch), **running.exported()},
            ).returncode
            for command in commands
        ]

    assert done == [0, 0, 0, 0]


def test_a_template_that_is_not_there_is_two_lines_and_no_traceback() -> None:
    done = run("local", "up", "--template", "no/such/template.yaml")

    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "Error: there is no no/such/template.yaml",
        "Give the path of a template.",
    ]


def test_a_start_that_fails_leaves_nothing(scratch: Path, tmp_path: Path) -> None:
    template = tmp_path / "template.yaml"
    template.write_text("Resources: {Topic: {Type: AWS::SNS::Topic}}")

    done = run("local", "up", "--template", str(template), scratch=scratch)

    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"Error: {template} has no resource named Secret",
        "Call the application's secret Secret.",
    ]
    assert left_in(scratch) == []


def test_a_missing_extra_is_named_with_the_command_that_installs_it() -> None:
    done = run("local", "up", prelude="import sys; sys.modules['moto'] = None")

    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "Error: moto: not installed",
        "Run pip install 'keyturn[local]'.",
    ]


def test_help_needs_no_extra() -> None:
    missing = "import sys; sys.modules.update(dict.fromkeys(['moto', 'boto3', 'psycopg']))"

    for arguments in (["--help"], ["local", "--help"], ["local", "up", "--help"], ["--version"]):
        assert run(*arguments, prelude=missing).returncode == 0


def test_tracebacks_show_no_locals() -> None:
    assert cli.app.pretty_exceptions_show_locals is False


def test_a_good_plan_is_said_to_be_one(tmp_path: Path) -> None:
    plan = tmp_path / "keyturn.yaml"
    plan.write_text("version: 1\nsecrets: {}\n")

    done = run("plan", "check", str(plan))

    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{plan} is a valid plan.\n"


def test_a_bad_plan_is_refused_without_a_traceback(tmp_path: Path) -> None:
    plan = tmp_path / "keyturn.yaml"
    plan.write_text("version: 1\nsecretss: {}\n")

    done = run("plan", "check", str(plan))

    assert done.returncode == 1
    assert "secretss" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_plans_schema_is_json() -> None:
    done = run("plan", "schema")

    assert done.returncode == 0, done.stderr
    assert isinstance(json.loads(done.stdout), dict)


def descendants(pid: int) -> set[int]:
    """Return the processes that *pid* and its children started."""
    listed = subprocess.run(
        ["ps", "-eo", "pid=,ppid="],  # noqa: S607  # wherever ps is
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    parents = {int(a): int(b) for a, b in (line.split() for line in listed.splitlines())}
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def running_processes() -> set[int]:
    """Return every process, but not those that have ended and wait to be collected."""
    listed = subprocess.run(
        ["ps", "-eo", "pid=,stat="],  # noqa: S607  # wherever ps is
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    rows = [line.split() for line in listed.splitlines()]
    return {int(pid) for pid, state in rows if not state.startswith("Z")}


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("keyturn"))


def until(condition: Callable[[], bool], limit_s: float = 30) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
