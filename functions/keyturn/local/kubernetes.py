"""A fake Kubernetes cluster on loopback: the API over the real wire, controllers to be stepped.

    with FakeKubernetes(namespaces=["shop"]) as cluster:
        cluster.put({"apiVersion": "v1", "kind": "Secret", ...})     # past the wire, to arrange
        cluster.server                          # http://127.0.0.1:40123
        token = cluster.token("keyturn")        # a bearer token; "admin" may do everything
        cluster.allow("keyturn", "shop", [{"apiGroups": [""], "resources": ["secrets"],
                                           "resourceNames": ["db"], "verbs": ["get"]}])
        ...                                     # the client under test
        cluster.settle()                        # all controllers, until nothing changes any more
        cluster.get("secrets", "shop", "db")
        cluster.runs_with("shop", "web")        # which Secrets the pods of a workload run with
        cluster.requests                        # verbs and paths; never a body

What goes wrong, for the next requests, or those that `only` picks:

    cluster.fail(503, times=2, retry_after_s=1)    an answer without an effect
    cluster.drop()                                 no answer and no effect
    cluster.lose_reply()                           the effect, and no answer
    cluster.hang(seconds=5)                        a long wait, then no answer and no effect
    cluster.forget_changes()                       watches and pages from before are told 410

The parts:

    kubernetes_http         sockets, watches, faults
    kubernetes_api          paths, verbs, who may
    kubernetes_objects      the store: versions, conflicts, generations
    kubernetes_rules        what is filled in and what is refused, for each kind
    kubernetes_workloads    the controllers of Deployments and their like
    kubernetes_kubelet      pods, the Secrets they run with, and the CSI driver's mounts
    kubernetes_operators    External Secrets and Sealed Secrets

Written from the documentation and the sources that each part names, and driven by the real kubectl
in the tests. It is no proof for a real cluster: there is no schema, no admission, no server-side
apply, no protobuf and no finalizer of its own. An address without TLS is for loopback only.
"""

from __future__ import annotations

import base64
import secrets
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import yaml

from keyturn.local import kubernetes_kubelet, kubernetes_operators, kubernetes_workloads
from keyturn.local.kubernetes_api import Api, Request
from keyturn.local.kubernetes_http import Fault, served
from keyturn.local.kubernetes_kubelet import Run
from keyturn.local.kubernetes_objects import Key, Objects
from keyturn.local.kubernetes_rbac import MASTERS, RBAC, User

if TYPE_CHECKING:
    from keyturn.testing.certificates import Authority

Json = dict[str, Any]
Only = Callable[[Request], bool]

SETTLED_AFTER = 10_000
"""Steps after which controllers that still change something work against each other."""

NAMESPACES = ("default", "kube-system", "kube-public")


def _any(request: Request) -> bool:  # noqa: ARG001  # the shape of a predicate
    return True


