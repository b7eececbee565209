"""What a report says, and that it claims no more than was seen."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lab.samples import judged, report, server, sleeper, struck
from reaper.model import Mode, Outcome, Session, State
from reaper.report import ErrorKind, Report, SweepError

KEYS = (
    "target engine flavour method warnings trigger mode dry_run entry connections sessions "
    "zombies outcomes freed "
    "spared oldest_idle_seconds victims pressure_remains holding first_freed_seconds "
    "duration_seconds error"
)


def test_json_in_full() -> None:
    """Exactly the design's keys; the order of the victims is the order of the kills; seconds to the
    millisecond.
    """
    found = report(warnings=("named_locks_unseen",)).to_json()
    assert list(found) == KEYS.split()
    assert json.loads(json.dumps(found)) == {
        "target": "orders",
        "engine": "mysql",
        "flavour": "mysql",
        "method": "kill",
        "warnings": ["named_locks_unseen"],
        "trigger": "manual",
        "mode": "routine",
        "dry_run": False,
        "entry": None,
        "connections": {"used": 6, "max": 10, "utilization": 0.6},
        "sessions": {"total": 6, "active": 1, "idle": 3, "idle_in_transaction": 1},
        "zombies": 2,
        "outcomes": {"signalled": 1, "terminated": 1},
        "freed": 1,
        "spared": {
            "active": 1,
            "background": 1,
            "in_transaction": 1,
            "not_idle_long_enough": 1,
            "replication": 1,
        },
        "oldest_idle_seconds": 2000.0,
        "victims": [
            victim(2, 2000.0, "terminated"),
            victim(1, 1000.123, "signalled"),
        ],
        "pressure_remains": None,
        "holding": {},
        "first_freed_seconds": None,
        "duration_seconds": 0.123,
        "error": None,
    }


def victim(id_: int, idle: float, outcome: str) -> dict[str, Any]:
    return {
        "id": id_,
        "user": "app",
        "host": "10.0.1.15",
        "database": "orders",
        "application": "api",
        "idle_seconds": idle,
        "reason": "idle",
        "outcome": outcome,
    }


@pytest.mark.parametrize("kind", list(ErrorKind))
def test_a_sweep_that_saw_nothing(kind: ErrorKind) -> None:
    """What was not read is null or empty, never zero sessions; the error says kind and message."""
    found = Report(
        "orders", "mysql", "alarm", dry_run=True, error=SweepError(kind, "why")
    ).to_json()
    assert list(found) == KEYS.split()
    assert found["error"] == {"kind": kind.value, "message": "why"}
    assert found["connections"] == {"used": None, "max": None, "utilization": None}
    assert found["sessions"] == {
        "total": None,
        "active": None,
        "idle": None,
        "idle_in_transaction": None,
    }
    assert [found[key] for key in ("flavour", "method", "oldest_idle_seconds")] == [None] * 3
    assert [found[key] for key in ("zombies", "freed", "outcomes", "spared", "victims")] == [
        0,
        0,
        {},
        {},
        [],
    ]


def test_a_blind_sweep_saw_nothing() -> None:
    """A blind account's snapshot is not to be believed: its sessions and counts are not reported as
    the server's.
    """
    snapshot = server(sleeper(), blind=True)
    found: Any = Report("orders", "mysql", "manual", dry_run=True, snapshot=snapshot).to_json()
    assert found["sessions"] == {
        "total": None,
        "active": None,
        "idle": None,
        "idle_in_transaction": None,
    }
    assert found["connections"]["used"] is None
    assert found["oldest_idle_seconds"] is None


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (
            {"used": 6, "max_connections": 12, "reserved": 2},
            {"used": 6, "max": 10, "utilization": 0.6},
        ),
        ({"used": 1, "max_connections": 3}, {"used": 1, "max": 3, "utilization": 0.333}),
        ({"used": 6, "max_connections": None}, {"used": 6, "max": None, "utilization": None}),
        ({"used": None, "max_connections": 12}, {"used": None, "max": 12, "utilization": None}),
        (
            {"used": 2, "max_connections": 2, "reserved": 5},
            {"used": 2, "max": 0, "utilization": None},
        ),
    ],
)
def test_connections(facts: dict[str, Any], expected: dict[str, Any]) -> None:
    """Max is what an ordinary client can use, never negative; a share of the unknown is unknown."""
    assert report(snapshot=server(**facts)).to_json()["connections"] == expected


@pytest.mark.parametrize(("count", "shown"), [(99, 99), (100, 100), (101, 100), (500, 100)])
def test_victims_are_capped_at_a_hundred(count: int, shown: int) -> None:
    """A log line has limits: the first hundred are listed, all are counted."""
    found: Any = report(victims=struck(*[Outcome.TERMINATED] * count)).to_json()
    assert [v["id"] for v in found["victims"]] == list(range(shown))
    assert (found["outcomes"], found["freed"]) == ({"terminated": count}, count)


@pytest.mark.parametrize(
    ("outcomes", "freed"),
    [
        ([Outcome.TERMINATED, Outcome.TERMINATED], 2),
        ([outcome for outcome in Outcome if outcome is not Outcome.TERMINATED], 0),
        ([None, Outcome.TERMINATED, Outcome.SIGNALLED], 1),
        ([], 0),
    ],
)
def test_freed_means_verified(outcomes: list[Outcome | None], freed: int) -> None:
    """Signalled, gone and would_terminate free nothing that was seen; not even reached has no
    outcome.
    """
    found = report(victims=struck(*outcomes))
    assert found.freed == freed
    assert sum(found.outcomes.values()) == sum(outcome is not None for outcome in outcomes)


def test_zombies_beyond_the_cap_are_zombies() -> None:
    """max_kills limits the kills, not the count of those that should go; pressure's left over are
    none.
    """
    capped = judged(server(*(sleeper(id_) for id_ in range(5))), max_kills=2)
    assert report(verdicts=capped.verdicts).zombies == 5
    pressed = judged(server(*(sleeper(id_, 100.0) for id_ in range(95)), max_connections=100))
    assert report(verdicts=pressed.verdicts, mode=Mode.PRESSURE).zombies == 35


@pytest.mark.parametrize(
    ("sessions", "oldest"),
    [
        ([sleeper(1, 5.0), sleeper(2, 7.0)], 7.0),
        ([sleeper(1, 5.0), sleeper(2, 9000.0, state=State.IDLE_IN_TRANSACTION)], 5.0),
        # An upper bound is no age
        ([sleeper(1, None, idle_at_most=50.0)], None),
        ([sleeper(1, None, state=State.ACTIVE)], None),
        ([], None),
    ],
)
def test_oldest_idle_seconds(sessions: list[Session], oldest: float | None) -> None:
    """The longest known idle time outside a transaction, null where none is known."""
    assert report(snapshot=server(*sessions)).oldest_idle_seconds == oldest
