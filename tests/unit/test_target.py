"""Targets from mappings, DSNs and lists; and no password in any message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reaper.client.fields import ConfigurationError
from reaper.client.redaction import redact, shown
from reaper.client.target import Auth, EngineName, Target, Tls
from reaper.environment import parse_targets, targets_from_environ
from reaper.model import SweepTarget
from reaper.rules import RulesPatch

SECRET = "hunter2"  # noqa: S105  the word that must appear nowhere

PLAIN: dict[str, Any] = {"engine": "mysql", "host": "orders.internal", "user": "reaper"}


def entry(**given: Any) -> dict[str, Any]:
    return PLAIN | given


def test_a_target_in_full(tmp_path: Path) -> None:
    """Every key of the design's table arrives."""
    ca = tmp_path / "ca.pem"
    ca.touch()
    given = {
        "name": "orders",
        "engine": "postgres",
        "host": "h",
        "port": 6432,
        "user": "u",
        "database": "d",
    }
    given |= {
        "auth": "secret",
        "secret": "arn:x",
        "password": SECRET,
        "tls": "require",
        "ca": str(ca),
    }
    assert Target.from_mapping(given) == Target(
        name="orders",
        engine=EngineName.POSTGRES,
        host="h",
        port=6432,
        user="u",
        database="d",
        auth=Auth.SECRET,
        secret="arn:x",
        password=SECRET,
        tls=Tls.REQUIRE,
        ca=str(ca),
    )


@pytest.mark.parametrize(
    ("given", "key", "expected"),
    [
        # The host's first label
        ({}, "name", "orders"),
        ({"name": "shop"}, "name", "shop"),
        # An address has no labels
        ({"host": "10.0.1.5"}, "name", "10.0.1.5"),
        ({}, "port", 3306),
        ({"engine": "postgres"}, "port", 5432),
        # As secrets spell it
        ({"port": "3307"}, "port", 3307),
        ({"port": 1}, "port", 1),
        ({"port": 65535}, "port", 65535),
        ({}, "auth", Auth.PASSWORD),
        ({"secret": "arn:x"}, "auth", Auth.SECRET),
        ({"auth": "iam"}, "auth", Auth.IAM),
        ({}, "database", None),
        ({"password": ""}, "password", ""),
    ],
)
def test_defaults(given: dict[str, Any], key: str, expected: object) -> None:
    """What is left out has one meaning."""
    assert getattr(Target.from_mapping(entry(**given)), key) == expected


@pytest.mark.parametrize(
    ("host", "tls", "expected"),
    [
        ("orders.internal", None, Tls.VERIFY),
        ("10.0.1.15", None, Tls.VERIFY),
        ("localhost.example.com", None, Tls.VERIFY),
        ("localhost", None, Tls.OFF),
        ("127.0.0.1", None, Tls.OFF),
        ("127.8.8.8", None, Tls.OFF),
        ("::1", None, Tls.OFF),
        ("localhost", "verify", Tls.VERIFY),
        ("localhost", "require", Tls.REQUIRE),
        ("orders.internal", "off", Tls.OFF),
        ("orders.internal", "require", Tls.REQUIRE),
    ],
)
def test_tls(host: str, tls: str | None, expected: Tls) -> None:
    """TLS is verified by default and not asked for on loopback; what is said explicitly stands."""
    assert Target.from_mapping(entry(host=host, tls=tls)).effective_tls is expected


