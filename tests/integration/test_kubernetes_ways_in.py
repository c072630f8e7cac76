"""How a cluster is found and lets us in: EKS, GKE, and any API server with a token."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import boto3
import pytest
import time_machine
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from api_servers import PLENTY, Script, answer, scripted, status
from clusters import secret
from keyturn.errors import Denied, KeyturnError, Misconfigured, Unreachable
from keyturn.kubernetes.api import Kubernetes, Resource
from keyturn.kubernetes.cluster import ClusterShape, checked, eks_token, kubernetes
from keyturn.local.kubernetes import FakeKubernetes
from keyturn.model import Sensitive, Surroundings
from keyturn.shapes import Place
from keyturn.testing.certificates import Authority
from keyturn.testing.rest_wire import RestWire
from keyturn.testing.wire import Refusal, Request, served

SECRETS = Resource("", "v1", "secrets")
OBJECT = {"kind": "Secret", "metadata": {"name": "db"}}
KEY_ID, KEY = "AKIDEXAMPLE000000000", "Canary7-secret-access-key"
SESSION = "Canary7-session-" + "x" * 900


def no_clients(service: str, region: str | None) -> Any:
    raise AssertionError((service, region))


def no_secret(name: str) -> Sensitive:
    raise AssertionError(name)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "cluster")


@pytest.fixture
def cluster(authority: Authority) -> Iterator[FakeKubernetes]:
    with FakeKubernetes(namespaces=["shop"], authority=authority) as cluster:
        cluster.put(secret())
        yield cluster


# ---------------------------------------------------------------------------- EKS: the token

_MAY_STAND_IN_THE_QUERY = {
    *("action", "version", "x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-expires"),
    *("x-amz-security-token", "x-amz-signature", "x-amz-signedheaders"),
}
_LONGEST = 4_096
_HOSTS = {
    "eu-west-1": "sts.eu-west-1.amazonaws.com",
    "us-east-1": "sts.us-east-1.amazonaws.com",
    "cn-north-1": "sts.cn-north-1.amazonaws.com.cn",
    "us-gov-west-1": "sts.us-gov-west-1.amazonaws.com",
    "eusc-de-east-1": "sts.eusc-de-east-1.amazonaws.eu",
}


def admitted(token: str, cluster: str, region: str, now: datetime) -> None:
    """Check a token as the cluster's side does before it asks STS.

    Written from the rules of aws-iam-authenticator's verifier (pkg/token), not from ours.
    """
    assert len(token) <= _LONGEST
    assert token.startswith("k8s-aws-v1.")
    encoded = token.removeprefix("k8s-aws-v1.")
    assert re.fullmatch(r"[A-Za-z0-9_-]+", encoded)  # base64url, no padding
    url = urlsplit(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode())
    assert (url.scheme, url.netloc, url.path) == ("https", _HOSTS[region], "/")
    pairs = parse_qsl(url.query, keep_blank_values=True, strict_parsing=True)
    query = {name.lower(): value for name, value in pairs}
    assert len(query) == len(pairs)
    assert set(query) <= _MAY_STAND_IN_THE_QUERY
    assert query["action"] == "GetCallerIdentity"
    assert query["x-amz-signedheaders"] == "host;x-k8s-aws-id"
    assert 0 <= int(query["x-amz-expires"]) <= 900
    dated = datetime.strptime(query["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    assert now - timedelta(minutes=15) < dated <= now + timedelta(minutes=5)
    assert is_signed(url.query, url.netloc, cluster)


def is_signed(query: str, host: str, cluster: str) -> bool:
    """Check the signature as STS does, by hand.

    Authenticating Requests: Using Query Parameters (AWS Signature Version 4).
    """
    pairs = [tuple(each.split("=", 1)) for each in query.split("&")]
    [said] = [value for name, value in pairs if name == "X-Amz-Signature"]
    signed = sorted(pair for pair in pairs if pair[0] != "X-Amz-Signature")
    members = {name: unquote(value) for name, value in pairs}
    _, *scope = members["X-Amz-Credential"].split("/")
    canonical = "\n".join(
        [
            *("GET", "/", "&".join(f"{name}={value}" for name, value in signed)),
            *(f"host:{host}", f"x-k8s-aws-id:{cluster}", "", "host;x-k8s-aws-id"),
            hashlib.sha256(b"").hexdigest(),
        ]
    )
    text = "\n".join(
        [
            *("AWS4-HMAC-SHA256", members["X-Amz-Date"], "/".join(scope)),
            hashlib.sha256(canonical.encode()).hexdigest(),
        ]
    )
    key = f"AWS4{KEY}".encode()
    for part in (*scope, text):
        key = hmac.digest(key, part.encode(), "sha256")
    assert scope[2:] == ["sts", "aws4_request"]
    assert all(quote(unquote(value), safe="-_.~") == value for _, value in pairs)
    return hmac.compare_digest(key.hex(), said)


def sts(region: str, session_token: str | None = None) -> Any:
    return boto3.client(
        "sts",
        region_name=region,
        aws_access_key_id=KEY_ID,
        aws_secret_access_key=KEY,
        aws_session_token=session_token,
    )


@pytest.mark.parametrize("session_token", [None, SESSION], ids=["user", "role"])
@pytest.mark.parametrize("region", _HOSTS)
def test_a_token_is_what_the_clusters_side_lets_in(region: str, session_token: str | None) -> None:
    token = eks_token(sts(region, session_token), "prod")

    admitted(token.reveal(), "prod", region, datetime.now(UTC))


def test_a_token_is_for_one_cluster_only() -> None:
    url = base64.urlsafe_b64decode(
        eks_token(sts("eu-west-1"), "prod").reveal().removeprefix("k8s-aws-v1.") + "=="
    ).decode()

    query = urlsplit(url).query
    assert is_signed(query, _HOSTS["eu-west-1"], "prod")
    assert not is_signed(query, _HOSTS["eu-west-1"], "other")


def test_a_token_is_for_the_regional_sts_whatever_is_configured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A cluster takes no token for an endpoint of one's own, or for the FIPS one of a region."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "https://vpce-1.sts.eu-west-1.vpce.amazonaws.com")
    monkeypatch.setenv("AWS_USE_FIPS_ENDPOINT", "true")
    monkeypatch.setenv("AWS_STS_REGIONAL_ENDPOINTS", "legacy")

    token = eks_token(sts("eu-west-1"), "prod")

    admitted(token.reveal(), "prod", "eu-west-1", datetime.now(UTC))


def test_without_credentials_there_is_no_token(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    session = boto3.Session(region_name="eu-west-1")

    with pytest.raises(Denied, match="NoCredentialsError"):
        eks_token(session.client("sts"), "prod")


# ---------------------------------------------------------------------------- EKS: the cluster


class Eks:
    """DescribeCluster, over the wire, for a real SDK."""

    def __init__(self, server: str, authority: Authority) -> None:
        self.described: dict[str, Any] = {
            "name": "prod",
            "status": "ACTIVE",
            "endpoint": server,
            "certificateAuthority": {
                "data": base64.b64encode(authority.file.read_bytes()).decode()
            },
        }
        self.refusal: Refusal | None = None
        self.asked: list[tuple[str, str | None]] = []
        self.url = ""

    def answer(self, request: Request) -> dict[str, Any]:
        assert request.action == "DescribeCluster"
        if self.refusal is not None:
            raise self.refusal
        if request.parameters["name"] != "prod":
            raise Refusal("ResourceNotFoundException", "No cluster found for name: x.", 404)
        return {"cluster": self.described}

    @contextmanager
    def serving(self) -> Iterator[Eks]:
        with served(RestWire("eks"), self.answer) as port:
            self.url = f"http://127.0.0.1:{port}"
            yield self

    def clients(self, service: str, region: str | None) -> Any:
        self.asked.append((service, region))
        if service == "sts":
            return sts(region or "eu-west-1", SESSION)
        return boto3.Session().client(
            "eks",
            region_name=region or "eu-west-1",
            endpoint_url=self.url,
            aws_access_key_id=KEY_ID,
            aws_secret_access_key=KEY,
        )


@pytest.fixture
def api_server(authority: Authority) -> Iterator[Script]:
    with scripted(answer(200, OBJECT), issued=authority.issue("127.0.0.1")) as script:
        yield script


@pytest.fixture
def eks(api_server: Script, authority: Authority) -> Iterator[Eks]:
    with Eks(api_server.server, authority).serving() as eks:
        yield eks


def of_eks(eks: Eks, name: str = "prod", **settings: str) -> Kubernetes:
    shape = checked(ClusterShape(eks=name, **settings), Place("plan"))
    return kubernetes(shape, eks.clients, no_secret, PLENTY)


def _tokens(script: Script) -> list[str]:
    found = [re.search(rb"Authorization: Bearer (\S+)", each) for each in script.got]
    return [each[1].decode() for each in found if each is not None]


def test_an_eks_cluster_is_found_and_gets_its_token(eks: Eks, api_server: Script) -> None:
    assert of_eks(eks, region="us-east-1").get(SECRETS, "shop", "db") == OBJECT

    assert eks.asked == [("eks", "us-east-1"), ("sts", "us-east-1")]
    [token] = _tokens(api_server)
    admitted(token, "prod", "us-east-1", datetime.now(UTC))


def test_an_eks_token_is_kept_for_fourteen_minutes(eks: Eks, api_server: Script) -> None:
    """The cluster takes it for fifteen, and remembers a token that it has let in."""
    kubernetes = of_eks(eks)
    kubernetes.get(SECRETS, "shop", "db")  # Certificates are of now, not of later.
    now = datetime.now(UTC)

    with time_machine.travel(now, tick=False) as clock:
        for minutes in (13.9, 0.2, 13.8, 0.3):
            clock.shift(timedelta(minutes=minutes))
            now += timedelta(minutes=minutes)
            kubernetes.get(SECRETS, "shop", "db")
            admitted(_tokens(api_server)[-1], "prod", "eu-west-1", now)

    tokens = _tokens(api_server)
    assert [tokens.index(token) for token in tokens] == [0, 0, 2, 2, 4]


def test_an_eks_cluster_is_named_with_its_region(eks: Eks) -> None:
    assert of_eks(eks).name == "eks:prod"
    assert of_eks(eks, region="us-east-1").name == "eks:us-east-1/prod"


def test_there_is_no_such_eks_cluster(eks: Eks) -> None:
    with pytest.raises(Misconfigured, match="no such cluster in us-east-1"):
        of_eks(eks, "other", region="us-east-1").get(SECRETS, "shop", "db")


def test_who_may_not_describe_an_eks_cluster_is_denied(eks: Eks) -> None:
    eks.refusal = Refusal("AccessDeniedException", "not authorized", 403)

    with pytest.raises(Denied, match="DescribeCluster answered AccessDeniedException"):
        of_eks(eks).get(SECRETS, "shop", "db")


@pytest.mark.parametrize("lacks", ["endpoint", "certificateAuthority"])
def test_an_eks_cluster_that_is_being_made_is_looked_for_again(eks: Eks, lacks: str) -> None:
    whole = eks.described
    eks.described = {key: value for key, value in whole.items() if key != lacks}
    kubernetes = of_eks(eks)

    with pytest.raises(Unreachable, match="yet"):
        kubernetes.get(SECRETS, "shop", "db")
    eks.described = whole
    assert kubernetes.get(SECRETS, "shop", "db") == OBJECT


# ---------------------------------------------------------------------------- any server


def of_server(
    cluster: FakeKubernetes, ca: str, secrets: Mapping[str, str], **more: str
) -> Kubernetes:
    shape = ClusterShape(**{"server": cluster.server, "ca": ca, "token_secret": "prod/k8s", **more})
    return kubernetes(
        checked(shape, Place("plan")), no_clients, lambda name: Sensitive(secrets[name]), PLENTY
    )


@pytest.mark.parametrize(
    "form", ["{}", "  {}\n", '{{"token": "{}"}}', '{{"token": " {}\\n", "a": 1}}']
)
def test_a_token_is_the_secret_or_its_member(
    cluster: FakeKubernetes, authority: Authority, form: str
) -> None:
    secrets = {"prod/k8s": form.format(cluster.token())}
    found = of_server(cluster, authority.file.read_text(), secrets)

    assert found.get(SECRETS, "shop", "db") is not None
    assert found.name == cluster.server


@pytest.mark.parametrize(
    "text",
    ["", " \n", "{}", '{"token": ""}', '{"token": 7}', '{"password": "Canary7-x"}', "two words",
     "Canary7\r\nX: y", "Canary7-ü", '{"token": "Canary7-a b"}'],
)  # fmt: skip
def test_a_secret_without_a_token_is_refused_and_not_quoted(
    cluster: FakeKubernetes, authority: Authority, text: str
) -> None:
    found = of_server(cluster, authority.file.read_text(), {"prod/k8s": text})

    with pytest.raises(Misconfigured, match="prod/k8s, a cluster's `token_secret`, holds no token"):
        found.get(SECRETS, "shop", "db")


def test_a_token_that_is_replaced_in_the_store_is_read_again(
    cluster: FakeKubernetes, authority: Authority
) -> None:
    first, second = cluster.token("admin"), cluster.token("admin")
    secrets = {"prod/k8s": first}
    found = of_server(cluster, authority.file.read_text(), secrets)
    found.get(SECRETS, "shop", "db")

    secrets["prod/k8s"] = second
    cluster.revoke(first)

    assert found.get(SECRETS, "shop", "db") is not None


def test_nothing_is_read_before_it_is_needed() -> None:
    shape = ClusterShape(server="https://127.0.0.1:1", token_secret="prod/k8s")

    kubernetes(shape, no_clients, no_secret, PLENTY)
    kubernetes(ClusterShape(eks="prod"), no_clients, no_secret, PLENTY)
    kubernetes(ClusterShape(gke="projects/p/locations/l/clusters/c"), no_clients, no_secret, PLENTY)


# ---------------------------------------------------------------------------- the plan's side

PATH = "projects/p/locations/europe-west1/clusters/prod"


@pytest.mark.parametrize(
    "settings, fact",
    [
        ({}, "is not exactly one of eks, gke and server"),
        ({"region": "eu-west-1"}, "is not exactly one of eks, gke and server"),
        ({"eks": "a", "gke": PATH}, "is not exactly one of eks, gke and server"),
        ({"eks": "a", "ca": "x"}, "ca: does not go with `eks`"),
        ({"eks": "a", "token_secret": "x"}, "token_secret: does not go with `eks`"),
        ({"gke": PATH, "region": "eu-west-1"}, "region: does not go with `gke`"),
        ({"server": "https://a", "token_secret": "x", "region": "eu-west-1"},
         "region: does not go with `server`"),
        ({"server": "https://a"}, "has no `token_secret`"),
        ({"eks": "../a"}, "eks: is no such name"),
        ({"eks": "a\nb"}, "eks: is no such name"),
        ({"eks": "a", "region": "eu-west-1.example.com/"}, "region: is no such name"),
        ({"gke": "projects/p/locations/l/clusters/c?d"}, "gke: is no such name"),
        ({"gke": "projects/p/locations/l/clusters/.."}, "gke: is no such name"),
        ({"server": "https://a:b@example.com", "token_secret": "x"}, "server: is no such name"),
        ({"server": "https://a b", "token_secret": "x"}, "server: is no such name"),
    ],
)  # fmt: skip
def test_a_cluster_is_named_in_one_way_or_refused(settings: dict[str, str], fact: str) -> None:
    with pytest.raises(Misconfigured) as refused:
        checked(ClusterShape(**settings), Place("keyturn.yaml", "defaults.cluster"))

    assert str(refused.value) in {
        f"keyturn.yaml: defaults.cluster.{fact}", f"keyturn.yaml: defaults.cluster: {fact}",
    }  # fmt: skip
    assert refused.value.remedy


@pytest.mark.parametrize(
    "settings",
    [
        {"eks": "prod_1-a"},
        {"eks": "prod", "region": "us-gov-west-1"},
        {"gke": "projects/example.com:p/locations/europe-west1-b/clusters/prod"},
        {"server": "https://10.0.0.1:6443", "token_secret": "x"},
        {"server": "https://[fd00::1]:6443", "token_secret": "x", "ca": "x"},
    ],
)
def test_these_name_a_cluster(settings: dict[str, str]) -> None:
    shape = ClusterShape(**settings)

    assert checked(shape, Place("plan")) is shape


# ---------------------------------------------------------------------------- GKE


def test_without_googles_library_it_says_what_to_add(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in sys.modules if each.split(".")[0] == "google"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "google.auth", None)
    found = kubernetes(ClusterShape(gke=PATH), no_clients, no_secret, PLENTY)

    with pytest.raises(Misconfigured, match="without google-auth") as refused:
        found.get(SECRETS, "shop", "db")

    assert "google-auth" in refused.value.remedy


class Google:
    """Google's token service, and its Container API, as far as a client sees them."""

    def __init__(self, cluster: FakeKubernetes, authority: Authority) -> None:
        address = cluster.server.removeprefix("https://")
        self.token = cluster.token()
        self.described: dict[str, Any] = {
            "endpoint": address,
            "masterAuth": {
                "clusterCaCertificate": base64.b64encode(authority.file.read_bytes()).decode()
            },
        }

    def answers(self) -> tuple[bytes, bytes]:
        issued = {"access_token": self.token, "expires_in": 3600, "token_type": "Bearer"}
        return answer(200, issued), answer(200, self.described)


