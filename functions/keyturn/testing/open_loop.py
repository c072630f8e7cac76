"""An open-loop client: logs in at a fixed rate, whether or not it is answered, while rotations run.

    schedule   every 1/rate seconds somebody reads what the store serves and logs in with it
    rotate     one rotation after the other, through the real code

A closed loop asks when it has its answer, so it asks least when the server is at its worst. This
one does not wait: what comes late is late, and counted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from statistics import quantiles

from keyturn.testing.bench import AS_DEPLOYED, Bench, Laboratory, Secret
from keyturn.testing.faults import let_pass

RATE_PER_S = 200
"""Logins."""
BATCH = 50
"""Rotations of one secret. The store keeps 100 versions of one, and none goes within a day."""
CLIENTS = 32
"""As many logins may be under way at once. More would be waiting: counted in `longest_ms`."""


@dataclass(slots=True)
class Load:
    """What one run came to.

    Attributes:
        rotations: How many ended with their own version as current.
        failed: What the others said.
        took_ms: Per login, from its appointed time to its answer.
        refused: How many of them were refused.
        length_s: From the first login to the last.
    """

    rotations: int = 0
    failed: list[str] = field(default_factory=list)
    took_ms: list[float] = field(default_factory=list)
    refused: int = 0
    length_s: float = 0.0

    @property
    def rate_per_s(self) -> float:
        """Return how many logins there were in a second."""
        return len(self.took_ms) / self.length_s if self.length_s else 0.0

    @property
    def p99_ms(self) -> float:
        """Return how long 99 of 100 took at the most."""
        return quantiles(self.took_ms, n=100)[-1]


def load(
    bench: Bench, *, rotations: int, rate_per_s: float = RATE_PER_S, report: Callable[[], None]
) -> Load:
    """Rotate so often under the client, and return what it saw.

    Args:
        bench: Of the laboratory.
        rotations: How many, one right after the other; of a new secret after each `BATCH`.
        rate_per_s: Logins in a second.
        report: Called after each rotation.
    """
    seen = Load()
    for first in range(0, rotations, BATCH):
        _, secret = bench.furnish()
        with _clients(seen, partial(_logs_in, bench.laboratory, secret), rate_per_s):
            for _ in range(first, min(first + BATCH, rotations)):
                said = _rotate(bench, secret)
                seen.rotations += said == "ok"
                seen.failed += [said] if said != "ok" else []
                report()
    return seen


def _logs_in(laboratory: Laboratory, secret: Secret) -> bool:
    """Be a client of the secret: read, and log in."""
    return laboratory.logs_in(secret.current())


def _rotate(bench: Bench, secret: Secret) -> str:
    token = bench.token()
    secret.begin(token)
    bench.arm(let_pass)
    with bench.workers[0].rotation(AS_DEPLOYED) as perform:
        for step, event in secret.steps(token):
            said = perform(event)
            if said != "ok":
                return f"{step}: {said}"
    return "ok" if secret.is_current(token) else "current is another version"


@contextmanager
def _clients(seen: Load, logs_in: Callable[[], bool], rate_per_s: float) -> Iterator[None]:
    """Log in at the rate beside the block, and let those under way end with it."""
    stopped, lock = threading.Event(), threading.Lock()

    def client(due_s: float) -> None:
        is_in = logs_in()
        took_ms = 1000 * (time.monotonic() - due_s)
        with lock:
            seen.took_ms.append(took_ms)
            seen.refused += not is_in

    def schedule() -> None:
        began_s, number = time.monotonic(), 0
        with ThreadPoolExecutor(CLIENTS) as clients:
            while not stopped.wait(max(0.0, began_s + number / rate_per_s - time.monotonic())):
                clients.submit(client, began_s + number / rate_per_s)
                number += 1
        seen.length_s += time.monotonic() - began_s

    thread = threading.Thread(target=schedule)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
