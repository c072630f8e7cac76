"""Passwords: the alphabets are safe where they say, the draw is uniform, the entropy is exact.

No assertion here compares a password directly: pytest would print it.
"""

from __future__ import annotations

import math
import shlex
import string
import subprocess
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from itertools import product
from statistics import NormalDist
from typing import TypeVar
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyturn import generate
from keyturn.errors import Misconfigured
from keyturn.generate import CharacterClass, Charset, PasswordPolicy
from keyturn.model import Sensitive

LOWER, UPPER, DIGIT, SYMBOL = CharacterClass
EVERYTHING = string.ascii_letters + string.digits + string.punctuation
SHORT = PasswordPolicy(length=14)
"""The shortest that is allowed: here a biased draw shows most."""


UNHURRIED = settings(deadline=None)
"""What counts is the answer; a busy machine is no failure."""


def policy_over(alphabet: str, length: int, *require: CharacterClass) -> PasswordPolicy:
    exclude = "".join(character for character in EVERYTHING if character not in alphabet)
    return PasswordPolicy(length=length, exclude=exclude, require=require)


def class_of(character: str) -> CharacterClass:
    if character in string.ascii_lowercase:
        return LOWER
    if character in string.ascii_uppercase:
        return UPPER
    return DIGIT if character in string.digits else SYMBOL


def count_by_hand(policy: PasswordPolicy) -> int:
    return sum(
        text[0] in string.ascii_letters and set(policy.require) <= {class_of(c) for c in text}
        for text in product(policy.alphabet, repeat=policy.length)
    )


class TestAPassword:
    def test_is_sensitive(self) -> None:
        assert isinstance(generate.password(PasswordPolicy()), Sensitive)

    def test_is_forty_characters_long_by_default(self) -> None:
        assert len(generate.password(PasswordPolicy()).reveal()) == 40

    def test_is_another_one_each_time(self) -> None:
        made = {generate.password(SHORT).reveal() for _ in range(100)}

        assert len(made) == 100

    @pytest.mark.parametrize("charset", Charset)
    def test_begins_with_a_letter_has_every_class_and_keeps_to_the_alphabet(
        self, charset: Charset
    ) -> None:
        policy = PasswordPolicy(length=16, charset=charset)

        for _ in range(300):
            text = generate.password(policy).reveal()
            keeps = set(text) <= set(policy.alphabet)
            begins = text[0] in string.ascii_letters
            has_all = {class_of(character) for character in text} == set(CharacterClass)
            assert keeps
            assert begins
            assert has_all

    def test_never_has_an_excluded_character(self) -> None:
        policy = PasswordPolicy(exclude="lIO01~" + "'\"@/ \u00e9")

        for _ in range(300):
            clean = not set(policy.exclude) & set(generate.password(policy).reveal())
            assert clean

    def test_has_a_rare_class_that_is_required(self) -> None:
        policy = policy_over(string.ascii_letters + "7", 16, DIGIT)

        for _ in range(300):
            has_it = "7" in generate.password(policy).reveal()
            assert has_it

    def test_needs_no_class_when_none_is_required(self) -> None:
        policy = policy_over(string.ascii_lowercase, 20)

        text = generate.password(policy).reveal()

        plain = text.isalpha() and text.islower()
        assert plain

    def test_may_be_as_long_as_the_longest(self) -> None:
        made = generate.password(PasswordPolicy(length=generate.LONGEST))

        assert len(made.reveal()) == 128

    def test_is_refused_with_its_policy(self) -> None:
        with pytest.raises(Misconfigured, match=r"^the password policy: 19 bits"):
            generate.password(PasswordPolicy(length=4))


