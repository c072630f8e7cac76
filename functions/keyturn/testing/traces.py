"""The same calls on the AWS-shaped and on the Google-shaped store, side by side.

    trace  =  moves: what the platform, an operator, a rotation's worker, a follow-up does next

Each side is the real store on its own local service, with a rotation's target in memory, and is
told the same moves. After every one three things are compared: how it ended, what it answered, and
what an outsider sees in the slots. Values have the number of their move, the same on both sides.
What may differ is in `DIFFERENCES`, each with its reason, and nowhere else.

A worker sees the slots when it says so (`look`), and acts by what it saw: so two workers' calls
interleave, and one may act late.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Protocol, Self

import boto3
from botocore.config import Config

from keyturn.errors import KeyturnError
from keyturn.model import Credential, Intent, RotationId, SecretRef, Sensitive, Snapshot, Step
from keyturn.ports import FollowedStore, KeyStore, Target
from keyturn.rotation import Rotation
from keyturn.stores.secret_manager import SecretManager
from keyturn.stores.secrets_manager import SecretsManager
from keyturn.strategies import AlternatingUsers, SingleUser, pair_by_suffix
from keyturn.testing.bench import Secret
from keyturn.testing.bench_aws import AwsVault
from keyturn.testing.bench_google import GoogleVault
from keyturn.testing.fakes import Account, FakeClock, MemoryDatabase, World
from keyturn.testing.strict_secrets_manager import CURRENT, PENDING, PREVIOUS

FIRST, ADMIN = "Canary7-first", "Canary7-admin"
TOKENS = {name: name * 32 for name in ("a", "b", "c")}
"""Rotations. What a platform gives them for a name, both stores take."""
BY_HAND = "by hand"
"""The name of every version that no rotation has made: each store gives it another one."""
STRATEGIES = ("single", "alternating")
LONGEST = 20
"""Moves of a trace."""
SINCE = datetime(2030, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Move:
    """One move.

    Attributes:
        name: A key of `MOVES`.
        who: The rotation whose worker it is, or that is begun; "" of an operator.
    """

    name: str
    who: str = ""

    def __str__(self) -> str:
        """Say it in a word or two."""
        return f"{self.name} {self.who}".strip()


@dataclass(frozen=True, slots=True)
class Seen:
    """What became of a move on one side.

    Attributes:
        ended: "ok", or the class of the error.
        answer: What was returned, with names and values that both sides share.
        slots: What an outsider sees then: the values of current, pending and previous.
    """

    ended: str
    answer: object
    slots: Mapping[str, str]


class Store(KeyStore, FollowedStore, Protocol):
    """What both stores are."""


class Side(Protocol):
    """One cloud, with one secret."""

    @property
    def secret(self) -> Secret:
        """What is rotated."""
        ...

    def store(self) -> Store:
        """Make a worker's store."""
        ...

    def slots(self) -> dict[str, str]:
        """Return the values in the slots, as they stand there; "" where there is none."""
        ...


class AwsSide:
    """Secrets Manager."""

    secret: Secret

    def __init__(self, vault: AwsVault) -> None:
        self._vault = vault
        self._client = boto3.client(
            "secretsmanager",
            **vault.store.settings(),
            config=Config(retries={"mode": "standard", "total_max_attempts": 1}),
        )

    def keep(self, value: str) -> None:
        """Make the secret anew."""
        self._vault.clear()
        self.secret = self._vault.keep(value)

    def store(self) -> Store:
        """See `Side.store`."""
        return SecretsManager(self._client)

    def slots(self) -> dict[str, str]:
        """See `Side.slots`."""
        found = {"current": "", "pending": "", "previous": ""}
        for version in self._vault.store.versions(self.secret.ref):
            text = version.value.reveal() if version.value is not None else ""
            for slot, label in _LABELS.items():
                if label in version.labels:
                    found[slot] = text
        if found["pending"] == found["current"]:
            found["pending"] = ""  # The label stays where it was after a rotation.
        return found


_LABELS = {"current": CURRENT, "pending": PENDING, "previous": PREVIOUS}


