"""Many Lambda environments with the retry client: processes forked from one warm parent, each
frozen after its login.

It prints a line when all are. The next line on standard input thaws them at once: each makes one
write and tells how that went. The end of the input ends them all.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass

from reaper.client import Database
from reaper.client.drivers import driver_for


@dataclass
class Environment:
    """One process, and what it says in a single line."""

    pid: int
    says: int

    def frozen(self) -> str:
        """Wait until it has stopped, or say what made it end instead."""
        seen = os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        return "frozen" if seen and seen.si_code == os.CLD_STOPPED else self.answer()

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def answer(self) -> str:
        with open(self.says) as line:
            return line.readline()

    def end(self) -> None:
        # Of one that has ended the id is still its own, until the next line
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def forked(work: Callable[[], str]) -> Environment:
    says, tell = os.pipe()
    if pid := os.fork():
        os.close(tell)
        return Environment(pid, says)
    try:
        os.write(tell, work().encode())
    finally:
        os._exit(0)


def environment(dsn: str, limit: str) -> str:
    """Log in and set the server's limit, freeze, and write: how that went."""
    db = Database(dsn)
    try:
        db.execute(limit)
        os.kill(os.getpid(), signal.SIGSTOP)
        db.execute("INSERT INTO orders (what) VALUES ('once')")
        return json.dumps(dict(db.stats.counts))
    except Exception as error:  # noqa: BLE001  the test is told whatever it is
        return json.dumps(str(error))


def main() -> None:
    dsn, limit, count = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    # Loaded once for all
    driver_for(Database(dsn).target.engine)
    environments: list[Environment] = []
    try:
        for _ in range(int(count)):
            environments.append(forked(lambda: environment(dsn, limit)))
        print(json.dumps([each.frozen() for each in environments]), flush=True)
        if sys.stdin.readline():
            for each in environments:
                each.thaw()
            print(json.dumps([json.loads(each.answer()) for each in environments]), flush=True)
    finally:
        for each in environments:
            each.end()


if __name__ == "__main__":
    main()
