"""What the statuses of a SecretProviderClass's pods prove."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from kept_secrets import NAME
from keyturn.consumers.csi import SHAPES, missing
from keyturn.model import RotationId

V1 = RotationId("v1")


def status(pod: str, version: str = "v1", *, id_: str = NAME, **more: object) -> dict[str, Any]:
    objects = [{"id": "other", "version": "v9"}, {"id": id_, "version": version}]
    return {"podName": pod, "mounted": True, "objects": objects, **more}


def lacks(*statuses: dict[str, Any], min_pods: int = 1) -> str:
    return missing(statuses, NAME, V1, min_pods)


def test_every_pod_has_it() -> None:
    assert lacks(status("a"), status("b"), min_pods=2) == ""


def test_one_pod_that_is_older_is_named_with_its_version() -> None:
    assert lacks(status("a"), status("b", "v0")) == "1 of 2 pods are old: b (v0)"


def test_no_pod_proves_nothing() -> None:
    assert lacks() == "0 pods of at least 1 have mounted it"


def test_too_few_prove_nothing() -> None:
    """Scaled down, or not yet scheduled: a pod has no status before it has mounted."""
    assert lacks(status("a"), min_pods=3) == "1 pods of at least 3 have mounted it"


def test_what_is_not_mounted_does_not_count() -> None:
    assert lacks(status("a"), status("b", mounted=False), min_pods=2)
    assert lacks({"podName": "a", "objects": [{"id": NAME, "version": "v1"}]})


def test_what_is_older_is_waited_for_even_if_it_is_not_mounted() -> None:
    """Its pod may read it yet."""
    assert "b (v0)" in lacks(status("a"), status("b", "v0", mounted=False))


@pytest.mark.parametrize("objects", [None, [], [{"id": "other", "version": "v1"}]])
def test_a_pod_without_the_object_is_named(objects: object) -> None:
    """It has mounted the class before the object was in it, or the plan names it wrongly."""
    assert lacks(status("a"), status("b", objects=objects)).endswith("b (it has no such object)")


def test_another_objects_version_is_not_it() -> None:
    """Exactly the object, and exactly the id."""
    assert lacks(status("a", id_=f"{NAME}2"))
    assert lacks(status("a", "v10"))
    assert lacks(status("a", "V1"))
    both = [{"id": "other", "version": "v1"}, {"id": NAME, "version": "v0"}]
    assert lacks(status("a", objects=both))


def test_a_line_names_few_of_many() -> None:
    assert lacks(*(status(f"p{n}", "v0") for n in range(5))).endswith("p2 (v0) and 2 more")


@pytest.mark.parametrize("pods", [0, -1, "2"])
def test_fewer_pods_than_one_are_refused(pods: object) -> None:
    """A Deployment scaled to zero would prove anything."""
    settings = {"namespace": "orders", "class": "db", "min_pods": pods}

    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(settings, SHAPES["csi"])
