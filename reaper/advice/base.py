"""What advice consists of, and what several of its rules share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from reaper.client.kept import DEFAULTS
from reaper.client.target import Auth, EngineName
from reaper.model import Flavour, KillMethod, Snapshot
from reaper.report import SweepError, span

# Seconds. No function uses its connection again after `max_idle`, so a server may end it slightly
# later. Beyond half an hour an idle connection wastes its slot.
IDLE = round(1.1 * DEFAULTS.max_idle)
LONGEST_IDLE = 1800

POSTGRES_MANUAL = "https://www.postgresql.org/docs/current/"
MYSQL_MANUAL = "https://dev.mysql.com/doc/refman/8.4/en/"
MARIADB_MANUAL = "https://mariadb.com/kb/en/"
AWS_MANUAL = "https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/"


class Severity(StrEnum):
    """How urgent a finding is."""

    # The database fills up, or the reaper cannot help it.
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


class Rule(StrEnum):
    """What is checked, in the order in which findings of one severity are reported."""

    BLIND = "blind"
    NO_RIGHT_TO_TERMINATE = "no_right_to_terminate"
    OWN_ACCOUNT_SHARED = "own_account_shared"
    TARGET_IS_PROXY = "target_is_proxy"
    WAIT_TIMEOUT = "wait_timeout"
    INTERACTIVE_TIMEOUT = "interactive_timeout"
    IDLE_SESSION_TIMEOUT = "idle_session_timeout"
    IDLE_IN_TRANSACTION_SESSION_TIMEOUT = "idle_in_transaction_session_timeout"
    TRANSACTION_TIMEOUT = "transaction_timeout"
    TCP_KEEPALIVES = "tcp_keepalives"
    MAX_CONNECTIONS = "max_connections"
    CONNECTION_LIMIT = "connection_limit"
    RESERVED_SLOT = "reserved_slot"
    PERFORMANCE_SCHEMA = "performance_schema"
    IDLE_UPPER_BOUND = "idle_upper_bound"
    NAMED_LOCKS_UNSEEN = "named_locks_unseen"
    TRANSACTIONS_UNSEEN = "transactions_unseen"
    USER_LIMITS_UNSEEN = "user_limits_unseen"
    PROXY_IDLE_CLIENT_TIMEOUT = "proxy_idle_client_timeout"
    PROXY_BORROW_TIMEOUT = "proxy_borrow_timeout"
    PROXY_MAX_CONNECTIONS = "proxy_max_connections"
    PROXY_PINNING = "proxy_pinning"


@dataclass(frozen=True)
class Finding:
    """One thing to change, with the evidence for it and the page that says so.

    `statement` is SQL, an entry of a parameter group or of an option file, or a command.
    """

    rule: Rule
    severity: Severity
    evidence: str
    advice: str
    statement: str
    source: str

    def to_json(self) -> dict[str, str]:
        """The finding as an answer carries it."""
        return {
            "rule": self.rule,
            "severity": self.severity,
            "evidence": self.evidence,
            "advice": self.advice,
            "statement": self.statement,
            "source": self.source,
        }


@dataclass(frozen=True)
class Advice:
    """What to change about one target, or the error that kept it from being found out."""

    target: str
    engine: str
    flavour: Flavour | None = None
    findings: tuple[Finding, ...] = ()
    error: SweepError | None = None

    def to_json(self) -> dict[str, object]:
        """The advice as an answer carries it."""
        return {
            "target": self.target,
            "engine": self.engine,
            "flavour": self.flavour,
            "findings": [finding.to_json() for finding in self.findings],
            "error": {"kind": self.error.kind, "message": self.error.message}
            if self.error
            else None,
        }


@dataclass(frozen=True)
class Seen:
    """What was seen of a server, by which advice is given.

    `settings` are the server's, by its own names, times in seconds; what the server did not tell is
    missing. `clients` are the users and databases of the connected sessions, except those of the
    reaper, the provider and superusers. `fitting` is the max_connections that fits into the memory,
    where the memory is known.
    """

    settings: Mapping[str, Any]
    snapshot: Snapshot
    account: str
    host: str
    auth: Auth = Auth.PASSWORD
    method: KillMethod | None = None
    clients: frozenset[tuple[str, str | None]] = frozenset()
    fitting: int | None = None

    @property
    def is_postgres(self) -> bool:
        """Whether it is PostgreSQL, Aurora's included."""
        return self.snapshot.engine is EngineName.POSTGRES

    @property
    def is_mariadb(self) -> bool:
        """Whether it is MariaDB."""
        return self.snapshot.flavour is Flavour.MARIADB

    @property
    def is_managed(self) -> bool:
        """Whether its settings come from a parameter group, as on RDS."""
        return bool(self.settings.get("managed"))

    @property
    def can_grant_connection_admin(self) -> bool:
        """Whether its administrator can grant that right. RDS's own has it on Aurora only."""
        return not self.is_managed or self.snapshot.flavour is Flavour.AURORA_MYSQL

    @property
    def users(self) -> list[str]:
        """The names of the connected users, sorted."""
        return sorted({user for user, _ in self.clients})

    @property
    def grantee(self) -> str:
        """The reaper's account as SQL names it."""
        return self.quoted(self.account)

    def quoted(self, user: str) -> str:
        """A user as SQL names it; on MySQL with the host % that accounts usually have."""
        if self.is_postgres:
            return '"' + user.replace('"', '""') + '"'
        return "'" + user.replace("\\", "\\\\").replace("'", "''") + "'@'%'"

    @property
    def connection_admin(self) -> tuple[str, str]:
        """The right to KILL, which includes one slot beyond max_connections; and the page that says
        so.
        """
        if self.is_mariadb:
            return "CONNECTION ADMIN", f"{MARIADB_MANUAL}grant/#connection-admin"
        return "CONNECTION_ADMIN", f"{MYSQL_MANUAL}privileges-provided.html#priv_connection-admin"


Check = Callable[[Seen], Iterator[Finding]]


def is_slightly_above(seconds: float) -> bool:
    """Whether a limit on idle time ends only connections that no function will use again."""
    return DEFAULTS.max_idle < seconds <= LONGEST_IDLE


def idle_severity(seconds: float) -> Severity:
    """How urgent it is to change a limit on idle time; 0 means no limit."""
    return Severity.HIGH if not seconds or seconds > 2 * LONGEST_IDLE else Severity.MEDIUM


def idle_advice(seconds: float) -> str:
    """What a limit on idle time does to frozen functions and to the retry client; 0 means none."""
    again = span(DEFAULTS.max_idle)
    if 0 < seconds <= DEFAULTS.max_idle:
        return (
            f"The retry client uses a connection again for {again}; one that ends earlier has to "
            "be opened anew."
        )
    kept = f"for {span(seconds)}" if seconds else "for ever"
    return (
        f"A frozen function's connection holds its slot {kept}. The retry client uses none again "
        f"after {again}; a limit slightly above that ends only what is left behind."
    )
