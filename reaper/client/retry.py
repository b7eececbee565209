"""Try again? After how long? The pure decision after a failure; it never sleeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from reaper.client.deadline import Deadline
from reaper.client.faults import Fault

Dice = Callable[[], float]


class Phase(StrEnum):
    """How far a request had got when it failed."""

    # No connection yet
    OPENING = "opening"
    # The server cannot have a complete statement
    UNSENT = "unsent"
    # a statement on its own was sent, its answer is missing
    WORKING = "working"
    # COMMIT was not sent
    IN_TRANSACTION = "in_transaction"
    # COMMIT was sent, its answer is missing
    COMMITTING = "committing"


class Effect(StrEnum):
    """What a failed request has done to the data."""

    NOT_EXECUTED = "not_executed"
    ROLLED_BACK = "rolled_back"
    UNKNOWN = "unknown"


# The request ended without an answer of the server's.
_UNANSWERED = frozenset({Fault.LOST, Fault.TIMEOUT})

_RETRYABLE = frozenset(
    {
        Fault.TOO_MANY,
        Fault.UNREACHABLE,
        Fault.STARTING,
        Fault.LOST,
        Fault.READ_ONLY,
        Fault.DEADLOCK,
        Fault.LOCK_TIMEOUT,
        Fault.TRANSIENT,
    }
)

# What only time fixes; also a login that is hung up on, which is what a load balancer without
# servers behind it does.
_OUTWAITED = frozenset({Fault.TOO_MANY, Fault.STARTING, Fault.UNREACHABLE, Fault.READ_ONLY})

# Another connection may work right now; waiting first would only cost time.
_IMMEDIATELY = frozenset({Fault.LOST, Fault.CREDENTIALS, Fault.TRANSIENT})


def effect(fault: Fault, phase: Phase) -> Effect:
    """What the failed request has done.

    An answered error has undone its statement; silence may hide anything.
    """
    if phase in (Phase.OPENING, Phase.UNSENT):
        return Effect.NOT_EXECUTED
    if fault is Fault.IN_DOUBT or (fault in _UNANSWERED and phase is not Phase.IN_TRANSACTION):
        return Effect.UNKNOWN
    return Effect.ROLLED_BACK


@dataclass(frozen=True)
class Patience:
    """How often and how long to try.

    Waits have full jitter: anything from nothing to the doubled step, in seconds.
    """

    attempts: int = 8
    # While the server lets nobody in: about a minute, if the deadline leaves that
    logins: int = 60
    first_wait: float = 0.05
    longest_wait: float = 2.0

    def wait(self, failures: int, dice: Dice) -> float:
        return dice() * min(self.longest_wait, self.first_wait * 2.0**failures)


@dataclass(frozen=True)
class Failure:
    """One failure of a request; `failures` counts it and those before it in the same call."""

    fault: Fault
    phase: Phase
    failures: int
    idempotent: bool = False
    # False for a procedure, which may have committed half before its error
    is_atomic: bool = True
    secret_was_read_again: bool = False

    @property
    def effect(self) -> Effect:
        return effect(self.fault, self.phase)


def wait_before_retry(
    failure: Failure, patience: Patience, deadline: Deadline, dice: Dice
) -> float | None:
    """Seconds to wait before the next attempt; None to give up.

    Only what is proven not to have been executed, or was rolled back, is tried again, unless it is
    idempotent. Credentials are tried once more, after the secret has been read again.
    """
    is_shut_out = failure.fault in _OUTWAITED or (
        failure.fault is Fault.LOST and failure.phase is Phase.OPENING
    )
    most = patience.logins if is_shut_out else patience.attempts
    if failure.failures >= most or not _may_retry(failure):
        return None
    is_first = failure.failures == 1
    wait = (
        0.0 if is_first and failure.fault in _IMMEDIATELY else patience.wait(failure.failures, dice)
    )
    return wait if deadline.affords(wait) else None


def _may_retry(failure: Failure) -> bool:
    if failure.fault is Fault.CREDENTIALS:
        return failure.phase is Phase.OPENING and not failure.secret_was_read_again
    if not failure.is_atomic and failure.phase is Phase.WORKING and not failure.idempotent:
        return False
    if failure.effect is Effect.UNKNOWN:
        return failure.idempotent and failure.fault in (Fault.LOST, Fault.IN_DOUBT)
    return failure.fault in _RETRYABLE
