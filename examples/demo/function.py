"""A function as many people write one, and the loop that plays one Lambda environment for it.

A script of its own.

The first invocation connects; the connection is kept for the next one. That is what a freeze leaves
open.
"""

from __future__ import annotations

import importlib
import json
import select
from collections.abc import Callable
from typing import Any


class Function:
    def __init__(self, driver: str, connect: dict[str, Any], statement: str) -> None:
        self.driver: Any = importlib.import_module(driver)
        self.arguments = connect
        self.statement = statement
        self.connection: Any = None

    def invoke(self) -> int:
        """Book one order; return the session that did it."""
        try:
            if self.connection is None:
                self.connection = self.driver.connect(**self.arguments)
            cursor = self.connection.cursor()
            cursor.execute(self.statement)
            return int(cursor.fetchone()[0])
        except self.driver.Error:
            self.connection = None
            raise

    def work_until(self, done: Callable[[], bool]) -> dict[str, Any]:
        """Book at least one order, and more until done; return what became of them."""
        sessions: set[int] = set()
        orders, error = 0, None
        try:
            while not orders or not done():
                sessions.add(self.invoke())
                orders += 1
        except self.driver.Error as problem:
            error = str(problem).partition("\n")[0]
        return {"sessions": sorted(sessions), "orders": orders, "error": error}


def main() -> None:
    lines = open(0, "rb", buffering=0)  # noqa: SIM115  unbuffered, so that select sees each line not yet read
    function = Function(**json.loads(lines.readline()))
    ends = {
        b"invoke\n": lambda: True,
        b"work\n": lambda: bool(select.select([lines], [], [], 0)[0]),
    }
    for line in lines:
        if line in ends:
            print(json.dumps(function.work_until(ends[line])), flush=True)


if __name__ == "__main__":
    main()
