"""A copy in AWS Systems Manager's Parameter Store: a SecureString, under a KMS key of the plan's.

Which version of which secret it is stands in the parameter's description: PutParameter writes it
with the value, in one act, and DescribeParameters shows it without decrypting. A tag or a label
would be a second call. Who had a description there before loses it.

Parameter Store cannot compare: it takes the last write, whoever comes. So the parameter is looked
at right before, and the number of the new version shows whether somebody wrote in between; then
the write is reported as `Busy`, so that the store's current is read and the place looked at again.
Only a parameter that is not there yet is made conditionally.

The context of its encryption is the parameter's own ARN: name and version are not bound, as they
are in a sealed copy. What it never does: write over another secret's copy, or read a value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, Protocol

import msgspec

from keyturn.boundary import ask_aws
from keyturn.errors import Busy, Drifted, Misconfigured
from keyturn.followers import CopyShape, Given, NonEmpty
from keyturn.model import RotationId, Sensitive, Version
from keyturn.ports import Held


class SsmShape(CopyShape, frozen=True, kw_only=True):
    """A SecureString in Parameter Store."""

    name: Annotated[NonEmpty, msgspec.Meta(description="The parameter's name.")]
    kms_key: Annotated[
        NonEmpty, msgspec.Meta(description="Id, ARN or alias of the KMS key that encrypts it.")
    ]
    tier: Annotated[
        Literal["standard", "advanced"],
        msgspec.Meta(description="Up to 4,096 bytes; or up to 8,192, which costs money."),
    ] = "standard"

    def place(self) -> tuple[str, ...]:
        """See `CopyShape.place`."""
        return (self.name,)


SHAPES = {"ssm": SsmShape}
FIXES = {
    "ssm": "Write a mapping with `name` and `kms_key`.",
    "name": "Write the parameter's name.",
    "kms_key": "Name the KMS key by id, ARN or alias, such as `kms_key: alias/secrets`.",
    "tier": "Write `standard` or `advanced`.",
}

PERMISSIONS = (
    "kms:Encrypt",
    "kms:GenerateDataKey",
    "ssm:DescribeParameters",
    "ssm:PutParameter",
)
"""On the key and the parameter; a standard one is encrypted, an advanced one gets a data key.
DescribeParameters cannot be limited to some parameters. It shows no values."""

STANDARD_MAX_BYTES, ADVANCED_MAX_BYTES = 4_096, 8_192
"""Longest values of the two tiers (Parameter Store quotas). Advanced parameters cost money."""

STANDARD, ADVANCED = "Standard", "Advanced"


class Ssm(Protocol):
    """What is used of a boto3 client, with time-outs.

    One that tries again after a lost reply takes its own first try for somebody else's write, and
    the next look finds that it was not.
    """

    def describe_parameters(self, **parameters: object) -> Mapping[str, Any]:
        """DescribeParameters."""
        ...

    def put_parameter(self, **parameters: object) -> Mapping[str, Any]:
        """PutParameter."""
        ...


@dataclass(frozen=True, slots=True)
class _Seen:
    """The parameter, as described. Its *number* counts its writes; 0 if there is none."""

    held: Held
    number: int
    tier: str


_EXISTS: Mapping[str, Any] = {}
_ANSWERS = {"ParameterAlreadyExists": _EXISTS}


def make(kind: str, settings: SsmShape, given: Given) -> SsmParameter:
    """Make the destination that a plan names."""
    del kind
    return SsmParameter(
        given.clients("ssm", None),
        parameter=settings.name,
        kms_key=settings.kms_key,
        secret=given.secret,
        may_be_advanced=settings.tier == "advanced",
    )


class SsmParameter:
    """A `Destination`.

    Args:
        client: A boto3 client for the parameter's region.
        parameter: Its name.
        kms_key: Id, ARN or alias of the KMS key.
        secret: The secret's name.
        may_be_advanced: Whether it may become an advanced parameter, once a value needs that. It
            cannot become a standard one again.
    """

    def __init__(
        self, client: Ssm, *, parameter: str, kms_key: str, secret: str, may_be_advanced: bool
    ) -> None:
        self._client = client
        self._parameter = parameter
        self._kms_key = kms_key
        self._secret = secret
        self._may_be_advanced = may_be_advanced

    def name(self) -> str:
        """See `Destination.name`."""
        return f"ssm:{self._parameter}"

    def holds(self) -> Held:
        """See `Destination.holds`."""
        return self._look().held

    def deliver(self, version: Version, text: Sensitive, seen: Held) -> None:
        """See `Destination.deliver`. It is looked at once more, right before the write."""
        size = self._require_fit(version, text)
        now = self._look()
        if now.held.mark != seen.mark:
            if now.held.version_id != version.rotation_id:
                raise self._overtaken()
            return
        number = self._put(version, text, now, self._tier(size, now))
        if number is None and self.holds().version_id == version.rotation_id:
            return
        if number != now.number + 1:
            raise self._overtaken()

    def _put(self, version: Version, text: Sensitive, now: _Seen, tier: str) -> int | None:
        """Write, and return the number of that write; None if there is a parameter by now."""
        put = partial(
            self._client.put_parameter,
            Name=self._parameter,
            Description=_description(self._secret, version.rotation_id),
            Value=text.reveal(),
            Type="SecureString",
            KeyId=self._kms_key,
            Overwrite=now.number > 0,
            Tier=tier,
        )
        written = ask_aws("PutParameter", self.name(), put, _ANSWERS)
        return None if written is _EXISTS else int(written["Version"])

    def _look(self) -> _Seen:
        named = [{"Key": "Name", "Option": "Equals", "Values": [self._parameter]}]
        page: dict[str, str] = {}
        while True:
            look = partial(self._client.describe_parameters, ParameterFilters=named, **page)
            said = ask_aws("DescribeParameters", self.name(), look)
            for found in said["Parameters"]:
                return self._seen(found)
            # A page may be empty, and not the last (API_DescribeParameters).
            if not said.get("NextToken"):
                return _Seen(Held(None, ""), 0, STANDARD)
            page = {"NextToken": said["NextToken"]}

    def _seen(self, found: Mapping[str, Any]) -> _Seen:
        secret, version_id = _said_by(str(found.get("Description", "")))
        if secret not in {None, self._secret}:
            raise Drifted(
                f"{self.name()} holds a copy of {secret}, not of {self._secret}",
                remedy="Give each secret a parameter of its own in the plan, or delete it.",
            )
        # A parameter that was deleted and made anew counts from 1 again.
        mark = f"{found['Version']} {found['LastModifiedDate'].isoformat()}"
        tier = str(found.get("Tier", STANDARD))
        return _Seen(Held(version_id, mark), int(found["Version"]), tier)

    def _tier(self, size_bytes: int, now: _Seen) -> str:
        is_advanced = size_bytes > STANDARD_MAX_BYTES or now.tier == ADVANCED
        return ADVANCED if is_advanced else STANDARD

    def _require_fit(self, version: Version, text: Sensitive) -> int:
        value = text.reveal()
        size = len(value.encode("utf-8", "surrogatepass"))
        longest = ADVANCED_MAX_BYTES if self._may_be_advanced else STANDARD_MAX_BYTES
        where = f"{self.name()}: version {version.rotation_id}"
        if not 1 <= size <= longest:
            advanced = "" if self._may_be_advanced else f"; {ADVANCED_MAX_BYTES:,} if advanced"
            raise Misconfigured(
                f"{where} has {size:,} bytes, a parameter takes 1 to {longest:,}{advanced}",
                remedy="Deliver one member, allow an advanced parameter, or deliver to S3.",
            )
        if "{{" in value:
            raise Misconfigured(
                f"{where} has {{{{ in it, which Parameter Store takes for a reference",
                remedy="Exclude { under the plan's `password`, or deliver to S3.",
            )
        return size

    def _overtaken(self) -> Busy:
        return Busy(
            f"{self.name()}: something else has been written there since we looked",
            remedy="Nothing: it is looked at again.",
        )


_DESCRIPTION = re.compile(r"keyturn: (\S+) version (\S+)")


def _description(secret: str, version_id: RotationId) -> str:
    return f"keyturn: {secret} version {version_id}"


def _said_by(description: str) -> tuple[str | None, RotationId | None]:
    found = _DESCRIPTION.fullmatch(description)
    return (found[1], RotationId(found[2])) if found else (None, None)
