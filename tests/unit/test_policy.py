"""The policy's every rule and every built-in protection, at their boundaries."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from lab.samples import judged, reason, reasons, server, sleeper, victims
from reaper.client.target import EngineName
from reaper.model import Action, Holding, Mode, Reason, Session, State
from reaper.policy import (
    PROVIDER_ACCOUNTS,
    Scope,
    find_pressure,
    judge,
    matches_host,
    matches_name,
    pressure_remains,
)
from reaper.rules import Rules

IN_TRANSACTION = State.IDLE_IN_TRANSACTION

# Rules that would terminate everybody, could rules switch a protection off.
RECKLESS: dict[str, Any] = {
    "idle_seconds": 0,
    "pressure_idle_seconds": 0,
    "trigger_utilization": 0,
    "target_utilization": 0,
    "max_kills": 10**9,
    "in_transaction": "terminate",
    "in_transaction_seconds": 0,
    "max_rollback_rows": 10**9,
    "allow_users": ["*"],
    "allow_databases": ["*"],
    "allow_hosts": ["*"],
}


@pytest.mark.parametrize(
    ("session", "why"),
    [
        # The reaper's own connection, whatever it is called
        (sleeper(7), "own_account"),
        (sleeper(user="reaper"), "own_account"),
        *((sleeper(user=name), "provider_account") for name in sorted(PROVIDER_ACCOUNTS)),
        (sleeper(user="postgres"), "superuser"),
        (sleeper(state=State.REPLICATION), "replication"),
        (sleeper(user="rdsrepladmin", state=State.REPLICATION), "replication"),
        (sleeper(user="system user", state=State.BACKGROUND), "background"),
        (sleeper(user="unauthenticated user", state=State.HANDSHAKE), "handshake"),
        (sleeper(user="rdsadmin", state=State.ACTIVE), "provider_account"),
        (sleeper(state=State.BACKGROUND), "background"),
        (sleeper(state=State.HANDSHAKE), "handshake"),
        (sleeper(state=State.UNSEEN), "unseen"),
        (sleeper(state=State.UNKNOWN), "unknown"),
        (sleeper(state=State.ACTIVE), "active"),
        (sleeper(user=None), "unknown"),
        (sleeper(idle=None), "unknown"),
        (sleeper(state=IN_TRANSACTION, transaction_seconds=None), "unknown"),
        (sleeper(holds=frozenset({Holding.LOCK})), "holds_lock"),
        (sleeper(holds=frozenset({Holding.LISTEN})), "listening"),
        (sleeper(holds=frozenset({Holding.BACKUP})), "backup"),
        (
            sleeper(state=IN_TRANSACTION, transaction_seconds=9e5, holds=frozenset({Holding.LOCK})),
            "holds_lock",
        ),
    ],
)
def test_no_rule_reaches_a_built_in_protection(session: Session, why: str) -> None:
    """Built-in protections stand against rules that allow, press and cap nothing, and name the
    account.
    """
    snapshot = server(
        session, own_id=7, own_users=frozenset({"reaper"}), superusers=frozenset({"postgres"})
    )
    named = [session.user] if session.user else ["*"]
    assert reasons(snapshot, **RECKLESS | {"allow_users": named}) == {session.id: why}
    assert victims(snapshot, **RECKLESS) == []


def test_the_reckless_rules_do_terminate_an_unprotected_session() -> None:
    """The table above would prove nothing if its rules terminated nobody."""
    assert reason(sleeper(), **RECKLESS) == "idle"


def test_the_provider_accounts_are_those_that_are_known() -> None:
    """Who is missing from the list is terminated; the table above reads the list itself, so it is
    written again.
    """
    of_rds = {
        "rdsadmin",
        "rdsrepladmin",
        "rdsrepladmin_priv_checks_user",
        "rdsgrprepladmin",
        "rdsproxyadmin",
    }
    of_the_server = {"system user", "event_scheduler", "unauthenticated user"}
    locked = {"mysql.sys", "mysql.session", "mysql.infoschema", "mariadb.sys"}
    assert (
        of_rds | {"rdstopmgr", "rdswriteforwarduser"} | of_the_server | locked == PROVIDER_ACCOUNTS
    )


@pytest.mark.parametrize(
    "name", ["admin", "root", "rdsadmin2", "my_rdsadmin", "RDSADMIN", "event_scheduler_app"]
)
def test_provider_accounts_are_exact_names(name: str) -> None:
    """`admin` and `root` belong to the customer, and a similar name is not a provider's."""
    assert reason(sleeper(user=name)) == "idle"


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        ({}, "idle"),
        ({"protect_users": ["billing"]}, "unknown"),
        ({"allow_users": ["app"]}, "not_allowed"),
        ({"allow_users": ["*"]}, "not_allowed"),
        ({"protect_databases": ["*"]}, "protected"),
    ],
)
def test_the_session_of_a_dropped_role(rules: dict[str, Any], why: str) -> None:
    """PostgreSQL shows no user for it: it goes where no rule asks for users, and nowhere else."""
    session = sleeper(user=None)
    snapshot = replace(server(session), engine=EngineName.POSTGRES)
    assert reasons(snapshot, **rules) == {session.id: why}


