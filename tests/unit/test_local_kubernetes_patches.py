"""The fake cluster's patches, against the examples of the standards themselves."""

from __future__ import annotations

from typing import Any

import pytest

from keyturn.local.kubernetes_patches import (
    PatchError,
    json_patched,
    merged,
    strategically_merged,
)

RFC_7396 = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"a": "b"}, ["c"], ["c"]),
    ({"a": "foo"}, None, None),
    ({"a": "foo"}, "bar", "bar"),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]
"""Appendix A, all of it."""


@pytest.mark.parametrize("old, patch, expected", RFC_7396)
def test_a_merge_patch_does_what_its_standard_shows(old: Any, patch: Any, expected: Any) -> None:
    assert merged(old, patch) == expected


RFC_6902 = [
    ({"foo": "bar"}, [{"op": "add", "path": "/baz", "value": "qux"}], {"baz": "qux", "foo": "bar"}),
    (
        {"foo": ["bar", "baz"]},
        [{"op": "add", "path": "/foo/1", "value": "qux"}],
        {"foo": ["bar", "qux", "baz"]},
    ),
    ({"baz": "qux", "foo": "bar"}, [{"op": "remove", "path": "/baz"}], {"foo": "bar"}),
    (
        {"foo": ["bar", "qux", "baz"]},
        [{"op": "remove", "path": "/foo/1"}],
        {"foo": ["bar", "baz"]},
    ),
    ({"baz": "qux"}, [{"op": "replace", "path": "/baz", "value": "boo"}], {"baz": "boo"}),
    (
        {"foo": {"bar": "baz", "waldo": "fred"}, "qux": {"corge": "grault"}},
        [{"op": "move", "from": "/foo/waldo", "path": "/qux/thud"}],
        {"foo": {"bar": "baz"}, "qux": {"corge": "grault", "thud": "fred"}},
    ),
    (
        {"foo": ["all", "grass", "cows", "eat"]},
        [{"op": "move", "from": "/foo/1", "path": "/foo/3"}],
        {"foo": ["all", "cows", "eat", "grass"]},
    ),
    (
        {"baz": "qux", "foo": ["a", 2, "c"]},
        [
            {"op": "test", "path": "/baz", "value": "qux"},
            {"op": "test", "path": "/foo/1", "value": 2},
        ],
        {"baz": "qux", "foo": ["a", 2, "c"]},
    ),
    ({"foo": ["bar"]}, [{"op": "add", "path": "/foo/-", "value": ["a"]}], {"foo": ["bar", ["a"]]}),
    (
        {"/": 9, "~1": 10},
        [{"op": "test", "path": "/~01", "value": 10}],
        {"/": 9, "~1": 10},
    ),
]
"""Examples of appendix A that succeed."""


@pytest.mark.parametrize("old, patch, expected", RFC_6902)
def test_a_json_patch_does_what_its_standard_shows(old: Any, patch: Any, expected: Any) -> None:
    assert json_patched(old, patch) == expected


@pytest.mark.parametrize(
    "patch",
    [
        [{"op": "test", "path": "/baz", "value": "bar"}],
        [{"op": "add", "path": "/bat/baz", "value": "qux"}],
        [{"op": "replace", "path": "/none", "value": 1}],
        [{"op": "remove", "path": "/none"}],
        [{"op": "grow", "path": "/baz", "value": 1}],
        [{"path": "/baz"}],
        {"op": "remove", "path": "/baz"},
    ],
)
def test_a_json_patch_that_does_not_fit_is_refused(patch: Any) -> None:
    old = {"baz": "qux"}

    with pytest.raises(PatchError):
        json_patched(old, patch)

    assert old == {"baz": "qux"}


def test_a_strategic_patch_keeps_what_it_does_not_name() -> None:
    """Notes on the strategic merge patch: directives, merge keys, atomic lists."""
    old = {
        "containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}],
        "tolerations": [{"key": "x"}],
        "finalizers": ["one"],
    }
    patch = {
        "$setElementOrder/containers": [{"name": "a"}, {"name": "b"}],
        "containers": [{"name": "b", "image": "2"}, {"name": "a", "$patch": "delete"}],
        "tolerations": [{"key": "y"}],
        "finalizers": ["two"],
    }

    assert strategically_merged(old, patch) == {
        "containers": [{"name": "b", "image": "2"}],
        "tolerations": [{"key": "y"}],
        "finalizers": ["one", "two"],
    }


@pytest.mark.parametrize(
    "patch, expected",
    [
        ({"a": {"$patch": "replace", "z": 1}}, {"a": {"z": 1}}),
        ({"a": {"$patch": "delete"}}, {}),
        ({"a": {"$retainKeys": ["y"], "y": 3}}, {"a": {"y": 3}}),
        ({"a": None}, {}),
        ({"$deleteFromPrimitiveList/l": ["b"]}, {"a": {"x": 1}, "l": []}),
    ],
)
def test_a_strategic_patch_has_directives(patch: Any, expected: Any) -> None:
    old: dict[str, Any] = {"a": {"x": 1}}
    if "l" in expected:
        old["l"] = ["b"]

    assert strategically_merged(old, patch) == expected


def test_an_element_without_its_merge_key_is_refused() -> None:
    with pytest.raises(PatchError, match="merge key: name"):
        strategically_merged({"containers": [{"name": "a"}]}, {"containers": [{"image": "b"}]})
