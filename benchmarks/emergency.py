"""From the alarm's event to the first free slot on a full server, with a warm function and with a
cold start.
"""

from __future__ import annotations

import json
import time
from contextlib import closing
from pathlib import Path

from lab.artifact import AT_HAND, HOST, build
from lab.crowd import Census, Crowd
from lab.lambdas import Code, Function
from lab.servers import Server, Unavailable, start, until
from lab.targets import target

from .base import Effort, Section, Spread, Table

SERVERS = ("postgres18", "mariadb", "mysql")
SLOTS = 100
ROUNDS = 7
ALARM = json.loads((Path(__file__).parents[1] / "events" / "alarm-action.json").read_text())
SETTINGS = {
    # One slot is the reaper's own, by reserved_connections or CONNECTION_ADMIN; three are a
    # superuser's.
    "postgres": {"max_connections": str(SLOTS + 4), "reserved_connections": "1"},
    "mysql": {"max_connections": str(SLOTS)},
}


def measure(effort: Effort) -> list[Section]:
    code = build(AT_HAND, HOST)
    section = Section("Emergency")
    rows = []
    for name in SERVERS if effort.is_full else SERVERS[1:2]:
        try:
            with start(
                name, settings=SETTINGS["postgres" if name.startswith("postgres") else "mysql"]
            ) as server:
                if server.engine == "postgres":
                    server.query("GRANT pg_use_reserved_connections TO reaper")
                taken = _measure(server, code.function.path, effort)
        except Unavailable as missing:
            section.skipped.append(str(missing))
            continue
        for how, samples in taken.items():
            ms = {what: [1000 * sample[what] for sample in samples] for what in samples[0]}
            rows.append([name, how, *(Spread(values).told(0) for values in ms.values())])
        section.raw[name] = taken
    head = ("server", "function", "event to first free slot, ms", "event to answer, ms")
    title = f"All {SLOTS} slots taken by sleepers, an alarm's event to the built artifact"
    section.tables.append(Table(title, head, rows))
    section.notes.append(
        "A cold start includes the runtime client and all imports. The first slot's time is the "
        "function's own "
        "(`first_freed_seconds`), cold with what came before its handler added, and at most the "
        "time to the answer. No "
        "network, no TLS, no Secrets Manager."
    )
    return [section]


def _measure(server: Server, folder: Path, effort: Effort) -> dict[str, list[dict[str, float]]]:
    # The alarm's event names the database `orders`.
    entry = target(server) | {
        "id": "orders",
        "rules": {"pressure_idle_seconds": 0.1, "allow_users": ["app"]},
    }
    environ = {"REAPER_TARGETS": json.dumps([entry]), "REAPER_DRY_RUN": "false"}
    code = Code([folder], "reaper.handler.lambda_handler", environ)
    taken: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
    with Function(code) as function:
        for _ in range(effort.rounds(ROUNDS)):
            function.close()
            until(lambda: not _has_reaper(server))
            taken["cold"].append(_alarmed(server, function))
            taken["warm"].append(_alarmed(server, function))
    return taken


def _has_reaper(server: Server) -> bool:
    sql = (
        "SELECT count(*) FROM pg_stat_activity WHERE usename = 'reaper'"
        if server.engine == "postgres"
        else "SELECT COUNT(*) FROM information_schema.processlist WHERE USER = 'reaper'"
    )
    return bool(server.query(sql)[0][0])


def _alarmed(server: Server, function: Function) -> dict[str, float]:
    """One emergency: fill the server, invoke the function, read when it freed the first slot."""
    with closing(Census(server)) as census:
        # The count leaves out the census's own session
        taken = census.base + (server.engine == "postgres")
        with Crowd(server, SLOTS - taken) as crowd:
            crowd.doze()
            began = time.monotonic()
            invocation = function.invoke(ALARM)
            seconds = time.monotonic() - began
            if invocation.error:
                raise RuntimeError(f"the function failed: {invocation.error}")
            (report,) = invocation.answer["targets"]
            if report["error"] or report["first_freed_seconds"] is None:
                raise RuntimeError(f"nothing was freed: {report['error']}")
            before_handler = (
                max(0.0, seconds - report["duration_seconds"]) if invocation.cold else 0.0
            )
        # The reaper's kept connection may be new
        until(lambda: census() <= census.base + 1)
    return {
        "first": min(seconds, before_handler + report["first_freed_seconds"]),
        "answer": seconds,
    }
