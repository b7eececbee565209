"""Exactly once: the row that says a piece of work has been done, written in the same transaction as
the work.
"""

from __future__ import annotations

import json
from typing import Any

from reaper.client.target import EngineName

MAX_RESULT = 64 * 1024

# Rows must outlive every retry of the same event, and SQS keeps a message for 14 days.
DAYS = 15
# The share of transactions that delete old rows afterwards, up to a thousand each.
SHARE_THAT_CLEANS = 0.01

DDL = {
    EngineName.MYSQL: """
CREATE TABLE IF NOT EXISTS reaper_tokens (
  name VARCHAR(255) NOT NULL,
  token VARCHAR(255) NOT NULL,
  result MEDIUMTEXT,
  created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
  PRIMARY KEY (name, token),
  KEY created_at (created_at)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
""",
    EngineName.POSTGRES: """
CREATE TABLE IF NOT EXISTS reaper_tokens (
  name varchar(255) NOT NULL,
  token varchar(255) NOT NULL,
  result text,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (name, token)
);
CREATE INDEX IF NOT EXISTS reaper_tokens_created_at ON reaper_tokens (created_at)
""",
}

# Either waits for a transaction in flight with the same key: where no row was changed, that one has
# committed.
INSERT = {
    EngineName.MYSQL: "INSERT INTO reaper_tokens (name, token) VALUES (%s, %s) ON DUPLICATE KEY "
    "UPDATE token = token",
    EngineName.POSTGRES: "INSERT INTO reaper_tokens (name, token) VALUES (%s, %s) ON CONFLICT DO "
    "NOTHING",
}
STORE = "UPDATE reaper_tokens SET result = %s WHERE name = %s AND token = %s"
PURGE = {
    EngineName.MYSQL: """
DELETE FROM reaper_tokens WHERE created_at < NOW() - INTERVAL %s DAY ORDER BY created_at LIMIT 1000
""",
    EngineName.POSTGRES: """
DELETE FROM reaper_tokens WHERE (name, token) IN (
  SELECT name, token FROM reaper_tokens WHERE created_at < now() - make_interval(days => %s)
  ORDER BY created_at LIMIT 1000 FOR UPDATE SKIP LOCKED)
""",
}
SELECT = "SELECT result FROM reaper_tokens WHERE name = %s AND token = %s"


def to_text(result: Any) -> str:
    """The work's result as it is stored. Raises TypeError where it cannot be JSON, ValueError where
    it is more than 64 KB of it.
    """
    text = json.dumps(result)
    if len(text.encode()) > MAX_RESULT:
        raise ValueError(
            f"the result of work with a token takes {len(text.encode())} bytes; at most "
            f"{MAX_RESULT}"
        )
    return text


def from_text(text: str | None) -> Any:
    """The result that `to_text` made a text of; None where none was stored."""
    return None if text is None else json.loads(text)
