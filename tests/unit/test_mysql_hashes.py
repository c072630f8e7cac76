"""The hashes are those that the servers compute: values taken from servers and from libcrypt."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from keyturn.model import Sensitive
from keyturn.targets import mysql_hashes


def test_native_is_what_mariadb_keeps() -> None:
    kept = mysql_hashes.native(Sensitive("a"))

    assert kept == "*667F407DE7C6AD07358FA38DAED7828A72014B4E"


def test_ed25519_is_what_mariadb_keeps() -> None:
    kept = mysql_hashes.ed25519(Sensitive("zz"))

    assert kept == "y8NC0bcS6BRsyrD2kne1aTrzygYsS0zEWM9xnQhwxis"


@pytest.mark.parametrize("password", ["", "zz", "ü" * 70])
def test_an_ed25519_answer_is_a_signature(password: str) -> None:
    """Checked by another implementation."""
    secret = Sensitive(password)
    key = base64.b64decode(mysql_hashes.ed25519(secret) + "=")

    answer = mysql_hashes.ed25519_answer(secret, b"challenge")

    Ed25519PublicKey.from_public_bytes(key).verify(answer, b"challenge")


@pytest.mark.parametrize(
    "password, expected",
    [
        # crypt(3) of glibc, "$5$abcdefghijklmnop": of the salt it takes 16 characters.
        ("x", "fiUnwzJyCDn7Dx53oezcP81DtfKy73q.P999JrS8fsB"),
        ("x" * 33, "vYOmKEsHkkuSSxh9YProkozF32FJ6EJDzYoNSHIn8a6"),
        ("xé" * 40, "UbH2pxKQgEjOnKJyAEwYCKrfhpO8ENBOB5ZNcBr/ra3"),
    ],
)
def test_sha_crypt_is_that_of_libcrypt(password: str, expected: str) -> None:
    assert mysql_hashes._sha_crypt(password.encode(), b"abcdefghijklmnop") == expected  # noqa: SLF001


def test_a_caching_sha2_hash_has_the_servers_form() -> None:
    """Type, thousands of rounds, 20 characters of salt that need no quoting, 43 of digest."""
    kept = mysql_hashes.caching_sha2(Sensitive("a"))

    assert kept.startswith("$A$005$")
    assert len(kept) == 7 + 20 + 43
    assert kept != mysql_hashes.caching_sha2(Sensitive("a"))
