"""Many versions: a list is read to its last page, and a slot emptied by its holder alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import boto3
import pytest

from clouds import begin_rotation
from keyturn.errors import Misconfigured
from keyturn.local.aws import LocalAws
from keyturn.model import SecretRef, Sensitive
from keyturn.stores.secrets_manager import SecretsManager
from keyturn.testing.contracts import MADE_AT, rotation_id

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient


def test_every_page_of_versions_is_read_and_the_newest_of_one_second_comes_first(
    aws: LocalAws,
) -> None:
    client: SecretsManagerClient = boto3.client("secretsmanager", **aws.settings())
    values = [f'{{"username": "app", "password": "Canary7-{n}"}}' for n in range(5)]
    ref = client.create_secret(Name="many/versions", SecretString=values[0])["ARN"]
    for value in values[1:]:
        client.put_secret_value(SecretId=ref, SecretString=value)

    def two_at_a_time(params: dict[str, Any], **_: object) -> None:
        params["MaxResults"] = 2

    def in_one_second(parsed: dict[str, Any], **_: object) -> None:
        for entry in parsed["Versions"]:
            entry["CreatedDate"] = MADE_AT

    events = client.meta.events
    events.register("before-parameter-build.secrets-manager.ListSecretVersionIds", two_at_a_time)
    events.register("after-call.secrets-manager.ListSecretVersionIds", in_one_second)
    kept = [found.credential.document for found in SecretsManager(client).kept(SecretRef(ref))]

    assert kept == [Sensitive(value) for value in reversed(values)]


def test_only_ones_own_value_is_withdrawn(aws: LocalAws) -> None:
    """A rotation that turns out to be over must not empty the slot of the one that took it."""
    client: SecretsManagerClient = boto3.client("secretsmanager", **aws.settings())
    first = '{"username": "app", "password": "Canary7-first"}'
    ref = SecretRef(client.create_secret(Name="many/slots", SecretString=first)["ARN"])
    begin_rotation(ref, rotation_id("newer"))
    store = SecretsManager(client)

    store.withdraw(ref, rotation_id("older"))

    assert store.snapshot(ref, rotation_id("newer")).pending == rotation_id("newer")


def test_a_secret_deleted_meanwhile_is_no_secret_without_versions(aws: LocalAws) -> None:
    """Passing its versions over one by one would end as a lock-out, and wake a person."""
    client: SecretsManagerClient = boto3.client("secretsmanager", **aws.settings())
    first = '{"username": "app", "password": "Canary7-first"}'
    ref = SecretRef(client.create_secret(Name="many/deleted", SecretString=first)["ARN"])
    client.delete_secret(SecretId=ref)

    with pytest.raises(Misconfigured):
        list(SecretsManager(client).kept(ref))
