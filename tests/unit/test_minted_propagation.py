"""Keys that hosts hear of one by one, and lists that are old: by chance, with a seed.

Each host hears of a new key after 0 to 60 s, so that it may work, be refused and work again; each
list is 0 to 60 s old; each call of the function has its own time left, so that a proof may be cut
short; replies get lost, workers die, and a second delivery may come at any call.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime, timedelta

import pytest

from keyturn.errors import Busy, Drifted, KeyturnError, Unreachable
from keyturn.minted import PROOFS, MintedKeys, Place
from keyturn.model import Attempt, Credential, IssuedKey, RotationId, Sensitive, Step
from keyturn.rotation import STALE_AFTER, Rotation
from keyturn.testing.fakes import REF, Crash, Key, LabelledStore, MemoryIssuer, World

HOSTS, SLOWEST_S = 4, 60.0
LONG = STALE_AFTER + timedelta(seconds=1)
Make = Callable[..., MintedKeys]


class SlowIssuer(MemoryIssuer):
    """Hosts and lists that are late by the clock.

    Attributes:
        in_a_row: How often each key has worked since it was last refused.
    """

    def __init__(self, world: World, keys: dict[str, Key], chance: random.Random) -> None:
        super().__init__(world, keys)
        self.lag = 0
        self.in_a_row: Counter[str] = Counter()
        self._chance = chance
        self._known_at: dict[str, list[datetime]] = {}
        self._gone_at: dict[str, datetime] = {}

    def mint(self, current: Credential, attempt: Attempt) -> Credential:
        made = super().mint(current, attempt)
        self._known_at[made.secret.reveal()] = [self._soon() for _ in range(HOSTS)]
        return made

    def verify(self, credential: Credential) -> bool:
        with self._world.call("issuer.verify"):
            key = self.alive().get(credential.principal)
            if key is None or not self._is_right(key, credential) or not self._is_known(key):
                self.in_a_row[credential.principal] = 0
                return False
            self.in_a_row[credential.principal] += 1
            key.used_at = self._now()
            return True

    def keys(self, current: Credential) -> list[IssuedKey]:
        del current
        with self._world.call("issuer.list"):
            then = self._now() - timedelta(seconds=self._chance.uniform(0, SLOWEST_S))
            return [
                IssuedKey(key_id, key.created_at, key.is_active)
                for key_id, key in self.keys_by_id.items()
                if key.created_at <= then and self._gone_at.get(key_id, self._now()) > then
            ]

    def delete(self, current: Credential, key_id: str) -> None:
        super().delete(current, key_id)
        self._gone_at.setdefault(key_id, self._now())

    def _is_known(self, key: Key) -> bool:
        """Ask any of the hosts."""
        known_at = self._known_at.get(key.secret)
        return known_at is None or self._chance.choice(known_at) <= self._now()

    def _now(self) -> datetime:
        return self._world.clock.now()

    def _soon(self) -> datetime:
        return self._now() + timedelta(seconds=self._chance.uniform(0, SLOWEST_S))


class Season:
    """Some rotations of one secret, and what goes wrong in them."""

    def __init__(self, seed: int, make: Make = MintedKeys) -> None:
        self.chance = random.Random(seed)  # noqa: S311  # what goes wrong, not a secret
        self.make = make
        self.world = World()
        created = self.world.clock.now() - timedelta(days=30)
        first = Credential("K0", Sensitive("Canary7-K0"))
        self.issuer = SlowIssuer(self.world, {"K0": Key("Canary7-K0", created)}, self.chance)
        self.store = LabelledStore(self.world, first)
        self.world.clock.advance(LONG)
        self.broken: list[str] = []
        self.left_s = 0.0
        self.faults = 0.0
        self.duplicate: Rotation | None = None
        self._served = [first.principal]
        self.world.before, self.world.after = self._before, self._after

    def rotate(self, faults: float) -> int:
        """Have the platform repeat steps, and rotations, until one is over; count the calls."""
        self.faults = faults
        for number in range(1, 20):
            name = RotationId(f"{len(self._served)}-{number}")
            self.store.begin(name)
            invocations = self._drive(name)
            if invocations:
                return invocations
            self.world.clock.advance(LONG)
        self.broken.append("no rotation came to its end")
        return 0

    def end(self) -> None:
        """Rotate twice without faults: what was left is gone."""
        for _ in range(2):
            self.world.clock.advance(LONG)
            self.rotate(0)
        orphans = self.issuer.alive().keys() - {*self._served[-2:]}
        if orphans:
            self.broken.append(f"orphans: {sorted(orphans)}")

    def _drive(self, name: RotationId) -> int:
        steps = list(Step)
        for invocation in range(1, 60):
            self.left_s = self.chance.uniform(0, 90)
            self.duplicate = self._rotation(name)
            try:
                self._rotation(name).perform(steps[0])
                steps.pop(0)
            except Busy:
                return 0
            except Drifted as error:
                self.broken.append(f"nobody's key is refused: {error}")
            except (KeyturnError, Crash):
                self.world.clock.advance(timedelta(seconds=self.chance.uniform(0, 30)))
            if not steps:
                return invocation
        return 0

    def _rotation(self, name: RotationId) -> Rotation:
        place = Place(self.store, REF, name)
        target = self.make(self.issuer, place, self.world.clock, self._pause)
        return Rotation(
            REF, name, store=self.store, targets=lambda _: target, clock=self.world.clock
        )

    def _pause(self, seconds: float) -> bool:
        self.left_s -= seconds
        if self.left_s > 0:
            self.world.clock.advance(timedelta(seconds=seconds))
        return self.left_s > 0

    def _before(self, _: int, call: str) -> None:
        if self.duplicate is not None and self.chance.random() < self.faults / 20:
            second, self.duplicate = self.duplicate, None
            with suppress(KeyturnError, Crash):
                second.perform(Step.CREATE)
        self._fail(call)

    def _after(self, _: int, call: str) -> None:
        served = self.store.serves().credential.principal
        if served != self._served[-1]:
            self._served.append(served)
            if self.issuer.in_a_row[served] < PROOFS:
                self.broken.append(f"{served} is promoted after {self.issuer.in_a_row[served]}")
        for key_id in (served, self._pending()):
            key = self.issuer.alive().get(key_id)
            if key_id and (key is None or not key.is_active):
                self.broken.append(f"{key_id} is in use, and dies at {call}")
        self._fail(call)

    def _fail(self, call: str) -> None:
        if call in {"issuer.mint", "store.put", "issuer.delete"}:
            chance = self.chance.random()
            if chance < self.faults / 8:
                raise Crash
            if chance < self.faults / 4:
                raise Unreachable("no answer", remedy="")

    def _pending(self) -> str:
        version = self.store.versions.get(self.store.labels.get("pending", RotationId("")))
        return version.credential.principal if version else ""


def _season(seed: int, make: Make = MintedKeys) -> list[str]:
    season = Season(seed, make)
    for _ in range(4):
        season.rotate(faults=0.5)
        season.world.clock.advance(LONG)
    season.end()
    return season.broken


@pytest.mark.parametrize("hundred", range(5))
def test_nothing_is_promoted_early_and_no_live_key_dies(hundred: int) -> None:
    seeds = range(100 * hundred, 100 * hundred + 100)

    found = {seed: broken for seed in seeds if (broken := _season(seed))}

    assert found == {}


def test_a_proof_goes_on_in_the_next_invocation() -> None:
    """Few are over at the first try of each of their four steps."""
    invocations = [Season(seed).rotate(faults=0) for seed in range(100)]

    assert min(invocations) == len(Step)
    assert sum(each > len(Step) for each in invocations) > 50


class OneProof(MintedKeys):
    """Promotes a key on one good use."""

    def accepts(self, credential: Credential) -> bool:
        return self._issuer.verify(credential)


def _forgets_the_age_rule(*works_with: object) -> MintedKeys:
    return MintedKeys(*works_with, lost_after=timedelta(0))  # type: ignore[arg-type]


class Undeclared(MintedKeys):
    """Declares nothing: whose a lost key is, nobody knows."""

    def _mint(self, current: Credential, since: datetime, foreign: Iterable[str]) -> Credential:
        del since, foreign
        return self._issuer.mint(current, self._next_attempt())


@pytest.mark.parametrize(
    "make, found",
    [
        (OneProof, "is promoted after"),
        (Undeclared, "nobody's key is refused"),
        (_forgets_the_age_rule, "is in use, and dies"),
    ],
)
def test_a_planted_mistake_is_found(make: Make, found: str) -> None:
    seeds = range(200)

    assert any(found in each for seed in seeds for each in _season(seed, make))
