"""What a store that only sends a tick leaves unsaid."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from keyturn.model import Happening, RotationId, SecretRef, Severity
from keyturn.watchdog import SLACK, Watched, alerts

NOW = datetime(2030, 1, 31, 12, 0, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
REF = SecretRef("projects/1/secrets/orders")


def seen(
    since: timedelta,
    next_in: timedelta | None = 10 * DAY,
    period: timedelta | None = 30 * DAY,
    *,
    is_foreign: bool = False,
) -> Watched:
    """Return what is seen of a secret whose current is so old."""
    next_at = None if next_in is None else NOW + next_in
    return Watched(RotationId("5"), NOW - since, next_at, period, is_foreign)


def told(watched: Watched, now: datetime = NOW) -> list[Happening]:
    return [alert.happening for alert in alerts(REF, watched, now)]


def test_a_secret_that_was_rotated_in_time_is_no_news() -> None:
    assert told(seen(since=20 * DAY)) == []


def test_one_that_was_not_is_overdue() -> None:
    """The tick was sent: the next is 30 days after it. And nothing has come of it."""
    [alert] = alerts(REF, seen(since=50 * DAY, next_in=30 * DAY - SLACK), NOW)

    assert alert.happening is Happening.OVERDUE
    assert alert.severity is Severity.CRITICAL
    assert "2029-12-12 12:00 UTC" in alert.fact
    assert alert.remedy


@pytest.mark.parametrize("late", [timedelta(), SLACK - timedelta(minutes=1)])
def test_a_rotation_may_take_a_while(late: timedelta) -> None:
    assert told(seen(since=50 * DAY, next_in=30 * DAY - late)) == []


def test_a_tick_that_was_never_sent_is_overdue() -> None:
    """Nobody may publish to the topic: the time passes, and stays where it is."""
    assert told(seen(since=50 * DAY, next_in=-SLACK)) == [Happening.OVERDUE]


def test_without_a_schedule_nothing_is_due() -> None:
    assert told(seen(since=5000 * DAY, next_in=None, period=None)) == []


def test_what_is_due_once_is_not_due_before() -> None:
    assert told(seen(since=50 * DAY, next_in=DAY, period=None)) == []


def test_it_is_told_again_after_a_day_and_not_in_between() -> None:
    due = NOW - 10 * DAY
    overdue = Watched(RotationId("5"), due - DAY, due + 30 * DAY, 30 * DAY, is_foreign=False)

    sweeps = [due + timedelta(minutes=5 * number) for number in range(12 * 24 * 4)]
    ids = [alert.id for at in sweeps for alert in alerts(REF, overdue, at)]

    # After 1, 2, 4, 8, 16, 32, 56 and 80 hours; each in two sweeps, of which one may be lost.
    assert len(set(ids)) == 8
    assert len(ids) == 16


def test_what_is_stored_by_hand_is_told_while_it_is_new() -> None:
    assert told(seen(since=timedelta(minutes=5), is_foreign=True)) == [Happening.FOREIGN]
    assert told(seen(since=HOUR, is_foreign=True)) == []
