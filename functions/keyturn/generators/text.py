"""Values that are one text: passwords, passphrases and tokens."""

from __future__ import annotations

import math
import re
import secrets
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from keyturn import generate
from keyturn.errors import Misconfigured
from keyturn.generate import CharacterClass, Charset, PasswordPolicy
from keyturn.generators.policy import Problem, TextPolicy, outside

_DEFAULT = PasswordPolicy()

# The bounds of `length` are generate's to enforce; here they only inform an editor.
Length = Annotated[
    int,
    msgspec.Meta(
        description="How many characters.",
        extra_json_schema={"minimum": 1, "maximum": generate.LONGEST},
    ),
]
AnyCharset = Annotated[
    Charset,
    msgspec.Meta(
        description="Whose alphabet: letters, digits and the symbols that this consumer takes"
        " unescaped and unquoted."
    ),
]
Exclude = Annotated[str, msgspec.Meta(description="Characters never used, written as one string.")]
Require = Annotated[
    tuple[CharacterClass, ...],
    msgspec.Meta(description="Classes with at least one character in every password; [] for none."),
]

MOST_BYTES = 256
"""Of a random token. More adds nothing that an attacker would notice."""

AnyBytes = Annotated[
    int,
    msgspec.Meta(
        description="How many random bytes.",
        extra_json_schema={"minimum": 10, "maximum": MOST_BYTES},
    ),
]


class Password(TextPolicy, frozen=True, kw_only=True, tag="password"):
    """A password, drawn uniformly from all that the options allow."""

    length: Length = _DEFAULT.length
    charset: AnyCharset = _DEFAULT.charset
    exclude: Exclude = _DEFAULT.exclude
    require: Require = _DEFAULT.require

    @property
    def policy(self) -> PasswordPolicy:
        """The same, as `generate` knows it."""
        return PasswordPolicy(self.length, self.charset, self.exclude, self.require)

    @property
    def entropy_bits(self) -> float:
        """Exact: the rules are counted."""
        return self.policy.entropy_bits

    def problems(self) -> Iterator[Problem]:
        """Ask `generate`, which judges the entropy too."""
        yield from TextPolicy.problems(self)
        yield from problems_of(self.policy)

    def text(self) -> str:
        """Make one."""
        return generate.password(self.policy).reveal()

    def is_one(self, text: str) -> bool:
        """Tell whether an attacker of this policy would ever try it."""
        policy = self.policy
        return len(text) == policy.length and set(text) <= set(policy.alphabet)


def problems_of(policy: PasswordPolicy) -> Iterator[Problem]:
    """Yield what is wrong with a password policy, its entropy included."""
    try:
        generate.check(policy, "")
    except Misconfigured as error:
        fact, remedy = str(error).removeprefix(": "), error.remedy
    else:
        return
    yield fact, remedy


@cache
def words() -> tuple[str, ...]:
    """Return the EFF's long list of 7,776 words.

    Its author is Joseph Bonneau for the Electronic Frontier Foundation, its licence CC BY 3.0 US;
    the numbers of the dice are left out.
    """
    # Read when it is needed: 62 kB that most functions never do.
    return tuple(Path(__file__).with_name("eff-long.txt").read_text("ascii").split())


LIST_SIZE = 6**5
"""Words on the list: what five dice can name."""

MOST_WORDS = 64
"""Of a passphrase."""


class Passphrase(TextPolicy, frozen=True, kw_only=True, tag="passphrase"):
    """Words of the EFF's long list."""

    words: Annotated[
        int,
        msgspec.Meta(
            description="How many words, 12.9 bits each.",
            extra_json_schema={"minimum": 7, "maximum": MOST_WORDS},
        ),
    ] = 10
    # No hyphen: four words on the list have one themselves, and two phrases could be equal.
    separator: Annotated[
        Literal[".", "_", " "], msgspec.Meta(description="What stands between two words.")
    ] = "."

    @property
    def entropy_bits(self) -> float:
        """Every word is drawn from the whole list."""
        return self.words * math.log2(LIST_SIZE)

    def problems(self) -> Iterator[Problem]:
        """Refuse too many."""
        yield from TextPolicy.problems(self)
        yield from outside("words", self.words, 1, MOST_WORDS)

    def stronger(self) -> str:
        """See `Policy.stronger`."""
        return f"Set `words` to {math.ceil(generate.WEAKEST_BITS / math.log2(LIST_SIZE))} or more."

    def text(self) -> str:
        """Make one."""
        return self.separator.join(secrets.choice(words()) for _ in range(self.words))

    def is_one(self, text: str) -> bool:
        """Tell whether it is so many words of the list."""
        found = text.split(self.separator)
        return len(found) == self.words and set(found) <= set(words())


class _RandomBytes(TextPolicy, frozen=True, kw_only=True):
    """Random bytes in some writing."""

    bytes: AnyBytes = 32

    @property
    def entropy_bits(self) -> float:
        """Eight to a byte."""
        return 8.0 * self.bytes

    def problems(self) -> Iterator[Problem]:
        """Refuse too many."""
        yield from TextPolicy.problems(self)
        yield from outside("bytes", self.bytes, 1, MOST_BYTES)

    def stronger(self) -> str:
        """See `Policy.stronger`."""
        return f"Set `bytes` to {generate.WEAKEST_BITS // 8} or more."


class Hex(_RandomBytes, frozen=True, kw_only=True, tag="hex"):
    """Random bytes as lower-case hexadecimal digits."""

    def text(self) -> str:
        """Make one."""
        return secrets.token_hex(self.bytes)

    def is_one(self, text: str) -> bool:
        """Tell whether it is so many bytes."""
        return re.fullmatch(f"[0-9a-f]{{{2 * self.bytes}}}", text) is not None


class Base64Url(_RandomBytes, frozen=True, kw_only=True, tag="base64url"):
    """Random bytes as base64 for URLs, without padding (RFC 4648, 5)."""

    def text(self) -> str:
        """Make one."""
        return secrets.token_urlsafe(self.bytes)

    def is_one(self, text: str) -> bool:
        """Tell whether it is so many bytes."""
        return is_base64url(text, self.bytes)


def is_base64url(text: str, size_bytes: int) -> bool:
    """Tell whether *text* is base64 of *size_bytes* bytes, for URLs and without padding."""
    length = math.ceil(size_bytes * 4 / 3)
    return re.fullmatch(f"[A-Za-z0-9_-]{{{length}}}", text) is not None


UUID_BITS = 122.0
"""A version-4 UUID has 128 bits, six of which are always the same (RFC 9562, 5.4)."""


class Uuid(TextPolicy, frozen=True, kw_only=True, tag="uuid"):
    """A random UUID (version 4)."""

    @property
    def entropy_bits(self) -> float:
        """What is random of it."""
        return UUID_BITS

    def text(self) -> str:
        """Make one."""
        return str(uuid.UUID(bytes=secrets.token_bytes(16), version=4))

    def is_one(self, text: str) -> bool:
        """Tell whether it is one, written as usual."""
        variant = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
        return re.fullmatch(variant, text) is not None
