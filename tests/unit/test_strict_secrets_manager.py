"""The strict Secrets Manager refuses what the service refuses; our adapter takes it well.

Each rule's source stands beside it in `keyturn.testing.strict_secrets_manager`.
"""

from __future__ import annotations

import http.client
import itertools
import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError

from keyturn.boundary import rotation_event
from keyturn.errors import Busy, Denied, KeyturnError, Misconfigured, Retryable, Unreachable
from keyturn.model import RotationId, SecretRef, Sensitive
from keyturn.rotation import Rotation
from keyturn.stores.secrets_manager import SecretsManager
from keyturn.strategies import SingleUser
from keyturn.testing.fakes import Account, FakeClock, MemoryDatabase, World
from keyturn.testing.strict_secrets_manager import (
    MAX_VERSIONS,
    STEPS,
    Event,
    Mismatch,
    StrictSecretsManager,
    Undocumented,
)
from keyturn.testing.wire import Refusal

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

FIRST = '{"username": "app", "password": "Canary7-first"}'
FUNCTION = "arn:aws:lambda:eu-west-1:123456789012:function:rotate"


def token(name: str) -> str:
    return f"{name:-<32}"


V0, A, B, C = token("v0"), token("a"), token("b"), token("c")


class Desk:
    """The service, one secret in it, and a client that tries everything once."""

    def __init__(
        self, service: StrictSecretsManager, clock: FakeClock, session: boto3.Session
    ) -> None:
        self.service = service
        self.clock = clock
        self._session = session
        self.client = self.another_client()
        self.ref = SecretRef(
            self.client.create_secret(Name="db/app", ClientRequestToken=V0, SecretString=FIRST)[
                "ARN"
            ]
        )
        self.store = SecretsManager(self.client)

    def another_client(self, tries: int = 1) -> SecretsManagerClient:
        retries: Any = {"mode": "standard", "total_max_attempts": tries}
        return self._session.client(
            "secretsmanager", **self.service.settings(), config=Config(retries=retries)
        )

    def raw(self, action: str, **parameters: object) -> tuple[int, dict[str, Any]]:
        """Call without an SDK, which would refuse some of it or add to it."""
        line = http.client.HTTPConnection("127.0.0.1", self.service.port)
        line.request(
            "POST", "/", json.dumps(parameters), {"X-Amz-Target": f"secretsmanager.{action}"}
        )
        response = line.getresponse()
        status, body = response.status, json.loads(response.read())
        line.close()
        return status, body

    def put(self, name: str, value: str = FIRST, *labels: str) -> None:
        chosen: Any = {"VersionStages": labels} if labels else {}
        self.client.put_secret_value(
            SecretId=self.ref, ClientRequestToken=name, SecretString=value, **chosen
        )

    def move(self, label: str, to: str = "", source: str = "") -> None:
        ends: Any = {"MoveToVersionId": to, "RemoveFromVersionId": source}
        self.client.update_secret_version_stage(
            SecretId=self.ref, VersionStage=label, **{k: v for k, v in ends.items() if v}
        )

    def rotate(self, name: str, **more: Any) -> None:
        self.client.rotate_secret(
            SecretId=self.ref, ClientRequestToken=name, RotationLambdaARN=FUNCTION, **more
        )
        self.service.settle()

    def labels(self) -> dict[str, str]:
        return self.service.labels(self.ref)

    def names(self) -> list[str]:
        return [version.version_id for version in self.service.versions(self.ref)]

    def value(self, **choice: Any) -> str:
        return self.client.get_secret_value(SecretId=self.ref, **choice)["SecretString"]

    def told(self) -> list[str]:
        return [event.name for event in self.service.events]

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        before = self.service.versions(self.ref)
        yield
        assert self.service.versions(self.ref) == before


@pytest.fixture(scope="module")
def session() -> boto3.Session:
    """What makes a client slowly the first time, and then fast."""
    return boto3.Session()


@pytest.fixture
def desk(session: boto3.Session) -> Iterator[Callable[..., Desk]]:
    with ExitStack() as stack:

        def furnish(**settings: Any) -> Desk:
            on_rotate = settings.pop("on_rotate", None)
            clock = FakeClock()
            service = StrictSecretsManager(
                clock=clock, undocumented=Undocumented(**settings), on_rotate=on_rotate
            )
            return Desk(stack.enter_context(service), clock, session)

        yield furnish


@pytest.fixture(name="one")
def _one(desk: Callable[..., Desk]) -> Desk:
    return desk()


def refused(code: str) -> AbstractContextManager[object]:
    return pytest.raises(ClientError, match=rf"\({code}\)")


# ---------------------------------------------------------------------------- values


def test_a_version_never_changes(one: Desk) -> None:
    one.put(A, "first", "AWSPENDING")

    with one.unchanged(), refused("ResourceExistsException"):
        one.put(A, "other", "AWSPENDING")


def test_the_same_token_with_the_same_value_changes_nothing(one: Desk) -> None:
    """Not even a label: an abandoned version does not become pending again."""
    one.put(A, "made", "AWSPENDING")
    one.move("AWSPENDING", source=A)

    with one.unchanged():
        one.put(A, "made", "AWSPENDING")


def test_text_and_binary_are_two_values(one: Desk) -> None:
    one.put(A, "made", "AWSPENDING")

    with refused("ResourceExistsException"):
        one.client.put_secret_value(
            SecretId=one.ref, ClientRequestToken=A, SecretBinary=b"made", VersionStages=["X"]
        )