def test_an_id_that_appears_twice_is_spared() -> None:
    """Two rows of one id contradict each other, so neither is believed."""
    snapshot = server(sleeper(1), sleeper(1, 5000.0, user=None), sleeper(2))
    assert [(v.session.id, v.reason) for v in judged(snapshot, **RECKLESS).verdicts] == [
        (2, Reason.IDLE),
        (1, Reason.UNKNOWN),
        (1, Reason.UNKNOWN),
    ]


@pytest.mark.parametrize(
    ("idle", "why"),
    [
        (900.0, "idle"),
        (899.999, "not_idle_long_enough"),
        (0.0, "not_idle_long_enough"),
        (9e8, "idle"),
    ],
)
def test_idle_seconds(idle: float, why: str) -> None:
    """Idle at least idle_seconds is a zombie; the boundary belongs to the zombies."""
    assert reason(sleeper(idle=idle)) == why


def test_idle_seconds_is_configurable() -> None:
    """The threshold is the rule's, not the default's."""
    assert reasons(server(sleeper(1, 120.0), sleeper(2, 119.9)), idle_seconds=120) == {
        1: "idle",
        2: "not_idle_long_enough",
    }
    # Nothing is no unknown
    assert reason(sleeper(idle=0.0), idle_seconds=0.5) == "not_idle_long_enough"


@pytest.mark.parametrize(
    ("at_most", "state", "why"),
    [
        (899.9, State.IDLE, "not_idle_long_enough"),
        (900.0, State.IDLE, "unconfirmed"),
        (3599.0, IN_TRANSACTION, "not_idle_long_enough"),
        (3600.0, IN_TRANSACTION, "unconfirmed"),
    ],
)
def test_an_upper_bound_condemns_nobody(at_most: float, state: State, why: str) -> None:
    """A sleep of which only an upper bound is known is spared until a second look confirms it."""
    session = sleeper(idle=None, idle_at_most=at_most, state=state, transaction_seconds=9000.0)
    assert reason(session, in_transaction="terminate") == why


@pytest.mark.parametrize(
    ("idle", "state", "why"),
    [
        (1.9, State.IDLE, "not_idle_long_enough"),
        (2.0, State.IDLE, "idle"),
        (1.9, IN_TRANSACTION, "not_idle_long_enough"),
        (2.0, IN_TRANSACTION, "idle_in_transaction"),
    ],
)
def test_what_may_not_show_yet_is_spared(idle: float, state: State, why: str) -> None:
    """Whatever the rules say, nobody goes whose last statement the server's own lists may not show
    yet.
    """
    snapshot = server(sleeper(idle=idle, state=state, transaction_seconds=100.0), lag_seconds=2.0)
    assert reasons(snapshot, **RECKLESS) == {1: why}


