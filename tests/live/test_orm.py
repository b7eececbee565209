"""SQLAlchemy on the kept connection: as safe after a freeze as Database itself, and not a round
trip dearer.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Any

import pytest
from sqlalchemy import Engine, String, exc, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from lab import ROOT
from lab.context import Context
from lab.servers import Proxy, Server, Sessions, until
from reaper.client import (
    ConfigurationError,
    Database,
    DeadlineExceeded,
    OutcomeUnknown,
    Transaction,
)
from reaper.client.kept import Clocks
from reaper.client.orm import create_engine
from tests.live.test_client import Wall, dead, end, fresh_tables, orders, session

# performance_schema means nothing to the client
LEFT_OUT = ("mysql_nops",)


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    what: Mapped[str] = mapped_column(String(40))


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def db(server: Server, wall: Wall) -> Iterator[Database]:
    fresh_tables(server)
    with closing(Database(server.dsn("app"), clocks=Clocks(wall=wall))) as database:
        yield database


@pytest.fixture
def engine(db: Database) -> Engine:
    return create_engine(db)


def add(engine: Engine, what: str = "once") -> None:
    with Session(engine) as orm:
        orm.add(Order(what=what))
        orm.commit()


def count(engine: Engine) -> int:
    with Session(engine) as orm:
        return len(orm.scalars(select(Order)).all())


def test_what_a_unit_of_work_costs(server: Server) -> None:
    """Checkout and check-in cost nothing; a unit of work its statements, BEGIN and the end;
    autocommit only the first.

    As many as cross the wire, which on MySQL are as many as the server counts.
    """
    fresh_tables(server)
    with (
        Proxy(server.host, server.port) as proxy,
        closing(Database(proxy.through(server).dsn("app"))) as db,
    ):
        engine = create_engine(db)
        bare = engine.execution_options(isolation_level="AUTOCOMMIT")
        db.query("SELECT 1")
        # The dialect's questions
        assert cost(proxy, lambda: engine.connect().close()) == (5 if db.is_mysql else 9)
        assert [
            cost(proxy, lambda: engine.connect().close()),
            cost(proxy, lambda: add(engine)),
            cost(proxy, lambda: count(engine)),
            cost(proxy, lambda: count(bare)),
            cost(proxy, lambda: db.query("SELECT 1")),
        ] == [0, 3, 3, 1, 1]
        if db.is_mysql:
            before = asked(db)
            add(engine)
            assert asked(db) - before == 3 + 1
        reconnecting = []
        for work in (lambda: db.query("SELECT 1"), lambda: count(bare)):
            db.close()
            # Its goodbye is a request, too
            assert until(lambda: not proxy.connections, timeout=10)
            reconnecting.append(cost(proxy, work))
        assert reconnecting[0] == reconnecting[1]


def cost(proxy: Proxy, work: Callable[[], Any]) -> int:
    before = proxy.counts.requests
    work()
    return proxy.counts.requests - before


def asked(db: Database) -> int:
    (row,) = db.query("SHOW SESSION STATUS LIKE 'Questions'")
    return int(row["Value"])


def test_killed_while_idle_is_not_noticed(engine: Engine, db: Database, server: Server) -> None:
    """In the ORM: a connection that ended while idle is replaced before the first statement,
    without an error.
    """
    add(engine, "a")
    end(server, session(db))
    dead(db)
    add(engine, "b")
    assert orders(db) == ["a", "b"]
    assert (db.stats.connected, db.stats.discarded, db.stats.retried) == (2, 1, 0)


def test_the_servers_own_timeout_is_not_noticed(engine: Engine, db: Database) -> None:
    """In the ORM: ended by the server's idle limit, as in a freeze: the next session is right."""
    db.execute("SET SESSION wait_timeout = 1" if db.is_mysql else "SET idle_session_timeout = '1s'")
    add(engine, "a")
    dead(db)
    add(engine, "b")
    assert orders(db) == ["a", "b"]
    assert db.stats.retried == 0