class GoogleSide:
    """Secret Manager."""

    secret: Secret

    def __init__(self, vault: GoogleVault, clock: FakeClock, make: type[SecretManager]) -> None:
        self._vault = vault
        self._clock = clock
        self._make = make
        self._client = vault.google.client()

    def keep(self, value: str) -> None:
        """Make the secret anew."""
        self._vault.clear()
        self.secret = self._vault.keep(value)

    def store(self) -> Store:
        """See `Side.store`."""
        return self._make(self._client, clock=self._clock, pause=lambda _: True)

    def slots(self) -> dict[str, str]:
        """See `Side.slots`. What nobody has noticed yet is current for its readers all the same."""
        google, ref = self._vault.google, self.secret.ref
        record = google.vault.look(f"{ref}-pending").secret.annotations
        numbers = {slot: record.get(f"keyturn-{slot}", "").partition(":")[0] for slot in _LABELS}
        found = {"current": self.secret.current(), "pending": "", "previous": ""}
        if numbers["pending"]:
            held = google.read(f"{ref}-pending/versions/{numbers['pending']}")
            found["pending"] = held.partition("\n")[2]
        if numbers["previous"]:
            found["previous"] = google.read(f"{ref}/versions/{numbers['previous']}")
        return found

    def is_recorded(self) -> bool:
        """Tell whether anything has been written to the companion."""
        beside = self._vault.google.vault.look(f"{self.secret.ref}-pending")
        return "keyturn-write" in beside.secret.annotations


class Actor:
    """Makes the moves on one side."""

    def __init__(self, side: Side, strategy: str, clock: FakeClock) -> None:
        self._side = side
        self._clock = clock
        self._world = World(clock)
        self._strategy = strategy
        # The twin is there already: a trace may promote it before it was set.
        twin = Account("Canary7-twin", member_of={"app"})
        self._accounts = {"app": Account(FIRST), "admin": Account(ADMIN), "app_clone": twin}
        self._database = MemoryDatabase(self._world, self._accounts)
        self._stores = {name: side.store() for name in TOKENS}
        self._looked: dict[str, Snapshot] = {}
        self._made = 0
        self._ref = SecretRef(side.secret.ref)

    def make(self, move: Move) -> Seen:
        """Make one move."""
        self._made += 1
        try:
            answer, ended = MOVES[move.name](self, move.who), "ok"
        except KeyturnError as error:
            answer, ended = None, type(error).__name__
        return Seen(ended, answer, self._side.slots())

    # ------------------------------------------------------------------------ the platform

    def begin(self, who: str) -> None:
        """A rotation begins; another one that is under way is abandoned."""
        self._side.secret.begin(TOKENS[who])

    def abandon(self, who: str) -> None:
        """An operator cancels what is under way."""
        del who
        self._side.secret.abandon()

    def write(self, who: str) -> None:
        """An operator stores a value that works."""
        del who
        account = self._accounts["app"]
        account.password = f"Canary7-hand-{self._made}"
        self._side.secret.write(json.dumps({"username": "app", "password": account.password}))

    def arrive(self, who: str) -> None:
        """A new worker comes, which has seen nothing yet."""
        self._stores[who] = self._side.store()
        self._looked.pop(who, None)

    # ------------------------------------------------------------------------ port calls

    def look(self, who: str) -> object:
        """See the slots."""
        seen = self._stores[who].snapshot(self._ref, _id(who))
        self._looked[who] = seen
        return _name(seen.current), _name(seen.pending)

    def stage(self, who: str) -> None:
        """Stage another value, by what was seen."""
        seen = self._looked.get(who, Snapshot(None, None))
        current = self._stores[who].current(self._ref).credential
        secret = Sensitive(f"Canary7-staged-{self._made}")
        following = replace(current, principal="app", secret=secret)
        self._stores[who].stage(self._ref, _id(who), following, seen)

    def staged(self, who: str) -> object:
        """Read what is stored under the rotation."""
        version = self._stores[who].staged(self._ref, _id(who))
        return None if version is None else (_name(version.rotation_id), _value(version.credential))

    def promote(self, who: str) -> None:
        """Make it current, by what was seen."""
        seen = self._looked.get(who, Snapshot(None, None))
        self._stores[who].promote(self._ref, _id(who), seen)

    def withdraw(self, who: str) -> None:
        """Empty the pending slot."""
        self._stores[who].withdraw(self._ref, _id(who))

    def current(self, who: str) -> object:
        """Read what is current."""
        version = self._stores[who].current(self._ref)
        return _name(version.rotation_id), _value(version.credential)

    def kept(self, who: str) -> object:
        """Read every value there is."""
        found = [_value(version.credential) for version in self._stores[who].kept(self._ref)]
        return sorted(set(found))

    def declare(self, who: str) -> object:
        """Say that a key may be minted."""
        store, until = self._stores[who], SINCE + timedelta(hours=1)
        store.declare(self._ref, Intent(f"intent-{who}", SINCE, until, frozenset({"K9"})))
        return self._intents(store)

    def settle(self, who: str) -> object:
        """Say that its outcome is known."""
        store = self._stores[who]
        store.settle(self._ref, [f"intent-{who}"])
        return self._intents(store)

    def stand(self, who: str) -> object:
        """Be a follow-up: see what stands."""
        standing = self._stores[who].standing(self._ref)
        return tuple(_name(each) for each in (standing.current, standing.pending))

    def clear(self, who: str) -> None:
        """Be a follow-up: the old credential is dead."""
        store = self._stores[who]
        previous = store.standing(self._ref).previous
        store.clear_previous(self._ref, previous or _id(who))

    # ------------------------------------------------------------------------ the core

    def step(self, which: Step, who: str) -> object:
        """Perform one step of the real rotation, in the worker that has come last."""
        store = self._stores[who]
        target = self._target()
        rotation = Rotation(
            self._ref, _id(who), store=store, targets=lambda _: target, clock=self._clock
        )
        return rotation.perform(which).value

    def accepted(self) -> bool:
        """Tell whether a reader can log in."""
        held = json.loads(self._side.secret.current())
        return self._database.would_accept(
            Credential(held["username"], Sensitive(held["password"]))
        )

    def _target(self) -> Target:
        def fresh() -> Sensitive:
            return Sensitive(f"Canary7-made-{self._made}")

        if self._strategy == "single":
            return SingleUser(self._database, fresh)
        admin = Credential("admin", Sensitive(ADMIN))
        return AlternatingUsers(self._database, fresh, pair_by_suffix, lambda: admin)

    def _intents(self, store: Store) -> object:
        return sorted((each.name, *sorted(each.foreign)) for each in store.intents(self._ref))


