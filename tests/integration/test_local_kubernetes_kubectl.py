"""The real kubectl on the fake cluster: somebody else's reading of the API, beside our own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from clusters import Json, external, secret, workload
from conftest import need
from keyturn.local.kubernetes import FakeKubernetes
from keyturn.testing.certificates import Authority

Run = Callable[..., subprocess.CompletedProcess[str]]

KUBECTL = shutil.which(os.environ.get("KEYTURN_KUBECTL", "kubectl"))
"""Another one may be named. It is looked up here, before the tests lose their environment."""

ROLE = """
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: keyturn, namespace: shop}
rules:
- apiGroups: [external-secrets.io]
  resources: [externalsecrets]
  resourceNames: [db]
  verbs: [get, patch]
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [db]
  verbs: [get]
- apiGroups: [apps]
  resources: [deployments]
  resourceNames: [web]
  verbs: [get, watch, patch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: keyturn, namespace: shop}
subjects: [{kind: User, name: keyturn, apiGroup: rbac.authorization.k8s.io}]
roleRef: {kind: Role, name: keyturn, apiGroup: rbac.authorization.k8s.io}
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[FakeKubernetes]:
    need(present=KUBECTL is not None, what="kubectl", install="apt install kubernetes-client")
    authority = Authority(tmp_path, "ours")
    with FakeKubernetes(["shop"], authority=authority, step_every_s=0.02) as running:
        yield running


@pytest.fixture
def kubectl(cluster: FakeKubernetes, tmp_path: Path) -> Iterator[Run]:
    """Runs kubectl as a user; as admin if none is said.

    Its home and its cache are where the canary looks. Its configuration is not: it holds a token.
    """
    with tempfile.TemporaryDirectory() as folder:

        def run(
            *arguments: str, stdin: str | Json | None = None, user: str = "admin"
        ) -> subprocess.CompletedProcess[str]:
            config = Path(folder) / user
            if not config.exists():
                config.write_text(cluster.kubeconfig(user, namespace="shop"))
            return subprocess.run(
                [str(KUBECTL), "--request-timeout=20s", *arguments],
                env={"HOME": str(tmp_path), "KUBECONFIG": str(config), "PATH": "/usr/bin:/bin"},
                input=json.dumps(stdin) if isinstance(stdin, dict) else stdin,
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )

        yield run


def test_it_finds_the_resources(kubectl: Run) -> None:
    listed = kubectl("api-resources", "--namespaced=true", "-o", "name")

    assert listed.returncode == 0, listed.stderr
    assert {
        "secrets",
        "deployments.apps",
        "externalsecrets.external-secrets.io",
        "sealedsecrets.bitnami.com",
        "secretproviderclasspodstatuses.secrets-store.csi.x-k8s.io",
    } <= set(listed.stdout.split())


def test_it_creates_a_secret_and_does_not_do_it_twice(kubectl: Run) -> None:
    created = kubectl("create", "--validate=false", "-f", "-", stdin=secret())
    again = kubectl("create", "--validate=false", "-f", "-", stdin=secret())
    read = kubectl("get", "secret", "db", "-o", "jsonpath={.type}")

    assert created.stdout == "secret/db created\n", created.stderr
    assert 'secrets "db" already exists' in again.stderr
    assert read.stdout == "Opaque"


def test_it_creates_a_secret_in_its_own_words(cluster: FakeKubernetes, kubectl: Run) -> None:
    """`create secret` sends protobuf, where `-f` sends JSON."""
    created = kubectl("create", "secret", "generic", "db", "--from-literal=password=Canary7-word")

    found = cluster.get("secrets", "shop", "db")
    assert created.returncode == 0, created.stderr
    assert found is not None
    assert found["data"] == {"password": "Q2FuYXJ5Ny13b3Jk"}


