"""infra/template.yaml as CloudFormation would have it: transformed, and filled in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse

TEMPLATE = Path(__file__).parents[1] / "infra" / "template.yaml"
ACCOUNT, REGION, STACK = "111122223333", "eu-west-1", "orders-db"

_PSEUDO = {
    "AWS::AccountId": ACCOUNT,
    "AWS::Partition": "aws",
    "AWS::Region": REGION,
    "AWS::StackName": STACK,
}
_NOTHING = object()
"""What AWS::NoValue is: whatever holds it loses it."""


class _NoManagedPolicies:
    def load(self) -> dict[str, str]:
        return {}


@cache
def transformed() -> dict[str, Any]:
    """Return it as the service transforms it, after `sam package`."""
    parsed: dict[str, Any] = yaml_parse(TEMPLATE.read_text())
    for each in parsed["Resources"].values():
        if each["Type"] == "AWS::Serverless::Function":
            each["Properties"]["CodeUri"] = {"Bucket": "b", "Key": "k"}
    whole: dict[str, Any] = transform(parsed, {}, _NoManagedPolicies())
    return whole


class Deployed:
    """The template with parameters: what is there then, and what it says.

    A resource is `<Name>`, its attribute `<Name.Attribute>`. To name one that is not there is an
    error, as for the service.
    """

    def __init__(self, **parameters: str) -> None:
        self._template = transformed()
        defaults = {name: each.get("Default") for name, each in self._parts("Parameters").items()}
        assert parameters.keys() <= defaults.keys(), parameters
        self._parameters = {**defaults, **parameters}

    @property
    def resources(self) -> dict[str, dict[str, Any]]:
        """Return the properties of whatever is there, by its name."""
        return {name: self._filled(name) for name in self._parts("Resources") if self._has(name)}

    def of_type(self, kind: str) -> dict[str, dict[str, Any]]:
        """Return the properties of the resources of one type."""
        types = {name: each["Type"] for name, each in self._parts("Resources").items()}
        return {name: each for name, each in self.resources.items() if types[name] == kind}

    @property
    def outputs(self) -> dict[str, Any]:
        """Return the outputs that there are."""
        return {
            name: self._value(each["Value"])
            for name, each in self._parts("Outputs").items()
            if self._holds(each.get("Condition"))
        }

    def is_accepted(self) -> bool:
        """Tell whether the rules and the patterns of the parameters let it through."""
        for name, each in self._parts("Parameters").items():
            pattern = each.get("AllowedPattern", ".*")
            if not re.fullmatch(pattern, str(self._parameters[name]), re.DOTALL):
                return False
        rules = self._parts("Rules").values()
        return all(
            self._value(assertion["Assert"])
            for rule in rules
            if self._value(rule.get("RuleCondition", True))
            for assertion in rule["Assertions"]
        )

    # ------------------------------------------------------------------------ how

    def _parts(self, section: str) -> dict[str, Any]:
        found: dict[str, Any] = self._template[section]
        return found

    def _has(self, resource: str) -> bool:
        return self._holds(self._parts("Resources")[resource].get("Condition"))

    def _holds(self, condition: str | None) -> bool:
        return condition is None or bool(self._value(self._parts("Conditions")[condition]))

    def _filled(self, name: str) -> dict[str, Any]:
        filled: dict[str, Any] = self._value(self._parts("Resources")[name].get("Properties", {}))
        return filled

    def _value(self, said: Any) -> Any:
        if isinstance(said, list):
            return [each for each in map(self._value, said) if each is not _NOTHING]
        if not isinstance(said, Mapping):
            return said
        if len(said) == 1:
            [(function, argument)] = said.items()
            if function in {"Ref", "Condition"} or function.startswith("Fn::"):
                return self._called(function, argument)
        values = {key: self._value(each) for key, each in said.items()}
        return {key: each for key, each in values.items() if each is not _NOTHING}

    def _called(self, function: str, argument: Any) -> Any:  # noqa: PLR0911  # one per function
        match function, argument:
            case "Ref", name:
                return self._named(name)
            case "Condition", str(name):
                return self._holds(name)
            case "Fn::If", [condition, then, otherwise]:
                return self._value(then if self._holds(condition) else otherwise)
            case "Fn::GetAtt", [name, attribute]:
                return f"<{self._there(name)}.{attribute}>"
            case "Fn::Sub", str(text):
                return self._substituted(text, {})
            case "Fn::Sub", [str(text), given]:
                return self._substituted(text, self._value(given))
        return _pure(function, self._value(argument))

    def _named(self, name: str) -> Any:
        if name == "AWS::NoValue":
            return _NOTHING
        if name in _PSEUDO:
            return _PSEUDO[name]
        if name in self._parameters:
            value = self._parameters[name]
            kind = self._parts("Parameters")[name]["Type"]
            return str(value).split(",") if kind == "CommaDelimitedList" else value
        return f"<{self._there(name)}>"

    def _there(self, name: str) -> str:
        assert name in self._parts("Resources"), f"there is no resource {name}"
        assert self._has(name), f"{name} is not there with these parameters"
        return name

    def _substituted(self, text: str, given: Mapping[str, Any]) -> str:
        def value(found: re.Match[str]) -> str:
            name, _, attribute = found[1].partition(".")
            if found[1] in given:
                return str(given[found[1]])
            return f"<{self._there(name)}.{attribute}>" if attribute else str(self._named(name))

        return re.sub(r"\$\{([A-Za-z0-9:.]+)\}", value, text)


def _pure(function: str, arguments: Any) -> Any:  # noqa: PLR0911  # one per function
    """Return what a function makes of values."""
    match function, arguments:
        case "Fn::And", parts:
            return all(parts)
        case "Fn::Or", parts:
            return any(parts)
        case "Fn::Not", [part]:
            return not part
        case "Fn::Equals", [one, other]:
            return str(one) == str(other)
        case "Fn::Join", [separator, parts]:
            return separator.join(parts)
        case "Fn::Split", [separator, text]:
            return text.split(separator)
        case "Fn::Select", [index, parts]:
            return parts[int(index)]
    message = f"{function} is not known here"
    raise AssertionError(message)


def matches(pattern: Any, event: Any) -> bool:
    """Tell whether an event matches a rule's pattern, as EventBridge says it.

    Of the content filters, `prefix` alone. Names that a pattern has and the event lacks do not
    match; an array of the event matches if one of its elements does.
    """
    if isinstance(pattern, Mapping):
        if not isinstance(event, Mapping):
            return False
        return all(matches(wanted, event.get(name)) for name, wanted in pattern.items())
    values = event if isinstance(event, list) else [event]
    return any(_is_one_of(value, pattern) for value in values)


def _is_one_of(value: Any, alternatives: list[Any]) -> bool:
    for each in alternatives:
        if isinstance(each, Mapping):
            assert each.keys() == {"prefix"}, each
            if isinstance(value, str) and value.startswith(each["prefix"]):
                return True
        elif each == value:
            return True
    return False
