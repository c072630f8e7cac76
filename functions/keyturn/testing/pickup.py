"""The simulation of pickups: who is cut off when an old credential dies, by policy.

Twelve consumers of one secret with two passwords log in every five minutes with what they run with.
Most follow a rotation after a lag out of a fixed distribution. In four rotations of five one does
not: it never refreshes, restarts onto its old mount, is put back from outside, or says that it has
followed and has not. A person mends it two hours after the first alert, or the first failed login.

    evidence       the follow-up: two looks at every consumer, an hour's grace
    one look       the same, without the second look
    fixed delay    an hour after the promotion, whoever has followed
    immediately    with the promotion

    python -m keyturn.testing.pickup
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from keyturn.follow_up import (
    SWEEP_EVERY,
    Course,
    FollowUp,
    Refresh,
    Retirement,
    When,
)
from keyturn.model import Credential, Happening, RotationId, Sensitive, Sighting
from keyturn.ports import Standing
from keyturn.rotation import Rotation
from keyturn.strategies import DualPassword
from keyturn.testing.fakes import (
    REF,
    Account,
    LabelledStore,
    MemoryConsumer,
    MemoryDatabase,
    MemoryNotifier,
    Mood,
    World,
)

CONSUMERS = 12
LAGS_MIN = (1, 1, 2, 2, 3, 3, 4, 5, 7, 10, 15, 20, 30, 45)
"""How many minutes a consumer takes to follow, each as likely as the others."""
GRACE = timedelta(hours=1)
MENDED_AFTER = timedelta(hours=2)
PERIOD = timedelta(days=30)
TICKS = 7 * 24 * 12
"""A rotation is watched for a week at the most."""
BAD_MOODS = (None, Mood.NEVER, Mood.OLD_MOUNT, Mood.REVERTED, Mood.LIES)


class Policy(StrEnum):
    """When the old credential dies."""

    EVIDENCE = "evidence"
    ONE_LOOK = "one look"
    FIXED_DELAY = "fixed delay"
    IMMEDIATELY = "immediately"


_DELAYS = {Policy.FIXED_DELAY: timedelta(hours=1), Policy.IMMEDIATELY: timedelta()}


class _OneLook(FollowUp):
    """One that retires at the first look that shows what it must."""

    def _is_second(self, sighting: Sighting | None, standing: Standing) -> bool:
        del sighting, standing
        return True


@dataclass
class Tally:
    """What a policy came to.

    Attributes:
        failed: Logins that were refused.
        wrong: Retirements that came while a consumer still ran with the old credential.
        lives: How long each old credential lived on after the promotion, where all followed,
        delayed: and where one did not.
        kept: Old credentials that were alive when the next rotation came.
    """

    policy: Policy
    rotations: int = 0
    logins: int = 0
    failed: int = 0
    wrong: int = 0
    kept: int = 0
    alerts: int = 0
    lives: list[timedelta] = field(default_factory=list)
    delayed: list[timedelta] = field(default_factory=list)


class _Simulation:
    def __init__(self, policy: Policy) -> None:
        self.tally = Tally(policy)
        self.world = World()
        self.store = LabelledStore(self.world, Credential("app", Sensitive("s0")))
        self.database = MemoryDatabase(self.world, {"app": Account("s0")})
        self.target = DualPassword(self.database, self._fresh)
        self.notifier = MemoryNotifier(self.world)
        self.consumers = [
            MemoryConsumer(self.world, f"consumer {n}", self._served) for n in range(CONSUMERS)
        ]
        self._make = _OneLook if policy is Policy.ONE_LOOK else FollowUp
        self._secrets = {RotationId("v0"): "s0"}

    def rotate(self) -> None:
        """Rotate, and watch until all is as it should be."""
        self.tally.rotations += 1
        number = self.tally.rotations
        self._set_moods(number)
        rotation_id = RotationId(f"v{number}")
        self._secrets[rotation_id] = f"s{number}"
        self.store.begin(rotation_id)
        Rotation(
            REF,
            rotation_id,
            store=self.store,
            targets=lambda _: self.target,
            clock=self.world.clock,
        ).run()
        promoted_at = self.world.clock.now()
        self._watch(rotation_id, promoted_at)
        self._forget()
        self.world.clock.advance(PERIOD - (self.world.clock.now() - promoted_at))

    def _watch(self, current: RotationId, promoted_at: datetime) -> None:
        message: tuple[datetime, Sighting] | None = None
        mend_at, died_at = None, None
        for _ in range(TICKS):
            now = self.world.clock.now()
            sighting = message[1] if message and message[0] <= now else None
            message = self._look(sighting) or message
            if died_at is None and self._let_die(now - promoted_at, current):
                died_at = now
            have_failed = self._log_in()
            if mend_at is None and (have_failed or self._is_told_of_trouble()):
                mend_at = now + MENDED_AFTER
            if mend_at is not None and now >= mend_at:
                self._mend(current)
            have_followed = all(consumer.runs == current for consumer in self.consumers)
            if died_at and have_followed and not self._are_busy():
                break
            self.world.clock.advance(SWEEP_EVERY)
        if died_at is None:
            self.tally.kept += 1
            return
        is_good = _mood_in(self.tally.rotations) is None
        lives = self.tally.lives if is_good else self.tally.delayed
        lives.append(died_at - promoted_at)

    def _look(self, sighting: Sighting | None) -> tuple[datetime, Sighting] | None:
        is_ours = self.tally.policy not in _DELAYS
        retirement = Retirement(When.VERIFIED if is_ours else When.NEVER, GRACE)
        follow_up = self._make(
            REF,
            Course((), [Refresh(consumer) for consumer in self.consumers], retirement),
            store=self.store,
            targets=lambda _: self.target,
            notifiers=[self.notifier],
            clock=self.world.clock,
        )
        report = follow_up.look(sighting)
        assert not report.errors, report.errors
        if report.sighting is None or report.look_again_in is None:
            return None
        return self.world.clock.now() + report.look_again_in, report.sighting

    def _let_die(self, age: timedelta, current: RotationId) -> bool:
        """Retire, where that is left to a clock; tell whether the old credential is dead."""
        delay = _DELAYS.get(self.tally.policy)
        if delay is not None and age >= delay:
            self.target.retire(self.store.serves)
        if self.database.accounts["app"].second is not None:
            return False
        self.tally.wrong += any(consumer.runs != current for consumer in self.consumers)
        return True

    def _log_in(self) -> bool:
        failed = 0
        account = self.database.accounts["app"]
        for consumer in self.consumers:
            consumer.pass_time()
            secret = self._secrets[consumer.runs]
            failed += secret not in {account.password, account.second}
        self.tally.logins += len(self.consumers)
        self.tally.failed += failed
        return failed > 0

    def _is_told_of_trouble(self) -> bool:
        return any(alert.happening is Happening.STUCK for alert in self.notifier.alerts)

    def _mend(self, current: RotationId) -> None:
        for consumer in self.consumers:
            if consumer.runs != current:
                consumer.mend()

    def _are_busy(self) -> bool:
        return any(consumer.is_busy for consumer in self.consumers)

    def _set_moods(self, number: int) -> None:
        for place, consumer in enumerate(self.consumers):
            drawn = _drawn(number, place)
            consumer.mood = Mood.FOLLOWS
            lag = LAGS_MIN[drawn % len(LAGS_MIN)]
            consumer.lag = timedelta(minutes=lag)
            # Up to when the old mount can be there no longer: after the second look.
            latest = (GRACE + SWEEP_EVERY).seconds // 60 - 1
            consumer.relapses = timedelta(minutes=lag + 1 + drawn // 97 % (latest - lag))
        mood = _mood_in(number)
        if mood is not None:
            self.consumers[number % len(BAD_MOODS)].mood = mood

    def _forget(self) -> None:
        self.tally.alerts += len({alert.id for alert in self.notifier.alerts})
        self.notifier.alerts.clear()
        self.world.calls.clear()
        for consumer in self.consumers:
            consumer.sights.clear()

    def _served(self) -> RotationId:
        return self.store.serves().rotation_id

    def _fresh(self) -> Sensitive:
        return Sensitive(f"s{self.tally.rotations}")


def _mood_in(number: int) -> Mood | None:
    return BAD_MOODS[number % len(BAD_MOODS)]


def _drawn(number: int, place: int) -> int:
    digest = hashlib.sha256(f"{number} {place}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def simulate(policy: Policy, rotations: int) -> Tally:
    """Rotate so many times under a policy. The same every time."""
    simulation = _Simulation(policy)
    for _ in range(rotations):
        simulation.rotate()
    return simulation.tally


def table(tallies: list[Tally]) -> str:
    """Draw what `make proof` prints."""
    head = (
        *("policy", "rotations", "logins", "failed", "wrong", "alerts", "kept"),
        *("lives on, min: all follow", "max", "one does not", "max"),
    )
    rows = [head, *(_row(tally) for tally in tallies)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    )


def _row(tally: Tally) -> tuple[str, ...]:
    numbers = (tally.rotations, tally.logins, tally.failed, tally.wrong, tally.alerts, tally.kept)
    lives, delayed = sorted(tally.lives), sorted(tally.delayed)
    shown = (_at(lives, 0.5), _at(lives, 1.0), _at(delayed, 0.5), _at(delayed, 1.0))
    return (tally.policy.value, *map(str, numbers), *shown)


def _at(times: list[timedelta], part: float) -> str:
    if not times:
        return "-"
    return str(int(times[min(len(times) - 1, int(len(times) * part))].total_seconds() // 60))


def main() -> int:
    """Simulate 1,000 rotations under each policy; 1 if the evidence was not enough."""
    tallies = [simulate(policy, 1000) for policy in Policy]
    sys.stdout.write(table(tallies) + "\n")
    return int(bool(tallies[0].failed or tallies[0].wrong))


if __name__ == "__main__":
    sys.exit(main())
