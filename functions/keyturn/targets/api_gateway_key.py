"""API Gateway: keys of one name, whose values are ours to make.

The service takes the value that it is told. So the store learns it first, as with a password, and
there is never a key whose value nobody knows. *set* gives pending's key the usage plans of
current's, and enables it last; current's is not touched. What was current before that is disabled
by the next rotation, and deleted by the one after it: until then a person can enable it again. The
description of a key says which one it follows.

    current, pending                                    left alone
    of another version, for an hour current was current   enabled: disabled; disabled: deleted
    of another version, younger                         left alone: its worker may be alive
    of no version of the secret                         somebody else's, never touched

Whether a key works, the service is asked, not the gateway, which hears of a change later: a key
that was changed a moment ago is waited for.

A credential's document: `name`, the key's name, and `api_key`, its value.
"""

from __future__ import annotations

import string
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Protocol

from keyturn.boundary import ask_aws
from keyturn.document import Members
from keyturn.errors import Busy, Drifted, Misconfigured, NotYetAccepted
from keyturn.model import Credential, Sensitive, Strategy, Surroundings, Version
from keyturn.ports import Generate, Pending

TITLE = "API Gateway keys"
STRATEGIES = (Strategy.DUAL_PASSWORD,)
ENGINES = ("api-gateway-key",)
MEMBERS = Members("name", "api_key")
ALPHABET = string.ascii_letters + string.digits
"""What a value is made of, as the service makes its own."""
PERMISSIONS = ("apigateway:DELETE", "apigateway:GET", "apigateway:PATCH", "apigateway:POST")
"""On /apikeys, and on the keys of /usageplans: see docs/api-gateway-keys.md."""

SHORTEST, LONGEST = 20, 128
"""Characters of a value (API Gateway Developer Guide, "Best practices for usage plans")."""
NAME_MAX_CHARACTERS = 255

RESTING = timedelta(hours=1)
"""How long a key is left alone once current is another, and one whose worker may be alive."""

SETTLED_S = 60.0
"""How long ago a key must have been changed until the gateways are taken to know it, in seconds.

No bound is documented; people report up to a minute.
"""

PAGE = 500
"""Things per answer, the most there may be."""

CONNECT_TIMEOUT_S, READ_TIMEOUT_S, TRIES = 2, 5, 3
"""Per call. Each may be repeated: no two keys can have one value."""

MARGIN_S = 10.0
"""Left of the function's time when a wait ends."""


def target(surroundings: Surroundings, generate: Generate) -> ApiKeys:
    """Build the target; it is its own strategy."""
    return ApiKeys(surroundings, generate)


def _now() -> datetime:
    return datetime.now(UTC)


