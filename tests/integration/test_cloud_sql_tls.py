"""What a certificate of Cloud SQL must say for a login: the rows of docs/cloud-sql.md."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import need
from databases import credential, make_login, unused_name
from keyturn.errors import Misconfigured
from keyturn.local.mariadb import MariaDb, find_mariadb
from keyturn.local.postgres import Postgres as Server
from keyturn.local.postgres import find_system, system
from keyturn.model import Credential, Surroundings
from keyturn.ports import PasswordEngine
from keyturn.targets.mysql import MySql
from keyturn.targets.postgres import Postgres
from keyturn.testing.certificates import Authority
from mysql_accounts import Site

PASSWORD = "Canary7-cloud-sql"
COMMON_NAME = "shop-42:orders"
"""PROJECT:INSTANCE. It is no host name, and no client takes it for one."""

BY_ADDRESS, BY_NAME = "127.0.0.1", "localhost"
NOT_FOR_IT = r"^127\.0\.0\.1: the server's certificate is for another (address|host name); no pass"

Login = Callable[[str], Credential]
"""The same login, by that host."""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that the servers' users may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority(folder, "instance")


def _postgres(authority: Authority, names: tuple[str, ...]) -> Server:
    need(present=find_system() is not None, what="PostgreSQL", install="apt install postgresql")
    issued = authority.issue(COMMON_NAME, names=names)
    settings = {
        "ssl": "on",
        "ssl_cert_file": str(issued.certificate),
        "ssl_key_file": str(issued.key),
    }
    return Server(binaries=system(), settings=settings, hba=["hostnossl all all all reject"])


def _login(server: Server) -> Login:
    name = unused_name("tls")
    make_login(server, name, PASSWORD)
    login = credential(server, name, PASSWORD)
    return lambda host: replace(login, fields={**login.fields, "host": host, "ssl": True})


def _accepts(engine: PasswordEngine, login: Credential) -> bool:
    with engine.login(login) as session:
        return session is not None


def _engine(authority: Authority) -> Postgres:
    return Postgres(Surroundings(lambda: 60.0, ca_file=str(authority.file)))


def test_an_address_in_the_certificate_is_verified(authority: Authority) -> None:
    with _postgres(authority, (BY_ADDRESS,)) as server:
        login = _login(server)

        assert _accepts(_engine(authority), login(BY_ADDRESS))


def test_a_dns_name_in_the_certificate_is_verified_and_the_address_is_not(
    authority: Authority, folder: Path
) -> None:
    """And the authority is an instance's own: no other one's, nor a system's, vouches for it."""
    with _postgres(authority, (BY_NAME,)) as server:
        login = _login(server)

        assert _accepts(_engine(authority), login(BY_NAME))
        with pytest.raises(Misconfigured, match=NOT_FOR_IT) as caught:
            _accepts(_engine(authority), login(BY_ADDRESS))
        with pytest.raises(Misconfigured, match=r"not trusted|self-signed"):
            _accepts(_engine(Authority(folder, "another")), login(BY_NAME))

    assert "connect by the name it is for" in caught.value.remedy


def test_a_common_name_alone_is_for_nobody(authority: Authority) -> None:
    """As instances have it whose authority is their own and whose certificate is old."""
    with _postgres(authority, ()) as server:
        login = _login(server)

        for host in (BY_ADDRESS, BY_NAME):
            with pytest.raises(Misconfigured, match=r"certificate is for another (address|host)"):
                _accepts(_engine(authority), login(host))


def test_several_authorities_are_trusted_one_after_the_other(
    authority: Authority, folder: Path, tmp_path: Path
) -> None:
    """Before a rotation of an instance's authority: the old one, and the new one."""
    both = tmp_path / "ca.pem"
    upcoming = Authority(folder, "upcoming")
    both.write_text(upcoming.file.read_text() + authority.file.read_text())

    with _postgres(authority, (BY_NAME,)) as server:
        engine = Postgres(Surroundings(lambda: 60.0, ca_file=str(both)))

        assert _accepts(engine, _login(server)(BY_NAME))


def test_the_socket_that_the_platform_mounts_needs_no_certificate(authority: Authority) -> None:
    """It is authenticated by IAM on the way; its folder's name has colons."""
    with _postgres(authority, ()) as server, tempfile.TemporaryDirectory() as name:
        mounted = Path(name) / "shop-42:europe-west1:orders"
        mounted.mkdir()
        (mounted / f".s.PGSQL.{server.port}").symlink_to(
            server.socket_folder / f".s.PGSQL.{server.port}"
        )

        assert _accepts(_engine(authority), _login(server)(str(mounted)))


def test_mysql_is_as_strict(authority: Authority) -> None:
    need(present=find_mariadb() is not None, what="MariaDB", install="apt install mariadb-server")
    issued = authority.issue(COMMON_NAME, names=(BY_NAME,))
    settings = {"ssl-cert": str(issued.certificate), "ssl-key": str(issued.key)}
    with MariaDb(find_mariadb(), settings=settings) as server:
        site, name = Site(server, authority.file), unused_name("tls")
        site.make(name, PASSWORD)
        login = site.credential(name, PASSWORD)
        engine = MySql(Surroundings(lambda: 60.0, ca_file=str(authority.file)))

        assert _accepts(engine, replace(login, fields={**login.fields, "host": BY_NAME}))
        with pytest.raises(Misconfigured, match=NOT_FOR_IT):
            _accepts(engine, login)
