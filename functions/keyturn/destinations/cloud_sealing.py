"""Sealed copies on Google Cloud: a data key of its own for each, wrapped by Cloud KMS.

    {"format": "keyturn-cloud-kms-1", "kms_key": "projects/..", "key": .., "nonce": .., "text": ..}

A JSON object; the last three are Base64: the data key as Cloud KMS has encrypted it, a nonce of 12
bytes, and the value under AES-256-GCM with that key. Both encryptions are bound to the same bytes,
the format, the secret's name and the version's id, a line each; so a copy that is put in the place
of another does not open. docs/google-copies.md has a reader of ten lines.

Cloud KMS never gets the value, so its own limit (64 KiB, or 8 with an HSM) does not matter.
Destinations call this. Imported on first use: not every function has `cryptography`.
"""

from __future__ import annotations

import base64
import json
import secrets
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyturn.crc32c import crc32c
from keyturn.destinations.sealing import Label, plain_bytes
from keyturn.errors import Unreachable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keyturn.google.api import GoogleApi
    from keyturn.model import Sensitive

FORMAT = "keyturn-cloud-kms-1"
KEY_BYTES, NONCE_BYTES = 32, 12
"""AES-256; NIST SP 800-38D, 5.2.1.1. Each key seals one value, so no nonce comes twice."""


def seal(kms: GoogleApi, kms_key: str, label: Label, value: Sensitive) -> bytes:
    """Encrypt *value* under a data key that is encrypted with *kms_key*, the key's full name.

    Raises:
        Misconfigured: *value* is empty, or no text; or there is no such key, or it is disabled.
        Unreachable: What came back, or arrived there, was damaged.
    """
    plain, bound = plain_bytes(label, value), bound_to(label)
    key, nonce = secrets.token_bytes(KEY_BYTES), secrets.token_bytes(NONCE_BYTES)
    parts = {
        "key": _wrapped(kms, kms_key, key, bound),
        "nonce": nonce,
        "text": AESGCM(key).encrypt(nonce, plain, bound),
    }
    shown = {name: base64.b64encode(part).decode() for name, part in parts.items()}
    return json.dumps({"format": FORMAT, "kms_key": kms_key, **shown}).encode()


def bound_to(label: Label) -> bytes:
    """Return what both encryptions are bound to: their additional authenticated data."""
    return f"{FORMAT}\n{label.secret}\n{label.version_id}".encode()


def _wrapped(kms: GoogleApi, kms_key: str, key: bytes, bound: bytes) -> bytes:
    """Encrypt a data key, with the checksums of both ways (docs: KMS, data integrity)."""
    body = {
        "plaintext": base64.b64encode(key).decode(),
        "plaintextCrc32c": str(crc32c(key)),  # int64 is a string in JSON
        "additionalAuthenticatedData": base64.b64encode(bound).decode(),
        "additionalAuthenticatedDataCrc32c": str(crc32c(bound)),
    }
    said = kms.ask("Encrypt", kms_key, "POST", f"/v1/{kms_key}:encrypt", body)
    wrapped = _decoded(said)
    is_whole = (
        said.get("verifiedPlaintextCrc32c") is True
        and said.get("verifiedAdditionalAuthenticatedDataCrc32c") is True
        and wrapped
        and str(said.get("ciphertextCrc32c")) == str(crc32c(wrapped))
    )
    if not is_whole:
        raise Unreachable(
            f"{kms_key}: what was encrypted was damaged on its way",
            remedy="Nothing: it is done again.",
        )
    return wrapped


def _decoded(said: Mapping[str, Any]) -> bytes:
    try:
        return base64.b64decode(said.get("ciphertext", ""), validate=True)
    except ValueError:
        return b""
