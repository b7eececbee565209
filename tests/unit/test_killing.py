"""MySQL's answers to a kill, and the right to it, read from what the server says."""

from __future__ import annotations

import pymysql
import pytest

from reaper.engines.mysql.errors import classify
from reaper.engines.mysql.kills import Pace, QueryIds
from reaper.engines.mysql.rights import may_kill
from reaper.engines.rows import MARK
from reaper.model import Mark, Outcome, Session
from tests.fakes import Time


@pytest.mark.parametrize(
    ("code", "message", "outcome"),
    [
        (1094, "Unknown thread id: 7", Outcome.GONE),
        (1957, "Unknown query id: 7", Outcome.CHANGED),
        (1095, "You are not owner of thread 7", Outcome.REFUSED),
        (
            1227,
            "Access denied; you need (at least one of) the CONNECTION_ADMIN privilege(s)",
            Outcome.REFUSED,
        ),
        (1142, "SELECT command denied", Outcome.REFUSED),
        (1370, "execute command denied to user for routine 'mysql.rds_kill'", Outcome.REFUSED),
        (1305, "PROCEDURE mysql.rds_kill does not exist", Outcome.REFUSED),
        (
            1054,
            "Unknown column 'ERROR (RDS): CANNOT KILL RDSADMIN SESSION' in 'field list'",
            Outcome.REFUSED,
        ),
        (1054, "Unknown column 'x' in 'field list'", Outcome.FAILED),
        (1406, "Data too long for column 'l_user' at row 1", Outcome.FAILED),
        (1093, "", Outcome.FAILED),
        (1096, "", Outcome.FAILED),
    ],
)
def test_classify(code: int, message: str, outcome: Outcome) -> None:
    """1094 is already gone, 1957 has done something since, a missing right is refused, the unknown
    has failed.
    """
    assert classify(pymysql.err.OperationalError(code, message)) is outcome


@pytest.mark.parametrize(
    "error",
    [
        pymysql.err.OperationalError(2013, "Lost connection to MySQL server during query"),
        pymysql.err.OperationalError(2006, "MySQL server has gone away"),
        pymysql.err.InterfaceError(0, ""),
    ],
)
def test_a_lost_connection_is_nobodys_outcome(error: pymysql.Error) -> None:
    """It ends the sweep: nobody knows what became of the victim, and no kill list outlives its
    connection.
    """
    with pytest.raises(type(error)) as caught:
        classify(error)
    assert caught.value is error


@pytest.mark.parametrize(
    ("grants", "expected"),
    [
        (["GRANT PROCESS, CONNECTION_ADMIN ON *.* TO `reaper`@`%`"], True),
        (["GRANT PROCESS ON *.* TO `r`@`%`", "GRANT CONNECTION_ADMIN ON *.* TO `r`@`%`"], True),
        # MariaDB's spelling
        (["GRANT PROCESS, CONNECTION ADMIN ON *.* TO `reaper`@`%`"], True),
        (["GRANT SUPER ON *.* TO `reaper`@`%` IDENTIFIED BY PASSWORD '*X'"], True),
        (["GRANT ALL PRIVILEGES ON *.* TO `root`@`localhost` WITH GRANT OPTION"], True),
        (["GRANT PROCESS ON *.* TO `reaper`@`%`"], False),
        (["GRANT ALL PRIVILEGES ON `orders`.* TO `reaper`@`%`"], False),
        # Another right altogether
        (["GRANT SERVICE_CONNECTION_ADMIN ON *.* TO `reaper`@`%`"], False),
        (["GRANT PROCESS ON *.* TO `super`@`%`"], False),
        (["GRANT EXECUTE ON PROCEDURE `mysql`.`rds_kill` TO `reaper`@`%`"], False),
        ([], False),
    ],
)
def test_may_kill(grants: list[str], expected: bool) -> None:
    """The right to kill others' sessions, on the whole server and by its exact name."""
    assert may_kill(grants) is expected


def test_a_query_id_identifies_whom_the_latest_look_saw_with_it() -> None:
    """A victim whose mark is not the one of the latest look, or whose QUERY_ID another session
    shared then, is not killed by its QUERY_ID.
    """
    mark = Mark(("app", "10.0.0.1:1", 7), since=1000.0, slack=0.5)
    victim, shared = Session(1, mark=mark), Session(2, mark=mark)
    query_ids = QueryIds()
    assert query_ids.of(victim) is None
    query_ids.remember([{"Id": 1, MARK: mark}])
    assert [query_ids.of(one) for one in (victim, shared, Session(1))] == [7, None, None]
    later = mark._replace(since=1001.0)
    assert query_ids.of(victim._replace(mark=later)) is None
    query_ids.remember([{"Id": 1, MARK: later}])
    assert query_ids.of(victim) is None


def test_one_stall_does_not_end_all_kills() -> None:
    """The pace is learned half from the latest kills; where none was done a kill is expected to be
    faster, so that another one is tried.
    """
    now = Time()
    pace = Pace(now)
    began = now()
    now.sleep(1.0)
    pace.learn(began, 2)
    assert pace.seconds == pytest.approx((0.001 + 0.5) / 2)
    before = pace.seconds
    pace.learn(began, 0)
    assert pace.seconds == before / 2


def test_who_may_kill_is_denied_only_system_users() -> None:
    """With a right of its own 1095 is the victim's protection, not a right that is missing."""
    error = pymysql.OperationalError(1095, "You are not owner of thread 7")
    assert classify(error, has_right=True) is Outcome.SYSTEM_USER
