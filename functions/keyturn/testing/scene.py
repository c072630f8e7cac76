"""One secret, its store and its database in memory, and what must hold after every external call.

    recoverable   some version still kept, or the admin, is accepted           P1  I1
    foreign       nothing but the strategy's own logins has changed            P2  I2
    current       what readers get is accepted                                 P3  I3
    tested        current has passed a login by its own rotation               P4  I4
    order         a superseded rotation is not promoted over a newer one
    converges     one more clean run by a fresh id ends current and accepted   P5  I5

Current may be refused with one slot, from the act in set until a rotation finishes. Beside that
there is one excuse: a slot moved while a write was under way, after the last call by which its
worker could have seen it. Nothing but a fence in the target, or a compare-and-set in the store,
could prevent that. Current may be refused after such an act, and a rotation that staged so may be
promoted over a newer one. It is counted as overtaken, and the next rotation must heal it.

The explorer drives it; it knows no schedule. New strategies are added to `STRATEGIES`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta

from keyturn.errors import KeyturnError
from keyturn.minted import MintedKeys
from keyturn.model import Credential, RotationId, Sensitive, Snapshot, Trace, Version
from keyturn.ports import Generate, Session, Target
from keyturn.rotation import STALE_AFTER, Rotation
from keyturn.strategies import (
    AlternatingUsers,
    DualPassword,
    PlatformUser,
    SingleUser,
    pair_by_suffix,
)
from keyturn.testing.fakes import REF, Account, LabelledStore, MemoryDatabase, StagedStore, World

INVARIANTS = ("recoverable", "foreign", "current", "tested", "order", "converges")

HUMAN = "HUMAN"
"""A key that a person has made for the same holder."""

FIRST = RotationId("v0")
"""The version that every store begins with."""

LAST = RotationId("z")
"""The fresh id of the clean run at the end."""

ADMIN = Credential("admin", Sensitive("admin"))

ACTS = frozenset({"database.set", "authority.ask"})
"""Calls that change a password, at once or later; one that is asked for later is the only one."""

KEYS = frozenset(
    {"issuer.mint", "issuer.deactivate", "issuer.delete", "store.declare", "store.settle"}
)
"""The same of a target that mints. None of them excuses anything."""

WRITES = ACTS | KEYS | {"store.put", "store.withdraw", "store.promote", "store.add", "store.clear"}
"""Calls with an effect. To lose the reply of any other is the same as to lose its request."""

BEGIN = "platform.begin"
"""What the platform does before it calls anybody with a new rotation id."""


@dataclass(frozen=True, slots=True)
class Strategy:
    """A strategy under exploration.

    Attributes:
        name: As it stands in a script; of one that is not in `STRATEGIES`, its Python name.
        slots: How many credentials the target accepts at once.
        logins: The accounts that its rotations may change or make.
        has_admin: Whether the admin can always set again.
        target: Makes the target. Of one that mints its keys, `MintedScene` does.
        keys: The keys that the holder has at first, if the target mints; `K0` is current's.
        trace: By what those keys are found again.
    """

    name: str
    slots: int
    logins: frozenset[str]
    has_admin: bool
    target: Callable[..., Target]
    keys: tuple[str, ...] | None = None
    trace: Trace = Trace.TIME


def _alternating_users(database: MemoryDatabase, generate: Generate) -> Target:
    return AlternatingUsers(database, generate, pair_by_suffix, lambda: ADMIN)


def _by_platform(database: MemoryDatabase, generate: Generate) -> Target:
    return PlatformUser(database, generate, database.platform)


def _dual_by_admin(database: MemoryDatabase, generate: Generate) -> Target:
    return DualPassword(database, generate, lambda: ADMIN)


def _minted(name: str, *keys: str, trace: Trace = Trace.TIME) -> Strategy:
    return Strategy(
        name, 2, frozenset(), has_admin=False, target=MintedKeys, keys=keys, trace=trace
    )


STRATEGIES = {
    "single": Strategy("single", 1, frozenset({"app"}), has_admin=False, target=SingleUser),
    # Its authority could always set again. Promised is more: no version that is needed is lost.
    "by platform": Strategy(
        "by platform", 1, frozenset({"app"}), has_admin=False, target=_by_platform
    ),
    "dual": Strategy("dual", 2, frozenset({"app"}), has_admin=False, target=DualPassword),
    "dual by admin": Strategy(
        "dual by admin", 2, frozenset({"app"}), has_admin=True, target=_dual_by_admin
    ),
    "alternating": Strategy(
        "alternating",
        2,
        frozenset({"app", "app_clone"}),
        has_admin=True,
        target=_alternating_users,
    ),
    **{
        each.name: each
        for each in (
            _minted("minted", "K0"),
            _minted("minted with a name", "K0", trace=Trace.NAME),
            _minted("minted with a mark", "K0", trace=Trace.MARK),
            _minted("minted, time only", "K0", trace=Trace.TIME_ONLY),
            _minted("first minted"),
            _minted("minted beside a person's", "K0", HUMAN),
            _minted("first minted beside a person's", HUMAN),
        )
    },
}
STORES: dict[str, type[LabelledStore | StagedStore]] = {
    "labelled": LabelledStore,
    "staged": StagedStore,
}


@dataclass(frozen=True, slots=True)
class Configuration:
    """What is explored.

    Attributes:
        strategy: Who gets the new password.
        store: A key of `STORES`.
        ids: 1: two deliveries of one rotation. 2: the first is abandoned, another one is begun.
        earlier: How many clean rotations come first.
        rotation: The protocol. Anything but the real one is a mistake planted by a test.
        has_rested: Whether the earlier ones were long ago. If not, a minted key is in its grace.
        has_lease: Whether a target that mints is told that no two workers live at once.
    """

    strategy: Strategy
    store: str
    ids: int
    earlier: int = 0
    rotation: type[Rotation] = Rotation
    has_rested: bool = True
    has_lease: bool = False

    def __str__(self) -> str:
        """Return it as the first arguments of `explorer.replay`."""
        named = STRATEGIES.get(self.strategy.name) == self.strategy
        strategy = f'"{self.strategy.name}"' if named else self.strategy.name
        rotation = "" if self.rotation is Rotation else f", rotation={self.rotation.__name__}"
        rested = "" if self.has_rested else ", has_rested=False"
        lease = ", has_lease=True" if self.has_lease else ""
        more = f"{rotation}{rested}{lease}"
        return f'{strategy}, "{self.store}", ids={self.ids}, earlier={self.earlier}{more}'


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken promise: which of `INVARIANTS`, and how, in words."""

    invariant: str
    fact: str