def test_an_upper_bound_condemns_nobody_under_pressure() -> None:
    """Pressure lowers the threshold, not the standard of proof."""
    snapshot = server(sleeper(idle=None, idle_at_most=60.0), used=95, max_connections=100)
    assert reasons(snapshot) == {1: "unconfirmed"}


# Pressure


@pytest.mark.parametrize(
    ("used", "facts", "rules", "mode"),
    [
        # Exactly at the trigger
        (80, {}, {}, Mode.PRESSURE),
        (79, {}, {}, Mode.ROUTINE),
        # 0.07 * 100 is 7.000000000000001 in binary
        (7, {}, {"trigger_utilization": 0.07}, Mode.PRESSURE),
        (50, {}, {"trigger_utilization": 0.5}, Mode.PRESSURE),
        # 72 of the 90 that an ordinary client can use
        (72, {"reserved": 10}, {}, Mode.PRESSURE),
        (71, {"reserved": 10}, {}, Mode.ROUTINE),
        # No maximum was read, so nothing can be said
        (99, {"max_connections": None}, {}, Mode.ROUTINE),
        (99, {"used": None}, {}, Mode.ROUTINE),
        (1, {"max_connections": 1}, {}, Mode.PRESSURE),
        # An empty server is under no pressure
        (0, {}, {"trigger_utilization": 0}, Mode.ROUTINE),
    ],
)
def test_trigger_utilization(
    used: int, facts: dict[str, Any], rules: dict[str, Any], mode: Mode
) -> None:
    """Used of usable at or above the trigger is pressure."""
    assert (
        judged(server(sleeper(), **{"used": used, "max_connections": 100} | facts), **rules).mode
        is mode
    )


def test_pressure_once_found_lasts_until_the_target() -> None:
    """What an earlier look found pressed is pressed down to the target; whatever was not has to
    reach the trigger.
    """
    snapshot = server(sleeper(), used=70, max_connections=100)
    assert find_pressure(snapshot, Rules()) == {}
    assert find_pressure(snapshot, Rules(), [Scope("server")]) == {
        Scope("server"): pytest.approx(10.0)
    }
    assert find_pressure(snapshot, Rules(), [Scope("user", "app")]) == {}
    assert judge(snapshot, Rules(), [Scope("server")]).mode is Mode.PRESSURE


@pytest.mark.parametrize(
    ("used", "freed", "remains"),
    [(95, 15, True), (95, 16, False), (80, 0, True), (79, 0, False), (None, 0, False)],
)
def test_pressure_remains_until_enough_are_gone(
    used: int | None, freed: int, remains: bool
) -> None:
    """Those who gave up their slots are taken from the count; where none was read there is none to
    take from.
    """
    snapshot = server(*(sleeper(id_) for id_ in range(95)), used=used, max_connections=100)
    assert pressure_remains(snapshot, Rules(), range(freed)) is remains


def test_pressure_remains_at_a_limit_of_its_own() -> None:
    """A user's slots come free by that user's sessions only."""
    api = [sleeper(id_, user="api") for id_ in range(10)]
    snapshot = server(*api, *(sleeper(id_) for id_ in range(100, 110)), user_limits={"api": 10})
    assert pressure_remains(snapshot, Rules(), range(100, 110))
    assert not pressure_remains(snapshot, Rules(), range(3))


def test_pressure_goes_down_to_the_target_longest_idle_first() -> None:
    """95 of 100 used, none over idle_seconds, target 0.6: exactly the 35 longest idle go, and the
    mode says so.
    """
    sessions = [sleeper(id_, 100.0 + id_) for id_ in range(1, 96)]
    judgement = judged(server(*sessions, max_connections=100))
    assert judgement.mode is Mode.PRESSURE
    assert [v.session.id for v in judgement.victims] == list(range(95, 60, -1))
    assert Counter(v.reason for v in judgement.verdicts) == {
        Reason.PRESSURE: 35,
        Reason.TARGET_REACHED: 60,
    }


