"""What the documents show is true: examples run, links lead somewhere, names exist."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
import yaml
from typer.core import TyperCommand, TyperGroup
from typer.testing import CliRunner

from keyturn import http_api_plan, plan, wiring, wiring_google
from keyturn.boundary import generation_event
from keyturn.cli import app
from keyturn.generators import kinds
from keyturn.generators.fingerprint import fingerprint
from keyturn.google import events
from keyturn.model import Sensitive
from keyturn.shapes import Shape
from keyturn.testing.mutants import copy_of_the_project
from keyturn.wiring import plan_kinds

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block, with its language and the name of the file that it is, if any."""

    page: Path
    line: int
    language: str
    title: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


_FENCE = re.compile(
    r"^```(?P<language>\w*)(?: title=\"(?P<title>[^\"]*)\")?\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


def blocks(*languages: str) -> list[Block]:
    return [block for page in PAGES for block in _blocks(page) if block.language in languages]


def _blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in _FENCE.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        yield Block(page, line, found["language"], found["title"] or "", found["text"])


def prose(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def test_there_is_something_to_look_at() -> None:
    """A check that finds nothing proves nothing."""
    assert len(PAGES) > 10
    assert {block.language for block in blocks("python", "yaml", "sh", "console")} >= {
        *("python", "yaml", "sh", "console")
    }
    assert len(list(_commands())) >= 5


# ---------------------------------------------------------------------------- examples


def test_the_target_of_the_guide_keeps_its_contract() -> None:
    """It is taken out of the page as it stands: one file, one contract test, nothing else."""
    files = {block.title: block.text for block in blocks("python") if block.title}
    assert [Path(name).parent.name for name in files] == ["targets", "contract"]

    with copy_of_the_project() as copy:
        for name, text in files.items():
            (copy / name).write_text(text, encoding="utf-8")
        tests = [name for name in files if name.startswith("tests/")]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", *tests, "tests/test_architecture.py"],
            cwd=copy,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": f"{copy / 'functions'}{os.pathsep}{copy / 'tests'}"},
        )

    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "skipped" not in done.stdout


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_is_python(block: Block) -> None:
    ast.parse(block.text)


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_yaml_is_read_and_a_plan_is_a_plan(block: Block) -> None:
    tree = yaml.safe_load(block.text)

    assert tree
    if "secrets" in tree:
        assert plan.parse(block.text, plan_kinds(), source=str(block)).secrets


def test_json_is_json() -> None:
    for block in blocks("json"):
        assert json.loads(block.text), block


@pytest.mark.parametrize("block", blocks("sh"), ids=str)
def test_shell_is_shell(block: Block) -> None:
    done = subprocess.run(
        ["/bin/sh", "-n"], input=block.text, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------------------- names

_LINK = re.compile(r"\]\((?P<path>[^)#:\s]*)(?:#(?P<anchor>[^)\s]*))?\)")


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    """Files that exist, and headings that they have."""
    for found in _LINK.finditer(prose(page)):
        target = page.parent / found["path"] if found["path"] else page
        assert target.exists(), found[0]
        if found["anchor"]:
            assert found["anchor"] in _anchors(target), found[0]


def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


VARIABLES = {
    *wiring._VARIABLES,  # noqa: SLF001  # the list of them
    *wiring_google.VARIABLES,
    *events.FOLLOWED,  # kinds of messages on Google
    "KEYTURN_PUBSUB_EMULATOR",
}


@each_page
def test_variables_exist(page: Path) -> None:
    for name in re.findall(r"KEYTURN_[A-Z_]+", page.read_text(encoding="utf-8")):
        assert name in VARIABLES, name


def test_every_variable_of_google_is_explained() -> None:
    page = (ROOT / "docs" / "google.md").read_text(encoding="utf-8")

    assert set(re.findall(r"`(KEYTURN_[A-Z_]+)`", page)) >= wiring_google.VARIABLES


@each_page
def test_make_targets_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    text = page.read_text(encoding="utf-8")

    for name in re.findall(r"(?:^\$? ?|`)make ([a-z-]+)", text, re.MULTILINE):
        assert re.search(rf"^{name}:", makefile, re.MULTILINE), name


@each_page
def test_files_of_ours_exist(page: Path) -> None:
    """A path in backticks that begins with one of our folders; `NAME` stands for any."""
    folders = "functions|infra|tests|events|docs|bench|requirements"
    for name in re.findall(rf"`((?:{folders})/[\w./-]+)`", prose(page)):
        made_by_the_reader = name in {"functions/keyturn.yaml", "functions/ca.pem"}
        generated = name.startswith("bench/out/")
        assert "NAME" in name or made_by_the_reader or generated or (ROOT / name).exists(), name


def _commands() -> Iterator[tuple[Path, list[str]]]:
    """Yield what follows `keyturn` on a command line, in a block or in backticks."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        lines = re.findall(r"^(?:\$ )?(?:\.venv/bin/)?keyturn( [a-z-].*)$", text, re.MULTILINE)
        for line in lines + re.findall(r"`keyturn( [a-z-][^`]*)`", text):
            yield page, line.split()


def test_commands_exist() -> None:
    """Each word is a command or an argument, each option one of that command."""
    for page, words in _commands():
        command: object = typer.main.get_command(app)
        for word in words:
            where = f"{page.name}: keyturn {' '.join(words)}"
            if word.startswith("--"):
                assert word.partition("=")[0] in _options(command), where
            elif isinstance(command, TyperGroup):
                assert word in command.commands, where
                command = command.commands[word]


def test_the_options_of_local_up_are_those_in_its_table() -> None:
    command: object = typer.main.get_command(app)
    for word in ("local", "up"):
        assert isinstance(command, TyperGroup)
        command = command.commands[word]

    listed = re.findall(r"^\| `(--[a-z-]+)", prose(ROOT / "docs" / "local.md"), re.MULTILINE)

    assert set(listed) == _options(command) - {"--help"}


def _options(command: object) -> set[str]:
    assert isinstance(command, TyperGroup | TyperCommand)
    return {option for each in command.params for option in each.opts}


def test_the_readmes_table_of_targets_is_what_the_code_says() -> None:
    """Renew it with: keyturn targets --markdown."""
    ran = CliRunner().invoke(app, ["targets", "--markdown"])

    assert ran.exit_code == 0
    assert f"\n\n{ran.output}\n" in (ROOT / "README.md").read_text(encoding="utf-8")


GENERATE = ROOT / "docs" / "generate.md"


def test_the_page_on_generated_values_has_every_kind_and_option() -> None:
    rows = dict(re.findall(r"^\| `([a-z0-9-]+)` \|(.*)$", prose(GENERATE), re.MULTILINE))

    for kind, shape in kinds.KINDS.items():
        inherited = {"length", "charset", "exclude", "require"} if kind == "htpasswd" else set()
        for option in set(shape.__struct_fields__) - {"member"} - inherited:
            assert f"`{option}`" in rows[kind], f"{kind}: {option}"


def test_the_page_on_generated_values_computes_the_same_fingerprint() -> None:
    (block,) = [each for each in blocks("python") if each.page == GENERATE]
    shown: dict[str, Callable[[str, str], str]] = {}

    exec(block.text, shown)  # noqa: S102  # the page's own example

    value = "Canary7-" + "docs"
    same = shown["fingerprint"]("prod/a", value) == fingerprint("prod/a", Sensitive(value))
    assert same


# ---------------------------------------------------------------------------- Terraform

KEYS = ROOT / "docs" / "iam-access-keys.md"


def test_what_terraform_sends_is_an_event_and_what_it_keeps_is_no_value() -> None:
    """The block as it stands: HCL's object, written as JSON."""
    (block,) = [each for each in blocks("hcl") if each.page == KEYS]
    (found,) = re.findall(r"jsonencode\((\{.*?\n  \})\)", block.text, re.DOTALL)
    named = re.sub(r"aws_\w+\.\w+\.name", '"mailer"', found)
    quoted = re.sub(r"(\w+)\s*=", r'"\1":', named)

    event = generation_event(
        json.loads(re.sub(r"([^{])\n(\s+\")", r"\1,\n\2", quoted)), request_id="unused"
    )

    assert (event.kind, event.options, event.request_id) == (
        "iam-access-key",
        {"username": "mailer"},
        "first",
    )
    assert not re.search(r"secret_string|aws_iam_access_key|secret_version", block.text)


def test_what_terraform_reads_of_the_stack_is_what_it_gives() -> None:
    (block,) = [each for each in blocks("hcl") if each.page == KEYS]
    template = (ROOT / "infra" / "template.yaml").read_text(encoding="utf-8")

    for name in re.findall(r'outputs\["(\w+)"\]', block.text):
        assert f"\n  {name}:\n" in template.partition("\nOutputs:\n")[2], name


def test_the_page_on_http_apis_has_every_key_and_placeholder() -> None:
    page = prose(ROOT / "docs" / "http-api-keys.md")
    rows = "\n".join(line for line in page.splitlines() if line.startswith("|"))

    shapes: list[type[Shape]] = [http_api_plan.HttpApiShape, *http_api_plan.PARTS.values()]
    for key in {key for shape in shapes for key in shape.__struct_fields__}:
        assert f"`{key}`" in rows, key
    for name in http_api_plan.PLACEHOLDERS:
        assert f"`{{{name}}}`" in rows, name


@pytest.mark.parametrize("recipe", sorted((ROOT / "docs" / "recipes").glob("*.yaml")), ids=str)
def test_a_recipe_is_a_plan_and_names_its_source(recipe: Path) -> None:
    text = recipe.read_text(encoding="utf-8")

    assert plan.load(recipe, plan_kinds()).secrets
    assert re.search(r"^# From https://", text, re.MULTILINE)
    assert f"recipes/{recipe.name}" in (ROOT / "docs" / "http-api-keys.md").read_text()