def test_a_ca_asks_for_tls(tmp_path: Path) -> None:
    """Whoever names a CA wants to verify with it, on loopback too, at the end of a tunnel; `off`
    still says no.
    """
    ca = tmp_path / "ca.pem"
    ca.touch()
    assert Target.from_mapping(entry(host="localhost", ca=str(ca))).effective_tls is Tls.VERIFY
    assert (
        Target.from_mapping(entry(host="localhost", ca=str(ca), tls="off")).effective_tls is Tls.OFF
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"host": None}, "target: host is missing"),
        ({"host": ""}, "target: host is missing"),
        ({"user": None}, "target: user is missing"),
        ({"host": 5}, "target '5': host is 5; give it as a text"),
        ({"name": ["x"]}, "target: name is ['x']; give it as a text"),
        ({"engine": None}, "target 'orders': engine is missing; say mysql or postgres"),
        ({"engine": "oracle"}, "target 'orders': engine is 'oracle'; choose mysql, postgres"),
        ({"port": 0}, "target 'orders': port is 0; give a number from 1 to 65535"),
        ({"port": 65536}, "target 'orders': port is 65536;"),
        ({"port": "x"}, "target 'orders': port is 'x';"),
        ({"port": True}, "target 'orders': port is True;"),
        ({"port": 3306.0}, "target 'orders': port is 3306.0;"),
        ({"tls": "on"}, "target 'orders': tls is 'on'; choose verify, require, off"),
        ({"tls": True}, "target 'orders': tls is True;"),
        ({"auth": "kerberos"}, "target 'orders': auth is 'kerberos'; choose secret, iam, password"),
        ({"auth": "secret"}, "target 'orders': auth is 'secret' but secret is missing"),
        ({"auth": "iam", "tls": "off"}, "target 'orders': auth 'iam' needs TLS, but tls is 'off'"),
        ({"auth": "iam", "host": "localhost"}, "target 'localhost': auth 'iam' needs TLS"),
        ({"ca": "no/such.pem"}, "target 'orders': ca 'no/such.pem' is not a file"),
        ({"database": 5}, "target 'orders': database is 5;"),
        ({"hosts": "x"}, "target: unknown key 'hosts' with value 'x'; did you mean 'host'?"),
        ({"password": [SECRET]}, "target 'orders': password is no text"),
        ({"db_password": SECRET}, "target: unknown key 'db_password' with value ***"),
        ({"Password": SECRET}, "target: unknown key 'Password' with value ***"),
        *(
            ({key: SECRET}, f"target: unknown key '{key}' with value ***")
            for key in ("pasword", "passwd", "passwort", "pass", "pwd")
        ),
        (
            {"rules": {"idle_second": 5}},
            "target 'orders': rules: unknown key 'idle_second' with value 5; did you mean",
        ),
        ({"rules": {"idle_seconds": "5"}}, "target 'orders': rules: idle_seconds is '5'"),
        ({"rules": [5]}, "target 'orders': rules is list, not an object with keys"),
        ({"id": 5}, "target 'orders': id is 5; give it as a text"),
    ],
)
def test_a_bad_entry_is_an_error(given: dict[str, Any], words: str) -> None:
    """One line that names the target, the key and the value, and no password."""
    with pytest.raises(ConfigurationError) as caught:
        SweepTarget.from_mapping(entry(**given))
    message = str(caught.value)
    assert message.startswith(words)
    assert message.splitlines() == [message]
    assert SECRET not in message


@pytest.mark.parametrize(
    ("given", "resource"),
    [({}, "orders"), ({"id": "prod-1"}, "prod-1"), ({"name": "shop"}, "orders")],
)
def test_resource(given: dict[str, Any], resource: str) -> None:
    """What an alarm calls a target: its id, else its host's first label, never its name."""
    assert SweepTarget.from_mapping(entry(**given)).resource == resource


def test_a_target_keeps_only_its_own_rules() -> None:
    """The stack's rules stay the stack's: a target carries what it overrides."""
    own = {"idle_seconds": 60}
    assert SweepTarget.from_mapping(entry(rules=own)).rules == RulesPatch.from_json(own)
    assert SweepTarget.from_mapping(entry()).rules == RulesPatch()


