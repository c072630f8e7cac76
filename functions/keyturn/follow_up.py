"""The follow-up: what happens after finish. Deliver, refresh, retire, tell.

    deliver   copy current to each destination that lacks it   (never ahead of current, never back)
    refresh   tell each consumer that has not been told        (once; when every copy is there,
                                                                and has followed, if it is one)
    retire    let the old credential die                       (on evidence; last, and later)
    tell      what went well, what is stuck, what is held, what was retired

One `look` reads the store, the destinations and the consumers, does what is missing, and says when
to look again. It never sleeps, and it remembers nothing: what was done is seen where it was done.
Destinations and consumers carry the version's id; that the old credential is dead shows in the
store, whose previous slot is empty then. So a lost event, a duplicate or a crash costs time only.

An old credential dies on evidence: every consumer was seen to run with current, twice, in two looks
that are `LOOKS_APART`; the grace has passed since current was promoted; no newer rotation is on;
and the issuer, where it can tell, says that nobody uses it. The first of the two looks travels to
the second as a `Sighting`, which proves nothing alone: all of it is looked at once more. A consumer
that does not follow is an alert, and the old credential stays. Nothing is ever rolled back.

An alert is told when its time comes, not at each look: the time follows from the promotion, so that
nobody has to write down what was told. What comes twice, after a crash, has the same id.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from keyturn.errors import Busy, KeyturnError, Misconfigured
from keyturn.model import (
    Alert,
    Happening,
    RotationId,
    SecretRef,
    Sensitive,
    Sighting,
    Version,
)
from keyturn.ports import (
    Clock,
    Consumer,
    Destination,
    FollowedStore,
    Notifier,
    Pickup,
    Retiring,
    Sight,
    Standing,
    Targets,
    Witness,
)

LOOKS_APART = timedelta(minutes=5)
"""Between the two looks that prove a pickup: what was restarted or put back meanwhile shows."""

SIGHTING_LASTS = timedelta(hours=1)
"""How old the first of them may be. Longer than any event about it is under way."""

SWEEP_EVERY = timedelta(minutes=5)
"""How often somebody looks, if nothing else makes them look. The deployment's schedule."""

TOLD_WITHIN = 2 * SWEEP_EVERY
"""How long an alert is told, once its time has come: one sweep may be lost."""

STUCK_AFTER = timedelta(minutes=30)
"""After the promotion. A mounted secret takes minutes, a rollout of many replicas longer."""

REPEAT_EVERY = timedelta(days=1)
"""What is still so is told again after twice the time, and after a day at the latest."""


class When(StrEnum):
    """When an old credential is retired. Spelt as in the plan."""

    VERIFIED = "verified"
    NEVER = "never"


class AtDeadline(StrEnum):
    """What becomes of it when the evidence is not there in time. Spelt as in the plan."""

    HOLD = "hold"
    FORCE = "force"


@dataclass(frozen=True, slots=True)
class Retirement:
    """When the old credential dies.

    Attributes:
        grace: How long it lives at least, after the promotion.
        deadline: When somebody is told that it still lives; or when it dies in any case.
    """

    when: When = When.NEVER
    grace: timedelta = timedelta(hours=1)
    deadline: timedelta = timedelta(days=7)
    at_deadline: AtDeadline = AtDeadline.HOLD


@dataclass(frozen=True, slots=True)
class Delivery:
    """A destination, and the text that it gets."""

    destination: Destination
    render: Callable[[Version], Sensitive]


@dataclass(frozen=True, slots=True)
class Refresh:
    """A consumer, and what its word is worth.

    Attributes:
        is_verified: One that cannot be verified is told, and proves nothing: nothing retires then.
        is_copy: Others read the value there: they are told when it has followed.
    """

    consumer: Consumer
    is_verified: bool = True
    is_copy: bool = False


@dataclass(frozen=True, slots=True)
class Course:
    """What follows a rotation of one secret."""

    deliveries: Sequence[Delivery] = ()
    refreshes: Sequence[Refresh] = ()
    retirement: Retirement = field(default_factory=Retirement)


