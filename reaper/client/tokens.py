"""Exactly once: the row that says a piece of work has been done, written in the same transaction as
the work.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from reaper.client.fields import ConfigurationError
from reaper.client.target import EngineName

MAX_RESULT = 64 * 1024

# Rows must outlive every retry of the same event, and SQS keeps a message for 14 days.
DAYS = 15
# The share of transactions that delete old rows afterwards, up to a thousand each.
SHARE_THAT_CLEANS = 0.01

DDL = {
    EngineName.MYSQL: """
CREATE TABLE IF NOT EXISTS reaper_tokens (
  name VARBINARY(255) NOT NULL,
  token VARBINARY(255) NOT NULL,
  result MEDIUMTEXT,
  created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
  PRIMARY KEY (name, token),
  KEY created_at (created_at)
) ENGINE = InnoDB CHARACTER SET utf8mb4
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

# Either waits for a transaction in flight with the same key: where no row was changed, the key has
# been committed, by its name or by the one that earlier versions gave it.
INSERT = {
    EngineName.MYSQL: """
INSERT INTO reaper_tokens (name, token) SELECT %(name)s, %(token)s FROM DUAL
WHERE NOT EXISTS (SELECT 1 FROM reaper_tokens WHERE name = %(former)s AND token = %(token)s)
ON DUPLICATE KEY UPDATE token = reaper_tokens.token
""",
    EngineName.POSTGRES: """
INSERT INTO reaper_tokens (name, token)
SELECT %(name)s::pg_catalog.text, %(token)s::pg_catalog.text
WHERE NOT EXISTS (
  SELECT 1 FROM reaper_tokens
  WHERE name OPERATOR(pg_catalog.=) %(former)s::pg_catalog.text
    AND token OPERATOR(pg_catalog.=) %(token)s::pg_catalog.text
)
ON CONFLICT DO NOTHING
""",
}
STORE = {
    EngineName.MYSQL: """
UPDATE reaper_tokens SET result = %(result)s WHERE name = %(name)s AND token = %(token)s
""",
    EngineName.POSTGRES: """
UPDATE reaper_tokens SET result = %(result)s
WHERE name OPERATOR(pg_catalog.=) %(name)s::pg_catalog.text
  AND token OPERATOR(pg_catalog.=) %(token)s::pg_catalog.text
""",
}
PURGE = {
    EngineName.MYSQL: """
DELETE FROM reaper_tokens WHERE created_at < NOW() - INTERVAL %s DAY ORDER BY created_at LIMIT 1000
""",
    EngineName.POSTGRES: """
DELETE FROM reaper_tokens WHERE ctid OPERATOR(pg_catalog.=) ANY (ARRAY(
  SELECT ctid FROM reaper_tokens
  WHERE created_at OPERATOR(pg_catalog.<) (
    pg_catalog.now() OPERATOR(pg_catalog.-) pg_catalog.make_interval(days => %s::pg_catalog.int4)
  )
  ORDER BY created_at LIMIT 1000 FOR UPDATE SKIP LOCKED
))
""",
}
# Tables that an earlier version made compare as text, by which 'a' and 'a ' are one.
SELECT = {
    EngineName.MYSQL: """
SELECT result FROM reaper_tokens
WHERE name IN (%(name)s, %(former)s) AND token = %(token)s
  AND CAST(token AS BINARY) = CAST(%(token)s AS BINARY)
""",
    EngineName.POSTGRES: """
SELECT result FROM reaper_tokens
WHERE name OPERATOR(pg_catalog.=) ANY (ARRAY[%(name)s, %(former)s]::pg_catalog.text[])
  AND token OPERATOR(pg_catalog.=) %(token)s::pg_catalog.text
""",
}
_LONGEST = 255


@dataclass(frozen=True)
class Key:
    """What is done once: the token of an event, and the name of the work that it is for.

    `former` is the name that earlier versions gave the same work; a token under it counts as well.
    """

    name: str
    token: str
    former: str

    @classmethod
    def of(cls, work: Callable[..., Any], token: str, name: str | None) -> Key:
        """The key of a work. Raises ConfigurationError for a token that is no text, is empty or is
        too long, and for work that has no name of its own and was given none.
        """
        if not isinstance(token, str) or not token:
            kind = "an empty text" if token == "" else f"a {type(token).__name__}"
            raise ConfigurationError(f"the token is {kind}; give the event's own id, as a text")
        if name is not None:
            key = cls(name, token, name)
        else:
            key = cls(_name_of(work), token, work.__qualname__)
        for what, text in (("token", key.token), ("name", key.name)):
            if not 0 < len(text.encode()) <= _LONGEST:
                raise ConfigurationError(
                    f"the {what} has {len(text.encode())} bytes; give 1 to {_LONGEST}"
                )
        return key

    @property
    def values(self) -> dict[str, str]:
        """The parameters of this module's statements."""
        return {"name": self.name, "token": self.token, "former": self.former}


def _name_of(work: Callable[..., Any]) -> str:
    """Module and qualified name, which no other function has."""
    qualified = getattr(work, "__qualname__", None)
    if not isinstance(qualified, str) or "<lambda>" in qualified:
        raise ConfigurationError(
            f"a token is for one piece of work, and {_described(work)} has no name of its own; say "
            "name="
        )
    return f"{work.__module__}.{qualified}"


def _described(work: object) -> str:
    return "a lambda" if hasattr(work, "__qualname__") else f"a {type(work).__name__}"


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
