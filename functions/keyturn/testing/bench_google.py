"""The crash sweep on Google: a local Secret Manager over gRPC, and whoever sends its ticks."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, ClassVar, Self

from keyturn.local.secret_manager import LocalSecretManager, let_pass
from keyturn.local.secret_manager_rules import RefusedError
from keyturn.testing.bench import Event
from keyturn.testing.faults import Interrupt, Moment, Verdict

PROJECT = "123456789"
PARENT = f"projects/{PROJECT}"
ROTATE = "rotate"
"""The one step: a function on Google performs a whole rotation."""
LAG = 3
"""So many changes old reads may be."""


class GoogleVault:
    """The local Secret Manager. Its calls are counted at its own side of the wire.

    Attributes:
        google: The service itself.
    """

    FUNCTION: ClassVar[str] = "google"

    def __init__(self) -> None:
        self.google = LocalSecretManager()
        self.google.vault.quota = None  # Else a sweep would mostly wait.
        self._numbers = itertools.count(1)
        self._kept: list[str] = []
        self._is_throttled = False

    def __enter__(self) -> Self:
        self.google.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.google.__exit__(kind, error, trace)

    def environment(self) -> Mapping[str, str]:
        """See `Vault.environment`."""
        return {"KEYTURN_PROJECT": PROJECT, "KEYTURN_SECRET_MANAGER": self.google.address}

    def keep(self, document: str) -> GoogleSecret:
        """See `Vault.keep`. It has a companion."""
        name = f"proof-{next(self._numbers)}"
        for each in (name, f"{name}-pending"):
            self.google.operate(
                "CreateSecret",
                parent=PARENT,
                secret_id=each,
                secret={"replication": {"automatic": {}}},
            )
            self._kept.append(f"{PARENT}/secrets/{each}")
        made = GoogleSecret(self.google, f"{PARENT}/secrets/{name}")
        made.write(document)
        return made

    def clear(self) -> None:
        """See `Vault.clear`."""
        while self._kept:
            self.google.operate("DeleteSecret", name=self._kept.pop())

    def throttle(self) -> None:
        """See `Vault.throttle`. It is the call that is being made."""
        self._is_throttled = True

    def be_stale(self) -> None:
        """See `Vault.be_stale`."""
        self.google.vault.be_late(LAG, str(next(self._numbers)))

    def mend(self) -> None:
        """See `Vault.mend`."""
        self._is_throttled = False
        self.google.vault.be_late(0)

    def arm(self, interrupt: Interrupt) -> None:
        """See `Vault.arm`."""

        def at(number: int, method: str, moment: Moment) -> Verdict:
            del method
            verdict = interrupt(number, moment)
            if self._is_throttled:
                self._is_throttled = False
                raise RefusedError("RESOURCE_EXHAUSTED", "Quota exceeded for this secret.")
            return verdict

        self.google.interrupt = at

    def release(self) -> None:
        """See `Vault.release`."""
        self.google.interrupt, before = let_pass, self.google.interrupt
        self.google.release()
        self.google.interrupt = before


class GoogleSecret:
    """A secret of the local Secret Manager, and its companion."""

    def __init__(self, google: LocalSecretManager, ref: str) -> None:
        self._google = google
        self._companion = f"{ref}-pending"
        self._ticks: dict[str, str] = {}
        self.ref = ref

    def begin(self, token: str) -> None:
        """See `Secret.begin`. A tick has a time of its own, however often it is delivered."""
        if token not in self._ticks:
            self.abandon()
            self._ticks[token] = datetime.now(UTC).isoformat()

    def steps(self, token: str) -> Iterable[tuple[str, Event]]:
        """See `Secret.steps`."""
        return [(ROTATE, {"secret": self.ref, "message": token, "at": self._ticks[token]})]

    def abandon(self) -> None:
        """See `Secret.abandon`: docs/google.md, "To cancel a rotation"."""
        annotations = self._record()
        if annotations.pop("keyturn-pending", None) is not None:
            self._google.operate(
                "UpdateSecret",
                secret={"name": self._companion, "annotations": annotations},
                update_mask={"paths": ["annotations"]},
            )

    def write(self, value: str) -> None:
        """See `Secret.write`."""
        payload = {"data": value.encode()}
        self._google.operate("AddSecretVersion", parent=self.ref, payload=payload)

    def is_current(self, token: str) -> bool:
        """See `Secret.is_current`. And nobody who reads `latest` gets anything else."""
        number, _, rotation_id = self._record().get("keyturn-current", "").partition(":")
        if rotation_id != f"m{token}":
            return False
        return self._google.read(f"{self.ref}/versions/{number}") == self.current()

    def pending(self) -> str:
        """See `Secret.pending`."""
        return self._record().get("keyturn-pending", "").partition(":m")[2]

    def current(self) -> str:
        """See `Secret.current`: whoever reads `latest` gets it."""
        return self._google.read(f"{self.ref}/versions/latest")

    def served(self) -> Iterable[str]:
        """See `Secret.served`. Whatever number a reader is pinned to; aliases name the same."""
        return [data.decode() for data in self._held(self.ref).payloads.copy().values()]

    def kept(self) -> Iterable[str]:
        """See `Secret.kept`. In the companion each has a line above it."""
        beside = self._held(self._companion).payloads.copy().values()
        return [*self.served(), *(data.decode().partition("\n")[2] for data in beside)]

    def _record(self) -> dict[str, str]:
        return dict(self._held(self._companion).secret.annotations)

    def _held(self, name: str) -> Any:
        return self._google.vault.look(name)
