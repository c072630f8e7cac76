"""Secrets Manager keeps the promises of every store, over the real wire."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config

from clouds import begin_rotation
from keyturn.errors import Busy, KeyturnError, Misconfigured
from keyturn.local.aws import LocalAws
from keyturn.model import RotationId, SecretRef, Sensitive, Snapshot
from keyturn.stores.secrets_manager import SecretsManager, SecretsManagerValues
from keyturn.testing.contracts import (
    FIRST,
    FollowedStoreContract,
    Shelf,
    ValueStoreContract,
    rotation_id,
)
from keyturn.testing.faults import Moment, Proxy, Verdict

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

_numbers = itertools.count(1)

_values = itertools.count(1)


class Room:
    """One secret in the local AWS, reached directly by readers and through a proxy by us."""

    def __init__(self, aws: LocalAws, proxy: Proxy, value: str = FIRST) -> None:
        self._proxy = proxy
        self.direct: SecretsManagerClient = boto3.client("secretsmanager", **aws.settings())
        through: Any = {**aws.settings(), "endpoint_url": f"http://127.0.0.1:{proxy.port}"}
        self.client: SecretsManagerClient = boto3.client(
            "secretsmanager",
            **through,
            config=Config(retries={"mode": "standard", "total_max_attempts": 2}),
        )
        made = self.direct.create_secret(
            Name=f"test/{os.getpid()}/{next(_numbers)}", SecretString=value
        )
        self.ref = SecretRef(made["ARN"])
        self.store = SecretsManager(self.client)

    def begin(self, name: RotationId) -> None:
        begin_rotation(self.ref, name)

    def abandon(self) -> None:
        pending = self.labels()["pending"]
        self.direct.update_secret_version_stage(
            SecretId=self.ref, VersionStage="AWSPENDING", RemoveFromVersionId=pending
        )

    def labels(self) -> Mapping[str, str]:
        described = self.direct.describe_secret(SecretId=self.ref)["VersionIdsToStages"]
        return {
            label.removeprefix("AWS").lower(): version
            for version, labels in described.items()
            for label in labels
        }

    def readers_get(self) -> str:
        got = self.direct.get_secret_value(SecretId=self.ref, VersionStage="AWSCURRENT")
        assert (
            got["SecretString"] == self.direct.get_secret_value(SecretId=self.ref)["SecretString"]
        )
        return got["SecretString"]

    @contextmanager
    def lose_reply(self) -> Iterator[None]:
        def lose_the_first(number: int, moment: Moment) -> Verdict:
            is_lost = number == 1 and moment is Moment.AFTER
            return Verdict.CUT if is_lost else Verdict.PASS

        self._proxy.reset(lose_the_first)
        yield
        assert self._proxy.exchanges > 1, "nobody asked again"
        self._proxy.reset()

    def shelf(self) -> Shelf:
        return Shelf(
            self.store,
            self.ref,
            self.begin,
            self.abandon,
            self.readers_get,
            self.labels,
            self._proxy.outage,
            self.lose_reply,
        )


@pytest.fixture
def room(aws: LocalAws) -> Iterator[Callable[..., Room]]:
    port = int(aws.endpoint_url.rsplit(":", 1)[1])
    with Proxy(port) as proxy:
        yield lambda value=FIRST: Room(aws, proxy, value)


class TestSecretsManagerValues(ValueStoreContract):
    @pytest.fixture
    def unused(self) -> SecretRef:
        return SecretRef(f"made-{os.getpid()}-{next(_values)}")

    @pytest.fixture
    def values(self, aws: LocalAws) -> SecretsManagerValues:
        return SecretsManagerValues(boto3.client("secretsmanager", **aws.settings()))


class TestSecretsManager(FollowedStoreContract):
    """The labelled shape."""

    @pytest.fixture
    def shelf(self, room: Callable[..., Room]) -> Shelf:
        return room().shelf()


# ---------------------------------------------------------------------------- only here


def stage(store: SecretsManager, ref: SecretRef) -> None:
    seen = store.snapshot(ref, rotation_id("a"))
    store.stage(ref, rotation_id("a"), store.current(ref).credential, seen)


def test_the_rotation_token_goes_where_the_api_takes_one(room: Callable[..., Room]) -> None:
    """Cross-account rotation is refused without it; none of the official templates passes it."""
    one, token = room(), "Canary7-token".ljust(36, "-")
    store = SecretsManager(one.client, rotation_token=Sensitive(token))
    sent: dict[str, Any] = {}

    def remember(params: Any, model: Any, **_: object) -> None:
        sent[model.name] = json.loads(params["body"]).get("RotationToken")

    one.client.meta.events.register("before-call.secrets-manager", remember)
    one.begin(rotation_id("a"))
    stage(store, one.ref)
    store.promote(one.ref, rotation_id("a"), store.snapshot(one.ref, rotation_id("a")))

    with_token = {name for name, value in sent.items() if value == token}
    assert with_token == {"PutSecretValue"}
    assert sent.keys() > with_token


@pytest.mark.parametrize(
    "value",
    [
        *["", "null", "3", "[]", '"x"', "\ufeff{}", "{", "{}", "[" * 10_000, '{"a":' * 10_000],
        '{"username": 1, "password": "x"}',
        '{"username": "a", "username": "b", "password": "x"}',
    ],
    ids=lambda value: value[:12],
)
def test_a_value_that_is_no_credential_is_misconfigured(
    room: Callable[..., Room], value: str
) -> None:
    one = room(value or " ")

    with pytest.raises(Misconfigured, match="the value"):
        one.store.current(one.ref)


def test_a_binary_value_is_named_as_such(room: Callable[..., Room]) -> None:
    one = room()
    one.direct.put_secret_value(SecretId=one.ref, SecretBinary=b"Canary7-binary")

    with pytest.raises(Misconfigured, match="binary") as caught:
        one.store.current(one.ref)

    assert "Canary7" not in str(caught.value)


def test_versions_that_are_no_credentials_are_passed_over(room: Callable[..., Room]) -> None:
    one = room()
    one.direct.put_secret_value(SecretId=one.ref, SecretString="not a credential")
    one.direct.put_secret_value(SecretId=one.ref, SecretString=FIRST)

    assert [kept.credential.document for kept in one.store.kept(one.ref)] == [Sensitive(FIRST)] * 2


def test_a_secret_that_is_gone_or_going_is_named(room: Callable[..., Room]) -> None:
    one = room()
    gone = SecretRef(one.ref[:-6] + "zzzzzz")
    one.direct.delete_secret(SecretId=one.ref)

    with pytest.raises(Misconfigured, match="ResourceNotFoundException"):
        one.store.current(gone)
    with pytest.raises(Misconfigured):
        one.store.current(one.ref)
    with pytest.raises(Misconfigured):
        one.store.snapshot(one.ref, rotation_id("a"))


def test_an_answer_for_another_secret_is_refused(room: Callable[..., Room]) -> None:
    """A partial ARN may resolve to another secret than the one that was authorised."""
    one = room()
    partial = SecretRef(one.ref.rpartition("-")[0])
    try:
        answered = one.direct.get_secret_value(SecretId=partial)["ARN"]
    except one.direct.exceptions.ResourceNotFoundException:
        pytest.skip("this cloud resolves no partial ARNs")

    assert answered == one.ref
    with pytest.raises(Misconfigured, match="answered for"):
        one.store.current(partial)


def test_a_person_who_writes_in_the_middle_wins(room: Callable[..., Room]) -> None:
    """A manual PutSecretValue moves current and drops pending: this rotation is over."""
    one = room()
    one.begin(rotation_id("a"))
    stage(one.store, one.ref)
    seen = one.store.snapshot(one.ref, rotation_id("a"))
    one.direct.put_secret_value(SecretId=one.ref, SecretString=FIRST)
    before = one.labels()

    with pytest.raises(Busy):
        one.store.promote(one.ref, rotation_id("a"), seen)
    assert one.labels() == before


def test_an_error_names_action_code_and_request(room: Callable[..., Room]) -> None:
    one = room()

    with pytest.raises(
        KeyturnError, match=r"DescribeSecret answered ResourceNotFoundException \(request"
    ):
        one.store.snapshot(SecretRef(one.ref + "x"), rotation_id("a"))


def test_the_snapshot_does_not_show_a_pending_that_is_current(room: Callable[..., Room]) -> None:
    """The service may leave both labels on one version; users report it (templates issue 168)."""
    one = room()
    one.begin(rotation_id("a"))
    stage(one.store, one.ref)
    one.store.promote(one.ref, rotation_id("a"), one.store.snapshot(one.ref, rotation_id("a")))

    assert one.store.snapshot(one.ref, rotation_id("a")) == Snapshot(rotation_id("a"), None)
    assert one.labels()["pending"] == rotation_id("a")
