"""API keys of Google Cloud keep the promises of every issuer, over real HTTP."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from keyturn import line
from keyturn.errors import (
    Busy,
    Denied,
    Drifted,
    KeyturnError,
    NotYetAccepted,
    Unreachable,
)
from keyturn.minted import MintedKeys, Place
from keyturn.model import Credential, RotationId, Sensitive, Surroundings
from keyturn.rotation import Rotation
from keyturn.targets.google_api_key import (
    LIMIT,
    MARGIN_S,
    PERMISSIONS,
    REPLACES,
    GoogleApiKeys,
    issuer,
)
from keyturn.testing.contracts import ATTEMPT, CANARY, LONG_S, Mint, MintedContract
from keyturn.testing.fakes import REF, Crash, LabelledStore, World
from keyturn.testing.strict_google_api_keys import (
    PARENT,
    PROJECT,
    ApiKey,
    StrictGoogleApiKeys,
    Undocumented,
)

PAGE = (Path(__file__).parents[2] / "docs" / "google-api-keys.md").read_text(encoding="utf-8")
ENGINE = {"engine": "google-api-key"}
RESTRICTIONS = {"apiTargets": [{"service": "maps.googleapis.com", "methods": ["Get*"]}]}
ACCOUNT = "maps@shop.iam.gserviceaccount.com"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "PAUSE_S", 0.0)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def service(world: World) -> Iterator[StrictGoogleApiKeys]:
    with StrictGoogleApiKeys(world.clock.now) as running:
        yield running


@pytest.fixture
def first(service: StrictGoogleApiKeys) -> ApiKey:
    key = service.make_key("partner")
    key.shown = {
        "displayName": "Partner, maps",
        "restrictions": RESTRICTIONS,
        "annotations": {"team": "shop"},
    }
    return key


@pytest.fixture
def current(first: ApiKey) -> Credential:
    return _credential(first)


def _credential(key: ApiKey) -> Credential:
    return Credential(key.name, key.value, ENGINE)


def _issuer(
    service: StrictGoogleApiKeys,
    world: World,
    *,
    limit: int = LIMIT,
    remaining_s: Callable[[], float] = lambda: 60.0,
    holders: tuple[str, ...] = (PROJECT,),
) -> GoogleApiKeys:
    surroundings = Surroundings(remaining_s, key_holders=holders, google_endpoint=service.endpoint)
    return GoogleApiKeys(
        surroundings, limit, lambda seconds: world.clock.advance(timedelta(seconds=seconds))
    )


WAYS = {
    "at once": Undocumented(),
    "in its time": Undocumented(operation_s=3.0, lookup_lag_s=10.0, list_lag_s=5.0),
    "deleted is gone": Undocumented(shows_deleted=False, reads_deleted=False),
    "refused late": Undocumented(operation_s=1.0, fails_late=True),
}


class TestGoogleApiKeys(MintedContract):
    """A project with two keys at most: it has 300 at the beginning."""

    @pytest.fixture(params=WAYS)
    def mint(
        self,
        service: StrictGoogleApiKeys,
        world: World,
        current: Credential,
        request: pytest.FixtureRequest,
    ) -> Mint:
        service.quota = 2
        service.undocumented = WAYS[request.param]
        numbers = iter(range(9))
        other = current.principal.replace(PROJECT, "projects/987654321")
        return Mint(
            _issuer(service, world, limit=2),
            current,
            replace(current, principal=other),
            world,
            lambda seconds: world.clock.advance(timedelta(seconds=seconds)),
            lambda: {key.name for key in service.alive()},
            lambda: service.make_key(f"by-hand-{next(numbers)}", age=timedelta(hours=3)).name,
            service.outage,
            lambda: service.lose(name="CreateKey"),
        )

    @pytest.fixture(autouse=True)
    def _served(self, service: StrictGoogleApiKeys) -> None:
        self.service = service

    def test_a_key_dies_by_degrees_and_may_be_killed_twice(self, mint: Mint) -> None:
        """There is one degree, which a person can take back for 30 days; no call purges a key."""
        made = mint.issuer.mint(mint.current, ATTEMPT)
        mint.pass_time(LONG_S)
        kills = (mint.issuer.deactivate, mint.issuer.delete)

        for kill in (*kills, *kills):
            kill(mint.current, made.principal)
            mint.pass_time(LONG_S)

            assert mint.issuer.verify(made) is False
            assert [key.id for key in mint.issuer.keys(made)] == [mint.current.principal]
            assert mint.alive() == {mint.current.principal}
        self.service.undelete(made.principal)
        assert mint.issuer.verify(made)

    def test_use_is_seen(self, mint: Mint) -> None:
        """No: the service does not tell, and the issuer says so."""
        made = mint.issuer.mint(mint.current, ATTEMPT)
        mint.pass_time(LONG_S)
        assert mint.issuer.verify(made)

        assert mint.issuer.last_used(mint.current, made.principal) is None
        assert mint.issuer.usage_lag is None

    def test_no_answer_is_no_refusal(self, mint: Mint) -> None:
        """As for every issuer, but for a last use: nobody is asked for that."""
        key_id = mint.current.principal
        acts: list[Callable[[], object]] = [
            lambda: mint.issuer.check(mint.current),
            lambda: mint.issuer.keys(mint.current),
            lambda: mint.issuer.mint(mint.current, ATTEMPT),
            lambda: mint.issuer.verify(mint.current),
            lambda: mint.issuer.deactivate(mint.current, key_id),
            lambda: mint.issuer.delete(mint.current, key_id),
        ]
        with mint.outage():
            for act in acts:
                with pytest.raises(Unreachable):
                    act()

        assert mint.alive() == {key_id}


class Shop:
    """A secret in a store, and its rotations."""

    def __init__(self, world: World, service: StrictGoogleApiKeys, first: Credential) -> None:
        self.world, self.service, self.first = world, service, first
        self.store = LabelledStore(world, first)
        self.on_time: Callable[[], None] = lambda: None

    def rotation(self, name: str) -> Rotation:
        """Begin a rotation."""
        self.store.begin(RotationId(name))
        return self.resume(name)

    def resume(self, name: str) -> Rotation:
        """Go on with one, as another worker does."""

        def pause(seconds: float) -> bool:
            self.world.clock.advance(timedelta(seconds=seconds))
            return True

        def remaining_s() -> float:
            self.on_time()
            return 60.0

        keys = _issuer(self.service, self.world, remaining_s=remaining_s)
        place = Place(self.store, REF, RotationId(name))
        target = MintedKeys(keys, place, self.world.clock, pause)
        return Rotation(
            REF,
            RotationId(name),
            store=self.store,
            targets=lambda _: target,
            clock=self.world.clock,
        )

    def rotate(self, name: str) -> ApiKey:
        """Rotate, after a long time, and return the key that is served then."""
        self.world.clock.advance(timedelta(seconds=LONG_S))
        self.rotation(name).run()
        return self.serves()

    def serves(self) -> ApiKey:
        served = self.store.serves().credential
        key = self.service.keys[served.principal]
        assert key.value == served.secret
        return key

    def alive(self) -> list[str]:
        return [key.name for key in self.service.alive()]

    def put(self, key: ApiKey, name: str) -> None:
        """Store a key by hand."""
        self.store.begin(RotationId(name))
        seen = self.store.snapshot(REF, RotationId(name))
        self.store.stage(REF, RotationId(name), _credential(key), seen)
        self.store.promote(REF, RotationId(name), self.store.snapshot(REF, RotationId(name)))


@pytest.fixture
def shop(world: World, service: StrictGoogleApiKeys, current: Credential) -> Shop:
    return Shop(world, service, current)


# ---------------------------------------------------------------------------- a key's life


def test_the_next_key_may_do_what_the_one_before_may(shop: Shop, first: ApiKey) -> None:
    """And it is called the same, so that people know it."""
    first.shown["serviceAccountEmail"] = ACCOUNT
    made = shop.rotate("a")

    assert made.name != first.name
    assert made.shown == {
        "displayName": "Partner, maps",
        "restrictions": RESTRICTIONS,
        "serviceAccountEmail": ACCOUNT,
        "annotations": {"team": "shop", REPLACES: "partner"},
    }
    assert shop.rotate("b").shown == made.shown


def test_a_key_without_restrictions_is_followed_by_such_a_one(shop: Shop, first: ApiKey) -> None:
    """Whatever one thinks of it: to restrict it is not for a rotation."""
    first.shown.clear()

    assert shop.rotate("a").shown == {"annotations": {REPLACES: "partner"}}


def test_the_id_of_a_key_says_for_which_secret_it_was_made_and_when(shop: Shop) -> None:
    made = shop.rotate("a")

    assert re.fullmatch(
        rf"{PARENT}/keyturn-[0-9a-f]{{16}}-[0-9]{{8}}t[0-9]{{6}}z-\w{{8}}", made.name
    )
    listed = _issuer(shop.service, shop.world).keys(shop.first)
    assert re.fullmatch(r"keyturn-[0-9a-f]{16}-[0-9]{8}T[0-9]{6}Z-\w{8}", listed[-1].name)
    assert [key.name for key in listed[:-1]] == [""]


def test_the_key_before_works_until_the_next_rotation(shop: Shop, first: ApiKey) -> None:
    second = shop.rotate("a")
    assert shop.alive() == [first.name, second.name]

    third = shop.rotate("b")

    assert shop.alive() == [second.name, third.name]
    assert shop.service.opens(second.value)


def test_a_key_is_retired_by_deletion_and_a_person_can_take_it_back(
    shop: Shop, first: ApiKey
) -> None:
    shop.rotate("a")
    shop.world.clock.advance(timedelta(seconds=LONG_S))
    target = shop.resume("a")._targets(shop.first)  # noqa: SLF001  # as the follow-up has it

    target.retire(shop.store.serves)  # type: ignore[attr-defined]

    assert first.deleted_at is not None
    shop.service.undelete(first.name)
    assert shop.service.opens(first.value)


def test_many_keys_come_on_many_pages(shop: Shop) -> None:
    shop.service.page_size = 1
    theirs = [shop.service.make_key(f"theirs-{number}").name for number in range(3)]

    listed = _issuer(shop.service, shop.world).keys(shop.first)

    assert [key.id for key in listed] == [shop.first.principal, *theirs]


# ---------------------------------------------------------------------------- whose key it is


def test_keys_of_others_are_left_alone_whatever_their_names(shop: Shop) -> None:
    theirs = [
        shop.service.make_key(name).name
        for name in ("partner-2", "keyturn-", "keyturn-by-hand", f"keyturn-{'0' * 16}-x")
    ]

    for name in ("a", "b", "c"):
        shop.rotate(name)

    assert {*theirs} < {*shop.alive()}
    assert len(shop.alive()) == len(theirs) + 2


def test_the_key_of_another_secret_is_left_alone(shop: Shop) -> None:
    """Made by keyturn, too, long ago: its id tells whose it is."""
    theirs = shop.service.make_key(ATTEMPT.name.lower())

    for name in ("a", "b", "c"):
        shop.rotate(name)

    assert theirs.name in shop.alive()


def test_whoever_may_write_the_secret_cannot_have_others_keys_deleted(shop: Shop) -> None:
    """They store another key's name, then a good one again, and wait."""
    shop.rotate("a")
    theirs = [shop.service.make_key("payments"), shop.service.make_key(ATTEMPT.name.lower())]
    good = shop.serves()
    for number, key in enumerate(theirs):
        shop.put(replace(key, value=Sensitive(f"{CANARY}made-up")), f"evil-{number}")
    shop.put(good, "good")

    for name in ("b", "c", "d"):
        shop.rotate(name)

    assert {key.name for key in theirs} < {*shop.alive()}


