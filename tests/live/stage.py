"""A server as the sweep sees it, with the sessions on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic

from lab.servers import Client
from lab.servers import Server as Database
from lab.targets import target
from reaper.client.deadline import Deadline
from reaper.client.drivers import driver_for
from reaper.client.target import EngineName
from reaper.engines import engine_for
from reaper.engines.base import Server
from reaper.engines.termination import terminate_all
from reaper.model import Outcome, Session, SweepTarget

LONG = Deadline.after(3600)


@contextmanager
def engine_server(server: Database, user: str = "reaper") -> Iterator[Server]:
    """The engine's server, as a sweep uses it, on a connection of its own."""
    name = EngineName(server.engine)
    driver = driver_for(name)
    at = SweepTarget.from_mapping(target(server, user)).target
    connection = driver.connect(at, at.password, LONG, batch=True)
    try:
        yield engine_for(name).server(connection, monotonic)
    finally:
        connection.close()


def seen(server: Server, engine: str, clients: list[Client]) -> list[Session]:
    """The clients' sessions as a look shows them, in the clients' order."""
    found = {
        session.id: session
        for session in engine_for(EngineName(engine)).read(server.look()).sessions
    }
    return [found[client.id] for client in clients]


def terminate(server: Server, victims: Sequence[Session]) -> dict[Session, Outcome]:
    """Every victim's outcome, in the order of the kills."""
    return dict(pair for chunk in terminate_all(server, victims, LONG) for pair in chunk)
