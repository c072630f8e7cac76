"""The demo on a local Google Cloud: whole rotations, and one that is followed to its end.

    LocalGoogle   Secret Manager, Pub/Sub, the real functions under functions-framework
      |  application, prober     log in all the time (`demo_logins`), with what `latest` says
      |  SECRET_ROTATE           published to the secrets' topic, as Secret Manager would
      v
    Recording, Aftermath         as on AWS; see `demo`

One cloud for all of it, since its functions live in this process; a database for each run. What the
functions log is read here and not shown.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from keyturn import generate
from keyturn.local.cloud import ADMIN_USER, APP_USER
from keyturn.local.database import Database, Engine, database
from keyturn.local.demo import REST_S, few_pauses, going_on, so_far
from keyturn.local.demo_aftermath import FOLLOW_UP, TICKS, Aftermath, Heard, Moment
from keyturn.local.demo_logins import Notebook, application, probe
from keyturn.local.demo_recording import GOOGLE, Recording, Rotated, StepRun
from keyturn.local.google import SECRETS, LocalGoogle
from keyturn.local.secret_manager import LocalSecretManager
from keyturn.model import Happening, Step, Strategy
from keyturn.testing.google_rest import Asked

FOLLOWED, SIGNING = "orders-followed", "signing"
"""The secret of the last act, and what its notices to the application are signed with."""

TICK = timedelta(minutes=5)
GOOGLE_TICKS = TICKS + 2
"""How often it is watched: Pub/Sub brings the second look some minutes after it is due."""

PLACES = ("application",)
MONTH = timedelta(days=30)

Report = Callable[[str, str, int], None]
"""Told of which run it is, what happens next, and how many rotations are done."""


class Stage:
    """The cloud of a demo. Enter it to start it.

    Attributes:
        google: The cloud.
        secrets: What was rotated on it, by full names.
    """

    def __init__(self, report: Report) -> None:
        self._report = report
        self._undo = contextlib.ExitStack()
        self._planned: dict[str, Any] = {}
        self.secrets: list[str] = []

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            folder = undo.enter_context(tempfile.TemporaryDirectory(prefix="keyturn-demo-"))
            self._plan = Path(folder) / "keyturn.yaml"
            self._write_plan()
            self._lines = undo.enter_context(_Lines())
            undo.enter_context(_quiet("werkzeug"))
            self._application = _Application()
            settings = {"KEYTURN_ADMIN_SECRETS": f"*-admin,{SIGNING}"}
            services = {"app": self._application.answer}
            self.google = LocalGoogle(None, self._plan, settings, services)
            undo.enter_context(self.google)
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._undo.close()

    # ------------------------------------------------------------------------ rotations

    def record(self, engine: Engine, strategy: Strategy, rotations: int) -> Recording:
        """Start a database, rotate a password of it, and return what was seen.

        Raises:
            KeyturnError: The database cannot be started.
        """
        tell = partial(self._report, strategy.value)
        with self._database(engine, tell) as kind:
            secret_id = f"orders-{engine.value}-{strategy.value}"
            ref = self._furnish(kind, engine, strategy, secret_id)
            return self._recorded(kind, ref, strategy, rotations, tell)

    @contextlib.contextmanager
    def _database(self, engine: Engine, tell: Callable[[str, int], None]) -> Iterator[Database]:
        kind = database(engine)
        tell(f"Starting {kind.NAME}", 0)
        try:
            kind.server.start()
            yield kind
        finally:
            kind.server.stop()

    def _furnish(
        self,
        kind: Database,
        engine: Engine,
        strategy: Strategy,
        secret_id: str,
        more: Mapping[str, object] | None = None,
    ) -> str:
        """Make the secret, its users, and its place in the plan; return its full name."""
        app = _login(kind, engine, APP_USER)
        planned: dict[str, object] = {"strategy": strategy.value, **(more or {})}
        admin = None
        if strategy is not Strategy.SINGLE_USER:
            admin = _login(kind, engine, ADMIN_USER)
            self.google.add_secret(f"{secret_id}-admin", admin)
            planned["admin"] = f"{secret_id}-admin"
        if strategy is Strategy.ALTERNATING_USERS:
            planned["users"] = [APP_USER, f"{APP_USER}_clone"]
        kind.admit(app, admin)
        self._planned[secret_id] = planned
        self._write_plan()
        ref = self.google.add_secret(secret_id, app, MONTH)
        self.secrets.append(ref)
        return ref

    def _write_plan(self) -> None:
        plan = {"version": 1, "secrets": self._planned}
        self._plan.write_text(yaml.safe_dump(plan), encoding="utf-8")

    def _recorded(
        self,
        kind: Database,
        ref: str,
        strategy: Strategy,
        rotations: int,
        tell: Callable[[str, int], None],
    ) -> Recording:
        reader = _Reader(self.google.secret_manager, ref)
        with few_pauses():
            began = time.time()
            notebook = Notebook(kind.lets_in, lambda: time.time() - began)
            loops = [partial(loop, notebook, store=reader) for loop in (application, probe)]
            with going_on(*loops):
                rotated, steps = self._rotate_often(ref, notebook, rotations, tell, began)
            length_s = notebook.clock()
        return Recording(
            kind.NAME,
            strategy,
            rotations,
            length_s,
            notebook.versions,
            tuple(rotated),
            tuple(steps),
            tuple(notebook.looks),
            tuple(notebook.tries),
            tuple(notebook.logins),
            GOOGLE,
        )

    def _rotate_often(
        self,
        ref: str,
        notebook: Notebook,
        rotations: int,
        tell: Callable[[str, int], None],
        began: float,
    ) -> tuple[list[Rotated], list[StepRun]]:
        done: list[Rotated] = []
        steps: list[StepRun] = []
        time.sleep(REST_S)
        for number in range(1, rotations + 1):
            tell(f"Rotation {number} of {rotations}, {so_far(notebook)}", number - 1)
            self._lines.take()
            done.append(self._rotate(ref, notebook.clock))
            told = [line for line in self._lines.take() if line.get("step") in _STEPS]
            steps += [_step_run(line, done[-1].version_id, began) for line in told]
            time.sleep(REST_S)
            if not done[-1].finished:
                break
        tell(f"Done, {so_far(notebook)}", len(done))
        return done, steps

    def _rotate(self, ref: str, clock: Callable[[], float]) -> Rotated:
        """Send a tick, and let happen what is due: the push is answered when it is done."""
        store = self.google.secret_manager
        before, calls = _newest(store, ref), len(store.calls)
        began_s = clock()
        tick = {"eventType": "SECRET_ROTATE", "secretId": ref}
        self.google.publish(SECRETS, tick, json.dumps({"name": ref}).encode())
        with contextlib.suppress(TimeoutError):
            self.google.wait_until(lambda: _newest(store, ref) > before)
        newest = _newest(store, ref)
        # Of the function that rotates: what follows makes some, too, and comes after it.
        rotating = store.calls[calls:]
        made = rotating.index("DestroySecretVersion") + 1 if newest > before else len(rotating)
        return Rotated(str(newest), began_s, clock(), newest > before, made)

    # ------------------------------------------------------------------------ the last act

    def record_follow_up(self) -> Aftermath:
        """Rotate once, with an application that is told, and watch the old login until it is dead.

        Raises:
            KeyturnError: The database cannot be started.
        """
        tell = partial(self._report, FOLLOW_UP)
        with self._database(Engine.POSTGRES, tell) as kind:
            key = base64.b64encode(secrets.token_bytes(32)).decode()
            self.google.add_secret(SIGNING, f"whsec_{key}")
            webhook = {"url": f"{self.google.endpoint}/app", "signing_secret": SIGNING}
            more = {
                "refresh": {"consumers": [{"webhook": webhook}]},
                "retire": {"when": "verified", "grace": "1h"},
            }
            ref = self._furnish(kind, Engine.POSTGRES, Strategy.ALTERNATING_USERS, FOLLOWED, more)
            return self._watched(kind, ref, tell)

    def _watched(self, kind: Database, ref: str, tell: Callable[[str, int], None]) -> Aftermath:
        store, application = self.google.secret_manager, self._application
        application.reads = lambda: json.loads(store.read(f"{ref}/versions/latest"))
        application.holds = old = application.reads()
        self.google.heard()
        self._rotate(ref, time.time)
        began = datetime.now(UTC)
        seen = _Seen()
        for tick in range(GOOGLE_TICKS + 1):
            if tick:
                self.google.advance(TICK)
            seen.logins += 1
            seen.refused += not kind.lets_in(application.holds)
            at_min = (datetime.now(UTC) - began).total_seconds() / 60
            has_new = application.holds == application.reads()
            seen.moments.append(Moment(at_min, (has_new,), kind.lets_in(old)))
            for told in self.google.heard():
                at = datetime.fromisoformat(told["at"])
                heard = Heard(
                    max(0.0, (at - began).total_seconds() / 60),
                    Happening(told["happening"]),
                    str(told["fact"]),
                )
                seen.heard.setdefault(str(told["id"]), heard)
            tell(f"{tick * 5} minutes later", tick)
        return Aftermath(
            FOLLOWED,
            PLACES,
            tuple(seen.moments),
            tuple(seen.heard.values()),
            seen.refused,
            seen.logins,
            GOOGLE,
        )


@dataclass
class _Seen:
    moments: list[Moment] = field(default_factory=list)
    heard: dict[str, Heard] = field(default_factory=dict)
    logins: int = 0
    refused: int = 0


class _Application:
    """Runs with a value until it is told of another, as an application does that reads at start.

    Attributes:
        holds: What it logs in with.
        reads: What it gets when it reads.
    """

    def __init__(self) -> None:
        self.holds: Mapping[str, str] = {}
        self.reads: Callable[[], Mapping[str, str]] = dict
        self._told = ""

    def answer(self, asked: Asked) -> Mapping[str, Any]:
        """Take a notice, or say how far it is; see `keyturn.consumers.webhook`."""
        if asked.method == "POST":
            self._told = str(asked.members["data"]["version"])
            self.holds = self.reads()
        version = asked.query.get("version", "")
        state = "followed" if version == self._told else "untold"
        return {"version": version, "state": state, "waits_for": "", "told": self._told}


class _Reader:
    """A `demo_logins.Reader`, past the wire: the calls that are counted are the function's.

    Secret Manager shows nobody a version that is pending.
    """

    def __init__(self, store: LocalSecretManager, ref: str) -> None:
        self._store = store
        self._ref = ref

    def current(self) -> tuple[str, str]:
        """See `Reader.current`: what `latest` names."""
        number = _newest(self._store, self._ref)
        return str(number), self._store.read(f"{self._ref}/versions/{number}")

    def pending(self) -> tuple[str, str] | None:
        """See `Reader.pending`."""
        return None


def _newest(store: LocalSecretManager, ref: str) -> int:
    return len(store.vault.look(ref).versions)


def _login(kind: Database, engine: Engine, user: str) -> dict[str, Any]:
    made = generate.password(generate.PasswordPolicy())
    named = {"dbname": kind.NAMESPACE} if kind.NAMESPACE else {}
    return {
        "engine": engine.value,
        "host": kind.server.host,
        "port": kind.server.port,
        **named,
        "username": user,
        "password": made.reveal(),
        "ssl": False,
    }


def _step_run(line: Mapping[str, Any], version_id: str, began: float) -> StepRun:
    error = f"{line['error']}: {line['reason']}" if "error" in line else ""
    ended_s = line[_AT] - began
    return StepRun(version_id, Step(line["step"]), ended_s, line["elapsed_ms"], error)


# ---------------------------------------------------------------------------- what is logged

_AT = "at_s"
_STEPS = frozenset(step.value for step in Step)


class _Lines:
    """Keeps what the functions log off standard output. Everything else passes."""

    def __init__(self) -> None:
        self._kept: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        self._before, sys.stdout = sys.stdout, self
        return self

    def __exit__(self, *_: object) -> None:
        sys.stdout = self._before

    def write(self, text: str) -> int:
        """See `io.TextIOBase.write`. A function writes a whole line, a JSON object."""
        if text.startswith(('{"severity"', '{"level"')):
            self._kept.append({**json.loads(text), _AT: time.time()})
            return len(text)
        return self._before.write(text)

    def take(self) -> list[dict[str, Any]]:
        """Return what was logged since the last time."""
        taken, self._kept = self._kept, []
        return taken

    def __getattr__(self, name: str) -> Any:
        return getattr(self._before, name)


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
