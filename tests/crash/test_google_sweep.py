"""Every target on the Google-shaped store: the process is killed, the wire breaks, two run at once.

Real servers, real gRPC, real processes. Of each laboratory a part here, the same every time; every
call and every fault is `make proof`.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator

import pytest

from canary import check
from conftest import need
from keyturn.testing.bench import ONE_TRY, Bench, Laboratory, Secret
from keyturn.testing.bench_google import GoogleVault
from keyturn.testing.faults import let_pass
from keyturn.testing.laboratories import LABORATORIES
from keyturn.testing.laboratories.postgres import PostgresAlternatingUsers, PostgresSingleUser
from keyturn.testing.sweep import Fault, Recovery, Run, Scenario, points, scenarios

WHOLE_RUN = 36
"""A rotation makes so many exchanges, at least: fewer would not be one."""
ROUNDS = 10
"""Races, of each kind."""


@pytest.mark.parametrize("laboratory", LABORATORIES, ids=lambda laboratory: laboratory.NAME)
def test_no_promise_is_broken_whatever_happens(laboratory: type[Laboratory]) -> None:
    """Half of the faults for each laboratory, by turns: once each, wherever chance has it."""
    need(present=laboratory.is_available(), what=laboratory.SERVER, install=laboratory.INSTALL)
    with laboratory() as opened:
        with Bench(opened, GoogleVault()) as bench:
            lines = points(bench, earlier=[1])
            chosen = drawn(laboratory, list(scenarios(lines)))
            found = {str(each): Run(bench).play(each) for each in chosen}
        check(opened.log_text(), "the server's log")

    assert len(lines[1]) >= WHOLE_RUN
    assert len(found) == len(Fault) // 2
    assert {scenario: findings for scenario, findings in found.items() if findings} == {}


def drawn(laboratory: type[Laboratory], every: list[Scenario]) -> list[Scenario]:
    """Draw one scenario for every second fault."""

    def lot(scenario: Scenario) -> bytes:
        return hashlib.sha256(f"{laboratory.NAME} {scenario}".encode()).digest()

    faults = list(Fault)[LABORATORIES.index(laboratory) % 2 :: 2]
    return [min((each for each in every if each.fault is fault), key=lot) for fault in faults]


# ---------------------------------------------------------------------------- two processes


@pytest.fixture(
    scope="module",
    params=[PostgresSingleUser, PostgresAlternatingUsers],
    ids=lambda laboratory: laboratory.NAME,
)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with request.param() as opened, Bench(opened, GoogleVault()) as bench:
        yield bench


def test_two_processes_with_the_same_tick_rotate_once(bench: Bench) -> None:
    """At once, each with a connection of its own: one of them may have to come again."""
    for _ in range(ROUNDS):
        secret = bench.furnish()[1]
        token = bench.token()

        said = at_once(bench, secret, [token, token])

        assert "ok" in said or set(map(kind, said)) <= COME_AGAIN
        assert deliver(bench, secret, token) == "ok"
        assert secret.is_current(token)
        assert len(set(secret.served())) == 2
        assert bench.laboratory.accepts(secret.current())
        assert not secret.pending()


def test_two_processes_with_two_ticks_lose_nothing(bench: Bench) -> None:
    """One is in the other's way, or ends after it. Whatever becomes current works, at once."""
    for _ in range(ROUNDS):
        secret = bench.furnish()[1]
        tokens = [bench.token(), bench.token()]

        said = at_once(bench, secret, tokens)
        again = [deliver(bench, secret, token) for token in tokens]

        assert set(map(kind, said)) <= {"ok", *COME_AGAIN}
        assert "ok" in again
        assert bench.laboratory.accepts(secret.current())
        last = bench.token()
        secret.begin(last)
        assert deliver(bench, secret, last) == "ok"
        assert secret.is_current(last)


COME_AGAIN = {"Busy", "NotYetAccepted", "Unreachable"}
"""Errors by which Pub/Sub delivers a message again."""


def kind(said: str) -> str:
    """Return the class of what a rotation ended with."""
    return said.partition(":")[0]


def at_once(bench: Bench, secret: Secret, tokens: list[str]) -> list[str]:
    """Deliver the messages to two processes at the same moment."""
    bench.arm(let_pass)
    for token in tokens:
        secret.begin(token)
    said = ["", ""]
    barrier = threading.Barrier(2)

    def perform(which: int) -> None:
        barrier.wait()
        said[which] = deliver(bench, secret, tokens[which], worker=which)

    threads = [threading.Thread(target=perform, args=[which]) for which in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return said


def deliver(bench: Bench, secret: Secret, token: str, worker: int = 0) -> str:
    """Deliver a message to a process, and return how its rotation ended."""
    with bench.workers[worker].rotation(ONE_TRY) as perform:
        [said] = [perform(event) for _, event in secret.steps(token)]
    return said


# ---------------------------------------------------------------------------- seen to fail


class Meddled(Run):
    """Instead of the fault, somebody does what the sweep must see."""

    meddle: Callable[[], object]

    def act(self, fault: Fault) -> None:
        """See `Run.act`."""
        del fault
        self.meddle()


MEDDLED = Scenario(0, 1, Fault.THROTTLED, Recovery.RETRY)
"""Of this fault the exchange itself sees nothing."""


def test_the_sweep_sees_a_value_that_never_logged_in(bench: Bench) -> None:
    """A check that cannot fail proves nothing: stored by hand, under a number of its own."""
    run = Meddled(bench)
    wrong = run.secret.current().replace("Canary7-first", "Canary7-wrong")
    run.meddle = lambda: run.secret.write(wrong)

    assert run.play(MEDDLED).untested


def test_the_sweep_sees_a_lock_out(bench: Bench) -> None:
    run = Meddled(bench)
    run.meddle = lambda: bench.laboratory.change_by_hand(run.subject)

    assert run.play(MEDDLED).lock_outs


def test_the_sweep_sees_a_reader_that_is_refused(bench: Bench) -> None:
    run = Run(bench)
    bench.laboratory.change_by_hand(run.subject)

    assert run.play(Scenario(1, 1, Fault.KILL_BEFORE, Recovery.RETRY)).reader_failures


@pytest.mark.parametrize(
    "fault, ending",
    [
        (Fault.KILL_BEFORE, "rotate: killed"),
        (Fault.KILL_AFTER, "rotate: killed"),
        (Fault.GONE_BEFORE, "rotate: Unreachable"),
        (Fault.TIMED_OUT, "rotate: Unreachable"),
        (Fault.THROTTLED, "ok"),  # it is asked again
        (Fault.CUT_BEFORE, "ok"),
    ],
)
def test_a_rotation_feels_its_fault(bench: Bench, fault: Fault, ending: str) -> None:
    """What breaks nothing shows nothing."""
    run = Run(bench)

    run.play(Scenario(0, 1, fault, Recovery.ABANDON))

    assert run.said[0].startswith(ending)
    assert run.said[1] == "ok"
