"""A client that never waits loses no login with two slots, and some with one: it can see them."""

from __future__ import annotations

import pytest

from conftest import need
from keyturn.testing.bench import Bench, Laboratory
from keyturn.testing.bench_aws import AwsVault
from keyturn.testing.laboratories import LABORATORIES
from keyturn.testing.open_loop import load

ROTATIONS = 5
"""A bounded part: `make proof` has 100."""


@pytest.mark.parametrize("laboratory", LABORATORIES, ids=lambda laboratory: laboratory.NAME)
def test_no_login_is_refused_where_two_passwords_work(laboratory: type[Laboratory]) -> None:
    need(present=laboratory.is_available(), what=laboratory.SERVER, install=laboratory.INSTALL)
    with laboratory() as opened, Bench(opened, AwsVault()) as bench:
        seen = load(bench, rotations=ROTATIONS, report=lambda: None)

    assert (seen.rotations, seen.failed) == (ROTATIONS, [])
    assert len(seen.took_ms) > ROTATIONS
    assert (seen.refused > 0) is (laboratory.SLOTS == 1)
