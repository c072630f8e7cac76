"""The functions on Google as they are deployed: main.py under functions-framework, one process."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import functions_framework
import pytest

from databases import make_login, unused_name
from keyturn.google.callers import CHECKED
from keyturn.local.postgres import Postgres
from keyturn.local.secret_manager import LocalSecretManager

MAIN = Path(__file__).parents[1] / "functions" / "main.py"
PROJECT = "123456789"
PARENT = f"projects/{PROJECT}"
TOPIC, OWN_TOPIC = f"{PARENT}/topics/secrets", f"{PARENT}/topics/follow-up"
PUSHER = "push@example.iam.gserviceaccount.com"
REPLICATED: dict[str, Any] = {"replication": {"automatic": {}}}
SOON = datetime(2030, 1, 1, tzinfo=UTC)


def bearer(email: str = PUSHER, host: str = "localhost", **claims: Any) -> str:
    """Return what a push sends, as Cloud Run hands it on."""
    told = {
        "iss": "https://accounts.google.com",
        "aud": f"https://{host}",
        "email": email,
        "email_verified": True,
        **claims,
    }
    parts = [_part({"alg": "RS256"}), _part(told), CHECKED]
    return f"Bearer {'.'.join(parts)}"


def _part(members: Mapping[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(members).encode()).decode().rstrip("=")


def pushed(
    attributes: Mapping[str, str], data: Mapping[str, Any] | None = None, message_id: str = "1"
) -> dict[str, Any]:
    """Return the body of a push."""
    content = b"" if data is None else json.dumps(data).encode()
    message = {
        "attributes": dict(attributes),
        "data": base64.b64encode(content).decode(),
        "messageId": message_id,
        "publishTime": datetime.now(UTC).isoformat(),
    }
    return {"subscription": f"{PARENT}/subscriptions/rotate", "message": message}


class Deployed:
    """One function, and whoever pushes to it."""

    def __init__(self, name: str, kind: str = "cloudevent") -> None:
        create: Any = functions_framework.create_app
        app = create(name, str(MAIN), kind)
        self._client = app.test_client()

    def push(
        self,
        body: Mapping[str, Any],
        *,
        topic: str = TOPIC,
        authorization: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> int:
        """Push as a subscription does, and return the status."""
        sent = {"Authorization": bearer() if authorization is None else authorization}
        answer = self._client.post(f"/{topic}", json=body, headers={**sent, **(headers or {})})
        return int(answer.status_code)

    def post(self, body: Any, **headers: str) -> tuple[int, Any]:
        """Call an HTTP function."""
        answer = self._client.post("/", json=body, headers=headers)
        return int(answer.status_code), answer.get_json()


class Room:
    """A secret with a login at a real database, and what its topic was told."""

    def __init__(self, google: LocalSecretManager, server: Postgres) -> None:
        self.google, self.server = google, server
        self.client = google.client()
        self.login = unused_name("app")
        self.id = self.login.replace("_", "-")
        self.ref = f"{PARENT}/secrets/{self.id}"
        self.told: list[Any] = []
        make_login(server, self.login, "Canary7-first-Password1")
        rotated = {**REPLICATED, "topics": [{"name": TOPIC}]}
        self.client.create_secret(parent=PARENT, secret_id=self.id, secret=rotated)
        beside = f"{self.id}-pending"
        self.client.create_secret(parent=PARENT, secret_id=beside, secret=REPLICATED)
        self.put("Canary7-first-Password1")
        google.listen(self.told.append)

    def put(self, password: str, **more: Any) -> None:
        """Store a value by hand."""
        value = {
            "engine": "postgres",
            "host": self.server.host,
            "port": self.server.port,
            "dbname": "postgres",
            "username": self.login,
            "password": password,
            "ssl": False,
            **more,
        }
        self.client.add_secret_version(
            parent=self.ref, payload={"data": json.dumps(value).encode()}
        )

    def tick(self, message_id: str = "1001", **attributes: str) -> dict[str, Any]:
        """Return what Secret Manager sends when it is time."""
        told = {
            "eventType": "SECRET_ROTATE",
            "secretId": self.ref,
            "dataFormat": "JSON_API_V1",
            "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            **attributes,
        }
        return pushed(told, {"name": told["secretId"]}, message_id)

    @property
    def versions(self) -> int:
        """Count the versions of the secret."""
        return len(list(self.client.list_secret_versions(parent=self.ref)))

    def works(self) -> bool:
        """Log in with what `latest` says."""
        import psycopg

        held = json.loads(self.google.read(f"{self.ref}/versions/latest"))
        with (
            suppress(psycopg.OperationalError),
            psycopg.connect(
                host=held["host"],
                port=held["port"],
                dbname=held["dbname"],
                user=held["username"],
                password=held["password"],
            ),
        ):
            return True
        return False


def environment(google: LocalSecretManager, **more: str) -> dict[str, str]:
    """Return what a deployment sets."""
    return {
        "KEYTURN_PROJECT": PROJECT,
        "KEYTURN_SECRETS": "*",
        "KEYTURN_TOPICS": f"{TOPIC},{OWN_TOPIC}",
        "KEYTURN_CALLERS": PUSHER,
        "KEYTURN_FOLLOW_UP_TOPIC": OWN_TOPIC,
        "KEYTURN_SECRET_MANAGER": google.address,
        "KEYTURN_TIMEOUT_S": "60",
        **more,
    }


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Return what the functions have logged since the last time."""
    return [json.loads(each) for each in capsys.readouterr().out.splitlines() if each[:1] == "{"]
