"""The plan: `keyturn.yaml`, which secrets are rotated and how, read strictly into frozen settings.

    text -> tree      YAML, less what surprises: no key twice, no merge keys, `no` is text
    tree -> shapes    unknown keys, types, what must come together (`msgspec`)
    shapes -> Plan    names and password policies

Every refusal is a `Misconfigured` that names the file, the place and the fix. A value is never
quoted: people paste secrets where they do not belong.

The `...Shape` classes are the file format, and `schema` is the same format for editors. They are
not for callers, who get a `Plan`. Wiring and the command line call this module.

Imports msgspec and PyYAML, which cost a cold start tens of milliseconds: import this module inside
the function that has found a plan to read. Those who only make passwords need `generate` alone.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import msgspec
import yaml

from keyturn import follow_plan, generate, http_api_plan
from keyturn.errors import Misconfigured
from keyturn.follow_plan import Copy, Deliver, Kinds, Reader, Refresh, Retire
from keyturn.follow_up import Retirement, When
from keyturn.generate import PasswordPolicy
from keyturn.generators import kinds
from keyturn.generators.policy import Policy
from keyturn.generators.text import AnyCharset, Exclude, Length, Require
from keyturn.http_api import HttpApi
from keyturn.http_api_plan import HttpApiShape
from keyturn.kubernetes.cluster import ClusterShape
from keyturn.model import Strategy
from keyturn.shapes import (
    Place,
    Shape,
    keys,
    mapping,
    refusal,
    refuse_unknown,
    require_keys,
    shaped,
    shown,
)


@dataclass(frozen=True, slots=True)
class SecretPlan:
    """How one secret is rotated, and what follows.

    Attributes:
        strategy: Who gets the new password.
        users: The two logins that take turns, if two do.
        owner: The role whose privileges both logins act with; None is the first of them.
        admin: The name or ARN of the secret with the admin's login, if there is one.
        password: Which passwords may be made. Checked.
        authority: The name of what sets the password in place of a login, if something does.
        generate: What is generated, where the value is nobody's login.
        failed_logins: How many logins of the secret's own user may fail in a rotation.
        deliver: Where copies of it go.
        refresh: Who must pick up a new version.
        cluster: The Kubernetes cluster that these two mean, unless they name one.
        retirement: When the old credential dies.
        http: The API that makes the key, where it is one that the plan declares.
    """

    strategy: Strategy
    users: tuple[str, str] | None
    owner: str | None
    admin: str | None
    password: PasswordPolicy
    authority: str | None = None
    generate: Policy | None = None
    failed_logins: int | None = None
    deliver: tuple[Copy, ...] = ()
    refresh: tuple[Reader, ...] = ()
    cluster: ClusterShape | None = None
    retirement: Retirement = field(default_factory=Retirement)

    @property
    def is_followed(self) -> bool:
        """Tell whether anything follows a rotation."""
        return bool(self.deliver or self.refresh) or self.retirement.when is not When.NEVER

    http: HttpApi | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a plan file says.

    Attributes:
        alerts: The addresses of those who are told.
        cluster: The Kubernetes cluster that all secrets mean, unless they name one.
    """

    secrets: Mapping[str, SecretPlan]
    alerts: tuple[str, ...] = ()
    cluster: ClusterShape | None = None

    def for_secret(self, name: str) -> SecretPlan | None:
        """Return what is planned for the secret of that name; None if it is not in the plan."""
        return self.secrets.get(name)


_DEFAULT = PasswordPolicy()
MIN_FAILED_LOGINS = 2
"""Current and pending: with fewer, a rotation that died after set could not go on."""

_Name = Annotated[str, msgspec.Meta(extra_json_schema={"minLength": 1})]


class PasswordShape(Shape, frozen=True, kw_only=True):
    """Which passwords may be made. Every password begins with a letter."""

    length: Length = _DEFAULT.length
    charset: AnyCharset = _DEFAULT.charset
    exclude: Exclude = _DEFAULT.exclude
    require: Require = _DEFAULT.require


