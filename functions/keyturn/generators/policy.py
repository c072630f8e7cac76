"""What every kind of generated value is: options, an exact entropy, and how one follows another.

    TextPolicy      makes one text: the whole value of the secret, or one member of it
    MembersPolicy   makes several members of a JSON object, and may keep some of the value before

Other members of the object stay as they are, to the byte. A policy is a shape: what a plan, an
event or a command line may say. Making a value needs nothing but the policy and the value before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated

import msgspec

from keyturn import document
from keyturn.errors import Misconfigured
from keyturn.generate import WEAKEST_BITS
from keyturn.model import Sensitive
from keyturn.shapes import Place, Shape, refusal

WHERE = "the secret"
"""Who is meant in messages: the log line that they go with names it."""

NOTHING = Sensitive("{}")
"""The value before the first one."""

STORABLE = 'Store a JSON object as the secret\'s value; "{}" will do.'

Problem = tuple[str, str]
"""What is wrong with a policy, and what to do."""


class Policy(Shape, frozen=True, kw_only=True, tag_field="kind"):
    """What every kind has."""

    @property
    def entropy_bits(self) -> float:
        """What an attacker who knows the policy has to guess."""
        raise NotImplementedError

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong with the options. The entropy is judged by `check`."""
        yield from ()

    def stronger(self) -> str:
        """Say how to have enough entropy; asked only if there is too little."""
        raise NotImplementedError

    def following(self, before: Sensitive) -> Sensitive:
        """See `ports.Kind.following`."""
        raise NotImplementedError

    def is_whole(self, value: Sensitive) -> bool:
        """See `ports.Kind.is_whole`."""
        raise NotImplementedError

    def follows(self, value: Sensitive, before: Sensitive) -> bool:
        """See `ports.Kind.follows`."""
        del value, before
        return True


def check(policy: Policy, place: Place) -> None:
    """Refuse a policy that is impossible or weak.

    Raises:
        Misconfigured: Says which of these it is, and what to change.
    """
    for fact, remedy in policy.problems():
        raise refusal(place, fact, remedy)
    if policy.entropy_bits < WEAKEST_BITS:
        fact = f"{int(policy.entropy_bits)} bits of entropy, fewer than {WEAKEST_BITS}"
        raise refusal(place, fact, policy.stronger())


def outside(key: str, value: int, least: int, most: int) -> Iterator[Problem]:
    """Yield a problem if the option *key* is not within its bounds."""
    if not least <= value <= most:
        within = f"within {least} to {most}"
        yield f"`{key}` is not {within}", f"Set `{key}` {within}."


class TextPolicy(Policy, frozen=True, kw_only=True):
    """Makes one text."""

    member: (
        Annotated[
            str,
            msgspec.Meta(
                description="The member of the JSON object that holds the value; without it, the"
                " value is all that the secret holds.",
                extra_json_schema={"minLength": 1},
            ),
        ]
        | msgspec.UnsetType
    ) = msgspec.UNSET

    def text(self) -> str:
        """Make one."""
        raise NotImplementedError

    def is_one(self, text: str) -> bool:
        """Tell whether *text* could have been made by this policy, or was well made by another."""
        raise NotImplementedError

    def problems(self) -> Iterator[Problem]:
        """Refuse a member without a name."""
        if self.member == "":
            yield "`member` is an empty name", "Name the member, or leave `member` out."

    def following(self, before: Sensitive) -> Sensitive:
        """See `ports.Kind.following`."""
        if self.member is msgspec.UNSET:
            return Sensitive(self.text())
        return _exchanged(before, {self.member: self.text()})

    def is_whole(self, value: Sensitive) -> bool:
        """See `ports.Kind.is_whole`."""
        if self.member is msgspec.UNSET:
            return self.is_one(value.reveal())
        text = _members_if_any(value).get(self.member)
        return isinstance(text, str) and self.is_one(text)


class MembersPolicy(Policy, frozen=True, kw_only=True):
    """Makes several members of a JSON object."""

    def members(self, before: Mapping[str, object]) -> Mapping[str, object]:
        """Make what is new. Whatever else is in *before* stays."""
        raise NotImplementedError

    def is_one_of(self, members: Mapping[str, object]) -> bool:
        """Tell whether *members* are well formed and fit together."""
        raise NotImplementedError

    def follow(self, members: Mapping[str, object], before: Mapping[str, object]) -> bool:
        """Tell whether *members* keep what verifiers still need of *before*."""
        del members, before
        return True

    def following(self, before: Sensitive) -> Sensitive:
        """See `ports.Kind.following`."""
        return _exchanged(before, self.members(_members(before)))

    def is_whole(self, value: Sensitive) -> bool:
        """See `ports.Kind.is_whole`."""
        return self.is_one_of(_members_if_any(value))

    def follows(self, value: Sensitive, before: Sensitive) -> bool:
        """See `ports.Kind.follows`."""
        return self.follow(_members_if_any(value), _members_if_any(before))


def _exchanged(before: Sensitive, fresh: Mapping[str, object]) -> Sensitive:
    return Sensitive(document.exchanged(before.reveal(), WHERE, fresh, STORABLE))


def _members(value: Sensitive) -> dict[str, object]:
    return document.members(value.reveal(), WHERE, STORABLE)


def _members_if_any(value: Sensitive) -> dict[str, object]:
    try:
        return _members(value)
    except Misconfigured:
        return {}


def texts(members: Mapping[str, object], *keys: str) -> list[str] | None:
    """Return the texts under *keys*; None if one is absent or of another type."""
    found = [members.get(key) for key in keys]
    kept = [text for text in found if isinstance(text, str)]
    return kept if len(kept) == len(keys) else None
