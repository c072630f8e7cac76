"""What runs in the place of the Lambda runtime: one process, one function, one event at a time.

`functions.py` starts it as a script with the environment that Lambda gives, so it knows nothing
of keyturn and imports the standard library only, unless time has been let pass. Events come in as
lines of JSON and answers go out the same way; whatever the handler prints or logs goes to stderr,
which is its log. It dies as soon as its input ends, even in the middle of an event: then its
starter is gone.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, TextIO


class Context:
    """Lambda's context object, as far as handlers use it."""

    function_name = os.environ.get("AWS_LAMBDA_FUNCTION_NAME", "")
    function_version = "$LATEST"
    memory_limit_in_mb = os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")
    log_group_name = os.environ.get("AWS_LAMBDA_LOG_GROUP_NAME", "")
    log_stream_name = os.environ.get("AWS_LAMBDA_LOG_STREAM_NAME", "")
    identity = None
    client_context = None

    def __init__(self, request_id: str, function_arn: str, timeout_s: float) -> None:
        self.aws_request_id = request_id
        self.invoked_function_arn = function_arn
        self._deadline = time.monotonic() + timeout_s

    def get_remaining_time_in_millis(self) -> int:
        """Return what is left of the function's time-out."""
        return max(0, int((self._deadline - time.monotonic()) * 1000))


class _LogFormatter(logging.Formatter):
    """The managed runtime's own format."""

    def format(self, record: logging.LogRecord) -> str:
        return f"[{record.levelname}]\t{super().format(record)}"


def main() -> None:
    """Say READY once the handler is imported, then answer events until the input ends."""
    answers = _claim_stdout()
    # The managed runtime puts a handler on the root logger before any code of ours runs.
    log = logging.StreamHandler(sys.stderr)
    log.setFormatter(_LogFormatter())
    logging.getLogger().addHandler(log)
    try:
        handler = _load()
    except BaseException as error:  # noqa: BLE001  # whatever it is, Lambda reports it
        _answer(answers, {"failed": _shown(error, "Runtime.ImportModuleError")})
        return
    _answer(answers, {"ready": True})
    for request in iter(_requests().get, None):
        _answer(answers, _handled(handler, json.loads(request)))


def _claim_stdout() -> TextIO:
    """Return the real stdout, and send whatever else writes there to the log."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return answers


def _load() -> Callable[[object, Context], object]:
    sys.path.insert(0, os.environ["LAMBDA_TASK_ROOT"])
    module, _, name = os.environ["_HANDLER"].rpartition(".")
    handler: Callable[[object, Context], object] = getattr(
        importlib.import_module(module.replace("/", ".")), name
    )
    return handler


def _requests() -> queue.SimpleQueue[str]:
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            requests.put(line)
        os._exit(0)  # nobody is left to answer to

    threading.Thread(target=read, daemon=True).start()
    return requests


def _handled(handler: Callable[[object, Context], object], request: dict[str, Any]) -> object:
    # Arguments, not variables: the function's environment is Lambda's and nothing more.
    _, arn, timeout_s = sys.argv
    try:
        with _ahead(request["ahead_s"]):
            result = handler(request["event"], Context(request["id"], arn, float(timeout_s)))
        return {"result": json.dumps(result)}
    except BaseException as error:  # noqa: BLE001  # whatever it is, Lambda reports it
        return {"failed": _shown(error, type(error).__name__)}


def _ahead(seconds: float) -> contextlib.AbstractContextManager[object]:
    """Let the wall clock be ahead; what measures durations stays as it is."""
    if not seconds:
        return contextlib.nullcontext()
    import time_machine

    return time_machine.travel(time.time() + seconds, tick=True)


def _shown(error: BaseException, kind: str) -> str:
    trace = traceback.format_tb(error.__traceback__)
    # Lambda writes an unhandled error to the log as well.
    print(f"[ERROR] {kind}: {error}\n{''.join(trace)}", file=sys.stderr)  # noqa: T201  # the log
    return json.dumps({"errorMessage": str(error), "errorType": kind, "stackTrace": trace})


def _answer(answers: TextIO, answer: object) -> None:
    # The log first: it is read as soon as the answer is there.
    sys.stderr.flush()
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
