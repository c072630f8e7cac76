"""AWS Secrets Manager: staging labels as slots.

AWSCURRENT, AWSPENDING and AWSPREVIOUS are the three slots; a version's id is the rotation id that
made it. The service labels the new, empty version AWSPENDING before it calls us, so a rotation id
that carries neither label is over. AWSPENDING is left on the version when it becomes current: the
service removes it when the rotation ends, and counts the rotation as succeeded either way.

Where keys are minted, intents are tags of the secret: a tag makes no version.

Versions are immutable, and only tested ones are promoted. Nothing but the versions of this
rotation is ever written: a foreign version would abandon it (RotationAbandoned).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from keyturn import document
from keyturn.boundary import ask_aws
from keyturn.errors import Busy, KeyturnError, Misconfigured
from keyturn.model import Credential, Intent, RotationId, SecretRef, Sensitive, Snapshot, Version
from keyturn.ports import Found, Standing
from keyturn.stores import stored

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_secretsmanager.type_defs import (
        DescribeSecretResponseTypeDef,
        GetSecretValueResponseTypeDef,
        SecretVersionsListEntryTypeDef,
    )

PERMISSIONS = (
    "secretsmanager:DescribeSecret",
    "secretsmanager:GetSecretValue",
    "secretsmanager:ListSecretVersionIds",
    "secretsmanager:PutSecretValue",
    "secretsmanager:UpdateSecretVersionStage",
    "kms:Decrypt",
    "kms:GenerateDataKey",
)
"""What the function's role needs on the secret and its key. An admin secret: the read half."""

KEY_PERMISSIONS = ("secretsmanager:TagResource", "secretsmanager:UntagResource")
"""Besides, where keys are minted; on tags that begin with `INTENT` only."""

FOLLOW_UP_PERMISSIONS = (
    "secretsmanager:DescribeSecret",
    "secretsmanager:GetSecretValue",
    "secretsmanager:UpdateSecretVersionStage",
    "kms:Decrypt",
)
"""What a follow-up's role needs instead; the labels of AWSPREVIOUS only."""

INTENT = "keyturn:intent:"
"""How the names of our tags begin."""

TAG_MAX_CHARACTERS = 256
"""Longest value of a tag (API_Tag)."""

CURRENT, PENDING, PREVIOUS = "AWSCURRENT", "AWSPENDING", "AWSPREVIOUS"

SECRET_MAX_BYTES = 65_536
"""Longest SecretString (API_PutSecretValue)."""

# What GetSecretValue may answer when the id does not carry the label; its reference does not say.
_NOT_LABELLED: dict[str, GetSecretValueResponseTypeDef | None] = {
    "ResourceNotFoundException": None,
    "InvalidRequestException": None,
    "InvalidParameterException": None,
}
_NOT_ROTATED: dict[str, Any] = {"InvalidRequestException": None}
_GONE_MEANWHILE: dict[str, GetSecretValueResponseTypeDef | None] = {
    "ResourceNotFoundException": None
}


