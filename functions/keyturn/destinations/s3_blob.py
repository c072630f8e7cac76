"""A sealed copy as an object in S3; see `keyturn.destinations.sealing` for what its bytes are.

The object's metadata says which version of which secret it is, and in which format; S3 writes it
with the body, in one act. Each write is conditional on what was seen there. How the bucket itself
encrypts does not matter: the copy is sealed before it is sent.

What a destination never does: write over another secret's copy, or read one. Reading is for people:
`fetch`, which `keyturn open` calls.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Protocol

import msgspec

from keyturn.boundary import ask_aws
from keyturn.destinations.sealing import Kms, Label, seal
from keyturn.errors import Busy, Drifted, Misconfigured
from keyturn.followers import CopyShape, Given, NonEmpty
from keyturn.model import RotationId, Sensitive, Version
from keyturn.ports import Held


class S3Shape(CopyShape, frozen=True, kw_only=True):
    """An object in S3, sealed with KMS before it is sent."""

    bucket: Annotated[NonEmpty, msgspec.Meta(description="The bucket's name.")]
    key: Annotated[NonEmpty, msgspec.Meta(description="The object's key.")]
    kms_key: Annotated[
        NonEmpty, msgspec.Meta(description="Id, ARN or alias of the KMS key that seals the copy.")
    ]

    def place(self) -> tuple[str, ...]:
        """See `CopyShape.place`."""
        return self.bucket, self.key


SHAPES = {"s3": S3Shape}
FIXES = {
    "s3": "Write a mapping with `bucket`, `key` and `kms_key`.",
    "bucket": "Name the bucket.",
    "key": "Write the object's key.",
    "kms_key": "Name the KMS key by id, ARN or alias, such as `kms_key: alias/secrets`.",
}

PERMISSIONS = (
    "kms:Encrypt",
    "kms:GenerateDataKey",
    "s3:GetObject",
    "s3:ListBucket",
    "s3:PutObject",
)
"""On the key, the object and the bucket. Metadata is read by GetObject's right; without ListBucket,
S3 answers *denied* for an object that is not there."""

SECRET, VERSION, FORMAT = "keyturn-secret", "keyturn-version", "keyturn-format"
SIZE, DIGEST = "keyturn-bytes", "keyturn-sha256"
"""What the metadata is called. The last two are of the ciphertext."""

_NOTHING: Mapping[str, Any] = {"Metadata": {}, "ETag": ""}
_OVERTAKEN: Mapping[str, Any] = {}
_LOST = {
    "PreconditionFailed": _OVERTAKEN,
    # Another write was under way, or the object was deleted (API_PutObject).
    "ConditionalRequestConflict": _OVERTAKEN,
    "NoSuchKey": _OVERTAKEN,
}


class S3(Protocol):
    """What is used of a boto3 client, with time-outs."""

    def get_object(self, **parameters: object) -> Mapping[str, Any]:
        """GetObject."""
        ...

    def head_object(self, **parameters: object) -> Mapping[str, Any]:
        """HeadObject."""
        ...

    def put_object(self, **parameters: object) -> Mapping[str, Any]:
        """PutObject."""
        ...


def make(kind: str, settings: S3Shape, given: Given) -> S3Blob:
    """Make the destination that a plan names."""
    del kind
    return S3Blob(
        given.clients("s3", None),
        given.clients("kms", None),
        bucket=settings.bucket,
        key=settings.key,
        kms_key=settings.kms_key,
        secret=given.secret,
    )


class S3Blob:
    """A `Destination`. Its marks are ETags: no two ciphertexts are the same, so neither are they.

    Args:
        s3: A client for the bucket's region, with time-outs.
        kms: A client for the key's region, with time-outs.
        bucket: The bucket's name.
        key: The object's key.
        kms_key: Id, ARN or alias of the KMS key to seal with.
        secret: The secret's name.
    """

    def __init__(  # noqa: PLR0913  # all are named
        self, s3: S3, kms: Kms, *, bucket: str, key: str, kms_key: str, secret: str
    ) -> None:
        self._s3 = s3
        self._kms = kms
        self._place = {"Bucket": bucket, "Key": key}
        self._kms_key = kms_key
        self._secret = secret

    def name(self) -> str:
        """See `Destination.name`."""
        return "s3://{Bucket}/{Key}".format(**self._place)

    def holds(self) -> Held:
        """See `Destination.holds`."""
        look = partial(self._s3.head_object, **self._place)
        found = ask_aws("HeadObject", self.name(), look, {"404": _NOTHING})
        secret = found["Metadata"].get(SECRET)
        if secret is None:
            return Held(None, found["ETag"])
        if secret != self._secret:
            raise Drifted(
                f"{self.name()} holds a copy of {secret}, not of {self._secret}",
                remedy="Give each secret a key of its own in the plan, or delete the object.",
            )
        return Held(RotationId(found["Metadata"].get(VERSION, "")) or None, found["ETag"])

    def deliver(self, version: Version, text: Sensitive, seen: Held) -> None:
        """See `Destination.deliver`."""
        label = Label(self._secret, version.rotation_id)
        sealed = seal(self._kms, self._kms_key, label, text)
        put = partial(
            self._s3.put_object,
            **self._place,
            **({"IfMatch": seen.mark} if seen.mark else {"IfNoneMatch": "*"}),
            Body=sealed.body,
            ContentType="application/octet-stream",
            Metadata={
                SECRET: self._secret,
                VERSION: version.rotation_id,
                FORMAT: sealed.format.value,
                SIZE: str(len(sealed.body)),
                DIGEST: hashlib.sha256(sealed.body).hexdigest(),
            },
        )
        written = ask_aws("PutObject", self.name(), put, _LOST)
        # The SDK tries again by itself: what was there first may be our own.
        if written is _OVERTAKEN and self.holds().version_id != version.rotation_id:
            raise Busy(
                f"{self.name()}: something else has been written there since we looked",
                remedy="Nothing: it is looked at again.",
            )


# ---------------------------------------------------------------------------- for people

_ABSENT: Mapping[str, Any] = {}
_AGAIN = "Deliver the version again, and find out who has written there."


def fetch(s3: S3, bucket: str, key: str, label: Label) -> bytes:
    """Return the sealed copy that is there and has to be *label*'s.

    The metadata can be forged. It may show why a copy is not the right one; that it is the right
    one shows only when it opens.

    Raises:
        Misconfigured: There is nothing.
        Drifted: By the metadata it is another secret's, another version, cut off or changed.
    """
    where = f"s3://{bucket}/{key}"

    def get() -> Mapping[str, Any]:
        answer = s3.get_object(Bucket=bucket, Key=key)
        return {**answer, "Body": answer["Body"].read()}

    found = ask_aws("GetObject", where, get, {"NoSuchKey": _ABSENT})
    if found is _ABSENT:
        raise Misconfigured(f"{where}: nothing is there", remedy="Correct the object's key.")
    body: bytes = found["Body"]
    said = {SECRET: label.secret, VERSION: label.version_id, **found["Metadata"]}
    if said[SECRET] != label.secret:
        raise Drifted(f"{where} is a copy of {said[SECRET]}, not of {label.secret}", remedy=_AGAIN)
    if said[VERSION] != label.version_id:
        raise Drifted(
            f"{where} is version {said[VERSION]}, not {label.version_id}",
            remedy="Ask for that version, or deliver the one that you want.",
        )
    if said.get(SIZE, str(len(body))) != str(len(body)):
        raise Drifted(
            f"{where} has {len(body)} bytes and was written with {said[SIZE]}", remedy=_AGAIN
        )
    digest = hashlib.sha256(body).hexdigest()
    if said.get(DIGEST, digest) != digest:
        raise Drifted(f"{where} was changed after it was written", remedy=_AGAIN)
    return body
