"""Google's REST APIs over real HTTP: a call is made, an answer read, a refusal becomes ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from keyturn import line
from keyturn.errors import Busy, Denied, KeyturnError, Misconfigured, Unreachable
from keyturn.google import api
from keyturn.model import Surroundings
from keyturn.testing import google_rest
from keyturn.testing.google_rest import Asked, refusal
from keyturn.testing.wire import NoReply, Refusal


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "PAUSE_S", 0.0)


@contextmanager
def reached(answer: google_rest.Answer) -> Iterator[api.GoogleApi]:
    with google_rest.served(answer) as endpoint:
        yield api.connect(
            "iam.googleapis.com", Surroundings(lambda: 60.0, google_endpoint=endpoint)
        )


def test_a_call_is_made_and_its_answer_read() -> None:
    got: list[Asked] = []

    def answer(asked: Asked) -> Mapping[str, Any]:
        got.append(asked)
        return {"name": "a"}

    with reached(answer) as iam:
        made = iam.ask("Make", "a", "PUT", "/v1/things/a%2Fb?force=true", {"size": 1})

    assert made == {"name": "a"}
    [asked] = got
    assert (asked.service, asked.method, asked.path) == (
        "iam.googleapis.com",
        "PUT",
        "/v1/things/a/b",
    )
    assert asked.query == {"force": "true"}
    assert asked.members == {"size": 1}
    assert asked.headers["authorization"] == "Bearer local"


def test_bytes_go_and_come_as_they_are() -> None:
    with reached(lambda asked: asked.body[::-1]) as iam:
        assert iam.send("Upload", "a", "POST", "/upload", b"\x00\x01") == b"\x01\x00"


@pytest.mark.parametrize(
    "code,kind",
    [
        ("PERMISSION_DENIED", Denied),
        ("UNAUTHENTICATED", Denied),
        ("NOT_FOUND", Misconfigured),
        ("INVALID_ARGUMENT", Misconfigured),
        ("ABORTED", Busy),
        ("UNAVAILABLE", Unreachable),
        ("RESOURCE_EXHAUSTED", Unreachable),
    ],
)
def test_a_refusal_is_ours_by_its_canonical_code(code: str, kind: type[KeyturnError]) -> None:
    def answer(_: Asked) -> Mapping[str, Any]:
        raise refusal(code, "Canary7-said-by-google")

    with reached(answer) as iam, pytest.raises(kind) as refused:
        iam.ask("Get", "a", "GET", "/v1/a")

    assert "Canary7" not in str(refused.value)


@pytest.mark.parametrize("status,kind", [(403, Denied), (404, Misconfigured), (409, Busy)])
def test_without_a_code_the_status_says_it(status: int, kind: type[KeyturnError]) -> None:
    def answer(_: Asked) -> Mapping[str, Any]:
        raise Refusal("", "no", status)

    with reached(answer) as sql, pytest.raises(kind):
        sql.ask("Get", "a", "GET", "/v1/a")


def test_a_code_may_be_an_answer() -> None:
    def answer(_: Asked) -> Mapping[str, Any]:
        raise refusal("NOT_FOUND", "no")

    with reached(answer) as iam:
        assert iam.ask("Get", "a", "GET", "/v1/a", answers={"NOT_FOUND": None}) is None


@pytest.mark.parametrize("is_repeatable,calls", [(True, line.TRIES), (False, 1)])
def test_only_what_is_repeatable_is_made_again(is_repeatable: bool, calls: int) -> None:  # noqa: FBT001
    got: list[Asked] = []

    def answer(asked: Asked) -> Mapping[str, Any]:
        got.append(asked)
        raise NoReply

    with reached(answer) as iam, pytest.raises(Unreachable):
        iam.ask("Make", "a", "POST", "/v1/a", {}, is_repeatable=is_repeatable)

    assert len(got) == calls


def test_what_is_no_json_is_no_answer() -> None:
    with reached(lambda _: b"<html>Canary7-page") as iam, pytest.raises(Unreachable) as refused:
        iam.ask("Get", "a", "GET", "/v1/a")

    assert "Canary7" not in str(refused.value)


@pytest.mark.parametrize(
    "address", ["http://10.0.0.1:80", "https://127.0.0.1:1", "http://x@evil.test"]
)
def test_a_stand_in_is_on_loopback(address: str) -> None:
    with pytest.raises(Misconfigured, match="loopback"):
        api.connect("iam.googleapis.com", Surroundings(lambda: 60.0, google_endpoint=address))


def test_nothing_is_asked_before_the_first_call() -> None:
    never: Callable[[], float] = lambda: pytest.fail("asked")  # noqa: E731

    api.connect("iam.googleapis.com", Surroundings(never))
