"""What the errors of PostgreSQL and its poolers mean, as psycopg raises them."""

from __future__ import annotations

import re

import psycopg

from reaper.client.deadline import DeadlineExceeded
from reaper.client.faults import Fault, first_line, of_deadline

# By SQLSTATE, then by its class (PostgreSQL's appendix A). Never by exception class: psycopg files
# 25P03 and 25006 under InternalError. 57P04, a dropped database, is left out on purpose.
_STATES = {
    # connection_exception, 08P01 of PgBouncer included
    "08": Fault.LOST,
    # transaction_resolution_unknown
    "08007": Fault.IN_DOUBT,
    # read_only_sql_transaction
    "25006": Fault.READ_ONLY,
    # idle_in_transaction_session_timeout
    "25P03": Fault.LOST,
    # transaction_timeout: takes the connection along
    "25P04": Fault.QUERY_TIMEOUT,
    # invalid_authorization_specification
    "28000": Fault.CREDENTIALS,
    # invalid_password
    "28P01": Fault.CREDENTIALS,
    # invalid_catalog_name
    "3D000": Fault.CONFIGURATION,
    # transaction_rollback
    "40000": Fault.DEADLOCK,
    # serialization_failure
    "40001": Fault.DEADLOCK,
    # statement_completion_unknown
    "40003": Fault.IN_DOUBT,
    # deadlock_detected
    "40P01": Fault.DEADLOCK,
    # insufficient_resources
    "53000": Fault.TRANSIENT,
    # out_of_memory
    "53200": Fault.TRANSIENT,
    # too_many_connections
    "53300": Fault.TOO_MANY,
    # configuration_limit_exceeded
    "53400": Fault.TOO_MANY,
    # object_in_use
    "55006": Fault.TRANSIENT,
    # lock_not_available: lock_timeout and NOWAIT alike
    "55P03": Fault.LOCK_TIMEOUT,
    # query_canceled
    "57014": Fault.CANCELLED,
    # admin_shutdown
    "57P01": Fault.LOST,
    # crash_shutdown
    "57P02": Fault.LOST,
    # cannot_connect_now
    "57P03": Fault.STARTING,
    # idle_session_timeout
    "57P05": Fault.LOST,
}

_POOLERS = {
    # PgBouncer
    "no more connections allowed": Fault.TOO_MANY,
    # PgBouncer
    "query_wait_timeout": Fault.TOO_MANY,
    # Supavisor
    "Max client connections reached": Fault.TOO_MANY,
    # RDS Proxy, as 08000
    "Timed-out waiting to acquire database connection": Fault.TOO_MANY,
}

# States with a second meaning that only the first line tells; without such a text the table above
# holds.
_SECOND_MEANINGS = {
    "08": _POOLERS,
    "0A000": {"cached plan must not change result type": Fault.TRANSIENT},
    # psycopg's own name: the pooler gave us another session
    "26000": {"_pg3_": Fault.TRANSIENT},
    "42P05": {"_pg3_": Fault.TRANSIENT},
    # The query's own size (measured)
    "53400": {"temp_file_limit": Fault.OTHER},
    "57014": {"due to statement timeout": Fault.QUERY_TIMEOUT},
}

# Libpq hands a failed connect over without its SQLSTATE, and a lost connection has none: the text
# is all there is. The first that fits; names are taken out of the text beforehand.
_TEXTS = {
    # psycopg's own words for a session that was open.
    "the connection is closed": Fault.LOST,
    "the connection is lost": Fault.LOST,
    "connection socket closed": Fault.LOST,
    "consuming input failed": Fault.LOST,
    "flushing failed": Fault.LOST,
    # The server's, a pooler's or libpq's reason not to open one.
    "too many clients already": Fault.TOO_MANY,
    # For whom differs with version and RDS
    "remaining connection slots are reserved": Fault.TOO_MANY,
    # Role, database
    "too many connections for": Fault.TOO_MANY,
    **_POOLERS,
    # RDS Proxy, as the next two
    "number of client connections to the proxy exceeded": Fault.TOO_MANY,
    "Rate of connection to proxy exceeded": Fault.TOO_MANY,
    "IAM authentication failed because of too many competing requests": Fault.TOO_MANY,
    # Starting up, shutting down, in recovery mode, not (yet) accepting
    "the database system is": Fault.STARTING,
    # Password, PAM, SASL, IAM
    "authentication failed": Fault.CREDENTIALS,
    "no password supplied": Fault.CREDENTIALS,
    # RDS Proxy
    "The password that was provided for the role": Fault.CREDENTIALS,
    # RDS Proxy
    "no credentials for the role": Fault.CREDENTIALS,
    # Does not exist, is not permitted to log in
    'role ""': Fault.CREDENTIALS,
    # Hung up amid the handshake
    "SSL error: unexpected eof": Fault.UNREACHABLE,
    "SSL error:": Fault.CONFIGURATION,
    "certificate": Fault.CONFIGURATION,
    "does not support SSL": Fault.CONFIGURATION,
    # Our own: no password in clear text
    "authentication method requirement": Fault.CONFIGURATION,
    # RDS Proxy
    "requires TLS connections": Fault.CONFIGURATION,
    # RDS Proxy
    "only with SSL connections": Fault.CONFIGURATION,
    "pg_hba.conf": Fault.CONFIGURATION,
    'database ""': Fault.CONFIGURATION,
    # psycopg's words again, the same in every language: whatever the reason, nothing was opened.
    "connection failed:": Fault.UNREACHABLE,
    "connection is bad:": Fault.UNREACHABLE,
    "failed to resolve host": Fault.UNREACHABLE,
    # libpq's for a session that was open.
    "server closed the connection unexpectedly": Fault.LOST,
    "SSL connection has been closed unexpectedly": Fault.LOST,
    "could not receive data": Fault.LOST,
}

# A database may be called "certificate", a host 'pg_hba.conf'.
_NAMES = re.compile(r'"[^"]*"|(?<=host )\'[^\']*\'|(?<=host: )\'[^\']*\'')
_WAITS = (psycopg.errors.ConnectionTimeout, psycopg.errors.CancellationTimeout)


def fault(error: BaseException) -> Fault:
    """What the error means: by SQLSTATE, then by its class; by text where it has none or the state
    says too little.
    """
    if isinstance(error, DeadlineExceeded):
        return of_deadline(error)
    if isinstance(error, _WAITS):
        return Fault.TIMEOUT
    if not isinstance(error, psycopg.Error):
        return Fault.OTHER
    if state := error.sqlstate:
        return _by_state(state, first_line(error))
    # Without a state only this class speaks of connections; the others quote the application's
    # values.
    if isinstance(error, psycopg.OperationalError):
        return _by_text(_TEXTS, _NAMES.sub('""', str(error))) or Fault.OTHER
    return Fault.OTHER


def _by_state(state: str, text: str) -> Fault:
    second = _SECOND_MEANINGS.get(state) or _SECOND_MEANINGS.get(state[:2], {})
    return _by_text(second, text) or _STATES.get(state) or _STATES.get(state[:2], Fault.OTHER)


def _by_text(texts: dict[str, Fault], text: str) -> Fault | None:
    return next((found for phrase, found in texts.items() if phrase in text), None)
