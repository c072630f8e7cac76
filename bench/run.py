"""Measures what a rotation costs, beside what it would cost with nothing around it.

    make bench                      the full run, about a minute
    make bench ARGS=--strict        exit with 1 if a budget is exceeded
    make bench ARGS='--rounds 5'    a glance

Prints a table and writes bench/out/bench.json; docs/bench.md says how to read both. The budgets
are ratios and counts, taken in one run, because milliseconds say more about a machine than about
a program.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "functions"), str(ROOT / "tests")]

from bench import ready  # noqa: E402  # findable only now
from bench.scene import FUNCTIONS, Counts, Scene, Tls, import_cost  # noqa: E402  # the same

from keyturn.local.aws import LocalAws  # noqa: E402  # the same
from keyturn.local.postgres import Postgres, find_system  # noqa: E402  # the same
from keyturn.testing.faults import Proxy  # noqa: E402  # the same

ZIP = ROOT / "dist" / "rotate-postgres.zip"
OUT = ROOT / "bench" / "out" / "bench.json"

MAX_CALLS, MAX_CONNECTIONS, MAX_FAILING_LOGINS = 10, 3, 0
"""Per rotation of a single user, nothing going wrong (DESIGN, section 12)."""
MAX_RATIO = 1.25
"""Wall time of four warm steps over the floor's."""
MAX_IMPORT_MS = 30
"""CPU time of importing our own code, with bytecode."""
MAX_RSS_MB = 64
"""Where a MB is 1024 * 1024 bytes, as in what Lambda allots and reports."""
MAX_READY_RATIO = 1.3
"""From a Cloud Function's start to its first look at Secret Manager, over the floor's."""
MAX_ZIP_MB = 6
"""Where a MB is 1,000,000 bytes."""

HOST = "bench.abcdefghijkl.eu-west-1.rds.amazonaws.com"
"""How the database with TLS is called."""

WARM_UP = 3
"""Rotations of each kind before the first that counts."""

KEYTURN, FLOOR, KEPT = "keyturn", "floor", "floor with a kept client"

CAPTION = (
    "Floor: the same ten API calls and three logins, bare, one boto3 client per step, in the same"
    " process, taking turns with keyturn's handler. Servers in another process, on loopback."
    " x: ratio of medians. Import: CPU time beyond boto3, psycopg and powertools. Cloud Function:"
    " from the start of a process to its first answer, over the framework and a bare client."
)


@dataclass(frozen=True, slots=True)
class Row:
    """One measure.

    Attributes:
        budget: The most that is allowed; None if the row is there to compare with.
        note: What the number was made from.
    """

    name: str
    measured: float | None
    unit: str
    budget: float | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        """Say whether the budget was kept; nothing if there was no budget or no measure."""
        if self.budget is None or self.measured is None:
            return ""
        return "ok" if self.measured <= self.budget else "OVER"


def main() -> None:
    """Measure, print, write."""
    arguments = _arguments()
    with LocalAws(region="eu-west-1") as aws, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # The database's user has to read its certificate here.
        rows = [*_measure(aws, folder, arguments.rounds, arguments.processes)]
    _print(rows)
    _write(rows, arguments.rounds, arguments.out)
    if arguments.strict and any(row.verdict == "OVER" for row in rows):
        raise SystemExit(1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=40, help="rotations of each kind")
    parser.add_argument("--processes", type=int, default=11, help="fresh processes per measure")
    parser.add_argument("--strict", action="store_true", help="exit with 1 on any OVER")
    parser.add_argument("--out", type=Path, default=OUT, help="where the JSON goes")
    return parser.parse_args()


