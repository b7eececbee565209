"""The oracle: whom a sweep may have ended and whom it must have, by what the clients say of
themselves. Pure.

It knows nothing of process lists. A client knows when it sent a statement and when it had the
answer, so the moment from which it was idle lies between the two; the sweep's moment lies between
its beginning and its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import inf

from reaper.rules import InTransaction, Rules

# Seconds by which two clocks of one machine may disagree
ROUNDING = 0.02
# Seconds a busy server may take to note that a statement has ended
UNHURRIED = 0.3
# The reaper's own account, the provider's, a superuser
UNTOUCHABLE = ("reaper", "rdsadmin", "boss")


@dataclass(frozen=True)
class Sight:
    """What a server shows of its sessions. What it does not show cannot protect."""

    applications: bool = True
    locks: bool = True
    listeners: bool = True
    # a transaction that has not done anything yet
    bare_begin: bool = True
    # Seconds for which a session is left alone because a transaction may not show yet
    lag: float = 0.0
    # Idle time from a statement's beginning, in whole seconds
    whole_seconds: bool = False


@dataclass(frozen=True)
class Posture:
    """How a session stands after a statement, until it sends the next.

    Seconds on the clients' clock.

    The statement ended between `earliest` and `latest`, which is infinite as long as it has not
    been answered.
    """

    sent: float
    earliest: float
    latest: float = inf
    until: float = inf
    in_transaction: bool = False
    # The transaction has done nothing yet
    is_bare: bool = False
    is_locking: bool = False
    is_listening: bool = False


@dataclass(frozen=True)
class Client:
    """A session by its own account."""

    user: str
    application: str
    postures: Sequence[Posture]

    def within(self, began: float, ended: float) -> list[Posture]:
        """How it stood at some moment of that time."""
        return [p for p in self.postures if p.sent <= ended and p.until >= began]


@dataclass(frozen=True)
class Swept:
    """A sweep as it was ordered, and when.

    `confirmed` matters where idle time shows in whole seconds only: who fell asleep later was not
    seen asleep twice.
    """

    rules: Rules
    began: float
    ended: float
    confirmed: float = inf


def may_go(
    client: Client,
    others: Iterable[Client],
    swept: Swept,
    struck: tuple[float, float],
    sight: Sight,
) -> bool:
    """Whether the rules let it be ended, if that happened between the two moments of `struck`."""
    rules = swept.rules
    if rules.dry_run or not rules.max_kills or _is_excluded(client, rules, sight):
        return False
    return any(
        _may_be_condemned(posture, swept, min(struck[1], posture.until), sight)
        and _may_be_surplus(posture, client.user, others, swept, sight)
        for posture in client.within(*struck)
    )


def must_go(client: Client, others: Sequence[Client], swept: Swept, sight: Sight) -> bool:
    """Whether the rules leave no choice: it slept all the time, long enough, and nothing speaks for
    it.
    """
    rules = swept.rules
    if rules.dry_run or sight.whole_seconds or _is_excluded(client, rules, sight):
        return False
    postures = _in(client, swept)
    return (
        len(postures) == 1
        and _must_be_condemned(postures[0], swept, sight)
        and _must_be_surplus(postures[0], client.user, others, swept, sight)
        and sum(_might_be_taken(other, swept, sight) for other in others) < rules.max_kills
    )


def _is_excluded(client: Client, rules: Rules, sight: Sight) -> bool:
    """Whether the rules leave it out for who it is; where that does not show, for who it may be."""
    if client.user in UNTOUCHABLE:
        return True
    if not sight.applications and (rules.protect_applications or rules.allow_applications):
        return True
    named = (
        (client.user, rules.protect_users, rules.allow_users),
        (client.application, rules.protect_applications, rules.allow_applications),
    )
    return any(
        _fits(name, protect) or (allow and not _fits(name, allow)) for name, protect, allow in named
    )


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _threshold(rules: Rules, in_transaction: bool) -> float:
    """The idle seconds from which a session is condemned, infinite where none suffice."""
    is_pressed = rules.trigger_utilization == 0
    if rules.only_under_pressure and not is_pressed:
        return inf
    if in_transaction:
        return (
            rules.in_transaction_seconds if rules.in_transaction is InTransaction.TERMINATE else inf
        )
    # A target of all slots is reached before anybody is taken for the pressure alone.
    takes_for_pressure = is_pressed and rules.target_utilization == 0
    return (
        min(rules.idle_seconds, rules.pressure_idle_seconds)
        if takes_for_pressure
        else rules.idle_seconds
    )


def _shows_transaction(posture: Posture, sight: Sight) -> bool:
    return posture.in_transaction and (sight.bare_begin or not posture.is_bare)


def _may_be_condemned(posture: Posture, swept: Swept, at: float, sight: Sight) -> bool:
    if (posture.is_listening and sight.listeners) or (posture.is_locking and sight.locks):
        return False
    longest, forgiven = at - posture.earliest, ROUNDING
    if sight.whole_seconds:
        longest, forgiven = at - posture.sent, 1 + ROUNDING
        if posture.earliest > swept.confirmed + forgiven:
            return False
    threshold = _threshold(swept.rules, _shows_transaction(posture, sight))
    return longest >= max(0.0, threshold - forgiven, sight.lag - forgiven)


def _must_be_condemned(posture: Posture, swept: Swept, sight: Sight) -> bool:
    if posture.is_listening or posture.is_locking:
        return False
    threshold = max(_threshold(swept.rules, False), sight.lag)
    if posture.in_transaction:
        # Its age may be told in whole seconds.
        in_transaction = 1 + max(_threshold(swept.rules, True), sight.lag)
        threshold = (
            in_transaction
            if not posture.is_bare or sight.bare_begin
            else max(threshold, in_transaction)
        )
    return swept.began - posture.latest >= threshold + UNHURRIED


def _may_be_surplus(
    posture: Posture, user: str, others: Iterable[Client], swept: Swept, sight: Sight
) -> bool:
    """Whether the user may have had enough idle sessions younger than this one; one in a
    transaction is none.
    """
    if _shows_transaction(posture, sight):
        return True
    younger = [
        other
        for other in others
        if other.user == user
        and any(
            _may_be_idle(p, swept, sight) and p.latest >= posture.earliest
            for p in _in(other, swept)
        )
    ]
    return len(younger) >= swept.rules.min_idle_per_user


def _must_be_surplus(
    posture: Posture, user: str, others: Iterable[Client], swept: Swept, sight: Sight
) -> bool:
    """Whether the user had enough younger sessions all the time."""
    if _shows_transaction(posture, sight):
        return True
    younger = [
        other
        for other in others
        if other.user == user
        and len(_in(other, swept)) == 1
        and _must_be_idle(_in(other, swept)[0], swept)
        and _in(other, swept)[0].earliest > posture.latest
    ]
    return len(younger) >= swept.rules.min_idle_per_user


def _in(client: Client, swept: Swept) -> list[Posture]:
    return client.within(swept.began, swept.ended)


def _may_be_idle(posture: Posture, swept: Swept, sight: Sight) -> bool:
    return posture.earliest <= swept.ended and not _shows_transaction(posture, sight)


def _must_be_idle(posture: Posture, swept: Swept) -> bool:
    return posture.latest <= swept.began and not posture.in_transaction


def _might_be_taken(client: Client, swept: Swept, sight: Sight) -> bool:
    """Whether it may count against max_kills."""
    return not _is_excluded(client, swept.rules, sight) and any(
        _may_be_condemned(p, swept, min(swept.ended, p.until), sight) for p in _in(client, swept)
    )
