"""Builds what an entry point runs on Google. What both clouds have in common is `wiring`.

A secret is `projects/NUMBER/secrets/ID`, or with `locations/PLACE/` before `secrets`: what Secret
Manager says of itself. In a plan, and in patterns, one of this project may be named shortly: `ID`,
or `locations/PLACE/secrets/ID`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from keyturn import document
from keyturn.boundary import FollowUpEvent, GenerationEvent
from keyturn.document import MembersOf, Whole
from keyturn.errors import Busy, Denied, KeyturnError, Misconfigured, Retryable, Unsupported
from keyturn.google import api, callers, events
from keyturn.google.call import Call, Misdeployed
from keyturn.google.events import Message, RotationNotice
from keyturn.model import (
    Alert,
    Credential,
    Happening,
    RotationId,
    SecretRef,
    Sighting,
    Surroundings,
)
from keyturn.stores import secret_manager_wire
from keyturn.stores.secret_manager import SecretManager, connect
from keyturn.stores.secret_manager_wire import location_of
from keyturn.wiring import (
    EXPLAIN_S,
    Followed,
    Generation,
    Rotated,
    Settings,
    Site,
    SystemClock,
    follow,
    generation_of,
    matches,
    notifiers_of,
    pause_within,
    plan_for,
    read_plan,
    rotation_of,
    status_at,
    tell,
)

if TYPE_CHECKING:
    from pathlib import Path

    from keyturn.follow_up import Report
    from keyturn.rotation import Rotation
    from keyturn.stores.secret_manager_values import SecretManagerValues
    from keyturn.watchdog import Watched

VARIABLES = frozenset(
    {
        "KEYTURN_ADMIN_SECRETS",
        "KEYTURN_ALERTS",
        "KEYTURN_CALLERS",
        "KEYTURN_CA_FILE",
        "KEYTURN_FOLLOW_UP_TOPIC",
        "KEYTURN_GOOGLE_ENDPOINT",
        "KEYTURN_KEY_HOLDERS",
        "KEYTURN_KMS_KEY",
        "KEYTURN_ONE_WORKER",
        "KEYTURN_PLAINTEXT_HOSTS",
        "KEYTURN_PLAN",
        "KEYTURN_PROJECT",
        "KEYTURN_SECRETS",
        "KEYTURN_SECRET_MANAGER",
        "KEYTURN_STRATEGY",
        "KEYTURN_TIMEOUT_S",
        "KEYTURN_TOPICS",
    }
)
"""All there are on Google; see docs/google.md."""

TIMEOUT_S = 60.0
"""How long a function may run, in seconds, if KEYTURN_TIMEOUT_S does not say: Google's default."""

_PROJECT = re.compile(r"[0-9]{1,20}")
_SHORT = re.compile(r"(?:locations/[a-z0-9-]+/secrets/)?[A-Za-z0-9_-]{1,255}")
_SECONDS = re.compile(r"[1-9][0-9]{0,3}")
_TOPIC = re.compile(r"projects/[^/\s]+/topics/[^/\s]+")


@dataclass(frozen=True, slots=True)
class Deployment:
    """What the deployment says, besides `Settings`.

    Attributes:
        project: The project's number.
        topics: Whose messages are taken for Secret Manager's, or our own.
        callers: The e-mail addresses of those who may push.
        follow_up_topic: Where a follow-up asks for its second look.
        secret_manager: Where a local Secret Manager listens, on loopback.
    """

    settings: Settings
    project: str
    topics: tuple[str, ...]
    callers: tuple[str, ...]
    follow_up_topic: str | None
    secret_manager: str | None
    google_endpoint: str | None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Deployment:
        """Read KEYTURN_* variables.

        Raises:
            Misconfigured: An unknown one, or a value that it cannot have.
        """
        settings = Settings.from_environment(environment, VARIABLES)
        project = environment.get("KEYTURN_PROJECT", "")
        if not _PROJECT.fullmatch(project):
            raise Misconfigured(
                "KEYTURN_PROJECT is not the number of a project",
                remedy="Write the project's number, which the names of its secrets have.",
            )
        told = environment.get("KEYTURN_TIMEOUT_S", "")
        if told and not _SECONDS.fullmatch(told):
            raise Misconfigured(
                "KEYTURN_TIMEOUT_S is no number of seconds",
                remedy="Write the function's own time-out, a whole number of seconds.",
            )
        for name, scheme in (("KEYTURN_SECRET_MANAGER", "//"), ("KEYTURN_GOOGLE_ENDPOINT", "")):
            _require_loopback(name, scheme, environment.get(name))
        return cls(
            settings,
            project,
            _list(environment, "KEYTURN_TOPICS"),
            _list(environment, "KEYTURN_CALLERS"),
            environment.get("KEYTURN_FOLLOW_UP_TOPIC"),
            environment.get("KEYTURN_SECRET_MANAGER"),
            environment.get("KEYTURN_GOOGLE_ENDPOINT"),
        )


