"""What kind of statement a text is, as far as its safety needs to know.

Where the server's settings decide how a text is read, it is read each way; what the lexer is not
sure of is no read.
"""

from __future__ import annotations

import re
from functools import lru_cache

from reaper.client.lexer import (
    FILLER,
    MYSQL,
    POSTGRES,
    Doubt,
    Lexed,
    leading,
    lex,
    readings,
    split,
    word_of,
)

_READS = frozenset({"SELECT", "SHOW", "VALUES", "EXPLAIN", "WITH"})
# FOR is reserved, so that no name can end in these words.
_WRITES = re.compile(
    r"\b(INSERT|(?<!\bFOR )(?<!\bFOR NO KEY )UPDATE|DELETE|MERGE)\b", re.IGNORECASE
)
# What else EXPLAIN ANALYZE does.
_RUNS = re.compile(r"\b(CREATE|EXECUTE|REFRESH)\b", re.IGNORECASE)
# A SELECT that makes a table, a file or a variable; the word may follow a number without a space.
_INTO = re.compile(r"\b(?:\d\w*)?INTO\b", re.IGNORECASE)

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
# Replication's START, and MariaDB's compound statement.
_OTHER_BEGINNINGS = re.compile(r"START\s++(?!TRANSACTION\b)|BEGIN\s+NOT\s+ATOMIC\b", re.IGNORECASE)
# What neither engine lets commit, not even by a trigger or a function that it calls.
_KEEPS_TRANSACTION = frozenset({
    "SELECT", "INSERT", "UPDATE", "DELETE", "REPLACE", "WITH", "VALUES", "TABLE", "SHOW", "EXPLAIN",
    "DESCRIBE", "DESC", "USE", "SAVEPOINT", "RELEASE", "ROLLBACK", "DECLARE", "FETCH", "MERGE",
})  # fmt: skip

# An application has few statements and sends them often; what is known of one is worth a few
# kilobytes.
_remembered = lru_cache(maxsize=256)


@_remembered
def first_word(sql: str) -> str:
    """The first word, upper case; empty where none is first, or where it depends on the engine."""
    words = {word_of(sql, is_mysql) for is_mysql in (True, False)} - {""}
    return words.pop() if len(words) == 1 else ""


def kind(sql: str) -> str:
    """The first word, upper case; all of a statement that an error or an event may show."""
    return first_word(sql) or "?"


def listens(sql: str) -> bool:
    """Whether one of its statements is PostgreSQL's LISTEN, or UNLISTEN of one channel, after which
    others may remain, in any way in which the server may read it.
    """
    if "listen" not in sql.lower():
        return False
    found = readings(sql, is_mysql=False)
    return any(_leaves_a_listener(text) for lexed in found for text in split(lexed.code))


def _leaves_a_listener(statement: str) -> bool:
    word = leading(statement)
    if word != "UNLISTEN":
        return word == "LISTEN"
    return not statement[len(word) :].strip().startswith("*")


@_remembered
def only_reads(sql: str, is_mysql: bool) -> bool:
    """Whether it is, for certain, one read: SELECT, SHOW, VALUES, or an EXPLAIN or WITH that holds
    no write.
    """
    found = readings(sql, is_mysql)
    return _is_certain(found) and all(_is_one_read(lexed.code) for lexed in found)


def _is_certain(found: list[Lexed]) -> bool:
    """Whether a server either reads it as the lexer does, or refuses it for a quote that has no
    end.
    """
    doubts = frozenset[Doubt]().union(*(lexed.doubts for lexed in found))
    return doubts <= {Doubt.OPEN_QUOTE} and not all(lexed.doubts for lexed in found)


def _is_one_read(code: str) -> bool:
    statements = split(code)
    if len(statements) != 1:
        return False
    text = " ".join(statements[0].split())
    word = leading(text)
    if word not in _READS or _INTO.search(text) or (word == "EXPLAIN" and _RUNS.search(text)):
        return False
    return not (word in ("EXPLAIN", "WITH") and _WRITES.search(text))


def is_atomic(statement: str) -> bool:
    """Whether a statement of this kind, run on its own, is undone by its error: procedures may
    commit on the way, and what has no known kind may be one.
    """
    return statement not in ("CALL", "DO", "?")


@_remembered
def ends_transaction(sql: str, is_mysql: bool) -> str:
    """The word of its first statement that would commit or end the transaction it runs in, by
    itself or by the server's rule; empty where none would.
    """
    words = (_ends_transaction(part, is_mysql) for part in _statements(sql, is_mysql))
    return next((word for word in words if word), "")


def _statements(sql: str, is_mysql: bool) -> list[str]:
    """The statements of a text, as the server reads it by default; what belongs to a routine's body
    is none of them.

    The client's connections to MySQL take one statement a packet.
    """
    code = lex(sql, (MYSQL if is_mysql else POSTGRES)[0]).code
    if is_mysql or re.search(r"\bBEGIN\s+ATOMIC\b", code, re.IGNORECASE):
        return [code.strip(FILLER)]
    return split(code)


def _ends_transaction(text: str, is_mysql: bool) -> str:
    word = leading(text)
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


@_remembered
def keeps_transaction(sql: str, is_mysql: bool) -> bool:
    """Whether it is certain that it leaves the transaction it runs in as it is: one statement of a
    kind that cannot commit, in no comment that a server might run.
    """
    found = readings(sql, is_mysql)
    return _is_certain(found) and all(_keeps(split(lexed.code)) for lexed in found)


def _keeps(statements: list[str]) -> bool:
    return len(statements) == 1 and leading(statements[0]) in _KEEPS_TRANSACTION
