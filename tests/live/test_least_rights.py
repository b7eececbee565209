"""Each grant that `reaper grants` prints is needed, and none of them opens anything else."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing

import psycopg
import pytest

from lab.servers import Server, Sessions
from lab.servers.base import Rows
from reaper.model import Outcome
from reaper.report import ErrorKind
from tests.live.account import (
    BY_PROCEDURE,
    ROLE,
    USER,
    granted,
    has_performance_schema,
    swept,
    unavoidable,
)

# Without performance_schema nobody misses the grants that read it
LEFT_OUT = ("mysql_nops",)

UNSEEN_STATEMENTS = {"idle_upper_bound", "named_locks_unseen"}
# What each grant is for: the warnings of a sweep without it, which terminates all the same.
EYES = {
    f"performance_schema.threads TO '{USER}'": UNSEEN_STATEMENTS,
    f"performance_schema.events_statements_current TO '{USER}'": {"idle_upper_bound"},
    f"performance_schema.events_transactions_current TO '{USER}'": {"transactions_unseen"},
    f"performance_schema.metadata_locks TO '{USER}'": {"named_locks_unseen"},
    f"mysql.user TO '{USER}'": {"user_limits_unseen"},
}
# Without one of these nobody is terminated, and the error says so.
HANDS = {
    f"CONNECTION_ADMIN ON *.* TO '{USER}'",
    f"CONNECTION ADMIN ON *.* TO '{USER}'",
    f"mysql.rds_kill TO '{USER}'",
    f"reaper.kill_if_idle TO '{USER}'",
}
# The same for those of the procedure's own role; the account itself looks as if it could.
ROLES_HANDS = {
    f"PROCESS ON *.* TO {ROLE}",
    f"CONNECTION_ADMIN ON *.* TO {ROLE}",
    f"CONNECTION ADMIN ON *.* TO {ROLE}",
    f"mysql.rds_kill TO {ROLE}",
    f"reaper.kill_if_idle TO {ROLE}",
}
ROLES_EYES = {
    f"performance_schema.{table} TO {ROLE}"
    for table in ("threads", "events_statements_current", "events_transactions_current")
}
BLINDS = f"PROCESS ON *.* TO '{USER}'"
SHAPES = [(False, ()), (True, ()), (False, BY_PROCEDURE)]


def less_one(server: Server, managed: bool, options: tuple[str, ...]) -> Iterator[str]:
    """Make the account again and again, each time without another one of the grants, and say
    without which.
    """
    with granted(server, *options, managed=managed) as statements:
        every = [statement for statement in statements if statement.startswith("GRANT")]
    known = [BLINDS, *EYES, *HANDS, *ROLES_HANDS, *ROLES_EYES]
    for grant in every:
        (fragment,) = [fragment for fragment in known if fragment in grant]
        if fragment in EYES and (managed or options):
            # The same grants as without
            continue
        with granted(server, *options, managed=managed, without=fragment):
            yield fragment


@pytest.mark.parametrize(("managed", "options"), SHAPES)
def test_mysql_with_one_grant_less(
    mysql: Server, sessions: Sessions, managed: bool, options: tuple[str, ...]
) -> None:
    """Without PROCESS the sweep is blind; without a right to kill its victims are refused, and the
    error says what the account needs; without a right to read it terminates, and warns of what went
    unseen.
    """
    for missing in less_one(mysql, managed, options):
        clients = sessions.sleeping(3)
        report = swept(mysql, "idle_upper_bound" not in EYES.get(missing, set()))
        found = (report.error and report.error.kind, dict(report.outcomes))
        if missing in EYES:
            assert set(report.warnings) == EYES[missing] | unavoidable(mysql), missing
        if missing in EYES or (missing in ROLES_EYES and not has_performance_schema(mysql)):
            assert found == (None, {Outcome.TERMINATED: 3}), missing
        elif missing == BLINDS:
            assert found == (ErrorKind.BLIND, {})
        else:
            assert found == (ErrorKind.RIGHTS, {Outcome.REFUSED: 3}), missing
            assert ("no_right_to_terminate" in report.warnings) == (missing in HANDS), missing
            assert report.error
            assert re.search(
                r"needs CONNECTION_ADMIN, or .*rds_kill .*reaper\.kill_if_idle",
                report.error.message,
            )
        assert [client.alive() for client in clients] == [report.error is not None] * 3
        sessions.close()


FORBIDDEN_ON_MYSQL = """
SELECT * FROM shop.items
INSERT INTO shop.items VALUES (1000, 0)
CREATE TABLE shop.mine (id INT)
CREATE TEMPORARY TABLE shop.mine (id INT)
CREATE DATABASE mine
CREATE VIEW shop.mine AS SELECT * FROM shop.items
SELECT authentication_string FROM mysql.user
SELECT * FROM mysql.db
UPDATE performance_schema.threads SET INSTRUMENTED = 'NO'
CREATE TRIGGER shop.mine BEFORE INSERT ON shop.items FOR EACH ROW SET @mine = 1
LOCK TABLES shop.items READ
CREATE USER mine
ALTER USER app IDENTIFIED BY 'mine'
DROP USER app
CREATE ROLE mine
GRANT reaper_killer TO CURRENT_USER()
GRANT SELECT ON shop.* TO CURRENT_USER()
GRANT PROCESS ON *.* TO app
SET GLOBAL sort_buffer_size = DEFAULT
SET ROLE reaper_killer
SHUTDOWN
FLUSH PRIVILEGES
SELECT 1 INTO OUTFILE 'mine'
CREATE PROCEDURE reaper.mine() SELECT 1
CREATE EVENT reaper.mine ON SCHEDULE EVERY 1 SECOND DO SELECT 1
CREATE FUNCTION mine RETURNS INTEGER SONAME 'mine.so'
GRANT EXECUTE ON PROCEDURE reaper.kill_if_idle TO app
ALTER PROCEDURE reaper.kill_if_idle SQL SECURITY INVOKER
DROP PROCEDURE reaper.kill_if_idle
""".strip().splitlines()
DENIED = (
    "(?i)denied|you need|do not have the|not allowed|is not granted|Invalid role|does not exist"
)


@pytest.mark.parametrize(("managed", "options"), SHAPES)
def test_nothing_else_is_possible_on_mysql(
    mysql: Server, managed: bool, options: tuple[str, ...]
) -> None:
    """The account has the printed grants and no others: no table of the application is its to read,
    or even to see, and nothing is its to change.
    """
    with (
        granted(mysql, *options, managed=managed) as statements,
        closing(mysql.connect(USER, "")) as connection,
    ):
        mine = [statement for statement in statements if f"TO '{USER}'" in statement]
        assert rights(row[0] for row in mysql.query(f"SHOW GRANTS FOR {USER}@'%'")) == rights(mine)
        run = mysql.kind.client(connection, USER).run
        for statement in FORBIDDEN_ON_MYSQL:
            with pytest.raises(mysql.kind.errors, match=DENIED):
                run(statement)
        assert run(
            "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = 'shop'"
        ) == [(0,)]
    assert mysql.query("SELECT COUNT(*) FROM shop.items WHERE id = 1000") == [(0,)]


def rights(grants: Iterable[str]) -> set[tuple[str, str, str]]:
    """What is granted, each right, column and object alone: the server merges, sorts and quotes as
    it likes.
    """
    found = set()
    for grant in grants:
        what, where = re.findall(
            r"^GRANT (.+) ON (?:PROCEDURE )?(\S+) TO ", re.sub("[`'\"]", "", grant)
        )[0]
        for right in re.split(r", (?![^(]*\))", what):
            name, _, columns = right.partition(" (")
            found |= {
                (name, column, where)
                for column in columns.rstrip(")").split(", ")
                if name != "USAGE"
            }
    return found


@pytest.mark.parametrize(
    ("right", "kind", "outcomes", "message"),
    [
        ("pg_read_all_stats", ErrorKind.BLIND, set(), "GRANT it pg_read_all_stats"),
        ("pg_signal_backend", ErrorKind.RIGHTS, {Outcome.REFUSED}, "needs pg_signal_backend"),
    ],
)
def test_postgres_with_one_grant_less(
    postgres: Server,
    sessions: Sessions,
    right: str,
    kind: ErrorKind,
    outcomes: set[Outcome],
    message: str,
) -> None:
    """Without the right to see the sweep is blind, without the right to signal its victims are
    refused.
    """
    with granted(postgres, without=right):
        clients = sessions.sleeping(4)
        report = swept(postgres)
    assert report.error is not None
    assert report.error.kind is kind
    assert message in report.error.message
    assert set(report.outcomes) == outcomes
    assert all(client.alive() for client in clients)


FORBIDDEN_ON_POSTGRES = """
SELECT * FROM items
INSERT INTO items VALUES (1000, 0)
CREATE TABLE public.mine (id int)
CREATE SCHEMA mine
CREATE ROLE mine
CREATE DATABASE mine
GRANT pg_read_all_data TO CURRENT_USER
GRANT pg_signal_backend TO app
ALTER ROLE app SUPERUSER
SET ROLE postgres
SET SESSION AUTHORIZATION postgres
ALTER SYSTEM SET max_connections = 10
SELECT pg_read_file('PG_VERSION')
COPY (SELECT 1) TO PROGRAM 'true'
SELECT rolpassword FROM pg_authid
SELECT pg_reload_conf()
CREATE EXTENSION dblink
""".strip().splitlines()


def test_the_right_to_signal_ends_no_superuser(postgres: Server, sessions: Sessions) -> None:
    """Whoever has the account can end anybody's session but a superuser's, and cannot stop the
    server's own work.
    """
    (boss,) = sessions.superuser(1)
    (worker, *_) = postgres.query(
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'"
    )
    with granted(postgres), closing(postgres.connect(USER)) as connection:
        run = postgres.kind.client(connection, USER).run
        for what in (f"pg_terminate_backend({boss.id})", f"pg_cancel_backend({boss.id})"):
            with pytest.raises(postgres.kind.errors, match=r"permission denied|must be a"):
                run(f"SELECT {what}")
        assert not refused_or(run, f"SELECT pg_terminate_backend({worker[0]})", postgres)
    assert boss.alive()


def refused_or(run: Callable[[str], Rows], sql: str, server: Server) -> bool:
    """What the statement answers, a refusal counting as no."""
    try:
        ((answer,),) = run(sql)
    except server.kind.errors:
        return False
    return bool(answer)


def test_nothing_else_is_possible_on_postgres(postgres: Server) -> None:
    """The account is a member of two roles, may read no table of the application, and change
    nothing.
    """
    version = int(postgres.query("SHOW server_version_num")[0][0])
    # Until 15 that schema was everybody's to fill; until 14 there was no such role.
    later = {"public.": 150000, "pg_read_all_data": 140000}
    forbidden = [
        sql
        for sql in FORBIDDEN_ON_POSTGRES
        if all(version >= since or it not in sql for it, since in later.items())
    ]
    with granted(postgres), closing(postgres.connect(USER)) as connection:
        roles = (
            f"SELECT roleid::regrole::text FROM pg_auth_members WHERE member = '{USER}'::regrole "
            f"ORDER BY 1"
        )
        assert postgres.query(roles) == [("pg_read_all_stats",), ("pg_signal_backend",)]
        run = postgres.kind.client(connection, USER).run
        for statement in forbidden:
            with pytest.raises(psycopg.Error) as refused:
                run(statement)
            assert refused.value.sqlstate == "42501" or "is not available" in str(refused.value), (
                statement
            )
        tables = (
            "SELECT count(*) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', "
            "'information_schema')"
        )
        mine = (
            "has_table_privilege(quote_ident(schemaname) || '.' || quote_ident(tablename), "
            "'SELECT, INSERT, UPDATE')"
        )
        assert run(tables) != [(0,)]
        assert run(f"{tables} AND {mine}") == [(0,)]
