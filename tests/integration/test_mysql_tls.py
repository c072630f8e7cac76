"""No password goes to a server that is not proven to be the right one, however it asks."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from databases import unused_name
from keyturn.errors import KeyturnError, Misconfigured, Unreachable
from keyturn.model import Credential, Sensitive, Surroundings
from keyturn.targets.mysql import MySql
from keyturn.testing.certificates import DAY, NOW, Authority, Issued
from mysql_accounts import Site

PASSWORD = "Canary7-tls"

# MySQL protocol, HandshakeV10: capabilities, with and without CLIENT_SSL.
WITH_TLS, WITHOUT_TLS = 0x81BFFFFF, 0x81BFF7FF
OK = b"\0\0\0\2\0\0\0"
SWITCH = b"\xfe"  # AuthSwitchRequest: plug-in, NUL, challenge
FULL = b"\x01\x04"  # caching_sha2_password: send the password itself, or ask for my key
KEY = b"\x01-----BEGIN PUBLIC KEY-----\n"


class Impostor:
    """A server that wants the password: it has some certificate, and asks as it is told."""

    def __init__(self, issued: Issued | None, asks: Sequence[bytes] = ()) -> None:
        self._issued = issued
        self._asks = asks
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.heard = b""

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
            while True:
                line, _ = self._listener.accept()
                with line, suppress(OSError):
                    line.settimeout(2)
                    self._talk(line)

    def _talk(self, line: socket.socket) -> None:
        capabilities = WITH_TLS if self._issued else WITHOUT_TLS
        line.sendall(_packet(0, _greeting(capabilities)))
        # No more than the request for TLS: what follows is the handshake's.
        first = line.recv(4)
        first += line.recv(first[0] if first else 0)
        if self._issued is None or len(first) > 36:
            self._ask(line, first)
            return
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._issued.certificate, self._issued.key)
        with context.wrap_socket(line, server_side=True) as wrapped:
            self._ask(wrapped, wrapped.recv(1000))

    def _ask(self, line: socket.socket, said: bytes) -> None:
        self.heard += said
        if not said:
            return
        for each in self._asks or [SWITCH + b"mysql_clear_password\0"]:
            line.sendall(_packet(said[3] + 1, each))
            said = line.recv(1000)
            self.heard += said
            if not said:
                return


def _packet(number: int, payload: bytes) -> bytes:
    return struct.pack("<I", len(payload))[:3] + bytes([number]) + payload


def _greeting(capabilities: int) -> bytes:
    low, high = capabilities & 0xFFFF, capabilities >> 16
    return (
        b"\x0a8.0.99\0"
        + struct.pack("<I8sBHBHHB10s", 1, b"saltsalt", 0, low, 45, 2, high, 21, b"")
        + b"saltsaltsalt\0mysql_native_password\0"
    )


EXPECTED = {
    "no TLS": "does not offer TLS",
    "unknown authority": "self-signed|not trusted",
    "other host": "another",
    "expired": "expired",
    "expired a minute ago": "expired",
}


def _impostors(folder: Path) -> dict[str, Issued | None]:
    ours = Authority(folder, "ours")
    return {
        "no TLS": None,
        "unknown authority": Authority(folder, "theirs").issue("127.0.0.1"),
        "other host": ours.issue("db.example.com"),
        "expired": ours.issue("127.0.0.1", until=NOW - DAY),
        "expired a minute ago": ours.issue("127.0.0.1", until=NOW - dt.timedelta(minutes=1)),
    }


@pytest.mark.parametrize("value", [None, True, "true", False, "false", "yes", 1, ""], ids=repr)
@pytest.mark.parametrize("kind", EXPECTED)
def test_an_impostor_gets_no_password(tmp_path: Path, kind: str, value: object) -> None:
    """PyMySQL left to itself speaks TLS with anybody, or none, and answers in clear."""
    impostor = Impostor(_impostors(tmp_path)[kind])
    fields: dict[str, object] = {"host": "127.0.0.1", "port": impostor.port, "ssl": value}
    login = Credential("app", Sensitive(PASSWORD), fields)
    engine = MySql(Surroundings(lambda: 60.0, ca_file=str(tmp_path / "ours.pem")))

    with impostor.listening(), pytest.raises(KeyturnError) as caught, engine.login(login):
        pass

    assert PASSWORD.encode() not in impostor.heard
    if value in {None, "true"} or value is True:
        assert caught.match(EXPECTED[kind])
        assert impostor.heard == b""
    if value in {"yes", ""}:
        assert caught.match("neither true nor false")


@pytest.mark.parametrize(
    "asks",
    [
        [SWITCH + b"mysql_clear_password\0"],
        [SWITCH + b"mysql_old_password\0saltsalt"],
        [SWITCH + b"dialog\0\x02Password: "],
        [SWITCH + b"sha256_password\0saltsaltsaltsaltsalt\0", KEY],
        [SWITCH + b"caching_sha2_password\0saltsaltsaltsaltsalt\0", FULL, KEY],
    ],
    ids=["clear", "old", "dialog", "sha256", "caching_sha2"],
)
def test_over_plain_text_nobody_gets_the_password_itself(asks: list[bytes]) -> None:
    """Nor encrypted for a key that whoever answers has sent."""
    impostor = Impostor(None, asks)
    fields: dict[str, object] = {"host": "127.0.0.1", "port": impostor.port, "ssl": False}
    engine = MySql(Surroundings(lambda: 3.0))

    with (
        impostor.listening(),
        pytest.raises(Misconfigured, match="would expose it"),
        engine.login(Credential("app", Sensitive(PASSWORD), fields)),
    ):
        pass

    assert PASSWORD.encode() not in impostor.heard
    assert len(impostor.heard) < 400  # no RSA block either


@pytest.mark.parametrize(
    "garbage", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\xff" * 80, b"\x01\0\0\0\x0a"], ids=repr
)
def test_a_server_that_is_no_mysql_is_no_answer(garbage: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            line, _ = listener.accept()
            with line:
                line.sendall(garbage)

        threading.Thread(target=serve, daemon=True).start()
        place = {"host": "127.0.0.1", "port": listener.getsockname()[1], "ssl": False}
        with (
            pytest.raises(Unreachable),
            MySql(Surroundings(lambda: 3.0)).login(Credential("app", Sensitive(PASSWORD), place)),
        ):
            pass


def test_a_verified_server_is_logged_in_to(site: Site) -> None:
    name = unused_name("tls")
    site.make(name, PASSWORD, options="REQUIRE SSL")
    login = site.credential(name, PASSWORD)

    for value in (None, True, "true"):
        with site.engine().login(replace(login, fields={**login.fields, "ssl": value})) as session:
            assert session is not None
    with site.engine().login(replace(login, secret=Sensitive("wrong"))) as session:
        assert session is None
    with (
        pytest.raises(Misconfigured, match=r"self-signed|not trusted"),
        MySql(Surroundings(lambda: 60.0)).login(login),
    ):
        pass


def test_what_mysql_has_not_cached_takes_tls(mysql: Site) -> None:
    """The first login with a password shows it to the server: over plain text it is not begun."""
    name = unused_name("tls")
    mysql.make(name, PASSWORD)
    login = mysql.credential(name, PASSWORD)
    plain = replace(login, fields={**login.fields, "ssl": False})

    with pytest.raises(Misconfigured, match="would expose it"), mysql.engine().login(plain):
        pass
    assert mysql.accepts(name, PASSWORD)
    with mysql.engine().login(plain) as session:
        assert session is not None


@pytest.mark.parametrize("host", ["10.0.0.1", "db.example.com", "localhost.example.com"])
def test_plain_text_is_for_loopback_and_listed_hosts(host: str) -> None:
    login = Credential("app", Sensitive(PASSWORD), {"host": host, "ssl": False})

    with pytest.raises(Misconfigured, match="not a host for plain text"):
        MySql(Surroundings(lambda: 60.0)).endpoint(login)

    listed = Surroundings(lambda: 60.0, plaintext_hosts=frozenset({host}))
    assert MySql(listed).endpoint(login) == f"{host}:3306/"
