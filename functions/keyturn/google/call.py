"""One call of a function on Google: how long it may take, what it says, what becomes of it.

403   the caller is unknown: nothing is done, and nobody is told
425   a second look came before its time: Pub/Sub brings it again
503   a redelivery may mend it
500   nobody foresaw it; it comes again, and ends in the dead-letter topic if it stays so
200   whatever else has failed: no redelivery mends it, so it is acknowledged, and told
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TypeVar

from keyturn import boundary
from keyturn.errors import Denied, KeyturnError, Misconfigured, Retryable
from keyturn.google.callers import UnknownCaller
from keyturn.google.events import TooEarly
from keyturn.google.telemetry import StructuredLog
from keyturn.model import Outcome

T = TypeVar("T")

OK, BAD_REQUEST, FORBIDDEN, TOO_EARLY, UNFORESEEN, COME_AGAIN = 200, 400, 403, 425, 500, 503

MARGIN_S = 5.0
"""Left of the function's time, in seconds, when ours is up: the platform's clock began earlier."""


class Misdeployed(Misconfigured):
    """The function's own environment is wrong: every message waits until somebody mends it."""


class Call:
    """One request.

    Args:
        headers: Of the request.
        environment: The function's.
        timeout_s: How long the function may run.

    Attributes:
        facts: What its lines in the log have in common.
    """

    def __init__(
        self, headers: Mapping[str, str], environment: Mapping[str, str], timeout_s: float
    ) -> None:
        self.facts: dict[str, str] = {}
        self.log = StructuredLog(headers, environment)
        self._ends_at = time.monotonic() + timeout_s - MARGIN_S

    def remaining_s(self) -> float:
        """Return how long it may still take, in seconds."""
        return self._ends_at - time.monotonic()

    def now(self) -> datetime:
        """Return the time."""
        return datetime.now(UTC)

    def step(self, name: str, work: Callable[[], Outcome]) -> None:
        """Do a step, and say what became of it.

        Raises:
            KeyturnError: What failed; its frames and contexts are left behind.
        """
        self.facts["step"] = name
        self.facts.update(boundary.answer(self.log, self.facts, work))

    def quiet(self, name: str, work: Callable[[], T]) -> T:
        """Do a step of which only a failure is worth a line, and return what comes of it.

        Raises:
            KeyturnError: As `step`.
        """
        made: list[T] = []

        def whole() -> Outcome:
            made.append(work())
            return Outcome.DONE

        boundary.answer(_OnlyFailures(self.log), {**self.facts, "step": name}, whole)
        return made[0]


class _OnlyFailures:
    """A `boundary.Reporting`."""

    def __init__(self, log: StructuredLog) -> None:
        self.failed = log.failed
        self.measured = log.measured

    def succeeded(self, facts: Mapping[str, str], elapsed_ms: int) -> None:
        """Say nothing."""


def is_final(error: KeyturnError) -> bool:
    """Tell whether no redelivery mends it, so that somebody must be told."""
    return status_of(error) == OK


def status_of(error: KeyturnError) -> int:
    """Return the HTTP status by which Pub/Sub learns what to do with the message."""
    match error:
        case UnknownCaller():
            return FORBIDDEN
        case TooEarly():
            return TOO_EARLY
        case Retryable():
            return COME_AGAIN
        case boundary.UnexpectedError() | Misdeployed():
            return UNFORESEEN
    return OK


def refusal_of(error: KeyturnError) -> int:
    """Return the HTTP status for somebody who waits for an answer."""
    status = status_of(error)
    if status != OK:
        return status
    return FORBIDDEN if isinstance(error, Denied) else BAD_REQUEST
