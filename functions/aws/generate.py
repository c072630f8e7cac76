"""Lambda: make a value on demand and store it in Secrets Manager. Whoever may invoke it asks.

Event (see events/generate/): `generate`, the kind; `secret`, the name; and if need be `policy`, the
options of the kind, `request_id` (the same again returns the same version) and `overwrite`.

Environment: KEYTURN_SECRETS, patterns of the names that it may write; KEYTURN_KMS_KEY, what new
secrets are encrypted with; KEYTURN_IAM_USERS, for whose first keys it may prepare secrets (see
docs/deploy.md); AWS_ENDPOINT_URL for a cloud other than AWS's.

Returns the secret's name, the version's id, the entropy and a fingerprint; never the value.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from keyturn import boundary, wiring
from keyturn.model import Outcome

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


def handler(event: object, context: LambdaContext) -> dict[str, str]:
    """Make what *event* asks for."""
    facts = {"request_id": context.aws_request_id, "step": "generate"}

    def work() -> Outcome:
        asked = boundary.generation_event(event, request_id=context.aws_request_id)
        facts.update(secret=asked.ref)
        generation = wiring.generation(asked, environment=os.environ)
        facts.update(kind=generation.kind, version_id=generation.order.version_id)
        stored = generation.fulfil()
        facts.update(entropy_bits=f"{generation.entropy_bits:.1f}", fingerprint=stored.fingerprint)
        return Outcome.DONE if stored.is_new else Outcome.ALREADY_DONE

    return boundary.answer(boundary.Telemetry(), facts, work)
