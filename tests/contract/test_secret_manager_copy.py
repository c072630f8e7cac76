"""Copies in other secrets of Secret Manager: on the local one, over real gRPC."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from keyturn.destinations.secret_manager_copy import (
    ANNOTATION,
    FIXES,
    PERMISSIONS,
    SERVICE,
    SHAPES,
    SecretManagerCopy,
    full_name,
    make,
)
from keyturn.errors import Busy, Drifted, KeyturnError, Misconfigured, Unreachable
from keyturn.followers import Given
from keyturn.local.secret_manager import LocalSecretManager, let_pass
from keyturn.local.secret_manager_rules import RefusedError
from keyturn.model import Credential, RotationId, Sensitive, Surroundings, Version
from keyturn.ports import Held
from keyturn.testing.contracts import MADE_AT, Depot, DestinationContract
from keyturn.testing.fakes import Crash
from keyturn.testing.faults import Moment, Verdict

CANARY = "Canary7-"
REF = "projects/123456789/secrets/orders-db"
ELSEWHERE = "projects/987654321"
REPLICATED: dict[str, Any] = {"replication": {"automatic": {}}}
PAGE = (Path(__file__).parents[2] / "docs" / "google-copies.md").read_text(encoding="utf-8")
_numbers = itertools.count(1)


def version(name: str) -> Version:
    return Version(RotationId(name), Credential("app", Sensitive(f"{CANARY}unused")), MADE_AT)


class Room:
    """A secret without a value, in another project."""

    def __init__(self, google: LocalSecretManager, parent: str = ELSEWHERE) -> None:
        self.google = google
        self.client = google.client()
        name = f"copy-{next(_numbers)}"
        self.copy = f"{parent}/secrets/{name}"
        secret = {} if "/locations/" in parent else REPLICATED
        self.client.create_secret(parent=parent, secret_id=name, secret=secret)
        self.waits: list[float] = []

    def pause(self, wait_s: float) -> bool:
        self.waits.append(wait_s)
        return True

    def destination(self, client: Any = None, *, secret: str = REF) -> SecretManagerCopy:
        return SecretManagerCopy(
            lambda: client or self.client, copy=self.copy, secret=secret, pause=self.pause
        )

    def deliver(
        self, name: str, text: str, by: SecretManagerCopy | None = None, seen: Held | None = None
    ) -> None:
        each = by or self.destination()
        each.deliver(version(name), Sensitive(CANARY + text), seen or each.holds())

    def follow_up(self, name: str, text: str, by: SecretManagerCopy | None = None) -> bool:
        """Do what a look does with a destination; tell whether it holds the version."""
        each = by or self.destination()
        with suppress(Busy, Unreachable):
            seen = each.holds()
            if seen.version_id == RotationId(name):
                return True
            self.deliver(name, text, each, seen)
        return False

    def add(self, text: str) -> None:
        self.google.operate("AddSecretVersion", parent=self.copy, payload={"data": text.encode()})

    def reads(self, which: str = "latest") -> Sensitive | None:
        try:
            return Sensitive(self.google.read(f"{self.copy}/versions/{which}"))
        except RefusedError:
            return None

    def versions(self) -> int:
        return len(self.google.vault.look(self.copy).versions)

    @property
    def note(self) -> str:
        return str(self.google.vault.look(self.copy).secret.annotations.get(ANNOTATION, ""))

    def annotate(self, **annotations: str) -> None:
        self.google.operate(
            "UpdateSecret",
            secret={"name": self.copy, "annotations": annotations},
            update_mask={"paths": ["annotations"]},
        )


@pytest.fixture(scope="module")
def running() -> Iterator[LocalSecretManager]:
    with LocalSecretManager() as google:
        yield google


@pytest.fixture
def google(running: LocalSecretManager) -> Iterator[LocalSecretManager]:
    yield running
    running.interrupt = let_pass
    running.vault.be_late(0)
    running.vault.quota = None


@pytest.fixture
def room(google: LocalSecretManager) -> Room:
    return Room(google)


def _depot(room: Room, method: str) -> Depot:
    @contextmanager
    def lose_reply() -> Iterator[None]:
        room.google.lose_reply(method)
        yield
        room.google.interrupt = let_pass

    return Depot(
        room.destination(),
        room.reads,
        lambda: room.add("by hand"),
        Sensitive(CANARY + "x" * 65_536),
        "65,536",
        lambda: room.google.calls.count("AccessSecretVersion"),
        room.google.outage,
        lose_reply,
    )


@pytest.mark.parametrize("method", ["AddSecretVersion", "UpdateSecret"])
class TestSecretManagerCopy(DestinationContract):
    """Whichever of the two writes it is whose reply is lost."""

    @pytest.fixture
    def depot(self, room: Room, method: str) -> Depot:
        return _depot(room, method)


class TestRegionalCopy(DestinationContract):
    @pytest.fixture
    def depot(self, google: LocalSecretManager) -> Depot:
        room = Room(google, f"{ELSEWHERE}/locations/europe-west1")
        return _depot(room, "AddSecretVersion")


# ---------------------------------------------------------------------------- the plan


def given(room: Room, asked: list[tuple[str, str | None]], ref: str = REF) -> Given:
    def clients(service: str, region: str | None) -> Any:
        asked.append((service, region))
        return room.client

    def never(*args: object) -> Any:
        raise AssertionError(args)

    surroundings = Surroundings(lambda: 60.0)
    return Given("orders-db", clients, never, never, never, never, surroundings, ref=ref)


def made(named: str, around: Given) -> SecretManagerCopy:
    return make(
        "secret-manager", msgspec.convert({"secret": named}, SHAPES["secret-manager"]), around
    )


def test_a_plan_makes_one(google: LocalSecretManager) -> None:
    """With a client for its place, and not before it is looked at."""
    asked: list[tuple[str, str | None]] = []
    room = Room(google, f"{ELSEWHERE}/locations/europe-west1")

    one = made(room.copy, given(room, asked))
    assert asked == []
    one.deliver(version("v1"), Sensitive(f"{CANARY}one"), one.holds())

    assert asked == [(SERVICE, "europe-west1")]
    assert one.name() == f"secret-manager:{room.copy}"
    assert room.reads() == Sensitive(f"{CANARY}one")
    shape = SHAPES["secret-manager"]
    own = {field.name for field in msgspec.structs.fields(shape)} - {"form", "member", "prefix"}
    assert set(FIXES) == {"secret-manager"} | own


@pytest.mark.parametrize(
    "named, meant",
    [
        ("copy", "projects/123456789/secrets/copy"),
        ("locations/eu/secrets/copy", "projects/123456789/locations/eu/secrets/copy"),
        ("projects/987654321/secrets/copy", "projects/987654321/secrets/copy"),
    ],
)
def test_a_short_name_is_of_the_secrets_own_project(named: str, meant: str) -> None:
    assert full_name(named, REF) == meant


@pytest.mark.parametrize("ref", [REF, f"{ELSEWHERE}/locations/eu/secrets/orders-db"])
@pytest.mark.parametrize("suffix", ["", "-pending"])
def test_the_secret_itself_and_its_companion_are_no_place(
    room: Room, ref: str, suffix: str
) -> None:
    """A copy there would be a value that nobody knows of, or an untested one."""
    short = ref.split("/", 2)[2].removeprefix("secrets/") + suffix

    for named in (ref + suffix, short):
        error = refusal(lambda named=named: made(named, given(room, [], ref)))  # type: ignore[misc]
        assert isinstance(error, Misconfigured)
        assert "is the secret itself" in str(error)


@pytest.mark.parametrize(
    "named",
    [
        "projects/shop-42/secrets/copy",
        "projects/1/secrets/copy/versions/1",
        "secrets/copy",
        "a b",
        "copy\n",
        "",
    ],
)
def test_what_is_no_name_is_refused_in_the_plan(named: str) -> None:
    """By the project's id, too: then nothing could tell that it is the secret itself."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"secret": named}, SHAPES["secret-manager"])


