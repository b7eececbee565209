"""Sells what a queue orders: each message once, however often it is delivered."""

from __future__ import annotations

import json
import logging
from typing import Any

from reaper.client import Database, Transaction

logger = logging.getLogger(__name__)
# DATABASE_URL, DATABASE_SECRET; it connects with the first statement
db = Database.from_env()


@db.handler
def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """One batch from SQS. Messages that failed are listed, and only those come again."""
    failed = [record["messageId"] for record in event["Records"] if not was_sold(record)]
    return {"batchItemFailures": [{"itemIdentifier": message} for message in failed]}


def was_sold(record: dict[str, Any]) -> bool:
    try:
        sell(record["messageId"], **json.loads(record["body"]))
    # Whatever it is, the other messages are sold
    except Exception:
        logger.exception("message %s comes again", record["messageId"])
        return False
    return True


def sell(message: str, item: int, pieces: int) -> None:
    # A read: tried again whenever the connection is lost.
    found = db.query("SELECT price FROM goods WHERE id = %s", (item,))
    if not found:
        raise ValueError(f"no such item: {item}")
    total = found[0]["price"] * pieces

    def book(tx: Transaction) -> None:
        taken = tx.execute(
            "UPDATE goods SET stock = stock - %s WHERE id = %s AND stock >= %s",
            (pieces, item, pieces),
        )
        if not taken.rowcount:
            raise ValueError(f"fewer than {pieces} left of item {item}")
        tx.execute(
            "INSERT INTO sales (item, pieces, total) VALUES (%s, %s, %s)", (item, pieces, total)
        )

    # All of it or nothing, and exactly once: the message's id is the token.
    db.transaction(book, token=message, name="sell")
    # Twice is harmless, so this is sent again even where nobody knows whether it was done.
    db.execute(
        "UPDATE goods SET last_sold = CURRENT_TIMESTAMP WHERE id = %s", (item,), idempotent=True
    )
