"""The ordinary AWS CLI, many commands in one process: a start costs half a second of processor."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from conftest import need

OURS = Path(__file__).parents[1] / ".venv-awscli" / "bin"
"""Where CI puts one: `requirements/make-venv .venv-awscli requirements/awscli.txt`."""

_DRIVER = """
import contextlib, io, json, sys
from awscli.clidriver import create_clidriver

driver = create_clidriver()
for line in sys.stdin:
    said, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(errors):
        code = driver.main(json.loads(line))
    print(json.dumps([code, said.getvalue(), errors.getvalue()]), flush=True)
"""


def search_path() -> str:
    """Return the PATH on which `aws` is found: ours first, then whatever the machine has."""
    path = os.pathsep.join([str(OURS), os.environ["PATH"]])
    need(
        present=shutil.which("aws", path=path) is not None,
        what="the AWS CLI",
        install="requirements/make-venv .venv-awscli requirements/awscli.txt",
    )
    return path


class AwsCli:
    """Takes one command after the other. Made by `started`."""

    def __init__(self, commands: IO[str], answers: IO[str]) -> None:
        self._commands = commands
        self._answers = answers

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Run `aws` with *arguments*; return its exit code, and what it wrote to both outputs."""
        self._commands.write(json.dumps(arguments) + "\n")
        self._commands.flush()
        code, said, errors = json.loads(self._answers.readline())
        return code, said, errors


@contextmanager
def started(environment: Mapping[str, str]) -> Iterator[AwsCli]:
    """Start the CLI's own Python, with *environment* and nothing of ours."""
    need(
        present=(OURS / "python").exists(),
        what="an AWS CLI in .venv-awscli",
        install="requirements/make-venv .venv-awscli requirements/awscli.txt",
    )
    with subprocess.Popen(
        [OURS / "python", "-c", _DRIVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **environment},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield AwsCli(process.stdin, process.stdout)
        process.stdin.close()
