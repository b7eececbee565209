"""A proxy that fails as networks fail: what it carries can be lost, delayed, cut or forgotten.

It knows no protocol. A client's request is what it sends after the server has spoken (or from the
start): a login's packets and a goodbye are requests, too, and pipelined statements are one. Nothing
can be found in an encrypted stream.
"""

from __future__ import annotations

import errno
import queue
import re
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeVar

from .base import Server, free_port

T = TypeVar("T")
Where = Literal["before", "during", "after"]
Then = Literal["close", "reset", "silence", "lost"]

HOST = "127.0.0.1"
PIECE = 65536
FULL = 1 << 20
POLL = 0.005


@dataclass
class Counts:
    """What came in from either side, passed on or not; up is from the client to the server.

    A packet is what one recv returned, not the protocol's: compare with zero, or use `requests`,
    which are the round trips.
    """

    accepted: int = 0
    requests: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    packets_up: int = 0
    packets_down: int = 0


class Trap:
    """Cuts the connection whose client sends a pattern, `times` times from the n-th match on."""

    def __init__(
        self,
        pattern: bytes | None,
        where: Where,
        then: Then,
        n: int,
        times: int,
        on: threading.Event | None,
    ) -> None:
        self.where = where
        self.then = then
        self.on = on
        self.met = threading.Event()
        """It has been sent: forwarded to the server unless the cut is before."""
        self.cut = threading.Event()
        """A connection has been cut; `cuts` says how many."""
        self.cuts = 0
        self._pattern = pattern
        self._before = n - 1
        self._times = times

    @property
    def spent(self) -> bool:
        return self._times <= 0

    def cancel(self) -> None:
        """Let everything pass from now on."""
        self._times = 0

    def caught(self, link: Link, piece: bytes, asks: bool) -> int | None:
        """The offset in this piece of the client's stream at which the match begins that triggers
        it; 0 if it began in an earlier piece.
        """
        for at in self._matches(link, piece, asks):
            if self._before:
                self._before -= 1
            elif not self.spent:
                self._times -= 1
                return max(at, 0)
        return None

    def _matches(self, link: Link, piece: bytes, asks: bool) -> list[int]:
        if self._pattern is None:
            return [0] if asks else []
        tail = link.tails.get(self, b"")
        stream = tail + piece
        link.tails[self] = stream[max(0, len(stream) - len(self._pattern) + 1) :]
        return [
            match.start() - len(tail) for match in re.finditer(re.escape(self._pattern), stream)
        ]


class Flow:
    """One direction of a connection."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source = source
        self.sink = sink
        self.pending = bytearray()
        self.due = 0.0
        self.ended = False
        self.shut = False

    def send(self, most: int = PIECE) -> None:
        """Pass on what can be passed on now, including the end of the stream."""
        if self.pending:
            sent = self.sink.send(self.pending[:most])
            del self.pending[:sent]
        if self.ended and not self.pending and not self.shut:
            self.sink.shutdown(socket.SHUT_WR)
            self.shut = True


class Link:
    """A client's connection and the one to the server that belongs to it."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.up = Flow(client, server)
        self.down = Flow(server, client)
        self.route: Literal["open", "silence", "lost"] = "open"
        # The client has made no request yet
        self.asking: bool | None = None
        self.quiet = False
        self.held = b""
        self.forgotten = False
        self.trap: Trap | None = None
        self.tails: dict[Trap, bytes] = {}

    @property
    def sockets(self) -> tuple[socket.socket, socket.socket]:
        return self.up.source, self.down.source

    def lose(self, route: Literal["silence", "lost"]) -> None:
        self.route = route
        self.trap = None
        self.up.pending.clear()
        self.down.pending.clear()


