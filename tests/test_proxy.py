"""The proxy's faults are what they say they are, seen by the drivers and by the servers."""

from __future__ import annotations

import itertools
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

import psutil
import pytest

from lab.servers import Client, Server, Sessions, until
from lab.servers.proxy import Proxy, Then, Where

# another's may speak TLS, in which no pattern is found
pytestmark = pytest.mark.own_server

NUMBERS = itertools.count(1000)


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(server.host, server.port) as running:
        yield running


@pytest.fixture
def client(server: Server, proxy: Proxy) -> Iterator[Client]:
    """A session through the proxy; the server has forgotten it when the test is over."""
    opened = login(proxy, server)
    yield opened
    close(opened)
    proxy.close()
    assert until(lambda: opened.id not in server.states(), timeout=30)


@pytest.fixture
def number(server: Server) -> Iterator[int]:
    """A value that no row of `scratch` has yet."""
    drawn = next(NUMBERS)
    yield drawn
    with closing(server.connect()) as connection:
        server.kind.client(connection, "app").run(f"DELETE FROM scratch WHERE value = {drawn}")


def login(proxy: Proxy, server: Server) -> Client:
    return server.kind.client(proxy.through(server).connect(), "app")


def close(client: Client) -> None:
    # The drivers differ in what they say of a connection that is dead
    with suppress(Exception):
        client.close()


def insert(number: int) -> str:
    return f"INSERT INTO scratch (value) VALUES ({number})"


def stored(server: Server, number: int) -> int:
    with closing(server.connect()) as connection:
        found = server.kind.client(connection, "app").run(
            f"SELECT count(*) FROM scratch WHERE value = {number}"
        )
    return int(found[0][0])


def terminate(server: Server, client: Client) -> None:
    """End the session; return when the server has."""
    server.query(
        f"SELECT pg_terminate_backend({client.id})"
        if server.engine == "postgres"
        else f"KILL {client.id}"
    )
    assert until(lambda: client.id not in server.states())


def descriptor(client: Client) -> int:
    connection = client.connection  # type: ignore[attr-defined]
    return int(
        connection.pgconn.socket if hasattr(connection, "pgconn") else connection._sock.fileno()
    )


def seen(client: Client | socket.socket) -> str:
    """What lies on the client's side, left where it is: bytes, a FIN, a RST or nothing."""
    number = client.fileno() if isinstance(client, socket.socket) else descriptor(client)
    with socket.socket(fileno=os.dup(number)) as copy:
        try:
            return "bytes" if copy.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) else "FIN"
        except BlockingIOError:
            return "nothing"
        except ConnectionResetError:
            return "RST"


def refused(server: Server, proxy: Proxy) -> bool:
    """Whether a driver's connect is; it may not fail in any other way."""
    try:
        close(login(proxy, server))
    except server.kind.errors as error:
        return "refused" in str(error)
    return False


def arrivals(proxy: Proxy) -> Callable[[], bool]:
    """Whether the server has said anything to anybody since."""
    before = proxy.counts.bytes_down
    return lambda: proxy.counts.bytes_down > before


# What it carries


def test_it_carries_all_and_counts_it(proxy: Proxy, client: Client) -> None:
    """Megabytes pass unchanged both ways, and a statement is one request: a round trip."""
    before = proxy.counts
    size = 3_000_000
    assert client.run(f"SELECT length('{'x' * size}'), repeat('y', {size})") == [(size, "y" * size)]
    counts = proxy.counts
    assert counts.requests == before.requests + 1
    assert size < counts.bytes_up - before.bytes_up < size + 1000
    assert size < counts.bytes_down - before.bytes_down < size + 1000
    assert counts.packets_up > before.packets_up
    assert counts.packets_down > before.packets_down
    assert (counts.accepted, proxy.connections) == (1, 1)


def test_a_goodbye_is_passed_on(server: Server, proxy: Proxy, client: Client) -> None:
    """The client's close ends the session; the server's end is a FIN at the client."""
    other = login(proxy, server)
    other.close()
    assert until(lambda: other.id not in server.states())
    assert until(lambda: proxy.connections == 1)
    terminate(server, client)
    # PostgreSQL has last words
    assert until(lambda: seen(client) in ("FIN", "bytes"))
    with pytest.raises(server.kind.errors):
        client.run("SELECT 1")
    close(client)
    assert until(lambda: proxy.connections == 0)


