"""The SQL that makes the reaper's account, with the rights it needs on this engine and flavour and
no others. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from reaper.client.fields import ConfigurationError
from reaper.client.target import Auth, EngineName
from reaper.engines.mysql import kill_if_idle as procedure
from reaper.policy import PROVIDER_ACCOUNTS


class Product(StrEnum):
    """A server as a product, by who makes or runs it: what decides which rights can be granted."""

    MYSQL = "mysql"
    AURORA = "aurora"
    RDS = "rds"
    MARIADB = "mariadb"
    RDS_MARIADB = "rds-mariadb"
    POSTGRES = "postgres"


# The first is the engine's own.
_PRODUCTS = {
    EngineName.MYSQL: (
        Product.MYSQL,
        Product.AURORA,
        Product.RDS,
        Product.MARIADB,
        Product.RDS_MARIADB,
    ),
    EngineName.POSTGRES: (Product.POSTGRES, Product.RDS, Product.AURORA),
}
_AMAZONS = (Product.AURORA, Product.RDS, Product.RDS_MARIADB)
_MARIADBS = (Product.MARIADB, Product.RDS_MARIADB)
# No customer of theirs has CONNECTION_ADMIN; Aurora's have
_WITH_RDS_KILL = (Product.RDS, Product.RDS_MARIADB)

_DEFINER = "reaper_killer"
_SEES_STATEMENTS = ("threads", "events_statements_current", "events_transactions_current")
_SEES_LOCKS = ("metadata_locks",)


@dataclass(frozen=True)
class Account:
    """What is asked for. Raises ConfigurationError for what no server of this kind has."""

    engine: EngineName
    product: Product
    user: str = "reaper"
    host: str | None = None
    auth: Auth = Auth.PASSWORD
    kill_if_idle: bool = False
    least_idle: float = procedure.LEAST_IDLE
    reserved: bool = False

    def __post_init__(self) -> None:
        known = _PRODUCTS[self.engine]
        if self.product not in known:
            raise ConfigurationError(
                f"--flavour is {self.product}; {self.engine} has {', '.join(known)}"
            )
        if self.auth is Auth.IAM and self.product not in _AMAZONS:
            amazons = ", ".join(product for product in known if product in _AMAZONS)
            raise ConfigurationError(
                f"--auth iam is Amazon's; with it say --flavour, one of {amazons}"
            )
        self._check_names()
        self._check_engine()

    def _check_names(self) -> None:
        # Quoting differs with sql_mode, and no account worth having needs more.
        if not re.fullmatch(r"[\w.$-]{1,63}", self.user):
            raise ConfigurationError(
                f"--user is {self.user!r}; give a name of letters, digits, _ . $ -"
            )
        if self.host is not None and not re.fullmatch(r"[\w.:%/-]{1,255}", self.host):
            raise ConfigurationError(
                f"--host is {self.host!r}; give an address or a pattern such as 10.0.%"
            )

    def _check_engine(self) -> None:
        if self.engine is EngineName.POSTGRES and self.host is not None:
            raise ConfigurationError(
                "--host is MySQL's; on PostgreSQL pg_hba.conf says who may come from where"
            )
        if self.engine is EngineName.POSTGRES and self.kill_if_idle:
            raise ConfigurationError(
                "--kill-if-idle is MySQL's; PostgreSQL looks and terminates in one statement"
            )
        if self.engine is EngineName.MYSQL and self.reserved:
            raise ConfigurationError(
                "--reserved is PostgreSQL's; on MySQL CONNECTION_ADMIN brings a slot"
            )


def usual_product(engine: EngineName) -> Product:
    """The product that is assumed where none is named: the one that the engine is called after."""
    return _PRODUCTS[engine][0]


def statements(account: Account) -> tuple[str, ...]:
    """Each whole and without the semicolon that would end it, in the order in which an
    administrator runs them.
    """
    return tuple(_postgres(account) if account.engine is EngineName.POSTGRES else _mysql(account))


def script(asked: Iterable[str]) -> str:
    """The statements as the servers' own command-line clients read them."""
    return "\n".join(
        f"DELIMITER //\n{one}//\nDELIMITER ;" if ";" in one else f"{one};" for one in asked
    )


def _postgres(account: Account) -> Iterator[str]:
    name = f'"{account.user}"'
    is_iam = account.auth is Auth.IAM
    yield f"CREATE ROLE {name} LOGIN" + ("" if is_iam else " PASSWORD '…'")
    if is_iam:
        yield f"GRANT rds_iam TO {name}"
    yield f"GRANT pg_read_all_stats TO {name}"
    yield f"GRANT pg_signal_backend TO {name}"
    if account.reserved:
        yield f"GRANT pg_use_reserved_connections TO {name}"


def _mysql(account: Account) -> Iterator[str]:
    name = f"'{account.user}'@'{account.host or '%'}'"
    login = (
        "WITH AWSAuthenticationPlugin AS 'RDS' REQUIRE SSL"
        if account.auth is Auth.IAM
        else "BY '…'"
    )
    yield f"CREATE USER {name} IDENTIFIED {login}"
    yield f"GRANT PROCESS ON *.* TO {name}"
    if not account.kill_if_idle:
        yield f"GRANT {_right_to_kill(account)} TO {name}"
    # performance_schema is off there by default, and the process list tells all
    if account.product not in _MARIADBS:
        yield from _may_read((*_SEES_STATEMENTS, *_SEES_LOCKS), name)
    yield f"GRANT SELECT (User, max_user_connections) ON mysql.user TO {name}"
    if account.kill_if_idle:
        yield from _procedure(account)
        yield f"GRANT EXECUTE ON PROCEDURE {procedure.NAME} TO {name}"


def _right_to_kill(account: Account) -> str:
    if account.product in _WITH_RDS_KILL:
        return "EXECUTE ON PROCEDURE mysql.rds_kill"
    return f"{'CONNECTION ADMIN' if account.product in _MARIADBS else 'CONNECTION_ADMIN'} ON *.*"


def _may_read(tables: Iterable[str], name: str) -> Iterator[str]:
    return (f"GRANT SELECT ON performance_schema.{table} TO {name}" for table in tables)


def _procedure(account: Account) -> Iterator[str]:
    """The procedure, with the rights of a role: nobody can log in as one, and to nobody else is it
    granted.
    """
    is_mariadb = account.product in _MARIADBS
    yield f"CREATE ROLE IF NOT EXISTS {_DEFINER}"
    yield f"GRANT PROCESS ON *.* TO {_DEFINER}"
    yield f"GRANT {_right_to_kill(account)} TO {_DEFINER}"
    if not is_mariadb:
        yield from _may_read(_SEES_STATEMENTS, _DEFINER)
    yield f"CREATE DATABASE IF NOT EXISTS {procedure.SCHEMA}"
    yield f"DROP PROCEDURE IF EXISTS {procedure.NAME}"
    # Who has set a role may name it as the definer without a right that RDS does not give
    if is_mariadb:
        yield f"SET ROLE {_DEFINER}"
    yield procedure.create(
        definer="CURRENT_ROLE" if is_mariadb else f"{_DEFINER}@'%'",
        kill="CALL mysql.rds_kill(victim)" if account.product in _WITH_RDS_KILL else "KILL victim",
        protected=PROVIDER_ACCOUNTS,
        least_idle=account.least_idle,
        is_mariadb=is_mariadb,
    )
    if is_mariadb:
        yield "SET ROLE NONE"
    yield f"GRANT EXECUTE ON PROCEDURE {procedure.NAME} TO {_DEFINER}"