@pytest.mark.parametrize(
    ("usable", "used", "target", "kills"),
    [
        (100, 95, 0.6, 35),
        (95, 95, 0.6, 38),
        (10, 10, 0.65, 4),
        (100, 80, 0.8, 0),
        (100, 95, 1.0, 0),
        (10, 8, 0.0, 8),
    ],
)
def test_target_utilization(usable: int, used: int, target: float, kills: int) -> None:
    """As many go as bring utilization to the target or below it, and not one more."""
    snapshot = server(*(sleeper(id_, 100.0) for id_ in range(used)), max_connections=usable)
    assert len(victims(snapshot, target_utilization=target)) == kills


@pytest.mark.parametrize(("idle", "why"), [(60.0, "pressure"), (59.999, "not_idle_long_enough")])
def test_pressure_idle_seconds(idle: float, why: str) -> None:
    """Under pressure the threshold is pressure_idle_seconds, boundary included."""
    assert reasons(server(sleeper(idle=idle), used=95, max_connections=100)) == {1: why}


@pytest.mark.parametrize(
    ("zombies", "expected"),
    [
        (20, {"idle": 20, "pressure": 15, "target_reached": 60}),
        (50, {"idle": 50, "target_reached": 45}),
    ],
)
def test_routine_victims_count_towards_the_target(zombies: int, expected: dict[str, int]) -> None:
    """Under pressure all that a routine sweep would take goes, even beyond the target; they pay for
    the rest.
    """
    sessions = [sleeper(id_, 1000.0 if id_ < zombies else 100.0) for id_ in range(95)]
    assert Counter(reasons(server(*sessions, max_connections=100)).values()) == expected


def test_in_transaction_victims_count_towards_the_target() -> None:
    """A slot is a slot: those terminated in a transaction pay for the target as well."""
    sessions = [
        sleeper(id_, 4000.0, state=IN_TRANSACTION, transaction_seconds=4000.0)
        if id_ < 10
        else sleeper(id_, 100.0)
        for id_ in range(95)
    ]
    found = reasons(server(*sessions, max_connections=100), in_transaction="terminate")
    assert Counter(found.values()) == {
        "idle_in_transaction": 10,
        "pressure": 25,
        "target_reached": 60,
    }


def test_routine_victims_go_first_however_long_they_slept() -> None:
    """They go in any case, so they pay before a session does that only pressure condemns, and has
    slept longer.
    """
    rolled_back = sleeper(9, 50.0, state=IN_TRANSACTION, transaction_seconds=50.0)
    snapshot = server(rolled_back, *(sleeper(id_, 100.0) for id_ in range(7)), max_connections=10)
    assert victims(snapshot, in_transaction="terminate", in_transaction_seconds=10) == [9, 0]


@pytest.mark.parametrize(
    ("limits", "mine", "others"),
    [
        ({"user_limits": {"api": 10}}, {"user": "api"}, {"user": "batch"}),
        ({"database_limits": {"shop": 10}}, {"database": "shop"}, {"database": "books"}),
    ],
)
@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (7, {"not_idle_long_enough": 7}),
        (8, {"pressure": 2, "target_reached": 6}),
        (10, {"pressure": 4, "target_reached": 6}),
    ],
)
def test_a_limit_of_its_own_is_pressure_for_its_sessions_only(
    limits: dict[str, Any],
    mine: dict[str, Any],
    others: dict[str, Any],
    count: int,
    expected: dict[str, int],
) -> None:
    """A user or a database at its own limit presses its own sessions; the neighbours, idler still,
    stay.
    """
    sessions = [sleeper(id_, 100.0, **mine) for id_ in range(count)]
    sessions += [sleeper(id_, 800.0, **others) for id_ in range(100, 120)]
    found = reasons(server(*sessions, **limits))
    assert Counter(found[id_] for id_ in range(count)) == expected
    assert {found[id_] for id_ in range(100, 120)} == {"not_idle_long_enough"}


def test_a_user_limit_outlasts_the_servers_pressure() -> None:
    """Where the server has its target but a user has not, only that user's sessions go on going."""
    api = [sleeper(id_, 100.0, user="api") for id_ in range(10)]
    batch = [sleeper(id_, 200.0, user="batch") for id_ in range(100, 170)]
    found = victims(server(*api, *batch, max_connections=100, user_limits={"api": 10}))
    assert found == [*range(100, 120), *range(4)]


