"""What each error means, by the drivers' own exceptions; beside each code a neighbour that means
nothing.
"""

from __future__ import annotations

import errno
import pickle
import socket
import ssl
import struct
import threading
from collections.abc import Callable

import psycopg
import pymysql
import pytest
from psycopg.pq import DiagnosticField
from pymysql import err

from reaper.client.deadline import DeadlineExceeded
from reaper.client.drivers import mysql_faults, postgres_faults
from reaper.client.faults import Fault

# What MySQL's family of servers, their proxies and PyMySQL say by number alone.
MYSQL = {
    Fault.TOO_MANY: (1040, 1041, 1135, 1203, 9001, 9501),
    Fault.UNREACHABLE: (1042, 1043, 2001, 2002, 2003, 2004, 2005, 2012),
    Fault.CREDENTIALS: (1045, 1698),
    Fault.CONFIGURATION: (1044, 1049, 1129, 1130, 1251, 1862, 2026, 2059, 2061, 3118, 3159),
    Fault.LOST: (
        *(0, 1053, 1077, 1079, 1080, 1152, 1154, 1156, 1157, 1158, 1159, 1160, 1161, 1184, 1927),
        *(2006, 2013, 2014, 2027, 2045, 2048, 2055, 3168, 3169),
    ),
    Fault.READ_ONLY: (1836,),
    Fault.DEADLOCK: (1020, 1206, 1213, 1613, 1614, 3101),
    Fault.LOCK_TIMEOUT: (1205, 1689, 3058, 3132, 3133, 3572),
    Fault.TRANSIENT: (1412, 1615, 1637),
    Fault.QUERY_TIMEOUT: (1969, 3024),
    Fault.CANCELLED: (1317,),
    Fault.OTHER: (1153,),
}
BY_NUMBER = {code: fault for fault, codes in MYSQL.items() for code in codes}

MYSQL_NEVER = (
    *(
        1044,
        1046,
        1048,
        1049,
        1050,
        1051,
        1054,
        1062,
        1064,
        1068,
        1136,
        1142,
        1143,
        1146,
        1149,
        1153,
        1169,
        1216,
        1217,
    ),
    *(
        1227,
        1264,
        1292,
        1364,
        1365,
        1366,
        1406,
        1792,
        1451,
        1452,
        1690,
        1820,
        1862,
        2020,
        2059,
        2061,
        3118,
        3140,
        3159,
        3819,
    ),
    *(4025, 1129, 1130, 1207, 1223),
)

# Where a number has several meanings: what the text must hold, and the same number without it.
MYSQL_BY_TEXT = [
    (1047, "WSREP has not yet prepared node for application use", Fault.STARTING),
    (1047, "Unknown command", Fault.OTHER),
    (
        1226,
        "User 'app' has exceeded the 'max_user_connections' resource (current value: 5)",
        Fault.TOO_MANY,
    ),
    (
        1226,
        "Benutzer 'app' hat die Ressourcenbeschränkung 'max_user_connections' überschritten",
        Fault.TOO_MANY,
    ),
    (
        1226,
        "User 'app' has exceeded the 'max_queries_per_hour' resource (current value: 5)",
        Fault.OTHER,
    ),
    (
        1226,
        "User 'app' has exceeded the 'max_connections_per_hour' resource (current value: 5)",
        Fault.OTHER,
    ),
    (
        1290,
        "The MySQL server is running with the --read-only option so it cannot execute this",
        Fault.READ_ONLY,
    ),
    (
        1290,
        "The MySQL server is running with the --super-read-only option so it cannot",
        Fault.READ_ONLY,
    ),
    (1290, "The MariaDB server is running with the read_only option", Fault.READ_ONLY),
    (
        1290,
        "The MySQL server is running with the --secure-file-priv option so it cannot",
        Fault.OTHER,
    ),
    (
        4031,
        "The client was disconnected by the server because of inactivity. See wait_timeout and",
        Fault.LOST,
    ),
    (
        4031,
        "Referenced trigger 'zz' for the given action time and event type does not exist",
        Fault.OTHER,
    ),
    (4081, "Connection closed. Global connection memory limit 9 bytes exceeded.", Fault.TOO_MANY),
    (4081, "Unknown structured system variable or ROW routine variable 'x'", Fault.OTHER),
]