@pytest.mark.parametrize(("seconds", "kept"), [(60.0, True), (601.0, False), (-10.0, False)])
def test_the_keepers_rules_hold(
    engine: Engine, db: Database, wall: Wall, seconds: float, kept: bool
) -> None:
    """By the wall clock: a ping after a long pause, replaced when idle too long or when time has
    gone backwards.
    """
    count(engine)
    first = session(db)
    wall.ahead += seconds
    count(engine)
    assert (session(db) == first) is kept


def test_lost_in_the_middle(engine: Engine, db: Database, server: Server) -> None:
    """A connection lost within a session: SQLAlchemy's error, nothing stored, and the next session
    has another.
    """
    with Session(engine) as orm:
        orm.add(Order(what="never"))
        orm.flush()
        end(server, session(db))
        with pytest.raises(exc.DBAPIError) as caught:
            orm.scalars(select(Order)).all()
        assert caught.value.connection_invalidated
    add(engine)
    assert orders(db) == ["once"]
    assert db.stats.discarded == 1


def test_a_door_that_stays_shut_for_a_while(server: Server) -> None:
    """Connecting is tried again with back-off, as Database does it."""
    fresh_tables(server)
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            proxy.accept()

    with Proxy(server.host, server.port) as proxy:
        proxy.refuse()
        with closing(Database(proxy.through(server).dsn("app"), clocks=Clocks(sleep=sleep))) as db:
            add(create_engine(db))
            assert db.stats.retried == 3


def test_commit_and_rollback(engine: Engine, db: Database) -> None:
    """What is committed stays, what is rolled back or left does not, and Database's own verbs
    commit by themselves.
    """
    add(engine, "a")
    with Session(engine) as orm:
        orm.add(Order(what="never"))
        orm.flush()
        orm.rollback()
        orm.add(Order(what="b"))
        orm.commit()
        orm.add(Order(what="never"))
        orm.flush()
    with suppress(KeyError), Session(engine) as orm, orm.begin():
        orm.add(Order(what="never"))
        raise KeyError("abort")
    with Session(engine) as orm, orm.begin(), orm.begin_nested() as savepoint:
        orm.add(Order(what="never"))
        orm.flush()
        savepoint.rollback()
    db.execute("INSERT INTO orders (what) VALUES ('c')")
    db.close()
    assert orders(db) == ["a", "b", "c"]


def test_a_statement_that_commits_by_itself(mysql: Server) -> None:
    """MySQL: what follows a DDL statement in a session is a transaction again, and can be rolled
    back.
    """
    fresh_tables(mysql)
    with closing(Database(mysql.dsn("app"))) as db, Session(create_engine(db)) as orm:
        orm.execute(text("INSERT INTO orders (what) VALUES ('committed by the DDL')"))
        orm.execute(text("ALTER TABLE orders COMMENT = 'x'"))
        orm.execute(text("INSERT INTO orders (what) VALUES ('never')"))
        orm.rollback()
        orm.close()
        assert orders(db) == ["committed by the DDL"]


def test_what_a_deadlock_has_undone_is_not_half_committed(
    mysql: Server, sessions: Sessions
) -> None:
    """In the ORM: after a deadlock on MySQL nothing more runs or is committed before the session
    rolls back.
    """
    fresh_tables(mysql)
    (other,) = sessions.sleeping(1)
    other.run("BEGIN")
    # The cheaper side is ended
    other.run("INSERT INTO scratch (value) VALUES " + ", ".join(["(0)"] * 30))
    other.run("UPDATE items SET value = value + 1 WHERE id = 2")
    with closing(Database(mysql.dsn("app"))) as db, Session(create_engine(db)) as orm:
        orm.execute(text("INSERT INTO orders (what) VALUES ('never')"))
        orm.execute(text("UPDATE items SET value = 100 WHERE id = 1"))
        other.start("UPDATE items SET value = value + 1 WHERE id = 1")
        assert until(lambda: mysql.states().get(other.id) == "Query", timeout=10)
        with pytest.raises(exc.OperationalError, match="1213"):
            orm.execute(text("UPDATE items SET value = 100 WHERE id = 2"))
        with pytest.raises(exc.PendingRollbackError, match="undone"):
            orm.execute(text("INSERT INTO orders (what) VALUES ('never')"))
        with pytest.raises(exc.PendingRollbackError, match="undone"):
            orm.commit()
        orm.rollback()
        orm.execute(text("INSERT INTO orders (what) VALUES ('once')"))
        orm.commit()
        assert orders(db) == ["once"]


