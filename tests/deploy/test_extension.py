"""An environment that is retired: with the extension its sessions end with it, without they
stay.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pymysql
import pytest

from lab import ROOT
from lab.artifact import HOST, SAM
from lab.extensions import RUNTIME_SECONDS, SLACK, Extended
from lab.lambdas import Code, Function, provided
from lab.servers import Proxy, Server, free_port, processes, until
from tests.conftest import Servers
from tests.goodbyes import SERVERS, abandoned, gone, session

LAYER = ROOT / "extension"
EXTENSION = LAYER / "extensions" / "reaper-goodbye"
HANDLER = "tests.deploy.application.lambda_handler"
# The second has the drivers
FOLDERS = [ROOT, Path(pymysql.__file__).parents[1]]

Deploy = Callable[..., Function]


@pytest.fixture(params=SERVERS)
def database(request: pytest.FixtureRequest, servers: Servers) -> Server:
    return servers[request.param]


@pytest.fixture
def deploy() -> Iterator[Deploy]:
    """The application's function on a database, in environments with the extension or without."""
    with ExitStack() as running:

        def make(
            server: Server, extended: bool = True, timeout: float = 60, **environ: str
        ) -> Function:
            code = Code(FOLDERS, HANDLER, {"DATABASE_URL": server.dsn("app"), **environ}, timeout)
            return running.enter_context(
                Function(code, partial(Extended, layer=LAYER) if extended else None)
            )

        yield make


def sessions(function: Function, server: Server, on: int = 1) -> list[int]:
    """The sessions that the function keeps after a read on so many of its databases."""
    invocation = function.invoke({"query": session(server), "on": on})
    assert not invocation.error, invocation
    return [row["id"] for (row,) in invocation.answer]


def retire(function: Function) -> Extended:
    """End the environment as the platform does."""
    environment = ended(function)
    function.close()
    return environment


def overrun(function: Function, event: dict[str, Any]) -> Extended:
    """An invocation at whose timeout the platform shuts the environment down."""
    invocation = function.invoke(event)
    assert invocation.error
    assert invocation.error["errorType"] == "Sandbox.Timedout"
    return ended(function)


def ended(function: Function) -> Extended:
    assert isinstance(function.environment, Extended)
    return function.environment


def changed(server: Server) -> int:
    """How many rows there are that `SCRATCH` inserts."""
    with closing(server.connect()) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT count(*) FROM scratch")
        return int(cursor.fetchone()[0])


SCRATCH = "INSERT INTO scratch (value) VALUES (1)"


def test_without_the_extension_a_zombie_stays(database: Server, deploy: Deploy) -> None:
    """An environment ends together with its network and its server is told nothing: the session
    stays.
    """
    with Proxy(database.host, database.port) as route:
        function = deploy(route.through(database), extended=False)
        (zombie,) = sessions(function, database)
        function.freeze()
        route.swallow()
        function.close()
        assert zombie in database.states()
        before = abandoned(database)
    assert gone(database, zombie)
    # So the counter tells what the other tests ask it
    assert until(lambda: abandoned(database) > before, timeout=20)


def test_with_the_extension_it_says_goodbye(database: Server, deploy: Deploy) -> None:
    """Thawed and warned, the function closes the connections of all its databases itself, and both
    processes end of themselves, in time.
    """
    function = deploy(database)
    ids = sessions(function, database, on=2)
    assert len({*ids}) == 2
    function.freeze()
    before = abandoned(database)
    environment = retire(function)
    assert environment.statuses == {"runtime": 0, EXTENSION.name: 0}
    assert environment.events == {EXTENSION.name: ["SHUTDOWN"]}
    assert environment.seconds < RUNTIME_SECONDS * SLACK
    assert environment.last_words == []
    assert gone(database, *ids)
    assert abandoned(database) == before


def test_a_timeout_in_a_transaction(database: Server, deploy: Deploy) -> None:
    """A function that overruns between two statements says goodbye, too, and the server rolls
    back.
    """
    function = deploy(database, timeout=1)
    ids, before = sessions(function, database), (abandoned(database), changed(database))
    environment = overrun(function, {"begin": SCRATCH})
    assert environment.statuses["runtime"] == 0
    assert gone(database, *ids)
    assert (abandoned(database), changed(database)) == before


