"""Sweeps of servers whose own defaults differ: the reaper brings its session settings, and believes
of performance_schema only what it sees itself in.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lab.servers import Server, Sessions
from reaper.model import Outcome, SweepWarning
from tests.conftest import Servers
from tests.harness import settle, sweep

RULES: dict[str, Any] = {"idle_seconds": 0, "allow_users": ["app"]}


@contextmanager
def defaults(server: Server, **settings: str) -> Iterator[None]:
    """A MySQL or MariaDB on which new sessions begin with these settings, as SQL literals."""
    before = {name: server.query(f"SELECT @@GLOBAL.{name}")[0][0] for name in settings}
    for name, value in settings.items():
        server.query(f"SET GLOBAL {name} = {value}")
    try:
        yield
    finally:
        for name, value in before.items():
            literal = value if isinstance(value, int) else f"'{value}'"
            server.query(f"SET GLOBAL {name} = {literal}")


@pytest.mark.own_server
@pytest.mark.parametrize(
    "settings",
    [
        {"sql_select_limit": "2"},
        {"sql_mode": "'ANSI,NO_BACKSLASH_ESCAPES'"},
        {"completion_type": "2"},
        {"completion_type": "1"},
        {"autocommit": "0"},
        {"init_connect": "'SET sql_mode=ANSI_QUOTES, sql_select_limit=1'"},
    ],
    ids=["few rows", "ANSI", "released", "chained", "autocommit off", "init_connect"],
)
def test_transactions_are_seen_whatever_the_servers_defaults(
    mysql: Server, sessions: Sessions, settings: dict[str, str]
) -> None:
    """Nobody in a transaction is taken for idle, and whoever is idle goes."""
    sessions.in_transaction(4)
    sleepers = sessions.sleeping(3)
    settle(mysql)
    with defaults(mysql, **settings):
        report = sweep(mysql, **RULES).run()
    assert report.error is None
    assert report.outcomes == {Outcome.TERMINATED: 3}
    assert {victim.session.id for victim in report.victims} == {each.id for each in sleepers}


@pytest.mark.own_server
def test_locks_that_their_instrument_does_not_show(servers: Servers) -> None:
    """Without the instrument holders of named locks cannot be seen, which the report says."""
    mysql = servers["mysql"]
    instrument = "WHERE NAME = 'wait/lock/metadata/sql/mdl'"
    update = "UPDATE performance_schema.setup_instruments SET ENABLED = '{}' " + instrument
    mysql.query(update.format("NO"))
    try:
        report = sweep(mysql, dry_run=True, **RULES).run()
    finally:
        mysql.query(update.format("YES"))
    assert SweepWarning.NAMED_LOCKS_UNSEEN in report.warnings
    assert SweepWarning.NAMED_LOCKS_UNSEEN not in sweep(mysql, dry_run=True, **RULES).run().warnings


@pytest.mark.own_server
def test_a_databases_own_defaults(postgres: Server, sessions: Sessions) -> None:
    """Neither a role nor digits that a database's owner sets for those who log in to it count."""
    sleepers = sessions.sleeping(2)
    settings = ("extra_float_digits = -15", "role = 'blind'", "lock_timeout = '1ms'")
    for setting in settings:
        postgres.query(f"ALTER DATABASE shop SET {setting}")
    try:
        report = sweep(postgres, **RULES).run()
    finally:
        postgres.query("ALTER DATABASE shop RESET ALL")
    assert report.error is None
    assert {victim.session.id for victim in report.victims} >= {each.id for each in sleepers}
    assert report.outcomes[Outcome.TERMINATED] >= 2
