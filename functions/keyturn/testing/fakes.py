"""In-memory worlds that fail on demand.

Every external call of the fakes goes through `World.call`, so that a test can count calls, stop
the process before or after any of them, lose a reply, or let another worker run there.

    World             counts and interrupts
    LabelledStore     a `SecretStore` with labels on immutable versions, as AWS has them
    StagedStore       a `SecretStore` without labels, whose newest version is what readers see
    MemoryDatabase    a `PasswordEngine` with logins, owners and memberships
    MemoryPlatform    an `Authority` over one of its logins, which takes its time
    MemoryIssuer      a `KeyIssuer` whose lists are late, and whose keys are refused at first
    MemoryConsumer    a `Consumer` that takes its time, never follows, or goes back
    MemoryNotifier    a `Notifier` that keeps what it was sent
    MemoryDestination a `Destination` that remembers whatever it has held
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TypeVar

from keyturn.errors import (
    Busy,
    Denied,
    Drifted,
    KeyturnError,
    Misconfigured,
    NotYetAccepted,
    Unreachable,
)
from keyturn.model import (
    Alert,
    Attempt,
    Credential,
    Intent,
    IssuedKey,
    RotationId,
    SecretRef,
    Sensitive,
    Snapshot,
    Trace,
    Version,
)
from keyturn.ports import Held, Pickup, Sight, Standing

T = TypeVar("T")

REF = SecretRef("fake/secret")


class Crash(BaseException):
    """The process died. Not an Exception: no handler may swallow it."""


class Postponed(BaseException):
    """Raised by an `Interruption` before a write: its effect comes later, by `World.land`."""


class FakeClock:
    """A `Clock` that stands still until told."""

    def __init__(self) -> None:
        self._now = datetime(2030, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        """See `Clock.now`."""
        return self._now

    def advance(self, by: timedelta) -> None:
        """Let time pass."""
        self._now += by


Interruption = Callable[[int, str], None]
"""Gets the number of a call (from 1) and its name; may raise, or let somebody else run."""


def _carry_on(number: int, name: str) -> None:
    del number, name


@dataclass
class World:
    """What the fakes share: a clock, a count of calls, and where they are interrupted."""

    clock: FakeClock = field(default_factory=FakeClock)
    before: Interruption = _carry_on
    after: Interruption = _carry_on
    calls: list[str] = field(default_factory=list)
    in_flight: list[tuple[str, Callable[[], object]]] = field(default_factory=list)

    def write(self, name: str, effect: Callable[[], T]) -> T:
        """Stand for one external call whose effect may come late."""
        try:
            with self.call(name):
                return effect()
        except Postponed:
            self.in_flight.append((name, effect))
            raise Unreachable("no answer", remedy="") from None

    def land(self) -> None:
        """Let come what is under way; nobody hears what it is answered."""
        effects, self.in_flight = self.in_flight, []
        for _, effect in effects:
            with suppress(KeyturnError):
                effect()

    @contextmanager
    def call(self, name: str) -> Iterator[None]:
        """Stand for one external call."""
        self.calls.append(name)
        number = len(self.calls)
        self.before(number, name)
        yield
        self.after(number, name)


class _Intents:
    """What makes a store a `KeyStore`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._intents: dict[str, Intent] = {}

    def intents(self, ref: SecretRef) -> list[Intent]:
        """See `KeyStore.intents`."""
        del ref
        with self._world.call("store.intents"):
            return list(self._intents.values())

    def declare(self, ref: SecretRef, intent: Intent) -> None:
        """See `KeyStore.declare`."""
        del ref
        with self._world.call("store.declare"):
            self._intents[intent.name] = intent

    def settle(self, ref: SecretRef, names: Iterable[str]) -> None:
        """See `KeyStore.settle`."""
        del ref
        with self._world.call("store.settle"):
            for name in names:
                self._intents.pop(name, None)