def test_a_short_name_needs_a_project(room: Room) -> None:
    """A secret of another store has none."""
    assert "is no full name" in str(refusal(lambda: made("copy", given(room, [], "prod/db"))))


# ---------------------------------------------------------------------------- whose place it is


def refusal(act: Callable[[], object]) -> KeyturnError:
    with pytest.raises(KeyturnError) as caught:
        act()
    return caught.value


def test_another_secrets_copy_is_left_alone(room: Room) -> None:
    room.deliver("v1", "one")
    other = room.destination(secret="projects/123456789/secrets/other")

    error = refusal(other.holds)

    assert isinstance(error, Drifted)
    assert f"holds a copy of {REF}, not of projects/123456789/secrets/other" in str(error)


def test_a_companion_of_another_secret_is_left_alone(room: Room) -> None:
    """Its versions are pending values."""
    room.annotate(**{"keyturn-current": "1:m1"})

    assert isinstance(refusal(room.destination().holds), Drifted)


def test_a_secret_that_is_rotated_itself_is_left_alone(google: LocalSecretManager) -> None:
    """The copy would be taken for a value that somebody stored by hand."""
    room = Room(google)
    room.google.operate(
        "UpdateSecret",
        secret={
            "name": room.copy,
            "topics": [{"name": "projects/p/topics/t"}],
            "rotation": {
                "next_rotation_time": {"seconds": 4_000_000_000},
                "rotation_period": {"seconds": 86_400},
            },
        },
        update_mask={"paths": ["topics", "rotation"]},
    )

    assert "is rotated itself" in str(refusal(room.destination().holds))


