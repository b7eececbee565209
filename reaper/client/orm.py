"""SQLAlchemy on the one kept connection of a Database, checked at each checkout as Database itself
checks it.

An extra of its own: `reaper[orm]`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

from reaper.client.attempt import UNUSABLE, OutcomeUnknown
from reaper.client.database import Database
from reaper.client.drivers.connection import Connection, out_of_time
from reaper.client.events import EventKind, GivenUp
from reaper.client.faults import Fault
from reaper.client.fields import ConfigurationError
from reaper.client.retry import Effect, Phase, effect
from reaper.client.statements import kind
from reaper.client.target import EngineName

try:
    import sqlalchemy
    from sqlalchemy.dialects import registry
    from sqlalchemy.dialects.mysql.pymysql import MySQLDialect_pymysql
    from sqlalchemy.event import listen
    from sqlalchemy.pool import ConnectionPoolEntry, Pool
except ImportError as missing:
    raise ImportError(
        "reaper.client.orm needs SQLAlchemy 2.1 or later: pip install 'reaper[orm]'"
    ) from missing

_DIALECTS = {EngineName.MYSQL: "mysql+reaper", EngineName.POSTGRES: "postgresql+psycopg"}
_OURS_TO_SAY = frozenset({"connect_args", "creator"})


def create_engine(database: Database, **options: Any) -> sqlalchemy.Engine:
    """An engine whose every connection is the kept one, until it is closed; `options` are
    SQLAlchemy's own.

    Statements have the invocation's deadline, and are not tried again. Raises ConfigurationError
    for options that say how to connect or to pool.
    """
    if refused := sorted(
        name for name in options if name in _OURS_TO_SAY or name.startswith("pool")
    ):
        raise ConfigurationError(
            f"create_engine: {refused[0]} is for the Database to say; it connects and keeps"
        )
    target = database.target
    url = sqlalchemy.URL.create(
        _DIALECTS[target.engine],
        target.user,
        host=target.host,
        port=target.port,
        database=target.database,
    )
    pool = _OneConnection(database)
    engine = sqlalchemy.create_engine(url, pool=pool, **options)
    pool.wishes = _wishes(engine)
    if isinstance(engine.dialect, _MySQL):
        engine.dialect.connection_of = lambda: pool.connection
        pool.begin_first = engine.dialect.begin_if_wanted
    listen(
        engine,
        "before_cursor_execute",
        lambda _connection, _cursor, statement, *_: pool.about_to_run(statement),
    )
    listen(engine, "commit", lambda _connection: pool.about_to_commit())
    listen(engine, "rollback", lambda _connection: pool.about_to_roll_back())
    listen(engine, "handle_error", pool.failed)
    return engine


def _wishes(engine: sqlalchemy.Engine) -> dict[str, Any]:
    """How SQLAlchemy wants a new connection to be: attributes, none of which costs a round trip to
    set.
    """
    if engine.dialect.name == "mysql":
        return {}
    from psycopg.rows import tuple_row

    _, arguments = engine.dialect.create_connect_args(engine.url)
    return {
        "row_factory": tuple_row,
        # Types registered with SQLAlchemy must not change what db.query returns.
        _ADAPTERS: arguments["context"].adapters,
        # psycopg sends BEGIN before the first statement.
        "autocommit": False,
        "isolation_level": None,
        "read_only": None,
        "deferrable": None,
    }


# The one of them that psycopg has no public way to set.
_ADAPTERS = "adapters"


def _dressed(connection: Connection, wishes: dict[str, Any]) -> dict[str, Any]:
    """Set these attributes of the driver's connection; return what they were."""
    raw = connection.raw
    before = {name: getattr(raw, name, None) for name in wishes}
    for name, value in wishes.items():
        if value is before[name]:
            continue
        if name == _ADAPTERS:
            from reaper.client.drivers.psycopg_internals import swap_adapters

            swap_adapters(raw, value)
        else:
            setattr(raw, name, value)
    return before


