"""Sealed copies: what opens them, and why everything else does not."""

from __future__ import annotations

import importlib.util
import io
import random
import secrets
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config

from keyturn.destinations.sealing import (
    CIPHERTEXT_MAX_BYTES,
    PLAINTEXT_MAX_BYTES,
    Format,
    Label,
    read,
    seal,
    unseal,
    write,
)
from keyturn.errors import Drifted, KeyturnError, Misconfigured, Unreachable, Unsupported
from keyturn.model import RotationId, Sensitive
from keyturn.testing.strict_kms import StrictKms

CANARY = "Canary7-"
ALIAS, OTHER = "alias/secrets", "alias/other"
LABEL = Label("prod/orders/db", RotationId("v1"))
SHORT, LONG = f"{CANARY}short", CANARY.ljust(10_000, "x")
WHERE = "db.sealed"


@pytest.fixture(scope="module")
def server() -> Iterator[StrictKms]:
    with StrictKms() as server:
        server.add(ALIAS)
        server.add(OTHER)
        yield server


@pytest.fixture(scope="module")
def kms(server: StrictKms) -> Any:
    once = Config(retries={"mode": "standard", "total_max_attempts": 1})
    return boto3.client("kms", **server.settings(), config=once)


@pytest.fixture(params=[SHORT, LONG], ids=["bare", "message"])
def sealed(request: pytest.FixtureRequest, kms: Any) -> bytes:
    return seal(kms, ALIAS, LABEL, Sensitive(request.param)).body


def refusal(kms: Any, body: bytes, label: Label = LABEL, key: str | None = ALIAS) -> KeyturnError:
    with pytest.raises(KeyturnError) as caught:
        unseal(kms, label, body, WHERE, key)
    return caught.value


def flipped(body: bytes, at: int, bit: int = 1) -> bytes:
    return body[:at] + bytes([body[at] ^ bit]) + body[at + 1 :]


# ---------------------------------------------------------------------------- in and out


@pytest.mark.parametrize("size", [1, PLAINTEXT_MAX_BYTES, PLAINTEXT_MAX_BYTES + 1, 65_536])
def test_a_value_comes_out_as_it_went_in(kms: Any, size: int) -> None:
    value = Sensitive(CANARY.ljust(size, "x")[:size])

    made = seal(kms, ALIAS, LABEL, value)

    assert made.format is (Format.KMS if size <= PLAINTEXT_MAX_BYTES else Format.MESSAGE)
    assert unseal(kms, LABEL, made.body, WHERE, ALIAS) == value
    assert unseal(kms, LABEL, made.body, WHERE) == value


@pytest.mark.parametrize("size", [300, 5_000])
def test_bytes_that_are_no_text_come_out_as_they_went_in(kms: Any, size: int) -> None:
    """Every byte there is, in every place that is no UTF-8."""
    raw = bytes(range(256)) + secrets.token_bytes(size - 256)
    out = io.BytesIO()

    write(out, unseal(kms, LABEL, seal(kms, ALIAS, LABEL, read(io.BytesIO(raw))).body, WHERE))

    is_same = out.getvalue() == raw
    assert is_same


def test_no_two_copies_are_alike(kms: Any) -> None:
    """Equal values do not show: nor does a write, by its mark, look like an earlier one."""
    for text in (SHORT, LONG):
        made = {seal(kms, ALIAS, LABEL, Sensitive(text)).body for _ in range(5)}
        assert len(made) == 5


@pytest.mark.parametrize(
    "text, said", [("", "1 byte at least"), ("\ud800", "half a surrogate pair")], ids=ascii
)
def test_what_cannot_be_sealed_is_refused(kms: Any, text: str, said: str) -> None:
    with pytest.raises(Misconfigured, match=said):
        seal(kms, ALIAS, LABEL, Sensitive(text))


