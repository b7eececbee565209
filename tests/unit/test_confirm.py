"""Two looks at one sleep: when an upper bound becomes an idle time."""

from __future__ import annotations

from typing import Any

import pytest

from lab.samples import server, sleeper
from reaper.model import Mark, Session, State
from reaper.sweep.history import IdleHistory, confirm

HOST = "10.0.1.15:43210"


def doubtful(
    id_: int = 1, since: float = 1000.0, key: tuple[object, ...] = ("app", HOST), **facts: Any
) -> Session:
    """Asleep for at most 950 seconds, since about this moment of the server's clock."""
    return sleeper(
        id_, None, **{"idle_at_most": 950.0, "mark": Mark(key, since, slack=1.0)} | facts
    )


@pytest.mark.parametrize(
    ("before", "confirmed"),
    [
        (doubtful(), True),
        # Both ends are whole seconds
        (doubtful(since=1001.0), True),
        (doubtful(since=999.0), True),
        # It woke between the looks, or its clock was falsified
        (doubtful(since=1001.5), False),
        (doubtful(since=990.0), False),
        # a second ago: who knows what it did before that
        (doubtful(idle_at_most=951.0), False),
        # The id is another session's now
        (doubtful(key=("app", "10.0.1.15:43211")), False),
        (doubtful(key=("api", HOST)), False),
        # It has ended its transaction since
        (doubtful(state=State.IDLE_IN_TRANSACTION), False),
        (doubtful(mark=None), False),
        # Not seen before
        (doubtful(2), False),
    ],
)
def test_confirm(before: Session, confirmed: bool) -> None:
    """Only the same id, user and host with port, in the same sleep two seconds ago, is as idle as
    its Time says.
    """
    (session,) = confirm(server(doubtful(idle_at_most=952.0)), {before.id: before}).sessions
    assert (session.idle_seconds, session.idle_at_most) == (
        (952.0, None) if confirmed else (None, 952.0)
    )


def test_an_idle_history_is_of_one_server() -> None:
    """A sleep is remembered as it was first seen; after a failover nothing of the former server's
    counts.
    """
    history = IdleHistory()
    for at_most, where in ((950.0, "a"), (952.0, "a"), (954.0, "b")):
        history.remember(server(doubtful(idle_at_most=at_most), server=where))
        first = {"a": 950.0, "b": 954.0}[where]
        assert (history.server, history[1].idle_at_most) == (where, first)
    history.remember(server(doubtful(since=5000.0, idle_at_most=1.0), server="b"))
    assert history[1].idle_at_most == 1.0
    history.remember(server(server="b"))
    assert not history


def test_what_is_known_is_left_alone() -> None:
    """A true idle time needs no second look."""
    snapshot = server(sleeper(1, 5.0, mark=Mark(("app", HOST), 1000.0, 1.0)))
    assert confirm(snapshot, {1: doubtful()}) == snapshot
