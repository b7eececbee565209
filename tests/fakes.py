"""A third engine, with its sessions in a dict: it passes the same tests as the real ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

from reaper.client.deadline import Clock, Deadline
from reaper.client.drivers import connection
from reaper.client.drivers.connection import Connection, Guard, Result
from reaper.client.faults import Fault
from reaper.client.target import EngineName, Target
from reaper.engines.base import ChunkOutcome, Holder
from reaper.engines.snapshot_file import RawSnapshot
from reaper.model import Flavour, KillMethod, Mark, Outcome, Session, Snapshot, State, SweepTarget

_BEGINNING = 1000.0


class Time:
    """A clock that only moves when somebody sleeps or works."""

    def __init__(self) -> None:
        self.now = _BEGINNING

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class FakeClient:
    """A session as its client and the server know it."""

    id: int
    user: str = "app"
    idle: float | None = 1000.0
    # At the clock's beginning
    at_most: float | None = None
    statements: int = 0
    refuses: bool = False
    # Seconds that its slot stays taken after the kill
    rolls_back: float = 0.0
    killed_at: float | None = None

    def run(self, sql: str) -> list[tuple[int]]:
        assert sql
        assert self.killed_at is None, "terminated"
        self.statements += 1
        return [(1,)]

    def alive(self) -> bool:
        return self.killed_at is None

    @property
    def mark(self) -> Mark:
        return Mark((self.user, self.statements))


@dataclass
class FakeDatabase:
    """Engine, driver and server in one, on a clock of its own."""

    right_to_see = "sight"
    right_to_kill = "a licence"

    clients: dict[int, FakeClient] = field(default_factory=dict)
    time: Time = field(default_factory=Time)
    method: KillMethod | None = KillMethod.KILL
    seconds_a_strike: float = 0.001
    seconds_a_kill: float = 0.0001
    blind: bool = False
    max_connections: int = 1000
    user_limits: dict[str, int] = field(default_factory=dict)
    looks: int = 0
    guard: Guard = field(default_factory=lambda: Guard(Deadline.after(3600)))
    raw: Any = None
    can_ask_commits: bool | None = False
    id: int = 1
    chunks: list[int] = field(default_factory=list)
    closed: int = 0
    lives: bool = True
    stopping: bool = False
    refuses_login: Exception | None = None
    refuses_limit: Exception | None = None
    user: str = "reaper"
    # Which of the sessions on this server this is
    session: int = 0
    # Of the sweep's lock, at most one; the same for all sessions
    holders: list[Holder] = field(default_factory=list)

    def sleeping(self, n: int, **facts: Any) -> list[FakeClient]:
        first = len(self.clients) + 1
        opened = [FakeClient(id_, **facts) for id_ in range(first, first + n)]
        self.clients |= {client.id: client for client in opened}
        return opened

    # The driver.

    def connect(
        self,
        target: Target,
        password: str | None,
        deadline: Deadline,
        *,
        application: str = "reaper",
        batch: bool = False,
        proxy: bool = False,
        address: tuple[str, int] | None = None,
    ) -> FakeDatabase:
        assert application == "reaper"
        assert target.user
        assert password is None
        assert deadline.remaining() > 0
        assert batch
        if self.refuses_login:
            raise self.refuses_login
        return self

    def run(self, sql: str, params: Any = None) -> Result:
        raise AssertionError(
            f"a sweep runs no statement of an application's: {sql}, {params} on {self}"
        )

    answer = run

    def stop(self, another: Callable[..., Any], deadline: Deadline) -> None:
        raise AssertionError("a sweep stops no statement of its own")

    def size(self, sql: str, params: Any) -> int:
        return len(sql)

    def identify(self) -> None:
        raise AssertionError("a sweep has no need to know")

    def is_replica(self) -> bool:
        return False

    def idle_limit(self) -> float | None:
        return None

    def row_limit(self) -> int | None:
        return None

    def limit_idle(self, seconds: int) -> None:
        assert seconds == 900
        if self.refuses_limit:
            raise self.refuses_limit

    def ping(self) -> None:
        raise AssertionError(f"a sweep's connection is fresh: {self}")

    def begin(self) -> None:
        raise AssertionError("a sweep begins no transaction through its driver")

    commit = roll_back = mark_transaction = begin

    def state(self) -> connection.State:
        return connection.State.IDLE

    def is_same_transaction(self) -> bool:
        raise AssertionError("a sweep marks no transaction")

    def in_transaction(self) -> bool:
        return False

    def has_failed(self) -> bool:
        return False

    def was_sent(self, error: BaseException) -> bool:
        raise AssertionError(f"nothing was sent: {error} on {self}")

    def is_alive(self) -> bool:
        return self.lives

    def is_idle(self) -> bool:
        return True

    def lend(self) -> None:
        raise AssertionError("nobody borrows a sweep's connection")

    def close(self) -> None:
        self.closed += 1

    def fault(self, error: BaseException) -> Fault:
        return Fault.TOO_MANY if isinstance(error, ConnectionRefusedError) else Fault.OTHER

    # The engine.

    def server(self, connection: Connection, clock: Clock) -> FakeDatabase:
        assert connection is self
        assert clock is self.time
        return self

    def read(self, look: RawSnapshot) -> Snapshot:
        return Snapshot(
            engine=EngineName.MYSQL,
            flavour=Flavour.MYSQL,
            sessions=tuple(cast(Session, row["session"]) for row in look.rows),
            used=len(look.rows),
            max_connections=self.max_connections,
            user_limits=self.user_limits,
            blind=self.blind,
        )

    # The server.

    @contextmanager
    def another(self, user: str = "reaper") -> Iterator[FakeDatabase]:
        """One more session on the same server."""
        session = replace(self, user=user, session=self.session + 1)
        yield session
        session.end(Holder(session.session, True, None))

    @property
    def locked(self) -> bool:
        return bool(self.holders)

    def lock(self) -> bool:
        if not self.holders:
            self.holders.append(Holder(self.session, self.user == "reaper", 0.0))
        return self.holders[0].id == self.session

    def unlock(self) -> None:
        assert self.lock()
        self.holders.clear()

    def holder(self) -> Holder | None:
        return next(
            (replace(h, idle_seconds=None) if h.id == self.session else h for h in self.holders),
            None,
        )

    def end(self, holder: Holder) -> None:
        self.holders[:] = [other for other in self.holders if other.id != holder.id]

    def look(self) -> RawSnapshot:
        self.looks += 1
        return RawSnapshot(
            EngineName.MYSQL,
            [{"session": self._session(c)} for c in self.clients.values() if c.alive()],
        )

    def _session(self, client: FakeClient) -> Session:
        return Session(
            client.id,
            client.user,
            host="10.0.0.1",
            state=State.IDLE,
            idle_seconds=client.idle,
            idle_at_most=None
            if client.at_most is None
            else client.at_most + self.time() - _BEGINNING,
            mark=client.mark,
        )

    def kill_order(self, victims: Sequence[Session]) -> Sequence[Session]:
        return victims

    def terminate(self, victims: Sequence[Session]) -> ChunkOutcome:
        self.chunks.append(len(victims))
        began = self.time()
        self.time.sleep(self.seconds_a_strike)
        outcomes = {}
        for victim in victims:
            if self.time() - began < 0.05:
                outcomes[victim.id] = self._outcome(victim)
                self.time.sleep(self.seconds_a_kill)
        return ChunkOutcome(outcomes, self.time() - began)

    def _outcome(self, victim: Session) -> Outcome:
        client = self.clients.get(victim.id)
        if client is None or not client.alive():
            return Outcome.GONE
        if victim.mark is None or not client.mark.matches(victim.mark):
            return Outcome.CHANGED
        if client.refuses or self.method is None:
            return Outcome.REFUSED
        client.killed_at = self.time()
        return Outcome.SIGNALLED

    def settings(self) -> dict[str, Any]:
        return {"can_signal": self.method is not None}

    def still_present(self, victims: Sequence[Session]) -> set[int]:
        return {victim.id for victim in victims if self._lingers(self.clients[victim.id])}

    def _lingers(self, client: FakeClient) -> bool:
        return client.killed_at is None or self.time() < client.killed_at + client.rolls_back


TARGET = SweepTarget.from_mapping(
    {"name": "fake", "engine": "mysql", "host": "127.0.0.1", "user": "reaper"}
)
