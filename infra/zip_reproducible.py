#!/usr/bin/env python3
"""Zip a folder so that equal contents make equal bytes: `zip_reproducible.py FOLDER OUT.zip`.

`make build` calls it for what `sam build` packed. Whoever builds a commit again gets the hash that
was deployed, or has found a difference. Times are fixed, names sorted, modes two, and bytecode is
left out: it holds the time at which it was compiled.
"""

from __future__ import annotations

import hashlib
import sys
import zipfile
from pathlib import Path

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip can hold."""

_REGULAR_FILE = 0o100000
_UNIX = 3
"""Which system made the entry (APPNOTE 4.4.2): Lambda reads modes only from Unix's."""


def zip_folder(folder: Path, archive: Path) -> str:
    """Write *archive* and return its SHA-256."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as written:
        for file in _files(folder):
            written.writestr(_entry(file, folder), file.read_bytes(), compresslevel=9)
    return hashlib.sha256(archive.read_bytes()).hexdigest()


def _files(folder: Path) -> list[Path]:
    found = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    # By name within the folder, part by part: the same order whatever the file system's.
    return sorted(found, key=lambda path: path.relative_to(folder).parts)


def _entry(file: Path, folder: Path) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(file.relative_to(folder).as_posix(), _EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.create_system = _UNIX
    # Readable by everyone: Lambda does not run as the files' owner. Not the umask's business.
    mode = 0o755 if file.stat().st_mode & 0o100 else 0o644
    entry.external_attr = (_REGULAR_FILE | mode) << 16
    return entry


def main() -> None:
    """Zip, and say what came of it."""
    folder, archive = (Path(argument) for argument in sys.argv[1:])
    digest = zip_folder(folder, archive)
    sys.stdout.write(f"{digest}  {archive}  {archive.stat().st_size / 1e6:.2f} MB\n")


if __name__ == "__main__":
    main()