def test_nothing_is_left(server: Server, number: int) -> None:
    """Closing takes thread, descriptors and sessions along, lost, stalled and open transactions
    notwithstanding.
    """
    threads, descriptors = threading.active_count(), psutil.Process().num_fds()
    clients = []
    with Proxy(server.host, server.port) as proxy:
        clients.append(login(proxy, server))
        proxy.swallow()
        proxy.resume()
        clients += [login(proxy, server) for _ in range(3)]
        clients[1].run("BEGIN")
        clients[1].run(insert(number))
        proxy.refuse()
        proxy.stall()
        assert proxy.connections == 4
    assert until(lambda: {client.id for client in clients}.isdisjoint(server.states()), timeout=30)
    assert stored(server, number) == 0
    for client in clients:
        close(client)
    proxy.close()
    assert threading.active_count() == threads
    assert psutil.Process().num_fds() == descriptors


# Answers that never come


@pytest.mark.parametrize(
    ("then", "sign"),
    [("close", "FIN"), ("reset", "RST"), ("silence", "nothing"), ("lost", "nothing")],
)
def test_a_dropped_answer(
    server: Server, proxy: Proxy, client: Client, number: int, then: Then, sign: str
) -> None:
    """The server has run the statement exactly once; the client sees the end that was asked for, or
    nothing at all.
    """
    trap = proxy.drop_after_request(then=then)
    client.start(insert(number))
    assert trap.met.wait(30)
    assert trap.cut.wait(30)
    assert stored(server, number) == 1
    assert until(lambda: seen(client) == sign)
    if sign != "nothing":
        with pytest.raises(server.kind.errors):
            client.finish()


def test_the_nth_answer_is_dropped(
    server: Server, proxy: Proxy, client: Client, number: int
) -> None:
    """Requests before the n-th are answered, and only as many answers are lost as were asked
    for.
    """
    trap = proxy.drop_after_request(n=2, then="reset")
    client.run("SELECT 1")
    with pytest.raises(server.kind.errors):
        client.run(insert(number))
    assert (trap.cuts, stored(server, number)) == (1, 1)
    close(other := login(proxy, server))
    assert other.id


def test_a_cancelled_trap_catches_nothing(proxy: Proxy, client: Client) -> None:
    """A trap that is no longer wanted lets its prey go."""
    trap = proxy.cut_when(b"SELECT")
    trap.cancel()
    assert client.run("SELECT 1") == [(1,)]
    assert not trap.met.is_set()
    assert proxy.connections == 1


@pytest.mark.parametrize("then", ["silence", "lost"])
def test_silence_is_told_of_the_clients_end_and_a_lost_route_not(
    server: Server, proxy: Proxy, client: Client, then: Then
) -> None:
    """After silence the client's close ends the session; on a lost route it stays, with all its
    locks.
    """
    trap = proxy.drop_after_request(then=then)
    client.start("SELECT 1")
    assert trap.cut.wait(30)
    assert seen(client) == "nothing"
    witness = login(proxy, server)
    close(client)
    if then == "silence":
        assert until(lambda: client.id not in server.states())
        assert proxy.connections == 1
    else:
        assert until(lambda: witness.run("SELECT 1") == [(1,)])
        assert client.id in server.states()
    close(witness)


# Cuts at a statement


@pytest.mark.parametrize("then", ["close", "reset"])
@pytest.mark.parametrize(("where", "rows"), [("before", 0), ("after", 1)])
def test_a_commit_is_cut(
    server: Server, proxy: Proxy, client: Client, number: int, where: Where, rows: int, then: Then
) -> None:
    """A COMMIT cut before it reaches the server is a rollback; one cut after it has taken effect.

    Both look alike.
    """
    trap = proxy.cut_when(b"COMMIT", where, then)
    client.run("BEGIN")
    client.run(insert(number))
    with pytest.raises(server.kind.errors):
        client.run("COMMIT")
    assert trap.cuts == 1
    assert until(lambda: client.id not in server.states())
    assert stored(server, number) == rows


