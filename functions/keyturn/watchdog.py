"""What a store that only sends a tick leaves unsaid: that a rotation never ended, or never began.

    overdue   it should have been rotated some time ago, and was not
    foreign   what is current was stored by hand, although rotations are what makes it

A store that drives its rotations by itself tells of both. It remembers nothing: each sweep looks
anew, and what is still so is told again after a while, as in `follow_up`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from keyturn.follow_up import TOLD_WITHIN, telling
from keyturn.model import Alert, Happening, RotationId, SecretRef

SLACK = timedelta(hours=1)
"""After the time for a rotation: it may have to be asked for a few times, or wait for a server."""


@dataclass(frozen=True, slots=True)
class Watched:
    """What a store tells of a secret.

    Attributes:
        current: The version that readers get; None if there is none yet.
        since: When it became so.
        next_at: When the next rotation is due, by the secret's schedule; None if it has none.
        period: How often one is due; None if it is due once.
        is_foreign: Whether current was stored by hand, and rotations have made others.
    """

    current: RotationId | None
    since: datetime
    next_at: datetime | None
    period: timedelta | None
    is_foreign: bool


def alerts(ref: SecretRef, seen: Watched, now: datetime) -> Iterator[Alert]:
    """Yield what is to be told now of a secret. The same fact has the same id."""
    age = now - seen.since
    if seen.is_foreign and age < TOLD_WITHIN:
        fact = f"what is current since {_minute(seen.since)} was stored by hand"
        yield Alert(Happening.FOREIGN, ref, seen.current, "", fact, _WHO, now)
    due = _last_due(seen, now)
    if due is None or seen.since >= due:
        return
    number = telling(now - due, SLACK)
    if number is not None:
        fact = f"it has not been rotated since {_minute(seen.since)}; it was due {_minute(due)}"
        yield Alert(Happening.OVERDUE, ref, seen.current, "", fact, _WHY, now, number)


_WHO = "Find out who has stored it. If it is right nothing is to be done; else rotate the secret."
_WHY = "Look at the rotation function's log, and for the message in the dead-letter topic."


def _last_due(seen: Watched, now: datetime) -> datetime | None:
    """Return the last time for a rotation that has passed; None if none has."""
    if seen.next_at is None or seen.next_at <= now:
        return seen.next_at  # Nobody has even been told.
    return None if seen.period is None else seen.next_at - seen.period


def _minute(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M UTC")
