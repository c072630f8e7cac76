"""What tells a person: metrics that are really emitted, alarms and a dashboard on them, rules."""

from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from datetime import UTC, datetime
from functools import cache
from typing import Any

import pytest

from keyturn import boundary, follow_up, measures
from keyturn.errors import Untraceable
from keyturn.model import Alert, Happening, SecretRef
from templates import ACCOUNT, REGION, STACK, TEMPLATE, Deployed, matches

DATABASE = {"DatabaseHost": "db.example.com", "SecretName": "prod/orders/db"}
GENERATED = {"GeneratedSecrets": "prod/generated/*"}
FOLLOW_UP = {"FollowUp": "true"}
WHOLE = DATABASE | GENERATED | FOLLOW_UP

STACKS = {
    "a database": DATABASE,
    "one with a follow-up": DATABASE | FOLLOW_UP,
    "generated": GENERATED,
    "generated with a follow-up": GENERATED | FOLLOW_UP,
    "all": WHOLE,
}
each_stack = pytest.mark.parametrize("parameters", STACKS.values(), ids=STACKS)

Metric = tuple[str, str, tuple[tuple[str, str], ...]]
"""Namespace, name, and dimensions in the order of their names."""

AWS_METRICS = {
    "AWS/Lambda": ({"Duration", "Errors", "Throttles"}, {"FunctionName"}),
    "AWS/SQS": (
        {"ApproximateAgeOfOldestMessage", "ApproximateNumberOfMessagesVisible"},
        {"QueueName"},
    ),
}
"""As the services' pages on CloudWatch metrics name them."""

OPTIONS = {
    "DatabaseHost": ("", "db.example.com"),
    "GeneratedSecrets": ("", "prod/generated/*"),
    "FollowUp": ("false", "true"),
    "Strategy": ("single-user", "alternating-users"),
    "IamUsers": ("", f"arn:aws:iam::{ACCOUNT}:user/rotated/*"),
    "VpcSubnetIds": ("", "subnet-0a,subnet-0b"),
    "Everything": (False, True),
}
EVERYTHING = {
    "AlarmEmail": "oncall@example.com",
    "ApiGatewayKeys": "true",
    "CaFile": "ca.pem",
    "ClusterArns": f"arn:aws:eks:{REGION}:{ACCOUNT}:cluster/prod",
    "CopiesBucket": "copies",
    "CopiesParameters": "/copies/*",
    "Dashboard": "false",
    "EcsClusters": f"arn:aws:ecs:{REGION}:{ACCOUNT}:cluster/prod",
    "EcsServices": f"arn:aws:ecs:{REGION}:{ACCOUNT}:service/prod/orders",
    "FollowUpSecrets": f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:prod/token-??????",
    "OneRotationAtATime": "true",
    "ReservedConcurrency": "3",
    "VpcSecurityGroupIds": "sg-0c",
}


def _combinations() -> Iterator[dict[str, str]]:
    for values in itertools.product(*OPTIONS.values()):
        chosen: dict[str, Any] = dict(zip(OPTIONS, values, strict=True))
        everything = EVERYTHING if chosen.pop("Everything") else {}
        yield {**chosen, **everything}


def test_whatever_is_asked_for_nothing_refers_to_what_is_not_there() -> None:
    deployed = [Deployed(**parameters) for parameters in _combinations()]
    accepted = [each for each in deployed if each.is_accepted()]

    assert len(accepted) > 50
    for each in accepted:
        assert "Key" in each.resources
        assert "KeyArn" in each.outputs


# ---------------------------------------------------------------------------- metrics


@cache
def emitted() -> set[Metric]:
    """Return the metrics that our code really emits, from the lines that CloudWatch would read."""
    written = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(written):
        patch.setenv("POWERTOOLS_SERVICE_NAME", STACK)
        telemetry = boundary.Telemetry()
        for step in ("create", "set", "test", "finish", "generate", "follow-up"):
            telemetry.succeeded({"step": step}, 1)
            telemetry.failed({"step": step}, 1, Untraceable("a", remedy="b"))
        counted = measures.Measures(is_sweep=True)
        for happening in Happening:
            counted.send(Alert(happening, SecretRef("s"), None, "", "", "", datetime.now(UTC)))
        telemetry.measured(counted.numbers(), measures.UNITS)
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    return {metric for line in lines if "_aws" in line for metric in _metrics_of(line)}


def _metrics_of(line: dict[str, Any]) -> Iterator[Metric]:
    for said in line["_aws"]["CloudWatchMetrics"]:
        for names in said["Dimensions"]:
            dimensions = tuple(sorted((name, line[name]) for name in names))
            yield from ((said["Namespace"], each["Name"], dimensions) for each in said["Metrics"])


