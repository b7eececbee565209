"""The retry decision, whole: every fault in every phase, harmless twice or not."""

from __future__ import annotations

from itertools import product

import pytest

from reaper.client.deadline import Deadline
from reaper.client.faults import Fault
from reaper.client.retry import Effect, Failure, Patience, Phase, effect, wait_before_retry

FAR = Deadline(1000.0, lambda: 0.0)
UNANSWERED = {Fault.LOST, Fault.TIMEOUT}
RETRIED = {
    Fault.TOO_MANY,
    Fault.UNREACHABLE,
    Fault.STARTING,
    Fault.LOST,
    Fault.READ_ONLY,
    Fault.DEADLOCK,
    Fault.LOCK_TIMEOUT,
    Fault.TRANSIENT,
}


def expected(fault: Fault, phase: Phase, harmless: bool) -> bool:
    """Written from the rules, not from the code: may this be tried again?"""
    if fault is Fault.CREDENTIALS:
        return phase is Phase.OPENING
    sent = phase in (Phase.WORKING, Phase.COMMITTING)
    in_doubt = (fault in UNANSWERED and sent) or (
        fault is Fault.IN_DOUBT and phase not in (Phase.OPENING, Phase.UNSENT)
    )
    if in_doubt:
        return harmless and fault is not Fault.TIMEOUT
    return fault in RETRIED


@pytest.mark.parametrize(("fault", "phase", "harmless"), list(product(Fault, Phase, [False, True])))
def test_the_whole_table(fault: Fault, phase: Phase, harmless: bool) -> None:
    """Only what is proven undone is tried again; doubt only where twice is harmless; unknown faults
    never.
    """
    failure = Failure(fault, phase, failures=1, idempotent=harmless)
    wait = wait_before_retry(failure, Patience(), FAR, lambda: 0.5)
    assert (wait is not None) is expected(fault, phase, harmless)


def test_harmless_is_what_the_caller_says() -> None:
    """Without a word from the caller, twice does harm."""
    assert (
        wait_before_retry(Failure(Fault.LOST, Phase.WORKING, 1), Patience(), FAR, lambda: 0.5)
        is None
    )


@pytest.mark.parametrize(
    ("fault", "phase", "result"),
    [
        (Fault.LOST, Phase.OPENING, Effect.NOT_EXECUTED),
        (Fault.LOST, Phase.UNSENT, Effect.NOT_EXECUTED),
        (Fault.LOST, Phase.WORKING, Effect.UNKNOWN),
        (Fault.LOST, Phase.IN_TRANSACTION, Effect.ROLLED_BACK),
        (Fault.LOST, Phase.COMMITTING, Effect.UNKNOWN),
        (Fault.TIMEOUT, Phase.WORKING, Effect.UNKNOWN),
        (Fault.TIMEOUT, Phase.IN_TRANSACTION, Effect.ROLLED_BACK),
        (Fault.DEADLOCK, Phase.WORKING, Effect.ROLLED_BACK),
        (Fault.DEADLOCK, Phase.COMMITTING, Effect.ROLLED_BACK),
        (Fault.IN_DOUBT, Phase.COMMITTING, Effect.UNKNOWN),
        (Fault.IN_DOUBT, Phase.IN_TRANSACTION, Effect.UNKNOWN),
        (Fault.OTHER, Phase.WORKING, Effect.ROLLED_BACK),
    ],
)
def test_effect(fault: Fault, phase: Phase, result: Effect) -> None:
    """An answered error has undone its statement; a missing answer hides anything, before COMMIT
    nothing lasting.
    """
    assert effect(fault, phase) is result


def test_attempts_are_bounded() -> None:
    """The last attempt's failure is final, whatever it was."""
    patience = Patience(attempts=3)
    waits = [
        wait_before_retry(Failure(Fault.LOST, Phase.UNSENT, n), patience, FAR, lambda: 0.5)
        for n in (1, 2, 3)
    ]
    assert [wait is None for wait in waits] == [False, False, True]


@pytest.mark.parametrize("fault", list(Fault))
def test_what_only_time_mends_is_waited_for(fault: Fault) -> None:
    """A server that lets nobody in, or takes no writes, is asked until the deadline, within a bound
    of its own; nothing else is.
    """
    patience = Patience(attempts=3, logins=30)
    waits = [
        wait_before_retry(Failure(fault, Phase.OPENING, n), patience, FAR, lambda: 0.5)
        for n in (3, 29, 30)
    ]
    shut_out = (Fault.TOO_MANY, Fault.STARTING, Fault.UNREACHABLE, Fault.LOST)
    is_outwaited = fault in (*shut_out, Fault.READ_ONLY)
    assert [wait is not None for wait in waits] == [is_outwaited, is_outwaited, False]