class Proxy:
    """Listens on a free port of its own, `port`, and carries every connection to a server.

    All that changes its behaviour has come into force, for open and for new connections, when the
    method returns. One thread does everything. Closing ends both sides of all connections, so the
    server drops its sessions; one that is in a statement notices at its end.
    """

    def __init__(self, host: str, port: int) -> None:
        self.host = HOST
        self.port = 0
        self._address = resolved(host, port)
        self._counts = Counts()
        self._links: set[Link] = set()
        self._traps: list[Trap] = []
        self._stalled = self._losing = self._hiding = self._closed = False
        self._seconds_a_byte = 0.0
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._masks: dict[socket.socket, int] = {}

    def __enter__(self) -> Proxy:
        self._door = anywhere()
        self._door.listen(512)
        self.port = self._door.getsockname()[1]
        self._bell, self._ear = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._watch(self._door, selectors.EVENT_READ, self._admit)
        self._watch(self._ear, selectors.EVENT_READ, self._obey)
        self._thread = threading.Thread(target=self._run, name=f"proxy-{self.port}", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the thread and, with a FIN to both sides, all connections. A second call does
        nothing.
        """
        if self._thread.is_alive():
            self._ask(lambda: setattr(self, "_closed", True))
            self._thread.join(30)
            assert not self._thread.is_alive(), "the proxy's thread does not end"

    # What a test looks at

    @property
    def connections(self) -> int:
        """The connections that are open now; `counts.accepted` counts all that ever were."""
        return len(self._links)

    @property
    def counts(self) -> Counts:
        """A copy of the counters as they stand."""
        return replace(self._counts)

    def through(self, server: Server) -> Server:
        """The same server at this proxy's address: to connect to, not to start or stop."""
        return replace(server, host=self.host, port=self.port)

    # What a test does

    def to(self, host: str, port: int) -> None:
        """Carry new connections to another server: a failover behind the same address.

        A server that refuses shows as a connection that is accepted and reset: see `refuse`.
        """
        address = resolved(host, port)
        self._ask(lambda: setattr(self, "_address", address))

    def drop_after_request(self, n: int = 1, then: Then = "close", times: int = 1) -> Trap:
        """Lose the answer to the n-th request from now on whichever connection: the server gets it,
        the client nothing.

        The connection is cut at the first byte of the answer.
        """
        return self._armed(Trap(None, "after", then, n, times, None))

    def cut_when(
        self,
        pattern: bytes,
        where: Where = "before",
        then: Then = "close",
        *,
        n: int = 1,
        times: int = 1,
        on: threading.Event | None = None,
    ) -> Trap:
        """Cut the connection whose client sends `pattern`.

        before: the server gets what precedes the pattern, which is no complete packet. during: the
        server gets it; cut when `on` is set, at once without; an answer in the meantime is lost.
        after: the server gets it; cut at the first byte of its answer.

        close and reset end both sides, by FIN or by RST. silence carries nothing more, but the
        client's close still reaches the server; lost not even that, so that the server's session
        stays.

        The pattern is matched over a window that slides along the client's stream, for packets may
        be split over any number of recv calls: of one that arrives in pieces the first may have
        been forwarded when the last completes it. That is harmless: a server never runs an
        incomplete packet.
        """
        return self._armed(Trap(pattern, where, then, n, times, on))

    def _armed(self, trap: Trap) -> Trap:
        self._ask(lambda: self._traps.append(trap))
        return trap

    def stall(self) -> None:
        """Carry nothing in either direction, not even an end; keep it for `resume`.

        New connections are accepted.
        """
        self._ask(lambda: setattr(self, "_stalled", True))

    def swallow(self) -> None:
        """Throw everything away for ever, ends included: a lost route.

        `resume` saves only the connections after it.

        New connections are accepted, as the kernel cannot be told not to, and never answered.
        """

        def order() -> None:
            self._losing = True
            for link in self._links:
                link.lose("lost")

        self._ask(order)

    def trickle(self, seconds_a_byte: float) -> None:
        """Give the client the server's bytes one at a time, with a pause before the next."""
        self._ask(lambda: setattr(self, "_seconds_a_byte", seconds_a_byte))

    def resume(self) -> None:
        """End `stall`, `trickle` and, for new connections, `swallow`; traps and `hide_fin` stay."""

        def order() -> None:
            self._stalled = self._losing = False
            self._seconds_a_byte = 0.0

        self._ask(order)

    def hide_fin(self, on: bool = True) -> None:
        """Keep the server's end, FIN or RST, from the client; reset the client at its next byte: a
        NAT that forgot.

        Call it when the client is idle: what the server says until the client's next byte is kept
        back with the end, PostgreSQL's last words for one. Of connections that have spoken since,
        only the end is hidden.
        """

        def order() -> None:
            self._hiding = on
            for link in self._links:
                # a login goes on
                link.quiet = on and link.asking is False

        self._ask(order)

    def reset(self) -> None:
        """Send RST to both sides of all connections."""
        self._ask(lambda: self._end_all(reset=True))

    def cut(self) -> None:
        """Send FIN to both sides of all connections; a side that sends anything after that gets a
        RST.
        """
        self._ask(lambda: self._end_all(reset=False))

    def refuse(self) -> None:
        """Refuse new connections; open ones stay."""
        self._ask(self._shut_door)

    def accept(self) -> None:
        """Listen again, on the same port."""

        def order() -> None:
            self._door.listen(512)
            self._watch(self._door, selectors.EVENT_READ, self._admit)

        self._ask(order)

    # The loop, in its own thread from here on

    def _ask(self, order: Callable[[], T]) -> T:
        """Have the loop's thread run this; return when it is done."""
        done: Future[T] = Future()

        def obeyed() -> None:
            try:
                done.set_result(order())
            except OSError as problem:
                done.set_exception(problem)

        self._orders.put(obeyed)
        self._bell.send(b"!")
        return done.result(timeout=30)

    def _obey(self, _: int) -> None:
        self._ear.recv(PIECE)
        while not self._orders.empty():
            self._orders.get()()

    def _run(self) -> None:
        try:
            while not self._closed:
                self._attend()
                for key, mask in self._selector.select(self._pause()):
                    key.data(mask)
                self._tick()
        finally:
            self._end_all(reset=False)
            for opened in (self._door, self._bell, self._ear):
                self._forget_socket(opened)
                opened.close()
            self._selector.close()

    def _watch(self, opened: socket.socket, mask: int, ready: Callable[[int], None]) -> None:
        known = self._masks.get(opened, 0)
        if mask == known:
            return
        if not mask:
            self._forget_socket(opened)
            return
        (self._selector.modify if known else self._selector.register)(opened, mask, ready)
        self._masks[opened] = mask

    def _forget_socket(self, opened: socket.socket) -> None:
        if self._masks.pop(opened, 0):
            self._selector.unregister(opened)

    def _attend(self) -> None:
        """Wait for whatever each connection can do now."""
        for link in self._links:
            for reads, writes in ((link.up, link.down), (link.down, link.up)):
                ready = partial(self._ready, link, reads, writes)
                self._watch(reads.source, self._mask(link, reads, writes), ready)

    def _mask(self, link: Link, reads: Flow, writes: Flow) -> int:
        if self._stalled:
            return 0
        mask = 0
        if not reads.ended and len(reads.pending) < FULL:
            mask |= selectors.EVENT_READ
        if writes.pending and not self._trickles(link, writes):
            mask |= selectors.EVENT_WRITE
        return mask

    def _trickles(self, link: Link, flow: Flow) -> bool:
        return self._seconds_a_byte > 0 and flow is link.down

    def _pause(self) -> float | None:
        """Seconds until something is due even if no socket becomes ready."""
        if any(link.trap and link.trap.where == "during" for link in self._links):
            return POLL
        dues = [
            link.down.due
            for link in self._links
            if link.down.pending and self._trickles(link, link.down)
        ]
        return max(0.0, min(dues) - time.monotonic()) if dues and not self._stalled else None

    def _tick(self) -> None:
        now = time.monotonic()
        for link in list(self._links):
            if link.trap and link.trap.where == "during":
                self._cut_if_told(link, link.trap)
            elif (
                link.down.pending
                and self._trickles(link, link.down)
                and link.down.due <= now
                and not self._stalled
            ):
                link.down.due = now + self._seconds_a_byte
                self._flush(link, link.down, 1)

    def _cut_if_told(self, link: Link, trap: Trap) -> None:
        if not link.up.pending and (trap.on is None or trap.on.is_set()):
            self._spring(link, trap)

    def _admit(self, _: int) -> None:
        try:
            client, _peer = self._door.accept()
        except OSError:
            # The client has disconnected again
            return
        server = socket.socket()
        link = Link(client, server)
        for opened in link.sockets:
            opened.setblocking(False)
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._counts.accepted += 1
        self._links.add(link)
        if self._losing:
            link.lose("lost")
            # The server never hears of it
            link.down.ended = True
        elif server.connect_ex(self._address) not in (0, errno.EINPROGRESS):
            self._end(link, reset=True)

    def _shut_door(self) -> None:
        """Stop listening but keep the port: nobody else may take it, and a bound port that does not
        listen refuses.
        """
        self._forget_socket(self._door)
        self._door.close()
        self._door = bound(self.port)

    # One connection

    def _ready(self, link: Link, reads: Flow, writes: Flow, mask: int) -> None:
        if mask & selectors.EVENT_WRITE and self._carries(link):
            self._flush(link, writes)
        if mask & selectors.EVENT_READ and self._carries(link):
            self._receive(link, reads)

    def _carries(self, link: Link) -> bool:
        """Whether it still carries data: an earlier event of the same round may have ended or
        stalled it.
        """
        return link in self._links and not self._stalled

    def _receive(self, link: Link, flow: Flow) -> None:
        try:
            piece = flow.source.recv(PIECE)
        except BlockingIOError:
            return
        except OSError as problem:
            self._ended(link, flow, problem)
            return
        if not piece:
            self._ended(link, flow)
        elif flow is link.up:
            self._hear_client(link, piece)
        else:
            self._hear_server(link, piece)

    def _hear_client(self, link: Link, piece: bytes) -> None:
        asks, link.asking = not link.asking, True
        self._counts.requests += asks
        self._counts.packets_up += 1
        self._counts.bytes_up += len(piece)
        if link.route != "open":
            return
        if link.forgotten or link.down.shut:
            # This is what the kernel of a server that has closed does
            self._end(link, reset=True)
            return
        self._speak_late(link)
        trap, at = self._caught(link, piece, asks)
        if trap is None:
            self._carry(link, link.up, piece)
            return
        trap.met.set()
        self._carry(link, link.up, piece[:at] if trap.where == "before" else piece)
        if trap.where == "before":
            self._spring(link, trap)
        else:
            link.trap = trap

    def _caught(self, link: Link, piece: bytes, asks: bool) -> tuple[Trap | None, int]:
        """The first trap that this triggers, and where. A connection is caught once only."""
        if link.trap:
            return None, 0
        for trap in self._traps:
            at = trap.caught(link, piece, asks)
            if at is not None:
                self._traps = [armed for armed in self._traps if not armed.spent]
                return trap, at
        return None, 0

    def _speak_late(self, link: Link) -> None:
        """Give the client what was held back in case it was the last thing that the server sent."""
        held, link.held, link.quiet = link.held, b"", False
        self._carry(link, link.down, held)

    def _hear_server(self, link: Link, piece: bytes) -> None:
        if link.asking:
            link.asking = False
        self._counts.packets_down += 1
        self._counts.bytes_down += len(piece)
        if link.route != "open":
            return
        if link.trap:
            if link.trap.where == "after":
                self._spring(link, link.trap)
        elif link.quiet:
            link.held += piece
        else:
            self._carry(link, link.down, piece)

    def _carry(self, link: Link, flow: Flow, piece: bytes) -> None:
        flow.pending += piece
        if not self._trickles(link, flow):
            self._flush(link, flow)

    def _flush(self, link: Link, flow: Flow, most: int = PIECE) -> None:
        try:
            flow.send(most)
        except BlockingIOError:
            return
        except OSError:
            self._end(link, reset=True)
            return
        if link.up.shut and link.down.shut:
            self._end(link, reset=False)

    def _ended(self, link: Link, flow: Flow, problem: OSError | None = None) -> None:
        """Handle the end of the source: FIN or, if there is a problem, RST."""
        flow.ended = True
        if link.route == "lost":
            return
        if flow is link.down and self._hides_end(link, problem):
            return
        if problem or link.forgotten or link.route == "silence":
            self._end(link, reset=problem is not None)
        elif not self._trickles(link, flow) or not flow.pending:
            self._flush(link, flow)

    def _hides_end(self, link: Link, problem: OSError | None) -> bool:
        """Whether the end of the server's stream is hidden from the client, or left to a trap to
        show.
        """
        if link.trap:
            if link.trap.where == "after":
                self._spring(link, link.trap)
            return True
        if self._hiding and not link.up.ended and not isinstance(problem, ConnectionRefusedError):
            link.forgotten = True
            link.held = b""
            return True
        return link.route == "silence"

    def _spring(self, link: Link, trap: Trap) -> None:
        # Set first, since a test that sees the cut may look at once
        trap.cuts += 1
        if trap.then in ("silence", "lost"):
            link.lose(trap.then)
        else:
            self._end(link, reset=trap.then == "reset")
        trap.cut.set()

    def _end_all(self, *, reset: bool) -> None:
        for link in list(self._links):
            self._end(link, reset=reset)

    def _end(self, link: Link, *, reset: bool) -> None:
        if link not in self._links:
            return
        self._links.remove(link)
        for opened in link.sockets:
            self._forget_socket(opened)
            (abort if reset else hang_up)(opened)


def abort(opened: socket.socket) -> None:
    """Close with a RST."""
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    opened.close()


def hang_up(opened: socket.socket) -> None:
    """Close with a FIN, which unread bytes would turn into a RST; a copy in a forked child does not
    keep it back.
    """
    with suppress(OSError):
        opened.shutdown(socket.SHUT_WR)
        while opened.recv(PIECE):
            pass
    opened.close()


def bound(port: int) -> socket.socket:
    opened = socket.socket()
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    opened.setblocking(False)
    try:
        opened.bind((HOST, port))
    except OSError:
        opened.close()
        raise
    return opened


def anywhere(attempts: int = 5) -> socket.socket:
    """A socket that listens on a free port; tried again if another process takes the port first."""
    for _ in range(attempts):
        with suppress(OSError):
            return bound(free_port())
    raise OSError("no free port")


def resolved(host: str, port: int) -> tuple[str, int]:
    return socket.gethostbyname(host), port