def test_a_failed_transaction_is_not_quietly_rolled_back(postgres: Server) -> None:
    """PostgreSQL turns the COMMIT of a failed transaction into ROLLBACK without a word: that is
    told.
    """
    fresh_tables(postgres)
    with closing(Database(postgres.dsn("app"))) as db, Session(create_engine(db)) as orm:
        orm.execute(text("INSERT INTO orders (what) VALUES ('never')"))
        # Careless on purpose
        with suppress(exc.DBAPIError):
            orm.execute(text("SELECT no_such_column FROM orders"))
        with pytest.raises(exc.PendingRollbackError, match="undone"):
            orm.commit()
        orm.rollback()
        with suppress(exc.DBAPIError), orm.begin_nested():
            orm.execute(text("SELECT no_such_column FROM orders"))
        orm.execute(text("INSERT INTO orders (what) VALUES ('once')"))
        orm.commit()
        assert orders(db) == ["once"]


def test_one_at_a_time(engine: Engine, db: Database) -> None:
    """While a session has the connection Database's verbs and a second session are refused, and the
    other way round.
    """
    with Session(engine) as orm:
        orm.scalars(select(Order)).all()
        for intruding in (
            lambda: db.query("SELECT 1"),
            lambda: count(engine),
            lambda: db.transaction(lambda tx: 1),
        ):
            with pytest.raises(ConfigurationError, match="in a SQLAlchemy session"):
                intruding()
        orm.commit()
        assert db.query("SELECT 1 AS a") == [{"a": 1}]

    def work(tx: Transaction) -> None:
        count(engine)

    with pytest.raises(ConfigurationError, match="in a transaction"):
        db.transaction(work)
    assert count(engine) == 0


def test_the_next_thread_waits(engine: Engine, db: Database) -> None:
    """A session in another thread gets the connection when the first is closed, or an error before
    the deadline.
    """
    outcomes: list[object] = []

    def try_to_add(seconds: float) -> None:
        try:
            db.handler(lambda event, context: add(engine))({}, Context(seconds))
            outcomes.append("added")
        except DeadlineExceeded as late:
            outcomes.append(str(late))

    with Session(engine) as orm:
        orm.scalars(select(Order)).all()
        waiting = threading.Thread(target=try_to_add, args=(60,))
        waiting.start()
        waiting.join(0.1)
        assert waiting.is_alive()
    waiting.join(20)
    with Session(engine) as orm:
        orm.scalars(select(Order)).all()
        waiting = threading.Thread(target=try_to_add, args=(2.2,))
        waiting.start()
        waiting.join(20)
    assert outcomes == ["added", "no time left waiting for the thread that has the connection"]
    assert count(engine) == 1


def test_the_deadline_stops_a_statement(engine: Engine, db: Database) -> None:
    """The invocation's deadline holds for the ORM's statements; the next session finds a usable
    connection.
    """
    slow = "SELECT max(sin(a.id + b.id + c.id + d.id)) FROM items a, items b, items c, items d"

    def handler(event: Any, context: Any) -> None:
        with Session(engine) as orm:
            orm.execute(text(slow)).all()

    count(engine)
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="SELECT had no answer"):
        db.handler(handler)({}, Context(2.4))
    assert time.monotonic() - began < 5 * 0.4
    add(engine)
    assert orders(db) == ["once"]
    assert db.stats.timed_out == 1


def test_a_lost_commit_is_unknown(server: Server) -> None:
    """The answer to COMMIT is lost: OutcomeUnknown, as from Database, for the ORM's commit is not
    resolved.
    """
    fresh_tables(server)
    with (
        Proxy(server.host, server.port) as proxy,
        closing(Database(proxy.through(server).dsn("app"))) as db,
    ):
        engine = create_engine(db)
        with Session(engine) as orm:
            orm.add(Order(what="once"))
            orm.flush()
            proxy.cut_when(b"COMMIT", "after", "reset")
            with pytest.raises(OutcomeUnknown):
                orm.commit()
        assert count(engine) == 1
        assert db.stats.outcome_unknown == 1


