"""Keys that an issuer makes: which is ours, when one may die, and what a crash leaves."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import pytest

from keyturn.errors import (
    Busy,
    Denied,
    Drifted,
    KeyturnError,
    NotYetAccepted,
    Unreachable,
    Untraceable,
)
from keyturn.minted import GRACE, LANDING, MintedKeys, Place
from keyturn.model import (
    Attempt,
    Credential,
    Outcome,
    RotationId,
    SecretRef,
    Sensitive,
    Step,
    Trace,
    Version,
)
from keyturn.ports import KeyStore, Minting, Retiring
from keyturn.rotation import STALE_AFTER, Rotation
from keyturn.testing.fakes import REF, Crash, Key, LabelledStore, MemoryIssuer, StagedStore, World

LONG = STALE_AFTER + timedelta(seconds=1)
AGO = timedelta(days=30)


class Lab:
    """One secret, whose holder has one key, `K0`."""

    def __init__(self) -> None:
        self.world = World()
        created = self.world.clock.now() - AGO
        self.first = Credential("K0", Sensitive("Canary7-K0"))
        self.issuer = MemoryIssuer(self.world, {"K0": Key("Canary7-K0", created)})
        self.store = LabelledStore(self.world, self.first)
        self.paused: list[float] = []
        self.seconds = 10_000.0

    def target(self, name: str, store: KeyStore | None = None, **more: timedelta) -> MintedKeys:
        place = Place(store or self.store, REF, RotationId(name))
        return MintedKeys(self.issuer, place, self.world.clock, self.pause, **more)

    def pause(self, seconds: float) -> bool:
        self.paused.append(seconds)
        self.seconds -= seconds
        return self.seconds > 0

    def begin(self, name: str, **more: timedelta) -> Rotation:
        self.store.begin(RotationId(name))
        return self.resume(name, None, **more)

    def resume(self, name: str, store: KeyStore | None = None, **more: timedelta) -> Rotation:
        target = self.target(name, store, **more)
        return Rotation(
            *(REF, RotationId(name)),
            store=store or self.store,
            targets=lambda _: target,
            clock=self.world.clock,
        )

    def add(self, key_id: str, age: timedelta = AGO) -> Key:
        key = Key(f"Canary7-{key_id}", self.world.clock.now() - age)
        self.issuer.keys_by_id[key_id] = key
        return key

    def remove(self, key_id: str) -> None:
        del self.issuer.keys_by_id[key_id]

    def alive(self) -> set[str]:
        return set(self.issuer.alive())

    def serves(self) -> str:
        return self.store.serves().credential.principal

    def fail_at(self, call: str, error: BaseException, *, after: bool = False) -> None:
        """Fail at the first call of that name, from now on."""
        has_failed = False

        def interrupt(_: int, name: str) -> None:
            nonlocal has_failed
            if name == call and not has_failed:
                has_failed = True
                raise error

        self.world.after = interrupt if after else _carry_on
        self.world.before = _carry_on if after else interrupt

    def mend(self) -> None:
        self.world.before = self.world.after = _carry_on

    def run_late(self, name: str) -> None:
        self.world.clock.advance(LONG)
        self.begin(name).run()


def _carry_on(number: int, name: str) -> None:
    del number, name


@pytest.fixture
def lab() -> Lab:
    return Lab()


def _lost() -> Unreachable:
    return Unreachable("no answer", remedy="")


# ---------------------------------------------------------------------------- rotations


def test_it_is_a_target_that_mints_and_retires(lab: Lab) -> None:
    assert isinstance(lab.target("a"), Minting)
    assert isinstance(lab.target("a"), Retiring)


def test_every_step_may_be_repeated_and_one_key_is_minted(lab: Lab) -> None:
    rotation = lab.begin("a")

    for step in (*Step, *Step):
        rotation.perform(step)

    assert lab.world.calls.count("issuer.mint") == 1
    assert lab.alive() == {"K0", "K1"}
    assert lab.serves() == "K1"


def test_create_again_does_nothing(lab: Lab) -> None:
    lab.begin("a").perform(Step.CREATE)

    assert lab.resume("a").perform(Step.CREATE) is Outcome.ALREADY_DONE


def test_the_keys_of_the_last_two_rotations_live(lab: Lab) -> None:
    lab.run_late("a")
    lab.run_late("b")

    assert lab.alive() == {"K1", "K2"}


def test_current_works_after_every_call(lab: Lab) -> None:
    refused: list[str] = []

    def look(_: int, name: str) -> None:
        if not lab.issuer.would_accept(lab.store.serves().credential):
            refused.append(name)

    lab.world.after = look
    for name in ("a", "b", "c"):
        lab.run_late(name)

    assert refused == []


# ---------------------------------------------------------------------------- what a crash leaves


@pytest.mark.parametrize("call", ["issuer.mint", "store.put"])
@pytest.mark.parametrize("error", [Crash, _lost], ids=["crash", "lost reply"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_one_more_run_leaves_no_orphan(
    lab: Lab, call: str, error: Callable[[], BaseException], *, after: bool
) -> None:
    lab.fail_at(call, error(), after=after)
    with pytest.raises((Crash, Unreachable)):
        lab.begin("a").run()
    lab.mend()

    lab.run_late("b")

    assert lab.alive() == {"K0", lab.serves()}


def test_to_adopt_what_a_crashed_try_has_staged_leaves_no_orphan_either(lab: Lab) -> None:
    """Two tries minted, the second staged; the next rotation mints nothing."""
    lab.remove("K0")
    store = StagedStore(lab.world, lab.first)
    lab.fail_at("issuer.mint", _lost(), after=True)
    with pytest.raises(Unreachable):
        lab.resume("a", store).run()
    lab.fail_at("store.put", Crash(), after=True)
    with pytest.raises(Crash):
        lab.resume("a", store).run()
    lab.mend()
    lab.world.clock.advance(LONG)

    lab.resume("b", store).run()

    assert store.serves().credential.principal == "K2"
    assert lab.alive() == {"K2"}
    assert lab.world.calls.count("issuer.mint") == 2


def test_the_list_is_taken_before_the_store_is_read(lab: Lab) -> None:
    """The other way round, what is staged in between would look like an orphan."""
    lab.begin("a").perform(Step.CREATE)

    calls = lab.world.calls
    assert calls.index("issuer.list") < calls.index("store.list")


def test_the_intent_is_declared_before_the_key_is_minted(lab: Lab) -> None:
    lab.begin("a").run()

    calls = [call for call in lab.world.calls if call in _ORDER]
    assert calls == _ORDER


_ORDER = ["store.declare", "issuer.mint", "store.put", "store.settle"]


def test_a_young_key_may_be_a_running_workers(lab: Lab) -> None:
    lab.fail_at("issuer.mint", Crash(), after=True)
    with pytest.raises(Crash):
        lab.begin("a").run()
    lab.mend()

    with pytest.raises(Busy, match="K1"):
        lab.begin("b").run()

    assert lab.alive() == {"K0", "K1"}


def test_with_a_lease_a_lost_key_is_known_soon(lab: Lab) -> None:
    """Then no other worker is alive, and what a dead one has sent has landed."""
    lab.fail_at("issuer.mint", Crash(), after=True)
    with pytest.raises(Crash):
        lab.begin("a", lost_after=LANDING).run()
    lab.mend()
    with pytest.raises(Busy, match="K1"):
        lab.begin("b", lost_after=LANDING).run()

    lab.world.clock.advance(LANDING)
    lab.begin("c", lost_after=LANDING).run()

    assert lab.alive() == {"K0", lab.serves()}


def test_a_lease_makes_no_key_spent_that_a_version_has(lab: Lab) -> None:
    """A rotation that was abandoned may have sent its promotion."""
    lab.world.clock.advance(LONG)  # current's grace for others is over
    lab.begin("a").perform(Step.CREATE)
    lab.store.abandon()
    lab.world.clock.advance(LANDING)

    with pytest.raises(Busy, match="K1"):
        lab.begin("b", lost_after=LANDING).run()

    assert lab.alive() == {"K0", "K1"}


def test_with_a_lease_an_intent_explains_keys_for_minutes_only(lab: Lab) -> None:
    """A person's key that is made later is foreign."""
    lab.fail_at("issuer.mint", Crash())
    with pytest.raises(Crash):
        lab.begin("a", lost_after=LANDING).run()
    lab.mend()
    lab.world.clock.advance(LANDING + timedelta(seconds=1))
    lab.add("HUMAN", timedelta(0))
    lab.world.clock.advance(LANDING)

    with pytest.raises(Drifted, match="HUMAN"):
        lab.begin("b", lost_after=LANDING).run()


