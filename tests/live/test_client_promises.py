"""Small promises of the client's: tokens that cannot collide, handlers without a context, settings
of the wrong type, and errors that say why.
"""

from __future__ import annotations

import copy
import functools
import pickle
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import psycopg
import pytest

from lab.context import Context
from lab.servers import Server, start
from reaper.client.attempt import OutcomeUnknown
from reaper.client.database import Database
from reaper.client.deadline import DeadlineExceeded
from reaper.client.events import Event, EventKind
from reaper.client.fields import ConfigurationError
from reaper.client.kept import Clocks, Settings
from reaper.client.transaction import Transaction
from tests.live.test_client import fresh_tables, orders

# performance_schema means nothing to the client
LEFT_OUT = ("mysql_nops",)

INSERT = "INSERT INTO orders (what) VALUES (%s)"


@pytest.fixture
def db(server: Server) -> Iterator[Database]:
    """A database object on empty tables."""
    fresh_tables(server)
    with closing(Database(server.dsn("app"))) as database:
        yield database


def book(tx: Transaction) -> str:
    tx.execute(INSERT, ("booked",))
    return "done"


def test_the_same_token_after_a_failure(db: Database) -> None:
    """A work that failed was rolled back, so its token is free, in the same invocation, too."""
    tries: list[int] = []

    def fails_once(tx: Transaction) -> str:
        tries.append(1)
        book(tx)
        if len(tries) == 1:
            raise LookupError("a service was busy")
        return "done"

    def handler(event: Any, context: Any) -> str:
        with pytest.raises(LookupError):
            db.transaction(fails_once, token=event)
        return db.transaction(fails_once, token=event)

    assert db.handler(handler)("e", Context()) == "done"
    assert orders(db) == ["booked"]


def test_the_same_token_after_a_success(db: Database) -> None:
    """A token that was used gives the stored result, in the same invocation, too: once is once."""

    def handler(event: Any, context: Any) -> list[str]:
        return [db.transaction(book, token=event) for _ in range(3)]

    assert db.handler(handler)("e", Context()) == ["done"] * 3
    assert orders(db) == ["booked"]


def test_a_token_of_an_earlier_version_counts(db: Database) -> None:
    """What was done under the name that earlier versions gave the work is not done again, by this
    version; and a token of this one is never taken for one of another module's work.
    """
    db.execute(
        "INSERT INTO reaper_tokens (name, token, result) VALUES (%s, %s, %s)",
        ("book", "e", '"done before"'),
    )
    assert db.transaction(book, token="e") == "done before"
    assert orders(db) == []
    assert db.transaction(book, token="f") == "done"

    def another(tx: Transaction) -> str:
        tx.execute(INSERT, ("of another module",))
        return "another"

    another.__qualname__, another.__module__ = "book", "elsewhere"
    assert db.transaction(another, token="f") == "another"
    assert orders(db) == ["booked", "of another module"]


@pytest.mark.parametrize("token", ["a", "a ", "A", "ä", "a\x00", "'"])
def test_tokens_are_compared_byte_by_byte(db: Database, token: str) -> None:
    """No token is another one's, whatever a collation makes of them."""
    if "\x00" in token and not db.is_mysql:
        pytest.skip("PostgreSQL's text has no such letter")
    for other in ("a", "a ", "A", "ä", "'"):
        if other != token:
            db.transaction(book, token=other)
    db.execute("DELETE FROM orders")
    assert db.transaction(book, token=token) == "done"
    assert db.transaction(book, token=token) == "done"
    assert orders(db) == ["booked"]


def test_a_table_of_an_earlier_version(mysql: Server) -> None:
    """On a table that compares as text everything works, but two tokens that it takes for one are
    an error, and nothing is left undone in silence.
    """
    fresh_tables(mysql)
    with closing(Database(mysql.dsn("app"))) as db:
        for column in ("name", "token"):
            db.execute(
                f"ALTER TABLE reaper_tokens MODIFY {column} VARCHAR(255) "
                "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL"
            )
        assert [db.transaction(book, token="a") for _ in range(2)] == ["done"] * 2
        assert orders(db) == ["booked"]
        with pytest.raises(ConfigurationError, match="ALTER TABLE"):
            db.transaction(book, token="a ")
        assert orders(db) == ["booked"]


