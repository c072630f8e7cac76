"""A secret whose key an HTTP API makes, on a strict server: what several tests share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

from keyturn import plan
from keyturn.http_api import HttpApi
from keyturn.minted import MintedKeys, Place
from keyturn.model import (
    Credential,
    RotationId,
    SecretRef,
    Sensitive,
    Snapshot,
    Surroundings,
    Version,
)
from keyturn.rotation import Rotation
from keyturn.targets.http_api_key import HttpApiKeys, issuer
from keyturn.testing.contracts import LONG_S
from keyturn.testing.fakes import REF, Crash, LabelledStore, World
from keyturn.testing.strict_api import (
    ADMIN_ID,
    ADMIN_SECRET,
    ApiKey,
    Elasticsearch,
    Fault,
    Shape,
    StrictApi,
)
from keyturn.wiring import plan_kinds

ROOT = Path(__file__).parents[1]
LATE = timedelta(seconds=LONG_S)

PAGE = (ROOT / "docs" / "http-api-keys.md").read_text(encoding="utf-8")
TOY = PAGE[PAGE.index("version: 1") : PAGE.index("```", PAGE.index("version: 1"))]
"""The example of the page."""
NAMELESS = TOY.replace('"{name}"', "nameless")

BARE = """
version: 1
secrets:
  prod/shop/api-key:
    strategy: auto
    admin: prod/shop/api-admin
    http:
      hosts: [api.example.com]
      headers: {Authorization: "Bearer {admin_secret}"}
      create:
        request: POST https://api.example.com/keys
        json: {}
        id: /id
        secret: /value
      verify:
        request: GET https://api.example.com/whoami
        headers: {Authorization: "Bearer {secret}"}
      delete:
        request: DELETE https://api.example.com/keys/{id}
"""

REPEATABLE = BARE.replace(
    "json: {}",
    'headers: {Idempotency-Key: "{rotation}"}\n        json: {}\n        repeatable: true',
)


def declared(text: str, api: StrictApi) -> HttpApi:
    """Read the first secret's API out of a plan, with the server in the place of its host."""
    [secret] = plan.parse(text, plan_kinds(), source="plan").secrets.values()
    assert secret.http is not None
    for host in secret.http.hosts:
        text = text.replace(f"https://{host}", f"http://{api.host}")
        text = text.replace(f"[{host}]", f'["{api.host}"]').replace(
            f'["{host}"]', f'["{api.host}"]'
        )
    [secret] = plan.parse(text, plan_kinds(), source="plan").secrets.values()
    assert secret.http is not None
    return secret.http


def recipe(name: str) -> str:
    return (ROOT / "docs" / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")


def admin() -> Credential:
    return Credential(ADMIN_ID, Sensitive(ADMIN_SECRET))


def credential(api: StrictApi, key: ApiKey) -> Credential:
    stored = Sensitive(api.shape.stored(key))
    return Credential(key.key_id, stored, {"engine": "http-api-key"})


class Kill:
    """A crash at the call of some number."""

    def __init__(self, number: int) -> None:
        self._left = number
        self.has_happened = False

    def count(self) -> None:
        """Count one call."""
        self._left -= 1
        if self._left == 0:
            self.has_happened = True
            raise Crash


class Store(LabelledStore):
    """Remembers what was promoted."""

    def __init__(self, world: World, first: Credential) -> None:
        super().__init__(world, first)
        self.promoted = [self.serves()]

    def promote(self, ref: SecretRef, rotation_id: RotationId, seen: Snapshot) -> None:
        before = self.serves()
        try:
            super().promote(ref, rotation_id, seen)
        finally:
            if self.serves() != before:
                self.promoted.append(self.serves())


class Shop:
    """A secret in a store, the API that makes its keys, and its rotations."""

    def __init__(
        self, stack: ExitStack, shape: Shape, text: str, *, has_foreign: bool = True
    ) -> None:
        self.world = World()
        self.api = stack.enter_context(StrictApi(shape, self.world.clock.now))
        self.declared = declared(text, self.api)
        self.foreign = self.api.make_key("by hand", LATE) if has_foreign else None
        self.first = self.api.make_key("first", LATE)
        self.store = Store(self.world, credential(self.api, self.first))
        self.on_request: Callable[[], None] = lambda: None

    def issuer(self) -> HttpApiKeys:
        def remaining_s() -> float:
            self.on_request()
            return 60.0

        return issuer(Surroundings(remaining_s, declared=self.declared, admin=admin))

    def resume(self, name: str) -> Rotation:
        place = Place(self.store, REF, RotationId(name))
        target = MintedKeys(self.issuer(), place, self.world.clock, self._pause)
        return Rotation(
            REF,
            RotationId(name),
            store=self.store,
            targets=lambda _: target,
            clock=self.world.clock,
        )

    def rotation(self, name: str) -> Rotation:
        self.store.begin(RotationId(name))
        return self.resume(name)

    def run_late(self, name: str) -> None:
        self.world.clock.advance(LATE)
        self.rotation(name).run()

    def alive(self) -> set[str]:
        return {key.key_id for key in self.api.alive() if key is not self.foreign}

    def unlisted(self) -> set[str]:
        """Return the first key, where lists show only names that begin as ours do."""
        is_filtered = isinstance(self.api.shape, Elasticsearch)
        return {self.first.key_id} if is_filtered else set()

    def serves(self) -> str:
        return self.store.serves().credential.principal

    def current_works(self) -> bool:
        current = self.store.serves().credential
        return self.api.would_accept(current.principal, current.secret)

    def promoted(self) -> list[Version]:
        """Return the versions that were current, in order."""
        return self.store.promoted

    def break_at(self, number: int, fault: Fault) -> None:
        """Break the request of that number, from now on."""
        self.api.fault = lambda asked, _: fault if asked == number else Fault.NONE

    def crash_at(self, where: str, number: int) -> Kill:
        """Die before that request, or before or after that call of the store, from now on."""
        kill = Kill(number)
        if where == "request":
            self.on_request = kill.count
        elif where == "before":
            self.world.before = lambda *_: kill.count()
        else:
            self.world.after = lambda *_: kill.count()
        return kill

    def mend(self) -> None:
        """Break nothing any more."""
        self.api.fault = lambda *_: Fault.NONE
        self.on_request = lambda: None
        self.world.before = self.world.after = lambda *_: None

    def _pause(self, seconds: float) -> bool:
        self.world.clock.advance(timedelta(seconds=seconds))
        return True
