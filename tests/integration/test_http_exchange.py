"""What one request sends, where it goes, and what it believes."""

from __future__ import annotations

import http.client
import json
import logging
import re
import socket
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from keyturn import http_exchange
from keyturn.errors import Busy, Denied, KeyturnError, Misconfigured, Unreachable
from keyturn.http_api import Request
from keyturn.http_exchange import (
    LARGEST_BYTES,
    MISSING,
    Answer,
    Exchange,
    at,
    basic,
    document,
    next_page,
    require_ok,
)
from keyturn.model import Credential, Sensitive, Surroundings
from keyturn.testing.certificates import Authority

SECRET = "Canary7-an-api-key"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
PLENTY = Surroundings(lambda: 60.0)


Wrap = Callable[[socket.socket], socket.socket]


class Listener:
    """Notes what it is sent, and answers what it is told to."""

    def __init__(self, answer: bytes, wrap: Wrap | None) -> None:
        self.answer = answer
        self.got = b""
        self.pause_s = 0.0
        self._wrap = wrap
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"

    def serve(self) -> None:
        while True:
            try:
                line, _ = self._listener.accept()
                with self._wrap(line) if self._wrap else line as talk:
                    self._talk(talk)
            except OSError:
                if self._listener.fileno() < 0:
                    return

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _talk(self, line: socket.socket) -> None:
        while not self._is_whole() and (data := line.recv(65_536)):
            self.got += data
        if not self.pause_s:
            line.sendall(self.answer)
            return
        for byte in self.answer:
            line.sendall(bytes([byte]))
            time.sleep(self.pause_s)

    def _is_whole(self) -> bool:
        head, end, body = self.got.partition(b"\r\n\r\n")
        length = re.search(rb"Content-Length: (\d+)", head)
        return bool(end) and (length is None or len(body) >= int(length[1]))


@contextmanager
def listening(answer: bytes = OK, wrap: Wrap | None = None) -> Iterator[Listener]:
    listener = Listener(answer, wrap)
    threading.Thread(target=listener.serve, daemon=True).start()
    try:
        yield listener
    finally:
        listener.close()


def _request(listener: Listener, target: str = "/keys", **more: object) -> Request:
    return Request("GET", "http", listener.host, target, **more)  # type: ignore[arg-type]


def _send(listener: Listener, request: Request | None = None, **values: str) -> Answer:
    sent = {name: Sensitive(value) for name, value in values.items()}
    return Exchange({listener.host}, PLENTY).send(request or _request(listener), sent)


def _answer(status: int, body: bytes = b"{}") -> Answer:
    return Answer("GET /", status, "", body)


# ---------------------------------------------------------------------------- what is sent


def test_a_value_cannot_break_out_of_a_path_or_a_query() -> None:
    hostile = "../a b?c=d&e#f/g%2f\r\nX: y{name}"
    with listening() as listener:
        _send(listener, _request(listener, "/keys/{id}?q={id}"), id=hostile, name="no")

    encoded = b"..%2Fa%20b%3Fc%3Dd%26e%23f%2Fg%252f%0D%0AX%3A%20y%7Bname%7D"
    first = listener.got.split(b"\r\n")[0]
    assert first == b"GET /keys/" + encoded + b"?q=" + encoded + b" HTTP/1.1"


@pytest.mark.parametrize("hostile", ["a\r\nX: y", "a\nb", "a\x00", "ä", "a\x7f"])
def test_a_value_cannot_break_out_of_a_header(hostile: str) -> None:
    with listening() as listener, pytest.raises(Misconfigured, match="the header X-Key"):
        _send(listener, _request(listener, headers={"X-Key": "{id}"}), id=hostile)

    assert listener.got == b""


def test_a_value_cannot_break_out_of_a_body() -> None:
    hostile = '","admin":true,"\\\u2028'
    with listening() as listener:
        _send(listener, _request(listener, json={"a": ["{id}"], "n": 1}), id=hostile)
    assert json.loads(listener.got.partition(b"\r\n\r\n")[2]) == {"a": [hostile], "n": 1}

    with listening() as listener:
        _send(listener, _request(listener, form={"a": "{id}"}), id="x&admin=1 +%")
    assert listener.got.endswith(b"\r\n\r\na=x%26admin%3D1+%2B%25")


def test_basic_is_as_in_the_standard() -> None:
    made = basic(Credential("Aladdin", Sensitive("open sesame")))

    assert made == Sensitive("QWxhZGRpbjpvcGVuIHNlc2FtZQ==")  # RFC 7617, section 2


# ---------------------------------------------------------------------------- where it goes


