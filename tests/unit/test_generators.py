"""Every kind of generated value: well formed for those who read it, strong, and its past kept.

No assertion here compares a value directly: pytest would print it.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import math
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from conftest import need
from keyturn.errors import Misconfigured, Unsupported
from keyturn.generators import kinds
from keyturn.generators.fingerprint import fingerprint
from keyturn.generators.key_pairs import Algorithm, KeyFormat
from keyturn.generators.policy import NOTHING, Policy
from keyturn.generators.text import LIST_SIZE, words
from keyturn.model import Sensitive
from keyturn.shapes import Place

CANARY = "Canary7-" + "generators"

REQUIRED: dict[str, dict[str, Any]] = {
    "totp": {"issuer": "Example", "account": "deploy"},
    "csr": {"common_name": "api.example.com"},
    "htpasswd": {"user": "deploy", "cost": 10},
    "fields": {"fields": {"csrf": {"kind": "hex"}, "session": {"kind": "hmac"}}},
}
"""What a kind cannot do without; and what makes it quick."""

TEXTS = ("password", "passphrase", "hex", "base64url", "uuid")
OBJECTS = tuple(kind for kind in kinds.KINDS if kind not in TEXTS)


def policy(kind: str, **options: Any) -> Policy:
    if kind == "htpasswd":
        need_bcrypt()
    return kinds.read({"kind": kind, **REQUIRED.get(kind, {}), **options}, Place("here"))


def need_bcrypt() -> None:
    found = importlib.util.find_spec("bcrypt") is not None
    need(present=found, what="bcrypt", install="pip install keyturn[generate]")


def need_program(name: str) -> str:
    path = shutil.which(name)
    need(present=path is not None, what=name, install=f"apt install {name}")
    return path or name


def made(kind: str, **options: Any) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(policy(kind, **options).following(NOTHING).reveal())
    return tree


class TestEveryKind:
    @pytest.mark.parametrize("kind", kinds.KINDS)
    def test_is_well_formed_also_after_a_rotation(self, kind: str) -> None:
        maker = policy(kind)

        first = maker.following(NOTHING)
        second = maker.following(first)

        assert maker.is_whole(first)
        assert maker.is_whole(second)
        assert maker.follows(second, first)
        assert first != second

    @pytest.mark.parametrize("kind", kinds.KINDS)
    @pytest.mark.parametrize("text", ["", "{}", "[]", "placeholder", '{"current": 1, "a": null}'])
    def test_sees_that_something_else_is_not_well_formed(self, kind: str, text: str) -> None:
        assert not policy(kind).is_whole(Sensitive(text))

    @pytest.mark.parametrize("kind", kinds.KINDS)
    def test_has_at_least_eighty_bits(self, kind: str) -> None:
        assert policy(kind).entropy_bits >= 80

    @pytest.mark.parametrize("kind", OBJECTS)
    def test_leaves_other_members_as_they_were_to_the_byte(self, kind: str) -> None:
        """Numbers, order, spacing and escapes of what is not ours."""
        before = '{ "rate" : 1.0E2,\n\t"note": "\\u00e9", "list":[1 ,2] }'

        after = policy(kind).following(Sensitive(before)).reveal()

        kept = after.startswith(before[:-2])
        assert kept
        assert after.endswith(" }")

    @pytest.mark.parametrize("kind", TEXTS)
    def test_of_one_text_may_be_a_member_among_others(self, kind: str) -> None:
        before = '{"api_key": "placeholder", "url": "https://example.com"}'
        maker = policy(kind, member="api_key")

        after = maker.following(Sensitive(before))

        assert maker.is_whole(after)
        tree = json.loads(after.reveal())
        assert tree["url"] == "https://example.com"
        assert list(tree) == ["api_key", "url"]

    @pytest.mark.parametrize("kind", OBJECTS)
    @pytest.mark.parametrize("text", ["placeholder", "[1]", '{"a": 1, "a": 2}', ""])
    def test_of_several_members_needs_an_object_to_put_them_into(
        self, kind: str, text: str
    ) -> None:
        with pytest.raises(Misconfigured, match="the secret: the value") as caught:
            policy(kind).following(Sensitive(text))

        assert "{}" in caught.value.remedy
        assert caught.value.__context__ is None


class TestEntropy:
    """Stated is counted: the values that are equally likely, in bits."""

    def test_of_a_passphrase_is_that_of_its_words(self) -> None:
        assert len(set(words())) == len(words()) == LIST_SIZE == 7776
        assert policy("passphrase", words=8).entropy_bits == 8 * math.log2(len(words()))

    def test_of_a_passphrase_is_not_less_because_two_read_alike(self) -> None:
        """A word with a hyphen is two words to whoever joins by hyphens."""
        separators = {".", "_", " "}

        assert not [word for word in words() if set(word) & separators]
        assert [word for word in words() if "-" in word]

    @pytest.mark.parametrize("kind,size_bytes", [("hex", 20), ("base64url", 33), ("hmac", 64)])
    def test_of_random_bytes_is_eight_each(self, kind: str, size_bytes: int) -> None:
        maker = policy(kind, bytes=size_bytes)

        text = maker.following(NOTHING).reveal()
        text = json.loads(text)["current"] if kind == "hmac" else text
        raw = bytes.fromhex(text) if kind == "hex" else decoded(text)

        assert maker.entropy_bits == 8 * len(raw) == 8 * size_bytes

    def test_of_a_uuid_is_that_of_the_bits_that_vary(self) -> None:
        maker = policy("uuid")
        drawn = [int(maker.following(NOTHING).reveal().replace("-", ""), 16) for _ in range(400)]

        varying = sum(len({number >> bit & 1 for number in drawn}) == 2 for bit in range(128))

        assert maker.entropy_bits == varying == 122

    def test_of_a_fernet_key_and_a_seed_is_all_of_them(self) -> None:
        key = base64.urlsafe_b64decode(made("fernet")["current"])
        seed = base64.b32decode(made("totp")["secret"])

        assert policy("fernet").entropy_bits == 8 * len(key) == 256
        assert policy("totp").entropy_bits == 8 * len(seed) == 160

    def test_of_a_hash_is_its_passwords(self) -> None:
        assert policy("htpasswd").entropy_bits == policy("password").entropy_bits

    def test_of_several_fields_is_the_weakests(self) -> None:
        fields = {"a": {"kind": "hex", "bytes": 64}, "b": {"kind": "hex", "bytes": 12}}

        assert policy("fields", fields=fields).entropy_bits == 96

    def test_every_bit_of_a_token_is_set_half_of_the_time(self) -> None:
        """Two thousand draws; the bound is passed by chance once in a hundred million runs."""
        maker, draws = policy("hex", bytes=16), 2000
        ones: Counter[int] = Counter()
        for _ in range(draws):
            number = int(maker.following(NOTHING).reveal(), 16)
            ones.update(bit for bit in range(128) if number >> bit & 1)

        furthest = max(abs(ones[bit] - draws / 2) for bit in range(128))

        assert furthest < 6.5 * math.sqrt(draws) / 2


def decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def check_with(program: str, *arguments: str, file: Path) -> str:
    ran = subprocess.run(
        [need_program(program), *arguments, str(file)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the canary does not search: other programs need the keys in files."""
    return tmp_path_factory.mktemp("keys")


