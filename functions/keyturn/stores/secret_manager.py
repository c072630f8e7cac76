"""Google Secret Manager: tested values in the secret, pending ones in a companion beside it.

A version is enabled, and `latest`, as soon as it is added. So the secret receives tested values
only, and whoever reads `latest`, a number or an alias is safe. Which version is current, and what
is pending, is said by the annotations of the companion `<secret>-pending`: every change of them is
a compare-and-set on its etag (`secret_manager_record`). The pending values are its versions.

    stage      add to the companion; guarded: pending = that version          one of two wins
    staged     guarded write that changes nothing: the slot is ours *now*     no read can tell
    promote    guarded: publishing; add to the secret; guarded: current = that version
    withdraw   guarded: pending = none; the rotation is over

What is read by its number is certain, and so is a guarded write. All else may be late, `latest`
and the annotations too (docs: Secret Manager consistency). So versions are read by number, and
that nothing is newer is seen by the next number, which is not there. What *is* there beyond the
current version is one of:

    the pending value       it was tested, and its worker died while it promoted: it is current
    the current value       added twice, because a reply was lost: harmless
    an older value of ours  a worker woke up too late, or a lost request came: the current value is
                            added once more, so that `latest` is right again
    anything else           somebody stored it by hand: it becomes current, and nothing pends

Nothing of a secret that Google itself rotates is touched.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from keyturn import document
from keyturn.boundary import ask_google
from keyturn.errors import Busy, Misconfigured, Unsupported
from keyturn.model import Credential, Intent, RotationId, SecretRef, Snapshot, Version
from keyturn.ports import Clock, Pause, Standing
from keyturn.stores import secret_manager_record as records
from keyturn.stores import stored
from keyturn.stores.secret_manager_record import Numbered, Record, with_known, with_over
from keyturn.stores.secret_manager_wire import (
    CALL_TIMEOUT_S,
    PAYLOAD_BYTES,
    Missing,
    Wire,
    companion_of,
)
from keyturn.watchdog import Watched

PERMISSIONS = (
    "secretmanager.secrets.get",
    "secretmanager.versions.access",
    "secretmanager.versions.add",
    "secretmanager.versions.get",
    "secretmanager.versions.list",
)
"""What the function needs on the secret: roles viewer, secretAccessor and secretVersionAdder."""

COMPANION_PERMISSIONS = (
    "secretmanager.secrets.get",
    "secretmanager.secrets.update",
    "secretmanager.versions.access",
    "secretmanager.versions.add",
    "secretmanager.versions.destroy",
    "secretmanager.versions.list",
)
"""Besides, on the companion: a custom role. Only roles/secretmanager.admin has secrets.update."""

FOLLOW_UP_PERMISSIONS = (
    "secretmanager.secrets.get",
    "secretmanager.versions.access",
    "secretmanager.versions.add",
    "secretmanager.versions.get",
)
"""What a follow-up needs on the secret instead; on the companion, the same but `destroy`."""

ADMIN_PERMISSIONS = (
    "secretmanager.versions.access",
    "secretmanager.versions.get",
)
"""What it needs on an admin's secret, which is only read, by `latest`."""

ALIAS_PERMISSIONS = ("secretmanager.secrets.update",)
"""Besides, on the secret, where aliases are kept. It also allows to change topics and rotation."""

KEEP_PERMISSIONS = ("secretmanager.versions.destroy",)
"""Besides, on the secret, where old versions are destroyed."""

CURRENT, PREVIOUS = "current", "previous"
"""The aliases."""

TRIES = 8
"""How often a guarded write is tried against others, or against reads that are late."""

FENCE_PAUSE_S = 0.3
"""Before each next one, in seconds."""

KEPT_PENDING = 10
"""So many values of rotations that were cancelled are kept: a target may know one of them."""

HEADER = "keyturn"
"""How a pending value begins: this, the rotation's id, the time; then the value, from line 2."""

HEADER_BYTES = 256
"""More than that line has."""


