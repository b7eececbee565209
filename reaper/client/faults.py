"""What a driver's error means, in words both engines share."""

from __future__ import annotations

from enum import StrEnum

from reaper.client.deadline import DeadlineExceeded
from reaper.client.target import printable

_LONGEST_LINE = 500


class Fault(StrEnum):
    """The family of an error. What no table knows is OTHER: never guessed at.

    It tells what the error says, not how far the caller had got: whether a LOST statement was ever sent,
    and whether a READ_ONLY or a CREDENTIALS was to be expected, only the caller knows.
    """

    # The connection, or the way to it.
    TOO_MANY = "too_many"  # no slot is free, or the account is at its own limit
    STARTING = "starting"  # the server is there and does not serve yet, or no more
    UNREACHABLE = "unreachable"  # no connection came about: DNS, refused, hung up on at the door
    CREDENTIALS = "credentials"  # refused: a secret read anew may help once
    CONFIGURATION = "configuration"  # TLS, a database that does not exist: a person must change something
    TIMEOUT = "timeout"  # our own deadline, not the server's; what was sent may still run
    LOST = "lost"  # gone or out of step: never to be used again
    READ_ONLY = "read_only"  # refused: the address leads to a replica, or the transaction was begun read only

    # A statement, on a connection that as a rule lives on.
    DEADLOCK = "deadlock"  # the server rolled the whole transaction back and says: again
    LOCK_TIMEOUT = "lock_timeout"  # no lock in time: this statement alone undone, MySQL's transaction still open
    TRANSIENT = "transient"  # refused for a passing reason: this statement was not executed
    QUERY_TIMEOUT = "query_timeout"  # the server stopped it, at its limit or ours: undone; it would take as long again
    CANCELLED = "cancelled"  # someone stopped it, we ourselves perhaps: undone, never repeated unasked
    IN_DOUBT = "in_doubt"  # the server itself does not know whether it was executed

    OTHER = "other"  # the application's own: passed on, never repeated


def of_deadline(error: DeadlineExceeded) -> Fault:
    """Our own limit: undone like the server's where the server stopped it, else nobody knows."""
    return Fault.QUERY_TIMEOUT if error.stopped else Fault.TIMEOUT


def first_line(error: BaseException) -> str:
    """The first line of an error's text: what drivers append below it can quote SQL."""
    match error.args:
        case (int(code), str(text)):  # PyMySQL's way to carry the server's number
            shown = f"{text} ({code})"
        case _:
            shown = str(error)
    return printable(next(iter(shown.strip().splitlines()), type(error).__name__)[:_LONGEST_LINE])
