"""Two workers, every interleaving of the real code; and mistakes, to see that they are found.

The whole exploration is `make proof`; here, two deviations, not three, and not all pairs of faults.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime

import pytest

from keyturn.errors import Unreachable
from keyturn.minted import MintedKeys, _Census
from keyturn.model import Credential, IssuedKey, Sensitive, Version
from keyturn.ports import Generate, Pending, Target
from keyturn.rotation import Rotation
from keyturn.strategies import AlternatingUsers, PlatformUser, SingleUser, pair_by_suffix
from keyturn.testing.explorer import (
    CONFIGURATIONS,
    FAULTY,
    Counts,
    Fault,
    Kind,
    Schedule,
    explore,
    replay,
)
from keyturn.testing.fakes import MemoryDatabase, World
from keyturn.testing.scene import ADMIN, STRATEGIES, Configuration, Strategy

SINGLE, ALTERNATING = STRATEGIES["single"], STRATEGIES["alternating"]
BY_PLATFORM = STRATEGIES["by platform"]

PARTS = {"minted, time only": 5}
"""Of the strategies of which not all is played: every so-manieth with two deviations."""
FIRST, EVERY_PAIR = 450, 60
"""Of two faults: the first so many schedules, and a part from everywhere."""


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=str)
def test_no_promise_is_broken_in_any_schedule(configuration: Configuration) -> None:
    every = PARTS.get(configuration.strategy.name, 1)

    counts = explore(configuration, deviations=2, every=every)

    assert counts.schedules > 1000
    assert {name: str(ran.schedule) for name, ran in counts.examples.items()} == {}


@pytest.mark.parametrize("configuration", FAULTY, ids=str)
def test_no_promise_is_broken_by_faults_in_a_rotation_and_in_its_recovery(
    configuration: Configuration,
) -> None:
    """Every single fault, as many pairs as there is time for, and some from everywhere."""
    first = explore(configuration, preemptions=0, faults=2, limit=FIRST)
    spread = explore(configuration, preemptions=0, faults=2, every=EVERY_PAIR)

    assert first.schedules == FIRST
    found = {**first.examples, **spread.examples}
    assert {name: str(ran.schedule) for name, ran in found.items()} == {}


def test_a_part_leaves_out_none_that_deviates_less() -> None:
    whole, part = _schedules(1, 1), _schedules(1, 1, every=7)

    assert [e for e in part if e.deviations < 2] == [e for e in whole if e.deviations < 2]
    assert {*part} < {*whole}
    assert len(part) < len(whole) / 3


def test_a_rotation_alone_with_its_duplicate_has_one_schedule_per_call() -> None:
    """One preemption, no fault: the first worker is stopped before any of its 14 calls, or not."""
    counts = explore(Configuration(SINGLE, "labelled", ids=1), preemptions=1, faults=0)

    assert counts.schedules == 1 + 14


def test_two_explorations_are_one() -> None:
    """Same order, same calls, same verdicts: whatever the hash seed of the process."""
    code = (
        "from keyturn.testing.explorer import CONFIGURATIONS, explore\n"
        "print(explore(CONFIGURATIONS[1], limit=500).digest)"
    )

    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }

    assert digests == {explore(CONFIGURATIONS[1], limit=500).digest}


def test_every_kind_of_fault_is_played() -> None:
    seen: set[str] = set()

    def note(counts: Counts) -> None:
        seen.update(fault.kind.value for fault in _schedule(counts).faults)

    explore(CONFIGURATIONS[0], preemptions=0, report=note)

    assert seen == {kind.value for kind in Kind}


def _schedule(counts: Counts) -> Schedule:
    assert counts.last is not None
    return counts.last.schedule


TWICE = Configuration(SINGLE, "labelled", ids=1)


def _schedules(preemptions: int, faults: int, *, every: int = 1) -> list[Schedule]:
    found: list[Schedule] = []

    def note(counts: Counts) -> None:
        found.append(_schedule(counts))

    explore(TWICE, preemptions, faults, every=every, report=note)
    return found


def test_a_second_fault_changes_nothing_of_what_one_finds() -> None:
    one, two = _schedules(0, 1), _schedules(0, 2)

    assert [each for each in two if len(each.faults) < 2] == one


def test_every_pair_of_faults_is_played_and_each_once() -> None:
    """Whatever happens, call by call, happens in one schedule only."""
    happened: list[tuple[object, ...]] = []

    def note(counts: Counts) -> None:
        assert counts.last is not None
        happened.append(counts.last.rows)

    counts = explore(TWICE, preemptions=0, faults=2, report=note)

    assert len(set(happened)) == counts.schedules
    assert set(_pairs()) == {
        each.faults
        for each in _schedules(0, 2)
        if [fault.kind for fault in each.faults] == [Kind.UNREACHABLE] * 2
    }


def _pairs() -> Iterator[tuple[Fault, ...]]:
    """Find them the plain way: try every number, and see whether there was such a call."""
    for numbers in itertools.combinations(range(1, 60), 2):
        faults = tuple(Fault(number, Kind.UNREACHABLE) for number in numbers)
        ran = replay(SINGLE, "labelled", faults=[(fault.at, fault.kind.value) for fault in faults])
        if {*numbers} <= {point.number for point in ran.points}:
            yield faults


def test_a_call_may_land_while_its_recovery_fails_and_after() -> None:
    late = [each.faults for each in _schedules(0, 2) if _is_late_first(each)]

    assert {second.at <= first.at + first.later for first, second in late} == {True, False}
    assert {second.kind for _, second in late} == {*Kind} - {Kind.LATE}


def _is_late_first(schedule: Schedule) -> bool:
    return len(schedule.faults) > 1 and schedule.faults[0].kind is Kind.LATE


def test_some_mistakes_take_two_faults_to_show() -> None:
    """A key that nobody keeps is deleted, and whoever deletes it dies."""
    mistaken = _minting(SettlesFirst, "first minted")

    assert explore(Configuration(mistaken, "labelled", ids=1), preemptions=0, faults=1).is_clean
    ran = replay(mistaken, "labelled", faults=[(35, "lands late", 1), (49, "crash after")])
    assert [each.invariant for each in ran.violations] == ["converges"]
    assert replay("first minted", "labelled", faults=[(35, "lands late", 1)]).violations == ()


def test_whoever_dies_before_telling_leaves_it_to_the_next() -> None:
    """The worker that minted has died, and so does the one that finds what it left."""
    mistaken = _minting(ForgetsFirst, "minted, time only")
    configuration = Configuration(mistaken, "staged", ids=2)

    assert explore(configuration, preemptions=0, faults=1).is_clean
    pair = [(10, "crash after"), (20, "crash after")]
    ran = replay(mistaken, "staged", ids=2, faults=pair)
    assert [each.fact for each in ran.violations] == ["orphans are left: K1"]
    assert replay("minted, time only", "staged", ids=2, faults=pair).violations == ()


def test_an_act_under_way_is_counted_and_healed() -> None:
    """The fence has passed, another rotation runs from end to end, and then the act lands."""
    ran = replay("alternating", "labelled", ids=2, earlier=1, switches=[12])

    assert ran.was_overtaken
    assert ran.violations == ()
    assert "refused" in str(ran)


def test_an_error_that_is_not_ours_ends_the_exploration() -> None:
    """It is a bug, not a verdict; it says which schedule it came up in."""
    broken = replace(SINGLE, name="broken", target=_raising)

    with pytest.raises(KeyError) as caught:
        explore(Configuration(broken, "labelled", ids=2), limit=20)

    assert "switches=[]" in caught.value.__notes__[0]


def _raising(database: MemoryDatabase, generate: Generate) -> Target:
    del database
    if generate() == Sensitive("2nd-1"):
        raise KeyError
    return SingleUser(MemoryDatabase(World(), {}), generate)


# ---------------------------------------------------------------------------- planted mistakes


class Unfenced(AlternatingUsers):
    """Reads what pends at the start of set, not right before the act."""

    def set(self, pending: Pending, current: Version, kept: Iterable[Version]) -> None:
        read = pending()
        super().set(lambda: read, current, kept)


class AsksFirst(PlatformUser):
    """Asks before anything is staged."""

    def create(self, current: Credential, kept: Iterable[Version]) -> Credential:
        following = super().create(current, kept)
        self._authority().set_password(following.principal, following.secret)
        return following


class StaleTurn(AlternatingUsers):
    """Trusts the turn that pending was made for, not the user that is current now."""

    def set(self, pending: Pending, current: Version, kept: Iterable[Version]) -> None:
        principal = pending().credential.principal
        then = replace(current.credential, principal=self._pair(principal).other(principal))
        super().set(pending, replace(current, credential=then), kept)


class Meddler(AlternatingUsers):
    """Changes an account that is none of its own."""

    def create(self, current: Credential, kept: Iterable[Version]) -> Credential:
        with self._engine.login(ADMIN) as session:
            assert session is not None
            session.set_password("human", Sensitive("taken"))
        return super().create(current, kept)


class SetsFirst(SingleUser):
    """Sets before it stages."""

    def create(self, current: Credential, kept: Iterable[Version]) -> Credential:
        following = super().create(current, kept)
        with self._engine.login(current) as session:
            if session is None:
                raise Unreachable("refused", remedy="")
            session.set_password(following.principal, following.secret)
        return following


class Shallow(SingleUser):
    """Looks in the slots only, as the official template does."""

    def set(self, pending: Pending, current: Version, kept: Iterable[Version]) -> None:
        del kept
        super().set(pending, current, [])


class OneProof(MintedKeys):
    """Promotes a key on one good use."""

    def accepts(self, credential: Credential) -> bool:
        return any(self._issuer.verify(credential) for _ in range(2))


class SettlesFirst(MintedKeys):
    """Takes the intent back before the key that nobody keeps is gone."""

    def discard(self, minted: Credential) -> None:
        self._settle([self._attempt])
        super().discard(minted)


class ForgetsFirst(MintedKeys):
    """Takes back the intent of a key that may be lost, and is then about to tell of it."""

    def _require_traced(self, census: _Census) -> None:
        self._settle(sorted(census.suspected))
        super()._require_traced(census)


class Undeclared(MintedKeys):
    """Declares nothing: whose a lost key is, nobody knows."""

    def _mint(self, current: Credential, since: datetime, foreign: Iterable[str]) -> Credential:
        del since, foreign
        return self._issuer.mint(current, self._next_attempt())


class TakesAll(MintedKeys):
    """Deletes whatever no version of the secret has."""

    def _sorted(
        self, keys: Sequence[IssuedKey], versions: Sequence[Version], current: Credential
    ) -> _Census:
        census = super()._sorted(keys, versions, current)
        return replace(census, orphans=[*census.orphans, *census.foreign], foreign=[])


class Impatient(MintedKeys):
    """Takes a key that a running worker has just made for one that was lost."""

    def _sorted(
        self, keys: Sequence[IssuedKey], versions: Sequence[Version], current: Credential
    ) -> _Census:
        census = super()._sorted(keys, versions, current)
        return replace(census, orphans=[*census.orphans, *census.young], young=[])


class Untested(Rotation):
    """Promotes what never logged in."""

    def _require_accepted(self, version: Version) -> None:
        del version


def _planted(name: str, like: Strategy) -> Strategy:
    make: dict[str, Callable[..., Target]] = {
        "Unfenced": Unfenced,
        "StaleTurn": StaleTurn,
        "Meddler": Meddler,
        "SetsFirst": SetsFirst,
        "Shallow": Shallow,
        "AsksFirst": AsksFirst,
    }

    def target(database: MemoryDatabase, generate: Generate) -> Target:
        if like.has_admin:
            return make[name](database, generate, pair_by_suffix, lambda: ADMIN)
        if like is BY_PLATFORM:
            return make[name](database, generate, database.platform)
        return make[name](database, generate)

    return replace(like, name=name, target=target)


def _minting(target: type[MintedKeys], like: str = "minted") -> Strategy:
    return replace(STRATEGIES[like], name=target.__name__, target=target)


PLANTED = {
    "one proof": (Configuration(_minting(OneProof), "labelled", ids=1), "current"),
    "undeclared": (Configuration(_minting(Undeclared), "labelled", ids=2), "converges"),
    "take all": (
        Configuration(_minting(TakesAll, "minted beside a person's"), "labelled", ids=1),
        "foreign",
    ),
    "impatient": (Configuration(_minting(Impatient, "first minted"), "labelled", ids=1), "current"),
    "unfenced": (Configuration(_planted("Unfenced", ALTERNATING), "labelled", ids=2), "current"),
    "ask first": (
        Configuration(_planted("AsksFirst", BY_PLATFORM), "labelled", ids=1),
        "recoverable",
    ),
    "stale turn": (Configuration(_planted("StaleTurn", ALTERNATING), "labelled", ids=2), "current"),
    "meddler": (Configuration(_planted("Meddler", ALTERNATING), "labelled", ids=1), "foreign"),
    "set first": (Configuration(_planted("SetsFirst", SINGLE), "labelled", ids=1), "recoverable"),
    "shallow": (Configuration(_planted("Shallow", SINGLE), "labelled", ids=2), "converges"),
    "untested": (Configuration(SINGLE, "labelled", ids=1, rotation=Untested), "tested"),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_mistake_is_found_and_its_script_replays_it(
    planted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configuration, invariant = PLANTED[planted]

    counts = explore(configuration, preemptions=1)
    found = counts.examples[invariant]
    names = {configuration.strategy.name: configuration.strategy, "Untested": Untested}
    exec(found.script, names)  # noqa: S102  # what a person would paste

    assert counts.violations[invariant]
    assert capsys.readouterr().out == f"{found}\n"
    assert f"BROKEN {invariant}" in str(found)
