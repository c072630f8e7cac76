"""Cloud Function: make a value on demand and store it in Secret Manager. By HTTP, with IAM.

Request: POST with JSON as in events/generate/: `generate`, the kind; `secret`, the name; and if
need be `policy`, `request_id` (the same again returns the same version) and `overwrite`. Whoever
may invoke the function asks: never let everybody.

Environment: KEYTURN_PROJECT, KEYTURN_SECRETS, KEYTURN_KMS_KEY, KEYTURN_KEY_HOLDERS; see
docs/google.md.

Answers with the secret's name, the version's id, the entropy and a fingerprint; never the value.
Refusals are JSON too: `error`, `reason`, `remedy`.
"""

from __future__ import annotations

import os
import uuid
from functools import partial

import functions_framework
from flask import Request

from keyturn import boundary
from keyturn.errors import KeyturnError
from keyturn.google import call
from keyturn.model import Outcome
from keyturn.wiring_google import Function


@functions_framework.http
def generate(request: Request) -> tuple[dict[str, str], int]:
    """Make what *request* asks for."""
    function = Function(dict(request.headers), os.environ)
    try:
        function.call.step("generate", partial(_generate, request, function))
    except KeyturnError as error:
        refusal = {"error": type(error).__name__, "reason": str(error), "remedy": error.remedy}
        return refusal, call.refusal_of(error)
    return function.call.facts, call.OK


def _generate(request: Request, function: Function) -> Outcome:
    facts = function.call.facts
    event = request.get_json(silent=True)
    asked = boundary.generation_event(event, request_id=str(uuid.uuid4()))
    facts.update(secret=asked.ref)
    generation = function.generation(asked)
    facts.update(kind=generation.kind, version_id=generation.order.version_id)
    stored = generation.fulfil()
    facts.update(entropy_bits=f"{generation.entropy_bits:.1f}", fingerprint=stored.fingerprint)
    return Outcome.DONE if stored.is_new else Outcome.ALREADY_DONE
