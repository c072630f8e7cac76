"""Users of ElastiCache and MemoryDB keep the promises, before a real Redis with real logins.

The services' API is our own stand-in, over their real wire: `keyturn.testing.strict_elasticache`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import pytest

from conftest import need
from keyturn.errors import (
    Busy,
    Drifted,
    KeyturnError,
    NotYetAccepted,
    Unreachable,
)
from keyturn.local.redis import Redis as Server
from keyturn.local.redis import find
from keyturn.model import Credential, Sensitive, Surroundings, Version
from keyturn.ports import Generate
from keyturn.targets.elasticache import ManagedUser, target
from keyturn.testing.contracts import CANARY, DualContract, Subject, version
from keyturn.testing.faults import Proxy
from keyturn.testing.strict_elasticache import StrictElastiCache, User
from redises import APPLICATION, credential, hashes_of, make_user, unused_name

FIRST = f"{CANARY}first-of-all"
NOBODY_LISTENS = 1  # tcpmux: refused on loopback


def _numbered() -> Generate:
    numbers = itertools.count(1)
    return lambda: Sensitive(f"{CANARY}made-by-us-{next(numbers)}")


def _target(remaining_s: Callable[[], float] = lambda: 60.0) -> ManagedUser:
    return target(Surroundings(remaining_s), _numbered())


@pytest.fixture
def proxy(redis: Server) -> Iterator[Proxy]:
    with Proxy(redis.port) as proxy:
        yield proxy


@pytest.fixture
def service(redis: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[StrictElastiCache]:
    need(present=find() is not None, what="Redis", install="apt install redis-server")

    def apply(name: str, passwords: list[str]) -> None:
        make_user(redis, name, passwords[0], *APPLICATION, more=passwords[1:])

    with StrictElastiCache(apply) as service:
        for name, url in service.urls.items():
            monkeypatch.setenv(name, url)
        yield service


@pytest.fixture(params=["elasticache", "memorydb"])
def user(redis: Server, service: StrictElastiCache, request: pytest.FixtureRequest) -> User:
    name = unused_name("app").replace("_", "-")
    make_user(redis, name, FIRST, *APPLICATION)
    user_id = f"{name}-id" if request.param == "elasticache" else name
    return service.add(request.param, user_id, name)


@pytest.fixture
def current(redis: Server, proxy: Proxy, user: User) -> Credential:
    login = credential(redis, user.name, FIRST, port=proxy.port)
    return replace(login, fields={**login.fields, "user_arn": user.arn})


class TestManagedUser(DualContract):
    """One user, two passwords, set by the API."""

    @pytest.fixture
    def subject(self, current: Credential, proxy: Proxy) -> Subject:
        elsewhere = replace(current, fields={**current.fields, "port": NOBODY_LISTENS})
        return Subject(_target(), current, elsewhere, proxy.outage)


def _pending(current: Credential, name: str = "made") -> Version:
    return version(replace(current, secret=Sensitive(f"{CANARY}pending-{name}")), name)


def test_set_waits_until_the_user_is_active(
    service: StrictElastiCache, user: User, redis: Server, current: Credential
) -> None:
    service.delay_s = 0.4
    pending = _pending(current)

    _target().set(lambda: pending, version(current, "v0"), [])

    assert user.status == "active"
    assert len(hashes_of(redis, user.name)) == 2
    assert _count(service, "ModifyUser", "UpdateUser") == 1


def test_a_change_that_outlives_the_function_is_not_made_twice(
    service: StrictElastiCache, current: Credential
) -> None:
    """Each try would begin anew, and none would ever end."""
    service.delay_s = 0.8
    pending = _pending(current)
    hurried = _target(lambda: 2.3)
    for _ in range(2):
        with pytest.raises(NotYetAccepted, match="still being modified"):
            hurried.set(lambda: pending, version(current, "v0"), [])

    _target().set(lambda: pending, version(current, "v0"), [])

    assert _count(service, "ModifyUser", "UpdateUser") == 1
    assert _target().accepts(pending.credential)
    assert _target().accepts(current)


def test_a_worker_that_was_overtaken_while_it_waited_changes_nothing(
    service: StrictElastiCache, user: User, current: Credential
) -> None:
    pending = _pending(current)
    reads = iter([pending])

    def superseded() -> Version:
        for each in reads:
            return each
        raise Busy("superseded", remedy="")

    with pytest.raises(Busy):
        _target().set(superseded, version(current, "v0"), [])

    assert _count(service, "ModifyUser", "UpdateUser") == 0
    assert user.count == 1


def test_a_current_that_works_no_more_is_set_again(current: Credential) -> None:
    """The authority is the role's: nothing that the store holds has to log in."""
    lost = replace(current, secret=Sensitive(f"{CANARY}lost-by-hand"))
    pending = _pending(current)

    _target().set(lambda: pending, version(lost, "v0"), [])

    assert _target().accepts(lost)
    assert _target().accepts(pending.credential)


def _count(service: StrictElastiCache, *actions: str) -> int:
    return sum(each in actions for each in service.calls)


# ---------------------------------------------------------------------------- refusals


def _why(login: Credential, generate: Generate | None = None) -> str:
    try:
        target(Surroundings(lambda: 60.0), generate or _numbered()).create(login, [])
    except KeyturnError as error:
        return f"{type(error).__name__}: {error}"
    return "made"


def test_what_is_wrong_is_refused_before_anything_is_stored(
    user: User, current: Credential, service: StrictElastiCache
) -> None:
    def changed(**fields: object) -> Credential:
        return replace(current, fields={**current.fields, **fields})

    without_host = {key: value for key, value in current.fields.items() if key != "host"}

    assert _why(current) == "made"
    assert "'host' is missing" in _why(replace(current, fields=without_host))
    assert "'user_arn' is not the ARN" in _why(changed(user_arn=None))
    assert "'user_arn' is not the ARN" in _why(changed(user_arn=f"{user.arn} "))
    assert _why(changed(user_arn=f"{user.arn}x")).startswith("Drifted: there is no user")
    other_account = user.arn.replace(":123456789012:", ":210987654321:")
    assert _why(changed(user_arn=other_account)).startswith("Drifted: there is no user")
    other_region = user.arn.replace("eu-west-1", "us-east-1")
    assert "in another region" in _why(changed(user_arn=other_region))
    assert "the secret says 'other'" in _why(replace(current, principal="other"))
    for secret in ("short", "x" * 129, "é" * 20, "tab\t" * 5):
        assert "16 to 128 printable" in _why(current, partial(Sensitive, secret))
    user.authentication = "iam"
    assert _why(current).startswith("Unsupported: the user")
    assert _count(service, "ModifyUser", "UpdateUser") == 0


def test_a_user_that_is_being_deleted_is_not_waited_for(user: User, current: Credential) -> None:
    user.status = "deleting"
    pending = _pending(current)

    with pytest.raises(Drifted, match="'deleting'"):
        _target().set(lambda: pending, version(current, "v0"), [])


def test_a_service_that_does_not_answer_is_no_refusal(
    service: StrictElastiCache, current: Credential, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in service.urls:
        monkeypatch.setenv(name, f"http://127.0.0.1:{NOBODY_LISTENS}")

    with pytest.raises(Unreachable):
        _target().create(current, [])
