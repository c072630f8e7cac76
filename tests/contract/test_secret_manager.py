"""Google Secret Manager keeps the promises of every store: the laws of the AWS-shaped one."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from keyturn.errors import Busy, Denied, Misconfigured, Unreachable, Unsupported
from keyturn.local.secret_manager import LocalSecretManager, let_pass
from keyturn.model import Credential, RotationId, SecretRef, Sensitive, Snapshot
from keyturn.ports import Standing
from keyturn.stores.secret_manager import SecretManager, connect, endpoint
from keyturn.stores.secret_manager_wire import location_of
from keyturn.testing.contracts import FIRST, FollowedStoreContract, Shelf, rotation_id
from keyturn.testing.faults import Moment, Verdict

_numbers = itertools.count(1)
PARENT = "projects/123456789"
REPLICATED: dict[str, Any] = {"replication": {"automatic": {}}}


class Utc:
    """The real time."""

    def now(self) -> datetime:
        return datetime.now(UTC)


class Room:
    """One secret in the local Secret Manager, and its companion."""

    def __init__(
        self,
        google: LocalSecretManager,
        value: str | None = FIRST,
        parent: str = PARENT,
        **how: Any,
    ) -> None:
        self.google = google
        self.client = google.client()
        name = f"s{next(_numbers)}"
        self.ref = SecretRef(f"{parent}/secrets/{name}")
        for each in (name, f"{name}-pending"):
            self.client.create_secret(parent=parent, secret_id=each, secret=REPLICATED)
        if value is not None:
            self.put(value.encode())
        self.waits: list[float] = []
        self.store = self.make_store(**how)

    def make_store(self, **how: Any) -> SecretManager:
        """Make another worker's store."""
        return SecretManager(self.client, clock=Utc(), pause=self.pause, **how)

    def pause(self, wait_s: float) -> bool:
        self.waits.append(wait_s)
        return True

    def put(self, data: bytes) -> None:
        self.client.add_secret_version(parent=self.ref, payload={"data": data})

    def begin(self, name: RotationId) -> None:
        """Nothing is to be begun: an event is all there is."""

    @property
    def annotations(self) -> dict[str, str]:
        return dict(self.google.vault.look(f"{self.ref}-pending").secret.annotations)

    def annotate(self, annotations: Mapping[str, str]) -> None:
        self.client.update_secret(
            secret={"name": f"{self.ref}-pending", "annotations": dict(annotations)},
            update_mask={"paths": ["annotations"]},
        )

    def abandon(self) -> None:
        """Do as `gcloud secrets update --remove-annotations=keyturn-pending` does."""
        self.annotate({k: v for k, v in self.annotations.items() if k != "keyturn-pending"})

    def labels(self) -> Mapping[str, str]:
        slots = ("current", "pending", "previous")
        said = {slot: self.annotations.get(f"keyturn-{slot}", "") for slot in slots}
        named = {slot: text.partition(":")[2] for slot, text in said.items() if text}
        return {"current": "1", **named}

    def readers_get(self, which: str = "latest") -> str:
        return self.google.read(f"{self.ref}/versions/{which}")

    @contextmanager
    def lose_reply(self) -> Iterator[None]:
        before = len(self.google.calls)
        self.google.lose_reply()
        yield
        assert len(self.google.calls) > before, "nothing was asked"

    def shelf(self) -> Shelf:
        return Shelf(
            self.store,
            self.ref,
            self.begin,
            self.abandon,
            self.readers_get,
            self.labels,
            self.google.outage,
            self.lose_reply,
        )


@pytest.fixture(scope="module")
def running() -> Iterator[LocalSecretManager]:
    with LocalSecretManager() as google:
        yield google


@pytest.fixture
def google(running: LocalSecretManager) -> Iterator[LocalSecretManager]:
    """One for many tests, each of which has secrets of its own."""
    yield running
    running.interrupt = let_pass
    running.vault.be_late(0)
    running.vault.quota, running.vault.is_damaging = None, False


@pytest.fixture
def room(google: LocalSecretManager) -> Callable[..., Room]:
    def furnish(value: str = FIRST, **how: Any) -> Room:
        return Room(google, value, **how)

    return furnish


