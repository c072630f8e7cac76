"""`keyturn seal --sealed-secret`, as a person or a pipeline runs it, against a faithful AWS."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from typer.testing import CliRunner, Result

from cluster_copies import CANARY, NAMESPACE, Cluster, given, kubectl, texts
from keyturn.cli import app
from keyturn.destinations.sealed_secret import SealedSecretShape, make
from keyturn.errors import KeyturnError, Misconfigured
from keyturn.local.aws import LocalAws
from keyturn.model import RotationId, Sensitive
from keyturn.testing.certificates import Authority
from unsealing import CLUSTER_WIDE, NAMESPACE_WIDE, Controller

DOCUMENT = json.dumps({"username": "app", "password": f"{CANARY}é", "port": 5432})
_numbers = count(1)


@pytest.fixture(scope="module")
def controller() -> Controller:
    return Controller()


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory, controller: Controller) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("git")
    (folder / "cert.pem").write_text(controller.certificate)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def stored(aws: LocalAws, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """A secret's name, and the id of its current version."""
    for name, value in aws.environment().items():
        monkeypatch.setenv(name, value)
    manager: Any = boto3.client("secretsmanager", **aws.settings())
    name = f"prod/{os.getpid()}/{next(_numbers)}"
    return name, manager.create_secret(Name=name, SecretString=DOCUMENT)["VersionId"]


def run(folder: Path, *arguments: str, given: bytes = b"") -> Result:
    command = [*arguments, "--certificate", str(folder / "cert.pem")]
    return CliRunner().invoke(app, ["seal", *command], input=given)


def refusal(ran: Result) -> KeyturnError:
    assert isinstance(ran.exception, KeyturnError), ran.output
    return ran.exception


def test_the_manifest_opens_in_the_controller_and_nowhere_before(
    stored: tuple[str, str], folder: Path, controller: Controller
) -> None:
    """What is printed goes into Git: YAML, and nothing of the value."""
    name, version_id = stored
    ran = run(folder, name, "--sealed-secret", "orders/db")

    assert ran.exit_code == 0, ran.exception
    assert CANARY not in ran.output
    made = yaml.safe_load(ran.output)
    assert (made["kind"], made["metadata"]["name"], made["metadata"]["namespace"]) == (
        *("SealedSecret", "db", NAMESPACE),
    )
    opened = {key: Sensitive(text.decode()) for key, text in controller.unseal(made).items()}
    expected = {"username": "app", "password": f"{CANARY}é", "port": "5432"}
    assert opened == {key: Sensitive(text) for key, text in expected.items()}
    assert version_id in made["metadata"]["annotations"].values()


@pytest.mark.parametrize(
    "scope, annotations",
    [
        ("strict", set()),
        ("namespace-wide", {NAMESPACE_WIDE}),
        ("cluster-wide", {CLUSTER_WIDE}),
    ],
)
def test_each_scope_opens_and_nothing_else_is_said(
    stored: tuple[str, str],
    folder: Path,
    controller: Controller,
    scope: str,
    annotations: set[str],
) -> None:
    file = folder / "db.yaml"
    options = ("--scope", scope, "--key", "db.json", "--type", "example.com/db")
    ran = run(folder, stored[0], "--sealed-secret", "orders/db", *options, "--out", str(file))

    made = yaml.safe_load(file.read_text())
    assert (ran.exit_code, ran.output) == (0, "")
    is_same = controller.unseal(made) == {"db.json": DOCUMENT.encode()}
    assert is_same
    for metadata in (made["metadata"], made["spec"]["template"]["metadata"]):
        said = {each for each in metadata["annotations"] if "bitnami" in each}
        assert said == annotations
    assert made["spec"]["template"]["type"] == "example.com/db"


def test_what_was_committed_is_what_a_destination_would_have_written(
    stored: tuple[str, str], folder: Path, controller: Controller
) -> None:
    """Applied by somebody else: a look finds the version, and the controller opens it."""
    name, version_id = stored
    ran = run(folder, name, "--sealed-secret", "orders/db", "--json")
    with Cluster() as cluster:
        cluster.unseal = lambda one: {
            key: value.decode() for key, value in controller.unseal(one).items()
        }
        cluster.put(json.loads(ran.output))
        cluster.settle()
        shape = SealedSecretShape(namespace=NAMESPACE, name="db")
        place = make("sealed-secret", shape, given(cluster.client("admin"), name))

        assert place.holds().version_id == RotationId(version_id)
        assert set(texts(cluster.found("secrets")["data"])) == {"username", "password", "port"}


