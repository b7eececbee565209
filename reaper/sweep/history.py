"""Two looks at one idle session: how an idle time that is only known at most gets confirmed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from reaper.model import Session, Snapshot

# Seconds between two looks at a session whose true idle time the server does not tell
SECOND_LOOK = 2.0


class IdleHistory(dict[int, Session]):
    """Idle sessions by id, each as it was when its present idle period was first seen.

    They are those of one `server`, since after a failover the same ids belong to other sessions.
    """

    server: str | None = None

    def remember(self, snapshot: Snapshot) -> None:
        """Keep the sessions whose mark a later look can compare, and forget all others."""
        if self.server != snapshot.server:
            self.clear()
        seen = {
            session.id: self._first(session)
            for session in snapshot.sessions
            if session.mark is not None
        }
        self.clear()
        self.update(seen)
        self.server = snapshot.server

    def _first(self, session: Session) -> Session:
        before = self.get(session.id)
        return before if before and _is_same_period(session, before) else session


def confirm(snapshot: Snapshot, earlier: Mapping[int, Session]) -> Snapshot:
    """The snapshot, with the idle time confirmed of each session that was in the same idle period
    at an earlier look.
    """
    sessions = tuple(_confirm(session, earlier.get(session.id)) for session in snapshot.sessions)
    return replace(snapshot, sessions=sessions)


def _confirm(session: Session, before: Session | None) -> Session:
    at_most = session.idle_at_most
    if session.idle_seconds is not None or at_most is None or before is None:
        return session
    # After a shorter interval, a statement that ended just before the first look would be taken for
    # idle time.
    if not _is_same_period(session, before) or at_most - _known_bound(before) < SECOND_LOOK:
        return session
    return session._replace(idle_seconds=at_most, idle_at_most=None)


def _is_same_period(session: Session, before: Session) -> bool:
    if session.mark is None or before.mark is None or session.state is not before.state:
        return False
    return session.mark.matches(before.mark)


def _known_bound(session: Session) -> float:
    """How long it had been idle by the server's own count, which may include its last statement."""
    if session.idle_at_most is not None:
        return session.idle_at_most
    return 0.0 if session.idle_seconds is None else session.idle_seconds
