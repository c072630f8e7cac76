"""The local cloud's time, which can be let pass: schedules and delayed messages come when due.

    advance(1 h)   + 5 min   the sweep's schedule     calls its function
                   + 7 min   a message that is due    calls the function that reads its queue
                   ...       each in its turn, and at its time, until all are done

Time passes for the whole process: the local AWS and whoever uses it from here; and for functions,
which are told with each event how far it is ahead. What waits for a socket or a lock waits in real
time, and a server in a process of its own keeps its own. It is given back when the local AWS stops.
"""

from __future__ import annotations

import contextlib
import re
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import time_machine
from moto.awslambda.models import lambda_backends
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.events.models import events_backends
from moto.sqs.models import sqs_backends

from keyturn.errors import Unsupported
from keyturn.local.functions import Functions
from keyturn.local.patches import deliver

EVENT_LIMIT_S = 60.0
"""Real seconds that what is due at one moment may take."""

_UNITS_S = {"minute": 60, "hour": 3_600, "day": 86_400}


class Clock:
    """The time of one local AWS. `close` gives the real time back."""

    def __init__(self, functions: Functions, region: str) -> None:
        self._functions = functions
        self._region = region
        self._travel = contextlib.ExitStack()
        self._ticks_s: dict[str, float] = {}

    def advance(self, by: timedelta) -> None:
        """Let time pass, and whatever becomes due on the way happen.

        A schedule's first time comes a whole period after time was let pass first.

        Raises:
            Unsupported: A rule has a schedule that is no rate, or what is due does not end.
        """
        self._functions.settle(EVENT_LIMIT_S)
        goal_s = time.time() + by.total_seconds()
        for rule in self._scheduled():
            self._ticks_s.setdefault(rule.arn, time.time() + _rate_s(rule))
        while (due := self._next()) is not None and due[0] <= goal_s:
            due_s, happen = due
            self._move_to(due_s)
            happen()
            if not self._functions.settle(EVENT_LIMIT_S):
                raise Unsupported(
                    f"what was due has not ended after {EVENT_LIMIT_S:.0f} seconds",
                    remedy="Look at the functions' logs.",
                )
        self._move_to(goal_s)

    def close(self) -> None:
        """Give the real time back. Repeatable."""
        self._travel.close()
        self._functions.ahead_s = 0.0

    def _move_to(self, at_s: float) -> None:
        """Be no earlier than *at_s*. What has happened meanwhile has taken its time."""
        if at_s <= time.time():
            return
        self._travel.close()
        self._functions.ahead_s = at_s - time.time()
        self._travel.enter_context(time_machine.travel(at_s, tick=True))

    def _next(self) -> tuple[float, Callable[[], object]] | None:
        """Return what is due next, and when."""
        due = [(self._ticks_s[rule.arn], self._ticking(rule)) for rule in self._scheduled()]
        for queue in self._read_queues():
            due += [(_due_s(message), self._reading(queue)) for message in _waiting(queue)]
        return min(due, key=lambda each: each[0], default=None)

    def _scheduled(self) -> Iterator[Any]:
        for bus in events_backends[DEFAULT_ACCOUNT_ID][self._region].event_buses.values():
            for rule in bus.rules.values():
                if rule.scheduled_expression and rule.state == "ENABLED":
                    self._ticks_s.setdefault(rule.arn, time.time() + _rate_s(rule))
                    yield rule

    def _ticking(self, rule: Any) -> Callable[[], None]:
        def tick() -> None:
            self._ticks_s[rule.arn] += _rate_s(rule)
            for target in rule.targets:
                deliver(self._functions, rule, target, _scheduled_event(rule))

        return tick

    def _read_queues(self) -> Iterator[Any]:
        for queue in sqs_backends[DEFAULT_ACCOUNT_ID][self._region].queues.values():
            if any(each.enabled for each in queue.lambda_event_source_mappings.values()):
                yield queue

    def _reading(self, queue: Any) -> Callable[[], None]:
        """Call the function that reads *queue*, as the service does; what it takes is gone."""

        def read() -> None:
            queues = sqs_backends[DEFAULT_ACCOUNT_ID][self._region]
            functions = lambda_backends[DEFAULT_ACCOUNT_ID][self._region]
            for arn, mapping in queue.lambda_event_source_mappings.items():
                timeout_s = int(queue.visibility_timeout)
                for message in queues.receive_message(
                    queue.name, mapping.batch_size or 1, 0, timeout_s
                ):
                    if functions.send_sqs_batch(arn, [message], queue.queue_arn):
                        queues.delete_message(queue.name, message.receipt_handle)

        return read


def _waiting(queue: Any) -> list[Any]:
    return list(queue._messages)  # noqa: SLF001  # those that are delayed have no other name


def _due_s(message: Any) -> float:
    return max(float(message.delayed_until), float(message.visible_at)) / 1000


def _scheduled_event(rule: Any) -> dict[str, Any]:
    """Return what EventBridge sends on a schedule, where the target has no input of its own."""
    return {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "account": rule.account_id,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "region": rule.region_name,
        "resources": [rule.arn],
        "detail": {},
    }


def _rate_s(rule: Any) -> float:
    found = re.fullmatch(r"rate\((\d+) (minute|hour|day)s?\)", rule.scheduled_expression)
    if found is None:
        raise Unsupported(
            f"the rule {rule.name} has a schedule that is no rate",
            remedy="Locally, write rate(..), or disable the rule.",
        )
    return int(found[1]) * _UNITS_S[found[2]]
