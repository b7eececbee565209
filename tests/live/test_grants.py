"""The README's grants, run as printed, suffice for a live sweep; with one less, the report says which is missing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from reaper.model import Outcome
from reaper.report import ErrorKind, Report
from tests.harness import settle, sweep
from tests.servers import Server, Sessions

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
USER = "reaper_readme"  # the tests' servers have a reaper of their own
DROP = {"mysql": f"DROP USER IF EXISTS {USER}@'%'", "postgres": f"DROP ROLE IF EXISTS {USER}"}

Account = Callable[..., None]


def statements(title: str) -> list[str]:
    """The statements of the SQL block that the README prints under this title."""
    (block,) = re.findall(rf"<!-- grants: {title} -->\n```sql\n(.*?)```", README, re.DOTALL)
    return [statement.strip() for statement in block.split(";") if statement.strip()]


def spelled(statement: str, server: Server) -> str:
    """A statement for this server: another user's name, and a password in its place."""
    password = server.password.replace("'", "''")
    return re.sub(r"\breaper\b", USER, statement).replace("'…'", f"'{password}'")


@contextmanager
def granted(server: Server, title: str, without: str | None) -> Iterator[None]:
    chosen = statements(title)
    if without:
        (left_out,) = [statement for statement in chosen if without in statement]
        chosen.remove(left_out)
    server.query(DROP[server.engine])
    try:
        for statement in chosen:
            server.query(spelled(statement, server))
        yield
    finally:
        server.query(DROP[server.engine])


@pytest.fixture
def account() -> Iterator[Account]:
    """Make the account as the README says, less one grant if that is named; it is gone after the test."""
    with ExitStack() as made:

        def make(server: Server, title: str, without: str | None = None) -> None:
            made.enter_context(granted(server, title, without))

        yield make


def title_of(server: Server, managed: bool = False) -> str:
    return ("rds-" if managed else "") + server.flavour


def swept(server: Server, sees_fractions: bool = True) -> Report:
    settle(server, sees_fractions)
    return sweep(server, USER, idle_seconds=0, allow_users=["app"]).run()


def unavoidable(server: Server) -> set[str]:
    """What no grant can help against on this server."""
    if server.flavour == "mariadb":
        return {"named_locks_unseen"}
    return set() if has_performance_schema(server) else {"named_locks_unseen", "idle_upper_bound"}


def has_performance_schema(server: Server) -> bool:
    return bool(server.query("SELECT @@GLOBAL.performance_schema")[0][0])


def test_every_block_is_run() -> None:
    """No SQL of the README stands outside the blocks that the tests below run."""
    titles = re.findall(r"<!-- grants: (\S+) -->", README)
    assert sorted(titles) == ["mariadb", "mysql", "postgres", "rds-mariadb", "rds-mysql"]
    assert README.count("```sql") == len(titles)


@pytest.mark.parametrize(("managed", "method"), [(False, "kill"), (True, "rds_kill")])
def test_mysql_grants_suffice(mysql: Server, sessions: Sessions, account: Account, managed: bool, method: str) -> None:
    """With the printed grants and no others a sweep terminates, by KILL or as on RDS, and warns of nothing it could
    have been granted."""
    account(mysql, title_of(mysql, managed))
    sessions.sleeping(4)
    report = swept(mysql)
    assert report.error is None
    assert report.method == method
    assert report.outcomes == {Outcome.TERMINATED: 4}
    assert set(report.warnings) == unavoidable(mysql)


@pytest.mark.parametrize("managed", [False, True])
def test_mysql_without_process_is_blind(mysql: Server, sessions: Sessions, account: Account, managed: bool) -> None:
    """Without PROCESS the sweep is blind and touches nobody."""
    account(mysql, title_of(mysql, managed), without="PROCESS")
    clients = sessions.sleeping(4)
    report = swept(mysql)
    assert report.error is not None
    assert report.error.kind is ErrorKind.BLIND
    assert report.victims == ()
    assert all(client.alive() for client in clients)


@pytest.mark.parametrize(("managed", "right"), [(False, "CONNECTION"), (True, "EXECUTE")])
def test_mysql_without_a_kill_right(
    mysql: Server, sessions: Sessions, account: Account, managed: bool, right: str
) -> None:
    """Without the right to kill the report warns, victims are refused, and the sweep ends with the error rights."""
    account(mysql, title_of(mysql, managed), without=right)
    clients = sessions.sleeping(4)
    report = swept(mysql)
    assert "no_right_to_terminate" in report.warnings
    assert set(report.outcomes) == {Outcome.REFUSED}
    assert report.error is not None
    assert report.error.kind is ErrorKind.RIGHTS
    assert all(client.alive() for client in clients)


TABLES: dict[str, set[str]] = {
    "performance_schema.threads": {"idle_upper_bound", "named_locks_unseen"},
    "performance_schema.events_statements_current": {"idle_upper_bound", "named_locks_unseen"},
    "performance_schema.events_transactions_current": set(),
    "performance_schema.metadata_locks": {"named_locks_unseen"},
    "mysql.user": {"user_limits_unseen"},
}


def test_mysql_without_a_table(mysql: Server, sessions: Sessions, account: Account) -> None:
    """Without one of the tables it asks for the sweep still terminates, and the report says what went unseen."""
    asked = "".join(statements(title_of(mysql)))
    for right in (table for table in TABLES if table in asked):
        account(mysql, title_of(mysql), without=right)
        sessions.sleeping(2)
        report = swept(mysql, sees_fractions=False)
        assert report.outcomes == {Outcome.TERMINATED: 2}
        assert set(report.warnings) == TABLES[right] | unavoidable(mysql)


def test_postgres_grants_suffice(postgres: Server, sessions: Sessions, account: Account) -> None:
    """With the printed grants and no others a sweep terminates, and warns of nothing."""
    account(postgres, "postgres")
    sessions.sleeping(4)
    report = swept(postgres)
    assert report.error is None
    assert report.outcomes == {Outcome.TERMINATED: 4}
    assert report.warnings == ()


@pytest.mark.parametrize(
    ("right", "kind", "outcomes"),
    [
        ("pg_read_all_stats", ErrorKind.BLIND, set()),
        ("pg_signal_backend", ErrorKind.RIGHTS, {Outcome.REFUSED}),
    ],
)
def test_postgres_with_one_grant_less(
    postgres: Server,
    sessions: Sessions,
    account: Account,
    right: str,
    kind: ErrorKind,
    outcomes: set[Outcome],
) -> None:
    """Without the right to see the sweep is blind, without the right to signal its victims are refused."""
    account(postgres, "postgres", without=right)
    clients = sessions.sleeping(4)
    report = swept(postgres)
    assert report.error is not None
    assert report.error.kind is kind
    assert set(report.outcomes) == outcomes
    assert all(client.alive() for client in clients)
