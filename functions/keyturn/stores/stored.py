"""Between the text that a store holds and a credential. Every store uses it; it does no I/O."""

from __future__ import annotations

from keyturn import document
from keyturn.model import Credential

MembersOf = document.MembersOf | document.Whole
"""What the stored documents call principal and secret, or that they are secrets."""


def parsed(text: str, where: str, members_of: MembersOf) -> Credential:
    """Read a credential. *where* is the secret and version, for messages.

    Raises:
        Misconfigured: It is none.
    """
    members: document.Members | document.Whole = document.Whole()
    if not isinstance(members_of, document.Whole):
        members = document.members_in(text, where, members_of)
    return document.parse(text, where, members)


def rendered(credential: Credential, where: str, members_of: MembersOf) -> str:
    """Return the text to store: the document, with what this rotation has made."""
    if isinstance(members_of, document.Whole):
        return credential.secret.reveal()
    before = credential.document.reveal()
    members = document.members_in(before, where, members_of)
    fresh = {
        **{name: member.reveal() for name, member in credential.derived.items()},
        members.principal: credential.principal,
        members.secret: credential.secret.reveal(),
    }
    return document.render(before, where, fresh)