def connect(location: str | None = None, *, address: str | None = None) -> Any:
    """Make a client for the secrets of one location; None is for global ones.

    Args:
        location: As in the secret's name. Regional secrets are served there only.
        address: Where a local Secret Manager listens, on loopback; without TLS or credentials.

    Raises:
        Misconfigured: *address* is not on loopback.
        Denied: There are no credentials.
    """
    from google.cloud.secretmanager_v1 import SecretManagerServiceClient
    from google.cloud.secretmanager_v1.services.secret_manager_service import transports

    if address is not None:
        return SecretManagerServiceClient(
            transport=transports.SecretManagerServiceGrpcTransport(channel=_loopback(address))
        )
    options = {"api_endpoint": endpoint(location)}
    return ask_google(
        "credentials", "Secret Manager", lambda: SecretManagerServiceClient(client_options=options)
    )


def endpoint(location: str | None) -> str:
    """Return the host that serves a location's secrets (docs: regional endpoints)."""
    if location is None:
        return "secretmanager.googleapis.com"
    return f"secretmanager.{location}.rep.googleapis.com"


def _loopback(address: str) -> Any:
    host = address.rpartition(":")[0]
    if host not in {"127.0.0.1", "localhost", "[::1]"}:
        raise Misconfigured(
            f"{address[:200]!a} is not on loopback",
            remedy="Leave the address out: Google's own is reached by TLS.",
        )
    import grpc

    return grpc.insecure_channel(address)


@dataclass(frozen=True, slots=True)
class _Seen:
    """The record as it once was, with what a guarded write needs."""

    record: Record
    etag: str
    annotations: Mapping[str, str]