def require_real(metric: Metric, deployed: Deployed) -> None:
    """Fail unless our code, or AWS about something that is deployed, emits it."""
    namespace, name, dimensions = metric
    if namespace == boundary.NAMESPACE:
        assert metric in emitted(), metric
        return
    names, keys = AWS_METRICS[namespace]
    assert name in names, metric
    assert {key for key, _ in dimensions} == keys, metric
    for _, value in dimensions:
        assert value[1:-1].removesuffix(".QueueName") in deployed.resources, metric


def test_what_is_emitted_is_what_is_looked_for() -> None:
    """A check against nothing proves nothing."""
    assert ("keyturn", "SecondsBehind", (("service", STACK),)) in emitted()
    assert ("keyturn", "StepFailed", (("Step", "finish"), ("service", STACK))) in emitted()
    assert len(emitted()) == len(measures.UNITS) + 6 * 4


@each_stack
def test_every_function_emits_under_the_stacks_name(parameters: dict[str, str]) -> None:
    """Or an alarm would be about all stacks of the account."""
    for name, function in Deployed(**parameters).of_type("AWS::Lambda::Function").items():
        variables = function["Environment"]["Variables"]
        assert variables["POWERTOOLS_SERVICE_NAME"] == STACK, name


# ---------------------------------------------------------------------------- alarms

STUCK_AFTER_S = follow_up.STUCK_AFTER.total_seconds()

ALARMS: dict[str, tuple[object, ...]] = {
    "ErrorsAlarm": ("AWS/Lambda", "Errors", "Rotate", "Sum", ">", 0, "notBreaching"),
    "ThrottlesAlarm": ("AWS/Lambda", "Throttles", "Rotate", "Sum", ">", 0, "notBreaching"),
    "DlqAlarm": (
        *("AWS/SQS", "ApproximateNumberOfMessagesVisible", "Dlq.QueueName"),
        *("Maximum", ">", 0, "notBreaching"),
    ),
    "GeneratedErrorsAlarm": (
        *("AWS/Lambda", "Errors", "RotateGenerated", "Sum", ">", 0, "notBreaching"),
    ),
    "FollowUpErrorsAlarm": (
        *("AWS/Lambda", "Errors", "FollowUpFunction", "Sum", ">", 0, "notBreaching"),
    ),
    "FollowUpStuckAlarm": (
        *("keyturn", "SecondsBehind", STACK, "Maximum", ">=", STUCK_AFTER_S, "ignore"),
    ),
    "FollowUpHeldAlarm": ("keyturn", "CredentialsHeld", STACK, "Maximum", ">", 0, "ignore"),
    "FollowUpSweepAlarm": (
        *("keyturn", "SecretsFollowed", STACK, "SampleCount", "<", 1, "breaching"),
    ),
    "LookAgainAlarm": (
        *("AWS/SQS", "ApproximateAgeOfOldestMessage", "LookAgain.QueueName"),
        *("Maximum", ">", 1800, "notBreaching"),
    ),
    "FollowUpDlqAlarm": (
        *("AWS/SQS", "ApproximateNumberOfMessagesVisible", "FollowUpDlq.QueueName"),
        *("Maximum", ">", 0, "notBreaching"),
    ),
}
"""Namespace, metric, about what, statistic, comparison, threshold, and what silence means."""

COMPARISONS = {
    "GreaterThanThreshold": ">",
    "GreaterThanOrEqualToThreshold": ">=",
    "LessThanThreshold": "<",
}


def test_every_alarm_is_about_what_it_says() -> None:
    alarms = Deployed(**WHOLE).of_type("AWS::CloudWatch::Alarm")

    assert {name: _in_short(alarm) for name, alarm in alarms.items()} == ALARMS


def _in_short(alarm: dict[str, Any]) -> tuple[object, ...]:
    [dimension] = alarm["Dimensions"]
    return (
        *(alarm["Namespace"], alarm["MetricName"], dimension["Value"].strip("<>")),
        *(alarm["Statistic"], COMPARISONS[alarm["ComparisonOperator"]], alarm["Threshold"]),
        alarm["TreatMissingData"],
    )


@each_stack
def test_every_alarm_is_on_a_metric_that_there_is_and_reaches_the_topic(
    parameters: dict[str, str],
) -> None:
    deployed = Deployed(**parameters)

    for alarm in deployed.of_type("AWS::CloudWatch::Alarm").values():
        dimensions = tuple(sorted((each["Name"], each["Value"]) for each in alarm["Dimensions"]))
        require_real((alarm["Namespace"], alarm["MetricName"], dimensions), deployed)
        assert alarm["AlarmActions"] == ["<Alerts>"]
        assert alarm["AlarmDescription"]


def test_the_sweeps_alarm_gives_it_three_tries() -> None:
    alarm = Deployed(**WHOLE).resources["FollowUpSweepAlarm"]

    assert alarm["Period"] == follow_up.SWEEP_EVERY.total_seconds()
    assert alarm["EvaluationPeriods"] == 3


