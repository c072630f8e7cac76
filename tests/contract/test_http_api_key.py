"""Keys of HTTP APIs keep the promises of every issuer, over the wire: a toy, and four providers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from http_apis import (
    BARE,
    LATE,
    NAMELESS,
    REPEATABLE,
    TOY,
    Shop,
    Store,
    admin,
    credential,
    declared,
    recipe,
)
from keyturn import http_exchange
from keyturn.errors import (
    Denied,
    Drifted,
    KeyturnError,
    Misconfigured,
    Unreachable,
    Untraceable,
)
from keyturn.http_api import Listing, Request
from keyturn.http_exchange import Answer
from keyturn.model import RotationId, Sensitive, Surroundings
from keyturn.targets import http_api_key
from keyturn.targets.http_api_key import issuer
from keyturn.testing.contracts import ATTEMPT, Mint, MintedContract
from keyturn.testing.fakes import World
from keyturn.testing.strict_api import (
    ADMIN_SECRET,
    PROVIDERS,
    Asked,
    Bare,
    Fault,
    GitLab,
    Reply,
    SendGrid,
    StrictApi,
    Toy,
    Twilio,
)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


# ---------------------------------------------------------------------------- the contract


class TestHttpApiKeys(MintedContract):
    """A toy with two keys at most, found by its name or its time. Its lists may be late."""

    @pytest.fixture(
        params=[(TOY, 0.0), (NAMELESS, 0.0), (TOY, 20.0), (NAMELESS, 20.0)],
        ids=["by name", "by time", "by name, late", "by time, late"],
    )
    def mint(self, stack: ExitStack, request: pytest.FixtureRequest) -> Mint:
        world = World()
        api = stack.enter_context(StrictApi(Toy(), world.clock.now))
        key = api.make_key("first", timedelta(days=1))
        current = credential(api, key)
        text, api.list_lag_s = request.param

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
def test_an_admin_makes_the_first_key(shop: Shop) -> None:
    """The secret has `none` for an id and for a key."""
    none = replace(shop.store.serves().credential, principal="none", secret=Sensitive("none"))
    shop.store = Store(shop.world, none)

    shop.rotation("a").run()
    shop.run_late("b")

    assert shop.current_works()
    assert shop.foreign in shop.api.alive()


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


# ---------------------------------------------------------------------------- what is declared


@pytest.fixture
def toy(stack: ExitStack) -> Shop:
    return Shop(stack, Toy(), TOY, has_foreign=False)


def _shop(stack: ExitStack, text: str) -> Shop:
    shop = Shop(stack, Bare(), text, has_foreign=False)
    shop.api.asked.clear()
    return shop


def test_a_create_without_an_answer_is_not_repeated(stack: ExitStack) -> None:
    shop = _shop(stack, BARE)

    with shop.api.break_all(Fault.LOST_REPLY, "POST"), pytest.raises(Untraceable):
        shop.rotation("a").run()

    assert shop.api.asked.count("POST /keys") == 1
    assert len(shop.alive()) == 2


def test_where_the_api_makes_one_key_for_one_rotation_a_create_is_repeated(
    stack: ExitStack,
) -> None:
    """At once, and whenever the rotation is tried again: nothing is lost."""
    shop = _shop(stack, REPEATABLE)
    shop.break_at(2, Fault.LOST_REPLY)
    shop.rotation("a").run()
    assert shop.api.asked.count("POST /keys") == 2
    assert shop.alive() == {shop.first.key_id, shop.serves()}
    shop.mend()

    shop.world.clock.advance(LATE)
    with shop.api.break_all(Fault.LOST_REPLY, "POST"), pytest.raises(Unreachable):
        shop.rotation("b").run()
    shop.resume("b").run()

    assert shop.alive() == {shop.serves(), *(v.credential.principal for v in shop.promoted()[-2:])}


def test_no_answer_to_the_use_of_a_key_is_no_refusal(toy: Shop) -> None:
    """Only the statuses that the plan names are a yes or a no."""
    current = toy.store.serves().credential
    for fault in Fault:
        if fault in {Fault.NONE, Fault.SLOW}:
            continue
        with toy.api.break_all(fault), pytest.raises(KeyturnError):
            toy.issuer().verify(current)


def test_the_key_that_works_must_be_the_one_that_the_secret_names(stack: ExitStack) -> None:
    """Where a use does not tell, the list must have it: else the live key might be deleted."""
    shop = Shop(stack, SendGrid(), recipe("sendgrid"))
    current = shop.store.serves().credential

    shop.issuer().check(current)
    with pytest.raises(Drifted, match="no key has the id"):
        shop.issuer().check(replace(current, principal="another"))


def test_the_answer_to_a_use_must_be_for_the_key_that_the_secret_names(stack: ExitStack) -> None:
    shop = Shop(stack, GitLab(), recipe("gitlab"))
    current = shop.store.serves().credential

    with pytest.raises(Drifted, match="is another one's"):
        shop.issuer().verify(replace(current, principal="1"))


def test_without_an_admin_a_current_that_is_refused_makes_no_key(toy: Shop) -> None:
    alone = issuer(Surroundings(lambda: 60.0, declared=toy.declared))
    wrong = replace(toy.store.serves().credential, secret=Sensitive("Canary7-wrong"))

    with pytest.raises(Denied, match="makes the next"):
        alone.check(wrong)


def test_without_an_admin_the_current_key_makes_the_next(stack: ExitStack) -> None:
    shop = Shop(stack, Bare(), BARE, has_foreign=False)
    alone = issuer(Surroundings(lambda: 60.0, declared=shop.declared))
    current = replace(shop.store.serves().credential, secret=Sensitive(ADMIN_SECRET))

    made = alone.mint(current, ATTEMPT)

    assert made.principal in shop.alive()


def test_every_page_is_read(stack: ExitStack) -> None:
    for shape, name in ((Twilio(), "twilio"), (GitLab(), "gitlab")):
        shop = Shop(stack, shape, recipe(name))
        for _ in range(5):
            shop.api.make_key("more", LATE)

        listed = shop.issuer().keys(shop.store.serves().credential)

        assert {key.id for key in listed} == set(shop.api.keys)


class Endless(GitLab):
    """Its pages lead in a circle."""

    def page(self, api: StrictApi, asked: Asked) -> Reply:
        number = int(asked.query.get("page", "1"))
        url = f"http://{api.host}{asked.path}?state=active&page={number % 3 + 1}"
        return Reply(200, [], {"Link": f'<{url}>; rel="next"'})


def test_a_list_that_does_not_end_is_refused(stack: ExitStack) -> None:
    shop = Shop(stack, Endless(), recipe("gitlab"))

    with pytest.raises(Misconfigured, match="does not end"):
        shop.issuer().keys(shop.store.serves().credential)


@pytest.mark.parametrize(
    "link,wanted",
    [
        ('<https://a/1>; rel="next"', "https://a/1"),
        ("<https://a/1>; rel=next", "https://a/1"),
        ('<https://a/0>; rel="prev", <https://a/2>; rel="next"', "https://a/2"),
        ('<https://a/2>; title="a, b; rel=next"; rel="prev"', None),
        ('<https://a/3>; title="x"; REL="next last"', "https://a/3"),
        ('<https://a/4>; rel="nextish"', None),
        ("", None),
    ],
)
def test_the_next_page_is_read_out_of_a_link_header(link: str, wanted: str | None) -> None:
    answer = Answer("GET /", 200, link, b"")

    assert http_api_key._next_url(answer, [], "link") == wanted  # noqa: SLF001


@pytest.mark.parametrize(
    "found,wanted",
    [
        ("2030-01-02T03:04:05Z", "2030-01-02T03:04:05+00:00"),
        ("2030-01-02T03:04:05.678+02:00", "2030-01-02T01:04:05.678000+00:00"),
        ("2030-01-02T03:04:05", "2030-01-02T03:04:05+00:00"),
        ("Wed, 02 Jan 2030 03:04:05 +0000", "2030-01-02T03:04:05+00:00"),
        (1893553445, "2030-01-02T03:04:05+00:00"),
        (1893553445000, "2030-01-02T03:04:05+00:00"),
        (None, None),
    ],
)
def test_times_are_read_in_the_usual_ways(found: object, wanted: str | None) -> None:
    listing = Listing(Request("GET", "https", "a", "/"), "", "/id")

    moment = http_api_key._time({"at": found}, "/at", listing)  # noqa: SLF001

    assert moment == (datetime.fromisoformat(wanted) if wanted else None)


@pytest.mark.parametrize("entry", [{}, {"at": "soon"}, {"at": True}, {"at": []}, {"at": 1e300}])
def test_a_time_that_is_none_is_not_taken_for_never(entry: object) -> None:
    """A pointer that leads nowhere would make every key look unused."""
    listing = Listing(Request("GET", "https", "a", "/"), "", "/id")

    with pytest.raises(Misconfigured, match="no time at"):
        http_api_key._time(entry, "/at", listing)  # noqa: SLF001


@pytest.mark.parametrize("pointer", ["create.id", "create.secret", "list.items", "list.id"])
def test_a_pointer_that_leads_nowhere_is_named(toy: Shop, pointer: str) -> None:
    part, name = pointer.split(".")
    broken = replace(getattr(toy.declared, part), **{name: "/nowhere"})
    api = replace(toy.declared, **{part: broken})
    made = issuer(Surroundings(lambda: 60.0, declared=api, admin=admin))
    current = toy.store.serves().credential

    with pytest.raises(Misconfigured, match="/nowhere"):
        made.keys(current) if part == "list" else made.mint(current, ATTEMPT)


class Odd(Toy):
    """Its ids can be sent nowhere."""

    def key_id(self, number: int, tail: str) -> str:
        """See `Shape.key_id`."""
        return super().key_id(number, tail) if number == 1 else "an id with blanks"


def test_a_key_that_could_never_be_used_is_not_stored(stack: ExitStack) -> None:
    shop = Shop(stack, Odd(), TOY, has_foreign=False)

    with pytest.raises(Misconfigured, match="'key_id'"):
        shop.rotation("a").run()

    assert shop.store.versions[RotationId("a")] is None


@pytest.mark.parametrize("key_id", ["", ".", "..", "a b", "a\n", "ä", "x" * 256])
def test_an_id_that_could_lead_elsewhere_is_refused(toy: Shop, key_id: str) -> None:
    current = replace(toy.store.serves().credential, principal=key_id)

    with pytest.raises(Misconfigured, match="'key_id'"):
        toy.issuer().holder(current)
    with pytest.raises(Misconfigured, match="'key_id'"):
        toy.issuer().delete(toy.store.serves().credential, key_id)


def test_a_secret_that_no_header_takes_is_refused(toy: Shop) -> None:
    current = replace(toy.store.serves().credential, secret=Sensitive("Canary7-\r\nX: y"))

    with pytest.raises(Misconfigured, match="'api_key'"):
        toy.issuer().holder(current)
