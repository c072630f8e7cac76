"""Steps in any order, too early or too late, at the strict store: only valid states come of it.

`tests/unit/test_rotation.py` has the same for the core, on stores of both shapes.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import suppress

import boto3
import pytest
from botocore.config import Config

from keyturn.errors import Busy, KeyturnError, NotYetAccepted
from keyturn.model import Credential, RotationId, SecretRef, Sensitive, Step
from keyturn.ports import Target
from keyturn.rotation import Rotation
from keyturn.stores.secrets_manager import SecretsManager
from keyturn.strategies import AlternatingUsers, SingleUser, pair_by_suffix
from keyturn.testing.bench import Secret
from keyturn.testing.bench_aws import AwsVault
from keyturn.testing.fakes import Account, FakeClock, MemoryDatabase, World

FIRST, ADMIN = "Canary7-first", "Canary7-admin"
WRITES = {"PutSecretValue", "UpdateSecretVersionStage"}

_numbers = itertools.count(1)


class Desk:
    """The strict store, and as many secrets in it as are asked for."""

    def __init__(self, vault: AwsVault) -> None:
        self.service = service = vault.store
        self.vault = vault
        self.store = SecretsManager(
            boto3.client(
                "secretsmanager",
                **service.settings(),
                config=Config(retries={"mode": "standard", "total_max_attempts": 1}),
            )
        )


class Scene:
    """A secret, and a database of its own."""

    def __init__(self, desk: Desk, strategy: str) -> None:
        self._desk = desk
        self._strategy = strategy
        self.world = World()
        self._database = MemoryDatabase(
            self.world, {"app": Account(FIRST), "admin": Account(ADMIN)}
        )
        self.secret: Secret = desk.vault.keep(json.dumps({"username": "app", "password": FIRST}))

    def begin(self) -> Rotation:
        """Begin a rotation, as the service does."""
        rotation_id = RotationId(f"{next(_numbers):0>32}")
        self.secret.begin(rotation_id)
        return Rotation(
            SecretRef(self.secret.ref),
            rotation_id,
            store=self._desk.store,
            targets=lambda _: self._target(),
            clock=FakeClock(),
        )

    def state(self) -> object:
        """Return what a refusal must leave alone: versions with labels, and how often was set."""
        held = self._desk.service.versions(self.secret.ref)
        return held, self.world.calls.count("database.set")

    def accepts(self, text: str) -> bool:
        """Tell whether a reader of this value gets in."""
        value = json.loads(text)
        return self._database.would_accept(
            Credential(value["username"], Sensitive(value["password"]))
        )

    def _target(self) -> Target:
        def fresh() -> Sensitive:
            return Sensitive(f"Canary7-made-{next(_numbers)}")

        if self._strategy == "single":
            return SingleUser(self._database, fresh)
        admin = Credential("admin", Sensitive(ADMIN))
        return AlternatingUsers(self._database, fresh, pair_by_suffix, lambda: admin)


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    with AwsVault() as vault:
        yield Desk(vault)


@pytest.fixture(params=["single", "alternating"])
def scene(desk: Desk, request: pytest.FixtureRequest) -> Scene:
    return Scene(desk, request.param)


@pytest.mark.parametrize("strategy", ["single", "alternating"])
def test_all_256_orders_of_four_steps_end_in_a_valid_state(desk: Desk, strategy: str) -> None:
    """After every step: nobody is locked out, and current with two slots is accepted."""
    for order in itertools.product(Step, repeat=4):
        desk.vault.clear()
        scene = Scene(desk, strategy)
        rotation = scene.begin()
        for step in order:
            with suppress(KeyturnError):
                rotation.perform(step)
            assert any(map(scene.accepts, scene.secret.kept())), order
            assert scene.accepts(scene.secret.current()) or strategy == "single", order
        is_finished = scene.secret.is_current(rotation.rotation_id)
        assert is_finished is _holds_in_order(order, Step.CREATE, Step.SET, Step.FINISH), order
        assert scene.accepts(scene.secret.current()) or not is_finished, order


def _holds_in_order(order: tuple[Step, ...], *wanted: Step) -> bool:
    left = iter(order)
    return all(step in left for step in wanted)


def test_a_finish_before_create_is_refused(scene: Scene) -> None:
    """The service has made the version, empty; its own rules would let current move there."""
    rotation = scene.begin()
    before = scene.state()

    with pytest.raises(Busy, match="no value yet"):
        rotation.perform(Step.FINISH)

    assert scene.state() == before


@pytest.mark.parametrize("step", [Step.TEST, Step.FINISH])
def test_a_version_that_was_not_set_is_refused(scene: Scene, step: Step) -> None:
    """P4: current never names what has not passed its test."""
    rotation = scene.begin()
    rotation.perform(Step.CREATE)
    before = scene.state()

    with pytest.raises(NotYetAccepted):
        rotation.perform(step)

    assert scene.state() == before


@pytest.mark.parametrize("has_staged", [True, False])
def test_a_token_that_was_overtaken_changes_nothing(
    desk: Desk, scene: Scene, *, has_staged: bool
) -> None:
    old = scene.begin()
    if has_staged:
        old.perform(Step.CREATE)
    scene.begin().run()
    before, calls = scene.state(), len(desk.service.calls)

    for step in Step:
        with pytest.raises(Busy):
            old.perform(step)

    assert scene.state() == before
    assert not WRITES & {call.action for call in desk.service.calls[calls:]}
