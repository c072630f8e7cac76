"""Keys that an issuer makes and shows once: mint, prove, delete. Knows no issuer.

A key is ours if a version of the secret holds it. The order of creation says nothing, and neither
does age alone: the oldest key may be the live one, and the one beside it a person's.

    create    list the target, then read the store; delete what is spent; declare; mint
    set       nothing: what was minted is accepted, as soon as every host knows it
    accepts   so many uses in a row, with pauses
    retire    deactivate what is spent; the next create deletes it

Between minting and staging a crash, or a lost reply, leaves a key that no version holds and whose
secret nobody knows. The `Intent` declared before, and settled when a version holds the key, tells
it from a person's. What a listed key is:

    in use     the key of current or pending
    resting    in a version, in no slot, and too young or still in use: it is left alone
    spent      in a version, in no slot, older than any worker, past its grace, no longer used
    young      in no version, minted for our intent maybe; its worker may be alive
    orphan     the same, older than any worker, and never used
    foreign    any other: somebody else's, never touched
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from keyturn.errors import Busy, Drifted, NotYetAccepted
from keyturn.model import Credential, Intent, IssuedKey, RotationId, SecretRef, Version
from keyturn.ports import Clock, KeyIssuer, KeyStore, Pause, Pending
from keyturn.rotation import STALE_AFTER

GRACE = timedelta(hours=1)
"""How long the previous key is left to those who have read it, once current is another."""

SKEW = timedelta(minutes=1)
"""How far the issuer's clock may be behind ours. Signed requests allow no more than minutes."""

LANDING = timedelta(minutes=5)
"""How long after its worker has died a call may still take effect, at the very most.

A key is stored right after it was made. Where one worker lives at a time, a lost one is this old.
"""

PROOFS = 3
"""How often in a row a new key must work. After the first time, another host may not know it."""

