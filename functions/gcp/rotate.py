"""Cloud Function: a whole rotation. Secret Manager asks for it on its topic, by its clock.

Event (see events/google/): a Pub/Sub message, pushed with the OIDC token of an account in
KEYTURN_CALLERS, or brought by Eventarc. Only `SECRET_ROTATE` is heard; a secret's topic also tells
of our own writes. A message that was done, or that a later rotation has answered, changes nothing,
however often it comes.

Environment: see docs/google.md.

Answers 200 if the message is done with: the rotation is, or no redelivery could mend what failed,
and those in KEYTURN_ALERTS and the plan were told. Else a status by which Pub/Sub brings it again;
see `keyturn.google.call`.
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
from keyturn.model import Step
from keyturn.wiring_google import Function


@functions_framework.cloud_event
def rotate(event: CloudEvent) -> None:
    """Rotate the secret that *event* names."""
    function = Function(dict(request.headers), os.environ)
    try:
        message = function.call.quiet("accept", lambda: function.message(event, request.host))
        if message.kind == events.ROTATE:
            _rotate(message, function)
    except KeyturnError as error:
        if not call.is_final(error):
            abort(Response(status=call.status_of(error)))


def _rotate(message: Message, function: Function) -> None:
    called = function.call
    notice = called.quiet("accept", lambda: events.rotation_notice(message, called.now()))
    called.facts.update(secret=notice.ref, rotation_id=notice.rotation_id)
    try:
        rotation = called.quiet("accept", lambda: function.rotation(notice))
        if rotation is not None:
            for step in Step:
                called.step(step.value, partial(rotation.perform, step))
    except KeyturnError as error:
        if not call.is_final(error):
            raise
        called.quiet("alert", partial(function.tell_of_failure, notice, error))
