"""What a month of AWS costs by its list: us-east-1, in dollars, free tiers not subtracted. Pure.

The figures are those of AWS's pricing pages for CloudWatch, Lambda, SQS, EventBridge and Secrets
Manager, as public guides of 2026 quote them; what AWS's own calculator says today goes over them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

# In a month, as AWS counts
HOURS = 730

# How many for how much each, then the next
Tiers = Sequence[tuple[float, float]]

METRIC: Tiers = ((10_000, 0.30), (240_000, 0.10), (750_000, 0.05), (inf, 0.02))
ALARM, DASHBOARD = 0.10, 3.00
# arm64
GB_SECOND, INVOCATION = 0.0000133334, 0.20 / 1e6
# FIFO, up to 64 KB
QUEUE_REQUEST = 0.50 / 1e6
SCHEDULE = 1.00 / 1e6
LOG_GB, KEPT_GB = 0.50, 0.03
SECRET, SECRET_READ = 0.40, 0.05 / 10_000

# Of an empty queue: Lambda's five pollers wait for 20 seconds each
POLLS = 5 * 3 * 60 * HOURS


def tiered(amount: float, tiers: Tiers) -> float:
    """What so many cost, the first of them at the first price."""
    total = 0.0
    for size, price in tiers:
        total += min(amount, size) * price
        amount -= min(amount, size)
    return total


@dataclass(frozen=True)
class Usage:
    """What a stack uses in a month."""

    metrics: int
    alarms: int
    gb_seconds: float
    invocations: float
    # Calls that put messages into the queue
    sent: float
    schedules: float
    # Kept for as long
    log_gb: float
    secrets: int = 0
    secret_reads: float = 0.0

    def bill(self) -> dict[str, float]:
        """By item. An invocation's messages are received in a call, and deleted in one."""
        return {
            "metrics": tiered(self.metrics, METRIC),
            "function": self.gb_seconds * GB_SECOND + self.invocations * INVOCATION,
            "log": self.log_gb * (LOG_GB + KEPT_GB),
            "queue": (self.sent + 2 * self.invocations + POLLS) * QUEUE_REQUEST,
            "alarms and dashboard": self.alarms * ALARM + DASHBOARD,
            "schedule": self.schedules * SCHEDULE,
            "secrets": self.secrets * SECRET + self.secret_reads * SECRET_READ,
        }
