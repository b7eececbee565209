"""What the client tells about itself: frozen events, and their counts. Never the SQL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum


class EventKind(StrEnum):
    """What happened to a connection or a statement."""

    CONNECTED = "connected"
    REUSED = "reused"
    # With the reason why
    DISCARDED = "discarded"
    RETRIED = "retried"
    # The server let nobody in, or not this account
    REFUSED = "refused"
    TIMED_OUT = "timed_out"
    OUTCOME_UNKNOWN = "outcome_unknown"
    # Nothing failed, but a setting or a statement is not as it should be; the reason says which
    ADVISED = "advised"

    # Every query is counted, and an Enum's own hash is a call into Python.
    __hash__ = str.__hash__


class GivenUp(StrEnum):
    """Why a kept connection was closed; the reason of a `discarded` event, beside the faults."""

    IDLE_TOO_LONG = "idle too long"
    TOO_OLD = "too old"
    ENDED_BY_SERVER = "ended by the server"
    NO_ANSWER = "does not answer"
    IN_TRANSACTION = "left in a transaction"
    NOT_AT_REST = "not as it was left"
    ROLLBACK_FAILED = "rollback failed"
    STOP_UNDER_WAY = "a stop is under way"
    LEFT_IN_USE = "left in use"
    CLOSED = "closed"
    NOT_PREPARED = "could not be prepared"
    SWEPT = "swept"
    NOT_WANTED = "not wanted any more"
    ORM_DID_NOT_BEGIN = "SQLAlchemy could not begin with it"
    ORM_INVALIDATED = "invalidated"
    ORM_NOT_RESTORED = "cannot be put back as it was"


@dataclass(frozen=True)
class Event:
    """One thing that happened. `age` and `idle` are the connection's, in seconds by the wall
    clock.
    """

    kind: EventKind
    target: str
    reason: str = ""
    # Its first word
    statement: str = ""
    request_id: str | None = None
    age: float | None = None
    idle: float | None = None


Observer = Callable[[Event], None]


@dataclass
class Stats:
    """How often each kind of event happened since the database object was made."""

    counts: Counter[EventKind] = field(default_factory=Counter)

    def __getattr__(self, name: str) -> int:
        # copy and pickle ask an object that has no counts yet.
        if name == "counts":
            raise AttributeError(name)
        try:
            return self.counts[EventKind(name)]
        except ValueError:
            raise AttributeError(name) from None
