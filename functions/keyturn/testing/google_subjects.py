"""What the fault sweep of the Google-shaped store rotates: users, keys that are minted, values."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Protocol

from keyturn import document
from keyturn.document import Whole
from keyturn.errors import Unreachable
from keyturn.generators.shared_keys import Hmac
from keyturn.minted import MintedKeys, Place
from keyturn.model import Credential, Sensitive, Trace
from keyturn.ports import Target
from keyturn.stores.stored import MembersOf
from keyturn.strategies import Generated
from keyturn.testing.fakes import Account, Key, MemoryDatabase, MemoryIssuer, World
from keyturn.testing.scene import STRATEGIES

LONG_AGO = timedelta(days=30)


class Subject(Protocol):
    """One secret's worth of what is rotated, in memory.

    Attributes:
        slots: How many credentials are accepted at once.
        first: The secret's first value.
        members_of: How its document is read.
        calls: What the names of its external calls begin with.
        is_gone: It does not answer.
    """

    slots: int
    first: str
    members_of: MembersOf
    calls: tuple[str, ...]
    is_gone: bool

    def target(self, place: Place, worker: int) -> Target:
        """Return what a worker rotates."""
        ...

    def accepts(self, text: str) -> bool:
        """Tell whether a reader who has got that value can work with it. No external call."""
        ...

    def is_tested(self, text: str) -> bool:
        """Tell whether that value has passed its test; the first one has."""
        ...

    def follows(self, text: str, before: str) -> bool:
        """Tell whether who has got *before* is still served where *text* has been read."""
        ...

    def leftovers(self, held: set[str]) -> set[str]:
        """Return what is accepted besides the values that are *held*, by its name."""
        ...

    def state(self) -> object:
        """Return all that a repeated event must not change."""
        ...


class Users:
    """Accounts of a database, with a strategy of `scene.STRATEGIES`."""

    members_of: MembersOf = staticmethod(document.usual)
    calls: tuple[str, ...] = ("database.", "authority.")

    def __init__(self, world: World, strategy: str) -> None:
        self._strategy = STRATEGIES[strategy]
        self.slots = self._strategy.slots
        self.first = _document("app", "app")
        self._tested = {self.first}
        names = ("app", "admin", "human", "app_clone2")
        self._database = _Database(world, {name: Account(name) for name in names})
        self._database.noted = lambda who: self._tested.add(_document_of(who))

    @property
    def is_gone(self) -> bool:
        """See `Subject`."""
        return self._database.is_down

    @is_gone.setter
    def is_gone(self, is_gone: bool) -> None:
        self._database.is_down = is_gone

    def target(self, place: Place, worker: int) -> Target:
        """See `Subject.target`."""
        numbers = iter(range(1, 100))
        return self._strategy.target(
            self._database,
            lambda: Sensitive(f"{place.rotation_id}-{worker}-{next(numbers)}"),
        )

    def accepts(self, text: str) -> bool:
        """See `Subject.accepts`."""
        is_down, self._database.is_down = self._database.is_down, False
        accepted = MemoryDatabase.would_accept(self._database, _credential(text))
        self._database.is_down = is_down
        return accepted

    def is_tested(self, text: str) -> bool:
        """See `Subject.is_tested`."""
        return text in self._tested

    def follows(self, text: str, before: str) -> bool:
        """See `Subject.follows`. The database itself is asked, by whoever logs in."""
        del text, before
        return True

    def leftovers(self, held: set[str]) -> set[str]:
        """See `Subject.leftovers`. An account has one password, or two, whatever happens."""
        del held
        return set()

    def state(self) -> object:
        """See `Subject.state`."""
        return {n: (a.password, a.second) for n, a in self._database.accounts.items()}


class _Database(MemoryDatabase):
    """Notes what has logged in."""

    noted: Callable[[Credential], None]

    def would_accept(self, credential: Credential) -> bool:
        """See `MemoryDatabase.would_accept`."""
        accepted = super().would_accept(credential)
        if accepted:
            self.noted(credential)
        return accepted


class Keys:
    """Keys that an issuer mints and shows once; the first was made long ago.

    Two at most, but where one that is lost stays.
    """

    slots = 2
    members_of: MembersOf = staticmethod(document.usual)
    calls: tuple[str, ...] = ("issuer.",)

    def __init__(self, world: World, trace: Trace) -> None:
        self.first = _document("K0", "K0-secret")
        self._tested = {self.first}
        self.is_gone = False
        self._world = world
        made_at = world.clock.now() - LONG_AGO
        self._issuer = _Issuer(world, {"K0": Key("K0-secret", made_at)})
        self._issuer.trace = trace
        self._issuer.limit = 9 if trace is Trace.TIME_ONLY else 2
        self._issuer.noted = lambda who: self._tested.add(_document_of(who))

    def target(self, place: Place, worker: int) -> Target:
        """See `Subject.target`."""
        del worker
        return MintedKeys(self._issuer, place, self._world.clock, self._pause)

    def accepts(self, text: str) -> bool:
        """See `Subject.accepts`."""
        return self._issuer.would_accept(_credential(text))

    def is_tested(self, text: str) -> bool:
        """See `Subject.is_tested`."""
        return text in self._tested

    def follows(self, text: str, before: str) -> bool:
        """See `Subject.follows`. The issuer itself is asked."""
        del text, before
        return True

    def leftovers(self, held: set[str]) -> set[str]:
        """See `Subject.leftovers`: a key that no version has, and nobody knows (I5)."""
        return self._issuer.alive().keys() - {_credential(each).principal for each in held}

    def state(self) -> object:
        """See `Subject.state`."""
        return {name: key.is_active for name, key in self._issuer.alive().items()}

    def _pause(self, wait_s: float) -> bool:
        self._world.clock.advance(timedelta(seconds=wait_s))
        return True


class _Issuer(MemoryIssuer):
    """Notes what every host accepts."""

    noted: Callable[[Credential], None]

    def verify(self, credential: Credential) -> bool:
        """See `KeyIssuer.verify`."""
        accepted = super().verify(credential)
        if self.would_accept(credential):
            self.noted(credential)
        return accepted


class Values:
    """A generated value, with what its verifiers still need of the one before. No target."""

    slots = 2
    members_of: MembersOf = Whole()
    calls: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._kind = Hmac()
        self.is_gone = False
        self.first = self._kind.following(Sensitive("{}")).reveal()

    def target(self, place: Place, worker: int) -> Target:
        """See `Subject.target`."""
        del place, worker
        return Generated(self._kind)

    def accepts(self, text: str) -> bool:
        """See `Subject.accepts`."""
        return self._kind.is_whole(Sensitive(text))

    def is_tested(self, text: str) -> bool:
        """See `Subject.is_tested`. To be whole is all of the test."""
        return self.accepts(text)

    def follows(self, text: str, before: str) -> bool:
        """See `Subject.follows`: what was signed with the one before is still verified."""
        return text == before or self._kind.follows(Sensitive(text), Sensitive(before))

    def leftovers(self, held: set[str]) -> set[str]:
        """See `Subject.leftovers`. Nobody keeps any."""
        del held
        return set()

    def state(self) -> object:
        """See `Subject.state`."""
        return None


SUBJECTS: dict[str, Callable[[World], Subject]] = {
    "single": lambda world: Users(world, "single"),
    "dual": lambda world: Users(world, "dual"),
    "alternating": lambda world: Users(world, "alternating"),
    "by platform": lambda world: Users(world, "by platform"),
    "minted": lambda world: Keys(world, Trace.TIME),
    "minted with a name": lambda world: Keys(world, Trace.NAME),
    "minted with a mark": lambda world: Keys(world, Trace.MARK),
    "minted, time only": lambda world: Keys(world, Trace.TIME_ONLY),
    "generated": lambda _: Values(),
}
"""All there are, by their names in a scenario."""


def unanswered(subject: Subject, name: str) -> None:
    """Refuse the call if its subject does not answer.

    Raises:
        Unreachable: It does not.
    """
    if subject.is_gone and name.startswith(subject.calls):
        raise Unreachable("no answer", remedy="")


def _document(user: str, secret: str) -> str:
    return json.dumps({"username": user, "password": secret})


def _document_of(credential: Credential) -> str:
    return _document(credential.principal, credential.secret.reveal())


def _credential(text: str) -> Credential:
    held = json.loads(text)
    return Credential(held["username"], Sensitive(held["password"]))
