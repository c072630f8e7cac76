"""infra/template.yaml, transformed as the service does it, says what it must, and no more."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

import pytest

from keyturn import consumers, destinations, follow_up, kubernetes, notifiers
from keyturn.kubernetes import marks
from keyturn.stores import secrets_manager
from keyturn.targets import api_gateway_key, iam_access_key, postgres
from templates import TEMPLATE, transformed

ROOT = Path(__file__).parents[2]
FUNCTION_ARN = (
    "arn:${AWS::Partition}:lambda:${AWS::Region}:${AWS::AccountId}"
    ":function:${AWS::StackName}-rotate"
)
RUNTIME_ACTIONS = {
    *("logs:CreateLogStream", "logs:PutLogEvents", "sqs:SendMessage"),
    *("sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage"),  # from its own queue
}
"""What a function needs to be a Lambda function; no adapter asks for it."""


def _declared(*packages: ModuleType) -> set[str]:
    """Return the actions that the adapters of packages declare; RBAC's verbs are a cluster's."""
    modules = [
        import_module(f"{package.__name__}.{found.name}")
        for package in packages
        for found in iter_modules(package.__path__)
    ]
    said = {each for module in modules for each in getattr(module, "PERMISSIONS", ())}
    return {each for each in said if re.fullmatch(r"[a-z0-9-]+:[A-Za-z]+", each)}


@pytest.fixture
def template() -> dict[str, Any]:
    return transformed()


@pytest.fixture
def resources(template: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = template["Resources"]
    return found


@pytest.fixture
def function(resources: dict[str, Any]) -> dict[str, Any]:
    properties: dict[str, Any] = resources["Rotate"]["Properties"]
    return properties


# ---------------------------------------------------------------------------- what it may do


def test_what_is_granted_is_what_the_adapters_declare(resources: dict[str, Any]) -> None:
    declared = {
        *secrets_manager.PERMISSIONS,
        *secrets_manager.VALUE_PERMISSIONS,
        *secrets_manager.KEY_PERMISSIONS,
        *api_gateway_key.PERMISSIONS,
        *iam_access_key.PERMISSIONS,
        *postgres.PERMISSIONS,
        *secrets_manager.FOLLOW_UP_PERMISSIONS,
        *_declared(destinations, consumers, notifiers, kubernetes),
    }

    granted = {
        action
        for statement in _allowed(resources)
        for action in _list(statement["Action"])
        if not action.startswith("ec2:")  # Lambda's own, when there is a VPC
    }

    assert granted - RUNTIME_ACTIONS == declared


def test_the_secret_grants_all_of_it_and_only_to_its_own_rotation_function(
    resources: dict[str, Any],
) -> None:
    [statement] = _about(_rotating(resources), {"Ref": "Secret"})

    assert set(statement["Action"]) == {
        action for action in secrets_manager.PERMISSIONS if action.startswith("secretsmanager:")
    }
    assert statement["Condition"] == {
        "StringEquals": {
            "secretsmanager:resource/AllowRotationLambdaArn": {"Fn::Sub": FUNCTION_ARN}
        }
    }


def test_the_admin_secret_can_only_be_read(resources: dict[str, Any]) -> None:
    for statement in _about(resources, {"Ref": "AdminSecret"}):
        assert _list(statement["Action"]) == ["secretsmanager:GetSecretValue"]


def test_the_key_serves_these_two_secrets_through_secrets_manager_only(
    resources: dict[str, Any],
) -> None:
    statements = _about(_rotating(resources), {"Fn::GetAtt": ["Key", "Arn"]})

    seen = {}
    for statement in statements:
        condition = statement["Condition"]["StringEquals"]
        if "StringLike" in statement["Condition"]:
            continue  # the generated secrets': see below
        assert condition["kms:ViaService"]["Fn::Sub"].startswith("secretsmanager.${AWS::Region}.")
        seen[condition["kms:EncryptionContext:SecretARN"]["Ref"]] = _list(statement["Action"])
    assert seen == {
        "Secret": ["kms:Decrypt", "kms:GenerateDataKey"],
        "AdminSecret": ["kms:Decrypt"],
    }


def test_no_action_is_a_wildcard_and_no_resource_but_the_vpcs(resources: dict[str, Any]) -> None:
    for statement in _statements(resources):
        actions = _list(statement["Action"])
        assert not [action for action in actions if "*" in action]
        if statement["Resource"] == "*" and statement["Sid"] not in NOTHING_NARROWER:
            assert all(action.startswith("ec2:") for action in actions)


NOTHING_NARROWER = {
    "SeeWhichVersionTheyHold": ["ssm:DescribeParameters"],
    "SeeWhatTheyAreMadeOf": ["ecs:DescribeTaskDefinition"],
    "SeeTheirTasks": ["ecs:DescribeTasks", "ecs:ListTasks"],  # with a condition: the cluster
}
"""Reading, of which IAM cannot say whose; by the statement."""


def test_what_can_be_said_no_narrower_is_reading(resources: dict[str, Any]) -> None:
    found = {each["Sid"]: each for each in _statements(resources) if each["Resource"] == "*"}

    for name, actions in NOTHING_NARROWER.items():
        assert _list(found[name]["Action"]) == actions
    clusters = {"Fn::Split": [",", {"Ref": "EcsClusters"}]}
    assert found["SeeTheirTasks"]["Condition"] == {"ArnEquals": {"ecs:cluster": clusters}}


def test_the_functions_code_may_not_use_what_lambda_needs_for_the_vpc(
    resources: dict[str, Any],
) -> None:
    allow, deny = resources["RotateEntersVpc"]["Properties"]["PolicyDocument"]["Statement"]

    assert (allow["Effect"], deny["Effect"]) == ("Allow", "Deny")
    assert deny["Action"] == allow["Action"]
    assert deny["Condition"] == {
        "ArnEquals": {
            "lambda:SourceFunctionArn": [
                {"Fn::Sub": FUNCTION_ARN},
                {"Fn::Sub": FUNCTION_ARN.replace("-rotate", "-follow-up")},
            ]
        }
    }


def test_only_this_accounts_secrets_manager_may_call_it(resources: dict[str, Any]) -> None:
    permissions = [
        each["Properties"]
        for each in _rotating(resources).values()
        if each["Type"] == "AWS::Lambda::Permission"
    ]

    assert permissions == [
        {
            "FunctionName": {"Ref": function},
            "Action": "lambda:InvokeFunction",
            "Principal": "secretsmanager.amazonaws.com",
            "SourceAccount": {"Ref": "AWS::AccountId"},
        }
        for function in ("Rotate", "RotateGenerated")
    ]


def test_other_services_may_use_the_key_for_the_alerts_only(resources: dict[str, Any]) -> None:
    policy = resources["Key"]["Properties"]["KeyPolicy"]["Statement"]

    [services] = [each for each in policy if "Service" in each["Principal"]]

    assert set(services["Condition"]["StringEquals"]) == {"kms:EncryptionContext:aws:sns:topicArn"}
    [anybody] = [each for each in policy if each["Principal"] == {"AWS": "*"}]
    assert set(anybody["Condition"]["StringEquals"]) == {"kms:CallerAccount", "kms:ViaService"}


# ---------------------------------------------------------------------------- what is generated

GENERATED = {
    "Fn::Sub": "arn:${AWS::Partition}:secretsmanager:${AWS::Region}:${AWS::AccountId}"
    ":secret:${GeneratedSecrets}"
}
GENERATED_RESOURCES = (
    *("Generate", "GenerateRole", "GenerateLogs", "GeneratedErrorsAlarm", "RotateGenerated"),
    *("RotateGeneratedLogs", "RotateGeneratedPermission", "RotateGeneratedRole"),
    *("RotateGeneratedChangesApiKeys", "RotateGeneratedMintsKeys", "GeneratedTrouble"),
)


def test_nothing_generates_unless_names_are_given(template: dict[str, Any]) -> None:
    found = [
        name
        for name in template["Resources"]
        if "Generate" in name and not name.startswith("FollowUp")  # they: see below
    ]

    assert sorted(found) == sorted(GENERATED_RESOURCES)
    assert template["Parameters"]["GeneratedSecrets"]["Default"] == ""
    narrower = {
        "GeneratedTrouble": "IsToldDirectlyOfGenerated",
        "RotateGeneratedChangesApiKeys": "HasApiKeys",
        "RotateGeneratedMintsKeys": "HasIamUsers",
    }
    for name in found:
        condition = narrower.get(name, "HasGenerated")
        assert template["Resources"][name]["Condition"] == condition, name


@pytest.mark.parametrize(
    "role,actions,is_guarded",
    [
        ("GenerateRole", secrets_manager.VALUE_PERMISSIONS, False),
        ("RotateGeneratedRole", secrets_manager.PERMISSIONS, True),
    ],
)
def test_who_generates_may_do_what_its_adapter_declares_under_those_names_only(
    resources: dict[str, Any], role: str, actions: tuple[str, ...], *, is_guarded: bool
) -> None:
    [policy] = resources[role]["Properties"]["Policies"]
    secrets, key, log = policy["PolicyDocument"]["Statement"]

    assert {*secrets["Action"], *key["Action"]} == set(actions)
    assert secrets["Resource"] == GENERATED
    assert ("Condition" in secrets) is is_guarded
    assert set(log["Action"]) <= RUNTIME_ACTIONS
    named = key["Condition"]["StringLike"]["kms:EncryptionContext:SecretARN"]
    assert named == [GENERATED, "RequestToValidateKeyAccess"]
    via = key["Condition"]["StringEquals"]["kms:ViaService"]["Fn::Sub"]
    assert via.startswith("secretsmanager.${AWS::Region}.")


def test_the_function_that_generates_knows_which_names_it_may_write(
    resources: dict[str, Any],
) -> None:
    made = resources["Generate"]["Properties"]["Environment"]["Variables"]
    rotating = resources["RotateGenerated"]["Properties"]["Environment"]["Variables"]

    assert made["KEYTURN_SECRETS"] == {"Ref": "GeneratedSecrets"}
    assert made["KEYTURN_KMS_KEY"] == {"Fn::GetAtt": ["Key", "Arn"]}
    assert made["KEYTURN_IAM_USERS"] == {"Ref": "IamUsers"}
    assert [name for name in rotating if name.startswith("KEYTURN_")] == [
        "KEYTURN_IAM_USERS",
        "KEYTURN_ONE_WORKER",
    ]
    assert rotating["KEYTURN_IAM_USERS"] == {"Ref": "IamUsers"}


def test_the_lease_is_said_and_kept_by_one_parameter(
    template: dict[str, Any], resources: dict[str, Any]
) -> None:
    """Said without being kept, two workers would delete each other's keys."""
    function = resources["RotateGenerated"]["Properties"]
    nothing = {"Ref": "AWS::NoValue"}

    said = function["Environment"]["Variables"]["KEYTURN_ONE_WORKER"]
    assert said == {"Fn::If": ["IsOneAtATime", "true", nothing]}
    assert function["ReservedConcurrentExecutions"] == {"Fn::If": ["IsOneAtATime", 1, nothing]}
    assert template["Conditions"]["IsOneAtATime"] == {
        "Fn::Equals": [{"Ref": "OneRotationAtATime"}, "true"]
    }
    assert template["Parameters"]["OneRotationAtATime"]["Default"] == "false"