def test_a_secret_that_keyturn_rotates_is_left_alone(room: Room) -> None:
    """Its companion shows it, where nothing else does: the tick may come from anywhere."""
    parent, _, name = room.copy.rpartition("/secrets/")
    beside = {**REPLICATED, "annotations": {"keyturn-current": "1:m1"}}
    room.client.create_secret(parent=parent, secret_id=f"{name}-pending", secret=beside)

    error = refusal(lambda: room.deliver("v1", "one"))

    assert isinstance(error, Drifted)
    assert (room.versions(), room.note) == (0, "")


def test_what_else_is_annotated_there_stays(room: Room) -> None:
    room.annotate(team="orders")

    room.deliver("v1", "one")

    annotations = dict(room.google.vault.look(room.copy).secret.annotations)
    assert annotations == {"team": "orders", ANNOTATION: f"{REF} v1 at 1"}


@pytest.mark.parametrize("text", ["", "v1", f"{REF} v1", f"{REF} v1 at x", f"{REF} v1 at 1 more"])
def test_an_annotation_that_is_none_of_ours_says_nothing(room: Room, text: str) -> None:
    room.add("by hand")
    room.annotate(**{ANNOTATION: text})

    assert room.destination().holds().version_id is None


def test_a_secret_that_is_not_there_is_named(room: Room) -> None:
    room.google.operate("DeleteSecret", name=room.copy)

    error = refusal(room.destination().holds)

    assert isinstance(error, Misconfigured)
    assert str(error) == f"secret-manager:{room.copy} is not there"


# ---------------------------------------------------------------------------- what it holds


def test_a_version_that_somebody_adds_is_not_the_copy(room: Room) -> None:
    """`latest` is that one now, whatever the annotation says; the next look mends it."""
    room.deliver("v1", "one")
    room.add("by hand")

    assert room.destination().holds().version_id is None
    room.follow_up("v1", "one")

    assert room.reads() == Sensitive(f"{CANARY}one")
    assert room.destination().holds().version_id == RotationId("v1")


def test_a_copy_that_was_disabled_is_none(room: Room) -> None:
    """Readers of `latest` get nothing then."""
    room.deliver("v1", "one")
    room.google.operate("DisableSecretVersion", name=f"{room.copy}/versions/1")

    assert room.destination().holds().version_id is None
    room.follow_up("v1", "one")

    assert room.reads() == Sensitive(f"{CANARY}one")


def test_old_copies_stay_for_whoever_is_pinned(room: Room) -> None:
    room.deliver("v1", "one")
    room.deliver("v2", "two")

    assert room.reads("1") == Sensitive(f"{CANARY}one")
    assert room.reads("2") == Sensitive(f"{CANARY}two")


def test_a_clean_delivery_takes_ten_calls_and_reads_no_value(room: Room) -> None:
    """So the numbers below are all there are."""
    room.deliver("v1", "one")
    before = len(room.google.calls)

    room.deliver("v2", "two")

    look = ["GetSecret", "GetSecretVersion", "GetSecretVersion"]
    writes = ["UpdateSecret", "AddSecretVersion", "UpdateSecret"]
    assert room.google.calls[before:] == [*look, *look, "GetSecret", *writes]


