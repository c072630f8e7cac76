"""How the targets reach a host: its addresses, and a line that can be cut when time is up."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Timer

from keyturn.errors import Unreachable


def addresses(host: str, port: int) -> list[str]:
    """Look *host* up here, to tell a wrong name from a server that is down. A socket has none."""
    if host.startswith("/"):
        return []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        problem = f"{host}: the host name has no address"
    else:
        return list(dict.fromkeys(str(address[0]) for *_, address in found))
    raise Unreachable(problem, remedy="Check the secret's host and the function's DNS.")


@contextmanager
def cut_after(timeout_s: float, descriptor: int) -> Iterator[None]:
    """Cut the line when the block takes longer: drivers begin their time-outs anew at each byte."""
    timer = Timer(timeout_s, _cut, [descriptor])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _cut(descriptor: int) -> None:
    with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as line:
        line.shutdown(socket.SHUT_RDWR)
