"""The stage of the demo: a throwaway server with few slots, its own numbers, and the reaper beside
it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from examples.demo.invocation import Invocation, invoke
from examples.demo.record import Record
from examples.demo.workers import Environment, check
from lab.frozen import arguments
from lab.servers import Server, until

BUSY = 4
BETWEEN_LOOKS = 0.25


@dataclass(frozen=True)
class Play:
    """What differs between the engines.

    `book` is the workers' statement: it takes a moment and tells its session.

    `count` asks for the slots that applications have; the session of an earlier count does not
    occupy one of them. A worker sleeps for a millisecond between two statements, which does not
    count as idle.
    """

    title: str
    server: str
    settings: Mapping[str, str]
    grant: str | None
    driver: str
    book: str
    count: str
    refusals: tuple[str, ...]
    version: str
    way_in: str
    refusal_note: str = ""
    missing_note: str = ""


PLAYS = {
    "postgres": Play(
        title="PostgreSQL",
        server="postgres18",
        settings={
            "max_connections": "20",
            "superuser_reserved_connections": "3",
            "reserved_connections": "1",
        },
        grant="GRANT pg_use_reserved_connections TO reaper",
        driver="psycopg",
        book="INSERT INTO orders SELECT '{name}' FROM pg_sleep(0.05) RETURNING pg_backend_pid()",
        count="""
            SELECT current_setting('max_connections')::int
                     - current_setting('superuser_reserved_connections')::int
                     - current_setting('reserved_connections')::int,
                   count(*),
                   count(*) FILTER (
                     WHERE state = 'idle' AND clock_timestamp() - state_change > '50 ms')
            FROM pg_stat_activity WHERE usename = 'app'""",
        refusals=("too many clients", "remaining connection slots are reserved"),
        version="SHOW server_version",
        way_in="Of its 20 connections 3 are reserved for superusers and 1 for the reaper "
        "(reserved_connections, PostgreSQL 16 or later), or it could not get in when all is taken.",
        refusal_note="(PostgreSQL's words for too many clients while the last slots are reserved.)",
    ),
    "mysql": Play(
        title="MariaDB",
        server="mariadb",
        settings={"max_connections": "16"},
        grant=None,
        driver="pymysql",
        book="INSERT INTO orders SELECT IF(SLEEP(0.05), '', '{name}') RETURNING CONNECTION_ID()",
        count="""
            SELECT @@max_connections, count(*),
                   count(IF(COMMAND = 'Sleep' AND TIME_MS > 50, 1, NULL))
            FROM information_schema.processlist WHERE USER = 'app'""",
        refusals=("Too many connections",),
        version="SELECT VERSION()",
        way_in="The server keeps one more for accounts with CONNECTION ADMIN; the reaper has that "
        "right, "
        "or it could not get in when all is taken.",
        missing_note=" (Debian and Ubuntu: apt install mariadb-server-core)",
    ),
}


class Slots(NamedTuple):
    """What applications may use, what they have taken, and how much of that is idle, in the
    server's own numbers.
    """

    usable: int
    taken: int
    idle: int

    def __str__(self) -> str:
        return f"{self.taken} of {self.usable} taken"


@dataclass(frozen=True)
class Cast:
    """Who plays: environments that stay busy, environments that will be frozen, and one that comes
    late.
    """

    busy: list[Environment]
    frozen: list[Environment]
    newcomer: Environment


class Stage:
    """One server, and everything the demo asks of it."""

    def __init__(self, play: Play, server: Server) -> None:
        self.play = play
        self.server = server
        self.name = f"{play.title} {server.query(play.version)[0][0].partition('-')[0]}"
        self._run("CREATE TABLE orders (booked_by varchar(40))")
        if play.grant:
            self.server.query(play.grant)
        self.record = Record(self.name, self._count().usable)

    def cast(self, slots: int, stack: ExitStack) -> Cast:
        """One environment for each slot and one more; all start in the background and end with the
        stack.
        """

        def environment(name: str) -> Environment:
            made = self._environment(name)
            stack.callback(made.close)
            return made

        return Cast(
            busy=[environment(f"checkout-{n}") for n in range(1, BUSY + 1)],
            frozen=[
                environment(f"{('search', 'invoices')[n % 2]}-{n // 2 + 1}")
                for n in range(slots - BUSY)
            ],
            newcomer=environment(f"checkout-{BUSY + 1}"),
        )

    def _environment(self, name: str) -> Environment:
        connect = arguments(self.server.dsn("app"), name.rpartition("-")[0])
        statement = self.play.book.format(name=name)
        return Environment(
            name, {"driver": self.play.driver, "connect": connect, "statement": statement}
        )

    def slots(self) -> Slots:
        """Ask the server, and keep its answer for the picture."""
        found = self._count()
        self.record.sample(found.taken, found.idle)
        return found

    def watch(self, seconds: float) -> None:
        """Let time pass, and look at the slots every quarter of a second."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, BETWEEN_LOOKS))
            self.slots()

    def _count(self) -> Slots:
        """Count the slots, with patience: a full MariaDB has one spare slot for this, and the
        previous look's session may still hold it.
        """
        found: list[tuple[Any, ...]] = []

        def look() -> list[tuple[Any, ...]]:
            with suppress(*self.server.kind.errors):
                found.extend(self.server.query(self.play.count))
            return found

        check(
            until(look, timeout=5), "the server does not let the demo in to count its connections"
        )
        return Slots(*map(int, found[0]))

    def orders(self) -> dict[str, int]:
        """How many orders the database has of each environment."""
        rows = self._run("SELECT booked_by, count(*) FROM orders GROUP BY booked_by")
        return {name: int(count) for name, count in rows}

    def reap(self, event: Mapping[str, Any], settings: Mapping[str, str]) -> Invocation:
        """Invoke the reaper's handler with this server as its one target."""
        server = self.server
        target = {
            "name": "shop",
            "engine": server.engine,
            "host": server.host,
            "port": server.port,
            "user": "reaper",
        }
        done = invoke(
            event, {"REAPER_TARGETS": json.dumps([target]), "REAPER_STACK": "demo", **settings}
        )
        self.record.swept(done.measures)
        return done

    def _run(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(self.server.connect("app")) as connection:
            return self.server.kind.client(connection, "app").run(sql)
