"""An environment that is retired: with the extension its sessions end with it, without they stay."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import pymysql
import pytest

from tests.conftest import Servers, names
from tests.servers import Proxy, Server, until
from tests.unit.build import ROOT

from .extensions import RUNTIME_SECONDS, SLACK, Extended
from .lambdas import Code, Function

LAYER = ROOT / "extension"
EXTENSION = LAYER / "extensions" / "reaper-goodbye"
INSTALLED = Path(pymysql.__file__).parents[1]  # where the drivers are

# Of each kind one: the others say goodbye in the same way.
SERVERS = [name for name in names() if name not in ("postgres18", "mysql_nops")]

Deploy = Callable[..., Function]


@pytest.fixture(params=SERVERS)
def database(request: pytest.FixtureRequest, servers: Servers) -> Server:
    return servers[request.param]


@pytest.fixture
def deploy() -> Iterator[Deploy]:
    """The application's function on a database, in environments with the extension or without."""
    with ExitStack() as running:

        def make(server: Server, extended: bool = True, timeout: float = 60, **environ: str) -> Function:
            settings = {"DATABASE_URL": server.dsn("app"), **environ}
            code = Code([ROOT, INSTALLED], "tests.deploy.application.lambda_handler", settings, timeout)
            return running.enter_context(Function(code, partial(Extended, layer=LAYER) if extended else None))

        yield make


def sessions(function: Function, server: Server, on: int = 1) -> list[int]:
    """The sessions that the function has kept after a read on so many of its databases."""
    sql = "SELECT pg_backend_pid() AS id" if server.engine == "postgres" else "SELECT CONNECTION_ID() AS id"
    invocation = function.invoke({"query": sql, "on": on})
    assert not invocation.error, invocation
    return [row["id"] for (row,) in invocation.answer]


def abandoned(server: Server) -> int:
    """How many sessions the server has seen end without a goodbye."""
    if server.engine == "postgres":
        return int(server.query("SELECT sessions_abandoned FROM pg_stat_database WHERE datname = 'shop'")[0][0])
    return int(server.query("SHOW GLOBAL STATUS LIKE 'Aborted_clients'")[0][1])


def retire(function: Function) -> Extended:
    """End the environment as the platform does."""
    environment = ended(function)
    function.close()
    return environment


def ended(function: Function) -> Extended:
    assert isinstance(function.environment, Extended)
    return function.environment


def gone(server: Server, *ids: int) -> bool:
    return until(lambda: not {*ids} & server.states().keys(), timeout=20)


def test_without_the_extension_a_zombie_stays(database: Server, deploy: Deploy) -> None:
    """The environment is gone and the server has not been told: the session stays, until a packet gets through."""
    with Proxy(database.host, database.port) as route:
        function = deploy(route.through(database), extended=False)
        (zombie,) = sessions(function, database)
        function.freeze()
        route.swallow()  # an environment is ended with its network: no FIN
        function.close()
        assert zombie in database.states()
        before = abandoned(database)
    assert gone(database, zombie)
    assert until(lambda: abandoned(database) > before, timeout=20)  # so the counter tells what it is asked below


def test_with_the_extension_it_says_goodbye(database: Server, deploy: Deploy) -> None:
    """Thawed and warned, the function closes the connections of all its databases itself, in time, and both processes
    end of themselves. The deadline of the last invocation, long past, does not keep it from that."""
    function = deploy(database)
    ids = sessions(function, database, on=2)
    assert len({*ids}) == 2
    function.freeze()
    before = abandoned(database)
    environment = retire(function)
    assert environment.statuses == {"runtime": 0, EXTENSION.name: 0}
    assert gone(database, *ids)
    assert abandoned(database) == before
    assert environment.events == {EXTENSION.name: ["SHUTDOWN"]}
    assert environment.seconds < RUNTIME_SECONDS * SLACK
    assert environment.last_words == []


def overrun(function: Function, event: dict[str, Any]) -> Extended:
    """An invocation at whose timeout the platform shuts the environment down."""
    invocation = function.invoke(event)
    assert invocation.error
    assert invocation.error["errorType"] == "Sandbox.Timedout"
    return ended(function)


def test_a_timeout_in_a_transaction(database: Server, deploy: Deploy) -> None:
    """A function that overruns between two statements says goodbye, too, and the server rolls back."""
    function = deploy(database, timeout=1)
    ids, before = sessions(function, database), (abandoned(database), changed(database))
    environment = overrun(function, {"begin": "INSERT INTO scratch (value) VALUES (1)"})
    assert gone(database, *ids)
    assert (abandoned(database), changed(database)) == before
    assert environment.statuses["runtime"] == 0


def changed(server: Server) -> int:
    with closing(server.connect()) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT count(*) FROM scratch")
        return int(cursor.fetchone()[0])


def test_a_timeout_in_a_statement(database: Server, deploy: Deploy) -> None:
    """A goodbye could land in the middle of a packet: the process just ends, at once, and with it its connections."""
    function = deploy(database, timeout=1)
    ids = sessions(function, database)
    sleep = "pg_sleep(3)" if database.engine == "postgres" else "SLEEP(3)"
    environment = overrun(function, {"query": f"SELECT {sleep}"})
    assert environment.statuses["runtime"] == 0
    assert environment.seconds < RUNTIME_SECONDS * SLACK
    assert gone(database, *ids)


@pytest.mark.parametrize("database", SERVERS[:1], indirect=True)
def test_the_application_has_its_say(database: Server, deploy: Deploy) -> None:
    """A handler that the application set before is called, and may end the process in its own way, which alone would
    hang: sys.exit waits for the thread that asks for the next event."""
    function = deploy(database, OWN_HANDLER="yes")
    ids = sessions(function, database)
    before = abandoned(database)
    environment = retire(function)
    assert environment.last_words == ["the application's own handler"]
    assert environment.statuses["runtime"] == 0
    assert gone(database, *ids)
    assert abandoned(database) == before


@pytest.mark.parametrize("database", SERVERS[:1], indirect=True)
def test_without_a_connection_nothing_is_installed(database: Server, deploy: Deploy) -> None:
    """SIGTERM does what it would do without the client."""
    function = deploy(database)
    sessions(function, database, on=0)
    assert retire(function).statuses["runtime"] == -signal.SIGTERM


def test_the_layer_is_one_program() -> None:
    """Lambda starts every file in `extensions`, so nothing else is in the layer; git and the zip keep its mode."""
    assert [path.name for path in LAYER.rglob("*") if path.is_file()] == [EXTENSION.name]
    assert os.access(EXTENSION, os.X_OK)


def test_a_failure_is_told() -> None:
    """Lambda ends the environment when an extension ends, so the log must say why it did."""
    nobody = {"AWS_LAMBDA_RUNTIME_API": "127.0.0.1:1", "PATH": os.defpath}
    done = subprocess.run([EXTENSION], env=nobody, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Connection refused" in done.stderr
