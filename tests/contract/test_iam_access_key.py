"""IAM keeps the promises of every issuer, over the real wire of IAM and STS."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta

import pytest

from keyturn.boundary import scrub
from keyturn.errors import Busy, Denied, Drifted, KeyturnError, Misconfigured, NotYetAccepted
from keyturn.minted import PROOFS, MintedKeys, Place
from keyturn.model import Credential, Outcome, RotationId, Sensitive, Step, Surroundings
from keyturn.rotation import Rotation
from keyturn.targets.iam_access_key import IamUsers, issuer, smtp_password
from keyturn.testing.contracts import ATTEMPT, LONG_S, Mint, MintedContract
from keyturn.testing.fakes import REF, LabelledStore, World
from keyturn.testing.strict_iam import ACCOUNT, AccessKey, StrictIam

USERS = f"arn:aws:iam::{ACCOUNT}:user/rotated/*"
APP = f"arn:aws:iam::{ACCOUNT}:user/rotated/app"


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def iam(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[StrictIam]:
    with StrictIam(world.clock.now) as iam:
        for name, value in iam.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
        iam.add("app", "/rotated/")
        iam.add("human", "/people/")
        yield iam


@pytest.fixture
def first(iam: StrictIam) -> AccessKey:
    return iam.make_key("app")


@pytest.fixture
def current(first: AccessKey) -> Credential:
    return Credential(first.key_id, first.secret, {"username": "app", "engine": "iam-access-key"})


def _issuer(*users: str) -> IamUsers:
    return issuer(Surroundings(lambda: 60.0, key_holders=users or (USERS,)))


def _alive(iam: StrictIam) -> set[str]:
    return {key.key_id for key in iam.alive("app")}


class TestIamUsers(MintedContract):
    """A user with one key."""

    @pytest.fixture(params=[0.0, 20.0], ids=["at once", "late lists"])
    def mint(
        self, iam: StrictIam, world: World, current: Credential, request: pytest.FixtureRequest
    ) -> Mint:
        iam.list_lag_s = request.param
        return Mint(
            _issuer(APP),
            current,
            replace(current, fields={"username": "human"}),
            world,
            lambda seconds: world.clock.advance(timedelta(seconds=seconds)),
            lambda: _alive(iam),
            lambda: iam.make_key("app", age=timedelta(hours=3)).key_id,
            iam.outage,
            lambda: iam.lose_reply("CreateAccessKey"),
        )


class Shop:
    """A secret in a store, and its rotations."""

    def __init__(self, world: World, current: Credential, users: str = USERS) -> None:
        self.world = world
        self.store = LabelledStore(world, current)
        self.users = users
        self.left_s = math.inf
        """How long one call may wait."""

    def rotation(self, name: str) -> Rotation:
        place = Place(self.store, REF, RotationId(name))
        target = MintedKeys(_issuer(self.users), place, self.world.clock, self._pause)
        self.store.begin(RotationId(name))
        return Rotation(
            REF,
            RotationId(name),
            store=self.store,
            targets=lambda _: target,
            clock=self.world.clock,
        )

    def _pause(self, seconds: float) -> bool:
        self.left_s -= seconds
        if self.left_s > 0:
            self.world.clock.advance(timedelta(seconds=seconds))
        return self.left_s > 0


# ---------------------------------------------------------------------------- propagation


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_promoted_before_every_host_is_likely_to_know_it(
    iam: StrictIam, world: World, current: Credential, seed: int
) -> None:
    """Each host hears of a key after 0 to 60 s; three uses in a row, on as many hosts."""
    chance = random.Random(seed)  # noqa: S311  # a clock, not a secret
    iam.delay_s = lambda: chance.uniform(0, 60)
    iam.list_lag_s = chance.uniform(0, 30)
    shop = Shop(world, current)

    rotation = shop.rotation("a")
    for _ in range(5):  # the platform repeats a rotation that fails
        try:
            rotation.run()
            break
        except KeyturnError:
            continue

    served = shop.store.serves()
    assert served.rotation_id == RotationId("a")
    [key] = [k for k in iam.alive("app") if k.key_id == served.credential.principal]
    assert sum(known <= world.clock.now() for known in key.known_at) >= PROOFS
    assert _alive(iam) == {current.principal, key.key_id}


def test_a_wait_goes_on_in_the_next_call(iam: StrictIam, world: World, current: Credential) -> None:
    """A function whose time is up fails the step; its repetition proves the same key."""
    iam.delay_s = lambda: 100.0
    shop = Shop(world, current)
    rotation = shop.rotation("a")
    with pytest.raises(KeyturnError, match="refuses version a"):
        rotation.run()

    rotation.run()

    assert iam.count("CreateAccessKey") == 1
    assert shop.store.serves().rotation_id == RotationId("a")


@pytest.mark.parametrize("seed", range(8))
def test_rotations_go_on_in_a_row_with_little_time_and_old_lists(
    iam: StrictIam, world: World, current: Credential, seed: int
) -> None:
    """Each step is repeated until it is done, with as much time as it happens to have."""
    chance = random.Random(seed)  # noqa: S311  # clocks, not secrets
    iam.delay_s = lambda: chance.uniform(0, 60)
    shop = Shop(world, current)
    served = [current.principal]

    for name in ("a", "b", "c"):
        rotation = shop.rotation(name)
        for step in Step:
            while not _is_done(lambda do=rotation.perform, step=step: do(step)):  # type: ignore[misc]
                shop.left_s = chance.uniform(5, 90)
                iam.list_lag_s = chance.uniform(0, 60)
                world.clock.advance(timedelta(seconds=10))
        served.append(shop.store.serves().credential.principal)
        [key] = [key for key in iam.alive("app") if key.key_id == served[-1]]
        assert sum(known <= world.clock.now() for known in key.known_at) >= PROOFS
        assert _alive(iam) == {*served[-2:]}
        world.clock.advance(timedelta(seconds=LONG_S))

    assert iam.count("CreateAccessKey") == 3


def _is_done(step: Callable[[], Outcome]) -> bool:
    try:
        step()
    except NotYetAccepted:
        return False
    return True


# ---------------------------------------------------------------------------- whose key it is


def test_a_key_that_was_used_is_nobodys_orphan(
    iam: StrictIam, world: World, current: Credential
) -> None:
    """Made while our own reply was lost, and used since: whoever uses it knows its secret."""
    shop = Shop(world, current)
    with iam.lose_reply("CreateAccessKey"), pytest.raises(KeyturnError):
        shop.rotation("a").run()
    [made] = [key for key in iam.alive("app") if key.key_id != current.principal]
    made.used_at = world.clock.now()
    world.clock.advance(timedelta(seconds=LONG_S))

    with pytest.raises(Drifted, match=made.key_id):
        shop.rotation("b").run()

    assert _alive(iam) == {current.principal, made.key_id}


def test_a_key_made_by_hand_after_a_good_rotation_is_foreign(
    iam: StrictIam, world: World, current: Credential
) -> None:
    """What was declared is settled as soon as a version holds the key."""
    shop = Shop(world, current)
    shop.rotation("a").run()
    iam.alive("app")[0].gone_at = world.clock.now()  # somebody makes room ...
    theirs = iam.make_key("app", age=timedelta(0))  # ... for a key of their own
    world.clock.advance(timedelta(seconds=LONG_S))

    with pytest.raises(Drifted, match=theirs.key_id):
        shop.rotation("b").run()

    assert theirs in iam.alive("app")


def test_an_old_key_that_is_still_used_is_left_alone(
    iam: StrictIam, world: World, first: AccessKey, current: Credential
) -> None:
    """A consumer that has not read the secret again is named by its key."""
    shop = Shop(world, current)
    shop.rotation("a").run()
    world.clock.advance(timedelta(seconds=LONG_S))
    first.used_at = world.clock.now()

    with pytest.raises(Busy, match=first.key_id):
        shop.rotation("b").run()

    assert first.is_active
    first.used_at = None
    shop.rotation("c").run()
    assert first not in iam.alive("app")


def test_an_old_key_is_deactivated_before_it_is_deleted(
    iam: StrictIam, world: World, current: Credential
) -> None:
    shop = Shop(world, current)
    shop.rotation("a").run()
    world.clock.advance(timedelta(seconds=LONG_S))
    shop.rotation("b").run()

    actions = [call.action for call in iam.calls]
    assert actions.index("UpdateAccessKey") < actions.index("DeleteAccessKey")


def test_a_second_page_of_keys_is_read(iam: StrictIam, current: Credential) -> None:
    iam.page_size = 1
    theirs = iam.make_key("app")

    listed = [key.id for key in _issuer().keys(current)]

    assert listed == [current.principal, theirs.key_id]


# ---------------------------------------------------------------------------- refusals


def _why(current: Credential, *users: str) -> str:
    try:
        _issuer(*users).check(current)
    except KeyturnError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def test_only_users_that_the_deployment_names_are_touched(
    iam: StrictIam, current: Credential
) -> None:
    def named(**fields: object) -> Credential:
        return replace(current, fields={**current.fields, **fields})

    assert _why(current) == "nothing"
    assert _why(current, APP) == "nothing"
    assert "is not one that" in _why(current, f"arn:aws:iam::{ACCOUNT}:user/rotated/other")
    assert "is not one that" in _why(named(username="APP"), f"{USERS[:-1]}app")
    assert "'username' is missing" in _why(named(username=None))
    assert "'username' is missing" in _why(named(username="people/human"))
    assert "'access_key_id' is missing" in _why(replace(current, principal="not an id"))
    assert "no ARN of IAM users" in _why(current, "*")
    assert "no ARN of IAM users" in _why(current, f"arn:aws:iam::{ACCOUNT}:user/*/app")
    assert "in more than one place" in _why(current, USERS, f"arn:aws:iam::{ACCOUNT}:user/*")
    # By another path: names are unique in an account, so this is the same user, not a namesake.
    assert _why(current, f"arn:aws:iam::{ACCOUNT}:user/app").startswith("Drifted: the access key")
    assert "in another account" in _why(current, USERS.replace(ACCOUNT, "210987654321"))
    iam.function_arn = f"arn:aws:iam::{ACCOUNT}:user/rotated/app"
    assert _why(current).startswith("Denied")
    assert iam.count("CreateAccessKey") == 0


def test_another_users_key_is_no_current(iam: StrictIam, current: Credential) -> None:
    """Whoever writes it into the secret must not thereby have that user's keys rotated."""
    theirs = iam.make_key("human")
    swapped = replace(current, principal=theirs.key_id, secret=theirs.secret)

    with pytest.raises(Drifted, match="user/people/human"):
        _issuer().check(swapped)


