"""Builds what an entry point runs. The only module that knows both the core and the adapters.

A secret in AWS's documented format needs no plan: `engine` picks the target, and `masterarn` means
alternating users. A plan, where the deployment has one, says more and wins.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from keyturn import generate, targets
from keyturn.boundary import RotationEvent, secret_name
from keyturn.document import kind_of
from keyturn.errors import Denied, Misconfigured, Unsupported
from keyturn.model import Credential, SecretRef, Sensitive, Surroundings
from keyturn.ports import PasswordEngine, SecretStore, Target
from keyturn.rotation import Rotation
from keyturn.stores.secrets_manager import SecretsManager
from keyturn.strategies import AlternatingUsers, Pair, SingleUser, pair_by_suffix

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

    from keyturn.plan import SecretPlan

CONNECT_TIMEOUT_S, READ_TIMEOUT_S, TRIES = 2, 5, 3
"""Per call to a cloud API. A step makes at most four, so it ends within the function's time."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the deployment says, from the function's environment.

    Attributes:
        secrets: Patterns of secrets that may be rotated, besides those that name this function.
        admin_secrets: Patterns of secrets whose credential may be used as an admin's.
        plaintext_hosts: Hosts that may be reached without TLS.
        ca_file: A PEM file with private authorities.
        plan_file: The plan, if there is one.
    """

    secrets: tuple[str, ...] = ()
    admin_secrets: tuple[str, ...] = ()
    plaintext_hosts: frozenset[str] = field(default_factory=frozenset)
    ca_file: str | None = None
    plan_file: Path | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Read KEYTURN_* variables.

        Raises:
            Misconfigured: An unknown KEYTURN_* variable, most likely a misspelt one.
        """
        unknown = {key for key in environment if key.startswith("KEYTURN_")} - _VARIABLES
        if unknown:
            raise Misconfigured(
                f"unknown environment variable {min(unknown)}",
                remedy=f"Use one of {', '.join(sorted(_VARIABLES))}.",
            )
        return cls(
            _list(environment.get("KEYTURN_SECRETS", "")),
            _list(environment.get("KEYTURN_ADMIN_SECRETS", "")),
            frozenset(_list(environment.get("KEYTURN_PLAINTEXT_HOSTS", ""))),
            environment.get("KEYTURN_CA_FILE") or None,
            _plan_file(environment),
        )


_VARIABLES = {
    "KEYTURN_SECRETS",
    "KEYTURN_ADMIN_SECRETS",
    "KEYTURN_PLAINTEXT_HOSTS",
    "KEYTURN_CA_FILE",
    "KEYTURN_PLAN",
}


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
    store = SecretsManager(_client(), rotation_token=event.rotation_token)
    _authorise(event.ref, settings, store, function_arn)
    surroundings = Surroundings(remaining_s, settings.plaintext_hosts, settings.ca_file)
    plan = _plan_for(event.ref, settings)

    def choose(credential: Credential) -> Target:
        return _target(credential, plan, settings, surroundings, store)

    return Rotation(event.ref, event.rotation_id, store=store, targets=choose, clock=_SystemClock())


def _authorise(
    ref: SecretRef, settings: Settings, store: SecretsManager, function_arn: str
) -> None:
    """Refuse to be somebody's deputy: whoever may invoke us may not thereby rotate anything."""
    if _matches(ref, settings.secrets):
        return
    # Invoked through a version or alias, the function's ARN carries it as an eighth part.
    unqualified = ":".join(function_arn.split(":")[:7])
    if store.rotated_by(ref) not in {function_arn, unqualified}:
        raise Denied(
            f"{ref} is not rotated by this function",
            remedy="Set this function as the secret's rotation function, or KEYTURN_SECRETS.",
        )


def _matches(ref: str, patterns: tuple[str, ...]) -> bool:
    names = {ref, secret_name(SecretRef(ref))} if ref.startswith("arn:") else {ref}
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def _plan_for(ref: SecretRef, settings: Settings) -> SecretPlan | None:
    if settings.plan_file is None:
        return None
    # Imported here: without a plan, a cold start does not pay for decoding one.
    from keyturn import plan

    return plan.load(settings.plan_file).for_secret(secret_name(ref))


def _target(
    credential: Credential,
    plan: SecretPlan | None,
    settings: Settings,
    surroundings: Surroundings,
    store: SecretStore,
) -> Target:
    engine = _engine(credential, surroundings)
    policy = plan.password if plan is not None else generate.PasswordPolicy()

    def fresh() -> Sensitive:
        return generate.password(policy)

    pair, admin = _pair_and_admin(credential, plan)
    if admin is None:
        return SingleUser(engine, fresh)
    return AlternatingUsers(engine, fresh, pair, lambda: _admin(admin, settings, store))


def _engine(credential: Credential, surroundings: Surroundings) -> PasswordEngine:
    wanted = credential.fields.get("engine")
    if not isinstance(wanted, str):
        raise Misconfigured(
            f"the secret's 'engine' is {kind_of(wanted)}, not the name of one",
            remedy='Add "engine" to the secret\'s value, for example "postgres".',
        )
    known: list[str] = []
    for module in _target_modules():
        if wanted in module.ENGINES:
            return module.engine(surroundings)
        known += module.ENGINES
    raise Unsupported(
        f"this function has no target for the engine {wanted[:40]!a}",
        remedy=f"Use one of {', '.join(sorted(known))}, or deploy the function made for it.",
    )


class _TargetModule(Protocol):
    ENGINES: tuple[str, ...]

    def engine(self, surroundings: Surroundings) -> PasswordEngine: ...


def _target_modules() -> list[_TargetModule]:
    names = [module.name for module in pkgutil.iter_modules(targets.__path__)]
    modules = [importlib.import_module(f"{targets.__name__}.{name}") for name in names]
    return [module for module in modules if hasattr(module, "ENGINES")]


def _pair_and_admin(
    credential: Credential, plan: SecretPlan | None
) -> tuple[Callable[[str], Pair], str | None]:
    """Say who takes turns and which secret holds their admin; no admin means a single user."""
    if plan is not None:
        planned = Pair(plan.users, plan.owner) if plan.users and plan.owner else None
        return (lambda _: planned) if planned else pair_by_suffix, plan.admin
    admin = credential.fields.get("masterarn")
    if admin is not None and not isinstance(admin, str):
        raise Misconfigured(
            f"the secret's 'masterarn' is {kind_of(admin)}, not a string",
            remedy="Name the admin secret by its full ARN, or remove `masterarn`.",
        )
    return pair_by_suffix, admin


def _admin(name: str, settings: Settings, store: SecretStore) -> Credential:
    if not _matches(name, settings.admin_secrets):
        raise Denied(
            f"the admin secret {name[:200]!a} is not one that KEYTURN_ADMIN_SECRETS allows",
            remedy="List the admin secret in KEYTURN_ADMIN_SECRETS, if it is the right one.",
        )
    return store.current(SecretRef(name)).credential


def _client() -> SecretsManagerClient:
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": TRIES},
    )
    return boto3.client("secretsmanager", config=config)


def _list(value: str) -> tuple[str, ...]:
    return tuple(item for part in value.split(",") if (item := part.strip()))


def _plan_file(environment: Mapping[str, str]) -> Path | None:
    root = Path(environment.get("LAMBDA_TASK_ROOT", "."))
    if named := environment.get("KEYTURN_PLAN"):
        return root / named
    usual = root / "keyturn.yaml"
    return usual if usual.is_file() else None


class _SystemClock:
    """A `Clock`."""

    def now(self) -> datetime:
        return datetime.now(UTC)
