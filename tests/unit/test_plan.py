"""The plan: what it says is what is read, and all else is refused with its place and a fix."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, fields
from datetime import timedelta
from itertools import chain
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keyturn import generate, plan
from keyturn.errors import Misconfigured
from keyturn.follow_plan import RefreshShape, RetireShape
from keyturn.follow_up import AtDeadline, Retirement, When
from keyturn.generate import CharacterClass, Charset, PasswordPolicy
from keyturn.generators import kinds
from keyturn.generators.shared_keys import Hmac
from keyturn.kubernetes.cluster import ClusterShape
from keyturn.model import Strategy, Trace
from keyturn.rendering import Form, Rendering
from keyturn.shapes import Shape, keys
from keyturn.wiring import plan_kinds

DOCS = Path(__file__).parents[2] / "docs"
GUIDE = (DOCS / "plan.md").read_text(encoding="utf-8")
RENEW = (
    'python -c "import json; from keyturn import plan, wiring;'
    ' print(json.dumps(plan.schema(wiring.plan_kinds()), indent=2))"'
    " > docs/keyturn.schema.json"
)

SINGLE = """\
version: 1
secrets:
  prod/reports/db:
    strategy: single-user
"""

PAIR = """\
version: 1
secrets:
  prod/orders/db:
    strategy: alternating-users
    users: [orders_a, orders_b]
    owner: orders
    admin: prod/orders/db-admin
