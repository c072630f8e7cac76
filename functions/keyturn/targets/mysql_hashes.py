"""What MySQL and MariaDB keep of a password, computed here, so that no statement holds it.

    mysql_native_password    *SHA1(SHA1(password))
    caching_sha2_password    $A$005$salt digest: SHA-crypt with SHA-256, 5000 rounds
    ed25519                  the public key whose private key is SHA-512 of the password

The servers compute the same when they are given the password itself. The tests compare.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Callable

from keyturn.model import Sensitive


def native(secret: Sensitive) -> str:
    """Return what `mysql_native_password` keeps. (server: password.c, make_scrambled_password)."""
    once = hashlib.sha1(secret.reveal().encode(), usedforsecurity=False).digest()
    return "*" + hashlib.sha1(once, usedforsecurity=False).hexdigest().upper()


def caching_sha2(secret: Sensitive) -> str:
    """Return what `caching_sha2_password` keeps (server: sha2_password.cc, serialize)."""
    # Any byte but NUL and $ may be in the salt; these need no quoting.
    salt = "".join(secrets.choice(_ALPHABET) for _ in range(_SALT_CHARACTERS))
    return f"$A${_ROUNDS // 1000:03X}${salt}{_sha_crypt(secret.reveal().encode(), salt.encode())}"


_ALPHABET = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SALT_CHARACTERS = 20
_ROUNDS = 5000
"""The server's own default up to 9.6. A generated password needs no slower hash."""


def _sha_crypt(password: bytes, salt: bytes) -> str:
    """Compute SHA-crypt (Drepper, "Unix crypt using SHA-256 and SHA-512", steps 1 to 22).

    Of the salt it takes as much as there is: the server does not stop at 16 bytes as crypt(3).
    """
    size = len(password)
    inner = hashlib.sha256(password + salt + password).digest()
    start = hashlib.sha256(password + salt + _stretch(inner, size))
    while size:
        start.update(inner if size & 1 else password)
        size >>= 1
    digest = start.digest()
    stretched = _stretch(hashlib.sha256(password * len(password)).digest(), len(password))
    salted = _stretch(hashlib.sha256(salt * (16 + digest[0])).digest(), len(salt))
    for number in range(_ROUNDS):
        turn = hashlib.sha256(stretched if number & 1 else digest)
        if number % 3:
            turn.update(salted)
        if number % 7:
            turn.update(stretched)
        turn.update(digest if number & 1 else stretched)
        digest = turn.digest()
    return _crypt64(digest)


def _stretch(digest: bytes, size: int) -> bytes:
    return (digest * (size // len(digest) + 1))[:size]


def _crypt64(digest: bytes) -> str:
    """Write 32 bytes in the alphabet and the order of crypt(3)."""
    text, places = "", (0, 10, 20)
    for _ in range(10):
        first, second, third = (digest[place] for place in places)
        text += _six_bits(first << 16 | second << 8 | third, 4)
        places = (places[2] + 1, places[0] + 1, places[1] + 1)
    return text + _six_bits(digest[31] << 8 | digest[30], 3)


def _six_bits(number: int, count: int) -> str:
    return "".join(_ALPHABET[number >> 6 * place & 63] for place in range(count))


# ---------------------------------------------------------------------------- ed25519

_P = 2**255 - 19
_ORDER = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, -1, _P) % _P
_BASE_Y = 4 * pow(5, -1, _P) % _P

_Point = tuple[int, int, int, int]
"""Extended coordinates (RFC 8032, 5.1.4): X, Y, Z, and T with XY = ZT."""


def ed25519(secret: Sensitive) -> str:
    """Return what MariaDB's `ed25519` keeps (plugin/auth_ed25519, ref10/keypair.c)."""
    scalar, _ = _private(secret)
    public = _encoded(_times(scalar, _base()))
    return base64.b64encode(public).decode().rstrip("=")


def ed25519_answer(secret: Sensitive, challenge: bytes) -> bytes:
    """Return the proof that a client knows the password: RFC 8032 with a key of that length."""
    scalar, prefix = _private(secret)
    public = _encoded(_times(scalar, _base()))
    nonce = _number(hashlib.sha512(prefix + challenge).digest()) % _ORDER
    commitment = _encoded(_times(nonce, _base()))
    hashed = _number(hashlib.sha512(commitment + public + challenge).digest()) % _ORDER
    return commitment + ((nonce + hashed * scalar) % _ORDER).to_bytes(32, "little")


def _private(secret: Sensitive) -> tuple[int, bytes]:
    digest = hashlib.sha512(secret.reveal().encode()).digest()
    scalar = _number(digest[:32]) & ((1 << 254) - 8) | (1 << 254)
    return scalar, digest[32:]


def _number(octets: bytes) -> int:
    return int.from_bytes(octets, "little")


def _base() -> _Point:
    squared = (_BASE_Y**2 - 1) * pow(_D * _BASE_Y**2 + 1, -1, _P) % _P
    x = pow(squared, (_P + 3) // 8, _P)
    if (x * x - squared) % _P:
        x = x * pow(2, (_P - 1) // 4, _P) % _P
    x = _P - x if x & 1 else x
    return x, _BASE_Y, 1, x * _BASE_Y % _P


def _plus(one: _Point, other: _Point) -> _Point:
    a = (one[1] - one[0]) * (other[1] - other[0]) % _P
    b = (one[1] + one[0]) * (other[1] + other[0]) % _P
    c = 2 * one[3] * other[3] * _D % _P
    d = 2 * one[2] * other[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _times(scalar: int, point: _Point) -> _Point:
    total: _Point = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            total = _plus(total, point)
        point = _plus(point, point)
        scalar >>= 1
    return total


def _encoded(point: _Point) -> bytes:
    inverse = pow(point[2], -1, _P)
    x, y = point[0] * inverse % _P, point[1] * inverse % _P
    return (y | (x & 1) << 255).to_bytes(32, "little")


HASHES: dict[str, Callable[[Sensitive], str]] = {
    "mysql_native_password": native,
    "caching_sha2_password": caching_sha2,
    "ed25519": ed25519,
}
"""By the name of the server's plug-in. Accounts of any other are not rotated."""
