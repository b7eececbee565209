"""What the errors of MySQL, MariaDB and their proxies mean, as PyMySQL raises them."""

from __future__ import annotations

import ssl

import pymysql

from reaper.client.deadline import DeadlineExceeded
from reaper.client.faults import Fault, of_deadline

# By number. The two servers share those below 1900; of the later ones some have a second meaning
# (see _ONLY_WITH). 2xxx are the C client's numbers: PyMySQL raises 2003, 2006, 2013, 2014, 2026 and
# 2059, others may pass them through.
_CODES = {
    # PyMySQL's InterfaceError(0, ""): closed on our side
    0: Fault.LOST,
    # ER_CHECKREAD: MariaDB's snapshot conflict rolls all back, as a deadlock does (measured)
    1020: Fault.DEADLOCK,
    # ER_CON_COUNT_ERROR; RDS Proxy's limits too
    1040: Fault.TOO_MANY,
    # ER_OUT_OF_RESOURCES
    1041: Fault.TOO_MANY,
    # ER_BAD_HOST_ERROR
    1042: Fault.UNREACHABLE,
    # ER_HANDSHAKE_ERROR
    1043: Fault.UNREACHABLE,
    # ER_DBACCESS_DENIED_ERROR
    1044: Fault.CONFIGURATION,
    # ER_ACCESS_DENIED_ERROR; an expired IAM token too
    1045: Fault.CREDENTIALS,
    # ER_UNKNOWN_COM_ERROR: Galera's node has not joined yet
    1047: Fault.STARTING,
    # ER_BAD_DB_ERROR
    1049: Fault.CONFIGURATION,
    # ER_SERVER_SHUTDOWN
    1053: Fault.LOST,
    # ER_NORMAL_SHUTDOWN
    1077: Fault.LOST,
    # ER_SHUTDOWN_COMPLETE
    1079: Fault.LOST,
    # ER_FORCING_CLOSE
    1080: Fault.LOST,
    # ER_HOST_IS_BLOCKED
    1129: Fault.CONFIGURATION,
    # ER_HOST_NOT_PRIVILEGED
    1130: Fault.CONFIGURATION,
    # ER_CANT_CREATE_THREAD
    1135: Fault.TOO_MANY,
    # ER_ABORTING_CONNECTION
    1152: Fault.LOST,
    # ER_NET_PACKET_TOO_LARGE: the connection is gone, and would be again
    1153: Fault.OTHER,
    # ER_NET_READ_ERROR_FROM_PIPE
    1154: Fault.LOST,
    # ER_NET_PACKETS_OUT_OF_ORDER
    1156: Fault.LOST,
    # ER_NET_UNCOMPRESS_ERROR
    1157: Fault.LOST,
    # ER_NET_READ_ERROR
    1158: Fault.LOST,
    # ER_NET_READ_INTERRUPTED
    1159: Fault.LOST,
    # ER_NET_ERROR_ON_WRITE
    1160: Fault.LOST,
    # ER_NET_WRITE_INTERRUPTED
    1161: Fault.LOST,
    # ER_NEW_ABORTING_CONNECTION
    1184: Fault.LOST,
    # ER_TOO_MANY_USER_CONNECTIONS
    1203: Fault.TOO_MANY,
    # ER_LOCK_WAIT_TIMEOUT
    1205: Fault.LOCK_TIMEOUT,
    # ER_LOCK_TABLE_FULL: InnoDB rolls all back (convert_error_code_to_mysql)
    1206: Fault.DEADLOCK,
    # ER_LOCK_DEADLOCK
    1213: Fault.DEADLOCK,
    # ER_USER_LIMIT_REACHED
    1226: Fault.TOO_MANY,
    # ER_NOT_SUPPORTED_AUTH_MODE: in class 08, and lost for good
    1251: Fault.CONFIGURATION,
    # ER_OPTION_PREVENTS_STATEMENT
    1290: Fault.READ_ONLY,
    # ER_QUERY_INTERRUPTED: KILL QUERY
    1317: Fault.CANCELLED,
    # ER_TABLE_DEF_CHANGED
    1412: Fault.TRANSIENT,
    # ER_XA_RBTIMEOUT
    1613: Fault.DEADLOCK,
    # ER_XA_RBDEADLOCK
    1614: Fault.DEADLOCK,
    # ER_NEED_REPREPARE
    1615: Fault.TRANSIENT,
    # ER_TOO_MANY_CONCURRENT_TRXS
    1637: Fault.TRANSIENT,
    # ER_LOCK_ABORTED
    1689: Fault.LOCK_TIMEOUT,
    # ER_ACCESS_DENIED_NO_PASSWORD_ERROR
    1698: Fault.CREDENTIALS,
    # ER_READ_ONLY_MODE
    1836: Fault.READ_ONLY,
    # ER_MUST_CHANGE_PASSWORD_LOGIN
    1862: Fault.CONFIGURATION,
    # ER_CONNECTION_KILLED (MariaDB)
    1927: Fault.LOST,
    # ER_STATEMENT_TIMEOUT (MariaDB)
    1969: Fault.QUERY_TIMEOUT,
    # CR_SOCKET_CREATE_ERROR
    2001: Fault.UNREACHABLE,
    # CR_CONNECTION_ERROR
    2002: Fault.UNREACHABLE,
    # CR_CONN_HOST_ERROR
    2003: Fault.UNREACHABLE,
    # CR_IPSOCK_ERROR
    2004: Fault.UNREACHABLE,
    # CR_UNKNOWN_HOST
    2005: Fault.UNREACHABLE,
    # CR_SERVER_GONE_ERROR: PyMySQL could not send
    2006: Fault.LOST,
    # CR_SERVER_HANDSHAKE_ERR
    2012: Fault.UNREACHABLE,
    # CR_SERVER_LOST: PyMySQL could not read; 4031, 1927 and 1053 hide behind it
    2013: Fault.LOST,
    # CR_COMMANDS_OUT_OF_SYNC
    2014: Fault.LOST,
    # CR_SSL_CONNECTION_ERROR: PyMySQL's word for a server without TLS
    2026: Fault.CONFIGURATION,
    # CR_MALFORMED_PACKET
    2027: Fault.LOST,
    # CR_SHARED_MEMORY_CONNECT_ABANDONED_ERROR
    2045: Fault.LOST,
    # CR_INVALID_CONN_HANDLE
    2048: Fault.LOST,
    # CR_SERVER_LOST_EXTENDED
    2055: Fault.LOST,
    # CR_AUTH_PLUGIN_CANNOT_LOAD
    2059: Fault.CONFIGURATION,
    # CR_AUTH_PLUGIN_ERR
    2061: Fault.CONFIGURATION,
    # ER_QUERY_TIMEOUT (MySQL)
    3024: Fault.QUERY_TIMEOUT,
    # ER_USER_LOCK_DEADLOCK: GET_LOCK's, which rolls nothing back
    3058: Fault.LOCK_TIMEOUT,
    # ER_TRANSACTION_ROLLBACK_DURING_COMMIT: group replication
    3101: Fault.DEADLOCK,
    # ER_ACCOUNT_HAS_BEEN_LOCKED
    3118: Fault.CONFIGURATION,
    # ER_LOCKING_SERVICE_DEADLOCK
    3132: Fault.LOCK_TIMEOUT,
    # ER_LOCKING_SERVICE_TIMEOUT
    3133: Fault.LOCK_TIMEOUT,
    # ER_SECURE_TRANSPORT_REQUIRED
    3159: Fault.CONFIGURATION,
    # ER_SERVER_ISNT_AVAILABLE
    3168: Fault.LOST,
    # ER_SESSION_WAS_KILLED
    3169: Fault.LOST,
    # ER_LOCK_NOWAIT
    3572: Fault.LOCK_TIMEOUT,
    # ER_CLIENT_INTERACTION_TIMEOUT (MySQL)
    4031: Fault.LOST,
    # ER_DA_GLOBAL_CONN_LIMIT (MySQL)
    4081: Fault.TOO_MANY,
    # ProxySQL: max connect timeout reached while reaching a hostgroup
    9001: Fault.TOO_MANY,
    # RDS Proxy: timed out waiting to acquire a database connection
    9501: Fault.TOO_MANY,
}

