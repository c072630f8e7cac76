"""Sealed copies in Cloud Storage: on a strict one of our own, and a strict Cloud KMS, over HTTP."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from keyturn import line, wiring
from keyturn.destinations.gcs_blob import (
    CHECKSUM,
    FIXES,
    FORMAT,
    PERMISSIONS,
    SECRET,
    SHAPES,
    VERSION,
    GcsBlob,
    make,
)
from keyturn.errors import Busy, Denied, Drifted, KeyturnError, Misconfigured, Unreachable
from keyturn.followers import Given
from keyturn.google.api import connect
from keyturn.model import Credential, RotationId, Sensitive, Surroundings, Version
from keyturn.ports import Held
from keyturn.testing import google_rest, strict_cloud_kms, strict_gcs
from keyturn.testing.contracts import MADE_AT, Depot, DestinationContract
from keyturn.testing.google_rest import Asked
from keyturn.testing.strict_cloud_kms import StrictCloudKms
from keyturn.testing.strict_gcs import Object, StrictGcs

CANARY = "Canary7-"
KEY = "projects/shop-42/locations/europe-west1/keyRings/secrets/cryptoKeys/copies"
REF = "projects/123456789/secrets/orders-db"
BUCKET, OBJECT = "shop-42-copies", "orders/db ä?.json"
PAGE = (Path(__file__).parents[2] / "docs" / "google-copies.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "PAUSE_S", 0.0)


def version(name: str) -> Version:
    return Version(RotationId(name), Credential("app", Sensitive(f"{CANARY}unused")), MADE_AT)


class Place:
    """A bucket, and a key to seal with."""

    def __init__(self) -> None:
        self.kms, self.gcs = StrictCloudKms(), StrictGcs()
        self.kms.add(KEY)
        self.gcs.buckets.add(BUCKET)
        self.surroundings = Surroundings(lambda: 60.0)

    def answer(self, asked: Asked) -> dict[str, Any] | bytes:
        services: dict[str, Callable[[Asked], dict[str, Any] | bytes]] = {
            strict_cloud_kms.SERVICE: self.kms.answer,
            strict_gcs.SERVICE: self.gcs.answer,
        }
        return services[asked.service](asked)

    def api(self, service: str, region: str | None = None) -> Any:
        assert region is None
        return connect(service, self.surroundings)

    def blob(self, *, secret: str = REF, kms_key: str = KEY, bucket: str = BUCKET) -> GcsBlob:
        return GcsBlob(
            self.api(strict_gcs.SERVICE),
            self.api(strict_cloud_kms.SERVICE),
            bucket=bucket,
            object_name=OBJECT,
            kms_key=kms_key,
            secret=secret,
        )

    def there(self) -> Object:
        return self.gcs.objects[BUCKET, OBJECT]

    def deliver(self, text: str, name: str = "v1", seen: Held | None = None) -> None:
        blob = self.blob()
        blob.deliver(version(name), Sensitive(text), seen or blob.holds())

    def reads(self) -> Sensitive | None:
        """Open the copy as the version that it says it is, by the reader of the docs."""
        if (BUCKET, OBJECT) not in self.gcs.objects:
            return None
        return self.opened(self.there().metadata[VERSION])

    def opened(self, name: str, secret: str = REF, body: bytes | None = None) -> Sensitive:
        return Sensitive(reader()(body or self.there().body, secret, name, self.decrypt).decode())

    def decrypt(self, kms_key: str, ciphertext: bytes, bound: bytes) -> bytes:
        """Decrypt as a client of Cloud KMS does."""
        body = {
            "ciphertext": base64.b64encode(ciphertext).decode(),
            "additionalAuthenticatedData": base64.b64encode(bound).decode(),
        }
        said = self.api(strict_cloud_kms.SERVICE).ask(
            "Decrypt", kms_key, "POST", f"/v1/{kms_key}:decrypt", body
        )
        return base64.b64decode(said["plaintext"])

    @contextmanager
    def outage(self) -> Iterator[None]:
        self.gcs.is_down = True
        try:
            yield
        finally:
            self.gcs.is_down = False

    @contextmanager
    def lose_reply(self) -> Iterator[None]:
        self.gcs.lost = 1
        yield
        self.gcs.lost = 0


def reader() -> Callable[..., bytes]:
    """Return the reader of docs/google-copies.md."""
    [text] = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    exec(text, names)  # noqa: S102  # our own page
    opened: Callable[..., bytes] = names["opened"]
    return opened


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    with google_rest.served(made.answer) as endpoint:
        made.surroundings = Surroundings(lambda: 60.0, google_endpoint=endpoint)
        yield made


class TestGcsBlob(DestinationContract):
    @pytest.fixture
    def depot(self, place: Place) -> Depot:
        return Depot(
            place.blob(),
            place.reads,
            lambda: _by_hand(place),
            Sensitive(""),
            "1 byte at least",
            lambda: place.kms.calls.count("decrypt"),
            place.outage,
            place.lose_reply,
        )


def _by_hand(place: Place) -> None:
    place.gcs.put(BUCKET, OBJECT, b"by hand")


def refusal(act: Callable[[], object]) -> KeyturnError:
    with pytest.raises(KeyturnError) as caught:
        act()
    return caught.value


def test_a_plan_makes_one(place: Place) -> None:
    """The secret's full name is what the copy is bound to, however the plan names it."""

    def never(*args: object) -> Any:
        raise AssertionError(args)

    shape = SHAPES["gcs"]
    settings = msgspec.convert({"bucket": BUCKET, "object": OBJECT, "kms_key": KEY}, shape)
    around = Given("orders-db", place.api, never, never, never, never, place.surroundings, ref=REF)

    blob = make("gcs", settings, around)
    blob.deliver(version("v1"), Sensitive(f"{CANARY}one"), blob.holds())

    assert blob.name() == f"gs://{BUCKET}/{OBJECT}"
    assert place.opened("v1") == Sensitive(f"{CANARY}one")
    own = {field.name for field in msgspec.structs.fields(shape)} - {"form", "member", "prefix"}
    assert set(FIXES) == {"gcs"} | own


