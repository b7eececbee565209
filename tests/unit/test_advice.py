"""Each rule of advice: what it fires on, what it leaves alone, and the statement it gives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lab.samples import messages
from reaper.advice import Finding, Proxy, Rule, Seen, Severity, advise, advise_proxy
from reaper.client.fields import ConfigurationError
from reaper.client.target import Auth, EngineName
from reaper.model import Flavour, KillMethod, Snapshot, SweepWarning
from reaper.request.events import AdviceRequest, BadMessage, parse
from tests.live.account import printed

RIGHT: dict[str, dict[str, Any]] = {
    "mysql": {
        "wait_timeout": 660,
        "interactive_timeout": 660,
        "max_user_connections": 0,
        "performance_schema": True,
        "managed": False,
        "can_use_reserved": True,
        "reserved_connections": 1,
    },
    "postgres": {
        "idle_session_timeout": 660,
        "idle_in_transaction_session_timeout": 300,
        "transaction_timeout": 900,
        "tcp_keepalives_idle": 300,
        "tcp_keepalives_interval": 60,
        "tcp_keepalives_count": 6,
        "superuser_reserved_connections": 3,
        "reserved_connections": 2,
        "is_superuser": False,
        "can_signal": True,
        "can_use_reserved": True,
        "managed": False,
        "role_settings": [],
    },
}
METHODS = {"mysql": KillMethod.KILL, "postgres": KillMethod.PG_TERMINATE_BACKEND}


def seen(engine: str, settings: dict[str, Any] | None = None, **facts: Any) -> Seen:
    """A server that is set well, but for these settings and facts; keys of a snapshot go into
    it.
    """
    of_snapshot = {key: facts.pop(key) for key in [*facts] if key in Snapshot.__dataclass_fields__}
    snapshot = replace(
        Snapshot(
            EngineName(engine),
            Flavour(engine),
            (),
            used=10,
            max_connections=100,
            own_users=frozenset({"reaper"}),
        ),
        **of_snapshot,
    )
    right = Seen(
        settings=RIGHT[engine] | (settings or {}),
        snapshot=snapshot,
        account="reaper",
        host="10.0.0.1",
        method=METHODS[engine],
        clients=frozenset({("app", "shop"), ("other", "shop")}),
    )
    return replace(right, **facts)


def rules(found: Seen) -> list[str]:
    return [finding.rule.value for finding in advise(found)]


def only(found: Seen) -> Finding:
    (finding,) = advise(found)
    return finding


def of_role(role: str, database: str, name: str, seconds: float | None) -> dict[str, Any]:
    return {"role": role, "database": database, "name": name, "seconds": seconds}


@pytest.mark.parametrize("engine", RIGHT)
def test_a_well_set_server_has_nothing_to_change(engine: str) -> None:
    """Neither with clients nor without."""
    assert advise(seen(engine)) == ()
    assert advise(seen(engine, clients=frozenset())) == ()


MYSQL: list[tuple[dict[str, Any], str, Severity | None]] = [
    ({"wait_timeout": 28800}, "wait_timeout", Severity.HIGH),
    ({"wait_timeout": 3600}, "wait_timeout", Severity.MEDIUM),
    ({"wait_timeout": 1801}, "wait_timeout", Severity.MEDIUM),
    ({"wait_timeout": 1800}, "", None),
    ({"wait_timeout": 601}, "", None),
    ({"wait_timeout": 600}, "wait_timeout", Severity.MEDIUM),
    ({"interactive_timeout": 28800}, "interactive_timeout", Severity.LOW),
    ({"performance_schema": False}, "performance_schema", Severity.MEDIUM),
    ({"sees_idle_upper_bound": False}, "idle_upper_bound", Severity.MEDIUM),
    ({"sees_named_locks_unseen": False}, "named_locks_unseen", Severity.MEDIUM),
    ({"sees_transactions_unseen": False}, "transactions_unseen", Severity.MEDIUM),
    ({"sees_user_limits_unseen": False}, "user_limits_unseen", Severity.LOW),
]
POSTGRES: list[tuple[dict[str, Any], str, Severity | None]] = [
    ({"idle_session_timeout": 0}, "idle_session_timeout", Severity.HIGH),
    ({"idle_session_timeout": 7200}, "idle_session_timeout", Severity.HIGH),
    ({"idle_session_timeout": 1801}, "idle_session_timeout", Severity.MEDIUM),
    ({"idle_session_timeout": 1800}, "", None),
    ({"idle_session_timeout": 600}, "idle_session_timeout", Severity.MEDIUM),
    (
        {"idle_in_transaction_session_timeout": 0},
        "idle_in_transaction_session_timeout",
        Severity.HIGH,
    ),
    (
        {"idle_in_transaction_session_timeout": 86400},
        "idle_in_transaction_session_timeout",
        Severity.MEDIUM,
    ),
    ({"idle_in_transaction_session_timeout": 900}, "", None),
    ({"transaction_timeout": 0}, "transaction_timeout", Severity.LOW),
    ({"transaction_timeout": 1}, "", None),
    ({"tcp_keepalives_idle": 7200}, "tcp_keepalives", Severity.LOW),
    # 1440 + 6 * 60 = 1800
    ({"tcp_keepalives_idle": 1440}, "", None),
    ({"tcp_keepalives_idle": 1441}, "tcp_keepalives", Severity.LOW),
    # a Unix socket has none
    ({"tcp_keepalives_idle": 0}, "", None),
    ({"can_signal": False}, "no_right_to_terminate", Severity.HIGH),
]


@pytest.mark.parametrize(
    ("engine", "settings", "rule", "severity"),
    [("mysql", *row) for row in MYSQL] + [("postgres", *row) for row in POSTGRES],
)
def test_one_setting_that_is_wrong(
    engine: str, settings: dict[str, Any], rule: str, severity: Severity | None
) -> None:
    """A setting beyond its bounds is told by its rule alone, with the value read; one at the bound
    is not told.
    """
    found = advise(seen(engine, settings))
    assert [finding.rule.value for finding in found] == ([rule] if rule else [])
    for finding in found:
        assert finding.severity is severity
        assert finding.source.startswith("https://")
        (value,) = settings.values()
        assert str(value) in finding.evidence or isinstance(value, bool)


@pytest.mark.parametrize("engine", RIGHT)
def test_what_the_server_does_not_tell_is_no_finding(engine: str) -> None:
    """A version without a setting, or one that could not be read, gives no advice on it."""
    assert (
        advise(
            replace(seen(engine), settings={"can_use_reserved": True, "reserved_connections": 1})
        )
        == ()
    )


@pytest.mark.parametrize("engine", RIGHT)
def test_facts_of_the_look(engine: str) -> None:
    """Blindness, a shared account and a proxy's address are told, whatever the settings."""
    assert rules(seen(engine, blind=True)) == ["blind"]
    assert rules(seen(engine, warnings=(SweepWarning.OWN_ACCOUNT_SHARED,))) == [
        "own_account_shared"
    ]
    host = "orders.proxy-abc123.eu-central-1.rds.amazonaws.com"
    assert "--db-proxy-name orders" in only(seen(engine, host=host)).statement


