"""Services of ECS: on a strict one of our own, over the real wire."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import boto3
import msgspec
import pytest
from botocore.config import Config

from keyturn.consumers.ecs_service import FIXES, SHAPES, EcsService, make
from keyturn.errors import Busy, KeyturnError, Misconfigured, Unreachable
from keyturn.followers import Given
from keyturn.kubernetes.api import Kubernetes
from keyturn.kubernetes.cluster import ClusterShape
from keyturn.model import Credential, RotationId, Sensitive, Surroundings, Version
from keyturn.ports import Pickup, Sight
from keyturn.testing.contracts import MADE_AT, ConsumerContract, Workload
from keyturn.testing.fakes import Crash, World
from keyturn.testing.strict_ecs import StrictEcs

CANARY = "Canary7-"
SECRET = "prod/orders/db"
ARN = f"arn:aws:secretsmanager:eu-west-1:123456789012:secret:{SECRET}-AbC123"


def version(name: str) -> Version:
    return Version(RotationId(name), Credential("app", Sensitive(f"{CANARY}unused")), MADE_AT)


class Room:
    """A service that is steady, and those who look at it."""

    def __init__(self, ecs: StrictEcs) -> None:
        self.ecs = ecs
        self.service = ecs.make_service("prod", "api")

    def client(self, tries: int = 1) -> Any:
        retries: Any = {"mode": "standard", "total_max_attempts": tries}
        return boto3.client("ecs", **self.ecs.settings(), config=Config(retries=retries))

    def consumer(
        self, client: Any = None, *, secret: str = SECRET, service: str = "api"
    ) -> EcsService:
        made = client or self.client()
        return EcsService(made, cluster="prod", service=service, secret=secret)

    def tell(self, name: str, consumer: EcsService | None = None) -> None:
        each = consumer or self.consumer()
        each.trigger(RotationId(name), each.verify(version(name)))

    def serve(self, name: str) -> None:
        self.ecs.serves = name

    def look(self, name: str) -> Sight:
        return self.consumer().verify(version(name))

    def follow_up(self, name: str, consumer: EcsService | None = None) -> Pickup:
        """Do what a look of the follow-up does with a consumer."""
        each = consumer or self.consumer()
        sight = each.verify(version(name))
        if sight.pickup is Pickup.UNTOLD:
            each.preflight()
            each.trigger(RotationId(name), sight)
        return sight.pickup

    def tag(self) -> str:
        [found] = [value for key, value in self.service.tags.items() if key.startswith("version.")]
        return found


@pytest.fixture
def room() -> Iterator[Room]:
    clock = World().clock

    def now() -> datetime:
        clock.advance(timedelta(milliseconds=10))
        return clock.now()

    with StrictEcs(now) as ecs:
        yield Room(ecs)


class TestEcsService(ConsumerContract):
    @pytest.fixture
    def workload(self, room: Room) -> Workload:
        ecs, service = room.ecs, room.service
        room.tell("v0")
        ecs.settle(service)
        before = service.forced

        def put_back() -> None:
            """Deploy a task definition that pins the version, as somebody may from Git."""
            ecs.deploy(service, ecs.register(f"{ARN}:::v0"))
            ecs.settle(service)

        def claim() -> None:
            """Be steady, be tagged, and run with what it ran with."""
            ecs.deploy(service)
            ecs.fail(service, takes_over=True)
            ecs.forget_failed(service)
            primary = service.primary
            [key] = service.tags
            service.tags[key] = f"v1 by {primary.id} {primary.created_at.isoformat()}"

        return Workload(
            room.consumer(),
            lambda served: room.serve(served.rotation_id),
            lambda: ecs.settle(service),
            put_back,
            claim,
            lambda: service.forced - before,
            ecs.outage,
        )


def no_cluster(shape: ClusterShape | None) -> Kubernetes:
    raise AssertionError(shape)


def test_a_plan_makes_one(room: Room) -> None:
    """In the region that it names, else in the function's."""
    asked: list[tuple[str, str | None]] = []

    def clients(service: str, region: str | None) -> Any:
        asked.append((service, region))
        return room.client()

    given = Given(
        SECRET,
        clients,
        no_cluster,
        lambda version, rendering: Sensitive(f"{CANARY}{version} {rendering}"),
        lambda version: {"": version.credential.secret},
        lambda name: Sensitive(f"{CANARY}{name}"),
        Surroundings(lambda: 60.0),
    )
    shape = SHAPES["ecs-service"]
    made = [
        make(
            "ecs-service",
            msgspec.convert({"cluster": "prod", "service": "api", **more}, shape),
            given,
        )
        for more in ({}, {"region": "eu-west-1"})
    ]

    assert [each.name() for each in made] == ["ecs-service:prod/api"] * 2
    assert asked == [("ecs", None), ("ecs", "eu-west-1")]
    assert set(FIXES) == {"ecs-service"} | {field.name for field in msgspec.structs.fields(shape)}


