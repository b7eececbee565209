"""A doubt is told as one until something has settled it, however many attempts come in between."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest

from lab.context import Context
from lab.servers import Proxy, Server, until
from reaper.client.attempt import OutcomeUnknown
from reaper.client.database import Database
from reaper.client.deadline import RESERVE
from reaper.client.transaction import Transaction
from tests.conftest import Servers
from tests.live.test_client import fresh_tables

INSERT = "INSERT INTO orders (what) VALUES ('once')"
PATIENCE = 1.5


# Of each engine one that is ours: another's may speak TLS, in which no statement is found.
@pytest.fixture(params=["postgres18", "mariadb", "mysql"])
def engine(request: pytest.FixtureRequest, servers: Servers) -> Server:
    found = servers[request.param]
    fresh_tables(found)
    return found


def booked(server: Server) -> int:
    with closing(server.connect("app")) as connection:
        ((count,),) = server.kind.client(connection, "app").run("SELECT count(*) FROM orders")
    return int(count)


def test_a_lost_commit_stays_in_doubt(engine: Server) -> None:
    """COMMIT is done, its answer lost, and nobody lets the client in to ask: OutcomeUnknown, not
    the last refusal.

    The same token later finds the work done.
    """
    with (
        Proxy(engine.host, engine.port) as proxy,
        closing(Database(proxy.through(engine).dsn("app"))) as db,
    ):
        is_done = threading.Event()
        trap = proxy.cut_when(b"COMMIT", "during", "close", on=is_done)

        def cut_off() -> None:
            trap.met.wait(10)
            proxy.refuse()
            until(lambda: booked(engine) == 1, timeout=10)
            is_done.set()

        def work(tx: Transaction) -> str:
            tx.execute(INSERT)
            return "booked"

        handler = db.handler(
            lambda event, context: db.transaction(work, token="event-1", name="work")
        )
        cutting = threading.Thread(target=cut_off)
        cutting.start()
        try:
            with pytest.raises(OutcomeUnknown):
                handler({}, Context(RESERVE + PATIENCE))
        finally:
            cutting.join(30)
        proxy.accept()
        assert handler({}, Context()) == "booked"
    assert booked(engine) == 1


def test_a_doubt_that_was_settled_is_none(engine: Server) -> None:
    """COMMIT is lost on its way; the token's row then proves that it was, so the work's own error
    stands.
    """
    runs: list[int] = []

    def work(tx: Transaction) -> None:
        runs.append(1)
        tx.execute(INSERT)
        if len(runs) == 2:
            raise KeyError("declined")

    with (
        Proxy(engine.host, engine.port) as proxy,
        closing(Database(proxy.through(engine).dsn("app"))) as db,
    ):
        proxy.cut_when(b"COMMIT", "before", "close")
        with pytest.raises(KeyError, match="declined"):
            db.transaction(work, token="event-1", name="work")
    assert len(runs) == 2
    assert booked(engine) == 0