class SecretsManager:
    """A `KeyStore`, and a `FollowedStore`.

    Args:
        client: A boto3 client, with time-outs.
        rotation_token: From the event, if it had one. It goes with PutSecretValue, the only
            action whose model takes one.
        members_of: What the stored documents call principal and secret, or that they are secrets.
    """

    def __init__(
        self,
        client: SecretsManagerClient,
        *,
        rotation_token: Sensitive | None = None,
        members_of: stored.MembersOf = document.usual,
    ) -> None:
        self._client = client
        self._rotation_token = rotation_token
        self._members_of = members_of

    def rotated_by(self, ref: SecretRef) -> str:
        """Return the ARN of the function that Secrets Manager calls for *ref*; "" if none."""
        return self._describe(ref).get("RotationLambdaARN", "")

    def full_name(self, ref: SecretRef) -> SecretRef:
        """Return the ARN of *ref*, which may be a name."""
        if ref.startswith("arn:"):
            return ref
        return SecretRef(self._describe(ref)["ARN"])

    def rotate(self, ref: SecretRef, rotation_id: RotationId) -> None:
        """Have the service rotate *ref* now. It answers at once, and calls the function later."""
        answer = ask_aws(
            "RotateSecret",
            ref,
            lambda: self._client.rotate_secret(SecretId=ref, ClientRequestToken=rotation_id),
            answers=_NOT_ROTATED,
        )
        if answer is None:
            raise Busy(
                f"{ref}: Secrets Manager does not rotate it now",
                remedy="Wait for the rotation that is under way; or set a rotation function, or a"
                " first value, if it has none.",
            )

    def snapshot(self, ref: SecretRef, rotation_id: RotationId) -> Snapshot:
        """See `SecretStore.snapshot`."""
        snapshot = self._slots(ref)
        if rotation_id not in {snapshot.current, snapshot.pending}:
            raise Busy(
                f"{ref}: rotation {rotation_id} is neither pending nor current"
                f" (pending: {snapshot.pending or 'none'})",
                remedy="Nothing, if it was cancelled or a newer one took over; else rotate again.",
            )
        return snapshot

    def current(self, ref: SecretRef) -> Version:
        """See `SecretStore.current`."""
        response = ask_aws(
            "GetSecretValue",
            ref,
            lambda: self._client.get_secret_value(SecretId=ref, VersionStage=CURRENT),
        )
        return self._version(ref, response)

    def staged(self, ref: SecretRef, rotation_id: RotationId) -> Version | None:
        """See `SecretStore.staged`. One call proves the label and reads the value."""
        response = self._labelled(ref, rotation_id, PENDING)
        if response is None and self.snapshot(ref, rotation_id).current == rotation_id:
            response = self._labelled(ref, rotation_id, CURRENT)
        return self._version(ref, response) if response is not None else None

    def kept(self, ref: SecretRef) -> Iterator[Version]:
        """See `SecretStore.kept`."""
        for entry in self._entries(ref):
            version_id = RotationId(entry.get("VersionId", ""))
            response = ask_aws(
                "GetSecretValue",
                ref,
                lambda version_id=version_id: self._client.get_secret_value(  # type: ignore[misc]
                    SecretId=ref, VersionId=version_id
                ),
                answers=_GONE_MEANWHILE,
            )
            try:
                if response is not None:
                    yield self._version(ref, response)
            except Misconfigured:
                continue  # It never was a credential.

    def stage(
        self, ref: SecretRef, rotation_id: RotationId, credential: Credential, seen: Snapshot
    ) -> None:
        """See `SecretStore.stage`. PutSecretValue knows no precondition; versions are kept."""
        del seen
        text = stored.rendered(credential, ref, self._members_of)
        _require_fit(ref, text)
        # Versions are immutable: same token, same value -> no change; same token, other value ->
        # ResourceExistsException (API_PutSecretValue). Then an earlier try has stored its value,
        # the target may know it, and it stays.
        ask_aws(
            "PutSecretValue",
            ref,
            lambda: self._client.put_secret_value(
                SecretId=ref,
                ClientRequestToken=rotation_id,
                SecretString=text,
                VersionStages=[PENDING],
                **self._token(),
            ),
            answers={"ResourceExistsException": None},
        )

    def withdraw(self, ref: SecretRef, rotation_id: RotationId) -> None:
        """See `SecretStore.withdraw`."""
        ask_aws(
            "UpdateSecretVersionStage",
            ref,
            lambda: self._client.update_secret_version_stage(
                SecretId=ref, VersionStage=PENDING, RemoveFromVersionId=rotation_id
            ),
            # The label is on another version by now, or on none.
            answers=dict.fromkeys(("InvalidParameterException", "InvalidRequestException")),
        )

    def promote(self, ref: SecretRef, rotation_id: RotationId, seen: Snapshot) -> None:
        """See `SecretStore.promote`. AWSPREVIOUS moves by itself, in the same call."""
        if seen.current == rotation_id:
            return
        try:
            ask_aws(
                "UpdateSecretVersionStage",
                ref,
                lambda: self._client.update_secret_version_stage(
                    SecretId=ref,
                    VersionStage=CURRENT,
                    MoveToVersionId=rotation_id,
                    RemoveFromVersionId=seen.current or "",
                ),
            )
        except KeyturnError as error:
            failure = error
        else:
            return
        # A lost reply makes the SDK repeat the call, and the repetition is refused.
        now = self._slots(ref).current
        if now == rotation_id:
            return
        if now != seen.current or isinstance(failure, Misconfigured):
            # Refused, though what we see has not changed: then what we see is old.
            raise Busy(
                f"{ref}: current moved away from {seen.current} during this step",
                remedy="Nothing, if another rotation or a person was faster; it is tried again.",
            )
        raise failure

    def intents(self, ref: SecretRef) -> list[Intent]:
        """See `KeyStore.intents`."""
        tags = {
            tag.get("Key", ""): tag.get("Value", "") for tag in self._describe(ref).get("Tags", [])
        }
        return [
            _intent_of(ref, key.removeprefix(INTENT), value)
            for key, value in sorted(tags.items())
            if key.startswith(INTENT)
        ]

    def declare(self, ref: SecretRef, intent: Intent) -> None:
        """See `KeyStore.declare`."""
        value = _text_of(intent)
        if len(value) > TAG_MAX_CHARACTERS:
            raise Misconfigured(
                f"{ref}: {len(intent.foreign)} keys are there that no version has",
                remedy="Delete them, or put them into the secret.",
            )
        tag = {"Key": INTENT + intent.name, "Value": value}
        ask_aws(
            "TagResource",
            ref,
            lambda: self._client.tag_resource(SecretId=ref, Tags=[tag]),  # type: ignore[list-item]
        )

    def settle(self, ref: SecretRef, names: Iterable[str]) -> None:
        """See `KeyStore.settle`."""
        keys = [INTENT + name for name in names]
        ask_aws(
            "UntagResource", ref, lambda: self._client.untag_resource(SecretId=ref, TagKeys=keys)
        )

    def standing(self, ref: SecretRef) -> Standing:
        """See `FollowedStore.standing`. LastChangedDate: "modified in any way", so no earlier."""
        described = self._describe(ref)
        holder = _holders(described)
        slots = _snapshot(holder)
        since = described["LastChangedDate"]
        return Standing(slots.current, slots.pending, holder.get(PREVIOUS), since)

    def clear_previous(self, ref: SecretRef, version_id: RotationId) -> None:
        """See `FollowedStore.clear_previous`."""
        ask_aws(
            "UpdateSecretVersionStage",
            ref,
            lambda: self._client.update_secret_version_stage(
                SecretId=ref, VersionStage=PREVIOUS, RemoveFromVersionId=version_id
            ),
            # The label is on another version by now, or on none.
            answers=dict.fromkeys(("InvalidParameterException", "InvalidRequestException")),
        )

    def _slots(self, ref: SecretRef) -> Snapshot:
        return _snapshot(_holders(self._describe(ref)))

    def _describe(self, ref: SecretRef) -> DescribeSecretResponseTypeDef:
        described = ask_aws(
            "DescribeSecret", ref, lambda: self._client.describe_secret(SecretId=ref)
        )
        _require_alive(ref, described)
        return described

    def _labelled(
        self, ref: SecretRef, rotation_id: RotationId, label: str
    ) -> GetSecretValueResponseTypeDef | None:
        return ask_aws(
            "GetSecretValue",
            ref,
            lambda: self._client.get_secret_value(
                SecretId=ref, VersionId=rotation_id, VersionStage=label
            ),
            answers=_NOT_LABELLED,
        )

    def _entries(self, ref: SecretRef) -> list[SecretVersionsListEntryTypeDef]:
        """List every version still kept, labelled or not, newest first."""
        entries: list[SecretVersionsListEntryTypeDef] = []
        position: dict[str, str] = {}
        while True:
            page = ask_aws(
                "ListSecretVersionIds",
                ref,
                lambda position=position: self._client.list_secret_version_ids(  # type: ignore[misc]
                    SecretId=ref, IncludeDeprecated=True, **position
                ),
            )
            entries += page["Versions"]
            if not page.get("NextToken"):
                return sorted(entries, key=lambda entry: entry["CreatedDate"])[::-1]
            position = {"NextToken": page["NextToken"]}

    def _version(self, ref: SecretRef, response: GetSecretValueResponseTypeDef) -> Version:
        # A partial ARN may resolve to another secret than the one that was authorised.
        if ref not in {response["ARN"], response["Name"]}:
            raise Misconfigured(
                f"{ref}: the store answered for {response['ARN']}",
                remedy="Name secrets by their full ARN.",
            )
        version_id = RotationId(response["VersionId"])
        if "SecretString" not in response:
            raise Misconfigured(
                f"{ref} version {version_id}: the value is binary",
                remedy="Store the value as SecretString, a JSON object.",
            )
        where = f"{ref} version {version_id}"
        credential = stored.parsed(response["SecretString"], where, self._members_of)
        return Version(version_id, credential, response["CreatedDate"])

    def _token(self) -> dict[str, str]:
        if self._rotation_token is None:
            return {}
        return {"RotationToken": self._rotation_token.reveal()}


