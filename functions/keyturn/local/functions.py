"""Runs the code of deployed functions: the zip that was deployed, in a process, kept warm.

Called in the place of moto's Docker containers (`patches`) and by Secrets Manager's rotations. A
process serves one event at a time, keeps its imports between events, and is killed when the
function's time is up, as in Lambda.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import zipfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from keyturn.local.calls import function_key_id

INIT_TIMEOUT_S = 10.0
"""Seconds for the imports of a function (Lambda: the init phase is limited to 10 seconds)."""

_WORKER = Path(__file__).with_name("worker.py")


@dataclass(frozen=True, slots=True)
class Function:
    """What there is to know about a deployed function in order to run it."""

    name: str
    arn: str
    handler: str
    code: bytes
    timeout_s: float
    memory_mb: int
    region: str
    runtime: str
    environment: tuple[tuple[str, str], ...]

    @property
    def digest(self) -> str:
        """Equal for equal code."""
        return hashlib.sha256(self.code).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Answer:
    """What an invocation gave.

    Attributes:
        payload: JSON: the result, or the error as Lambda words it.
        failed: Whether it is an error.
        log: What the function wrote.
    """

    payload: str
    failed: bool
    log: str


def deployed(function: Any) -> Function:
    """Read moto's record of a function."""
    return Function(
        name=function.function_name,
        arn=function.function_arn,
        handler=function.handler,
        code=function.code_bytes,
        timeout_s=float(function.timeout),
        memory_mb=int(function.memory_size),
        region=function.region,
        runtime=str(function.run_time),
        environment=tuple(sorted((k, str(v)) for k, v in function.environment_vars.items())),
    )


class Functions:
    """Every process that runs a function. `stop` ends them all.

    Args:
        folder: Where code is unpacked and logs are kept; the caller's to delete.
        endpoint_url: The local AWS, as functions are to see it.

    Attributes:
        ahead_s: How far the functions' time is ahead of the real one, in seconds.
    """

    def __init__(self, folder: Path, endpoint_url: str) -> None:
        self._folder = folder
        self._endpoint_url = endpoint_url
        self.ahead_s = 0.0
        self._lock = threading.Lock()
        self._idle: defaultdict[Function, list[_Worker]] = defaultdict(list)
        self._workers: list[_Worker] = []
        self._threads: list[threading.Thread] = []
        self._stopped = False

    def invoke(self, function: Function, event: object) -> Answer:
        """Run *function* once and wait for it."""
        worker = self._idle_worker(function)
        if worker is None:
            worker = self._new_worker(function)
            failure = worker.await_ready()
            if failure is not None:
                return failure
        answer = worker.ask(event, self.ahead_s)
        with self._lock:
            if worker.is_alive:
                self._idle[function].append(worker)
        return answer

    def in_background(self, work: Callable[[], object]) -> threading.Thread:
        """Do *work* without waiting. `settle` and `stop` know of it."""
        thread = threading.Thread(target=work, daemon=True)
        with self._lock:
            self._threads = [t for t in self._threads if t.is_alive()]
            self._threads.append(thread)
            thread.start()
        return thread

    def settle(self, timeout_s: float) -> bool:
        """Wait until nothing runs in the background. False if the time was up first."""
        deadline = time.monotonic() + timeout_s
        # What runs may start more: a rotation's event starts another function.
        while running := self._running():
            if time.monotonic() > deadline:
                return False
            running[0].join(max(0.0, deadline - time.monotonic()))
        return True

    def stop(self) -> None:
        """End every process. What runs in the background fails and ends."""
        with self._lock:
            self._stopped = True
            for worker in self._workers:
                worker.end()
        for thread in self._running():
            thread.join(INIT_TIMEOUT_S)
        for worker in self._workers:
            worker.forget()

    def _running(self) -> list[threading.Thread]:
        with self._lock:
            return [thread for thread in self._threads if thread.is_alive()]

    def _idle_worker(self, function: Function) -> _Worker | None:
        with self._lock:
            idle = self._idle[function]
            return idle.pop() if idle else None

    def _new_worker(self, function: Function) -> _Worker:
        root = self._unpacked(function)
        with self._lock:
            worker = _Worker(function, root, self._folder, self._endpoint_url)
            self._workers.append(worker)
            if self._stopped:
                worker.end()
        return worker

    def _unpacked(self, function: Function) -> Path:
        root = self._folder / f"code-{function.digest}"
        if not root.is_dir():
            fresh = Path(tempfile.mkdtemp(dir=self._folder))
            with zipfile.ZipFile(io.BytesIO(function.code)) as archive:
                archive.extractall(fresh)
            # Two first invocations may unpack the same code: the second finds it there.
            try:
                fresh.rename(root)
            except OSError:
                if not root.is_dir():
                    raise
        return root


