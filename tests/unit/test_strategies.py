"""Who may set a password, in which order they are asked, and what is refused before any act."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import pytest

from keyturn.errors import Busy, Drifted, LockedOut, Misconfigured, Unsupported
from keyturn.model import Credential, Sensitive, Version
from keyturn.ports import Pending, Retiring, Session, Target, TwinSession
from keyturn.strategies import (
    AlternatingUsers,
    BestOffered,
    DualPassword,
    Pair,
    SingleUser,
    pair_by_suffix,
)
from keyturn.testing.contracts import MADE_AT, version
from keyturn.testing.fakes import Account, MemoryDatabase, Opened, World

APP = Credential("app", Sensitive("live"))
CLONE = Credential("app_clone", Sensitive("next"))


def database(**accounts: Account) -> MemoryDatabase:
    known = {"app": Account("live"), "admin": Account("admin")}
    return MemoryDatabase(World(), {**known, **accounts})


def single(server: MemoryDatabase) -> SingleUser:
    return SingleUser(server, lambda: Sensitive("next"))


def alternating(server: MemoryDatabase) -> AlternatingUsers:
    return AlternatingUsers(
        server,
        lambda: Sensitive("next"),
        pair_by_suffix,
        lambda: Credential("admin", Sensitive("admin")),
    )


def dual(server: MemoryDatabase) -> DualPassword:
    return DualPassword(server, lambda: Sensitive("next"))


def dual_by_admin(server: MemoryDatabase) -> DualPassword:
    admin = Credential("admin", Sensitive("admin"))
    return DualPassword(server, lambda: Sensitive("next"), lambda: admin)


def held(pending: Version) -> Pending:
    """Be a slot that this rotation holds."""
    return lambda: pending


def app(name: str, secret: str) -> Version:
    return version(replace(APP, secret=Sensitive(secret)), name)


def calls(server: MemoryDatabase) -> list[str]:
    return server._world.calls  # noqa: SLF001  # the fake's own count


# ---------------------------------------------------------------------------- the last look


@pytest.mark.parametrize(
    "make, pending, last",
    [
        (single, replace(APP, secret=Sensitive("next")), "database.login"),
        (dual, replace(APP, secret=Sensitive("next")), "database.check"),
        (dual_by_admin, replace(APP, secret=Sensitive("next")), "database.check"),
        (alternating, CLONE, "database.check"),
    ],
    ids=["single", "dual", "dual by admin", "alternating"],
)
def test_the_slot_is_read_after_every_check_and_right_before_the_act(
    make: Callable[[MemoryDatabase], Target], pending: Credential, last: str
) -> None:
    """What lies between the look and the act is one call, however slow the rest is."""
    server = database()
    looked_after: list[str] = []

    def slot() -> Version:
        looked_after[:] = calls(server)
        return version(pending, "r1")

    make(server).set(slot, version(APP, "v0"), [])

    assert looked_after[-1] == last
    assert calls(server) == [*looked_after, "database.set"]


# ---------------------------------------------------------------------------- the search


def test_the_newest_version_kept_is_tried_first() -> None:
    """ADR 3: the third failed login may lock the account, and the newest is the likely one."""
    server = database(app=Account("live"))
    kept = [app("r3", "next"), app("r2", "live"), app("r1", "never set"), app("v0", "old")]

    single(server).set(held(app("r3", "next")), app("v0", "old"), kept)

    assert server.accounts["app"].password == "next"
    assert server.failed_logins == 2


@pytest.mark.parametrize(
    "stranger",
    [replace(APP, fields={"host": "elsewhere"}), Credential("admin", Sensitive("admin"))],
    ids=["place", "user"],
)
def test_a_version_kept_for_another_place_or_user_is_passed_over(stranger: Credential) -> None:
    """The application has moved, or changed its user: an old password is not sent there."""
    server = database()

    kept = [version(stranger, "moved")]
    with pytest.raises(LockedOut, match=r"v0, r1$"):
        single(server).set(held(app("r1", "next")), app("v0", "old"), kept)

    assert calls(server) == ["database.login"] * 2


@pytest.mark.parametrize("limit, tried", [(2, ["v0", "r1"]), (3, ["v0", "r1", "r2"])])
def test_no_more_logins_fail_than_the_plan_allows(limit: int, tried: list[str]) -> None:
    """The one that would work is not found then: a person must say what the account may bear."""
    server = database()
    target = SingleUser(server, lambda: Sensitive("next"), failed_logins=limit)
    kept = [app("r2", "abandoned"), app("r0", "live")]

    with pytest.raises(LockedOut, match=f"{', '.join(tried)}; `failed_logins`"):
        target.set(held(app("r1", "next")), app("v0", "old"), kept)

    assert server.failed_logins == limit


def test_with_two_passwords_create_has_failed_one_of_those_that_are_allowed() -> None:
    server = database()
    target = DualPassword(server, lambda: Sensitive("next"), failed_logins=2)
    target.create(app("v0", "old").credential, [])

    with pytest.raises(LockedOut, match="v0; `failed_logins`"):
        target.set(held(app("r1", "next")), app("v0", "old"), [app("r0", "live")])

    assert server.failed_logins == 2


def test_a_version_kept_that_is_no_usable_login_is_passed_over() -> None:
    """It may have been stored before anybody checked."""
    server = database()
    unusable = version(Credential("invalid", Sensitive("x")), "v1")

    single(server).set(held(app("r1", "next")), app("v0", "old"), [unusable, app("r0", "live")])

    assert server.accounts["app"].password == "next"


# ---------------------------------------------------------------------------- refusals


def test_a_pending_value_for_another_user_is_refused_before_any_change() -> None:
    """Whoever can edit pending must not thereby choose whose password is changed."""
    server = database()
    pending = version(Credential("admin", Sensitive("next")), "r1")

    with pytest.raises(Drifted, match="r1"):
        single(server).set(held(pending), version(APP, "v0"), [])

    assert "database.set" not in calls(server)


@pytest.mark.parametrize("make", [single, dual, alternating])
def test_what_the_engine_refuses_is_never_staged(
    make: Callable[[MemoryDatabase], Target],
) -> None:
    """A NUL that gets past create is stored, and set fails for ever."""
    with pytest.raises((Misconfigured, Drifted)):
        make(database()).create(Credential("invalid", Sensitive("x")), [])


def test_a_user_outside_the_pair_is_named_and_nothing_is_staged() -> None:
    server = database()
    planned = Pair(("orders_a", "orders_b"), "orders")
    target = AlternatingUsers(server, lambda: Sensitive("next"), lambda _: planned, lambda: APP)

    with pytest.raises(Drifted, match="'app' is neither 'orders_a' nor 'orders_b'"):
        target.create(APP, [])

    assert calls(server) == []


def test_the_user_that_is_current_now_is_not_set_although_the_pair_owns_both() -> None:
    """A late finish has made pending's user the live one: its password is in use (P3)."""
    server = database(
        orders=Account(None),
        a=Account("live", member_of={"orders"}),
        b=Account("old", member_of={"orders"}),
    )
    planned = Pair(("a", "b"), "orders")
    target = AlternatingUsers(
        server,
        lambda: Sensitive("next"),
        lambda _: planned,
        lambda: Credential("admin", Sensitive("admin")),
    )
    now = version(Credential("a", Sensitive("live")), "r2")
    late = version(Credential("a", Sensitive("next")), "r1")

    with pytest.raises(Drifted, match="r1"):
        target.set(held(late), now, [])

    assert server.accounts["a"].password == "live"