def test_only_hosts_that_are_listed_are_asked() -> None:
    with listening() as listener:
        for hosts in ({"api.example.com"}, {"127.0.0.1"}, set[str]()):
            with pytest.raises(Denied, match="not a host that the plan lists"):
                Exchange(hosts, PLENTY).send(_request(listener), {})

    assert listener.got == b""


def test_no_redirect_is_followed() -> None:
    with listening() as elsewhere:
        location = f"Location: http://{elsewhere.host}/\r\n".encode()
        moved = b"HTTP/1.1 307 Moved\r\n" + location + b"Content-Length: 0\r\n\r\n"
        with listening(moved) as listener:
            answer = _send(listener)

    with pytest.raises(Misconfigured, match="answered 307"):
        require_ok(answer)
    assert elsewhere.got == b""


def test_no_proxy_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening() as proxy, listening() as listener:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://{proxy.host}")
        _send(listener)

    assert proxy.got == b""
    assert listener.got


class Line(socket.socket):
    """A connection to that address."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self._address = address

    def getpeername(self) -> tuple[str, int]:
        return (self._address, 80)


@pytest.mark.parametrize(
    "address",
    [
        *("169.254.169.254", "169.254.170.2", "100.100.100.200"),
        *("::ffff:169.254.169.254", "fe80::1%eth0", "fd00:ec2::254"),
    ],
)
def test_a_name_that_leads_to_the_cloud_itself_is_refused(address: str) -> None:
    """Clouds hand out credentials there. The address itself may be listed."""
    look = http_exchange._require_no_metadata  # noqa: SLF001
    listed = f"[{address.partition('%')[0]}]" if ":" in address else address
    with Line(address) as line:
        for host in ("api.example.com", "api.example.com:80", f"{listed.strip('[]')}.example.com"):
            with pytest.raises(Denied, match="the cloud itself"):
                look(line, host)
        look(line, listed)
        look(line, f"{listed}:80")


def test_a_name_that_leads_to_the_cloud_itself_is_asked_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before a byte is sent. Loopback stands for the cloud's address here."""
    monkeypatch.setattr(http_exchange, "_METADATA", {"127.0.0.1"})
    with listening() as listener:
        host = f"localhost:{listener.port}"
        with pytest.raises(Denied, match="the cloud itself"):
            Exchange({host}, PLENTY).send(Request("GET", "http", host, "/"), {})

    assert listener.got == b""


def test_any_other_address_may_be_led_to() -> None:
    for address in ("10.0.0.1", "127.0.0.1", "93.184.216.34", "2001:db8::1"):
        with Line(address) as line:
            http_exchange._require_no_metadata(line, "api.example.com")  # noqa: SLF001


def test_plain_text_is_for_hosts_that_the_deployment_lists() -> None:
    request = Request("GET", "http", "api.example.com", "/")

    with pytest.raises(Misconfigured, match="not a host for plain text"):
        Exchange({"api.example.com"}, PLENTY).send(request, {})


NEXT = Request("GET", "https", "api.example.com", "/keys?a=1", {"X": "{admin_secret}"})


@pytest.mark.parametrize(
    "url,target",
    [
        ("/keys?page=2", "/keys?page=2"),
        ("?page=2", "/keys?page=2"),
        ("https://api.example.com/other", "/other"),
    ],
)
def test_a_next_page_is_on_the_same_host(url: str, target: str) -> None:
    assert next_page(NEXT, url).target == target


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example.com/keys",
        "//evil.example.com/keys",
        "http://api.example.com/keys",
        "https://api.example.com:444/keys",
        "https://api.example.com@evil.example.com/",
        "https://user@api.example.com/",
        "file:///etc/passwd",
        "https://[",
    ],
)
def test_a_next_page_elsewhere_is_refused(url: str) -> None:
    with pytest.raises(Denied, match="another host"):
        next_page(NEXT, url)


@pytest.mark.parametrize("url", ["/a b", "/keys?x={admin_secret}", "/\r\nX: y", "/ä"])
def test_a_next_page_with_an_odd_url_is_refused(url: str) -> None:
    """It comes from outside: what looks like a placeholder is none."""
    try:
        assert "{" not in next_page(NEXT, url).target
    except Unreachable:
        return
    assert url == "/\r\nX: y"  # which the parser has stripped


# ---------------------------------------------------------------------------- TLS


def _tls(folder: Path, name: str, host: str) -> tuple[Authority, ssl.SSLContext]:
    authority = Authority(folder, name)
    issued = authority.issue(host)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.certificate, issued.key)
    return authority, context