class LabelledStore(_Intents):
    """A `KeyStore`: immutable versions, labels that point at them, compare-and-swap."""

    def __init__(self, world: World, first: Credential) -> None:
        super().__init__(world)
        self.versions: dict[RotationId, Version | None] = {}
        self.labels: dict[str, RotationId] = {}
        self._put(RotationId("v0"), first)
        self.labels["current"] = RotationId("v0")
        self.promoted_at = world.clock.now()

    def standing(self, ref: SecretRef) -> Standing:
        """See `FollowedStore.standing`."""
        del ref
        with self._world.call("store.describe"):
            current, pending = self.labels.get("current"), self.labels.get("pending")
            return Standing(
                current,
                pending if pending != current else None,
                self.labels.get("previous"),
                self.promoted_at,
            )

    def clear_previous(self, ref: SecretRef, version_id: RotationId) -> None:
        """See `FollowedStore.clear_previous`."""
        del ref

        def clear() -> None:
            if self.labels.get("previous") == version_id:
                del self.labels["previous"]

        self._world.write("store.clear", clear)

    def begin(self, rotation_id: RotationId) -> None:
        """Label a new, empty version pending, as the service does before it calls anybody."""
        if rotation_id not in self.versions:
            self.versions[rotation_id] = None
        self.labels["pending"] = rotation_id

    def abandon(self) -> None:
        """Drop the pending label, as an operator does who cancels a rotation."""
        self.labels.pop("pending", None)

    def snapshot(self, ref: SecretRef, rotation_id: RotationId) -> Snapshot:
        """See `SecretStore.snapshot`."""
        del ref
        with self._world.call("store.describe"):
            current, pending = self.labels.get("current"), self.labels.get("pending")
            if rotation_id not in {current, pending}:
                raise _over(rotation_id)
            return Snapshot(current, pending if pending != current else None)

    def current(self, ref: SecretRef) -> Version:
        """See `SecretStore.current`."""
        del ref
        with self._world.call("store.read"):
            return self.serves()

    def serves(self) -> Version:
        """Return what readers get, without counting as a call."""
        version = self.versions[self.labels["current"]]
        if version is None:
            raise Misconfigured("current has no value", remedy="")
        return version

    def staged(self, ref: SecretRef, rotation_id: RotationId) -> Version | None:
        """See `SecretStore.staged`."""
        del ref
        with self._world.call("store.read"):
            if rotation_id not in {self.labels.get("current"), self.labels.get("pending")}:
                raise _over(rotation_id)
            return self.versions[rotation_id]

    def kept(self, ref: SecretRef) -> Iterator[Version]:
        """See `SecretStore.kept`."""
        del ref
        with self._world.call("store.list"):
            found = [version for version in self.versions.values() if version is not None]
        for version in reversed(found):
            with self._world.call("store.read"):
                read = version
            yield read

    def stage(
        self, ref: SecretRef, rotation_id: RotationId, credential: Credential, seen: Snapshot
    ) -> None:
        """See `SecretStore.stage`. Unconditional, as the service has it."""
        del ref, seen
        with self._world.call("store.put"):
            if self.versions.get(rotation_id) is None:
                self._put(rotation_id, credential)
                self.labels["pending"] = rotation_id

    def withdraw(self, ref: SecretRef, rotation_id: RotationId) -> None:
        """See `SecretStore.withdraw`."""
        del ref
        with self._world.call("store.withdraw"):
            if self.labels.get("pending") == rotation_id:
                del self.labels["pending"]

    def promote(self, ref: SecretRef, rotation_id: RotationId, seen: Snapshot) -> None:
        """See `SecretStore.promote`. The pending label stays where it is."""
        del ref
        if seen.current == rotation_id:
            return
        with self._world.call("store.promote"):
            if self.labels["current"] != seen.current:
                raise Busy("current moved", remedy="")
            self.labels["previous"] = self.labels["current"]
            self.labels["current"] = rotation_id
            self.promoted_at = self._world.clock.now()

    def _put(self, rotation_id: RotationId, credential: Credential) -> None:
        self.versions.pop(rotation_id, None)
        self.versions[rotation_id] = Version(rotation_id, credential, self._world.clock.now())


