"""A real MariaDB, or MySQL, on loopback, in a temporary folder, gone when its starter is.

Used by the demo, the proof and the tests. Everybody logs in over TCP with a password, as against
any real server, except the superuser, who comes through a Unix socket in a folder that only its
owner may enter. It keeps nothing: data are not even synced to disk.

MariaDB is the distribution's. MySQL is not packaged everywhere: `mysql` also takes a folder into
which its packages were unpacked, with a C library of their own.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypedDict

from keyturn.errors import Misconfigured
from keyturn.local.daemon import Daemon, last_line

_SETTINGS = {
    # The data die with the folder.
    "innodb-flush-log-at-trx-commit": "0",
    "innodb-flush-method": "nosync",
    "sync-binlog": "0",
    "innodb-buffer-pool-size": "16M",
    "innodb-data-file-path": "ibdata1:5M:autoextend",
    "bind-address": "127.0.0.1",
    "skip-name-resolve": "ON",
    "character-set-server": "utf8mb4",
    "max-connections": "60",
}
_FLAVOUR_SETTINGS = {
    "MariaDB": {"innodb-log-file-size": "8M", "feedback": "OFF"},
    # Its socket would be in /tmp; its files, where the packages' scripts make a folder.
    "MySQL": {"mysqlx": "OFF", "secure-file-priv": "NULL", "innodb-redo-log-capacity": "16M"},
}


class Superuser(TypedDict):
    """How PyMySQL logs in as the superuser. There is no password: the socket's folder is."""

    unix_socket: str
    user: str
    ssl_disabled: bool


@dataclass(frozen=True, slots=True)
class Install:
    """Where a server's programs are.

    Attributes:
        flavour: "MariaDB" or "MySQL".
        server: The command that starts the server, without options.
        initialise: The command that makes a data folder, without options.
        initialise_options: What only that one is told.
        options: What either needs to find its files.
    """

    flavour: str
    server: tuple[str, ...]
    initialise: tuple[str, ...]
    initialise_options: tuple[str, ...]
    options: tuple[str, ...] = ()


def find_mariadb() -> Install | None:
    """Return the distribution's MariaDB, if it is installed."""
    server, initialise = _program("mariadbd"), _program("mariadb-install-db")
    if not server or not initialise:
        return None
    quick = ("--auth-root-authentication-method=normal", "--skip-test-db")
    return Install("MariaDB", (server,), (initialise,), quick)


def find_mysql(unpacked: Path | None = None) -> Install | None:
    """Return a MySQL: the distribution's, or that whose packages lie *unpacked* in a folder."""
    if unpacked is None:
        server = _program("mysqld")
        real = Path(server).resolve().name if server else ""
        return _mysql((server,), ()) if server and real == "mysqld" else None
    unpacked = unpacked.resolve()
    loader = next(unpacked.glob("usr/lib/*/ld-linux-*.so.*"), None)
    program = unpacked / "usr" / "sbin" / "mysqld"
    if loader is None or not program.exists():
        return None
    # Its libraries are newer than the system's: its own loader finds them.
    command = (str(loader), "--library-path", str(loader.parent), str(program))
    share = unpacked / "usr" / "share" / "mysql"
    plugins = unpacked / "usr" / "lib" / "mysql" / "plugin"
    return _mysql(command, (f"--lc-messages-dir={share}", f"--plugin-dir={plugins}"))


def _mysql(server: tuple[str, ...], options: tuple[str, ...]) -> Install:
    return Install("MySQL", server, server, ("--initialize-insecure",), options)


def _program(name: str) -> str | None:
    # Debian keeps servers where an ordinary user's PATH does not look.
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))