def test_the_first_key_is_for_users_that_are_named_whole(current: Credential) -> None:
    """Without a working key, a wildcard and a name would let the secret say whose keys are made."""
    made_up = replace(current, principal="none", secret=Sensitive("none"))

    with pytest.raises(Denied, match="nothing shows"):
        _issuer().check(made_up)

    _issuer(APP).check(made_up)


def test_a_user_that_is_gone_is_named(current: Credential) -> None:
    gone = replace(current, fields={"username": "gone"})

    for act in (_issuer().keys, lambda credential: _issuer().mint(credential, ATTEMPT)):
        with pytest.raises(Drifted, match="no user"):
            act(gone)


def test_no_user_at_all_may_be_touched_by_default(current: Credential) -> None:
    with pytest.raises(Denied):
        issuer(Surroundings(lambda: 60.0)).holder(current)


# ---------------------------------------------------------------------------- what follows

# From the tests of HashiCorp's AWS provider, a second opinion; AWS publishes the
# algorithm with no example of its result.
SMTP: Mapping[tuple[str, str], str] = {
    ("some+secret+key", "eu-central-1"): "BMXhUYlu5Z3gSXVQORxlVa7XPaz91aGWdfHxvkOZdWZ2",
    ("another+secret+key", "eu-central-1"): "BBbphbrQmrKMx42d1N6+C7VINYEBGI5v9VsZeTxwskfh",
    ("some+secret+key", "us-west-1"): "BH+jbMzper5WwlwUar9E1ySBqHa9whi0GPo+sJ0mVYJj",
}


