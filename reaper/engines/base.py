"""What the sweep asks of an engine, and how victims are struck: a chunk at a time, each fresh from
its re-read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from reaper.client.deadline import Clock, Deadline
from reaper.client.drivers.connection import Connection
from reaper.client.target import ConfigurationError, EngineName, choice, reject_unknown_keys, shown
from reaper.model import Outcome, Session, Snapshot

# Seconds from the start of a victim's re-read to its kill, at most
WINDOW = 0.050
# Seconds into the window; what is sent later may take effect after its end
LAST_CALL = 0.8 * WINDOW
_FIRST_CHUNK = 8
_LARGEST_CHUNK = 1024
# Seconds; no strike is shorter
_SHORTEST = 1e-4
# No server counts further
_LARGEST = 2**64
# Single victims in a row that could not even be re-read within the window
_PATIENCE = 20


class TooSlowToStrikeError(RuntimeError):
    """The server or the way to it is so slow that no kill can follow its re-read within the window."""


@dataclass(frozen=True)
class Look:
    """What one look at a server brought home: rows as the server gave them, and the context around
    them.

    Keys that begin with an underscore are marks for the strike; they are not saved.
    """

    engine: EngineName
    rows: Sequence[Mapping[str, Any]]
    context: Mapping[str, Any] = field(default_factory=dict)

    def to_file(self, all_sql: bool = False) -> dict[str, Any]:
        """The snapshot file's document. Of SQL text only the kind is kept, unless all is asked for."""
        rows = [
            {key: value for key, value in row.items() if not key.startswith("_")}
            for row in self.rows
        ]
        if not all_sql:
            rows = [
                row | {key: sql_kind(row[key]) for key in _SQL_COLUMNS if row.get(key)}
                for row in rows
            ]
        return {"engine": self.engine, "rows": rows, "context": dict(self.context)}

    @classmethod
    def from_file(cls, document: Any) -> Look:
        """Read a snapshot file's document; raise ConfigurationError for what is none."""
        if not isinstance(document, Mapping):
            raise ConfigurationError("the snapshot is no object with engine, rows and context")
        reject_unknown_keys(document, ("engine", "rows", "context"), "snapshot")
        engine = choice(document, "engine", EngineName, "snapshot")
        if engine is None:
            raise ConfigurationError("snapshot: engine is missing; say mysql or postgres")
        if document.get("rows") is None:
            raise ConfigurationError("snapshot: rows is missing; give the rows of the process list")
        return cls(engine, list(objects(document, "rows")), mapping(document, "context"))


_SQL_COLUMNS = ("Info", "query")
HIDDEN_SQL = "<insufficient privilege>"


@dataclass(frozen=True)
class Struck:
    """What became of the first victims of a chunk; the others are to be re-read.

    `seconds` is the whole window: from the start of the re-read to the last kill by the server's
    clock, or to its answer where the server does not say when that was.
    """

    outcomes: Mapping[int, Outcome]
    seconds: float


@dataclass(frozen=True)
class Holder:
    """The session that holds the sweep's lock; `idle_seconds` None where it is awake."""

    id: int
    is_ours: bool
    idle_seconds: float | None


class Server(Protocol):
    """One checked connection to one server. Never replaced: what it saw is only true on it."""

    def lock(self) -> bool:
        """Take the lock that keeps two sweeps of this server apart, without waiting for it."""

    def unlock(self) -> None: ...

    def holder(self) -> Holder | None:
        """Who holds the lock, where that can be seen."""

    def end(self, holder: Holder) -> None:
        """Terminate a session of this account's own; nothing where it has gone."""

    @property
    def method(self) -> str | None:
        """How this account terminates sessions here, None where it may not. Found out once."""

    def look(self) -> Look: ...

    def in_order(self, victims: Sequence[Session]) -> Sequence[Session]:
        """The victims, longest idle first, in the order in which to strike them: the same, or what
        is fastest here.
        """

    def strike(self, victims: Sequence[Session]) -> Struck:
        """Re-read the victims and terminate at once those that have not changed."""

    def lingering(self, victims: Sequence[Session]) -> set[int]:
        """The ids of those that still hold their slot: listed, or gone from the list but rolling
        back.
        """

    def settings(self) -> Mapping[str, Any]:
        """What advice is given on, by the server's own names, times in seconds; what it does not
        tell is left out.

        `managed` says that they are a parameter group's, `sees_…` and `can_…` what this account may
        do.
        """


class Engine(Protocol):
    """Stateless; what differs between the engines and nothing else."""

    right_to_see: str
    right_to_kill: str

    def server(self, connection: Connection, clock: Clock) -> Server: ...

    def read(self, look: Look) -> Snapshot:
        """What the rows and the context mean. Pure, so that a saved look is judged like a live one."""