# DSNs


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        ("mysql://u@h", Target("h", EngineName.MYSQL, "h", 3306, "u")),
        ("mariadb://u@h", Target("h", EngineName.MYSQL, "h", 3306, "u")),
        ("postgres://u@h", Target("h", EngineName.POSTGRES, "h", 5432, "u")),
        (
            "postgresql://u:p@db.x.y:6432/orders?tls=off",
            Target(
                "db", EngineName.POSTGRES, "db.x.y", 6432, "u", "orders", password="p", tls=Tls.OFF
            ),
        ),
        (
            "mysql://u%40x:p%2F%40%3A%23@h/my%20db",
            Target("h", EngineName.MYSQL, "h", 3306, "u@x", "my db", password="p/@:#"),
        ),
        ("mysql://u@[::1]:3307/", Target("::1", EngineName.MYSQL, "::1", 3307, "u")),
        (
            "mysql://u@h?name=shop&auth=iam",
            Target("shop", EngineName.MYSQL, "h", 3306, "u", auth=Auth.IAM),
        ),
        ("mysql://u@h?password=p", Target("h", EngineName.MYSQL, "h", 3306, "u", password="p")),
        ("mysql://u@h?port=3307", Target("h", EngineName.MYSQL, "h", 3307, "u")),
    ],
)
def test_from_dsn(dsn: str, expected: Target) -> None:
    """A DSN says the same as a mapping; what its shape has no place for goes into options."""
    assert Target.from_dsn(dsn) == expected


@pytest.mark.parametrize(
    ("dsn", "words"),
    [
        (
            f"mysql://u:{SECRET}@/orders",
            "DSN 'mysql://u:***@/orders' has no host; write mysql://user@host:port/database",
        ),
        (f"mysql://u:{SECRET}@", "DSN 'mysql://u:***@' has no host"),
        ("mysql://", "DSN 'mysql://' has no host"),
        ("mysql://h/orders", "DSN 'mysql://h/orders' has no user"),
        (f"mysql://:{SECRET}@h", "DSN 'mysql://:***@h' has no user"),
        (
            f"oracle://u:{SECRET}@h",
            "DSN 'oracle://u:***@h': begin it with mysql:// or postgresql://",
        ),
        ("mysql:u@h", "DSN 'mysql:***@h': begin it with mysql:// or postgresql://"),
        ("orders", "DSN 'orders': begin it with mysql:// or postgresql://"),
        ("", "DSN '': begin it with mysql:// or postgresql://"),
        (f"mysql://u:{SECRET}@h:99999", "DSN 'mysql://u:***@h:99999': "),
        (f"mysql://u:{SECRET}@h:x", "DSN 'mysql://u:***@h:x': "),
        (f"mysql://u:{SECRET}@[::1", "DSN 'mysql://u:***@[::1': "),
        (
            f"mysql://u:{SECRET}@h?password=x",
            "DSN 'mysql://u:***@h?password=***' gives password twice",
        ),
        (
            f"mysql://u:{SECRET}@h/a?database=b",
            "DSN 'mysql://u:***@h/a?database=b' gives database twice",
        ),
        *((f"mysql://u:{SECRET}{sign}x@h/d", "DSN 'mysql://u:***@h/d': ") for sign in "/?#"),
        (f"mysql://u:p@ss/{SECRET}@h/d", "DSN 'mysql://u:***@h/d': there is an @"),
        (
            f"mysql://u@h?passwd={SECRET}",
            "DSN 'mysql://u@h?passwd=***': unknown key 'passwd' with value ***",
        ),
        ("mysql://u@h?host=x", "DSN 'mysql://u@h?host=x' gives host twice"),
        (
            f"mysql://u:{SECRET}@h?sslmode=off",
            "DSN 'mysql://u:***@h?sslmode=off': unknown key 'sslmode' with value 'off'",
        ),
        (f"mysql://u:{SECRET}@h?tls=on", "target 'h': tls is 'on'"),
        (
            f"mysql://u@h?password={SECRET}&tsl=off",
            "DSN 'mysql://u@h?password=***&tsl=off': unknown key 'tsl'",
        ),
    ],
)
def test_a_bad_dsn_is_an_error(dsn: str, words: str) -> None:
    """One line that shows the DSN without its password."""
    with pytest.raises(ConfigurationError) as caught:
        Target.from_dsn(dsn)
    message = str(caught.value)
    assert message.startswith(words)
    assert message.splitlines() == [message]
    assert SECRET not in message


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        (f"mysql://u:{SECRET}@h:1/d", "mysql://u:***@h:1/d"),
        (f"mysql://u:a@b:{SECRET}@h/d", "mysql://u:***@h/d"),
        (f"mysql://u:a/{SECRET}@h/d", "mysql://u:***@h/d"),
        (f"mysql://u@h?Password={SECRET}&tls=off", "mysql://u@h?Password=***&tls=off"),
        ("mysql://u@h/d", "mysql://u@h/d"),
        ("mysql://h:3306/d", "mysql://h:3306/d"),
    ],
)
def test_redact(dsn: str, expected: str) -> None:
    """The password goes, also one typed without percent-encoding; the rest stays readable."""
    assert redact(dsn) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("x" * 58, f"'{'x' * 58}'"),
        ("x" * 59, f"'{'x' * 56}..."),
        ("a\nb", r"'a\nb'"),
        ({1: 10**5000}, "a huge dict"),
    ],
)
def test_shown(value: object, expected: str) -> None:
    """A value in a message is short and on one line."""
    assert shown("key", value) == expected


