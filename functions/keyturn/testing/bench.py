"""Where the crash sweep works: a store, a server, what counts the calls of each, killable workers.

    worker --> a `Vault`            `bench_aws`, `bench_google`: in this process, its state is read
           --> proxy --> the laboratory's server

What runs in a worker is what is deployed. Each of its exchanges with either is counted, and may be
broken. The test reads the store's raw state, and the server past the proxy.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from types import TracebackType
from typing import ClassVar, Protocol, Self

from keyturn import wiring
from keyturn.testing.faults import Interrupt, Moment, Proxy, Verdict, let_pass


class Line(Enum):
    """To whom an exchange goes."""

    STORE = "the store"
    SERVER = "the server"
    GOODBYE = "the server, which sends no answer"


Event = dict[str, str]
"""What a function is called with."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a step is given.

    Attributes:
        tries: How often the SDK makes a call.
        read_timeout_s: How long it waits for an answer.
        remaining_s: How long the function may still run; every time-out of a target is shorter.
    """

    tries: int = 1
    read_timeout_s: float = wiring.READ_TIMEOUT_S
    remaining_s: float = 20.0


ONE_TRY = Limits()
"""The code sees every fault itself."""
AS_DEPLOYED = Limits(tries=wiring.TRIES)
HURRIED = Limits(read_timeout_s=0.3, remaining_s=1.4)
"""Time-outs that a sweep can wait for, and that a busy machine does not reach by itself."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One secret's worth of logins.

    Attributes:
        document: The secret's first value.
        logins: Every name that its rotations may use.
    """

    document: str
    logins: frozenset[str]


class Laboratory(Protocol):
    """A target and a strategy, on a real server that starts and ends with the `with` block.

    It is made without arguments, in the file of its engine in `keyturn.testing.laboratories`.

    Attributes:
        NAME: "PostgreSQL, single user", for the table.
        SLOTS: How many credentials of a subject are accepted at once.
        SERVER: What is needed, and
        INSTALL: how it is got, in a word each; for who lacks it.
        environment: What the function is deployed with, besides.
    """

    NAME: ClassVar[str]
    SLOTS: ClassVar[int]
    SERVER: ClassVar[str]
    INSTALL: ClassVar[str]
    environment: Mapping[str, str]

    @classmethod
    def is_available(cls) -> bool:
        """Tell whether the server is installed."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    @property
    def server_port(self) -> int:
        """Where the server listens; documents name the proxy's port instead."""
        ...

    def furnish(self, vault: Vault, proxy_port: int) -> Subject:
        """Make fresh logins, with their document; an admin's secret goes into *vault*."""
        ...

    def accepts(self, document: str) -> bool:
        """Tell whether a reader could log in. It may be known from the server's record."""
        ...

    def logs_in(self, document: str) -> bool:
        """Log in directly, as a reader of the secret would. Called from many threads."""
        ...

    def others(self, subject: Subject) -> object:
        """Return all that the server holds besides the subject's logins, for comparison."""
        ...

    def rights(self, document: str) -> object:
        """Return what the document's login may do and is limited to, for comparison."""
        ...

    def change_by_hand(self, subject: Subject) -> None:
        """Give every login of the subject a password that no version holds."""
        ...

    def log_text(self) -> str:
        """Return what the server wrote so far: no password may be in it."""
        ...


class Secret(Protocol):
    """One secret. Reading it is no call, and neither is what its service or an operator does."""

    @property
    def ref(self) -> str:
        """Its full name."""
        ...

    def begin(self, token: str) -> None:
        """Do what the platform does before it calls a function with a rotation id.

        A rotation that is begun already is gone through again, with what it has left; another
        one under way is abandoned.
        """
        ...

    def steps(self, token: str) -> Iterable[tuple[str, Event]]:
        """Return what the platform calls the function with, in order; each step has a name."""
        ...

    def abandon(self) -> None:
        """Cancel the rotation that is under way, as its service's documentation tells one to."""
        ...

    def write(self, value: str) -> None:
        """Store a value by hand: it becomes current, and a rotation under way is abandoned."""
        ...

    def is_current(self, token: str) -> bool:
        """Tell whether readers get what that rotation has made."""
        ...

    def pending(self) -> str:
        """Return the token of the rotation that is under way, or ""."""
        ...

    def current(self) -> str:
        """Return what readers get."""
        ...

    def served(self) -> Iterable[str]:
        """Return what readers may get, by any name that they may read a version by."""
        ...

    def kept(self) -> Iterable[str]:
        """Return every value there is."""
        ...


