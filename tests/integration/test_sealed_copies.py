"""What keyturn seals, others open, and the other way round; and what is wrong, neither opens.

The others are the ordinary AWS CLI, for bare ciphertexts, and for messages the AWS Encryption SDK
with its own key provider. `make proof` does it with 1,000 random values (`--only copies`).
"""

from __future__ import annotations

import base64
import os
import random
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import boto3
import pytest
from aws_encryption_sdk import CommitmentPolicy, EncryptionSDKClient, StrictAwsKmsMasterKeyProvider
from aws_encryption_sdk.exceptions import AWSEncryptionSDKClientError
from aws_encryption_sdk.identifiers import Algorithm
from cryptography.exceptions import InvalidTag
from hypothesis import settings

from aws_cli import AwsCli, started
from keyturn.destinations.sealing import PLAINTEXT_MAX_BYTES, Label, seal, unseal
from keyturn.errors import Denied, Drifted
from keyturn.local.aws import LocalAws
from keyturn.model import RotationId, Sensitive

VALUES = 1_000 if settings.get_current_profile_name() == "proof" else 60
MAX_BYTES = 65_536
LABEL = Label("prod/orders/db", RotationId("6f1a7c1e-0000-4000-8000-000000000000"))
OTHERS = [Label("prod/orders/db", RotationId("v2")), Label("prod/other", LABEL.version_id)]
_numbers = count(1)


@pytest.fixture(scope="module")
def kms(aws: LocalAws) -> Any:
    return boto3.client("kms", **aws.settings())


@pytest.fixture(scope="module")
def keys(kms: Any) -> list[str]:
    return [kms.create_key()["KeyMetadata"]["Arn"] for _ in range(2)]


class Tools:
    """Three that seal and open: ours, the AWS CLI, and the SDK as it comes."""

    def __init__(self, kms: Any, keys: list[str], cli: AwsCli, folder: Path) -> None:
        self._kms = kms
        self._keys = keys
        self._cli = cli
        self._folder = folder
        self._sdk = EncryptionSDKClient(
            commitment_policy=CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT
        )
        self._providers = [StrictAwsKmsMasterKeyProvider(key_ids=[key]) for key in keys]

    def ours_seals(self, raw: bytes) -> bytes:
        value = Sensitive(raw.decode("utf-8", "surrogateescape"))
        return seal(self._kms, self._keys[0], LABEL, value).body

    def ours_opens(self, body: bytes, label: Label = LABEL, key: int = 0) -> bytes | None:
        try:
            value = unseal(self._kms, label, body, "here", self._keys[key])
        except (Drifted, Denied):  # moto denies where KMS says that it is another key
            return None
        return value.reveal().encode("utf-8", "surrogateescape")

    def cli_seals(self, raw: bytes) -> bytes:
        code, said, errors = self._cli.run(
            *("kms", "encrypt", "--key-id", self._keys[0], *self._context(LABEL)),
            *("--plaintext", self._file(raw), "--query", "CiphertextBlob", "--output", "text"),
        )
        assert code == 0, errors
        return base64.b64decode(said)

    def cli_opens(self, body: bytes, label: Label = LABEL, key: int = 0) -> bytes | None:
        code, said, errors = self._cli.run(
            *("kms", "decrypt", "--key-id", self._keys[key], *self._context(label)),
            *("--ciphertext-blob", self._file(body), "--query", "Plaintext", "--output", "text"),
        )
        if code:
            assert "InvalidCiphertextException" in errors or "AccessDenied" in errors
            return None
        return base64.b64decode(said)

    def sdk_seals(self, raw: bytes) -> bytes:
        made, _ = self._sdk.encrypt(
            source=raw,
            key_provider=self._providers[0],
            encryption_context=LABEL.context(),
            algorithm=Algorithm.AES_256_GCM_HKDF_SHA512_COMMIT_KEY,
        )
        return bytes(made)

    def sdk_opens(self, body: bytes, label: Label = LABEL, key: int = 0) -> bytes | None:
        """Compare the context, as its guide tells everybody to: it does not by itself."""
        try:
            plain, header = self._sdk.decrypt(source=body, key_provider=self._providers[key])
        except (AWSEncryptionSDKClientError, InvalidTag):
            return None
        return bytes(plain) if header.encryption_context == label.context() else None

    def _file(self, content: bytes) -> str:
        path = self._folder / "value"
        path.write_bytes(content)
        return f"fileb://{path}"

    def _context(self, label: Label) -> list[str]:
        return ["--encryption-context", f"secret={label.secret},version={label.version_id}"]


@pytest.fixture
def tools(
    aws: LocalAws,
    kms: Any,
    keys: list[str],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Tools]:
    for name, value in aws.environment().items():
        monkeypatch.setenv(name, value)
    with started(aws.environment()) as cli:
        yield Tools(kms, keys, cli, tmp_path_factory.mktemp("values"))


def values() -> Iterator[bytes]:
    """Yield random bytes, as many short as long ones, with those of both limits among them."""
    chance = random.Random(20_261_125)  # noqa: S311
    edges = [1, PLAINTEXT_MAX_BYTES, PLAINTEXT_MAX_BYTES + 1, MAX_BYTES]
    for size in edges:
        yield os.urandom(size)
    for _ in range(VALUES - len(edges)):
        yield os.urandom(round(MAX_BYTES ** chance.random()))


Opens = Callable[..., bytes | None]


def damages(body: bytes, number: int, opens: Opens) -> Iterator[bytes | None]:
    """Yield what a tool makes of a copy that is another's, cut off, changed, of another key."""
    chance = random.Random(number)  # noqa: S311
    at = chance.randrange(len(body))
    yield opens(body, label=OTHERS[number % 2])
    yield opens(body[: chance.randrange(1, len(body))])
    yield opens(body[:at] + bytes([body[at] ^ 1 << chance.randrange(8)]) + body[at + 1 :])
    yield opens(body, key=1)


def test_random_values_go_both_ways_and_damaged_ones_nowhere(tools: Tools) -> None:
    opened = refused = 0
    for number, raw in enumerate(values()):
        is_short = len(raw) <= PLAINTEXT_MAX_BYTES
        others_seal = tools.cli_seals if is_short else tools.sdk_seals
        others_open: Opens = tools.cli_opens if is_short else tools.sdk_opens
        ours, theirs = tools.ours_seals(raw), others_seal(raw)

        is_same = others_open(ours) == tools.ours_opens(theirs) == tools.ours_opens(ours) == raw
        assert is_same, number
        found = [
            *damages(theirs, number, tools.ours_opens),
            *damages(ours, number, others_open if number % 4 == 0 else tools.ours_opens),
        ]
        is_refused = found == [None] * 8
        assert is_refused, number
        opened, refused = opened + 3, refused + 8

    assert (opened, refused) == (3 * VALUES, 8 * VALUES)


def test_two_copies_that_were_swapped_open_nowhere(tools: Tools, kms: Any, keys: list[str]) -> None:
    """Each is whole, and each is the other's."""
    for size in (100, 10_000):
        text = Sensitive("Canary7-".ljust(size, "x"))
        theirs = seal(kms, keys[0], OTHERS[1], text).body

        opens: Opens = tools.cli_opens if size <= PLAINTEXT_MAX_BYTES else tools.sdk_opens
        assert tools.ours_opens(theirs) is None
        assert opens(theirs) is None
        assert opens(theirs, label=OTHERS[1]) is not None
