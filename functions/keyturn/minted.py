"""Keys that an issuer makes and shows once: mint, prove, delete. Knows no issuer.

A key is ours if a version of the secret holds it. The order of creation says nothing, and neither
does age alone: the oldest key may be the live one, and the one beside it a person's.

    create    list the target, then read the store; delete what is spent; declare; mint
    set       nothing: what was minted is accepted, as soon as every host knows it
    accepts   so many uses in a row, with pauses
    retire    deactivate what is spent; the next create deletes it

Between minting and staging a crash, or a lost reply, leaves a key that no version holds and whose
secret nobody knows. Where keys have names, ours is called `keyturn-SECRET-TIME-TRY`, and that
tells it from a person's: from no other secret's key, and how old it is. Where they have none, the
`Intent` does that was declared before, and is settled when a version holds the key: by a mark that
both have, or else by the time and that the key was never used. Where no use is told, either, or
nothing lists keys, it is a guess: a key that may be lost is reported, once. What a key is:

    in use     the key of current or pending
    resting    in a version, in no slot, and too young or still in use: it is left alone
    spent      in a version, in no slot, older than any worker, past its grace, no longer used
    young      in no version, by its name or our intent maybe ours; its worker may be alive
    orphan     the same, older than any worker, and never used
    suspect    the same, where no use is told: foreign, and reported
    foreign    any other: somebody else's, never touched
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from keyturn.errors import Busy, Denied, Drifted, NotYetAccepted, Unreachable, Untraceable
from keyturn.model import (
    Attempt,
    Credential,
    Intent,
    IssuedKey,
    RotationId,
    SecretRef,
    Trace,
    Version,
)
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


REMEMBERED = 4
"""Where nothing lists keys, so many of the newest versions' are deleted, again each time."""

PREFIX = "keyturn"
"""What the names of all our keys begin with."""