def test_nor_if_the_good_one_was_made_by_hand(shop: Shop, first: ApiKey) -> None:
    """It tells of no secret, so it must not tell of all of them."""
    theirs = shop.service.make_key(ATTEMPT.name.lower())
    theirs.shown = {"annotations": {REPLACES: "payments"}}
    shop.put(replace(theirs, value=Sensitive(f"{CANARY}made-up")), "evil")
    shop.put(first, "good")

    for name in ("a", "b", "c"):
        shop.rotate(name)

    assert theirs.name in shop.alive()


def test_what_a_crash_has_left_of_the_first_rotation_is_deleted(shop: Shop, first: ApiKey) -> None:
    """By the next try, even if none has ever come to its end: they must not add up."""
    for name in ("a", "b", "c"):
        shop.world.after = _die_after_mint(shop)
        shop.world.clock.advance(timedelta(seconds=LONG_S))
        with pytest.raises(Crash):
            shop.rotation(name).run()
        shop.world.after = _carry_on
        shop.store.abandon()

        assert len(shop.alive()) == 2
    assert first.name in shop.alive()


def _die_after_mint(shop: Shop) -> Callable[..., None]:
    made = shop.service.asked.count("CreateKey")

    def die(*_: object) -> None:
        if shop.service.asked.count("CreateKey") > made:
            raise Crash

    return die