@pytest.mark.parametrize("length", [31, 65])
def test_a_token_has_32_to_64_characters(one: Desk, length: int) -> None:
    one.put("x" * 32)
    one.put("x" * 64)

    with one.unchanged():
        status, answer = one.raw(
            "PutSecretValue", SecretId=one.ref, ClientRequestToken="y" * length, SecretString="x"
        )

    assert (status, answer["__type"]) == (400, "InvalidParameterException")


@pytest.mark.parametrize(
    "action,code",
    [
        ("PutSecretValue", "InvalidRequestException"),
        ("UpdateSecret", "InvalidRequestException"),
        ("RotateSecret", "InvalidParameterException"),
    ],
)
def test_a_token_is_required(one: Desk, action: str, code: str) -> None:
    _, answer = one.raw(action, SecretId=one.ref, SecretString="x", RotationLambdaARN=FUNCTION)

    assert answer["__type"] == code


@pytest.mark.parametrize("text", ["", "x" * 65_537, "é" * 32_769], ids=["none", "long", "bytes"])
def test_a_value_has_1_to_65536_bytes(one: Desk, text: str) -> None:
    """Bytes, not characters."""
    one.put(A, "é" * 32_768)

    with one.unchanged():
        _, answer = one.raw(
            "PutSecretValue", SecretId=one.ref, ClientRequestToken=B, SecretString=text
        )

    assert answer["__type"] == "ValidationException"


@pytest.mark.parametrize("value", [{}, {"SecretString": "x", "SecretBinary": "eA=="}])
def test_a_value_is_text_or_binary(one: Desk, value: dict[str, str]) -> None:
    _, answer = one.raw("PutSecretValue", SecretId=one.ref, ClientRequestToken=A, **value)

    assert answer["__type"] == "InvalidParameterException"


def test_a_put_without_labels_moves_current(one: Desk) -> None:
    """The classic accident."""
    one.put(A, "made")

    assert one.labels() == {"AWSCURRENT": A, "AWSPREVIOUS": V0}
    assert one.value() == "made"


def test_a_put_with_labels_moves_only_those(one: Desk) -> None:
    one.put(A, "made", "AWSPENDING", "X")

    assert one.labels() == {"AWSCURRENT": V0, "AWSPENDING": A, "X": A}
    assert one.value() == FIRST


def test_a_secret_may_have_no_version_and_the_first_one_is_current(one: Desk) -> None:
    ref = one.client.create_secret(Name="empty")["ARN"]
    assert "VersionIdsToStages" not in one.client.describe_secret(SecretId=ref)

    one.client.put_secret_value(
        SecretId=ref, ClientRequestToken=A, SecretString="x", VersionStages=["AWSPENDING"]
    )

    assert one.service.labels(ref) == {"AWSPENDING": A, "AWSCURRENT": A}


def test_an_update_needs_a_new_token(one: Desk) -> None:
    """Even with the same value, unlike a put."""
    with one.unchanged(), refused("ResourceExistsException"):
        one.client.update_secret(SecretId=one.ref, ClientRequestToken=V0, SecretString=FIRST)


def test_an_update_without_a_value_makes_no_version(one: Desk) -> None:
    with one.unchanged():
        answer = one.client.update_secret(SecretId=one.ref, Description="ours")

    assert "VersionId" not in answer
    assert one.client.describe_secret(SecretId=one.ref)["Description"] == "ours"


# ---------------------------------------------------------------------------- labels


def test_a_label_sits_on_one_version(one: Desk) -> None:
    one.put(A, "made", "AWSPENDING", "X")
    one.put(B, "newer", "AWSPENDING")

    assert one.labels() == {"AWSCURRENT": V0, "AWSPENDING": B, "X": A}


def test_previous_moves_by_itself(one: Desk) -> None:
    one.put(A, "made", "AWSPENDING")
    one.move("AWSCURRENT", A, V0)
    assert one.labels() == {"AWSCURRENT": A, "AWSPENDING": A, "AWSPREVIOUS": V0}

    one.move("AWSCURRENT", V0, A)

    assert one.labels() == {"AWSCURRENT": V0, "AWSPENDING": A, "AWSPREVIOUS": A}


def test_a_version_that_was_previous_has_no_label_left(one: Desk) -> None:
    for name in (A, B):
        one.put(name, name)

    labels = [version.labels for version in one.service.versions(one.ref)]

    assert labels == [set(), {"AWSPREVIOUS"}, {"AWSCURRENT"}]


@pytest.mark.parametrize("source", ["", A, B, token("nobody")])
def test_a_label_moves_only_from_its_holder(one: Desk, source: str) -> None:
    one.put(A, "made", "AWSPENDING")
    one.put(B, "other", "X")

    with one.unchanged(), refused("InvalidParameterException"):
        one.move("AWSCURRENT", A, source)


def test_a_label_moves_only_to_a_version_that_exists(one: Desk) -> None:
    """moto takes the label off first; then nobody can read the secret."""
    with one.unchanged(), refused("ResourceNotFoundException"):
        one.move("AWSCURRENT", A, V0)


def test_a_move_that_was_done_is_refused_when_repeated(one: Desk) -> None:
    """What an SDK does after a lost reply."""
    one.put(A, "made", "AWSPENDING")
    one.move("AWSCURRENT", A, V0)

    with one.unchanged(), refused("InvalidParameterException"):
        one.move("AWSCURRENT", A, V0)


def test_of_many_who_move_a_label_one_wins(one: Desk) -> None:
    names = [token(f"racer{n}") for n in range(8)]
    for name in names:
        one.put(name, name, "AWSPENDING")

    def race(name: str) -> bool:
        with suppress(ClientError):
            one.move("AWSCURRENT", name, V0)
            return True
        return False

    with ThreadPoolExecutor(len(names)) as racers:
        won = [
            name for name, has_won in zip(names, racers.map(race, names), strict=True) if has_won
        ]

    assert won == [one.labels()["AWSCURRENT"]]


