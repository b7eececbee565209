"""What is told from the text of another session's statement."""

from __future__ import annotations

import re

HIDDEN_SQL = "<insufficient privilege>"


def sql_kind(sql: object) -> str:
    """What is kept of a statement's text: LISTEN where one of its statements is that, else its
    first word.
    """
    if sql == HIDDEN_SQL:
        return HIDDEN_SQL
    return "LISTEN" if listens(sql) else first_word(sql)


def listens(sql: object) -> bool:
    """Whether one of the statements is LISTEN."""
    text = str(sql or "")
    return "listen" in text.lower() and any(
        first_word(part) == "LISTEN" for part in text.split(";")
    )


def first_word(sql: object) -> str:
    """The first word of a statement, upper case, comments skipped."""
    rest = _without_space(str(sql or ""))
    while rest.startswith(("--", "/*")):
        rest = _without_space(
            rest.partition("\n")[2] if rest.startswith("--") else _after_comment(rest)
        )
    found = re.match("[A-Za-z]{1,32}", rest)
    return found[0].upper() if found else ""


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
