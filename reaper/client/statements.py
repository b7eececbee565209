"""What kind of statement a text is, as far as its safety needs to know."""

from __future__ import annotations

import re
from functools import lru_cache

_READS = frozenset({"SELECT", "SHOW", "VALUES", "EXPLAIN", "WITH"})
_WRITES = re.compile(r"\b(INSERT|(?<!FOR )(?<!KEY )UPDATE|DELETE|MERGE)\b", re.IGNORECASE)

# Literals, quoted names and comments. MySQL runs what stands in /*! */, so that is left in place.
_COMMON = r"|`[^`]*`|--[^\n]*|/\*(?!!).*?\*/|\$(\w*)\$.*?\$\1\$"
_STANDARD = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"" + _COMMON, re.DOTALL)
_BACKSLASH = re.compile(r"'(?:[^'\\]|\\.|'')*'|\"(?:[^\"\\]|\\.|\"\")*\"" + _COMMON, re.DOTALL)

# Statements that end or begin a transaction by themselves.
_ENDS_TRANSACTION = frozenset({"BEGIN", "START", "COMMIT", "ROLLBACK", "END", "ABORT", "SET AUTOCOMMIT"})
# MySQL's implicit commits (manual, "Statements That Cause an Implicit Commit").
_COMMITS_ON_MYSQL = frozenset({
    "ALTER", "ANALYZE", "CACHE", "CHANGE", "CHECK", "CREATE", "DROP", "FLUSH", "GRANT", "INSTALL", "LOCK",
    "OPTIMIZE", "RENAME", "REPAIR", "RESET", "REVOKE", "STOP", "TRUNCATE", "UNINSTALL", "UNLOCK",
})  # fmt: skip


def bare(sql: str, quoted: re.Pattern[str] = _STANDARD) -> str:
    """The statement without literals, quoted names and comments: what is left cannot be data."""
    return quoted.sub(" ", sql).strip(" \t\r\n(;")


# An application has few statements and sends them often; what is known of one is worth a few kilobytes.
_remembered = lru_cache(maxsize=256)


@_remembered
def kind(sql: str) -> str:
    """The first word, upper case; all of a statement that an error or an event may show."""
    found = re.match(r"[A-Za-z]{1,32}", bare(sql))
    return found[0].upper() if found else "?"


@_remembered
def only_reads(sql: str) -> bool:
    """Whether it is one read: SELECT, SHOW, VALUES, or an EXPLAIN or WITH that holds no write.

    A backslash before a quote is a quote's escape on MySQL and is not on PostgreSQL; a read has to be one either way.
    """
    return kind(sql) in _READS and all(_is_one_read(bare(sql, quoted)) for quoted in (_STANDARD, _BACKSLASH))


def _is_one_read(text: str) -> bool:
    may_hide_a_write = text[:4].upper() == "WITH" or text[:7].upper() == "EXPLAIN"
    return ";" not in text and not (may_hide_a_write and _WRITES.search(text))


def is_atomic(statement: str) -> bool:
    """Whether a statement of this kind, run on its own, is undone by its error: procedures may commit on the way."""
    return statement not in ("CALL", "DO")


@_remembered
def ends_transaction(sql: str, is_mysql: bool) -> bool:
    """Whether it would commit or end the transaction it runs in, by itself or by the server's rule."""
    text, word = bare(sql), kind(sql)
    if re.match(r"SET\s+(SESSION\s+|@@\w*\.?)?AUTOCOMMIT\b", text, re.IGNORECASE):
        return True
    if re.match(r"ROLLBACK\s+(WORK\s+|TRANSACTION\s+)?TO\b", text, re.IGNORECASE):
        return False  # to a savepoint
    if word == "PREPARE":
        return bool(re.match(r"PREPARE\s+TRANSACTION\b", text, re.IGNORECASE))
    if is_mysql and re.match(r"(CREATE|DROP)\s+TEMPORARY\b", text, re.IGNORECASE):
        return False
    return word in _ENDS_TRANSACTION or (is_mysql and word in _COMMITS_ON_MYSQL)
