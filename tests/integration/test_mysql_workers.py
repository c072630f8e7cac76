"""Two workers at one account: whatever order the server runs their statements in, current works.

A packet is no unit to the server: what others send may come between any two of its statements.
`Apart` sends them one by one, so that a test says the order; the server is a real one.
"""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pymysql
import pytest
from pymysql.cursors import Cursor

from databases import unused_name
from keyturn.errors import Busy, KeyturnError, Unreachable
from keyturn.model import Sensitive
from keyturn.targets import mysql as targets_mysql
from keyturn.targets.mysql import _Session
from keyturn.targets.mysql_login import Line, Rows, Trouble
from keyturn.targets.mysql_sql import Sql
from mysql_accounts import Site

KEEP, ONE, OTHER, ADMIN = "Canary7-keep", "Canary7-one", "Canary7-other", "Canary7-admin"
ABANDONED = "Canary7-abandoned"
ORDERS = [*map("".join, sorted(set(itertools.permutations("aabb")))), "aabbb", "bbaaa"]
"""Whose statements come first; after that, they take turns."""
ORDERS_OF_EQUALS = [order for order in ORDERS if order.startswith("a")]
"""Of two workers that do the same."""
BLOCKED_S = 0.3
"""Longer than any statement takes: who is not done by then waits for the other."""

RACE_S = 2.0

Act = Callable[[_Session, str], None]


class Apart:
    """A line that sends the statements of a packet one by one, each that counts when told to."""

    def __init__(self, line: Line, wait: Callable[[], None]) -> None:
        self.place = line.place
        self._line = line
        self._wait = wait

    def ask(self, statements: Sql, timeout_s: float) -> list[Rows] | Trouble:
        found: list[Rows] = []
        for each in statements.split("; "):
            if each.startswith(("ALTER USER", "DO GET_LOCK")):
                self._wait()
            answer = self._line.ask(Sql(each), timeout_s)
            if isinstance(answer, Trouble):
                return answer
            found += answer
        return found


class Worker:
    """Makes one change in a thread of its own, statement by statement."""

    def __init__(self, account: Account, act: Act) -> None:
        self._account = account
        self._act = act
        self._turn, self._waits = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run)
        self.is_done = False
        self.error: KeyturnError | None = None

    def start(self) -> None:
        self._thread.start()
        assert self._waits.acquire(timeout=10)

    def step(self) -> None:
        """Let one statement go; come back when it is done, or waits for somebody."""
        self._turn.release()
        self._waits.acquire(timeout=0 if self.is_done else BLOCKED_S)

    def _run(self) -> None:
        try:
            with self._account.session() as session:
                line = Apart(session._line, self._wait)  # noqa: SLF001
                session._line = line  # type: ignore[assignment]  # noqa: SLF001
                self._act(session, self._account.name)
        except KeyturnError as error:
            self.error = error
        self.is_done = True
        self._waits.release()

    def _wait(self) -> None:
        self._waits.release()
        assert self._turn.acquire(timeout=10)


@dataclass(frozen=True, slots=True)
class Account:
    """A user with two passwords, and who sets them."""

    site: Site
    name: str
    authority: str

    @contextmanager
    def session(self) -> Iterator[_Session]:
        password = KEEP if self.authority == self.name else ADMIN
        with self.site.engine().login(self.site.credential(self.authority, password)) as session:
            assert session is not None
            yield session

    def accepted(self) -> str:
        tried = {"keep": KEEP, "one": ONE, "other": OTHER, "abandoned": ABANDONED}
        return " and ".join(each for each in tried if self.accepts(tried[each]))

    def accepts(self, password: str) -> bool:
        return self.site.accepts(self.name, password)

    def accepts_by_socket(self, password: str) -> bool:
        """Log in from elsewhere: to the server, a socket is another host than an address."""
        try:
            socket = str(self.site.server.socket)
            with pymysql.connect(unix_socket=socket, user=self.name, password=password):
                return True
        except pymysql.err.OperationalError:
            return False

    def reset(self) -> None:
        """Leave what an abandoned rotation leaves: the one to keep, as the second."""
        with self.session() as session:
            session.set_password(self.name, Sensitive(KEEP))
            session.set_dual(self.name, Sensitive(ABANDONED), keep=Sensitive(KEEP))


RIGHTS = {
    "an admin": "",
    "itself, by hash": "CREATE USER",
    "itself, in clear": "APPLICATION_PASSWORD_ADMIN",
}


def _account(site: Site, right: str = "", options: str = "") -> Account:
    name = unused_name("app")
    made = site.make(name, KEEP, options=options)
    if right:
        site.execute(f"GRANT {right} ON *.* TO {made}")
        return Account(site, name, name)
    admin = unused_name("admin")
    site.make_admin(admin, ADMIN)
    return Account(site, name, admin)


def _set_dual(secret: str) -> Act:
    return lambda session, name: session.set_dual(name, Sensitive(secret), keep=Sensitive(KEEP))


def _retire(session: _Session, name: str) -> None:
    session.set_password(name, Sensitive(KEEP))


def _in_order(account: Account, order: str, one: Act, other: Act) -> list[KeyturnError]:
    """Let two workers do what they do in that order; after each step, look at what to keep."""
    workers = {"a": Worker(account, one), "b": Worker(account, other)}
    for worker in workers.values():
        worker.start()
    for who in itertools.chain(order, itertools.cycle("ab")):
        if all(worker.is_done for worker in workers.values()):
            break
        workers[who].step()
        assert account.accepts(KEEP), (order, who)
    return [worker.error for worker in workers.values() if worker.error]


