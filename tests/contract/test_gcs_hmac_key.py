"""HMAC keys of Cloud Storage keep the promises of every issuer, over real HTTP."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from keyturn import line
from keyturn.errors import Busy, Denied, KeyturnError, Misconfigured, Unreachable, Untraceable
from keyturn.minted import MintedKeys, Place
from keyturn.model import Credential, RotationId, Surroundings
from keyturn.rotation import Rotation
from keyturn.targets.gcs_hmac_key import LIMIT, PERMISSIONS, HmacKeys, issuer
from keyturn.testing.contracts import ATTEMPT, LONG_S, Mint, MintedContract
from keyturn.testing.fakes import REF, LabelledStore, World
from keyturn.testing.strict_gcs_hmac import ACCOUNT, StrictHmacKeys

PAGE = (Path(__file__).parents[2] / "docs" / "gcs-hmac-keys.md").read_text(encoding="utf-8")
FIELDS = {"engine": "gcs-hmac-key", "service_account": ACCOUNT}
OTHER = "other@shop-42.iam.gserviceaccount.com"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "PAUSE_S", 0.0)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def service(world: World) -> Iterator[StrictHmacKeys]:
    with StrictHmacKeys(world.clock.now) as running:
        yield running


@pytest.fixture
def current(service: StrictHmacKeys) -> Credential:
    return Credential(*service.make_key(), FIELDS)


def keys_of(service: StrictHmacKeys, world: World, limit: int = LIMIT, *holders: str) -> HmacKeys:
    surroundings = Surroundings(
        lambda: 60.0, key_holders=holders or (ACCOUNT,), google_endpoint=service.endpoint
    )
    return HmacKeys(surroundings, limit, world.clock.now)


class TestHmacKeys(MintedContract):
    """An account that may have two keys; it has ten in truth."""

    @pytest.fixture(params=[0.0, 20.0], ids=["at once", "in its time"])
    def mint(
        self,
        service: StrictHmacKeys,
        world: World,
        current: Credential,
        request: pytest.FixtureRequest,
    ) -> Mint:
        service.quota, service.lag_s = 2, request.param
        return Mint(
            keys_of(service, world, 2),
            current,
            replace(current, fields={**FIELDS, "service_account": OTHER}),
            world,
            lambda seconds: world.clock.advance(timedelta(seconds=seconds)),
            service.alive,
            lambda: service.make_key(timedelta(hours=3))[0],
            service.outage,
            lambda: service.lose("create"),
        )

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

    @pytest.fixture
    def roomy(self, mint: Mint, service: StrictHmacKeys, world: World) -> Mint:
        service.quota = 3
        return replace(mint, issuer=keys_of(service, world, 3))

    def test_a_lost_reply_leaves_no_orphan(self, roomy: Mint) -> None:
        """It does: nothing proves that the key is ours. It is told of, once, by its id."""
        mint, store = roomy, LabelledStore(roomy.world, roomy.current)
        with mint.lose_mint(), pytest.raises(Unreachable):
            self._rotation(mint, store, "a").run()
        [lost] = mint.alive() - {mint.current.principal}
        mint.pass_time(LONG_S)
        with pytest.raises(Untraceable, match=lost) as caught:
            self._rotation(mint, store, "b").run()
        caught.value.when_told()

        self._rotation(mint, store, "c").run()

        assert mint.alive() == {mint.current.principal, lost, store.serves().credential.principal}


# ---------------------------------------------------------------------------- what works


@pytest.mark.parametrize("may_list", [True, False], ids=["may list buckets", "may not"])
def test_a_key_works_if_its_signature_is_right_whatever_it_may(
    service: StrictHmacKeys, world: World, current: Credential, *, may_list: bool
) -> None:
    """The stand-in asks boto what the signature has to be."""
    service.may_list = may_list

    assert keys_of(service, world).verify(current)
    assert service.asked[-1] == "buckets"


def test_an_answer_that_says_nothing_of_the_key_is_no_refusal(
    service: StrictHmacKeys, world: World, current: Credential
) -> None:
    service.is_ill = True

    with pytest.raises(Unreachable, match="says nothing of the key"):
        keys_of(service, world).verify(current)


# ---------------------------------------------------------------------------- refusals


def test_a_full_account_comes_again(
    service: StrictHmacKeys, world: World, current: Credential
) -> None:
    service.quota = 1

    with pytest.raises(Busy, match="takes no further key now") as caught:
        keys_of(service, world).mint(current, ATTEMPT)

    assert "10 keys" in caught.value.remedy


def test_a_key_of_another_account_is_left_alone(
    service: StrictHmacKeys, world: World, current: Credential
) -> None:
    """Whoever may write the secret could have any key of the project deleted."""
    theirs, _ = service.make_key(account=OTHER)
    keys = keys_of(service, world)

    keys.deactivate(current, theirs)
    keys.delete(current, theirs)

    assert service.keys[theirs].state == "ACTIVE"
    assert keys.verify(replace(current, principal=theirs)) is False


def test_what_a_person_has_changed_meanwhile_is_not_undone(
    service: StrictHmacKeys, world: World, current: Credential
) -> None:
    """An etag goes with the change; another one is another time's business."""

    def change(name: str) -> None:
        if name == "update":
            service.keys[current.principal].etag += 1

    service.before = change

    with pytest.raises(KeyturnError, match=r"hmacKeys\.update answered FAILED_PRECONDITION"):
        keys_of(service, world).deactivate(current, current.principal)
    assert service.keys[current.principal].state == "ACTIVE"


