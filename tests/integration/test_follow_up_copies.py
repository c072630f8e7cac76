"""The follow-up's Lambda with copies in a cluster, from the plan's text to the Secrets."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from aws.follow_up import handler
from clouds import LambdaContext
from cluster_copies import CANARY, Cluster, encoded, given, roles, sensitive, texts, version
from keyturn.destinations.kubernetes_secret import KubernetesSecretShape, make
from keyturn.errors import Busy, Drifted, Unreachable
from keyturn.kubernetes.marks import mark_of
from keyturn.model import Sensitive
from keyturn.testing.strict_secrets_manager import StrictSecretsManager
from unsealing import Controller

NAME, TOKEN = "copied/db", "copied/token"
MARK = mark_of(NAME)
PLAN = """\
version: 1
defaults:
  cluster: {{server: '{server}', token_secret: {token}}}
secrets:
  {name}:
    strategy: single-user
    deliver:
      - kubernetes-secret: {{namespace: orders, name: db}}
      - kubernetes-secret: {{namespace: orders, name: db-url, key: url, form: url}}
      - sealed-secret: {{namespace: orders, name: db-sealed}}
"""
_numbers = count(1)


def document(password: str) -> str:
    login = {"username": "app", "password": f"{CANARY}{password}"}
    return json.dumps({"engine": "postgres", "host": "db.example.com", "dbname": "a", **login})


class Room:
    """A store, a cluster, and the handler between them."""

    def __init__(self, store: StrictSecretsManager, cluster: Cluster) -> None:
        self.store, self.cluster = store, cluster

    def put(self, password: str) -> str:
        """Make another version current, and return its id."""
        token = f"{next(_numbers):0>36}"
        self.store.operate(
            "PutSecretValue",
            SecretId=NAME,
            SecretString=document(password),
            ClientRequestToken=token,
        )
        return token

    def look(self) -> dict[str, str]:
        context: Any = LambdaContext()
        return handler({"secret": NAME}, context)

    def held(self, name: str) -> dict[str, Sensitive]:
        return texts(self.cluster.found("secrets", name)["data"])

    def says(self, resource: str, name: str) -> str:
        found: str = self.cluster.found(resource, name)["metadata"]["annotations"][MARK]
        return found


@pytest.fixture(scope="module")
def controller() -> Controller:
    return Controller()


@pytest.fixture
def room(controller: Controller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Room]:
    with ExitStack() as stack:
        store = stack.enter_context(StrictSecretsManager())
        cluster = stack.enter_context(Cluster())
        service = "kube-system/http:sealed-secrets-controller:http"
        cluster.api.services[service] = {"/v1/cert.pem": controller.certificate}.__getitem__
        cluster.unseal = lambda one: {
            key: value.decode() for key, value in controller.unseal(one).items()
        }
        token = cluster.token("admin")
        for name, text in ((NAME, document("zero")), (TOKEN, token)):
            store.operate(
                "CreateSecret",
                Name=name,
                SecretString=text,
                ClientRequestToken=f"{next(_numbers):0>36}",
            )
        plan = tmp_path / "keyturn.yaml"
        plan.write_text(PLAN.format(server=cluster.server, token=TOKEN, name=NAME))
        variables = {
            "AWS_ENDPOINT_URL_SECRETS_MANAGER": store.settings()["endpoint_url"],
            "KEYTURN_SECRETS": "copied/*",
            "KEYTURN_ADMIN_SECRETS": TOKEN,
            "KEYTURN_PLAN": str(plan),
        }
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        yield Room(store, cluster)


def test_every_copy_follows_each_version(room: Room) -> None:
    """A plain Secret, one of another form, and a sealed one that the controller opens."""
    for password in ("one", "two"):
        version_id = room.put(password)

        room.look()
        room.cluster.settle()

        secret = f"{CANARY}{password}"
        whole = sensitive(
            engine="postgres",
            host="db.example.com",
            dbname="a",
            username="app",
            password=secret,
        )
        assert room.held("db") == room.held("db-sealed") == whole
        assert room.held("db-url") == sensitive(
            url=f"postgresql://app:{secret}@db.example.com:5432/a"
        )
        assert {
            room.says(*each)
            for each in (
                ("secrets", "db"),
                ("secrets", "db-url"),
                ("sealedsecrets", "db-sealed"),
                ("secrets", "db-sealed"),
            )
        } == {version_id}


def test_a_look_that_finds_all_there_reads_no_copy_and_writes_none(room: Room) -> None:
    room.look()
    room.cluster.requests.clear()

    room.look()

    assert (room.cluster.values_read(), room.cluster.writes()) == (0, 0)
    assert len(room.cluster.requests) == 3


def test_somebodys_secret_is_an_error_and_the_other_copies_follow(room: Room) -> None:
    """Until it is handed over."""
    foreign = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "db", "namespace": "orders"},
        "data": {"password": encoded(f"{CANARY}foreign")},
    }
    room.cluster.put(foreign)

    with pytest.raises(Drifted):
        room.look()

    assert room.held("db") == sensitive(password=f"{CANARY}foreign")
    assert "url" in room.held("db-url")
    given_over = room.cluster.found("secrets")
    given_over["metadata"]["annotations"] = {MARK: ""}
    room.cluster.put(given_over)
    room.look()
    assert room.says("secrets", "db")


def test_workers_that_write_at_once_never_write_over_what_they_have_not_seen() -> None:
    """Eight of them, each with versions of its own, over the wire: every write's predecessor is
    the one that was looked at, however they interleave."""
    seen: dict[str, str | None] = {}
    failures: list[str] = []
    with Cluster() as cluster:
        cluster.allow("keyturn", "orders", roles("Kubernetes Secret")[0]["rules"])
        shape = KubernetesSecretShape(namespace="orders", name="db", key="copy")

        def work(number: int) -> None:
            place = make("kubernetes-secret", shape, given(cluster.client()))
            for turn in range(12):
                name = f"v{number}-{turn}"
                held = place.holds()
                try:
                    place.deliver(version(name), Sensitive(f"{CANARY}{name}"), held)
                except Busy:
                    continue
                except Unreachable as error:
                    failures.append(str(error))
                seen[name] = held.version_id

        threads = [threading.Thread(target=work, args=[number]) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        events = [event for event in cluster.objects.since(0) if event.key.plural == "secrets"]
        history = [_says(event.now) for event in events]

    assert failures == []
    assert len(history) >= 12
    assert set(history) == set(seen)
    assert [seen[name] for name in history] == [None, *history[:-1]]
    wrong = [
        event.now
        for event in events
        if texts(event.now["data"]) != {"copy": Sensitive(f"{CANARY}{_says(event.now)}")}
    ]
    assert len(wrong) == 0


def _says(one: Any) -> str:
    found: str = one["metadata"]["annotations"][mark_of("prod/orders/db")]
    return found
