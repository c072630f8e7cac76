"""One user, two passwords: exactly those two, and the one to keep at every moment."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import pytest

from databases import unused_name
from keyturn.errors import Denied, KeyturnError
from keyturn.model import Sensitive
from keyturn.targets.mysql import _Session
from keyturn.testing.faults import Moment, Proxy, Verdict
from mysql_accounts import Site

PASSWORDS = [f"Canary7-{number}" for number in range(6)]
FIRST = PASSWORDS[0]
RIGHTS = {
    "an admin": "",
    "itself, by hash": "CREATE USER",
    "itself, in clear": "APPLICATION_PASSWORD_ADMIN",
}
"""Who sets them, and what the user itself is granted. MariaDB has the last right not."""


@dataclass(frozen=True, slots=True)
class User:
    """A user, and who sets its passwords."""

    site: Site
    name: str
    authority: str

    def accepted(self) -> list[str]:
        return [each for each in PASSWORDS if self.site.accepts(self.name, each)]

    @contextmanager
    def session(self, password: str, port: int | None = None) -> Iterator[_Session]:
        secret = password if self.authority == self.name else FIRST
        login = self.site.credential(self.authority, secret, port=port)
        with self.site.engine().login(login) as session:
            assert session is not None
            yield session

    def set_dual(self, secret: str, *, keep: str, port: int | None = None) -> None:
        with self.session(keep, port) as session:
            session.set_dual(self.name, Sensitive(secret), keep=Sensitive(keep))


@pytest.fixture(params=RIGHTS)
def user(site: Site, request: pytest.FixtureRequest) -> User:
    name, right = unused_name("app"), RIGHTS[request.param]
    made = site.make(name, FIRST)
    if not right:
        admin = unused_name("admin")
        site.make_admin(admin, FIRST)
        return User(site, name, admin)
    if right == "APPLICATION_PASSWORD_ADMIN" and site.is_mariadb:
        pytest.skip("MariaDB has no such right")
    site.execute(f"GRANT {right} ON *.* TO {made}")
    return User(site, name, name)


def test_exactly_two_are_accepted_whatever_was_before(user: User) -> None:
    """Rotations, the same again, an abandoned one, and back to one that was kept."""
    with user.session(FIRST) as session:
        session.check_dual(user.name)
    for secret, keep in [(1, 0), (1, 0), (2, 1), (3, 1), (3, 1), (4, 3), (1, 4), (1, 4)]:
        user.set_dual(PASSWORDS[secret], keep=PASSWORDS[keep])

        assert user.accepted() == sorted([PASSWORDS[secret], PASSWORDS[keep]])


def test_one_password_is_left_when_one_is_set(user: User) -> None:
    user.set_dual(PASSWORDS[1], keep=FIRST)

    for _ in range(2):
        with user.session(PASSWORDS[1]) as session:
            session.set_password(user.name, Sensitive(PASSWORDS[1]))

        assert user.accepted() == [PASSWORDS[1]]


@pytest.mark.parametrize("is_second", [False, True])
def test_the_one_to_keep_is_accepted_after_every_exchange(user: User, is_second: bool) -> None:  # noqa: FBT001
    """The line is cut before or after each; then the change is made again."""
    for last, moment in itertools.product(range(1, 6), Moment):
        if is_second:
            user.set_dual(PASSWORDS[5], keep=FIRST)

        _set_dual_cut_at(user, last, moment)

        assert FIRST in user.accepted(), (last, moment)
        user.set_dual(PASSWORDS[1], keep=FIRST)
        assert user.accepted() == [FIRST, PASSWORDS[1]]


def _set_dual_cut_at(user: User, last: int, at: Moment) -> None:
    def cut(number: int, moment: Moment) -> Verdict:
        return Verdict.CUT if number == last and moment is at else Verdict.PASS

    with (
        Proxy(user.site.server.port) as proxy,
        suppress(KeyturnError),
        user.session(FIRST, proxy.port) as session,
    ):
        proxy.reset(cut)
        session.set_dual(user.name, Sensitive(PASSWORDS[2]), keep=Sensitive(FIRST))


def test_a_user_cannot_drop_a_second_password_without_the_right_to(site: Site) -> None:
    """MariaDB refuses the change; MySQL makes it, and the second one stays: docs/mysql.md."""
    name, admin = unused_name("app"), unused_name("admin")
    site.make(name, FIRST)
    site.make_admin(admin, FIRST)
    User(site, name, admin).set_dual(PASSWORDS[1], keep=FIRST)
    user = User(site, name, name)

    with user.session(PASSWORDS[1]) as session:
        if site.is_mariadb:
            with pytest.raises(Denied):
                session.set_password(name, Sensitive(PASSWORDS[2]))
        else:
            session.set_password(name, Sensitive(PASSWORDS[2]))

    assert user.accepted() == [FIRST, PASSWORDS[1 if site.is_mariadb else 2]]


def test_every_account_of_a_user_gets_both(site: Site) -> None:
    """An admin sets them for all hosts: readers may come from any."""
    name, admin = unused_name("app"), unused_name("admin")
    site.make(name, "Canary7-other", "10.0.0.1")
    site.make(name, FIRST)
    site.make_admin(admin, FIRST)

    User(site, name, admin).set_dual(PASSWORDS[1], keep=FIRST)

    if site.is_mariadb:
        assert " OR " in str(site.rows(f"SHOW CREATE USER `{name}`@`10.0.0.1`"))
    query = "SELECT Host FROM mysql.user WHERE User_attributes LIKE '%additional_password%'"
    assert site.is_mariadb or {"10.0.0.1", "%"} <= {str(host) for (host,) in site.rows(query)}
    assert User(site, name, admin).accepted() == PASSWORDS[:2]
