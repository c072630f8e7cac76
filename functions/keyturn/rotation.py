"""The rotation protocol: create, set, test, finish.

    create   stage the next credential        (the store learns it first: nothing can be lost)
    set      make the target accept it        (from whatever the last, dead worker left)
    test     log in with it
    finish   test again, then promote it      (compare-and-set)

Every step reads the store first and decides from what it finds, never from memory: the process
may have died between any two lines, and the next one may run in another container, in another
order, twice. Each step is therefore a function of (what the store holds, rotation id) that is
safe to repeat. Rotation rolls forward: a staged credential is finished or adopted, never thrown
away, because the target may already accept it; only where there is no target, none is adopted.
One that is locked out is over: each try more would fail as many logins, and servers lock accounts.

A platform that drives the steps one by one calls `perform`; one that delivers a single event
calls `run`.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta

from keyturn.errors import Busy, KeyturnError, LockedOut, NotYetAccepted
from keyturn.model import Credential, Outcome, RotationId, SecretRef, Snapshot, Step, Version
from keyturn.ports import Asked, Clock, Minting, SecretStore, Target, Targets, Untold

STALE_AFTER = timedelta(hours=1)
"""A foreign pending version older than this is a crashed rotation, not a running one.

Longer than any function may run: the longest limit among the platforms we serve is 60 minutes.
"""


class Rotation:
    """One attempt to replace the credential of one secret."""

    def __init__(
        self,
        ref: SecretRef,
        rotation_id: RotationId,
        *,
        store: SecretStore,
        targets: Targets,
        clock: Clock,
    ) -> None:
        self.ref = ref
        self.rotation_id = rotation_id
        self._store = store
        self._targets = targets
        self._clock = clock

    def run(self) -> None:
        """Perform all steps, for platforms that deliver one event per rotation."""
        for step in Step:
            self.perform(step)

    def perform(self, step: Step) -> Outcome:
        """Perform one step, from whatever state the store is in.

        Raises:
            KeyturnError: See `keyturn.errors`; the class says what to do about it.
        """
        try:
            return self._performed(step)
        except LockedOut:
            with suppress(KeyturnError):  # What a person must see is the lock-out.
                self._store.withdraw(self.ref, self.rotation_id)
            raise

    def _performed(self, step: Step) -> Outcome:
        match step:
            case Step.CREATE:
                return self._create()
            case Step.SET:
                return self._set()
            case Step.TEST:
                return self._test()
            case Step.FINISH:
                return self._finish()

    def _create(self) -> Outcome:
        current = self._store.current(self.ref)
        if current.rotation_id == self.rotation_id:
            return Outcome.ALREADY_DONE
        target = self._targets(current.credential)
        if isinstance(target, Minting):
            return self._mint(target, current)
        if isinstance(target, Asked):
            self._store.snapshot(self.ref, self.rotation_id)  # Raises if this rotation is over.
        following = target.create(current.credential, self._store.kept(self.ref))
        # Last before the write: what is staged must follow the current that it was made from.
        snapshot = self._store.snapshot(self.ref, self.rotation_id)
        if snapshot.current != current.rotation_id:
            raise _overtaken(self.ref)
        credential = self._stray(snapshot, target) or following
        self._store.stage(self.ref, self.rotation_id, credential, snapshot)
        self._withdraw_if_overtaken(snapshot)
        return Outcome.DONE

    def _mint(self, target: Minting, current: Version) -> Outcome:
        """Create where the target makes the credential: none may be made that nobody keeps."""
        snapshot = self._store.snapshot(self.ref, self.rotation_id)
        if snapshot.pending == self.rotation_id and self._store.staged(self.ref, self.rotation_id):
            return Outcome.ALREADY_DONE
        stray = self._stray(snapshot, target)
        if stray is not None:
            target.sweep(current.credential, self._store.kept(self.ref))
        following = stray or target.create(current.credential, self._store.kept(self.ref))
        try:
            seen = self._store.snapshot(self.ref, self.rotation_id)
            if seen != snapshot or seen.current != current.rotation_id:
                raise _overtaken(self.ref)
        except Busy:
            if stray is None:
                target.discard(following)
            raise
        self._store.stage(self.ref, self.rotation_id, following, seen)
        self._withdraw_if_overtaken(seen)
        if stray is None:
            self._keep_or_discard(target, following)
        return Outcome.DONE

    def _keep_or_discard(self, target: Minting, minted: Credential) -> None:
        # Whoever stages second keeps nothing. Only another value, seen in its place, proves that:
        # after an error ours may be there, and its key in use.
        if self._pending().credential.principal == minted.principal:
            target.keep(minted)
        else:
            target.discard(minted)

    def _withdraw_if_overtaken(self, seen: Snapshot) -> None:
        """Give the slot back if another rotation came and went while this worker stalled.

        Some stores stage unconditionally. What was staged is based on a current that is no
        longer, and would be promoted over a newer one.
        """
        if self._store.snapshot(self.ref, self.rotation_id).current != seen.current:
            self._store.withdraw(self.ref, self.rotation_id)
            raise _overtaken(self.ref)

    def _stray(self, snapshot: Snapshot, target: Target) -> Credential | None:
        """Return what a crashed rotation left pending, if the target already knows it."""
        if snapshot.pending is None or snapshot.pending == self.rotation_id:
            return None
        stray = self._store.staged(self.ref, snapshot.pending)
        if stray is None:
            return None
        if self._clock.now() - stray.stored_at < STALE_AFTER:
            raise Busy(
                f"{self.ref}: rotation {stray.rotation_id} is in flight",
                remedy="Wait for it to end, or cancel it.",
            )
        if isinstance(target, Untold):
            return None
        return stray.credential if target.accepts(stray.credential) else None

    def _set(self) -> Outcome:
        current = self._store.current(self.ref)
        if current.rotation_id == self.rotation_id:
            return Outcome.ALREADY_DONE
        target = self._targets(current.credential)
        target.set(self._pending, current, self._store.kept(self.ref))
        return Outcome.DONE

    def _test(self) -> Outcome:
        staged = self._store.staged(self.ref, self.rotation_id)
        # A store that checks its configuration without rotating sends a test with nothing
        # staged: then what is current must work. Finish refuses an empty version in any case.
        self._require_accepted(staged or self._store.current(self.ref))
        return Outcome.DONE

    def _finish(self) -> Outcome:
        # No early return when current: the store may have died halfway through the promotion.
        self._require_accepted(self._pending())
        # Last before the write: a rotation that was overtaken during the test is not promoted.
        snapshot = self._store.snapshot(self.ref, self.rotation_id)
        self._store.promote(self.ref, self.rotation_id, snapshot)
        is_current = snapshot.current == self.rotation_id
        return Outcome.ALREADY_DONE if is_current else Outcome.DONE

    def _pending(self) -> Version:
        staged = self._store.staged(self.ref, self.rotation_id)
        if staged is None:
            # Not for ever: create is yet to come, or the read was older than the write.
            raise Busy(
                f"{self.ref}: rotation {self.rotation_id} has no value yet",
                remedy="Run the create step first, with the same rotation id.",
            )
        return staged

    def _require_accepted(self, version: Version) -> None:
        if not self._targets(version.credential).accepts(version.credential):
            raise NotYetAccepted(
                f"{self.ref}: the target refuses version {version.rotation_id}",
                remedy="Run the set step again; if it stays so, look at the target's own log.",
            )


def _overtaken(ref: SecretRef) -> Busy:
    return Busy(
        f"{ref}: another rotation finished during this step",
        remedy="Nothing: the newer one stands.",
    )
