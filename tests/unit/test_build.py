"""What is deployed: the pins, the package, and that the same sources make the same bytes."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
ZIP_REPRODUCIBLE = ROOT / "infra" / "zip_reproducible.py"
ZIP_MAX_BYTES = 6_000_000
"""The budget for a function with one database driver."""
GENERATE_ZIP_MAX_BYTES = 7_500_000
"""For the one that makes keys: `cryptography` alone is 5 MB."""

GROUP_OF = {
    "requirements/dev.txt": "dev",
    "requirements/tools.txt": "tools",
    "requirements/awscli.txt": "awscli",
    "functions/requirements/rotate-postgres.txt": "fn-rotate-postgres",
    "functions/requirements/rotate-mysql.txt": "fn-rotate-mysql",
    "functions/requirements/rotate-redis.txt": "fn-rotate-redis",
    "functions/requirements/rotate-none.txt": "fn-rotate-none",
    "functions/requirements/follow-up.txt": "fn-follow-up",
    "functions/requirements/generate.txt": "fn-generate",
    "functions/requirements.txt": "fn-google",
}


# ---------------------------------------------------------------------------- pins


@pytest.mark.parametrize("file", GROUP_OF)
def test_every_pin_is_exact_and_hashed(file: str) -> None:
    entries = _entries(file)

    assert entries
    for entry in entries:
        assert re.match(r"[a-z0-9-]+(\[[a-z0-9,-]+\])?==[^ ]+ ", entry), entry[:80]
        assert "--hash=sha256:" in entry, entry[:80]


@pytest.mark.parametrize("file", GROUP_OF)
def test_pins_name_no_index_and_no_address(file: str) -> None:
    """Whoever installs asks the package index of their own choice."""
    text = (ROOT / file).read_text()

    assert "://" not in text
    assert not re.search(r"^\s*(-i|-f|--(index|extra|find|trusted)[a-z-]*)\b", text, re.MULTILINE)


@pytest.mark.parametrize("file", GROUP_OF)
def test_pins_are_in_step_with_pyproject(file: str) -> None:
    """A dependency was added or raised? `make lock`."""
    pinned = {
        requirement.name: str(requirement.specifier).removeprefix("==")
        for requirement in (Requirement(entry.split(" \\")[0]) for entry in _entries(file))
    }

    for wanted in _wanted(GROUP_OF[file]):
        assert wanted.name in pinned, f"{wanted} is not in {file}"
        assert wanted.specifier.contains(pinned[wanted.name]), f"{wanted} is not what {file} pins"


# ---------------------------------------------------------------------------- the zip


def test_equal_folders_make_equal_zips(tmp_path: Path) -> None:
    """Whatever the order and the time in which the files came, and the umask they came under."""
    first = _folder(tmp_path / "first", ["b.py", "a/c.py", "a.py", "a/run"], mode=0o600)
    second = _folder(tmp_path / "second", ["a/run", "a.py", "a/c.py", "b.py"], mode=0o664)
    os.utime(second / "a.py", (1, 1))
    (second / "a" / "c.cpython-313.pyc").write_bytes(b"compiled just now")

    digests = {_zip(folder, tmp_path / f"{folder.name}.zip") for folder in (first, second)}

    assert len(digests) == 1


def test_another_byte_makes_another_zip(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "folder", ["a.py"], mode=0o644)
    before = _zip(folder, tmp_path / "before.zip")

    (folder / "a.py").write_text("other")

    assert _zip(folder, tmp_path / "after.zip") != before


def test_everyone_may_read_what_is_zipped(tmp_path: Path) -> None:
    """Lambda does not run as the owner of the files."""
    folder = _folder(tmp_path / "folder", ["a.py", "a/run"], mode=0o600)
    (folder / "a" / "run").chmod(0o700)

    _zip(folder, tmp_path / "out.zip")

    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        modes = {each.filename: (each.external_attr >> 16) & 0o777 for each in archive.infolist()}
    assert modes == {"a.py": 0o644, "a/run": 0o755}


# ---------------------------------------------------------------------------- the package


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rotation function, packed for this machine and this Python."""
    folder = tmp_path_factory.mktemp("host") / "package"
    return _build(folder, architecture=_architecture(), python=platform.python_version())


