"""Real database servers for the tests, and the sessions to fill them with."""

from .base import Client, Connection, Server, Unavailable, free_port, until
from .catalogue import NAMES, elsewhere, start
from .frozen import Frozen
from .proxy import Proxy
from .sessions import Sessions

__all__ = [
    "NAMES",
    "Client",
    "Connection",
    "Frozen",
    "Proxy",
    "Server",
    "Sessions",
    "Unavailable",
    "elsewhere",
    "free_port",
    "start",
    "until",
]
