"""What is told from the text of another session's statement."""

from __future__ import annotations

from reaper.client import statements

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
    return statements.listens(str(sql or ""))


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
    return statements.first_word(str(sql or ""))