@pytest.mark.parametrize(
    "name,is_one",
    [("", True), ("prod/generated/*", True), ("*", False), ("prod*", False), ("a/*b", False)],
)
def test_the_names_are_a_folder_of_them(
    template: dict[str, Any], name: str, *, is_one: bool
) -> None:
    """A pattern such as `prod*` would also be an application's login."""
    pattern = template["Parameters"]["GeneratedSecrets"]["AllowedPattern"]

    assert (re.fullmatch(pattern, name) is not None) is is_one


# ---------------------------------------------------------------------------- access keys

USER = "arn:aws:iam::111122223333:user/"


def test_keys_are_made_for_the_users_that_are_named_and_declared_in_tags_of_ours(
    resources: dict[str, Any],
) -> None:
    policy = resources["RotateGeneratedMintsKeys"]["Properties"]
    keys, tags = policy["PolicyDocument"]["Statement"]

    assert policy["Roles"] == [{"Ref": "RotateGeneratedRole"}]
    assert keys["Action"] == [*iam_access_key.PERMISSIONS]
    assert keys["Resource"] == {"Fn::Split": [",", {"Ref": "IamUsers"}]}
    assert tags["Action"] == [*secrets_manager.KEY_PERMISSIONS]
    assert tags["Resource"] == GENERATED
    assert tags["Condition"] == {
        "ForAllValues:StringLike": {"aws:TagKeys": f"{secrets_manager.INTENT}*"},
        "StringEquals": {
            "secretsmanager:resource/AllowRotationLambdaArn": {
                "Fn::Sub": f"{FUNCTION_ARN}-generated"
            }
        },
    }


