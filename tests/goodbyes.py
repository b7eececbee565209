"""How a session ended, as its server tells it."""

from __future__ import annotations

from lab.servers import Server, until
from tests.conftest import names

# Of each kind one: the others take a goodbye in the same way.
SERVERS = [name for name in names() if name not in ("postgres18", "mysql_nops")]


def abandoned(server: Server) -> int:
    """How many sessions of the server have ended without a goodbye."""
    if server.engine == "postgres":
        return int(
            server.query("SELECT sessions_abandoned FROM pg_stat_database WHERE datname = 'shop'")[
                0
            ][0]
        )
    return int(server.query("SHOW GLOBAL STATUS LIKE 'Aborted_clients'")[0][1])


def gone(server: Server, *ids: int) -> bool:
    """Whether these sessions have ended, or do so in a moment."""
    return until(lambda: not {*ids} & server.states().keys(), timeout=20)


def sessions_of(server: Server, user: str) -> int:
    where = {
        "postgres": "pg_stat_activity WHERE usename",
        "mysql": "information_schema.processlist WHERE user",
    }
    return int(server.query(f"SELECT COUNT(*) FROM {where[server.engine]} = '{user}'")[0][0])


def end_sessions(server: Server, user: str) -> None:
    """What the server's idle timeout, a restart or a failover does to what an environment has kept
    open.

    All are gone before anybody is thawed: who is ended in the middle of a sweep has a sweep that
    failed.
    """
    if server.engine == "postgres":
        server.query(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{user}'"
        )
    else:
        for (id_,) in server.query(
            f"SELECT id FROM information_schema.processlist WHERE user = '{user}'"
        ):
            server.query(f"KILL {id_}")
    assert until(lambda: sessions_of(server, user) == 0)


def session(server: Server) -> str:
    """The statement that tells the session's id, as `id`."""
    return (
        "SELECT pg_backend_pid() AS id"
        if server.engine == "postgres"
        else "SELECT CONNECTION_ID() AS id"
    )