def test_the_loser_of_a_race_deletes_its_own_key(lab: Lab) -> None:
    """Two deliveries of one rotation mint; one value is kept."""
    lab.remove("K0")
    first, second = lab.begin("a"), lab.resume("a")
    met = False

    def meet(_: int, name: str) -> None:
        nonlocal met
        if name == "store.put" and not met:
            met = True
            second.perform(Step.CREATE)

    lab.issuer.lag = 1000
    lab.world.before = meet
    first.perform(Step.CREATE)

    staged = lab.store.staged(REF, RotationId("a"))
    assert staged is not None
    assert lab.alive() == {staged.credential.principal}
    assert lab.world.calls.count("issuer.mint") == 2


def test_a_worker_that_was_overtaken_deletes_its_own_key(lab: Lab) -> None:
    first = lab.begin("a")

    def overtake(_: int, name: str) -> None:
        if name == "issuer.mint":
            lab.store.begin(RotationId("b"))

    lab.world.after = overtake
    with pytest.raises(Busy):
        first.run()

    assert lab.alive() == {"K0"}


# ---------------------------------------------------------------------------- whose key it is


def test_a_foreign_key_is_refused_by_name_and_nothing_is_touched(lab: Lab) -> None:
    lab.add("HUMAN")

    with pytest.raises(Drifted, match="HUMAN"):
        lab.begin("a").run()

    assert lab.alive() == {"K0", "HUMAN"}
    assert not {"issuer.deactivate", "issuer.delete", "store.declare"} & set(lab.world.calls)


