"""The commands of the runbook in docs/deliver.md, in their order, as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import pytest

from aws_cli import search_path
from clouds import ROOT
from keyturn.destinations.s3_blob import S3Blob
from keyturn.destinations.ssm_parameter import SsmParameter
from keyturn.local.aws import LocalAws
from keyturn.model import Credential, RotationId, Sensitive, Version
from keyturn.testing.contracts import MADE_AT

PAGE = (ROOT / "docs" / "deliver.md").read_text(encoding="utf-8")
RUNBOOK = PAGE[PAGE.index("\n## Runbook\n") :]
COMMANDS = re.findall(r"^```sh\n(.*?)^```$", RUNBOOK, re.DOTALL | re.MULTILINE)
NAME, KEY = "prod/orders/db", "alias/secrets"
TEXT = '{"username": "orders", "password": "Canary7-runbook é"}'


def test_the_runbook_runs(aws: LocalAws, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("runbook")
    blob, parameter, version_id = delivered(aws)

    ran = subprocess.run(
        ["/bin/sh", "-eux"],
        input="\n".join(COMMANDS),
        cwd=folder,
        env={
            "PATH": f"{programs(folder)}{os.pathsep}{search_path()}",
            "PYTHONPATH": str(ROOT / "functions"),
            "HOME": "/nonexistent",
            **aws.environment(),
        },
        capture_output=True,
        text=True,
        check=False,
    )

    is_silent = "Canary7" not in ran.stdout + ran.stderr
    assert is_silent
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert len(COMMANDS) == 5
    for name in ("orders.json", "orders-again.json", "orders-parameter.json"):
        is_same = (folder / name).read_text(encoding="utf-8").rstrip("\n") == TEXT
        assert is_same, name
        assert (folder / name).stat().st_mode & 0o777 == 0o600
    assert f"keyturn: {NAME} version {version_id}" in ran.stdout
    assert blob.holds().version_id == parameter.holds().version_id == version_id


def delivered(aws: LocalAws) -> tuple[S3Blob, SsmParameter, RotationId]:
    """Put what the page names into the cloud: a key, a secret, and a copy in either place."""
    kms: Any = boto3.client("kms", **aws.settings())
    s3: Any = boto3.client("s3", **aws.settings())
    ssm: Any = boto3.client("ssm", **aws.settings())
    kms.create_alias(AliasName=KEY, TargetKeyId=kms.create_key()["KeyMetadata"]["KeyId"])
    s3.create_bucket(
        Bucket="prod-secrets", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
    )
    manager = boto3.client("secretsmanager", **aws.settings())
    made = RotationId(manager.create_secret(Name=NAME, SecretString=TEXT)["VersionId"])
    version = Version(made, Credential("orders", Sensitive("unused")), MADE_AT)
    blob = S3Blob(s3, kms, bucket="prod-secrets", key="orders/db", kms_key=KEY, secret=NAME)
    parameter = SsmParameter(
        ssm, parameter=f"/{NAME}", kms_key=KEY, secret=NAME, may_be_advanced=False
    )
    for place in (blob, parameter):
        place.deliver(version, Sensitive(TEXT), place.holds())
    return blob, parameter, made


def programs(folder: Path) -> Path:
    """Return a folder in which `keyturn` is this checkout's."""
    found = folder / "bin"
    found.mkdir()
    (found / "keyturn").write_text(
        f"#!{sys.executable}\nfrom keyturn.cli import main\nmain()\n", encoding="utf-8"
    )
    (found / "keyturn").chmod(0o755)
    return found
