"""Two users that take turns: each may do exactly what the other may, at every moment no more."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from databases import unused_name
from keyturn.errors import Denied, Drifted, KeyturnError, Unsupported
from keyturn.model import Sensitive
from keyturn.targets.mysql import _Session
from keyturn.targets.mysql_sql import account
from keyturn.testing.faults import Moment, Proxy, Verdict
from mysql_accounts import Site

FIRST, ADMIN, TURNED = "Canary7-first", "Canary7-admin", "Canary7-turned"


class Duo:
    """A user with rights of every kind, the name of its twin, and an admin."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.like, self.twin, self.admin, self.db = (
            unused_name(stem) for stem in ("app", "twin", "admin", "d%b_'x")
        )
        site.execute(
            f"CREATE DATABASE `{self.db}`",
            f"CREATE TABLE `{self.db}`.`t, ``u` (a INT, `b, ``c` INT, d INT)",
            f"CREATE PROCEDURE `{self.db}`.p() SELECT 1",
            f"CREATE ROLE `{self.like}_r`, `{self.like}_``s`",
            f"GRANT SHOW VIEW ON *.* TO `{self.like}_r`",
        )
        site.make_admin(self.admin, ADMIN)
        site.execute(f"GRANT ALL ON *.* TO `{self.admin}`@`%` WITH GRANT OPTION")
        if site.is_mariadb:
            site.execute(f"GRANT `{self.like}_r` TO `{self.admin}`@`%` WITH ADMIN OPTION")
            site.execute(f"GRANT `{self.like}_``s` TO `{self.admin}`@`%` WITH ADMIN OPTION")

    def make_like(self, host: str = "%") -> str:
        name = self.site.make(self.like, FIRST, host)
        fill = {"db": self.db, "name": name, "role": self.like}
        self.site.execute(*(grant.format(**fill) for grant in RIGHTS))
        return name

    @contextmanager
    def session(self, port: int | None = None) -> Iterator[_Session]:
        login = self.site.credential(self.admin, ADMIN, port=port)
        with self.site.engine().login(login) as session:
            assert session is not None
            yield session

    def turn(self, port: int | None = None) -> None:
        with self.session(port) as session:
            session.set_twin(self.twin, Sensitive(TURNED), like=self.like, owner=self.like)

    def check(self, *, is_ours: bool = True) -> None:
        with self.session() as session:
            session.check_twin(self.twin, like=self.like, owner="", is_ours=lambda: is_ours)

    def is_equal(self, host: str = "%") -> bool:
        return self.site.described(self.twin, host) == self.site.described(self.like, host)


RIGHTS = (
    "GRANT PROCESS, RELOAD ON *.* TO {name}",
    "GRANT SELECT, EXECUTE ON `{db}`.* TO {name} WITH GRANT OPTION",
    "GRANT UPDATE (a, `b, ``c`), INSERT ON `{db}`.`t, ``u` TO {name}",
    "GRANT ALTER ROUTINE ON PROCEDURE `{db}`.p TO {name}",
    "GRANT `{role}_r` TO {name}",
    "GRANT `{role}_``s` TO {name} WITH ADMIN OPTION",
)
OPTIONS = (
    "ALTER USER {name} REQUIRE SSL WITH MAX_QUERIES_PER_HOUR 5000 MAX_USER_CONNECTIONS 7",
    "ALTER USER {name} PASSWORD EXPIRE INTERVAL 90 DAY",
)


@pytest.fixture
def duo(site: Site) -> Duo:
    return Duo(site)


def test_rights_limits_and_options_are_copied(duo: Duo) -> None:
    """Names with quotes, commas and wildcards; columns, routines, roles, options, and limits."""
    name = duo.make_like()
    duo.site.execute(*(option.format(name=name) for option in OPTIONS))
    if duo.site.is_mariadb:
        duo.site.execute(f"SET DEFAULT ROLE `{duo.like}_r` FOR {name}")
    else:
        duo.site.execute(
            f"ALTER USER {name} DEFAULT ROLE `{duo.like}_r`",
            f"ALTER USER {name} FAILED_LOGIN_ATTEMPTS 4 PASSWORD_LOCK_TIME 2",
            f"GRANT BACKUP_ADMIN ON *.* TO {name} WITH GRANT OPTION",
        )

    duo.turn()

    assert duo.is_equal()
    assert len(duo.site.described(duo.twin)) > 6
    assert duo.site.accepts(duo.twin, TURNED)
    assert duo.site.accepts(duo.like, FIRST)


