"""Secrets Manager as the service does it: versions, labels, and rotations that run by themselves.

It stands in front of moto's web application and answers the calls where moto is too lenient; all
others (CreateSecret, ListSecrets, tags ...) pass through, on the same records. What differs:

    PutSecretValue             a version's value never changes; the size is limited
    UpdateSecretVersionStage   a compare-and-swap, all or nothing
    GetSecretValue             without a stage it is AWSCURRENT; id and stage must belong together
    RotateSecret               returns at once; the four steps follow, with the ARN in the event
    DescribeSecret, ListSecretVersionIds    versions without labels are deprecated, so not shown

A failed rotation is tried again from its first step with the same token. A value that somebody
stores by hand during a rotation abandons it.
"""

from __future__ import annotations

import base64
import fnmatch
import json
import secrets
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moto.awslambda.models import lambda_backends
from moto.core import DEFAULT_ACCOUNT_ID
from moto.events.models import events_backends
from moto.secretsmanager.models import secretsmanager_backends

from keyturn.local.calls import peeked, signed_region, signer
from keyturn.local.functions import Answer, Functions, deployed

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

CURRENT = "AWSCURRENT"
PENDING = "AWSPENDING"
PREVIOUS = "AWSPREVIOUS"

MAX_VALUE_BYTES = 65_536
"""The longest SecretString (API_PutSecretValue)."""

MIN_TOKEN, MAX_TOKEN = 32, 64
"""How many characters a ClientRequestToken has (API_PutSecretValue)."""

_STEPS = ("createSecret", "setSecret", "testSecret", "finishSecret")


@dataclass(frozen=True, slots=True)
class RotationSettings:
    """What AWS does not document, or does in some set-ups only.

    Attributes:
        attempts: How often the steps are gone through before the rotation has failed.
        rotation_token: Send a `RotationToken`, as for functions in another account.
        removes_pending: Take AWSPENDING off the promoted version when the rotation is over.
    """

    attempts: int = 2
    rotation_token: bool = False
    removes_pending: bool = False


