"""A sealed copy as an object in Cloud Storage; `keyturn.destinations.cloud_sealing` has its bytes.

The object's metadata says which version of which secret it is; Cloud Storage writes it with the
bytes, in one act, and each write holds only for the generation that was seen. How the bucket itself
encrypts does not matter: the copy is sealed before it is sent.

What it never does: write over another secret's copy, or read one. A look is at the metadata.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import secrets
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import msgspec

from keyturn.crc32c import crc32c
from keyturn.destinations.sealing import Label
from keyturn.errors import Busy, Drifted, Unsupported
from keyturn.followers import CopyShape, Given, NonEmpty
from keyturn.model import RotationId, Sensitive, Version
from keyturn.ports import Held

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

    from keyturn.google.api import GoogleApi

_KMS_KEY = (
    r"^projects/[a-z0-9:.-]+/locations/[a-z0-9-]+"
    r"/keyRings/[A-Za-z0-9_-]{1,63}/cryptoKeys/[A-Za-z0-9_-]{1,63}(?!\n)$"
)


class GcsShape(CopyShape, frozen=True, kw_only=True):
    """An object in Cloud Storage, sealed with Cloud KMS before it is sent."""

    bucket: Annotated[NonEmpty, msgspec.Meta(description="The bucket's name.")]
    object: Annotated[NonEmpty, msgspec.Meta(description="The object's name.")]
    kms_key: Annotated[
        str,
        msgspec.Meta(
            pattern=_KMS_KEY,
            description="Full name of the Cloud KMS key that seals the copy.",
        ),
    ]

    def place(self) -> tuple[str, ...]:
        """See `CopyShape.place`."""
        return self.bucket, self.object


SHAPES = {"gcs": GcsShape}
FIXES = {
    "gcs": "Write a mapping with `bucket`, `object` and `kms_key`.",
    "bucket": "Name the bucket.",
    "object": "Write the object's name.",
    "kms_key": "Write the key's full name: projects/P/locations/L/keyRings/R/cryptoKeys/K.",
}

PERMISSIONS = (
    "cloudkms.cryptoKeyVersions.useToEncrypt",
    "storage.objects.create",
    "storage.objects.delete",
    "storage.objects.get",
)
"""On the key, and the objects. To replace an object is to delete the one before (docs: storage, IAM
permissions for JSON methods). Who may encrypt cannot open what it has sealed."""

STORAGE, KMS = "storage.googleapis.com", "cloudkms.googleapis.com"

SECRET, VERSION, FORMAT, CHECKSUM = (
    *("keyturn-secret", "keyturn-version"),
    *("keyturn-format", "keyturn-crc32c"),
)
"""What the metadata is called. The last is of the sealed bytes, as Cloud Storage writes its own."""

_NOTHING: Mapping[str, Any] = {"generation": ""}
_OVERTAKEN = b""
_LOST = {"FAILED_PRECONDITION": _OVERTAKEN}
"""412: another generation, or none (docs: storage, request preconditions)."""

_FIELDS = "generation,crc32c,metadata"


def make(kind: str, settings: GcsShape, given: Given) -> GcsBlob:
    """Make the destination that a plan names."""
    del kind
    return GcsBlob(
        given.clients(STORAGE, None),
        given.clients(KMS, None),
        bucket=settings.bucket,
        object_name=settings.object,
        kms_key=settings.kms_key,
        secret=given.ref or given.secret,
    )


class GcsBlob:
    """A `Destination`. Its marks are generations: no two writes of an object have the same.

    Args:
        storage: The API of Cloud Storage.
        kms: The API of Cloud KMS.
        bucket: The bucket's name.
        object_name: The object's name.
        kms_key: The full name of the key to seal with.
        secret: The secret's name.
    """

    def __init__(  # noqa: PLR0913  # all are named
        self,
        storage: GoogleApi,
        kms: GoogleApi,
        *,
        bucket: str,
        object_name: str,
        kms_key: str,
        secret: str,
    ) -> None:
        self._storage = storage
        self._kms = kms
        self._bucket = bucket
        self._object = object_name
        self._kms_key = kms_key
        self._secret = secret

    def name(self) -> str:
        """See `Destination.name`."""
        return f"gs://{self._bucket}/{self._object}"

    def holds(self) -> Held:
        """See `Destination.holds`."""
        path = f"/storage/v1/b/{_part(self._bucket)}/o/{_part(self._object)}?fields={_FIELDS}"
        found = self._storage.ask(
            "objects.get", self.name(), "GET", path, answers={"NOT_FOUND": _NOTHING}
        )
        metadata, mark = found.get("metadata", {}), str(found["generation"])
        secret = metadata.get(SECRET)
        if secret is None:
            return Held(None, mark)
        if secret != self._secret:
            raise Drifted(
                f"{self.name()} holds a copy of {secret}, not of {self._secret}",
                remedy="Give each secret an object of its own in the plan, or delete the object.",
            )
        # What is there is not what was sent with this metadata: to whoever reads, it is nothing.
        is_whole = metadata.get(CHECKSUM) == found.get("crc32c")
        return Held(RotationId(metadata.get(VERSION, "")) or None if is_whole else None, mark)

    def deliver(self, version: Version, text: Sensitive, seen: Held) -> None:
        """See `Destination.deliver`."""
        label = Label(self._secret, version.rotation_id)
        sealing = _sealing()
        sealed: bytes = sealing.seal(self._kms, self._kms_key, label, text)
        checksum = base64.b64encode(crc32c(sealed).to_bytes(4, "big")).decode()
        about = {
            "name": self._object,
            "contentType": "application/json",
            "cacheControl": "no-store",
            "crc32c": checksum,  # the service compares it with what arrives
            "metadata": {
                SECRET: self._secret,
                VERSION: version.rotation_id,
                FORMAT: sealing.FORMAT,
                CHECKSUM: checksum,
            },
        }
        # The call is made again by itself: what was there first may be our own.
        is_there = self._is_uploaded(about, sealed, seen)
        if not is_there and self.holds().version_id != version.rotation_id:
            raise Busy(
                f"{self.name()}: something else has been written there since we looked",
                remedy="Nothing: it is looked at again.",
            )

    def _is_uploaded(self, about: Mapping[str, object], sealed: bytes, seen: Held) -> bool:
        # Generation 0 is no object (docs: storage, request preconditions).
        query = f"uploadType=multipart&ifGenerationMatch={seen.mark or 0}&fields=generation"
        media_type, content = _multipart(about, sealed)
        said = self._storage.send(
            "objects.insert",
            self.name(),
            "POST",
            f"/upload/storage/v1/b/{_part(self._bucket)}/o?{query}",
            content,
            media_type=media_type,
            answers=_LOST,
        )
        return said is not _OVERTAKEN


def _multipart(about: Mapping[str, object], sealed: bytes) -> tuple[str, bytes]:
    """Return a body of metadata and bytes, and its type (RFC 2387)."""
    boundary = secrets.token_hex(16)
    between = f"\r\n--{boundary}\r\nContent-Type: application/json\r\n\r\n".encode()
    body = b"".join([between, json.dumps(about).encode(), between, sealed])
    return f"multipart/related; boundary={boundary}", body + f"\r\n--{boundary}--\r\n".encode()


def _part(name: str) -> str:
    return quote(name, safe="")


def _sealing() -> ModuleType:
    if importlib.util.find_spec("cryptography") is None:
        raise Unsupported(
            "sealed copies need `cryptography`",
            remedy="Install keyturn[seal], or deploy the function that delivers.",
        )
    from keyturn.destinations import cloud_sealing

    return cloud_sealing
