"""Builds what an entry point runs. The only module that knows both the core and the adapters.

A secret in AWS's documented format needs no plan: `engine` picks the target, and `masterarn` means
alternating users. A plan, where the deployment has one, says more and wins.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import cache, cached_property, partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from keyturn import authorities, consumers, destinations, generate, notifiers, on_demand, targets
from keyturn.boundary import (
    FollowUpEvent,
    GenerationEvent,
    RotationEvent,
    ask_aws,
    look_again,
    secret_name,
)
from keyturn.document import Members, MembersOf, Whole, kind_of
from keyturn.errors import Denied, KeyturnError, Misconfigured, Unsupported
from keyturn.minted import LANDING, MintedKeys, Place
from keyturn.model import (
    Alert,
    Credential,
    Happening,
    RotationId,
    SecretRef,
    Sensitive,
    Sighting,
    Strategy,
    Surroundings,
    Version,
)
from keyturn.ports import (
    Authority,
    Clients,
    FollowedStore,
    Generate,
    KeyIssuer,
    KeyStore,
    Minting,
    Notifier,
    NumberedStore,
    PasswordEngine,
    Pause,
    Target,
    ValueStore,
)
from keyturn.rotation import STALE_AFTER, Rotation
from keyturn.stores.secrets_manager import SecretsManager, SecretsManagerValues
from keyturn.strategies import (
    Admin,
    AlternatingUsers,
    BestOffered,
    DualPassword,
    Generated,
    Pair,
    PlatformUser,
    SingleUser,
    pair_by_suffix,
)

if TYPE_CHECKING:
    from botocore.config import Config
    from mypy_boto3_secretsmanager import SecretsManagerClient

    from keyturn.follow_plan import Copy, Kinds, Reader
    from keyturn.follow_up import Delivery, FollowUp, Refresh, Report
    from keyturn.followers import Given
    from keyturn.generators.kinds import AnyPolicy
    from keyturn.generators.unminted import Unminted
    from keyturn.kubernetes.api import Kubernetes
    from keyturn.kubernetes.cluster import ClusterShape
    from keyturn.measures import Measures
    from keyturn.plan import Plan, SecretPlan
    from keyturn.watchdog import Watched

CONNECT_TIMEOUT_S, READ_TIMEOUT_S, TRIES = 2, 5, 3
"""Per call to a store. A step makes at most four, so it ends within the function's time."""
AUTHORITY_TRIES = 2
"""The same for an authority, which makes many calls and leaves time for one."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the deployment says, from the function's environment.

    Attributes:
        secrets: Patterns of secrets that may be rotated, besides those that name this function.
        admin_secrets: Patterns of secrets whose credential may be used as an admin's.
        plaintext_hosts: Hosts that may be reached without TLS.
        ca_file: A PEM file with private authorities.
        iam_users: Patterns of those whose keys may be minted and deleted: the ARNs of users, the
            e-mail addresses of service accounts.
        plan_file: The plan, if there is one.
        strategy: For secrets that are in no plan; None leaves it to the secret.
        kms_key: What secrets that are made on demand are encrypted with; None for the account's.
        alerts: Addresses of those who are told, besides the plan's.
        look_again_queue: The URL of the queue through which a follow-up asks for its second look.
        has_one_worker: Whether no two runs of the function live at once; see `LANDING`.
    """

    secrets: tuple[str, ...] = ()
    admin_secrets: tuple[str, ...] = ()
    plaintext_hosts: frozenset[str] = field(default_factory=frozenset)
    ca_file: str | None = None
    iam_users: tuple[str, ...] = ()
    plan_file: Path | None = None
    strategy: Strategy | None = None
    kms_key: str | None = None
    alerts: tuple[str, ...] = ()
    look_again_queue: str | None = None
    has_one_worker: bool = False

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str], known: Collection[str] | None = None
    ) -> Settings:
        """Read KEYTURN_* variables. *known* are all there are; None is those on AWS.

        Raises:
            Misconfigured: An unknown KEYTURN_* variable, most likely a misspelt one, or a value
                that it cannot have.
        """
        variables = _VARIABLES if known is None else frozenset(known)
        unknown = {key for key in environment if key.startswith("KEYTURN_")} - variables
        if unknown:
            raise Misconfigured(
                f"unknown environment variable {min(unknown)}",
                remedy=f"Use one of {', '.join(sorted(variables))}.",
            )
        return cls(
            _list(environment.get("KEYTURN_SECRETS", "")),
            _list(environment.get("KEYTURN_ADMIN_SECRETS", "")),
            frozenset(_list(environment.get("KEYTURN_PLAINTEXT_HOSTS", ""))),
            environment.get("KEYTURN_CA_FILE") or None,
            _list(environment.get("KEYTURN_IAM_USERS", environment.get("KEYTURN_KEY_HOLDERS", ""))),
            _plan_file(environment),
            _strategy(environment.get("KEYTURN_STRATEGY", "")),
            environment.get("KEYTURN_KMS_KEY") or None,
            _list(environment.get("KEYTURN_ALERTS", "")),
            environment.get("KEYTURN_LOOK_AGAIN_QUEUE") or None,
            _has_one_worker(environment.get("KEYTURN_ONE_WORKER", "")),
        )

    def surroundings(
        self, remaining_s: Callable[[], float], google_endpoint: str | None = None
    ) -> Surroundings:
        """Return what of this is for the targets."""
        return Surroundings(
            remaining_s,
            self.plaintext_hosts,
            self.ca_file,
            self.iam_users,
            google_endpoint=google_endpoint,
        )