def test_a_commit_that_is_cut_at_once(
    server: Server, proxy: Proxy, client: Client, number: int
) -> None:
    """Cut during without an event leaves it open whether the server has run it: all or nothing."""
    proxy.cut_when(b"COMMIT", "during", "reset")
    client.run("BEGIN")
    client.run(insert(number))
    client.run(insert(number))
    with pytest.raises(server.kind.errors):
        client.run("COMMIT")
    assert until(lambda: client.id not in server.states())
    assert stored(server, number) in (0, 2)


def test_a_statement_is_cut_while_it_runs(server: Server, proxy: Proxy) -> None:
    """The server is in the statement when the event is set; the client is cut then, and not
    before.
    """
    now = threading.Event()
    with Sessions(proxy.through(server)) as sessions:
        trap = proxy.cut_when(BLOCKING[server.engine], "during", "reset", on=now)
        (waiting,) = sessions.active(1)
        assert trap.met.is_set()
        assert seen(waiting) == "nothing"
        assert trap.cuts == 0
        now.set()
        assert trap.cut.wait(30)
        assert seen(waiting) == "RST"
        assert server.states()[waiting.id] in ("active", "Query")
        sessions.release_active()


BLOCKING = {"postgres": b"pg_advisory_xact_lock_shared", "mysql": b"LOCK IN SHARE MODE"}


def test_an_answer_during_is_lost(
    server: Server, proxy: Proxy, client: Client, number: int
) -> None:
    """A statement that ends before it is cut is not answered all the same."""
    now = threading.Event()
    trap = proxy.cut_when(b"INSERT", "during", on=now)
    answered = arrivals(proxy)
    client.start(insert(number))
    assert until(answered)
    assert seen(client) == "nothing"
    now.set()
    assert trap.cut.wait(30)
    assert seen(client) == "FIN"
    assert stored(server, number) == 1


# Silence


def test_a_stall_keeps_everything(
    server: Server, proxy: Proxy, client: Client, number: int
) -> None:
    """Nothing arrives on either side while it lasts, and all does afterwards."""
    proxy.stall()
    client.start(insert(number))
    assert server.states()[client.id] in ("idle", "Sleep")
    assert stored(server, number) == 0
    assert seen(client) == "nothing"
    proxy.resume()
    client.finish()
    assert stored(server, number) == 1


def test_a_stall_hides_the_servers_end(server: Server, proxy: Proxy, client: Client) -> None:
    """A session that ends during a stall looks alive until it is over."""
    proxy.stall()
    terminate(server, client)
    assert seen(client) == "nothing"
    proxy.resume()
    assert until(lambda: seen(client) != "nothing")


def test_a_lost_route_stays_lost(server: Server, proxy: Proxy, client: Client, number: int) -> None:
    """What is swallowed never arrives, not even later; connections opened after `resume` work."""
    proxy.swallow()
    sent = proxy.counts.bytes_up
    client.start(insert(number))
    assert until(lambda: proxy.counts.bytes_up > sent)
    with dial(proxy) as unanswered:
        assert until(lambda: proxy.connections == 2)
        assert seen(unanswered) == "nothing"
    proxy.resume()
    other = login(proxy, server)
    other.run("SELECT 1")
    other.close()
    assert seen(client) == "nothing"
    assert stored(server, number) == 0


def test_a_trickle(proxy: Proxy, client: Client) -> None:
    """The answer takes its time for every byte, but is whole."""
    before = proxy.counts.bytes_down
    pause = 0.002
    proxy.trickle(pause)
    began = time.monotonic()
    assert client.run("SELECT 1") == [(1,)]
    took = time.monotonic() - began
    assert took >= (proxy.counts.bytes_down - before - 1) * pause
    proxy.trickle(3600)
    client.start("SELECT 1")
    assert until(lambda: seen(client) == "bytes")
    proxy.resume()
    client.finish()


# Ends


