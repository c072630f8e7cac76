"""A rotation on the Google-shaped store, broken at its every call; the whole is `make proof`.

Here a sample, the same every time, and that the sweep sees what it is there to see.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import pytest

from keyturn.model import Credential, Intent, RotationId, SecretRef, Snapshot
from keyturn.stores.secret_manager import SecretManager
from keyturn.testing.google_subjects import Values
from keyturn.testing.google_sweep import (
    LAGS,
    STRATEGY_NAMES,
    Fault,
    Meanwhile,
    Scenario,
    Sweep,
    table,
)

OF_EACH = 4


@pytest.fixture(scope="module")
def sweep() -> Iterator[Sweep]:
    with Sweep() as running:
        yield running


def test_no_promise_is_broken_at_any_call(sweep: Sweep) -> None:
    """Of each fault, and with each kind of target, some."""
    chosen = sweep.sample(OF_EACH, "a sample")
    assert {(each.strategy, each.lag) for each in chosen} == {
        (strategy, lag) for strategy in STRATEGY_NAMES for lag in LAGS
    }

    tally = sweep.sweep(chosen)

    assert tally.examples == {}, table(tally)
    assert set(tally.faults.values()) == {OF_EACH}


MOST = {"minted with a name": 48} | dict.fromkeys(
    ("minted", "minted with a mark", "minted, time only"), 52
)
"""Calls of Secret Manager in one rotation, where it is not the usual number."""


@pytest.mark.parametrize("strategy", STRATEGY_NAMES)
def test_a_rotation_makes_a_bounded_number_of_calls(sweep: Sweep, strategy: str) -> None:
    """Writes are the narrow ones: 2 a second for each secret. Where keys are minted, 4 more."""
    calls = [each for each in sweep.calls_of(strategy) if "." not in each]

    assert len(calls) <= MOST.get(strategy, 33)
    assert calls.count("update_secret") <= (11 if strategy in MOST else 7)  # aliases included
    assert calls.count("add_secret_version") == 2


# ---------------------------------------------------------------------------- seen to fail


class Exposing(SecretManager):
    """Stages where readers look."""

    def stage(
        self, ref: SecretRef, rotation_id: RotationId, credential: Credential, seen: Snapshot
    ) -> None:
        super().stage(ref, rotation_id, credential, seen)
        pending = self._known(ref).record.pending
        assert pending is not None
        text = self._wire.text(f"{ref}-pending", pending.number)
        assert isinstance(text, str)
        self._wire.add(ref, text.partition("\n")[2], 1)


class Unfenced(SecretManager):
    """Takes what was read for what is."""

    def _fenced(self, ref: SecretRef) -> object:  # type: ignore[override]
        return self._known(ref)


class Forgetful(SecretManager):
    """Does not know which rotations are over."""

    def is_over(
        self, ref: SecretRef, rotation_id: RotationId, asked_at: datetime | None = None
    ) -> bool:
        del ref, rotation_id, asked_at
        return False


class Blind(SecretManager):
    """Does not look for what came late."""

    def _is_last(self, name: str, number: int) -> bool:
        del name, number
        return True


class Careless(SecretManager):
    """Does not write down that a key is about to be minted."""

    def declare(self, ref: SecretRef, intent: Intent) -> None:
        del ref, intent


@pytest.mark.parametrize(
    "mistake, strategy, name, fault, meanwhile, broken",
    [
        (Unfenced, "dual", "access_secret_version", Fault.STALLS, Meanwhile.NEWER, "refused"),
        (Forgetful, "single", "get_secret", Fault.STALLS, Meanwhile.NEWER, "unended"),
        (Blind, "single", "add_secret_version", Fault.LATE, Meanwhile.TWO_NEWER, "unhealed"),
        (Careless, "minted", "issuer.mint", Fault.CRASH_AFTER, Meanwhile.NOTHING, "unended"),
    ],
    ids=["unfenced", "forgetful", "blind", "careless"],
)
def test_the_sweep_sees_a_mistake(  # noqa: PLR0913, PLR0917  # a scenario, and what it breaks
    mistake: type[SecretManager],
    strategy: str,
    name: str,
    fault: Fault,
    meanwhile: Meanwhile,
    broken: str,
) -> None:
    """A check that cannot fail proves nothing."""
    with Sweep(mistake) as sweep:
        assert broken in first_broken(sweep, strategy, name, fault, meanwhile)


def first_broken(
    sweep: Sweep, strategy: str, name: str, fault: Fault, meanwhile: Meanwhile
) -> set[str]:
    """Return what is broken at the first call of that name where anything is."""
    for number, called in enumerate(sweep.calls_of(strategy), 1):
        if called == name:
            scene = sweep.play(Scenario(strategy, 0, number, name, fault, meanwhile))
            if scene.violations:
                return scene.violations
    return set()


def test_the_sweep_sees_an_untested_value() -> None:
    """At once, whoever reads it."""
    with Sweep(Exposing) as sweep:
        assert "untested" in sweep.scene("single").violations


def test_the_sweep_sees_a_value_whose_verifiers_lack_the_one_before() -> None:
    values, another = Values(), Values()

    assert values.accepts(another.first)
    assert values.follows(values.first, values.first)
    assert not values.follows(another.first, values.first)
