"""One attempt at a request, and what its failure means for the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from reaper.client.commits import XactStatusProbe
from reaper.client.credentials import CredentialsUnavailable
from reaper.client.deadline import DeadlineExceeded
from reaper.client.drivers.base import Driver
from reaper.client.drivers.connection import Connection
from reaper.client.faults import Fault
from reaper.client.retry import Effect, Failure, Phase

# After these the connection is out of step, gone, or leads to a server that is not the writer any
# more.
UNUSABLE = frozenset({Fault.LOST, Fault.TIMEOUT, Fault.READ_ONLY, Fault.STARTING, Fault.IN_DOUBT})


class OutcomeUnknown(Exception):
    """The connection was lost when the server may or may not have done the work; `error` is the
    driver's own.

    Doing it again could do it twice. Ask the data, or give the transaction a token.
    """

    def __init__(self, statement: str, error: BaseException) -> None:
        super().__init__(f"nobody knows whether the {statement} was done: {type(error).__name__}")
        self.error = error


class Attempt:
    """How far one attempt has got."""

    connection: Connection
    in_transaction = False
    committing = False
    # The token was found free: what an earlier attempt did has not been committed.
    settled = False
    probe: XactStatusProbe | None = None
    result: object = None

    def __init__(self) -> None:
        self._is_connected = False

    def begin(self, connection: Connection) -> None:
        """It has a connection."""
        self.connection, self._is_connected = connection, True

    @property
    def is_on_replica(self) -> bool:
        """Whether a refused write means that the server is not the writer."""
        return not self._is_connected or self.connection.is_replica()

    def phase(self, error: BaseException) -> Phase:
        """How far it had got when this error ended it."""
        if not self._is_connected:
            return Phase.OPENING
        was_sent = self.connection.was_sent(error)
        if self.in_transaction:
            return Phase.COMMITTING if self.committing and was_sent else Phase.IN_TRANSACTION
        return Phase.WORKING if was_sent else Phase.UNSENT


def fault_of(error: BaseException, driver: Driver) -> Fault:
    """What an error means, one from reading the credentials included."""
    return error.fault if isinstance(error, CredentialsUnavailable) else driver.fault(error)


def with_refusal(
    error: Exception, refused: Exception | None, failures: Sequence[Failure]
) -> Exception:
    """The error to raise where nothing more is tried: out of time after refusals says by what.

    The refusal is its cause, in the driver's own words.
    """
    if not isinstance(error, DeadlineExceeded) or refused is None or error.stopped:
        return error
    earlier = failures[:-1]
    told = DeadlineExceeded(
        f"{error}; before that {len(earlier)} attempts failed: {earlier[-1].fault}"
    )
    told.__cause__ = refused
    return told


def why(failures: Sequence[Failure]) -> str:
    """What the last of several failures was, and what the ones before it were."""
    *earlier, last = failures
    return (
        f"{last.fault} after {len(earlier)} attempts: {earlier[-1].fault}"
        if earlier
        else last.fault
    )


def settled(failures: Sequence[Failure]) -> list[Failure]:
    """What the failures mean once the token was found free: none of them has committed."""
    return [replace(failure, phase=Phase.IN_TRANSACTION) for failure in failures]


def in_doubt(failures: Sequence[Failure]) -> bool:
    """Whether nobody knows if the request was done, after these failures.

    If an earlier attempt may have committed, a later one that clearly did nothing does not resolve
    that.
    """
    last = failures[-1]
    lost_commit = any(
        each.effect is Effect.UNKNOWN and each.phase is Phase.COMMITTING for each in failures
    )
    is_read = last.idempotent and last.phase is Phase.WORKING
    return lost_commit or (last.effect is Effect.UNKNOWN and not is_read)