def _id(who: str) -> RotationId:
    return RotationId(TOKENS[who])


def _name(rotation_id: RotationId | None) -> str:
    names = {token: name for name, token in TOKENS.items()}
    return "" if rotation_id is None else names.get(rotation_id, BY_HAND)


def _value(credential: Credential) -> tuple[str, str]:
    return credential.principal, credential.secret.reveal()


def _step(step: Step) -> Callable[[Actor, str], object]:
    return lambda actor, who: actor.step(step, who)


MOVES: Mapping[str, Callable[[Actor, str], object]] = {
    "begin": Actor.begin,
    "abandon": Actor.abandon,
    "write": Actor.write,
    "arrive": Actor.arrive,
    "look": Actor.look,
    "stage": Actor.stage,
    "staged": Actor.staged,
    "promote": Actor.promote,
    "withdraw": Actor.withdraw,
    "current": Actor.current,
    "kept": Actor.kept,
    "declare": Actor.declare,
    "settle": Actor.settle,
    "stand": Actor.stand,
    "clear": Actor.clear,
    **{step.value: _step(step) for step in Step},
}
"""All there are."""

OF_NOBODY = frozenset({"abandon", "write"})
"""Moves of an operator."""


# ---------------------------------------------------------------------------- side by side


@dataclass(frozen=True, slots=True)
class Pair:
    """One move on both sides."""

    trace: tuple[Move, ...]
    aws: Seen
    google: Seen

    @property
    def move(self) -> Move:
        """The last of the trace."""
        return self.trace[-1]


@dataclass
class Compared:
    """What was compared, and what differed."""

    moves: Counter[str] = field(default_factory=Counter)
    differing: Counter[str] = field(default_factory=Counter)
    unknown: list[Pair] = field(default_factory=list)


