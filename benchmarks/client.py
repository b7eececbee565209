"""A warm query through the client, against the driver alone on the same server in the same seconds."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

from psycopg.rows import dict_row
from pymysql.cursors import DictCursor

from reaper.client import Database
from tests.servers import Server, Unavailable, start

ROUNDS, QUERIES = 101, 100
BAR = 1.05
SERVERS = ("postgres16", "postgres18", "mariadb", "mysql")
QUERY, PARAMS = "SELECT id, value FROM items WHERE id = %s", (7,)


def alone(server: Server) -> Callable[[], Any]:
    """The same query as a careful application would send it itself: one connection, dicts, a read timeout."""
    connection = server.connect("app")
    if server.engine == "postgres":
        connection.row_factory = dict_row
        connection.prepare_threshold = None
        return lambda: connection.execute(QUERY, PARAMS).fetchall()

    def query() -> Any:
        with connection.cursor(DictCursor) as cursor:
            cursor.execute(QUERY, PARAMS)
            return cursor.fetchall()

    return query


def microseconds(query: Callable[[], Any]) -> float:
    began = time.perf_counter()
    for _ in range(QUERIES):
        query()
    return (time.perf_counter() - began) / QUERIES * 1e6


def measure(server: Server) -> str:
    """The median of the rounds' ratios: within a round both have the same machine."""
    driver = alone(server)
    with closing(Database(server.dsn("app"))) as db:

        def ours() -> Any:
            return db.query(QUERY, PARAMS)

        if driver() != ours():
            raise SystemExit("the two do not ask the same")
        microseconds(driver), microseconds(ours)
        rounds = [(microseconds(driver), microseconds(ours)) for _ in range(ROUNDS)]
    ratios = sorted(theirs_and_ours[1] / theirs_and_ours[0] for theirs_and_ours in rounds)
    ratio, low, high = statistics.median(ratios), ratios[ROUNDS // 4], ratios[-ROUNDS // 4]
    drivers, clients = (statistics.median(column) for column in zip(*rounds, strict=True))
    verdict = "within" if ratio <= BAR else "OVER"
    return (
        f"{server.name:12} {ratio:5.3f} (middle half {low:.3f} to {high:.3f})"
        f"   driver {drivers:6.1f} µs   client {clients:6.1f} µs   {verdict} {BAR}"
    )


def main() -> None:
    print(f"a warm query by primary key, {QUERIES} in a row, median of {ROUNDS} rounds, client / driver")
    for name in sys.argv[1:] or SERVERS:
        try:
            with start(name) as server:
                print(measure(server))
        except Unavailable as missing:
            print(f"{name:12} left out: {missing}")


if __name__ == "__main__":
    main()