class _SecretShape(Shape, frozen=True, kw_only=True, tag_field="strategy"):
    """What every strategy has."""

    password: Annotated[
        PasswordShape,
        msgspec.Meta(
            description="Which passwords may be made: 40 characters of the default alphabet, all"
            " classes, unless said otherwise."
        ),
    ] = msgspec.field(default_factory=PasswordShape)
    deliver: Deliver | msgspec.UnsetType = msgspec.UNSET
    refresh: Refresh | msgspec.UnsetType = msgspec.UNSET


_FailedLogins = Annotated[
    int,
    msgspec.Meta(
        extra_json_schema={"minimum": MIN_FAILED_LOGINS},
        description="How many logins of the user a rotation may fail, for a server that locks"
        " accounts: fewer than lock it. One for each version kept, unless said otherwise.",
    ),
]


_ARN = r"arn:[a-z-]+:[a-z0-9-]+:[a-z0-9-]+:[0-9]{12}:[a-z-]+:[A-Za-z0-9._-]+"
"""Of a thing with a region and an account. Which kinds there are, each authority knows."""

_INSTANCE = r"projects/[a-z0-9.:-]+/instances/[a-z0-9-]+"
"""Of Cloud SQL. What a project's id may be, it knows."""


class SingleUserShape(_SecretShape, frozen=True, kw_only=True, tag=Strategy.SINGLE_USER.value):
    """One login changes its own password, or an authority does it: RDS, or Cloud SQL."""

    authority: (
        Annotated[
            str,
            msgspec.Meta(
                description="The ARN of the instance or cluster whose master user this is, or the"
                " instance of Cloud SQL whose user it is, `projects/PROJECT/instances/NAME`. Its"
                " service sets the password, whether or not the present one works.",
                extra_json_schema={"pattern": f"^({_ARN}|{_INSTANCE})$"},
            ),
        ]
        | msgspec.UnsetType
    ) = msgspec.UNSET
    failed_logins: _FailedLogins | msgspec.UnsetType = msgspec.UNSET


_Users = Annotated[
    tuple[_Name, _Name],
    msgspec.Meta(
        description="The two logins that take turns; the secret holds one of them now.",
        extra_json_schema={"uniqueItems": True},
    ),
]
_Owner = Annotated[
    _Name,
    msgspec.Meta(
        description="The role that owns what either login makes; the first of the two unless said"
        " otherwise. Engines without owners ignore it."
    ),
]
_Admin = Annotated[
    _Name, msgspec.Meta(description="The name or ARN of the secret with the admin's login.")
]


class DualPasswordShape(_SecretShape, frozen=True, kw_only=True, tag=Strategy.DUAL_PASSWORD.value):
    """One login holds two passwords at a time; the admin sets them, or the login itself."""

    admin: _Admin | msgspec.UnsetType = msgspec.UNSET
    retire: Retire | msgspec.UnsetType = msgspec.UNSET
    failed_logins: _FailedLogins | msgspec.UnsetType = msgspec.UNSET


class AlternatingUsersShape(
    _SecretShape, frozen=True, kw_only=True, tag=Strategy.ALTERNATING_USERS.value
):
    """Two logins take turns; an admin sets the one that is not in use."""

    users: _Users
    owner: _Owner | msgspec.UnsetType = msgspec.UNSET
    admin: _Admin
    retire: Retire | msgspec.UnsetType = msgspec.UNSET


class AutoShape(_SecretShape, frozen=True, kw_only=True, tag=Strategy.AUTO.value):
    """The best that the target offers: two passwords, else two users if named, else one."""

    users: _Users | msgspec.UnsetType = msgspec.UNSET
    owner: _Owner | msgspec.UnsetType = msgspec.UNSET
    admin: _Admin | msgspec.UnsetType = msgspec.UNSET
    failed_logins: _FailedLogins | msgspec.UnsetType = msgspec.UNSET
    retire: Retire | msgspec.UnsetType = msgspec.UNSET
    http: (
        Annotated[
            HttpApiShape, msgspec.Meta(description="The HTTP API that makes the key, if one does.")
        ]
        | msgspec.UnsetType
    ) = msgspec.UNSET


class GenerateShape(
    Shape, frozen=True, kw_only=True, tag_field="strategy", tag=Strategy.GENERATE.value
):
    """No login: the value is generated, and keeps what verifiers need of the one before."""

    generate: Annotated[kinds.AnyPolicy, msgspec.Meta(description="What to make.")]
    deliver: Deliver | msgspec.UnsetType = msgspec.UNSET
    refresh: Refresh | msgspec.UnsetType = msgspec.UNSET


