"""What rows mean, as servers give them: the traps of both engines' lists."""

from __future__ import annotations

from typing import Any

import pytest

from reaper.client.fields import ConfigurationError
from reaper.client.target import EngineName
from reaper.engines import engine_for
from reaper.engines.mysql.reading import strip_port
from reaper.engines.rows import number
from reaper.engines.snapshot_file import RawSnapshot
from reaper.engines.sql_text import first_word, sql_kind
from reaper.model import Holding, Session, Snapshot, State

HIDDEN = "<insufficient privilege>"


def show(id_: int = 1, **columns: Any) -> dict[str, Any]:
    """A row of SHOW FULL PROCESSLIST: an application's session asleep for 1000 seconds."""
    row = {
        "Id": id_,
        "User": "app",
        "Host": "10.0.1.15:43210",
        "db": "orders",
        "Command": "Sleep",
        "Time": 1000,
    }
    return row | {"State": "", "Info": None} | columns


def activity(pid: int = 1, **columns: Any) -> dict[str, Any]:
    """A row of pg_stat_activity: an application's session idle for 1000 seconds."""
    row: dict[str, Any] = {
        "pid": pid,
        "usename": "app",
        "datname": "orders",
        "application_name": "api",
        "client_addr": "10.0.1.15",
        "backend_type": "client backend",
        "leader_pid": None,
        "state": "idle",
        "query": "SELECT",
        "state_age_s": 1000.0,
        "xact_age_s": None,
        "backend_age_s": 5000.0,
    }
    return row | columns


def read_mysql(*rows: dict[str, Any], **context: Any) -> Snapshot:
    defaults: dict[str, Any] = {
        "connection_id": 99,
        "current_user": "reaper@%",
        "uptime_s": 86400,
        "flavour": "mysql",
    }
    return engine_for(EngineName.MYSQL).read(
        RawSnapshot(EngineName.MYSQL, rows, defaults | context)
    )


def read_postgres(*rows: dict[str, Any], **context: Any) -> Snapshot:
    defaults: dict[str, Any] = {"backend_pid": 99, "current_user": "reaper"}
    return engine_for(EngineName.POSTGRES).read(
        RawSnapshot(EngineName.POSTGRES, rows, defaults | context)
    )


# MySQL and MariaDB


def test_mysql_sleeper_in_full() -> None:
    """Every column that the list has arrives in its place, the port stripped."""
    (session,) = read_mysql(show(7)).sessions
    assert session == Session(
        7, user="app", host="10.0.1.15", database="orders", state=State.IDLE, idle_seconds=1000.0
    )


def test_a_failed_transaction_is_as_old_as_its_sleep() -> None:
    """PostgreSQL tells no beginning of a transaction that failed; of any other, none known is not
    made up.
    """
    failed, other = (
        activity(7, state="idle in transaction (aborted)"),
        activity(8, state="idle in transaction"),
    )
    assert [session.transaction_seconds for session in read_postgres(failed, other).sessions] == [
        1000.0,
        None,
    ]