@pytest.mark.parametrize(
    ("work", "options", "said"),
    [
        (book, {"token": ""}, "the token is an empty text"),
        (book, {"token": 5}, "the token is a int"),
        (book, {"token": "x" * 256}, "the token has 256 bytes"),
        (book, {"token": "ä" * 128}, "the token has 256 bytes"),
        (book, {"token": "x", "name": ""}, "the name has 0 bytes"),
        (lambda tx: None, {"token": "x"}, "a lambda has no name of its own; say name="),
        (functools.partial(book), {"token": "x"}, "a partial has no name of its own; say name="),
    ],
)
def test_tokens_that_would_collide_are_refused(
    postgres: Server, work: Callable[..., Any], options: dict[str, Any], said: str
) -> None:
    """What cannot name one piece of work for one event is an error, before anything is run."""
    with closing(Database(postgres.dsn("app"))) as db:
        with pytest.raises(ConfigurationError, match=said):
            db.transaction(work, **options)
        assert db.stats.connected == 0


@pytest.mark.parametrize(
    "context",
    [None, MagicMock(), SimpleNamespace(lambda_context=Context()), SimpleNamespace()],
    ids=["none", "a mock", "a durable function's", "another object"],
)
def test_handlers_without_lambdas_context(db: Database, context: Any) -> None:
    """A unit test calls a handler with whatever it has, and its statements run."""
    handler = db.handler(lambda event, context: db.query("SELECT 42 AS x"))
    assert handler({}, context) == [{"x": 42}]


def test_a_handler_within_a_handler(server: Server) -> None:
    """The outer one's deadline stays, during and after the inner one."""
    fresh_tables(server)
    with closing(Database(server.dsn("app"))) as db:

        @db.handler
        def inner(event: Any, context: Any) -> float:
            return db._deadline().remaining()

        @db.handler
        def outer(event: Any, context: Any) -> tuple[float, float]:
            return inner(event, Context(5)), db._deadline().remaining()

        within, after = outer({}, Context(1000))
    assert min(within, after) > 900


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"timeout": "10"}, "timeout is '10'"),
        ({"max_idle": None}, "max_idle is None"),
        ({"ping_after": -1}, "ping_after is -1"),
        ({"max_lifetime": float("nan")}, "max_lifetime is nan"),
        ({"behind_proxy": "no"}, "behind_proxy is 'no'"),
        ({"patience": 8}, "patience is 8"),
    ],
)
def test_settings_of_the_wrong_type(settings: dict[str, Any], said: str) -> None:
    """They are refused where they are made, not at their first use."""
    with pytest.raises(ConfigurationError, match=said):
        Settings(**settings)


def test_stats_can_be_copied_and_pickled() -> None:
    """As any value can."""
    stats = Database("mysql://app@localhost/shop").stats
    stats.counts[EventKind.RETRIED] += 3
    for other in (copy.copy(stats), copy.deepcopy(stats), pickle.loads(pickle.dumps(stats))):  # noqa: S301  our own
        assert other.retried == 3


def test_nothing_is_committed_after_the_deadline(db: Database) -> None:
    """Work that took too long is undone on every engine, though the server would commit it."""
    late = Settings(timeout=0.3)
    with closing(Database(db.target.host and _dsn(db), settings=late)) as hurried:

        def work(tx: Transaction) -> None:
            book(tx)
            hurried._kept.connection.guard.deadline = _past()  # type: ignore[union-attr]  # it is connected

        with pytest.raises((DeadlineExceeded, OutcomeUnknown)):
            hurried.transaction(work)
    assert orders(db) == []


def _dsn(db: Database) -> str:
    target = db.target
    scheme = "mysql" if db.is_mysql else "postgresql"
    password = f":{target.password}" if target.password else ""
    return f"{scheme}://{target.user}{password}@{target.host}:{target.port}/{target.database}"


def _past() -> Any:
    from reaper.client.deadline import Deadline

    return Deadline(0.0, lambda: 1.0)


