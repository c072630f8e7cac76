"""Google Cloud on one machine: Secret Manager, Pub/Sub, Cloud Scheduler, and the real functions.

    Secret Manager's clock -> topic `secrets`  -> push -> door -> functions-framework: rotate
                                                        -> door -> functions-framework: follow_up
    Cloud Scheduler        -> topic `follow-up` ----------^
    follow_up, rotate      -> topics `follow-up`, `alerts`; what nobody takes: `dead-letter`

The functions are those of `functions/main.py`, run by functions-framework, each on a port of its
own behind a door (`front`). They run in this process, so that time can be let pass for all of it,
and read this process's environment, which is theirs while this runs. One at a time.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import time_machine
from werkzeug.serving import make_server

from keyturn.local.front import Front
from keyturn.local.pubsub import PubSub
from keyturn.local.pubsub_emulator import Emulator
from keyturn.local.secret_manager import LocalSecretManager
from keyturn.local.secret_manager_vault import Notification
from keyturn.model import SecretRef
from keyturn.testing import google_rest
from keyturn.testing.google_rest import Asked, refusal

PUBSUB = "pubsub.googleapis.com"
PROJECT = "123456789"
PARENT = f"projects/{PROJECT}"
PUSHER = "keyturn-push@example.iam.gserviceaccount.com"
SECRETS, OWN, ALERTS, DEAD = (
    f"{PARENT}/topics/{name}" for name in ("secrets", "follow-up", "alerts", "dead-letter")
)
SWEEP_EVERY = timedelta(minutes=5)
MAIN = Path(__file__).parents[2] / "main.py"

EMULATOR_S = 0.5
"""What the emulator is given for each thing that is due, in real seconds: it takes 0.1."""

SETTLED_S = 20.0
"""Longest that something may take to come about, in real seconds."""


class LocalGoogle:
    """One local Google Cloud. Enter it to start it.

    Args:
        pubsub: The simulator, or the emulator, which must have been started.
        plan_file: The functions' plan.
        settings: Variables of the functions, besides those of every deployment.
        attempts: How often a message is pushed before it is buried.
        services: Fakes of other services, by the name that stands in their addresses.

    Attributes:
        secret_manager: Its API.
        fronts: The doors, by function.
        endpoint: Where all but Secret Manager listens.
    """

    def __init__(  # what a test may choose
        self,
        pubsub: PubSub | Emulator | None = None,
        plan_file: Path | None = None,
        settings: Mapping[str, str] | None = None,
        services: Mapping[str, google_rest.Answer] | None = None,
        attempts: int = 20,
    ) -> None:
        self.pubsub = pubsub or PubSub()
        self.secret_manager = LocalSecretManager()
        self.fronts: dict[str, Front] = {}
        self.endpoint = ""
        self._services = services or {}
        self._attempts = attempts
        self._settings = {**({"KEYTURN_PLAN": str(plan_file)} if plan_file else {})}
        self._settings |= settings or {}
        self._undo = contextlib.ExitStack()
        self._next_sweep = datetime.now(UTC) + SWEEP_EVERY

    def __enter__(self) -> Self:
        undo = self._undo
        # Once, and first: to begin or end it while threads ask for the time is not safe.
        self._clock = undo.enter_context(time_machine.travel(datetime.now(UTC), tick=True))
        undo.enter_context(self.secret_manager)
        self.secret_manager.listen(self._tell)
        self.endpoint = undo.enter_context(google_rest.served(self._answer))
        undo.enter_context(self._environment())
        for name in ("rotate", "follow_up"):
            port = self._run(name)
            adds = PUSHER if isinstance(self.pubsub, Emulator) else ""
            self.fronts[name] = undo.enter_context(Front(port, [PUSHER], adds))
        self._build()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._undo.close()

    # ------------------------------------------------------------------------ what is deployed

    @contextlib.contextmanager
    def _environment(self) -> Iterator[None]:
        before = dict(os.environ)
        for name in before:
            if name.startswith("KEYTURN_"):  # Of whoever runs this, and not of the functions.
                del os.environ[name]
        os.environ.update(
            {
                "KEYTURN_PROJECT": PROJECT,
                "KEYTURN_SECRETS": "*",
                "KEYTURN_TOPICS": f"{SECRETS},{OWN}",
                "KEYTURN_CALLERS": PUSHER,
                "KEYTURN_FOLLOW_UP_TOPIC": OWN,
                "KEYTURN_ALERTS": f"pubsub:{ALERTS}",
                "KEYTURN_TIMEOUT_S": "60",
                "KEYTURN_SECRET_MANAGER": self.secret_manager.address,
                "KEYTURN_GOOGLE_ENDPOINT": self.endpoint,
                **self._settings,
            }
        )
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)

    def _run(self, name: str) -> int:
        import functions_framework

        create: Any = functions_framework.create_app
        server = make_server("127.0.0.1", 0, create(name, str(MAIN), "cloudevent"), threaded=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self._undo.callback(server.server_close)
        self._undo.callback(server.shutdown)
        return int(server.server_port)

    def _build(self) -> None:
        """Make what infra/gcp makes: topics, and subscriptions that push or are read."""
        for topic in (SECRETS, OWN, ALERTS, DEAD):
            self._put(topic, {})
        self._subscribe("rotate", SECRETS, "rotate", "SECRET_ROTATE")
        self._subscribe("follow-up", SECRETS, "follow_up", "SECRET_VERSION_ADD")
        self._subscribe("own", OWN, "follow_up")
        for topic in (ALERTS, DEAD):
            self._put(_reader(topic), {"topic": topic})

    def _subscribe(self, name: str, topic: str, function: str, kind: str = "") -> None:
        told: dict[str, Any] = {
            "topic": topic,
            "ackDeadlineSeconds": 60,
            "pushConfig": {
                "pushEndpoint": f"{self.fronts[function].address}/{topic}",
                "oidcToken": {"serviceAccountEmail": PUSHER},
            },
            "retryPolicy": {"minimumBackoff": "30s", "maximumBackoff": "600s"},
            "deadLetterPolicy": {"deadLetterTopic": DEAD, "maxDeliveryAttempts": self._attempts},
        }
        if isinstance(self.pubsub, Emulator):  # It would wait in real time.
            told["retryPolicy"] = {"minimumBackoff": "0.2s", "maximumBackoff": "0.5s"}
        if kind:
            told["filter"] = f'attributes.eventType = "{kind}"'
        self._put(f"{PARENT}/subscriptions/{name}", told)

    def _put(self, name: str, told: Mapping[str, Any]) -> None:
        self._ask("PUT", name, told)

    def _ask(self, method: str, name: str, told: Mapping[str, Any]) -> Mapping[str, Any]:
        body = json.dumps(told).encode()
        return self.pubsub.answer(
            Asked("pubsub.googleapis.com", method, f"/v1/{name}", {}, body, {})
        )

    def _answer(self, asked: Asked) -> Mapping[str, Any] | bytes:
        if asked.service == PUBSUB:
            return self.pubsub.answer(asked)
        if asked.service in self._services:
            return self._services[asked.service](asked)
        raise refusal("NOT_FOUND", f"there is no {asked.service} here")

    # ------------------------------------------------------------------------ what happens

    def add_secret(
        self, secret_id: str, value: Mapping[str, Any] | str, every: timedelta | None = None
    ) -> SecretRef:
        """Make a secret with its first value; with a companion and a schedule, if it is rotated."""
        client = self.secret_manager.client()
        secret: dict[str, Any] = {"replication": {"automatic": {}}}
        if every is not None:
            first = datetime.now(UTC) + every
            secret["topics"] = [{"name": SECRETS}]
            secret["rotation"] = {"next_rotation_time": first, "rotation_period": every}
            beside: dict[str, Any] = {"replication": {"automatic": {}}}
            client.create_secret(parent=PARENT, secret_id=f"{secret_id}-pending", secret=beside)
        client.create_secret(parent=PARENT, secret_id=secret_id, secret=secret)
        ref = SecretRef(f"{PARENT}/secrets/{secret_id}")
        text = value if isinstance(value, str) else json.dumps(value)
        client.add_secret_version(parent=ref, payload={"data": text.encode()})
        return ref

    def publish(self, topic: str, attributes: Mapping[str, str], data: bytes = b"{}") -> None:
        """Publish a message, as whoever may."""
        message = {"data": base64.b64encode(data).decode(), "attributes": dict(attributes)}
        self._ask("POST", f"{topic}:publish", {"messages": [message]})

    def _tell(self, said: Notification) -> None:
        self.publish(said.topic, said.attributes, said.data)

    def skip(self, by: timedelta) -> None:
        """Let time pass without sweeps, which would be many; what is due at its end happens."""
        self._move_to(datetime.now(UTC) + by)
        self._next_sweep = datetime.now(UTC) + SWEEP_EVERY
        self._happen()

    def advance(self, by: timedelta) -> None:
        """Let time pass, and whatever becomes due on the way happen, each at its time."""
        goal = datetime.now(UTC) + by
        while True:
            due = [each for each in (self.pubsub.next_due(), self._next_sweep) if each is not None]
            at = max(min([*due, goal]), datetime.now(UTC))
            self._move_to(at)
            self._happen()
            if isinstance(self.pubsub, Emulator):
                time.sleep(EMULATOR_S)  # It does not tell when it has pushed all.
            if at >= goal:
                return

    def _move_to(self, at: datetime) -> None:
        if at > datetime.now(UTC):
            self._clock.move_to(at)

    def _happen(self) -> None:
        if datetime.now(UTC) >= self._next_sweep:
            self._next_sweep += SWEEP_EVERY
            self.publish(OWN, {"eventType": "KEYTURN_SWEEP"})
        self.secret_manager.tick()
        self.pubsub.deliver()

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        """Let happen what is due, until it is so.

        Raises:
            TimeoutError: It was not, in `SETTLED_S`.
        """
        ends_at = time.monotonic() + SETTLED_S
        while not is_so():
            if time.monotonic() > ends_at:
                raise TimeoutError("it did not come about")
            self._happen()
            time.sleep(0.02)

    def heard(self, topic: str = ALERTS) -> list[Mapping[str, Any]]:
        """Take what was published to `ALERTS` or `DEAD`, as JSON."""
        told = {"maxMessages": 100, "returnImmediately": True}
        found = self._ask("POST", f"{_reader(topic)}:pull", told).get("receivedMessages", [])
        if found:
            acknowledged = {"ackIds": [each["ackId"] for each in found]}
            self._ask("POST", f"{_reader(topic)}:acknowledge", acknowledged)
        return [json.loads(base64.b64decode(each["message"]["data"])) for each in found]


def _reader(topic: str) -> str:
    return topic.replace("/topics/", "/subscriptions/")