@pytest.mark.parametrize("key", SMTP)
def test_an_smtp_password_is_what_ses_takes(key: tuple[str, str]) -> None:
    secret, region = key

    assert smtp_password(Sensitive(secret), region) == Sensitive(SMTP[key])


def test_members_that_follow_from_the_key_are_made_where_the_secret_has_them(
    iam: StrictIam, current: Credential
) -> None:
    fields = {**current.fields, "smtp_password_eu-west-1": "", "credentials_file": "", "note": ""}

    made = _issuer().mint(replace(current, fields=fields), ATTEMPT)

    [key] = [each for each in iam.alive("app") if each.key_id == made.principal]
    assert made.derived.keys() == {"smtp_password_eu-west-1", "credentials_file"}
    assert made.derived["smtp_password_eu-west-1"] == smtp_password(key.secret, "eu-west-1")
    lines = made.derived["credentials_file"].reveal().splitlines()
    assert lines[:2] == ["[default]", f"aws_access_key_id = {key.key_id}"]
    assert Sensitive(lines[2]) == Sensitive(f"aws_secret_access_key = {key.secret.reveal()}")


def test_a_log_would_hide_them() -> None:
    hidden = scrub('{"smtp_password_eu-west-1": "BMXh", "secret_access_key": "x/y+z"}')

    assert hidden == '{"smtp_password_eu-west-1": ***, "secret_access_key": ***}'


def test_a_name_in_two_paths_is_misconfigured(current: Credential) -> None:
    with pytest.raises(Misconfigured):
        _issuer(USERS, f"arn:aws:iam::{ACCOUNT}:user/*").holder(current)
