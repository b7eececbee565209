"""SIGTERM outside Lambda, where a goodbye has to be asked for; tests/deploy/test_extension.py has
it inside.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import closing

import pytest

from lab import ROOT
from lab.servers import Server, processes
from reaper.client import Database, Settings
from reaper.client.kept import Clocks
from tests.conftest import Servers
from tests.fakes import Time
from tests.goodbyes import SERVERS, abandoned, gone, session


@pytest.fixture(params=SERVERS)
def database(request: pytest.FixtureRequest, servers: Servers) -> Server:
    return servers[request.param]


class Departing:
    """A process in one of the situations of departing.py, and the sessions it tells of."""

    def __init__(self, situation: str, server: Server) -> None:
        command = [
            sys.executable,
            "-m",
            "tests.live.departing",
            situation,
            server.dsn("app"),
            session(server),
        ]
        self.process = processes.spawn(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)

    def told(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def status(self) -> int:
        return self.process.wait(60)

    def close(self) -> None:
        processes.end(self.process)
        assert self.process.stdout is not None
        self.process.stdout.close()


def test_nothing_is_installed_unasked(database: Server) -> None:
    """Outside Lambda SIGTERM is the application's."""
    before = signal.getsignal(signal.SIGTERM)
    with closing(Database(database.dsn("app"))) as db:
        db.query("SELECT 1")
    assert signal.getsignal(signal.SIGTERM) is before


def test_nothing_is_installed_against_a_setting(
    database: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An application that closes its databases in its own way can say so."""
    monkeypatch.setenv("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9001")
    before = signal.getsignal(signal.SIGTERM)
    with closing(Database(database.dsn("app"), settings=Settings(close_on_sigterm=False))) as db:
        db.query("SELECT 1")
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(("situation", "status"), [("plain", -signal.SIGTERM), ("hasty", 3)])
def test_a_goodbye_before_the_end(database: Server, situation: str, status: int) -> None:
    """The process ends as it would have, by the signal or by the application's own handler, after a
    goodbye.
    """
    with closing(Departing(situation, database)) as departing:
        id_, before = departing.told(), abandoned(database)
        departing.terminate()
        assert departing.status() == status
        assert gone(database, id_)
        assert abandoned(database) == before


def test_an_application_may_finish_its_work(database: Server) -> None:
    """A handler that only takes note keeps its session, to do with it what is left to do."""
    with closing(Departing("patient", database)) as departing:
        id_ = departing.told()
        departing.terminate()
        assert departing.told() == id_


def test_a_child_says_goodbye_for_itself(database: Server) -> None:
    """A forked child inherits the handler and the socket: its end leaves the parent's session
    alone.
    """
    with closing(Departing("parent", database)) as departing:
        parents, before = departing.told(), abandoned(database)
        childs = departing.told()
        assert departing.told() == parents != childs
        assert gone(database, childs)
        assert abandoned(database) == before


def test_another_thread_may_be_the_first(database: Server) -> None:
    """Only the main thread can install a handler: that is no reason to fail."""
    with closing(Departing("threaded", database)) as departing:
        assert departing.told()
        departing.terminate()
        assert departing.status() == -signal.SIGTERM


def test_a_goodbye_after_the_deadline(database: Server) -> None:
    """Who closes long after the last statement says goodbye all the same."""
    time = Time()
    db = Database(database.dsn("app"), clocks=Clocks(clock=time))
    (row,) = db.query(session(database))
    before = abandoned(database)
    time.sleep(3600)
    db.close()
    assert gone(database, row["id"])
    assert abandoned(database) == before
