"""Lambda: one step of a rotation. Secrets Manager calls it, up to four times per rotation.

Event (see events/secrets-manager/): Step, SecretId (a full ARN), ClientRequestToken and, when the
rotation runs under an assumed role, RotationToken.

Environment: KEYTURN_SECRETS, KEYTURN_ADMIN_SECRETS, KEYTURN_STRATEGY, KEYTURN_PLAINTEXT_HOSTS,
KEYTURN_CA_FILE, KEYTURN_IAM_USERS, KEYTURN_ONE_WORKER, KEYTURN_PLAN (see docs/deploy.md);
AWS_ENDPOINT_URL for a cloud other than AWS's.

Returns the secret's name, the rotation id, the step and its outcome; never a value. Raises on
failure, because Secrets Manager takes an error as "run this rotation again".
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from keyturn import boundary, wiring
from keyturn.model import Outcome

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


def handler(event: object, context: LambdaContext) -> dict[str, str]:
    """Perform the step that *event* names."""
    facts = {"request_id": context.aws_request_id}

    def work() -> Outcome:
        asked = boundary.rotation_event(event)
        facts.update(secret=asked.ref, rotation_id=asked.rotation_id, step=asked.step.value)
        rotation = wiring.rotation(
            asked,
            environment=os.environ,
            function_arn=context.invoked_function_arn,
            remaining_s=lambda: context.get_remaining_time_in_millis() / 1000,
        )
        return rotation.perform(asked.step)

    return boundary.answer(boundary.Telemetry(), facts, work)
