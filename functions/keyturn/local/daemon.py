"""A server of one's own in a temporary folder: gone when its starter stops or dies.

What every local server needs alike, whatever it serves: a folder, an account that is not root, a
free port, a log, a process, and a watchdog for the case that we are killed. `postgres` and
`mariadb` know what is special.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from keyturn.errors import Misconfigured, Unreachable
from keyturn.local.watchdog import Watchdog

START_TIMEOUT_S = 30.0
"""Seconds. A start takes about 0.6; this is for a machine that does much else."""

STOP_TIMEOUT_S = 10.0
"""Seconds for an orderly shutdown, before the kill."""


class Daemon:
    """One server's folder, account and process.

    Args:
        name: What it is called in messages.
        prefix: Begins the folder's name.
        port: TCP port; 0 takes a free one.
        stop_with: The signal for a fast shutdown.
    """

    def __init__(self, name: str, *, prefix: str, port: int, stop_with: signal.Signals) -> None:
        self.name = name
        self._prefix = prefix
        self._wanted_port = port
        self._port = 0
        self._stop_with = stop_with
        # Servers refuse to run as root, so root starts them as `nobody`.
        self._owner = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self._folder: Path | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._watchdog: Watchdog | None = None

    @property
    def folder(self) -> Path:
        """Everything is in here. Only while there is one."""
        if self._folder is None:
            raise Misconfigured(f"{self.name} is not running", remedy="Call start() first.")
        return self._folder

    @property
    def port(self) -> int:
        """The TCP port. Only while started."""
        _ = self.folder
        return self._port

    def log_text(self) -> str:
        """Return the server's log so far. It may hold whatever clients sent."""
        return (self.folder / "log").read_text(encoding="utf-8", errors="replace")

    def start(self, prepare: Callable[[], None], serve: Callable[[], None]) -> None:
        """Make the folder, *prepare* it and *serve*; leave nothing if either fails."""
        self._folder = Path(tempfile.mkdtemp(prefix=self._prefix))
        try:
            self.own(self._folder)
            prepare()
            serve()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server and delete its folder. Repeatable."""
        self.halt()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def own(self, path: Path) -> None:
        """Give *path* to the account that the server runs as."""
        if self._owner is not None:
            os.chown(path, self._owner.pw_uid, self._owner.pw_gid)

    def make(self, name: str) -> Path:
        """Make a folder that only the server's account may enter."""
        path = self.folder / name
        path.mkdir(mode=0o700)
        self.own(path)
        return path

    def run(self, command: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
        """Run a program to its end, as the server's account."""
        return subprocess.run(
            command,
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

    def take_port(self) -> int:
        """Return the port to serve at: the same one at every start."""
        self._port = self._port or self._wanted_port or free_port()
        return self._port

    def serve(self, command: Sequence[str | Path], is_ready: Callable[[], bool]) -> None:
        """Start the server, and wait until it is ready.

        Raises:
            Misconfigured: It refuses its settings.
            Unreachable: It does not get ready in time.
        """
        with (self.folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                command,
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
        deadline = time.monotonic() + START_TIMEOUT_S
        while not is_ready():
            if self._server.poll() is not None:
                raise Misconfigured(
                    f"{self.name} did not start: {last_line(self.log_text())}",
                    remedy="Check its settings, and that its port is free.",
                )
            if time.monotonic() > deadline:
                raise Unreachable(
                    f"{self.name} was not ready after {START_TIMEOUT_S:.0f} s",
                    remedy="Try again when the machine is less busy.",
                )
            time.sleep(0.01)

    def halt(self) -> None:
        """Stop the server, and keep the folder. Repeatable."""
        # The watchdog first: it deletes the folder of a server that is gone.
        if self._watchdog is not None:
            self._watchdog.dismiss()
            self._watchdog = None
        if self._server is not None:
            self._server.send_signal(self._stop_with)
            try:
                self._server.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait()
            self._server = None

    def _environment(self) -> dict[str, str]:
        # Nothing of the starter's environment: PG* and MYSQL_* variables would change the server.
        return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC", "HOME": str(self.folder)}


def last_line(text: str) -> str:
    """Return what a program said last."""
    return (text.strip().splitlines() or ["no output"])[-1]


def free_port() -> int:
    """Return a port that nobody listens at, and that no client is given for an outgoing call.

    Between this and the server's own bind another process could take it; but not by chance.
    """
    while True:
        port = secrets.choice(_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


_PORTS = range(10_000, 32_768)
"""Below those that Linux hands out to clients (ip_local_port_range), above well-known services."""