_STAMP = "%Y%m%dT%H%M%SZ"
_DIGITS = 16
"""Hexadecimal ones of a digest: no two secrets of anybody's share them by chance."""


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
    suspects: list[str] = field(default_factory=list)
    """Those of the foreign ones that an earlier try may have lost."""
    suspected: set[str] = field(default_factory=set)
    """Names of the intents that say so."""
    settled: list[str] = field(default_factory=list)
    """Names of intents that can have no key any more but these orphans and suspects."""
    intents: Sequence[Intent] = ()

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
        self._require_traced(census)
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
        self._settle(self._declared())

    def discard(self, minted: Credential) -> None:
        """See `Minting.discard`. The intent stays where lists may yet show the key."""
        self._issuer.deactivate(minted, minted.principal)
        self._issuer.delete(minted, minted.principal)
        if self._issuer.trace in _UNLISTED:
            self._settle(self._declared())

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

    def usage_lag(self) -> timedelta | None:
        """See `Witness`."""
        return self._issuer.usage_lag

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
        kept = self._place.store.kept(self._place.ref)
        keys, versions = self._listed(version.credential, kept)
        active = [key for key in keys if key.is_active]
        census = self._sorted(active, versions, version.credential)
        for key_id in census.spent:
            self._require_free(key_id)
            self._issuer.deactivate(version.credential, key_id)
        if census.resting:
            raise _resting(census.resting)

    # ------------------------------------------------------------------------ what is what

    def _census(self, current: Credential, kept: Iterable[Version]) -> _Census:
        return self._sorted(*self._listed(current, kept), current)

    def _listed(
        self, current: Credential, kept: Iterable[Version]
    ) -> tuple[Sequence[IssuedKey], Sequence[Version]]:
        if self._issuer.trace in _UNLISTED:
            versions = list(kept)
            return _remembered(versions), versions
        # The target first: a key that is staged in between is then known, and no orphan.
        keys = self._issuer.keys(current)
        return keys, list(kept)

    def _sorted(
        self, keys: Sequence[IssuedKey], versions: Sequence[Version], current: Credential
    ) -> _Census:
        in_use = self._in_use()
        census = _Census(intents=self._place.store.intents(self._place.ref))
        census.settled = [each.name for each in census.intents if self._is_over(each)]
        known = {version.credential.principal for version in versions}
        quiet_from = self._quiet_from(versions, current)
        for key in keys:
            if key.id in in_use:
                census.in_use.append(key.id)
            elif key.id in known:
                # Not the key's own age: an old key may have been put into a version just now.
                stored_at = max(v.stored_at for v in versions if v.credential.principal == key.id)
                is_quiet = self._is_quiet(current, key.id, stored_at, quiet_from)
                (census.spent if is_quiet else census.resting).append(key.id)
            elif self._issuer.trace is Trace.NAME:
                self._sort_by_name(current, key, quiet_from, census)
            else:
                self._sort_by_intent(current, key, census)
        return census

    def _quiet_from(self, versions: Sequence[Version], current: Credential) -> datetime:
        """Return from when on nobody has a reason to use another key than current's."""
        since = {v.stored_at for v in versions if v.credential.principal == current.principal}
        return max(since, default=self._clock.now()) + self._grace

    def _is_quiet(
        self, current: Credential, key_id: str, born_at: datetime, quiet_from: datetime
    ) -> bool:
        now = self._clock.now()
        # With a lease, too: what was stored may be promoted by a call that is under way.
        if now - born_at < STALE_AFTER or now < quiet_from:
            return False
        used_at = self._issuer.last_used(current, key_id)
        # Of a key that was never current, the last use is our own test of it.
        return used_at is None or used_at < max(quiet_from, born_at + STALE_AFTER)

    def _sort_by_name(
        self, current: Credential, key: IssuedKey, quiet_from: datetime, census: _Census
    ) -> None:
        """Sort a key that no version has. Our name proves that it is ours; its use, that it lives.

        One that is used was in a version once that the store keeps no longer.
        """
        tried_at = _tried_at(key.name, self._place.ref)
        if tried_at is None:
            census.foreign.append(key.id)
        elif self._clock.now() - tried_at < self._lost_after:
            census.young.append(key.id)
        elif self._issuer.last_used(current, key.id) is None:
            census.orphans.append(key.id)
        else:
            is_quiet = self._is_quiet(current, key.id, tried_at, quiet_from)
            (census.orphans if is_quiet else census.resting).append(key.id)

    def _sort_by_intent(self, current: Credential, key: IssuedKey, census: _Census) -> None:
        made_at = key.created_at
        explaining = {each.name for each in census.intents if self._may_be_of(each, key)}
        if made_at is None or not explaining:
            census.foreign.append(key.id)
        elif self._clock.now() - made_at < self._lost_after:
            census.young.append(key.id)
        elif self._issuer.trace is Trace.TIME_ONLY:
            census.foreign.append(key.id)
            census.suspects.append(key.id)
            census.suspected |= explaining
        elif self._issuer.last_used(current, key.id) is None:
            census.orphans.append(key.id)
        else:  # Whoever has used it knows its secret; of an orphan nobody does.
            census.foreign.append(key.id)

    def _may_be_of(self, intent: Intent, key: IssuedKey) -> bool:
        is_marked = self._issuer.trace is not Trace.MARK or intent.name.endswith(f"-{key.mark}")
        made_at = key.created_at
        is_in_time = made_at is not None and intent.since - SKEW <= made_at <= intent.until
        return is_marked and is_in_time and key.id not in intent.foreign

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

    def _require_traced(self, census: _Census) -> None:
        """Report a key that may be lost where nothing can find it, or prove it: until it is told.

        Where nothing lists keys, it stays so within one rotation. Else each try of a platform that
        repeats what fails would leave another such key.

        Raises:
            Untraceable: An earlier try had no answer, or its worker died before it staged the key.
        """
        if census.suspects:
            raise Untraceable(
                f"{self._place.ref}: an earlier try to make a key was lost, and may have left"
                f" {_shown(census.suspects)}; no version has that, and nothing tells who uses it",
                remedy="Delete it where keys are made, if it is nobody's. Rotate again: this is"
                " said once, and the key is left alone from now on.",
                when_told=lambda: self._settle(sorted(census.suspected)),
            )
        if self._issuer.trace not in _UNLISTED:
            return
        if self._issuer.trace is Trace.NONE and any(map(self._is_mine, census.intents)):
            raise _untraceable(self._place.ref)
        if census.settled:
            raise _untraceable(self._place.ref, lambda: self._settle(census.settled))

    def _is_mine(self, intent: Intent) -> bool:
        return intent.name.startswith(f"{self._place.rotation_id}-")

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
        # After the orphans are gone: it was what proved that they are ours. What nothing can find
        # or prove is to be told of first.
        if self._issuer.trace not in _UNLISTED:
            self._settle([each for each in census.settled if each not in census.suspected])

    def _delete(self, current: Credential, key_id: str) -> None:
        self._require_free(key_id)
        self._issuer.deactivate(current, key_id)
        self._issuer.delete(current, key_id)

    def _require_free(self, key_id: str) -> None:
        """Look once more, right before the act: somebody may have rolled back to this key."""
        if key_id in self._in_use():
            raise Busy(f"the key {key_id} has come into use meanwhile", remedy="Nothing: it stays.")

    def _mint(self, current: Credential, since: datetime, foreign: Iterable[str]) -> Credential:
        attempt = self._next_attempt()
        if self._issuer.trace is not Trace.NAME:
            self._declare(attempt, since, foreign)
        try:
            return self._issuer.mint(current, attempt)
        except (Busy, Denied):  # An answer: none was made. After no answer, there may be one.
            self._settle(self._declared())
            raise
        except Unreachable as error:
            if self._issuer.trace is not Trace.NONE:
                raise
            told = f"{error}; {_untraceable(self._place.ref)}"
        raise Untraceable(told, remedy=_UNTRACEABLE)

    def _next_attempt(self) -> Attempt:
        ref, rotation_id = self._place.ref, self._place.rotation_id
        now = self._clock.now().astimezone(UTC)
        mark = secrets.token_hex(4)
        name = f"{_own(ref)}{now.strftime(_STAMP)}-{mark}"
        return Attempt(name, mark, _digest(f"{ref} {rotation_id}", 2 * _DIGITS), now)

    def _declare(self, attempt: Attempt, since: datetime, foreign: Iterable[str]) -> None:
        self._attempt = f"{self._place.rotation_id}-{attempt.mark}"
        until = self._clock.now() + self._lost_after
        intent = Intent(self._attempt, since, until, frozenset(foreign))
        self._place.store.declare(self._place.ref, intent)

    def _declared(self) -> list[str]:
        return [self._attempt] if self._attempt else []

    def _settle(self, names: Sequence[str]) -> None:
        if names:
            self._place.store.settle(self._place.ref, names)