def test_no_password_in_repr() -> None:
    """Targets are logged and shown in tracebacks."""
    target = SweepTarget.from_mapping(entry(password=SECRET))
    assert target.target.password == SECRET
    assert SECRET not in f"{target!r} {target.target!r} {target} {target.target}"


# Lists


def test_targets_from_environ() -> None:
    """The list keeps its order."""
    listed = json.dumps([entry(name="b"), entry(name="a", password=SECRET)])
    assert [t.name for t in targets_from_environ({"REAPER_TARGETS": listed})] == ["b", "a"]


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        (
            "",
            "no targets: set REAPER_TARGETS to a JSON list, or REAPER_TARGETS_PARAMETER to an SSM "
            "parameter",
        ),
        (
            "orders",
            "REAPER_TARGETS is not a JSON list (Expecting value: line 1 column 1 (char 0)); it "
            "begins with 'orders'",
        ),
        (json.dumps([entry(password=SECRET)])[:-1], "REAPER_TARGETS is not a JSON list ("),
        (
            f'[{{"host": "h", "password": "{SECRET}", "password": "{SECRET}"}}]',
            "REAPER_TARGETS is not a JSON list (key 'password' is given twice)",
        ),
        (
            json.dumps(entry(password=SECRET)),
            "REAPER_TARGETS is a JSON dict; give a list of targets",
        ),
        ("null", "REAPER_TARGETS is a JSON NoneType; give a list of targets"),
        (json.dumps(["orders"]), "REAPER_TARGETS[0] is str, not an object with keys"),
        (
            json.dumps([entry(), {"engine": "mysql", "user": "u", "password": SECRET}]),
            "REAPER_TARGETS[1]: host is missing",
        ),
        (
            json.dumps([entry(password=SECRET), entry()]),
            "REAPER_TARGETS: two targets are named 'orders'",
        ),
        (
            json.dumps([entry(hots=5)]),
            "REAPER_TARGETS[0]: unknown key 'hots' with value 5; did you mean 'host'?",
        ),
    ],
)
def test_a_bad_list_is_an_error(listed: str, words: str) -> None:
    """One line that names the variable, the place and the key, and no password."""
    with pytest.raises(ConfigurationError) as caught:
        targets_from_environ({"REAPER_TARGETS": listed})
    message = str(caught.value)
    assert message.startswith(words)
    assert message.splitlines() == [message]
    assert SECRET not in message


def test_an_empty_list_is_an_error() -> None:
    """A reaper without targets would report success for ever."""
    with pytest.raises(ConfigurationError, match=r"^SSM parameter /reaper is "):
        parse_targets("[]", "SSM parameter /reaper")