class ApiKeys:
    """A `Target` and `Retiring`: current's key and pending's, both enabled.

    Args:
        surroundings: What the deployment allows.
        generate: Makes values.
        now: Returns the time.
        sleep: Waits so many seconds.
    """

    def __init__(
        self,
        surroundings: Surroundings,
        generate: Generate,
        now: Callable[[], datetime] = _now,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._surroundings = surroundings
        self._generate = generate
        self._now = now
        self._sleep = sleep
        self._api: _Service | None = None

    def create(self, current: Credential, kept: Iterable[Version]) -> Credential:
        """See `Target.create`."""
        name = _name(current)
        following = replace(current, secret=self._generate())
        if not _is_allowed(following.secret):
            raise Misconfigured(
                f"values of API keys have {SHORTEST} to {LONGEST} characters: ASCII letters,"
                " digits and hyphens",
                remedy="Mend `password` in the plan: see docs/api-gateway-keys.md.",
            )
        self._model(self._service().keys(name), current, kept)
        return following

    def set(self, pending: Pending, current: Version, kept: Iterable[Version]) -> None:
        """See `Target.set`. Enabling the key comes last: it is what makes `accepts` true."""
        name = _name(current.credential)
        following, versions = _checked(pending(), name), list(kept)
        keys = self._service().keys(name)
        model, plans = self._model(keys, current.credential, versions)

        def require_ours() -> None:
            _checked(pending(), name)

        self._let_go(self._spent(keys, versions, following, current), require_ours)
        secret = following.credential.secret
        key = _of(keys, secret) or self._made(name, secret, model, require_ours)
        for plan in sorted(plans - self._service().plans(key.id)):
            require_ours()
            self._service().join(plan, key.id)
        if not key.is_enabled:
            require_ours()
            self._service().switch(key.id, is_enabled=True)

    def accepts(self, credential: Credential) -> bool:
        """See `Target.accepts`. Waits until a key that was just changed is known to the gateways.

        Raises:
            NotYetAccepted: The function's time is up first. The same call later goes on waiting.
        """
        name = _name(credential)
        while True:
            key = _of(self._service().keys(name), credential.secret)
            if key is None or not key.is_enabled or not self._service().plans(key.id):
                return False
            age_s = (self._now() - key.changed_at).total_seconds()
            if age_s >= SETTLED_S:
                return True
            self._rest(key.id, min(SETTLED_S, SETTLED_S - age_s))

    def retire(self, current: Pending) -> None:
        """See `Retiring.retire`. Disables the key that current's follows."""
        version = current()
        if not self.accepts(version.credential):
            raise NotYetAccepted(
                f"current version {version.rotation_id} has no key that is enabled",
                remedy="Rotate the secret; the old key is disabled when current works.",
            )
        name = _name(version.credential)
        keys = self._service().keys(name)
        own = _of(keys, version.credential.secret)
        if current().rotation_id != version.rotation_id:
            raise Busy(
                f"version {version.rotation_id} is current no more",
                remedy="Nothing: it is looked at again.",
            )
        for key in keys:
            if own is not None and own.follows == key.id:
                self._service().switch(key.id, is_enabled=False)

    # ------------------------------------------------------------------------ whose key it is

    def _model(
        self, keys: Sequence[_Key], current: Credential, kept: Iterable[Version]
    ) -> tuple[_Key, frozenset[str]]:
        """Return the key that pending's is to be like, and its usage plans.

        Raises:
            Drifted: No version of the secret has a key, or it is in no plan.
        """
        name = _name(current)
        candidates = [current.secret, *(each.credential.secret for each in _of_name(kept, name))]
        found = next((key for secret in candidates if (key := _of(keys, secret))), None)
        if found is None:
            raise Drifted(
                f"no API key named {name!a} has a value that the secret holds",
                remedy="Store name and value of a key that there is, and rotate again.",
            )
        plans = self._service().plans(found.id)
        if not plans:
            raise Drifted(
                f"the API key {found.id} is in no usage plan, so it opens nothing",
                remedy="Add the key to the usage plans that it is for.",
            )
        return found, plans

    def _spent(
        self,
        keys: Sequence[_Key],
        versions: Sequence[Version],
        pending: Version,
        current: Version,
    ) -> list[_Key]:
        """Return the keys of versions that nobody has a reason to use any more."""
        now = self._now()
        if now - current.stored_at < RESTING:
            return []
        ours = list(_of_name(versions, _name(current.credential)))
        in_use = [pending.credential.secret, current.credential.secret]
        # By the youngest version that has it: an old value may have been stored again just now.
        in_use += [v.credential.secret for v in ours if now - v.stored_at < RESTING]
        old = [v.credential.secret for v in ours]
        return [key for key in keys if key.value in old and key.value not in in_use]

    def _let_go(self, spent: Iterable[_Key], require_ours: Callable[[], None]) -> None:
        for key in spent:
            require_ours()
            if key.is_enabled:
                self._service().switch(key.id, is_enabled=False)
            else:
                self._service().delete(key.id)

    def _made(
        self, name: str, value: Sensitive, model: _Key, require_ours: Callable[[], None]
    ) -> _Key:
        require_ours()
        made = self._service().create(name, value, model.id)
        # A try without an answer has made it: it is there under its value.
        found = made or _of(self._service().keys(name), value)
        if found is None:
            raise NotYetAccepted(
                f"there is an API key with what is pending, and none named {name!a} is listed",
                remedy="Run this step again; if it stays so, look for a key of another name.",
            )
        return found

    def _rest(self, key_id: str, pause_s: float) -> None:
        if self._surroundings.remaining_s() - pause_s < MARGIN_S:
            raise NotYetAccepted(
                f"the API key {key_id} was changed less than {SETTLED_S:.0f} s ago",
                remedy="Run this step again: it goes on waiting.",
            )
        self._sleep(pause_s)

    def _service(self) -> _Service:
        # A client costs 0.1 s of CPU to make.
        if self._api is None:
            self._api = _Service(_client())
        return self._api


def _name(credential: Credential) -> str:
    name = credential.principal
    if len(name) > NAME_MAX_CHARACTERS or not name.isprintable():
        raise Misconfigured(
            "the secret's 'name' is not the name of an API key",
            remedy="Correct `name` in the secret's value.",
        )
    return name


def _checked(pending: Version, name: str) -> Version:
    if _name(pending.credential) != name:
        raise Drifted(
            f"version {pending.rotation_id} is for a key of another name than current is",
            remedy="Cancel this rotation and start a new one; change names only in between.",
        )
    return pending


def _of_name(versions: Iterable[Version], name: str) -> Iterator[Version]:
    return (each for each in versions if each.credential.principal == name)


def _of(keys: Iterable[_Key], secret: Sensitive) -> _Key | None:
    return next((key for key in keys if key.value == secret), None)


def _is_allowed(secret: Sensitive) -> bool:
    text = secret.reveal()
    return SHORTEST <= len(text) <= LONGEST and set(text) <= {*ALPHABET, "-"}


# ---------------------------------------------------------------------------- the service


@dataclass(frozen=True, slots=True)
class _Key:
    """A key, as the service has it.

    Attributes:
        follows: The id of the key that it was made after; None if we did not make it.
    """

    id: str
    value: Sensitive
    is_enabled: bool
    changed_at: datetime
    follows: str | None = None


_FOLLOWS = "keyturn: follows "
"""How the descriptions of our keys begin; an id is next."""


def _key(said: Mapping[str, Any], value: Sensitive) -> _Key:
    description = str(said.get("description", ""))
    _, is_ours, follows = description.partition(_FOLLOWS)
    return _Key(
        said["id"],
        value,
        said.get("enabled") is True,
        said["lastUpdatedDate"],
        follows if is_ours else None,
    )


class _Client(Protocol):
    """What we use of a boto3 client."""

    def create_api_key(self, **parameters: object) -> Mapping[str, Any]: ...

    def create_usage_plan_key(self, **parameters: object) -> Mapping[str, Any]: ...

    def delete_api_key(self, **parameters: object) -> Mapping[str, Any]: ...

    def get_api_keys(self, **parameters: object) -> Mapping[str, Any]: ...

    def get_usage_plans(self, **parameters: object) -> Mapping[str, Any]: ...

    def update_api_key(self, **parameters: object) -> Mapping[str, Any]: ...


def _client() -> _Client:
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": TRIES},
    )
    make: Callable[..., _Client] = boto3.client
    return make("apigateway", config=config)