class TestSecretManager(FollowedStoreContract):
    """The staged shape."""

    @pytest.fixture
    def shelf(self, room: Callable[..., Room]) -> Shelf:
        return room().shelf()


class TestSecretManagerWithAliases(FollowedStoreContract):
    """With aliases, and old versions destroyed."""

    @pytest.fixture
    def shelf(self, room: Callable[..., Room]) -> Shelf:
        return room(has_aliases=True, keep=5).shelf()


# ---------------------------------------------------------------------------- only here


A, B = rotation_id("a"), rotation_id("b")


def stage(one: Room, name: RotationId, secret: str, store: SecretManager | None = None) -> Snapshot:
    store = store or one.store
    following = replace(store.current(one.ref).credential, secret=Sensitive(f"Canary7-{secret}"))
    store.stage(one.ref, name, following, store.snapshot(one.ref, name))
    return store.snapshot(one.ref, name)


def promote(one: Room, name: RotationId, secret: str) -> None:
    one.store.promote(one.ref, name, stage(one, name, secret))


def value(secret: str) -> str:
    return FIRST.replace("Canary7-first", f"Canary7-{secret}")


def versions_of(one: Room, name: str | None = None) -> int:
    return len(one.google.vault.look(name or one.ref).versions)


def test_the_secret_has_no_version_that_is_not_promoted(room: Callable[..., Room]) -> None:
    """Not even a disabled one: it would be what `latest` names."""
    one = room()

    stage(one, A, "made")

    assert versions_of(one) == 1
    assert one.readers_get() == FIRST
    one.store.promote(one.ref, A, one.store.snapshot(one.ref, A))
    assert (versions_of(one), one.readers_get(), one.readers_get("1")) == (2, value("made"), FIRST)


def test_a_secret_that_google_rotates_is_left_alone(room: Callable[..., Room]) -> None:
    one = room()
    one.google.vault.manage(one.ref, is_active=True)

    with pytest.raises(Unsupported, match="by Google itself"):
        one.store.current(one.ref)

    one.google.vault.manage(one.ref, is_active=False)
    assert one.make_store().current(one.ref).rotation_id == "1"


def test_a_secret_of_googles_own_type_is_left_alone(room: Callable[..., Room]) -> None:
    one = room()
    typed = {**REPLICATED, "secret_type": "CLOUD_SQL_DB_CREDENTIALS"}
    name = one.ref.rpartition("/")[2]
    one.client.delete_secret(name=one.ref)
    one.client.create_secret(parent=PARENT, secret_id=name, secret=typed)
    one.put(FIRST.encode())

    with pytest.raises(Unsupported):
        one.store.current(one.ref)


@pytest.mark.parametrize("gone", ["", "-pending"])
def test_a_missing_secret_or_companion_is_named(room: Callable[..., Room], gone: str) -> None:
    one = room()
    one.client.delete_secret(name=one.ref + gone)

    with pytest.raises(Misconfigured, match=f"{one.ref}{gone}: .* answered NOT_FOUND"):
        one.store.current(one.ref)


def test_a_secret_without_a_version_is_named(google: LocalSecretManager) -> None:
    one = Room(google, value=None)

    with pytest.raises(Misconfigured, match="has no version yet"):
        one.store.current(one.ref)
    assert one.store.standing(one.ref).current is None


def test_a_disabled_current_version_is_named(room: Callable[..., Room]) -> None:
    one = room()
    promote(one, A, "made")
    one.client.disable_secret_version(name=f"{one.ref}/versions/2")

    with pytest.raises(Misconfigured, match="version 2 is current, and it is disabled"):
        one.store.current(one.ref)


def test_a_value_that_is_no_credential_is_misconfigured(room: Callable[..., Room]) -> None:
    with pytest.raises(Misconfigured, match="the value"):
        (one := room("[]")).store.current(one.ref)


def test_a_binary_value_is_named_as_such(room: Callable[..., Room]) -> None:
    one = room()
    one.put(b"\xff Canary7-binary")

    with pytest.raises(Misconfigured, match="binary") as caught:
        one.store.current(one.ref)
    assert "Canary7" not in str(caught.value)


