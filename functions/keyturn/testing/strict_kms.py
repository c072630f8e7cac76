"""A KMS of our own, as far as symmetric encryption goes.

    with StrictKms() as kms:
        arn = kms.add("alias/secrets")
        boto3.client("kms", **kms.settings())

Real SDKs talk to it. As the service it is strict: a ciphertext opens with its own key and exactly
its context; another key is an `IncorrectKeyException`, everything else that is wrong with one an
`InvalidCiphertextException`; keys may be disabled; lengths have limits. It enforces no policy.
Only tests use it.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyturn.testing.json_wire import JsonWire
from keyturn.testing.wire import NoReply, Refusal, Request, served

ACCOUNT, REGION = "123456789012", "eu-west-1"
PLAINTEXT_MAX_BYTES, CIPHERTEXT_MAX_BYTES = 4_096, 6_144
"""API_Encrypt, API_Decrypt."""
NONCE_BYTES = 12
START = bytes.fromhex("01020200")
"""How ciphertexts begin. What follows is ours: an id of 36 characters, a nonce, AES-GCM."""
ID_CHARACTERS = 36


@dataclass(slots=True)
class Key:
    """One key."""

    id: str
    material: bytes = field(repr=False)
    is_enabled: bool = True

    @property
    def arn(self) -> str:
        """Return its ARN."""
        return f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{self.id}"


@dataclass(slots=True)
class StrictKms:
    """The service. A context manager.

    Attributes:
        calls: The action of every request that was not refused, in order.
    """

    calls: list[str] = field(default_factory=list)
    _keys: dict[str, Key] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _port: int = 0
    _is_down: bool = False

    def __enter__(self) -> Self:
        self._port = self._stack.enter_context(served(JsonWire(), self._answer))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def settings(self) -> dict[str, Any]:
        """Return what a boto3 client needs to reach this."""
        return {
            "endpoint_url": f"http://127.0.0.1:{self._port}",
            "region_name": REGION,
            "aws_access_key_id": "test",
            "aws_secret_access_key": "test",
        }

    def add(self, alias: str) -> Key:
        """Make a key of that alias."""
        number = len(self._keys)
        key = Key(f"{number:08}-0000-4000-8000-000000000000", AESGCM.generate_key(256))
        self._keys[alias] = key
        return key

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        """Answer nothing, and do nothing, until the block ends."""
        self._is_down = True
        try:
            yield
        finally:
            self._is_down = False

    def _answer(self, request: Request) -> dict[str, Any]:
        with self._lock:
            if self._is_down:
                raise NoReply
            actions: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
                "Decrypt": self._decrypted,
                "Encrypt": self._encrypted,
                "GenerateDataKey": self._generated,
            }
            if request.action not in actions:
                raise Refusal("UnknownOperationException", "the strict KMS has no such action")
            answer = actions[request.action](request.parameters)
            self.calls.append(request.action)
            return answer

    def _encrypted(self, asked: dict[str, Any]) -> dict[str, Any]:
        key = self._named(asked["KeyId"])
        plain = _bytes(asked, "Plaintext", PLAINTEXT_MAX_BYTES)
        return {"KeyId": key.arn, "CiphertextBlob": _shown(_sealed(key, plain, _aad(asked)))}

    def _generated(self, asked: dict[str, Any]) -> dict[str, Any]:
        key, plain = self._named(asked["KeyId"]), AESGCM.generate_key(256)
        if asked.get("KeySpec") != "AES_256":
            raise Refusal("ValidationException", "the strict KMS makes AES_256 only")
        sealed = _sealed(key, plain, _aad(asked))
        return {"KeyId": key.arn, "CiphertextBlob": _shown(sealed), "Plaintext": _shown(plain)}

    def _decrypted(self, asked: dict[str, Any]) -> dict[str, Any]:
        ciphertext = _bytes(asked, "CiphertextBlob", CIPHERTEXT_MAX_BYTES)
        key = self._of(ciphertext)
        if "KeyId" in asked and self._named(asked["KeyId"]) is not key:
            raise Refusal("IncorrectKeyException", "The ciphertext was made with another key.")
        _require_enabled(key)
        plain = _opened(key, ciphertext, _aad(asked))
        return {"KeyId": key.arn, "Plaintext": _shown(plain)}

    def _named(self, name: str) -> Key:
        for alias, key in self._keys.items():
            if name in {alias, key.id, key.arn}:
                _require_enabled(key)
                return key
        raise Refusal("NotFoundException", "There is no such key.")

    def _of(self, ciphertext: bytes) -> Key:
        name = ciphertext[len(START) : len(START) + ID_CHARACTERS]
        for key in self._keys.values():
            if ciphertext.startswith(START) and name == key.id.encode():
                return key
        raise _invalid()


def _require_enabled(key: Key) -> None:
    if not key.is_enabled:
        raise Refusal("DisabledException", f"{key.arn} is disabled.")


def _invalid() -> Refusal:
    # No text: the service's own has none either.
    return Refusal("InvalidCiphertextException", "")


def _bytes(asked: dict[str, Any], member: str, longest: int) -> bytes:
    found = base64.b64decode(asked[member])
    if not 1 <= len(found) <= longest:
        raise Refusal("ValidationException", f"{member} must have 1 to {longest} bytes.")
    return found


def _aad(asked: dict[str, Any]) -> bytes:
    return json.dumps(asked.get("EncryptionContext", {}), sort_keys=True).encode()


def _sealed(key: Key, plain: bytes, aad: bytes) -> bytes:
    nonce = os.urandom(NONCE_BYTES)
    return START + key.id.encode() + nonce + AESGCM(key.material).encrypt(nonce, plain, aad)


def _opened(key: Key, ciphertext: bytes, aad: bytes) -> bytes:
    body = ciphertext[len(START) + ID_CHARACTERS :]
    try:
        return AESGCM(key.material).decrypt(body[:NONCE_BYTES], body[NONCE_BYTES:], aad)
    except (InvalidTag, ValueError):
        raise _invalid() from None


def _shown(plain: bytes) -> str:
    return base64.b64encode(plain).decode()