def test_half_a_surrogate_pair_is_refused_before(room: Room) -> None:
    error = refusal(lambda: room.deliver("v1", "\ud800"))

    assert isinstance(error, Misconfigured)
    assert CANARY not in str(error)
    assert (room.versions(), room.note) == (0, "")


def test_the_writes_of_a_delivery_are_made_again_when_there_are_too_many(room: Room) -> None:
    """Two a second are allowed, and it makes three: it waits."""
    room.google.vault.quota = 1
    waited: list[float] = []

    def pause(wait_s: float) -> bool:
        waited.append(wait_s)
        room.google.vault.quota = None
        return True

    one = SecretManagerCopy(lambda: room.client, copy=room.copy, secret=REF, pause=pause)
    one.deliver(version("v1"), Sensitive(f"{CANARY}one"), one.holds())

    assert waited == [0.5]
    assert (room.reads(), room.versions()) == (Sensitive(f"{CANARY}one"), 1)


def test_no_time_to_wait_is_no_answer(room: Room) -> None:
    room.google.vault.quota = 0
    one = SecretManagerCopy(
        lambda: room.client, copy=room.copy, secret=REF, pause=lambda wait_s: wait_s < 0
    )

    with pytest.raises(Unreachable, match="RESOURCE_EXHAUSTED"):
        one.deliver(version("v1"), Sensitive(f"{CANARY}one"), one.holds())


# ---------------------------------------------------------------------------- crashes and races


class Watched:
    """A client whose user is interrupted before or after one of its calls."""

    def __init__(self, client: Any, at: int, act: Callable[[], None], *, is_after: bool) -> None:
        self._client = client
        self._at = at
        self._act = act
        self._is_after = is_after
        self._left = itertools.count(1)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(**how: Any) -> Any:
            is_now = next(self._left) == self._at
            if is_now and not self._is_after:
                self._act()
            try:
                return method(**how)
            finally:
                if is_now and self._is_after:
                    self._act()

        return call


def die() -> None:
    raise Crash


@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(1, 11))
def test_a_crash_at_any_call_is_made_good_by_the_next_look(
    room: Room, at: int, *, is_after: bool
) -> None:
    """At worst the value is there twice."""
    room.deliver("v1", "one")
    with pytest.raises(Crash):
        room.follow_up(
            "v2", "two", room.destination(Watched(room.client, at, die, is_after=is_after))
        )
    held = room.destination().holds().version_id
    assert held != RotationId("v2") or room.reads() == Sensitive(f"{CANARY}two")

    looks = [room.follow_up("v2", "two") for _ in range(2)]

    assert looks[-1]
    assert room.reads() == Sensitive(f"{CANARY}two")
    assert room.versions() <= 3


@pytest.mark.parametrize("method", ["UpdateSecret", "AddSecretVersion"])
@pytest.mark.parametrize("which", [1, 2])
def test_a_reply_that_is_lost_makes_no_copy_of_the_wrong_version(
    room: Room, method: str, which: int
) -> None:
    """A note is written again, and refused: it is our own. An addition is not made again."""
    left = itertools.count(1)

    def lose(number: int, called: str, moment: Moment) -> Verdict:
        is_now = moment is Moment.AFTER and called == method and next(left) == which
        return Verdict.CUT if is_now else let_pass(number, called, moment)

    room.google.interrupt = lose
    room.follow_up("v1", "one")
    room.google.interrupt = let_pass

    assert [room.follow_up("v1", "one") for _ in range(2)][-1]
    assert room.reads() == Sensitive(f"{CANARY}one")
    assert room.versions() == (2 if (method, which) == ("AddSecretVersion", 1) else 1)


def test_an_addition_without_an_answer_is_not_made_again(room: Room) -> None:
    """It may have made a version, and nothing tells one addition from another."""
    seen = room.destination().holds()
    room.google.lose_reply("AddSecretVersion")
    before = room.google.calls.count("AddSecretVersion")

    with pytest.raises(Unreachable):
        room.deliver("v1", "one", seen=seen)

    assert room.google.calls.count("AddSecretVersion") == before + 1


