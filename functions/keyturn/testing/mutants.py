"""Mutants: planted mistakes, each of which the tests that are named for it must notice.

    python -m keyturn.testing.mutants [--only NAME] [--from FOLDER]

A mutant is an entry in `mutants/*.toml`: what it models, a text that stands exactly once in one
file, what stands there instead, and the tests that must fail then. It is planted in a copy of the
project in a temporary folder, never in the checkout.

    killed     a test failed, as it must
    SURVIVED   every test passed: a test is missing, or the mutant is no mistake
    BROKEN     it does not apply, does not run, or names tests that are not there; it has rotted
    not run    its tests were skipped, for want of a server

First the same tests run without any mutant, since a test that fails anyway kills nobody. Each run
is a fork of this process, which has imported what is slow to import and none of the code under
test.
Exit code 1 unless every mutant was killed or not run.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import tomllib
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from rich.console import Console

ROOT = Path(__file__).parents[3]
FOLDER = Path(__file__).with_suffix("")
"""Where the mutants are."""

TIMEOUT_S = 120.0
"""For one mutant's tests: several times what the slowest takes."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A planted mistake.

    Attributes:
        name: Short, and its own.
        models: The mistake that a peer has made, or the rule of the design that it undoes.
        file: Where it is planted, from the root of the project.
        old: What stands there now, exactly once.
        new: What stands there instead.
        tests: What must notice, as pytest takes it.
    """

    name: str
    models: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


class Rotten(Exception):
    """A mutant does not fit the present source."""


class Verdict(StrEnum):
    """What became of a mutant."""

    KILLED = "killed"
    SURVIVED = "SURVIVED"
    BROKEN = "BROKEN"
    NOT_RUN = "not run"


@dataclass(frozen=True, slots=True)
class Result:
    """A mutant's verdict, with the test that killed it or what else there is to say."""

    mutant: Mutant
    verdict: Verdict
    reason: str
    elapsed_s: float


def every_mutant(folder: Path = FOLDER) -> list[Mutant]:
    """Read the mutants, file by file. A key that is unknown or missing is a TypeError."""
    return [
        Mutant(**{**entry, "tests": tuple(entry["tests"])})
        for file in sorted(folder.glob("*.toml"))
        for entry in tomllib.loads(file.read_text(encoding="utf-8"))["mutant"]
    ]


def mutated(mutant: Mutant, source: str) -> str:
    """Return *source* with the mutant in it.

    Raises:
        Rotten: The old text does not stand there exactly once, or what results is no Python.
    """
    count = source.count(mutant.old)
    if count != 1:
        raise Rotten(f"its old text stands {count} times in {mutant.file}, not once")
    if mutant.old == mutant.new:
        raise Rotten("its new text is its old text")
    changed = source.replace(mutant.old, mutant.new)
    if not mutant.file.endswith(".py"):  # of a template its own tests say that
        return changed
    try:
        ast.parse(changed)
    except SyntaxError as error:
        raise Rotten(f"what it makes of {mutant.file} is no Python: {error.msg}") from None
    return changed


@contextmanager
def copy_of_the_project() -> Iterator[Path]:
    """Copy what the tests read to a temporary folder, and remove it afterwards."""
    with tempfile.TemporaryDirectory(prefix="keyturn-mutants-") as name:
        copy = Path(name)
        for part in _PARTS:
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, copy / part, ignore=_GENERATED)
            elif (ROOT / part).exists():
                shutil.copy2(ROOT / part, copy / part)
        for part in _SERVERS:
            if (ROOT / part).exists():
                (copy / part).symlink_to((ROOT / part).resolve())
        yield copy


_PARTS = ("functions", "tests", "events", "docs", "infra", "pyproject.toml")
_SERVERS = (".mysql",)
"""Unpacked beside the project: too big to copy, and nothing is planted there."""
_GENERATED = shutil.ignore_patterns("__pycache__", "*.pyc", ".hypothesis")


