"""A Sealed Secrets controller's half of the format, by hand: what we seal, this opens or refuses.

Written from the documents alone and shares nothing with what seals: RSA by `pow` on the key's
numbers, OAEP by RFC 8017 (7.1.2), AES by FIPS 197, GCM by NIST SP 800-38D. Slow, and no model of
how to do this outside of tests: it is not constant in time.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

Json = Mapping[str, Any]

NAMESPACE_WIDE = "sealedsecrets.bitnami.com/namespace-wide"
CLUSTER_WIDE = "sealedsecrets.bitnami.com/cluster-wide"


class RefusedError(ValueError):
    """No key could decrypt secret."""


@dataclass(frozen=True)
class Numbers:
    """An RSA key, with what halves the work: the primes (RFC 8017, 5.1.2)."""

    n: int
    d: int
    p: int
    q: int

    @property
    def size(self) -> int:
        return (self.n.bit_length() + 7) // 8

    def power(self, number: int) -> int:
        by_p = pow(number, self.d % (self.p - 1), self.p)
        by_q = pow(number, self.d % (self.q - 1), self.q)
        return by_q + self.q * (pow(self.q, -1, self.p) * (by_p - by_q) % self.p)


class Controller:
    """One with a key of its own, and a certificate that it has signed itself."""

    def __init__(self, bits: int = 2048, *, lasts: timedelta = timedelta(days=3650)) -> None:
        key = rsa.generate_private_key(65537, bits)
        private = key.private_numbers()
        self.numbers = Numbers(private.public_numbers.n, private.d, private.p, private.q)
        self.private_pem = key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        ).decode()
        self.certificate = _self_signed(key, datetime.now(UTC) + lasts)

    def unseal(self, sealed_secret: Json) -> dict[str, bytes]:
        """Open every value of a SealedSecret, as the controller does before it writes any."""
        label = label_of(sealed_secret["metadata"])
        values: Json = sealed_secret["spec"]["encryptedData"]
        return {key: opened(self.numbers, label, value) for key, value in values.items()}


def label_of(metadata: Json) -> bytes:
    """Return the label that an object's own annotations ask for."""
    annotations = metadata.get("annotations") or {}
    if annotations.get(CLUSTER_WIDE) == "true":
        return b""
    if annotations.get(NAMESPACE_WIDE) == "true":
        return str(metadata["namespace"]).encode()
    return f"{metadata['namespace']}/{metadata['name']}".encode()


def opened(numbers: Numbers, label: bytes, value: str) -> bytes:
    """Open one value.

    Raises:
        RefusedError: It is not for this key and label, or not as it was sealed.
    """
    try:
        body = base64.b64decode(value, validate=True)
    except ValueError:
        raise RefusedError("no base64") from None
    if len(body) < 2:
        raise RefusedError("too short")
    (size,) = struct.unpack(">H", body[:2])
    if len(body) < 2 + size:
        raise RefusedError("too short")
    session_key = oaep_opened(numbers, label, body[2 : 2 + size])
    if len(session_key) != 32:
        raise RefusedError("no session key")
    return gcm_opened(session_key, bytes(12), body[2 + size :])


def _self_signed(key: rsa.RSAPrivateKey, until: datetime) -> str:
    name = x509.Name([])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(until - timedelta(days=4000))
        .not_valid_after(until)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(Encoding.PEM).decode()


# ---------------------------------------------------------------------------- OAEP


def oaep_opened(numbers: Numbers, label: bytes, cipher: bytes) -> bytes:
    """RSAES-OAEP-DECRYPT with SHA-256 (RFC 8017, 7.1.2)."""
    size = 32
    number = int.from_bytes(cipher, "big")
    if len(cipher) != numbers.size or number >= numbers.n:
        raise RefusedError("no ciphertext of this key")
    padded = numbers.power(number).to_bytes(numbers.size, "big")
    first, masked_seed, masked = padded[0], padded[1 : 1 + size], padded[1 + size :]
    seed = _xor(masked_seed, _mgf1(masked, size))
    block = _xor(masked, _mgf1(seed, len(masked)))
    digest, rest = block[:size], block[size:]
    message = rest.lstrip(b"\0")
    if first or digest != hashlib.sha256(label).digest() or message[:1] != b"\x01":
        raise RefusedError("another key or label")
    return message[1:]


