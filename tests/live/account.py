"""The reaper's account, made by running what `reaper grants` prints as its readers would; gone
again afterwards.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import closing, contextmanager, redirect_stdout

from lab.servers import Server
from reaper import cli
from reaper.report import Report
from tests.harness import settle, sweep

# The tests' servers have a reaper of their own
USER = "reaper_granted"
ROLE = "reaper_killer"
BY_PROCEDURE = ("--kill-if-idle", "--least-idle", "0s")
MASTER = "imitated_master"

# What RDS gives its customers' administrator, as far as this server knows it: MySQL 8.4 and later
# spell the last but one SET_ANY_DEFINER, MariaDB has neither. Source: "Master user account
# privileges" in the RDS user guide.
RDS_MASTER = """
    SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, RELOAD, PROCESS, REFERENCES, INDEX, ALTER,
    SHOW DATABASES, CREATE TEMPORARY TABLES, LOCK TABLES, EXECUTE, REPLICATION SLAVE,
    REPLICATION CLIENT, CREATE VIEW, SHOW VIEW, CREATE ROUTINE, ALTER ROUTINE, CREATE USER, EVENT,
    TRIGGER, CREATE ROLE, DROP ROLE, APPLICATION_PASSWORD_ADMIN, ROLE_ADMIN,
    SET_USER_ID, SET_ANY_DEFINER, XA_RECOVER_ADMIN
"""


def printed(*options: str) -> str:
    """What `reaper grants` prints."""
    with redirect_stdout(io.StringIO()) as said:
        cli.app(["grants", *options], standalone_mode=False)
    return said.getvalue()


def split(script: str) -> list[str]:
    """The statements of a script, as the mysql client finds them: DELIMITER says what ends them."""
    delimiter, found, begun = ";", list[str](), ""
    for line in script.splitlines(keepends=True):
        if line.startswith("DELIMITER "):
            delimiter = line.split()[1]
            continue
        begun += line
        if begun.rstrip().endswith(delimiter):
            found.append(begun.rstrip().removesuffix(delimiter))
            begun = ""
    assert not begun.strip(), f"nothing ends {begun!r}"
    return found


def flavour(server: Server, managed: bool) -> str:
    return {"mariadb": "rds-mariadb"}.get(server.flavour, "rds") if managed else server.flavour


@contextmanager
def granted(
    server: Server, *options: str, managed: bool = False, without: str | None = None
) -> Iterator[list[str]]:
    """An account with exactly the printed grants, less the one statement that contains `without`.

    `managed`: as on RDS, printed for it and run by an administrator who may do no more than RDS
    lets its customers.
    """
    script = printed(
        "--engine", server.engine, "--flavour", flavour(server, managed), "--user", USER, *options
    )
    statements = split(script.replace("'…'", f"'{server.password}'"))
    if without:
        (left_out,) = [statement for statement in statements if without in statement]
        statements.remove(left_out)
    drop(server)
    try:
        administrator = master(server) if managed and server.own else server.root
        with closing(server.connect(administrator, server.home)) as connection:
            run = server.kind.client(connection, administrator).run
            for statement in statements:
                run(statement)
        yield statements
    finally:
        drop(server)


def master(server: Server) -> str:
    """An administrator as RDS has one."""
    if server.engine == "postgres":
        server.query(f"CREATE ROLE {MASTER} LOGIN CREATEROLE")
        server.query("CREATE ROLE rds_iam")
        server.query(
            f"GRANT pg_read_all_stats, pg_signal_backend, rds_iam TO {MASTER} WITH ADMIN OPTION"
        )
    else:
        known = {row[0].upper() for row in server.query("SHOW PRIVILEGES")}
        rights = ", ".join(
            right for right in map(str.strip, RDS_MASTER.split(",")) if right in known
        )
        server.query(f"CREATE USER {MASTER}@'%'")
        server.query(f"GRANT {rights} ON *.* TO {MASTER}@'%' WITH GRANT OPTION")
    return MASTER


def drop(server: Server) -> None:
    if server.engine == "postgres":
        made = [
            f"ROLE IF EXISTS {role}"
            for role in (USER, MASTER, *(["rds_iam"] if server.own else []))
        ]
    else:
        users = [f"USER IF EXISTS {user}@'%'" for user in (USER, MASTER)]
        made = ["DATABASE IF EXISTS reaper", f"ROLE IF EXISTS {ROLE}", *users]
    for one in made:
        server.query(f"DROP {one}")


def swept(server: Server, sees_fractions: bool = True) -> Report:
    settle(server, sees_fractions)
    return sweep(server, USER, idle_seconds=0, allow_users=["app"]).run()


def unavoidable(server: Server) -> set[str]:
    """What no grant can help against on this server."""
    if server.flavour == "mariadb":
        return {"named_locks_unseen"}
    return set() if has_performance_schema(server) else {"named_locks_unseen", "idle_upper_bound"}


def has_performance_schema(server: Server) -> bool:
    return bool(server.query("SELECT @@GLOBAL.performance_schema")[0][0])