@pytest.mark.parametrize(
    ("columns", "state"),
    [
        ({}, State.IDLE),
        # Unknown, not old
        ({"Time": None}, State.UNKNOWN),
        ({"Time": ""}, State.UNKNOWN),
        # SET timestamp to the future
        ({"Time": -352283953}, State.UNKNOWN),
        # SET timestamp = 1000
        ({"Time": 1795198647}, State.UNKNOWN),
        ({"Time": 86402}, State.UNKNOWN),
        # The two were read an instant apart
        ({"Time": 86401}, State.IDLE),
        # Asleep with a statement running
        ({"Info": "SELECT 1"}, State.UNKNOWN),
        ({"Command": None}, State.UNKNOWN),
        ({"User": None}, State.UNKNOWN),
        *(
            ({"Command": word, "Info": "SELECT 1"}, State.ACTIVE)
            for word in ("Query", "Execute", "Fetch")
        ),
        *(
            ({"Command": word}, State.ACTIVE)
            for word in ("Ping", "Quit", "Killed", "Reset Connection", "sleep", "")
        ),
        # A half-open handshake, as SHOW PROCESSLIST and as performance_schema.processlist spell it.
        (
            {
                "User": "unauthenticated user",
                "Command": "Connect",
                "State": "Receiving from client",
            },
            State.HANDSHAKE,
        ),
        ({"User": "unauthenticated user", "Host": "", "Time": None}, State.HANDSHAKE),
        ({"User": "app", "Command": "Connect"}, State.HANDSHAKE),
        # An event that MariaDB runs
        ({"User": "app", "Command": "Connect", "Info": "DO SLEEP(9)"}, State.ACTIVE),
        *(
            ({"User": "repl", "Command": word}, State.REPLICATION)
            for word in (
                "Binlog Dump",
                "Binlog Dump GTID",
                "Slave_IO",
                "Slave_SQL",
                "Slave_worker",
                "Register Slave",
            )
        ),
        ({"User": "system user", "Command": "Connect", "Host": ""}, State.BACKGROUND),
        ({"User": "system user", "Command": "Slave_IO"}, State.BACKGROUND),
        ({"User": "event_scheduler", "Command": "Daemon", "Host": "localhost"}, State.BACKGROUND),
        ({"User": "root", "Command": "Daemon"}, State.BACKGROUND),
    ],
)
def test_mysql_state(columns: dict[str, Any], state: State) -> None:
    """Only Sleep with a believable Time and nothing running is idle."""
    (session,) = read_mysql(show(**columns)).sessions
    assert session.state is state
    assert (session.idle_seconds is not None) == (state is State.IDLE)


@pytest.mark.parametrize(
    ("time", "state"),
    [
        (31_536_000, State.IDLE),
        (31_536_001, State.UNKNOWN),
        (1_795_198_647, State.UNKNOWN),
        (4_294_967_295, State.UNKNOWN),
    ],
)
@pytest.mark.parametrize("uptime", [None, 4e9])
def test_mysql_nobody_sleeps_for_years(time: int, state: State, uptime: float | None) -> None:
    """Longer than the largest wait_timeout nobody can have slept, whatever is known of the
    server's uptime.
    """
    (session,) = read_mysql(show(Time=time), uptime_s=uptime).sessions
    assert session.state is state


def test_mysql_columns_are_read_in_any_case() -> None:
    """information_schema spells in capitals what SHOW spells in mixed case."""
    row = {key.upper(): value for key, value in show(7).items()}
    assert read_mysql(row).sessions == read_mysql(show(7)).sessions


@pytest.mark.parametrize(
    ("flavour", "time", "statement", "idle"),
    [
        # a report that took 15 minutes, ended 100 s ago
        ("mysql", 1000, 900.0, 100.0),
        # Rounding never makes it negative
        ("mysql", 1000, 1000.5, 0.0),
        # performance_schema clips a falsified Time to 0
        ("mysql", 0, -500.0, 500.0),
        ("aurora_mysql", 1000, 900.0, 100.0),
        # MariaDB's Time counts from the end already
        ("mariadb", 1000, 900.0, 1000.0),
        ("mysql", 1000, None, 1000.0),
    ],
)
@pytest.mark.parametrize("key", [1, "1"])
def test_mysql_last_statement(
    flavour: str, time: int, statement: float | None, idle: float, key: object
) -> None:
    """MySQL's Time counts from the start of the last statement, so its duration is subtracted; not
    on MariaDB.
    """
    (session,) = read_mysql(
        show(Time=time), flavour=flavour, last_statement_s={key: statement}
    ).sessions
    assert (session.idle_seconds, session.idle_at_most) == (idle, None)


def test_mysql_unconfirmed_is_an_upper_bound() -> None:
    """Where the duration of the last statement could not be read, Time bounds the idle time from
    above.
    """
    found = read_mysql(show(1), show(2), unconfirmed=[1])
    assert [(s.idle_seconds, s.idle_at_most, s.is_unconfirmed) for s in found.sessions] == [
        (None, 1000.0, True),
        (1000.0, None, False),
    ]
    assert "idle_upper_bound" in found.warnings


def test_mysql_open_transactions() -> None:
    """A sleeper that innodb_trx knows is idle in a transaction, with its age and the rows to roll
    back.
    """
    trx = [{"trx_mysql_thread_id": 2, "age_s": 700, "rows_locked": 3, "rows_modified": 400_000}]
    first, second, third = read_mysql(
        show(1), show(2), show(3, Command="Query"), innodb_trx=trx
    ).sessions
    assert (first.state, first.transaction_seconds, first.rollback_rows) == (State.IDLE, None, 0)
    assert (second.state, second.transaction_seconds, second.rollback_rows) == (
        State.IDLE_IN_TRANSACTION,
        700.0,
        400_000,
    )
    assert (second.idle_seconds, third.state) == (1000.0, State.ACTIVE)


