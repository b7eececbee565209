"""A snapshot as the server gave it, and the file in which it can be saved and read again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from reaper.client.fields import ConfigurationError, choice, reject_unknown_keys
from reaper.client.target import EngineName
from reaper.engines.rows import Row, mapping, objects
from reaper.engines.sql_text import sql_kind

_KEYS = ("engine", "rows", "context")
_SQL_COLUMNS = ("Info", "query")


@dataclass(frozen=True)
class RawSnapshot:
    """What one look at a server found: rows as the server gave them, and the context around them.

    Keys that begin with an underscore are marks that the kill needs; they are not saved.
    """

    engine: EngineName
    rows: Sequence[Row]
    context: Row = field(default_factory=dict)

    def to_file(self, all_sql: bool = False) -> dict[str, object]:
        """The snapshot file's document.

        Of SQL text only the kind of statement is kept, unless `all_sql` is asked for.
        """
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
    def from_file(cls, document: object) -> RawSnapshot:
        """Read a snapshot file's document; raise ConfigurationError for anything else."""
        if not isinstance(document, Mapping):
            raise ConfigurationError(
                "the snapshot is not an object; give one with engine, rows and context"
            )
        reject_unknown_keys(document, _KEYS, "snapshot")
        engine = choice(document, "engine", EngineName, "snapshot")
        if engine is None:
            raise ConfigurationError("snapshot: engine is missing; say mysql or postgres")
        if document.get("rows") is None:
            raise ConfigurationError("snapshot: rows is missing; give the rows of the process list")
        context = {str(key): value for key, value in mapping(document, "context").items()}
        return cls(engine, list(objects(document, "rows")), context)
