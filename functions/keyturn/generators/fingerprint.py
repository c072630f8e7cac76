"""Says whether two values are the same to somebody who has one of them, and nothing else.

    scrypt(value, salt = "keyturn fingerprint 1" NUL name, N = 2^14, r = 8, p = 1), 16 bytes, in hex

It must be the same each time, or nothing could be compared with it; so it cannot have a random salt
that is not stored. The secret's name is the salt: equal values of two secrets look different, and a
table of fingerprints serves one name only. What keeps it from being guessed is the value: it was
made by us, nothing below 80 bits is, and each guess costs 16 MB and some 50 ms.
"""

from __future__ import annotations

import hashlib

from keyturn.model import Sensitive

_SALT = b"keyturn fingerprint 1\0"
SIZE_BYTES = 16


def fingerprint(name: str, value: Sensitive) -> str:
    """Return the fingerprint of a value that was generated for the secret of that name."""
    return hashlib.scrypt(
        value.reveal().encode(), salt=_SALT + name.encode(), n=2**14, r=8, p=1, dklen=SIZE_BYTES
    ).hex()
