"""Writes a value into a new file that nobody but its owner can read."""

from __future__ import annotations

import os
from pathlib import Path

from keyturn.errors import Misconfigured
from keyturn.model import Sensitive

OWNER_ONLY = 0o600


def write(path: Path, value: Sensitive) -> None:
    """Write *value*.

    Raises:
        Misconfigured: There is something at *path* already, or no file can be made there.
    """
    try:
        # Its mode from the first moment on, and never through a link that somebody has put there.
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY)
    except OSError as error:
        fact = error.strerror
    else:
        # A value that is no text has each of its bytes as half a surrogate pair.
        with os.fdopen(opened, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            file.write(value.reveal())
        return
    raise Misconfigured(f"{path}: {fact}", remedy="Name a new file, in a folder that exists.")
