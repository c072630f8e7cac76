"""What a Kubernetes Secret is to hold of a version, and whether it does."""

from __future__ import annotations

import base64

import msgspec
import pytest

from kept_secrets import CANARY, data_of, encoded, given, members_of, version
from keyturn.consumers import contents
from keyturn.consumers.contents import Content, KeyShape
from keyturn.errors import KeyturnError, Misconfigured
from keyturn.model import Sensitive

V0, V1 = version("v0"), version("v1")
PASSWORD = {"password": Sensitive(f"{CANARY}v1")}


def lack(data: object, expected: dict[str, Sensitive] | None = None) -> str:
    return contents.lack({"data": data}, "orders/db", expected or PASSWORD)


def test_what_holds_every_key_lacks_nothing() -> None:
    """What else it holds is no concern of ours."""
    assert lack({"password": encoded(PASSWORD["password"]), "more": "###"}) == ""


@pytest.mark.parametrize(
    "held",
    [
        encoded(Sensitive(f"{CANARY}v0")),
        encoded(Sensitive(f"{CANARY}v1\n")),
        encoded(Sensitive(f"{CANARY}V1")),
        "",
        None,
        7,
        base64.b64encode(b"\xff\xfe").decode(),
        encoded(PASSWORD["password"]) + "\n",
        encoded(PASSWORD["password"]).rstrip("=") + "!",
        "\u00e9",
    ],
    ids=range(10),
)
def test_anything_else_is_not_it(held: object) -> None:
    """An older value, a line's end more, what is no base64 or no text: none is equal."""
    assert lack({"password": held}) == "the Secret orders/db holds something else in password"


@pytest.mark.parametrize("data", [None, {}])
def test_a_secret_without_data_holds_nothing(data: object) -> None:
    assert "password" in lack(data)


def test_a_secret_that_is_not_there_is_named() -> None:
    assert contents.lack(None, "orders/db", PASSWORD) == "the Secret orders/db is not there"


def test_one_key_that_is_right_does_not_stand_for_the_rest() -> None:
    """The user is new and the password old: that is the worst of all."""
    data = {**data_of(V1), **data_of(V0, "password")}

    assert lack(data, {k: v for k, v in members_of(V1).items() if k}).endswith(" in password")


def test_a_line_names_few_of_many_keys() -> None:
    expected = {f"key{number}": Sensitive("x") for number in range(9)}

    assert lack({}, expected).endswith("in key0, key1, key2, key3, key4 and 4 more")


def test_no_value_is_ever_in_a_line() -> None:
    assert CANARY not in lack(data_of(V0))


# ---------------------------------------------------------------------------- what is expected


def test_a_key_holds_a_member_or_the_whole() -> None:
    keys = {"PASSWORD": "password", "ALL": ""}

    assert contents.of_members(keys, V1, given(), "it") == {
        "PASSWORD": members_of(V1)["password"],
        "ALL": members_of(V1)[""],
    }


def test_a_member_that_is_not_there_is_named() -> None:
    with pytest.raises(Misconfigured, match="it: version v1 has no member 'pasword'"):
        contents.of_members({"A": "pasword"}, V1, given(), "it")


def test_every_member_is_a_key_of_its_own() -> None:
    assert contents.of_every_member(V1, given(), "it") == {
        name: name for name in ("engine", "host", "port", "username", "password")
    }


def test_a_member_that_can_be_no_key_is_refused() -> None:
    """External Secrets would rename it, and the API refuses it."""
    with pytest.raises(Misconfigured, match="the member 'a b' can be no key"):
        contents.of_every_member(version("v1", **{"a b": "x"}), given(), "it")


def test_what_is_declared_is_rendered() -> None:
    content: Content = {
        "URL": KeyShape(form="url"),
        "PASSWORD": KeyShape(form="value", member="password"),
    }

    assert contents.of_renderings(content, V1, given(), "it") == {
        "URL": Sensitive(f"postgresql://app:{CANARY}v1@db.example.com:5432"),
        "PASSWORD": members_of(V1)["password"],
    }


@pytest.mark.parametrize("members", [["host"], ["host", "port"], ["username"], []])
def test_what_no_rotation_changes_proves_nothing(members: list[str]) -> None:
    """Every version would look the same: the old credential would die on no evidence at all."""
    content: Content = {name: KeyShape(form="value", member=name) for name in members}

    with pytest.raises(Misconfigured, match="nothing that is compared there changes"):
        contents.of_members({name: name for name in members}, V1, given(), "it")
    with pytest.raises(Misconfigured, match="nothing that is compared there changes"):
        contents.of_renderings(content, V1, given(), "it")


def test_a_host_beside_a_password_is_fine() -> None:
    assert set(contents.of_members({"H": "host", "P": "password"}, V1, given(), "it")) == {"H", "P"}


@pytest.mark.parametrize(
    "written",
    [
        {},
        {"form": "yaml"},
        {"form": "value"},
        {"form": "url", "member": "password"},
        {"form": "json", "prefix": "DB_"},
        {"form": "value", "member": ""},
        {"form": "url", "more": "x"},
    ],
    ids=str,
)
def test_a_key_is_declared_as_a_copy_is(written: dict[str, str]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(written, KeyShape)


def test_no_refusal_shows_a_value() -> None:
    with pytest.raises(KeyturnError) as caught:
        contents.of_members({"A": "none"}, V1, given(), "it")

    assert CANARY not in f"{caught.value} {caught.value.remedy}"