def _require_loopback(name: str, scheme: str, address: str | None) -> None:
    if address is not None and urlsplit(scheme + address).hostname not in api.LOOPBACK:
        raise Misconfigured(
            f"{name} is not on loopback",
            remedy=f"Remove {name}: it is for one machine; Google's own are reached by TLS.",
        )


def _time_limit_s(environment: Mapping[str, str]) -> float:
    told = environment.get("KEYTURN_TIMEOUT_S", "")
    return float(told) if _SECONDS.fullmatch(told) else TIMEOUT_S


class Google:
    """A `wiring.Cloud`. Connects on first use, once for each location."""

    def __init__(self, deployment: Deployment, surroundings: Surroundings) -> None:
        self._deployment = deployment
        self._surroundings = surroundings
        self._clients: dict[str | None, Any] = {}

    def ref(self, name: str) -> SecretRef:
        """See `wiring.Cloud.ref`.

        Raises:
            Misconfigured: It is no name of a secret.
        """
        if name.startswith("projects/"):
            location_of(name)
            return SecretRef(name)
        if not _SHORT.fullmatch(name):
            raise Misconfigured(
                f"{name[:200]!a} is no name of a secret in Secret Manager",
                remedy="Write its id, or `projects/NUMBER/secrets/ID`.",
            )
        path = name if name.startswith("locations/") else f"secrets/{name}"
        return SecretRef(f"projects/{self._deployment.project}/{path}")

    def names(self, ref: str) -> tuple[str, ...]:
        """See `wiring.Cloud.names`."""
        full = self.ref(ref)
        here = f"projects/{self._deployment.project}/"
        if not full.startswith(here):
            return (full,)
        return full, full.removeprefix(here).removeprefix("secrets/")

    def meant(self, pattern: str) -> str:
        """See `wiring.Cloud.meant`. A full name here is known for one of this project."""
        return pattern

    def store(self, ref: SecretRef, members_of: MembersOf | Whole) -> SecretManager:
        """See `wiring.Cloud.store`."""
        return SecretManager(
            self.secret_manager(ref),
            clock=SystemClock(),
            pause=pause_within(self._surroundings),
            members_of=members_of,
            timeout_s=secret_manager_wire.CALL_TIMEOUT_S,
        )

    def read(self, ref: SecretRef, members_of: MembersOf | Whole) -> Credential:
        """See `wiring.Cloud.read`."""
        return self.store(ref, members_of).latest(ref).credential

    def secret_manager(self, ref: SecretRef) -> Any:
        """Return the client for the location of a secret."""
        return self._secret_manager_in(location_of(ref))

    def _secret_manager_in(self, location: str | None) -> Any:
        if location not in self._clients:
            address = self._deployment.secret_manager
            self._clients[location] = connect(location, address=address)
        return self._clients[location]

    def client(self, service: str, region: str | None) -> Any:
        """See `Clients`.

        Raises:
            Unsupported: It is not one of Google's services.
        """
        if service == "secretmanager.googleapis.com":  # by gRPC, as the store
            return self._secret_manager_in(region)
        if service.endswith(".googleapis.com"):
            return api.connect(service, self._surroundings)
        raise Unsupported(
            f"{service} is a service of AWS, and this function runs on Google",
            remedy="Remove it from the plan, or let a function on AWS do that.",
        )

    def watched(self, ref: SecretRef) -> Watched:
        """See `wiring.Cloud.watched`. Secret Manager sends a tick, and knows no more of it."""
        return self.store(ref, Whole()).watched(ref)

    def look_again(self, name: str, sighting: Sighting) -> None:
        """See `wiring.Cloud.look_again`."""
        from keyturn.follow_up import LOOKS_APART

        topic = self._deployment.follow_up_topic
        if topic is None or not _TOPIC.fullmatch(topic):
            raise Misconfigured(
                "there is no topic for the second look, without which nothing is retired",
                remedy="Set KEYTURN_FOLLOW_UP_TOPIC to projects/P/topics/T.",
            )
        message = events.second_look(name, sighting, SystemClock().now() + LOOKS_APART)
        pubsub = self.client("pubsub.googleapis.com", None)
        pubsub.ask("Publish", topic, "POST", f"/v1/{topic}:publish", {"messages": [message]})


