"""TLS on real servers: accepted with the bundle, refused in every other way, and no password on the
wire before it.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from urllib.parse import quote

import pytest
from pymysql.constants import CLIENT

from lab.servers import Proxy, Server
from lab.servers.secure import Authority, authority, secure
from reaper.client.credentials import Credentials
from reaper.client.database import Database
from reaper.client.deadline import Deadline
from reaper.client.drivers import driver_for
from reaper.client.faults import Fault
from reaper.client.fields import ConfigurationError
from reaper.client.target import EngineName, Target
from reaper.model import SweepTarget
from reaper.report import ErrorKind, Report
from reaper.rules import Rules
from reaper.sweep import Sweep
from tests.aws import Asked, aws
from tests.conftest import Servers

# The fixture, for pytest to find here
__all__ = ["aws"]

HIDDEN = "a-marked-word"


@pytest.fixture(params=["postgres16", "mariadb", "mysql"])
def secured(request: pytest.FixtureRequest, servers: Servers) -> Server:
    """A server that has TLS, with a certificate for `localhost`."""
    # Which says what is to be done where there is no such program
    servers[request.param]
    return secure(request.param)


@pytest.fixture
def ca() -> str:
    return str(authority().ca)


def dsn(
    server: Server,
    user: str = "app",
    host: str = "localhost",
    database: str = "shop",
    **options: str,
) -> str:
    return replace(server, host=host).dsn(user, database, **options)


def client_fails(server: Server, **options: str) -> tuple[ErrorKind, str]:
    """How the retry client refuses, in the report's words, after one attempt."""
    with closing(Database(dsn(server, **options))) as db:
        with pytest.raises(Exception) as caught:  # noqa: PT011  looked at below
            db.query("SELECT 1")
        assert db.stats.retried == 0
        is_known = (
            isinstance(caught.value, ConfigurationError)
            or db.driver.fault(caught.value) is Fault.CONFIGURATION
        )
    return ErrorKind.CONFIGURATION if is_known else ErrorKind.SERVER, str(caught.value)


def reaper_fails(server: Server, **options: str) -> tuple[ErrorKind, str]:
    """How a sweep refuses."""
    found = sweep(server, **options)
    assert found.error is not None
    return found.error.kind, found.error.message


def sweep(server: Server, user: str = "reaper", **options: str) -> Report:
    database = "" if server.engine == "mysql" else "shop"
    target = SweepTarget.from_dsn(dsn(server, user, database=database, **options))
    return Sweep(target, Rules(), "manual", Deadline.after(60)).run()


both = pytest.mark.parametrize("fails", [client_fails, reaper_fails])
Fails = Callable[..., tuple[ErrorKind, str]]


def test_accepted_with_the_bundle(secured: Server, ca: str) -> None:
    """Client and reaper get in where the server's certificate was signed by the CA and names the
    host.
    """
    with closing(Database(dsn(secured, ca=ca))) as db:
        assert db.query("SELECT 7 AS a") == [{"a": 7}]
        assert is_encrypted(db)
    assert sweep(secured, ca=ca).error is None


def is_encrypted(db: Database) -> bool:
    if not db.is_mysql:
        with db.connection() as connection:
            return bool(connection.pgconn.ssl_in_use)
    (row,) = db.query("SHOW SESSION STATUS LIKE 'Ssl_cipher'")
    return bool(row["Value"])


@both
def test_refused_without_the_bundle(secured: Server, fails: Fails) -> None:
    """TLS that is to be verified needs a CA; the error says how to get one."""
    kind, message = fails(secured, tls="verify")
    assert kind is ErrorKind.CONFIGURATION
    assert "no ca is given; fetch https://truststore" in message


@both
def test_refused_with_another_bundle(secured: Server, fails: Fails) -> None:
    """A certificate that the CA has not signed is not trusted, whatever name it bears."""
    kind, message = fails(secured, ca=str(authority("stranger").ca))
    assert kind is ErrorKind.CONFIGURATION
    assert "certificate verify failed" in message


@both
def test_refused_by_another_name(secured: Server, ca: str, fails: Fails) -> None:
    """The same server under a name that its certificate does not hold is not trusted."""
    kind, message = fails(secured, host="127.0.0.1", ca=ca)
    assert kind is ErrorKind.CONFIGURATION
    assert "127.0.0.1" in message


@both
def test_refused_in_plain_text(secured: Server, fails: Fails) -> None:
    """A server that takes nobody without TLS says so, and that is a matter of configuration."""
    with only_over_tls(secured) as user:
        kind, message = fails(secured, user=user, tls="off")
    if secured.flavour == "mariadb":
        # MariaDB gives no other reason
        assert "Access denied" in message
    else:
        assert kind is ErrorKind.CONFIGURATION


@contextmanager
def only_over_tls(server: Server) -> Iterator[str]:
    """A user whom the server takes over TLS alone."""
    if server.engine == "postgres":
        # Who has no entry that would let them in in plain text
        yield "encrypted"
        return
    with closing(server.admin()) as admin:
        admin.cursor().execute("SET GLOBAL require_secure_transport = ON")
        try:
            yield "app"
        finally:
            admin.cursor().execute("SET GLOBAL require_secure_transport = OFF")