class _OneConnection(Pool):
    """A pool of one that asks the Database at each checkout, and keeps nothing itself.

    A record is SQLAlchemy's knowledge of one connection; it gets a new one when the Database comes
    with another.
    """

    def __init__(self, database: Database) -> None:
        super().__init__(lambda: self.connection.raw)
        self.wishes: dict[str, Any] = {}
        # What is to happen before each statement of a MySQL connection while it is out.
        self.begin_first: Callable[[], None] | None = None
        self._database = database
        self._lent: Connection | None = None
        self._record: ConnectionPoolEntry | None = None
        self._running, self._began = "", 0.0
        self._unusable: GivenUp | Fault | None = None
        self._undone: BaseException | None = None

    @property
    def connection(self) -> Connection:
        """The connection that was checked out last."""
        assert self._lent is not None, "nothing was checked out"  # noqa: S101  SQLAlchemy's order
        return self._lent

    def _do_get(self) -> ConnectionPoolEntry:
        connection = self._database.take("a SQLAlchemy session")
        try:
            record = self._record_of(connection)
        except BaseException:
            self._database.give_back(connection, GivenUp.ORM_DID_NOT_BEGIN)
            raise
        # Not before: SQLAlchemy's questions to a new connection need no transaction.
        if self.begin_first is not None:
            connection.raw.before_query = self.begin_first
        return record

    def _record_of(self, connection: Connection) -> ConnectionPoolEntry:
        self._lent, self._unusable, self._undone = connection, None, None
        record = self._record
        if record is not None and record.dbapi_connection is connection.raw:
            state = _state(record)
            state["before"] = _dressed(connection, state["wishes"])
        else:
            before = _dressed(connection, self.wishes)
            self._record = record = self._create_connection()
            _state(record).update(connection=connection, before=before)
        return record

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        state = _state(record)
        if self.begin_first is not None:
            state["connection"].raw.before_query = None
        unusable = None
        if record.dbapi_connection is None:
            unusable = self._unusable or GivenUp.ORM_INVALIDATED
        try:
            if not unusable:
                state["wishes"] = _dressed(state["connection"], state["before"])
        except Exception:  # noqa: BLE001  psycopg within a two-phase transaction, for one: told as the reason
            unusable = GivenUp.ORM_NOT_RESTORED
        self._database.give_back(state["connection"], unusable)

    def _close_connection(self, connection: Any, *, terminate: bool = False) -> None:
        """Closing is the Database's: it is told when the record comes back without its
        connection.
        """

    def dispose(self) -> None:
        self._record = None

    def recreate(self) -> Pool:
        return self

    def status(self) -> str:
        return f"one connection of {self._database!r}"

    # What goes on while the connection is out.

    def about_to_run(self, statement: str) -> None:
        # Else the second half of a transaction would be stored without the first.
        if self._undone is not None:
            raise sqlalchemy.exc.PendingRollbackError(_UNDONE) from self._undone
        self.connection.guard.about_to_run(statement)
        self._running, self._began = statement, time.monotonic()

    def about_to_commit(self) -> None:
        # PostgreSQL would roll back without a word.
        if self.connection.has_failed():
            raise sqlalchemy.exc.PendingRollbackError(_UNDONE)
        self.about_to_run("COMMIT")

    def about_to_roll_back(self) -> None:
        self._undone = None
        self.about_to_run("ROLLBACK")

    def failed(self, context: sqlalchemy.ExceptionContext) -> BaseException | None:
        """What an error means for the connection; another one to raise where the Database would."""
        error, driver = context.original_exception, self._database.driver
        if context.connection is None:
            # None was made.
            return None
        meaning = driver.fault(error)
        if meaning in UNUSABLE:
            context.is_disconnect = True
            self._unusable = meaning
        if meaning is Fault.DEADLOCK:
            self._undone = error
        was_sent = self._running == "COMMIT" and self.connection.was_sent(error)
        if was_sent and effect(meaning, Phase.COMMITTING) is Effect.UNKNOWN:
            self._database._tell(EventKind.OUTCOME_UNKNOWN, meaning, "transaction")
            return OutcomeUnknown("transaction", error)
        stopped = self.connection.guard.has_stopped_it(meaning)
        if stopped or meaning is Fault.TIMEOUT:
            self._database._tell(EventKind.TIMED_OUT, meaning, kind(self._running))
            return out_of_time(self._running, time.monotonic() - self._began, stopped)
        return None


