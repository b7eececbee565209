"""What the reaper may see and do, and whether its target is the database itself."""

from __future__ import annotations

from collections.abc import Iterator

from reaper.advice.base import (
    AWS_MANUAL,
    MYSQL_MANUAL,
    POSTGRES_MANUAL,
    Check,
    Finding,
    Rule,
    Seen,
    Severity,
)
from reaper.client.kept import is_proxy
from reaper.client.target import Auth
from reaper.model import KillMethod, SweepWarning


def _blind(seen: Seen) -> Iterator[Finding]:
    if not seen.snapshot.blind:
        return
    yield Finding(
        Rule.BLIND,
        Severity.HIGH,
        f"{seen.snapshot.used} connections counted; what the others do is hidden from "
        f"{seen.account}",
        "The account cannot see the sessions of others, so every sweep ends with the error blind.",
        f"GRANT {'pg_read_all_stats' if seen.is_postgres else 'PROCESS ON *.*'} TO {seen.grantee};",
        _PREDEFINED_ROLES
        if seen.is_postgres
        else f"{MYSQL_MANUAL}privileges-provided.html#priv_process",
    )


def _no_right_to_terminate(seen: Seen) -> Iterator[Finding]:
    if seen.is_postgres:
        may, right, source = seen.settings.get("can_signal"), "pg_signal_backend", _PREDEFINED_ROLES
    elif seen.can_grant_connection_admin:
        right, source = seen.connection_admin
        may, right = seen.method is not None, f"{right} ON *.*"
    else:
        may, right = seen.method is not None, "EXECUTE ON PROCEDURE mysql.rds_kill"
        source = f"{AWS_MANUAL}mysql-stored-proc-ending.html"
    if may is False:
        yield Finding(
            Rule.NO_RIGHT_TO_TERMINATE,
            Severity.HIGH,
            f"{seen.account} may terminate nobody's sessions but its own",
            "The reaper can report here, and nothing else.",
            f"GRANT {right} TO {seen.grantee};",
            source,
        )


def _own_account_shared(seen: Seen) -> Iterator[Finding]:
    if SweepWarning.OWN_ACCOUNT_SHARED in seen.snapshot.warnings:
        yield Finding(
            Rule.OWN_ACCOUNT_SHARED,
            Severity.HIGH,
            f"others are logged in as {seen.account}",
            "Sessions of the reaper's own account are all spared, and these are the "
            "application's. Give the reaper an account of its own, which the SQL that the command "
            "prints makes, and let the target's user be that.",
            _grants_command(seen),
            f"{POSTGRES_MANUAL}sql-createrole.html"
            if seen.is_postgres
            else f"{MYSQL_MANUAL}create-user.html",
        )


def _grants_command(seen: Seen) -> str:
    """The command that prints the SQL of another account on this server, with the options that
    this one was made with.
    """
    flavour = _flavour(seen)
    options = (
        f"--engine {seen.snapshot.engine}",
        f"--flavour {flavour}" if flavour else "",
        f"--user {_ANOTHER}" if seen.account == _USUAL else "",
        "--auth iam" if flavour and seen.auth is Auth.IAM else "",
        "--kill-if-idle" if seen.method is KillMethod.KILL_IF_IDLE else "",
        "--reserved"
        if seen.is_postgres and not flavour and seen.settings.get("can_use_reserved")
        else "",
    )
    return " ".join(("reaper grants", *filter(None, options)))


def _flavour(seen: Seen) -> str:
    """What `reaper grants` calls this server; empty for the engine's own product."""
    if seen.snapshot.flavour.is_aurora:
        return "aurora"
    return "-".join(["rds"] * seen.is_managed + ["mariadb"] * seen.is_mariadb)


def _target_is_proxy(seen: Seen) -> Iterator[Finding]:
    if is_proxy(seen.host):
        yield Finding(
            Rule.TARGET_IS_PROXY,
            Severity.HIGH,
            f"host = {seen.host}",
            "Behind the proxy the reaper sees and ends the proxy's pooled connections. Let the "
            "target's host be the endpoint of the instance itself, which the command shows, and "
            "put the proxy's addresses into protect_hosts.",
            f"aws rds describe-db-proxy-targets --db-proxy-name {seen.host.split('.')[0]}",
            f"{AWS_MANUAL}rds-proxy-connections.html",
        )


# The account that the command makes by default, and another for where that one is taken.
_USUAL, _ANOTHER = "reaper", "reaper_own"

_PREDEFINED_ROLES = f"{POSTGRES_MANUAL}predefined-roles.html"

CHECKS: tuple[Check, ...] = (_blind, _no_right_to_terminate, _own_account_shared, _target_is_proxy)
