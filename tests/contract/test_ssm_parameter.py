"""Copies in Parameter Store: in moto's, and in a strict one of our own, over the real wire."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import count
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config

from keyturn.destinations.ssm_parameter import (
    ADVANCED_MAX_BYTES,
    STANDARD_MAX_BYTES,
    SsmParameter,
)
from keyturn.errors import Busy, Drifted, KeyturnError, Misconfigured
from keyturn.local.aws import LocalAws
from keyturn.model import Credential, RotationId, Sensitive, Version
from keyturn.ports import Held
from keyturn.testing.contracts import MADE_AT, Depot, DestinationContract
from keyturn.testing.fakes import World
from keyturn.testing.faults import Moment, Proxy, Verdict
from keyturn.testing.strict_ssm import StrictSsm

CANARY = "Canary7-"
NAME = "prod/orders/db"
_numbers = count(1)


class Room:
    """A parameter that is not there yet, and a key for it."""

    def __init__(self, aws: LocalAws, proxy: Proxy) -> None:
        self.proxy = proxy
        once = Config(retries={"mode": "standard", "total_max_attempts": 1})
        cut: dict[str, Any] = {
            **aws.settings(),
            "endpoint_url": f"http://127.0.0.1:{proxy.port}",
        }
        self.client: Any = boto3.client("ssm", **cut, config=once)
        self.straight: Any = boto3.client("ssm", **aws.settings())
        self.key = boto3.client("kms", **aws.settings()).create_key()["KeyMetadata"]["Arn"]
        self.parameter = f"/prod/{os.getpid()}/{next(_numbers)}"

    def place(self, *, secret: str = NAME, may_be_advanced: bool = False) -> SsmParameter:
        return SsmParameter(
            self.client,
            parameter=self.parameter,
            kms_key=self.key,
            secret=secret,
            may_be_advanced=may_be_advanced,
        )

    def described(self) -> dict[str, Any]:
        named = [{"Key": "Name", "Values": [self.parameter]}]
        (found,) = self.straight.describe_parameters(ParameterFilters=named)["Parameters"]
        return dict(found)

    def reads(self) -> Sensitive | None:
        try:
            found = self.straight.get_parameter(Name=self.parameter, WithDecryption=True)
        except self.straight.exceptions.ParameterNotFound:
            return None
        return Sensitive(found["Parameter"]["Value"])

    def write_by_hand(self, **more: Any) -> None:
        by_hand = {"Type": "SecureString", "Value": "by hand", "Description": "mine", **more}
        self.straight.put_parameter(Name=self.parameter, Overwrite=True, **by_hand)

    def meanwhile(self, act: Callable[[], object]) -> None:
        """Let somebody else act once, right before the next write leaves us."""
        turns = iter([act])

        def interrupt(**_: object) -> None:
            for turn in turns:
                turn()

        self.client.meta.events.register("before-send.ssm.PutParameter", interrupt)

    @contextmanager
    def lose_reply(self) -> Iterator[None]:
        """Lose the second reply: the first is that of the look before the write."""
        replies = count(1)

        def interrupt(number: int, moment: Moment) -> Verdict:
            del number
            is_lost = moment is Moment.AFTER and next(replies) == 2
            return Verdict.CUT if is_lost else Verdict.PASS

        self.proxy.reset(interrupt)
        yield
        self.proxy.reset()


@pytest.fixture
def room(aws: LocalAws) -> Iterator[Room]:
    with Proxy(urlsplit(aws.endpoint_url).port or 0) as proxy:
        yield Room(aws, proxy)


def version(name: str) -> Version:
    return Version(RotationId(name), Credential("app", Sensitive(f"{CANARY}unused")), MADE_AT)


def deliver(
    room: Room, text: str, name: str = "v1", seen: Held | None = None, *, advanced: bool = False
) -> None:
    place = room.place(may_be_advanced=advanced)
    place.deliver(version(name), Sensitive(text), seen or place.holds())


class TestSsmParameter(DestinationContract):
    UNUSABLE = ("{{",)

    @pytest.fixture
    def depot(self, room: Room) -> Depot:
        return Depot(
            room.place(),
            room.reads,
            room.write_by_hand,
            Sensitive(CANARY.ljust(STANDARD_MAX_BYTES + 1, "x")),
            "1 to 4,096; 8,192 if advanced",
            lambda: 0,  # no value is ever asked for: see the next test
            room.proxy.outage,
            room.lose_reply,
        )


@pytest.fixture
def strict() -> Iterator[StrictSsm]:
    clock = World().clock

    def now() -> datetime:
        clock.advance(timedelta(milliseconds=1))
        return clock.now()

    with StrictSsm(now) as ssm:
        yield ssm


def strict_place(ssm: StrictSsm, *, may_be_advanced: bool = False) -> SsmParameter:
    once = Config(retries={"mode": "standard", "total_max_attempts": 1})
    client: Any = boto3.client("ssm", **ssm.settings(), config=once)
    return SsmParameter(
        client,
        parameter="/prod/orders/db",
        kms_key="alias/secrets",
        secret=NAME,
        may_be_advanced=may_be_advanced,
    )


class TestStrictSsmParameter(DestinationContract):
    """The store that takes nothing which Parameter Store would refuse."""

    UNUSABLE = ("{{",)

    @pytest.fixture
    def depot(self, strict: StrictSsm) -> Depot:
        by_hand: Any = boto3.client("ssm", **strict.settings())
        return Depot(
            strict_place(strict),
            lambda: strict.value_of("/prod/orders/db"),
            lambda: by_hand.put_parameter(
                Name="/prod/orders/db",
                Value="by hand",
                Description="mine",
                Type="SecureString",
                Overwrite=True,
            ),
            Sensitive(CANARY.ljust(STANDARD_MAX_BYTES + 1, "x")),
            "1 to 4,096; 8,192 if advanced",
            lambda: 0,
            strict.outage,
            lambda: strict.lose_reply("PutParameter"),
        )


def test_a_look_asks_for_no_value(room: Room) -> None:
    asked: list[str] = []
    room.client.meta.events.register("before-call.ssm", lambda model, **_: asked.append(model.name))

    deliver(room, f"{CANARY}one")
    room.place().holds()

    assert asked == [
        "DescribeParameters",
        "DescribeParameters",
        "PutParameter",
        "DescribeParameters",
    ]


def test_the_parameter_says_what_it_is_and_is_encrypted_with_the_plans_key(room: Room) -> None:
    deliver(room, f"{CANARY}one")

    found = room.described()
    assert found["Description"] == f"keyturn: {NAME} version v1"
    assert (found["Type"], found["KeyId"], found["Tier"]) == ("SecureString", room.key, "Standard")


# ---------------------------------------------------------------------------- no compare-and-set


def test_who_writes_in_between_is_noticed(room: Room) -> None:
    """It cannot be prevented: it is reported, so that what is current is delivered once more."""
    deliver(room, f"{CANARY}one", "v1")
    room.meanwhile(lambda: deliver(room, f"{CANARY}three", "v3"))

    with pytest.raises(Busy, match="something else has been written"):
        deliver(room, f"{CANARY}two", "v2")

    assert room.place().holds().version_id == RotationId("v2")
    deliver(room, f"{CANARY}three", "v3")
    assert room.reads() == Sensitive(f"{CANARY}three")


def test_a_new_parameter_is_made_by_one_only(room: Room) -> None:
    """There, Parameter Store does compare."""
    room.meanwhile(lambda: deliver(room, f"{CANARY}two", "v2"))

    with pytest.raises(Busy):
        deliver(room, f"{CANARY}one", "v1")

    assert room.reads() == Sensitive(f"{CANARY}two")


def test_of_two_who_bring_the_same_the_second_is_content(room: Room) -> None:
    room.meanwhile(lambda: deliver(room, f"{CANARY}one", "v1"))

    deliver(room, f"{CANARY}one", "v1")

    assert room.described()["Version"] == 1


def test_a_parameter_that_was_made_anew_is_not_the_one_that_was_seen(room: Room) -> None:
    """Its numbers begin again; the time does not."""
    deliver(room, f"{CANARY}one", "v1")
    seen = room.place().holds()
    room.straight.delete_parameter(Name=room.parameter)
    room.write_by_hand()

    with pytest.raises(Busy):
        deliver(room, f"{CANARY}two", "v2", seen)


# ---------------------------------------------------------------------------- limits


def refusal(act: Callable[[], object]) -> KeyturnError:
    with pytest.raises(KeyturnError) as caught:
        act()
    return caught.value


def test_a_longer_value_makes_an_advanced_parameter_if_that_is_allowed(room: Room) -> None:
    """And it stays one: it could not become a standard one again."""
    long = CANARY.ljust(STANDARD_MAX_BYTES + 1, "x")
    error = refusal(lambda: deliver(room, long))
    assert "allow an advanced parameter" in error.remedy

    deliver(room, long, "v1", advanced=True)
    assert room.described()["Tier"] == "Advanced"
    deliver(room, f"{CANARY}short", "v2", advanced=True)
    assert room.described()["Tier"] == "Advanced"

    longer = CANARY.ljust(ADVANCED_MAX_BYTES + 1, "x")
    error = refusal(lambda: deliver(room, longer, "v3", advanced=True))
    assert "has 8,193 bytes, a parameter takes 1 to 8,192" in str(error)


def test_parameter_store_takes_what_we_send_in_either_tier(strict: StrictSsm) -> None:
    """Up to the last byte; and a short value in an advanced one, which stays one."""
    sizes = [STANDARD_MAX_BYTES, ADVANCED_MAX_BYTES, 100]
    place = strict_place(strict, may_be_advanced=True)

    for number, size in enumerate(sizes):
        text = Sensitive(CANARY.ljust(size, "x"))
        place.deliver(version(f"v{number}"), text, place.holds())
        assert strict.value_of("/prod/orders/db") == text

    tiers = [written.tier for written in strict.history["/prod/orders/db"]]
    assert tiers == ["Standard", "Advanced", "Advanced"]


def test_the_longest_name_fits_into_the_description(strict: StrictSsm) -> None:
    """512 characters for the secret, 64 for the version."""
    client: Any = boto3.client("ssm", **strict.settings())
    place = SsmParameter(
        client, parameter="a", kms_key="alias/secrets", secret="s" * 512, may_be_advanced=False
    )

    place.deliver(version("v" * 64), Sensitive(f"{CANARY}x"), place.holds())

    assert place.holds().version_id == RotationId("v" * 64)


def test_a_parameter_that_is_no_secure_string_is_named(strict: StrictSsm) -> None:
    """Its type stays, whoever writes: delete it, or name another."""
    by_hand: Any = boto3.client("ssm", **strict.settings())
    by_hand.put_parameter(Name="/prod/orders/db", Value="placeholder", Type="String")
    place = strict_place(strict)

    error = refusal(lambda: place.deliver(version("v1"), Sensitive(CANARY), place.holds()))

    assert isinstance(error, Misconfigured)
    assert "HierarchyTypeMismatchException" in str(error)


def test_bytes_are_counted_not_characters(room: Room) -> None:
    deliver(room, CANARY + "é" * ((STANDARD_MAX_BYTES - len(CANARY)) // 2))

    error = refusal(lambda: deliver(room, CANARY + "é" * 2_048, "v2"))

    assert "has 4,104 bytes" in str(error)


@pytest.mark.parametrize("text, said", [("", "has 0 bytes"), (f"{CANARY}{{{{x", "has {{ in it")])
def test_what_parameter_store_does_not_take_is_refused(room: Room, text: str, said: str) -> None:
    error = refusal(lambda: deliver(room, text))

    assert isinstance(error, Misconfigured)
    assert said in str(error)
    assert room.reads() is None


def test_another_secrets_copy_is_left_alone(room: Room) -> None:
    deliver(room, f"{CANARY}one")

    with pytest.raises(Drifted, match="holds a copy of prod/orders/db, not of prod/other"):
        room.place(secret="prod/other").holds()


def test_a_parameter_of_somebody_elses_is_taken_over_description_and_all(room: Room) -> None:
    """The plan names it, as Terraform's placeholder is named."""
    room.write_by_hand(Type="SecureString")

    deliver(room, f"{CANARY}one")

    assert room.place().holds().version_id == RotationId("v1")
    assert room.reads() == Sensitive(f"{CANARY}one")


def test_a_hundred_versions_with_the_oldest_labelled_are_named(room: Room) -> None:
    for _ in range(100):
        room.write_by_hand()
    room.straight.label_parameter_version(Name=room.parameter, ParameterVersion=1, Labels=["kept"])

    error = refusal(lambda: deliver(room, f"{CANARY}one"))

    assert isinstance(error, Misconfigured)
    assert "ParameterMaxVersionLimitExceeded" in str(error)
    assert "oldest version" in error.remedy