POSTGRES = {
    Fault.TOO_MANY: ("53300", "53400"),
    Fault.STARTING: ("57P03",),
    Fault.CREDENTIALS: ("28P01", "28000"),
    Fault.CONFIGURATION: ("3D000",),
    Fault.LOST: (
        "08000",
        "08001",
        "08003",
        "08004",
        "08006",
        "08P01",
        "57P01",
        "57P02",
        "57P05",
        "25P03",
    ),
    Fault.READ_ONLY: ("25006",),
    Fault.DEADLOCK: ("40000", "40001", "40P01"),
    Fault.LOCK_TIMEOUT: ("55P03",),
    Fault.TRANSIENT: ("53000", "53200", "55006"),
    Fault.QUERY_TIMEOUT: ("25P04",),
    Fault.CANCELLED: ("57014",),
    Fault.IN_DOUBT: ("08007", "40003"),
}
BY_STATE = {state: fault for fault, states in POSTGRES.items() for state in states}

POSTGRES_NEVER = (
    *(
        "22001",
        "22012",
        "22P02",
        "23502",
        "23503",
        "23505",
        "23514",
        "42501",
        "42601",
        "42703",
        "42P01",
        "42P07",
    ),
    *(
        "3F000",
        "53100",
        "54000",
        "54001",
        "54023",
        "25P02",
        "2BP01",
        "P0001",
        "P0002",
        "57P04",
        "0A000",
        "26000",
    ),
    *(
        "42P05",
        "XX000",
        "58030",
        "40002",
        "25001",
        "28001",
        "57000",
        "55000",
        "53301",
        "57P00",
        "57P06",
        "99999",
    ),
)

POSTGRES_BY_TEXT = [
    ("08P01", "no more connections allowed (max_client_conn)", Fault.TOO_MANY),
    ("08P01", "query_wait_timeout", Fault.TOO_MANY),
    ("08P01", "server conn crashed?", Fault.LOST),
    ("08000", "Timed-out waiting to acquire database connection.", Fault.TOO_MANY),
    ("0A000", "cached plan must not change result type", Fault.TRANSIENT),
    ("0A000", "cannot drop a temporary view", Fault.OTHER),
    ("26000", 'prepared statement "_pg3_7" does not exist', Fault.TRANSIENT),
    ("26000", 'prepared statement "mine" does not exist', Fault.OTHER),
    ("42P05", 'prepared statement "_pg3_0" already exists', Fault.TRANSIENT),
    ("42P05", 'prepared statement "mine" already exists', Fault.OTHER),
    ("53400", "temporary file size exceeds temp_file_limit (64kB)", Fault.OTHER),
    ("57014", "canceling statement due to statement timeout", Fault.QUERY_TIMEOUT),
    ("57014", "canceling statement due to user request", Fault.CANCELLED),
    ("57014", "user request\nLINE 1: SELECT 'due to statement timeout'", Fault.CANCELLED),
    ("55P03", "canceling statement due to lock timeout", Fault.LOCK_TIMEOUT),
    ("55P03", 'could not obtain lock on row in relation "items"', Fault.LOCK_TIMEOUT),
    ("25006", "cannot execute UPDATE in a read-only transaction", Fault.READ_ONLY),
    ("53300", "désolé, trop de clients sont déjà connectés", Fault.TOO_MANY),
    ("57P01", "the connection is closed for too many clients already", Fault.LOST),
    ("23505", 'duplicate key value: "remaining connection slots are reserved"', Fault.OTHER),
]