def test_mysql_transaction_of_a_prepared_xa_belongs_to_nobody() -> None:
    """After XA PREPARE innodb_trx names thread 0: no session is idle in that transaction."""
    (session,) = read_mysql(
        show(1), innodb_trx=[{"trx_mysql_thread_id": 0, "age_s": 9, "rows_modified": 1}]
    ).sessions
    assert session.state is State.IDLE


def test_mysql_named_locks() -> None:
    """A holder of GET_LOCK shows in metadata_locks only; where that was not read the report
    warns.
    """
    seen = read_mysql(
        show(1), show(2), user_level_locks=[{"processlist_id": 2, "name": "job"}], user_limits={}
    )
    assert [s.holds for s in seen.sessions] == [frozenset(), frozenset({Holding.LOCK})]
    assert seen.warnings == ()
    assert read_mysql(show(1), user_limits={}).warnings == ("named_locks_unseen",)


def test_mysql_own_account() -> None:
    """The account of CURRENT_USER() without its host, and the user that the own session shows."""
    found = read_mysql(show(99, User="reaper_proxy"), current_user="reaper@%")
    assert (found.own_id, found.own_users) == (99, frozenset({"reaper", "reaper_proxy"}))
    assert read_mysql(show(1), current_user="a@b@10.%").own_users == frozenset({"a@b"})


@pytest.mark.parametrize(("others", "warned"), [(4, False), (5, True)])
def test_mysql_shared_account(others: int, warned: bool) -> None:
    """More sessions of the reaper's account than reapers can have are the application's."""
    rows = [show(id_, User="reaper") for id_ in range(99, 100 + others)]
    assert ("own_account_shared" in read_mysql(*rows).warnings) is warned


@pytest.mark.parametrize(
    ("users", "connected", "context", "blind"),
    [
        # Without PROCESS only the own rows are shown
        (["reaper"], 10, {}, True),
        (["reaper", "reaper"], 10, {}, True),
        # Alone on the server
        (["reaper"], 1, {}, False),
        # Hidden rows beside readable ones
        (["reaper", "app"], 10, {}, False),
        # Newcomers between the count and the list
        (["reaper"], 10, {"sees_all": True}, False),
        (["reaper"], None, {}, False),
    ],
)
def test_mysql_blind(
    users: list[str], connected: int | None, context: dict[str, Any], blind: bool
) -> None:
    """Blind: the server counts more sessions than it shows, and none shown is another account's."""
    rows = [show(99 + place, User=user) for place, user in enumerate(users)]
    assert read_mysql(*rows, threads_connected=connected, **context).blind is blind


def test_mysql_counts_and_limits() -> None:
    """The server's counts arrive; a limit of 0 is none; without a count the client sessions are
    counted.
    """
    dump = show(2, User="repl", Command="Binlog Dump")
    limits: dict[str, Any] = {
        "user_limits": {"app": 10, "root": 0},
        "database_limits": {"orders": "5"},
    }
    found = read_mysql(
        show(1),
        dump,
        threads_connected="42",
        max_connections=100,
        reserved_connections=10,
        **limits,
    )
    assert (found.used, found.max_connections, found.usable) == (42, 100, 90)
    assert (found.user_limits, found.database_limits) == ({"app": 10}, {"orders": 5})
    assert read_mysql(show(1), dump).used == 1
    assert (
        read_mysql(max_connections=100).usable,
        read_mysql().lag_seconds,
        read_mysql(lag_s=2).lag_seconds,
    ) == (
        100,
        0.0,
        2.0,
    )
    assert "user_limits_unseen" in read_mysql(show(1)).warnings


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("10.0.1.15:43210", "10.0.1.15"),
        ("10.0.1.15", "10.0.1.15"),
        ("localhost", "localhost"),
        ("localhost:43210", "localhost"),
        ("ip-10-0-1-15.internal:43210", "ip-10-0-1-15.internal"),
        ("::1:43210", "::1"),
        ("::1", "::1"),
        ("2001:db8::5:43210", "2001:db8::5"),
        ("[2001:db8::5]:43210", "2001:db8::5"),
        ("[2001:db8::5]", "2001:db8::5"),
        ("2001:db8::5", "2001:db8::5"),
        ("::ffff:10.0.1.15:43210", "::ffff:10.0.1.15"),
        ("::ffff:10.0.1.15", "::ffff:10.0.1.15"),
        ("", None),
        (None, None),
        (5, None),
    ],
)
def test_strip_port(host: object, expected: str | None) -> None:
    """The port goes, the address stays, IPv6 included."""
    assert strip_port(host) == expected


