"""What a plan may say of ExternalSecrets, Secrets and CSI mounts, and what it is told otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from keyturn import plan
from keyturn.errors import Misconfigured
from keyturn.wiring import plan_kinds

AT = "secrets.s.refresh.consumers[0]"


def read(path: Path, *consumers: str) -> plan.SecretPlan:
    lines = "".join(f"        - {each}\n" for each in consumers)
    path = path / "keyturn.yaml"
    path.write_text(
        "version: 1\nsecrets:\n  s:\n    strategy: dual-password\n    refresh:\n"
        f"      cluster: {{eks: prod}}\n      consumers:\n{lines}"
    )
    return plan.load(path, plan_kinds()).secrets["s"]


HERE = "namespace: orders, name: db"
CONTENT = "Write for each key, of letters, digits, `-`, `_` and `.`, what it holds: `{form: url}`"


@pytest.mark.parametrize(
    "written, fact, remedy",
    [
        (f"external-secret: {{{HERE}, content: {{}}}}", "content: is empty", CONTENT),
        (f"secret: {{{HERE}, content: {{A: url}}}}", "content[...]: is text", CONTENT),
        (f"secret: {{{HERE}, content: {{A: {{form: value}}}}}}", "content[...]: is none", CONTENT),
        (f"secret: {{{HERE}, content: {{A: {{fom: url}}}}}}", "content[...]: is none", CONTENT),
        (f"secret: {{{HERE}, content: {{'a b': {{form: url}}}}}}", "content: is not wri", CONTENT),
        (f"secret: {{{HERE}, content: {{A: {{form: x}}}}}}", "content[...].form: is none", "Use o"),
        ('secret: {namespace: "orders\\n", name: db}', "namespace: is not written", "Write the n"),
        ('secret: {namespace: orders, name: "db\\n"}', "name: is not written", "Write the n"),
        ("secret: {namespace: Orders, name: db}", "namespace: is not written", "Write the namesp"),
        ("external-secret: {namespace: orders}", ": has no `name`", "Write the name of the obj"),
        ("csi: {namespace: orders}", ": has no `class`", "Write the name of the SecretProviderC"),
        ("csi: {namespace: a, class: b, min_pods: 0}", "min_pods: is none", "Write how many pods"),
        ("csi: {namespace: a, class: b, object: ''}", "object: is empty", "Write the objectAlias"),
    ],
)
def test_what_is_wrong_is_named_with_its_place_and_the_fix(
    tmp_path: Path, written: str, fact: str, remedy: str
) -> None:
    with pytest.raises(Misconfigured) as caught:
        read(tmp_path, written)

    kind = written.partition(":")[0]
    assert f"{AT}.{kind}{'' if fact.startswith(':') else '.'}{fact}" in str(caught.value)
    assert caught.value.remedy.startswith(remedy)


def test_copies_are_told_from_those_who_read_them(tmp_path: Path) -> None:
    """A workload that is told before its copy has followed would read the old value."""
    found = read(
        tmp_path,
        f"external-secret: {{{HERE}}}",
        f"secret: {{{HERE}}}",
        "csi: {namespace: a, class: b}",
    )

    assert [each.settings.IS_COPY for each in found.refresh] == [True, True, False]


@pytest.mark.parametrize(
    "first, second",
    [
        (f"secret: {{{HERE}}}", f"secret: {{{HERE}, content: {{A: {{form: url}}}}}}"),
        ("csi: {namespace: a, class: b}", "csi: {namespace: a, class: b, min_pods: 2}"),
    ],
)
def test_one_consumer_is_named_once(tmp_path: Path, first: str, second: str) -> None:
    with pytest.raises(Misconfigured, match="names one place twice"):
        read(tmp_path, first, second)