SPACING_S = 1.0
"""Between two proofs, so that they do not all meet one host."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 8.0
"""After a refusal; each pause is twice the one before."""

PATIENCE_S = 60.0
"""How long one call waits for a new key, in seconds: the slowest propagation that was reported."""


@dataclass(frozen=True, slots=True)
class Place:
    """Which rotation of which secret this is, and in which store."""

    store: KeyStore
    ref: SecretRef
    rotation_id: RotationId


@dataclass(slots=True)
class _Census:
    """The keys of a holder, by what they are."""

    in_use: list[str] = field(default_factory=list)
    resting: list[str] = field(default_factory=list)
    spent: list[str] = field(default_factory=list)
    young: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    settled: list[str] = field(default_factory=list)
    """Names of intents that can have no key any more but these orphans."""

    def count(self) -> int:
        kinds = (self.in_use, self.resting, self.spent, self.young, self.orphans, self.foreign)
        return sum(map(len, kinds))


class MintedKeys:
    """A `Target`, `Minting` and `Retiring`.

    Args:
        pause: Waits, as long as there is time.
        grace: How long the previous key is left alone, at the least.
        lost_after: How old a key must be that no version has, until nobody can be about to store
            it: as old as a worker gets. With a lease, so that no two live at once: `LANDING`.
    """

    def __init__(  # noqa: PLR0913  # what it works with, and two durations
        self,
        issuer: KeyIssuer,
        place: Place,
        clock: Clock,
        pause: Pause,
        *,
        grace: timedelta = GRACE,
        lost_after: timedelta = STALE_AFTER,
    ) -> None:
        self._issuer = issuer
        self._place = place
        self._clock = clock
        self._pause = pause
        self._grace = grace
        self._lost_after = lost_after
        self._attempt = ""

    def check(self, current: Credential, kept: Iterable[Version]) -> None:
        """See `Minting.check`."""
        self._issuer.holder(current)
        self._issuer.check(current)
        self._require_room(self._census(current, kept))

    def create(self, current: Credential, kept: Iterable[Version]) -> Credential:
        """See `Target.create`. Everything is decided before the first key is deleted."""
        self._issuer.holder(current)
        self._issuer.check(current)
        since = self._clock.now()
        census = self._census(current, kept)
        self._require_room(census)
        self._make_room(current, census)
        return self._mint(current, since, census.foreign)

    def sweep(self, current: Credential, kept: Iterable[Version]) -> None:
        """See `Minting.sweep`."""
        self._issuer.check(current)
        self._make_room(current, self._census(current, kept))

    def keep(self, minted: Credential) -> None:
        """See `Minting.keep`."""
        del minted
        self._settle([self._attempt] if self._attempt else [])

    def discard(self, minted: Credential) -> None:
        """See `Minting.discard`. The intent stays: the issuer may not know the key everywhere."""
        self._issuer.deactivate(minted, minted.principal)
        self._issuer.delete(minted, minted.principal)

    def set(self, pending: Pending, current: Version, kept: Iterable[Version]) -> None:
        """See `Target.set`. Nothing is to be set."""
        del kept
        following = pending()
        ours, theirs = current.credential, following.credential
        if self._issuer.holder(ours) != self._issuer.holder(theirs):
            raise Drifted(
                f"version {following.rotation_id} is for another holder than current is",
                remedy="Cancel this rotation and start a new one; change holders only in between.",
            )

    def accepts(self, credential: Credential) -> bool:
        """See `Target.accepts`. Waits for a key that is new, within its patience.

        False also if the time is up in the middle of the proofs; the next call begins them anew.
        """
        self._issuer.holder(credential)
        proofs, waited_s, refused_s = 0, 0.0, FIRST_PAUSE_S
        while True:
            proofs = proofs + 1 if self._issuer.verify(credential) else 0
            if proofs == PROOFS:
                return True
            pause_s = SPACING_S if proofs else refused_s
            if waited_s + pause_s > PATIENCE_S or not self._pause(pause_s):
                return False
            waited_s += pause_s
            refused_s = min(2 * refused_s, LONGEST_PAUSE_S) if not proofs else refused_s

    def is_witness(self) -> bool:
        """See `Witness`: the issuer knows when a key was used."""
        return True

    def retire(self, current: Pending) -> None:
        """See `Retiring.retire`. Deactivates only: that can be undone, until the next rotation.

        Raises:
            Busy: An old key is in its grace, or was used after it.
        """
        version = current()
        if not self._issuer.verify(version.credential):
            raise NotYetAccepted(
                f"the target refuses the current version {version.rotation_id}: no key is retired",
                remedy="Rotate the secret; old keys are retired when current works.",
            )
        self._issuer.check(version.credential)
        active = [key for key in self._issuer.keys(version.credential) if key.is_active]
        versions = list(self._place.store.kept(self._place.ref))
        census = self._sorted(active, versions, version.credential)
        for key_id in census.spent:
            self._require_free(key_id)
            self._issuer.deactivate(version.credential, key_id)
        if census.resting:
            raise _resting(census.resting)

    # ------------------------------------------------------------------------ what is what

    def _census(self, current: Credential, kept: Iterable[Version]) -> _Census:
        # The target first: a key that is staged in between is then known, and no orphan.
        keys = self._issuer.keys(current)
        return self._sorted(keys, list(kept), current)

    def _sorted(
        self, keys: Sequence[IssuedKey], versions: Sequence[Version], current: Credential
    ) -> _Census:
        census, in_use = _Census(), self._in_use()
        intents = self._place.store.intents(self._place.ref)
        census.settled = [each.name for each in intents if self._is_over(each)]
        known = {version.credential.principal for version in versions}
        for key in keys:
            if key.id in in_use:
                census.in_use.append(key.id)
            elif key.id in known:
                is_spent = self._is_spent(key.id, versions, current)
                (census.spent if is_spent else census.resting).append(key.id)
            else:
                self._sort_unknown(key, intents, census)
        return census

    def _is_spent(self, key_id: str, versions: Sequence[Version], current: Credential) -> bool:
        now = self._clock.now()
        stored = {v.stored_at for v in versions if v.credential.principal == key_id}
        since = {v.stored_at for v in versions if v.credential.principal == current.principal}
        # Not the key's own age: an old key may have been put into a version a moment ago.
        quiet_from = max(since, default=now) + self._grace
        # With a lease, too: what was stored may be promoted by a call that is under way.
        if now - max(stored) < STALE_AFTER or now < quiet_from:
            return False
        used_at = self._issuer.last_used(key_id)
        return used_at is None or used_at < quiet_from

    def _sort_unknown(self, key: IssuedKey, intents: Sequence[Intent], census: _Census) -> None:
        if not any(_may_be_of(intent, key) for intent in intents):
            census.foreign.append(key.id)
        elif self._clock.now() - key.created_at < self._lost_after:
            census.young.append(key.id)
        elif self._issuer.last_used(key.id) is None:
            census.orphans.append(key.id)
        else:  # Whoever has used it knows its secret; of an orphan nobody does.
            census.foreign.append(key.id)

    def _is_over(self, intent: Intent) -> bool:
        """Tell whether any key that was minted for it would be lost by now."""
        return self._clock.now() > intent.until + self._lost_after

    def _in_use(self) -> frozenset[str]:
        """Return the keys of current and pending. Raises Busy if this rotation is over."""
        store, ref = self._place.store, self._place.ref
        pending = store.snapshot(ref, self._place.rotation_id).pending
        staged = store.staged(ref, pending) if pending is not None else None
        found = [store.current(ref), *([staged] if staged else [])]
        return frozenset(version.credential.principal for version in found)

    # ------------------------------------------------------------------------ what is done

    def _require_room(self, census: _Census) -> None:
        """Refuse if nothing that is ours can make room. Nothing has been touched yet.

        Raises:
            Drifted: The room is taken by keys that are not ours.
            Busy: Some of what takes it will be ours to delete later.
        """
        if census.count() - len(census.orphans) - len(census.spent) < self._issuer.limit:
            return
        if census.young:
            raise Busy(
                f"another try may have minted {_shown(census.young)}, and may be alive",
                remedy="Nothing: when it can no longer be, the key is deleted or in use.",
            )
        if census.resting:
            raise _resting(census.resting)
        if not census.foreign:
            raise Busy(
                f"every key is in use: {_shown(census.in_use)}",
                remedy="Nothing: it is tried again when the other rotation has ended.",
            )
        raise Drifted(
            f"there is no room for another key: no version of the secret has"
            f" {_shown(census.foreign)}",
            remedy="Find out whose keys these are, and delete one, or put it into the secret.",
        )

    def _make_room(self, current: Credential, census: _Census) -> None:
        for key_id in [*census.orphans, *census.spent]:
            self._delete(current, key_id)
        # After the orphans are gone: it was what proved that they are ours.
        self._settle(census.settled)

    def _delete(self, current: Credential, key_id: str) -> None:
        self._require_free(key_id)
        self._issuer.deactivate(current, key_id)
        self._issuer.delete(current, key_id)

    def _require_free(self, key_id: str) -> None:
        """Look once more, right before the act: somebody may have rolled back to this key."""
        if key_id in self._in_use():
            raise Busy(f"the key {key_id} has come into use meanwhile", remedy="Nothing: it stays.")

    def _mint(self, current: Credential, since: datetime, foreign: Iterable[str]) -> Credential:
        self._attempt = f"{self._place.rotation_id}-{secrets.token_hex(4)}"
        until = self._clock.now() + self._lost_after
        intent = Intent(self._attempt, since, until, frozenset(foreign))
        self._place.store.declare(self._place.ref, intent)
        try:
            return self._issuer.mint(current)
        except Busy:  # An answer: none was made. After no answer, there may be one.
            self._settle([self._attempt])
            raise

    def _settle(self, names: Sequence[str]) -> None:
        if names:
            self._place.store.settle(self._place.ref, names)


def _may_be_of(intent: Intent, key: IssuedKey) -> bool:
    is_in_time = intent.since - SKEW <= key.created_at <= intent.until
    return is_in_time and key.id not in intent.foreign


def _resting(keys: Sequence[str]) -> Busy:
    return Busy(
        f"{_shown(keys)} is an earlier key in its grace, or still used",
        remedy="Let every consumer read the secret again; an old key makes room when it is unused.",
    )


def _shown(keys: Sequence[str]) -> str:
    return ", ".join(sorted(keys))
