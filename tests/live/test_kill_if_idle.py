"""kill_if_idle: the server itself looks and kills, and refuses whom nobody should kill, whoever
asks.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import pytest

from lab.servers import Client, Server, Sessions, until
from reaper.model import Mark, Outcome, Session
from reaper.report import ErrorKind
from tests.harness import settle, sweep
from tests.live.account import BY_PROCEDURE, ROLE, USER, granted, has_performance_schema
from tests.live.stage import engine_server, seen, terminate
from tests.live.test_busy import THRESHOLD, Worker
from tests.live.test_least_rights import DENIED

# Seconds of sleep, in place of the 30; more than the one by which whole seconds can be wrong
LIMIT = 2.0
BRIEFLY = ("--kill-if-idle", "--least-idle", f"{LIMIT:g}s")
SECONDS = 5.0


class Caller:
    """Somebody with the account's rights, who says what he likes."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.connection = server.connect(USER, "")
        self.run = server.kind.client(self.connection, USER).run

    def kill(self, client: Client, **said: Any) -> str:
        """What the procedure answers where all is true but what is said here."""
        true = dict(zip(("user", "host", "statement"), self._truth(client), strict=True))
        given = {"id": client.id, "time": None, **true, **said}
        with self.connection.cursor() as cursor:
            order = ("id", "user", "host", "time", "statement")
            cursor.execute(
                "CALL reaper.kill_if_idle(%s, %s, %s, %s, %s)", [given[name] for name in order]
            )
            return str(cursor.fetchall()[0][0])

    def _truth(self, client: Client) -> tuple[str, str, int | None]:
        statement = "QUERY_ID" if self._server.flavour == "mariadb" else "NULL"
        sql = (
            f"SELECT USER, HOST, {statement} FROM information_schema.processlist WHERE ID = "
            f"{client.id}"
        )
        (row,) = self._server.query(sql)
        return row


@contextmanager
def caller(server: Server, *options: str) -> Iterator[Caller]:
    with granted(server, *options):
        found = Caller(server)
        with closing(found.connection):
            yield found


# What a caller can do to his own session; none of it may change what the procedure sees.
TRICKS = (
    "SET timestamp = 2000000000",
    "SET SESSION sql_mode = '', SESSION sql_select_limit = 0, SESSION div_precision_increment = 0",
    "SET SESSION time_zone = '+12:00', SESSION collation_connection = 'utf8mb4_bin'",
    "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
)


def test_whom_it_never_kills(mysql: Server, sessions: Sessions) -> None:
    """Active sessions, those in a transaction, of the provider, of the caller's own account, of
    replication, and those who slept for less than its limit; whatever the caller does to its own
    session.
    """
    with caller(mysql, *BRIEFLY) as asking:
        expected = {sessions.sleeping(1)[0]: "killed"}
        expected |= dict.fromkeys(sessions.active(1), "changed") | {
            sessions.replication(): "changed"
        }
        expected |= dict.fromkeys(
            sessions.provider(1) + sessions.sleeping(1, user=USER, database=""), "refused"
        )
        expected |= dict.fromkeys(sessions.in_transaction(1), "refused")
        if mysql.flavour == "mysql" and has_performance_schema(mysql):
            expected |= dict.fromkeys(sessions.begun(1), "refused")
        time.sleep(LIMIT + 0.25)
        fresh = sessions.sleeping(1)
        for trick in TRICKS:
            asking.run(trick)
        assert {client: asking.kill(client) for client in fresh} == dict.fromkeys(fresh, "refused")
        # Those to be killed last: a session more or less must make no difference to the others.
        assert {client: asking.kill(client) for client in reversed(expected)} == expected
        spared = [client for client, answer in expected.items() if answer != "killed"]
        assert all(client.alive() for client in [*spared, *fresh] if client.user != "replicator")
        assert [client.alive() for client in expected if client not in spared] == [False]
        assert asking.kill(spared[0], id=2**31) == "gone"


def test_it_kills_nobody_but_whom_was_meant(mysql: Server, sessions: Sessions) -> None:
    """Id, user, host and sleep must all be as the caller says; the case of a name and a port count,
    too.
    """
    (client,) = sessions.sleeping(1)
    with caller(mysql, *BY_PROCEDURE) as asking:
        settle(mysql)
        wrong: list[dict[str, Any]] = [
            {"user": other} for other in ("other", "APP", "app ", "", None)
        ]
        wrong += [{"host": other} for other in ("127.0.0.2:1", "%", "", None)]
        wrong += [{"time": 3600}, {"statement": 2**62}, {"statement": 0}]
        # Shows no port to a role, but counts statements for the whole server
        if mysql.flavour == "mariadb":
            wrong.append({"statement": None})
        else:
            wrong.append({"host": "127.0.0.1:1"})
        assert [asking.kill(client, **lie) for lie in wrong] == ["changed"] * len(wrong)
        assert client.alive()
        settle(mysql)
        assert asking.kill(client, time=0) == "killed"
    assert not client.alive()


