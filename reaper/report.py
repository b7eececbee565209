"""What one sweep saw and did, and its JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from reaper.model import (
    Action,
    KillMethod,
    Mode,
    Outcome,
    Reason,
    Session,
    Snapshot,
    State,
    Verdict,
)

_Word = TypeVar("_Word", bound=StrEnum)

# Victims that a report's JSON lists; a log line has a maximum size.
VICTIMS_SHOWN = 100


class ErrorKind(StrEnum):
    """Why a sweep failed; the README's table of errors says what to do about each."""

    LOCKED_OUT = "locked_out"
    BLIND = "blind"
    BUSY = "busy"
    CREDENTIALS = "credentials"
    UNREACHABLE = "unreachable"
    CONFIGURATION = "configuration"
    RIGHTS = "rights"
    DEADLINE = "deadline"
    SERVER = "server"


class Entry(StrEnum):
    """How the reaper got in."""

    # The connection it had kept
    SEAT = "seat"
    LOGIN = "login"
    # By a login that an ordinary client would have been refused
    RESERVED = "reserved"


@dataclass(frozen=True)
class SweepError:
    """Why a sweep failed, and a message for people; never SQL or a secret."""

    kind: ErrorKind
    message: str


@dataclass(frozen=True)
class Victim:
    """A session chosen to be terminated, and what became of it; None where it was not reached."""

    verdict: Verdict
    outcome: Outcome | None = None

    @property
    def session(self) -> Session:
        """The session as it was when it was chosen."""
        return self.verdict.session

    def to_json(self) -> dict[str, object]:
        """The victim as reports and log lines carry it."""
        session = self.session
        return {
            "id": session.id,
            "user": session.user,
            "host": session.host,
            "database": session.database,
            "application": session.application,
            "idle_seconds": rounded(session.idle_seconds),
            "reason": self.verdict.reason,
            "outcome": self.outcome,
        }


@dataclass(frozen=True)
class Report:
    """One sweep of one target. What was not read stays None or empty."""

    target: str
    engine: str
    trigger: str
    dry_run: bool
    entry: Entry | None = None
    # To log in; 1 where the kept connection was used
    attempts: int = 0
    mode: Mode = Mode.ROUTINE
    method: KillMethod | None = None
    snapshot: Snapshot | None = field(default=None, repr=False)
    verdicts: Sequence[Verdict] = field(default=(), repr=False)
    # Those of the last look, where there was more than one
    last_verdicts: Sequence[Verdict] = field(default=(), repr=False)
    victims: Sequence[Victim] = field(default=(), repr=False)
    warnings: Sequence[str] = ()
    pressure_remains: bool | None = None
    # From the invocation until a slot was seen to be free
    first_freed_seconds: float | None = None
    duration_seconds: float = 0.0
    error: SweepError | None = None

    @property
    def saw(self) -> Snapshot | None:
        """The snapshot, or None where it cannot be believed: a blind account saw nothing."""
        return None if self.snapshot is None or self.snapshot.blind else self.snapshot

    @property
    def zombies(self) -> int:
        """The number of sessions that the rules condemn, those beyond max_kills included."""
        return sum(
            v.action is Action.TERMINATE or v.reason is Reason.MAX_KILLS for v in self.verdicts
        )

    @property
    def outcomes(self) -> Counter[Outcome]:
        """How many victims had each outcome."""
        return Counter(victim.outcome for victim in self.victims if victim.outcome is not None)

    @property
    def freed(self) -> int:
        """The number of slots seen to become free. A difference of two counts would be falsified by
        new sessions.
        """
        return self.outcomes[Outcome.TERMINATED]

    @property
    def spared(self) -> Counter[Reason]:
        """How many sessions were spared for each reason."""
        return Counter(v.reason for v in self.verdicts if v.action is Action.SPARE)

    @property
    def oldest_idle_seconds(self) -> float | None:
        """The longest known idle time outside a transaction, None where none is known."""
        idle = self.saw.in_state(State.IDLE) if self.saw else []
        known = [session.idle_seconds for session in idle if session.idle_seconds is not None]
        return max(known, default=None)

    def count(self, *states: State) -> int | None:
        """How many sessions were in these states, None where they were not seen."""
        return None if self.saw is None else len(self.saw.in_state(*states))

    @property
    def total(self) -> int | None:
        """How many sessions there were besides the server's own, None where they were not seen."""
        if self.saw is None:
            return None
        return sum(session.state is not State.BACKGROUND for session in self.saw.sessions)

    @property
    def holding(self) -> Counter[Reason]:
        """Where pressure remains: how many sessions hold their slots, by the reason why each was
        spared or condemned.
        """
        if not self.pressure_remains:
            return Counter()
        left = {
            v.session.id: v.reason
            for v in self.last_verdicts or self.verdicts
            if v.session.is_client
        }
        for victim in self.victims:
            if victim.outcome is Outcome.SIGNALLED:
                # MySQL does not list a session that is rolling back.
                left[victim.session.id] = victim.verdict.reason
            elif victim.outcome is Outcome.TERMINATED:
                left.pop(victim.session.id, None)
        return Counter(left.values())

    def to_json(self) -> dict[str, object]:
        """The report as the function answers it and the log carries it."""
        saw = self.saw
        return {
            "target": self.target,
            "engine": self.engine,
            "flavour": self.snapshot.flavour if self.snapshot else None,
            "method": self.method,
            "warnings": list(self.warnings),
            "trigger": self.trigger,
            "mode": self.mode,
            "dry_run": self.dry_run,
            "entry": self.entry,
            "connections": {
                "used": saw.used if saw else None,
                "max": saw.usable if saw else None,
                "utilization": rounded(saw.utilization) if saw else None,
            },
            "sessions": {
                "total": self.total,
                "active": self.count(State.ACTIVE),
                "idle": self.count(State.IDLE),
                "idle_in_transaction": self.count(State.IDLE_IN_TRANSACTION),
            },
            "zombies": self.zombies,
            "outcomes": _by_name(self.outcomes),
            "freed": self.freed,
            "spared": _by_name(self.spared),
            "oldest_idle_seconds": rounded(self.oldest_idle_seconds),
            "victims": [victim.to_json() for victim in self.victims[:VICTIMS_SHOWN]],
            "pressure_remains": self.pressure_remains,
            "holding": _by_name(self.holding),
            "first_freed_seconds": rounded(self.first_freed_seconds),
            "duration_seconds": rounded(self.duration_seconds),
            "error": {"kind": self.error.kind, "message": self.error.message}
            if self.error
            else None,
        }


def rounded(seconds: float | None) -> float | None:
    """Seconds to the millisecond, or a share to three decimals."""
    return None if seconds is None else round(seconds, 3)


def span(seconds: float | None) -> str:
    """Seconds as people say them, in the two largest units: 42s, 15m 3s, 2h 5m, 3d 4h."""
    if seconds is None:
        return "?"
    left = int(seconds)
    days, hours, minutes, secs = left // 86400, left // 3600 % 24, left // 60 % 60, left % 60
    units = [(days, "d"), (hours, "h"), (minutes, "m"), (secs, "s")]
    first = next((place for place, (count, _) in enumerate(units) if count), 3)
    return " ".join(f"{count}{unit}" for count, unit in units[first : first + 2] if count) or "0s"


def _by_name(counts: Counter[_Word]) -> dict[str, int]:
    return {str(name): counts[name] for name in sorted(counts)}