_VARIABLES = {
    "KEYTURN_SECRETS",
    "KEYTURN_ADMIN_SECRETS",
    "KEYTURN_ALERTS",
    "KEYTURN_LOOK_AGAIN_QUEUE",
    "KEYTURN_PLAINTEXT_HOSTS",
    "KEYTURN_CA_FILE",
    "KEYTURN_KMS_KEY",
    "KEYTURN_IAM_USERS",
    "KEYTURN_ONE_WORKER",
    "KEYTURN_PLAN",
    "KEYTURN_STRATEGY",
}


class Store(KeyStore, FollowedStore, Protocol):
    """A store, as every function needs it."""

    def full_name(self, ref: SecretRef) -> SecretRef:
        """Return the name that no other secret can have, ever."""
        ...


class Cloud(Protocol):
    """Where the functions run: what it calls secrets, where it keeps them, how it is asked."""

    def ref(self, name: str) -> SecretRef:
        """Return what its store calls the secret that a plan calls *name*. No I/O."""
        ...

    def names(self, ref: str) -> tuple[str, ...]:
        """Return the names by which a plan or a pattern may mean a secret, the full one first."""
        ...

    def meant(self, pattern: str) -> str:
        """Return the short names that a pattern of full ones means in this very place."""
        ...

    def store(self, ref: SecretRef, members_of: MembersOf | Whole) -> Store:
        """Make a store for that secret. No I/O."""
        ...

    def read(self, ref: SecretRef, members_of: MembersOf | Whole) -> Credential:
        """Read a secret that is not rotated here, as its own readers do."""
        ...

    def client(self, service: str, region: str | None) -> Any:
        """See `Clients`."""
        ...

    def watched(self, ref: SecretRef) -> Watched | None:
        """Return what a watchdog looks at; None where the platform watches by itself."""
        ...

    def look_again(self, name: str, sighting: Sighting) -> None:
        """Have the follow-up called again, later. A message that is lost costs a sweep."""
        ...


@dataclass(frozen=True, slots=True)
class Site:
    """What all secrets of a deployment have in common."""

    cloud: Cloud
    settings: Settings
    surroundings: Surroundings


class Aws:
    """A `Cloud`. Its store takes a name where it takes an ARN.

    Args:
        queue: The URL of the queue through which a follow-up asks for its second look.
        rotation_token: Of the rotation that is being done; see `RotationEvent`.
    """

    def __init__(self, queue: str | None = None, rotation_token: Sensitive | None = None) -> None:
        self._queue = queue
        self._rotation_token = rotation_token

    @cached_property
    def secrets_manager(self) -> SecretsManagerClient:
        """Make the client, once."""
        return _client()

    def ref(self, name: str) -> SecretRef:
        """See `Cloud.ref`."""
        return SecretRef(name)

    def names(self, ref: str) -> tuple[str, ...]:
        """See `Cloud.names`."""
        return (ref, secret_name(SecretRef(ref))) if _is_arn(ref) else (ref,)

    def meant(self, pattern: str) -> str:
        """See `Cloud.meant`. An ARN ends in six characters of its own."""
        found = re.search(r":secret:(.+)-(?:[A-Za-z0-9]{6}|\?{6})$", pattern)
        return found[1] if found else pattern

    def store(self, ref: SecretRef, members_of: MembersOf | Whole) -> SecretsManager:
        """See `Cloud.store`."""
        del ref  # One client is for all of this region.
        return SecretsManager(
            self.secrets_manager, rotation_token=self._rotation_token, members_of=members_of
        )

    def read(self, ref: SecretRef, members_of: MembersOf | Whole) -> Credential:
        """See `Cloud.read`."""
        return self.store(ref, members_of).current(ref).credential

    def client(self, service: str, region: str | None) -> Any:
        """See `Clients`."""
        return _any_client(service, region)

    def watched(self, ref: SecretRef) -> None:
        """See `Cloud.watched`. Secrets Manager tells of rotations that fail, or are abandoned."""

    def look_again(self, name: str, sighting: Sighting) -> None:
        """See `Cloud.look_again`."""
        _ask_again(self._queue, look_again(name, sighting))


def rotation(
    event: RotationEvent,
    *,
    environment: Mapping[str, str],
    function_arn: str,
    remaining_s: Callable[[], float],
) -> Rotation:
    """Build the rotation that *event* asks for.

    Args:
        event: What Secrets Manager sent.
        environment: The function's variables.
        function_arn: The function as it was invoked.
        remaining_s: How long it may still run.

    Raises:
        Denied: The secret is not one that this function may rotate.
    """
    settings = Settings.from_environment(environment)
    cloud = Aws(rotation_token=event.rotation_token)
    site = Site(cloud, settings, settings.surroundings(remaining_s))
    secret = Rotated(event.ref, plan_for(event.ref, site), event.rotation_id)
    store = cloud.store(event.ref, secret.members_of)
    _authorise(event.ref, settings, store, function_arn)
    return rotation_of(secret, store, site)


def rotation_of(secret: Rotated, store: Store, site: Site) -> Rotation:
    """Build the rotation of a secret."""

    def choose(credential: Credential) -> Target:
        return _candidates(credential, secret, store, site).chosen()

    return Rotation(
        secret.ref, secret.rotation_id, store=store, targets=choose, clock=SystemClock()
    )


@dataclass(frozen=True, slots=True)
class Generation:
    """A value that is about to be made and stored.

    Attributes:
        order: Under which name, as which version.
        kind: The name of the kind.
        entropy_bits: What an attacker who knows the policy has to guess.
        fulfil: Makes and stores it. Repeatable.
    """

    order: on_demand.Order
    kind: str
    entropy_bits: float
    fulfil: Callable[[], on_demand.Stored]


