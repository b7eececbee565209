"""A database that survives a freeze: one connection kept between invocations, retried when that is
safe.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property, wraps
from typing import Any, TypeVar, cast

from reaper.client import commits, tokens
from reaper.client.credentials import CredentialsUnavailable
from reaper.client.deadline import RESERVE, Deadline, DeadlineExceeded
from reaper.client.drivers import driver_for
from reaper.client.drivers.base import Connection, Driver, Result
from reaper.client.events import Event, EventKind, Observer, Stats
from reaper.client.faults import Fault
from reaper.client.kept import DEFAULTS, REAL, Keeper, Means, Settings
from reaper.client.retry import Effect, Failure, Phase, wait_before_retry
from reaper.client.statements import ends_transaction, is_atomic, kind, only_reads
from reaper.client.target import ConfigurationError, EngineName, Target, parse_dsn

T = TypeVar("T")

_logger = logging.getLogger(__name__)

# Bytes (AWS, "Avoiding pinning an RDS Proxy")
PINS_ABOVE = 16 * 1024
_NO_TURN = "no time left waiting for the thread that has the connection"

Params = Sequence[Any] | Mapping[str, Any] | None


class OutcomeUnknown(Exception):
    """The connection was lost when the server may or may not have done the work; `error` is the
    driver's own.

    Doing it again could do it twice. Ask the data, or give the transaction a token.
    """

    def __init__(self, statement: str, error: BaseException) -> None:
        super().__init__(f"nobody knows whether the {statement} was done: {type(error).__name__}")
        self.error = error


@dataclass
class _Invocation:
    deadline: Deadline
    request_id: str | None
    keys: set[tuple[str, str]]


class Transaction:
    """What `work` gets: the same verbs, inside one transaction that is re-run whole or not at all."""

    def __init__(self, database: Database, connection: Connection) -> None:
        self._database = database
        self._connection = connection
        self.lost: BaseException | None = None
        self.last_error: BaseException | None = None

    def query(self, sql: str, params: Params = None) -> list[dict[str, Any]]:
        return self.execute(sql, params).rows

    def execute(self, sql: str, params: Params = None) -> Result:
        """Run a statement; raise ConfigurationError for one that would commit the transaction it
        runs in.
        """
        if ends_transaction(sql, self._database.is_mysql):
            raise ConfigurationError(
                f"{kind(sql)} would commit or end the transaction it runs in; run it outside of "
                f"db.transaction"
            )
        self._ask_what_an_error_left()
        # The work went on after an error that has undone what it did before
        if self.lost is not None:
            raise self.lost
        try:
            return self._database._run(self._connection, sql, params)
        # Whatever it is; noted and raised again unchanged
        except Exception as error:
            self.last_error = error
            if self._database.driver.fault(error) in _UNDOES_ALL:
                self.lost = error
            raise

    def undone_by(self, driver: Driver) -> BaseException | None:
        """The error, swallowed by the work, after which what it did before is gone."""
        self._ask_what_an_error_left()
        return self.lost or (self.last_error if driver.has_failed(self._connection) else None)

    def _ask_what_an_error_left(self) -> None:
        """With innodb_rollback_on_timeout MySQL undoes all for a lock's timeout, and its error does
        not say so.
        """
        database, error = self._database, self.last_error
        if not database.is_mysql or error is None or self.lost is not None:
            return
        database.driver.ping(self._connection)
        self.last_error = None
        if not database.driver.in_transaction(self._connection):
            self.lost = error


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
        means: Means = REAL,
    ) -> None:
        given = parse_dsn(dsn) | ({"secret": secret} if secret else {})
        self.target = Target.from_mapping(given, "DSN")
        # Kept, for each query asks
        self.is_mysql = self.target.engine is EngineName.MYSQL
        self.settings = settings
        self.stats = Stats()
        self._observer = on_event
        self._means = means
        self._process, self._lock = os.getpid(), threading.Condition()
        self._kept = Keeper(self.target, settings, means, password, self._tell)
        self._invocation: _Invocation | None = None
        # What has the connection to itself at the moment
        self._occupied = ""
        # The thread whose turn it is, or was last
        self._occupant = 0
        self._taken: Connection | None = None

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ, **more: Any) -> Database:
        """DATABASE_URL, and DATABASE_SECRET where the password stands in Secrets Manager or, as
        ssm:/name, in SSM.
        """
        if not (dsn := environ.get("DATABASE_URL")):
            raise ConfigurationError(
                "DATABASE_URL is not set; write mysql://user@host/database or postgresql://…"
            )
        return cls(dsn, secret=environ.get("DATABASE_SECRET") or None, **more)

    @cached_property
    def driver(self) -> Driver:
        return driver_for(self.target.engine)

    def handler(self, function: Callable[[Any, Any], T]) -> Callable[[Any, Any], T]:
        """One deadline for the whole invocation: what Lambda's context leaves, less a reserve."""

        @wraps(function)
        def invoked(event: Any, context: Any) -> T:
            deadline = Deadline.from_context(context, RESERVE, self._means.clock)
            self._invocation = _Invocation(
                deadline, getattr(context, "aws_request_id", None), set()
            )
            try:
                return function(event, context)
            finally:
                # Else a thread still works; the next use tidies
                with suppress(DeadlineExceeded), self._turn(deadline):
                    self._leave("left in use" if self._taken is not None else "")
                self._invocation = None

        return invoked

    def query(self, sql: str, params: Params = None) -> list[dict[str, Any]]:
        """Rows of one read, tried again whenever the connection is lost: twice is harmless.

        Raises ConfigurationError for anything but SELECT, SHOW, VALUES, EXPLAIN and WITH without a
        write.
        """
        if not only_reads(sql, self.is_mysql):
            raise ConfigurationError(
                f"query() takes one read, and {kind(sql)} is none; use execute()"
            )
        return self._retried(kind(sql), True, self._statement, sql, params).rows

    def execute(self, sql: str, params: Params = None, *, idempotent: bool = False) -> Result:
        """Run a statement on its own; sent again only if it is proven not to have been executed.

        Raises OutcomeUnknown where nobody knows, unless the caller says that twice is harmless.
        """
        return self._retried(kind(sql), idempotent, self._statement, sql, params)

    def transaction(
        self, work: Callable[[Transaction], T], *, token: str | None = None, name: str | None = None
    ) -> T:
        """Run `work(tx)` in a transaction and commit; the whole of it is run again where it was
        rolled back.

        With a token its effect is there exactly once, whoever retries: the key is the token and the
        name, by default the work's. Without one PostgreSQL is asked what became of a lost COMMIT,
        and where it cannot tell, as on MySQL, OutcomeUnknown is raised.
        """
        named = name or str(getattr(work, "__qualname__", type(work).__name__))
        key = None if token is None else (named, token)
        if key is not None:
            self._claim_in_invocation(key)
        result: T = self._retried("transaction", key is not None, self._transact, work, key)
        if key is not None and self._means.dice() < tokens.SHARE_THAT_CLEANS:
            self._clean_up_tokens()
        return result

    def forget_tokens(self, days: int = tokens.DAYS) -> int:
        """Delete tokens of more than so many days, at most a thousand; how many those were.

        One transaction in a hundred does it by itself.
        """
        return self.execute(tokens.FORGET[self.target.engine], (days,), idempotent=True).rowcount

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """The driver's own connection, checked; what happens on it is not retried."""
        connection = self.take("a connection() block")
        try:
            yield connection
        finally:
            self.give_back(connection)

    def take(self, what: str) -> Connection:
        """The driver's own connection, checked, for this thread alone until `give_back`."""
        with self._turn(self._deadline()):
            taken: Connection = self._retried(
                "connection", True, lambda attempt: attempt.connection
            )
            taken.own_cursor = None
            self._taken, self._occupied = taken, what
            return taken

    def give_back(self, connection: Connection, unusable: str = "") -> None:
        """The end of `take`, from whichever thread; nothing where the end of the invocation has
        come before.
        """
        if self._process != os.getpid():
            # Taken by the parent, before the fork
            return
        with self._lock:
            if connection is self._taken:
                self._leave(unusable)

    def _leave(self, unusable: str = "") -> None:
        """Have the connection ready for the next: unusable, for the reason given, or tidied up."""
        self._taken, self._occupied = None, ""
        if unusable:
            self._kept.discard(unusable)
        self._kept.tidy(self._deadline())
        self._lock.notify_all()

    def close(self) -> None:
        """Let go of the connection; the next statement opens another."""
        with self._turn(self._deadline()):
            self._kept.discard("closed")

    def __repr__(self) -> str:
        state = "connected" if self._kept.connection else "not connected"
        return f"<Database {self.target.engine} {self.target.user}@{self.target.host}:{self.target.port} {state}>"

    def _clean_up_tokens(self) -> None:
        try:
            self.forget_tokens()
        except Exception as error:  # noqa: BLE001  the transaction is committed: this must not look as if it were not
            self._tell(
                EventKind.ADVISED, f"old tokens could not be deleted: {type(error).__name__}"
            )

    def _statement(self, attempt: _Attempt, sql: str, params: Params) -> Result:
        return self._run(attempt.connection, sql, params)

    def _run(self, connection: Connection, sql: str, params: Params) -> Result:
        if self._kept.behind_proxy and self.driver.size(connection, sql, params) > PINS_ABOVE:
            self._tell(
                EventKind.ADVISED,
                "RDS Proxy pins a connection for a statement over 16 KB",
                kind(sql),
            )
        return self.driver.run(connection, sql, params)

    # One request, from the first attempt to the last.

    def _retried(
        self, statement: str, twice_is_harmless: bool, work: Callable[..., T], *given: Any
    ) -> T:
        """What `work` comes to, given the attempt and the rest; the only place from which anything
        is tried again.
        """
        deadline = self._deadline()
        self._take_turn(deadline)
        try:
            if self._occupied:
                raise ConfigurationError(
                    f"the one connection is in {self._occupied}; use what that gave you"
                )
            earlier: list[Failure] = []
            while True:
                attempt = _Attempt(self.driver)
                try:
                    attempt.connection = self._kept.ready(deadline)
                    result = work(attempt, *given)
                except Exception as error:  # noqa: BLE001  raised again unless trying again is safe
                    failure = self._failure(error, attempt, statement, twice_is_harmless, earlier)
                    if failure.fault in UNUSABLE:
                        self._kept.discard(failure.fault)
                    came_of_it = self._came_of(attempt, failure, deadline)
                    if came_of_it == "committed":
                        return cast(T, attempt.result)
                    if came_of_it == "aborted":
                        failure = replace(failure, phase=Phase.IN_TRANSACTION)
                    earlier = [*(_settled(earlier) if attempt.settled else earlier), failure]
                    self._after(earlier, error, statement, deadline)
                else:
                    self._kept.used()
                    return result
        finally:
            self._lock.release()

    def _failure(
        self,
        error: Exception,
        attempt: _Attempt,
        statement: str,
        twice_is_harmless: bool,
        earlier: list[Failure],
    ) -> Failure:
        return Failure(
            fault=error.fault
            if isinstance(error, CredentialsUnavailable)
            else self.driver.fault(error),
            phase=attempt.phase(error),
            failures=len(earlier) + 1,
            twice_is_harmless=twice_is_harmless,
            is_atomic=is_atomic(statement),
            secret_was_read_again=(
                any(failure.fault is Fault.CREDENTIALS for failure in earlier)
                or not self._kept.login_can_change
            ),
        )

    def _after(
        self, failures: list[Failure], error: Exception, statement: str, deadline: Deadline
    ) -> None:
        """Return when it is time to try again, else raise."""
        failure = failures[-1]
        if failure.fault is Fault.CREDENTIALS:
            self._kept.forget_login()
        wait = wait_before_retry(failure, self.settings.patience, deadline, self._means.dice)
        if wait is not None:
            self._tell(EventKind.RETRIED, failure.fault, statement)
            self._means.sleep(wait)
            return
        is_read = failure.twice_is_harmless and failure.phase is Phase.WORKING
        # A later attempt that did nothing settles no earlier doubt.
        lost_commit = any(
            each.effect is Effect.UNKNOWN and each.phase is Phase.COMMITTING for each in failures
        )
        in_doubt = lost_commit or (failure.effect is Effect.UNKNOWN and not is_read)
        self._tell_of_the_end(failure, statement, in_doubt)
        if in_doubt:
            raise OutcomeUnknown(statement, error) from error
        if failure.failures > 1:
            error.add_note(f"reaper.client: given up after {failure.failures} attempts")
        raise error

    def _tell_of_the_end(self, failure: Failure, statement: str, in_doubt: bool) -> None:
        if in_doubt:
            self._tell(EventKind.OUTCOME_UNKNOWN, failure.fault, statement)
        elif failure.fault in (Fault.TIMEOUT, Fault.QUERY_TIMEOUT):
            self._tell(EventKind.TIMED_OUT, failure.fault, statement)
        elif failure.fault in (Fault.TOO_MANY, Fault.CREDENTIALS, Fault.UNREACHABLE):
            self._tell(EventKind.REFUSED, failure.fault, statement)

    def _transact(
        self, attempt: _Attempt, work: Callable[[Transaction], T], key: tuple[str, str] | None
    ) -> T:
        driver, connection = self.driver, attempt.connection
        attempt.in_transaction = True
        driver.run(connection, "BEGIN", None)
        try:
            if (
                key is not None
                and not driver.run(connection, tokens.CLAIM[self.target.engine], key).rowcount
            ):
                (row,) = driver.run(connection, tokens.RECALL, key).rows
                driver.run(connection, "ROLLBACK", None)
                done: T = tokens.from_text(row["result"])
                return done
            attempt.settled = key is not None
            transaction = Transaction(self, connection)
            self._occupied = "a transaction"
            try:
                result = work(transaction)
            finally:
                self._occupied = ""
            # The work went on as if nothing had happened
            if undone := transaction.undone_by(driver):
                raise undone
            if key is not None:
                driver.run(connection, tokens.REMEMBER, (tokens.to_text(result), *key))
        except BaseException:
            self._kept.roll_back(connection)
            raise
        if key is None and not self.is_mysql:
            attempt.result, attempt.ticket = result, commits.take(driver, connection)
        if not driver.is_alive(connection):
            # Raises the loss: COMMIT was not sent, so there is no doubt
            driver.ping(connection)
        attempt.committing = True
        driver.run(connection, "COMMIT", None)
        return result

    def _came_of(self, attempt: _Attempt, failure: Failure, deadline: Deadline) -> str | None:
        """What became of a COMMIT whose answer was lost; None where nobody can tell before the
        deadline.
        """
        ticket = (
            attempt.ticket
            if failure.phase is Phase.COMMITTING and failure.effect is Effect.UNKNOWN
            else None
        )
        if ticket is None:
            return None
        wait = self.settings.patience.first_wait
        try:
            while True:
                came_of_it = commits.status(self.driver, self._kept.ready(deadline), ticket)
                if came_of_it != "in progress" or not deadline.affords(wait):
                    return came_of_it
                self._means.sleep(wait)
        except Exception:  # noqa: BLE001  then the doubt stays, and is told with the error that caused it
            self._kept.discard("does not answer")
            return None

    def _deadline(self) -> Deadline:
        if self._invocation is not None:
            return self._invocation.deadline
        clock = self._means.clock
        return Deadline(clock() + self.settings.timeout, clock)

    def _claim_in_invocation(self, key: tuple[str, str]) -> None:
        if self._invocation is None:
            return
        if key in self._invocation.keys:
            raise ConfigurationError(
                f"the token was used for {key[0]!r} in this invocation already; say name="
            )
        self._invocation.keys.add(key)

    @contextmanager
    def _turn(self, deadline: Deadline) -> Iterator[None]:
        self._take_turn(deadline)
        try:
            yield
        finally:
            self._lock.release()

    def _take_turn(self, deadline: Deadline) -> None:
        """Lock the database for this thread, waiting no longer than the deadline: while it is used,
        or taken.

        A forked child starts with a lock of its own, whoever held the parent's.
        """
        if self._process != os.getpid():
            self._process, self._lock, self._occupied = os.getpid(), threading.Condition(), ""
        lock, me = self._lock, threading.get_ident()
        if not lock.acquire(blocking=False) and not lock.acquire(timeout=_patience(deadline)):
            raise DeadlineExceeded(_NO_TURN)
        is_taken = self._occupied and self._occupant != me
        if is_taken and not lock.wait_for(lambda: not self._occupied, _patience(deadline)):
            lock.release()
            raise DeadlineExceeded(_NO_TURN)
        self._occupant = me

    def _tell(self, what: EventKind, reason: str = "", statement: str = "") -> None:
        self.stats.counts[what] += 1
        if self._observer is None:
            return
        request_id = self._invocation.request_id if self._invocation else None
        event = Event(
            what, self.target.name, str(reason), statement, request_id, *self._kept.age_and_idle
        )
        try:
            self._observer(event)
        # a listener's must not make a committed write look like a failed one
        except Exception as mistake:
            # What was being told of: a driver's error, whose text can quote SQL
            mistake.__context__ = None
            _logger.exception("on_event raised for %s", what)


