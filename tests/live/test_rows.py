"""The client's rows of MySQL are those of PyMySQL alone, whatever their types and however long they
are.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pymysql.cursors
import pytest

from lab.servers import Server
from reaper.client.database import Database

# performance_schema means nothing to the client
LEFT_OUT = ("mysql_nops",)

TYPES = """
SELECT 1 AS small, -9223372036854775808 AS low, 18446744073709551615 AS high, 1.50 AS price, 1e100
AS huge,
       CAST(0.1 AS DOUBLE) AS tenth, NULL AS nothing, '' AS no_text, 'ä😀' AS words, x'00FFFB' AS
       raw,
       CAST('2026-02-28' AS DATE) AS born, CAST('2026-02-28 12:34:56.789' AS DATETIME(3)) AS moment,
       CAST('-12:34:56' AS TIME) AS lasted, JSON_OBJECT('a', 1) AS document, TRUE AS yes, b'101' AS
       bits
"""
LENGTHS = [
    f"SELECT REPEAT('x', {size}) AS cell, 7 AS after"
    for size in (250, 251, 65535, 65536, 3_000_000)
]
NUMBERS = (
    "SELECT a.n * 100 + b.n AS n, REPEAT('y', b.n) AS y FROM {hundred} AS a CROSS JOIN {hundred} "
    "AS b ORDER BY n"
)
# More than are remembered
MANY_COLUMNS = f"SELECT {', '.join(f'{n} AS column_{n}' for n in range(300))}"
ONE_NAME = "SELECT a.n, b.n, 3 AS n FROM (SELECT 1 AS n) AS a CROSS JOIN (SELECT 2 AS n) AS b"
HUNDRED = f"({' UNION ALL '.join(f'SELECT {n} AS n' for n in range(100))})"


STATEMENTS = [
    TYPES,
    *LENGTHS,
    NUMBERS.format(hundred=HUNDRED),
    MANY_COLUMNS,
    ONE_NAME,
    "SELECT 1 AS n WHERE FALSE",
]


@pytest.mark.parametrize("sql", STATEMENTS)
def test_rows_are_those_of_the_driver(mysql: Server, sql: str) -> None:
    """Values and their types are the driver's, of one row or of ten thousand, of no byte or of
    millions.
    """
    with closing(mysql.connect("app", mysql.home)) as connection:
        cursor = connection.cursor(pymysql.cursors.DictCursor)
        cursor.execute(sql)
        alone: list[dict[str, Any]] = list(cursor.fetchall())
    with closing(Database(mysql.dsn("app"))) as database:
        rows = database.query(sql)
    assert rows == alone
    assert [[type(value) for value in row.values()] for row in rows] == [
        [*map(type, row.values())] for row in alone
    ]


def test_rows_one_by_one(mysql: Server) -> None:
    """A cursor that holds no more than one row, which an application asks of the connection, reads
    as PyMySQL does.
    """
    with closing(Database(mysql.dsn("app"))) as database, database.connection() as connection:
        cursor = connection.cursor(pymysql.cursors.SSCursor)
        cursor.execute("SELECT 1 AS n UNION ALL SELECT 2")
        assert list(cursor) == [(1,), (2,)]


def test_a_row_that_fails_midway_is_the_drivers_error(mysql: Server) -> None:
    """An error that comes after the first rows is raised, and none of them is given."""
    deep = "(SELECT 1 AS n UNION ALL SELECT 2) AS t"
    sql = (
        f"SELECT n, (SELECT 1 FROM {deep} WHERE t.n <= o.n) AS one FROM (SELECT 1 AS n UNION ALL "
        f"SELECT 2) AS o"
    )
    with closing(Database(mysql.dsn("app"))) as database:
        # a subquery of more than one row
        with pytest.raises(pymysql.err.OperationalError, match="1242"):
            database.query(sql)
        assert database.query("SELECT 1 AS n") == [{"n": 1}]