def generation(event: GenerationEvent, *, environment: Mapping[str, str]) -> Generation:
    """Build what *event* asks for.

    Raises:
        Misconfigured: The kind or its options are wrong.
        Denied: The secret is not one that KEYTURN_SECRETS allows.
    """
    settings = Settings.from_environment(environment)
    site = Site(Aws(), settings, settings.surroundings(lambda: EXPLAIN_S))
    values = partial(SecretsManagerValues, kms_key=settings.kms_key)
    return generation_of(event, site, lambda: values(_client()))


def generation_of(
    event: GenerationEvent, site: Site, values: Callable[[], ValueStore]
) -> Generation:
    """Build what *event* asks for, to be put in *values*."""
    # Imported here: a function that rotates a login does not pay for them.
    from keyturn.generators import kinds
    from keyturn.generators.fingerprint import fingerprint
    from keyturn.shapes import Place

    if not matches(event.ref, site.settings.secrets, site.cloud):
        raise Denied(
            f"{event.ref} is not a secret that KEYTURN_SECRETS allows",
            remedy="List a pattern for the secret in KEYTURN_SECRETS, if the name is right.",
        )
    policy: AnyPolicy | Unminted
    if (issuer := _issuer_module(event.kind)) is not None:
        policy = _unminted(event, issuer, site.surroundings)
    else:
        policy = kinds.read({"kind": event.kind, **event.options}, Place("the policy"))
    store = values()
    version_id = on_demand.version_id(event.ref, event.request_id)
    order = on_demand.Order(event.ref, version_id, overwrite=event.overwrite)
    return Generation(
        order,
        event.kind,
        policy.entropy_bits,
        lambda: on_demand.fulfil(order, policy, store, fingerprint),
    )


@dataclass
class Followed:
    """What the looks of one event came to.

    Attributes:
        measures: What is counted on the way, to be alarmed on.
        reports: By the secret's name.
        errors: What failed, everywhere. All else was done.
    """

    measures: Measures
    reports: dict[str, Report] = field(default_factory=dict)
    errors: list[KeyturnError] = field(default_factory=list)

    def facts(self) -> dict[str, str]:
        """Return what a caller may know."""
        from keyturn.follow_up import State

        waiting = [
            f"{name}: {line.name or line.part.value}"
            for name, report in self.reports.items()
            for line in report.lines
            if line.state in {State.WAITING, State.FAILED}
        ]
        return {"looked_at": str(len(self.reports)), "waiting": "; ".join(waiting)}


def follow_up(
    event: FollowUpEvent, *, environment: Mapping[str, str], remaining_s: Callable[[], float]
) -> Followed:
    """Look at what *event* names, or pass on what it tells.

    Raises:
        Misconfigured: There is no plan, or somebody asks for a secret that nothing follows.
    """
    settings = Settings.from_environment(environment)
    cloud = Aws(settings.look_again_queue)
    return follow(event, Site(cloud, settings, settings.surroundings(remaining_s)))


def follow(event: FollowUpEvent, site: Site) -> Followed:
    """Look at what *event* names, or pass on what it tells. See `follow_up`."""
    from keyturn.measures import Measures  # here: a function that rotates does not pay for it

    plan = _whole_plan(site.settings)
    measures = Measures(is_sweep=event.ref is None)
    followed = Followed(measures)
    told = [*notifiers_of((*plan.alerts, *site.settings.alerts), site.cloud), measures]
    if event.happening is not None:
        _pass_on(event, told, followed)
        return followed
    for name in _followed_names(event, plan, site.cloud):
        if site.surroundings.remaining_s() < MARGIN_S:
            raise Misconfigured(
                f"no time was left to look at {name}, and at what comes after it in the plan",
                remedy="Give the function more time, or deploy it twice, each with half the plan.",
            )
        try:
            report = _follow_up(name, plan, site, told).look(event.sighting, event.only)
            followed.reports[name] = report
            followed.errors += report.errors
            measures.look(name, report, plan.secrets[name].retirement, SystemClock().now())
            if report.sighting is not None:
                site.cloud.look_again(name, report.sighting)
        except KeyturnError as error:
            followed.errors.append(error)
            measures.look_failed(name)
    if event.ref is None:
        for name in plan.secrets:
            _watch(name, site, told, followed)
    return followed


def _watch(name: str, site: Site, told: Iterable[Notifier], followed: Followed) -> None:
    """Tell what its store would leave unsaid of a secret."""
    from keyturn.watchdog import alerts

    try:
        ref = site.cloud.ref(name)
        seen = site.cloud.watched(ref)
    except KeyturnError as error:
        followed.errors.append(error)
        return
    for alert in () if seen is None else alerts(ref, seen, SystemClock().now()):
        followed.errors += tell(alert, told)


def tell(alert: Alert, told: Iterable[Notifier]) -> list[KeyturnError]:
    """Send *alert* to everybody, whoever of them cannot be reached; return what failed."""
    failures = []
    for notifier in told:
        try:
            notifier.send(alert)
        except KeyturnError as error:
            failures.append(error)
    return failures


def status(name: str, *, plan_file: Path | None, environment: Mapping[str, str]) -> Report:
    """Look at what follows the secret of that name, and do nothing.

    For a person at a terminal, with that person's rights.
    """
    settings = replace(
        Settings.from_environment(environment), admin_secrets=("*",), plan_file=plan_file
    )
    return status_at(name, Site(Aws(), settings, settings.surroundings(lambda: EXPLAIN_S)))


def status_at(name: str, site: Site) -> Report:
    """Do as `status` does, wherever the secret is."""
    plan = _whole_plan(site.settings)
    [name] = _followed_names(FollowUpEvent(SecretRef(name), is_asked=True), plan, site.cloud)
    return _follow_up(name, plan, site, []).status()