"""


CLUSTER = "arn:aws:rds:eu-west-1:111122223333:cluster:reports"
INSTANCE = "projects/shop-42/instances/reports"
DOMAIN = "projects/example.com:shop-42/instances/reports"


def read(text: str) -> plan.Plan:
    return plan.parse(text, plan_kinds(), source="keyturn.yaml")


def refusal(text: str) -> tuple[str, str]:
    with pytest.raises(Misconfigured) as caught:
        read(text)
    return str(caught.value), caught.value.remedy


SCALARS = st.integers(-5, 300) | st.text(max_size=3) | st.lists(st.text(max_size=3), max_size=2)
"""Values of no option in particular."""


class TestAPlan:
    def test_of_a_single_user_has_no_pair_and_the_default_password(self) -> None:
        secret = read(SINGLE).secrets["prod/reports/db"]

        assert secret == plan.SecretPlan(
            Strategy.SINGLE_USER, users=None, owner=None, admin=None, password=PasswordPolicy()
        )

    def test_of_a_pair_has_both_logins_their_owner_and_the_admin(self) -> None:
        secret = read(PAIR).secrets["prod/orders/db"]

        assert secret == plan.SecretPlan(
            Strategy.ALTERNATING_USERS,
            users=("orders_a", "orders_b"),
            owner="orders",
            admin="prod/orders/db-admin",
            password=PasswordPolicy(),
        )

    @pytest.mark.parametrize(
        "strategy, keys",
        [
            (Strategy.DUAL_PASSWORD, {}),
            (Strategy.DUAL_PASSWORD, {"admin": "a"}),
            (Strategy.AUTO, {}),
            (Strategy.AUTO, {"admin": "a"}),
            (Strategy.AUTO, {"users": ("a", "b"), "admin": "c"}),
            (Strategy.ALTERNATING_USERS, {"users": ("a", "b"), "admin": "c"}),
        ],
    )
    def test_needs_no_more_than_its_strategy_does(
        self, strategy: Strategy, keys: dict[str, Any]
    ) -> None:
        text = json.dumps({"version": 1, "secrets": {"s": {"strategy": strategy, **keys}}})
        everything: dict[str, Any] = {"users": None, "owner": None, "admin": None, **keys}

        secret = read(text).secrets["s"]

        assert secret == plan.SecretPlan(strategy, password=PasswordPolicy(), **everything)

    def test_takes_an_arn_as_admin_and_a_user_as_owner(self) -> None:
        arn = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:admin-AbCdEf"
        text = PAIR.replace("owner: orders", "owner: orders_a")

        secret = read(text.replace("prod/orders/db-admin", arn)).secrets["prod/orders/db"]

        assert (secret.owner, secret.admin) == ("orders_a", arn)

    def test_has_the_password_policy_that_it_says(self) -> None:
        text = SINGLE + '    password: {length: 20, charset: uri, exclude: "~", require: [digit]}\n'

        assert read(text).secrets["prod/reports/db"].password == PasswordPolicy(
            length=20, charset=Charset.URI, exclude="~", require=(CharacterClass.DIGIT,)
        )

    def test_may_require_no_class(self) -> None:
        text = SINGLE + "    password: {require: []}\n"

        assert read(text).secrets["prod/reports/db"].password.require == ()

    def test_of_a_value_without_a_target_says_what_to_make(self) -> None:
        secret = read(GENERATED).secrets["prod/a"]

        assert secret.strategy is Strategy.GENERATE
        assert secret.generate == Hmac()

    @pytest.mark.parametrize("name", [CLUSTER, INSTANCE, DOMAIN])
    def test_may_name_an_authority_for_a_single_user(self, name: str) -> None:
        secret = read(SINGLE + f"    authority: {name}\n").secrets["prod/reports/db"]

        assert secret.authority == name

    def test_may_limit_how_many_logins_fail(self) -> None:
        secret = read(SINGLE + "    failed_logins: 2\n").secrets["prod/reports/db"]

        assert secret.failed_logins == 2

    def test_finds_a_secret_by_its_name(self) -> None:
        found = read(PAIR).for_secret("prod/orders/db")

        assert found is not None
        assert found.owner == "orders"

    def test_has_nothing_for_a_secret_that_it_does_not_name(self) -> None:
        assert read(PAIR).for_secret("prod/orders") is None

    def test_may_name_no_secret_yet(self) -> None:
        assert read("version: 1\nsecrets: {}\n").secrets == {}

    def test_cannot_be_changed(self) -> None:
        read_plan = read(PAIR)

        with pytest.raises(FrozenInstanceError):
            read_plan.secrets = {}  # type: ignore[misc]
        with pytest.raises(TypeError):
            read_plan.secrets["x"] = read_plan.secrets["prod/orders/db"]  # type: ignore[index]


class TestYaml:
    @pytest.mark.parametrize("word", ["no", "on", "y", "2026-01-01", "0x1f", "1_000", "1e3", "040"])
    def test_that_only_old_readers_convert_is_text(self, word: str) -> None:
        assert (
            read(PAIR.replace("owner: orders", f"owner: {word}")).secrets["prod/orders/db"].owner
            == word
        )

    def test_may_begin_with_a_byte_order_mark(self) -> None:
        assert read("\ufeff" + SINGLE).secrets

    def test_may_have_windows_line_ends(self) -> None:
        assert read(SINGLE.replace("\n", "\r\n")) == read(SINGLE)

    def test_may_be_json(self) -> None:
        text = json.dumps({"version": 1, "secrets": {"a": {"strategy": "single-user"}}})

        assert read(text).for_secret("a") is not None

    def test_may_share_a_mapping_by_an_alias(self) -> None:
        text = """\
            version: 1
            secrets:
              a: {strategy: single-user, password: &strong {length: 64}}
              b: {strategy: single-user, password: *strong}
            """

        both = read(dedent(text)).secrets

        assert both["a"].password == both["b"].password == PasswordPolicy(length=64)

    def test_may_have_a_merge_sign_as_a_quoted_name(self) -> None:
        assert read(SINGLE.replace("prod/reports/db", '"<<"')).for_secret("<<") is not None

    def test_that_multiplies_itself_is_refused_at_once(self) -> None:
        """Thirty levels of ten aliases each: a reader that copies them never comes back."""
        lines = ["version: 1", "secrets:", "  a0: &a0 {strategy: single-user}"]
        lines += [f"  a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 31)]

        assert refusal("\n".join(lines))[0] == "keyturn.yaml: secrets.a1: is not a mapping"

    def test_that_holds_itself_is_refused(self) -> None:
        text = "version: 1\nsecrets: &all\n  a: *all\n"

        assert refusal(text)[0] == "keyturn.yaml: secrets.a.a: is not a key"

    @pytest.mark.parametrize("bracket", ["[", "{a: "])
    def test_that_is_nested_too_deeply_is_refused(self, bracket: str) -> None:
        fact, _ = refusal(bracket * 20_000)

        assert fact == "keyturn.yaml: is not usable YAML: it is nested too deeply"


def changed(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1
    return text.replace(old, new)


def of_pair(old: str, new: str) -> str:
    return changed(PAIR, old, new)


def with_password(policy: str) -> str:
    return PAIR + f"    password: {policy}\n"


USERS = "users: [orders_a, orders_b]"
AT = "secrets.prod/orders/db"
SINGLE_AT = "secrets.prod/reports/db"
ASK_PASSWORD = "Write a mapping, such as `password: {length: 40}`."
ASK_LENGTH = "Write a whole number without quotes, such as `length: 40`."
ASK_USERS = "List exactly two different login names, such as `users: [orders_a, orders_b]`."
ASK_OWNER = "Name the role that both users act as, such as `owner: orders`."
ASK_ADMIN = "Name another secret, the one with the admin's login, such as `admin: orders-admin`."
ASK_STRATEGY = (
    "Write `strategy:` with one of single-user, dual-password, alternating-users, auto, generate."
)
ASK_AUTHORITY = (
    "Write the ARN of the instance or cluster that has the login, such as"
    " `authority: arn:aws:rds:eu-west-1:111122223333:cluster:orders`; in Cloud SQL,"
    " `authority: projects/shop-42/instances/orders`."
)
ASK_LIMIT = (
    "Write a whole number, 2 or more, and fewer than lock the account, such as `failed_logins: 2`."
)
ASK_CHARSET = "Write one of default, uri, shell, pgpass, jdbc."
ASK_REQUIRE = "List any of lower, upper, digit, symbol, such as `require: [lower, digit]`."
ASK_SECRETS = "Write `secrets:` and under it the name of each secret with its settings."
ASK_VERSION = "Write `version: 1`; if the plan is for a newer keyturn, install that."
ASK_NAME = "Write the name that the secret has in its store."
ASK_START = "Write `version: 1` and `secrets:`; see docs/plan.md."
ASK_MEND = "Mend it there; indent with spaces, never tabs, and quote text with unusual characters."
ASK_HALF = "Write the character itself, or its one escape that begins with a capital U."
ASK_TAG = "Remove the tag; quote the text if it begins with an exclamation mark."
ASK_KEY = "Quote the key, if it is a name; else remove it."
PAIR_KEYS = (
    "strategy, password, deliver, refresh, users, owner, admin, retire, authority, failed_logins,"
    " http, generate"
)
EMPTY = "is empty"
NOT_MAP = "is not a mapping"
NO_SYMBOL = "`require` names symbol, of which `charset` and `exclude` leave no character"

# (what is wrong, text, message after the file's name, remedy)
BAD_YAML = [
    ("an empty file", "", EMPTY, ASK_START),
    ("comments only", "# later\n", EMPTY, ASK_START),
    ("an empty document", "---\n", EMPTY, ASK_START),
    ("only a byte order mark", "\ufeff", EMPTY, ASK_START),
    ("a list at the top", "- version: 1\n", NOT_MAP, ASK_START),
    ("text at the top", "version 1\n", NOT_MAP, ASK_START),
    (
        "a key given twice",
        PAIR + "    password: {}\n    " + USERS + "\n",
        "line 9: the key `users` is given twice, first on line 5",
        "Keep one of the two.",
    ),
    (
        "a secret given twice",
        SINGLE + "  prod/reports/db: {strategy: single-user}\n",
        "line 5: the key `prod/reports/db` is given twice, first on line 3",
        "Keep one of the two.",
    ),
    (
        "a key given twice, once in quotes",
        'version: 1\n"version": 1\n',
        "line 2: the key `version` is given twice, first on line 1",
        "Keep one of the two.",
    ),
    (
        "an account number as a key",
        "version: 1\nsecrets:\n  # an account\n  111122223333: {}\n",
        "line 4: a key is not text",
        ASK_KEY,
    ),
    ("true as a key", "true: 1\n", "line 1: a key is not text", ASK_KEY),
    ("nothing as a key", "? \n: 1\n", "line 1: a key is not text", ASK_KEY),
    ("a list as a key", "? [a]\n: 1\n", "line 1: a key is not text", ASK_KEY),
    (
        "a merge key",
        PAIR + "    <<: {password: {}}\n",
        "line 8: `<<` merges mappings, which a plan cannot do",
        "Write the keys out, or share the whole mapping by an alias.",
    ),
    (
        "a Python tag",
        "version: !!python/object/apply:os.system [id]\n",
        "line 1: has a YAML tag that a plan does not use",
        ASK_TAG,
    ),
    (
        "a tag that does not fit",
        "version: !!int one\n",
        "line 1: has a YAML tag that a plan does not use",
        ASK_TAG,
    ),
    (
        "a text tag on a mapping",
        "!!str {a: b}\n",
        "line 1: has a YAML tag that a plan does not use",
        ASK_TAG,
    ),
    (
        "an exclamation mark, meant as text",
        "version: !hunter2\n",
        "line 1: has a YAML tag that a plan does not use",
        ASK_TAG,
    ),
    (
        "a tab",
        "version: 1\nsecrets:\n\tprod/db: {}\n",
        "line 3, column 1: is not usable YAML: found character '\\t' that cannot start any token",
        ASK_MEND,
    ),
    (
        "an open bracket",
        "version: [1\n",
        "line 2, column 1: is not usable YAML: expected ',' or ']', but got '<stream end>'",
        ASK_MEND,
    ),
    (
        "an asterisk, meant as text",
        "version: *hunter2\n",
        "line 1, column 10: is not usable YAML: found undefined alias '...'",
        ASK_MEND,
    ),
    (
        "two documents",
        SINGLE + "---\n" + SINGLE,
        "line 5, column 1: is not usable YAML: but found another document",
        ASK_MEND,
    ),
    (
        "a control character",
        "version: 1\x00\n",
        "is not usable YAML: it holds a character that cannot be printed",
        ASK_MEND,
    ),
    (
        "an escape beyond Unicode",
        'version: "\\UFFFFFFFF"\n',
        "is not usable YAML: it holds a character that cannot be printed",
        ASK_MEND,
    ),
]

BAD_KEYS = [
    ("a later version", changed(SINGLE, "1", "2") + "new: 1\n", "version: is not 1", ASK_VERSION),
    ("a version in quotes", changed(SINGLE, "1", '"1"'), "version: is not 1", ASK_VERSION),
    ("no number as version", changed(SINGLE, " 1", ""), "version: is not 1", ASK_VERSION),
    (
        "true as version",
        changed(SINGLE, "1", "true"),
        "version: is true or false, not a whole number",
        ASK_VERSION,
    ),
    (
        "a fraction as version",
        changed(SINGLE, "1", "1.0"),
        "version: is a fraction, not a whole number",
        ASK_VERSION,
    ),
    ("no version", "secrets: {}\n", "has no `version`", ASK_VERSION),
    ("no secrets", "version: 1\n", "has no `secrets`", ASK_SECRETS),
    ("nothing under secrets", "version: 1\nsecrets:\n", "secrets: is empty", ASK_SECRETS),
    ("a list of secrets", "version: 1\nsecrets: [a]\n", f"secrets: {NOT_MAP}", ASK_SECRETS),
    ("a typo at the top", "verison: 1\n", "verison: is not a key", "Write `version`."),
    (
        "a key of a later format",
        SINGLE + "targets: {}\n",
        "targets: is not a key",
        "Remove it; the keys are version, secrets, defaults.",
    ),
    (
        "a typo under a secret",
        PAIR + "    pasword: {}\n",
        f"{AT}.pasword: is not a key",
        "Write `password`.",
    ),
    (
        "a key that does not exist yet",
        PAIR + "    consumers: []\n",
        f"{AT}.consumers: is not a key",
        f"Remove it; the keys are {PAIR_KEYS}.",
    ),
    (
        "a typo under a password",
        with_password("{lenght: 40}"),
        f"{AT}.password.lenght: is not a key",
        "Write `length`.",
    ),
    (
        "a key that cannot be printed",
        PAIR + '    "\\e[31m": 1\n',
        f"{AT}.'\\x1b[31m': is not a key",
        f"Remove it; the keys are {PAIR_KEYS}.",
    ),
    (
        "an endless key",
        PAIR + f"    ? {'x' * 5000}\n    : 1\n",
        f"{AT}.{'x' * 120}: is not a key",
        f"Remove it; the keys are {PAIR_KEYS}.",
    ),
    ("an empty secret", "version: 1\nsecrets: {a: }\n", "secrets.a: is empty", ASK_STRATEGY),
    ("a list as secret", "version: 1\nsecrets: {a: []}\n", f"secrets.a: {NOT_MAP}", ASK_STRATEGY),
    ("no strategy", "version: 1\nsecrets: {a: {}}\n", "secrets.a: has no `strategy`", ASK_STRATEGY),
    (
        "an unknown strategy",
        of_pair("alternating-users", "three-passwords"),
        f"{AT}.strategy: is no strategy",
        ASK_STRATEGY,
    ),
    (
        "a list as strategy",
        of_pair("alternating-users", "[single-user]"),
        f"{AT}.strategy: is no strategy",
        ASK_STRATEGY,
    ),
    (
        "an unnamed secret",
        changed(SINGLE, "prod/reports/db", '""'),
        "secrets.: is an empty name",
        ASK_NAME,
    ),
    (
        "a secret's name with a line break",
        changed(SINGLE, "prod/reports/db", '"a\\nb"'),
        "secrets.'a\\nb': is a name with a character that cannot be printed",
        ASK_NAME,
    ),
    (
        "half a surrogate pair in a name",
        changed(SINGLE, "prod/reports/db", '"a\\ud800"'),
        "line 3: has an escape for half a character",
        ASK_HALF,
    ),
]

BAD_PAIRS = [
    ("no users", of_pair(f"    {USERS}\n", ""), f"{AT}: has no `users`", ASK_USERS),
    (
        "no admin",
        of_pair("    admin: prod/orders/db-admin\n", ""),
        f"{AT}: has no `admin`",
        ASK_ADMIN,
    ),
    (
        "one user",
        of_pair(USERS, "users: [orders_a]"),
        f"{AT}.users: has not exactly two entries",
        ASK_USERS,
    ),
    (
        "three users",
        of_pair(USERS, "users: [a, b, c]"),
        f"{AT}.users: has not exactly two entries",
        ASK_USERS,
    ),
    (
        "the same user twice",
        of_pair(USERS, "users: [orders, orders]"),
        f"{AT}.users: names one login twice",
        ASK_USERS,
    ),
    (
        "users as text",
        of_pair(USERS, "users: orders_a, orders_b"),
        f"{AT}.users: is text, not a list",
        ASK_USERS,
    ),
    ("empty users", of_pair(USERS, "users:"), f"{AT}.users: is empty, not a list", ASK_USERS),
    (
        "a number as user",
        of_pair(USERS, "users: [a, 7]"),
        f"{AT}.users[1]: is a whole number, not text",
        ASK_USERS,
    ),
    (
        "an empty user",
        of_pair(USERS, 'users: [a, ""]'),
        f"{AT}.users: is an empty name",
        ASK_USERS,
    ),
    (
        "a user with a blank at the end",
        of_pair(USERS, 'users: ["a ", b]'),
        f"{AT}.users: is a name that begins or ends with a blank",
        ASK_USERS,
    ),
    (
        "a user with a NUL",
        of_pair(USERS, 'users: ["a\\0b", b]'),
        f"{AT}.users: is a name with a character that cannot be printed",
        ASK_USERS,
    ),
    (
        "an empty owner",
        of_pair("owner: orders", 'owner: ""'),
        f"{AT}.owner: is an empty name",
        ASK_OWNER,
    ),
    (
        "nothing as owner",
        of_pair("owner: orders", "owner:"),
        f"{AT}.owner: is empty, not text",
        ASK_OWNER,
    ),
    (
        "an empty admin",
        of_pair("prod/orders/db-admin", '""'),
        f"{AT}.admin: is an empty name",
        ASK_ADMIN,
    ),
    (
        "the secret as its own admin",
        of_pair("admin: prod/orders/db-admin", "admin: prod/orders/db"),
        f"{AT}.admin: is the secret itself",
        ASK_ADMIN,
    ),
    *(
        (
            f"{key} with a single user",
            SINGLE + f"    {key}: {value}\n",
            f"{SINGLE_AT}.{key}: is no key of single-user",
            f"Remove `{key}`, or choose one of {strategies}.",
        )
        for key, value, strategies in [
            ("users", "[a, b]", "alternating-users, auto"),
            ("owner", "a", "alternating-users, auto"),
            ("admin", "a", "dual-password, alternating-users, auto"),
        ]
    ),
    (
        "two users and one login with two passwords",
        of_pair("alternating-users", "dual-password"),
        f"{AT}.users: is no key of dual-password",
        "Remove `users`, or choose one of alternating-users, auto.",
    ),
    (
        "an auto pair that nobody sets",
        of_pair("alternating-users", "auto").replace("    admin: prod/orders/db-admin\n", ""),
        f"{AT}: has no `admin`, who sets the users",
        ASK_ADMIN,
    ),
    (
        "an auto owner of nobody",
        of_pair("alternating-users", "auto").replace(f"    {USERS}\n", ""),
        f"{AT}: has an `owner` and no `users`",
        ASK_USERS,
    ),
    *(
        (
            f"an authority that is {wrong}",
            SINGLE + f"    authority: {value}\n",
            f"{SINGLE_AT}.authority: {fact}",
            ASK_AUTHORITY,
        )
        for wrong, value, fact in [
            ("a name", "hunter2", "is no such ARN"),
            ("empty", '""', "is no such ARN"),
            ("nothing", "", "is empty, not text"),
            ("a list", f"[{CLUSTER}]", "is a list, not text"),
            ("of no account", "arn:aws:s3:::hunter2", "is no such ARN"),
            ("followed by more", f'"{CLUSTER}\\n"', "is no such ARN"),
            ("no instance", "projects/shop-42/databases/orders", "is no such instance"),
            ("an instance and more", f'"{INSTANCE}/hunter2"', "is no such instance"),
            ("another project's by dots", "projects/../instances/x/../o", "is no such instance"),
        ]
    ),
    (
        "an authority beside a pair",
        PAIR + f"    authority: {CLUSTER}\n",
        f"{AT}.authority: is no key of alternating-users",
        "Remove `authority`, or choose one of single-user.",
    ),
    *(
        (
            f"a limit that is {wrong}",
            SINGLE + f"    failed_logins: {value}\n",
            f"{SINGLE_AT}.failed_logins: {fact}",
            ASK_LIMIT,
        )
        for wrong, value, fact in [
            ("one", "1", "is too few"),
            ("negative", "-1", "is too few"),
            ("text", '"2"', "is text, not a whole number"),
            ("half", "2.5", "is a fraction, not a whole number"),
            ("true", "true", "is true or false, not a whole number"),
        ]
    ),
    (
        "a limit beside an authority",
        SINGLE + f"    failed_logins: 2\n    authority: {CLUSTER}\n",
        f"{SINGLE_AT}.failed_logins: limits nothing",
        "Remove `failed_logins`: an `authority` sets the password in any case.",
    ),
    (
        "a limit beside a pair",
        PAIR + "    failed_logins: 2\n",
        f"{AT}.failed_logins: is no key of alternating-users",
        "Remove `failed_logins`, or choose one of single-user, dual-password, auto.",
    ),
    (
        "a typo in an authority",
        SINGLE + f"    autority: {CLUSTER}\n",
        f"{SINGLE_AT}.autority: is not a key",
        "Write `authority`.",
    ),
]

BAD_PASSWORDS = [
    ("an empty password", with_password(""), f"{AT}.password: is empty", ASK_PASSWORD),
    (
        "a password in the plan",
        with_password("hunter2hunter2"),
        f"{AT}.password: {NOT_MAP}",
        ASK_PASSWORD,
    ),
    (
        "a length in quotes",
        with_password('{length: "40"}'),
        f"{AT}.password.length: is text, not a whole number",
        ASK_LENGTH,
    ),
    (
        "two halves of a character, as JSON writes it",
        with_password('{length: "\\ud800\\udc00"}'),
        "line 8: has an escape for half a character",
        ASK_HALF,
    ),
    (
        "a fraction as length",
        with_password("{length: 40.5}"),
        f"{AT}.password.length: is a fraction, not a whole number",
        ASK_LENGTH,
    ),
    (
        "true as length",
        with_password("{length: true}"),
        f"{AT}.password.length: is true or false, not a whole number",
        ASK_LENGTH,
    ),
    (
        "a length with a leading zero",
        with_password("{length: 040}"),
        f"{AT}.password.length: is text, not a whole number",
        ASK_LENGTH,
    ),
    (
        "an endless number",
        with_password(f"{{length: {'9' * 5000}}}"),
        f"{AT}.password.length: is text, not a whole number",
        ASK_LENGTH,
    ),
    (
        "an unknown charset",
        with_password("{charset: hunter2}"),
        f"{AT}.password.charset: is none of the values known here",
        ASK_CHARSET,
    ),
    (
        "an unknown class",
        with_password("{require: [digit, hunter2]}"),
        f"{AT}.password.require[1]: is none of the values known here",
        ASK_REQUIRE,
    ),
    (
        "a class that is no list",
        with_password("{require: digit}"),
        f"{AT}.password.require: is text, not a list",
        ASK_REQUIRE,
    ),
    (
        "a list of excluded characters",
        with_password("{exclude: [a]}"),
        f"{AT}.password.exclude: is a list, not text",
        "Write the characters as one text in quotes.",
    ),
    (
        "a mapping as length",
        with_password("{length: {}}"),
        f"{AT}.password.length: is a mapping, not a whole number",
        ASK_LENGTH,
    ),
    (
        "a length over the limit",
        with_password("{length: 129}"),
        f"{AT}.password: `length` is not within 1 to 128",
        "Set `length` within 1 to 128.",
    ),
    (
        "a weak policy",
        with_password("{length: 10}"),
        f"{AT}.password: 59 bits of entropy, fewer than 80",
        "Set `length` to 14 or more.",
    ),
    (
        "an impossible policy",
        with_password('{exclude: "-_.~+=^*"}'),
        f"{AT}.password: {NO_SYMBOL}",
        "Remove symbol from `require`, or exclude fewer characters.",
    ),
]

GENERATED = "version: 1\nsecrets:\n  prod/a:\n    strategy: generate\n    generate: {kind: hmac}\n"
MADE_AT = "secrets.prod/a.generate"
ASK_GENERATE = "Write a mapping, such as `generate: {kind: hmac}`."


def of_generated(new: str) -> str:
    return changed(GENERATED, "{kind: hmac}", new)


BAD_GENERATED = [
    (
        "nothing to generate",
        changed(GENERATED, "    generate: {kind: hmac}\n", ""),
        "secrets.prod/a: has no `generate`",
        ASK_GENERATE,
    ),
    ("an empty mapping", of_generated(""), f"{MADE_AT}: is empty", kinds.FIXES["kind"]),
    ("no kind", of_generated("{bytes: 32}"), f"{MADE_AT}: has no `kind`", kinds.FIXES["kind"]),
    (
        "a kind that is none",
        of_generated("{kind: hmca}"),
        f"{MADE_AT}.kind: is no kind of value",
        f"Write one of {', '.join(kinds.KINDS)}.",
    ),
    (
        "a token that is too short",
        of_generated("{kind: hex, bytes: 9}"),
        f"{MADE_AT}: 72 bits of entropy, fewer than 80",
        "Set `bytes` to 10 or more.",
    ),
    (
        "an option of another kind",
        of_generated("{kind: hmac, words: 9}"),
        f"{MADE_AT}.words: is not a key",
        "Remove it; the keys are kind, bytes.",
    ),
    (
        "a field that is too short",
        of_generated("{kind: fields, fields: {a: {kind: hex, bytes: 9}}}"),
        f"{MADE_AT}.fields.a: 72 bits of entropy, fewer than 80",
        "Set `bytes` to 10 or more.",
    ),
    (
        "a password policy, where nobody logs in",
        GENERATED + "    password: {length: 40}\n",
        "secrets.prod/a.password: is no key of generate",
        "Remove `password`, or choose one of single-user, dual-password, alternating-users, auto.",
    ),
    (
        "something to generate, where somebody logs in",
        SINGLE + "    generate: {kind: hmac}\n",
        f"{SINGLE_AT}.generate: is no key of single-user",
        "Remove `generate`, or choose one of generate.",
    ),
]

BAD_FOLLOWED = [
    (
        "a bucket without a name",
        PAIR + "    deliver: [{s3: {key: orders/db, kms_key: alias/secrets}}]\n",
        f"{AT}.deliver[0].s3: has no `bucket`",
        "Name the bucket.",
    ),
    (
        "seconds",
        PAIR + "    retire: {when: verified, grace: 30s}\n",
        f"{AT}.retire.grace: is no such duration",
        "Write a whole number and a unit, such as `grace: 1h`.",
    ),
]

HTTP = """\
version: 1
secrets:
  prod/a:
    strategy: auto
    http:
      hosts: [api.example.com]
      create:
        request: POST https://api.example.com/keys
        json: {name: "{name}", scopes: [read]}
        id: /id
        secret: /key
      list:
        request: GET https://api.example.com/keys
        items: ""
        id: /id
        name: /name
      verify:
        request: GET https://api.example.com/me
        headers: {Authorization: "Bearer {secret}"}
      delete:
        request: DELETE https://api.example.com/keys/{id}