def test_what_a_person_stores_becomes_current_and_nothing_pends(room: Callable[..., Room]) -> None:
    """As in the labelled store: it is what readers of `latest` get."""
    one = room()
    seen = stage(one, A, "made")
    one.put(value("by-hand").encode())

    assert one.store.current(one.ref).credential.secret == Sensitive("Canary7-by-hand")
    standing = one.store.standing(one.ref)
    assert (standing.current, standing.pending, standing.previous) == ("2", None, "1")
    with pytest.raises(Busy):
        one.store.promote(one.ref, A, seen)
    assert one.readers_get() == value("by-hand")


def test_an_older_value_that_comes_late_is_covered_again(room: Callable[..., Room]) -> None:
    """A zombie, or a lost request. Readers of `latest` get what is current; no rotation begins."""
    one = room()
    promote(one, A, "made")
    promote(one, B, "newer")
    one.put(value("made").encode())
    assert one.readers_get() == value("made")

    assert one.make_store().current(one.ref).rotation_id == B

    assert one.readers_get() == value("newer")
    assert one.labels()["previous"] == A
    assert one.store.number(one.ref, B) == 5


def test_a_cancelled_value_that_comes_late_is_covered_too(room: Callable[..., Room]) -> None:
    one = room()
    stage(one, A, "cancelled")
    one.abandon()
    one.put(value("cancelled").encode())

    assert one.make_store().current(one.ref).rotation_id == "1"
    assert one.readers_get() == FIRST


def test_an_equal_value_is_harmless(room: Callable[..., Room]) -> None:
    one = room()
    promote(one, A, "made")
    one.put(value("made").encode())

    assert one.make_store().current(one.ref).rotation_id == A
    assert versions_of(one) == 3


def test_a_promotion_that_died_half_way_is_completed_by_whoever_looks(
    room: Callable[..., Room],
) -> None:
    """It was tested, and readers have it. No second version is made of it."""
    one = room()
    seen = stage(one, A, "made")
    die_at(one, "UpdateSecret", 2)
    with pytest.raises(Unreachable):
        one.store.promote(one.ref, A, seen)
    one.google.interrupt = let_pass
    assert one.readers_get() == value("made")
    assert one.labels()["current"] == "1"

    assert one.make_store().standing(one.ref).current == A
    one.make_store().promote(one.ref, A, seen)

    assert versions_of(one) == 2


def test_a_promotion_that_died_half_way_goes_on(room: Callable[..., Room]) -> None:
    """The same event comes again; what was added is found by its number."""
    one = room()
    seen = stage(one, A, "made")
    die_at(one, "UpdateSecret", 2)
    with pytest.raises(Unreachable):
        one.store.promote(one.ref, A, seen)
    one.google.interrupt = let_pass

    one.make_store().promote(one.ref, A, seen)

    assert (versions_of(one), one.labels()["current"]) == (2, A)


def die_at(one: Room, method: str, number: int) -> None:
    """Answer nothing from that call on."""
    seen = itertools.count(1)
    is_dead = False

    def interrupt(_: int, called: str, moment: Moment) -> Verdict:
        nonlocal is_dead
        if moment is Moment.BEFORE and called == method and next(seen) == number:
            is_dead = True
        return Verdict.CUT if is_dead else Verdict.PASS

    one.google.interrupt = interrupt


@pytest.mark.parametrize("beside", ["", "-pending"])
def test_an_addition_whose_reply_is_lost_is_found_and_not_repeated(
    room: Callable[..., Room], beside: str
) -> None:
    one = room()
    if not beside:
        stage(one, A, "made")
    one.google.lose_reply("AddSecretVersion")

    if beside:
        stage(one, A, "made")
    one.store.promote(one.ref, A, one.store.snapshot(one.ref, A))

    assert versions_of(one, one.ref + beside) == (1 if beside else 2)
    assert one.readers_get() == value("made")


