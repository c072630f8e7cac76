"""How a plan names copies in a Kubernetes cluster: the guide's examples, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from keyturn import plan
from keyturn.destinations.kubernetes_secret import KubernetesSecretShape
from keyturn.destinations.sealed_secret import SealedSecretShape
from keyturn.errors import Misconfigured
from keyturn.wiring import plan_kinds

GUIDE = (Path(__file__).parents[2] / "docs" / "deliver.md").read_text(encoding="utf-8")
SECRET = "version: 1\nsecrets:\n  prod/orders/db:\n    strategy: single-user\n"


def read(deliver: str) -> plan.Plan:
    indented = "".join(f"    {line}\n" for line in deliver.splitlines())
    return plan.parse(SECRET + indented, plan_kinds(), source="keyturn.yaml")


def refusal(settings: str, kind: str = "kubernetes-secret") -> tuple[str, str]:
    with pytest.raises(Misconfigured) as caught:
        read(f"deliver:\n  - {kind}: {{{settings}}}\n")
    return str(caught.value).rpartition("deliver[0].")[2], caught.value.remedy


def test_the_guides_examples_are_plans() -> None:
    examples = re.findall(r"^```yaml\n(deliver:\n.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)
    assert len(examples) == 2

    kinds = {
        type(copy.settings)
        for example in examples
        for copy in read(example).secrets["prod/orders/db"].deliver
    }

    assert kinds == {KubernetesSecretShape, SealedSecretShape}


BAD = {
    "namespace: orders": (
        "kubernetes-secret: has no `name`",
        "Write the object's name, in small letters, digits, `-` and `.`.",
    ),
    "namespace: Orders, name: db": (
        "kubernetes-secret.namespace: is not written as it must be",
        "Write the namespace that it is in.",
    ),
    "namespace: orders, name: db, key: a b": (
        "kubernetes-secret.key: is not written as it must be",
        "Write a key of letters, digits, `-`, `_` and `.`, such as `key: url`.",
    ),
    "namespace: orders, name: db, key: ..": (
        "kubernetes-secret.key: is not written as it must be",
        "Write a key of letters, digits, `-`, `_` and `.`, such as `key: url`.",
    ),
    "namespace: orders, name: db, labels: [a]": (
        "kubernetes-secret.labels: is a list, not a mapping",
        "Write a mapping of texts, such as `labels: {app: orders}`.",
    ),
    "namespace: orders, name: db, data: {a: b}": (
        "kubernetes-secret.data: is not a key",
        "Write `labels`.",
    ),
}


@pytest.mark.parametrize("settings", BAD)
def test_mistakes_are_named(settings: str) -> None:
    fact, remedy = refusal(settings)
    expected_fact, expected_remedy = BAD[settings]

    assert fact == expected_fact
    assert remedy == expected_remedy or "is not a key" in fact


BAD_SEALED = {
    "namespace: orders, name: db, scope: wide": "scope: is none of the values known here",
    "namespace: orders, name: db, controller: sealed": "controller: is not written as it must be",
    "namespace: orders, name: db, controller: a/b/c": "controller: is not written as it must be",
    "namespace: orders, name: db, certificate: ''": "certificate: is empty",
}


@pytest.mark.parametrize("settings", BAD_SEALED)
def test_mistakes_of_sealed_ones_are_named(settings: str) -> None:
    assert refusal(settings, "sealed-secret")[0] == f"sealed-secret.{BAD_SEALED[settings]}"


def test_one_object_is_named_once() -> None:
    """In one cluster; whatever else they say."""
    one = "kubernetes-secret: {namespace: orders, name: db"
    with pytest.raises(Misconfigured, match="names one place twice"):
        read(f"deliver:\n  - {one}}}\n  - {one}, key: a}}\n")

    other = read(f"deliver:\n  - {one}}}\n  - {one}, cluster: {{eks: b}}}}\n")
    assert len(other.secrets["prod/orders/db"].deliver) == 2