@pytest.mark.parametrize("key", ["alias/secrets", f"{KEY}/cryptoKeyVersions/1", f"{KEY}\n", ""])
def test_what_is_no_key_is_refused_in_the_plan(key: str) -> None:
    """A version of a key, too: only the key itself encrypts with its primary version."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"bucket": "b", "object": "o", "kms_key": key}, SHAPES["gcs"])


def test_on_aws_there_is_none() -> None:
    """The function there has no credentials for it."""
    error = refusal(
        lambda: wiring.Aws.client(object.__new__(wiring.Aws), "storage.googleapis.com", None)
    )

    assert "runs on AWS" in str(error)


# ---------------------------------------------------------------------------- what is there


def test_the_object_says_what_it_is(place: Place) -> None:
    place.deliver(f"{CANARY}one")

    there = place.there()
    assert there.metadata == {
        SECRET: REF,
        VERSION: "v1",
        FORMAT: "keyturn-cloud-kms-1",
        CHECKSUM: there.crc32c,
    }
    assert set(json.loads(there.body)) == {"format", "kms_key", "key", "nonce", "text"}


def test_kms_never_gets_the_value(place: Place) -> None:
    """It gets a data key, another one for each copy, so size does not matter to it."""
    for name in ("v1", "v2"):
        place.deliver(f"{CANARY}{'x' * 70_000}", name)

    first, second = place.kms.plaintexts
    assert (len(first), len(second)) == (32, 32)
    assert first != second


@pytest.mark.parametrize("which", ["version", "secret", "kms key", "text", "cut off"])
def test_a_copy_opens_as_what_it_is_and_as_nothing_else(place: Place, which: str) -> None:
    """Put in the place of another, changed or cut off: an error, never a value."""
    place.deliver(f"{CANARY}one")
    sealed = json.loads(place.there().body)
    name, secret = "v1", REF
    if which == "version":
        name = "v2"
    if which == "secret":
        secret = "projects/123456789/secrets/other"
    if which == "kms key":
        sealed["kms_key"] = place.kms.add(KEY.replace("copies", "other"))
    if which == "text":
        text = bytearray(base64.b64decode(sealed["text"]))
        text[0] ^= 1
        sealed["text"] = base64.b64encode(text).decode()
    if which == "cut off":
        sealed["text"] = sealed["text"][:-4]
    body = json.dumps(sealed).encode()

    with pytest.raises(Exception):  # noqa: B017, PT011  # Cloud KMS refuses, or cryptography does
        place.opened(name, secret, body)


def test_the_data_key_alone_does_not_open_another_copy(place: Place) -> None:
    """The value is bound as well as its key: a forged pair of them does not open."""
    place.deliver(f"{CANARY}one")
    sealed = json.loads(place.there().body)

    from cryptography.exceptions import InvalidTag

    wrapped = base64.b64decode(sealed["key"])
    bound = f"keyturn-cloud-kms-1\n{REF}\nv1".encode()
    data_key = place.decrypt(KEY, wrapped, bound)
    with pytest.raises(InvalidTag):
        reader()(place.there().body, REF, "v2", lambda *_: data_key)


def test_another_secrets_copy_is_left_alone(place: Place) -> None:
    place.deliver(f"{CANARY}one")
    other = place.blob(secret="projects/123456789/secrets/other")

    with pytest.raises(Drifted, match=f"holds a copy of {REF}, not of"):
        other.holds()


def test_an_object_that_was_deleted_meanwhile_is_looked_at_again(place: Place) -> None:
    place.deliver(f"{CANARY}one")
    seen = place.blob().holds()
    place.gcs.objects.clear()

    with pytest.raises(Busy):
        place.deliver(f"{CANARY}two", "v2", seen)

    place.deliver(f"{CANARY}two", "v2")
    assert place.reads() == Sensitive(f"{CANARY}two")


def test_a_body_that_is_not_what_was_written_with_its_metadata_is_nothing(place: Place) -> None:
    """Somebody has copied the metadata to another body: it is delivered anew."""
    place.deliver(f"{CANARY}one")
    place.gcs.put(BUCKET, OBJECT, b"{}", metadata=place.there().metadata)

    assert place.blob().holds().version_id is None

    place.deliver(f"{CANARY}one")
    assert place.reads() == Sensitive(f"{CANARY}one")


# ---------------------------------------------------------------------------- the wire


@pytest.mark.parametrize("damage", ["asked", "answered"])
def test_what_kms_got_or_gave_damaged_is_not_written(place: Place, damage: str) -> None:
    """It could never be opened; and nobody would know until somebody tried."""
    place.kms.damage = damage

    with pytest.raises(Unreachable, match="damaged"):
        place.deliver(f"{CANARY}one")

    assert not place.gcs.objects
    place.kms.damage = ""
    place.deliver(f"{CANARY}one")
    assert place.reads() == Sensitive(f"{CANARY}one")


def test_what_arrives_damaged_is_refused_by_the_bucket(place: Place) -> None:
    """The upload has the checksum of its bytes."""
    before = place.gcs.answer

    class Damaging:
        def __call__(self, asked: Asked) -> dict[str, Any] | bytes:
            if asked.method == "POST":
                body = asked.body.replace(b'"text": "', b'"text": "A')
                headers = asked.headers
                asked = Asked(asked.service, "POST", asked.path, asked.query, body, headers)
            return before(asked)

    damaged = Damaging()

    def answer(asked: Asked) -> dict[str, Any] | bytes:
        return damaged(asked) if asked.service == strict_gcs.SERVICE else place.answer(asked)

    with google_rest.served(answer) as endpoint:
        place.surroundings = Surroundings(lambda: 60.0, google_endpoint=endpoint)
        error = refusal(lambda: place.deliver(f"{CANARY}one"))

    assert isinstance(error, KeyturnError)
    assert not place.gcs.objects


def test_a_look_is_one_call_and_a_delivery_three(place: Place) -> None:
    place.deliver(f"{CANARY}one")

    assert place.gcs.calls == ["GET", "POST/upload"]
    assert place.kms.calls == ["encrypt"]


def test_a_missing_right_and_a_missing_key_say_so(place: Place) -> None:
    place.gcs.closed.add(BUCKET)
    denied = refusal(lambda: place.blob().holds())
    place.gcs.closed.clear()
    missing = refusal(
        lambda: place.blob(kms_key=KEY.replace("copies", "gone")).deliver(
            version("v1"), Sensitive(f"{CANARY}one"), Held(None, "")
        )
    )
    place.kms.disabled.add(KEY)
    disabled = refusal(lambda: place.deliver(f"{CANARY}one"))

    assert isinstance(denied, Denied)
    assert isinstance(missing, Misconfigured)
    assert isinstance(disabled, Misconfigured)
    assert not place.gcs.objects


def test_a_bucket_that_is_not_there_is_no_race(place: Place) -> None:
    blob = place.blob(bucket="gone")

    error = refusal(lambda: blob.deliver(version("v1"), Sensitive(f"{CANARY}one"), blob.holds()))

    assert isinstance(error, Misconfigured)


def test_the_page_lists_the_rights() -> None:
    assert not [each for each in PERMISSIONS if f"`{each}`" not in PAGE]