class TestAKeyPair:
    @pytest.mark.parametrize("algorithm", Algorithm)
    def test_is_loaded_by_openssl(self, algorithm: Algorithm, folder: Path) -> None:
        pair = made("key-pair", algorithm=algorithm.value)
        file = written(folder / "key.pem", pair["private_key"])

        public = check_with("openssl", "pkey", "-pubout", "-in", file=file)

        assert public == pair["public_key"]

    @pytest.mark.parametrize("algorithm", Algorithm)
    def test_is_loaded_by_ssh_keygen(self, algorithm: Algorithm, folder: Path) -> None:
        pair = made(
            "key-pair", algorithm=algorithm.value, format=KeyFormat.OPENSSH.value, comment="v 7"
        )
        file = written(folder / "key", pair["private_key"])

        public = check_with("ssh-keygen", "-y", "-P", "", "-f", file=file)

        assert pair["public_key"].startswith(public.strip())
        assert pair["public_key"].endswith(" v 7")

    def test_whose_halves_are_of_two_is_not_whole(self) -> None:
        first, second = made("key-pair"), made("key-pair")

        mixed = json.dumps({**first, "public_key": second["public_key"]})

        assert not policy("key-pair").is_whole(Sensitive(mixed))


def written(file: Path, text: str) -> Path:
    file.touch(mode=0o600)
    file.write_text(text)
    return file


