"""A small lexer of SQL: literals, quoted names and comments are taken out of a text as its server
would; what is left cannot be data. It knows what it is not sure of.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum, auto
from functools import lru_cache
from typing import NamedTuple

# What may stand before a statement's first word.
FILLER = " \t\r\n\f\v(;"
_WORD = re.compile(r"[A-Za-z]{1,32}")


class Doubt(Enum):
    """Why a text may not be what it seems."""

    OPEN_QUOTE = auto()
    """A quote has no end: the server refuses the text, if it reads it this way."""
    OPEN_COMMENT = auto()
    """A comment has no end, and versions differ in what they make of it."""
    RUN_COMMENT = auto()
    """MySQL or MariaDB runs what stands in /*! */ or /*M! */; it is left in place."""
    UNCLEAR = auto()
    """Versions of the server differ in how they read it."""


class Reading(NamedTuple):
    """One of the ways in which a server may read a text."""

    is_mysql: bool
    escaping: str
    """The quotes between which a backslash escapes."""


class Lexed(NamedTuple):
    """A text as one reading has it."""

    code: str
    """The text, each literal and quoted name as '', each comment a space."""
    doubts: frozenset[Doubt]


class _Token(NamedTuple):
    """Where something other than code ends, and what stands for it among the code."""

    end: int
    code: str
    doubt: Doubt | None = None


# The server's settings decide: standard_conforming_strings, NO_BACKSLASH_ESCAPES and ANSI_QUOTES,
# which makes of "" a name. The defaults are first.
POSTGRES = (Reading(False, ""), Reading(False, "'"))
MYSQL = (Reading(True, "'\""), Reading(True, "'"), Reading(True, ""))

# PostgreSQL's letters: every character beyond ASCII is one, a no-break space too.
_LETTER = r"A-Za-z_\x80-\U0010ffff"
_IN_NAME = re.compile(rf"[{_LETTER}0-9$]")
# What looks like a name and begins so is a number or a parameter, and where it ends depends on the
# version.
_NO_NAME = "0123456789$"
# Where something other than code may begin.
_OPENS = {
    False: re.compile(rf"/\*|\*/(?!\*)|--|['\"\\]|\$(?:[{_LETTER}][{_LETTER}0-9]*)?\$"),
    True: re.compile(rf"/\*|\*/(?!\*)|--|['\"`#]|\$(?=[{_LETTER}0-9]*\$)"),
}
# A doubled quote is part of the text.
_PLAIN = {quote: re.compile(f"{quote}(?:[^{quote}]+|{quote * 2})*+{quote}") for quote in "'\"`"}
_ESCAPED = {
    quote: re.compile(rf"{quote}(?:[^{quote}\\]+|\\.|{quote * 2})*+{quote}", re.DOTALL)
    for quote in "'\""
}
# PostgreSQL goes on with a literal behind a line's end, by the rules it began with.
_GOES_ON = re.compile(
    r"(?:[ \t\f\v]|--[^\n\r]*+)*+[\n\r](?:[ \t\f\v\n\r]|--[^\n\r]*+[\n\r])*+(?=')"
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_LINE_END = {False: re.compile(r"[\n\r]"), True: re.compile(r"\n")}


@lru_cache(maxsize=16)
def lex(sql: str, reading: Reading) -> Lexed:
    """The text's code, and what is not sure about it."""
    code: list[str] = []
    # A server may stop reading at the character NUL.
    doubts: set[Doubt | None] = {Doubt.UNCLEAR} if "\0" in sql else set()
    at = 0
    for begin, token in _tokens(sql, reading):
        code += sql[at:begin], token.code
        doubts.add(token.doubt)
        at = token.end
    code.append(sql[at:])
    return Lexed("".join(code), frozenset(doubt for doubt in doubts if doubt))


def readings(sql: str, is_mysql: bool) -> list[Lexed]:
    """The text in each way in which a server may read it; without a backslash they are the same."""
    ways = MYSQL if is_mysql else POSTGRES
    return [lex(sql, reading) for reading in (ways if "\\" in sql else ways[:1])]


def _tokens(sql: str, reading: Reading) -> Iterator[tuple[int, _Token]]:
    """What is no code, or may be none, and where it begins."""
    at = 0
    while found := _OPENS[reading.is_mysql].search(sql, at):
        token = _token(sql, at, found, reading)
        yield found.start(), token
        at = token.end


def _token(sql: str, floor: int, opened: re.Match[str], reading: Reading) -> _Token:
    begin, opening = opened.start(), opened[0]
    if opening in ("/*", "--", "#"):
        return _comment(sql, begin, reading.is_mysql)
    if opening.startswith("$"):
        return _dollar(sql, floor, opened, reading.is_mysql)
    # Signs of which no engine has a use among code: what is before them is not what it seems.
    if opening in ("*/", "\\"):
        return _Token(opened.end(), opening, Doubt.UNCLEAR)
    return _quoted(sql, floor, begin, reading)