class TestUniformity:
    """Against exact expectations, given the rules. A false alarm comes once in a million runs."""

    samples = 1_000_000 if settings.get_current_profile_name() == "proof" else 10_000

    def test_every_position_has_each_character_as_often_as_the_rules_say(self) -> None:
        texts = [generate.password(SHORT).reveal() for _ in range(self.samples)]

        for position in range(SHORT.length):
            seen = Counter(text[position] for text in texts)
            expected = shares_at(position, SHORT)
            fits = set(seen) <= set(expected) and is_plausible(seen, expected, self.samples)
            assert fits, f"position {position} is biased"

    def test_the_number_of_characters_of_a_class_is_as_the_rules_say(self) -> None:
        """One of each, filled up and shuffled, has too many digits and symbols."""
        texts = [generate.password(SHORT).reveal() for _ in range(self.samples)]

        for counted in CharacterClass:
            seen = Counter(sum(class_of(c) is counted for c in text) for text in texts)
            expected = shares_of_count(counted, SHORT)
            fits = is_plausible(seen, expected, self.samples)
            assert fits, f"the number of {counted} characters is biased"

    def test_the_bound_notices_one_of_each_then_shuffle(self) -> None:
        """What the test above would see if the shares were those of that recipe."""
        expected = shares_of_count(DIGIT, SHORT)
        share = Fraction(10, 70)
        rest = SHORT.length - len(SHORT.require)
        biased = {
            1 + n: float(math.comb(rest, n) * share**n * (1 - share) ** (rest - n))
            for n in range(rest + 1)
        }
        seen = Counter({n: round(share * self.samples) for n, share in biased.items()})

        assert not is_plausible(seen, expected, self.samples)


def ways(policy: PasswordPolicy, fixed: Mapping[int, CharacterClass]) -> int:
    """Count passwords with these classes at these positions, by walking the positions.

    Independent of the code under test: no inclusion and exclusion, but sets of classes seen.
    """
    sizes = Counter(class_of(character) for character in policy.alphabet)
    states: Counter[frozenset[CharacterClass]] = Counter({frozenset(): 1})
    for position in range(policy.length):
        allowed = [LOWER, UPPER] if position == 0 else list(CharacterClass)
        if position in fixed:
            allowed = [c for c in allowed if c is fixed[position]]
        following: Counter[frozenset[CharacterClass]] = Counter()
        for seen, count in states.items():
            for named in allowed:
                following[seen | {named}] += count * sizes[named]
        states = following
    return sum(count for seen, count in states.items() if seen >= set(policy.require))


def shares_at(position: int, policy: PasswordPolicy) -> dict[str, float]:
    total = ways(policy, {})
    sizes = Counter(class_of(character) for character in policy.alphabet)
    shares = {c: ways(policy, {position: c}) / total / sizes[c] for c in CharacterClass}
    return {c: shares[class_of(c)] for c in policy.alphabet if shares[class_of(c)]}


def shares_of_count(counted: CharacterClass, policy: PasswordPolicy) -> dict[int, float]:
    """The exact distribution of how many characters of one class a password has."""
    sizes = Counter(class_of(character) for character in policy.alphabet)
    states: Counter[tuple[frozenset[CharacterClass], int]] = Counter({(frozenset(), 0): 1})
    for position in range(policy.length):
        following: Counter[tuple[frozenset[CharacterClass], int]] = Counter()
        for (seen, number), count in states.items():
            for named in [LOWER, UPPER] if position == 0 else list(CharacterClass):
                state = (seen | {named}, number + (named is counted))
                following[state] += count * sizes[named]
        states = following
    fitting = {s: count for s, count in states.items() if s[0] >= set(policy.require)}
    total = sum(fitting.values())
    shares: dict[int, float] = {}
    for (_, number), count in fitting.items():
        shares[number] = shares.get(number, 0.0) + count / total
    return shares


Kind = TypeVar("Kind", str, int)


def is_plausible(seen: Mapping[Kind, int], expected: Mapping[Kind, float], samples: int) -> bool:
    """Test by chi-square; the bound is the Wilson-Hilferty quantile for 1e-8 per call.

    Outcomes expected fewer than five times are pooled, or the approximation does not hold.
    """
    rare = {kind for kind, share in expected.items() if share * samples < 5}
    pairs = [(seen.get(k, 0), expected[k] * samples) for k in expected if k not in rare]
    if rare:
        pooled = sum(seen.get(k, 0) for k in rare), sum(expected[k] for k in rare) * samples
        pairs.append(pooled)
    statistic = sum((found - wanted) ** 2 / wanted for found, wanted in pairs)
    freedom = len(pairs) - 1
    z = NormalDist().inv_cdf(1 - 1e-8)
    spread = 2 / (9 * freedom)
    return statistic < freedom * math.pow(1 - spread + z * math.sqrt(spread), 3)


