"""Google Secret Manager keeps the promises of every store: the laws of the AWS-shaped one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from keyturn.local.secret_manager import LocalSecretManager
from keyturn.model import RotationId, SecretRef
from keyturn.stores.secret_manager import SecretManager
from keyturn.testing.contracts import FIRST, FollowedStoreContract, Shelf

_numbers = itertools.count(1)
PARENT = "projects/123456789"
REPLICATED: dict[str, Any] = {"replication": {"automatic": {}}}


class Utc:
    """The real time."""

    def now(self) -> datetime:
        return datetime.now(UTC)


class Room:
    """One secret in the local Secret Manager, and its companion."""

    def __init__(self, google: LocalSecretManager, value: str = FIRST, **how: Any) -> None:
        self.google = google
        self.client = google.client()
        name = f"s{next(_numbers)}"
        self.ref = SecretRef(f"{PARENT}/secrets/{name}")
        for each in (name, f"{name}-pending"):
            self.client.create_secret(parent=PARENT, secret_id=each, secret=REPLICATED)
        self.put(value.encode())
        self.waits: list[float] = []
        self.store = self.make_store(**how)

    def make_store(self, **how: Any) -> SecretManager:
        """Make another worker's store."""
        return SecretManager(self.client, clock=Utc(), pause=self.pause, **how)

    def pause(self, wait_s: float) -> bool:
        self.waits.append(wait_s)
        return True

    def put(self, data: bytes) -> None:
        self.client.add_secret_version(parent=self.ref, payload={"data": data})

    def begin(self, name: RotationId) -> None:
        """Nothing is to be begun: an event is all there is."""

    @property
    def annotations(self) -> dict[str, str]:
        return dict(self.google.vault.look(f"{self.ref}-pending").secret.annotations)

    def annotate(self, annotations: Mapping[str, str]) -> None:
        self.client.update_secret(
            secret={"name": f"{self.ref}-pending", "annotations": dict(annotations)},
            update_mask={"paths": ["annotations"]},
        )

    def abandon(self) -> None:
        """Do as `gcloud secrets update --remove-annotations=keyturn-pending` does."""
        self.annotate({k: v for k, v in self.annotations.items() if k != "keyturn-pending"})

    def labels(self) -> Mapping[str, str]:
        slots = ("current", "pending", "previous")
        said = {slot: self.annotations.get(f"keyturn-{slot}", "") for slot in slots}
        named = {slot: text.partition(":")[2] for slot, text in said.items() if text}
        return {"current": "1", **named}

    def readers_get(self, which: str = "latest") -> str:
        return self.google.read(f"{self.ref}/versions/{which}")

    @contextmanager
    def lose_reply(self) -> Iterator[None]:
        before = len(self.google.calls)
        self.google.lose_reply()
        yield
        assert len(self.google.calls) > before, "nothing was asked"

    def shelf(self) -> Shelf:
        return Shelf(
            self.store,
            self.ref,
            self.begin,
            self.abandon,
            self.readers_get,
            self.labels,
            self.google.outage,
            self.lose_reply,
        )


@pytest.fixture(scope="module")
def google() -> Iterator[LocalSecretManager]:
    with LocalSecretManager() as running:
        yield running


@pytest.fixture
def room(google: LocalSecretManager) -> Callable[..., Room]:
    def furnish(value: str = FIRST, **how: Any) -> Room:
        return Room(google, value, **how)

    return furnish


class TestSecretManager(FollowedStoreContract):
    """The staged shape."""

    @pytest.fixture
    def shelf(self, room: Callable[..., Room]) -> Shelf:
        return room().shelf()


class TestSecretManagerWithAliases(FollowedStoreContract):
    """With aliases, and old versions destroyed."""

    @pytest.fixture
    def shelf(self, room: Callable[..., Room]) -> Shelf:
        return room(has_aliases=True, keep=5).shelf()
