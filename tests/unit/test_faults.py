"""The proxy does to an exchange what its verdict says."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from keyturn.testing import faults
from keyturn.testing.faults import Moment, Proxy, Verdict


class Echo:
    """A server that answers every line with "ok", and remembers what it got."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                line, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=[line], daemon=True).start()

    def _answer(self, line: socket.socket) -> None:
        # Whoever asked may be gone before the answer.
        with suppress(OSError), line, line.makefile("rb") as lines:
            for request in lines:
                self.got.append(request)
                with suppress(OSError):
                    line.sendall(b"ok")


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.stop()


def _ask(port: int, *pieces: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 2) as line:
        for piece in pieces:
            line.sendall(piece)
        try:
            return line.recv(10)
        except ConnectionResetError:
            return b""


def test_exchanges_pass_and_are_counted(echo: Echo) -> None:
    with Proxy(echo.port) as proxy:
        answers = [_ask(proxy.port, b"a\n"), _ask(proxy.port, b"b", b"\n")]

        assert answers == [b"ok", b"ok"]
        assert (proxy.exchanges, proxy.connections) == (2, 2)


@pytest.mark.parametrize("moment", Moment)
def test_a_cut_loses_the_request_or_the_reply(echo: Echo, moment: Moment) -> None:
    def cut(_: int, now: Moment) -> Verdict:
        return Verdict.CUT if now is moment else Verdict.PASS

    with Proxy(echo.port, cut) as proxy:
        assert _ask(proxy.port, b"a\n") == b""

    assert echo.got == ([] if moment is Moment.BEFORE else [b"a\n"])


def test_what_is_held_lands_late_and_whole(echo: Echo) -> None:
    """An HTTP client sends headers and body apart; both are one request."""
    with Proxy(echo.port, lambda *_: Verdict.HOLD) as proxy:
        assert _ask(proxy.port, b"hea", b"d\n") == b""
        assert echo.got == []

        assert proxy.release() == 1

    assert echo.got == [b"head\n"]


def test_a_whole_http_request_is_held_as_soon_as_it_is_there(
    echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its header tells how long it is: nobody has to wait whether there is more."""
    monkeypatch.setattr(faults, "QUIET_S", 60)  # far longer than `_ask` waits
    request = [b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n", b"body\n"]
    with Proxy(echo.port, lambda *_: Verdict.HOLD) as proxy:
        assert _ask(proxy.port, *request) == b""
        proxy.release()

    assert _soon(lambda: b"".join(echo.got).endswith(b"body\n"))


def _soon(is_so: Callable[[], bool]) -> bool:
    """Wait until it is so; the server answers the first line of several."""
    until = time.monotonic() + 5
    while not is_so() and time.monotonic() < until:
        time.sleep(0.01)
    return is_so()


def test_what_is_swallowed_is_never_answered(echo: Echo) -> None:
    with Proxy(echo.port, lambda *_: Verdict.SWALLOW) as proxy:
        with socket.create_connection(("127.0.0.1", proxy.port), 0.1) as line:
            line.sendall(b"a\n")
            with pytest.raises(TimeoutError):
                line.recv(10)

        assert proxy.release() == 0

    assert echo.got == []


def test_an_outage_cuts_and_ends(echo: Echo) -> None:
    with Proxy(echo.port) as proxy:
        with proxy.outage():
            assert _ask(proxy.port, b"a\n") == b""
        assert _ask(proxy.port, b"b\n") == b"ok"
