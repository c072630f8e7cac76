"""The real kubectl, on a fake cluster of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from keyturn.local.kubernetes import FakeKubernetes
from keyturn.testing.certificates import Authority

KUBECTL = shutil.which(os.environ.get("KEYTURN_KUBECTL", "kubectl"))
"""Whichever version is installed."""


class Kubectl:
    """Runs kubectl as `admin`.

    Attributes:
        cluster: What it talks to.
        authority: Who has signed the cluster's certificate.
    """

    def __init__(self, cluster: FakeKubernetes, authority: Authority, home: Path) -> None:
        self.cluster = cluster
        self.authority = authority
        self._home = home
        self._config = home / "config"
        self._config.write_text(cluster.kubeconfig())

    def run(self, *words: str, stdin: Mapping[str, Any] | None = None) -> tuple[int, str]:
        """Run it once; its exit code, and what it says on both channels."""
        done = subprocess.run(
            [KUBECTL or "kubectl", *words],
            input=json.dumps(stdin) if stdin is not None else "",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self._home),
                "KUBECONFIG": str(self._config),
            },
        )
        return done.returncode, done.stdout + done.stderr


@contextmanager
def running(*namespaces: str, nodes: int = 3) -> Iterator[Kubectl]:
    """Start a cluster with TLS, as kubectl wants it. Its folder holds a token."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        authority = Authority(home, "cluster")
        with FakeKubernetes(namespaces, authority=authority, nodes=nodes) as cluster:
            yield Kubectl(cluster, authority, home)