def test_nobody_else_may_touch_keys_or_tags(resources: dict[str, Any]) -> None:
    asked = {*iam_access_key.PERMISSIONS, *secrets_manager.KEY_PERMISSIONS}

    rotating = _rotating(resources)
    found = [each for each in _allowed(rotating) if asked & set(_list(each["Action"]))]

    own = resources["RotateGeneratedMintsKeys"]["Properties"]["PolicyDocument"]["Statement"]
    assert found == own


def test_no_key_is_touched_unless_users_are_named(template: dict[str, Any]) -> None:
    assert template["Parameters"]["IamUsers"]["Default"] == ""
    assert template["Conditions"]["HasIamUsers"]["Fn::And"] == [
        {"Condition": "HasGenerated"},
        {"Fn::Not": [{"Fn::Equals": [{"Ref": "IamUsers"}, ""]}]},
    ]


def test_api_keys_are_changed_only_where_that_is_asked_for(template: dict[str, Any]) -> None:
    """As the page says, statement by statement."""
    policy = template["Resources"]["RotateGeneratedChangesApiKeys"]["Properties"]
    page = (ROOT / "docs" / "api-gateway-keys.md").read_text()
    [shown] = [
        json.loads(block)["Statement"]
        for block in re.findall(r"```json\n(.*?)```", page, re.DOTALL)
        if "Statement" in block
    ]
    prefix = "arn:aws:apigateway:eu-west-1::"
    granted = json.loads(
        json.dumps(policy["PolicyDocument"]["Statement"]).replace(
            "arn:${AWS::Partition}:apigateway:${AWS::Region}::", prefix
        )
    )

    assert policy["Roles"] == [{"Ref": "RotateGeneratedRole"}]
    assert [(each["Action"], _named(each["Resource"])) for each in granted] == [
        (each["Action"], _named(each["Resource"])) for each in shown
    ]
    assert template["Parameters"]["ApiGatewayKeys"]["Default"] == "false"
    assert template["Conditions"]["HasApiKeys"]["Fn::And"] == [
        {"Condition": "HasGenerated"},
        {"Fn::Equals": [{"Ref": "ApiGatewayKeys"}, "true"]},
    ]