_GONE: Mapping[str, Any] = {"": "gone"}
_THERE: Mapping[str, Any] = {"": "there"}
_FULL: Mapping[str, Any] = {"": "full"}
_ANSWERS = {
    "ConflictException": _THERE,
    "LimitExceededException": _FULL,
    "NotFoundException": _GONE,
}
"""Errors that are answers (API_CreateApiKey, API_CreateUsagePlanKey, API_UpdateApiKey)."""


@dataclass(frozen=True, slots=True)
class _Service:
    """API Gateway, as far as keys go. Every call may be repeated."""

    client: _Client

    def keys(self, name: str) -> list[_Key]:
        """Return the keys with *name* in their names; whose they are, their values say."""
        ask = partial(self.client.get_api_keys, nameQuery=name, includeValues=True, limit=PAGE)
        found = _paged("GetApiKeys", name, ask)
        return [_key(each, Sensitive(each.get("value", ""))) for each in found]

    def plans(self, key_id: str) -> frozenset[str]:
        """Return the ids of the usage plans that a key is in."""
        ask = partial(self.client.get_usage_plans, keyId=key_id, limit=PAGE)
        return frozenset(each["id"] for each in _paged("GetUsagePlans", key_id, ask))

    def create(self, name: str, value: Sensitive, follows: str) -> _Key | None:
        """Make a key that is not enabled yet; None if there is one with that value."""
        ask = partial(
            self.client.create_api_key,
            name=name,
            value=value.reveal(),
            enabled=False,
            description=f"{_FOLLOWS}{follows}",
        )
        said = _asked("CreateApiKey", name, ask)
        return None if said is _THERE else _key(said, value)

    def join(self, plan: str, key_id: str) -> None:
        """Add a key to a usage plan. Nothing if it is in it."""
        ask = partial(
            self.client.create_usage_plan_key, usagePlanId=plan, keyId=key_id, keyType="API_KEY"
        )
        if _asked("CreateUsagePlanKey", key_id, ask) is _GONE:
            raise Drifted(
                f"the usage plan {plan}, or the API key {key_id}, is there no more",
                remedy="Run this step again: it goes by the plans that there are.",
            )

    def switch(self, key_id: str, *, is_enabled: bool) -> None:
        """Enable or disable a key. Nothing if it is gone."""
        change = {"op": "replace", "path": "/enabled", "value": str(is_enabled).lower()}
        ask = partial(self.client.update_api_key, apiKey=key_id, patchOperations=[change])
        _asked("UpdateApiKey", key_id, ask)

    def delete(self, key_id: str) -> None:
        """Delete a key. Nothing if it is gone."""
        _asked("DeleteApiKey", key_id, partial(self.client.delete_api_key, apiKey=key_id))


def _asked(action: str, about: str, ask: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    said = ask_aws(action, about, ask, _ANSWERS)
    if said is _FULL:
        raise Misconfigured(
            f"{about}: {action} is beyond a quota of API Gateway",
            remedy="Delete keys that nobody needs, or have the quota raised.",
        )
    return said


def _paged(
    action: str, about: str, ask: Callable[..., Mapping[str, Any]]
) -> Iterator[Mapping[str, Any]]:
    position: dict[str, str] = {}
    while True:
        page = _asked(action, about, partial(ask, **position))
        yield from page.get("items", [])
        if not page.get("position"):
            return
        position = {"position": page["position"]}
