"""What is sealed opens in a decryptor that shares nothing with it, in every scope; else nowhere."""

from __future__ import annotations

import base64
import random
import struct
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import which

import pytest

from conftest import need
from keyturn.destinations.sealed_value import Scope, certificate, sealed
from keyturn.errors import KeyturnError, Misconfigured
from keyturn.model import Sensitive
from keyturn.testing.certificates import Authority
from unsealing import Aes256, Controller, RefusedError, gcm_opened, opened

CANARY = "Canary7-"
NAMESPACE, NAME = "orders", "db"
LABELS: Mapping[Scope, bytes] = {
    Scope.STRICT: b"orders/db",
    Scope.NAMESPACE_WIDE: b"orders",
    Scope.CLUSTER_WIDE: b"",
}
"""Written out here: what the format demands, not what our code makes of it."""

SCOPES = pytest.mark.parametrize("scope", Scope)
VALUES = 100
LONGEST_BYTES = 65_536
"""Of a secret in the store."""


@pytest.fixture(scope="module")
def controller() -> Controller:
    return Controller()


def values(seed: int) -> list[bytes]:
    """Make the edges, and values of many lengths: ASCII, other alphabets, and no text at all."""
    dice = random.Random(seed)  # noqa: S311  # the same ones each time
    edges = [0, 1, 15, 16, 17, 31, 32, 33, 4_096, LONGEST_BYTES]
    sizes = [*edges, *(int(2 ** dice.uniform(0, 11)) for _ in range(VALUES - len(edges)))]
    kinds = [
        lambda size: bytes(dice.choices(range(32, 127), k=size)),
        lambda size: "".join(dice.choices("aé世\U0001f511\n", k=size)).encode(),
        dice.randbytes,
    ]
    return [(CANARY.encode() + dice.choice(kinds)(size))[:size] if size else b"" for size in sizes]


def seal(
    controller: Controller, scope: Scope, value: bytes, namespace: str = NAMESPACE, name: str = NAME
) -> str:
    text = Sensitive(value.decode("utf-8", "surrogateescape"))
    key = certificate(controller.certificate, datetime.now(UTC), "test")
    return sealed(key, scope.label(namespace, name), text, "test")


@SCOPES
def test_every_value_is_what_was_sealed(controller: Controller, scope: Scope) -> None:
    """A hundred of them in each scope, from nothing to 64 KiB."""
    wrong = [
        number
        for number, value in enumerate(values(7))
        if opened(controller.numbers, LABELS[scope], seal(controller, scope, value)) != value
    ]

    assert wrong == []


@SCOPES
def test_no_value_opens_under_another_label(controller: Controller, scope: Scope) -> None:
    """Another scope, namespace or name; and a name that makes another namespace of it."""
    value = seal(controller, scope, f"{CANARY}x".encode())
    others = {*LABELS.values(), b"orders/other", b"other/db", b"other", b"db", b"orders/"}

    for label in others - {LABELS[scope]}:
        with pytest.raises(RefusedError):
            opened(controller.numbers, label, value)


def test_where_it_may_be_opened_is_the_scopes_affair(controller: Controller) -> None:
    """Strict: that one place; namespace-wide: any name there; cluster-wide: anywhere."""
    value = f"{CANARY}x".encode()
    places = [("orders", "db"), ("orders", "other"), ("other", "db")]

    def opens(scope: Scope) -> list[tuple[str, str]]:
        made = seal(controller, scope, value)
        return [place for place in places if is_open(controller, scope.label(*place), made)]

    assert {scope: opens(scope) for scope in Scope} == {
        Scope.STRICT: places[:1],
        Scope.NAMESPACE_WIDE: places[:2],
        Scope.CLUSTER_WIDE: places,
    }


def is_open(controller: Controller, label: bytes, value: str) -> bool:
    try:
        opened(controller.numbers, label, value)
    except RefusedError:
        return False
    return True


@SCOPES
def test_another_controllers_key_does_not_open_it(controller: Controller, scope: Scope) -> None:
    made = seal(controller, scope, f"{CANARY}x".encode())

    assert is_open(controller, LABELS[scope], made)
    assert not is_open(Controller(), LABELS[scope], made)


@SCOPES
def test_no_changed_or_cut_value_opens(controller: Controller, scope: Scope) -> None:
    """A bit of each part, and every place to cut that could be mistaken for an end."""
    made = base64.b64decode(seal(controller, scope, f"{CANARY}x".encode()))
    (size,) = struct.unpack(">H", made[:2])
    flipped = [_flipped(made, at) for at in (0, 1, 2, 1 + size, 2 + size, len(made) - 1)]
    cut = [made[:end] for end in (0, 1, 2, 2 + size, 2 + size + 15, len(made) - 1)]

    for damaged in (*flipped, *cut, made + b"\0"):
        assert not is_open(controller, LABELS[scope], base64.b64encode(damaged).decode())


def _flipped(body: bytes, at: int) -> bytes:
    return body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]