class TestARequest:
    @pytest.mark.parametrize("algorithm", Algorithm)
    def test_is_verified_by_openssl(self, algorithm: Algorithm, folder: Path) -> None:
        names = ["api.example.com", "www.example.com"]
        pair = made("csr", algorithm=algorithm.value, dns_names=names)
        file = written(folder / "csr.pem", pair["csr"])

        said = check_with("openssl", "req", "-verify", "-noout", "-text", "-in", file=file)

        assert all(f"DNS:{name}" in said for name in names)
        assert "api.example.com" in said

    def test_signed_by_another_key_is_not_whole(self) -> None:
        mixed = json.dumps({**made("csr"), "private_key": made("csr")["private_key"]})

        assert not policy("csr").is_whole(Sensitive(mixed))


class TestSigningKeys:
    @pytest.mark.parametrize("algorithm", ["ES256", "ES384", "RS256", "EdDSA"])
    def test_sign_what_pyjwt_verifies_for_three_periods(self, algorithm: str) -> None:
        """What was cached before the rotation knows the key; what is fetched after knows both."""
        jwt = pytest.importorskip("jwt", reason="needs PyJWT: make test installs it")
        maker = policy("jwks", algorithm=algorithm)
        values = [maker.following(NOTHING)]
        for _ in range(3):
            values.append(maker.following(values[-1]))
        documents = [json.loads(value.reveal()) for value in values]

        for number, document in enumerate(documents):
            signing = document["signing_key"]
            key = jwt.PyJWK(signing).key
            token = jwt.encode(
                {"sub": "a"}, key, algorithm=algorithm, headers={"kid": signing["kid"]}
            )
            for other in documents[max(0, number - 1) : number + 2]:
                published = jwt.PyJWKSet.from_dict(other["jwks"])
                claims = jwt.decode(token, published[signing["kid"]], algorithms=[algorithm])
                assert claims == {"sub": "a"}

    def test_are_published_before_they_sign_and_after(self) -> None:
        maker = policy("jwks")
        values = [maker.following(NOTHING)]
        for _ in range(2):
            values.append(maker.following(values[-1]))
        first, second, third = (json.loads(value.reveal()) for value in values)

        assert second["signing_key"]["kid"] == first["next_key"]["kid"]
        assert third["signing_key"]["kid"] == second["next_key"]["kid"]
        assert [len(each["jwks"]["keys"]) for each in (first, second, third)] == [2, 3, 3]
        assert third["jwks"]["keys"][2] == second["jwks"]["keys"][0]

    def test_are_published_without_their_private_parts(self) -> None:
        for key in made("jwks", algorithm="RS256")["jwks"]["keys"]:
            assert not {"d", "p", "q", "dp", "dq", "qi"} & key.keys()

    def test_that_do_not_fit_together_are_not_carried_on(self) -> None:
        """To start anew silently would drop what verifiers need."""
        broken = {**made("jwks"), "next_key": made("jwks")["next_key"]}

        with pytest.raises(Misconfigured, match="do not fit together"):
            policy("jwks").following(Sensitive(json.dumps(broken)))

    @pytest.mark.parametrize("member", ["signing_key", "next_key", "jwks"])
    @pytest.mark.parametrize("instead", [None, "text", {}, {"kty": "EC"}, {"keys": [{}, 1]}])
    def test_of_which_one_is_broken_are_not_whole(self, member: str, instead: object) -> None:
        broken = {**made("jwks"), member: instead}

        assert not policy("jwks").is_whole(Sensitive(json.dumps(broken)))

    def test_may_change_their_algorithm(self) -> None:
        first = policy("jwks").following(NOTHING)

        second = policy("jwks", algorithm="EdDSA").following(first)

        assert policy("jwks").is_whole(second)
        assert json.loads(second.reveal())["signing_key"]["alg"] == "ES256"
        assert json.loads(second.reveal())["next_key"]["alg"] == "EdDSA"


class TestAKeyThatIsKept:
    @pytest.mark.parametrize("kind", ["hmac", "fernet"])
    def test_is_previous_after_a_rotation_and_gone_after_two(self, kind: str) -> None:
        maker = policy(kind)
        values = [maker.following(NOTHING)]
        for _ in range(2):
            values.append(maker.following(values[-1]))
        first, second, third = (json.loads(value.reveal()) for value in values)

        kept = second["previous"] == first["current"] and third["previous"] == second["current"]
        gone = first["current"] in third.values()
        assert kept
        assert not gone
        assert not maker.follows(values[2], values[0])

    def test_of_fernet_opens_what_both_have_sealed(self) -> None:
        from cryptography.fernet import Fernet, MultiFernet

        maker = policy("fernet")
        first = maker.following(NOTHING)
        keys = json.loads(maker.following(first).reveal())
        sealed = Fernet(json.loads(first.reveal())["current"]).encrypt(b"text")

        both = MultiFernet([Fernet(keys["current"]), Fernet(keys["previous"])])

        assert both.decrypt(sealed) == b"text"

    def test_of_an_older_length_is_still_well_formed(self) -> None:
        first = policy("hmac", bytes=32).following(NOTHING)

        second = policy("hmac", bytes=64).following(first)

        assert policy("hmac", bytes=64).is_whole(second)