def test_kubectl_applies_what_was_committed(
    stored: tuple[str, str], folder: Path, controller: Controller
) -> None:
    """YAML, from a file that is left in the folder, as a pipeline would."""
    file = folder / "db.yaml"
    run(folder, stored[0], "--sealed-secret", "orders/db", "--out", str(file))
    with Cluster(Authority(folder, "cluster")) as cluster:
        cluster.unseal = lambda one: {
            key: value.decode() for key, value in controller.unseal(one).items()
        }
        apply = kubectl(cluster, folder)
        apply("create", "-f", str(file), "--validate=false")
        cluster.settle()

        assert set(texts(cluster.found("secrets")["data"])) == {"username", "password", "port"}


@pytest.mark.parametrize("size", [0, 1, 65_536])
def test_bytes_from_a_pipe_survive(folder: Path, controller: Controller, size: int) -> None:
    """Of which not every one has to be text."""
    raw = os.urandom(size)
    which = ("--secret", "prod/a", "--version-id", "v1")

    ran = run(folder, "-", *which, "--sealed-secret", "orders/db", "--key", "raw", given=raw)

    is_same = controller.unseal(yaml.safe_load(ran.output)) == {"raw": raw}
    assert is_same


BAD = {
    ("--sealed-secret", "orders"): "name: is not written as it must be",
    ("--sealed-secret", "Orders/db"): "namespace: is not written as it must be",
    ("--sealed-secret", "orders/db", "--scope", "wide"): "scope: is none of the values known here",
    ("--sealed-secret", "orders/db", "--key", "a b"): "key: is not written as it must be",
    ("--sealed-secret", "orders/db", "--kms-key", "k"): "it is not said what to seal with",
    (): "it is not said what to seal with",
    ("--kms-key", "k", "--out", "x"): "--certificate goes with --sealed-secret only",
}


@pytest.mark.parametrize("arguments", BAD, ids=" ".join)
def test_mistakes_are_named(folder: Path, arguments: tuple[str, ...]) -> None:
    which = ("--secret", "prod/a", "--version-id", "v1")

    error = refusal(run(folder, "-", *which, *arguments, given=DOCUMENT.encode()))

    assert isinstance(error, Misconfigured)
    assert str(error).endswith(BAD[arguments])


def test_a_certificate_that_is_none_missing_or_old_is_named(folder: Path) -> None:
    which = ("-", "--secret", "prod/a", "--version-id", "v1", "--sealed-secret", "orders/db")
    (folder / "cert.pem").write_text(Controller(lasts=timedelta(days=-1)).certificate)
    expired = refusal(run(folder, *which, given=DOCUMENT.encode()))
    (folder / "cert.pem").write_text("no PEM")
    none = refusal(run(folder, *which, given=DOCUMENT.encode()))
    (folder / "cert.pem").unlink()
    absent = refusal(run(folder, *which, given=DOCUMENT.encode()))
    unsaid = refusal(CliRunner().invoke(app, ["seal", *which], input=DOCUMENT))

    assert "expired on" in str(expired)
    assert "is no certificate in PEM" in str(none)
    assert str(absent).endswith("No such file or directory")
    assert str(unsaid).endswith("--certificate is not said")


def test_a_member_that_can_be_no_key_is_named(folder: Path) -> None:
    which = ("-", "--secret", "prod/a", "--version-id", "v1", "--sealed-secret", "orders/db")

    error = refusal(run(folder, *which, given=b'{"a b": "Canary7-x"}'))

    assert str(error) == ("version v1 of prod/a: the member 'a b' can be no key of a Secret")


def test_the_commands_of_the_guide_run(
    stored: tuple[str, str],
    folder: Path,
    controller: Controller,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All but `kubeseal`, in whose place the certificate is there already."""
    text = (Path(__file__).parents[2] / "docs" / "deliver.md").read_text(encoding="utf-8")
    [commands] = re.findall(r"^```sh\n(kubeseal.*?)^```$", text, re.DOTALL | re.MULTILINE)
    first, second = re.findall(r"^keyturn (.*)$", commands.replace("\\\n", " "), re.MULTILINE)
    monkeypatch.chdir(folder)
    (folder / "controller.pem").write_text(controller.certificate)
    name, _ = stored

    printed = CliRunner().invoke(app, shlex.split(first.replace("prod/orders/db", name))[:-2])
    CliRunner().invoke(app, shlex.split(second.replace("prod/orders/db", name)))

    made = [printed.output, (folder / "sealed-db-json.yaml").read_text(encoding="utf-8")]
    keys = [set(controller.unseal(yaml.safe_load(each))) for each in made]
    assert first.endswith("> sealed-db.yaml")
    assert keys == [{"username", "password", "port"}, {"db.json"}]