class StagedStore(_Intents):
    """A `KeyStore`: a main history that readers follow, and a guarded record of what pends."""

    def __init__(self, world: World, first: Credential) -> None:
        super().__init__(world)
        self._history = [Version(RotationId("v0"), first, world.clock.now())]
        self._waiting: Version | None = None

    def snapshot(self, ref: SecretRef, rotation_id: RotationId) -> Snapshot:
        """See `SecretStore.snapshot`."""
        del ref
        with self._world.call("store.record"):
            if rotation_id in self._older():
                raise _over(rotation_id)
            return self._slots()

    def current(self, ref: SecretRef) -> Version:
        """See `SecretStore.current`."""
        del ref
        with self._world.call("store.read"):
            return self.serves()

    def serves(self) -> Version:
        """Return what readers get, without counting as a call."""
        return self._history[-1]

    def staged(self, ref: SecretRef, rotation_id: RotationId) -> Version | None:
        """See `SecretStore.staged`."""
        del ref
        with self._world.call("store.read"):
            for version in (self._waiting, self._history[-1]):
                if version is not None and version.rotation_id == rotation_id:
                    return version
            if self._waiting is None and rotation_id not in self._older():
                return None
            raise _over(rotation_id)

    def kept(self, ref: SecretRef) -> Iterator[Version]:
        """See `SecretStore.kept`."""
        del ref
        with self._world.call("store.list"):
            waiting = [self._waiting] if self._waiting else []
            found = [*waiting, *reversed(self._history)]
        yield from found

    def stage(
        self, ref: SecretRef, rotation_id: RotationId, credential: Credential, seen: Snapshot
    ) -> None:
        """See `SecretStore.stage`. The record is guarded: a compare-and-set."""
        del ref
        with self._world.call("store.put"):
            if self._slots() != seen:
                raise _over(rotation_id)
            if seen.pending != rotation_id:
                self._waiting = Version(rotation_id, credential, self._world.clock.now())

    def withdraw(self, ref: SecretRef, rotation_id: RotationId) -> None:
        """See `SecretStore.withdraw`."""
        del ref
        with self._world.call("store.withdraw"):
            if self._waiting is not None and self._waiting.rotation_id == rotation_id:
                self._waiting = None

    def promote(self, ref: SecretRef, rotation_id: RotationId, seen: Snapshot) -> None:
        """See `SecretStore.promote`. Two calls: readers first, then the record."""
        del ref
        if seen.current != rotation_id:
            with self._world.call("store.add"):
                if self._waiting is None or self._waiting.rotation_id != rotation_id:
                    raise _over(rotation_id)
                self._history.append(self._waiting)
        with self._world.call("store.clear"):
            if self._waiting is not None and self._waiting.rotation_id == rotation_id:
                self._waiting = None

    def _slots(self) -> Snapshot:
        current = self._history[-1].rotation_id
        waiting = self._waiting.rotation_id if self._waiting else None
        return Snapshot(current, waiting if waiting != current else None)

    def _older(self) -> set[RotationId]:
        # A promotion that died between its two calls is repeated: the same version, twice.
        return {version.rotation_id for version in self._history} - {self._history[-1].rotation_id}


def _over(rotation_id: RotationId) -> Busy:
    return Busy(f"rotation {rotation_id} is over", remedy="")


@dataclass
class Account:
    """One login of a `MemoryDatabase`; *second* is accepted like *password*."""

    password: str | None
    second: str | None = None
    member_of: set[str] = field(default_factory=set)
    acts_as: str | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """A session that some program holds, and since when."""

    principal: str
    at: datetime


