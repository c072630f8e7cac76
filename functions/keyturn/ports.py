"""What the core needs from the world. Adapters satisfy these by shape; nothing inherits.

Each docstring is a promise, and `keyturn.testing.contracts` is the same promise as tests. All of
them raise only classes of `keyturn.errors`; no message, remedy or cause holds a secret.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from keyturn.model import (
    Alert,
    Attempt,
    Credential,
    Intent,
    IssuedKey,
    RotationId,
    SecretRef,
    Sensitive,
    Snapshot,
    Trace,
    Version,
)

Generate = Callable[[], Sensitive]
"""Makes a fresh secret that the target's own rules allow."""

Pending = Callable[[], Version]
"""Reads what is pending now. Raises Busy unless this rotation still holds the slot.

Called right before each act: another rotation may have taken over since anything was last read.
"""

Pause = Callable[[float], bool]
"""Waits so many seconds, and returns True; False at once if there is no time left for that."""


Clients = Callable[[str, str | None], Any]
"""Makes a client of a platform's service, with time-outs, for a region; None is our own."""


class SecretStore(Protocol):
    """Versioned storage with three slots: current, pending, previous.

    The pending slot is the write-ahead log of a rotation: a credential is staged here before any
    target learns it, so that no crash can lose a credential that a target accepts.
    """

    def snapshot(self, ref: SecretRef, rotation_id: RotationId) -> Snapshot:
        """Return what the slots name now.

        Raises:
            Busy: As far as the store can tell, *rotation_id* is over or was never begun.
            Misconfigured: There is no such secret, or it is being deleted.
            Unreachable: The store gave no answer.
        """
        ...

    def current(self, ref: SecretRef) -> Version:
        """Return the version that readers get now.

        Raises:
            Misconfigured: There is none, or its value is not a credential.
        """
        ...

    def staged(self, ref: SecretRef, rotation_id: RotationId) -> Version | None:
        """Return what is stored under *rotation_id*, or None if that slot has no value yet.

        Raises:
            Busy: *rotation_id* is neither pending nor current.
        """
        ...

    def kept(self, ref: SecretRef) -> Iterator[Version]:
        """Yield every version still kept that holds a credential, newest first, lazily.

        Versions in no slot are included: an abandoned rotation may have left the live
        credential in one.
        """
        ...

    def stage(
        self, ref: SecretRef, rotation_id: RotationId, credential: Credential, seen: Snapshot
    ) -> None:
        """Put *credential* in the pending slot, under *rotation_id*.

        A compare-and-set against *seen*, unless the store cannot and every value ever staged is
        kept: then whoever comes late takes the slot, and nothing is lost.

        If the store already holds a value under *rotation_id*, that value stays: an earlier try
        stored it, and the target may know it. Readers of current never see a staged value.

        Raises:
            Busy: The slots are no longer what *seen* says.
            Misconfigured: The value does not fit the store's limits. Nothing was written.
        """
        ...

    def withdraw(self, ref: SecretRef, rotation_id: RotationId) -> None:
        """Empty the pending slot, if *rotation_id* holds it. The value itself is kept.

        For a rotation that turns out to be over; no target has learnt its value.
        """
        ...

    def promote(self, ref: SecretRef, rotation_id: RotationId, seen: Snapshot) -> None:
        """Make *rotation_id* current and current previous. Compare-and-set against *seen*.

        Does nothing if *rotation_id* is already current; completes a half-done promotion.

        Raises:
            Busy: Current is no longer what *seen* says.
        """
        ...


@dataclass(frozen=True, slots=True)
class Found:
    """What a store holds under a name. Identifiers only.

    Attributes:
        current: The version that readers get; None if the secret has no value yet.
        kept: Every version in some slot.
        is_rotated: Something rotates it on a schedule, or is doing so now.
    """

    current: RotationId | None
    kept: frozenset[RotationId]
    is_rotated: bool


class ValueStore(Protocol):
    """Where values are put that are nobody's login, on demand and not by a rotation."""

    def find(self, ref: SecretRef) -> Found | None:
        """Look the secret up by its name; None if there is none.

        Raises:
            Misconfigured: It is being deleted.
        """
        ...

    def read(self, ref: SecretRef, version_id: RotationId) -> Sensitive | None:
        """Return the value of a version; None if there is no such version."""
        ...

    def create(self, ref: SecretRef, version_id: RotationId, value: Sensitive) -> bool:
        """Make the secret with its first version.

        Returns:
            False if there is one of that name already. Nothing was written then.

        Raises:
            Misconfigured: The value does not fit the store's limits.
        """
        ...

    def put(self, ref: SecretRef, version_id: RotationId, value: Sensitive) -> bool:
        """Make *value* current, as a version of that id.

        Returns:
            False if there is a version of that id already. It stays as it is.

        Raises:
            Misconfigured: The value does not fit the store's limits.
        """
        ...