def test_a_persons_key_is_left_where_there_is_room(lab: Lab) -> None:
    """The secret's own key is gone: there is room for one."""
    lab.remove("K0")
    lab.add("HUMAN", timedelta(days=400))

    lab.begin("a").run()

    assert lab.alive() == {"HUMAN", lab.serves()}


@pytest.mark.parametrize("age", [timedelta(days=400), timedelta(0)], ids=["older", "younger"])
def test_age_says_nothing(lab: Lab, age: timedelta) -> None:
    lab.add("HUMAN", age)

    with pytest.raises(Drifted, match="HUMAN"):
        lab.begin("a").run()

    assert lab.alive() == {"K0", "HUMAN"}


def test_a_key_that_was_there_before_the_intent_is_foreign(lab: Lab) -> None:
    """Made a moment before ours was lost: in time, and named as not ours."""
    lab.remove("K0")
    lab.add("HUMAN", timedelta(seconds=5))
    lab.fail_at("issuer.mint", Crash())
    with pytest.raises(Crash):
        lab.begin("a").run()
    lab.mend()
    lab.add("HUMAN2")

    lab.world.clock.advance(LONG)
    with pytest.raises(Drifted, match="HUMAN, HUMAN2"):
        lab.begin("b").run()


def test_a_key_that_somebody_has_used_is_foreign(lab: Lab) -> None:
    """Of an orphan, nobody knows the secret."""
    lab.fail_at("issuer.mint", Crash(), after=True)
    with pytest.raises(Crash):
        lab.begin("a").run()
    lab.mend()
    lab.issuer.keys_by_id["K1"].used_at = lab.world.clock.now()

    with pytest.raises(Drifted, match="K1"):
        lab.run_late("b")