class Function:
    """A deployed function, called once: what an entry point runs.

    Args:
        headers: Of the request, by their names as HTTP writes them.
        environment: The function's.

    Attributes:
        call: Its time, its log.
    """

    def __init__(self, headers: Mapping[str, str], environment: Mapping[str, str]) -> None:
        self._headers = headers
        self._environment = environment
        self.call = Call(headers, environment, _time_limit_s(environment))

    @cached_property
    def _deployment(self) -> Deployment:
        try:
            return Deployment.from_environment(self._environment)
        except Misconfigured as error:
            raise Misdeployed(str(error), remedy=error.remedy) from None

    @cached_property
    def _cloud(self) -> Google:
        return Google(self._deployment, self._surroundings)

    @cached_property
    def _surroundings(self) -> Surroundings:
        return self._deployment.settings.surroundings(
            self.call.remaining_s, google_endpoint=self._deployment.google_endpoint
        )

    @cached_property
    def _site(self) -> Site:
        return Site(self._cloud, self._deployment.settings, self._surroundings)

    def message(self, event: Any, host: str) -> Message:
        """Read what a known caller has sent to *host*, from a topic of ours.

        Raises:
            UnknownCaller: See `callers.require`.
            Denied: The topic is another.
            Misconfigured: See `events.message`.
        """
        deployment, keys = self._deployment, callers.KEYS
        if not deployment.callers or not deployment.topics:
            raise Misdeployed(
                "nobody may push to this function, or from no topic",
                remedy="Set KEYTURN_CALLERS and KEYTURN_TOPICS.",
            )
        if deployment.google_endpoint is not None:
            keys = f"{deployment.google_endpoint}/{keys.removeprefix('https://')}"
        callers.require(self._headers, host, deployment.callers, keys)
        message = events.message(event)
        if message.topic not in deployment.topics:
            raise Denied(
                f"the message is from the topic {message.topic[:200]!a}",
                remedy="List the topic in KEYTURN_TOPICS, if it is the right one; and let the"
                " push's address end in /projects/P/topics/T.",
            )
        return message

    def rotation(self, notice: RotationNotice) -> Rotation | None:
        """Build the rotation that *notice* asks for; None if there is nothing to do any more.

        Raises:
            Denied: The secret is not one that this function may rotate.
        """
        self._require_ours(notice.ref)
        if not matches(notice.ref, self._deployment.settings.secrets, self._cloud):
            raise Denied(
                f"{notice.ref} is not a secret that KEYTURN_SECRETS allows",
                remedy="List a pattern for the secret in KEYTURN_SECRETS, if it is to be rotated.",
            )
        secret = Rotated(notice.ref, plan_for(notice.ref, self._site), notice.rotation_id)
        store = self._cloud.store(notice.ref, secret.members_of)
        if store.is_over(notice.ref, notice.rotation_id, notice.at):
            return None
        return rotation_of(secret, store, self._site)

    def tell_of_failure(self, notice: RotationNotice, error: KeyturnError) -> None:
        """Alert of a rotation that is not tried again. The same message makes the same alert.

        Raises:
            Retryable: Somebody could not be told: the message comes again.
            Misdeployed: Somebody never can be told as it is; it waits until that is mended.
        """
        alert = Alert(
            Happening.FAILED,
            notice.ref,
            notice.rotation_id,
            "",
            f"its rotation has failed: {error}",
            error.remedy,
            notice.at,
            int(notice.at.timestamp()),
        )
        addresses = (*_planned_alerts(self._site), *self._deployment.settings.alerts)
        try:
            failures = tell(alert, notifiers_of(addresses, self._cloud))
        except KeyturnError as unknown:
            failures = [unknown]
        for failure in failures:
            if isinstance(failure, Retryable):
                raise failure
            raise Misdeployed(str(failure), remedy=failure.remedy)

    def follow_up(self, event: FollowUpEvent) -> Followed:
        """Look at what *event* names. See `wiring.follow_up`.

        Raises:
            Denied: The secret is of another project.
        """
        if event.ref is not None:
            self._require_ours(self._cloud.ref(event.ref))
        return follow(event, self._site)

    def generation(self, event: GenerationEvent) -> Generation:
        """Build what *event* asks for. See `wiring.generation`."""
        event = replace(event, ref=self._cloud.ref(event.ref))
        self._require_ours(event.ref)

        def values() -> SecretManagerValues:
            from keyturn.stores.secret_manager_values import SecretManagerValues

            return SecretManagerValues(
                self._cloud.secret_manager(event.ref),
                clock=SystemClock(),
                pause=pause_within(self._surroundings),
                kms_key=self._deployment.settings.kms_key,
            )

        return generation_of(event, self._site, values)

    def _require_ours(self, ref: SecretRef) -> None:
        if not ref.startswith(f"projects/{self._deployment.project}/"):
            raise Denied(
                f"{ref} is of another project",
                remedy="Write this project's number in KEYTURN_PROJECT, if it is the right one.",
            )


