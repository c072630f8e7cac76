"""How long the next call may take, of the time that is left to the function.

Used by whatever speaks over the network itself. No I/O.
"""

from __future__ import annotations

from keyturn.errors import Unreachable
from keyturn.model import Surroundings

MARGIN_S = 1.0
"""Left of the function's time for reporting a failure."""


def allowance(most_s: float, host: str, surroundings: Surroundings) -> float:
    """Return how long the next call may take, in seconds.

    Raises:
        Unreachable: No time is left for it.
    """
    left_s = surroundings.remaining_s() - MARGIN_S
    if left_s <= 0:
        raise Unreachable(
            f"{host}: no time is left for another call",
            remedy="Give the function a longer time-out, or look at what was slow before.",
        )
    return min(most_s, left_s)
