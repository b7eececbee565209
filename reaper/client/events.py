"""What the client tells about itself: frozen events, and their counts. Never the SQL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum


class EventKind(StrEnum):
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

    # An Enum's own is Python, and every query is counted
    __hash__ = str.__hash__


@dataclass(frozen=True)
class Event:
    """One thing that happened. `age` and `idle` are the connection's, in seconds by the wall clock."""

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
        try:
            return self.counts[EventKind(name)]
        except ValueError:
            raise AttributeError(name) from None
