"""Keys of HTTP APIs keep the promises of every issuer, over the wire: a toy, and four providers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from datetime import timedelta

import pytest

from http_apis import NAMELESS, TOY, Shop, admin, credential, declared, recipe
from keyturn.errors import KeyturnError
from keyturn.model import Surroundings
from keyturn.targets import http_exchange
from keyturn.targets.http_api_key import issuer
from keyturn.testing.contracts import Mint, MintedContract
from keyturn.testing.fakes import World
from keyturn.testing.strict_api import (
    PROVIDERS,
    Fault,
    StrictApi,
    Toy,
)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


# ---------------------------------------------------------------------------- the contract


class TestHttpApiKeys(MintedContract):
    """A toy with two keys at most, found again by its name or by its time."""

    @pytest.fixture(params=[TOY, NAMELESS], ids=["by name", "by time"])
    def mint(self, stack: ExitStack, request: pytest.FixtureRequest) -> Mint:
        world = World()
        api = stack.enter_context(StrictApi(Toy(), world.clock.now))
        key = api.make_key("first", timedelta(days=1))
        current = credential(api, key)
        text = str(request.param)

        def lose() -> AbstractContextManager[None]:
            return api.break_all(Fault.LOST_REPLY, "POST /keys")

        return Mint(
            issuer(Surroundings(lambda: 60.0, declared=declared(text, api), admin=admin)),
            current,
            replace(current, fields={"host": "elsewhere.example.com"}),
            world,
            lambda seconds: world.clock.advance(timedelta(seconds=seconds)),
            lambda: {key.key_id for key in api.alive()},
            lambda: api.make_key("by hand", timedelta(hours=3)).key_id,
            api.outage,
            lose,
        )


# ---------------------------------------------------------------------------- the recipes

each_provider = pytest.mark.parametrize("provider", PROVIDERS)


@pytest.fixture
def shop(stack: ExitStack, provider: str) -> Shop:
    return Shop(stack, PROVIDERS[provider](), recipe(provider))


@each_provider
def test_a_recipe_rotates_and_leaves_what_is_not_its_own(shop: Shop) -> None:
    shop.rotation("a").run()
    assert shop.alive() == {shop.first.key_id, shop.serves()}
    second = shop.serves()

    shop.run_late("b")

    assert shop.alive() - shop.unlisted() == {second, shop.serves()}
    assert shop.foreign in shop.api.alive()
    assert shop.current_works()


@each_provider
@pytest.mark.parametrize("fault", [fault for fault in Fault if fault is not Fault.NONE])
def test_no_key_is_left_whatever_befalls_a_create(
    shop: Shop, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is anybody else's key touched."""
    http = shop.declared.create.request.target
    if fault is Fault.SLOW:
        monkeypatch.setattr(http_exchange, "TIMEOUT_S", 0.3)
    with shop.api.break_all(fault, f"POST {http}"), pytest.raises(KeyturnError):
        shop.rotation("a").run()

    monkeypatch.undo()
    shop.run_late("b")

    assert shop.alive() == {shop.first.key_id, shop.serves()}
    assert shop.foreign in shop.api.alive()