def test_superusers_pass_their_own_limit() -> None:
    """A limit that PostgreSQL does not apply to superusers is no pressure."""
    sessions = [sleeper(id_, 100.0, user="postgres") for id_ in range(10)]
    facts: dict[str, Any] = {"user_limits": {"postgres": 10}, "superusers": frozenset({"postgres"})}
    assert judged(server(*sessions, **facts)).mode is Mode.ROUTINE


def test_background_and_replication_take_no_slot_of_a_user() -> None:
    """Only client sessions count towards a user's limit."""
    sessions = [sleeper(id_, 100.0, state=State.REPLICATION) for id_ in range(10)]
    assert (
        judged(server(sleeper(99, 100.0), *sessions, user_limits={"app": 10})).mode is Mode.ROUTINE
    )


@pytest.mark.parametrize(
    ("used", "session", "why"),
    [
        (10, sleeper(), "no_pressure"),
        (10, sleeper(idle=100.0), "not_idle_long_enough"),
        (95, sleeper(), "idle"),
        (95, sleeper(idle=100.0), "pressure"),
        (10, sleeper(idle=4000.0, state=IN_TRANSACTION, transaction_seconds=4000.0), "no_pressure"),
        (
            95,
            sleeper(idle=4000.0, state=IN_TRANSACTION, transaction_seconds=4000.0),
            "idle_in_transaction",
        ),
    ],
)
def test_only_under_pressure(used: int, session: Session, why: str) -> None:
    """With only_under_pressure everybody is left alone until there is pressure."""
    snapshot = server(session, used=used, max_connections=100)
    assert reasons(snapshot, only_under_pressure=True, in_transaction="terminate") == {1: why}


# Limits


@pytest.mark.parametrize(
    ("most", "expected"), [(0, []), (2, [3, 2]), (3, [3, 2, 1]), (500, [3, 2, 1])]
)
def test_max_kills(most: int, expected: list[int]) -> None:
    """At most so many go, the longest idle; the others are spared for that reason."""
    snapshot = server(*(sleeper(id_, 1000.0 + id_) for id_ in (1, 2, 3)))
    assert victims(snapshot, max_kills=most) == expected
    assert Counter(reasons(snapshot, max_kills=most).values())["max_kills"] == 3 - len(expected)


def test_max_kills_holds_under_pressure() -> None:
    """The cap is over routine and pressure victims together, routine first."""
    sessions = [sleeper(id_, 1000.0 if id_ < 3 else 100.0) for id_ in range(95)]
    assert victims(server(*sessions, max_connections=100), max_kills=5) == [0, 1, 2, 3, 4]


def test_min_idle_per_user() -> None:
    """Each user keeps its youngest n idle sessions; busy ones do not count as idle."""
    snapshot = server(
        sleeper(1, 3000.0, user="api"),
        sleeper(2, 2000.0, user="api"),
        sleeper(3, 1000.0, user="api"),
        sleeper(4, 5000.0, user="batch"),
        sleeper(5, 100.0, user="web"),
        sleeper(6, 4000.0, user="web"),
        sleeper(7, None, user="batch", state=State.ACTIVE),
    )
    found = reasons(snapshot, min_idle_per_user=1)
    assert found == {
        1: "idle",
        2: "idle",
        3: "min_idle_per_user",
        4: "min_idle_per_user",
        5: "not_idle_long_enough",
        6: "idle",
        7: "active",
    }


def test_min_idle_per_user_holds_under_pressure() -> None:
    """Under pressure too each user keeps its youngest n."""
    sessions = [
        sleeper(id_, 100.0 + id_, user="api" if id_ <= 20 else "batch") for id_ in range(1, 96)
    ]
    snapshot = server(*sessions, max_connections=100)
    found = reasons(snapshot, min_idle_per_user=2, target_utilization=0)
    assert {id_ for id_, why in found.items() if why == "min_idle_per_user"} == {1, 2, 21, 22}
    assert Counter(found.values())["pressure"] == 91


