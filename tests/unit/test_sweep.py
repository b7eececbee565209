"""A sweep's own decisions, on an engine that lives in a dict and a clock that never waits."""

from __future__ import annotations

from typing import Any

import pytest

from reaper.client.deadline import Deadline
from reaper.model import Outcome, Reason, Rules
from reaper.report import ErrorKind
from reaper.sweep import Observers, Sweep
from tests.fakes import TARGET, FakeDatabase


def sweep(database: FakeDatabase, seconds: float = 60, **more: Any) -> Sweep:
    rules = Rules().override({"dry_run": False} | more.pop("rules", {}))
    return Sweep(
        TARGET,
        rules,
        "manual",
        Deadline.after(seconds, database.time),
        drivers=lambda _: database,
        engines=lambda _: database,
        clock=database.time,
        sleep=database.time.sleep,
        **more,
    )


def test_all_victims_are_struck_and_verified() -> None:
    """Every victim is signalled once and terminated when it is seen to be gone; the connection is closed."""
    database = FakeDatabase()
    database.sleeping(700)
    report = sweep(database, rules={"max_kills": 600}).run()
    assert report.outcomes == {Outcome.TERMINATED: 600}
    assert report.spared == {Reason.MAX_KILLS: 100}
    assert report.zombies == 700
    assert report.error is None
    assert database.closed == 1


def test_chunks_grow_while_the_window_is_short() -> None:
    """The first chunk is small; it doubles while a strike takes a fraction of the window, and stops there."""
    database = FakeDatabase(seconds_a_kill=0.0002)
    database.sleeping(400)
    assert sweep(database).run().freed == 400
    assert database.chunks == [8, 16, 32, 64, 64, 64, 64, 64, 24]


def test_chunks_shrink_when_kills_are_slow() -> None:
    """Where kills take long a chunk holds few; those that do not fit into the window are re-read."""
    database = FakeDatabase(seconds_a_kill=0.02)
    database.sleeping(8)
    report = sweep(database).run()
    assert report.freed == 8
    assert database.chunks[0] == 8
    assert max(database.chunks[1:]) <= 4


def test_too_slow_to_strike_kills_nobody() -> None:
    """Where even one session cannot be re-read within the window nobody is terminated, and the report says why."""
    database = FakeDatabase(seconds_a_strike=0.06)
    clients = database.sleeping(3)
    report = sweep(database).run()
    assert report.error is not None
    assert report.error.kind is ErrorKind.SERVER
    assert "60 ms" in report.error.message
    assert report.outcomes == {}
    assert all(client.alive() for client in clients)


def test_the_deadline_ends_the_strike() -> None:
    """When the time runs out the struck are verified, the others have no outcome, and the error is `deadline`."""
    database = FakeDatabase(seconds_a_kill=0.02)
    database.sleeping(100)
    report = sweep(database, seconds=2).run()
    assert report.error is not None
    assert report.error.kind is ErrorKind.DEADLINE
    reached = report.outcomes[Outcome.TERMINATED]
    assert 0 < reached < 100
    assert [victim.outcome for victim in report.victims[reached:]] == [None] * (100 - reached)
    assert database.time() <= 1000 + 2


def test_a_rollback_keeps_its_slot() -> None:
    """A victim that still rolls back a second later is `signalled`, and no slot is claimed for it."""
    database = FakeDatabase()
    quick, slow = database.sleeping(1, rolls_back=0.5), database.sleeping(1, rolls_back=5.0)
    report = sweep(database).run()
    assert {victim.session.id: victim.outcome for victim in report.victims} == {
        quick[0].id: Outcome.TERMINATED,
        slow[0].id: Outcome.SIGNALLED,
    }
    assert report.freed == 1


def test_one_refusal_is_an_outcome_and_three_in_a_row_are_the_end() -> None:
    """One victim's refusal never ends the sweep; repeated refusals do, and all that was struck by then is told."""
    database = FakeDatabase()
    database.sleeping(2)
    database.sleeping(1, refuses=True)
    database.sleeping(2)
    assert sweep(database).run().outcomes == {Outcome.TERMINATED: 4, Outcome.REFUSED: 1}

    database = FakeDatabase()
    database.sleeping(2)
    database.sleeping(3, refuses=True)
    last = database.sleeping(20)
    report = sweep(database).run()
    assert report.error is not None
    assert report.error.kind is ErrorKind.RIGHTS
    assert "a licence" in report.error.message
    assert report.outcomes == {Outcome.TERMINATED: 2 + 3, Outcome.REFUSED: 3}
    assert [client.alive() for client in last] == [False] * 3 + [True] * 17


