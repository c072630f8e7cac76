"""Where a server is, and how it lets us in: what `keyturn.line` needs to reach one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from keyturn.model import Sensitive


@dataclass(frozen=True, slots=True)
class Access:
    """The way to one server.

    Attributes:
        server: Its address, `https://host:port`.
        ca: PEM of the authorities that may sign its certificate; None for the system's.
        token: Makes a bearer token, or returns the one that it has; a new one if it is told so by
            True, because the last one was refused.
    """

    server: str
    ca: str | None
    token: Callable[[bool], Sensitive]