_UNDONE = (
    "what this transaction did is undone, by an error before this; roll back and do all of it again"
)


def _state(record: ConnectionPoolEntry) -> dict[str, Any]:
    # None only of a connection that has no record
    return cast(dict[str, Any], record.record_info)


class _MySQL(MySQLDialect_pymysql):
    """PyMySQL with autocommit off, as SQLAlchemy wants it, played on a connection that stays in
    autocommit.

    START TRANSACTION goes before a transaction's first statement, as in psycopg, and again after a
    statement that has committed by itself; also on a raw_connection(). `SET autocommit` and back
    would be a round trip more, and a write lost where somebody forgets the latter.
    """

    supports_statement_cache = True

    connection_of: Callable[[], Connection]
    """The connection that is checked out; there is never a second one."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # The isolation level that was asked for; empty: the session's own.
        self._level = ""

    def on_connect(self) -> Any:
        # No SET NAMES, which the login has sent.
        return self._forget

    def _forget(self, _connection: Any) -> None:
        self._level = ""

    def do_begin(self, dbapi_connection: Any) -> None:
        """Nothing: the first statement begins it."""

    def do_commit(self, dbapi_connection: Any) -> None:  # noqa: ARG002  there is only one
        if self.connection_of().in_transaction():
            self.connection_of().commit()

    def do_rollback(self, dbapi_connection: Any) -> None:  # noqa: ARG002  there is only one
        if self.connection_of().in_transaction():
            self.connection_of().roll_back()

    # The rows that an UPDATE found, as SQLAlchemy's own dialects ask the server for: by those that
    # it changed, one that changes nothing would look like a row that is gone. The flag that makes
    # the server count so belongs to the whole connection, where tokens rest on the other count.

    def do_execute(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        super().do_execute(cursor, statement, parameters, context)  # type: ignore[no-untyped-call]  # untyped in the stubs
        if (found := self.connection_of().raw.rows_found) is not None:
            cursor.rowcount = found

    def do_executemany(
        self, cursor: Any, statement: str, parameters: Any, context: Any = None
    ) -> None:
        if kind(statement) != "UPDATE":
            super().do_executemany(cursor, statement, parameters, context)
            return
        found = 0
        for each in parameters:
            self.do_execute(cursor, statement, each, context)
            found += cursor.rowcount
        cursor.rowcount = found

    # Of SQLAlchemy's isolation levels none becomes the session's: Database's own verbs would
    # inherit it.

    def set_isolation_level(self, dbapi_connection: Any, level: Any) -> None:  # noqa: ARG002  SQLAlchemy's
        is_servers_own = (
            self._on_connect_isolation_level is None and level == self.default_isolation_level
        )
        self._level = "" if is_servers_own else level

    def get_isolation_level(self, dbapi_connection: Any) -> Any:
        if self._level in ("", _AUTOCOMMIT):
            return super().get_isolation_level(dbapi_connection)
        return self._level

    def detect_autocommit_setting(self, dbapi_conn: Any) -> bool:  # noqa: ARG002  SQLAlchemy's
        return self._level == _AUTOCOMMIT

    def begin_if_wanted(self) -> None:
        """Begin a transaction before a statement, where none is open, as with autocommit off."""
        connection = self.connection_of()
        if self._level != _AUTOCOMMIT and not connection.in_transaction():
            if self._level:
                # Of the next transaction only.
                connection.answer(f"SET TRANSACTION ISOLATION LEVEL {self._level}")
            connection.answer("START TRANSACTION")


_AUTOCOMMIT = "AUTOCOMMIT"

registry.register("mysql.reaper", __name__, _MySQL.__name__)