class Part(StrEnum):
    """What a line of a report is about."""

    DESTINATION = "destination"
    CONSUMER = "consumer"
    OLD_CREDENTIAL = "old credential"


class State(StrEnum):
    """How far it is."""

    DONE = "done"
    WAITING = "waiting"
    FAILED = "failed"
    KEPT = "kept"


@dataclass(frozen=True, slots=True)
class Line:
    """How one destination, consumer or old credential stands.

    Attributes:
        waits_for: What is missing, or what went wrong; "" if all is done.
        remedy: One imperative sentence; "" if nothing is to be done but to wait.
        is_proof: Of a consumer: what is said of it was seen.
        version_id: What the destination holds or the consumer runs with, as far as that is known.
    """

    part: Part
    name: str
    state: State
    waits_for: str = ""
    remedy: str = ""
    is_proof: bool = True
    version_id: RotationId | None = None


@dataclass
class Report:
    """What a look has found, after what it did.

    Attributes:
        version_id: What is current.
        since: It was promoted then or earlier.
        sighting: To be brought along to the next look, `LOOKS_APART` from now.
        errors: What failed. All else was done.
    """

    version_id: RotationId
    since: datetime
    lines: list[Line] = field(default_factory=list)
    sighting: Sighting | None = None
    errors: list[KeyturnError] = field(default_factory=list)

    @property
    def look_again_in(self) -> timedelta | None:
        """Say when there may be something to do; None if nothing is left."""
        if self.sighting is not None:
            return LOOKS_APART
        is_over = all(line.state in {State.DONE, State.KEPT} for line in self.lines)
        return None if is_over and not self.errors else SWEEP_EVERY

    def about(self, part: Part) -> list[Line]:
        """Return the lines about one part."""
        return [line for line in self.lines if line.part is part]

    def are_done(self, part: Part) -> bool:
        """Tell whether all of a part is done."""
        return all(line.state is State.DONE for line in self.about(part))


