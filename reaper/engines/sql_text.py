"""What is told from the text of another session's statement."""

from __future__ import annotations

import re

HIDDEN_SQL = "<insufficient privilege>"


def sql_kind(sql: object) -> str:
    """What is kept of a statement's text: its first word, or the words that
    show what the session holds.
    """
    if sql == HIDDEN_SQL:
        return HIDDEN_SQL
    if begins_backup(sql):
        return _BEGIN_BACKUP[0]
    if listens(sql):
        return "LISTEN"
    word = first_word(sql)
    # UNLISTEN of one channel was LISTEN above
    return "UNLISTEN *" if word == "UNLISTEN" else word


def listens(sql: object) -> bool:
    """Whether one of the statements is LISTEN, or UNLISTEN of one channel, after which others may
    remain.
    """
    text = str(sql or "")
    return "listen" in text.lower() and any(map(_leaves_a_listener, text.split(";")))


def _leaves_a_listener(statement: str) -> bool:
    word = first_word(statement)
    if word != "UNLISTEN":
        return word == "LISTEN"
    return not _bare(_bare(statement)[len(word) :]).startswith("*")


# Before and since PostgreSQL 15
_BEGIN_BACKUP = ("pg_backup_start", "pg_start_backup")


def begins_backup(sql: object) -> bool:
    """Whether the text names the function that begins a base backup, which ends with its session.

    Wherever it stands: a comment that names it spares one session too many, while a call that is
    overlooked costs a backup of hours.
    """
    text = str(sql or "").lower()
    return any(function in text for function in _BEGIN_BACKUP)


def first_word(sql: object) -> str:
    """The first word of a statement, upper case, comments skipped."""
    found = re.match("[A-Za-z]{1,32}", _bare(str(sql or "")))
    return found[0].upper() if found else ""


def _bare(sql: str) -> str:
    """The text from its first word on."""
    rest = _without_space(sql)
    while rest.startswith(("--", "/*")):
        rest = _without_space(
            rest.partition("\n")[2] if rest.startswith("--") else _after_comment(rest)
        )
    return rest


def _without_space(sql: str) -> str:
    return sql.lstrip("( \t\r\n;")


def _after_comment(sql: str) -> str:
    """What follows the comment that a text begins with; PostgreSQL's comments nest."""
    depth = 0
    for edge in re.finditer(r"/\*|\*/", sql):
        depth += 1 if edge[0] == "/*" else -1
        if depth == 0:
            return sql[edge.end() :]
    return ""