# ---------------------------------------------------------------------------- its own deployment


def test_what_is_told_stands_in_a_tag_of_the_secrets_own(room: Room) -> None:
    room.tell("v1")
    room.tell("w1", room.consumer(secret="prod/orders/api-key"))

    primary = room.service.primary
    assert len(room.service.tags) == 2
    assert all(key.startswith("version.keyturn.dev/prod-orders-") for key in room.service.tags)
    [told] = [value for value in room.service.tags.values() if value.startswith("w1")]
    assert told == f"w1 by {primary.id} {primary.created_at.isoformat()}"


def test_it_has_followed_when_every_task_was_started_for_it(room: Room) -> None:
    room.serve("v1")
    room.tell("v1")

    seen = []
    for _ in range(4):
        seen.append(room.look("v1"))
        room.ecs.step(room.service)

    pickups = [sight.pickup for sight in seen]
    assert pickups == [Pickup.WAITING, Pickup.WAITING, Pickup.WAITING, Pickup.FOLLOWED]
    assert seen[1].waits_for.startswith("deployment ecs-svc/")
    assert room.service.runs() == {"v1"}


def test_every_page_of_tasks_is_looked_at(room: Room) -> None:
    """One old task on the last page is one too many."""
    room.service.desired, room.ecs.per_page = 5, 2
    room.tell("v1")
    room.ecs.settle(room.service)
    assert room.look("v1").pickup is Pickup.FOLLOWED

    room.service.tasks[-1].created_at -= timedelta(hours=1)

    sight = room.look("v1")
    assert sight.pickup is Pickup.FAILED
    assert sight.waits_for.startswith("1 of its tasks are older than deployment ecs-svc/")


@pytest.mark.parametrize("takes_over", [False, True])
def test_a_rollback_by_the_circuit_breaker_has_failed(room: Room, *, takes_over: bool) -> None:
    """The service is as steady as ever, and runs with the old value; it is not told again."""
    room.serve("v1")
    room.tell("v1")
    room.ecs.step(room.service)

    room.ecs.fail(room.service, takes_over=takes_over)
    at_once = room.look("v1")
    room.ecs.forget_failed(room.service)
    later = room.look("v1")

    assert room.service.runs() == {"v0"}
    assert (at_once.pickup, later.pickup) == (Pickup.FAILED, Pickup.FAILED)
    assert "has failed" in at_once.waits_for
    assert ("are older than" if takes_over else "it was put back to") in later.waits_for
    assert room.follow_up("v1") is Pickup.FAILED
    assert room.service.forced == 1


def test_a_deployment_that_fails_without_a_rollback_has_failed(room: Room) -> None:
    room.tell("v1")
    room.service.primary.state = "FAILED"

    assert room.look("v1").pickup is Pickup.FAILED


