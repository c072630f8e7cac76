"""The generate function on Google: real framework, real Secret Manager protocol."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from google_functions import PARENT, Deployed, environment, lines
from keyturn.local.secret_manager import LocalSecretManager

FOLDER = Path(__file__).parents[2] / "events" / "generate"
OF_AWS = {"iam-access-key"}
SAMPLES = sorted(path for path in FOLDER.glob("*.json") if path.stem not in OF_AWS)


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalSecretManager]:
    with LocalSecretManager() as running:
        for name, value in environment(running).items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture
def generate() -> Deployed:
    return Deployed("generate", "http")


def asked(sample: Path) -> dict[str, Any]:
    """Return a sample, for a secret whose name is one of Google's."""
    found: dict[str, Any] = json.loads(sample.read_text())
    return {**found, "secret": found["secret"].replace("/", "-")}


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_every_sample_makes_a_value_and_tells_none(
    google: LocalSecretManager,
    generate: Deployed,
    capsys: pytest.CaptureFixture[str],
    sample: Path,
) -> None:
    request = asked(sample)

    status, answer = generate.post(request)

    assert status == 200, answer
    value = google.read(f"{PARENT}/secrets/{request['secret']}/versions/latest")
    assert answer["secret"] == request["secret"]
    assert value
    assert value not in json.dumps(answer)
    [line] = lines(capsys)
    assert (line["message"], line["severity"]) == ("step succeeded", "INFO")


def test_the_same_request_again_has_the_same_answer(
    google: LocalSecretManager, generate: Deployed
) -> None:
    request = {"generate": "hmac", "secret": "webhook", "request_id": "42"}
    _, first = generate.post(request)

    _, again = generate.post(request)

    assert again["fingerprint"] == first["fingerprint"]
    assert (first["outcome"], again["outcome"]) == ("done", "already_done")
    assert len(google.vault.look(f"{PARENT}/secrets/webhook").versions) == 1


REFUSED = {
    "no JSON": (None, 400, "Misconfigured"),
    "an unknown kind": ({"generate": "magic", "secret": "a"}, 400, "Misconfigured"),
    "an unknown key": ({"generate": "hmac", "secret": "a", "b": 1}, 400, "Misconfigured"),
    "no name of Google's": ({"generate": "hmac", "secret": "a/b"}, 400, "Misconfigured"),
    "another project's": (
        {"generate": "hmac", "secret": "projects/999/secrets/a"},
        403,
        "Denied",
    ),
}


@pytest.mark.parametrize("request_body,status,error", REFUSED.values(), ids=REFUSED)
def test_a_refusal_says_what_to_do(
    google: LocalSecretManager, generate: Deployed, request_body: Any, status: int, error: str
) -> None:
    found, answer = generate.post(request_body)

    assert (found, answer["error"]) == (status, error)
    assert answer["remedy"]
    assert google.calls == []


def test_a_name_outside_the_patterns_is_denied(
    google: LocalSecretManager, generate: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYTURN_SECRETS", "orders-*")

    status, answer = generate.post({"generate": "hmac", "secret": "billing"})

    assert (status, answer["error"]) == (403, "Denied")
    assert google.calls == []


def test_while_the_store_is_away_one_may_ask_again(
    google: LocalSecretManager, generate: Deployed
) -> None:
    with google.outage():
        status, answer = generate.post({"generate": "hmac", "secret": "a"})

    assert (status, answer["error"]) == (503, "Unreachable")