def test_a_key_made_long_after_the_crash_is_foreign(lab: Lab) -> None:
    lab.fail_at("issuer.mint", Crash())
    with pytest.raises(Crash):
        lab.begin("a").run()
    lab.mend()
    lab.world.clock.advance(2 * STALE_AFTER)
    lab.add("HUMAN", timedelta(0))

    with pytest.raises(Drifted, match="HUMAN"):
        lab.run_late("b")


def test_the_key_of_an_abandoned_rotation_is_ours(lab: Lab) -> None:
    lab.begin("a").perform(Step.CREATE)
    lab.store.abandon()

    with pytest.raises(Busy, match="K1"):
        lab.begin("b").run()
    lab.run_late("c")

    assert lab.alive() == {"K0", lab.serves()}


def test_each_try_has_an_intent_of_its_own(lab: Lab) -> None:
    """The second one, which goes well, must not take back what explains the first one's key."""
    lab.remove("K0")
    lab.fail_at("issuer.mint", _lost(), after=True)
    with pytest.raises(Unreachable):
        lab.begin("a").run()
    lab.mend()
    lab.resume("a").run()

    lab.run_late("b")

    assert lab.alive() == {"K2", "K3"}
    assert lab.serves() == "K3"


def test_an_intent_outlives_its_orphan(lab: Lab) -> None:
    """Whoever deletes it may die: the next one must still know that it is ours."""
    lab.fail_at("issuer.mint", Crash(), after=True)
    with pytest.raises(Crash):
        lab.begin("a").run()
    lab.world.clock.advance(2 * LONG)
    lab.fail_at("issuer.delete", Crash())
    with pytest.raises(Crash):
        lab.begin("b").run()
    lab.mend()

    lab.run_late("c")

    assert lab.alive() == {"K0", lab.serves()}


def test_a_key_that_comes_into_use_is_not_deleted(lab: Lab) -> None:
    """Somebody rolls back to the previous version, right before the old key dies."""
    lab.run_late("a")
    lab.world.clock.advance(LONG)
    rotation = lab.begin("b")

    def roll_back(_: int, name: str) -> None:
        if name == "issuer.used":
            lab.store.labels["current"] = RotationId("v0")

    lab.world.after = roll_back
    with pytest.raises(Busy, match="K0"):
        rotation.run()

    assert lab.alive() == {"K0", "K1"}
    assert lab.issuer.keys_by_id["K0"].is_active


def test_the_previous_key_has_its_grace(lab: Lab) -> None:
    """It counts from when current was made, not from when the key was."""
    lab.run_late("a")
    lab.world.clock.advance(GRACE - timedelta(seconds=1))

    with pytest.raises(Busy, match="K0"):
        lab.begin("b").run()

    assert lab.alive() == {"K0", "K1"}


def test_a_previous_key_that_is_still_used_is_left(lab: Lab) -> None:
    lab.begin("a").run()
    lab.world.clock.advance(LONG)
    lab.issuer.keys_by_id["K0"].used_at = lab.world.clock.now()

    with pytest.raises(Busy, match="K0"):
        lab.begin("b").run()

    assert lab.issuer.keys_by_id["K0"].is_active


