"""Values on demand in Google Secret Manager: one request, one version, whatever breaks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from keyturn import on_demand
from keyturn.errors import Busy, KeyturnError, Misconfigured, Unreachable
from keyturn.generators.fingerprint import fingerprint
from keyturn.local.secret_manager import LocalSecretManager, let_pass
from keyturn.model import RotationId, SecretRef, Sensitive
from keyturn.on_demand import Order
from keyturn.stores.secret_manager_values import MADE, MAKING, SecretManagerValues
from keyturn.testing.contracts import ValueStoreContract
from keyturn.testing.fakes import FakeClock
from keyturn.testing.faults import Moment, Verdict

PARENT = "projects/123456789"
_numbers = itertools.count(1)


class Making:
    """A `Kind` whose values are told apart."""

    entropy_bits = 1.0

    def __init__(self) -> None:
        self.made: list[str] = []

    def following(self, before: Sensitive) -> Sensitive:
        del before
        self.made.append(f"Canary7-value-{next(_numbers)}")
        return Sensitive(self.made[-1])

    def is_whole(self, value: Sensitive) -> bool:
        return bool(value.reveal())

    def follows(self, value: Sensitive, before: Sensitive) -> bool:
        return value != before


class Room:
    def __init__(
        self, google: LocalSecretManager, parent: str = PARENT, client: Any = None
    ) -> None:
        self.google, self.client = google, client or google.client()
        self.ref = SecretRef(f"{parent}/secrets/s{next(_numbers)}")
        self.clock = FakeClock()
        self.kind = Making()

    def store(self, **how: Any) -> SecretManagerValues:
        return SecretManagerValues(self.client, clock=self.clock, pause=lambda _: True, **how)

    def ask(self, request: str, *, overwrite: bool = False) -> on_demand.Stored:
        order = Order(self.ref, on_demand.version_id(self.ref, request), overwrite)
        return on_demand.fulfil(order, self.kind, self.store(), fingerprint)

    @property
    def values(self) -> list[str]:
        """Return all versions' values, by their numbers."""
        held = self.google.vault.look(self.ref)
        return [held.payloads[number].decode() for number in sorted(held.payloads)]


@pytest.fixture
def google() -> Iterator[LocalSecretManager]:
    with LocalSecretManager() as running:
        yield running


@pytest.fixture
def room(google: LocalSecretManager) -> Room:
    return Room(google)


class TestSecretManagerValues(ValueStoreContract):
    @pytest.fixture
    def unused(self, room: Room) -> SecretRef:
        return room.ref

    @pytest.fixture
    def values(self, room: Room) -> SecretManagerValues:
        return room.store()


def test_a_request_makes_the_secret_and_its_first_value(room: Room) -> None:
    stored = room.ask("one")

    assert stored.is_new
    assert room.values == room.kind.made
    assert room.store().find(room.ref) is not None


def test_the_same_request_again_makes_nothing_new(room: Room) -> None:
    first = room.ask("one")

    again = room.ask("one")

    assert (again.is_new, again.fingerprint) == (False, first.fingerprint)
    assert len(room.values) == 1


def test_another_request_is_refused_unless_it_may_overwrite(room: Room) -> None:
    room.ask("one")

    with pytest.raises(Misconfigured, match="has a value already"):
        room.ask("two")

    assert room.ask("two", overwrite=True).is_new
    assert len(room.values) == 2


def test_an_older_request_is_known_again_after_a_newer_one(room: Room) -> None:
    first = room.ask("one")
    room.ask("two", overwrite=True)

    assert room.ask("one", overwrite=True).fingerprint == first.fingerprint
    assert len(room.values) == 2


def test_a_regional_secret_is_made_where_it_belongs(google: LocalSecretManager) -> None:
    room = Room(google, f"{PARENT}/locations/europe-west1")

    assert room.ask("one").is_new
    assert len(room.values) == 1


