"""The tellers: many processes forked from one warm parent, each with the client, each noting what
it is told.

The parent prints their process ids in a line, and what became of them in another when all have
ended, which they do once there is a file `stop` in the folder. SIGTERM ends them all.
"""

from __future__ import annotations

import itertools
import json
import random
import signal
import sys
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from lab.context import Context
from reaper.client import Database, OutcomeUnknown, Settings, Transaction
from reaper.client.deadline import RESERVE
from reaper.client.drivers import driver_for
from reaper.client.kept import Clocks
from tests.hardening.ledger import ACCOUNTS, Kind, Told
from tests.live.fleet import Environment, forked

# Seconds that a deed is given
LIMITS = (1.5, 4.0)
# Between two deeds, and between two statements of a transaction
PAUSES = (0.0, 0.1)
# Of the transfers: the work itself changes its mind in the end
DECLINED = 0.05
MIX = {Kind.READ: 3, Kind.WRITE: 3, Kind.TRANSFER: 3, Kind.PAYMENT: 3}

BOOK = "INSERT INTO entries (name, deed, source, destination, amount) VALUES (%s, %s, %s, %s, %s)"
TAKE = "UPDATE accounts SET balance = balance - %s WHERE id = %s"
GIVE = "UPDATE accounts SET balance = balance + %s WHERE id = %s"
# One statement, so one moment: all the money must be there in it.
LOOK = (
    "SELECT sum(balance) AS money, (SELECT count(*) FROM entries WHERE name = %s) AS seen FROM "
    "accounts"
)


class Declined(Exception):
    """The application's own error: what it raises for must not be stored."""


class Teller:
    """One process's work, by its own dice; two neighbours get the same payments to make."""

    def __init__(self, db: Database, number: int, seed: str, folder: Path) -> None:
        self._db = db
        self._number = number
        self._seed = seed
        self._dice = random.Random(f"{seed} teller {number}")
        self._stop = folder / "stop"
        self._log = (folder / f"teller-{number}.jsonl").open("a", buffering=1)
        self._deeds = itertools.count()
        self._events = itertools.count()
        self._again: list[str] = []
        self._last_done = ""

    def work(self) -> None:
        acts: dict[Kind, Callable[[], None]] = {
            Kind.READ: self._read,
            Kind.WRITE: self._write,
            Kind.TRANSFER: self._transfer,
            Kind.PAYMENT: self._pay,
        }
        while not self._stop.exists():
            (kind,) = self._dice.choices(list(MIX), list(MIX.values()))
            acts[kind]()
            self._pause()

    def _pause(self) -> None:
        time.sleep(self._dice.uniform(*PAUSES))

    def _read(self) -> None:
        def look(deed: str) -> dict[str, int]:
            (row,) = self._db.query(LOOK, (self._last_done,))
            return {name: int(value) for name, value in row.items()}

        self._attempt(Kind.READ, self._last_done, look)

    def _write(self) -> None:
        self._attempt(
            Kind.WRITE, None, lambda deed: self._db.execute(BOOK, (deed, deed, 0, 0, 0)).rowcount
        )

    def _transfer(self) -> None:
        declines = self._dice.random() < DECLINED
        self._attempt(
            Kind.TRANSFER, None, lambda deed: self._db.transaction(self._move(deed, deed, declines))
        )

    def _pay(self) -> None:
        """An event's payment. It comes again until it is known to be done, as a queue would have
        it.
        """
        is_old = self._again and self._dice.random() < 0.5
        event = self._again.pop(0) if is_old else f"event {self._number // 2}.{next(self._events)}"
        told = self._attempt(
            Kind.PAYMENT,
            event,
            lambda deed: self._db.transaction(self._move(event, deed), token=event, name="pay"),
        )
        if told is not Told.DONE:
            self._again.append(event)

    def _move(self, key: str, deed: str, declines: bool = False) -> Callable[[Transaction], str]:
        """Work that moves money, the same for everybody who does it under this key."""
        dice = random.Random(f"{self._seed} {key}")
        source, destination = dice.sample(ACCOUNTS, 2)
        amount = dice.randint(1, 50)

        def work(tx: Transaction) -> str:
            tx.execute(TAKE, (amount, source))
            self._pause()
            tx.execute(GIVE, (amount, destination))
            tx.execute(BOOK, (key, deed, source, destination, amount))
            if declines:
                raise Declined
            return deed

        return work

    def _attempt(self, kind: Kind, key: str | None, act: Callable[[str], Any]) -> Told:
        """Have it done as one invocation, noting it before and after; without a key the deed is its
        own.
        """
        deed, limit = f"{self._number}.{next(self._deeds)}", self._dice.uniform(*LIMITS)
        key = deed if key is None else key
        self._note(
            id=deed, teller=self._number, kind=kind, key=key, limit=limit, began=time.monotonic()
        )
        told, result = self._told(lambda: act(deed), limit)
        self._note(id=deed, ended=time.monotonic(), told=told, result=result)
        if told is Told.DONE and kind is not Kind.READ:
            self._last_done = key
        return told

    def _told(self, act: Callable[[], Any], limit: float) -> tuple[Told, Any]:
        try:
            return Told.DONE, self._db.handler(lambda event, context: act())(
                {}, Context(RESERVE + limit)
            )
        except OutcomeUnknown as doubt:
            return Told.UNKNOWN, repr(doubt.error)
        except Exception as error:  # noqa: BLE001  noted; that nothing was done is for the judge to see
            return Told.FAILED, f"{error!r} {getattr(error, '__notes__', '')}"

    def _note(self, **what: Any) -> None:
        self._log.write(json.dumps(what) + "\n")


def teller(dsn: str, folder: Path, seed: str, number: int) -> str:
    """A process's whole life; what it died of where it did not get to its end."""
    dice = random.Random(f"{seed} client {number}")
    # No pause here is long enough for the default
    settings = Settings(ping_after=dice.choice([0.2, 45.0]))
    try:
        with closing(Database(dsn, settings=settings, clocks=Clocks(dice=dice.random))) as db:
            Teller(db, number, seed, folder).work()
    except Exception as error:  # noqa: BLE001  the test is told whatever it is
        return repr(error)
    return "ended"


def main() -> None:
    dsn, folder, seed, count = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    # Loaded once for all
    driver_for(Database(dsn).target.engine)
    tellers: list[Environment] = []
    try:
        for number in range(int(count)):
            tellers.append(forked(partial(teller, dsn, Path(folder), seed, number)))
        print(json.dumps([each.pid for each in tellers]), flush=True)
        print(json.dumps([each.answer() for each in tellers]), flush=True)
    finally:
        # Not before: until then the ids are theirs, and may be sent signals
        for each in tellers:
            each.end()


if __name__ == "__main__":
    main()