@pytest.fixture
def google(cluster: FakeKubernetes, authority: Authority) -> Google:
    pytest.importorskip("google.auth", reason="google-auth is not installed")
    return Google(cluster, authority)


_RSA = rsa.generate_private_key(65537, 2048)


def service_account(folder: Path, token_uri: str) -> Path:
    key = _RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    file = folder / "account.json"
    account = {
        "type": "service_account",
        "project_id": "p",
        "client_email": "keyturn@p.iam.gserviceaccount.com",
        "private_key_id": "1",
        "private_key": key,
        "token_uri": token_uri,
    }
    file.write_text(json.dumps(account))
    return file


def of_gke(address: str, surroundings: Surroundings = PLENTY) -> Kubernetes:
    shape = checked(ClusterShape(gke=PATH), Place("plan"))
    return kubernetes(shape, no_clients, no_secret, surroundings, google=address)


def test_a_gke_cluster_is_found_with_a_service_account(
    google: Google, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scripted(*google.answers()) as script:
        file = service_account(tmp_path, f"{script.server}/token")
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))

        found = of_gke(script.server)
        assert found.get(SECRETS, "shop", "db") is not None
        assert found.get(SECRETS, "shop", "db") is not None

    assert script.paths == ["/token", f"/v1/{PATH}"]
    assert f"Bearer {google.token}".encode() in script.got[1]
    assertion = dict(parse_qsl(script.got[0].partition(b"\r\n\r\n")[2].decode()))["assertion"]
    claims = assertion.split(".")[1]
    said = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
    assert said["iss"] == "keyturn@p.iam.gserviceaccount.com"
    assert said["scope"].split() == [
        "https://www.googleapis.com/auth/cloud-platform",
        "https://www.googleapis.com/auth/userinfo.email",
    ]