@pytest.mark.parametrize(("end", "sign"), [(Proxy.reset, "RST"), (Proxy.cut, "FIN")])
def test_all_connections_end(
    server: Server, proxy: Proxy, client: Client, end: Callable[[Proxy], None], sign: str
) -> None:
    """Both sides of every connection end as told; new connections work."""
    other = login(proxy, server)
    end(proxy)
    assert [seen(client), seen(other)] == [sign, sign]
    assert proxy.connections == 0
    for lost in (client, other):
        with pytest.raises(server.kind.errors):
            lost.run("SELECT 1")
        assert until(lambda lost=lost: lost.id not in server.states())  # type: ignore[misc]
    close(other)
    close(again := login(proxy, server))
    assert again.id


def test_a_hidden_end(server: Server, proxy: Proxy, client: Client) -> None:
    """The dead session looks alive, last words included; the first statement meets a reset, a new
    connection works.
    """
    proxy.hide_fin()
    terminate(server, client)
    other = login(proxy, server)
    assert other.run("SELECT 1") == [(1,)]
    assert seen(client) == "nothing"
    assert proxy.connections == 2
    client.start("SELECT 1")
    assert until(lambda: seen(client) == "RST")
    with pytest.raises(server.kind.errors):
        client.finish()
    other.close()
    assert until(lambda: proxy.connections == 0)


def test_hiding_ends_leaves_the_living_alone(server: Server, proxy: Proxy, client: Client) -> None:
    """Sessions that live answer as ever, and what the server said of its own accord is late, not
    lost.
    """
    if server.engine == "postgres":
        client.run("LISTEN hidden")
    proxy.hide_fin()
    said = arrivals(proxy)
    if server.engine == "postgres":
        with closing(server.connect()) as other:
            other.execute("NOTIFY hidden")
        assert until(said)
        assert seen(client) == "nothing"
    assert client.run("SELECT 1") == [(1,)]
    if server.engine == "postgres":
        assert len(list(client.connection.notifies(timeout=0))) == 1  # type: ignore[attr-defined]


def test_refused_connects(server: Server, proxy: Proxy, client: Client) -> None:
    """Connects are refused while open connections work; the port is the same when it listens
    again.
    """
    port = proxy.port
    proxy.refuse()
    assert refused(server, proxy)
    assert client.run("SELECT 1") == [(1,)]
    proxy.accept()
    assert not refused(server, proxy)
    proxy.refuse()
    proxy.accept()
    proxy.accept()
    assert proxy.port == port
    assert not refused(server, proxy)


def test_a_failover(server: Server, proxy: Proxy, client: Client) -> None:
    """New connections go to the other port at the same address; open ones stay where they are."""
    with Proxy(server.host, server.port) as elsewhere:
        proxy.to(elsewhere.host, elsewhere.port)
        assert client.run("SELECT 1") == [(1,)]
        assert elsewhere.counts.accepted == 0
        moved = login(proxy, server)
        assert moved.run("SELECT 1") == [(1,)]
        assert elsewhere.counts.accepted == 1
        elsewhere.refuse()
        with pytest.raises(server.kind.errors):
            login(proxy, server)
        moved.close()


# Bytes that need no database