def test_a_key_that_a_person_has_put_in_is_followed_and_then_deleted(shop: Shop) -> None:
    """And what there was before it, too: what keyturn had made, and what that had replaced."""
    second = shop.rotate("a")
    by_hand = shop.service.make_key("by-hand")
    shop.put(by_hand, "hand")

    third = shop.rotate("b")
    fourth = shop.rotate("c")
    shop.rotate("d")

    assert {by_hand.name, second.name, third.name}.isdisjoint(shop.alive())
    assert shop.alive() == [fourth.name, shop.serves().name]
    assert fourth.shown["annotations"] == {REPLACES: "by-hand"}


def test_a_value_of_another_key_is_no_current(shop: Shop, first: ApiKey) -> None:
    """Nor is its name without the value: nobody gets a key like another by naming it."""
    theirs = shop.service.make_key("payments")
    keys = _issuer(shop.service, shop.world)

    with pytest.raises(Drifted, match="has another value than the secret"):
        keys.check(replace(shop.first, secret=theirs.value))
    with pytest.raises(Drifted, match="has another value than the secret"):
        keys.check(replace(shop.first, principal=theirs.name))
    with pytest.raises(Drifted, match="there is no key projects"):
        keys.check(replace(shop.first, principal=f"{PARENT}/nothing"))
    keys.check(_credential(first))


