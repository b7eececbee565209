"""How a sleeping session is recognised: what a look marks, and what a re-read must find again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from reaper.engines.mysql.statements import StatementEnd
from reaper.engines.rows import MARK, Fetched
from reaper.model import Mark

# Columns that are read for the marks and are not SHOW FULL PROCESSLIST's
_FOR_MARKS = frozenset({"began_s", "now_s", "exact_s", "token"})
# Seconds by which two readings of MariaDB's exact clock may differ for the same sleep
_SLACK = 0.5
# The same for clocks of whole seconds, either of which may just have come to a new one
_SLACK_OF_TIME = 2.0
# Seconds that an exact idle time may be above Time, which counts whole ones
_ROUNDING = 1.0


def mark_of(row: Fetched, last_statement: object = None) -> Mark | None:
    """The mark of a row that is asleep, None for one that is awake or cannot be compared."""
    if row["Command"] != "Sleep" or row["Time"] is None:
        return None
    key = (row["User"], row["Host"], row.get("token", last_statement))
    if row.get("exact_s") is not None:
        # Pings with no statement between them leave MariaDB's QUERY_ID as it is, so the start of
        # the sleep is compared as well.
        return Mark(key, float(row["began_s"]) - float(row["exact_s"]), slack=_SLACK)
    since = int(row["now_s"]) - int(row["Time"])
    if key[2] is not None:
        # A thread that is not instrumented keeps its last event for ever, so Time must fit, too.
        return Mark(key, since, slack=_SLACK_OF_TIME)
    # In whole seconds: forgiving a single one would take a sleep that began almost two seconds
    # later for the same.
    return None if has_ticked(row) else Mark(key, since)


def has_ticked(row: Fetched) -> bool:
    """Whether a new second began while the list was read, so that Time may count to either."""
    return "now_s" in row and int(row["began_s"]) != int(row["now_s"])


def is_same(found: Mark | None, expected: Mark | None) -> bool:
    """Whether both are known, and of the same sleep."""
    return found is not None and expected is not None and found.matches(expected)


def mark_rows(rows: Sequence[Fetched], ends: Mapping[int, StatementEnd]) -> None:
    """Give each row its mark, and leave of the others only SHOW FULL PROCESSLIST's columns."""
    ours = _FOR_MARKS & rows[0].keys() if rows else ()
    for row in rows:
        end = ends.get(row["Id"])
        row[MARK] = mark_of(row, end.event if end else None)
        if row["Command"] == "Sleep" and row.get("exact_s") is not None:
            row["Time"] = row["exact_s"]
        for column in ours:
            del row[column]


def idle_facts(rows: Iterable[Fetched], ends: Mapping[int, StatementEnd]) -> dict[str, object]:
    """How MySQL's Time is to be corrected, and for which sessions it is only an upper bound of the
    idle time.

    Time counts from the start of the last statement. The end of that statement, by
    performance_schema's own clock, is exact, and immune to SET timestamp, which falsifies Time.
    """
    asleep = {
        row["Id"]: row["Time"]
        for row in rows
        if row["Command"] == "Sleep" and row["Time"] is not None
    }
    # A session cannot have been idle for longer than Time, which began before: whatever says so is
    # old, as the last event of a thread that is not instrumented any more.
    told = {
        id_
        for id_, time in asleep.items()
        if id_ in ends and ends[id_].seconds_ago <= time + _ROUNDING
    }
    return {
        "last_statement_s": {id_: asleep[id_] - ends[id_].seconds_ago for id_ in told},
        "unconfirmed": [id_ for id_ in asleep if id_ not in told],
    }