@pytest.mark.parametrize(
    ("engine", "flavour", "facts", "command"),
    [
        ("mysql", "mysql", {}, "mysql"),
        ("mysql", "mysql", {"managed": True}, "mysql --flavour rds"),
        ("mysql", "mysql", {"managed": True, "auth": Auth.IAM}, "mysql --flavour rds --auth iam"),
        # Amazon's alone have it
        ("mysql", "mysql", {"auth": Auth.IAM}, "mysql"),
        ("mysql", "mariadb", {}, "mysql --flavour mariadb"),
        ("mysql", "mariadb", {"managed": True}, "mysql --flavour rds-mariadb"),
        (
            "mysql",
            "mariadb",
            {"method": KillMethod.KILL_IF_IDLE},
            "mysql --flavour mariadb --kill-if-idle",
        ),
        ("mysql", "aurora_mysql", {"managed": True}, "mysql --flavour aurora"),
        ("mysql", "mysql", {"account": "reaper"}, "mysql --user reaper_own"),
        ("postgres", "postgres", {"can_use_reserved": False}, "postgres"),
        ("postgres", "postgres", {}, "postgres --reserved"),
        ("postgres", "postgres", {"managed": True}, "postgres --flavour rds"),
        (
            "postgres",
            "aurora_postgres",
            {"managed": True, "auth": Auth.IAM},
            "postgres --flavour aurora --auth iam",
        ),
    ],
)
def test_the_command_for_an_account(
    engine: str, flavour: str, facts: dict[str, Any], command: str
) -> None:
    """What it makes fits this server and this way to log in, may what the shared account may, and
    has a free name.
    """
    settings: dict[str, Any] = {
        name: facts[name] for name in ("managed", "can_use_reserved") if name in facts
    }
    others = {"account": "app"} | {
        name: value for name, value in facts.items() if name not in settings
    }
    shared = seen(
        engine,
        settings,
        flavour=Flavour(flavour),
        warnings=(SweepWarning.OWN_ACCOUNT_SHARED,),
        **others,
    )
    statement = advise(shared)[0].statement
    assert statement == f"reaper grants --engine {command}"
    assert printed(*statement.split()[2:]).startswith("CREATE")