def test_current_cannot_be_removed(one: Desk) -> None:
    with one.unchanged(), refused("InvalidParameterException"):
        one.move("AWSCURRENT", source=V0)


def test_a_move_has_an_end(one: Desk) -> None:
    with one.unchanged(), refused("InvalidParameterException"):
        one.move("X")


def test_any_other_label_can_be_removed(one: Desk) -> None:
    one.put(A, "made", "AWSPENDING")

    one.move("AWSPENDING", source=A)

    assert one.labels() == {"AWSCURRENT": V0}


def test_a_secret_has_at_most_20_labels(one: Desk) -> None:
    """Over all its versions; and what is refused leaves no version behind."""
    one.put(A, "made", *[f"X{n}" for n in range(19)])

    with one.unchanged(), refused("LimitExceededException"):
        one.put(B, "more", "Y")
    with one.unchanged(), refused("LimitExceededException"):
        one.move("Y", A)


def test_a_call_has_at_most_20_labels(one: Desk) -> None:
    with one.unchanged(), refused("ValidationException"):
        one.put(A, "made", *[f"X{n}" for n in range(21)])


@pytest.mark.parametrize("promotes_empty", [True, False])
def test_an_empty_version_is_promoted_or_refused(
    desk: Callable[..., Desk], *, promotes_empty: bool
) -> None:
    """Nobody knows what AWS does."""
    one = desk(promotes_empty=promotes_empty)
    one.rotate(A)

    with suppress(ClientError):
        one.move("AWSCURRENT", A, V0)

    assert one.labels()["AWSCURRENT"] == (A if promotes_empty else V0)


# ---------------------------------------------------------------------------- how many


def _fill(one: Desk) -> None:
    """Make as many versions as are kept, the first and the last with labels; n0 is a day old."""
    for number in range(MAX_VERSIONS - len(one.names())):
        one.clock.advance(timedelta(seconds=1))
        one.put(token(f"n{number}"), "x", "X")
    oldest = one.service.versions(one.ref)[1]
    one.clock.advance(timedelta(hours=24) - (one.clock.now() - oldest.created_at))


def test_a_day_old_version_without_a_label_makes_room_oldest_first(one: Desk) -> None:
    _fill(one)
    one.clock.advance(timedelta(days=1))

    one.put(A, "made", "X")

    assert len(one.names()) == MAX_VERSIONS
    assert token("n0") not in one.names()
    assert {V0, token("n1"), A} <= {*one.names()}


def test_a_young_version_makes_no_room(one: Desk) -> None:
    _fill(one)
    one.put(A, "n0 goes", "X")

    with one.unchanged(), refused("LimitExceededException"):
        one.put(B, "n1 is a second younger", "X")
    with one.unchanged(), refused("LimitExceededException"):
        one.rotate(B)


def test_a_version_with_a_label_stays_however_old_it_is(one: Desk) -> None:
    for number in range(MAX_VERSIONS + 20):
        one.clock.advance(timedelta(hours=4))
        one.put(token(f"n{number}"), "x", "X")

    assert one.labels()["AWSCURRENT"] == V0
    assert len(one.names()) == MAX_VERSIONS


# ---------------------------------------------------------------------------- reads


def test_a_read_without_a_choice_is_of_current(one: Desk) -> None:
    """moto goes on serving the old value."""
    one.put(A, "made", "AWSPENDING")
    one.move("AWSCURRENT", A, V0)

    assert one.value() == one.value(VersionStage="AWSCURRENT") == "made"


def test_a_version_without_labels_is_read_by_its_id(one: Desk) -> None:
    one.put(A, "made", "X")
    one.put(B, "newer", "X")

    answer = one.client.get_secret_value(SecretId=one.ref, VersionId=A)

    assert answer["SecretString"] == "made"
    assert "VersionStages" not in answer


@pytest.mark.parametrize(
    "choice",
    [
        {"VersionStage": "AWSPENDING"},
        {"VersionId": A},
        {"VersionId": A, "VersionStage": "AWSPENDING"},
        {"VersionId": B},
        {"VersionId": B, "VersionStage": "AWSPENDING"},
        {"VersionStage": "X"},
    ],
)
def test_what_has_no_value_is_not_found(one: Desk, choice: dict[str, str]) -> None:
    """An empty version, an unknown one, a label that is nowhere."""
    one.rotate(A)

    with refused("ResourceNotFoundException"):
        one.value(**choice)


@pytest.mark.parametrize("mismatch", Mismatch)
def test_id_and_label_must_belong_together(desk: Callable[..., Desk], mismatch: Mismatch) -> None:
    one = desk(mismatch=mismatch)
    one.put(A, "made", "AWSPENDING")

    with refused(mismatch.value):
        one.value(VersionId=A, VersionStage="AWSCURRENT")


def test_describe_shows_versions_with_labels_empty_or_not(one: Desk) -> None:
    one.put(A, "made", "X")
    one.put(B, "newer", "X")
    one.rotate(C)

    described = one.client.describe_secret(SecretId=one.ref)

    assert described["VersionIdsToStages"] == {V0: ["AWSCURRENT"], B: ["X"], C: ["AWSPENDING"]}
    assert described["RotationLambdaARN"] == FUNCTION
    assert described["RotationEnabled"]


