"""The retry client when the network fails: never two, never half, and doubt only where there is
doubt.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest

from lab.servers import Proxy, Server
from reaper.client import commits
from reaper.client.attempt import OutcomeUnknown
from reaper.client.commits import XactStatusProbe
from reaper.client.database import Database
from reaper.client.kept import Clocks, Settings
from reaper.client.transaction import Transaction
from tests.live.test_client import Wall, dead, end, fresh_tables, orders, session, wall

# performance_schema means nothing to the client
LEFT_OUT = ("mysql_nops",)

# The fixture, for pytest to find here
__all__ = ["wall"]

INSERT = "INSERT INTO orders (what) VALUES ('once')"


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    fresh_tables(server)
    with Proxy(server.host, server.port) as found:
        yield found


@pytest.fixture
def db(server: Server, proxy: Proxy, wall: Wall) -> Iterator[Database]:
    """A database behind the proxy, with a connection already open."""
    with closing(Database(proxy.through(server).dsn("app"), clocks=Clocks(wall=wall))) as database:
        database.query("SELECT 1")
        yield database


def stored(server: Server) -> list[str]:
    """What is really there, asked past the proxy."""
    with closing(Database(server.dsn("app"))) as direct:
        return orders(direct)


def test_a_lost_answer_to_a_write_is_doubt(db: Database, proxy: Proxy, server: Server) -> None:
    """The server has done it and the answer is lost: OutcomeUnknown, one row, nothing
    sent twice.
    """
    proxy.drop_after_request()
    with pytest.raises(OutcomeUnknown, match="INSERT"):
        db.execute(INSERT)
    assert stored(server) == ["once"]
    assert db.stats.outcome_unknown == 1
    # And the next statement works
    assert orders(db) == ["once"]


def test_a_lost_answer_to_a_read_is_not_noticed(db: Database, proxy: Proxy) -> None:
    """A read whose answer is lost is asked again."""
    proxy.drop_after_request()
    assert db.query("SELECT 7 AS a") == [{"a": 7}]
    assert db.stats.retried == 1


def test_harmless_twice_is_done_again(db: Database, proxy: Proxy, server: Server) -> None:
    """A write whose caller says that twice is harmless is sent again."""
    proxy.drop_after_request()
    db.execute("UPDATE items SET value = 5 WHERE id = 1", idempotent=True)
    assert db.query("SELECT value FROM items WHERE id = 1") == [{"value": 5}]


def test_a_reset_while_idle_is_not_noticed(db: Database, proxy: Proxy, server: Server) -> None:
    """A RST that came while the connection was idle costs a reconnect and nothing else."""
    proxy.reset()
    dead(db)
    db.execute(INSERT)
    assert stored(server) == ["once"]
    assert db.stats.retried == 0


def test_a_hidden_end_is_found_by_the_ping(
    db: Database, proxy: Proxy, server: Server, wall: Wall
) -> None:
    """A proxy that swallows the server's FIN and resets at the first byte, after a long pause: no
    error, no doubt.
    """
    proxy.hide_fin()
    end(server, session(db))
    wall.ahead += 60
    db.execute(INSERT)
    assert stored(server) == ["once"]
    assert (db.stats.retried, db.stats.outcome_unknown) == (0, 0)


def test_a_refused_connect_is_tried_again(server: Server, proxy: Proxy) -> None:
    """While the server refuses, connects are tried again with jitter; when it is back the statement
    succeeds.
    """
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            proxy.accept()

    clocks = Clocks(sleep=sleep, dice=lambda: 0.5)
    with closing(Database(proxy.through(server).dsn("app"), clocks=clocks)) as db:
        proxy.refuse()
        db.execute(INSERT)
    assert waits == [0.05, 0.1, 0.2]
    assert stored(server) == ["once"]


def test_a_commit_is_doubt_where_nobody_can_be_asked(
    postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL's word is not taken from another server, or from the same after a failover: the
    doubt stays.
    """
    fresh_tables(postgres)
    with (
        Proxy(postgres.host, postgres.port) as proxy,
        closing(Database(proxy.through(postgres).dsn("app"))) as db,
    ):

        def work(tx: Transaction) -> None:
            tx.execute(INSERT)
            proxy.cut_when(b"COMMIT", "after", "close")

        genuine = XactStatusProbe.outcome
        for changed in ({"system": "another"}, {"timeline": 99}):
            monkeypatch.setattr(
                XactStatusProbe, "outcome", lambda t, c, to=changed: genuine(replace(t, **to), c)
            )
            with pytest.raises(OutcomeUnknown):
                db.transaction(work)
    assert stored(postgres) == ["once", "once"]


def test_a_server_that_may_not_be_asked_costs_no_transaction(
    postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the account may not ask what became of a COMMIT, transactions work, and a lost COMMIT
    is doubt.
    """
    fresh_tables(postgres)
    monkeypatch.setattr(commits, "_GET_RIGHT", "SELECT false AS allowed")
    with (
        Proxy(postgres.host, postgres.port) as proxy,
        closing(Database(proxy.through(postgres).dsn("app"))) as db,
    ):
        db.transaction(lambda tx: tx.execute(INSERT))
        proxy.cut_when(b"COMMIT", "after", "close")
        with pytest.raises(OutcomeUnknown):
            db.transaction(lambda tx: tx.execute(INSERT))
    assert stored(postgres) == ["once", "once"]


def test_silence_at_commit_ends_at_the_deadline(server: Server, proxy: Proxy) -> None:
    """Where the COMMIT's answer never comes the deadline ends the wait, and the doubt is told."""
    settings = Settings(timeout=1.0)
    with closing(Database(proxy.through(server).dsn("app"), settings=settings)) as db:
        db.query("SELECT 1")
        proxy.cut_when(b"COMMIT", "after", "silence")
        with pytest.raises(OutcomeUnknown):
            db.transaction(lambda tx: tx.execute(INSERT).rowcount)
    assert stored(server) == ["once"]


def test_a_trickled_answer_keeps_to_the_deadline(server: Server, proxy: Proxy) -> None:
    """An answer that comes a byte at a time does not win a new timeout with every byte."""
    with closing(Database(proxy.through(server).dsn("app"), settings=Settings(timeout=1.0))) as db:
        db.query("SELECT 1")
        proxy.trickle(0.05)
        began = time.monotonic()
        with pytest.raises(Exception, match="time"):
            db.query("SELECT repeat('x', 400) AS a")
        assert time.monotonic() - began < 5 * 1.0
        proxy.resume()
        assert db.query("SELECT 1 AS a") == [{"a": 1}]


def test_a_silent_server_keeps_to_the_deadline(server: Server, proxy: Proxy) -> None:
    """A server that stops answering costs the deadline, and letting go of it costs nothing."""
    with closing(Database(proxy.through(server).dsn("app"), settings=Settings(timeout=1.0))) as db:
        db.query("SELECT 1")
        proxy.stall()
        began = time.monotonic()
        with pytest.raises(Exception, match="time"):
            db.query("SELECT 1")
        assert time.monotonic() - began < 5 * 1.0
        db.close()
        assert time.monotonic() - began < 5 * 1.0
