"""Clients that never give up: threads that log in, ask, leave and come again, refused or not; a
script.

Each line on standard input is answered with what came of the logins since the line before.
"""

from __future__ import annotations

import importlib
import json
import sys
import threading
import time
from collections import Counter
from typing import Any

DRIVERS = {"postgres": "psycopg", "mysql": "pymysql"}
PAUSE, STAY = 0.1, 0.03


class Storm:
    """What came of the logins: served, refused, or lost after they had been let in."""

    def __init__(self, engine: str, connect: dict[str, Any]) -> None:
        self._driver: Any = importlib.import_module(DRIVERS[engine])
        self._connect = connect
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def rage(self) -> None:
        while True:
            came = self._try()
            with self._lock:
                self._counts[came] += 1
            time.sleep(PAUSE)

    def _try(self) -> str:
        try:
            connection = self._driver.connect(**self._connect)
        except self._driver.Error:
            return "refused"
        try:
            connection.cursor().execute("SELECT 1")
            time.sleep(STAY)
            connection.cursor().execute("SELECT 1")
        except self._driver.Error:
            return "lost"
        finally:
            connection.close()
        return "served"

    def so_far(self) -> Counter[str]:
        with self._lock:
            counts, self._counts = self._counts, Counter()
        return counts


def main() -> None:
    order = json.loads(sys.stdin.readline())
    storm = Storm(order["engine"], order["connect"])
    for _ in range(order["clients"]):
        threading.Thread(target=storm.rage, daemon=True).start()
    for _ in sys.stdin:
        print(json.dumps(storm.so_far()), flush=True)


if __name__ == "__main__":
    main()
