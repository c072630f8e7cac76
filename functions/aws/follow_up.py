"""Lambda: what follows a rotation: copies, consumers, the end of the old credential, alerts.

Event (see events/follow-up/): EventBridge's `Secret Label Updated`, or what it says of a rotation;
a schedule's `{"sweep": true}`; a record of the queue through which a look asks for the next; or, by
hand, `{"secret": .., "only": [..]}`.

Environment: KEYTURN_PLAN, KEYTURN_ALERTS, KEYTURN_LOOK_AGAIN_QUEUE, and what a rotation has:
KEYTURN_ADMIN_SECRETS, KEYTURN_PLAINTEXT_HOSTS, KEYTURN_CA_FILE, KEYTURN_IAM_USERS (see
docs/deploy.md); AWS_ENDPOINT_URL for a cloud other than AWS's.

Returns how many secrets were looked at, and what waits; never a value. Raises the first of what
failed, after all else is done: whoever called tries again.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from keyturn import boundary, wiring
from keyturn.measures import UNITS
from keyturn.model import Outcome

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


def handler(event: object, context: LambdaContext) -> dict[str, str]:
    """Look at what *event* names."""
    facts = {"request_id": context.aws_request_id, "step": "follow-up"}
    telemetry = boundary.Telemetry()

    def work() -> Outcome:
        asked = boundary.follow_up_event(event)
        facts.update(secret=asked.ref or "all of the plan")
        followed = wiring.follow_up(
            asked,
            environment=os.environ,
            remaining_s=lambda: context.get_remaining_time_in_millis() / 1000,
        )
        facts.update(followed.facts())
        telemetry.measured(followed.measures.numbers(), UNITS, followed.measures.behind())
        for error in followed.errors:
            raise error
        return Outcome.DONE

    return boundary.answer(telemetry, facts, work)
