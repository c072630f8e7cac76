"""What a Kubernetes Secret is to hold of a version, and whether it does.

    keys -> members     {"DB_PASSWORD": "password"}; "" is the whole value
    keys -> renderings  {"DATABASE_URL": {form: url}}, as the plan's `content` says

Both become texts by key, which are compared with what the Secret holds: that is the proof. What an
object's status says is none. Keys that nothing is expected of are not looked at.

Compared where a rotation changes nothing, every version would look the same, and an old credential
would die on that evidence. So it is refused to compare nothing but a host name.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Mapping
from typing import Annotated, Literal

import msgspec

from keyturn.errors import Misconfigured
from keyturn.followers import Given, NonEmpty, given
from keyturn.kubernetes.api import Object, Resource
from keyturn.model import Sensitive, Version
from keyturn.rendering import Form, Rendering
from keyturn.shapes import Shape

SECRETS = Resource("", "v1", "secrets")

_STATIC = frozenset(
    {
        *("engine", "host", "port", "dbname", "username", "masterarn", "ssl"),
        *("dbInstanceIdentifier", "dbClusterIdentifier"),
    }
)
"""Members that a rotation leaves as they are: those that AWS documents for databases. The user
name changes with alternating users only; by itself it would prove nothing with the others."""

_KEY = r"^[-._a-zA-Z0-9]{1,253}$"
"""Of a Secret's data (ConfigMap and Secret keys, as the API validates them)."""

_SHOWN = 5
"""How many keys a line names."""


class KeyShape(Shape, frozen=True, kw_only=True):
    """What one key of a Secret holds."""

    form: Annotated[
        Literal["json", "dotenv", "url", "pgpass", "value"],
        msgspec.Meta(description="What the key's text looks like."),
    ]
    member: (
        Annotated[NonEmpty, msgspec.Meta(description="With `form: value`: which member it is.")]
        | msgspec.UnsetType
    ) = msgspec.UNSET
    prefix: (
        Annotated[NonEmpty, msgspec.Meta(description="With `form: dotenv`: before each name.")]
        | msgspec.UnsetType
    ) = msgspec.UNSET

    def __post_init__(self) -> None:
        """Refuse what the form has no use for, and the lack of what it needs."""
        if (self.member is msgspec.UNSET) is (self.form == "value"):
            raise ValueError("member")
        if self.prefix is not msgspec.UNSET and self.form != "dotenv":
            raise ValueError("prefix")

    def rendering(self) -> Rendering:
        """Return the form."""
        return Rendering(Form(self.form), given(self.member) or "", given(self.prefix) or "")


Content = dict[Annotated[str, msgspec.Meta(pattern=_KEY)], KeyShape]

FIXES: Mapping[str, str] = {
    "content": (
        "Write for each key, of letters, digits, `-`, `_` and `.`, what it holds: `{form: url}`,"
        " or `{form: value, member: password}`."
    ),
}


def of_members(
    keys: Mapping[str, str], version: Version, given: Given, where: str
) -> dict[str, Sensitive]:
    """Return the text of each key, which is a member's, or the whole value.

    Raises:
        Misconfigured: The version has no such member, or no rotation would change any of them.
    """
    _require_change(keys.values(), where)
    members = given.members(version)
    for member in keys.values():
        if member not in members:
            raise Misconfigured(
                f"{where}: version {version.rotation_id} has no member {member[:40]!a}",
                remedy="Correct the name, or declare under `content` what the Secret holds.",
            )
    return {key: members[member] for key, member in keys.items()}


def of_every_member(version: Version, given: Given, where: str) -> dict[str, str]:
    """Return the keys of a Secret that has one of the same name for each member.

    Raises:
        Misconfigured: There is no member, or one whose name can be no key.
    """
    names = [name for name in given.members(version) if name]
    for name in names:
        if not re.fullmatch(_KEY, name):
            raise Misconfigured(
                f"{where}: the member {name[:40]!a} can be no key of a Secret",
                remedy="Declare under `content` what the Secret holds.",
            )
    if not names:
        raise Misconfigured(
            f"{where}: the value has no members that could be its keys",
            remedy="Declare under `content` what the Secret holds.",
        )
    return {name: name for name in names}


def of_renderings(
    content: Content, version: Version, given: Given, where: str
) -> dict[str, Sensitive]:
    """Return the text of each key, as declared.

    Raises:
        Misconfigured: The value has no such form, or no rotation would change any of them.
    """
    how = {key: shape.rendering() for key, shape in content.items()}
    _require_change([rendering.member for rendering in how.values()], where)
    return {key: given.rendered(version, rendering) for key, rendering in how.items()}


def _require_change(members: Collection[str], where: str) -> None:
    if not set(members) - _STATIC:
        raise Misconfigured(
            f"{where}: nothing that is compared there changes in a rotation",
            remedy="Name what holds the secret itself, or remove it from the plan.",
        )


def lack(secret: Object | None, name: str, expected: Mapping[str, Sensitive]) -> str:
    """Say in a line what a Secret lacks of what is expected; "" if it holds all of it.

    Args:
        secret: The Secret; None if there is none.
        name: Its namespace and name, for the line.
        expected: The text of each key; at least one.
    """
    if secret is None:
        return f"the Secret {name} is not there"
    held = secret.get("data") or {}
    other = [key for key, text in expected.items() if _text(held.get(key)) != text]
    if not other:
        return ""
    more = f" and {len(other) - _SHOWN} more" if len(other) > _SHOWN else ""
    return f"the Secret {name} holds something else in {', '.join(other[:_SHOWN])}{more}"


def _text(encoded: object) -> Sensitive | None:
    """Decode a value as strictly as the API does; None if it is no text, and so not ours."""
    if not isinstance(encoded, str):
        return None
    try:
        return Sensitive(base64.b64decode(encoded, validate=True).decode())
    except ValueError:  # Neither base64 nor UTF-8: both errors are of that class.
        return None