RESERVED = "FATAL:  remaining connection slots are reserved for "
AT_CONNECT = [
    ("FATAL:  sorry, too many clients already", Fault.TOO_MANY),
    (RESERVED + "non-replication superuser connections", Fault.TOO_MANY),
    (RESERVED + "roles with the SUPERUSER attribute", Fault.TOO_MANY),
    (RESERVED + 'roles with privileges of the "pg_use_reserved_connections" role', Fault.TOO_MANY),
    (RESERVED + 'roles with privileges of the "rds_reserved" role', Fault.TOO_MANY),
    ('FATAL:  too many connections for role "app"', Fault.TOO_MANY),
    ('FATAL:  too many connections for database "shop"', Fault.TOO_MANY),
    ("FATAL:  no more connections allowed (max_client_conn)", Fault.TOO_MANY),
    ("FATAL:  no more connections allowed (max_db_client_connections)", Fault.TOO_MANY),
    ("FATAL:  query_wait_timeout", Fault.TOO_MANY),
    ("FATAL:  Max client connections reached", Fault.TOO_MANY),
    ("FATAL:  Timed-out waiting to acquire database connection.", Fault.TOO_MANY),
    ("FATAL:  The maximum number of client connections to the proxy exceeded 5.", Fault.TOO_MANY),
    ("FATAL:  Rate of connection to proxy exceeded 5.", Fault.TOO_MANY),
    (
        "FATAL:  The IAM authentication failed because of too many competing requests.",
        Fault.TOO_MANY,
    ),
    ("FATAL:  the database system is starting up", Fault.STARTING),
    ("FATAL:  the database system is shutting down", Fault.STARTING),
    ("FATAL:  the database system is in recovery mode", Fault.STARTING),
    (
        "FATAL:  the database system is not yet accepting connections\nDETAIL:  Consistent",
        Fault.STARTING,
    ),
    ('FATAL:  password authentication failed for user "app"', Fault.CREDENTIALS),
    ('FATAL:  PAM authentication failed for user "app"', Fault.CREDENTIALS),
    ("FATAL:  SASL authentication failed", Fault.CREDENTIALS),
    (
        "FATAL:  The IAM authentication failed for the role app. Check the IAM token for this",
        Fault.CREDENTIALS,
    ),
    ("FATAL:  The password that was provided for the role app is wrong.", Fault.CREDENTIALS),
    ("FATAL:  This RDS proxy has no credentials for the role app.", Fault.CREDENTIALS),
    ("fe_sendauth: no password supplied", Fault.CREDENTIALS),
    ('FATAL:  role "app" does not exist', Fault.CREDENTIALS),
    ('FATAL:  role "app" is not permitted to log in', Fault.CREDENTIALS),
    ('FATAL:  database "shop" does not exist', Fault.CONFIGURATION),
    ('FATAL:  permission denied for database "shop"', Fault.CONFIGURATION),
    (
        'FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "app", no encryption',
        Fault.CONFIGURATION,
    ),
    ('authentication method requirement "!password" failed: server requested', Fault.CONFIGURATION),
    ("FATAL:  This RDS Proxy requires TLS connections.", Fault.CONFIGURATION),
    ("FATAL:  IAM authentication is allowed only with SSL connections.", Fault.CONFIGURATION),
    ("server does not support SSL, but SSL was required", Fault.CONFIGURATION),
    ("SSL error: certificate verify failed: unable to get local issuer", Fault.CONFIGURATION),
    ("SSL error: wrong version number", Fault.CONFIGURATION),
    ('server certificate for "a" does not match host name "b"', Fault.CONFIGURATION),
    ('root certificate file "/a/b.pem" does not exist', Fault.CONFIGURATION),
    ("SSL error: unexpected eof while reading", Fault.UNREACHABLE),
    ("SSL SYSCALL error: Connection reset by peer", Fault.UNREACHABLE),
    ("server closed the connection unexpectedly", Fault.UNREACHABLE),
    ("Connection refused\n\tIs the server running on that host", Fault.UNREACHABLE),
    ("SCHWERWIEGEND:  tut mir leid, schon zu viele Verbindungen", Fault.UNREACHABLE),
    # Names are not read.
    ('FATAL:  database "too many clients already" does not exist', Fault.CONFIGURATION),
    ('FATAL:  role "the database system is" does not exist', Fault.CREDENTIALS),
]

