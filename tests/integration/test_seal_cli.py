"""`keyturn seal` and `keyturn open`, as a person runs them, against a faithful AWS."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import boto3
import pytest
from typer.testing import CliRunner, Result

from clouds import ROOT
from keyturn.cli import app
from keyturn.errors import Drifted, KeyturnError, Misconfigured
from keyturn.local.aws import LocalAws

CANARY = "Canary7-"
NAME, VERSION = "prod/orders/db", "6f1a7c1e-0000-4000-8000-000000000000"
AS_IS = ("--secret", NAME, "--version-id", VERSION)
_numbers = count(1)


@pytest.fixture
def cloud(aws: LocalAws, monkeypatch: pytest.MonkeyPatch) -> LocalAws:
    for name, value in aws.environment().items():
        monkeypatch.setenv(name, value)
    return aws


@pytest.fixture
def key(cloud: LocalAws) -> str:
    """The alias of a KMS key."""
    kms: Any = boto3.client("kms", **cloud.settings())
    alias = f"alias/seal-{os.getpid()}-{next(_numbers)}"
    kms.create_alias(AliasName=alias, TargetKeyId=kms.create_key()["KeyMetadata"]["KeyId"])
    return alias


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that the canary does not search: here a value is to be in a file."""
    folder = tmp_path_factory.mktemp("out")
    yield folder
    shutil.rmtree(folder)


def run(*arguments: str, given: bytes = b"") -> Result:
    return CliRunner().invoke(app, list(arguments), input=given)


def refusal(*arguments: str, given: bytes = b"") -> KeyturnError:
    error = run(*arguments, given=given).exception
    assert isinstance(error, KeyturnError)
    return error


def test_the_current_version_of_a_secret_is_sealed_and_opened(
    cloud: LocalAws, key: str, folder: Path
) -> None:
    """Name and version are the store's own; nothing is shown but those."""
    manager: Any = boto3.client("secretsmanager", **cloud.settings())
    name, text = f"seal/{os.getpid()}/{next(_numbers)}", f'{{"password": "{CANARY}é"}}'
    made = manager.create_secret(Name=name, SecretString=text)
    sealed, opened = folder / "sealed", folder / "opened"

    told = run("seal", name, "--kms-key", key, "--out", str(sealed), "--json")
    by_arn = run("seal", made["ARN"], "--kms-key", key, "--out", str(sealed))
    which = ("--secret", name, "--version-id", made["VersionId"])
    done = run("open", str(sealed), *which, "--kms-key", key, "--out", str(opened))

    facts = json.loads(told.output)
    assert (facts["secret"], facts["version_id"], facts["format"]) == (
        name,
        made["VersionId"],
        "kms",
    )
    assert f"secret        {name}" in by_arn.output
    assert done.output == ""
    is_same = opened.read_text() == text
    assert is_same
    assert opened.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("size", [1, 4_096, 4_097, 65_536])
def test_bytes_go_in_and_out_through_pipes(key: str, folder: Path, size: int) -> None:
    sealed, raw = folder / "sealed", os.urandom(size)

    run("seal", "-", *AS_IS, "--kms-key", key, "--out", str(sealed), given=raw)
    from_file = run("open", str(sealed), *AS_IS)
    from_pipe = run("open", "-", *AS_IS, given=sealed.read_bytes())

    is_same = from_file.stdout_bytes == from_pipe.stdout_bytes == raw
    assert is_same


def test_an_object_is_opened_where_it_is(cloud: LocalAws, key: str, folder: Path) -> None:
    """By its address; what it says of itself explains why it is not the right one."""
    s3: Any = boto3.client("s3", **cloud.settings())
    bucket, sealed = f"seal-{os.getpid()}-{next(_numbers)}", folder / "sealed"
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    run("seal", "-", *AS_IS, "--kms-key", key, "--out", str(sealed), given=b"Canary7-there")
    metadata = {"keyturn-secret": NAME, "keyturn-version": VERSION}
    s3.put_object(Bucket=bucket, Key="a/b", Body=sealed.read_bytes(), Metadata=metadata)

    found = run("open", f"s3://{bucket}/a/b", *AS_IS)
    another = refusal("open", f"s3://{bucket}/a/b", "--secret", NAME, "--version-id", "v2")

    is_same = found.stdout_bytes == b"Canary7-there"
    assert is_same
    assert str(refusal("open", "s3://a", *AS_IS)) == "s3://a names no object"
    assert str(another) == f"s3://{bucket}/a/b is version {VERSION}, not v2"


