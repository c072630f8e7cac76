"""The crash sweep: break a rotation at every external call, and look whether one more run mends it.

    scenario  =  laboratory x earlier rotations x point x fault x recovery

The real code runs in a process of its own, one fork per step (`worker`), between two proxies
(`faults`): one before a faithful Secrets Manager, one before a real server. A *point* is the
number of an exchange through either, counted from the start of the rotation that is broken. At
every moment of every exchange a reader logs in with what the store serves.

    lock-out   no version the store keeps, and no admin, reaches the target
    stuck      one more run without faults does not end with its own version current and accepted
    reader     current was refused; with one slot, outside the time between set and finish
    orphan     a login or a version is left that no slot accounts for
    foreign    something changed that the rotation did not make
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
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self

from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.secretsmanager.models import secretsmanager_backends

from keyturn import wiring
from keyturn.local.aws import LocalAws
from keyturn.testing.faults import Interrupt, Moment, Proxy, Verdict

ONE_TRY, AS_DEPLOYED = 1, wiring.TRIES
"""How often the SDK makes a call. With one try, the code sees every fault itself."""
STALL_S = 4.0
"""How long a stalled worker is waited for, at the most: less than its own time-outs."""
STEPS = ("createSecret", "setSecret", "testSecret", "finishSecret")


class Fault(Enum):
    """What happens at the point."""

    KILL_BEFORE = "killed before"
    KILL_AFTER = "killed after"
    CUT_BEFORE = "request lost"
    CUT_AFTER = "reply lost"
    GONE_BEFORE = "nothing gets through from here"
    GONE_AFTER = "reply lost, then nothing"
    LATE = "effect lands late"
    VERY_LATE = "effect lands after the next rotation"
    STALL_BEFORE = "stalls before, wakes after another rotation"
    STALL_AFTER = "stalls after, wakes after another rotation"
    WRITTEN = "somebody writes a value"


OVERTAKEN = {Fault.STALL_BEFORE, Fault.STALL_AFTER}
"""Faults after which another rotation has come and gone before the broken worker goes on."""
NEW_ID_ONLY = {*OVERTAKEN, Fault.WRITTEN, Fault.VERY_LATE}
"""Faults that another rotation follows by their nature."""


class Recovery(Enum):
    """What happens next."""

    RETRY = "same id again"
    ABANDON = "abandoned, new id"
    ABANDON_TWICE = "abandoned twice"


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
    """A target and a strategy, on a real server. Add one for a new target."""

    NAME: ClassVar[str]
    SLOTS: ClassVar[int]

    @property
    def server_port(self) -> int:
        """Where the server listens; documents name the proxy's port instead."""
        ...

    def furnish(self, aws: LocalAws, proxy_port: int) -> Subject:
        """Make fresh logins, with their document; admin secrets go to *aws*."""
        ...

    def accepts(self, document: str) -> bool:
        """Log in directly, as a reader of the secret would."""
        ...

    def others(self, subject: Subject) -> object:
        """Return all that the server holds besides the subject's logins, for comparison."""
        ...

    def rights(self, document: str) -> object:
        """Return what the document's login may do and is limited to, for comparison."""
        ...

    def close(self) -> None:
        """Let go of the server."""
        ...


@dataclass(frozen=True, slots=True)
class Scenario:
    """One combination. `earlier` is how many clean rotations come first."""

    earlier: int
    point: int
    fault: Fault
    recovery: Recovery

    def __str__(self) -> str:
        """Say it in a line that a person can repeat."""
        return (
            f"after {self.earlier} rotations, point {self.point}: {self.fault.value},"
            f" then {self.recovery.value}"
        )


@dataclass(slots=True)
class Findings:
    """What went wrong in one scenario, in words. All empty is good."""

    lock_outs: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    reader_failures: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    healed: list[str] = field(default_factory=list)
    """Not wrong: a late effect broke current, and the next run mended it."""

    def __bool__(self) -> bool:
        """Tell whether there are any."""
        return any([self.lock_outs, self.stuck, self.reader_failures, self.orphans, self.foreign])