class _Worker:
    """One process of one function."""

    def __init__(self, function: Function, root: Path, folder: Path, endpoint_url: str) -> None:
        self._timeout_s = function.timeout_s
        self._read_bytes = 0
        # Its log is a file and no pipe: all of it is there as soon as the answer is, and a
        # handler that writes a lot waits for nobody.
        self._log, log = tempfile.mkstemp(dir=folder, prefix="log-")
        Path(log).unlink()
        self._process = subprocess.Popen(
            [sys.executable, "-P", _WORKER, function.arn, str(function.timeout_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=root,
            env=_environment(function, root, endpoint_url),
            # Ctrl-C is for us; the worker ends with its input.
            start_new_session=True,
        )

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def await_ready(self) -> Answer | None:
        """Wait for the imports. Returns the failure if there is one."""
        said = self._listen(INIT_TIMEOUT_S)
        if "ready" in said:
            return None
        self.end()
        return self._failed(said, INIT_TIMEOUT_S)

    def ask(self, event: object, ahead_s: float) -> Answer:
        """Hand over one event and wait for the answer."""
        request = json.dumps({"event": event, "id": str(uuid.uuid4()), "ahead_s": ahead_s})
        with contextlib.suppress(BrokenPipeError):
            _pipe(self._process.stdin).write(request + "\n")
            _pipe(self._process.stdin).flush()
        said = self._listen(self._timeout_s)
        if "result" in said:
            return Answer(said["result"], failed=False, log=self._new_log())
        return self._failed(said, self._timeout_s)

    def end(self) -> None:
        """Kill the process. Repeatable."""
        self._process.kill()
        self._process.wait()

    def forget(self) -> None:
        """Give back what an ended process leaves. The last call."""
        # What could not be written to a dead process is of no use any more.
        with contextlib.suppress(BrokenPipeError):
            _pipe(self._process.stdin).close()
        _pipe(self._process.stdout).close()
        os.close(self._log)

    def _listen(self, timeout_s: float) -> dict[str, str]:
        """Return the next line, or nothing if the process died or was killed at its time-out."""
        timer = threading.Timer(timeout_s, self._process.kill)
        timer.start()
        line = _pipe(self._process.stdout).readline()
        timer.cancel()
        said: dict[str, str] = json.loads(line) if line else {}
        return said

    def _failed(self, said: dict[str, str], timeout_s: float) -> Answer:
        if "failed" in said:
            return Answer(said["failed"], failed=True, log=self._new_log())
        if self._process.wait() == -signal.SIGKILL:
            kind, text = "Sandbox.Timedout", f"Task timed out after {timeout_s:.2f} seconds"
        else:
            kind, text = "Runtime.ExitError", "Runtime exited without answering"
        log = f"{self._new_log()}{text}\n"
        return Answer(json.dumps({"errorType": kind, "errorMessage": text}), failed=True, log=log)

    def _new_log(self) -> str:
        size_bytes = os.fstat(self._log).st_size
        fresh = os.pread(self._log, size_bytes - self._read_bytes, self._read_bytes)
        self._read_bytes = size_bytes
        return fresh.decode("utf-8", "replace")


def _environment(function: Function, root: Path, endpoint_url: str) -> dict[str, str]:
    """Return what Lambda sets, and what sends the SDK to the local AWS."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        "TZ": ":UTC",
        "LAMBDA_TASK_ROOT": str(root),
        "_HANDLER": function.handler,
        "AWS_EXECUTION_ENV": f"AWS_Lambda_{function.runtime}",
        "AWS_LAMBDA_FUNCTION_NAME": function.name,
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory_mb),
        "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{function.name}",
        "AWS_LAMBDA_LOG_STREAM_NAME": "local",
        "AWS_REGION": function.region,
        "AWS_DEFAULT_REGION": function.region,
        "AWS_ENDPOINT_URL": endpoint_url,
        "AWS_ACCESS_KEY_ID": function_key_id(function.name),
        "AWS_SECRET_ACCESS_KEY": "local",
        **dict(function.environment),
    }


def _pipe(pipe: IO[str] | None) -> IO[str]:
    if pipe is None:
        raise AssertionError("started with pipes")
    return pipe
