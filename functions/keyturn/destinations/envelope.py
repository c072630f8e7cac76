"""The message format of the AWS Encryption SDK, version 2: a value under a data key of its own.

One data key, wrapped by KMS; a commitment to it; an encryption context, in the open; frames of
AES-256-GCM. Any other program with that SDK opens it. There is no signature: whoever may read may
write here too, and a public key would be one more member of the context.

Wrapping is not done here: `sealing` asks KMS. Imported on first use: few functions have the SDK.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aws_encryption_sdk import CommitmentPolicy, EncryptionSDKClient
from aws_encryption_sdk.exceptions import AWSEncryptionSDKClientError
from aws_encryption_sdk.identifiers import Algorithm
from aws_encryption_sdk.materials_managers import DecryptionMaterials, EncryptionMaterials
from aws_encryption_sdk.materials_managers.base import CryptoMaterialsManager
from aws_encryption_sdk.structures import DataKey as SdkDataKey
from aws_encryption_sdk.structures import EncryptedDataKey, MasterKeyInfo
from cryptography.exceptions import InvalidTag

KMS = "aws-kms"
"""Who wrapped the data key, as the SDK's own key providers call it."""

Unwrap = Callable[[Mapping[str, str], bytes], bytes]
"""Returns the data key. Gets the message's context, not yet authenticated, and the wrapped key."""


@dataclass(frozen=True, slots=True)
class DataKey:
    """A data key: the ARN of the KMS key that wraps it, wrapped, and plain."""

    arn: str
    wrapped: bytes
    plain: bytes = field(repr=False)


class Malformed(Exception):
    """The bytes are no message, or not as they were written. The text says what they are."""


def write(plain: bytes, context: Mapping[str, str], key: DataKey) -> bytes:
    """Return *plain* as a message."""
    message: bytes
    message, _ = _client().encrypt(
        source=plain, encryption_context=dict(context), materials_manager=_Fresh(key)
    )
    return message


def read(message: bytes, unwrap: Unwrap) -> bytes:
    """Return what a message holds.

    Raises:
        Malformed: It was changed or cut off, or is none of ours.
    """
    source = io.BytesIO(message)
    plain, fact = None, "was changed"
    try:
        # No `with`: on its way out the stream would log what it failed with once more.
        stream = _client().stream(mode="d", source=source, materials_manager=_Known(unwrap))
        plain = stream.read()
    except InvalidTag:
        pass
    except (AWSEncryptionSDKClientError, ValueError, struct.error):
        if not source.read(1):
            fact = "ends too early"
    if plain is None:
        raise Malformed(fact)
    if source.read(1):
        raise Malformed("goes on after its end")
    return bytes(plain)


def _client() -> Any:
    return EncryptionSDKClient(
        commitment_policy=CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT,
        max_encrypted_data_keys=1,
    )


class _Fresh(CryptoMaterialsManager):  # type: ignore[misc]  # the SDK has no types
    """Hands out a key to write with."""

    def __init__(self, key: DataKey) -> None:
        self._key = key

    def get_encryption_materials(self, request: Any) -> Any:
        made = SdkDataKey(MasterKeyInfo(KMS, self._key.arn), self._key.plain, self._key.wrapped)
        return EncryptionMaterials(
            algorithm=Algorithm.AES_256_GCM_HKDF_SHA512_COMMIT_KEY,
            data_encryption_key=made,
            encrypted_data_keys={EncryptedDataKey(made.key_provider, self._key.wrapped)},
            encryption_context=request.encryption_context,
        )

    def decrypt_materials(self, request: Any) -> Any:
        raise NotImplementedError


class _Known(CryptoMaterialsManager):  # type: ignore[misc]  # the SDK has no types
    """Finds the key of a message that is read."""

    def __init__(self, unwrap: Unwrap) -> None:
        self._unwrap = unwrap

    def get_encryption_materials(self, request: Any) -> Any:
        raise NotImplementedError

    def decrypt_materials(self, request: Any) -> Any:
        for each in request.encrypted_data_keys:
            if each.key_provider.provider_id == KMS:
                plain = self._unwrap(request.encryption_context, each.encrypted_data_key)
                return DecryptionMaterials(
                    SdkDataKey(each.key_provider, plain, each.encrypted_data_key)
                )
        raise AWSEncryptionSDKClientError