class FollowUp:
    """What follows the rotations of one secret."""

    def __init__(  # noqa: PLR0913  # the ports, one by one
        self,
        ref: SecretRef,
        course: Course,
        *,
        store: FollowedStore,
        targets: Targets,
        notifiers: Sequence[Notifier],
        clock: Clock,
    ) -> None:
        self.ref = ref
        self._course = course
        self._store = store
        self._targets = targets
        self._notifiers = notifiers
        self._clock = clock

    def look(self, sighting: Sighting | None = None, only: Collection[str] = ()) -> Report:
        """Look, and do what is missing. Repeatable, by anybody, at any time.

        Args:
            sighting: What an earlier look has found, if this one was asked for by it.
            only: Names of destinations and consumers; if there are any, nothing else is touched.

        Raises:
            KeyturnError: The store cannot be read. What else fails is in the report.
        """
        self._require_known(only)
        current = self._current()
        report = Report(current.id, current.standing.since)
        is_meant = _among(only) if only else _everybody
        for delivery in self._course.deliveries:
            self._deliver(delivery, current, report, is_meant)
        # A consumer that is told too early reads the old value, and is not told again.
        is_told = is_meant if report.are_done(Part.DESTINATION) else _nobody
        self._refresh_all(current, report, is_told)
        if not only:
            self._retire(current, sighting, report)
        for alert in self._due(current.standing, report):
            self._tell(alert, report)
        return report

    def status(self) -> Report:
        """Look, and do nothing."""
        current = self._current()
        report = Report(current.id, current.standing.since)
        for delivery in self._course.deliveries:
            self._deliver(delivery, current, report, _nobody)
        self._refresh_all(current, report, _nobody)
        name = current.standing.previous or ""
        due = Line(Part.OLD_CREDENTIAL, name, State.WAITING, "the next look, which retires it")
        kept = self._kept_alive(current, None, report)
        report.lines.append(kept or due)
        return report

    # ------------------------------------------------------------------------ deliver

    def _deliver(
        self, delivery: Delivery, current: _Current, report: Report, is_meant: _Meant
    ) -> None:
        destination = delivery.destination
        name = destination.name()

        def line() -> Line:
            # Looked at before the store is asked again: what is written is no older than that.
            held = destination.holds()
            if held.version_id != current.id:
                if not is_meant(name):
                    waits_for = _holds(held.version_id)
                    return Line(
                        *(Part.DESTINATION, name, State.WAITING, waits_for),
                        version_id=held.version_id,
                    )
                version = current.version()
                text = delivery.render(version)
                self._require_current(version)
                destination.deliver(version, text, held)
            return Line(Part.DESTINATION, name, State.DONE, version_id=current.id)

        self._add(Part.DESTINATION, name, report, line)

    # ------------------------------------------------------------------------ refresh

    def _refresh_all(self, current: _Current, report: Report, is_told: _Meant) -> None:
        """Tell the copies first; who reads there, when every one that can be seen has followed."""
        for refresh in self._course.refreshes:
            if refresh.is_copy:
                self._refresh(refresh, current, report, is_told)
        copies = [line for line in report.about(Part.CONSUMER) if line.is_proof]
        if any(line.state is not State.DONE for line in copies):
            is_told = _nobody
        for refresh in self._course.refreshes:
            if not refresh.is_copy:
                self._refresh(refresh, current, report, is_told)

    def _refresh(
        self, refresh: Refresh, current: _Current, report: Report, is_meant: _Meant
    ) -> None:
        consumer = refresh.consumer
        name = consumer.name()

        def line() -> Line:
            version = current.version()
            sight = consumer.verify(version)
            if sight.pickup is Pickup.UNTOLD and is_meant(name):
                consumer.preflight()
                self._require_current(version)
                consumer.trigger(version.rotation_id, sight)
                sight = Sight(Pickup.WAITING, sight.mark, "it was told just now")
            state = _STATES[sight.pickup]
            if sight.pickup is Pickup.UNTOLD:
                waits_for = sight.waits_for or "it has not been told yet"
                return Line(Part.CONSUMER, name, state, waits_for, is_proof=refresh.is_verified)
            if not refresh.is_verified:
                # Told is all that can be known: waiting for more would be to alert for ever.
                return Line(Part.CONSUMER, name, State.DONE, is_proof=False)
            runs = current.id if state is State.DONE else None
            return Line(
                Part.CONSUMER, name, state, sight.waits_for, _remedy(state), version_id=runs
            )

        self._add(Part.CONSUMER, name, report, line)

    # ------------------------------------------------------------------------ retire

    def _retire(self, current: _Current, sighting: Sighting | None, report: Report) -> None:
        def line() -> Line:
            kept = self._kept_alive(current, sighting, report)
            return kept or self._let_die(current, report)

        self._add(Part.OLD_CREDENTIAL, current.standing.previous or "", report, line)

    def _kept_alive(
        self, current: _Current, sighting: Sighting | None, report: Report
    ) -> Line | None:
        """Say why the old credential is not to die now; None if it is."""
        standing = current.standing
        if standing.previous is None:
            return Line(Part.OLD_CREDENTIAL, "", State.DONE)
        name, retirement = standing.previous, self._course.retirement
        if retirement.when is When.NEVER:
            return Line(Part.OLD_CREDENTIAL, name, State.KEPT, "the plan retires nothing")
        age = self._clock.now() - standing.since
        is_forced = retirement.at_deadline is AtDeadline.FORCE and age >= retirement.deadline
        reasons = [*self._obstacles(current)]
        if not is_forced:
            reasons += self._doubts(current, report)
        if not reasons and not is_forced and not self._is_second(sighting, standing):
            report.sighting = Sighting(current.id, self._clock.now())
            reasons = [f"a second look, {LOOKS_APART.seconds // 60} minutes after this one"]
        if not reasons:
            return None
        return Line(Part.OLD_CREDENTIAL, name, State.WAITING, "; ".join(reasons))

    def _obstacles(self, current: _Current) -> Iterator[str]:
        """Yield what no deadline overrides."""
        standing = current.standing
        if standing.pending is not None:
            yield f"rotation {standing.pending} to end"
        grace_ends = standing.since + self._course.retirement.grace
        if self._clock.now() < grace_ends:
            yield f"its grace to end at {grace_ends:%Y-%m-%d %H:%M} UTC"
        if not isinstance(self._targets(current.version().credential), Retiring):
            yield "the next rotation: its strategy retires nothing before"

    def _doubts(self, current: _Current, report: Report) -> Iterator[str]:
        """Yield what evidence is missing."""
        for line in (*report.about(Part.DESTINATION), *report.about(Part.CONSUMER)):
            if line.state is not State.DONE:
                yield line.name
            elif not line.is_proof:
                yield f"{line.name}, which cannot be verified"
        if not self._course.refreshes:
            yield from self._doubts_of_issuer(current)

    def _doubts_of_issuer(self, current: _Current) -> Iterator[str]:
        """Yield what is missing where the issuer's word is all the evidence that there is."""
        target = self._targets(current.version().credential)
        lag = target.usage_lag() if isinstance(target, Witness) else None
        if lag is None:
            yield "evidence: no consumer is named, and the target cannot tell"
            return
        known_at = current.standing.since + self._course.retirement.grace + lag
        if self._clock.now() < known_at:
            yield f"its issuer to have heard of every use, at {known_at:%Y-%m-%d %H:%M} UTC"

    def _is_second(self, sighting: Sighting | None, standing: Standing) -> bool:
        """Tell whether *sighting* is an earlier look at the same, long enough ago."""
        if sighting is None or sighting.version_id != standing.current:
            return False
        age = self._clock.now() - sighting.at
        return sighting.at >= standing.since and LOOKS_APART <= age <= SIGHTING_LASTS

    def _let_die(self, current: _Current, report: Report) -> Line:
        version, standing = current.version(), current.standing
        previous = standing.previous or RotationId("")
        target = self._targets(version.credential)
        assert isinstance(target, Retiring)  # noqa: S101  # else `_obstacles` has said so

        def still() -> Version:
            found = self._store.current(self.ref)
            # The slots last: a rotation that begins after this look is the target's to fence off.
            again = self._store.standing(self.ref)
            if found.rotation_id != version.rotation_id or _slots(again) != _slots(standing):
                raise _overtaken(self.ref)
            return found

        try:
            target.retire(still)
        except Busy as busy:  # Still used, or overtaken: no failure.
            return Line(Part.OLD_CREDENTIAL, previous, State.WAITING, str(busy), busy.remedy)
        # Told first: the empty slot is what makes it look finished.
        line = Line(Part.OLD_CREDENTIAL, previous, State.DONE)
        if not self._tell(
            self._alert(Happening.RETIRED, previous, line, "is accepted no longer"), report
        ):
            return replace(line, state=State.WAITING, waits_for="everybody to be told of it")
        self._store.clear_previous(self.ref, previous)
        return line

    # ------------------------------------------------------------------------ tell

    def _due(self, standing: Standing, report: Report) -> Iterator[Alert]:
        """Yield what is to be told now, as far as it follows from what was seen."""
        now = self._clock.now()
        age = now - standing.since
        if standing.previous is not None and age < TOLD_WITHIN:
            line = Line(Part.OLD_CREDENTIAL, "", State.DONE)
            yield self._alert(Happening.SUCCEEDED, report.version_id, line, "is current")
        retirement = self._course.retirement
        for line in report.lines:
            happening, first = Happening.STUCK, STUCK_AFTER
            if line.part is Part.OLD_CREDENTIAL:
                happening, first = Happening.HELD, retirement.deadline
            is_bad = line.state in {State.WAITING, State.FAILED}
            if is_bad and (window := telling(age, first)) is not None:
                fact = f"has not followed: {line.waits_for}"
                if line.part is Part.OLD_CREDENTIAL:
                    fact = f"is still accepted; it waits for {line.waits_for}"
                yield self._alert(happening, report.version_id, line, fact, window)

    def _alert(
        self, happening: Happening, version_id: RotationId, line: Line, fact: str, window: int = 0
    ) -> Alert:
        remedy = line.remedy or _REMEDIES.get(happening, "")
        now = self._clock.now()
        return Alert(happening, self.ref, version_id, line.name, fact, remedy, now, window)

    def _tell(self, alert: Alert, report: Report) -> bool:
        """Send *alert* to everybody; tell whether all have got it."""
        failures = []
        for notifier in self._notifiers:
            try:
                notifier.send(alert)
            except KeyturnError as error:
                failures.append(error)
        report.errors += failures
        return not failures

    # ------------------------------------------------------------------------ read

    def _current(self) -> _Current:
        """Read the slots. The value, read after that, is no older."""
        standing = self._store.standing(self.ref)

        def read() -> Version:
            version = self._store.current(self.ref)
            if version.rotation_id != standing.current:
                raise _overtaken(self.ref)
            return version

        if standing.current is None:
            raise Misconfigured(f"{self.ref} has no value yet", remedy="Store a first value.")
        return _Current(standing.current, standing, read)

    def _require_current(self, version: Version) -> None:
        if self._store.current(self.ref).rotation_id != version.rotation_id:
            raise _overtaken(self.ref)

    def _require_known(self, only: Collection[str]) -> None:
        known = [delivery.destination.name() for delivery in self._course.deliveries]
        known += [refresh.consumer.name() for refresh in self._course.refreshes]
        for name in only:
            if name not in known:
                raise Misconfigured(
                    f"{self.ref} has nothing of the name {name[:200]!a} that follows it",
                    remedy=f"Use one of {', '.join(known) or 'none: the plan names nothing'}.",
                )

    def _add(self, part: Part, name: str, report: Report, make: Callable[[], Line]) -> None:
        """Add a line. What fails is one, too, and keeps nothing else from being done."""
        try:
            line = make()
        except KeyturnError as error:
            report.errors.append(error)
            line = Line(part, name, State.FAILED, str(error), error.remedy)
        report.lines.append(line)


