"""What `query` takes for a read changes nothing on the real server, however the text is written and
whatever the server's settings make of its quotes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing, suppress

import psycopg
import pymysql
import pytest

from lab.servers import Server
from reaper.client.database import Database
from reaper.client.fields import ConfigurationError
from tests.live.test_client_state import defaults

# performance_schema means nothing to the client
LEFT_OUT = ("mysql_nops",)

# Quotes and comments halved, nested and run, as either engine has them.
TRICKS = (
    "/* /* */", "/* /* */ */", "*/", "/*", "/*!", "/*!50000 ", "/*!999999 ", "/*M! ", "--a\n",
    "--\t'\n", "--\r",
    "# a\n", "#'\n", "'a'", "'\\'", "'\\''", "'", "''", '"a"', '"\\"', '"', "`a`",
    "`", "$$a$$", "$a$", "$$", "E'\\''", "E'a'\n'\\''", "B'1'", ";", ', "a"', ", '\\'", ", E'\\'",
    ", $a$'$a$", ", `'`",
)  # fmt: skip
# Whole ones, with which a text may well run.
FILLERS = ("", " ", "/* a */", "/* ' */", "-- a\n", "-- '\n", "/*+ a */", "/* ; */")
# What a text means to do, with the noise in between.
SHAPES = (
    "{} SELECT 1 {} {}",
    "{} SELECT 1 {}; DELETE FROM read_only {}",
    "{} SELECT 1 {} DELETE FROM read_only {}",
    "{} DELETE FROM read_only {} WHERE id < 9 {}",
    "WITH a AS (SELECT 1 {}) DELETE FROM read_only {} WHERE id < 9 {}",
    "WITH a AS (SELECT 1 {}) SELECT 1 {} FROM a {}",
    "WITH a AS (DELETE FROM read_only {} RETURNING id) SELECT 1 {} {}",
    "{} SELECT 1 {}; DROP TABLE read_only {}",
    "{} EXPLAIN ANALYZE {} DELETE FROM read_only {}",
)
SETTINGS = {
    "postgres": (None, {"standard_conforming_strings": "off"}),
    "mysql": (None, {"sql_mode": "'ANSI_QUOTES'"}, {"sql_mode": "'NO_BACKSLASH_ESCAPES'"}),
}
TEXTS = 200


def texts(seed: str) -> Iterator[str]:
    """The same texts for the same seed."""
    dice = random.Random(seed)
    for _ in range(TEXTS):
        noise = [
            "".join(dice.choice(dice.choice((FILLERS, FILLERS, TRICKS))) for _ in range(2))
            for _ in range(3)
        ]
        yield dice.choice(SHAPES).format(*noise)


class Table:
    """The table that the texts are after."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.renew()

    def renew(self) -> None:
        """Make it anew, for the next text to write to."""
        for sql in (
            "DROP TABLE IF EXISTS read_only",
            "CREATE TABLE read_only (id int)",
            "INSERT INTO read_only VALUES (1)",
        ):
            self._run(sql)

    def is_untouched(self) -> bool:
        """Whether its row is there."""
        try:
            return [tuple(row) for row in self._run("SELECT id FROM read_only")] == [(1,)]
        except (psycopg.errors.UndefinedTable, pymysql.err.ProgrammingError):
            return False

    def _run(self, sql: str) -> list[tuple[object, ...]]:
        with closing(self._server.connect("app")) as connection:
            cursor = connection.cursor()
            cursor.execute(sql)
            return list(cursor.fetchall()) if cursor.description else []


def sent_unchecked(server: Server, sql: str) -> None:
    """The text as the driver would send it, past `query`."""
    with (
        suppress(psycopg.Error, pymysql.Error),
        closing(server.connect("app")) as connection,
        closing(connection.cursor()) as cursor,
    ):
        cursor.execute(sql)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_read_changes_nothing(server: Server, which: int) -> None:
    """Of texts that hide a write among quotes and comments, those that would write are refused; and
    of those that are taken, many run.
    """
    settings = SETTINGS[server.engine][which:]
    if not settings:
        pytest.skip("no such setting on this engine")
    table = Table(server)
    ran = wrote = 0
    with defaults(server, **(settings[0] or {})), closing(Database(server.dsn("app"))) as db:
        for sql in texts(f"{server.engine} {which}"):
            try:
                db.query(sql)
                ran += 1
            except (psycopg.Error, pymysql.Error):
                pass
            except ConfigurationError:
                sent_unchecked(server, sql)
                if not table.is_untouched():
                    wrote += 1
                    table.renew()
                continue
            assert table.is_untouched(), sql
    assert ran
    assert wrote
