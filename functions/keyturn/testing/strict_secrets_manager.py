"""A Secrets Manager of our own, which refuses what the service refuses. Real SDKs talk to it.

    with StrictSecretsManager() as store:
        client = boto3.client("secretsmanager", **store.settings())

    request -> `wire` -> faults on demand -> an action -> the new state

An action is a function of a working copy of the state and a request; the copy takes the place of
the state when the action returns, so that a refusal changes nothing. What AWS leaves open is
`Undocumented`, to be tested both ways. Where a rule says *recorded*, an answer of the real service
shows it: LocalStack's `tests/aws/services/secretsmanager/test_secretsmanager.snapshot.json`, made
by running its tests against AWS.

It shares nothing with `keyturn.local`, which does the same job on moto's records: two opinions.
It enforces no IAM, no KMS, no rates and no schedule; it keeps nothing. Only tests use it.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import hashlib
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

from keyturn.model import Sensitive
from keyturn.ports import Clock
from keyturn.testing.json_wire import JsonWire
from keyturn.testing.wire import NoReply, Refusal, Request, served

ACCOUNT = "123456789012"
REGION = "eu-west-1"

CURRENT, PENDING, PREVIOUS = "AWSCURRENT", "AWSPENDING", "AWSPREVIOUS"

STEPS = ("createSecret", "setSecret", "testSecret", "finishSecret")
"""As the service spells them in the events that it sends."""

MAX_VALUE_BYTES = 65_536
"""The longest SecretString or SecretBinary (API_PutSecretValue)."""

MIN_TOKEN, MAX_TOKEN = 32, 64
"""How many characters a ClientRequestToken has (API_PutSecretValue)."""

MAX_LABELS = 20
"""How many labels the versions of one secret have together (reference_limits)."""

MAX_VERSIONS = 100
"""How many versions of one secret are kept (reference_limits)."""

YOUNG = timedelta(hours=24)
"""A version younger than this is never removed (reference_limits)."""

MIN_RECOVERY_DAYS, MAX_RECOVERY_DAYS = 7, 30
"""How long a deleted secret can be restored; the longest is the default (API_DeleteSecret)."""

MAX_PAGE = 100
"""The most that ListSecretVersionIds returns at once (API_ListSecretVersionIds)."""

MAX_TAGS, MAX_TAG_KEY, MAX_TAG_VALUE = 50, 128, 256
"""Of a secret; characters (API_TagResource, API_Tag)."""

_TAG = re.compile(r"[\w .:/=+@-]*")

ROTATION_TIMEOUT_S = 10.0
"""How long `settle` waits for one rotation, in seconds: far more than any fake one takes."""


# ---------------------------------------------------------------------------- what tests see


class Mismatch(Enum):
    """What GetSecretValue says of a version that does not carry the label asked for."""

    INVALID_REQUEST = "InvalidRequestException"
    """As people saw it with the AWS CLI (moto pull request 5238)."""

    NOT_FOUND = "ResourceNotFoundException"


@dataclass(frozen=True, slots=True)
class Undocumented:
    """What AWS does not document, documents two ways, or does in some set-ups only.

    Attributes:
        mismatch: See `Mismatch`.
        promotes_empty: AWSCURRENT may be moved to a version without a value.
        drops_pending: A rotation's end takes AWSPENDING off, in the same call that promotes, as
            the user guide says. False leaves it there, as recorded
            (test_rotate_secret_with_lambda_success).
        assumes_role: Rotations run under an assumed role, so that PutSecretValue needs the
            RotationToken of the event (API_PutSecretValue).
        attempts: How often the steps are gone through before a rotation has failed.
        page_size: The most that a page of ListSecretVersionIds holds if the caller does not say.
    """

    mismatch: Mismatch = Mismatch.INVALID_REQUEST
    promotes_empty: bool = True
    drops_pending: bool = False
    assumes_role: bool = False
    attempts: int = 1
    page_size: int = MAX_PAGE


@dataclass(frozen=True, slots=True)
class Call:
    """One request that was answered; *refused* is the error's code, or ""."""

    action: str
    caller: str
    refused: str


@dataclass(frozen=True, slots=True)
class Event:
    """What the service tells EventBridge: `RotationAbandoned`, `Secret Label Updated` and so on."""

    name: str
    ref: str
    version_id: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """A version as it lies there. *value* is None as long as it is empty; binary is base64."""

    version_id: str
    value: Sensitive | None
    labels: frozenset[str]
    created_at: datetime


OnRotate = Callable[[dict[str, str]], object]
"""The rotation function: gets an event per step, and fails a step by raising."""


# ---------------------------------------------------------------------------- state


@dataclass(slots=True)
class _Version:
    created_at: datetime
    value: dict[str, str] = field(default_factory=dict, repr=False)
    labels: set[str] = field(default_factory=set)

    def copied(self) -> _Version:
        """Return a copy. A value is replaced, never changed."""
        return replace(self, labels=set(self.labels))


