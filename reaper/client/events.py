"""What the client tells about itself: frozen events, and their counts. Never the SQL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum


class EventKind(StrEnum):
    CONNECTED = "connected"
    REUSED = "reused"
    DISCARDED = "discarded"  # with the reason why
    RETRIED = "retried"
    REFUSED = "refused"  # the server let nobody in, or not this account
    TIMED_OUT = "timed_out"
    OUTCOME_UNKNOWN = "outcome_unknown"
    ADVISED = "advised"  # nothing failed, but a setting or a statement is not as it should be; the reason says which

    __hash__ = str.__hash__  # an Enum's own is Python, and every query is counted


@dataclass(frozen=True)
class Event:
    """One thing that happened. `age` and `idle` are the connection's, in seconds by the wall clock."""

    kind: EventKind
    target: str
    reason: str = ""
    statement: str = ""  # its first word
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
