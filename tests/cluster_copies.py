"""A fake cluster in which copies are kept, and what a destination there is given."""

from __future__ import annotations

import base64
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from shutil import which
from typing import Any, NoReturn

import yaml

from conftest import need
from keyturn.access import Access
from keyturn.followers import Given
from keyturn.kubernetes.api import Kubernetes
from keyturn.kubernetes.cluster import ClusterShape
from keyturn.kubernetes.marks import mark_of
from keyturn.line import MARGIN_S
from keyturn.local.kubernetes import FakeKubernetes
from keyturn.local.kubernetes_api import Request
from keyturn.model import Credential, RotationId, Sensitive, Surroundings, Version
from keyturn.testing.certificates import Authority

Json = dict[str, Any]

CANARY = "Canary7-"
NAME, NAMESPACE = "prod/orders/db", "orders"
MARK = mark_of(NAME)


class Cluster(FakeKubernetes):
    """A fake cluster with the namespace, that can be cut off."""

    def __init__(self, authority: Authority | None = None) -> None:
        super().__init__([NAMESPACE], authority=authority)
        self._authority_pem = None if authority is None else authority.file.read_text()
        self._is_out = False
        self.drop(10_000, only=lambda _: self._is_out)

    def client(self, user: str = "keyturn") -> Kubernetes:
        """Return a client of a user who may do what `allow` says."""
        token = Sensitive(self.token(user))
        reach = Access(self.server, self._authority_pem, lambda _: token)
        return Kubernetes("fake", lambda: reach, Surroundings(self._remaining_s))

    def _remaining_s(self) -> float:
        return MARGIN_S + (0.1 if self._is_out else 60.0)

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Let nobody get an answer."""
        self._is_out = True
        yield
        self._is_out = False

    @contextmanager
    def lose_write(self) -> Iterator[None]:
        """Let the next write have its effect, and tell nobody."""
        self.lose_reply(only=is_write)
        yield

    def values_read(self) -> int:
        """Count the requests that fetched more of a Secret than its metadata."""
        return sum(
            each.verb in {"get", "list", "watch"} and not each.is_metadata
            for each in self.requests
            if each.resource == "secrets"
        )

    def writes(self) -> int:
        """Count those that were asked for."""
        return sum(map(is_write, self.requests))

    def found(self, resource: str, name: str = "db") -> Json:
        """Return an object that is there."""
        found = self.get(resource, NAMESPACE, name)
        assert found is not None
        return found


def is_write(request: Request) -> bool:
    """Tell whether a request is one."""
    return request.method in {"PATCH", "POST"}


def given(kubernetes: Kubernetes, secret: str = NAME) -> Given:
    """Return what a destination is given, in one cluster."""

    def cluster(shape: ClusterShape | None) -> Kubernetes:
        del shape
        return kubernetes

    return Given(secret, _nobody, cluster, _nobody, _nobody, _nobody, Surroundings(lambda: 60.0))


def _nobody(*args: Any) -> NoReturn:
    raise AssertionError(args)


def kubectl(cluster: Cluster, folder: Path) -> Callable[..., str]:
    """Return what runs the real program as an administrator, and returns what it says."""
    program = which("kubectl") or ""
    need(present=bool(program), what="kubectl", install="apt install kubernetes-client")
    config = folder / "config"

    def run(*arguments: str, text: str = "") -> str:
        config.write_text(cluster.kubeconfig(namespace=NAMESPACE))
        done = subprocess.run(
            [program, "--kubeconfig", str(config), *arguments],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={**os.environ, "HOME": str(folder)},
        )
        config.unlink()  # it holds a token
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def version(name: str) -> Version:
    """Make a version; destinations are given its text besides."""
    credential = Credential("app", Sensitive(f"{CANARY}unused"))
    return Version(RotationId(name), credential, datetime(2030, 1, 1, tzinfo=UTC))


def texts(data: Mapping[str, str]) -> dict[str, Sensitive]:
    """Decode a Secret's `data`."""
    return {key: Sensitive(base64.b64decode(value).decode()) for key, value in data.items()}


def encoded(text: str) -> str:
    """Encode a value as in `data`."""
    return base64.b64encode(text.encode()).decode()


def sensitive(**texts: str) -> dict[str, Sensitive]:
    """Return texts as they are compared."""
    return {key.replace("__", "."): Sensitive(text) for key, text in texts.items()}


PAGE = Path(__file__).parents[1] / "docs" / "deliver.md"


def roles(section: str) -> list[Json]:
    """Return the Roles in a section of docs/deliver.md, as they are to be applied."""
    text = PAGE.read_text(encoding="utf-8").partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```yaml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    found = [each for block in blocks for each in yaml.safe_load_all(block)]
    return [each for each in found if isinstance(each, dict) and each.get("kind") == "Role"]


def granted(roles: list[Json]) -> set[str]:
    """Return what Roles allow, as an adapter's PERMISSIONS say it."""
    return {
        f"{verb} {'.'.join(filter(None, (resource, group)))}"
        for role in roles
        for rule in role["rules"]
        for verb in rule["verbs"]
        for resource in rule["resources"]
        for group in rule["apiGroups"]
    }