def test_an_addition_without_an_answer_is_not_made_again(room: Callable[..., Room]) -> None:
    """Nothing tells whether it comes late."""
    one = room()
    seen = stage(one, A, "made")
    made = one.google.calls.count("AddSecretVersion")
    die_at(one, "AddSecretVersion", 1)

    with pytest.raises(Unreachable):
        one.store.promote(one.ref, A, seen)

    assert one.google.calls.count("AddSecretVersion") == made + 1


def test_too_many_writes_are_waited_for(google: LocalSecretManager) -> None:
    """2 a second to one secret: a whole rotation has more, and waits by itself."""
    now = [datetime(2030, 1, 1, tzinfo=UTC)]
    with LocalSecretManager(now=lambda: now[0]) as slow:
        one = Room(slow)
        now[0] += timedelta(seconds=5)
        slow.vault.quota = 2

        def pause(wait_s: float) -> bool:
            one.waits.append(wait_s)
            now[0] += timedelta(seconds=wait_s)
            return True

        store = SecretManager(one.client, clock=Utc(), pause=pause)
        seen = stage(one, A, "made", store)
        for _ in range(3):
            store.staged(one.ref, A)
        store.promote(one.ref, A, seen)

        assert one.readers_get() == value("made")
        assert 1 <= sum(one.waits) < 10
    del google


def test_nobody_waits_longer_than_there_is_time(room: Callable[..., Room]) -> None:
    one = room()
    one.google.vault.quota = 0
    store = SecretManager(one.client, clock=Utc(), pause=lambda _: False)

    with pytest.raises(Unreachable, match="RESOURCE_EXHAUSTED"):
        stage(one, A, "made", store)


def test_a_call_that_hangs_ends_with_its_time(room: Callable[..., Room]) -> None:
    one = room(timeout_s=0.2)
    one.google.interrupt = lambda *_: Verdict.SWALLOW

    with pytest.raises(Unreachable, match="DEADLINE_EXCEEDED"):
        one.store.snapshot(one.ref, A)


def test_a_payload_that_was_damaged_is_no_value(room: Callable[..., Room]) -> None:
    one = room()
    one.google.vault.is_damaging = True

    with pytest.raises(Unreachable, match="checksum"):
        one.store.current(one.ref)


def test_a_refusal_names_method_and_code_and_nothing_else(room: Callable[..., Room]) -> None:
    one = room()
    one.client.delete_secret(name=one.ref)
    credential = Credential("app", Sensitive("Canary7-x"), {}, Sensitive(FIRST))
    one.store.stage(one.ref, A, credential, Snapshot(None, None))

    with pytest.raises(Misconfigured) as caught:
        one.store.current(one.ref)
    assert str(caught.value) == f"{one.ref}: GetSecret answered NOT_FOUND"
    assert caught.value.__context__ is None


def test_what_others_note_on_the_companion_stays(room: Callable[..., Room]) -> None:
    one = room()
    one.annotate({"owner": "shop"})

    promote(one, A, "made")

    assert one.annotations["owner"] == "shop"


def test_annotations_that_nobody_could_read_are_named(room: Callable[..., Room]) -> None:
    one = room()
    one.annotate({"keyturn-current": "Canary7 five"})

    with pytest.raises(Misconfigured, match="keyturn-current") as caught:
        one.store.snapshot(one.ref, A)
    assert "Canary7" not in str(caught.value)


def test_annotations_have_a_limit_that_is_named(room: Callable[..., Room]) -> None:
    one = room()
    one.annotate({"theirs": "x" * 16_300})

    with pytest.raises(Misconfigured, match="16383 bytes"):
        stage(one, A, "made")


def test_the_record_does_not_grow_without_end(room: Callable[..., Room]) -> None:
    one = room()
    for number in range(25):
        promote(one, rotation_id(f"r{number}"), f"made-{number}")
        stage(one, rotation_id(f"w{number}"), "withdrawn")
        one.store.withdraw(one.ref, rotation_id(f"w{number}"))

    assert len(one.annotations["keyturn-known"].split()) == 20
    assert len(one.annotations["keyturn-over"].split()) == 20
    assert (
        len(
            one.client.list_secret_versions(
                request={"parent": f"{one.ref}-pending", "filter": "state:ENABLED"}
            ).versions
        )
        <= 11
    )