def _followed_names(event: FollowUpEvent, plan: Plan, cloud: Cloud) -> list[str]:
    names = [name for name, secret in plan.secrets.items() if secret.is_followed]
    if event.ref is None:
        return names
    meant = [name for name in names if name in cloud.names(event.ref)]
    if not meant and event.is_asked:
        raise Misconfigured(
            f"{event.ref[:200]!a} is no secret that something follows",
            remedy="Write `deliver`, `refresh` or `retire` for it in the plan.",
        )
    return meant


def _follow_up(name: str, whole: Plan, site: Site, told: list[Notifier]) -> FollowUp:
    # Imported here: a function that rotates does not pay for it.
    from keyturn.follow_up import Course, FollowUp

    ref, plan = site.cloud.ref(name), whole.secrets[name]
    store = site.cloud.store(ref, _kept_as(plan))

    def choose(credential: Credential) -> Target:
        # A target that mints asks the store what is in use, in the name of what is current.
        current = store.standing(ref).current or RotationId("")
        secret = Rotated(ref, plan, current)
        return _candidates(credential, secret, store, site).chosen()

    around = _given(name, plan, store, whole.cluster, site)
    deliveries = [_delivery(copy, around) for copy in plan.deliver]
    refreshes = [_refresh(reader, around) for reader in plan.refresh]
    course = Course(deliveries, refreshes, plan.retirement)
    return FollowUp(ref, course, store=store, targets=choose, notifiers=told, clock=SystemClock())


def _given(
    name: str, plan: SecretPlan, store: Store, cluster: ClusterShape | None, site: Site
) -> Given:
    """Gather what destinations and consumers of a secret are given."""
    from keyturn import rendering
    from keyturn.followers import Given
    from keyturn.kubernetes.cluster import kubernetes

    def signing_secret(other: str) -> Sensitive:
        return planned_admin(other, site, Whole()).secret

    @cache
    def reach(named: ClusterShape | None) -> Kubernetes:
        meant = named or plan.cluster or cluster
        if meant is None:
            raise Misconfigured(
                f"{name}: no Kubernetes cluster is named",
                remedy="Write `cluster` under `refresh` or `defaults` in the plan.",
            )
        return kubernetes(meant, site.cloud.client, signing_secret, site.surroundings)

    def stored(version: Version) -> Sensitive:
        kept = version.credential
        return kept.document if plan.generate is None else kept.secret

    def where(version: Version) -> str:
        return f"{name} version {version.rotation_id}"

    ref = site.cloud.ref(name)
    given = Given(
        name,
        site.cloud.client,
        reach,
        lambda version, how: rendering.render(stored(version), how, where(version)),
        lambda version: rendering.members(stored(version), where(version)),
        signing_secret,
        site.surroundings,
        lambda: store.standing(ref).since,
        ref,
    )
    # Where versions have numbers, somebody may be pinned to one.
    return (
        replace(given, number=partial(store.number, ref))
        if isinstance(store, NumberedStore)
        else given
    )


def _delivery(copy: Copy, around: Given) -> Delivery:
    from keyturn.follow_up import Delivery

    module = _declaring(destinations)[copy.kind]
    destination = module.make(copy.kind, copy.settings, around)
    how = copy.settings.rendering()
    return Delivery(destination, lambda version: around.rendered(version, how))


def _refresh(reader: Reader, around: Given) -> Refresh:
    from keyturn.follow_up import Refresh

    module, settings = _declaring(consumers)[reader.kind], reader.settings
    consumer = module.make(reader.kind, settings, around)
    return Refresh(consumer, settings.verify == "full", settings.IS_COPY)


def _declaring(package: ModuleType) -> Mapping[str, Any]:
    """Return the modules of destinations or consumers, by the kinds that each declares."""
    declaring = [module for module in _modules(package) if hasattr(module, "SHAPES")]
    return {kind: module for module in declaring for kind in module.SHAPES}


def plan_kinds() -> Kinds:
    """Return the kinds of destinations and consumers that a plan may name."""
    from keyturn.follow_plan import Kinds

    places, readers = _declaring(destinations), _declaring(consumers)
    return Kinds(
        {kind: module.SHAPES[kind] for kind, module in places.items()},
        {kind: module.SHAPES[kind] for kind, module in readers.items()},
        {kind: module.FIXES for kind, module in {**places, **readers}.items()},
    )


def read_plan(file: Path) -> Plan:
    """Read a plan, strictly.

    Raises:
        Misconfigured: See `keyturn.plan.load`.
    """
    # Imported here: without a plan, a cold start does not pay for decoding one.
    from keyturn import plan

    return plan.load(file, plan_kinds())


def notifiers_of(addresses: Iterable[str], cloud: Cloud) -> list[Notifier]:
    """Make one for each address; the log is always among them."""
    known = {module.SCHEME: module for module in _notifier_modules()}
    made = []
    for each in dict.fromkeys(("log", *addresses)):
        scheme, _, address = each.partition(":")
        if scheme not in known:
            raise Misconfigured(
                f"there is no way to alert {each[:200]!a}",
                remedy=f"Begin the address with one of {', '.join(sorted(known))}.",
            )
        made.append(known[scheme].notifier(address, cloud.client))
    return made


class _NotifierModule(Protocol):
    SCHEME: str

    def notifier(self, address: str, clients: Clients) -> Notifier: ...


def _notifier_modules() -> list[_NotifierModule]:
    return [module for module in _modules(notifiers) if hasattr(module, "SCHEME")]


_REMEDIES = {
    Happening.FAILED: "Look at the log of the rotation function: it has the step and the remedy.",
    Happening.ABANDONED: "Find out who has changed the secret by hand, and rotate it again.",
}


