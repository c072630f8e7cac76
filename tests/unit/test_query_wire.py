"""The Query protocol as real SDKs speak it: forms in, XML out, both as the model has them."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from keyturn.testing.query_wire import QueryWire
from keyturn.testing.wire import NoReply, Refusal, Request, served

ONE_TRY = Config(retries={"mode": "standard", "total_max_attempts": 1})


class Service:
    """Remembers what it is asked, and answers what it is told to."""

    def __init__(self, name: str, stack: ExitStack) -> None:
        self.asked: list[Request] = []
        self.answer: dict[str, Any] | Exception = {}
        self.port = stack.enter_context(served(QueryWire(name), self._answer))
        url = f"http://127.0.0.1:{self.port}"
        self.client: Any = boto3.Session().client(name, endpoint_url=url, config=ONE_TRY)  # type: ignore[call-overload]

    def _answer(self, request: Request) -> dict[str, Any]:
        self.asked.append(request)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def rds(stack: ExitStack) -> Service:
    return Service("rds", stack)


def test_a_request_is_read_with_its_types(rds: Service) -> None:
    sent = {
        "DBInstanceIdentifier": "orders",
        "ApplyImmediately": True,
        "AllocatedStorage": 20,
        "VpcSecurityGroupIds": ["sg-1", "sg-2"],
        "MasterUserPassword": "& <b>é+%",
        "CloudwatchLogsExportConfiguration": {"EnableLogTypes": ["a"]},
    }

    rds.client.modify_db_instance(**sent)

    (request,) = rds.asked
    assert (request.action, request.caller) == ("ModifyDBInstance", "test")
    assert request.parameters == sent


def test_structures_in_lists_and_empty_lists_are_read(rds: Service) -> None:
    filters = [{"Name": "db-instance-id", "Values": ["a", "b"]}]

    rds.client.describe_db_instances(Filters=filters)
    rds.client.describe_db_instances(Filters=[])

    assert [request.parameters for request in rds.asked] == [{"Filters": filters}, {"Filters": []}]


def test_an_answer_is_read_by_the_sdk_as_it_was_given(rds: Service) -> None:
    instance = {
        "DBInstanceIdentifier": "<orders> & 'more'",
        "MultiAZ": False,
        "AllocatedStorage": 20,
        "InstanceCreateTime": datetime(2030, 1, 1, tzinfo=UTC),
        "Endpoint": {"Address": "orders.example", "Port": 5432},
        "PendingModifiedValues": {"MasterUserPassword": "****"},
        "VpcSecurityGroups": [{"VpcSecurityGroupId": "sg-1"}, {"VpcSecurityGroupId": "sg-2"}],
        "DBParameterGroups": [],
    }
    rds.answer = {"DBInstances": [instance, {}]}

    answered = rds.client.describe_db_instances()

    assert answered["DBInstances"] == [instance, {}]
    assert answered["ResponseMetadata"]["RequestId"]


def test_an_action_without_an_answer_has_none(rds: Service) -> None:
    answered = rds.client.add_tags_to_resource(ResourceName="x", Tags=[{"Key": "k", "Value": "v"}])

    assert answered.keys() == {"ResponseMetadata"}
    assert rds.asked[0].parameters["Tags"] == [{"Key": "k", "Value": "v"}]


def test_another_service_speaks_it_too(stack: ExitStack) -> None:
    """It knows none: ElastiCache's users are described like RDS's instances."""
    cache = Service("elasticache", stack)
    user = {"UserId": "app", "Authentication": {"Type": "password", "PasswordCount": 2}}
    cache.answer = {"Users": [user]}

    assert cache.client.describe_users(UserId="app")["Users"] == [user]
    assert cache.asked[0].parameters == {"UserId": "app"}


def test_a_refusal_is_the_sdks_error(rds: Service) -> None:
    rds.answer = Refusal("DBInstanceNotFound", "<none>", 404)

    with pytest.raises(rds.client.exceptions.DBInstanceNotFoundFault) as caught:
        rds.client.describe_db_instances()

    assert caught.value.response["Error"]["Message"] == "<none>"
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 404


def test_there_may_be_no_reply(rds: Service) -> None:
    rds.answer = NoReply()

    with pytest.raises(Exception, match="Connection was closed"):
        rds.client.describe_db_instances()


@pytest.mark.parametrize(
    "form, code",
    [
        ({"Action": "NoSuchThing", "Version": "2014-10-31"}, "InvalidAction"),
        ({"Action": "DescribeDBInstances", "Version": "2009-01-01"}, "InvalidAction"),
        ({"Action": "DescribeDBInstances", "Version": "2014-10-31", "Nmae": "x"}, "Validation"),
        ({"Action": "ModifyDBInstance", "Version": "2014-10-31"}, "MissingParameter"),
        (
            {
                "Action": "ModifyDBInstance",
                "Version": "2014-10-31",
                "DBInstanceIdentifier": "x",
                "ApplyImmediately": "yes",
            },
            "InvalidParameterValue",
        ),
    ],
)
def test_what_the_model_does_not_have_is_refused(
    rds: Service, form: dict[str, str], code: str
) -> None:
    """The SDK would not send it; whoever writes requests by hand might."""
    line = http.client.HTTPConnection("127.0.0.1", rds.port, timeout=5)
    line.request("POST", "/", urlencode(form))

    answered = line.getresponse().read().decode()

    line.close()
    assert f"<Code>{code}" in answered
    assert rds.asked == []


def test_an_error_of_the_sdk_has_the_code(rds: Service) -> None:
    rds.answer = Refusal("InvalidDBInstanceState", "It is stopped.")

    with pytest.raises(ClientError, match="InvalidDBInstanceState"):
        rds.client.modify_db_instance(DBInstanceIdentifier="x")
