"""Puts a SAM template onto the local AWS: package, transform, create the stack, check it is whole.

What `sam build` and `sam deploy` do, offline and in seconds. Functions are packed from their
sources alone: their libraries come from the interpreter that runs keyturn.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import boto3
from botocore.exceptions import ClientError
from moto.cloudformation import parsing
from samtranslator.model.exceptions import InvalidDocumentException
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator
from samtranslator.yaml_helper import yaml_parse

from keyturn.errors import Misconfigured, Unsupported
from keyturn.local.aws import LocalAws
from keyturn.local.calls import CLOUDFORMATION_KEY_ID

BUCKET = "keyturn-local-artifacts"
"""Where the packages are put."""

_NOT_PACKED = frozenset(
    {"keyturn/local", "keyturn/cli", "keyturn/testing", "gcp", "requirements", "Makefile"}
)
_MANAGED_POLICIES = (
    "service-role/AWSLambdaBasicExecutionRole",
    "service-role/AWSLambdaSQSQueueExecutionRole",
    "service-role/AWSLambdaVPCAccessExecutionRole",
)


@dataclass(frozen=True, slots=True)
class Stack:
    """What was deployed.

    Attributes:
        resources: Logical name to physical id, of everything that was made.
        outputs: The template's outputs.
    """

    name: str
    resources: Mapping[str, str]
    outputs: Mapping[str, str]


def deploy(
    aws: LocalAws,
    template: Path,
    *,
    stack_name: str = "keyturn",
    parameters: Mapping[str, str] | None = None,
    plan: Path | None = None,
) -> Stack:
    """Create a stack.

    Args:
        aws: Started.
        template: A SAM or CloudFormation template.
        stack_name: What to call it.
        parameters: For the template's parameters.
        plan: A keyturn.yaml to pack with the functions, at the top of each package.

    Raises:
        Misconfigured: The template or a parameter is wrong, or a resource cannot be made.
        Unsupported: The local AWS does not know one of the template's types.
    """
    document = _read(template)
    _package(aws, template, document, plan)
    document = _transformed(aws, template, document)
    _check_types(template, document)
    _create(aws, template, document, stack_name, parameters or {})
    stack = _described(aws, stack_name)
    _check_whole(template, document, stack)
    return stack


def parameters_of(template: Path) -> frozenset[str]:
    """Return the names of a template's parameters.

    Raises:
        Misconfigured: It is no template.
    """
    return frozenset(_read(template).get("Parameters", {}))


def package(source: Path, plan: Path | None = None) -> bytes:
    """Return a zip of what a function needs from *source*, the same for the same files."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in _packed(source):
            _add(archive, path.relative_to(source).as_posix(), path)
        if plan is not None:
            _add(archive, "keyturn.yaml", plan)
    return packed.getvalue()


def _packed(source: Path) -> Iterable[Path]:
    for path in sorted(source.rglob("*")):
        relative = PurePosixPath(path.relative_to(source).as_posix())
        places = {str(relative), *(str(parent) for parent in relative.parents)}
        if path.is_file() and "__pycache__" not in relative.parts and not places & _NOT_PACKED:
            yield path


def _add(archive: zipfile.ZipFile, name: str, path: Path) -> None:
    # Without the file's time: the same code gives the same package, and a warm process.
    entry = zipfile.ZipInfo(name)
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)


def _read(template: Path) -> dict[str, Any]:
    if not template.is_file():
        raise Misconfigured(f"there is no {template}", remedy="Give the path of a template.")
    try:
        document = yaml_parse(template.read_text(encoding="utf-8"))
    except Exception as error:  # noqa: BLE001  # the parser's errors are several libraries'
        raise Misconfigured(f"{template}: {error}", remedy="Mend the template.") from None
    if not isinstance(document, dict) or not document.get("Resources"):
        raise Misconfigured(f"{template} has no Resources", remedy="Give a template's path.")
    return document