HOSTILE = (
    "app'; DROP TABLE shop.items; -- ",
    "' OR '1'='1",
    "\\' OR 1=1 -- ",
    "app\0",
    'app`"%_',
    "x" * 300,
)


def test_arguments_are_compared_and_never_run(mysql: Server, sessions: Sessions) -> None:
    """What a caller puts into a name, a number or the statement itself is data: nobody dies,
    nothing is lost.
    """
    (client,) = sessions.sleeping(1)
    with caller(mysql, *BY_PROCEDURE) as asking:
        for text in HOSTILE:
            for name in ("id", "user", "host", "time", "statement"):
                assert answer(asking, client, **{name: text}) != "killed"
        assert client.alive()
    assert mysql.query("SELECT COUNT(*) FROM shop.items WHERE id = 1") == [(1,)]


def answer(asking: Caller, client: Client, **said: Any) -> str:
    """What is said to it, be that an error of the server's."""
    try:
        return asking.kill(client, **said)
    except asking._server.kind.errors as error:
        return str(error)


@pytest.mark.parametrize("name", ["o'br\"ien\\", "`; KILL 1; --", "näme\n%s"])
def test_hostile_names_are_killed_like_others(mysql: Server, sessions: Sessions, name: str) -> None:
    """A user who is called like a piece of SQL is named to the procedure as he is called, and dies
    alone.
    """
    account = f"{quoted(name)}@'%'"
    mysql.query(f"CREATE USER {account} IDENTIFIED BY {quoted(mysql.password)}")
    try:
        clients = sessions.sleeping(1, user=name, database="") + sessions.sleeping(1)
        settle(mysql)
        with granted(mysql, *BY_PROCEDURE), engine_server(mysql, USER) as engine:
            (victim, _) = seen(engine, "mysql", clients)
            assert (victim.user, terminate(engine, [victim])) == (name, {victim: Outcome.SIGNALLED})
        assert [client.alive() for client in clients] == [False, True]
    finally:
        mysql.query(f"DROP USER {account}")


def quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def test_terminate_tells_what_became_of_each(mysql: Server, sessions: Sessions) -> None:
    """Who has not changed is signalled; who woke, or is not the session that was judged, has
    changed; who went is gone: each answered for itself, however many share a packet.
    """
    with granted(mysql, *BY_PROCEDURE), engine_server(mysql, USER) as engine:
        asleep, woken, went = sessions.sleeping(3), sessions.sleeping(2), sessions.sleeping(1)
        settle(mysql)
        # Whole seconds on some: a new sleep must differ from the old one by more than one
        settle(mysql)
        victims = seen(engine, "mysql", [*went, *asleep, *woken])
        others = [victims[1]._replace(mark=mark) for mark in not_quite(victims[1])]
        for client in woken:
            client.run("SELECT 1")
        went[0].close()
        while engine.still_present(victims[:1]):
            settle(mysql)
        assert engine.terminate(others[:1]).outcomes == {victims[1].id: Outcome.CHANGED}
        for other in others:
            assert terminate(engine, [other]) == {other: Outcome.CHANGED}
        expected = [Outcome.GONE] + [Outcome.SIGNALLED] * 3 + [Outcome.CHANGED] * 2
        assert list(engine.terminate(victims).outcomes.values()) == expected
    assert [client.alive() for client in asleep + woken] == [False] * 3 + [True] * 2


def test_a_wave_right_after_another_was_verified_is_terminated(
    mysql: Server, sessions: Sessions
) -> None:
    """That the last victims are gone is seen in innodb_trx, which the server then renews for
    nobody, for a moment.
    """
    clients = sessions.sleeping(2)
    with granted(mysql, *BY_PROCEDURE), engine_server(mysql, USER) as engine:
        settle(mysql)
        first, then = seen(engine, "mysql", clients)
        assert terminate(engine, [first]) == {first: Outcome.SIGNALLED}
        settle(mysql)
        # The list that the look read is no longer the one that the next reader finds
        time.sleep(0.2)
        assert not engine.still_present([first])
        assert terminate(engine, [then]) == {then: Outcome.SIGNALLED}


