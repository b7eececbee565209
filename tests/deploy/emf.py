"""The embedded metric format: what CloudWatch takes out of a log line, and which rules a line must
keep for that.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import botocore.session

DAY = 24 * 3600


@dataclass(frozen=True)
class Datum:
    """One value of one metric under one set of dimensions."""

    namespace: str
    name: str
    unit: str
    value: float
    dimensions: frozenset[tuple[str, str]]


def extracted(document: Mapping[str, Any]) -> list[Datum]:
    """Every datum of the document; an AssertionError names the rule of the specification that it
    breaks.
    """
    assert len(json.dumps(document)) < 256 * 1024, "a log event ends at 256 KB"
    metadata = document["_aws"]
    stamp = metadata["Timestamp"]
    assert isinstance(stamp, int), "Timestamp is milliseconds since the epoch"
    assert -14 * DAY < stamp / 1000 - time.time() < 2 * DAY / 24, (
        f"Timestamp {stamp} is too old or too new"
    )
    return [
        datum
        for directive in metadata["CloudWatchMetrics"]
        for datum in _directed(document, directive)
    ]


def _directed(document: Mapping[str, Any], directive: Mapping[str, Any]) -> Iterator[Datum]:
    namespace = directive["Namespace"]
    assert 0 < len(namespace) < 256, "a namespace has 1 to 255 characters"
    assert not namespace.startswith("AWS/"), "AWS/ belongs to AWS"
    assert 0 < len(directive["Metrics"]) <= 100, "a directive has at most 100 metrics"
    assert directive["Dimensions"], "without a dimension set nothing is extracted"
    for keys in directive["Dimensions"]:
        dimensions = frozenset((key, _dimension(document, key)) for key in keys)
        assert len(dimensions) == len(keys) <= 30, "a dimension set has at most 30 keys, each once"
        for metric in directive["Metrics"]:
            assert metric["Name"] not in keys, f"{metric['Name']} is a dimension, too"
            assert metric["Unit"] in _units(), f"unit {metric['Unit']} is unknown"
            for value in _values(document, metric["Name"]):
                yield Datum(namespace, metric["Name"], metric["Unit"], value, dimensions)


def _dimension(document: Mapping[str, Any], key: str) -> str:
    value = document.get(key)
    assert isinstance(value, str), f"dimension {key} is {value!r}, not a text beside _aws"
    assert 0 < len(value) <= 1024, f"dimension {key} has {len(value)} characters"
    assert value.isascii(), f"dimension {key} is not ASCII"
    return value


def _values(document: Mapping[str, Any], name: str) -> list[float]:
    value = document.get(name)
    values: list[Any] = value if isinstance(value, list) else [value]
    assert 0 < len(values) <= 100, f"{name} has {len(values)} values"
    for one in values:
        assert isinstance(one, int | float), f"{name} is {one!r}"
        assert not isinstance(one, bool), f"{name} is {one!r}"
        # Neither infinite nor NaN
        assert abs(one) < 2**360, f"{name} is {one!r}"
    return values


@cache
def _units() -> frozenset[str]:
    """Those that CloudWatch's own API knows."""
    return frozenset(
        botocore.session.get_session()
        .get_service_model("cloudwatch")
        .shape_for("StandardUnit")
        .enum
    )
