"""Real database servers for tests, benchmarks and the demo, and the sessions to fill them with."""

from .base import Client, Connection, Server, Unavailable, free_port, until
from .catalogue import NAMES, elsewhere, start
from .proxy import Proxy
from .sessions import Sessions

__all__ = [
    "NAMES",
    "Client",
    "Connection",
    "Proxy",
    "Server",
    "Sessions",
    "Unavailable",
    "elsewhere",
    "free_port",
    "start",
    "until",
]
