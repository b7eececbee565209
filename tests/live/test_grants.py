"""What `reaper grants` prints, run as printed, suffices for a live sweep."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from lab.servers import Server, Sessions
from reaper.model import Outcome
from tests.live.account import BY_PROCEDURE, USER, granted, printed, swept, unavoidable

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_the_readme_shows_what_is_printed() -> None:
    """Every SQL block of the README is what the command above it prints."""
    shown = re.findall(r"`reaper grants ([^`]+)`:\n\n```sql\n(.*?)```", README, re.DOTALL)
    assert len(shown) >= 3
    assert README.count("```sql") == len(shown)
    for options, block in shown:
        assert block == printed(*shlex.split(options)), options


@pytest.mark.parametrize(
    ("managed", "options", "method"),
    [
        (False, (), "kill"),
        (True, (), "rds_kill"),
        (False, BY_PROCEDURE, "kill_if_idle"),
        (True, BY_PROCEDURE, "kill_if_idle"),
    ],
)
def test_mysql_grants_suffice(
    mysql: Server, sessions: Sessions, managed: bool, options: tuple[str, ...], method: str
) -> None:
    """With the printed grants and no others a sweep terminates, by KILL, as on RDS, or by the
    procedure, and warns of nothing it could have been granted. On RDS it is RDS's administrator who
    makes the account.
    """
    with granted(mysql, *options, managed=managed):
        sessions.sleeping(4)
        report = swept(mysql)
    assert report.error is None
    assert report.method == method
    assert report.outcomes == {Outcome.TERMINATED: 4}
    assert set(report.warnings) == unavoidable(mysql)


def test_aurora_grants_suffice(mysql: Server, sessions: Sessions) -> None:
    """Aurora's are MySQL's: its administrator has CONNECTION_ADMIN to give."""
    for options in ((), BY_PROCEDURE):
        ours = ("--engine", "mysql", *options)
        assert printed(*ours, "--flavour", "aurora") == printed(*ours)


@pytest.mark.parametrize(
    ("managed", "options"), [(False, ()), (True, ()), (True, ("--auth", "iam"))]
)
def test_postgres_grants_suffice(
    postgres: Server, sessions: Sessions, managed: bool, options: tuple[str, ...]
) -> None:
    """With the printed grants and no others a sweep terminates, and warns of nothing; so it does
    where an administrator such as RDS's has made the account, and made it one for IAM.
    """
    if managed and not postgres.own:
        pytest.skip("may be Amazon's own, where nothing needs imitating")
    with granted(postgres, *options, managed=managed):
        sessions.sleeping(4)
        report = swept(postgres)
        assert not options or is_member(postgres, "rds_iam")
    assert report.error is None
    assert report.outcomes == {Outcome.TERMINATED: 4}
    assert report.warnings == ()


def test_reserved_slots_on_postgres(postgres: Server) -> None:
    """With --reserved the account may use the slots that PostgreSQL 16 and later keep for such as
    it.
    """
    if not postgres.query("SELECT 1 FROM pg_roles WHERE rolname = 'pg_use_reserved_connections'"):
        pytest.skip("older than 16")
    with granted(postgres, "--reserved"):
        assert is_member(postgres, "pg_use_reserved_connections")


def is_member(postgres: Server, role: str) -> bool:
    return postgres.query(f"SELECT pg_has_role('{USER}', '{role}', 'MEMBER')") == [(True,)]


@pytest.mark.parametrize("options", [(), ("--kill-if-idle",)])
def test_an_iam_account_on_mysql(mysql: Server, options: tuple[str, ...]) -> None:
    """The statement that makes an IAM account is one that the server understands: it lacks only
    Amazon's plugin.
    """
    if not mysql.own:
        pytest.skip("may be Amazon's own, which has the plugin")
    lacking = r"Plugin 'AWSAuthenticationPlugin' is not loaded"
    with (
        pytest.raises(mysql.kind.errors, match=lacking),
        granted(mysql, "--auth", "iam", *options, managed=True),
    ):
        pass
