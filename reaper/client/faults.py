"""What a driver's error means, in words both engines share."""

from __future__ import annotations

from enum import StrEnum

from reaper.client.deadline import DeadlineExceeded
from reaper.client.redaction import printable

_LONGEST_LINE = 500


class Fault(StrEnum):
    """The family of an error. What no table knows is OTHER: never guessed at.

    It tells what the error says, not how far the caller had got: whether a LOST statement was ever
    sent, and whether a READ_ONLY or a CREDENTIALS was to be expected, only the caller knows.
    """

    # The connection, or the way to it.
    # no slot is free, or the account is at its own limit
    TOO_MANY = "too_many"
    # The server is there and does not serve yet, or no more
    STARTING = "starting"
    # No connection came about: DNS, refused, hung up on at the door
    UNREACHABLE = "unreachable"
    # Refused: a secret read anew may help once
    CREDENTIALS = "credentials"
    # TLS, a database that does not exist: a person must change something
    CONFIGURATION = "configuration"
    # Our own deadline, not the server's; what was sent may still run
    TIMEOUT = "timeout"
    # Gone or out of step: never to be used again
    LOST = "lost"
    # Refused: the address leads to a replica, or the transaction was begun read only
    READ_ONLY = "read_only"

    # A statement, on a connection that as a rule lives on.
    # the server rolled the whole transaction back and says: again
    DEADLOCK = "deadlock"
    # No lock in time: this statement alone undone, MySQL's transaction still open
    LOCK_TIMEOUT = "lock_timeout"
    # Refused for a passing reason: this statement was not executed
    TRANSIENT = "transient"
    # The server stopped it, at its limit or ours: undone; it would take as long again
    QUERY_TIMEOUT = "query_timeout"
    # Someone stopped it, we ourselves perhaps: undone, never repeated unasked
    CANCELLED = "cancelled"
    # The server itself does not know whether it was executed
    IN_DOUBT = "in_doubt"

    # The application's own: passed on, never repeated
    OTHER = "other"


def of_deadline(error: DeadlineExceeded) -> Fault:
    """Our own limit: undone like the server's where the server stopped it, else nobody knows."""
    return Fault.QUERY_TIMEOUT if error.stopped else Fault.TIMEOUT


def first_line(error: BaseException) -> str:
    """The first line of an error's text: what drivers append below it can quote SQL."""
    match error.args:
        # PyMySQL's way to carry the server's number
        case (int(code), str(text)):
            shown = f"{text} ({code})"
        case _:
            shown = str(error)
    return printable(next(iter(shown.strip().splitlines()), type(error).__name__)[:_LONGEST_LINE])