def run(mutants: Sequence[Mutant], report: Callable[[Result], None]) -> list[Result]:
    """Plant one mutant after the other, and report each as soon as it is known.

    Raises:
        Rotten: The tests fail without any mutant.
    """
    _warm_up()
    with copy_of_the_project() as copy:
        _require_a_clean_baseline(copy, mutants)
        results = []
        for mutant in mutants:
            results.append(_judge(copy, mutant))
            report(results[-1])
        return results


def _require_a_clean_baseline(copy: Path, mutants: Sequence[Mutant]) -> None:
    tests = list(dict.fromkeys(test for mutant in mutants for test in mutant.tests))
    seen = _run_tests(copy, tests, TIMEOUT_S * len(tests))
    if seen.code not in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}:
        raise Rotten(f"the tests fail without any mutant:\n{seen.output}")


def _judge(copy: Path, mutant: Mutant) -> Result:
    started = time.monotonic()
    file = copy / mutant.file
    present = file.read_text(encoding="utf-8") if file.is_file() else ""
    try:
        file.write_text(mutated(mutant, present), encoding="utf-8")
        verdict, reason = _verdict(_run_tests(copy, mutant.tests, TIMEOUT_S))
    except Rotten as error:
        verdict, reason = Verdict.BROKEN, str(error)
    finally:
        file.write_text(present, encoding="utf-8")
    return Result(mutant, verdict, reason, time.monotonic() - started)


@dataclass(frozen=True, slots=True)
class _Seen:
    """How a run of pytest ended."""

    code: int
    killer: str = ""
    why: str = ""
    passed: int = 0
    output: str = ""


_NO_MISTAKE = ("NameError", "ImportError", "ModuleNotFoundError", "UnboundLocalError")
"""A mutant that fails for one of these was never a mistake anybody could have made."""


_NEXT = "\n"


def _verdict(seen: _Seen) -> tuple[Verdict, str]:
    if seen.code == pytest.ExitCode.TESTS_FAILED:
        if any(name in seen.why for name in _NO_MISTAKE):
            return Verdict.BROKEN, f"it does not run: {seen.why}"
        return Verdict.KILLED, seen.killer or "the whole run"
    if seen.code != pytest.ExitCode.OK:
        return Verdict.BROKEN, f"pytest ended with {seen.code}: {seen.output.rpartition(_NEXT)[2]}"
    if not seen.passed:
        return Verdict.NOT_RUN, "every test was skipped"
    return Verdict.SURVIVED, f"{seen.passed} tests passed"


# ---------------------------------------------------------------------------- one run