def test_a_timeout_in_a_statement(database: Server, deploy: Deploy) -> None:
    """A goodbye could land inside a packet: the process just ends, at once, and with it its
    connections.
    """
    function = deploy(database, timeout=1)
    ids = sessions(function, database)
    sleep = "pg_sleep(2)" if database.engine == "postgres" else "SLEEP(2)"
    environment = overrun(function, {"query": f"SELECT {sleep}"})
    assert environment.statuses["runtime"] == 0
    assert environment.seconds < RUNTIME_SECONDS * SLACK
    assert gone(database, *ids)


@pytest.mark.parametrize("database", SERVERS[:1], indirect=True)
@pytest.mark.parametrize(
    ("way", "last_word"), [("exits", "leaving"), ("fails", "RuntimeError: out of luck")]
)
def test_the_application_has_its_say(
    database: Server, deploy: Deploy, way: str, last_word: str
) -> None:
    """A handler that the application set before is called, and may use a database; sys.exit in it,
    which alone would wait for the thread that asks for the next event, ends the process; an error
    of its own is not lost.
    """
    function = deploy(database, OWN_HANDLER=way)
    ids, before = sessions(function, database), abandoned(database)
    environment = retire(function)
    assert environment.last_words[0] == "leaving"
    assert environment.last_words[-1] == last_word
    assert environment.statuses["runtime"] == 0
    assert gone(database, *ids)
    assert abandoned(database) == before


@pytest.mark.parametrize("database", SERVERS[:1], indirect=True)
def test_without_a_connection_nothing_is_installed(database: Server, deploy: Deploy) -> None:
    """SIGTERM does what it would do without the client."""
    function = deploy(database)
    sessions(function, database, on=0)
    assert retire(function).statuses["runtime"] == -signal.SIGTERM


@pytest.fixture
def emulator(database: Server) -> Iterator[tuple[processes.Process, str]]:
    """AWS's own Lambda emulator, which starts what is in /opt/extensions, and the address to invoke
    at.
    """
    program = next(
        SAM.parents[1].glob(f"lib/python*/site-packages/samcli/local/rapid/aws-lambda-rie-{HOST}"),
        None,
    )
    unshare = shutil.which("unshare")
    if (
        not program
        or not unshare
        or subprocess.run([unshare, "-rm", "true"], check=False).returncode
    ):
        pytest.skip("needs the SAM CLI and the right to mount")
    api, address = (f"127.0.0.1:{free_port()}" for _ in range(2))
    process = processes.spawn(
        [
            *(
                unshare,
                "-rm",
                "sh",
                "-c",
                'mount --bind "$0" /opt && exec "$@"',
                str(LAYER),
                str(program),
            ),
            *("--runtime-api-address", api, "--runtime-interface-emulator-address", address),
            *(sys.executable, "-S", "-m", "awslambdaric", HANDLER),
        ],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(map(str, [*FOLDERS, provided()])),
            "AWS_EXECUTION_ENV": "AWS_Lambda_python3.13",
            "DATABASE_URL": database.dsn("app"),
        },
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    yield process, f"http://{address}/2015-03-31/functions/function/invocations"
    processes.end(process)


@pytest.mark.parametrize("database", SERVERS[:1], indirect=True)
def test_aws_own_emulator_agrees(database: Server, emulator: tuple[processes.Process, str]) -> None:
    """The code that runs Lambda's environments takes the registration, and shuts down as these
    tests do.
    """
    process, url = emulator
    ids: list[int] = []

    def answers() -> bool:
        asked = json.dumps({"query": session(database)}).encode()
        with suppress(URLError), urlopen(url, asked, 30) as answer:  # noqa: S310  our emulator's
            ids.extend(row["id"] for (row,) in json.load(answer))
        return bool(ids)

    assert until(answers, timeout=30)
    before = abandoned(database)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert gone(database, *ids)
    assert abandoned(database) == before


def test_the_layer_is_one_program() -> None:
    """Lambda starts every file in `extensions`, so nothing else is in the layer; git and the zip
    keep its mode.
    """
    assert [path.name for path in LAYER.rglob("*") if path.is_file()] == [EXTENSION.name]
    assert os.access(EXTENSION, os.X_OK)


def test_a_failure_is_told() -> None:
    """Lambda ends the environment when an extension ends, so the log must say why it did."""
    nobody = {"AWS_LAMBDA_RUNTIME_API": "127.0.0.1:1", "PATH": os.defpath}
    done = subprocess.run(
        [EXTENSION], env=nobody, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "Connection refused" in done.stderr
