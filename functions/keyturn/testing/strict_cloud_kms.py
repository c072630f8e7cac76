"""A Cloud KMS of our own, as far as symmetric encryption goes: `answer`, for `google_rest.served`.

As the service it is strict: names in full, Base64, checksums that are compared where they are given
and told in the answer, a ciphertext that opens with its own key and exactly its additional data.
`damage` lets what arrives, or is answered, be another. It knows no IAM. Only tests use it.
"""

from __future__ import annotations

import base64
import os
import re
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyturn.crc32c import crc32c
from keyturn.testing.google_rest import Asked, refusal
from keyturn.testing.wire import NoReply

SERVICE = "cloudkms.googleapis.com"
PLAINTEXT_MAX_BYTES = 65_536
"""EncryptRequest.plaintext, of a key in software."""

_KEY = r"projects/[a-z0-9-]+/locations/[a-z0-9-]+/keyRings/[\w-]+/cryptoKeys/[\w-]+"
_NONCE_BYTES = 12
_ENCRYPT = {"plaintext", "additionalAuthenticatedData"}
_DECRYPT = {"ciphertext", "additionalAuthenticatedData"}


@dataclass(slots=True)
class StrictCloudKms:
    """The service.

    Attributes:
        calls: The method of every request that was not refused.
        plaintexts: What was to be encrypted.
        damage: What happens on the way: "asked", "answered", or "" for nothing.
        is_down: It gives no answer.
    """

    calls: list[str] = field(default_factory=list)
    plaintexts: list[bytes] = field(default_factory=list, repr=False)
    damage: str = ""
    is_down: bool = False
    disabled: set[str] = field(default_factory=set)
    _keys: dict[str, bytes] = field(default_factory=dict, repr=False)

    def add(self, name: str) -> str:
        """Make a key of that full name, and return the name."""
        self._keys[name] = AESGCM.generate_key(256)
        return name

    def answer(self, asked: Asked) -> dict[str, Any]:
        """Answer one call."""
        if self.is_down:
            raise NoReply
        found = re.fullmatch(rf"/v1/({_KEY}):(encrypt|decrypt)", asked.path)
        if found is None or asked.method != "POST" or found[1] not in self._keys:
            raise refusal("NOT_FOUND", "CryptoKey not found.")
        if found[1] in self.disabled:
            raise refusal("FAILED_PRECONDITION", "The CryptoKeyVersion is not enabled.")
        act = self._encrypted if found[2] == "encrypt" else self._decrypted
        said = act(found[1], asked.members)
        self.calls.append(found[2])
        return said

    def _encrypted(self, key: str, asked: dict[str, Any]) -> dict[str, Any]:
        is_damaged = self.damage == "asked"
        plain, bound = (_field(asked, name, _ENCRYPT) for name in sorted(_ENCRYPT, reverse=True))
        if not 1 <= len(plain) <= PLAINTEXT_MAX_BYTES:
            raise refusal("INVALID_ARGUMENT", "The plaintext is empty, or too long.")
        self.plaintexts.append(plain)
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + AESGCM(self._keys[key]).encrypt(nonce, plain, bound)
        told = crc32c(sealed)
        if self.damage == "answered":
            sealed = sealed[:-1]
        verified = {
            "verifiedPlaintextCrc32c": "plaintextCrc32c" in asked and not is_damaged,
            "verifiedAdditionalAuthenticatedDataCrc32c": (
                "additionalAuthenticatedDataCrc32c" in asked
            ),
        }
        return {
            "name": f"{key}/cryptoKeyVersions/1",
            "ciphertext": base64.b64encode(sealed).decode(),
            "ciphertextCrc32c": str(told),
            "protectionLevel": "SOFTWARE",
            **{name: True for name, is_true in verified.items() if is_true},
        }

    def _decrypted(self, key: str, asked: dict[str, Any]) -> dict[str, Any]:
        sealed, bound = (_field(asked, name, _DECRYPT) for name in sorted(_DECRYPT, reverse=True))
        try:
            plain = AESGCM(self._keys[key]).decrypt(
                sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], bound
            )
        except InvalidTag:
            plain = None
        if plain is None:
            raise refusal("INVALID_ARGUMENT", "Decryption failed: the ciphertext is invalid.")
        return {
            "plaintext": base64.b64encode(plain).decode(),
            "plaintextCrc32c": str(crc32c(plain)),
            "usedPrimary": True,
        }


def _field(asked: dict[str, Any], name: str, known: set[str]) -> bytes:
    """Return a field of bytes, whose checksum is compared if there is one."""
    if asked.keys() - known - {f"{each}Crc32c" for each in known}:
        raise refusal("INVALID_ARGUMENT", "Invalid JSON payload received. Unknown name.")
    try:
        found = base64.b64decode(asked.get(name, ""), validate=True)
    except ValueError:
        raise refusal("INVALID_ARGUMENT", "Base64 decoding failed.") from None
    told = asked.get(f"{name}Crc32c")
    if told is not None and (not isinstance(told, str) or int(told) != crc32c(found)):
        raise refusal("INVALID_ARGUMENT", "The checksum is not that of the data.")
    return found
