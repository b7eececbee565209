"""The two drivers, loaded only when a target of that engine is opened."""

from __future__ import annotations

from importlib import import_module

from reaper.client.drivers.base import Driver
from reaper.client.target import EngineName


def driver_for(engine: EngineName) -> Driver:
    """The driver of an engine. The import happens here: it costs 85 to 300 ms on a cold start."""
    module = import_module(f"reaper.client.drivers.{engine.value}")
    driver: Driver = module.DRIVER
    return driver
