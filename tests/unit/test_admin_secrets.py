"""Which secrets a function may read besides the one it serves."""

from __future__ import annotations

from typing import Any

import pytest

from keyturn.errors import Denied
from keyturn.model import Credential, Sensitive, Surroundings
from keyturn.testing.fakes import LabelledStore, World
from keyturn.wiring import Aws, Settings, Site, _stored_admin, planned_admin

HERE = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:"


class OneStore(Aws):
    """Every secret is in one store, in memory."""

    def store(self, ref: object, members_of: object) -> Any:
        del ref, members_of
        return LabelledStore(World(), Credential("app", Sensitive("Canary7-admin")))


def site(*allowed: str) -> Site:
    cloud: Any = OneStore()
    return Site(cloud, Settings(admin_secrets=allowed), Surroundings(lambda: 60.0))


@pytest.mark.parametrize(
    "allowed,asked",
    [
        ("prod/token", "prod/token"),
        ("prod/*", "prod/token"),
        (f"{HERE}prod/token-??????", "prod/token"),
        (f"{HERE}prod/token-aB3dE9", "prod/token"),
        (f"{HERE}prod/token-??????", f"{HERE}prod/token-aB3dE9"),
        ("prod/token", f"{HERE}prod/token-aB3dE9"),
    ],
)
def test_a_plan_may_name_it_by_name_or_by_arn(allowed: str, asked: str) -> None:
    assert planned_admin(asked, site(allowed)).principal == "app"


@pytest.mark.parametrize(
    "allowed,asked",
    [
        ("prod/token", "prod/tokens"),
        (f"{HERE}prod/token-aB3dE9", f"{HERE}prod/token-XXXXXX"),
        (f"{HERE}prod/token-??????", "prod/token-other"),
        (f"{HERE}prod/token-??????", f"{HERE.replace('1111', '2222')}prod/token-aB3dE9"),
        (f"{HERE}prod/my-order*", "prod/my"),
        (f"{HERE}prod/my-??????-aB3dE9", "prod/my"),
    ],
)
def test_no_other_is(allowed: str, asked: str) -> None:
    with pytest.raises(Denied, match="KEYTURN_ADMIN_SECRETS"):
        planned_admin(asked, site(allowed))


@pytest.mark.parametrize(
    "allowed,asked",
    [
        ("prod/token", f"{HERE}prod/token-aB3dE9"),
        (f"{HERE}prod/token-??????", f"{HERE}prod/token-aB3dE9"),
        ("prod/token", "prod/token"),
    ],
)
def test_a_secrets_value_may_name_what_is_allowed_as_it_is(allowed: str, asked: str) -> None:
    assert _stored_admin(asked, site(allowed)).principal == "app"


def test_a_secrets_value_does_not_name_by_name_what_is_allowed_by_arn() -> None:
    """Whoever can write the secret must not choose among accounts."""
    with pytest.raises(Denied, match="KEYTURN_ADMIN_SECRETS"):
        _stored_admin("prod/token", site(f"{HERE}prod/token-??????"))