def test_the_list_shows_versions_with_values_and_deprecated_ones_on_demand(one: Desk) -> None:
    one.put(A, "made", "X")
    one.put(B, "newer", "X")
    one.rotate(C)

    listed = one.client.list_secret_version_ids(SecretId=one.ref)["Versions"]
    everything = one.client.list_secret_version_ids(SecretId=one.ref, IncludeDeprecated=True)

    assert [entry["VersionId"] for entry in listed] == [V0, B]
    assert {e["VersionId"]: e.get("VersionStages") for e in everything["Versions"]} == {
        V0: ["AWSCURRENT"],
        A: None,
        B: ["X"],
    }


def test_the_list_comes_in_pages(one: Desk) -> None:
    for name in (A, B, C):
        one.put(name, name)
    asked: Any = {"SecretId": one.ref, "IncludeDeprecated": True, "MaxResults": 3}

    first = one.client.list_secret_version_ids(**asked)
    second = one.client.list_secret_version_ids(**asked, NextToken=first["NextToken"])

    assert [entry["VersionId"] for entry in first["Versions"]] == [V0, A, B]
    assert [entry["VersionId"] for entry in second["Versions"]] == [C]
    assert "NextToken" not in second


def test_a_page_is_asked_for_with_the_services_own_words(one: Desk) -> None:
    with refused("InvalidNextTokenException"):
        one.client.list_secret_version_ids(SecretId=one.ref, NextToken="2")
    with refused("ValidationException"):
        one.client.list_secret_version_ids(SecretId=one.ref, MaxResults=101)


# ---------------------------------------------------------------------------- which secret


def test_a_secret_is_found_by_arn_by_name_and_by_partial_arn(one: Desk) -> None:
    partial, name = one.ref.rpartition("-")[0], "db/app"

    answers = [one.client.describe_secret(SecretId=ref) for ref in (one.ref, name, partial)]

    assert [answer["ARN"] for answer in answers] == [one.ref] * 3


def test_other_parts_of_an_arn_find_nothing(one: Desk) -> None:
    suffix = one.ref.rpartition("-")[2]

    for ref in (f"db/app-{suffix}", one.ref[:-1], f"{one.ref.rpartition('-')[0]}-zzzzzz", "db"):
        with refused("ResourceNotFoundException"):
            one.client.describe_secret(SecretId=ref)


def test_what_looks_like_a_full_arn_is_not_completed(one: Desk) -> None:
    """Hence the advice not to end a name with a hyphen and six characters."""
    ref = one.client.create_secret(Name="db-a1b2c3")["ARN"]

    with refused("ResourceNotFoundException"):
        one.client.describe_secret(SecretId=ref.rpartition("-")[0])


def test_a_secret_made_anew_has_another_arn(one: Desk) -> None:
    one.client.delete_secret(SecretId=one.ref, ForceDeleteWithoutRecovery=True)

    ref = one.client.create_secret(Name="db/app")["ARN"]

    assert re.fullmatch(r".*:secret:db/app-[A-Za-z0-9]{6}", ref)
    assert ref != one.ref
    with refused("ResourceNotFoundException"):
        one.client.describe_secret(SecretId=one.ref)


def test_every_run_makes_the_same_arns(desk: Callable[..., Desk]) -> None:
    assert desk().ref == desk().ref


def test_a_name_is_taken_once(one: Desk) -> None:
    """The same call again is no second one."""
    again = one.client.create_secret(Name="db/app", ClientRequestToken=V0, SecretString=FIRST)
    assert again["ARN"] == one.ref

    for name, value in ((A, FIRST), (V0, "other")):
        with refused("ResourceExistsException"):
            one.client.create_secret(Name="db/app", ClientRequestToken=name, SecretString=value)


def test_a_name_has_certain_characters(one: Desk) -> None:
    with refused("ValidationException"):
        one.client.create_secret(Name="no name")


# ---------------------------------------------------------------------------- deletion


def test_a_secret_that_is_being_deleted_is_neither_read_nor_written(one: Desk) -> None:
    one.client.delete_secret(SecretId=one.ref)

    for call in (
        one.value,
        lambda: one.put(A),
        lambda: one.move("X", V0),
        lambda: one.rotate(A),
        lambda: one.client.cancel_rotate_secret(SecretId=one.ref),
        lambda: one.client.update_secret(SecretId=one.ref, SecretString="x"),
        lambda: one.client.create_secret(Name="db/app"),
    ):
        with one.unchanged(), refused("InvalidRequestException"):
            call()


def test_a_secret_that_is_being_deleted_is_described_and_restored(one: Desk) -> None:
    deleted = one.client.delete_secret(SecretId=one.ref, RecoveryWindowInDays=7)
    described = one.client.describe_secret(SecretId=one.ref)
    assert described["DeletedDate"] == deleted["DeletionDate"]

    one.client.restore_secret(SecretId=one.ref)

    assert "DeletedDate" not in one.client.describe_secret(SecretId=one.ref)
    assert one.value() == FIRST


@pytest.mark.parametrize("window,days", [({"RecoveryWindowInDays": 7}, 7), ({}, 30)])
def test_a_deleted_secret_is_gone_when_its_window_is_over(
    one: Desk, window: dict[str, Any], days: int
) -> None:
    one.client.delete_secret(SecretId=one.ref, **window)
    one.clock.advance(timedelta(days=days, seconds=-1))
    one.client.describe_secret(SecretId=one.ref)

    one.clock.advance(timedelta(seconds=1))

    with refused("ResourceNotFoundException"):
        one.client.restore_secret(SecretId=one.ref)
    one.client.create_secret(Name="db/app")


@pytest.mark.parametrize(
    "window",
    [
        {"RecoveryWindowInDays": 6},
        {"RecoveryWindowInDays": 31},
        {"RecoveryWindowInDays": 7, "ForceDeleteWithoutRecovery": True},
    ],
)
def test_a_recovery_window_has_7_to_30_days(one: Desk, window: dict[str, Any]) -> None:
    with refused("InvalidParameterException"):
        one.client.delete_secret(SecretId=one.ref, **window)