def _named(resource: object) -> list[object]:
    resources = resource if isinstance(resource, list) else [resource]
    return [each["Fn::Sub"] if isinstance(each, dict) else each for each in resources]


@pytest.mark.parametrize(
    "users,is_one",
    [
        ("", True),
        (f"{USER}mailer", True),
        (f"{USER}rotated/mailer", True),
        (f"{USER}rotated/*", True),
        (f"{USER}rotated/app-?,{USER}mailer", True),
        (f"{USER}*", False),
        (f"{USER}app*", False),
        (f"{USER}*/mailer", False),
        (f"{USER}mailer,", False),
        (f"{USER}mailer, {USER}reports", False),
        ("arn:aws:iam::*:user/rotated/mailer", False),
        ("arn:aws:iam::111122223333:role/rotated/mailer", False),
        ("*", False),
    ],
)
def test_users_are_named_or_are_those_below_a_path(
    template: dict[str, Any], users: str, *, is_one: bool
) -> None:
    """A key of any user of the account would be a key of its administrator."""
    pattern = template["Parameters"]["IamUsers"]["AllowedPattern"]

    assert (re.fullmatch(pattern, users) is not None) is is_one


# ---------------------------------------------------------------------------- what follows

FOLLOWING = {
    *("HasFollowUp", "HasFollowUpAdmin", "HasFollowUpApiKeys", "HasFollowUpDatabase"),
    *("HasFollowUpGenerated", "HasFollowUpKeys", "HasFollowUpSecrets", "HasFollowUpVpc"),
    *("HasCopiesBucket", "HasCopiesParameters", "HasClusters", "HasEcsServices"),
}
RETIRING = {
    *("iam:GetAccessKeyLastUsed", "iam:ListAccessKeys", "iam:UpdateAccessKey"),
    *("apigateway:GET", "apigateway:PATCH"),
}
"""What it takes to retire a key of IAM or API Gateway: neither to make one, nor to delete one."""


def test_nothing_follows_unless_it_is_asked_for(template: dict[str, Any]) -> None:
    assert template["Parameters"]["FollowUp"]["Default"] == "false"
    assert template["Conditions"]["HasFollowUp"]["Fn::And"] == [
        {"Fn::Or": [{"Condition": "HasDatabase"}, {"Condition": "HasGenerated"}]},
        {"Fn::Equals": [{"Ref": "FollowUp"}, "true"]},
    ]
    for condition in FOLLOWING - {"HasFollowUp"}:
        assert {"Condition": "HasFollowUp"} in template["Conditions"][condition]["Fn::And"]
    for name, each in template["Resources"].items():
        if name.startswith(("FollowUp", "LookAgain")):
            assert each["Condition"] in FOLLOWING, name


def test_nothing_is_reached_that_no_parameter_names(template: dict[str, Any]) -> None:
    """Clusters, services, other secrets: none unless somebody says which."""
    asked = {
        "ClusterArns": "HasClusters",
        "EcsServices": "HasEcsServices",
        "FollowUpSecrets": "HasFollowUpSecrets",
    }

    for parameter, condition in asked.items():
        assert template["Parameters"][parameter]["Default"] == ""
        assert template["Conditions"][condition]["Fn::And"] == [
            {"Condition": "HasFollowUp"},
            {"Fn::Not": [{"Fn::Equals": [{"Ref": parameter}, ""]}]},
        ]
    assert template["Parameters"]["EcsClusters"]["Default"] == ""


CLUSTER = "arn:aws:eks:eu-west-1:111122223333:cluster/prod"
SERVICE = "arn:aws:ecs:eu-west-1:111122223333:service/prod/orders"
TOKEN = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:prod/cluster-token-"


