"""Every private name of moto that is replaced, in one place.

    LambdaFunction._invoke_lambda   ran a Docker container
    LambdaFunction.invoke           made asynchronous calls wait
    Rule.send_to_targets            knew neither Lambda nor SNS, and took schedules for patterns
    parsing.get_model_map           knew no Secret, RotationSchedule, ...
    parsing.get_model_list            the same, for what each calls its name

They are in force between the start and the stop of one `LocalAws` and undone afterwards, so that
moto is its own self again for whoever else uses it. A name that moto has lost or changed is
found out at the start, not in the middle of a rotation.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from moto.awslambda import models as lambda_models
from moto.cloudformation import parsing
from moto.events import models as event_models
from moto.sns.models import sns_backends

from keyturn.errors import Unsupported
from keyturn.local.functions import Functions
from keyturn.local.resources import resource_types
from keyturn.local.secrets_manager import run


@dataclass(frozen=True, slots=True)
class Patch:
    """One name of moto that is replaced.

    Attributes:
        owner: The class or module that has it.
        name: The name.
        parameters: What it must take, or a call of moto's would not fit the replacement.
        replacement: What takes its place, made from the original.
    """

    owner: Any
    name: str
    parameters: tuple[str, ...]
    replacement: Callable[[Any], Any]

    def check(self) -> None:
        """Refuse a moto that does not have the name as we know it.

        Raises:
            Unsupported: It has changed.
        """
        original = getattr(self.owner, self.name, None)
        if original is None or tuple(inspect.signature(original).parameters) != self.parameters:
            raise Unsupported(
                f"moto's {self.owner.__name__}.{self.name} is not what it was in 5.2",
                remedy="Run pip install 'moto~=5.2.5'.",
            )


@contextlib.contextmanager
def applied(patches: Iterable[Patch]) -> Iterator[None]:
    """Put them in force; undo them on leaving.

    Raises:
        Unsupported: This is not the moto that they are for. Nothing was replaced.
    """
    patches = list(patches)
    for patch in patches:
        patch.check()
    with contextlib.ExitStack() as undo:
        for patch in patches:
            original = getattr(patch.owner, patch.name)
            undo.callback(setattr, patch.owner, patch.name, original)
            setattr(patch.owner, patch.name, patch.replacement(original))
        yield


def moto_patches(functions: Functions, endpoint_url: str) -> tuple[Patch, ...]:
    """Return them all, for one local AWS."""
    types = resource_types(endpoint_url)
    function = lambda_models.LambdaFunction
    rule_parameters = ("self", "original_event", "transform_input")
    invoke_parameters = ("self", "body", "request_headers", "response_headers")
    return (
        Patch(function, "_invoke_lambda", ("self", "event"), partial(_invoke_lambda, functions)),
        Patch(function, "invoke", invoke_parameters, partial(_invoke, functions)),
        Patch(
            event_models.Rule,
            "send_to_targets",
            rule_parameters,
            partial(_send_to_targets, functions),
        ),
        Patch(
            parsing,
            "get_model_map",
            (),
            lambda original: lambda: {**original(), **{t.cfn_type: t for t in types}},
        ),
        Patch(parsing, "get_model_list", (), lambda original: lambda: [*original(), *types]),
    )


def _invoke_lambda(functions: Functions, _: Any) -> Any:
    def replacement(self: Any, event: Any = None) -> tuple[str, bool, str]:
        answer = run(functions, self, event)
        return answer.payload, answer.failed, answer.log

    return replacement


def _invoke(functions: Functions, original: Any) -> Any:
    def replacement(self: Any, body: Any, request_headers: Any, response_headers: Any) -> Any:
        if request_headers.get("x-amz-invocation-type") != "Event":
            return original(self, body, request_headers, response_headers)
        event = json.loads(body or "{}")
        functions.in_background(lambda: run(functions, self, event))
        return b""

    return replacement


def _send_to_targets(functions: Functions, original: Any) -> Any:
    def replacement(self: Any, original_event: Any, *rest: Any, **named: Any) -> None:
        # A rule with a schedule and no pattern matches no event; to moto it matches every one.
        has_pattern = bool(self.event_pattern.get_pattern())
        if not has_pattern or not self.event_pattern.matches_event(original_event):
            return
        ours = [target for target in self.targets if _service(target) in {"lambda", "sns"}]
        for target in ours:
            deliver(functions, self, target, _as_received(original_event))
        others = copy.copy(self)
        others.targets = [target for target in self.targets if target not in ours]
        original(others, original_event, *rest, **named)

    return replacement


def _service(target: Mapping[str, Any]) -> str:
    return str(target["Arn"]).split(":")[2]


def _as_received(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the event as EventBridge words it: moto keeps the time as a number."""
    time = datetime.fromtimestamp(float(event["time"]), UTC)
    return {**event, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ")}


def deliver(functions: Functions, rule: Any, target: Any, event: dict[str, Any]) -> None:
    """Hand *event*, as the rule's target wants to see it, to a function or a topic."""
    shown: Any = {key: value for key, value in event.items() if key != "ingestion-time"}
    if "InputTransformer" in target:
        transformer = target["InputTransformer"]
        shown = event_models.EventTemplateParser.parse(
            transformer["InputTemplate"], transformer.get("InputPathsMap", {}), event
        )
    elif "Input" in target:
        shown = json.loads(target["Input"])
    if _service(target) == "sns":
        message = shown if isinstance(shown, str) else json.dumps(shown)
        topics = sns_backends[rule.account_id][rule.region_name]
        # Whoever told of the event must not wait for the topic's subscribers.
        functions.in_background(lambda: topics.publish(message, target["Arn"]))
    else:
        function = lambda_models.lambda_backends[rule.account_id][rule.region_name].get_function(
            target["Arn"]
        )
        functions.in_background(lambda: run(functions, function, shown))
