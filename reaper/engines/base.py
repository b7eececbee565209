"""What the sweep asks of an engine: the protocols, and the values that cross them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from reaper.client.deadline import Clock
from reaper.client.drivers.connection import Connection
from reaper.engines.snapshot_file import RawSnapshot
from reaper.model import KillMethod, Outcome, Session, Snapshot


@dataclass(frozen=True)
class ChunkOutcome:
    """What became of the first victims of a chunk; those without an outcome are to be read again.

    `seconds` is the whole window: from the start of the re-read to the last kill by the server's
    clock, or to its answer where the server does not say when that was.
    """

    outcomes: Mapping[int, Outcome]
    seconds: float


@dataclass(frozen=True)
class Holder:
    """The session that holds the sweep's lock; `idle_seconds` is None while it runs a statement."""

    id: int
    is_ours: bool
    idle_seconds: float | None


class Server(Protocol):
    """One checked connection to one server.

    It is never replaced: what was seen on a connection is true on that one only. Every method
    raises the driver's error where the connection or the server fails.
    """

    def lock(self) -> bool:
        """Take the lock that keeps two sweeps of this server apart, without waiting for it."""

    def unlock(self) -> None:
        """Release that lock."""

    def holder(self) -> Holder | None:
        """Who holds the lock, where that can be seen."""

    def end(self, holder: Holder) -> None:
        """Terminate a session of the reaper's own account; does nothing where it has gone."""

    @property
    def method(self) -> KillMethod | None:
        """How this account terminates sessions here, None where it may not. Found out once."""

    def look(self) -> RawSnapshot:
        """All sessions and the facts around them, as the server gives them now."""

    def kill_order(self, victims: Sequence[Session]) -> Sequence[Session]:
        """The victims, given longest idle first, in the order in which to terminate them: the same,
        or a faster one for this server.
        """

    def terminate(self, victims: Sequence[Session]) -> ChunkOutcome:
        """Read the victims again and immediately terminate those that have not changed."""

    def still_present(self, victims: Sequence[Session]) -> set[int]:
        """The ids of those that still hold their slot: listed, or no longer listed but rolling
        back.
        """

    def settings(self) -> Mapping[str, object]:
        """What advice is given on, by the server's own names, times in seconds; what the server
        does not tell is left out.

        `managed` says that a parameter group owns them; `sees_…` and `can_…` say what this account
        may do.
        """


class Engine(Protocol):
    """What differs between the engines. Stateless."""

    right_to_see: str
    right_to_kill: str

    def server(self, connection: Connection, clock: Clock) -> Server:
        """A server as the sweep sees it, on this connection. Asks the server nothing yet."""

    def read(self, raw: RawSnapshot) -> Snapshot:
        """What the rows and the context mean. Pure, so a saved snapshot is judged like a live one.

        Raises ConfigurationError for rows or a context that no server gives.
        """
