"""The CloudFormation types that moto does not know, and would skip without a word.

Each makes its resource with the call that CloudFormation makes, over the wire. `patches` gives
them to moto, which reads no more of a class than `_Resource` has. They are made once and never
changed: the local AWS forgets everything when it stops.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError
from moto.cloudformation.exceptions import ValidationError

from keyturn.local.calls import CLOUDFORMATION_KEY_ID

_Client = Callable[[str], Any]
_Made = tuple[str, dict[str, str]]
"""A resource's physical id (what Ref gives), and its attributes (what GetAtt gives)."""

_Make = Callable[[_Client, str, Mapping[str, Any]], _Made]


def resource_types(endpoint_url: str) -> list[type[_Resource]]:
    """Return the types, for the local AWS at *endpoint_url*."""
    return [
        type(
            name.replace("::", ""),
            (_Resource,),
            {"cfn_type": name, "name_property": prop, "make": make, "endpoint_url": endpoint_url},
        )
        for name, (prop, make) in _TYPES.items()
    ]


class _Resource:
    """A resource, in the shape that moto's CloudFormation expects."""

    cfn_type: str
    name_property: str
    make: _Make
    endpoint_url: str

    def __init__(self, physical_id: str, attributes: Mapping[str, str]) -> None:
        self.physical_resource_id = physical_id
        self.type = self.cfn_type
        self._attributes = attributes

    @classmethod
    def cloudformation_type(cls) -> str:
        return cls.cfn_type

    @classmethod
    def cloudformation_name_type(cls) -> str:
        return cls.name_property

    @classmethod
    def has_cfn_attr(cls, attr: str) -> bool:
        return bool(attr)

    def get_cfn_attribute(self, attribute_name: str) -> str:
        if attribute_name not in self._attributes:
            raise ValidationError(message=f"{self.cfn_type} has no attribute {attribute_name}")
        return self._attributes[attribute_name]

    def is_created(self) -> bool:
        return True

    @classmethod
    def create_from_cloudformation_json(
        cls,
        resource_name: str,
        cloudformation_json: Mapping[str, Any],
        account_id: str,
        region_name: str,
        **_: object,
    ) -> _Resource:
        client = partial(
            boto3.client,
            endpoint_url=cls.endpoint_url,
            region_name=region_name,
            aws_access_key_id=CLOUDFORMATION_KEY_ID,
            aws_secret_access_key="local",  # noqa: S106  # the local AWS checks no signature
            aws_account_id=account_id,
        )
        properties = cloudformation_json.get("Properties", {})
        try:
            return cls(*cls.make(client, resource_name, properties))
        except (ClientError, BotoCoreError, KeyError) as error:
            # Anything else would be a 500, which the SDK tries again.
            raise ValidationError(message=f"{resource_name}: {error}") from None

    @classmethod
    def update_from_cloudformation_json(cls, **_: object) -> _Resource:
        raise ValidationError(message=f"{cls.cfn_type} cannot be updated locally")

    @classmethod
    def delete_from_cloudformation_json(cls, *_: object) -> None:
        """Leave it: it goes with the local AWS."""


def _secret(client: _Client, name: str, properties: Mapping[str, Any]) -> _Made:
    manager = client("secretsmanager")
    value = properties.get("SecretString", "")
    if "GenerateSecretString" in properties:
        value = _generated(manager, properties["GenerateSecretString"])
    given = {k: properties[k] for k in ("Description", "KmsKeyId", "Tags") if k in properties}
    made = manager.create_secret(Name=name, SecretString=value, **given)
    return made["ARN"], {"Id": made["ARN"]}


def _generated(manager: Any, rules: Mapping[str, Any]) -> str:
    texts, flags = {"ExcludeCharacters"}, {"RequireEachIncludedType", "IncludeSpace"}
    asked: dict[str, Any] = {}
    for key, value in rules.items():
        if key == "PasswordLength":
            asked[key] = int(value)
        elif key in texts:
            asked[key] = value
        elif key in flags or key.startswith("Exclude"):
            asked[key] = _truth(value)
    password: str = manager.get_random_password(**asked)["RandomPassword"]
    if "GenerateStringKey" not in rules:
        return password
    return json.dumps(
        {**json.loads(rules["SecretStringTemplate"]), rules["GenerateStringKey"]: password}
    )


def _rotation_schedule(client: _Client, _: str, properties: Mapping[str, Any]) -> _Made:
    client("secretsmanager").rotate_secret(
        SecretId=properties["SecretId"],
        RotationLambdaARN=properties["RotationLambdaARN"],
        RotationRules=properties.get("RotationRules", {}),
        RotateImmediately=_truth(properties.get("RotateImmediatelyOnUpdate", True)),
    )
    return properties["SecretId"], {"Id": properties["SecretId"]}


def _subscription(client: _Client, _: str, properties: Mapping[str, Any]) -> _Made:
    made = client("sns").subscribe(
        TopicArn=properties["TopicArn"],
        Protocol=properties["Protocol"],
        Endpoint=properties["Endpoint"],
        ReturnSubscriptionArn=True,
    )
    return made["SubscriptionArn"], {"Arn": made["SubscriptionArn"]}


def _topic_policy(client: _Client, name: str, properties: Mapping[str, Any]) -> _Made:
    for topic in properties["Topics"]:
        client("sns").set_topic_attributes(
            TopicArn=topic,
            AttributeName="Policy",
            AttributeValue=json.dumps(properties["PolicyDocument"]),
        )
    return name, {"Id": name}


def _queue_policy(client: _Client, name: str, properties: Mapping[str, Any]) -> _Made:
    for queue in properties["Queues"]:
        client("sqs").set_queue_attributes(
            QueueUrl=queue, Attributes={"Policy": json.dumps(properties["PolicyDocument"])}
        )
    return name, {"Id": name}


def _alarm(client: _Client, name: str, properties: Mapping[str, Any]) -> _Made:
    numbers = {"Period": int, "EvaluationPeriods": int, "Threshold": float}
    given = {key: numbers.get(key, _as_is)(value) for key, value in properties.items()}
    watch = client("cloudwatch")
    watch.put_metric_alarm(**{**given, "AlarmName": name})
    made = watch.describe_alarms(AlarmNames=[name])["MetricAlarms"][0]
    return name, {"Arn": made["AlarmArn"]}


def _schedule(client: _Client, name: str, properties: Mapping[str, Any]) -> _Made:
    target = properties["Target"]
    made = client("scheduler").create_schedule(
        Name=name,
        ScheduleExpression=properties["ScheduleExpression"],
        FlexibleTimeWindow=properties["FlexibleTimeWindow"],
        Target={key: target[key] for key in ("Arn", "RoleArn", "Input") if key in target},
    )
    return name, {"Arn": made["ScheduleArn"]}


def _truth(value: object) -> bool:
    return str(value).lower() == "true"


def _as_is(value: object) -> object:
    return value


_TYPES: dict[str, tuple[str, _Make]] = {
    "AWS::CloudWatch::Alarm": ("AlarmName", _alarm),
    "AWS::SQS::QueuePolicy": ("", _queue_policy),
    "AWS::SNS::Subscription": ("", _subscription),
    "AWS::SNS::TopicPolicy": ("", _topic_policy),
    "AWS::Scheduler::Schedule": ("Name", _schedule),
    "AWS::SecretsManager::RotationSchedule": ("", _rotation_schedule),
    "AWS::SecretsManager::Secret": ("Name", _secret),
}
