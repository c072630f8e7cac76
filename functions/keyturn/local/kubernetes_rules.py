"""What the Kubernetes API fills in and refuses when an object is written, for each kind.

Only what a client of ours could get wrong: names, annotations and labels, everything about Secrets,
and the selectors of workloads. There is no schema: an unknown or misspelt field is kept.

Sources: API Conventions ("Error codes", "Metadata"); Kubernetes Object Names and IDs; Annotations;
Labels and Selectors; Secrets ("Types of Secret", "Immutable Secrets").
"""

from __future__ import annotations

import base64
import binascii
import copy
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from keyturn.local.kubernetes_kinds import Kind

Json = dict[str, Any]

MAX_SECRET_BYTES = 1024 * 1024
"""Of all values of a Secret together, decoded (Secrets: "Size limit")."""

MAX_ANNOTATION_BYTES = 256 * 1024
"""Of all annotations of an object, names and values (Annotations)."""

_LONGEST_NAME = 253
"""Characters of an object's name, and of a prefix (Kubernetes Object Names and IDs)."""

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_NAME_PART = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]")
_DATA_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")

_PATH_NAMES = {"roles", "rolebindings", "clusterroles", "clusterrolebindings"}
"""Their names may be anything that fits into a path."""

_LEFT_OUT_IF_EMPTY = ("annotations", "finalizers", "labels", "ownerReferences")
"""Of the metadata of every object: the API shows none where there is none (`omitempty`)."""

_NEEDED = {
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
}
"""Type of a Secret -> the keys that it must have."""


_DEFAULTS: dict[str, Json] = {
    "daemonsets": {
        "revisionHistoryLimit": 10,
        "updateStrategy": {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1},
        },
    },
    "deployments": {
        "progressDeadlineSeconds": 600,
        "replicas": 1,
        "revisionHistoryLimit": 10,
        "strategy": {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"},
        },
    },
    "replicasets": {"replicas": 1},
    "statefulsets": {
        "podManagementPolicy": "OrderedReady",
        "replicas": 1,
        "revisionHistoryLimit": 10,
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
    },
}
"""What a workload's spec has if it does not say (API reference, apps/v1)."""