"""
HTTP_AT = "secrets.prod/a.http"
ASK_REQUEST = "Write a method and a URL, such as `request: GET https://api.example.com/v1/keys`."
ASK_HOSTS = "List the hosts of the URLs, such as `hosts: [api.example.com]`."
ASK_PROOF = (
    "Send {name} in `create` and point to it by `name`; where keys have no names, point to"
    " `created` and `last_used`; where they have neither, leave `list` out."
)
ASK_HEADERS = 'Write a mapping, such as `headers: {Authorization: "Bearer {admin_secret}"}`.'


def _http(old: str, new: str) -> str:
    assert HTTP.count(old) == 1, old
    return HTTP.replace(old, new)


KEYS_URL = "GET https://api.example.com/keys"
ME = "GET https://api.example.com/me"
BAD_HTTP = [
    ("no hosts", _http("[api.example.com]", "[]"), f"{HTTP_AT}.hosts: is empty", ASK_HOSTS),
    (
        "a URL as a host",
        _http("[api.example.com]", '["https://api.example.com"]'),
        f"{HTTP_AT}.hosts: has an entry that is no host",
        ASK_HOSTS,
    ),
    *(
        (
            f"a request {what}",
            _http(KEYS_URL, url),
            f"{HTTP_AT}.list.request: is for a host not listed",
            ASK_REQUEST,
        )
        for what, url in {
            "to another host": "GET https://hunter2.example.com/keys",
            "to a host below": "GET https://x.api.example.com/keys",
            "to another port": "GET https://api.example.com:8443/keys",
            "to an address": "GET https://169.254.169.254/keys",
        }.items()
    ),
    *(
        (
            f"a request {what}",
            _http(KEYS_URL, url),
            f"{HTTP_AT}.list.request: is no method and URL",
            ASK_REQUEST,
        )
        for what, url in {
            "without a method": "https://api.example.com/keys",
            "with a login": "GET https://hunter2@api.example.com/keys",
            "with a placeholder as host": "'GET https://{id}/keys'",
            "of another scheme": "GET ftp://api.example.com/keys",
            "with a fragment": "'GET https://api.example.com/keys#a'",
            "with a blank": "GET https://api.example.com/ke ys",
            "with capitals": "GET https://API.example.com/keys",
            "with a method unheard of": "TRACE https://api.example.com/keys",
        }.items()
    ),
    (
        "an unknown placeholder",
        _http("/keys/{id}", "/keys/{hunter2}"),
        f"{HTTP_AT}.delete: has the placeholder {{...}}",
        "Use {admin_basic}, {admin_id}, {admin_secret}, {id} only.",
    ),
    (
        "the key's secret in a list",
        _http(KEYS_URL, KEYS_URL + "?key={secret}"),
        f"{HTTP_AT}.list: has the placeholder {{secret}}",
        "Use {admin_basic}, {admin_id}, {admin_secret} only.",
    ),
    (
        "the admin's secret where a key is used",
        _http("Bearer {secret}", "Bearer {secret}{admin_secret}"),
        f"{HTTP_AT}.verify: has the placeholder {{admin_secret}}",
        "Use {basic}, {id}, {secret} only.",
    ),
    (
        "a use that sends no secret",
        _http("Bearer {secret}", "Bearer {id}"),
        f"{HTTP_AT}.verify.request: sends no secret",
        "Write a method and a URL, such as `request: GET https://api.example.com/v1/keys`.",
    ),
    (
        "a deletion of whatever",
        _http("/keys/{id}", "/keys/all"),
        f"{HTTP_AT}.delete.request: does not say which: no {{id}}",
        ASK_REQUEST,
    ),
    (
        "a pointer that is none",
        _http("secret: /key", "secret: hunter2"),
        f"{HTTP_AT}.create.secret: is no JSON pointer",
        "Point to what is shown once, such as `secret: /token`.",
    ),
    (
        "a status that is an answer to nothing",
        _http(ME, ME + "\n        accepted: [302]"),
        f"{HTTP_AT}.verify.accepted: has a number that is no status of an answer",
        "List HTTP statuses, such as `accepted: [200]`.",
    ),
    (
        "a status that is yes and no",
        _http(ME, ME + "\n        refused: [200]"),
        f"{HTTP_AT}.verify.refused: has a status that `accepted` has",
        "List HTTP statuses, such as `refused: [401]`.",
    ),
    (
        "a refusal that is none",
        _http(ME, ME + "\n        refused: []"),
        f"{HTTP_AT}.verify.refused: is empty",
        "List HTTP statuses, such as `refused: [401]`.",
    ),
    (
        "a header that ends a request elsewhere",
        _http("Authorization", "Transfer-Encoding"),
        f"{HTTP_AT}.verify.headers: has a name that a header cannot have here",
        "Remove that header.",
    ),
    (
        "a header of two lines",
        _http('"Bearer {secret}"', '"Bearer {secret}\\r\\nX: hunter2"'),
        f"{HTTP_AT}.verify.headers: has a text that is not printable ASCII",
        ASK_HEADERS,
    ),
    (
        "a list that proves nothing",
        _http("        name: /name\n", ""),
        f"{HTTP_AT}.list: does not show which keys are ours",
        ASK_PROOF,
    ),
    (
        "a list with times and no last use",
        _http("name: /name\n", "created: /created\n"),
        f"{HTTP_AT}.list: does not show which keys are ours",
        ASK_PROOF,
    ),
    (
        "names that nobody gives",
        _http("{name}", "orders"),
        f"{HTTP_AT}.list: does not show which keys are ours",
        ASK_PROOF,
    ),
    (
        "an idempotency key without its promise",
        _http("{name}", "{rotation}"),
        f"{HTTP_AT}.create.repeatable: goes together with the placeholder {{rotation}}",
        "Send {rotation} where the API takes an idempotency key, or leave both out.",
    ),
    (
        "a name that changes under an idempotency key",
        _http("[read]}", '["{rotation}"]}\n        repeatable: true'),
        f"{HTTP_AT}.create: has both {{name}} and {{rotation}}",
        "Leave one out: a name is another one in each try, a repeated request the same.",
    ),
    (
        "a lifetime that is not sent",
        _http("secret: /key", "secret: /key\n        lifetime_days: 90"),
        f"{HTTP_AT}.create.lifetime_days: goes together with the placeholder {{expires_on}}",
        "Send {expires_on} where the API wants a date, or leave both out.",
    ),
    (
        "two bodies",
        _http("[read]}", '[read]}\n        form: {a: "b"}'),
        f"{HTTP_AT}.create.form: stands beside `json`",
        "Leave one of them out.",
    ),
    (
        "a body that has no end",
        _http('{name: "{name}", scopes: [read]}', '&a {name: "{name}", more: *a}'),
        f"{HTTP_AT}.create.json: is nested too deeply",
        "Write the body as it is sent, or leave `json` out.",
    ),
    (
        "room for one key",
        _http("hosts:", "limit: 1\n      hosts:"),
        f"{HTTP_AT}.limit: is too small or too large",
        "Write a whole number from 2 to 1000000, or leave `limit` out.",
    ),
    (
        "a header that is a number",
        _http('"Bearer {secret}"', "2"),
        f"{HTTP_AT}.verify.headers[...]: is a whole number, not text",
        ASK_HEADERS,
    ),
    (
        "an unknown key of a request",
        _http(ME, ME + "\n        acepted: [200]"),
        f"{HTTP_AT}.verify.acepted: is not a key",
        "Write `accepted`.",
    ),
    (
        "users beside an API",
        HTTP.replace("    http:", "    users: [a, b]\n    admin: c\n    http:"),
        "secrets.prod/a.users: stands beside `http`",
        "Leave one of them out.",
    ),
    (
        "an API where somebody logs in",
        HTTP.replace("auto", "single-user"),
        f"{HTTP_AT}: is no key of single-user",
        "Remove `http`, or choose one of auto.",
    ),
]

BAD_FOLLOWED.append(
    (
        "an end for keys that have none",
        HTTP + "    retire: {when: verified}\n",
        "secrets.prod/a.retire: is for keys that can only be deleted",
        "Write `deactivate` under `http`, or remove `retire`: the next rotation deletes them.",
    )
)

BAD = [
    pytest.param(text, f"keyturn.yaml: {fact}", remedy, id=wrong)
    for wrong, text, fact, remedy in chain(
        *(BAD_YAML, BAD_KEYS, BAD_PAIRS, BAD_PASSWORDS, BAD_GENERATED, BAD_HTTP, BAD_FOLLOWED)
    )
]


UNHURRIED = settings(deadline=None)
"""What counts is the answer; a busy machine is no failure."""

# fmt: off
KEYS = ["version", "secrets", "strategy", "users", "owner", "admin", "password", "length"]
PIECES = [
    *KEYS, *":-?[]{},&*!|>'\"%@#~ \t\n\ufeff\x85\u2028", "a", "1", "<<", "true", "single-user",
    "!!int ", "!!str ", "\\", "\\x", "\\U", "---", "...", "  ", ": ", "\n  ", "&a ", "*a ",
]
# fmt: on


def test_an_api_is_read_as_it_is_declared() -> None:
    api = read(HTTP).secrets["prod/a"].http

    assert api is not None
    assert api.trace is Trace.NAME
    assert api.hosts == {"api.example.com"}
    assert str(api.delete.request) == "DELETE https://api.example.com/keys/{id}"
    assert api.delete.gone == {404, 410}
    assert api.create.request.json == {"name": "{name}", "scopes": ["read"]}


def test_headers_of_all_requests_are_not_for_the_use_of_a_key() -> None:
    """The admin's credential goes with the admin's requests only."""
    common = 'headers: {X-Admin: "{admin_secret}"}\n      hosts:'
    api = read(_http("hosts:", common)).secrets["prod/a"].http

    assert api is not None
    assert api.delete.request.headers == {"X-Admin": "{admin_secret}"}
    assert api.verify.request.headers == {"Authorization": "Bearer {secret}"}


class TestARefusal:
    @pytest.mark.parametrize("text,message,remedy", BAD)
    def test_names_the_file_the_place_and_the_fix(
        self, text: str, message: str, remedy: str
    ) -> None:
        assert refusal(text) == (message, remedy)

    @pytest.mark.parametrize("text,message,remedy", BAD)
    def test_quotes_no_value_and_drags_no_cause_along(
        self, text: str, message: str, remedy: str
    ) -> None:
        del message, remedy
        with pytest.raises(Misconfigured) as caught:
            read(text)

        assert "hunter2" not in str(caught.value) + caught.value.remedy
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None

    @UNHURRIED
    @given(st.text())
    @example("%YAML " + "1" * 5000 + ".1\n---\n")
    @example('"\\U00110000"')
    @example("a: &a [*a]")
    @example("? ")
    def test_is_all_that_arbitrary_text_meets(self, text: str) -> None:
        assert meets_only_refusal(text)

    @UNHURRIED
    @given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
    def test_is_all_that_almost_yaml_meets(self, text: str) -> None:
        assert meets_only_refusal(text)

    @UNHURRIED
    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.text(max_size=3) | st.sampled_from(KEYS),
                    inner,
                    max_size=4,
                )
            ),
            max_leaves=12,
        )
    )
    def test_is_all_that_any_tree_meets(self, tree: object) -> None:
        assert meets_only_refusal(json.dumps({"version": 1, "secrets": {"a": tree}}))
        assert meets_only_refusal(json.dumps(tree))

    @UNHURRIED
    @given(
        st.fixed_dictionaries(
            {"strategy": st.sampled_from(Strategy)},
            optional={
                "users": st.lists(st.text(max_size=3) | st.none(), max_size=3),
                "owner": st.text(max_size=3) | st.integers(),
                "admin": st.text(max_size=3),
                "authority": st.text(max_size=3) | st.sampled_from([CLUSTER, INSTANCE]),
                "generate": st.fixed_dictionaries(
                    {"kind": st.sampled_from([*kinds.KINDS, "other"])},
                    optional={key: SCALARS for key in kinds.FIXES if key != "kind"},
                ),
                "password": st.fixed_dictionaries(
                    {},
                    optional={
                        "length": st.integers(-5, 200) | st.text(max_size=2),
                        "charset": st.sampled_from([*Charset, "other"]),
                        "exclude": st.text(),
                        "require": st.lists(st.sampled_from([*CharacterClass, "other"])),
                    },
                ),
            },
        )
    )
    def test_is_all_that_almost_right_settings_meet(self, entry: dict[str, object]) -> None:
        assert meets_only_refusal(json.dumps({"version": 1, "secrets": {"a": entry}}))


def meets_only_refusal(text: str) -> bool:
    try:
        read(text)
    except Misconfigured as refused:
        message = str(refused)
        whole = message.startswith("keyturn.yaml: ") and refused.remedy.endswith(".")
        return whole and message.isprintable()
    return True


class TestAFile:
    def test_is_read_as_utf_8(self, tmp_path: Path) -> None:
        path = tmp_path / "keyturn.yaml"
        path.write_text(SINGLE.replace("prod", "pröd"), encoding="utf-8")

        assert plan.load(path, plan_kinds()).for_secret("pröd/reports/db") is not None

    def test_is_named_in_a_refusal(self, tmp_path: Path) -> None:
        path = tmp_path / "other.yml"
        path.write_text("secrets: {}\n", encoding="utf-8")

        with pytest.raises(Misconfigured, match=rf"^{re.escape(str(path))}: has no `version`$"):
            plan.load(path, plan_kinds())

    def test_that_is_absent_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(Misconfigured, match=r"keyturn\.yaml: cannot be read: No such file"):
            plan.load(tmp_path / "keyturn.yaml", plan_kinds())

    def test_that_is_a_folder_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(Misconfigured, match=r"cannot be read: Is a directory"):
            plan.load(tmp_path, plan_kinds())

    def test_in_another_encoding_is_refused_without_its_text(self, tmp_path: Path) -> None:
        path = tmp_path / "keyturn.yaml"
        path.write_text(SINGLE, encoding="utf-16")

        with pytest.raises(Misconfigured, match="is not UTF-8 text") as caught:
            plan.load(path, plan_kinds())

        assert caught.value.__context__ is None


class TestTheGuide:
    def test_has_an_example_that_is_read(self) -> None:
        text, followed = re.findall(r"^```yaml\n(.*?)^```$", GUIDE, flags=re.DOTALL | re.MULTILINE)

        secrets = read(text).secrets

        assert [secret.is_followed for secret in read(followed).secrets.values()] == [True]

        assert [secret.strategy for secret in secrets.values()] == [
            Strategy.ALTERNATING_USERS,
            Strategy.SINGLE_USER,
        ]
        assert secrets["prod/orders/db"].password.exclude == "~"

    def test_describes_every_key(self) -> None:
        described = set(re.findall(r"^\| `([a-z0-9_-]+)` \|", GUIDE, flags=re.MULTILINE))
        shapes: tuple[type[Shape], ...] = (
            *(plan.PlanShape, plan.AlternatingUsersShape),
            *(plan.SingleUserShape, plan.PasswordShape, plan.GenerateShape, plan.DualPasswordShape),
            *(plan.DefaultsShape, RefreshShape, RetireShape, ClusterShape),
            *plan_kinds().destinations.values(),
            *plan_kinds().consumers.values(),
        )
        named = set(chain.from_iterable(keys(shape) for shape in shapes))

        assert named | {"strategy", *plan_kinds().fixes} <= described

    def test_shows_the_symbols_of_every_charset(self) -> None:
        rows = re.findall(r"^\| `([a-z]+)` \| `(- [^`]+)` \|", GUIDE, flags=re.MULTILINE)

        assert {name: set(symbols.split()) for name, symbols in rows} == {
            charset.value: {c for c in PasswordPolicy(charset=charset).alphabet if not c.isalnum()}
            for charset in Charset
        }

    def test_shows_messages_that_exist(self) -> None:
        shown = re.findall(r"^\| ``? ?(keyturn\.yaml: .*?) ?``? \|", GUIDE, flags=re.MULTILINE)
        real = {str(row.values[1]) for row in BAD}

        assert len(shown) > 10
        for message in shown:
            stem = message.removesuffix("...")
            assert any(text.startswith(stem) for text in real), message


class TestTheSchema:
    def test_is_the_one_in_the_docs(self) -> None:
        stored = (DOCS / "keyturn.schema.json").read_text(encoding="utf-8")

        assert stored == json.dumps(schema(), indent=2) + "\n", f"renew it: {RENEW}"

    def test_is_renewed_by_the_command_that_its_test_names(self) -> None:
        python, _, code = RENEW.partition(" -c ")
        program = code.partition('"')[2].partition('"')[0]
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONPATH": str(DOCS.parent / "functions")},
        )

        assert python == "python"
        assert done.stdout == json.dumps(schema(), indent=2) + "\n"

    def test_describes_every_key_for_editors(self) -> None:
        for shape in definitions().values():
            for key, member in shape.get("properties", {}).items():
                assert key in {"strategy", "kind"} or member.get("description"), key

    def test_allows_no_unknown_key(self) -> None:
        for name, shape in definitions().items():
            if shape.get("type") == "object":
                assert shape["additionalProperties"] is False, name

    def test_demands_what_a_pair_needs(self) -> None:
        pair, single = definitions()["AlternatingUsersShape"], definitions()["SingleUserShape"]

        assert set(pair["required"]) == {"strategy", "users", "admin"}
        assert set(single["properties"]) == {
            *("strategy", "password", "authority", "failed_logins", "deliver", "refresh"),
        }

    def test_has_the_password_defaults_of_the_policy(self) -> None:
        properties = definitions()["PasswordShape"]["properties"]
        policy = PasswordPolicy()

        assert {name: member["default"] for name, member in properties.items()} == {
            "length": policy.length,
            "charset": policy.charset,
            "exclude": policy.exclude,
            "require": list(policy.require),
        }
        assert properties["length"]["maximum"] == generate.LONGEST

    def test_has_the_keys_of_the_policy_and_no_other(self) -> None:
        assert list(plan.PasswordShape.__struct_fields__) == [
            field.name for field in fields(PasswordPolicy)
        ]


def schema() -> Mapping[str, Any]:
    found: Mapping[str, Any] = plan.schema(plan_kinds())
    return found


def definitions() -> Mapping[str, Mapping[str, Any]]:
    found: Mapping[str, Mapping[str, Any]] = json.loads(json.dumps(plan.schema(plan_kinds())))[
        "$defs"
    ]
    return found


# ---------------------------------------------------------------------------- what follows

FOLLOWED = """\
version: 1
defaults: {alerts: ["sns:arn:aws:sns:eu-west-1:111122223333:secrets", "eventbridge:default"]}
secrets:
  prod/orders/db:
    strategy: dual-password
    deliver:
      - s3: {bucket: copies, key: orders/db, kms_key: alias/secrets}
      - ssm: {name: /orders, kms_key: alias/secrets, tier: advanced, form: value, member: password}
    retire: {when: verified, grace: 30m, deadline: 2d, at_deadline: force}
