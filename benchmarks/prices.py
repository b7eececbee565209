"""What a month of AWS costs at list prices: us-east-1, in dollars, free tiers not subtracted. Pure.

The figures are those of AWS's pricing pages for CloudWatch, Lambda, SQS, EventBridge and Secrets
Manager, as public guides of 2026 quote them. AWS's own calculator takes precedence over them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

# Hours in a month, as AWS counts
HOURS = 730

# How many at which price each, then the next tier
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

# Requests to an empty queue: each of Lambda's five pollers waits for 20 seconds
POLLS = 5 * 3 * 60 * HOURS


def tiered(amount: float, tiers: Tiers) -> float:
    """The price of this many, the first of them at the first tier's price."""
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
    # Stored for a month
    log_gb: float
    secrets: int = 0
    secret_reads: float = 0.0

    def bill(self) -> dict[str, float]:
        """The month's cost by item. The messages of an invocation are received in one call and
        deleted in one.
        """
        return {
            "metrics": tiered(self.metrics, METRIC),
            "function": self.gb_seconds * GB_SECOND + self.invocations * INVOCATION,
            "log": self.log_gb * (LOG_GB + KEPT_GB),
            "queue": (self.sent + 2 * self.invocations + POLLS) * QUEUE_REQUEST,
            "alarms and dashboard": self.alarms * ALARM + DASHBOARD,
            "schedule": self.schedules * SCHEDULE,
            "secrets": self.secrets * SECRET + self.secret_reads * SECRET_READ,
        }
