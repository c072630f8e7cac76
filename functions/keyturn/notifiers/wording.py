"""An alert in words: for a person, in one line and in a few; for a program, as named texts."""

from __future__ import annotations

from keyturn.model import Alert

SUBJECT_MAX_CHARACTERS = 100
"""Longest subject that mail takes by way of SNS (API_Publish)."""


def fields(alert: Alert) -> dict[str, str]:
    """Return all that an alert says. The names are part of our interface."""
    return {
        "id": alert.id,
        "happening": alert.happening.value,
        "severity": alert.severity.value,
        "secret": alert.ref,
        "version": alert.version_id or "",
        "subject": alert.subject,
        "fact": alert.fact,
        "remedy": alert.remedy,
        "at": alert.at.isoformat(timespec="seconds"),
    }


def subject(alert: Alert) -> str:
    """Return one line of ASCII."""
    line = f"keyturn: {alert.happening.value}: {alert.ref.rpartition(':')[2]}"
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in line)[
        :SUBJECT_MAX_CHARACTERS
    ]


def text(alert: Alert) -> str:
    """Return what a person reads."""
    about = f"{alert.subject} " if alert.subject else ""
    version = f" (version {alert.version_id})" if alert.version_id else ""
    lines = [f"{alert.ref}{version}: {about}{alert.fact}.", alert.remedy, f"Alert {alert.id}"]
    return "\n".join(line for line in lines if line)
