"""Our exception hierarchy. The class of an error is the instruction to whoever catches it.

    KeyturnError
      Retryable          the same call, unchanged, may succeed later
        Unreachable      no answer: network, DNS, time-out, throttling, 5xx
        Busy             another rotation of this secret is in flight, or took over
        NotYetAccepted   set, but the target does not accept it (yet)
      Permanent          fails the same way until code or configuration changes
        Misconfigured    a setting, an event or a secret's value is wrong
        Unsupported      this target, engine or value is outside what we can do
      NeedsHuman         store and target disagree; a guess could do harm
        Drifted          what we found is not what the plan says
        Denied           authenticated, but not allowed to do what rotation needs
        LockedOut        the target refuses every login that could authorise this
        Untraceable      something may have been made that nothing can find

"The target said no to this credential" is not an error: `Target.accepts` returns False.
"""

from __future__ import annotations

from collections.abc import Callable


class KeyturnError(Exception):
    """Base class.

    Args:
        message: Subject and fact. Never holds a secret.
        remedy: One imperative sentence for the operator. Never holds a secret.
    """

    def __init__(self, message: str, *, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


class Retryable(KeyturnError):
    """The same call, unchanged, may succeed later."""


class Unreachable(Retryable):
    """No answer was received; nothing is known about the effect of the call."""


class Busy(Retryable):
    """Another rotation of the same secret is in flight, or has taken over the slot."""


class NotYetAccepted(Retryable):
    """The pending credential was set, but the target does not accept it."""


class Permanent(KeyturnError):
    """Fails the same way until code or configuration changes."""


class Misconfigured(Permanent):
    """A setting, an event or a secret's value is missing, malformed or contradictory."""


class Unsupported(Permanent):
    """The target cannot do what was asked."""


class NeedsHuman(KeyturnError):
    """Store and target disagree; continuing would be a guess."""


class Drifted(NeedsHuman):
    """What the target holds is not what the plan says it should."""


class Denied(NeedsHuman):
    """Authenticated, but not allowed to do what rotation needs."""


class LockedOut(NeedsHuman):
    """The target refuses every login that could authorise this. It ends the rotation."""


class Untraceable(NeedsHuman):
    """No answer told whether something was made, and nothing that we can ask would find it.

    Args:
        message: See `KeyturnError`.
        remedy: See `KeyturnError`.
        when_told: Whoever has told a person calls it, so that it is not told again. A worker that
            dies before leaves it to be told by the next.
    """

    def __init__(
        self, message: str, *, remedy: str, when_told: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.when_told = when_told
