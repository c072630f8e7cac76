"""The checksum that goes with a payload."""

from __future__ import annotations

import pytest

from keyturn.crc32c import crc32c


@pytest.mark.parametrize(
    "data, wanted",
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(reversed(range(32))), 0x113FDB5C),
    ],
    ids=["nothing", "the usual check", "zeros", "ones", "up", "down"],
)
def test_the_published_values_come_out(data: bytes, wanted: int) -> None:
    """RFC 3720, B.4; the second is in every catalogue of checksums."""
    assert crc32c(data) == wanted