def test_a_lost_statement_is_not_a_lost_login() -> None:
    """The longer patience is for logins: a connection that is lost at work each time is not tried
    sixty times.
    """
    patience = Patience(attempts=3, logins=30)
    lost = [Failure(Fault.LOST, phase, 3, idempotent=True) for phase in Phase]
    waits = {
        failure.phase: wait_before_retry(failure, patience, FAR, lambda: 0.5) for failure in lost
    }
    assert [phase for phase, wait in waits.items() if wait is not None] == [Phase.OPENING]


def test_waits_double_with_full_jitter_up_to_a_limit() -> None:
    """A lost connection is replaced at once; otherwise waits double, never beyond the limit, and
    start at nothing.
    """
    patience = Patience(attempts=99, first_wait=0.1, longest_wait=1.0)

    def wait(fault: Fault, failures: int, dice: float) -> float | None:
        return wait_before_retry(
            Failure(fault, Phase.OPENING, failures), patience, FAR, lambda: dice
        )

    assert [wait(Fault.LOST, n, 1.0) for n in (1, 2, 3)] == [0.0, 0.4, 0.8]
    assert [wait(Fault.TOO_MANY, n, 1.0) for n in (1, 2, 3, 4, 50)] == [0.2, 0.4, 0.8, 1.0, 1.0]
    assert wait(Fault.TOO_MANY, 3, 0.0) == 0.0


@pytest.mark.parametrize("fault", sorted(RETRIED | {Fault.CREDENTIALS}))
def test_what_another_connection_mends_is_tried_at_once(fault: Fault) -> None:
    """A lost line, a secret that was changed, a passing refusal: only the others' first wait is
    one.
    """
    wait = wait_before_retry(Failure(fault, Phase.OPENING, 1), Patience(), FAR, lambda: 1.0)
    assert (wait == 0.0) is (fault in (Fault.LOST, Fault.CREDENTIALS, Fault.TRANSIENT))


@pytest.mark.parametrize(
    ("fault", "least", "most"),
    [(Fault.TOO_MANY, 45.0, 75.0), (Fault.DEADLOCK, 2.5, 5.0), (Fault.LOST, 2.5, 5.0)],
)
def test_the_patience_of_who_says_nothing(fault: Fault, least: float, most: float) -> None:
    """A server that lets nobody in is asked for about a minute, the rest is given up within
    seconds.
    """
    failures = (
        Failure(fault, Phase.OPENING if fault is Fault.TOO_MANY else Phase.UNSENT, n)
        for n in range(1, 100)
    )
    waits = [wait_before_retry(failure, Patience(), FAR, lambda: 0.5) for failure in failures]
    assert least < sum(wait for wait in waits if wait is not None) < most


def test_no_wait_beyond_the_deadline() -> None:
    """A wait that would not end before the deadline is not begun."""
    soon = Deadline(0.3, lambda: 0.0)
    patience = Patience(first_wait=0.1)
    assert (
        wait_before_retry(Failure(Fault.TOO_MANY, Phase.OPENING, 1), patience, soon, lambda: 1.0)
        == 0.2
    )
    assert (
        wait_before_retry(Failure(Fault.TOO_MANY, Phase.OPENING, 2), patience, soon, lambda: 1.0)
        is None
    )


def test_a_secret_is_read_again_once() -> None:
    """Refused credentials are tried once more with a secret read anew, then they are refused."""
    again = Failure(Fault.CREDENTIALS, Phase.OPENING, 2, secret_was_read_again=True)
    assert wait_before_retry(again, Patience(), FAR, lambda: 0.0) is None


@pytest.mark.parametrize("fault", list(Fault))
def test_a_procedure_is_not_undone_by_its_error(fault: Fault) -> None:
    """A CALL may have committed half before its deadlock: sent again only if it never ran, or twice
    is harmless.
    """

    def wait(phase: Phase, harmless: bool) -> float | None:
        failure = Failure(fault, phase, 1, idempotent=harmless, is_atomic=False)
        return wait_before_retry(failure, Patience(), FAR, lambda: 0.5)

    assert wait(Phase.WORKING, harmless=False) is None
    assert (wait(Phase.WORKING, harmless=True) is not None) is expected(
        fault, Phase.WORKING, harmless=True
    )
    assert (wait(Phase.UNSENT, harmless=False) is not None) is expected(
        fault, Phase.UNSENT, harmless=False
    )