def test_an_old_message_is_noticed_before_it_is_dropped() -> None:
    resources = Deployed(**WHOLE).resources

    age_s = resources["LookAgainAlarm"]["Threshold"]
    assert follow_up.LOOKS_APART.total_seconds() < age_s
    assert age_s < resources["LookAgain"]["MessageRetentionPeriod"]


# ---------------------------------------------------------------------------- the dashboard


def dashboard(deployed: Deployed) -> dict[str, Any]:
    [found] = deployed.of_type("AWS::CloudWatch::Dashboard").values()
    body: dict[str, Any] = json.loads(found["DashboardBody"])
    return body


def shown(deployed: Deployed) -> set[Metric]:
    return {
        _metric(line)
        for widget in dashboard(deployed)["widgets"]
        for line in widget["properties"].get("metrics", [])
    }


def _metric(line: list[Any]) -> Metric:
    namespace, name, *rest = [each for each in line if isinstance(each, str)]
    return namespace, name, tuple(sorted(zip(rest[::2], rest[1::2], strict=True)))


@each_stack
def test_every_metric_on_the_dashboard_is_one_that_there_is(parameters: dict[str, str]) -> None:
    deployed = Deployed(**parameters)

    assert shown(deployed)
    for metric in shown(deployed):
        require_real(metric, deployed)


@each_stack
def test_every_widget_is_whole(parameters: dict[str, str]) -> None:
    widgets = dashboard(Deployed(**parameters))["widgets"]

    for widget in widgets:
        assert widget["type"] in {"log", "metric", "text"}
        assert 1 <= widget["width"] <= 24
        if widget["type"] != "text":
            assert widget["properties"]["region"] == REGION
            assert widget["properties"]["title"]
    assert [widget["type"] for widget in widgets].count("log") == ("FollowUp" in parameters)


def test_the_dashboard_shows_all_that_a_follow_up_measures() -> None:
    names = {name for namespace, name, _ in shown(Deployed(**WHOLE)) if namespace == "keyturn"}

    assert names >= measures.UNITS.keys()
    assert names >= {"StepSucceeded", "StepFailed", "StepDuration", "KeyPossiblyLost"}


def test_the_dashboard_shows_whatever_has_an_alarm() -> None:
    deployed = Deployed(**WHOLE)
    alarmed = {
        (
            alarm["Namespace"],
            alarm["MetricName"],
            tuple((each["Name"], each["Value"]) for each in alarm["Dimensions"]),
        )
        for alarm in deployed.of_type("AWS::CloudWatch::Alarm").values()
    }

    assert alarmed <= shown(deployed)


def test_the_table_asks_for_what_the_log_lines_have() -> None:
    """`behind` lines: see `Measures.behind`."""
    body = json.dumps(dashboard(Deployed(**WHOLE)))

    for field in ("copies_behind", "consumers_behind", "seconds_behind", "old_credential_hours"):
        assert f"latest({field})" in body
    assert "message = 'behind'" in body
    assert "SOURCE '<FollowUpLogs>'" in body


def test_the_line_on_the_dashboard_is_where_the_alarm_is() -> None:
    body = json.dumps(dashboard(Deployed(**WHOLE)))

    assert f'"value": {STUCK_AFTER_S:.0f}' in body


def test_a_dashboard_can_be_done_without() -> None:
    assert not Deployed(**WHOLE, Dashboard="false").of_type("AWS::CloudWatch::Dashboard")


def test_every_metric_and_alarm_is_explained() -> None:
    page = (TEMPLATE.parents[1] / "docs" / "deploy.md").read_text()
    named = set(re.findall(r"`([A-Z][A-Za-z]+)`", page))

    assert named >= ALARMS.keys()
    assert named >= {name for _, name, _ in emitted()}


# ---------------------------------------------------------------------------- what rules hear

SECRET = f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:"
OF_THE_DATABASE, OF_GENERATED = "prod/orders/db-AbCdEf", "prod/generated/mail-AbCdEf"
EVENTS = TEMPLATE.parents[1] / "events" / "follow-up"
ANOTHERS = "prod/payments/db-AbCdEf"


def sample(name: str, secret: str) -> dict[str, Any]:
    """Return a sample of events/follow-up, about *secret*."""
    text = (EVENTS / f"{name}.json").read_text()
    assert OF_THE_DATABASE in text
    read: dict[str, Any] = json.loads(text.replace(OF_THE_DATABASE, secret))
    return read


def hearing(event: dict[str, Any], deployed: Deployed) -> set[tuple[str, str]]:
    """Return which rules match *event*, and where they lead."""
    about = {"<Secret>": SECRET + OF_THE_DATABASE}
    return {
        (name, target["Arn"])
        for name, rule in deployed.of_type("AWS::Events::Rule").items()
        if "EventPattern" in rule and matches(_known(rule["EventPattern"], about), event)
        for target in rule["Targets"]
    }


