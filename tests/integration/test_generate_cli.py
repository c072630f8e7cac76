"""`keyturn generate` and `keyturn rotate`, as a person runs them, against a faithful AWS."""

from __future__ import annotations

import json
import os
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest
from typer.testing import CliRunner, Result

from clouds import ROOT
from keyturn.cli import app
from keyturn.cli import rotate as rotate_command
from keyturn.errors import Busy, KeyturnError, Misconfigured, NotYetAccepted
from keyturn.generators.fingerprint import fingerprint
from keyturn.local.aws import LocalAws
from keyturn.local.deploy import package
from keyturn.model import Sensitive

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

CANARY = "Canary7-cli"
_numbers = count(1)


@pytest.fixture
def manager(aws: LocalAws, monkeypatch: pytest.MonkeyPatch) -> SecretsManagerClient:
    for name, value in aws.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rotate_command, "PAUSE_S", 0.05)
    return boto3.client("secretsmanager", **aws.settings())


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the canary does not search: here a value is to be in a file."""
    return tmp_path_factory.mktemp("out")


def unused() -> str:
    return f"cli/{os.getpid()}/{next(_numbers)}"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def refusal(*arguments: str) -> KeyturnError:
    error = run(*arguments).exception
    assert isinstance(error, KeyturnError)
    return error


class TestGenerate:
    def test_stores_a_value_and_does_not_show_it(self, manager: SecretsManagerClient) -> None:
        name = unused()

        ran = run("generate", "hmac", "--secret", name, "--option", "bytes=64", "--json")

        told = json.loads(ran.output)
        value = manager.get_secret_value(SecretId=name)["SecretString"]
        shown = json.loads(value)["current"] in ran.output
        assert not shown
        assert told == {
            "secret": name,
            "version_id": manager.get_secret_value(SecretId=name)["VersionId"],
            "entropy_bits": 512.0,
            "fingerprint": fingerprint(name, Sensitive(value)),
            "outcome": "done",
        }

    def test_says_the_same_to_people(self, manager: SecretsManagerClient) -> None:
        ran = run("generate", "uuid", "--secret", unused())

        assert ran.exit_code == 0
        assert "entropy_bits  122.0" in ran.output
        del manager

    def test_overwrites_when_told(self, manager: SecretsManagerClient) -> None:
        name = unused()
        manager.create_secret(Name=name, SecretString=CANARY)

        assert "has a value already" in str(refusal("generate", "hex", "--secret", name))
        ran = run("generate", "hex", "--secret", name, "--overwrite")

        assert ran.exit_code == 0
        assert len(manager.get_secret_value(SecretId=name)["SecretString"]) == 64

    def test_does_it_once_for_one_request(self, manager: SecretsManagerClient) -> None:
        command = ("generate", "hex", "--secret", unused(), "--request-id", "one", "--json")

        first, again = (json.loads(run(*command).output) for _ in range(2))

        assert first.pop("outcome") == "done"
        assert again.pop("outcome") == "already_done"
        assert first == again
        del manager

    def test_writes_a_file_for_its_owners_eyes(self, folder: Path) -> None:
        file = folder / "key"

        ran = run("generate", "base64url", "--out", str(file))

        assert ran.exit_code == 0
        assert file.stat().st_mode & 0o777 == 0o600
        assert len(file.read_text()) == 43
        shown = file.read_text() in ran.output
        assert not shown

    def test_leaves_a_file_that_is_there_and_a_link_alone(self, folder: Path) -> None:
        (folder / "there").write_text("kept")
        (folder / "link").symlink_to(folder / "elsewhere")

        for name in ("there", "link"):
            error = refusal("generate", "hex", "--out", str(folder / name))
            assert isinstance(error, Misconfigured)
            assert "File exists" in str(error)
        assert (folder / "there").read_text() == "kept"
        assert not (folder / "elsewhere").exists()

    @pytest.mark.parametrize(
        "arguments,said,remedy",
        [
            ((), "the value has nowhere to go", "--secret"),
            (("--secret", "a", "--out", "b"), "the value has two places to go", "not both"),
            (("--out", "b", "--option", "bytes"), "an --option has no `=`", "NAME=VALUE"),
            (("--out", "b", "--option", "bytes=1"), "the options: 8 bits of entropy", "`bytes`"),
            (("--out", "b", "--option", "byte=32"), "the options: byte: is not a key", "`bytes`"),
            (("--secret", "arn:aws:a"), "'arn:aws:a' is not the name of a secret", "not the ARN"),
        ],
    )
    def test_refuses_with_what_to_do(
        self, arguments: tuple[str, ...], said: str, remedy: str
    ) -> None:
        error = refusal("generate", "hex", *arguments)

        assert said in str(error)
        assert remedy in error.remedy


# ---------------------------------------------------------------------------- rotate


def deployed(aws: LocalAws, folder: Path, name: str, policy: str) -> str:
    """Deploy the rotation function as it is, with a plan for the secret of that name."""
    plan = folder / "keyturn.yaml"
    plan.write_text(
        f"version: 1\nsecrets:\n  {name}:\n    strategy: generate\n    generate: {policy}\n"
    )
    function = f"rotate-{next(_numbers)}"
    role = boto3.client("iam", **aws.settings()).create_role(
        RoleName=function, AssumeRolePolicyDocument="{}"
    )
    functions = boto3.client("lambda", **aws.settings())
    arn = functions.create_function(
        FunctionName=function,
        Runtime="python3.13",
        Role=role["Role"]["Arn"],
        Handler="aws.rotate.handler",
        Code={"ZipFile": package(ROOT / "functions", plan)},
        Timeout=30,
    )["FunctionArn"]
    functions.add_permission(
        FunctionName=function,
        StatementId="secrets-manager",
        Action="lambda:InvokeFunction",
        Principal="secretsmanager.amazonaws.com",
        SourceAccount="123456789012",
    )
    return arn


def set_up(manager: SecretsManagerClient, aws: LocalAws, name: str, function_arn: str) -> None:
    """Name the rotation function; the configuration is tried, and nothing is rotated."""
    manager.rotate_secret(SecretId=name, RotationLambdaARN=function_arn, RotateImmediately=False)
    assert aws.settle()


class TestRotate:
    def test_waits_until_the_new_version_is_current(
        self, manager: SecretsManagerClient, aws: LocalAws, folder: Path
    ) -> None:
        """The whole way: generated on demand, rotated by the real function, nothing shown."""
        name = unused()
        run("generate", "hmac", "--secret", name)
        before = json.loads(manager.get_secret_value(SecretId=name)["SecretString"])
        set_up(manager, aws, name, deployed(aws, folder, name, "{kind: hmac}"))

        ran = run("rotate", name, "--json")

        told, got = json.loads(ran.output), manager.get_secret_value(SecretId=name)
        now = json.loads(got["SecretString"])
        is_kept = now["previous"] == before["current"]
        assert is_kept
        assert (told["secret"], told["version_id"], told["outcome"]) == (
            name,
            got["VersionId"],
            "done",
        )
        leaked = [text for text in (*now.values(), *before.values()) if text in ran.output]
        assert not leaked

    def test_rotates_what_is_no_json(
        self, manager: SecretsManagerClient, aws: LocalAws, folder: Path
    ) -> None:
        name = unused()
        manager.create_secret(Name=name, SecretString=CANARY)
        set_up(manager, aws, name, deployed(aws, folder, name, "{kind: passphrase}"))

        ran = run("rotate", name)

        value = manager.get_secret_value(SecretId=name)["SecretString"]
        assert "is current, after" in ran.output
        assert len(value.split(".")) == 10

    def test_gives_up_when_the_time_is_up(
        self, manager: SecretsManagerClient, aws: LocalAws, folder: Path
    ) -> None:
        """The value is no object, so that no key can be put into it."""
        name = unused()
        manager.create_secret(Name=name, SecretString=CANARY)
        set_up(manager, aws, name, deployed(aws, folder, name, "{kind: hmac}"))

        error = refusal("rotate", name, "--timeout", "1")

        assert isinstance(error, NotYetAccepted)
        assert "is not current after 1 s" in str(error)
        assert "log" in error.remedy
        assert manager.get_secret_value(SecretId=name)["SecretString"] == CANARY

    def test_needs_a_secret_with_a_rotation_function(self, manager: SecretsManagerClient) -> None:
        name = unused()
        manager.create_secret(Name=name, SecretString=CANARY)

        assert isinstance(refusal("rotate", name), Busy)
        assert "set a rotation function" in refusal("rotate", name).remedy

    def test_names_a_secret_that_is_not_there(self, manager: SecretsManagerClient) -> None:
        del manager

        assert isinstance(refusal("rotate", "nowhere"), Misconfigured)
