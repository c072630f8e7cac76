"""Errors in, log lines out: nothing secret passes."""

from __future__ import annotations

import copy
import json
import logging
import pickle
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from google.api_core import exceptions as google_errors
from google.auth.exceptions import DefaultCredentialsError, TransportError
from hypothesis import given
from hypothesis import strategies as st

from keyturn.boundary import (
    FollowUpEvent,
    Scrubber,
    ask_aws,
    ask_google,
    follow_up_event,
    look_again,
    rotation_event,
    scrub,
)
from keyturn.errors import Busy, Denied, KeyturnError, Misconfigured, Unreachable
from keyturn.model import Credential, Happening, RotationId, SecretRef, Sensitive, Sighting

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


# ---------------------------------------------------------------------------- what follows

ARN = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:prod/orders/db-AbCdEf"
FOLLOW_UPS = {
    path.stem: json.loads(path.read_text())
    for path in sorted((Path(__file__).parents[2] / "events" / "follow-up").glob("*.json"))
}


def test_what_makes_a_follow_up_look_is_read() -> None:
    noon = datetime(2030, 1, 1, 12, tzinfo=UTC)
    sighting = Sighting(
        RotationId("8f14e45f-ceea-467f-a7f3-0d2c6a1b9e55"), datetime(2030, 1, 1, 13, tzinfo=UTC)
    )
    name, ref = SecretRef("prod/orders/db"), SecretRef(ARN)

    assert {stem: follow_up_event(event) for stem, event in FOLLOW_UPS.items()} == {
        "label-updated": FollowUpEvent(ref),
        "look-again": FollowUpEvent(name, sighting=sighting),
        "on-demand": FollowUpEvent(name, ("s3://prod-secrets/orders/db",), is_asked=True),
        "rotation-abandoned": FollowUpEvent(ref, happening=Happening.ABANDONED, at=noon),
        "rotation-failed": FollowUpEvent(ref, happening=Happening.FAILED, at=noon),
        "sweep": FollowUpEvent(None),
    }


def test_what_a_look_asks_for_is_what_the_next_one_reads() -> None:
    sighting = Sighting(RotationId("v1"), datetime(2030, 1, 1, 12, 34, 56, 789, tzinfo=UTC))

    message = look_again("prod/orders/db", sighting)

    assert follow_up_event({"Records": [{"body": message}]}).sighting == sighting


@pytest.mark.parametrize(
    "event, fact",
    [
        ([], "not an object"),
        ({}, "has no secret"),
        ({"secret": 7}, "not a string"),
        ({"secret": "a b"}, "neither a name nor a full ARN"),
        ({"secret": "a", "ony": []}, "unknown key 'ony'"),
        ({"secret": "a", "only": "b"}, "not a list of names"),
        ({"secret": "a", "seen": {}}, "unknown key 'seen'"),
        ({"sweep": False}, "not true and alone"),
        ({"sweep": True, "secret": "a"}, "not true and alone"),
        ({"Records": []}, "not exactly one record"),
        ({"Records": [{}, {}]}, "not exactly one record"),
        ({"Records": [{"body": "x"}]}, "no JSON object"),
        ({"Records": [{"body": '{"secret": "a", "only": []}'}]}, "unknown key 'only'"),
        ({"Records": [{"body": '{"secret": "a", "seen": 1}'}]}, "names no version"),
        (
            {"Records": [{"body": '{"secret": "a", "seen": {"version": "b"}}'}]},
            "a time that is none",
        ),
        (
            {
                "Records": [
                    {"body": '{"secret": "a", "seen": {"version": "b", "at": "2030-01-01"}}'}
                ]
            },
            "in no zone",
        ),
        ({"detail-type": "Secret Label Updated"}, "no detail"),
        ({**FOLLOW_UPS["label-updated"], "resources": ["arn:x"]}, "names no secret"),
        ({**FOLLOW_UPS["label-updated"], "detail-type": "Other"}, "does not know"),
        ({**FOLLOW_UPS["rotation-failed"], "detail": {"eventName": "Other"}}, "does not know"),
        (
            {**FOLLOW_UPS["rotation-failed"], "detail": {"eventName": "RotationFailed"}},
            "names no secret",
        ),
        ({**FOLLOW_UPS["rotation-failed"], "time": "noon"}, "a time that is none"),
    ],
)
def test_what_is_no_event_of_a_follow_up_is_refused(event: object, fact: str) -> None:
    with pytest.raises(Misconfigured, match=fact) as refusal:
        follow_up_event(event)

    assert "events/follow-up" in refusal.value.remedy


@given(
    st.recursive(
        st.none() | st.text() | st.integers() | st.lists(st.text()),
        lambda x: (
            st.dictionaries(
                st.sampled_from(["secret", "only", "sweep", "Records", "detail-type", "detail"])
                | st.text(),
                x,
            )
            | st.lists(x, max_size=2)
        ),
    )
)
def test_any_event_of_a_follow_up_is_read_or_refused(event: object) -> None:
    with suppress(Misconfigured):
        follow_up_event(event)


# ---------------------------------------------------------------------------- Google's errors


@pytest.mark.parametrize(
    "error, kind",
    [
        (google_errors.PermissionDenied, Denied),
        (google_errors.Unauthenticated, Denied),
        (google_errors.NotFound, Misconfigured),
        (google_errors.FailedPrecondition, Misconfigured),
        (google_errors.InvalidArgument, Misconfigured),
        (google_errors.AlreadyExists, Misconfigured),
        (google_errors.MethodNotImplemented, Misconfigured),
        (google_errors.ResourceExhausted, Unreachable),
        (google_errors.ServiceUnavailable, Unreachable),
        (google_errors.DeadlineExceeded, Unreachable),
        (google_errors.InternalServerError, Unreachable),
        (google_errors.Aborted, Busy),
        (google_errors.Cancelled, Unreachable),
        (google_errors.Unknown, Unreachable),
        (google_errors.DataLoss, Unreachable),
        (google_errors.GoogleAPIError, Unreachable),
        (DefaultCredentialsError, Denied),
        (TransportError, Unreachable),
    ],
)
def test_google_is_understood_by_its_canonical_codes(
    error: type[Exception], kind: type[KeyturnError]
) -> None:
    def fail() -> None:
        raise error("Canary7-quoted")

    with pytest.raises(kind) as caught:
        ask_google("AddSecretVersion", "secret", fail)

    assert "Canary7" not in str(caught.value)
    assert caught.value.__context__ is None


def test_a_canonical_code_may_be_an_answer() -> None:
    def fail() -> str:
        raise google_errors.NotFound("x")

    assert ask_google("GetSecret", "secret", fail, answers={"NOT_FOUND": "none"}) == "none"