@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(1, 11))
@pytest.mark.parametrize("newer", ["v2", "v1"])
def test_another_worker_at_any_call_is_not_undone_for_good(
    room: Room, at: int, newer: str, *, is_after: bool
) -> None:
    """Whoever is late adds nothing after its note was refused; what slips through is mended."""
    texts = {"v1": "one", "v2": "two"}
    room.deliver("v0", "nought")

    def interrupt() -> None:
        room.follow_up(newer, texts[newer])

    late = Watched(room.client, at, interrupt, is_after=is_after)
    room.follow_up("v1", "one", room.destination(late))

    held = room.destination().holds().version_id
    if held is not None:
        assert room.reads() == Sensitive(CANARY + {"v0": "nought", **texts}[held])
    looks = [room.follow_up(newer, texts[newer]) for _ in range(3)]

    assert looks[-1]
    assert room.reads() == Sensitive(CANARY + texts[newer])


def test_one_window_lets_an_old_value_through_and_no_other(room: Room) -> None:
    """Between its note and its addition: there the service has nothing to hold it by.

    (Who has not looked yet sees what is there then: which version is current is not its affair.)
    """
    undone = []
    for at, is_after in list(itertools.product(range(1, 11), (False, True)))[1:]:
        one = Room(room.google)
        one.deliver("v0", "nought")

        def interrupt(one: Room = one) -> None:
            one.follow_up("v2", "two")

        late = Watched(one.client, at, interrupt, is_after=is_after)
        one.follow_up("v1", "one", one.destination(late))
        if one.reads() == Sensitive(f"{CANARY}one"):
            if one.destination().holds().version_id == RotationId("v2"):
                raise AssertionError((at, is_after))
            undone.append((at, is_after))

    assert undone == [(8, True), (9, False)]


def test_an_addition_that_arrives_late_is_mended_by_the_next_look(room: Room) -> None:
    """It was given up for lost, and a newer version delivered since."""

    def hold(number: int, called: str, moment: Moment) -> Verdict:
        is_it = (called, moment) == ("AddSecretVersion", Moment.BEFORE)
        return Verdict.HOLD if is_it else let_pass(number, called, moment)

    room.google.interrupt = hold
    room.follow_up("v1", "one")
    room.google.interrupt = let_pass
    room.follow_up("v2", "two")
    assert room.destination().holds().version_id == RotationId("v2")

    room.google.release()
    held = room.destination().holds().version_id
    room.follow_up("v2", "two")

    assert held is None
    assert room.reads() == Sensitive(f"{CANARY}two")
    assert room.destination().holds().version_id == RotationId("v2")


def test_a_note_that_arrives_late_is_refused(room: Room) -> None:
    """Its etag is an old one by then."""

    def hold(number: int, called: str, moment: Moment) -> Verdict:
        is_it = (called, moment) == ("UpdateSecret", Moment.BEFORE)
        return Verdict.HOLD if is_it else let_pass(number, called, moment)

    room.google.interrupt = hold
    room.follow_up("v1", "one")
    room.google.interrupt = let_pass
    room.follow_up("v2", "two")
    room.google.release()

    assert room.destination().holds().version_id == RotationId("v2")
    assert room.note == f"{REF} v2 at 1"


@pytest.mark.parametrize("seed", range(12))
def test_with_reads_that_are_late_it_never_says_that_it_holds_what_it_does_not(
    room: Room, seed: int
) -> None:
    """An old annotation shows: the next number is there.

    Two reads in a row must be new for a delivery; here one in four is, so it takes many looks.
    """
    room.deliver("v0", "nought")
    room.google.vault.be_late(3, str(seed))
    for number in (1, 2, 3):
        name, text = RotationId(f"v{number}"), f"value {number}"
        looks = 0
        while room.destination().holds().version_id != name:
            room.follow_up(name, text)
            looks += 1
            assert looks < 400, "it never comes to an end"
        assert room.reads() == Sensitive(f"{CANARY}{text}")


def test_the_page_lists_the_rights() -> None:
    assert not [each for each in PERMISSIONS if f"`{each}`" not in PAGE]
