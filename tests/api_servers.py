"""API servers that answer what a test says, byte by byte, and note what they were sent."""

from __future__ import annotations

import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from keyturn.access import Access
from keyturn.kubernetes.api import Kubernetes
from keyturn.model import Sensitive, Surroundings
from keyturn.testing.certificates import Issued

TOKEN = "Canary7-bearer-of-a-test"
PLENTY = Surroundings(lambda: 600.0)


class Script:
    """Answers one request after the other; the last answer is for all that follow.

    Attributes:
        got: The requests, heads and bodies.
        pause_s: Between two bytes of an answer.
    """

    def __init__(self, answers: tuple[bytes, ...], issued: Issued | None = None) -> None:
        self.answers = list(answers)
        self.got: list[bytes] = []
        self.pause_s = 0.0
        self._tls: ssl.SSLContext | None = None
        if issued is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(issued.certificate, issued.key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._port: int = self._listener.getsockname()[1]
        self.connections = 0

    @property
    def server(self) -> str:
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self._port}"

    @property
    def paths(self) -> list[str]:
        return [each.split(b" ")[1].decode() for each in self.got]

    def serve(self) -> None:
        while True:
            try:
                line, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._talk, args=[line], daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _talk(self, line: socket.socket) -> None:
        with suppress(OSError), line:
            line.settimeout(10)
            with self._tls.wrap_socket(line, server_side=True) if self._tls else line as talk:
                self.got.append(_request(talk))
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                if not self.pause_s:
                    talk.sendall(answer)
                    return
                for byte in answer:
                    talk.sendall(bytes([byte]))
                    time.sleep(self.pause_s)


def _request(line: socket.socket) -> bytes:
    got = b""
    while True:
        head, end, body = got.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        if end and (length is None or len(body) >= int(length[1])):
            return got
        data = line.recv(65_536)
        if not data:
            return got
        got += data


@contextmanager
def scripted(*answers: bytes, issued: Issued | None = None) -> Iterator[Script]:
    script = Script(answers, issued)
    threading.Thread(target=script.serve, daemon=True).start()
    try:
        yield script
    finally:
        script.close()


def answer(code: int, body: object = None, **headers: str) -> bytes:
    """Return an answer as bytes; a body that is none yet is written as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
    lines = {"Content-Length": str(len(content)), "Connection": "close", **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {code} Whatever\r\n{head}\r\n".encode() + content


def status(code: int, reason: str = "", **more: Any) -> bytes:
    """Return an answer that is a `Status`, whose message holds what nobody may ever see."""
    said: Mapping[str, Any] = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "message": "Canary7-told-by-the-server",
        "reason": reason,
        "code": code,
        **more,
    }
    return answer(code, said)


def client(
    server: str,
    *,
    ca: str | None = None,
    token: Callable[[bool], Sensitive] | None = None,
    surroundings: Surroundings = PLENTY,
) -> Kubernetes:
    def same(is_new: bool) -> Sensitive:  # noqa: FBT001  # see `Access.token`
        del is_new
        return Sensitive(TOKEN)

    return Kubernetes("a cluster", lambda: Access(server, ca, token or same), surroundings)