@pytest.mark.parametrize(
    "parameter,value,is_one",
    [
        ("ClusterArns", CLUSTER, True),
        ("ClusterArns", f"{CLUSTER},{CLUSTER}-2", True),
        ("ClusterArns", "arn:aws:eks:eu-west-1:111122223333:cluster/*", False),
        ("ClusterArns", "*", False),
        ("EcsServices", SERVICE, True),
        ("EcsServices", f"{SERVICE},{SERVICE}-worker", True),
        ("EcsServices", f"{SERVICE},", False),
        ("EcsServices", "arn:aws:ecs:eu-west-1:111122223333:service/prod/*", False),
        ("EcsServices", "*", False),
        ("FollowUpSecrets", f"{TOKEN}AbCdEf", True),
        ("FollowUpSecrets", f"{TOKEN}??????,{TOKEN}2-??????", True),
        ("FollowUpSecrets", f"{TOKEN}*", False),
        ("FollowUpSecrets", "*", False),
    ],
)
def test_what_else_is_reached_is_named_one_by_one(
    template: dict[str, Any], parameter: str, value: str, *, is_one: bool
) -> None:
    """Whoever may update any service of a cluster may stop all of them."""
    pattern = template["Parameters"][parameter]["AllowedPattern"]

    assert (re.fullmatch(pattern, value) is not None) is is_one
    assert re.fullmatch(pattern, "") is not None


def test_a_service_is_tagged_with_tags_of_ours_only(resources: dict[str, Any]) -> None:
    [tagging] = [each for each in _allowed(resources) if "ecs:TagResource" in _list(each["Action"])]

    assert tagging["Resource"] == {"Fn::Split": [",", {"Ref": "EcsServices"}]}
    assert tagging["Condition"] == {"ForAllValues:StringLike": {"aws:TagKeys": f"{marks.PREFIX}*"}}


def test_the_secrets_that_may_be_read_are_those_that_the_function_is_told(
    resources: dict[str, Any],
) -> None:
    variables = resources["FollowUpFunction"]["Properties"]["Environment"]["Variables"]
    nothing, others = {"Ref": "AWS::NoValue"}, {"Ref": "FollowUpSecrets"}
    both = {"Fn::Sub": "${AdminSecret},${FollowUpSecrets}"}
    read = resources["FollowUpReadsSecrets"]["Properties"]["PolicyDocument"]["Statement"][0]

    assert variables["KEYTURN_ADMIN_SECRETS"] == {
        "Fn::If": [
            "HasAdmin",
            {"Fn::If": ["HasFollowUpSecrets", both, {"Ref": "AdminSecret"}]},
            {"Fn::If": ["HasFollowUpSecrets", others, nothing]},
        ]
    }
    assert read["Resource"] == {"Fn::Split": [",", others]}
    assert _list(read["Action"]) == ["secretsmanager:GetSecretValue"]


def test_a_follow_up_may_do_what_its_adapters_declare(resources: dict[str, Any]) -> None:
    """Whatever adapter comes: what it declares, the role can be given."""
    following = {n: r for n, r in resources.items() if r.get("Condition") in FOLLOWING}
    granted = {
        action
        for each in _allowed(following)
        for action in _list(each["Action"])
        if not action.startswith("ec2:")  # Lambda's own, when there is a VPC
    }

    assert {*iam_access_key.PERMISSIONS, *api_gateway_key.PERMISSIONS} > RETIRING
    assert granted - RUNTIME_ACTIONS - RETIRING == {
        *secrets_manager.FOLLOW_UP_PERMISSIONS,
        "secretsmanager:ListSecretVersionIds",  # whose keys they are, where keys are minted
        *_declared(destinations, consumers, notifiers, kubernetes),
    }
    assert granted >= RETIRING


def test_a_follow_up_moves_no_label_but_previous(resources: dict[str, Any]) -> None:
    """Whoever may move AWSCURRENT may roll everybody back."""
    following = {n: r for n, r in resources.items() if r.get("Condition") in FOLLOWING}
    moving = [
        each
        for each in _allowed(following)
        if "secretsmanager:UpdateSecretVersionStage" in _list(each["Action"])
    ]

    only_previous = {"StringEquals": {"secretsmanager:VersionStage": secrets_manager.PREVIOUS}}
    assert [each["Condition"] for each in moving] == [only_previous] * 2


def test_a_follow_up_uses_the_key_with_a_context_only(resources: dict[str, Any]) -> None:
    """Of the secret, of the copy, of the parameter, of the topic."""
    following = {n: r for n, r in resources.items() if r.get("Condition") in FOLLOWING}

    for statement in _about(following, {"Fn::GetAtt": ["Key", "Arn"]}):
        named = {name for test in statement["Condition"].values() for name in test}
        assert any(name.startswith("kms:EncryptionContext:") for name in named), statement["Sid"]