# ---------------------------------------------------------------------------- keys with names


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Do as the entry point: tell a person, then say so."""
    with pytest.raises(Untraceable, match=what) as caught:
        yield
    caught.value.when_told()


def _lose_a_key(lab: Lab, name: str = "a") -> None:
    lab.fail_at("issuer.mint", Crash(), after=True)
    with pytest.raises(Crash):
        lab.begin(name).run()
    lab.mend()


@pytest.fixture
def named(lab: Lab) -> Lab:
    """Its issuer keeps names, tells no times, and has room."""
    lab.issuer.trace = Trace.NAME
    lab.issuer.limit = 9
    return lab


def test_a_name_says_whose_and_how_old_a_key_is(named: Lab) -> None:
    _lose_a_key(named)
    assert named.issuer.keys_by_id["K1"].name.startswith("keyturn-")

    named.run_late("b")

    assert named.alive() == {"K0", named.serves()}
    assert "store.declare" not in named.world.calls


def test_a_young_key_with_our_name_may_be_a_running_workers(named: Lab) -> None:
    _lose_a_key(named)

    named.begin("b").run()

    assert named.alive() == {"K0", "K1", named.serves()}


@pytest.mark.parametrize(
    "name",
    [
        "",
        "keyturn",
        "keyturn-0123456789abcdef-20200101T000000Z-00000000",
        "keyturn-{}-20200101T000000Z",
        "keyturn-{}-2020-00000000",
        "keyturn-{}x-20200101T000000Z-00000000",
        " keyturn-{}-20200101T000000Z-00000000",
    ],
)
def test_a_key_with_another_name_is_foreign(named: Lab, name: str) -> None:
    """A person's, another secret's, or one that only looks like ours."""
    digest = hashlib.sha256(REF.encode()).hexdigest()[:16]
    named.add("HUMAN").name = name.format(digest)

    named.begin("a").run()
    named.run_late("b")

    assert "HUMAN" in named.alive()


def test_another_secrets_lost_key_is_foreign(named: Lab) -> None:
    """They may share a holder. Each secret's rotations know their own."""
    place = Place(named.store, SecretRef("other"), RotationId("v0"))
    MintedKeys(named.issuer, place, named.world.clock, named.pause).create(named.first, [])

    named.run_late("a")

    assert named.alive() == {"K0", "K1", named.serves()}


def test_a_nameless_key_made_after_a_crash_is_foreign(named: Lab) -> None:
    """Where names are kept, no intent explains a key that has none."""
    _lose_a_key(named)
    named.add("HUMAN", timedelta(0))

    named.run_late("b")

    assert named.alive() == {"K0", "HUMAN", named.serves()}


def test_a_key_of_ours_that_is_used_is_left(named: Lab) -> None:
    """It was in a version that the store keeps no longer."""
    named.run_late("a")
    named.world.clock.advance(2 * LONG)
    forgotten = named.store.versions.pop(RotationId("v0"))
    assert forgotten is not None
    digest = hashlib.sha256(REF.encode()).hexdigest()[:16]
    key = named.issuer.keys_by_id["K0"]
    key.name = f"keyturn-{digest}-20200101T000000Z-00000000"
    key.used_at = named.world.clock.now()

    named.begin("b").run()
    assert "K0" in named.alive()

    key.used_at = named.world.clock.now() - 3 * LONG
    named.run_late("c")
    assert "K0" not in named.alive()


def test_every_try_has_a_name_of_its_own_and_a_rotation_one(named: Lab) -> None:
    asked: list[Attempt] = []

    class Asking(MemoryIssuer):
        def mint(self, current: Credential, attempt: Attempt) -> Credential:
            asked.append(attempt)
            return super().mint(current, attempt)

    named.issuer = Asking(named.world, named.issuer.keys_by_id)
    named.issuer.trace, named.issuer.limit = Trace.NAME, 9
    for name in ("a", "a", "b"):
        named.begin(name)
        named.target(name).create(named.first, [])

    assert len({attempt.name for attempt in asked}) == 3
    assert [attempt.rotation == asked[0].rotation for attempt in asked] == [True, True, False]


# ---------------------------------------------------------------------------- keys with marks


@pytest.fixture
def marked(lab: Lab) -> Lab:
    """Its issuer keeps marks, tells of no use, and has room."""
    lab.issuer.trace = Trace.MARK
    lab.issuer.limit = 9
    return lab


def test_a_mark_says_whose_a_key_is(marked: Lab) -> None:
    _lose_a_key(marked)

    marked.run_late("b")

    assert marked.alive() == {"K0", marked.serves()}