@pytest.mark.parametrize(
    "resource, first, path",
    [
        ("deployments", workload("Deployment"), ("spec", "replicas")),
        ("externalsecrets", external(), ("spec", "refreshInterval")),
    ],
)
def test_it_applies_and_applies_again(
    cluster: FakeKubernetes, kubectl: Run, resource: str, first: Json, path: tuple[str, str]
) -> None:
    """A three-way merge: strategic for a built-in kind, a JSON merge for a custom one."""
    cluster.put(secret())
    cluster.provider = lambda _: json.dumps({"password": "Canary7-a"})
    changed = {**first, "spec": {**first["spec"], path[1]: 2 if path[1] == "replicas" else "2h"}}

    made = kubectl("apply", "--validate=false", "-f", "-", stdin=first)
    same = kubectl("apply", "--validate=false", "-f", "-", stdin=first)
    other = kubectl("apply", "--validate=false", "-f", "-", stdin=changed)

    words = [done.stdout.split()[-1] for done in (made, same, other)]
    assert words == ["created", "unchanged", "configured"], other.stderr
    found = cluster.get(resource, "shop", first["metadata"]["name"])
    assert found is not None
    assert found["spec"][path[1]] == changed["spec"][path[1]]
    assert found["spec"].get("template") == first["spec"].get("template")


def test_it_annotates_and_waits_for_the_sync(cluster: FakeKubernetes, kubectl: Run) -> None:
    held = {"prod/db": json.dumps({"password": "Canary7-first"})}
    cluster.provider = held.__getitem__
    cluster.put(external())

    ready = kubectl("wait", "--for=condition=Ready", "externalsecret/db", "--timeout=10s")
    cluster.settle()
    held["prod/db"] = json.dumps({"password": "Canary7-second"})
    marked = kubectl("annotate", "externalsecret", "db", "force-sync=a")
    cluster.settle()

    found = cluster.get("secrets", "shop", "db")
    assert ready.returncode == 0, ready.stderr
    assert marked.stdout.endswith("annotated\n"), marked.stderr
    assert found is not None
    assert found["metadata"]["annotations"]["force-sync"] == "a"


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet"])
def test_it_restarts_and_sees_the_rollout_through(
    cluster: FakeKubernetes, kubectl: Run, kind: str
) -> None:
    cluster.put(secret())
    cluster.put(workload(kind, replicas=2))
    cluster.settle()
    before = cluster.runs_with("shop", "web")
    cluster.put(secret(text="Canary7-second"))

    restarted = kubectl("rollout", "restart", f"{kind.lower()}/web")
    followed = kubectl("rollout", "status", f"{kind.lower()}/web", "--timeout=20s")
    cluster.settle()
    after = cluster.runs_with("shop", "web")

    assert restarted.returncode == 0, restarted.stderr
    assert followed.returncode == 0, followed.stderr
    assert [run.variables["db"]["password"] for run in before] == ["Canary7-first"] * 2
    assert [run.variables["db"]["password"] for run in after] == ["Canary7-second"] * 2


def test_it_is_told_of_a_rollout_that_hangs(cluster: FakeKubernetes, kubectl: Run) -> None:
    cluster.put(secret())
    cluster.put(workload("Deployment", containers=[{"name": "app", "image": "broken:1"}]))
    cluster.settle()
    cluster.advance(601)
    cluster.settle()

    followed = kubectl("rollout", "status", "deployment/web", "--timeout=20s")

    assert followed.returncode == 1
    assert 'deployment "web" exceeded its progress deadline' in followed.stderr


def test_it_pauses_resumes_and_undoes(cluster: FakeKubernetes, kubectl: Run) -> None:
    cluster.put(secret())
    cluster.put(workload("Deployment"))
    cluster.settle()
    kubectl("rollout", "restart", "deployment/web")
    cluster.settle()

    paused = kubectl("rollout", "pause", "deployment/web")
    resumed = kubectl("rollout", "resume", "deployment/web")
    undone = kubectl("rollout", "undo", "deployment/web")
    cluster.settle()

    found = cluster.get("deployments", "shop", "web")
    assert [done.returncode for done in (paused, resumed, undone)] == [0, 0, 0], undone.stderr
    assert found is not None
    assert not found["spec"]["template"]["metadata"].get("annotations")