# An open session's errors without a state, and the client's own, which must not be taken for them.
WITHOUT_STATE = [
    ("the connection is closed", Fault.LOST),
    ("the connection is lost", Fault.LOST),
    ("connection socket closed", Fault.LOST),
    (
        "consuming input failed: server closed the connection unexpectedly\n\tThis probably means",
        Fault.LOST,
    ),
    ("consuming input failed: SSL connection has been closed unexpectedly", Fault.LOST),
    ("consuming input failed: SSL error: unexpected eof while reading", Fault.LOST),
    (
        "consuming input failed: could not receive data from server: Connection timed out",
        Fault.LOST,
    ),
    ("flushing failed: the connection is closed", Fault.LOST),
    ("server closed the connection unexpectedly", Fault.LOST),
    ("SSL connection has been closed unexpectedly", Fault.LOST),
    ("could not receive data from server: Connection reset by peer", Fault.LOST),
    ("connection is bad: could not create socket", Fault.UNREACHABLE),
    (
        "failed to resolve host 'db.invalid': [Errno -2] Name or service not known",
        Fault.UNREACHABLE,
    ),
    (
        "failed to resolve host 'certificate.invalid': [Errno -2] Name or service not known",
        Fault.UNREACHABLE,
    ),
    ("sending query failed: another command is already in progress", Fault.OTHER),
    ("pipeline aborted", Fault.OTHER),
    ("", Fault.OTHER),
]


def from_mysql(code: int, text: str = "what the server says", state: str = "HY000") -> Exception:
    """The exception that PyMySQL makes of a server's error packet."""
    with pytest.raises(err.Error) as caught:
        err.raise_mysql_exception(b"\xff" + struct.pack("<H", code) + f"#{state}{text}".encode())
    return caught.value


def from_postgres(state: str, text: str = "what the server says") -> psycopg.Error:
    """The exception that psycopg makes of a server's error message."""
    info: dict[int, bytes | None] = {DiagnosticField.SQLSTATE: state.encode()}
    try:
        kind = psycopg.errors.lookup(state)
    except KeyError:
        kind = psycopg.DatabaseError
    return kind(text, info=info)


def refused(reason: str) -> psycopg.OperationalError:
    """The exception of a connect that failed."""
    return psycopg.OperationalError(
        f'connection failed: connection to server at "::1", port 5432 failed: {reason}'
    )


def raised_while_handling(context: BaseException, error: Exception) -> Exception:
    """The error with the context that Python gives to what is raised in an except clause."""
    error.__context__ = context
    return error


def could_not_connect(cause: OSError) -> Exception:
    """The exception that PyMySQL makes of an OSError at connect."""
    error = err.OperationalError(2003, f"Can't connect to MySQL server on 'db' ({cause})")
    error.original_exception = cause  # type: ignore[attr-defined]
    return raised_while_handling(cause, error)


@pytest.mark.parametrize(("code", "fault"), BY_NUMBER.items())
def test_mysql_by_number(code: int, fault: Fault) -> None:
    """The number alone tells, in whatever language the server speaks."""
    assert mysql_faults.fault(err.OperationalError(code, "quoi que ce soit")) is fault
    if code:
        assert mysql_faults.fault(from_mysql(code)) is fault


@pytest.mark.parametrize("code", sorted(BY_NUMBER))
def test_mysql_neighbours_mean_nothing(code: int) -> None:
    """The numbers on either side, unless they stand in the table themselves, are the
    application's.
    """
    for neighbour in {code - 1, code + 1} - mysql_faults._CODES.keys() - {-1}:
        assert (
            mysql_faults.fault(err.OperationalError(neighbour, "what the server says"))
            is Fault.OTHER
        )