# PostgreSQL


def test_postgres_sleeper_in_full() -> None:
    """Every column used arrives in its place."""
    (session,) = read_postgres(activity(7)).sessions
    assert session == Session(
        7,
        user="app",
        host="10.0.1.15",
        database="orders",
        application="api",
        state=State.IDLE,
        idle_seconds=1000.0,
        session_seconds=5000.0,
    )


@pytest.mark.parametrize(
    ("columns", "state"),
    [
        ({}, State.IDLE),
        ({"state": "idle in transaction", "xact_age_s": 1200.0}, State.IDLE_IN_TRANSACTION),
        (
            {"state": "idle in transaction (aborted)", "xact_age_s": 1200.0},
            State.IDLE_IN_TRANSACTION,
        ),
        ({"state": "active"}, State.ACTIVE),
        ({"state": "fastpath function call"}, State.ACTIVE),
        # PostgreSQL 18
        ({"state": "starting"}, State.HANDSHAKE),
        # track_activities is off
        ({"state": "disabled"}, State.UNKNOWN),
        ({"state": "something new"}, State.UNKNOWN),
        ({"state": None}, State.UNKNOWN),
        # Idle, yet in a transaction
        ({"xact_age_s": 3.0}, State.UNKNOWN),
        ({"state_age_s": -1.0}, State.UNKNOWN),
        ({"state_age_s": None}, State.UNKNOWN),
        ({"state_age_s": "NaN"}, State.UNKNOWN),
        # Idle for longer than it exists
        ({"state_age_s": 5002.0}, State.UNKNOWN),
        ({"state_age_s": 5001.0}, State.IDLE),
        ({"state_age_s": 0.0}, State.IDLE),
        ({"state": "idle in transaction", "state_age_s": -1.0, "xact_age_s": 3.0}, State.UNKNOWN),
        ({"backend_age_s": None}, State.IDLE),
        ({"backend_type": "walsender", "state": "active"}, State.REPLICATION),
        ({"backend_type": "walsender"}, State.REPLICATION),
        ({"backend_type": "parallel worker", "leader_pid": 5}, State.BACKGROUND),
        ({"leader_pid": 5}, State.BACKGROUND),
        ({"backend_type": "logical replication apply worker"}, State.BACKGROUND),
        ({"backend_type": "pg_cron launcher"}, State.BACKGROUND),
        (
            {
                "backend_type": "autovacuum launcher",
                "usename": None,
                "datname": None,
                "state": None,
            },
            State.BACKGROUND,
        ),
        ({"backend_type": None, "state": None, "query": HIDDEN}, State.UNSEEN),
        ({"backend_type": None, "state": None, "query": None}, State.UNSEEN),
        ({"backend_type": None, "state": None, "query": None, "usename": None}, State.BACKGROUND),
        (
            {
                "backend_type": None,
                "state": None,
                "query": HIDDEN,
                "usename": None,
                "datname": None,
            },
            State.BACKGROUND,
        ),
        # a state without a type contradicts itself
        ({"backend_type": None}, State.UNKNOWN),
    ],
)
def test_postgres_state(columns: dict[str, Any], state: State) -> None:
    """Only a client backend whose facts agree is idle."""
    (session,) = read_postgres(activity(**columns)).sessions
    assert session.state is state


def test_postgres_transaction_age() -> None:
    """A session idle in a transaction knows both its ages."""
    (session,) = read_postgres(
        activity(state="idle in transaction", state_age_s=50.0, xact_age_s=60.0)
    ).sessions
    assert (session.idle_seconds, session.transaction_seconds) == (50.0, 60.0)