def test_the_gravest_come_first() -> None:
    """By severity, then in the order of the rules."""
    wrong = {"tcp_keepalives_idle": 7200, "idle_session_timeout": 0, "can_signal": False}
    assert rules(seen("postgres", wrong)) == [
        "no_right_to_terminate",
        "idle_session_timeout",
        "tcp_keepalives",
    ]


def test_how_mysql_is_set() -> None:
    """MySQL keeps a setting by itself, MariaDB needs its option file, RDS its parameter group."""
    settings = {"wait_timeout": 28800}
    assert only(seen("mysql", settings)).statement == "SET PERSIST wait_timeout = 660;"
    mariadb = only(seen("mysql", settings, flavour=Flavour.MARIADB))
    assert (mariadb.statement, "option file" in mariadb.advice) == (
        "SET GLOBAL wait_timeout = 660;",
        True,
    )
    managed = only(seen("mysql", settings | {"managed": True}))
    assert managed.statement == "parameter group: wait_timeout = 660"


def test_how_postgres_is_set() -> None:
    """For the roles that are connected; for all where nobody or everybody is; on RDS by
    milliseconds in the group.
    """
    settings = {"idle_session_timeout": 0}
    of_roles = only(seen("postgres", settings)).statement.splitlines()
    assert of_roles == [
        f"ALTER ROLE \"{role}\" SET idle_session_timeout = '660s';" for role in ("app", "other")
    ]
    for_all = ["ALTER SYSTEM SET idle_session_timeout = '660s';", "SELECT pg_reload_conf();"]
    crowd = frozenset((f"user{number}", "shop") for number in range(6))
    for clients in (frozenset(), crowd):
        assert only(seen("postgres", settings, clients=clients)).statement.splitlines() == for_all
    managed = only(seen("postgres", settings | {"managed": True}, clients=frozenset()))
    assert managed.statement == "parameter group: idle_session_timeout = 660000"


def test_transaction_timeout_is_only_for_roles() -> None:
    """Set for all it would end dumps and maintenance, so it is advised for those who are connected
    and nobody else.
    """
    settings = {"transaction_timeout": 0}
    assert advise(seen("postgres", settings, clients=frozenset())) == ()
    crowd = frozenset((f"user{number}", "shop") for number in range(20))
    assert only(seen("postgres", settings, clients=crowd)).statement.count("ALTER ROLE") == 20


NAME = "idle_session_timeout"


