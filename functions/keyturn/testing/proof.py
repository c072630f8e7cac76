"""`make proof`: the promises, shown on the real code, as one table per kind of proof.

    python -m keyturn.testing.proof [--only KIND] [--jobs N] [--every N] [--laboratory TEXT]

The explorer drives two workers in memory, through every interleaving within its bounds, and where
keys are minted one after the other, through every placement of two faults.
The crash sweep plays every scenario of every laboratory, shared out to as many processes as there
are processors, each with a store and a server of its own; `google` does so on the other store.
Exit code 1 if anything was found, or a server is missing.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing import connection
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console, JustifyMethod
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from keyturn.testing import followed, google_sweep, pickup, traces
from keyturn.testing.bench import Bench, Laboratory, Vault
from keyturn.testing.bench_aws import AwsVault
from keyturn.testing.bench_google import GoogleVault
from keyturn.testing.explorer import (
    CONFIGURATIONS,
    FAULTS,
    FAULTY,
    Counts,
    deviations_of,
    explore,
    faulty_table,
)
from keyturn.testing.explorer import table as explorer_table
from keyturn.testing.laboratories import LABORATORIES
from keyturn.testing.open_loop import RATE_PER_S, Load, load
from keyturn.testing.scene import Configuration
from keyturn.testing.sweep import Fault, Findings, Run, Scenario, points, scenarios

KINDS = ("lock_outs", "stuck", "reader_failures", "orphans", "foreign", "untested")


@dataclass
class Tally:
    """What the sweep of one laboratory came to, on one store."""

    laboratory: type[Laboratory]
    vault: Callable[[], Vault]
    points: tuple[int, ...]
    scenarios: tuple[Scenario, ...]
    played: int = 0
    found: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, laboratory: type[Laboratory], vault: Callable[[], Vault], every: int) -> Tally:
        """Count the points, and choose every so-manieth scenario."""
        with laboratory() as opened, Bench(opened, vault()) as bench:
            lines = points(bench)
        chosen = tuple(scenarios(lines))[::every]
        return cls(laboratory, vault, tuple(map(len, lines.values())), chosen)

    def add(self, scenario: Scenario, findings: Findings) -> None:
        """Count one scenario."""
        self.played += 1
        self.found.update({kind: bool(getattr(findings, kind)) for kind in (*KINDS, "healed")})
        if findings:
            self.examples.append(f"{scenario}: {asdict(findings)}")

    @property
    def is_clean(self) -> bool:
        """Tell whether all was played, and nothing was found."""
        return self.played == len(self.scenarios) and not self.examples


Share = tuple[type[Laboratory], Callable[[], Vault], tuple[Scenario, ...]]
"""One process's part of a laboratory's scenarios."""
Played = tuple[str, Scenario, Findings]
"""The laboratory's name, what was played, and what was found."""


def sweep(
    options: argparse.Namespace, console: Console, vault: Callable[[], Vault] = AwsVault
) -> bool:
    """Play the scenarios of all laboratories; print the table; tell whether it is clean."""
    chosen = [each for each in LABORATORIES if options.laboratory.lower() in each.NAME.lower()]
    if problems := missing(chosen) or ([] if chosen else ["no laboratory has that name"]):
        console.print("\n".join(problems), style="red", markup=False)
        return False
    tallies = {each.NAME: Tally.of(each, vault, options.every) for each in chosen}
    total = sum(len(tally.scenarios) for tally in tallies.values())
    try:
        with _progress(console, "crash sweep", total) as advance:
            for name, scenario, findings in _play(options.jobs, list(tallies.values())):
                tallies[name].add(scenario, findings)
                advance()
    finally:
        # Also when it is interrupted: what was played was played.
        _print(console, tallies.values())
    return all(tally.is_clean for tally in tallies.values())


def missing(laboratories: Iterable[type[Laboratory]]) -> list[str]:
    """Say what must be installed before anything can be proved."""
    return sorted({f"needs {e.SERVER}: {e.INSTALL}" for e in laboratories if not e.is_available()})


def _play(jobs: int, tallies: list[Tally]) -> Iterator[Played]:
    """Share the laboratories' scenarios out, and yield them as they are played."""
    return _shared_out(
        _in_laboratories,
        [
            [(each.laboratory, each.vault, each.scenarios[job::jobs]) for each in tallies]
            for job in range(jobs)
        ],
    )