def _pass_on(event: FollowUpEvent, told: Iterable[Notifier], followed: Followed) -> None:
    """Tell what the service tells of a rotation. The same event has the same id."""
    happening, at = event.happening, event.at
    assert happening is not None  # noqa: S101  # the event has both or neither
    assert at is not None  # noqa: S101
    fact = "its rotation was abandoned"
    if happening is Happening.FAILED:
        fact = "its rotation has failed"
    alert = Alert(
        happening,
        event.ref or SecretRef(""),
        None,
        "",
        fact,
        _REMEDIES[happening],
        at,
        int(at.timestamp()),
    )
    followed.errors += tell(alert, told)


def _ask_again(queue: str | None, message: str) -> None:
    """Have this function called again, later. A message that is lost costs a sweep."""
    if queue is None:
        raise Misconfigured(
            "there is no queue for the second look, without which nothing is retired",
            remedy="Set KEYTURN_LOOK_AGAIN_QUEUE, as the stack does.",
        )
    from keyturn.follow_up import LOOKS_APART

    sqs = _any_client("sqs", None)
    later_s = int(LOOKS_APART.total_seconds())
    ask_aws(
        "SendMessage",
        queue,
        lambda: sqs.send_message(QueueUrl=queue, MessageBody=message, DelaySeconds=later_s),
    )


def _unminted(event: GenerationEvent, module: IssuerModule, surroundings: Surroundings) -> Unminted:
    """Prepare a secret for its first key, which a rotation mints."""
    from keyturn.generators.unminted import NONE, Unminted

    document = Unminted(event.kind, event.options, module.MEMBERS)
    for fact, remedy in document.problems():
        raise Misconfigured(f"the policy {fact}", remedy=remedy)
    if event.overwrite:
        raise Misconfigured(
            f"{event.ref}: a key that it holds would be lost",
            remedy="Leave out `overwrite`; rotate the secret for another key.",
        )
    nobody = Credential(NONE, Sensitive(NONE), event.options)
    module.issuer(surroundings).holder(nobody)
    return document


def ask_to_rotate(name: str, rotation_id: RotationId) -> Callable[[], bool]:
    """Have the secret of that name rotated, by whatever function it names.

    Returns:
        What tells whether the new version is current. Raises Busy once it will never be.
    """
    store = SecretsManager(_client())
    ref = store.full_name(SecretRef(name))
    store.rotate(ref, rotation_id)
    return lambda: store.snapshot(ref, rotation_id).current == rotation_id


@dataclass(frozen=True, slots=True)
class Explanation:
    """How a secret would be rotated.

    Attributes:
        user: Whose credential it is; None if it is nobody's login.
        place: Where it logs in, if it does.
        asked: The strategy that the plan or the secret asks for.
        strategy: What that comes to.
        authority: The ARN of what sets the password, if the plan names it.
        refusals: Why a strategy would not work now; None for one that would.
    """

    user: str | None
    place: str | None
    asked: Strategy
    strategy: Strategy
    authority: str | None
    refusals: Mapping[Strategy, KeyturnError | None]


def explain(name: str, *, plan_file: Path | None, environment: Mapping[str, str]) -> Explanation:
    """Ask the target how the secret of that name would be rotated. Writes nothing.

    For a person at a terminal, with that person's rights: any secret may be named as an admin's.
    """
    settings = replace(
        Settings.from_environment(environment), admin_secrets=("*",), plan_file=plan_file
    )
    site = Site(Aws(), settings, settings.surroundings(lambda: EXPLAIN_S))
    plan = plan_for(name, site)
    store = site.cloud.store(SecretRef(name), _kept_as(plan))
    version = store.current(SecretRef(name))
    current = version.credential
    secret = Rotated(SecretRef(name), plan, version.rotation_id)
    candidates = _candidates(current, secret, store, site)
    refusals = {
        strategy: _refusal(make, version, store.kept(SecretRef(name)))
        for strategy, make in candidates.makers().items()
    }
    strategy = candidates.strategy
    if strategy is Strategy.AUTO:
        is_dual = refusals.get(Strategy.DUAL_PASSWORD, _NOT_OFFERED) is None
        strategy = Strategy.DUAL_PASSWORD if is_dual else candidates.next_best()
    host, port = current.fields.get("host"), current.fields.get("port", "its usual port")
    place = "its service" if host is None else f"{host}:{port}"
    authority = plan.authority if plan is not None else None
    is_login = strategy is not Strategy.GENERATE
    return Explanation(
        current.principal if is_login else None,
        place if is_login else None,
        candidates.strategy,
        strategy,
        authority,
        refusals,
    )


EXPLAIN_S = 30.0
"""How long a person waits for each answer, in seconds, at the most."""

_NOT_OFFERED = Unsupported("this target does not have that strategy", remedy="Use another one.")


def _refusal(
    make: Callable[[], Target], current: Version, kept: Iterable[Version]
) -> KeyturnError | None:
    """Return why *make*'s strategy would not get past create, or could not log in at all."""
    try:
        target = make()
        if isinstance(target, Minting):
            target.check(current.credential, kept)  # To create would be to make a key.
        else:
            target.create(current.credential, kept)
        if not target.accepts(current.credential):
            return Denied(
                f"the target refuses {current.credential.principal!r} with what is current",
                remedy="Rotate the secret: any version kept that still works is found.",
            )
    except KeyturnError as refusal:
        return refusal
    return None


def _authorise(
    ref: SecretRef, settings: Settings, store: SecretsManager, function_arn: str
) -> None:
    """Refuse to be somebody's deputy: whoever may invoke us may not thereby rotate anything."""
    if matches(ref, settings.secrets, Aws()):
        return
    # Invoked through a version or alias, the function's ARN carries it as an eighth part.
    unqualified = ":".join(function_arn.split(":")[:7])
    if store.rotated_by(ref) not in {function_arn, unqualified}:
        raise Denied(
            f"{ref} is not rotated by this function",
            remedy="Set this function as the secret's rotation function, or KEYTURN_SECRETS.",
        )


