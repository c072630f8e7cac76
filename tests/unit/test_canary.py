"""The canary sings: seeded leaks are caught. A check that cannot fail proves nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

LEAKS = {
    "a log record at DEBUG": "logging.getLogger('x').debug('%s', secret.reveal())",
    "standard output": "print(secret.reveal())",
    "an error's message": "Misconfigured(secret.reveal(), remedy='')",
    "an error's remedy": "Misconfigured('', remedy=f'{secret.reveal()}')",
    "a file": "(tmp_path / 'left').write_text(secret.reveal())",
    "a warning": "warnings.warn(secret.reveal(), stacklevel=1)",
    "base64": "print(base64.b64encode(b'xy' + secret.reveal().encode()).decode())",
    "hex": "print(secret.reveal().encode().hex())",
    "a URL": "print('postgres://app:' + quote(secret.reveal(), safe='') + '@db')",
    "JSON": "print(json.dumps(json.dumps({'x': secret.reveal()})))",
    "a failed assertion": "assert secret.reveal() == 'x'",
    "the marker alone": "print('Canary' + '7-x')",
}

HARMLESS = {
    "its repr": "print(secret, repr(secret), f'{secret}')",
    "nothing": "pass",
}

TEST = """
import base64, json, logging, warnings
from urllib.parse import quote
from keyturn.errors import Misconfigured
from keyturn.model import Sensitive

def test_leak(tmp_path):
    secret = Sensitive("dé/p'4ss w0rd" + "long")
    {leak}
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), str(TESTS.parent / "functions")]))
    pytester.makeini("[pytest]\nlog_level = DEBUG\n")
    return pytester


@pytest.mark.parametrize("leak", LEAKS.values(), ids=LEAKS)
def test_a_leak_is_caught(run: pytest.Pytester, leak: str) -> None:
    run.makepyfile(TEST.format(leak=leak))

    result = run.runpytest_subprocess("-p", "canary", "-p", "no:cacheprovider")

    result.stdout.fnmatch_lines(["*canary: 1 hits in*"])
    assert result.ret == 1


@pytest.mark.parametrize("leak", HARMLESS.values(), ids=HARMLESS)
def test_what_is_no_leak_passes(run: pytest.Pytester, leak: str) -> None:
    run.makepyfile(TEST.format(leak=leak))

    result = run.runpytest_subprocess("-p", "canary", "-p", "no:cacheprovider")

    result.stdout.fnmatch_lines(["*canary: 0 hits in*"])
    assert result.ret == 0
