"""The benchmark runs, reports what docs/bench.md says it does, and keeps the budgets that count.

Times are not judged here: on a machine that does other things they would fail for no reason.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from clouds import ROOT
from keyturn.local.postgres import find_system

COUNTS = {
    "store calls, single user": 10,
    "database connections, single user": 3,
    "failing logins, single user": 0,
}
ROWS = {
    *COUNTS,
    "store calls, alternating users",
    "database connections, alternating users",
    "failing logins, alternating users",
    "warm rotation, wall",
    "warm rotation, CPU",
    "warm rotation, wall, client kept",
    "peak memory",
    "import of our code, CPU",
    "import of our code, CPU, no bytecode",
    "size of dist/rotate-postgres.zip",
    "Cloud Function, first look, wall",
    "Cloud Function, ready, wall",
}
TLS_ROWS = {
    "warm rotation, TLS, wall",
    "warm rotation, TLS, CPU",
    "warm rotation, TLS, wall, client kept",
    "peak memory, TLS",
}
KEYS = {
    "report": {"machine", "rounds", "compared", "rows"},
    "machine": {"python", "system", "cores"},
    "row": {"name", "measured", "unit", "budget", "verdict", "note"},
}


def test_it_reports_every_row_and_the_counts_keep_their_budgets(tmp_path: Path) -> None:
    """One test for all of it: as several, xdist would run the benchmark on every worker."""
    out = tmp_path / "bench.json"
    expected = ROWS | (TLS_ROWS if find_system() else set())

    done = subprocess.run(
        [sys.executable, "bench/run.py", "--rounds=2", "--processes=1", f"--out={out}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(out.read_text())
    rows = {row["name"]: row for row in report["rows"]}
    assert set(rows) == expected
    assert [name for name in expected if name not in done.stdout] == []
    assert set(report) == KEYS["report"]
    assert set(report["machine"]) == KEYS["machine"]
    assert all(set(row) == KEYS["row"] for row in report["rows"])
    assert all(rows[name]["measured"] <= most for name, most in COUNTS.items())
    assert all(rows[name]["budget"] == most for name, most in COUNTS.items())
    assert all(rows[name]["verdict"] == "ok" for name in COUNTS)
    measured = [row for row in report["rows"] if row["unit"] and row["measured"] is not None]
    assert all(row["measured"] > 0 for row in measured)


def test_the_guide_names_every_key_of_the_report() -> None:
    guide = (ROOT / "docs" / "bench.md").read_text()

    keys = set[str]().union(*KEYS.values())

    assert sorted(key for key in keys if f"`{key}`" not in guide) == []
