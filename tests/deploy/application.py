"""An application's function with the retry client, for the tests to deploy: it does what the event
says.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from types import FrameType
from typing import Any

from reaper.client import Database, Transaction

databases = [Database.from_env(), Database.from_env()]


def leave(number: int, frame: FrameType | None) -> None:
    print("leaving", flush=True)
    databases[1].query("SELECT 1")
    if os.environ["OWN_HANDLER"] == "fails":
        raise RuntimeError("out of luck")
    sys.exit(0)


if "OWN_HANDLER" in os.environ:
    signal.signal(signal.SIGTERM, leave)


# Not under @db.handler, whose deadline would come before the platform's.
def lambda_handler(event: dict[str, Any], context: object) -> Any:
    """`{"query": SQL, "on": n}` reads on the first n databases; `{"begin": SQL}` stays in a
    transaction for ever.
    """
    if "begin" in event:
        return databases[0].transaction(lambda tx: hold(tx, event["begin"]))
    return [database.query(event["query"]) for database in databases[: event.get("on", 1)]]


def hold(tx: Transaction, sql: str) -> None:
    tx.execute(sql)
    time.sleep(3600)
