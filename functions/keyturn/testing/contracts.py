"""What every adapter must do. Subclass, provide the fixtures, inherit the tests.

The laws are those of the docstrings in `keyturn.ports`, as tests. An outside target's test file is
a dozen lines: a subclass of `TargetContract` with its fixtures.
"""

from __future__ import annotations

import logging
import string
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import ClassVar

import pytest

from keyturn.boundary import quiet_sdk_loggers
from keyturn.errors import (
    Busy,
    Denied,
    Drifted,
    KeyturnError,
    LockedOut,
    Misconfigured,
    NeedsHuman,
    NotYetAccepted,
    Unreachable,
)
from keyturn.minted import MintedKeys, Place
from keyturn.model import (
    Alert,
    Attempt,
    Credential,
    Happening,
    Intent,
    RotationId,
    SecretRef,
    Sensitive,
    Version,
)
from keyturn.ports import (
    Authority,
    Consumer,
    Destination,
    FollowedStore,
    Held,
    KeyIssuer,
    KeyStore,
    Notifier,
    Pending,
    Pickup,
    Retiring,
    SecretStore,
    Sight,
    Target,
    ValueStore,
)
from keyturn.rotation import Rotation
from keyturn.testing.fakes import REF, LabelledStore, World

MADE_AT = datetime(2030, 1, 1, tzinfo=UTC)
MADE_LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
CANARY = "Canary7-"
"""Stands in every secret that a contract makes; it must appear nowhere else."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A target under contract.

    Attributes:
        target: The target itself. What it generates begins with `CANARY`.
        current: A credential that it accepts now.
        unreachable: The same credential, at an address where nobody answers.
        outage: While it is entered, the target gives no answer.
    """

    target: Target
    current: Credential
    unreachable: Credential
    outage: Callable[[], AbstractContextManager[None]]


def version(credential: Credential, name: str) -> Version:
    """Wrap *credential* as a store would."""
    return Version(RotationId(name), credential, MADE_AT)


def _held(pending: Version) -> Pending:
    """Be a slot that this rotation holds."""
    return lambda: pending


def _superseded() -> Version:
    """Be a slot that another rotation has taken."""
    raise Busy("superseded", remedy="")


class TargetContract:
    """A subclass provides the fixture *subject*.

    Attributes:
        SLOTS: How many credentials the target accepts at once: 1, or 2 and more.
        UNUSABLE: Printable characters that no secret can have. Whoever lists any proves by another
            test that they are refused before anything is stored.
    """

    SLOTS: ClassVar[int]
    UNUSABLE: ClassVar[str] = ""

    def test_accepts_the_current_credential(self, subject: Subject) -> None:
        """What the store serves works."""
        assert subject.target.accepts(subject.current)

    def test_a_refusal_is_an_answer(self, subject: Subject) -> None:
        """A wrong secret gives False; it does not raise."""
        wrong = replace(subject.current, secret=Sensitive(f"{CANARY}wrong"))

        assert subject.target.accepts(wrong) is False

    def test_no_answer_is_not_a_refusal(self, subject: Subject) -> None:
        """Taking an outage for a refusal would set a password that may be set already."""
        with pytest.raises(Unreachable):
            subject.target.accepts(subject.unreachable)
        with subject.outage(), pytest.raises(Unreachable):
            subject.target.accepts(subject.current)

    def test_create_leaves_current_alone(self, subject: Subject) -> None:
        """Create makes another credential, and disturbs nobody."""
        following = subject.target.create(subject.current, [])

        assert following.secret != subject.current.secret
        assert subject.target.accepts(subject.current)

    def test_set_makes_pending_accepted_and_may_be_repeated(self, subject: Subject) -> None:
        """Set twice is set once."""
        pending = self._pending(subject)

        for _ in range(2):
            subject.target.set(_held(pending), version(subject.current, "v0"), [])

        assert subject.target.accepts(pending.credential)
        assert subject.target.accepts(subject.current) is (self.SLOTS > 1)

    def test_a_superseded_worker_changes_nothing(self, subject: Subject) -> None:
        """The slot is read right before the act."""
        pending = self._pending(subject)

        with pytest.raises(Busy):
            subject.target.set(_superseded, version(subject.current, "v0"), [])

        assert subject.target.accepts(subject.current)
        assert not subject.target.accepts(pending.credential)

    def test_pending_for_another_place_is_refused(self, subject: Subject) -> None:
        """Whoever can edit pending must not thereby send us elsewhere."""
        elsewhere = version(subject.unreachable, "v1")

        with pytest.raises(NeedsHuman):
            subject.target.set(_held(elsewhere), version(subject.current, "v0"), [])

        assert subject.target.accepts(subject.current)

    def test_every_printable_ascii_character_survives(self, subject: Subject) -> None:
        """Quoting is right for every character a policy may draw."""
        printable = string.ascii_letters + string.digits + string.punctuation
        usable = "".join(each for each in printable if each not in self.UNUSABLE)
        pending = self._pending(subject, Sensitive(CANARY + usable))

        subject.target.set(_held(pending), version(subject.current, "v0"), [])

        assert subject.target.accepts(pending.credential)

    def test_a_kept_version_authorises_when_no_slot_does(self, subject: Subject) -> None:
        """An abandoned rotation may have left the live credential in no slot at all."""
        lost = replace(subject.current, secret=Sensitive(f"{CANARY}lost"))
        pending = self._pending(subject)

        subject.target.set(_held(pending), version(lost, "v1"), [version(subject.current, "v0")])

        assert subject.target.accepts(pending.credential)

    def test_nothing_leaks(self, subject: Subject, caplog: pytest.LogCaptureFixture) -> None:
        """No log record at DEBUG, message, remedy, repr or cause holds a secret."""
        caplog.set_level(logging.DEBUG)
        pending = self._pending(subject)
        shown = [repr(pending), str(pending.credential)]
        lost = version(replace(subject.current, secret=Sensitive(f"{CANARY}lost")), "v1")

        for act in (
            lambda: subject.target.set(_held(pending), lost, []),
            lambda: subject.target.set(_superseded, lost, []),
            lambda: subject.target.accepts(subject.unreachable),
            lambda: subject.target.set(_held(version(subject.unreachable, "v2")), lost, []),
        ):
            try:
                act()
            except KeyturnError as error:
                shown += _everything_said(error)

        assert CANARY not in caplog.text
        assert not [text for text in shown if CANARY in text]

    def _pending(self, subject: Subject, secret: Sensitive | None = None) -> Version:
        following = subject.target.create(subject.current, [])
        return version(replace(following, secret=secret or following.secret), "pending")


class OneSlotContract(TargetContract):
    """What holds besides when the target accepts one credential at a time."""

    SLOTS = 1

    def test_a_lock_out_is_named(self, subject: Subject) -> None:
        """When no version known logs in, nothing is touched, and versions are named."""
        lost = replace(subject.current, secret=Sensitive(f"{CANARY}lost"))
        pending = self._pending(subject)

        with pytest.raises(LockedOut, match="v1"):
            subject.target.set(_held(pending), version(lost, "v1"), [])

        assert subject.target.accepts(subject.current)