@pytest.mark.parametrize(
    ("of_server", "of_roles", "wrong"),
    [
        (0, [("app", "", 660), ("other", "", 660)], []),
        (0, [("app", "", 660)], ["other"]),
        (0, [("", "shop", 660)], []),
        (0, [("", "", 660)], []),
        (660, [("app", "", 0)], ["app"]),
        # a role's goes over its database's
        (660, [("", "shop", 0), ("app", "", 660)], ["other"]),
        # And its own in that database over both
        (660, [("app", "", 660), ("app", "shop", 0)], ["app"]),
        (660, [("app", "elsewhere", 0)], []),
        # Written in a way that nobody understands
        (660, [("app", "", None)], []),
    ],
)
def test_a_role_s_own_setting_counts(
    of_server: int, of_roles: list[tuple[str, str, float | None]], wrong: list[str]
) -> None:
    """What goes for a session is what is judged: the server's setting, its database's, its
    role's.
    """
    settings = [of_role(role, database, NAME, value) for role, database, value in of_roles]
    found = advise(seen("postgres", {NAME: of_server, "role_settings": settings}))
    named = [
        name for finding in found for name in ("app", "other") if f'"{name}"' in finding.statement
    ]
    assert named == wrong


def test_a_server_on_which_nobody_is_connected() -> None:
    """Its own setting counts, unless roles or databases were given theirs."""
    alone = seen("postgres", {NAME: 0}, clients=frozenset())
    assert rules(alone) == [NAME]
    cared_for = {NAME: 0, "role_settings": [of_role("app", "", NAME, 660)]}
    assert rules(seen("postgres", cared_for, clients=frozenset())) == []


def test_an_unknown_setting_of_the_server_says_nothing_of_those_with_their_own() -> None:
    """Where only roles' settings are known, only these are judged."""
    settings = {**RIGHT["postgres"], "role_settings": [of_role("app", "", NAME, 0)]}
    del settings[NAME]
    assert (
        only(replace(seen("postgres"), settings=settings)).evidence
        == f"{NAME} = 0 (no limit) for app"
    )


WITHOUT_SLOT = {"can_use_reserved": False, "reserved_connections": 0}


@pytest.mark.parametrize(
    ("engine", "facts", "found"),
    [
        ("postgres", {}, ["connection_limit", "reserved_slot"]),
        ("postgres", {"user_limits": {"app": 40}}, ["connection_limit", "reserved_slot"]),
        ("postgres", {"user_limits": {"app": 40, "other": 40}}, []),
        (
            "postgres",
            {"user_limits": {"app": 50, "other": 50}},
            ["connection_limit", "reserved_slot"],
        ),
        ("postgres", {"user_limits": {"app": 40}, "database_limits": {"shop": 40}}, []),
        ("postgres", {"database_limits": {"shop": 99}}, []),
        ("postgres", {"database_limits": {"elsewhere": 9}}, ["connection_limit", "reserved_slot"]),
        (
            "postgres",
            {"reserved": 3, "database_limits": {"shop": 99}},
            ["connection_limit", "reserved_slot"],
        ),
        ("postgres", {"clients": frozenset()}, ["reserved_slot"]),
        ("mysql", {"method": KillMethod.RDS_KILL}, ["connection_limit", "reserved_slot"]),
        ("mysql", {"method": KillMethod.KILL_IF_IDLE}, ["connection_limit"]),
        ("mysql", {"method": KillMethod.RDS_KILL, "user_limits": {"app": 40, "other": 40}}, []),
    ],
)
def test_a_slot_for_the_reaper(engine: str, facts: dict[str, Any], found: list[str]) -> None:
    """Without a slot of its own, nor limits of the others that leave one, the reaper may be locked
    out.
    """
    assert rules(seen(engine, WITHOUT_SLOT, **facts)) == found