def _known(pattern: Any, about: dict[str, str]) -> Any:
    if isinstance(pattern, dict):
        return {name: _known(each, about) for name, each in pattern.items()}
    if isinstance(pattern, list):
        return [_known(each, about) for each in pattern]
    return about.get(pattern, pattern)


FUNCTION = "<FollowUpFunction.Arn>"
TROUBLES = ("rotation-failed", "rotation-abandoned")


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize(
    "parameters,secret,heard",
    [
        (DATABASE, OF_THE_DATABASE, {("RotationTrouble", "<Alerts>")}),
        (GENERATED, OF_GENERATED, {("GeneratedTrouble", "<Alerts>")}),
        (WHOLE, OF_THE_DATABASE, {("FollowUpHearsOfTrouble", FUNCTION)}),
        (WHOLE, OF_GENERATED, {("FollowUpHearsOfTrouble", FUNCTION)}),
        (GENERATED | FOLLOW_UP, OF_GENERATED, {("FollowUpHearsOfTrouble", FUNCTION)}),
        (WHOLE, ANOTHERS, set()),
        (DATABASE | GENERATED, ANOTHERS, set()),
    ],
)
def test_the_services_verdict_is_told_once(
    trouble: str, parameters: dict[str, str], secret: str, heard: set[tuple[str, str]]
) -> None:
    """By the follow-up, if there is one: as an alert with an id; else as it is."""
    assert hearing(sample(trouble, secret), Deployed(**parameters)) == heard


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_verdict_that_names_the_secret_is_heard_as_well(trouble: str) -> None:
    """Whoever has asked for the rotation may have given the name."""
    for name in ("prod/orders/db", "prod/generated/mail"):
        event = sample(trouble, OF_THE_DATABASE)
        event["detail"]["additionalEventData"]["SecretId"] = name

        assert hearing(event, Deployed(**WHOLE)) == {("FollowUpHearsOfTrouble", FUNCTION)}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_what_a_rule_hears_the_function_understands(trouble: str) -> None:
    asked = boundary.follow_up_event(sample(trouble, OF_THE_DATABASE))

    assert asked.happening is Happening(trouble.removeprefix("rotation-"))


@pytest.mark.parametrize(
    "parameters,secret,rule",
    [
        (DATABASE | FOLLOW_UP, OF_THE_DATABASE, "FollowUpStarts"),
        (GENERATED | FOLLOW_UP, OF_GENERATED, "FollowUpStartsForGenerated"),
        (WHOLE, OF_GENERATED, "FollowUpStartsForGenerated"),
    ],
)
def test_a_promotion_starts_the_follow_up(
    parameters: dict[str, str], secret: str, rule: str
) -> None:
    event = sample("label-updated", secret)

    assert hearing(event, Deployed(**parameters)) == {(rule, FUNCTION)}
    assert not hearing(sample("label-updated", ANOTHERS), Deployed(**parameters))
    assert not hearing({**event, "source": "somebody.else"}, Deployed(**parameters))


@each_stack
def test_every_rule_that_calls_the_function_may_and_keeps_what_it_could_not_deliver(
    parameters: dict[str, str],
) -> None:
    deployed = Deployed(**parameters)
    rules = {
        name: target
        for name, rule in deployed.of_type("AWS::Events::Rule").items()
        for target in rule["Targets"]
        if target["Arn"] == FUNCTION
    }
    permitted = [
        each["SourceArn"]
        for each in deployed.of_type("AWS::Lambda::Permission").values()
        if each["Principal"] == "events.amazonaws.com"
    ]

    assert sorted(permitted) == sorted(f"<{name}.Arn>" for name in rules)
    kept = {name for name, target in rules.items() if "DeadLetterConfig" in target}
    assert kept == rules.keys() - {"FollowUpSweep"}
    for target in rules.values():
        # 185 and a day are EventBridge's own (API_RetryPolicy): a verdict of yesterday is none.
        assert target["RetryPolicy"]["MaximumRetryAttempts"] <= 185
        assert target["RetryPolicy"]["MaximumEventAgeInSeconds"] <= 3600
    if kept:
        policy = deployed.resources["FollowUpDlqPolicy"]["PolicyDocument"]["Statement"][0]
        sources = policy["Condition"]["ArnEquals"]["aws:SourceArn"]
        assert sorted(sources) == sorted(f"<{name}.Arn>" for name in kept)
        assert policy["Resource"] == "<FollowUpDlq.Arn>"


def test_what_the_function_failed_on_is_kept_too() -> None:
    function = Deployed(**WHOLE).resources["FollowUpFunction"]

    assert function["DeadLetterConfig"] == {"TargetArn": "<FollowUpDlq.Arn>"}