_AnySecret = SingleUserShape | DualPasswordShape | AlternatingUsersShape | AutoShape | GenerateShape
_SHAPES: Mapping[str, type[_AnySecret]] = {
    Strategy.SINGLE_USER: SingleUserShape,
    Strategy.DUAL_PASSWORD: DualPasswordShape,
    Strategy.ALTERNATING_USERS: AlternatingUsersShape,
    Strategy.AUTO: AutoShape,
    Strategy.GENERATE: GenerateShape,
}
_COMPLETEST_FIRST = (AlternatingUsersShape, *_SHAPES.values())


class DefaultsShape(Shape, frozen=True, kw_only=True):
    """What holds for all secrets."""

    alerts: Annotated[
        tuple[_Name, ...],
        msgspec.Meta(description="Who is told: `sns:` and an ARN, `eventbridge:` and a bus."),
    ] = ()
    cluster: (
        Annotated[
            ClusterShape,
            msgspec.Meta(description="The Kubernetes cluster that is meant, unless one is named."),
        ]
        | msgspec.UnsetType
    ) = msgspec.UNSET


class PlanShape(Shape, frozen=True, kw_only=True):
    """Which secrets keyturn rotates, and how."""

    version: Annotated[
        Literal[1], msgspec.Meta(description="The version of this format. Always 1.")
    ]
    secrets: Annotated[
        dict[str, _AnySecret],
        msgspec.Meta(description="By the name that the secret has in its store."),
    ]
    defaults: Annotated[DefaultsShape, msgspec.Meta(description="What holds for all secrets.")] = (
        msgspec.field(default_factory=DefaultsShape)
    )


def load(path: Path, known: Kinds) -> Plan:
    """Read a plan file. *known* is what may follow a rotation.

    Raises:
        Misconfigured: The file cannot be read, or `parse` refuses what it holds.
    """
    return parse(_text(path), known, source=str(path))


def parse(text: str, known: Kinds, *, source: str) -> Plan:
    """Read the text of a plan.

    Args:
        text: YAML.
        known: The kinds of destinations and consumers.
        source: The file's name, for messages.

    Raises:
        Misconfigured: Names the file, the place in it and the fix, and quotes no value.
    """
    root = Place(source)
    top = mapping(_tree(text, root), root, "Write `version: 1` and `secrets:`; see docs/plan.md.")
    # Before the unknown keys: a newer format may well have keys that this one does not know.
    if top.get("version", 1) != 1:
        raise refusal(root.at("version"), "is not 1", _FIXES["version"])
    require_keys(top, PlanShape, root, _FIXES)
    cluster = None
    if "defaults" in top:
        at = root.at("defaults")
        defaults = mapping(top["defaults"], at, _FIXES["defaults"])
        require_keys(defaults, DefaultsShape, at, _FIXES)
        cluster = follow_plan.cluster_in(defaults, at)
    # The secrets are read one by one, so that a refusal can name the secret.
    read = shaped({**top, "secrets": {}}, PlanShape, root, _FIXES)
    for address in read.defaults.alerts:
        if not re.fullmatch(_ALERTS, address):
            raise refusal(root.at("defaults.alerts"), "has no such address", _FIXES["alerts"])
    place = root.at("secrets")
    entries = mapping(top["secrets"], place, _FIXES["secrets"])
    plans = {name: _secret(name, entry, place.at(name), known) for name, entry in entries.items()}
    return Plan(MappingProxyType(plans), read.defaults.alerts, cluster)


def schema(known: Kinds) -> dict[str, object]:
    """Return the file format as a JSON Schema. `docs/keyturn.schema.json` is its rendering."""
    shapes = msgspec.json.schema(PlanShape)
    named, components = follow_plan.schema_of(known)
    shapes["$defs"] = {**shapes["$defs"], **components, **named}
    for shape in shapes["$defs"].values():
        for key, kind in (("deliver", "Destination"), ("consumers", "Consumer")):
            if key in shape.get("properties", {}):
                shape["properties"][key]["items"] = {"$ref": f"#/$defs/{kind}"}
    shapes = _unindented(shapes)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "keyturn.yaml",
        **shapes,
    }


