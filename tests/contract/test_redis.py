"""Redis keeps the promises of every target, in each strategy, on a real server."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest

from conftest import need
from databases import plenty_of_time
from keyturn.local.redis import Keeps, find
from keyturn.local.redis import Redis as Server
from keyturn.model import Credential, Sensitive
from keyturn.ports import Generate
from keyturn.strategies import AlternatingUsers, DualPassword, Pair, SingleUser
from keyturn.targets.redis import Redis
from keyturn.testing.contracts import (
    CANARY,
    DualContract,
    OneSlotContract,
    Opened,
    Subject,
    TwoSlotContract,
    UsedContract,
)
from keyturn.testing.faults import Proxy
from redises import APPLICATION, ROTATION, credential, logged_in, make_user, unused_name

NOBODY_LISTENS = 1  # tcpmux: refused on loopback


def _numbered() -> Generate:
    numbers = itertools.count(1)
    return lambda: Sensitive(f"{CANARY}made-{next(numbers)}")


def _elsewhere(current: Credential) -> Credential:
    return replace(current, fields={**current.fields, "port": NOBODY_LISTENS})


@pytest.fixture
def proxy(redis: Server) -> Iterator[Proxy]:
    with Proxy(redis.port) as proxy:
        yield proxy


class TestSingleUser(OneSlotContract):
    """One user changes its own password."""

    @pytest.fixture
    def subject(self, redis: Server, proxy: Proxy) -> Subject:
        name = unused_name("app")
        make_user(redis, name, f"{CANARY}first", *APPLICATION, *ROTATION)
        current = credential(redis, name, f"{CANARY}first", port=proxy.port)
        target = SingleUser(Redis(plenty_of_time()), _numbered())
        return Subject(target, current, _elsewhere(current), proxy.outage)


class TestRequirepass(OneSlotContract):
    """The default user of a server with `requirepass`, which has no other."""

    SETTINGS = ("requirepass", f"{CANARY}first")
    USERS: tuple[str, ...] = ()
    KEEPS = Keeps.CONFIG_FILE

    @pytest.fixture
    def subject(self) -> Iterator[Subject]:
        need(present=find() is not None, what="Redis", install="apt install redis-server")
        settings = dict([self.SETTINGS, *self.more()])
        with (
            Server(keeps=self.KEEPS, users=self.USERS, settings=settings) as server,
            Proxy(server.port) as proxy,
        ):
            current = credential(server, "default", f"{CANARY}first", port=proxy.port)
            target = SingleUser(Redis(plenty_of_time()), _numbered())
            yield Subject(target, current, _elsewhere(current), proxy.outage)

    def more(self) -> list[tuple[str, str]]:
        return []


class TestWithoutUsers(TestRequirepass):
    """A server that knows no ACL, as before 6.0: here one on which it is switched off."""

    KEEPS = Keeps.NOTHING

    def more(self) -> list[tuple[str, str]]:
        return [("rename-command", 'ACL ""')]


@pytest.fixture
def opened(redis: Server) -> Opened:
    return lambda login: logged_in(redis, login)


class TestDualPassword(DualContract, UsedContract):
    """One user holds two passwords, and changes them itself."""

    @pytest.fixture
    def subject(self, redis: Server, proxy: Proxy) -> Subject:
        name = unused_name("app")
        make_user(redis, name, f"{CANARY}first", *APPLICATION, *ROTATION)
        current = credential(redis, name, f"{CANARY}first", port=proxy.port)
        target = DualPassword(Redis(plenty_of_time()), _numbered())
        return Subject(target, current, _elsewhere(current), proxy.outage)


class TestDualPasswordByAdmin(DualContract, UsedContract):
    """An admin changes them; the user itself may change nothing."""

    @pytest.fixture
    def subject(self, redis: Server, proxy: Proxy) -> Subject:
        name, admin = unused_name("app"), unused_name("admin")
        make_user(redis, name, f"{CANARY}first", *APPLICATION)
        make_user(redis, admin, f"{CANARY}admin", *ROTATION)
        current = credential(redis, name, f"{CANARY}first", port=proxy.port)
        authority = credential(redis, admin, f"{CANARY}admin", port=proxy.port)
        target = DualPassword(Redis(plenty_of_time()), _numbered(), lambda: authority)
        return Subject(target, current, _elsewhere(current), proxy.outage)


class TestAlternatingUsers(TwoSlotContract, UsedContract):
    """Two users take turns."""

    @pytest.fixture
    def subject(self, redis: Server, proxy: Proxy) -> Subject:
        name, admin = unused_name("app"), unused_name("admin")
        make_user(redis, name, f"{CANARY}first", *APPLICATION)
        make_user(redis, admin, f"{CANARY}admin", *ROTATION)
        current = credential(redis, name, f"{CANARY}first", port=proxy.port)
        authority = credential(redis, admin, f"{CANARY}admin", port=proxy.port)
        pair = Pair((name, unused_name("twin")), owner=name, is_declared=True)
        target = AlternatingUsers(
            Redis(plenty_of_time()), _numbered(), lambda _: pair, lambda: authority
        )
        return Subject(target, current, _elsewhere(current), proxy.outage)