def _measure(aws: LocalAws, folder: Path, rounds: int, processes: int) -> Iterator[Row]:
    with Postgres() as server:
        scene = Scene(aws, server)
        yield from _counts(scene, server)
        yield from _times(scene, rounds, "")
        yield from _memory(scene, min(processes, 3), "")
        modules = scene.perform([scene.turn(KEYTURN, scene.secret())])["modules"]
    if find_system() is not None:
        with _over_tls(aws, folder) as scene:
            yield from _times(scene, rounds, ", TLS")
            yield from _memory(scene, min(processes, 3), ", TLS")
    yield from _imports(modules, folder / "functions", processes)
    yield _size()
    yield from _ready(processes)


# ---------------------------------------------------------------------------- counts


def _counts(scene: Scene, server: Postgres) -> Iterator[Row]:
    with Proxy(server.port) as proxy:
        single = scene.count(KEYTURN, scene.secret(port=proxy.port), proxy)
        bare = scene.count(FLOOR, scene.secret(port=proxy.port), proxy)
        if (bare.calls, bare.connections) != (single.calls, single.connections):
            raise SystemExit(f"the floor is none: it makes {bare}, keyturn {single}")
        yield from _count_rows(
            single, "single user", (MAX_CALLS, MAX_CONNECTIONS, MAX_FAILING_LOGINS)
        )
        yield from _count_rows(_alternating(scene, proxy), "alternating users")


def _alternating(scene: Scene, proxy: Proxy) -> Counts:
    """Count the second rotation: the first makes the second login."""
    ref = scene.secret(port=proxy.port)
    admin = scene.admin_secret(proxy.port, scene.user_of(ref))
    scene.change(ref, masterarn=admin)
    counted = [
        scene.count(KEYTURN, ref, proxy, KEYTURN_ADMIN_SECRETS="bench/admin*") for _ in range(2)
    ]
    return counted[1]


def _count_rows(
    counts: Counts, who: str, budgets: tuple[int | None, ...] = (None, None, None)
) -> Iterator[Row]:
    calls, connections, failing_logins = budgets
    yield Row(f"store calls, {who}", len(counts.calls), "", calls)
    yield Row(f"database connections, {who}", counts.connections, "", connections)
    yield Row(f"failing logins, {who}", counts.failing_logins, "", failing_logins)


# ---------------------------------------------------------------------------- times


def _times(scene: Scene, rounds: int, how: str) -> Iterator[Row]:
    whos = (KEYTURN, FLOOR, KEPT)
    turns = [
        scene.turn(who, scene.secret())
        for number in range(WARM_UP + rounds)
        # There and back: whatever drifts meanwhile meets all kinds alike.
        for who in (whos if number % 2 else whos[::-1])
    ]
    costs = scene.perform(turns)["costs"][WARM_UP * len(whos) :]
    wall = {who: _spread([c["wall_ms"] for c in costs if c["who"] == who]) for who in whos}
    cpu = {who: _spread([c["cpu_ms"] for c in costs if c["who"] == who]) for who in whos}
    yield _ratio(f"warm rotation{how}, wall", wall[KEYTURN], wall[FLOOR], MAX_RATIO)
    yield _ratio(f"warm rotation{how}, CPU", cpu[KEYTURN], cpu[FLOOR])
    yield _ratio(f"warm rotation{how}, wall, client kept", wall[KEYTURN], wall[KEPT])


@dataclass(frozen=True, slots=True)
class _Spread:
    median: float
    p90: float

    def __str__(self) -> str:
        return f"{self.median:.1f} ms (p90 {self.p90:.1f})"


def _spread(values: Sequence[float]) -> _Spread:
    p90 = statistics.quantiles(values, n=10)[8] if len(values) > 1 else values[0]
    return _Spread(statistics.median(values), p90)


def _ratio(name: str, ours: _Spread, floor: _Spread, budget: float | None = None) -> Row:
    return Row(name, ours.median / floor.median, "x", budget, f"{ours} / {floor}")