class Worker:
    """The process that performs steps; see `keyturn.testing.worker`."""

    def __init__(self, aws: LocalAws, store_port: int, tries: int) -> None:
        environment = {
            **os.environ,
            **aws.environment(),
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{store_port}",
            "AWS_EC2_METADATA_DISABLED": "true",
            "KEYTURN_SECRETS": "*",
            "KEYTURN_ADMIN_SECRETS": "*",
        }
        environment.pop("KEYTURN_REQUIRE_SERVERS", None)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "keyturn.testing.worker", str(tries)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._pid = 0

    def perform(self, event: dict[str, str]) -> str:
        """Perform one step: "ok", "killed", or the error."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(event) + "\n")
        self._process.stdin.flush()
        self._pid = int(self._line())
        return self._line()

    def kill(self) -> None:
        """Kill the step that is being performed, as the platform does at a time-out."""
        os.kill(self._pid, signal.SIGKILL)

    def stop(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(10)

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().rstrip("\n")


class Bench:
    """Two proxies, two workers and the store's raw state: for every scenario of a laboratory."""

    def __init__(self, aws: LocalAws, laboratory: Laboratory) -> None:
        self.aws = aws
        self.laboratory = laboratory
        self._store = Proxy(int(aws.endpoint_url.rsplit(":", 1)[1]))
        self._server = Proxy(laboratory.server_port)
        self._stack = contextlib.ExitStack()
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self.number = 0
        self.interrupt: Interrupt = _let_pass

    def __enter__(self) -> Self:
        self._stack.callback(self.laboratory.close)
        self._stack.enter_context(self._store)
        self._stack.enter_context(self._server)
        self.workers = {tries: self._worker(tries) for tries in (ONE_TRY, AS_DEPLOYED)}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _worker(self, tries: int) -> Worker:
        worker = Worker(self.aws, self._store.port, tries)
        self._stack.callback(worker.stop)
        return worker

    def arm(self, interrupt: Interrupt) -> None:
        """Count exchanges from 1, through either proxy, and ask *interrupt* at each moment."""
        if interrupt is self.interrupt:
            return  # a second rotation under the same eyes
        self.number, self.interrupt = 0, interrupt

        def at(_: int, moment: Moment) -> Verdict:
            with self._lock:
                self.number += moment is Moment.BEFORE
                number = self.number
            return interrupt(number, moment)

        self._store.reset(at)
        self._server.reset(at)

    def release(self) -> None:
        """Let what was held reach the servers."""
        self._store.release()
        self._server.release()

    def furnish(self) -> tuple[Subject, Secret]:
        """Make a subject and its secret."""
        subject = self.laboratory.furnish(self.aws, self._server.port)
        return subject, Secret.create(self.aws, subject.document)

    def token(self) -> str:
        """Return a rotation id that was not used before."""
        return f"{os.getpid():0>8}-{next(self._numbers):0>27}"


class Secret:
    """A secret in the local AWS, seen from the inside: reading it is no API call."""

    def __init__(self, record: Any) -> None:
        self._record = record
        self.ref: str = record.arn

    @classmethod
    def create(cls, aws: LocalAws, document: str) -> Secret:
        """Store *document* as the first version of a new secret."""
        import boto3

        client = boto3.client("secretsmanager", **aws.settings())
        made = client.create_secret(Name=f"proof/{os.urandom(6).hex()}", SecretString=document)
        backend = secretsmanager_backends[DEFAULT_ACCOUNT_ID][aws.region]
        return cls(backend.secrets[made["ARN"]])

    def begin(self, token: str) -> None:
        """Label a new, empty version pending, as the service does before it calls a function."""
        self.abandon()
        blank = {"version_id": token, "version_stages": [], "createdate": 0}
        self._record.versions.setdefault(token, blank)["version_stages"].append("AWSPENDING")

    def abandon(self) -> None:
        """Remove the pending label, as API_CancelRotateSecret tells an operator to."""
        for version in self._record.versions.values():
            if "AWSPENDING" in version["version_stages"]:
                version["version_stages"].remove("AWSPENDING")

    def write(self, value: str) -> None:
        """Put a value by hand: it becomes current, and a rotation under way is abandoned."""
        token, old = os.urandom(18).hex(), self.holder("AWSCURRENT")
        self.abandon()
        for version in self._record.versions.values():
            if "AWSPREVIOUS" in version["version_stages"]:
                version["version_stages"].remove("AWSPREVIOUS")
        self._record.versions[old]["version_stages"] = ["AWSPREVIOUS"]
        self._record.versions[token] = {
            "version_id": token,
            "version_stages": ["AWSCURRENT"],
            "secret_string": value,
            "createdate": time.time(),
        }

    def holder(self, label: str) -> str:
        """Return the id of the version with *label*, or ""."""
        found = [
            name
            for name, version in list(self._record.versions.items())
            if label in version["version_stages"]
        ]
        return found[0] if found else ""

    def current(self) -> str:
        """Return what readers get."""
        return str(self._record.versions[self.holder("AWSCURRENT")]["secret_string"])

    def kept(self) -> Iterable[str]:
        """Return every value there is."""
        versions = list(self._record.versions.values())
        return [version["secret_string"] for version in versions if "secret_string" in version]


