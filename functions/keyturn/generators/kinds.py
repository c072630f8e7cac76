"""Every kind there is, and how what somebody has written is read as one of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated

import msgspec

from keyturn.generate import CharacterClass, Charset
from keyturn.generators.htpasswd import Htpasswd
from keyturn.generators.jwks import Jwks, Signature
from keyturn.generators.key_pairs import Algorithm, Csr, KeyFormat, KeyPair
from keyturn.generators.policy import MembersPolicy, Problem, TextPolicy, check
from keyturn.generators.shared_keys import Fernet, Hmac, Totp
from keyturn.generators.text import Base64Url, Hex, Passphrase, Password, Uuid
from keyturn.shapes import Place, mapping, refusal, require_keys, shaped

AnySingle = (
    Password
    | Passphrase
    | Hex
    | Base64Url
    | Uuid
    | Hmac
    | Fernet
    | Totp
    | KeyPair
    | Csr
    | Jwks
    | Htpasswd
)


class Fields(MembersPolicy, frozen=True, kw_only=True, tag="fields"):
    """Several values in one JSON object, each under a name of its own."""

    fields: Annotated[
        dict[str, AnySingle],
        msgspec.Meta(
            description="By the name of the member. Kinds that have several members become an"
            " object there.",
            extra_json_schema={"minProperties": 1},
        ),
    ]

    @property
    def entropy_bits(self) -> float:
        """Of the weakest: whoever guesses one has it."""
        return min((each.entropy_bits for each in self.fields.values()), default=0.0)

    def problems(self) -> Iterator[Problem]:
        """Refuse what makes no sense within an object. The fields themselves are checked alone."""
        if not self.fields:
            yield "`fields` is empty", FIXES["fields"]
        for policy in self.fields.values():
            if isinstance(policy, TextPolicy) and policy.member is not msgspec.UNSET:
                yield "a field has a `member`", "Remove `member`: the field's name is the member's."

    def members(self, before: Mapping[str, object]) -> Mapping[str, object]:
        """Make each, from what it was before."""
        return {name: _made(policy, before.get(name)) for name, policy in self.fields.items()}

    def is_one_of(self, members: Mapping[str, object]) -> bool:
        """Tell whether each is well formed."""
        return all(_is_one(policy, members.get(name)) for name, policy in self.fields.items())

    def follow(self, members: Mapping[str, object], before: Mapping[str, object]) -> bool:
        """Tell whether each keeps what it has to."""
        return all(
            policy.follow(_object(members.get(name)), _object(before.get(name)))
            for name, policy in self.fields.items()
            if isinstance(policy, MembersPolicy)
        )


def _made(policy: AnySingle, before: object) -> object:
    if isinstance(policy, TextPolicy):
        return policy.text()
    kept = _object(before)
    return {**kept, **policy.members(kept)}


def _is_one(policy: AnySingle, value: object) -> bool:
    if isinstance(policy, TextPolicy):
        return isinstance(value, str) and policy.is_one(value)
    return policy.is_one_of(_object(value))


def _object(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


AnyPolicy = AnySingle | Fields

_SINGLES: Mapping[str, type[AnySingle]] = {
    "password": Password,
    "passphrase": Passphrase,
    "hex": Hex,
    "base64url": Base64Url,
    "uuid": Uuid,
    "hmac": Hmac,
    "fernet": Fernet,
    "totp": Totp,
    "key-pair": KeyPair,
    "csr": Csr,
    "jwks": Jwks,
    "htpasswd": Htpasswd,
}
KINDS: Mapping[str, type[AnyPolicy]] = {**_SINGLES, "fields": Fields}

FIXES: Mapping[str, str] = {
    "kind": f"Write `kind:` with one of {', '.join(KINDS)}.",
    "member": "Name the member of the JSON object, such as `member: api_key`.",
    "length": "Write a whole number without quotes, such as `length: 40`.",
    "charset": f"Write one of {', '.join(Charset)}.",
    "exclude": "Write the characters as one text in quotes.",
    "require": f"List any of {', '.join(CharacterClass)}, such as `require: [lower, digit]`.",
    "words": "Write a whole number without quotes, such as `words: 10`.",
    "separator": 'Write one of ".", "_" and " ", in quotes.',
    "bytes": "Write a whole number without quotes, such as `bytes: 32`.",
    "issuer": "Name who asks for the code, such as `issuer: Example`.",
    "account": "Name whose code it is, such as `account: deploy`.",
    "algorithm": f"Write one of {', '.join(Algorithm)}; for jwks, one of {', '.join(Signature)}.",
    "format": f"Write one of {', '.join(KeyFormat)}.",
    "comment": "Write one line of text.",
    "common_name": "Name who the certificate is for, such as `common_name: api.example.com`.",
    "dns_names": "List host names, such as `dns_names: [api.example.com]`.",
    "user": "Name whose password it is, such as `user: deploy`.",
    "cost": "Write a whole number without quotes, such as `cost: 12`.",
    "fields": "Write a mapping from names to kinds, such as `fields: {csrf: {kind: hex}}`.",
}
"""What to do about each option that has the wrong type, or is missing."""


def read(tree: object, place: Place) -> AnyPolicy:
    """Read a policy: a mapping with a `kind`, and the options of that kind.

    Raises:
        Misconfigured: Names the place and the fix, and quotes no value.
    """
    entry = mapping(tree, place, FIXES["kind"])
    shape = _shape(entry, place, KINDS)
    if shape is not Fields:
        return _read(entry, shape, place)
    require_keys(entry, shape, place, FIXES)
    at = place.at("fields")
    for name, each in mapping(entry["fields"], at, FIXES["fields"]).items():
        field = mapping(each, at.at(name), FIXES["kind"])
        _read(field, _shape(field, at.at(name), _SINGLES), at.at(name))
    return _read(entry, shape, place)


def _shape(
    entry: Mapping[str, object], place: Place, kinds: Mapping[str, type[AnyPolicy]]
) -> type[AnyPolicy]:
    if "kind" not in entry:
        raise refusal(place, "has no `kind`", FIXES["kind"])
    kind = entry["kind"]
    if not isinstance(kind, str) or kind not in kinds:
        raise refusal(
            place.at("kind"),
            "is no kind of value",
            f"Write one of {', '.join(kinds)}.",
        )
    return kinds[kind]


def _read(entry: Mapping[str, object], shape: type[AnyPolicy], place: Place) -> AnyPolicy:
    require_keys(entry, shape, place, FIXES)
    policy: AnyPolicy = shaped(entry, shape, place, FIXES)
    check(policy, place)
    return policy
