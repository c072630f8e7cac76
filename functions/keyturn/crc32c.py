"""CRC-32C, the checksum that Google's services take and give with a payload (RFC 3720, appendix B).

Adapters call it. In Python: secrets are short, 64 KiB take some 5 ms, and it saves a dependency.
"""

from __future__ import annotations

from functools import cache

POLYNOMIAL = 0x82F63B78
"""Castagnoli's, reflected."""

_ONES = 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """Return the checksum of *data*."""
    table, found = _table(), _ONES
    for byte in data:
        found = table[(found ^ byte) & 0xFF] ^ (found >> 8)
    return found ^ _ONES


@cache
def _table() -> tuple[int, ...]:
    return tuple(map(_of_byte, range(256)))


def _of_byte(found: int) -> int:
    for _ in range(8):
        found = (found >> 1) ^ (POLYNOMIAL if found & 1 else 0)
    return found