@pytest.mark.parametrize("mark", ["", "0badcafe"], ids=["none", "another one"])
def test_a_key_without_our_mark_is_foreign(marked: Lab, mark: str) -> None:
    """A person's, or another secret's, made while an intent of ours explains a key. It is used."""
    _lose_a_key(marked)
    marked.add("HUMAN", timedelta(0)).mark = mark

    marked.run_late("b")

    assert marked.alive() == {"K0", "HUMAN", marked.serves()}
    assert marked.issuer.keys_by_id["HUMAN"].is_active


def test_a_young_key_with_our_mark_may_be_a_running_workers(marked: Lab) -> None:
    _lose_a_key(marked)

    marked.begin("b").run()

    assert marked.alive() == {"K0", "K1", marked.serves()}


def test_every_try_has_a_mark_of_its_own(marked: Lab) -> None:
    """The intents that outlive them end with it."""
    for name in ("a", "b"):
        _lose_a_key(marked, name)

    marks = {key.mark for key in marked.issuer.keys_by_id.values()} - {""}
    assert len(marks) == 2
    assert {each.name.rpartition("-")[2] for each in marked.store.intents(REF)} == marks


# ---------------------------------------------------------------------------- time, and no use


@pytest.fixture
def dated(lab: Lab) -> Lab:
    """Its issuer tells when each key was made, of no use, and has room."""
    lab.issuer.trace = Trace.TIME_ONLY
    lab.issuer.limit = 9
    return lab


def test_what_may_be_anybodys_is_reported_once_and_left(dated: Lab) -> None:
    _lose_a_key(dated)
    dated.add("HUMAN", timedelta(0))
    dated.world.clock.advance(LONG)

    with pytest.raises(Untraceable, match="HUMAN, K1") as caught:
        dated.begin("b").run()
    caught.value.when_told()
    dated.resume("b").run()
    dated.run_late("c")

    assert "Rotate again" in caught.value.remedy
    assert {"HUMAN", "K1"} < dated.alive()
    assert dated.issuer.keys_by_id["HUMAN"].is_active
    assert dated.issuer.keys_by_id["K1"].is_active


def test_what_a_worker_died_before_telling_is_told_by_the_next(dated: Lab) -> None:
    _lose_a_key(dated)
    dated.world.clock.advance(LONG)
    with pytest.raises(Untraceable):
        dated.begin("b").run()

    with _told("K1"):
        dated.resume("b").run()
    dated.resume("b").run()


def test_what_may_be_a_running_workers_is_not_reported_yet(dated: Lab) -> None:
    _lose_a_key(dated)

    dated.begin("b").run()

    assert dated.alive() == {"K0", "K1", dated.serves()}
    with pytest.raises(Untraceable, match="K1"):
        dated.run_late("c")


def test_a_lost_try_that_left_nothing_is_not_reported(dated: Lab) -> None:
    """The list says so, and the intent is forgotten."""
    dated.fail_at("issuer.mint", _lost())
    with pytest.raises(Unreachable):
        dated.begin("a").run()
    dated.mend()
    dated.world.clock.advance(2 * LONG)

    dated.begin("b").run()

    assert dated.store.intents(REF) == []


def test_a_sweep_does_not_forget_what_is_to_be_reported(dated: Lab) -> None:
    """It is what adopting a value does; the next create has to tell."""
    _lose_a_key(dated)
    dated.store.begin(RotationId("b"))
    dated.world.clock.advance(2 * LONG)

    dated.target("b").sweep(dated.first, dated.store.kept(REF))

    assert len(dated.store.intents(REF)) == 1
    assert "K1" in dated.alive()


def test_a_suspect_that_takes_the_room_is_named_as_foreign(dated: Lab) -> None:
    dated.issuer.limit = 2
    _lose_a_key(dated)
    dated.world.clock.advance(LONG)
    with _told("K1"):
        dated.begin("b").run()

    with pytest.raises(Drifted, match="K1"):
        dated.resume("b").run()


# ---------------------------------------------------------------------------- without a list


@pytest.fixture
def unlisted(lab: Lab) -> Lab:
    lab.issuer.trace = Trace.NONE
    lab.issuer.limit = 9
    return lab