def test_what_is_missing_can_be_deleted_by_force_only(one: Desk) -> None:
    one.client.delete_secret(SecretId="nobody", ForceDeleteWithoutRecovery=True)

    with refused("ResourceNotFoundException"):
        one.client.delete_secret(SecretId="nobody")


# ---------------------------------------------------------------------------- rotation


def test_a_rotation_begins_with_an_empty_pending_version(one: Desk) -> None:
    one.rotate(A)

    assert one.labels() == {"AWSCURRENT": V0, "AWSPENDING": A}
    assert one.service.versions(one.ref)[1].value is None
    assert one.value() == FIRST
    assert one.service.events[-1] == Event("RotationStarted", one.ref, A)


def test_pending_on_another_version_than_current_is_a_rotation_in_progress(one: Desk) -> None:
    one.rotate(A)
    with one.unchanged(), refused("InvalidRequestException"):
        one.rotate(B)
    one.put(A, "made", "AWSPENDING")
    with one.unchanged(), refused("InvalidRequestException"):
        one.rotate(B)

    one.move("AWSCURRENT", A, V0)
    one.rotate(B)

    assert one.labels() == {"AWSCURRENT": A, "AWSPENDING": B, "AWSPREVIOUS": V0}


def test_the_same_rotation_is_begun_once(one: Desk) -> None:
    one.rotate(A)

    with one.unchanged():
        one.rotate(A)

    assert one.told().count("RotationStarted") == 1


def test_a_rotation_needs_a_new_token_a_function_and_one_schedule(one: Desk) -> None:
    with refused("InvalidRequestException"):
        one.client.rotate_secret(SecretId=one.ref, ClientRequestToken=A)
    with refused("InvalidRequestException"):
        one.rotate(V0)
    with refused("InvalidParameterException"):
        one.rotate(
            A, RotationRules={"AutomaticallyAfterDays": 1, "ScheduleExpression": "rate(1 day)"}
        )

    assert one.labels() == {"AWSCURRENT": V0}


def test_a_function_is_called_step_by_step_with_the_full_arn(desk: Callable[..., Desk]) -> None:
    events: list[dict[str, str]] = []

    def rotate(event: dict[str, str]) -> None:
        events.append(event)
        if event["Step"] == "createSecret":
            one.put(A, "made", "AWSPENDING")
        if event["Step"] == "finishSecret":
            one.move("AWSCURRENT", A, V0)

    one: Desk = desk(on_rotate=rotate)
    one.client.rotate_secret(SecretId="db/app", ClientRequestToken=A, RotationLambdaARN=FUNCTION)
    one.service.settle()

    assert events == [
        {"Step": step, "SecretId": one.ref, "ClientRequestToken": A} for step in STEPS
    ]
    assert one.value() == "made"
    assert one.told()[-1] == "RotationSucceeded"
    assert "LastRotatedDate" in one.client.describe_secret(SecretId=one.ref)


def test_a_failed_step_is_tried_again_from_the_first_with_the_same_token(
    desk: Callable[..., Desk],
) -> None:
    steps: list[str] = []

    def rotate(event: dict[str, str]) -> None:
        steps.append(event["Step"])
        if event["Step"] == "setSecret":
            raise RuntimeError

    one: Desk = desk(on_rotate=rotate, attempts=2)
    one.rotate(A)

    assert steps == ["createSecret", "setSecret"] * 2
    assert one.told()[-1] == "RotationFailed"
    assert one.labels() == {"AWSCURRENT": V0, "AWSPENDING": A}


def test_a_rotation_has_succeeded_if_pending_is_current(desk: Callable[..., Desk]) -> None:
    """Not if the function said nothing: the labels tell."""
    one: Desk = desk(on_rotate=lambda _: None)

    one.rotate(A)

    assert one.told()[-1] == "RotationFailed"


@pytest.mark.parametrize("drops_pending", [True, False])
def test_pending_is_left_or_dropped_at_the_end(
    desk: Callable[..., Desk], *, drops_pending: bool
) -> None:
    one = desk(drops_pending=drops_pending)
    one.rotate(A)
    one.put(A, "made", "AWSPENDING")

    one.move("AWSCURRENT", A, V0)

    left = {} if drops_pending else {"AWSPENDING": A}
    assert one.labels() == {"AWSCURRENT": A, "AWSPREVIOUS": V0, **left}
    assert one.told()[-1] == "RotationSucceeded"


def test_a_rotation_that_shall_wait_is_only_tested(desk: Callable[..., Desk]) -> None:
    seen: list[tuple[str, str]] = []

    def rotate(event: dict[str, str]) -> None:
        value = one.value(VersionId=event["ClientRequestToken"], VersionStage="AWSPENDING")
        seen.append((event["Step"], value))

    one: Desk = desk(on_rotate=rotate)
    one.rotate(A, RotateImmediately=False)

    assert seen == [("testSecret", FIRST)]
    assert one.labels() == {"AWSCURRENT": V0}
    assert one.names() == [V0]


@pytest.mark.parametrize("action", ["put_secret_value", "update_secret"])
def test_a_value_stored_by_hand_abandons_the_rotation(one: Desk, action: str) -> None:
    one.rotate(A)
    one.put(A, "made", "AWSPENDING")

    getattr(one.client, action)(SecretId=one.ref, ClientRequestToken=B, SecretString="by hand")

    assert one.labels() == {"AWSCURRENT": B, "AWSPREVIOUS": V0}
    assert one.service.events[-1] == Event("RotationAbandoned", one.ref, A)
    one.rotate(C)