def test_a_terminal_is_refused_unless_it_is_asked_for(
    cloud: LocalAws, key: str, folder: Path
) -> None:
    """Nothing is even decrypted. Whoever insists is shown it."""
    sealed = folder / "sealed"
    run("seal", "-", *AS_IS, "--kms-key", key, "--out", str(sealed), given=b"Canary7-shown")

    refused = at_a_terminal(cloud, "open", str(sealed), *AS_IS)
    shown = at_a_terminal(cloud, "open", str(sealed), *AS_IS, "--terminal")

    assert "standard output is a terminal" in refused
    is_hidden, is_shown = CANARY not in refused, f"{CANARY}shown" in shown
    assert is_hidden
    assert is_shown


def at_a_terminal(cloud: LocalAws, *arguments: str) -> str:
    """Run the command with a terminal as its standard output; return what that showed."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, **cloud.environment(), "PYTHONPATH": str(ROOT / "functions")}
    command = [sys.executable, "-c", "from keyturn.cli import main; main()", *arguments]
    ran = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    said = b""
    try:
        while chunk := os.read(ours, 4_096):
            said += chunk
    except OSError:  # how a terminal says that nobody writes to it any more
        pass
    os.close(ours)
    ran.wait()
    return said.decode()


def test_a_file_that_is_there_is_left_alone(key: str, folder: Path) -> None:
    """The sealed copy may be replaced, an opened value never is."""
    sealed, there = folder / "sealed", folder / "there"
    there.write_text("kept")
    for _ in range(2):
        run("seal", "-", *AS_IS, "--kms-key", key, "--out", str(sealed), given=b"Canary7-x")

    error = refusal("open", str(sealed), *AS_IS, "--out", str(there))

    assert "File exists" in str(error)
    assert there.read_text() == "kept"


def test_what_is_demanded_is_demanded(key: str, folder: Path) -> None:
    """Another version, a copy that was changed, and no copy at all."""
    sealed = folder / "sealed"
    run("seal", "-", *AS_IS, "--kms-key", key, "--out", str(sealed), given=b"Canary7-x")

    another = refusal("open", str(sealed), "--secret", NAME, "--version-id", "v2")
    sealed.write_bytes(sealed.read_bytes()[:-1])
    changed = refusal("open", str(sealed), *AS_IS)
    absent = refusal("open", str(folder / "absent"), *AS_IS)

    assert isinstance(another, Drifted)
    assert f"{sealed}: KMS does not open it as version v2 of {NAME}" in str(another)
    assert isinstance(changed, Drifted)
    assert isinstance(absent, Misconfigured)
    assert "No such file" in str(absent)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("-", "--secret", NAME), "does not say which secret and version"),
        (("-", "--version-id", "v1"), "does not say which secret and version"),
        (("nowhere",), "DescribeSecret answered ResourceNotFoundException"),
    ],
    ids=["no version", "no secret", "not there"],
)
def test_what_is_missing_is_named(
    key: str, folder: Path, arguments: tuple[str, ...], said: str
) -> None:
    error = refusal("seal", *arguments, "--kms-key", key, "--out", str(folder / "x"), given=b"x")

    assert said in str(error)
    assert not (folder / "x").exists()


def test_a_stored_secret_needs_no_other_name(cloud: LocalAws, key: str, folder: Path) -> None:
    manager: Any = boto3.client("secretsmanager", **cloud.settings())
    name = f"seal/{os.getpid()}/{next(_numbers)}"
    manager.create_secret(Name=name, SecretString=f"{CANARY}x")

    error = refusal("seal", name, *AS_IS, "--kms-key", key, "--out", str(folder / "x"))

    assert "the store says which" in str(error)
    assert not (folder / "x").exists()