def test_a_follow_up_is_started_by_its_own_rules_only(resources: dict[str, Any]) -> None:
    permissions = {
        each["SourceArn"]["Fn::GetAtt"][0]
        for _, each in _of_type(resources, "AWS::Lambda::Permission")
        if each["FunctionName"] == {"Ref": "FollowUpFunction"}
    }

    assert permissions == {
        *("FollowUpStarts", "FollowUpStartsForGenerated", "FollowUpSweep"),
        "FollowUpHearsOfTrouble",
    }
    pattern = resources["FollowUpStarts"]["Properties"]["EventPattern"]
    assert pattern == {
        "source": ["aws.secretsmanager"],
        "detail-type": ["Secret Label Updated"],
        "resources": [{"Ref": "Secret"}],
    }


def test_the_sweep_is_as_often_as_the_code_thinks(resources: dict[str, Any]) -> None:
    """Alerts are told within two of them: docs/follow-up.md."""
    sweep = resources["FollowUpSweep"]["Properties"]
    queue = resources["LookAgain"]["Properties"]

    minutes = follow_up.SWEEP_EVERY.total_seconds() / 60
    assert sweep["ScheduleExpression"] == f"rate({minutes:.0f} minutes)"
    assert json.loads(sweep["Targets"][0]["Input"]) == {"sweep": True}
    assert queue["MessageRetentionPeriod"] == follow_up.SIGHTING_LASTS.total_seconds()
    timeout = resources["FollowUpFunction"]["Properties"]["Timeout"]
    assert queue["VisibilityTimeout"] >= 6 * timeout


# ---------------------------------------------------------------------------- without a database


def test_a_stack_without_a_database_has_nothing_of_it(template: dict[str, Any]) -> None:
    conditions = template["Conditions"]
    always = {name for name, each in template["Resources"].items() if "Condition" not in each}

    with_it = {name for name, each in conditions.items() if _is_part_of_a_database(each)}

    assert always == {"Key", "Alerts", "AlertsPolicy"}
    assert with_it == {"HasAdmin", "HasFollowUpDatabase", "HasVpc", "IsToldDirectly"}
    assert template["Parameters"]["DatabaseHost"]["Default"] == ""
    for name in ("Secret", "AdminSecret", "Rotate", "RotateRole", "RotateReadsAdmin", "Schedule"):
        assert template["Resources"][name]["Condition"] in {"HasDatabase", *with_it}, name


def _is_part_of_a_database(condition: dict[str, Any]) -> bool:
    return {"Condition": "HasDatabase"} in condition.get("Fn::And", [])


@pytest.mark.parametrize(
    "host,generated,users,is_one",
    [
        ("db.example.com", "", "", True),
        ("", "prod/keys/*", f"{USER}mailer", True),
        ("db.example.com", "prod/keys/*", f"{USER}mailer", True),
        ("", "", "", False),
        ("db.example.com", "", f"{USER}mailer", False),
    ],
)
def test_a_stack_that_would_do_nothing_of_what_is_asked_is_refused(
    template: dict[str, Any], host: str, generated: str, users: str, *, is_one: bool
) -> None:
    parameters = {
        "ApiGatewayKeys": "false",
        "DatabaseHost": host,
        "EcsServices": "",
        "GeneratedSecrets": generated,
        "IamUsers": users,
    }

    kept = [
        _is_true(assertion["Assert"], parameters)
        for rule in template["Rules"].values()
        if _is_true(rule.get("RuleCondition", True), parameters)
        for assertion in rule["Assertions"]
    ]

    assert all(kept) is is_one


def _is_true(said: Any, parameters: dict[str, str]) -> bool:
    """Evaluate a rule as CloudFormation does."""
    match said:
        case {"Fn::Not": [inner]}:
            return not _is_true(inner, parameters)
        case {"Fn::And": parts}:
            return all(_is_true(part, parameters) for part in parts)
        case {"Fn::Equals": [{"Ref": name}, text]}:
            return bool(parameters[name] == text)
    return bool(said)


# ---------------------------------------------------------------------------- the secrets


def test_no_password_is_in_the_template_or_its_parameters(template: dict[str, Any]) -> None:
    for name, secret in _of_type(template["Resources"], "AWS::SecretsManager::Secret"):
        assert "SecretString" not in secret, name
        assert secret["GenerateSecretString"]["GenerateStringKey"] == "password", name
    assert not [name for name in template["Parameters"] if "password" in name.lower()]
    assert not [name for name in template["Outputs"] if "password" in name.lower()]
    assert "resolve:secretsmanager" not in TEMPLATE.read_text()