@pytest.mark.parametrize(
    ("code", "fault"),
    [(2006, Fault.LOST), (2007, Fault.OTHER), (1213, Fault.DEADLOCK), (1214, Fault.OTHER)],
)
def test_mysql_neighbours_by_name(code: int, fault: Fault) -> None:
    """The classic pair, and that of the deadlock."""
    assert mysql_faults.fault(err.OperationalError(code, "x")) is fault


@pytest.mark.parametrize(("code", "text", "fault"), MYSQL_BY_TEXT)
def test_mysql_numbers_with_several_meanings(code: int, text: str, fault: Fault) -> None:
    """Only what names the setting, or the feature, counts."""
    assert mysql_faults.fault(from_mysql(code, text)) is fault
    assert mysql_faults.fault(from_mysql(code + 1, text)) is mysql_faults._CODES.get(
        code + 1, Fault.OTHER
    )


def test_every_number_of_the_table_is_tested() -> None:
    """A number that is added without a test stands out."""
    assert mysql_faults._CODES.keys() == BY_NUMBER.keys() | {code for code, _, _ in MYSQL_BY_TEXT}


@pytest.mark.parametrize("code", MYSQL_NEVER)
def test_mysql_never(code: int) -> None:
    """Nothing that time does not heal has a meaning that could be waited for."""
    assert mysql_faults.fault(from_mysql(code)) in {Fault.OTHER, Fault.CONFIGURATION}


@pytest.mark.parametrize(
    ("state", "fault"),
    [
        ("08S01", Fault.LOST),
        ("08004", Fault.LOST),
        ("07000", Fault.OTHER),
        ("40001", Fault.OTHER),
        ("21S01", Fault.OTHER),
        ("22003", Fault.OTHER),
        ("42000", Fault.OTHER),
        ("23000", Fault.OTHER),
    ],
)
def test_mysql_by_class(state: str, fault: Fault) -> None:
    """A number that no table knows; a SIGNAL of the application's that says 40001 rolls nothing
    back.
    """
    assert mysql_faults.fault(from_mysql(1644, state=state)) is fault


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (err.InterfaceError(0, ""), Fault.LOST),
        (err.Error("Already closed"), Fault.LOST),
        (err.InternalError("Packet sequence number wrong - got 5 expected 1"), Fault.LOST),
        (err.OperationalError("unexpected packet during authentication"), Fault.OTHER),
        (err.InterfaceError("not implemented"), Fault.OTHER),
        (err.ProgrammingError("'Already closed' is no column"), Fault.OTHER),
        (err.OperationalError(), Fault.OTHER),
    ],
)
def test_pymysqls_own_errors(error: Exception, fault: Fault) -> None:
    """Those without a number are told by how they begin."""
    assert mysql_faults.fault(error) is fault


@pytest.mark.parametrize(
    ("cause", "fault"),
    [
        (TimeoutError("timed out"), Fault.TIMEOUT),
        (DeadlineExceeded("no time left"), Fault.TIMEOUT),
        (TimeoutError(errno.ETIMEDOUT, "Connection timed out"), Fault.UNREACHABLE),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), Fault.UNREACHABLE),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), Fault.UNREACHABLE),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), Fault.UNREACHABLE),
        (ssl.SSLCertVerificationError(1, "certificate verify failed"), Fault.CONFIGURATION),
        (ssl.SSLError(1, "tlsv1 alert protocol version"), Fault.CONFIGURATION),
        (ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), Fault.UNREACHABLE),
    ],
)
def test_what_kept_pymysql_from_connecting(cause: OSError, fault: Fault) -> None:
    """The OSError that PyMySQL wraps; one that hung up amid the handshake is no matter of
    configuration.
    """
    assert mysql_faults.fault(could_not_connect(cause)) is fault


@pytest.mark.parametrize("code", [2006, 2013])
def test_a_pymysql_timeout_is_told_by_its_context(code: int) -> None:
    """A wait of ours that ended is no loss; a peer that the kernel gave up on is one."""
    text = "Lost connection to MySQL server during query (timed out)"
    ours, kernels = TimeoutError("timed out"), TimeoutError(errno.ETIMEDOUT, "Connection timed out")
    assert (
        mysql_faults.fault(raised_while_handling(ours, err.OperationalError(code, text)))
        is Fault.TIMEOUT
    )
    assert (
        mysql_faults.fault(raised_while_handling(kernels, err.OperationalError(code, text)))
        is Fault.LOST
    )
    assert mysql_faults.fault(err.OperationalError(code, text)) is Fault.LOST