def _unindented(tree: object) -> Any:
    """Return *tree* with the docstrings in it as Python 3.13 and later have them."""
    match tree:
        case str():
            return inspect.cleandoc(tree)
        case list():
            return [_unindented(each) for each in tree]
        case dict():
            return {key: _unindented(each) for key, each in tree.items()}
        case _:
            return tree


_ALERTS = (
    r"sns:arn:[a-z-]+:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_.-]+|eventbridge:[\w.:/-]+|log"
    r"|pubsub:projects/[\w.:-]+/topics/[\w.~+%-]+"
)

_FIXES: Mapping[str, str] = {
    "version": "Write `version: 1`; if the plan is for a newer keyturn, install that.",
    "secrets": "Write `secrets:` and under it the name of each secret with its settings.",
    "strategy": f"Write `strategy:` with one of {', '.join(Strategy)}.",
    "users": "List exactly two different login names, such as `users: [orders_a, orders_b]`.",
    "owner": "Name the role that both users act as, such as `owner: orders`.",
    "admin": "Name another secret, the one with the admin's login, such as `admin: orders-admin`.",
    "authority": "Write the ARN of the instance or cluster that has the login, such as"
    " `authority: arn:aws:rds:eu-west-1:111122223333:cluster:orders`; in Cloud SQL,"
    " `authority: projects/shop-42/instances/orders`.",
    "password": "Write a mapping, such as `password: {length: 40}`.",
    "failed_logins": f"Write a whole number, {MIN_FAILED_LOGINS} or more, and fewer than lock the"
    " account, such as `failed_logins: 2`.",
    "no limit": "Remove `failed_logins`: an `authority` sets the password in any case.",
    "generate": "Write a mapping, such as `generate: {kind: hmac}`.",
    "defaults": "Write a mapping, such as `defaults: {alerts: [eventbridge:default]}`.",
    "alerts": "List addresses, such as `sns:arn:aws:sns:eu-west-1:111122223333:alerts`.",
    "http": "Write how the API is asked: `hosts`, `create`, `verify`, `delete`, `list`.",
    **follow_plan.FIXES,
    **kinds.FIXES,
}


def _secret(name: str, tree: object, place: Place, known: Kinds) -> SecretPlan:
    _require_name(name, place, "Write the name that the secret has in its store.")
    entry = mapping(tree, place, _FIXES["strategy"])
    shape = _shape(entry, place)
    require_keys(entry, shape, place, _FIXES)
    # First: of a mistake in them, these say more than the shape as a whole.
    readers, cluster = follow_plan.consumers(entry, place, known)
    copies = follow_plan.copies(entry, place, known)
    if shape is GenerateShape:
        policy = PasswordPolicy()
        made = kinds.read(entry["generate"], place.at("generate"))
        planned = SecretPlan(Strategy.GENERATE, None, None, None, policy, generate=made)
    else:
        planned = _login(name, entry, shape, place)
    return replace(planned, deliver=copies, refresh=readers, cluster=cluster)


def _login(
    name: str, entry: Mapping[str, object], shape: type[_AnySecret], place: Place
) -> SecretPlan:
    if "password" in entry:
        at = place.at("password")
        require_keys(mapping(entry["password"], at, _FIXES["password"]), PasswordShape, at, _FIXES)
    api = http_api_plan.read(entry["http"], place.at("http")) if "http" in entry else None
    retirement = follow_plan.retirement(entry, place, api)
    read = shaped(entry, shape, place, _FIXES)
    policy = PasswordPolicy(**msgspec.structs.asdict(_given(read, "password")))
    generate.check(policy, str(place.at("password")))
    planned = SecretPlan(
        Strategy(str(entry["strategy"])),
        _given(read, "users"),
        _given(read, "owner"),
        _given(read, "admin"),
        policy,
        _given(read, "authority"),
        failed_logins=_given(read, "failed_logins"),
        retirement=retirement,
        http=api,
    )
    _require_logins(planned, name, place)
    if planned.users and api is not None:
        raise refusal(place.at("users"), "stands beside `http`", "Leave one of them out.")
    return planned


def _given(read: _AnySecret, key: str) -> Any:
    """Return what the plan says under *key*, or None."""
    value = getattr(read, key, msgspec.UNSET)
    return None if value is msgspec.UNSET else value


