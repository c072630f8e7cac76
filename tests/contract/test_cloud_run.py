"""Services of Cloud Run: on a strict one of our own, over real HTTP."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from keyturn import line
from keyturn.consumers.cloud_run import FIXES, PERMISSIONS, SHAPES, CloudRun, make
from keyturn.errors import Busy, Denied, KeyturnError, Misconfigured, Unreachable
from keyturn.followers import Given
from keyturn.google.api import GoogleApi, connect
from keyturn.model import Credential, RotationId, Sensitive, Surroundings, Version
from keyturn.ports import Pickup, Sight
from keyturn.testing.contracts import MADE_AT, ConsumerContract, Workload
from keyturn.testing.fakes import Crash
from keyturn.testing.google_rest import Asked
from keyturn.testing.google_rest import refusal as refused
from keyturn.testing.strict_cloud_run import (
    LOCATION,
    PROJECT,
    TO_LATEST,
    Service,
    StrictCloudRun,
    Undocumented,
)

CANARY = "Canary7-"
REF = f"projects/{PROJECT}/secrets/orders-db"
PAGE = (Path(__file__).parents[2] / "docs" / "google-copies.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "PAUSE_S", 0.0)


def version(name: str) -> Version:
    return Version(RotationId(name), Credential("app", Sensitive(f"{CANARY}unused")), MADE_AT)


def number(version_id: RotationId) -> int:
    """`v0` is version 1 of the secret."""
    return int(version_id[1:]) + 1


def template(which: str = "1", secret: str = "orders-db") -> dict[str, Any]:
    """Return one with a variable, a file, and settings that are nobody's business."""
    return {
        "serviceAccount": "api@shop-42.iam.gserviceaccount.com",
        "maxInstanceRequestConcurrency": 80,
        "containers": [
            {
                "image": "europe-docker.pkg.dev/shop-42/api/api:7",
                "env": [
                    {"name": "MODE", "value": "prod"},
                    {
                        "name": "ORDERS_DB",
                        "valueSource": {"secretKeyRef": {"secret": secret, "version": which}},
                    },
                    {
                        "name": "MAIL",
                        "valueSource": {"secretKeyRef": {"secret": "mail", "version": "4"}},
                    },
                ],
                "volumeMounts": [{"name": "orders", "mountPath": "/secrets"}],
            }
        ],
        "volumes": [
            {
                "name": "orders",
                "secret": {"secret": secret, "items": [{"path": "db.json", "version": which}]},
            },
            {"name": "work", "emptyDir": {"medium": "MEMORY"}},
        ],
    }


class Room:
    """A service that runs with version 1, and those who look at it."""

    def __init__(self, run: StrictCloudRun) -> None:
        self.run = run
        self.service = run.make_service("api", template())
        self.surroundings = Surroundings(lambda: 60.0, google_endpoint=run.endpoint)

    def api(self) -> GoogleApi:
        return connect("run.googleapis.com", self.surroundings)

    def consumer(self, api: GoogleApi | None = None, **settings: Any) -> CloudRun:
        usual = {
            "service": "api",
            "location": LOCATION,
            "project": None,
            "ref": REF,
            "number": number,
        }
        return CloudRun(api or self.api(), **{**usual, **settings})

    def tell(self, name: str, consumer: CloudRun | None = None) -> None:
        each = consumer or self.consumer()
        each.trigger(RotationId(name), each.verify(version(name)))

    def look(self, name: str) -> Sight:
        return self.consumer().verify(version(name))

    def follow_up(self, name: str, consumer: CloudRun | None = None) -> Pickup:
        """Do what a look of the follow-up does with a consumer."""
        each = consumer or self.consumer()
        sight = each.verify(version(name))
        if sight.pickup is Pickup.UNTOLD:
            each.preflight()
            each.trigger(RotationId(name), sight)
        return sight.pickup

    def deployed(self, changed: dict[str, Any]) -> Service:
        self.run.deploy(self.service, changed)
        self.run.settle(self.service)
        return self.service