def _mgf1(seed: bytes, size: int) -> bytes:
    blocks = (
        hashlib.sha256(seed + struct.pack(">I", count)).digest() for count in range(-(-size // 32))
    )
    return b"".join(blocks)[:size]


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


# ---------------------------------------------------------------------------- AES (FIPS 197)


def _sbox() -> bytes:
    """Return the substitution, from its definition: the inverse, then an affine map."""
    exponent, value = [1] * 256, 1
    for power in range(256):
        exponent[power] = value
        value ^= _doubled(value)
    logarithm = {each: power for power, each in enumerate(exponent[:255])}
    made = bytearray(256)
    for byte in range(256):
        inverse = exponent[(255 - logarithm[byte]) % 255] if byte else 0
        bits = inverse * 0x101
        made[byte] = 0x63 ^ ((inverse ^ bits >> 7 ^ bits >> 6 ^ bits >> 5 ^ bits >> 4) & 0xFF)
    return bytes(made)


def _doubled(byte: int) -> int:
    return (byte << 1) ^ (0x11B if byte & 0x80 else 0)


_SBOX = _sbox()


def _table(turn: int) -> list[int]:
    """Return substitution and column mixing of one row, as words."""
    words = []
    for byte in _SBOX:
        two = _doubled(byte)
        column = bytes((two, byte, byte, two ^ byte))
        words.append(int.from_bytes(column[-turn:] + column[:-turn] if turn else column, "big"))
    return words


_T0, _T1, _T2, _T3 = (_table(turn) for turn in range(4))


class Aes256:
    """Encrypts blocks."""

    def __init__(self, key: bytes) -> None:
        words = list(struct.unpack(">8I", key))
        constant = 1
        for count in range(8, 60):
            word = words[-1]
            if count % 8 == 0:
                word = _substituted((word << 8 | word >> 24) & 0xFFFFFFFF) ^ constant << 24
                constant = _doubled(constant)
            elif count % 8 == 4:
                word = _substituted(word)
            words.append(words[-8] ^ word)
        self._rounds = [tuple(words[at : at + 4]) for at in range(0, 60, 4)]

    def block(self, plain: bytes) -> bytes:
        first, *middle, last = self._rounds
        a, b, c, d = (x ^ y for x, y in zip(struct.unpack(">4I", plain), first, strict=True))
        for k0, k1, k2, k3 in middle:
            a, b, c, d = (
                _T0[a >> 24] ^ _T1[b >> 16 & 255] ^ _T2[c >> 8 & 255] ^ _T3[d & 255] ^ k0,
                _T0[b >> 24] ^ _T1[c >> 16 & 255] ^ _T2[d >> 8 & 255] ^ _T3[a & 255] ^ k1,
                _T0[c >> 24] ^ _T1[d >> 16 & 255] ^ _T2[a >> 8 & 255] ^ _T3[b & 255] ^ k2,
                _T0[d >> 24] ^ _T1[a >> 16 & 255] ^ _T2[b >> 8 & 255] ^ _T3[c & 255] ^ k3,
            )
        s = _SBOX
        end = (
            (s[p >> 24] << 24 | s[q >> 16 & 255] << 16 | s[r >> 8 & 255] << 8 | s[t & 255]) ^ k
            for (p, q, r, t), k in zip(
                ((a, b, c, d), (b, c, d, a), (c, d, a, b), (d, a, b, c)), last, strict=True
            )
        )
        return struct.pack(">4I", *end)


def _substituted(word: int) -> int:
    return int.from_bytes(bytes(_SBOX[byte] for byte in word.to_bytes(4, "big")), "big")


# ---------------------------------------------------------------------------- GCM (SP 800-38D)


def gcm_opened(key: bytes, nonce: bytes, body: bytes) -> bytes:
    """GCM-AD with a nonce of 96 bits, a tag of 128, and no associated data."""
    if len(body) < 16:
        raise RefusedError("no tag")
    cipher, tag = body[:-16], body[-16:]
    aes = Aes256(key)
    lengths = struct.pack(">QQ", 0, 8 * len(cipher))
    digest = _ghash(aes.block(bytes(16)), [*_blocks(cipher), lengths])
    if not hmac.compare_digest(_xor(digest, aes.block(nonce + struct.pack(">I", 1))), tag):
        raise RefusedError("another tag")
    stream = (
        aes.block(nonce + struct.pack(">I", count))
        for count in range(2, 2 - -len(cipher) // 16 + 2)
    )
    return b"".join(
        _xor(block, next(stream)[: len(block)])
        for block in (cipher[at : at + 16] for at in range(0, len(cipher), 16))
    )


def _blocks(text: bytes) -> Iterator[bytes]:
    for at in range(0, len(text), 16):
        yield text[at : at + 16].ljust(16, b"\0")


def _ghash(subkey: bytes, blocks: list[bytes]) -> bytes:
    tables = _products(int.from_bytes(subkey, "big"))
    digest = 0
    for block in blocks:
        mixed = (digest ^ int.from_bytes(block, "big")).to_bytes(16, "big")
        digest = 0
        for table, byte in zip(tables, mixed, strict=True):
            digest ^= table[byte]
    return digest.to_bytes(16, "big")


def _products(subkey: int) -> list[list[int]]:
    """Return the product of the subkey and each byte at each of the 16 places.

    Bits are numbered from the left: the first is the factor 1 (SP 800-38D, 6.3).
    """
    tables, factor = [], subkey
    for _ in range(16):
        bits = []
        for _ in range(8):
            bits.append(factor)
            factor = factor >> 1 ^ (0xE1 << 120 if factor & 1 else 0)
        table = [0] * 256
        for byte in range(1, 256):
            low = byte & -byte
            table[byte] = table[byte ^ low] ^ bits[8 - low.bit_length()]
        tables.append(table)
    return tables
