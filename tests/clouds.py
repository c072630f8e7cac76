"""What only the cloud's own side can do, and what a platform hands to a function."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.secretsmanager.models import secretsmanager_backends

ROOT = Path(__file__).parents[1]


def begin_rotation(ref: str, token: str) -> None:
    """Label a new, empty version pending, as Secrets Manager does before it calls a function."""
    region = ref.split(":")[3]
    secret = secretsmanager_backends[DEFAULT_ACCOUNT_ID][region].secrets[ref]
    for version in secret.versions.values():
        if "AWSPENDING" in version["version_stages"]:
            version["version_stages"].remove("AWSPENDING")
    blank = {"version_id": token, "version_stages": [], "createdate": 0}
    secret.versions.setdefault(token, blank)["version_stages"].append("AWSPENDING")


@dataclass
class LambdaContext:
    """What the runtime gives a function besides the event."""

    invoked_function_arn: str = "arn:aws:lambda:eu-west-1:123456789012:function:rotate"
    aws_request_id: str = "9c1f3a52-0000-4000-8000-000000000000"
    function_name: str = "rotate"
    memory_limit_in_mb: int = 512
    remaining_ms: int = 60_000

    def get_remaining_time_in_millis(self) -> int:
        """Return how long the function may still run."""
        return self.remaining_ms


def event(step: str, ref: str, token: str) -> dict[str, object]:
    """Return the documented event of a step, for this secret and token."""
    sample: dict[str, object] = json.loads(
        (ROOT / "events" / "secrets-manager" / f"{step}.json").read_text()
    )
    return {**sample, "SecretId": ref, "ClientRequestToken": token}