class MemoryDatabase:
    """A `PasswordEngine`. Logins and changes are calls; a change is one transaction.

    Attributes:
        opened: The sessions of programs; None, if nobody may see them.
    """

    def __init__(self, world: World, accounts: dict[str, Account]) -> None:
        self._world = world
        self.accounts = accounts
        self.opened: list[Opened] | None = []
        self.failed_logins = 0
        self.is_down = False
        self.change: Change | None = None

    def platform(self) -> MemoryPlatform:
        """Return what runs this database. A change under way survives whoever asked for it."""
        return MemoryPlatform(self._world, self)

    def endpoint(self, credential: Credential) -> str:
        """See `PasswordEngine.endpoint`."""
        if credential.principal == "invalid":
            raise Misconfigured("invalid user", remedy="")
        return f"{credential.fields.get('host', 'db')}:1/app"

    @contextmanager
    def login(self, credential: Credential) -> Iterator[_MemorySession | None]:
        """See `PasswordEngine.login`."""
        with self._world.call("database.login"):
            accepted = self.would_accept(credential)
            self.failed_logins += not accepted
        yield _MemorySession(self._world, self, credential.principal) if accepted else None

    def would_accept(self, credential: Credential) -> bool:
        """Tell whether a login would work, without counting as a call."""
        if self.is_down:
            raise Unreachable("the database is down", remedy="")
        self.pass_time()
        account = self.accounts.get(credential.principal)
        secret = credential.secret.reveal()
        return account is not None and secret in {account.password, account.second}

    def pass_time(self) -> None:
        """Let a change take effect that is due."""
        if self.change is not None and len(self._world.calls) >= self.change.due:
            self.accounts[self.change.principal].password = self.change.secret
            self.change = None


@dataclass(frozen=True, slots=True)
class Change:
    """A password that a platform was asked to set, in force as soon as *due* calls were made."""

    principal: str
    secret: str = field(repr=False)
    due: int


class MemoryPlatform:
    """An `Authority` over the login `app`. Takes no secret with a blank in it.

    Attributes:
        is_hurried: Its time is up, always.
        delay: How many external calls after the one that asked, whoever makes them, a change is
            in force.
    """

    PLACE = "db:1"
    PRINCIPAL = "app"

    def __init__(self, world: World, database: MemoryDatabase) -> None:
        self._world = world
        self._database = database
        self.is_hurried = False
        self.delay = 2

    def check(self, place: str, credential: Credential) -> None:
        """See `Authority.check`."""
        self._look(place, credential.principal)
        if " " in credential.secret.reveal():
            raise Misconfigured("a blank in a secret", remedy="")

    def settle(self, place: str, principal: str) -> None:
        """See `Authority.settle`."""
        while self._look(place, principal):
            if self.is_hurried:
                raise NotYetAccepted("a change is under way", remedy="")

    def set_password(self, principal: str, secret: Sensitive) -> None:
        """See `Authority.set_password`."""
        with self._world.call("authority.ask"):
            if self._is_changing():
                raise Unreachable("another change is under way", remedy="")
            due = len(self._world.calls) + self.delay
            self._database.change = Change(principal, secret.reveal(), due)
        self.settle(self.PLACE, principal)

    def _look(self, place: str, principal: str) -> bool:
        """Tell whether a change is under way."""
        with self._world.call("authority.look"):
            if (place, principal) != (self.PLACE, self.PRINCIPAL):
                raise Drifted("another place or user", remedy="")
            return self._is_changing()

    def _is_changing(self) -> bool:
        if self._database.is_down:
            raise Unreachable("the platform is down", remedy="")
        self._database.pass_time()
        return self._database.change is not None


