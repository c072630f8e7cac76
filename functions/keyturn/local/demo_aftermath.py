"""What the demo saw of a follow-up, and what follows from it. Pure, as `demo_recording` is.

    Moment   which places had the new version, and whether the old login still worked
    Heard    an alert that arrived

Times are minutes of the local cloud since the new version became current. `demo_follow_up` makes
it, `demo_terminal` and `demo_page` show it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from keyturn.local.demo_recording import AWS, Cloud
from keyturn.model import Happening

FOLLOW_UP = "follow-up"
"""In the place of a strategy's name."""

TICKS = 14
"""How many times five minutes are watched: an hour's grace, and the two looks."""

OLD_LOGIN = "the old login"
"""In the place of a place's name."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What was so at one moment.

    Attributes:
        has_new: For each place of the `Aftermath`, in its order.
    """

    at_min: float
    has_new: tuple[bool, ...]
    old_works: bool


@dataclass(frozen=True, slots=True)
class Heard:
    """An alert, as it came out of the topic."""

    at_min: float
    happening: Happening
    fact: str


@dataclass(frozen=True, slots=True)
class Aftermath:
    """One follow-up.

    Attributes:
        places: Copies and those who run with the value, for people.
        moments: In order; the first is right after the promotion.
        refused: How many logins of those who run with the value were refused.
        logins: How many they made.
    """

    secret: str
    places: tuple[str, ...]
    moments: tuple[Moment, ...]
    heard: tuple[Heard, ...]
    refused: int
    logins: int
    cloud: Cloud = AWS

    @property
    def length_min(self) -> float:
        """How long it was watched."""
        return self.moments[-1].at_min if self.moments else 0.0


def followed_at(aftermath: Aftermath, place: int) -> float | None:
    """Return when that place had the new version, and kept it; None if it has not."""
    found = None
    for moment in reversed(aftermath.moments):
        if not moment.has_new[place]:
            break
        found = moment.at_min
    return found


def died_at(aftermath: Aftermath) -> float | None:
    """Return when the old login worked no longer; None if it still works."""
    return next((each.at_min for each in aftermath.moments if not each.old_works), None)


def broken(aftermath: Aftermath) -> list[str]:
    """Return what is not as promised, one line each."""
    found = [
        f"{name} never got the new version"
        for number, name in enumerate(aftermath.places)
        if followed_at(aftermath, number) is None
    ]
    died = died_at(aftermath)
    if died is None:
        found.append(f"{OLD_LOGIN} still works")
    if any(not each.old_works and not all(each.has_new) for each in aftermath.moments):
        found.append(f"{OLD_LOGIN} died before all had the new version")
    if aftermath.refused or not aftermath.logins:
        found.append(f"{aftermath.refused} of {aftermath.logins} logins were refused meanwhile")
    told = {each.happening for each in aftermath.heard}
    untold = [each for each in (Happening.SUCCEEDED, Happening.RETIRED) if each not in told]
    return found + [f"nobody was told: {each.value}" for each in untold]


def verdict(aftermath: Aftermath) -> str:
    """Say what was seen, and why it is so."""
    found = broken(aftermath)
    if found:
        return "This is not as promised: " + "; ".join(found) + "."
    last = max(followed_at(aftermath, n) or 0.0 for n in range(len(aftermath.places)))
    return (
        f"All ran with the new version after {last:.0f} minutes. The old login died after"
        f" {died_at(aftermath):.0f}: its grace was over, and everybody had been seen to run with"
        f" the new one twice, five minutes apart. None of {aftermath.logins} logins was refused."
    )


def steps(aftermath: Aftermath) -> Sequence[tuple[float, str]]:
    """Return what happened when, in order, a line each."""
    found = [
        (at, f"{name} has the new version")
        for number, name in enumerate(aftermath.places)
        if (at := followed_at(aftermath, number)) is not None
    ]
    died = died_at(aftermath)
    if died is not None:
        found.append((died, f"{OLD_LOGIN} is refused"))
    teller = aftermath.cloud.alerts
    heard = [(e.at_min, f"{teller}: {e.happening.value}, {e.fact}") for e in aftermath.heard]
    return sorted(found + heard, key=lambda each: each[0])