"""


class TestWhatFollows:
    def test_is_read(self) -> None:
        found = read(FOLLOWED)

        secret = found.secrets["prod/orders/db"]
        assert found.alerts == (
            "sns:arn:aws:sns:eu-west-1:111122223333:secrets",
            "eventbridge:default",
        )
        s3, ssm = secret.deliver
        assert (s3.kind, s3.settings.rendering()) == ("s3", Rendering())
        assert s3.settings.place() == ("copies", "orders/db")
        assert (ssm.kind, ssm.settings.rendering()) == ("ssm", Rendering(Form.VALUE, "password"))
        assert getattr(ssm.settings, "tier") == "advanced"  # noqa: B009  # each kind has its own
        assert secret.retirement == Retirement(
            When.VERIFIED, timedelta(minutes=30), timedelta(days=2), AtDeadline.FORCE
        )
        assert secret.is_followed

    def test_is_nothing_unless_it_is_said(self) -> None:
        """No copy, and no old credential dies."""
        secret = read(SINGLE).secrets["prod/reports/db"]

        assert (secret.deliver, secret.retirement.when) == ((), When.NEVER)
        assert not secret.is_followed

    def test_a_generated_value_is_delivered_too(self) -> None:
        text = """
            version: 1
            secrets:
              s:
                strategy: generate
                generate: {kind: hmac}
                deliver: [{ssm: {name: /s, kms_key: alias/s}}]
        """

        [copy] = read(dedent(text)).secrets["s"].deliver

        assert (copy.kind, copy.settings.place()) == ("ssm", ("/s",))
        assert copy.settings.rendering() == Rendering()

    @pytest.mark.parametrize(
        "old, new, place, fact",
        [
            ("alerts:", "alert:", "defaults.alert", "is not a key"),
            ("eventbridge:default", "mail:me@example.com", "defaults.alerts", "no such address"),
            ("sns:arn:aws:sns:", "sns:arn:aws:sqs:", "defaults.alerts", "no such address"),
            ("- s3:", "- s4:", "deliver[0].s4", "is not a key"),
            ("- s3:", "- ssm: {}\n        s3:", "deliver[0]", "is not exactly one destination"),
            ("{bucket: copies, ", "{", "deliver[0].s3", "has no `bucket`"),
            ("bucket: copies", "bucket: 7", "deliver[0].s3.bucket", "a whole number, not text"),
            ("bucket: copies", "bucket: ''", "deliver[0].s3.bucket", "is empty"),
            ("tier: advanced", "tier: huge", "deliver[1].ssm.tier", "none of the values"),
            ("form: value", "form: xml", "deliver[1].ssm.form", "none of the values"),
            (", member: password", "", "deliver[1].ssm.member", "is missing"),
            ("form: value, ", "", "deliver[1].ssm.member", "goes with `form: value` only"),
            ("member: pass", "prefix: A_, member: pass", "deliver[1].ssm.prefix", "dotenv` only"),
            ("{when: verified, ", "{", "retire", "has no `when`"),
            ("when: verified", "when: soon", "retire.when", "none of the values"),
            ("grace: 30m", "grace: 30", "retire.grace", "a whole number, not text"),
            ("grace: 30m", "grace: 30s", "retire.grace", "is no such duration"),
            ("grace: 30m", "grace: 0m", "retire.grace", "is no such duration"),
            ("deadline: 2d", "deadline: 30m", "retire.deadline", "is not longer than `grace`"),
            ("dual-password", "single-user", "retire", "is no key of single-user"),
        ],
    )
    def test_is_refused_at_its_place(self, old: str, new: str, place: str, fact: str) -> None:
        assert old in FOLLOWED

        message, remedy = refusal(FOLLOWED.replace(old, new, 1))

        assert place in message
        assert fact in message
        assert remedy

    def test_one_place_is_named_once(self) -> None:
        """Two rotations of a plan's line would overwrite each other's form."""
        twice = FOLLOWED.replace(
            "- ssm", "- s3: {bucket: copies, key: orders/db, kms_key: b}\n      - ssm"
        )

        assert "names one place twice" in refusal(twice)[0]


CLUSTERS = """\
version: 1
defaults: {cluster: {eks: prod, region: eu-west-1}}
secrets:
  a: {strategy: single-user, refresh: {consumers: []}}
  b:
    strategy: single-user
    refresh: {cluster: {gke: projects/p/locations/l/clusters/c}, consumers: []}