@pytest.mark.parametrize(
    ("query", "listens"),
    [
        ("LISTEN jobs", True),
        ("listen jobs", True),
        ("  \n\tListen\tjobs;", True),
        ("/* worker 7 */ LISTEN jobs", True),
        ("-- worker 7\nLISTEN jobs", True),
        ("/* a */ -- b\n /* c */ listen jobs", True),
        ("LISTEN a; LISTEN b", True),
        ("SELECT 1; listen jobs", True),
        ("LISTEN jobs; SELECT 1", True),
        ('LISTEN"jobs"', True),
        ("LISTEN/**/jobs", True),
        ("/* a /* b */ c */ LISTEN jobs", True),
        # All that a saved snapshot keeps of it
        ("LISTEN", True),
        # Other channels may remain
        ("UNLISTEN jobs", True),
        ('unlisten "chat_2"', True),
        ("UNLISTEN", True),
        ("UNLISTEN *; UNLISTEN jobs", True),
        ("UNLISTEN *", False),
        ("/* all */ UNLISTEN/* of them */ *;", False),
        ("SELECT 'LISTEN'", False),
        ("-- LISTEN jobs", False),
        ("-- LISTEN jobs\nSELECT 1", False),
        ("/* LISTEN jobs */ SELECT 1", False),
        ("LISTENER", False),
        ("", False),
        (None, False),
    ],
)
def test_postgres_listen(query: str | None, listens: bool) -> None:
    """A session whose last statement is a LISTEN waits for its notifications, however that was
    written.
    """
    (session,) = read_postgres(activity(query=query)).sessions
    assert (Holding.LISTEN in session.holds) is listens


def test_postgres_dropped_role() -> None:
    """Only a row that says that there is no user is a dropped role's; one that lacks the column, or
    has something else in it, is not understood.
    """
    without = {key: value for key, value in activity(9).items() if key != "usename"}
    found = read_postgres(activity(7, usename=None), activity(8, usename=5), without)
    assert [(s.user, s.state) for s in found.sessions] == [
        (None, State.IDLE),
        (None, State.UNKNOWN),
        (None, State.UNKNOWN),
    ]


@pytest.mark.parametrize(
    ("query", "backs_up"),
    [
        ("SELECT pg_backup_start('nightly', true)", True),
        ("select PG_START_BACKUP('nightly', false, false)", True),
        ("SELECT pg_catalog.pg_backup_start($1)", True),
        ('/* nightly */ SELECT * FROM "pg_catalog"."pg_backup_start" (\'x\')', True),
        ("CHECKPOINT; SELECT pg_backup_start('x')", True),
        ("SELECT pg_backup_stop()", False),
        ("SELECT 1", False),
        (None, False),
    ],
)
def test_postgres_base_backup(query: str | None, backs_up: bool) -> None:
    """A base backup lasts as long as the session that began it, which sleeps meanwhile."""
    (session,) = read_postgres(activity(query=query)).sessions
    assert (Holding.BACKUP in session.holds) is backs_up


def test_postgres_advisory_locks() -> None:
    """An advisory lock shows in pg_locks only, by pid."""
    found = read_postgres(activity(1), activity(2), advisory_lock_pids=[2])
    assert [s.holds for s in found.sessions] == [frozenset(), frozenset({Holding.LOCK})]


def test_postgres_superusers_and_limits() -> None:
    """Names and limits arrive; a limit of -1 is none; usable is what an ordinary client can use."""
    limits: dict[str, Any] = {
        "user_limits": {"app": 20, "x": -1},
        "database_limits": {"orders": 30},
    }
    counts = {"connections_used": 42, "max_connections": 100, "reserved_connections": 5}
    found = read_postgres(activity(), superusers=["postgres"], **limits, **counts)
    assert (found.superusers, found.user_limits, found.database_limits) == (
        frozenset({"postgres"}),
        {"app": 20},
        {"orders": 30},
    )
    assert (found.used, found.usable, found.flavour) == (42, 95, "postgres")
    assert read_postgres(max_connections=100, flavour="aurora_postgres").usable == 100
    assert read_postgres(flavour="aurora_postgres").flavour == "aurora_postgres"


def test_postgres_own_account() -> None:
    """The session's user by name, and whoever the own pid belongs to."""
    found = read_postgres(activity(99, usename="reaper_login"))
    assert (found.own_id, found.own_users) == (99, frozenset({"reaper", "reaper_login"}))