def test_a_twin_of_somebody_else_is_refused_before_anything_is_staged() -> None:
    server = database(app_clone=Account("theirs"))

    with pytest.raises(Drifted):
        alternating(server).create(APP, [])


def test_a_twin_that_somebody_made_meanwhile_is_not_taken_over() -> None:
    """Create has looked; set looks again."""
    server = database()
    target = alternating(server)
    pending = version(target.create(APP, []), "r1")
    server.accounts["app_clone"] = Account("theirs")

    with pytest.raises(Drifted):
        target.set(held(pending), version(APP, "v0"), [])

    assert server.accounts["app_clone"].password == "theirs"


def test_a_twin_that_does_not_act_as_the_owner_is_not_accepted() -> None:
    """It logs in, and cannot do what current can."""
    server = database(app_clone=Account("next"))

    assert alternating(server).accepts(CLONE) is False

    server.accounts["app_clone"].acts_as = "app"
    assert alternating(server).accepts(CLONE) is True


# ---------------------------------------------------------------------------- two passwords


class OneEach(MemoryDatabase):
    """An engine whose accounts have one password, as PostgreSQL's."""

    @contextmanager
    def login(self, credential: Credential) -> Iterator[Session | None]:  # type: ignore[override]
        with super().login(credential) as session:
            yield None if session is None else _SetsOnly(session)


