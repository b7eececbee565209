"""Servers for the tests: each started once a run, when the first test asks for it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from lab.servers import NAMES, Server, Sessions, Unavailable, elsewhere, start
from tests.harness import Lambda

# How long an example takes says what else the machine does, and nothing of the code.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

MISSING = pytest.StashKey[dict[str, str]]()


def names(engine: str | None = None) -> list[str]:
    """The servers to test against; one named by a DSN stands in for all that its engine would
    start.
    """
    found = []
    for name in NAMES:
        kind = "postgres" if name.startswith("postgres") else "mysql"
        if engine in (None, kind):
            found.append(
                f"{kind}-elsewhere" if os.environ.get(f"REAPER_TEST_{kind.upper()}_DSN") else name
            )
    return list(dict.fromkeys(found))


def pytest_configure(config: pytest.Config) -> None:
    config.stash[MISSING] = {}


def pytest_report_header() -> list[str]:
    required = os.environ.get("REAPER_TEST_REQUIRE") or "what can be started"
    return [f"servers: {', '.join(names())}; required: {required}"]


# Run side by side, the servers are as many as the processes that ask for them, and what is missing
# is known to those.


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One process for each core, up to four; one alone where they would share a server that is not
    ours.
    """
    shares = any(name.startswith("REAPER_TEST_") and name.endswith("_DSN") for name in os.environ)
    return 1 if shares else min(os.cpu_count() or 1, 4)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["missing"] = session.config.stash[MISSING]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[MISSING].update(getattr(node, "workeroutput", {}).get("missing", {}))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    for name, reason in config.stash[MISSING].items():
        terminalreporter.write_line(f"not tested, {name}: {reason}", yellow=True)


class Servers:
    """The servers of this run, by name."""

    def __init__(self, missing: dict[str, str]) -> None:
        self._running: dict[str, Server] = {}
        self._missing = missing

    def __getitem__(self, name: str) -> Server:
        if name not in self._running and name not in self._missing:
            try:
                self._running[name] = _server(name)
            except Unavailable as problem:
                self._missing[name] = str(problem)
        if name in self._missing:
            if os.environ.get("REAPER_TEST_REQUIRE") == "all":
                pytest.fail(f"REAPER_TEST_REQUIRE=all, but {name}: {self._missing[name]}")
            pytest.skip(f"{name}: {self._missing[name]}")
        return self._running[name]

    def stop(self) -> None:
        for server in self._running.values():
            server.stop()


def _server(name: str) -> Server:
    engine, _, where = name.partition("-")
    server = elsewhere(engine) if where else None
    return server or start(name)


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest) -> Iterator[Servers]:
    running = Servers(request.config.stash[MISSING])
    yield running
    running.stop()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`server` means every server, `postgres` and `mysql` those of one engine; less those a module
    leaves out.
    """
    left_out = getattr(metafunc.module, "LEFT_OUT", ())
    for fixture, engine in (("server", None), ("postgres", "postgres"), ("mysql", "mysql")):
        if fixture in metafunc.fixturenames:
            metafunc.parametrize(
                "server_name", [name for name in names(engine) if name not in left_out]
            )


@pytest.fixture
def server(servers: Servers, server_name: str, request: pytest.FixtureRequest) -> Server:
    found = servers[server_name]
    if request.node.get_closest_marker("own_server") and not found.own:
        pytest.skip(f"{server_name} is not ours to stop or fill")
    return found


@pytest.fixture
def postgres(servers: Servers, server_name: str) -> Server:
    return servers[server_name]


@pytest.fixture
def mysql(servers: Servers, server_name: str) -> Server:
    return servers[server_name]


@pytest.fixture
def sessions(request: pytest.FixtureRequest) -> Iterator[Sessions]:
    """Sessions on whichever server the test asked for."""
    name = next(name for name in ("server", "postgres", "mysql") if name in request.fixturenames)
    with Sessions(request.getfixturevalue(name)) as opened:
        yield opened


@pytest.fixture
def function(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Lambda]:
    """The deployed function: its environment, its handler, what it printed."""
    deployed = Lambda(monkeypatch, capsys)
    yield deployed
    deployed.end()


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=8) as listening:
        yield listening.getsockname()[1]