@pytest.mark.parametrize("fault", ["", "authority", "host"])
def test_a_certificate_is_verified(tmp_path: Path, fault: str) -> None:
    host = "other.example.com" if fault == "host" else "127.0.0.1"
    authority, context = _tls(tmp_path, "ours", host)
    trusted = str(authority.file) if fault != "authority" else None
    surroundings = Surroundings(lambda: 60.0, ca_file=trusted)

    def wrap(line: socket.socket) -> socket.socket:
        return context.wrap_socket(line, server_side=True)

    with ExitStack() as stack:
        listener = stack.enter_context(listening(wrap=wrap))
        headers = {"Authorization": "Bearer {secret}"}
        request = Request("GET", "https", listener.host, "/", headers)
        exchange = Exchange({listener.host}, surroundings)
        if fault:
            with pytest.raises(Misconfigured, match="certificate"):
                exchange.send(request, {"secret": Sensitive(SECRET)})
            assert listener.got == b""
        else:
            assert exchange.send(request, {"secret": Sensitive(SECRET)}).status == 200


# ---------------------------------------------------------------------------- what is believed


def test_an_answer_that_drips_ends_by_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes in time, the whole does not."""
    monkeypatch.setattr(http_exchange, "TIMEOUT_S", 0.5)
    started = time.monotonic()
    with listening() as listener:
        listener.pause_s = 0.1
        with pytest.raises(Unreachable):
            _send(listener)

    assert time.monotonic() - started < 3


def test_no_request_is_made_when_the_time_is_up() -> None:
    with listening() as listener, pytest.raises(Unreachable, match="no time is left"):
        Exchange({listener.host}, Surroundings(lambda: 0.5)).send(_request(listener), {})

    assert listener.got == b""


HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"garbage\r\n\r\n",
        HEAD + b"Content-Length: 5\r\n\r\n{}",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{}",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        HEAD + b"X: y\r\n" * 300 + b"\r\n{}",
        HEAD + b"Content-Length: 2000000\r\n\r\n" + b" " * 2_000_000,
        HEAD + b"\r\n" + b" " * (LARGEST_BYTES + 1),
    ],
)
def test_an_answer_that_is_not_whole_is_none(answer: bytes) -> None:
    with listening(answer) as listener, pytest.raises(Unreachable):
        _send(listener)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b'{"a":1,"a":2}',
        b'{"a":NaN}',
        b"[" * 100_000,
        b'{"a":1}x',
        b"\xef\xbb\xbf{}",
    ],
)
def test_json_is_read_strictly(body: bytes) -> None:
    with pytest.raises(Unreachable, match="not JSON") as caught:
        document(_answer(200, body))

    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "status,kind",
    [
        *((status, Unreachable) for status in (408, 425, 429, 500, 502, 503, 504, 599)),
        *((status, Denied) for status in (401, 403)),
        *((status, Misconfigured) for status in (301, 302, 303, 307, 308, 400, 404, 405, 422)),
        (409, Busy),
    ],
)
def test_a_status_says_what_to_do(status: int, kind: type[KeyturnError]) -> None:
    with pytest.raises(kind, match=f"answered {status}"):
        require_ok(_answer(status, SECRET.encode()))


def test_a_pointer_leads_where_the_standard_says() -> None:
    """RFC 6901, section 5."""
    tree = {"foo": ["bar", "baz"], "": 0, "a/b": 1, "m~n": 8, " ": 7, "~1": 2}

    found = [at(tree, p) for p in ("", "/foo", "/foo/1", "/", "/a~1b", "/m~0n", "/ ", "/~01")]

    assert found == [tree, ["bar", "baz"], "baz", 0, 1, 8, 7, 2]
    for pointer in ("/none", "/foo/2", "/foo/-", "/foo/bar", "/foo/0/x", "/foo/²"):
        assert at(tree, pointer) is MISSING


# ---------------------------------------------------------------------------- what is told


def test_nothing_that_was_sent_or_received_is_told(
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor where somebody has switched on what prints each request."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)
    body = json.dumps({"secret": SECRET}).encode()
    length = f"Content-Length: {len(body)}\r\n\r\n".encode()
    said = []
    with listening(HEAD + length + body) as listener:
        request = _request(listener, headers={"Authorization": "Bearer {secret}"})
        answer = _send(listener, request, secret=SECRET)
        said += [repr(answer), repr(request)]
    with listening(HEAD + length + body[:-5]) as listener:
        try:
            request = _request(listener, headers={"Authorization": "Bearer {secret}"})
            _send(listener, request, secret=SECRET)
        except Unreachable as error:
            said += [str(error), error.remedy, repr(error.__context__), repr(error.__cause__)]

    told = "".join([*said, caplog.text, *capsys.readouterr()])
    assert len(said) == 6
    assert SECRET not in told
    assert b64encode(SECRET.encode()).decode() not in told
