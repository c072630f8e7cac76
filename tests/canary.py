"""The canary: a pytest plugin that fails a test through which a secret got out.

Every `Sensitive` that is made while a test runs is a secret of that test, and so is whatever holds
the marker. Afterwards they are searched in what the test left behind: captured output and logs
(every logger at DEBUG, EMF included), warnings, the text of each error of ours, pytest's own report
of a failure, and the files under its temporary folder; raw, and as base64, URL, JSON and hex.
The servers' logs are searched when they stop (`check`, called by their fixtures).

It says where, never what.
"""

from __future__ import annotations

import base64
import json
import logging
import warnings
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from keyturn.boundary import quiet_sdk_loggers
from keyturn.errors import KeyturnError
from keyturn.model import Sensitive

MARKER = "Canary7"
SHORTEST = 12
"""Shorter texts occur by themselves: "wrong", "first"."""

_TOTALS = pytest.StashKey[dict[str, int]]()


class Watch:
    """Collects the secrets and the errors of one test. Session-wide ones stay."""

    def __init__(self) -> None:
        self.secrets: set[str] = set()
        self.said: list[str] = []
        self.leaked_warnings = 0

    def forms(self) -> set[str]:
        """Return every secret in every form it might get out in."""
        return {form for secret in (*self.secrets, MARKER) for form in _forms(secret)}


_watch = Watch()


def _forms(secret: str) -> Iterator[str]:
    raw = secret.encode("utf-8", "surrogatepass")
    yield secret
    yield quote(secret, safe="", errors="replace")
    once = json.dumps(secret)[1:-1]
    yield once
    yield json.dumps(once)[1:-1]  # a document inside a document
    yield raw.hex()
    # In base64 a text looks different by where it begins; what is the same is cut out.
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + raw).decode()
        yield encoded[4 if shift else 0 : -4]


def _instrument() -> None:
    """Note each secret and each error as it is made."""
    make_secret, make_error = Sensitive.__init__, KeyturnError.__init__

    def note_secret(self: Sensitive, text: str) -> None:
        make_secret(self, text)
        if len(text) >= SHORTEST:
            _watch.secrets.add(text)

    def note_error(self: KeyturnError, message: str, *, remedy: str) -> None:
        make_error(self, message, remedy=remedy)
        _watch.said.append(f"{message} {remedy}")

    Sensitive.__init__ = note_secret  # type: ignore[method-assign]  # an instrument, not a mock
    KeyturnError.__init__ = note_error  # type: ignore[method-assign]


def check(text: str, where: str, forms: Iterable[str] | None = None) -> None:
    """Fail if *text* holds a secret or the marker."""
    if found_in(text, forms):
        pytest.fail(f"a secret got out into {where}", pytrace=False)


def found_in(text: str, forms: Iterable[str] | None = None) -> bool:
    """Tell whether *text* holds one of *forms*; by default, a secret of this test or the marker."""
    return any(form in text for form in (forms if forms is not None else _watch.forms()) if form)


def pytest_configure(config: pytest.Config) -> None:
    """Begin: every logger at DEBUG, but the SDKs' as the entry points hold them."""
    config.stash[_TOTALS] = {"bytes": 0, "secrets": 0, "hits": 0}
    _instrument()
    quiet_sdk_loggers()
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # the cloud's own side, not ours


def pytest_runtest_setup() -> None:
    """Forget the last test's secrets: only now, because its warnings are told after its end."""
    _watch.secrets.clear()
    _watch.said.clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Search what each phase of a test left behind; turn a leak into a failure."""
    report = yield
    del call
    totals, forms = item.config.stash[_TOTALS], _watch.forms()
    totals["secrets"] += len(_watch.secrets) if report.when == "teardown" else 0
    for where, text in _left_behind(item, report):
        totals["bytes"] += len(text)
        if found_in(text, forms):
            totals["hits"] += 1
            report.outcome = "failed"
            report.longrepr = f"a secret got out into {where}"
            report.sections.clear()
    return report


def _left_behind(item: pytest.Item, report: pytest.TestReport) -> Iterator[tuple[str, str]]:
    for where, text in report.sections:
        # Each report repeats the sections of the phases before it.
        if where.endswith(report.when):
            yield where, text
    yield "pytest's report", report.longreprtext
    if report.when == "teardown":
        yield "an error's message or remedy", "\n".join(_watch.said)
    folder = getattr(item, "funcargs", {}).get("tmp_path")
    if report.when == "call" and isinstance(folder, Path):
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                yield f"the file {path.name}", path.read_bytes().decode("utf-8", "replace")


@pytest.hookimpl(tryfirst=True)
def pytest_warning_recorded(warning_message: warnings.WarningMessage) -> None:
    """Search warnings. They are told too late to fail their test, so they fail the run."""
    if found_in(str(warning_message.message)):
        warning_message.message = "a secret got out into a warning"
        _watch.leaked_warnings += 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run for a warning; hand a worker's totals to the process that prints them."""
    session.config.stash[_TOTALS]["hits"] += _watch.leaked_warnings
    if _watch.leaked_warnings:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["canary"] = session.config.stash[_TOTALS]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add up what the workers found."""
    totals = node.config.stash[_TOTALS]
    for key, value in node.workeroutput.get("canary", {}).items():
        totals[key] += value


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say what was searched."""
    totals = config.stash[_TOTALS]
    terminalreporter.write_line(
        f"canary: {totals['hits']} hits in {totals['bytes']:,} bytes,"
        f" searched for {totals['secrets']:,} secrets"
    )
