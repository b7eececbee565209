"""What somebody set up wrongly is said by its name, before anything is done with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from reaper.client import Database
from reaper.client.commits import CommitOutcome, XactStatusProbe
from reaper.client.events import Stats
from reaper.client.fields import ConfigurationError
from reaper.discovery import Discovery
from reaper.engines.snapshot_file import RawSnapshot
from reaper.settings import StackSettings


@pytest.mark.parametrize(
    ("set_up", "said"),
    [
        (
            lambda: StackSettings.from_environ({"REAPER_MANUAL_KILL": "yes"}),
            "REAPER_MANUAL_KILL is 'yes'; say true or fal",
        ),
        (
            lambda: StackSettings.from_environ({"REAPER_KEEP_SEAT": "0"}),
            "REAPER_KEEP_SEAT is '0'; say true or false",
        ),
        (lambda: Database.from_env({}), "DATABASE_URL is not set; write mysql://"),
        (
            lambda: Discovery.from_json('{"tag": "reaper:user=a"}', "D"),
            "'reaper:user=a'; what begins with reaper: is",
        ),
        (lambda: RawSnapshot.from_file({"engine": "mysql"}), "snapshot: rows is missing"),
    ],
)
def test_what_is_wrong_is_named(set_up: Callable[[], object], said: str) -> None:
    """A switch that is neither on nor off is never taken for one of them, nor is what is missing
    made up.
    """
    with pytest.raises(ConfigurationError) as caught:
        set_up()
    assert said in str(caught.value)


def test_a_transaction_that_wrote_nothing_is_run_again() -> None:
    """PostgreSQL gives a number to what writes; without one there is nothing to ask for, and twice
    is harmless.
    """
    nobody: Any = None
    probe = XactStatusProbe(id=None, system="1", timeline=1)
    assert probe.outcome(nobody) is CommitOutcome.ABORTED


def test_there_is_no_count_of_what_is_no_event() -> None:
    """A word that was misspelled is an error, and no event that never happened."""
    assert Stats().retried == 0
    with pytest.raises(AttributeError, match="retryed"):
        Stats().retryed  # noqa: B018  asked for, that is all
