"""The oracle says what the rules say, and is in doubt only where a client cannot know."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

import pytest

from reaper.rules import Rules
from tests.hardening.oracle import Client, Posture, Sight, Swept, may_go, must_go

NOW = 1000.0
ALL = {"dry_run": False, "trigger_utilization": 1, "idle_seconds": 1.0}
SIGHT = Sight()


def swept(**rules: Any) -> Swept:
    """A sweep of a tenth of a second."""
    return Swept(Rules.from_json({**ALL, **rules}), NOW, NOW + 0.1)


def asleep(seconds: float, **stands: Any) -> Posture:
    """Idle for so long when the sweep began."""
    at = NOW - seconds
    return Posture(sent=at - 0.01, earliest=at - 0.01, latest=at, **stands)


def client(*postures: Posture, user: str = "app") -> Client:
    return Client(user, "lambda", postures)


def ruling(
    posture: Posture, order: Swept, *others: Client, sight: Sight = SIGHT, user: str = "app"
) -> str:
    """must, may or must not."""
    who = client(posture, user=user)
    may = may_go(who, others, order, (order.began, order.ended), sight)
    must = must_go(who, others, order, sight)
    assert may or not must
    return "must" if must else "may" if may else "must not"


OTHER = client(asleep(1.5))
SLEEPS = [
    (asleep(2), {}, "must"),
    # The answer came later than the server went idle, or the sweep looked late
    (asleep(1), {}, "may"),
    (asleep(0.5), {}, "must not"),
    # The answer has not been read
    (replace(asleep(2), latest=inf), {}, "may"),
    # At a statement that takes its time
    (replace(asleep(2), earliest=NOW + 0.2, latest=inf), {}, "must not"),
    (asleep(2), {"dry_run": True}, "must not"),
    (asleep(2), {"max_kills": 0}, "must not"),
    # There is another one to take
    (asleep(2), {"max_kills": 1}, "may"),
    (asleep(2), {"max_kills": 2}, "must"),
    (asleep(2), {"min_idle_per_user": 1}, "must"),
    (asleep(2), {"min_idle_per_user": 2}, "must not"),
    # Which of the two is younger nobody knows
    (asleep(1.5), {"min_idle_per_user": 1}, "may"),
    (asleep(2), {"only_under_pressure": True}, "must not"),
    (
        asleep(2),
        {"only_under_pressure": True, "trigger_utilization": 0, "target_utilization": 0},
        "must",
    ),
    (asleep(2), {"idle_seconds": 9}, "must not"),
    (
        asleep(2),
        {"idle_seconds": 9, "pressure_idle_seconds": 1, "trigger_utilization": 0},
        "must not",
    ),
    (
        asleep(2),
        {
            "idle_seconds": 9,
            "pressure_idle_seconds": 1,
            "trigger_utilization": 0,
            "target_utilization": 0,
        },
        "must",
    ),
    (asleep(2), {"protect_users": ["a*"]}, "must not"),
    (asleep(2), {"protect_users": ["a", "ap"]}, "must"),
    (asleep(2), {"allow_users": ["other"]}, "must not"),
    (asleep(2), {"protect_applications": ["lambda"]}, "must not"),
    (asleep(2, is_locking=True), {}, "must not"),
    (asleep(2, is_listening=True), {}, "must not"),
    (asleep(5, in_transaction=True), {}, "must not"),
    (asleep(5, in_transaction=True), {"in_transaction": "terminate"}, "must not"),
    (
        asleep(5, in_transaction=True),
        {"in_transaction": "terminate", "in_transaction_seconds": 1},
        "must",
    ),
]


@pytest.mark.parametrize(("posture", "rules", "expected"), SLEEPS)
def test_what_the_rules_say(posture: Posture, rules: dict[str, Any], expected: str) -> None:
    """Each rule, with another session of the same user beside."""
    assert ruling(posture, swept(**rules), OTHER) == expected


@pytest.mark.parametrize("user", ["reaper", "rdsadmin", "boss"])
def test_some_accounts_are_never_taken(user: str) -> None:
    """The reaper's own, the provider's, a superuser's."""
    assert ruling(asleep(99), swept(), user=user) == "must not"


def test_what_does_not_show_cannot_protect() -> None:
    """A lock, a bare BEGIN that the server does not show; an application that it does not show
    protects everybody.
    """
    blind = Sight(applications=False, locks=False, bare_begin=False)
    assert ruling(asleep(2, is_locking=True), swept(), sight=blind) == "may"
    assert ruling(asleep(2, in_transaction=True, is_bare=True), swept(), sight=blind) == "may"
    assert ruling(asleep(2), swept(protect_applications=["batch"]), sight=blind) == "must not"
    assert ruling(asleep(0.1), swept(idle_seconds=0), sight=Sight(lag=0.3)) == "must not"


def test_who_woke_before_its_turn_is_spared() -> None:
    """What counts is how it stood when it was struck, not when the sweep began."""
    order = Swept(Rules.from_json(ALL), NOW, NOW + 2)
    awake = NOW + 0.5
    who = client(replace(asleep(2), until=awake), Posture(awake, awake, awake + 0.01))
    assert may_go(who, [], order, (NOW + 0.1, NOW + 0.4), SIGHT)
    assert not may_go(who, [], order, (NOW + 0.9, NOW + 1.2), SIGHT)
    assert not must_go(who, [], order, SIGHT)


def test_whole_seconds_are_forgiven_and_must_be_confirmed() -> None:
    """Where idle time counts from a statement's beginning: a second's grace, but nobody who was not
    seen asleep.
    """
    coarse = Sight(whole_seconds=True)
    order = replace(swept(), confirmed=NOW - 2)
    assert ruling(asleep(0.5), order, sight=coarse) == "must not"
    assert ruling(asleep(1.5), order, sight=coarse) == "may"
    assert ruling(asleep(9), order, sight=coarse) == "may"