def test_it_deletes_and_waits_until_it_is_gone(cluster: FakeKubernetes, kubectl: Run) -> None:
    cluster.put(secret())

    deleted = kubectl("delete", "secret", "db", "--timeout=10s")
    missing = kubectl("get", "secret", "db")
    no_matter = kubectl("delete", "secret", "db", "--ignore-not-found")

    assert deleted.stdout == 'secret "db" deleted\n', deleted.stderr
    assert 'Error from server (NotFound): secrets "db" not found' in missing.stderr
    assert no_matter.returncode == 0


def test_it_reads_a_long_list_in_pages(cluster: FakeKubernetes, kubectl: Run) -> None:
    for number in range(7):
        cluster.put(secret(f"s{number}"))

    listed = kubectl("get", "secrets", "--chunk-size=3", "-o", "name")

    assert listed.stdout.split() == [f"secret/s{number}" for number in range(7)]
    assert [request.verb for request in cluster.requests].count("list") == 3


@pytest.mark.parametrize(
    "question, answer",
    [
        (("get", "secrets/db"), "yes"),
        (("get", "secrets/other"), "no"),
        (("list", "secrets"), "no"),
        (("patch", "secrets/db"), "no"),
        (("patch", "externalsecrets.external-secrets.io/db"), "yes"),
        (("patch", "deployments.apps/web"), "yes"),
        (("delete", "deployments.apps/web"), "no"),
        (("get", "secrets/db", "--namespace=default"), "no"),
    ],
)
def test_it_applies_roles_and_asks_what_they_allow(
    kubectl: Run, question: tuple[str, ...], answer: str
) -> None:
    """Role and RoleBinding as YAML, and the user's own question; `no` exits with 1."""
    applied = kubectl("apply", "--validate=false", "-f", "-", stdin=ROLE)

    told = kubectl("auth", "can-i", *question, user="keyturn")

    assert applied.returncode == 0, applied.stderr
    assert told.stdout.split()[:1] == [answer], told.stderr


def test_it_acts_as_somebody_else(kubectl: Run) -> None:
    """User impersonation: an admin may, for `auth can-i --as`."""
    kubectl("apply", "--validate=false", "-f", "-", stdin=ROLE)

    told = kubectl("auth", "can-i", "get", "secrets/db", "--as=keyturn")
    other = kubectl("auth", "can-i", "get", "secrets/db", "--as=nobody")

    assert [told.stdout.split()[:1], other.stdout.split()[:1]] == [["yes"], ["no"]]


def test_it_is_refused_in_the_servers_words(kubectl: Run) -> None:
    refused = kubectl("get", "secret", "db", user="keyturn")

    assert refused.returncode == 1
    assert (
        'Error from server (Forbidden): secrets "db" is forbidden: User "keyturn" cannot get'
        ' resource "secrets" in API group "" in the namespace "shop"'
    ) in refused.stderr


def test_it_needs_tls_for_its_token() -> None:
    """kubectl gives its credentials to a server with a certificate only."""
    with FakeKubernetes() as plain, pytest.raises(RuntimeError, match="TLS"):
        plain.kubeconfig()


def test_its_configuration_trusts_one_authority(cluster: FakeKubernetes) -> None:
    [reach] = yaml.safe_load(cluster.kubeconfig())["clusters"]

    assert set(reach["cluster"]) == {"server", "certificate-authority-data"}


def test_the_page_shows_how_kubectl_gets_in(tmp_path: Path) -> None:
    """The example of docs/local.md as it stands; while it waits for Enter, kubectl looks on."""
    need(present=KUBECTL is not None, what="kubectl", install="apt install kubernetes-client")
    page = (Path(__file__).parents[2] / "docs" / "local.md").read_text(encoding="utf-8")
    [example] = [b for b in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "input(" in b]
    shown = subprocess.Popen(
        [sys.executable, "-c", example], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert shown.stdout is not None

    first = shown.stdout.readline()
    looked = subprocess.run(
        [str(KUBECTL), "get", "namespaces", "-o", "name"],
        env={
            "HOME": str(tmp_path),
            "KUBECONFIG": first.strip().partition("=")[2],
            "PATH": "/usr/bin:/bin",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    shown.communicate("\n", timeout=20)

    assert "namespace/shop\n" in looked.stdout, looked.stderr
    assert shown.returncode == 0
