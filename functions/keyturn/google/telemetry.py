"""What a function on Google says: one JSON line per step, as Cloud Logging reads them.

    severity                            INFO; WARNING if it comes again by itself; else ERROR
    message                             `step succeeded`, `step failed`, `behind`, `measured`
    logging.googleapis.com/trace        of the request, so that its lines stand together
    @type, serviceContext, stack_trace  of an error: Error Reporting takes it up

Numbers are fields of a line, from which log-based metrics are made (infra/gcp). No library: a line
is printed, as Cloud Run wants it (Cloud Logging: structured logging).
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterable, Mapping

from keyturn.boundary import Scrubber, quiet_sdk_loggers, scrub
from keyturn.errors import KeyturnError, Retryable
from keyturn.google.events import TooEarly

REPORTED = "type.googleapis.com/google.devtools.clouderrorreporting.v1beta1.ReportedErrorEvent"
"""What Error Reporting takes for an error, whatever its text (Error Reporting: formatting)."""

_TRACE = re.compile(r"([0-9a-f]{32})(?:/[0-9]+)?(?:;.*)?")


class StructuredLog:
    """A `boundary.Reporting`, for one request.

    Args:
        headers: Of the request.
        environment: The function's: K_SERVICE, K_REVISION; and the project.
    """

    def __init__(self, headers: Mapping[str, str], environment: Mapping[str, str]) -> None:
        quiet_sdk_loggers()
        for handler in logging.getLogger().handlers:
            if not any(isinstance(each, Scrubber) for each in handler.filters):
                handler.addFilter(Scrubber())
        self._always = {"service": "keyturn", **_trace(headers, environment)}
        self._context = {
            "service": environment.get("K_SERVICE", "keyturn"),
            "version": environment.get("K_REVISION", ""),
        }

    def succeeded(self, facts: Mapping[str, str], elapsed_ms: int) -> None:
        """See `boundary.Reporting`."""
        self._write("INFO", "step succeeded", {**facts, "elapsed_ms": elapsed_ms})

    def failed(self, facts: Mapping[str, str], elapsed_ms: int, error: KeyturnError) -> None:
        """See `boundary.Reporting`."""
        if isinstance(error, TooEarly):
            self._write("INFO", str(error), facts)
            return
        kind = type(error).__name__
        told = {
            **facts,
            "elapsed_ms": elapsed_ms,
            "error": kind,
            "reason": str(error),
            "remedy": error.remedy,
        }
        if isinstance(error, Retryable):
            self._write("WARNING", "step failed", told)
            return
        reported = {
            "@type": REPORTED,
            "serviceContext": self._context,
            "context": {"reportLocation": {"functionName": facts.get("step", "")}},
            "stack_trace": f"{kind}: {error}",
        }
        self._write("ERROR", "step failed", {**told, **reported})

    def measured(
        self,
        numbers: Mapping[str, float],
        units: Mapping[str, str],
        behind: Iterable[Mapping[str, str | float]] = (),
    ) -> None:
        """See `boundary.Reporting`. Units are CloudWatch's, and not said."""
        del units
        for facts in behind:
            self._write("INFO", "behind", facts)
        self._write("INFO", "measured", numbers)

    def _write(self, severity: str, message: str, facts: Mapping[str, object]) -> None:
        line = {"severity": severity, "message": message, **self._always, **facts}
        sys.stdout.write(scrub(json.dumps(line)) + "\n")
        sys.stdout.flush()


def _trace(headers: Mapping[str, str], environment: Mapping[str, str]) -> Mapping[str, str]:
    found = _TRACE.fullmatch(headers.get("X-Cloud-Trace-Context", ""))
    project = environment.get("GOOGLE_CLOUD_PROJECT") or environment.get("KEYTURN_PROJECT", "")
    if found is None or not project:
        return {}
    return {"logging.googleapis.com/trace": f"projects/{project}/traces/{found[1]}"}