@pytest.fixture
def room() -> Iterator[Room]:
    with StrictCloudRun() as run:
        yield Room(run)


class TestCloudRun(ConsumerContract):
    @pytest.fixture(
        params=[
            Undocumented(),
            Undocumented("FAILED_PRECONDITION", names_latest=False),
            Undocumented(full_names=True),
        ],
        ids=["as usual", "another code, latest is not named", "full names"],
    )
    def workload(self, request: pytest.FixtureRequest) -> Iterator[Workload]:
        with StrictCloudRun(request.param) as run:
            room = Room(run)
            service = room.service
            room.tell("v0")
            run.settle(service)
            before = len(service.revisions)

            def claim() -> None:
                """Be ready, be told, read the number by its template; the traffic stays."""
                run.change_traffic(service, {"revision": service.ready, "percent": 100})
                room.deployed(template("2"))
                [key] = service.annotations
                service.annotations[key] = "v1"

            yield Workload(
                room.consumer(),
                lambda _: None,
                lambda: run.settle(service),
                lambda: run.deploy(service, template()),
                claim,
                lambda: len(service.revisions) - before,
                run.outage,
            )


def given(room: Room, ref: str = REF) -> Given:
    def clients(service: str, region: str | None) -> GoogleApi:
        assert (service, region) == ("run.googleapis.com", None)
        return room.api()

    def never(*args: object) -> Any:
        raise AssertionError(args)

    settings = (never, never, never, never, room.surroundings)
    return Given("orders-db", clients, *settings, ref=ref, number=number)


def made(settings: dict[str, str], around: Given) -> Any:
    return make("cloud-run", msgspec.convert(settings, SHAPES["cloud-run"]), around)


def test_a_plan_makes_one(room: Room) -> None:
    """In the secret's own project, unless it says another."""
    settings = {"service": "api", "location": LOCATION}

    usual = made(settings, given(room))
    usual.trigger(RotationId("v1"), usual.verify(version("v1")))
    elsewhere = made({**settings, "project": "shop-43"}, given(room))

    assert usual.name() == f"cloud-run:{LOCATION}/api"
    assert set(room.service.revisions[room.service.created]) >= {"containers"}
    assert "is not there" in str(refusal(elsewhere.preflight))
    shape = SHAPES["cloud-run"]
    assert set(FIXES) == {"cloud-run"} | {field.name for field in msgspec.structs.fields(shape)}


@pytest.mark.parametrize(
    "ref", ["prod/orders/db", "", f"projects/{PROJECT}/locations/{LOCATION}/secrets/orders-db"]
)
def test_what_cloud_run_cannot_read_is_refused(room: Room, ref: str) -> None:
    """A secret of AWS, and a regional one; no client is asked for."""
    error = refusal(lambda: made({"service": "api", "location": LOCATION}, given(room, ref)))

    assert isinstance(error, Misconfigured)
    assert "cannot be pinned" in str(error)


def test_a_store_without_numbers_says_so() -> None:
    """On AWS; the message names the version, and what to do."""

    def never(*args: object) -> Any:
        raise AssertionError(args)

    around = Given("x", never, never, never, never, never, Surroundings(lambda: 60.0))

    error = refusal(lambda: around.number(RotationId("v1")))

    assert isinstance(error, Misconfigured)
    assert "Secret Manager" in error.remedy


# ---------------------------------------------------------------------------- what is pinned


def test_every_reference_gets_the_number_and_nothing_else_changes(room: Room) -> None:
    room.tell("v6")

    assert room.service.template == template("7")
    assert room.service.traffic == [TO_LATEST]
    [key] = room.service.annotations
    assert key.startswith("version.keyturn.dev/projects-123456789-secrets-orders-db-")
    assert room.service.annotations[key] == "v6"