@dataclass(slots=True)
class _Secret:
    arn: str
    name: str
    created_at: datetime
    changed_at: datetime
    versions: dict[str, _Version] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    rotated_at: datetime | None = None
    gone_at: datetime | None = None
    rotation: str = ""
    """The token of the rotation that is under way, or ""."""

    def holder(self, label: str) -> str:
        """Return the id of the version that has the label, or ""."""
        found = [name for name, version in self.versions.items() if label in version.labels]
        return found[0] if found else ""

    def drop(self, label: str) -> None:
        """Take a label off whatever has it."""
        for version in self.versions.values():
            version.labels.discard(label)

    def copied(self) -> _Secret:
        """Return a copy that shares nothing that may change. By hand: `deepcopy` is slow."""
        versions = {name: version.copied() for name, version in self.versions.items()}
        return replace(self, versions=versions, details=copy.deepcopy(self.details))


@dataclass(slots=True)
class _State:
    now: datetime
    undocumented: Undocumented
    drives_steps: bool
    secrets: list[_Secret] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    made: int = 0
    begun: list[str] = field(default_factory=list)
    """ARNs of secrets whose rotation or test of a rotation starts when this state is in force."""

    def copied(self, now: datetime) -> _State:
        """Return a working copy, at that time. Events never change, so only their list is new."""
        secrets = [secret.copied() for secret in self.secrets]
        return replace(self, now=now, secrets=secrets, events=[*self.events], begun=[])

    def tell(self, name: str, secret: _Secret, version_id: str, label: str = "") -> None:
        """Send an event."""
        self.events.append(Event(name, secret.arn, version_id, label))

    def forget_deleted(self) -> None:
        """Delete the secrets whose recovery window is over."""
        self.secrets = [s for s in self.secrets if s.gone_at is None or s.gone_at > self.now]


_Action = Callable[[_State, dict[str, Any]], dict[str, Any]]


# ---------------------------------------------------------------------------- the service