class Vault(Protocol):
    """A store, as the operator and the scheduler have it, and the line to it.

    It starts and ends with the `with` block. Nothing here but what comes by the line is a call.

    Attributes:
        FUNCTION: What the workers are told to be; see `keyturn.testing.worker`.
    """

    FUNCTION: ClassVar[str]

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def environment(self) -> Mapping[str, str]:
        """Return where the store is, and what a function is deployed with."""
        ...

    def keep(self, document: str) -> Secret:
        """Make a secret with a first value."""
        ...

    def clear(self) -> None:
        """Delete what was kept, so that a long sweep stays as fast as it began."""
        ...

    def throttle(self) -> None:
        """Refuse the next call."""
        ...

    def be_stale(self) -> None:
        """Let reads see the state before the last change, until `mend`."""
        ...

    def mend(self) -> None:
        """Be as ever again."""
        ...

    def arm(self, interrupt: Interrupt) -> None:
        """Ask *interrupt* at each moment of each call."""
        ...

    def release(self) -> None:
        """Let what was held reach the store."""
        ...


Perform = Callable[[Event], str]
"""Performs the step of an event: "ok", the error, or how the process ended instead."""

_OVER = {"ended", "killed"}
"""What is said when a rotation's process is gone; "ended" at a step is an error of no class."""

_OF_A_STRANGER = ("AWS_", "KEYTURN_", "PG")
"""Variables of whoever runs this that would change what a worker does."""


class Worker:
    """The process that performs steps; see `keyturn.testing.worker`."""

    def __init__(self, function: str, deployed: Mapping[str, str]) -> None:
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(_OF_A_STRANGER)},
            "KEYTURN_SECRETS": "*",
            "KEYTURN_ADMIN_SECRETS": "*",
            **deployed,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "keyturn.testing.worker", function],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._pid = 0

    def await_ready(self) -> None:
        """Wait until it makes no calls of its own any more: they would be counted."""
        assert self._line() == "ready", "the worker died"

    @contextlib.contextmanager
    def rotation(self, limits: Limits) -> Iterator[Perform]:
        """Start a process for one rotation, and yield what performs its steps."""
        self._tell("begin", asdict(limits))
        self._pid = int(self._line())
        said = ""

        def perform(event: Event) -> str:
            nonlocal said
            self._tell("step", event)
            said = self._line()
            return said

        yield perform
        if said not in _OVER:
            self._tell("end")
            assert self._line() in _OVER

    def kill(self) -> None:
        """Kill the step that is being performed, as the platform does at a time-out."""
        with contextlib.suppress(ProcessLookupError):  # a goodbye may come after the end
            os.kill(self._pid, signal.SIGKILL)

    def stop(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(10)

    def _tell(self, word: str, told: Mapping[str, object] | None = None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word} {json.dumps(told or {})}\n")
        self._process.stdin.flush()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().rstrip("\n")


class Bench:
    """Everything that the scenarios of one laboratory need.

    Args:
        laboratory: The target, started.
        vault: The store, started here.

    Attributes:
        workers: Two, for a rotation that overtakes another.
        points: Where each exchange went, since the last `arm`.
    """

    def __init__(self, laboratory: Laboratory, vault: Vault) -> None:
        self.laboratory = laboratory
        self.vault = vault
        self.interrupt: Interrupt = let_pass
        self.points: list[Line] = []
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self.vault)
        self._server = self._stack.enter_context(Proxy(self.laboratory.server_port))
        deployed = {**self.vault.environment(), **self.laboratory.environment}
        self.workers = [Worker(self.vault.FUNCTION, deployed) for _ in range(2)]
        for worker in self.workers:
            self._stack.callback(worker.stop)
        for worker in self.workers:
            worker.await_ready()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def arm(self, interrupt: Interrupt) -> None:
        """Count exchanges from 1, through either proxy, and ask *interrupt* at each moment."""
        if interrupt is self.interrupt:
            return  # a second rotation under the same eyes
        self.points, self.interrupt = [], interrupt
        self.vault.arm(self._asking(Line.STORE, interrupt))
        self._server.reset(self._asking(Line.SERVER, interrupt))

    def _asking(self, line: Line, interrupt: Interrupt) -> Interrupt:
        unanswered = Line.GOODBYE if line is Line.SERVER else line
        numbers: dict[int, int] = {}

        def at(own: int, moment: Moment) -> Verdict:
            with self._lock:
                if moment is Moment.BEFORE:
                    self.points.append(unanswered)
                    numbers[own] = len(self.points)
                # One that began before the last `arm` is answered after it: it has no number.
                number = numbers.get(own, 0)
                if number and moment is Moment.AFTER:
                    self.points[number - 1] = line
            return interrupt(number, moment)

        return at

    def release(self) -> None:
        """Let what was held reach the servers."""
        self.vault.release()
        self._server.release()

    def furnish(self) -> tuple[Subject, Secret]:
        """Make a subject and its secret; what was kept for another one is gone."""
        self.vault.clear()
        subject = self.laboratory.furnish(self.vault, self._server.port)
        return subject, self.vault.keep(subject.document)

    def token(self) -> str:
        """Return a rotation id that was not used before."""
        return f"{os.getpid():0>8}-{next(self._numbers):0>27}"
