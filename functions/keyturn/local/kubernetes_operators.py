"""External Secrets and Sealed Secrets, one step at a time.

    ExternalSecret   reads `provider`, writes the Secret, and then its own status
    SealedSecret     asks `unseal`, writes the Secret, and then its own status

What External Secrets decides by, as of 2.9:

    the Secret is missing, or has been changed            refresh
    `syncedResourceVersion` is another                    refresh, except as follows
    CreatedOnce                                           never again
    Periodic with an interval of 0                        never again, whatever has changed
    Periodic                                              again after the interval
    OnChange                                              only when something has changed

`syncedResourceVersion` is the generation and a hash of labels and annotations; `refreshTime` has
whole seconds and is when the refresh began. Neither moves when a refresh fails.

A template's text may name a value as `{{ .name }}`; nothing else of its language is here. A
`secretStoreRef` is not followed: there is one provider.

Sources: external-secrets, externalsecret_controller.go (shouldRefresh, isSecretValid) and
setMetadata; sealed-secrets, controller.go.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from keyturn.local.kubernetes_kubelet import age, owner_reference
from keyturn.local.kubernetes_objects import Key, Objects, timestamp
from keyturn.local.kubernetes_rules import Refusal

Json = dict[str, Any]

_HASH_CHARACTERS = 56
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s)")
_UNIT_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DATA_HASH = "reconcile.external-secrets.io/data-hash"
_MANAGED = "reconcile.external-secrets.io/managed"
_SEALED_MANAGED = "sealedsecrets.bitnami.com/managed"


class Site(Protocol):
    """What the operators need of the cluster. See `FakeKubernetes`."""

    objects: Objects
    provider: Callable[[str], str]
    unseal: Callable[[Mapping[str, Any]], Mapping[str, str]]

    def now(self) -> Any:
        """Return the cluster's time."""
        ...


class _SyncError(Exception):
    """It cannot be synced. Says why, without a value."""


def step(site: Site) -> None:
    """Let each operator do the next thing it has to do."""
    objects = site.objects
    for resource, control in (("externalsecrets", _external), ("sealedsecrets", _sealed)):
        for key, one in objects.every(objects.kind_named(resource)):
            control(site, key, one)


# ---------------------------------------------------------------------- External Secrets


def _external(site: Site, key: Key, one: Json) -> None:
    began = site.now()
    if not _is_due(site, one):
        return
    try:
        name = _sync(site, one)
    except _SyncError as error:
        _write_external(site, key, one, ("False", "SecretSyncedError", str(error)), {})
        return
    synced = {
        "refreshTime": timestamp(began),
        "syncedResourceVersion": metadata_version(one),
        "binding": {"name": name},
    }
    _write_external(site, key, one, ("True", "SecretSynced", "secret synced"), synced)


def metadata_version(one: Json) -> str:
    """Return the generation and a hash of labels and annotations."""
    metadata = one["metadata"]
    digest = _digest([metadata.get("labels"), metadata.get("annotations")])
    return f"{metadata['generation']}-{digest}"


def _is_due(site: Site, one: Json) -> bool:
    status: Json = one.get("status") or {}
    synced = status.get("syncedResourceVersion")
    if not synced or not _is_as_written(site, one):
        return True
    policy = one["spec"].get("refreshPolicy") or "Periodic"
    interval_s = _seconds(one["spec"].get("refreshInterval", "1h"))
    if policy == "CreatedOnce" or (policy == "Periodic" and interval_s <= 0):
        return False
    if synced != metadata_version(one):
        return True
    waited_s: float = age(status["refreshTime"], site.now()).total_seconds()
    return policy == "Periodic" and waited_s >= interval_s


def _is_as_written(site: Site, one: Json) -> bool:
    """Tell whether the Secret is still as it was written, by the hash that it carries."""
    target: Json = one["spec"].get("target") or {}
    if target.get("creationPolicy") == "None":
        return True
    name = target.get("name") or one["metadata"]["name"]
    found = site.objects.find(Key("", "secrets", one["metadata"]["namespace"], name)) or {}
    annotations: Json = (found.get("metadata") or {}).get("annotations") or {}
    return bool(annotations.get(_DATA_HASH) == _digest(found.get("data")))


def _digest(hashed: Any) -> str:
    text = json.dumps(hashed, sort_keys=True)
    return hashlib.sha3_224(text.encode()).hexdigest()[:_HASH_CHARACTERS]


def _seconds(duration: Any) -> float:
    return sum(float(count) * _UNIT_S[unit] for count, unit in _DURATION.findall(str(duration)))


def _sync(site: Site, one: Json) -> str:
    """Write the Secret, and return its name."""
    target: Json = one["spec"].get("target") or {}
    name: str = target.get("name") or one["metadata"]["name"]
    policy = target.get("creationPolicy") or "Owner"
    if policy == "None":
        return name
    namespace = one["metadata"]["namespace"]
    old = site.objects.find(Key("", "secrets", namespace, name))
    if policy == "Merge" and old is None:
        raise _SyncError("the desired secret does not exist: not creating it")
    wanted = _external_secret(one, target, _read(site, one["spec"]))
    if policy == "Merge":
        wanted["data"] = {**((old or {}).get("data") or {}), **wanted["data"]}
    wanted["metadata"]["annotations"][_DATA_HASH] = _digest(wanted["data"])
    if policy == "Owner":
        reference = owner_reference(one, "external-secrets.io/v1", "ExternalSecret")
        wanted["metadata"]["ownerReferences"] = [reference]
    _write_secret(site, namespace, name, wanted, old)
    return name