class _SetsOnly:
    def __init__(self, session: Session) -> None:
        self._session = session

    def set_password(self, principal: str, secret: Sensitive) -> None:
        self._session.set_password(principal, secret)


def one_each() -> OneEach:
    return OneEach(World(), {"app": Account("live"), "admin": Account("admin")})


@pytest.mark.parametrize("make", [dual, dual_by_admin])
def test_two_passwords_are_set_without_a_failed_login(
    make: Callable[[MemoryDatabase], DualPassword],
) -> None:
    server = database()

    following = make(server).create(APP, [])
    make(server).set(held(version(following, "r1")), version(APP, "v0"), [])

    assert server.accounts["app"] == Account("next", "live")
    assert server.failed_logins == 0


def test_what_is_set_already_is_set_again_and_current_with_it() -> None:
    """Somebody took current's password away: pending's authority brings it back."""
    server = database(app=Account("next"))

    dual(server).set(held(app("r1", "next")), app("v0", "live"), [])

    assert server.accounts["app"] == Account("next", "live")


def test_an_engine_with_one_password_refuses_before_anything_is_staged() -> None:
    with pytest.raises(Unsupported, match="one password per user"):
        dual(one_each()).create(APP, [])


def test_an_engine_without_twins_refuses_before_anything_is_staged() -> None:
    with pytest.raises(Unsupported, match="take turns"):
        alternating(one_each()).create(APP, [])


def test_a_current_that_is_refused_does_not_stop_create() -> None:
    """Set finds another authority; create has nothing to check with."""
    server = database(app=Account("by hand"))

    assert dual(server).create(APP, []).secret == Sensitive("next")


# ---------------------------------------------------------------------------- the best offered


def best(server: MemoryDatabase) -> BestOffered:
    return BestOffered(dual(server), single(server))


def test_two_passwords_are_best() -> None:
    server = database()

    best(server).set(held(app("r1", "next")), app("v0", "live"), [])

    assert server.accounts["app"] == Account("next", "live")


def test_where_they_are_not_offered_the_other_strategy_is_taken() -> None:
    server = one_each()

    following = best(server).create(APP, [])
    best(server).set(held(version(following, "r1")), version(APP, "v0"), [])

    assert server.accounts["app"] == Account("next")


def test_what_waits_for_the_other_user_is_set_by_the_strategy_that_made_it() -> None:
    """A privilege that came between create and set does not change whose turn it is."""
    server = database()
    target = BestOffered(dual(server), alternating(server))

    target.set(held(version(CLONE, "r1")), version(APP, "v0"), [])

    assert server.accounts["app"] == Account("live")
    assert server.accounts["app_clone"].password == "next"


def test_why_two_passwords_are_not_offered_is_said() -> None:
    refused = dual(database(app=Account("by hand"))).offer(APP)

    assert dual(database()).offer(APP) is None
    assert isinstance(dual(one_each()).offer(APP), Unsupported)
    assert "refuses 'app' with what is current" in str(refused)


# ---------------------------------------------------------------------------- whose twin


class Anonymous(MemoryDatabase):
    """An engine that cannot tell whose a login is: it asks."""

    @contextmanager
    def login(self, credential: Credential) -> Iterator[Session | None]:  # type: ignore[override]
        with super().login(credential) as session:
            yield None if session is None else _Asks(session)


class _Asks:
    def __init__(self, session: Session) -> None:
        assert isinstance(session, TwinSession)
        self.set_password, self.set_twin = session.set_password, session.set_twin
        self.acts_for = session.acts_for

    def check_twin(self, twin: str, *, like: str, owner: str, is_ours: Callable[[], bool]) -> None:
        if not is_ours():
            raise Drifted(f"{twin}, like {like}, is not of {owner}", remedy="")


def _asking(*, declared: bool) -> AlternatingUsers:
    server = Anonymous(World(), {"app": Account("live"), "admin": Account("admin")})
    pair = Pair(("app", "app_clone"), "app", is_declared=declared)
    admin = Credential("admin", Sensitive("admin"))
    return AlternatingUsers(server, lambda: Sensitive("next"), lambda _: pair, lambda: admin)


def test_a_twin_that_the_deployment_names_is_ours() -> None:
    assert _asking(declared=True).create(APP, []).principal == "app_clone"