@runtime_checkable
class KeyStore(SecretStore, Protocol):
    """A store that also keeps an `Intent` for each attempt whose outcome is not known.

    Writing them makes no version and moves no slot: a rotation goes on.
    """

    def intents(self, ref: SecretRef) -> Sequence[Intent]:
        """Return what was declared and not settled."""
        ...

    def declare(self, ref: SecretRef, intent: Intent) -> None:
        """Keep *intent* until it is settled. Repeatable."""
        ...

    def settle(self, ref: SecretRef, names: Iterable[str]) -> None:
        """Forget the intents of these names. Repeatable."""
        ...


class Target(Protocol):
    """A system whose credential is rotated. Add one: one module, one contract test."""

    def create(self, current: Credential, kept: Iterable[Version]) -> Credential:
        """Return the next credential, complete and valid, and leave *current* undisturbed.

        Everything that can be refused is refused here, before the store is written to. *kept* is
        iterated only to find out whether something at the target is ours.

        Raises:
            Misconfigured: *current* lacks something, or breaks a limit of the target.
            Drifted: The target holds something that must not be taken over.
        """
        ...

    def set(self, pending: Pending, current: Version, kept: Iterable[Version]) -> None:
        """Make the target accept what is pending. Repeating the call changes nothing.

        What makes `accepts` true comes last. *kept* is iterated only when nothing nearer logs in,
        or tells how far an earlier try had come. *pending* is called right before each act.

        Raises:
            Drifted: What is pending is for another place or user than this rotation may touch.
            LockedOut: No version known to the store can authorise this, nor an admin.
        """
        ...

    def accepts(self, credential: Credential) -> bool:
        """Log in and do the least that a consumer must be able to do.

        Returns:
            False only if the target itself refused. No answer is `Unreachable`, never False.
        """
        ...


@runtime_checkable
class Retiring(Protocol):
    """A target that goes on accepting what was current before. Which is to end one day."""

    def retire(self, current: Pending) -> None:
        """Let the target accept current and nothing else. Repeatable.

        Args:
            current: Reads what is current. It is called again right before the act.

        Raises:
            Busy: Current has changed meanwhile, or the target tells that the old one is in use.
            NotYetAccepted: The target refuses current. Nothing was changed.
        """
        ...


@runtime_checkable
class Asked(Protocol):
    """A target that `create` logs in to, to ask whether what it is about to do is allowed.

    A login may be refused, and counted by a server that locks accounts. So nobody is asked for the
    sake of a rotation that is over.
    """

    def is_asked(self) -> bool:
        """Be this kind of target. Always true."""
        ...


@runtime_checkable
class Untold(Protocol):
    """A target that nobody tells anything: what was staged for it, no one knows yet.

    Nothing that a crashed rotation left pending has to be adopted, and nothing may be: it follows
    from what was current then.
    """

    def is_untold(self) -> bool:
        """Be this kind of target. Always true."""
        ...


class Kind(Protocol):
    """A kind of value that is generated, with its options."""

    def following(self, before: Sensitive) -> Sensitive:
        """Make the next value from the whole of the one before.

        Keeps what verifiers need of it, and whatever else is in it.

        Raises:
            Misconfigured: *before* is not what the kind can be a part of.
            Unsupported: This installation lacks a library.
        """
        ...

    def is_whole(self, value: Sensitive) -> bool:
        """Tell whether *value* is well formed: keys are read, hashes compared."""
        ...

    def follows(self, value: Sensitive, before: Sensitive) -> bool:
        """Tell whether *value* keeps of *before* what verifiers need."""
        ...


