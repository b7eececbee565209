"""Two looks at one sleep: when an upper bound becomes an idle time."""

from __future__ import annotations

from typing import Any

import pytest

from reaper.model import Mark, Session, State
from reaper.sweep import confirm

from .build import server, sleeper

HOST = "10.0.1.15:43210"


def doubtful(id_: int = 1, since: float = 1000.0, key: tuple[object, ...] = ("app", HOST), **facts: Any) -> Session:
    """Asleep for at most 950 seconds, since about this moment of the server's clock."""
    return sleeper(id_, None, **{"idle_at_most": 950.0, "mark": Mark(key, since, slack=1.0)} | facts)


@pytest.mark.parametrize(
    ("before", "confirmed"),
    [
        (doubtful(), True),
        (doubtful(since=1001.0), True),  # both ends are whole seconds
        (doubtful(since=999.0), True),
        (doubtful(since=1001.5), False),  # it woke between the looks, or its clock was falsified
        (doubtful(since=990.0), False),
        (doubtful(key=("app", "10.0.1.15:43211")), False),  # the id is another session's now
        (doubtful(key=("api", HOST)), False),
        (doubtful(state=State.IDLE_IN_TRANSACTION), False),  # it has ended its transaction since
        (doubtful(mark=None), False),
        (doubtful(2), False),  # not seen before
    ],
)
def test_confirm(before: Session, confirmed: bool) -> None:
    """Only the same id, user and host with port, in the same sleep both times, is idle as long as its Time says."""
    (session,) = confirm(server(doubtful()), {before.id: before}).sessions
    assert (session.idle_seconds, session.idle_at_most) == ((950.0, None) if confirmed else (None, 950.0))


def test_what_is_known_is_left_alone() -> None:
    """A true idle time needs no second look."""
    snapshot = server(sleeper(1, 5.0, mark=Mark(("app", HOST), 1000.0, 1.0)))
    assert confirm(snapshot, {1: doubtful()}) == snapshot
