"""Cleans up after a process that could not do it itself, because it was killed.

A shell that waits until its input ends, which it does when we do, however we end. Then it ends
the process that it watches over, and deletes the folder.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

_SCRIPT = """
cat >/dev/null
if [ "$2" != 0 ]; then
    kill -QUIT "$2" 2>/dev/null
    for _ in 1 2 3 4 5 6 7 8 9 10; do kill -0 "$2" 2>/dev/null || break; sleep 0.1; done
fi
rm -rf "$1"
"""


class Watchdog:
    """Watches from its construction until `dismiss`.

    Args:
        folder: Deleted if we die.
        pid: Ended if we die; 0 for none.
    """

    def __init__(self, folder: Path, pid: int = 0) -> None:
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", _SCRIPT, "keyturn-watchdog", folder, str(pid)],
            stdin=subprocess.PIPE,
            # Ctrl-C is for us: it must outlive us.
            start_new_session=True,
        )

    def dismiss(self) -> None:
        """Stop watching: the folder and the process are taken care of. Repeatable."""
        self._shell.kill()
        self._shell.communicate()