class _MemorySession:
    """A `TwinSession`, a `DualSession`, a `SeenSession` and a `DatedSession`."""

    def __init__(self, world: World, database: MemoryDatabase, user: str) -> None:
        self._world = world
        self._database = database
        self._accounts = database.accounts
        self._user = user

    def acts_for(self, owner: str) -> bool:
        return (self._accounts[self._user].acts_as or self._user) == owner

    def set_password(self, principal: str, secret: Sensitive) -> None:
        def change() -> None:
            self._require_own(principal)
            self._accounts[principal].password = secret.reveal()
            self._accounts[principal].second = None

        self._world.write("database.set", change)

    def check_dual(self, principal: str) -> None:
        with self._world.call("database.check"):
            self._require_own(principal)

    def set_dual(self, principal: str, secret: Sensitive, *, keep: Sensitive) -> None:
        with self._world.call("database.set"):
            self._require_own(principal)
            self._accounts[principal].password = secret.reveal()
            self._accounts[principal].second = keep.reveal()

    def check_twin(self, twin: str, *, like: str, owner: str, is_ours: Callable[[], bool]) -> None:
        del is_ours  # Memberships tell.
        with self._world.call("database.check"):
            ours = twin not in self._accounts or owner in self._accounts[twin].member_of
            if twin == owner:
                ours = owner in self._accounts[like].member_of
            if owner not in self._accounts or not ours:
                raise Drifted("not of this pair", remedy="")

    def set_twin(self, twin: str, secret: Sensitive, *, like: str, owner: str) -> None:
        del like
        with self._world.call("database.set"):
            account = self._accounts.setdefault(twin, Account(None))
            if twin != owner:
                account.member_of.add(owner)
                account.acts_as = owner
            account.password = secret.reveal()

    def sessions_of(self, principal: str) -> int | None:
        return self._count(lambda each: each.principal == principal)

    def sessions_before(self, principal: str, at: datetime) -> int | None:
        return self._count(lambda each: each.principal == principal and each.at < at)

    def _count(self, is_meant: Callable[[Opened], bool]) -> int | None:
        with self._world.call("database.sessions"):
            opened = self._database.opened
            return None if opened is None else sum(map(is_meant, opened))

    def _require_own(self, principal: str) -> None:
        if self._user not in {principal, "admin"}:
            raise Denied("not yours", remedy="")


@dataclass
class Key:
    """One key of a `MemoryIssuer`.

    Attributes:
        listed_from: How many external calls there must have been until lists show it.
        uses: How often it was tried since it was made; see `MemoryIssuer.HOSTS`.
    """

    secret: str
    created_at: datetime
    is_active: bool = True
    used_at: datetime | None = None
    listed_from: int = 0
    uses: int = 99
    gone_at: int | None = None
    name: str = ""
    mark: str = ""


class MemoryIssuer:
    """A `KeyIssuer` with one holder, `app`, and two keys at most.

    Attributes:
        keys_by_id: A deleted one stays here for as long as lists may still show it.
        lag: After how many external calls, whoever makes them, lists show a change.
        trace: By what its keys are found again. Only where it is `NAME` have they names, only
            where it is `MARK` have they marks, and only where it is `TIME` are uses told.
    """

    HOSTS = (False, True, False, True, False)
    """How the first uses of a new key end, before every host knows it."""

    limit = 2
    usage_lag: timedelta | None = timedelta()

    def __init__(self, world: World, keys: dict[str, Key]) -> None:
        self._world = world
        self.keys_by_id = keys
        self.lag = 2
        self.trace = Trace.TIME
        self._number = 0

    def holder(self, credential: Credential) -> str:
        """See `KeyIssuer.holder`."""
        return str(credential.fields.get("holder", "app"))

    def check(self, current: Credential) -> None:
        """See `KeyIssuer.check`."""
        with self._world.call("issuer.check"):
            if self.holder(current) != "app":
                raise Drifted("another holder", remedy="")

    def keys(self, current: Credential) -> list[IssuedKey]:
        """See `KeyIssuer.keys`."""
        del current
        with self._world.call("issuer.list"):
            now = len(self._world.calls)
            return [
                IssuedKey(key_id, self._told(key), key.is_active, key.name, key.mark)
                for key_id, key in self.keys_by_id.items()
                if key.listed_from <= now and (key.gone_at is None or key.gone_at + self.lag > now)
            ]

    def mint(self, current: Credential, attempt: Attempt) -> Credential:
        """See `KeyIssuer.mint`."""
        with self._world.call("issuer.mint"):
            if len(self.alive()) >= self.limit:
                raise Busy("as many keys as it may have", remedy="")
            self._number += 1
            key_id = f"K{self._number}"
            key = Key(f"{key_id}-secret", self._world.clock.now(), uses=0)
            key.name = attempt.name if self.trace is Trace.NAME else ""
            key.mark = attempt.mark if self.trace is Trace.MARK else ""
            key.listed_from = len(self._world.calls) + self.lag
            self.keys_by_id[key_id] = key
        return replace(current, principal=key_id, secret=Sensitive(key.secret))

    def verify(self, credential: Credential) -> bool:
        """See `KeyIssuer.verify`."""
        with self._world.call("issuer.verify"):
            key = self.alive().get(credential.principal)
            if key is None or not self._is_right(key, credential):
                return False
            key.uses += 1
            return key.uses > len(self.HOSTS) or self.HOSTS[key.uses - 1]

    def last_used(self, current: Credential, key_id: str) -> datetime | None:
        """See `KeyIssuer.last_used`."""
        del current
        with self._world.call("issuer.used"):
            is_told = self.trace not in (Trace.MARK, Trace.TIME_ONLY)
            return self.keys_by_id[key_id].used_at if is_told else None

    def deactivate(self, current: Credential, key_id: str) -> None:
        """See `KeyIssuer.deactivate`."""
        del current
        with self._world.call("issuer.deactivate"):
            if key_id in self.alive():
                self.keys_by_id[key_id].is_active = False

    def delete(self, current: Credential, key_id: str) -> None:
        """See `KeyIssuer.delete`."""
        del current
        with self._world.call("issuer.delete"):
            if key_id in self.alive():
                self.keys_by_id[key_id].gone_at = len(self._world.calls)

    def _told(self, key: Key) -> datetime | None:
        return None if self.trace is Trace.NAME else key.created_at

    def alive(self) -> dict[str, Key]:
        """Return what is not deleted."""
        return {k: key for k, key in self.keys_by_id.items() if key.gone_at is None}

    def would_accept(self, credential: Credential) -> bool:
        """Tell whether every host would accept it, without counting as a call."""
        key = self.alive().get(credential.principal)
        return key is not None and self._is_right(key, credential) and key.uses >= len(self.HOSTS)

    def _is_right(self, key: Key, credential: Credential) -> bool:
        return key.is_active and Sensitive(key.secret) == credential.secret