def _architecture() -> str:
    """Return what this machine is, as Lambda calls it."""
    return {"aarch64": "arm64", "arm64": "arm64"}.get(platform.machine(), "x86_64")


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rotation function, packed as the template deploys it by default."""
    return _build(tmp_path_factory.mktemp("deployed") / "package")


DRIVERS = {
    "postgres": {"psycopg", "psycopg_binary", "psycopg_binary.libs"},
    "mysql": {"pymysql"},
    "redis": {"redis"},
    "none": set(),
}
"""What a function holds besides what all of them do."""

NO_DRIVER = ("api_gateway_key", "http_api_key", "iam_access_key")
"""Targets that every package holds."""


@pytest.mark.parametrize("engine", DRIVERS)
def test_a_package_holds_the_function_and_its_driver_and_nothing_else(
    engine: str, tmp_path: Path
) -> None:
    """boto3 is the runtime's; a driver for another database would be dead weight."""
    packed = _build(tmp_path / "package", engine=engine)

    names = {path.name for path in packed.iterdir() if path.suffix != ".dist-info"}

    # redis-py needs it where asyncio has no timeout of its own: before 3.11.3.
    is_old = engine == "redis" and sys.version_info < (3, 11, 3)
    assert names == DRIVERS[engine] | ({"async_timeout"} if is_old else set()) | {
        "aws",
        "aws_lambda_powertools",
        "jmespath",
        "keyturn",
        "msgspec",
        "typing_extensions.py",
        "yaml",
    }
    assert _zip_bytes(packed, tmp_path) <= ZIP_MAX_BYTES


@pytest.mark.parametrize("engine", DRIVERS)
def test_a_package_rotates_its_engine_and_no_other(engine: str, tmp_path: Path) -> None:
    """Every module that the target imports is there."""
    packed = _build(
        tmp_path / "package",
        engine=engine,
        architecture=_architecture(),
        python=platform.python_version(),
    )

    ran = _python(
        packed,
        _runtime(tmp_path / "runtime"),
        "from keyturn import wiring\n"
        "for module in wiring.target_modules(): print(*module.ENGINES, sep='\\n')\n"
        + "".join(
            f"import {name}\n" for name in sorted(DRIVERS[engine]) if not name.endswith(".libs")
        ),
    )

    assert ran.returncode == 0, ran.stderr
    rotated = {"none": set()}.get(engine, {engine})
    assert set(DRIVERS) & set(ran.stdout.split()) == rotated


def test_the_package_holds_our_code_as_far_as_it_is_used(deployed: Path) -> None:
    ours = deployed / "keyturn"

    packages = {path.name for path in ours.iterdir() if path.is_dir()}

    # Whose settings a plan may have; and how GKE is reached.
    what_follows = {"consumers", "destinations", "kubernetes", "google"}
    used = {"authorities", "generators", "notifiers", "stores", "targets"}
    assert packages == used | what_follows
    assert {path.name for path in (ours / "stores").iterdir()} == {
        "__init__.py",
        "secrets_manager.py",
        "stored.py",
    }
    assert [path.name for path in (deployed / "aws").iterdir()] == ["rotate.py"]