def _in_laboratories(shares: list[Share]) -> Iterator[Played]:
    for laboratory, vault, chosen in shares:
        with laboratory() as opened, Bench(opened, vault()) as bench:
            for scenario in chosen:
                yield laboratory.NAME, scenario, Run(bench).play(scenario)


Part = TypeVar("Part")
Result = TypeVar("Result")


def _shared_out(
    play: Callable[[Part], Iterator[Result]], parts: Sequence[Part]
) -> Iterator[Result]:
    """Play each part in a process of its own, and yield the results as they come."""
    context = multiprocessing.get_context("spawn")
    played: Queue[Any] = context.Queue()
    processes = [
        # Daemons end with us if we end in good order.
        context.Process(target=_work, args=[play, part, played], daemon=True)
        for part in parts
    ]
    for process in processes:
        process.start()
    left = len(processes)
    while left:
        result = played.get()
        if result is None:
            left -= 1
        else:
            yield result
    for process in processes:
        process.join()


def _work(play: Callable[[Any], Iterator[Any]], part: Any, played: Queue[Any]) -> None:
    _watch_our_parent()
    try:
        for result in play(part):
            played.put(result)
    finally:
        played.put(None)


def _watch_our_parent() -> None:
    threading.Thread(target=_end_with_our_parent, daemon=True).start()