class _Current:
    """What is current in one look: its id at once, its value when it is first asked for.

    Most sweeps find all as it should be, and read no value: whoever reads the trail of who read
    which secret would find nothing else.
    """

    def __init__(
        self, version_id: RotationId, standing: Standing, read: Callable[[], Version]
    ) -> None:
        self.id = version_id
        self.standing = standing
        self._read = read
        self._version: Version | None = None

    def version(self) -> Version:
        """Return it.

        Raises:
            Busy: A rotation has been promoted meanwhile.
        """
        if self._version is None:
            self._version = self._read()
        return self._version


_Meant = Callable[[str], bool]
"""Tells by its name whether a destination or consumer may be touched."""


def _everybody(name: str) -> bool:
    del name
    return True


def _nobody(name: str) -> bool:
    del name
    return False


def _among(names: Collection[str]) -> _Meant:
    return lambda name: name in names


_STATES = {
    Pickup.UNTOLD: State.WAITING,
    Pickup.WAITING: State.WAITING,
    Pickup.FAILED: State.FAILED,
    Pickup.FOLLOWED: State.DONE,
}

_REMEDIES = {
    Happening.STUCK: "See what keeps it: `keyturn status` says what it waits for.",
    Happening.HELD: "Make the consumers follow, or retire it by hand; it works until then.",
}


def _remedy(state: State) -> str:
    return "Restart it, or mend what keeps it back." if state is State.FAILED else ""


def _holds(version_id: RotationId | None) -> str:
    return f"it holds version {version_id}" if version_id else "it holds no version"


def _slots(standing: Standing) -> tuple[RotationId | None, ...]:
    return standing.current, standing.pending, standing.previous


def telling(age: timedelta, first: timedelta) -> int | None:
    """Return how often it was told before, if now is a time to tell it; else None.

    Args:
        age: How long it has been so.
        first: After how long it is told. More than nothing.
    """
    number, due = 0, first
    while age >= due + TOLD_WITHIN:
        number, due = number + 1, due + min(due, REPEAT_EVERY)
    return number if age >= due else None


def _overtaken(ref: SecretRef) -> Busy:
    return Busy(
        f"{ref}: another rotation finished during this look",
        remedy="Nothing: the next look follows the newer one.",
    )