@pytest.mark.parametrize(
    "settings",
    [
        {"is_superuser": True},
        {"can_use_reserved": True, "reserved_connections": 1},
        {"can_use_rds_reserved": True, "rds_reserved_connections": 2},
    ],
)
def test_slots_of_its_own(settings: dict[str, Any]) -> None:
    """Superusers, who may use reserved connections, and RDS's own administrators get in where
    others are refused.
    """
    assert advise(seen("postgres", WITHOUT_SLOT | settings)) == ()


def test_limits_leave_slots() -> None:
    """The limits that are advised, together with those that are there, leave three slots."""
    statements = advise(seen("postgres", WITHOUT_SLOT, user_limits={"app": 50}, reserved=3))[
        0
    ].statement
    # 97 - 3 - 50
    assert statements == 'ALTER ROLE "other" CONNECTION LIMIT 44;'
    both = advise(
        seen(
            "mysql", WITHOUT_SLOT, user_limits={"app": 90, "other": 90}, method=KillMethod.RDS_KILL
        )
    )[0]
    assert both.statement.splitlines() == [
        f"ALTER USER '{user}'@'%' WITH MAX_USER_CONNECTIONS 48;" for user in ("app", "other")
    ]
    assert "add up to 180" in both.evidence
    for_all = seen("mysql", WITHOUT_SLOT | {"max_user_connections": 30}, method=KillMethod.RDS_KILL)
    assert advise(for_all) == ()


def test_reserved_slots_as_far_as_the_server_has_them() -> None:
    """Only what is missing is told: the slots, the right, or both; nothing before PostgreSQL 16,
    nor on RDS.
    """
    grant = 'GRANT pg_use_reserved_connections TO "reaper";'
    slots = "ALTER SYSTEM SET reserved_connections = 2;"
    alone = frozenset[tuple[str, str | None]]()
    for reserved, may_use, expected in (
        (0, False, [slots, grant]),
        (2, False, [grant]),
        (0, True, [slots]),
    ):
        settings = {"reserved_connections": reserved, "can_use_reserved": may_use}
        assert only(seen("postgres", settings, clients=alone)).statement.splitlines() == expected
    assert advise(seen("postgres", WITHOUT_SLOT | {"managed": True}, clients=alone)) == ()
    old = {name: value for name, value in RIGHT["postgres"].items() if "reserved" not in name}
    assert advise(replace(seen("postgres", clients=alone), settings=old)) == ()


@pytest.mark.parametrize(
    ("flavour", "managed", "right"),
    [
        ("mysql", False, "CONNECTION_ADMIN ON *.*"),
        ("mariadb", False, "CONNECTION ADMIN ON *.*"),
        ("mysql", True, "EXECUTE ON PROCEDURE mysql.rds_kill"),
        ("mariadb", True, "EXECUTE ON PROCEDURE mysql.rds_kill"),
        ("aurora_mysql", True, "CONNECTION_ADMIN ON *.*"),
    ],
)
def test_the_right_to_kill_that_can_be_granted(flavour: str, managed: bool, right: str) -> None:
    """RDS's administrator has no CONNECTION_ADMIN to give; Aurora's has."""
    found = advise(seen("mysql", {"managed": managed}, flavour=Flavour(flavour), method=None))
    assert [finding.statement for finding in found] == [f"GRANT {right} TO 'reaper'@'%';"]


def test_max_connections_by_memory() -> None:
    """Told only where somebody said how much memory there is, and it is too little."""
    for engine in RIGHT:
        assert advise(seen(engine, fitting=100)) == ()
        assert rules(seen(engine, fitting=99)) == ["max_connections"]
    assert only(seen("postgres", fitting=99)).statement == "ALTER SYSTEM SET max_connections = 99;"
    assert only(seen("mysql", fitting=99)).statement == "SET PERSIST max_connections = 99;"
    managed = only(seen("postgres", {"managed": True}, fitting=99))
    assert managed.statement == "parameter group: max_connections = 99"