class PlatformContract(TargetContract):
    """What holds besides when a platform sets the one credential that is accepted at a time."""

    SLOTS = 1

    def test_nobody_is_locked_out(self, subject: Subject) -> None:
        """When no version known logs in, the platform sets what is pending all the same."""
        lost = replace(subject.current, secret=Sensitive(f"{CANARY}lost"))
        pending = self._pending(subject)

        subject.target.set(_held(pending), version(lost, "v1"), [])

        assert subject.target.accepts(pending.credential)


class TwoSlotContract(TargetContract):
    """What holds besides when current stays accepted while pending is set."""

    SLOTS = 2

    def test_retire_leaves_current_alone_and_may_be_repeated(self, subject: Subject) -> None:
        """The old password dies, the live one does not."""
        first = version(subject.current, "v0")
        second = self._set(subject, first, "v1")
        assert isinstance(subject.target, Retiring)

        for _ in range(2):
            subject.target.retire(_held(second))

        assert subject.target.accepts(second.credential)
        assert not subject.target.accepts(first.credential)

    def test_retire_needs_a_current_that_works(self, subject: Subject) -> None:
        """Else nobody could log in any more."""
        wrong = version(replace(subject.current, secret=Sensitive(f"{CANARY}wrong")), "v1")
        assert isinstance(subject.target, Retiring)

        with pytest.raises(NotYetAccepted, match="v1"):
            subject.target.retire(_held(wrong))

        assert subject.target.accepts(subject.current)

    def test_retire_stops_when_current_changes(self, subject: Subject) -> None:
        """A rotation has finished meanwhile: its password is the live one."""
        first = version(subject.current, "v0")
        second = self._set(subject, first, "v1")
        reads = iter([first, second])
        assert isinstance(subject.target, Retiring)

        with pytest.raises(Busy):
            subject.target.retire(lambda: next(reads))

        assert subject.target.accepts(second.credential)

    def _set(self, subject: Subject, current: Version, name: str) -> Version:
        return _set(subject, current, name)


def _set(subject: Subject, current: Version, name: str) -> Version:
    made = version(subject.target.create(current.credential, []), name)
    subject.target.set(_held(made), current, [])
    return made


Opened = Callable[[Credential], AbstractContextManager[object]]
"""Logs in as a program would, and stays logged in while it is entered."""


class UsedContract:
    """What holds besides where the target tells who is logged in: a second class to inherit.

    A subclass provides the fixtures *subject* and *opened*.
    """

    NOTICED_WITHIN_S: ClassVar[float] = 10.0
    """How soon the target notices that a session has ended, in seconds, at the latest."""

    def test_who_is_still_logged_in_is_not_retired(self, subject: Subject, opened: Opened) -> None:
        """They would be refused when they connect again; current's own do not matter."""
        first = version(subject.current, "v0")
        second = replace(_set(subject, first, "v1"), stored_at=self._soon())
        assert isinstance(subject.target, Retiring)

        with opened(first.credential):
            with pytest.raises(Busy, match=f"open session of '{first.credential.principal}'"):
                subject.target.retire(_held(second))
            assert subject.target.accepts(first.credential)
        self._retire_in_time(subject.target, second)

        assert subject.target.accepts(second.credential)
        assert not subject.target.accepts(first.credential)

    def test_who_has_followed_keeps_nothing_alive(self, subject: Subject, opened: Opened) -> None:
        """A session that began when current was there."""
        first = version(subject.current, "v0")
        second = replace(_set(subject, first, "v1"), stored_at=MADE_LONG_AGO)
        assert isinstance(subject.target, Retiring)

        with opened(second.credential):
            subject.target.retire(_held(second))

        assert not subject.target.accepts(first.credential)

    def _retire_in_time(self, target: Retiring, current: Version) -> None:
        deadline = time.monotonic() + self.NOTICED_WITHIN_S
        while True:
            try:
                return target.retire(_held(current))
            except Busy:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def _soon(self) -> datetime:
        """Return a time at which every session that is open now is an old one."""
        return datetime.now(UTC) + timedelta(hours=1)


class DualContract(TwoSlotContract):
    """What holds besides when both slots are of one account."""

    def test_three_rotations_leave_two_passwords(self, subject: Subject) -> None:
        """Equality, never appending: what was current before the last one is dropped."""
        first = version(subject.current, "v0")
        second = self._set(subject, first, "v1")
        third = self._set(subject, second, "v2")

        assert subject.target.accepts(third.credential)
        assert subject.target.accepts(second.credential)
        assert not subject.target.accepts(first.credential)

    def test_an_abandoned_rotation_does_not_cost_current_its_place(self, subject: Subject) -> None:
        """A server that is asked twice to keep "the old one" would keep the abandoned one."""
        current = version(subject.current, "v0")
        abandoned = self._set(subject, current, "v1")

        following = self._set(subject, current, "v2")

        assert subject.target.accepts(current.credential)
        assert subject.target.accepts(following.credential)
        assert not subject.target.accepts(abandoned.credential)


def _everything_said(error: BaseException | None) -> list[str]:
    said = []
    while error is not None:
        said += [str(error), repr(error), repr(vars(error))]
        error = error.__cause__ or error.__context__
    return said


# ---------------------------------------------------------------------------- authorities


@dataclass(frozen=True, slots=True)
class Office:
    """An authority under contract, and what it has authority over.

    Attributes:
        authority: The authority itself, with all the time that it needs.
        hurried: The same, with no more time than it takes to ask.
        place: Where *current* logs in: host and port.
        current: A credential that is accepted now.
        unusable: A secret that the platform does not take.
        accepts: Whether the target accepts a credential, by a login of its own.
        asked: How often the platform was asked for a change.
        outage: While it is entered, the platform gives no answer.
    """

    authority: Authority
    hurried: Authority
    place: str
    current: Credential
    unusable: Sensitive
    accepts: Callable[[Credential], bool]
    asked: Callable[[], int]
    outage: Callable[[], AbstractContextManager[None]]


