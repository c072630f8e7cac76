"""What a follow-up measures: the numbers that a person sets an alarm on. Never a value.

    each event   LooksFailed          secrets whose look failed, or in part
                 CredentialsRetired   old credentials that died
                 Alert..              alerts told, by happening, if there were any
    each sweep   SecretsFollowed      secrets looked at; that there is this number says: it runs
                 CopiesBehind         destinations that hold another version than current
                 ConsumersBehind      consumers that do not run with it
                 SecondsBehind        since the promotion, for whatever waits longest; else 0
                 OldCredentialHours   since the promotion, for the oldest credential that is to die
                 CredentialsHeld      of these, those whose deadline is over

A look at one secret says nothing of the whole, so only a sweep does. The peak of `SecondsBehind`
after a rotation is the time to the last pickup, to within a sweep: nobody writes down when it was.

Names of secrets are no dimension: each would cost as much as the secret itself, for every number.
`behind` has them, for a line of the log each. `wiring` makes one of these for an event, fills it
and hands it to the entry point.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType

from keyturn.follow_up import Part, Report, Retirement, State
from keyturn.model import Alert, Happening

UNITS: Mapping[str, str] = MappingProxyType(
    {
        "LooksFailed": "Count",
        "CredentialsRetired": "Count",
        **{f"Alert{each.value.capitalize()}": "Count" for each in Happening},
        "SecretsFollowed": "Count",
        "CopiesBehind": "Count",
        "ConsumersBehind": "Count",
        "SecondsBehind": "Seconds",
        "OldCredentialHours": "None",
        "CredentialsHeld": "Count",
    }
)
"""All there are, and CloudWatch's unit of each. It has none for hours."""

_OPEN = frozenset({State.WAITING, State.FAILED})


@dataclass(frozen=True, slots=True)
class _Look:
    """What one look has found."""

    secret: str
    report: Report
    age: timedelta
    deadline: timedelta

    def behind(self, part: Part) -> int:
        return sum(line.state in _OPEN for line in self.report.about(part))

    @property
    def seconds_behind(self) -> int:
        is_behind = self.behind(Part.DESTINATION) or self.behind(Part.CONSUMER)
        return round(self.age.total_seconds()) if is_behind else 0

    @property
    def old_hours(self) -> float:
        is_alive = self.behind(Part.OLD_CREDENTIAL)
        return round(self.age.total_seconds() / 3600, 2) if is_alive else 0.0

    @property
    def is_held(self) -> bool:
        return bool(self.behind(Part.OLD_CREDENTIAL)) and self.age >= self.deadline

    @property
    def retired(self) -> int:
        # Without a name, there was none.
        lines = self.report.about(Part.OLD_CREDENTIAL)
        return sum(line.state is State.DONE and bool(line.name) for line in lines)


class Measures:
    """What comes of one event. A `Notifier` among the others, so that it hears every alert.

    Args:
        is_sweep: Whether the event is about all that is followed.
    """

    def __init__(self, *, is_sweep: bool) -> None:
        self._is_sweep = is_sweep
        self._looks: list[_Look] = []
        self._failed: set[str] = set()
        self._told: Counter[Happening] = Counter()

    def send(self, alert: Alert) -> None:
        """See `Notifier.send`. Counts it."""
        self._told[alert.happening] += 1

    def look(self, secret: str, report: Report, retirement: Retirement, now: datetime) -> None:
        """Take in what a look at *secret* has found."""
        age = now - report.since
        self._looks.append(_Look(secret, report, age, retirement.deadline))
        if report.errors:
            self._failed.add(secret)

    def look_failed(self, secret: str) -> None:
        """Take in that a look at *secret* failed, or what is to come of it."""
        self._failed.add(secret)

    def numbers(self) -> dict[str, float]:
        """Return each number by its name, as in `UNITS`."""
        looks = self._looks
        numbers: dict[str, float] = {
            "LooksFailed": len(self._failed),
            "CredentialsRetired": sum(look.retired for look in looks),
            **{f"Alert{each.value.capitalize()}": count for each, count in self._told.items()},
        }
        if self._is_sweep:
            numbers |= {
                "SecretsFollowed": len(looks),
                "CopiesBehind": sum(look.behind(Part.DESTINATION) for look in looks),
                "ConsumersBehind": sum(look.behind(Part.CONSUMER) for look in looks),
                "SecondsBehind": max((look.seconds_behind for look in looks), default=0),
                "OldCredentialHours": max((look.old_hours for look in looks), default=0.0),
                "CredentialsHeld": sum(look.is_held for look in looks),
            }
        return numbers

    def behind(self) -> list[dict[str, str | float]]:
        """Return, for each secret that waits for something, its name and its numbers."""
        return [
            {
                "secret": look.secret,
                "version_id": look.report.version_id,
                "copies_behind": look.behind(Part.DESTINATION),
                "consumers_behind": look.behind(Part.CONSUMER),
                "seconds_behind": look.seconds_behind,
                "old_credential_hours": look.old_hours,
            }
            for look in self._looks
            if look.seconds_behind or look.old_hours
        ]
