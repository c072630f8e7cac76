"""Faults at the wire: a TCP proxy that counts exchanges and breaks them where a test says.

An *exchange* is what a client sends until the server's first answer. Over HTTP that is one call of
an API; over a database's protocol one round trip, the login's included. It can be broken before
the server sees it (no effect), or after the server has answered (the effect, and a lost reply).

The code under test knows nothing of it: it is given the proxy's port.
"""

from __future__ import annotations

import re
import selectors
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from enum import Enum
from types import TracebackType
from typing import Self

CHUNK_BYTES = 65_536
QUIET_S = 0.1
"""A client that has sent nothing for so long has sent its whole request, where nothing tells."""
ANSWER_TIMEOUT_S = 5.0
SWALLOWED_S = 60.0
"""How long a client without an answer is put up with: longer than any time-out of ours."""


class Moment(Enum):
    """Where in an exchange."""

    BEFORE = "before"
    AFTER = "after"


class Verdict(Enum):
    """What becomes of an exchange."""

    PASS = "pass"  # noqa: S105  # not a password
    CUT = "cut"
    HOLD = "hold"
    """Cut off the client; the server gets the request later, from `Proxy.release`."""
    SWALLOW = "swallow"
    """The server never gets the request, and the client no answer, until it hangs up."""


Interrupt = Callable[[int, Moment], Verdict]
"""Gets the number of an exchange, from 1, and the moment. May also kill whoever waits for it."""


def let_pass(number: int, moment: Moment) -> Verdict:
    """Interrupt nothing."""
    del number, moment
    return Verdict.PASS


class Proxy:
    """Forwards one loopback port to another.

    Args:
        upstream_port: Where the server listens on 127.0.0.1.
        interrupt: Asked at each moment of each exchange; it may be replaced at any time.

    Attributes:
        exchanges: How many there were since the last `reset`.
        connections: The same.
    """

    host = "127.0.0.1"

    def __init__(self, upstream_port: int, interrupt: Interrupt = let_pass) -> None:
        self.interrupt = interrupt
        self.exchanges = 0
        self.connections = 0
        self._upstream_port = upstream_port
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._held: list[tuple[socket.socket, bytes]] = []
        self._is_down = False
        self._listener = socket.create_server((self.host, 0))
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._cut_all()

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Cut every connection, and every new one, until the block ends."""
        self._is_down = True
        self._cut_all()
        try:
            yield
        finally:
            self._is_down = False

    def reset(self, interrupt: Interrupt = let_pass) -> None:
        """Count from 1 again, with another interrupt."""
        with self._lock:
            self.exchanges = self.connections = 0
            self.interrupt = interrupt

    def release(self) -> int:
        """Deliver what was held, wait for the answers, and return how many there were."""
        held, self._held = self._held, []
        for server, data in held:
            with server, suppress(OSError):
                server.settimeout(ANSWER_TIMEOUT_S)
                server.sendall(data)
                server.recv(CHUNK_BYTES)
        return len(held)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._is_down:
                client.close()
                continue
            self.connections += 1
            threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with ExitStack() as stack, suppress(OSError):
            stack.enter_context(client)
            server = socket.create_connection((self.host, self._upstream_port))
            stack.enter_context(server)
            for line in (client, server):
                # Else a body waits 40 ms for the acknowledgement of its headers.
                line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = {client, server}
            self._open |= pair
            stack.callback(self._open.difference_update, pair)
            held = self._pump(client, server)
            if held:
                # A copy of the line, because this one is closed here with the client's.
                self._held.append((server.dup(), held))

    def _pump(self, client: socket.socket, server: socket.socket) -> bytes:
        """Forward both ways until one side ends or an exchange is cut; return what is held."""
        awaits_answer, number = False, 0
        with selectors.DefaultSelector() as selector:
            selector.register(client, selectors.EVENT_READ)
            selector.register(server, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    from_client = key.fileobj is client
                    data = (client if from_client else server).recv(CHUNK_BYTES)
                    if not data:
                        return b""
                    if from_client and not awaits_answer:
                        number = self._next()
                    if from_client is not awaits_answer:
                        moment = Moment.BEFORE if from_client else Moment.AFTER
                        awaits_answer = from_client
                        verdict = self.interrupt(number, moment)
                        if verdict is not Verdict.PASS:
                            return _broken(verdict, data, client)
                    (server if from_client else client).sendall(data)

    def _next(self) -> int:
        with self._lock:
            self.exchanges += 1
            return self.exchanges

    def _cut_all(self) -> None:
        for line in list(self._open):
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)


def _broken(verdict: Verdict, request: bytes, client: socket.socket) -> bytes:
    """Do what the verdict says before the lines are closed; return what is held."""
    if verdict is Verdict.HOLD:
        return _whole(request, client)
    if verdict is Verdict.SWALLOW:
        client.settimeout(SWALLOWED_S)
        while client.recv(CHUNK_BYTES):
            pass
    return b""


def _whole(request: bytes, client: socket.socket) -> bytes:
    """Return what has come of a request, and the rest of it: HTTP clients send its body apart."""
    client.settimeout(QUIET_S)
    with suppress(TimeoutError):
        while not _is_whole(request) and (data := client.recv(CHUNK_BYTES)):
            request += data
    return request


_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


def _is_whole(request: bytes) -> bool:
    """Tell whether this is all of an HTTP request. Of other protocols nothing is known."""
    head, end, body = request.partition(b"\r\n\r\n")
    length = _LENGTH.search(head + end)
    return bool(end and length and len(body) >= int(length[1]))