def test_a_value_stored_by_hand_drops_a_pending_that_was_left(one: Desk) -> None:
    """Recorded on AWS, outside of any rotation."""
    one.put(A, "made", "AWSPENDING")
    one.move("AWSCURRENT", A, V0)

    one.put(B, "by hand")

    assert one.labels() == {"AWSCURRENT": B, "AWSPREVIOUS": A}
    assert "RotationAbandoned" not in one.told()


def test_what_the_rotation_stores_does_not_abandon_it(one: Desk) -> None:
    one.rotate(A)

    one.put(A, "made", "AWSPENDING")
    one.put(B, "beside it", "X")

    assert one.labels()["AWSPENDING"] == A
    assert "RotationAbandoned" not in one.told()


def test_a_rotation_that_stores_current_at_once_has_succeeded(one: Desk) -> None:
    """As a function does that forgets VersionStages: nobody abandons its own rotation."""
    one.rotate(A)

    one.put(A, "untested")

    assert one.labels() == {"AWSCURRENT": A, "AWSPENDING": A, "AWSPREVIOUS": V0}
    assert one.told()[-1] == "RotationSucceeded"


def test_a_cancelled_rotation_leaves_its_labels(desk: Callable[..., Desk]) -> None:
    """And no further step is taken."""
    steps: list[str] = []

    def rotate(event: dict[str, str]) -> None:
        steps.append(event["Step"])
        one.client.cancel_rotate_secret(SecretId=one.ref)

    one: Desk = desk(on_rotate=rotate)
    with refused("InvalidRequestException"):
        one.client.cancel_rotate_secret(SecretId=one.ref)
    one.rotate(A)

    assert steps == ["createSecret"]
    assert one.labels() == {"AWSCURRENT": V0, "AWSPENDING": A}
    assert one.client.describe_secret(SecretId=one.ref)["RotationEnabled"] is False


@pytest.mark.parametrize("given", [{}, {"RotationToken": "x" * 36}])
def test_under_an_assumed_role_a_put_needs_the_rotation_token(
    desk: Callable[..., Desk], given: Any
) -> None:
    """UpdateSecretVersionStage takes none (ADR 2)."""
    one = desk(assumes_role=True)
    one.rotate(A)
    put: Any = {
        "SecretId": one.ref,
        "ClientRequestToken": A,
        "SecretString": "made",
        "VersionStages": ["AWSPENDING"],
    }
    right = one.service.event(one.ref, "createSecret")["RotationToken"]

    with one.unchanged(), refused("AccessDeniedException"):
        one.client.put_secret_value(**put, **given)
    one.client.put_secret_value(**put, RotationToken=right)
    one.move("AWSCURRENT", A, V0)

    assert one.value() == "made"


def test_a_person_needs_no_rotation_token(desk: Callable[..., Desk]) -> None:
    one = desk(assumes_role=True)
    one.rotate(A)

    one.put(B, "by hand")

    assert one.labels()["AWSCURRENT"] == B


def test_events_are_sent_for_labels_but_pending_and_previous(one: Desk) -> None:
    one.put(A, "made", "AWSPENDING", "X")
    one.move("AWSCURRENT", A, V0)

    sent = [(e.label, e.version_id) for e in one.service.events if e.name == "Secret Label Updated"]
    assert sent == [("AWSCURRENT", V0), ("X", A), ("AWSCURRENT", A)]


# ---------------------------------------------------------------------------- faults and the wire


def test_throttled_calls_have_no_effect(one: Desk) -> None:
    one.service.throttle(2)

    with one.unchanged():
        for _ in range(2):
            with refused("ThrottlingException"):
                one.put(A, "made")

    one.put(A, "made")
    assert one.value() == "made"


@pytest.mark.parametrize("status", [500, 503])
def test_failed_calls_have_no_effect(one: Desk, status: int) -> None:
    one.service.fail(1, status)

    with one.unchanged(), refused("InternalServiceError") as caught:
        one.put(A, "made")

    answer: Any = caught
    assert answer.value.response["ResponseMetadata"]["HTTPStatusCode"] == status


def test_stale_reads_show_what_was_before_the_last_change(one: Desk) -> None:
    """A put that changes nothing is no change."""
    one.put(A, "made")
    one.put(B, "newer")
    one.put(B, "newer")
    one.service.stale_reads(3)

    assert one.value() == "made"
    assert A in one.client.describe_secret(SecretId=one.ref)["VersionIdsToStages"]
    listed = one.client.list_secret_version_ids(SecretId=one.ref, IncludeDeprecated=True)
    assert [entry["VersionId"] for entry in listed["Versions"]] == [V0, A]
    assert one.value() == "newer"


def test_writes_are_never_stale(one: Desk) -> None:
    one.put(A, "made")
    one.service.stale_reads(9)

    with refused("InvalidParameterException"):
        one.move("AWSCURRENT", V0, V0)


def test_a_service_that_is_mended_has_no_fault_left(one: Desk) -> None:
    one.put(A, "made")
    one.service.throttle(1)
    one.service.fail(1)
    one.service.lose_replies(1)
    one.service.stale_reads(1)
    one.service.deny("GetSecretValue")

    one.service.mend()

    assert one.value() == "made"


def test_denied_actions_are_denied_until_they_are_not(one: Desk) -> None:
    one.service.deny("GetSecretValue", "PutSecretValue")
    with one.unchanged(), refused("AccessDeniedException"):
        one.put(A, "made")
    with refused("AccessDeniedException"):
        one.value()
    one.client.describe_secret(SecretId=one.ref)

    one.service.deny()

    assert one.value() == FIRST


