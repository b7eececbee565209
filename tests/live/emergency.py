"""A server so small that frozen functions fill it to the last slot, and the accounts that want in
all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from lab.frozen import Frozen
from lab.servers import Server, start, until

# What an ordinary client can use
SLOTS = 40
# Of the account `limited`
LIMIT = 10
# 0.6 of the slots
AT_TARGET = 24

_SETTINGS = {
    # Three are a superuser's
    "postgres": {"max_connections": str(SLOTS + 3 + 1), "reserved_connections": "1"},
    "mysql": {"max_connections": str(SLOTS)},
}
_ACCOUNTS = {
    "postgres": [
        "CREATE ROLE insider LOGIN IN ROLE pg_read_all_stats, pg_signal_backend, "
        "pg_use_reserved_connections",
        f"CREATE ROLE limited LOGIN CONNECTION LIMIT {LIMIT}",
    ],
    "mysql": [
        f"CREATE USER limited@'%' WITH MAX_USER_CONNECTIONS {LIMIT}",
        "GRANT ALL ON shop.* TO limited@'%'",
        "GRANT SELECT (User, max_user_connections) ON mysql.user TO reaper@'%'",
    ],
}


@contextmanager
def small(like: Server) -> Iterator[Server]:
    """A server of our own with few slots."""
    with start(like.name, settings=_SETTINGS[like.engine]) as server:
        for statement in _ACCOUNTS[like.engine]:
            server.query(statement)
        yield server


def ordinary(server: Server) -> str:
    """A reaper's account that competes for slots like everybody else."""
    return {"postgres": "reaper", "mysql": "reaper_rds"}[server.engine]


def privileged(server: Server) -> str:
    """A reaper's account with a slot beyond those of everybody else: a reserved one, or
    CONNECTION_ADMIN's.
    """
    return {"postgres": "insider", "mysql": "reaper"}[server.engine]


@contextmanager
def frozen(server: Server, sessions: int, processes: int = 2) -> Iterator[Sequence[int]]:
    """The ids of so many sessions in processes that were stopped; at the end the server has
    forgotten them.
    """
    with ExitStack() as ending:
        shares = [
            sessions // processes + (place < sessions % processes) for place in range(processes)
        ]
        functions = [ending.enter_context(Frozen(server.dsn("app"), share)) for share in shares]
        ids = [id_ for function in functions for id_ in function.ids]
        for function in functions:
            function.freeze()
        yield ids
    forgotten = until(lambda: server.states().keys().isdisjoint(ids), timeout=30)
    assert forgotten, "ended processes keep their sessions"


def is_full(server: Server) -> bool:
    """Whether the application is refused."""
    try:
        server.connect("app").close()
    except server.kind.errors:
        return True
    return False