class FakeKubernetes:
    """The cluster. A context manager; state is not kept.

    Args:
        namespaces: Those that are there besides Kubernetes' own.
        creates_namespaces: An object may be created in a namespace that is not there yet.
        authority: Issues the server's certificate; without one the server speaks plain HTTP.
        clock: Returns the time, aware.
        step_every_s: Step the controllers that often, in a thread; without it they stand still
            until `step` or `settle` is called.
        nodes: How many there are, for DaemonSets.

    Attributes:
        provider: What External Secrets reads: from a remote key to its text. Raises LookupError for
            a key that is not there.
        mounts: What the CSI driver reads: from an object's name to the id of its current version.
        has_csi_rotation: The CSI driver reads again while a pod runs.
        unseal: What the Sealed Secrets controller can read: from a SealedSecret to its values by
            name. Raises ValueError for one that it cannot unseal.
        is_broken: Tells whether a container of that image never gets ready.
        requests: Every one since the start. `requests.clear()` forgets them.
    """

    def __init__(  # noqa: PLR0913  # each is a knob of its own, by name
        self,
        namespaces: Iterable[str] = (),
        *,
        creates_namespaces: bool = False,
        authority: Authority | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        step_every_s: float | None = None,
        nodes: int = 2,
    ) -> None:
        self.provider: Callable[[str], str] = _nothing
        self.mounts: Callable[[str], str] = _nothing
        self.has_csi_rotation = False
        self.unseal: Callable[[Mapping[str, Any]], Mapping[str, str]] = _unsealed
        self.is_broken: Callable[[str], bool] = lambda image: "broken" in image
        self.nodes = nodes
        self.runs: dict[str, Run] = {}
        self.objects = Objects(self.now, creates_namespaces=creates_namespaces)
        self.requests: list[Request] = []
        self.watch_round = 0
        self._users: dict[str, User] = {}
        self.api = Api(self.objects, self._users)
        self._clock = clock
        self._ahead = timedelta()
        self._authority = authority
        self._step_every_s = step_every_s
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._stack = ExitStack()
        self._port = 0
        for name in (*NAMESPACES, *namespaces):
            self.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})

    def __enter__(self) -> Self:
        tls = None
        if self._authority is not None:
            issued = self._authority.issue("127.0.0.1")
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(issued.certificate, issued.key)
        self._port = self._stack.enter_context(served(self, tls))
        if self._step_every_s is not None:
            self._stack.callback(self._start_stepping(self._step_every_s))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    # ------------------------------------------------------------------ the way in

    @property
    def server(self) -> str:
        """The API server's address."""
        return f"http{'s' if self._authority else ''}://127.0.0.1:{self._port}"

    def token(self, user: str = "admin", groups: Sequence[str] = ()) -> str:
        """Return a new bearer token of a user. `admin` may do everything."""
        made = f"Canary7-{secrets.token_hex(16)}"
        self._users[made] = User(user, (MASTERS, *groups) if user == "admin" else tuple(groups))
        return made

    def revoke(self, token: str) -> None:
        """Let a token in no more: 401."""
        del self._users[token]

    def allow(self, user: str, namespace: str, rules: Sequence[Mapping[str, Any]]) -> None:
        """Give a user a Role of these rules, and no other that `allow` gave him there before."""
        name = {"name": f"allowed-{user.replace(':', '-')}", "namespace": namespace}
        version = f"{RBAC}/v1"
        role = {"apiVersion": version, "kind": "Role", "metadata": name, "rules": [*rules]}
        binding = {
            "apiVersion": version,
            "kind": "RoleBinding",
            "metadata": name,
            "subjects": [{"kind": "User", "name": user, "apiGroup": RBAC}],
            "roleRef": {"kind": "Role", "name": name["name"], "apiGroup": RBAC},
        }
        self.put(role)
        self.put(binding)

    def kubeconfig(self, user: str = "admin", *, namespace: str = "default") -> str:
        """Return the text of a kubeconfig for kubectl, with a new token. Keep it like a secret.

        Raises:
            RuntimeError: The server has no certificate: kubectl sends no token without TLS.
        """
        if self._authority is None:
            raise RuntimeError("kubectl sends no token without TLS: give the cluster an authority")
        trusted = base64.b64encode(self._authority.file.read_bytes()).decode()
        reach = {"server": self.server, "certificate-authority-data": trusted}
        return yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "fake", "cluster": reach}],
                "users": [{"name": user, "user": {"token": self.token(user)}}],
                "contexts": [
                    {
                        "name": "fake",
                        "context": {"cluster": "fake", "user": user, "namespace": namespace},
                    }
                ],
                "current-context": "fake",
            }
        )

    # ------------------------------------------------------------------ objects, past the wire

    def put(self, made: Mapping[str, Any]) -> Json:
        """Create an object or replace it, its status too, and return it."""
        return self.objects.put(dict(made))

    def get(self, resource: str, namespace: str, name: str) -> Json | None:
        """Return an object, or None. The resource is its plural: `deployments`."""
        kind = self.objects.kind_named(resource)
        place = namespace if kind.is_namespaced else ""
        return self.objects.find(Key(kind.group, kind.plural, place, name))

    def list(self, resource: str, namespace: str = "") -> list[Json]:
        """Return all objects of a kind, of one namespace or of all."""
        return [
            each for _, each in self.objects.every(self.objects.kind_named(resource), namespace)
        ]

    def delete(self, resource: str, namespace: str, name: str) -> None:
        """Delete an object; one that is not there is no error."""
        kind = self.objects.kind_named(resource)
        key = Key(kind.group, kind.plural, namespace if kind.is_namespaced else "", name)
        if self.objects.find(key) is not None:
            self.objects.delete(kind, key)

    def serve(self, group: str, *versions: str) -> None:
        """Serve a group in these versions only: `serve("external-secrets.io", "v1beta1")`."""
        self.objects.serve(group, versions)

    # ------------------------------------------------------------------ controllers and time

    def now(self) -> datetime:
        """Return the cluster's time."""
        return self._clock() + self._ahead

    def advance(self, seconds: float) -> None:
        """Let time pass, for the cluster alone. Nothing happens until the next step."""
        self._ahead += timedelta(seconds=seconds)

    def step(self) -> bool:
        """Let each controller do the next thing it has to do, and tell whether anything changed."""
        # Held for the whole step: no write of a client comes between what a controller has read
        # and what it makes of it. The hooks are called inside.
        with self.objects.lock:
            before = self.objects.version
            kubernetes_operators.step(self)
            kubernetes_kubelet.step(self)
            kubernetes_workloads.step(self)
            return self.objects.version != before

    def settle(self) -> None:
        """Step until nothing changes any more."""
        for _ in range(SETTLED_AFTER):
            if not self.step():
                return
        raise RuntimeError(f"the controllers have not come to rest in {SETTLED_AFTER} steps")

    def runs_with(self, namespace: str, workload: str) -> Sequence[Run]:
        """Return what each pod of a workload that runs now runs with, by the pods' names."""
        return kubernetes_kubelet.runs_of(self, namespace, workload)

    def _start_stepping(self, every_s: float) -> Callable[[], None]:
        is_over = threading.Event()

        def go() -> None:
            while not is_over.wait(every_s):
                self.step()

        thread = threading.Thread(target=go, daemon=True)
        thread.start()

        def stop() -> None:
            is_over.set()
            thread.join()

        return stop

    # ------------------------------------------------------------------ what goes wrong

    def fail(
        self,
        status: int,
        times: int = 1,
        *,
        retry_after_s: int | None = None,
        says: str = "the test wanted it so",
        only: Only = _any,
    ) -> None:
        """Answer the next requests with an error that says something, without an effect."""
        self._will(Fault(times, only, status=status, retry_after_s=retry_after_s, says=says))

    def drop(self, times: int = 1, *, only: Only = _any) -> None:
        """End the connection instead of an answer, without an effect."""
        self._will(Fault(times, only))

    def lose_reply(self, times: int = 1, *, only: Only = _any) -> None:
        """Do what is asked, and end the connection instead of an answer."""
        self._will(Fault(times, only, has_effect=True))

    def hang(self, times: int = 1, *, seconds: float = 30, only: Only = _any) -> None:
        """Wait that long, then end the connection, without an effect."""
        self._will(Fault(times, only, hang_s=seconds))

    def forget_changes(self) -> None:
        """Forget which changes there were: who goes on from an older version is told 410."""
        self.objects.forget()

    def end_watches(self) -> None:
        """End the watches that are open, as the server may at any time."""
        with self.objects.changed:
            self.watch_round += 1
            self.objects.changed.notify_all()

    def _will(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    def fault(self, request: Request) -> Fault | None:
        """Take a request to the log, and return what becomes of it. The wire asks."""
        with self._lock:
            self.requests.append(request)
            for fault in self._faults:
                if fault.left > 0 and fault.only(request):
                    fault.left -= 1
                    return fault
        return None


def _nothing(key: str) -> str:
    raise LookupError(f"no such key: {key}")


def _unsealed(sealed: Mapping[str, Any]) -> Mapping[str, str]:  # noqa: ARG001  # nothing is
    raise ValueError("no key could decrypt secret")
