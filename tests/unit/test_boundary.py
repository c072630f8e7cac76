"""Errors in, log lines out: nothing secret passes."""

from __future__ import annotations

import copy
import json
import logging
import pickle
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from hypothesis import given
from hypothesis import strategies as st

from keyturn.boundary import Scrubber, ask_aws, rotation_event, scrub
from keyturn.errors import Denied, KeyturnError, Misconfigured, Unreachable
from keyturn.model import Credential, Sensitive

CANARY = "Canary7"


@pytest.mark.parametrize(
    "code, status, expected",
    [
        ("AccessDeniedException", 400, Denied),
        ("DecryptionFailure", 400, Denied),
        ("ThrottlingException", 400, Unreachable),
        ("InternalServiceError", 500, Unreachable),
        ("NeverHeardOf", 503, Unreachable),
        ("NeverHeardOf", 400, Misconfigured),
        ("ResourceNotFoundException", 400, Misconfigured),
        ("InvalidRequestException", 400, Misconfigured),
        ("ExpiredTokenException", 400, Denied),
        ("LimitExceededException", 400, Unreachable),
        ("DBInstanceNotFound", 404, Misconfigured),
        ("DBClusterNotFoundFault", 404, Misconfigured),
        ("InvalidDBInstanceState", 400, Unreachable),
        ("InvalidDBClusterStateFault", 400, Unreachable),
        ("InvalidParameterCombination", 400, Misconfigured),
        ("InvalidParameterValue", 400, Misconfigured),
        ("ExpiredToken", 403, Denied),
        # HeadObject has no body: its code is the status.
        ("403", 403, Denied),
        ("301", 301, Misconfigured),
        ("NoSuchBucket", 404, Misconfigured),
        ("SlowDown", 503, Unreachable),
        ("NotFoundException", 400, Misconfigured),
        ("DisabledException", 400, Misconfigured),
        ("KMSInvalidStateException", 400, Misconfigured),
        ("DependencyTimeoutException", 503, Unreachable),
        ("TooManyUpdates", 400, Unreachable),
        ("HierarchyTypeMismatchException", 400, Misconfigured),
        ("ParameterPatternMismatchException", 400, Misconfigured),
        ("ParameterMaxVersionLimitExceeded", 400, Misconfigured),
        ("InvalidKeyId", 400, Misconfigured),
    ],
)
def test_an_aws_error_becomes_ours_by_its_code(
    code: str, status: int, expected: type[KeyturnError]
) -> None:
    def fail() -> None:
        raise ClientError(
            {
                "Error": {"Code": code, "Message": f"{CANARY} quoted"},
                "ResponseMetadata": {"HTTPStatusCode": status, "RequestId": "r-1"},  # type: ignore[typeddict-item]
            },
            "PutSecretValue",
        )

    with pytest.raises(expected, match=f"secret: PutSecretValue answered {code}") as caught:
        ask_aws("PutSecretValue", "secret", fail)

    assert type(caught.value) is expected
    assert caught.value.__context__ is None
    assert CANARY not in str(caught.value)


def test_a_code_that_is_an_answer_is_returned() -> None:
    def fail() -> str:
        raise ClientError({"Error": {"Code": "Gone", "Message": ""}}, "GetSecretValue")

    assert ask_aws("GetSecretValue", "secret", fail, answers={"Gone": "not there"}) == "not there"


def test_no_answer_is_unreachable() -> None:
    def fail() -> None:
        raise EndpointConnectionError(endpoint_url="https://example.com")

    with pytest.raises(Unreachable, match="got no answer"):
        ask_aws("GetSecretValue", "secret", fail)


def test_a_malformed_request_does_not_quote_itself() -> None:
    """ParamValidationError shows the value it refuses."""
    client = boto3.client("secretsmanager")

    with pytest.raises(Misconfigured, match="was not sent") as caught:
        ask_aws(
            "PutSecretValue",
            "secret",
            lambda: client.put_secret_value(SecretId="x", SecretString={"p": CANARY}),  # type: ignore[arg-type]
        )

    assert caught.value.__context__ is None
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        f'{{"username": "app", "password": "{CANARY}"}}',
        f'{{"password":"a\\"{CANARY}"}}',
        json.dumps({"SecretString": json.dumps({"password": CANARY})}),
        json.dumps({"x": json.dumps({"password": CANARY})}),
        f"{{'SecretString': '{CANARY}'}}",
        f"ALTER ROLE \"app\" PASSWORD '{CANARY}'",
        f"ALTER ROLE app PASSWORD 'it''s {CANARY}'",
        f"postgresql://app:{CANARY}@db:5432/x",
        f"host=db user=app password={CANARY} dbname=x",
        f"PASSWORD 'SCRAM-SHA-256$4096:{CANARY}$x:y'",
        f"SCRAM-SHA-256$4096:{CANARY}",
        f'{{"SecretAccessKey": "{CANARY}"}}',
        f'{{"RotationToken": "{CANARY}"}}',
        f'{{"private_key": "-----BEGIN\\n{CANARY}"}}',
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str) -> None:
    assert CANARY not in scrub(text)


def test_what_is_no_secret_stays() -> None:
    line = (
        "arn:aws:secretsmanager:eu-west-1:111122223333:secret:prod/db-a1B2c3 the user 'app' refused"
    )

    assert scrub(line) == line


@given(st.text())
def test_scrubbing_never_fails_and_settles(text: str) -> None:
    once = scrub(text)

    assert scrub(once) == once


def test_a_scrubbed_record_hides_arguments_and_tracebacks() -> None:
    error = ValueError(CANARY)
    record = logging.LogRecord(
        "x", logging.INFO, "x.py", 1, "password=%s", (CANARY,), (ValueError, error, None)
    )

    assert Scrubber().filter(record)
    assert CANARY not in logging.Formatter().format(record)
    assert "ValueError" in logging.Formatter().format(record)


@given(
    st.recursive(
        st.none() | st.text() | st.integers() | st.lists(st.text()),
        lambda x: st.dictionaries(
            st.sampled_from(["Step", "SecretId", "ClientRequestToken", "RotationToken"])
            | st.text(),
            x,
        ),
    )
)
def test_any_event_is_read_or_refused(event: object) -> None:
    with suppress(Misconfigured):
        rotation_event(event)


def test_a_sensitive_value_shows_nowhere() -> None:
    secret = Sensitive(CANARY)
    credential = Credential("app", secret, {"x": CANARY}, secret)

    for shown in (repr(secret), str(secret), f"{secret:>40}", repr(credential), str(credential)):
        assert CANARY not in shown
    leaks: list[Callable[[Any], object]] = [
        pickle.dumps,
        copy.copy,
        copy.deepcopy,
        json.dumps,
        hash,
    ]
    for leak in (*leaks, vars):
        with pytest.raises(TypeError):
            leak(secret)
    with pytest.raises(TypeError):
        asdict(credential)
    assert secret == Sensitive(CANARY)
    assert secret != Sensitive("x")
    assert secret != CANARY