def test_without_a_list_earlier_keys_are_deleted_all_the_same(unlisted: Lab) -> None:
    for name in ("a", "b", "c"):
        unlisted.run_late(name)

    assert unlisted.alive() == {"K2", "K3"}
    assert "issuer.list" not in unlisted.world.calls


def test_without_a_list_a_lost_reply_is_reported(unlisted: Lab) -> None:
    """As something for a person: asked again, the issuer would make another such key."""
    unlisted.fail_at("issuer.mint", _lost(), after=True)
    with pytest.raises(Untraceable, match="one may be left"):
        unlisted.begin("a").run()
    unlisted.mend()

    with pytest.raises(Untraceable):
        unlisted.resume("a").run()
    assert unlisted.world.calls.count("issuer.mint") == 1


def test_without_a_list_a_crash_is_reported_once_and_gone_on_from(unlisted: Lab) -> None:
    _lose_a_key(unlisted)
    unlisted.store.abandon()
    unlisted.world.clock.advance(2 * LONG)

    with _told("one may be left"):
        unlisted.begin("b").run()
    unlisted.resume("b").run()

    assert unlisted.serves() == "K2"
    unlisted.run_late("c")


def test_without_a_list_a_sweep_reports_nothing_and_forgets_nothing(unlisted: Lab) -> None:
    """It is what adopting a value does; the next create has to tell."""
    _lose_a_key(unlisted)
    unlisted.store.begin(RotationId("b"))
    unlisted.world.clock.advance(2 * LONG)

    unlisted.target("b").sweep(unlisted.first, unlisted.store.kept(REF))

    assert len(unlisted.store.intents(REF)) == 1


def test_without_a_list_a_good_rotation_reports_nothing(unlisted: Lab) -> None:
    unlisted.run_late("a")
    unlisted.world.clock.advance(2 * LONG)

    unlisted.begin("b").run()

    assert unlisted.serves() == "K2"


def test_without_a_list_a_key_that_was_discarded_is_not_reported(unlisted: Lab) -> None:
    first = unlisted.begin("a")

    def overtake(_: int, name: str) -> None:
        if name == "issuer.mint":
            unlisted.store.begin(RotationId("b"))

    unlisted.world.after = overtake
    with pytest.raises(Busy):
        first.run()
    unlisted.mend()

    unlisted.run_late("b")

    assert unlisted.alive() == {"K0", "K2"}
    unlisted.run_late("c")


@pytest.mark.parametrize("answer", [Busy("full", remedy=""), Denied("no", remedy="")], ids=str)
def test_a_refusal_is_an_answer_and_leaves_no_intent(unlisted: Lab, answer: KeyturnError) -> None:
    """Nothing was made: it is tried again as soon as it may be."""
    unlisted.fail_at("issuer.mint", answer)
    with pytest.raises(type(answer)):
        unlisted.begin("a").run()
    unlisted.mend()

    unlisted.resume("a").run()

    assert unlisted.serves() == "K1"


def test_a_repeatable_create_is_asked_again_in_the_same_rotation(unlisted: Lab) -> None:
    unlisted.issuer.trace = Trace.RETRY
    unlisted.fail_at("issuer.mint", _lost())
    with pytest.raises(Unreachable):
        unlisted.begin("a").run()
    unlisted.mend()

    unlisted.resume("a").run()

    assert unlisted.serves() == "K1"


def test_a_repeatable_create_that_was_abandoned_is_reported(unlisted: Lab) -> None:
    unlisted.issuer.trace = Trace.RETRY
    _lose_a_key(unlisted)
    unlisted.store.abandon()
    unlisted.world.clock.advance(2 * LONG)

    with _told("one may be left"):
        unlisted.begin("b").run()
    unlisted.resume("b").run()


# ---------------------------------------------------------------------------- proof


