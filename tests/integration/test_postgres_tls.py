"""No password goes to a server that is not proven to be the right one."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import need
from databases import credential, make_login, unused_name
from keyturn.errors import KeyturnError, Misconfigured, Unreachable
from keyturn.local.postgres import Postgres as Server
from keyturn.local.postgres import find_system, system
from keyturn.model import Credential, Sensitive, Surroundings
from keyturn.strategies import SingleUser
from keyturn.targets.postgres import Postgres
from keyturn.testing.certificates import DAY, NOW, Authority, Issued

PASSWORD = "Canary7-tls"


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that the server's user may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority(folder, "ours")


@pytest.fixture(scope="module")
def server(authority: Authority) -> Iterator[Server]:
    need(present=find_system() is not None, what="PostgreSQL", install="apt install postgresql")
    issued = authority.issue("127.0.0.1")
    settings = {
        "ssl": "on",
        "ssl_cert_file": str(issued.certificate),
        "ssl_key_file": str(issued.key),
    }
    with Server(binaries=system(), settings=settings, hba=["hostnossl all all all reject"]) as made:
        yield made


def _target(ca_file: Path | None) -> SingleUser:
    surroundings = Surroundings(lambda: 60.0, ca_file=str(ca_file) if ca_file else None)
    return SingleUser(Postgres(surroundings), lambda: Sensitive(PASSWORD))


@pytest.mark.parametrize("value", [None, True, "true"])
def test_a_verified_server_is_logged_in_to(
    server: Server, authority: Authority, value: object
) -> None:
    name = unused_name("tls")
    make_login(server, name, PASSWORD)
    login = credential(server, name, PASSWORD)
    login = replace(login, fields={**login.fields, "ssl": value})

    assert _target(authority.file).accepts(login)
    assert not _target(authority.file).accepts(replace(login, secret=Sensitive("wrong")))


def test_the_handshake_survives_in_the_message_not_the_password(
    server: Server, authority: Authority
) -> None:
    """An authority that is not trusted is told from a server that is down."""
    login = replace(
        credential(server, "nobody", PASSWORD), fields={"host": server.host, "port": server.port}
    )
    with pytest.raises(Misconfigured, match=r"self-signed|not trusted"):
        _target(None).accepts(login)
    with pytest.raises(Unreachable, match="refuses connections"):
        _target(authority.file).accepts(replace(login, fields={"host": server.host, "port": 1}))


class Impostor:
    """A server that wants the password: it shows what certificate it has, and asks in clear."""

    def __init__(self, issued: Issued | None) -> None:
        self._issued = issued
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
        first = line.recv(8)
        if self._issued is None:
            line.sendall(b"N")
            self._listen(line)
        elif first == bytes([0, 0, 0, 8, 4, 210, 22, 47]):
            line.sendall(b"S")
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self._issued.certificate, self._issued.key)
            with context.wrap_socket(line, server_side=True) as wrapped:
                self._listen(wrapped)

    def _listen(self, line: socket.socket) -> None:
        self.heard += line.recv(1000)
        line.sendall(b"R\0\0\0\x08\0\0\0\x03")  # AuthenticationCleartextPassword
        self.heard += line.recv(1000)


def _impostors(folder: Path) -> dict[str, Issued | None]:
    ours = Authority(folder, "ours-too")
    return {
        "no TLS": None,
        "unknown authority": Authority(folder, "theirs").issue("127.0.0.1"),
        "other host": ours.issue("db.example.com"),
        "expired": ours.issue("127.0.0.1", until=NOW - DAY),
        "expired a minute ago": ours.issue("127.0.0.1", until=NOW - dt.timedelta(minutes=1)),
    }


EXPECTED = {
    "no TLS": "does not offer TLS",
    "unknown authority": "self-signed|not trusted",
    "other host": "another",
    "expired": "expired",
    "expired a minute ago": "expired",
}


@pytest.mark.parametrize("value", [None, True, "true", False, "false", "yes", 1, ""], ids=repr)
@pytest.mark.parametrize("kind", EXPECTED)
def test_an_impostor_gets_no_password(tmp_path: Path, kind: str, value: object) -> None:
    """Six of the official template's cases hand it over; here none, whatever `ssl` says.

    127.0.0.1 is where plain text is allowed, so `false` does connect: it still asks for SCRAM.
    """
    impostor = Impostor(_impostors(tmp_path)[kind])
    fields: dict[str, object] = {"host": "127.0.0.1", "port": impostor.port, "ssl": value}
    login = Credential("app", Sensitive(PASSWORD), fields)
    engine = Postgres(Surroundings(lambda: 60.0, ca_file=str(tmp_path / "ours-too.pem")))

    with impostor.listening(), pytest.raises(KeyturnError) as caught, engine.login(login):
        pass

    assert PASSWORD.encode() not in impostor.heard
    if value in {None, "true"} or value is True:
        assert caught.match(EXPECTED[kind])
        assert impostor.heard == b""
    if value in {"yes", ""}:
        assert caught.match("neither true nor false")


@pytest.mark.parametrize("host", ["10.0.0.1", "db.example.com", "localhost.example.com"])
def test_plain_text_is_for_loopback_and_listed_hosts(host: str) -> None:
    login = Credential("app", Sensitive(PASSWORD), {"host": host, "ssl": False})

    with pytest.raises(Misconfigured, match="not a host for plain text"):
        Postgres(Surroundings(lambda: 60.0)).endpoint(login)

    listed = Surroundings(lambda: 60.0, plaintext_hosts=frozenset({host}))
    assert Postgres(listed).endpoint(login) == f"{host}:5432/postgres"


def test_a_private_authority_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    login = Credential("app", Sensitive(PASSWORD), {"host": "127.0.0.1", "port": 1})

    with pytest.raises(Misconfigured, match="KEYTURN_CA_FILE"):
        _target(tmp_path / "missing.pem").accepts(login)


def test_no_file_is_left_behind(
    server: Server, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The authorities go to libpq through a file."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    name = unused_name("tls")
    make_login(server, name, PASSWORD)
    login = credential(server, name, PASSWORD)

    assert _target(authority.file).accepts(replace(login, fields={**login.fields, "ssl": True}))

    assert list(tmp_path.iterdir()) == []
