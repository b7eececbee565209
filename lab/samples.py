"""Short ways to make the objects that the unit tests are about."""

from __future__ import annotations

import json
from typing import Any

from lab import ROOT
from reaper.client.target import EngineName
from reaper.model import (
    Action,
    Flavour,
    KillMethod,
    Outcome,
    Reason,
    Session,
    Snapshot,
    State,
    Verdict,
)
from reaper.policy import Judgement, judge
from reaper.report import Report, Victim
from reaper.request.events import BadMessage, Batch, QueuedSweep, parse
from reaper.rules import Rules


def event(name: str) -> Any:
    """A fresh copy of a sample from events/."""
    return json.loads((ROOT / "events" / f"{name}.json").read_text())


def messages(given: Any) -> tuple[QueuedSweep | BadMessage, ...]:
    """What a queue's event is parsed as."""
    found = parse(given)
    assert isinstance(found, Batch)
    return found.messages


def sleeper(id_: int = 1, idle: float | None = 1000.0, **facts: Any) -> Session:
    """An application's session that has been idle for this many seconds."""
    defaults: dict[str, Any] = {
        "user": "app",
        "host": "10.0.1.15",
        "database": "orders",
        "application": "api",
        "state": State.IDLE,
        "idle_seconds": idle,
    }
    return Session(id_, **(defaults | facts))


def server(*sessions: Session, **facts: Any) -> Snapshot:
    """A server with many free slots unless told otherwise."""
    defaults: dict[str, Any] = {"used": len(sessions), "max_connections": 1000}
    return Snapshot(EngineName.MYSQL, Flavour.MYSQL, sessions, **(defaults | facts))


def judged(snapshot: Snapshot, **rules: Any) -> Judgement:
    return judge(snapshot, Rules.from_json(rules))


def reasons(snapshot: Snapshot, **rules: Any) -> dict[int, str]:
    """Each session's reason by id."""
    return {v.session.id: v.reason.value for v in judged(snapshot, **rules).verdicts}


def reason(session: Session, **rules: Any) -> str:
    """The reason for a session that is alone on a quiet server."""
    return reasons(server(session), **rules)[session.id]


def victims(snapshot: Snapshot, **rules: Any) -> list[int]:
    """The sessions to terminate, in the order of the kills."""
    return [v.session.id for v in judged(snapshot, **rules).victims]


def report(**facts: Any) -> Report:
    """The report of a sweep that saw an active, a protected, two idle and one in-transaction
    session, and terminated the two.
    """
    snapshot = server(
        sleeper(1, 1000.12345),
        sleeper(2, 2000.0),
        sleeper(3, None, state=State.ACTIVE),
        sleeper(4, 9000.0, state=State.IDLE_IN_TRANSACTION, transaction_seconds=9000.0),
        sleeper(5, 10.0),
        sleeper(6, None, user="system user", state=State.BACKGROUND),
        sleeper(7, None, user="repl", state=State.REPLICATION),
        used=6,
        max_connections=12,
        reserved=2,
    )
    judgement = judged(snapshot)
    ends = (Outcome.TERMINATED, Outcome.SIGNALLED)
    victims = [Victim(v, outcome) for v, outcome in zip(judgement.victims, ends, strict=True)]
    seen: dict[str, Any] = {
        "snapshot": snapshot,
        "verdicts": judgement.verdicts,
        "victims": victims,
        "method": KillMethod.KILL,
    }
    return Report(
        "orders", "mysql", "manual", dry_run=False, **seen | {"duration_seconds": 0.12345} | facts
    )


def struck(*outcomes: Outcome | None) -> list[Victim]:
    verdicts = (
        Verdict(sleeper(id_), Action.TERMINATE, Reason.IDLE) for id_ in range(len(outcomes))
    )
    return [Victim(verdict, outcome) for verdict, outcome in zip(verdicts, outcomes, strict=True)]