@pytest.mark.parametrize("who", RIGHTS)
def test_two_workers_never_lose_what_is_kept(mysql: Site, who: str) -> None:
    """And leave exactly two: that, and what the later one has set."""
    account = _account(mysql, RIGHTS[who])
    for order in ORDERS_OF_EQUALS:
        account.reset()

        errors = _in_order(account, order, _set_dual(ONE), _set_dual(OTHER))

        assert errors == []
        assert account.accepted() in {"keep and one", "keep and other"}, order


def test_two_workers_never_lose_it_for_any_host(mysql: Site) -> None:
    account = _account(mysql)
    mysql.make(account.name, KEEP, "127.0.0.1")
    for order in ORDERS_OF_EQUALS:
        account.reset()

        errors = _in_order(account, order, _set_dual(ONE), _set_dual(OTHER))

        assert errors == []
        assert account.accepts_by_socket(KEEP)
        both = [account.accepts(ONE), account.accepts_by_socket(ONE)]
        assert both in [[True, True], [False, False]], order


def test_two_workers_never_lose_it_where_passwords_are_noted(mysql: Site) -> None:
    """MySQL cannot note two in one statement: one worker waits for the other."""
    account = _account(mysql, options="PASSWORD HISTORY 5")
    for order in ORDERS_OF_EQUALS:
        account.reset()

        errors = _in_order(account, order, _set_dual(ONE), _set_dual(OTHER))

        assert errors == []
        assert account.accepted() in {"keep and one", "keep and other"}, order


@pytest.mark.parametrize("who", RIGHTS)
def test_dropping_the_old_one_late_does_not_drop_what_is_current(mysql: Site, who: str) -> None:
    """One worker still retires what was before; the next rotation sets its own beside current."""
    account = _account(mysql, RIGHTS[who])
    for order in ORDERS:
        account.reset()

        errors = _in_order(account, order, _retire, _set_dual(ONE))

        assert errors == []
        assert account.accepted() in {"keep", "keep and one"}, order


# ---------------------------------------------------------------------------- waiting


@contextmanager
def _lock_held(account: Account) -> Iterator[Cursor]:
    """Be another worker at an account with a password history."""
    with account.site.superuser() as cursor:
        cursor.execute("SELECT GET_LOCK(%s, 1)", [f"keyturn {account.name}"])
        assert cursor.fetchall() == ((1,),)
        yield cursor


def test_another_worker_is_not_waited_for_longer_than_allowed(mysql: Site) -> None:
    account = _account(mysql, options="PASSWORD HISTORY 5")
    account.reset()
    with _lock_held(account), account.session() as session:
        started = time.monotonic()
        with pytest.raises(Busy, match="another worker"):
            _set_dual(ONE)(session, account.name)
        took_s = time.monotonic() - started

    assert took_s < 5
    assert account.accepted() == "keep and abandoned"


def test_who_has_waited_too_long_changes_nothing(
    mysql: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server looks at its clock again when the other worker is done."""
    account = _account(mysql, options="PASSWORD HISTORY 5")
    account.reset()
    monkeypatch.setattr(targets_mysql, "ACT_WITHIN_S", 0.5)
    with _lock_held(account) as cursor, account.session() as session:
        release = threading.Timer(1, cursor.execute, ["DO RELEASE_ALL_LOCKS()"])
        release.start()
        with pytest.raises(Busy, match="too late"):
            _set_dual(ONE)(session, account.name)
        release.join()

    assert account.accepted() == "keep and abandoned"


@pytest.mark.parametrize("who", RIGHTS)
def test_a_change_that_is_killed_in_the_middle_is_none(mysql: Site, who: str) -> None:
    """It waits for a lock; its connection is ended there. The same change again is made once."""
    account = _account(mysql, RIGHTS[who])
    account.reset()
    worker = Worker(account, _set_dual(ONE))
    worker.start()
    with mysql.superuser() as cursor:
        cursor.execute("FLUSH TABLES WITH READ LOCK")
        while not (waiting := _waiting(cursor)):
            worker.step()
        cursor.execute(f"KILL {waiting[0][0]}")
        cursor.execute("UNLOCK TABLES")
    worker.step()

    assert isinstance(worker.error, Unreachable)
    assert account.accepted() == "keep and abandoned"
    for _ in range(2):
        with account.session() as session:
            _set_dual(ONE)(session, account.name)
        assert account.accepted() == "keep and one"


def _waiting(cursor: Cursor) -> tuple[tuple[object, ...], ...]:
    cursor.execute(
        "SELECT ID FROM information_schema.processlist WHERE INFO LIKE 'ALTER USER%'"
        " AND STATE LIKE 'Waiting for%'"
    )
    return cursor.fetchall()


def test_no_reader_is_ever_refused_while_workers_race(mysql: Site) -> None:
    """Neither in the middle of a statement, nor between two."""
    account = _account(mysql)
    account.reset()
    until = time.monotonic() + RACE_S
    failures: list[object] = []

    def work(secret: str) -> None:
        while time.monotonic() < until:
            with account.session() as session:
                _set_dual(secret)(session, account.name)

    def read() -> None:
        while time.monotonic() < until:
            if not account.accepts(KEEP):
                failures.append("refused")

    workers = [threading.Thread(target=work, args=[secret]) for secret in (ONE, OTHER)]
    threads = [*workers, *(threading.Thread(target=read) for _ in range(2))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []


def test_a_replica_gets_it_as_one_statement(mysql: Site) -> None:
    account = _account(mysql)

    with account.session() as session:
        _set_dual(ONE)(session, account.name)

    named = rf"'{account.name}'@'%' IDENTIFIED WITH 'caching_sha2_password' AS '[^']*'"
    logged = mysql.server.data_text("bin.0*")
    assert re.search(rf"ALTER USER {named},{named} RETAIN CURRENT PASSWORD", logged)
