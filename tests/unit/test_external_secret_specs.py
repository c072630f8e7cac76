"""What a spec of an ExternalSecret says: which key holds what, and what can never follow."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from kept_secrets import NAME
from keyturn.consumers.external_secret import SHAPES, Wanted, obstacles, target_of, wanted
from keyturn.errors import Misconfigured

ARN = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:"
PASSWORD = {"secretKey": "PASSWORD", "remoteRef": {"key": NAME, "property": "password"}}


def entry(key: str = NAME, secret_key: str = "PASSWORD", **ref: object) -> dict[str, Any]:
    return {"secretKey": secret_key, "remoteRef": {"key": key, "property": "password", **ref}}


def said(**spec: object) -> Wanted:
    return wanted(spec, NAME, "it")


def refused(**spec: object) -> str:
    with pytest.raises(Misconfigured) as caught:
        said(**spec)
    assert "`content`" in caught.value.remedy
    return str(caught.value)


# ---------------------------------------------------------------------------- what goes where


def test_a_property_is_a_member_and_none_is_the_whole() -> None:
    whole = {"secretKey": "ALL", "remoteRef": {"key": NAME}}

    assert said(data=[entry(), whole]).keys == {"PASSWORD": "password", "ALL": ""}


@pytest.mark.parametrize("key", [NAME, ARN + NAME, f"{ARN}{NAME}-AbC12d"])
def test_the_secret_is_named_by_its_name_or_its_arn(key: str) -> None:
    assert said(data=[entry(key)]).keys == {"PASSWORD": "password"}
    assert said(dataFrom=[{"extract": {"key": key}}]).is_every_member


@pytest.mark.parametrize(
    "key",
    [
        "db",
        f"{NAME}-AbC12d",
        f"{NAME}2",
        f"{ARN}{NAME}2-AbC12d",
        f"{ARN}{NAME}-AbC12",
        f"{ARN}x/{NAME}",
        f"arn:aws:ssm:eu-west-1:111122223333:parameter/{NAME}",
        "",
    ],
)
def test_another_secret_is_not_ours(key: str) -> None:
    assert refused(data=[entry(key)]) == f"it: its spec does not name {NAME}"


def test_what_the_api_server_fills_in_changes_nothing() -> None:
    """The defaults of the CRD, as an object that was stored shows them."""
    defaults = {"conversionStrategy": "Default", "decodingStrategy": "None"}
    ref = entry(metadataPolicy="None", nullBytePolicy="Ignore", **defaults)

    assert said(data=[ref], target={"creationPolicy": "Owner"}).keys == {"PASSWORD": "password"}


def test_extracting_makes_a_key_of_every_member() -> None:
    assert said(dataFrom=[{"extract": {"key": NAME}}]) == Wanted({}, is_every_member=True)


def test_data_has_the_last_word() -> None:
    """It comes after dataFrom, and the last of two of one name counts."""
    extract = [{"extract": {"key": NAME}}]
    other = entry("prod/other", "host")

    assert said(dataFrom=extract, data=[other]).foreign == {"host"}
    assert said(dataFrom=extract, data=[other, entry(secret_key="host")]) == Wanted(
        {"host": "password"}, is_every_member=True
    )
    assert said(data=[entry(), entry(secret_key="B"), entry("prod/other")]).keys == {
        "B": "password"
    }


def test_a_generator_is_not_ours() -> None:
    generated = {**entry(), "sourceRef": {"generatorRef": {"name": "g"}}}

    assert "does not name" in refused(data=[generated])


# ---------------------------------------------------------------------------- what cannot be known


@pytest.mark.parametrize(
    "ref, why",
    [
        ({"decodingStrategy": "Base64"}, "it decodes the value"),
        ({"decodingStrategy": "Auto"}, "it decodes the value"),
        ({"metadataPolicy": "Fetch"}, "it asks for the secret's metadata"),
        ({"property": "users.#.name"}, "is a query"),
        ({"property": "pass*"}, "is a query"),
        ({"property": "@this"}, "is a query"),
    ],
)
def test_a_value_that_is_made_into_something_else_has_to_be_declared(
    ref: dict[str, str], why: str
) -> None:
    assert why in refused(data=[entry(**ref)])
    # Of another secret, it is no concern of ours.
    assert said(data=[entry(), entry("prod/other", "OTHER", **ref)]).keys


@pytest.mark.parametrize(
    "source",
    [
        {"extract": {"key": NAME}, "rewrite": [{"regexp": {"source": "^", "target": "db-"}}]},
        {"extract": {"key": NAME, "property": "nested"}},
    ],
    ids=["rewrite", "property"],
)
def test_keys_that_are_rewritten_have_to_be_declared(source: dict[str, Any]) -> None:
    assert "rewrites the keys" in refused(dataFrom=[source])


@pytest.mark.parametrize("what", [{"data": {"URL": "{{ .url }}"}}, {"templateFrom": [{}]}])
def test_a_template_has_to_be_declared(what: dict[str, Any]) -> None:
    assert "it has a template" in refused(data=[entry()], target={"template": what})


def test_a_template_of_metadata_alone_leaves_the_data() -> None:
    template = {"type": "Opaque", "engineVersion": "v2", "metadata": {"labels": {"a": "b"}}}

    assert said(data=[entry()], target={"template": template}).keys


def test_finding_by_name_has_to_be_declared() -> None:
    assert "does not name" in refused(dataFrom=[{"find": {"name": {"regexp": ".*"}}}])


# ---------------------------------------------------------------------------- what never follows


def never(**spec: object) -> list[str]:
    return list(obstacles(spec, NAME))


@pytest.mark.parametrize("interval", ["0", "0s", "0h0m", "0h0m0s", "0.0s", "+0s", "-1m", "0ms"])
def test_an_interval_of_nothing_is_never(interval: str) -> None:
    """It ignores a changed annotation, too, unless it is to look at every change."""
    assert never(refreshInterval=interval) == ["its refreshInterval is 0"]
    assert never(refreshInterval=interval, refreshPolicy="Periodic")
    assert never(refreshInterval=interval, refreshPolicy="OnChange") == []


@pytest.mark.parametrize("interval", ["1h0m0s", "10s", "100ms", "1h", "0h10m", "0.5s"])
def test_any_other_interval_is_fine(interval: str) -> None:
    assert never(refreshInterval=interval) == []
    assert never() == []


@pytest.mark.parametrize(
    "spec, why",
    [
        ({"refreshPolicy": "CreatedOnce"}, "CreatedOnce"),
        ({"target": {"creationPolicy": "None"}}, "writes no Secret"),
        ({"target": {"immutable": True}}, "immutable"),
        ({"target": {"manifest": {"kind": "ConfigMap"}}}, "no Secret"),
        ({"data": [entry(version="uuid/0a")]}, "one fixed version"),
        ({"data": [entry(version="AWSPREVIOUS")]}, "one fixed version"),
        ({"dataFrom": [{"extract": {"key": NAME, "version": "v1"}}]}, "one fixed version"),
    ],
)
def test_what_can_never_follow_says_why(spec: dict[str, Any], why: str) -> None:
    assert [reason for reason in never(**spec) if why in reason]


@pytest.mark.parametrize("version", ["", None, "AWSCURRENT"])
def test_what_asks_for_the_current_version_follows(version: str | None) -> None:
    assert never(data=[entry(version=version), entry("prod/other", version="7")]) == []


@pytest.mark.parametrize(
    "target, status, name",
    [
        ({}, {}, "es"),
        ({"name": "declared"}, {}, "declared"),
        ({"name": "declared"}, {"binding": {"name": "bound"}}, "bound"),
        ({}, {"binding": {"name": ""}}, "es"),
        (None, None, "es"),
    ],
)
def test_the_secret_is_the_one_that_it_is_bound_to(target: Any, status: Any, name: str) -> None:
    found = {"metadata": {"name": "es"}, "spec": {"target": target}, "status": status}

    assert target_of(found) == name


# ---------------------------------------------------------------------------- settings


def test_no_content_at_all_is_refused() -> None:
    """It would prove anything."""
    settings = {"namespace": "orders", "name": "db", "content": {}}

    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(settings, SHAPES["external-secret"])