def test_a_session_left_open_ends_with_the_invocation(
    engine: Engine, db: Database, server: Server
) -> None:
    """A session that the handler forgets holds no locks in the freeze, and the next invocation has
    the connection.
    """
    orm = Session(engine)

    @db.handler
    def forgets(event: Any, context: Any) -> None:
        orm.execute(text("UPDATE items SET value = 1 WHERE id = 1"))

    @db.handler
    def next_one(event: Any, context: Any) -> int:
        return int(db.query("SELECT value FROM items WHERE id = 1")[0]["value"])

    forgets({}, Context())
    assert db._kept.connection is None
    assert next_one({}, Context()) == 0
    with pytest.raises(exc.DBAPIError):
        orm.scalars(select(Order)).all()
    orm.close()
    assert next_one({}, Context()) == 0
    assert orm.scalars(select(Order)).all() == []
    orm.close()


def test_a_forked_child_opens_its_own(engine: Engine, db: Database) -> None:
    """After a fork the child does not touch the parent's session, and the parent's goes on."""
    add(engine, "parent")
    mine = session(db)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            add(engine, "child")
            os.write(writing, str(session(db)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    theirs = int(os.read(reading, 20) or b"0")
    os.close(reading)
    os.waitpid(child, 0)
    assert theirs not in (0, mine)
    assert count(engine) == 2
    assert session(db) == mine


@pytest.mark.parametrize("where", ["engine", "session"])
def test_an_isolation_level_is_the_transactions_own(
    db: Database, server: Server, where: str
) -> None:
    """An isolation level holds for SQLAlchemy's transactions and never becomes the session's."""
    level = "SERIALIZABLE"
    engine = create_engine(db, isolation_level=level) if where == "engine" else create_engine(db)
    for _ in range(2):
        with Session(engine.execution_options(isolation_level=level)) as orm:
            orm.scalars(select(Order)).all()
            assert level_of(orm, db, server) == level
    assert level_of(db, db, server) != level


def level_of(asking: Session | Database, db: Database, server: Server) -> str:
    if not db.is_mysql:
        sql = "SELECT upper(current_setting('transaction_isolation')) AS level"
        return str(
            asking.scalar(text(sql)) if isinstance(asking, Session) else db.query(sql)[0]["level"]
        )
    if isinstance(asking, Session):
        sql = (
            f"SELECT trx_isolation_level FROM information_schema.innodb_trx WHERE "
            f"trx_mysql_thread_id = {session(db)}"
        )
        # Asked more often it stays as it was
        assert until(lambda: server.query(sql), timeout=10, pause=0.15)
        return str(server.query(sql)[0][0])
    name = "tx_isolation" if server.flavour == "mariadb" else "transaction_isolation"
    return str(db.query(f"SELECT @@{name} AS level")[0]["level"])


def test_types_stay_apart(postgres: Server) -> None:
    """What SQLAlchemy makes of PostgreSQL's types and rows is not what db.query makes of them,
    before and after.
    """
    with closing(Database(postgres.dsn("app"))) as db:
        engine = create_engine(db, json_deserializer=lambda text: "SQLAlchemy's")
        for _ in range(2):
            assert db.query("SELECT '[1]'::json AS a") == [{"a": [1]}]
            with Session(engine) as orm:
                assert orm.execute(text("SELECT '[1]'::json AS a")).one() == ("SQLAlchemy's",)


@pytest.mark.parametrize("option", ["pool_pre_ping", "poolclass", "creator", "connect_args"])
def test_how_to_connect_is_the_databases_to_say(option: str) -> None:
    """Options that would be passed over are refused."""
    with pytest.raises(ConfigurationError, match=option):
        create_engine(Database("mysql://app@127.0.0.1/shop"), **{option: True})


def test_sqlalchemy_is_an_extra() -> None:
    """The client does not load SQLAlchemy, and without it the ORM's module says what to install."""
    script = """
import sys, reaper.client
assert "sqlalchemy" not in sys.modules
sys.modules["sqlalchemy"] = None
try:
    import reaper.client.orm
except ImportError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "reaper[orm]" in done.stdout
