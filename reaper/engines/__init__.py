"""What only the reaper asks of a server, one package for each engine."""

from __future__ import annotations

from importlib import import_module

from reaper.client.target import EngineName
from reaper.engines.base import Engine


def engine_for(name: EngineName) -> Engine:
    """The engine of this name; its driver is loaded when it is first needed."""
    engine: Engine = import_module(f"reaper.engines.{name.value}.server").ENGINE
    return engine
