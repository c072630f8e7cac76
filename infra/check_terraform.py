"""Checks the Terraform module offline, against what the google provider itself knows.

    python infra/check_terraform.py PROVIDER.whl FOLDER..

`terraform validate` needs the provider, and so the network. Its whole schema is in the wheel of its
Python bindings (requirements/terraform-schema.txt), as one JSON file; nothing of it is run. Looked
for are resources, attributes and blocks that there are not, required ones that are missing, and
references to a resource, an attribute, a variable or a local that nobody declares. What the schema
does not tell, and is not checked, is which values an attribute takes. Exit code 1 for anything
found.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hcl2

META = frozenset({"count", "depends_on", "for_each", "lifecycle", "provider", "dynamic"})
"""Of Terraform itself, in every resource."""

BETA = {"google_project_service_identity": ({"project", "service"}, {"email", "member", "id"})}
"""Resources of google-beta, which the schema does not have: what they take, and what they tell."""

_RESOURCE = re.compile(r"Represents a \{@link \S+ (google_[a-z0-9_]+)\}")
_INDEX = r"(?:\[(?:[^\[\]]|\[[^\[\]]*\])*\])?"
_REFERENCE = re.compile(
    rf"(?<![\w.])((?:data\.)?[a-z][a-z0-9_]+)\.([a-z_][a-z0-9_-]*){_INDEX}(?:\.([a-z0-9_]+))?"
)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong, and where."""

    where: str
    fact: str

    def __str__(self) -> str:
        """Say it in a line."""
        return f"{self.where}: {self.fact}"


class Provider:
    """What the provider knows.

    Args:
        wheel: Of its Python bindings.
    """

    def __init__(self, wheel: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            [name] = [each for each in archive.namelist() if each.endswith(".jsii.tgz")]
            packed = archive.read(name)
        with tarfile.open(fileobj=io.BytesIO(packed)) as package:
            self._types: dict[str, Any] = _assembly(package)["types"]
        self._resources: dict[str, str] = {}
        self._data: dict[str, str] = {}
        for fqn, each in self._types.items():
            found = _RESOURCE.search(each.get("docs", {}).get("summary", ""))
            if found is not None and each["kind"] == "class":
                is_data = ".DataGoogle" in fqn
                (self._data if is_data else self._resources)[found[1]] = fqn

    def names(self, kind: str, *, is_data: bool = False) -> Mapping[str, Mapping[str, Any]] | None:
        """Return the arguments of a resource, by their names; None if there is no such one."""
        fqn = (self._data if is_data else self._resources).get(kind)
        return None if fqn is None else self._members(f"{fqn}Config")

    def tells(self, kind: str, *, is_data: bool = False) -> set[str]:
        """Return what may be read of a resource."""
        fqn = (self._data if is_data else self._resources)[kind]
        return {_snake(each["name"]) for each in self._types[fqn].get("properties", [])}

    def block(self, member: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]] | None:
        """Return the arguments of a block; None if the argument is none."""
        fqn = next((each for each in _types_in(member["type"]) if "." in each), None)
        is_block = fqn is not None and self._types.get(fqn, {}).get("kind") == "interface"
        return self._members(fqn) if is_block and fqn is not None else None

    def _members(self, fqn: str) -> Mapping[str, Mapping[str, Any]]:
        return {_snake(each["name"]): each for each in self._types[fqn].get("properties", [])}


def _assembly(package: tarfile.TarFile) -> Any:
    found = json.loads(_file(package, ".jsii"))
    if "types" in found:
        return found
    return json.loads(gzip.decompress(_file(package, found["filename"])))


def _file(package: tarfile.TarFile, name: str) -> bytes:
    found = package.extractfile(f"package/{name}")
    if found is None:
        raise SystemExit(f"the provider's wheel has no {name}")
    return found.read()


def _types_in(kind: Any) -> Iterator[str]:
    if isinstance(kind, Mapping):
        if "fqn" in kind and not kind["fqn"].startswith("cdktf."):
            yield kind["fqn"]
        for each in kind.values():
            yield from _types_in(each)
    elif isinstance(kind, list):
        for each in kind:
            yield from _types_in(each)