@pytest.mark.parametrize(
    ("columns", "warned"),
    [({}, True), ({"application_name": "reaper"}, False), ({"backend_type": "walsender"}, False)],
)
def test_postgres_shared_account(columns: dict[str, Any], warned: bool) -> None:
    """A client of the reaper's account that does not call itself reaper is the application."""
    own = activity(99, usename="reaper", application_name="psql")
    found = read_postgres(own, activity(usename="reaper", **columns))
    assert found.warnings == (("own_account_shared",) if warned else ())


HIDDEN_ROW: dict[str, Any] = {
    "backend_type": None,
    "state": None,
    "query": HIDDEN,
    "state_age_s": None,
}


@pytest.mark.parametrize(
    ("others", "used", "blind"),
    [
        ([HIDDEN_ROW], 2, True),
        ([HIDDEN_ROW, HIDDEN_ROW], 3, True),
        # One readable session beside a hidden one
        ([HIDDEN_ROW, {}], 3, False),
        # Alone on the server
        ([], 1, False),
        ([], 3, True),
        ([{}], 2, False),
        # Only the server's own are hidden
        ([HIDDEN_ROW | {"usename": None, "datname": None}], 1, False),
        # The own account's other session is no sight of others
        ([HIDDEN_ROW, {"usename": "reaper"}], 3, True),
    ],
)
def test_postgres_blind(others: list[dict[str, Any]], used: int, blind: bool) -> None:
    """Blind: the state of every other account's session is hidden."""
    rows = [activity(place, **columns) for place, columns in enumerate(others, 1)]
    assert (
        read_postgres(activity(99, usename="reaper"), *rows, connections_used=used).blind is blind
    )


def test_postgres_hidden_rows_beside_readable_ones_are_unseen() -> None:
    """Hidden sessions are not guessed at, and the readable ones beside them still count."""
    found = read_postgres(activity(99, usename="reaper"), activity(1, **HIDDEN_ROW), activity(2))
    assert [s.state for s in found.sessions] == [State.IDLE, State.UNSEEN, State.IDLE]
    assert found.sessions[1].idle_seconds is None


# Both


@pytest.mark.parametrize("value", [None, "", "x", True, float("nan")])
def test_a_row_without_an_id_is_an_error(value: object) -> None:
    """Nothing can be said, let alone done, about a session without an id."""
    with pytest.raises(ConfigurationError, match=r"Id is .*; it must be a number"):
        read_mysql(show(Id=value))
    with pytest.raises(ConfigurationError, match=r"pid is .*; it must be a number"):
        read_postgres(activity() | {"pid": value})


@pytest.mark.parametrize(
    ("sql", "word"),
    [
        ("select 1", "SELECT"),
        ("COMMIT;", "COMMIT"),
        ("(SELECT 1)", "SELECT"),
        ("; ;BEGIN", "BEGIN"),
        ("/* c */ Insert into t", "INSERT"),
        ("-- c\nUPDATE t", "UPDATE"),
        ("/* never closed", ""),
        ("-- all of it", ""),
        ("   ", ""),
        ("", ""),
        (None, ""),
        ("42", ""),
        ("SELECT'secret'", "SELECT"),
        ("VALUES('secret')", "VALUES"),
        ("CALL/**/pay()", "CALL"),
    ],
)
def test_first_word(sql: object, word: str) -> None:
    """Of SQL text only the first word is kept, comments skipped."""
    assert first_word(sql) == word


@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        ("SELECT 1; listen x", "LISTEN"),
        ("UNLISTEN x", "LISTEN"),
        ("UNLISTEN  *", "UNLISTEN *"),
        ("SELECT pg_start_backup('secret')", "pg_backup_start"),
        ("update t set secret = 1", "UPDATE"),
        (HIDDEN, HIDDEN),
    ],
)
def test_sql_kind(sql: str, kind: str) -> None:
    """What a saved snapshot keeps of a statement still says what the session holds, or that it was
    hidden.
    """
    assert sql_kind(sql) == kind
    assert sql_kind(kind) == kind


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (5, 5.0),
        ("5.5", 5.5),
        (None, None),
        (True, None),
        ("x", None),
        ("nan", None),
        (float("inf"), None),
        ([], None),
    ],
)
def test_number(value: object, expected: float | None) -> None:
    """What is no finite number is unknown."""
    assert number(value) == expected
