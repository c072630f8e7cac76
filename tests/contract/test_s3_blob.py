"""Sealed copies in S3: moto's over the real wire, and a strict KMS of our own."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import count
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config

from keyturn.destinations.s3_blob import DIGEST, FORMAT, SECRET, SIZE, VERSION, S3Blob, fetch
from keyturn.destinations.sealing import PLAINTEXT_MAX_BYTES, Label, seal, unseal
from keyturn.errors import Busy, Drifted, KeyturnError, Misconfigured, Unreachable
from keyturn.local.aws import LocalAws
from keyturn.model import Credential, RotationId, Sensitive, Version
from keyturn.ports import Held
from keyturn.testing.contracts import MADE_AT, Depot, DestinationContract
from keyturn.testing.faults import Moment, Proxy, Verdict
from keyturn.testing.strict_kms import StrictKms

CANARY = "Canary7-"
ALIAS, NAME, OBJECT = "alias/secrets", "prod/orders/db", "orders/db"
LABEL, OTHER = Label(NAME, RotationId("v1")), Label("b", RotationId("v9"))
_numbers = count(1)


class Bucket:
    """A bucket, and a key to seal with. Both can be cut off."""

    def __init__(self, aws: LocalAws, stack: ExitStack, tries: int) -> None:
        self.kms_server = stack.enter_context(StrictKms())
        self.key = self.kms_server.add(ALIAS)
        self.proxy = stack.enter_context(Proxy(urlsplit(aws.endpoint_url).port or 0))
        config = Config(retries={"mode": "standard", "total_max_attempts": tries})
        self.kms: Any = boto3.client("kms", **self.kms_server.settings(), config=config)
        cut: dict[str, Any] = {
            **aws.settings(),
            "endpoint_url": f"http://127.0.0.1:{self.proxy.port}",
        }
        self.s3: Any = boto3.client("s3", **cut, config=config)
        self.straight: Any = boto3.client("s3", **aws.settings())
        self.name = f"copies-{os.getpid()}-{next(_numbers)}"
        self.straight.create_bucket(
            Bucket=self.name, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
        )

    def blob(self, *, kms_key: str = ALIAS, secret: str = NAME, bucket: str = "") -> S3Blob:
        return S3Blob(
            *(self.s3, self.kms),
            bucket=bucket or self.name,
            key=OBJECT,
            kms_key=kms_key,
            secret=secret,
        )

    def head(self) -> dict[str, Any]:
        found: dict[str, Any] = self.straight.head_object(Bucket=self.name, Key=OBJECT)
        return found

    def body(self) -> bytes:
        found: bytes = self.straight.get_object(Bucket=self.name, Key=OBJECT)["Body"].read()
        return found

    def put(self, body: bytes = b"by hand", **metadata: str) -> None:
        self.straight.put_object(Bucket=self.name, Key=OBJECT, Body=body, Metadata=metadata)

    def reads(self) -> Sensitive | None:
        """Open the copy as the version that it says it is."""
        if self.straight.list_objects_v2(Bucket=self.name)["KeyCount"] == 0:
            return None
        label = Label(NAME, RotationId(self.head()["Metadata"][VERSION]))
        return unseal(self.kms, label, self.body(), OBJECT, ALIAS)

    @contextmanager
    def outage(self) -> Iterator[None]:
        with self.proxy.outage():
            yield

    @contextmanager
    def lose_reply(self) -> Iterator[None]:
        lost = iter([Verdict.CUT])
        self.proxy.reset(
            lambda _, moment: next(lost, Verdict.PASS) if moment is Moment.AFTER else Verdict.PASS
        )
        yield
        self.proxy.reset()


NewBucket = Callable[[int], Bucket]


@pytest.fixture
def new_bucket(aws: LocalAws) -> Iterator[NewBucket]:
    with ExitStack() as stack:
        yield lambda tries: Bucket(aws, stack, tries)


@pytest.fixture
def bucket(new_bucket: NewBucket) -> Bucket:
    return new_bucket(1)


def version(name: str) -> Version:
    return Version(RotationId(name), Credential("app", Sensitive(f"{CANARY}unused")), MADE_AT)


def depot(bucket: Bucket) -> Depot:
    outage: Callable[[], AbstractContextManager[None]] = bucket.outage
    return Depot(
        bucket.blob(),
        bucket.reads,
        bucket.put,
        Sensitive(""),
        "1 byte at least",
        lambda: bucket.kms_server.calls.count("Decrypt"),
        outage,
        bucket.lose_reply,
    )


class TestS3Blob(DestinationContract):
    """Each call is made once."""

    @pytest.fixture
    def depot(self, bucket: Bucket) -> Depot:
        return depot(bucket)


class TestS3BlobThatTriesAgain(DestinationContract):
    """The SDK repeats what got no answer: its own write then stands in the way of its second."""

    @pytest.fixture
    def depot(self, new_bucket: NewBucket) -> Depot:
        return depot(new_bucket(2))


def deliver(bucket: Bucket, text: str, name: str = "v1", seen: Held | None = None) -> None:
    blob = bucket.blob()
    blob.deliver(version(name), Sensitive(text), seen or blob.holds())


@pytest.mark.parametrize(
    "size, format_", [(PLAINTEXT_MAX_BYTES, "kms"), (4097, "aws-encryption-sdk")]
)
def test_the_object_says_what_it_is(bucket: Bucket, size: int, format_: str) -> None:
    """KMS takes 4,096 bytes; one more is a message."""
    text = CANARY.ljust(size, "x")[:size]

    deliver(bucket, text)

    body = bucket.body()
    assert bucket.head()["Metadata"] == {
        SECRET: NAME,
        VERSION: "v1",
        FORMAT: format_,
        SIZE: str(len(body)),
        DIGEST: hashlib.sha256(body).hexdigest(),
    }
    assert bucket.reads() == Sensitive(text)


def test_up_to_4096_bytes_the_body_is_what_kms_decrypts(bucket: Bucket) -> None:
    """With nothing of ours around it: any runbook opens it."""
    deliver(bucket, f"{CANARY}bare")

    said = bucket.kms.decrypt(
        CiphertextBlob=bucket.body(), EncryptionContext={"secret": NAME, "version": "v1"}
    )

    assert Sensitive(said["Plaintext"].decode()) == Sensitive(f"{CANARY}bare")


def test_another_secrets_copy_is_left_alone(bucket: Bucket) -> None:
    """Two secrets with one place in the plan would take turns for ever."""
    deliver(bucket, f"{CANARY}one")
    other = bucket.blob(secret="prod/other")

    with pytest.raises(Drifted, match="holds a copy of prod/orders/db, not of prod/other"):
        other.holds()


def test_an_object_that_was_deleted_meanwhile_is_looked_at_again(bucket: Bucket) -> None:
    deliver(bucket, f"{CANARY}one")
    seen = bucket.blob().holds()
    bucket.straight.delete_object(Bucket=bucket.name, Key=OBJECT)

    with pytest.raises(Busy):
        deliver(bucket, f"{CANARY}two", "v2", seen)

    deliver(bucket, f"{CANARY}two", "v2")
    assert bucket.reads() == Sensitive(f"{CANARY}two")


def refusal(act: Callable[[], object]) -> KeyturnError:
    with pytest.raises(KeyturnError) as caught:
        act()
    return caught.value


def test_a_key_that_is_not_there_or_disabled_is_named(bucket: Bucket) -> None:
    absent = bucket.blob(kms_key="alias/nothing")
    error = refusal(lambda: absent.deliver(version("v1"), Sensitive(CANARY), absent.holds()))
    assert isinstance(error, Misconfigured)
    assert str(error).startswith("alias/nothing: Encrypt answered NotFoundException")

    bucket.key.is_enabled = False
    error = refusal(lambda: deliver(bucket, CANARY.ljust(5000)))
    assert isinstance(error, Misconfigured)
    assert str(error).startswith("alias/secrets: GenerateDataKey answered DisabledException")
    assert bucket.reads() is None


def test_a_bucket_that_is_not_there_is_named(bucket: Bucket) -> None:
    nowhere = bucket.blob(bucket=f"{bucket.name}-not")

    error = refusal(lambda: nowhere.deliver(version("v1"), Sensitive(CANARY), nowhere.holds()))

    assert isinstance(error, Misconfigured)
    assert "NoSuchBucket" in str(error)


# ---------------------------------------------------------------------------- what does not open


def opened(bucket: Bucket, label: Label = LABEL, key: str = ALIAS) -> Sensitive:
    body = fetch(bucket.straight, bucket.name, OBJECT, label)
    return unseal(bucket.kms, label, body, "there", key)


@pytest.mark.parametrize("size", [100, 10_000], ids=["bare", "message"])
def test_whatever_is_wrong_with_a_copy_has_its_own_reason(bucket: Bucket, size: int) -> None:
    """The bare ones too, of which KMS says nothing but that it does not open them."""
    bucket.kms_server.add("alias/other")
    deliver(bucket, CANARY.ljust(size, "x"))
    body, said = bucket.body(), bucket.head()["Metadata"]
    assert opened(bucket) == Sensitive(CANARY.ljust(size, "x"))
    other = seal(bucket.kms, ALIAS, OTHER, Sensitive(CANARY.ljust(size, "x"))).body

    def as_now(body: bytes, **changed: str) -> str:
        bucket.put(body, **{**said, **changed})
        return str(refusal(lambda: opened(bucket)))

    reasons = {
        "another version": str(refusal(lambda: opened(bucket, Label(NAME, OTHER.version_id)))),
        "another secret": str(refusal(lambda: opened(bucket, Label("b", LABEL.version_id)))),
        "another key": str(refusal(lambda: opened(bucket, key="alias/other"))),
        "cut off": as_now(body[:-1]),
        "a bit flipped": as_now(body[:-1] + bytes([body[-1] ^ 1])),
        "swapped, with its metadata": as_now(other, **{SECRET: "b", VERSION: "v9"}),
        "swapped, and the metadata forged": as_now(
            other, **{SIZE: str(len(other)), DIGEST: hashlib.sha256(other).hexdigest()}
        ),
    }

    assert reasons["another version"].endswith(f"{OBJECT} is version v1, not v9")
    assert reasons["another secret"].endswith(f"{OBJECT} is a copy of {NAME}, not of b")
    assert reasons["another key"] == "there was sealed with another key than alias/other"
    assert reasons["cut off"].endswith(
        f"has {len(body) - 1} bytes and was written with {len(body)}"
    )
    assert reasons["a bit flipped"].endswith("was changed after it was written")
    assert reasons["swapped, with its metadata"].endswith(f"is a copy of b, not of {NAME}")
    assert len(set(reasons.values())) == len(reasons)
    assert all(NAME in each or OBJECT in each or "there" in each for each in reasons.values())


def test_a_copy_that_was_written_by_hand_opens(bucket: Bucket) -> None:
    """By the runbook: without size and digest, or without any metadata at all."""
    sealed = seal(bucket.kms, ALIAS, LABEL, Sensitive(f"{CANARY}x")).body

    for metadata in ({SECRET: NAME, VERSION: "v1"}, {}):
        bucket.put(sealed, **metadata)
        assert opened(bucket) == Sensitive(f"{CANARY}x")


def test_where_nothing_is_there_is_nothing_to_open(bucket: Bucket) -> None:
    error = refusal(lambda: opened(bucket))

    assert isinstance(error, Misconfigured)
    assert str(error).endswith("nothing is there")


def test_no_answer_is_no_damage(bucket: Bucket) -> None:
    with bucket.outage(), pytest.raises(Unreachable):
        fetch(bucket.s3, bucket.name, OBJECT, LABEL)
