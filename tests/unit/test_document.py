"""The stored value: read strictly, rewritten without touching the rest."""

from __future__ import annotations

import json
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyturn import document
from keyturn.document import Members
from keyturn.errors import Misconfigured
from keyturn.model import Sensitive

MEMBERS = Members()
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
SAFE = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"]), min_size=1)


@given(st.dictionaries(st.text(), JSON, max_size=5), SAFE, SAFE, st.sampled_from([None, 0, 2]))
def test_what_is_written_is_read_and_nothing_else_changes(
    others: dict[str, object], principal: str, secret: str, indent: int | None
) -> None:
    value = {**others, "username": "app", "password": "first"}
    text = json.dumps(value, indent=indent, ensure_ascii=bool(indent))

    rendered = document.render(text, "here", {"username": principal, "password": secret})
    read = document.parse(rendered, "here", MEMBERS)

    assert (read.principal, read.secret) == (principal, Sensitive(secret))
    assert json.loads(rendered) == {**value, "username": principal, "password": secret}
    back = document.render(rendered, "here", {"username": "app", "password": "first"})
    assert back == text


@given(st.text() | JSON.map(json.dumps) | st.binary().map(lambda b: b.decode("latin-1")))
def test_any_text_is_read_or_refused(text: str) -> None:
    refused: Misconfigured | None = None
    try:
        read = document.parse(text, "here", MEMBERS)
    except Misconfigured as error:
        refused = error
    else:
        assert json.loads(text)["username"] == read.principal
    if refused is not None:
        assert str(refused).startswith("here: the value")
        assert refused.remedy
        assert refused.__context__ is None


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "is empty"),
        ("null", "is null"),
        ("\ufeff{}", "byte order mark"),
        ("[]", "is a list"),
        ("{", "not well-formed"),
        ('{"username":"a"} x', "not well-formed"),
        ('{"username": NaN}', "not well-formed"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"username": "a"}', "no member 'password'"),
        ('{"username": "a", "password": null}', "null as 'password'"),
        ('{"username": "a", "password": ""}', "empty string as 'password'"),
        ('{"username": "a", "password": "x\\u0000y"}', "control character"),
        ('{"username": "a", "password": "\\ud800"}', "surrogate"),
        ('{"username": "a\\u2028", "password": "x"}', "control character"),
        ('{"username": "a", "username": "a", "password": "x"}', "'username' more than once"),
        ('{"x": 1, "username": "a", "password": "x", "x": 2}', "'x' more than once"),
        ('{"password": ' + "9" * 5000 + "}", "no member 'username'"),
    ],
    ids=lambda value: value[:24],
)
def test_what_is_wrong_is_named(text: str, message: str) -> None:
    with pytest.raises(Misconfigured, match=message):
        document.parse(text, "here", MEMBERS)


def test_a_refusal_carries_no_part_of_the_document() -> None:
    """JSONDecodeError.doc holds the whole secret; it must not even be the context."""
    with pytest.raises(Misconfigured) as caught:
        document.parse('{"password": "Canary7-document", ', "here", MEMBERS)

    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None
    shown = traceback.format_exception(caught.value)
    assert not [line for line in shown if "Canary7-document" in line and "parse('" not in line]


def test_ten_thousand_members_are_no_trouble() -> None:
    extra = {f"k{n}": n for n in range(10_000)}
    text = json.dumps({**extra, "username": "app", "password": "x"})

    assert document.parse(text, "here", MEMBERS).principal == "app"