@runtime_checkable
class Minting(Target, Protocol):
    """A target that makes each credential itself and shows its secret once.

    Its `create` has an effect: what it returns is accepted from then on, and known to nobody else.
    """

    def check(self, current: Credential, kept: Iterable[Version]) -> None:
        """Refuse what `create` would refuse. Writes nothing."""
        ...

    def sweep(self, current: Credential, kept: Iterable[Version]) -> None:
        """Delete what crashed tries have left, as `create` does, and make nothing. Repeatable."""
        ...

    def keep(self, minted: Credential) -> None:
        """Take note that a version holds *minted*, which this object's last `create` returned."""
        ...

    def discard(self, minted: Credential) -> None:
        """Undo the `create` that returned *minted*, which no version holds. Repeatable."""
        ...


class KeyIssuer(Protocol):
    """What makes keys of one kind for a *holder*, shows each secret once, and lists the ids.

    Its lists may be late: a new key may be missing, a deleted one may still be there. A new key
    may be refused at first, and again after it was accepted once.
    """

    @property
    def limit(self) -> int:
        """How many keys a holder may have, inactive ones included."""
        ...

    @property
    def trace(self) -> Trace:
        """By what a key is found again whose secret nobody has received."""
        ...

    @property
    def usage_lag(self) -> timedelta | None:
        """How late `last_used` may hear of a use; None if it does not hear of any."""
        ...

    def holder(self, credential: Credential) -> str:
        """Check the whole of *credential* and say whose key it is. No I/O.

        Raises:
            Misconfigured: A member is missing or malformed.
            Denied: The deployment does not allow us to touch this holder's keys.
        """
        ...

    def check(self, current: Credential) -> None:
        """Ask whether the holder is who the deployment means. Writes nothing.

        Raises:
            Drifted: *current* is another holder's key.
            Denied: The holder is this function itself.
        """
        ...

    def keys(self, current: Credential) -> Sequence[IssuedKey]:
        """Return all keys of the holder of *current*. Asked only where there are lists: `trace`.

        Raises:
            Drifted: There is no such holder.
        """
        ...

    def mint(self, current: Credential, attempt: Attempt) -> Credential:
        """Make a key: *current* with another principal and secret.

        Asked for once, never repeated, unless the issuer makes one key only for one rotation.

        Raises:
            Busy: The holder has as many as it may.
            Unreachable: No answer: there may be a key now whose secret nobody knows.
        """
        ...

    def verify(self, credential: Credential) -> bool:
        """Use the key once; False if it was refused.

        Raises:
            Drifted: It works, and is another holder's than the credential says.
        """
        ...

    def last_used(self, current: Credential, key_id: str) -> datetime | None:
        """Return when a key was used last, as far as the issuer knows; None if never."""
        ...

    def deactivate(self, current: Credential, key_id: str) -> None:
        """Let a key be refused. Repeatable; nothing if it is gone, or where only `delete` can."""
        ...

    def delete(self, current: Credential, key_id: str) -> None:
        """Delete a key. Repeatable; does nothing if it is gone."""
        ...


Targets = Callable[[Credential], Target]
"""Chooses the target that a credential is for.

Raises `Unsupported` or `Misconfigured` when there is none.
"""


class Session(Protocol):
    """One open login of a password engine: what each of them can.

    What only some can is in `TwinSession` and `DualSession`; a strategy that finds it missing
    says so. Without `SeenSession` and `DatedSession` it goes by other evidence.
    """

    def set_password(self, principal: str, secret: Sensitive) -> None:
        """Let *principal*, which exists, log in with *secret* and nothing else. Repeatable."""
        ...


@runtime_checkable
class TwinSession(Session, Protocol):
    """A session of an engine that has logins which take turns."""

    def acts_for(self, owner: str) -> bool:
        """Tell whether what this session makes belongs to *owner*.

        True where the engine knows no owners: each login of a pair has its own privileges there.
        """
        ...

    def check_twin(self, twin: str, *, like: str, owner: str, is_ours: Callable[[], bool]) -> None:
        """Refuse if `set_twin` would have to take over a login that is not ours. Writes nothing.

        *is_ours* tells whether the deployment or the store's history vouches for *twin*. It costs
        calls: it is asked only if *twin* exists and the engine itself cannot tell.

        Raises:
            Drifted: *twin* exists and is not ours, or *like* or *owner* does not exist.
            Denied: This session may not manage them.
        """
        ...

    def set_twin(self, twin: str, secret: Sensitive, *, like: str, owner: str) -> None:
        """Let *twin* log in with *secret* and do what *like* does, acting as *owner*.

        Creates *twin* if it is absent. Repeatable. The secret is set last, or all at once.
        """
        ...


