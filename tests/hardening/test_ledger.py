"""Nothing lost, nothing twice, no money gone: forty processes at work in a storm, and the books
balance afterwards.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest

from lab.servers import Proxy, Server, processes, start, until
from reaper.client.target import EngineName
from reaper.client.tokens import DDL
from reaper.report import ErrorKind
from tests.conftest import Servers
from tests.hardening.ledger import (
    ACCOUNTS,
    OPENING,
    SLACK,
    Books,
    Entry,
    Kind,
    Told,
    judge,
    load,
    save,
)
from tests.hardening.storm import Storm
from tests.hardening.tellers import LIMITS
from tests.live.test_client_outages import connected

TELLERS = 40
# Enough for all and the reaper, not for sessions that were left behind as well
SLOTS = 48
SECONDS = float(os.environ.get("REAPER_TEST_LEDGER_SECONDS") or 40)
SEED = os.environ.get("REAPER_TEST_LEDGER_SEED") or str(secrets.randbelow(10**6))

# While the server is away, full or cut off; anything else would be the sweep's own fault.
EXCUSED = {ErrorKind.UNREACHABLE, ErrorKind.LOCKED_OUT, ErrorKind.SERVER, ErrorKind.DEADLINE}


@pytest.mark.parametrize("name", ["postgres18", "mariadb", "mysql"])
def test_the_books_balance(
    name: str, servers: Servers, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Done is there once, a token's effect at most once, a failure is none, money is conserved,
    nobody hangs.

    REAPER_TEST_LEDGER_SEED repeats a run's troubles and deeds, as far as processes can be made to
    repeat themselves.
    """
    # Skipped, or an error, where there is none
    servers[name]
    (tmp_path / "run.json").write_text(
        json.dumps({"server": name, "seed": SEED, "seconds": SECONDS})
    )
    with start(name, settings={"max_connections": str(SLOTS)}) as server:
        open_books(server)
        with (
            Proxy(server.host, server.port) as proxy,
            tellers(proxy.through(server), tmp_path) as fleet,
        ):
            storm = Storm(server, proxy, told(fleet, 60), SEED, tmp_path)
            weather(storm, tmp_path)
            lives = told(fleet, SLACK * LIMITS[1] + 60)
        save(closed_books(server), tmp_path)
    run = load(tmp_path)
    counts = Counter((deed.kind, deed.told) for deed in run.deeds)
    with capsys.disabled():
        print(
            f"\n  {name}, seed {SEED}: {summary(counts)}; {len(storm.reports)} sweeps, "
            f"{freed(storm)} terminated"
        )

    found = judge(run), lives
    assert found == ([], ["ended"] * TELLERS), f"seed {SEED}; the log is in {tmp_path}"
    # Else nothing was tried
    assert all(counts[kind, Told.DONE] for kind in Kind)
    assert {victim.session.user for report in storm.reports for victim in report.victims} == {"app"}
    assert {report.error.kind for report in storm.reports if report.error} <= EXCUSED


def weather(storm: Storm, folder: Path) -> None:
    """All that goes on while the tellers work; in the end they are asked to stop."""
    with ThreadPoolExecutor() as pool:
        others = [pool.submit(storm.freeze), pool.submit(storm.trap), pool.submit(storm.sweep)]
        try:
            storm.blow(SECONDS)
        finally:
            storm.over.set()
            (folder / "stop").touch()
        for other in others:
            other.result()


@contextmanager
def tellers(server: Server, folder: Path) -> Iterator[processes.Process]:
    command = [
        sys.executable,
        "-m",
        "tests.hardening.tellers",
        server.dsn("app"),
        str(folder),
        SEED,
        str(TELLERS),
    ]
    # On SIGTERM it ends its own
    fleet = processes.spawn(command, signal.SIGTERM, stdout=PIPE, bufsize=0)
    try:
        yield fleet
    finally:
        processes.end(fleet, signal.SIGTERM)
        assert fleet.stdout is not None
        fleet.stdout.close()


def told(fleet: processes.Process, seconds: float) -> Any:
    """The fleet's next line; nothing where it does not come, for the log then shows who hung."""
    assert fleet.stdout is not None
    if not select.select([fleet.stdout], [], [], seconds)[0]:
        return None
    return json.loads(fleet.stdout.readline())


def open_books(server: Server) -> None:
    serial = "bigserial" if server.engine == "postgres" else "bigint AUTO_INCREMENT"
    with closing(server.connect("app")) as connection:
        cursor = connection.cursor()
        # No key keeps a name from being there twice.
        cursor.execute(
            f"CREATE TABLE entries (id {serial} PRIMARY KEY, name varchar(40) NOT NULL, deed "
            f"varchar(40) NOT NULL, "
            "source int NOT NULL, destination int NOT NULL, amount int NOT NULL)"
        )
        cursor.execute("CREATE INDEX entries_name ON entries (name)")
        cursor.execute("CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL)")
        cursor.execute(
            "INSERT INTO accounts VALUES "
            + ", ".join(f"({account}, {OPENING})" for account in ACCOUNTS)
        )
        cursor.execute(DDL[EngineName(server.engine)])


def closed_books(server: Server) -> Books:
    """The tables once nobody works on them any more: a statement whose client has gone is let
    finish.
    """
    assert until(lambda: connected(server) == 0, timeout=60), (
        "the server goes on for clients that have gone"
    )
    with closing(server.connect("app")) as connection:
        client = server.kind.client(connection, "app")
        entries = client.run(
            "SELECT name, deed, source, destination, amount FROM entries ORDER BY id"
        )
        balances = client.run("SELECT id, balance FROM accounts")
    return Books([Entry(*row) for row in entries], dict(balances))


def summary(counts: Counter[tuple[Kind, Told | None]]) -> str:
    return (
        ", ".join(
            f"{kind} "
            + "/".join(
                str(counts[kind, outcome]) for outcome in (Told.DONE, Told.UNKNOWN, Told.FAILED)
            )
            for kind in Kind
        )
        + " done/unknown/failed"
    )


def freed(storm: Storm) -> int:
    return sum(report.freed for report in storm.reports)
