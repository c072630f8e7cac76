"""What the demo saw, and what follows from it. Pure: no clock, no store, no database, no secret.

    Look     what the store served as current at a moment
    Try      whether the database accepted one version's login at a moment
    Login    the application: read what is current, log in with it, SELECT 1
    StepRun  one step of a rotation, from the function's own log

Looks and tries are samples; `spans` turns them into a timeline whose edges lie halfway between
two samples that differ. `demo` makes recordings, `demo_terminal` and `demo_page` show them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from statistics import median
from typing import Generic, TypeVar

from keyturn.model import Step, Strategy

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Cloud:
    """Whose store it is, in words.

    Attributes:
        current: How readers name the version that the store serves.
        alerts: What tells people.
        simulated: What of it is not real here.
    """

    current: str
    alerts: str
    simulated: str


AWS = Cloud("AWSCURRENT", "SNS", "AWS simulated (IAM and STS, too)")
GOOGLE = Cloud("latest", "Pub/Sub", "Google Cloud simulated")


class Verdict(Enum):
    """How one login of the application ended.

    A login that is refused is tried once more, with a fresh read. FRESH_READ: the store served
    another version by then, and that one logged in. FAILED: everything else.
    """

    IN = "in"
    FRESH_READ = "fresh read"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class KnownVersion:
    """One version of the secret. Never its password."""

    version_id: str
    user: str


@dataclass(frozen=True, slots=True)
class Look:
    """The store served this version as current."""

    at_s: float
    version_id: str


@dataclass(frozen=True, slots=True)
class Try:
    """The database was tried with this version's login."""

    at_s: float
    version_id: str
    accepted: bool


@dataclass(frozen=True, slots=True)
class Login:
    """The application wanted in. *version_id* is what it read first."""

    began_s: float
    ended_s: float
    version_id: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class StepRun:
    """One step, as the function logged it.

    Attributes:
        error: Class and reason of its failure; "" if it succeeded.
    """

    rotation_id: str
    step: Step
    ended_s: float
    elapsed_ms: int
    error: str = ""

    @property
    def began_s(self) -> float:
        """When the step began."""
        return self.ended_s - self.elapsed_ms / 1000


@dataclass(frozen=True, slots=True)
class Rotated:
    """One rotation, from the call that asked for it until nothing ran any more.

    Attributes:
        finished: The version is what the store serves as current.
        store_calls: How often the function called the store.
    """

    version_id: str
    began_s: float
    ended_s: float
    finished: bool
    store_calls: int


@dataclass(frozen=True, slots=True)
class Recording:
    """One run of one strategy. Times are seconds since its beginning.

    Attributes:
        database: What was rotated, for people: `PostgreSQL`.
        strategy: None for an access key, which has none: it is minted.
        wanted: How many rotations there were to be.
        versions: In the order in which they appeared.
    """

    database: str
    strategy: Strategy | None
    wanted: int
    length_s: float
    versions: tuple[KnownVersion, ...]
    rotations: tuple[Rotated, ...]
    steps: tuple[StepRun, ...]
    looks: tuple[Look, ...]
    tries: tuple[Try, ...]
    logins: tuple[Login, ...]
    cloud: Cloud = AWS

    @property
    def title(self) -> str:
        """What it is called beside others."""
        return self.strategy.value if self.strategy is not None else ACCESS_KEY


ACCESS_KEY = "IAM key"
"""In the place of a strategy's name."""


@dataclass(frozen=True, slots=True)
class Span(Generic[T]):
    """Something that stayed the same for a time."""

    start_s: float
    end_s: float
    value: T


# ---------------------------------------------------------------------------- timelines


def spans(samples: Sequence[tuple[float, T]], end_s: float) -> list[Span[T]]:
    """Return what was the case when, from the first sample until *end_s*."""
    ordered = sorted(samples, key=lambda sample: sample[0])
    if not ordered:
        return []
    found: list[Span[T]] = []
    start_s, value = ordered[0]
    for (before_s, _), (at_s, seen) in pairwise(ordered):
        if seen != value:
            edge_s = (before_s + at_s) / 2
            found.append(Span(start_s, edge_s, value))
            start_s, value = edge_s, seen
    return [*found, Span(start_s, end_s, value)]


def accepted(recording: Recording, version_id: str) -> list[Span[bool]]:
    """Return when the database accepted a version's login and when it refused it."""
    tries = [(t.at_s, t.accepted) for t in recording.tries if t.version_id == version_id]
    return spans(tries, recording.length_s)


def served(recording: Recording) -> list[Span[str]]:
    """Return which version was current when."""
    return spans([(look.at_s, look.version_id) for look in recording.looks], recording.length_s)


def gaps(recording: Recording) -> list[Span[str]]:
    """Return when what the store served was refused by the database."""
    return [
        Span(max(now.start_s, no.start_s), min(now.end_s, no.end_s), now.value)
        for now in served(recording)
        for no in accepted(recording, now.value)
        if not no.value and max(now.start_s, no.start_s) < min(now.end_s, no.end_s)
    ]