@pytest.mark.parametrize("ssl", ["true", "false"])
@pytest.mark.parametrize("dbname", ["orders", ""])
def test_the_secrets_values_have_the_documented_format(
    resources: dict[str, Any], ssl: str, dbname: str
) -> None:
    secret = resources["Secret"]["Properties"]["GenerateSecretString"]["SecretStringTemplate"]
    admin = resources["AdminSecret"]["Properties"]["GenerateSecretString"]["SecretStringTemplate"]
    _, with_admin, single = secret["Fn::If"]
    common = {
        "engine": "mariadb",
        "host": "db.example.com",
        "port": 3306,
        "ssl": ssl == "true",
        **({"dbname": dbname} if dbname else {}),
    }

    assert secret["Fn::If"][0] == "HasAdmin"
    assert _filled(with_admin, ssl, dbname) == {
        **common,
        "username": "app",
        "masterarn": "arn:admin",
    }
    assert _filled(single, ssl, dbname) == {**common, "username": "app"}
    assert _filled(admin, ssl, dbname) == {**common, "username": "root"}


def test_what_would_lock_people_out_if_it_went_is_retained(resources: dict[str, Any]) -> None:
    for name in ("Key", "Secret", "AdminSecret"):
        assert resources[name]["DeletionPolicy"].startswith("Retain"), name
        assert resources[name]["UpdateReplacePolicy"] == "Retain", name


def test_the_stack_policy_names_what_is_there(resources: dict[str, Any]) -> None:
    """CloudFormation ignores a statement about a resource that does not exist."""
    policy = json.loads((ROOT / "infra" / "stack-policy.json").read_text())

    named = {
        resource.removeprefix("LogicalResourceId/")
        for statement in policy["Statement"]
        if statement["Effect"] == "Deny"
        for resource in _list(statement["Resource"])
    }

    assert named == {"Secret", "AdminSecret", "Key"}
    assert named <= resources.keys()


# ---------------------------------------------------------------------------- the function


def test_the_function_knows_which_secrets_it_may_touch(function: dict[str, Any]) -> None:
    variables = function["Environment"]["Variables"]

    assert variables["KEYTURN_SECRETS"] == {"Ref": "Secret"}
    assert variables["KEYTURN_ADMIN_SECRETS"]["Fn::If"][:2] == ["HasAdmin", {"Ref": "AdminSecret"}]
    assert set(variables) == {
        "KEYTURN_ADMIN_SECRETS",
        "KEYTURN_CA_FILE",
        "KEYTURN_PLAINTEXT_HOSTS",
        "KEYTURN_SECRETS",
        "KEYTURN_STRATEGY",
        "POWERTOOLS_METRICS_NAMESPACE",
        "POWERTOOLS_SERVICE_NAME",
    }


def test_every_variable_is_documented() -> None:
    """The function refuses a KEYTURN_ variable that it does not know, so the list is short."""
    entry_points = [path.read_text() for path in (ROOT / "functions" / "aws").glob("*.py")]
    known = set(re.findall(r"KEYTURN_[A-Z_]+", "".join(entry_points)))

    documented = set(re.findall(r"`(KEYTURN_[A-Z_]+)`", (ROOT / "docs/deploy.md").read_text()))

    assert documented == known


def test_every_parameter_is_documented(template: dict[str, Any]) -> None:
    documented = re.findall(
        r"^\| `([A-Z][A-Za-z]+)` \|", (ROOT / "docs/deploy.md").read_text(), re.MULTILINE
    )

    assert sorted(documented) == sorted(template["Parameters"])


@pytest.mark.parametrize("name", ["Rotate", "Generate", "RotateGenerated", "FollowUpFunction"])
def test_the_handler_is_where_the_template_says(resources: dict[str, Any], name: str) -> None:
    module, _, function = resources[name]["Properties"]["Handler"].rpartition(".")
    source = ROOT / "functions" / f"{module.replace('.', '/')}.py"

    assert f"def {function}(" in source.read_text()


def test_the_function_has_time_and_memory_for_a_step(function: dict[str, Any]) -> None:
    assert function["Timeout"] >= 60
    assert function["MemorySize"] >= 512


def test_the_names_that_conditions_repeat_are_the_ones_given(resources: dict[str, Any]) -> None:
    name = resources["Rotate"]["Properties"]["FunctionName"]["Fn::Sub"]
    topic = resources["Alerts"]["Properties"]["TopicName"]["Fn::Sub"]

    assert FUNCTION_ARN.endswith(f":function:{name}")
    assert f":{topic}" in json.dumps(resources["Key"])


def test_tracing_is_off_because_it_records_the_text_of_exceptions(function: dict[str, Any]) -> None:
    assert "TracingConfig" not in function


def test_logs_are_json_in_a_group_that_forgets(
    resources: dict[str, Any], function: dict[str, Any]
) -> None:
    assert function["LoggingConfig"]["LogFormat"] == "JSON"
    assert function["LoggingConfig"]["LogGroup"] == {"Ref": "RotateLogs"}
    assert resources["RotateLogs"]["Properties"]["RetentionInDays"] == {"Ref": "LogRetentionDays"}