class AuthorityContract:
    """A subclass provides the fixture *office*."""

    def test_a_check_writes_nothing(self, office: Office) -> None:
        """What can be done passes, and is not done."""
        office.authority.check(office.place, self._following(office, "made"))
        office.authority.settle(office.place, office.current.principal)

        assert office.asked() == 0
        assert office.accepts(office.current)

    @pytest.mark.parametrize("what", ["place", "principal"])
    def test_another_place_or_principal_is_refused(self, office: Office, what: str) -> None:
        """The secret and the platform must mean the same account."""
        following = self._following(office, "made")
        place = "elsewhere.example:1" if what == "place" else office.place
        if what == "principal":
            following = replace(following, principal="somebody")

        with pytest.raises(Drifted):
            office.authority.check(place, following)
        with pytest.raises(Drifted):
            office.authority.settle(place, following.principal)

        assert office.asked() == 0

    def test_a_secret_that_it_does_not_take_is_refused_before(self, office: Office) -> None:
        """Once stored, it could never be set."""
        with pytest.raises(Misconfigured):
            office.authority.check(office.place, replace(office.current, secret=office.unusable))

    def test_what_was_asked_for_is_in_force_on_return(self, office: Office) -> None:
        """And nothing else is accepted any more. Twice is once."""
        following = self._following(office, "made")

        for _ in range(2):
            office.authority.set_password(following.principal, following.secret)

            assert office.accepts(following)
            assert not office.accepts(office.current)

    def test_when_the_time_is_up_the_next_call_waits_and_does_not_ask(self, office: Office) -> None:
        """It was asked for: to ask again would be to wait twice."""
        following = self._following(office, "made")
        with pytest.raises(NotYetAccepted):
            office.hurried.set_password(following.principal, following.secret)
        assert office.accepts(office.current)

        office.authority.settle(office.place, following.principal)

        assert office.accepts(following)
        assert office.asked() == 1

    def test_a_change_under_way_does_not_stop_a_check(self, office: Office) -> None:
        """Create has nothing to wait for."""
        following = self._following(office, "made")
        with suppress(NotYetAccepted):
            office.hurried.set_password(following.principal, following.secret)

        office.hurried.check(office.place, following)

    def test_no_answer_is_unreachable(self, office: Office) -> None:
        """Nothing is known then, of a change either."""
        following = self._following(office, "made")

        with office.outage():
            with pytest.raises(Unreachable):
                office.authority.check(office.place, following)
            with pytest.raises(Unreachable):
                office.authority.settle(office.place, following.principal)
            with pytest.raises(Unreachable):
                office.authority.set_password(following.principal, following.secret)

        assert office.accepts(office.current)

    def test_no_authority_leaks(self, office: Office, caplog: pytest.LogCaptureFixture) -> None:
        """The SDK logs requests at DEBUG, secrets included, unless it is held back."""
        quiet_sdk_loggers()
        caplog.set_level(logging.DEBUG)
        following = self._following(office, "made")
        unusable = replace(following, secret=office.unusable)
        stranger = replace(following, principal="somebody")

        said = [
            text
            for act in (
                lambda: office.authority.check(office.place, unusable),
                lambda: office.authority.check("elsewhere.example:1", stranger),
                lambda: office.authority.set_password(unusable.principal, unusable.secret),
                lambda: office.hurried.set_password(following.principal, following.secret),
                lambda: office.hurried.set_password(following.principal, following.secret),
            )
            for text in _said_by(act)
        ]
        with office.outage():
            said += _said_by(
                lambda: office.authority.set_password(following.principal, following.secret)
            )

        assert CANARY not in caplog.text
        assert not [text for text in said if CANARY in text]

    def _following(self, office: Office, secret: str) -> Credential:
        return replace(office.current, secret=Sensitive(CANARY + secret))


def _said_by(act: Callable[[], object]) -> list[str]:
    try:
        act()
    except KeyturnError as error:
        return _everything_said(error)
    return []


# ---------------------------------------------------------------------------- stores


@dataclass(frozen=True, slots=True)
class Shelf:
    """A store under contract, with one secret in it.

    Attributes:
        store: The store itself.
        ref: The secret. Its first value is `FIRST`.
        begin: Does what the platform does before it calls anybody with a rotation id.
        abandon: Does what an operator does who cancels a rotation.
        readers_get: What readers get now, as the store's own API serves it: the raw text.
        labels: Which version each label names, as the store's own API tells it.
        outage: While it is entered, the store gives no answer.
        lose_reply: While it is entered, the next call takes effect, and its reply is lost.
    """

    store: SecretStore
    ref: SecretRef
    begin: Callable[[RotationId], None]
    abandon: Callable[[], None]
    readers_get: Callable[[], str]
    labels: Callable[[], Mapping[str, str]]
    outage: Callable[[], AbstractContextManager[None]]
    lose_reply: Callable[[], AbstractContextManager[None]]


FIRST = (
    '{ "engine":"postgres",\t"username" : "app", "big": 12345678901234567890123, "n": 1.10,\n'
    ' "password":"Canary7-first", "x": {"b": [1, 2], "a": "\\u00e9\\ud83d\\ude00"}, "é": "ü" }\n'
)
"""A value as people write them: nothing in it may change but the two members that are rotated."""


def rotation_id(name: str) -> RotationId:
    """Return an id that every platform's rules for them allow."""
    return RotationId(f"{name:-<32}")


