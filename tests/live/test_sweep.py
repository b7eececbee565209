"""A sweep terminates whom the rules condemn, all of them and nobody else."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Any

import psycopg
import pytest

from lab.servers import Client, Server, Sessions
from lab.targets import target
from reaper.model import Outcome, Reason
from reaper.sweep import SECOND_LOOK
from tests.conftest import Servers
from tests.harness import Lambda, settle, sweep


def lock_holders(sessions: Sessions, n: int) -> list[Client]:
    """Sessions whose lock the server shows: named, advisory and table locks, or row locks where it
    hides those.
    """
    if sessions.server.name in ("mariadb", "mysql_nops"):
        return sessions.in_transaction(n)
    if sessions.server.name == "mysql":
        return [*sessions.lock_holders(n - 1), *sessions.table_lock_holders(1)]
    return sessions.lock_holders(n)


def protected(sessions: Sessions) -> list[Client]:
    """One session of each built-in protected kind that can be asked afterwards whether it still
    works.
    """
    kinds = [
        *sessions.provider(1),
        *sessions.sleeping(1, user="reaper", database=sessions.server.home),
    ]
    if sessions.server.engine == "postgres":
        kinds += [*sessions.superuser(1), *sessions.listeners(1)]
    return kinds


def test_exactly_the_sleepers_go(server: Server, sessions: Sessions, function: Lambda) -> None:
    """Of 200 sleeping, 20 active, 10 in a transaction, 5 lock holders and the protected only the
    200 go.
    """
    sleeping = sessions.sleeping(200)
    spared = [
        *sessions.active(20),
        *sessions.in_transaction(10),
        *lock_holders(sessions, 5),
        *protected(sessions),
    ]
    replica = sessions.replication()
    sessions.handshakes(1)
    settle(server)

    function.configure(target(server), REAPER_DRY_RUN="false")
    answer = function.invoke({"rules": {"idle_seconds": 0}})

    (report,) = answer["targets"]
    assert report["error"] is None
    assert report["zombies"] == 200
    assert report["outcomes"] == {"terminated": 200}
    assert report["freed"] == 200
    logged = {line["id"] for line in function.logged("session")}
    assert logged == {client.id for client in sleeping}
    assert not any(client.alive() for client in sleeping)
    assert replica.id in server.states()
    sessions.release_active()
    assert [client.id for client in spared if client.run("SELECT 1") != [(1,)]] == []


def test_dry_run_names_whom_the_real_sweep_takes(server: Server, sessions: Sessions) -> None:
    """A dry run changes nothing on the server and names the same sessions, in the same order, as
    the sweep after it.
    """
    sleeping = sessions.sleeping(30)
    settle(server)
    before = server.states().keys() & {client.id for client in sleeping}

    dry = sweep(server, idle_seconds=0, dry_run=True).run()
    assert {victim.outcome for victim in dry.victims} == {Outcome.WOULD_TERMINATE}
    assert before == server.states().keys() & {client.id for client in sleeping}

    real = sweep(server, idle_seconds=0).run()
    assert [victim.session.id for victim in dry.victims] == [
        victim.session.id for victim in real.victims
    ]
    assert real.outcomes == {Outcome.TERMINATED: 30}


def test_in_transaction_goes_only_when_the_rules_say_so(server: Server, sessions: Sessions) -> None:
    """A session idle in a transaction is spared and counted; when terminated, its row is rolled
    back.
    """
    before = committed(server)
    (client,) = sessions.in_transaction(1)
    settle(server)

    spared = sweep(server, idle_seconds=0).run()
    assert spared.spared[Reason.IN_TRANSACTION] == 1
    assert client.run("SELECT 1") == [(1,)]
    settle(server)

    waiting = sweep(server, in_transaction="terminate", in_transaction_seconds=3600).run()
    assert waiting.victims == ()

    taken = sweep(server, in_transaction="terminate", in_transaction_seconds=0).run()
    assert taken.outcomes == {Outcome.TERMINATED: 1}
    assert not client.alive()
    assert committed(server) == before


def committed(server: Server) -> Any:
    with closing(server.connect("app")) as connection:
        return server.kind.client(connection, "app").run("SELECT sum(value) FROM items")


def test_a_failed_transaction_is_one(postgres: Server, sessions: Sessions) -> None:
    """Of a transaction that failed PostgreSQL does not tell when it began; it is as old as its
    session's sleep.
    """
    (client,) = sessions.begun(1)
    with pytest.raises(psycopg.Error):
        client.run("SELECT no_such_column")
    assert sweep(postgres, idle_seconds=0).run().spared[Reason.IN_TRANSACTION] == 1
    assert (
        sweep(postgres, in_transaction="terminate", in_transaction_seconds=3600).run().victims == ()
    )
    taken = sweep(postgres, in_transaction="terminate", in_transaction_seconds=0).run()
    assert taken.outcomes == {Outcome.TERMINATED: 1}


def test_a_transaction_that_did_nothing_yet_is_one(servers: Servers) -> None:
    """BEGIN alone is not in innodb_trx, but performance_schema knows of it: spared like any other
    transaction.
    """
    server = servers["mysql"]
    with Sessions(server) as sessions:
        (client,) = sessions.begun(1)
        settle(server)
        report = sweep(server, idle_seconds=0).run()
        assert report.spared[Reason.IN_TRANSACTION] == 1
        assert client.alive()


def test_a_large_rollback_is_spared(mysql: Server, sessions: Sessions) -> None:
    """A transaction that has changed more rows than max_rollback_rows is left alone."""
    (client,) = sessions.in_transaction(1, rows=20)
    settle(mysql)
    rules: dict[str, Any] = {"in_transaction": "terminate", "in_transaction_seconds": 0}
    report = sweep(mysql, max_rollback_rows=19, **rules).run()
    assert report.spared[Reason.ROLLBACK_TOO_LARGE] == 1
    assert client.alive()
    settle(mysql)
    assert sweep(mysql, max_rollback_rows=20, **rules).run().freed == 1


def test_blind_account(server: Server, sessions: Sessions, function: Lambda) -> None:
    """An account that cannot see others is blind: an error and a metric, never an empty list of
    zombies.
    """
    sessions.sleeping(3)
    function.configure(target(server, "blind"), REAPER_DRY_RUN="false")
    with pytest.raises(RuntimeError, match="blind"):
        function.invoke({"rules": {"idle_seconds": 0}})
    (line,) = function.logged("sweep")
    assert line["error"]["kind"] == "blind"
    assert line["zombies"] == 0
    assert line["sessions"]["total"] is None
    metrics = function.metrics[server.name]
    assert metrics["Blind"] == 1
    assert "Zombies" not in metrics
    assert "SessionsIdle" not in metrics


HOSTILE: dict[str, Any] = {
    "idle_seconds": 0,
    "allow_users": ["*"],
    "allow_hosts": ["*"],
    "protect_users": [],
    "in_transaction": "spare",
    "only_under_pressure": False,
    "min_idle_per_user": 0,
}


def test_rules_cannot_reach_the_built_in_protections(server: Server, sessions: Sessions) -> None:
    """Rules that name every protected account do not make one of them a victim."""
    spared = [*protected(sessions), *lock_holders(sessions, 1)]
    sessions.replication()
    settle(server)
    users = sorted({client.user for client in spared})
    for rules in (HOSTILE, HOSTILE | {"allow_users": users}):
        report = sweep(server, **rules).run()
        assert report.victims == ()
        assert report.error is None
    assert all(client.alive() for client in spared)


def test_superusers_neither_die_nor_abort(postgres: Server, sessions: Sessions) -> None:
    """A superuser's idle session among the victims' neighbours neither dies nor aborts the
    sweep.
    """
    first, (boss,), last = sessions.sleeping(3), sessions.superuser(1), sessions.sleeping(3)
    report = sweep(postgres, idle_seconds=0).run()
    assert report.outcomes == {Outcome.TERMINATED: 6}
    assert report.spared[Reason.SUPERUSER] >= 1
    assert boss.alive()
    assert not any(client.alive() for client in first + last)


def test_a_long_statement_is_no_idleness(server: Server, sessions: Sessions) -> None:
    """A session whose last statement took longer than the threshold and ended a moment ago is
    spared.
    """
    (client,) = sessions.sleeping(1)
    client.run("SELECT pg_sleep(2.5)" if server.engine == "postgres" else "SELECT SLEEP(2.5)")
    report = sweep(server, trigger="schedule", idle_seconds=2).run()
    assert report.victims == ()
    assert client.alive()


def test_unconfirmed_idleness_is_spared_until_a_second_sweep(
    mysql: Server, sessions: Sessions
) -> None:
    """Where the true idle time cannot be read, a scheduled sweep takes only whom the one before saw
    asleep already.
    """
    sessions.sleeping(2)
    settle(mysql)
    first = sweep(mysql, trigger="schedule", idle_seconds=0)
    report = first.run()
    if mysql.name != "mysql_nops":
        assert report.outcomes == {Outcome.TERMINATED: 2}
        return
    assert report.spared[Reason.UNCONFIRMED] == 2
    assert "idle_upper_bound" in report.warnings
    time.sleep(SECOND_LOOK)
    assert first.run().outcomes == {Outcome.TERMINATED: 2}
