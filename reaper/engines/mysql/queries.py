"""Runs statements on the reaper's connection to MySQL."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import pymysql

from reaper.client.drivers.connection import Connection
from reaper.engines.mysql.errors import DENIED, code
from reaper.engines.rows import Fetched


def query(connection: Connection, sql: str) -> list[Fetched]:
    """The rows of one statement; raise PyMySQL's error where it fails."""
    return connection.answer(sql).rows


def query_if_allowed(connection: Connection, sql: str) -> list[Fetched] | None:
    """The rows, or None where this account or this version of the server may not read them."""
    try:
        return query(connection, sql)
    except pymysql.Error as error:
        if code(error) in DENIED:
            return None
        raise


def each_result(
    connection: Connection, statements: str
) -> Iterator[Sequence[Sequence[object]] | None]:
    """Run several statements in one packet; give the rows of each result, one after the other.

    None stands for a result without columns, with which each KILL and each CALL ends. An error
    ends the packet: the statements after it are not run, and PyMySQL's error is raised.
    """
    with connection.raw.cursor() as cursor:
        cursor.execute(statements)
        yield None if cursor.description is None else cursor.fetchall()
        while cursor.nextset():
            yield None if cursor.description is None else cursor.fetchall()


def listed(ids: Iterable[int]) -> str:
    """Ids for an IN list: integers and nothing else, since KILL clamps what it cannot read."""
    return ", ".join(f"{id_:d}" for id_ in ids)