"""


class TestClusters:
    def test_one_is_meant_by_all_or_by_a_secret(self) -> None:
        found = read(CLUSTERS)

        assert found.cluster == ClusterShape(eks="prod", region="eu-west-1")
        assert found.secrets["a"].cluster is None
        assert found.secrets["b"].cluster == ClusterShape(gke="projects/p/locations/l/clusters/c")

    @pytest.mark.parametrize(
        "old,new,place,fact",
        [
            ("eks: prod, ", "", "defaults.cluster", "is not exactly one of eks, gke and server"),
            ("eks: prod", "eks: prod, server: 'https://k'", "defaults.cluster", "exactly one"),
            ("{eks: prod, region: eu-west-1}", "prod", "defaults.cluster", "is not a mapping"),
            ("region:", "regoin:", "defaults.cluster.regoin", "is not a key"),
            ("eks: prod", "eks: ''", "defaults.cluster.eks", "is empty"),
            ("gke: projects/p", "gke: p", "secrets.b.refresh.cluster.gke", "is not written as"),
            (
                "gke: projects/p/locations/l/clusters/c",
                "server: k",
                "secrets.b.refresh.cluster.server",
                "is not written as",
            ),
            ("{consumers: []}}\n  b", "{}}\n  b", "secrets.a.refresh", "has no `consumers`"),
            ("consumers: []}}\n  b", "consumers: 7}}\n  b", "a.refresh.consumers", "not a list"),
        ],
    )
    def test_is_refused_at_its_place(self, old: str, new: str, place: str, fact: str) -> None:
        said, remedy = refusal(CLUSTERS.replace(old, new, 1))

        assert place in said
        assert fact in said
        assert remedy
