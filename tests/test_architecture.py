"""The house: which way imports go, who may reveal a secret, and what every adapter brings along."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyturn.model import Strategy
from keyturn.wiring import TargetModule, target_modules

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "functions" / "keyturn"

CORE = {
    "model",
    "errors",
    "ports",
    "rotation",
    "strategies",
    "minted",
    "generate",
    "on_demand",
    "follow_up",
    "watchdog",
}
"""Knows no cloud, no SDK, no environment and no clock."""

ADAPTERS = ("stores", "targets", "authorities", "destinations", "consumers", "notifiers")

MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "model": set(),
    "ports": {"model", "errors"},
    "generate": {"model", "errors"},
    "document": {"model", "errors"},
    "rotation": {"model", "errors", "ports"},
    "strategies": {"model", "errors", "ports"},
    "minted": {"model", "errors", "ports", "rotation"},
    "on_demand": {"model", "errors", "ports"},
    "follow_up": {"model", "errors", "ports"},
    "measures": {"model", "follow_up"},
    "watchdog": {"model", "follow_up"},
    "shapes": {"errors"},
    "rendering": {"model", "errors", "document"},
    "generators": {"model", "errors", "generate", "document", "shapes"},
    "remaining": {"model", "errors"},
    "http_api": {"model"},
    "http_exchange": {"model", "errors", "http_api", "tls", "remaining"},
    "http_api_plan": {"http_api", "shapes"},
    "follow_plan": {
        *("errors", "shapes", "http_api", "kubernetes", "rendering"),
        *("follow_up", "followers"),
    },
    "plan": {
        *("model", "errors", "generate", "generators", "shapes", "http_api", "http_api_plan"),
        *("follow_plan", "follow_up", "kubernetes"),  # what follows, as values
    },
    "boundary": {"model", "errors", "ports", "document"},
    "tls": {"model", "errors"},
    "crc32c": set(),
    "access": {"model"},
    "line": {"model", "errors", "access", "tls"},
    "google": {"model", "errors", "access", "line", "boundary", "document"},
    "kubernetes": {
        *("model", "errors", "ports", "document", "boundary", "shapes"),
        *("access", "line", "google"),
    },
    "followers": {"model", "errors", "ports", "rendering", "shapes", "kubernetes"},
    "adapter": {
        *("model", "errors", "ports", "document", "boundary", "http_api"),
        *("tls", "followers", "kubernetes", "rendering", "shapes", "http_exchange", "remaining"),
        *("crc32c", "google", "watchdog"),
    },
}
"""Module -> the modules of ours it may import. `wiring` may import any of them, and nobody it."""

BANNED_WORDS = ("AWSCURRENT", "AWSPENDING", "Arn", "boto", "alias", "etag", "Pub/Sub", "Lambda")
BANNED_IMPORTS = {"os", "time", "random", "socket", "logging"}
REVEALERS = (
    *("stores", "targets", "authorities", "destinations", "testing", "local"),
    "generators",  # the next value is made from the whole of the one before
    "rendering",  # a copy is another form of the same value
    "kubernetes",  # a token that is a secret of the store
    "line",  # the bearer token, into its header
    "google",  # a caller's token, to the library that checks it
    "http_exchange",  # what a request is made with, into the request
)
MAY_READ_ENVIRONMENT = {"wiring", "local", "testing", "cli"}


def _modules(folder: Path = LIBRARY) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def _part(path: Path) -> str:
    """Return the module of the library, or the package of adapters, that a file belongs to."""
    return path.relative_to(LIBRARY).parts[0].removesuffix(".py")


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{name.name}" for name in node.names)


def _ours(path: Path) -> set[str]:
    """Return the parts of the library that a file imports."""
    found = {name.split(".")[1] for name in _imports(path) if name.startswith("keyturn.")}
    return {
        part for part in found if (LIBRARY / part).is_dir() or (LIBRARY / f"{part}.py").exists()
    }


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(LIBRARY)))
def test_imports_point_inwards(path: Path) -> None:
    part = _part(path)
    if part in {"wiring", "wiring_google", "local", "cli", "testing", "__init__"}:
        return
    allowed = MAY_IMPORT["adapter" if part in ADAPTERS else part]

    assert _ours(path) - {part} <= allowed


@pytest.mark.parametrize(
    "path", [p for p in _modules() if _part(p) in ADAPTERS], ids=lambda path: path.stem
)
def test_adapters_do_not_import_each_other(path: Path) -> None:
    """What two of them share is a module that is no adapter itself, such as `targets.wire`."""
    siblings = {other.stem for other in path.parent.glob("*.py") if _is_adapter(other)} - {
        path.stem
    }

    imported = {name.split(".")[2] for name in _imports(path) if _is_of(name, path.parent.name)}

    assert not imported & siblings


def _is_of(name: str, package: str) -> bool:
    return name.startswith(f"keyturn.{package}.")


def _is_shared(path: Path) -> bool:
    """Tell whether a module is no adapter, but a part of one, or of several: they import it."""
    name = f"keyturn.{path.parent.name}.{path.stem}"
    importing = [_imports(other) for other in path.parent.glob("*.py") if other != path]
    return any(name in {each, each.rpartition(".")[0]} for found in importing for each in found)


def _is_adapter(path: Path) -> bool:
    return "PERMISSIONS" in path.read_text()


@pytest.mark.parametrize("module", sorted(CORE))
def test_the_core_knows_no_platform(module: str) -> None:
    path = LIBRARY / f"{module}.py"
    text = path.read_text()
    external = {name.split(".")[0] for name in _imports(path)} - {"keyturn", "__future__"}

    assert [word for word in BANNED_WORDS if re.search(rf"\b{word}\b", text)] == []
    assert external <= set(sys.stdlib_module_names)
    assert not external & BANNED_IMPORTS


def test_only_those_who_hand_a_secret_on_reveal_it() -> None:
    revealing = {
        _part(path)
        for path in _modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "reveal"
    }

    assert revealing <= set(REVEALERS)


def test_only_the_edges_read_the_environment() -> None:
    reading = {
        _part(path)
        for path in _modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"}
    }

    assert reading <= MAY_READ_ENVIRONMENT


def test_nothing_is_random_but_secrets() -> None:
    assert [path.name for path in _modules() if "random" in set(_imports(path))] == []


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(LIBRARY)))
def test_nothing_is_built_at_import_time(path: Path) -> None:
    """No SDK client, logger with handlers, or connection at module level: wiring builds."""
    calls = [
        node.value
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
    ]
    built = {ast.unparse(call.func) for call in calls}

    assert not built & {"boto3.client", "boto3.resource", "Logger", "Metrics", "Telemetry"}


@pytest.mark.parametrize(
    "path",
    [p for p in _modules() if _part(p) in ADAPTERS and p.stem != "__init__" and not _is_shared(p)],
    ids=lambda path: path.stem,
)
def test_every_adapter_declares_its_permissions_and_has_a_contract_test(path: Path) -> None:
    contract = ROOT / "tests" / "contract" / f"test_{path.stem}.py"

    assert re.search(r"^PERMISSIONS\b", path.read_text(), re.MULTILINE)
    assert contract.exists()
    assert re.search(r"class Test\w+\(\w*Contract\)", contract.read_text())


CONTRACT_OF = {
    Strategy.SINGLE_USER: "OneSlotContract",
    Strategy.DUAL_PASSWORD: "DualContract",
    Strategy.ALTERNATING_USERS: "TwoSlotContract",
}


@pytest.mark.parametrize("module", target_modules(), ids=lambda module: module.TITLE)
def test_every_strategy_that_a_target_declares_has_its_contract(module: TargetModule) -> None:
    """What the README's table says is what its tests show."""
    name = getattr(module, "__name__").rpartition(".")[2]  # noqa: B009  # a module is no Protocol
    tests = (ROOT / "tests" / "contract" / f"test_{name}.py").read_text()

    for strategy, contract in CONTRACT_OF.items():
        has_contract = re.search(rf"class Test\w+\({contract}[,)]", tests) is not None
        assert has_contract is (strategy in module.STRATEGIES), strategy


