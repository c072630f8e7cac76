"""MySQL and MariaDB keep the promises of every target, in each strategy, on real servers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest

from databases import unused_name
from keyturn.errors import Drifted
from keyturn.model import Credential, Sensitive
from keyturn.ports import Generate, Target
from keyturn.strategies import AlternatingUsers, DualPassword, Pair, SingleUser, pair_by_suffix
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
from mysql_accounts import Site

NOBODY_LISTENS = 1  # tcpmux: refused on loopback


def _numbered() -> Generate:
    numbers = itertools.count(1)
    return lambda: Sensitive(f"{CANARY}made-{next(numbers)}")


@pytest.fixture
def proxy(site: Site) -> Iterator[Proxy]:
    with Proxy(site.server.port) as proxy:
        yield proxy


def _subject(site: Site, proxy: Proxy, target: Target, name: str) -> Subject:
    site.make(name, f"{CANARY}first")
    current = site.credential(name, f"{CANARY}first", port=proxy.port)
    unreachable = replace(current, fields={**current.fields, "port": NOBODY_LISTENS})
    return Subject(target, current, unreachable, proxy.outage)


def _admin(site: Site, proxy: Proxy) -> Credential:
    name = unused_name("admin")
    site.make_admin(name, f"{CANARY}admin")
    return site.credential(name, f"{CANARY}admin", port=proxy.port)


class TestSingleUser(OneSlotContract):
    """One account changes its own password."""

    @pytest.fixture
    def subject(self, site: Site, proxy: Proxy) -> Subject:
        target = SingleUser(site.engine(), _numbered())
        return _subject(site, proxy, target, unused_name("app"))


class TestAlternatingUsers(TwoSlotContract, UsedContract):
    """Two accounts take turns."""

    @pytest.fixture
    def opened(self, site: Site) -> Opened:
        return site.opened

    @pytest.fixture
    def subject(self, site: Site, proxy: Proxy) -> Subject:
        admin, name = _admin(site, proxy), unused_name("app")
        pair = Pair((name, f"{name}_clone"), owner=name, is_declared=True)
        target = AlternatingUsers(site.engine(), _numbered(), lambda _: pair, lambda: admin)
        return _subject(site, proxy, target, name)

    def test_a_name_is_no_proof(self, site: Site, proxy: Proxy, subject: Subject) -> None:
        """`app_clone` of somebody else is not taken over because of its name."""
        admin, twin = _admin(site, proxy), f"{subject.current.principal}_clone"
        site.make(twin, f"{CANARY}stranger")
        target = AlternatingUsers(site.engine(), _numbered(), pair_by_suffix, lambda: admin)

        with pytest.raises(Drifted, match="not known to belong"):
            target.create(subject.current, [])

        assert site.accepts(twin, f"{CANARY}stranger")


class TestDualPasswordByAnAdmin(DualContract):
    """One account, two passwords, which an admin sets."""

    @pytest.fixture
    def subject(self, site: Site, proxy: Proxy) -> Subject:
        admin = _admin(site, proxy)
        target = DualPassword(site.engine(), _numbered(), lambda: admin)
        return _subject(site, proxy, target, unused_name("app"))


class TestDualPasswordByOneself(DualContract):
    """One account, two passwords, which it sets itself."""

    @pytest.fixture
    def subject(self, site: Site, proxy: Proxy) -> Subject:
        name = unused_name("app")
        made = _subject(site, proxy, DualPassword(site.engine(), _numbered()), name)
        site.execute(f"GRANT CREATE USER ON *.* TO `{name}`@`%`")
        return made
