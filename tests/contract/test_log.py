"""Alerts in the function's own log."""

from __future__ import annotations

import json

import pytest

from keyturn.notifiers.log import Log
from keyturn.testing.contracts import Listener, NotifierContract, alert


class TestLog(NotifierContract):
    @pytest.fixture
    def listener(self, capsys: pytest.CaptureFixture[str]) -> Listener:
        def heard() -> list[dict[str, str]]:
            lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
            return [
                {k: v for k, v in line.items() if k not in {"level", "message", "service"}}
                for line in lines
            ]

        return Listener(Log(), heard)


def test_a_line_has_a_level(capsys: pytest.CaptureFixture[str]) -> None:
    Log().send(alert())

    line = json.loads(capsys.readouterr().out)
    assert (line["level"], line["message"], line["service"]) == ("WARNING", "alert", "keyturn")
