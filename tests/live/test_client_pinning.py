"""Behind RDS Proxy the client does nothing that would pin a connection of the database's to one
client.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from lab.context import Context
from lab.servers import Proxy, Server
from reaper.client.database import Database
from reaper.client.deadline import DeadlineExceeded
from reaper.client.events import Event, EventKind
from reaper.client.kept import Settings, is_proxy
from reaper.client.transaction import Transaction
from tests.live.test_client import endless, fresh_tables, orders, session

# performance_schema means nothing to the client
LEFT_OUT = ("mysql_nops",)

INSERT = "INSERT INTO orders (what) VALUES (%s)"


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    fresh_tables(server)
    with Proxy(server.host, server.port) as found:
        yield found


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def db(server: Server, proxy: Proxy, events: list[Event]) -> Iterator[Database]:
    settings = Settings(behind_proxy=True)
    with closing(
        Database(proxy.through(server).dsn("app"), settings=settings, on_event=events.append)
    ) as database:
        yield database


def all_verbs(db: Database, token: str | None) -> None:
    """Everything the client can do, errors included."""

    def work(tx: Transaction) -> str:
        tx.execute(INSERT, ("a",))
        return "done"

    def fails(tx: Transaction) -> None:
        tx.execute(INSERT, ("never",))
        raise KeyError

    # psycopg prepares what it has seen five times
    for n in range(7):
        assert db.query("SELECT %s AS n", (n,)) == [{"n": n}]
    db.execute(INSERT, ("b",))
    db.transaction(work)
    db.transaction(work, token=token)
    with pytest.raises(KeyError):
        db.transaction(fails)
    with pytest.raises(Exception, match="no_such"):
        db.query("SELECT no_such FROM orders WHERE id = %s", (1,))
    db.forget_tokens()
    assert orders(db) == ["b", "a", "a"]


PINS_POSTGRES = [
    b"SET ",
    b"set_config",
    b"DEALLOCATE",
    b"DISCARD",
    b"PREPARE",
    b"LISTEN",
    # a Parse message: the length's first bytes are zero
    b"P\x00\x00",
    b"options\x00",
    b"application_name\x00",
]


def test_postgres_is_not_pinned(postgres: Server, events: list[Event]) -> None:
    """No SET, no options at start-up, no statement prepared, nothing discarded."""
    fresh_tables(postgres)
    with Proxy(postgres.host, postgres.port) as proxy:
        traps = {pattern: proxy.cut_when(pattern, "before", "close") for pattern in PINS_POSTGRES}
        settings = Settings(behind_proxy=True)
        with closing(
            Database(proxy.through(postgres).dsn("app"), settings=settings, on_event=events.append)
        ) as db:
            all_verbs(db, token=None)
            # a token's row is written by UPDATE ... SET
            traps.pop(b"SET ").cancel()
            fresh_tables(postgres)
            all_verbs(db, token="t")
    assert [pattern for pattern, trap in traps.items() if trap.met.is_set()] == []
    assert EventKind.ADVISED not in [event.kind for event in events]


def test_the_traps_would_catch_a_pin(postgres: Server) -> None:
    """Without the proxy's rules the same verbs do send some of that."""
    fresh_tables(postgres)
    with Proxy(postgres.host, postgres.port) as proxy:
        parse = proxy.cut_when(b"P\x00\x00", "after", "silence", times=1)
        parse.cancel()
        name = proxy.cut_when(b"application_name\x00", "after", "close", times=1)
        with closing(Database(proxy.through(postgres).dsn("app"))) as db:
            assert db.query("SELECT %s AS n", (1,)) == [{"n": 1}]
        assert name.met.is_set()


def test_mysql_is_not_pinned(mysql: Server, events: list[Event]) -> None:
    """After the login's SET NAMES, which the proxy tracks, no variable is set and no statement is
    prepared.
    """
    fresh_tables(mysql)
    settings = Settings(behind_proxy=True)
    with closing(Database(mysql.dsn("app"), settings=settings, on_event=events.append)) as db:
        before = counters(db)
        all_verbs(db, token="t")
        assert counters(db) == before
    assert before["Com_set_option"] <= 2
    assert before["Com_stmt_prepare"] == before["Com_prepare_sql"] == before["Com_lock_tables"] == 0


def counters(db: Database) -> dict[str, int]:
    """What this session has done of each kind, by the server's own count."""
    names = ("Com_set_option", "Com_stmt_prepare", "Com_prepare_sql", "Com_lock_tables")
    rows = db.query("SHOW SESSION STATUS WHERE Variable_name IN (%s, %s, %s, %s)", names)
    return {row["Variable_name"]: int(row["Value"]) for row in rows}


def test_a_long_statement_is_told(db: Database, events: list[Event]) -> None:
    """A statement over 16 KB pins whatever it says: it runs, and the event says so; one below is
    not mentioned.
    """
    db.execute("INSERT INTO orders (what) VALUES ('x') -- " + "y" * 16_000)
    assert db.stats.advised == 0
    db.query("SELECT length(%s) AS n", ("y" * 16_384,))
    (advice,) = [event for event in events if event.kind is EventKind.ADVISED]
    assert (advice.statement, advice.reason) == (
        "SELECT",
        "RDS Proxy pins a connection for a statement over 16 KB",
    )


def test_mysql_stops_a_long_read_by_itself(mysql: Server) -> None:
    """Where nothing can be stopped from outside, MySQL gets the limit with the SELECT: the
    connection stays.
    """
    if mysql.flavour == "mariadb":
        return
    with closing(Database(mysql.dsn("app"), settings=Settings(behind_proxy=True))) as db:
        db.query("SELECT 1")
        first = session(db)
        with pytest.raises(DeadlineExceeded, match="it was stopped on the server"):
            db.handler(lambda event, context: db.query(endless(db)))({}, Context(2.5))
        assert db.query("SELECT /*+ NO_ICP() */ 1 AS a") == [{"a": 1}]
        assert session(db) == first


def test_a_proxy_is_known_by_its_name() -> None:
    """RDS Proxy's endpoints, read-only and custom ones too; a cluster's endpoint is none."""
    assert is_proxy("shop.proxy-abc123.eu-central-1.rds.amazonaws.com")
    assert is_proxy("reader.endpoint.proxy-abc123.eu-central-1.rds.amazonaws.com")
    assert not is_proxy("shop.cluster-abc123.eu-central-1.rds.amazonaws.com")
    assert not is_proxy("my.proxy-host.example.com")
