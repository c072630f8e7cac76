"""Over TLS the server is verified, host name included, before a password is sent; or not at all."""

from __future__ import annotations

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
from keyturn.errors import KeyturnError, Misconfigured, Unreachable
from keyturn.local.redis import Redis as Server
from keyturn.local.redis import find
from keyturn.model import Credential, Sensitive, Surroundings
from keyturn.strategies import SingleUser
from keyturn.targets.redis import Redis
from keyturn.testing.certificates import DAY, NOW, Authority, Issued
from redises import credential, make_user, unused_name

PASSWORD = "Canary7-tls"


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority(folder, "ours")


@pytest.fixture(scope="module")
def server(authority: Authority) -> Iterator[Server]:
    need(present=find() is not None, what="Redis", install="apt install redis-server")
    issued = authority.issue("127.0.0.1")
    settings = {"tls-cert-file": str(issued.certificate), "tls-key-file": str(issued.key)}
    with Server(settings=settings) as made:
        yield made


def _target(ca_file: Path | None) -> SingleUser:
    surroundings = Surroundings(lambda: 60.0, ca_file=str(ca_file) if ca_file else None)
    return SingleUser(Redis(surroundings), lambda: Sensitive(PASSWORD))


def _login(server: Server, **fields: object) -> Credential:
    name = unused_name("tls")
    make_user(server, name, PASSWORD)
    login = credential(server, name, PASSWORD)
    return replace(login, fields={**login.fields, **fields})


@pytest.mark.parametrize("value", [None, True, "true"])
def test_a_verified_server_is_logged_in_to(
    server: Server, authority: Authority, value: object
) -> None:
    login = _login(server, ssl=value)

    assert _target(authority.file).accepts(login)
    assert not _target(authority.file).accepts(replace(login, secret=Sensitive("wrong")))


def test_an_authority_that_is_not_trusted_is_told_from_a_server_that_is_down(
    server: Server, authority: Authority
) -> None:
    login = _login(server, ssl=True)
    with pytest.raises(Misconfigured, match=r"self-signed|not trusted"):
        _target(None).accepts(login)
    with pytest.raises(Unreachable, match="refuses connections"):
        _target(authority.file).accepts(replace(login, fields={**login.fields, "port": 1}))


def test_another_name_for_the_host_is_refused(server: Server, authority: Authority) -> None:
    with pytest.raises(Misconfigured, match="is for another host name"):
        _target(authority.file).accepts(_login(server, ssl=True, host="localhost"))


def test_a_server_that_wants_tls_gets_nothing_in_clear(
    server: Server, authority: Authority
) -> None:
    """Loopback, where plain text is allowed: it hangs up."""
    with pytest.raises(KeyturnError, match=r"hung up|does not speak"):
        _target(authority.file).accepts(_login(server, ssl=False))


def test_a_unix_socket_speaks_no_tls(server: Server) -> None:
    assert _target(None).accepts(_login(server, ssl=True, host=str(server.socket)))


class Impostor:
    """A server that wants the password: it shows what certificate it has, and listens."""

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
        if self._issued is None:
            self.heard += line.recv(1000)
            line.sendall(b"-ERR unknown command\r\n")
            return
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._issued.certificate, self._issued.key)
        with context.wrap_socket(line, server_side=True) as wrapped:
            self.heard += wrapped.recv(1000)


def _impostors(folder: Path) -> dict[str, Issued | None]:
    ours = Authority(folder, "ours-too")
    return {
        "no TLS": None,
        "unknown authority": Authority(folder, "theirs").issue("127.0.0.1"),
        "other host": ours.issue("cache.example.com"),
        "expired": ours.issue("127.0.0.1", until=NOW - DAY),
    }


EXPECTED = {
    "no TLS": "TLS handshake failed",
    "unknown authority": "self-signed|not trusted",
    "other host": "another",
    "expired": "expired",
}


@pytest.mark.parametrize("value", [None, True, "true", "yes", 1, ""], ids=repr)
@pytest.mark.parametrize("kind", EXPECTED)
def test_an_impostor_gets_no_password(tmp_path: Path, kind: str, value: object) -> None:
    """Whatever `ssl` says, but false: that is for hosts that the deployment lists."""
    impostor = Impostor(_impostors(tmp_path)[kind])
    fields: dict[str, object] = {"host": "127.0.0.1", "port": impostor.port, "ssl": value}
    login = Credential("app", Sensitive(PASSWORD), fields)
    engine = Redis(Surroundings(lambda: 60.0, ca_file=str(tmp_path / "ours-too.pem")))

    with impostor.listening(), pytest.raises(Misconfigured) as caught, engine.login(login):
        pass

    assert PASSWORD.encode() not in impostor.heard
    if value in {None, "true"} or value is True:
        assert caught.match(EXPECTED[kind])
    else:
        assert caught.match("neither true nor false")


def test_a_server_that_does_not_answer_the_handshake_may_speak_no_tls(redis: Server) -> None:
    """Redis takes the greeting for the beginning of a command, and waits for more."""
    login = replace(credential(redis, "app", PASSWORD), fields={"host": "127.0.0.1"})
    login = replace(login, fields={**login.fields, "port": redis.port})

    with (
        pytest.raises(Unreachable, match="did not answer in time") as caught,
        Redis(Surroundings(lambda: 1.5)).login(login),
    ):
        pass

    assert "speaks TLS at this port" in caught.value.remedy


@pytest.mark.parametrize("host", ["10.0.0.1", "cache.example.com", "localhost.example.com"])
def test_plain_text_is_for_loopback_and_listed_hosts(host: str) -> None:
    login = Credential("app", Sensitive(PASSWORD), {"host": host, "ssl": False})

    with pytest.raises(Misconfigured, match="not a host for plain text"):
        Redis(Surroundings(lambda: 60.0)).endpoint(login)

    listed = Surroundings(lambda: 60.0, plaintext_hosts=frozenset({host}))
    assert Redis(listed).endpoint(login) == f"{host}:6379"