def test_what_the_other_lost_is_taken_away(duo: Duo) -> None:
    """The official template only ever adds: what was revoked comes back with the next rotation."""
    name = duo.make_like()
    for option in OPTIONS:
        duo.site.execute(option.format(name=name))
    duo.turn()
    for change in (
        "REVOKE PROCESS ON *.* FROM {name}",
        "REVOKE GRANT OPTION ON `{db}`.* FROM {name}",
        "REVOKE UPDATE (a) ON `{db}`.`t, ``u` FROM {name}",
        "GRANT ALL ON `{db}`.* TO {name}",
        "REVOKE ALTER ROUTINE ON PROCEDURE `{db}`.p FROM {name}",
        "REVOKE `{role}_r` FROM {name}",
        "ALTER USER {name} REQUIRE NONE WITH MAX_QUERIES_PER_HOUR 0 MAX_USER_CONNECTIONS 0",
        "ALTER USER {name} PASSWORD EXPIRE NEVER",
    ):
        duo.site.execute(change.format(name=name, db=duo.db, role=duo.like))

        duo.turn()

        assert duo.is_equal(), change
    duo.site.execute(f"REVOKE ALL PRIVILEGES, GRANT OPTION FROM {name}")
    duo.turn()
    assert duo.is_equal()


def test_each_host_is_mirrored(duo: Duo) -> None:
    """And each has its own rights."""
    duo.make_like()
    duo.site.make(duo.like, FIRST, "127.0.0.1", options="WITH MAX_USER_CONNECTIONS 3")

    duo.turn()

    assert duo.is_equal()
    assert duo.is_equal("127.0.0.1")
    assert duo.site.accepts(duo.twin, TURNED)


def test_nobody_else_is_touched(duo: Duo) -> None:
    """Names that a careless pattern would take for them, too."""
    duo.make_like()
    others = [f"{duo.twin}x", duo.twin.replace("_", "%"), f"{duo.like}_", duo.like.upper()]
    for other in others:
        duo.site.make(other, "Canary7-other")
    before = _others(duo)

    duo.turn()

    assert _others(duo) == before
    assert all(duo.site.accepts(other, "Canary7-other") for other in others)


def _others(duo: Duo) -> list[tuple[object, ...]]:
    rows = duo.site.rows("SELECT * FROM mysql.user")
    return [row for row in rows if not {duo.twin, duo.like} & {str(value) for value in row}]


def test_a_turn_cut_at_any_exchange_widens_nothing_and_is_made_good(duo: Duo) -> None:
    """What makes a change look finished comes last; after each exchange, in either direction."""
    duo.make_like()
    duo.turn()
    wanted = duo.site.described(duo.like)
    with Proxy(duo.site.server.port) as proxy:
        for moment, last in itertools.product(Moment, range(1, 12)):
            duo.site.execute(f"DROP USER `{duo.twin}`@`%`")
            _turn_cut_at(duo, proxy, last, moment)
            accepted = duo.site.accepts(duo.twin, TURNED) if _is_unlocked(duo) else False
            assert not accepted or duo.site.described(duo.twin) == wanted, (moment, last)

            duo.turn()

            assert duo.is_equal()
            assert duo.site.accepts(duo.twin, TURNED)


def _turn_cut_at(duo: Duo, proxy: Proxy, last: int, moment: Moment) -> None:
    def cut(number: int, now: Moment) -> Verdict:
        return Verdict.CUT if number == last and now is moment else Verdict.PASS

    proxy.reset()
    with suppress(KeyturnError), duo.session(proxy.port) as session:
        proxy.reset(cut)
        session.set_twin(duo.twin, Sensitive(TURNED), like=duo.like, owner=duo.like)


