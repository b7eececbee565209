"""Builds for the tests of what is deployed: each made once a run, when the first test asks for
it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import pytest

from lab.artifact import AT_HAND, HOST, Build, build
from lab.servers import Unavailable
from tests.conftest import MISSING

Builds = Callable[[str, str], Build]


@pytest.fixture(scope="session")
def builds(request: pytest.FixtureRequest) -> Builds:
    """Builds by Python and architecture; a test is skipped where this machine lacks what its build
    needs.
    """
    made: dict[tuple[str, str], Build] = {}
    missing = request.config.stash[MISSING]

    def get(python: str, architecture: str) -> Build:
        key, name = (python, architecture), f"build for python{python} on {architecture}"
        if key not in made and name not in missing:
            try:
                made[key] = build(python, architecture)
            except Unavailable as problem:
                missing[name] = str(problem)
        if name in missing:
            if os.environ.get("REAPER_TEST_REQUIRE") == "all":
                pytest.fail(f"REAPER_TEST_REQUIRE=all, but {name}: {missing[name]}")
            pytest.skip(f"{name}: {missing[name]}")
        return made[key]

    return get


@pytest.fixture
def artifact(builds: Builds) -> Build:
    """The build that can run here."""
    if sys.platform != "linux":
        pytest.skip("what is built is for Linux")
    return builds(AT_HAND, HOST)
