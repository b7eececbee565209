"""The script behind `Frozen`: it reads one order from standard input, then statements, and answers
in JSON lines.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

DRIVERS = {"postgres": "psycopg", "mysql": "pymysql"}


def main() -> None:
    order = json.loads(sys.stdin.readline())
    driver: Any = importlib.import_module(DRIVERS[order["engine"]])
    connections = [driver.connect(**order["connect"]) for _ in range(order["connections"])]
    for connection in connections:
        connection.cursor().execute(order["statement"])
    answer([session_id(connection) for connection in connections])
    for line in sys.stdin:
        answer([outcome(driver, connection, json.loads(line)) for connection in connections])


def session_id(connection: Any) -> int:
    return int(
        connection.info.backend_pid if hasattr(connection, "info") else connection.thread_id()
    )


def outcome(driver: Any, connection: Any, sql: str) -> str:
    try:
        connection.cursor().execute(sql)
    except driver.Error as error:
        return f"{type(error).__name__}: {error}"
    return "ok"


def answer(message: object) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    main()