def silent(peer: socket.socket) -> None:
    """Say nothing."""


def hung_up(peer: socket.socket) -> None:
    peer.close()


def out_of_step(peer: socket.socket) -> None:
    peer.sendall(b"\x01\x00\x00\x05x")


def farewell(peer: socket.socket) -> None:
    """Greet, then refuse as a server that is full does."""
    text = b"\xff\x10\x04Too many connections"
    peer.sendall(struct.pack("<I", len(text))[:3] + b"\x00" + text)


@pytest.mark.parametrize(
    ("peer_does", "fault"),
    [
        (silent, Fault.TIMEOUT),
        (hung_up, Fault.LOST),
        (out_of_step, Fault.LOST),
        (farewell, Fault.TOO_MANY),
    ],
)
def test_pymysql_itself(peer_does: Callable[[socket.socket], None], fault: Fault) -> None:
    """PyMySQL's own exceptions, from a peer that is no server."""
    ours, peer = socket.socketpair()
    with ours, peer:
        peer_does(peer)
        connection = pymysql.connect(defer_connect=True, read_timeout=0.05)
        with pytest.raises(err.Error) as caught:
            connection.connect(ours)
        assert mysql_faults.fault(caught.value) is fault


def test_the_applications_errors_while_it_handled_a_timeout() -> None:
    """A context that is not the driver's own says nothing."""
    timeout = TimeoutError("timed out")
    for module in (mysql_faults, postgres_faults):
        assert module.fault(raised_while_handling(timeout, ValueError(2013))) is Fault.OTHER
        assert (
            module.fault(raised_while_handling(timeout, err.IntegrityError(1062, "Duplicate")))
            is Fault.OTHER
        )
        assert module.fault(raised_while_handling(timeout, from_postgres("23505"))) is Fault.OTHER


@pytest.mark.parametrize("fault", [mysql_faults.fault, postgres_faults.fault])
@pytest.mark.parametrize(
    "error",
    [
        TimeoutError("timed out"),
        ConnectionResetError(errno.ECONNRESET, "reset"),
        ssl.SSLError(1, "x"),
        KeyError(2006),
    ],
)
def test_other_libraries_errors(fault: Callable[[BaseException], Fault], error: Exception) -> None:
    """What work(tx) raises of its own, an HTTP call that timed out for one, has nothing to do with
    the database.
    """
    assert fault(error) is Fault.OTHER


@pytest.mark.parametrize("fault", [mysql_faults.fault, postgres_faults.fault])
def test_our_own_deadline(fault: Callable[[BaseException], Fault]) -> None:
    """One word of ours for both engines."""
    assert fault(DeadlineExceeded("no time left")) is Fault.TIMEOUT


@pytest.mark.parametrize(("state", "fault"), BY_STATE.items())
def test_postgres_by_state(state: str, fault: Fault) -> None:
    """The state alone tells, in whatever language the server speaks; some classes carry it, some
    instances.
    """
    assert postgres_faults.fault(from_postgres(state, "quoi que ce soit")) is fault
    assert postgres_faults.fault(psycopg.errors.lookup(state)("quoi que ce soit")) is fault


@pytest.mark.parametrize("state", sorted(BY_STATE))
def test_postgres_neighbours_mean_nothing(state: str) -> None:
    """The next state, unless it stands in the table itself; in class 08 every state means the
    same.
    """
    neighbour = state[:-1] + chr(ord(state[-1]) + 1)
    expected = BY_STATE.get(neighbour, Fault.LOST if state.startswith("08") else Fault.OTHER)
    assert postgres_faults.fault(from_postgres(neighbour)) is expected