_UNLISTED = (Trace.RETRY, Trace.NONE)


def _own(ref: SecretRef) -> str:
    """Return what the names of a secret's keys begin with."""
    return f"{PREFIX}-{_digest(ref, _DIGITS)}-"


def _digest(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def _tried_at(name: str, ref: SecretRef) -> datetime | None:
    """Return when a key of that name was to be made for that secret; None if it is not ours."""
    stamp, _, tail = name.removeprefix(_own(ref)).partition("-")
    if not name.startswith(_own(ref)) or not tail:
        return None
    try:
        return datetime.strptime(stamp, _STAMP).replace(tzinfo=UTC)
    except ValueError:
        return None


def _remembered(versions: Iterable[Version]) -> list[IssuedKey]:
    """Return the keys of the newest versions, for want of a list."""
    ids = dict.fromkeys(version.credential.principal for version in versions)
    return [IssuedKey(key_id, None, is_active=True) for key_id in list(ids)[:REMEMBERED]]


_UNTRACEABLE = "Look for a key that no version of the secret has, where they are made; delete it."


def _untraceable(ref: SecretRef, when_told: Callable[[], None] = lambda: None) -> Untraceable:
    return Untraceable(
        f"{ref}: an earlier try to make a key was lost, and nothing lists keys: one may be left",
        remedy=_UNTRACEABLE,
        when_told=when_told,
    )


def _resting(keys: Sequence[str]) -> Busy:
    return Busy(
        f"{_shown(keys)} is an earlier key in its grace, or still used",
        remedy="Let every consumer read the secret again; an old key makes room when it is unused.",
    )


def _shown(keys: Sequence[str]) -> str:
    return ", ".join(sorted(keys))