def test_names_are_quoted() -> None:
    """A name that somebody chose to be evil stays a name in the statement."""
    evil = frozenset({('a"; DROP ROLE b; --', "shop")})
    found = only(seen("postgres", {NAME: 0}, clients=evil))
    assert (
        found.statement == 'ALTER ROLE "a""; DROP ROLE b; --" SET idle_session_timeout = \'660s\';'
    )
    account = "o'brien\\"
    blind = only(seen("mysql", blind=True, account=account))
    assert blind.statement == "GRANT PROCESS ON *.* TO 'o''brien\\\\'@'%';"


PROXY = Proxy("orders", "POSTGRESQL", 660, 10, 90)


@pytest.mark.parametrize(
    ("change", "rule", "statement"),
    [
        ({}, None, ""),
        ({"idle_client_timeout": 1800}, None, ""),
        (
            {"idle_client_timeout": 28800},
            Rule.PROXY_IDLE_CLIENT_TIMEOUT,
            "--idle-client-timeout 660",
        ),
        ({"idle_client_timeout": 60}, Rule.PROXY_IDLE_CLIENT_TIMEOUT, "--idle-client-timeout 660"),
        ({"connection_borrow_timeout": 30}, None, ""),
        (
            {"connection_borrow_timeout": 120},
            Rule.PROXY_BORROW_TIMEOUT,
            "ConnectionBorrowTimeout=10",
        ),
        ({"connection_borrow_timeout": 0}, Rule.PROXY_BORROW_TIMEOUT, "ConnectionBorrowTimeout=10"),
        ({"max_connections_percent": 100}, Rule.PROXY_MAX_CONNECTIONS, "MaxConnectionsPercent=90"),
        ({"pinned": 0.5}, None, ""),
        ({"pinned": 0.51}, Rule.PROXY_PINNING, "--debug-logging"),
        ({"pinned": 0.51, "engine_family": "MYSQL"}, Rule.PROXY_PINNING, "EXCLUDE_VARIABLE_SETS"),
        (
            {
                "pinned": 0.51,
                "engine_family": "MYSQL",
                "session_pinning_filters": ("EXCLUDE_VARIABLE_SETS",),
            },
            Rule.PROXY_PINNING,
            "--debug-logging",
        ),
    ],
)
def test_a_proxy(change: dict[str, Any], rule: Rule | None, statement: str) -> None:
    """Each of a proxy's settings by its bounds; a filter is advised only where there is one to be
    had.
    """
    found = advise_proxy(replace(PROXY, **change))
    assert [finding.rule for finding in found] == ([rule] if rule else [])
    assert all(statement in finding.statement for finding in found)


def test_the_event_that_asks_for_it() -> None:
    """Advice, and the targets to give it on; all without."""
    assert parse({"advise": True}) == AdviceRequest()
    assert parse({"advise": True, "targets": ["orders"]}) == AdviceRequest(("orders",))


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ({"advise": False}, "advise is False; say true"),
        ({"advise": "true"}, "advise is 'true'"),
        ({"advise": True, "dry_run": False}, "unknown key 'dry_run'"),
        ({"advise": True, "rules": {}}, "unknown key 'rules'"),
        ({"advise": True, "trigger": "manual"}, "unknown key 'trigger'"),
        ({"advice": True}, "did you mean 'advise'"),
        (
            {"detail-type": "Scheduled Event", "source": "aws.events", "advise": True},
            "'advise' stands beside",
        ),
    ],
)
def test_an_event_that_half_asks_for_it(event: dict[str, Any], said: str) -> None:
    """Beside advice nothing may stand that is a sweep's: it would not be obeyed."""
    with pytest.raises(ConfigurationError, match=said):
        parse(event)


def test_a_queue_is_not_asked() -> None:
    """Nobody reads the answer to a message, so one that asks for advice is a bad one."""
    record = {"messageId": "1", "eventSource": "aws:sqs", "body": '{"advise": true}'}
    (found,) = messages({"Records": [record]})
    assert isinstance(found, BadMessage)
    assert "nobody reads" in found.problem
