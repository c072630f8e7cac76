"""The follow-up with consumers outside of clusters: told, seen twice, and the old password dies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import boto3
import pytest
from botocore.config import Config

from keyturn.consumers.ecs_service import EcsService
from keyturn.follow_up import (
    LOOKS_APART,
    Course,
    FollowUp,
    Part,
    Refresh,
    Report,
    Retirement,
    State,
    When,
)
from keyturn.model import Credential, RotationId, Sensitive
from keyturn.rotation import Rotation
from keyturn.strategies import DualPassword
from keyturn.testing.fakes import REF, Account, Crash, LabelledStore, MemoryDatabase, World
from keyturn.testing.strict_ecs import StrictEcs

CANARY = "Canary7-"
GRACE = timedelta(minutes=10)


class Shop:
    """A secret with two passwords, and a service of ECS that runs with it."""

    def __init__(self, stack: ExitStack) -> None:
        self.world = World()
        self.store = LabelledStore(self.world, Credential("app", Sensitive(f"{CANARY}first")))
        self.database = MemoryDatabase(self.world, {"app": Account(f"{CANARY}first")})
        numbers = iter(range(1, 10))
        self.target = DualPassword(
            self.database, lambda: Sensitive(f"{CANARY}made-{next(numbers)}")
        )
        self.ecs = stack.enter_context(StrictEcs(self._now))
        self.service = self.ecs.make_service("prod", "api")

    def _now(self) -> Any:
        self.world.clock.advance(timedelta(milliseconds=1))
        return self.world.clock.now()

    def rotate(self, name: str) -> None:
        self.store.begin(RotationId(name))
        Rotation(
            REF,
            RotationId(name),
            store=self.store,
            targets=lambda _: self.target,
            clock=self.world.clock,
        ).run()
        self.ecs.serves = name

    def client(self) -> Any:
        once: Any = {"mode": "standard", "total_max_attempts": 1}
        return boto3.client("ecs", **self.ecs.settings(), config=Config(retries=once))

    def follow_up(self, client: Any = None) -> FollowUp:
        consumer = EcsService(client or self.client(), cluster="prod", service="api", secret=REF)
        return FollowUp(
            REF,
            Course([], [Refresh(consumer)], Retirement(When.VERIFIED, GRACE)),
            store=self.store,
            targets=lambda _: self.target,
            notifiers=[],
            clock=self.world.clock,
        )

    def sweep(self) -> list[Report]:
        """Look every five minutes until nothing is left to do."""
        reports: list[Report] = []
        sighting = None
        while len(reports) < 12:
            report = self.follow_up().look(sighting)
            reports.append(report)
            if report.look_again_in is None:
                return reports
            sighting = report.sighting
            self.world.clock.advance(LOOKS_APART)
            self.ecs.step(self.service)
        return reports

    def accepts(self, secret: str) -> bool:
        return self.database.would_accept(Credential("app", Sensitive(f"{CANARY}{secret}")))


@pytest.fixture
def shop() -> Iterator[Shop]:
    with ExitStack() as stack:
        yield Shop(stack)


def test_an_old_password_dies_when_every_task_was_seen_twice_to_be_younger(shop: Shop) -> None:
    shop.rotate("a" * 32)

    reports = shop.sweep()

    states = [report.about(Part.CONSUMER)[0].state for report in reports]
    assert states == [*[State.WAITING] * 3, State.DONE, State.DONE]
    assert (shop.service.forced, shop.service.runs()) == (1, {"a" * 32})
    assert (shop.accepts("first"), shop.accepts("made-1")) == (False, True)


@pytest.mark.parametrize("takes_over", [True, False])
def test_a_rollback_keeps_the_old_password(shop: Shop, *, takes_over: bool) -> None:
    shop.rotate("a" * 32)
    shop.follow_up().look()
    shop.ecs.step(shop.service)
    shop.ecs.fail(shop.service, takes_over=takes_over)
    shop.ecs.forget_failed(shop.service)

    reports = shop.sweep()

    assert {report.about(Part.CONSUMER)[0].state for report in reports} == {State.FAILED}
    assert shop.service.forced == 1
    assert shop.accepts("first")


@pytest.mark.parametrize("event", ["before-send.ecs", "after-call.ecs"])
@pytest.mark.parametrize("number", range(1, 10))
def test_a_follow_up_that_dies_at_any_call_ends_well(shop: Shop, event: str, number: int) -> None:
    shop.rotate("a" * 32)
    client, calls = shop.client(), iter(range(1, 100))

    def die(**_: object) -> None:
        if next(calls) == number:
            raise Crash

    client.meta.events.register(event, die)
    with pytest.raises(Crash):
        shop.follow_up(client).look()

    shop.sweep()

    assert (shop.service.forced, shop.service.runs()) == (1, {"a" * 32})
    assert (shop.accepts("first"), shop.accepts("made-1")) == (False, True)


def test_a_newer_rotation_is_followed_by_one_deployment_more(shop: Shop) -> None:
    shop.rotate("a" * 32)
    shop.follow_up().look()
    shop.ecs.step(shop.service)
    shop.rotate("b" * 32)

    shop.sweep()

    assert (shop.service.forced, shop.service.runs()) == (2, {"b" * 32})
    assert shop.accepts("made-2")