def test_somebody_elses_later_deployment_will_do(room: Room) -> None:
    """Its tasks were started after ours, so when every copy had followed."""
    room.serve("v1")
    room.tell("v1")
    room.ecs.deploy(room.service, room.ecs.register())
    under_way = room.look("v1").pickup

    room.ecs.settle(room.service)

    assert under_way is Pickup.WAITING
    assert room.look("v1").pickup is Pickup.FOLLOWED
    assert room.service.runs() == {"v1"}


def test_a_task_that_was_started_meanwhile_by_the_old_deployment_is_waited_out(room: Room) -> None:
    room.tell("v1")
    room.ecs.step(room.service)
    room.service.tasks.pop()

    assert room.look("v1").pickup is Pickup.WAITING


def test_a_service_of_no_tasks_has_followed_when_its_deployment_is_complete(room: Room) -> None:
    """Whatever is started later reads what is current then."""
    room.service.desired = 0
    room.tell("v1")
    assert room.look("v1").pickup is Pickup.WAITING

    room.ecs.settle(room.service)

    assert room.look("v1").pickup is Pickup.FOLLOWED


def test_without_a_rollout_state_its_tasks_are_the_evidence(room: Room) -> None:
    """Behind a Classic Load Balancer there is none."""
    room.service.tells_state = False
    room.tell("v1")
    assert room.look("v1").pickup is Pickup.WAITING

    room.ecs.settle(room.service)

    assert room.look("v1").pickup is Pickup.FOLLOWED


def test_a_tag_of_somebody_elses_says_nothing(room: Room) -> None:
    room.tell("v1")
    [key] = room.service.tags

    for text in (
        "v1",
        "v1 by hand yesterday",
        "v1 by hand 2030-01-01T00:00:00",
        "",
        "v1 after x 0",
    ):
        room.service.tags[key] = text
        assert room.look("v1").pickup is Pickup.UNTOLD


# ---------------------------------------------------------------------------- what never follows


def refusal(act: Callable[[], object]) -> KeyturnError:
    with pytest.raises(KeyturnError) as caught:
        act()
    return caught.value


@pytest.mark.parametrize("controller", ["CODE_DEPLOY", "EXTERNAL"])
def test_what_ecs_does_not_deploy_itself_is_refused(room: Room, controller: str) -> None:
    room.service.controller = controller

    assert room.look("v1").pickup is Pickup.UNTOLD
    error = refusal(lambda: room.follow_up("v1"))

    assert isinstance(error, Misconfigured)
    assert str(error) == f"ecs-service:prod/api is deployed by {controller}, not by ECS itself"
    assert not room.service.tags


@pytest.mark.parametrize(
    "reference, said",
    [
        (f"{ARN}:::0123-4567", "reads version 0123-4567 and no other"),
        (f"{ARN}:password:AWSPREVIOUS:", "reads stage AWSPREVIOUS and no other"),
        (f"{ARN}:password:AWSCURRENT:0123", "reads version 0123 and no other"),
        (
            f"arn:aws:secretsmanager:eu-west-1:123456789012:secret:{SECRET}::AWSPENDING:",
            "AWSPENDING",
        ),
    ],
)
def test_a_task_definition_that_pins_a_version_is_refused(
    room: Room, reference: str, said: str
) -> None:
    room.service.task_definition = room.ecs.register(reference)

    error = refusal(room.consumer().preflight)

    assert isinstance(error, Misconfigured)
    assert said in str(error)


@pytest.mark.parametrize(
    "reference",
    [
        ARN,
        f"{ARN}:password::",
        f"{ARN}:password:AWSCURRENT:",
        f"{ARN[:-7]}-other-AbC123:::0123",
        "arn:aws:ssm:eu-west-1:123456789012:parameter/prod/orders/db",
        "prod-orders-db",
    ],
)
def test_what_reads_current_or_something_else_is_none_that_pins(room: Room, reference: str) -> None:
    room.service.task_definition = room.ecs.register(reference)

    room.consumer().preflight()


