"""Any name and any password, through the engine and a real server: 100 % log in, nothing injected.

A few dozen with every run; 10,000 with `make proof` (--hypothesis-profile=proof).
"""

from __future__ import annotations

from contextlib import suppress

import pymysql
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from keyturn.errors import Misconfigured
from keyturn.model import Sensitive
from keyturn.targets.mysql import NAME_MAX_BYTES
from keyturn.targets.mysql_sql import account, sql
from mysql_accounts import Site

CHARACTERS = st.characters(codec="utf-8", exclude_characters="\0")
# MariaDB and MySQL keep names in three-byte characters; 32 is MySQL's limit.
NAMED = st.characters(codec="utf-8", exclude_characters="\0", max_codepoint=0xFFFF)
NAMES = st.text(NAMED, min_size=1, max_size=24).map(lambda name: f"p_{name}")
PASSWORDS = st.text(CHARACTERS, max_size=40).map(lambda text: f"{text}Canary7")
"""With the marker, because the canary cannot tell a password like 000000000000 from the log."""


@pytest.fixture(scope="module", params=["mariadb", "mysql"])
def any_site(request: pytest.FixtureRequest) -> Site:
    made: Site = request.getfixturevalue(request.param)
    with suppress(pymysql.Error):
        made.make("p_bystander", "Canary7-bystander")
    return made


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@example(name="p_'; DROP USER p_bystander; --", password="'); DROP USER p_bystander; --")
@example(name="p_`@`%` IDENTIFIED BY 'x", password="\\' OR 1=1 -- ")
@example(name="p_%(x)s{0}", password="ﬀ\u00a0Ⅷ é😀\\")
@example(name="p_\\", password="\\")
@given(name=NAMES, password=PASSWORDS)
def test_any_name_logs_in_with_any_password(any_site: Site, name: str, password: str) -> None:
    site, login = any_site, any_site.credential(name, "first")
    engine = site.engine()
    try:
        engine.endpoint(login)
    except Misconfigured:
        # Refused before anything was done: too long, blanks at an end, unprintable.
        assert len(name.encode()) > NAME_MAX_BYTES or name != name.strip() or not name.isprintable()
        return
    site.execute(
        sql("DROP USER IF EXISTS {}", account(name, "%")),
        sql("CREATE USER {} {}", account(name, "%"), site.identified("first")),
    )
    before = _others(site, name)

    with engine.login(login) as session:
        assert session is not None
        session.set_password(name, Sensitive(password))

    assert site.accepts(name, password)
    assert site.accepts(name, "first") is (password == "first")
    assert _others(site, name) == before


def _others(site: Site, name: str) -> set[str]:
    rows = site.rows("SELECT User FROM mysql.user")
    return {str(user) for (user,) in rows} - {name}