def test_postgres_is_never_given_the_password_itself_in_plain_text(
    servers: Servers, ca: str
) -> None:
    """A server that asks for the password in clear text, as IAM's do, gets it over TLS and not
    without.
    """
    servers["postgres16"]
    server = secure("postgres16")
    with closing(server.admin()) as admin:
        admin.execute("DROP ROLE IF EXISTS asked")
        admin.execute(f"CREATE ROLE asked LOGIN PASSWORD '{HIDDEN}'")
    with closing(Database(dsn(server, "asked", ca=ca), password=lambda: HIDDEN)) as db:
        assert db.query("SELECT 7 AS a") == [{"a": 7}]
    with closing(Database(dsn(server, "asked", tls="off"), password=lambda: HIDDEN)) as db:
        with pytest.raises(Exception, match="server requested a cleartext password") as caught:
            db.query("SELECT 1")
        assert db.driver.fault(caught.value) is Fault.CONFIGURATION


def test_nothing_is_sent_to_a_postgres_without_tls(servers: Servers) -> None:
    """Of a client that demands TLS such a server gets the question whether it has TLS, and not even
    the user's name.
    """
    with Proxy("127.0.0.1", servers["postgres16"].port) as proxy:
        kind, message = client_fails(proxy.through(servers["postgres16"]), tls="require")
        assert (kind, "does not support SSL" in message) == (ErrorKind.CONFIGURATION, True)
        assert proxy.counts.bytes_up == 8


# What a MySQL server could do that no real one does on demand.


class Rogue:
    """A server that says it is MySQL, and asks for the password itself.

    `heard` is all it was told, as it came.
    """

    def __init__(self, plugin: bytes, issuer: Authority | None = None) -> None:
        self.heard: list[bytes] = []
        self._plugin = plugin
        self._context: ssl.SSLContext | None = None
        if issuer:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(*issuer.certificate("localhost"))

    def __enter__(self) -> Rogue:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._listening.close()
        self._thread.join(10)

    def _serve(self) -> None:
        with suppress(OSError):
            talk, _ = self._listening.accept()
            talk.settimeout(10)
            self._send(talk, 0, self._greeting())
            packet = self._hear(talk)
            if self._context and packet:
                talk = self._context.wrap_socket(talk, server_side=True)
                packet = self._hear(talk)
            # To the login: another way, please
            reply = b"\xfe" + self._plugin
            while packet:
                self._send(talk, packet[3] + 1, reply)
                # OK, to the password and to any statement
                reply = b"\0\0\0\2\0\0\0"
                packet = self._hear(talk)
            talk.close()

    def _hear(self, talk: socket.socket) -> bytes:
        """One packet, its four bytes of header included; nothing where the client has hung up."""
        packet = talk.recv(4)
        packet += talk.recv(int.from_bytes(packet[:3], "little")) if packet else b""
        self.heard.append(packet)
        return packet

    def _greeting(self) -> bytes:
        able = CLIENT.PROTOCOL_41 | CLIENT.SECURE_CONNECTION | CLIENT.PLUGIN_AUTH
        able |= CLIENT.SSL if self._context else 0
        low, high = (able & 0xFFFF).to_bytes(2, "little"), (able >> 16).to_bytes(2, "little")
        salt = b"12345678", b"123456789012\0"
        # The protocol, the version, the session's id
        start = b"\x0a8.0.0\0\1\0\0\0" + salt[0] + b"\0"
        able_to = low + b"\x2d\2\0" + high
        return start + able_to + bytes([21]) + bytes(10) + salt[1] + b"mysql_native_password\0"

    def _send(self, talk: socket.socket, number: int, payload: bytes) -> None:
        talk.sendall(len(payload).to_bytes(3, "little") + bytes([number]) + payload)


CLEAR = b"mysql_clear_password\0"


@pytest.mark.parametrize("plugin", [CLEAR, b"dialog\0\x02Password: "], ids=["clear", "dialog"])
def test_mysql_is_never_given_the_password_itself_in_plain_text(plugin: bytes) -> None:
    """PyMySQL would hand it to whoever asks; we refuse, and say what to do."""
    with Rogue(plugin) as rogue:
        target = Target.from_dsn(f"mysql://app@127.0.0.1:{rogue.port}/shop?tls=off")
        with pytest.raises(
            ConfigurationError,
            match="asks for the password in clear text and tls is 'off'; say tls=",
        ):
            driver_for(EngineName.MYSQL).connect(target, HIDDEN, Deadline.after(20))
    assert any(b"app" in piece for piece in rogue.heard)
    assert not any(HIDDEN.encode() in piece for piece in rogue.heard)


def test_nothing_is_sent_to_a_mysql_without_tls() -> None:
    """Of a client that demands TLS such a server gets nothing at all."""
    with Rogue(CLEAR) as rogue:
        target = Target.from_dsn(f"mysql://app@127.0.0.1:{rogue.port}/shop?tls=require")
        driver = driver_for(EngineName.MYSQL)
        with pytest.raises(
            Exception, match="SSL is required but the server doesn't support it"
        ) as caught:
            driver.connect(target, HIDDEN, Deadline.after(20))
        assert driver.fault(caught.value) is Fault.CONFIGURATION
    assert rogue.heard == [b""]


def test_an_iam_token_travels_over_tls_alone(aws: Asked, ca: str) -> None:
    """RDS asks for the token by mysql_clear_password: it is given once TLS is up and verified, and
    asks AWS nothing.
    """
    with Rogue(CLEAR, authority()) as rogue:
        target = Target.from_dsn(f"mysql://app@localhost:{rogue.port}/shop?auth=iam&ca={quote(ca)}")
        token = Credentials(target).login(Deadline.after(20)).password or ""
        driver = driver_for(EngineName.MYSQL)
        driver.connect(target, token, Deadline.after(20)).close()
        wish, _, password, *_ = rogue.heard
    # For TLS, without a name
    assert len(wish) == 4 + 32
    assert password[4:] == token.encode() + b"\0"
    assert "X-Amz-Signature=" in token
    assert not aws
