"""Values as the Sealed Secrets controller opens them, each bound to a scope; nothing else can.

    base64( size of the first part, 2 bytes, big-endian | session key | value )

    session key   32 random bytes; RSA-OAEP with SHA-256, also for MGF1, and the scope as its label
    value         AES-256-GCM with the session key, 12 zero bytes as nonce, no associated data; the
                  16 bytes of the tag are its end. A session key is used once, so the nonce may be

Only the controller has the private key. What is sealed for another name, namespace or scope does
not open. The format's source: sealed-secrets, pkg/crypto/crypto.go and the label in
pkg/apis/sealedsecrets/v1alpha1/sealedsecret_expansion.go (EncryptionLabel).

No I/O. The destination `sealed-secret` calls this, and `keyturn seal`.
"""

from __future__ import annotations

import base64
import importlib.util
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from keyturn.destinations import secret_data
from keyturn.errors import Misconfigured, Unsupported
from keyturn.model import Sensitive

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

SESSION_KEY_BYTES = 32
"""Of AES-256."""

NONCE = bytes(12)

SIZE_BYTES = 2
"""Of the number that says how long the sealed session key is."""

SHORTEST_BITS = 2_048
"""Of an RSA key; shorter ones are within reach (NIST SP 800-131A). The controller makes 4,096."""


class Scope(StrEnum):
    """Where a sealed value may be opened. Spelt as kubeseal does."""

    STRICT = "strict"
    NAMESPACE_WIDE = "namespace-wide"
    CLUSTER_WIDE = "cluster-wide"

    def label(self, namespace: str, name: str) -> bytes:
        """Return what a value of this scope is bound to."""
        labels = {
            Scope.STRICT: f"{namespace}/{name}",
            Scope.NAMESPACE_WIDE: namespace,
            Scope.CLUSTER_WIDE: "",
        }
        return labels[self].encode()

    def annotations(self) -> Mapping[str, str | None]:
        """Return what says so, on the SealedSecret and on its template; None is to be absent."""
        wide = (Scope.NAMESPACE_WIDE, Scope.CLUSTER_WIDE)
        return {
            f"sealedsecrets.bitnami.com/{each}": "true" if each is self else None for each in wide
        }


@dataclass(frozen=True, slots=True)
class Certificate:
    """A controller's, as far as sealing needs it."""

    key: RSAPublicKey


def certificate(pem: str, now: datetime, where: str) -> Certificate:
    """Read a controller's certificate: the first, if several follow each other.

    Not whether anybody has signed it: controllers sign their own. It comes from a plan, a file, or
    over the API server's TLS.

    Raises:
        Misconfigured: It is none, has expired, or is too weak.
        Unsupported: This installation lacks a library.
    """
    if importlib.util.find_spec("cryptography") is None:
        raise Unsupported(
            "sealed values need the package cryptography",
            remedy="Install keyturn[seal], or deploy the function that delivers.",
        )
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    try:
        read = x509.load_pem_x509_certificate(pem.encode())
        key = read.public_key()
    except (ValueError, UnsupportedAlgorithm):
        fact = "is no certificate in PEM"
    else:
        if not isinstance(key, RSAPublicKey):
            fact = "has no RSA key"
        elif key.key_size < SHORTEST_BITS:
            fact = f"has an RSA key of {key.key_size:,} bits, fewer than {SHORTEST_BITS:,}"
        elif now > read.not_valid_after_utc:
            fact = f"expired on {read.not_valid_after_utc:%Y-%m-%d}"
        else:
            return Certificate(key)
    raise Misconfigured(
        f"{where}: the controller's certificate {fact}",
        remedy="Fetch the present one from the controller, with `kubeseal --fetch-cert`.",
    )


def sealed(given: Certificate, label: bytes, value: Sensitive, where: str) -> str:
    """Seal *value* under *label*. Never twice the same.

    Raises:
        Misconfigured: It is no text.
    """
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    session_key = secrets.token_bytes(SESSION_KEY_BYTES)
    oaep = OAEP(mgf=MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=label)
    first = given.key.encrypt(session_key, oaep)
    second = AESGCM(session_key).encrypt(NONCE, secret_data.plain(value, where), None)
    size = len(first).to_bytes(SIZE_BYTES, "big")
    return base64.b64encode(size + first + second).decode()