@contextmanager
def _over_tls(aws: LocalAws, folder: Path) -> Iterator[Scene]:
    """Start a database that looks like one of Amazon RDS, but for its authority."""
    from keyturn.local.postgres import system
    from keyturn.testing.certificates import Authority
    from keyturn.tls import RDS_ROOTS

    authority = Authority(folder, "bench")
    issued = authority.issue(HOST)
    bundle = folder / "bundle.pem"
    bundle.write_text(RDS_ROOTS.read_text() + authority.file.read_text())
    settings = {
        "ssl": "on",
        "ssl_cert_file": str(issued.certificate),
        "ssl_key_file": str(issued.key),
    }
    with Postgres(binaries=system(), settings=settings) as server:
        yield Scene(aws, server, tls=Tls(HOST, authority.file, bundle))


# ---------------------------------------------------------------------------- fresh processes


def _memory(scene: Scene, processes: int, how: str) -> Iterator[Row]:
    ours, bare = (
        statistics.median(
            scene.perform([scene.turn(who, scene.secret())])["peak_rss_bytes"] / 2**20
            for _ in range(processes)
        )
        for who in (KEYTURN, FLOOR)
    )
    yield Row(f"peak memory{how}", ours, "MB", MAX_RSS_MB, f"{ours:.1f} MB / {bare:.1f} MB")


def _imports(modules: Sequence[str], source: Path, processes: int) -> Iterator[Row]:
    shutil.copytree(FUNCTIONS, source, ignore=shutil.ignore_patterns("__pycache__"))
    import_cost(modules)  # writes the bytecode
    pairs = [(import_cost(modules), import_cost(modules, source)) for _ in range(processes)]
    compiled, plain = zip(*pairs, strict=True)
    others = {
        what: statistics.median(cost[what] for cost in compiled)
        for what in ("sdk_and_driver", "powertools")
    }
    note = "boto3, psycopg {sdk_and_driver:.0f} ms; powertools {powertools:.0f} ms".format(**others)
    ours = statistics.median(cost["own"] for cost in compiled)
    yield Row("import of our code, CPU", ours, "ms", MAX_IMPORT_MS, note)
    ours = statistics.median(cost["own"] for cost in plain)
    yield Row("import of our code, CPU, no bytecode", ours, "ms", None, "as in the zip")


def _size() -> Row:
    name = f"size of dist/{ZIP.name}"
    if not ZIP.exists():
        return Row(name, None, "MB", MAX_ZIP_MB, "not built: make build")
    return Row(name, ZIP.stat().st_size / 1e6, "MB", MAX_ZIP_MB)


def _ready(processes: int) -> Iterator[Row]:
    measured = ready.measure(processes)
    floor = _spread([1000 * each for each in measured.floor])
    for message, budget in (("first look", MAX_READY_RATIO), ("ready", None)):
        ours = _spread([1000 * each for each in measured.ours[message]])
        yield _ratio(f"Cloud Function, {message}, wall", ours, floor, budget)


# ---------------------------------------------------------------------------- report


def _print(rows: Sequence[Row]) -> None:
    table = Table(title="What a rotation costs", caption=CAPTION, caption_justify="left")
    for heading in ("", "measured", "budget", "", "ours / floor"):
        table.add_column(heading, justify="right" if heading in {"measured", "budget"} else "left")
    for row in rows:
        measured = "-" if row.measured is None else _shown(row.measured, row.unit)
        budget = "" if row.budget is None else f"<= {_shown(row.budget, row.unit)}"
        table.add_row(row.name, measured, budget, row.verdict, row.note)
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _shown(number: float, unit: str) -> str:
    match unit:
        case "x":
            return f"{number:.2f}x"
        case "":
            return f"{number:.0f}"
        case _:
            return f"{number:.3g} {unit}"


def _write(rows: Sequence[Row], rounds: int, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "machine": {
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
            "cores": os.cpu_count(),
        },
        "rounds": rounds,
        "compared": CAPTION,
        "rows": [asdict(row) | {"verdict": row.verdict} for row in rows],
    }
    out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
