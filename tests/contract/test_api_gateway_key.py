"""API Gateway keys keep the promises of every target, over the service's real wire.

The service is a stand-in of ours, `strict_api_gateway`; moto is the second opinion.
"""

from __future__ import annotations

import itertools
import json
import re
import string
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import boto3
import pytest

from keyturn.boundary import quiet_sdk_loggers
from keyturn.errors import Busy, KeyturnError, Misconfigured, NotYetAccepted, Unreachable
from keyturn.local.aws import LocalAws
from keyturn.model import Credential, RotationId, Sensitive, Surroundings, Version
from keyturn.ports import Generate
from keyturn.rotation import Rotation
from keyturn.targets import api_gateway_key
from keyturn.targets.api_gateway_key import PERMISSIONS, SETTLED_S, ApiKeys, target
from keyturn.testing.contracts import CANARY, DualContract, Subject, version
from keyturn.testing.fakes import REF, LabelledStore, World
from keyturn.testing.strict_api_gateway import MUTE, ApiKey, StrictApiGateway

PAGE = (Path(__file__).parents[2] / "docs" / "api-gateway-keys.md").read_text(encoding="utf-8")
NAME, PLANS = "partner", ("gold", "silver")
LONG = timedelta(hours=2)
"""Longer than any worker lives, and than a key rests."""


def _value(name: str) -> Sensitive:
    return Sensitive(f"{CANARY}{name}-{'x' * 20}")


