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
    "ALTER", "ANALYZE", "CACHE", "CHANGE", "CHECK", "CREATE", "DROP", "FLUSH", "GRANT", "INSTALL",
    "LOCK",
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
def ends_transaction(sql: str, is_mysql: bool) -> str:
    """The word of its first statement that would commit or end the transaction it runs in, by
    itself or by the server's rule; empty where none would.
    """
    words = (_ends_transaction(part, is_mysql) for part in _statements(sql, is_mysql))
    return next((word for word in words if word), "")


def _statements(sql: str, is_mysql: bool) -> list[str]:
    """The statements of a text, bare; what belongs to a routine's body is none of them.

    The client's connections to MySQL take one statement a packet.
    """
    text = bare(sql)
    if is_mysql or re.search(r"\bBEGIN\s+ATOMIC\b", text, re.IGNORECASE):
        return [text] if text else []
    return [part for part in map(bare, text.split(";")) if part]


def _ends_transaction(text: str, is_mysql: bool) -> str:
    found = re.match(r"[A-Za-z]{1,32}", text)
    word = found[0].upper() if found else ""
    if word == "SET":
        return "SET autocommit" if _AUTOCOMMIT.search(text) else ""
    if re.match(r"ROLLBACK\s+(WORK\s+|TRANSACTION\s+)?TO\b", text, re.IGNORECASE):
        # To a savepoint.
        return ""
    if word == "PREPARE":
        is_two_phase = re.match(r"PREPARE\s+TRANSACTION\b", text, re.IGNORECASE)
        return "PREPARE TRANSACTION" if is_two_phase else ""
    if re.match(r"(CREATE|DROP)\s+TEMPORARY\b", text, re.IGNORECASE):
        return ""
    ends = word in _ENDS_TRANSACTION or (is_mysql and word in _COMMITS_ON_MYSQL)
    return word if ends else ""


@_remembered
def controls_transaction(sql: str, is_mysql: bool) -> str:
    """The word of its first statement that begins or ends a transaction, or switches autocommit;
    empty where none does.
    """
    for text in _statements(sql, is_mysql):
        word = _ends_transaction(text, is_mysql=False)
        if word and not _OTHER_BEGINNINGS.match(text):
            return word
        if is_mysql and re.match(r"XA\b", text, re.IGNORECASE):
            return "XA"
    return ""


# Replication's START, and MariaDB's compound statement.
_OTHER_BEGINNINGS = re.compile(r"START\s+(?!TRANSACTION\b)|BEGIN\s+NOT\s+ATOMIC\b", re.IGNORECASE)
# What neither engine lets commit, not even by a trigger or a function that it calls.
_KEEPS_TRANSACTION = frozenset({
    "SELECT", "INSERT", "UPDATE", "DELETE", "REPLACE", "WITH", "VALUES", "TABLE", "SHOW", "EXPLAIN",
    "DESCRIBE", "DESC", "USE", "SAVEPOINT", "RELEASE", "ROLLBACK", "DECLARE", "FETCH", "MERGE",
})  # fmt: skip


@_remembered
def keeps_transaction(sql: str) -> bool:
    """Whether it is certain that it leaves the transaction it runs in as it is: one statement of a
    kind that cannot commit, in no comment that a server might run.
    """
    if ";" in bare(sql) or re.search(r"/\*M?!", sql):
        return False
    return kind(sql) in _KEEPS_TRANSACTION