def _external_secret(one: Json, target: Json, values: Mapping[str, str]) -> Json:
    """Return what the Secret is to be; without a template it gets the ExternalSecret's metadata."""
    template: Json = target.get("template") or {}
    source: Json = (template.get("metadata") or {}) if template else one["metadata"]
    said: Json = template.get("data") or {}
    rendered = {key: _rendered(text, values) for key, text in said.items()}
    if not said or template.get("mergePolicy") == "Merge":
        rendered = {**values, **rendered}
    made: Json = {
        "metadata": {
            "labels": {**(source.get("labels") or {}), _MANAGED: "true"},
            "annotations": {
                key: _rendered(text, values) if template else text
                for key, text in (source.get("annotations") or {}).items()
            },
        },
        "data": _encoded(rendered),
        **({"type": template["type"]} if template.get("type") else {}),
        **({"immutable": True} if target.get("immutable") else {}),
    }
    return made


def _rendered(text: str, values: Mapping[str, str]) -> str:
    return re.sub(r"\{\{-?\s*\.(\w+)\s*-?\}\}", lambda found: values.get(found[1], ""), text)


def _encoded(values: Mapping[str, str]) -> Json:
    return {key: base64.b64encode(text.encode()).decode() for key, text in values.items()}


def _read(site: Site, spec: Json) -> dict[str, str]:
    values: dict[str, str] = {}
    for each in spec.get("dataFrom") or ():
        if "extract" in each:
            found = json.loads(_value(site, each["extract"]))
            values |= {key: _text(value) for key, value in found.items()}
    for each in spec.get("data") or ():
        values[each["secretKey"]] = _value(site, each["remoteRef"])
    return values


def _value(site: Site, reference: Json) -> str:
    """Return what a reference means.

    Raises:
        _SyncError: There is no such key or property.
    """
    missing = _SyncError(f"could not get secret data from provider: {reference['key']}")
    try:
        text = site.provider(reference["key"])
        if "property" not in reference:
            return text
        found: Any = json.loads(text)
        whole = reference["property"]
        for part in [whole] if whole in found else whole.split("."):
            found = found[part]
        return _text(found)
    except (LookupError, ValueError, TypeError):
        raise missing from None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _write_secret(site: Site, namespace: str, name: str, wanted: Json, old: Json | None) -> None:
    """Create the Secret or change it.

    Raises:
        _SyncError: The API refuses it.
    """
    kind = site.objects.kind_named("secrets")
    try:
        if old is None:
            metadata = {**wanted["metadata"], "name": name}
            site.objects.create(kind, namespace, {**wanted, "metadata": metadata})
            return
        new = {**old, **wanted, "metadata": {**old["metadata"], **wanted["metadata"]}}
        for field in ("labels", "annotations"):
            kept: Json = old["metadata"].get(field) or {}
            new["metadata"][field] = {**kept, **(wanted["metadata"].get(field) or {})}
        site.objects.update(kind, Key("", "secrets", namespace, name), new)
    except Refusal as refusal:
        raise _SyncError(f"could not update secret: {refusal.reason}") from None


def _write_external(
    site: Site, key: Key, one: Json, ready: tuple[str, str, str], more: Json
) -> None:
    status = {
        **(one.get("status") or {}),
        **more,
        "conditions": _conditions(site, one, "Ready", ready),
    }
    _write_status(site, key, status)


def _conditions(site: Site, one: Json, kind: str, what: tuple[str, str, str]) -> list[Json]:
    status, reason, message = what
    old = ((one.get("status") or {}).get("conditions") or [{}])[0]
    since = old.get("lastTransitionTime") if old.get("status") == status else None
    made = {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": since or timestamp(site.now()),
    }
    return [{field: value for field, value in made.items() if value}]


def _write_status(site: Site, key: Key, status: Json) -> None:
    kind = site.objects.kinds[key.group, key.plural]
    site.objects.update(kind, key, {"status": status}, "status")


# ---------------------------------------------------------------------- Sealed Secrets


def _sealed(site: Site, key: Key, one: Json) -> None:
    generation = one["metadata"]["generation"]
    status: Json = one.get("status") or {}
    if status.get("observedGeneration") == generation:
        return
    synced = ("True", "", "")
    try:
        _unseal(site, one)
    except _SyncError as error:
        synced = ("False", "", str(error))
    conditions = _conditions(site, one, "Synced", synced)
    _write_status(site, key, {"observedGeneration": generation, "conditions": conditions})


def _unseal(site: Site, one: Json) -> None:
    metadata = one["metadata"]
    old = site.objects.find(Key("", "secrets", metadata["namespace"], metadata["name"]))
    reference = owner_reference(one, "bitnami.com/v1alpha1", "SealedSecret")
    if old is not None and not _may_overwrite(old, metadata["uid"]):
        raise _SyncError(
            f'failed update: Resource "{metadata["name"]}" already exists and is not managed by'
            " SealedSecret"
        )
    try:
        values = site.unseal(one)
    except ValueError as error:
        raise _SyncError(str(error)) from None
    template: Json = one["spec"].get("template") or {}
    wanted: Json = {
        "metadata": {**(template.get("metadata") or {}), "ownerReferences": [reference]},
        "data": {**(template.get("data") or {}), **_encoded(values)},
        **({"type": template["type"]} if template.get("type") else {}),
        **({"immutable": True} if template.get("immutable") else {}),
    }
    wanted["metadata"].pop("name", None)
    wanted["metadata"].pop("namespace", None)
    _write_secret(site, metadata["namespace"], metadata["name"], wanted, old)


def _may_overwrite(old: Json, owner: str) -> bool:
    owners = {each["uid"] for each in old["metadata"].get("ownerReferences") or ()}
    annotations: Json = old["metadata"].get("annotations") or {}
    return owner in owners or annotations.get(_SEALED_MANAGED) == "true"
