"""External Secrets, Sealed Secrets and the Secrets Store CSI driver, one step at a time."""

from typing import Any


def step(cluster: Any) -> None:
    """Let each controller do the next thing it has to do."""
