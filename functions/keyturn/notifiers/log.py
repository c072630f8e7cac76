"""Alerts to the function's own log, one line each. Always on: it cannot be misconfigured."""

from __future__ import annotations

import json
import sys

from keyturn.model import Alert, Severity
from keyturn.notifiers import wording
from keyturn.ports import Clients, Notifier

PERMISSIONS: tuple[str, ...] = ()
"""None but the function's own, to write its log."""

SCHEME = "log"
"""Its whole address."""

_LEVELS = {Severity.INFO: "INFO", Severity.WARNING: "WARNING", Severity.CRITICAL: "ERROR"}


def notifier(address: str, clients: Clients) -> Notifier:
    """Make one. It has neither address nor client."""
    del address, clients
    return Log()


class Log:
    """A `Notifier`. Writes to whatever standard output is at that moment."""

    def send(self, alert: Alert) -> None:
        """See `Notifier.send`."""
        line = {
            "level": _LEVELS[alert.severity],
            "message": "alert",
            "service": "keyturn",
            **wording.fields(alert),
        }
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