def _is_unlocked(duo: Duo) -> bool:
    if (duo.twin,) not in duo.site.rows("SELECT User FROM mysql.user"):
        return False
    ((shown,),) = duo.site.rows(f"SHOW CREATE USER `{duo.twin}`@`%`")
    return "ACCOUNT LOCK" not in str(shown)


# ---------------------------------------------------------------------------- refusals


def test_a_twin_that_nobody_vouches_for_is_not_taken_over(duo: Duo) -> None:
    duo.make_like()
    duo.check(is_ours=False)  # there is none yet
    duo.site.make(duo.twin, "Canary7-theirs")

    with pytest.raises(Drifted, match="not known to belong"):
        duo.check(is_ours=False)
    duo.check(is_ours=True)

    assert duo.site.accepts(duo.twin, "Canary7-theirs")


def test_what_cannot_be_copied_is_named(duo: Duo) -> None:
    with pytest.raises(Drifted, match="no user"):
        duo.check()
    name = duo.make_like()
    duo.site.make(duo.twin, "Canary7-theirs", "10.0.0.1")
    with pytest.raises(Drifted, match=r"may come from 10\.0\.0\.1"):
        duo.check()
    duo.site.execute(f"DROP USER `{duo.twin}`@`10.0.0.1`")
    duo.site.execute(f"ALTER USER {name} ACCOUNT LOCK")
    with pytest.raises(Drifted, match="is locked"):
        duo.check()
    duo.site.execute(f"ALTER USER {name} ACCOUNT UNLOCK")
    twin = duo.site.make(duo.twin, "Canary7-theirs")
    duo.site.execute(f"GRANT CREATE USER ON *.* TO {twin}")
    with pytest.raises(Drifted, match="may manage others"):
        duo.check()
    duo.site.execute(f"REVOKE CREATE USER ON *.* FROM {twin}")
    shadow = account("", "10.0.0.1")
    duo.site.execute(f"CREATE USER {shadow}")
    try:
        with pytest.raises(Drifted, match="anonymous"):
            duo.check()
    finally:
        duo.site.execute(f"DROP USER {shadow}")
    duo.check()


def test_the_admin_is_none_of_the_pair(duo: Duo) -> None:
    duo.make_like()

    with duo.session() as session, pytest.raises(Drifted, match="is the admin"):
        session.check_twin(duo.admin, like=duo.like, owner="", is_ours=lambda: True)


def test_a_right_that_the_admin_may_not_pass_on_leaves_the_twin_locked(site: Site) -> None:
    name, twin, weak = (unused_name(stem) for stem in ("app", "twin", "weak"))
    made = site.make(name, FIRST)
    site.execute(f"GRANT SHUTDOWN ON *.* TO {made}")
    admin = site.make(weak, ADMIN)
    site.execute(f"GRANT CREATE USER ON *.* TO {admin}", f"GRANT SELECT ON mysql.* TO {admin}")

    with site.engine().login(site.credential(weak, ADMIN)) as session:
        assert session is not None
        session.check_twin(twin, like=name, owner="", is_ours=lambda: True)
        with pytest.raises(Denied):
            session.set_twin(twin, Sensitive(TURNED), like=name, owner="")

    assert "ACCOUNT LOCK" in str(site.described(twin))
    assert "SHUTDOWN" not in str(site.described(twin))


@pytest.mark.parametrize(
    "required", ["SUBJECT '/CN=o''brien'", "SUBJECT '/O=a''b' ISSUER '/CN=o''brien'"]
)
def test_a_certificate_that_cannot_be_read_back_is_named(duo: Duo, required: str) -> None:
    """MySQL does not escape it, nor did older MariaDB: what follows could be anything."""
    name = duo.make_like()
    duo.site.execute(f"ALTER USER {name} REQUIRE {required}")

    with pytest.raises(Unsupported, match="cannot be read"):
        duo.check()