# Who


@pytest.mark.parametrize(
    ("facts", "rules", "why"),
    [
        ({"user": "root"}, {"protect_users": ["root"]}, "protected"),
        ({"user": "rootless_app"}, {"protect_users": ["root"]}, "idle"),
        ({"user": "app_1"}, {"protect_users": ["app"]}, "idle"),
        ({"user": "app_1"}, {"protect_users": ["app_*"]}, "protected"),
        ({"user": "App"}, {"protect_users": ["app"]}, "idle"),
        ({"user": "app"}, {"allow_users": ["app"]}, "idle"),
        ({"user": "app"}, {"allow_users": ["api", "ap?"]}, "idle"),
        ({"user": "app"}, {"allow_users": ["ap"]}, "not_allowed"),
        ({"database": "orders"}, {"protect_databases": ["orders"]}, "protected"),
        ({"database": "orders_old"}, {"protect_databases": ["orders"]}, "idle"),
        ({"database": "orders"}, {"allow_databases": ["billing"]}, "not_allowed"),
        # It is known to be in none
        ({"database": None}, {"protect_databases": ["orders"]}, "idle"),
        ({"database": None}, {"allow_databases": ["orders"]}, "not_allowed"),
        ({"database": None}, {"allow_databases": ["?*"]}, "not_allowed"),
        ({"application": "pg_dump"}, {"protect_applications": ["pg_dump"]}, "protected"),
        ({"application": "pg_dumpall"}, {"protect_applications": ["pg_dump"]}, "idle"),
        ({"application": ""}, {"protect_applications": ["pg_dump"]}, "idle"),
        ({"application": None}, {"protect_applications": ["pg_dump"]}, "unknown"),
        ({"application": None}, {"allow_applications": ["api"]}, "not_allowed"),
        ({"application": None}, {}, "idle"),
        ({"host": "10.0.1.1"}, {"protect_hosts": ["10.0.1.1"]}, "protected"),
        ({"host": "10.0.1.15"}, {"protect_hosts": ["10.0.1.1"]}, "idle"),
        ({"host": "10.0.1.15"}, {"allow_hosts": ["10.0.1.1"]}, "not_allowed"),
        ({"host": "10.0.1.15"}, {"allow_hosts": ["10.0.0.0/16"]}, "idle"),
        ({"host": "10.0.1.15"}, {"allow_hosts": ["10.1.0.0/16"]}, "not_allowed"),
        ({"host": None}, {"protect_hosts": ["10.0.0.0/8"]}, "unknown"),
        ({"host": None}, {"allow_hosts": ["10.0.0.0/8"]}, "not_allowed"),
        ({"host": "worker.internal"}, {"protect_hosts": ["10.0.0.0/8"]}, "unknown"),
        # All four kinds of allow must agree; protection wins over allow, by whatever key it comes.
        ({}, {"allow_users": ["app"], "allow_hosts": ["10.9.9.9"]}, "not_allowed"),
        ({}, {"allow_users": ["app"], "protect_users": ["app"]}, "protected"),
        ({}, {"allow_users": ["app"], "protect_hosts": ["10.0.1.*"]}, "protected"),
        ({}, {"allow_users": ["batch"], "protect_hosts": ["10.0.1.*"]}, "protected"),
    ],
)
def test_allow_and_protect(facts: dict[str, Any], rules: dict[str, Any], why: str) -> None:
    """Only the allowed go, never the protected, protection wins, and what cannot be told is
    spared.
    """
    assert reason(sleeper(**facts), **rules) == why


def test_protection_and_allowance_hold_under_pressure() -> None:
    """Pressure widens the threshold, never the circle."""
    snapshot = server(
        sleeper(1, user="root"), sleeper(2, user="batch"), used=100, max_connections=100
    )
    rules: dict[str, Any] = {"protect_users": ["root"], "allow_users": ["app"]}
    assert reasons(snapshot, **rules) == {1: "protected", 2: "not_allowed"}


