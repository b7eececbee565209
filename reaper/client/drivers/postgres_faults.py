"""What the errors of PostgreSQL and its poolers mean, as psycopg raises them."""

from __future__ import annotations

import re

import psycopg

from reaper.client.deadline import DeadlineExceeded
from reaper.client.faults import Fault, first_line, of_deadline

# By SQLSTATE, then by its class (PostgreSQL's appendix A). Never by exception class: psycopg files 25P03 and 25006
# under InternalError. 57P04, a dropped database, is left out on purpose.
_STATES = {
    "08": Fault.LOST,  # connection_exception, 08P01 of PgBouncer included
    "08007": Fault.IN_DOUBT,  # transaction_resolution_unknown
    "25006": Fault.READ_ONLY,  # read_only_sql_transaction
    "25P03": Fault.LOST,  # idle_in_transaction_session_timeout
    "25P04": Fault.QUERY_TIMEOUT,  # transaction_timeout: takes the connection along
    "28000": Fault.CREDENTIALS,  # invalid_authorization_specification
    "28P01": Fault.CREDENTIALS,  # invalid_password
    "3D000": Fault.CONFIGURATION,  # invalid_catalog_name
    "40000": Fault.DEADLOCK,  # transaction_rollback
    "40001": Fault.DEADLOCK,  # serialization_failure
    "40003": Fault.IN_DOUBT,  # statement_completion_unknown
    "40P01": Fault.DEADLOCK,  # deadlock_detected
    "53000": Fault.TRANSIENT,  # insufficient_resources
    "53200": Fault.TRANSIENT,  # out_of_memory
    "53300": Fault.TOO_MANY,  # too_many_connections
    "53400": Fault.TOO_MANY,  # configuration_limit_exceeded
    "55006": Fault.TRANSIENT,  # object_in_use
    "55P03": Fault.LOCK_TIMEOUT,  # lock_not_available: lock_timeout and NOWAIT alike
    "57014": Fault.CANCELLED,  # query_canceled
    "57P01": Fault.LOST,  # admin_shutdown
    "57P02": Fault.LOST,  # crash_shutdown
    "57P03": Fault.STARTING,  # cannot_connect_now
    "57P05": Fault.LOST,  # idle_session_timeout
}

_POOLERS = {
    "no more connections allowed": Fault.TOO_MANY,  # PgBouncer
    "query_wait_timeout": Fault.TOO_MANY,  # PgBouncer
    "Max client connections reached": Fault.TOO_MANY,  # Supavisor
    "Timed-out waiting to acquire database connection": Fault.TOO_MANY,  # RDS Proxy, as 08000
}

# States with a second meaning that only the first line tells; without such a text the table above holds.
_SECOND_MEANINGS = {
    "08": _POOLERS,
    "0A000": {"cached plan must not change result type": Fault.TRANSIENT},
    "26000": {"_pg3_": Fault.TRANSIENT},  # psycopg's own name: the pooler gave us another session
    "42P05": {"_pg3_": Fault.TRANSIENT},
    "53400": {"temp_file_limit": Fault.OTHER},  # the query's own size (measured)
    "57014": {"due to statement timeout": Fault.QUERY_TIMEOUT},
}

# libpq hands a failed connect over without its SQLSTATE, and a lost connection has none: the text is all there is.
# The first that fits; names are taken out of the text beforehand.
_TEXTS = {
    # psycopg's own words for a session that was open.
    "the connection is closed": Fault.LOST,
    "the connection is lost": Fault.LOST,
    "connection socket closed": Fault.LOST,
    "consuming input failed": Fault.LOST,
    "flushing failed": Fault.LOST,
    # The server's, a pooler's or libpq's reason not to open one.
    "too many clients already": Fault.TOO_MANY,
    "remaining connection slots are reserved": Fault.TOO_MANY,  # for whom differs with version and RDS
    "too many connections for": Fault.TOO_MANY,  # role, database
    **_POOLERS,
    "number of client connections to the proxy exceeded": Fault.TOO_MANY,  # RDS Proxy, as the next two
    "Rate of connection to proxy exceeded": Fault.TOO_MANY,
    "IAM authentication failed because of too many competing requests": Fault.TOO_MANY,
    "the database system is": Fault.STARTING,  # starting up, shutting down, in recovery mode, not (yet) accepting
    "authentication failed": Fault.CREDENTIALS,  # password, PAM, SASL, IAM
    "no password supplied": Fault.CREDENTIALS,
    "The password that was provided for the role": Fault.CREDENTIALS,  # RDS Proxy
    "no credentials for the role": Fault.CREDENTIALS,  # RDS Proxy
    'role ""': Fault.CREDENTIALS,  # does not exist, is not permitted to log in
    "SSL error: unexpected eof": Fault.UNREACHABLE,  # hung up amid the handshake
    "SSL error:": Fault.CONFIGURATION,
    "certificate": Fault.CONFIGURATION,
    "does not support SSL": Fault.CONFIGURATION,
    "authentication method requirement": Fault.CONFIGURATION,  # our own: no password in clear text
    "requires TLS connections": Fault.CONFIGURATION,  # RDS Proxy
    "only with SSL connections": Fault.CONFIGURATION,  # RDS Proxy
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
    """What the error means: by SQLSTATE, then by its class; by text where it has none or the state says too little."""
    if isinstance(error, DeadlineExceeded):
        return of_deadline(error)
    if isinstance(error, _WAITS):
        return Fault.TIMEOUT
    if not isinstance(error, psycopg.Error):
        return Fault.OTHER
    if state := error.sqlstate:
        return _by_state(state, first_line(error))
    # Without a state only this class speaks of connections; the others quote the application's values.
    if isinstance(error, psycopg.OperationalError):
        return _by_text(_TEXTS, _NAMES.sub('""', str(error))) or Fault.OTHER
    return Fault.OTHER


def _by_state(state: str, text: str) -> Fault:
    second = _SECOND_MEANINGS.get(state) or _SECOND_MEANINGS.get(state[:2], {})
    return _by_text(second, text) or _STATES.get(state) or _STATES.get(state[:2], Fault.OTHER)


def _by_text(texts: dict[str, Fault], text: str) -> Fault | None:
    return next((found for phrase, found in texts.items() if phrase in text), None)