@dataclass(frozen=True, slots=True)
class _Act:
    """The last change of the database: by whom, and whether it was overtaken under way."""

    rotation_id: RotationId
    was_overtaken: bool


class _Database(MemoryDatabase):
    """Notes the credential of each login, for whoever asks after it."""

    asked: Callable[[Credential], None]

    def login(self, credential: Credential) -> AbstractContextManager[Session | None]:  # type: ignore[override]
        """See `PasswordEngine.login`."""
        self.asked(credential)
        return super().login(credential)


class Scene:
    """The world of one schedule.

    Attributes:
        actor: The rotation whose worker runs now.
        worker: That worker's name: two may work for one rotation.
        violations: What was broken, in order; each fact once.
        is_refused: A reader of current was refused after the last call.
        was_overtaken: A promise was not kept, for the one excuse.
    """

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.world = World()
        self.actor = FIRST
        self.worker = ""
        self.violations: list[Violation] = []
        self.is_refused = False
        self.was_overtaken = False
        self._store = STORES[configuration.store](self.world, self._furnish())
        self._others = self._foreign()
        self._begun = [FIRST]
        self._promoted = [FIRST]
        self._logins: dict[RotationId, Credential] = {}
        self._tested: set[tuple[RotationId, str, str]] = set()
        self._slots = Snapshot(FIRST)
        self._seen: dict[str, Snapshot] = {}
        self._act: _Act | None = None
        self._is_late = False
        self._staged_late: set[RotationId] = set()
        for number in range(configuration.earlier):
            self.begin(RotationId(f"e{number}"))
            self.rotation(RotationId(f"e{number}"), f"e{number}").run()
            self._promoted.append(RotationId(f"e{number}"))
            self._rest()
        self._begun = list(self._promoted)
        self._slots = self._look_at_slots()

    def _furnish(self) -> Credential:
        """Make what the rotations are for, and return the credential that is current at first."""
        accounts = {
            name: Account(name) for name in ("app", "admin", "human", "app_reader", "app_clone2")
        }
        self._database = _Database(self.world, accounts)
        self._database.asked = self._note_login
        return Credential("app", Sensitive("app"))

    def _rest(self) -> None:
        """Let pass what passes between two rotations."""

    def begin(self, rotation_id: RotationId) -> None:
        """Do what the platform does before it calls anybody with *rotation_id*."""
        if isinstance(self._store, LabelledStore):
            self._store.begin(rotation_id)
            self._begun.append(rotation_id)

    def pass_time(self, time: timedelta = STALE_AFTER) -> None:
        """Let more time pass; if none is given, as much as no worker lives."""
        self.world.clock.advance(time + timedelta(seconds=1))

    def rotation(self, rotation_id: RotationId, worker: str) -> Rotation:
        """Return a fresh container with the real code."""
        target = self._target(rotation_id, worker)
        return self.configuration.rotation(
            REF,
            rotation_id,
            store=self._store,
            targets=lambda _: target,
            clock=self.world.clock,
        )

    def _target(self, rotation_id: RotationId, worker: str) -> Target:
        """Return what is rotated; its passwords are numbered."""
        del rotation_id
        numbers = iter(range(1, 100))
        return self.configuration.strategy.target(
            self._database, lambda: Sensitive(f"{worker}-{next(numbers)}")
        )

    def look(self, call: str) -> None:
        """Check every promise, right after the effect of *call* by the actor."""
        if call in ACTS:
            self._see_act()
        elif call in {"database.login", "issuer.verify"}:
            self._see_login()
        elif call in WRITES or call == BEGIN:
            self._see_slots(call)
        self._seen[self.worker] = self._slots
        if not call.startswith("store.") and self._foreign() != self._others:
            self._broken("foreign", "something changed that the rotation did not make")
        self.is_refused = not self._accepts_current()
        if self.is_refused:
            self._see_refusal()

    def serves(self) -> Version:
        """Return what readers get."""
        return self._store.serves()

    def tell(self, error: KeyturnError) -> None:
        """Do as the entry point does of an error: tell a person, then say so. It may fail, too."""

    def converge(self) -> None:
        """Run once more, with a fresh id and without faults; hooks are the caller's."""
        self.pass_time()
        self.actor, self.worker = LAST, LAST
        try:
            self.begin(LAST)
            self._see_slots(BEGIN)
            self._run_at_rest(LAST)
        except KeyturnError as error:
            self._broken("converges", f"the last run ends in {type(error).__name__}: {error}")
            return
        if self.serves().rotation_id != LAST or self._slots.pending is not None:
            self._broken("converges", f"the last run leaves {self._slots}")
        if not self._accepts_current():
            self._broken("converges", "current is refused after the last run")

    def _run_at_rest(self, rotation_id: RotationId) -> None:
        self.rotation(rotation_id, rotation_id).run()

    def _accepts_current(self) -> bool:
        return self._would_accept(self._store.serves().credential)

    def _would_accept(self, credential: Credential) -> bool:
        return self._database.would_accept(credential)

    def _see_act(self) -> None:
        self._act = _Act(self.actor, self._is_overtaken())
        self._is_late |= self._act.was_overtaken

    def _is_overtaken(self) -> bool:
        """Tell whether a slot has moved since the worker's last call."""
        return self._seen.get(self.worker, self._slots) != self._slots

    def _note_login(self, credential: Credential) -> None:
        self._logins[self.actor] = credential

    def _see_login(self) -> None:
        credential = self._logins[self.actor]
        if self._would_accept(credential):
            self._tested.add((self.actor, credential.principal, credential.secret.reveal()))

    def _see_slots(self, call: str) -> None:
        if call == "store.put":
            self._see_staging()
        if self._is_overtaken() and call in {"store.promote", "store.add"}:
            self._is_late = True
        before, self._slots = self._slots, self._look_at_slots()
        if before.current != self._slots.current:
            self._see_promotion(before.current or FIRST)

    def _see_staging(self) -> None:
        if self.actor not in self._begun:  # Without labels, a rotation begins by staging.
            self._begun.append(self.actor)
        if self._is_overtaken():
            self._staged_late.add(self.actor)

    def _see_promotion(self, before: RotationId) -> None:
        version = self._store.serves()
        after, credential = version.rotation_id, version.credential
        if self._begun.index(after) < self._begun.index(before):
            self._see_disorder(after, before)
        if (after, credential.principal, credential.secret.reveal()) not in self._tested:
            self._broken("tested", f"{after} is current, and its value never logged in")
        self._promoted.append(after)

    def _see_disorder(self, after: RotationId, before: RotationId) -> None:
        if after in self._staged_late:
            self.was_overtaken = True
        else:
            self._broken("order", f"{after} is promoted over {before}, which was begun later")

    def _see_refusal(self) -> None:
        current = self._slots.current
        if not self._is_recoverable():
            self._broken("recoverable", "no version kept is accepted, and no admin")
        if self._is_excused():
            self.was_overtaken = True
        elif not self._may_be_refused():
            self._broken("current", f"{current} is current and refused")

    def _is_recoverable(self) -> bool:
        if self.configuration.strategy.has_admin and self._database.would_accept(ADMIN):
            return True
        with _Unobserved(self.world):
            kept = self._store.kept(REF)
            return any(self._would_accept(version.credential) for version in kept)

    def _is_excused(self) -> bool:
        if self.configuration.strategy.slots > 1:
            return self._is_late
        return self._act is not None and self._act.was_overtaken

    def _may_be_refused(self) -> bool:
        """With one slot: the last act is of a rotation that has not finished."""
        if self.configuration.strategy.slots > 1 or self._act is None:
            return False
        return self._act.rotation_id not in self._promoted

    def _foreign(self) -> list[object]:
        ours = self.configuration.strategy.logins
        return [
            (name, account.password, account.second, account.acts_as, *sorted(account.member_of))
            for name, account in self._database.accounts.items()
            if name not in ours
        ]

    def _look_at_slots(self) -> Snapshot:
        with _Unobserved(self.world):
            return self._store.snapshot(REF, self._store.serves().rotation_id)

    def _broken(self, invariant: str, fact: str) -> None:
        violation = Violation(invariant, fact)
        if violation not in self.violations:
            self.violations.append(violation)


def _carry_on(number: int, name: str) -> None:
    del number, name


class _Unobserved:
    """Look at the store as it is, without counting as a call or being interrupted."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._hooks = world.before, world.after

    def __enter__(self) -> None:
        self._world.before = self._world.after = _carry_on

    def __exit__(self, *_: object) -> None:
        self._world.before, self._world.after = self._hooks