def gaps_ms(recording: Recording) -> list[float]:
    """Return, for each rotation, how long what the store served was refused."""
    limits = [rotation.began_s for rotation in recording.rotations] + [recording.length_s]
    return [
        sum(1000 * (g.end_s - g.start_s) for g in gaps(recording) if begin <= g.start_s < end)
        for begin, end in pairwise(limits)
    ]


# ---------------------------------------------------------------------------- results


def count(recording: Recording, verdict: Verdict) -> int:
    """Return how many logins ended so."""
    return sum(login.verdict is verdict for login in recording.logins)


def refused_logins(recording: Recording) -> int:
    """Return how many logins did not work at once."""
    return len(recording.logins) - count(recording, Verdict.IN)


def resolution_ms(recording: Recording) -> float:
    """Return the median time from one try of a version to the next; 0 if there are too few."""
    pauses: list[float] = []
    for version in recording.versions:
        times = sorted(t.at_s for t in recording.tries if t.version_id == version.version_id)
        pauses += [1000 * (after - before) for before, after in pairwise(times)]
    return median(pauses) if pauses else 0.0


def is_good(recording: Recording) -> bool:
    """Tell whether all went as promised: rotations finish; with two slots no login is refused."""
    finished = sum(rotation.finished for rotation in recording.rotations)
    all_in = refused_logins(recording) == 0 < len(recording.logins)
    may_refuse = recording.strategy is Strategy.SINGLE_USER
    return finished == recording.wanted and (may_refuse or all_in)


def figures(recording: Recording) -> list[tuple[str, str]]:
    """Return what there is to say in numbers, each with its name."""
    finished = sum(rotation.finished for rotation in recording.rotations)
    return [
        ("Rotations finished", f"{finished} of {recording.wanted}"),
        ("Logins", str(len(recording.logins))),
        ("Failed logins", str(count(recording, Verdict.FAILED))),
        ("In after a fresh read", str(count(recording, Verdict.FRESH_READ))),
        ("Current refused", _gap(recording)),
        *((f"Step {step.value}, median", _median_ms(recording, step)) for step in Step),
        ("Store calls per rotation", _range([r.store_calls for r in recording.rotations])),
    ]


def failures(recording: Recording) -> list[str]:
    """Return what went wrong, one line each."""
    failed = [run for run in recording.steps if run.error]
    # A rotation is tried twice, and mostly fails of the same.
    lines = list(dict.fromkeys(f"step {run.step.value} failed: {run.error}" for run in failed))
    lines += [f"rotation {r.version_id} did not finish" for r in _unfinished(recording)]
    refused = refused_logins(recording)
    if refused and recording.strategy is not Strategy.SINGLE_USER:
        lines.append(f"{refused} logins were refused, and none may be")
    if not recording.logins:
        lines.append("the application never tried to log in")
    return lines


def verdict(recording: Recording) -> str:
    """Say what was seen, and why it is so."""
    if not is_good(recording):
        return "This is not as promised: " + "; ".join(failures(recording)) + "."
    if recording.strategy is Strategy.ALTERNATING_USERS:
        return (
            "No login failed. Two users take turns: the password that changes is never the one"
            " that the store serves."
        )
    if recording.strategy is Strategy.DUAL_PASSWORD:
        return (
            "No login failed. One user has two passwords at a time: what the store serves goes on"
            " working until the rotation after the next."
        )
    if recording.strategy is None:
        return (
            "No login failed. The new key is served once it has worked three times, a second apart."
            " The old one goes on working until the next rotation deletes it, an hour later at the"
            " earliest."
        )
    return (
        f"{_seen_gap(recording)} One user has one password: from set to finish the database knows"
        " only the new one, and the store still serves the old one. Clients that keep trying with"
        " fresh reads get through it; with two users, or two passwords, there is no such time."
    )


def method(cloud: Cloud) -> str:
    """Say how the figures are come by."""
    key = "; with an access key, it asks STS whose it is" if cloud is AWS else ""
    return (
        f"A login: the application reads {cloud.current} from the store, logs in with it, SELECT"
        f" 1{key}. One that is refused is tried once more, with a fresh read. It is in after a"
        " fresh read if the store served another version by then and that one worked; else it"
        " failed. The prober, which tries every version all the time, is not counted. How long"
        " current was refused is the median of the rotations."
    )


def _unfinished(recording: Recording) -> list[Rotated]:
    return [rotation for rotation in recording.rotations if not rotation.finished]


def _gap(recording: Recording) -> str:
    found = gaps_ms(recording)
    if not any(found):
        return "never"
    usual, longest = f"{median(found):.0f}", f"{max(found):.0f}"
    return f"{usual} ms" if usual == longest else f"{usual} ms (max {longest})"


def _seen_gap(recording: Recording) -> str:
    if not any(gaps_ms(recording)):
        return "No refusal was seen this time, but there may be some at other times."
    return f"In a rotation the database refuses what the store serves for {_gap(recording)}."


def _median_ms(recording: Recording, step: Step) -> str:
    times = [run.elapsed_ms for run in recording.steps if run.step is step]
    return f"{median(times):.0f} ms" if times else "none"


def _range(numbers: Sequence[int]) -> str:
    if not numbers:
        return "none"
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"