def _end_with_our_parent() -> None:
    """End when whoever started us has ended, killed or not; what we started sees that we have."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _print(console: Console, tallies: Collection[Tally]) -> None:
    table = Table(title="Crash sweep: every external call broken, one more run to mend it")
    for column in ("target, strategy", "points", "scenarios", *KINDS, "healed"):
        is_first = "," in column
        justify: JustifyMethod = "left" if is_first else "right"
        table.add_column(column.replace("_", " "), justify=justify, no_wrap=is_first)
    for tally in tallies:
        found = [str(tally.found[kind]) for kind in (*KINDS, "healed")]
        counted = " + ".join(map(str, tally.points))
        table.add_row(tally.laboratory.NAME, counted, str(tally.played), *found)
    console.print(table)
    faults = Counter(each.fault for tally in tallies for each in tally.scenarios)
    console.print(
        "points: external calls of the first and of a later rotation, each with every fault"
        " that it can have and up to 3 recoveries:\n"
        + "; ".join(f"{fault.value} {faults[fault]}" for fault in Fault)
        + ".\nhealed: current was broken by something that arrived after another rotation had come"
        " and gone, and the next run mended it. Not counted as a failure, and not prevented.",
        highlight=False,
    )
    for tally in tallies:
        for example in tally.examples[:10]:
            console.print(f"  {example}", style="red", markup=False)
        if left := len(tally.scenarios) - tally.played:
            console.print(f"  {tally.laboratory.NAME}: {left} were not played", style="red")


class _progress:  # noqa: N801  # used like a function
    """Show how far long work is: a bar, or, where the output is kept, a line each minute."""

    def __init__(self, console: Console, what: str, total: int) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._console, self._what, self._total = console, what, total

    def __enter__(self) -> Callable[[], None]:
        self._started = self._told = time.monotonic()
        self._progress.start()
        self._task = self._progress.add_task(self._what, total=self._total)
        return self._advance

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        self._tell()

    def _advance(self) -> None:
        self._progress.advance(self._task)
        if not self._console.is_terminal and time.monotonic() - self._told >= LINE_EACH_S:
            self._tell()

    def _tell(self) -> None:
        self._told = time.monotonic()
        done = f"{self._progress.tasks[self._task].completed:.0f} of {self._total}"
        self._console.print(f"{self._what}: {done} in {self._told - self._started:.0f} s")


LINE_EACH_S = 60.0
"""Seconds between two lines about work that nobody watches."""


def load_test(options: argparse.Namespace, console: Console) -> bool:
    """Log in at a fixed rate while rotations run; print the table; tell whether it is clean."""
    chosen = [each for each in LABORATORIES if options.laboratory.lower() in each.NAME.lower()]
    if problems := missing(chosen):
        console.print("\n".join(problems), style="red", markup=False)
        return False
    seen: dict[type[Laboratory], Load] = {}
    with _progress(console, "open-loop client", len(chosen) * ROTATIONS) as advance:
        for each in chosen:
            with each() as opened, Bench(opened, AwsVault()) as bench:
                seen[each] = load(bench, rotations=ROTATIONS, report=advance)
    table = Table(title=f"{RATE_PER_S} logins a second, answered or not, under rotations")
    for column in ("target, strategy", "rotations", "logins", "a second", "refused", "99 % in ms"):
        table.add_column(column, justify="left" if "," in column else "right")
    for laboratory, found in seen.items():
        numbers = (found.rotations, len(found.took_ms), found.rate_per_s, found.refused)
        row = [f"{number:.0f}" for number in (*numbers, found.p99_ms)]
        table.add_row(laboratory.NAME, *row)
    console.print(table)
    console.print("refused: with one slot some are; with two, none may be.")
    for failure in (each for found in seen.values() for each in found.failed):
        console.print(f"  {failure}", style="red", markup=False)
    return all(
        found.rotations == ROTATIONS and (found.refused == 0 or laboratory.SLOTS == 1)
        for laboratory, found in seen.items()
    )


ROTATIONS = 100
"""Per laboratory."""


def schedules(options: argparse.Namespace, console: Console) -> bool:
    """Explore every schedule of two workers; print the tables; tell whether they are clean."""
    with _progress(console, "schedule explorer", len(CONFIGURATIONS) + len(FAULTY)) as advance:
        met = explored(options.jobs, interleaved, CONFIGURATIONS, advance)
        mended = explored(options.jobs, faulty, FAULTY, advance)
    console.print("Two workers, every interleaving up to three preemptions, or two and a fault;")
    console.print("where keys are minted, up to two, or one and a fault")
    console.print(explorer_table(met), markup=False, highlight=False)
    console.print("\nMinted keys, one worker after the other, every placement of up to two faults")
    console.print(faulty_table(mended), markup=False, highlight=False)
    for found in (ran for counts in met + mended for ran in counts.examples.values()):
        console.print(f"{found.script}\n{found}", markup=False)
    return all(counts.is_clean for counts in met + mended)


def explored(
    jobs: int,
    search: Callable[[Configuration], Counts],
    configurations: Iterable[Configuration],
    advance: Callable[[], None],
) -> list[Counts]:
    """Search them all, in as many processes, and return what was found in their order."""
    found = []
    with multiprocessing.get_context("spawn").Pool(jobs, _watch_our_parent) as pool:
        for counts in pool.imap(search, configurations):
            found.append(counts)
            advance()
    return found


def interleaved(configuration: Configuration) -> Counts:
    """Explore two workers that meet."""
    return explore(configuration, deviations=deviations_of(configuration))


def faulty(configuration: Configuration) -> Counts:
    """Explore one worker after the other, with faults."""
    return explore(configuration, preemptions=0, faults=FAULTS)


def follow_up(options: argparse.Namespace, console: Console) -> bool:
    """Break the follow-up at every call, in memory and in a cluster, and simulate pickups."""
    broken = [
        _break_every(console, title, every[:: options.every], play)
        for title, every, play in (
            ("follow-up, every call broken", list(followed.scenarios()), followed.play),
            ("the same in a cluster", followed.scenarios_in_cluster(), followed.play_in_cluster),
        )
    ]
    with _progress(console, "pickups", len(pickup.Policy)) as advance:
        tallies = []
        for policy in pickup.Policy:
            tallies.append(pickup.simulate(policy, PICKUPS))
            advance()
    console.print(pickup.table(tallies), markup=False, highlight=False)
    return not (any(broken) or tallies[0].failed or tallies[0].wrong)


def _break_every(
    console: Console,
    title: str,
    chosen: Sequence[followed.Scenario],
    play: Callable[[followed.Scenario], followed.Scene],
) -> bool:
    """Play the scenarios, print the table, and tell whether a promise was broken."""
    tally = followed.Tally()
    with _progress(console, title, len(chosen)) as advance:
        for scenario in chosen:
            tally.add(scenario, play(scenario))
            advance()
    console.print(title, followed.table(tally), sep="\n", markup=False, highlight=False)
    return bool(tally.violations)


PICKUPS = 1000
"""Rotations under each policy."""


def google(options: argparse.Namespace, console: Console) -> bool:
    """Compare both stores; break a rotation on Google's at every call, in memory and on servers."""
    # All, whatever the first one finds.
    return all(
        [
            _side_by_side(options, console),
            _google_in_memory(options, console),
            sweep(options, console, GoogleVault),
        ]
    )