def matches(ref: str, patterns: tuple[str, ...], cloud: Cloud) -> bool:
    """Tell whether one of *patterns* means the secret, by any of its names."""
    names = cloud.names(ref)
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def _is_arn(name: str) -> bool:
    return name.startswith("arn:")


def _whole_plan(settings: Settings) -> Plan:
    if settings.plan_file is None:
        raise Misconfigured(
            "there is no plan, so nothing follows a rotation",
            remedy="Put a keyturn.yaml beside the function, or name it in KEYTURN_PLAN.",
        )
    return read_plan(settings.plan_file)


def plan_for(ref: str, site: Site) -> SecretPlan | None:
    """Return what is planned for a secret, if there is a plan and that has it."""
    if site.settings.plan_file is None:
        return None
    plan = read_plan(site.settings.plan_file)
    found = (plan.for_secret(name) for name in site.cloud.names(ref))
    return next((each for each in found if each is not None), None)


@dataclass(frozen=True, slots=True)
class Rotated:
    """What is rotated, and what is planned for it. A person may give a name, not an ARN."""

    ref: SecretRef
    plan: SecretPlan | None
    rotation_id: RotationId

    @property
    def members_of(self) -> MembersOf | Whole:
        """Say how its value is read."""
        return _kept_as(self.plan)


def _kept_as(plan: SecretPlan | None) -> MembersOf | Whole:
    return _members_of if plan is None or plan.generate is None else Whole()


@dataclass(frozen=True, slots=True)
class _Whole:
    """A target that is its own strategy; one that mints has none of those for passwords."""

    strategy: Strategy
    target: Target

    def chosen(self) -> Target:
        return self.target

    def makers(self) -> Mapping[Strategy, Callable[[], Target]]:
        return {self.strategy: self.chosen}

    def next_best(self) -> Strategy:
        return self.strategy


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Every strategy that a secret could be rotated by, made when asked for."""

    strategy: Strategy
    engine: PasswordEngine
    fresh: Generate
    pair: Callable[[str], Pair] | None
    admin: Admin | None
    authority: Callable[[], Authority] | None
    failed_logins: int | None

    def chosen(self) -> Target:
        match self.strategy:
            case Strategy.SINGLE_USER:
                return self.single_user()
            case Strategy.DUAL_PASSWORD:
                return self.dual_password()
            case Strategy.ALTERNATING_USERS:
                return self.alternating_users()
            case Strategy.AUTO:
                return BestOffered(self.dual_password(), self.makers()[self.next_best()]())
            case Strategy.GENERATE:  # `_candidates` has seen to it
                raise AssertionError("a secret that is generated has no engine")

    def makers(self) -> Mapping[Strategy, Callable[[], Target]]:
        return {
            Strategy.DUAL_PASSWORD: self.dual_password,
            Strategy.ALTERNATING_USERS: self.alternating_users,
            Strategy.SINGLE_USER: self.single_user,
        }

    def next_best(self) -> Strategy:
        """Return what is used where two passwords are not offered."""
        return Strategy.ALTERNATING_USERS if self.pair else Strategy.SINGLE_USER

    def single_user(self) -> Target:
        if self.authority is not None:
            return PlatformUser(self.engine, self.fresh, self.authority)
        return SingleUser(self.engine, self.fresh, self.failed_logins)

    def dual_password(self) -> DualPassword:
        return DualPassword(self.engine, self.fresh, self.admin, self.failed_logins)

    def alternating_users(self) -> Target:
        if self.pair is None or self.admin is None:
            raise Unsupported(
                "no two users are named that could take turns",
                remedy="Name `users` and `admin` in the plan, or `masterarn` in the secret.",
            )
        return AlternatingUsers(self.engine, self.fresh, self.pair, self.admin)


def _candidates(
    credential: Credential, secret: Rotated, store: Store, site: Site
) -> _Candidates | _Whole:
    plan, settings, surroundings = secret.plan, site.settings, site.surroundings
    if plan is not None and plan.generate is not None:
        return _Whole(plan.strategy, Generated(plan.generate))
    module = _module(credential)
    policy = plan.password if plan is not None else generate.PasswordPolicy()
    narrowed = _narrowed(policy, module)

    def fresh() -> Sensitive:
        return generate.password(narrowed)

    asked = plan.strategy if plan is not None else settings.strategy
    if isinstance(module, IssuerModule):
        _require_automatic(module, asked)
        issuer = module.issuer(_with_plan(plan, site))
        # The whole name: the keys' own names follow from it.
        place = Place(store, store.full_name(secret.ref), secret.rotation_id)
        pause = pause_within(surroundings)
        lost_after = LANDING if settings.has_one_worker else STALE_AFTER
        target = MintedKeys(issuer, place, SystemClock(), pause, lost_after=lost_after)
        return _Whole(Strategy.AUTO, target)
    if isinstance(module, WholeModule):
        return _Whole(_own_strategy(module, asked), module.target(surroundings, fresh))
    strategy, pair, admin = (
        _planned(plan) if plan is not None else _documented(credential, settings.strategy)
    )

    def admin_login() -> Credential:
        return (_stored_admin if plan is None else planned_admin)(admin or "", site)

    def authority() -> Authority:
        return _authority(secret, store, site)

    return _Candidates(
        strategy,
        module.engine(surroundings),
        fresh,
        pair,
        admin_login if admin else None,
        authority if plan is not None and plan.authority else None,
        plan.failed_logins if plan is not None else None,
    )


def _with_plan(plan: SecretPlan | None, site: Site) -> Surroundings:
    """Add what the plan says to an issuer, and the admin's credential, read when it is needed."""
    if plan is None:
        return site.surroundings
    name = plan.admin
    admin = (lambda: planned_admin(name, site)) if name is not None else None
    return replace(site.surroundings, declared=plan.http, admin=admin)


