"""A sweep's own decisions, on an engine that lives in a dict and a clock that never waits."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from reaper.client.deadline import Deadline
from reaper.engines.base import Holder
from reaper.model import Outcome, Reason
from reaper.report import Entry, ErrorKind
from reaper.rules import Rules
from reaper.seat import Seat
from reaper.sweep import Observers, Sweep
from tests.fakes import TARGET, FakeDatabase


def sweep(database: FakeDatabase, seconds: float = 60, **more: Any) -> Sweep:
    rules = Rules.from_json({"dry_run": False} | more.pop("rules", {}))
    return Sweep(
        TARGET,
        rules,
        "manual",
        Deadline.after(seconds, database.time),
        drivers=lambda _: database,
        engines=lambda _: database,
        clock=database.time,
        sleep=more.pop("doze", database.time.sleep),
        **more,
    )


def test_all_victims_are_struck_and_verified() -> None:
    """Every victim is signalled once and terminated when it is seen to be gone; the connection is
    closed.
    """
    database = FakeDatabase()
    database.sleeping(700)
    report = sweep(database, rules={"max_kills": 600}).run()
    assert report.outcomes == {Outcome.TERMINATED: 600}
    assert report.spared == {Reason.MAX_KILLS: 100}
    assert report.zombies == 700
    assert report.error is None
    assert database.closed == 1


def test_a_target_whose_turn_comes_too_late() -> None:
    """Nobody logs in where no time is left, and the report says why."""
    database = FakeDatabase()
    clients = database.sleeping(3)
    report = sweep(database, seconds=0).run()
    assert report.error is not None
    assert report.error.kind is ErrorKind.DEADLINE
    assert "no time was left" in report.error.message
    assert all(client.alive() for client in clients)
    assert report.snapshot is None


def test_chunks_grow_while_the_window_is_short() -> None:
    """The first chunk is small; the next are as large as the window bears by what the one before
    took.
    """
    database = FakeDatabase(seconds_a_kill=0.0002)
    database.sleeping(400)
    assert sweep(database).run().freed == 400
    assert database.chunks == [8, 123, 192, 77]


def test_chunks_shrink_when_kills_are_slow() -> None:
    """Where kills take long a chunk holds few; those that do not fit into the window are
    re-read.
    """
    database = FakeDatabase(seconds_a_kill=0.02)
    database.sleeping(8)
    report = sweep(database).run()
    assert report.freed == 8
    assert database.chunks[0] == 8
    assert max(database.chunks[1:]) <= 4


def test_too_slow_to_strike_kills_nobody() -> None:
    """Where even one session cannot be re-read within the window nobody is terminated, and the
    report says why.
    """
    database = FakeDatabase(seconds_a_strike=0.06)
    clients = database.sleeping(3)
    report = sweep(database).run()
    assert report.error is not None
    assert report.error.kind is ErrorKind.SERVER
    assert "60 ms" in report.error.message
    assert report.outcomes == {}
    assert all(client.alive() for client in clients)


def test_the_deadline_ends_the_strike() -> None:
    """When the time runs out the struck are verified, the others have no outcome, and the error is
    `deadline`.
    """
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
    """A victim that still rolls back a second later is `signalled`, and no slot is claimed for
    it.
    """
    database = FakeDatabase()
    quick, slow = database.sleeping(1, rolls_back=0.5), database.sleeping(1, rolls_back=5.0)
    report = sweep(database).run()
    assert {victim.session.id: victim.outcome for victim in report.victims} == {
        quick[0].id: Outcome.TERMINATED,
        slow[0].id: Outcome.SIGNALLED,
    }
    assert report.freed == 1


def test_one_refusal_is_an_outcome_and_three_in_a_row_are_the_end() -> None:
    """One victim's refusal never ends the sweep; repeated refusals do, and all that was struck by
    then is told.
    """
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
    """When the connection ended after the look nobody is struck: what was seen is only true on
    it.
    """
    database = FakeDatabase(lives=False)
    (client,) = database.sleeping(1)
    report = sweep(database).run()
    assert report.error is not None
    assert report.error.kind is ErrorKind.SERVER
    assert client.alive()
    assert report.outcomes == {}


def test_a_refused_login_is_a_report() -> None:
    """A full server is asked for most of the time, about twice a second; then error `locked_out`,
    no exception.
    """
    database = FakeDatabase(refuses_login=ConnectionRefusedError("full\nSELECT secret"))
    report = sweep(database, seconds=10, dice=lambda: 0.5).run()
    assert report.error is not None
    assert report.error.kind is ErrorKind.LOCKED_OUT
    assert report.error.message == "no slot came free in 19 attempts: full"
    # a fifth of the time is kept for the sweep
    assert 7.5 < report.duration_seconds < 8.5
    assert database.closed == 0


def test_the_longest_invocation_is_used_at_the_door() -> None:
    """Fifteen minutes of refusals, two thousand of them, end as `locked_out` and in nothing
    else.
    """
    database = FakeDatabase(refuses_login=ConnectionRefusedError("full"))
    report = sweep(database, seconds=900, dice=lambda: 0.4).run()
    assert report.error is not None
    assert report.error.kind is ErrorKind.LOCKED_OUT
    assert 880 < report.duration_seconds < 900


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


@pytest.mark.parametrize(
    ("two_looks", "used", "looks"), [(True, 2, 2), (False, 2, 1), (False, 900, 3)]
)
def test_two_looks_confirm_in_manual_runs_and_under_pressure(
    two_looks: bool, used: int, looks: int
) -> None:
    """Sleepers of unknown idle time are looked at twice, two seconds apart, by hand and under
    pressure only.

    Under pressure there is one more look, after the strike: was it enough?
    """
    database = FakeDatabase(max_connections=1000)
    database.sleeping(used, idle=None, at_most=5000.0)
    report = sweep(database, two_looks=two_looks).run()
    assert database.looks == looks
    confirmed = looks > 1
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
    """Pressure remains while used less freed is at the trigger; the first freed slot is timed from
    the beginning.
    """
    database = FakeDatabase(max_connections=10)
    database.sleeping(9, rolls_back=0.5)
    dry = sweep(database, rules={"dry_run": True}).run()
    assert (dry.pressure_remains, dry.first_freed_seconds) == (True, None)
    few = sweep(database, rules={"max_kills": 1}).run()
    assert few.pressure_remains is True
    assert few.first_freed_seconds is not None
    assert 0.5 <= few.first_freed_seconds <= few.duration_seconds
    assert sweep(database).run().pressure_remains is False


def test_a_slot_that_comes_free_is_taken() -> None:
    """A login that succeeds after refusals sweeps, and the report says how often it took."""
    database = FakeDatabase(refuses_login=ConnectionRefusedError("full"))
    database.sleeping(3)
    doze = database.time.sleep
    naps: list[float] = []

    def relief(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 4:
            database.refuses_login = None
        doze(seconds)

    report = sweep(database, dice=lambda: 1.0, doze=relief).run()
    assert (report.freed, report.attempts, report.entry) == (3, 5, Entry.LOGIN)
    assert naps[:4] == [0.1, 0.2, 0.4, 0.8]


def test_a_reserved_slot_is_told() -> None:
    """Whoever got in where an ordinary client would have been refused says so."""
    database = FakeDatabase(max_connections=2)
    database.sleeping(3)
    assert sweep(database).run().entry is Entry.RESERVED


def test_a_live_sweep_holds_the_lock_and_lets_go() -> None:
    """A dry run needs no lock; a live one holds it while it works and frees it at the end, errors
    included.
    """
    database = FakeDatabase()
    database.sleeping(2)
    held: list[bool] = []
    watch = Observers(on_progress=lambda done, of: held.append(database.locked))
    assert sweep(database, rules={"dry_run": True}).run().zombies == 2
    assert held == []
    assert sweep(database, observers=watch).run().freed == 2
    assert held == [True]
    assert not database.locked
    broken = FakeDatabase(seconds_a_strike=0.06)
    broken.sleeping(1)
    assert sweep(broken).run().error is not None
    assert not broken.locked


@pytest.mark.parametrize(
    ("holder", "error"),
    [
        (Holder(7, is_ours=True, idle_seconds=1000.0), None),
        (Holder(7, is_ours=True, idle_seconds=800.0), ErrorKind.BUSY),
        (Holder(7, is_ours=True, idle_seconds=None), ErrorKind.BUSY),
        (Holder(7, is_ours=False, idle_seconds=9999.0), ErrorKind.CONFIGURATION),
    ],
)
def test_a_frozen_holder_is_taken_over(holder: Holder, error: ErrorKind | None) -> None:
    """Only the reaper's own account, asleep for longer than an invocation can last, loses the lock.

    Another account's lock is no sweep of ours: a failure that alarms, or whoever took it would
    silence the reaper.
    """
    database = FakeDatabase(holders=[holder])
    database.sleeping(2)
    report = sweep(database).run()
    if error:
        assert report.error is not None
        assert (report.error.kind, report.freed) == (error, 0)
        assert "session 7" in report.error.message
    else:
        assert (report.error, report.freed, database.locked) == (None, 2, False)


def test_whoever_thinks_it_over_holds_no_lock_meanwhile() -> None:
    """Where a person is asked the lock is taken after the answer."""
    database = FakeDatabase()
    database.sleeping(1)
    held: list[bool] = []

    def approve(victims: Any) -> bool:
        held.append(database.locked)
        return True

    assert sweep(database, observers=Observers(approve=approve)).run().freed == 1
    assert held == [False]


def test_under_pressure_a_second_strike_makes_up_for_the_first() -> None:
    """Where some of the first choice woke up, the next in line go until the target is reached, and
    no further.
    """
    database = FakeDatabase(max_connections=100)
    clients = database.sleeping(90, idle=100.0)
    woken: list[int] = []

    def wake(done: int, of: int) -> None:
        if not woken:
            for client in clients[20:25]:
                client.statements, client.idle = client.statements + 1, 0.0
                woken.append(client.id)

    report = sweep(database, observers=Observers(on_progress=wake)).run()
    assert report.outcomes == {Outcome.TERMINATED: 30, Outcome.CHANGED: 5}
    assert sum(client.alive() for client in clients) == 60
    assert report.spared[Reason.TARGET_REACHED] == 55


@pytest.mark.parametrize(
    ("limits", "dead"),
    [
        # The server is between target and trigger: nobody's pressure
        ({"api": 10}, {"api": 4}),
        ({"api": 9, "batch": 100}, {"api": 5}),
        ({"app": 70}, {"app": 18}),
    ],
)
def test_the_second_look_presses_nobody_new(limits: dict[str, int], dead: dict[str, int]) -> None:
    """What was not under pressure when the sweep began is not brought down to the target with what
    was.
    """
    database = FakeDatabase(max_connections=100, user_limits=limits)
    for user, count in (("app", 60), ("api", 10), ("batch", 5)):
        database.sleeping(count, user=user, idle=100.0)
    report = sweep(database).run()
    assert Counter(victim.session.user for victim in report.victims) == dead
    assert report.pressure_remains is False


def test_kills_are_spread_over_the_seconds_asked_for() -> None:
    """Each user's victims fall evenly over the time, so that its clients come back a few at a
    time.
    """
    database = FakeDatabase()
    database.sleeping(10, user="app")
    database.sleeping(2, user="etl")
    began = database.time()
    assert sweep(database, rules={"spread_seconds": 5}).run().freed == 12
    falls = sorted(
        int(c.killed_at - began) for c in database.clients.values() if c.killed_at is not None
    )
    assert falls == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4]


def test_spreading_never_runs_into_the_deadline() -> None:
    """A spread longer than the invocation is shortened: a kill late is better than a kill left
    out.
    """
    database = FakeDatabase()
    database.sleeping(10)
    report = sweep(database, seconds=10, rules={"spread_seconds": 60}).run()
    assert (report.error, report.freed) == (None, 10)


def test_a_seat_is_kept_for_the_next_sweep() -> None:
    """With a seat one login serves two sweeps; one on which something went wrong is left."""
    database = FakeDatabase()
    seat = Seat(TARGET.target, database)
    database.sleeping(2)
    assert sweep(database, seat=seat).run().entry is Entry.LOGIN
    database.sleeping(2)
    report = sweep(database, seat=seat).run()
    assert (report.entry, report.freed, database.closed) == (Entry.SEAT, 2, 0)
    database.blind = True
    assert sweep(database, seat=seat).run().error is not None
    assert database.closed == 0


def test_a_seat_that_could_not_be_prepared_is_left() -> None:
    """A login after which the idle limit cannot be set leaves no connection behind, and none that
    is used later.
    """
    database = FakeDatabase(refuses_limit=OSError("lost"))
    seat = Seat(TARGET.target, database)
    assert sweep(database, seat=seat).run().error is not None
    assert (seat.connection, database.closed) == (None, 1)


def test_a_third_look_confirms_by_the_first() -> None:
    """Under pressure the look after the strike needs no pause: those asleep since the first look
    are known by then.

    Who fell asleep between the looks is not, however large its Time.
    """
    database = FakeDatabase(max_connections=100)
    asleep = database.sleeping(80, idle=None, at_most=100.0)
    busy = database.sleeping(10, idle=0.0)
    doze, naps = database.time.sleep, []

    def sleep(seconds: float) -> None:
        doze(seconds)
        naps.append(seconds)
        # a statement that took long has ended
        for client in busy if naps == [2.0] else ():
            client.statements, client.idle, client.at_most = client.statements + 1, None, 5000.0

    def wake(done: int, of: int) -> None:
        for client in asleep[20:22] if done == 8 else ():
            client.statements, client.idle, client.at_most = client.statements + 1, 0.0, None

    report = sweep(database, doze=sleep, observers=Observers(on_progress=wake)).run()
    assert report.outcomes == {Outcome.TERMINATED: 30, Outcome.CHANGED: 2}
    assert [nap for nap in naps if nap] == [2.0]
    assert all(client.alive() for client in busy)


def test_what_holds_the_slots_is_what_was_seen_last() -> None:
    """Where newcomers took the slots that came free, the report names them and not those that have
    gone.
    """
    database = FakeDatabase(max_connections=20)
    database.sleeping(16, rolls_back=0.3)
    database.sleeping(2, idle=0.0)

    def come(done: int, of: int) -> None:
        if len(database.clients) == 18:
            database.sleeping(16, idle=0.0)

    report = sweep(database, observers=Observers(on_progress=come)).run()
    assert report.freed == 16
    assert report.pressure_remains
    assert report.holding == {Reason.NOT_IDLE_LONG_ENOUGH: 18}