def test_latest_and_an_alias_are_pinned_too(room: Room) -> None:
    """A volume without items is one file with the secret's name; the full name is ours as well."""
    changed = template("latest", REF)
    del changed["containers"][0]["env"][1]["valueSource"]["secretKeyRef"]["version"]
    del changed["volumes"][0]["secret"]["items"]
    room.deployed(changed)

    room.tell("v1")

    [volume, _] = room.service.template["volumes"]
    assert volume["secret"]["items"] == [{"path": "orders-db", "version": "2"}]
    assert room.service.template["containers"][0]["env"][1]["valueSource"] == {
        "secretKeyRef": {"secret": REF, "version": "2"}
    }


def test_what_reads_previous_on_purpose_goes_on(room: Room) -> None:
    """Whoever verifies with the version before is not a login."""
    changed = template()
    changed["volumes"][0]["secret"]["items"].append({"path": "old.json", "version": "previous"})
    room.deployed(changed)

    room.tell("v1")
    room.run.settle(room.service)

    items = room.service.template["volumes"][0]["secret"]["items"]
    assert [each["version"] for each in items] == ["2", "previous"]
    assert room.look("v1").pickup is Pickup.FOLLOWED


def test_a_revision_that_somebody_named_is_not_named_again(room: Room) -> None:
    """Its name is taken: Cloud Run would refuse the update."""
    room.deployed({**template(), "revision": "api-blue"})

    room.tell("v1")

    assert "revision" not in room.service.template
    assert room.service.template == template("2")


def test_who_reads_the_number_already_is_told_and_not_deployed(room: Room) -> None:
    """Terraform may have come first."""
    room.deployed(template("2"))
    before = len(room.service.revisions)

    room.tell("v1")
    room.run.settle(room.service)

    assert len(room.service.revisions) == before
    assert room.look("v1").pickup is Pickup.FOLLOWED


def test_two_secrets_of_one_service_do_not_disturb_each_other(room: Room) -> None:
    mail = room.consumer(ref=f"projects/{PROJECT}/secrets/mail")

    room.tell("v1")
    room.tell("v8", mail)
    room.run.settle(room.service)

    assert room.service.runs() == {"2", "9"}
    assert room.look("v1").pickup is Pickup.FOLLOWED
    assert mail.verify(version("v8")).pickup is Pickup.FOLLOWED


def test_a_lower_number_is_never_pinned(room: Room) -> None:
    """A worker that slept through a rotation looks, sees it untold, and must not undo it."""
    room.tell("v5")
    consumer = room.consumer()
    sight = consumer.verify(version("v1"))

    with pytest.raises(Busy, match="reads version 6 already, and 2 is older"):
        consumer.trigger(RotationId("v1"), sight)

    assert sight.pickup is Pickup.UNTOLD
    assert room.service.template == template("6")


# ---------------------------------------------------------------------------- whether it follows


def test_it_has_followed_when_the_traffic_is_with_the_new_revision(room: Room) -> None:
    room.tell("v1")

    seen = []
    for _ in range(3):
        seen.append(room.look("v1"))
        room.run.step(room.service)

    assert [each.pickup for each in seen] == [Pickup.WAITING, Pickup.WAITING, Pickup.FOLLOWED]
    assert re.fullmatch(r"revision api-\d+-abc is not ready", seen[0].waits_for)
    assert room.service.runs() == {"2", "4"}


def test_a_revision_that_fails_has_failed(room: Room) -> None:
    """The service goes on with the old one; the reason is told, and no text of Google's."""
    room.tell("v1")
    room.run.fail(room.service)

    sight = room.look("v1")

    assert sight.pickup is Pickup.FAILED
    assert sight.waits_for.endswith(" has failed: HEALTH_CHECK_CONTAINER_ERROR")
    assert room.follow_up("v1") is Pickup.FAILED
    assert room.service.runs() == {"1", "4"}