class _RefusedError(Exception):
    """An answer of the service that is an error."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class _NotFoundError(_RefusedError):
    def __init__(self, what: str) -> None:
        super().__init__(
            "ResourceNotFoundException", f"Secrets Manager can't find the specified {what}."
        )


class _InvalidRequestError(_RefusedError):
    def __init__(self, message: str) -> None:
        super().__init__("InvalidRequestException", message)


class _InvalidParameterError(_RefusedError):
    def __init__(self, message: str) -> None:
        super().__init__("InvalidParameterException", message)


@dataclass(slots=True)
class _Rotation:
    """The last rotation of a secret. It is over when it succeeded, or was taken off its feet."""

    token: str
    over: bool = False


@dataclass(frozen=True, slots=True)
class _Call:
    region: str
    parameters: Mapping[str, Any]

    def text(self, name: str) -> str:
        return str(self.parameters.get(name) or "")


_Action = Callable[[_Call], dict[str, Any] | None]


class SecretsManager:
    """The service. Its records are moto's."""

    def __init__(self, functions: Functions, settings: RotationSettings) -> None:
        self._functions = functions
        self._settings = settings
        self._lock = threading.RLock()
        self._rotations: dict[str, _Rotation] = {}
        self._rules: dict[str, dict[str, Any]] = {}
        self._actions: dict[str, _Action] = {
            "CancelRotateSecret": self._cancel_rotate_secret,
            "CreateSecret": self._create_secret,
            "DescribeSecret": self._describe_secret,
            "GetSecretValue": self._get_secret_value,
            "ListSecretVersionIds": self._list_secret_version_ids,
            "PutSecretValue": self._put_secret_value,
            "RotateSecret": self._rotate_secret,
            "UpdateSecret": self._update_secret,
            "UpdateSecretVersionStage": self._update_secret_version_stage,
        }

    def serving(self, application: WSGIApplication) -> WSGIApplication:
        """Return *application* with this in front of it."""

        def serve(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            _, service = signer(environ)
            name = str(environ.get("HTTP_X_AMZ_TARGET", "")).rpartition(".")[2]
            action = self._actions.get(name) if service == "secretsmanager" else None
            if action is None:
                return application(environ, start_response)
            call = _Call(signed_region(environ), json.loads(peeked(environ)))
            status, answer = self._perform(action, call)
            if answer is None:
                return application(environ, start_response)
            body = json.dumps(answer).encode()
            start_response(
                status,
                [
                    ("Content-Type", "application/x-amz-json-1.1"),
                    ("Content-Length", str(len(body))),
                    ("x-amzn-RequestId", str(uuid.uuid4())),
                ],
            )
            return [body]

        return serve

    def _perform(self, action: _Action, call: _Call) -> tuple[str, dict[str, Any] | None]:
        try:
            with self._lock:
                return "200 OK", action(call)
        except _RefusedError as refused:
            return "400 Bad Request", {"__type": refused.code, "message": str(refused)}

    # ------------------------------------------------------------------ values and versions

    def _create_secret(self, call: _Call) -> None:
        _check_value(call)
        _check_token(call)

    def _get_secret_value(self, call: _Call) -> dict[str, Any]:
        secret = _live_secret(call)
        version_id, stage = call.text("VersionId"), call.text("VersionStage")
        version_id = version_id or _holder(secret, stage or CURRENT)
        version = secret.versions.get(version_id)
        if version is None or (stage and stage not in version["version_stages"]):
            raise _NotFoundError(_value_of(call))
        value = _value(version)
        if not value:
            raise _NotFoundError(_value_of(call))
        return {
            **_names(secret, version_id),
            **value,
            "VersionStages": version["version_stages"],
            "CreatedDate": version["createdate"],
        }

    def _put_secret_value(self, call: _Call) -> dict[str, Any]:
        secret = _live_secret(call)
        if "SecretString" not in call.parameters and "SecretBinary" not in call.parameters:
            raise _InvalidParameterError("You must provide either SecretString or SecretBinary.")
        version_id = self._store(secret, call, call.parameters.get("VersionStages") or [CURRENT])
        stages = secret.versions[version_id]["version_stages"]
        return {**_names(secret, version_id), "VersionStages": stages}

    def _update_secret(self, call: _Call) -> dict[str, Any] | None:
        if "SecretString" not in call.parameters and "SecretBinary" not in call.parameters:
            return None
        secret = _live_secret(call)
        version_id = self._store(secret, call, [CURRENT])
        secret.description = call.text("Description") or secret.description
        secret.kms_key_id = call.text("KmsKeyId") or secret.kms_key_id
        return _names(secret, version_id)

    def _store(self, secret: Any, call: _Call, stages: list[str]) -> str:
        """Make the version that *call* describes, or find that it is there already."""
        _check_value(call)
        version_id = _check_token(call)
        value = {
            k: call.parameters[k] for k in ("SecretString", "SecretBinary") if k in call.parameters
        }
        existing = secret.versions.get(version_id)
        if existing is not None and _value(existing):
            if _value(existing) == value:
                return version_id
            raise _RefusedError(
                "ResourceExistsException",
                f"You can't use ClientRequestToken {version_id} because that value is already in"
                f" use for a version of secret {secret.arn}.",
            )
        if not _holder(secret, CURRENT):
            stages = [*stages, CURRENT]  # the first version always gets it (API_PutSecretValue)
        secret.versions[version_id] = _version(
            version_id, value, existing["version_stages"] if existing else []
        )
        secret.last_changed_date = time.time()
        for stage in stages:
            self._move(secret, stage, version_id)
        if CURRENT in stages:
            self._abandon(secret, version_id)
        return version_id

    def _describe_secret(self, call: _Call) -> dict[str, Any]:
        secret = _secret(call)
        described: dict[str, Any] = json.loads(json.dumps(secret.to_dict()))
        described.pop("SecretVersionsToStages", None)
        described["VersionIdsToStages"] = {
            version_id: version["version_stages"]
            for version_id, version in secret.versions.items()
            if version["version_stages"]
        }
        if secret.arn in self._rules:
            described["RotationRules"] = self._rules[secret.arn]
        return {key: value for key, value in described.items() if value is not None}

    def _list_secret_version_ids(self, call: _Call) -> dict[str, Any]:
        secret = _secret(call)
        deprecated_too = bool(call.parameters.get("IncludeDeprecated"))
        versions = [
            {
                "VersionId": version_id,
                "CreatedDate": version["createdate"],
                **({"VersionStages": stages} if (stages := version["version_stages"]) else {}),
            }
            for version_id, version in secret.versions.items()
            if version["version_stages"] or deprecated_too
        ]
        start = int(call.text("NextToken") or 0)
        end = start + int(call.parameters.get("MaxResults") or 100)
        return {
            "ARN": secret.arn,
            "Name": secret.name,
            "Versions": versions[start:end],
            **({"NextToken": str(end)} if end < len(versions) else {}),
        }

    # ------------------------------------------------------------------ labels

    def _update_secret_version_stage(self, call: _Call) -> dict[str, Any]:
        secret = _live_secret(call)
        stage = call.text("VersionStage")
        to, source = call.text("MoveToVersionId"), call.text("RemoveFromVersionId")
        _check_move(secret, stage, to, source)
        if to:
            self._move(secret, stage, to)
        else:
            secret.versions[source]["version_stages"].remove(stage)
        secret.last_changed_date = time.time()
        return {"ARN": secret.arn, "Name": secret.name}

    def _move(self, secret: Any, stage: str, to: str) -> None:
        """Put a label on one version and take it off any other."""
        old = _holder(secret, stage)
        if old == to:
            return
        _drop(secret, stage)
        secret.versions[to]["version_stages"].append(stage)
        if stage == CURRENT:
            _drop(secret, PREVIOUS)
            if old:
                secret.versions[old]["version_stages"].append(PREVIOUS)
            secret.set_default_version_id(to)
        if stage not in {PENDING, PREVIOUS}:
            detail = {"name": secret.name, "labelUpdated": stage, "versionId": to}
            _emit(secret, "Secret Label Updated", detail)

    def _abandon(self, secret: Any, current: str) -> None:
        """End the rotation that is under way, unless it made *current* itself."""
        rotation = self._rotations.get(secret.arn)
        if rotation is None or rotation.over or rotation.token == current:
            return
        rotation.over = True
        _drop(secret, PENDING)
        _emit_rotation(secret, "RotationAbandoned")

    # ------------------------------------------------------------------ rotation

    def _rotate_secret(self, call: _Call) -> dict[str, Any]:
        secret = _live_secret(call)
        token = _check_token(call)
        running = self._rotations.get(secret.arn)
        if running is not None and not running.over and running.token == token:
            return _names(secret, token)  # the same call again
        self._check_rotation(secret, call, token)
        arn = call.text("RotationLambdaARN") or secret.rotation_lambda_arn
        secret.rotation_lambda_arn = arn
        secret.rotation_requested = secret.rotation_enabled = True
        if call.parameters.get("RotationRules"):
            self._rules[secret.arn] = dict(call.parameters["RotationRules"])
        rotation = self._rotations[secret.arn] = _Rotation(token)
        immediately = call.parameters.get("RotateImmediately", True)
        value = {} if immediately else _value(secret.versions[_holder(secret, CURRENT)])
        secret.versions[token] = _version(token, value, [])
        self._move(secret, PENDING, token)
        work = self._rotate if immediately else self._try_out
        self._functions.in_background(lambda: work(secret, rotation))
        return _names(secret, token)

    def _check_rotation(self, secret: Any, call: _Call, token: str) -> None:
        arn = call.text("RotationLambdaARN") or secret.rotation_lambda_arn
        if not arn:
            raise _InvalidRequestError(
                "No Lambda rotation function ARN is associated with this secret."
            )
        rules = call.parameters.get("RotationRules") or {}
        if "AutomaticallyAfterDays" in rules and "ScheduleExpression" in rules:
            raise _InvalidParameterError(
                "You can't specify both AutomaticallyAfterDays and ScheduleExpression."
            )
        if not _holder(secret, CURRENT):
            raise _InvalidRequestError("You can't rotate a secret that has no value.")
        if _holder(secret, PENDING) not in {"", _holder(secret, CURRENT)}:
            raise _InvalidRequestError(
                "A previous rotation isn't complete. That rotation will be reattempted."
            )
        if token in secret.versions:
            raise _InvalidRequestError(f"A version {token} of this secret exists already.")
        if not _may_invoke(secret, _moto_function(secret, arn)):
            raise _RefusedError(
                "AccessDeniedException",
                "Secrets Manager cannot invoke the specified Lambda function. Ensure that the"
                " function policy grants access to the principal secretsmanager.amazonaws.com.",
            )

    def _cancel_rotate_secret(self, call: _Call) -> dict[str, Any]:
        secret = _live_secret(call)
        if not secret.rotation_lambda_arn:
            raise _InvalidRequestError("You can't cancel a rotation that was never configured.")
        secret.rotation_enabled = False
        if secret.arn in self._rotations:
            # Labels stay where they are (API_CancelRotateSecret): the operator has to look.
            self._rotations[secret.arn].over = True
        return _names(secret, _holder(secret, PENDING) or _holder(secret, CURRENT))

    def _rotate(self, secret: Any, rotation: _Rotation) -> None:
        _emit_rotation(secret, "RotationStarted")
        for _ in range(self._settings.attempts):
            succeeded = all(self._step(secret, rotation, step) for step in _STEPS)
            with self._lock:
                if rotation.over:
                    return
                # Success is AWSPENDING on the current version, or on none (API_RotateSecret).
                if succeeded and _holder(secret, PENDING) in {"", _holder(secret, CURRENT)}:
                    rotation.over = True
                    secret.last_rotation_date = time.time()
                    if self._settings.removes_pending:
                        _drop(secret, PENDING)
                    _emit_rotation(secret, "RotationSucceeded")
                    return
        _emit_rotation(secret, "RotationFailed")

    def _try_out(self, secret: Any, rotation: _Rotation) -> None:
        """Check the configuration only, as for RotateImmediately=false."""
        _emit_rotation(secret, "TestRotationStarted")
        succeeded = self._step(secret, rotation, "testSecret")
        with self._lock:
            rotation.over = True
            secret.versions.pop(rotation.token, None)
        _emit_rotation(secret, "TestRotationSucceeded" if succeeded else "TestRotationFailed")

    def _step(self, secret: Any, rotation: _Rotation, step: str) -> bool:
        if rotation.over:
            return False
        event = {"Step": step, "SecretId": secret.arn, "ClientRequestToken": rotation.token}
        if self._settings.rotation_token:
            event["RotationToken"] = secrets.token_hex(32)
        try:
            function = _moto_function(secret, secret.rotation_lambda_arn)
        except _RefusedError:
            return False  # it was deleted meanwhile
        return not run(self._functions, function, event).failed


def run(functions: Functions, function: Any, event: object) -> Answer:
    """Invoke moto's *function* and put what it writes into CloudWatch Logs."""
    answer = functions.invoke(deployed(function), event)
    function.logs_backend.ensure_log_group(function.logs_group_name)
    if answer.log:
        function.save_logs(answer.log)
    return answer


# ---------------------------------------------------------------------- records, as moto has them


def _secret(call: _Call) -> Any:
    found = secretsmanager_backends[DEFAULT_ACCOUNT_ID][call.region].secrets.get(
        call.text("SecretId")
    )
    if found is None:
        raise _NotFoundError("secret")
    return found


def _live_secret(call: _Call) -> Any:
    secret = _secret(call)
    if secret.is_deleted():
        raise _InvalidRequestError(
            "You can't perform this operation on the secret because it was marked for deletion."
        )
    return secret


def _moto_function(secret: Any, arn: str) -> Any:
    functions = lambda_backends[secret.account_id][secret.region]
    found = [f for f in functions.list_functions() if f.function_arn == arn]
    if not found:
        raise _NotFoundError(f"Lambda function {arn}")
    return found[0]


def _version(version_id: str, value: Mapping[str, str], stages: list[str]) -> dict[str, Any]:
    names = {"SecretString": "secret_string", "SecretBinary": "secret_binary"}
    return {
        "version_id": version_id,
        "version_stages": stages,
        "createdate": time.time(),
        **{names[key]: text for key, text in value.items()},
    }


def _value(version: Mapping[str, Any]) -> dict[str, str]:
    names = {"secret_string": "SecretString", "secret_binary": "SecretBinary"}
    return {names[key]: version[key] for key in names if key in version}


def _names(secret: Any, version_id: str) -> dict[str, Any]:
    return {"ARN": secret.arn, "Name": secret.name, "VersionId": version_id}


def _value_of(call: _Call) -> str:
    if call.text("VersionId"):
        return f"secret value for VersionId: {call.text('VersionId')}"
    return f"secret value for staging label: {call.text('VersionStage') or CURRENT}"


def _holder(secret: Any, stage: str) -> str:
    """Return the id of the version that has the label, or ""."""
    for version_id, version in secret.versions.items():
        if stage in version["version_stages"]:
            return str(version_id)
    return ""


def _drop(secret: Any, stage: str) -> None:
    for version in secret.versions.values():
        version["version_stages"] = [s for s in version["version_stages"] if s != stage]


# ---------------------------------------------------------------------- rules


def _check_value(call: _Call) -> None:
    text = call.text("SecretString").encode()
    binary = base64.b64decode(call.text("SecretBinary"))
    if len(text or binary) > MAX_VALUE_BYTES:
        raise _RefusedError(
            "ValidationException",
            "1 validation error detected: Value at 'secretString' failed to satisfy constraint:"
            f" Member must have length less than or equal to {MAX_VALUE_BYTES}",
        )


def _check_token(call: _Call) -> str:
    token = call.text("ClientRequestToken") or str(uuid.uuid4())
    if not MIN_TOKEN <= len(token) <= MAX_TOKEN:
        raise _InvalidParameterError(
            f"ClientRequestToken must be {MIN_TOKEN}-{MAX_TOKEN} characters long."
        )
    return token


def _check_move(secret: Any, stage: str, to: str, source: str) -> None:
    """Refuse unless *source* is who has the label now (API_UpdateSecretVersionStage)."""
    holder = _holder(secret, stage)
    if to and to not in secret.versions:
        raise _NotFoundError(f"secret version {to}")
    if not to and not source:
        raise _InvalidParameterError("You must specify MoveToVersionId or RemoveFromVersionId.")
    if not to and stage == CURRENT:
        raise _InvalidParameterError(f"You can't remove {CURRENT}; move it to another version.")
    if source and source != holder:
        raise _InvalidParameterError(
            f"The staging label {stage} isn't attached to version {source}."
        )
    if holder and holder != to and not source:
        raise _InvalidParameterError(
            f"The parameter RemoveFromVersionId can't be empty. Staging label {stage} is currently"
            f" attached to version {holder}, so you must explicitly reference that version in"
            " RemoveFromVersionId."
        )


def _may_invoke(secret: Any, function: Any) -> bool:
    """Whether the function's policy lets Secrets Manager in, for this secret."""
    return any(_allows(statement, secret) for statement in function.policy.statements)


def _allows(statement: Mapping[str, Any], secret: Any) -> bool:
    principal = statement.get("Principal")
    service = principal.get("Service") if isinstance(principal, Mapping) else principal
    if statement.get("Effect") != "Allow" or service != "secretsmanager.amazonaws.com":
        return False
    if statement.get("Action") not in {"lambda:InvokeFunction", "lambda:*", "*"}:
        return False
    facts = {"aws:sourceaccount": secret.account_id, "aws:sourcearn": secret.arn}
    return all(
        fnmatch.fnmatchcase(facts.get(key.lower(), ""), str(pattern))
        for test in statement.get("Condition", {}).values()
        for key, pattern in test.items()
    )


# ---------------------------------------------------------------------- events


def _emit_rotation(secret: Any, name: str) -> None:
    detail = {
        "eventType": "AwsServiceEvent",
        "eventSource": "secretsmanager.amazonaws.com",
        "eventName": name,
        "additionalEventData": {"SecretId": secret.arn},
    }
    _emit(secret, "AWS Service Event via CloudTrail", detail)


def _emit(secret: Any, kind: str, detail: Mapping[str, object]) -> None:
    events_backends[secret.account_id][secret.region].put_events(
        [
            {
                "Source": "aws.secretsmanager",
                "DetailType": kind,
                "Detail": json.dumps(detail),
                "Resources": [secret.arn],
            }
        ]
    )
