"""What the servers say of accounts and rights is taken apart by token."""

from __future__ import annotations

import pytest

from keyturn.errors import Unsupported
from keyturn.targets.mysql_accounts import Account, Right, Rights, exchange, same_options
from keyturn.targets.mysql_sql import Sql

NOTHING = Rights.of([])


def test_an_account_of_mysql_is_read() -> None:
    made = Account.of(
        "CREATE USER `a``b`@`%` IDENTIFIED WITH 'caching_sha2_password' AS 0x2441 DEFAULT ROLE"
        " `r`@`%`,`WITH`@`%` REQUIRE SSL WITH MAX_QUERIES_PER_HOUR 5 PASSWORD EXPIRE DEFAULT"
        " ACCOUNT LOCK PASSWORD HISTORY 3 FAILED_LOGIN_ATTEMPTS 4 ATTRIBUTE '{\"a\": \"it''s\"}'"
    )

    assert made.plugins == ("caching_sha2_password",)
    assert made.default_role == "`r`@`%`,`WITH`@`%`"
    assert made.is_locked
    assert same_options(made, None) == (
        "REQUIRE SSL WITH MAX_QUERIES_PER_HOUR 5 PASSWORD EXPIRE DEFAULT PASSWORD HISTORY 3"
        " FAILED_LOGIN_ATTEMPTS 4"
    )


@pytest.mark.parametrize(
    "how, plugins",
    [
        ("", ("mysql_native_password",)),
        (" IDENTIFIED BY PASSWORD '*A'", ("mysql_native_password",)),
        (" IDENTIFIED VIA ed25519 USING 'x'", ("ed25519",)),
        (" IDENTIFIED VIA unix_socket OR ed25519 USING 'x'", ("unix_socket", "ed25519")),
        (" IDENTIFIED VIA pam", ("pam",)),
        (
            " IDENTIFIED WITH 'caching_sha2_password' AS 'x' AND IDENTIFIED WITH 'webauthn'",
            ("caching_sha2_password", "webauthn"),
        ),
    ],
)
def test_every_way_to_log_in_is_read(how: str, plugins: tuple[str, ...]) -> None:
    """And what follows it is no part of it."""
    made = Account.of(f"CREATE USER `x`@`%`{how} WITH MAX_USER_CONNECTIONS 9")

    assert made.plugins == plugins
    assert dict(made.limits) == {"MAX_USER_CONNECTIONS": "MAX_USER_CONNECTIONS 9"}


def test_limits_that_only_one_has_are_lifted() -> None:
    like = Account.of("CREATE USER `x`@`%`")
    present = Account.of(
        "CREATE USER `y`@`%` REQUIRE SSL WITH MAX_USER_CONNECTIONS 9 PASSWORD EXPIRE NEVER"
    )

    assert same_options(like, present) == (
        "REQUIRE NONE WITH MAX_USER_CONNECTIONS 0 PASSWORD EXPIRE DEFAULT"
    )


def test_rights_are_one_privilege_or_column_each() -> None:
    rights = Rights.of(
        [
            "GRANT USAGE ON *.* TO `x`@`%` IDENTIFIED BY PASSWORD '*A'",
            "GRANT SELECT (`a, b`, `c`), INSERT ON `TO`.`ON` TO `x`@`%` WITH GRANT OPTION",
            "GRANT `r`@`%`,`s`@`%` TO `x`@`%` WITH ADMIN OPTION",
            "SET DEFAULT ROLE `FOR` FOR `x`@`%`",
        ]
    ).rights

    on = Sql("`TO`.`ON`")
    assert rights == {
        Right("GRANT", on, grantable=True, what=Sql("SELECT (`a, b`)")),
        Right("GRANT", on, grantable=True, what=Sql("SELECT (`c`)")),
        Right("GRANT", on, grantable=True, what=Sql("INSERT")),
        Right("GRANT", Sql(""), grantable=True, what=Sql("`r`@`%`")),
        Right("GRANT", Sql(""), grantable=True, what=Sql("`s`@`%`")),
    }


def test_rights_are_taken_before_they_are_given() -> None:
    """REVOKE ALL PRIVILEGES takes the single one that is wanted, too."""
    wanted = Rights.of(["GRANT SELECT ON `d`.* TO `x`@`%`"])
    present = Rights.of(["GRANT ALL PRIVILEGES ON `d`.* TO `x`@`%` WITH GRANT OPTION"])

    assert exchange(Sql("`y`@`%`"), present, wanted) == [
        "REVOKE GRANT OPTION ON `d`.* FROM `y`@`%`",
        "REVOKE ALL PRIVILEGES ON `d`.* FROM `y`@`%`",
        "GRANT SELECT ON `d`.* TO `y`@`%`",
    ]
    assert exchange(Sql("`y`@`%`"), wanted, wanted) == []


def test_what_mysql_takes_from_a_wider_right_is_a_right_of_its_own() -> None:
    partial = Rights.of(["REVOKE INSERT ON `mysql`.* FROM `x`@`%`"])

    assert exchange(Sql("`y`"), NOTHING, partial) == ["REVOKE INSERT ON `mysql`.* FROM `y`"]
    assert exchange(Sql("`y`"), partial, NOTHING) == ["GRANT INSERT ON `mysql`.* TO `y`"]


@pytest.mark.parametrize(
    "text",
    [
        "CREATE USER `x",
        "CREATE USER `x`@`%` REQUIRE SUBJECT 'o'b'",
        "CREATE USER `x`@`%` REQUIRE SUBJECT 'o'b' ISSUER 'o'b'",
        "CREATE USER `x`@`%` REQUIRE SUBJECT 'o'; GRANT ALL ON *.* TO y; -- '",
        r"CREATE USER `x`@`%` REQUIRE SUBJECT 'a\b'",
    ],
)
def test_what_cannot_be_read_is_refused(text: str) -> None:
    """A server that does not escape what it quotes could be made to say anything."""
    with pytest.raises(Unsupported):
        Account.of(text)