@runtime_checkable
class DualSession(Session, Protocol):
    """A session of an engine that takes two secrets per login, at least in some versions."""

    def check_dual(self, principal: str) -> None:
        """Refuse if `set_dual` would be refused. Writes nothing.

        Raises:
            Unsupported: The server takes one secret per login.
            Denied: This session may not give *principal* a second one.
        """
        ...

    def set_dual(self, principal: str, secret: Sensitive, *, keep: Sensitive) -> None:
        """Let *principal*, which exists, log in with *secret* and with *keep*, and nothing else.

        Equality, never appending: whatever else was accepted no longer is. Repeatable. *keep*,
        where it is accepted before, is accepted at every moment of it.
        """
        ...


@runtime_checkable
class SeenSession(Session, Protocol):
    """A session of an engine that tells which logins are in use now.

    Now, and not a moment later: a program that connects for each piece of work is seldom seen. So
    a session that is seen keeps a login alive, and none seen proves nothing.
    """

    def sessions_of(self, principal: str) -> int | None:
        """Count the open sessions that logged in as *principal*, without this one.

        None if this session may not see those of others: never a number that leaves some out.
        """
        ...


@runtime_checkable
class DatedSession(Session, Protocol):
    """A session of an engine that tells also when each session was opened."""

    def sessions_before(self, principal: str, at: datetime) -> int | None:
        """Count those of `SeenSession.sessions_of` that were opened before *at*.

        One that is in doubt, because two clocks differ, is not counted.
        """
        ...


class PasswordEngine(Protocol):
    """The dialect of one kind of password target. `strategies` turns it into a `Target`."""

    def endpoint(self, credential: Credential) -> str:
        """Check the whole of *credential* and say where it logs in. No I/O.

        Returns:
            Host, port and database as one printable line, equal exactly for equal places.

        Raises:
            Misconfigured: A member is missing, of the wrong type, or over the engine's limits.
        """
        ...

    def login(self, credential: Credential) -> AbstractContextManager[Session | None]:
        """Open a session; None if the server refused the credential.

        Makes at most one attempt that counts as a failed login.

        Raises:
            Unreachable: No answer, or the server is full, starting or stopping.
            Misconfigured: TLS failed, or the database does not exist.
            Denied: Authenticated, but not allowed to connect.
        """
        ...


class Authority(Protocol):
    """A platform that sets one password when it is asked to, in its own time.

    What permits it is not that password, so that no state of it locks anybody out. A change is
    *under way* from the moment that it was asked for until it is in force.
    """

    def check(self, place: str, credential: Credential) -> None:
        """Refuse what `set_password` could not do. Writes nothing.

        Args:
            place: Where *credential* logs in: its host and port.
            credential: Whose principal is to have its secret.

        Raises:
            Drifted: To the platform, the place or the principal is another one.
            Unsupported: It does not set that password, or keeps it to itself.
            Misconfigured: It has nothing of that name, or takes no such secret.
            Denied: It does not let us ask.
        """
        ...

    def settle(self, place: str, principal: str) -> None:
        """Return when no change is under way, whoever asked for the last one.

        Raises:
            NotYetAccepted: The time is up. The same call later goes on waiting.
            Drifted: See `check`.
        """
        ...

    def set_password(self, principal: str, secret: Sensitive) -> None:
        """Ask that *principal* have *secret* and nothing else; return when it is in force.

        Asks at once, without a look: what was looked at before still holds. Repeatable.

        Raises:
            NotYetAccepted: It was asked for, and the time is up; `settle` goes on waiting. Or no
                time was left to ask.
            Unreachable: No answer, or the platform is busy with something else.
        """
        ...


@dataclass(frozen=True, slots=True)
class Standing:
    """Which version sits in which slot of a secret, whoever put it there. Identifiers only.

    Attributes:
        current: The version that readers get; None if the secret has no value yet.
        pending: None when the slot is empty, and when what it names has been promoted already.
        previous: What was current before, unless it has been retired.
        since: Current was promoted then or earlier, never later.
    """

    current: RotationId | None
    pending: RotationId | None
    previous: RotationId | None
    since: datetime