def test_our_own_test_of_a_key_that_was_abandoned_is_no_use_of_it(lab: Lab) -> None:
    """Else it would rest for ever, and leave no room."""
    lab.world.clock.advance(2 * LONG)
    rotation = lab.begin("a")
    for step in (Step.CREATE, Step.TEST):
        rotation.perform(step)
    lab.issuer.keys_by_id["K1"].used_at = lab.world.clock.now()
    lab.store.abandon()

    lab.run_late("b")

    assert lab.alive() == {"K0", lab.serves()}


def test_one_good_use_is_no_proof(lab: Lab) -> None:
    """The first hosts say no, yes, no, yes, no: three in a row count, and finish asks again."""
    lab.begin("a").run()

    assert lab.world.calls.count("issuer.verify") == 5 + 3 + 3


def test_a_wait_ends_with_the_time_and_the_next_call_goes_on(lab: Lab) -> None:
    rotation = lab.begin("a")
    rotation.perform(Step.CREATE)
    lab.seconds = 1.0
    with pytest.raises(NotYetAccepted):
        rotation.perform(Step.TEST)
    lab.seconds = 100.0

    rotation.perform(Step.TEST)

    assert lab.world.calls.count("issuer.mint") == 1


def test_a_key_that_is_never_accepted_is_waited_for_once_per_call(lab: Lab) -> None:
    unknown = replace(lab.first, principal="none")

    assert lab.target("a").accepts(unknown) is False

    assert 30 < sum(lab.paused) <= 60
    assert lab.paused[:4] == [1.0, 2.0, 4.0, 8.0]


def test_pending_for_another_holder_is_refused(lab: Lab) -> None:
    other = Version(
        RotationId("a"), replace(lab.first, fields={"holder": "x"}), lab.world.clock.now()
    )
    current = lab.store.serves()

    with pytest.raises(Drifted, match="another holder"):
        lab.target("a").set(lambda: other, current, [])


def test_to_check_makes_nothing(lab: Lab) -> None:
    lab.store.begin(RotationId("a"))
    target = lab.target("a")

    target.check(lab.first, lab.store.kept(REF))
    lab.add("HUMAN")
    with pytest.raises(Drifted):
        target.check(lab.first, lab.store.kept(REF))

    assert lab.alive() == {"K0", "HUMAN"}


# ---------------------------------------------------------------------------- retire


def _rotated(lab: Lab) -> MintedKeys:
    lab.begin("a").run()
    lab.world.clock.advance(LONG)
    return lab.target("a")


def test_retire_deactivates_what_is_spent_and_may_be_repeated(lab: Lab) -> None:
    target = _rotated(lab)

    for _ in range(2):
        target.retire(lab.store.serves)

    assert not lab.issuer.keys_by_id["K0"].is_active
    assert lab.alive() == {"K0", "K1"}
    assert lab.issuer.would_accept(lab.store.serves().credential)


def test_retire_waits_for_grace_and_for_the_last_use(lab: Lab) -> None:
    target = _rotated(lab)
    lab.issuer.keys_by_id["K0"].used_at = lab.world.clock.now()

    with pytest.raises(Busy, match="K0"):
        target.retire(lab.store.serves)

    assert lab.issuer.keys_by_id["K0"].is_active


def test_retire_needs_a_current_that_works(lab: Lab) -> None:
    target = _rotated(lab)
    lab.issuer.keys_by_id["K1"].is_active = False

    with pytest.raises(NotYetAccepted):
        target.retire(lab.store.serves)

    assert lab.issuer.keys_by_id["K0"].is_active


def test_retire_leaves_a_persons_key(lab: Lab) -> None:
    target = _rotated(lab)
    lab.remove("K0")
    human = lab.add("HUMAN")

    target.retire(lab.store.serves)

    assert human.is_active


def test_an_error_is_ours(lab: Lab) -> None:
    """Nothing that the core raises here holds a secret."""
    lab.add("HUMAN")

    with pytest.raises(KeyturnError) as caught:
        lab.begin("a").run()

    assert "Canary7" not in str(caught.value) + caught.value.remedy