class SecretManager:
    """A `KeyStore`, and a `FollowedStore`. One object serves one event.

    Args:
        client: From `connect`, for the location of the secrets.
        clock: Tells when something was staged and promoted.
        pause: Waits; False if there is no time left for it.
        members_of: What the stored documents call principal and secret, or that they are secrets.
        has_aliases: Keep the aliases `current` and `previous` of the secret, besides.
        keep: How many versions of the secret stay; older ones are destroyed. None is all.
        timeout_s: For one call, in seconds.
    """

    def __init__(  # noqa: PLR0913  # what a deployment may choose
        self,
        client: Any,
        *,
        clock: Clock,
        pause: Pause,
        members_of: stored.MembersOf = document.usual,
        has_aliases: bool = False,
        keep: int | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> None:
        self._wire = Wire(client, pause, timeout_s)
        self._clock = clock
        self._pause = pause
        self._members_of = members_of
        self._has_aliases = has_aliases
        self._keep = keep
        # Newest first seen, for its etag: a guarded write shows whether it still is.
        self._last: dict[SecretRef, _Seen] = {}
        self._unmanaged: set[SecretRef] = set()

    def is_over(
        self, ref: SecretRef, rotation_id: RotationId, asked_at: datetime | None = None
    ) -> bool:
        """Tell whether *rotation_id* is done, or was withdrawn: its event is to be acknowledged.

        So is one that asks for what has been done since, at *asked_at* or later: the same tick
        published twice, one that was overtaken, or an old one sent once more.
        """
        record = self._exact(ref).record
        if record.holds(rotation_id):
            return False
        since = record.since
        is_answered = asked_at is not None and since is not None and asked_at <= since
        return is_answered or record.is_current(rotation_id) or record.is_over(rotation_id)

    def full_name(self, ref: SecretRef) -> SecretRef:
        """Return *ref*, which is the full name: no other secret has it."""
        return ref

    def topics(self, ref: SecretRef) -> list[str]:
        """Return the topics that are told of the secret."""
        return [topic.name for topic in self._wire.secret(ref).topics]

    def number(self, ref: SecretRef, version_id: RotationId) -> int:
        """Return the number of a version, for whoever is to be pinned to it.

        Raises:
            Busy: No such version is known: it is not promoted yet, or long past.
        """
        record = self._anchored(ref).record
        known = with_known(record.known, record.current)
        numbers = [each.number for each in known if each.id == version_id]
        if not numbers:
            raise Busy(
                f"{ref}: no version of the secret is known to be {version_id}",
                remedy="Nothing: look again; or name a version that is current.",
            )
        return numbers[-1]

    def snapshot(self, ref: SecretRef, rotation_id: RotationId) -> Snapshot:
        """See `SecretStore.snapshot`. It may be late: whoever writes by it finds out."""
        records.require_id(rotation_id)
        record = self._look(ref).record
        if record.is_over(rotation_id):
            raise _over(ref, rotation_id, record)
        return record.slots

    def current(self, ref: SecretRef) -> Version:
        """See `SecretStore.current`.

        Raises:
            Unsupported: Google itself rotates the secret.
        """
        self._refuse_managed(ref)
        seen = self._anchored(ref)
        current = _require_current(ref, seen.record)
        text = self._wire.text(ref, current.number)
        if isinstance(text, Missing):
            raise Misconfigured(
                f"{ref}: version {current.number} is current, and {text.value}",
                remedy="Enable it, or store a value that works.",
            )
        made_at = seen.record.since or self._wire.made_at(ref, current.number) or self._clock.now()
        where = f"{ref} version {current.number}"
        return Version(current.id, stored.parsed(text, where, self._members_of), made_at)

    def latest(self, ref: SecretRef) -> Version:
        """Return what a reader of `latest` gets, of a secret that nobody need rotate."""
        newest = self._wire.newest(ref)
        if newest is None:
            raise Misconfigured(f"{ref} has no version yet", remedy="Store a first value.")
        text = self._wire.text(ref, newest.number)
        if isinstance(text, Missing):
            raise Misconfigured(
                f"{ref}: version {newest.number} is the latest, and {text.value}",
                remedy="Enable it, or store a value that works.",
            )
        where = f"{ref} version {newest.number}"
        credential = stored.parsed(text, where, self._members_of)
        return Version(RotationId(str(newest.number)), credential, newest.made_at)

    def staged(self, ref: SecretRef, rotation_id: RotationId) -> Version | None:
        """See `SecretStore.staged`. If it pends, then at this very moment."""
        records.require_id(rotation_id)
        seen = self._known(ref)
        if not seen.record.holds(rotation_id):
            seen = self._look(ref)
        pending = seen.record.pending
        if pending is not None and pending.id == rotation_id:
            version = self._pending(ref, pending.number)
            # Last, right before the act: whatever happens from now on, we held the slot.
            if self._fenced(ref).record.pending == pending:
                return version
        record = self._known(ref).record
        if record.is_current(rotation_id):
            return self.current(ref)
        if record.pending is None and not record.is_over(rotation_id):
            return None
        raise _over(ref, rotation_id, record)

    def kept(self, ref: SecretRef) -> Iterator[Version]:
        """See `SecretStore.kept`: enabled versions of the secret, and values that never were."""
        record = self._known(ref).record
        beside = SecretRef(companion_of(ref))
        promoted = {each.id for each in record.known}
        found = {(ref, each.number): each.made_at for each in self._wire.enabled(ref)}
        found |= {(beside, each.number): each.made_at for each in self._wire.enabled(beside)}
        # Lists are late; these are known to be there.
        for name, one in ((ref, record.current), (ref, record.previous), (beside, record.pending)):
            if one is not None:
                found.setdefault((name, one.number), self._clock.now())
        by_age = sorted(found, key=lambda each: (found[each], each[0] != ref, each[1]))
        for name, number in reversed(by_age):
            try:
                version = self._pending(ref, number) if name == beside else None
                if name == ref:
                    version = self._published(ref, record, number, found[name, number])
            except Misconfigured:
                continue  # It never was a credential.
            if version is not None and (name == ref or version.rotation_id not in promoted):
                yield version

    def stage(
        self, ref: SecretRef, rotation_id: RotationId, credential: Credential, seen: Snapshot
    ) -> None:
        """See `SecretStore.stage`. The record is guarded: a compare-and-set."""
        records.require_id(rotation_id)
        text = stored.rendered(credential, ref, self._members_of)
        _require_fit(ref, text)
        now = self._look(ref)
        _require_same(ref, now.record, seen)
        if now.record.holds(rotation_id):
            return
        headed = f"{HEADER} {rotation_id} {self._clock.now().isoformat()}\n{text}"
        number = self._wire.add(companion_of(ref), headed, now.record.staged)
        for _ in range(TRIES):
            _require_same(ref, now.record, seen)
            if now.record.holds(rotation_id):
                return
            if self._swap(ref, now, _taken(now.record, Numbered(number, rotation_id))) is not None:
                return
            now = self._fenced(ref)
        raise _late(ref)

    def withdraw(self, ref: SecretRef, rotation_id: RotationId) -> None:
        """See `SecretStore.withdraw`. The rotation is over: its event begins no new one."""

        def emptied(record: Record) -> Record | None:
            if not record.holds(rotation_id):
                return None
            over = with_over(record.over, rotation_id)
            return replace(record, pending=None, publishing=0, over=over)

        if not self._known(ref).record.holds(rotation_id):
            self._fenced(ref)  # What is known may be late, and then nothing would be done.
        self._change(ref, emptied)

    def promote(self, ref: SecretRef, rotation_id: RotationId, seen: Snapshot) -> None:
        """See `SecretStore.promote`. Readers first, then the record; what died half-way goes on."""
        for _ in range(TRIES):
            now = self._known(ref)
            if now.record.is_current(rotation_id):
                return self._complete(ref, now)
            _require_promotable(ref, now.record, rotation_id, seen)
            self._publish(ref, now)
        raise _late(ref)

    def intents(self, ref: SecretRef) -> list[Intent]:
        """See `KeyStore.intents`. Certain: a key must not be taken for a stranger's."""
        return list(self._fenced(ref).record.intents.values())

    def declare(self, ref: SecretRef, intent: Intent) -> None:
        """See `KeyStore.declare`."""
        self._change(
            ref, lambda record: replace(record, intents={**record.intents, intent.name: intent})
        )

    def settle(self, ref: SecretRef, names: Iterable[str]) -> None:
        """See `KeyStore.settle`."""
        gone = set(names)

        def without(record: Record) -> Record | None:
            left = {name: each for name, each in record.intents.items() if name not in gone}
            return replace(record, intents=left) if left != record.intents else None

        self._change(ref, without)

    def standing(self, ref: SecretRef) -> Standing:
        """See `FollowedStore.standing`. Certain of what is current and of what may pend."""
        seen = self._exact(ref)
        record = seen.record
        slots = record.slots
        previous = record.previous.id if record.previous else None
        return Standing(slots.current, slots.pending, previous, record.since or self._clock.now())

    def watched(self, ref: SecretRef) -> Watched:
        """Return what a watchdog looks at. As certain as `standing`, but for the schedule."""
        standing, schedule = self.standing(ref), self._wire.secret(ref).rotation
        record = self._known(ref).record
        current = record.current
        is_rotated = not all(each.is_foreign for each in record.known)
        return Watched(
            standing.current,
            standing.since,
            schedule.next_rotation_time or None,
            schedule.rotation_period or None,
            current is not None and current.is_foreign and is_rotated,
        )

    def clear_previous(self, ref: SecretRef, version_id: RotationId) -> None:
        """See `FollowedStore.clear_previous`. The version stays enabled: a reader may hold on."""

        def cleared(record: Record) -> Record | None:
            if record.previous is None or record.previous.id != version_id:
                return None
            return replace(record, previous=None)

        self._change(ref, cleared)

    # ------------------------------------------------------------------------ the record

    def _known(self, ref: SecretRef) -> _Seen:
        """Return what was seen last; it is as good as a guarded write that follows."""
        return self._last.get(ref) or self._look(ref)

    def _look(self, ref: SecretRef) -> _Seen:
        """Read the record, which may be late; not later than what was seen before."""
        return self._note(ref, self._wire.secret(companion_of(ref)))

    def _note(self, ref: SecretRef, companion: Any) -> _Seen:
        annotations = dict(companion.annotations)
        record = records.read(annotations, ref)
        if record.current is None:
            record = self._begun(ref, record)
        last = self._last.get(ref)
        if last is None or record.writes >= last.record.writes:
            self._last[ref] = _Seen(record, companion.etag, annotations)
        return self._last[ref]

    def _begun(self, ref: SecretRef, record: Record) -> Record:
        """Take what is `latest` for current, where nothing has been rotated yet."""
        newest = self._wire.newest(ref)
        # `latest` may be late: that there is none at all is certain by the first number only.
        if newest is None and self._wire.text(ref, 1) is Missing.ABSENT:
            return record
        number, made_at = (newest.number, newest.made_at) if newest else (1, self._clock.now())
        current = Numbered(number, RotationId(str(number)))
        known = with_known(record.known, current)
        return replace(record, current=current, since=made_at, known=known)

    def _swap(self, ref: SecretRef, seen: _Seen, changed: Record) -> _Seen | None:
        """Write *changed* if nothing has been written since *seen*; None if something has."""
        mark = secrets.token_hex(4)
        changed = replace(changed, writes=seen.record.writes + 1, mark=mark)
        annotations = records.written(changed, seen.annotations, ref)
        answer = self._wire.update(companion_of(ref), seen.etag, {"annotations": annotations})
        if answer is not None:
            return self._note(ref, answer)
        # Refused; or an earlier try of the same was heard, and its reply lost.
        now = self._look(ref)
        return now if now.record.mark == mark else None

    def _change(self, ref: SecretRef, change: Callable[[Record], Record | None]) -> None:
        """Write what *change* makes of the record, whatever it is by then; None is no change."""
        for number in range(TRIES):
            seen = self._known(ref) if number else self._look(ref)
            changed = change(seen.record)
            if changed is None or self._swap(ref, seen, changed) is not None:
                return
            self._pause(FENCE_PAUSE_S * number)
        raise _late(ref)

    def _fenced(self, ref: SecretRef) -> _Seen:
        """Return the record as it is now, proved by a guarded write that changes nothing.

        Whoever has read before it, and writes after it, is refused.
        """
        for number in range(TRIES):
            seen = self._known(ref)
            fenced = self._swap(ref, seen, seen.record)
            if fenced is not None:
                return fenced
            self._pause(FENCE_PAUSE_S * number)
        raise _late(ref)

    def _anchored(self, ref: SecretRef) -> _Seen:
        """Return a record whose current version is the one: there is no next number."""
        seen = self._look(ref)
        if seen.record.current is None:
            return seen
        if self._is_last(ref, seen.record.current.number):
            return seen
        return self._reconciled(ref, self._fenced(ref))

    def _exact(self, ref: SecretRef) -> _Seen:
        """Return a record that also knows of everything that was ever staged."""
        seen = self._anchored(ref)
        beside = SecretRef(companion_of(ref))
        if self._is_last(beside, seen.record.staged):
            return seen
        staged = [number for number, _ in self._wire.following(beside, seen.record.staged)][-1]
        # Fenced first: it may be a rotation that the record did not know of.
        self._fenced(ref)
        self._change(ref, lambda record: replace(record, staged=max(staged, record.staged)))
        return self._known(ref)

    def _is_last(self, name: str, number: int) -> bool:
        return self._wire.text(name, number + 1) is Missing.ABSENT

    # ------------------------------------------------------------------------ what is ahead

    def _reconciled(self, ref: SecretRef, seen: _Seen, *ours: str) -> _Seen:
        """See to what stands beyond current, by the table above. *seen* is exact.

        *ours* are values that this worker has added, though it had lost the slot.
        """
        current = _require_current(ref, seen.record)
        ahead = list(self._wire.following(ref, current.number))
        if not ahead:
            return seen
        number, text = ahead[-1]
        if isinstance(text, Missing) or text == self._wire.text(ref, current.number):
            return seen
        if self._is_being_published(ref, seen.record, text):
            return self._promoted(ref, seen, number) or self._known(ref)
        if text in ours or self._was_ours(ref, seen.record, text):
            return self._republished(ref, seen)
        return self._adopted(ref, seen, number)

    def _is_being_published(self, ref: SecretRef, record: Record, text: str) -> bool:
        if not record.is_publishing or record.pending is None:
            return False
        pending = self._wire.text(companion_of(ref), record.pending.number)
        return isinstance(pending, str) and _body(pending) == text

    def _was_ours(self, ref: SecretRef, record: Record, text: str) -> bool:
        """Tell whether a version that is known, or one that was staged once, has this value."""
        if any(self._wire.text(ref, each.number) == text for each in record.known):
            return True
        beside = SecretRef(companion_of(ref))
        values = (self._wire.text(beside, each.number) for each in self._wire.enabled(beside))
        return any(isinstance(value, str) and _body(value) == text for value in values)

    def _republished(self, ref: SecretRef, seen: _Seen) -> _Seen:
        """Add the current value once more: what came late must not be `latest`."""
        current = _require_current(ref, seen.record)
        text = self._wire.text(ref, current.number)
        if isinstance(text, Missing):
            return seen
        # Right before the act: this worker may have slept since, and a newer one may be current.
        held = self._swap(ref, seen, seen.record)
        if held is None:
            raise _late(ref)
        number = self._wire.add(ref, text, current.number)
        again = Numbered(number, current.id)
        self._point(ref, again, held.record.previous)
        known = with_known(held.record.known, again)
        self._swap(ref, held, replace(held.record, current=again, known=known))
        return self._known(ref)

    def _adopted(self, ref: SecretRef, seen: _Seen, number: int) -> _Seen:
        """Let what somebody has stored be current, as a labelled store does."""
        record, stored_by_hand = seen.record, Numbered(number, RotationId(str(number)))
        self._point(ref, stored_by_hand, record.current)
        adopted = replace(
            record,
            current=stored_by_hand,
            previous=record.current,
            pending=None,
            publishing=0,
            since=self._clock.now(),
            known=with_known(record.known, record.current, stored_by_hand),
        )
        if self._swap(ref, seen, adopted) is None:
            raise _late(ref)
        return self._known(ref)

    # ------------------------------------------------------------------------ promotion

    def _publish(self, ref: SecretRef, now: _Seen) -> None:
        """Add what is pending to the secret, and say so. What others did meanwhile is looked at."""
        record = now.record
        current = _require_current(ref, record)
        pending = record.pending or Numbered(0, RotationId(""))
        text = self._wire.text(companion_of(ref), pending.number)
        if isinstance(text, Missing):
            raise _over(ref, pending.id, record)
        text, number = _body(text), None
        if record.is_publishing:  # An earlier worker has come as far as here, or farther.
            number = self._wire.found(ref, text, current.number)
        # Right before the act: this worker may have slept since.
        claimed = self._swap(ref, now, replace(record, publishing=pending.number))
        if claimed is None:
            self._fenced(ref)
            return
        if number is None:
            number = self._wire.add(ref, text, current.number)
        if self._promoted(ref, claimed, number) is None:
            fenced = self._fenced(ref)
            if not fenced.record.is_current(pending.id):
                self._reconciled(ref, fenced, text)

    def _promoted(self, ref: SecretRef, claimed: _Seen, number: int) -> _Seen | None:
        """Say that what pends is current, as that version of the secret; None if it moved."""
        record = claimed.record
        if record.pending is None:
            return None
        made = Numbered(number, record.pending.id)
        self._point(ref, made, record.current)
        promoted = replace(
            record,
            current=made,
            previous=record.current,
            pending=None,
            publishing=0,
            since=self._clock.now(),
            known=with_known(record.known, record.current, made),
        )
        return self._swap(ref, claimed, promoted)

    def _complete(self, ref: SecretRef, now: _Seen) -> None:
        """Do what follows a promotion, once or again. Everything here may be repeated."""
        current = _require_current(ref, now.record)
        if not self._is_last(ref, current.number):
            now = self._reconciled(ref, self._fenced(ref))
        self._destroy_pending(ref, now.record)
        self._destroy_old(ref, now.record)

    def _destroy_pending(self, ref: SecretRef, record: Record) -> None:
        """Destroy what was promoted, and all but the newest of what never was."""
        beside, pending = companion_of(ref), record.pending
        promoted = {each.id for each in record.known}
        for position, each in enumerate(self._wire.enabled(beside)):
            if pending is not None and pending.number == each.number:
                continue
            if position >= KEPT_PENDING or self._made_by(beside, each.number) in promoted:
                self._wire.destroy(beside, each.number)

    def _made_by(self, beside: str, number: int) -> str | None:
        text = self._wire.text(beside, number)
        header = [] if isinstance(text, Missing) else _header(text)
        return header[1] if len(header) > 1 else None

    def _destroy_old(self, ref: SecretRef, record: Record) -> None:
        if self._keep is None:
            return
        slots = {each.number for each in (record.current, record.previous) if each}
        for each in self._wire.enabled(ref)[self._keep :]:
            if each.number not in slots and each.number < min(slots):
                self._wire.destroy(ref, each.number)

    def _point(self, ref: SecretRef, current: Numbered, previous: Numbered | None) -> None:
        """Let the aliases name these. Before the record does: what is current there is done.

        They only ever move forward: a worker that comes late finds a higher number.
        """
        if not self._has_aliases:
            return
        for _ in range(TRIES):
            secret = self._wire.secret(ref)
            aliases = dict(secret.version_aliases)
            if aliases.get(CURRENT, 0) >= current.number:
                return
            aliases[CURRENT] = current.number
            if previous is not None:
                aliases[PREVIOUS] = previous.number
            if self._wire.update(ref, secret.etag, {"version_aliases": aliases}) is not None:
                return
        raise _late(ref)

    # ------------------------------------------------------------------------ values

    def _pending(self, ref: SecretRef, number: int) -> Version | None:
        """Read a value of the companion; None if it is gone or not ours."""
        text = self._wire.text(companion_of(ref), number)
        if isinstance(text, Missing):
            return None
        header = _header(text)
        where = f"{companion_of(ref)} version {number}"
        if len(header) != 3 or header[0] != HEADER:  # noqa: PLR2004  # see HEADER
            raise Misconfigured(
                f"{where} was not written by keyturn", remedy="Destroy it: nobody reads it."
            )
        credential = stored.parsed(_body(text), where, self._members_of)
        return Version(RotationId(header[1]), credential, records.time_of(header[2], where))

    def _published(
        self, ref: SecretRef, record: Record, number: int, made_at: Any
    ) -> Version | None:
        text = self._wire.text(ref, number)
        if isinstance(text, Missing):
            return None
        where = f"{ref} version {number}"
        credential = stored.parsed(text, where, self._members_of)
        return Version(record.name_of(number), credential, made_at)

    def _refuse_managed(self, ref: SecretRef) -> None:
        if ref in self._unmanaged:
            return
        secret = self._wire.secret(ref)
        status = secret.rotation.managed_rotation_status.state.name
        if secret.secret_type.name == "CLOUD_SQL_DB_CREDENTIALS" or status == "ACTIVE":
            raise Unsupported(
                f"{ref} is rotated by Google itself",
                remedy="Leave it to Google, or make a secret of another type for keyturn.",
            )
        self._unmanaged.add(ref)


def _header(text: str) -> list[str]:
    return text.partition("\n")[0].split(" ")


def _body(text: str) -> str:
    return text.partition("\n")[2]


def _require_fit(ref: SecretRef, text: str) -> None:
    size, most = len(text.encode()), PAYLOAD_BYTES - HEADER_BYTES
    if size > most:
        raise Misconfigured(
            f"{ref}: the next value has {size} bytes, its companion takes {most}",
            remedy="Remove members from the secret's value.",
        )


def _require_current(ref: SecretRef, record: Record) -> Numbered:
    if record.current is None:
        raise Misconfigured(f"{ref} has no version yet", remedy="Store a first value.")
    return record.current


def _taken(record: Record, pending: Numbered) -> Record:
    """Return the record with another pending; the rotation that loses the slot is over."""
    loser = record.pending
    return replace(
        record,
        pending=pending,
        publishing=0,
        staged=max(pending.number, record.staged),
        over=with_over(record.over, loser.id) if loser else record.over,
    )


def _require_same(ref: SecretRef, record: Record, seen: Snapshot) -> None:
    if record.slots != seen:
        raise Busy(
            f"{ref}: the slots have moved during this step",
            remedy="Nothing, if another rotation or a person was faster; it is tried again.",
        )


def _require_promotable(
    ref: SecretRef, record: Record, rotation_id: RotationId, seen: Snapshot
) -> None:
    if record.slots.current != seen.current:
        raise Busy(
            f"{ref}: current moved away from {seen.current} during this step",
            remedy="Nothing, if another rotation or a person was faster; it is tried again.",
        )
    if not record.holds(rotation_id):
        raise _over(ref, rotation_id, record)


def _over(ref: SecretRef, rotation_id: RotationId, record: Record) -> Busy:
    return Busy(
        f"{ref}: rotation {rotation_id} is neither pending nor current"
        f" (pending: {record.slots.pending or 'none'})",
        remedy="Nothing, if it was cancelled or a newer one took over; else rotate again.",
    )


def _late(ref: SecretRef) -> Busy:
    return Busy(
        f"{ref}: others write to its companion, or its answers are older than that",
        remedy="Nothing: it is tried again.",
    )
