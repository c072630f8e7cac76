"""A function that rotates one kind of secret imports one kind of target."""

from __future__ import annotations

import subprocess
import sys

import pytest

ASK = """
import sys
from keyturn import wiring
found = wiring._module_of(sys.argv[1])
targets = {name.split(".")[2] for name in sys.modules if name.startswith("keyturn.targets.")}
print(found.__name__.split(".")[-1], *sorted(targets & {"http_api_key", "iam_access_key"}))
"""


@pytest.mark.parametrize(
    "engine, module",
    [
        ("postgres", "postgres"),
        ("postgresql", "postgres"),
        ("aurora-postgresql", "postgres"),
        ("mysql", "mysql"),
        ("redis", "redis"),
    ],
)
def test_the_module_that_is_named_like_the_engine_is_the_only_one(engine: str, module: str) -> None:
    """Each read of a secret asks for it: to import and ask all of them was 0.1x of a rotation."""
    done = subprocess.run(
        [sys.executable, "-c", ASK, engine], capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == [module]


def test_one_that_is_named_otherwise_is_found_too() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASK, "mariadb"], capture_output=True, text=True, check=True
    )

    assert done.stdout.split()[0] == "mysql"
