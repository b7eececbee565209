"""What a driver's error means, in words both engines share."""

from __future__ import annotations

from enum import StrEnum


class Fault(StrEnum):
    """The family of an error. What no table knows is OTHER: never guessed at."""

    TOO_MANY = "too_many"  # no slot is free, or the account is at its own limit
    CREDENTIALS = "credentials"
    CONFIGURATION = "configuration"  # TLS, a database that does not exist: a person must change something
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    LOST = "lost"
    OTHER = "other"


def first_line(error: BaseException) -> str:
    """The first line of an error's text: what drivers append below it can quote SQL."""
    match error.args:
        case (int(code), str(text)):  # PyMySQL's way to carry the server's number
            shown = f"{text} ({code})"
        case _:
            shown = str(error)
    return next(iter(shown.strip().splitlines()), type(error).__name__)