def _package(aws: LocalAws, template: Path, document: dict[str, Any], plan: Path | None) -> None:
    """Upload the code of every function that has a folder, and point the function to it."""
    s3 = boto3.client("s3", **aws.settings(CLOUDFORMATION_KEY_ID))
    s3.create_bucket(Bucket=BUCKET)
    for name, resource in document["Resources"].items():
        properties = resource.get("Properties", {})
        code = properties.get("CodeUri")
        if resource["Type"] != "AWS::Serverless::Function" or not isinstance(code, str):
            continue
        source = (template.parent / code).resolve()
        if not source.is_dir():
            raise Misconfigured(
                f"{template}: {name} has its code in {source}, which is no folder",
                remedy="Mend CodeUri; it is relative to the template.",
            )
        s3.put_object(Bucket=BUCKET, Key=f"{name}.zip", Body=package(source, plan))
        properties["CodeUri"] = {"Bucket": BUCKET, "Key": f"{name}.zip"}


def _transformed(aws: LocalAws, template: Path, document: dict[str, Any]) -> dict[str, Any]:
    policies = {p.rpartition("/")[2]: f"arn:aws:iam::aws:policy/{p}" for p in _MANAGED_POLICIES}
    # With a session of ours: it would ask the environment for the region otherwise.
    session = boto3.Session(region_name=aws.region)
    try:
        translator = Translator(policies, Parser(), boto_session=session)
        plain = translator.translate(document, {})
        translator.metrics.publish()  # to nobody; what is not published is complained about
    except InvalidDocumentException as error:
        causes = "; ".join(cause.message for cause in error.causes)
        raise Misconfigured(f"{template}: {causes}", remedy="Mend the template.") from None
    copied: dict[str, Any] = json.loads(json.dumps(plain, default=str))
    return copied


def _check_types(template: Path, document: Mapping[str, Any]) -> None:
    """Refuse types that moto would skip while saying that all is well."""
    used = {resource["Type"] for resource in document["Resources"].values()}
    unknown = sorted(used - set(parsing.get_model_map()))
    if unknown:
        raise Unsupported(
            f"{template}: the local AWS cannot make {', '.join(unknown)}",
            remedy="Leave them out locally, or add them to keyturn.local.resources.",
        )


def _create(
    aws: LocalAws,
    template: Path,
    document: Mapping[str, Any],
    stack_name: str,
    parameters: Mapping[str, str],
) -> None:
    unknown = sorted(set(parameters) - set(document.get("Parameters", {})))
    if unknown:
        raise Misconfigured(
            f"{template} has no parameter {', '.join(unknown)}",
            remedy="Leave it out, or add it to the template.",
        )
    cloudformation = boto3.client("cloudformation", **aws.settings(CLOUDFORMATION_KEY_ID))
    try:
        cloudformation.create_stack(
            StackName=stack_name,
            TemplateBody=json.dumps(document),
            Parameters=[
                {"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()
            ],
            Capabilities=["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"],
        )
    except ClientError as error:
        raise Misconfigured(
            f"{template}: {error.response['Error']['Message']}",
            remedy="Mend the template or the parameter.",
        ) from None


def _described(aws: LocalAws, stack_name: str) -> Stack:
    cloudformation = boto3.client("cloudformation", **aws.settings(CLOUDFORMATION_KEY_ID))
    described = cloudformation.describe_stacks(StackName=stack_name)["Stacks"][0]
    made = cloudformation.describe_stack_resources(StackName=stack_name)["StackResources"]
    return Stack(
        stack_name,
        {
            # moto gives some (a Lambda permission) no physical id.
            row["LogicalResourceId"]: row.get("PhysicalResourceId", row["LogicalResourceId"])
            for row in made
            # It lists what a false condition left out as well, without a name.
            if row.get("LogicalResourceId")
        },
        {row["OutputKey"]: row["OutputValue"] for row in described.get("Outputs", [])},
    )


def _check_whole(template: Path, document: Mapping[str, Any], stack: Stack) -> None:
    wanted = {name for name, r in document["Resources"].items() if "Condition" not in r}
    missing = sorted(wanted - set(stack.resources))
    if missing:
        raise Unsupported(
            f"{template}: the local AWS did not make {', '.join(missing)}",
            remedy="Look at the local AWS's log, or report this as a bug of keyturn.",
        )