def _narrowed(policy: generate.PasswordPolicy, module: TargetModule) -> generate.PasswordPolicy:
    """Leave out what the target's secrets can never have, whatever the plan says."""
    if not isinstance(module, NarrowModule):
        return policy
    excluded = "".join(each for each in policy.alphabet if each not in module.ALPHABET)
    narrow = replace(policy, exclude=policy.exclude + excluded)
    has_symbols = not narrow.alphabet.isalnum()
    symbol = generate.CharacterClass.SYMBOL
    required = (each for each in narrow.require if has_symbols or each is not symbol)
    return replace(narrow, require=tuple(required))


def _own_strategy(module: WholeModule, asked: Strategy | None) -> Strategy:
    (own,) = module.STRATEGIES
    if asked in {None, Strategy.AUTO, own}:
        return own
    raise Unsupported(
        f"{module.TITLE} have the strategy {own} only",
        remedy=f"Write `strategy: {own}`, or `strategy: {Strategy.AUTO}`.",
    )


def _require_automatic(module: IssuerModule, asked: Strategy | None) -> None:
    if asked not in {None, Strategy.AUTO}:
        raise Unsupported(
            f"{module.TITLE}: there is one way only, and none of those for passwords",
            remedy=f"Write `strategy: {Strategy.AUTO}`, or leave the secret out of the plan.",
        )


MARGIN_S = 10.0
"""Left of the function's time when a wait ends: for a call that gets no answer, and the report."""


def pause_within(surroundings: Surroundings) -> Pause:
    """Return what waits while the function has time for it."""

    def pause(seconds: float) -> bool:
        if surroundings.remaining_s() - seconds < MARGIN_S:
            return False
        time.sleep(seconds)
        return True

    return pause


_Choice = tuple[Strategy, Callable[[str], Pair] | None, str | None]


def _planned(plan: SecretPlan) -> _Choice:
    if plan.users is None:
        return plan.strategy, None, plan.admin
    pair = Pair(plan.users, plan.owner or plan.users[0], is_declared=True)
    return plan.strategy, lambda _: pair, plan.admin


def _documented(credential: Credential, wanted: Strategy | None) -> _Choice:
    """Choose as the deployment says, or as the official templates do: `masterarn`, two users."""
    admin = credential.fields.get("masterarn")
    if admin is None:
        return wanted or Strategy.SINGLE_USER, None, None
    if not isinstance(admin, str):
        raise Misconfigured(
            f"the secret's 'masterarn' is {kind_of(admin)}, not a string",
            remedy="Name the admin secret by its full ARN, or remove `masterarn`.",
        )
    return wanted or Strategy.ALTERNATING_USERS, pair_by_suffix, admin


def _members_of(engine: object) -> Members:
    """Return what the documents of an engine call principal and secret."""
    module = _module_of(engine)
    return module.MEMBERS if isinstance(module, NamingModule) else Members()


def _issuer_module(engine: object) -> IssuerModule | None:
    """Return what mints the keys of an engine; None if passwords are set there, or nothing is."""
    module = _module_of(engine)
    return module if isinstance(module, IssuerModule) else None


def _module_of(engine: object) -> EngineModule | WholeModule | IssuerModule | None:
    """Return what rotates the secrets of an engine; None if nothing here does.

    Modules that are named like it come first: the others need not be imported, with what they need.
    """
    if not isinstance(engine, str):
        return None
    for module in _modules(targets, like=engine.replace("-", "_")):
        if engine in getattr(module, "ENGINES", ()):
            return _as_target(module)
    return None


def _as_target(module: Any) -> EngineModule | WholeModule | IssuerModule | None:
    return module if isinstance(module, EngineModule | WholeModule | IssuerModule) else None


def _module(credential: Credential) -> EngineModule | WholeModule | IssuerModule:
    wanted = credential.fields.get("engine")
    if not isinstance(wanted, str):
        raise Misconfigured(
            f"the secret's 'engine' is {kind_of(wanted)}, not the name of one",
            remedy='Add "engine" to the secret\'s value, for example "postgres".',
        )
    if (found := _module_of(wanted)) is not None:
        return found
    known = [engine for module in target_modules() for engine in module.ENGINES]
    raise Unsupported(
        f"this function has no target for the engine {wanted[:40]!a}",
        remedy=f"Use one of {', '.join(sorted(known))}, or deploy the function made for it.",
    )


class TargetModule(Protocol):
    """A module of `keyturn.targets`; its docstring says what these are."""

    TITLE: str
    ENGINES: tuple[str, ...]
    STRATEGIES: tuple[Strategy, ...]


@runtime_checkable
class WholeModule(TargetModule, Protocol):
    """One whose target is its own strategy."""

    def target(self, surroundings: Surroundings, generate: Generate) -> Target:
        """Make the target."""
        ...


@runtime_checkable
class EngineModule(TargetModule, Protocol):
    """One with an engine, for any of its strategies."""

    def engine(self, surroundings: Surroundings) -> PasswordEngine:
        """Make the engine."""
        ...


@runtime_checkable
class NamingModule(TargetModule, Protocol):
    """One that says what its documents call the principal and its secret."""

    MEMBERS: Members


@runtime_checkable
class NarrowModule(TargetModule, Protocol):
    """One whose secrets may have these characters only."""

    ALPHABET: str


@runtime_checkable
class IssuerModule(NamingModule, Protocol):
    """One whose keys are minted."""

    def issuer(self, surroundings: Surroundings) -> KeyIssuer:
        """Make the issuer."""
        ...


def target_modules() -> list[EngineModule | WholeModule | IssuerModule]:
    """Return what this installation, or this function's package, can rotate."""
    return [found for module in _modules(targets) if (found := _as_target(module)) is not None]