def _shape(entry: Mapping[str, object], place: Place) -> type[_AnySecret]:
    """Choose by strategy; keys that no strategy has come first, as one may be a typo of it."""
    known = dict.fromkeys(key for shape in _COMPLETEST_FIRST for key in keys(shape))
    refuse_unknown(entry, tuple(known), place)
    if "strategy" not in entry:
        raise refusal(place, "has no `strategy`", _FIXES["strategy"])
    strategy = entry["strategy"]
    if not isinstance(strategy, str) or strategy not in _SHAPES:
        raise refusal(place.at("strategy"), "is no strategy", _FIXES["strategy"])
    for key in entry:
        if key not in keys(_SHAPES[strategy]):
            raise _of_another_strategy(key, strategy, place)
    return _SHAPES[strategy]


def _of_another_strategy(key: str, strategy: str, place: Place) -> Misconfigured:
    others = [name for name, shape in _SHAPES.items() if key in keys(shape)]
    return refusal(
        place.at(key),
        f"is no key of {strategy}",
        f"Remove `{key}`, or choose one of {', '.join(others)}.",
    )


# ---------------------------------------------------------------------------- logins


def _require_logins(plan: SecretPlan, name: str, place: Place) -> None:
    named = [("users", login) for login in plan.users or ()]
    for key, login in (*named, ("owner", plan.owner), ("admin", plan.admin)):
        if login is not None:
            _require_name(login, place.at(key), _FIXES[key])
    if plan.users and plan.users[0] == plan.users[1]:
        raise refusal(place.at("users"), "names one login twice", _FIXES["users"])
    if plan.admin == name:
        raise refusal(place.at("admin"), "is the secret itself", _FIXES["admin"])
    if plan.users and plan.admin is None:
        raise refusal(place, "has no `admin`, who sets the users", _FIXES["admin"])
    if plan.authority is not None:
        _require_authority(plan.authority, place.at("authority"))
    if plan.owner and plan.users is None:
        raise refusal(place, "has an `owner` and no `users`", _FIXES["users"])
    _require_limit(plan, place.at("failed_logins"))


def _require_authority(name: str, place: Place) -> None:
    is_of_google = name.startswith("projects/")
    if not re.fullmatch(_INSTANCE if is_of_google else _ARN, name):
        fact = "is no such instance" if is_of_google else "is no such ARN"
        raise refusal(place, fact, _FIXES["authority"])


def _require_limit(plan: SecretPlan, place: Place) -> None:
    if plan.failed_logins is None:
        return
    if plan.failed_logins < MIN_FAILED_LOGINS:
        raise refusal(place, "is too few", _FIXES["failed_logins"])
    if plan.authority is not None:
        raise refusal(place, "limits nothing", _FIXES["no limit"])


def _require_name(name: str, place: Place, remedy: str) -> None:
    if not name:
        raise refusal(place, "is an empty name", remedy)
    if name != name.strip():
        raise refusal(place, "is a name that begins or ends with a blank", remedy)
    if not name.isprintable():
        raise refusal(place, "is a name with a character that cannot be printed", remedy)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        fact, remedy = "is not UTF-8 text", "Save the file as UTF-8."
    except OSError as error:
        fact = f"cannot be read: {error.strerror}"
        remedy = "Put a readable plan there, or name the place where it is."
    # Refused outside the handler: the decoder's error carries the whole file.
    raise refusal(Place(str(path)), fact, remedy)


class _Loader(yaml.SafeLoader):
    """YAML 1.2's idea of plain scalars, as editors have it: `no`, `on` and `2026-01-01` are text.

    The loader written in Python, on purpose: the one in C overflows its stack on deep nesting.
    """


_Loader.yaml_implicit_resolvers = {}

_TAG = "tag:yaml.org,2002:"
_SCALARS: Mapping[str, tuple[str, Callable[[str], object]]] = {
    "null": (r"~|null|Null|NULL|", lambda _: None),
    "bool": (r"true|True|TRUE|false|False|FALSE", lambda text: text.lower() == "true"),
    # No leading zero: 040 is 32 to some readers. No more digits than anyone means as a number.
    "int": (r"-?(?:0|[1-9][0-9]{0,17})", int),
    "float": (r"-?[0-9]+\.[0-9]+", float),
}
_NOTHING = r"(?!)"