# ---------------------------------------------------------------------------- for a person


def is_of_google(name: str, environment: Mapping[str, str]) -> bool:
    """Tell whether a person means a secret in Secret Manager: by its name, or KEYTURN_PROJECT."""
    is_short = not name.startswith("arn:") and "KEYTURN_PROJECT" in environment
    return name.startswith("projects/") or is_short


def status(name: str, *, plan_file: Path | None, environment: Mapping[str, str]) -> Report:
    """See `wiring.status`."""
    person = _for_a_person(name, environment, plan_file)
    return status_at(name, Site(person.cloud, person.settings, person.surroundings))


def ask_to_rotate(
    name: str, environment: Mapping[str, str]
) -> tuple[RotationId, Callable[[], bool]]:
    """Publish what Secret Manager would, on the secret's own topic.

    Returns:
        The rotation's id, and what tells whether its version is current. Raises Busy once it will
        never be.

    Raises:
        Misconfigured: Nobody is told of the secret, so nobody rotates it.
    """
    cloud = _for_a_person(name, environment, None).cloud
    ref = cloud.ref(name)
    topics = cloud.store(ref, document.usual).topics(ref)
    if not topics:
        raise Misconfigured(
            f"{ref} has no topic, so nobody hears that it is to be rotated",
            remedy="Give it the topic that the function `rotate` hears: see docs/google.md.",
        )
    pubsub = cloud.client("pubsub.googleapis.com", None)
    message = events.tick(ref, SystemClock().now())
    path, body = f"/v1/{topics[0]}:publish", {"messages": [message]}
    [message_id] = pubsub.ask("Publish", topics[0], "POST", path, body)["messageIds"]
    rotation_id = events.rotation_id_of(message_id)

    def is_current() -> bool:
        store = cloud.store(ref, document.usual)
        if store.standing(ref).current == rotation_id:
            return True
        if store.is_over(ref, rotation_id):
            raise Busy(
                f"{ref}: rotation {rotation_id} is over, and another version is current",
                remedy="Nothing, if a newer one took over; else rotate again.",
            )
        return False

    return rotation_id, is_current


@dataclass(frozen=True, slots=True)
class _Persons:
    """What a `Site` is made of."""

    cloud: Google
    settings: Settings
    surroundings: Surroundings


def _for_a_person(name: str, environment: Mapping[str, str], plan_file: Path | None) -> _Persons:
    if find_spec("google") is None or find_spec("google.cloud") is None:
        raise Misconfigured(
            "the library for Secret Manager is not installed",
            remedy="Run pip install 'keyturn[google]'.",
        )
    told = dict(environment)
    if name.startswith("projects/"):
        told["KEYTURN_PROJECT"] = name.split("/")[1]
    deployment = Deployment.from_environment(told)
    settings = replace(deployment.settings, admin_secrets=("*",), plan_file=plan_file)
    surroundings = settings.surroundings(
        lambda: EXPLAIN_S, google_endpoint=deployment.google_endpoint
    )
    return _Persons(Google(deployment, surroundings), settings, surroundings)


def _planned_alerts(site: Site) -> tuple[str, ...]:
    file = site.settings.plan_file
    try:
        return () if file is None else read_plan(file).alerts
    except KeyturnError:  # Which may be what has failed.
        return ()


def _list(environment: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(each for part in environment.get(name, "").split(",") if (each := part.strip()))
