"""Cloud Function: what follows a rotation: copies, consumers, the old credential's end.

Event (see events/google/): a Pub/Sub message, pushed with the OIDC token of an account in
KEYTURN_CALLERS: `SECRET_VERSION_ADD` of Secret Manager; or, on keyturn's own topic, `KEYTURN_SWEEP`
of Cloud Scheduler, `KEYTURN_LOOK_AGAIN` of this function itself, `KEYTURN_LOOK` of a person.

Environment: see docs/google.md.

Answers 200 if all was looked at, whatever still waits: the next look sees to it. A second look that
comes before its time gets 425, and comes again. For the rest see `keyturn.google.call`.
"""

from __future__ import annotations

import os
from functools import partial

import functions_framework
from cloudevents.http import CloudEvent
from flask import Response, abort, request

from keyturn.errors import KeyturnError
from keyturn.google import call, events
from keyturn.google.events import Message
from keyturn.measures import UNITS
from keyturn.model import Outcome
from keyturn.wiring_google import Function


@functions_framework.cloud_event
def follow_up(event: CloudEvent) -> None:
    """Look at what *event* names."""
    function = Function(dict(request.headers), os.environ)
    try:
        message = function.call.quiet("accept", lambda: function.message(event, request.host))
        if message.kind in events.FOLLOWED:
            function.call.step("follow-up", partial(_look, message, function))
    except KeyturnError as error:
        if not call.is_final(error):
            abort(Response(status=call.status_of(error)))


def _look(message: Message, function: Function) -> Outcome:
    called = function.call
    asked = events.follow_up_event(message, called.now())
    called.facts.update(secret=asked.ref or "all of the plan")
    followed = function.follow_up(asked)
    called.facts.update(followed.facts())
    called.log.measured(followed.measures.numbers(), UNITS, followed.measures.behind())
    for error in followed.errors:
        raise error
    return Outcome.DONE
