"""How a server may ask for the password: SCRAM proves both sides, and shows it to nobody."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from keyturn.errors import Unreachable
from keyturn.model import Credential, Sensitive, Surroundings
from keyturn.targets.postgres import Postgres

PASSWORD = "Canary7-authentication"

# PostgreSQL protocol, message formats: Authentication*, and what follows AuthenticationOk.
CLEARTEXT = b"R" + struct.pack("!ii", 8, 3)
MD5 = b"R" + struct.pack("!ii4s", 12, 5, b"salt")
TRUST = b"R" + struct.pack("!ii", 8, 0)
READY = b"Z" + struct.pack("!ic", 5, b"I")


class Server:
    """Asks as it is told, and remembers what it hears."""

    def __init__(self, asks: bytes) -> None:
        self.heard = b""
        self._asks = asks
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    @contextmanager
    def listening(self) -> Iterator[None]:
        thread = threading.Thread(target=self._serve, daemon=True)
        thread.start()
        yield
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        thread.join(5)

    def _serve(self) -> None:
        with suppress(OSError):
            line, _ = self._listener.accept()
            with line:
                line.settimeout(2)
                line.recv(1000)  # the startup message
                line.sendall(self._asks)
                self.heard += line.recv(1000)
                line.sendall(TRUST + READY)
                self.heard += line.recv(1000)


@pytest.mark.parametrize(
    "asks", [CLEARTEXT, MD5, TRUST + READY], ids=["in clear", "md5", "not at all"]
)
def test_a_server_that_wants_less_than_scram_is_hung_up_on(asks: bytes) -> None:
    """Over plain text, where the deployment allows it, nothing else keeps the password."""
    server = Server(asks)
    fields: dict[str, object] = {"host": "127.0.0.1", "port": server.port, "ssl": False}
    engine = Postgres(Surroundings(lambda: 3.0))

    with (
        server.listening(),
        pytest.raises(Unreachable, match="would expose it"),
        engine.login(Credential("app", Sensitive(PASSWORD), fields)),
    ):
        pass

    assert server.heard in {b"", b"X\0\0\0\x04"}
