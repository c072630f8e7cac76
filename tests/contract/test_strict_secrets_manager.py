"""Secrets Manager keeps the promises of every store before the strict service, too.

The same contract as in `test_secrets_manager`, against a second opinion that shares nothing with
the first, in every way in which AWS may answer.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config

from keyturn.model import RotationId, SecretRef
from keyturn.stores.secrets_manager import SecretsManager
from keyturn.testing.contracts import FIRST, FollowedStoreContract, Shelf
from keyturn.testing.fakes import FakeClock
from keyturn.testing.strict_secrets_manager import Mismatch, StrictSecretsManager, Undocumented

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

FUNCTION = "arn:aws:lambda:eu-west-1:123456789012:function:rotate"

_ONE_TRY = Config(retries={"mode": "standard", "total_max_attempts": 1})
_TRIES = 2
_numbers = itertools.count(1)


class House:
    """One strict service and its clients, for many rooms: clients are slow to make."""

    def __init__(
        self, undocumented: Undocumented, stack: ExitStack, session: boto3.Session
    ) -> None:
        self.clock = FakeClock()
        self.service = stack.enter_context(
            StrictSecretsManager(clock=self.clock, undocumented=undocumented)
        )
        self.readers: SecretsManagerClient = self._client(session)
        self.ours: SecretsManagerClient = self._client(session)
        repeats: Any = _again_at_once  # the stubs allow no answer
        self.ours.meta.events.register("needs-retry.secrets-manager", repeats)

    def _client(self, session: boto3.Session) -> SecretsManagerClient:
        return session.client("secretsmanager", **self.service.settings(), config=_ONE_TRY)


class Room:
    """One secret in the strict service, reached by readers and by us."""

    def __init__(self, house: House) -> None:
        self._service = house.service
        self._clock = house.clock
        self._direct = house.readers
        name = f"test/strict/{next(_numbers)}"
        made = self._direct.create_secret(Name=name, SecretString=FIRST)
        self._ref = SecretRef(made["ARN"])
        self._store = SecretsManager(house.ours)

    def shelf(self) -> Shelf:
        return Shelf(
            self._store,
            self._ref,
            self._begin,
            self._abandon,
            self._readers_get,
            self._labels,
            self._service.outage,
            self._lose_reply,
        )

    def _begin(self, name: RotationId) -> None:
        self._clock.advance(timedelta(hours=4))
        self._direct.rotate_secret(
            SecretId=self._ref, ClientRequestToken=name, RotationLambdaARN=FUNCTION
        )

    def _abandon(self) -> None:
        self._direct.cancel_rotate_secret(SecretId=self._ref)
        self._direct.update_secret_version_stage(
            SecretId=self._ref,
            VersionStage="AWSPENDING",
            RemoveFromVersionId=self._labels()["pending"],
        )

    def _readers_get(self) -> str:
        return self._direct.get_secret_value(SecretId=self._ref)["SecretString"]

    def _labels(self) -> Mapping[str, str]:
        """Return where the labels lie, not what an API says of them."""
        return {
            label.removeprefix("AWS").lower(): version
            for label, version in self._service.labels(self._ref).items()
        }

    @contextmanager
    def _lose_reply(self) -> Iterator[None]:
        before = len(self._service.calls)
        self._service.lose_replies(1)
        yield
        assert len(self._service.calls) > before + 1, "nobody asked again"


def _again_at_once(
    attempts: int, caught_exception: Exception | None = None, **_: object
) -> float | None:
    """Repeat a call once after a lost connection, as the SDK does, without its wait."""
    return 0.0 if caught_exception is not None and attempts < _TRIES else None


@pytest.fixture(scope="module")
def house() -> Iterator[Callable[[Undocumented], House]]:
    session = boto3.Session()
    with ExitStack() as stack:
        yield lru_cache(lambda undocumented: House(undocumented, stack, session))


_WAYS = [
    Undocumented(mismatch, drops_pending=drops_pending, page_size=1 if drops_pending else 100)
    for mismatch, drops_pending in itertools.product(Mismatch, [False, True])
]


@pytest.fixture(
    params=_WAYS,
    ids=lambda way: f"{way.mismatch.name.lower()}-{'dropped' if way.drops_pending else 'left'}",
)
def way(request: pytest.FixtureRequest) -> Undocumented:
    found: Undocumented = request.param
    return found


@pytest.fixture
def room(house: Callable[[Undocumented], House], way: Undocumented) -> Room:
    return Room(house(way))


class TestStrictSecretsManager(FollowedStoreContract):
    """The labelled shape, as strictly as the service has it."""

    @pytest.fixture
    def shelf(self, room: Room) -> Shelf:
        return room.shelf()


def test_the_end_of_a_rotation_leaves_or_drops_pending(room: Room, way: Undocumented) -> None:
    """The parameter does what it says: the contract has met both."""
    shelf = room.shelf()
    token = RotationId("a" * 32)
    shelf.begin(token)
    seen = shelf.store.snapshot(shelf.ref, token)
    shelf.store.stage(shelf.ref, token, shelf.store.current(shelf.ref).credential, seen)

    shelf.store.promote(shelf.ref, token, shelf.store.snapshot(shelf.ref, token))

    assert ("pending" in shelf.labels()) is not way.drops_pending