def test_the_same_value_is_never_sealed_the_same(controller: Controller) -> None:
    """With a nonce that never changes, a session key that came twice would tell two values."""
    made = [base64.b64decode(seal(controller, Scope.STRICT, CANARY.encode())) for _ in range(50)]

    assert len({each[258:] for each in made}) == len(made)


def test_the_bytes_are_as_the_format_says(controller: Controller) -> None:
    """2 bytes, the modulus' size, the value's size, and a tag of 16."""
    made = base64.b64decode(seal(controller, Scope.STRICT, b"Canary7-4567890"))

    assert made[:2] == b"\x01\x00"
    assert len(made) == 2 + 256 + 15 + 16


def test_a_key_of_the_controllers_usual_size_does(controller: Controller) -> None:
    usual = Controller(4096)
    made = seal(usual, Scope.STRICT, f"{CANARY}x".encode())

    assert len(base64.b64decode(made)) == 2 + 512 + len(f"{CANARY}x") + 16
    assert opened(usual.numbers, b"orders/db", made) == f"{CANARY}x".encode()
    assert not is_open(controller, b"orders/db", made)


# ---------------------------------------------------------------------------- a third opinion


@SCOPES
def test_openssl_opens_it(controller: Controller, scope: Scope, tmp_path: Path) -> None:
    """The program, by its own options for OAEP; AES in counter mode from 2 on is GCM's text."""
    need(present=which("openssl") is not None, what="openssl", install="apt install openssl")
    value = f"{CANARY}é\n".encode() * 9
    body = base64.b64decode(seal(controller, scope, value))
    (size,) = struct.unpack(">H", body[:2])
    key = tmp_path / "key.pem"
    key.write_text(controller.private_pem)
    label = [f"rsa_oaep_label:{LABELS[scope].hex()}"] if LABELS[scope] else []
    options = ["rsa_padding_mode:oaep", "rsa_oaep_md:sha256", "rsa_mgf1_md:sha256", *label]
    asked = [part for option in options for part in ("-pkeyopt", option)]

    session_key = _openssl(["pkeyutl", "-decrypt", "-inkey", str(key), *asked], body[2 : 2 + size])
    counter = bytes(12) + struct.pack(">I", 2)
    found = _openssl(
        ["enc", "-d", "-aes-256-ctr", "-K", session_key.hex(), "-iv", counter.hex()],
        body[2 + size : -16],
    )

    is_same = found == value
    assert is_same


def _openssl(arguments: list[str], given: bytes) -> bytes:
    return subprocess.run(
        [which("openssl") or "", *arguments],
        input=given,
        capture_output=True,
        check=True,
        timeout=30,
    ).stdout


def test_the_decryptor_knows_the_standards_own_examples() -> None:
    """FIPS 197, C.3; and the GCM specification's test cases 13 and 14."""
    key = bytes(range(32))
    block = bytes.fromhex("00112233445566778899aabbccddeeff")
    assert Aes256(key).block(block).hex() == "8ea2b7ca516745bfeafc49904b496089"

    assert (
        gcm_opened(bytes(32), bytes(12), bytes.fromhex("530f8afbc74536b9a963b4f1c4cb738b")) == b""
    )
    sealed_zeros = "cea7403d4d606b6e074ec5d3baf39d18" + "d0d1c8a799996bf0265b98b5d48ab919"
    assert gcm_opened(bytes(32), bytes(12), bytes.fromhex(sealed_zeros)) == bytes(16)


# ---------------------------------------------------------------------------- certificates


def refusal(pem: str) -> KeyturnError:
    with pytest.raises(KeyturnError) as caught:
        certificate(pem, datetime.now(UTC), "sealed-secret orders/db")
    return caught.value


def test_a_certificate_that_is_expired_weak_or_none_is_refused() -> None:
    expired = Controller(lasts=timedelta(days=-1))
    weak = Controller(1024)
    reasons = [refusal(pem) for pem in (expired.certificate, weak.certificate, "Canary7-no PEM")]

    assert all(isinstance(each, Misconfigured) for each in reasons)
    assert "expired on 20" in str(reasons[0])
    assert "has an RSA key of 1,024 bits, fewer than 2,048" in str(reasons[1])
    assert str(reasons[2]) == (
        "sealed-secret orders/db: the controller's certificate is no certificate in PEM"
    )


def test_a_certificate_without_an_rsa_key_is_refused(tmp_path: Path) -> None:
    """An authority's of our tests has one of an elliptic curve."""
    assert "has no RSA key" in str(refusal(Authority(tmp_path, "curve").file.read_text()))


def test_of_several_certificates_the_first_counts(controller: Controller) -> None:
    """As kubeseal reads what the controller serves."""
    both = controller.certificate + Controller().certificate
    key = certificate(both, datetime.now(UTC), "test")

    made = sealed(key, b"", Sensitive(f"{CANARY}x"), "test")

    assert is_open(controller, b"", made)


def test_half_a_surrogate_pair_is_refused_and_not_shown(controller: Controller) -> None:
    key = certificate(controller.certificate, datetime.now(UTC), "test")

    with pytest.raises(Misconfigured, match="version v1 has half a surrogate pair"):
        sealed(key, b"", Sensitive(f"{CANARY}\ud800"), "version v1")