class Mood(StrEnum):
    """What a `MemoryConsumer` does when it is told of a version."""

    FOLLOWS = "follows"
    NEVER = "never refreshes"
    OLD_MOUNT = "restarts onto the old mount"
    REVERTED = "is put back from outside"
    LIES = "says that it follows, and does not"


_FIRST = RotationId("v0")


@dataclass
class MemoryConsumer:
    """A `Consumer` that reads anew when it is told to, *lag* later; and then does what its mood is.

    Attributes:
        reads: What it would get, if it read now.
        runs: The version that it logs in with.
        status: The version that it says it runs with.
        told: The version that it was told of last.
        relapses: How long after it was told it goes back, in the moods that do.
        restarts: How often it read anew, by version.
        sights: When it was looked at, for which version, and whether it followed.
        refuses: What its preflight raises.
    """

    world: World
    called: str
    reads: Callable[[], RotationId]
    lag: timedelta = timedelta(minutes=3)
    mood: Mood = Mood.FOLLOWS
    relapses: timedelta = timedelta(minutes=7)
    runs: RotationId = _FIRST
    status: RotationId = _FIRST
    told: RotationId | None = None
    restarts: Counter[RotationId] = field(default_factory=Counter)
    sights: list[tuple[datetime, RotationId, bool]] = field(default_factory=list)
    refuses: KeyturnError | None = None
    revision: int = 0
    _agenda: list[tuple[datetime, Callable[[], None]]] = field(default_factory=list)

    def name(self) -> str:
        """See `Consumer.name`."""
        return self.called

    def preflight(self) -> None:
        """See `Consumer.preflight`."""
        with self.world.call("consumer.preflight"):
            if self.refuses is not None:
                raise self.refuses

    def verify(self, version: Version) -> Sight:
        """See `Consumer.verify`. Looks at what it runs with, not at what it says."""
        with self.world.call("consumer.verify"):
            self.pass_time()
            is_followed = self.runs == version.rotation_id
            self.sights.append((self.world.clock.now(), version.rotation_id, is_followed))
            if is_followed:
                return Sight(Pickup.FOLLOWED, str(self.revision))
            is_told = self.told == version.rotation_id
            pickup = Pickup.WAITING if is_told else Pickup.UNTOLD
            return Sight(pickup, str(self.revision), f"it runs with {self.runs}")

    def trigger(self, version_id: RotationId, seen: Sight) -> None:
        """See `Consumer.trigger`."""

        def tell() -> None:
            if self.told == version_id:
                return
            if seen.mark != str(self.revision):
                raise Busy("it has changed", remedy="")
            self.told = version_id
            self.revision += 1
            self.restarts[version_id] += 1
            self._plan()

        self.world.write("consumer.trigger", tell)

    def mend(self) -> None:
        """Be restarted by a person, onto what is to be read now."""
        self._agenda.clear()
        self.mood = Mood.FOLLOWS
        self.runs = self.status = self.reads()
        self.revision += 1

    @property
    def is_busy(self) -> bool:
        """Tell whether it will still change by itself."""
        return bool(self._agenda)

    def relapse(self, version_id: RotationId) -> None:
        """Go back to an earlier version, as after a restart onto a mount that is old."""
        self.pass_time()
        self.runs = version_id
        self.revision += 1

    def pass_time(self) -> None:
        """Let happen what is due."""
        now = self.world.clock.now()
        due = [each for each in self._agenda if each[0] <= now]
        self._agenda = [each for each in self._agenda if each[0] > now]
        for _, happen in due:
            happen()

    def _plan(self) -> None:
        now, before = self.world.clock.now(), self.runs

        def read() -> None:
            self.runs = self.status = self.reads()
            self.revision += 1

        self._agenda.clear()
        if self.mood is Mood.LIES:
            self.status = self.reads()
        elif self.mood is not Mood.NEVER:
            self._agenda.append((now + self.lag, read))
        if self.mood in {Mood.OLD_MOUNT, Mood.REVERTED}:
            self._agenda.append((now + self.relapses, lambda: self.relapse(before)))


