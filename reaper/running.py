"""Runs a plan's jobs side by side, each with its share of the time and with what this environment
keeps for its target.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from typing import TypeVar

from reaper.client.drivers import driver_for
from reaper.client.events import GivenUp
from reaper.client.target import Target
from reaper.invocation import Invocation
from reaper.request.events import Trigger
from reaper.request.plan import Job
from reaper.seat import Seat
from reaper.settings import StackSettings
from reaper.sweep import IdleHistory, Sweep

# Sweeps at a time; each waits for its server most of the time.
SIDE_BY_SIDE = 16

# A lock holder that is idle this much longer than an invocation can last, in seconds, must be in a
# frozen environment.
_SLACK = 5.0

_Answer = TypeVar("_Answer")

# What this environment keeps between invocations: for each target by its name which sessions were
# idle in its previous sweep (needed for MySQL without performance_schema alone), and for each
# target the reaper's own connection.
IDLE_HISTORIES: dict[str, IdleHistory] = {}
SEATS: dict[Target, Seat] = {}


def run_side_by_side(
    do: Callable[[Sweep], _Answer],
    jobs: Sequence[Job],
    stack: StackSettings,
    invocation: Invocation,
) -> list[_Answer]:
    """What `do` makes of each job's sweep, in the order of the jobs.

    What `do` raises is raised once all are done.
    """
    seats = _seats(jobs, stack)
    if not jobs:
        return []
    chains = _by_target(jobs)
    share = invocation.deadline.remaining() / ceil(len(chains) / SIDE_BY_SIDE)
    answers: dict[int, _Answer] = {}

    def run_in_turn(places: Sequence[int]) -> None:
        for place in places:
            answers[place] = do(_prepared(jobs[place], seats[place], invocation, share))

    with ThreadPoolExecutor(min(len(chains), SIDE_BY_SIDE)) as pool:
        # Read to its end, the iterator raises what a chain has raised.
        list(pool.map(run_in_turn, chains))
    return [answers[place] for place in range(len(jobs))]


def _by_target(jobs: Sequence[Job]) -> list[list[int]]:
    """The positions of the jobs, grouped by target. Two messages may ask for the same one; side by
    side, the second sweep would find the server locked by the first.
    """
    chains: dict[str, list[int]] = {}
    for place, job in enumerate(jobs):
        chains.setdefault(job.target.name, []).append(place)
    return [*chains.values()]


def _seats(jobs: Sequence[Job], stack: StackSettings) -> list[Seat | None]:
    """Each job's seat, the connection kept for its target. None for a second job on the same target
    and for a target that is not listed.

    Seats of targets that are no longer listed are closed.
    """
    if not any(job.is_listed for job in jobs):
        return [None] * len(jobs)
    wanted = {target.target for target in stack.targets} if stack.keep_seat else set()
    for target in SEATS.keys() - wanted:
        SEATS.pop(target).discard(GivenUp.NOT_WANTED)
    seats: list[Seat | None] = []
    for job in jobs:
        target = job.target.target
        seat = (
            SEATS.setdefault(target, Seat(target, driver_for(target.engine)))
            if target in wanted
            else None
        )
        # It can serve one job at a time.
        wanted.discard(target)
        seats.append(seat)
    return seats


def _prepared(job: Job, seat: Seat | None, invocation: Invocation, share: float) -> Sweep:
    """The sweep of a job, with what the environment keeps for its target."""
    is_queued = job.message_id is not None
    return Sweep(
        target=job.target,
        rules=job.rules,
        trigger=job.trigger,
        deadline=invocation.deadline.sooner(share),
        # The next message for the same target will find another environment, which has seen nobody.
        two_looks=job.trigger is Trigger.MANUAL or is_queued,
        history=IdleHistory()
        if is_queued
        else IDLE_HISTORIES.setdefault(job.target.name, IdleHistory()),
        seat=seat,
        frozen_after=invocation.lasts + _SLACK,
        invoked=invocation.began,
        notices=job.notices,
    )
