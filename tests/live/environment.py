"""A Lambda environment with the retry client, a process of its own: one write for each line it is sent."""

from __future__ import annotations

import json
import sys

from reaper.client import Database


def main() -> None:
    dsn, limit = sys.argv[1:]
    db = Database(dsn)
    db.execute(limit)
    print("ready", flush=True)
    for _ in sys.stdin:
        try:
            db.execute("INSERT INTO orders (what) VALUES ('once')")
            print(json.dumps(dict(db.stats.counts)), flush=True)
        except Exception as error:  # noqa: BLE001  the test is told whatever it is
            print(json.dumps(str(error)), flush=True)


if __name__ == "__main__":
    main()