@pytest.mark.parametrize("scheme", ["mysql", "postgresql"])
def test_out_of_time_while_connecting(scheme: str) -> None:
    """A server that says nothing is DeadlineExceeded on every engine."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        dsn = f"{scheme}://app@127.0.0.1:{silent.getsockname()[1]}/shop"
        with (
            closing(Database(dsn, settings=Settings(timeout=0.5))) as db,
            pytest.raises(DeadlineExceeded, match="to connect to"),
        ):
            db.query("SELECT 1")


def test_an_address_that_swallows_packets_leaves_time_to_the_next(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name with several addresses: each gets its share of the time."""
    target = db.target
    known = socket.getaddrinfo

    def two(host: Any, port: Any, *more: Any, **options: Any) -> Any:
        if host != "two.example":
            return known(host, port, *more, **options)
        stream = socket.SOCK_STREAM
        return [
            (socket.AF_INET, stream, socket.IPPROTO_TCP, "", (address, target.port))
            for address in ("127.0.0.9", "127.0.0.1")
        ]

    with socket.socket() as deaf:
        # Listens for nobody: its backlog is full, so that a SYN is not answered.
        deaf.bind(("127.0.0.9", target.port))
        deaf.listen(0)
        stuffing = [socket.socket() for _ in range(3)]
        for each in stuffing:
            each.setblocking(False)
            each.connect_ex(("127.0.0.9", target.port))
        monkeypatch.setattr(socket, "getaddrinfo", two)
        dsn = _dsn(db).replace("127.0.0.1", "two.example") + "?tls=off"
        try:
            with closing(Database(dsn, settings=Settings(timeout=4))) as through:
                assert through.query("SELECT 42 AS x") == [{"x": 42}]
        finally:
            for each in stuffing:
                each.close()


def test_out_of_time_says_what_came_before() -> None:
    """Where a full server's refusals used up the time, the error and the event name them."""
    events: list[Event] = []
    with start("postgres16", settings={"max_connections": "5"}) as small:
        seats = [small.connect(small.root) for _ in range(5)]
        now = [0.0]

        def sleep(seconds: float) -> None:
            now[0] += 1.9

        clocks = Clocks(clock=lambda: now[0], sleep=sleep, dice=lambda: 0.0)
        with (
            closing(
                Database(
                    small.dsn("app"),
                    settings=Settings(timeout=10),
                    clocks=clocks,
                    on_event=events.append,
                )
            ) as db,
            pytest.raises(Exception, match=r"before that 6 attempts failed: too_many") as caught,
        ):
            db.query("SELECT 1")
        for seat in seats:
            seat.close()
    notes = " ".join(getattr(caught.value, "__notes__", []))
    assert "given up after" in notes
    assert isinstance(caught.value.__cause__, psycopg.OperationalError)
    assert (events[-1].kind, events[-1].reason) == (
        EventKind.TIMED_OUT,
        "timeout after 6 attempts: too_many",
    )


def test_a_statement_that_is_too_large_is_sent_once(mysql: Server) -> None:
    """The server hangs up on it and always would: the error names the setting."""
    fresh_tables(mysql)
    ((before,),) = mysql.query("SELECT @@GLOBAL.max_allowed_packet")
    mysql.query("SET GLOBAL max_allowed_packet = 1048576")
    try:
        with closing(Database(mysql.dsn("app"))) as db:
            with pytest.raises(Exception, match="max_allowed_packet"):
                db.execute(INSERT, ("x" * (8 << 20),))
            assert db.stats.retried == 0
            assert db.query("SELECT 42 AS x") == [{"x": 42}]
    finally:
        mysql.query(f"SET GLOBAL max_allowed_packet = {before}")


def test_a_server_that_cuts_reads_short_is_told_once(mysql: Server) -> None:
    """A server-wide sql_select_limit changes what every read returns, so it is told, once."""
    events: list[Event] = []
    mysql.query("SET GLOBAL sql_select_limit = 25")
    try:
        with closing(Database(mysql.dsn("app"), on_event=events.append)) as db:
            for _ in range(2):
                db.query("SELECT 1")
                db.close()
    finally:
        mysql.query("SET GLOBAL sql_select_limit = DEFAULT")
    told = [event.reason for event in events if event.kind is EventKind.ADVISED]
    assert told == ["the server cuts every read to 25 rows (sql_select_limit)"]
