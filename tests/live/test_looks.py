"""What a look finds on servers that are set up as only some are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest

from lab.servers import Server, Unavailable, start
from reaper.engines.mysql.locks import GET_LOCKS
from tests.conftest import Servers
from tests.harness import settle, sweep


def _started(name: str, **settings: str) -> Server:
    try:
        return start(name, settings=settings)
    except Unavailable as problem:
        pytest.skip(str(problem))


@pytest.fixture(scope="module")
def myrocks() -> Iterator[Server]:
    """A MariaDB with the MyRocks engine and a table in it."""
    # Debian's package mariadb-plugin-rocksdb; MariaDB goes on without a plugin that is missing
    with _started("mariadb", plugin_load_add="ha_rocksdb") as server:
        if not server.query("SELECT 1 FROM information_schema.engines WHERE engine = 'ROCKSDB'"):
            pytest.skip("MariaDB's MyRocks is not installed")
        server.query("CREATE TABLE shop.pebbles (id INT PRIMARY KEY) ENGINE = ROCKSDB")
        yield server


@pytest.mark.parametrize("in_transaction", ["spare", "terminate"])
def test_a_transaction_of_myrocks_is_one(myrocks: Server, in_transaction: str) -> None:
    """InnoDB does not list it, and its rows would be lost all the same. Without its age it goes by
    no rule.
    """
    everybody: dict[str, Any] = {
        "idle_seconds": 0,
        "in_transaction_seconds": 0,
        "in_transaction": in_transaction,
        "allow_users": ["app"],
    }
    with closing(myrocks.connect("app")) as writer, closing(myrocks.connect("app")) as idle:
        with writer.cursor() as cursor:
            cursor.execute("START TRANSACTION")
            cursor.execute("INSERT INTO pebbles VALUES (1)")
        settle(myrocks, sees_fractions=False)
        report = sweep(myrocks, **everybody).run()
        ended = {victim.session.id for victim in report.victims}
        assert ended == {idle.thread_id()}
        writer.rollback()


@pytest.mark.parametrize(
    ("settings", "reserved"),
    [
        ({}, 3),
        ({"rds.rds_superuser_reserved_connections": "2"}, 3 + 2),
        ({"rds.rds_reserved_connections": "4"}, 3 + 4),
        (
            {"rds.rds_reserved_connections": "4", "rds.rds_superuser_reserved_connections": "2"},
            3 + 4,
        ),
    ],
)
def test_rds_reserves_slots_under_either_name(settings: dict[str, str], reserved: int) -> None:
    """The newer name stands for the older; only what is left can be used by an ordinary client."""
    with _started("postgres16", max_connections="50", **settings) as server:
        report = sweep(server, dry_run=True).run()
        assert report.snapshot is not None
        assert report.snapshot.usable == 50 - reserved


def test_the_session_of_a_dropped_role_is_ended() -> None:
    """It holds its slot for as long as its client sleeps; the reaper's account may end it."""
    with _started("postgres16") as server:
        server.query("CREATE ROLE leased LOGIN")
        with closing(server.connect("leased")) as client:
            server.query("DROP ROLE leased")
            report = sweep(server, idle_seconds=0, protect_users=[]).run()
            (victim,) = (v for v in report.victims if v.session.user is None)
            assert victim.outcome == "terminated"
            with pytest.raises(psycopg.errors.AdminShutdown):
                client.execute("SELECT 1")


def test_many_locks_of_one_session_are_few_rows(servers: Servers) -> None:
    """Whoever takes thousands of named locks makes no look long, and no name of one is read."""
    server = servers["mysql"]
    with closing(server.connect("app")) as holder, closing(server.connect("reaper", "")) as ours:
        with holder.cursor() as cursor:
            cursor.execute(
                "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 900) "
                "SELECT SUM(GET_LOCK(CONCAT('secret ', i), 0)) FROM n"
            )
            assert cursor.fetchall()[0][0] == 900
        with ours.cursor() as cursor:
            cursor.execute(GET_LOCKS)
            rows = [row for row in cursor.fetchall() if holder.thread_id() in row]
        assert rows == [(holder.thread_id(), 1)]
        settle(server)
        report = sweep(server, dry_run=True, idle_seconds=0).run()
        verdicts = {verdict.session.id: verdict.reason for verdict in report.verdicts}
        assert verdicts[holder.thread_id()] == "holds_lock"
