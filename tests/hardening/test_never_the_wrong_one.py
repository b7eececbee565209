"""Never the wrong one: whatever clients do while it sweeps, the reaper ends nobody whom the rules
spare.

Hypothesis draws what the clients do and by which rules they are swept. Their sessions are real, and
so is the server; who was ended, and when, is what their own sockets say.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from math import inf
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from lab.servers import Server, until
from reaper.model import Outcome
from reaper.report import Report
from reaper.sweep import SECOND_LOOK, IdleHistory
from tests.conftest import Servers
from tests.hardening.clients import DEEDS, Session
from tests.hardening.oracle import Sight, Swept, may_go, must_go
from tests.harness import sweep

# More than usual, and each time others
RUNS = int(os.environ.get("REAPER_TEST_MODEL_RUNS") or 0)
STEPS = 16

MYSQL = Sight(applications=False, listeners=False, lag=0.2)
SIGHTS = {
    "postgres18": Sight(),
    "mariadb": replace(MYSQL, locks=False, bare_begin=False),
    "mysql": MYSQL,
    "mysql_nops": replace(MYSQL, locks=False, bare_begin=False, whole_seconds=True),
}

THRESHOLDS = st.fixed_dictionaries(
    {
        "idle_seconds": st.sampled_from([0, 0, 0.3, 0.6, 1000]),
        "in_transaction": st.sampled_from(["spare", "terminate"]),
        "in_transaction_seconds": st.sampled_from([0, 0.3]),
        "pressure_idle_seconds": st.sampled_from([0, 0.3]),
    }
)
# None; one that takes all it may; one that is over as soon as it has begun.
PRESSURE = st.sampled_from(
    [
        {"trigger_utilization": 1},
        {"trigger_utilization": 1},
        {"trigger_utilization": 0, "target_utilization": 0},
        {"trigger_utilization": 0, "target_utilization": 1},
    ]
)
REST: list[dict[str, Any]] = [
    *[{}] * 6,
    {"dry_run": True},
    {"only_under_pressure": True},
    {"max_kills": 0},
    {"max_kills": 2},
    {"min_idle_per_user": 1},
    {"min_idle_per_user": 2},
    {"spread_seconds": 2},
    {"spread_seconds": 2, "min_idle_per_user": 1},
    {"protect_users": ["other"]},
    {"protect_users": ["ot*", "ap"]},
    {"allow_users": ["app"]},
    {"allow_users": ["a*", "other"], "protect_users": ["app"]},
    {"protect_applications": ["batch"]},
    {"allow_applications": ["batch"]},
]
# a session, counted round and round
NUMBERS = st.integers(0, 99)
# After a pause a session does these things
Act = tuple[float, int, list[str]]
ACTS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.0, 0.02, 0.3]),
        NUMBERS,
        st.one_of(
            st.lists(st.sampled_from(sorted(DEEDS)), min_size=1, max_size=3),
            st.just(["begin", "write"]),
        ),
    ),
    max_size=5,
)
WHO = st.tuples(
    st.sampled_from(["app", "app", "app", "other", "other", "reaper", "rdsadmin"]),
    st.sampled_from(["lambda", "batch"]),
)


class Model(RuleBasedStateMachine):
    """A server, its clients, and the sweeps."""

    server: Server
    sight: Sight
    tally: Counter[str]

    def __init__(self) -> None:
        super().__init__()
        self.sessions: list[Session] = []
        self.history = IdleHistory()
        self.last_sweep = -inf

    @initialize(whose=st.lists(WHO, min_size=6, max_size=12))
    def begin(self, whose: Sequence[tuple[str, str]]) -> None:
        self.open(whose)

    @rule(whose=st.lists(WHO, min_size=2, max_size=5))
    def open(self, whose: Sequence[tuple[str, str]]) -> None:
        self.sessions += [Session(self.server, *who) for who in whose]

    @rule(number=NUMBERS, abruptly=st.booleans())
    def leave(self, number: int, abruptly: bool) -> None:
        if self.sessions:
            session = self.sessions.pop(number % len(self.sessions))
            session.leave(abruptly)
            self.forgotten([session])

    def forgotten(self, sessions: Sequence[Session]) -> None:
        """Wait until the server has done with sessions whose clients have left."""
        ids = {session.id for session in sessions}
        assert until(lambda: ids.isdisjoint(self.server.states()), timeout=30)

    def act(self, acts: Sequence[Act]) -> None:
        for pause, number, deeds in acts:
            time.sleep(pause)
            for deed in deeds if self.sessions else ():
                self.sessions[number % len(self.sessions)].do(DEEDS[deed])

    @rule(
        before=ACTS,
        pause=st.sampled_from([0.0, 0.1, 0.35, 0.7]),
        thresholds=THRESHOLDS,
        pressure=PRESSURE,
        rest=st.sampled_from(REST),
        meanwhile=ACTS,
    )
    def sweep(
        self,
        before: Sequence[Act],
        pause: float,
        thresholds: dict[str, Any],
        pressure: dict[str, Any],
        rest: dict[str, Any],
        meanwhile: Sequence[Act],
    ) -> None:
        self.act(before)
        time.sleep(pause)
        self.compare_sweep({**thresholds, **pressure, **rest}, meanwhile)

    @rule(
        woken=st.lists(st.tuples(NUMBERS, st.sampled_from(sorted(DEEDS))), min_size=2, max_size=8)
    )
    def sweep_slowly(self, woken: Sequence[tuple[int, str]]) -> None:
        """Spread the kills over seconds, and wake some victims after the look and before their
        turn.
        """
        time.sleep(0.6)
        late: list[Act] = [(0.5, 0, []), *((0.0, number, [deed]) for number, deed in woken)]
        self.compare_sweep(
            {"trigger_utilization": 1, "idle_seconds": 0.6, "spread_seconds": 2}, late
        )

    def compare_sweep(self, rules: Mapping[str, Any], meanwhile: Sequence[Act]) -> None:
        """Sweep while the clients go on with their work, and hold what happened against the
        oracle.
        """
        order = replace(sweep(self.server, trigger="schedule", **rules), history=self.history)
        with ThreadPoolExecutor(1) as pool, self.watched():
            began = time.monotonic()
            sweeping = pool.submit(order.run)
            self.act(meanwhile)
            report = sweeping.result()
            ended = time.monotonic()
        # Seen asleep by the sweep before, or under pressure by this one's first look.
        looked = ended if order.rules.trigger_utilization == 0 else self.last_sweep
        self.compare(
            Swept(order.rules, began, ended, confirmed=min(looked, ended - SECOND_LOOK)), report
        )
        self.last_sweep = ended

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Have somebody look at all sockets, all the time."""
        over = threading.Event()
        sessions = tuple(self.sessions)

        def watch() -> None:
            while not over.wait(0.002):
                for session in sessions:
                    session.watch()

        with ThreadPoolExecutor(1) as pool:
            watching = pool.submit(watch)
            try:
                yield
            finally:
                over.set()
                watching.result()

    def compare(self, swept: Swept, report: Report) -> None:
        assert report.error is None
        taken = {
            victim.session.id
            for victim in report.victims
            if victim.outcome in (Outcome.TERMINATED, Outcome.SIGNALLED)
        }
        until(
            lambda: all(session.watch() for session in self.sessions if session.id in taken),
            timeout=10,
        )
        assert {session.id for session in self.sessions if session.watch()} == taken
        for session in self.sessions:
            others = [other.diary for other in self.sessions if other is not session]
            must = must_go(session.diary, others, swept, self.sight)
            may = (
                may_go(session.diary, others, swept, session.struck, self.sight)
                if session.is_ended
                else not must
            )
            assert may, self.story(session, swept, report)
            self.tally["had to go" if must else "went" if session.is_ended else "stayed"] += 1
        for session in self.sessions:
            if session.is_ended:
                session.leave()
        self.sessions = [session for session in self.sessions if not session.is_ended]

    def story(self, session: Session, swept: Swept, report: Report) -> str:
        """A session's diary, seconds counted from the sweep's beginning."""
        found = [verdict for verdict in report.verdicts if verdict.session.id == session.id]
        diary = session.diary
        lines = [
            f"{'wrongly ended' if session.is_ended else 'should have gone'}: {diary.user} "
            f"{diary.application}",
            f"rules {swept.rules}",
            f"the sweep took {swept.ended - swept.began:.3f} s; the verdict was {found}",
        ]
        if session.is_ended:
            lines.append(
                "ended between {:.3f} and {:.3f}".format(
                    *(at - swept.began for at in session.struck)
                )
            )
        for posture in diary.postures:
            times = {
                at: round(getattr(posture, at) - swept.began, 3)
                for at in ("sent", "earliest", "latest", "until")
            }
            lines.append(str(replace(posture, **times)))
        return "\n".join(lines)

    def teardown(self) -> None:
        for session in self.sessions:
            session.leave()
        self.forgotten(self.sessions)


@pytest.mark.parametrize("name", SIGHTS)
def test_nobody_is_ended_whom_the_rules_spare(
    name: str, servers: Servers, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who was ended the rules condemned at that moment; whom they condemned all the time was ended;
    nobody else.
    """
    found, counts = servers[name], Counter[str]()

    class OnThisServer(Model):
        server, sight, tally = found, SIGHTS[name], counts

    run_state_machine_as_test(
        OnThisServer,
        settings=settings(
            max_examples=RUNS or 2,
            stateful_step_count=STEPS,
            derandomize=not RUNS,
            database=None,
            deadline=None,
            # To shrink would take minutes of real time
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
    with capsys.disabled():
        print(f" {name}: {dict(counts)}")
    assert counts["went"] + counts["had to go"]
    assert counts["stayed"]
    # a short run may have none
    assert counts["had to go"] or SIGHTS[name].whole_seconds or not RUNS