def test_a_service_that_is_not_there_is_named(room: Room) -> None:
    gone = room.consumer(service="gone")
    elsewhere = EcsService(room.client(), cluster="test", service="api", secret=SECRET)
    said = [str(refusal(each.preflight)) for each in (gone, elsewhere)]
    room.service.status = "DRAINING"

    assert said[0] == "ecs-service:prod/gone is not there, or is being deleted"
    assert said[1].startswith("ecs-service:test/api: DescribeServices answered ClusterNotFoundExc")
    assert isinstance(refusal(room.consumer().preflight), Misconfigured)


def test_an_arn_that_cannot_be_tagged_is_refused_before(room: Room) -> None:
    room.service.arn = room.service.arn.replace("prod/", "")

    assert "old format" in str(refusal(room.consumer().preflight))


def test_a_service_that_has_all_the_tags_it_may_have_is_not_restarted(room: Room) -> None:
    room.service.tags = {f"team-{number}": "x" for number in range(50)}

    error = refusal(lambda: room.tell("v1"))

    assert isinstance(error, Misconfigured)
    assert "as many tags" in str(error)
    assert room.service.forced == 0


# ---------------------------------------------------------------------------- crashes


def crash(client: Any, event: str, number: int) -> None:
    """Let whoever uses *client* die at the call of that number."""
    left = itertools.count(1)

    def die(**_: object) -> None:
        if next(left) == number:
            raise Crash

    client.meta.events.register(event, die)


@pytest.mark.parametrize("event", ["before-send.ecs", "after-call.ecs"])
@pytest.mark.parametrize("number", range(1, 10))
def test_a_crash_at_any_call_neither_forgets_nor_tells_twice(
    room: Room, event: str, number: int
) -> None:
    client = room.client()
    crash(client, event, number)
    room.serve("v1")
    with pytest.raises(Crash):
        room.follow_up("v1", room.consumer(client))

    pickups = [room.follow_up("v1") for _ in range(2)]
    room.ecs.settle(room.service)

    assert pickups[1] is Pickup.WAITING
    assert room.look("v1").pickup is Pickup.FOLLOWED
    assert (room.service.forced, room.service.runs()) == (1, {"v1"})


def test_a_clean_follow_up_takes_nine_calls(room: Room) -> None:
    """So the numbers above are all there are."""
    room.follow_up("v1")

    assert room.ecs.calls == [
        *("DescribeServices", "DescribeServices", "DescribeTaskDefinition"),
        *("DescribeServices", "TagResource", "DescribeServices", "UpdateService"),
        *("DescribeServices", "TagResource"),
    ]


def test_an_sdk_that_tries_again_does_not_deploy_again(room: Room) -> None:
    """After a lost reply; what is not conditional leaves once."""
    room.serve("v1")
    consumer = room.consumer(room.client(tries=3))
    with room.ecs.lose_reply("UpdateService"), pytest.raises(Unreachable, match="got no answer"):
        room.follow_up("v1", consumer)

    room.follow_up("v1", consumer)
    room.ecs.settle(room.service)

    assert room.service.forced == 1
    assert room.look("v1").pickup is Pickup.FOLLOWED


def test_an_sdk_tries_everything_else_again(room: Room) -> None:
    consumer = room.consumer(room.client(tries=3))

    with room.ecs.lose_reply("TagResource"):
        room.follow_up("v1", consumer)

    assert room.service.forced == 1


def test_who_rolls_back_to_an_older_deployment_has_started_none(room: Room) -> None:
    """About to be told, and what was newest then fails: an older id is primary, none is newer."""
    room.ecs.deploy(room.service)
    room.ecs.step(room.service)
    client = room.client()
    crash(client, "before-send.ecs.UpdateService", 1)
    with pytest.raises(Crash):
        room.follow_up("v1", room.consumer(client))
    room.ecs.fail(room.service)
    room.ecs.forget_failed(room.service)

    room.follow_up("v1")

    assert room.service.forced == 1


