"""A process outside Lambda whose database is to be closed at SIGTERM, in one of several
situations.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable

from reaper.client import Database, Settings


def main() -> None:
    situation, dsn, sql = sys.argv[1:]
    db = Database(dsn, settings=Settings(close_on_sigterm=True))
    SITUATIONS[situation](lambda: print(db.query(sql)[0]["id"], flush=True))


def plain(tell: Callable[[], None]) -> None:
    """Nothing else of the process's wants the signal."""
    tell()
    signal.pause()


def patient(tell: Callable[[], None]) -> None:
    """The application finishes its work when it is told to end."""
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: told.set())
    tell()
    told.wait()
    tell()


def hasty(tell: Callable[[], None]) -> None:
    """The application ends in its own way."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(3))
    tell()
    signal.pause()


def parent(tell: Callable[[], None]) -> None:
    """A child, with a session of its own, is told to end."""
    tell()
    if not os.fork():
        tell()
        os.kill(os.getpid(), signal.SIGTERM)
    _, status = os.wait()
    assert os.WTERMSIG(status) == signal.SIGTERM
    tell()
    signal.pause()


def threaded(tell: Callable[[], None]) -> None:
    """The first connection is opened where no handler can be installed."""
    thread = threading.Thread(target=tell)
    thread.start()
    thread.join()
    signal.pause()


SITUATIONS = {found.__name__: found for found in (plain, patient, hasty, parent, threaded)}

if __name__ == "__main__":
    main()
