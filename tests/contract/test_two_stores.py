"""The same traces on the AWS-shaped and on the Google-shaped store: the same, but for one table."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyturn.model import Credential, RotationId, SecretRef, Snapshot
from keyturn.stores.secret_manager import SecretManager
from keyturn.testing.traces import (
    DIFFERENCES,
    MOVES,
    STRATEGIES,
    Compared,
    Move,
    Pair,
    Pairing,
    generated,
)

PAGE = (Path(__file__).parents[2] / "docs" / "google.md").read_text(encoding="utf-8")
COUNT = 100
"""Traces here. `make proof` has more, of another seed."""

CLEAN = "begin a, create a, set a, test a, finish a, stand a, current a, kept a"
RECORDED = {
    "a rotation": (CLEAN, set()),
    "two of them": (f"{CLEAN}, begin b, create b, set b, test b, finish b, kept b", set()),
    "every step twice": (
        "begin a, create a, create a, set a, set a, test a, test a, finish a, finish a, stand a",
        set(),
    ),
    "a worker dies after each step": (
        "begin a, create a, arrive a, set a, arrive a, test a, arrive a, finish a, arrive a",
        set(),
    ),
    "the tick comes once more": (f"{CLEAN}, arrive a, create a, set a, test a, finish a", set()),
    "set before create": ("begin a, set a, test a, finish a, current a", set()),
    "an abandoned one, and the next": (
        "begin a, create a, set a, abandon, begin b, create b, set b, test b, finish b, kept b",
        set(),
    ),
    "a follow-up": (f"{CLEAN}, clear a, stand a, clear a, kept a", set()),
    "keys that may have been minted": (
        "begin a, declare a, declare a, look a, settle a, settle a, stage a, promote a",
        {"a rotation without a value"},
    ),
    "somebody stores a value meanwhile": (
        f"{CLEAN}, begin b, create b, write, current b, finish b",
        {"a value stored by hand"},
    ),
    "a zombie stages late": (
        "begin a, look a, begin b, look b, stage b, stage a",
        {"a rotation without a value", "staging by an old look"},
    ),
    "a zombie promotes late": (
        f"{CLEAN}, begin b, create b, look b, begin c, create c, set c, finish c, promote b",
        set(),
    ),
}
"""What a rotation does to its store, and in what the two differ then."""


def read(text: str) -> list[Move]:
    """Read a trace as it is written above."""
    return [Move(*part.split(" ", 1)) for part in text.split(", ")]


@pytest.fixture(scope="module")
def pairing() -> Iterator[Pairing]:
    with Pairing() as both:
        yield both


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("trace", RECORDED)
def test_a_recorded_trace_is_the_same_on_both(pairing: Pairing, trace: str, strategy: str) -> None:
    text, differing = RECORDED[trace]
    compared = Compared()

    pairing.compare(strategy, read(text), compared)

    assert compared.unknown == []
    assert set(compared.differing) == differing
    assert sum(compared.moves.values()) == len(read(text))


def test_generated_traces_are_the_same_on_both(pairing: Pairing) -> None:
    """Every move, in every order, and nothing differs but what the table has; all of that does."""
    compared = Compared()

    for strategy, trace in generated("two stores", COUNT):
        pairing.compare(strategy, trace, compared)

    assert list(map(said, compared.unknown)) == []
    assert set(compared.moves) == set(MOVES)
    assert sum(compared.moves.values()) > 6 * COUNT
    assert set(compared.differing) >= set(DIFFERENCES) - set(RARE)


def said(pair: Pair) -> str:
    """Return what a failure shows: no values."""
    return f"{', '.join(map(str, pair.trace))}: {pair.aws.ended}, {pair.google.ended}"


RARE = {
    "promotion of a rotation that has lost the slot": (
        "begin a, create a, set a, look a, begin b, create b, promote a"
    ),
    "promotion of what was current once": "begin a, create a, set a, finish a, write, promote a",
    "a value stored by hand before any rotation": "begin a, write",
}
"""Not in every so many traces."""


@pytest.mark.parametrize("difference", RARE)
def test_a_rare_difference_is_there(pairing: Pairing, difference: str) -> None:
    compared = Compared()

    pairing.compare("alternating", read(RARE[difference]), compared)

    assert difference in compared.differing
    assert compared.unknown == []


def test_the_core_promotes_it_on_neither(pairing: Pairing) -> None:
    *_, last = pairing.play(
        "alternating", read("begin a, create a, set a, begin b, create b, finish a")
    )

    assert last.aws.ended == last.google.ended == "Busy"
    assert last.aws.slots == last.google.slots


def test_the_page_has_the_table() -> None:
    """Each difference with its reason, word for word."""
    section = PAGE.partition("## In what the stores differ")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", section, re.MULTILINE)

    assert dict(rows) == {name: each.reason for name, each in DIFFERENCES.items()}


# ---------------------------------------------------------------------------- seen to fail


class Hasty(SecretManager):
    """Forgets what was current before."""

    def promote(self, ref: SecretRef, rotation_id: RotationId, seen: Snapshot) -> None:
        super().promote(ref, rotation_id, seen)
        version = self.standing(ref).previous
        if version is not None:
            self.clear_previous(ref, version)


class Replacing(SecretManager):
    """Takes a second value for a rotation that has one."""

    def stage(
        self, ref: SecretRef, rotation_id: RotationId, credential: Credential, seen: Snapshot
    ) -> None:
        if self._look(ref).record.holds(rotation_id):
            self.withdraw(ref, rotation_id)
            seen = Snapshot(seen.current, None)
        super().stage(ref, rotation_id, credential, seen)


@pytest.mark.parametrize("mistake", [Hasty, Replacing])
def test_a_mistake_in_one_store_is_seen(mistake: type[SecretManager]) -> None:
    """A check that cannot fail proves nothing."""
    compared = Compared()

    with Pairing(mistake) as pairing:
        for strategy, trace in generated("two stores", COUNT // 2):
            pairing.compare(strategy, trace, compared)

    assert compared.unknown
