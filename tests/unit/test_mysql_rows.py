"""Rows of MySQL's text protocol: cut as PyMySQL cuts them, and what is no row is left to
PyMySQL.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pymysql.connections import MySQLResult
from pymysql.protocol import MysqlPacket

from reaper.client.drivers.mysql_rows import Converter, by_bytes, cut

KINDS: list[Converter] = [
    (None, None),
    ("utf8", None),
    ("ascii", int),
    ("ascii", float),
    ("ascii", Decimal),
]


def cell_of(kind: Converter) -> st.SearchStrategy[bytes | None]:
    encoding, convert = kind
    if convert is not None:
        values: st.SearchStrategy[bytes] = st.integers(-(2**63), 2**64).map(
            lambda number: str(number).encode()
        )
    elif encoding is None:
        values = st.binary(max_size=300)
    else:
        values = st.text(max_size=300).map(str.encode)
    long = st.sampled_from([250, 251, 252, 65535, 65536]).map(
        lambda size: b"1" * min(size, 300 if convert else size)
    )
    return st.none() | values | long


@st.composite
def rows(draw: st.DrawFn) -> tuple[list[Converter], list[bytes | None]]:
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=6))
    return kinds, [draw(cell_of(kind)) for kind in kinds]


def packed(cells: list[bytes | None]) -> bytes:
    return b"".join(b"\xfb" if cell is None else length_of(cell) + cell for cell in cells)


def length_of(cell: bytes) -> bytes:
    size = len(cell)
    if size < 251:
        return bytes([size])
    return (
        b"\xfc" + size.to_bytes(2, "little")
        if size < 1 << 16
        else b"\xfd" + size.to_bytes(3, "little")
    )


def by_pymysql(packet: bytes, kinds: list[Converter]) -> tuple[Any, ...]:
    result: Any = MySQLResult(None)  # type: ignore[arg-type]  # the connection is not needed to cut a row
    result.converters = kinds
    row: tuple[Any, ...] = result._read_row_from_packet(MysqlPacket(packet, "utf8"))
    return row


@given(rows())
def test_a_row_is_what_pymysql_makes_of_it(
    given_: tuple[list[Converter], list[bytes | None]],
) -> None:
    """Whatever the cells' lengths and kinds, the values are those of PyMySQL's own method."""
    kinds, cells = given_
    packet = packed(cells)
    row = cut(packet, [by_bytes(*kind) for kind in kinds])
    assert row == by_pymysql(packet, kinds)
    assert row is not None
    assert list(map(type, row)) == list(map(type, by_pymysql(packet, kinds)))


@given(rows(), st.data())
def test_what_is_not_exactly_a_row_is_left_to_pymysql(
    given_: tuple[list[Converter], list[bytes | None]], data: st.DataObject
) -> None:
    """A packet that ends early or goes on after the last cell is never cut into something else."""
    kinds, cells = given_
    texts: list[Converter] = [(None, None) for _ in kinds]
    packet = packed(cells)
    assert cut(packet + b"\0", texts) is None
    assert cut(packet[: data.draw(st.integers(0, len(packet) - 1))], texts) is None


def test_a_length_that_no_cell_has_is_left_to_pymysql() -> None:
    """0xFF begins no cell."""
    assert cut(b"\xffabc", [(None, None)]) is None
