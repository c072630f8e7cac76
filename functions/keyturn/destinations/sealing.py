"""Sealed copies: a value encrypted by KMS, and bound to a secret's name and a version's id.

    up to 4,096 bytes    what KMS Encrypt returns, and nothing else: `aws kms decrypt` opens it
    more                 a message of the AWS Encryption SDK, with a data key that KMS has made

Name and id are the encryption context of either. Whoever opens a copy says which version of which
secret it has to be; for anything else there is an error, never a value. Values are bytes; a
`Sensitive` holds them as text, in which those that are no UTF-8 are lone surrogates.

Destinations call this, and `keyturn seal` and `keyturn open`.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from keyturn.boundary import ask_aws
from keyturn.errors import Drifted, Misconfigured, Unsupported
from keyturn.model import RotationId, Sensitive

if TYPE_CHECKING:
    from types import ModuleType

PLAINTEXT_MAX_BYTES = 4_096
"""Longest plaintext that KMS encrypts itself (API_Encrypt)."""
CIPHERTEXT_MAX_BYTES = 6_144
"""Longest ciphertext that KMS decrypts itself (API_Decrypt)."""


class Kms(Protocol):
    """What is used of a boto3 client, with time-outs."""

    def decrypt(self, **parameters: object) -> Mapping[str, Any]:
        """Decrypt."""
        ...

    def encrypt(self, **parameters: object) -> Mapping[str, Any]:
        """Encrypt."""
        ...

    def generate_data_key(self, **parameters: object) -> Mapping[str, Any]:
        """GenerateDataKey."""
        ...


class Format(StrEnum):
    """What the bytes of a sealed copy are."""

    KMS = "kms"
    MESSAGE = "aws-encryption-sdk"


@dataclass(frozen=True, slots=True)
class Label:
    """What a copy is bound to. Not secret: CloudTrail shows it."""

    secret: str
    version_id: RotationId

    def context(self) -> dict[str, str]:
        """Return the encryption context."""
        return {"secret": self.secret, "version": self.version_id}

    def __str__(self) -> str:
        return f"version {self.version_id} of {self.secret}"


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed copy."""

    body: bytes
    format: Format


def seal(kms: Kms, key: str, label: Label, value: Sensitive) -> Sealed:
    """Encrypt *value* with the KMS key that *key* names.

    Raises:
        Misconfigured: *value* is empty, or no text; or there is no such key.
        Unsupported: It is longer than KMS takes, and this installation lacks a library.
    """
    plain = plain_bytes(label, value)
    if len(plain) > PLAINTEXT_MAX_BYTES:
        return Sealed(_message(kms, key, label, plain), Format.MESSAGE)
    encrypt = partial(kms.encrypt, KeyId=key, Plaintext=plain, EncryptionContext=label.context())
    return Sealed(bytes(ask_aws("Encrypt", key, encrypt)["CiphertextBlob"]), Format.KMS)


def unseal(kms: Kms, label: Label, body: bytes, where: str, key: str | None = None) -> Sensitive:
    """Decrypt a copy that has to be *label*'s.

    Args:
        kms: A client for the region of the key.
        label: What the copy must be bound to.
        body: The sealed copy.
        where: The file or the object, for messages.
        key: What it must be sealed with; None trusts any key that the caller may use.

    Raises:
        Drifted: It is another secret's, another version, sealed with another key, changed, cut
            off, or no sealed copy at all. The message says which, as far as that can be known.
    """
    if not body:
        raise Drifted(f"{where} is empty", remedy="Deliver the version again.")
    if body.startswith(_MESSAGE):
        return _text(_opened(kms, label, body, where, key))
    if len(body) > CIPHERTEXT_MAX_BYTES:
        raise Drifted(
            f"{where} is neither a ciphertext of KMS nor a message of the AWS Encryption SDK",
            remedy="Name a sealed copy, as it was written; decode it first if it is in Base64.",
        )
    return _text(_decrypted(kms, label, body, where, key))


def read(file: BinaryIO) -> Sensitive:
    """Take a value in, byte for byte."""
    return _text(file.read())


