"""Short ways to say the nouns the unit tests are about."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from reaper.client.target import EngineName
from reaper.model import Rules, Session, Snapshot, State
from reaper.policy import Judgement, judge

ROOT = Path(__file__).parents[2]


def event(name: str) -> Any:
    """A fresh copy of a sample from events/."""
    return json.loads((ROOT / "events" / f"{name}.json").read_text())


def sleeper(id_: int = 1, idle: float | None = 1000.0, **facts: Any) -> Session:
    """An application's session, idle for so long."""
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
    return Snapshot(EngineName.MYSQL, "mysql", sessions, **(defaults | facts))


def judged(snapshot: Snapshot, **rules: Any) -> Judgement:
    return judge(snapshot, Rules().override(rules))


def reasons(snapshot: Snapshot, **rules: Any) -> dict[int, str]:
    """Each session's reason by id."""
    return {v.session.id: v.reason.value for v in judged(snapshot, **rules).verdicts}


def reason(session: Session, **rules: Any) -> str:
    """The reason of a session that is alone on a quiet server."""
    return reasons(server(session), **rules)[session.id]


def victims(snapshot: Snapshot, **rules: Any) -> list[int]:
    """Who is terminated, in the order of the kills."""
    return [v.session.id for v in judged(snapshot, **rules).victims]
