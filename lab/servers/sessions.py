"""Sessions in every state that a reaper meets, each a real connection to a real server."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import TypeVar

from . import replicas
from .base import Client, Server, until
from .sockets import SocketClient, handshake

GATE = 4711
C = TypeVar("C", bound=Client)


class Sessions:
    """Opens sessions on one server and closes every one of them at the end."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.clients: list[Client] = []
        self.holder: Client | None = None
        self._active: list[Client] = []
        self._items = itertools.count(1)
        self._locks = itertools.count(1)

    @property
    def _postgres(self) -> bool:
        return self.server.engine == "postgres"

    def __enter__(self) -> Sessions:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def sleeping(
        self, n: int, user: str = "app", database: str = "shop", application: str | None = "lambda"
    ) -> list[Client]:
        """Idle since they logged in."""
        return [self._open(user, database, application) for _ in range(n)]

    def active(self, n: int, user: str = "app", holder: str = "other") -> list[Client]:
        """Sessions that are running a statement until `release_active`.

        They wait for a lock of one more session, `holder`, which is idle in a transaction and has a
        user of its own so that a rule can exclude it.
        """
        if self.holder is None:
            self.holder = self._open(holder)
            self.holder.run("BEGIN")
            shut = (
                f"SELECT pg_advisory_xact_lock({GATE})"
                if self._postgres
                else "SELECT id FROM gate FOR UPDATE"
            )
            self.holder.run(shut)
        clients = self.sleeping(n, user)
        for client in clients:
            if self._postgres:
                client.start(f"SELECT pg_advisory_xact_lock_shared({GATE})")
            else:
                client.run("SET SESSION innodb_lock_wait_timeout = 600")
                client.start("SELECT id FROM gate LOCK IN SHARE MODE")
        self._active += clients
        self._wait(clients, lambda states: all(state in ("active", "Query") for state in states))
        return clients

    def release_active(self) -> None:
        """Let the statements of all `active` sessions that are still connected finish, and read
        their results.
        """
        if self.holder is not None:
            self.holder.close()
            self.holder = None
        for client in self._active:
            # terminated
            with suppress(*self.server.kind.errors):
                client.finish()
        self._active.clear()

    def in_transaction(self, n: int, rows: int = 1, user: str = "app") -> list[Client]:
        """Idle in a transaction that has changed `rows` rows: of items while there are enough, else
        of a scratch table.
        """
        return [self._changed(self._open(user), rows) for _ in range(n)]

    def _changed(self, client: Client, rows: int) -> Client:
        client.run("BEGIN")
        items = list(itertools.islice(self._items, rows)) if rows <= 100 else []
        if items and items[-1] <= 100:
            # One by one, since a range would lock a neighbouring row as well
            for item in items:
                client.run(f"UPDATE items SET value = value + 1 WHERE id = {item}")
        else:
            client.run(f"INSERT INTO scratch (value) VALUES {', '.join(['(0)'] * rows)}")
        return client

    def begun(self, n: int, user: str = "app") -> list[Client]:
        """Idle after BEGIN and nothing else."""
        return self._ran(n, lambda: "BEGIN", user)

    def lock_holders(self, n: int, user: str = "app") -> list[Client]:
        """Idle, each with a lock that shows in no transaction: GET_LOCK, pg_advisory_lock."""
        lock = "SELECT pg_advisory_lock({})" if self._postgres else "SELECT GET_LOCK('lock {}', 0)"
        return self._ran(n, lambda: lock.format(next(self._locks)), user)

    def table_lock_holders(self, n: int, user: str = "app") -> list[Client]:
        """Idle with LOCK TABLES (MySQL and MariaDB), on a table that no other session uses."""
        return self._ran(n, lambda: "LOCK TABLES stock READ", user)

    def listeners(self, n: int, user: str = "app") -> list[Client]:
        """Idle, waiting for notifications (PostgreSQL)."""
        return self._ran(n, lambda: "LISTEN orders", user)

    def _ran(self, n: int, sql: Callable[[], str], user: str) -> list[Client]:
        clients = self.sleeping(n, user)
        for client in clients:
            client.run(sql())
        return clients

    def superuser(self, n: int) -> list[Client]:
        """Idle sessions of an account that an ordinary reaper may not terminate (on MariaDB it
        may).
        """
        return self.sleeping(n, "boss" if self._postgres else self.server.root)

    def provider(self, n: int) -> list[Client]:
        """Idle sessions of the cloud provider's account, which has no rights on the customer's
        database.
        """
        return self.sleeping(n, "rdsadmin", self.server.home, application=None)

    def replication(self) -> Client:
        """A streaming replica: a walsender; a binlog dump."""
        stream = replicas.walsender if self._postgres else replicas.binlog_dump
        client = self._kept(stream(self.server))
        self._wait(
            [client], lambda states: all(state in ("active", "Binlog Dump") for state in states)
        )
        return client

    def handshakes(self, n: int) -> list[SocketClient]:
        """Connections that never log in; the server drops them after 10 s (MySQL), 60 s
        (PostgreSQL).
        """
        return [
            self._kept(handshake(self.server.host, self.server.port, self.server.engine))
            for _ in range(n)
        ]

    def _open(
        self, user: str, database: str = "shop", application: str | None = "lambda"
    ) -> Client:
        connection = self.server.connect(user, database, application)
        return self._kept(self.server.kind.client(connection, user))

    def _kept(self, client: C) -> C:
        self.clients.append(client)
        return client

    def _wait(self, clients: Sequence[Client], condition: Callable[[Iterable[str]], bool]) -> None:
        def arrived() -> bool:
            states = self.server.states()
            return condition(states.get(client.id, "") for client in clients)

        done = until(arrived, timeout=30)
        assert done, f"sessions do not get there: {self.server.states()}"

    def close(self) -> None:
        """Close all; return when the server no longer lists them, so that the next test counts
        correctly.
        """
        for client in self.clients:
            client.close()
        ids = {client.id for client in self.clients}
        self.clients.clear()
        self._active.clear()
        self.holder = None
        # A test may have stopped the server
        with suppress(*self.server.kind.errors):
            until(lambda: ids.isdisjoint(self.server.states()), timeout=30)
