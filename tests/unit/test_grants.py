"""The SQL of the reaper's account: refused where it could not be right, whole, and free of what
could be abused.
"""

from __future__ import annotations

import json
import re
from itertools import product
from typing import Any

import pytest

from reaper.client.fields import ConfigurationError
from reaper.client.target import Auth, EngineName
from reaper.engines.mysql import kill_if_idle
from reaper.grants import Account, Product, script, statements
from reaper.model import Mark
from reaper.policy import PROVIDER_ACCOUNTS
from tests.live.account import printed, split

MYSQLS = (Product.MYSQL, Product.AURORA, Product.RDS, Product.MARIADB, Product.RDS_MARIADB)


def mysql(flavour: Product = Product.MYSQL, **more: Any) -> Account:
    return Account(EngineName.MYSQL, flavour, **more)


@pytest.mark.parametrize(("flavour", "by_procedure"), list(product(MYSQLS, (False, True))))
def test_a_client_reads_the_statements_that_were_meant(
    flavour: Product, by_procedure: bool
) -> None:
    """Cut as the mysql client cuts it, by DELIMITER, the script is the statements, which --json
    lists.
    """
    meant = list(statements(mysql(flavour, kill_if_idle=by_procedure)))
    assert split(script(meant)) == meant
    options = [
        "--engine",
        "mysql",
        "--flavour",
        flavour,
        "--json",
        *(["--kill-if-idle"] if by_procedure else []),
    ]
    assert json.loads(printed(*options)) == {
        "engine": "mysql",
        "flavour": flavour,
        "statements": meant,
    }


@pytest.mark.parametrize(
    ("engine", "flavour", "more", "names"),
    [
        (
            EngineName.POSTGRES,
            Product.MARIADB,
            {},
            "--flavour is mariadb; postgres has postgres, rds, aurora",
        ),
        (EngineName.MYSQL, Product.POSTGRES, {}, "--flavour"),
        (
            EngineName.MYSQL,
            Product.MYSQL,
            {"auth": Auth.IAM},
            "say --flavour, one of aurora, rds, rds-mariadb",
        ),
        (
            EngineName.POSTGRES,
            Product.POSTGRES,
            {"auth": Auth.IAM},
            "say --flavour, one of rds, aurora",
        ),
        (
            EngineName.POSTGRES,
            Product.POSTGRES,
            {"kill_if_idle": True},
            "--kill-if-idle is MySQL's",
        ),
        (EngineName.POSTGRES, Product.POSTGRES, {"host": "%"}, "pg_hba.conf"),
        (EngineName.MYSQL, Product.MYSQL, {"reserved": True}, "--reserved is PostgreSQL's"),
    ],
)
def test_what_a_server_does_not_have_is_refused(
    engine: EngineName, flavour: Product, more: dict[str, Any], names: str
) -> None:
    """An option that means nothing on this engine or flavour is an error that says what would
    do.
    """
    with pytest.raises(ConfigurationError, match=re.escape(names)):
        Account(engine, flavour, **more)


@pytest.mark.parametrize("name", ["", "a'b", 'a"b', "a`b", "a\\", "a;b", "a b", "a\n", "x" * 64])
def test_names_that_would_need_quoting_are_refused(name: str) -> None:
    """No name ends its quotes early, whatever the server's sql_mode says of quotes and
    backslashes.
    """
    for engine, flavour in (
        (EngineName.MYSQL, Product.MYSQL),
        (EngineName.POSTGRES, Product.POSTGRES),
    ):
        with pytest.raises(ConfigurationError, match="--user is"):
            Account(engine, flavour, user=name)
    with pytest.raises(ConfigurationError, match="--host is"):
        mysql(host=name + "'")


def test_hosts() -> None:
    """Addresses and patterns of MySQL's stand in the account's name."""
    for host in ("%", "10.0.%", "10.0.0.0/255.255.0.0", "::1", "localhost", "db-1.example.com"):
        assert statements(mysql(host=host))[0] == f"CREATE USER 'reaper'@'{host}' IDENTIFIED BY '…'"


def body(flavour: Product, **more: Any) -> str:
    asked = statements(mysql(flavour, kill_if_idle=True, **more))
    return next(statement for statement in asked if statement.startswith("CREATE DEFINER"))


@pytest.mark.parametrize("flavour", MYSQLS)
def test_the_procedure_runs_no_text(flavour: Product) -> None:
    """It has no dynamic SQL, kills by one statement at its end, refuses every protected account,
    and works with the rights of a role.
    """
    text = body(flavour)
    assert not re.search(
        r"(?i)\b(PREPARE|IMMEDIATE|CONCAT|INSERT|UPDATE|DELETE|CREATE (?!DEFINER))", text
    )
    kill = "CALL mysql.rds_kill(victim);" if "rds" in flavour else "KILL victim;"
    assert re.findall(r"(?:KILL|CALL) .*;", text) == [kill]
    assert set(re.findall(r"'([\w. ]+)'", text)) >= PROVIDER_ACCOUNTS
    assert "SQL SECURITY DEFINER" in text
    assert re.match(r"CREATE DEFINER = (CURRENT_ROLE|reaper_killer@'%') ", text)


@pytest.mark.parametrize("flavour", MYSQLS)
def test_an_account_with_the_procedure_has_no_right_to_kill(flavour: Product) -> None:
    """What the role may, the account may not; and the limit is 30 s where no other is asked for."""
    to_account = [
        one for one in statements(mysql(flavour, kill_if_idle=True)) if "TO 'reaper'@'%'" in one
    ]
    assert not [one for one in to_account if "CONNECTION" in one or "rds_kill" in one]
    assert to_account[-1] == "GRANT EXECUTE ON PROCEDURE reaper.kill_if_idle TO 'reaper'@'%'"
    assert "< 30 THEN" in body(flavour)
    assert "< 0.5 THEN" in body(flavour, least_idle=0.5)


@pytest.mark.parametrize(
    ("mark", "rest"),
    [
        (Mark(("app", "h:1", 7)), "NULL, 7"),
        (Mark(("app", "h:1", None), since=1000), "UNIX_TIMESTAMP(SYSDATE()) - 1000.000000, NULL"),
        (
            Mark(("app", "h:1", 7), since=1000.25, slack=0.5),
            "UNIX_TIMESTAMP(SYSDATE(6)) - 1000.750000, 7",
        ),
    ],
)
def test_a_call_says_what_was_seen(mark: Mark, rest: str) -> None:
    """User and host, the last statement where it is known, and when the sleep began where the clock
    tells that.
    """
    assert (
        kill_if_idle.call(42, mark)
        == f"CALL reaper.kill_if_idle(42, _utf8mb4 X'617070', _utf8mb4 X'683a31', {rest})"
    )


@pytest.mark.parametrize(
    "name", ["o'brien", "a\\", "'); DROP TABLE t; -- ", "\0\n\x1b[31m", "é😀", "x" * 500, None]
)
def test_no_name_can_leave_its_literal(name: str | None) -> None:
    """Whatever a user or host is called, of it the call holds hexadecimal digits alone."""
    number = r"(?:NULL|_utf8mb4 X'(?:[0-9a-f]{2})*')"
    call = kill_if_idle.call(42, Mark((name, name, 7)))
    assert re.fullmatch(rf"CALL reaper\.kill_if_idle\(42, {number}, {number}, NULL, 7\)", call)
