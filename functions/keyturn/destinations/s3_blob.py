"""A sealed copy as an object in S3; see `keyturn.destinations.sealing` for what its bytes are.

The object's metadata says which version of which secret it is, and in which format; S3 writes it
with the body, in one act. Each write is conditional on what was seen there. How the bucket itself
encrypts does not matter: the copy is sealed before it is sent.

What it never does: write over another secret's copy, or read a copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol

from keyturn.boundary import ask_aws
from keyturn.destinations.sealing import Kms, Label, seal
from keyturn.errors import Busy, Drifted
from keyturn.model import RotationId, Sensitive, Version
from keyturn.ports import Held

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
"""What the metadata is called."""

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

    def head_object(self, **parameters: object) -> Mapping[str, Any]:
        """HeadObject."""
        ...

    def put_object(self, **parameters: object) -> Mapping[str, Any]:
        """PutObject."""
        ...


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
            },
        )
        written = ask_aws("PutObject", self.name(), put, _LOST)
        # The SDK tries again by itself: what was there first may be our own.
        if written is _OVERTAKEN and self.holds().version_id != version.rotation_id:
            raise Busy(
                f"{self.name()}: something else has been written there since we looked",
                remedy="Nothing: it is looked at again.",
            )
