"""A Cloud Storage of our own, as far as small objects go: `answer`, for `google_rest.served`.

As the service it is strict: names are one encoded part of the path, an upload has two parts, a
checksum in its metadata is compared with what arrives, a generation that is asked for must be the
object's, every write has a generation of its own. It knows no IAM; a bucket may be closed. Its
refusals have an HTTP status and no canonical code. Only tests use it.
"""

from __future__ import annotations

import base64
import email
import email.policy
import json
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from keyturn.crc32c import crc32c
from keyturn.testing.google_rest import Asked
from keyturn.testing.wire import NoReply, Refusal

SERVICE = "storage.googleapis.com"

_KNOWN = {"name", "contentType", "cacheControl", "crc32c", "metadata"}
_QUERY = {"uploadType", "ifGenerationMatch", "fields"}
_FIRST = 1_900_000_000_000_000
"""Generations are microseconds, and may be told as such; only that they grow is promised."""


@dataclass(frozen=True, slots=True)
class Object:
    """One object, as it is."""

    generation: int
    body: bytes
    about: dict[str, Any]

    @property
    def crc32c(self) -> str:
        """Return its checksum as the service writes it: Base64, big-endian."""
        return checksum(self.body)

    @property
    def metadata(self) -> dict[str, str]:
        """Return what whoever wrote it says of it."""
        found: dict[str, str] = self.about.get("metadata", {})
        return found


def checksum(body: bytes) -> str:
    """Return a CRC32C as the service writes it."""
    return base64.b64encode(crc32c(body).to_bytes(4, "big")).decode()


@dataclass(slots=True)
class StrictGcs:
    """The service.

    Attributes:
        objects: By bucket and name.
        calls: Each request that was answered: its method, and what of the service it is for.
        closed: Buckets that nobody may use.
        lost: So many writes take effect and are not answered.
        is_down: It gives no answer.
    """

    objects: dict[tuple[str, str], Object] = field(default_factory=dict)
    buckets: set[str] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)
    closed: set[str] = field(default_factory=set)
    lost: int = 0
    is_down: bool = False
    _generation: int = _FIRST

    def put(self, bucket: str, name: str, body: bytes, **about: Any) -> Object:
        """Write an object, as somebody does."""
        self._generation += 1
        made = Object(self._generation, body, about)
        self.objects[bucket, name] = made
        return made

    def answer(self, asked: Asked) -> dict[str, Any] | bytes:
        """Answer one call."""
        if self.is_down:
            raise NoReply
        raw = urlsplit(asked.headers[":path"]).path
        found = re.fullmatch(rf"/{SERVICE}(/upload)?/storage/v1/b/([^/]+)/o(?:/([^/]+))?", raw)
        if found is None:
            raise _refused(404, "Not Found")
        bucket, name = unquote(found[2]), unquote(found[3] or "")
        if bucket in self.closed:
            raise _refused(403, "Permission denied on resource (or it may not exist).")
        if bucket not in self.buckets:
            raise _refused(404, "The specified bucket does not exist.")
        self.calls.append(f"{asked.method}{found[1] or ''}")
        if asked.method == "GET" and name and not found[1]:
            return self._shown(bucket, name, asked)
        if asked.method == "POST" and found[1] and not name:
            return self._inserted(bucket, asked)
        raise _refused(400, f"the strict Cloud Storage has no {asked.method} there")

    def _shown(self, bucket: str, name: str, asked: Asked) -> dict[str, Any] | bytes:
        found = self.objects.get((bucket, name))
        if found is None:
            raise _refused(404, f"No such object: {bucket}/{name}")
        if asked.query.get("alt") == "media":
            return found.body
        shown = {
            "kind": "storage#object",
            "name": name,
            "bucket": bucket,
            "generation": str(found.generation),
            "metageneration": "1",
            "size": str(len(found.body)),
            "crc32c": found.crc32c,
            **{key: value for key, value in found.about.items() if value},
        }
        wanted = asked.query.get("fields")
        return {k: v for k, v in shown.items() if wanted is None or k in wanted.split(",")}

    def _inserted(self, bucket: str, asked: Asked) -> dict[str, Any]:
        if asked.query.keys() - _QUERY or asked.query.get("uploadType") != "multipart":
            raise _refused(400, "the strict Cloud Storage takes multipart uploads only")
        about, body = _parts(asked)
        if about.keys() - _KNOWN or not about.get("name"):
            raise _refused(400, "Required: name; unknown fields are none.")
        if about.get("crc32c", checksum(body)) != checksum(body):
            raise _refused(400, "Provided CRC32C doesn't match calculated CRC32C.")
        there = self.objects.get((bucket, about["name"]))
        wanted = asked.query.get("ifGenerationMatch")
        if wanted is not None and int(wanted) != (there.generation if there else 0):
            raise _refused(412, "At least one of the pre-conditions you specified did not hold.")
        told = {key: about[key] for key in ("contentType", "metadata") if key in about}
        made = self.put(bucket, about["name"], body, **told)
        if self.lost:
            self.lost -= 1
            raise NoReply
        return {"generation": str(made.generation)}


def _parts(asked: Asked) -> tuple[dict[str, Any], bytes]:
    """Read a body of two parts (RFC 2387)."""
    head = f"Content-Type: {asked.headers['content-type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + asked.body, policy=email.policy.HTTP)
    parts = list(message.iter_parts()) if message.is_multipart() else []
    if message.get_content_type() != "multipart/related" or len(parts) != 2:  # noqa: PLR2004  # metadata, media
        raise _refused(400, "Malformed multipart body.")
    about, body = (bytes(part.get_payload(decode=True)) for part in parts)
    return json.loads(about), body


def _refused(status: int, message: str) -> Refusal:
    """Refuse as the JSON API does: by the HTTP status, without a canonical code."""
    return Refusal("", message, status)
