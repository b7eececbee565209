"""Targets for the lab's servers, as REAPER_TARGETS names them."""

from __future__ import annotations

from typing import Any

from lab.servers import Server


def target(server: Server, user: str = "reaper", **more: Any) -> dict[str, Any]:
    """An entry of REAPER_TARGETS for a test server."""
    found = {
        "name": server.name,
        "engine": server.engine,
        "host": server.host,
        "port": server.port,
        "user": user,
    }
    if server.password:
        found["password"] = server.password
    if server.engine == "postgres":
        found["database"] = "shop"
    return found | dict(server.options) | more