def write(file: BinaryIO, value: Sensitive) -> None:
    """Give a value out, byte for byte."""
    file.write(value.reveal().encode("utf-8", "surrogateescape"))


_UNWRITABLE = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""Surrogates, but for those that stand for a byte."""


def _text(plain: bytes) -> Sensitive:
    return Sensitive(plain.decode("utf-8", "surrogateescape"))


def plain_bytes(label: Label, value: Sensitive) -> bytes:
    """Return what is to be sealed.

    Raises:
        Misconfigured: It is empty, or no text.
    """
    text = value.reveal()
    # Not left to the encoder: its error has the whole text.
    if _UNWRITABLE.search(text):
        raise Misconfigured(
            f"{label} has half a surrogate pair", remedy="Store text that is Unicode."
        )
    if not text:
        raise Misconfigured(
            f"{label} is empty: a sealed copy holds 1 byte at least", remedy="Store a value."
        )
    return text.encode("utf-8", "surrogateescape")


# ---------------------------------------------------------------------------- KMS

_REFUSED: Mapping[str, Any] = {"refused": True}
_OTHER_KEY: Mapping[str, Any] = {"other": True}
_ANSWERS = {
    "InvalidCiphertextException": _REFUSED,
    "IncorrectKeyException": _OTHER_KEY,
}
_WRONG_LABEL = (
    "Compare name and version id with what was delivered. If they are right, it was changed or cut"
    " off: deliver the version again."
)


def _decrypted(kms: Kms, label: Label, ciphertext: bytes, where: str, key: str | None) -> bytes:
    asked: dict[str, Any] = {} if key is None else {"KeyId": key}
    decrypt = partial(
        kms.decrypt, CiphertextBlob=ciphertext, EncryptionContext=label.context(), **asked
    )
    said = ask_aws("Decrypt", where, decrypt, _ANSWERS)
    if said is _OTHER_KEY:
        raise _of_another_key(where, str(key))
    if said is _REFUSED:
        raise Drifted(f"{where}: KMS does not open it as {label}", remedy=_WRONG_LABEL)
    plain: bytes = said["Plaintext"]
    return plain


def _of_another_key(where: str, key: str) -> Drifted:
    return Drifted(
        f"{where} was sealed with another key than {key}",
        remedy="Find out who wrote it. If the key was replaced, name the old one.",
    )


# ---------------------------------------------------------------------------- messages

_MESSAGE = bytes.fromhex("02 0478")
"""How ours begin: version 2, and the one algorithm suite that we write."""


def _message(kms: Kms, key: str, label: Label, plain: bytes) -> bytes:
    envelope = _envelope()
    generate = partial(
        kms.generate_data_key, KeyId=key, KeySpec="AES_256", EncryptionContext=label.context()
    )
    made = ask_aws("GenerateDataKey", key, generate)
    data_key = envelope.DataKey(made["KeyId"], made["CiphertextBlob"], made["Plaintext"])
    message: bytes = envelope.write(plain, label.context(), data_key)
    return message


def _opened(kms: Kms, label: Label, body: bytes, where: str, key: str | None) -> bytes:
    envelope = _envelope()

    def unwrap(context: Mapping[str, str], wrapped: bytes) -> bytes:
        for member, ours in label.context().items():
            found = context.get(member, "")
            if found != ours:
                raise Drifted(
                    f"{where}: its {member} is {found[:80]!a}, not {ours!r}",
                    remedy=_WRONG_LABEL,
                )
        return _decrypted(kms, label, wrapped, where, key)

    plain: bytes | None = None
    fact = ""
    try:
        plain = envelope.read(body, unwrap)
    except envelope.Malformed as malformed:
        fact = str(malformed)
    if plain is None:
        raise Drifted(f"{where} {fact}", remedy="Deliver the version again.")
    return plain


def _envelope() -> ModuleType:
    if importlib.util.find_spec("aws_encryption_sdk") is None:
        raise Unsupported(
            f"sealed copies of more than {PLAINTEXT_MAX_BYTES:,} bytes need the AWS Encryption SDK",
            remedy="Install keyturn[seal], or deploy the function that delivers.",
        )
    from keyturn.destinations import envelope

    return envelope