class Run:
    """One scenario, or the clean run that counts its points."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._laboratory = bench.laboratory
        self.subject, self.secret = bench.furnish()
        self.findings = Findings()
        self._worker = bench.workers[AS_DEPLOYED]
        self._step = ""
        self._when = ""
        self._has_faults = self._woke_early = False
        self._others = bench.laboratory.others(self.subject)
        self._rights = bench.laboratory.rights(self.secret.current())

    def clean(self, earlier: int) -> int:
        """Rotate *earlier* times, and once more; return how many points that one has."""
        for _ in range(earlier + 1):
            self._rotate(self._bench.token(), self._watch)
        return self._bench.number

    def play(self, scenario: Scenario) -> Findings:
        """Rotate, break, recover, and look."""
        for _ in range(scenario.earlier):
            self._rotate(self._bench.token(), self._watch)
        if scenario.fault in OVERTAKEN:
            return self._overtake(scenario)
        token = self._bench.token()
        self._when = "broken"
        self._worker = self._bench.workers[_TRIES.get(scenario.fault, ONE_TRY)]
        self._break(token, scenario)
        rounds = {Recovery.RETRY: 0, Recovery.ABANDON: 1, Recovery.ABANDON_TWICE: 2}
        for left in reversed(range(rounds[scenario.recovery])):
            self.secret.abandon()
            token = self._bench.token()
            if left:
                self._break(token, scenario)
        self._when = "recovering"
        said = self._rotate(token, self._watch)
        if scenario.fault is Fault.VERY_LATE:
            self._land(scenario)
        else:
            self._look_at_the_end(token, said)
        return self.findings

    def _land(self, scenario: Scenario) -> None:
        """Let what was held reach the servers, and see one more run mend what it did."""
        self._bench.arm(_let_pass)
        self._bench.release()
        self._look_for_damage(scenario)
        self._run_once_more()

    def _look_for_damage(self, scenario: Scenario) -> None:
        if not self._laboratory.accepts(self.secret.current()):
            self.findings.healed.append(str(scenario))

    def _overtake(self, scenario: Scenario) -> Findings:
        """Let one worker stall, another rotation come and go, the worker wake, and one more run."""
        stalled, wake = threading.Event(), threading.Event()
        moment = Moment.AFTER if scenario.fault is Fault.STALL_AFTER else Moment.BEFORE

        def interrupt(number: int, now: Moment) -> Verdict:
            if number == scenario.point and now is moment and not stalled.is_set():
                stalled.set()
                self._woke_early = not wake.wait(STALL_S)
            return Verdict.PASS

        late = threading.Thread(target=self._rotate, args=[self._bench.token(), interrupt])
        late.start()
        stalled.wait(STALL_S)
        self._worker, token = self._bench.workers[ONE_TRY], self._bench.token()
        said = self._rotate(token, self._bench.interrupt)
        wake.set()
        late.join()
        stood = said == "ok" and self.secret.holder("AWSCURRENT") == token
        if not stood and not self._woke_early:
            self.findings.stuck.append(f"the other rotation: {said}")
        self._look_for_damage(scenario)
        self._run_once_more()
        return self.findings

    def _run_once_more(self) -> None:
        self._has_faults, self._when = True, "once more"
        token = self._bench.token()
        self._look_at_the_end(token, self._rotate(token, _let_pass))

    def _break(self, token: str, scenario: Scenario) -> None:
        self._has_faults = True
        self._rotate(token, self._breaking(scenario))
        if scenario.fault is not Fault.VERY_LATE:
            self._bench.arm(_let_pass)
            self._bench.release()
        self._look("at rest")

    def _breaking(self, scenario: Scenario) -> Interrupt:
        moment = Moment.AFTER if scenario.fault in _AFTER else Moment.BEFORE
        is_gone = False

        def interrupt(number: int, now: Moment) -> Verdict:
            nonlocal is_gone
            self._look_after(number, now)
            if is_gone:
                return Verdict.CUT
            if number != scenario.point or now is not moment:
                return Verdict.PASS
            if scenario.fault is Fault.WRITTEN:
                self.secret.write(self.secret.current())
                return Verdict.PASS
            is_gone = scenario.fault in _GONE
            if scenario.fault in _KILL:
                self._worker.kill()
            return Verdict.HOLD if scenario.fault in _HELD else Verdict.CUT

        return interrupt

    def _watch(self, number: int, moment: Moment) -> Verdict:
        self._look_after(number, moment)
        return Verdict.PASS

    def _look_after(self, number: int, moment: Moment) -> None:
        # Between an answer and the next request nothing can change.
        if moment is Moment.AFTER:
            self._look(f"after {number}")

    def _rotate(self, token: str, interrupt: Interrupt) -> str:
        """Run the steps as the service does: from the first, up to one that fails."""
        worker = self._worker
        self.secret.begin(token)
        self._bench.arm(interrupt)
        for step in STEPS:
            self._step = step
            said = worker.perform(
                {"Step": step, "SecretId": self.secret.ref, "ClientRequestToken": token}
            )
            if said != "ok":
                return f"{step}: {said}"
        return "ok"

    def _look(self, moment: str) -> None:
        """Be a reader of current; where current is refused, look whether anything is accepted."""
        if self._laboratory.accepts(self.secret.current()):
            return
        where = f"{self._when} {self._step} {moment}"
        # With one slot, from the act in set to the end of the rotation's recovery.
        may_fail = self._laboratory.SLOTS == 1 and (
            self._has_faults or self._step in {"setSecret", "testSecret", "finishSecret"}
        )
        if not may_fail:
            self.findings.reader_failures.append(where)
        if not any(map(self._laboratory.accepts, self.secret.kept())):
            self.findings.lock_outs.append(where)

    def _look_at_the_end(self, token: str, said: str) -> None:
        if said != "ok":
            self.findings.stuck.append(said)
        if self.secret.holder("AWSCURRENT") != token:
            self.findings.stuck.append("current is another version")
        if not self._laboratory.accepts(self.secret.current()):
            self.findings.stuck.append("current is refused")
        if self.secret.holder("AWSPENDING") not in {"", token}:
            self.findings.orphans.append("a pending version is left")
        if self._laboratory.others(self.subject) != self._others:
            self.findings.foreign.append("the server holds something else than before")
        if self._laboratory.rights(self.secret.current()) != self._rights:
            self.findings.foreign.append("the login may do something else than before")


_AFTER = {Fault.KILL_AFTER, Fault.CUT_AFTER, Fault.GONE_AFTER}
_GONE = {Fault.GONE_BEFORE, Fault.GONE_AFTER}
_TRIES = {Fault.CUT_BEFORE: AS_DEPLOYED, Fault.CUT_AFTER: AS_DEPLOYED}
_HELD = {Fault.LATE, Fault.VERY_LATE}
_KILL = {Fault.KILL_BEFORE, Fault.KILL_AFTER}


def _let_pass(number: int, moment: Moment) -> Verdict:
    del number, moment
    return Verdict.PASS


def scenarios(
    bench: Bench,
    *,
    earlier: Iterable[int] = (0, 1),
    faults: Iterable[Fault] = tuple(Fault),
    recoveries: Iterable[Recovery] = tuple(Recovery),
) -> Iterator[Scenario]:
    """Yield every combination, at every point that a clean run has."""
    for before in earlier:
        points = Run(bench).clean(before)
        for point, fault, recovery in itertools.product(range(1, points + 1), faults, recoveries):
            if recovery is Recovery.ABANDON or fault not in NEW_ID_ONLY:
                yield Scenario(before, point, fault, recovery)
