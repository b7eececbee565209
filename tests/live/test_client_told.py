"""What the client tells: events, counts and metrics, of what happened and never of what was
asked.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing

import pytest

from lab.context import Context
from lab.servers import Proxy, Server, start
from reaper.client.attempt import OutcomeUnknown
from reaper.client.database import Database
from reaper.client.deadline import DeadlineExceeded
from reaper.client.emf import emf
from reaper.client.events import Event, EventKind
from reaper.client.kept import Clocks, Settings
from reaper.client.transaction import Transaction
from tests.live.test_client import dead, end, endless, fresh_tables, session

# performance_schema means nothing to the client
LEFT_OUT = ("mysql_nops",)

INSERT = "INSERT INTO orders (what) VALUES ('secret words')"


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    fresh_tables(server)
    with Proxy(server.host, server.port) as found:
        yield found


@pytest.fixture
def db(server: Server, proxy: Proxy, events: list[Event]) -> Iterator[Database]:
    with closing(Database(proxy.through(server).dsn("app"), on_event=events.append)) as database:
        yield database


def test_the_log_says_what_the_observer_is_told(db: Database, events: list[Event]) -> None:
    """At DEBUG each event is a line of the standard library's log, with its reason and the first
    word of its statement; above that nothing is logged.
    """
    logger = logging.getLogger("reaper.client")
    lines: list[str] = []
    keep = logging.Handler()
    keep.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]  # all of it
    logger.addHandler(keep)
    try:
        db.query("SELECT 1")
        assert lines == []
        logger.setLevel(logging.DEBUG)
        db.query("SELECT 'secret words'")
        db.close()
    finally:
        logger.setLevel(logging.NOTSET)
        logger.removeHandler(keep)
    told = [f"{event.kind}: {event.reason} {event.statement}" for event in events[1:]]
    assert lines == told
    assert any("discarded: closed" in line for line in lines)


def test_an_invocation_is_told_from_end_to_end(
    db: Database, server: Server, proxy: Proxy, events: list[Event]
) -> None:
    """Each event has its request id, the kind of statement, the connection's age; stats count the
    same; no SQL.
    """

    def handler(event: object, context: object) -> None:
        db.query("SELECT 1")
        db.query("SELECT 1")
        end(server, session(db))
        dead(db)
        db.query("SELECT 1")
        proxy.drop_after_request()
        db.query("SELECT 1")
        proxy.drop_after_request()
        with pytest.raises(OutcomeUnknown):
            db.execute(INSERT)

    db.handler(handler)({}, Context())
    told = [event.kind for event in events]
    assert told == [
        EventKind.CONNECTED,
        EventKind.REUSED,
        EventKind.DISCARDED,
        EventKind.CONNECTED,
        EventKind.REUSED,
        EventKind.DISCARDED,
        EventKind.RETRIED,
        EventKind.CONNECTED,
        EventKind.REUSED,
        EventKind.DISCARDED,
        EventKind.OUTCOME_UNKNOWN,
    ]
    assert {event.request_id for event in events} == {"request-1"}
    assert [event.statement for event in events if event.statement] == ["SELECT", "INSERT"]
    reused = [event for event in events if event.kind is EventKind.REUSED]
    assert all(
        event.age is not None and event.idle is not None and event.age >= event.idle
        for event in reused
    )
    assert db.stats.counts == Counter(told)
    assert "secret" not in repr(events)


def test_a_statement_out_of_time_is_told(db: Database, events: list[Event]) -> None:
    """The deadline's end is an event of its own: a query's timeout is no loss of the connection."""
    with pytest.raises(DeadlineExceeded):
        db.handler(lambda event, context: db.query(endless(db)))({}, Context(2.4))
    assert [(event.kind, event.statement) for event in events[1:]] == [
        (EventKind.TIMED_OUT, "SELECT")
    ]


def test_a_server_that_hangs_up_earlier_is_told_once() -> None:
    """A server whose own idle limit is below max_idle is reported at the first connection, and only
    there.
    """
    for name, settings in (
        ("postgres16", {"idle_session_timeout": "300s"}),
        ("mariadb", {"wait_timeout": "300"}),
    ):
        with start(name, settings=settings) as server:
            events: list[Event] = []
            with closing(Database(server.dsn("app"), on_event=events.append)) as db:
                db.query("SELECT 1")
                db.close()
                db.query("SELECT 1")
            told = [event.reason for event in events if event.kind is EventKind.ADVISED]
            assert told == ["the server ends idle sessions after 300 s, before max_idle"]


def test_a_server_that_waits_longer_is_not_mentioned(db: Database, events: list[Event]) -> None:
    """MySQL's eight hours and PostgreSQL's never are longer than max_idle."""
    db.query("SELECT 1")
    assert [event.kind for event in events] == [EventKind.CONNECTED]


def test_a_listener_that_fails_changes_nothing(server: Server) -> None:
    """An error in on_event does not reach the application: its statement has been done."""
    fresh_tables(server)

    def fails(event: Event) -> None:
        raise ZeroDivisionError

    with closing(Database(server.dsn("app"), on_event=fails)) as db:
        assert db.execute(INSERT).rowcount == 1
        assert db.stats.connected == 1


def test_metrics_are_lines_that_cloudwatch_reads(server: Server, proxy: Proxy) -> None:
    """One line for an event that counts, with both dimension sets and a number for each name; none
    for the others.
    """
    lines: list[str] = []
    observer = emf(write=lines.append, wall=lambda: 1000.5)
    with closing(Database(proxy.through(server).dsn("app"), on_event=observer)) as db:
        db.query("SELECT 1")
        db.query("SELECT 1")
        assert lines == []
        end(server, session(db))
        dead(db)
        db.query("SELECT 1")
        proxy.drop_after_request()
        db.query("SELECT 1")
        proxy.drop_after_request()
        with pytest.raises(OutcomeUnknown):
            db.execute(INSERT)
    found = [json.loads(line) for line in lines]
    names = [
        [metric["Name"] for metric in line["_aws"]["CloudWatchMetrics"][0]["Metrics"]]
        for line in found
    ]
    assert names == [["StaleConnections"], ["Retries"], ["OutcomeUnknown"]]
    for line, (name,) in zip(found, names, strict=True):
        assert line[name] == 1
        assert line["_aws"]["Timestamp"] == 1_000_500
        (directive,) = line["_aws"]["CloudWatchMetrics"]
        assert directive["Namespace"] == "Reaper"
        assert directive["Dimensions"] == [["Function", "Target"], ["Target"]]
        assert line["Target"] == "127.0.0.1"
        assert line["Function"] == "local"


def test_too_many_connections_is_a_metric() -> None:
    """A refused login counts at each attempt: that metric can raise the alarm that calls the
    reaper.
    """
    with start("mariadb", settings={"max_connections": "10"}) as server:
        lines: list[str] = []
        clocks = Clocks(sleep=lambda seconds: None)
        with closing(
            Database(server.dsn("limited"), on_event=emf(write=lines.append), clocks=clocks)
        ) as db:
            server.query("CREATE USER limited WITH MAX_USER_CONNECTIONS 1")
            server.query("GRANT ALL ON shop.* TO limited")
            holder = server.connect("limited")
            with pytest.raises(Exception, match="max_user_connections"):
                db.query("SELECT 1")
            holder.close()
    counted = [
        name
        for line in lines
        for name in ("TooManyConnections", "Retries")
        if name in json.loads(line)
    ]
    assert counted == ["TooManyConnections", "Retries"] * 59 + ["TooManyConnections"]


def test_old_tokens_are_deleted(server: Server) -> None:
    """Rows of more than 15 days go, by the call and now and then with a transaction; younger ones
    stay.
    """
    fresh_tables(server)
    always = Clocks(dice=lambda: 0.0)
    past = (
        "now() - interval '16 days'" if server.engine == "postgres" else "NOW() - INTERVAL 16 DAY"
    )

    def rows(db: Database) -> list[str]:
        sql = "SELECT CAST(token AS CHAR(9)) AS token FROM reaper_tokens ORDER BY token"
        return [row["token"].strip() for row in db.query(sql)]

    with (
        closing(Database(server.dsn("app"))) as db,
        closing(Database(server.dsn("app"), clocks=always)) as tidy,
    ):
        for token in ("a", "b", "c"):
            db.execute("INSERT INTO reaper_tokens (name, token) VALUES ('n', %s)", (token,))
        db.execute(f"UPDATE reaper_tokens SET created_at = {past} WHERE token IN ('a', 'b')")
        assert db.forget_tokens() == 2
        assert rows(db) == ["c"]
        db.execute(f"UPDATE reaper_tokens SET created_at = {past} WHERE token = 'c'")
        tidy.transaction(lambda tx: None, token="d", name="n")
        assert rows(db) == ["d"]


def test_tokens_that_cannot_be_deleted_are_told(server: Server, events: list[Event]) -> None:
    """A transaction that is committed does not fail for its tidying up."""
    fresh_tables(server)
    clocks = Clocks(dice=lambda: 0.0)
    with closing(Database(server.dsn("app"), on_event=events.append, clocks=clocks)) as db:

        def work(tx: Transaction) -> str:
            return "done"

        with Drop(server, db):
            assert db.transaction(work, token="t") == "done"
    (advice,) = [event for event in events if event.kind is EventKind.ADVISED]
    assert advice.reason.startswith("old tokens could not be deleted: ")


class Drop:
    """Takes the token table away between the commit and the tidying up."""

    def __init__(self, server: Server, db: Database) -> None:
        self._server, self._db = server, db
        self._genuine = db.forget_tokens

    def __enter__(self) -> None:
        def forget() -> int:
            with closing(self._server.connect("app")) as connection:
                connection.cursor().execute("DROP TABLE reaper_tokens")
            return self._genuine()

        self._db.forget_tokens = forget  # type: ignore[method-assign, assignment]  # a moment that cannot be met otherwise

    def __exit__(self, *exc: object) -> None:
        self._db.forget_tokens = self._genuine  # type: ignore[method-assign]  # as it was


def test_a_thread_waits_no_longer_than_its_deadline(server: Server) -> None:
    """While one thread's statement runs, another's own deadline ends its wait for the
    connection.
    """
    with closing(Database(server.dsn("app"), settings=Settings(timeout=0.3))) as db:
        taken, done = threading.Event(), threading.Event()

        def hold() -> None:
            with db.connection():
                taken.set()
                done.wait(10)

        holder = threading.Thread(target=hold)
        holder.start()
        assert taken.wait(10)
        with pytest.raises(
            DeadlineExceeded, match="waiting for the thread that has the connection"
        ):
            db.query("SELECT 1")
        done.set()
        holder.join()
        assert db.query("SELECT 1 AS a") == [{"a": 1}]


def test_a_child_does_not_wait_for_the_parents_threads(server: Server) -> None:
    """A fork while another thread has the connection: that thread is not in the child, so nobody
    would let go.
    """
    with closing(Database(server.dsn("app"))) as db:
        reading, writing = os.pipe()
        with db.connection():
            child = os.fork()
            if child == 0:
                try:
                    os.write(writing, str(db.query("SELECT 1 AS a")).encode())
                finally:
                    os._exit(0)
        os.close(writing)
        assert os.read(reading, 50) == b"[{'a': 1}]"
        os.close(reading)
        os.waitpid(child, 0)