class MariaDb:
    """One server. Use it as a context manager, or call `start` and `stop`.

    Args:
        install: Its programs; the distribution's MariaDB by default.
        settings: Options for the server, over ours, without the leading dashes.
        port: TCP port; 0 takes a free one.

    Attributes:
        host: Where it listens for TCP.
        flavour: "MariaDB" or "MySQL".
    """

    host = "127.0.0.1"

    def __init__(
        self,
        install: Install | None = None,
        *,
        settings: Mapping[str, str] | None = None,
        port: int = 0,
    ) -> None:
        found = install or find_mariadb()
        if found is None:
            raise Misconfigured(
                "there is no MariaDB on this machine", remedy="Run apt install mariadb-server."
            )
        self._install = found
        self.flavour = found.flavour
        self._settings = {**_SETTINGS, **_FLAVOUR_SETTINGS[found.flavour], **(settings or {})}
        self._daemon = Daemon(
            found.flavour, prefix="keyturn-my-", port=port, stop_with=signal.SIGTERM
        )
        self._seen_bytes = 0

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
    def socket(self) -> Path:
        """The Unix socket."""
        return self.folder / "socket" / "s"

    def superuser(self) -> Superuser:
        """Return the arguments with which `pymysql.connect` logs in as the superuser."""
        return {"unix_socket": str(self.socket), "user": "root", "ssl_disabled": True}

    def log_text(self) -> str:
        """Return the server's error log so far."""
        return self._daemon.log_text()

    def data_text(self, *names: str) -> str:
        """Return files of the data folder as text: the general, slow and binary logs, say."""
        found = [path for name in names for path in sorted((self.folder / "data").glob(name))]
        return "\n".join(path.read_text("utf-8", "replace") for path in found)

    def start(self) -> None:
        """Make a data folder and serve it.

        Raises:
            Misconfigured: The server refuses its settings.
            Unreachable: It does not get ready in time.
        """
        self._daemon.start(self._prepare, self._serve)

    def stop(self) -> None:
        """Stop the server and delete its folder. Repeatable."""
        self._daemon.stop()

    def restart(self) -> None:
        """Stop the server and serve the same data at the same port."""
        self._daemon.halt()
        self.socket.unlink(missing_ok=True)
        self._serve()

    def _prepare(self) -> None:
        self._daemon.make("data")
        self._daemon.make("socket")
        # What the server is told to do later (to check passwords, to log) it does not do here.
        options = [*self._install.initialise_options, *self._options(_SETTINGS)]
        done = self._daemon.run([*self._install.initialise, *_NOBODYS_FILES, *options])
        if done.returncode:
            raise Misconfigured(
                f"{self.flavour} could not make its data folder: {last_line(done.stdout)}",
                remedy="Check that the disk has room and the programs fit this computer.",
            )

        (self.folder / "init.sql").write_text(_INIT[self.flavour])

    def _serve(self) -> None:
        given = {"port": str(self._daemon.take_port()), "init-file": str(self.folder / "init.sql")}
        options = self._options({**self._settings, **given})
        log = self.folder / "log"
        self._seen_bytes = log.stat().st_size if log.exists() else 0
        self._daemon.serve([*self._install.server, *_NOBODYS_FILES, *options], self._is_ready)

    def _options(self, settings: Mapping[str, str]) -> list[str]:
        ours = {
            "datadir": str(self.folder / "data"),
            "socket": str(self.socket),
            "pid-file": str(self.folder / "socket" / "pid"),
        }
        given = [f"--{key}={value}" for key, value in {**settings, **ours}.items()]
        return [*self._install.options, *given]

    def _is_ready(self) -> bool:
        # Not by its socket, which is there before the server answers.
        with (self.folder / "log").open("rb") as log:
            log.seek(self._seen_bytes)
            return b"ready for connections" in log.read()


_INIT = {
    "MariaDB": "DELETE FROM mysql.global_priv WHERE user = 'root' AND host <> 'localhost';\n"
    "FLUSH PRIVILEGES;\n",
    "MySQL": "",
}
"""MariaDB makes superusers for TCP too, without a password."""

_NOBODYS_FILES = ("--no-defaults",)
"""No my.cnf of this machine. It must be the first option."""