def test_a_template_that_is_put_back_has_failed(room: Room) -> None:
    """As by `terraform apply` with the old number in it."""
    room.tell("v1")
    room.run.settle(room.service)

    room.deployed(template())

    sight = room.look("v1")
    assert sight.pickup is Pickup.FAILED
    assert sight.waits_for == "its template was changed: it reads version 1, not 2"


def test_traffic_that_stays_with_an_old_revision_has_failed(room: Room) -> None:
    """The service is ready, and its template right."""
    old = room.service.ready
    room.tell("v1")
    room.run.settle(room.service)
    room.run.change_traffic(
        room.service, {**TO_LATEST, "percent": 90}, {"revision": old, "percent": 10}
    )
    room.run.settle(room.service)

    sight = room.look("v1")

    assert sight.pickup is Pickup.FAILED
    assert sight.waits_for == f"revision {old} is served, and reads version 1"


def test_traffic_by_name_to_a_revision_that_reads_the_number_has_followed(room: Room) -> None:
    """Somebody moves it step by step: it follows now, and is refused with the next version."""
    room.tell("v1")
    room.run.settle(room.service)
    room.run.change_traffic(room.service, {"revision": room.service.ready, "percent": 100})
    room.run.settle(room.service)

    assert room.look("v1").pickup is Pickup.FOLLOWED
    assert "of its traffic stays with" in str(refusal(lambda: room.follow_up("v2")))


def test_a_status_that_lags_behind_the_traffic_is_looked_at(room: Room) -> None:
    """What is served counts, not what is wished for."""
    old = room.service.ready
    room.tell("v1")
    room.run.settle(room.service)
    room.service.served = [
        {**TO_LATEST, "percent": 60, "revision": room.service.ready},
        {"revision": old, "percent": 40},
    ]

    sight = room.look("v1")

    assert sight.pickup is Pickup.FAILED
    assert sight.waits_for == f"revision {old} is served, and reads version 1"


def test_a_tag_that_keeps_an_old_revision_counts(room: Room) -> None:
    """It is reached by an address of its own, without any traffic of the service's."""
    old = room.service.ready
    room.run.change_traffic(room.service, TO_LATEST, {"revision": old, "tag": "stable"})
    room.tell("v1")
    room.run.settle(room.service)

    assert room.look("v1").waits_for == f"revision {old} is served, and reads version 1"

    room.run.change_traffic(room.service, TO_LATEST)
    room.run.settle(room.service)

    assert room.look("v1").pickup is Pickup.FOLLOWED


def test_a_tag_on_a_revision_that_never_knew_the_secret_does_not_count(room: Room) -> None:
    stranger = {"containers": [{"image": "hello"}]}
    room.deployed(stranger)
    before = room.service.ready
    room.deployed(template())
    room.run.change_traffic(room.service, TO_LATEST, {"revision": before, "tag": "hello"})

    room.tell("v1")
    room.run.settle(room.service)

    assert room.look("v1").pickup is Pickup.FOLLOWED


def test_traffic_that_is_not_all_accounted_for_is_waited_for(room: Room) -> None:
    room.tell("v1")
    room.run.settle(room.service)
    room.service.served = []

    assert room.look("v1").pickup is Pickup.WAITING


def test_a_later_deployment_of_somebody_elses_will_do(room: Room) -> None:
    """If it keeps the number."""
    room.tell("v1")
    room.deployed({**template("2"), "timeout": "60s"})

    assert room.look("v1").pickup is Pickup.FOLLOWED


# ---------------------------------------------------------------------------- what never follows


def refusal(act: Callable[[], object]) -> KeyturnError:
    with pytest.raises(KeyturnError) as caught:
        act()
    return caught.value


def test_a_service_that_is_not_there_is_named(room: Room) -> None:
    said = [str(refusal(room.consumer(service="gone").preflight))]
    room.service.is_deleted = True
    said.append(str(refusal(room.consumer().preflight)))

    assert said == [
        f"cloud-run:{LOCATION}/gone is not there, or is being deleted",
        f"cloud-run:{LOCATION}/api is not there, or is being deleted",
    ]


