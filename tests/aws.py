"""AWS imitated by moto: no network, and a count of what was asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto import mock_aws

from lab.amazon import REGION

Asked = Counter[str]


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    """How often each operation was called, by its name in AWS's API."""
    asked: Asked = Counter()

    def count(model: Any, **more: Any) -> None:
        asked[model.name] += 1

    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    with mock_aws():
        session = boto3.Session()
        session.events.register("before-call", count)
        monkeypatch.setattr(boto3, "DEFAULT_SESSION", session)
        yield asked
