"""What kind of statement a text is, as far as its safety needs to know."""

from __future__ import annotations

import re
from functools import lru_cache

_READS = frozenset({"SELECT", "SHOW", "VALUES", "EXPLAIN", "WITH"})
_WRITES = re.compile(r"\b(INSERT|(?<!FOR )(?<!KEY )UPDATE|DELETE|MERGE)\b", re.IGNORECASE)
# What else EXPLAIN ANALYZE does
_RUNS = re.compile(r"\b(CREATE|EXECUTE|REFRESH)\b", re.IGNORECASE)
# a SELECT that makes a table, a file or a variable
_INTO = re.compile(r"\bINTO\b", re.IGNORECASE)

# Literals, quoted names and comments, as each engine reads them. What stands in /*! */ or /*M! */
# is run by MySQL or MariaDB, so it is left in place. A doubled quote ends one literal and begins
# the next, which comes to the same.
_PLAIN = r"'[^']*'|\"[^\"]*\""
_ESCAPED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_COMMENT = r"|/\*(?!M?!).*?\*/"
_POSTGRES = _COMMENT + r"|--[^\n]*|(?<![\w$])\$(\w*)\$.*?\$\1\$"
_MYSQL = _COMMENT + r"|`[^`]*`|--(?=\s|$)[^\n]*|#[^\n]*"
_STANDARD = re.compile(r"\b[Ee]'(?:[^'\\]|\\.)*'|" + _PLAIN + _POSTGRES, re.DOTALL)
# Whether a backslash escapes is a setting of the server's on either engine: a read has to be one
# both ways.
_ON_POSTGRES = (_STANDARD, re.compile(_ESCAPED + _POSTGRES, re.DOTALL))
_ON_MYSQL = tuple(re.compile(quotes + _MYSQL, re.DOTALL) for quotes in (_ESCAPED, _PLAIN))

# Statements that end or begin a transaction by themselves.
_ENDS_TRANSACTION = frozenset({"BEGIN", "START", "COMMIT", "ROLLBACK", "END", "ABORT"})
# MySQL's implicit commits (manual, "Statements That Cause an Implicit Commit").
_COMMITS_ON_MYSQL = frozenset({
    "ALTER", "ANALYZE", "CACHE", "CHANGE", "CHECK", "CREATE", "DROP", "FLUSH", "GRANT", "INSTALL", "LOCK",
    "OPTIMIZE", "RENAME", "REPAIR", "RESET", "REVOKE", "STOP", "TRUNCATE", "UNINSTALL", "UNLOCK",
})  # fmt: skip
# Among the assignments of one SET; @autocommit would be a variable of the user's.
_AUTOCOMMIT = re.compile(r"(?<![\w@])(@@)?AUTOCOMMIT\s*:?=", re.IGNORECASE)


def bare(sql: str, quoted: re.Pattern[str] = _STANDARD) -> str:
    """The statement without literals, quoted names and comments: what is left cannot be data."""
    return quoted.sub(" ", sql).strip(" \t\r\n(;")


# An application has few statements and sends them often; what is known of one is worth a few
# kilobytes.
_remembered = lru_cache(maxsize=256)


@_remembered
def kind(sql: str) -> str:
    """The first word, upper case; all of a statement that an error or an event may show."""
    found = re.match(r"[A-Za-z]{1,32}", bare(sql))
    return found[0].upper() if found else "?"


@_remembered
def only_reads(sql: str, is_mysql: bool) -> bool:
    """Whether it is one read: SELECT, SHOW, VALUES, or an EXPLAIN or WITH that holds no write."""
    readings = _ON_MYSQL if is_mysql else _ON_POSTGRES
    return kind(sql) in _READS and all(_is_one_read(bare(sql, quoted)) for quoted in readings)


def _is_one_read(text: str) -> bool:
    explains = text[:7].upper() == "EXPLAIN"
    if ";" in text or _INTO.search(text) or (explains and _RUNS.search(text)):
        return False
    return not ((explains or text[:4].upper() == "WITH") and _WRITES.search(text))


def is_atomic(statement: str) -> bool:
    """Whether a statement of this kind, run on its own, is undone by its error: procedures may
    commit on the way.
    """
    return statement not in ("CALL", "DO")


@_remembered
def ends_transaction(sql: str, is_mysql: bool) -> bool:
    """Whether it would commit or end the transaction it runs in, by itself or by the server's rule."""
    text, word = bare(sql), kind(sql)
    if word == "SET" and _AUTOCOMMIT.search(text):
        return True
    if re.match(r"ROLLBACK\s+(WORK\s+|TRANSACTION\s+)?TO\b", text, re.IGNORECASE):
        # To a savepoint
        return False
    if word == "PREPARE":
        return bool(re.match(r"PREPARE\s+TRANSACTION\b", text, re.IGNORECASE))
    if re.match(r"(CREATE|DROP)\s+TEMPORARY\b", text, re.IGNORECASE):
        return False
    return word in _ENDS_TRANSACTION or (is_mysql and word in _COMMITS_ON_MYSQL)
