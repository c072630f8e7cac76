"""What the platform is told of a failure, and what every line passes before it is written."""

from __future__ import annotations

import logging
import traceback
from typing import NoReturn

import pytest

from keyturn.boundary import Telemetry, answer, quiet_sdk_loggers
from keyturn.errors import Denied, KeyturnError, Untraceable

CANARY = "Canary7-" + "entry-point"


def test_an_error_goes_out_without_cause_context_and_frames() -> None:
    """The platform prints the whole chain of what it is given, and an SDK's error quotes."""

    def work() -> NoReturn:
        raise Denied("the reason", remedy="The remedy.") from ValueError(CANARY)

    with pytest.raises(KeyturnError) as caught:
        answer(Telemetry(), {}, work)

    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    printed = "".join(traceback.format_exception(caught.value))
    assert "the reason" in printed
    assert "in work" not in printed


@pytest.mark.parametrize(
    "kept_by, why",
    [
        (Denied("the store refuses", remedy="Allow it."), "the store refuses"),
        (ValueError(CANARY), "unexpected ValueError"),
    ],
)
def test_what_may_be_lost_is_told_before_it_is_forgotten(
    kept_by: Exception, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A worker that dies in between tells it twice, and never not at all.

    Whoever is told again and again must see why; and nothing unknown gets out there, either.
    """
    told: list[str] = []

    def forget() -> NoReturn:
        told.append(capsys.readouterr().out)
        raise kept_by

    def work() -> NoReturn:
        raise Untraceable("K1 may be left", remedy="Delete it.", when_told=forget)

    with pytest.raises(Untraceable) as caught:
        answer(Telemetry(), {}, work)

    [line] = told
    assert "K1 may be left" in line
    assert "KeyPossiblyLost" in line
    after = capsys.readouterr().out
    assert why in after
    assert CANARY not in after
    assert caught.value.__context__ is None


@pytest.mark.parametrize("logger", ["keyturn", "root", "somebodys.library"])
def test_a_line_that_looks_like_a_secret_is_scrubbed_wherever_it_is_written(
    logger: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The second net hangs on every handler: ours, and the platform's on the root."""
    Telemetry()

    logging.getLogger(logger).warning("connecting with password=%s", CANARY)

    written = caplog.text + "".join(capsys.readouterr())
    assert "connecting with password=***" in written
    assert CANARY not in written


@pytest.mark.parametrize("name", ["boto3", "botocore", "botocore.parsers", "urllib3", "psycopg.pq"])
def test_no_sdk_logs_below_warning_whatever_level_it_was_given(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """At DEBUG they log requests and answers; the scrubber knows only what looks like a secret."""
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger=name)

    quiet_sdk_loggers()
    logging.getLogger(name).info("an answer")
    logging.getLogger(name).warning("a warning")

    assert [record.message for record in caplog.records] == ["a warning"]