def _authority(secret: Rotated, store: Store, site: Site) -> Authority:
    """Build what the plan names. On AWS it must live where the secret does."""
    name = (secret.plan.authority if secret.plan is not None else None) or ""
    ref = store.full_name(secret.ref)
    if _is_arn(name) is not _is_arn(ref):
        raise Misconfigured(
            f"{ref} and its `authority` are in different clouds",
            remedy="Name an instance or a cluster of the secret's own cloud.",
        )
    return _authority_on_aws(name, ref, site) if _is_arn(name) else _authority_on_google(name, site)


def _authority_on_aws(arn: str, ref: SecretRef, site: Site) -> Authority:
    _, _, service, region, *_ = arn.split(":")
    if _home(arn) != _home(ref):
        raise Misconfigured(
            f"{ref} and its `authority` are in different regions or accounts",
            remedy="Name an instance or a cluster of the secret's own region and account.",
        )
    known: list[str] = []
    for module in _authority_modules():
        if service == module.SERVICE:
            return module.authority(site.cloud.client(service, region), arn, site.surroundings)
        known.append(module.SERVICE)
    raise Unsupported(
        f"there is no authority for the service {service!r}",
        remedy=f"Name something of {', '.join(sorted(known))} as the plan's `authority`.",
    )


def _authority_on_google(name: str, site: Site) -> Authority:
    """Its project may be another: IAM says whether this function may set passwords there."""
    for module in _authority_modules():
        if isinstance(module, _NamedModule) and module.NAMES.fullmatch(name):
            client = site.cloud.client(module.SERVICE, None)
            return module.authority(client, name, site.surroundings)
    raise Unsupported(
        f"there is no authority for {name[:200]!a}",
        remedy="Name an instance of Cloud SQL as the plan's `authority`.",
    )


def _home(arn: str) -> tuple[str, str, str]:
    _, partition, _, region, account, *_ = arn.split(":")
    return partition, region, account


class _AuthorityModule(Protocol):
    SERVICE: str

    def authority(self, client: Any, name: str, surroundings: Surroundings) -> Authority: ...


@runtime_checkable
class _NamedModule(_AuthorityModule, Protocol):
    """One of Google's: nothing in a name there tells the service."""

    NAMES: re.Pattern[str]


def _authority_modules() -> list[_AuthorityModule]:
    return [module for module in _modules(authorities) if hasattr(module, "SERVICE")]


def _modules(package: ModuleType, *, like: str = "") -> Iterator[Any]:
    """Import what is in *package*, one by one: what is there has been packed for this function.

    Those whose names are a part of *like* come first.
    """
    names = [module.name for module in pkgutil.iter_modules(package.__path__)]
    for name in sorted(names, key=lambda name: name not in like):
        yield importlib.import_module(f"{package.__name__}.{name}")


def planned_admin(name: str, site: Site, members_of: MembersOf | Whole | None = None) -> Credential:
    """Read a secret that a plan names, if the deployment allows it.

    A plan may give the name alone: then it is one of this very place, and so may be what a pattern
    of full names means here.
    """
    allowed = site.settings.admin_secrets
    # An ARN of another account may end in the same name.
    here = () if _is_arn(name) else map(site.cloud.meant, allowed)
    _require_allowed(name, (*allowed, *here), site)
    return site.cloud.read(site.cloud.ref(name), members_of or _members_of)


def _stored_admin(name: str, site: Site) -> Credential:
    """Read a secret that a secret's own value names. Whoever can write that is trusted less."""
    _require_allowed(name, site.settings.admin_secrets, site)
    return site.cloud.read(site.cloud.ref(name), _members_of)


def _require_allowed(name: str, allowed: tuple[str, ...], site: Site) -> None:
    if not matches(name, allowed, site.cloud):
        raise Denied(
            f"the admin secret {name[:200]!a} is not one that KEYTURN_ADMIN_SECRETS allows",
            remedy="List the admin secret in KEYTURN_ADMIN_SECRETS, if it is the right one.",
        )


def _client() -> SecretsManagerClient:
    import boto3

    return boto3.client("secretsmanager", config=_config(TRIES))


def _any_client(service: str, region: str | None) -> Any:
    if service.endswith(".googleapis.com"):
        raise Unsupported(
            f"{service} is a service of Google, and this function runs on AWS",
            remedy="Remove it from the plan, or let a function on Google Cloud do that.",
        )
    import boto3

    make: Any = boto3.client  # whose types know services by their literal names
    return make(service, region_name=region, config=_config(AUTHORITY_TRIES))


def _config(tries: int) -> Config:
    from botocore.config import Config

    return Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": tries},
    )


def _list(value: str) -> tuple[str, ...]:
    return tuple(item for part in value.split(",") if (item := part.strip()))


def _strategy(value: str) -> Strategy | None:
    known = [each for each in Strategy if each is not Strategy.GENERATE]  # a plan says what
    if not value or value in known:
        return Strategy(value) if value else None
    raise Misconfigured(
        "KEYTURN_STRATEGY is no strategy", remedy=f"Use one of {', '.join(known)}, or none."
    )


def _has_one_worker(value: str) -> bool:
    if value in {"", "true"}:
        return value == "true"
    raise Misconfigured(
        "KEYTURN_ONE_WORKER is neither `true` nor left out",
        remedy="Write `true` where the function's reserved concurrency is 1, else leave it out.",
    )


def _plan_file(environment: Mapping[str, str]) -> Path | None:
    root = Path(environment.get("LAMBDA_TASK_ROOT", "."))
    if named := environment.get("KEYTURN_PLAN"):
        return root / named
    usual = root / "keyturn.yaml"
    return usual if usual.is_file() else None


class SystemClock:
    """A `Clock`."""

    def now(self) -> datetime:
        """See `Clock.now`."""
        return datetime.now(UTC)
