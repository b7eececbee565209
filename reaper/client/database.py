"""A database that survives a freeze: one connection kept between invocations, retried when that is
safe.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property, wraps
from typing import Any, TypeVar, cast

from reaper.client import tokens
from reaper.client.attempt import (
    UNUSABLE,
    Attempt,
    OutcomeUnknown,
    fault_of,
    in_doubt,
    settled,
    why,
    with_refusal,
)
from reaper.client.commits import CommitOutcome, XactStatusProbe
from reaper.client.deadline import RESERVE, Deadline, DeadlineExceeded
from reaper.client.drivers import driver_for
from reaper.client.drivers.base import Driver
from reaper.client.drivers.connection import Connection, Params, Result
from reaper.client.events import Event, EventKind, GivenUp, Observer, Stats
from reaper.client.faults import Fault
from reaper.client.fields import ConfigurationError
from reaper.client.kept import DEFAULTS, REAL, Clocks, KeptConnection, Settings
from reaper.client.retry import Effect, Failure, Phase, wait_before_retry
from reaper.client.statements import controls_transaction, is_atomic, kind, only_reads
from reaper.client.target import EngineName, Target, parse_dsn
from reaper.client.transaction import Transaction, TransactionLeftOpen
from reaper.client.turns import Turns

T = TypeVar("T")

_logger = logging.getLogger("reaper.client")

# Bytes (AWS, "Avoiding pinning an RDS Proxy").
PINS_ABOVE = 16 * 1024

Parameters = Sequence[Any] | Mapping[str, Any] | None


@dataclass
class _Invocation:
    """One invocation of the user's handler."""

    deadline: Deadline
    request_id: str | None