def test_without_the_library_short_values_are_sealed_and_long_ones_refused(
    kms: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the error says what to install."""
    long = seal(kms, ALIAS, LABEL, Sensitive(LONG))
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if "encryption" in name else find(name)
    )

    assert seal(kms, ALIAS, LABEL, Sensitive(SHORT)).format is Format.KMS
    with pytest.raises(Unsupported, match="4,096 bytes need the AWS Encryption SDK") as caught:
        seal(kms, ALIAS, LABEL, Sensitive(LONG))
    with pytest.raises(Unsupported):
        unseal(kms, LABEL, long.body, WHERE)

    assert "keyturn[seal]" in caught.value.remedy


# ---------------------------------------------------------------------------- what is refused


def test_a_bare_copy_of_another_secret_or_version_does_not_open(kms: Any) -> None:
    """KMS tells a wrong context from a changed ciphertext to nobody."""
    body = seal(kms, ALIAS, LABEL, Sensitive(SHORT)).body

    for label in (Label("prod/other", RotationId("v1")), Label("prod/orders/db", RotationId("v2"))):
        error = refusal(kms, body, label)
        assert isinstance(error, Drifted)
        assert str(error) == f"{WHERE}: KMS does not open it as {label}"
        assert "name and version id" in error.remedy
        assert "changed or cut off" in error.remedy


@pytest.mark.parametrize(
    "label, said",
    [
        (Label("prod/other", RotationId("v1")), "its secret is 'prod/orders/db', not 'prod/other'"),
        (Label("prod/orders/db", RotationId("v2")), "its version is 'v1', not 'v2'"),
    ],
    ids=["secret", "version"],
)
def test_a_message_of_another_secret_or_version_says_whose_it_is(
    kms: Any, server: StrictKms, label: Label, said: str
) -> None:
    """Its context is in the open. KMS is not even asked."""
    body = seal(kms, ALIAS, LABEL, Sensitive(LONG)).body
    asked = len(server.calls)

    error = refusal(kms, body, label)

    assert isinstance(error, Drifted)
    assert said in str(error)
    assert len(server.calls) == asked


def test_two_copies_that_were_swapped_do_not_open(kms: Any) -> None:
    other = Label("prod/other", RotationId("v9"))
    for text in (SHORT, LONG):
        ours, theirs = (seal(kms, ALIAS, each, Sensitive(text)).body for each in (LABEL, other))

        assert isinstance(refusal(kms, theirs, LABEL), Drifted)
        assert isinstance(refusal(kms, ours, other), Drifted)


def test_another_key_is_named(kms: Any, sealed: bytes) -> None:
    """Whoever may write there, but not with our key, could seal anything with one of their own."""
    error = refusal(kms, sealed, key=OTHER)

    assert isinstance(error, Drifted)
    assert str(error) == f"{WHERE} was sealed with another key than {OTHER}"
    assert "who wrote it" in error.remedy


def test_a_key_that_is_disabled_or_gone_is_no_damage(
    kms: Any, server: StrictKms, sealed: bytes
) -> None:
    assert isinstance(refusal(kms, sealed, key="alias/nothing"), Misconfigured)
    key = server.add("alias/retired")
    body = seal(kms, "alias/retired", LABEL, Sensitive(SHORT)).body
    key.is_enabled = False

    error = refusal(kms, body, key=None)

    assert isinstance(error, Misconfigured)
    assert "DisabledException" in str(error)


def test_no_answer_is_no_damage(kms: Any, server: StrictKms, sealed: bytes) -> None:
    with server.outage():
        assert isinstance(refusal(kms, sealed), Unreachable)


def test_an_empty_copy_is_said_to_be_empty(kms: Any) -> None:
    assert str(refusal(kms, b"")) == f"{WHERE} is empty"


def test_what_is_no_copy_at_all_is_said_to_be_none(kms: Any, server: StrictKms) -> None:
    """Base64, for one: too long for KMS, and no message."""
    asked = len(server.calls)

    error = refusal(kms, b"A" * (CIPHERTEXT_MAX_BYTES + 1))

    assert "neither a ciphertext of KMS nor a message" in str(error)
    assert "Base64" in error.remedy
    assert len(server.calls) == asked


def test_a_bare_copy_that_was_cut_off_or_changed_does_not_open(kms: Any) -> None:
    body = seal(kms, ALIAS, LABEL, Sensitive(SHORT)).body

    for damaged in [body[:-1], body[1:], body[:60], body + b"x"]:
        assert "KMS does not open it" in str(refusal(kms, damaged))
    for at in range(len(body)):
        assert isinstance(refusal(kms, flipped(body, at)), Drifted)


def test_a_message_that_was_cut_off_says_so(kms: Any) -> None:
    """Between frames, too, and after the last."""
    body = seal(kms, ALIAS, LABEL, Sensitive(LONG)).body

    for size in [4, 40, 100, 300, 1_000, 5_000, 9_000, len(body) - 1]:
        error = refusal(kms, body[:size])
        assert isinstance(error, Drifted)
        assert str(error) == f"{WHERE} ends too early", size
        assert "Deliver the version again" in error.remedy


def test_a_message_that_goes_on_says_so(kms: Any) -> None:
    body = seal(kms, ALIAS, LABEL, Sensitive(LONG)).body

    assert str(refusal(kms, body + b"x")) == f"{WHERE} goes on after its end"


def test_a_message_in_which_one_bit_has_changed_does_not_open(kms: Any) -> None:
    """Each byte of its head, and some of its body: there is a reason, and never a value."""
    body = seal(kms, ALIAS, LABEL, Sensitive(LONG)).body
    head = body.index(b"aws-kms") + 400
    places = [*range(head), *random.Random(7).sample(range(head, len(body)), 40)]  # noqa: S311

    said = {at: str(refusal(kms, flipped(body, at))) for at in places}

    assert said[len(body) - 1 if len(body) - 1 in said else places[-1]] == f"{WHERE} was changed"
    assert all(text.startswith(WHERE) for text in said.values())


def test_frames_that_changed_places_do_not_open(kms: Any) -> None:
    body = seal(kms, ALIAS, LABEL, Sensitive(LONG)).body
    start = body.index(b"\0\0\0\1", len(body) - 10_000 - 200)
    frame = 4 + 12 + 4_096 + 16

    swapped = (
        body[:start]
        + body[start + frame : start + 2 * frame]
        + body[start : start + frame]
        + body[start + 2 * frame :]
    )

    assert str(refusal(kms, swapped)) == f"{WHERE} was changed"


def test_a_data_key_is_not_shown() -> None:
    from keyturn.destinations.envelope import DataKey

    shown = repr(DataKey("arn", b"wrapped", b"plain-key"))

    assert "plain-key" not in shown