def test_a_lost_reply_is_of_a_call_that_took_effect(one: Desk) -> None:
    one.service.lose_replies(1)

    with pytest.raises(ConnectionClosedError):
        one.put(A, "made")

    assert one.value() == "made"


def test_in_an_outage_there_is_no_answer_and_no_effect(one: Desk) -> None:
    with one.service.outage(), one.unchanged(), pytest.raises(ConnectionClosedError):
        one.put(A, "made")

    assert one.value() == FIRST


def test_an_action_that_is_not_there_is_named(one: Desk) -> None:
    with pytest.raises(ClientError, match=r"UnknownOperationException.*no GetResourcePolicy"):
        one.client.get_resource_policy(SecretId=one.ref)


def test_tags_are_kept_and_taken_off(one: Desk) -> None:
    """Any number of times; they make no version. A character that tags cannot have is refused."""
    tag: Any = {"Key": "keyturn:intent:a-1", "Value": "2030-01-01T00:00:00+00:00 AKIA"}
    for _ in range(2):
        one.client.tag_resource(SecretId=one.ref, Tags=[tag])
    assert one.client.describe_secret(SecretId=one.ref)["Tags"] == [tag]
    with pytest.raises(ClientError, match="InvalidParameterException"):
        one.client.tag_resource(SecretId=one.ref, Tags=[{"Key": "a", "Value": "{}"}])

    for _ in range(2):
        one.client.untag_resource(SecretId=one.ref, TagKeys=[tag["Key"]])

    assert one.client.describe_secret(SecretId=one.ref).get("Tags", []) == []
    assert one.value() == FIRST


def test_calls_are_remembered_with_who_made_them(one: Desk) -> None:
    one.service.calls.clear()
    one.value()
    one.raw("GetSecretValue", SecretId="nobody")

    assert [(call.action, call.caller, call.refused) for call in one.service.calls] == [
        ("GetSecretValue", "STRICTCLIENT", ""),
        ("GetSecretValue", "", "ResourceNotFoundException"),
    ]


def test_a_connection_serves_many_calls(one: Desk) -> None:
    line = http.client.HTTPConnection("127.0.0.1", one.service.port)
    headers = {"X-Amz-Target": "secretsmanager.DescribeSecret"}
    ports = set()

    for _ in range(3):
        line.request("POST", "/", json.dumps({"SecretId": one.ref}), headers)
        assert line.getresponse().read()
        ports.add(line.sock.getsockname()[1])
    line.close()

    assert len(ports) == 1


def test_nothing_shows_a_value(one: Desk) -> None:
    one.put(A, "Canary7-made")

    shown = [one.service.versions(one.ref), one.service.calls, one.service.events]

    assert "Canary7" not in repr(shown)


# ---------------------------------------------------------------------------- our adapter


def _staged(one: Desk, name: str) -> None:
    one.rotate(name)
    following = replace(one.store.current(one.ref).credential, secret=Sensitive(f"Canary7-{name}"))
    seen = one.store.snapshot(one.ref, RotationId(name))
    one.store.stage(one.ref, RotationId(name), following, seen)


def _calls(one: Desk) -> list[Callable[[], object]]:
    """Everything the adapter can do, for a rotation that is staged."""
    name = RotationId(A)
    seen = one.store.snapshot(one.ref, name)
    following = one.store.current(one.ref).credential
    return [
        lambda: one.store.snapshot(one.ref, name),
        lambda: one.store.current(one.ref),
        lambda: one.store.staged(one.ref, name),
        lambda: list(one.store.kept(one.ref)),
        lambda: one.store.stage(one.ref, name, following, seen),
        lambda: one.store.promote(one.ref, name, seen),
    ]


@pytest.mark.parametrize("fault", ["throttle", "fail"])
def test_a_throttled_or_failing_service_is_unreachable(one: Desk, fault: str) -> None:
    _staged(one, A)

    for call in _calls(one):
        getattr(one.service, fault)(1)
        with one.unchanged(), pytest.raises(Unreachable):
            call()


def test_a_promotion_is_not_given_up_for_one_throttled_call(one: Desk) -> None:
    """The SDK tries again; what it must not do is promote twice."""
    _staged(one, A)
    store = SecretsManager(one.another_client(tries=2))
    seen = store.snapshot(one.ref, RotationId(A))
    one.service.throttle(1)

    store.promote(one.ref, RotationId(A), seen)

    assert one.labels()["AWSCURRENT"] == A


def test_what_the_role_may_not_do_is_denied(one: Desk) -> None:
    _staged(one, A)
    calls = _calls(one)
    one.service.deny(
        "DescribeSecret",
        "GetSecretValue",
        "ListSecretVersionIds",
        "PutSecretValue",
        "UpdateSecretVersionStage",
    )

    for call in calls:
        with one.unchanged(), pytest.raises(Denied):
            call()


@pytest.mark.parametrize("stale", range(6))
def test_stale_reads_never_lead_over_somebody_elses_version(one: Desk, stale: int) -> None:
    """Whatever the reads of a finish step show, the service compares with what is true."""
    _staged(one, A)
    one.put(B, FIRST)
    one.service.stale_reads(stale)

    with one.unchanged(), pytest.raises(KeyturnError):
        _finish(one, RotationId(A))

    assert one.labels()["AWSCURRENT"] == B


def _finish(one: Desk, name: RotationId) -> None:
    """Do what the finish step asks of a store."""
    seen = one.store.snapshot(one.ref, name)
    one.store.staged(one.ref, name)
    one.store.promote(one.ref, name, seen)


