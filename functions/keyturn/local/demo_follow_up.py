"""The demo's last act: a rotation, and all that follows it until the old login is dead.

    LocalCloud       PostgreSQL, AWS, the template with its follow-up, the plan `PLAN`
    FakeKubernetes   External Secrets keeps the Secret `db`; three pods of `api` log in with it
      |  rotate      once
      |  advance     five minutes at a time: the sweep's schedule, the delayed second look
      v
    Aftermath        who had which version when, whether the old login worked, what SNS told

Nothing is called but RotateSecret: what happens is what the stack does. The fake cluster and the
local AWS are ours (see docs/local.md); the database and the functions are real.
"""

from __future__ import annotations

import base64
import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3

from keyturn.destinations.s3_blob import VERSION
from keyturn.local.cloud import APP_USER, LocalCloud
from keyturn.local.database import Engine
from keyturn.local.demo_aftermath import TICKS, Aftermath, Heard, Moment
from keyturn.local.kubernetes import FakeKubernetes
from keyturn.model import Happening

SECRET, ADMIN, TOKEN = "prod/orders/db", "prod/orders/db-admin", "prod/cluster-token"
BUCKET, NAMESPACE, WORKLOAD, REPLICAS = "copies", "orders", "api", 3
OPERATOR_KEY_ID = "DEMOOPERATOR"

TICK = timedelta(minutes=5)
PLACES = ("S3 copy", "K8s Secret db", *(f"pod {n}" for n in range(1, REPLICAS + 1)))

PLAN = """\
version: 1
defaults:
  cluster: {{server: {server}, token_secret: {token}}}
secrets:
  {secret}:
    strategy: alternating-users
    users: [{user}, {user}_clone]
    admin: {admin}
    deliver:
      - s3: {{bucket: {bucket}, key: orders/db, kms_key: {key}}}
    refresh:
      consumers:
        - external-secret: {{namespace: {namespace}, name: db}}
        - deployment: {{namespace: {namespace}, name: {workload}}}
    retire: {{when: verified, grace: 1h}}
"""

ROLE = (
    {
        "apiGroups": ["external-secrets.io"],
        "resources": ["externalsecrets"],
        "resourceNames": ["db"],
        "verbs": ["get", "patch"],
    },
    {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["db"], "verbs": ["get"]},
    {
        "apiGroups": ["apps"],
        "resources": ["deployments"],
        "resourceNames": [WORKLOAD],
        "verbs": ["get", "patch"],
    },
)
"""What the follow-up may do in the cluster, as infra/kubernetes gives it."""

_ARN = "arn:aws:secretsmanager:us-east-1:123456789012:secret"

Report = Callable[[str, int], None]


def record_follow_up(*, template: Path, report: Report) -> Aftermath:
    """Start a cloud and a cluster, rotate once, and watch until the old login should be dead.

    Raises:
        KeyturnError: The local cloud cannot be started.
    """
    with FakeKubernetes([NAMESPACE]) as cluster, _plan(cluster) as plan:
        cloud = LocalCloud(
            template,
            engine=Engine.POSTGRES,
            parameters={
                "SecretName": SECRET,
                "Strategy": "alternating-users",
                "FollowUp": "true",
                "FollowUpSecrets": f"{_ARN}:{TOKEN}-??????",
                "CopiesBucket": BUCKET,
            },
            plan=plan,
            progress=lambda text: report(text, 0),
        )
        with cloud:
            return _Act(cloud, cluster, report).played()


@contextlib.contextmanager
def _plan(cluster: FakeKubernetes) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="keyturn-demo-") as folder:
        file = Path(folder) / "keyturn.yaml"
        file.write_text(
            PLAN.format(
                server=cluster.server,
                token=TOKEN,
                secret=SECRET,
                user=APP_USER,
                admin=ADMIN,
                bucket=BUCKET,
                key="alias/demo-copies",
                namespace=NAMESPACE,
                workload=WORKLOAD,
            ),
            encoding="utf-8",
        )
        yield file


