"""Alerts to an SNS topic: words for mail, JSON for everybody else, attributes to filter by.

A FIFO topic drops duplicates by the alert's id; of a standard one the receiver may.
"""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

from keyturn.boundary import ask_aws
from keyturn.model import Alert
from keyturn.notifiers import wording
from keyturn.ports import Clients, Notifier

if TYPE_CHECKING:
    from mypy_boto3_sns import SNSClient

PERMISSIONS = ("kms:Decrypt", "kms:GenerateDataKey", "sns:Publish")
"""On the topic; and on its key, if it is encrypted with one."""

SCHEME = "sns"
"""How its addresses begin; the topic's ARN follows."""

FILTERED_BY = ("happening", "severity", "secret", "id")


def notifier(address: str, clients: Clients) -> Notifier:
    """Make one, for what follows the scheme in an address."""
    return SnsTopic(clients("sns", address.split(":")[3]), address)


class SnsTopic:
    """A `Notifier`.

    Args:
        sns: A client for the topic's region, with time-outs.
        topic: The topic's ARN.
    """

    def __init__(self, sns: SNSClient, topic: str) -> None:
        self._sns = sns
        self._topic = topic

    def send(self, alert: Alert) -> None:
        """See `Notifier.send`."""
        said = wording.fields(alert)
        message = {"default": json.dumps(said), "email": wording.text(alert)}
        fifo: Any = {"MessageGroupId": alert.ref[-128:], "MessageDeduplicationId": alert.id}
        publish = partial(
            self._sns.publish,
            TopicArn=self._topic,
            Subject=wording.subject(alert),
            Message=json.dumps(message),
            MessageStructure="json",
            MessageAttributes={
                name: {"DataType": "String", "StringValue": said[name]} for name in FILTERED_BY
            },
            **(fifo if self._topic.endswith(".fifo") else {}),
        )
        ask_aws("Publish", self._topic, publish)
