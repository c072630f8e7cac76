"""The entry points on Google. A source deploy looks for them here: `--entry-point rotate`."""

from gcp.follow_up import follow_up
from gcp.generate import generate
from gcp.rotate import rotate

__all__ = ["follow_up", "generate", "rotate"]