@pytest.fixture(scope="module")
def generating(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The function that generates, packed for this machine and this Python."""
    folder = tmp_path_factory.mktemp("generating") / "package"
    return _build(
        folder,
        function="Generate",
        architecture=_architecture(),
        python=platform.python_version(),
    )


def test_the_package_that_generates_holds_what_makes_keys_and_no_driver(
    generating: Path, tmp_path: Path
) -> None:
    names = {path.name for path in generating.iterdir() if path.suffix != ".dist-info"}

    assert names >= {"bcrypt", "cryptography", "joserfc", "keyturn", "aws"}
    assert not [driver for drivers in DRIVERS.values() for driver in drivers & names]
    assert {path.name for path in (generating / "aws").iterdir()} == {"generate.py", "rotate.py"}
    targets = {path.name for path in (generating / "keyturn" / "targets").iterdir()}
    assert targets == {"__init__.py", *(f"{name}.py" for name in NO_DRIVER)}
    assert _zip_bytes(generating, tmp_path) <= GENERATE_ZIP_MAX_BYTES


def test_every_kind_can_be_made_with_the_package_alone(generating: Path, tmp_path: Path) -> None:
    ran = _python(
        generating,
        _runtime(tmp_path / "runtime"),
        "import aws.generate, aws.rotate, keyturn.plan\n"
        "from keyturn.generators import kinds\n"
        "from keyturn.generators.policy import NOTHING\n"
        "from keyturn.shapes import Place\n"
        "needed = {'totp': {'issuer': 'a', 'account': 'b'}, 'csr': {'common_name': 'a'},\n"
        "    'htpasswd': {'user': 'a', 'cost': 10}, 'fields': {'fields': {'a': {'kind': 'hex'}}}}\n"
        "for kind in kinds.KINDS:\n"
        "    policy = kinds.read({'kind': kind, **needed.get(kind, {})}, Place('here'))\n"
        "    assert policy.is_whole(policy.following(NOTHING)), kind\n"
        "print('all')\n",
    )

    assert ran.stdout.strip() == "all", ran.stderr


def test_the_package_that_follows_delivers_tells_and_retires(tmp_path: Path) -> None:
    """With the database's driver: an old password dies at the server."""
    packed = _build(
        tmp_path / "package",
        function="FollowUpFunction",
        engine="redis",
        architecture=_architecture(),
        python=platform.python_version(),
    )

    ran = _python(
        packed,
        _runtime(tmp_path / "runtime"),
        "import aws.follow_up, aws_encryption_sdk, keyturn.plan, redis\n"
        "from keyturn import wiring\n"
        "from keyturn.destinations import envelope, s3_blob, ssm_parameter\n"
        "print(*sorted(module.SCHEME for module in wiring._notifier_modules()))\n",
    )

    assert ran.stdout.split() == ["eventbridge", "log", "sns"], ran.stderr
    assert [path.name for path in (packed / "aws").iterdir()] == ["follow_up.py"]
    assert _zip_bytes(packed, tmp_path) <= GENERATE_ZIP_MAX_BYTES


@pytest.mark.parametrize(
    "function,engine",
    [
        *(("Rotate", engine) for engine in DRIVERS),
        *(("FollowUpFunction", engine) for engine in DRIVERS),
        ("RotateGenerated", "none"),
    ],
)
def test_whatever_is_packed_can_be_imported(function: str, engine: str, tmp_path: Path) -> None:
    """Every module of ours, with the package and the runtime's boto3 alone: all read plans."""
    packed = _build(
        tmp_path / "package",
        function=function,
        engine=engine,
        architecture=_architecture(),
        python=platform.python_version(),
    )

    ran = _python(
        packed,
        _runtime(tmp_path / "runtime"),
        "import importlib, pkgutil, aws, keyturn\n"
        "for package in (aws, keyturn):\n"
        "    for found in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        try:\n"
        "            importlib.import_module(found.name)\n"
        "            print(found.name)\n"
        "        except ModuleNotFoundError as missing:\n"
        "            print(found.name, missing.name, file=sys.stderr)\n",
    )

    assert ran.returncode == 0, ran.stderr
    assert set(ran.stderr.splitlines()) == ({SEALING} if function != "FollowUpFunction" else set())
    modules = {*ran.stdout.split(), *(line.split()[0] for line in ran.stderr.splitlines())}
    assert modules == {_module(path, packed) for path in _sources(packed)} - {"aws", "keyturn"}
    assert modules >= {"keyturn.destinations", "keyturn.consumers", "keyturn.kubernetes"}


SEALING = "keyturn.destinations.envelope aws_encryption_sdk"
"""What only a follow-up does: no other function imports it, nor has the library."""


def _sources(packed: Path) -> list[Path]:
    return [path for folder in ("aws", "keyturn") for path in (packed / folder).rglob("*.py")]


def _module(path: Path, packed: Path) -> str:
    parts = path.relative_to(packed).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def test_a_stack_without_a_database_needs_no_driver(tmp_path: Path) -> None:
    """`make build ENGINE=none`: the follow-up of generated secrets and keys."""
    packed = _build(tmp_path / "package", function="FollowUpFunction", engine="none")

    names = {path.name for path in packed.iterdir()}
    assert not [name for drivers in DRIVERS.values() for name in drivers & names]
    assert {path.name for path in (packed / "keyturn" / "targets").iterdir()} == {
        *("__init__.py", "members.py"),
        *(f"{name}.py" for name in NO_DRIVER),
    }
    assert _zip_bytes(packed, tmp_path) <= GENERATE_ZIP_MAX_BYTES


def test_the_package_says_what_is_inside_and_under_which_licence(deployed: Path) -> None:
    """Vulnerability scanners read METADATA; RECORD and the like differ between installers."""
    for folder in deployed.glob("*.dist-info"):
        assert (folder / "METADATA").is_file(), folder.name
        assert [*folder.rglob("*LICEN[CS]E*")], folder.name
    assert not [*deployed.glob("*.dist-info/RECORD"), *deployed.glob("*.dist-info/INSTALLER")]


def test_the_package_is_small_and_the_same_each_time(deployed: Path, tmp_path: Path) -> None:
    again = _build(tmp_path / "again")

    digests = {_zip(deployed, tmp_path / "one.zip"), _zip(again, tmp_path / "two.zip")}

    assert len(digests) == 1
    assert (tmp_path / "one.zip").stat().st_size <= ZIP_MAX_BYTES


def test_pip_packs_the_same_as_uv(deployed: Path, tmp_path: Path) -> None:
    """Not everybody has uv; the package must not tell who had."""
    if importlib.util.find_spec("pip") is None:
        pytest.skip("needs pip in this environment: apt install python3-venv, then make clean test")
    programs = tmp_path / "bin"
    programs.mkdir()
    _script(programs / "python3", f'exec "{sys.executable}" "$@"')
    for name in ("sh", "make", "mkdir", "cp", "rm", "find"):
        (programs / name).symlink_to(shutil.which(name) or name)

    with_pip = _build(tmp_path / "with-pip", path=str(programs))

    assert _zip(with_pip, tmp_path / "pip.zip") == _zip(deployed, tmp_path / "uv.zip")


def test_no_path_of_the_building_machine_is_inside(package: Path) -> None:
    for file in package.rglob("*"):
        if file.is_file():
            assert str(package).encode() not in file.read_bytes(), file
            assert str(ROOT).encode() not in file.read_bytes(), file


def test_the_handler_runs_with_the_package_and_the_runtimes_boto3_alone(
    package: Path, tmp_path: Path
) -> None:
    runtime = _runtime(tmp_path / "runtime")

    ran = _python(
        package,
        runtime,
        "import psycopg, yaml, msgspec, aws.rotate\n"
        "from types import SimpleNamespace\n"
        "assert psycopg.pq.__impl__ == 'binary', psycopg.pq.__impl__\n"
        "context = SimpleNamespace(aws_request_id='1', invoked_function_arn='arn',\n"
        "    get_remaining_time_in_millis=lambda: 60_000)\n"
        "try:\n"
        "    aws.rotate.handler({}, context)\n"
        "except Exception as error:\n"
        "    print(type(error).__name__)\n",
    )

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == "Misconfigured"


def test_the_postgres_target_is_found_in_the_package(package: Path, tmp_path: Path) -> None:
    """Targets are found by looking into their folder, so what is packed is what there is.

    Those that need no driver are in every package.
    """
    ran = _python(
        package,
        _runtime(tmp_path / "runtime"),
        "from keyturn import wiring\n"
        "print([module.__name__ for module in wiring.target_modules()])\n",
    )

    found = [f"keyturn.targets.{name}" for name in (*NO_DRIVER, "postgres")]
    assert ran.stdout.strip() == str(found), ran.stderr


# ---------------------------------------------------------------------------- how


def _entries(file: str) -> list[str]:
    text = (ROOT / file).read_text().replace("\\\n", "\\ ")
    return [line for line in text.splitlines() if line and not line.startswith(("#", " "))]


def _wanted(group: str) -> list[Requirement]:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = _of_group(pyproject["dependency-groups"], group)
    # requirements/dev.txt also holds what the project itself needs, as `make lock` asks for it.
    project = pyproject["project"]
    wanted += project["dependencies"] if group == "dev" else []
    for extra in project["optional-dependencies"].values() if group == "dev" else ():
        wanted += extra
    return [Requirement(each) for each in wanted]


def _of_group(groups: dict[str, list[str | dict[str, str]]], name: str) -> list[str]:
    found: list[str] = []
    for each in groups[name]:
        if isinstance(each, str):
            found.append(each)
        else:
            found += _of_group(groups, each["include-group"])
    return found


def _folder(folder: Path, files: list[str], mode: int) -> Path:
    for name in files:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
        file.chmod(mode)
    return folder


def _script(file: Path, line: str) -> None:
    file.write_text(f"#!/bin/sh\n{line}\n")
    file.chmod(0o755)


def _zip(folder: Path, archive: Path) -> str:
    """Zip *folder* as `make build` does; return the digest it reports."""
    ran = subprocess.run(
        [sys.executable, ZIP_REPRODUCIBLE, folder, archive],
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout.split()[0]


def _zip_bytes(packed: Path, folder: Path) -> int:
    _zip(packed, folder / "package.zip")
    return (folder / "package.zip").stat().st_size


def _build(  # noqa: PLR0913  # all but one have a default, and a name
    folder: Path,
    *,
    function: str = "Rotate",
    engine: str = "postgres",
    architecture: str = "arm64",
    python: str = "3.13",
    path: str | None = None,
) -> Path:
    """Pack as SAM does: make, in the functions' folder, with the destination in the environment."""
    environment = {name: each for name, each in os.environ.items() if not name.startswith("MAKE")}
    environment["PATH"] = path or f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment["ARTIFACTS_DIR"] = str(folder)
    environment["ARCHITECTURE"] = architecture
    environment["ENGINE"] = engine
    environment["PYTHON_VERSION"] = ".".join(python.split(".")[:2])
    built = subprocess.run(
        ["make", "--makefile", ROOT / "functions" / "Makefile", f"build-{function}"],  # noqa: S607  # from the PATH above
        cwd=ROOT / "functions",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return folder


def _runtime(folder: Path) -> Path:
    """What Lambda's Python brings along, and nothing of the development environment."""
    import boto3

    folder.mkdir()
    installed = Path(boto3.__file__).parents[1]
    for name in ("boto3", "botocore", "s3transfer", "dateutil", "urllib3", "jmespath", "six.py"):
        (folder / name).symlink_to(installed / name)
    return folder


def _python(package: Path, runtime: Path, program: str) -> subprocess.CompletedProcess[str]:
    # The task's folder comes first, then the runtime's packages; no site-packages at all.
    program = f"import sys; sys.path[:0] = [{str(package)!r}, {str(runtime)!r}]\n{program}"
    return subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={"AWS_DEFAULT_REGION": "eu-west-1", "AWS_LAMBDA_FUNCTION_NAME": "f"},
    )
