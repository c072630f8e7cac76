"""The annotation that says which version of which secret an object was told of, or holds.

Each secret has an annotation of its own, so that two secrets that make one Deployment restart do
not overwrite each other's mark. Its value is the version's id.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

PREFIX = "version.keyturn.dev/"

_LONGEST = 63
"""Characters of an annotation's name after its prefix (Kubernetes: Annotations, syntax)."""


def mark_of(secret: str) -> str:
    """Return the annotation of the secret of that name: readable, and never another secret's."""
    digest = hashlib.sha256(secret.encode()).hexdigest()[:12]
    readable = re.sub(r"[^A-Za-z0-9]+", "-", secret).strip("-")[: _LONGEST - 1 - len(digest)]
    return f"{PREFIX}{readable.strip('-')}-{digest}".replace("/-", "/")


def annotations_of(metadata: Mapping[str, Any] | None) -> Mapping[str, str]:
    """Return the annotations of an object's or a template's metadata."""
    return (metadata or {}).get("annotations") or {}