class TestAHash:
    def test_is_what_apache_reads_and_the_passwords(self) -> None:
        tree = made("htpasswd")

        import bcrypt

        assert tree["htpasswd"].startswith("deploy:$2y$10$")
        fits = bcrypt.checkpw(tree["password"].encode(), tree["hash"].encode())
        assert fits

    def test_of_another_password_is_not_whole(self) -> None:
        mixed = json.dumps({**made("htpasswd"), "password": CANARY})

        assert not policy("htpasswd").is_whole(Sensitive(mixed))


def test_a_seed_is_in_the_url_that_authenticators_read() -> None:
    """Google Authenticator's wiki, "Key Uri Format"."""
    from urllib.parse import parse_qs, unquote, urlsplit

    tree = made("totp", issuer="Example & Co", account="deploy@example.com")
    url = urlsplit(tree["url"])
    query = parse_qs(url.query)

    assert (url.scheme, url.netloc) == ("otpauth", "totp")
    assert unquote(url.path) == "/Example & Co:deploy@example.com"
    same = query.pop("secret") == [tree["secret"]]
    assert same
    assert query == {
        "issuer": ["Example & Co"],
        "algorithm": ["SHA1"],
        "digits": ["6"],
        "period": ["30"],
    }


class TestFields:
    def test_keep_what_each_of_them_keeps(self) -> None:
        maker = policy("fields")
        first = maker.following(NOTHING)

        second = json.loads(maker.following(first).reveal())

        kept = second["session"]["previous"] == json.loads(first.reveal())["session"]["current"]
        assert kept
        assert set(second) == {"csrf", "session"}


ASK_KINDS = ", ".join(kinds.KINDS)

