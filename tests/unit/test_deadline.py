"""The one deadline, on a clock that the test moves."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from lab.context import Context
from reaper.client.deadline import Deadline, DeadlineExceeded


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("passed", "left"), [(0.0, 10.0), (9.5, 0.5), (10.0, 0.0), (99.0, 0.0)])
def test_remaining(passed: float, left: float) -> None:
    """Seconds left, never negative: a timeout of -1 means for ever to some drivers."""
    clock = Clock()
    deadline = Deadline.after(10.0, clock)
    clock.now += passed
    assert deadline.remaining() == left


@pytest.mark.parametrize(
    ("seconds", "affords"), [(9.999, True), (10.0, False), (10.1, False), (0.0, True)]
)
def test_affords(seconds: float, affords: bool) -> None:
    """A wait must end before the deadline, not with it."""
    assert Deadline.after(10.0, Clock()).affords(seconds) is affords


def test_a_passed_deadline_affords_nothing() -> None:
    """Not even a wait of no time."""
    assert Deadline.after(-1.0, Clock()).affords(0.0) is False


def test_from_context() -> None:
    """Lambda's remaining time less the reserve that pays for report and metrics."""
    assert Deadline.from_context(Context(30), clock=Clock()).remaining() == 28.0
    assert Deadline.from_context(Context(30), reserve=5.0, clock=Clock()).remaining() == 25.0
    assert Deadline.from_context(Context(1), clock=Clock()).remaining() == 0.0


@pytest.mark.parametrize(("seconds", "left"), [(3.0, 3.0), (10.0, 10.0), (50.0, 10.0)])
def test_sooner(seconds: float, left: float) -> None:
    """A share of the time never extends it."""
    assert Deadline.after(10.0, Clock()).sooner(seconds).remaining() == left


def test_sooner_counts_from_now() -> None:
    """A share taken late is measured from then, and ends with the whole."""
    clock = Clock()
    deadline = Deadline.after(10.0, clock)
    clock.now += 8.0
    assert deadline.sooner(1.0).remaining() == 1.0
    assert deadline.sooner(5.0).remaining() == 2.0


def test_less() -> None:
    """What must still follow is kept back; the original is not touched."""
    deadline = Deadline.after(10.0, Clock())
    assert (
        deadline.less(4.0).remaining(),
        deadline.less(40.0).remaining(),
        deadline.remaining(),
    ) == (6.0, 0.0, 10.0)


def test_check() -> None:
    """Raises once nothing is left, a TimeoutError that says what was about to be done."""
    clock = Clock()
    deadline = Deadline.after(10.0, clock)
    clock.now += 9.999
    deadline.check("to connect")
    clock.now = 110.0
    with pytest.raises(DeadlineExceeded, match=r"^no time left to connect$") as caught:
        deadline.check("to connect")
    assert isinstance(caught.value, TimeoutError)