@contextmanager
def bare() -> Iterator[tuple[Proxy, socket.socket, socket.socket]]:
    """A proxy with a client's end and a server's end that a test has in its hands."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        Proxy(*listening.getsockname()) as proxy,
        dial(proxy) as near,
    ):
        far, _ = listening.accept()
        far.settimeout(10)
        with far:
            yield proxy, near, far


def dial(proxy: Proxy) -> socket.socket:
    return socket.create_connection((proxy.host, proxy.port), timeout=10)


def heard(far: socket.socket) -> bytes:
    """All until the end."""
    return b"".join(iter(lambda: far.recv(65536), b""))


def test_a_pattern_is_found_across_pieces() -> None:
    """A match may be spread over any number of recv calls; none of its last piece is forwarded."""
    with bare() as (proxy, near, far):
        trap = proxy.cut_when(b"COMMIT")
        for number, byte in enumerate(b"a COMMI", 1):
            near.send(bytes([byte]))
            assert until(lambda number=number: proxy.counts.packets_up == number)  # type: ignore[misc]
        assert not trap.met.is_set()
        near.send(b"T;")
        assert trap.cut.wait(10)
        assert heard(far) == b"a COMMI"
        assert seen(near) == "FIN"


def test_before_forwards_what_precedes_the_pattern() -> None:
    """Statements before it in the same piece reach the server whole."""
    with bare() as (proxy, near, far):
        trap = proxy.cut_when(b"COMMIT", n=2)
        near.send(b"COMMIT; INSERT; COMMIT; BEGIN")
        assert trap.cut.wait(10)
        assert heard(far) == b"COMMIT; INSERT; "


def test_as_many_times_as_asked() -> None:
    """A trap for two catches two, of any connections, and no third."""
    with bare() as (proxy, near, far):
        trap = proxy.cut_when(b"X", "before", "silence", times=2)
        near.send(b"X")
        assert until(lambda: trap.cuts == 1)
        with dial(proxy) as second:
            second.send(b"X")
            assert until(lambda: trap.cuts == 2)
        with dial(proxy) as third:
            third.send(b"X")
            assert until(lambda: proxy.counts.requests == 3)
        assert trap.cuts == 2
        assert not select.select([far], [], [], 0)[0]


def test_a_half_closed_connection_still_answers() -> None:
    """A FIN ends one direction only."""
    with bare() as (proxy, near, far):
        near.shutdown(socket.SHUT_WR)
        assert heard(far) == b""
        far.sendall(b"late")
        assert near.recv(10) == b"late"
        far.close()
        assert near.recv(10) == b""
        assert until(lambda: proxy.connections == 0)


def test_a_reset_is_passed_on() -> None:
    """A RST from either side is a RST at the other."""
    with bare() as (proxy, near, far):
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        far.close()
        assert until(lambda: seen(near) == "RST")
        assert until(lambda: proxy.connections == 0)


def test_who_speaks_to_a_closed_server_is_reset() -> None:
    """After the server's FIN a byte from the client ends the connection, as with no proxy
    between.
    """
    with bare() as (proxy, near, far):
        far.close()
        assert until(lambda: seen(near) == "FIN")
        assert proxy.connections == 1
        near.send(b"x")
        assert until(lambda: proxy.connections == 0)


def test_an_end_instead_of_an_answer_springs_the_trap() -> None:
    """A server that dies before it answers does not save the client from what the trap has for
    it.
    """
    with bare() as (proxy, near, far):
        trap = proxy.cut_when(b"X", "after", "reset")
        near.send(b"X")
        assert trap.met.wait(10)
        assert not trap.cut.is_set()
        far.close()
        assert trap.cut.wait(10)
        assert seen(near) == "RST"


def test_a_refusal_is_no_end_to_hide() -> None:
    """A connection that never reached the server is reset although ends are hidden."""
    with bare() as (proxy, near, far):
        with Proxy("127.0.0.1", 1) as dead:
            dead.refuse()
            proxy.to(dead.host, dead.port)
            proxy.hide_fin()
            # The reset may be quicker than the connect
            with suppress(ConnectionResetError), dial(proxy) as late:
                assert until(lambda: seen(late) == "RST")
            assert until(lambda: (proxy.counts.accepted, proxy.connections) == (2, 1))
        assert (seen(near), seen(far)) == ("nothing", "nothing")


def test_a_cut_is_a_fin_although_bytes_are_unread() -> None:
    """What a stall has kept back is lost with the connection and does not turn its FIN into a
    RST.
    """
    with bare() as (proxy, near, far):
        proxy.stall()
        near.send(b"x")
        far.send(b"y")
        proxy.cut()
        assert (seen(near), seen(far)) == ("FIN", "FIN")


def test_who_reads_slowly_slows_the_writer() -> None:
    """The proxy does not hoard: a writer whose reader stands still has to wait."""
    with bare() as (_, near, far):
        near.setblocking(False)
        sent = 0
        while sent < 100_000_000 and select.select([], [near], [], 0.3)[1]:
            with suppress(BlockingIOError):
                sent += near.send(bytes(1_000_000))
        assert sent < 100_000_000
        near.setblocking(True)
        near.shutdown(socket.SHUT_WR)
        assert len(heard(far)) == sent