def test_aliases_name_tested_versions_and_move_forward_only(room: Callable[..., Room]) -> None:
    one = room(has_aliases=True)
    promote(one, A, "made")
    promote(one, B, "newer")

    assert one.readers_get("current") == one.readers_get("latest") == value("newer")
    assert one.readers_get("previous") == value("made")

    one.client.update_secret(
        secret={"name": one.ref, "version_aliases": {"current": 3, "theirs": 1}},
        update_mask={"paths": ["version_aliases"]},
    )
    promote(one, rotation_id("c"), "last")
    assert one.readers_get("theirs") == FIRST
    assert one.readers_get("current") == value("last")


def test_a_worker_that_wakes_too_late_moves_nothing_back(room: Callable[..., Room]) -> None:
    """Cancelled right after it had added its value; another rotation came and went."""
    one = room(has_aliases=True)
    seen = stage(one, A, "made")
    slept: list[str] = []

    def interrupt(_: int, called: str, moment: Moment) -> Verdict:
        if called == "AddSecretVersion" and moment is Moment.AFTER and not slept:
            slept.append(called)
            one.abandon()
            other = one.make_store(has_aliases=True)
            other.promote(one.ref, B, stage(one, B, "newer", other))
        return Verdict.PASS

    one.google.interrupt = interrupt
    with pytest.raises(Busy):
        one.store.promote(one.ref, A, seen)

    assert slept
    assert one.readers_get("latest") == one.readers_get("current") == value("newer")
    assert one.labels()["current"] == B


def test_a_worker_that_wakes_too_late_covers_nothing(room: Callable[..., Room]) -> None:
    """Something had come late; by now it is covered, and a newer rotation has come and gone."""
    one = room(has_aliases=True)
    promote(one, A, "made")
    one.put(FIRST.encode())
    slept: list[str] = []

    def interrupt(_: int, called: str, moment: Moment) -> Verdict:
        if called == "DestroySecretVersion":  # The newer one dies right after its promotion.
            return Verdict.CUT
        if called == "UpdateSecret" and moment is Moment.AFTER and not slept:
            slept.append(called)
            other = one.make_store(has_aliases=True)
            with suppress(Unreachable):
                other.promote(one.ref, B, stage(one, B, "newer", other))
        return Verdict.PASS

    one.google.interrupt = interrupt
    with pytest.raises(Busy):
        one.make_store(has_aliases=True).current(one.ref)

    assert slept
    assert one.readers_get("latest") == one.readers_get("current") == value("newer")
    assert one.labels()["current"] == B


def test_old_versions_are_destroyed_where_that_is_wanted(room: Callable[..., Room]) -> None:
    one = room(keep=2)
    for name in "abcd":
        promote(one, rotation_id(name), name)

    enabled = one.client.list_secret_versions(
        request={"parent": one.ref, "filter": "state:ENABLED"}
    )
    assert [version.name[-1] for version in enabled] == ["5", "4"]


def test_a_rotation_is_over_when_it_is_done_withdrawn_or_superseded(
    room: Callable[..., Room],
) -> None:
    """What tells an entry point to acknowledge a message that came once more."""
    one = room()
    done, withdrawn, superseded, pending = map(rotation_id, ["d", "w", "s", "p"])
    promote(one, done, "made")
    stage(one, withdrawn, "x")
    one.store.withdraw(one.ref, withdrawn)
    stage(one, superseded, "y")
    stage(one, pending, "z")

    store = one.make_store()
    over = [name for name in (done, withdrawn, superseded) if store.is_over(one.ref, name)]
    assert over == [done, withdrawn, superseded]
    assert not store.is_over(one.ref, pending)
    assert not store.is_over(one.ref, rotation_id("new"))


def test_a_version_has_a_number_to_be_pinned_to(room: Callable[..., Room]) -> None:
    one = room()
    promote(one, A, "made")

    assert one.store.number(one.ref, A) == 2
    assert one.store.number(one.ref, RotationId("1")) == 1
    with pytest.raises(Busy):
        one.store.number(one.ref, B)