def test_an_account_without_any_right_is_told_before_it_matters() -> None:
    """A dry run of an account that could terminate nobody warns of it."""
    database = FakeDatabase(method=None)
    database.sleeping(1)
    report = sweep(database, rules={"dry_run": True}).run()
    assert report.warnings == ("no_right_to_terminate",)
    assert report.outcomes == {Outcome.WOULD_TERMINATE: 1}


def test_blind_sees_no_zombies() -> None:
    """A blind account's look is no look: an error, no verdicts, no counts."""
    database = FakeDatabase(blind=True)
    database.sleeping(3)
    report = sweep(database).run()
    assert report.error is not None
    assert report.error.kind is ErrorKind.BLIND
    assert (report.zombies, report.total, report.victims) == (0, None, ())


def test_a_dead_connection_is_not_replaced() -> None:
    """When the connection ended after the look nobody is struck: what was seen is only true on it."""
    database = FakeDatabase(lives=False)
    (client,) = database.sleeping(1)
    report = sweep(database).run()
    assert report.error is not None
    assert report.error.kind is ErrorKind.SERVER
    assert client.alive()
    assert report.outcomes == {}


def test_a_refused_login_is_a_report() -> None:
    """A server without a free slot gives error `locked_out`, not an exception."""
    database = FakeDatabase(refuses_login=ConnectionRefusedError("full\nSELECT secret"))
    report = sweep(database).run()
    assert report.error is not None
    assert (report.error.kind, report.error.message) == (ErrorKind.LOCKED_OUT, "full")
    assert database.closed == 0


def test_whoever_is_asked_can_say_no() -> None:
    """Where approval is refused nobody is struck, and no victim has an outcome."""
    database = FakeDatabase()
    (client,) = database.sleeping(1)
    asked: list[int] = []

    def refuse(verdicts: Any) -> bool:
        asked.append(len(verdicts))
        return False

    report = sweep(database, observers=Observers(approve=refuse)).run()
    assert asked == [1]
    assert client.alive()
    assert [victim.outcome for victim in report.victims] == [None]
    assert report.error is None


@pytest.mark.parametrize(("two_looks", "used", "looks"), [(True, 2, 2), (False, 2, 1), (False, 900, 2)])
def test_two_looks_confirm_in_manual_runs_and_under_pressure(two_looks: bool, used: int, looks: int) -> None:
    """Sleepers of unknown idle time are looked at twice, two seconds apart, by hand and under pressure only."""
    database = FakeDatabase(max_connections=1000)
    database.sleeping(used, idle=None, at_most=5000.0)
    report = sweep(database, two_looks=two_looks).run()
    assert database.looks == looks
    confirmed = looks == 2
    assert report.spared[Reason.UNCONFIRMED] == (0 if confirmed else used)
    assert report.freed == (min(used, 500) if confirmed else 0)


def test_who_woke_between_two_looks_stays_unconfirmed() -> None:
    """A second look confirms only a sleep that is the same as in the first."""
    database = FakeDatabase()
    same, woken = database.sleeping(2, idle=None, at_most=5000.0)
    doze = database.time.sleep

    def sleep(seconds: float) -> None:
        woken.run("SELECT 1")
        doze(seconds)

    database.time.sleep = sleep  # type: ignore[method-assign]  # what happens meanwhile
    report = sweep(database, two_looks=True).run()
    assert [victim.session.id for victim in report.victims] == [same.id]
    assert report.spared[Reason.UNCONFIRMED] == 1


def test_what_came_of_the_pressure() -> None:
    """Pressure remains while used less freed is at the trigger; the first freed slot is timed from the beginning."""
    database = FakeDatabase(max_connections=10)
    database.sleeping(9, rolls_back=0.5)
    dry = sweep(database, rules={"dry_run": True}).run()
    assert (dry.pressure_remains, dry.first_freed_seconds) == (True, None)
    few = sweep(database, rules={"max_kills": 1}).run()
    assert few.pressure_remains is True
    assert few.first_freed_seconds is not None
    assert 0.5 <= few.first_freed_seconds <= few.duration_seconds
    assert sweep(database).run().pressure_remains is False
