"""Passwords, each one drawn uniformly from all that its policy allows.

    alphabet   letters, digits and the symbols that the consumer takes as they are, less `exclude`
    first      always a letter: some targets insist, and no shell sees an option or a home there
    require    at least one character of each class named

A password is drawn character by character and thrown away whole if a class is missing. Repairing
it instead ("one of each, fill up, shuffle") would favour some passwords over others; this way the
entropy is exact, and a policy is judged by it before the first draw.

Wiring turns a policy into a `ports.Generate`. Nothing here stores, shows or sends what it makes.
"""

from __future__ import annotations

import math
import secrets
import string
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import combinations

from keyturn.errors import Misconfigured
from keyturn.model import Sensitive

LONGEST = 128
"""Characters. What RDS takes for PostgreSQL and SQL Server; more adds nothing that a hash keeps."""

WEAKEST_BITS = 80
"""Bits of entropy. At 10^12 guesses a second, as on a stolen unsalted hash, 38,000 years."""

RAREST = 0.01
"""The smallest share of draws that may meet the class rules, so that a draw stays cheap.

With today's alphabets the entropy bound is the stricter one at every length; this one keeps the
promise if an alphabet grows.
"""


class CharacterClass(StrEnum):
    """What a policy can require."""

    LOWER = "lower"
    UPPER = "upper"
    DIGIT = "digit"
    SYMBOL = "symbol"


_MEMBERS: Mapping[CharacterClass, str] = {
    CharacterClass.LOWER: string.ascii_lowercase,
    CharacterClass.UPPER: string.ascii_uppercase,
    CharacterClass.DIGIT: string.digits,
    CharacterClass.SYMBOL: string.punctuation,
}


class Charset(StrEnum):
    """Alphabets by consumer: each is taken there as it stands, unescaped and unquoted.

    They differ in symbols only, and are narrow on purpose: another symbol adds a tenth of a bit
    per character, and a fault where the next program along the way parses it.
    """

    DEFAULT = "default"
    URI = "uri"
    SHELL = "shell"
    PGPASS = "pgpass"
    JDBC = "jdbc"


# None has what breaks most often elsewhere: / @ " ' \ space % $ : ; ? # & { }
_SYMBOLS: Mapping[Charset, str] = {
    Charset.DEFAULT: "-_.~+=^*",
    Charset.URI: "-_.~",  # RFC 3986, 2.3: unreserved. No `+`: form decoders make it a space.
    Charset.SHELL: "-_.+=,",  # XCU 2.2: none is special in a word, or in an assignment's value.
    Charset.PGPASS: "-_.~+=^*",  # libpq, "The Password File": only `:` and `\` are escaped.
    Charset.JDBC: "-_.*",  # java.net.URLEncoder, its class comment: what stays the same.
}


@dataclass(frozen=True, slots=True)
class PasswordPolicy:
    """Which passwords may be made.

    Attributes:
        length: How many characters.
        charset: Whose alphabet.
        exclude: Characters never used, whether the alphabet has them or not.
        require: Classes with at least one character in every password.
    """

    length: int = 40
    charset: Charset = Charset.DEFAULT
    exclude: str = ""
    require: tuple[CharacterClass, ...] = tuple(CharacterClass)

    @property
    def alphabet(self) -> str:
        """The characters that a password may have."""
        everything = string.ascii_letters + string.digits + _SYMBOLS[self.charset]
        return "".join(character for character in everything if character not in self.exclude)

    @property
    def possibilities(self) -> int:
        """The exact number of passwords that the policy allows, all equally likely."""
        sizes, required = _sizes(self.alphabet), set(self.require)
        return sum(
            (-1) ** count * _draws(sizes, self.length, without=absent)
            for count in range(len(required) + 1)
            for absent in combinations(required, count)
        )

    @property
    def entropy_bits(self) -> float:
        """What an attacker who knows the policy has to guess; 0 if it allows nothing."""
        return math.log2(self.possibilities or 1)


def password(policy: PasswordPolicy) -> Sensitive:
    """Make a password.

    Raises:
        Misconfigured: See `check`.
    """
    check(policy)
    alphabet, letters = policy.alphabet, _letters(policy.alphabet)
    while True:
        rest = (secrets.choice(alphabet) for _ in range(policy.length - 1))
        text = secrets.choice(letters) + "".join(rest)
        if not _missing(policy, text):
            return Sensitive(text)


def check(policy: PasswordPolicy, where: str = "the password policy") -> None:
    """Refuse a policy that is impossible, weak, or met by too few draws.

    Args:
        policy: What to judge.
        where: Names its place, for the message.

    Raises:
        Misconfigured: Says which of these it is, and what to change.
    """
    for fact, remedy in _problems(policy):
        raise Misconfigured(f"{where}: {fact}", remedy=remedy)


def _problems(policy: PasswordPolicy) -> Iterator[tuple[str, str]]:
    """Yield what is wrong and what to do. Each line may rely on those above it."""
    if not 1 <= policy.length <= LONGEST:
        yield f"`length` is not within 1 to {LONGEST}", f"Set `length` within 1 to {LONGEST}."
    if not _letters(policy.alphabet):
        yield (
            "`exclude` leaves no letter, and the first character is always one",
            "Exclude fewer letters.",
        )
    if missing := _missing(policy, policy.alphabet):
        named = ", ".join(missing)
        yield (
            f"`require` names {named}, of which `charset` and `exclude` leave no character",
            f"Remove {named} from `require`, or exclude fewer characters.",
        )
    if weakness := _weakness(policy):
        yield weakness, _strengthening(policy)


def _weakness(policy: PasswordPolicy) -> str:
    """Say what a greater length would mend, or nothing."""
    possibilities = policy.possibilities
    if not possibilities:
        return f"{policy.length} characters cannot hold a first letter and all that is required"
    if possibilities < RAREST * _draws(_sizes(policy.alphabet), policy.length):
        return f"fewer than {RAREST:.0%} of random passwords meet what is required"
    if possibilities < 2**WEAKEST_BITS:
        return f"{int(policy.entropy_bits)} bits of entropy, fewer than {WEAKEST_BITS}"
    return ""


def _strengthening(policy: PasswordPolicy) -> str:
    for length in range(policy.length + 1, LONGEST + 1):
        if not _weakness(replace(policy, length=length)):
            return f"Set `length` to {length} or more."
    return "Exclude fewer characters: no length makes up for them."


def _sizes(alphabet: str) -> dict[CharacterClass, int]:
    """Count the characters of each class; every character is in exactly one."""
    return {named: len(set(members) & set(alphabet)) for named, members in _MEMBERS.items()}


def _draws(
    sizes: Mapping[CharacterClass, int], length: int, *, without: Collection[CharacterClass] = ()
) -> int:
    """Count the draws, a letter first, that have no character of the classes *without*."""
    left = {named: size for named, size in sizes.items() if named not in without}
    letters = left.get(CharacterClass.LOWER, 0) + left.get(CharacterClass.UPPER, 0)
    count: int = letters * sum(left.values()) ** (length - 1) if length > 0 else 0
    return count


def _letters(alphabet: Collection[str]) -> list[str]:
    return [character for character in alphabet if character in string.ascii_letters]


def _missing(policy: PasswordPolicy, text: str) -> list[CharacterClass]:
    """Return the required classes of which *text* has no character."""
    return [wanted for wanted in policy.require if not set(_MEMBERS[wanted]) & set(text)]
