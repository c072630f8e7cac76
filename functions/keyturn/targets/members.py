"""What the targets read out of a secret and check, before anything is done with it.

Used by the targets that log in to a host over the network. No I/O.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NoReturn

from keyturn.document import kind_of
from keyturn.errors import Misconfigured

HOST_MAX_CHARACTERS = 255
PORT_MAX = 65_535


def host(fields: Mapping[str, object]) -> str:
    """Return `host`: one name, one address, or the path of a socket."""
    found = text(fields, "host", None, HOST_MAX_CHARACTERS)
    if found.startswith("@") or any(c in found for c in ", "):
        refuse("host", "is not one host name, address or socket directory")
    return found


def text(fields: Mapping[str, object], key: str, default: str | None, most: int) -> str:
    """Return the member *key*, which has at most so many bytes."""
    value = fields.get(key, default)
    if value is None:
        refuse(key, "is missing")
    if not isinstance(value, str):
        refuse(key, f"is {kind_of(value)}, not a string")
    if not value or not value.isprintable() or len(value.encode()) > most:
        refuse(key, f"is empty, longer than {most} bytes, or holds unprintable characters")
    return value


def check_name(key: str, name: str, most: int) -> None:
    """Refuse a name that a server might cut, or take for another one."""
    if not name.isprintable() or name != name.strip() or len(name.encode()) > most:
        refuse(
            key,
            f"is longer than {most} bytes, begins or ends with a blank,"
            " or holds unprintable characters",
        )


def port(value: object, default: int) -> int:
    """Return `port`: a number, or its digits."""
    if value is None:
        return default
    number = int(value) if isinstance(value, str) and re.fullmatch("[0-9]{1,5}", value) else value
    if isinstance(number, bool) or not isinstance(number, int) or not 0 < number <= PORT_MAX:
        refuse("port", f"is {kind_of(value)} that is no number from 1 to {PORT_MAX}")
    return number


def refuse(key: str, problem: str) -> NoReturn:
    """Say what is wrong with a member, never what it holds."""
    raise Misconfigured(
        f"the secret's {key!r} {problem}", remedy=f"Correct {key!r} in the secret's value."
    )