REFUSALS: list[tuple[dict[str, Any], str, str]] = [
    ({}, "here: has no `kind`", kinds.FIXES["kind"]),
    ({"kind": "hmca"}, "here.kind: is no kind of value", f"Write one of {ASK_KINDS}."),
    ({"kind": 3}, "here.kind: is no kind of value", f"Write one of {ASK_KINDS}."),
    ({"kind": "password", "lenght": 40}, "here.lenght: is not a key", "Write `length`."),
    (
        {"kind": "password", "length": 9},
        "here: 53 bits of entropy, fewer than 80",
        "Set `length` to 14 or more.",
    ),
    (
        {"kind": "password", "length": "40"},
        "here.length: is text, not a whole number",
        kinds.FIXES["length"],
    ),
    (
        {"kind": "passphrase", "words": 6},
        "here: 77 bits of entropy, fewer than 80",
        "Set `words` to 7 or more.",
    ),
    (
        {"kind": "passphrase", "separator": "-"},
        "here.separator: is none of the values known here",
        kinds.FIXES["separator"],
    ),
    (
        {"kind": "hex", "bytes": 9},
        "here: 72 bits of entropy, fewer than 80",
        "Set `bytes` to 10 or more.",
    ),
    (
        {"kind": "base64url", "bytes": 257},
        "here: `bytes` is not within 1 to 256",
        "Set `bytes` within 1 to 256.",
    ),
    (
        {"kind": "uuid", "bytes": 16},
        "here.bytes: is not a key",
        "Remove it; the keys are kind, member.",
    ),
    (
        {"kind": "uuid", "member": ""},
        "here: `member` is an empty name",
        "Name the member, or leave `member` out.",
    ),
    (
        {"kind": "hmac", "bytes": 16},
        "here: `bytes` is not within 32 to 128",
        "Set `bytes` within 32 to 128.",
    ),
    ({"kind": "fernet", "bytes": 32}, "here.bytes: is not a key", "Remove it; the keys are kind."),
    ({"kind": "totp", "account": "a"}, "here: has no `issuer`", kinds.FIXES["issuer"]),
    (
        {"kind": "totp", "issuer": "a:b", "account": "c"},
        "here: `issuer` is no name for an authenticator",
        "Write a name without a colon and without control characters.",
    ),
    (
        {"kind": "key-pair", "algorithm": "rsa-1024"},
        "here.algorithm: is none of the values known here",
        kinds.FIXES["algorithm"],
    ),
    (
        {"kind": "key-pair", "comment": "for PEM"},
        "here: `comment` is for OpenSSH only",
        "Write `format: openssh`, or no `comment`.",
    ),
    (
        {"kind": "key-pair", "format": "openssh", "comment": "a\nb"},
        "here: `comment` is more than one line of text",
        "Write one line.",
    ),
    ({"kind": "csr"}, "here: has no `common_name`", kinds.FIXES["common_name"]),
    (
        {"kind": "csr", "common_name": "a" * 65},
        "here: `common_name` is not 1 to 64 printable characters",
        "Shorten it; put host names under `dns_names`.",
    ),
    (
        {"kind": "csr", "common_name": "a", "dns_names": ["é.example"]},
        "here: `dns_names` has one that is not ASCII",
        "Write it as xn--... (RFC 5890).",
    ),
    (
        {"kind": "csr", "common_name": "a", "dns_names": "b.example"},
        "here.dns_names: is text, not a list",
        kinds.FIXES["dns_names"],
    ),
    (
        {"kind": "jwks", "algorithm": "none"},
        "here.algorithm: is none of the values known here",
        kinds.FIXES["algorithm"],
    ),
    ({"kind": "htpasswd"}, "here: has no `user`", kinds.FIXES["user"]),
    (
        {"kind": "htpasswd", "user": "a:b"},
        "here: `user` is no name for a line of htpasswd",
        "Write a name without a colon.",
    ),
    (
        {"kind": "htpasswd", "user": "a", "length": 73},
        "here: `length` is not within 1 to 72",
        "Set `length` within 1 to 72.",
    ),
    (
        {"kind": "htpasswd", "user": "a", "cost": 4},
        "here: `cost` is not within 10 to 15",
        "Set `cost` within 10 to 15.",
    ),
    ({"kind": "fields", "fields": {}}, "here: `fields` is empty", kinds.FIXES["fields"]),
    ({"kind": "fields", "fields": []}, "here.fields: is not a mapping", kinds.FIXES["fields"]),
    (
        {"kind": "fields", "fields": {"a": {"kind": "hex", "bytes": 1}}},
        "here.fields.a: 8 bits of entropy, fewer than 80",
        "Set `bytes` to 10 or more.",
    ),
    (
        {"kind": "fields", "fields": {"a": {"kind": "fields", "fields": {}}}},
        "here.fields.a.kind: is no kind of value",
        f"Write one of {ASK_KINDS.removesuffix(', fields')}.",
    ),
    (
        {"kind": "fields", "fields": {"a": {"kind": "hex", "member": "b"}}},
        "here: a field has a `member`",
        "Remove `member`: the field's name is the member's.",
    ),
]


class TestARefusal:
    @pytest.mark.parametrize("tree,fact,remedy", REFUSALS)
    def test_says_what_where_and_what_to_do(
        self, tree: dict[str, Any], fact: str, remedy: str
    ) -> None:
        with pytest.raises(Misconfigured) as caught:
            kinds.read({**tree}, Place("", "here"))

        assert str(caught.value).removeprefix(": ") == fact
        assert caught.value.remedy == remedy

    def test_quotes_no_value_and_drags_no_cause_along(self) -> None:
        for key in kinds.FIXES:
            with pytest.raises(Misconfigured) as caught:
                kinds.read({"kind": "hex", "bytes": CANARY, key: CANARY}, Place("here"))
            assert caught.value.__context__ is None

    @pytest.mark.parametrize(
        "kind,library",
        [("key-pair", "cryptography"), ("jwks", "cryptography"), ("htpasswd", "bcrypt")],
    )
    def test_says_which_library_is_missing(
        self, kind: str, library: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        maker = policy(kind)
        find = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: None if name == library else find(name)
        )

        with pytest.raises(Unsupported, match=f"no `{library}`"):
            maker.following(NOTHING)


class TestAFingerprint:
    def test_is_the_same_for_the_same_value_of_the_same_secret(self) -> None:
        assert fingerprint("a", Sensitive(CANARY)) == fingerprint("a", Sensitive(CANARY))

    def test_differs_for_another_value_and_for_another_secret(self) -> None:
        values = {
            fingerprint("a", Sensitive(CANARY)),
            fingerprint("a", Sensitive(CANARY + "-2")),
            fingerprint("b", Sensitive(CANARY)),
        }

        assert len(values) == 3
        assert all(len(each) == 32 for each in values)