def test_a_twin_that_the_store_has_seen_is_ours() -> None:
    """As after a migration from the official templates: previous holds it."""
    kept = [app("v2", "live"), version(CLONE, "v1")]

    assert _asking(declared=False).create(APP, kept).principal == "app_clone"


@pytest.mark.parametrize(
    "stranger",
    [
        version(replace(CLONE, principal="app_clone2"), "v1"),
        version(replace(CLONE, fields={"host": "elsewhere"}), "v1"),
        version(Credential("invalid", Sensitive("x")), "v1"),
    ],
    ids=["another name", "another place", "unusable"],
)
def test_a_twin_that_nobody_vouches_for_is_refused(stranger: Version) -> None:
    """P2: its name proves nothing."""
    with pytest.raises(Drifted):
        _asking(declared=False).create(APP, [app("v2", "live"), stranger])


# ---------------------------------------------------------------------------- who is still used


def both() -> dict[str, Account]:
    return {"app": Account("live"), "app_clone": Account("next", member_of={"app"}, acts_as="app")}


TURNED = version(CLONE, "r1")


def test_a_login_with_an_open_session_is_not_retired() -> None:
    """Whoever holds it would be refused when it connects again."""
    server = database(**both())
    server.opened = [Opened("app", MADE_AT)] * 2

    with pytest.raises(Busy, match=r"^2 open sessions of 'app',"):
        alternating(server).retire(held(TURNED))

    assert server.would_accept(APP)
    server.opened = server.opened[1:]
    with pytest.raises(Busy, match=r"^1 open session of 'app',"):
        alternating(server).retire(held(TURNED))
    server.opened = []
    alternating(server).retire(held(TURNED))
    assert not server.would_accept(APP)


def test_sessions_of_others_keep_no_login_alive() -> None:
    """Not those of current either: they are who has followed."""
    server = database(**both())
    server.opened = [Opened(name, MADE_AT) for name in ("app_clone", "app_2", "APP", "admin")]

    alternating(server).retire(held(TURNED))

    assert not server.would_accept(APP)


def test_where_sessions_cannot_be_seen_the_other_evidence_counts() -> None:
    server = database(**both())
    server.opened = None

    alternating(server).retire(held(TURNED))

    assert not server.would_accept(APP)


def test_an_engine_that_tells_of_no_sessions_is_not_asked() -> None:
    server = Anonymous(World(), {**both(), "admin": Account("admin")})
    server.opened = [Opened("app", MADE_AT)]
    pair = Pair(("app", "app_clone"), "app", is_declared=True)
    admin = Credential("admin", Sensitive("admin"))
    target = AlternatingUsers(server, lambda: Sensitive("next"), lambda _: pair, lambda: admin)

    target.retire(held(TURNED))

    assert not server.would_accept(APP)


@pytest.mark.parametrize("make", [dual, dual_by_admin], ids=["by itself", "by admin"])
def test_a_session_older_than_current_keeps_the_second_password_alive(
    make: Callable[[MemoryDatabase], DualPassword],
) -> None:
    """It logged in before there was a current to log in with."""
    server = database(app=Account("live", second="old"))
    server.opened = [Opened("app", MADE_AT - timedelta(seconds=1))]

    with pytest.raises(Busy, match=r"^1 open session of 'app', older than version v1,"):
        make(server).retire(held(app("v1", "live")))

    assert server.accounts["app"].second == "old"


def test_a_session_that_is_younger_keeps_no_password_alive() -> None:
    """It may have logged in with either: nothing tells."""
    server = database(app=Account("live", second="old"))
    server.opened = [Opened("app", MADE_AT), Opened("other", MADE_AT - timedelta(days=1))]

    dual(server).retire(held(app("v1", "live")))

    assert server.accounts["app"].second is None


@pytest.mark.parametrize(
    "make, before, current",
    [
        (dual, Account("live", second="old"), app("v1", "live")),
        (alternating, Account("live"), TURNED),
    ],
    ids=["dual", "alternating"],
)
def test_sessions_are_looked_at_right_before_the_act(
    make: Callable[[MemoryDatabase], Retiring], before: Account, current: Version
) -> None:
    """What may come between is one call of each kind: the slot's, and the change's."""
    server = database(**{**both(), "app": before})
    read_after: list[str] = []

    def slot() -> Version:
        read_after[:] = calls(server)
        return current

    make(server).retire(slot)

    assert read_after[-1] == "database.sessions"
    assert calls(server) == [*read_after, "database.set"]
