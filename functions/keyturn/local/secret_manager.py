"""Google Secret Manager on loopback: the API over real gRPC, with its faults and its delays.

    with LocalSecretManager(numbers={"shop": "123456789"}) as google:
        client = google.client()                     # the official one, over `google.address`
        client.create_secret(parent="projects/shop", secret_id="db", secret={...})
        google.listen(print)                         # what goes to the secrets' topics
        google.tick()                                # send SECRET_ROTATE for whatever is due
        google.read("projects/shop/secrets/db/versions/latest")      # past the wire
    google.operate("AddSecretVersion", parent=.., payload=..)    # the same: what somebody does
        google.calls                                 # the methods that were called; no payloads

What goes wrong:

    google.interrupt = decide            asked before and after each call; `keyturn.testing.faults`
    google.lose_reply()                  the next call has its effect, and its reply is lost
    google.release()                     let come what was held: nobody hears of it any more
    with google.outage(): ...            no answer to anything
    google.vault.be_late(3, seed="x")    `latest`, aliases, fields and lists: so many changes late
    google.vault.quota = 2               writes to one secret in a second

The parts:

    secret_manager_vault    what it holds, and what each call does to it
    secret_manager_rules    what it refuses

Written from the API's own definitions and documentation, which the parts name. Nothing here has
been compared with Google's own service: the texts of refusals and the delays are our reading. IAM,
audit, replicas, encryption, and calls that start Google's own rotation are missing. An address
without TLS is for loopback only.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

# Else gRPC does something in each process that is forked off, a database's for one, before that
# becomes another program; and under load it has died of it.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc
from google.cloud import secretmanager_v1
from google.cloud.secretmanager_v1 import types
from google.cloud.secretmanager_v1.services.secret_manager_service import transports

from keyturn.local.secret_manager_rules import RefusedError
from keyturn.local.secret_manager_vault import Notification, Vault
from keyturn.testing.faults import Moment, Verdict

SERVICE = "google.cloud.secretmanager.v1.SecretManagerService"
WORKERS = 8
HANG_S = 60.0
"""How long a call that is swallowed hangs at most: longer than any time-out of ours."""

METHODS: Mapping[str, tuple[str, Any]] = {
    "CreateSecret": ("create_secret", types.CreateSecretRequest),
    "GetSecret": ("get_secret", types.GetSecretRequest),
    "ListSecrets": ("list_secrets", types.ListSecretsRequest),
    "UpdateSecret": ("update_secret", types.UpdateSecretRequest),
    "DeleteSecret": ("delete_secret", types.DeleteSecretRequest),
    "AddSecretVersion": ("add_secret_version", types.AddSecretVersionRequest),
    "GetSecretVersion": ("get_secret_version", types.GetSecretVersionRequest),
    "ListSecretVersions": ("list_secret_versions", types.ListSecretVersionsRequest),
    "AccessSecretVersion": ("access_secret_version", types.AccessSecretVersionRequest),
    "EnableSecretVersion": ("enable_secret_version", types.EnableSecretVersionRequest),
    "DisableSecretVersion": ("disable_secret_version", types.DisableSecretVersionRequest),
    "DestroySecretVersion": ("destroy_secret_version", types.DestroySecretVersionRequest),
}
"""Every method that is served: what does it, and what it is sent."""

Interrupt = Callable[[int, str, Moment], Verdict]
"""Gets the number of a call, from 1, its method, and the moment. It may also raise, to no effect
but that the call ends."""


def let_pass(number: int, method: str, moment: Moment) -> Verdict:
    """Interrupt nothing."""
    del number, method, moment
    return Verdict.PASS


class LocalSecretManager:
    """A server of the API. Enter it to start it.

    Args:
        numbers: The numbers of projects, by their ids.
        now: Tells the time.

    Attributes:
        address: `127.0.0.1:40123`.
        vault: What it holds.
        calls: The methods that were called, in order.
        interrupt: Asked at both moments of each call; it may be replaced at any time.
    """

    def __init__(
        self,
        numbers: Mapping[str, str] | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.vault = Vault(now, numbers or {})
        self.calls: list[str] = []
        self.interrupt: Interrupt = let_pass
        self.address = ""
        self._lock = threading.RLock()
        self._held: list[Callable[[], object]] = []
        self._server: Any = None
        self._channels: list[Any] = []

    def __enter__(self) -> Self:
        self._server = grpc.server(futures.ThreadPoolExecutor(WORKERS))
        handlers = {name: self._handler(name) for name in METHODS}
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, handlers),)
        )
        port = self._server.add_insecure_port("127.0.0.1:0")
        self.address = f"127.0.0.1:{port}"
        self._server.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for channel in self._channels:
            channel.close()
        self._server.stop(None).wait()

    def client(self) -> Any:
        """Make the official client, without credentials."""
        channel = grpc.insecure_channel(self.address)
        self._channels.append(channel)
        transport = transports.SecretManagerServiceGrpcTransport(channel=channel)
        return secretmanager_v1.SecretManagerServiceClient(transport=transport)

    def listen(self, listener: Callable[[Notification], None]) -> None:
        """Have *listener* called with whatever is sent to the topics of any secret."""
        self.vault.listeners.append(listener)

    def tick(self) -> None:
        """Do what is due by now; call it after time has passed."""
        with self._lock:
            self.vault.tick()

    def read(self, name: str) -> str:
        """Return what a reader of a version gets right now, past the wire, delays and faults.

        Raises:
            RefusedError: There is nothing to be read.
        """
        with self._lock:
            return self.vault.read(name).decode()

    def operate(self, method: str, **asked: object) -> Any:
        """Do what somebody else does, past the wire, delays and faults. Nobody counts it.

        Raises:
            RefusedError: It may not be.
        """
        name, kind = METHODS[method]
        with self._lock:
            return getattr(self.vault, name)(kind(asked))

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Answer nothing until the block ends."""

        def cut(number: int, method: str, moment: Moment) -> Verdict:
            del number, method, moment
            return Verdict.CUT

        before, self.interrupt = self.interrupt, cut
        try:
            yield
        finally:
            self.interrupt = before

    def lose_reply(self, method: str = "") -> None:
        """Let the next call, of *method* if one is named, take effect and its reply be lost."""
        before = self.interrupt

        def lose(number: int, called: str, moment: Moment) -> Verdict:
            if moment is Moment.AFTER and method in {"", called}:
                self.interrupt = before
                return Verdict.CUT
            return before(number, called, moment)

        self.interrupt = lose

    def release(self) -> int:
        """Let come what was held, and return how much that was."""
        with self._lock:
            held, self._held = self._held, []
            for effect in held:
                with suppress(RefusedError):
                    effect()
        return len(held)

    def _handler(self, method: str) -> Any:
        name, kind = METHODS[method]
        effect = getattr(self.vault, name)

        def handle(request: Any, context: Any) -> Any:
            hung_up = threading.Event()
            if not context.add_callback(hung_up.set):
                hung_up.set()
            try:
                return self._serve(method, lambda: effect(request), hung_up)
            except RefusedError as refusal:
                context.abort(grpc.StatusCode[refusal.code], refusal.text)

        return grpc.unary_unary_rpc_method_handler(handle, kind.deserialize, _serialized)

    def _serve(self, method: str, effect: Callable[[], Any], hung_up: threading.Event) -> bytes:
        with self._lock:
            self.calls.append(method)
            number = len(self.calls)
        verdict = self.interrupt(number, method, Moment.BEFORE)
        if verdict is Verdict.HOLD:
            self._held.append(effect)
        if verdict is Verdict.SWALLOW:
            hung_up.wait(HANG_S)
        if verdict is not Verdict.PASS:
            raise _LOST
        with self._lock:
            answer = _serialize(effect())
        if self.interrupt(number, method, Moment.AFTER) is not Verdict.PASS:
            raise _LOST
        return answer


_LOST = RefusedError("UNAVAILABLE", "no answer")


def _serialize(message: Any) -> bytes:
    """Serialise while nothing changes it."""
    write = getattr(type(message), "serialize", None)
    data: bytes = write(message) if write else message.SerializeToString()
    return data


def _serialized(data: bytes) -> bytes:
    return data