def not_quite(session: Session) -> list[Mark]:
    """Marks of sessions that share this one's id."""
    assert session.mark is not None
    user, host, statement = session.mark.key
    found = [
        session.mark._replace(key=key)
        for key in ((f"{user}x", host, statement), (user, f"1{host}", statement))
    ]
    if statement is not None:
        found.append(session.mark._replace(key=(user, host, int(str(statement)) + 1)))
    if session.mark.since:
        found.append(session.mark._replace(since=session.mark.since - 3600))
    return found


def test_a_sweep_with_a_lower_threshold_is_refused(mysql: Server, sessions: Sessions) -> None:
    """Where the rules ask for sessions that slept for less than 30 s the procedure refuses, and the
    error says why.
    """
    clients = sessions.sleeping(4)
    with granted(mysql, "--kill-if-idle"):
        settle(mysql)
        report = sweep(mysql, USER, idle_seconds=0, allow_users=["app"]).run()
    assert report.method == "kill_if_idle"
    assert set(report.outcomes) == {Outcome.REFUSED}
    assert report.error is not None
    assert report.error.kind is ErrorKind.RIGHTS
    assert (
        "reaper.kill_if_idle, where installed, refuses sessions idle for too short"
        in report.error.message
    )
    assert all(client.alive() for client in clients)


def test_its_rights_are_nobodys(mysql: Server, sessions: Sessions) -> None:
    """The account cannot kill by itself, nor by rds_kill; nobody can log in as the role that
    can.
    """
    (client,) = sessions.sleeping(1)
    with caller(mysql, *BY_PROCEDURE) as asking:
        for statement in (
            f"KILL {client.id}",
            f"CALL mysql.rds_kill({client.id})",
            f"KILL QUERY {client.id}",
        ):
            with pytest.raises(mysql.kind.errors, match=r"not owner|denied"):
                asking.run(statement)
        assert client.alive()
        with pytest.raises(mysql.kind.errors, match=r"Access denied|locked"):
            mysql.connect(ROLE, "")


SWAPS = """
ALTER PROCEDURE reaper.kill_if_idle SQL SECURITY INVOKER
DROP PROCEDURE reaper.kill_if_idle
CREATE PROCEDURE reaper.kill_if_idle() SELECT 1
CREATE DEFINER = reaper_killer PROCEDURE reaper.mine() KILL 1
CREATE DEFINER = reaper_killer PROCEDURE shop.mine() KILL 1
CREATE DEFINER = reaper_killer VIEW shop.mine AS SELECT * FROM information_schema.processlist
CREATE DEFINER = reaper_killer EVENT shop.mine ON SCHEDULE EVERY 1 SECOND DO KILL 1
SET ROLE reaper_killer
GRANT reaper_killer TO CURRENT_USER()
GRANT EXECUTE ON PROCEDURE reaper.kill_if_idle TO app
""".strip().splitlines()


def test_neither_it_nor_its_role_can_be_swapped(mysql: Server) -> None:
    """Neither the account, nor an application's that owns a schema of its own and may make what it
    likes there, can change the procedure, whose rights it has, or make another one with the role's;
    the role is nobody's.
    """
    owner = "schema_owner"
    with caller(mysql, *BY_PROCEDURE) as asking:
        mysql.query(f"CREATE USER {owner} IDENTIFIED BY {quoted(mysql.password)}")
        try:
            mysql.query(f"GRANT ALL ON shop.* TO {owner}")
            with closing(mysql.connect(owner, "shop")) as connection:
                before = definition(mysql)
                for run in (asking.run, mysql.kind.client(connection, owner).run):
                    for swap in SWAPS:
                        with pytest.raises(mysql.kind.errors, match=DENIED):
                            run(swap)
                assert definition(mysql) == before
                with pytest.raises(mysql.kind.errors, match=DENIED):
                    mysql.kind.client(connection, owner).run(
                        "CALL reaper.kill_if_idle(1, '', '', 0, NULL)"
                    )
        finally:
            mysql.query(f"DROP USER {owner}")
        security, definer, access, *_ = before
        assert (security, definer.partition("@")[0], access) == ("DEFINER", ROLE, "READS SQL DATA")
        assert members(mysql) <= {mysql.root}


def definition(server: Server) -> tuple[str, ...]:
    """Whose rights it has, and what it does."""
    columns = "SECURITY_TYPE, DEFINER, SQL_DATA_ACCESS, ROUTINE_DEFINITION, SQL_MODE"
    sql = f"SELECT {columns} FROM information_schema.routines WHERE ROUTINE_SCHEMA = 'reaper'"
    (row,) = server.query(sql)
    return row


