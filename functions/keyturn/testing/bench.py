"""Where the crash sweep works: a store, a server, a proxy before each, and killable workers.

    worker --> proxy --> `StrictSecretsManager`     (in this process; its state is read directly)
           --> proxy --> the laboratory's server

What runs in a worker is what is deployed. It talks to either through the proxy, where each exchange
is counted and may be broken. The test reads the store's raw state, and the server past the proxy.
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
from keyturn.testing.strict_secrets_manager import (
    CURRENT,
    PENDING,
    REGION,
    StoredVersion,
    StrictSecretsManager,
)

FUNCTION_ARN = f"arn:aws:lambda:{REGION}:123456789012:function:keyturn-proof"


class Line(Enum):
    """To whom an exchange goes."""

    STORE = "the store"
    SERVER = "the server"


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


class Vault:
    """The store, as the operator and the scheduler have it. Nothing here is a call of the API."""

    def __init__(self, store: StrictSecretsManager) -> None:
        self._store = store
        self._kept: list[str] = []

    def keep(self, document: str) -> Secret:
        """Make a secret with a first value."""
        made = self._store.operate(
            "CreateSecret",
            Name=f"proof/{os.urandom(6).hex()}",
            SecretString=document,
            ClientRequestToken=_unused_token(),
        )
        self._kept.append(made["ARN"])
        return Secret(self._store, made["ARN"])

    def clear(self) -> None:
        """Delete what was kept, so that a long sweep stays as fast as it began."""
        while self._kept:
            ref = self._kept.pop()
            self._store.operate("DeleteSecret", SecretId=ref, ForceDeleteWithoutRecovery=True)

    def throttle(self) -> None:
        """Refuse the next call."""
        self._store.throttle(1)

    def be_stale(self) -> None:
        """Let reads see the state before the last change, until `mend`."""
        self._store.stale_reads(sys.maxsize)

    def mend(self) -> None:
        """Be as ever again."""
        self._store.mend()


class Secret:
    """One secret. Reading it is no call, and neither is what the service or an operator does."""

    def __init__(self, store: StrictSecretsManager, ref: str) -> None:
        self._store = store
        self.ref = ref

    def begin(self, token: str) -> None:
        """Label a new, empty version pending, as the service does before it calls a function.

        A rotation that is begun already is gone through again, with what it has left; another
        one under way is abandoned.
        """
        if token in {version.version_id for version in self._versions()}:
            return
        if self.holder(PENDING) != self.holder(CURRENT):
            self.abandon()
        self._store.operate(
            "RotateSecret",
            SecretId=self.ref,
            ClientRequestToken=token,
            RotationLambdaARN=FUNCTION_ARN,
        )

    def abandon(self) -> None:
        """Cancel the rotation and take its label off, as API_CancelRotateSecret tells one to."""
        pending = self.holder(PENDING)
        if pending:
            self._store.operate("CancelRotateSecret", SecretId=self.ref)
            self._store.operate(
                "UpdateSecretVersionStage",
                SecretId=self.ref,
                VersionStage=PENDING,
                RemoveFromVersionId=pending,
            )

    def write(self, value: str) -> None:
        """Put a value by hand: it becomes current, and a rotation under way is abandoned."""
        self._store.operate(
            "PutSecretValue",
            SecretId=self.ref,
            SecretString=value,
            ClientRequestToken=_unused_token(),
        )

    def holder(self, label: str) -> str:
        """Return the id of the version with *label*, or ""."""
        return self._store.labels(self.ref).get(label, "")

    def current(self) -> str:
        """Return what readers get."""
        return next(_text(v) for v in self._versions() if CURRENT in v.labels)

    def kept(self) -> Iterable[str]:
        """Return every value there is."""
        return [_text(version) for version in self._versions() if version.value is not None]

    def _versions(self) -> list[StoredVersion]:
        return self._store.versions(self.ref)


def _text(version: StoredVersion) -> str:
    assert version.value is not None
    return version.value.reveal()


def _unused_token() -> str:
    return os.urandom(18).hex()


Perform = Callable[[dict[str, str]], str]
"""Performs the step of an event: "ok", the error, or how the process ended instead."""

_OVER = {"ended", "killed"}
"""What is said when a rotation's process is gone; "ended" at a step is an error of no class."""

_OF_A_STRANGER = ("AWS_", "KEYTURN_", "PG")
"""Variables of whoever runs this that would change what a worker does."""


class Worker:
    """The process that performs steps; see `keyturn.testing.worker`."""

    def __init__(
        self, store: StrictSecretsManager, store_port: int, deployed: Mapping[str, str]
    ) -> None:
        settings = store.settings()
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(_OF_A_STRANGER)},
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{store_port}",
            "AWS_DEFAULT_REGION": settings["region_name"],
            "AWS_ACCESS_KEY_ID": settings["aws_access_key_id"],
            "AWS_SECRET_ACCESS_KEY": settings["aws_secret_access_key"],
            "AWS_EC2_METADATA_DISABLED": "true",
            "KEYTURN_SECRETS": "*",
            "KEYTURN_ADMIN_SECRETS": "*",
            **deployed,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "keyturn.testing.worker", FUNCTION_ARN],
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

        def perform(event: dict[str, str]) -> str:
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

    Attributes:
        vault: The store.
        workers: Two, for a rotation that overtakes another.
        points: Where each exchange went, since the last `arm`.
    """

    def __init__(self, laboratory: Laboratory) -> None:
        self.laboratory = laboratory
        self.interrupt: Interrupt = let_pass
        self.points: list[Line] = []
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        store = self._stack.enter_context(StrictSecretsManager())
        self.vault = Vault(store)
        self._store = self._stack.enter_context(Proxy(store.port))
        self._server = self._stack.enter_context(Proxy(self.laboratory.server_port))
        deployed = self.laboratory.environment
        self.workers = [Worker(store, self._store.port, deployed) for _ in range(2)]
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
        self._store.reset(self._asking(Line.STORE, interrupt))
        self._server.reset(self._asking(Line.SERVER, interrupt))

    def _asking(self, line: Line, interrupt: Interrupt) -> Interrupt:
        def at(_: int, moment: Moment) -> Verdict:
            with self._lock:
                if moment is Moment.BEFORE:
                    self.points.append(line)
                number = len(self.points)
            return interrupt(number, moment)

        return at

    def release(self) -> None:
        """Let what was held reach the servers."""
        self._store.release()
        self._server.release()

    def furnish(self) -> tuple[Subject, Secret]:
        """Make a subject and its secret; what was kept for another one is gone."""
        self.vault.clear()
        subject = self.laboratory.furnish(self.vault, self._server.port)
        return subject, self.vault.keep(subject.document)

    def token(self) -> str:
        """Return a rotation id that was not used before."""
        return f"{os.getpid():0>8}-{next(self._numbers):0>27}"
