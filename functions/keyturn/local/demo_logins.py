"""Who logs in during the demo: the application, and the prober.

    application   does what any client does: read what is current, log in with it, SELECT 1;
                  or ask STS whose key it is
    probe         tries every version that it has seen, current or not, over and over

Both write down what they saw in one `Notebook`. A password lives in a `StoredLogin` only, from
the read to the login; it is in no repr, no error and no recording. Any failure to log in counts
as a refusal, whatever its cause: an application is out either way.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from keyturn.local.demo_recording import KnownVersion, Login, Look, Try, Verdict

PAUSE_S = 0.005
"""Seconds between two logins of the application: nearly none, but others want the CPU, too."""

PROBE_EVERY_S = 0.025
"""Seconds from one round of the prober to the next; a round tries every version once."""


class Reader(Protocol):
    """Somebody who may read the secret, with a connection of their own.

    What is read is a version's id, and the value as it is stored.
    """

    def current(self) -> tuple[str, str]:
        """Read what the store serves."""
        ...

    def pending(self) -> tuple[str, str] | None:
        """Read what the store keeps for later; None if there is nothing, or it shows nobody."""
        ...


@dataclass(frozen=True, slots=True)
class StoredLogin:
    """One version's value, as the store gave it.

    Attributes:
        turn: Held while it is tried: of two tries at the same time, nobody could say which was
            answered first.
    """

    version_id: str
    user: str
    value: Mapping[str, str] = field(repr=False)
    turn: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)


class Notebook:
    """What was seen, in the order in which it was seen. Safe to use from any thread.

    Args:
        lets_in: Asks the database, or whoever it is, whether it accepts a value.
        clock: Seconds since the beginning.
    """

    def __init__(
        self, lets_in: Callable[[Mapping[str, str]], bool], clock: Callable[[], float]
    ) -> None:
        self.clock = clock
        self.logins: list[Login] = []
        self.looks: list[Look] = []
        self.tries: list[Try] = []
        self._lets_in = lets_in
        self._lock = threading.Lock()
        self._known: dict[str, StoredLogin] = {}

    @property
    def known(self) -> tuple[StoredLogin, ...]:
        """Every version seen so far, in the order of appearance."""
        with self._lock:
            return tuple(self._known.values())

    @property
    def versions(self) -> tuple[KnownVersion, ...]:
        """The same without passwords."""
        return tuple(KnownVersion(login.version_id, login.user) for login in self.known)

    def read_current(self, store: Reader) -> StoredLogin:
        """Read what the store serves."""
        login = self._noted(*store.current())
        self.looks.append(Look(self.clock(), login.version_id))
        return login

    def read_pending(self, store: Reader) -> None:
        """Read what the store keeps for later, if there is something."""
        if (found := store.pending()) is not None:
            self._noted(*found)

    def try_out(self, login: StoredLogin) -> bool:
        """Ask whether *login* is accepted."""
        with login.turn:
            works = self._lets_in(login.value)
            # When the answer is here: the server decides at the very end of a login.
            self.tries.append(Try(self.clock(), login.version_id, works))
        return works

    def _noted(self, version_id: str, text: str) -> StoredLogin:
        login = _stored_login(version_id, text)
        with self._lock:
            return self._known.setdefault(login.version_id, login)


def application(notebook: Notebook, stopped: threading.Event, *, store: Reader) -> None:
    """Log in with what is current, until *stopped*."""
    while not stopped.wait(PAUSE_S):
        began_s = notebook.clock()
        login = notebook.read_current(store)
        verdict = _enter(notebook, store, login)
        notebook.logins.append(Login(began_s, notebook.clock(), login.version_id, verdict))


def probe(notebook: Notebook, stopped: threading.Event, *, store: Reader) -> None:
    """Try every version, until *stopped*."""
    left_s = 0.0
    while not stopped.wait(left_s):
        began_s = notebook.clock()
        notebook.read_current(store)
        notebook.read_pending(store)
        for login in notebook.known:
            notebook.try_out(login)
        left_s = max(0.0, began_s + PROBE_EVERY_S - notebook.clock())


def _enter(notebook: Notebook, store: Reader, login: StoredLogin) -> Verdict:
    if notebook.try_out(login):
        return Verdict.IN
    fresh = notebook.read_current(store)
    if fresh.version_id != login.version_id and notebook.try_out(fresh):
        return Verdict.FRESH_READ
    return Verdict.FAILED


def _stored_login(version_id: str, text: str) -> StoredLogin:
    value = json.loads(text)
    return StoredLogin(version_id, value["username"], value)