class MemoryNotifier:
    """A `Notifier`.

    Attributes:
        alerts: What it was sent, in order.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.alerts: list[Alert] = []

    def send(self, alert: Alert) -> None:
        """See `Notifier.send`."""
        self._world.write("notifier.send", lambda: self.alerts.append(alert))


@dataclass(frozen=True, slots=True)
class Copy:
    """What a `MemoryDestination` holds, or has held. Somebody else's has no version."""

    version_id: RotationId | None
    text: Sensitive


class MemoryDestination:
    """A `Destination`. Takes up to 4,096 characters. A write is one call, with its condition.

    Attributes:
        history: Every copy that it has held, the present one last.
        is_down: It gives no answer.
    """

    LIMIT = 4_096

    def __init__(self, world: World, name: str = "memory://copy") -> None:
        self._world = world
        self._name = name
        self.history: list[Copy] = []
        self.is_down = False

    def name(self) -> str:
        """See `Destination.name`."""
        return self._name

    def holds(self) -> Held:
        """See `Destination.holds`."""
        with self._world.call("destination.look"):
            self._require_answer()
            return self._held()

    def deliver(self, version: Version, text: Sensitive, seen: Held) -> None:
        """See `Destination.deliver`."""
        if len(text.reveal()) > self.LIMIT:
            raise Misconfigured(f"{self._name} takes {self.LIMIT} bytes", remedy="")

        def put() -> None:
            self._require_answer()
            if self._held().mark == seen.mark:
                self.write(Copy(version.rotation_id, text))
            elif self._held().version_id != version.rotation_id:
                raise Busy(f"{self._name}: something else was written", remedy="")

        self._world.write("destination.write", put)

    def write(self, copy: Copy) -> None:
        """Write, as somebody else may, without counting as a call."""
        self.history.append(copy)

    def _held(self) -> Held:
        newest = self.history[-1].version_id if self.history else None
        return Held(newest, str(len(self.history)))

    def _require_answer(self) -> None:
        if self.is_down:
            raise Unreachable("the destination is down", remedy="")