# ---------------------------------------------------------------------------- what is proven


def test_a_value_that_is_not_the_keys_own_is_sent_nowhere(shop: Shop) -> None:
    """The look-up has it in its address."""
    keys = _issuer(shop.service, shop.world)
    shop.service.asked.clear()

    assert not keys.verify(replace(shop.first, secret=Sensitive(f"{CANARY}other")))

    assert shop.service.asked == ["GetKey", "GetKeyString"]


def test_a_deleted_key_is_refused_though_its_value_still_leads_to_it(
    shop: Shop, first: ApiKey
) -> None:
    keys = _issuer(shop.service, shop.world)
    first.deleted_at = shop.world.clock.now()

    assert not keys.verify(shop.first)


@pytest.mark.parametrize("unknown", ["NOT_FOUND", "INVALID_ARGUMENT", "PERMISSION_DENIED"])
def test_a_key_is_served_when_its_value_leads_to_it(shop: Shop, unknown: str) -> None:
    """Whatever the service says of a value that it does not know yet."""
    shop.service.undocumented = Undocumented(lookup_lag_s=30.0, unknown=unknown)
    began = shop.world.clock.now()

    shop.rotation("a").run()

    assert shop.world.clock.now() - began >= timedelta(seconds=30)
    assert shop.service.opens(shop.serves().value)


def test_whoever_may_not_look_keys_up_hears_so_before_one_is_made(shop: Shop) -> None:
    shop.service.undocumented = Undocumented(lookup_lag_s=1e9, unknown="PERMISSION_DENIED")

    with pytest.raises(Denied):
        shop.rotation("a").run()

    assert shop.alive() == [shop.first.principal]