class _Witness:
    """A pytest plugin that remembers the first failure."""

    def __init__(self) -> None:
        self.killer = self.why = ""
        self.passed = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Look at each phase of each test."""
        self.passed += report.passed and report.when == "call"
        if report.failed and not self.killer:
            crash = getattr(report.longrepr, "reprcrash", None)
            self.killer = report.nodeid
            self.why = getattr(crash, "message", "").partition("\n")[0]


def _run_tests(copy: Path, tests: Iterable[str], timeout_s: float) -> _Seen:
    """Run *tests* on the copy, in a fork, up to the first that fails."""
    answer, output = copy / "seen.json", copy / "output.txt"
    answer.unlink(missing_ok=True)
    pid = os.fork()
    if pid == 0:
        _be_pytest(copy, tests, answer, output)
    if not _has_ended(pid, timeout_s):
        return _Seen(-1, output=f"killed after {timeout_s:.0f} s")
    if not answer.exists():
        return _Seen(-1, output=_last_lines(output))
    return _Seen(**json.loads(answer.read_text()), output=_last_lines(output))


def _be_pytest(copy: Path, tests: Iterable[str], answer: Path, output: Path) -> None:
    """Become a process that runs tests of the copy, and end. Never returns."""
    try:
        os.setsid()
        line = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(line, 1)
        os.dup2(line, 2)
        _move_to(copy)
        witness = _Witness()
        code = pytest.main([*_OPTIONS, *tests], plugins=[witness])
        answer.write_text(
            json.dumps(
                {
                    "code": int(code),
                    "killer": witness.killer,
                    "why": witness.why,
                    "passed": witness.passed,
                }
            )
        )
    except BaseException:  # noqa: BLE001  # a fork must not go on as its parent
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(0)


_OPTIONS = [
    *["-x", "-q", "--tb=short", "-p", "no:cacheprovider", "-p", "no:xdist"],
    *["-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning"],
]


def _move_to(copy: Path) -> None:
    """Let this process, and whatever it starts, see the code of the copy and no other."""
    os.chdir(copy)
    ours = [str(copy / "functions"), str(copy / "tests")]
    theirs = {"", str(ROOT), str(ROOT / "functions"), str(ROOT / "tests")}
    sys.path[:] = ours + [path for path in sys.path if path not in theirs]
    os.environ["PYTHONPATH"] = os.pathsep.join(ours)
    # A mutant may be as old and as long as what it replaces: bytecode would pass for its own.
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = True
    for name in [name for name in sys.modules if name.partition(".")[0] == "keyturn"]:
        del sys.modules[name]


def _has_ended(pid: int, timeout_s: float) -> bool:
    """Wait for the fork; end it, with all that it has started, when its time is over."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return True
        time.sleep(0.02)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False


def _last_lines(output: Path) -> str:
    lines = output.read_text(errors="replace").rstrip().split(_NEXT) if output.exists() else []
    return _NEXT.join(lines[-20:])


_SLOW_TO_IMPORT = (
    "aws_lambda_powertools.metrics",
    "boto3",
    "cryptography.x509",
    "hypothesis",
    "moto.cloudformation",
    "moto.moto_server.werkzeug_app",
    "moto.secretsmanager.models",
    "msgspec",
    "psycopg",
    "rich.console",
    "yaml",
)


def _warm_up() -> None:
    for name in _SLOW_TO_IMPORT:
        importlib.import_module(name)


# ---------------------------------------------------------------------------- the command


def main() -> int:
    """Run the mutants that were asked for; progress on standard error, a table at the end."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", action="append", metavar="NAME", help="may be given repeatedly")
    parser.add_argument("--from", dest="folder", type=Path, default=FOLDER, help="other mutants")
    options = parser.parse_args()
    found = every_mutant(options.folder)
    unknown = set(options.only or []) - {mutant.name for mutant in found}
    if unknown:
        parser.error(f"there is no mutant {min(unknown)}")
    chosen = [mutant for mutant in found if not options.only or mutant.name in options.only]
    try:
        results = _run_and_show(chosen)
    except Rotten as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return int(any(r.verdict in {Verdict.SURVIVED, Verdict.BROKEN} for r in results))


def _run_and_show(chosen: Sequence[Mutant]) -> list[Result]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("the tests, without a mutant", total=len(chosen))

        def report(result: Result) -> None:
            progress.update(task, advance=1, description="mutants")
            if result.verdict is not Verdict.KILLED:
                progress.console.print(f"{result.mutant.name}: {result.verdict}: {result.reason}")

        results = run(chosen, report)
    _print(Console() if sys.stdout.isatty() else Console(width=150), results)
    return results


def _print(console: Console, results: Sequence[Result]) -> None:
    from rich.table import Table

    table = Table("mutant", "", "by", title="Mutants")
    table.add_column("s", justify="right")
    for result in results:
        by = result.reason.removeprefix("tests/")
        table.add_row(result.mutant.name, result.verdict, by, f"{result.elapsed_s:.1f}")
    console.print(table)
    counted = [result.verdict for result in results]
    console.print(", ".join(f"{counted.count(each)} {each}" for each in Verdict))


if __name__ == "__main__":
    sys.exit(main())