def test_a_gke_cluster_is_found_by_a_federated_identity(
    google: Google, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a function on AWS would be: what it is by one cloud's word becomes a token of Google's."""
    (tmp_path / "subject").write_text("a subject token")
    with scripted(*google.answers()) as script:
        file = tmp_path / "federation.json"
        federation = {
            "type": "external_account",
            "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": f"{script.server}/sts",
            "credential_source": {"file": str(tmp_path / "subject")},
        }
        file.write_text(json.dumps(federation))
        # Else the library asks another API of Google's which project it is.
        monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "p")
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))

        assert of_gke(script.server).get(SECRETS, "shop", "db") is not None

    assert script.paths == ["/sts", f"/v1/{PATH}"]


@contextmanager
def account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *answers: bytes
) -> Iterator[Kubernetes]:
    with scripted(*answers) as script:
        file = service_account(tmp_path, f"{script.server}/token")
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
        yield of_gke(script.server)


@pytest.mark.parametrize(
    "code, kind", [(401, Denied), (403, Denied), (404, Misconfigured), (400, Unreachable)]
)
def test_the_container_apis_refusals_have_their_class(
    google: Google,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    kind: type[KeyturnError],
) -> None:
    issued, _ = google.answers()
    answers = (issued, status(code), issued, status(code))
    script = account(tmp_path, monkeypatch, *(answers if code == 401 else answers[:2]))

    with script as found, pytest.raises(kind, match=f"the Container API answered {code}"):
        found.get(SECRETS, "shop", "db")


@pytest.mark.parametrize("lacks", ["endpoint", "masterAuth"])
def test_a_gke_cluster_that_is_being_made_is_looked_for_again(
    google: Google, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    del google.described[lacks]
    with (
        account(tmp_path, monkeypatch, *google.answers()) as found,
        pytest.raises(Unreachable, match="yet"),
    ):
        found.get(SECRETS, "shop", "db")


def test_a_clusters_name_is_preferred_where_it_is_open(
    google: Google, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A public authority vouches for it, so the private one is not believed there."""
    name = {"endpoint": google.described["endpoint"], "allowExternalTraffic": True}
    google.described["controlPlaneEndpointsConfig"] = {"dnsEndpointConfig": name}
    with (
        account(tmp_path, monkeypatch, *google.answers()) as found,
        pytest.raises(Misconfigured, match="not trusted"),
    ):
        found.get(SECRETS, "shop", "db")


def test_a_clusters_name_that_is_not_open_is_not_used(
    google: Google, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = {"endpoint": "gke-1.europe-west1.gke.goog", "allowExternalTraffic": False}
    google.described["controlPlaneEndpointsConfig"] = {"dnsEndpointConfig": name}
    with account(tmp_path, monkeypatch, *google.answers()) as found:
        assert found.get(SECRETS, "shop", "db") is not None


def test_a_token_that_google_refuses_is_denied(
    google: Google, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del google
    said = {"error": "invalid_grant", "error_description": "Canary7-told-by-google"}
    with (
        account(tmp_path, monkeypatch, answer(400, said)) as found,
        pytest.raises(Denied, match="RefreshError"),
    ):
        found.get(SECRETS, "shop", "db")


def test_googles_silence_is_no_refusal(
    google: Google, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del google
    file = service_account(tmp_path, "http://127.0.0.1:1/token")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))

    with pytest.raises(Unreachable, match="TransportError"):
        of_gke("http://127.0.0.1:1").get(SECRETS, "shop", "db")


def test_without_default_credentials_it_is_denied(
    google: Google, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del google
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))

    with pytest.raises(Denied, match="DefaultCredentialsError"):
        of_gke("http://127.0.0.1:1").get(SECRETS, "shop", "db")
