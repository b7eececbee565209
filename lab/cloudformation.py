"""What CloudFormation would make of the template: translated by SAM, with conditions and functions
evaluated.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import boto3
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator
from samtranslator.yaml_helper import yaml_parse

from lab import ROOT

Resource = dict[str, Any]

_NO_VALUE = object()
_PSEUDO = {
    "AWS::AccountId": "111122223333",
    "AWS::NoValue": _NO_VALUE,
    "AWS::Partition": "aws",
    "AWS::Region": "eu-central-1",
    "AWS::StackName": "reaper",
    "AWS::URLSuffix": "amazonaws.com",
}


def yaml(path: Path) -> dict[Any, Any]:
    """A YAML file, with CloudFormation's short forms spelt out."""
    found: dict[Any, Any] = yaml_parse(path.read_text(encoding="utf-8"))
    return found


@cache
def source() -> dict[str, Any]:
    """The template as it is written."""
    return yaml(ROOT / "template.yaml")


@cache
def translated() -> dict[str, Any]:
    """The template after the SAM transform, for which its code must be in S3."""
    template = copy.deepcopy(source())
    for resource in template["Resources"].values():
        for uri in ("CodeUri", "ContentUri"):
            if uri in resource.get("Properties", {}):
                resource["Properties"][uri] = "s3://bucket/key"
    translator = Translator(
        {}, Parser(), boto_session=boto3.Session(region_name=_PSEUDO["AWS::Region"])
    )
    found: dict[str, Any] = translator.translate(template, {})
    # SAM's usage metrics, which go nowhere: unpublished ones make it warn when it is collected
    translator.metrics.publish()
    return found


def environ_of(function: Resource) -> dict[str, str]:
    return {name: str(value) for name, value in function["Environment"]["Variables"].items()}


@dataclass(frozen=True)
class Stack:
    """The template deployed with these parameters. What only AWS knows, such as a resource's ARN or
    name, is shown in <>.
    """

    parameters: Mapping[str, str] = field(default_factory=dict)
    name: str = "reaper"

    @property
    def resources(self) -> dict[str, Resource]:
        """The resources that would exist: those whose condition is not false."""
        return {
            name: self.value(resource)
            for name, resource in translated()["Resources"].items()
            if "Condition" not in resource or self.holds(resource["Condition"])
        }

    def of_type(self, kind: str) -> dict[str, Resource]:
        return {
            name: found["Properties"]
            for name, found in self.resources.items()
            if found["Type"] == kind
        }

    @property
    def function(self) -> Resource:
        return self.of_type("AWS::Lambda::Function")["ReaperFunction"]

    @property
    def planner(self) -> Resource:
        """The planner's function, if a fleet is deployed."""
        return self.of_type("AWS::Lambda::Function")["FleetFunction"]

    @property
    def environ(self) -> dict[str, str]:
        return environ_of(self.function)

    @property
    def objections(self) -> list[str]:
        """Why CloudFormation would refuse these parameters, by the template's rules."""
        return [
            assertion["AssertDescription"]
            for rule in translated()["Rules"].values()
            if self.value(rule.get("RuleCondition", True))
            for assertion in rule["Assertions"]
            if not self.value(assertion["Assert"])
        ]

    def holds(self, condition: str) -> bool:
        return bool(self.value(translated()["Conditions"][condition]))

    def value(self, given: Any) -> Any:
        """The value of a part of the template, with its functions evaluated."""
        if isinstance(given, list):
            return [found for item in given if (found := self.value(item)) is not _NO_VALUE]
        if not isinstance(given, dict):
            return given
        if len(given) == 1 and (work := self._functions.get(next(iter(given)))):
            return work(next(iter(given.values())))
        return {
            key: found
            for key, item in given.items()
            if (found := self.value(item)) is not _NO_VALUE
        }

    @property
    def _functions(self) -> dict[str, Callable[[Any], Any]]:
        return {
            "Ref": self._ref,
            "Condition": self.holds,
            "Fn::And": lambda given: all(self.value(given)),
            "Fn::Equals": lambda given: len({str(found) for found in self.value(given)}) == 1,
            "Fn::GetAtt": lambda given: f"<{given if isinstance(given, str) else '.'.join(given)}>",
            "Fn::If": lambda given: self.value(given[1] if self.holds(given[0]) else given[2]),
            "Fn::Join": lambda given: given[0].join(self.value(given[1])),
            "Fn::Not": lambda given: not self.value(given[0]),
            "Fn::Or": lambda given: any(self.value(given)),
            "Fn::Select": lambda given: self.value(given[1])[int(given[0])],
            "Fn::Split": lambda given: self.value(given[1]).split(given[0]),
            "Fn::Sub": self._sub,
        }

    def _ref(self, name: str) -> Any:
        if name == "AWS::StackName":
            return self.name
        if name in _PSEUDO:
            return _PSEUDO[name]
        parameter = translated()["Parameters"].get(name)
        return (
            f"<{name}>"
            if parameter is None
            else self.parameters.get(name, str(parameter["Default"]))
        )

    def _sub(self, given: Any) -> str:
        text, own = (given, {}) if isinstance(given, str) else given

        def put(match: re.Match[str]) -> str:
            name = match[1]
            if name in own:
                return str(self.value(own[name]))
            return str(self.value({"Fn::GetAtt": name} if "." in name else {"Ref": name}))

        return re.sub(r"\$\{([^}!]+)\}", put, text)