def test_a_leaked_key_that_is_deleted_at_once_can_be_followed(shop: Shop, first: ApiKey) -> None:
    """First deleted, then rotated: its restrictions can still be read."""
    first.deleted_at = shop.world.clock.now()

    made = shop.rotate("a")

    assert made.shown["restrictions"] == RESTRICTIONS
    assert shop.alive() == [made.name]


def test_one_that_cannot_be_read_any_more_is_named(shop: Shop, first: ApiKey) -> None:
    first.deleted_at = shop.world.clock.now()
    shop.service.undocumented = Undocumented(reads_deleted=False)

    with pytest.raises(Drifted, match="has another value"):
        shop.rotate("a")


# ---------------------------------------------------------------------------- refusals


def _why(keys: GoogleApiKeys, credential: Credential) -> str:
    try:
        keys.check(credential)
    except KeyturnError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def test_only_projects_that_the_deployment_names_are_touched(
    service: StrictGoogleApiKeys, world: World, current: Credential
) -> None:
    def why(*holders: str, name: str = current.principal) -> str:
        keys = _issuer(service, world, holders=holders)
        return _why(keys, replace(current, principal=name))

    assert why(PROJECT, "arn:aws:iam::123456789012:user/x", "a@b.iam.gserviceaccount.com") == (
        "nothing"
    )
    assert why().startswith("Denied: projects/123456789 is not a project")
    for other in ("projects/12345678", "projects/*", "*", current.principal, "123456789"):
        assert why(other).startswith("Denied")
    for malformed in (
        "partner",
        f"{PROJECT}/locations/global/keys/",
        f"{PROJECT}/locations/global/keys/partner/keyString",
        f"{PROJECT}/locations/global/keys/partner?x=y",
        f"{PROJECT}/locations/europe-west1/keys/partner",
        "projects/shop-42/locations/global/keys/partner",
        f"{PROJECT}/locations/global/keys/../../../projects/1",
    ):
        assert why(PROJECT, name=malformed).startswith("Misconfigured: the secret's 'name'")


def test_keys_that_people_have_made_may_be_called_by_their_uuid(
    service: StrictGoogleApiKeys, world: World
) -> None:
    made = service.make_key("7ff1f9f8-8275-410a-94dd-3855ee9b5dd2")

    assert _why(_issuer(service, world), _credential(made)) == "nothing"


@pytest.mark.parametrize("fails_late", [True, False])
@pytest.mark.parametrize(
    "code, kind",
    [
        ("FAILED_PRECONDITION", Busy),
        ("RESOURCE_EXHAUSTED", Unreachable),
        ("PERMISSION_DENIED", Denied),
    ],
)
def test_whatever_says_that_there_are_too_many_nothing_is_lost(
    shop: Shop, code: str, kind: type[KeyturnError], *, fails_late: bool
) -> None:
    shop.service.undocumented = Undocumented(full=code, fails_late=fails_late)
    shop.service.quota = 1

    with pytest.raises(kind):
        shop.rotation("a").run()

    assert shop.alive() == [shop.first.principal]
    shop.service.quota = 2
    shop.rotation("a").run()
    assert len(shop.alive()) == 2


def test_a_wait_ends_in_time_to_report(
    service: StrictGoogleApiKeys, world: World, current: Credential
) -> None:
    service.undocumented = Undocumented(operation_s=100.0)
    began = world.clock.now()

    def remaining_s() -> float:
        return 60.0 - (world.clock.now() - began).total_seconds()

    with pytest.raises(NotYetAccepted, match="is not ready"):
        _issuer(service, world, remaining_s=remaining_s).mint(current, ATTEMPT)

    assert remaining_s() >= MARGIN_S


def test_the_default_is_what_google_allows(service: StrictGoogleApiKeys) -> None:
    made = issuer(Surroundings(lambda: 60.0, google_endpoint=service.endpoint))

    assert made.limit == LIMIT == 300


def test_an_operation_of_a_strange_name_is_asked_for_nowhere(
    service: StrictGoogleApiKeys, world: World, current: Credential
) -> None:
    keys = _issuer(service, world)
    for name in ("", "operations/../projects/1", "projects/1/operations/x", "operations/a b"):
        with pytest.raises(Unreachable):
            keys._outcome(current.principal, {"name": name})  # noqa: SLF001