@pytest.mark.parametrize(
    "account, kind",
    [
        (OTHER, Denied),
        ("backup@shop-42.example.com", Misconfigured),
        ("12345-compute@developer.gserviceaccount.com", Misconfigured),
        ("", Misconfigured),
    ],
)
def test_only_accounts_that_the_deployment_names_are_touched(
    service: StrictHmacKeys,
    world: World,
    current: Credential,
    account: str,
    kind: type[KeyturnError],
) -> None:
    stranger = replace(current, fields={**FIELDS, "service_account": account})
    keys = keys_of(service, world)

    for act in (keys.check, keys.keys, keys.verify, lambda each: keys.mint(each, ATTEMPT)):
        with pytest.raises(kind):
            act(stranger)
    assert service.asked == []


def test_an_id_that_is_none_is_put_into_no_address(
    service: StrictHmacKeys, world: World, current: Credential
) -> None:
    keys = keys_of(service, world)

    for act in (keys.deactivate, keys.delete):
        with pytest.raises(Misconfigured):
            act(current, "../../other")
    assert keys.verify(replace(current, principal="../x")) is False
    assert service.asked == []


def test_keys_come_on_many_pages(
    service: StrictHmacKeys, world: World, current: Credential
) -> None:
    service.page_size = 1
    theirs = {service.make_key()[0] for _ in range(3)}

    found = {key.id for key in keys_of(service, world).keys(current)}

    assert found == {current.principal, *theirs}


def test_the_limit_is_googles(service: StrictHmacKeys) -> None:
    made = issuer(Surroundings(lambda: 60.0, google_endpoint=service.endpoint))

    assert made.limit == LIMIT == 10


# ---------------------------------------------------------------------------- rotations


def _rotation(service: StrictHmacKeys, world: World, store: LabelledStore, name: str) -> Rotation:
    def pause(seconds: float) -> bool:
        world.clock.advance(timedelta(seconds=seconds))
        return True

    store.begin(RotationId(name))
    place = Place(store, REF, RotationId(name))
    target = MintedKeys(keys_of(service, world), place, world.clock, pause)
    return Rotation(REF, RotationId(name), store=store, targets=lambda _: target, clock=world.clock)


def test_a_key_that_is_made_again_is_not_asked_for_twice(
    service: StrictHmacKeys, world: World, current: Credential
) -> None:
    with service.lose("create"), pytest.raises(Unreachable):
        keys_of(service, world).mint(current, ATTEMPT)

    assert service.asked.count("create") == 1


@pytest.mark.parametrize("lost", ["update", "delete", "list", "get", "buckets"])
def test_a_lost_reply_leaves_nothing_behind(
    service: StrictHmacKeys, world: World, current: Credential, lost: str
) -> None:
    store = LabelledStore(world, current)

    for name in ("a", "b"):
        _rotation(service, world, store, name).run()
        world.clock.advance(timedelta(hours=3))
    with service.lose(lost), suppress(KeyturnError):
        _rotation(service, world, store, "c").run()
    for name in ("d", "e"):
        world.clock.advance(timedelta(hours=3))
        _rotation(service, world, store, name).run()

    served = store.serves().credential
    assert keys_of(service, world).verify(served)
    assert served.principal in service.alive()
    assert len(service.alive()) == 2


def test_a_key_that_a_person_makes_after_a_lost_answer_is_left(
    service: StrictHmacKeys, world: World, current: Credential
) -> None:
    """Or another secret's rotation. It may be in use: nothing tells it from ours, which is told."""
    store = LabelledStore(world, current)
    with service.lose("create"), pytest.raises(Unreachable):
        _rotation(service, world, store, "a").run()
    [lost] = service.alive() - {current.principal}
    theirs, _ = service.make_key(timedelta(0))
    world.clock.advance(timedelta(hours=3))

    with pytest.raises(Untraceable, match=f"{lost}, {theirs}") as caught:
        _rotation(service, world, store, "b").run()
    caught.value.when_told()
    _rotation(service, world, store, "b").run()

    assert {lost, theirs} < service.alive()
    assert service.keys[theirs].state == "ACTIVE"
    assert store.serves().credential.principal not in {current.principal, lost, theirs}


def test_the_page_grants_what_is_declared() -> None:
    found = re.findall(r"`(storage\.hmacKeys\.\w+)`", PAGE)

    assert sorted(set(found)) == [*PERMISSIONS]
