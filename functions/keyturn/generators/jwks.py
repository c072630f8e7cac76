"""Keys that sign tokens, as JSON Web Keys, in three phases: next, current, previous.

    member        who reads it   what it holds
    signing_key   the signer     current, with its private part
    next_key      nobody yet     the key that signs after the next rotation, with its private part
    jwks          everybody      the public parts of current, next and previous, in this order

A rotation makes next current, current previous, and a new key next. So a key is published for one
whole period before it signs, and for one after: verifiers that cache the set know every key that
signs, as long as a period is longer than the cache and than the life of a token. The private part
of what is previous is dropped at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from keyturn.errors import Misconfigured
from keyturn.generators.key_pairs import STRENGTH_BITS, Algorithm, require_cryptography
from keyturn.generators.policy import WHERE, MembersPolicy

if TYPE_CHECKING:
    from joserfc.jwk import ECKey, KeyParameters, OKPKey, RSAKey

    PrivateJwk = RSAKey | ECKey | OKPKey

MEMBERS = ("signing_key", "next_key", "jwks")


class Signature(StrEnum):
    """What signs, as JSON Web Algorithms name it (RFC 7518, RFC 8037)."""

    ES256 = "ES256"
    ES384 = "ES384"
    RS256 = "RS256"
    EDDSA = "EdDSA"


_STRENGTH_BITS: Mapping[Signature, float] = {
    Signature.ES256: STRENGTH_BITS[Algorithm.ECDSA_P256],
    Signature.ES384: STRENGTH_BITS[Algorithm.ECDSA_P384],
    Signature.RS256: STRENGTH_BITS[Algorithm.RSA_3072],
    Signature.EDDSA: STRENGTH_BITS[Algorithm.ED25519],
}


class Jwks(MembersPolicy, frozen=True, kw_only=True, tag="jwks"):
    """Keys that sign tokens: one signs, the next is published, the one before still verifies."""

    algorithm: Annotated[Signature, msgspec.Meta(description="What signs.")] = Signature.ES256

    @property
    def entropy_bits(self) -> float:
        """Of each key: see `key_pairs.STRENGTH_BITS`."""
        return _STRENGTH_BITS[self.algorithm]

    def members(self, before: Mapping[str, object]) -> Mapping[str, object]:
        """Move each key by one phase.

        Raises:
            Misconfigured: There are keys in *before*, and they do not fit together.
        """
        if not set(MEMBERS) & before.keys():
            return _document(_new(self.algorithm), _new(self.algorithm), previous=None)
        if not self.is_one_of(before):
            raise Misconfigured(
                f"{WHERE}: `signing_key`, `next_key` and `jwks` do not fit together",
                remedy="Restore a version in which they do, or remove all three to start anew.",
            )
        signing, following = before["signing_key"], before["next_key"]
        return _document(_read(following), _new(self.algorithm), previous=_read(signing))

    def is_one_of(self, members: Mapping[str, object]) -> bool:
        """Tell whether all three keys are there, differ, and are what is published."""
        try:
            signing, following = (_read(members.get(key)) for key in MEMBERS[:2])
            published = [_read_public(each) for each in _published(members)]
        except ValueError:
            return False
        kids = [key["kid"] for key in published]
        return (
            len(kids) in _PUBLISHED
            and len(set(kids)) == len(kids)
            and published[:2] == [_public(signing), _public(following)]
        )

    def follow(self, members: Mapping[str, object], before: Mapping[str, object]) -> bool:
        """Tell whether next has become current, and current is still published."""
        if not self.is_one_of(before):
            return True
        then, now = _published(before), _published(members)
        return now[:1] == then[1:2] and now[2:] == then[:1]


_PUBLISHED = {2, 3}
"""How many keys are public. Two before the first rotation, when there is no previous one."""


def _document(
    signing: PrivateJwk, following: PrivateJwk, *, previous: PrivateJwk | None
) -> Mapping[str, object]:
    published = [signing, following] + ([previous] if previous is not None else [])
    return {
        "signing_key": signing.as_dict(private=True),
        "next_key": following.as_dict(private=True),
        "jwks": {"keys": [_public(key) for key in published]},
    }


def _new(algorithm: Signature) -> PrivateJwk:
    require_cryptography()
    from joserfc.jwk import ECKey, OKPKey, RSAKey

    # The key's id is its thumbprint (RFC 7638): it needs no register, and repeats never.
    facts: KeyParameters = {"use": "sig", "alg": algorithm.value}
    match algorithm:
        case Signature.ES256:
            return ECKey.generate_key("P-256", facts, auto_kid=True)
        case Signature.ES384:
            return ECKey.generate_key("P-384", facts, auto_kid=True)
        case Signature.RS256:
            return RSAKey.generate_key(3072, facts, auto_kid=True)
        case Signature.EDDSA:
            return OKPKey.generate_key("Ed25519", facts, auto_kid=True)


def _read(tree: object) -> PrivateJwk:
    """Read a private key with an id. ValueError if it is none, and nothing of it in the error."""
    require_cryptography()
    from joserfc.errors import JoseError
    from joserfc.jwk import ECKey, OKPKey, RSAKey

    kinds: Mapping[object, type[PrivateJwk]] = {"EC": ECKey, "OKP": OKPKey, "RSA": RSAKey}
    fields: Any = tree if isinstance(tree, dict) else {}
    key = None
    with suppress(JoseError, ValueError, TypeError, KeyError):
        read = kinds[fields.get("kty")].import_key(fields)
        # Looking for the private part reads the numbers, and refuses what is no key.
        key = read if read.private_key and read.kid == read.thumbprint() else None
    if key is None:
        raise ValueError("no such key")
    return key


def _public(key: PrivateJwk) -> dict[str, object]:
    return dict(key.as_dict(private=False))


def _published(members: Mapping[str, object]) -> list[object]:
    found = members.get("jwks")
    keys = found.get("keys") if isinstance(found, dict) else None
    return keys if isinstance(keys, list) else []


def _read_public(tree: object) -> dict[str, object]:
    """Return a public key. ValueError if it is none, or has a private part."""
    if not isinstance(tree, dict) or not isinstance(tree.get("kid"), str) or "d" in tree:
        raise ValueError("no such key")
    return tree