class StrictSecretsManager:
    """The service, on a free port of loopback. Use it as a context manager.

    Args:
        clock: Tells the time; None is the system's.
        undocumented: What AWS leaves open.
        on_rotate: Called step by step, in a thread of its own, after a RotateSecret. Without one
            a rotation only begins; the test performs the steps, with `event`, and the rotation
            has succeeded as soon as its version is current.

    Attributes:
        port: Where it listens.
        calls: Every request that reached an action or a fault of one, in order.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        undocumented: Undocumented | None = None,
        on_rotate: OnRotate | None = None,
    ) -> None:
        self.port = 0
        self.calls: list[Call] = []
        self._clock = clock or _SystemClock()
        self._on_rotate = on_rotate
        self._state = _State(
            self._clock.now(), undocumented or Undocumented(), on_rotate is not None
        )
        self._before = self._state
        self._lock = threading.RLock()
        self._stack = contextlib.ExitStack()
        self._rotations: list[threading.Thread] = []
        self._faults: list[Refusal] = []
        self._denied: frozenset[str] = frozenset()
        self._stale = 0
        self._lost = 0
        self._is_down = False

    def __enter__(self) -> Self:
        self.port = self._stack.enter_context(served(JsonWire(), self._answer))
        self._stack.callback(self.settle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def settings(self) -> dict[str, Any]:
        """Return what `boto3.client` needs to reach this."""
        return {
            "endpoint_url": f"http://127.0.0.1:{self.port}",
            "region_name": REGION,
            "aws_access_key_id": "STRICTCLIENT",
            "aws_secret_access_key": "unchecked",
        }

    # ------------------------------------------------------------------ faults

    def throttle(self, calls: int) -> None:
        """Answer the next *calls* with ThrottlingException (CommonErrors)."""
        self._faults += [Refusal("ThrottlingException", "Rate exceeded") for _ in range(calls)]

    def fail(self, calls: int, status: int = HTTPStatus.INTERNAL_SERVER_ERROR) -> None:
        """Answer the next *calls* with InternalServiceError; they have no effect."""
        self._faults += [
            Refusal("InternalServiceError", "It failed.", status) for _ in range(calls)
        ]

    def stale_reads(self, calls: int) -> None:
        """Answer the next *calls* that read from the state before the last change.

        The service is eventually consistent: a read may not see a write that was answered.
        """
        self._stale = calls

    def lose_replies(self, calls: int) -> None:
        """Let the next *calls* that succeed take effect, and never answer them."""
        self._lost = calls

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        """Answer nothing, and do nothing, until the block ends."""
        self._is_down = True
        try:
            yield
        finally:
            self._is_down = False

    def deny(self, *actions: str) -> None:
        """Refuse these actions from now on, and no others."""
        self._denied = frozenset(actions)

    def mend(self) -> None:
        """Take back every fault that has not been used up."""
        self._faults.clear()
        self._denied = frozenset()
        self._stale = self._lost = 0

    # ------------------------------------------------------------------ by hand

    def operate(self, action: str, **parameters: object) -> dict[str, Any]:
        """Make a change as an operator or the scheduler does: no HTTP, no fault, not in `calls`.

        Raises:
            Refusal: What the service would refuse.
        """
        with self._lock:
            return self._write(_WRITES[action], parameters)

    # ------------------------------------------------------------------ introspection

    @property
    def events(self) -> list[Event]:
        """Every event so far."""
        return list(self._state.events)

    def labels(self, ref: str) -> dict[str, str]:
        """Return which version has each label, without a call."""
        versions = _found(self._state, ref).versions
        return {label: name for name, version in versions.items() for label in version.labels}

    def versions(self, ref: str) -> list[StoredVersion]:
        """Return every version there is, oldest first, without a call."""
        return [_shown(*each) for each in _found(self._state, ref).versions.items()]

    def event(self, ref: str, step: str) -> dict[str, str]:
        """Return what the rotation under way, or its test, is sent for *step*."""
        secret = _found(self._state, ref)
        token = secret.rotation or secret.holder(PENDING)
        event = {"Step": step, "SecretId": secret.arn, "ClientRequestToken": token}
        if self._state.undocumented.assumes_role:
            event["RotationToken"] = _rotation_token(token)
        return event

    def settle(self) -> None:
        """Wait until every rotation that was started has ended."""
        for rotation in self._rotations:
            rotation.join(ROTATION_TIMEOUT_S)
            assert not rotation.is_alive(), "a rotation hangs"

    # ------------------------------------------------------------------ answers

    def _answer(self, request: Request) -> dict[str, Any]:
        with self._lock:
            if self._is_down:
                raise NoReply
            answer = self._recorded(request)
            if self._lost:
                self._lost -= 1
                raise NoReply
            return answer

    def _recorded(self, request: Request) -> dict[str, Any]:
        refused = ""
        try:
            return self._perform(request)
        except Refusal as refusal:
            refused = refusal.code
            raise
        finally:
            self.calls.append(Call(request.action, request.caller, refused))

    def _perform(self, request: Request) -> dict[str, Any]:
        if request.action in self._denied:
            raise Refusal("AccessDeniedException", f"{request.action} is denied")
        if self._faults:
            raise self._faults.pop(0)
        if request.action in _READS:
            return _READS[request.action](self._read(), request.parameters)
        if request.action in _WRITES:
            return self._write(_WRITES[request.action], request.parameters)
        raise Refusal(
            "UnknownOperationException", f"the strict Secrets Manager has no {request.action}"
        )

    def _read(self) -> _State:
        """Return a copy of the state that a read is to see."""
        state = self._before if self._stale else self._state
        self._stale = max(0, self._stale - 1)
        return self._copied(state)

    def _write(self, action: _Action, parameters: dict[str, Any]) -> dict[str, Any]:
        state = self._copied(self._state)
        answer = action(state, parameters)
        self._commit(state)
        return answer

    def _copied(self, state: _State) -> _State:
        copied = state.copied(self._clock.now())
        copied.forget_deleted()
        return copied

    def _commit(self, state: _State) -> None:
        begun, state.begun = state.begun, []
        if state.secrets != self._state.secrets:
            self._before = self._state
        self._state = state
        for ref in begun:
            self._start(ref)

    # ------------------------------------------------------------------ rotations

    def _start(self, ref: str) -> None:
        if self._on_rotate is None:
            return
        secret = _found(self._state, ref)
        work = self._rotate if secret.rotation else self._try_out
        arguments = (self._on_rotate, ref, secret.rotation or secret.holder(PENDING))
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._rotations.append(thread)
        thread.start()

    def _rotate(self, on_rotate: OnRotate, ref: str, token: str) -> None:
        """Go through the steps, again from the first one if one fails."""
        for _ in range(self._state.undocumented.attempts):
            if all(
                _found(self._state, ref).rotation == token and self._step(on_rotate, ref, step)
                for step in STEPS
            ):
                break
        with self._lock:
            state = self._copied(self._state)
            _close(state, ref, token)
            self._commit(state)

    def _try_out(self, on_rotate: OnRotate, ref: str, token: str) -> None:
        """Perform the test step alone, and remove the version that was made for it."""
        self._step(on_rotate, ref, "testSecret")
        with self._lock:
            state = self._copied(self._state)
            _found(state, ref).versions.pop(token, None)
            self._commit(state)

    def _step(self, on_rotate: OnRotate, ref: str, step: str) -> bool:
        try:
            on_rotate(self.event(ref, step))
        except Exception:  # noqa: BLE001  # a function may fail in any way
            return False
        return True


class _SystemClock:
    """A `Clock`."""

    def now(self) -> datetime:
        """See `Clock.now`."""
        return datetime.now(UTC)


def _shown(version_id: str, version: _Version) -> StoredVersion:
    value = [Sensitive(text) for text in version.value.values()]
    return StoredVersion(
        version_id, value[0] if value else None, frozenset(version.labels), version.created_at
    )


def _rotation_token(token: str) -> str:
    """Return what the service shares with the function: 36 to 256 letters, digits, hyphens."""
    return f"rotation-{token}"


# ---------------------------------------------------------------------------- secrets


def _create_secret(state: _State, asked: dict[str, Any]) -> dict[str, Any]:
    name = _text(asked, "Name")
    # Recorded (test_invalid_secret_name).
    if not re.fullmatch(r"[A-Za-z0-9/_+=.@-]{1,512}", name):
        raise _invalid_value("Invalid name. Must be a valid name.")
    existing = [secret for secret in state.secrets if secret.name == name]
    if existing:
        return _create_again(existing[0], asked)
    state.made += 1
    secret = _Secret(_arn(name, state.made), name, state.now, state.now)
    state.secrets.append(secret)
    secret.details |= _given(asked, "Description", "KmsKeyId")
    return _stored(state, secret, asked, [CURRENT]) if _given(asked, *_VALUES) else _names(secret)


def _create_again(secret: _Secret, asked: dict[str, Any]) -> dict[str, Any]:
    if secret.gone_at is not None:
        raise _invalid_request(
            "You can't create this secret because a secret with this name is already scheduled"
            " for deletion."
        )
    # The same token with the same value is the same call (API_CreateSecret, ClientRequestToken).
    version = secret.versions.get(_text(asked, "ClientRequestToken"))
    if version is not None and version.value == _value(asked):
        return _names(secret, _token(asked))
    # Recorded (test_secret_exists_snapshots).
    raise Refusal(
        "ResourceExistsException",
        f"The operation failed because the secret {secret.name} already exists.",
    )


def _describe_secret(state: _State, asked: dict[str, Any]) -> dict[str, Any]:
    secret = _found(state, _text(asked, "SecretId"))
    # Versions that have a label, empty or not, and no others; left out if there are none
    # (API_DescribeSecret; recorded, test_create_secret_version_from_empty_secret).
    labelled = {name: sorted(v.labels) for name, v in secret.versions.items() if v.labels}
    dates = {
        "CreatedDate": secret.created_at,
        "LastChangedDate": secret.changed_at,
        "LastRotatedDate": secret.rotated_at,
        "DeletedDate": secret.gone_at,
    }
    return {
        **_names(secret),
        **secret.details,
        **{name: date.timestamp() for name, date in dates.items() if date is not None},
        **({"VersionIdsToStages": labelled} if labelled else {}),
    }


def _update_secret(state: _State, asked: dict[str, Any]) -> dict[str, Any]:
    secret = _live(state, asked)
    answer = _names(secret)  # recorded without VersionId (test_update_secret_description)
    if _given(asked, *_VALUES):
        # A version that exists is an error here, whatever its value (API_UpdateSecret).
        if _token(asked) in secret.versions:
            raise _version_exists(secret, _token(asked))
        answer = _stored(state, secret, asked, [CURRENT])
    secret.details |= _given(asked, "Description", "KmsKeyId")
    secret.changed_at = state.now
    return answer


def _tag_resource(state: _State, asked: dict[str, Any]) -> dict[str, Any]:
    secret = _live(state, asked)
    given = {tag["Key"]: tag["Value"] for tag in asked["Tags"]}
    tags = {tag["Key"]: tag["Value"] for tag in secret.details.get("Tags", [])} | given
    if any(not _TAG.fullmatch(text) for tag in given.items() for text in tag):
        raise _invalid_parameter("A tag has a character that it may not have.")
    if len(tags) > MAX_TAGS or any(
        len(k) > MAX_TAG_KEY or len(v) > MAX_TAG_VALUE for k, v in tags.items()
    ):
        raise _invalid_parameter("Too many tags, or too long ones.")
    secret.details["Tags"] = [{"Key": key, "Value": value} for key, value in tags.items()]
    return {}


def _untag_resource(state: _State, asked: dict[str, Any]) -> dict[str, Any]:
    secret = _live(state, asked)
    # Keys that are not there are no error (API_UntagResource).
    secret.details["Tags"] = [
        tag for tag in secret.details.get("Tags", []) if tag["Key"] not in asked["TagKeys"]
    ]
    return {}


def _delete_secret(state: _State, asked: dict[str, Any]) -> dict[str, Any]:
    days, forced = asked.get("RecoveryWindowInDays"), bool(asked.get("ForceDeleteWithoutRecovery"))
    if days is not None and forced:
        raise _invalid_parameter(
            "You can't use ForceDeleteWithoutRecovery in conjunction with RecoveryWindowInDays."
        )
    days = MAX_RECOVERY_DAYS if days is None else days
    if not MIN_RECOVERY_DAYS <= days <= MAX_RECOVERY_DAYS:
        raise _invalid_parameter("RecoveryWindowInDays value must be between 7 and 30 days.")
    if forced:
        return _delete_now(state, _text(asked, "SecretId"))
    secret = _found(state, _text(asked, "SecretId"))
    secret.gone_at = state.now + timedelta(days=days)
    return {**_names(secret), "DeletionDate": secret.gone_at.timestamp()}


def _delete_now(state: _State, ref: str) -> dict[str, Any]:
    matching = _matching(state, ref)
    state.secrets = [secret for secret in state.secrets if secret not in matching]
    # Without a recovery window a missing secret is no error (API_DeleteSecret).
    names = _names(matching[0]) if matching else {"ARN": ref, "Name": ref}
    return {**names, "DeletionDate": state.now.timestamp()}


def _restore_secret(state: _State, asked: dict[str, Any]) -> dict[str, Any]:
    secret = _found(state, _text(asked, "SecretId"))
    secret.gone_at = None
    return _names(secret)


def _arn(name: str, number: int) -> str:
    # Six characters of the service's own, so that a secret made anew has another ARN
    # (whats-in-a-secret). Here they follow from the name and the order of creation.
    suffix = hashlib.sha256(f"{number}/{name}".encode()).hexdigest()[:6]
    return f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:{name}-{suffix}"


# ---------------------------------------------------------------------------- values and versions


def _get_secret_value(state: _State, asked: dict[str, Any]) -> dict[str, Any]:
    secret = _live(state, asked)
    label = _text(asked, "VersionStage")
    # Neither: AWSCURRENT (API_GetSecretValue).
    version_id = _text(asked, "VersionId") or secret.holder(label or CURRENT)
    version = secret.versions.get(version_id)
    if version is None:
        raise _not_found(_value_asked_for(asked))
    # Both must refer to the same version (API_GetSecretValue).
    if label and label not in version.labels:
        raise Refusal(
            state.undocumented.mismatch.value,
            "You provided a VersionStage that is not associated to the provided VersionId.",
        )
    # Recorded, in the create step of a rotation (functions/lambda_rotate_secret.py).
    if not version.value:
        raise _not_found(_value_asked_for(asked))
    return {
        **_names(secret, version_id),
        **version.value,
        **_labels_of(version),
        "CreatedDate": version.created_at.timestamp(),
    }


def _put_secret_value(state: _State, asked: dict[str, Any]) -> dict[str, Any]:
    secret = _live(state, asked)
    _check_rotation_token(state, secret, asked)
    labels = asked.get("VersionStages")
    # A list of 1 to 20 (API_PutSecretValue).
    if labels is not None and not 1 <= len(labels) <= MAX_LABELS:
        raise _invalid_value("Value at 'versionStages' failed to satisfy constraint")
    # No labels: AWSCURRENT moves here (API_PutSecretValue).
    answer = _stored(state, secret, asked, labels or [CURRENT])
    return {**answer, **_labels_of(secret.versions[answer["VersionId"]])}


def _list_secret_version_ids(state: _State, asked: dict[str, Any]) -> dict[str, Any]:
    secret = _found(state, _text(asked, "SecretId"))
    # Only versions with a value, and without a label only if asked for (API_ListSecretVersionIds).
    listed = [
        {
            "VersionId": name,
            "CreatedDate": version.created_at.timestamp(),
            "KmsKeyIds": ["DefaultEncryptionKey"],
            **_labels_of(version),
        }
        for name, version in secret.versions.items()
        if version.value and (version.labels or asked.get("IncludeDeprecated"))
    ]
    return {**_names(secret), **_page(listed, asked, state.undocumented.page_size)}


def _page(listed: list[dict[str, Any]], asked: Mapping[str, Any], size: int) -> dict[str, Any]:
    size = asked.get("MaxResults", size)
    if not 1 <= size <= MAX_PAGE:
        raise _invalid_value("Value at 'maxResults' failed to satisfy constraint")
    start = asked.get("NextToken", "after-0")
    if not re.fullmatch(r"after-[0-9]+", start):
        raise Refusal("InvalidNextTokenException", "The NextToken value is invalid.")
    first = int(start.removeprefix("after-"))
    end = first + size
    more = {"NextToken": f"after-{end}"} if end < len(listed) else {}
    return {"Versions": listed[first:end], **more}


def _stored(
    state: _State, secret: _Secret, asked: dict[str, Any], labels: Iterable[str]
) -> dict[str, Any]:
    """Make the version that is *asked* for, or find that it is there already."""
    token, value = _token(asked), _value(asked)
    version = secret.versions.get(token)
    if version is not None and version.value:
        # Same value: success, and nothing is done; labels neither. Other value: refused, versions
        # are immutable (API_PutSecretValue, ClientRequestToken).
        if version.value != value:
            raise _version_exists(secret, token)
        return _names(secret, token)
    _fill(state, secret, token, value)
    if not secret.holder(CURRENT):
        labels = [*labels, CURRENT]  # the first version gets it in any case (API_PutSecretValue)
    _label(state, secret, token, labels)
    if CURRENT in labels and PENDING not in labels:
        _abandon(state, secret, token)
    _end_when_current(state, secret)
    return _names(secret, token)


def _fill(state: _State, secret: _Secret, token: str, value: dict[str, str]) -> None:
    if token not in secret.versions:
        _make_room(state, secret)
        secret.versions[token] = _Version(state.now)
    version = secret.versions[token]
    version.value, version.created_at = value, state.now
    secret.changed_at = state.now


def _make_room(state: _State, secret: _Secret) -> None:
    """Remove versions without a label, oldest first, but no young ones (reference_limits)."""
    oldest_first = sorted(secret.versions.items(), key=lambda item: item[1].created_at)
    for name, version in oldest_first:
        if len(secret.versions) < MAX_VERSIONS:
            return
        if not version.labels and state.now - version.created_at >= YOUNG:
            del secret.versions[name]
    if len(secret.versions) >= MAX_VERSIONS:
        raise _over_the_limit(f"The secret has {MAX_VERSIONS} versions that cannot be removed.")


def _abandon(state: _State, secret: _Secret, stored: str) -> None:
    """End what a value stored by hand ends.

    A manual new version during a rotation takes AWSPENDING off (user guide, rotation events);
    recorded without a rotation, too (test_update_secret_version_stages_current_pending).
    """
    if secret.rotation == stored:
        return
    secret.drop(PENDING)
    if secret.rotation:
        state.tell("RotationAbandoned", secret, secret.rotation)
        secret.rotation = ""


def _check_rotation_token(state: _State, secret: _Secret, asked: Mapping[str, Any]) -> None:
    """Refuse a write of the rotation under way without its token (API_PutSecretValue).

    UpdateSecretVersionStage takes no such parameter: docs/adr/0002-rotation-token.md.
    """
    if not (state.undocumented.assumes_role and secret.rotation):
        return
    is_rotation = "RotationToken" in asked or _text(asked, "ClientRequestToken") == secret.rotation
    if is_rotation and asked.get("RotationToken") != _rotation_token(secret.rotation):
        raise Refusal("AccessDeniedException", "The rotation token is missing or wrong.")


# ---------------------------------------------------------------------------- labels


def _update_secret_version_stage(state: _State, asked: dict[str, Any]) -> dict[str, Any]:
    secret = _live(state, asked)
    label, to = _text(asked, "VersionStage"), _text(asked, "MoveToVersionId")
    _check_move(secret, label, to, _text(asked, "RemoveFromVersionId"))
    if to and label == CURRENT and not state.undocumented.promotes_empty:
        _check_value(secret, to)
    if to:
        _label(state, secret, to, [label])
    else:
        secret.drop(label)
    secret.changed_at = state.now
    _end_when_current(state, secret)
    return _names(secret)


def _check_move(secret: _Secret, label: str, to: str, source: str) -> None:
    """Compare, before anything is set (API_UpdateSecretVersionStage)."""
    holder = secret.holder(label)
    if to and to not in secret.versions:
        raise _not_found(f"secret version {to}")
    if not to and not source:
        raise _invalid_parameter("You must specify MoveToVersionId or RemoveFromVersionId.")
    if not to and label == CURRENT:
        raise _invalid_parameter(f"You can't remove {CURRENT}, only move it to another version.")
    # The label is attached, and the version ID does not match: the operation fails.
    if source and source != holder:
        raise _invalid_parameter(
            f"When you move staging label {label}, if you specify RemoveFromVersionId, it must be"
            f" set to the version that currently has the staging label {label}."
        )
    # The same if it is not specified (recorded in terraform-provider-aws issue 19943).
    if holder not in {"", to} and not source:
        raise _invalid_parameter(
            f"The parameter RemoveFromVersionId can't be empty. Staging label {label} is currently"
            f" attached to version {holder}, so you must explicitly reference that version in"
            " RemoveFromVersionId."
        )


def _check_value(secret: _Secret, version_id: str) -> None:
    if not secret.versions[version_id].value:
        raise _invalid_request(f"The version {version_id} has no value.")


def _label(state: _State, secret: _Secret, to: str, labels: Iterable[str]) -> None:
    for label in labels:
        if secret.holder(label) != to:
            _move(state, secret, label, to)
    if len({label for v in secret.versions.values() for label in v.labels}) > MAX_LABELS:
        raise _over_the_limit(f"A secret has at most {MAX_LABELS} staging labels.")


def _move(state: _State, secret: _Secret, label: str, to: str) -> None:
    """Put a label on one version and take it off any other (API_UpdateSecretVersionStage)."""
    old = secret.holder(label)
    secret.drop(label)
    secret.versions[to].labels.add(label)
    # AWSPREVIOUS moves by itself to the version that AWSCURRENT was removed from.
    if label == CURRENT and old:
        secret.drop(PREVIOUS)
        secret.versions[old].labels.add(PREVIOUS)
    # Not sent for these two (user guide, monitoring: Secret Label Updated).
    if label not in {PENDING, PREVIOUS}:
        state.tell("Secret Label Updated", secret, to, label)


def _end_when_current(state: _State, secret: _Secret) -> None:
    if not secret.rotation or secret.holder(CURRENT) != secret.rotation:
        return
    if state.undocumented.drops_pending:
        secret.drop(PENDING)
    if not state.drives_steps:
        _succeed(state, secret)


# ---------------------------------------------------------------------------- rotation


def _rotate_secret(state: _State, asked: dict[str, Any]) -> dict[str, Any]:
    secret, token = _live(state, asked), _text(asked, "ClientRequestToken")
    # Recorded (test_no_client_request_token): another code than for the other actions.
    if not token:
        raise _invalid_parameter("You must provide a ClientRequestToken value.")
    if token == secret.rotation:
        return _names(secret, token)  # the same call again
    _check_rotation(secret, asked, _token(asked))
    secret.details |= _given(asked, "RotationLambdaARN", "RotationRules")
    secret.details["RotationEnabled"] = True
    _begin(state, secret, token, is_real=asked.get("RotateImmediately", True))
    return _names(secret, token)


def _check_rotation(secret: _Secret, asked: Mapping[str, Any], token: str) -> None:
    # No ARN, here or stored: InvalidRequestException (its description in the service's model).
    if not (asked.get("RotationLambdaARN") or secret.details.get("RotationLambdaARN")):
        raise _invalid_request("No Lambda rotation function ARN is associated with this secret.")
    rules = asked.get("RotationRules") or {}
    # Not both (API_RotationRulesType).
    if "AutomaticallyAfterDays" in rules and "ScheduleExpression" in rules:
        raise _invalid_parameter(
            "You can't specify both AutomaticallyAfterDays and ScheduleExpression."
        )
    # AWSPENDING on another version than AWSCURRENT is a rotation in progress (API_RotateSecret).
    if secret.holder(PENDING) not in {"", secret.holder(CURRENT)}:
        raise _invalid_request(
            "A previous rotation isn't complete. That rotation will be reattempted."
        )
    # The token names a new version (API_RotateSecret).
    if token in secret.versions:
        raise _invalid_request(f"The secret has a version {token} already.")


def _begin(state: _State, secret: _Secret, token: str, *, is_real: bool) -> None:
    """Make the pending version: empty, or with current's value if only the settings are tested.

    The test makes a version and removes it (API_RotateSecret, RotateImmediately); its value is
    not documented, but test must pass when pending equals current.
    """
    _make_room(state, secret)
    version = secret.versions[token] = _Version(state.now)
    _label(state, secret, token, [PENDING])
    state.begun.append(secret.arn)
    if is_real:
        secret.rotation = token
        state.tell("RotationStarted", secret, token)
    elif secret.holder(CURRENT):
        version.value = secret.versions[secret.holder(CURRENT)].value


def _close(state: _State, ref: str, token: str) -> None:
    """End a rotation whose steps were gone through."""
    secret = _found(state, ref)
    if secret.rotation != token:
        return  # it was abandoned or cancelled
    # AWSPENDING is on the current version, or on none: success (API_RotateSecret).
    if secret.holder(PENDING) in {"", secret.holder(CURRENT)}:
        _succeed(state, secret)
    else:
        secret.rotation = ""
        state.tell("RotationFailed", secret, token)


def _succeed(state: _State, secret: _Secret) -> None:
    token, secret.rotation = secret.rotation, ""
    secret.rotated_at = state.now
    state.tell("RotationSucceeded", secret, token)


def _cancel_rotate_secret(state: _State, asked: dict[str, Any]) -> dict[str, Any]:
    secret = _live(state, asked)
    if not secret.details.get("RotationLambdaARN"):
        raise _invalid_request("No Lambda rotation function ARN is associated with this secret.")
    secret.details["RotationEnabled"] = False
    # Labels stay where they are; the operator has to look (API_CancelRotateSecret).
    secret.rotation = ""
    return _names(secret, secret.holder(PENDING))


# ---------------------------------------------------------------------------- which secret


def _live(state: _State, asked: Mapping[str, Any]) -> _Secret:
    secret = _found(state, _text(asked, "SecretId"))
    # Scheduled for deletion (InvalidRequestException, in the service's model). The actions that
    # do not list that error there, DescribeSecret and ListSecretVersionIds, go on.
    if secret.gone_at is not None:
        raise _invalid_request(
            "You can't perform this operation on the secret because it was marked for deletion."
        )
    return secret


def _found(state: _State, ref: str) -> _Secret:
    matching = _matching(state, ref)
    if not matching:
        raise _not_found("secret")
    return matching[0]


def _matching(state: _State, ref: str) -> list[_Secret]:
    """Find by full ARN, by name, or by an ARN without its last seven characters.

    What ends in a hyphen and six characters is taken for a full ARN, even if that is a part of
    the name (user guide, troubleshoot: partial ARN; recorded, test_create_and_update_secret with
    the name Invalid/_+=.@-Name-a1b2c3).
    """
    if not ref.startswith("arn:"):
        return [secret for secret in state.secrets if secret.name == ref]
    if re.search(r"-[A-Za-z0-9]{6}$", ref):
        return [secret for secret in state.secrets if secret.arn == ref]
    return [secret for secret in state.secrets if secret.arn.rpartition("-")[0] == ref]


# ---------------------------------------------------------------------------- parameters


def _text(asked: Mapping[str, Any], name: str) -> str:
    return str(asked.get(name) or "")


def _given(asked: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: asked[name] for name in names if name in asked}


def _token(asked: Mapping[str, Any]) -> str:
    token = _text(asked, "ClientRequestToken")
    # Recorded (test_no_client_request_token); SDKs send one by themselves.
    if not token:
        raise _invalid_request("You must provide a ClientRequestToken value.")
    if not MIN_TOKEN <= len(token) <= MAX_TOKEN:
        raise _invalid_parameter(
            f"ClientRequestToken must be {MIN_TOKEN}-{MAX_TOKEN} characters long."
        )
    return token


_VALUES = ("SecretString", "SecretBinary")


def _value(asked: Mapping[str, Any]) -> dict[str, str]:
    value = _given(asked, *_VALUES)
    # One of the two, but not both (API_PutSecretValue).
    if len(value) != 1:
        raise _invalid_parameter("You must provide either SecretString or SecretBinary.")
    for name, text in value.items():
        size_bytes = len(base64.b64decode(text) if name == "SecretBinary" else text.encode())
        if not 1 <= size_bytes <= MAX_VALUE_BYTES:
            raise _invalid_value(f"Value at '{name}' must have 1 to {MAX_VALUE_BYTES} bytes")
    return value


# ---------------------------------------------------------------------------- answers


def _names(secret: _Secret, version_id: str = "") -> dict[str, Any]:
    version = {"VersionId": version_id} if version_id else {}
    return {"ARN": secret.arn, "Name": secret.name, **version}


def _labels_of(version: _Version) -> dict[str, Any]:
    # Recorded: the member is missing if there are none (test_deprecated_secret_version_stage).
    return {"VersionStages": sorted(version.labels)} if version.labels else {}


def _value_asked_for(asked: Mapping[str, Any]) -> str:
    if _text(asked, "VersionId"):
        return f"secret value for VersionId: {_text(asked, 'VersionId')}"
    return f"secret value for staging label: {_text(asked, 'VersionStage') or CURRENT}"


def _not_found(what: str) -> Refusal:
    return Refusal("ResourceNotFoundException", f"Secrets Manager can't find the specified {what}.")


def _version_exists(secret: _Secret, token: str) -> Refusal:
    return Refusal(
        "ResourceExistsException",
        f"You can't use ClientRequestToken {token} because that value is already in use for a"
        f" version of secret {secret.arn}.",
    )


def _invalid_request(message: str) -> Refusal:
    return Refusal("InvalidRequestException", message)


def _invalid_parameter(message: str) -> Refusal:
    return Refusal("InvalidParameterException", message)


def _invalid_value(message: str) -> Refusal:
    return Refusal("ValidationException", message)


def _over_the_limit(message: str) -> Refusal:
    return Refusal("LimitExceededException", message)


# ---------------------------------------------------------------------------- the table

_READS: dict[str, _Action] = {
    "DescribeSecret": _describe_secret,
    "GetSecretValue": _get_secret_value,
    "ListSecretVersionIds": _list_secret_version_ids,
}

_WRITES: dict[str, _Action] = {
    "CancelRotateSecret": _cancel_rotate_secret,
    "CreateSecret": _create_secret,
    "DeleteSecret": _delete_secret,
    "PutSecretValue": _put_secret_value,
    "RestoreSecret": _restore_secret,
    "RotateSecret": _rotate_secret,
    "TagResource": _tag_resource,
    "UntagResource": _untag_resource,
    "UpdateSecret": _update_secret,
    "UpdateSecretVersionStage": _update_secret_version_stage,
}
