"""Any name and any password, through the engine and a real server: 100 % log in, nothing injected.

A few dozen with every run; 10,000 with `make proof` (--hypothesis-profile=proof).
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from databases import plenty_of_time
from keyturn.errors import Misconfigured
from keyturn.local.redis import Redis as Server
from keyturn.model import Sensitive
from keyturn.targets.redis import Redis
from keyturn.targets.redis_line import NAME_MAX_BYTES
from redises import APPLICATION, ROTATION, connect, credential, make_user, rules_of

CHARACTERS = st.characters(codec="utf-8")
NAMES = st.text(CHARACTERS, min_size=1, max_size=24).map(lambda name: f"p_{name}")
PASSWORDS = st.text(CHARACTERS, max_size=40).map(lambda text: f"{text}Canary7")
"""With the marker, because the canary cannot tell a password like 000000000000 from the log."""
PATTERN = st.text(
    st.characters(codec="utf-8", exclude_categories=["Z", "C"]), min_size=1, max_size=12
)
RULES = st.lists(
    st.one_of(
        PATTERN.map(lambda text: f"~{text}"),
        PATTERN.map(lambda text: f"%R~{text}"),
        PATTERN.map(lambda text: f"&{text}"),
        st.sampled_from(["+@all", "-@dangerous", "+get", "-set", "+config|get", "(~s:* +incr)"]),
    ),
    max_size=6,
)

any_server = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@any_server
@example(name="p_#nopass", password="#" + "0" * 64 + "Canary7")
@example(name="p_>x", password="\r\n*1\r\n$8\r\nFLUSHALL\r\nCanary7")
@example(name="p_%s{0}", password="\0 \ud7ff Canary7")
@given(name=NAMES, password=PASSWORDS)
def test_any_name_logs_in_with_any_password(redis: Server, name: str, password: str) -> None:
    login = credential(redis, name, "first")
    engine = Redis(plenty_of_time())
    try:
        engine.endpoint(login)
    except Misconfigured:
        # Refused before anything was done: too long, blanks, unprintable.
        assert len(name.encode()) > NAME_MAX_BYTES or " " in name or not name.isprintable()
        return
    make_user(redis, name, "first", *APPLICATION, *ROTATION)
    before = _others(redis, name)

    with engine.login(login) as session:
        assert session is not None
        session.set_password(name, Sensitive(password))

    with engine.login(credential(redis, name, password)) as session:
        assert session is not None
    with engine.login(login) as session:
        assert session is None
    assert _others(redis, name) == before
    with connect(redis) as superuser:
        superuser.acl_deluser(name)


@any_server
@given(rules=RULES)
def test_any_rules_are_copied(redis: Server, rules: list[str]) -> None:
    """As the server itself writes them down: its own words are what is said back."""
    make_user(redis, "p_like", "first", *rules)
    make_user(redis, "p_admin", "first", *ROTATION)

    with Redis(plenty_of_time()).login(credential(redis, "p_admin", "first")) as session:
        assert session is not None
        session.set_twin("p_twin", Sensitive("Canary7-twin"), like="p_like", owner="")

    assert rules_of(redis, "p_twin") == rules_of(redis, "p_like")


@pytest.fixture(autouse=True)
def _tidy(redis: Server) -> None:
    """Names from an earlier example may be left by a failure."""
    with connect(redis) as superuser:
        for name in superuser.acl_users():
            if name.startswith("p_"):
                superuser.acl_deluser(name)


def _others(server: Server, name: str) -> list[str]:
    with connect(server) as superuser:
        return sorted(line for line in superuser.acl_list() if line.split(" ")[1] != name)
