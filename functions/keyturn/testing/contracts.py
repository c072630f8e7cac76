"""What every adapter must do. Subclass, provide the fixtures, inherit the tests.

The laws are those of the docstrings in `keyturn.ports`, as tests. An outside target's test file is
a dozen lines: a subclass of `TargetContract` with its fixtures.
"""

from __future__ import annotations

import logging
import string
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import ClassVar

import pytest

from keyturn.errors import Busy, KeyturnError, LockedOut, NeedsHuman, Unreachable
from keyturn.model import Credential, RotationId, Sensitive, Version
from keyturn.ports import Target

MADE_AT = datetime(2030, 1, 1, tzinfo=UTC)
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


def _clear() -> None:
    """Be a fence that lets everybody through."""


def _superseded() -> None:
    raise Busy("superseded", remedy="")


class TargetContract:
    """A subclass provides the fixture *subject*.

    Attributes:
        SLOTS: How many credentials the target accepts at once: 1, or 2 and more.
    """

    SLOTS: ClassVar[int]

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
        following = subject.target.create(subject.current)

        assert following.secret != subject.current.secret
        assert subject.target.accepts(subject.current)

    def test_set_makes_pending_accepted_and_may_be_repeated(self, subject: Subject) -> None:
        """Set twice is set once."""
        pending = self._pending(subject)

        for _ in range(2):
            subject.target.set(pending, version(subject.current, "v0"), [], _clear)

        assert subject.target.accepts(pending.credential)
        assert subject.target.accepts(subject.current) is (self.SLOTS > 1)

    def test_a_superseded_worker_changes_nothing(self, subject: Subject) -> None:
        """The fence is asked right before the act."""
        pending = self._pending(subject)

        with pytest.raises(Busy):
            subject.target.set(pending, version(subject.current, "v0"), [], _superseded)

        assert subject.target.accepts(subject.current)
        assert not subject.target.accepts(pending.credential)

    def test_pending_for_another_place_is_refused(self, subject: Subject) -> None:
        """Whoever can edit pending must not thereby send us elsewhere."""
        elsewhere = version(subject.unreachable, "v1")

        with pytest.raises(NeedsHuman):
            subject.target.set(elsewhere, version(subject.current, "v0"), [], _clear)

        assert subject.target.accepts(subject.current)

    def test_every_printable_ascii_character_survives(self, subject: Subject) -> None:
        """Quoting is right for every character a policy may draw."""
        printable = string.ascii_letters + string.digits + string.punctuation
        pending = self._pending(subject, Sensitive(CANARY + printable))

        subject.target.set(pending, version(subject.current, "v0"), [], _clear)

        assert subject.target.accepts(pending.credential)

    def test_a_kept_version_authorises_when_no_slot_does(self, subject: Subject) -> None:
        """An abandoned rotation may have left the live credential in no slot at all."""
        lost = replace(subject.current, secret=Sensitive(f"{CANARY}lost"))
        pending = self._pending(subject)

        subject.target.set(pending, version(lost, "v1"), [version(subject.current, "v0")], _clear)

        assert subject.target.accepts(pending.credential)

    def test_nothing_leaks(self, subject: Subject, caplog: pytest.LogCaptureFixture) -> None:
        """No log record at DEBUG, message, remedy, repr or cause holds a secret."""
        caplog.set_level(logging.DEBUG)
        pending = self._pending(subject)
        shown = [repr(pending), str(pending.credential)]
        lost = version(replace(subject.current, secret=Sensitive(f"{CANARY}lost")), "v1")

        for act in (
            lambda: subject.target.set(pending, lost, [], _clear),
            lambda: subject.target.set(pending, lost, [], _superseded),
            lambda: subject.target.accepts(subject.unreachable),
            lambda: subject.target.set(version(subject.unreachable, "v2"), lost, [], _clear),
        ):
            try:
                act()
            except KeyturnError as error:
                shown += _everything_said(error)

        assert CANARY not in caplog.text
        assert not [text for text in shown if CANARY in text]

    def _pending(self, subject: Subject, secret: Sensitive | None = None) -> Version:
        following = subject.target.create(subject.current)
        return version(replace(following, secret=secret or following.secret), "pending")


class OneSlotContract(TargetContract):
    """What holds besides when the target accepts one credential at a time."""

    SLOTS = 1

    def test_a_lock_out_is_named(self, subject: Subject) -> None:
        """When no version known logs in, nothing is touched, and versions are named."""
        lost = replace(subject.current, secret=Sensitive(f"{CANARY}lost"))
        pending = self._pending(subject)

        with pytest.raises(LockedOut, match="v1"):
            subject.target.set(pending, version(lost, "v1"), [], _clear)

        assert subject.target.accepts(subject.current)


class TwoSlotContract(TargetContract):
    """What holds besides when current stays accepted while pending is set."""

    SLOTS = 2


def _everything_said(error: BaseException | None) -> list[str]:
    said = []
    while error is not None:
        said += [str(error), repr(error), repr(vars(error))]
        error = error.__cause__ or error.__context__
    return said