class StoreContract:
    """A subclass provides the fixture *shelf*. Laws look at raw labels, not at our view of them."""

    def test_a_begun_rotation_is_seen(self, shelf: Shelf) -> None:
        """Snapshot names current and pending; there is no value yet."""
        shelf.begin(rotation_id("a"))

        snapshot = shelf.store.snapshot(shelf.ref, rotation_id("a"))

        assert snapshot.current == shelf.store.current(shelf.ref).rotation_id
        assert snapshot.pending in {None, rotation_id("a")}
        assert shelf.store.staged(shelf.ref, rotation_id("a")) is None

    def test_current_is_what_readers_get(self, shelf: Shelf) -> None:
        """Ours and theirs are one value."""
        assert shelf.store.current(shelf.ref).credential.document == Sensitive(FIRST)
        assert shelf.readers_get() == FIRST

    def test_a_staged_value_is_kept_and_readers_do_not_see_it(self, shelf: Shelf) -> None:
        """The write-ahead log is not served."""
        self._stage(shelf, "a", "made")

        staged = shelf.store.staged(shelf.ref, rotation_id("a"))

        assert staged is not None
        assert staged.rotation_id == rotation_id("a")
        assert staged.credential.secret == Sensitive(f"{CANARY}made")
        assert shelf.readers_get() == FIRST

    def test_what_was_staged_first_stays(self, shelf: Shelf) -> None:
        """A target may know the first value: a second try must not replace it."""
        self._stage(shelf, "a", "made")
        self._stage(shelf, "a", "other")

        staged = shelf.store.staged(shelf.ref, rotation_id("a"))

        assert staged is not None
        assert staged.credential.secret == Sensitive(f"{CANARY}made")

    def test_a_lost_reply_to_stage_loses_nothing(self, shelf: Shelf) -> None:
        """The next try finds what the first one stored."""
        shelf.begin(rotation_id("a"))
        following = self._following(shelf, "made")
        seen = shelf.store.snapshot(shelf.ref, rotation_id("a"))
        with shelf.lose_reply(), suppress(Unreachable):
            shelf.store.stage(shelf.ref, rotation_id("a"), following, seen)

        seen = shelf.store.snapshot(shelf.ref, rotation_id("a"))
        shelf.store.stage(shelf.ref, rotation_id("a"), self._following(shelf, "other"), seen)

        staged = shelf.store.staged(shelf.ref, rotation_id("a"))
        assert staged is not None
        assert staged.credential.secret == following.secret

    def test_promotion_moves_every_slot_and_nothing_else_in_the_value(self, shelf: Shelf) -> None:
        """Current, previous, and not a byte beside the two members."""
        first = shelf.store.current(shelf.ref).rotation_id
        self._stage(shelf, "a", "made")

        self._promote(shelf, "a")

        assert shelf.readers_get() == FIRST.replace(f"{CANARY}first", f"{CANARY}made")
        labels = shelf.labels()
        assert labels["current"] == rotation_id("a")
        assert labels["previous"] == first
        assert labels.get("pending") in {None, rotation_id("a")}
        after = shelf.store.snapshot(shelf.ref, rotation_id("a"))
        assert (after.current, after.pending) == (rotation_id("a"), None)

    def test_promotion_may_be_repeated(self, shelf: Shelf) -> None:
        """With the old snapshot and with a new one."""
        self._stage(shelf, "a", "made")
        seen = shelf.store.snapshot(shelf.ref, rotation_id("a"))
        self._promote(shelf, "a")
        before = shelf.labels()

        shelf.store.promote(shelf.ref, rotation_id("a"), seen)
        self._promote(shelf, "a")

        assert shelf.labels() == before

    def test_a_lost_reply_to_promote_is_no_failure(self, shelf: Shelf) -> None:
        """An SDK repeats the call, the service refuses that; it was done all the same."""
        self._stage(shelf, "a", "made")
        seen = shelf.store.snapshot(shelf.ref, rotation_id("a"))
        with shelf.lose_reply(), suppress(Unreachable):
            shelf.store.promote(shelf.ref, rotation_id("a"), seen)

        self._promote(shelf, "a")

        assert shelf.labels()["current"] == rotation_id("a")

    def test_promotion_is_a_compare_and_set(self, shelf: Shelf) -> None:
        """Whoever decided from an old snapshot changes nothing."""
        self._stage(shelf, "a", "made")
        seen = shelf.store.snapshot(shelf.ref, rotation_id("a"))
        self._promote(shelf, "a")
        self._stage(shelf, "b", "newer")
        before = shelf.labels()

        with pytest.raises(Busy):
            shelf.store.promote(shelf.ref, rotation_id("b"), seen)

        assert shelf.labels() == before

    def test_a_withdrawn_value_pends_no_more(self, shelf: Shelf) -> None:
        """A rotation that turns out to be over gives the slot back, and only its own."""
        self._stage(shelf, "a", "made")
        self._promote(shelf, "a")
        self._stage(shelf, "b", "newer")

        shelf.store.withdraw(shelf.ref, rotation_id("a"))
        assert shelf.labels()["pending"] == rotation_id("b")
        for _ in range(2):
            shelf.store.withdraw(shelf.ref, rotation_id("b"))

        assert "pending" not in shelf.labels()
        assert shelf.labels()["current"] == rotation_id("a")

    def test_a_rotation_that_is_over_is_refused(self, shelf: Shelf) -> None:
        """Late events of an old rotation see that they are late."""
        for name in ("a", "b", "c"):
            self._stage(shelf, name, name)
            self._promote(shelf, name)
        before = shelf.labels()

        for ask in (shelf.store.snapshot, shelf.store.staged):
            with pytest.raises(Busy):
                ask(shelf.ref, rotation_id("a"))

        assert shelf.labels() == before

    def test_every_version_is_kept_newest_first(self, shelf: Shelf) -> None:
        """Among them one that a cancelled rotation left in no slot."""
        self._stage(shelf, "a", "abandoned")
        shelf.abandon()
        self._stage(shelf, "b", "made")

        kept = [version.credential.secret for version in shelf.store.kept(shelf.ref)]

        wanted = [f"{CANARY}made", f"{CANARY}abandoned", f"{CANARY}first"]
        assert kept == [Sensitive(text) for text in wanted]

    def test_no_answer_is_unreachable(self, shelf: Shelf) -> None:
        """Reads and writes alike."""
        self._stage(shelf, "a", "made")
        seen = shelf.store.snapshot(shelf.ref, rotation_id("a"))
        following = self._following(shelf, "other")

        with shelf.outage():
            for call in (
                lambda: shelf.store.snapshot(shelf.ref, rotation_id("a")),
                lambda: shelf.store.current(shelf.ref),
                lambda: shelf.store.staged(shelf.ref, rotation_id("a")),
                lambda: list(shelf.store.kept(shelf.ref)),
                lambda: shelf.store.stage(shelf.ref, rotation_id("a"), following, seen),
                lambda: shelf.store.promote(shelf.ref, rotation_id("a"), seen),
            ):
                with pytest.raises(Unreachable):
                    call()

    def test_a_value_that_is_too_large_is_refused_before_it_is_written(self, shelf: Shelf) -> None:
        """The message names the limit."""
        shelf.begin(rotation_id("a"))
        seen = shelf.store.snapshot(shelf.ref, rotation_id("a"))
        before = shelf.labels()
        huge = replace(self._following(shelf, "x"), secret=Sensitive(CANARY + "x" * 70_000))

        with pytest.raises(Misconfigured, match=r"[0-9] bytes"):
            shelf.store.stage(shelf.ref, rotation_id("a"), huge, seen)

        assert shelf.labels() == before
        assert shelf.store.staged(shelf.ref, rotation_id("a")) is None

    def test_the_store_leaks_nothing(self, shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
        """With every logger at DEBUG but the SDK's, which the entry points hold at WARNING."""
        quiet_sdk_loggers()
        caplog.set_level(logging.DEBUG)
        self._stage(shelf, "a", "made")
        self._promote(shelf, "a")
        shown = [repr(found) for found in shelf.store.kept(shelf.ref)]
        seen = shelf.store.snapshot(shelf.ref, rotation_id("a"))
        with shelf.outage():
            try:
                shelf.store.stage(shelf.ref, rotation_id("a"), self._offline("other"), seen)
            except KeyturnError as error:
                shown += _everything_said(error)

        assert CANARY not in caplog.text
        assert not [text for text in shown if CANARY in text]

    def _stage(self, shelf: Shelf, name: str, secret: str) -> None:
        shelf.begin(rotation_id(name))
        seen = shelf.store.snapshot(shelf.ref, rotation_id(name))
        shelf.store.stage(shelf.ref, rotation_id(name), self._following(shelf, secret), seen)

    def _following(self, shelf: Shelf, secret: str) -> Credential:
        current = shelf.store.current(shelf.ref).credential
        return replace(current, secret=Sensitive(CANARY + secret))

    def _offline(self, secret: str) -> Credential:
        return Credential("app", Sensitive(CANARY + secret), {}, Sensitive(FIRST))

    def _promote(self, shelf: Shelf, name: str) -> None:
        seen = shelf.store.snapshot(shelf.ref, rotation_id(name))
        shelf.store.promote(shelf.ref, rotation_id(name), seen)


class KeyStoreContract(StoreContract):
    """What holds besides where keys are minted. A subclass provides the fixture *shelf*."""

    def test_intents_are_kept_until_they_are_settled(self, shelf: Shelf) -> None:
        """Each apart from the others, as it was written, and any number of times."""
        store = self._store(shelf)
        one = Intent("one", MADE_AT, MADE_AT + timedelta(hours=1), frozenset({"AKIA1", "AKIA2"}))
        other = Intent("other", MADE_AT + timedelta(seconds=1.5), MADE_AT)
        assert list(store.intents(shelf.ref)) == []

        for intent in (one, other, one):
            store.declare(shelf.ref, intent)
        assert sorted(store.intents(shelf.ref), key=lambda each: each.name) == [one, other]
        for _ in range(2):
            store.settle(shelf.ref, ["one"])

        assert list(store.intents(shelf.ref)) == [other]

    def test_an_intent_disturbs_no_rotation(self, shelf: Shelf) -> None:
        """It makes no version and moves no label."""
        shelf.begin(rotation_id("a"))
        before = shelf.labels()

        self._store(shelf).declare(shelf.ref, Intent("one", MADE_AT, MADE_AT))

        assert shelf.labels() == before
        assert shelf.readers_get() == FIRST
        assert shelf.store.staged(shelf.ref, rotation_id("a")) is None

    def _store(self, shelf: Shelf) -> KeyStore:
        assert isinstance(shelf.store, KeyStore)
        return shelf.store


# ---------------------------------------------------------------------------- destinations


@dataclass(frozen=True, slots=True)
class Depot:
    """A destination under contract, which holds nothing yet.

    Attributes:
        destination: The destination itself.
        reads: What somebody gets who may read there; None if there is nothing.
        write_by_hand: Somebody else writes there, and says nothing of a version.
        misfit: A value that it cannot hold.
        limit: What the refusal of that names.
        values_read: How often a value has been read there, by anybody.
        outage: While it is entered, the destination gives no answer.
        lose_reply: While it is entered, the next write has its effect, and nobody is told.
    """

    destination: Destination
    reads: Callable[[], Sensitive | None]
    write_by_hand: Callable[[], None]
    misfit: Sensitive
    limit: str
    values_read: Callable[[], int]
    outage: Callable[[], AbstractContextManager[None]]
    lose_reply: Callable[[], AbstractContextManager[None]]


class FollowedStoreContract(KeyStoreContract):
    """What holds besides of a store that is followed. A subclass provides the fixture *shelf*."""

    def test_all_slots_are_seen(self, shelf: Shelf) -> None:
        """Whoever asks: a follow-up has no rotation of its own."""
        store, first = self._followed(shelf), shelf.store.current(shelf.ref).rotation_id
        self._stage(shelf, "a", "made")
        self._promote(shelf, "a")
        self._stage(shelf, "b", "newer")

        standing = store.standing(shelf.ref)

        assert (standing.current, standing.previous) == (rotation_id("a"), first)
        assert standing.pending == rotation_id("b")

    def test_what_was_promoted_pends_no_more(self, shelf: Shelf) -> None:
        """Whether the store leaves its mark there or not."""
        self._stage(shelf, "a", "made")
        self._promote(shelf, "a")

        assert self._followed(shelf).standing(shelf.ref).pending is None

    def test_a_promotion_is_no_younger_than_it_says(self, shelf: Shelf) -> None:
        """A grace that is counted from it has passed when it seems to."""
        self._stage(shelf, "a", "made")
        before = self._followed(shelf).standing(shelf.ref).since
        self._promote(shelf, "a")

        since = self._followed(shelf).standing(shelf.ref).since

        assert since >= before
        assert since.utcoffset() is not None

    def test_previous_is_emptied_once_and_alone(self, shelf: Shelf) -> None:
        """Repeatable; and another version in that slot stays."""
        store, first = self._followed(shelf), shelf.store.current(shelf.ref).rotation_id
        self._stage(shelf, "a", "made")
        self._promote(shelf, "a")
        before = dict(shelf.labels())
        store.clear_previous(shelf.ref, rotation_id("b"))
        assert dict(shelf.labels()) == before

        for _ in range(2):
            store.clear_previous(shelf.ref, first)

        assert store.standing(shelf.ref).previous is None
        del before["previous"]
        assert dict(shelf.labels()) == before
        kept = [version.rotation_id for version in shelf.store.kept(shelf.ref)]
        assert set(kept) == {first, rotation_id("a")}

    def test_a_lost_reply_to_it_is_no_failure(self, shelf: Shelf) -> None:
        """An SDK repeats the call, the service refuses that; it was done all the same."""
        store, first = self._followed(shelf), shelf.store.current(shelf.ref).rotation_id
        self._stage(shelf, "a", "made")
        self._promote(shelf, "a")

        with shelf.lose_reply(), suppress(Unreachable):
            store.clear_previous(shelf.ref, first)

        assert store.standing(shelf.ref).previous is None

    def _followed(self, shelf: Shelf) -> FollowedStore:
        store: object = shelf.store
        assert isinstance(store, FollowedStore)
        return store


@dataclass(frozen=True, slots=True)
class Workload:
    """A consumer under contract, and what it reads.

    Attributes:
        consumer: The consumer itself. It runs with version `v0`.
        serve: Lets a version be what it reads from now on.
        wait: Returns when it has done what it was told.
        put_back: Puts what it runs with back to `v0`, as a deployment from Git does.
        claim: Lets its status say that it is up to date, whatever it runs with.
        restarts: How often it was made to read anew.
        outage: While it is entered, there is no answer.
    """

    consumer: Consumer
    serve: Callable[[Version], None]
    wait: Callable[[], None]
    put_back: Callable[[], None]
    claim: Callable[[], None]
    restarts: Callable[[], int]
    outage: Callable[[], AbstractContextManager[None]]


class ConsumerContract:
    """A subclass provides the fixture *workload*.

    Attributes:
        CAN_BE_TOLD: Whether anything makes it read anew. One that looks by itself is waited for
            from the start, and to tell it changes nothing.
    """

    CAN_BE_TOLD: ClassVar[bool] = True

    FIRST = version(Credential("app", Sensitive(f"{CANARY}first")), "v0")
    NEXT = version(Credential("app", Sensitive(f"{CANARY}next")), "v1")
    LAST = version(Credential("app", Sensitive(f"{CANARY}last")), "v2")

    def test_it_has_a_name_of_one_line(self, workload: Workload) -> None:
        """It stands in alerts and in `keyturn status`."""
        assert workload.consumer.name().isprintable()
        assert workload.consumer.name()

    def test_a_look_changes_nothing(self, workload: Workload) -> None:
        """However often; nor does a preflight."""
        workload.serve(self.NEXT)
        workload.consumer.preflight()

        sights = [workload.consumer.verify(self.NEXT) for _ in range(3)]

        at_first = Pickup.UNTOLD if self.CAN_BE_TOLD else Pickup.WAITING
        assert {sight.pickup for sight in sights} == {at_first}
        assert workload.restarts() == 0
        assert workload.consumer.verify(self.FIRST).pickup is Pickup.FOLLOWED

    def test_who_is_told_is_waited_for_and_follows(self, workload: Workload) -> None:
        """Told is not followed, and followed is what it runs with."""
        self._tell(workload, self.NEXT)

        at_first = workload.consumer.verify(self.NEXT)
        workload.wait()

        assert at_first.pickup is Pickup.WAITING
        assert at_first.waits_for
        assert workload.consumer.verify(self.NEXT).pickup is Pickup.FOLLOWED
        assert workload.consumer.verify(self.FIRST).pickup is not Pickup.FOLLOWED

    def test_to_be_told_twice_is_to_be_told_once(self, workload: Workload) -> None:
        """After a lost reply, or by another worker."""
        seen = self._tell(workload, self.NEXT)
        with suppress(Busy):
            workload.consumer.trigger(self.NEXT.rotation_id, seen)
        again = workload.consumer.verify(self.NEXT)

        workload.consumer.trigger(self.NEXT.rotation_id, again)

        assert workload.restarts() == int(self.CAN_BE_TOLD)

    def test_who_comes_late_tells_nobody(self, workload: Workload) -> None:
        """A worker that stalled would restart it for an older version."""
        workload.serve(self.NEXT)
        seen = workload.consumer.verify(self.NEXT)
        self._tell(workload, self.LAST)

        with pytest.raises(Busy) if self.CAN_BE_TOLD else nullcontext():
            workload.consumer.trigger(self.NEXT.rotation_id, seen)

        workload.wait()
        assert workload.restarts() == int(self.CAN_BE_TOLD)
        assert workload.consumer.verify(self.LAST).pickup is Pickup.FOLLOWED

    def test_what_is_put_back_shows_and_was_told(self, workload: Workload) -> None:
        """It is not told again: whoever put it back would do so again."""
        self._tell(workload, self.NEXT)
        workload.wait()

        workload.put_back()

        pickup = workload.consumer.verify(self.NEXT).pickup
        assert pickup in {Pickup.WAITING, Pickup.FAILED}

    def test_a_status_alone_proves_nothing(self, workload: Workload) -> None:
        """What it runs with is looked at."""
        workload.serve(self.NEXT)

        workload.claim()

        assert workload.consumer.verify(self.NEXT).pickup is not Pickup.FOLLOWED

    def test_an_unanswered_look_is_unreachable(self, workload: Workload) -> None:
        """No answer is never *it follows*, nor *it does not*."""
        with workload.outage():
            for ask in (
                workload.consumer.preflight,
                lambda: workload.consumer.verify(self.NEXT),
            ):
                with pytest.raises(Unreachable):
                    ask()

    def _tell(self, workload: Workload, current: Version) -> Sight:
        workload.serve(current)
        seen = workload.consumer.verify(current)
        workload.consumer.trigger(current.rotation_id, seen)
        return seen


@dataclass(frozen=True, slots=True)
class Listener:
    """A notifier under contract, and who listens to it.

    Attributes:
        heard: Returns what was heard since it was last asked: the named texts of each alert.
        nobody: A notifier whose address nobody has; None if there can be no such address.
        outage: While it is entered, there is no answer; None if there always is.
    """

    notifier: Notifier
    heard: Callable[[], list[dict[str, str]]]
    nobody: Notifier | None = None
    outage: Callable[[], AbstractContextManager[None]] | None = None


class ValueStoreContract:
    """A subclass provides the fixtures *values*, and *unused*: the ref of a secret not yet made."""

    def test_what_is_not_there_is_not_found(self, values: ValueStore, unused: SecretRef) -> None:
        """Then it may be made."""
        assert values.find(unused) is None

    def test_what_is_made_is_current(self, values: ValueStore, unused: SecretRef) -> None:
        """And is read by the id under which it was made."""
        assert values.create(unused, rotation_id("a"), Sensitive(f"{CANARY}first"))

        found = values.find(unused)
        assert found is not None
        assert (found.current, found.is_rotated) == (rotation_id("a"), False)
        assert rotation_id("a") in found.kept
        assert values.read(unused, rotation_id("a")) == Sensitive(f"{CANARY}first")

    def test_nothing_is_made_twice(self, values: ValueStore, unused: SecretRef) -> None:
        """Whoever comes second is told so, and nothing changes."""
        values.create(unused, rotation_id("a"), Sensitive(f"{CANARY}first"))

        assert not values.create(unused, rotation_id("b"), Sensitive(f"{CANARY}second"))

        found = values.find(unused)
        assert found is not None
        assert found.current == rotation_id("a")

    def test_what_is_put_is_current(self, values: ValueStore, unused: SecretRef) -> None:
        """What was before is still read by its id."""
        values.create(unused, rotation_id("a"), Sensitive(f"{CANARY}first"))

        assert values.put(unused, rotation_id("b"), Sensitive(f"{CANARY}second"))

        found = values.find(unused)
        assert found is not None
        assert found.current == rotation_id("b")
        assert values.read(unused, rotation_id("a")) == Sensitive(f"{CANARY}first")
        assert values.read(unused, rotation_id("b")) == Sensitive(f"{CANARY}second")

    def test_a_version_is_put_once(self, values: ValueStore, unused: SecretRef) -> None:
        """The same request again changes nothing, whatever it would have stored."""
        values.create(unused, rotation_id("a"), Sensitive(f"{CANARY}first"))
        values.put(unused, rotation_id("b"), Sensitive(f"{CANARY}second"))

        assert not values.put(unused, rotation_id("b"), Sensitive(f"{CANARY}third"))

        assert values.read(unused, rotation_id("b")) == Sensitive(f"{CANARY}second")

    def test_an_id_that_made_nothing_has_no_value(
        self, values: ValueStore, unused: SecretRef
    ) -> None:
        """It is not another's."""
        values.create(unused, rotation_id("a"), Sensitive(f"{CANARY}first"))

        assert values.read(unused, rotation_id("b")) is None

    def test_what_does_not_fit_is_not_made(self, values: ValueStore, unused: SecretRef) -> None:
        """Nothing was written."""
        with pytest.raises(Misconfigured):
            values.create(unused, rotation_id("a"), Sensitive("x" * 65_537))

        assert values.find(unused) is None


class NotifierContract:
    """A subclass provides the fixture *listener*."""

    def test_all_of_an_alert_is_heard(self, listener: Listener) -> None:
        """What it is about, how bad it is, and what to do."""
        listener.notifier.send(alert())

        assert listener.heard() == [
            {
                "id": alert().id,
                "happening": "stuck",
                "severity": "warning",
                "secret": alert().ref,
                "version": rotation_id("a"),
                "subject": "deployment orders/api",
                "fact": "has not followed: 2 of 3 pods are old",
                "remedy": "See what keeps it.",
                "at": "2030-01-01T00:00:00+00:00",
            }
        ]

    def test_the_same_alert_has_the_same_id(self, listener: Listener) -> None:
        """Whoever listens may drop it."""
        listener.notifier.send(alert())
        listener.notifier.send(replace(alert(), at=MADE_AT + timedelta(minutes=5)))

        assert {heard["id"] for heard in listener.heard()} == {alert().id}

    def test_every_happening_is_heard(self, listener: Listener) -> None:
        """Each with its own id and severity."""
        for happening in Happening:
            listener.notifier.send(replace(alert(), happening=happening))

        heard = listener.heard()
        assert {each["happening"] for each in heard} == set(Happening)
        assert len({each["id"] for each in heard}) == len(Happening)

    def test_words_may_be_of_any_script(self, listener: Listener) -> None:
        """A person has named the consumer, and another has written what it says."""
        listener.notifier.send(replace(alert(), subject="b\u00fcro", fact="\u201cno\u201d\nwhy"))

        [heard] = listener.heard()
        assert (heard["subject"], heard["fact"]) == ("b\u00fcro", "\u201cno\u201d\nwhy")

    def test_no_listener_is_misconfigured(self, listener: Listener) -> None:
        """It stays so until the plan is mended."""
        if listener.nobody is None:
            return
        with pytest.raises((Misconfigured, Unreachable)):
            listener.nobody.send(alert())

    def test_an_unanswered_alert_is_unreachable(self, listener: Listener) -> None:
        """It may be sent again."""
        if listener.outage is None:
            return
        with listener.outage(), pytest.raises(Unreachable):
            listener.notifier.send(alert())


def alert() -> Alert:
    """Return one."""
    return Alert(
        Happening.STUCK,
        SecretRef("arn:aws:secretsmanager:eu-west-1:111122223333:secret:prod/orders/db-Ab12Cd"),
        rotation_id("a"),
        "deployment orders/api",
        "has not followed: 2 of 3 pods are old",
        "See what keeps it.",
        MADE_AT,
    )


class DestinationContract:
    """A subclass provides the fixture *depot*.

    Attributes:
        UNUSABLE: What no value can have in it. Whoever lists any proves by another test that it is
            refused before anything is written.
    """

    UNUSABLE: ClassVar[tuple[str, ...]] = ()

    def test_it_has_a_name_of_one_line(self, depot: Depot) -> None:
        """It stands in logs and in `keyturn status`."""
        assert depot.destination.name().isprintable()
        assert depot.destination.name()

    def test_at_first_it_holds_nothing(self, depot: Depot) -> None:
        """And says so, however often it is asked."""
        seen = depot.destination.holds()

        assert seen.version_id is None
        assert depot.destination.holds() == seen
        assert depot.reads() is None

    def test_what_was_delivered_is_there_and_says_which_version_it_is(self, depot: Depot) -> None:
        """The one with the other: who sees the version finds its value."""
        self._deliver(depot, "a", "one")

        assert depot.destination.holds().version_id == RotationId("a")
        assert depot.reads() == Sensitive(f"{CANARY}one")

    def test_the_next_version_takes_its_place(self, depot: Depot) -> None:
        """And the mark shows that something was written."""
        self._deliver(depot, "a", "one")
        before = depot.destination.holds()

        self._deliver(depot, "b", "two")

        assert depot.destination.holds().version_id == RotationId("b")
        assert depot.destination.holds().mark != before.mark
        assert depot.reads() == Sensitive(f"{CANARY}two")

    def test_a_look_reads_no_value(self, depot: Depot) -> None:
        """Whoever only looks needs no right to decrypt."""
        self._deliver(depot, "a", "one")
        before = depot.values_read()

        depot.destination.holds()

        assert depot.values_read() == before

    def test_delivered_twice_is_delivered_once(self, depot: Depot) -> None:
        """With the same look, as after a lost reply; and with a fresh one."""
        seen = depot.destination.holds()
        for _ in range(2):
            self._deliver(depot, "a", "one", seen)
        self._deliver(depot, "a", "one")

        assert depot.destination.holds().version_id == RotationId("a")
        assert depot.reads() == Sensitive(f"{CANARY}one")

    def test_a_lost_reply_is_found_to_be_our_own(self, depot: Depot) -> None:
        """No answer is not a failure, and the write is not somebody else's."""
        seen = depot.destination.holds()
        with depot.lose_reply(), suppress(Unreachable):
            self._deliver(depot, "a", "one", seen)

        self._deliver(depot, "a", "one", seen)

        assert depot.destination.holds().version_id == RotationId("a")
        assert depot.reads() == Sensitive(f"{CANARY}one")

    def test_who_comes_late_writes_nothing(self, depot: Depot) -> None:
        """A stalled worker with an old version does not undo a newer one."""
        self._deliver(depot, "a", "one")
        seen = depot.destination.holds()
        self._deliver(depot, "c", "three")

        with pytest.raises(Busy):
            self._deliver(depot, "b", "two", seen)

        assert depot.destination.holds().version_id == RotationId("c")
        assert depot.reads() == Sensitive(f"{CANARY}three")

    def test_two_at_first_are_one(self, depot: Depot) -> None:
        """Both saw nothing there."""
        seen = depot.destination.holds()
        self._deliver(depot, "a", "one", seen)

        with pytest.raises(Busy):
            self._deliver(depot, "b", "two", seen)

        assert depot.reads() == Sensitive(f"{CANARY}one")

    def test_what_somebody_wrote_meanwhile_stays(self, depot: Depot) -> None:
        """Until it was looked at: then the plan's word counts, and it is replaced."""
        self._deliver(depot, "a", "one")
        seen = depot.destination.holds()
        depot.write_by_hand()

        with pytest.raises(Busy):
            self._deliver(depot, "b", "two", seen)
        assert depot.destination.holds().version_id is None
        self._deliver(depot, "b", "two")

        assert depot.reads() == Sensitive(f"{CANARY}two")

    def test_every_character_survives(self, depot: Depot) -> None:
        """Printable ASCII, lines, and letters of other alphabets."""
        text = f"{CANARY}{string.printable}\u00e9\u4e16\U0001f511\n"
        for part in self.UNUSABLE:
            text = text.replace(part, "")
        seen = depot.destination.holds()

        depot.destination.deliver(self._version("a"), Sensitive(text), seen)

        assert depot.reads() == Sensitive(text)

    def test_a_value_that_does_not_fit_is_refused_before(self, depot: Depot) -> None:
        """The message names the limit."""
        self._deliver(depot, "a", "one")
        seen = depot.destination.holds()

        with pytest.raises(Misconfigured, match=depot.limit):
            depot.destination.deliver(self._version("b"), depot.misfit, seen)

        assert depot.destination.holds() == seen

    def test_no_answer_is_unreachable(self, depot: Depot) -> None:
        """Nothing is known then."""
        seen = depot.destination.holds()

        with depot.outage():
            with pytest.raises(Unreachable):
                depot.destination.holds()
            with pytest.raises(Unreachable):
                self._deliver(depot, "a", "one", seen)

        assert depot.reads() is None

    def test_no_destination_leaks(self, depot: Depot, caplog: pytest.LogCaptureFixture) -> None:
        """The SDK logs requests at DEBUG, values included, unless it is held back."""
        quiet_sdk_loggers()
        caplog.set_level(logging.DEBUG)
        seen = depot.destination.holds()
        self._deliver(depot, "a", "one", seen)
        said = [repr(depot.destination), repr(depot.destination.holds())]

        said += _said_by(lambda: self._deliver(depot, "b", "two", seen))
        said += _said_by(lambda: depot.destination.deliver(self._version("b"), depot.misfit, seen))
        with depot.outage():
            said += _said_by(lambda: self._deliver(depot, "b", "two", seen))

        assert CANARY not in caplog.text
        assert not [text for text in said if CANARY in text]

    def _deliver(self, depot: Depot, name: str, text: str, seen: Held | None = None) -> None:
        seen = seen or depot.destination.holds()
        depot.destination.deliver(self._version(name), Sensitive(CANARY + text), seen)

    def _version(self, name: str) -> Version:
        return version(Credential("app", Sensitive(f"{CANARY}unused")), name)


# ---------------------------------------------------------------------------- issuers


@dataclass(frozen=True, slots=True)
class Mint:
    """An issuer under contract.

    Attributes:
        issuer: The issuer itself.
        current: A credential that it accepts now; its holder's only key.
        stranger: The same, for a holder whose keys we may not touch.
        world: Its clock is the issuer's, and `pass_time` may wait by it.
        pass_time: Lets so many seconds pass.
        alive: The ids of the holder's keys, whatever lists say.
        make_by_hand: Makes another key, as a person would, and returns its id.
        outage: While it is entered, the issuer gives no answer.
        lose_mint: While it is entered, the next key is made, and nobody is told.
    """

    issuer: KeyIssuer
    current: Credential
    stranger: Credential
    world: World
    pass_time: Callable[[float], None]
    alive: Callable[[], set[str]]
    make_by_hand: Callable[[], str]
    outage: Callable[[], AbstractContextManager[None]]
    lose_mint: Callable[[], AbstractContextManager[None]]


ATTEMPT = Attempt(
    "keyturn-0000000000000000-20300101T000000Z-0badcafe", "0badcafe", "0" * 32, MADE_AT
)
"""For a key that no rotation asks for."""

LONG_S = 7200.0
"""Longer than any worker lives, than any grace, and than any list is late; in seconds."""


class MintedContract:
    """A subclass provides the fixture *mint*. The issuer's laws, and those of its rotations."""

    def test_current_is_used_and_a_refusal_is_an_answer(self, mint: Mint) -> None:
        """A wrong secret and an unknown key give False; neither raises."""
        assert mint.issuer.verify(mint.current)
        wrong = replace(mint.current, secret=Sensitive(f"{CANARY}wrong"))
        assert mint.issuer.verify(wrong) is False
        unknown = replace(mint.current, principal="X" * 20)
        assert mint.issuer.verify(unknown) is False

    def test_what_is_minted_works_in_time_and_current_goes_on(self, mint: Mint) -> None:
        """It has another id and another secret, and everything else of current."""
        made = mint.issuer.mint(mint.current, ATTEMPT)
        mint.pass_time(LONG_S)

        assert mint.alive() == {made.principal, mint.current.principal}
        assert mint.issuer.verify(made)
        assert mint.issuer.verify(mint.current)
        assert made.fields == mint.current.fields
        listed = {key.id: key for key in mint.issuer.keys(mint.current)}
        assert listed.keys() == mint.alive()
        told = [listed[key.principal].created_at for key in (mint.current, made)]
        assert told == sorted(at for at in told if at is not None)

    def test_a_lost_reply_makes_one_key(self, mint: Mint) -> None:
        """Whoever asks again makes a second one that nobody knows."""
        with mint.lose_mint(), pytest.raises(Unreachable):
            mint.issuer.mint(mint.current, ATTEMPT)

        assert len(mint.alive()) == 2  # noqa: PLR2004  # current's, and one

    def test_a_full_holder_is_busy(self, mint: Mint) -> None:
        """An answer: no key was made."""
        while len(mint.alive()) < mint.issuer.limit:
            mint.make_by_hand()
        before = mint.alive()

        with pytest.raises(Busy):
            mint.issuer.mint(mint.current, ATTEMPT)

        assert mint.alive() == before

    def test_a_key_dies_by_degrees_and_may_be_killed_twice(self, mint: Mint) -> None:
        """Inactive is refused and still there; deleted is gone; a third time is no error."""
        made = mint.issuer.mint(mint.current, ATTEMPT)
        mint.pass_time(LONG_S)

        for _ in range(2):
            mint.issuer.deactivate(mint.current, made.principal)
        mint.pass_time(LONG_S)
        assert mint.issuer.verify(made) is False
        assert [k.is_active for k in mint.issuer.keys(made) if k.id == made.principal] == [False]
        for _ in range(2):
            mint.issuer.delete(mint.current, made.principal)

        assert mint.alive() == {mint.current.principal}
        mint.issuer.deactivate(mint.current, made.principal)

    def test_use_is_seen(self, mint: Mint) -> None:
        """Of a key that was never used, nothing is."""
        made = mint.issuer.mint(mint.current, ATTEMPT)
        mint.pass_time(LONG_S)
        assert mint.issuer.last_used(mint.current, made.principal) is None

        assert mint.issuer.verify(made)

        assert mint.issuer.last_used(mint.current, made.principal) is not None

    def test_a_holder_that_is_not_allowed_is_refused(self, mint: Mint) -> None:
        """Before anything is asked of anybody."""
        for act in (
            mint.issuer.holder,
            mint.issuer.check,
            mint.issuer.keys,
            lambda stranger: mint.issuer.mint(stranger, ATTEMPT),
        ):
            with pytest.raises(Denied):
                act(mint.stranger)

    def test_no_answer_is_no_refusal(self, mint: Mint) -> None:
        """Nothing is known then."""
        key_id = mint.current.principal
        with mint.outage():
            for act in (
                lambda: mint.issuer.check(mint.current),
                lambda: mint.issuer.keys(mint.current),
                lambda: mint.issuer.mint(mint.current, ATTEMPT),
                lambda: mint.issuer.verify(mint.current),
                lambda: mint.issuer.last_used(mint.current, key_id),
                lambda: mint.issuer.deactivate(mint.current, key_id),
                lambda: mint.issuer.delete(mint.current, key_id),
            ):
                with pytest.raises(Unreachable):
                    act()

        assert mint.alive() == {key_id}

    def test_rotations_follow_each_other(self, mint: Mint) -> None:
        """Two keys at any time, at the most: current's and the one before."""
        store = LabelledStore(mint.world, mint.current)

        for name in ("a", "b", "c"):
            before = store.serves().credential
            self._rotation(mint, store, name).run()

            current = store.serves()
            assert current.rotation_id == RotationId(name)
            assert mint.alive() == {before.principal, current.credential.principal}
            mint.pass_time(LONG_S)

    def test_a_lost_reply_leaves_no_orphan(self, mint: Mint) -> None:
        """The next rotation that comes late enough deletes it; one that comes early waits."""
        store = LabelledStore(mint.world, mint.current)
        with mint.lose_mint(), pytest.raises(Unreachable):
            self._rotation(mint, store, "a").run()
        assert len(mint.alive()) == 2  # noqa: PLR2004  # current's, and one
        with pytest.raises(Busy):
            self._rotation(mint, store, "b").run()

        mint.pass_time(LONG_S)
        self._rotation(mint, store, "c").run()

        assert mint.alive() == {mint.current.principal, store.serves().credential.principal}

    def test_a_persons_key_is_named_and_left(self, mint: Mint) -> None:
        """No version has it, and no intent of ours explains it."""
        store = LabelledStore(mint.world, mint.current)
        theirs = [mint.make_by_hand() for _ in range(mint.issuer.limit - 1)]
        before = mint.alive()

        with pytest.raises(Drifted) as caught:
            self._rotation(mint, store, "a").run()

        assert all(key_id in str(caught.value) for key_id in theirs)
        assert mint.alive() == before
        assert mint.issuer.verify(mint.current)

    def test_no_issuer_leaks(self, mint: Mint, caplog: pytest.LogCaptureFixture) -> None:
        """The SDK logs answers at DEBUG, new secrets included, unless it is held back."""
        quiet_sdk_loggers()
        caplog.set_level(logging.DEBUG)
        made = mint.issuer.mint(mint.current, ATTEMPT)
        wrong = replace(made, secret=Sensitive(f"{CANARY}wrong"))
        said = [repr(made), str(made), repr(dict(made.derived))]

        with mint.outage():
            for act in (
                lambda: mint.issuer.verify(wrong),
                lambda: mint.issuer.mint(wrong, ATTEMPT),
                lambda: mint.issuer.keys(wrong),
            ):
                said += _said_by(act)
        said += _said_by(lambda: mint.issuer.verify(mint.stranger))

        assert CANARY.rstrip("-") not in caplog.text
        assert not [text for text in said if CANARY.rstrip("-") in text]

    def _rotation(self, mint: Mint, store: LabelledStore, name: str) -> Rotation:
        """Begin a rotation, whose waits pass the issuer's time."""

        def pause(seconds: float) -> bool:
            mint.pass_time(seconds)
            return True

        store.begin(RotationId(name))
        place = Place(store, REF, RotationId(name))
        target = MintedKeys(mint.issuer, place, mint.world.clock, pause)
        return Rotation(
            REF, RotationId(name), store=store, targets=lambda _: target, clock=mint.world.clock
        )