# By SQLSTATE class, for numbers not listed. No class 40: only a listed number tells that the server
# rolled back.
_CLASSES = {"08": Fault.LOST}

# These numbers have other meanings, all the application's own. Names of settings are the same in
# every language.
_ONLY_WITH = {
    # Else a command the server does not know
    1047: ("WSREP",),
    # Else an hourly limit, which no back-off outwaits
    1226: ("max_user_connections",),
    # Else some other option, as --secure-file-priv
    1290: ("read-only", "read_only"),
    # MariaDB: a trigger that does not exist
    4031: ("wait_timeout",),
    # MariaDB: an unknown variable
    4081: ("memory limit",),
}

# PyMySQL's own errors that carry no number.
_TEXTS = {"Already closed": Fault.LOST, "Packet sequence number wrong": Fault.LOST}

_RAISED_FOR_A_SOCKET_ERROR = (2003, 2006, 2013)
_HUNG_UP = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)


def fault(error: BaseException) -> Fault:
    """What the error means: by number, then by class of SQLSTATE; by text only where nothing else
    is left.
    """
    if isinstance(error, DeadlineExceeded):
        return of_deadline(error)
    if not isinstance(error, pymysql.Error) or not error.args:
        return Fault.OTHER
    code, text = error.args[0], str(error.args[-1])
    if not isinstance(code, int):
        return next(
            (found for start, found in _TEXTS.items() if text.startswith(start)), Fault.OTHER
        )
    return _below(error, code) or _by_code(code, text, getattr(error, "sqlstate", None) or "")


def _below(error: BaseException, code: int) -> Fault | None:
    """What the socket's error underneath says better than PyMySQL's number."""
    if code not in _RAISED_FOR_A_SOCKET_ERROR:
        # The context of any other is whatever the application was busy handling
        return None
    match getattr(error, "original_exception", error.__context__):
        case TimeoutError(errno=None):
            # a wait that we limited; ETIMEDOUT is the kernel's news of a dead peer
            return Fault.TIMEOUT
        case ssl.SSLError() as refused if code == 2003 and not isinstance(refused, _HUNG_UP):
            return Fault.CONFIGURATION
    return None


def _by_code(code: int, text: str, state: str) -> Fault:
    if any(mark in text for mark in _ONLY_WITH.get(code, ("",))):
        return _CODES.get(code) or _CLASSES.get(state[:2], Fault.OTHER)
    return Fault.OTHER
