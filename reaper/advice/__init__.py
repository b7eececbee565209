"""What to change about a server's settings, why, and by which statement: pure, from settings to
findings.
"""

from __future__ import annotations

from collections.abc import Iterator

from reaper.advice import mysql, postgres, proxy, rights, slots
from reaper.advice.base import Advice, Finding, Rule, Seen, Severity
from reaper.advice.proxy import Proxy

__all__ = ["Advice", "Finding", "Proxy", "Rule", "Seen", "Severity", "advise", "advise_proxy"]


def advise(seen: Seen) -> tuple[Finding, ...]:
    """Everything to change about a server, the most severe first; nothing where it is set well."""
    checks = (
        *rights.CHECKS,
        *(postgres.CHECKS if seen.is_postgres else mysql.CHECKS),
        *slots.CHECKS,
    )
    return _in_order(finding for check in checks for finding in check(seen))


def advise_proxy(settings: Proxy) -> tuple[Finding, ...]:
    """The same for an RDS Proxy."""
    return _in_order(finding for check in proxy.CHECKS for finding in check(settings))


def _in_order(findings: Iterator[Finding]) -> tuple[Finding, ...]:
    severities, rules = list(Severity), list(Rule)
    return tuple(
        sorted(
            findings, key=lambda found: (severities.index(found.severity), rules.index(found.rule))
        )
    )