class Database:
    """One database, one kept connection, one lock: threads take turns, a forked child opens its
    own.

    Opens nothing until the first statement.
    """

    def __init__(
        self,
        dsn: str,
        *,
        secret: str | None = None,
        password: Callable[[], str] | None = None,
        settings: Settings = DEFAULTS,
        on_event: Observer | None = None,
        clocks: Clocks = REAL,
    ) -> None:
        """Raises ConfigurationError for a DSN or a secret that cannot be understood."""
        given = parse_dsn(dsn) | ({"secret": secret} if secret else {})
        self.target = Target.from_mapping(given, "DSN")
        # Kept, since each query needs it.
        self.is_mysql = self.target.engine is EngineName.MYSQL
        self.settings = settings
        self.stats = Stats()
        self._observer = on_event
        self._clocks = clocks
        self._turns = Turns()
        self._kept = KeptConnection(self.target, settings, clocks, password, self._tell)
        self._invocation: _Invocation | None = None
        self._lent: Connection | None = None

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **more: Any) -> Database:
        """DATABASE_URL, and DATABASE_SECRET where the password stands in Secrets Manager or, as
        ssm:/name, in SSM.

        `environ` None: the process's own. Raises ConfigurationError where DATABASE_URL is not set,
        and what the class raises.
        """
        environ = os.environ if environ is None else environ
        if not (dsn := environ.get("DATABASE_URL")):
            raise ConfigurationError(
                "DATABASE_URL is not set; write mysql://user@host/database or postgresql://…"
            )
        return cls(dsn, secret=environ.get("DATABASE_SECRET") or None, **more)

    @cached_property
    def driver(self) -> Driver:
        """The engine's driver, loaded when it is first needed."""
        return driver_for(self.target.engine)

    def handler(self, function: Callable[[Any, Any], T]) -> Callable[[Any, Any], T]:
        """One deadline for the whole invocation: what Lambda's context leaves, less a reserve.

        Without a context of Lambda's, as in a unit test, it is `Settings.timeout`. A handler within
        another keeps the outer one's. Every verb raises DeadlineExceeded once that is over.
        """

        @wraps(function)
        def invoked(event: Any, context: Any) -> T:
            if self._invocation is not None:
                return function(event, context)
            deadline = self._deadline_of(context)
            request_id = getattr(context, "aws_request_id", None)
            self._invocation = _Invocation(
                deadline, request_id if isinstance(request_id, str) else None
            )
            try:
                return function(event, context)
            finally:
                # Where a thread is still at work, the next use tidies up.
                with suppress(DeadlineExceeded), self._turns.turn(deadline):
                    self._leave(GivenUp.LEFT_IN_USE if self._lent is not None else None)
                self._invocation = None

        return invoked

    def query(self, sql: str, params: Parameters = None) -> list[dict[str, Any]]:
        """Rows of one read, tried again whenever the connection is lost: reading twice is harmless.

        Raises ConfigurationError for anything but SELECT, SHOW, VALUES, EXPLAIN and WITH without a
        write; DeadlineExceeded; CredentialsUnavailable; or the driver's own error.
        """
        if not only_reads(sql, self.is_mysql):
            raise ConfigurationError(
                f"query() takes one read, and {kind(sql)} is none; use execute()"
            )
        return self._retried(kind(sql), True, self._statement, sql, params).rows

    def execute(self, sql: str, params: Parameters = None, *, idempotent: bool = False) -> Result:
        """Run a statement on its own; sent again only if it is proven not to have been executed.

        Raises OutcomeUnknown where nobody knows, unless the caller says that it is idempotent;
        DeadlineExceeded; CredentialsUnavailable; ConfigurationError; or the driver's own error.
        """
        if word := controls_transaction(sql, self.is_mysql):
            raise ConfigurationError(
                f"{word} through execute() would mean nothing for the statements after it; use "
                "db.transaction(work), or db.connection() for the driver's own"
            )
        return self._retried(kind(sql), idempotent, self._statement, sql, params)

    def transaction(
        self,
        work: Callable[[Transaction], T],
        *,
        token: str | None = None,
        name: str | None = None,
    ) -> T:
        """Run `work(tx)` in a transaction and commit; the whole of it is run again where it was
        rolled back.

        With a token its effect is there exactly once, whoever retries: the key is the token and the
        name, by default the work's module and qualified name. After a success the same key returns
        the stored result; after a failure, which was rolled back, the work is tried. Without one
        PostgreSQL is asked what became of a lost COMMIT, and where it cannot tell, as on MySQL,
        OutcomeUnknown is raised. Raises DeadlineExceeded, CredentialsUnavailable,
        ConfigurationError, the driver's own error, or whatever `work` does; with a token TypeError
        or ValueError for a result that cannot be stored.
        """
        key = None if token is None else tokens.Key.of(work, token, name)
        result: T = self._retried("transaction", key is not None, self._transact, work, key)
        if key is not None and self._clocks.dice() < tokens.SHARE_THAT_CLEANS:
            self._clean_up_tokens()
        return result

    def forget_tokens(self, days: int = tokens.DAYS) -> int:
        """Delete tokens of more than so many days, at most a thousand; return how many those were.

        One transaction in a hundred does it by itself. Raises what `execute` raises.
        """
        return self.execute(tokens.PURGE[self.target.engine], (days,), idempotent=True).rowcount

    @contextmanager
    def connection(self) -> Iterator[Any]:
        """The driver's own connection, checked; what happens on it is not retried.

        Raises DeadlineExceeded, CredentialsUnavailable, ConfigurationError, or the driver's error
        of a failed login.
        """
        lent = self.take("a connection() block")
        try:
            yield lent.raw
        finally:
            self.give_back(lent)

    def take(self, what: str) -> Connection:
        """The connection, checked, for this thread alone until `give_back`."""
        with self._turns.turn(self._deadline()):
            lent: Connection = self._retried("connection", True, lambda attempt: attempt.connection)
            lent.lend()
            self._lent, self._turns.occupied = lent, what
            return lent

    def give_back(self, connection: Connection, unusable: GivenUp | Fault | None = None) -> None:
        """The end of `take`, from whichever thread; does nothing where the end of the invocation
        came first.
        """
        # Taken by the parent, before the fork.
        if not self._turns.are_of_this_process:
            return
        with self._turns.held():
            if connection is self._lent:
                self._leave(unusable)

    def _leave(self, unusable: GivenUp | Fault | None) -> None:
        """Have the connection ready for the next: unusable, for the reason given, or tidied up."""
        self._lent = None
        if unusable:
            self._kept.discard(unusable)
        self._kept.tidy(self._deadline())
        self._turns.vacate()

    def close(self) -> None:
        """Close the connection; the next statement opens another. Raises DeadlineExceeded where
        another thread does not let go of it in time.
        """
        with self._turns.turn(self._deadline()):
            self._kept.discard(GivenUp.CLOSED)

    def __repr__(self) -> str:
        state = "connected" if self._kept.connection else "not connected"
        target = self.target
        return f"<Database {target.engine} {target.user}@{target.host}:{target.port} {state}>"

    def _clean_up_tokens(self) -> None:
        try:
            self.forget_tokens()
        except Exception as error:  # noqa: BLE001  the transaction is committed, and must look so
            self._tell(
                EventKind.ADVISED, f"old tokens could not be deleted: {type(error).__name__}"
            )

    def _statement(self, attempt: Attempt, sql: str, params: Params) -> Result:
        result = self._run(attempt.connection, sql, params)
        if attempt.connection.in_transaction():
            # A procedure's, say: it would be rolled back before the next statement.
            self._kept.roll_back(attempt.connection)
            raise TransactionLeftOpen(kind(sql))
        return result

    def _run(self, connection: Connection, sql: str, params: Params) -> Result:
        if self._kept.behind_proxy and connection.size(sql, params) > PINS_ABOVE:
            self._tell(
                EventKind.ADVISED,
                "RDS Proxy pins a connection for a statement over 16 KB",
                kind(sql),
            )
        return connection.run(sql, params)

    # One request, from the first attempt to the last.

    def _retried(self, statement: str, idempotent: bool, work: Callable[..., T], *given: Any) -> T:
        """What `work` returns, given the attempt and the rest; the only place from which anything
        is tried again.
        """
        deadline = self._deadline()
        self._turns.take(deadline)
        try:
            if self._turns.occupied:
                raise ConfigurationError(
                    f"the one connection is in {self._turns.occupied}; use what that gave you"
                )
            earlier: list[Failure] = []
            refused: Exception | None = None
            while True:
                attempt = Attempt()
                try:
                    attempt.begin(self._kept.ready(deadline))
                    result = work(attempt, *given)
                except Exception as error:  # noqa: BLE001  raised again unless trying again is safe
                    failure = self._failure(error, attempt, statement, idempotent, earlier)
                    outcome = self._outcome(attempt, failure, deadline)
                    if outcome is CommitOutcome.COMMITTED:
                        return cast(T, attempt.result)
                    if outcome is CommitOutcome.ABORTED:
                        failure = replace(failure, phase=Phase.IN_TRANSACTION)
                    earlier = [*(settled(earlier) if attempt.settled else earlier), failure]
                    self._wait_or_raise(
                        earlier, with_refusal(error, refused, earlier), statement, deadline
                    )
                    refused = error
                else:
                    self._kept.used()
                    return result
        finally:
            self._turns.release()

    def _failure(
        self,
        error: Exception,
        attempt: Attempt,
        statement: str,
        idempotent: bool,
        earlier: Sequence[Failure],
    ) -> Failure:
        """What the error means; a connection that it makes unusable is closed."""
        fault = fault_of(error, self.driver)
        if fault is Fault.READ_ONLY and not attempt.is_on_replica:
            # By a setting of the session's: waiting for another server would not help.
            fault = Fault.OTHER
        failure = Failure(
            fault=fault,
            phase=attempt.phase(error),
            failures=len(earlier) + 1,
            idempotent=idempotent,
            is_atomic=is_atomic(statement),
            secret_was_read_again=(
                any(failure.fault is Fault.CREDENTIALS for failure in earlier)
                or not self._kept.login_can_change
            ),
        )
        if failure.fault in UNUSABLE:
            self._kept.discard(failure.fault)
        return failure

    def _wait_or_raise(
        self, failures: Sequence[Failure], error: Exception, statement: str, deadline: Deadline
    ) -> None:
        """Return when it is time to try again, else raise."""
        failure = failures[-1]
        if failure.fault is Fault.CREDENTIALS:
            self._kept.forget_login()
        wait = wait_before_retry(failure, self.settings.patience, deadline, self._clocks.dice)
        if wait is not None:
            self._tell(EventKind.RETRIED, failure.fault, statement)
            self._clocks.sleep(wait)
            return
        is_unknown = in_doubt(failures)
        self._tell_of_the_end(failures, statement, is_unknown)
        if is_unknown:
            raise OutcomeUnknown(statement, error) from error
        if failure.failures > 1:
            error.add_note(f"reaper.client: given up after {failure.failures} attempts")
        raise error

    def _tell_of_the_end(
        self, failures: Sequence[Failure], statement: str, is_unknown: bool
    ) -> None:
        failure = failures[-1]
        if is_unknown:
            self._tell(EventKind.OUTCOME_UNKNOWN, failure.fault, statement)
        elif failure.fault in (Fault.TIMEOUT, Fault.QUERY_TIMEOUT):
            self._tell(EventKind.TIMED_OUT, why(failures), statement)
        elif failure.fault in (Fault.TOO_MANY, Fault.CREDENTIALS, Fault.UNREACHABLE):
            self._tell(EventKind.REFUSED, failure.fault, statement)

    def _transact(
        self, attempt: Attempt, work: Callable[[Transaction], T], key: tokens.Key | None
    ) -> T:
        connection = attempt.connection
        attempt.in_transaction = True
        connection.begin()
        try:
            if key is not None and not self._claimed(connection, key):
                return cast(T, self._replayed(connection, key))
            attempt.settled = key is not None
            result = self._worked(connection, work)
            if key is not None:
                connection.run(
                    tokens.STORE[self.target.engine],
                    {"result": tokens.to_text(result), **key.values},
                )
        except BaseException:
            self._kept.roll_back(connection)
            raise
        if key is None:
            attempt.result, attempt.probe = result, XactStatusProbe.prepare(connection)
        if not connection.is_alive():
            # Raises the loss: COMMIT was not sent, so there is no doubt.
            connection.ping()
        connection.guard.deadline.check("to commit, and the transaction was rolled back")
        attempt.committing = True
        connection.commit()
        return result

    def _claimed(self, connection: Connection, key: tokens.Key) -> bool:
        return bool(connection.run(tokens.INSERT[self.target.engine], key.values).rowcount)

    def _replayed(self, connection: Connection, key: tokens.Key) -> Any:
        """The result of the work that was done under this token."""
        rows = connection.run(tokens.SELECT[self.target.engine], key.values).rows
        connection.roll_back()
        if not rows:
            raise ConfigurationError(
                "the token differs from another only by spaces at its end, and the table of tokens "
                "takes them for the same; make its columns name and token VARBINARY(255) NOT NULL "
                "(ALTER TABLE)"
            )
        return tokens.from_text(rows[0]["result"])

    def _worked(self, connection: Connection, work: Callable[[Transaction], T]) -> T:
        """The work's result; raises the error that has undone it, where the work swallowed that."""
        transaction = Transaction(connection, self._run, self.is_mysql, self.driver.fault)
        self._turns.occupied = "a transaction"
        try:
            result = work(transaction)
        finally:
            self._turns.occupied = ""
        if undone := transaction.undone_by():
            raise undone
        return result

    def _outcome(
        self, attempt: Attempt, failure: Failure, deadline: Deadline
    ) -> CommitOutcome | None:
        """What became of a COMMIT whose answer was lost; None where nobody can tell before the
        deadline.
        """
        is_lost = failure.phase is Phase.COMMITTING and failure.effect is Effect.UNKNOWN
        if not is_lost or attempt.probe is None:
            return None
        wait = self.settings.patience.first_wait
        try:
            while True:
                outcome = attempt.probe.outcome(self._kept.ready(deadline))
                if outcome is not CommitOutcome.IN_PROGRESS or not deadline.affords(wait):
                    return outcome
                self._clocks.sleep(wait)
        except Exception:  # noqa: BLE001  the doubt stays, and is told with the error that caused it
            self._kept.discard(GivenUp.NO_ANSWER)
            return None

    def _deadline_of(self, context: Any) -> Deadline:
        """What the context leaves: Lambda's own, or one that wraps it, as durable functions do."""
        context = getattr(context, "lambda_context", None) or context
        remaining = getattr(context, "get_remaining_time_in_millis", None)
        if not callable(remaining) or not isinstance(remaining(), int | float):
            return self._deadline()
        return Deadline.from_context(context, RESERVE, self._clocks.clock)

    def _deadline(self) -> Deadline:
        if self._invocation is not None:
            return self._invocation.deadline
        clock = self._clocks.clock
        return Deadline(clock() + self.settings.timeout, clock)

    def _tell(
        self, what: EventKind, reason: str | GivenUp | Fault = "", statement: str = ""
    ) -> None:
        self.stats.counts[what] += 1
        if self._observer is None and not _logger.isEnabledFor(logging.DEBUG):
            return
        request_id = self._invocation.request_id if self._invocation else None
        event = Event(
            what, self.target.name, str(reason), statement, request_id, *self._kept.age_and_idle
        )
        _logger.debug("%s: %s %s", what, event.reason, statement, extra={"target": event.target})
        if self._observer is None:
            return
        try:
            self._observer(event)
        # A listener's mistake must not make a committed write look like a failed one.
        except Exception as mistake:
            # What was being told of: a driver's error, whose text can quote SQL.
            mistake.__context__ = None
            _logger.exception("on_event raised for %s", what)