def members(server: Server) -> set[str]:
    """Who has the role. On MariaDB whoever makes a role may give it away."""
    sql = "SELECT TO_USER FROM mysql.role_edges WHERE FROM_USER"
    if server.flavour == "mariadb":
        sql = "SELECT User FROM mysql.roles_mapping WHERE Role"
    return {row[0] for row in server.query(f"{sql} = '{ROLE}'")}


def test_whoever_keeps_innodb_trx_from_being_renewed_hides_nobody(
    mysql: Server, sessions: Sessions
) -> None:
    """A caller who reads innodb_trx without pause, so that the server never renews it, still cannot
    have somebody ended who is in a transaction: a transaction of the reaper's own tells how old the
    list is, or performance_schema tells of them.
    """
    with caller(mysql, *BY_PROCEDURE) as asking, closing(mysql.connect(USER, "")) as reading:
        over = threading.Event()
        read = mysql.kind.client(reading, USER).run

        def keep_reading() -> None:
            while not over.wait(0.01):
                read("SELECT COUNT(*) FROM information_schema.innodb_trx")

        def is_hidden_all_the_time() -> bool:
            """Whether a transaction stayed unlisted to the end.

            On a busy machine the reader may be too slow for it.
            """
            (client,) = sessions.in_transaction(1)
            settle(mysql)
            said, swept = asking.kill(client), sweep(mysql, idle_seconds=0).run()
            assert (said, swept.victims, client.alive()) == ("refused", (), True)
            sql = (
                f"SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_mysql_thread_id = "
                f"{client.id}"
            )
            if mysql.query(sql) != [(0,)]:
                return False
            assert ("transactions_stale" in swept.warnings) is not has_performance_schema(mysql)
            return True

        reader = threading.Thread(target=keep_reading)
        reader.start()
        try:
            settle(mysql)
            assert until(is_hidden_all_the_time)
        finally:
            over.set()
            reader.join()


def test_no_procedure_with_the_callers_rights_is_used(mysql: Server, sessions: Sessions) -> None:
    """Whoever may create a procedure of that name cannot have the reaper run his statements with
    its own rights.
    """
    sessions.sleeping(1)
    with granted(mysql):
        mysql.query("CREATE DATABASE reaper")
        mysql.query("CREATE PROCEDURE reaper.kill_if_idle() SQL SECURITY INVOKER SELECT 'trap'")
        mysql.query(f"GRANT EXECUTE ON PROCEDURE reaper.kill_if_idle TO {USER}@'%'")
        settle(mysql)
        assert sweep(mysql, USER, idle_seconds=0, dry_run=True).run().method == "kill"


def test_nobody_awake_is_killed(
    mysql: Server, sessions: Sessions, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sessions that sleep and work without pause, while a caller names everybody he sees without
    pause: whoever sleeps for less than the limit is never killed.
    """
    workers = [Worker(sessions, 0.0, 0.4, random.Random(seed)) for seed in range(6)]
    crossing = [
        Worker(sessions, LIMIT - 0.3, LIMIT + 0.7, random.Random(100 + seed)) for seed in range(6)
    ]
    calls: list[Outcome] = []
    with granted(mysql, *BRIEFLY), engine_server(mysql, USER) as engine:
        until = time.monotonic() + SECONDS
        threads = [
            threading.Thread(target=worker.work, args=(until,)) for worker in workers + crossing
        ]
        for thread in threads:
            thread.start()
        while time.monotonic() < until:
            calls += engine.terminate(everybody(engine)).outcomes.values()
        for thread in threads:
            thread.join()
    # What a worker calls wrong is a sleep shorter than that
    assert THRESHOLD < LIMIT
    assert [wrong for worker in workers + crossing for wrong in worker.wrongly] == []
    assert sum(worker.while_idle + worker.after_begin for worker in workers) == 0
    killed = calls.count(Outcome.SIGNALLED)
    assert killed > 0
    while_idle, after = sum(w.while_idle for w in crossing), sum(w.after_begin for w in crossing)
    with capsys.disabled():
        print(
            f" {mysql.name}: {len(calls)} calls, {killed} killed: {while_idle} idle, {after} had "
            f"begun"
        )


def everybody(engine: Any) -> Sequence[Session]:
    """All who look asleep, however briefly."""
    look = engine.look()
    marks = {row["Id"]: row["_mark"] for row in look.rows if row["User"] == "app"}
    return [Session(id_, mark=mark) for id_, mark in marks.items() if mark is not None]