@pytest.mark.parametrize("how", ["scheduled", "companion"])
def test_what_is_rotated_is_refused(room: Room, how: str) -> None:
    secret: dict[str, Any] = {"replication": {"automatic": {}}}
    name = room.ref.rpartition("/")[2]
    if how == "companion":
        beside = f"{name}-pending"
        room.client.create_secret(parent=PARENT, secret_id=beside, secret=dict(secret))
    else:
        due = datetime.now(UTC) + timedelta(days=1)
        secret["topics"] = [{"name": f"{PARENT}/topics/t"}]
        secret["rotation"] = {"next_rotation_time": due}
    room.client.create_secret(parent=PARENT, secret_id=name, secret=secret)

    with pytest.raises(Misconfigured, match="is rotated"):
        room.ask("one", overwrite=True)


def test_what_does_not_fit_is_refused_before_anything_is_written(room: Room) -> None:
    with pytest.raises(Misconfigured, match="bytes"):
        room.store().create(room.ref, RotationId("a"), Sensitive("x" * 65_537))

    assert room.google.calls == []


def test_annotations_of_others_stay(room: Room) -> None:
    room.ask("one")
    secret = room.client.get_secret(name=room.ref)
    secret.annotations["owner"] = "orders"
    room.client.update_secret(secret=secret, update_mask={"paths": ["annotations"]})

    room.ask("two", overwrite=True)

    assert room.client.get_secret(name=room.ref).annotations["owner"] == "orders"


def test_a_record_that_is_not_ours_is_refused(room: Room) -> None:
    room.ask("one")
    secret = room.client.get_secret(name=room.ref)
    secret.annotations[MADE] = "nonsense"
    room.client.update_secret(secret=secret, update_mask={"paths": ["annotations"]})

    with pytest.raises(Misconfigured, match=MADE):
        room.ask("two", overwrite=True)


def test_while_another_request_is_at_work_one_waits(room: Room) -> None:
    """Until the other can no longer be alive."""
    room.ask("one")
    adding = _call_of(room, "AddSecretVersion")
    _break(room, len(room.google.calls) + adding, Moment.BEFORE)
    with suppress(KeyturnError):
        room.ask("two", overwrite=True)
    room.google.interrupt = let_pass
    assert MAKING in room.client.get_secret(name=room.ref).annotations

    with pytest.raises(Busy):
        room.ask("three", overwrite=True)
    room.clock.advance(timedelta(hours=2))

    assert room.ask("three", overwrite=True).is_new


def test_no_answer_is_unreachable(room: Room) -> None:
    with room.google.outage(), pytest.raises(Unreachable):
        room.ask("one")


@pytest.mark.parametrize("moment", list(Moment))
@pytest.mark.parametrize("request_name", ["first", "second"])
def test_whatever_call_breaks_the_same_request_ends_with_one_value(
    google: LocalSecretManager, moment: Moment, request_name: str
) -> None:
    """Broken at each call: before it takes effect, and after, with its answer lost."""
    client = google.client()
    for call in range(1, 60):
        room = Room(google, client=client)
        if request_name == "second":
            room.ask("first")
        before = len(google.calls)
        broken = _break(room, before + call, moment)
        with suppress(KeyturnError):
            room.ask(request_name, overwrite=request_name == "second")
        google.interrupt = let_pass
        if not broken:
            break

        stored = room.ask(request_name, overwrite=request_name == "second")

        wanted = fingerprint(room.ref, Sensitive(room.values[-1]))
        assert stored.fingerprint == wanted, (call, moment)
        assert len(room.values) == (1 if request_name == "first" else 2), (call, moment)
    else:
        pytest.fail("it never ended")
    assert call > 4


def _break(room: Room, number: int, moment: Moment) -> list[int]:
    """Cut the call of that number; the list says that it came to it."""
    broken: list[int] = []

    def interrupt(count: int, method: str, at: Moment) -> Verdict:
        del method
        if count >= number and at is moment and not broken:
            broken.append(count)
        is_dead = bool(broken) and (count > broken[0] or at is moment)
        return Verdict.CUT if is_dead else Verdict.PASS  # The process died: nothing follows.

    room.google.interrupt = interrupt
    return broken


def _call_of(room: Room, method: str) -> int:
    """Return which call of an overwriting request is that one, by one that is not broken."""
    other = Room(room.google)
    other.ask("one")
    before = len(room.google.calls)
    other.ask("two", overwrite=True)
    return room.google.calls[before:].index(method) + 1