def strike_all(
    server: Server, victims: Sequence[Session], deadline: Deadline
) -> Iterator[list[tuple[Session, Outcome]]]:
    """Strike the victims in the server's order, a chunk at a time; stops at the deadline, the rest
    without an outcome.

    Chunks are as large as the window bears: a re-read may cost as much for one as for hundreds.
    Raises TooSlowToStrikeError where not even one victim can be struck in time.
    """
    waiting = list(server.in_order(victims))
    size, fruitless = _FIRST_CHUNK, 0
    while waiting and deadline.affords(WINDOW):
        chunk = waiting[:size]
        struck = server.strike(chunk)
        yield [
            (session, struck.outcomes[session.id])
            for session in chunk
            if session.id in struck.outcomes
        ]
        waiting = [session for session in waiting if session.id not in struck.outcomes]
        fruitless = 0 if struck.outcomes else fruitless + (size == 1)
        if fruitless >= _PATIENCE:
            raise TooSlowToStrikeError(
                f"re-reading one session takes {struck.seconds * 1000:.0f} ms; "
                f"nobody is terminated later than {WINDOW * 1000:.0f} ms after a look"
            )
        size = _next_size(len(chunk), struck)


def _next_size(size: int, struck: Struck) -> int:
    if len(struck.outcomes) < size:
        return max(1, len(struck.outcomes))
    return max(1, min(_LARGEST_CHUNK, int(size * LAST_CALL / max(struck.seconds, _SHORTEST))))


def number(value: object) -> float | None:
    """A number the server or a saved file gave, None for anything else; NaN is no number here."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        found = float(value)  # type: ignore[arg-type]  # Decimal and text as well as int and float
    except (TypeError, ValueError, OverflowError):
        return None
    return found if abs(found) < float("inf") else None


def mapping(given: Mapping[str, Any], key: str) -> Mapping[Any, Any]:
    """An object in a saved file, none where it is missing; raise ConfigurationError for something
    else.
    """
    found = given.get(key)
    if found is not None and not isinstance(found, Mapping):
        raise ConfigurationError(f"snapshot: {key} is {shown(key, found)}, not an object with keys")
    return found or {}


def values(given: Mapping[str, Any], key: str) -> Sequence[Any]:
    """A list in a saved file, none where it is missing; raise ConfigurationError for something
    else.
    """
    found = given.get(key)
    if found is not None and not isinstance(found, list | tuple):
        raise ConfigurationError(f"snapshot: {key} is {shown(key, found)}, not a list")
    return found or ()


def objects(given: Mapping[str, Any], key: str) -> Iterator[Mapping[str, Any]]:
    """The objects of a list in a saved file; raise ConfigurationError where there is something
    else.
    """
    for item in values(given, key):
        if not isinstance(item, Mapping):
            raise ConfigurationError(
                f"snapshot: {key} is {shown(key, given[key])}, not a list of objects"
            )
        yield item


def name(given: object) -> str | None:
    """A name the server or a saved file gave, None for anything that is no text."""
    return given if isinstance(given, str) else None


def sql_kind(sql: object) -> str:
    """What is kept of a statement's text: LISTEN where one of its statements is that, else its
    first word.
    """
    if sql == HIDDEN_SQL:
        return HIDDEN_SQL
    return "LISTEN" if listens(sql) else first_word(sql)


def listens(sql: object) -> bool:
    """Whether one of the statements is LISTEN."""
    text = str(sql or "")
    return "listen" in text.lower() and any(
        first_word(part) == "LISTEN" for part in text.split(";")
    )


def first_word(sql: object) -> str:
    """The first word of a statement, upper case, comments skipped."""
    rest = _without_space(str(sql or ""))
    while rest.startswith(("--", "/*")):
        rest = _without_space(
            rest.partition("\n")[2] if rest.startswith("--") else _after_comment(rest)
        )
    found = re.match("[A-Za-z]{1,32}", rest)
    return found[0].upper() if found else ""


def _without_space(sql: str) -> str:
    return sql.lstrip("( \t\r\n;")


def _after_comment(sql: str) -> str:
    """What follows the comment that a text begins with; PostgreSQL's comments nest."""
    depth = 0
    for edge in re.finditer(r"/\*|\*/", sql):
        depth += 1 if edge[0] == "/*" else -1
        if depth == 0:
            return sql[edge.end() :]
    return ""


def limits(given: Mapping[str, Any], key: str) -> dict[str, int]:
    """Limits by name, those that limit something."""
    found = mapping(given, key)
    return {
        str(name): int(limit)
        for name, value in found.items()
        if (limit := number(value)) and limit > 0
    }


def whole(value: object) -> int | None:
    if type(value) is int and abs(value) < _LARGEST:
        return value
    found = number(value)
    return None if found is None else int(found)
