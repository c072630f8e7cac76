"""Planted mistakes are noticed, and go on fitting the source that they are planted in.

A sample of them here, another one in every run; all of them by `keyturn.testing.mutants`.
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from keyturn.testing.mutants import ROOT, Mutant, Rotten, every_mutant, mutated

MUTANTS = every_mutant()
QUICK = [m for m in MUTANTS if all(test.startswith("tests/unit/") for test in m.tests)]
"""They need no server: about a second each."""

SAMPLE = 8
"""Quick ones that a run of the whole suite can afford, and a few of the others besides."""

LEAKS = (
    "leak-debug-log",
    "leak-exception",
    "leak-return-value",
    "leak-repr",
    "leak-temporary-file",
)


def run(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "keyturn.testing.mutants", *options],
        cwd=ROOT / "functions",
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_fits_the_present_source(mutant: Mutant) -> None:
    """Its old text stands there exactly once, and every test that it names exists."""
    mutated(mutant, (ROOT / mutant.file).read_text(encoding="utf-8"))

    contracts = (ROOT / "functions/keyturn/testing/contracts.py").read_text(encoding="utf-8")
    for test in mutant.tests:
        file, *names = test.partition("[")[0].split("::")
        text = (ROOT / file).read_text(encoding="utf-8") + contracts
        assert names, f"{test} is a whole file"
        assert all(re.search(rf"^ *(?:def|class) {name}\b", text, re.MULTILINE) for name in names)


def test_mutants_have_names_and_a_sentence() -> None:
    assert len(MUTANTS) > 100
    assert Counter(mutant.name for mutant in MUTANTS).most_common(1)[0][1] == 1
    assert [mutant.name for mutant in MUTANTS if not re.fullmatch("[a-z0-9-]+", mutant.name)] == []
    assert [mutant.name for mutant in MUTANTS if not mutant.models.endswith(".")] == []
    assert {mutant.name for mutant in MUTANTS} > set(LEAKS)


def test_a_sample_is_killed() -> None:
    """Another one in each run: pytest-randomly seeds `random`, and shows the seed."""
    others = [mutant for mutant in MUTANTS if mutant not in QUICK]
    chosen = random.sample(QUICK, SAMPLE) + random.sample(others, 3)

    done = run(*(f"--only={mutant.name}" for mutant in chosen))

    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_no_mistake_survives_and_what_does_not_fit_is_named(tmp_path: Path) -> None:
    """A runner that cannot fail proves nothing."""
    shape = """
[[mutant]]
name = "{name}"
models = "Nothing."
file = "functions/keyturn/document.py"
old = "{old}"
new = "{new}"
tests = ["tests/unit/test_document.py::test_what_is_wrong_is_named"]
"""
    (tmp_path / "none.toml").write_text(
        shape.format(name="changes-nothing", old="The stored value:", new="The value:")
        + shape.format(name="has-rotted", old="was here in an older version", new="")
        + shape.format(name="does-not-run", old="_skip(text, at + 1)", new="_gone(text, at + 1)")
        + shape.format(name="is-no-python", old="from __future__", new="from from")
        + shape.format(name="is-a-mistake", old="member.key in seen:", new="member.key is seen:")
    )

    done = run("--from", str(tmp_path))

    assert done.returncode == 1
    verdicts = dict(re.findall(r"│ ([a-z-]+) +│ (\w+)", done.stdout))
    assert verdicts == {
        "changes-nothing": "SURVIVED",
        "has-rotted": "BROKEN",
        "does-not-run": "BROKEN",
        "is-no-python": "BROKEN",
        "is-a-mistake": "killed",
    }


def test_tests_that_fail_anyway_kill_nobody(tmp_path: Path) -> None:
    (tmp_path / "none.toml").write_text(
        """
[[mutant]]
name = "blames-others"
models = "Nothing."
file = "functions/keyturn/document.py"
old = "The stored value:"
new = "The value:"
tests = ["tests/unit/test_document.py::test_that_is_not_there"]
"""
    )

    done = run("--from", str(tmp_path))

    assert done.returncode == 1
    assert "the tests fail without any mutant" in done.stderr
    assert "test_that_is_not_there" in done.stderr


def test_a_name_that_no_mutant_has_is_an_error() -> None:
    done = run("--only", "nobody")

    assert done.returncode == 2
    assert "there is no mutant nobody" in done.stderr


@pytest.mark.parametrize(
    "old, new, why",
    [("x", "y", "0 times"), ("a", "b", "2 times"), ("b", "b", "is its old text")],
)
def test_what_does_not_fit_is_rotten(old: str, new: str, why: str) -> None:
    mutant = Mutant("name", "It models.", "file.py", old, new, ())

    with pytest.raises(Rotten, match=why):
        mutated(mutant, "a = b + a")