@dataclass
class _Act:
    """One rotation and what follows it."""

    cloud: LocalCloud
    cluster: FakeKubernetes
    report: Report
    moments: list[Moment] = field(default_factory=list)
    heard: dict[str, Heard] = field(default_factory=dict)
    logins: int = 0
    refused: int = 0

    def played(self) -> Aftermath:
        queue = self._set_the_stage()
        old = self._current()
        self._client("secretsmanager").rotate_secret(SecretId=SECRET)
        self.cloud.aws.settle()
        began = datetime.now(UTC)
        for tick in range(TICKS + 1):
            if tick:
                self.cloud.aws.advance(TICK)
            self._note(began, old)
            self._listen(queue, began)
            # The cluster's controllers work all the time; here they get their turn after each look.
            self.cluster.settle()
            self.report(f"{tick * 5} minutes later", tick)
        return Aftermath(
            SECRET,
            PLACES,
            tuple(self.moments),
            tuple(self.heard.values()),
            self.refused,
            self.logins,
        )

    def _set_the_stage(self) -> str:
        """Make what is there before anything rotates; return the queue that hears alerts."""
        kms = self._client("kms")
        key = kms.create_key()["KeyMetadata"]["KeyId"]
        kms.create_alias(AliasName="alias/demo-copies", TargetKeyId=key)
        self._client("s3").create_bucket(Bucket=BUCKET)
        token = self.cluster.token("keyturn")
        self.cluster.allow("keyturn", NAMESPACE, ROLE)
        self._client("secretsmanager").create_secret(Name=TOKEN, SecretString=token)
        self.cluster.provider = self._provided
        self.cluster.put(_EXTERNAL_SECRET)
        self.cluster.settle()
        self.cluster.put(_DEPLOYMENT)
        self.cluster.settle()
        return self._subscribed()

    def _subscribed(self) -> str:
        sqs = self._client("sqs")
        queue = str(sqs.create_queue(QueueName="demo-alerts")["QueueUrl"])
        found = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])
        self._client("sns").subscribe(
            TopicArn=self.cloud.stack.outputs["AlertsTopicArn"],
            Protocol="sqs",
            Endpoint=found["Attributes"]["QueueArn"],
        )
        return queue

    def _note(self, began: datetime, old: Mapping[str, str]) -> None:
        """Look at everything, and let every pod log in with what it has."""
        current = self._current()
        secret = self.cluster.get("secrets", NAMESPACE, "db") or {}
        runs = self.cluster.runs_with(NAMESPACE, WORKLOAD)
        pods = [each.variables["db"]["password"] == current["password"] for each in runs]
        for each in runs:
            self.logins += 1
            self.refused += not self.cloud.database.lets_in({**old, **each.variables["db"]})
        copied = _decoded(secret, "password") == current["password"]
        has_new = (self._copied() == current["version_id"], copied, *pods[:REPLICAS])
        at_min = (datetime.now(UTC) - began).total_seconds() / 60
        self.moments.append(Moment(at_min, has_new, self.cloud.database.lets_in(old)))

    def _listen(self, queue: str, began: datetime) -> None:
        """Read what SNS has told. The service's own notes of a rotation are no alerts of ours."""
        sqs = self._client("sqs")
        while messages := sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get(
            "Messages"
        ):
            for each in messages:
                sqs.delete_message(QueueUrl=queue, ReceiptHandle=each["ReceiptHandle"])
                body = json.loads(each["Body"])
                if "happening" in body.get("MessageAttributes", {}):
                    told = json.loads(body["Message"])
                    at = datetime.fromisoformat(told["at"])
                    at_min = max(0.0, (at - began).total_seconds() / 60)
                    # At least once is the promise: what comes twice has the same id.
                    said = Heard(at_min, Happening(told["happening"]), told["fact"])
                    self.heard.setdefault(told["id"], said)

    def _copied(self) -> str:
        """Return which version the object in S3 is, by what it says."""
        s3 = self._client("s3")
        if not s3.list_objects_v2(Bucket=BUCKET)["KeyCount"]:
            return ""
        return str(s3.head_object(Bucket=BUCKET, Key="orders/db")["Metadata"][VERSION])

    def _current(self) -> dict[str, str]:
        """Return what the store serves, and which version it is."""
        found = self._client("secretsmanager").get_secret_value(SecretId=SECRET)
        return {**json.loads(found["SecretString"]), "version_id": found["VersionId"]}

    def _provided(self, key: str) -> str:
        """Be what External Secrets reads."""
        found = self._client("secretsmanager").get_secret_value(SecretId=key)
        return str(found["SecretString"])

    def _client(self, service: str) -> Any:
        make: Any = boto3.client
        return make(service, **self.cloud.aws.settings(OPERATOR_KEY_ID))


def _decoded(secret: Mapping[str, Any], name: str) -> str:
    return base64.b64decode(secret.get("data", {}).get(name, "")).decode()


_EXTERNAL_SECRET: dict[str, Any] = {
    "apiVersion": "external-secrets.io/v1",
    "kind": "ExternalSecret",
    "metadata": {"name": "db", "namespace": NAMESPACE},
    "spec": {
        "refreshInterval": "1h",
        "secretStoreRef": {"name": "aws", "kind": "SecretStore"},
        "target": {"name": "db"},
        "dataFrom": [{"extract": {"key": SECRET}}],
    },
}

_DEPLOYMENT: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": WORKLOAD, "namespace": NAMESPACE},
    "spec": {
        "replicas": REPLICAS,
        "selector": {"matchLabels": {"app": WORKLOAD}},
        "template": {
            "metadata": {"labels": {"app": WORKLOAD}},
            "spec": {
                "containers": [
                    {"name": WORKLOAD, "image": "api", "envFrom": [{"secretRef": {"name": "db"}}]}
                ]
            },
        },
    },
}