# ---------------------------------------------------------------------------- when, and who hears


def test_deploying_rotates_nothing_unless_asked(template: dict[str, Any]) -> None:
    schedule = template["Resources"]["Schedule"]["Properties"]

    assert schedule["RotateImmediatelyOnUpdate"] == {"Ref": "RotateImmediately"}
    assert template["Parameters"]["RotateImmediately"]["Default"] == "false"


def test_every_alarm_reaches_the_topic(resources: dict[str, Any]) -> None:
    alarms = dict(_of_type(resources, "AWS::CloudWatch::Alarm"))

    assert {alarm["MetricName"] for alarm in alarms.values()} == {
        *("ApproximateAgeOfOldestMessage", "ApproximateNumberOfMessagesVisible"),
        *("CredentialsHeld", "Errors", "SecondsBehind", "SecretsFollowed", "Throttles"),
    }
    silence = {
        "FollowUpSweepAlarm": "breaching",  # silence is what it is about
        "FollowUpStuckAlarm": "ignore",  # measured by sweeps alone: between two there is nothing
        "FollowUpHeldAlarm": "ignore",
    }
    for name, alarm in alarms.items():
        assert alarm["AlarmActions"] == [{"Ref": "Alerts"}], name
        assert alarm["TreatMissingData"] == silence.get(name, "notBreaching"), name


def test_a_failed_or_abandoned_rotation_of_this_secret_reaches_the_topic(
    resources: dict[str, Any],
) -> None:
    rule = resources["RotationTrouble"]["Properties"]

    detail = rule["EventPattern"]["detail"]

    assert detail["eventName"] == ["RotationFailed", "RotationAbandoned"]
    assert {"Ref": "Secret"} in detail["additionalEventData"]["SecretId"]
    assert [target["Arn"] for target in rule["Targets"]] == [{"Ref": "Alerts"}]


def test_topic_and_queue_are_encrypted(resources: dict[str, Any]) -> None:
    queue = resources["Dlq"]["Properties"]

    assert resources["Alerts"]["Properties"]["KmsMasterKeyId"] == {"Fn::GetAtt": ["Key", "Arn"]}
    assert queue["SqsManagedSseEnabled"] is True
    assert queue["MessageRetentionPeriod"] == 14 * 24 * 3600


def test_cfn_lint_finds_nothing() -> None:
    lint = subprocess.run(
        [Path(sys.executable).with_name("cfn-lint"), TEMPLATE],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert (lint.stdout, lint.returncode) == ("", 0), lint.stderr


# ---------------------------------------------------------------------------- reading it


def _statements(resources: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield every statement of the function's role."""
    for _, role in _of_type(resources, "AWS::IAM::Role"):
        assert "ManagedPolicyArns" not in role
        said = role["Policies"]
        for policy in said["Fn::If"][1] if "Fn::If" in said else said:  # with a VPC, all there is
            yield from policy["PolicyDocument"]["Statement"]
    for _, policy in _of_type(resources, "AWS::IAM::Policy"):
        yield from policy["PolicyDocument"]["Statement"]


def _allowed(resources: dict[str, Any]) -> list[dict[str, Any]]:
    return [each for each in _statements(resources) if each["Effect"] == "Allow"]


def _rotating(resources: dict[str, Any]) -> dict[str, Any]:
    """Return what is there without a follow-up."""
    return {n: each for n, each in resources.items() if each.get("Condition") not in FOLLOWING}


def _about(resources: dict[str, Any], resource: object) -> list[dict[str, Any]]:
    return [each for each in _allowed(resources) if each["Resource"] == resource]


def _of_type(resources: dict[str, Any], kind: str) -> list[tuple[str, dict[str, Any]]]:
    return [(name, each["Properties"]) for name, each in resources.items() if each["Type"] == kind]


def _list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _filled(sub: dict[str, Any], ssl: str, dbname: str) -> object:
    """Return the value that CloudFormation would make of it."""
    text, computed = sub["Fn::Sub"]
    condition, given, absent = computed["Dbname"]["Fn::If"]
    assert condition == "HasDatabaseName"
    values = {
        "AdminSecret": "arn:admin",
        "AdminUser": "root",
        "DatabaseHost": "db.example.com",
        "DatabaseName": dbname,
        "DatabasePort": "3306",
        "DatabaseSsl": ssl,
        "DatabaseUser": "app",
        "Dbname": given["Fn::Sub"] if dbname else absent,
        "Engine": "mariadb",
    }
    for _ in range(2):  # one of the values is filled in itself
        text = re.sub(r"\$\{(\w+)\}", lambda found: values[found[1]], text)
    return json.loads(text)
