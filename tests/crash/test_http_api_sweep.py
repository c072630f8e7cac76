"""Every request of a rotation breaks, in every way, and is gone on with: no key is left or lost.

The rotation that is broken is one that deletes, too. After it the platform either
repeats it, or somebody abandons it and the next one comes. By then a worker is dead, by the clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from http_apis import LATE, NAMELESS, TOY, Shop, recipe
from keyturn import http_exchange
from keyturn.errors import KeyturnError
from keyturn.model import RotationId
from keyturn.testing.fakes import Crash
from keyturn.testing.strict_api import PROVIDERS, Fault, Shape, Toy

SHAPES: dict[str, tuple[type[Shape], str]] = {
    "toy by name": (Toy, TOY),
    "toy by time": (Toy, NAMELESS),
    **{name: (shape, recipe(name)) for name, shape in PROVIDERS.items()},
}
FAULTS = [fault for fault in Fault if fault not in {Fault.NONE, Fault.SLOW}]
"""A time-out is like a lost reply, and costs its time: it is tried once, at the create."""

each_shape = pytest.mark.parametrize("name", SHAPES)
RECOVERIES = ["retry", "abandon"]
each_recovery = pytest.mark.parametrize("recovery", RECOVERIES)


class Broken:
    """A rotation that has a key to delete, about to break."""

    def __init__(self, stack: ExitStack, name: str) -> None:
        shape, text = SHAPES[name]
        self.shop = Shop(stack, shape(), text, has_foreign=shape is not Toy)
        self.shop.rotation("a").run()
        if self.shop.unlisted():  # then the second one has nothing to delete
            self.shop.run_late("a2")
        self.shop.world.clock.advance(LATE)
        self.shop.api.asked.clear()
        self.refused: list[str] = []
        self.shop.api.after = self._look

    def _look(self, name: str) -> None:
        if not self.shop.current_works():
            self.refused.append(name)

    def run(self) -> None:
        with suppress(KeyturnError, Crash):
            self.shop.rotation("b").run()

    def recover(self, recovery: str) -> None:
        self.shop.mend()
        self.shop.world.clock.advance(LATE)
        if recovery == "retry":
            with suppress(KeyturnError):
                self.shop.resume("b").run()
        else:
            self.shop.store.abandon()
        for name in ("c", "d"):
            self.shop.run_late(name)

    def problems(self) -> Iterator[str]:
        shop = self.shop
        kept = [version.credential.principal for version in shop.promoted()[-2:]]
        if shop.alive() - shop.unlisted() != set(kept):
            yield f"alive are {sorted(shop.alive())}, promoted {kept}"
        if shop.foreign is not None and shop.foreign.is_gone:
            yield "somebody else's key is gone"
        if self.refused:
            yield f"current was refused after {self.refused}"
        if shop.serves() == shop.first.key_id:
            yield "it has not gone on"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def _requests(name: str) -> list[str]:
    """Return what a rotation asks, when nothing breaks."""
    with ExitStack() as stack:
        broken = Broken(stack, name)
        broken.run()
        assert not list(broken.problems())
        return list(broken.shop.api.asked)


@each_shape
def test_no_broken_request_leaves_a_key_or_takes_one(name: str) -> None:
    """In turns it is repeated or abandoned, so that neighbours differ."""
    asked = _requests(name)
    found: list[str] = []

    for number in range(1, len(asked) + 1):
        for turn, fault in enumerate(FAULTS, number):
            with ExitStack() as stack:
                broken = Broken(stack, name)
                broken.shop.break_at(number, fault)
                broken.run()
                broken.recover(RECOVERIES[turn % 2])
                where = f"{fault.value} at {number}, {asked[number - 1]}"
                found += [f"{where}: {problem}" for problem in broken.problems()]

    assert len(asked) > 9
    assert found == []


@each_shape
@each_recovery
def test_no_crash_between_two_calls_leaves_a_key_or_takes_one(name: str, recovery: str) -> None:
    """Before each request, and before and after each call of the store: the process is gone."""
    found: list[str] = []
    points = 0

    for where in ("request", "before", "after"):
        for number in range(1, 60):
            with ExitStack() as stack:
                broken = Broken(stack, name)
                crash = broken.shop.crash_at(where, number)
                broken.run()
                if not crash.has_happened:
                    break
                points += 1
                broken.recover(recovery)
                found += [f"{where} {number}: {problem}" for problem in broken.problems()]

    assert points > 50
    assert found == []


@each_shape
def test_a_create_that_takes_too_long_leaves_no_key(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        broken = Broken(stack, name)
        target = broken.shop.declared.create.request.target
        monkeypatch.setattr(http_exchange, "TIMEOUT_S", 0.3)
        with broken.shop.api.break_all(Fault.SLOW, f"POST {target}"):
            broken.run()

        monkeypatch.undo()
        broken.recover("abandon")

        assert list(broken.problems()) == []
        assert broken.shop.store.serves().rotation_id == RotationId("d")
