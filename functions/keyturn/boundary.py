"""Where the outside meets the core: events in, foreign errors to ours, outcomes out, log set-up.

Called by adapters (`ask_aws`, `ask_google`) and by the entry points (`rotation_event`, `answer`,
`Telemetry`). Nothing secret passes outward here: errors of an SDK are turned into ours and left
behind, an unknown error is reduced to its type and place, and log records are scrubbed once more.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NoReturn, Protocol, TypeVar

from keyturn.document import kind_of
from keyturn.errors import Busy, Denied, KeyturnError, Misconfigured, Unreachable, Untraceable
from keyturn.model import Happening, Outcome, RotationId, SecretRef, Sensitive, Sighting, Step

T = TypeVar("T")

# ---------------------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class RotationEvent:
    """What Secrets Manager asks of a rotation function.

    Attributes:
        rotation_token: Present when the function works under an assumed role, as across
            accounts; PutSecretValue must then pass it on. Secret.
    """

    ref: SecretRef
    rotation_id: RotationId
    step: Step
    rotation_token: Sensitive | None


_STEPS = {
    name: step
    for step in Step
    # The user guide spells create_secret, the service and its templates createSecret.
    for name in (f"{step.value}_secret", f"{step.value}Secret")
}

# The six characters are Secrets Manager's own; with them the name cannot be mistaken for another.
_SECRET_ARN = re.compile(
    r"arn:[a-z0-9-]+:secretsmanager:[a-z0-9-]+:[0-9]{12}:secret:"
    r"(?P<name>[A-Za-z0-9/_+=.@-]{1,512})-[A-Za-z0-9]{6}"
)
_TOKEN = re.compile(r"[A-Za-z0-9-]{32,64}")  # API_RotateSecret: 32 to 64 characters
_ROTATION_TOKEN = re.compile(r"[A-Za-z0-9-]{36,256}")  # API_PutSecretValue, RotationToken


def rotation_event(event: object) -> RotationEvent:
    """Read a Secrets Manager rotation event.

    Raises:
        Misconfigured: Names the key and what is wrong with it.
    """
    if not isinstance(event, Mapping):
        _refuse_event(f"is {kind_of(event)}, not an object")
    step = _required(event, "Step")
    if step not in _STEPS:
        _refuse_event(f"has an unknown Step {step[:40]!a}")
    ref = _required(event, "SecretId")
    if not _SECRET_ARN.fullmatch(ref):
        _refuse_event("has a SecretId that is not the full ARN of a secret")
    rotation_id = _required(event, "ClientRequestToken")
    if not _TOKEN.fullmatch(rotation_id):
        _refuse_event("has a ClientRequestToken that is not 32 to 64 letters, digits and hyphens")
    return RotationEvent(
        SecretRef(ref), RotationId(rotation_id), _STEPS[step], _rotation_token(event)
    )


def secret_name(ref: SecretRef) -> str:
    """Return the name within a full ARN, as `rotation_event` has checked it."""
    match = _SECRET_ARN.fullmatch(ref)
    if match is None:
        _refuse_event("has a SecretId that is not the full ARN of a secret")
    return match["name"]


@dataclass(frozen=True, slots=True)
class GenerationEvent:
    """What somebody asks of the function that generates.

    Attributes:
        kind: Which kind of value, not yet checked.
        options: The options of the kind, not yet checked.
        request_id: Names the request. The same again makes nothing new.
    """

    ref: SecretRef
    kind: str
    options: Mapping[str, object]
    request_id: str
    overwrite: bool


_GENERATION_KEYS = ("generate", "policy", "secret", "request_id", "overwrite")
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,200}")


def generation_event(event: object, *, request_id: str) -> GenerationEvent:
    """Read an event of the function that generates. *request_id* is for those that have none.

    Raises:
        Misconfigured: Names the key and what is wrong with it.
    """
    if not isinstance(event, Mapping):
        _refuse_event(f"is {kind_of(event)}, not an object", _GENERATION)
    for key in event:
        if key not in _GENERATION_KEYS:
            _refuse_event(f"has the unknown key {str(key)[:40]!a}", _GENERATION)
    ref = _required(event, "secret", _GENERATION)
    if not is_secret_name(ref):
        _refuse_event("has a secret that is not a name of one", _GENERATION)
    asked = {"request_id": request_id, **event}
    if not _REQUEST_ID.fullmatch(_required(asked, "request_id", _GENERATION)):
        _refuse_event("has a request_id that is not 1 to 200 printable characters", _GENERATION)
    return GenerationEvent(
        SecretRef(ref),
        _required(event, "generate", _GENERATION),
        _options(event),
        str(asked["request_id"]),
        _overwrite(event),
    )


@dataclass(frozen=True, slots=True)
class FollowUpEvent:
    """What makes a follow-up look.

    Attributes:
        ref: At which secret; None for all that the plan has.
        only: Which of what follows it; none for all.
        sighting: What the look before has seen, if it asked for this one.
        happening: What became of a rotation, if it is that.
        at: When that was.
        is_asked: Somebody asks for this secret by name, and must hear if there is nothing to do.
    """

    ref: SecretRef | None
    only: tuple[str, ...] = ()
    sighting: Sighting | None = None
    happening: Happening | None = None
    at: datetime | None = None
    is_asked: bool = False


LABEL_UPDATED = "Secret Label Updated"
SERVICE_EVENT = "AWS Service Event via CloudTrail"
_HAPPENINGS = {
    "RotationFailed": Happening.FAILED,
    "RotationAbandoned": Happening.ABANDONED,
    "RotationSucceeded": None,
}


def follow_up_event(event: object) -> FollowUpEvent:
    """Read an event of the follow-up: EventBridge's, a schedule's, the queue's or a person's.

    Raises:
        Misconfigured: Names the key and what is wrong with it.
    """
    if not isinstance(event, Mapping):
        _refuse_event(f"is {kind_of(event)}, not an object", _FOLLOW_UP)
    if "detail-type" in event:
        return _service_event(event)
    if "Records" in event:
        return look_event(_only_record(event), {"secret", "seen"})
    if "sweep" in event:
        if dict(event) != {"sweep": True}:
            _refuse_event("has a sweep, and that is not true and alone", _FOLLOW_UP)
        return FollowUpEvent(None)
    return look_event(event, {"secret", "only"})


def look_again(name: str, sighting: Sighting) -> str:
    """Write the message that `follow_up_event` reads as the record of a queue."""
    seen = {"version": sighting.version_id, "at": sighting.at.isoformat()}
    return json.dumps({"secret": name, "seen": seen})


_FOLLOW_UP = "Send an event as in events/follow-up; docs/follow-up.md says what it may have."


def _service_event(event: Mapping[str, object]) -> FollowUpEvent:
    kind, detail = event["detail-type"], event.get("detail")
    if not isinstance(detail, Mapping):
        _refuse_event("has no detail that is an object", _FOLLOW_UP)
    if kind == LABEL_UPDATED:
        resources = event.get("resources")
        found = resources if isinstance(resources, list) else []
        for ref in found:
            if isinstance(ref, str) and _SECRET_ARN.fullmatch(ref):
                return FollowUpEvent(SecretRef(ref))
        _refuse_event("names no secret in its resources", _FOLLOW_UP)
    name = detail.get("eventName")
    if kind != SERVICE_EVENT or name not in _HAPPENINGS:
        _refuse_event("is of a kind that a follow-up does not know", _FOLLOW_UP)
    more = detail.get("additionalEventData")
    ref = more.get("SecretId") if isinstance(more, Mapping) else None
    if not isinstance(ref, str):
        _refuse_event("names no secret in its additionalEventData", _FOLLOW_UP)
    happening = _HAPPENINGS[str(name)]
    return FollowUpEvent(SecretRef(ref), happening=happening, at=_time(event.get("time")))


def _only_record(event: Mapping[str, object]) -> Mapping[str, object]:
    records = event["Records"]
    if not isinstance(records, list) or len(records) != 1 or not isinstance(records[0], Mapping):
        _refuse_event("has not exactly one record", _FOLLOW_UP)
    try:
        body = json.loads(str(records[0].get("body", "")))
    except ValueError:
        body = None
    if not isinstance(body, dict):
        _refuse_event("has a record whose body is no JSON object", _FOLLOW_UP)
    return body


def look_event(event: Mapping[str, object], known: set[str]) -> FollowUpEvent:
    """Read what names one secret, and has keys of *known* only.

    Raises:
        Misconfigured: Names the key and what is wrong with it.
    """
    for key in event:
        if key not in known:
            _refuse_event(f"has the unknown key {str(key)[:40]!a}", _FOLLOW_UP)
    ref = _required(event, "secret", _FOLLOW_UP)
    if not is_secret_name(ref) and not _SECRET_ARN.fullmatch(ref):
        _refuse_event("has a secret that is neither a name nor a full ARN", _FOLLOW_UP)
    only = event.get("only", [])
    if not isinstance(only, list) or not all(isinstance(each, str) for each in only):
        _refuse_event("has an only that is not a list of names", _FOLLOW_UP)
    is_asked = "seen" not in event
    return FollowUpEvent(SecretRef(ref), tuple(only), _sighting(event), is_asked=is_asked)


def _sighting(event: Mapping[str, object]) -> Sighting | None:
    seen = event.get("seen")
    if seen is None:
        return None
    version_id = seen.get("version") if isinstance(seen, Mapping) else None
    if not isinstance(seen, Mapping) or not isinstance(version_id, str):
        _refuse_event("has a seen that names no version", _FOLLOW_UP)
    return Sighting(RotationId(version_id), _time(seen.get("at")))


def _time(text: object) -> datetime:
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        found = None
    if found is None or found.utcoffset() is None:
        _refuse_event("has a time that is none, or in no zone", _FOLLOW_UP)
    return found


def is_secret_name(name: str) -> bool:
    """Tell whether Secrets Manager takes *name* for a secret; an ARN is none."""
    return _SECRET_NAME.fullmatch(name) is not None


_SECRET_NAME = re.compile(r"[A-Za-z0-9/_+=.@-]{1,512}")  # API_CreateSecret, Name


def _options(event: Mapping[str, object]) -> Mapping[str, object]:
    options = event.get("policy", {})
    if not isinstance(options, dict):
        _refuse_event(f"has {kind_of(options)} as policy, not an object", _GENERATION)
    if "kind" in options:
        _refuse_event("has a kind in its policy; the kind is under generate", _GENERATION)
    return options


def _overwrite(event: Mapping[str, object]) -> bool:
    overwrite = event.get("overwrite", False)
    if not isinstance(overwrite, bool):
        _refuse_event(f"has {kind_of(overwrite)} as overwrite, not a boolean", _GENERATION)
    return overwrite


def _rotation_token(event: Mapping[str, object]) -> Sensitive | None:
    token = event.get("RotationToken")
    if token is None:
        return None
    if not isinstance(token, str) or not _ROTATION_TOKEN.fullmatch(token):
        _refuse_event("has a RotationToken that is not 36 to 256 letters, digits and hyphens")
    return Sensitive(token)


_ROTATION = "Send what Secrets Manager sends: see events/secrets-manager/create.json."
_GENERATION = "Send an event as in events/generate; docs/generate.md says what it may have."


def _required(event: Mapping[str, object], key: str, remedy: str = _ROTATION) -> str:
    if key not in event:
        _refuse_event(f"has no {key}", remedy)
    value = event[key]
    if not isinstance(value, str):
        _refuse_event(f"has {kind_of(value)} as {key}, not a string", remedy)
    return value


def _refuse_event(problem: str, remedy: str = _ROTATION) -> NoReturn:
    raise Misconfigured(f"the event {problem}", remedy=remedy)


# ---------------------------------------------------------------------------- AWS errors

_Verdict = tuple[type[KeyturnError], str]
_UNREACHABLE: _Verdict = (
    Unreachable,
    "Check the function's network path and the service.",
)
_DENIED: _Verdict = (Denied, "Grant the function's role what the adapter lists in PERMISSIONS.")
_NO_KEY: _Verdict = (Denied, "Enable the secret's KMS key and let the function's role use it.")
_GONE: _Verdict = (Misconfigured, "Check that the secret exists and is not being deleted.")
_OUR_CALL: _Verdict = (Misconfigured, "Report this: the request was malformed.")
_BUSY: _Verdict = (Unreachable, "Wait until its status is available: it is tried again.")
_NO_RESOURCE: _Verdict = (Misconfigured, "Correct the ARN in the plan: there is no such thing.")
_NOT_TAKEN: _Verdict = (Misconfigured, "Compare the plan with what the service allows there.")
_NO_PLACE: _Verdict = (Misconfigured, "Correct the plan, or make what it names.")
_WRONG_KEY: _Verdict = (Misconfigured, "Name a KMS key that is there, enabled, and for encryption.")
_WRONG_REGION: _Verdict = (Misconfigured, "Run the function in the region of what it reaches.")

_AWS_ERRORS: dict[str, _Verdict] = {
    "301": _WRONG_REGION,
    "403": _DENIED,
    "AccessDenied": _DENIED,
    "AccessDeniedException": _DENIED,
    "AuthorizationError": _DENIED,
    "AuthorizationHeaderMalformed": _WRONG_REGION,
    "ClientException": _NOT_TAKEN,
    "ClusterNotFoundException": _NO_PLACE,
    "DBClusterNotFoundFault": _NO_RESOURCE,
    "DBInstanceNotFound": _NO_RESOURCE,
    "DecryptionFailure": _NO_KEY,
    "DecryptionFailureException": _NO_KEY,
    "DependencyTimeoutException": _UNREACHABLE,
    "DisabledException": _WRONG_KEY,
    "EncryptionFailure": _NO_KEY,
    "EncryptionFailureException": _NO_KEY,
    "ExpiredToken": _DENIED,
    "ExpiredTokenException": _DENIED,
    "HierarchyTypeMismatchException": _NOT_TAKEN,
    "IncompleteSignature": _DENIED,
    "InternalServerError": _UNREACHABLE,
    "InternalServiceError": _UNREACHABLE,
    "InternalServiceErrorException": _UNREACHABLE,
    "InvalidAccessKeyId": _DENIED,
    "InvalidClientTokenId": _DENIED,
    "InvalidDBClusterStateFault": _BUSY,
    "InvalidDBInstanceState": _BUSY,
    "InvalidGlobalClusterStateFault": _BUSY,
    "InvalidKeyId": _WRONG_KEY,
    "InvalidKeyUsageException": _WRONG_KEY,
    "InvalidParameterCombination": _NOT_TAKEN,
    "InvalidParameterException": _OUR_CALL,
    "InvalidParameterValue": _NOT_TAKEN,
    "InvalidRequestException": _GONE,
    "InvalidSignatureException": _DENIED,
    "KMSAccessDenied": _NO_KEY,
    "KMSDisabled": _NO_KEY,
    "KMSInternalException": _UNREACHABLE,
    "KMSInvalidStateException": _WRONG_KEY,
    "KMSThrottling": _UNREACHABLE,
    "KeyUnavailableException": _UNREACHABLE,
    "LimitExceededException": (
        Unreachable,
        "Wait: the secret has too many young versions; write to it less often.",
    ),
    "NoSuchBucket": _NO_PLACE,
    "NotFound": _NO_RESOURCE,
    "NotFoundException": _NO_PLACE,
    "ParameterLimitExceeded": _NOT_TAKEN,
    "ParameterMaxVersionLimitExceeded": (
        Misconfigured,
        "Take the label from the parameter's oldest version: it has 100.",
    ),
    "ParameterPatternMismatchException": _NOT_TAKEN,
    "PermanentRedirect": _WRONG_REGION,
    "RequestTimeTooSkewed": _DENIED,
    "RequestTimeout": _UNREACHABLE,
    "ResourceNotFoundException": _GONE,
    "ServerException": _UNREACHABLE,
    "ServiceNotActiveException": _NO_PLACE,
    "ServiceNotFoundException": _NO_PLACE,
    "ServiceUnavailable": _UNREACHABLE,
    "SignatureDoesNotMatch": _DENIED,
    "SlowDown": _UNREACHABLE,
    "Throttled": _UNREACHABLE,
    "Throttling": _UNREACHABLE,
    "ThrottlingException": _UNREACHABLE,
    "TooManyRequestsException": _UNREACHABLE,
    "TooManyUpdates": _UNREACHABLE,
    "UnauthorizedException": _DENIED,
    "UnrecognizedClientException": _DENIED,
    "UnsupportedParameterType": _NOT_TAKEN,
    "ValidationException": _OUR_CALL,
}
"""Error codes of the AWS APIs (CommonErrors, and each API's own list) -> what to do."""

_SERVER_ERROR = 500


def ask_aws(
    what: str, ref: str, call: Callable[[], T], answers: Mapping[str, T] | None = None
) -> T:
    """Make one AWS call.

    Args:
        what: The API action, for messages.
        ref: The resource, for messages.
        call: Makes the call.
        answers: Error codes that are answers here, and what they mean.

    Raises:
        KeyturnError: By `_AWS_ERRORS`. Raised outside the handler, so that the SDK's error,
            which may quote the request, is not even its context.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return call()
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if answers is not None and code in answers:
            return answers[code]
        translated = _from_client_error(what, ref, error)
    except BotoCoreError as error:
        translated = _from_sdk_error(what, ref, type(error).__name__)
    raise translated


def _from_client_error(what: str, ref: str, error: Exception) -> KeyturnError:
    response = getattr(error, "response", {})
    code = str(response.get("Error", {}).get("Code", "unknown"))
    metadata = response.get("ResponseMetadata", {})
    if code not in _AWS_ERRORS and metadata.get("HTTPStatusCode", 0) >= _SERVER_ERROR:
        kind, remedy = _UNREACHABLE
    else:
        kind, remedy = _AWS_ERRORS.get(code, _OUR_CALL)
    request = metadata.get("RequestId", "unknown")
    return kind(f"{ref}: {what} answered {code} (request {request})", remedy=remedy)


# The SDK's own failures: no answer came, unless it never sent anything.
_NOT_SENT: dict[str, _Verdict] = {
    "NoCredentialsError": _DENIED,
    "PartialCredentialsError": _DENIED,
    "NoRegionError": (Misconfigured, "Set AWS_REGION."),
    "ParamValidationError": _OUR_CALL,
}


def _from_sdk_error(what: str, ref: str, name: str) -> KeyturnError:
    kind, remedy = _NOT_SENT.get(name, _UNREACHABLE)
    fact = "was not sent" if name in _NOT_SENT else "got no answer"
    return kind(f"{ref}: {what} {fact} ({name})", remedy=remedy)


# ---------------------------------------------------------------------------- Google's errors

_GOOGLE_DENIED: _Verdict = (
    Denied,
    "Grant the function's service account what the adapter lists in PERMISSIONS.",
)
_GOOGLE_GONE: _Verdict = (
    Misconfigured,
    "Check that it exists, under this name, and is neither disabled nor destroyed.",
)

_GOOGLE_ERRORS: dict[str, _Verdict] = {
    "ABORTED": (Busy, "Nothing: something else is being done there; it is tried again."),
    "ALREADY_EXISTS": _NOT_TAKEN,
    "FAILED_PRECONDITION": _GOOGLE_GONE,
    "INVALID_ARGUMENT": _OUR_CALL,
    "NOT_FOUND": _GOOGLE_GONE,
    "OUT_OF_RANGE": _OUR_CALL,
    "PERMISSION_DENIED": _GOOGLE_DENIED,
    "RESOURCE_EXHAUSTED": (Unreachable, "Wait, or ask for a larger quota: it is tried again."),
    "UNAUTHENTICATED": _GOOGLE_DENIED,
    "UNIMPLEMENTED": _OUR_CALL,
}
"""Canonical codes (google.rpc.Code) -> what to do. Whatever is not here is no answer.

By gRPC, or as REST tells it in the body: three of them arrive as one HTTP status.
"""


def google_refusal(what: str, ref: str, code: str) -> KeyturnError:
    """Return our error for the canonical code with which a Google API has refused a call."""
    kind, remedy = _GOOGLE_ERRORS.get(code, _UNREACHABLE)
    return kind(f"{ref}: {what} answered {code}", remedy=remedy)


def ask_google(
    what: str, ref: str, call: Callable[[], T], answers: Mapping[str, T] | None = None
) -> T:
    """Make one call of a Google API over gRPC, or find the credentials for it.

    Args:
        what: The method, for messages.
        ref: The resource, for messages.
        call: Makes the call.
        answers: Canonical codes that are answers here, and what they mean.

    Raises:
        KeyturnError: By `_GOOGLE_ERRORS`. Raised outside the handler, so that the SDK's error,
            which may quote the request, is not even its context.
    """
    from google.api_core.exceptions import GoogleAPICallError, GoogleAPIError
    from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError

    try:
        return call()
    except GoogleAPICallError as error:
        status = error.grpc_status_code
        code = str(status.name) if status is not None else "UNKNOWN"
        if answers is not None and code in answers:
            return answers[code]
        translated = google_refusal(what, ref, code)
    except DefaultCredentialsError:
        translated = Denied(f"{ref}: {what} has no credentials", remedy=_GOOGLE_DENIED[1])
    except (GoogleAPIError, GoogleAuthError) as error:
        kind, remedy = _UNREACHABLE
        translated = kind(f"{ref}: {what} got no answer ({type(error).__name__})", remedy=remedy)
    raise translated


# ---------------------------------------------------------------------------- logs

_HIDDEN = "***"
_KEY = (
    r"(?<![\w-])[\w-]*(?:password|passwd|secretstring|secretbinary"
    r"|secret_?access_?key|private_?key|token)(?:_[a-z]{2}(?:-[a-z0-9]+)+)?"  # .._eu-west-1
)
_SECRET_SHAPES = (
    # {"password": ".."}, {'SecretString': '..'}, password=".."
    re.compile(rf"""(?i)(["']?{_KEY}["']?\s*[:=]\s*)("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')"""),
    # the same inside a JSON text inside another: {\"password\": \"..\"}
    re.compile(rf"""(?i)((?<!\\)\\+"{_KEY}\\+"\s*:\s*)(\\+".*?\\+")"""),
    re.compile(rf"(?i)({_KEY}\s*=\s*)([^\s\"',;&]+)"),  # password=.. in a connection string
    re.compile(r"(?i)(\bpassword\s+)('(?:[^']|'')*')"),  # SQL: PASSWORD '..'
    re.compile(r"(SCRAM-SHA-256\$)([\w$:+/=]+)"),  # a verifier
    re.compile(r"(://[^\s:/@]*:)([^\s@/]+)(?=@)"),  # user:password@host
)


def scrub(text: str) -> str:
    """Hide what looks like a secret. The second net: nothing secret should reach a log at all."""
    for shape in _SECRET_SHAPES:
        text = shape.sub(lambda found: found[1] + _HIDDEN, text)
    return text


class Scrubber(logging.Filter):
    """Scrubs every record that passes a handler, its arguments and traceback included."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite *record* in place; let it pass."""
        record.msg = scrub(record.getMessage())
        record.args = None
        if record.exc_info and record.exc_info[1] is not None:
            record.exc_text = scrub(place_of(record.exc_info[1]))
            record.exc_info = None
        return True


_SDK_LOGGERS = (
    *("boto3", "botocore", "urllib3", "s3transfer", "google", "grpc", "psycopg"),
    "aws_encryption_sdk",
)


def quiet_sdk_loggers() -> None:
    """Hold the SDKs at WARNING: at DEBUG they log requests and answers, secrets included.

    Their children too, whatever level somebody has given one of them.
    """
    known = [*logging.root.manager.loggerDict, *_SDK_LOGGERS]
    for name in known:
        logger = logging.getLogger(name)
        # Only where it is not so already: setting a level empties the cache of every logger.
        if name.partition(".")[0] in _SDK_LOGGERS and logger.level != logging.WARNING:
            logger.setLevel(logging.WARNING)


def place_of(error: BaseException) -> str:
    """Say what kind of error it is and where it arose, without its text."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"


# ---------------------------------------------------------------------------- outcomes


NAMESPACE = "keyturn"
"""Of our metrics in CloudWatch."""


class Reporting(Protocol):
    """Says what became of a step, where the platform reads it."""

    def succeeded(self, facts: Mapping[str, str], elapsed_ms: int) -> None:
        """Report a step that ended well."""
        ...

    def failed(self, facts: Mapping[str, str], elapsed_ms: int, error: KeyturnError) -> None:
        """Report a step that failed, with what to do about it."""
        ...

    def measured(
        self,
        numbers: Mapping[str, float],
        units: Mapping[str, str],
        behind: Iterable[Mapping[str, str | float]] = (),
    ) -> None:
        """Report what a follow-up has counted, and each secret that waits for something."""
        ...


class Telemetry:
    """One log line and one metric set per step, in the formats CloudWatch reads."""

    def __init__(self) -> None:
        from aws_lambda_powertools import Logger
        from aws_lambda_powertools.metrics import EphemeralMetrics

        quiet_sdk_loggers()
        self._log = Logger(service="keyturn", logger_handler=_StandardOutput())
        for handler in (*self._log.handlers, *logging.getLogger().handlers):
            if not any(isinstance(each, Scrubber) for each in handler.filters):
                handler.addFilter(Scrubber())
        # Ephemeral: a warm function starts each call with no metric left from the last. Its service
        # is POWERTOOLS_SERVICE_NAME, the stack's name: an alarm is about one stack, not about all.
        self._metrics = EphemeralMetrics(namespace=NAMESPACE)

    def succeeded(self, facts: Mapping[str, str], elapsed_ms: int) -> None:
        """Report a step that ended well."""
        self._log.info("step succeeded", extra={**facts, "elapsed_ms": elapsed_ms})
        self._measure(facts, "StepSucceeded", elapsed_ms)

    def failed(self, facts: Mapping[str, str], elapsed_ms: int, error: KeyturnError) -> None:
        """Report a step that failed, with what to do about it."""
        self._log.error(
            "step failed",
            extra={
                **facts,
                "elapsed_ms": elapsed_ms,
                "error": type(error).__name__,
                "reason": str(error),
                "remedy": error.remedy,
            },
        )
        if isinstance(error, Untraceable):
            self._metrics.add_metric(name="KeyPossiblyLost", unit="Count", value=1)
        self._measure(facts, "StepFailed", elapsed_ms)

    def measured(
        self,
        numbers: Mapping[str, float],
        units: Mapping[str, str],
        behind: Iterable[Mapping[str, str | float]] = (),
    ) -> None:
        """Report what a follow-up has counted, and each secret that waits for something.

        Args:
            numbers: By the metric's name.
            units: CloudWatch's unit of each.
            behind: Names and numbers, for a line each.
        """
        for facts in behind:
            self._log.info("behind", extra=dict(facts))
        for name, number in numbers.items():
            self._metrics.add_metric(name=name, unit=units[name], value=number)
        self._metrics.flush_metrics()

    def _measure(self, facts: Mapping[str, str], name: str, elapsed_ms: int) -> None:
        self._metrics.add_dimension(name="Step", value=facts.get("step", "unknown"))
        self._metrics.add_metric(name=name, unit="Count", value=1)
        self._metrics.add_metric(name="StepDuration", unit="Milliseconds", value=elapsed_ms)
        self._metrics.flush_metrics()


class _StandardOutput(logging.Handler):
    """Writes to whatever standard output is at that moment; the logger itself is kept for ever."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        sys.stdout.write(self.format(record) + "\n")
        sys.stdout.flush()


class UnexpectedError(KeyturnError):
    """A bug of ours, or a failure nobody foresaw. Its text is withheld: it may hold a secret."""


def answer(
    telemetry: Reporting, facts: dict[str, str], work: Callable[[], Outcome]
) -> dict[str, str]:
    """Do *work*, report it once, and return what a caller may know.

    What may be lost is reported before it is forgotten; and so is what keeps it from that.

    Args:
        telemetry: Where to report it.
        facts: Names of things, shown in the log line and returned. *work* may add to it.
        work: The step.

    Raises:
        KeyturnError: What failed. Anything else becomes `UnexpectedError`, without its text.
    """
    started = time.perf_counter()
    outcome = _tried(work)
    if isinstance(outcome, Outcome):
        facts["outcome"] = outcome.value
        telemetry.succeeded(facts, _since(started))
        return facts
    failure = outcome
    telemetry.failed(facts, _since(started), failure)
    if isinstance(failure, Untraceable):
        not_forgotten = _tried(failure.when_told)
        if not_forgotten is not None:
            telemetry.failed(facts, _since(started), not_forgotten)
    # Contexts go with the frames: the platform prints what it is given, and SDK errors quote.
    failure.__cause__ = failure.__context__ = None
    raise failure.with_traceback(None)


def _tried(work: Callable[[], T]) -> T | KeyturnError:
    """Return what *work* does, or what it raises."""
    try:
        return work()
    except KeyturnError as error:
        return error
    except Exception as error:  # noqa: BLE001  # the entry point: nothing unknown may get out
        return UnexpectedError(
            f"unexpected {place_of(error)}", remedy="Report this with the request id."
        )


def _since(started: float) -> int:
    return round((time.perf_counter() - started) * 1000)