@pytest.mark.parametrize("secret", ["orders-db-pending", "projects/42/secrets/orders-db"])
def test_a_service_that_does_not_read_the_secret_is_refused(room: Room, secret: str) -> None:
    """Another secret, and the one of that name in another project: neither is ever pinned."""
    room.deployed(template("1", secret))

    error = refusal(room.consumer().preflight)

    assert isinstance(error, Misconfigured)
    assert f"does not read {REF}" in str(error)


def test_the_short_name_in_another_project_is_another_secret(room: Room) -> None:
    consumer = CloudRun(
        room.api(),
        service="api",
        location=LOCATION,
        project=PROJECT,
        ref="projects/42/secrets/orders-db",
        number=number,
    )

    assert "does not read projects/42/secrets/orders-db" in str(refusal(consumer.preflight))


def test_a_name_by_the_projects_id_is_refused(room: Room) -> None:
    """It may be ours, and no number tells: to leave it alone would look followed."""
    room.deployed(template("1", "projects/shop-42/secrets/orders-db"))
    assert "by the id of a project" in str(refusal(room.consumer().preflight))

    room.deployed(template())
    room.tell("v1")
    mixed = template("2")
    mixed["volumes"][0]["secret"]["secret"] = "projects/shop-42/secrets/orders-db"
    room.deployed(mixed)

    assert room.look("v1").pickup is Pickup.FAILED


def test_traffic_that_is_pinned_is_refused_before(room: Room) -> None:
    """A new revision would get none of it."""
    room.run.change_traffic(room.service, {"revision": room.service.ready, "percent": 100})
    room.run.settle(room.service)

    error = refusal(lambda: room.follow_up("v1"))

    assert isinstance(error, Misconfigured)
    assert "100 % of its traffic stays with revision api-" in str(error)
    assert not room.service.annotations


def test_an_update_that_is_refused_for_another_reason_is_no_race() -> None:
    """The code may be the same; the etag is still the one that was seen."""

    class Stubborn(StrictCloudRun):
        def answer(self, asked: Asked) -> dict[str, Any]:
            if asked.method == "PATCH":
                raise refused("FAILED_PRECONDITION", "Canary7-said-by-google")
            return super().answer(asked)

    with Stubborn() as run:
        there = Room(run)
        error = refusal(lambda: there.tell("v1"))

    assert isinstance(error, Misconfigured)
    assert "takes no update as it is" in str(error)


# ---------------------------------------------------------------------------- crashes and races


class Mortal:
    """An API whose user dies before or after one of its calls."""

    def __init__(self, api: GoogleApi, at: int, *, is_after: bool) -> None:
        self._api = api
        self._at = at
        self._is_after = is_after
        self._left = itertools.count(1)

    def ask(self, *args: Any, **how: Any) -> Any:
        is_now = next(self._left) == self._at
        if is_now and not self._is_after:
            raise Crash
        answer = self._api.ask(*args, **how)
        if is_now:
            raise Crash
        return answer


@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(1, 5))
def test_a_crash_at_any_call_neither_forgets_nor_tells_twice(
    room: Room, at: int, *, is_after: bool
) -> None:
    before = len(room.service.revisions)
    mortal: Any = Mortal(room.api(), at, is_after=is_after)
    with pytest.raises(Crash):
        room.follow_up("v1", room.consumer(mortal))

    pickups = [room.follow_up("v1") for _ in range(2)]
    room.run.settle(room.service)

    assert pickups[1] is Pickup.WAITING
    assert room.look("v1").pickup is Pickup.FOLLOWED
    assert len(room.service.revisions) == before + 1


def test_a_clean_follow_up_takes_four_calls_and_a_look_two(room: Room) -> None:
    """So the numbers above are all there are."""
    room.follow_up("v1")
    told = list(room.run.calls)
    room.run.settle(room.service)
    room.run.calls.clear()
    room.look("v1")

    assert told == ["GET /api", "GET /api", "GET /api", "PATCH /api"]
    assert room.run.calls == ["GET /api", f"GET /api/revisions/{room.service.ready}"]