def test_a_worker_that_was_overtaken_in_the_act_does_not_write_over_the_newer_version(
    room: Room,
) -> None:
    """Else the newer one looked untold, and was told again."""
    client, turns = room.client(), itertools.count(1)

    def interrupt(**_: object) -> None:
        if next(turns) == 1:
            room.serve("v2")
            room.follow_up("v2")

    client.meta.events.register("after-call.ecs.UpdateService", interrupt)
    with pytest.raises(Busy):
        room.follow_up("v1", room.consumer(client))

    assert room.tag().startswith("v2 by ecs-svc/")
    assert room.follow_up("v2") is Pickup.WAITING
    assert room.service.forced == 2


# ---------------------------------------------------------------------------- two workers


class Stepped:
    """Two workers, whose calls come in a given order."""

    def __init__(self, room: Room, order: tuple[int, ...]) -> None:
        self.log: list[tuple[int, str]] = []
        self._order = iter(order)
        self._turns = [threading.Semaphore(0), threading.Semaphore(0)]
        self._stopped = [threading.Event(), threading.Event()]
        self._alive = [True, True]
        self._consumers = [self._consumer(room, number) for number in (0, 1)]
        self.sights = [each.verify(version("v1")) for each in self._consumers]

    def _consumer(self, room: Room, number: int) -> EcsService:
        client = room.client()
        self._is_gated = False

        def gate(event_name: str, **_: object) -> None:
            if self._is_gated:
                self._stopped[number].set()
                self._turns[number].acquire()
                self.log.append((number, event_name.rpartition(".")[2]))

        client.meta.events.register("before-send.ecs", gate)
        return room.consumer(client)

    def run(self) -> None:
        self._is_gated = True
        workers = [threading.Thread(target=self._tell, args=[number]) for number in (0, 1)]
        for number, worker in enumerate(workers):
            worker.start()
            self._stopped[number].wait(5)
        for number in (*self._order, *[0] * 9, *[1] * 9):
            if self._alive[number]:
                self._stopped[number].clear()
                self._turns[number].release()
                self._stopped[number].wait(5)
        for worker in workers:
            worker.join(5)

    def _tell(self, number: int) -> None:
        with suppress(Busy):
            self._consumers[number].trigger(RotationId("v1"), self.sights[number])
        self._alive[number] = False
        self._stopped[number].set()

    def slipped_through(self) -> bool:
        """Tell whether one wrote and read while the other was between its reading and its act."""
        return any(self._slipped(number) for number in (0, 1))

    def _slipped(self, number: int) -> bool:
        mine = [at for at, (who, _) in enumerate(self.log) if who == number]
        acts = [at for at in mine if self.log[at][1] == "UpdateService"]
        if not acts:
            return False
        read = mine[mine.index(acts[0]) - 1]
        between = [what for who, what in self.log[read : acts[0]] if who != number]
        return ("TagResource", "DescribeServices") in itertools.pairwise(between)


def orders(calls: int, switches: int) -> Iterator[tuple[int, ...]]:
    """Yield the orders of two workers' calls that change hands so often at most."""
    for places in itertools.combinations(range(1, 2 * calls), switches):
        order = [len([p for p in places if p <= at]) % 2 for at in range(2 * calls)]
        if order.count(0) == calls:
            yield tuple(order)


@pytest.mark.parametrize("switches", [1, 2, 3])
def test_two_who_look_at_the_same_time_deploy_once_but_for_one_window(
    room: Room, switches: int
) -> None:
    """And then twice, which nobody can prevent: ECS has no conditional call."""
    doubled = 0
    for order in orders(6, switches):
        service = room.service = room.ecs.make_service("prod", "api")
        stepped = Stepped(room, order)
        stepped.run()
        doubled += service.forced == 2
        assert service.forced == (2 if stepped.slipped_through() else 1), stepped.log
        room.follow_up("v1")
        room.ecs.settle(service)
        assert room.look("v1").pickup is Pickup.FOLLOWED, stepped.log
    assert doubled == (switches == 3)