def _numbered() -> Generate:
    numbers = itertools.count(1)
    return lambda: _value(f"made-{next(numbers)}")


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def service(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[StrictApiGateway]:
    quiet_sdk_loggers()
    with StrictApiGateway(world.clock.now) as service:
        variables = {
            "AWS_ENDPOINT_URL_API_GATEWAY": service.url,
            "AWS_DEFAULT_REGION": "eu-west-1",
            "AWS_ACCESS_KEY_ID": "function",
            "AWS_SECRET_ACCESS_KEY": "unchecked",
        }
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
        monkeypatch.setattr(api_gateway_key, "TRIES", 1)
        service.make_key(NAME, _value("first"), *PLANS)
        service.plans["other"] = set()
        yield service


@pytest.fixture
def current() -> Credential:
    return Credential(NAME, _value("first"), {"engine": "api-gateway-key"})


def _target(world: World, *, remaining_s: float = 600.0) -> ApiKeys:
    def sleep(seconds: float) -> None:
        world.clock.advance(timedelta(seconds=seconds))

    return ApiKeys(Surroundings(lambda: remaining_s), _numbered(), world.clock.now, sleep)


class TestApiKeys(DualContract):
    """A key in two usage plans. Whose keys there are, the versions that the store keeps say."""

    UNUSABLE = string.punctuation.replace("-", "")

    @pytest.fixture
    def subject(self, service: StrictApiGateway, world: World, current: Credential) -> Subject:
        self.world, self.kept = world, [version(current, "v0")]
        return Subject(_target(world), current, replace(current, principal=MUTE), service.outage)

    def _set(self, subject: Subject, current: Version, name: str) -> Version:
        self.world.clock.advance(LONG)
        following = subject.target.create(current.credential, self.kept)
        made = Version(RotationId(name), following, self.world.clock.now())
        self.kept.insert(0, made)
        subject.target.set(lambda: made, current, self.kept)
        return made


class Shop:
    """A secret in a store, and its rotations."""

    def __init__(self, world: World, service: StrictApiGateway, current: Credential) -> None:
        self.world = world
        self.service = service
        self.store = LabelledStore(world, current)
        self.target = _target(world)

    def rotation(self, name: str) -> Rotation:
        self.store.begin(RotationId(name))
        return Rotation(
            REF,
            RotationId(name),
            store=self.store,
            targets=lambda _: self.target,
            clock=self.world.clock,
        )

    def rotate(self, name: str) -> Sensitive:
        """Rotate, after a long time, and return what is served then."""
        self.world.clock.advance(LONG)
        self.rotation(name).run()
        return self.serves()

    def serves(self) -> Sensitive:
        return self.store.serves().credential.secret

    def orphans(self) -> list[ApiKey]:
        """Return the keys whose value no version has."""
        known = [each.credential.secret for each in self.store.kept(REF)]
        return [key for key in self.service.keys.values() if key.value not in known]


@pytest.fixture
def shop(world: World, service: StrictApiGateway, current: Credential) -> Shop:
    return Shop(world, service, current)


# ---------------------------------------------------------------------------- a key's life


def test_a_key_is_enabled_then_disabled_then_deleted(shop: Shop) -> None:
    """Each rotation takes one step; until the last a person can undo it."""
    values = [shop.serves()]
    states = []
    for name in ("a", "b", "c"):
        values.append(shop.rotate(name))
        keys = [shop.service.of(value) for value in values]
        states.append([key.is_enabled if key else None for key in keys])

    assert states == [[True, True], [False, True, True], [None, False, True, True]]


def test_the_new_key_is_in_the_plans_of_the_old_one_and_in_no_other(shop: Shop) -> None:
    made = shop.service.of(shop.rotate("a"))

    assert made is not None
    assert made.name == NAME
    assert {plan for plan, keys in shop.service.plans.items() if made.id in keys} == {*PLANS}


def test_the_gateway_lets_what_is_served_in_after_every_call(shop: Shop) -> None:
    """Also where it hears of a change a minute later; in every plan."""
    shop.service.delay_s = SETTLED_S
    seen: list[bool] = []
    shop.service.after = lambda _: seen.extend(
        shop.service.opens(shop.serves(), plan) for plan in PLANS
    )

    for name in ("a", "b", "c"):
        shop.rotate(name)
        seen += [shop.service.opens(shop.serves(), plan) for plan in PLANS]

    assert len(seen) > 50
    assert all(seen)


def test_a_key_is_enabled_when_it_is_complete(shop: Shop) -> None:
    """What makes it work comes last."""
    seen: list[tuple[str, int]] = []

    def look(action: str) -> None:
        key = [*shop.service.keys.values()][-1]
        plans = sum(key.id in keys for keys in shop.service.plans.values())
        if not action.startswith("Get"):
            seen.append((f"{action} {key.is_enabled}", plans))

    shop.service.after = look

    shop.rotate("a")

    assert seen == [
        ("CreateApiKey False", 0),
        ("CreateUsagePlanKey False", 1),
        ("CreateUsagePlanKey False", 2),
        ("UpdateApiKey True", 2),
    ]


def test_what_is_young_is_left_alone(shop: Shop) -> None:
    """Rotated twice in an hour: who has read the first value, has time to read again."""
    for name in ("a", "b", "c"):
        shop.rotation(name).run()

    assert [key.is_enabled for key in shop.service.keys.values()] == [True] * 4


def test_an_old_key_rests_while_current_is_young(shop: Shop) -> None:
    """Current has been current for a minute: the one before it was current until then."""
    shop.world.clock.advance(LONG)
    shop.rotation("a").run()

    shop.rotation("b").run()

    assert [key.is_enabled for key in shop.service.keys.values()] == [True] * 3


def test_a_value_that_was_stored_again_is_not_old(shop: Shop, current: Credential) -> None:
    """Somebody has put the first value into a version a moment ago, by hand."""
    shop.rotate("a")
    shop.world.clock.advance(LONG)
    again = replace(version(current, "by-hand"), stored_at=shop.world.clock.now())
    kept = [again, *shop.store.kept(REF)]
    pending = replace(again, credential=replace(current, secret=_value("pending")))

    shop.target.set(lambda: pending, shop.store.serves(), kept)

    first = shop.service.of(current.secret)
    assert first is not None
    assert first.is_enabled


@pytest.mark.parametrize("name", [NAME, f"{NAME}-2", NAME.upper()])
def test_a_key_of_somebody_else_is_left_alone_whatever_its_name(shop: Shop, name: str) -> None:
    theirs = shop.service.make_key(name, _value("theirs"), *PLANS)
    before = replace(theirs)

    for rotation in ("a", "b", "c"):
        shop.rotate(rotation)

    assert shop.service.keys[theirs.id] == before
    assert all(theirs.id in shop.service.plans[plan] for plan in PLANS)


def test_many_keys_and_plans_come_on_many_pages(shop: Shop) -> None:
    shop.service.page_size = 1
    for number in range(3):
        shop.service.make_key(f"{NAME}-{number}", _value(f"theirs-{number}"))

    made = shop.service.of(shop.rotate("a"))

    assert made is not None
    assert all(made.id in shop.service.plans[plan] for plan in PLANS)


def test_a_worker_that_is_superseded_in_the_middle_stops_there(
    shop: Shop, current: Credential
) -> None:
    """It stalled right after it had made the key: another rotation has the slot."""
    pending = version(shop.target.create(current, []), "a")

    def held() -> Version:
        if shop.service.of(pending.credential.secret) is not None:
            raise Busy("superseded", remedy="")
        return pending

    with pytest.raises(Busy):
        shop.target.set(held, version(current, "v0"), [])

    made = shop.service.of(pending.credential.secret)
    assert made is not None
    assert not made.is_enabled
    assert shop.service.asked[-1] == "GetUsagePlans"


def test_the_previous_key_can_be_retired_and_nobody_elses(shop: Shop) -> None:
    theirs = shop.service.make_key(NAME, _value("theirs"), *PLANS)
    first = shop.serves()
    shop.rotate("a")

    shop.target.retire(shop.store.serves)

    enabled = [key.value for key in shop.service.keys.values() if key.is_enabled]
    assert enabled == [theirs.value, shop.serves()]
    assert shop.service.of(first) is not None


# ---------------------------------------------------------------------------- lost replies

CALLS = 18
"""More than a rotation makes."""


@pytest.mark.parametrize("number", range(CALLS))
@pytest.mark.parametrize("is_repeated", [True, False], ids=["repeated", "abandoned"])
def test_a_lost_reply_leaves_nothing_behind(shop: Shop, number: int, *, is_repeated: bool) -> None:
    """At every call of a rotation that has something to disable and something to delete."""
    theirs = shop.service.make_key(NAME, _value("theirs"), *PLANS)
    for name in ("a", "b"):
        shop.rotate(name)
    seen: list[bool] = []
    shop.service.after = lambda _: seen.append(shop.service.opens(shop.serves(), PLANS[0]))

    with shop.service.lose_reply(number):
        try:
            shop.rotate("c")
        except Unreachable:
            shop.world.clock.advance(LONG)
            if is_repeated:
                shop.rotation("c").run()
            else:
                shop.store.abandon()
    values = [shop.rotate(name) for name in ("d", "e", "f")]

    assert all(seen)
    assert shop.orphans() == [theirs]
    enabled = [key.value for key in shop.service.keys.values() if key.is_enabled]
    assert len(enabled) == 3
    assert all(value in enabled for value in (*values[-2:], theirs.value))
    assert len(shop.service.keys) <= 5  # theirs, current, previous; one or two disabled


def test_a_value_is_found_that_was_made_between_the_list_and_the_call(
    shop: Shop, current: Credential
) -> None:
    """Two workers of one rotation: the other was faster."""
    pending = version(shop.target.create(current, []), "a")

    def make(action: str) -> None:
        if action == "GetUsagePlans" and len(shop.service.keys) == 1:
            key = shop.service.make_key(NAME, pending.credential.secret)
            key.is_enabled = False

    shop.service.after = make

    shop.target.set(lambda: pending, version(current, "v0"), [])

    made = shop.service.of(pending.credential.secret)
    assert made is not None
    assert made.is_enabled
    assert len(shop.service.keys) == 2


def test_every_call_of_a_rotation_is_in_that_sweep(shop: Shop) -> None:
    for name in ("a", "b"):
        shop.rotate(name)
    before = len(shop.service.asked)

    shop.rotate("c")

    assert len(shop.service.asked) - before <= CALLS
    assert {*shop.service.asked[before:]} == {
        *("CreateApiKey", "CreateUsagePlanKey", "DeleteApiKey"),
        *("GetApiKeys", "GetUsagePlans", "UpdateApiKey"),
    }


# ---------------------------------------------------------------------------- is it known there


def test_a_key_is_served_once_the_gateways_are_likely_to_know_it(shop: Shop) -> None:
    began = shop.world.clock.now()

    shop.rotation("a").run()

    assert shop.world.clock.now() - began >= timedelta(seconds=SETTLED_S)


@pytest.mark.usefixtures("service")
def test_a_wait_goes_on_in_the_next_call(world: World, current: Credential) -> None:
    hurried = _target(world, remaining_s=20.0)
    pending = version(hurried.create(current, []), "a")
    hurried.set(lambda: pending, version(current, "v0"), [])
    with pytest.raises(NotYetAccepted, match="was changed less than"):
        hurried.accepts(pending.credential)

    world.clock.advance(timedelta(seconds=SETTLED_S))

    assert hurried.accepts(pending.credential)


def test_a_key_that_opens_nothing_is_refused(
    world: World, service: StrictApiGateway, current: Credential
) -> None:
    [key] = service.keys.values()
    key.is_enabled = False
    assert not _target(world).accepts(current)

    key.is_enabled = True
    service.plans.clear()

    assert not _target(world).accepts(current)


# ---------------------------------------------------------------------------- refusals


def _why(world: World, current: Credential) -> str:
    try:
        _target(world).create(current, [])
    except KeyturnError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def test_what_cannot_be_rotated_is_refused_before_anything_is_stored(
    world: World, service: StrictApiGateway, current: Credential
) -> None:
    [key] = service.keys.values()

    assert _why(world, current) == "nothing"
    assert "not the name" in _why(world, replace(current, principal="a\u200b" * 200))
    lost = replace(current, secret=_value("lost"))
    assert _why(world, lost).startswith("Drifted: no API key named 'partner' has a value")
    service.plans.clear()
    assert _why(world, current).startswith(f"Drifted: the API key {key.id} is in no usage plan")
    assert [*service.keys] == [key.id]


@pytest.mark.usefixtures("service")
@pytest.mark.parametrize("text", [f"{CANARY}short", f"{CANARY}{'x' * 122}", f"{CANARY}{'x' * 20}_"])
def test_a_value_that_the_service_may_not_take_is_refused_before_it_is_stored(
    world: World, current: Credential, text: str
) -> None:
    made = ApiKeys(Surroundings(lambda: 60.0), lambda: Sensitive(text), world.clock.now)

    with pytest.raises(Misconfigured, match="20 to 128"):
        made.create(current, [])


def test_a_quota_is_named(shop: Shop) -> None:
    shop.service.quota = len(shop.service.keys)

    with pytest.raises(Misconfigured, match="CreateApiKey is beyond a quota"):
        shop.rotate("a")

    assert shop.service.opens(shop.serves(), PLANS[0])


def test_a_value_that_a_key_of_another_name_has_is_not_taken_over(
    world: World, service: StrictApiGateway, current: Credential
) -> None:
    theirs = service.make_key("somebody", _value("same"))
    pending = version(replace(current, secret=_value("same")), "a")

    with pytest.raises(NotYetAccepted, match="none named 'partner'"):
        _target(world).set(lambda: pending, version(current, "v0"), [])

    assert theirs.id not in service.plans["gold"]


# ---------------------------------------------------------------------------- the deployment


def test_what_is_asked_for_is_what_is_declared_and_what_the_page_grants() -> None:
    methods = {"Create": "POST", "Delete": "DELETE", "Get": "GET", "Update": "PATCH"}
    asked = re.findall(r"    def (create|delete|get|update)_", _source())
    blocks = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    statements = [s for block in blocks for s in json.loads(block).get("Statement", [])]

    assert {f"apigateway:{methods[each.title()]}" for each in asked} == {*PERMISSIONS}
    assert {action for each in statements for action in each["Action"]} == {*PERMISSIONS}
    assert all("*" not in action for each in statements for action in each["Action"])


def _source() -> str:
    return Path(api_gateway_key.__file__).read_text(encoding="utf-8")


def test_moto_agrees(aws: LocalAws, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second opinion on the calls, over the same wire."""
    for name, value in aws.environment().items():
        monkeypatch.setenv(name, value)
    api = boto3.client("apigateway", **aws.settings())
    plan = api.create_usage_plan(name="gold")["id"]
    first = _value("moto-first").reveal()
    made = api.create_api_key(name="moto", value=first, enabled=True)["id"]
    api.create_usage_plan_key(usagePlanId=plan, keyId=made, keyType="API_KEY")
    current = Credential("moto", Sensitive(first), {"engine": "api-gateway-key"})
    keys = target(Surroundings(lambda: 600.0), _numbered())
    pending = version(keys.create(current, []), "a")

    for _ in range(2):
        keys.set(lambda: pending, version(current, "v0"), [])

    found = api.get_api_keys(nameQuery="moto", includeValues=True)["items"]
    assert [key["enabled"] for key in found] == [True, True]
    assert Sensitive(found[1]["value"]) == pending.credential.secret
    assert len(api.get_usage_plan_keys(usagePlanId=plan)["items"]) == 2