class TestEntropy:
    @UNHURRIED
    @given(
        alphabet=st.sets(st.sampled_from("abAB12-_"), min_size=1, max_size=6).map("".join),
        length=st.integers(1, 4),
        require=st.lists(st.sampled_from(CharacterClass), max_size=5),
    )
    def test_counts_exactly_the_passwords_that_brute_force_finds(
        self, alphabet: str, length: int, require: list[CharacterClass]
    ) -> None:
        policy = policy_over(alphabet, length, *require)

        assert policy.possibilities == count_by_hand(policy)

    @pytest.mark.parametrize("charset", Charset)
    def test_agrees_with_counting_position_by_position(self, charset: Charset) -> None:
        policy = PasswordPolicy(charset=charset)

        assert policy.possibilities == ways(policy, {})

    def test_is_the_binary_logarithm_of_the_possibilities(self) -> None:
        assert policy_over("ab", 10).entropy_bits == 10

    def test_of_the_default_is_244_bits(self) -> None:
        assert PasswordPolicy().entropy_bits == pytest.approx(244.726, abs=0.001)

    def test_counts_nothing_where_there_is_no_character(self) -> None:
        assert PasswordPolicy(length=0).possibilities == 0
        assert PasswordPolicy(length=-3).entropy_bits == 0

    def test_does_not_depend_on_how_the_classes_are_listed(self) -> None:
        once = PasswordPolicy(length=9, require=(LOWER, DIGIT))
        twice = PasswordPolicy(length=9, require=(DIGIT, LOWER, DIGIT))

        assert once.possibilities == twice.possibilities


def through_uri(text: str) -> str | None:
    return urlsplit(
        f"postgresql://orders_a:{text}@db.example:5432/orders?sslmode=verify-full"
    ).password


def through_uri_query(text: str) -> str | None:
    return parse_qs(urlsplit(f"postgresql://db.example/orders?password={text}&a=b").query)[
        "password"
    ][0]


def through_percent_encoding(text: str) -> str:
    return quote(text, safe="")


def through_shlex(text: str) -> str:
    return shlex.split(f"login {text} --now")[1]


def through_shlex_quote(text: str) -> str:
    return shlex.quote(text)


def through_a_shell(text: str) -> str:
    script = f'set -eu\nPASSWORD={text}\nexport PASSWORD\nset -- {text}\n[ "$1" = "$PASSWORD" ]\n'
    script += 'printf %s "$PASSWORD"\n'
    done = subprocess.run(
        ["/bin/sh"], input=script, capture_output=True, text=True, check=True, cwd="/"
    )
    return done.stdout


def through_pgpass(text: str) -> str:
    fields = f"db.example:5432:orders:orders_a:{text}\n".rstrip("\n").split(":")
    assert len(fields) == 5
    return "" if "\\" in fields[4] else fields[4]


def through_jdbc_url(text: str) -> str:
    return parse_qs(f"user=orders_a&password={text}&ssl=true", strict_parsing=True)["password"][0]


def through_jdbc_properties(text: str) -> str:
    """SQL Server's form: semicolons part, braces quote, the first equals sign ends a name."""
    parts = f"jdbc:sqlserver://db.example;user=orders_a;password={text};encrypt=true".split(";")
    return "" if set(text) & set("{}\\") else parts[2].partition("=")[2]


