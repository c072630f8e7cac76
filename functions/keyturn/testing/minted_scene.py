"""The scene of a target that mints its keys, with lists that are late and keys that are slow.

Besides what every `Scene` looks at: no key is alive at the end but those of the last two versions
that were current, what is not ours, and what a person was told of (I5). Where a person's key takes
the room, the last run must refuse, name it, and leave it.
"""

from __future__ import annotations

import re
from datetime import timedelta

from keyturn.errors import Drifted, KeyturnError, Untraceable
from keyturn.minted import LANDING, Place
from keyturn.model import Credential, RotationId, Sensitive, Trace
from keyturn.ports import Target
from keyturn.rotation import STALE_AFTER
from keyturn.testing.fakes import REF, Key, MemoryIssuer
from keyturn.testing.scene import BEGIN, FIRST, HUMAN, LAST, Scene

LONG_AGO = timedelta(days=30)
ROOMY = 9
"""Keys that a holder may have, where one that is lost takes a place for good."""
AGAIN = RotationId("zz")
"""The id of one more clean run."""


class _Issuer(MemoryIssuer):
    """Notes the credential of each use, for whoever asks after it."""

    scene: MintedScene

    def verify(self, credential: Credential) -> bool:
        """See `KeyIssuer.verify`."""
        self.scene.note_use(credential)
        return super().verify(credential)


class MintedScene(Scene):
    """The world of one schedule."""

    _told = ""

    def tell(self, error: KeyturnError) -> None:
        """See `Scene.tell`. What may be lost is told of, and then forgotten."""
        if isinstance(error, Untraceable):
            self._told += f"{error}\n"
            error.when_told()

    def note_use(self, credential: Credential) -> None:
        """Remember which key the actor tries."""
        self._logins[self.actor] = credential

    def converge(self) -> None:
        """See `Scene.converge`."""
        if HUMAN in self._issuer.alive() and self._accepts_current():
            self._expect_refusal()
            return
        super().converge()
        if self._issuer.trace is Trace.TIME_ONLY and not self.violations:
            self._rotate_again()
        self._look_for_orphans()

    def _rotate_again(self) -> None:
        """Rotate: who goes on with another's value mints nothing, and leaves it to tell."""
        self.pass_time()
        self.actor = self.worker = AGAIN
        self.begin(AGAIN)
        self._see_slots(BEGIN)
        self._run_at_rest(AGAIN)

    def _run_at_rest(self, rotation_id: RotationId) -> None:
        """See `Scene`. What it has to tell, it tells once."""
        try:
            super()._run_at_rest(rotation_id)
        except Untraceable as error:
            self.tell(error)
            super()._run_at_rest(rotation_id)

    def _expect_refusal(self) -> None:
        self.pass_time()
        self.actor = self.worker = LAST
        self.begin(LAST)
        self._see_slots(BEGIN)
        try:
            self.rotation(LAST, LAST).run()
        except Drifted as error:
            if HUMAN not in str(error):
                self._broken("converges", f"the refusal names no key: {error}")
        else:
            self._broken("converges", "the last run does not refuse")

    def _look_for_orphans(self) -> None:
        with_keys = [version for version in self._promoted_versions() if version is not None]
        ours = {version.principal for version in with_keys}
        told = set(re.findall(r"\bK\d+\b", self._told))
        orphans = self._issuer.alive().keys() - ours - {HUMAN} - told
        if orphans and not self.violations:
            self._broken("converges", f"orphans are left: {', '.join(sorted(orphans))}")

    def _promoted_versions(self) -> list[Credential | None]:
        return [self._served.get(rotation_id) for rotation_id in self._promoted[-2:]]

    def _furnish(self) -> Credential:
        created = self.world.clock.now() - LONG_AGO
        first = {*(self.configuration.strategy.keys or ())}
        if self.configuration.earlier:
            first.discard(HUMAN)
        self._issuer = _Issuer(self.world, {k: Key(f"{k}-secret", created) for k in sorted(first)})
        self._issuer.scene = self
        self._issuer.trace = self.configuration.strategy.trace
        if self._issuer.trace is Trace.TIME_ONLY:
            self._issuer.limit = ROOMY
        current = Credential("K0", Sensitive("K0-secret"))
        self._served = {FIRST: current}
        return current

    def _rest(self) -> None:
        self._note_served()
        if self.configuration.has_rested:
            self.pass_time()
        if HUMAN in (self.configuration.strategy.keys or ()):
            # While it is at rest, somebody has made room, and a key.
            self._issuer.keys_by_id.pop("K0", None)
            made = self.world.clock.now() - timedelta(minutes=1)
            self._issuer.keys_by_id[HUMAN] = Key(f"{HUMAN}-secret", made)
            self._others = self._foreign()

    def _see_promotion(self, before: RotationId) -> None:
        super()._see_promotion(before)
        self._note_served()

    def _note_served(self) -> None:
        version = self.serves()
        self._served[version.rotation_id] = version.credential

    def _target(self, rotation_id: RotationId, worker: str) -> Target:
        del worker
        make = self.configuration.strategy.target
        place = Place(self._store, REF, rotation_id)
        lost_after = LANDING if self.configuration.has_lease else STALE_AFTER
        clock = self.world.clock
        return make(self._issuer, place, clock, lambda _: True, lost_after=lost_after)

    def _would_accept(self, credential: Credential) -> bool:
        return self._issuer.would_accept(credential)

    def _foreign(self) -> list[object]:
        key = self._issuer.keys_by_id.get(HUMAN)
        return [key.is_active, key.gone_at] if key else []

    def _see_refusal(self) -> None:
        # With no key at first, there is nothing to lose before the first one is promoted.
        if self._slots.current == FIRST and "K0" not in (self.configuration.strategy.keys or ()):
            return
        super()._see_refusal()
