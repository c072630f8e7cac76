"""The annotation that carries a version's id."""

from __future__ import annotations

import re

import pytest

from keyturn.kubernetes.marks import annotations_of, mark_of

NAMES = ["prod/orders/db", "a", "x" * 512, "///", "pr\u00f6d/b\u00fcro", "-a-", "a/b", "a-b", "A/B"]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_a_valid_annotation(name: str) -> None:
    prefix, _, rest = mark_of(name).partition("/")

    assert prefix == "version.keyturn.dev"
    assert re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", rest)


def test_no_two_secrets_share_one() -> None:
    assert len({mark_of(name) for name in NAMES}) == len(NAMES)


def test_a_person_sees_which_secret_it_is() -> None:
    assert "prod-orders-db" in mark_of("prod/orders/db")


@pytest.mark.parametrize("metadata", [None, {}, {"annotations": None}])
def test_no_annotations_are_none(metadata: dict[str, None] | None) -> None:
    assert annotations_of(metadata) == {}
