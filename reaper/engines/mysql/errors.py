"""What the server's errors mean for a look and for a victim."""

from __future__ import annotations

import pymysql

from reaper.model import Outcome

# ER_KILL_QUERY_DENIED_ERROR, MariaDB's: the statement is somebody else's
NOT_OWNER = 1979
# A text in the process list cannot be converted to the connection's character set
CANNOT_CONVERT = 3854
# No right to read a table, or no such table in this version
DENIED = frozenset({1044, 1142, 1143, 1227, 1146, 1109})

_NO_SUCH_THREAD = 1094
# ER_KILL_DENIED_ERROR
_KILL_DENIED = 1095
_NO_SUCH_QUERY = 1957
_REFUSED = frozenset(
    {
        _KILL_DENIED,
        # ER_TABLEACCESS_DENIED_ERROR, inside a procedure
        1142,
        # ER_SPECIFIC_ACCESS_DENIED_ERROR
        1227,
        # ER_SP_DOES_NOT_EXIST
        1305,
        # ER_PROCACCESS_DENIED_ERROR; also the answer for a procedure that does not exist
        1370,
    }
)
_OUTCOMES = {
    _NO_SUCH_THREAD: Outcome.GONE,
    _NO_SUCH_QUERY: Outcome.CHANGED,
} | dict.fromkeys(_REFUSED, Outcome.REFUSED)
# rds_kill refuses by selecting a column named "ERROR (RDS): CANNOT KILL …"
_NO_SUCH_COLUMN = 1054
# The client's own codes: the connection was lost
_LOST_FROM, _LOST_UNTIL = 2000, 3000


def code(error: pymysql.Error) -> int | None:
    """The error's number, None where it has none."""
    return error.args[0] if error.args and isinstance(error.args[0], int) else None


def classify(error: pymysql.Error, *, has_right: bool = False) -> Outcome:
    """What a failed kill means for its victim.

    `has_right`: this account itself may KILL, so that only a victim with SYSTEM_USER is denied to
    it. Raises a lost connection's error again: it says nothing about what became of the victim.
    """
    number = code(error)
    if number == _NO_SUCH_COLUMN and "RDS" in str(error):
        return Outcome.REFUSED
    if number == _KILL_DENIED and has_right:
        return Outcome.SYSTEM_USER
    if number in _OUTCOMES:
        return _OUTCOMES[number]
    if isinstance(error, pymysql.InterfaceError) or (
        number is not None and _LOST_FROM <= number < _LOST_UNTIL
    ):
        raise error
    return Outcome.FAILED