def _holders(described: DescribeSecretResponseTypeDef) -> dict[str, RotationId]:
    labels = described.get("VersionIdsToStages", {})
    return {label: RotationId(v) for v, held in labels.items() for label in held}


def _snapshot(holder: Mapping[str, RotationId]) -> Snapshot:
    current, pending = holder.get(CURRENT), holder.get(PENDING)
    return Snapshot(current, pending if pending != current else None)


def _require_fit(ref: SecretRef, text: str) -> None:
    size = len(text.encode())
    if size > SECRET_MAX_BYTES:
        raise Misconfigured(
            f"{ref}: the next value has {size} bytes, Secrets Manager takes {SECRET_MAX_BYTES}",
            remedy="Remove members from the secret's value.",
        )


# ---------------------------------------------------------------------------- on demand

VALUE_PERMISSIONS = (
    "secretsmanager:CreateSecret",
    "secretsmanager:DescribeSecret",
    "secretsmanager:GetSecretValue",
    "secretsmanager:PutSecretValue",
    "kms:Decrypt",
    "kms:GenerateDataKey",
)
"""What the role of a function needs that stores values on demand."""


class SecretsManagerValues:
    """A `ValueStore`.

    Args:
        client: A boto3 client, with time-outs.
        kms_key: What new secrets are encrypted with; None is the account's own key.
    """

    def __init__(self, client: SecretsManagerClient, *, kms_key: str | None = None) -> None:
        self._client = client
        self._kms_key = kms_key

    def find(self, ref: SecretRef) -> Found | None:
        """See `ValueStore.find`."""
        absent: dict[str, DescribeSecretResponseTypeDef | None] = {
            "ResourceNotFoundException": None
        }
        described = ask_aws(
            "DescribeSecret", ref, lambda: self._client.describe_secret(SecretId=ref), absent
        )
        if described is None:
            return None
        _require_alive(ref, described)
        # A name may be taken for another's partial ARN.
        if described["Name"] != ref:
            return None
        labels = described.get("VersionIdsToStages", {})
        holder = {label: RotationId(v) for v, held in labels.items() for label in held}
        current = holder.get(CURRENT)
        return Found(
            current,
            frozenset(map(RotationId, labels)),
            described.get("RotationEnabled", False) or holder.get(PENDING, current) != current,
        )

    def read(self, ref: SecretRef, version_id: RotationId) -> Sensitive | None:
        """See `ValueStore.read`."""
        response = ask_aws(
            "GetSecretValue",
            ref,
            lambda: self._client.get_secret_value(SecretId=ref, VersionId=version_id),
            answers=_GONE_MEANWHILE,
        )
        if response is None:
            return None
        if "SecretString" not in response:
            raise Misconfigured(
                f"{ref} version {version_id}: the value is binary",
                remedy="Store the value as SecretString.",
            )
        return Sensitive(response["SecretString"])

    def create(self, ref: SecretRef, version_id: RotationId, value: Sensitive) -> bool:
        """See `ValueStore.create`. Same token and value: the same call (API_CreateSecret)."""
        _require_fit(ref, value.reveal())
        with_key: Any = {"KmsKeyId": self._kms_key} if self._kms_key else {}
        made = ask_aws(
            "CreateSecret",
            ref,
            lambda: self._client.create_secret(
                Name=ref,
                ClientRequestToken=version_id,
                SecretString=value.reveal(),
                Description="Generated by keyturn",
                **with_key,
            ),
            answers=_EXISTS,
        )
        return made is not None

    def put(self, ref: SecretRef, version_id: RotationId, value: Sensitive) -> bool:
        """See `ValueStore.put`. Versions are immutable (API_PutSecretValue)."""
        _require_fit(ref, value.reveal())
        made = ask_aws(
            "PutSecretValue",
            ref,
            lambda: self._client.put_secret_value(
                SecretId=ref, ClientRequestToken=version_id, SecretString=value.reveal()
            ),
            answers=_EXISTS,
        )
        return made is not None


_EXISTS: dict[str, Any] = {"ResourceExistsException": None}


def _require_alive(ref: SecretRef, described: DescribeSecretResponseTypeDef) -> None:
    if "DeletedDate" in described:
        raise Misconfigured(
            f"{ref} is being deleted", remedy="Restore it, or leave it alone until it is gone."
        )


def _text_of(intent: Intent) -> str:
    """Return the value of a tag. It may hold letters, digits, blanks and `_.:/=+-@` (API_Tag)."""
    return " ".join([intent.since.isoformat(), intent.until.isoformat(), *sorted(intent.foreign)])


def _intent_of(ref: SecretRef, name: str, value: str) -> Intent:
    try:
        since, until, *foreign = value.split(" ")
        intent = Intent(
            name,
            datetime.fromisoformat(since).astimezone(UTC),
            datetime.fromisoformat(until).astimezone(UTC),
            frozenset(foreign),
        )
    except ValueError:
        intent = None
    if intent is None:
        raise Misconfigured(
            f"{ref}: the tag {INTENT}{name} is not as we have written it",
            remedy="Remove the tag; a key that no version has is not ours then.",
        )
    return intent
