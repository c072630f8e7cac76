"""The crash sweep on AWS: a strict Secrets Manager behind a proxy, and whoever starts rotations."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import ClassVar, Self

from keyturn.testing.bench import Event
from keyturn.testing.faults import Interrupt, Proxy
from keyturn.testing.strict_secrets_manager import (
    CURRENT,
    PENDING,
    REGION,
    STEPS,
    StoredVersion,
    StrictSecretsManager,
)


class AwsVault:
    """The strict Secrets Manager, behind a proxy.

    Attributes:
        store: The service itself.
    """

    FUNCTION: ClassVar[str] = f"arn:aws:lambda:{REGION}:123456789012:function:keyturn-proof"

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._kept: list[str] = []

    def __enter__(self) -> Self:
        self.store = self._stack.enter_context(StrictSecretsManager())
        self._line = self._stack.enter_context(Proxy(self.store.port))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def environment(self) -> Mapping[str, str]:
        """See `Vault.environment`."""
        settings = self.store.settings()
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._line.port}",
            "AWS_DEFAULT_REGION": settings["region_name"],
            "AWS_ACCESS_KEY_ID": settings["aws_access_key_id"],
            "AWS_SECRET_ACCESS_KEY": settings["aws_secret_access_key"],
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def arm(self, interrupt: Interrupt) -> None:
        """See `Vault.arm`."""
        self._line.reset(interrupt)

    def release(self) -> None:
        """See `Vault.release`."""
        self._line.release()

    def keep(self, document: str) -> AwsSecret:
        """See `Vault.keep`."""
        made = self.store.operate(
            "CreateSecret",
            Name=f"proof/{os.urandom(6).hex()}",
            SecretString=document,
            ClientRequestToken=_unused_token(),
        )
        self._kept.append(made["ARN"])
        return AwsSecret(self.store, made["ARN"])

    def clear(self) -> None:
        """See `Vault.clear`."""
        while self._kept:
            ref = self._kept.pop()
            self.store.operate("DeleteSecret", SecretId=ref, ForceDeleteWithoutRecovery=True)

    def throttle(self) -> None:
        """See `Vault.throttle`."""
        self.store.throttle(1)

    def be_stale(self) -> None:
        """See `Vault.be_stale`."""
        self.store.stale_reads(sys.maxsize)

    def mend(self) -> None:
        """See `Vault.mend`."""
        self.store.mend()


class AwsSecret:
    """A secret of the strict Secrets Manager."""

    def __init__(self, store: StrictSecretsManager, ref: str) -> None:
        self._store = store
        self.ref = ref

    def begin(self, token: str) -> None:
        """See `Secret.begin`. A new, empty version is labelled pending."""
        if token in {version.version_id for version in self._versions()}:
            return
        if self._holder(PENDING) != self._holder(CURRENT):
            self.abandon()
        self._store.operate(
            "RotateSecret",
            SecretId=self.ref,
            ClientRequestToken=token,
            RotationLambdaARN=AwsVault.FUNCTION,
        )

    def steps(self, token: str) -> Iterable[tuple[str, Event]]:
        """See `Secret.steps`."""
        asked = {"SecretId": self.ref, "ClientRequestToken": token}
        return [(step, {"Step": step, **asked}) for step in STEPS]

    def abandon(self) -> None:
        """See `Secret.abandon`. The label is taken off, as API_CancelRotateSecret tells one to."""
        pending = self._holder(PENDING)
        if pending:
            self._store.operate("CancelRotateSecret", SecretId=self.ref)
            self._store.operate(
                "UpdateSecretVersionStage",
                SecretId=self.ref,
                VersionStage=PENDING,
                RemoveFromVersionId=pending,
            )

    def write(self, value: str) -> None:
        """See `Secret.write`."""
        self._store.operate(
            "PutSecretValue",
            SecretId=self.ref,
            SecretString=value,
            ClientRequestToken=_unused_token(),
        )

    def is_current(self, token: str) -> bool:
        """See `Secret.is_current`."""
        return self._holder(CURRENT) == token

    def pending(self) -> str:
        """See `Secret.pending`."""
        pending = self._holder(PENDING)
        return "" if pending == self._holder(CURRENT) else pending

    def _holder(self, label: str) -> str:
        return self._store.labels(self.ref).get(label, "")

    def current(self) -> str:
        """See `Secret.current`."""
        return next(_text(v) for v in self._versions() if CURRENT in v.labels)

    def served(self) -> Iterable[str]:
        """See `Secret.served`."""
        return [self.current()]

    def kept(self) -> Iterable[str]:
        """See `Secret.kept`."""
        return [_text(version) for version in self._versions() if version.value is not None]

    def _versions(self) -> list[StoredVersion]:
        return self._store.versions(self.ref)


def _text(version: StoredVersion) -> str:
    assert version.value is not None
    return version.value.reveal()


def _unused_token() -> str:
    return os.urandom(18).hex()
