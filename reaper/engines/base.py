"""What the sweep asks of an engine, and how victims are struck: a chunk at a time, each fresh from its re-read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from reaper.client.deadline import Clock, Deadline
from reaper.client.drivers.base import Connection
from reaper.client.target import ConfigurationError, EngineName, choice, reject_unknown_keys, shown
from reaper.model import Outcome, Session, Snapshot

WINDOW = 0.050  # seconds from the start of a victim's re-read to its kill, at most
_COMFORTABLE = WINDOW / 4  # a chunk that took less may be followed by one twice as large
_FIRST_CHUNK = 8
_LARGEST_CHUNK = 1024
_PATIENCE = 5  # single victims in a row that could not even be re-read within the window


class TooSlowToStrikeError(RuntimeError):
    """The server or the way to it is so slow that no kill can follow its re-read within the window."""


@dataclass(frozen=True)
class Look:
    """What one look at a server brought home: rows as the server gave them, and the context around them.

    Keys that begin with an underscore are marks for the strike; they are not saved.
    """

    engine: EngineName
    rows: Sequence[Mapping[str, Any]]
    context: Mapping[str, Any] = field(default_factory=dict)

    def to_file(self, all_sql: bool = False) -> dict[str, Any]:
        """The snapshot file's document. Of SQL text only the kind is kept, unless all is asked for."""
        rows = [{key: value for key, value in row.items() if not key.startswith("_")} for row in self.rows]
        if not all_sql:
            rows = [row | {key: sql_kind(row[key]) for key in _SQL_COLUMNS if row.get(key)} for row in rows]
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
        context = document.get("context") or {}
        if not isinstance(context, Mapping):
            raise ConfigurationError(f"snapshot: context is {shown('context', context)}, not an object with keys")
        return cls(engine, list(objects(document.get("rows"), "rows")), context)


_SQL_COLUMNS = ("Info", "query")
HIDDEN_SQL = "<insufficient privilege>"


@dataclass(frozen=True)
class Struck:
    """What became of the first victims of a chunk; the others are to be re-read. `seconds` is the whole window."""

    outcomes: Mapping[int, Outcome]
    seconds: float


class Server(Protocol):
    """One checked connection to one server. Never replaced: what it saw is only true on it."""

    @property
    def method(self) -> str | None:
        """How this account terminates sessions here, None where it may not. Found out once."""

    def look(self) -> Look: ...

    def strike(self, victims: Sequence[Session]) -> Struck:
        """Re-read the victims and terminate at once those that have not changed."""

    def lingering(self, victims: Sequence[Session]) -> set[int]:
        """The ids of those that still hold their slot: listed, or gone from the list but rolling back."""


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
    """Strike the victims in their order, a chunk at a time; stops at the deadline, the rest without an outcome.

    The chunk grows while the window stays far below its limit, and shrinks when it does not.
    Raises TooSlowToStrikeError where not even one victim can be struck in time.
    """
    waiting = list(victims)
    size, fruitless = _FIRST_CHUNK, 0
    while waiting and deadline.affords(WINDOW):
        chunk = waiting[:size]
        struck = server.strike(chunk)
        yield [(session, struck.outcomes[session.id]) for session in chunk if session.id in struck.outcomes]
        waiting = [session for session in waiting if session.id not in struck.outcomes]
        fruitless = 0 if struck.outcomes else fruitless + (size == 1)
        if fruitless >= _PATIENCE:
            raise TooSlowToStrikeError(
                f"re-reading one session takes {struck.seconds * 1000:.0f} ms; "
                f"nobody is terminated later than {WINDOW * 1000:.0f} ms after a look"
            )
        size = _next_size(size, struck)


def _next_size(size: int, struck: Struck) -> int:
    if struck.seconds > WINDOW / 2 or not struck.outcomes:
        return max(1, size // 2)
    return min(_LARGEST_CHUNK, size * 2) if struck.seconds < _COMFORTABLE else size


def number(value: object) -> float | None:
    """A number the server or a saved file gave, None for anything else; NaN is no number here."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        found = float(value)  # type: ignore[arg-type]  # Decimal and text as well as int and float
    except (TypeError, ValueError, OverflowError):
        return None
    return found if abs(found) < float("inf") else None


def objects(given: object, what: str) -> Iterator[Mapping[str, Any]]:
    """The objects of a list in a saved file; raise ConfigurationError where there is something else."""
    if not isinstance(given, list | tuple) or not all(isinstance(item, Mapping) for item in given):
        raise ConfigurationError(f"snapshot: {what} is {shown(what, given)}, not a list of objects")
    yield from given


def sql_kind(sql: object) -> str:
    """What is kept of a statement's text: LISTEN where one of its statements is that, else its first word."""
    if sql == HIDDEN_SQL:
        return HIDDEN_SQL
    text = str(sql or "")
    return "LISTEN" if any(first_word(part) == "LISTEN" for part in text.split(";")) else first_word(text)


def first_word(sql: object) -> str:
    """The first word of a statement, upper case, comments skipped."""
    rest = str(sql or "").lstrip("( \t\r\n;")
    while rest.startswith(("--", "/*")):
        _, _, rest = rest.partition("\n" if rest.startswith("--") else "*/")
        rest = rest.lstrip("( \t\r\n;")
    word = rest.split(None, 1)[0] if rest.split() else ""
    return "".join(letter for letter in word[:32] if letter.isalpha()).upper()


def limits(given: object) -> dict[str, int]:
    """Limits by name, those that limit something."""
    if not isinstance(given, Mapping):
        return {}
    return {str(name): int(n) for name, value in given.items() if (n := number(value)) and n > 0}


def whole(value: object) -> int | None:
    found = number(value)
    return None if found is None else int(found)