def test_a_promotion_from_a_stale_snapshot_sees_who_was_faster(one: Desk) -> None:
    _staged(one, A)
    one.put(B, FIRST)
    one.service.stale_reads(1)
    seen = one.store.snapshot(one.ref, RotationId(A))

    with one.unchanged(), pytest.raises(Busy):
        one.store.promote(one.ref, RotationId(A), seen)


def test_a_stale_read_never_replaces_what_was_staged(one: Desk) -> None:
    """Create, again, from a state in which the first try was not seen."""
    _staged(one, A)
    seen = one.store.snapshot(one.ref, RotationId(A))
    one.service.stale_reads(9)
    assert one.store.staged(one.ref, RotationId(A)) is None
    other = replace(one.store.current(one.ref).credential, secret=Sensitive("Canary7-other"))

    with one.unchanged():
        one.store.stage(one.ref, RotationId(A), other, seen)


def test_a_rotation_under_an_assumed_role_passes_its_token_on(desk: Callable[..., Desk]) -> None:
    one = desk(assumes_role=True)
    with pytest.raises(Denied):
        _staged(one, A)

    event = one.service.event(one.ref, "createSecret")
    one.store = SecretsManager(one.client, rotation_token=Sensitive(event["RotationToken"]))
    _staged(one, A)
    one.store.promote(one.ref, RotationId(A), one.store.snapshot(one.ref, RotationId(A)))

    assert one.labels()["AWSCURRENT"] == A


def test_a_secret_deleted_in_the_middle_is_misconfigured(one: Desk) -> None:
    _staged(one, A)
    snapshot, current, staged, _, stage, promote = _calls(one)
    one.client.delete_secret(SecretId=one.ref)

    for call in (snapshot, current, staged, stage, promote):
        with one.unchanged(), pytest.raises(Misconfigured):
            call()


def test_an_answer_to_a_partial_arn_is_refused(one: Desk) -> None:
    with pytest.raises(Misconfigured, match="answered for"):
        one.store.current(SecretRef(one.ref.rpartition("-")[0]))


# ---------------------------------------------------------------------------- whole rotations


class Function:
    """A rotation function: our event reader, core and adapter, for a database in memory."""

    def __init__(self, one: Desk) -> None:
        self._one = one
        self._numbers = itertools.count(1)
        self.database = MemoryDatabase(World(), {"app": Account("Canary7-first")})

    def __call__(self, event: dict[str, str]) -> None:
        asked = rotation_event(event)
        target = SingleUser(self.database, self._made)
        Rotation(
            asked.ref,
            asked.rotation_id,
            store=SecretsManager(self._one.client, rotation_token=asked.rotation_token),
            targets=lambda _: target,
            clock=self._one.clock,
        ).perform(asked.step)

    def _made(self) -> Sensitive:
        return Sensitive(f"Canary7-{next(self._numbers)}")

    def serves(self) -> bool:
        """Tell whether what readers get is what the database accepts."""
        return self.database.would_accept(self._one.store.current(self._one.ref).credential)


@pytest.mark.parametrize("drops_pending", [True, False])
@pytest.mark.parametrize("assumes_role", [True, False])
def test_rotations_that_the_service_drives_follow_each_other(
    desk: Callable[..., Desk], *, assumes_role: bool, drops_pending: bool
) -> None:
    hired: list[Function] = []
    one = desk(
        on_rotate=lambda event: hired[-1](event),  # noqa: PLW0108  # it is hired later
        assumes_role=assumes_role,
        drops_pending=drops_pending,
    )
    hired.append(Function(one))

    for name in (A, B, C):
        one.rotate(name)

        assert one.labels()["AWSCURRENT"] == name
        assert hired[0].serves()
    assert one.told().count("RotationSucceeded") == 3


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("fault", ["throttle", "fail", "stale_reads", "lose_replies"])
def test_a_step_hurt_by_the_service_is_mended_by_going_through_them_again(
    one: Desk, step: str, fault: str
) -> None:
    """Stale reads tell it less than is true; it then stops, or does what can be repeated."""
    function = Function(one)
    one.rotate(A)
    events = [one.service.event(one.ref, each) for each in STEPS]
    for event in events[: STEPS.index(step)]:
        function(event)

    getattr(one.service, fault)(3)
    with suppress(KeyturnError):
        function(events[STEPS.index(step)])
    one.service.mend()
    for event in events:
        function(event)

    assert one.labels()["AWSCURRENT"] == A
    assert function.serves()


def test_a_refused_promotion_with_a_stale_second_look_may_be_tried_again(one: Desk) -> None:
    """The SDK repeats a call whose reply was lost; that is refused; the second look is old."""
    _staged(one, A)
    seen = one.store.snapshot(one.ref, RotationId(A))
    one.store.promote(one.ref, RotationId(A), seen)
    one.service.stale_reads(1)

    with pytest.raises(Retryable):
        one.store.promote(one.ref, RotationId(A), seen)


# ---------------------------------------------------------------------------- by hand


def test_what_is_done_by_hand_is_no_call_and_meets_no_fault(one: Desk) -> None:
    one.service.fail(1)
    calls = len(one.service.calls)

    one.service.operate(
        "RotateSecret", SecretId=one.ref, ClientRequestToken=A, RotationLambdaARN=FUNCTION
    )

    assert one.service.labels(one.ref) == {"AWSCURRENT": V0, "AWSPENDING": A}
    assert len(one.service.calls) == calls


def test_what_is_done_by_hand_is_refused_by_the_same_rules(one: Desk) -> None:
    with pytest.raises(Refusal, match="already in use"):
        one.service.operate(
            "PutSecretValue", SecretId=one.ref, ClientRequestToken=V0, SecretString="other"
        )

    assert [version.version_id for version in one.service.versions(one.ref)] == [V0]