# After these the connection is out of step, gone, or leads to a server that is not the writer any
# more.
UNUSABLE = frozenset({Fault.LOST, Fault.TIMEOUT, Fault.READ_ONLY, Fault.STARTING, Fault.IN_DOUBT})

# An answer that says so, or none: the transaction is gone.
_UNDOES_ALL = frozenset({Fault.LOST, Fault.TIMEOUT, Fault.IN_DOUBT, Fault.DEADLOCK})


def _settled(failures: list[Failure]) -> list[Failure]:
    """What the failures come to once the token was found free: none of them has committed."""
    return [replace(failure, phase=Phase.IN_TRANSACTION) for failure in failures]


def _patience(deadline: Deadline) -> float:
    return min(deadline.remaining(), threading.TIMEOUT_MAX)


class _Attempt:
    """How far one attempt has got."""

    connection: Connection | None = None
    in_transaction = False
    committing = False
    settled = False
    ticket: commits.Ticket | None = None
    result: object = None

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def phase(self, error: BaseException) -> Phase:
        if self.connection is None:
            return Phase.OPENING
        was_sent = self._driver.was_sent(self.connection, error)
        if self.in_transaction:
            return Phase.COMMITTING if self.committing and was_sent else Phase.IN_TRANSACTION
        return Phase.WORKING if was_sent else Phase.UNSENT