class Refusal(Exception):
    """An answer that is an error. Never says a value that is or may be secret.

    Attributes:
        code: The HTTP status.
        reason: As in a Status object.
        details: As in a Status object.
    """

    def __init__(self, code: int, reason: str, message: str, details: Json | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.details = details or {}


class Unfit(NamedTuple):
    """What is wrong with one field."""

    reason: str
    field: str
    says: str


def invalid(kind: Kind, name: str, faults: list[Unfit]) -> Refusal:
    """Return the refusal of an object that is not valid (422)."""
    said = [f"{fault.field}: {fault.says}" for fault in faults]
    text = said[0] if len(said) == 1 else f"[{', '.join(said)}]"
    causes = [{"reason": f.reason, "message": f.says, "field": f.field} for f in faults]
    details = {"name": name, "group": kind.group, "kind": kind.kind, "causes": causes}
    shown = f"{kind.kind}.{kind.group}" if kind.group else kind.kind
    return Refusal(
        422, "Invalid", f'{shown} "{name}" is invalid: {text}',
        {key: value for key, value in details.items() if value},
    )  # fmt: skip


def complete(kind: Kind, made: Json) -> None:
    """Fill in what the API fills in, and leave out what it leaves out, in place.

    Raises:
        Refusal: A value of a Secret is not base64, or a field is of another type (400).
    """
    _check_types(kind, made)
    for field in _LEFT_OUT_IF_EMPTY:
        if not made["metadata"].get(field, True):
            del made["metadata"][field]
    if kind.plural == "secrets":
        _complete_secret(made)
    if kind.plural in _DEFAULTS:
        spec = made.setdefault("spec", {})
        for field, value in _DEFAULTS[kind.plural].items():
            spec.setdefault(field, copy.deepcopy(value))


def _check_types(kind: Kind, made: Json) -> None:
    fields = {"metadata": made.get("metadata"), "spec": made.get("spec")}
    if isinstance(fields["metadata"], dict):
        fields |= {field: made["metadata"].get(field) for field in ("annotations", "labels")}
    if kind.plural == "secrets":
        fields |= {field: made.get(field) for field in ("data", "stringData")}
    for field, value in fields.items():
        if value is not None and not isinstance(value, dict):
            says = f"{kind.kind} cannot be handled as a {kind.kind}: {field} is no object"
            raise Refusal(400, "BadRequest", says)


def _complete_secret(made: Json) -> None:
    made.setdefault("type", "Opaque")
    plain = {key: _encoded(text) for key, text in (made.pop("stringData", None) or {}).items()}
    data = {**(made.pop("data", None) or {}), **plain}
    if data:
        made["data"] = data
    for key, value in data.items():
        if not isinstance(value, str) or not _is_base64(value):
            raise Refusal(
                400,
                "BadRequest",
                f"Secret in version v1 cannot be handled as a Secret: illegal base64 data in {key}",
            )


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    return True


def check(kind: Kind, made: Json, old: Json | None) -> None:
    """Check an object that is created, or that takes the place of *old*.

    Raises:
        Refusal: It is not valid (422).
    """
    faults = [*_metadata_faults(kind, made["metadata"])]
    if kind.plural == "secrets":
        faults += [*_secret_faults(made), *_fixed_faults(made, old or {})]
    if kind.group == "apps" and kind.plural != "controllerrevisions":
        faults += [*_workload_faults(made, old or {})]
    if faults:
        raise invalid(kind, made["metadata"]["name"], faults)


def _metadata_faults(kind: Kind, metadata: Json) -> Iterator[Unfit]:
    name = metadata["name"]
    form = _LABEL if kind.plural == "namespaces" else _SUBDOMAIN
    if kind.plural not in _PATH_NAMES and not (form.fullmatch(name) and len(name) <= _LONGEST_NAME):
        yield _wrong(
            "metadata.name", name,
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters,"
            " '-' or '.', and must start and end with an alphanumeric character",
        )  # fmt: skip
    for field in ("annotations", "labels"):
        values: Json = metadata.get(field) or {}
        for key, value in values.items():
            if not _is_qualified(key.lower() if field == "annotations" else key):
                yield _wrong(f"metadata.{field}", key, "name part must be a qualified name")
            if not isinstance(value, str):
                yield Unfit("FieldValueInvalid", f"metadata.{field}", "must be a string")
            elif field == "labels" and value and not _NAME_PART.fullmatch(value):
                yield _wrong("metadata.labels", value, "a valid label must be an empty string or")
    size = sum(len(f"{k}{v}".encode()) for k, v in (metadata.get("annotations") or {}).items())
    if size > MAX_ANNOTATION_BYTES:
        yield _too_long("metadata.annotations", MAX_ANNOTATION_BYTES)


def _wrong(field: str, value: str, says: str) -> Unfit:
    return Unfit("FieldValueInvalid", field, f"Invalid value: {json.dumps(value)}: {says}")


def _too_long(field: str, limit_bytes: int) -> Unfit:
    says = f"Too long: may not be more than {limit_bytes} bytes"
    return Unfit("FieldValueTooLong", field, says)


def _is_qualified(key: str) -> bool:
    prefix, slash, name = key.rpartition("/")
    if slash and not (_SUBDOMAIN.fullmatch(prefix) and len(prefix) <= _LONGEST_NAME):
        return False
    return _NAME_PART.fullmatch(name) is not None


def _secret_faults(made: Json) -> Iterator[Unfit]:
    data: Json = made.get("data") or {}
    for key in data:
        if not _DATA_KEY.fullmatch(key):
            says = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'"
            yield _wrong(f"data[{key}]", key, says)
    if sum(len(base64.b64decode(value)) for value in data.values()) > MAX_SECRET_BYTES:
        yield _too_long("data", MAX_SECRET_BYTES)
    for key in _NEEDED.get(made["type"], ()):
        if key not in data:
            yield Unfit("FieldValueRequired", f"data[{key}]", "Required value")
    if made["type"] == "kubernetes.io/basic-auth" and not {"username", "password"} & set(data):
        yield Unfit("FieldValueRequired", "data[username]", "Required value")
    text = data.get(".dockerconfigjson")
    if made["type"] == "kubernetes.io/dockerconfigjson" and text and not _is_json(text):
        says = 'Invalid value: "<secret contents redacted>": invalid character'
        yield Unfit("FieldValueInvalid", "data[.dockerconfigjson]", says)


def _is_json(encoded: str) -> bool:
    try:
        json.loads(base64.b64decode(encoded))
    except ValueError:
        return False
    return True


def _fixed_faults(made: Json, old: Json) -> Iterator[Unfit]:
    """What may not change: a Secret's type, and all of an immutable one."""
    if old and made["type"] != old["type"]:
        yield _wrong("type", made["type"], "field is immutable")
    if not old.get("immutable"):
        return
    says = "Forbidden: field is immutable when `immutable` is set"
    if not made.get("immutable"):
        yield Unfit("FieldValueForbidden", "immutable", says)
    if (made.get("data") or {}) != (old.get("data") or {}):
        yield Unfit("FieldValueForbidden", "data", says)


def _workload_faults(made: Json, old: Json) -> Iterator[Unfit]:
    spec: Json = made.get("spec") or {}
    chosen: Json = (spec.get("selector") or {}).get("matchLabels") or {}
    template: Json = spec.get("template") or {}
    labels: Json = (template.get("metadata") or {}).get("labels") or {}
    if not chosen:
        yield Unfit("FieldValueRequired", "spec.selector", "Required value")
    elif not chosen.items() <= labels.items():
        says = "`selector` does not match template `labels`"
        yield Unfit("FieldValueInvalid", "spec.template.metadata.labels", f"Invalid value: {says}")
    if not (template.get("spec") or {}).get("containers"):
        yield Unfit("FieldValueRequired", "spec.template.spec.containers", "Required value")
    if old and spec.get("selector") != old["spec"].get("selector"):
        yield Unfit("FieldValueInvalid", "spec.selector", "field is immutable")
