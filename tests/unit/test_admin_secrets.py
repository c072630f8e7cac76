"""Which secrets a function may read besides the one it serves."""

from __future__ import annotations

import pytest

from keyturn.errors import Denied
from keyturn.model import Credential, Sensitive
from keyturn.testing.fakes import LabelledStore, World
from keyturn.wiring import Settings, _admin

HERE = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:"


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
def test_it_may_be_allowed_by_name_or_by_arn(allowed: str, asked: str) -> None:
    store = LabelledStore(World(), Credential("app", Sensitive("Canary7-admin")))

    assert _admin(asked, Settings(admin_secrets=(allowed,)), store).principal == "app"


@pytest.mark.parametrize(
    "allowed,asked",
    [
        ("prod/token", "prod/tokens"),
        (f"{HERE}prod/token-aB3dE9", f"{HERE}prod/token-XXXXXX"),
        (f"{HERE}prod/token-??????", "prod/token-other"),
        (f"{HERE}prod/token-??????", f"{HERE.replace('1111', '2222')}prod/token-aB3dE9"),
    ],
)
def test_no_other_is(allowed: str, asked: str) -> None:
    store = LabelledStore(World(), Credential("app", Sensitive("Canary7-admin")))

    with pytest.raises(Denied, match="KEYTURN_ADMIN_SECRETS"):
        _admin(asked, Settings(admin_secrets=(allowed,)), store)