class Pairing:
    """Both sides. Enter it.

    Args:
        make: The Google-shaped store. Anything but the real one is a mistake planted by a test.
    """

    def __init__(self, make: type[SecretManager] = SecretManager) -> None:
        self._make = make
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._clock = FakeClock()
        self._aws = AwsSide(self._stack.enter_context(AwsVault()))
        google = self._stack.enter_context(GoogleVault())
        self._google = GoogleSide(google, self._clock, self._make)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def play(self, strategy: str, trace: Sequence[Move]) -> Iterator[Pair]:
        """Make the moves on both sides, and yield each with what became of it."""
        first = json.dumps({"username": "app", "password": FIRST})
        self._aws.keep(first)
        self._google.keep(first)
        actors = [Actor(side, strategy, self._clock) for side in (self._aws, self._google)]
        for number, move in enumerate(trace, 1):
            aws, google = (actor.make(move) for actor in actors)
            yield Pair(tuple(trace[:number]), aws, google)

    def compare(self, strategy: str, trace: Sequence[Move], compared: Compared) -> None:
        """Play a trace, until the slots differ, or what a worker has seen of them.

        What may differ is in `DIFFERENCES`.
        """
        for pair in self.play(strategy, trace):
            compared.moves[pair.move.name] += 1
            if pair.aws == pair.google:
                continue
            known = next((name for name, each in DIFFERENCES.items() if each.holds(pair)), "")
            if known:
                compared.differing[known] += 1
            elif self._is_noticed(pair):
                compared.differing[LATE] += 1
                continue
            elif self._is_first(pair):
                compared.differing[FIRST_HAND] += 1
            else:
                compared.unknown.append(pair)
            has_parted = pair.move.name == "look" and pair.aws.ended != pair.google.ended
            if has_parted or pair.aws.slots != pair.google.slots:
                return

    def _is_noticed(self, pair: Pair) -> bool:
        """Let somebody look; tell whether that is all that was missing to be the same."""
        if (pair.aws.ended, pair.aws.answer) != (pair.google.ended, pair.google.answer):
            return False
        self._google.store().standing(SecretRef(self._google.secret.ref))
        return self._google.slots() == pair.aws.slots

    def _is_first(self, pair: Pair) -> bool:
        """Tell whether only the previous slot is missing, as nothing has been recorded yet."""
        aws, google = pair.aws, replace(pair.google, slots=self._google.slots())
        slots = {**google.slots, "previous": aws.slots["previous"]}
        return aws == replace(google, slots=slots) and not self._google.is_recorded()


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing in which the stores differ.

    Attributes:
        holds: Tells whether that is what has differed.
        reason: Why it does, and why no promise is broken by it.
    """

    holds: Callable[[Pair], bool]
    reason: str


def _is_unbegun(pair: Pair) -> bool:
    """AWS refuses a rotation that it has not labelled; Google takes it for a new one."""
    if pair.move.name == "stage" and pair.aws.ended == pair.google.ended == "ok":
        return not pair.aws.slots["pending"]  # The version is there, and has lost its label.
    is_begun_here = pair.move.name in {"look", "staged", Step.CREATE.value, Step.TEST.value}
    return is_begun_here and pair.aws.ended == "Busy" and pair.google.ended in _AS_NEW


_AS_NEW = {"ok", "NotYetAccepted"}
"""How a step of a new rotation may end."""


def _is_label(pair: Pair) -> bool:
    """AWS names a rotation that has no value yet."""
    aws, google = pair.aws, pair.google
    if not isinstance(aws.answer, tuple) or not isinstance(google.answer, tuple):
        return False
    is_same = (aws.ended, aws.answer[0]) == (google.ended, google.answer[0])
    return is_same and not google.answer[1] and not aws.slots["pending"]


def _is_unguarded(pair: Pair) -> bool:
    """AWS stages by what is no longer so; Google compares."""
    return pair.move.name == "stage" and (pair.aws.ended, pair.google.ended) == ("ok", "Busy")


def _is_empty(pair: Pair) -> bool:
    """AWS lets current move to a version without a value."""
    ended = (pair.aws.ended, pair.google.ended)
    return pair.move.name == "promote" and ended == ("ok", "Busy") and not pair.aws.slots["current"]


def _is_overtaken(pair: Pair) -> bool:
    """AWS compares current alone; Google also whether the rotation still has the slot."""
    ended = (pair.aws.ended, pair.google.ended)
    return pair.move.name == "promote" and ended == ("ok", "Busy") and not _is_empty(pair)


def _is_done(pair: Pair) -> bool:
    """AWS refuses, and Google has nothing to do: it was promoted, and something else came since."""
    ended = (pair.aws.ended, pair.google.ended)
    promoting = {"promote", Step.FINISH.value}
    before = any(m.name in promoting and m.who == pair.move.who for m in pair.trace[:-1])
    is_same = pair.aws.slots == pair.google.slots
    return pair.move.name == "promote" and ended == ("Busy", "ok") and is_same and before


LATE, FIRST_HAND = "a value stored by hand", "a value stored by hand before any rotation"
DIFFERENCES: Mapping[str, Difference] = {
    "an event of a rotation that was not begun": Difference(
        _is_unbegun,
        "Secrets Manager labels a version before it calls anybody. Secret Manager knows of a"
        " rotation by its event alone, and takes one it does not know, a cancelled one too, for a"
        " new one.",
    ),
    "a rotation without a value": Difference(
        _is_label, "Secrets Manager shows the empty version as pending; here nothing pends yet."
    ),
    "staging by an old look": Difference(
        _is_unguarded,
        "PutSecretValue has no precondition, so whoever comes late takes the slot, and every value"
        " is kept; the record of the companion is guarded, and whoever comes late is refused.",
    ),
    "promotion of a rotation without a value": Difference(
        _is_empty,
        "UpdateSecretVersionStage moves AWSCURRENT to a version that is empty. The port does as its"
        " service does, the core asks for the value first: `finish` is refused on both.",
    ),
    "promotion of a rotation that has lost the slot": Difference(
        _is_overtaken,
        "UpdateSecretVersionStage compares AWSCURRENT alone, so the core reads the slot right"
        " before; here one guarded write compares both.",
    ),
    "promotion of what was current once": Difference(
        _is_done,
        "To the worker that has promoted it there is nothing left to do, and that is what is"
        " answered here, whatever has come since; that stays current on both.",
    ),
    LATE: Difference(
        lambda _: False,  # Seen by looking: `Pairing` does that.
        "It is current for readers at once on both. Secret Manager has no labels that would move by"
        " themselves: the other slots are moved by the next look, of anybody.",
    ),
    FIRST_HAND: Difference(
        lambda _: False,
        "Nothing has been recorded yet, so nothing is known to have been before.",
    ),
}
"""All that may differ."""


def table(compared: Compared) -> str:
    """Draw what a proof prints."""
    moves = sum(compared.moves.values())
    lines = [f"{moves} moves on both stores; they differed in what they may:"]
    lines += [f"  {compared.differing[name]:6}  {name}" for name in DIFFERENCES]
    lines += [f"and in what they may not: {len(compared.unknown)}"]
    lines += [f"  {', '.join(map(str, pair.trace))}" for pair in compared.unknown[:10]]
    return "\n".join(lines)


def generated(seed: str, count: int) -> Iterator[tuple[str, list[Move]]]:
    """Yield so many traces, with their strategies; the same ones for the same seed."""
    lots = _Lots(seed)
    for number in range(count):
        yield STRATEGIES[number % len(STRATEGIES)], _trace(lots)


class _Lots:
    """Draws the same lots for the same seed."""

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._numbers = itertools.count(1)

    def one_of(self, choices: Sequence[str]) -> str:
        """Draw one."""
        drawn = hashlib.sha256(f"{self._seed} {next(self._numbers)}".encode()).digest()
        return choices[int.from_bytes(drawn[:8]) % len(choices)]


def _trace(lots: _Lots) -> list[Move]:
    """Let a rotation go on with every second move, so that some end; the rest is chance."""
    moves, begun, coming = [Move("begin", "a")], "a", list(Step)
    while len(moves) < LONGEST:
        if not coming:
            begun, coming = lots.one_of(list(TOKENS)), list(Step)
            moves.append(Move("begin", begun))
        elif lots.one_of(["goes on", "anything"]) == "goes on":
            moves.append(Move(coming.pop(0).value, begun))
        else:
            name = lots.one_of(list(MOVES))
            # Mostly whose turn it is: what others do is refused, and shows less.
            who = lots.one_of([*TOKENS, *[begun] * 6])
            moves.append(Move(name, "" if name in OF_NOBODY else who))
    return moves