@pytest.mark.parametrize(
    ("name", "pattern", "expected"),
    [
        ("app", "app", True),
        ("app", "a*", True),
        ("app", "*pp", True),
        ("app", "pp", False),
        ("app", "APP", False),
        # Exact comes before glob
        ("app[1]", "app[1]", True),
        ("app1", "app[12]", True),
        ("", "*", True),
        ("", "app", False),
        (None, "app", None),
    ],
)
def test_matches_name(name: str | None, pattern: str, expected: bool | None) -> None:
    """Names match exactly or by glob, never by substring, and None says that it cannot be told."""
    assert matches_name(name, [pattern]) is expected


def test_no_name_fits_no_pattern() -> None:
    """Where nothing is asked for, nothing is in doubt."""
    assert (matches_name("app", []), matches_name(None, []), matches_name(None, ["a", "b"])) == (
        False,
        False,
        None,
    )


@pytest.mark.parametrize(
    ("host", "pattern", "expected"),
    [
        ("10.0.1.15", "10.0.1.15", True),
        ("10.0.1.15", "10.0.1.1", False),
        ("10.0.1.15", "10.0.1.*", True),
        ("10.0.1.15", "10.0.1.0/24", True),
        # Host bits in a network are forgiven
        ("10.0.1.15", "10.0.1.77/24", True),
        ("10.0.2.15", "10.0.1.0/24", False),
        ("::ffff:10.0.1.15", "10.0.1.0/24", True),
        ("::ffff:10.0.1.15", "10.0.1.15", True),
        ("10.0.1.15", "::ffff:10.0.1.15", True),
        ("::ffff:10.0.1.15", "::ffff:10.0.0.0/112", True),
        ("::ffff:10.0.1.15", "::/0", True),
        ("2001:db8::5", "2001:db8::/32", True),
        ("2001:db8::5", "2001:0db8:0:0::5", True),
        ("2001:DB8::5", "2001:db8::5", True),
        ("2001:db8::15", "2001:db8::1", False),
        ("2001:db9::5", "2001:db8::/32", False),
        ("2001:db8::5", "10.0.0.0/8", False),
        ("10.0.1.15", "2001:db8::/32", False),
        ("localhost", "127.0.0.1", True),
        ("127.0.0.1", "localhost", True),
        ("localhost", "127.0.0.0/8", True),
        ("ip-10-0-1-15.internal", "ip-10-0-*", True),
        ("IP-10-0-1-15.Internal", "ip-10-0-1-15.internal", True),
        ("ip-10-0-1-15.internal", "IP-10-0-*", True),
        ("LocalHost", "localhost", True),
        ("worker.internal", "web.internal", False),
        ("worker.internal", "10.0.1.15", None),
        ("worker.internal", "10.0.0.0/8", None),
        (None, "10.0.0.0/8", None),
    ],
)
def test_matches_host(host: str | None, pattern: str, expected: bool | None) -> None:
    """Hosts match by address, network or glob; a name fits no address, nor is it known not to."""
    assert matches_host(host, [pattern]) is expected


@pytest.mark.parametrize(
    ("host", "patterns", "expected"),
    [
        ("10.0.1.15", [], False),
        (None, [], False),
        ("worker.internal", ["10.0.0.0/8", "worker.*"], True),
        ("worker.internal", ["web.*", "10.0.0.0/8"], None),
    ],
)
def test_matches_host_of_several(
    host: str | None, patterns: list[str], expected: bool | None
) -> None:
    """One match decides; without one, one doubt is a doubt."""
    assert matches_host(host, patterns) is expected


# Transactions


@pytest.mark.parametrize(
    ("idle", "age", "why"),
    [
        (3600.0, 3600.0, "idle_in_transaction"),
        (3599.9, 9000.0, "not_idle_long_enough"),
        # MySQL's Time began before the transaction did
        (9000.0, 3599.9, "not_idle_long_enough"),
        # idle_seconds is not its threshold
        (1000.0, 1000.0, "not_idle_long_enough"),
        (9000.0, None, "unknown"),
    ],
)
def test_in_transaction_terminate(idle: float, age: float | None, why: str) -> None:
    """In a transaction the smaller of idle time and transaction age is compared with
    in_transaction_seconds.
    """
    session = sleeper(idle=idle, state=IN_TRANSACTION, transaction_seconds=age)
    assert reason(session, in_transaction="terminate") == why


