"""AWS on loopback: moto over the real wire, made faithful where a rotation would notice.

    request -> who calls (`calls`, `identities`) -> Secrets Manager (`secrets_manager`)
            -> moto (`patches`)

`LocalAws` is what `keyturn local up`, the demo and the tests start. Functions are real: the zip
that was deployed runs in a process of its own (`functions`) and calls back over the wire.
Nothing is kept: a stop forgets every resource. Signatures are checked by STS alone and IAM is not
enforced, so it listens on loopback only and proves nothing about permissions.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypedDict

from moto.moto_api._internal.models import moto_api_backend
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server

from keyturn.errors import Misconfigured
from keyturn.local import identities
from keyturn.local.calls import CLIENT_KEY_ID, CallLog
from keyturn.local.clock import Clock
from keyturn.local.functions import Functions
from keyturn.local.patches import applied, moto_patches
from keyturn.local.secrets_manager import RotationSettings, SecretsManager
from keyturn.local.watchdog import Watchdog

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

_ONE_AT_A_TIME = threading.Lock()
"""moto keeps its resources per process, so two local AWSs in one process would share them."""


class ClientSettings(TypedDict):
    """What `boto3.client` needs to reach a local AWS."""

    endpoint_url: str
    region_name: str
    aws_access_key_id: str
    aws_secret_access_key: str


class LocalAws:
    """One local AWS. Use it as a context manager, or call `start` and `stop`.

    There can be one per process at a time.

    Args:
        port: TCP port; 0 takes a free one, and keeps it if it is started again.
        region: The region that `settings` and `environment` name.
        rotation: What AWS leaves open about rotations.

    Attributes:
        log: Every API call, clients' and functions'.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        region: str = "us-east-1",
        rotation: RotationSettings | None = None,
    ) -> None:
        self.region = region
        self.log = CallLog()
        self._port = port
        self._rotation = rotation or RotationSettings()
        self._undo = contextlib.ExitStack()
        self._endpoint_url: str | None = None
        self._functions: Functions | None = None
        self._clock: Clock | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def endpoint_url(self) -> str:
        """Where it listens. Only while started."""
        if self._endpoint_url is None:
            raise Misconfigured("the local AWS is not running", remedy="Call start() first.")
        return self._endpoint_url

    def settings(self, caller: str = CLIENT_KEY_ID) -> ClientSettings:
        """Return the arguments for `boto3.client`.

        Args:
            caller: The access key id, by which `log` tells callers apart.
        """
        return {
            "endpoint_url": self.endpoint_url,
            "region_name": self.region,
            "aws_access_key_id": caller,
            "aws_secret_access_key": "local",
        }

    def environment(self) -> dict[str, str]:
        """Return the variables that send any AWS SDK, or the AWS CLI, here."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ACCESS_KEY_ID": CLIENT_KEY_ID,
            "AWS_SECRET_ACCESS_KEY": "local",
        }

    def settle(self, timeout_s: float = 30.0) -> bool:
        """Wait until no rotation and no event is under way. False if the time was up first."""
        return self._functions is None or self._functions.settle(timeout_s)

    def advance(self, by: timedelta) -> None:
        """Let time pass, and what becomes due on the way happen. See `keyturn.local.clock`."""
        if self._clock is None:
            raise Misconfigured("the local AWS is not running", remedy="Call start() first.")
        self._clock.advance(by)

    def start(self) -> None:
        """Serve.

        Raises:
            Misconfigured: Another one runs in this process, or the port is taken.
            Unsupported: moto is not the version that this is made for.
        """
        if not _ONE_AT_A_TIME.acquire(blocking=False):
            raise Misconfigured(
                "a local AWS runs in this process already", remedy="Stop it first, or use it."
            )
        with contextlib.ExitStack() as undo:
            undo.callback(_ONE_AT_A_TIME.release)
            self._serve(undo)
            self._undo = undo.pop_all()

    def stop(self) -> None:
        """End everything and forget every resource. Repeatable."""
        self._endpoint_url = self._functions = self._clock = None
        self._undo.close()

    def _serve(self, undo: contextlib.ExitStack) -> None:
        """Start, and put into *undo* how to stop, the last first."""
        _forget_resources()
        undo.callback(_forget_resources)
        folder = Path(tempfile.mkdtemp(prefix="keyturn-aws-"))
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        undo.callback(Watchdog(folder).dismiss)
        undo.enter_context(_quiet("werkzeug", "moto"))
        listening = undo.enter_context(_listening(self._port))
        self._port = listening.getsockname()[1]
        endpoint_url = f"http://127.0.0.1:{self._port}"
        functions = Functions(folder, endpoint_url)
        undo.enter_context(applied(moto_patches(functions, endpoint_url)))
        secrets_manager = SecretsManager(functions, self._rotation)
        moto = DomainDispatcherApplication(create_backend_app)
        application = self.log.recording(identities.serving(secrets_manager.serving(moto)))
        undo.enter_context(_served(application, listening))
        undo.callback(functions.stop)
        self._clock = Clock(functions, self.region)
        undo.callback(self._clock.close)
        self._endpoint_url, self._functions = endpoint_url, functions


def _forget_resources() -> None:
    moto_api_backend.reset()


@contextlib.contextmanager
def _quiet(*loggers: str) -> Iterator[None]:
    """Hold loggers at ERROR: they write request lines, and what moto cannot do."""
    before = {name: logging.getLogger(name).level for name in loggers}
    for name in loggers:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


@contextlib.contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    # Loopback, whatever anybody asks for: there is no authentication.
    try:
        listening = socket.create_server(("127.0.0.1", port))
    except OSError:
        raise Misconfigured(
            f"port {port} is taken", remedy="Choose another port, or let one be chosen."
        ) from None
    with listening:
        yield listening


@contextlib.contextmanager
def _served(application: WSGIApplication, listening: socket.socket) -> Iterator[None]:
    # Not moto's own ThreadedMotoServer: it never closes its socket, and lets nobody in front.
    host, port = listening.getsockname()
    server = make_server(
        host,
        port,
        application,
        threaded=True,
        request_handler=MotoRequestHandler,
        fd=listening.fileno(),
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.daemon = True
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