def _comment(sql: str, begin: int, is_mysql: bool) -> _Token:
    end = _comment_end(sql, begin, is_mysql)
    if end is None:
        return _no_comment(sql, begin)
    if end < 0:
        return _Token(len(sql), " ", Doubt.OPEN_COMMENT)
    # An optimizer hint has a grammar of its own, in which quotes may hide its end.
    is_unclear = is_mysql and sql.startswith("/*+", begin) and re.search("['\"`]", sql[begin:end])
    return _Token(end, " ", Doubt.UNCLEAR if is_unclear else None)


def _no_comment(sql: str, begin: int) -> _Token:
    """One that is run, or the first of two signs."""
    if sql[begin] == "/":
        return _Token(begin + 2, "/*", Doubt.RUN_COMMENT)
    # What follows may be a space in another character set, and make it a comment.
    return _Token(begin + 1, "-", None if sql[begin + 2].isascii() else Doubt.UNCLEAR)


def _comment_end(sql: str, begin: int, is_mysql: bool) -> int | None:
    """Where the comment ends that begins there; negative if nowhere, None if none begins."""
    if sql.startswith("/*", begin):
        if sql.startswith(("!", "M!"), begin + 2):
            return None
        return _flat_end(sql, begin) if is_mysql else _nested_end(sql, begin)
    if sql.startswith("--", begin):
        begins = not is_mysql or _is_blank(sql[begin + 2 : begin + 3])
    else:
        begins = is_mysql and sql.startswith("#", begin)
    return _line_end(sql, begin, is_mysql) if begins else None


def _is_blank(sign: str) -> bool:
    """Whether dashes before it make a comment on MySQL: a space, a control character or nothing."""
    return sign <= " " or sign == "\x7f"


def _line_end(sql: str, begin: int, is_mysql: bool) -> int:
    found = _LINE_END[is_mysql].search(sql, begin)
    return found.start() if found else len(sql)


def _flat_end(sql: str, begin: int) -> int:
    closed = sql.find("*/", begin + 2)
    return -1 if closed < 0 else closed + 2


def _nested_end(sql: str, begin: int) -> int:
    """Where a comment of PostgreSQL's ends, those within it included."""
    depth = 0
    for edge in _COMMENT_EDGE.finditer(sql, begin):
        depth += 1 if edge[0] == "/*" else -1
        if depth == 0:
            return edge.end()
    return -1


def _quoted(sql: str, floor: int, begin: int, reading: Reading) -> _Token:
    """A literal or a quoted name."""
    quote, doubt = sql[begin], None
    escapes = quote in reading.escaping
    if quote == "'" and not reading.is_mysql and (prefix := _name_before(sql, floor, begin)):
        doubt = Doubt.UNCLEAR if prefix[0] in _NO_NAME else None
        escapes = prefix in ("E", "e") or (escapes and prefix.upper() not in ("B", "X"))
    pattern = (_ESCAPED if escapes else _PLAIN)[quote]
    found = pattern.match(sql, begin)
    while found and quote == "'" and (gap := _GOES_ON.match(sql, found.end())):
        found = pattern.match(sql, gap.end())
    return _Token(found.end(), "''", doubt) if found else _never_closed(sql)


def _dollar(sql: str, floor: int, opened: re.Match[str], is_mysql: bool) -> _Token:
    """A literal between two equal $tags$ on PostgreSQL, or a part of a name."""
    before = _name_before(sql, floor, opened.start())
    if before or is_mysql:
        # A name may hold dollars. MySQL has dollar quotes since 9.0, where one began with them.
        is_name = before and before[0] not in _NO_NAME
        end = _name_end(sql, opened.start())
        return _Token(end, sql[opened.start() : end], None if is_name else Doubt.UNCLEAR)
    closed = sql.find(opened[0], opened.end())
    return _Token(closed + len(opened[0]), "''") if closed >= 0 else _never_closed(sql)


def _never_closed(sql: str) -> _Token:
    return _Token(len(sql), "''", Doubt.OPEN_QUOTE)


def _name_before(sql: str, floor: int, end: int) -> str:
    """What looks like a name and ends there, of the code that begins at the floor."""
    begin = end
    while begin > floor and _IN_NAME.match(sql, begin - 1):
        begin -= 1
    return sql[begin:end]


def _name_end(sql: str, begin: int) -> int:
    end = begin
    while _IN_NAME.match(sql, end):
        end += 1
    return end


def split(code: str) -> list[str]:
    """The statements of what `lex` left, without the spaces around them; none is empty."""
    return [text for part in code.split(";") if (text := part.strip(FILLER))]


def word_of(sql: str, is_mysql: bool) -> str:
    """The first word, upper case, without lexing the rest; empty where none is first."""
    at = 0
    while True:
        while sql[at : at + 1] and sql[at] in FILLER:
            at += 1
        end = _comment_end(sql, at, is_mysql)
        if end is None or end < 0:
            break
        at = end
    found = _WORD.match(sql, at)
    return found[0].upper() if found else ""


def leading(code: str) -> str:
    """The word that code begins with, upper case, or nothing."""
    found = _WORD.match(code)
    return found[0].upper() if found else ""