class TestAnAlphabet:
    @pytest.mark.parametrize(
        "charset,through",
        [
            (Charset.URI, through_uri),
            (Charset.URI, through_uri_query),
            (Charset.URI, through_percent_encoding),
            (Charset.SHELL, through_shlex),
            (Charset.SHELL, through_shlex_quote),
            (Charset.SHELL, through_a_shell),
            (Charset.PGPASS, through_pgpass),
            (Charset.DEFAULT, through_pgpass),
            (Charset.JDBC, through_jdbc_url),
            (Charset.JDBC, through_jdbc_properties),
        ],
    )
    def test_comes_back_whole_from_its_consumer(
        self, charset: Charset, through: Callable[[str], str | None]
    ) -> None:
        """Every ordered pair of characters occurs, so that no pair has a meaning of its own."""
        alphabet = PasswordPolicy(charset=charset).alphabet
        text = "a" + "".join(first + second for first in alphabet for second in alphabet)

        whole = through(text) == text

        assert whole

    @pytest.mark.parametrize(
        "charset,through",
        [
            (Charset.URI, through_uri),
            (Charset.SHELL, through_shlex),
            (Charset.PGPASS, through_pgpass),
            (Charset.JDBC, through_jdbc_url),
        ],
    )
    def test_makes_passwords_that_come_back_whole(
        self, charset: Charset, through: Callable[[str], str | None]
    ) -> None:
        for _ in range(100):
            text = generate.password(PasswordPolicy(charset=charset)).reveal()
            whole = through(text) == text
            assert whole

    @pytest.mark.parametrize("charset", Charset)
    def test_is_printable_ascii_without_what_breaks_most_often(self, charset: Charset) -> None:
        alphabet = set(PasswordPolicy(charset=charset).alphabet)

        assert alphabet <= set(EVERYTHING)
        assert not alphabet & set("/@\"'\\ %$:;?#&{}")

    @pytest.mark.parametrize("charset", Charset)
    def test_has_every_letter_and_digit_once(self, charset: Charset) -> None:
        alphabet = PasswordPolicy(charset=charset).alphabet

        assert set(string.ascii_letters + string.digits) <= set(alphabet)
        assert len(alphabet) == len(set(alphabet))


def refusal(policy: PasswordPolicy) -> tuple[str, str]:
    with pytest.raises(Misconfigured) as caught:
        generate.check(policy, "here")
    return str(caught.value), caught.value.remedy


class TestARefusal:
    @pytest.mark.parametrize("length", [-1, 0, generate.LONGEST + 1, 10**9])
    def test_of_a_length_out_of_range(self, length: int) -> None:
        assert refusal(PasswordPolicy(length=length)) == (
            "here: `length` is not within 1 to 128",
            "Set `length` within 1 to 128.",
        )

    @pytest.mark.parametrize("alphabet", ["", "0123456789"])
    def test_of_an_alphabet_without_a_letter(self, alphabet: str) -> None:
        assert refusal(policy_over(alphabet, 40)) == (
            "here: `exclude` leaves no letter, and the first character is always one",
            "Exclude fewer letters.",
        )

    def test_of_a_required_class_that_is_excluded(self) -> None:
        fact, remedy = refusal(policy_over(string.ascii_lowercase, 40, LOWER, DIGIT, SYMBOL))

        assert fact.startswith("here: `require` names digit, symbol, of which")
        assert remedy == "Remove digit, symbol from `require`, or exclude fewer characters."

    @pytest.mark.parametrize("length,require", [(3, tuple(CharacterClass)), (1, (DIGIT,))])
    def test_of_fewer_characters_than_must_be_there(
        self, length: int, require: Sequence[CharacterClass]
    ) -> None:
        """One character cannot be a digit, either: the first is a letter."""
        fact, remedy = refusal(PasswordPolicy(length=length, require=tuple(require)))

        assert fact.endswith("cannot hold a first letter and all that is required")
        assert remedy == "Set `length` to 14 or more."

    def test_of_rules_that_fewer_than_one_draw_in_a_hundred_meets(self) -> None:
        assert refusal(policy_over(string.ascii_letters + "7-", 4, *CharacterClass)) == (
            "here: fewer than 1% of random passwords meet what is required",
            "Set `length` to 15 or more.",
        )

    def test_of_a_weak_policy_names_the_shortest_length_that_would_do(self) -> None:
        assert refusal(PasswordPolicy(length=13)) == (
            "here: 78 bits of entropy, fewer than 80",
            "Set `length` to 14 or more.",
        )

    def test_of_a_hopeless_alphabet_does_not_advise_a_length(self) -> None:
        assert refusal(policy_over("a", 128)) == (
            "here: 0 bits of entropy, fewer than 80",
            "Exclude fewer characters: no length makes up for them.",
        )

    def test_is_spared_at_exactly_eighty_bits(self) -> None:
        generate.check(policy_over("ab", 80))

        assert refusal(policy_over("ab", 79))[1] == "Set `length` to 80 or more."


def test_every_preset_is_allowed_as_it_is() -> None:
    for charset in Charset:
        generate.check(PasswordPolicy(charset=charset))