@pytest.mark.parametrize("code", ["ABORTED", "FAILED_PRECONDITION"])
def test_a_lost_reply_is_found_to_be_our_own(code: str) -> None:
    """The call is made again, and refused: the etag has changed, by ourselves."""
    with StrictCloudRun(Undocumented(code)) as run:
        room = Room(run)
        before = len(room.service.revisions)
        run.lose_replies(1)

        room.tell("v1")
        run.settle(room.service)

        assert len(room.service.revisions) == before + 1
        assert room.look("v1").pickup is Pickup.FOLLOWED


def test_who_cannot_be_told_is_unreachable(room: Room) -> None:
    sight = room.look("v1")

    with room.run.outage(), pytest.raises(Unreachable):
        room.consumer().trigger(RotationId("v1"), sight)

    assert not room.service.annotations


def test_of_two_who_look_at_the_same_time_one_deploys(room: Room) -> None:
    """Whatever the order of their calls: the etag decides."""
    before = len(room.service.revisions)
    first, second = room.consumer(), room.consumer()
    sights = [each.verify(version("v1")) for each in (first, second)]

    class Between:
        """Lets the other one through right before the write."""

        def __init__(self, api: GoogleApi) -> None:
            self._api = api

        def ask(self, what: str, *args: Any, **how: Any) -> Any:
            if what == "UpdateService":
                second.trigger(RotationId("v1"), sights[1])
            return self._api.ask(what, *args, **how)

    between: Any = Between(room.api())
    room.consumer(between).trigger(RotationId("v1"), sights[0])

    assert len(room.service.revisions) == before + 1
    assert room.service.template == template("2")


@pytest.mark.parametrize("newer", ["v1", "v2"])
@pytest.mark.parametrize("at", range(1, 5))
def test_another_worker_before_any_call_is_never_undone(room: Room, at: int, newer: str) -> None:
    """It looks, tells and is done while the first one stands still."""
    left = itertools.count(1)

    class Slow:
        def __init__(self, api: GoogleApi) -> None:
            self._api = api

        def ask(self, *args: Any, **how: Any) -> Any:
            if next(left) == at:
                room.follow_up(newer)
            return self._api.ask(*args, **how)

    before = len(room.service.revisions)
    slow: Any = Slow(room.api())
    with suppress(Busy):
        room.follow_up("v1", room.consumer(slow))
    room.follow_up(newer)
    room.run.settle(room.service)

    assert room.service.template == template(str(number(RotationId(newer))))
    assert room.look(newer).pickup is Pickup.FOLLOWED
    assert len(room.service.revisions) == before + 1


def test_a_newer_version_that_comes_between_stays(room: Room) -> None:
    """Right before the write of a worker that is late."""
    sight = room.look("v1")

    class Between:
        def __init__(self, api: GoogleApi) -> None:
            self._api = api

        def ask(self, what: str, *args: Any, **how: Any) -> Any:
            if what == "UpdateService":
                room.tell("v2")
            return self._api.ask(what, *args, **how)

    between: Any = Between(room.api())
    with pytest.raises(Busy):
        room.consumer(between).trigger(RotationId("v1"), sight)

    assert room.service.template == template("3")


def test_a_right_that_is_missing_is_denied() -> None:
    class Closed(StrictCloudRun):
        def answer(self, asked: Asked) -> dict[str, Any]:
            del asked
            raise refused("PERMISSION_DENIED", "Canary7-said-by-google")

    with Closed() as run:
        error = refusal(Room(run).consumer().preflight)

    assert isinstance(error, Denied)
    assert CANARY not in str(error)


def test_the_page_lists_the_rights() -> None:
    """Least privilege is what the docs say."""
    assert not [each for each in PERMISSIONS if f"`{each}`" not in PAGE]