for _kind, (_pattern, _) in _SCALARS.items():
    _Loader.add_implicit_resolver(_TAG + _kind, re.compile(rf"(?:{_pattern})\Z"), None)


def _tree(text: str, source: Place) -> object:
    """Return *text* as mappings with text keys, lists and scalars."""
    try:
        root = yaml.compose(text, _Loader)
        return None if root is None else _built(root, source, {})
    except yaml.MarkedYAMLError as error:
        fact, mark = _unquoted(error.problem), error.problem_mark
    except (yaml.YAMLError, ValueError, OverflowError):  # and bad escapes: "\UFFFFFFFF"
        fact, mark = "it holds a character that cannot be printed", None
    except RecursionError:
        fact, mark = "it is nested too deeply", None
    place = source.at(f"line {mark.line + 1}, column {mark.column + 1}") if mark else source
    raise refusal(
        place,
        f"is not usable YAML: {fact}",
        "Mend it there; indent with spaces, never tabs, and quote text with unusual characters.",
    )


def _unquoted(problem: str | None) -> str:
    """Leave out the names that the parser quotes from the file; single characters may stay."""
    return re.sub(r"'[\w!-]{2,}'", "'...'", problem or "it cannot be parsed")


def _built(node: yaml.Node, source: Place, built: dict[yaml.Node, object]) -> object:
    """Return what *node* stands for. Aliases share it: one may stand for thousands, or itself."""
    if node in built:
        return built[node]
    match node:
        case yaml.MappingNode(tag=_Loader.DEFAULT_MAPPING_TAG):
            built[node] = mapping = {}
            for key, child in _pairs(node, source):
                mapping[key] = _built(child, source, built)
        case yaml.SequenceNode(tag=_Loader.DEFAULT_SEQUENCE_TAG):
            entries: list[object] = []
            built[node] = entries
            entries.extend(_built(child, source, built) for child in node.value)
        case yaml.ScalarNode():
            built[node] = _scalar(node, source)
        case _:
            raise _tagged(node, source)
    return built[node]


def _pairs(node: yaml.MappingNode, source: Place) -> Iterator[tuple[str, yaml.Node]]:
    lines: dict[str, int] = {}
    for key_node, child in node.value:
        line = key_node.start_mark.line + 1
        key = _key(key_node, source.at(f"line {line}"))
        if key in lines:
            raise refusal(
                source.at(f"line {line}"),
                f"the key `{shown(key)}` is given twice, first on line {lines[key]}",
                "Keep one of the two.",
            )
        lines[key] = line
        yield key, child


def _key(node: yaml.Node, place: Place) -> str:
    if node.tag != _Loader.DEFAULT_SCALAR_TAG or not isinstance(node, yaml.ScalarNode):
        raise refusal(place, "a key is not text", "Quote the key, if it is a name; else remove it.")
    if node.value == "<<" and not node.style:
        raise refusal(
            place,
            "`<<` merges mappings, which a plan cannot do",
            "Write the keys out, or share the whole mapping by an alias.",
        )
    return _whole(node, place)


def _scalar(node: yaml.ScalarNode, source: Place) -> object:
    if node.tag == _Loader.DEFAULT_SCALAR_TAG:
        return _whole(node, source.at(f"line {node.start_mark.line + 1}"))
    # An explicit tag has not been through the resolver: `!!int x` gets here, and so does `!x`.
    pattern, read = _SCALARS.get(node.tag.removeprefix(_TAG), (_NOTHING, str))
    if not re.fullmatch(pattern, node.value):
        raise _tagged(node, source)
    return read(node.value)


def _whole(node: yaml.ScalarNode, place: Place) -> str:
    """Return the text. Half a character would pass as text until msgspec has to encode it."""
    if re.search(r"[\ud800-\udfff]", node.value):
        raise refusal(
            place,
            "has an escape for half a character",
            "Write the character itself, or its one escape that begins with a capital U.",
        )
    return str(node.value)


def _tagged(node: yaml.Node, source: Place) -> Misconfigured:
    return refusal(
        source.at(f"line {node.start_mark.line + 1}"),
        "has a YAML tag that a plan does not use",
        "Remove the tag; quote the text if it begins with an exclamation mark.",
    )
