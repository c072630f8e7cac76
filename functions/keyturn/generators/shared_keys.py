"""Keys that both sides hold: HMAC and Fernet, which keep the one before, and TOTP seeds.

Whoever signs or encrypts uses `current`; whoever verifies or decrypts tries `current`, then
`previous`. So what was signed before a rotation is verified until the next one.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterator, Mapping
from typing import Annotated
from urllib.parse import quote, urlencode

import msgspec

from keyturn.generators.policy import MembersPolicy, Problem, outside, texts
from keyturn.generators.text import is_base64url

LEAST_HMAC_BYTES, MOST_HMAC_BYTES = 32, 128
"""RFC 7518, 3.2: at least as long as the hash. More than SHA-512's block would be hashed first."""

FERNET_BYTES = 32
"""Half of it signs, half encrypts (the Fernet specification)."""

LEAST_SEED_BYTES, MOST_SEED_BYTES = 16, 64
"""RFC 4226, 4, R6: at least 128 bits."""


class _KeptKey(MembersPolicy, frozen=True, kw_only=True):
    """A key, and beside it the one before."""

    def key(self) -> str:
        """Make one."""
        raise NotImplementedError

    def is_key(self, text: str) -> bool:
        """Tell whether *text* is one, also of another length that was allowed earlier."""
        raise NotImplementedError

    def members(self, before: Mapping[str, object]) -> Mapping[str, object]:
        """Move current to previous."""
        kept = {"previous": before["current"]} if "current" in before else {}
        return {"current": self.key(), **kept}

    def is_one_of(self, members: Mapping[str, object]) -> bool:
        """Tell whether both are keys. The first value has no previous one."""
        found = texts(members, "current", *(("previous",) if "previous" in members else ()))
        return found is not None and len(set(found)) == len(found) and all(map(self.is_key, found))

    def follow(self, members: Mapping[str, object], before: Mapping[str, object]) -> bool:
        """Tell whether what was current is previous."""
        return members.get("previous") == before.get("current")


class Hmac(_KeptKey, frozen=True, kw_only=True, tag="hmac"):
    """A key for HMAC, as base64 for URLs without padding, and the one before."""

    bytes: Annotated[
        int,
        msgspec.Meta(
            description="How many random bytes: at least as many as the hash has.",
            extra_json_schema={"minimum": LEAST_HMAC_BYTES, "maximum": MOST_HMAC_BYTES},
        ),
    ] = 32

    @property
    def entropy_bits(self) -> float:
        """Eight to a byte."""
        return 8.0 * self.bytes

    def problems(self) -> Iterator[Problem]:
        """Refuse too few, and too many."""
        yield from outside("bytes", self.bytes, LEAST_HMAC_BYTES, MOST_HMAC_BYTES)

    def key(self) -> str:
        """Make one."""
        return secrets.token_urlsafe(self.bytes)

    def is_key(self, text: str) -> bool:
        """See `_KeptKey.is_key`."""
        sizes = range(LEAST_HMAC_BYTES, MOST_HMAC_BYTES + 1)
        return any(is_base64url(text, size_bytes) for size_bytes in sizes)


class Fernet(_KeptKey, frozen=True, kw_only=True, tag="fernet"):
    """A key for Fernet, as its libraries take it, and the one before: MultiFernet takes both."""

    @property
    def entropy_bits(self) -> float:
        """All of it is random: 128 bits that sign, 128 that encrypt."""
        return 8.0 * FERNET_BYTES

    def key(self) -> str:
        """Make one: base64 for URLs, padded (the Fernet specification, "Key Format")."""
        return base64.urlsafe_b64encode(secrets.token_bytes(FERNET_BYTES)).decode()

    def is_key(self, text: str) -> bool:
        """See `_KeptKey.is_key`."""
        return text.endswith("=") and is_base64url(text[:-1], FERNET_BYTES)


class Totp(MembersPolicy, frozen=True, kw_only=True, tag="totp"):
    """A seed for time-based one-time passwords, and the URL that authenticators read."""

    issuer: Annotated[str, msgspec.Meta(description="Who asks for the code.")]
    account: Annotated[str, msgspec.Meta(description="Whose code it is.")]
    bytes: Annotated[
        int,
        msgspec.Meta(
            description="How many random bytes.",
            extra_json_schema={"minimum": LEAST_SEED_BYTES, "maximum": MOST_SEED_BYTES},
        ),
    ] = 20

    @property
    def entropy_bits(self) -> float:
        """Eight to a byte."""
        return 8.0 * self.bytes

    def problems(self) -> Iterator[Problem]:
        """Refuse names that the URL cannot tell apart, and a seed that is too short."""
        for key, name in (("issuer", self.issuer), ("account", self.account)):
            if not name or ":" in name or not name.isprintable():
                yield f"`{key}` is no name for an authenticator", _NAME
        yield from outside("bytes", self.bytes, LEAST_SEED_BYTES, MOST_SEED_BYTES)

    def members(self, before: Mapping[str, object]) -> Mapping[str, object]:
        """Make a seed and its URL (Google Authenticator's wiki, "Key Uri Format")."""
        del before
        seed = base64.b32encode(secrets.token_bytes(self.bytes)).decode().rstrip("=")
        return {"secret": seed, "url": self._url(seed)}

    def is_one_of(self, members: Mapping[str, object]) -> bool:
        """Tell whether the URL is the seed's."""
        found = texts(members, "secret", "url")
        return found is not None and _is_seed(found[0]) and f"secret={found[0]}&" in found[1]

    def _url(self, seed: str) -> str:
        label = f"{quote(self.issuer, safe='')}:{quote(self.account, safe='')}"
        query = urlencode({"secret": seed, "issuer": self.issuer}, quote_via=quote)
        return f"otpauth://totp/{label}?{query}&algorithm=SHA1&digits=6&period=30"


_NAME = "Write a name without a colon and without control characters."


def _is_seed(text: str) -> bool:
    try:
        seed = base64.b32decode(text + "=" * (-len(text) % 8))
    except ValueError:
        return False
    return LEAST_SEED_BYTES <= len(seed) <= MOST_SEED_BYTES
