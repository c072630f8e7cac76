"""The floor of a Cloud Function on Secret Manager: the framework, and the bare client. No check."""

from __future__ import annotations

import os
from typing import Any

import functions_framework
import grpc
from cloudevents.http import CloudEvent
from google.cloud.secretmanager_v1 import SecretManagerServiceClient
from google.cloud.secretmanager_v1.services.secret_manager_service import transports

channel = grpc.insecure_channel(os.environ["KEYTURN_SECRET_MANAGER"])
transport: Any = transports.SecretManagerServiceGrpcTransport(channel=channel)
client = SecretManagerServiceClient(transport=transport)


@functions_framework.cloud_event
def rotate(event: CloudEvent) -> None:
    """Look at the secret that the message names."""
    client.get_secret(name=event.data["message"]["attributes"]["secretId"])