def _side_by_side(options: argparse.Namespace, console: Console) -> bool:
    """Make the same calls on both stores; print in what they differed."""
    compared = traces.Compared()
    chosen = list(traces.generated("proof", TRACES))[:: options.every]
    with traces.Pairing() as pairing, _progress(console, "both stores", len(chosen)) as advance:
        for strategy, trace in chosen:
            pairing.compare(strategy, trace, compared)
            advance()
    console.print(traces.table(compared), markup=False, highlight=False)
    return not compared.unknown


TRACES = 3_000
"""Generated ones."""


def _google_in_memory(options: argparse.Namespace, console: Console) -> bool:
    title, tally = "rotation on Secret Manager, every call broken", google_sweep.Tally()
    with google_sweep.Sweep() as sweep:
        chosen = list(sweep.scenarios())[:: options.every]
    parts = [chosen[job :: options.jobs] for job in range(options.jobs)]
    with _progress(console, title, len(chosen)) as advance:
        for scenario, outcome in _shared_out(_on_secret_manager, parts):
            tally.add(scenario, outcome)
            advance()
    console.print(title, google_sweep.table(tally), sep="\n", markup=False, highlight=False)
    return tally.played == len(chosen) and not tally.violations


def _on_secret_manager(
    chosen: Sequence[google_sweep.Scenario],
) -> Iterator[tuple[google_sweep.Scenario, google_sweep.Outcome]]:
    with google_sweep.Sweep() as sweep:
        for scenario in chosen:
            yield scenario, sweep.play(scenario).outcome()


def mutants(options: argparse.Namespace, console: Console) -> bool:
    """Plant every mistake, and see each killed. In a process that has not imported our code."""
    del options, console
    command = [sys.executable, "-m", "keyturn.testing.mutants"]
    return subprocess.run(command, check=False).returncode == 0


def properties(options: argparse.Namespace, console: Console) -> bool:
    """Send 10,000 names and passwords through every engine; needs the checkout's tests."""
    del options
    console.print("properties: 10,000 names and passwords, through every engine")
    tests = sorted(str(path) for path in Path("tests/integration").glob("test_*_properties.py"))
    command = [sys.executable, "-m", "pytest", "-q", "--hypothesis-profile=proof", *tests]
    return subprocess.run(command, check=False).returncode == 0


def uniformity(options: argparse.Namespace, console: Console) -> bool:
    """Draw 10^6 passwords, and compare with what is exact; needs the checkout's tests."""
    del options
    console.print("uniformity: 10^6 passwords, every position and class, by chi-square")
    tests = "tests/unit/test_generate.py::TestUniformity"
    # Without the canary, which keeps and searches for every secret that is made.
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:canary"]
    command = [*pytest, "--hypothesis-profile=proof", tests]
    return subprocess.run(command, check=False).returncode == 0


def copies(options: argparse.Namespace, console: Console) -> bool:
    """Seal 1,000 values and have others open them, and back; needs the checkout's tests."""
    del options
    console.print("copies: 1,000 random values, sealed and opened by us and by AWS's own tools")
    # Without the canary, which keeps and searches for every secret that is made.
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:canary"]
    command = [*pytest, "--hypothesis-profile=proof", "tests/integration/test_sealed_copies.py"]
    return subprocess.run(command, check=False).returncode == 0


PROOFS: dict[str, Callable[[argparse.Namespace, Console], bool]] = {
    "sweep": sweep,
    "load": load_test,
    "schedules": schedules,
    "follow-up": follow_up,
    "google": google,
    "mutants": mutants,
    "properties": properties,
    "uniformity": uniformity,
    "copies": copies,
}


def main() -> int:
    """Run the proofs that were asked for."""
    parser = argparse.ArgumentParser(prog="make proof", description=__doc__.split("\n")[0])
    parser.add_argument("--only", choices=PROOFS, help="one kind of proof")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--every", type=int, default=1, help="play every n-th scenario only")
    parser.add_argument("--laboratory", default="", help="sweep those with this in their name")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    console = Console() if sys.stdout.isatty() else Console(width=120)
    chosen = [options.only] if options.only else list(PROOFS)
    results = [PROOFS[name](options, console) for name in chosen]
    console.print("clean" if all(results) else "NOT clean", style="bold")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