def test_a_late_read_never_moves_a_slot_back(room: Callable[..., Room]) -> None:
    """The fields of a secret may be read as they were: writes are refused then, or come to that."""
    one = room()
    one.google.vault.be_late(4)

    for name in "abcdef":
        finish(one, rotation_id(name), name)
        assert one.readers_get() == value(name)
        assert one.labels()["current"] == rotation_id(name)
        assert patiently(one).current == rotation_id(name)

    assert versions_of(one) == 7


def patiently(one: Room) -> Standing:
    """Look until the answers are no older than a write."""
    for _ in range(50):
        with suppress(Busy):
            return one.make_store().standing(one.ref)
    raise AssertionError("it does not end")


def finish(one: Room, name: RotationId, secret: str) -> None:
    for _ in range(50):
        store = one.make_store()
        try:
            stage(one, name, secret, store)
            store.staged(one.ref, name)
            return store.promote(one.ref, name, store.snapshot(one.ref, name))
        except Busy:
            if one.labels()["current"] == name:
                return None
    raise AssertionError("it does not end")


def test_a_slot_that_was_lost_is_not_held(room: Callable[..., Room]) -> None:
    """Whoever acts next must hold it at this moment: a read may be old, a guarded write is not."""
    one, name = room(), rotation_id("a")
    zombie = one.make_store()
    stage(one, name, "made", zombie)
    stage(one, B, "newer")

    with pytest.raises(Busy):
        zombie.staged(one.ref, name)


def test_a_regional_secret_is_rotated_like_a_global_one(google: LocalSecretManager) -> None:
    one = Room(google, parent=f"{PARENT}/locations/europe-west1")

    promote(one, A, "made")

    assert one.ref.startswith(f"{PARENT}/locations/europe-west1/secrets/")
    assert one.readers_get() == value("made")


def test_a_location_has_its_own_endpoint() -> None:
    """docs: regional endpoints. One client for each."""
    assert endpoint(None) == "secretmanager.googleapis.com"
    assert endpoint("europe-west1") == "secretmanager.europe-west1.rep.googleapis.com"
    assert location_of(f"{PARENT}/locations/europe-west1/secrets/s") == "europe-west1"
    assert location_of(f"{PARENT}/secrets/s") is None


@pytest.mark.parametrize(
    "ref",
    [
        "s",
        "projects/p/secrets/",
        "projects/p/secrets/s/versions/1",
        f"{PARENT}/secrets/{'x' * 248}",
    ],
)
def test_a_name_that_is_none_is_refused(room: Callable[..., Room], ref: str) -> None:
    with pytest.raises(Misconfigured, match="full name"):
        room().store.standing(SecretRef(ref))


@pytest.mark.parametrize("address", ["example.com:443", "10.0.0.1:80", "127.0.0.1.example:1", "x"])
def test_an_address_without_tls_is_on_loopback(address: str) -> None:
    with pytest.raises(Misconfigured, match="loopback"):
        connect(address=address)


def test_a_client_is_made_for_an_address(google: LocalSecretManager) -> None:
    one = Room(google)

    assert connect(address=google.address).get_secret(name=one.ref).name == one.ref


@pytest.mark.parametrize("name", ["", "a b", "ä", "x" * 129])
def test_an_id_that_would_not_survive_is_refused(room: Callable[..., Room], name: str) -> None:
    with pytest.raises(Misconfigured, match="rotation id"):
        (one := room()).store.snapshot(one.ref, RotationId(name))


def test_without_credentials_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "absent.json"))

    with pytest.raises(Denied, match="credentials"):
        connect()


@pytest.mark.parametrize("location", [None, "europe-west1"])
def test_a_client_goes_to_its_location_with_the_functions_own_credentials(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, location: str | None
) -> None:
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    account = {
        "type": "service_account",
        "client_email": "f@p.iam.gserviceaccount.com",
        "token_uri": "https://oauth2.googleapis.com/token",
        "private_key": pem.decode(),
    }
    file = tmp_path / "account.json"
    file.write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))

    assert connect(location).api_endpoint == endpoint(location)
