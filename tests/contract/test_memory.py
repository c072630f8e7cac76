"""The in-memory database keeps the promises of every target: so the explorer is faithful."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from keyturn.errors import Unreachable
from keyturn.model import Credential, RotationId, Sensitive
from keyturn.notifiers import wording
from keyturn.ports import Generate, Target
from keyturn.strategies import (
    AlternatingUsers,
    DualPassword,
    PlatformUser,
    SingleUser,
    pair_by_suffix,
)
from keyturn.testing.contracts import (
    CANARY,
    AuthorityContract,
    ConsumerContract,
    Depot,
    DestinationContract,
    DualContract,
    Listener,
    NotifierContract,
    Office,
    OneSlotContract,
    Opened,
    PlatformContract,
    Subject,
    TwoSlotContract,
    UsedContract,
    Workload,
)
from keyturn.testing.fakes import (
    Account,
    Copy,
    MemoryConsumer,
    MemoryDatabase,
    MemoryDestination,
    MemoryNotifier,
    MemoryPlatform,
    World,
)
from keyturn.testing.fakes import Opened as Login

ADMIN = Credential("admin", Sensitive(f"{CANARY}admin"))


class Database(MemoryDatabase):
    """One with an address where nobody answers."""

    def would_accept(self, credential: Credential) -> bool:
        if credential.fields.get("host") == "nowhere":
            raise Unreachable("nowhere", remedy="")
        return super().would_accept(credential)

    @contextmanager
    def outage(self) -> Iterator[None]:
        self.is_down = True
        yield
        self.is_down = False


@pytest.fixture
def database() -> Database:
    accounts = {"app": Account(f"{CANARY}first"), "admin": Account(f"{CANARY}admin")}
    return Database(World(), accounts)


@pytest.fixture
def opened(database: Database) -> Opened:
    @contextmanager
    def log_in(credential: Credential) -> Iterator[None]:
        assert database.would_accept(credential)
        database.opened = [Login(credential.principal, datetime.now(UTC))]
        yield
        database.opened = []

    return log_in


def subject_of(make: Callable[[MemoryDatabase, Generate], Target], database: Database) -> Subject:
    numbers = itertools.count(1)
    current = Credential("app", Sensitive(f"{CANARY}first"))
    target = make(database, lambda: Sensitive(f"{CANARY}made-{next(numbers)}"))
    nowhere = replace(current, fields={"host": "nowhere"})
    return Subject(target, current, nowhere, database.outage)


class TestSingleUser(OneSlotContract):
    @pytest.fixture
    def subject(self, database: Database) -> Subject:
        return subject_of(SingleUser, database)


class TestPlatformUser(PlatformContract):
    @pytest.fixture
    def subject(self, database: Database) -> Subject:
        return subject_of(
            lambda engine, fresh: PlatformUser(engine, fresh, engine.platform), database
        )


class TestMemoryPlatform(AuthorityContract):
    """An authority that takes its time, in memory."""

    @pytest.fixture
    def office(self) -> Office:
        current = Credential("app", Sensitive(f"{CANARY}first"))
        database = Database(World(), {"app": Account(f"{CANARY}first")})
        hurried = database.platform()
        hurried.is_hurried = True
        return Office(
            database.platform(),
            hurried,
            MemoryPlatform.PLACE,
            current,
            Sensitive(f"{CANARY}with a blank"),
            database.would_accept,
            lambda: database._world.calls.count("authority.ask"),  # noqa: SLF001  # the fake's count
            database.outage,
        )


class TestDualPassword(DualContract, UsedContract):
    @pytest.fixture
    def subject(self, database: Database) -> Subject:
        return subject_of(DualPassword, database)


class TestDualPasswordByAdmin(DualContract, UsedContract):
    @pytest.fixture
    def subject(self, database: Database) -> Subject:
        return subject_of(
            lambda engine, fresh: DualPassword(engine, fresh, lambda: ADMIN), database
        )


class TestAlternatingUsers(TwoSlotContract, UsedContract):
    @pytest.fixture
    def subject(self, database: Database) -> Subject:
        return subject_of(
            lambda engine, fresh: AlternatingUsers(engine, fresh, pair_by_suffix, lambda: ADMIN),
            database,
        )


class Place(MemoryDestination):
    """One that can be cut off."""

    @contextmanager
    def outage(self) -> Iterator[None]:
        self.is_down = True
        yield
        self.is_down = False

    @contextmanager
    def lose_reply(self) -> Iterator[None]:
        def lose(number: int, name: str) -> None:
            del number
            if name == "destination.write":
                raise Unreachable("no answer", remedy="")

        self._world.after = lose
        yield
        self._world.after = World().after


class TestMemoryDestination(DestinationContract):
    @pytest.fixture
    def depot(self) -> Depot:
        place = Place(World())
        return Depot(
            place,
            lambda: place.history[-1].text if place.history else None,
            lambda: place.write(Copy(None, Sensitive("by hand"))),
            Sensitive(CANARY.ljust(MemoryDestination.LIMIT + 1)),
            "4096 bytes",
            lambda: 0,
            place.outage,
            place.lose_reply,
        )


class TestMemoryConsumer(ConsumerContract):
    """One that takes three minutes."""

    @pytest.fixture
    def workload(self) -> Workload:
        world, served = World(), ["v0"]
        consumer = MemoryConsumer(world, "deployment orders/api", lambda: RotationId(served[-1]))

        def wait() -> None:
            world.clock.advance(consumer.lag)
            consumer.pass_time()

        def claim() -> None:
            consumer.status = RotationId(served[-1])

        @contextmanager
        def outage() -> Iterator[None]:
            def fail(*_: object) -> None:
                raise Unreachable("no answer", remedy="")

            world.before = fail
            yield

        return Workload(
            consumer,
            lambda version: served.append(version.rotation_id),
            wait,
            lambda: consumer.relapse(RotationId("v0")),
            claim,
            lambda: sum(consumer.restarts.values()),
            outage,
        )


class TestMemoryNotifier(NotifierContract):
    """One that keeps what it was sent."""

    @pytest.fixture
    def listener(self) -> Listener:
        notifier = MemoryNotifier(World())

        def heard() -> list[dict[str, str]]:
            alerts, notifier.alerts = notifier.alerts, []
            return [wording.fields(each) for each in alerts]

        return Listener(notifier, heard)