def test_in_transaction_spare_is_the_default() -> None:
    """A session idle in a transaction is spared however long it sleeps, under pressure too."""
    session = sleeper(idle=9e5, state=IN_TRANSACTION, transaction_seconds=9e5)
    assert reason(session) == "in_transaction"
    assert reasons(server(session, used=100, max_connections=100)) == {1: "in_transaction"}


def test_pressure_does_not_lower_the_transactions_threshold() -> None:
    """pressure_idle_seconds is for sessions outside a transaction."""
    session = sleeper(idle=3000.0, state=IN_TRANSACTION, transaction_seconds=3000.0)
    snapshot = server(session, used=100, max_connections=100)
    assert reasons(snapshot, in_transaction="terminate") == {1: "not_idle_long_enough"}


@pytest.mark.parametrize(
    ("rows", "rules", "why"),
    [
        (100_000, {}, "idle_in_transaction"),
        (100_001, {}, "rollback_too_large"),
        (0, {"max_rollback_rows": 0}, "idle_in_transaction"),
        (1, {"max_rollback_rows": 0}, "rollback_too_large"),
    ],
)
def test_max_rollback_rows(rows: int, rules: dict[str, Any], why: str) -> None:
    """What would roll back more rows than max_rollback_rows is spared."""
    session = sleeper(
        idle=9000.0, state=IN_TRANSACTION, transaction_seconds=9000.0, rollback_rows=rows
    )
    assert reason(session, in_transaction="terminate", **rules) == why


# The verdicts as a whole


def test_ties_break_by_id() -> None:
    """Of equally idle sessions the lower ids go first."""
    snapshot = server(*(sleeper(id_, 1000.0) for id_ in (9, 3, 7, 1)))
    assert victims(snapshot, max_kills=3) == [1, 3, 7]


def test_verdicts_come_in_the_order_of_the_kills_then_the_spared_by_id() -> None:
    """Replay and dry run rely on the order; every session has exactly one verdict."""
    snapshot = server(
        sleeper(5, 10.0),
        sleeper(4, 1000.0),
        sleeper(3, 2000.0),
        sleeper(2, user="root"),
        sleeper(1, 10.0),
    )
    verdicts = judged(snapshot, protect_users=["root"]).verdicts
    assert [(v.session.id, v.action) for v in verdicts] == [
        (3, Action.TERMINATE),
        (4, Action.TERMINATE),
        (1, Action.SPARE),
        (2, Action.SPARE),
        (5, Action.SPARE),
    ]


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_the_rows_changes_nothing(seed: int) -> None:
    """The same snapshot gives the same verdicts in whatever order the server listed it."""
    states = [State.IDLE] * 6 + [State.ACTIVE, IN_TRANSACTION, State.UNKNOWN]
    sessions = [
        sleeper(
            id_,
            50.0 * (id_ % 25),
            user=f"u{id_ % 4}",
            state=states[id_ % 9],
            transaction_seconds=4000.0,
        )
        for id_ in range(95)
    ]
    rules: dict[str, Any] = {
        "min_idle_per_user": 2,
        "max_kills": 30,
        "protect_users": ["u3"],
        "idle_seconds": 1000,
    }
    shuffled = random.Random(seed).sample(sessions, len(sessions))
    facts: dict[str, Any] = {"max_connections": 100, "user_limits": {"u1": 20}}
    assert judged(server(*shuffled, **facts), **rules) == judged(
        server(*sessions, **facts), **rules
    )


def test_an_empty_server_needs_no_verdicts() -> None:
    """Nobody there, nobody judged."""
    judgement = judged(server())
    assert (judgement.mode, judgement.verdicts) == (Mode.ROUTINE, ())