@pytest.mark.parametrize("state", POSTGRES_NEVER)
def test_postgres_never(state: str) -> None:
    """Nothing that time does not heal; nor an unknown state of a class that has known ones."""
    assert postgres_faults.fault(from_postgres(state)) is Fault.OTHER


@pytest.mark.parametrize(("state", "text", "fault"), POSTGRES_BY_TEXT)
def test_postgres_states_with_several_meanings(state: str, text: str, fault: Fault) -> None:
    """The first line decides where the state says too little, and nowhere else."""
    assert postgres_faults.fault(from_postgres(state, text)) is fault


def test_every_state_of_the_tables_is_tested() -> None:
    """A state that is added without a test stands out."""
    assert postgres_faults._STATES.keys() == BY_STATE.keys() - {
        s for s in BY_STATE if s[:2] == "08"
    } | {"08", "08007"}
    tested = {state for state, _, _ in POSTGRES_BY_TEXT}
    assert postgres_faults._SECOND_MEANINGS.keys() <= tested | {"08"}


@pytest.mark.parametrize("state", ["25P03", "25P04", "25006"])
def test_the_exception_class_is_not_asked(state: str) -> None:
    """psycopg files these under InternalError, as it does the application's own 25P02."""
    assert (
        psycopg.errors.lookup(state).__base__
        is psycopg.errors.lookup("25P02").__base__
        is psycopg.InternalError
    )
    assert postgres_faults.fault(from_postgres(state)) is not postgres_faults.fault(
        from_postgres("25P02")
    )


@pytest.mark.parametrize(("reason", "fault"), AT_CONNECT)
def test_why_postgres_was_not_to_be_had(reason: str, fault: Fault) -> None:
    """A refused connect has no state: the text is read, also when the error has been pickled or is
    one of several.
    """
    assert postgres_faults.fault(refused(reason)) is fault
    assert postgres_faults.fault(pickle.loads(pickle.dumps(refused(reason)))) is fault  # noqa: S301  our own
    several = (
        f"{refused(reason)}\nMultiple connection attempts failed. All failures were:\n- host: "
        f"'certificate', x"
    )
    assert postgres_faults.fault(psycopg.OperationalError(several)) is fault


@pytest.mark.parametrize(("text", "fault"), WITHOUT_STATE)
def test_postgres_without_a_state(text: str, fault: Fault) -> None:
    """What psycopg says of an open session; unknown is the application's own, a busy connection for
    one.
    """
    assert postgres_faults.fault(psycopg.OperationalError(text)) is fault


@pytest.mark.parametrize(
    "kind", [psycopg.InterfaceError, psycopg.DataError, psycopg.ProgrammingError]
)
def test_values_are_not_read(kind: type[psycopg.Error]) -> None:
    """psycopg quotes values in errors of its own, which carry no state either."""
    assert (
        postgres_faults.fault(kind("can't parse timestamp 'too many clients already'"))
        is Fault.OTHER
    )


@pytest.mark.parametrize(
    "kind", [psycopg.errors.ConnectionTimeout, psycopg.errors.CancellationTimeout]
)
def test_psycopgs_timeouts(kind: type[psycopg.Error]) -> None:
    """psycopg's waits are ours: nothing was said about the server."""
    assert postgres_faults.fault(kind("connection timeout expired")) is Fault.TIMEOUT


def test_psycopg_itself() -> None:
    """psycopg's own exception, from a port where nobody listens and from one where somebody hangs
    up.
    """
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        hanging_up = threading.Thread(target=lambda: listening.accept()[0].close())
        hanging_up.start()
        with pytest.raises(psycopg.OperationalError) as caught:
            psycopg.connect(host="127.0.0.1", port=port, user="app", sslmode="disable")
        hanging_up.join()
    assert postgres_faults.fault(caught.value) is Fault.UNREACHABLE
    with pytest.raises(psycopg.OperationalError, match="refused") as caught:
        psycopg.connect(host="127.0.0.1", port=port, user="app", sslmode="disable")
    assert postgres_faults.fault(caught.value) is Fault.UNREACHABLE