# ---------------------------------------------------------------------------- crashes

CALLS = 40
"""More than a rotation makes, of the service and of the store."""


@pytest.mark.parametrize("number", range(CALLS))
@pytest.mark.parametrize("is_repeated", [True, False], ids=["repeated", "abandoned"])
def test_a_lost_reply_leaves_nothing_behind(shop: Shop, number: int, *, is_repeated: bool) -> None:
    """At every call of a rotation that has something to delete. A reader looks after each call."""
    theirs = shop.service.make_key("theirs")
    shop.rotate("a")
    seen: list[bool] = []
    shop.service.after = lambda _: seen.append(shop.service.opens(shop.serves().value))

    with shop.service.lose(number=number):
        shop.rotate("b")  # Each call is made again, and none of them makes a second key.
    _settle(shop, is_repeated=is_repeated)

    assert all(seen)
    assert [each for each in shop.alive() if each == theirs.name] == [theirs.name]
    assert len(shop.alive()) == 3  # theirs, current's, and the one before


def _settle(shop: Shop, *, is_repeated: bool) -> None:
    if is_repeated:
        shop.resume("b").run()
    else:
        shop.store.abandon()
    for name in ("c", "d"):
        shop.rotate(name)


@pytest.mark.parametrize("number", range(1, CALLS))
@pytest.mark.parametrize("where", ["request", "before", "after"])
@pytest.mark.parametrize("is_repeated", [True, False], ids=["repeated", "abandoned"])
def test_a_crash_leaves_nothing_behind(
    shop: Shop, number: int, where: str, *, is_repeated: bool
) -> None:
    """Before any request, and before or after any call of the store."""
    theirs = shop.service.make_key("theirs")
    shop.rotate("a")
    seen: list[bool] = []
    shop.service.after = lambda _: seen.append(shop.service.opens(shop.serves().value))
    left = iter(range(number, -CALLS * 9, -1))

    def die(*_: object) -> None:
        if next(left) == 1:
            raise Crash

    match where:
        case "request":
            shop.on_time = die
        case "before":
            shop.world.before = die
        case "after":
            shop.world.after = die
    shop.world.clock.advance(timedelta(seconds=LONG_S))
    with suppress(Crash):
        shop.rotation("b").run()
    shop.on_time, shop.world.before, shop.world.after = (_carry_on,) * 3
    shop.world.clock.advance(timedelta(seconds=LONG_S))
    _settle(shop, is_repeated=is_repeated)

    assert all(seen)
    assert theirs.name in shop.alive()
    assert len(shop.alive()) == 3


def _carry_on(*_: object) -> None:
    """Do not die."""


def test_every_call_of_a_rotation_is_in_that_sweep(shop: Shop) -> None:
    shop.rotate("a")
    asked, called = len(shop.service.asked), len(shop.world.calls)

    shop.rotate("b")

    assert len(shop.service.asked) - asked < CALLS
    assert len(shop.world.calls) - called < CALLS
    assert {*shop.service.asked[asked:]} == {
        *("CreateKey", "DeleteKey", "GetKey", "GetKeyString", "ListKeys", "LookupKey"),
    }


def test_two_workers_of_one_rotation_keep_one_key_and_delete_the_other(shop: Shop) -> None:
    """Each has a key of its own: what one discards, the other never has."""
    done: list[str] = []

    def overtake(*_: object) -> None:
        if "CreateKey" in shop.service.asked and not done:
            done.append("a")
            shop.resume("a").run()

    shop.world.before = overtake
    with pytest.raises(Busy):
        shop.rotation("a").run()

    assert shop.alive() == [shop.first.principal, shop.serves().name]


# ---------------------------------------------------------------------------- the deployment


def test_what_is_asked_for_is_what_is_declared_and_what_the_page_grants() -> None:
    (text,) = re.findall(r"--permissions=(\S+)", PAGE)

    assert sorted(text.split(",")) == [*PERMISSIONS]