@runtime_checkable
class FollowedStore(Protocol):
    """A store as a follow-up sees it. It reads all slots, and empties one."""

    def standing(self, ref: SecretRef) -> Standing:
        """Return what the slots name now.

        Raises:
            Misconfigured: There is no such secret, or it is being deleted.
        """
        ...

    def current(self, ref: SecretRef) -> Version:
        """See `SecretStore.current`."""
        ...

    def clear_previous(self, ref: SecretRef, version_id: RotationId) -> None:
        """Empty the previous slot, if *version_id* holds it. The value itself is kept.

        A compare-and-set: another version in that slot stays. Repeatable.
        """
        ...


@runtime_checkable
class NumberedStore(Protocol):
    """A store whose readers may be pinned to the number of a version."""

    def number(self, ref: SecretRef, version_id: RotationId) -> int:
        """Return the number of a version. The newer a version, the higher.

        Raises:
            Busy: No such version is known.
        """
        ...


@dataclass(frozen=True, slots=True)
class Held:
    """What a destination holds, by what it says of itself.

    Attributes:
        version_id: Of what it holds; None if that is nothing, or nothing that says so.
        mark: Opaque. Equal only if nothing has been written since.
    """

    version_id: RotationId | None
    mark: str


class Destination(Protocol):
    """A place that holds a copy of a secret's value, and says of which version."""

    def name(self) -> str:
        """Name it in one printable line, for logs and people: `s3://bucket/key`."""
        ...

    def holds(self) -> Held:
        """Look. Cheap, and no cleartext is fetched.

        Raises:
            Drifted: It is another secret's place.
        """
        ...

    def deliver(self, version: Version, text: Sensitive, seen: Held) -> None:
        """Replace what it holds by *text*, the rendered value of *version*.

        Only if nothing has been written since *seen*; where the place cannot compare, as nearly
        so as it can be known. The version's id is written with the value, in one act. Repeatable:
        if it is this version that was written since, that was an earlier try.

        Raises:
            Busy: Something else has been written since. Look again. Nothing was written, or, where
                the place cannot compare, perhaps at the same time.
            Misconfigured: The value does not fit; the message names the limit. Nothing was written.
            Unreachable: No answer. It may have been written.
        """
        ...


class Pickup(StrEnum):
    """How far a consumer has followed."""

    UNTOLD = "untold"
    WAITING = "waiting"
    FAILED = "failed"
    FOLLOWED = "followed"


@dataclass(frozen=True, slots=True)
class Sight:
    """What one look at a consumer showed.

    Attributes:
        pickup: Followed only if *all* of it was seen to run with the version, by its content or
            by the version's own id, never by a status alone. Untold, if nothing shows that it has
            been told of the version. Failed, if it will not get there by itself.
        mark: Names the state that was looked at, for a conditional `trigger`.
        waits_for: What is missing, in a line; "" if nothing is.
    """

    pickup: Pickup
    mark: str
    waits_for: str = ""


class Consumer(Protocol):
    """Runs with the value of a secret and must be made to pick up a new one.

    It reads the value by itself, from the store or from a destination; we never hand it over.
    """

    def name(self) -> str:
        """Name it in a line, for alerts."""
        ...

    def preflight(self) -> None:
        """Refuse what could never follow: paused, a policy against it, a missing right.

        Writes nothing.

        Raises:
            Misconfigured: There is no such consumer, or it cannot be made to follow as it is.
            Denied: We may not do or see what it takes.
        """
        ...

    def verify(self, version: Version) -> Sight:
        """Look whether it runs with *version*. Writes nothing. Asked anew at each look."""
        ...

    def trigger(self, version_id: RotationId, seen: Sight) -> None:
        """Tell it of the version, once: it carries the id from then on.

        The id stays on it even if what it runs with is put back. Telling it twice of one version
        is telling it once. Conditional on *seen*, where it can be.

        Raises:
            Busy: It has changed since it was *seen*. It was not told.
        """
        ...


class Notifier(Protocol):
    """Passes an alert on to whoever listens."""

    def send(self, alert: Alert) -> None:
        """Send it. The same alert may be sent again; its id is the same then.

        Raises:
            Unreachable: No answer. It may have been sent.
            Denied: We may not.
            Misconfigured: There is nobody of that name to send it to.
        """
        ...


@runtime_checkable
class Witness(Protocol):
    """A `Retiring` target that asks its issuer first, and retires nothing that is still used."""

    def usage_lag(self) -> timedelta | None:
        """Return how late the issuer may hear of a use; None if it does not tell of any."""
        ...


class Clock(Protocol):
    """Time, injected."""

    def now(self) -> datetime:
        """Return the time: aware, UTC."""
        ...
