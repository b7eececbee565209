"""What the work of `Database.transaction` is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reaper.client.drivers.connection import Connection, Params, Result
from reaper.client.faults import Fault
from reaper.client.fields import ConfigurationError
from reaper.client.statements import ends_transaction, keeps_transaction, kind

Run = Callable[[Connection, str, Params], Result]


class TransactionEnded(Exception):
    """A statement ended the transaction that it ran in: what the work had done before it is
    committed or undone, nobody knows which, and the work is not run again.

    Split the work, or run that statement outside of `Database.transaction`.
    """

    def __init__(self, statement: str) -> None:
        super().__init__(
            f"{statement} ended the transaction it ran in, so a part of the work may be committed; "
            f"nothing after it was done. Run {statement} outside of db.transaction"
        )


class TransactionLeftOpen(Exception):
    """A statement of `Database.execute` began a transaction and left it open, so its writes were
    rolled back: the next statement would have run in it.
    """

    def __init__(self, statement: str) -> None:
        super().__init__(
            f"{statement} left a transaction open, and what it did was rolled back; run it within "
            "db.transaction"
        )


class Transaction:
    """What `work` gets: the same verbs, inside one transaction that is run again whole or not at
    all.
    """

    def __init__(
        self,
        connection: Connection,
        run: Run,
        is_mysql: bool,
        fault: Callable[[BaseException], Fault],
    ) -> None:
        self._connection = connection
        self._run, self._is_mysql, self._fault = run, is_mysql, fault
        self.lost: BaseException | None = None
        self.last_error: BaseException | None = None

    def query(self, sql: str, params: Params = None) -> list[dict[str, Any]]:
        """The rows of a statement. Raises what `execute` raises."""
        return self.execute(sql, params).rows

    def execute(self, sql: str, params: Params = None) -> Result:
        """Run a statement.

        Raises ConfigurationError for one that would commit the transaction it runs in,
        DeadlineExceeded where there was no answer in time, or the driver's own error.
        """
        if word := ends_transaction(sql, self._is_mysql):
            raise ConfigurationError(
                f"{word} would commit or end the transaction it runs in; run it outside of "
                f"db.transaction"
            )
        self._ask_what_an_error_left()
        # The work went on after an error that has undone what it did before.
        if self.lost is not None:
            raise self.lost
        is_certain = keeps_transaction(sql, self._is_mysql)
        if not is_certain:
            self._connection.mark_transaction()
        try:
            result = self._run(self._connection, sql, params)
        # Whatever it is: noted, and raised again unchanged.
        except Exception as error:
            self.last_error = error
            if self._fault(error) in _UNDOES_ALL:
                self.lost = error
            elif not is_certain:
                self._raise_if_ended(sql, error)
            raise
        if not self._connection.in_transaction() or not is_certain:
            self._raise_if_ended(sql)
        return result

    def _raise_if_ended(self, sql: str, error: Exception | None = None) -> None:
        """Raise TransactionEnded where the transaction is not the one that the work began in."""
        if self._connection.has_failed():
            return
        if error is not None and self._is_mysql:
            # An error's packet says nothing of the transaction.
            self._connection.ping()
            self.last_error = None
        if not self._connection.in_transaction() or not self._connection.is_same_transaction():
            self.lost = TransactionEnded(kind(sql))
            raise self.lost from error

    def undone_by(self) -> BaseException | None:
        """The error, swallowed by the work, that has undone what the work did before it."""
        self._ask_what_an_error_left()
        if self.lost is None and self._connection.has_failed():
            return self.last_error
        if self.lost is None and not self._connection.in_transaction():
            return TransactionEnded("the work")
        return self.lost

    def _ask_what_an_error_left(self) -> None:
        """With innodb_rollback_on_timeout MySQL undoes the whole transaction when a lock times out,
        and its error does not say so.
        """
        error = self.last_error
        if not self._is_mysql or error is None or self.lost is not None:
            return
        self._connection.ping()
        self.last_error = None
        if not self._connection.in_transaction():
            self.lost = error


# An answer that says so, or none: the transaction is gone.
_UNDOES_ALL = frozenset({Fault.LOST, Fault.TIMEOUT, Fault.IN_DOUBT, Fault.DEADLOCK})
