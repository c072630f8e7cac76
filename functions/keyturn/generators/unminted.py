"""A secret before its first key: the document that a rotation completes. Nothing in it is secret.

Where a target mints its keys, the first is made as each later one is, by a rotation. What it needs
for that is a document that says whose key; `NONE` stands in the key's place, and is refused by
every target. So nobody but the rotation ever has a key in hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from keyturn import document
from keyturn.document import Members
from keyturn.generators.policy import STORABLE, WHERE, Problem
from keyturn.model import Sensitive

NONE = "none"


@dataclass(frozen=True, slots=True)
class Unminted:
    """A `ports.Kind`, which makes no value.

    Attributes:
        engine: Whose rotation completes it.
        fields: What it needs to know, such as `username`.
        key: What the document calls the key's id and its secret.
    """

    engine: str
    fields: Mapping[str, object]
    key: Members

    entropy_bits = 0.0

    def problems(self) -> Iterator[Problem]:
        """Refuse fields that are not for anybody to say."""
        for name in ("engine", self.key.principal, self.key.secret):
            if name in self.fields:
                yield f"has `{name}`, which is not an option", f"Remove `{name}`: it is made here."

    def following(self, before: Sensitive) -> Sensitive:
        """See `ports.Kind.following`."""
        members = {"engine": self.engine, **self.fields, **self._nothing()}
        return Sensitive(document.exchanged(before.reveal(), WHERE, members, STORABLE))

    def is_whole(self, value: Sensitive) -> bool:
        """See `ports.Kind.is_whole`."""
        members = document.members(value.reveal(), WHERE, STORABLE)
        return all(members.get(name) == NONE for name in self._nothing())

    def follows(self, value: Sensitive, before: Sensitive) -> bool:
        """See `ports.Kind.follows`."""
        del before
        return self.is_whole(value)

    def _nothing(self) -> dict[str, str]:
        return dict.fromkeys((self.key.principal, self.key.secret), NONE)
