"""The shared client: connections that survive a freeze. Stands alone and ships as the Lambda
layer.
"""

from reaper.client.attempt import OutcomeUnknown
from reaper.client.credentials import CredentialsUnavailable
from reaper.client.database import Database
from reaper.client.deadline import DeadlineExceeded
from reaper.client.drivers.connection import Result
from reaper.client.events import Event, EventKind
from reaper.client.fields import ConfigurationError
from reaper.client.kept import Settings
from reaper.client.tokens import DDL as TOKEN_TABLE
from reaper.client.transaction import Transaction, TransactionEnded, TransactionLeftOpen

__all__ = [
    "TOKEN_TABLE",
    "ConfigurationError",
    "CredentialsUnavailable",
    "Database",
    "DeadlineExceeded",
    "Event",
    "EventKind",
    "OutcomeUnknown",
    "Result",
    "Settings",
    "Transaction",
    "TransactionEnded",
    "TransactionLeftOpen",
]