@pytest.mark.parametrize("module", target_modules(), ids=lambda module: module.TITLE)
def test_every_engine_that_tells_who_is_logged_in_keeps_their_contract(
    module: TargetModule,
) -> None:
    """Where an engine tells it, nobody who is logged in is cut off."""
    name = getattr(module, "__name__").rpartition(".")[2]  # noqa: B009  # a module is no Protocol
    source = (ROOT / "functions" / "keyturn" / "targets" / f"{name}.py").read_text()
    tests = (ROOT / "tests" / "contract" / f"test_{name}.py").read_text()

    assert (", UsedContract)" in tests) is ("def sessions_of(" in source)
    for base in ("TwoSlotContract", "DualContract"):
        is_told = f"def sessions_{'of' if base == 'TwoSlotContract' else 'before'}(" in source
        of_base = re.findall(rf"class Test\w+\({base}(.*)\):", tests)
        assert not is_told or set(of_base) == {", UsedContract"}, base


@pytest.mark.parametrize(
    "path", sorted((ROOT / "functions").glob("[ag]*/*.py")), ids=lambda path: str(path.parent.stem)
)
def test_an_entry_point_is_short(path: Path) -> None:
    """Parse, build, call, map errors: at most 60 lines."""
    assert len(path.read_text().splitlines()) <= 60


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(LIBRARY)))
def test_no_statement_is_an_f_string(path: Path) -> None:
    """SQL is a literal or composed: nothing is ever formatted into an execute."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith((".execute", ".SQL")):
            assert not any(isinstance(each, ast.JoinedStr) for each in node.args), ast.unparse(node)


def test_nothing_names_where_it_was_made() -> None:
    """No path of a machine, and no host of a package registry, lock files included."""
    hosts = [r"pypi\.org", r"pythonhosted", r"registry\.npmjs", r"deb\.debian"]
    folders = [f"/{name}/" for name in ("work", "root", "home")]
    files = [
        path
        for pattern in ("*.py", "*.md", "*.toml", "*.txt", "*.yaml", "*.json", "Makefile", "run")
        for path in ROOT.rglob(pattern)
        if not {p for p in path.relative_to(ROOT).parts if p.startswith(".venv")}
        and not {".git", ".aws-sam", ".mysql", "dist", "out", "demo-out"}
        & set(path.relative_to(ROOT).parts)
        and path != Path(__file__)
    ]

    assert len(files) > 50
    for path in files:
        text = path.read_text()
        assert not [host for host in hosts if re.search(host, text)], path
        assert not [folder for folder in folders if re.search(rf"(?<![\w.$~}}]){folder}", text)], (
            path
        )