def _snake(name: str) -> str:
    """Return an argument's own name: `retryPolicy` is `retry_policy`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().removesuffix("_input")


# ---------------------------------------------------------------------------- the module


@dataclass(frozen=True, slots=True)
class Block:
    """A resource or a data source, as it stands in a file."""

    kind: str
    name: str
    body: Mapping[str, Any]
    is_data: bool

    @property
    def where(self) -> str:
        """Say which it is."""
        return f"{'data.' if self.is_data else ''}{self.kind}.{self.name}"


class Module:
    """A folder's files, read."""

    def __init__(self, folder: Path) -> None:
        self.texts = {path: path.read_text(encoding="utf-8") for path in folder.glob("*.tf")}
        parsed = [hcl2.loads(text) for text in self.texts.values()]
        self.blocks = [
            Block(_plain(kind), _plain(name), body, is_data)
            for file in parsed
            for section, is_data in (("resource", False), ("data", True))
            for entry in file.get(section, [])
            for kind, named in _items(entry)
            for name, body in _items(named)
        ]
        self.variables = {
            _plain(name)
            for file in parsed
            for entry in file.get("variable", [])
            for name, _ in _items(entry)
        }
        self.locals: dict[str, Any] = {}
        for file in parsed:
            for entry in file.get("locals", []):
                self.locals |= dict(_items(entry))

    def find(self, kind: str, name: str) -> Mapping[str, Any]:
        """Return the body of a resource.

        Raises:
            KeyError: There is none.
        """
        for each in self.blocks:
            if (each.kind, each.name, each.is_data) == (kind, name, False):
                return each.body
        raise KeyError(f"{kind}.{name}")


def problems(folder: Path, provider: Provider) -> list[Problem]:
    """Look for what is wrong in the files of a folder."""
    module = Module(folder)
    found: list[Problem] = []
    for each in module.blocks:
        if each.kind.startswith("google_"):
            found += _of_block(each, provider)
    for text in module.texts.values():
        found += _of_references(text, module, provider)
    return list(dict.fromkeys(found))


def _of_block(block: Block, provider: Provider) -> Iterator[Problem]:
    if block.kind in BETA:
        takes, _ = BETA[block.kind]
        yield from (
            Problem(block.where, f"there is no `{name}`")
            for name, _ in _items(block.body)
            if name not in takes | META
        )
        return
    known = provider.names(block.kind, is_data=block.is_data)
    if known is None:
        yield Problem(block.where, "there is no such resource")
        return
    yield from _of_members(block.where, block.body, known, provider, META)


def _of_members(
    where: str,
    body: Mapping[str, Any],
    known: Mapping[str, Mapping[str, Any]],
    provider: Provider,
    more: frozenset[str] = frozenset(),
) -> Iterator[Problem]:
    given = _given(body)
    for name, value in given.items():
        if name not in {*known, *more}:
            yield Problem(where, f"there is no `{name}`")
        elif name in known:
            yield from _of_blocks(f"{where}.{name}", value, known[name], provider)
    for name, member in known.items():
        if not member.get("optional") and name not in given:
            yield Problem(where, f"`{name}` is missing")


def _of_blocks(
    where: str, value: object, member: Mapping[str, Any], provider: Provider
) -> Iterator[Problem]:
    inner = provider.block(member)
    blocks = value if isinstance(value, list) else []
    for each in blocks if inner is not None else []:
        if isinstance(each, Mapping):
            yield from _of_members(where, each, inner or {}, provider)


def _given(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a block has; one that is dynamic under its own name."""
    given = dict(_items(body))
    for dynamic in given.pop("dynamic", []):
        given |= {_plain(name): made["content"] for name, made in _items(dynamic)}
    return given


def _of_references(text: str, module: Module, provider: Provider) -> Iterator[Problem]:
    declared = {(("data." if b.is_data else "") + b.kind, b.name) for b in module.blocks}
    for first, second, third in _REFERENCE.findall(_code(text)):
        if first == "var" and second not in module.variables:
            yield Problem(f"var.{second}", "is not declared")
        elif first == "local" and second not in module.locals:
            yield Problem(f"local.{second}", "is not declared")
        elif re.match(r"(data\.)?google_", first):
            if (first, second) not in declared:
                yield Problem(f"{first}.{second}", "is not declared")
            elif third and third not in _told(first, provider):
                yield Problem(f"{first}.{second}", f"has no `{third}`")


def _told(kind: str, provider: Provider) -> set[str]:
    name = kind.removeprefix("data.")
    return BETA[name][1] if name in BETA else provider.tells(name, is_data=name != kind)


def _code(text: str) -> str:
    """Return it without comments, and without the names that begin blocks."""
    return re.sub(r"(?m)^\s*#.*$", "", text)


def _items(entry: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what is given; what the parser notes beside begins with two underscores."""
    return ((name, value) for name, value in entry.items() if not name.startswith("__"))


def _plain(text: str) -> str:
    return text.strip('"')


def main() -> None:
    """Check, and print."""
    if len(sys.argv) < 3:  # noqa: PLR2004  # a wheel, and a folder
        raise SystemExit(f"usage: {sys.argv[0]} PROVIDER.whl FOLDER..")
    provider = Provider(Path(sys.argv[1]))
    found = [each for folder in sys.argv[2:] for each in problems(Path(folder), provider)]
    for each in found:
        print(each)
    raise SystemExit(1 if found else 0)


if __name__ == "__main__":
    main()
